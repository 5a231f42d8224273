"""Log-ins and log-offs as rows of queue_log, where reporting tools look for them.

The rows are those that Asterisk itself wrote when it still had callback agents (queuelog
documentation: ``AGENTCALLBACKLOGIN(exten@context)``,
``AGENTCALLBACKLOGOFF(exten@context|logintime|reason)``, the reason empty after an ordinary
log-off), with the queue ``NONE`` and the agent as ``Agent/<number>``. Pauses are not written here:
QueuePause makes Asterisk write PAUSE rows with the reason.

Needs the write class ``agent``. Asterisk stamps a row with the time at which it arrives.
"""

from collections.abc import Mapping

from fastagi.agents.events import Event
from fastagi.contract import MEMBER_NAME, QUEUE_LOG_LOGIN, QUEUE_LOG_LOGOFF, EventType
from fastagi.outbox.asterisk import Action, Ami, AmiSink, value

NONE = "NONE"


def sink(amis: Ami | Mapping[str, Ami]) -> AmiSink:
    return AmiSink(amis, actions)


def actions(event: Event) -> list[Action]:
    """One row for a log-in or a log-off, nothing for other events. Raises ValueError."""
    extension = _column("Extension", event.extension)
    if event.context:
        extension = f"{extension}@{_column('Context', event.context)}"
    if event.type is EventType.LOGIN:
        name, columns = QUEUE_LOG_LOGIN, [extension]
    elif event.type is EventType.LOGOUT:
        reason = _column("Reason", event.reason)
        name, columns = QUEUE_LOG_LOGOFF, [extension, str(event.session_seconds), reason]
    else:
        return []
    return [
        {
            "Action": "QueueLog",
            "Queue": NONE,
            "Event": name,
            "Uniqueid": _column("Uniqueid", event.actor.unique_id) or NONE,
            "Interface": MEMBER_NAME.format(number=_column("Agent", event.agent)),
            "Message": "|".join(columns),
        }
    ]


def _column(name: str, text: str) -> str:
    if "|" in text:
        raise ValueError(f"{name}: contains |, which separates the columns of queue_log")
    return value(name, text)
