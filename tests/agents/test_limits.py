"""When a pause is more than its reason allows."""

from datetime import UTC, datetime, timedelta

import pytest

from fastagi.agents.commands import PauseReason
from fastagi.agents.limits import (
    OpenPause,
    PauseLimit,
    QueuePause,
    WhenExceeded,
    exceeded_at,
    limit_in_queues,
    locked,
)

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
TODAY = datetime(2026, 11, 22, 0, tzinfo=UTC)
NOON = TODAY + 12 * HOUR


def limit(duration: timedelta | None, budget: timedelta | None) -> PauseLimit:
    return PauseLimit(duration, budget, WhenExceeded.WARN)


@pytest.mark.parametrize(
    ("allowed", "since", "used", "ends"),
    [
        (limit(None, None), NOON, 0 * HOUR, None),
        (limit(45 * MINUTE, None), NOON, 0 * HOUR, NOON + 45 * MINUTE),
        # what was used before counts for the day only
        (limit(45 * MINUTE, None), NOON, 9 * HOUR, NOON + 45 * MINUTE),
        (limit(None, HOUR), NOON, 0 * HOUR, NOON + HOUR),
        (limit(None, HOUR), NOON, 40 * MINUTE, NOON + 20 * MINUTE),
        (limit(None, HOUR), NOON, HOUR, NOON),
        (limit(None, HOUR), NOON, 2 * HOUR, NOON - HOUR),
        # whichever comes first
        (limit(45 * MINUTE, HOUR), NOON, 0 * HOUR, NOON + 45 * MINUTE),
        (limit(45 * MINUTE, HOUR), NOON, 40 * MINUTE, NOON + 20 * MINUTE),
        # begun yesterday: of today's budget only today counts
        (limit(None, HOUR), TODAY - 3 * HOUR, 0 * HOUR, TODAY + HOUR),
        (limit(2 * HOUR, HOUR), TODAY - 3 * HOUR, 0 * HOUR, TODAY - HOUR),
    ],
)
def test_when_a_pause_is_too_long(
    allowed: PauseLimit, since: datetime, used: timedelta, ends: datetime | None
) -> None:
    assert exceeded_at(allowed, since, TODAY, used) == ends


SHORT = 5 * MINUTE
LONG_LIMIT = PauseLimit(HOUR, HOUR, WhenExceeded.LOGOFF)


@pytest.mark.parametrize(
    ("limit", "said", "expected"),
    [
        (None, {}, None),
        (None, {("sales", "1"): QueuePause()}, None),
        (
            None,
            {("sales", "1"): QueuePause(SHORT)},
            PauseLimit(SHORT, None, WhenExceeded.WARN),
        ),
        (
            None,
            {("sales", "1"): QueuePause(SHORT, True)},
            PauseLimit(SHORT, None, WhenExceeded.UNPAUSE),
        ),
        (None, {("billing", "1"): QueuePause(SHORT, True)}, None),
        (None, {("sales", "2"): QueuePause(SHORT, True)}, None),
        (
            LONG_LIMIT,
            {("sales", "1"): QueuePause(SHORT, True)},
            PauseLimit(SHORT, HOUR, WhenExceeded.UNPAUSE),
        ),
        (
            LONG_LIMIT,
            {("sales", "1"): QueuePause(SHORT)},
            PauseLimit(SHORT, HOUR, WhenExceeded.LOGOFF),
        ),
        (LONG_LIMIT, {("sales", "1"): QueuePause(2 * HOUR, True)}, LONG_LIMIT),
        (
            None,
            {("sales", "1"): QueuePause(HOUR), ("support", "1"): QueuePause(SHORT, True)},
            PauseLimit(SHORT, None, WhenExceeded.UNPAUSE),
        ),
        (
            None,
            {("sales", "1"): QueuePause(SHORT, True), ("support", "1"): QueuePause(HOUR)},
            PauseLimit(SHORT, None, WhenExceeded.UNPAUSE),
        ),
    ],
)
def test_the_shortest_limit_of_the_agents_queues_holds(
    limit: PauseLimit | None,
    said: dict[tuple[str, str], QueuePause],
    expected: PauseLimit | None,
) -> None:
    assert limit_in_queues(limit, "1", ["sales", "support"], said) == expected


@pytest.mark.parametrize(
    ("said", "after", "expected"),
    [
        (QueuePause(), 0, False),
        (QueuePause(SHORT), 0, False),
        (QueuePause(disable_unpause=True), 100, True),
        (QueuePause(SHORT, disable_unpause=True), 4, True),
        (QueuePause(SHORT, disable_unpause=True), 5, False),
    ],
)
def test_a_pause_is_locked_until_its_time(said: QueuePause, after: int, expected: bool) -> None:
    began = datetime(2026, 11, 23, 12, tzinfo=UTC)
    pause = OpenPause("4001", "p", PauseReason("1", "lunch"), began)
    now = began + timedelta(minutes=after)
    assert locked(pause, now, ["support", "sales"], {("sales", "1"): said}) is expected
    assert not locked(pause, now, ["billing"], {("sales", "1"): said})
