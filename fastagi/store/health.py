"""How the database is: a write that is read back, a look at its file, and a line in the log when
that changes."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import structlog
from peewee import PeeweeException
from playhouse.pool import PooledDatabase

from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import WELL, StoreFault, StoreHealth
from fastagi.store.clock import Clock
from fastagi.store.connection import Connection
from fastagi.store.database import IDENTITY, LOG_BYTES, Place, explained
from fastagi.store.file import DatabaseFile

log = structlog.get_logger()

T = TypeVar("T")

# All in seconds.
FRESH = 1.0  # an answer is good for so long: who asks more often costs nothing
DEADLINE = 2.0  # for one answer
LOOK = 1.0  # between two looks at the file
PROBE = 5.0  # between two writes of our own; while there is a fault, at every look
SAY_AGAIN = 60.0  # the same fault in other words is said this often at most

# The -wal file: SQLite copies it into the database whenever it has 16 MiB, and cuts it to
# LOG_BYTES. What is much larger cannot be copied, as somebody reads an old state of the database.
LOG_ALARM = 2 * LOG_BYTES
LOG_STEP = 4  # times as large: said again

PREFIX = "probe:"  # of the notes that are written to see whether it can be done
OLD_PROBES = 86400.0  # seconds: of services that have ended without clearing up

_TAKEN = (
    "SELECT n.key, n.value FROM notes n WHERE n.key IN ('" + IDENTITY + "', {0}) ORDER BY n.key"
)


class Runs(Protocol):
    """The store, as far as it is needed here."""

    @property
    def id(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def run(
        self, job: Callable[[Connection], T], *, writes: bool = True, synced: bool = True
    ) -> "asyncio.Future[T]": ...


class Health:
    """``now`` is what is known; ``ask`` makes sure that it is fresh. Calls belong to one loop."""

    def __init__(self, store: Runs, place: Place, file: DatabaseFile | None, clock: Clock) -> None:
        self.now = WELL
        self.log_bytes = 0  # of the -wal file
        # Called when the database can be used again, when it cannot be used any more, and with
        # each figure: whether it can be used, and the size of the -wal file.
        self.on_back: list[Callable[[], None]] = []
        self.on_fault: list[Callable[[], None]] = []
        self.on_figures: list[Callable[[bool, int], None]] = []
        self.on_step: list[Callable[[float], None]] = []
        self._store = store
        self._place = place
        self._file = file
        self._clock = clock
        self._reading: Any = place.reading()
        self._thread = ThreadPoolExecutor(1, "health")
        self._since = 0.0
        self._said: dict[StoreFault, tuple[float, str]] = {}  # when it was logged, and how
        self._logged = False  # the fault of now
        self._probing: asyncio.Task[None] | None = None
        self._began = self._ended = -FRESH
        self._alarm = LOG_ALARM

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        if isinstance(self._reading, PooledDatabase):
            self._reading.close_all()

    # -- what is known

    def failed(self, error: StoreUnavailable) -> None:
        """The database has refused something, or given no answer."""
        before, now = self.now, time.monotonic()
        self.now = StoreHealth(error.fault, str(error))
        if before.fault is None:
            self._since = now
            for callback in self.on_fault:
                callback()
        # One that comes and goes with each call, as a single table is locked, fills no log.
        at, words = self._said.get(error.fault, (-SAY_AGAIN, ""))
        if now - at < SAY_AGAIN or (self._logged and words == self.now.why):
            return
        self._said[error.fault] = (now, self.now.why)
        self._logged = True
        log.error(
            "the database cannot be used: feature codes say 'try again'",
            fault=error.fault.value,
            why=self.now.why[:500],
        )

    def worked(self) -> None:
        """Something was written."""
        if self.now.fault is None:
            return
        self.now = WELL
        if self._logged:
            self._logged = False
            log.info(
                "the database can be used again",
                seconds=round(time.monotonic() - self._since, 1),
            )
        for callback in self.on_back:
            callback()

    # -- finding out

    async def ask(self) -> StoreHealth:
        """At most a second old. Answers within two; never raises."""
        task = self._probing
        if task is None or (task.done() and time.monotonic() - self._ended > FRESH):
            self._began = time.monotonic()
            task = self._probing = asyncio.create_task(self._probe(), name="probe the store")
        if not task.done():
            left = self._began + DEADLINE - time.monotonic()
            await asyncio.wait({task}, timeout=max(left, 0.0))
        if task.done():
            return self.now
        if self.now.fault is not None:
            return self.now
        return StoreHealth(StoreFault.NO_ANSWER, "the database does not answer in time")

    async def run(self) -> None:
        """Looks now and then, until it is cancelled."""
        while True:
            try:
                await self._look()
                idle = time.monotonic() - self._ended
                if idle > (LOOK if self.now.fault is not None else PROBE):
                    health = await self.ask()
                    if health.fault is StoreFault.NO_ANSWER:
                        self.failed(StoreUnavailable(health.why, fault=StoreFault.NO_ANSWER))
            except Exception as error:  # whatever it is, looking goes on
                log.exception("looking after the database failed", error=type(error).__name__)
            for callback in self.on_figures:
                callback(self.now.fault is None, self.log_bytes)
            await asyncio.sleep(LOOK)

    async def _look(self) -> None:
        file = self._file
        if file is None or not self._store.identity:
            return

        def look() -> int:
            file.check()
            return file.log_size()

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DEADLINE):
                self.log_bytes = await loop.run_in_executor(self._thread, look)
        except StoreUnavailable as error:
            self.failed(error)
            return
        except TimeoutError:
            where = f"{self._place.name}: the file system does not answer"
            self.failed(StoreUnavailable(where, fault=StoreFault.NO_ANSWER))
            return
        self._watch_log(file)

    def _watch_log(self, file: DatabaseFile) -> None:
        if self.log_bytes < LOG_ALARM:
            if self._alarm > LOG_ALARM:
                self._alarm = LOG_ALARM
                log.info("the database's -wal file is small again", bytes=self.log_bytes)
            return
        if self.log_bytes < self._alarm:
            return
        self._alarm = LOG_STEP * self.log_bytes
        reader = file.reader()
        log.warning(
            "the database's -wal file grows, as another program reads the database without end:"
            " end that program",
            file=file.log_name,
            bytes=self.log_bytes,
            reader=reader or "see `fuser -v` of the file",
        )

    async def _probe(self) -> None:
        store, key, token = self._store, PREFIX + self._store.id, str(time.time_ns())

        def write(connection: Connection) -> float:
            now = connection.probing()
            connection.execute(
                "INSERT INTO notes (key, value) VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, token),
            )
            return now

        try:
            now = await store.run(write, synced=False)
            if now:
                step = self._clock.align(now)
                for callback in self.on_step:
                    callback(step)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._read_back, key, token)
        except StoreUnavailable as error:
            self.failed(error)
        except Exception as error:  # a fault of ours must not look like health
            self.failed(StoreUnavailable(f"{self._place.name}: {error!r}"))
        else:
            self.worked()
        finally:
            self._ended = time.monotonic()

    def _read_back(self, key: str, token: str) -> None:
        """On another connection: raises StoreUnavailable when it is not what was written."""
        if self._file is not None:
            self._file.exists()
        try:
            with self._reading.connection_context():
                rows = self._reading.execute_sql(
                    _TAKEN.format(self._reading.param), (key,)
                ).fetchall()
        except PeeweeException as error:
            raise explained(self._place, error) from error
        found = dict(rows)
        if found.get(IDENTITY) != self._store.identity:
            raise StoreUnavailable(
                f"{self._place.name}: this is another database than the one this service was"
                " started with: put that one back, or restart the service",
                fault=StoreFault.REPLACED,
            )
        if found.get(key) != token:
            raise StoreUnavailable(
                f"{self._place.name}: what was written is not read back",
                fault=StoreFault.DAMAGED,
            )


def clear_up(connection: Connection, now: float) -> None:
    """Probes of services that have ended are deleted."""
    oldest = str(int((now - OLD_PROBES) * 1e9))
    connection.execute(
        "DELETE FROM notes WHERE substr(key, 1, ?) = ? AND value < ?",
        (len(PREFIX), PREFIX, oldest),
    )
