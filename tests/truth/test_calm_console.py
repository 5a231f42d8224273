"""Changes at Asterisk's own console, one at a time."""

import pytest
from hypothesis import strategies as st

from tests.truth.conftest import Trials
from tests.truth.program import consoles, dials, programs

pytestmark = pytest.mark.timeout(1800)


def test_the_console_while_all_is_calm(trials: Trials) -> None:
    """Each change has its one event, with source asterisk."""
    deeds = st.one_of(dials(), consoles(calm=True), consoles(calm=True))
    trials(programs(deeds, length=30, trouble=1))
