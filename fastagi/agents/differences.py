"""Pure: what is stored × what Asterisk reports → what differs, and what mends it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fastagi.agents.commands import AddToQueue, Command, JoinQueue, LogIn, Seen, Unpause
from fastagi.agents.devices import device_key
from fastagi.agents.model import AgentState, Change, Membership, Step, members
from fastagi.agents.operations import (
    AddMember,
    MemberNews,
    Operation,
    PauseMember,
    RemoveMember,
    ReportedMember,
    SetPenalty,
)
from fastagi.contract import LOGGED_OFF, MEMBER_NAME

# -- an intent that was not confirmed


def to_be_finished(command: Command) -> bool:
    """How to settle an unconfirmed intent: finish it, or take it back?

    In doubt the phone does not ring: what takes an agent out of reach (log-off, pause, leaving a
    queue) is finished, what brings one in (login, joining, the end of a pause) is taken back, as
    the agent was told nothing, or "try again".
    """
    return not isinstance(command, LogIn | JoinQueue | AddToQueue | Unpause)


def settlement(change: Change) -> list[Operation]:
    """The operations that settle an unconfirmed intent, whatever part of it Asterisk has seen."""
    if to_be_finished(change.command):
        return [step.do for step in change.steps]
    return undo(change.steps)


def undo(steps: Iterable[Step]) -> list[Operation]:
    """Takes back what was done, the last step first."""
    return [step.undo for step in reversed(list(steps))]


# -- what is stored, and what is


class Kind(StrEnum):
    """How the store and one of Asterisk's queues differ about an agent."""

    MISSING = "missing"  # stored, and not in the queue
    EXTRA = "extra"  # in the queue, and not stored
    PAUSE = "pause"  # both, but paused in one and not in the other, or for another reason
    PENALTY = "penalty"
    ELSEWHERE = "elsewhere"  # in the queue from a place that is not the agent's


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. ``stored`` and ``reported`` are for people to read."""

    kind: Kind
    agent: str
    queue: str
    interface: str
    stored: str
    reported: str
    repair: Operation  # brings Asterisk to what is stored
    static: bool = False  # about a member of queues.conf or of realtime

    @property
    def ours(self) -> bool:
        """Whether nobody outside makes such a difference, so that there is nothing to be adopted:
        an agent left behind, or a static member paused by another service in the very moment in
        which somebody logged in with it."""
        left = _said(True, LOGGED_OFF)
        return self.kind is Kind.ELSEWHERE or (
            self.static and self.kind is Kind.PAUSE and self.reported == left
        )

    @property
    def reread(self) -> bool:
        """Whether Asterisk makes such a difference, without a word, when it reads its queues anew:
        dynamic members may be gone; the others have the penalty of queues.conf, and no reason."""
        return self.static or self.kind is Kind.MISSING


_PREFIX, _, _SUFFIX = MEMBER_NAME.partition("{number}")


def number_in(member_name: str) -> str:
    """The agent's number in a member's name; "" when it is not one of ours."""
    if not member_name.startswith(_PREFIX) or not member_name.endswith(_SUFFIX):
        return ""
    return member_name[len(_PREFIX) : len(member_name) - len(_SUFFIX)]


def key_of(member: ReportedMember) -> str:
    """The ``Device.key`` of the member's interface."""
    return device_key(member.asterisk, member.interface)


@dataclass(frozen=True, slots=True)
class Owned:
    """What Asterisk reports of an agent: where the agent is, and where the agent is not."""

    here: tuple[ReportedMember, ...]
    elsewhere: tuple[ReportedMember, ...]


def owned(agents: Iterable[AgentState], reported: Iterable[ReportedMember]) -> dict[str, Owned]:
    """Whose members these are, by agent's number; those of nobody among ``agents`` are left out.

    A member is the agent's who is logged in on its interface, else the one's whom its name names.
    An agent is in one place: the one of the login; or, when only Asterisk knows the agent as logged
    in, that of the first member.
    """
    states = {agent.number: agent for agent in agents}
    sitting = {a.session.device.key: a.number for a in states.values() if a.session}
    here: dict[str, list[ReportedMember]] = {}
    elsewhere: dict[str, list[ReportedMember]] = {}
    for member in reported:
        key, named = key_of(member), number_in(member.name)
        sits = sitting.get(key, "")
        # Whose one in queues.conf is says the phone, not the name that somebody has given to it.
        number = named if named in states and member.dynamic else sits
        if not number:
            continue
        if number == sits:
            here.setdefault(number, []).append(member)
        elif sits or states[number].session is not None:
            elsewhere.setdefault(number, []).append(member)
        else:
            sitting[key] = number
            if any(key_of(other) != key for other in here.get(number, ())):
                elsewhere.setdefault(number, []).append(member)
            else:
                here.setdefault(number, []).append(member)
    return {
        number: Owned(tuple(here.get(number, ())), tuple(elsewhere.get(number, ())))
        for number in {**here, **elsewhere}
    }


_NOTHING = Owned((), ())


def differences(
    agents: Sequence[AgentState],
    reported: Iterable[ReportedMember],
    asterisk: str,
    queues: Collection[str],
    asterisks: Collection[str] = (),
) -> list[Difference]:
    """Where the store and this Asterisk differ about these agents, in queues that the store has
    (``queues``: their names in lower case).

    An agent who is logged in on an Asterisk that is none of ``asterisks`` is left alone: that one
    may be another service's, or has a new name.
    """
    found: list[Difference] = []
    of = owned(agents, (m for m in reported if m.queue.lower() in queues))
    for agent in agents:
        if asterisks and agent.session and agent.session.device.asterisk not in asterisks:
            continue
        its = of.get(agent.number, _NOTHING)
        if any(m.unsure for members_of in (its.here, its.elsewhere) for m in members_of):
            continue
        if its is not _NOTHING or (agent.session and agent.session.device.asterisk == asterisk):
            found += _differences(agent, its, asterisk)
    return found


def _differences(agent: AgentState, its: Owned, asterisk: str) -> Iterable[Difference]:
    meant = _meant(agent, asterisk)
    there = {m.queue.lower(): m for m in its.here}
    for key, add in meant.items():
        member = there.get(key)
        if member is None:
            yield Difference(
                Kind.MISSING, agent.number, add.queue, add.interface, "in the queue", "", add
            )
            continue
        is_so = (member.paused, member.reason if member.paused else "")
        if is_so != (add.paused, add.reason):
            yield Difference(
                Kind.PAUSE,
                agent.number,
                add.queue,
                add.interface,
                _said(add.paused, add.reason),
                _said(*is_so),
                PauseMember(add.interface, add.paused, add.reason, add.queue, asterisk),
                not member.dynamic,
            )
        if member.penalty != add.penalty:
            yield Difference(
                Kind.PENALTY,
                agent.number,
                add.queue,
                add.interface,
                str(add.penalty),
                str(member.penalty),
                SetPenalty(add.queue, add.interface, add.penalty, asterisk),
                not member.dynamic,
            )
    for members_of, kind in ((its.here, Kind.EXTRA), (its.elsewhere, Kind.ELSEWHERE)):
        for m in members_of:
            if (kind is Kind.EXTRA and m.queue.lower() in meant) or not m.dynamic:
                continue  # what stands in queues.conf cannot be taken out
            yield Difference(
                kind,
                agent.number,
                m.queue,
                m.interface,
                _place(agent),
                "in the queue",
                RemoveMember(m.queue, m.interface, asterisk),
            )


def _meant(agent: AgentState, asterisk: str) -> dict[str, AddMember]:
    """By queue in lower case: the members that the store means to be on this Asterisk."""
    session = agent.session
    if session is None or session.device.asterisk != asterisk:
        return {}
    return {add.queue.lower(): add for add in members(agent, session.device, agent.joined)}


def _said(paused: bool, reason: str) -> str:
    return f"paused: {reason}".removesuffix(": ") if paused else "not paused"


def _place(agent: AgentState) -> str:
    return f"at {agent.session.device.interface}" if agent.session else "logged off"


def restored(agent: AgentState, asterisk: str) -> list[AddMember]:
    """What puts the agent back into the queues of a restarted Asterisk."""
    return list(_meant(agent, asterisk).values())


# -- what somebody did in Asterisk


def agrees(agent: AgentState, news: MemberNews) -> bool:
    """Whether the store has it just so: then it is our own doing, or nothing new."""
    member = news.member
    session = agent.session
    membership: Membership | None = None
    if session is not None and session.device.key == key_of(member):
        queue = member.queue.lower()
        membership = next((m for m in agent.joined if m.queue.lower() == queue), None)
    if membership is None and not member.dynamic:
        return True  # it is there for good, whoever is in the queue
    if membership is None or not news.present:
        return membership is None and not news.present
    is_so = (member.paused, member.reason if member.paused else "")
    return is_so == agent.pause_in(membership) and member.penalty == membership.penalty_now


def seen(
    agent: AgentState, here: Iterable[ReportedMember], queues: Mapping[str, tuple[str, str]]
) -> tuple[Seen, ...]:
    """What ``Adopt`` needs to know. ``queues``: name in lower case -> name and number."""
    joined = {m.queue.lower() for m in agent.joined}
    return tuple(
        Seen(*queues[queue], m.penalty, m.paused, m.reason)
        for m in here
        for queue in [m.queue.lower()]
        if queue in queues and (m.dynamic or queue in joined)
    )
