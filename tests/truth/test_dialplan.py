"""Codes through the real dialplan: what is dialled while the service is away counts, too."""

import pytest
from hypothesis import strategies as st

from tests.truth.conftest import Trials
from tests.truth.program import asks, dials, programs

pytestmark = pytest.mark.timeout(1800)


def test_codes_through_the_dialplan_in_trouble(trials: Trials) -> None:
    deeds = st.one_of(dials(real=True), dials(real=True), asks())
    # Who is asked something would wait for a key that nobody presses.
    changes = {"login": {"already_elsewhere": "move"}}
    trials(programs(deeds, length=30, trouble=2), changes=changes)
