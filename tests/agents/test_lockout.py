from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents.lockout import Lockout

from .memory import NOON

RULE = Lockout(failures=3, within=timedelta(minutes=10), duration=timedelta(minutes=15))


@pytest.mark.parametrize(
    ("failures", "now", "locked"),
    [
        ([], 0, False),
        ([0, 1], 1, False),
        ([0, 1, 2], 2, True),
        ([2, 0, 1], 2, True),  # in whatever order they are read
        ([0, 1, 2], 16, True),
        ([0, 1, 2], 17, False),  # 15 minutes from the third
        ([0, 5, 10], 10, True),  # just within
        ([0, 5, 11], 11, False),
        ([0, 5, 11, 12], 12, True),  # the latest three count
        ([0, 1, 2, 14], 16, True),
        ([0, 0, 0], 0, True),  # at one instant
        ([5, 6, 7], 0, False),  # the clock was set back: nobody is locked for ever
    ],
)
def test_locked(failures: list[int], now: int, locked: bool) -> None:
    at = [NOON + timedelta(minutes=m) for m in failures]
    assert RULE.locked(at, NOON + timedelta(minutes=now)) is locked


def test_one_failure_can_be_enough() -> None:
    rule = Lockout(1, timedelta(minutes=1), timedelta(minutes=1))
    assert rule.locked([NOON], NOON)
    assert not rule.locked([NOON], NOON + rule.duration)


@given(st.lists(st.integers(-3600, 0), max_size=12))
def test_what_is_forgotten_makes_no_difference(seconds: list[int]) -> None:
    """The store keeps failures for ``memory`` and drops the rest."""
    times = [NOON + timedelta(seconds=s) for s in seconds]
    kept = [t for t in times if NOON - t <= RULE.memory]
    assert RULE.locked(times, NOON) is RULE.locked(kept, NOON)
