"""Events as rows."""

from collections.abc import Sequence
from typing import Any

from fastagi.agents.commands import MAX_STORED, Actor
from fastagi.agents.events import Event
from fastagi.agents.text import Unusable, number, parsed, storable
from fastagi.contract import EventType, Source
from fastagi.store.connection import exactly

# What every statement about events says, in this order.
COLUMNS = (
    *("id", "type", "agent", "extension", "context", "queues", "reason", "source", "actor"),
    *("occurred_at", "session_seconds", "asterisk", "in_part", "device_type"),
)
# Of events as ``e``, and behind them the number.
EVENT_COLUMNS = ", ".join(f"e.{column}" for column in (*COLUMNS, "seq"))


class UnreadableEvent(ValueError):
    """The row is not one that this version writes: damaged, or of a later one."""


def event_from(row: Sequence[Any]) -> Event:
    """The event of a row that begins with ``COLUMNS``. Raises UnreadableEvent."""
    try:
        return _event_from(row)
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise UnreadableEvent(f"the event cannot be read: {error}"[:300]) from error


def _event_from(row: Sequence[Any]) -> Event:
    id, type, agent, extension, context, queues, reason, source, actor, at = row[:10]
    seconds, asterisk, in_part, device_type = row[10:14]
    # SQLite takes anything into any column.
    for text in (id, agent, extension, reason, context, asterisk):
        storable("text", text, MAX_STORED, controls=True)
    if device_type not in ("local", "remote"):
        raise Unusable("device_type: is not known")
    return Event(
        id,
        EventType(type),
        agent,
        extension,
        _queues(queues),
        reason,
        Source(source),
        Actor.from_dict(parsed("actor", actor)),
        exactly(at),
        context,
        number("session_seconds", seconds),
        asterisk,
        bool(in_part),
        device_type,
    )


def _queues(text: object) -> tuple[str, ...]:
    queues = parsed("queues", text)
    if not isinstance(queues, list):
        raise Unusable("queues: is no list")
    return tuple(storable("queues", queue) for queue in queues)
