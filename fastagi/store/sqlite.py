"""A connection to a SQLite file, which this service writes alone."""

from collections.abc import Sequence
from typing import Any

from fastagi.agents.events import Event
from fastagi.store.connection import (
    DELIVERIES,
    EVENT,
    HOOK_DELIVERIES,
    MAX_STATES,
    Connection,
    Loaded,
    for_hooks,
    loaded,
    state_query,
)

_HOOKED = "SELECT DISTINCT a.number FROM hooks h JOIN agents a ON a.id = h.agent_id"


class SqliteConnection(Connection):
    """States are kept from one transaction to the next: another connection's commit is noticed."""

    THREADS = 1
    BATCH = 256
    RETRY = False
    KEEPS = True
    WAITING_HOOKS = "INDEXED BY hook_deliveries_waiting"  # it would begin with those given up

    _version: int | None = None
    # The numbers of the agents with hooks, which hardly anybody has; None: not known.
    _hooked: set[str] | None = None
    _synced = True

    def begin(self, writes: bool, synced: bool) -> None:
        if self._file is not None and self._cursor is None:
            self._file.exists()
        connected = self.connected()
        if not connected:
            self._synced = True  # as the database is opened
        if writes and synced is not self._synced:
            self._sync(synced)
        self._must_sync = False
        self._cursor.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        self._open = True
        if self._file is not None:
            if not connected:
                self._cursor.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
                self._file.remember()
            self._file.check(writing=writes)
        # Changes when another connection has committed; our own writes keep the states true.
        version = self._cursor.execute("PRAGMA data_version").fetchone()[0]
        self.outdated = version != self._version
        if self.outdated or len(self._states) > MAX_STATES:
            self._version = version
            self._states.clear()
            self._hooked = None

    def commit(self) -> None:
        if self._open:
            self._cursor.execute("COMMIT")
            self._open = False
            if self._must_sync and not self._synced:
                # A change came where only intents were expected. Beginning a checkpoint syncs.
                self._sync(True)
                self._cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _sync(self, synced: bool) -> None:
        # https://www.sqlite.org/pragma.html#pragma_synchronous: FULL syncs the log after each
        # commit; with NORMAL a commit survives a crash of this process, and a power cut only once
        # a later one was synced.
        self._cursor.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        self._synced = synced

    def rollback(self) -> None:
        self._states.clear()
        self._hooked = None
        self.events.clear()
        try:
            if self._open and self._cursor is not None:
                self._cursor.execute("ROLLBACK")
        except Exception:
            self.close()
        self._open = False

    def close(self) -> None:
        self._cursor = None
        if self._file is not None:
            self._file.forget_log()
        try:
            self._database.close()
        except Exception:  # the connection is given up anyway
            self._database.reset()

    def execute(self, sql: str, values: Sequence[object] = ()) -> Any:
        self._cursor.execute(sql, values)
        return self._cursor

    def one_of(self, values: Sequence[object]) -> tuple[str, Sequence[object]]:
        return f"IN ({', '.join('?' * len(values))})", values

    def one_at_a_time(self, key: str, kind: int) -> None:
        """Nobody else writes anyway."""

    def keeps_hook(self, id: int) -> bool:
        return True  # what is written about one that is gone finds none

    def hooks_changed(self) -> None:
        self._hooked = None

    def probing(self) -> float:
        return 0.0

    def prefetch(self, numbers: Sequence[str]) -> None:
        """Loads the states that the jobs of one batch will ask for in one query."""
        wanted = [number for number in dict.fromkeys(numbers) if number not in self._states]
        if len(wanted) < 2:
            return
        # Padded to a power of two, so that few texts are prepared.
        size = 1 << (len(wanted) - 1).bit_length()
        wanted += [wanted[0]] * (size - len(wanted))
        text = state_query(f"a.number {self.one_of(wanted)[0]}")
        for found in loaded(self.execute(text, wanted).fetchall()):
            self._states[found.state.number] = found

    def warm(self, least: int, limit: int) -> list[Loaded]:
        """Loads the states of up to ``limit`` agents from this id on, as far as there is room."""
        room = min(limit, MAX_STATES - len(self._states))
        if room <= 0:
            return []
        found = self.loaded_where(
            "a.id IN (SELECT id FROM agents WHERE id >= ? AND archived_at IS NULL"
            " ORDER BY id LIMIT ?)",
            (least, room),
        )
        for one in found:
            self._states.setdefault(one.state.number, one)
        return found

    def lock(self, number: str) -> Loaded | None:
        return self.load(number)

    def load_many(self, numbers: Sequence[str]) -> list[Loaded]:
        self.prefetch(numbers)
        return [found for number in numbers if (found := self.load(number)) is not None]

    def _insert_event(self, values: Sequence[object]) -> int | None:
        cursor = self.execute(EVENT, values)
        return cursor.lastrowid if cursor.rowcount else None

    def _owe(self, event: Event, seq: int, sinks: int, values: Sequence[object]) -> None:
        hooked = for_hooks(event, seq)
        if hooked is not None:
            if self._hooked is None:
                self._hooked = {row[0] for row in self.execute(_HOOKED).fetchall()}
            if event.agent in self._hooked:
                self.execute(HOOK_DELIVERIES, hooked)
        self.execute(DELIVERIES[sinks], values)
