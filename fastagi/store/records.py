"""The directory as other programs see and change it: agents with their latest of everything."""

import asyncio
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from argon2 import PasswordHasher
from peewee import JOIN, fn

from fastagi.agents.limits import PauseLimit
from fastagi.agents.records import AgentRecord, Period, Reason
from fastagi.config.settings import CreatedAgentsSettings
from fastagi.store import pins, tables
from fastagi.store.connection import Connection, moment, span, when_exceeded
from fastagi.store.transactions import PeeweeStore
from fastagi.store.views import CHUNK, Views

API = "api"
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_PIN = re.compile(r"[0-9]{3,12}", re.ASCII)
# Passwords can be guessed away from here, where no lock-out protects them: as argon2 advises.
_hasher = PasswordHasher()


class Records:
    """Implements ``fastagi.api.doors.Records``; see there. The reading calls block."""

    def __init__(
        self,
        store: PeeweeStore,
        views: Views,
        created: Callable[[], CreatedAgentsSettings],
        language: Callable[[], str],
    ) -> None:
        self._store = store
        self._views = views
        self._created = created
        self._language = language
        # A password's hash takes a tenth of a second on all processors, and a thread of those that
        # the readers need: one at a time.
        self._hashing = asyncio.Semaphore(1)

    async def _hashed(self, hashing: Callable[[str], str], text: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(hashing, text)

    # -- reading

    def agents(self, offset: int, limit: int) -> tuple[list[AgentRecord], int]:
        table = tables.Agent
        with self._views.connected() as database:
            total = table.select(fn.count(table.id)).scalar(database)
            query = table.select().order_by(table.id).offset(offset).limit(limit)
            return self._records(database, query), int(total)

    def agent(self, id: int) -> AgentRecord | None:
        with self._views.connected() as database:
            found = self._records(database, tables.Agent.select().where(tables.Agent.id == id))
        return found[0] if found else None

    def _records(self, database: Any, query: Any) -> list[AgentRecord]:
        agents = list(query.dicts().execute(database))
        ids = [agent["id"] for agent in agents]
        queues = _queues(database, ids)
        sessions = _latest(database, tables.LoginSession, ids)
        pauses = _latest(database, tables.PauseSegment, ids)
        ended = _latest(database, tables.PauseSegment, ids, ended=True)
        records: list[AgentRecord] = []
        for agent in agents:
            id = agent["id"]
            session, pause = sessions.get(id), pauses.get(id)
            enabled = bool(agent["enabled"])
            records.append(
                AgentRecord(
                    id=id,
                    number=agent["number"],
                    name=agent["name"],
                    login=agent["login"] or agent["number"],
                    # Who is not enabled is kept out in the same way, and is there all the same.
                    archived=agent["archived_at"] is not None and enabled,
                    enabled=enabled and agent["archived_at"] is None,
                    queues=tuple(queues.get(id, ())),
                    interface=session.subject if session and session.ended_at is None else "",
                    last_login=session,
                    last_pause=ended.get(id),
                    current_pause=pause if pause and pause.ended_at is None else None,
                )
            )
        return records

    def reasons(self) -> list[Reason]:
        table = tables.PauseReason
        with self._views.connected() as database:
            rows = list(table.select().order_by(table.id).dicts().execute(database))
        return [
            Reason(
                row["id"],
                row["code"],
                row["name"],
                row["description"],
                bool(row["productive"]),
                row["type"],
                row["archived_at"] is not None,
                _limit(row),
            )
            for row in rows
        ]

    def call_center_queues(self) -> dict[str, bool]:
        table = tables.Queue
        with self._views.connected() as database:
            query = table.select(table.name, table.call_center).where(table.archived_at.is_null())
            return {name: bool(flag) for name, flag in query.tuples().execute(database)}

    # -- changing

    async def create(
        self, name: str, login: str, password: str, queues: Sequence[int]
    ) -> int | None:
        created, language = self._created(), self._language()
        password_hash = await self._hashed(_hasher.hash, password)
        pin_hash = None
        if created.password_is_pin and _PIN.fullmatch(password):
            pin_hash = await self._hashed(pins.hash_of, password)

        def job(connection: Connection) -> int | None:
            if not connection.sqlite:
                connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('directory', 2))")
            taken = connection.execute(
                "SELECT 1 FROM agents WHERE login = ? OR number = ?", (login, login)
            ).fetchone()
            if taken is not None:
                return None
            for queue in queues:
                row = connection.execute(
                    "SELECT 1 FROM queues WHERE id = ? AND archived_at IS NULL", (queue,)
                ).fetchone()
                if row is None:
                    raise KeyError(queue)
            number = login
            if not _NUMBER.fullmatch(login):
                used = connection.execute("SELECT number FROM agents").fetchall()
                number = _free(created.first_number, {row[0] for row in used})
            (id,) = connection.execute(
                "INSERT INTO agents (number, name, language, pin_hash, origin, login,"
                " password_hash, enabled) VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (number, name, language, pin_hash, API, login, password_hash, True),
            ).fetchone()
            for queue in dict.fromkeys(queues):
                connection.execute(
                    "INSERT INTO memberships (agent_id, queue_id, penalty, joined, origin)"
                    " VALUES (?, ?, 0, ?, ?)",
                    (id, queue, False, API),
                )
            connection.forget(number)
            return int(id)

        return await self._store.run(job)

    async def change(self, id: int, *, name: str | None, password: str | None) -> bool:
        values: dict[str, object] = {}
        usable = True
        if name is not None:
            values["name"] = name
        if password is not None:
            values["password_hash"] = await self._hashed(_hasher.hash, password)
            if self._created().password_is_pin:
                # One that can be no PIN leaves none that fits: neither the old one, nor no PIN.
                usable = _PIN.fullmatch(password) is not None
                pin = password if usable else secrets.token_hex(32)
                values["pin_hash"] = await self._hashed(pins.hash_of, pin)

        def job(connection: Connection) -> str | None:
            row = connection.execute(
                "SELECT number, pin_hash FROM agents WHERE id = ? AND archived_at IS NULL", (id,)
            ).fetchone()
            if row is None:
                return None
            if not usable and row[1] is None:
                values.pop("pin_hash", None)
            if values:
                assignments = ", ".join(f"{column} = ?" for column in values)
                connection.execute(
                    f"UPDATE agents SET {assignments} WHERE id = ?", (*values.values(), id)
                )
                connection.forget(row[0])
            return str(row[0])

        number = await self._store.run(job)
        if number is not None:
            self._store.forget(number)
        return number is not None

    async def number_of(self, login: str) -> str | None:
        def job(connection: Connection) -> str | None:
            rows = connection.execute(
                "SELECT number, login FROM agents"
                " WHERE (login = ? OR number = ?) AND archived_at IS NULL",
                (login, login),
            ).fetchall()
            # A login name goes before somebody else's number.
            rows.sort(key=lambda row: row[1] != login)
            return rows[0][0] if rows else None

        return await self._store.run(job, writes=False)


def _free(first: str, used: set[str]) -> str:
    number = int(first)
    while (text := str(number).zfill(len(first))) in used:
        number += 1
    return text


def _limit(row: dict[str, Any]) -> PauseLimit | None:
    longest, budget = row["max_duration"], row["daily_budget"]
    if longest is None and budget is None:
        return None
    return PauseLimit(span(longest), span(budget), when_exceeded(row["when_exceeded"]))


def _queues(database: Any, ids: Sequence[int]) -> dict[int, list[int]]:
    membership, queue = tables.Membership, tables.Queue
    found: dict[int, list[int]] = {}
    for some in _chunks(ids):
        query = (
            membership.select(membership.agent, membership.queue)
            .join(queue, JOIN.INNER)
            .where(
                membership.agent.in_(some)
                & membership.archived_at.is_null()
                & queue.archived_at.is_null()
            )
            .order_by(membership.agent, membership.queue)
        )
        for agent, its in query.tuples().execute(database):
            found.setdefault(agent, []).append(its)
    return found


def _latest(
    database: Any, table: Any, ids: Sequence[int], *, ended: bool = False
) -> dict[int, Period]:
    """Each agent's latest session or pause; the latest that has ended."""
    session = table is tables.LoginSession
    what, name = (table.interface, table.interface) if session else (table.code, table.name)
    found: dict[int, Period] = {}
    for id in ids:
        query = (
            table.select(table.id, what, name, table.since, table.ended_at)
            .where(table.agent == id)
            .order_by(table.since.desc(), table.id.desc())
            .limit(1)
        )
        if ended:
            query = query.where(table.ended_at.is_null(False))
        for row in query.tuples().execute(database):
            at = None if row[4] is None else moment(row[4])
            found[id] = Period(row[0], row[1], row[2], moment(row[3]), at)
    return found


def _chunks(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[begin : begin + CHUNK] for begin in range(0, len(ids), CHUNK))
