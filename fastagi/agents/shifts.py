"""Times of day in a place with summer time: when it was last 18:30, and when it is next. Pure."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo

_DAY = timedelta(days=1)


def _at(day: date, of_day: time, zone: tzinfo) -> datetime:
    """In UTC, as times in one zone compare by what their clocks show.

    A time that the clocks skip in spring is as long after midnight as on other days (02:30 is
    03:30), one that comes twice in autumn is the first of the two (PEP 495, fold=0).
    """
    return datetime.combine(day, of_day, zone).astimezone(UTC)


def latest(of_day: str, now: datetime, zone: tzinfo) -> datetime:
    """When it was last so late (``18:30``) in ``zone``, now included; in UTC."""
    wanted = time.fromisoformat(of_day)
    # Tomorrow's midnight may be over already where the clocks are put back across it.
    day = now.astimezone(zone).date() + _DAY
    while (found := _at(day, wanted, zone)) > now:
        day -= _DAY
    return found


def upcoming(of_day: str, now: datetime, zone: tzinfo) -> datetime:
    """When it is so late the next time, now not included; in UTC."""
    wanted = time.fromisoformat(of_day)
    day = now.astimezone(zone).date() - _DAY
    while (found := _at(day, wanted, zone)) <= now:
        day += _DAY
    return found
