"""What must be true when everything has settled. Pure: what was done, what is stored, what is."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastagi.agents.events import Event
from fastagi.agents.model import AgentState
from fastagi.agents.reconciler import AGAIN
from fastagi.agents.taking_notes import FRESH
from fastagi.contract import EventType, Outcome, Source
from tests.truth.house import Operation
from tests.truth.program import Ask, Console, Dial


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    state_interface: str
    penalty: int
    paused: bool
    reason: str


Members = dict[tuple[str, str], Member]  # queue and interface →


def meant(states: Iterable[AgentState]) -> Members:
    """The members that the store says there are."""
    return {
        (m.queue, state.session.device.interface): Member(
            state.member_name,
            state.session.device.state_interface,
            m.penalty_now,
            *state.pause_in(m),
        )
        for state in states
        if state.session is not None
        for m in state.joined
    }


def reported(items: Iterable[Mapping[str, str]]) -> Members:
    """Those that QueueStatus shows."""
    return {
        (item["Queue"], item["Location"]): Member(
            item["Name"],
            item["StateInterface"],
            int(item["Penalty"]),
            item["Paused"] == "1",
            item["PausedReason"] if item["Paused"] == "1" else "",
        )
        for item in items
    }


def without_static(
    stored: Members, items: Iterable[Mapping[str, str]], events: Iterable[Event]
) -> tuple[Members, list[str]]:
    """What is reported but for the static members, where these are as they should be; and what is
    wrong with them. One has the name of queues.conf. It stands in the queue also when no agent is
    there with this phone: paused, if any agent ever was."""
    found: Members = {}
    wrong: list[str] = []
    used = {
        (queue, f"PJSIP/{event.extension}")
        for event in events
        if event.type in (EventType.LOGIN, EventType.QUEUE_JOIN)
        for queue in event.queues
    }
    for item in items:
        ((key, member),) = reported([item]).items()
        meant = stored.get(key)
        if item["Membership"] == "dynamic":
            found[key] = member
        elif meant is not None:
            found[key] = replace(member, name=meant.name, state_interface=meant.state_interface)
        elif key in used and not member.paused:
            wrong.append(f"{key} is static and rings, but nobody is there")
    return found, wrong


def difference(stored: Members, there: Members) -> list[str]:
    return [
        f"{queue} {interface}: stored {stored.get((queue, interface))}, "
        f"in Asterisk {there.get((queue, interface))}"
        for queue, interface in sorted(stored.keys() | there.keys())
        if stored.get((queue, interface)) != there.get((queue, interface))
    ]


def lamps_meant(states: Iterable[AgentState]) -> dict[str, str]:
    on = {True: "INUSE", False: "NOT_INUSE"}
    found = {}
    for state in states:
        found[f"Custom:agent-{state.number}"] = on[state.session is not None]
        found[f"Custom:pause-{state.number}"] = on[paused(state)]
    return found


def paused(state: AgentState) -> bool:
    return state.pause is not None


# -- the event log tells how each agent came to be as it is ---------------------------------------


@dataclass(slots=True)
class Told:
    """An agent as the events tell. ``pauses``: the reason in each queue the agent is in."""

    where: str = ""
    general: str | None = None  # the reason of a pause everywhere
    pauses: dict[str, str | None] = field(default_factory=dict)
    penalties: dict[str, int] = field(default_factory=dict)
    moving: bool = False
    adopted: bool = False  # logged in, or in a queue, by somebody who chose the penalty

    @property
    def paused_somewhere(self) -> bool:
        return any(reason is not None for reason in self.pauses.values())  # "" is a pause, too


def replay(agent: str, events: Iterable[Event]) -> tuple[Told, list[str]]:
    """What this agent's events, in order, come to; and what cannot have been."""
    told = Told()
    wrong: list[str] = []

    def must(true: bool, event: Event, what: str) -> None:
        if not true:
            wrong.append(f"history: {agent}: {what}: {brief(event)}")

    for event in events:
        if event.agent != agent or event.type in (EventType.LOGIN_REFUSED, EventType.REPAIR):
            continue
        queues = event.queues
        if event.type is EventType.LOGIN:
            must(told.where == "", event, "logged in twice")
            must(told.moving or not told.general, event, "paused while logged off")
            pauses = told.pauses if told.moving else {}
            told.where = event.extension
            told.adopted = event.source is Source.ASTERISK
            told.pauses = {queue: pauses.get(queue, told.general) for queue in queues}
            if not told.moving:
                told.penalties = {}
            told.moving = False
            continue
        # A log-off tells where it could only pause, after it has told that the agent is off.
        after_log_off = event.type is EventType.QUEUE_STATIC and not told.where
        must(
            told.where == event.extension or after_log_off,
            event,
            f"was at {told.where or 'no phone'}",
        )
        if event.type in (EventType.PAUSE, EventType.UNPAUSE) and in_general(event):
            told.general = event.reason if event.type is EventType.PAUSE else None
            continue
        match event.type:
            case EventType.LOGOUT:
                told.moving = event.reason == "moved"
                told.where = ""
                if not told.moving:
                    told.general, told.pauses, told.penalties = None, {}, {}
            case EventType.PAUSE:
                everywhere = set(queues) == set(told.pauses)
                if everywhere:
                    already = told.general == event.reason and not set(told.pauses.values()) - {
                        event.reason
                    }
                    must(not already, event, "was paused so")
                    told.general = event.reason
                must(set(queues) <= set(told.pauses), event, "paused where not a member")
                told.pauses |= dict.fromkeys(queues, event.reason)
            case EventType.UNPAUSE:
                was_paused = told.general is not None or told.paused_somewhere
                must(was_paused, event, "was not paused")
                told.pauses |= dict.fromkeys(set(queues) & set(told.pauses))
                if not told.paused_somewhere:
                    told.general = None
            case EventType.QUEUE_JOIN:
                must(not set(queues) & set(told.pauses), event, "was in it")
                told.pauses |= dict.fromkeys(queues, told.general)
                told.adopted |= event.source is Source.ASTERISK
            case EventType.QUEUE_LEAVE:
                must(set(queues) <= set(told.pauses), event, "was not in it")
                for queue in queues:
                    told.pauses.pop(queue, None)
                    told.penalties.pop(queue, None)
            case EventType.QUEUE_PENALTY:
                told.penalties |= dict.fromkeys(queues, int(event.reason))
            case EventType.PAUSE_EXCEEDED | EventType.QUEUE_STATIC:
                pass
            case EventType.QUEUE_MISSING:
                must(not set(queues) & set(told.pauses), event, "is in it")
            case _:
                wrong.append(f"history: {agent}: nothing should tell this: {brief(event)}")
        if event.source is Source.ASTERISK and len(set(told.pauses.values())) == 1:
            # The same in all queues: so it is with the agent.
            (told.general,) = set(told.pauses.values())
    return told, wrong


def in_general(event: Event) -> bool:
    """The agent was taken out of the only queue in which there was a pause, or none."""
    return event.source is Source.ASTERISK and not event.queues


def history(events: Sequence[Event], states: Iterable[AgentState]) -> list[str]:
    """Everybody was logged off before the first event."""
    wrong: list[str] = []
    for state in states:
        told, impossible = replay(state.number, events)
        wrong += impossible
        where = state.session.device.extension if state.session else ""
        if told.where != where:
            wrong.append(
                f"history: {state.number} is at {where or 'no phone'}, "
                f"the events say {told.where or 'none'}"
            )
        is_so = {m.queue: state.pause_in(m)[1] or None for m in state.joined}
        is_so |= {m.queue: "" for m in state.joined if state.pause_in(m) == (True, "")}
        if told.pauses != is_so:
            wrong.append(
                f"history: {state.number}: queues and pauses are {is_so}, "
                f"the events say {told.pauses}"
            )
        penalties = {m.queue: m.penalty_now for m in state.joined if m.own_penalty is not None}
        for queue, penalty in penalties.items():
            if told.penalties.get(queue) != penalty and not told.adopted:
                wrong.append(
                    f"history: {state.number} has penalty {penalty} in {queue}, "
                    f"the events say {told.penalties.get(queue)}"
                )
    return wrong


# -- every answer has its events, and every event its cause ----------------------------------------

LOGIN, LOGOUT, REFUSED = EventType.LOGIN, EventType.LOGOUT, EventType.LOGIN_REFUSED
EXACTLY: dict[str, list[list[EventType]]] = {
    Outcome.LOGGED_IN: [[LOGIN]],
    Outcome.MOVED: [[LOGOUT, LOGIN]],
    Outcome.LOGGED_OFF: [[LOGOUT]],
    Outcome.PAUSED: [[EventType.PAUSE]],
    Outcome.PAUSE_REASON_CHANGED: [[EventType.PAUSE]],
    Outcome.UNPAUSED: [[EventType.UNPAUSE]],
    Outcome.QUEUE_JOINED: [[EventType.QUEUE_JOIN], []],  # [] where it was so already
    Outcome.QUEUE_LEFT: [[EventType.QUEUE_LEAVE], []],
    Outcome.ALREADY_LOGGED_IN: [[]],
    Outcome.ALREADY_PAUSED: [[]],
    Outcome.NOT_PAUSED: [[]],
    Outcome.STATUS_TOLD: [[]],
}
# Nobody was told, or "try again": at most one of these.
PERHAPS = [
    [],
    [LOGIN],
    [LOGOUT, LOGIN],
    [LOGOUT],
    [EventType.PAUSE],
    [EventType.UNPAUSE],
    [EventType.QUEUE_JOIN],
    [EventType.QUEUE_LEAVE],
    [REFUSED],
]
MORE = (EventType.QUEUE_STATIC, EventType.QUEUE_MISSING)
OPEN = ("", Outcome.UNAVAILABLE.value)
RIPE = FRESH.total_seconds() + AGAIN


def brief(event: Event) -> str:
    actor = event.actor.unique_id or event.actor.name
    queues = ",".join(event.queues)
    return (
        f"{event.id} {event.type} {event.agent} at {event.extension} [{queues}] "
        f"{event.reason!r} by {event.source} {actor}"
    )


def cause(event: Event) -> str:
    return event.actor.unique_id if event.source is Source.PHONE else event.actor.name


def is_login(operation: Operation) -> bool:
    deed = operation.do
    if isinstance(deed, Ask):
        return deed.kind == "LogIn"
    return isinstance(deed, Dial) and deed.code.startswith(("*31", "*30"))


def _was_off_at_once(operation: Operation, events: Sequence[Event]) -> bool:
    """A pause through the fallback is written down once it is sure to be done. Who is logged off by
    the service before that is off, and a pause told after it would mislead whoever listens."""
    deed = operation.do
    return (
        isinstance(deed, Dial)
        and deed.real
        and operation.outcome in (Outcome.PAUSED, Outcome.UNPAUSED)
        and any(
            event.type is LOGOUT
            and event.extension == deed.phone
            and operation.began <= event.occurred_at.timestamp() <= operation.ended + RIPE
            for event in events
        )
    )


def answers(
    operations: Iterable[Operation],
    events: Sequence[Event],
    *,
    store_failed: bool = False,
    asterisk_died: bool = False,
) -> list[str]:
    """What people were told is what is written down, under their name.

    ``store_failed``: there was a time when nothing could be written; then a refusal may be missing.
    ``asterisk_died``: what the fallback did, and its note, may have died with it, or was about a
    login that was begun and taken back.
    """
    wrong: list[str] = []
    of: dict[str, list[Event]] = {}
    for event in events:
        if event.source in (Source.PHONE, Source.API):
            of.setdefault(cause(event), []).append(event)
    for operation in operations:
        if isinstance(operation.do, Console):
            continue
        its = of.pop(operation.id, [])
        wrong += [
            f"source: {operation.id} was done by {operation.source}: {brief(event)}"
            for event in its
            if event.source.value != operation.source
        ]
        if isinstance(operation.do, Ask) and operation.do.detail == "take over":
            its = [event for event in its if event.reason != "taken over"]
        # These two tell more of what others tell.
        types = [event.type for event in its if event.type not in MORE]
        allowed = EXACTLY.get(operation.outcome)
        if operation.outcome in OPEN:
            allowed = PERHAPS
        elif allowed is None:
            allowed = [[]]
            if is_login(operation):
                allowed = [[REFUSED]]
                # Who is asked "move?" has not been refused yet; and a toggle may be a log-off.
                elsewhere = operation.outcome == Outcome.LOGGED_IN_ELSEWHERE
                toggled = isinstance(operation.do, Dial) and operation.do.code.startswith("*30")
                if store_failed or toggled or (elsewhere and isinstance(operation.do, Ask)):
                    allowed = [[REFUSED], []]
        elif asterisk_died and isinstance(operation.do, Dial) and operation.do.real:
            allowed = [*allowed, []]
        elif types == [] and _was_off_at_once(operation, events):
            allowed = [[]]
        if types not in allowed:
            wrong.append(
                f"answer: {operation.id} {operation.do} was told {operation.outcome!r}, "
                f"the events say {[brief(event) for event in its]}"
            )
    for left in of.values():
        wrong += [f"source: nobody did this: {brief(event)}" for event in left]
    return wrong


# -- what somebody does at the console, while nothing else goes on ---------------------------------


def of_the_console(
    before: Members, there: Members, states: Iterable[AgentState]
) -> list[tuple[EventType, str, frozenset[str], str]] | None:
    """What must be told of a change in Asterisk: type, agent, queues, reason; None where it is not
    adopted but taken back. ``before`` and ``there``: its members before and right after."""
    sitting = {s.session.device.interface: s for s in states if s.session is not None}
    known = {s.number: s for s in states}
    told: dict[tuple[EventType, str, str], set[str]] = {}

    def tell(type: EventType, agent: str, queue: str, reason: str = "") -> None:
        told.setdefault((type, agent, reason), set()).add(queue)

    for queue, interface in sorted(before.keys() | there.keys()):
        was, now = before.get((queue, interface)), there.get((queue, interface))
        if was == now:
            continue
        agent = sitting.get(interface)
        if now is not None and was is None:
            named = known.get(now.name.removeprefix("Agent/"))
            if named is None and agent is None:
                continue  # nobody of ours
            if agent is None:
                assert named is not None
                if named.session is not None:
                    return None
                tell(EventType.LOGIN, named.number, queue)
                continue
            if named is not None and named.number != agent.number:
                return None
            tell(EventType.QUEUE_JOIN, agent.number, queue)
            if agent.pause is not None:
                tell(EventType.UNPAUSE, agent.number, queue, agent.pause.reason.name)
        elif agent is None:
            continue
        elif now is None:
            left = {m.queue for m in agent.joined} - {queue}
            type = EventType.QUEUE_LEAVE if left else EventType.LOGOUT
            tell(type, agent.number, queue, "" if left else "removed")
        else:
            assert was is not None
            if now.paused and (was.paused, was.reason) != (True, now.reason):
                tell(EventType.PAUSE, agent.number, queue, now.reason)
            elif was.paused and not now.paused:
                tell(EventType.UNPAUSE, agent.number, queue, was.reason)
            if was.penalty != now.penalty:
                tell(EventType.QUEUE_PENALTY, agent.number, queue, str(now.penalty))
    return [(type, agent, frozenset(q), reason) for (type, agent, reason), q in told.items()]


def as_told(
    events: Iterable[Event],
) -> list[tuple[EventType, str, frozenset[str], str]]:
    return [(e.type, e.agent, frozenset(e.queues), e.reason) for e in events]


def doubles(events: Sequence[Event]) -> list[str]:
    """No fact twice."""
    wrong: list[str] = []
    seen: set[tuple[object, ...]] = set()
    for event in events:
        command = event.id.rpartition("-")[0] or event.id
        fact = (command, event.type, event.agent, event.queues, event.reason)
        if fact in seen:
            wrong.append(f"double: {brief(event)}")
        seen.add(fact)
    return wrong


def delivered(
    events: Sequence[Event], told: Sequence[tuple[str, str]], *, faults: bool, lost: bool
) -> list[str]:
    """Every event was told to who listens, each agent's in order; and once, unless there were
    ``faults``. ``told``: id and agent. ``lost``: nobody listened for a while."""
    wrong = []
    heard = Counter(id for id, _ in told)
    for event in events:
        if heard[event.id] == 0 and not lost:
            wrong.append(f"divergence: never told to others: {brief(event)}")
        if heard[event.id] > 1 and not faults:
            wrong.append(f"double: told {heard[event.id]} times: {brief(event)}")
    known = {event.id for event in events}
    wrong += [f"divergence: told, and not so: {id}" for id in heard if id not in known]
    for agent in {event.agent for event in events}:
        order = [event.id for event in events if event.agent == agent and heard[event.id]]
        first = list(dict.fromkeys(id for id, whose in told if whose == agent and id in known))
        if first != order:
            wrong.append(f"divergence: told out of order: {agent}: {first}, happened {order}")
    return wrong


def others(
    events: Sequence[Event], touched: Callable[[Event], bool], *, disturbed: bool
) -> list[str]:
    """Source asterisk only where somebody was at the console; system only where there was something
    to repair (``disturbed``)."""
    wrong = []
    for event in events:
        if event.source is Source.ASTERISK and not touched(event):
            wrong.append(f"source: nobody was at the console for this: {brief(event)}")
        if event.source is Source.SYSTEM and not disturbed:
            wrong.append(f"source: there was nothing to repair: {brief(event)}")
    return wrong
