"""Phones that are unplugged: what is known of them, and what follows for who sits there. Pure.

A flap does nothing; a phone that stays away pauses its agent, then logs the agent off; one that is
back gives the agent back to the queues. Coming back ends the pause at once, as the agent expects;
a phone that goes away again has its full time again, so nobody is tossed in and out.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum, auto

from fastagi.agents.commands import LogOff, PauseReason
from fastagi.agents.differences import key_of
from fastagi.agents.limits import TimePolicy
from fastagi.agents.model import AgentState
from fastagi.agents.operations import ReportedMember
from fastagi.contract import DEVICE_LOST

# No code: nobody can choose it, and no limit applies to it.
PHONE_AWAY = PauseReason("", DEVICE_LOST)


class Action(Enum):
    PAUSE = auto()
    UNPAUSE = auto()
    LOGOFF = auto()


def is_lost(state: AgentState) -> bool:
    """Whether the agent is paused because the phone is away."""
    return state.pause is not None and state.pause.reason == PHONE_AWAY


def action(
    state: AgentState, away_since: datetime | None, now: datetime, policy: TimePolicy
) -> Action | None:
    """What is due for an agent whose phone is away since then; None: it can be reached.

    An agent who was paused for another reason keeps that pause, only the log-off counts. What
    somebody had paused in a single queue is not paused any more when the phone is back.
    """
    session = state.session
    # Of a phone elsewhere, or in no queue, Asterisk tells nothing.
    if session is None or session.device.type != "local" or not state.joined:
        return None
    lost = is_lost(state)
    if away_since is None:
        return Action.UNPAUSE if lost else None
    # What the phone did before the agent came is not the agent's time.
    away_since = max(away_since, session.since)
    if lost:
        # Seen by an earlier process, or before the link was cut: the pause remembers since when.
        assert state.pause is not None
        began = state.pause.since - policy.pause_after if policy.pause_after else state.pause.since
        away_since = min(away_since, began)
    if policy.logoff_after is not None and now >= away_since + policy.logoff_after:
        # One is enough: it may be waiting for the end of a call.
        return None if isinstance(state.planned, LogOff) else Action.LOGOFF
    if (
        policy.pause_after is not None
        and state.pause is None
        and now >= away_since + policy.pause_after
    ):
        return Action.PAUSE
    return None


class Sightings:
    """Which phones can be reached, as Asterisk told last, by ``Device.key``.

    Nothing is known of a phone in no queue, nor of any while the link to its Asterisk is down.
    """

    def __init__(self) -> None:
        self._of: dict[str, dict[str, datetime | None]] = {}  # by Asterisk; since when away

    def forget(self, asterisk: str) -> None:
        """The link was down: phones may have come and gone, their time begins anew."""
        self._of[asterisk] = {}

    def clock_was_set(self, by: timedelta) -> None:
        """What was seen is as long ago as before."""
        for known in self._of.values():
            for key, since in known.items():
                if since is not None:
                    known[key] = since + by

    def told(self, members: Iterable[ReportedMember], now: datetime) -> bool:
        """Takes what Asterisk told just now; whether a phone went or came back."""
        changed = False
        for member in members:
            if member.unsure:
                continue
            known = self._of.setdefault(member.asterisk, {})
            key = key_of(member)
            away = known.get(key) is not None
            if key not in known or away != member.unreachable:
                known[key] = now if member.unreachable else None
                changed = True
        return changed

    def snapshot(self, members: Iterable[ReportedMember], now: datetime) -> None:
        """Takes what was asked for after ``forget``. What was told since then is newer."""
        told = {asterisk: set(known) for asterisk, known in self._of.items()}
        self.told((m for m in members if key_of(m) not in told.get(m.asterisk, ())), now)

    def known(self, asterisk: str, key: str) -> bool:
        return key in self._of.get(asterisk, {})

    def away_since(self, asterisk: str, key: str) -> datetime | None:
        """None: it can be reached, or nothing is known of it."""
        return self._of.get(asterisk, {}).get(key)

    def away(self) -> dict[tuple[str, str], datetime]:
        """Asterisk and key of each phone that is away, and since when."""
        return {
            (asterisk, key): since
            for asterisk, known in self._of.items()
            for key, since in known.items()
            if since is not None
        }
