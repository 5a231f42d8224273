"""Hooks: what other programs want to know of an agent over HTTP. Pure."""

import hmac
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fastagi.agents.devices import DeviceType
from fastagi.agents.events import Event
from fastagi.contract import EventType, HookField, HookStatus

Method = Literal["GET", "POST"]
ContentType = Literal["json", "form"]

CLIENT = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)  # a client's name
SECRET = "whsec_"  # how a secret of Standard Webhooks begins; base64 follows


@dataclass(frozen=True, slots=True)
class Hook:
    """``client`` is the name under which it was made, and under which alone it is seen.

    ``agent_type``: whether it is about the agent at phones in the house or at outside numbers.
    ``content_type`` counts for POST.
    """

    id: int
    client: str
    agent_id: int
    agent_type: DeviceType
    event_type: EventType
    method: Method
    url: str
    content_type: ContentType = "json"


def client_secret(base: str, client: str) -> str:
    """The secret of one client, made of the one in the settings: what is sent to this client
    verifies with no other client's, and nobody finds the base from it. Always the same."""
    key = b64decode(base.removeprefix(SECRET))
    made = hmac.digest(key, f"fastagi hooks of client {client}".encode(), "sha256")
    return SECRET + b64encode(made).decode()


@dataclass(frozen=True, slots=True)
class HookDelivery:
    """One event owed to one hook. ``attempts`` counts those that failed so far; ``paused`` goes
    with a login: the agent brought a pause along from another phone."""

    hook: Hook
    seq: int  # of the event
    event: Event
    attempts: int
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try, as the delivery log keeps it. ``status`` is HTTP's, None when no answer came.

    ``outcome``: ``delivered``, ``failed`` (tried again later) or ``parked``.
    """

    event_id: str
    event_type: EventType
    at: datetime
    number: int  # from 1
    status: int | None
    error: str
    seconds: float
    outcome: Literal["delivered", "failed", "parked"]


_STATUS = {
    EventType.LOGIN: HookStatus.AVAILABLE,
    EventType.LOGOUT: HookStatus.LOGGED_OUT,
    EventType.PAUSE: HookStatus.PAUSED,
    EventType.UNPAUSE: HookStatus.AVAILABLE,
}


def payload(agent_id: int, event: Event, *, paused: bool = False) -> dict[str, str]:
    """What the receiver gets of the event, in the order of the document's example. ``paused``:
    see HookDelivery."""
    paused = paused and event.type is EventType.LOGIN
    status = HookStatus.PAUSED if paused else _STATUS[event.type]
    fields = {
        HookField.AGENT_STATUS: status.value,
        HookField.AGENT_TYPE: event.device_type,
        HookField.EVENT_SOURCE: event.source.value,
        HookField.AGENT_ID: str(agent_id),
    }
    if event.device_type == "remote":
        fields[HookField.AGENT_NUMBER] = event.extension
    else:
        fields[HookField.EXTENSION_NAME] = (
            f"{event.extension}@{event.context}" if event.context else event.extension
        )
    if event.type in (EventType.PAUSE, EventType.UNPAUSE):
        fields[HookField.PAUSE_REASON] = event.reason
    return {key.value: value for key, value in fields.items()}
