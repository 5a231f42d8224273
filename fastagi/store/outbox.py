"""What is owed to sinks and hooks: an event and its receiver in a row, until it was delivered.

One service at a time delivers to a sink, or to the hooks (``exclusive``): nothing is claimed here.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import structlog
from peewee import PeeweeException, fn
from playhouse.pool import PooledDatabase

from fastagi.agents.deliveries import Delivery
from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, Hook, HookDelivery
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType, Sink
from fastagi.store import tables
from fastagi.store.connection import Connection, moment
from fastagi.store.database import explained, no_file, parse
from fastagi.store.events import EVENT_COLUMNS, UnreadableEvent, event_from

log = structlog.get_logger()

T = TypeVar("T")
D = TypeVar("D", Delivery, HookDelivery)

HOOK = "hook"  # among the sinks: all hooks together

# What was given up is kept for the admin, who may send it again: the latest of each sink and hook,
# for a month. A receiver that is gone for good would otherwise fill the disk.
PARKED = 5000  # of one sink
PARKED_OF_HOOK = 1000
PARKED_FOR = 30 * 86400.0  # seconds
SPARE = 50  # more than that until the oldest are deleted

HORIZON = 1800.0  # seconds; nothing is postponed for so long
WINDOW = 10_000  # rows: so far is looked for what need not wait for an earlier one of its agent
KEPT = 200  # attempts in the log of a hook; …
PRUNE = 20  # … and so many more until the oldest are deleted


class Runs(Protocol):
    """The store, as far as it is needed here."""

    def run(
        self, job: Callable[[Connection], T], *, writes: bool = True, synced: bool = True
    ) -> "asyncio.Future[T]": ...

    def wake(self) -> None: ...

    def dropped(self, sink: str, count: int) -> None:
        """So many parked deliveries were deleted: too many, or too old."""


class Outbox(Generic[D]):
    """What is owed to receivers of one kind. Every call may raise StoreUnavailable.

    It is asked after every commit, so what asks is SQL; the rest is Peewee's.
    """

    table: Any  # of tables: one row for an event and a receiver
    receiver: Any  # its column: a sink's name, a hook's id

    def __init__(self, store: Runs) -> None:
        self._store = store

    def _made(
        self, connection: Connection, receiver: Any, seq: int, event: Event, attempts: int
    ) -> D:
        raise NotImplementedError

    def most(self) -> int:
        """How many of one receiver that were given up are kept."""
        raise NotImplementedError

    def sink(self, receiver: Any) -> str:
        """Under which name they are counted."""
        raise NotImplementedError

    async def _due(
        self, now: datetime, find: Callable[[Connection], Sequence[tuple[Any, Any, int, int]]]
    ) -> list[D]:
        """``find`` gives of each: the receiver's key, the receiver or why it cannot be read, the
        event's number, attempts. What cannot be read is parked."""

        def job(connection: Connection) -> tuple[list[D], list[tuple[Any, int, str]]]:
            rows = find(connection)
            events = events_numbered(connection, [seq for _, _, seq, _ in rows])
            found: list[D] = []
            unreadable: list[tuple[Any, int, str]] = []
            for key, receiver, seq, attempts in rows:
                event = events[seq]
                if isinstance(receiver, ValueError):
                    unreadable.append((key, seq, str(receiver)))
                elif isinstance(event, UnreadableEvent):
                    unreadable.append((key, seq, str(event)))
                else:
                    found.append(self._made(connection, receiver, seq, event, attempts))
            return found, unreadable

        found, unreadable = await self._store.run(job, writes=False)
        for key, seq, error in unreadable:
            await self._park(key, seq, now, error)
            log.error(
                "delivery given up, parked",
                **{self.receiver.name: key},
                number=seq,
                error=error,
            )
        if unreadable:
            self._store.wake()  # what they were in the way of
        return found

    def _refused(self, connection: Connection, key: Any, seq: int, **values: object) -> None:
        """Counts an attempt."""
        table = self.table
        query = table.update(attempts=table.attempts + 1, **values)
        query.where((self.receiver == key) & (table.event == seq)).execute(connection.peewee)

    async def _park(self, key: Any, seq: int, now: datetime, error: str) -> None:
        def job(connection: Connection) -> int:
            self._refused(connection, key, seq, parked_at=now.timestamp(), error=error)
            return self._drop_oldest(connection, key)

        if count := await self._store.run(job):
            self._store.dropped(self.sink(key), count)

    def _drop_oldest(self, connection: Connection, key: Any) -> int:
        """Deletes the oldest of what was given up, beyond ``most``; how many."""
        table, database = self.table, connection.peewee
        parked = (self.receiver == key) & table.parked_at.is_null(False)
        if table.select().where(parked).count(database) <= self.most() + SPARE:
            return 0
        # Of one receiver an event stands there once.
        latest = table.select(table.event).where(parked).order_by(table.event.desc())
        first_kept = latest.offset(self.most() - 1).limit(1).scalar(database)
        return int(table.delete().where(parked & (table.event < first_kept)).execute(database))

    async def drop_old(self, before: datetime) -> None:
        """Deletes what was given up before then."""
        table = self.table
        old = table.parked_at < before.timestamp()

        def job(connection: Connection) -> Counter[str]:
            database, dropped = connection.peewee, Counter[str]()
            counts = table.select(self.receiver, fn.count(table.event)).where(old)
            for key, count in counts.group_by(self.receiver).tuples().execute(database):
                dropped[self.sink(key)] += count
            table.delete().where(old).execute(database)
            return dropped

        for sink, count in (await self._store.run(job)).items():
            self._store.dropped(sink, count)

    @classmethod
    def unpark(cls, *which: Any) -> Any:
        """The query that makes what was given up due again, with all attempts ahead."""
        query = cls.table.update(parked_at=None, due_at=0, attempts=0)
        return query.where(cls.table.parked_at.is_null(False), *which)

    def unstick(self, connection: Connection, now: float) -> None:
        """What is due later than anything can be was postponed by a clock that was set back since:
        it is due now."""
        stuck = (self.table.due_at > now + HORIZON) & self.table.parked_at.is_null()
        # The index is of what was postponed.
        query = self.table.update(due_at=0).where((self.table.due_at > 0) & stuck)
        query.execute(connection.peewee)


# Whether any delivery to a sink was ever postponed and is still there: hardly ever.
_ANY_HELD = "SELECT 1 FROM deliveries WHERE sink = ? AND due_at > 0 LIMIT 1"
_DUE = """
SELECT event, attempts, agent, sink FROM deliveries
WHERE sink = ? AND parked_at IS NULL AND due_at <= ? ORDER BY event LIMIT ?
"""
# A few pages of an index, however long the backlog is. A scalar subquery: PostgreSQL would make
# EXISTS a join over the whole table.
_DUE_NOT_HELD = f"""
SELECT d.event, d.attempts FROM ({_DUE}) d
WHERE (SELECT 1 FROM deliveries h
    WHERE h.sink = d.sink AND h.agent = d.agent AND h.event < d.event
      AND h.due_at > 0 AND h.due_at > ? AND h.parked_at IS NULL LIMIT 1) IS NULL
ORDER BY d.event LIMIT ?
"""


class SinkOutbox(Outbox[Delivery]):
    """Implements ``fastagi.agents.deliveries.Deliveries``."""

    table = tables.Delivery
    receiver = tables.Delivery.sink

    def _made(
        self, connection: Connection, receiver: Sink, seq: int, event: Event, attempts: int
    ) -> Delivery:
        return Delivery(receiver, seq, event, attempts)

    def most(self) -> int:
        return PARKED

    def sink(self, receiver: str) -> str:
        return receiver

    async def due(self, now: datetime, limit: int, sink: Sink, /) -> list[Delivery]:
        at = now.timestamp()

        def find(connection: Connection) -> list[tuple[str, Sink, int, int]]:
            if connection.execute(_ANY_HELD, (sink.value,)).fetchone() is None:
                found = connection.execute(_DUE, (sink.value, at, limit))
            else:
                found = connection.execute(_DUE_NOT_HELD, (sink.value, at, WINDOW, at, limit))
            rows = found.fetchall()
            return [(sink.value, sink, row[0], row[1]) for row in rows]

        return await self._due(now, find)

    async def delivered(self, deliveries: Sequence[Delivery], /) -> None:
        keys = sorted([(delivery.sink.value, delivery.seq) for delivery in deliveries])

        def job(connection: Connection) -> None:
            begin = 0
            for end in range(1, len(keys) + 1):
                sink, seq = keys[end - 1]
                if end == len(keys) or keys[end] != (sink, seq + 1):
                    # Event by event without a gap, as they nearly always come: one statement.
                    connection.execute(
                        "DELETE FROM deliveries WHERE sink = ? AND event BETWEEN ? AND ?",
                        (sink, keys[begin][1], seq),
                    )
                    begin = end

        if keys:
            await self._store.run(job, synced=False)  # once too often is allowed

    async def postpone(self, delivery: Delivery, until: datetime, error: str, /) -> None:
        await self._store.run(
            lambda connection: self._refused(
                connection, delivery.sink, delivery.seq, due_at=until.timestamp(), error=error
            )
        )

    async def park(self, delivery: Delivery, now: datetime, error: str, /) -> None:
        await self._park(delivery.sink.value, delivery.seq, now, error)


HOOK_COLUMNS = (
    "h.id, h.client, h.agent_id, h.agent_type, h.event_type, h.method, h.url, h.content_type"
)
# Of each hook the first that is not parked. From one hook for which something waits to the next,
# in a few pages of an index: neither the hooks nor what waits are all looked at.
_HOOKS_FIRST = f"""
WITH RECURSIVE waiting(id) AS (
  SELECT min(hook) FROM hook_deliveries WHERE parked_at IS NULL
  UNION ALL
  SELECT (SELECT min(n.hook) FROM hook_deliveries n WHERE n.hook > w.id AND n.parked_at IS NULL)
  FROM waiting w WHERE w.id IS NOT NULL)
SELECT {HOOK_COLUMNS}, d.event, d.attempts
FROM (SELECT w.id, (SELECT min(n.event) FROM hook_deliveries n {{index}}
                    WHERE n.hook = w.id AND n.parked_at IS NULL) AS event
      FROM waiting w WHERE w.id IS NOT NULL) f
JOIN hook_deliveries d ON d.hook = f.id AND d.event = f.event
JOIN hooks h ON h.id = f.id
WHERE d.due_at <= ?
ORDER BY d.event LIMIT ?
"""
# What is postponed and not held back itself; hardly anything is postponed.
_NEXT_DUE = """
SELECT min(d.due_at) FROM hook_deliveries d
WHERE d.due_at > 0 AND d.due_at > ? AND d.parked_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM hook_deliveries n
    WHERE n.hook = d.hook AND n.event < d.event AND n.parked_at IS NULL)
"""


_WAS_PAUSED = (
    "SELECT 1 FROM pause_segments WHERE agent_id = ? AND since < ?"
    " AND (ended_at IS NULL OR ended_at > ?) LIMIT 1"
)
_LOG = (
    "INSERT INTO hook_attempts (hook, event_id, event_type, at, number, status, error, seconds,"
    " outcome) SELECT id, ?, ?, ?, ?, ?, ?, ?, ? FROM hooks WHERE id = ?"
)
_PRUNE = (
    "DELETE FROM hook_attempts WHERE hook = ? AND id <= (SELECT id FROM hook_attempts"
    " WHERE hook = ? ORDER BY id DESC LIMIT 1 OFFSET ?)"
)


def hook_from(row: Sequence[Any]) -> Hook:
    """The hook of a row that begins with ``HOOK_COLUMNS``. Raises ValueError."""
    return Hook(row[0], row[1], row[2], row[3], EventType(row[4]), row[5], row[6], row[7])


class HookOutbox(Outbox[HookDelivery]):
    """Implements ``fastagi.agents.deliveries.HookDeliveries``."""

    table = tables.HookDelivery
    receiver = tables.HookDelivery.hook

    def __init__(self, store: Runs) -> None:
        super().__init__(store)
        self._asked = 0.0  # what was due until then was given
        self._logged: Counter[int] = Counter()  # attempts of a hook since this service began

    def _made(
        self, connection: Connection, receiver: Hook, seq: int, event: Event, attempts: int
    ) -> HookDelivery:
        paused = False
        if event.type is EventType.LOGIN:  # whoever moves takes a pause along
            at = event.occurred_at.timestamp()
            row = connection.execute(_WAS_PAUSED, (receiver.agent_id, at, at)).fetchone()
            paused = row is not None
        return HookDelivery(receiver, seq, event, attempts, paused)

    def most(self) -> int:
        return PARKED_OF_HOOK

    def sink(self, receiver: int) -> str:
        return HOOK

    async def due(self, now: datetime, limit: int, busy: Set[int], /) -> list[HookDelivery]:
        at = now.timestamp()

        def find(connection: Connection) -> list[tuple[int, Hook | ValueError, int, int]]:
            # Those under way come first in the answer, and must not fill it.
            rows = connection.execute(
                _HOOKS_FIRST.format(index=connection.WAITING_HOOKS), (at, limit + len(busy))
            ).fetchall()
            rows = [row for row in rows if row[0] not in busy][:limit]
            return [(row[0], _hook_or_why(row), row[8], row[9]) for row in rows]

        found = await self._due(now, find)
        self._asked = at
        return found

    async def next_due(self) -> datetime | None:
        asked = self._asked

        def job(connection: Connection) -> datetime | None:
            (at,) = connection.execute(_NEXT_DUE, (asked,)).fetchone()
            return None if at is None else moment(at)

        return await self._store.run(job, writes=False)

    async def delivered(self, delivery: HookDelivery, attempt: Attempt, /) -> None:
        await self._mark(
            delivery,
            attempt,
            lambda connection: connection.execute(
                "DELETE FROM hook_deliveries WHERE hook = ? AND event = ?",
                (delivery.hook.id, delivery.seq),
            ),
        )

    async def postpone(self, delivery: HookDelivery, until: datetime, attempt: Attempt, /) -> None:
        await self._mark(
            delivery,
            attempt,
            lambda connection: self._refused(
                connection,
                delivery.hook.id,
                delivery.seq,
                due_at=until.timestamp(),
                error=attempt.error,
            ),
        )

    async def park(self, delivery: HookDelivery, now: datetime, attempt: Attempt, /) -> None:
        hook = delivery.hook.id
        await self._mark(
            delivery,
            attempt,
            lambda connection: self._refused(
                connection, hook, delivery.seq, parked_at=now.timestamp(), error=attempt.error
            ),
        )
        # Not with the mark: it need not wait for this, nor be tried again for it.
        with suppress(StoreUnavailable):
            job = self._store.run(lambda c: self._drop_oldest(c, hook), synced=False)
            if count := await job:
                self._store.dropped(HOOK, count)

    async def _mark(
        self,
        delivery: HookDelivery,
        attempt: Attempt,
        write: Callable[[Connection], object],
    ) -> None:
        """Nothing, when the hook was deleted meanwhile."""
        hook = delivery.hook.id
        logged = (
            attempt.event_id,
            attempt.event_type.value,
            attempt.at.timestamp(),
            attempt.number,
            attempt.status,
            attempt.error,
            attempt.seconds,
            attempt.outcome,
        )
        self._logged[hook] += 1
        prune = self._logged[hook] % PRUNE == 1

        def job(connection: Connection) -> None:
            if not connection.keeps_hook(hook):
                return
            write(connection)
            connection.execute(_LOG, (*logged, hook))
            if prune:
                connection.execute(_PRUNE, (hook, hook, KEPT))

        await self._store.run(job, synced=False)  # once too often is allowed

    def forget(self, hook: int) -> None:
        """It is deleted."""
        self._logged.pop(hook, None)

    async def parked(self, hook: int) -> int:
        """How many were given up and are kept."""
        table = self.table
        query = table.select().where((table.hook == hook) & table.parked_at.is_null(False))
        return int(await self._store.run(lambda c: query.count(c.peewee), writes=False))

    async def retry(self, hook: int) -> int:
        """Those are due again; how many."""
        query = self.unpark(self.table.hook == hook)
        count = int(await self._store.run(lambda c: query.execute(c.peewee)))
        if count:
            self._store.wake()
        return count


def _hook_or_why(row: Sequence[Any]) -> Hook | ValueError:
    try:
        return hook_from(row)
    except ValueError as error:  # a later version's, or somebody's hand
        return ValueError(f"the hook cannot be read: {error}")


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
        where, values = connection.one_of(some)
        rows = connection.execute(
            f"SELECT {EVENT_COLUMNS} FROM events e WHERE e.seq {where}", values
        ).fetchall()
        for row in rows:
            try:
                found[row[-1]] = event_from(row)
            except UnreadableEvent as error:
                found[row[-1]] = error
    return found


def retry_parked(url: str, event_id: str | None = None) -> int:
    """What was given up is due again, with all attempts ahead: the deliveries of one event, or
    all. Returns how many. A running service finds them within seconds.

    Blocks, and writes; beside a running service too. Raises BadDatabaseUrl, StoreUnavailable.
    """
    place = parse(url)
    if place.path is not None and not place.path.exists():
        raise no_file(place)
    database = place.database()
    event = tables.Event.select(tables.Event.seq).where(tables.Event.id == event_id)
    try:
        with database.connection_context(), database.atomic():
            return sum(
                int(unparked.execute(database))
                for outbox in (SinkOutbox, HookOutbox)
                for which in [() if event_id is None else (outbox.table.event.in_(event),)]
                for unparked in [outbox.unpark(*which)]
            )
    except PeeweeException as error:
        raise explained(place, error) from error
    finally:
        if isinstance(database, PooledDatabase):
            database.close_all()
