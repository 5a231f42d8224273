"""How long a pause may last, and what the admin lets time do. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum

from fastagi.agents.commands import PauseReason
from fastagi.agents.shifts import latest


class WhenExceeded(StrEnum):
    """What happens to a pause that lasts longer than its reason allows."""

    WARN = "warn"
    UNPAUSE = "unpause"
    LOGOFF = "logoff"


@dataclass(frozen=True, slots=True)
class PauseLimit:
    """What a pause reason allows: at a time, and all together on one day."""

    max_duration: timedelta | None
    daily_budget: timedelta | None
    when_exceeded: WhenExceeded


@dataclass(frozen=True, slots=True)
class QueuePause:
    """What one queue says of a pause reason, for the agents who have that queue."""

    limit_duration: timedelta | None = None
    automatic_unpause: bool = False  # at the limit; else a warning
    disable_unpause: bool = False  # the agent cannot end it from the phone before the limit


QueuePauses = Mapping[tuple[str, str], QueuePause]  # by the queue's name and the reason's code


@dataclass(frozen=True, slots=True)
class OpenPause:
    """A pause that has not ended."""

    agent: str  # the agent's number
    segment: str  # its id
    reason: PauseReason
    since: datetime


@dataclass(frozen=True, slots=True)
class TimePolicy:
    """The admin's choices of what time does; None: nothing."""

    zone: tzinfo  # where days begin and shifts end
    pause_after: timedelta | None = None  # a phone that is away for so long
    logoff_after: timedelta | None = None
    shift_end: str | None = None  # "18:30": for everybody without a time of their own


def limit_in_queues(
    limit: PauseLimit | None, code: str, queues: Iterable[str], said: QueuePauses
) -> PauseLimit | None:
    """What holds for an agent with these queues: the shortest duration that the reason or one of
    the queues allows, and what is to happen then; ``limit`` is the reason's own."""
    for queue in queues:
        its = said.get((queue, code))
        if its is None or its.limit_duration is None:
            continue
        longest = limit.max_duration if limit else None
        if longest is not None and longest <= its.limit_duration:
            continue
        then = WhenExceeded.UNPAUSE if its.automatic_unpause else WhenExceeded.WARN
        if limit is not None and longest is not None and not its.automatic_unpause:
            then = limit.when_exceeded
        limit = PauseLimit(its.limit_duration, limit.daily_budget if limit else None, then)
    return limit


def locked(pause: OpenPause, now: datetime, queues: Iterable[str], said: QueuePauses) -> bool:
    """Whether the agent may not end this pause from the phone now."""
    for queue in queues:
        its = said.get((queue, pause.reason.code))
        if its is None or not its.disable_unpause:
            continue
        if its.limit_duration is None or now < pause.since + its.limit_duration:
            return True
    return False


def exceeded_event(segment: str) -> str:
    """The id of the event that tells of this pause: written once, whoever finds it, however
    often."""
    return f"{segment}-exceeded"


def exceeded_at(
    limit: PauseLimit, since: datetime, today: datetime, used: timedelta
) -> datetime | None:
    """When a pause that began at ``since`` is more than its reason allows; None: never.

    ``today`` is the last midnight, ``used`` what the agent had used of the day's budget before this
    pause. At the next midnight the day's part begins anew: ask again then.
    """
    ends: list[datetime] = []
    if limit.max_duration is not None:
        ends.append(since + limit.max_duration)
    if limit.daily_budget is not None:
        ends.append(max(since, today) + limit.daily_budget - used)
    return min(ends, default=None)


def start_of_day(now: datetime, zone: tzinfo) -> datetime:
    """The last midnight in ``zone``, in UTC."""
    return latest("00:00", now, zone)
