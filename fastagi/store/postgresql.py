"""A connection to PostgreSQL, which other services may share."""

from collections.abc import Sequence
from typing import Any

from fastagi.agents import errors
from fastagi.agents.events import Event
from fastagi.store.connection import (
    DELIVERIES,
    EVENT,
    HOOK_DELIVERIES,
    Connection,
    Loaded,
    for_hooks,
)

_LOCK = "SELECT id FROM agents WHERE number = ? FOR NO KEY UPDATE SKIP LOCKED"
# NO KEY: rows that refer to an agent can be written meanwhile, and are, by whoever holds it.
_LOCK_MANY = "SELECT id FROM agents WHERE number = ANY(?) ORDER BY number FOR NO KEY UPDATE"
# One way there and back for both. A hook that is just being deleted is waited for: a delivery to
# one that is gone would be refused, and the call with it.
_TO_HOOKS = {
    count: f"WITH for_hooks AS ({HOOK_DELIVERIES} FOR KEY SHARE OF h) {text}"
    for count, text in DELIVERIES.items()
}
# Whoever deletes a hook waits for what is being written about it, and the other way round.
_KEPT = "SELECT 1 FROM hooks WHERE id = ? FOR KEY SHARE"


class PostgresqlConnection(Connection):
    """Nothing is kept from one transaction to the next."""

    THREADS = 8
    BATCH = 1
    RETRY = True
    KEEPS = False

    _texts: dict[str, str] = {}  # noqa: RUF012 - of all connections

    def begin(self, writes: bool, synced: bool) -> None:
        self.connected()
        self._states.clear()
        if writes:
            self._cursor.execute("BEGIN")
            self._open = True

    def commit(self) -> None:
        if self._open:
            self._cursor.execute("COMMIT")
            self._open = False

    def rollback(self) -> None:
        self._states.clear()
        self.events.clear()
        try:
            if self._cursor is not None:  # also without a transaction: is it still connected?
                self._cursor.execute("ROLLBACK")
        except Exception:
            self.close()
        self._open = False

    def close(self) -> None:
        self._cursor = None
        try:
            if not self._database.is_closed():
                self._database.manual_close()  # not back into the pool
        except Exception:  # the connection is given up anyway
            self._database.reset()

    def execute(self, sql: str, values: Sequence[object] = ()) -> Any:
        text = self._texts.get(sql)
        if text is None:
            text = self._texts[sql] = sql.replace("%", "%%").replace("?", "%s")
        self._cursor.execute(text, values)
        return self._cursor

    def one_of(self, values: Sequence[object]) -> tuple[str, Sequence[object]]:
        return "= ANY(?)", [list(values)]

    def one_at_a_time(self, key: str, kind: int) -> None:
        self.execute("SELECT pg_advisory_xact_lock(hashtextextended(?, ?))", (key, kind))

    def keeps_hook(self, id: int) -> bool:
        return self.execute(_KEPT, (id,)).fetchone() is not None

    def hooks_changed(self) -> None:
        """Nobody has noted them: others write, too."""

    def probing(self) -> float:
        self.execute("SET LOCAL synchronous_commit = off")
        return self.time()

    def time(self) -> float:
        """The server's clock, which is that of all services here."""
        (seconds,) = self.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
        return float(seconds)

    def prefetch(self, numbers: Sequence[str]) -> None:
        """A transaction has one job."""

    def warm(self, least: int, limit: int) -> list[Loaded]:
        return []

    def lock(self, number: str) -> Loaded | None:
        # A statement of its own: joined rows would be those of before the lock.
        row = self.execute(_LOCK, (number,)).fetchone()
        self._states.pop(number, None)
        found = self.load(number)
        if row is None and found is not None:
            raise errors.InProgress(number, settle=False)
        return found

    def load_many(self, numbers: Sequence[str]) -> list[Loaded]:
        return self.loaded_where("a.number = ANY(?)", (list(numbers),))

    def hold(self, numbers: Sequence[str]) -> list[Loaded]:
        """Locks many agents, in one order so that two who do never wait for each other."""
        self.execute(_LOCK_MANY, (list(numbers),)).fetchall()
        return self.load_many(numbers)

    def _insert_event(self, values: Sequence[object]) -> int | None:
        row = self.execute(EVENT + " RETURNING seq", values).fetchone()
        return None if row is None else int(row[0])

    def _owe(self, event: Event, seq: int, sinks: int, values: Sequence[object]) -> None:
        hooked = for_hooks(event, seq)
        if hooked is None:
            self.execute(DELIVERIES[sinks], values)
        else:
            self.execute(_TO_HOOKS[sinks], [*hooked, *values])
