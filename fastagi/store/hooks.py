"""The store's side of hooks: which there are, which event is owed to which, and how it went."""

from collections.abc import Iterable, Sequence, Set
from datetime import datetime
from typing import Any

import structlog

from fastagi.agents.devices import DeviceType
from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, ContentType, Hook, HookDelivery, Method
from fastagi.contract import EventType
from fastagi.store.connection import Connection, moment
from fastagi.store.deliveries import LEASE, Runs, events_numbered

log = structlog.get_logger()

KEPT = 200  # attempts in the log of a hook

_HOOK = "h.id, h.client, h.agent_id, h.agent_type, h.event_type, h.method, h.url, h.content_type"
_PLACE = "client = ? AND agent_id = ? AND agent_type = ?"
_AGENT = "SELECT 1 FROM agents WHERE id = ? AND archived_at IS NULL"
_CREATE = (
    "INSERT INTO hooks (client, agent_id, agent_type, event_type, method, url, content_type,"
    " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"
)
# Of each hook the first that is not parked: a few pages of an index, however long the backlog is.
_FIRST = f"""
SELECT {_HOOK}, d.event, d.attempts, d.leased_until, d.leased_by, d.due_at
FROM hooks h JOIN hook_deliveries d ON d.hook = h.id AND d.event = (
  SELECT w.event FROM hook_deliveries w WHERE w.hook = h.id AND w.parked_at IS NULL
  ORDER BY w.event LIMIT 1)
"""
_DUE = _FIRST + "WHERE d.due_at <= ? ORDER BY d.event"
_NEXT_DUE = f"SELECT min(f.due_at) FROM ({_FIRST}) f WHERE f.due_at > 0"
_CLAIM = """
SELECT 1 FROM hook_deliveries
WHERE hook = ? AND event = ? AND parked_at IS NULL
  AND (leased_until <= ? OR leased_by = ? OR leased_by = ANY(?))
FOR UPDATE SKIP LOCKED
"""
_LEASE = (
    "UPDATE hook_deliveries SET leased_until = ?, leased_by = ? WHERE hook = ? AND event = ?"
)
_GONE = "DELETE FROM hook_deliveries WHERE hook = ? AND event = ?"
_LATER = (
    "UPDATE hook_deliveries SET due_at = ?, error = ?, attempts = attempts + 1, leased_until = 0"
    " WHERE hook = ? AND event = ?"
)
_PARK = (
    "UPDATE hook_deliveries SET parked_at = ?, error = ?, attempts = attempts + 1,"
    " leased_until = 0 WHERE hook = ? AND event = ?"
)
_LOG = (
    "INSERT INTO hook_attempts (hook, event_id, event_type, at, number, status, error, seconds,"
    " outcome) SELECT id, ?, ?, ?, ?, ?, ?, ?, ? FROM hooks WHERE id = ?"
)
_PRUNE = (
    "DELETE FROM hook_attempts WHERE hook = ? AND id <= (SELECT id FROM hook_attempts"
    " WHERE hook = ? ORDER BY id DESC LIMIT 1 OFFSET ?)"
)
_READ_LOG = (
    "SELECT event_id, event_type, at, number, status, error, seconds, outcome"
    " FROM hook_attempts WHERE hook = ? ORDER BY id DESC LIMIT ?"
)


def _hook(row: Sequence[Any]) -> Hook:
    return Hook(row[0], row[1], row[2], row[3], EventType(row[4]), row[5], row[6], row[7])


class Hooks:
    """Implements what ``fastagi.api.doors.Hooks`` and ``fastagi.outbox.webhook.HookStore`` ask
    for; see there. Every call may raise StoreUnavailable."""

    def __init__(self, store: Runs) -> None:
        self._store = store

    # -- which there are

    async def create(
        self,
        client: str,
        agent_id: int,
        agent_type: DeviceType,
        event_type: EventType,
        method: Method,
        url: str,
        content_type: ContentType,
    ) -> Hook | None:
        def job(connection: Connection) -> Hook | None:
            if connection.execute(_AGENT, (agent_id,)).fetchone() is None:
                return None
            values = (client, agent_id, agent_type, event_type.value, method, url, content_type)
            (id,) = connection.execute(_CREATE, (*values, connection.now())).fetchone()
            connection.hooks_changed()
            return Hook(id, client, agent_id, agent_type, event_type, method, url, content_type)

        return await self._store.run(job)

    async def of(self, client: str, agent_id: int, agent_type: DeviceType) -> list[Hook] | None:
        def job(connection: Connection) -> list[Hook] | None:
            if connection.execute(_AGENT, (agent_id,)).fetchone() is None:
                return None
            rows = connection.execute(
                f"SELECT {_HOOK} FROM hooks h WHERE {_PLACE} ORDER BY id",
                (client, agent_id, agent_type),
            )
            return [_hook(row) for row in rows.fetchall()]

        return await self._store.run(job, writes=False)

    async def hook(
        self, client: str, agent_id: int, agent_type: DeviceType, id: int
    ) -> Hook | None:
        def job(connection: Connection) -> Hook | None:
            row = connection.execute(
                f"SELECT {_HOOK} FROM hooks h WHERE {_PLACE} AND id = ?",
                (client, agent_id, agent_type, id),
            ).fetchone()
            return None if row is None else _hook(row)

        return await self._store.run(job, writes=False)

    async def update(self, hook: Hook) -> bool:
        def job(connection: Connection) -> bool:
            done = connection.execute(
                "UPDATE hooks SET event_type = ?, method = ?, url = ?, content_type = ?"
                " WHERE id = ?",
                (hook.event_type.value, hook.method, hook.url, hook.content_type, hook.id),
            )
            return bool(done.rowcount)

        return await self._store.run(job)

    async def delete(self, id: int) -> bool:
        def job(connection: Connection) -> bool:
            # By hand: SQLite keeps foreign keys only where it is told to.
            for table in ("hook_deliveries", "hook_attempts"):
                connection.execute(f"DELETE FROM {table} WHERE hook = ?", (id,))
            connection.hooks_changed()
            return bool(connection.execute("DELETE FROM hooks WHERE id = ?", (id,)).rowcount)

        return await self._store.run(job)

    # -- how it went

    async def log(self, id: int, limit: int) -> list[Attempt]:
        def job(connection: Connection) -> list[Attempt]:
            rows = connection.execute(_READ_LOG, (id, limit)).fetchall()
            return [Attempt(row[0], EventType(row[1]), moment(row[2]), *row[3:]) for row in rows]

        return await self._store.run(job, writes=False)

    async def parked(self, id: int) -> int:
        def job(connection: Connection) -> int:
            (count,) = connection.execute(
                "SELECT count(*) FROM hook_deliveries WHERE hook = ? AND parked_at IS NOT NULL",
                (id,),
            ).fetchone()
            return int(count)

        return await self._store.run(job, writes=False)

    async def retry(self, id: int) -> int:
        def job(connection: Connection) -> int:
            done = connection.execute(
                "UPDATE hook_deliveries SET parked_at = NULL, due_at = 0, attempts = 0"
                " WHERE hook = ? AND parked_at IS NOT NULL",
                (id,),
            )
            return int(done.rowcount)

        count = await self._store.run(job)
        if count:
            self._store.wake()
        return count

    # -- what is owed

    async def due(self, now: datetime, limit: int, busy: Set[int], /) -> list[HookDelivery]:
        at = now.timestamp()

        def job(connection: Connection) -> tuple[list[HookDelivery], list[tuple[int, int, str]]]:
            rows = [row for row in connection.execute(_DUE, (at,)).fetchall() if row[0] not in busy]
            if not connection.sqlite:
                rows = _claimed(connection, rows, at, limit)
            rows = rows[:limit]
            events = events_numbered(connection, [row[8] for row in rows])
            found: list[HookDelivery] = []
            unreadable: list[tuple[int, int, str]] = []
            for row in rows:
                event = events.get(row[8])
                if isinstance(event, Event):
                    found.append(HookDelivery(_hook(row), row[8], event, row[9]))
                else:
                    unreadable.append((row[0], row[8], str(event or "there is no such event")))
            return found, unreadable

        found, unreadable = await self._store.run(job, writes=not self._store.sqlite)
        if unreadable:
            await self._park_unreadable(unreadable, at)
        return found

    async def _park_unreadable(self, which: Sequence[tuple[int, int, str]], at: float) -> None:
        def job(connection: Connection) -> None:
            for hook, event, error in which:
                connection.execute(_PARK, (at, error, hook, event))

        await self._store.run(job)
        for hook, event, error in which:
            log.error("delivery given up, parked", hook=hook, number=event, error=error)
        self._store.wake()  # what they were in the way of

    async def next_due(self) -> datetime | None:
        def job(connection: Connection) -> datetime | None:
            (at,) = connection.execute(_NEXT_DUE).fetchone()
            return None if at is None else moment(at)

        return await self._store.run(job, writes=False)

    async def delivered(self, delivery: HookDelivery, attempt: Attempt, /) -> None:
        key = (delivery.hook.id, delivery.seq)
        await self._mark([(_GONE, key)], delivery, attempt)

    async def postpone(self, delivery: HookDelivery, until: datetime, attempt: Attempt, /) -> None:
        values = (until.timestamp(), attempt.error, delivery.hook.id, delivery.seq)
        await self._mark([(_LATER, values)], delivery, attempt)

    async def park(self, delivery: HookDelivery, now: datetime, attempt: Attempt, /) -> None:
        values = (now.timestamp(), attempt.error, delivery.hook.id, delivery.seq)
        await self._mark([(_PARK, values)], delivery, attempt)

    async def _mark(
        self,
        statements: Iterable[tuple[str, tuple[object, ...]]],
        delivery: HookDelivery,
        attempt: Attempt,
    ) -> None:
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

        def job(connection: Connection) -> None:
            for text, values in statements:
                connection.execute(text, values)
            connection.execute(_LOG, (*logged, hook))
            connection.execute(_PRUNE, (hook, hook, KEPT))

        await self._store.run(job, synced=False)  # once too often is allowed


def _claimed(
    connection: Connection, rows: Sequence[Sequence[Any]], at: float, limit: int
) -> list[Sequence[Any]]:
    """Those that no other living service has; they are this service's for a while."""
    me = connection.presence.id
    others = {row[11] for row in rows if row[10] > at and row[11] not in (None, me)}
    dead = connection.presence.dead(connection, others)
    mine: list[Sequence[Any]] = []
    for row in rows:
        if len(mine) == limit:
            break
        if row[10] > at and row[11] in others - dead:
            continue
        key = (row[0], row[8])
        if connection.execute(_CLAIM, (*key, at, me, sorted(dead))).fetchone() is not None:
            connection.execute(_LEASE, (at + LEASE, me, *key))
            mine.append(row)
    return mine
