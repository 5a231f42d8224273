"""What phones did while no service was there becomes known: the notes of the fallback are taken."""

from collections import Counter
from datetime import timedelta

from fastagi.agents import errors
from fastagi.agents.commands import Command, LogOff, Pause, Unpause
from fastagi.agents.devices import device_key
from fastagi.agents.fence import AWAY
from fastagi.agents.log import Log
from fastagi.agents.model import AgentState
from fastagi.agents.notes import Note
from fastagi.agents.phone_notes import noted_by
from fastagi.agents.service import AgentService
from fastagi.contract import Script

SKEW = timedelta(seconds=2)  # between Asterisk's clock and ours
# The fallback leaves its note first: so long it may take to do what the note says.
FRESH = timedelta(seconds=2)
TRIES = 3  # of a note that meets a fault of ours
MOST_TRIED = 1_000  # notes


class PhoneNotes:
    """``again``: agents who are to be looked at once more."""

    def __init__(self, service: AgentService, asterisk: str, log: Log, again: set[str]) -> None:
        self._service = service
        self._store = service.store
        self._queues = service.queues
        self._asterisk = asterisk
        self._log = log
        self._again = again
        self._tries: Counter[str] = Counter()  # of notes that cannot be taken, by key

    async def take(self) -> set[str]:
        """What phones did while no service was there becomes known as theirs, at its time.

        Gives the agents who are not to be judged before a later look has taken their notes.
        """
        notes = await self._queues.notes(self._asterisk)
        taken: list[Note] = []
        later: dict[str, str] = {}  # agents, by device: all that follows waits too
        for note in sorted(notes, key=lambda note: note.key):
            key = device_key(self._asterisk, note.interface)
            number = later.get(key)
            if not number:
                with self._service.fence.item(
                    "reconcile", *AWAY, interface=note.interface, note=note.key
                ):
                    number = await self._take(note, key)
                if number is None and self._tries_again(note):
                    continue  # it is tried once more, and not for ever
            if number:
                later[key] = number
            else:
                taken.append(note)
                self._tries.pop(note.key, None)
        if taken:
            await self._queues.forget(self._asterisk, taken)
        self._again |= set(later.values())
        return set(later.values())

    def _tries_again(self, note: Note) -> bool:
        if len(self._tries) > MOST_TRIED:
            self._tries.clear()
        self._tries[note.key] += 1
        return self._tries[note.key] < TRIES

    async def _take(self, note: Note, key: str) -> str:
        """The agent's number when it is to be taken later, else ""."""
        state = await self._store.agent_at(key)
        if state is None or not _is_of(note, state, key):
            self._log.info(
                "fallback note ignored: nobody logged in on that phone", interface=note.interface
            )
            return ""
        if abs(self._service.now() - note.at) < FRESH:
            return state.number
        async with self._service.holding([state.number]) as states:
            held = states.get(state.number)
            if held is None:  # another change of the agent is open
                return state.number
            if not _is_of(note, held, key):  # the agent has moved meanwhile
                return ""
            if note.script is Script.UNPAUSE and held.pause and held.pause.since > note.at:
                return ""  # read once more, as Asterisk kept it: it ended no pause then
            state = held
            command = await self._noted(state, note)
            if command is None:
                self._log.warning(
                    "fallback note ignored: there is no such pause reason", reason=note.reason
                )
                return ""
            try:
                change = await self._service.applying.write_applied(command, note.at, held=True)
            except errors.Unavailable:
                return state.number
            except errors.Refused as refusal:
                self._log.warning("fallback note refused", why=str(refusal))
                return ""
            self._service.applying.notify(change)
            self._log.info(
                "done on the phone while the service was away",
                agent=state.number,
                command=type(command).__name__,
                at=note.at.isoformat(timespec="milliseconds"),
            )
        return ""

    async def _noted(self, state: AgentState, note: Note) -> Command | None:
        fields = noted_by(note, self._asterisk, state.number)
        if note.script is Script.LOGOFF:
            return LogOff(**fields)
        if note.script is Script.UNPAUSE:
            return Unpause(**fields)
        for reason in await self._store.reasons():
            if reason.code == note.reason:
                return Pause(**fields, reason=reason)
        return None


def _is_of(note: Note, state: AgentState, key: str) -> bool:
    """Whether it was this agent who sat there then."""
    session = state.session
    return session is not None and session.device.key == key and session.since <= note.at + SKEW
