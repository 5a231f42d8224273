"""When a shift ends and a day begins, summer time and all."""

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents.limits import start_of_day
from fastagi.agents.shifts import latest, upcoming

PARIS, NEW_YORK = ZoneInfo("Europe/Paris"), ZoneInfo("America/New_York")
HAVANA = ZoneInfo("America/Havana")  # puts its clocks forward, and back, at midnight
KATHMANDU = ZoneInfo("Asia/Kathmandu")
HOUR = timedelta(hours=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "of_day", "now", "last", "following"),
    [
        (UTC, "18:30", "2026-11-22 18:29:59", "2026-11-21 18:30", "2026-11-22 18:30"),
        # now included, and then not again
        (UTC, "18:30", "2026-11-22 18:30", "2026-11-22 18:30", "2026-11-23 18:30"),
        (UTC, "00:00", "2026-11-22 00:00", "2026-11-22 00:00", "2026-11-23 00:00"),
        (UTC, "23:59", "2026-01-01 00:00", "2025-12-31 23:59", "2026-01-01 23:59"),
        (PARIS, "18:30", "2026-11-22 18:00", "2026-11-22 17:30", "2026-11-23 17:30"),
        # yesterday or tomorrow there, today here
        (KATHMANDU, "00:10", "2026-11-22 18:30", "2026-11-22 18:25", "2026-11-23 18:25"),
        (NEW_YORK, "22:00", "2026-11-22 02:00", "2026-11-21 03:00", "2026-11-22 03:00"),
        # 29 March 2026: 02:00 becomes 03:00. The day has 23 hours ...
        (PARIS, "20:00", "2026-03-29 12:00", "2026-03-28 19:00", "2026-03-29 18:00"),
        # ... and no 02:30: as long after midnight as ever
        (PARIS, "02:30", "2026-03-29 01:29", "2026-03-28 01:30", "2026-03-29 01:30"),
        (PARIS, "02:30", "2026-03-29 01:30", "2026-03-29 01:30", "2026-03-30 00:30"),
        # 25 October 2026: 03:00 becomes 02:00. Of two 02:30 the first counts, and it alone
        (PARIS, "02:30", "2026-10-25 00:29", "2026-10-24 00:30", "2026-10-25 00:30"),
        (PARIS, "02:30", "2026-10-25 00:30", "2026-10-25 00:30", "2026-10-26 01:30"),
        (PARIS, "02:30", "2026-10-25 01:30", "2026-10-25 00:30", "2026-10-26 01:30"),
        # midnight that is skipped, and midnight that comes twice
        (HAVANA, "00:00", "2026-03-08 05:00", "2026-03-08 05:00", "2026-03-09 04:00"),
        (HAVANA, "00:00", "2026-11-01 04:30", "2026-11-01 04:00", "2026-11-02 05:00"),
        (HAVANA, "00:30", "2026-11-01 05:10", "2026-11-01 04:30", "2026-11-02 05:30"),
    ],
)
def test_times_of_day(zone: tzinfo, of_day: str, now: str, last: str, following: str) -> None:
    assert latest(of_day, utc(now), zone) == utc(last)
    assert upcoming(of_day, utc(now), zone) == utc(following)


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
    st.sampled_from([UTC, PARIS, NEW_YORK, HAVANA, KATHMANDU, ZoneInfo("Australia/Lord_Howe")]),
    st.times(),
)
def test_a_time_of_day_comes_once_a_day(now: datetime, zone: tzinfo, at: object) -> None:
    of_day = str(at)[:5]
    last, following = latest(of_day, now, zone), upcoming(of_day, now, zone)
    assert last <= now < following
    assert 23 * HOUR <= following - last <= 25 * HOUR
    assert latest(of_day, following, zone) == following
    assert upcoming(of_day, last, zone) == following
    assert start_of_day(now, zone) <= now
    assert now - start_of_day(now, zone) <= 25 * HOUR


def test_the_day_begins_where_the_admin_is() -> None:
    assert start_of_day(utc("2026-11-22 22:59"), PARIS) == utc("2026-11-21 23:00")
    assert start_of_day(utc("2026-11-22 23:00"), PARIS) == utc("2026-11-22 23:00")
    assert start_of_day(utc("2026-11-22 04:59"), NEW_YORK) == utc("2026-11-21 05:00")
