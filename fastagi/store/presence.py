"""Which services are alive, where several share one PostgreSQL.

A service holds an advisory lock on a connection of its own: PostgreSQL frees it in the instant the
process dies, and within half a minute when its host vanishes. What a dead service left open is
everybody's at once.
"""

import os
import select
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Protocol
from uuid import uuid4

import structlog
from peewee import Database

log = structlog.get_logger()

# After PostgreSQL itself was away all services have lost their locks. Whoever is back first must
# not take the others for dead: so long (seconds) it takes them all for alive.
GRACE = 3.0
AGAIN = 0.2  # seconds between two attempts to be seen again

# The third class of keys; 0 and 1 are those of PINs and sinks, 2 that of the directory.
_KEY = "hashtextextended('service:' || {}, 3)"
# Held by all of them together, so that they can be counted.
_ALL = "hashtextextended('services', 3)"
_COUNT = f"""
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid::bigint << 32) | objid::bigint = {_ALL}
"""


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
        return bool(asks.execute(_COUNT).fetchone()[0] == 1)

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
