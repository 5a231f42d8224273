"""Read-only views for the command line and the HTTP faces.

They work beside a running service, also from another process, and hold nobody up. The calls
block: from an event loop they are made in a thread.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peewee import JOIN, Field, ModelSelect, PeeweeException
from playhouse.pool import PooledDatabase

from fastagi.agents.commands import LogOff, Pause
from fastagi.agents.devices import DeviceType
from fastagi.agents.events import Event
from fastagi.agents.model import AgentState, Status
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType, Sink, Source
from fastagi.store import tables
from fastagi.store.connection import STATE, loaded, moment
from fastagi.store.database import parse
from fastagi.store.deliveries import UnreadableEvent, event_from

log = logging.getLogger(__name__)  # not on standard output, where commands write

CHUNK = 1000  # values per statement
LOG_OFF, PAUSE = "log off", "pause"
HOOK = "hook"  # among the sinks: all hooks together
# Seconds, see _Gaps: no transaction takes half as long as LONG_AGO.
GRACE, LONG_AGO = 1.0, 600.0


@dataclass(frozen=True, slots=True)
class AgentView:
    """``queues`` are the agent's, ``joined`` those the agent is in now. ``since``: of the login.

    ``paused_in``: queues with a pause that is not the agent's in general. ``planned``: what
    happens when the present queue call ends, ``log off``, ``pause`` or nothing.
    """

    id: int
    number: str
    name: str
    language: str
    status: Status
    extension: str
    interface: str
    since: datetime | None
    queues: tuple[str, ...]
    joined: tuple[str, ...]
    pause_reason: str
    paused_since: datetime | None
    asterisk: str = ""
    paused_in: tuple[str, ...] = ()
    planned: str = ""
    context: str = ""
    device_type: DeviceType = "local"
    source: Source | None = None  # where the login came from
    pause_source: Source | None = None

    @property
    def logoff_planned(self) -> bool:
        return self.planned == LOG_OFF


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """``seq`` rises with every event; it is where ``events(after=…)`` goes on."""

    seq: int
    event: Event


@dataclass(frozen=True, slots=True)
class LoginSessionView:
    id: str
    agent: str
    extension: str
    interface: str
    since: datetime
    source: Source
    ended_at: datetime | None
    ended_how: str
    ended_source: Source | None


@dataclass(frozen=True, slots=True)
class PauseSegmentView:
    id: str
    agent: str
    code: str
    reason: str
    since: datetime
    source: Source
    ended_at: datetime | None
    ended_how: str
    ended_source: Source | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for a sink: how many events, when the oldest occurred, and what was given up."""

    sink: str
    waiting: int
    oldest: datetime | None
    parked: int


@dataclass(frozen=True, slots=True)
class ParkedDelivery:
    """Given up after too many refusals. ``sink`` is ``hook <id>`` for a hook."""

    sink: str
    event_id: str
    agent: str
    attempts: int
    error: str
    parked_at: datetime


class Views:
    """Every call may raise StoreUnavailable, also when the database was never made.

    ``url`` as for ``open_store``; raises BadDatabaseUrl.
    """

    def __init__(self, url: str) -> None:
        place = parse(url)
        self._name = place.name
        self._path = place.path
        self._database = place.reading()
        self._gaps = None if place.sqlite else _Gaps()

    def close(self) -> None:
        """Of the connections of other threads too."""
        if isinstance(self._database, PooledDatabase):
            self._database.close_all()

    @contextmanager
    def connected(self) -> Iterator[Any]:
        if self._path is not None and not self._path.exists():
            raise StoreUnavailable(f"{self._name}: there is no such file yet")
        try:
            with self._database.connection_context():
                yield self._database
        except PeeweeException as error:
            raise StoreUnavailable(f"{self._name}: {error}") from error

    def _rows(self, query: "ModelSelect[Any]") -> list[Sequence[Any]]:
        with self.connected() as database:
            return list(query.tuples().execute(database))

    def agents(self, numbers: Sequence[str] | None = None) -> list[AgentView]:
        """All agents that are not archived, or still logged in; by number. Or those of them with
        these numbers."""
        if numbers is None:
            return self._agents("(a.archived_at IS NULL OR s.id IS NOT NULL)", ())
        found: list[AgentView] = []
        for begin in range(0, len(numbers), CHUNK):
            some = tuple(numbers[begin : begin + CHUNK])
            found += self._agents(
                "(a.archived_at IS NULL OR s.id IS NOT NULL)"
                f" AND a.number IN ({', '.join(['{0}'] * len(some))})",
                some,
            )
        return sorted(found, key=_in_order)

    def agent(self, number: str) -> AgentView | None:
        """Likewise, one of them."""
        found = self._agents(
            "(a.archived_at IS NULL OR s.id IS NOT NULL) AND a.number = {}", (number,)
        )
        return found[0] if found else None

    def _agents(self, where: str, values: tuple[object, ...]) -> list[AgentView]:
        with self.connected() as database:
            text = STATE.format(where=where.format(database.param))
            states = [
                found.state for found in loaded(database.execute_sql(text, values).fetchall())
            ]
            ids = [state.id for state in states if state.session is not None]
            logins = self._sources(database, tables.LoginSession, ids)
            pauses = self._sources(database, tables.PauseSegment, ids)
        views = [_view(s, logins.get(s.id), pauses.get(s.id)) for s in states]
        return sorted(views, key=_in_order)

    def _sources(self, database: Any, table: Any, ids: Sequence[int]) -> dict[int, Source]:
        """Where what is open of these agents came from, by agent."""
        query = table.select(table.agent, table.source).where(table.ended_at.is_null())
        if len(ids) <= CHUNK:
            query = query.where(table.agent.in_(ids))
        rows = query.tuples().execute(database)
        return {agent: Source(source) for agent, source in rows}

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
        found = self.events(after, limit)
        if self._gaps is None or not found:
            return found
        with self.connected() as database:
            numbers = [(s.seq, s.event.occurred_at.timestamp()) for s in found]
            last = self._gaps.settled(database, after, numbers)
        return [stored for stored in found if stored.seq <= last]

    def last_seq(self) -> int:
        """The number of the last event up to which all are settled; 0: there is none."""
        table = tables.Event
        query = table.select(table.seq, table.occurred_at).order_by(table.seq.desc())
        newest = [(row[0], row[1]) for row in self._rows(query.limit(CHUNK))][::-1]
        if not newest:
            return 0
        if self._gaps is None:
            return int(newest[-1][0])
        with self.connected() as database:
            return self._gaps.settled(database, newest[0][0] - 1, newest)

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
        found = []
        for row in self._rows(query):
            try:
                found.append(StoredEvent(row[-1], event_from(row)))
            except UnreadableEvent as error:  # the others are there all the same
                log.warning("event %s is left out: %s", row[0], error)
        return found

    def login_sessions(self, agent: str | None = None, limit: int = 100) -> list[LoginSessionView]:
        """The latest first; open ones have no ``ended_at``."""
        table = tables.LoginSession
        return [
            LoginSessionView(*row)
            for row in self._stretches(table, table.extension, table.interface, agent, limit)
        ]

    def pause_segments(self, agent: str | None = None, limit: int = 100) -> list[PauseSegmentView]:
        """The latest first; open ones have no ``ended_at``."""
        table = tables.PauseSegment
        return [
            PauseSegmentView(*row)
            for row in self._stretches(table, table.code, table.name, agent, limit)
        ]

    def _stretches(
        self, table: Any, one: Field, other: Field, agent: str | None, limit: int
    ) -> Iterator[Sequence[Any]]:
        """The rows of both: ``one`` and ``other`` are what a session or a segment is of."""
        query = (
            table.select(
                table.id,
                tables.Agent.number,
                one,
                other,
                table.since,
                table.source,
                table.ended_at,
                table.ended_how,
                table.ended_source,
            )
            .join(tables.Agent, JOIN.INNER)
            .order_by(table.since.desc(), table.id)
            .limit(limit)
        )
        if agent is not None:
            query = query.where(tables.Agent.number == agent)
        for row in self._rows(query):
            yield *row[:4], moment(row[4]), Source(row[5]), *_ended(row[6:])

    # -- for comparing the store with Asterisk

    def logged_in_states(self) -> list[AgentState]:
        """Of all agents who are logged in."""
        return self._states("s.id IS NOT NULL", ())

    def states(self, numbers: Sequence[str]) -> dict[str, AgentState]:
        """The agents with these numbers, by number; also archived ones who are logged in."""
        found: dict[str, AgentState] = {}
        for begin in range(0, len(numbers), CHUNK):
            some = tuple(numbers[begin : begin + CHUNK])
            where = (
                "(a.archived_at IS NULL OR s.id IS NOT NULL)"
                f" AND a.number IN ({', '.join(['{0}'] * len(some))})"
            )
            found |= {state.number: state for state in self._states(where, some)}
        return found

    def _states(self, where: str, values: tuple[object, ...]) -> list[AgentState]:
        with self.connected() as database:
            text = STATE.format(where=where.format(database.param))
            return [found.state for found in loaded(database.execute_sql(text, values).fetchall())]

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

    def note(self, key: str) -> str | None:
        """A remembered fact about the outside, such as Asterisk's start-up time."""
        rows = self._rows(tables.Note.select(tables.Note.value).where(tables.Note.key == key))
        return rows[0][0] if rows else None

    # -- figures

    def agents_by_state(self) -> dict[str, int]:
        """How many are ``logged_off``, ``available`` and ``paused``."""
        text = """
            SELECT CASE WHEN s.id IS NULL THEN 'logged_off' WHEN p.id IS NULL THEN 'available'
                   ELSE 'paused' END, count(*)
            FROM agents a
            LEFT JOIN login_sessions s ON s.agent_id = a.id AND s.ended_at IS NULL
            LEFT JOIN pause_segments p ON p.agent_id = a.id AND p.ended_at IS NULL
            WHERE a.archived_at IS NULL OR s.id IS NOT NULL
            GROUP BY 1
        """
        with self.connected() as database:
            counted = dict(database.execute_sql(text).fetchall())
        return {status.name.lower(): counted.get(status.name.lower(), 0) for status in Status}

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
        table = tables.Delivery
        query = (
            table.select(
                table.sink,
                tables.Event.id,
                table.agent,
                table.attempts,
                table.error,
                table.parked_at,
            )
            .join(tables.Event, JOIN.INNER)
            .where(table.parked_at.is_null(False))
            .order_by(table.event)
        )
        owed = tables.HookDelivery
        event = tables.Event
        hooks = (
            owed.select(
                owed.hook,
                event.id,
                event.agent,
                owed.attempts,
                owed.error,
                owed.parked_at,
            )
            .join(event, JOIN.INNER, on=(owed.event == event.seq))
            .where(owed.parked_at.is_null(False))
            .order_by(owed.event, owed.hook)
        )
        rows = [*self._rows(query)]
        rows += [(f"{HOOK} {row[0]}", *row[1:]) for row in self._rows(hooks)]
        return [
            ParkedDelivery(row[0], row[1], row[2], row[3], row[4] or "", moment(row[5]))
            for row in rows
        ]


def retry_parked(url: str, event_id: str | None = None) -> int:
    """What was given up is due again, with all attempts ahead: the deliveries of one event, or
    all. Returns how many. A running service finds them within seconds.

    Blocks, and writes; beside a running service too. Raises BadDatabaseUrl, StoreUnavailable.
    """
    place = parse(url)
    if place.path is not None and not place.path.exists():
        raise StoreUnavailable(f"{place.name}: there is no such file yet")
    database = place.database()
    queries = []
    for table in (tables.Delivery, tables.HookDelivery):
        query = table.update(parked_at=None, due_at=0, attempts=0).where(
            table.parked_at.is_null(False)
        )
        if event_id is not None:
            event = tables.Event.select(tables.Event.seq).where(tables.Event.id == event_id)
            query = query.where(table.event.in_(event))
        queries.append(query)
    try:
        with database.connection_context(), database.atomic():
            return sum(int(query.execute(database)) for query in queries)
    except PeeweeException as error:
        raise StoreUnavailable(f"{place.name}: {error}") from error
    finally:
        if isinstance(database, PooledDatabase):
            database.close_all()


def _events() -> "ModelSelect[Any]":
    table = tables.Event
    # The order of ``deliveries.EVENT_COLUMNS``.
    return table.select(
        table.id,
        table.type,
        table.agent,
        table.extension,
        table.queues,
        table.reason,
        table.source,
        table.actor,
        table.occurred_at,
        table.context,
        table.session_seconds,
        table.asterisk,
        table.in_part,
        table.device_type,
        table.seq,
    )


def _narrowed(
    query: "ModelSelect[Any]", agent: str | None, type: EventType | None, source: Source | None
) -> "ModelSelect[Any]":
    table = tables.Event
    for column, wanted in ((table.agent, agent), (table.type, type), (table.source, source)):
        if wanted is not None:
            query = query.where(column == str(wanted))
    return query


def _ended(row: Sequence[Any]) -> tuple[datetime | None, str, Source | None]:
    at, how, source = row
    return (
        None if at is None else moment(at),
        how or "",
        None if source is None else Source(source),
    )


_PLANNED: dict[type, str] = {type(None): "", LogOff: LOG_OFF, Pause: PAUSE}


def _in_order(view: AgentView) -> tuple[int, str]:
    return len(view.number), view.number


class _Gaps:
    """Numbers that were taken, and may yet be filled (PostgreSQL).

    A sequence gives its numbers before the transactions that ask for them are committed, and not
    in the order in which these are: event 8 can appear after event 9. A number that is missing is
    waited for until every transaction that can have taken it has ended: all that were running when
    it was first seen missing. As a transaction is given its own number a moment after it took one
    of the sequence, the ones to wait for are counted a little later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[int, float] = {}  # missing number -> when that was first seen
        self._until: dict[int, int] = {}  # … -> all transactions before this one are waited for

    def settled(self, database: Any, after: int, numbers: Sequence[tuple[int, float]]) -> int:
        """The last of the numbers (rising, all beyond ``after``, each with the time of its event)
        before which nothing is open."""
        if numbers[-1][0] - after == len(numbers):
            return numbers[-1][0]
        row = database.execute_sql(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,"
            " pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        ).fetchone()
        with self._lock:
            return self._settled(after, numbers, *row)

    def _settled(
        self, after: int, numbers: Sequence[tuple[int, float]], oldest: int, newest: int
    ) -> int:
        now = time.monotonic()
        long_ago = time.time() - LONG_AGO
        last = after
        for number, at in numbers:
            for missing in range(last + 1, number) if at > long_ago else ():
                since = self._seen.setdefault(missing, now)
                if now - since < GRACE:
                    return last
                if oldest < self._until.setdefault(missing, newest):
                    return last
            last = number
        if len(self._seen) > CHUNK:
            for missing in [n for n in self._seen if n <= after - CHUNK]:
                self._seen.pop(missing)
                self._until.pop(missing, None)
        return last


def _view(state: AgentState, source: Source | None, pause_source: Source | None) -> AgentView:
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
        planned=_PLANNED[type(state.planned)],
        context=session.device.context if session else "",
        device_type=session.device.type if session else "local",
        source=source if session else None,
        pause_source=pause_source if pause else None,
    )
