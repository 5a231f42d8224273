"""Agents' queues that Asterisk lacks: each is tried again, and joined when it is there.

The service leaves a note for each agent and queue (``waiting_queues``); here they are worked off.
"""

import asyncio
from contextlib import suppress

from fastagi.agents import errors
from fastagi.agents.commands import Actor, JoinQueue
from fastagi.agents.fence import AWAY
from fastagi.agents.log import Log
from fastagi.agents.model import AgentState
from fastagi.agents.service import AgentService
from fastagi.agents.waiting_queues import waiting_in
from fastagi.contract import Source

TASK = "missing queues"  # for the log and the metrics
EVERY = 15.0  # seconds: nobody tells when a queue was added to Asterisk
ACTOR = Actor(name="missing queue")


class MissingQueues:
    """Runs as ``run()`` in the application's task group."""

    def __init__(self, service: AgentService, log: Log) -> None:
        self._service = service
        self._waiting = service.waiting
        self._log = log
        self._wake = asyncio.Event()
        self._wake.set()
        self._refused: dict[str, str] = {}  # by note: why, as last logged

    def look_again(self) -> None:
        """Asterisk may have other queues by now."""
        self._wake.set()

    def seen(self, queue: str) -> None:
        """Asterisk has this queue."""
        notes = self._waiting.notes
        if notes and any(waiting_in(note)[2].lower() == queue.lower() for note in notes):
            self._wake.set()

    async def run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._wake.wait()
            self._wake.clear()
            # What is away comes back, and is said by others.
            with suppress(*AWAY):
                await self.look()

    async def look(self) -> None:
        """Tries each queue that is waited for, once. Raises StoreUnavailable."""
        waiting = await self._waiting.read()
        self._refused = {n: why for n, why in self._refused.items() if n in waiting}
        missing: set[tuple[str, str]] = set()
        for note, login in waiting.items():
            asterisk, number, queue = waiting_in(note)
            place = (asterisk, queue.lower())
            # Of many agents who wait for a queue one is enough to see that it is not there.
            if place in missing or not self._connected(asterisk):
                continue
            with self._service.fence.item(TASK, *AWAY, agent=number, queue=queue):
                if not await self._join(note, login, number, queue):
                    missing.add(place)

    def _connected(self, asterisk: str) -> bool:
        queues = self._service.queues
        return asterisk in queues.names and queues.connected(asterisk)

    async def _join(self, note: str, login: str, number: str, queue: str) -> bool:
        """False: the queue is not there, or nothing can be joined now."""

        def waits(state: AgentState) -> errors.Refused | None:
            lacks = any(m.queue == queue and not m.joined for m in state.memberships)
            same = state.session is not None and state.session.id == login
            return None if same and lacks else errors.NotLoggedIn()

        command = self._service.command(JoinQueue, number, Source.SYSTEM, ACTOR, queue=queue)
        try:
            await self._service.execute(command, only_if=waits)
        except errors.QueueMissing:
            return False
        except errors.NotLoggedIn:
            pass  # logged off, moved without it, joined already: nothing is waited for any more
        except errors.Refused as refusal:
            if not refusal.passing and self._refused.get(note) != str(refusal):
                self._refused[note] = str(refusal)
                self._log.warning(
                    "a queue that is waited for could not be joined",
                    agent=number,
                    queue=queue,
                    why=str(refusal) or refusal.outcome.value,
                )
            return False
        else:
            self._log.info(
                "the agent has joined a queue that was waited for",
                agent=number,
                queue=queue,
            )
        await self._waiting.drop(note)
        return True
