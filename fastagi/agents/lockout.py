"""When too many wrong PINs lock an agent or an extension. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Lockout:
    failures: int
    within: timedelta
    duration: timedelta

    @property
    def memory(self) -> timedelta:
        """How far back failures still matter."""
        return self.within + self.duration

    def locked(self, failed_at: Sequence[datetime], now: datetime) -> bool:
        """Whether the failures at these moments lock at ``now``. The order does not matter.

        Locked for ``duration`` from the failure that was the ``failures``-th within ``within``.
        """
        times = sorted(failed_at)
        for first, last in zip(times, times[self.failures - 1 :], strict=False):
            if last - first <= self.within and timedelta(0) <= now - last < self.duration:
                return True
        return False
