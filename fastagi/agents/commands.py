"""What can be asked of an agent's state. Each command says who asks, from where.

A command is plain data: the store keeps it as the recorded intent until the change it stands for
is confirmed, and ``decide`` makes the same change of it again after a crash.
"""

from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import Enum
from typing import Any

from fastagi.agents.devices import Device
from fastagi.contract import Source


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it: a call (channel, caller ID, unique id) or a named client of an interface."""

    channel: str = ""
    caller_id: str = ""
    unique_id: str = ""
    name: str = ""
    hung_up: bool = False  # the caller was gone before the change was finished

    def as_dict(self) -> dict[str, Any]:
        """Only what is known, for JSON."""
        named = [(item.name, getattr(self, item.name)) for item in fields(self)]
        return {key: value for key, value in named if value}


@dataclass(frozen=True, slots=True)
class PauseReason:
    code: str
    name: str


class WhenInCall(Enum):
    """What a log-off does to an agent in a queue call."""

    AFTER_CALL = "after_call"
    REFUSE = "refuse"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """``id`` is unique for ever: the events that come of the command are named after it."""

    id: str
    agent: str  # the agent's number
    source: Source
    actor: Actor = field(default_factory=Actor)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogIn(Command):
    device: Device
    move: bool = False  # when logged in elsewhere: come here, with pause, reason and queues
    queues: tuple[str, ...] | None = None  # those to be in, of the agent's; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOff(Command):
    when_in_call: WhenInCall = WhenInCall.ALLOW
    in_call: bool = False  # filled in by the service, from Asterisk
    reason: str = ""  # why, when the agent did not ask: "taken over", …


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Command):
    reason: PauseReason
    when_in_call: WhenInCall = WhenInCall.ALLOW
    in_call: bool = False  # filled in by the service, from Asterisk
    spent: bool = False  # filled in by the service: the day's budget of this reason is used up
    locked: bool = False  # filled in by the service: the pause there is stays, see Unpause


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpause(Command):
    as_agent: bool = False  # in the agent's own name, as from a phone: not by a supervisor
    locked: bool = False  # filled in by the service: not before its time, by the agent


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinQueue(Command):
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveQueue(Command):
    queue: str
    last: bool = False  # filled in by the service, from Asterisk: nobody else is in the queue
    confirmed: bool = False  # leave although the last one


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePenalty(Command):
    queue: str
    penalty: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddToQueue(Command):
    """The queue becomes one of the agent's, who is in it at once when logged in."""

    queue: str
    number: str  # what agents dial for it
    penalty: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFromQueue(Command):
    """The queue is none of the agent's any more, who leaves it at once."""

    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignPenalty(Command):
    """The agent's penalty in a queue from now on, not for this login alone."""

    queue: str
    penalty: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Relog(Command):
    """What the store has of the login is told to Asterisk once more, as it is."""

    # Asterisk has a queue call on this device, which it would forget with the member: that one is
    # not taken out and put in anew.
    in_call: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """An agent in a queue, as Asterisk reports it."""

    queue: str  # as the store spells it
    number: str
    penalty: int
    paused: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt(Command):
    """Somebody changed Asterisk itself: what it reports of the agent is how things are now.

    Nothing is left to be told to Asterisk, so this is never an intent.
    """

    members: tuple[Seen, ...]
    device: Device | None = None  # where the agent is, when not logged in yet
    reasons: tuple[PauseReason, ...] = ()  # those there are, for the code of a reported one


COMMANDS: dict[str, type[Command]] = {
    kind.__name__: kind
    for kind in (
        LogIn,
        LogOff,
        Pause,
        Unpause,
        JoinQueue,
        LeaveQueue,
        ChangePenalty,
        AddToQueue,
        RemoveFromQueue,
        AssignPenalty,
        Relog,
    )
}


def to_dict(command: Command) -> dict[str, Any]:
    """Plain data for JSON; ``from_dict`` is its inverse."""
    data = asdict(command)
    for key, value in data.items():
        if isinstance(value, Enum):
            data[key] = value.value
    data["kind"] = type(command).__name__
    return data


_NESTED: dict[str, Any] = {
    "source": Source,
    "actor": lambda value: Actor(**value),
    "device": lambda value: Device(**value),
    "when_in_call": WhenInCall,
    "queues": lambda value: None if value is None else tuple(value),
}


def from_dict(data: dict[str, Any]) -> Command:
    """Raises KeyError for a kind or a field that this version does not know."""
    kind = COMMANDS[data["kind"]]
    values: dict[str, Any] = {}
    for unknown in data.keys() - {"kind", *(item.name for item in fields(kind))}:
        raise KeyError(unknown)
    for item in fields(kind):
        if item.name not in data and item.default is not MISSING:
            continue  # written by an earlier version
        value = data[item.name]
        if item.name in _NESTED:
            value = _NESTED[item.name](value)
        elif item.name == "reason" and kind is Pause:
            value = PauseReason(**value)
        values[item.name] = value
    return kind(**values)
