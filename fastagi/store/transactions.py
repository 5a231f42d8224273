"""The hall's store on SQLite or PostgreSQL."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import structlog
from peewee import Database, PeeweeException
from playhouse.pool import PooledDatabase

from fastagi.agents import errors
from fastagi.agents.commands import Command, LogIn, LogOff, PauseReason, from_dict
from fastagi.agents.errors import Refused
from fastagi.agents.events import Event
from fastagi.agents.lockout import Lockout
from fastagi.agents.model import AgentState, Change, decide
from fastagi.agents.service import StoreUnavailable
from fastagi.store import directory
from fastagi.store.connection import MAX_STATES, Connection, Loaded, moment
from fastagi.store.database import Place, parse, prepare
from fastagi.store.deliveries import Deliveries
from fastagi.store.directory import Declared, Difference
from fastagi.store.pins import Pins
from fastagi.store.worker import MAX_BATCH, Workers

log = structlog.get_logger()

T = TypeVar("T")

DEADLINE = 10.0  # seconds a call may wait for its turn
POSTGRESQL_THREADS = 8
WARM_AT_ONCE = 200


class PeeweeStore:
    """Implements ``fastagi.agents.service.Store``; see there what each call promises.

    Made by ``open_store``. Calls belong to one event loop.
    """

    def __init__(self, place: Place, *, deadline: float = DEADLINE) -> None:
        self.sqlite = place.sqlite
        self.pins = Pins()
        self.deliveries = Deliveries(self)
        self._name = place.name
        # Agents' states as last committed, so that a read need not wait for a thread and for
        # others' commits. With PostgreSQL another service may write, so nothing is kept there;
        # with SQLite the next transaction notices when another process did.
        self._known: dict[str, AgentState] = {}
        self._woken: list[Callable[[], None]] = []
        self._database = place.database()
        self.workers: Workers[Connection] = Workers(
            lambda: Connection(self._database, place),
            threads=1 if place.sqlite else POSTGRESQL_THREADS,
            batch=MAX_BATCH if place.sqlite else 1,
            deadline=deadline,
            retry=not place.sqlite,
            on_commit=self.wake,
            on_outdated=self._known.clear,
            name="store",
        )

    def on_commit(self, callback: Callable[[], None]) -> None:
        """``callback`` is called in the loop after each commit that wrote deliveries."""
        self._woken.append(callback)

    def wake(self) -> None:
        """Calls what was given to ``on_commit``."""
        for callback in self._woken:
            callback()

    async def close(self) -> None:
        """Works off what was begun, then closes."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self.workers.close()
        self.pins.close()
        if isinstance(self._database, PooledDatabase):
            self._database.close_all()

    # -- the directory; these block: to be called before the loop runs, or in a thread

    def knows(self, material: bytes) -> bool:
        """Whether the settings with this fingerprint are the ones brought in last."""
        with self._blocking() as database:
            return directory.knows(database, material)

    def bring_in(self, declared: Declared) -> Difference:
        """Brings the store in line with the settings. Raises DirectoryConflict, StoreUnavailable;
        then nothing was changed."""
        with self._blocking() as database:
            difference = directory.bring_in(database, declared)
        self._known.clear()
        return difference

    @contextmanager
    def _blocking(self) -> Iterator[Database]:
        try:
            with self._database.connection_context():
                yield self._database
        except PeeweeException as error:
            raise StoreUnavailable(f"{self._name}: {error}") from error

    def run(
        self, job: Callable[[Connection], T], *, writes: bool = True, synced: bool = True
    ) -> "asyncio.Future[T]":
        """``job`` in a transaction of its own or with others; it may run twice. One that changes
        what makes an agent's state ends with ``connection.forget()``."""
        return self.workers.submit(job, writes=writes, synced=synced)

    # -- reading

    async def agent(self, number: str) -> AgentState | None:
        known = self._known.get(number)
        if known is not None:
            return known

        def job(connection: Connection) -> AgentState | None:
            found = connection.load(number)
            return None if found is None or found.archived else found.state

        return await self.workers.submit(
            job, writes=False, number=number, seen=lambda state: self._keep(number, state)
        )

    async def warm_up(self) -> None:
        """Reads the states of all agents, as far as there is room, a few at a time: the first call
        of each then finds its agent at hand. On SQLite only; elsewhere there is no keeping them."""
        least = 0

        def job(connection: Connection) -> list[Loaded]:
            return connection.warm(least, WARM_AT_ONCE)

        def seen(found: list[Loaded]) -> None:
            for one in found:
                if len(self._known) < MAX_STATES:
                    self._known.setdefault(one.state.number, one.state)

        while found := await self.workers.submit(job, writes=False, seen=seen):
            least = found[-1].state.id + 1
            await asyncio.sleep(0.01)

    async def agent_at(self, interface: str) -> AgentState | None:
        def job(connection: Connection) -> AgentState | None:
            found = connection.loaded_where(
                "a.id = (SELECT agent_id FROM devices_in_use WHERE interface = ?)",
                (interface.lower(),),
            )
            state = found[0].state if found else None
            if state is None or state.session is None:
                return None  # claimed by a login that is not confirmed yet
            same = state.session.device.interface.lower() == interface.lower()
            return state if same else None

        return await self.run(job, writes=False)

    async def queue_numbered(self, number: str) -> str | None:
        def job(connection: Connection) -> str | None:
            row = connection.execute(
                "SELECT name FROM queues WHERE number = ? AND archived_at IS NULL", (number,)
            ).fetchone()
            return None if row is None else row[0]

        return await self.run(job, writes=False)

    async def reasons(self) -> tuple[PauseReason, ...]:
        def job(connection: Connection) -> tuple[PauseReason, ...]:
            rows = connection.execute(
                "SELECT code, name FROM pause_reasons WHERE archived_at IS NULL"
            ).fetchall()
            rows.sort(key=lambda row: (len(row[0]), row[0]))  # 2 before 10
            return tuple(PauseReason(code, name) for code, name in rows)

        return await self.run(job, writes=False)

    async def logged_in(self) -> list[AgentState]:
        return await self.run(
            lambda connection: [
                found.state for found in connection.loaded_where("s.id IS NOT NULL")
            ],
            writes=False,
        )

    async def left_over(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Whom the configuration took away while logged in: the numbers of archived agents with a
        session, and agents with the names of the queues they are still in and no more have."""

        def job(connection: Connection) -> tuple[list[str], list[tuple[str, str]]]:
            agents = connection.execute(
                "SELECT a.number FROM agents a JOIN login_sessions s ON s.agent_id = a.id"
                " WHERE s.ended_at IS NULL AND a.archived_at IS NOT NULL ORDER BY a.id"
            ).fetchall()
            pairs = connection.execute(
                "SELECT a.number, q.name FROM memberships m JOIN agents a ON a.id = m.agent_id"
                " JOIN queues q ON q.id = m.queue_id WHERE m.joined = ?"
                " AND (m.archived_at IS NOT NULL OR q.archived_at IS NOT NULL)"
                " AND a.archived_at IS NULL ORDER BY a.id, q.id",
                (True,),
            ).fetchall()
            return [row[0] for row in agents], [(row[0], row[1]) for row in pairs]

        return await self.run(job, writes=False)

    async def planned(self) -> list[LogOff]:
        return await self.run(
            lambda connection: [
                found.state.planned
                for found in connection.loaded_where("s.planned IS NOT NULL")
                if found.state.planned is not None
            ],
            writes=False,
        )

    # -- changing

    async def begin(self, command: Command, now: datetime) -> Change:
        return await self.workers.submit(
            lambda connection: _begin(connection, command, now),
            number=command.agent,
            undo=_given_up,
            seen=self._begun,
            # After a power cut Asterisk's queues are empty and the intent is not missed.
            synced=False,
        )

    def _begun(self, change: Change) -> None:
        if not change.steps and change.alters:
            self._known.pop(change.before.number, None)

    async def confirm(self, change: Change) -> None:
        await self.workers.submit(
            lambda connection: _confirm(connection, change),
            seen=lambda state: self._keep(change.before.number, state),
        )

    def _keep(self, number: str, state: AgentState | None) -> None:
        if state is None:
            self._known.pop(number, None)
        elif self.sqlite:
            if len(self._known) >= MAX_STATES:
                self._known.clear()
            self._known[number] = state

    async def withdraw(self, change: Change, event: Event | None) -> None:
        await self.run(lambda connection: _withdraw(connection, change, event))

    async def record(self, event: Event) -> None:
        await self.run(lambda connection: connection.write_event(event))

    async def unsettled(self) -> list[Change]:
        return await self.run(_unsettled)

    # -- PINs

    async def pin_attempt(self, keys: Sequence[str], now: datetime, lockout: Lockout) -> str | None:
        def job(connection: Connection) -> str | None:
            at = now.timestamp()
            since = at - lockout.memory.total_seconds()
            if not connection.sqlite:
                for key in sorted(keys):  # sorted: two calls never wait for each other
                    connection.execute(
                        "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (key,)
                    )
            for key in keys:
                rows = connection.execute(
                    "SELECT at FROM pin_failures WHERE key = ? AND at >= ?", (key, since)
                ).fetchall()
                if lockout.locked([moment(row[0]) for row in rows], now):
                    return key
            for key in keys:
                connection.execute(
                    "DELETE FROM pin_failures WHERE key = ? AND at < ?", (key, since)
                )
                connection.execute("INSERT INTO pin_failures (key, at) VALUES (?, ?)", (key, at))
            return None

        return await self.run(job)

    async def pin_passed(self, keys: Sequence[str]) -> None:
        def job(connection: Connection) -> None:
            first, *others = keys
            connection.execute("DELETE FROM pin_failures WHERE key = ?", (first,))
            for key in others:
                connection.execute(
                    "DELETE FROM pin_failures WHERE id = (SELECT id FROM pin_failures"
                    " WHERE key = ? ORDER BY at DESC, id DESC LIMIT 1)",
                    (key,),
                )

        await self.run(job)

    # -- notes

    async def note(self, key: str) -> str | None:
        def job(connection: Connection) -> str | None:
            row = connection.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
            return None if row is None else row[0]

        return await self.run(job, writes=False)

    async def set_note(self, key: str, value: str) -> None:
        await self.run(lambda connection: write_note(connection, key, value))


def write_note(connection: Connection, key: str, value: str) -> None:
    connection.execute(
        "INSERT INTO notes (key, value) VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def _begin(connection: Connection, command: Command, now: datetime) -> Change:
    found = connection.lock(command.agent)
    if found is None or (
        found.archived and (found.state.session is None or isinstance(command, LogIn))
    ):
        raise errors.NoSuchAgent(command.agent)
    if found.intent_id is not None:
        if found.intent_id != command.id:
            raise errors.Unavailable(f"agent {command.agent} has an unsettled change")
        # The same call again, after the answer to its commit was lost.
        assert found.decided_at is not None
        return _accepted(decide(found.state, command, moment(found.decided_at)))
    decision = decide(found.state, command, now)
    if isinstance(command, LogIn):
        decision = _claim(connection, found.state, command, now, decision)
    change = _accepted(decision)
    if change.steps:
        connection.write_intent(found, command, now)
    elif change.alters:
        connection.write(change)
    return change


def _accepted(decision: Change | Refused) -> Change:
    if isinstance(decision, Refused):
        raise decision
    return decision


def _claim(
    connection: Connection,
    state: AgentState,
    command: LogIn,
    now: datetime,
    decision: Change | Refused,
) -> Change | Refused:
    """The device for this agent and nobody else; or decided again, knowing who has it."""
    interface = command.device.interface.lower()
    if isinstance(decision, Change):
        if decision.after.session is state.session:
            return decision  # nobody moves
        claimed = connection.execute(
            "INSERT INTO devices_in_use (interface, agent_id) VALUES (?, ?)"
            " ON CONFLICT (interface) DO NOTHING",
            (interface, state.id),
        )
        if claimed.rowcount == 1:
            return decision
    row = connection.execute(
        "SELECT a.number FROM devices_in_use d JOIN agents a ON a.id = d.agent_id"
        " WHERE d.interface = ?",
        (interface,),
    ).fetchone()
    if row is not None and row[0] != state.number:
        return decide(state, command, now, occupant=row[0])
    if row is None and isinstance(decision, Change):
        # Left in the instant between the two statements (PostgreSQL only).
        return errors.Unavailable(f"{interface} is changing hands")
    return decision


def _given_up(change: Change) -> Callable[[Connection], None] | None:
    """Nobody waits for what was begun, so nobody will apply or confirm it."""
    if not change.steps:
        return None
    return lambda connection: _withdraw(connection, change, None)


def _confirm(connection: Connection, change: Change) -> AgentState | None:
    """The agent's state now, where it is known without asking."""
    if not change.steps:
        return None  # was written when it was begun
    if connection.drop_intent(change):
        connection.write(change)
        return connection.kept(change.before.number)
    if change.events:
        there = connection.execute(
            "SELECT 1 FROM events WHERE id = ?", (change.events[0].id,)
        ).fetchone()
        if there is None:
            raise StoreUnavailable(f"the change {change.command.id} was taken back meanwhile")
    return None


def _withdraw(connection: Connection, change: Change, event: Event | None) -> None:
    if not connection.drop_intent(change):
        return
    if isinstance(change.command, LogIn):
        claimed = change.command.device.interface.lower()
        session = change.before.session
        if session is None or session.device.interface.lower() != claimed:
            connection.execute(
                "DELETE FROM devices_in_use WHERE interface = ? AND agent_id = ?",
                (claimed, change.before.id),
            )
    if event is not None:
        connection.write_event(event)


def _unsettled(connection: Connection) -> list[Change]:
    changes: list[Change] = []
    # Memberships taken away since then count: Asterisk may have been told.
    waiting = connection.loaded_where("i.agent_id IS NOT NULL", all_memberships=True)
    for found in sorted(waiting, key=lambda found: found.decided_at or 0.0):
        change = _decided_again(found)
        if change is not None:
            changes.append(change)
            continue
        # Logged as an error. Kept, it would lock the agent out for ever.
        id = found.state.id
        connection.execute("DELETE FROM intents WHERE agent_id = ?", (id,))
        connection.execute(
            "DELETE FROM devices_in_use WHERE agent_id = ? AND interface NOT IN (SELECT"
            " lower(interface) FROM login_sessions WHERE agent_id = ? AND ended_at IS NULL)",
            (id, id),
        )
        connection.forget(found.state.number)
    return changes


def _decided_again(found: Loaded) -> Change | None:
    assert found.intent is not None
    assert found.decided_at is not None
    try:
        command = from_dict(json.loads(found.intent))
    except (KeyError, TypeError, ValueError) as error:
        log.error("an intent cannot be read", agent=found.state.number, error=repr(error))
        return None
    decision = decide(found.state, command, moment(found.decided_at))
    if isinstance(decision, Refused):
        log.error("an intent cannot be decided again", agent=found.state.number, why=str(decision))
        return None
    return decision


def open_store(url: str, *, deadline: float = DEADLINE) -> PeeweeStore:
    """Opens the database, makes it if need be, and brings its tables up to date. Blocks.

    Raises BadDatabaseUrl, SchemaTooNew, StoreUnavailable; each text is meant for the admin.
    """
    place = parse(url)
    applied = prepare(place)
    if applied:
        log.info("the database was brought up to date", database=place.name, migrations=applied)
    return PeeweeStore(place, deadline=deadline)
