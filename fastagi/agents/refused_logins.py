"""Logins that were refused are facts, too: each is an event."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from fastagi.agents.commands import Actor, LogIn
from fastagi.agents.errors import StoreUnavailable
from fastagi.agents.events import Event
from fastagi.agents.log import Log
from fastagi.agents.ports import Store
from fastagi.contract import EventType, Outcome, Source


class RefusedLogins:
    """Writes them down; never raises, as the refusal stands anyway."""

    def __init__(
        self, store: Store, log: Log, clock: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._new_id = new_id

    async def record(self, command: LogIn, outcome: Outcome, hung_up: bool = False) -> None:
        # Where it was written with the withdrawn intent, the same id writes nothing.
        await self._write(self.event(command, outcome, hung_up))

    async def record_unknown(
        self,
        agent: str,
        extension: str,
        context: str,
        actor: Actor,
        source: Source,
        outcome: Outcome,
    ) -> None:
        """The same for a login that never became a command: no such agent, a wrong PIN."""
        await self._write(
            Event(
                id=f"{self._new_id()}-1",
                type=EventType.LOGIN_REFUSED,
                agent=agent,
                extension=extension,
                queues=(),
                reason=outcome.value,
                source=source,
                actor=actor,
                occurred_at=self._clock(),
                context=context,
            )
        )

    def event(self, command: LogIn, outcome: Outcome, hung_up: bool) -> Event:
        return Event(
            id=f"{command.id}-refused",
            type=EventType.LOGIN_REFUSED,
            agent=command.agent,
            extension=command.device.extension,
            queues=(),
            reason=outcome.value,
            source=command.source,
            actor=replace(command.actor, hung_up=True) if hung_up else command.actor,
            occurred_at=self._clock(),
            context=command.device.context,
            asterisk=command.device.asterisk,
            device_type=command.device.type,
        )

    async def _write(self, event: Event) -> None:
        try:
            await self._store.record(event)
        except StoreUnavailable as error:
            self._log.warning("a refused login could not be written down", error=str(error))
