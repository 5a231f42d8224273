"""A change in the tables: begun, confirmed, taken back."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from fastagi.agents import errors
from fastagi.agents.commands import AddToQueue, Adopt, Command, LogIn, from_dict
from fastagi.agents.devices import Device
from fastagi.agents.errors import Refused
from fastagi.agents.events import Event
from fastagi.agents.model import AgentState, Change, decide
from fastagi.agents.service import StoreUnavailable
from fastagi.agents.text import parsed_object
from fastagi.contract import Source
from fastagi.store.connection import Connection, Loaded, moment

log = structlog.get_logger()

# Seconds: no change takes so long. Whoever is still at it has lost its Asterisk, and another
# service may reach it.
STALE = 60.0


def begin(
    connection: Connection, command: Command, now: datetime, applied: bool, held: bool
) -> Change:
    found = connection.load(command.agent) if held else connection.lock(command.agent)
    if found is None or (
        found.archived and (found.state.session is None or isinstance(command, LogIn))
    ):
        raise errors.NoSuchAgent(command.agent)
    if found.intent_id is not None:
        if found.intent_id != command.id:
            raise errors.InProgress(command.agent, settle=_is_ours(connection, found.state.id))
        # The same call again, after the answer to its commit was lost.
        assert found.decided_at is not None
        return _accepted(decide(found.state, command, moment(found.decided_at)))
    decision = decide(found.state, command, now)
    # A command of the clock has the same id whenever it is found due: once is enough, also when
    # somebody has undone it since.
    once = applied or command.source is Source.SYSTEM
    if once and _is_written(connection, f"{command.id}-1"):
        return Change(command, decision.outcome, found.state, found.state)
    device = _device_wanted(command)
    if device is not None:
        decision = _claim(connection, found.state, device, decision)
    change = _accepted(decision)
    if applied:
        change = replace(change, steps=())
    if change.steps:
        connection.write_intent(found, command, now)
    elif change.alters:
        connection.write(change, now)
    elif isinstance(command, AddToQueue):
        connection.keep_queue(change.before, command.queue)
    return change


def _is_written(connection: Connection, event: str) -> bool:
    row = connection.execute("SELECT 1 FROM events WHERE id = ?", (event,)).fetchone()
    return row is not None


def _device_wanted(command: Command) -> Device | None:
    return command.device if isinstance(command, LogIn | Adopt) else None


def _accepted(decision: Change | Refused) -> Change:
    if isinstance(decision, Refused):
        raise decision
    return decision


def _claim(
    connection: Connection, state: AgentState, device: Device, decision: Change | Refused
) -> Change | Refused:
    """The device for this agent and nobody else; or the refusal, knowing who has it."""
    if isinstance(decision, Change):
        if decision.after.session is None or decision.after.session is state.session:
            return decision  # nobody moves
        claimed = connection.execute(
            "INSERT INTO devices_in_use (interface, agent_id) VALUES (?, ?)"
            " ON CONFLICT (interface) DO NOTHING",
            (device.key, state.id),
        )
        if claimed.rowcount == 1:
            return decision
    row = connection.execute(
        "SELECT a.number FROM devices_in_use d JOIN agents a ON a.id = d.agent_id"
        " WHERE d.interface = ?",
        (device.key,),
    ).fetchone()
    if row is not None and row[0] != state.number:
        return errors.ExtensionInUse(row[0])
    if row is None and isinstance(decision, Change):
        # Left in the instant between the two statements (PostgreSQL only).
        return errors.Unavailable(f"{device.key} is changing hands")
    return decision


def given_up(change: Change) -> Callable[[Connection], None] | None:
    """Nobody waits for what was begun, so nobody will apply or confirm it."""
    if not change.steps:
        return None
    return lambda connection: withdraw(connection, change, None)


def confirm(connection: Connection, change: Change) -> AgentState | None:
    """The agent's state now, where it is known without asking."""
    if not change.steps:
        return None  # was written when it was begun
    if connection.drop_intent(change):
        connection.write(change)
        return connection.kept(change.before.number)
    if change.events and not _is_written(connection, change.events[0].id):
        raise StoreUnavailable(f"the change {change.command.id} was taken back meanwhile")
    return None


def withdraw(connection: Connection, change: Change, event: Event | None) -> None:
    if not connection.drop_intent(change):
        return
    if isinstance(change.command, LogIn):
        claimed = change.command.device.key
        session = change.before.session
        if session is None or session.device.key != claimed:
            connection.execute(
                "DELETE FROM devices_in_use WHERE interface = ? AND agent_id = ?",
                (claimed, change.before.id),
            )
    if event is not None:
        connection.write_event(event)


def _is_ours(connection: Connection, agent: int) -> bool:
    """Whether it is for this service to settle the agent's intent."""
    row = connection.execute(
        "SELECT owner, owned_at FROM intents WHERE agent_id = ?", (agent,)
    ).fetchone()
    if row is None or row[0] == connection.presence.id:
        return True
    dead = connection.presence.dead(connection, {row[0]})
    return bool(dead) or row[1] < connection.clock.time() - STALE


def unsettled(connection: Connection) -> list[Change]:
    changes: list[Change] = []
    me, now = connection.presence.id, connection.clock.time()
    # Ours from now on: of two services that find it one settles it, and the other does not come
    # after, when the agent has gone on.
    rows = connection.execute("SELECT DISTINCT owner FROM intents").fetchall()
    for owner in sorted(connection.presence.dead(connection, {row[0] for row in rows} - {me})):
        connection.execute(
            "UPDATE intents SET owner = ?, owned_at = ? WHERE owner = ?", (me, now, owner)
        )
        connection.forget()
    if not connection.sqlite:
        connection.execute(
            "UPDATE intents SET owner = ?, owned_at = ? WHERE owner <> ? AND owned_at < ?",
            (me, now, me, now - STALE),
        )
    # Memberships taken away since then count: Asterisk may have been told.
    waiting = connection.loaded_where(
        "a.id IN (SELECT agent_id FROM intents WHERE owner = ?)", (me,), all_memberships=True
    )
    for found in sorted(waiting, key=lambda found: found.decided_at or 0.0):
        change = _decided_again(found)
        if change is not None:
            changes.append(change)
            continue
        # Logged as an error. Kept, it would lock the agent out for ever.
        id = found.state.id
        connection.execute("DELETE FROM intents WHERE agent_id = ?", (id,))
        session = found.state.session
        connection.execute(
            "DELETE FROM devices_in_use WHERE agent_id = ? AND interface <> ?",
            (id, session.device.key if session else ""),
        )
        connection.forget(found.state.number)
    return changes


def _decided_again(found: Loaded) -> Change | None:
    assert found.intent is not None
    assert found.decided_at is not None
    try:
        command = from_dict(parsed_object("intent", found.intent))
    except (KeyError, ValueError) as error:
        log.error("an intent cannot be read", agent=found.state.number, error=repr(error))
        return None
    state = found.state
    if isinstance(command, AddToQueue):
        # It was none of the agent's then; the YAML may have made it one since.
        others = tuple(m for m in state.memberships if m.queue != command.queue)
        state = replace(state, memberships=others)
    try:
        decision = decide(state, command, moment(found.decided_at))
    except Exception as error:  # of another version, say: it must not keep all others open
        log.error("an intent cannot be decided again", agent=state.number, error=repr(error))
        return None
    if isinstance(decision, Refused):
        log.error("an intent cannot be decided again", agent=found.state.number, why=str(decision))
        return None
    return decision
