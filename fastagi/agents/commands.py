"""What can be asked of an agent's state. Each command says who asks, from where.

A command is plain data: the store keeps it as the recorded intent until the change it stands for
is confirmed, and ``decide`` makes the same change of it again after a crash. What else a decision
depends on is kept with it: the ``Facts``.
"""

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import Enum
from typing import Any, Self, TypeVar

from fastagi.agents.devices import Device, DeviceType
from fastagi.agents.text import Unusable, number, storable
from fastagi.contract import Source

MAX_STORED = 4_096  # characters of any text in a stored command


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

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The inverse of ``as_dict``. Raises Unusable, KeyError for what this version does not
        know."""
        return _built(cls, "actor", data)


@dataclass(frozen=True, slots=True)
class PauseReason:
    """``description`` says the same in other words; it makes no other reason of it."""

    code: str
    name: str
    description: str = field(default="", compare=False)


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
class Facts:
    """What a decision needs beside the command and the agent's state: only Asterisk or the past
    knows it. The service gathers what the command depends on; all else is False."""

    in_call: bool = False  # a call of one of the agent's queues is on the agent's device
    locked: bool = False  # the agent may not end the pause there is before its time
    over_budget: bool = False  # the day's budget of the wanted pause reason is used up
    last_in_queue: bool = False  # nobody else is in the queue that is to be left


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogIn(Command):
    device: Device
    move: bool = False  # when logged in elsewhere: come here, with pause, reason and queues
    queues: tuple[str, ...] | None = None  # those to be in, of the agent's; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOff(Command):
    when_in_call: WhenInCall = WhenInCall.ALLOW
    reason: str = ""  # why, when the agent did not ask: "taken over", …


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Command):
    reason: PauseReason
    when_in_call: WhenInCall = WhenInCall.ALLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpause(Command):
    as_agent: bool = False  # in the agent's own name, as from a phone: not by a supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinQueue(Command):
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveQueue(Command):
    queue: str
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
    # Queues that Asterisk lacks now: nobody took the agent out of these, who joins them again when
    # they are there, and stays logged in meanwhile.
    missing: tuple[str, ...] = ()


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


# Facts that earlier versions kept in the command itself: by kind, the name then and now.
_FORMER_FACTS: dict[str, dict[str, str]] = {
    "LogOff": {"in_call": "in_call"},
    "Pause": {"in_call": "in_call", "spent": "over_budget", "locked": "locked"},
    "Unpause": {"locked": "locked"},
    "LeaveQueue": {"last": "last_in_queue"},
}


def to_dict(command: Command, facts: Facts = NO_FACTS) -> dict[str, Any]:
    """Plain data for JSON; ``recorded`` is its inverse."""
    data = asdict(command)
    for key, value in data.items():
        if isinstance(value, Enum):
            data[key] = value.value
    if isinstance(command, Pause):
        del data["reason"]["description"]
    data["kind"] = type(command).__name__
    if facts != NO_FACTS:
        data["facts"] = asdict(facts)
    return data


def _text(name: str, value: object) -> str:
    return storable(name, value, MAX_STORED, controls=True)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise Unusable(f"{name}: is neither true nor false")
    return value


def _one_of(kind: type[Enum]) -> Callable[[str, object], Enum]:
    def read(name: str, value: object) -> Enum:
        try:
            return kind(value)
        except ValueError:
            raise Unusable(f"{name}: is not known") from None

    return read


def _texts(name: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise Unusable(f"{name}: is no list")
    return tuple(_text(name, item) for item in value)


def _device_type(name: str, value: object) -> str:
    if value not in ("local", "remote"):
        raise Unusable(f"{name}: is not known")
    return str(value)


def _object(kind: type[Any]) -> Callable[[str, object], Any]:
    return lambda name, value: _built(kind, name, value)


# How a field's value is read, by its type: what another version, or another program, has written
# into the store may be anything.
_READERS: dict[Any, Callable[[str, object], object]] = {
    str: _text,
    int: number,
    bool: _flag,
    Source: _one_of(Source),
    WhenInCall: _one_of(WhenInCall),
    DeviceType: _device_type,
    tuple[str, ...] | None: _texts,
    Actor: _object(Actor),
    Device: _object(Device),
    PauseReason: _object(PauseReason),
}

T = TypeVar("T")


def _built(kind: type[T], name: str, data: object) -> T:
    if not isinstance(data, dict):
        raise Unusable(f"{name}: is no JSON object")
    items = fields(kind)  # type: ignore[arg-type]  # only dataclasses are given
    for unknown in data.keys() - {item.name for item in items}:
        raise KeyError(unknown)
    values: dict[str, Any] = {}
    for item in items:
        if item.name not in data and (
            item.default is not MISSING or item.default_factory is not MISSING
        ):
            continue  # written by an earlier version
        values[item.name] = _READERS[item.type](item.name, data[item.name])
    return kind(**values)


def recorded(data: object) -> tuple[Command, Facts]:
    """A command as ``to_dict`` wrote it, in this version or an earlier one, and its facts.

    Raises KeyError for a kind or a field that this version does not know, Unusable for a value
    that no command has.
    """
    if not isinstance(data, dict):
        raise Unusable("command: is no JSON object")
    name = _text("kind", data["kind"])
    kind = COMMANDS[name]
    values = {key: data[key] for key in data if key not in ("kind", "facts")}
    names = _FORMER_FACTS.get(name, {})
    former = {new: values.pop(old) for old, new in names.items() if old in values}
    facts = _built(Facts, "facts", data.get("facts", former))
    return _built(kind, "command", values), facts


def from_dict(data: object) -> Command:
    """The command alone, see ``recorded``."""
    return recorded(data)[0]


def plan_from_dict(data: object) -> LogOff | Pause:
    """What waits for the end of a call. Raises as ``recorded`` does."""
    command = from_dict(data)
    if not isinstance(command, LogOff | Pause):
        raise Unusable("command: is no log-off or pause")
    return command
