"""When a pause is more than its reason allows."""

from datetime import UTC, datetime, timedelta

import pytest

from fastagi.agents.limits import PauseLimit, WhenExceeded, exceeded_at

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
