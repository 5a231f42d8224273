"""Agents made and changed through interfaces."""

import asyncio
import re
import secrets
from collections.abc import Callable, Sequence

from argon2 import PasswordHasher

from fastagi.config.settings import CreatedAgentsSettings
from fastagi.store import pins
from fastagi.store.connection import Connection
from fastagi.store.reading import Reading
from fastagi.store.transactions import PeeweeStore

API = "api"
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_PIN = re.compile(r"[0-9]{3,12}", re.ASCII)
# Passwords can be guessed away from here, where no lock-out protects them: as argon2 advises.
_hasher = PasswordHasher()


class Records:
    """Implements ``fastagi.agents.ports.Records``; see there. What reads is ``Reading``'s."""

    def __init__(
        self,
        store: PeeweeStore,
        reading: Reading,
        created: Callable[[], CreatedAgentsSettings],
        language: Callable[[], str],
    ) -> None:
        self._store = store
        self.agents, self.agent = reading.records, reading.record
        self.reasons = reading.reasons
        self.call_center_queues = reading.call_center_queues
        self._created = created
        self._language = language
        # A password's hash takes a tenth of a second on all processors, and a thread of those that
        # the readers need: one at a time.
        self._hashing = asyncio.Semaphore(1)

    async def _hashed(self, hashing: Callable[[str], str], text: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(hashing, text)

    async def create(
        self, name: str, login: str, password: str, queues: Sequence[int]
    ) -> int | None:
        created, language = self._created(), self._language()
        password_hash = await self._hashed(_hasher.hash, password)
        pin_hash = None
        if created.password_is_pin and _PIN.fullmatch(password):
            pin_hash = await self._hashed(pins.hash_of, password)

        def job(connection: Connection) -> int | None:
            connection.one_at_a_time("directory", 2)
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
