"""The store's side of the outbox: which event is owed to which sink."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from fastagi.agents.commands import Actor
from fastagi.agents.events import Event
from fastagi.contract import EventType, Sink, Source
from fastagi.store.connection import Connection, moment

T = TypeVar("T")

LEASE = 60.0  # seconds; a service that died frees its deliveries after it

_SINKS = tuple(Sink)

EVENT_COLUMNS = (
    "e.id, e.type, e.agent, e.extension, e.queues, e.reason, e.source, e.actor, e.occurred_at,"
    " e.context, e.session_seconds"
)


def event_from(row: Sequence[Any]) -> Event:
    """The event of a row that begins with ``EVENT_COLUMNS``."""
    return Event(
        row[0],
        EventType(row[1]),
        row[2],
        row[3],
        tuple(json.loads(row[4])),
        row[5],
        Source(row[6]),
        Actor(**json.loads(row[7])),
        moment(row[8]),
        row[9],
        row[10],
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one sink. ``id`` holds as long as the process."""

    id: int
    sink: Sink
    event: Event
    attempts: int


@dataclass(frozen=True, slots=True)
class Backlog:
    count: int
    oldest: datetime | None  # when the oldest event that is still owed occurred


def _id(sink: Sink, event: int) -> int:
    return event * len(_SINKS) + _SINKS.index(sink)


def _key(id: int) -> tuple[str, int]:
    """The primary key behind a delivery's id."""
    event, sink = divmod(id, len(_SINKS))
    return _SINKS[sink].value, event


_DUE = """
SELECT d.event, d.attempts
FROM deliveries d
WHERE d.sink = ? AND d.parked_at IS NULL AND d.due_at <= ?
"""
_NOT_HELD = """
  AND NOT EXISTS (
    SELECT 1 FROM deliveries h
    WHERE h.sink = d.sink AND h.agent = d.agent AND h.event < d.event
      AND h.due_at > 0 AND h.due_at > ? AND h.parked_at IS NULL)
"""
# Whether any delivery to a sink was ever postponed and is still there: hardly ever.
_ANY_HELD = "SELECT 1 FROM deliveries WHERE sink = ? AND due_at > 0 LIMIT 1"
# Others' leases are held back in the same way: their agent's later events are not ours to tell.
_NOT_LEASED = """
  AND NOT EXISTS (
    SELECT 1 FROM deliveries l
    WHERE l.sink = d.sink AND l.agent = d.agent AND l.event <= d.event
      AND l.leased_until > ? AND l.leased_by <> ? AND l.parked_at IS NULL)
"""
_ORDER = " ORDER BY d.event LIMIT ?"


def _events(connection: Connection, numbers: Sequence[int]) -> Mapping[int, Event]:
    """The events with these numbers: those written a moment ago are at hand."""
    missing = [number for number in numbers if number not in connection.events]
    if not missing:
        return connection.events
    found = {number: connection.events[number] for number in numbers if number not in missing}
    for begin in range(0, len(missing), 500):
        some = missing[begin : begin + 500]
        marks = ", ".join("?" * len(some))
        rows = connection.execute(
            f"SELECT {EVENT_COLUMNS}, e.seq FROM events e WHERE e.seq IN ({marks})", some
        ).fetchall()
        found.update((row[11], event_from(row)) for row in rows)
    return found


class Runs(Protocol):
    """The store, as far as it is needed here."""

    @property
    def sqlite(self) -> bool: ...

    def run(
        self, job: Callable[[Connection], T], *, writes: bool = True, synced: bool = True
    ) -> "asyncio.Future[T]": ...

    def wake(self) -> None: ...


class Deliveries:
    """Implements ``fastagi.outbox.delivery.Deliveries``. Every call may raise StoreUnavailable."""

    def __init__(self, store: Runs) -> None:
        self._store = store
        self._name = uuid4().hex  # tells this service's leases from another's

    async def due(self, now: datetime, limit: int, sink: Sink, /) -> Sequence[Delivery]:
        """Up to ``limit`` deliveries to this sink, in the order of their events.

        One that is postponed beyond ``now`` holds back the later ones of its agent. On PostgreSQL
        they are leased to this service for a minute; it may ask for them again.
        """
        at = now.timestamp()

        def job(connection: Connection) -> list[Delivery]:
            held: tuple[float, ...]
            if connection.sqlite:
                if connection.execute(_ANY_HELD, (sink.value,)).fetchone() is None:
                    query, held = _DUE + _ORDER, ()
                else:
                    query, held = _DUE + _NOT_HELD + _ORDER, (at,)
                rows = connection.execute(query, (sink.value, at, *held, limit)).fetchall()
            else:
                # One service at a time asks, so that an agent's events never go to two.
                connection.execute(
                    "SELECT pg_advisory_xact_lock(hashtextextended(?, 1))", (sink.value,)
                )
                rows = connection.execute(
                    _DUE + _NOT_HELD + _NOT_LEASED + _ORDER,
                    (sink.value, at, at, at, self._name, limit),
                ).fetchall()
                if rows:
                    connection.execute(
                        "UPDATE deliveries SET leased_until = ?, leased_by = ?"
                        " WHERE sink = ? AND event = ANY(?)",
                        (at + LEASE, self._name, sink.value, [row[0] for row in rows]),
                    )
            events = _events(connection, [row[0] for row in rows])
            return [Delivery(_id(sink, seq), sink, events[seq], tries) for seq, tries in rows]

        return await self._store.run(job, writes=not self._store.sqlite)

    async def delivered(self, ids: Sequence[int], /) -> None:
        """These need not be told again."""
        keys = sorted([_key(id) for id in ids])

        def job(connection: Connection) -> None:
            begin = 0
            for end in range(1, len(keys) + 1):
                sink, event = keys[end - 1]
                if end == len(keys) or keys[end] != (sink, event + 1):
                    # Event by event without a gap, as they nearly always come: one statement.
                    connection.execute(
                        "DELETE FROM deliveries WHERE sink = ? AND event BETWEEN ? AND ?",
                        (sink, keys[begin][1], event),
                    )
                    begin = end

        if keys:
            await self._store.run(job, synced=False)  # once too often is allowed

    async def postpone(self, id: int, until: datetime, error: str, /) -> None:
        """Refused: counts an attempt, not due before ``until``."""
        await self._update(
            id,
            "due_at = ?, error = ?, attempts = attempts + 1, leased_until = 0",
            (until.timestamp(), error),
        )

    async def park(self, id: int, error: str, now: datetime, /) -> None:
        """Given up: kept for the admin, never due again, holds nothing back."""
        await self._update(
            id,
            "parked_at = ?, error = ?, attempts = attempts + 1, leased_until = 0",
            (now.timestamp(), error),
        )

    async def unpark(self, ids: Sequence[int]) -> None:
        """Due again at once, with all attempts ahead."""
        for id in ids:
            await self._update(id, "parked_at = NULL, due_at = 0, attempts = 0", ())
        self._store.wake()

    async def parked(self) -> list[tuple[Delivery, str]]:
        """Those given up, and why."""

        def job(connection: Connection) -> list[tuple[Delivery, str]]:
            rows = connection.execute(
                f"SELECT {EVENT_COLUMNS}, d.event, d.attempts, d.sink, d.error FROM deliveries d"
                " JOIN events e ON e.seq = d.event WHERE d.parked_at IS NOT NULL ORDER BY d.event"
            ).fetchall()
            return [
                (
                    Delivery(_id(Sink(row[13]), row[11]), Sink(row[13]), event_from(row), row[12]),
                    row[14] or "",
                )
                for row in rows
            ]

        return await self._store.run(job, writes=False)

    async def backlog(self) -> Backlog:
        """What is owed and not parked."""

        def job(connection: Connection) -> Backlog:
            count, oldest = connection.execute(
                "SELECT b.owed, e.occurred_at FROM (SELECT count(*) AS owed, min(event) AS first"
                " FROM deliveries WHERE parked_at IS NULL) b LEFT JOIN events e ON e.seq = b.first"
            ).fetchone()
            return Backlog(count, None if oldest is None else moment(oldest))

        return await self._store.run(job, writes=False)

    async def _update(self, id: int, what: str, values: tuple[object, ...]) -> None:
        key = _key(id)

        def job(connection: Connection) -> None:
            connection.execute(
                f"UPDATE deliveries SET {what} WHERE sink = ? AND event = ?", (*values, *key)
            )

        await self._store.run(job)
