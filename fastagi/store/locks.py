"""What keeps services that share a database out of each other's way; a class per database.

PostgreSQL frees a lock in the instant the process of its holder dies, and within half a minute
when its host vanishes. With SQLite there is one service: all others were before it, and are dead.
"""

import asyncio
import os
import select
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import uuid4

import psycopg
import structlog
from peewee import Database

from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import Lock

if TYPE_CHECKING:
    from fastagi.store.postgresql import PostgresqlConnection

log = structlog.get_logger()

T = TypeVar("T")

# After PostgreSQL itself was away all services have lost their locks. Whoever is back first must
# not take the others for dead: so long (seconds) it takes them all for alive.
GRACE = 3.0
AGAIN = 0.2  # seconds between two attempts at the database
GATHER = 0.003  # seconds in which several commits wake the others once

STUCK = 60.0  # seconds after which a holder that does nothing any more loses its named locks
LOOK = 1.0  # seconds between two looks for services of an earlier version

# Classes of keys: 0 is that of PINs, 2 that of the directory, 3 of services, 4 of named locks.
_KEY = "hashtextextended('service:' || {}, 3)"
_NAMED = "hashtextextended(%s, 4)"
# Held by all services together, so that they can be counted.
_ALL = "hashtextextended('services with named locks', 3)"
# By those of up to 0.3, which deliver by leases in the rows.
_BEFORE = "hashtextextended('services', 3)"
_COUNT = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid::bigint << 32) | objid::bigint IN ({})
"""
_WAKE = "fastagi_deliveries"  # a channel of NOTIFY


class Asks(Protocol):
    def execute(self, sql: str, values: Sequence[object] = ()) -> Any: ...


class Presence:
    """This service. With SQLite it is the only one: all others were before it, and are dead."""

    def __init__(self) -> None:
        self.id = uuid4().hex

    def dead(self, asks: Asks, owners: Collection[str]) -> set[str]:
        """Those among ``owners``, ids of other services, who are not there any more."""
        return set(owners)

    def alone(self, asks: Asks) -> bool:
        """Whether this is the only service there is, for certain."""
        return True

    def start(self) -> None:
        """From now on the others see this service. Blocks. Raises what the database says."""

    def close(self) -> None:
        """This service is not there any more."""


class SharedPresence(Presence):
    """Seen by the others from ``start`` on."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database: Any = database
        self._seen = False
        self._sure_from = 0.0
        self._closing = False
        self._first: BaseException | None = None
        self._started = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stirred, self._stir = os.pipe()
        self._first = None
        self._started.clear()
        self._thread = threading.Thread(target=self._work, name="presence", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._first is not None:
            self._thread.join()
            self._thread = None
            raise self._first

    def dead(self, asks: Asks, owners: Collection[str]) -> set[str]:
        if not owners:
            return set()
        # "" has left an intent in a version that did not know of others.
        gone: set[str] = {owner for owner in owners if not owner}
        if not self._seen or time.monotonic() < self._sure_from:
            return gone
        # Shared: two who ask at once do not take each other for the one they ask about.
        rows = asks.execute(
            f"SELECT o FROM unnest(?::text[]) o"
            f" WHERE pg_try_advisory_xact_lock_shared({_KEY.format('o')})",
            ([self.id, *sorted(set(owners) - gone)],),
        ).fetchall()
        free = {row[0] for row in rows}
        # Cut off ourselves and not aware of it yet: so may they be.
        return gone if self.id in free else gone | free

    def alone(self, asks: Asks) -> bool:
        if not self._seen or time.monotonic() < self._sure_from:
            return False
        return bool(asks.execute(_COUNT.format(f"{_ALL}, {_BEFORE}")).fetchone()[0] == 1)

    def close(self) -> None:
        if not self._closing and self._thread is not None:
            self._closing = True
            os.write(self._stir, b"x")
            self._thread.join()
            os.close(self._stir)
            os.close(self._stirred)

    # -- in the thread

    def _work(self) -> None:
        failing = False
        while not self._closing:
            try:
                self._show()
            except Exception as error:
                self._give_up()
                if not self._started.is_set():
                    self._first = error
                    os.close(self._stir)
                    os.close(self._stirred)
                    self._started.set()
                    return
                if not failing:
                    failing = True
                    log.warning("not seen by other services", error=str(error))
                self._wait(None, AGAIN)
                continue
            failing = False
            try:
                while not self._closing:
                    self._wait(self._database.connection(), None)
                    if not self._closing:
                        self._database.connection().execute("SELECT 1")  # raises when it is cut
                # Freed before the connection is closed: the server may notice that a while later.
                self._database.connection().execute("SELECT pg_advisory_unlock_all()")
            except Exception as error:
                self._seen = False
                log.warning("cut off from the other services", error=str(error))
            self._seen = False
            self._give_up()

    def _show(self) -> None:
        self._database.connect(reuse_if_open=True)
        self._database.connection().execute(
            f"SELECT pg_advisory_lock({_KEY.format('%s::text')}), pg_advisory_lock_shared({_ALL})",
            (self.id,),
        )
        if self._started.is_set():
            self._sure_from = time.monotonic() + GRACE
        self._seen = True
        self._started.set()

    def _wait(self, connection: Any, seconds: float | None) -> None:
        """Until the connection has something to say, as when it is cut, or ``close`` is called."""
        poll = select.poll()
        poll.register(self._stirred, select.POLLIN)
        if connection is not None:
            poll.register(connection.fileno(), select.POLLIN)
        poll.poll(None if seconds is None else seconds * 1000)

    def _give_up(self) -> None:
        try:
            if not self._database.is_closed():
                self._database.manual_close()  # not back into the pool
        except Exception:
            with suppress(Exception):  # this thread is needed as long as the service is there
                self._database.reset()


class NamedLocks:
    """``exclusive(name)`` within this process, which is all there is with SQLite."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def exclusive(
        self, name: str, *, wait: bool = False, on_lost: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Lock | None]:
        """Nobody else is at ``name``, in no service, until it is left. None: somebody is;
        with ``wait`` it is waited for instead, and for the database, too.

        ``on_lost`` is called when the lock is lost, as the connection to the database was cut: go
        and ask again. Raises StoreUnavailable, unless it waits.
        """
        inside = self._locks.setdefault(name, asyncio.Lock())
        if inside.locked() and not wait:
            yield None
            return
        async with inside, self._among_services(name, wait, on_lost) as lock:
            yield lock

    def _among_services(
        self, name: str, wait: bool, on_lost: Callable[[], None]
    ) -> AbstractAsyncContextManager[Lock | None]:
        return nullcontext(Lock())

    def wake_holders(self) -> None:
        """Something is due: whoever is at it in another service shall look for it."""


class SharedNamedLocks(NamedLocks):
    """The same among all services on one PostgreSQL. Each lock that is held or waited for has a
    connection.

    ``connect`` gives one on which a statement may wait for ever. ``wake`` is called when another
    service has called ``wake_holders``, and ``notify`` runs a statement on any connection.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable["psycopg.AsyncConnection[Any]"]],
        deadline: float,
        wake: Callable[[], None],
        notify: Callable[[str], object],
    ) -> None:
        super().__init__()
        self._connect = connect
        self._deadline = deadline
        self._wake = wake
        self._notify = notify
        self._waiting = 0  # locks that others hold, or that the database did not give yet
        self._is_cut = False  # since a lock was lost
        self._notified = False

    @asynccontextmanager
    async def _among_services(
        self, name: str, wait: bool, on_lost: Callable[[], None]
    ) -> AsyncIterator[Lock | None]:
        if wait:
            connection: psycopg.AsyncConnection[Any] | None = await self._waited_for(name)
        else:
            connection = await self._if_free(name)
        if connection is None:
            yield None
            return
        lock = Lock()
        watching = asyncio.create_task(self._watch(connection, name, lock, on_lost))
        try:
            yield lock
        finally:
            watching.cancel()
            await asyncio.wait({watching})
            await _closed(connection)

    async def _if_free(self, name: str) -> "psycopg.AsyncConnection[Any] | None":
        connection = None
        try:
            async with asyncio.timeout(self._deadline):
                connection = await self._connect()
                cursor = await connection.execute(f"SELECT pg_try_advisory_lock({_NAMED})", (name,))
                row = await cursor.fetchone()
            if row is not None and row[0]:
                return connection
        except (psycopg.Error, OSError, TimeoutError) as error:
            await _closed(connection)
            raise StoreUnavailable(f"no lock in the database: {error}") from error
        except BaseException:
            await _closed(connection)
            raise
        await _closed(connection)
        return None

    async def _waited_for(self, name: str) -> "psycopg.AsyncConnection[Any]":
        failing = False
        self._waiting += 1
        try:
            while True:
                connection = None
                try:
                    connection = await self._connect()
                    # A holder that does nothing any more is not waited for for ever.
                    await connection.execute(
                        "SELECT set_config(name, %s, false) FROM pg_settings"
                        " WHERE name = 'idle_session_timeout'",
                        (str(int(STUCK * 1000)),),
                    )
                    sure = time.monotonic() + GRACE
                    await connection.execute(f"SELECT pg_advisory_lock({_NAMED})", (name,))
                    await self._others_have_gone(connection, name)
                    if failing or self._is_cut:
                        # All may have lost theirs, and one of them marks what it has delivered.
                        await asyncio.sleep(max(sure - time.monotonic(), 0.0))
                    await connection.execute(f"LISTEN {_WAKE}")
                    self._is_cut = False
                    return connection
                except (psycopg.Error, OSError) as error:
                    await _closed(connection)
                    if not failing:
                        failing = True
                        log.warning("lock not available, trying again", lock=name, error=str(error))
                    await asyncio.sleep(AGAIN)
                except BaseException:
                    await _closed(connection)
                    raise
        finally:
            self._waiting -= 1

    async def _others_have_gone(
        self, connection: "psycopg.AsyncConnection[Any]", name: str
    ) -> None:
        """A service of an earlier version knows no named locks. None can start any more, as the
        database is newer than it; while one still runs, it is the one that delivers."""
        logged = False
        while True:
            cursor = await connection.execute(_COUNT.format(_BEFORE))
            row = await cursor.fetchone()
            if row is None or not row[0]:
                return
            if not logged:
                logged = True
                log.warning(
                    "a service of an earlier version is running: it delivers until it is stopped",
                    lock=name,
                )
            await asyncio.sleep(LOOK)

    async def _watch(
        self,
        connection: "psycopg.AsyncConnection[Any]",
        name: str,
        lock: Lock,
        on_lost: Callable[[], None],
    ) -> None:
        try:
            while True:
                async for _ in connection.notifies(timeout=STUCK / 3):
                    self._wake()
                await connection.execute("SELECT 1")  # not idle
        except (psycopg.Error, OSError) as error:
            log.warning("lock lost: database connection closed", lock=name, error=str(error))
            lock.lost = self._is_cut = True
            on_lost()

    def wake_holders(self) -> None:
        if self._waiting and not self._notified:
            self._notified = True
            asyncio.get_running_loop().call_later(GATHER, self._notify_holders)

    def _notify_holders(self) -> None:
        self._notified = False
        self._notify(f"NOTIFY {_WAKE}")


async def _closed(connection: "psycopg.AsyncConnection[Any] | None") -> None:
    if connection is None or connection.closed:
        return
    with suppress(Exception):
        # Freed before the connection is closed: the server may notice that a while later.
        async with asyncio.timeout(1.0):
            await connection.execute("SELECT pg_advisory_unlock_all()")
    await connection.close()


# -- agents' rows


class _Holder:
    """A connection with its thread, as Peewee's connections belong to threads."""

    def __init__(self, connection: "PostgresqlConnection") -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, "hold")

    def start(
        self, function: "Callable[[PostgresqlConnection], T]", *, writes: bool
    ) -> "asyncio.Future[T]":
        """``function`` in a transaction that stays open when it ``writes``."""

        def job() -> T:
            connection = self._connection
            try:
                connection.begin(writes, True)
                return function(connection)
            except Exception as error:
                connection.rollback()
                if connection.unavailable(error):
                    raise connection.explained(error) from error
                raise

        return asyncio.wrap_future(self._thread.submit(job))

    def end(self, function: "Callable[[PostgresqlConnection], object]") -> "asyncio.Future[None]":
        """Never raises: a connection that is lost holds nothing any more."""

        def job() -> None:
            try:
                function(self._connection)
            except Exception as error:
                self._connection.rollback()
                self._connection.close()
                log.warning("row locks lost: database connection closed", error=str(error))

        return asyncio.wrap_future(self._thread.submit(job))

    def close(self) -> None:
        self._thread.submit(self._connection.close)
        self._thread.shutdown()


class RowLocks:
    """Rows of agents that a service keeps from the others for longer than a transaction
    (PostgreSQL). Advisory locks would not do: by default all services together have some six
    thousand (max_locks_per_transaction), and as many row locks as there are rows.

    Connections are made when they are needed and used again; who wants one too many waits."""

    def __init__(
        self, connect: "Callable[[], PostgresqlConnection]", deadline: float, at_once: int
    ) -> None:
        self._connect = connect
        self._deadline = deadline
        self._slots = asyncio.Semaphore(at_once)
        self._free: list[_Holder] = []
        self._closed = False

    @asynccontextmanager
    async def use(
        self,
        take: "Callable[[PostgresqlConnection], T]",
        leave: "Callable[[PostgresqlConnection], object]",
        *,
        writes: bool,
    ) -> AsyncIterator[T]:
        """What ``take`` gives; ``leave`` follows whatever happens. Raises StoreUnavailable."""
        async with self._slots:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            holder = self._free.pop() if self._free else _Holder(self._connect())
            taking = holder.start(take, writes=writes)
            try:
                try:
                    async with asyncio.timeout(self._deadline):
                        taken = await asyncio.shield(taking)
                except TimeoutError:
                    taking.add_done_callback(_seen)
                    raise StoreUnavailable("the database does not answer in time") from None
                yield taken
            finally:
                # In the same thread, so after ``take`` even when nobody waits for that any more.
                leaving = holder.end(leave)
                self._free.append(holder)
                if self._closed:
                    self.close()
                await asyncio.shield(leaving)

    def close(self) -> None:
        """Blocks. What is still held is closed when it is left."""
        self._closed = True
        while self._free:
            self._free.pop().close()


def _seen(future: "asyncio.Future[T]") -> None:
    if not future.cancelled():
        future.exception()
