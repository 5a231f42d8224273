"""What happened. An event is written once, with the change it tells of, and never altered."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastagi.agents.commands import Actor
from fastagi.agents.devices import DeviceType
from fastagi.contract import EventType, Sink, Source


@dataclass(frozen=True, slots=True)
class Event:
    """One fact.

    ``reason`` is the pause reason's name on pause and unpause, the outcome code on a refused
    login, and why (``moved``, ``taken over``) on a log-off the agent did not dial.
    ``occurred_at`` is aware, in UTC.
    """

    id: str
    type: EventType
    agent: str
    extension: str
    queues: tuple[str, ...]
    reason: str
    source: Source
    actor: Actor
    occurred_at: datetime
    context: str = ""  # of the extension; for queue_log, like the next
    session_seconds: int = 0  # on a log-off: how long the agent was logged in there
    asterisk: str = ""  # the name of the Asterisk the agent is on, where there are several
    in_part: bool = False  # a pause of some of the agent's queues, or its end: not the agent's
    device_type: DeviceType = "local"  # of the phone the agent is, was or wanted to be at

    def as_dict(self) -> dict[str, Any]:
        """The event as every JSON reader sees it (``contract.EVENT_FIELDS``)."""
        return {
            "id": self.id,
            "type": self.type.value,
            "agent": self.agent,
            "extension": self.extension,
            "queues": list(self.queues),
            "reason": self.reason,
            "source": self.source.value,
            "actor": self.actor.as_dict(),
            "occurred_at": self.occurred_at.isoformat(timespec="milliseconds"),
        }


_SESSION = (Sink.USER_EVENT, Sink.QUEUE_LOG, Sink.LAMP)
_PAUSE = (Sink.USER_EVENT, Sink.LAMP)  # Asterisk's QueuePause writes the queue_log rows itself

SINKS: dict[EventType, tuple[Sink, ...]] = {
    EventType.LOGIN: _SESSION,
    EventType.LOGOUT: _SESSION,
    EventType.PAUSE: _PAUSE,
    EventType.UNPAUSE: _PAUSE,
    EventType.QUEUE_JOIN: (Sink.USER_EVENT,),
    EventType.QUEUE_LEAVE: (Sink.USER_EVENT,),
    EventType.QUEUE_PENALTY: (Sink.USER_EVENT,),
    EventType.QUEUE_MISSING: (Sink.USER_EVENT,),
    EventType.QUEUE_STATIC: (Sink.USER_EVENT,),
    EventType.PAUSE_EXCEEDED: (Sink.USER_EVENT, Sink.LAMP),
    EventType.LOGIN_REFUSED: (Sink.USER_EVENT,),
    EventType.REPAIR: (Sink.USER_EVENT,),
}
