from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents.lockout import FIRST_WAIT, LONGEST_WAIT, Lockout, Place, judge

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


# -- what becomes of an attempt

DESK = Place("phone::pjsip/1001", outside=False)
KEYS = DESK.keys("1001")
AT = 1_000_000.0


def test_an_agent_is_locked_at_the_place_alone() -> None:
    failed = {KEYS.own: [AT, AT, AT]}
    assert judge(RULE, KEYS, failed, False, AT).locked == KEYS.own
    assert judge(RULE, KEYS, failed, True, AT).locked == KEYS.own
    for other in (Place("phone::pjsip/1002", outside=False), Place("number:07", outside=True)):
        assert judge(RULE, other.keys("1001"), failed, False, AT).locked == ""
    assert judge(RULE, DESK.keys("1002"), failed, False, AT).locked == ""


@pytest.mark.parametrize(("key", "free"), [(KEYS.place, 3), (KEYS.pool, 6)])
def test_others_wrong_pins_make_an_attempt_wait_longer_and_longer(key: str, free: int) -> None:
    waits: list[float] = []
    failed: list[float] = []
    while not (verdict := judge(RULE, KEYS, {key: failed}, False, AT)).locked:
        waits.append(verdict.at - AT)
        failed.append(verdict.at)
    assert waits[:free] == [0.0] * free
    assert waits[free : free + 2] == [FIRST_WAIT, FIRST_WAIT + 2 * FIRST_WAIT]
    assert waits[-1] <= LONGEST_WAIT
    assert verdict.locked == key
    # Who has proved the PIN here before is not concerned.
    assert judge(RULE, KEYS, {key: failed}, True, AT).at == AT
    # In the end it is forgotten.
    later = AT + RULE.memory.total_seconds() + LONGEST_WAIT
    assert judge(RULE, KEYS, {key: failed}, False, later).at == later


def test_where_nothing_is_known_of_a_caller_only_the_agent_counts() -> None:
    nowhere = Place("", outside=True)
    assert nowhere.keys("1001").counted == ("agent:1001@outside",)
    assert not set(nowhere.keys("1001").counted) & set(nowhere.keys("1002").counted)
