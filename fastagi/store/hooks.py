"""Which hooks there are, and how their deliveries went."""

import time

from fastagi.agents.devices import DeviceType
from fastagi.agents.hooks import Attempt, ContentType, Hook, Method
from fastagi.contract import EventType
from fastagi.store.connection import Connection, moment
from fastagi.store.outbox import HOOK_COLUMNS, KEPT, HookOutbox, Runs, hook_from

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
_READ_LOG = (
    "SELECT event_id, event_type, at, number, status, error, seconds, outcome"
    " FROM hook_attempts WHERE hook = ? ORDER BY id DESC LIMIT ?"
)


class Hooks:
    """Implements ``fastagi.agents.ports.Hooks``. Every call may raise StoreUnavailable."""

    def __init__(self, store: Runs, owed: HookOutbox) -> None:
        self._store = store
        self._owed = owed
        self.parked = owed.parked
        self.retry = owed.retry

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
                f"SELECT {HOOK_COLUMNS} FROM hooks h WHERE {_PLACE} ORDER BY id",
                (client, agent_id, agent_type),
            )
            return [hook_from(row) for row in rows.fetchall()]

        return await self._store.run(job, writes=False)

    async def hook(
        self, client: str, agent_id: int, agent_type: DeviceType, id: int
    ) -> Hook | None:
        def job(connection: Connection) -> Hook | None:
            row = connection.execute(
                f"SELECT {HOOK_COLUMNS} FROM hooks h WHERE {_PLACE} AND id = ?",
                (client, agent_id, agent_type, id),
            ).fetchone()
            return None if row is None else hook_from(row)

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

        self._owed.forget(id)
        return await self._store.run(job)

    # -- how it went

    async def log(self, id: int, limit: int) -> list[Attempt]:
        def job(connection: Connection) -> list[Attempt]:
            rows = connection.execute(_READ_LOG, (id, min(limit, KEPT))).fetchall()
            return [Attempt(row[0], EventType(row[1]), moment(row[2]), *row[3:]) for row in rows]

        return await self._store.run(job, writes=False)
