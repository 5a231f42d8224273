"""The one read side: for the service, the HTTP interfaces and the command line.

They work beside a running service, also from another process, and hold nobody up. The calls
block: from an event loop they are made in a thread.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from peewee import JOIN, ModelSelect, PeeweeException, fn
from playhouse.pool import PooledDatabase

from fastagi.agents.commands import Actor
from fastagi.agents.limits import PauseLimit
from fastagi.agents.model import AgentState
from fastagi.agents.protection import Removal
from fastagi.agents.records import (
    AgentRecord,
    AgentView,
    Backlog,
    ParkedDelivery,
    Period,
    Reason,
    StoredEvent,
)
from fastagi.agents.storage import StoreFault
from fastagi.agents.text import printable
from fastagi.contract import EventType, Sink, Source
from fastagi.store import tables
from fastagi.store.configured import Declared, removal
from fastagi.store.connection import as_source, loaded, moment, span, state_query, when_exceeded
from fastagi.store.database import explained, no_file, parse
from fastagi.store.events import COLUMNS, EVENT_COLUMNS, UnreadableEvent, event_from
from fastagi.store.file import DatabaseFile
from fastagi.store.outbox import HOOK

log = logging.getLogger(__name__)  # not on standard output, where commands write

T = TypeVar("T")

CHUNK = 1000  # values per statement
PATIENCE = 1.0  # seconds, with changes that are being committed
LEFT_OUT = 1000  # events that cannot be read and are logged
# Agents that are there, for ``state_query``.
_PRESENT = "(a.archived_at IS NULL OR s.id IS NOT NULL)"
ROUNDS = 5  # of reading, when gaps turn out to be settled


class Reading:
    """Every call may raise StoreUnavailable, also when the database was never made.

    ``url`` as for ``open_store``; raises BadDatabaseUrl.
    """

    def __init__(self, url: str, file: DatabaseFile | None = None) -> None:
        """``file``: the service's own, so that both notice when it is not what it was."""
        place = parse(url)
        self._place = place
        self._file = file
        self._path = place.path
        self._database = place.reading()
        self._gaps = None if place.sqlite else _Gaps()

    def close(self) -> None:
        """Of the connections of other threads too."""
        if isinstance(self._database, PooledDatabase):
            self._database.close_all()

    @contextmanager
    def connected(self) -> Iterator[Any]:
        if self._file is not None:
            self._file.check()
        if self._path is not None and not self._path.exists():
            raise no_file(self._place)
        try:
            with self._database.connection_context():
                yield self._database
        except PeeweeException as error:
            found = explained(self._place, error)
            if self._file is not None and found.fault is StoreFault.DAMAGED:
                self._file.break_off(str(error))
            raise found from error

    def _rows(self, query: "ModelSelect[Any]") -> list[Sequence[Any]]:
        with self.connected() as database:
            return list(query.tuples().execute(database))

    def agents(self, numbers: Sequence[str] | None = None) -> list[AgentView]:
        """All agents that are not archived, or still logged in; by number. Or those of them with
        these numbers."""
        rows = self._state_rows(numbers, ", s.source, p.source")
        sources = {row[0]: row[-2:] for row in rows}
        states = [found.state for found in loaded(rows)]
        by = self._programs(states, sources)
        views = [_view(state, *sources[state.id], by=by) for state in states]
        return sorted(views, key=lambda view: (len(view.number), view.number))

    def agent(self, number: str) -> AgentView | None:
        """Likewise, one of them."""
        return next(iter(self.agents([number])), None)

    def _state_rows(
        self, numbers: Sequence[str] | None, more: str = "", where: str = _PRESENT
    ) -> list[Sequence[Any]]:
        """Rows of ``state_query``, an agent's together."""
        rows: list[Sequence[Any]] = []
        with self.connected() as database:
            if numbers is None:
                return list(database.execute_sql(state_query(where, more)).fetchall())
            for some in _chunks(list(dict.fromkeys(numbers))):
                which = ", ".join([database.param] * len(some))
                text = state_query(f"{where} AND a.number IN ({which})", more)
                rows += database.execute_sql(text, some).fetchall()
        return rows

    def _programs(
        self, states: Iterable[AgentState], sources: Mapping[int, Sequence[str | None]]
    ) -> dict[str, str]:
        """By the id of a login or a pause: the name of the program that made it."""
        made = [
            f"{one.id}-1"  # the first event of it
            for state in states
            for one, source in zip((state.session, state.pause), sources[state.id], strict=True)
            if one is not None and source == Source.API
        ]
        found: dict[str, str] = {}
        event = tables.Event
        for some in _chunks(made):
            query = event.select(event.id, event.actor).where(event.id.in_(some))
            for id, actor in self._rows(query):
                with suppress(ValueError):  # not readable: then nobody is named
                    found[id.removesuffix("-1")] = Actor.from_dict(json.loads(actor)).name
        return found

    def events(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        agent: str | None = None,
        type: EventType | None = None,
        source: Source | None = None,
    ) -> list[StoredEvent]:
        """Up to ``limit`` events after the one numbered ``after``, the oldest first."""
        table = tables.Event
        query = _events().where(table.seq > after).order_by(table.seq).limit(limit)
        return self._events(_narrowed(query, agent, type, source))

    def settled_events(self, after: int, limit: int) -> list[StoredEvent]:
        """Events after the one numbered ``after``, the oldest first, up to ``limit`` of them, and
        up to the first number that may still be filled: who reads on from the last one misses
        nothing."""
        while True:
            rows = self._settled_rows(after, limit)
            found = _readable(rows)
            if found or not rows:
                return found
            after = rows[-1][-1]  # nothing of the page can be read: the next one may

    def _settled_rows(self, after: int, limit: int) -> Sequence[Sequence[Any]]:
        text = f"SELECT {EVENT_COLUMNS} FROM events e WHERE e.seq > {{0}} ORDER BY e.seq"
        with self.connected() as database:
            text = f"{text} LIMIT {{0}}".format(database.param)

            def read() -> list[Sequence[Any]]:
                rows: list[Sequence[Any]] = database.execute_sql(text, (after, limit)).fetchall()
                return rows

            if self._gaps is None:
                return read()
            return self._gaps.settled(database, after, read)[0]

    def last_seq(self) -> int:
        """The number of the last event before which none can appear any more; 0: there is none.

        Waits a little for changes that are being committed."""
        until = time.monotonic() + PATIENCE
        with self.connected() as database:

            def read() -> list[Sequence[Any]]:
                # No transaction of ours is open for so long that so many events pass it by.
                text = f"SELECT seq FROM events ORDER BY seq DESC LIMIT {CHUNK}"
                rows: list[Sequence[Any]] = database.execute_sql(text).fetchall()
                return rows[::-1]

            if self._gaps is None:
                rows = read()
                return rows[-1][0] if rows else 0
            while True:
                rows, whole = self._gaps.settled(database, None, read)
                if whole or time.monotonic() > until:
                    return rows[-1][0] if rows else 0
                time.sleep(0.01)

    def latest_events(
        self,
        limit: int = 100,
        *,
        agent: str | None = None,
        type: EventType | None = None,
        source: Source | None = None,
    ) -> list[StoredEvent]:
        """The last ``limit`` events, the oldest of them first."""
        query = _events().order_by(tables.Event.seq.desc()).limit(limit)
        return self._events(_narrowed(query, agent, type, source))[::-1]

    def _events(self, query: "ModelSelect[Any]") -> list[StoredEvent]:
        return _readable(self._rows(query))

    # -- the directory

    def records(self, offset: int, limit: int) -> tuple[list[AgentRecord], int]:
        """A page of all there ever were, by id, and how many there are."""
        table = tables.Agent
        with self.connected() as database:
            total = table.select(fn.count(table.id)).scalar(database)
            query = table.select().order_by(table.id).offset(offset).limit(limit)
            return self._records(database, query), int(total)

    def record(self, id: int) -> AgentRecord | None:
        with self.connected() as database:
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
        with self.connected() as database:
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
        """Of the queues that are not archived, by name: whether agent.php may use them."""
        table = tables.Queue
        with self.connected() as database:
            query = table.select(table.name, table.call_center).where(table.archived_at.is_null())
            return {name: bool(flag) for name, flag in query.tuples().execute(database)}

    # -- for comparing the store with Asterisk

    def logged_in_states(self) -> list[AgentState]:
        """Of all agents who are logged in."""
        return [found.state for found in loaded(self._state_rows(None, where="s.id IS NOT NULL"))]

    def states(self, numbers: Sequence[str]) -> dict[str, AgentState]:
        """The agents with these numbers, by number; also archived ones who are logged in."""
        return {found.state.number: found.state for found in loaded(self._state_rows(numbers))}

    def queue_ids(self) -> dict[str, int]:
        """Of all queues, archived ones too, by name."""
        table = tables.Queue
        return {row[0]: row[1] for row in self._rows(table.select(table.name, table.id))}

    def queue_names(self) -> dict[str, tuple[str, str]]:
        """All queues, archived ones too: name in lower case -> name in Asterisk and number."""
        table = tables.Queue
        # Of two that differ in case alone the one that is not archived counts.
        query = table.select(table.name, table.number).order_by(
            table.archived_at.is_null(), table.id
        )
        return {name.lower(): (name, number) for name, number in self._rows(query)}

    def removal(self, declared: Declared) -> Removal:
        """What bringing in these settings would take away."""
        with self.connected() as database:
            return removal(database, declared)

    def note(self, key: str) -> str | None:
        """A remembered fact about the outside, such as Asterisk's start-up time."""
        rows = self._rows(tables.Note.select(tables.Note.value).where(tables.Note.key == key))
        return rows[0][0] if rows else None

    # -- figures

    def agents_by_state(self) -> dict[tuple[str | None, str], int]:
        """How many are ``logged_off``, ``available`` and ``paused``, by the Asterisk they are on
        and that; who is logged off is on None."""
        text = """
            SELECT s.asterisk, CASE WHEN s.id IS NULL THEN 'logged_off'
                   WHEN p.id IS NULL THEN 'available' ELSE 'paused' END, count(*)
            FROM agents a
            LEFT JOIN login_sessions s ON s.agent_id = a.id AND s.ended_at IS NULL
            LEFT JOIN pause_segments p ON p.agent_id = a.id AND p.ended_at IS NULL
            WHERE a.archived_at IS NULL OR s.id IS NOT NULL
            GROUP BY 1, 2
        """
        with self.connected() as database:
            rows = database.execute_sql(text).fetchall()
        return {(asterisk, state): int(count) for asterisk, state, count in rows}

    def backlog(self) -> list[Backlog]:
        """What waits, by sink; all hooks together are one."""
        text = """
            SELECT b.sink, b.waiting, e.occurred_at, b.parked
            FROM (SELECT {sink} AS sink,
                         sum(CASE WHEN parked_at IS NULL THEN 1 ELSE 0 END) AS waiting,
                         sum(CASE WHEN parked_at IS NULL THEN 0 ELSE 1 END) AS parked,
                         min(CASE WHEN parked_at IS NULL THEN event END) AS first
                  FROM {table} GROUP BY 1) b
            LEFT JOIN events e ON e.seq = b.first
        """
        rows: dict[str, Sequence[Any]] = {}
        with self.connected() as database:
            for table, sink in (("deliveries", "sink"), ("hook_deliveries", f"'{HOOK}'")):
                found = database.execute_sql(text.format(table=table, sink=sink)).fetchall()
                rows |= {row[0]: row for row in found}
        return [
            Backlog(
                sink,
                int(rows[sink][1]),
                None if rows[sink][2] is None else moment(rows[sink][2]),
                int(rows[sink][3]),
            )
            if sink in rows
            else Backlog(sink, 0, None, 0)
            for sink in (*Sink, HOOK)
        ]

    # -- what was given up

    def parked(self) -> list[ParkedDelivery]:
        """The deliveries given up, the oldest event first."""
        text = f"""
            SELECT d.sink, e.id, e.agent, d.attempts, d.error, d.parked_at, d.event
            FROM deliveries d JOIN events e ON e.seq = d.event WHERE d.parked_at IS NOT NULL
            UNION ALL
            SELECT '{HOOK} ' || d.hook, e.id, e.agent, d.attempts, d.error, d.parked_at, d.event
            FROM hook_deliveries d JOIN events e ON e.seq = d.event WHERE d.parked_at IS NOT NULL
            ORDER BY 7, 1
        """
        with self.connected() as database:
            rows = database.execute_sql(text).fetchall()
        return [
            ParkedDelivery(row[0], row[1], row[2], row[3], row[4] or "", moment(row[5]))
            for row in rows
        ]


_left_out: set[int] = set()  # numbers of events that were logged: each reader meets them again


def _readable(rows: Iterable[Sequence[Any]]) -> list[StoredEvent]:
    """Of rows with ``EVENT_COLUMNS``."""
    found: list[StoredEvent] = []
    for row in rows:
        try:
            found.append(StoredEvent(row[-1], event_from(row)))
        except UnreadableEvent as error:  # the others are there all the same
            if row[-1] not in _left_out and len(_left_out) < LEFT_OUT:
                _left_out.add(row[-1])
                log.warning("event %s is left out: %s", printable(str(row[0]))[:80], error)
    return found


def _events() -> "ModelSelect[Any]":
    table = tables.Event
    return table.select(*(getattr(table, column) for column in (*COLUMNS, "seq")))


def _narrowed(
    query: "ModelSelect[Any]", agent: str | None, type: EventType | None, source: Source | None
) -> "ModelSelect[Any]":
    table = tables.Event
    for column, wanted in ((table.agent, agent), (table.type, type), (table.source, source)):
        if wanted is not None:
            query = query.where(column == str(wanted))
    return query


class _Gaps:
    """Numbers that were taken, and may yet be filled (PostgreSQL).

    A sequence gives its numbers before the transactions that ask for them are committed, and not
    in the order in which these are: event 8 can appear after event 9. A transaction that was rolled
    back leaves its number missing for ever.

    Who inserts has locked the table (ROW EXCLUSIVE) before a number is taken, and until the end of
    the transaction (https://www.postgresql.org/docs/current/explicit-locking.html). So when event 9
    is seen and 8 is not, 8 can be filled only by those who hold that lock now; once they have let
    go of it, what they have written is there for the next look, and what is still missing then will
    be missing for ever. Transactions of others, however long, and of other databases are nothing
    to us; the oldest running transaction of all (pg_snapshot_xmin) would wait for them, too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._final = 0  # up to here nothing is filled any more
        # Who may fill what is missing before a number, and who of them has not ended yet.
        self._open: list[tuple[int, set[str]]] = []

    def settled(
        self, database: Any, after: int | None, read: Callable[[], list[Sequence[Any]]]
    ) -> tuple[list[Sequence[Any]], bool]:
        """The rows that ``read`` gives, those whose last column is a number after ``after`` (or
        from the first row's on), up to the first number that may still be filled; and whether that
        is all of them."""
        rows: list[Sequence[Any]] = []
        count = 0
        for _ in range(ROUNDS):
            final = self._final  # before the rows are read
            rows = read()
            if not rows:
                return rows, True
            count = _before_gap(rows, rows[0][-1] - 1 if after is None else after, final)
            if count == len(rows):
                return rows, True
            if not self._looked(database, rows[count][-1] - 1, rows[-1][-1]):
                break
        return rows[:count], False

    def _looked(self, database: Any, missing: int, newest: int) -> bool:
        """Whether nothing is filled any more up to that number: the rows must be read anew."""
        with self._lock:  # so that nobody judges by what was seen before another's entry
            writers = {row[0] for row in database.execute_sql(_WRITERS).fetchall()}
            still: list[tuple[int, set[str]]] = []
            for before, who in self._open:
                if left := who & writers:
                    still.append((before, left))
                else:
                    self._final = max(self._final, before - 1)
            if not writers:
                self._final = max(self._final, newest - 1)
            elif self._final < missing and all(before <= missing for before, _ in still):
                still.append((newest, writers))
            self._open = [one for one in still if one[0] - 1 > self._final]
            return self._final >= missing


def _before_gap(rows: Sequence[Sequence[Any]], after: int, final: int) -> int:
    """How many of the rows, by their numbers, stand before the first gap beyond ``final``."""
    for count, row in enumerate(rows):
        if row[-1] != after + 1 and row[-1] - 1 > final:
            return count
        after = row[-1]
    return len(rows)


_WRITERS = (
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND granted"
    " AND relation = 'events'::regclass AND mode = 'RowExclusiveLock'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def _view(
    state: AgentState, source: str | None, pause_source: str | None, *, by: Mapping[str, str]
) -> AgentView:
    session, pause = state.session, state.pause
    return AgentView(
        id=state.id,
        number=state.number,
        name=state.name,
        language=state.language,
        status=state.status,
        extension=session.device.extension if session else "",
        interface=session.device.interface if session else "",
        since=session.since if session else None,
        queues=tuple(m.queue for m in state.memberships),
        joined=tuple(m.queue for m in state.joined),
        pause_reason=pause.reason.name if pause else "",
        paused_since=pause.since if pause else None,
        asterisk=session.device.asterisk if session else "",
        paused_in=tuple(m.queue for m in state.joined if m.own_pause and m.own_pause.paused),
        planned=state.plan,
        context=session.device.context if session else "",
        device_type=session.device.type if session else "local",
        source=as_source(source) if session and source else None,
        pause_source=as_source(pause_source) if pause and pause_source else None,
        by=by.get(session.id, "") if session else "",
        pause_by=by.get(pause.id, "") if pause else "",
    )


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
        for agent, id in query.tuples().execute(database):
            found.setdefault(agent, []).append(id)
    return found


def _latest(
    database: Any, table: Any, ids: Sequence[int], *, ended: bool = False
) -> dict[int, Period]:
    """Each agent's latest session or pause; the latest that has ended."""
    session = table is tables.LoginSession
    subject, name = (table.interface, table.interface) if session else (table.code, table.name)
    found: dict[int, Period] = {}
    for id in ids:
        query = (
            table.select(table.id, subject, name, table.since, table.ended_at)
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


def _chunks(ids: Sequence[T]) -> Iterable[Sequence[T]]:
    return (ids[begin : begin + CHUNK] for begin in range(0, len(ids), CHUNK))
