"""Shapes that the hall and another room know. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from fastagi.agents.commands import Command, Facts
from fastagi.agents.devices import DeviceType
from fastagi.agents.events import Event
from fastagi.agents.limits import PauseLimit
from fastagi.agents.lockout import Lockout
from fastagi.agents.model import AgentState, Status
from fastagi.contract import Planned, Source

# -- what the store gives to a rule of the hall


@dataclass(frozen=True, slots=True)
class Intent:
    """A change that was begun and neither confirmed nor taken back."""

    id: str  # the command's
    at: datetime  # when it was decided
    ours: bool  # whether it is for this service to settle
    recorded: tuple[Command, Facts] | None = None  # where it is to be decided again


@dataclass(frozen=True, slots=True)
class Stored:
    """An agent as the store has it, while nobody else changes it."""

    state: AgentState
    archived: bool
    intent: Intent | None = None
    occupant: str | None = None  # the number of the other agent who has the device asked for
    written: bool = False  # whether the event asked for is there


# -- the admin's choices that hold for every interface


@dataclass(frozen=True, slots=True)
class Policy:
    lockout: Lockout
    zone: tzinfo = UTC  # where a day begins at midnight
    refuse_missing_queue: bool = False  # a login while Asterisk lacks one of the agent's queues


# -- what is stored, as others read it


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent now. ``queues`` are the agent's, ``joined`` those the agent is in now. ``since``:
    of the login.

    ``paused_in``: queues with a pause that is not the agent's in general. ``planned``: what
    happens when the present queue call ends.
    """

    id: int
    number: str
    name: str
    language: str
    status: Status
    extension: str
    interface: str
    since: datetime | None
    queues: tuple[str, ...]
    joined: tuple[str, ...]
    pause_reason: str
    paused_since: datetime | None
    asterisk: str = ""
    paused_in: tuple[str, ...] = ()
    planned: Planned = Planned.NOTHING
    context: str = ""
    device_type: DeviceType = "local"
    source: Source | None = None  # where the login came from
    pause_source: Source | None = None
    by: str = ""  # the program's name, of a login by an interface
    pause_by: str = ""


@dataclass(frozen=True, slots=True)
class Period:
    """A login session or a pause. ``subject``: the session's interface, the pause reason's code.

    ``name``: the pause reason's, also of one that is in no table (any more).
    """

    id: str
    subject: str
    name: str
    since: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent as the directory has one, archived or not, with the latest of everything."""

    id: int
    number: str
    name: str
    login: str  # the number where no login name is set
    archived: bool = False
    enabled: bool = True
    queues: tuple[int, ...] = ()  # ids of the agent's queues
    interface: str = ""  # where the agent is logged in
    last_login: Period | None = None  # the present or the latest session
    last_pause: Period | None = None  # the latest that has ended
    current_pause: Period | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """A pause reason, archived ones too."""

    id: int
    code: str
    name: str
    description: str = ""
    productive: bool = False
    type: str = ""
    archived: bool = False
    limit: PauseLimit | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """``seq`` rises with every event: reading goes on after it."""

    seq: int
    event: Event


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for a sink: how many events, when the oldest occurred, and what was given up."""

    sink: str
    waiting: int
    oldest: datetime | None
    parked: int


@dataclass(frozen=True, slots=True)
class ParkedDelivery:
    """Given up after too many refusals. ``sink`` is ``hook <id>`` for a hook."""

    sink: str
    event_id: str
    agent: str
    attempts: int
    error: str
    parked_at: datetime
