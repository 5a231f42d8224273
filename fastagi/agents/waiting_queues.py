"""Queues that agents wait for: Asterisk lacks them. Each is a note in the store, so that it is
joined when it is there, whatever happens to this process meanwhile."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

from fastagi.agents import errors
from fastagi.agents.commands import Command
from fastagi.agents.errors import StoreUnavailable
from fastagi.agents.log import Log
from fastagi.agents.model import AgentState, Change, Membership, missing_event
from fastagi.agents.ports import Store

# By Asterisk, agent and queue. Value: the id of the login that waits.
NOTE = "waiting:{}:{}:{}"


def waiting_in(note: str) -> tuple[str, str, str]:
    """Asterisk, agent and queue of a note."""
    _, asterisk, number, queue = note.split(":", 3)
    return asterisk, number, queue


class WaitingQueues:
    def __init__(self, store: Store, log: Log, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self.notes: dict[str, str] = {}  # the id of the login, by note; as last read or written

    async def read(self) -> dict[str, str]:
        """The id of the login that waits, by note. Raises StoreUnavailable."""
        self.notes = await self._store.notes("waiting:")
        return dict(self.notes)

    async def add(self, state: AgentState, queues: Sequence[Membership]) -> None:
        """The agent, who is logged in, joins these queues when Asterisk has them. Raises
        StoreUnavailable."""
        for m in queues:
            await self._add(state, m.queue)
            self._log.warning(
                "Asterisk lacks a queue: the agent is not in it, and joins when it is there",
                agent=state.number,
                queue=m.queue,
                number=m.number,
                cure=errors.MISSING_QUEUE_CURE,
            )

    async def _add(self, state: AgentState, queue: str) -> None:
        session = state.session
        assert session is not None
        note = NOTE.format(session.device.asterisk, state.number, queue)
        if self.notes.get(note) != session.id:
            await self._store.set_note(note, session.id)
            self.notes[note] = session.id

    async def add_new(self, number: str, queue: str) -> None:
        """An agent who may be logged in has got this queue: joined sooner or later. Raises
        StoreUnavailable."""
        state = await self._store.agent(number)
        if state is not None and state.session is not None:
            await self._add(state, queue)

    async def add_refused(self, number: str, queue: str, command: Command) -> None:
        """The same for an agent whose ``command`` to join was refused, with an event. Raises
        StoreUnavailable."""
        state = await self._store.agent(number)
        if state is None or state.session is None:
            return
        lacking = [m for m in state.memberships if m.queue == queue and not m.joined]
        if lacking:
            await self.add(state, lacking)
            await self._store.record(missing_event(state, command, self._clock(), (queue,)))

    async def move(self, change: Change) -> None:
        """Who moves takes along what is waited for."""
        before, after = change.before.session, change.after.session
        assert before is not None
        assert after is not None
        for note, login in list(self.notes.items()):
            _, number, queue = waiting_in(note)
            if number == change.after.number and login == before.id:
                await self._add(change.after, queue)

    async def leave(self, number: str, queue: str) -> None:
        """Who leaves a queue does not want to join it when it is there."""
        for note in list(self.notes):
            if waiting_in(note)[1:] == (number, queue):
                with suppress(StoreUnavailable):  # it is only not forgotten yet
                    await self.drop(note)

    async def drop(self, note: str) -> None:
        self.notes.pop(note, None)
        await self._store.drop_note(note)
