"""A store and an Asterisk in memory, for the hall's tests, and ways to break both.

Every call of either passes ``Faults.at`` before and after it takes effect. There a test can kill
the process, cancel the caller, lose the link, fail the store or just look.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby

import structlog

from fastagi.agents import errors
from fastagi.agents.clock import ClockStep
from fastagi.agents.commands import (
    Actor,
    ChangePenalty,
    Command,
    JoinQueue,
    LeaveQueue,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
    Unpause,
    recorded,
    to_dict,
)
from fastagi.agents.deciding import Again, Rule
from fastagi.agents.devices import Device, DeviceRule, Pattern
from fastagi.agents.events import Event
from fastagi.agents.limits import OpenPause, PauseLimit, QueuePause
from fastagi.agents.lockout import Keys, Lockout, Verdict
from fastagi.agents.model import AgentState, Assign, Change, Membership
from fastagi.agents.notes import Note
from fastagi.agents.operations import (
    AddMember,
    Answer,
    MemberNews,
    Operation,
    PauseMember,
    QueuesUnavailable,
    RemoveMember,
    ReportedMember,
    Result,
    SetPenalty,
)
from fastagi.agents.reconciler import Reconciler
from fastagi.agents.records import Intent, Policy, Stored
from fastagi.agents.service import AgentService, StoreUnavailable
from fastagi.agents.storage import Lock
from fastagi.contract import EventType, Source

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
QUEUES = {"sales": "701", "support": "702", "billing": "703"}
LUNCH, BREAK = PauseReason("1", "lunch"), PauseReason("2", "break")
LOCKOUT = Lockout(3, timedelta(minutes=15), timedelta(minutes=15))


class Killed(BaseException):
    """kill -9: nothing after this runs."""


def device(extension: str, asterisk: str = "") -> Device:
    interface = f"PJSIP/{extension}"
    return Device(extension, "phones", interface, interface, "local", asterisk)


def an_agent(number: str, *queues: str, pin: str | None = None, language: str = "en") -> AgentState:
    return AgentState(
        id=int(number),
        number=number,
        name=f"Agent {number}",
        language=language,
        pin_hash=None if pin is None else f"hash of {pin}",
        memberships=tuple(
            Membership(name, QUEUES.get(name, ""), penalty)
            for penalty, name in enumerate(queues or QUEUES)
        ),
    )


class Faults:
    """What happens at which point. ``trace`` is where execution has been."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.at_point: Callable[[int, str], None] | None = None
        self.hold: dict[str, asyncio.Event] = {}  # waits there until the event is set
        self.seen: dict[str, asyncio.Event] = {}  # is set when somebody waits there

    async def at(self, point: str) -> None:
        self.trace.append(point)
        if self.at_point is not None:
            self.at_point(len(self.trace) - 1, point)
        if point in self.hold:
            gate = self.hold[point]
            self.seen[point].set()
            await gate.wait()
        await asyncio.sleep(0)

    def stop_at(self, point: str) -> asyncio.Event:
        """Whoever comes to ``point`` waits there; returns what is set when somebody does.
        ``go_on`` lets them, and all later ones, through."""
        self.hold[point] = asyncio.Event()
        self.seen[point] = asyncio.Event()
        return self.seen[point]

    def go_on(self, point: str) -> None:
        self.hold.pop(point).set()


class MemoryStore:
    """``fastagi.agents.ports.Store`` as dictionaries; each call is one transaction."""

    def __init__(self, *agents: AgentState, faults: Faults) -> None:
        self.agents = {agent.number: agent for agent in agents}
        self.own_queues = {a.number: {m.queue for m in a.memberships} for a in agents}
        self.intents: dict[str, tuple[dict[str, object], datetime]] = {}
        self.devices: dict[str, str] = {}  # interface in small letters -> agent
        self.events: dict[str, Event] = {}
        self.remembered: dict[str, str] = {}
        self.failed_at: dict[str, list[float]] = {}  # PINs, by key
        self.usual: dict[str, float] = {}  # until when, by key
        self.outside: dict[str, tuple[str, ...]] = {}  # patterns, by agent
        self.known_queues = dict(QUEUES)
        self.known_reasons = (LUNCH, BREAK)
        self.known_limits: dict[str, PauseLimit] = {}
        self.known_queue_pauses: dict[tuple[str, str], QueuePause] = {}
        self.own_shift_ends: dict[str, str] = {}  # by agent
        self.ended_pauses: list[tuple[str, str, datetime, datetime]] = []
        self.others_are_at: set[str] = set()  # what another service is at
        self.down: set[str] = set()  # names of calls that fail; "*" is all
        self.late: set[str] = set()  # names of calls that are said to fail, yet were written
        self.faults = faults

    async def _transaction(self, name: str) -> None:
        await self.faults.at(f"before store.{name}")
        if name in self.down or "*" in self.down:
            raise StoreUnavailable(f"{name}: the disk is full")

    async def _written(self, name: str) -> None:
        await self.faults.at(f"after store.{name}")
        if name in self.late:
            raise StoreUnavailable(f"{name}: no answer in time")

    # -- reading

    async def agent(self, number: str) -> AgentState | None:
        await self._transaction("agent")
        return self.agents.get(number)

    async def agent_at(self, key: str) -> AgentState | None:
        return (await self.agents_at([key])).get(key)

    async def agents_at(self, keys: Sequence[str]) -> dict[str, AgentState]:
        await self._transaction("agent_at")
        sitting = {a.session.device.key: a for a in self.agents.values() if a.session}
        return {key: sitting[key] for key in keys if key in sitting}

    async def agents_with_extension(self, extension: str, asterisk: str) -> list[AgentState]:
        await self._transaction("agents_with_extension")
        wanted = (extension, asterisk)
        return [
            agent
            for agent in self.agents.values()
            if agent.session
            and (agent.session.device.extension, agent.session.device.asterisk) == wanted
        ]

    async def states(self, numbers: Sequence[str]) -> dict[str, AgentState]:
        await self._transaction("states")
        return {number: self.agents[number] for number in numbers if number in self.agents}

    async def queue_names(self) -> dict[str, tuple[str, str]]:
        await self._transaction("queue_names")
        return {name.lower(): (name, number) for name, number in self.known_queues.items()}

    async def queue_numbered(self, number: str) -> str | None:
        await self._transaction("queue_numbered")
        return next((name for name, n in self.known_queues.items() if n == number), None)

    async def reasons(self) -> tuple[PauseReason, ...]:
        await self._transaction("reasons")
        return self.known_reasons

    async def logged_in(self) -> list[AgentState]:
        await self._transaction("logged_in")
        found = [agent for agent in self.agents.values() if agent.session]
        await self._written("logged_in")
        return found

    async def lately(self, events: int) -> list[AgentState]:
        await self._transaction("lately")
        latest = {event.agent for event in list(self.events.values())[-events:]}
        return [agent for number, agent in self.agents.items() if number in latest]

    async def planned(self) -> list[LogOff | Pause]:
        await self._transaction("planned")
        found = [agent.planned for agent in self.agents.values() if agent.planned]
        await self._written("planned")
        return found

    # -- changing

    async def begin(
        self,
        number: str,
        rule: Rule,
        device: Device | None = None,
        *,
        event: str = "",
        held: bool = False,
    ) -> Change:
        await self._transaction("begin")
        state = self.agents.get(number)
        if state is None:
            raise errors.NoSuchAgent(number)
        owner = self.devices.get(device.key) if device else None
        change = rule(
            Stored(
                state,
                False,
                self._intent(number),
                None if owner == number else owner,
                event in self.events,
            )
        )
        if number in self.intents:
            return change
        if change.claims is not None:
            self.devices[change.claims.key] = number
        if change.steps:
            self.intents[number] = (to_dict(change.command, change.facts), change.at)
        elif change.alters:
            self._write(change)
        await self._written("begin")
        return change

    def _intent(self, number: str) -> Intent | None:
        if number not in self.intents:
            return None
        data, when = self.intents[number]
        return Intent(str(data["id"]), when, True, recorded(data))

    async def confirm(self, change: Change) -> None:
        await self._transaction("confirm")
        if change.steps and self._drop(change):
            self._write(change)
        elif change.steps and change.events and change.events[0].id not in self.events:
            raise StoreUnavailable("taken back meanwhile")
        await self._written("confirm")

    async def withdraw(self, change: Change, event: Event | None) -> None:
        await self._transaction("withdraw")
        if self._drop(change):
            if change.claims is not None:
                self.devices.pop(change.claims.key, None)
            if event is not None:
                self.events.setdefault(event.id, event)
        await self._written("withdraw")

    async def record(self, event: Event) -> None:
        await self._transaction("record")
        self.events.setdefault(event.id, event)
        await self._written("record")

    async def unsettled(self, rule: Again) -> list[Change]:
        await self._transaction("unsettled")
        changes: list[Change] = []
        for number, _ in sorted(self.intents.items(), key=lambda item: item[1][1]):
            change = rule(Stored(self.agents[number], False, self._intent(number)))
            assert isinstance(change, Change), change
            changes.append(change)
        return changes

    def _drop(self, change: Change) -> bool:
        intent = self.intents.get(change.before.number)
        if intent is None or intent[0]["id"] != change.command.id:
            return False
        del self.intents[change.before.number]
        return True

    def _write(self, change: Change) -> None:
        before, after = change.before, change.after
        assert self.agents[before.number] == before, "written over somebody else's change"
        own = self.own_queues.setdefault(before.number, {m.queue for m in before.memberships})
        assigns = change.assigns
        if assigns is not None and assigns.how is Assign.GIVE:
            own.add(assigns.queue)
        elif assigns is not None and assigns.how is Assign.TAKE:
            own.discard(assigns.queue)
        self.agents[before.number] = replace(
            after,
            # One that is none of the agent's is forgotten with the leaving of it.
            memberships=tuple(m for m in after.memberships if m.joined or m.queue in own),
        )
        left, now = before.session, after.session
        if left and (now is None or now.device != left.device):
            self.devices.pop(left.device.key, None)
        if now:
            self.devices[now.device.key] = before.number
        if before.pause and before.pause != after.pause:
            end = change.events[0].occurred_at
            reason = before.pause.reason.code
            self.ended_pauses.append((before.number, reason, before.pause.since, end))
        for event in change.events:
            assert event.id not in self.events, "an event was written twice"
            self.events[event.id] = event

    @asynccontextmanager
    async def hold(self, numbers: Sequence[str]) -> AsyncIterator[dict[str, AgentState]]:
        await self._transaction("hold")
        yield {
            number: self.agents[number]
            for number in numbers
            if number in self.agents and number not in self.intents
        }

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[Lock | None]:
        await self._transaction("exclusive")
        yield None if name in self.others_are_at else Lock()

    # -- limits

    async def limits(self) -> dict[str, PauseLimit]:
        await self._transaction("limits")
        return self.known_limits

    async def queue_pauses(self) -> dict[tuple[str, str], QueuePause]:
        if self.known_queue_pauses:
            await self._transaction("queue_pauses")
        return self.known_queue_pauses

    async def open_pauses(self) -> list[OpenPause]:
        await self._transaction("open_pauses")
        return [
            OpenPause(agent.number, agent.pause.id, agent.pause.reason, agent.pause.since)
            for agent in self.agents.values()
            if agent.pause
        ]

    async def paused_since(self, agent: str, code: str, since: datetime) -> timedelta:
        await self._transaction("paused_since")
        return sum(
            (
                end - max(begin, since)
                for number, reason, begin, end in self.ended_pauses
                if (number, reason) == (agent, code) and end > since
            ),
            timedelta(),
        )

    async def shift_ends(self) -> list[str]:
        await self._transaction("shift_ends")
        return sorted({end for end in self.own_shift_ends.values() if end != "never"})

    async def overdue(self, cutoffs: Mapping[str, datetime]) -> list[str]:
        await self._transaction("overdue")
        return [
            agent.number
            for agent in self.agents.values()
            if agent.session
            and (cutoff := cutoffs.get(self.own_shift_ends.get(agent.number, "")))
            and agent.session.since < cutoff
        ]

    # -- PINs and notes

    async def clock_was_set(self, before: datetime, by: timedelta, begun: Collection[str]) -> None:
        await self._transaction("clock_was_set")
        for number, agent in self.agents.items():
            for name in ("session", "pause"):
                part = getattr(agent, name)
                if part is not None and part.since <= before:
                    part = replace(part, since=part.since + by)
                    self.agents[number] = agent = replace(agent, **{name: part})

    async def pin_attempt(
        self,
        keys: Keys,
        now: float,
        memory: float,
        rule: Callable[[Mapping[str, Sequence[float]], bool], Verdict],
    ) -> Verdict:
        await self._transaction("pin_attempt")
        kept = {
            key: [at for at in self.failed_at.get(key, ()) if now - at < memory]
            for key in keys.counted
        }
        verdict = rule(kept, self.usual.get(keys.own, 0.0) > now)
        if not verdict.locked:
            for key in keys.counted:
                self.failed_at.setdefault(key, []).append(verdict.at)
        return verdict

    async def pin_passed(self, keys: Keys, at: float, usual_until: float) -> None:
        await self._transaction("pin_passed")
        for key in keys.counted:
            self.failed_at[key].remove(at)
        if keys.own:
            del self.failed_at[keys.own]
            self.usual[keys.own] = usual_until

    async def outside_numbers(self, number: str) -> tuple[str, ...]:
        await self._transaction("outside_numbers")
        return self.outside.get(number, ())

    async def note(self, key: str) -> str | None:
        await self._transaction("note")
        return self.remembered.get(key)

    async def set_note(self, key: str, value: str) -> None:
        await self._transaction("set_note")
        self.remembered[key] = value
        await self._written("set_note")

    async def notes(self, prefix: str) -> dict[str, str]:
        await self._transaction("notes")
        return {k: v for k, v in self.remembered.items() if k.startswith(prefix)}

    async def drop_note(self, key: str) -> None:
        await self._transaction("drop_note")
        self.remembered.pop(key, None)


@dataclass
class Member:
    """A queue member as Asterisk keeps it."""

    name: str
    interface: str
    state_interface: str
    penalty: int
    paused: bool
    reason: str
    dynamic: bool = True


def apply(queues: dict[str, dict[str, Member]], operation: Operation) -> tuple[Answer, str]:
    """What Asterisk does and answers (app_queue.c, seen on the wire)."""
    key = operation.interface.lower()
    if isinstance(operation, PauseMember):
        hit = [
            members[key]
            for name, members in queues.items()
            if key in members and operation.queue in ("", name)
        ]
        for member in hit:
            member.paused = operation.paused
            member.reason = operation.reason if operation.paused else ""
        if hit:
            return Answer.DONE, "Interface paused successfully"
        return Answer.ALREADY_SO, "Interface not found"
    members = queues.get(operation.queue)
    if members is None:
        if isinstance(operation, AddMember):
            return Answer.NO_SUCH_QUEUE, "Unable to add interface to queue: No such queue"
        if isinstance(operation, RemoveMember):
            return Answer.ALREADY_SO, "Unable to remove interface from queue: No such queue"
        return Answer.ALREADY_SO, "Invalid interface, queuename or penalty"
    if isinstance(operation, AddMember):
        if key in members:
            return Answer.ALREADY_SO, "Unable to add interface: Already there"
        members[key] = Member(
            operation.member_name,
            operation.interface,
            operation.state_interface,
            operation.penalty,
            operation.paused,
            operation.reason if operation.paused else "",
        )
        return Answer.DONE, "Added interface to queue"
    if isinstance(operation, RemoveMember):
        if key not in members:
            return Answer.ALREADY_SO, "Unable to remove interface: Not there"
        if not members[key].dynamic:
            return Answer.NOT_DYNAMIC, "Member not dynamic"
        del members[key]
        return Answer.DONE, "Removed interface from queue"
    assert isinstance(operation, SetPenalty)
    if key not in members:
        return Answer.ALREADY_SO, "Invalid interface, queuename or penalty"
    members[key].penalty = operation.penalty
    return Answer.DONE, "Interface penalty set successfully"


@dataclass
class MemoryAsterisk:
    """``fastagi.agents.service.Queues``: a small Asterisk behind a link that can be cut."""

    faults: Faults
    queues: dict[str, dict[str, Member]] = field(
        default_factory=lambda: {name: {} for name in QUEUES}
    )
    linked: bool = True
    started: str = "2026-11-22 08:00:00"
    calls: set[str] = field(default_factory=set)  # interfaces in a queue call
    refuses: Callable[[Operation], bool] = lambda _: False
    answers_left: int | None = None  # then the link is lost
    executes_unanswered: bool = True  # the operation whose answer is lost
    done: list[Operation] = field(default_factory=list)  # what had an effect, in order
    left: list[Note] = field(default_factory=list)  # by the fallback
    on_news: Callable[[list[MemberNews]], None] = lambda _: None
    unreachable: set[str] = field(default_factory=set)  # interfaces
    last_call: dict[str, float] = field(default_factory=dict)  # by interface
    name: str = ""
    wait_for_news: bool = False  # those of now come later, by ``tell_waiting``
    waiting: list[MemberNews] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def connected(self, asterisk: str) -> bool:
        return self.linked

    def _linked(self) -> None:
        if not self.linked:
            raise QueuesUnavailable("the link is down")

    def console(self, operation: Operation) -> None:
        """Somebody else does it."""
        self._remember_name(operation)
        answer, message = apply(self.queues, operation)
        assert answer is Answer.DONE, message
        self._tell(operation)

    def _tell(self, operation: Operation) -> None:
        """The events of an operation, if anybody listens."""
        if not self.linked:
            return
        key = operation.interface.lower()
        queue = getattr(operation, "queue", "")
        if isinstance(operation, RemoveMember):
            gone = Member("", operation.interface, "", 0, False, "")
            news = [MemberNews(self._reported(queue, replace(gone, name=self.last_name)), False)]
        else:
            news = [
                MemberNews(self._reported(name, members[key]), True)
                for name, members in self.queues.items()
                if key in members and queue in ("", name)
            ]
        if self.wait_for_news:
            self.waiting += news
        else:
            self.on_news(news)

    def tell_waiting(self) -> None:
        news, self.waiting = self.waiting, []
        self.on_news(news)

    last_name: str = ""  # of the member an operation is about

    def _remember_name(self, operation: Operation) -> None:
        if isinstance(operation, RemoveMember):
            member = self.queues.get(operation.queue, {}).get(operation.interface.lower())
            self.last_name = member.name if member else ""

    def _reported(self, queue: str, m: Member) -> ReportedMember:
        key = m.interface.lower()
        return ReportedMember(
            queue,
            m.interface,
            m.state_interface,
            m.name,
            m.penalty,
            m.paused,
            m.reason,
            key in self.calls,
            m.dynamic,
            key in self.unreachable,
            self.last_call.get(key, 0.0),
            self.name,
        )

    async def apply(self, operations: Sequence[Operation]) -> list[Result]:
        await self.faults.at("before queues.apply")
        self._linked()
        results: list[Result] = []
        for operation in operations:
            if not self.linked:
                results.append(Result(operation, Answer.UNKNOWN, "connection lost"))
                continue
            if self.answers_left == 0:
                self.linked, self.answers_left = False, None
                if self.executes_unanswered:
                    self._do(operation)
                results.append(Result(operation, Answer.UNKNOWN, "connection lost"))
                continue
            if self.answers_left is not None:
                self.answers_left -= 1
            results.append(self._do(operation))
            await self.faults.at("within queues.apply")
        await self.faults.at("after queues.apply")
        return results

    def _do(self, operation: Operation) -> Result:
        if self.refuses(operation):
            return Result(operation, Answer.REFUSED, "Permission denied")
        self._remember_name(operation)
        answer, message = apply(self.queues, operation)
        if answer is Answer.DONE:
            self.done.append(operation)
            self._tell(operation)
        return Result(operation, answer, message)

    async def members(
        self,
        asterisk: str,
        queue: str | None = None,
        interface: str | None = None,
        queues: Collection[str] | None = None,
    ) -> list[ReportedMember]:
        await self.faults.at("before queues.members")
        self._linked()
        found = [
            self._reported(name, m)
            for name, members in self.queues.items()
            for key, m in members.items()
            if queue in (None, name)
            and (queues is None or name in queues)
            and (interface is None or interface.lower() == key)
        ]
        await self.faults.at("after queues.members")
        return found

    async def lacking(self, asterisk: str, queues: Sequence[str]) -> set[str]:
        await self.faults.at("before queues.lacking")
        self._linked()
        return {queue.lower() for queue in queues} - {name.lower() for name in self.queues}

    async def notes(self, asterisk: str) -> list[Note]:
        await self.faults.at("before queues.notes")
        self._linked()
        return list(self.left)

    async def forget(self, asterisk: str, notes: Sequence[Note]) -> None:
        await self.faults.at("before queues.forget")
        self._linked()
        self.left = [note for note in self.left if note not in notes]

    async def started_at(self, asterisk: str) -> str:
        await self.faults.at("before queues.started_at")
        self._linked()
        return self.started

    def restart(self, started: str) -> None:
        """Asterisk is killed and comes back without dynamic members."""
        self.started = started
        self.linked = True
        self.answers_left = None
        self.waiting.clear()
        for members in self.queues.values():
            for key in [key for key, member in members.items() if member.dynamic]:
                del members[key]


class MemoryAsterisks:
    """Several of them, each question to the right one (see ``fastagi.ami.asterisks``)."""

    def __init__(self, asterisks: Mapping[str, MemoryAsterisk]) -> None:
        self.of = asterisks
        self.names = tuple(asterisks)

    def connected(self, asterisk: str) -> bool:
        return self.of[asterisk].linked

    async def apply(self, operations: Sequence[Operation]) -> list[Result]:
        groups: dict[str, list[int]] = {}
        for place, operation in enumerate(operations):
            groups.setdefault(operation.asterisk, []).append(place)
        for name in groups:
            self.of[name]._linked()
        results: dict[int, Result] = {}
        for name, places in groups.items():
            asked = [operations[place] for place in places]
            try:
                answers = await self.of[name].apply(asked)
            except QueuesUnavailable as error:
                if not results:
                    raise
                answers = [Result(operation, Answer.REFUSED, str(error)) for operation in asked]
            results.update(zip(places, answers, strict=True))
        return [results[place] for place in range(len(operations))]

    async def members(
        self,
        asterisk: str,
        queue: str | None = None,
        interface: str | None = None,
        queues: Collection[str] | None = None,
    ) -> list[ReportedMember]:
        return await self.of[asterisk].members(asterisk, queue, interface, queues)

    async def lacking(self, asterisk: str, queues: Sequence[str]) -> set[str]:
        return await self.of[asterisk].lacking(asterisk, queues)

    async def started_at(self, asterisk: str) -> str:
        return await self.of[asterisk].started_at(asterisk)

    async def notes(self, asterisk: str) -> list[Note]:
        return await self.of[asterisk].notes(asterisk)

    async def forget(self, asterisk: str, notes: Sequence[Note]) -> None:
        await self.of[asterisk].forget(asterisk, notes)


class MemoryPins:
    """``hash of 1234`` is the hash of 1234."""

    async def verify(self, pin_hash: str, pin: str) -> bool:
        await asyncio.sleep(0)
        return pin_hash == f"hash of {pin}"


class Clock:
    def __init__(self) -> None:
        self.now = NOON
        self.steps: list[ClockStep] = []

    def set(self, by: timedelta) -> None:
        """As somebody sets the machine's clock; it is noticed at once."""
        self.steps.append(ClockStep(self.now, by))
        self.now += by

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **units: float) -> None:
        self.now += timedelta(**units)


class _History:
    """An agent, as the events tell. Pauses by their reasons; None: not paused."""

    def __init__(self) -> None:
        self.where = ""
        self.pause: str | None = None
        self.queues: dict[str, str | None] = {}
        self.seen: set[str] = set()

    def take(self, id: str, events: list[Event]) -> None:
        """All events of one command."""
        moved: dict[str, str | None] = {}
        for event in events:
            self.seen.add(id)
            queues = event.queues
            match event.type:
                case EventType.LOGIN:
                    assert self.where == "", "logged in twice"
                    self.where = event.extension
                    self.queues = {queue: moved.get(queue, self.pause) for queue in queues}
                case EventType.LOGOUT:
                    assert self.where == event.extension, "logged off where the agent was not"
                    assert set(queues) == set(self.queues)
                    moved, self.queues, self.where = self.queues, {}, ""
                    self.pause = self.pause if event.reason == "moved" else None
                case EventType.PAUSE:
                    now = {self.pause, *(self.queues[queue] for queue in queues)}
                    assert now != {event.reason}, "paused twice"
                    self.queues.update(dict.fromkeys(queues, event.reason))
                case EventType.UNPAUSE:
                    assert all(self.queues[queue] is not None for queue in queues)
                    self.queues.update(dict.fromkeys(queues))
                case EventType.QUEUE_JOIN:
                    assert not self.queues.keys() & set(queues)
                    self.queues.update(dict.fromkeys(queues, self.pause))
                case EventType.QUEUE_LEAVE:
                    for queue in queues:
                        del self.queues[queue]
        last = events[-1] if events else None
        if last and last.type in (EventType.PAUSE, EventType.UNPAUSE) and not self.queues:
            self.pause = last.reason if last.type is EventType.PAUSE else None
        elif last and (
            last.type in (EventType.PAUSE, EventType.UNPAUSE) or last.source is Source.ASTERISK
        ):
            now = set(self.queues.values())  # the same everywhere: so it is with the agent
            if len(now) == 1:
                (self.pause,) = now


class Hall:
    """A service on a store and an Asterisk in memory, or several; ``asterisk`` is the first."""

    def __init__(self, *agents: AgentState, asterisks: Sequence[str] = ("",)) -> None:
        self.faults = Faults()
        self.store = MemoryStore(*(agents or (an_agent("1001"),)), faults=self.faults)
        self.asterisks = {name: MemoryAsterisk(self.faults, name=name) for name in asterisks}
        self.asterisk = next(iter(self.asterisks.values()))
        self.clock = Clock()
        self.stepped = timedelta()  # how far the machine's clock was set on, or back
        self.slept: list[float] = []  # seconds that callers were made to wait
        self.every: timedelta | None = None
        self.counted: Counter[tuple[str, str]] = Counter()
        self.lamps_set: list[tuple[str, list[str]]] = []
        self._ids = 0
        self.start()

    def start(self) -> None:
        """A new process: what the old one held in memory is gone."""
        self.service = AgentService(
            self.store,
            MemoryAsterisks(self.asterisks) if len(self.asterisks) > 1 else self.asterisk,
            MemoryPins(),
            Policy(LOCKOUT),
            structlog.get_logger(),
            clock=self.clock,
            steady=lambda: self.clock.now.timestamp() - self.stepped.total_seconds(),
            sleep=self.sleep,
            new_id=self.new_id,
        )
        self.reconciler = Reconciler(
            self.service,
            structlog.get_logger(),
            rules=lambda: (DeviceRule(Pattern.parse("XXXX"), "phones", "PJSIP/{extension}"),),
            every=lambda: self.every,
            restored=self._set_lamps,
            counted=self._count,
        )
        for asterisk in self.asterisks.values():
            asterisk.on_news = self.reconciler.noticed
            asterisk.waiting.clear()  # they were for the old one
        self.reconnected()

    async def _set_lamps(self, asterisk: str, agents: list[AgentState]) -> None:
        self.lamps_set.append((asterisk, [agent.number for agent in agents]))

    def _count(self, asterisk: str, kind: str, count: int) -> None:
        self.counted[asterisk, kind] += count

    def reconnected(self) -> None:
        for name, asterisk in self.asterisks.items():
            if asterisk.linked:
                self.reconciler.reconnected(name)

    def step(self, by: timedelta) -> None:
        """Somebody sets the machine's clock."""
        self.clock.now += by
        self.stepped += by

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.pass_(seconds=seconds)

    async def settle(self) -> None:
        """What is open is looked after, once."""
        await self.reconciler.catch_up()

    def new_id(self) -> str:
        self._ids += 1
        return f"c{self._ids}"

    @property
    def state(self) -> AgentState:
        return self.store.agents["1001"]

    @property
    def events(self) -> list[Event]:
        return list(self.store.events.values())

    @property
    def told(self) -> list[tuple[EventType, str]]:
        """Type and reason of each event, in order."""
        return [(event.type, event.reason) for event in self.events]

    def all_well(self) -> None:
        """Nothing is open, and the Asterisks' queues are what the store means."""
        assert self.store.intents == {}
        meant: dict[str, dict[str, dict[str, Member]]] = {
            name: {queue: {} for queue in asterisk.queues}
            for name, asterisk in self.asterisks.items()
        }
        devices: dict[str, str] = {}
        for agent in self.store.agents.values():
            if agent.session is None:
                assert agent.pause is None
                assert agent.planned is None
                assert agent.joined == ()
                continue
            at = agent.session.device
            devices[at.key] = agent.number
            for membership in agent.joined:
                meant[at.asterisk][membership.queue][at.interface.lower()] = Member(
                    f"Agent/{agent.number}",
                    at.interface,
                    at.state_interface,
                    membership.penalty_now,
                    *agent.pause_in(membership),
                )
        assert {name: asterisk.queues for name, asterisk in self.asterisks.items()} == meant
        assert self.store.devices == devices
        self.history_is_true()

    def history_is_true(self) -> None:
        """The events, read in order, tell how each agent came to be as it is."""
        for agent in self.store.agents.values():
            known = _History()
            for id, events in groupby(self.events, key=lambda event: event.id.rpartition("-")[0]):
                own = [event for event in events if event.agent == agent.number]
                assert not own or id not in known.seen, "told twice"
                known.take(id, own)
            assert known.where == (agent.session.device.extension if agent.session else "")
            assert known.pause == (agent.pause.reason.name if agent.pause else None)
            assert known.queues == {
                m.queue: reason if paused else None
                for m in agent.joined
                for paused, reason in [agent.pause_in(m)]
            }

    # -- commands, in short

    def _values(self, agent: str) -> dict[str, object]:
        return {
            "id": self.new_id(),
            "agent": agent,
            "source": Source.PHONE,
            "actor": Actor(channel="PJSIP/1001-00000001", caller_id="1001", unique_id="1.1"),
        }

    def log_in(
        self, at: str = "1001", agent: str = "1001", move: bool = False, asterisk: str = ""
    ) -> LogIn:
        where = device(at, asterisk)
        return LogIn(**self._values(agent), device=where, move=move)  # type: ignore[arg-type]

    def log_off(self, agent: str = "1001", **more: object) -> LogOff:
        return LogOff(**self._values(agent), **more)  # type: ignore[arg-type]

    def pause(self, reason: PauseReason = LUNCH, agent: str = "1001", **more: object) -> Pause:
        return Pause(**self._values(agent), reason=reason, **more)  # type: ignore[arg-type]

    def unpause(self, agent: str = "1001") -> Unpause:
        return Unpause(**self._values(agent))  # type: ignore[arg-type]

    def join(self, queue: str, agent: str = "1001") -> JoinQueue:
        return JoinQueue(**self._values(agent), queue=queue)  # type: ignore[arg-type]

    def leave(self, queue: str, agent: str = "1001", confirmed: bool = True) -> LeaveQueue:
        return LeaveQueue(**self._values(agent), queue=queue, confirmed=confirmed)  # type: ignore[arg-type]

    def penalty(self, queue: str, penalty: int, agent: str = "1001") -> ChangePenalty:
        return ChangePenalty(**self._values(agent), queue=queue, penalty=penalty)  # type: ignore[arg-type]

    async def do(self, *commands: Command) -> None:
        for command in commands:
            await self.service.execute(command)

    def in_state(self, state: AgentState) -> AgentState:
        """``state`` as if nothing had been given an identity: for comparing."""
        session = state.session and replace(state.session, id="", since=NOON)
        pause = state.pause and replace(state.pause, id="", since=NOON)
        return replace(state, session=session, pause=pause)
