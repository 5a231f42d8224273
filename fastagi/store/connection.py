"""One thread's connection: transactions, and agents' states as rows.

Peewee takes about 100 µs of processor time to make a query, however often the same one is made:
113 µs for one row of ``pause_reasons`` and 120 µs for an update by its key, against 3 and 4 µs as
text. It has no compiled queries that take values; its text, kept, would be what stands here. So
what runs at every code is SQL here; everything else uses Peewee's queries.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple

import orjson
import psycopg
import structlog
from peewee import Database, PeeweeException

from fastagi.agents.commands import (
    NO_FACTS,
    Actor,
    Command,
    Facts,
    LogOff,
    Pause,
    PauseReason,
    plan_from_dict,
)
from fastagi.agents.devices import Device
from fastagi.agents.events import SINKS, Event
from fastagi.agents.limits import WhenExceeded
from fastagi.agents.model import (
    AgentState,
    Assign,
    Assignment,
    Change,
    LoginSession,
    Membership,
    OwnPause,
    PauseSegment,
)
from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import StoreFault
from fastagi.agents.text import parsed_object
from fastagi.contract import HOOK_TYPES, Outcome, Source
from fastagi.store.clock import Clock
from fastagi.store.database import Place, explained
from fastagi.store.file import DatabaseFile
from fastagi.store.locks import Presence
from fastagi.store.worker import Transactor

log = structlog.get_logger()

MAX_STATES = 50_000  # of about 1 KiB
MAX_EVENTS = 5_000
MAX_UNREADABLE = 100  # texts that are logged

_unreadable: set[int] = set()  # hashes of what was planned, as logged


# SQLite takes anything into any column, and a later version or somebody's hand may have written
# what this one does not know. One odd row must not keep all the others from being read with it.
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def exactly(seconds: float) -> datetime:
    """Raises TypeError, ValueError, OverflowError or OSError for what is no time."""
    return datetime.fromtimestamp(seconds, UTC)


def moment(seconds: float) -> datetime:
    """1970 for what is no time."""
    try:
        return exactly(seconds)
    except (TypeError, ValueError, OverflowError, OSError):
        return _NO_TIME


def span(seconds: float | None) -> timedelta | None:
    """None also for what is no length of time."""
    try:
        return None if seconds is None else timedelta(seconds=seconds)
    except (TypeError, ValueError, OverflowError):
        return None


def when_exceeded(text: str | None) -> WhenExceeded:
    try:
        return WhenExceeded(text or "")
    except ValueError:
        return WhenExceeded.WARN


def as_source(text: str) -> Source:
    try:
        return Source(text)
    except ValueError:
        return Source.SYSTEM


class Loaded:
    """An agent's state with what only the store knows of it."""

    __slots__ = ("archived", "decided_at", "intent", "intent_id", "state", "whole")

    def __init__(
        self,
        state: AgentState,
        archived: bool,
        intent_id: str | None = None,
        intent: str | None = None,
        decided_at: float | None = None,
        whole: bool = True,
    ) -> None:
        self.state = state
        self.archived = archived
        self.intent_id = intent_id
        self.intent = intent
        self.decided_at = decided_at
        # Every membership in the tables is in the state, and stays there when left.
        self.whole = whole


class StateRow(NamedTuple):
    """The columns of ``STATE``, in its order: one membership of an agent, with the agent."""

    id: int
    number: str
    name: str
    language: str
    pin_hash: str | None
    archived_at: float | None
    intent_id: str | None
    intent: str | None
    decided_at: float | None
    session_id: str | None
    extension: str
    context: str
    interface: str
    state_interface: str
    device_type: Any
    session_since: float
    planned: str | None
    pause_id: str | None
    reason_code: str
    reason_name: str
    pause_since: float
    queue: str | None
    queue_number: str
    penalty: int
    joined: bool
    taken_away_at: float | None  # of the membership
    queue_archived_at: float | None
    asterisk: str
    own_penalty: int | None
    own_paused: bool | None
    own_reason: str | None


COLUMNS = len(StateRow._fields)
STATE = """
SELECT a.id, a.number, a.name, a.language, a.pin_hash, a.archived_at,
       i.command_id, i.command, i.decided_at,
       s.id, s.extension, s.context, s.interface, s.state_interface, s.type, s.since, s.planned,
       p.id, p.code, p.name, p.since,
       q.name, q.number, m.penalty, m.joined, m.archived_at, q.archived_at,
       s.asterisk, m.own_penalty, m.own_paused, m.own_reason{more}
FROM agents a
LEFT JOIN intents i ON i.agent_id = a.id
LEFT JOIN login_sessions s ON s.agent_id = a.id AND s.ended_at IS NULL
LEFT JOIN pause_segments p ON p.agent_id = a.id AND p.ended_at IS NULL
LEFT JOIN memberships m ON m.agent_id = a.id
LEFT JOIN queues q ON q.id = m.queue_id
WHERE {where}
ORDER BY a.id, m.queue_id
"""
ORIGIN = ", m.origin"


def state_query(where: str, more: str = "") -> str:
    """``more``: columns behind those of ``STATE``, each with a comma before it."""
    return STATE.format(where=where, more=more)


def loaded(rows: Iterable[Sequence[Any]], all_memberships: bool = False) -> list[Loaded]:
    """States of the rows of ``STATE``: one row per membership, an agent's rows together.

    A membership that was taken away counts as long as the agent is in that queue: it has to be
    left. With ``all_memberships``, of rows with ``ORIGIN`` behind them, what the YAML has taken
    away counts anyway.
    """
    found: list[Loaded] = []
    last: StateRow | None = None
    memberships: list[Membership] = []
    whole = True
    for columns in rows:
        row = StateRow._make(columns[:COLUMNS])
        if last is not None and last.id != row.id:
            found.append(_one(last, tuple(memberships), whole))
            memberships = []
            whole = True
        last = row
        if row.queue is None:
            continue
        gone = row.taken_away_at is not None or row.queue_archived_at is not None
        whole = whole and not gone
        if row.joined or not gone or (all_memberships and columns[COLUMNS] == "yaml"):
            memberships.append(_membership(row, row.queue))
    if last is not None:
        found.append(_one(last, tuple(memberships), whole))
    return found


def _membership(row: StateRow, queue: str) -> Membership:
    joined = bool(row.joined)
    if row.own_penalty is None and row.own_paused is None:
        return Membership(queue, row.queue_number, row.penalty, joined)
    own = None
    if row.own_paused is not None:
        own = OwnPause(bool(row.own_paused), row.own_reason or "")
    return Membership(queue, row.queue_number, row.penalty, joined, row.own_penalty, own)


def _one(row: StateRow, memberships: tuple[Membership, ...], whole: bool) -> Loaded:
    session: LoginSession | None = None
    pause: PauseSegment | None = None
    planned: LogOff | Pause | None = None
    if row.session_id is not None:
        device = Device(
            row.extension,
            row.context,
            row.interface,
            row.state_interface,
            row.device_type,
            row.asterisk,
        )
        session = LoginSession(row.session_id, device, moment(row.session_since))
        if row.planned is not None:
            planned = planned_from(row.planned)
    if row.pause_id is not None:
        reason = PauseReason(row.reason_code, row.reason_name)
        pause = PauseSegment(row.pause_id, reason, moment(row.pause_since))
    state = AgentState(
        row.id,
        row.number,
        row.name,
        row.language,
        row.pin_hash,
        memberships,
        session,
        pause,
        planned,
    )
    archived = row.archived_at is not None
    return Loaded(state, archived, row.intent_id, row.intent, row.decided_at, whole)


def planned_from(text: str) -> LogOff | Pause | None:
    """None for what this version does not understand: it must not shut the agent out."""
    try:
        return plan_from_dict(parsed_object("planned", text))
    except (KeyError, ValueError) as error:
        if hash(text) not in _unreadable and len(_unreadable) < MAX_UNREADABLE:
            _unreadable.add(hash(text))  # it is read again and again
            log.error("what was planned cannot be read", error=repr(error))
        return None


class Connection(Transactor):
    """One thread's; ``store.sqlite`` and ``store.postgresql`` have a class each. Reconnects by
    itself at the next ``begin`` after a failure."""

    THREADS: ClassVar[int]
    BATCH: ClassVar[int]  # jobs in a transaction
    RETRY: ClassVar[bool]  # once more on a new connection
    WAITING_HOOKS: ClassVar[str] = ""  # which index a query of what waits for hooks must use
    KEEPS: ClassVar[bool]  # what was read holds until ``outdated``: nobody else writes unseen

    def __init__(
        self,
        database: Database,
        place: Place,
        presence: Presence,
        file: DatabaseFile | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.presence = presence
        self.clock = clock or Clock()
        self._file = file
        self._database: Any = database
        self._place = place
        self._cursor: Any = None
        self._open = False  # a transaction
        # States by number, true to the database: what an agent does comes in threes (who is it,
        # begin, confirm), and loading a state takes longer than writing one.
        self._states: dict[str, Loaded] = {}
        # The latest events written here, by number: what tells them to others need not read them.
        self.events: dict[int, Event] = {}
        self.wrote_deliveries = False
        self.outdated = True
        self._must_sync = False

    # -- what differs

    def execute(self, sql: str, values: Sequence[object] = ()) -> Any:
        """The cursor, good until the next statement. A ? stands for each value."""
        raise NotImplementedError

    def one_of(self, values: Sequence[object]) -> tuple[str, Sequence[object]]:
        """What stands behind a column that has one of these values, and the values for it."""
        raise NotImplementedError

    def one_at_a_time(self, key: str, kind: int) -> None:
        """No other transaction comes by here with this key before this one ends. ``kind``: 0 for
        PINs, 2 for the directory."""
        raise NotImplementedError

    def keeps_hook(self, id: int) -> bool:
        """Whether there is this hook, and will be until the transaction ends."""
        raise NotImplementedError

    def hooks_changed(self) -> None:
        """Somebody has another hook, or one less."""
        raise NotImplementedError

    def probing(self) -> float:
        """What is written now need not survive a crash. The database's clock where it has one
        that counts, else 0."""
        raise NotImplementedError

    def warm(self, least: int, limit: int) -> list[Loaded]:
        """Loads the states of up to ``limit`` agents from this id on, as far as there is room."""
        raise NotImplementedError

    def lock(self, number: str) -> Loaded | None:
        """As ``load``; nobody else changes the agent before this transaction ends. Raises
        InProgress while somebody does: whoever wants it waits without a thread of ours."""
        raise NotImplementedError

    def load_many(self, numbers: Sequence[str]) -> list[Loaded]:
        """Those of them that there are."""
        raise NotImplementedError

    def _insert_event(self, values: Sequence[object]) -> int | None:
        """Its number; None: it is there already."""
        raise NotImplementedError

    def _owe(self, event: Event, seq: int, sinks: int, values: Sequence[object]) -> None:
        """Deliveries to so many sinks, and to the agent's hooks if it is for them."""
        raise NotImplementedError

    # -- transactions

    def connected(self) -> bool:
        """False: not before now."""
        if self._cursor is not None:
            return True
        self._database.connect(reuse_if_open=True)
        self._cursor = self._database.connection().cursor()
        return False

    def unavailable(self, error: BaseException) -> bool:
        if isinstance(error, sqlite3.IntegrityError | psycopg.IntegrityError):
            return False
        if isinstance(error, _NOT_OURS):
            return True
        if isinstance(error, sqlite3.ProgrammingError | psycopg.ProgrammingError):
            return False
        return isinstance(
            error, sqlite3.Error | psycopg.Error | PeeweeException | OSError | StoreUnavailable
        )

    def worth_repeating(self, error: BaseException) -> bool:
        """On a new connection: the old one was cut, or two have met in a deadlock. Not what would
        only take as long once more, as a lock."""
        state = getattr(error, "sqlstate", None)
        return state is None or state[:2] in ("08", "40") or state[:3] == "57P"

    def explained(self, error: BaseException) -> StoreUnavailable:
        found = explained(self._place, error)
        if self._file is not None and isinstance(error, sqlite3.Error):
            if found.fault is StoreFault.DAMAGED:
                self._file.break_off(str(error))
            elif found.fault is StoreFault.LOCKED and self._file.busy:
                return StoreUnavailable(
                    f"{self._place.name}: {self._file.busy}: it passes by", fault=found.fault
                )
            elif found.fault is StoreFault.LOCKED and (holder := self._file.writer()):
                return StoreUnavailable(f"{found} (it is {holder})", fault=found.fault)
        return found

    @property
    def peewee(self) -> Database:
        """For Peewee's queries in the same transaction."""
        database: Database = self._database
        return database

    # -- agents

    def load(self, number: str) -> Loaded | None:
        found = self._states.get(number)
        if found is None:
            rows = self.execute(_BY_NUMBER, (number,)).fetchall()
            for found in loaded(rows):
                self._states[number] = found
        return found

    def kept(self, number: str) -> AgentState | None:
        """What ``load`` would say without asking the database, unless archived."""
        found = self._states.get(number)
        return None if found is None or found.archived else found.state

    def forget(self, number: str | None = None) -> None:
        """After a write of other than the methods here that changes what ``load`` says of the
        agent, or of any."""
        if number is None:
            self._states.clear()
            self.outdated = True
        else:
            self._states.pop(number, None)

    def write_intent(self, found: Loaded, change: Change) -> None:
        state, command = found.state, change.command
        text, at = dumped(command, change.facts), change.at.timestamp()
        values = (state.id, command.id, text, at, self.presence.id, self.clock.time())
        self.execute(_INTEND, values)
        self._states[state.number] = Loaded(
            state, found.archived, command.id, text, at, found.whole
        )

    def drop_intent(self, change: Change) -> bool:
        """False: there was none of this change, or another service has taken it over."""
        before = change.before
        found = self._states.pop(before.number, None)
        values = (before.id, change.command.id, self.presence.id)
        if self.execute(_DROP_INTENT, values).rowcount == 0:
            return False
        # The very state that was decided on: nothing else has changed it since.
        if found is not None and found.state is before:
            self._states[before.number] = Loaded(before, found.archived, whole=found.whole)
        return True

    def loaded_where(
        self, where: str, values: Sequence[object] = (), all_memberships: bool = False
    ) -> list[Loaded]:
        text = state_query(where, ORIGIN if all_memberships else "")
        rows = self.execute(text, values).fetchall()
        return loaded(rows, all_memberships)

    def write(self, change: Change) -> None:
        """What differs between before and after, and the events."""
        self._must_sync = True
        before, after = change.before, change.after
        found = self._states.pop(before.number, None)
        whole = (
            found is not None
            and found.state is before
            and found.whole
            and len(before.memberships) == len(after.memberships)
        )
        if whole and found is not None and not found.archived:
            self._states[before.number] = Loaded(after, False)
        source = change.command.source.value
        was, now = before.session, after.session
        if was is not now and was != now:
            if was is not None:
                at, how = _ending(change)
                self.execute(_END_SESSION, (at, how, source, was.id))
                if now is None or now.device.key != was.device.key:
                    self.execute(_RELEASE, (was.device.key, before.id))
            if now is not None:
                device = now.device
                self.execute(
                    _START_SESSION,
                    (
                        now.id,
                        before.id,
                        device.extension,
                        device.context,
                        device.interface,
                        device.state_interface,
                        device.type,
                        device.asterisk,
                        now.since.timestamp(),
                        source,
                        _planned(after),
                    ),
                )
        elif now is not None and before.planned != after.planned:
            self.execute(_PLAN, (_planned(after), now.id))
        if before.pause != after.pause:
            if before.pause is not None:
                at, _ = _ending(change)
                self.execute(_END_PAUSE, (at, _pause_ended(change), source, before.pause.id))
            if after.pause is not None:
                pause = after.pause
                self.execute(
                    _START_PAUSE,
                    (
                        pause.id,
                        before.id,
                        pause.reason.code,
                        pause.reason.name,
                        pause.since.timestamp(),
                        source,
                    ),
                )
        if change.assigns is not None:
            self._write_assignment(change, change.assigns)
        elif before.memberships is not after.memberships:
            self._write_memberships(change, whole)
        for event in change.events:
            self.write_event(event)

    def _write_memberships(self, change: Change, whole: bool) -> None:
        before, after = change.before, change.after
        now = {m.joined for m in after.memberships}
        if now == {False} or (
            now == {True} and whole and not any(map(_has_own, after.memberships))
        ):
            self.execute(_ALL_QUEUES, (*now, before.id))
            return
        was = {m.queue: m for m in before.memberships}
        for m in after.memberships:
            own = (None, None) if m.own_pause is None else (m.own_pause.paused, m.own_pause.reason)
            if m.queue not in was:
                values = (m.penalty, m.joined, change.at.timestamp(), m.own_penalty, *own)
                self.execute(_ADOPT_QUEUE, (before.id, m.queue, *values))
            elif m != was[m.queue]:
                self.execute(_ONE_QUEUE, (m.joined, m.own_penalty, *own, before.id, m.queue))

    def _write_assignment(self, change: Change, assignment: Assignment) -> None:
        """Which queues are the agent's, with which penalty.

        A row that a program has archived is the program's: what the YAML said before does not bring
        it back."""
        agent, queue = change.before.id, assignment.queue
        match assignment.how:
            case Assign.GIVE:
                joined = any(m.joined for m in change.after.memberships if m.queue == queue)
                self.execute(_GIVE_QUEUE, (agent, queue, assignment.penalty, joined))
            case Assign.KEEP:
                self.execute(_KEEP_QUEUE, (agent, queue))
            case Assign.TAKE:
                self.execute(_TAKE_QUEUE, (change.at.timestamp(), agent, queue))
            case Assign.PENALTY:
                self.execute(_ASSIGN_PENALTY, (assignment.penalty, agent, queue))
        # What is archived now, or not any more, a state does not tell.
        self._states.pop(change.before.number, None)

    def write_event(self, event: Event) -> None:
        """The event and a delivery per sink and hook; an event that is there already writes
        nothing."""
        values = (
            event.id,
            event.type.value,
            event.agent,
            event.extension,
            event.context,
            _encode(event.queues),
            event.reason,
            event.source.value,
            _actor(event.actor),
            event.occurred_at.timestamp(),
            event.session_seconds,
            event.asterisk,
            event.in_part,
            event.device_type,
        )
        seq = self._insert_event(values)
        sinks = SINKS[event.type]
        if seq is None or not sinks:
            return
        if len(self.events) >= MAX_EVENTS:
            self.events.clear()
        self.events[seq] = event
        self.wrote_deliveries = True
        owed = [value for s in sinks for value in (seq, s.value, event.agent)]
        self._owe(event, seq, len(sinks), owed)


def for_hooks(event: Event, seq: int) -> tuple[object, ...] | None:
    """The values of ``HOOK_DELIVERIES``; None: hooks do not get such events. What they get goes to
    sinks as well."""
    if event.type not in HOOK_TYPES or event.in_part:
        return None
    return seq, event.agent, event.type.value, event.device_type


def _planned(state: AgentState) -> str | None:
    return None if state.planned is None else dumped(state.planned)


def _encode(value: object) -> str:
    return orjson.dumps(value).decode()


def dumped(command: Command, facts: Facts = NO_FACTS) -> str:
    """The JSON of ``commands.to_dict``, in a twentieth of the time."""
    text = _encode(command)
    reason = getattr(command, "reason", None)
    if isinstance(reason, PauseReason):
        # The only key of this name; within a text its quotes would be escaped.
        text = text.replace(f',"description":{_encode(reason.description)}', "", 1)
    with_facts = "" if facts == NO_FACTS else f',"facts":{_encode(facts)}'
    return f'{text[:-1]},"kind":"{type(command).__name__}"{with_facts}}}'


def _actor(actor: Actor) -> str:
    """The JSON of ``Actor.as_dict``, likewise."""
    if actor.name or actor.hung_up or not (actor.channel and actor.caller_id and actor.unique_id):
        return _encode(actor.as_dict())
    return _encode(
        {
            "channel": actor.channel,
            "caller_id": actor.caller_id,
            "unique_id": actor.unique_id,
        }
    )


def _has_own(membership: Membership) -> bool:
    return membership.own_penalty is not None or membership.own_pause is not None


def _ending(change: Change) -> tuple[float, str]:
    """When, and how, what the change ends has ended."""
    reason = change.events[0].reason if change.events else ""
    return change.at.timestamp(), reason or change.outcome.value.lower()


def _pause_ended(change: Change) -> str:
    outcome = change.outcome
    if change.after.session is not None:
        outcome = Outcome.PAUSE_REASON_CHANGED if change.after.pause else Outcome.UNPAUSED
    return outcome.value.lower()


# A table or a right that was there at the start: the database's fault, not the statement's.
_NOT_OURS = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
)
_BY_NUMBER = state_query("a.number = ?")
_ALL_QUEUES = (
    "UPDATE memberships SET joined = ?, own_penalty = NULL, own_paused = NULL, own_reason = NULL"
    " WHERE agent_id = ?"
)
_ONE_QUEUE = (
    "UPDATE memberships SET joined = ?, own_penalty = ?, own_paused = ?, own_reason = ?"
    " WHERE agent_id = ? AND queue_id = (SELECT id FROM queues WHERE name = ?)"
)
# There is a row already where the agent once had that queue.
_ADOPT_QUEUE = (
    "INSERT INTO memberships (agent_id, queue_id, penalty, joined, origin, archived_at,"
    " own_penalty, own_paused, own_reason)"
    " VALUES (?, (SELECT id FROM queues WHERE name = ?), ?, ?, 'asterisk', ?, ?, ?, ?)"
    " ON CONFLICT (agent_id, queue_id) DO UPDATE SET penalty = excluded.penalty,"
    " joined = excluded.joined, origin = excluded.origin,"
    " archived_at = coalesce(memberships.archived_at, excluded.archived_at),"
    " own_penalty = excluded.own_penalty, own_paused = excluded.own_paused,"
    " own_reason = excluded.own_reason"
)
_GIVE_QUEUE = (
    "INSERT INTO memberships (agent_id, queue_id, penalty, joined, origin)"
    " VALUES (?, (SELECT id FROM queues WHERE name = ?), ?, ?, 'api')"
    " ON CONFLICT (agent_id, queue_id) DO UPDATE SET penalty = excluded.penalty,"
    " joined = excluded.joined,"
    # Not archived: brought in from the YAML while Asterisk was being told.
    " origin = CASE WHEN memberships.archived_at IS NULL THEN memberships.origin"
    " ELSE excluded.origin END,"
    " archived_at = NULL, own_penalty = NULL, own_paused = NULL, own_reason = NULL"
)
_TAKE_QUEUE = (
    "UPDATE memberships SET archived_at = coalesce(archived_at, ?), joined = FALSE, origin = 'api',"
    " own_penalty = NULL, own_paused = NULL, own_reason = NULL"
    " WHERE agent_id = ? AND queue_id = (SELECT id FROM queues WHERE name = ?)"
)
_KEEP_QUEUE = (
    "UPDATE memberships SET archived_at = NULL, origin = 'api'"
    " WHERE agent_id = ? AND queue_id = (SELECT id FROM queues WHERE name = ?)"
    " AND archived_at IS NOT NULL"
)
_ASSIGN_PENALTY = (
    "UPDATE memberships SET penalty = ?, own_penalty = NULL"
    " WHERE agent_id = ? AND queue_id = (SELECT id FROM queues WHERE name = ?)"
)
HOOK_DELIVERIES = (
    "INSERT INTO hook_deliveries (hook, event) SELECT h.id, ? FROM hooks h"
    " WHERE h.agent_id = (SELECT id FROM agents WHERE number = ?)"
    " AND h.event_type = ? AND h.agent_type = ?"
)
_INTEND = (
    "INSERT INTO intents (agent_id, command_id, command, decided_at, owner, owned_at)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_DROP_INTENT = "DELETE FROM intents WHERE agent_id = ? AND command_id = ? AND owner = ?"
_START_SESSION = (
    "INSERT INTO login_sessions (id, agent_id, extension, context, interface, state_interface,"
    " type, asterisk, since, source, planned) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_END_SESSION = (
    "UPDATE login_sessions SET ended_at = ?, ended_how = ?, ended_source = ? WHERE id = ?"
)
_PLAN = "UPDATE login_sessions SET planned = ? WHERE id = ?"
_RELEASE = "DELETE FROM devices_in_use WHERE interface = ? AND agent_id = ?"
_START_PAUSE = (
    "INSERT INTO pause_segments (id, agent_id, code, name, since, source) VALUES (?, ?, ?, ?, ?, ?)"
)
_END_PAUSE = "UPDATE pause_segments SET ended_at = ?, ended_how = ?, ended_source = ? WHERE id = ?"
EVENT = (
    "INSERT INTO events (id, type, agent, extension, context, queues, reason, source, actor,"
    " occurred_at, session_seconds, asterisk, in_part, device_type)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO NOTHING"
)
DELIVERIES = {
    count: "INSERT INTO deliveries (event, sink, agent) VALUES " + ", ".join(["(?, ?, ?)"] * count)
    for count in range(1, max(len(sinks) for sinks in SINKS.values()) + 1)
}
