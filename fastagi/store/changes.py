"""A change in the tables: begun, confirmed, taken back."""

from collections.abc import Callable

import structlog

from fastagi.agents import errors
from fastagi.agents.commands import recorded
from fastagi.agents.deciding import Again, Rule
from fastagi.agents.devices import Device
from fastagi.agents.errors import StoreUnavailable
from fastagi.agents.events import Event
from fastagi.agents.model import AgentState, Change
from fastagi.agents.records import Intent, Stored
from fastagi.agents.text import parsed_object
from fastagi.store.connection import Connection, Loaded, moment

log = structlog.get_logger()

# Seconds: no change takes so long. Whoever is still at it has lost its Asterisk, and another
# service may reach it.
STALE = 60.0


def begin(
    connection: Connection,
    number: str,
    rule: Rule,
    device: Device | None,
    event: str,
    held: bool,
) -> Change:
    """See ``ports.Store.begin``."""
    found = connection.load(number) if held else connection.lock(number)
    if found is None:
        raise errors.NoSuchAgent(number)
    for _ in range(2):  # on PostgreSQL another service may claim the device in between
        change = rule(_stored(connection, found, device, event))
        if found.intent_id is not None:
            return change  # begun already
        if change.claims is None or _claim(connection, found.state.id, change.claims):
            break
    else:
        raise errors.Unavailable("the device is changing hands")
    if change.steps:
        connection.write_intent(found, change)
    elif change.alters or change.assigns is not None:
        connection.write(change)
    return change


def _stored(connection: Connection, found: Loaded, device: Device | None, event: str) -> Stored:
    state = found.state
    occupant = None if device is None else _occupant(connection, device, state.number)
    intent = None
    if found.intent_id is not None:
        assert found.decided_at is not None
        ours = _is_ours(connection, state.id)
        intent = Intent(found.intent_id, moment(found.decided_at), ours)
    written = event != "" and is_written(connection, event)
    return Stored(state, found.archived, intent, occupant, written)


def _occupant(connection: Connection, device: Device, number: str) -> str | None:
    row = connection.execute(_OCCUPANT, (device.key,)).fetchone()
    return None if row is None or row[0] == number else row[0]


def _claim(connection: Connection, agent: int, device: Device) -> bool:
    """The device for this agent and nobody else; False: somebody has it."""
    return bool(connection.execute(_CLAIM, (device.key, agent)).rowcount)


def is_written(connection: Connection, event: str) -> bool:
    row = connection.execute("SELECT 1 FROM events WHERE id = ?", (event,)).fetchone()
    return row is not None


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
    if change.events and not is_written(connection, change.events[0].id):
        raise StoreUnavailable(f"the change {change.command.id} was taken back meanwhile")
    return None


def withdraw(connection: Connection, change: Change, event: Event | None) -> None:
    if not connection.drop_intent(change):
        return
    if change.claims is not None:
        connection.execute(_UNCLAIM, (change.claims.key, change.before.id))
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


def unsettled(connection: Connection, rule: Again) -> list[Change]:
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
    connection.execute(
        "UPDATE intents SET owner = ?, owned_at = ? WHERE owner <> ? AND owned_at < ?",
        (me, now, me, now - STALE),
    )
    # Memberships taken away since then count: Asterisk may have been told.
    waiting = connection.loaded_where(
        "a.id IN (SELECT agent_id FROM intents WHERE owner = ?)", (me,), all_memberships=True
    )
    for found in sorted(waiting, key=lambda found: found.decided_at or 0.0):
        change = _again(found, rule)
        if change is not None:
            changes.append(change)
            continue
        # Logged as an error. Kept, it would lock the agent out for ever.
        id, session = found.state.id, found.state.session
        connection.execute("DELETE FROM intents WHERE agent_id = ?", (id,))
        connection.execute(
            "DELETE FROM devices_in_use WHERE agent_id = ? AND interface <> ?",
            (id, session.device.key if session else ""),
        )
        connection.forget(found.state.number)
    return changes


def _again(found: Loaded, rule: Again) -> Change | None:
    assert found.intent_id is not None
    assert found.intent is not None
    assert found.decided_at is not None
    try:
        command = recorded(parsed_object("intent", found.intent))
    except (KeyError, ValueError) as error:
        log.error("an intent cannot be read", agent=found.state.number, error=repr(error))
        return None
    intent = Intent(found.intent_id, moment(found.decided_at), True, command)
    return rule(Stored(found.state, found.archived, intent))


_OCCUPANT = (
    "SELECT a.number FROM devices_in_use d JOIN agents a ON a.id = d.agent_id WHERE d.interface = ?"
)
_CLAIM = (
    "INSERT INTO devices_in_use (interface, agent_id) VALUES (?, ?)"
    " ON CONFLICT (interface) DO UPDATE SET agent_id = excluded.agent_id"
    " WHERE devices_in_use.agent_id = excluded.agent_id"
)
_UNCLAIM = "DELETE FROM devices_in_use WHERE interface = ? AND agent_id = ?"
