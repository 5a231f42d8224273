"""Read-only views for the command line and the HTTP faces.

They work beside a running service, also from another process, and hold nobody up. The calls
block: from an event loop they are made in a thread.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peewee import JOIN, Field, ModelSelect, PeeweeException
from playhouse.pool import PooledDatabase

from fastagi.agents.commands import LogOff, Pause
from fastagi.agents.events import Event
from fastagi.agents.model import AgentState, Status
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType, Source
from fastagi.store import tables
from fastagi.store.connection import STATE, loaded, moment
from fastagi.store.database import parse
from fastagi.store.deliveries import UnreadableEvent, event_from

log = logging.getLogger(__name__)  # not on standard output, where commands write

CHUNK = 1000  # values per statement
LOG_OFF, PAUSE = "log off", "pause"


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
class ParkedDelivery:
    """Given up after too many refusals."""

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

    def close(self) -> None:
        """Of the connections of other threads too."""
        if isinstance(self._database, PooledDatabase):
            self._database.close_all()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        if self._path is not None and not self._path.exists():
            raise StoreUnavailable(f"{self._name}: there is no such file yet")
        try:
            with self._database.connection_context():
                yield self._database
        except PeeweeException as error:
            raise StoreUnavailable(f"{self._name}: {error}") from error

    def _rows(self, query: "ModelSelect[Any]") -> list[Sequence[Any]]:
        with self._connected() as database:
            return list(query.tuples().execute(database))

    def agents(self) -> list[AgentView]:
        """All agents that are not archived, or still logged in; by number."""
        return self._agents("(a.archived_at IS NULL OR s.id IS NOT NULL)", ())

    def agent(self, number: str) -> AgentView | None:
        """Likewise, one of them."""
        found = self._agents(
            "(a.archived_at IS NULL OR s.id IS NOT NULL) AND a.number = {}", (number,)
        )
        return found[0] if found else None

    def _agents(self, where: str, values: tuple[object, ...]) -> list[AgentView]:
        views = [_view(state) for state in self._states(where, values)]
        return sorted(views, key=lambda view: (len(view.number), view.number))

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
        with self._connected() as database:
            text = STATE.format(where=where.format(database.param))
            return [found.state for found in loaded(database.execute_sql(text, values).fetchall())]

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
        return [
            ParkedDelivery(row[0], row[1], row[2], row[3], row[4] or "", moment(row[5]))
            for row in self._rows(query)
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
    table = tables.Delivery
    query = table.update(parked_at=None, due_at=0, attempts=0).where(table.parked_at.is_null(False))
    if event_id is not None:
        event = tables.Event.select(tables.Event.seq).where(tables.Event.id == event_id)
        query = query.where(table.event.in_(event))
    try:
        with database.connection_context(), database.atomic():
            return int(query.execute(database))
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


def _view(state: AgentState) -> AgentView:
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
    )
