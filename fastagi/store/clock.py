"""The clock for what is due later: it never jumps.

A machine's clock is set back or forward: after a start without a battery, by a virtual machine's
host, by hand. What is to be tried again in a minute is then due in a day, or all at once.
"""

import time
from datetime import UTC, datetime


class Clock:
    """Seconds since 1970 as they were at the start, and what has passed since then. Where several
    services share a database, its clock is everybody's: see ``align``."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def time(self) -> float:
        return time.monotonic() + self._offset

    def now(self) -> datetime:
        """Aware, in UTC. Not for what people read: that is the machine's own clock."""
        return datetime.fromtimestamp(self.time(), UTC)

    def align(self, other: float) -> float:
        """From now on as this clock, which shows ``other``. By how many seconds it was off."""
        step = other - self.time()
        self._offset += step
        return step
