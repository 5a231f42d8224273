"""How long a pause may last, and a shift. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum

from fastagi.agents.commands import PauseReason


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
class OpenPause:
    """A pause that has not ended."""

    agent: str  # the agent's number
    segment: str  # its id
    reason: PauseReason
    since: datetime


def start_of_day(now: datetime, zone: tzinfo) -> datetime:
    """The last midnight in ``zone``."""
    return now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
