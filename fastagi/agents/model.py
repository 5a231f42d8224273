"""An agent's state and the one table of what each command does to it.

Pure: no I/O, no clock, no random. The same state, command and time give the same change.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto

from fastagi.agents import errors
from fastagi.agents.commands import (
    NO_FACTS,
    AddToQueue,
    Adopt,
    AssignPenalty,
    ChangePenalty,
    Command,
    Facts,
    JoinQueue,
    LeaveQueue,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
    Relog,
    RemoveFromQueue,
    Seen,
    Unpause,
    WhenInCall,
)
from fastagi.agents.devices import Device
from fastagi.agents.errors import Refused
from fastagi.agents.events import Event
from fastagi.agents.operations import (
    AddMember,
    Operation,
    PauseMember,
    RemoveMember,
    SetPenalty,
)
from fastagi.agents.reasons import find
from fastagi.contract import MEMBER_NAME, EventType, Outcome, Planned


@dataclass(frozen=True, slots=True)
class OwnPause:
    """In one queue the agent is paused, or is not, other than in general: Asterisk paused a member
    who did not answer, or somebody did it at the console."""

    paused: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Membership:
    """One of the agent's queues; ``joined`` says whether the agent is in it now.

    What is its ``own`` somebody changed in Asterisk; it lasts until the agent leaves the queue.
    """

    queue: str  # the queue's name in Asterisk
    number: str  # what an agent dials for it
    penalty: int = 0
    joined: bool = False
    own_penalty: int | None = None
    own_pause: OwnPause | None = None

    @property
    def penalty_now(self) -> int:
        return self.penalty if self.own_penalty is None else self.own_penalty


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
    planned: LogOff | Pause | None = None  # what waits for the end of the queue call

    @property
    def status(self) -> Status:
        if self.session is None:
            return Status.LOGGED_OFF
        return Status.PAUSED if self.pause else Status.AVAILABLE

    @property
    def plan(self) -> Planned:
        """What waits for the end of the queue call, in one word."""
        if self.planned is None:
            return Planned.NOTHING
        return Planned.LOG_OFF if isinstance(self.planned, LogOff) else Planned.PAUSE

    @property
    def joined(self) -> tuple[Membership, ...]:
        return tuple(m for m in self.memberships if m.joined)

    def pause_in(self, membership: Membership) -> tuple[bool, str]:
        """Whether the agent is paused in this queue, and the reason's name."""
        own = membership.own_pause
        if own is not None:
            return own.paused, own.reason
        return (True, self.pause.reason.name) if self.pause else (False, "")

    @property
    def member_name(self) -> str:
        return MEMBER_NAME.format(number=self.number)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to tell Asterisk, and what takes it back."""

    do: Operation
    undo: Operation


class Assign(Enum):
    """What a program does with a queue of the agent's, for good."""

    GIVE = auto()  # it becomes the agent's
    KEEP = auto()  # it is in the agent's state already, be it by somebody's doing in Asterisk
    TAKE = auto()
    PENALTY = auto()


@dataclass(frozen=True, slots=True)
class Assignment:
    how: Assign
    queue: str  # its name in Asterisk
    penalty: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What a command comes to, and all that is to be written of it.

    Without steps Asterisk need not be asked; ``before is after`` and no events mean that nothing
    changes at all.
    """

    command: Command
    at: datetime  # when it was decided
    outcome: Outcome
    before: AgentState
    after: AgentState
    steps: tuple[Step, ...] = ()
    events: tuple[Event, ...] = ()
    facts: Facts = NO_FACTS  # that it was decided with
    claims: Device | None = None  # for this agent, and nobody else, from the intent on
    assigns: Assignment | None = None
    missing: tuple[Membership, ...] = ()  # the agent's queues that Asterisk was found to lack

    @property
    def alters(self) -> bool:
        return self.before != self.after or bool(self.events)


Decision = Change | Refused


def decide(
    state: AgentState,
    command: Command,
    now: datetime,
    occupant: str | None = None,
    facts: Facts = NO_FACTS,
) -> Decision:
    """What ``command`` does to ``state``: a change, or the refusal.

    ``now`` is aware, in UTC. ``occupant`` is the number of another agent who is logged in on the
    device that the command names, or is about to be.
    """
    decision = TABLE[type(command)][state.session is not None](state, command, now, facts)
    if occupant is not None and (isinstance(decision, Refused) or decision.claims is not None):
        return errors.ExtensionInUse(occupant)
    return decision


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
        asterisk=session.device.asterisk,
        device_type=session.device.type,
    )


def members(
    state: AgentState, device: Device, memberships: tuple[Membership, ...]
) -> list[AddMember]:
    """What puts ``device`` into these queues as ``state`` means it: paused when the agent is."""
    name, interface, of_state = state.member_name, device.interface, device.state_interface
    return [
        AddMember(
            m.queue, interface, of_state, name, m.penalty_now, *state.pause_in(m), device.asterisk
        )
        for m in memberships
    ]


def _joining(state: AgentState, device: Device, memberships: tuple[Membership, ...]) -> list[Step]:
    return [
        Step(add, RemoveMember(add.queue, add.interface, add.asterisk))
        for add in members(state, device, memberships)
    ]


def _leaving(state: AgentState, device: Device, memberships: tuple[Membership, ...]) -> list[Step]:
    return [Step(step.undo, step.do) for step in _joining(state, device, memberships)]


def in_each_queue(step: Step, memberships: tuple[Membership, ...]) -> list[Step]:
    """A pause or unpause in all queues of the interface, as one in each of these alone."""
    do, undo = step.do, step.undo
    assert isinstance(do, PauseMember)
    assert isinstance(undo, PauseMember)
    return [Step(replace(do, queue=m.queue), replace(undo, queue=m.queue)) for m in memberships]


def as_taken(
    change: Change,
    now: datetime,
    missing: Collection[str],
    static: Collection[str],
    paused: Collection[str],
) -> Change:
    """The change as Asterisk took it. Events say what is not as the command meant it.

    The agent is not in the ``missing`` queues, as Asterisk lacks them. Where the agent has come
    into a queue as a member that cannot be removed, it is among ``static``; where such a member
    was paused instead of removed, among ``paused``.
    """
    if not missing and not static and not paused:
        return change
    command, before, after = change.command, change.before, change.after
    events = list(change.events)
    lacking = tuple(m for m in after.memberships if m.joined and m.queue in missing)
    if lacking:
        after = replace(
            after,
            memberships=tuple(
                Membership(m.queue, m.number, m.penalty) if m in lacking else m
                for m in after.memberships
            ),
        )
        events = [_without(event, missing) for event in events]
        events = [e for e in events if e.queues or e.type is not EventType.QUEUE_JOIN]
        # A login anew tells of all queues. Else those are left in which the agent was.
        was = {m.queue for m in before.joined}
        left = tuple(m.queue for m in lacking if m.queue in was)
        if left and before.session is after.session:
            events.append(_event(EventType.QUEUE_LEAVE, after, command, now, queues=left))
        events.append(missing_event(after, command, now, tuple(m.queue for m in lacking)))
    for whose, queues, reason in (
        (after, tuple(static), "static member: a log-off can only pause it"),
        (before, tuple(paused), "static member: paused, not removed"),
    ):
        if queues:
            events.append(
                _event(EventType.QUEUE_STATIC, whose, command, now, reason=reason, queues=queues)
            )
    return replace(
        change,
        after=after,
        events=tuple(
            replace(event, id=f"{command.id}-{n}") for n, event in enumerate(events, start=1)
        ),
        missing=lacking,
    )


def _without(event: Event, missing: Collection[str]) -> Event:
    """Nobody logs in to these queues, or joins them."""
    if event.type not in (EventType.LOGIN, EventType.QUEUE_JOIN):
        return event
    return replace(event, queues=tuple(queue for queue in event.queues if queue not in missing))


def missing_event(
    state: AgentState, command: Command, now: datetime, queues: tuple[str, ...]
) -> Event:
    """Tells that Asterisk lacks these queues of the agent, who is logged in."""
    return _event(
        EventType.QUEUE_MISSING, state, command, now, reason="no such queue", queues=queues
    )


def _all(memberships: tuple[Membership, ...], joined: bool) -> tuple[Membership, ...]:
    # Written out, as dataclasses.replace takes ten times as long, and this runs at every login.
    # What was the membership's own ends with it.
    return tuple([Membership(m.queue, m.number, m.penalty, joined) for m in memberships])


def _log_in(state: AgentState, command: LogIn, now: datetime, facts: Facts) -> Decision:
    memberships = _all(state.memberships, True)
    if command.queues is not None:
        memberships = tuple(
            m if m.queue in command.queues else replace(m, joined=False) for m in memberships
        )
    after = replace(
        state,
        session=LoginSession(command.id, command.device, now),
        memberships=memberships,
    )
    return Change(
        command,
        now,
        Outcome.LOGGED_IN,
        state,
        after,
        tuple(_joining(after, command.device, after.joined)),
        (_event(EventType.LOGIN, after, command, now),),
        claims=command.device,
    )


def _log_in_again(state: AgentState, command: LogIn, now: datetime, facts: Facts) -> Decision:
    assert state.session is not None
    here = state.session.device
    if here.key == command.device.key:
        # Logging in again takes back a log-off that was to follow the call, but no pause.
        staying = replace(state, planned=None) if isinstance(state.planned, LogOff) else state
        return Change(command, now, Outcome.ALREADY_LOGGED_IN, state, staying)
    if not command.move:
        return errors.LoggedInElsewhere(here)
    after = replace(state, session=LoginSession(command.id, command.device, now), planned=None)
    # The new place first: at no moment is the agent in fewer queues than before.
    steps = _joining(after, command.device, after.joined) + _leaving(state, here, state.joined)
    return Change(
        command,
        now,
        Outcome.MOVED,
        state,
        after,
        tuple(steps),
        (
            _event(EventType.LOGOUT, state, command, now, 1, reason="moved"),
            _event(EventType.LOGIN, after, command, now, 2, reason="moved"),
        ),
        claims=command.device,
    )


def _log_off(state: AgentState, command: LogOff, now: datetime, facts: Facts) -> Decision:
    assert state.session is not None
    if facts.in_call and command.when_in_call is WhenInCall.REFUSE:
        return errors.InCall()
    if facts.in_call and command.when_in_call is WhenInCall.AFTER_CALL:
        after = replace(state, planned=command)
        return Change(command, now, Outcome.LOGOFF_AFTER_CALL, state, after)
    after = _logged_off(state)
    return Change(
        command,
        now,
        Outcome.LOGGED_OFF,
        state,
        after,
        tuple(_leaving(state, state.session.device, state.joined)),
        (_event(EventType.LOGOUT, state, command, now, reason=command.reason),),
        facts,
    )


def _logged_off(state: AgentState) -> AgentState:
    return replace(
        state,
        session=None,
        pause=None,
        planned=None,
        memberships=_all(state.memberships, False),
    )


def _pausing(state: AgentState, after: AgentState) -> tuple[Step, ...]:
    assert state.session is not None
    if not state.joined:
        return ()  # Asterisk knows no such interface; queues joined later are joined paused
    device = state.session.device

    def said(who: AgentState, membership: Membership, queue: str = "") -> PauseMember:
        return PauseMember(device.interface, *who.pause_in(membership), queue, device.asterisk)

    if any(m.own_pause for m in state.joined):  # to be taken back queue by queue
        now = {m.queue: m for m in after.joined}
        return tuple(
            Step(said(after, now[m.queue], m.queue), said(state, m, m.queue)) for m in state.joined
        )
    any_one = state.joined[0]
    return (Step(said(after, any_one), said(state, any_one)),)


def _without_own_pauses(memberships: tuple[Membership, ...]) -> tuple[Membership, ...]:
    if not any(m.own_pause for m in memberships):
        return memberships
    return tuple(replace(m, own_pause=None) for m in memberships)


def _pause(state: AgentState, command: Pause, now: datetime, facts: Facts) -> Decision:
    wanted, now_for = command.reason, state.pause.reason if state.pause else None
    # By code; the system's reasons and those adopted from Asterisk have none.
    same = now_for is not None and (wanted.code or wanted) == (now_for.code or now_for)
    if same and not any(m.own_pause for m in state.joined):
        return Change(command, now, Outcome.ALREADY_PAUSED, state, _nothing_planned(state))
    if facts.locked and state.pause is not None and not same:
        return errors.PauseLocked()  # another reason would be the way out of it
    if facts.over_budget:
        return errors.PauseSpent(command.reason.name)
    if facts.in_call and command.when_in_call is WhenInCall.REFUSE:
        return errors.InCall()
    if facts.in_call and command.when_in_call is WhenInCall.AFTER_CALL:
        if isinstance(state.planned, LogOff):
            # Only one thing can follow the call, and who is logged off needs no pause.
            return Change(command, now, Outcome.LOGOFF_AFTER_CALL, state, state)
        planned = replace(state, planned=command)
        return Change(command, now, Outcome.PAUSE_AFTER_CALL, state, planned)
    after = replace(
        _nothing_planned(state),
        pause=state.pause if same else PauseSegment(command.id, command.reason, now),
        memberships=_without_own_pauses(state.memberships),
    )
    return Change(
        command,
        now,
        Outcome.PAUSE_REASON_CHANGED if state.pause and not same else Outcome.PAUSED,
        state,
        after,
        _pausing(state, after),
        (_event(EventType.PAUSE, after, command, now, reason=command.reason.name),),
        facts,
    )


def _unpause(state: AgentState, command: Unpause, now: datetime, facts: Facts) -> Decision:
    paused = [(m.queue, reason) for m in state.joined for on, reason in [state.pause_in(m)] if on]
    if state.pause is None and not paused:
        return Change(command, now, Outcome.NOT_PAUSED, state, _nothing_planned(state))
    if facts.locked:
        return errors.PauseLocked()
    after = replace(
        _nothing_planned(state), pause=None, memberships=_without_own_pauses(state.memberships)
    )
    reason = state.pause.reason.name if state.pause else paused[0][1]
    queues = tuple(queue for queue, _ in paused)
    return Change(
        command,
        now,
        Outcome.UNPAUSED,
        state,
        after,
        _pausing(state, after),
        (_event(EventType.UNPAUSE, after, command, now, reason=reason, queues=queues),),
        facts,
    )


def _nothing_planned(state: AgentState) -> AgentState:
    """A pause that waits for the end of the call is not wanted any more; a log-off still is."""
    return replace(state, planned=None) if isinstance(state.planned, Pause) else state


def _membership(state: AgentState, queue: str) -> Membership | None:
    return next((m for m in state.memberships if m.queue == queue), None)


def _with_joined(state: AgentState, queue: str, joined: bool) -> AgentState:
    return replace(
        state,
        memberships=tuple(
            Membership(m.queue, m.number, m.penalty, joined) if m.queue == queue else m
            for m in state.memberships
        ),
    )


def _join_queue(state: AgentState, command: JoinQueue, now: datetime, facts: Facts) -> Decision:
    assert state.session is not None
    membership = _membership(state, command.queue)
    if membership is None:
        return errors.NotAMember(command.queue)
    if membership.joined:
        return Change(command, now, Outcome.QUEUE_JOINED, state, state)
    after = _with_joined(state, command.queue, True)
    return Change(
        command,
        now,
        Outcome.QUEUE_JOINED,
        state,
        after,
        tuple(_joining(after, state.session.device, (membership,))),
        (_event(EventType.QUEUE_JOIN, after, command, now, queues=(command.queue,)),),
    )


def _leave_queue(state: AgentState, command: LeaveQueue, now: datetime, facts: Facts) -> Decision:
    assert state.session is not None
    membership = _membership(state, command.queue)
    if membership is None:
        return errors.NotAMember(command.queue)
    if not membership.joined:
        return Change(command, now, Outcome.QUEUE_LEFT, state, state)
    if facts.last_in_queue and not command.confirmed:
        return errors.LastInQueue(command.queue)
    after = _with_joined(state, command.queue, False)
    return Change(
        command,
        now,
        Outcome.QUEUE_LEFT,
        state,
        after,
        tuple(_leaving(state, state.session.device, (membership,))),
        (_event(EventType.QUEUE_LEAVE, after, command, now, queues=(command.queue,)),),
        facts,
    )


def _not_logged_in(state: AgentState, command: Command, now: datetime, facts: Facts) -> Decision:
    return errors.NotLoggedIn()


def _change_penalty(
    state: AgentState, command: ChangePenalty, now: datetime, facts: Facts
) -> Decision:
    assert state.session is not None
    membership = _membership(state, command.queue)
    if membership is None:
        return errors.NotAMember(command.queue)
    # There is nothing to be said to a phone: QUEUE_JOINED, "is in it as asked".
    if not membership.joined or membership.penalty_now == command.penalty:
        return Change(command, now, Outcome.QUEUE_JOINED, state, state)
    own = None if command.penalty == membership.penalty else command.penalty
    after = replace(
        state,
        memberships=tuple(
            replace(m, own_penalty=own) if m is membership else m for m in state.memberships
        ),
    )
    return _with_penalty(state, after, membership, command, now)


def _with_penalty(
    state: AgentState,
    after: AgentState,
    membership: Membership,
    command: ChangePenalty | AssignPenalty,
    now: datetime,
) -> Change:
    """A member's penalty is another one."""
    assert state.session is not None
    device = state.session.device

    def said(penalty: int) -> SetPenalty:
        return SetPenalty(command.queue, device.interface, penalty, device.asterisk)

    event = _event(
        EventType.QUEUE_PENALTY,
        after,
        command,
        now,
        reason=str(command.penalty),
        queues=(command.queue,),
    )
    step = Step(said(command.penalty), said(membership.penalty_now))
    return Change(command, now, Outcome.QUEUE_JOINED, state, after, (step,), (event,))


# -- whose queue it is


def _add_to_queue(state: AgentState, command: AddToQueue, now: datetime, facts: Facts) -> Decision:
    queue, joined = command.queue, Outcome.QUEUE_JOINED
    if any(m.queue == queue for m in state.memberships):
        kept = Assignment(Assign.KEEP, queue)
        return Change(command, now, joined, state, state, assigns=kept)
    session = state.session
    new = Membership(queue, command.number, command.penalty, session is not None)
    after = replace(state, memberships=(*state.memberships, new))
    given = Assignment(Assign.GIVE, queue, command.penalty)
    if session is None:
        return Change(command, now, joined, state, after, assigns=given)
    event = _event(EventType.QUEUE_JOIN, after, command, now, queues=(queue,))
    steps = tuple(_joining(after, session.device, (new,)))
    return Change(command, now, joined, state, after, steps, (event,), assigns=given)


def _remove_from_queue(
    state: AgentState, command: RemoveFromQueue, now: datetime, facts: Facts
) -> Decision:
    gone = tuple(m for m in state.memberships if m.queue == command.queue)
    if not gone:
        return errors.NotAMember(command.queue)
    after = replace(
        state, memberships=tuple(m for m in state.memberships if m.queue != command.queue)
    )
    left, taken = Outcome.QUEUE_LEFT, Assignment(Assign.TAKE, command.queue)
    if state.session is None or not gone[0].joined:
        return Change(command, now, left, state, after, assigns=taken)
    event = _event(EventType.QUEUE_LEAVE, state, command, now, queues=(command.queue,))
    steps = tuple(_leaving(state, state.session.device, gone))
    return Change(command, now, left, state, after, steps, (event,), assigns=taken)


def _assign_penalty(
    state: AgentState, command: AssignPenalty, now: datetime, facts: Facts
) -> Decision:
    membership = _membership(state, command.queue)
    if membership is None:
        return errors.NotAMember(command.queue)
    after = replace(
        state,
        memberships=tuple(
            replace(m, penalty=command.penalty, own_penalty=None) if m is membership else m
            for m in state.memberships
        ),
    )
    assigned = Assignment(Assign.PENALTY, command.queue, command.penalty)
    if after == state:
        return Change(command, now, Outcome.QUEUE_JOINED, state, state)
    if not membership.joined or membership.penalty_now == command.penalty:
        return Change(command, now, Outcome.QUEUE_JOINED, state, after, assigns=assigned)
    return replace(_with_penalty(state, after, membership, command, now), assigns=assigned)


def _relog(state: AgentState, command: Relog, now: datetime, facts: Facts) -> Decision:
    assert state.session is not None
    # A member who is there already is taken out and put in anew; nothing is ever to be taken back.
    adds = members(state, state.session.device, state.joined)
    steps = tuple(Step(add, add) for add in adds)
    return Change(command, now, Outcome.ALREADY_LOGGED_IN, state, state, steps)


# -- what somebody did in Asterisk itself


def _adopt(state: AgentState, command: Adopt, now: datetime, facts: Facts) -> Decision:
    """Brings the agent to what Asterisk reports, with the events that tell of the difference."""
    if not command.members and not command.missing:
        return _adopt_absence(state, command, now)
    session = state.session
    if session is None:
        assert command.device is not None
        session = LoginSession(command.id, command.device, now)
    after = _as_seen(replace(state, session=session), command, now)
    was = {m.queue: m for m in state.joined}
    there = {m.queue: m for m in after.joined}
    events: list[Event] = []

    def tell(type: EventType, queues: list[str], reason: str = "", *, always: bool = False) -> None:
        if queues or always:
            number = len(events) + 1
            event = _event(type, after, command, now, number, reason=reason, queues=tuple(queues))
            paused = after.pause is not None
            if (type, paused) in ((EventType.PAUSE, False), (EventType.UNPAUSE, True)):
                event = replace(event, in_part=True)
            events.append(event)

    joined = [queue for queue in there if queue not in was]
    tell(EventType.LOGIN if state.session is None else EventType.QUEUE_JOIN, joined)
    tell(EventType.QUEUE_LEAVE, [queue for queue in was if queue not in there])
    paused: dict[str, list[str]] = {}
    unpaused: dict[str, list[str]] = {}
    for queue, m in there.items():
        # Who joins is expected to be paused as the agent is.
        on, reason = after.pause_in(m)
        was_on, was_reason = state.pause_in(was.get(queue, Membership(queue, m.number)))
        if on and (not was_on or reason != was_reason):
            paused.setdefault(reason, []).append(queue)
        elif was_on and not on:
            unpaused.setdefault(was_reason, []).append(queue)
        if queue in was and m.penalty_now != was[queue].penalty_now:
            tell(EventType.QUEUE_PENALTY, [queue], str(m.penalty_now))
    for reason, queues in unpaused.items():
        tell(EventType.UNPAUSE, queues, reason)
    for reason, queues in paused.items():
        tell(EventType.PAUSE, queues, reason)
    tell(EventType.QUEUE_MISSING, [q for q in was if q in command.missing], "no such queue")
    # Taken out of the only queue in which the agent was, or was not, paused: so the agent is, or is
    # not, in general now. In no queue anything else has changed.
    if state.session and was.keys() - there.keys() and not paused and not unpaused:
        if after.pause is not None and state.pause is None:
            tell(EventType.PAUSE, [], after.pause.reason.name, always=True)
        elif after.pause is None and state.pause is not None:
            tell(EventType.UNPAUSE, [], state.pause.reason.name, always=True)
    claims = session.device if state.session is None else None
    return Change(command, now, Outcome.LOGGED_IN, state, after, (), tuple(events), claims=claims)


def _adopt_absence(state: AgentState, command: Adopt, now: datetime) -> Decision:
    """Taken out of the last queue is logged off; one who had left them all himself stays."""
    if not state.joined:
        return Change(command, now, Outcome.NOT_LOGGED_IN, state, state)
    after = _logged_off(state)
    event = _event(EventType.LOGOUT, state, command, now, reason="removed")
    return Change(command, now, Outcome.LOGGED_OFF, state, after, (), (event,))


def _adopted(reasons: tuple[PauseReason, ...], text: str) -> PauseReason:
    """The known reason that ``text`` names, whose limits hold, under the name that Asterisk has."""
    known = find(reasons, text)
    return PauseReason("" if known is None else known.code, text)


def _as_seen(state: AgentState, command: Adopt, now: datetime) -> AgentState:
    seen = {s.queue: s for s in command.members}
    pauses = {(s.paused, s.reason if s.paused else "") for s in command.members}
    pause = state.pause
    if len(pauses) == 1:  # the same everywhere: so it is with the agent
        ((paused, reason),) = pauses
        if not paused:
            pause = None
        elif pause is None or pause.reason.name != reason:
            pause = PauseSegment(command.id, _adopted(command.reasons, reason), now)
    in_general = (True, pause.reason.name) if pause else (False, "")

    def membership(m: Membership, s: Seen) -> Membership:
        in_queue = (s.paused, s.reason if s.paused else "")
        return Membership(
            m.queue,
            m.number,
            m.penalty,
            True,
            None if s.penalty == m.penalty else s.penalty,
            None if in_queue == in_general else OwnPause(*in_queue),
        )

    own = {m.queue for m in state.memberships}
    memberships = [
        membership(m, seen[m.queue])
        if m.queue in seen
        else Membership(m.queue, m.number, m.penalty)
        for m in state.memberships
    ]
    # A queue that is none of the agent's: it is in it all the same.
    memberships += [
        membership(Membership(s.queue, s.number, s.penalty), s)
        for s in command.members
        if s.queue not in own
    ]
    return replace(state, pause=pause, memberships=tuple(memberships))


Rule = Callable[..., Decision]

# By kind of command: what it does to an agent who is logged off, and to one who is logged in.
TABLE: dict[type[Command], tuple[Rule, Rule]] = {
    LogIn: (_log_in, _log_in_again),
    LogOff: (_not_logged_in, _log_off),
    Pause: (_not_logged_in, _pause),
    Unpause: (_not_logged_in, _unpause),
    JoinQueue: (_not_logged_in, _join_queue),
    LeaveQueue: (_not_logged_in, _leave_queue),
    ChangePenalty: (_not_logged_in, _change_penalty),
    AddToQueue: (_add_to_queue, _add_to_queue),
    RemoveFromQueue: (_remove_from_queue, _remove_from_queue),
    AssignPenalty: (_assign_penalty, _assign_penalty),
    Relog: (_not_logged_in, _relog),
    Adopt: (_adopt, _adopt),
}
