"""Codes at phones and commands at the other door, racing, while everything fails."""

import pytest
from hypothesis import strategies as st

from tests.truth.conftest import Trials
from tests.truth.program import asks, dials, programs

pytestmark = pytest.mark.timeout(1800)


def test_codes_and_commands_in_trouble(trials: Trials) -> None:
    deeds = st.one_of(dials(), dials(), asks())
    trials(programs(deeds, length=40, trouble=2))
