"""The store's side of the outbox: which event is owed to which sink."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

import structlog

from fastagi.agents.commands import MAX_STORED, Actor
from fastagi.agents.events import Event
from fastagi.agents.text import Unusable, number, parsed, storable
from fastagi.contract import EventType, Sink, Source
from fastagi.store.connection import Connection, exactly, moment

log = structlog.get_logger()

T = TypeVar("T")

LOOK_AGAIN = 0.5  # seconds, while another service is delivering
LEASE = 60.0  # seconds; a service that died frees its deliveries at once, a stuck one after it

_SINKS = tuple(Sink)
HOOK = "hook"  # among the sinks: all hooks together

EVENT_COLUMNS = (
    "e.id, e.type, e.agent, e.extension, e.queues, e.reason, e.source, e.actor, e.occurred_at,"
    " e.context, e.session_seconds, e.asterisk, e.in_part, e.device_type"
)

_NEXT = EVENT_COLUMNS.count(",") + 1  # the first column after them


class UnreadableEvent(ValueError):
    """The row is not one that this version writes: damaged, or of a later one."""


def event_from(row: Sequence[Any]) -> Event:
    """The event of a row that begins with ``EVENT_COLUMNS``. Raises UnreadableEvent."""
    try:
        return _event_from(row)
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise UnreadableEvent(f"the event cannot be read: {error}"[:300]) from error


def _event_from(row: Sequence[Any]) -> Event:
    id, type, agent, extension, queues, reason, source, actor, at, context = row[:10]
    seconds, asterisk, in_part, device_type = row[10:14]
    # SQLite takes anything into any column.
    for text in (id, agent, extension, reason, context, asterisk):
        storable("text", text, MAX_STORED, controls=True)
    if device_type not in ("local", "remote"):
        raise Unusable("device_type: is not known")
    return Event(
        id,
        EventType(type),
        agent,
        extension,
        _queues(queues),
        reason,
        Source(source),
        Actor.from_dict(parsed("actor", actor)),
        exactly(at),
        context,
        number("session_seconds", seconds),
        asterisk,
        bool(in_part),
        device_type,
    )


def _queues(text: object) -> tuple[str, ...]:
    queues = parsed("queues", text)
    if not isinstance(queues, list):
        raise Unusable("queues: is no list")
    return tuple(storable("queues", queue) for queue in queues)


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
SELECT d.event, d.attempts, d.agent
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
_ORDER = " ORDER BY d.event LIMIT ?"

# -- PostgreSQL, where several services ask

_LESSEES = (
    "SELECT DISTINCT leased_by FROM deliveries"
    " WHERE sink = ? AND leased_until > 0 AND leased_until > ? AND leased_by <> ?"
)
# The first rows in order; a few pages of an index, however long the backlog is. ``{more}`` are
# scalar subqueries: EXISTS would be made a join over the whole table.
_FIRST = """
SELECT d.event, d.attempts, d.agent, d.place FROM (
  SELECT event, attempts, agent, sink, ctid::text AS place FROM deliveries
  WHERE sink = ? AND parked_at IS NULL AND due_at <= ? ORDER BY event LIMIT ?) d
WHERE true {more}
ORDER BY d.event LIMIT ?
"""
_FIRST_NOT_HELD = """
  AND (SELECT 1 FROM deliveries h
    WHERE h.sink = d.sink AND h.agent = d.agent AND h.event < d.event
      AND h.due_at > 0 AND h.due_at > ? AND h.parked_at IS NULL LIMIT 1) IS NULL
"""
_FIRST_NOT_LEASED = """
  AND (SELECT 1 FROM deliveries l
    WHERE l.sink = d.sink AND l.agent = d.agent AND l.event <= d.event
      AND l.leased_until > 0 AND l.leased_until > ? AND l.leased_by = ANY(?)
      AND l.parked_at IS NULL LIMIT 1) IS NULL
"""
WINDOW = 10_000  # rows: so far is looked for what neither waits nor is another's
# What another service is asking for in this instant is skipped, and what it has got since the rows
# were found. By their places, as without statistics the planner would look through all there are;
# a row that has moved from its place was touched by another.
_CLAIM = """
SELECT event, ctid::text FROM deliveries
WHERE ctid = ANY(?::tid[]) AND sink = ? AND parked_at IS NULL
  AND (leased_until <= ? OR leased_by = ? OR leased_by = ANY(?))
FOR UPDATE SKIP LOCKED
"""
_LEASE = "UPDATE deliveries SET leased_until = ?, leased_by = ? WHERE ctid = ANY(?::tid[])"


def _claimed(
    connection: Connection, sink: Sink, at: float, limit: int
) -> tuple[list[Sequence[Any]], bool]:
    """Leased to this service: numbers of events and attempts. And whether others are at it."""
    me = connection.presence.id
    lessees = {
        row[0] for row in connection.execute(_LESSEES, (sink.value, at, me)).fetchall() if row[0]
    }
    dead = connection.presence.dead(connection, lessees)
    alive = sorted(lessees - dead)
    more = ""
    values: list[object] = []
    if connection.execute(_ANY_HELD, (sink.value,)).fetchone() is not None:
        more, values = _FIRST_NOT_HELD, [at]
    if alive:
        more, values = more + _FIRST_NOT_LEASED, [*values, at, alive]
    rows = connection.execute(
        _FIRST.format(more=more), (sink.value, at, WINDOW, *values, limit)
    ).fetchall()
    if not rows:
        return [], bool(alive)
    free = dict(
        connection.execute(
            _CLAIM, ([row[3] for row in rows], sink.value, at, me, sorted(dead))
        ).fetchall()
    )
    mine: list[Sequence[Any]] = []
    others: set[str] = set()  # agents, from an event on that another service has
    for row in rows:
        if row[0] not in free:
            others.add(row[2])
        elif row[2] not in others:
            mine.append(row)
    if mine:
        connection.execute(_LEASE, (at + LEASE, me, [free[row[0]] for row in mine]))
    return mine, bool(alive or others)


def release(connection: Connection) -> None:
    """What this service has leased is the others' at once."""
    for table in ("deliveries", "hook_deliveries"):
        connection.execute(
            f"UPDATE {table} SET leased_until = 0, leased_by = NULL"
            " WHERE leased_until > 0 AND leased_by = ?",
            (connection.presence.id,),
        )


# What was given up is kept for the admin, who may send it again: the latest of each sink and hook,
# for a month. A receiver that is gone for good would otherwise fill the disk.
PARKED = 5000  # of one sink
PARKED_OF_HOOK = 1000
PARKED_FOR = 30 * 86400.0  # seconds
SPARE = 50  # more than that until the oldest are deleted

HORIZON = 1800.0  # seconds; nothing is postponed, or leased, for so long


def unstick(connection: Connection, now: float) -> None:
    """What is due later than anything can be was postponed by a clock that was set back since: it
    is due now. Likewise what is leased."""
    latest = (now + HORIZON,)
    for table in ("deliveries", "hook_deliveries"):
        connection.execute(
            f"UPDATE {table} SET due_at = 0 WHERE due_at > 0 AND due_at > ? AND parked_at IS NULL",
            latest,
        )
        if not connection.sqlite:
            connection.execute(
                f"UPDATE {table} SET leased_until = 0 WHERE leased_until > 0 AND leased_until > ?",
                latest,
            )


def drop_parked(connection: Connection, table: str, column: str, value: object, most: int) -> int:
    """Deletes the oldest of what was given up, beyond ``most``; how many. ``table`` and ``column``
    (``sink`` or ``hook``) are names of ours."""
    where = f"{column} = ? AND parked_at IS NOT NULL"
    (count,) = connection.execute(
        f"SELECT count(*) FROM {table} WHERE {where}", (value,)
    ).fetchone()
    if count <= most + SPARE:
        return 0
    # Of one sink or hook an event stands there once.
    done = connection.execute(
        f"DELETE FROM {table} WHERE {where} AND event < (SELECT event FROM {table} WHERE {where}"
        " ORDER BY event DESC LIMIT 1 OFFSET ?)",
        (value, value, most - 1),
    )
    return int(done.rowcount)


def events_numbered(
    connection: Connection, numbers: Sequence[int]
) -> Mapping[int, Event | UnreadableEvent]:
    """The events with these numbers: those written a moment ago are at hand."""
    missing = [number for number in numbers if number not in connection.events]
    if not missing:
        return connection.events
    found: dict[int, Event | UnreadableEvent] = {
        n: connection.events[n] for n in numbers if n in connection.events
    }
    for begin in range(0, len(missing), 500):
        some = missing[begin : begin + 500]
        values: list[Any]
        if connection.sqlite:
            where, values = f"IN ({', '.join('?' * len(some))})", some
        else:
            where, values = "= ANY(?)", [some]
        rows = connection.execute(
            f"SELECT {EVENT_COLUMNS}, e.seq FROM events e WHERE e.seq {where}", values
        ).fetchall()
        for row in rows:
            try:
                found[row[_NEXT]] = event_from(row)
            except UnreadableEvent as error:
                found[row[_NEXT]] = error
    return found


class Runs(Protocol):
    """The store, as far as it is needed here."""

    @property
    def sqlite(self) -> bool: ...

    def run(
        self, job: Callable[[Connection], T], *, writes: bool = True, synced: bool = True
    ) -> "asyncio.Future[T]": ...

    def wake(self) -> None: ...

    def dropped(self, sink: str, count: int) -> None:
        """So many parked deliveries were deleted: too many, or too old."""


class Deliveries:
    """Implements ``fastagi.outbox.delivery.Deliveries``. Every call may raise StoreUnavailable."""

    def __init__(self, store: Runs) -> None:
        self._store = store
        self._looking_again = False

    async def due(self, now: datetime, limit: int, sink: Sink, /) -> Sequence[Delivery]:
        """Up to ``limit`` deliveries to this sink, in the order of their events.

        One that is postponed beyond ``now`` holds back the later ones of its agent. On PostgreSQL
        they are leased to this service for a minute, or as long as it lives if that is shorter; it
        may ask for them again. What others have leased, and all that follows of the same agents,
        is left to them; it is looked for again soon, as nobody wakes us when they are done.
        What cannot be read is parked.
        """
        at = now.timestamp()

        def job(connection: Connection) -> tuple[list[Delivery], dict[int, str], bool]:
            others = False
            held: tuple[float, ...]
            rows: list[Sequence[Any]]
            if not connection.sqlite:
                rows, others = _claimed(connection, sink, at, limit)
            else:
                if connection.execute(_ANY_HELD, (sink.value,)).fetchone() is None:
                    query, held = _DUE + _ORDER, ()
                else:
                    query, held = _DUE + _NOT_HELD + _ORDER, (at,)
                rows = connection.execute(query, (sink.value, at, *held, limit)).fetchall()
            events = events_numbered(connection, [row[0] for row in rows])
            found: list[Delivery] = []
            unreadable: dict[int, str] = {}
            for row in rows:
                id, event = _id(sink, row[0]), events[row[0]]
                if isinstance(event, Event):
                    found.append(Delivery(id, sink, event, row[1]))
                else:
                    unreadable[id] = str(event)
            return found, unreadable, others

        found, unreadable, others = await self._store.run(job, writes=not self._store.sqlite)
        for id, error in unreadable.items():
            await self.park(id, error, now)
            log.error("delivery given up, parked", sink=sink.value, number=_key(id)[1], error=error)
        if unreadable:
            self._store.wake()  # what they were in the way of
        if others and not self._looking_again:
            self._looking_again = True
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look_again)
        return found

    def _look_again(self) -> None:
        self._looking_again = False
        self._store.wake()

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
        """Given up: kept for the admin for a time, never due again, holds nothing back."""
        sink, event = _key(id)

        def job(connection: Connection) -> int:
            connection.execute(
                "UPDATE deliveries SET parked_at = ?, error = ?, attempts = attempts + 1,"
                " leased_until = 0 WHERE sink = ? AND event = ?",
                (now.timestamp(), error, sink, event),
            )
            return drop_parked(connection, "deliveries", "sink", sink, PARKED)

        if count := await self._store.run(job):
            self._store.dropped(sink, count)

    async def drop_old(self, before: datetime) -> None:
        """Deletes what was given up before then, of hooks too."""

        def job(connection: Connection) -> list[tuple[str, int]]:
            dropped: list[tuple[str, int]] = []
            for sink in _SINKS:
                done = connection.execute(
                    "DELETE FROM deliveries WHERE parked_at IS NOT NULL AND parked_at < ?"
                    " AND sink = ?",
                    (before.timestamp(), sink.value),
                )
                dropped.append((sink.value, done.rowcount))
            done = connection.execute(
                "DELETE FROM hook_deliveries WHERE parked_at IS NOT NULL AND parked_at < ?",
                (before.timestamp(),),
            )
            return [*dropped, (HOOK, done.rowcount)]

        for sink, count in await self._store.run(job):
            if count > 0:
                self._store.dropped(sink, count)

    async def unpark(self, ids: Sequence[int]) -> None:
        """Due again at once, with all attempts ahead."""
        for id in ids:
            await self._update(id, "parked_at = NULL, due_at = 0, attempts = 0", ())
        self._store.wake()

    async def parked(self) -> list[tuple[Delivery, str]]:
        """Those given up, and why. Raises UnreadableEvent."""

        def job(connection: Connection) -> list[tuple[Delivery, str]]:
            rows = connection.execute(
                f"SELECT {EVENT_COLUMNS}, d.event, d.attempts, d.sink, d.error FROM deliveries d"
                " JOIN events e ON e.seq = d.event WHERE d.parked_at IS NOT NULL ORDER BY d.event"
            ).fetchall()
            return [
                (
                    Delivery(_id(Sink(sink), seq), Sink(sink), event_from(row), tries),
                    error or "",
                )
                for row in rows
                for seq, tries, sink, error in [row[_NEXT:]]
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
