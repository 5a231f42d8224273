"""The time of day, and whether it was set.

A machine's clock can be set forward or back by hours: by hand, by a time service after a start
without one, by a restored virtual machine. What is written down carries the time of day. How long
something lasted is not the difference of two such times when the clock was set in between.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

# Smaller steps are those of a time service that keeps the clock right.
LARGE = timedelta(seconds=2)
LARGE_SECONDS = LARGE.total_seconds()
# Two clocks are not read in one moment. A process that is stopped between the one and the other,
# for so many seconds, has not seen a clock that was set.
TOGETHER = 0.1
READINGS = 3


@dataclass(frozen=True, slots=True)
class ClockStep:
    """The clock was set by so much; ``before`` is what it showed just before."""

    before: datetime
    by: timedelta


# Seconds that only go forward, and also count while the machine sleeps, where that can be had.
_BOOT = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
_steady: Callable[[], float] = (
    time.monotonic if _BOOT is None else partial(time.clock_gettime, _BOOT)
)


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 as they were when it was made, and from then on without any step."""
    began = time.time() - _steady()
    return lambda: began + _steady()


class Clock:
    """Gives the time of day; ``steps`` are those of the clock that were noticed, by whoever asked
    what time it is."""

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _steady
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        _, self._offset = self._read()
        self.steps: list[ClockStep] = []

    def __call__(self) -> datetime:
        """Aware, in UTC."""
        wall, offset = self._read()
        seconds = offset - self._offset
        self._offset = offset
        now = datetime.fromtimestamp(wall, UTC)
        if abs(seconds) >= LARGE_SECONDS:
            by = timedelta(seconds=seconds)
            self.steps.append(ClockStep(now - by, by))
        return now

    def _read(self) -> tuple[float, float]:
        """The time of day, and how far it is ahead of the other clock: as before, where the two
        cannot be read together."""
        for _ in range(READINGS):
            before = self._steady()
            wall = self._wall()
            if self._steady() - before < TOGETHER:
                return wall, wall - before
        return wall, self._offset


def clock_words(step: timedelta) -> str:
    """``forward by 1 day, 0:00:05``"""
    way = "forward" if step > timedelta() else "back"
    return f"{way} by {timedelta(seconds=round(abs(step).total_seconds()))}"
