"""The time of day, and how far it was set while this process has lived.

A machine's clock can be set forward or back by hours: by hand, by a time service after a start
without one, by a restored virtual machine. What is written down carries the time of day. How long
something lasted is not the difference of two such times when the clock was set in between.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# Smaller steps are those of a time service that keeps the clock right.
LARGE = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Step:
    """The clock was set: what it showed at the last look before, and ``by`` how many seconds."""

    before: float  # seconds since 1970, as the clock was then
    by: float

    @property
    def after(self) -> float:
        return self.before + self.by


def _steady() -> float:
    """Seconds that only go forward, and also count while the machine sleeps, where that can be
    had."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Clock:
    """``now()`` is called by the loop's thread, ``current`` by any."""

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _steady
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._last = wall()
        self._offset = self._last - steady()
        self.steps: tuple[Step, ...] = ()
        # Called with the seconds of each step; what they raise is theirs.
        self.stepped: list[Callable[[float], None]] = []

    def __call__(self) -> datetime:
        return self.now()

    def now(self) -> datetime:
        """Aware, in UTC. Notices whether the clock was set since it was asked last."""
        wall = self._wall()
        offset = wall - self._steady()
        by, self._offset = offset - self._offset, offset
        last, self._last = self._last, wall
        if abs(by) >= LARGE:
            # In between the time went on as it does.
            self.steps += (Step(max(last, wall - by), by),)
            for callback in self.stepped:
                callback(by)
        return datetime.fromtimestamp(wall, UTC)

    def current(self, then: datetime) -> datetime:
        """``then``, written down earlier, on the clock as it is set now: differences from
        ``now()`` are what really went by, as far as this process has lived through it.

        After a step back a time can be of before it or of after it. It is taken for one of after
        it, unless that would still be to come.
        """
        if not self.steps:
            return then
        at = then.timestamp()
        for step in self.steps:
            if step.by > 0:
                if at <= step.before:
                    at += step.by
            elif at < step.after or at > self._last:
                at += step.by
        return datetime.fromtimestamp(at, UTC) if at != then.timestamp() else then


def said(seconds: float) -> str:
    """``1 day, 0:00:05``, for the log."""
    return str(timedelta(seconds=round(abs(seconds))))
