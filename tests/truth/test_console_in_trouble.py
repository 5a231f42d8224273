"""Changes at Asterisk's own console in the middle of everything else."""

import pytest
from hypothesis import strategies as st

from tests.truth.conftest import Trials
from tests.truth.program import asks, consoles, dials, programs, rests

pytestmark = pytest.mark.timeout(1800)


def test_the_console_in_trouble(trials: Trials) -> None:
    """Whatever fails meanwhile, the store, Asterisk and the events agree afterwards."""
    deeds = st.one_of(dials(), dials(), asks(), consoles(), rests)
    trials(programs(deeds, length=40, trouble=2))
