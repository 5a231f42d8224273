"""What stands in the YAML is brought into the store: created, changed, archived.

The YAML is declarative for what it created itself; what came through an API stays untouched. A
row is never deleted: history refers to it, and it comes back when it is named again.
"""

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar

from peewee import SQL, Database, SqliteDatabase

from fastagi.agents.protection import Removal
from fastagi.config.settings import AgentSettings, PauseReasonSettings, QueueSettings
from fastagi.store import pins
from fastagi.store.connection import loaded, state_query
from fastagi.store.tables import (
    Agent,
    DeviceInUse,
    LoginSession,
    Membership,
    Note,
    PauseReason,
    Queue,
    QueuePause,
    Table,
)

T = TypeVar("T")

CHUNK = 500  # rows per statement
LINES = 20  # per kind, when a difference is shown
YAML, API = "yaml", "api"


class Declared(Protocol):
    """The sections of the settings that are brought in."""

    @property
    def agents(self) -> Sequence[AgentSettings] | None: ...

    @property
    def queues(self) -> Sequence[QueueSettings]: ...

    @property
    def pause_reasons(self) -> Sequence[PauseReasonSettings]: ...

    @property
    def fingerprint_material(self) -> bytes: ...


class DirectoryConflict(ValueError):
    """The YAML claims something that was created through an API; the text says what."""


@dataclass(slots=True)
class Difference:
    """What bringing in the YAML has changed, one readable line each; never a PIN. ``queues`` has
    a line for each agent who was there and has other queues now.

    The rest is for the service: ``to_log_off`` are agents (numbers) who were archived while they
    are logged in or logging in. For agents who are logged in and stay, ``to_leave`` and
    ``to_join`` are pairs of agent and queue name, ``to_set_penalty`` has the new penalty as well.
    A membership taken away stays part of the agent's state until that queue was left.
    """

    created: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    archived: list[str] = field(default_factory=list)
    queues: list[str] = field(default_factory=list)
    to_log_off: list[str] = field(default_factory=list)
    to_leave: list[tuple[str, str]] = field(default_factory=list)
    to_join: list[tuple[str, str]] = field(default_factory=list)
    to_set_penalty: list[tuple[str, str, int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.created or self.changed or self.archived or self.queues)

    def lines(self) -> list[str]:
        """For a log: each change, or how many more when there are many."""
        lines_shown: list[str] = []
        for what, lines in (
            ("created", self.created),
            ("changed", self.changed),
            ("archived", self.archived),
        ):
            lines_shown += [f"{what} {line}" for line in lines[:LINES]]
            if len(lines) > LINES:
                lines_shown.append(f"{what} {len(lines) - LINES} more")
        lines_shown += self.queues[:LINES]
        if len(self.queues) > LINES:
            lines_shown.append(f"{len(self.queues) - LINES} more agents: other queues")
        return lines_shown


def knows(database: Database, material: bytes) -> bool:
    """Whether the YAML with this fingerprint is the one brought in last."""
    row = Note.select(Note.value).where(Note.key == "directory").tuples().execute(database)
    for (value,) in row:
        salt, _, digest = value.partition(":")
        return hmac.compare_digest(_fingerprint(bytes.fromhex(salt), material), digest)
    return False


def _fingerprint(salt: bytes, material: bytes) -> str:
    # Hashed hard: the material is made of PINs too.
    return hashlib.scrypt(material, salt=salt, n=2**14, r=8, p=1, dklen=32).hex()


def bring_in(
    database: Database, declared: Declared, allow: Callable[[Removal], None] = lambda _: None
) -> Difference:
    """Blocks: to be called in a thread. All or nothing. Raises DirectoryConflict.

    ``database`` must be connected in this thread. What other programs have changed of the
    memberships since stays as it is until another YAML than the last one is brought in. ``allow``
    learns beforehand what would be taken away, in the same transaction; when it raises, nothing
    is changed.
    """
    agents = declared.agents
    if agents is None:
        raise ValueError("the agents were left out when the settings were loaded")
    # Before the transaction, as hashing takes its time and holds up nobody here.
    known = dict(Agent.select(Agent.number, Agent.pin_hash).tuples().execute(database))
    hashes: dict[str, str | None] = dict.fromkeys((a.number for a in agents), None)
    hashes |= {a.number: a.pin_hash.get_secret_value() for a in agents if a.pin_hash is not None}
    plain = [(a.number, a.pin.get_secret_value()) for a in agents if a.pin is not None]
    if plain:
        hashes |= pins.hashed(plain, known)
    material = declared.fingerprint_material
    same = bool(material) and knows(database, material)
    salt = os.urandom(16)
    note = f"{salt.hex()}:{_fingerprint(salt, material)}"
    difference = Difference()
    with _one_at_a_time(database):
        allow(removal(database, declared, same))
        now = time.time()
        _bring(
            database,
            PauseReason,
            "code",
            "pause reason",
            [
                {
                    "id": reason.id,
                    "code": reason.code,
                    "name": reason.name,
                    "description": reason.description,
                    "productive": reason.productive,
                    "max_duration": None
                    if reason.max_duration is None
                    else reason.max_duration.total_seconds(),
                    "daily_budget": None
                    if reason.daily_budget is None
                    else reason.daily_budget.total_seconds(),
                    "when_exceeded": str(reason.when_exceeded),
                    "type": reason.type,
                }
                for reason in declared.pause_reasons
            ],
            now,
            difference,
        )
        _bring(
            database,
            Queue,
            "name",
            "queue",
            [
                {"id": q.id, "number": q.number, "name": q.name, "call_center": q.call_center}
                for q in declared.queues
            ],
            now,
            difference,
        )
        _queue_pauses(database, declared.queues, difference)
        _clear_logins(database, agents)
        gone = _bring(
            database,
            Agent,
            "number",
            "agent",
            [
                {
                    "id": agent.id,
                    "number": agent.number,
                    "name": agent.name,
                    "language": agent.language,
                    "pin_hash": hashes[agent.number],
                    "logoff_at": agent.logoff_at,
                    "login": agent.login,
                    "enabled": agent.enabled,
                    "outside": " ".join(agent.outside),
                }
                for agent in agents
            ],
            now,
            difference,
        )
        gone += [a.number for a in agents if not a.enabled]
        logged_in = _logged_in(database)
        difference.to_log_off = sorted(number for number in gone if number in logged_in)
        # One who is not enabled is archived as a whole, and finds the queues when back.
        enabled = [agent for agent in agents if agent.enabled]
        _memberships(database, enabled, now, logged_in, same, difference)
        Note.insert(key="directory", value=note).on_conflict(
            conflict_target=[Note.key], update={Note.value: note}
        ).execute(database)
    return difference


def removal(database: Any, declared: Declared, same: bool | None = None) -> Removal:
    """What bringing this in would take away; only reads. ``same``: it was brought in last."""
    agents = declared.agents or ()
    if same is None:
        material = declared.fingerprint_material
        same = bool(material) and knows(database, material)
    wanted = {agent.number: agent for agent in agents}
    enabled = {agent.number: agent for agent in agents if agent.enabled}
    those = Agent.select(Agent.number, Agent.origin).where(Agent.archived_at.is_null())
    active: dict[str, str] = dict(those.tuples().execute(database))
    archived = tuple(
        number
        for number, origin in active.items()
        if number not in enabled and (number in wanted or origin == YAML)
    )
    names = {queue.name for queue in declared.queues}
    open_queues = Queue.select(Queue.name).where(
        Queue.archived_at.is_null() & (Queue.origin == YAML)
    )
    queues = frozenset(name for (name,) in open_queues.tuples().execute(database)) - names
    codes = {reason.code for reason in declared.pause_reasons}
    open_reasons = PauseReason.select(PauseReason.code).where(
        PauseReason.archived_at.is_null() & (PauseReason.origin == YAML)
    )
    reasons = frozenset(code for (code,) in open_reasons.tuples().execute(database)) - codes
    logged_in = _logged_in(database)
    rows = database.execute_sql(state_query("s.id IS NOT NULL")).fetchall()
    states = tuple(found.state for found in loaded(rows))
    memberships = (
        Membership.select(
            Agent.number,
            Queue.name,
            Membership.joined,
            Membership.archived_at,
            Membership.origin,
        )
        .join(Agent)
        .switch(Membership)
        .join(Queue)
        .where(
            Membership.agent.in_(
                LoginSession.select(LoginSession.agent).where(LoginSession.ended_at.is_null())
            )
        )
    )
    taken, kept = set(), set()
    for number, queue, joined, gone, origin in memberships.tuples().execute(database):
        if number not in enabled:
            continue
        if all(queue != one.name for one in enabled[number].queues):
            if gone is None and origin == YAML and joined:
                taken.add((number, queue))
        elif joined or gone is None or (same and origin == API):
            kept.add((number, queue))
    given = {
        (state.number, queue.name)
        for state in states
        if state.number in enabled
        for queue in enabled[state.number].queues
    }
    return Removal(
        agents=len(active),
        archived=archived,
        logged_off=tuple(sorted(number for number in archived if number in logged_in)),
        queues=queues,
        reasons=reasons,
        taken=frozenset(taken),
        given=frozenset(given - kept),
        logged_in=states,
    )


@contextmanager
def _one_at_a_time(database: Any) -> Iterator[None]:
    """One transaction; nobody else brings in meanwhile."""
    if isinstance(database, SqliteDatabase):
        with database.atomic("IMMEDIATE"):
            yield
    else:
        with database.atomic():
            database.execute_sql("SELECT pg_advisory_xact_lock(hashtextextended('directory', 2))")
            yield


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _bring(
    database: Any,
    table: type[Table],
    key: str,
    what: str,
    wanted: Sequence[Mapping[str, Any]],
    now: float,
    difference: Difference,
) -> list[str]:
    """One table; returns the keys that were archived."""
    rows: dict[str, dict[str, Any]] = {
        row[key]: row for row in table.select().dicts().execute(database)
    }
    names = {row[key] for row in wanted}
    if table is Agent:
        _refuse_created(rows, wanted)
    # Who is not enabled is archived already, but shown as there; not so when gone from the YAML.
    gone = [
        name
        for name, row in rows.items()
        if row["origin"] == YAML
        and name not in names
        and (row["archived_at"] is None or not row.get("enabled", True))
    ]
    out = {"archived_at": now} | ({"enabled": True} if table is Agent else {})
    # First, as an archived queue's number is free for another.
    for chunk in _chunks(gone):
        table.update(**out).where(getattr(table, key).in_(chunk)).execute(database)
    difference.archived += [f"{what} {name}" for name in sorted(gone)]
    _clear_numbers(database, table, rows, wanted)
    ids = _ids(database, table, key, what, wanted, rows)
    new: list[dict[str, Any]] = []
    for row in wanted:
        name = row[key]
        old = rows.get(name)
        values = {column: value for column, value in row.items() if column != "id"}
        if old is None:
            archived_at = None if row.get("enabled", True) else now
            new.append({**values, "id": ids[name], "origin": YAML, "archived_at": archived_at})
            difference.created.append(f"{what} {name}")
            continue
        changes = {column: value for column, value in values.items() if old[column] != value}
        texts = [_change_text(column, old[column], value) for column, value in changes.items()]
        if not row.get("enabled", True):
            if old["archived_at"] is None:
                changes["archived_at"] = now
        elif old["archived_at"] is not None:
            changes["archived_at"] = None
            texts.append("is back")
        if old["origin"] != YAML:
            changes["origin"] = YAML
            texts.append("is in the YAML now")
        if changes:
            table.update(**changes).where(getattr(table, key) == name).execute(database)
            difference.changed.append(f"{what} {name}: {', '.join(texts)}")
    for rows_chunk in _chunks(new):
        table.insert_many(rows_chunk).execute(database)
    if new and not isinstance(database, SqliteDatabase):
        # The sequence did not see these ids go by.
        name = table._meta.table_name
        database.execute_sql(
            f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))"
        )
    return gone


def _refuse_created(
    rows: Mapping[str, Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]
) -> None:
    """Nobody becomes somebody else by a slip: a program's agent is the YAML's from then on only
    where that has the name, too."""
    for agent in wanted:
        row = rows.get(agent["number"])
        if row is None or row["origin"] == YAML or row["archived_at"] is not None:
            continue
        if row["name"] != agent["name"]:
            raise DirectoryConflict(
                f"agent {agent['number']}: the number belongs to {row['name']!r} (id {row['id']}), "
                "who was created through an API: take another number, or that name to go on with it"
            )


def _queue_pauses(database: Any, queues: Sequence[QueueSettings], difference: Difference) -> None:
    """What stands in the YAML of its queues, and nothing else."""
    names = dict(
        Queue.select(Queue.id, Queue.name).where(Queue.origin == YAML).tuples().execute(database)
    )
    ids = {name: id for id, name in names.items()}
    columns = (
        QueuePause.queue,
        QueuePause.code,
        QueuePause.limit_duration,
        QueuePause.automatic_unpause,
        QueuePause.disable_unpause,
    )
    stored = {
        (row[0], row[1]): tuple(row[2:])
        for row in QueuePause.select(*columns).tuples().execute(database)
        if row[0] in names
    }
    wanted = {
        (ids[queue.name], pause.reason): (
            None if pause.limit_duration is None else pause.limit_duration.total_seconds(),
            pause.automatic_unpause,
            pause.disable_unpause,
        )
        for queue in queues
        for pause in queue.pauses
    }
    if wanted == stored:
        return
    changed = {
        names[key[0]] for key in wanted.keys() | stored.keys() if _differ(wanted, stored, key)
    }
    difference.changed += [f"queue {name}: other pauses" for name in sorted(changed)]
    for some in _chunks(sorted(names)):
        QueuePause.delete().where(QueuePause.queue.in_(some)).execute(database)
    rows = [(*key, *values) for key, values in wanted.items()]
    for chunk in _chunks(rows):
        QueuePause.insert_many(chunk, fields=columns).execute(database)


def _differ(one: Mapping[T, object], other: Mapping[T, object], key: T) -> bool:
    return one.get(key) != other.get(key)


def _clear_logins(database: Any, agents: Sequence[AgentSettings]) -> None:
    """Two agents may swap their login names: those that change are set aside for a moment."""
    wanted = {agent.login: agent.number for agent in agents if agent.login is not None}
    if not wanted:
        return
    rows = (
        Agent.select(Agent.login, Agent.number, Agent.origin)
        .where(Agent.login.is_null(False))
        .tuples()
        .execute(database)
    )
    changing: list[str] = []
    for login, number, origin in list(rows):
        owner = wanted.get(login)
        if owner is None or owner == number:
            continue
        if origin != YAML:
            raise DirectoryConflict(
                f"agent {owner}: the login {login} belongs to agent {number}, "
                "who was created through an API: take another login"
            )
        changing.append(number)
    for chunk in _chunks(changing):
        Agent.update(login=None).where(Agent.number.in_(chunk)).execute(database)


def _change_text(column: str, old: object, new: object) -> str:
    if column == "pin_hash":
        if old is None:
            return "has a PIN"
        return "has no PIN any more" if new is None else "another PIN"
    if column == "outside":
        return f"outside numbers {old or 'none'} -> {new or 'none'}"
    return f"{column} {old!r} -> {new!r}"


def _clear_numbers(
    database: Database,
    table: type[Table],
    rows: Mapping[str, Mapping[str, Any]],
    wanted: Sequence[Mapping[str, Any]],
) -> None:
    """Two queues may swap their numbers: those that change are set aside for a moment."""
    if table is not Queue:
        return
    changing = [
        row["name"]
        for row in wanted
        if row["name"] in rows and rows[row["name"]]["number"] != row["number"]
    ]
    taken = {r["number"]: r["name"] for r in wanted}
    for row in rows.values():
        owner = taken.get(row["number"])
        if (
            row["origin"] != YAML
            and row["archived_at"] is None
            and owner not in (None, row["name"])
        ):
            raise DirectoryConflict(
                f"queue {owner}: the number {row['number']} belongs to queue {row['name']}, "
                "which was created through an API: take another number"
            )
    for chunk in _chunks(changing):
        Queue.update(number=SQL("'~' || name")).where(Queue.name.in_(chunk)).execute(database)


def _ids(
    database: Database,
    table: type[Table],
    key: str,
    what: str,
    wanted: Sequence[Mapping[str, Any]],
    rows: Mapping[str, Mapping[str, Any]],
) -> dict[str, int]:
    """An id for every wanted row; rows that stand in the way of a given id move to another."""
    given = {row["id"]: row[key] for row in wanted if row.get("id") is not None}
    holders = {row["id"]: name for name, row in rows.items()}
    free = max([0, *holders, *given])
    ids: dict[str, int] = {name: id for id, name in given.items()}
    moves: dict[str, int] = {}
    for id, name in given.items():
        holder = holders.get(id)
        if name in rows and rows[name]["id"] != id:
            moves[name] = id
        if holder is None or holder == name or holder in ids:
            continue
        if rows[holder]["origin"] != YAML:
            raise DirectoryConflict(
                f"{what} {name}: the id {id} belongs to {what} {holder}, "
                "which was created through an API: take another id, or none"
            )
        free += 1
        moves[holder] = ids[holder] = free
    # In two steps, as ids may be swapped; what refers to them follows (ON UPDATE CASCADE).
    for name in moves:
        table.update(id=-rows[name]["id"]).where(getattr(table, key) == name).execute(database)
    for name, id in moves.items():
        table.update(id=id).where(getattr(table, key) == name).execute(database)
    for row in wanted:
        name = row[key]
        if name not in ids and name not in rows:
            free += 1
            ids[name] = free
    return ids


def _logged_in(database: Database) -> set[str]:
    """Numbers of the agents who are logged in, or whose login has begun."""
    numbers: set[str] = set()
    for agent_ids in (
        LoginSession.select(LoginSession.agent).where(LoginSession.ended_at.is_null()),
        DeviceInUse.select(DeviceInUse.agent),
    ):
        rows = Agent.select(Agent.number).where(Agent.id.in_(agent_ids)).tuples()
        numbers.update(number for (number,) in rows.execute(database))
    return numbers


def _memberships(
    database: Database,
    agents: Sequence[AgentSettings],
    now: float,
    logged_in: set[str],
    same: bool,
    difference: Difference,
) -> None:
    """The memberships of the agents who came from the YAML. Rows are archived, never deleted."""
    yaml = Agent.select(Agent.number, Agent.id).where(Agent.origin == YAML)
    ids: dict[str, int] = dict(yaml.tuples().execute(database))
    numbers = {id: number for number, id in ids.items()}
    queues = dict(Queue.select(Queue.name, Queue.id).tuples().execute(database))
    names = {id: name for name, id in queues.items()}
    wanted = {
        (ids[agent.number], queues[queue.name]): queue.penalty
        for agent in agents
        for queue in agent.queues
    }
    named = {agent.number for agent in agents}
    fresh = set(wanted)
    gone: list[tuple[int, int]] = []
    queue_changes: dict[str, _QueueChanges] = {}
    rows = (
        Membership.select(
            Membership.agent,
            Membership.queue,
            Membership.penalty,
            Membership.joined,
            Membership.archived_at,
            Membership.origin,
            Membership.own_penalty,
        )
        .tuples()
        .execute(database)
    )
    for agent_id, queue_id, penalty, joined, archived_at, origin, own_penalty in list(rows):
        number = numbers.get(agent_id)
        pair = (agent_id, queue_id)
        if number is None or number not in named:
            continue  # not the YAML's, or archived as a whole
        fresh.discard(pair)
        queue = names[queue_id]
        here = (Membership.agent == agent_id) & (Membership.queue == queue_id)
        if pair not in wanted:
            if archived_at is None and origin == YAML:
                gone.append(pair)
                queue_changes.setdefault(number, _QueueChanges()).taken.append(queue)
                if joined:
                    difference.to_leave.append((number, queue))
            continue
        if same and (archived_at is None or origin == API):
            continue
        if archived_at is not None or penalty != wanted[pair] or origin != YAML:
            changes: dict[str, Any] = {
                "penalty": wanted[pair],
                "archived_at": None,
                "origin": YAML,
            }
            has = penalty if own_penalty is None else own_penalty
            if joined and has != wanted[pair]:
                changes["own_penalty"] = has  # in Asterisk, until ChangePenalty tells it
            elif penalty != wanted[pair]:
                changes["own_penalty"] = None
            Membership.update(**changes).where(here).execute(database)
            agent = queue_changes.setdefault(number, _QueueChanges())
            if archived_at is not None and origin in (YAML, API):
                agent.given.append(queue)
            elif origin != YAML:
                agent.other.append(f"queue {queue} is in the YAML now")
            if penalty != wanted[pair]:
                agent.other.append(f"queue {queue}: penalty {penalty} -> {wanted[pair]}")
                if joined:
                    difference.to_set_penalty.append((number, queue, wanted[pair]))
        if archived_at is not None and not joined and number in logged_in:
            difference.to_join.append((number, queue))
    for agent_id, queue_id in gone:
        Membership.update(archived_at=now).where(
            (Membership.agent == agent_id) & (Membership.queue == queue_id)
        ).execute(database)
    new_agents = {line.removeprefix("agent ") for line in difference.created}
    for agent_id, queue_id in sorted(fresh):
        number = numbers[agent_id]
        if number not in new_agents:
            queue_changes.setdefault(number, _QueueChanges()).given.append(names[queue_id])
            if number in logged_in:
                difference.to_join.append((number, names[queue_id]))
    for chunk in _chunks(sorted(fresh)):
        Membership.insert_many(
            [{"agent": a, "queue": q, "penalty": wanted[a, q], "joined": False} for a, q in chunk]
        ).execute(database)
    difference.queues += [
        f"agent {number}: {agent}"
        for number, agent in sorted(queue_changes.items(), key=lambda item: (len(item[0]), item[0]))
        if (agent.given or agent.taken or agent.other) and number not in new_agents
    ]


@dataclass(slots=True)
class _QueueChanges:
    """What has changed of an agent's queues, for a line of a log."""

    given: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts: list[str] = []
        if self.given:
            parts.append(f"{_queues(self.given)} given")
        if self.taken:
            names = ", ".join(self.taken) if self.given else _queues(self.taken)
            parts.append(f"{names} taken away")
        return ", ".join([*parts, *self.other])


def _queues(names: Sequence[str]) -> str:
    return f"queue{'s' * (len(names) > 1)} {', '.join(names)}"
