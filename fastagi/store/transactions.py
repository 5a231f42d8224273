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
from typing import TypeVar

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
from fastagi.agents.storage import StoreFault
from fastagi.store import changes, directory
from fastagi.store.clock import Clock
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
from fastagi.store.deliveries import PARKED_FOR, Deliveries, release, unstick
from fastagi.store.directory import Declared, Difference
from fastagi.store.file import DatabaseFile
from fastagi.store.health import PREFIX, Health, clear_up, database_time
from fastagi.store.holding import Holders
from fastagi.store.hooks import Hooks
from fastagi.store.pins import Pins
from fastagi.store.presence import Presence, SharedPresence
from fastagi.store.worker import MAX_BATCH, Workers

log = structlog.get_logger()

T = TypeVar("T")

DEADLINE = 10.0  # seconds a call may wait for its turn
POSTGRESQL_THREADS = 8
HOLDS = 8  # connections, each with the agents of one repair
LONERS = 64
BRING_IN_ATTEMPTS = 5
RELEASE = 2.0  # seconds
TIDY_EVERY, TIDY_AGAIN = 3600.0, 60.0  # seconds
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
        self.sqlite = place.sqlite
        self.place = place
        self.identity = ""  # of the database; "" until it is opened
        self.file = None if place.path is None else DatabaseFile(place.path)
        self.clock = Clock()
        self.health = Health(self, place, self.file, self.clock)
        self._serve = serve
        self._claim: Claim | None = None
        self._prepared = False
        self.pins = Pins()
        self.deliveries = Deliveries(self)
        self.hooks = Hooks(self)
        self._name = place.name
        # Agents' states as last committed, so that a read need not wait for a thread and for
        # others' commits. With PostgreSQL another service may write, so nothing is kept there;
        # with SQLite the next transaction notices when another process did.
        self._known: dict[str, AgentState] = {}
        self._queue_names: dict[str, tuple[str, str]] | None = None
        self._limits: dict[str, PauseLimit] | None = None
        self._queue_pauses: dict[tuple[str, str], QueuePause] | None = None
        self._numbers: dict[int, str] = {}  # by id
        self._queues: dict[int, tuple[str, str]] | None = None  # by id
        self._woken: list[Callable[[], None]] = []
        self._on_dropped: list[Callable[[str, int], None]] = []
        self._dropping: set[str] = set()  # sinks of which it was said
        self._database = place.database()
        self._presence = Presence() if place.sqlite else SharedPresence(self._database)
        self._at: set[str] = set()

        def connect() -> Connection:
            return Connection(self._database, place, self._presence, self.file, self.clock)

        self._holders = Holders(connect, deadline, HOLDS)
        # Apart, as those who are alone at something hold agents for it.
        self._loners = Holders(connect, deadline, LONERS)
        self.workers: Workers[Connection] = Workers(
            connect,
            threads=1 if place.sqlite else POSTGRESQL_THREADS,
            batch=MAX_BATCH if place.sqlite else 1,
            deadline=deadline,
            retry=not place.sqlite,
            on_commit=self.wake,
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
        self.run(lambda connection: unstick(connection, self.clock.time())).add_done_callback(_seen)

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
                asks = Connection(self._database, place, self._presence, None, self.clock)
                asks.begin(True, True)
                if not place.sqlite:
                    self.clock.align(database_time(asks))
                unstick(asks, self.clock.time())
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
                await self.deliveries.drop_old(datetime.fromtimestamp(now - PARKED_FOR, UTC))
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
        self.hooks.close()
        # A database that is away shall not hold up the stop.
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(RELEASE):
                await self.run(self._release)
        await asyncio.to_thread(self._close)

    def _release(self, connection: Connection) -> None:
        if not self.sqlite:
            release(connection)
        connection.execute("DELETE FROM notes WHERE key = ?", (PREFIX + self.id,))

    def _close(self) -> None:
        self.workers.close()
        self._holders.close()
        self._loners.close()
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
        self._queue_names = None
        self._limits = None
        self._queue_pauses = None
        self._numbers.clear()
        self._queues = None

    # -- the directory; these block, too

    def knows(self, material: bytes) -> bool:
        """Whether the settings with this fingerprint are the ones brought in last."""
        with self._blocking() as database:
            return directory.knows(database, material)

    def bring_in(
        self, declared: Declared, allow: Callable[[Removal], None] = lambda _: None
    ) -> Difference:
        """Brings the store in line with the settings. Raises DirectoryConflict, StoreUnavailable,
        and what ``allow`` raises when it is told what would be taken away; then nothing was
        changed."""
        for attempt in range(BRING_IN_ATTEMPTS):
            try:
                with self._blocking() as database, self._busy("a configuration is brought in"):
                    difference = directory.bring_in(database, declared, allow)
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
            if connection.sqlite:
                row = connection.execute("SELECT number FROM agents WHERE id = ?", (id,)).fetchone()
                found = None if row is None else connection.load(row[0])
            else:
                found = next(iter(connection.loaded_where("a.id = ?", (id,))), None)
            return None if found is None or found.archived else found.state

        def seen(state: AgentState | None) -> None:
            if state is not None and self.sqlite:
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

        def seen(queues: dict[int, tuple[str, str]]) -> None:
            if self.sqlite:
                self._queues = queues

        if self._queues is not None:
            return self._queues.get(id)
        return (await self.workers.submit(job, writes=False, seen=seen)).get(id)

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
            if connection.sqlite:
                which, values = f"IN ({', '.join('?' * len(keys))})", list(keys)
            else:
                which, values = "= ANY(?)", [list(keys)]  # type: ignore[list-item]
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
            return _by_number(_all_of(connection, numbers))

        return await self.run(job, writes=False)

    async def queue_names(self) -> dict[str, tuple[str, str]]:
        def job(connection: Connection) -> dict[str, tuple[str, str]]:
            rows = connection.execute(
                # Of two that differ in case alone the one that is not archived counts.
                "SELECT name, number FROM queues ORDER BY archived_at IS NULL, id"
            ).fetchall()
            return {name.lower(): (name, number) for name, number in rows}

        def seen(names: dict[str, tuple[str, str]]) -> None:
            if self.sqlite:
                self._queue_names = names

        if self._queue_names is not None:
            return self._queue_names
        return await self.workers.submit(job, writes=False, seen=seen)

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
                "SELECT code, name, description FROM pause_reasons WHERE archived_at IS NULL"
            ).fetchall()
            rows.sort(key=lambda row: (len(row[0]), row[0]))  # 2 before 10
            return tuple(PauseReason(*row) for row in rows)

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
        session, and agents with the names of the queues they are still in and no more have. Not the
        queues into which somebody put an agent in Asterisk."""

        def job(connection: Connection) -> tuple[list[str], list[tuple[str, str]]]:
            agents = connection.execute(
                "SELECT a.number FROM agents a JOIN login_sessions s ON s.agent_id = a.id"
                " WHERE s.ended_at IS NULL AND a.archived_at IS NOT NULL ORDER BY a.id"
            ).fetchall()
            pairs = connection.execute(
                "SELECT a.number, q.name FROM memberships m JOIN agents a ON a.id = m.agent_id"
                " JOIN queues q ON q.id = m.queue_id WHERE m.joined = ? AND m.origin <> 'asterisk'"
                " AND (m.archived_at IS NOT NULL OR q.archived_at IS NOT NULL)"
                " AND a.archived_at IS NULL ORDER BY a.id, q.id",
                (True,),
            ).fetchall()
            return [row[0] for row in agents], [(row[0], row[1]) for row in pairs]

        return await self.run(job, writes=False)

    async def lately(self, events: int) -> list[AgentState]:
        def job(connection: Connection) -> list[AgentState]:
            rows = connection.execute(
                "SELECT DISTINCT agent FROM (SELECT agent FROM events ORDER BY seq DESC LIMIT ?) e",
                (events,),
            ).fetchall()
            numbers = [row[0] for row in rows if row[0]]
            states: list[AgentState] = []
            for i in range(0, len(numbers), 500):
                some = numbers[i : i + 500]
                marks = ", ".join("?" * len(some))
                found = connection.loaded_where(f"a.number IN ({marks})", some)
                states += [one.state for one in found]
            return states

        return await self.run(job, writes=False)

    async def planned(self) -> list[LogOff | Pause]:
        def job(connection: Connection) -> list[LogOff | Pause]:
            rows = connection.execute(
                "SELECT planned FROM login_sessions"
                " WHERE planned IS NOT NULL AND ended_at IS NULL ORDER BY agent_id"
            ).fetchall()
            return [command for (text,) in rows if (command := planned_from(text)) is not None]

        return await self.run(job, writes=False)

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

        def seen(limits: dict[str, PauseLimit]) -> None:
            if self.sqlite:
                self._limits = limits

        if self._limits is not None:
            return self._limits
        return await self.workers.submit(job, writes=False, seen=seen)

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

        def seen(said: dict[tuple[str, str], QueuePause]) -> None:
            if self.sqlite:
                self._queue_pauses = said

        if self._queue_pauses is not None:
            return self._queue_pauses
        return await self.workers.submit(job, writes=False, seen=seen)

    async def open_pauses(self) -> list[OpenPause]:
        def job(connection: Connection) -> list[OpenPause]:
            rows = connection.execute(
                "SELECT a.number, p.id, p.code, p.name, p.since FROM pause_segments p"
                " JOIN agents a ON a.id = p.agent_id WHERE p.ended_at IS NULL ORDER BY p.since"
            ).fetchall()
            return [
                OpenPause(number, id, PauseReason(code, name), moment(since))
                for number, id, code, name, since in rows
            ]

        return await self.run(job, writes=False)

    async def exceeded(self, segments: Sequence[str]) -> set[str]:
        """Those of these pauses of which an event tells that they last too long."""
        events = {exceeded_event(segment): segment for segment in segments}

        def job(connection: Connection) -> set[str]:
            found: set[str] = set()
            ids = list(events)
            for i in range(0, len(ids), 500):
                some = ids[i : i + 500]
                marks = ", ".join("?" * len(some))
                rows = connection.execute(f"SELECT id FROM events WHERE id IN ({marks})", some)
                found |= {events[id] for (id,) in rows.fetchall()}
            return found

        return await self.run(job, writes=False) if events else set()

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
        def job(connection: Connection) -> list[str]:
            numbers: list[str] = []
            for key, cutoff in cutoffs.items():
                which, values = ("= ?", (key,)) if key else ("IS NULL", ())
                rows = connection.execute(
                    "SELECT a.number FROM login_sessions s JOIN agents a ON a.id = s.agent_id"
                    f" WHERE s.ended_at IS NULL AND s.since < ? AND a.logoff_at {which}"
                    " ORDER BY a.id",
                    (cutoff.timestamp(), *values),
                ).fetchall()
                numbers += [number for (number,) in rows]
            return numbers

        cutoffs = {key: cutoff for key, cutoff in cutoffs.items() if key != NEVER}
        return await self.run(job, writes=False) if cutoffs else []

    async def shift_ends(self) -> list[str]:
        def job(connection: Connection) -> list[str]:
            rows = connection.execute(
                "SELECT DISTINCT logoff_at FROM agents"
                " WHERE logoff_at IS NOT NULL AND logoff_at <> ? ORDER BY logoff_at",
                (NEVER,),
            ).fetchall()
            return [row[0] for row in rows]

        return await self.run(job, writes=False)

    # -- nobody else

    @asynccontextmanager
    async def hold(self, numbers: Sequence[str]) -> AsyncIterator[dict[str, AgentState]]:
        if self.workers.refusal is not None:
            raise self.workers.refusal
        if not numbers:
            yield {}
        elif self.sqlite:
            yield await self.run(
                lambda connection: _by_number(_settled(_all_of(connection, numbers))),
                writes=False,
            )
        else:
            async with self._holders.use(
                lambda connection: _by_number(_settled(connection.hold(numbers))),
                Connection.rollback,
                writes=True,
            ) as states:
                yield states

    @asynccontextmanager
    async def alone(self, what: str) -> AsyncIterator[bool]:
        if self.workers.refusal is not None:
            raise self.workers.refusal
        if what in self._at:  # this very service: a lock of PostgreSQL's could be taken again
            yield False
            return
        self._at.add(what)
        try:
            if self.sqlite:
                yield True
                return

            def take(connection: Connection) -> bool:
                row = connection.execute(
                    "SELECT pg_try_advisory_lock(hashtextextended(?, 4))", (what,)
                ).fetchone()
                return bool(row[0])

            def leave(connection: Connection) -> None:
                connection.execute("SELECT pg_advisory_unlock_all()")

            async with self._loners.use(take, leave, writes=False) as alone:
                yield alone
        finally:
            self._at.discard(what)

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
        elif self.sqlite:
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
            if not connection.sqlite:
                for key in sorted(counted):  # sorted: two calls never wait for each other
                    connection.execute(
                        "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (key,)
                    )
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
                connection.executemany(
                    "INSERT INTO pin_failures (key, at) VALUES (?, ?)",
                    [(key, verdict.at) for key in counted],
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
        def job(connection: Connection) -> tuple[str, ...]:
            row = connection.execute(
                "SELECT outside FROM agents WHERE number = ? AND archived_at IS NULL", (number,)
            ).fetchone()
            return () if row is None else tuple(row[0].split())

        return await self.run(job, writes=False)

    # -- notes

    async def note(self, key: str) -> str | None:
        def job(connection: Connection) -> str | None:
            row = connection.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
            return None if row is None else row[0]

        return await self.run(job, writes=False)

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
        def job(connection: Connection) -> dict[str, str]:
            rows = connection.execute(
                "SELECT key, value FROM notes WHERE substr(key, 1, ?) = ? ORDER BY key",
                (len(prefix), prefix),
            ).fetchall()
            return dict(rows)

        return await self.run(job, writes=False)

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


def _all_of(connection: Connection, numbers: Sequence[str]) -> Iterable[Loaded]:
    if not connection.sqlite:
        return connection.loaded_where("a.number = ANY(?)", (list(numbers),))
    connection.prefetch(numbers)
    return [found for number in numbers if (found := connection.load(number)) is not None]


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


def _seen(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()
