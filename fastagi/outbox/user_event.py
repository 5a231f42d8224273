"""Every event as the manager's UserEvent ``AgentFeature``, for whoever listens there.

Needs the write class ``user``.
"""

from collections.abc import Mapping
from datetime import UTC

from fastagi.agents.events import Event
from fastagi.contract import USER_EVENT, USER_EVENT_KEYS
from fastagi.outbox.asterisk import MAX_VALUE, Action, Ami, AmiSink, value

# How many of an agent's queues found no room in ``Queues``; only there when some did not.
QUEUES_OMITTED = "QueuesOmitted"


def sink(amis: Ami | Mapping[str, Ami]) -> AmiSink:
    return AmiSink(amis, actions, everywhere=True)


def actions(event: Event) -> list[Action]:
    """One UserEvent. All keys are always there; ``Queues`` is joined by commas.

    Raises ValueError.
    """
    queues, omitted = _queues(event.queues)
    values = (
        event.type.value,
        event.agent,
        event.extension,
        queues,
        event.reason,
        event.source.value,
        event.id,
        event.occurred_at.astimezone(UTC).isoformat(timespec="milliseconds"),
    )
    action = {"Action": "UserEvent", "UserEvent": USER_EVENT}
    for key, text in zip(USER_EVENT_KEYS, values, strict=True):
        action[key] = value(key, text)
    if omitted:
        action[QUEUES_OMITTED] = str(omitted)
    return [action]


def _queues(names: tuple[str, ...]) -> tuple[str, int]:
    """The names that fit into one line, whole, and how many do not."""
    joined = ",".join(names)
    if joined.count(",") != max(len(names) - 1, 0):
        raise ValueError("Queues: a queue's name contains a comma")
    if len(joined) <= MAX_VALUE // 4:  # a character has at most four bytes
        return joined, 0
    size = -1
    for count, name in enumerate(names):
        size += 1 + len(name.encode("utf-8", "replace"))
        if size > MAX_VALUE:
            return ",".join(names[:count]), len(names) - count
    return joined, 0
