"""The hall's store on SQLite or PostgreSQL."""

import asyncio
import sqlite3
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import psycopg
import structlog
from peewee import Database, PeeweeException
from playhouse.pool import PooledDatabase

from fastagi.agents.commands import (
    LogOff,
    Pause,
    PauseReason,
)
from fastagi.agents.deciding import Again, Rule
from fastagi.agents.devices import Device
from fastagi.agents.events import Event
from fastagi.agents.fence import Fence
from fastagi.agents.limits import (
    OpenPause,
    PauseLimit,
    QueuePause,
    exceeded_event,
)
from fastagi.agents.lockout import USUAL_FOR, Keys, Verdict
from fastagi.agents.model import AgentState, Change
from fastagi.agents.protection import Removal
from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import Lock, StoreFault
from fastagi.store import changes, configured, tables
from fastagi.store.clock import Clock
from fastagi.store.configured import Declared, Difference
from fastagi.store.connection import (
    MAX_STATES,
    Connection,
    Loaded,
    moment,
    planned_from,
    span,
    when_exceeded,
)
from fastagi.store.database import Claim, Place, explained, parse, prepare
from fastagi.store.file import DatabaseFile
from fastagi.store.health import PREFIX, Health, clear_up
from fastagi.store.hooks import Hooks
from fastagi.store.locks import (
    AGAIN,
    NamedLocks,
    Presence,
    RowLocks,
    SharedNamedLocks,
    SharedPresence,
)
from fastagi.store.outbox import PARKED_FOR, HookOutbox, SinkOutbox
from fastagi.store.pins import Pins
from fastagi.store.postgresql import PostgresqlConnection
from fastagi.store.sqlite import SqliteConnection
from fastagi.store.worker import Workers

log = structlog.get_logger()

T = TypeVar("T")

DEADLINE = 10.0  # seconds a call may wait for its turn
HOLDS = 8  # connections, each with the agents of one repair
BRING_IN_ATTEMPTS = 5
RELEASE = 2.0  # seconds
TIDY_EVERY, TIDY_AGAIN = 3600.0, 60.0  # seconds
SOME = 500  # values in a statement
STEP = 5.0  # seconds that a clock is set by until something is done about it
WARM_AT_ONCE = 200
AHEAD = 60.0  # seconds; an attempt waits for its turn for less
NEVER = "never"  # agents.logoff_at of those who stay after the end of the shift


class PeeweeStore:
    """Implements ``fastagi.agents.service.Store``; see there what each call promises.

    Until ``open`` has succeeded and ``opened`` is called, every call raises StoreUnavailable.
    Calls belong to one event loop.
    """

    def __init__(
        self,
        place: Place,
        *,
        deadline: float = DEADLINE,
        serve: bool = False,
        fence: Fence | None = None,
    ) -> None:
        self._fence = fence or Fence(log)
        self.place = place
        self.identity = ""  # of the database; "" until it is opened
        self.file = None if place.path is None else DatabaseFile(place.path)
        self.clock = Clock()
        self.health = Health(self, place, self.file, self.clock)
        self._serve = serve
        self._claim: Claim | None = None
        self._prepared = False
        self.pins = Pins()
        self.deliveries = SinkOutbox(self)
        self.hook_deliveries = HookOutbox(self)
        self.hooks = Hooks(self, self.hook_deliveries)
        self._name = place.name
        # Agents' states as last committed, so that a read need not wait for a thread and for
        # others' commits. With PostgreSQL another service may write, so nothing is kept there;
        # with SQLite the next transaction notices when another process did.
        self._known: dict[str, AgentState] = {}
        self._numbers: dict[int, str] = {}  # by id
        self._kept: dict[str, Any] = {}  # of the directory, likewise
        self._woken: list[Callable[[], None]] = []
        self._on_dropped: list[Callable[[str, int], None]] = []
        self._dropping: set[str] = set()  # sinks of which it was said
        self._database = place.database()
        self._backend: type[SqliteConnection | PostgresqlConnection]
        self._row_locks: RowLocks | None = None
        if place.waiting is None:
            self._backend, self._presence = SqliteConnection, Presence()
            self._named_locks = NamedLocks()
        else:
            self._backend, self._presence = PostgresqlConnection, SharedPresence(self._database)
            self._named_locks = SharedNamedLocks(place.waiting, deadline, self.wake, self._notify)
            self._row_locks = RowLocks(self._lock_rows, deadline, HOLDS)
        self.workers: Workers[Connection] = Workers(
            self._connect,
            threads=self._backend.THREADS,
            batch=self._backend.BATCH,
            deadline=deadline,
            retry=self._backend.RETRY,
            on_commit=self._committed,
            on_outdated=self._outdated,
            on_result=self._result,
            name="store",
            fence=self._fence,
        )
        self.workers.refusal = StoreUnavailable(
            f"{place.name}: not opened yet", fault=StoreFault.STARTING
        )
        self.health.on_fault.append(self._outdated)
        self.health.on_back.append(self.wake)
        self.health.on_step.append(self._stepped)

    def _connect(self) -> Connection:
        return self._backend(self._database, self.place, self._presence, self.file, self.clock)

    def _lock_rows(self) -> PostgresqlConnection:
        return PostgresqlConnection(self._database, self.place, self._presence, None, self.clock)

    def _result(self, error: StoreUnavailable | None) -> None:
        if error is None:
            self.health.worked()
        else:
            self.health.failed(error)

    def _stepped(self, seconds: float) -> None:
        """The database's clock, which is that of all services here, was set."""
        if abs(seconds) < STEP:
            return
        log.warning("the clock of the database was set", seconds=round(seconds, 1))
        self.run(self._unstick).add_done_callback(_seen)

    def _unstick(self, connection: Connection) -> None:
        for outbox in (self.deliveries, self.hook_deliveries):
            outbox.unstick(connection, self.clock.time())

    # -- its beginning; these block: to be called before the loop runs, or in a thread

    def open(self, *, new: bool = False) -> None:
        """Makes the database if need be, and brings its tables up to date. Can be called again
        after a failure.

        A service on SQLite takes the database that it used last; with ``new`` also another one,
        or none. Raises SchemaTooNew; StoreUnusable when waiting does not help; StoreUnavailable.
        """
        if self._prepared:
            return
        place = self.place
        if self._serve and self._claim is None:
            self._claim = Claim(place)
        claim = self._claim
        if claim is not None:
            claim.take()
        applied, identity = prepare(place, last=claim.last if claim else "", new=new)
        if claim is not None:
            claim.take()  # it may have been made just now
        try:
            self._presence.start()
            with self._database.connection_context():
                asks = self._backend(self._database, place, self._presence, None, self.clock)
                asks.begin(True, True)
                if now := asks.probing():
                    self.clock.align(now)
                self._unstick(asks)
                clear_up(asks, time.time())
                asks.commit()
        except (OSError, PeeweeException, sqlite3.Error, psycopg.Error) as error:
            raise explained(place, error, starting=True) from error
        if claim is not None:
            claim.note(identity)
        self.identity = identity
        self._prepared = True
        if applied:
            log.info("the database was brought up to date", database=place.name, migrations=applied)

    def opened(self) -> None:
        """From now on it answers. Called in any thread."""
        self.workers.refusal = None

    def not_opened(self, error: StoreUnavailable) -> None:
        """It could not be opened; called in the loop."""
        self.workers.refusal = error
        self.health.failed(error)

    def on_commit(self, callback: Callable[[], None]) -> None:
        """``callback`` is called in the loop after each commit that wrote deliveries."""
        self._woken.append(callback)

    def wake(self) -> None:
        """Calls what was given to ``on_commit``."""
        for callback in self._woken:
            with self._fence.item("store"):
                callback()

    def _committed(self) -> None:
        self.wake()
        self._named_locks.wake_holders()

    def _notify(self, sql: str) -> None:
        """What is lost with the database is found by looking."""
        self.run(lambda connection: connection.execute(sql), writes=False).add_done_callback(_seen)

    def on_dropped(self, callback: Callable[[str, int], None]) -> None:
        """``callback`` learns of parked deliveries that were deleted: the sink, and how many."""
        self._on_dropped.append(callback)

    def dropped(self, sink: str, count: int) -> None:
        """Says once for each sink that what was given up is deleted; the metric counts on."""
        if sink not in self._dropping:
            self._dropping.add(sink)
            log.warning(
                "parked deliveries are deleted, as there are too many or they are too old:"
                " `fastagi events --parked` shows why they fail",
                sink=sink,
                count=count,
            )
        for callback in self._on_dropped:
            callback(sink, count)

    async def tidy_up(self) -> None:
        """Once in a while: what was given up long ago is deleted. Never returns."""
        while True:
            try:
                # The earlier of the two: a machine's clock that was set forward deletes nothing.
                now = min(time.time(), self.clock.time())
                for outbox in (self.deliveries, self.hook_deliveries):
                    await outbox.drop_old(datetime.fromtimestamp(now - PARKED_FOR, UTC))
            except StoreUnavailable:
                await asyncio.sleep(TIDY_AGAIN)
            else:
                await asyncio.sleep(TIDY_EVERY)

    @property
    def id(self) -> str:
        """This service among those that share the database; another at each start."""
        return self._presence.id

    async def close(self) -> None:
        """Works off what was begun, then closes."""
        # A database that is away shall not hold up the stop.
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(RELEASE):
                await self.run(self._release)
        await asyncio.to_thread(self._close)

    def _release(self, connection: Connection) -> None:
        connection.execute("DELETE FROM notes WHERE key = ?", (PREFIX + self.id,))

    def _close(self) -> None:
        self.workers.close()
        if self._row_locks is not None:
            self._row_locks.close()
        self._presence.close()
        self.pins.close()
        self.health.close()
        if isinstance(self._database, PooledDatabase):
            self._database.close_all()
        if self.file is not None:
            self.file.close()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _outdated(self) -> None:
        self._known.clear()
        self._numbers.clear()
        self._kept.clear()

    # -- the directory; these block, too

    def knows(self, material: bytes) -> bool:
        """Whether the settings with this fingerprint are the ones brought in last."""
        with self._blocking() as database:
            return configured.knows(database, material)

    def bring_in(
        self, declared: Declared, allow: Callable[[Removal], None] = lambda _: None
    ) -> Difference:
        """Brings the store in line with the settings. Raises DirectoryConflict, StoreUnavailable,
        and what ``allow`` raises when it is told what would be taken away; then nothing was
        changed."""
        for attempt in range(BRING_IN_ATTEMPTS):
            try:
                with self._blocking() as database, self._busy("a configuration is brought in"):
                    difference = configured.bring_in(database, declared, allow)
            except StoreUnavailable as error:
                # Agents that another service holds are met in another order than it has them.
                if attempt + 1 < BRING_IN_ATTEMPTS and _is_deadlock(error):
                    continue
                raise
            break
        self._outdated()
        return difference

    @contextmanager
    def _busy(self, what: str) -> Iterator[None]:
        """Whoever meets the lock meanwhile is not sent to look for another program."""
        if self.file is not None:
            self.file.busy = what
        try:
            yield
        finally:
            if self.file is not None:
                self.file.busy = ""

    @contextmanager
    def _blocking(self) -> Iterator[Database]:
        if not self._prepared:
            raise StoreUnavailable(f"{self._name}: not opened yet", fault=StoreFault.STARTING)
        try:
            if self.file is not None:
                self.file.exists()
                self.file.check()
            with self._database.connection_context():
                yield self._database
        except PeeweeException as error:
            raise explained(self.place, error) from error

    def run(
        self, job: Callable[[Connection], T], *, writes: bool = True, synced: bool = True
    ) -> "asyncio.Future[T]":
        """``job`` in a transaction of its own or with others; it may run twice. One that changes
        what makes an agent's state ends with ``connection.forget()``."""
        return self.workers.submit(job, writes=writes, synced=synced)

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        return await self.run(lambda c: c.execute(sql, values).fetchall(), writes=False)

    async def _selected(self, query: Any) -> list[Any]:
        """Rows of a query of Peewee's."""
        return await self.run(lambda c: list(query.tuples().execute(c.peewee)), writes=False)

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

    async def agent_by_id(self, id: int) -> AgentState | None:
        """The agent with this id, unless archived."""
        number = self._numbers.get(id)
        if number is not None:
            known = self._known.get(number)
            if known is not None and known.id == id:
                return known

        def job(connection: Connection) -> AgentState | None:
            found = next(iter(connection.loaded_where("a.id = ?", (id,))), None)
            return None if found is None or found.archived else found.state

        def seen(state: AgentState | None) -> None:
            if state is not None and self._backend.KEEPS:
                if len(self._numbers) >= MAX_STATES:
                    self._numbers.clear()
                self._numbers[id] = state.number
                self._keep(state.number, state)

        return await self.workers.submit(job, writes=False, seen=seen)

    async def queue_by_id(self, id: int) -> tuple[str, str] | None:
        """Name in Asterisk and number, unless archived."""

        def job(connection: Connection) -> dict[int, tuple[str, str]]:
            rows = connection.execute(
                "SELECT id, name, number FROM queues WHERE archived_at IS NULL"
            ).fetchall()
            return {id: (name, number) for id, name, number in rows}

        return (await self._keeping("queues", job)).get(id)

    async def _keeping(self, key: str, job: Callable[[Connection], T]) -> T:
        """What ``job`` reads, or has read since another process has written."""

        def seen(found: T) -> None:
            if self._backend.KEEPS:
                self._kept[key] = found

        if key in self._kept:
            kept: T = self._kept[key]
            return kept
        return await self.workers.submit(job, writes=False, seen=seen)

    def forget(self, number: str) -> None:
        """The agent's state as last committed is not that any more."""
        self._known.pop(number, None)

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

    async def agent_at(self, key: str) -> AgentState | None:
        return (await self.agents_at([key])).get(key)

    async def agents_at(self, keys: Sequence[str]) -> dict[str, AgentState]:
        def job(connection: Connection) -> dict[str, AgentState]:
            which, values = connection.one_of(keys)
            where = f"a.id IN (SELECT agent_id FROM devices_in_use WHERE interface {which})"
            wanted = set(keys)
            there: dict[str, AgentState] = {}
            for found in connection.loaded_where(where, values):
                session = found.state.session
                # Elsewhere, or nowhere, is one whose login there is not confirmed yet.
                if session is not None and session.device.key in wanted:
                    there[session.device.key] = found.state
            return there

        return await self.run(job, writes=False) if keys else {}

    async def agents_with_extension(self, extension: str, asterisk: str) -> list[AgentState]:
        def job(connection: Connection) -> list[AgentState]:
            # Through the table of devices, which is small: there is no index on extensions.
            where = (
                "a.id IN (SELECT l.agent_id FROM devices_in_use d JOIN login_sessions l"
                " ON l.agent_id = d.agent_id WHERE l.ended_at IS NULL"
                " AND l.extension = ? AND l.asterisk = ?)"
            )
            return [found.state for found in connection.loaded_where(where, (extension, asterisk))]

        return await self.run(job, writes=False)

    async def states(self, numbers: Sequence[str]) -> dict[str, AgentState]:
        known = {number: self._known[number] for number in numbers if number in self._known}
        if len(known) == len(set(numbers)):
            return known

        def job(connection: Connection) -> dict[str, AgentState]:
            return _by_number(connection.load_many(numbers))

        return await self.run(job, writes=False)

    async def queue_names(self) -> dict[str, tuple[str, str]]:
        def job(connection: Connection) -> dict[str, tuple[str, str]]:
            rows = connection.execute(
                # Of two that differ in case alone the one that is not archived counts.
                "SELECT name, number FROM queues ORDER BY archived_at IS NULL, id"
            ).fetchall()
            return {name.lower(): (name, number) for name, number in rows}

        return await self._keeping("queue_names", job)

    async def queue_numbered(self, number: str) -> str | None:
        rows = await self._rows(
            "SELECT name FROM queues WHERE number = ? AND archived_at IS NULL", number
        )
        return rows[0][0] if rows else None

    async def reasons(self) -> tuple[PauseReason, ...]:
        rows = await self._rows(
            "SELECT code, name, description FROM pause_reasons WHERE archived_at IS NULL"
        )
        rows.sort(key=lambda row: (len(row[0]), row[0]))  # 2 before 10
        return tuple(PauseReason(*row) for row in rows)

    async def logged_in(self) -> list[AgentState]:
        return await self.run(
            lambda connection: [
                found.state for found in connection.loaded_where("s.id IS NOT NULL")
            ],
            writes=False,
        )

    async def left_over(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Whom the configuration took away while logged in: the numbers of archived agents with a
        session, and agents with the names of the queues they are still in and no more have. Not the
        queues into which somebody put an agent in Asterisk."""
        agent, session = tables.Agent, tables.LoginSession
        member, queue = tables.Membership, tables.Queue
        archived = agent.select(agent.number).join(session).order_by(agent.id)
        archived = archived.where(session.ended_at.is_null(), agent.archived_at.is_null(False))
        pairs = member.select(agent.number, queue.name).join(agent).switch(member).join(queue)
        pairs = pairs.order_by(agent.id, queue.id).where(
            member.joined,
            member.origin != "asterisk",
            member.archived_at.is_null(False) | queue.archived_at.is_null(False),
            agent.archived_at.is_null(),
        )
        found = await self._selected(archived), await self._selected(pairs)
        return [row[0] for row in found[0]], [(row[0], row[1]) for row in found[1]]

    async def lately(self, events: int) -> list[AgentState]:
        def job(connection: Connection) -> list[AgentState]:
            rows = connection.execute(
                "SELECT DISTINCT agent FROM (SELECT agent FROM events ORDER BY seq DESC LIMIT ?) e",
                (events,),
            ).fetchall()
            numbers = [row[0] for row in rows if row[0]]
            states: list[AgentState] = []
            for begin in range(0, len(numbers), SOME):
                which, values = connection.one_of(numbers[begin : begin + SOME])
                found = connection.loaded_where(f"a.number {which}", values)
                states += [one.state for one in found]
            return states

        return await self.run(job, writes=False)

    async def planned(self) -> list[LogOff | Pause]:
        session = tables.LoginSession
        query = session.select(session.planned).order_by(session.agent)
        query = query.where(session.planned.is_null(False), session.ended_at.is_null())
        rows = await self._selected(query)
        return [command for (text,) in rows if (command := planned_from(text)) is not None]

    # -- time

    async def limits(self) -> dict[str, PauseLimit]:
        def job(connection: Connection) -> dict[str, PauseLimit]:
            rows = connection.execute(
                "SELECT code, max_duration, daily_budget, when_exceeded FROM pause_reasons"
                " WHERE archived_at IS NULL"
                " AND (max_duration IS NOT NULL OR daily_budget IS NOT NULL)"
            ).fetchall()
            return {
                code: PauseLimit(span(longest), span(budget), when_exceeded(then))
                for code, longest, budget, then in rows
            }

        return await self._keeping("limits", job)

    async def queue_pauses(self) -> dict[tuple[str, str], QueuePause]:
        def job(connection: Connection) -> dict[tuple[str, str], QueuePause]:
            rows = connection.execute(
                "SELECT q.name, p.code, p.limit_duration, p.automatic_unpause, p.disable_unpause"
                " FROM queue_pauses p JOIN queues q ON q.id = p.queue_id"
                " WHERE q.archived_at IS NULL"
            ).fetchall()
            return {
                (queue, code): QueuePause(span(limit), bool(automatic), bool(disabled))
                for queue, code, limit, automatic, disabled in rows
            }

        return await self._keeping("queue_pauses", job)

    async def open_pauses(self) -> list[OpenPause]:
        pause, agent = tables.PauseSegment, tables.Agent
        query = pause.select(agent.number, pause.id, pause.code, pause.name, pause.since)
        query = query.join(agent).where(pause.ended_at.is_null()).order_by(pause.since)
        return [
            OpenPause(number, id, PauseReason(code, name), moment(since))
            for number, id, code, name, since in await self._selected(query)
        ]

    async def exceeded(self, segments: Sequence[str]) -> set[str]:
        """Those of these pauses of which an event tells that they last too long."""
        events = {exceeded_event(segment): segment for segment in segments}
        ids, found = list(events), set[str]()
        for begin in range(0, len(ids), SOME):
            some = ids[begin : begin + SOME]
            query = tables.Event.select(tables.Event.id).where(tables.Event.id.in_(some))
            found |= {events[id] for (id,) in await self._selected(query)}
        return found

    async def paused_since(self, agent: str, code: str, since: datetime) -> timedelta:
        at = since.timestamp()

        def job(connection: Connection) -> timedelta:
            (seconds,) = connection.execute(
                "SELECT sum(ended_at - CASE WHEN since > ? THEN since ELSE ? END)"
                " FROM pause_segments WHERE agent_id = (SELECT id FROM agents WHERE number = ?)"
                " AND ended_at > ? AND code = ?",
                (at, at, agent, at, code),
            ).fetchone()
            return timedelta(seconds=seconds or 0.0)

        return await self.run(job, writes=False)

    async def overdue(self, cutoffs: Mapping[str, datetime]) -> list[str]:
        session, agent = tables.LoginSession, tables.Agent
        numbers: list[str] = []
        for key, cutoff in cutoffs.items():
            if key == NEVER:
                continue
            query = session.select(agent.number).join(agent).order_by(agent.id)
            query = query.where(
                session.ended_at.is_null(),
                session.since < cutoff.timestamp(),
                agent.logoff_at == key if key else agent.logoff_at.is_null(),
            )
            numbers += [number for (number,) in await self._selected(query)]
        return numbers

    async def shift_ends(self) -> list[str]:
        at = tables.Agent.logoff_at
        query = tables.Agent.select(at).distinct().where(at != NEVER).order_by(at)
        return [text for (text,) in await self._selected(query)]

    # -- nobody else

    @asynccontextmanager
    async def hold(self, numbers: Sequence[str]) -> AsyncIterator[dict[str, AgentState]]:
        if self.workers.refusal is not None:
            raise self.workers.refusal
        if not numbers:
            yield {}
        elif self._row_locks is None:
            yield await self.run(
                lambda connection: _by_number(_settled(connection.load_many(numbers))),
                writes=False,
            )
        else:
            async with self._row_locks.use(
                lambda connection: _by_number(_settled(connection.hold(numbers))),
                PostgresqlConnection.rollback,
                writes=True,
            ) as states:
                yield states

    @asynccontextmanager
    async def exclusive(
        self, name: str, *, wait: bool = False, on_lost: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Lock | None]:
        while self.workers.refusal is not None:
            if not wait:
                raise self.workers.refusal
            await asyncio.sleep(AGAIN)
        async with self._named_locks.exclusive(name, wait=wait, on_lost=on_lost) as lock:
            yield lock

    # -- changing

    async def begin(
        self,
        number: str,
        rule: Rule,
        device: Device | None = None,
        *,
        event: str = "",
        held: bool = False,
    ) -> Change:
        return await self.workers.submit(
            lambda connection: changes.begin(connection, number, rule, device, event, held),
            number=number,
            undo=changes.given_up,
            seen=self._begun,
            # After a power cut Asterisk's queues are empty and the intent is not missed.
            synced=False,
        )

    def _begun(self, change: Change) -> None:
        if not change.steps and change.alters:
            self._known.pop(change.before.number, None)

    async def confirm(self, change: Change) -> None:
        await self.workers.submit(
            lambda connection: changes.confirm(connection, change),
            seen=lambda state: self._keep(change.before.number, state),
        )

    def _keep(self, number: str, state: AgentState | None) -> None:
        if state is None:
            self._known.pop(number, None)
        elif self._backend.KEEPS:
            if len(self._known) >= MAX_STATES:
                self._known.clear()
            self._known[number] = state

    async def withdraw(self, change: Change, event: Event | None) -> None:
        await self.run(lambda connection: changes.withdraw(connection, change, event))

    async def record(self, event: Event) -> None:
        await self.run(lambda connection: connection.write_event(event))

    async def unsettled(self, rule: Again) -> list[Change]:
        return await self.run(lambda connection: changes.unsettled(connection, rule))

    # -- PINs

    async def pin_attempt(
        self,
        keys: Keys,
        now: float,
        memory: float,
        rule: Callable[[Mapping[str, Sequence[float]], bool], Verdict],
    ) -> Verdict:
        def job(connection: Connection) -> Verdict:
            counted = keys.counted
            for key in sorted(counted):  # sorted: two calls never wait for each other
                connection.one_at_a_time(key, 0)
            connection.execute("DELETE FROM pin_failures WHERE at < ?", (now - memory,))
            # The machine's clock was set back while no service ran: as if they were of now.
            connection.execute("UPDATE pin_failures SET at = ? WHERE at > ?", (now, now + AHEAD))
            failed_at: dict[str, list[float]] = {key: [] for key in counted}
            for key in counted:
                rows = connection.execute("SELECT at FROM pin_failures WHERE key = ?", (key,))
                failed_at[key] = [row[0] for row in rows.fetchall()]
            usual = (
                keys.own
                and connection.execute(
                    "SELECT 1 FROM usual_places WHERE key = ? AND until > ?", (keys.own, now)
                ).fetchone()
            )
            verdict = rule(failed_at, bool(usual))
            if not verdict.locked:
                for key in counted:
                    connection.execute(
                        "INSERT INTO pin_failures (key, at) VALUES (?, ?)", (key, verdict.at)
                    )
            return verdict

        return await self.run(job)

    async def pin_passed(self, keys: Keys, at: float, usual_until: float) -> None:
        def job(connection: Connection) -> None:
            for key in keys.counted:
                if key == keys.own:
                    connection.execute("DELETE FROM pin_failures WHERE key = ?", (key,))
                    continue
                connection.execute(
                    "DELETE FROM pin_failures WHERE id = (SELECT id FROM pin_failures"
                    " WHERE key = ? AND at = ? LIMIT 1)",
                    (key, at),
                )
            if keys.own:
                connection.execute(
                    "DELETE FROM usual_places WHERE until < ?", (usual_until - USUAL_FOR,)
                )
                connection.execute(
                    "INSERT INTO usual_places (key, until) VALUES (?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET until = excluded.until",
                    (keys.own, usual_until),
                )

        await self.run(job)

    async def outside_numbers(self, number: str) -> tuple[str, ...]:
        rows = await self._rows(
            "SELECT outside FROM agents WHERE number = ? AND archived_at IS NULL", number
        )
        return tuple(rows[0][0].split()) if rows else ()

    # -- notes

    async def note(self, key: str) -> str | None:
        rows = await self._rows("SELECT value FROM notes WHERE key = ?", key)
        return rows[0][0] if rows else None

    async def clock_was_set(self, before: datetime, by: timedelta, begun: Collection[str]) -> None:
        def job(connection: Connection) -> None:
            alone = connection.presence.alone(connection)
            for table in ("login_sessions", "pause_segments"):
                moved = f"UPDATE {table} SET since = since + ? WHERE ended_at IS NULL"
                if alone:  # whatever goes on was written by this clock
                    connection.execute(
                        f"{moved} AND since <= ?", (by.total_seconds(), before.timestamp())
                    )
                else:
                    connection.execute(f"{moved} AND id = ANY(?)", (by.total_seconds(), [*begun]))
            connection.forget()

        await self.run(job)

    async def set_note(self, key: str, value: str) -> None:
        await self.run(lambda connection: write_note(connection, key, value))

    async def notes(self, prefix: str) -> dict[str, str]:
        rows = await self._rows(
            "SELECT key, value FROM notes WHERE substr(key, 1, ?) = ? ORDER BY key",
            len(prefix),
            prefix,
        )
        return dict(rows)

    async def drop_note(self, key: str) -> None:
        await self.run(
            lambda connection: connection.execute("DELETE FROM notes WHERE key = ?", (key,))
        )


def _is_deadlock(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, psycopg.errors.DeadlockDetected):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_note(connection: Connection, key: str, value: str) -> None:
    connection.execute(
        "INSERT INTO notes (key, value) VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def _settled(agents: Iterable[Loaded]) -> Iterable[Loaded]:
    return (found for found in agents if found.intent_id is None)


def _by_number(agents: Iterable[Loaded]) -> dict[str, AgentState]:
    """Archived agents count as long as they are logged in."""
    return {
        found.state.number: found.state
        for found in agents
        if not found.archived or found.state.session is not None
    }


def open_store(
    url: str, *, deadline: float = DEADLINE, serve: bool = False, fence: Fence | None = None
) -> PeeweeStore:
    """Opens the database, makes it if need be, and brings its tables up to date. Blocks.

    ``serve``: as a service, of which a SQLite file can have only one. Raises BadDatabaseUrl,
    SchemaTooNew, StoreUnavailable; each text is meant for the admin.
    """
    store = PeeweeStore(parse(url), deadline=deadline, serve=serve, fence=fence)
    try:
        store.open()
    except BaseException:
        store._close()
        raise
    store.opened()
    return store


def _seen(future: "asyncio.Future[T]") -> None:
    if not future.cancelled():
        future.exception()
