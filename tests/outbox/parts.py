"""What the outbox meets, in memory: a store of deliveries, and a manager that follows a script."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from fastagi.agents.commands import Actor
from fastagi.agents.deliveries import Delivery
from fastagi.agents.events import SINKS, Event
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType, Sink, Source
from fastagi.outbox.delivery import DELIVERED, Receipt, SinkUnavailable

_ids = itertools.count(1)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def now() -> datetime:
    return datetime.now(UTC)


def event(agent: str = "1001", type: EventType = EventType.LOGIN, **more: object) -> Event:
    values: dict[str, object] = {
        "id": f"c{next(_ids)}-1",
        "extension": "1001",
        "queues": ("sales", "support"),
        "reason": "",
        "source": Source.PHONE,
        "actor": Actor(channel="PJSIP/1001-00000001", unique_id="1700000000.7"),
        "occurred_at": datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC),
        "context": "phones",
    }
    values.update(more)
    return Event(type=type, agent=agent, **values)  # type: ignore[arg-type]


@dataclass
class Memory:
    """Deliveries in memory. It outlives a dispatcher, as the real store outlives the service."""

    rows: dict[int, Delivery] = field(default_factory=dict)
    due_at: dict[int, datetime] = field(default_factory=dict)
    parked: dict[int, tuple[Delivery, str]] = field(default_factory=dict)
    marks: list[list[int]] = field(default_factory=list)
    reads: int = 0
    broken: bool = False
    on_change: Callable[[], None] = lambda: None

    async def commit(self, *events: Event) -> None:
        for happened in events:
            for sink in SINKS[happened.type]:
                row = Delivery(sink, next(_ids), happened, 0)
                self.rows[row.seq] = row
        self.on_change()

    async def due(self, now: datetime, limit: int, sink: Sink, /) -> list[Delivery]:
        self.reads += 1
        self._works()
        held: set[str] = set()
        found: list[Delivery] = []
        for row in sorted(self.rows.values(), key=lambda row: row.seq):
            if row.sink is not sink or row.event.agent in held:
                continue
            if self.due_at.get(row.seq, LONG_AGO) > now:
                held.add(row.event.agent)
            elif len(found) < limit:
                found.append(row)
        return found

    async def delivered(self, deliveries: Sequence[Delivery], /) -> None:
        self._works()
        self.marks.append([delivery.seq for delivery in deliveries])
        for delivery in deliveries:
            del self.rows[delivery.seq]

    async def postpone(self, delivery: Delivery, until: datetime, error: str, /) -> None:
        self._works()
        row = self.rows[delivery.seq]
        self.rows[row.seq] = replace(row, attempts=row.attempts + 1)
        self.due_at[row.seq] = until

    async def park(self, delivery: Delivery, now: datetime, error: str, /) -> None:
        self._works()
        self.parked[delivery.seq] = (self.rows.pop(delivery.seq), error)

    def _works(self) -> None:
        if self.broken:
            raise StoreUnavailable("disk full")


@dataclass
class Receiver:
    """A sink. ``script`` decides about each event; the default takes everything."""

    script: Callable[[Event], Receipt] = lambda event: DELIVERED
    ready: bool = True
    away: bool = False
    got: list[Event] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    before: Callable[[], object] | None = None

    async def deliver(self, events: Sequence[Event], /) -> list[Receipt]:
        assert len({e.agent for e in events}) == len(events), "an agent twice in one call"
        self.batches.append(len(events))
        if self.before is not None:
            waiting = self.before()
            if asyncio.iscoroutine(waiting):
                await waiting
        if self.away:
            raise SinkUnavailable("gone")
        receipts = [self.script(event) for event in events]
        self.got += [e for e, r in zip(events, receipts, strict=True) if r is DELIVERED]
        return receipts


@dataclass(frozen=True)
class Answer:
    success: bool = True
    message: str = ""


@dataclass
class ScriptedAmi:
    """Plays the manager connection: each action is answered by ``script``."""

    script: Callable[[Mapping[str, str]], Answer | Exception] = lambda action: Answer()
    connected: bool = True
    writes: list[list[dict[str, str]]] = field(default_factory=list)

    async def actions(self, actions: Sequence[Mapping[str, str]], /) -> list[Answer | Exception]:
        if not self.connected:
            raise ConnectionError("not connected")
        self.writes.append([dict(action) for action in actions])
        await asyncio.sleep(0)
        return [self.script(action) for action in actions]

    @property
    def sent(self) -> list[dict[str, str]]:
        return [action for write in self.writes for action in write]


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits for ``condition``; the time limit only ends a test that has failed."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what it waits for has no bell
            await asyncio.sleep(0.002)
