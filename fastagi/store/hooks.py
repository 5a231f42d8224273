"""The store's side of hooks: which there are, which event is owed to which, and how it went."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence, Set
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog

from fastagi.agents.devices import DeviceType
from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, ContentType, Hook, HookDelivery, Method
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType
from fastagi.store.connection import Connection, moment
from fastagi.store.deliveries import (
    HOOK,
    LEASE,
    LOOK_AGAIN,
    PARKED_OF_HOOK,
    Runs,
    drop_parked,
    events_numbered,
)

log = structlog.get_logger()

KEPT = 200  # attempts in the log of a hook; …
PRUNE = 20  # … and so many more until the oldest are deleted

_HOOK = "h.id, h.client, h.agent_id, h.agent_type, h.event_type, h.method, h.url, h.content_type"
_PLACE = "client = ? AND agent_id = ? AND agent_type = ?"
_AGENT = "SELECT 1 FROM agents WHERE id = ? AND archived_at IS NULL"
_CREATE = (
    "INSERT INTO hooks (client, agent_id, agent_type, event_type, method, url, content_type,"
    " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"
)
_CREATED = (
    "SELECT id FROM hooks WHERE client = ? AND agent_id = ? AND agent_type = ? AND event_type = ?"
    " AND method = ? AND url = ? AND content_type = ? AND created_at = ?"
)
# Of each hook the first that is not parked. From one hook for which something waits to the next,
# in a few pages of an index: neither the hooks nor what waits are all looked at.
_FIRST = f"""
WITH RECURSIVE waiting(id) AS (
  SELECT min(hook) FROM hook_deliveries WHERE parked_at IS NULL
  UNION ALL
  SELECT (SELECT min(n.hook) FROM hook_deliveries n WHERE n.hook > w.id AND n.parked_at IS NULL)
  FROM waiting w WHERE w.id IS NOT NULL)
SELECT {_HOOK}, d.event, d.attempts{{more}}
FROM (SELECT w.id, (SELECT min(n.event) FROM hook_deliveries n {{index}}
                    WHERE n.hook = w.id AND n.parked_at IS NULL) AS event
      FROM waiting w WHERE w.id IS NOT NULL) f
JOIN hook_deliveries d ON d.hook = f.id AND d.event = f.event
JOIN hooks h ON h.id = f.id
WHERE d.due_at <= ? {{free}}
ORDER BY d.event LIMIT ? {{lock}}
"""
# SQLite would rather begin with those that were given up.
_DUE = _FIRST.format(more="", free="", lock="", index="INDEXED BY hook_deliveries_waiting")
# What is postponed and not held back itself; hardly anything is postponed.
_NEXT_DUE = """
SELECT min(d.due_at) FROM hook_deliveries d
WHERE d.due_at > 0 AND d.due_at > ? AND d.parked_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM hook_deliveries n
    WHERE n.hook = d.hook AND n.event < d.event AND n.parked_at IS NULL)
"""

# -- PostgreSQL, where several services ask

_LESSEES = (
    "SELECT DISTINCT leased_by FROM hook_deliveries"
    " WHERE leased_until > 0 AND leased_until > ? AND leased_by <> ?"
)
# Of a hook for which another service is at any delivery nothing is due here. What somebody else
# has locked or leased since this statement began is left out.
_CLAIM = _FIRST.format(
    more=", d.ctid::text",
    free="""AND NOT EXISTS (SELECT 1 FROM hook_deliveries l
    WHERE l.hook = f.id AND l.leased_until > 0 AND l.leased_until > ? AND l.leased_by = ANY(?))
  AND (d.parked_at IS NULL AND (d.leased_until <= ? OR d.leased_by = ? OR d.leased_by = ANY(?)))""",
    lock="FOR UPDATE OF d SKIP LOCKED",
    index="",
)
_LEASE = "UPDATE hook_deliveries SET leased_until = ?, leased_by = ? WHERE ctid = ANY(?::tid[])"
_RENEW = (
    "UPDATE hook_deliveries SET leased_until = ?"
    " WHERE leased_until > 0 AND leased_by = ? AND hook = ANY(?)"
)
# Whoever deletes a hook waits for what is being written about it, and the other way round; what
# is written then finds no hook.
_KEPT = "SELECT 1 FROM hooks WHERE id = ? FOR KEY SHARE"

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
        self._asked = 0.0  # what was due until then was given
        self._looking_again = False
        self._asker: frozenset[int] = frozenset()  # hooks of which the asker has something
        self._at = (0.0, 0.0)  # the asker's time then, and the loop's
        self._renewal: asyncio.TimerHandle | None = None
        self._logged: Counter[int] = Counter()  # attempts of a hook since this service began

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
        now = time.time()

        def job(connection: Connection) -> Hook | None:
            if connection.execute(_AGENT, (agent_id,)).fetchone() is None:
                return None
            values = (client, agent_id, agent_type, event_type.value, method, url, content_type)
            # There already, when the answer to the commit was lost and this is the second time.
            row = connection.execute(_CREATED, (*values, now)).fetchone()
            if row is None:
                row = connection.execute(_CREATE, (*values, now)).fetchone()
            (id,) = row
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
            connection.hooks_changed()
            return bool(connection.execute("DELETE FROM hooks WHERE id = ?", (id,)).rowcount)

        self._logged.pop(id, None)
        return await self._store.run(job)

    # -- how it went

    async def log(self, id: int, limit: int) -> list[Attempt]:
        def job(connection: Connection) -> list[Attempt]:
            rows = connection.execute(_READ_LOG, (id, min(limit, KEPT))).fetchall()
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
        """Of each hook that is not ``busy``, by id, its first delivery that is not parked, if that
        is due: up to ``limit``, the oldest events first.

        On PostgreSQL they are leased to this service until they are marked, or not ``busy`` at the
        next asking, or it ends; it may ask for them again. Hooks of which another service has a
        delivery are left to it, and looked for again soon. What cannot be read is parked.
        """
        at = now.timestamp()

        def job(
            connection: Connection,
        ) -> tuple[list[HookDelivery], list[tuple[int, int, str]], bool]:
            others = False
            # Those under way come first in the answer, and must not fill it.
            most = limit + len(busy)
            if connection.sqlite:
                rows = connection.execute(_DUE, (at, most)).fetchall()
                rows = [row for row in rows if row[0] not in busy][:limit]
            else:
                rows, others = _claimed(connection, at, most, limit, busy)
            events = events_numbered(connection, [row[8] for row in rows])
            found: list[HookDelivery] = []
            unreadable: list[tuple[int, int, str]] = []
            for row in rows:
                event = events[row[8]]
                try:
                    hook = _hook(row)
                except ValueError as error:  # a later version's, or somebody's hand
                    unreadable.append((row[0], row[8], f"the hook cannot be read: {error}"))
                    continue
                if isinstance(event, Event):
                    paused = event.type is EventType.LOGIN and _was_paused(connection, hook, event)
                    found.append(HookDelivery(hook, row[8], event, row[9], paused))
                else:
                    unreadable.append((row[0], row[8], str(event)))
            return found, unreadable, others

        found, unreadable, others = await self._store.run(job, writes=not self._store.sqlite)
        self._asked = at
        self._asker = frozenset(busy) | {delivery.hook.id for delivery in found}
        if not self._store.sqlite:
            self._at = (at, asyncio.get_running_loop().time())
            self._renew_later()
        if unreadable:
            await self._park_unreadable(unreadable, at)
        if others and not self._looking_again:
            self._looking_again = True
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look_again)
        return found

    def _renew_later(self) -> None:
        if self._renewal is None and self._asker:
            self._renewal = asyncio.get_running_loop().call_later(LEASE / 3, self._renew)

    def _renew(self) -> None:
        """What waits for a slow receiver waits for long, and is nobody else's all the same."""
        self._renewal = None
        then, at = self._at
        now = then + asyncio.get_running_loop().time() - at
        hooks = list(self._asker)

        def job(connection: Connection) -> None:
            connection.execute(_RENEW, (now + LEASE, connection.presence.id, hooks))

        if hooks:
            self._store.run(job).add_done_callback(_log_failure)
            self._renew_later()

    def close(self) -> None:
        """Nothing is renewed any more."""
        self._asker = frozenset()
        if self._renewal is not None:
            self._renewal.cancel()

    def _look_again(self) -> None:
        self._looking_again = False
        self._store.wake()

    async def _park_unreadable(self, which: Sequence[tuple[int, int, str]], at: float) -> None:
        def job(connection: Connection) -> None:
            for hook, event, error in which:
                connection.execute(_PARK, (at, error, hook, event))

        await self._store.run(job)
        for hook, event, error in which:
            log.error("delivery given up, parked", hook=hook, number=event, error=error)
        self._store.wake()  # what they were in the way of

    async def next_due(self) -> datetime | None:
        """When the next of those that are postponed is due; what was due already when ``due`` was
        asked last does not count. None: nothing is postponed."""
        asked = self._asked

        def job(connection: Connection) -> datetime | None:
            (at,) = connection.execute(_NEXT_DUE, (asked,)).fetchone()
            return None if at is None else moment(at)

        return await self._store.run(job, writes=False)

    async def delivered(self, delivery: HookDelivery, attempt: Attempt, /) -> None:
        """Need not be told again."""
        await self._mark(_GONE, (), delivery, attempt)

    async def postpone(self, delivery: HookDelivery, until: datetime, attempt: Attempt, /) -> None:
        """Failed: counts an attempt, not due before ``until``."""
        await self._mark(_LATER, (until.timestamp(), attempt.error), delivery, attempt)

    async def park(self, delivery: HookDelivery, now: datetime, attempt: Attempt, /) -> None:
        """Given up: kept for the admin, not due again, holds nothing back."""
        await self._mark(_PARK, (now.timestamp(), attempt.error), delivery, attempt)
        hook = delivery.hook.id

        def job(connection: Connection) -> int:
            return drop_parked(connection, "hook_deliveries", "hook", hook, PARKED_OF_HOOK)

        # Not with the mark: it need not wait for this, nor be tried again for it.
        with suppress(StoreUnavailable):
            if count := await self._store.run(job, synced=False):
                self._store.dropped(HOOK, count)

    async def _mark(
        self, text: str, values: tuple[object, ...], delivery: HookDelivery, attempt: Attempt
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
            if not connection.sqlite and connection.execute(_KEPT, (hook,)).fetchone() is None:
                return
            connection.execute(text, (*values, hook, delivery.seq))
            connection.execute(_LOG, (*logged, hook))
            if prune:
                connection.execute(_PRUNE, (hook, hook, KEPT))

        await self._store.run(job, synced=False)  # once too often is allowed
        self._asker -= {hook}


def _log_failure(future: "asyncio.Future[None]") -> None:
    if not future.cancelled() and future.exception() is not None:
        log.warning("leases of hooks' deliveries are not renewed", error=str(future.exception()))


def _claimed(
    connection: Connection, at: float, most: int, limit: int, busy: Set[int]
) -> tuple[list[Sequence[Any]], bool]:
    """Leased to this service; and whether others are at some."""
    me = connection.presence.id
    lessees = {row[0] for row in connection.execute(_LESSEES, (at, me)).fetchall() if row[0]}
    dead = connection.presence.dead(connection, lessees)
    alive = sorted(lessees - dead)
    rows = connection.execute(_CLAIM, (at, at, alive, at, me, sorted(dead), most)).fetchall()
    rows = [row for row in rows if row[0] not in busy][:limit]
    if rows:
        connection.execute(_LEASE, (at + LEASE, me, [row[10] for row in rows]))
    return rows, bool(alive)


def _was_paused(connection: Connection, hook: Hook, login: Event) -> bool:
    """Whether a pause went on at this login: whoever moves takes it along."""
    at = login.occurred_at.timestamp()
    row = connection.execute(
        "SELECT 1 FROM pause_segments WHERE agent_id = ? AND since < ?"
        " AND (ended_at IS NULL OR ended_at > ?) LIMIT 1",
        (hook.agent_id, at, at),
    ).fetchone()
    return row is not None
