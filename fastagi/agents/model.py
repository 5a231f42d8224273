"""An agent's state and the one table of what each command does to it.

Pure: no I/O, no clock, no random. The same state, command and time give the same change.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto

from fastagi.agents import errors
from fastagi.agents.commands import (
    Command,
    JoinQueue,
    LeaveQueue,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
    Unpause,
    WhenInCall,
)
from fastagi.agents.devices import Device
from fastagi.agents.errors import Refused
from fastagi.agents.events import Event
from fastagi.agents.operations import AddMember, Operation, PauseMember, RemoveMember
from fastagi.contract import MEMBER_NAME, EventType, Outcome


@dataclass(frozen=True, slots=True)
class Membership:
    """One of the agent's queues; ``joined`` says whether the agent is in it now."""

    queue: str  # the queue's name in Asterisk
    number: str  # what an agent dials for it
    penalty: int = 0
    joined: bool = False


@dataclass(frozen=True, slots=True)
class LoginSession:
    id: str
    device: Device
    since: datetime


@dataclass(frozen=True, slots=True)
class PauseSegment:
    """A stretch of pause for one reason; a changed reason begins a new one."""

    id: str
    reason: PauseReason
    since: datetime


class Status(Enum):
    LOGGED_OFF = auto()
    AVAILABLE = auto()
    PAUSED = auto()


@dataclass(frozen=True, slots=True)
class AgentState:
    id: int
    number: str
    name: str
    language: str
    pin_hash: str | None = None
    memberships: tuple[Membership, ...] = ()
    session: LoginSession | None = None
    pause: PauseSegment | None = None
    planned: LogOff | None = None  # a log-off that waits for the end of the queue call

    @property
    def status(self) -> Status:
        if self.session is None:
            return Status.LOGGED_OFF
        return Status.PAUSED if self.pause else Status.AVAILABLE

    @property
    def joined(self) -> tuple[Membership, ...]:
        return tuple(m for m in self.memberships if m.joined)

    @property
    def member_name(self) -> str:
        return MEMBER_NAME.format(number=self.number)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to tell Asterisk, and what takes it back."""

    do: Operation
    undo: Operation


@dataclass(frozen=True, slots=True)
class Change:
    """What a command comes to. Without steps Asterisk need not be asked; ``before is after`` and
    no events mean that nothing changes at all."""

    command: Command
    outcome: Outcome
    before: AgentState
    after: AgentState
    steps: tuple[Step, ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def alters(self) -> bool:
        return self.before != self.after or bool(self.events)


Decision = Change | Refused


def decide(
    state: AgentState, command: Command, now: datetime, occupant: str | None = None
) -> Decision:
    """What ``command`` does to ``state``: a change, or the refusal.

    ``now`` is aware, in UTC. ``occupant`` is the number of the other agent who is logged in on
    the device that a LogIn names, if any.
    """
    if isinstance(command, LogIn) and occupant is not None:
        return errors.ExtensionInUse(occupant)
    return TABLE[state.status, type(command)](state, command, now)


def _event(
    type: EventType,
    state: AgentState,
    command: Command,
    now: datetime,
    n: int = 1,
    *,
    reason: str = "",
    queues: tuple[str, ...] | None = None,
) -> Event:
    session = state.session
    assert session is not None
    lasted = now - session.since if type is EventType.LOGOUT else timedelta()
    return Event(
        id=f"{command.id}-{n}",
        type=type,
        agent=state.number,
        extension=session.device.extension,
        queues=tuple([m.queue for m in state.memberships if m.joined])
        if queues is None
        else queues,
        reason=reason,
        source=command.source,
        actor=command.actor,
        occurred_at=now,
        context=session.device.context,
        session_seconds=max(0, int(lasted.total_seconds())),
    )


def members(
    state: AgentState, device: Device, memberships: tuple[Membership, ...]
) -> list[AddMember]:
    """What puts ``device`` into these queues as ``state`` means it: paused when the agent is."""
    name, interface, of_state = state.member_name, device.interface, device.state_interface
    paused, reason = state.pause is not None, state.pause.reason.name if state.pause else ""
    return [
        AddMember(m.queue, interface, of_state, name, m.penalty, paused, reason)
        for m in memberships
    ]


def _joining(state: AgentState, device: Device, memberships: tuple[Membership, ...]) -> list[Step]:
    return [
        Step(add, RemoveMember(add.queue, add.interface))
        for add in members(state, device, memberships)
    ]


def _leaving(state: AgentState, device: Device, memberships: tuple[Membership, ...]) -> list[Step]:
    return [Step(step.undo, step.do) for step in _joining(state, device, memberships)]


def _all(memberships: tuple[Membership, ...], joined: bool) -> tuple[Membership, ...]:
    # Written out, as dataclasses.replace takes ten times as long, and this runs at every login.
    return tuple([Membership(m.queue, m.number, m.penalty, joined) for m in memberships])


def _log_in(state: AgentState, command: LogIn, now: datetime) -> Decision:
    after = replace(
        state,
        session=LoginSession(command.id, command.device, now),
        memberships=_all(state.memberships, True),
    )
    return Change(
        command,
        Outcome.LOGGED_IN,
        state,
        after,
        tuple(_joining(after, command.device, after.memberships)),
        (_event(EventType.LOGIN, after, command, now),),
    )


def _log_in_again(state: AgentState, command: LogIn, now: datetime) -> Decision:
    assert state.session is not None
    here = state.session.device
    if here.interface.lower() == command.device.interface.lower():
        # Logging in again takes back a log-off that was to follow the call.
        return Change(command, Outcome.ALREADY_LOGGED_IN, state, replace(state, planned=None))
    if not command.move:
        return errors.LoggedInElsewhere(here)
    after = replace(state, session=LoginSession(command.id, command.device, now), planned=None)
    # The new place first: at no moment is the agent in fewer queues than before.
    steps = _joining(after, command.device, after.joined) + _leaving(state, here, state.joined)
    return Change(
        command,
        Outcome.MOVED,
        state,
        after,
        tuple(steps),
        (
            _event(EventType.LOGOUT, state, command, now, 1, reason="moved"),
            _event(EventType.LOGIN, after, command, now, 2, reason="moved"),
        ),
    )


def _log_off(state: AgentState, command: LogOff, now: datetime) -> Decision:
    assert state.session is not None
    if command.in_call and command.when_in_call is WhenInCall.REFUSE:
        return errors.InCall()
    if command.in_call and command.when_in_call is WhenInCall.AFTER_CALL:
        after = replace(state, planned=command)
        return Change(command, Outcome.LOGOFF_AFTER_CALL, state, after)
    after = replace(
        state,
        session=None,
        pause=None,
        planned=None,
        memberships=_all(state.memberships, False),
    )
    return Change(
        command,
        Outcome.LOGGED_OFF,
        state,
        after,
        tuple(_leaving(state, state.session.device, state.joined)),
        (_event(EventType.LOGOUT, state, command, now, reason=command.reason),),
    )


def _pausing(state: AgentState, after: AgentState) -> tuple[Step, ...]:
    assert state.session is not None
    if not state.joined:
        return ()  # Asterisk knows no such interface; queues joined later are joined paused
    interface = state.session.device.interface

    def said(who: AgentState) -> PauseMember:
        return PauseMember(
            interface, who.pause is not None, who.pause.reason.name if who.pause else ""
        )

    return (Step(said(after), said(state)),)


def _pause(state: AgentState, command: Pause, now: datetime) -> Decision:
    if state.pause and state.pause.reason.code == command.reason.code:
        return Change(command, Outcome.ALREADY_PAUSED, state, state)
    after = replace(state, pause=PauseSegment(command.id, command.reason, now))
    return Change(
        command,
        Outcome.PAUSE_REASON_CHANGED if state.pause else Outcome.PAUSED,
        state,
        after,
        _pausing(state, after),
        (_event(EventType.PAUSE, after, command, now, reason=command.reason.name),),
    )


def _unpause(state: AgentState, command: Unpause, now: datetime) -> Decision:
    assert state.pause is not None
    after = replace(state, pause=None)
    return Change(
        command,
        Outcome.UNPAUSED,
        state,
        after,
        _pausing(state, after),
        (_event(EventType.UNPAUSE, after, command, now, reason=state.pause.reason.name),),
    )


def _membership(state: AgentState, queue: str) -> Membership | None:
    return next((m for m in state.memberships if m.queue == queue), None)


def _with_joined(state: AgentState, queue: str, joined: bool) -> AgentState:
    return replace(
        state,
        memberships=tuple(
            replace(m, joined=joined) if m.queue == queue else m for m in state.memberships
        ),
    )


def _join_queue(state: AgentState, command: JoinQueue, now: datetime) -> Decision:
    assert state.session is not None
    membership = _membership(state, command.queue)
    if membership is None:
        return errors.NotAMember(command.queue)
    if membership.joined:
        return Change(command, Outcome.QUEUE_JOINED, state, state)
    after = _with_joined(state, command.queue, True)
    return Change(
        command,
        Outcome.QUEUE_JOINED,
        state,
        after,
        tuple(_joining(after, state.session.device, (membership,))),
        (_event(EventType.QUEUE_JOIN, after, command, now, queues=(command.queue,)),),
    )


def _leave_queue(state: AgentState, command: LeaveQueue, now: datetime) -> Decision:
    assert state.session is not None
    membership = _membership(state, command.queue)
    if membership is None:
        return errors.NotAMember(command.queue)
    if not membership.joined:
        return Change(command, Outcome.QUEUE_LEFT, state, state)
    if command.last and not command.confirmed:
        return errors.LastInQueue(command.queue)
    after = _with_joined(state, command.queue, False)
    return Change(
        command,
        Outcome.QUEUE_LEFT,
        state,
        after,
        tuple(_leaving(state, state.session.device, (membership,))),
        (_event(EventType.QUEUE_LEAVE, after, command, now, queues=(command.queue,)),),
    )


def _not_logged_in(state: AgentState, command: Command, now: datetime) -> Decision:
    return errors.NotLoggedIn()


def _not_paused(state: AgentState, command: Command, now: datetime) -> Decision:
    return Change(command, Outcome.NOT_PAUSED, state, state)


Rule = Callable[..., Decision]

TABLE: dict[tuple[Status, type[Command]], Rule] = {
    (Status.LOGGED_OFF, LogIn): _log_in,
    (Status.AVAILABLE, LogIn): _log_in_again,
    (Status.PAUSED, LogIn): _log_in_again,
    (Status.LOGGED_OFF, LogOff): _not_logged_in,
    (Status.AVAILABLE, LogOff): _log_off,
    (Status.PAUSED, LogOff): _log_off,
    (Status.LOGGED_OFF, Pause): _not_logged_in,
    (Status.AVAILABLE, Pause): _pause,
    (Status.PAUSED, Pause): _pause,
    (Status.LOGGED_OFF, Unpause): _not_logged_in,
    (Status.AVAILABLE, Unpause): _not_paused,
    (Status.PAUSED, Unpause): _unpause,
    (Status.LOGGED_OFF, JoinQueue): _not_logged_in,
    (Status.AVAILABLE, JoinQueue): _join_queue,
    (Status.PAUSED, JoinQueue): _join_queue,
    (Status.LOGGED_OFF, LeaveQueue): _not_logged_in,
    (Status.AVAILABLE, LeaveQueue): _leave_queue,
    (Status.PAUSED, LeaveQueue): _leave_queue,
}
