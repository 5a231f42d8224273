"""What wrong PINs cost: a caller's own lock, those of others slow down. Pure.

A PIN has few digits, so guesses must be few. They are counted per agent and place: after too many
wrong ones the agent is locked at that place, and nowhere else. All wrong ones typed at one place,
and all typed for one agent from inside or from outside, make the next attempts wait, longer and
longer: so neither guessing one PIN from many places nor many agents' PINs from one place gets far.
An agent who has proved the PIN at a place before does not wait there: nobody else's wrong PINs
keep agents from their own desk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

FIRST_WAIT = 2.0  # seconds; twice as long for each further wrong PIN
LONGEST_WAIT = 10.0  # seconds that a caller waits for an attempt; more, and it is refused
USUAL_FOR = 30 * 86_400.0  # seconds that a place stays the agent's own after a right PIN


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
        return self.locked_at([(at - now).total_seconds() for at in failed_at], 0.0)

    def locked_at(self, failed_at: Sequence[float], now: float) -> bool:
        """The same with seconds on any clock."""
        times = sorted(failed_at)
        within, duration = self.within.total_seconds(), self.duration.total_seconds()
        for first, last in zip(times, times[self.failures - 1 :], strict=False):
            if last - first <= within and 0 <= now - last < duration:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a PIN is typed. ``name``: a phone's extension or a caller's number, with its kind in
    front; "" where nothing is known, which is nobody's place and shared with nobody."""

    name: str
    outside: bool

    def keys(self, agent: str) -> "Keys":
        return Keys(
            own=f"agent:{agent}@{self.name}" if self.name else "",
            place=f"place:{self.name}" if self.name else "",
            pool=f"agent:{agent}@{'outside' if self.outside else 'inside'}",
        )


@dataclass(frozen=True, slots=True)
class Keys:
    """What an attempt counts against; "" is not counted."""

    own: str  # of the agent at this place
    place: str  # of all agents at this place
    pool: str  # of the agent at all places inside, or outside

    @property
    def counted(self) -> tuple[str, ...]:
        return tuple(key for key in (self.own, self.place, self.pool) if key)


@dataclass(frozen=True, slots=True)
class Verdict:
    """On an attempt: checked at ``at``, and counted as failed there until it has passed; or
    refused, as the key ``locked`` says, and not counted."""

    at: float
    locked: str = ""


def judge(
    rule: Lockout, keys: Keys, failed_at: Mapping[str, Sequence[float]], usual: bool, now: float
) -> Verdict:
    """What becomes of an attempt at ``now``, in seconds on a clock that never steps.

    ``failed_at``: the attempts so far by key, those that wait for their turn among them. ``usual``:
    the agent has proved the PIN at this place before.
    """
    if keys.own and rule.locked_at([min(at, now) for at in failed_at.get(keys.own, ())], now):
        return Verdict(now, keys.own)
    if usual:
        return Verdict(now)
    at, locked = now, ""
    for key, free in ((keys.place, rule.failures), (keys.pool, 2 * rule.failures)):
        turn = _turn(rule, failed_at.get(key, ()), free, now)
        if key and turn > at:
            at, locked = turn, key
    return Verdict(at, locked if at - now > LONGEST_WAIT else "")


def _turn(rule: Lockout, failed_at: Sequence[float], free: int, now: float) -> float:
    """When the next attempt may be checked."""
    memory = rule.memory.total_seconds()
    recent = [at for at in failed_at if now - at < memory]
    if len(recent) < free:
        return now
    wait = FIRST_WAIT * 2.0 ** min(len(recent) - free, 30)
    return max(recent) + min(wait, rule.duration.total_seconds())
