"""AgentService: every door goes through here.

A change is recorded as an intent, applied to Asterisk's queues, then confirmed together with its
events, so that nothing is ever assumed applied.
"""

import asyncio
import json
import random
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Protocol
from weakref import WeakValueDictionary

from fastagi.agents import errors
from fastagi.agents.clock import Clock, ClockStep, clock_words, steady_clock
from fastagi.agents.commands import (
    Actor,
    Command,
    JoinQueue,
    LeaveQueue,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
    Relog,
    Unpause,
    WhenInCall,
)
from fastagi.agents.devices import Device, Pattern, device_key
from fastagi.agents.errors import StoreUnavailable as StoreUnavailable
from fastagi.agents.events import Event
from fastagi.agents.fence import AWAY, Fence
from fastagi.agents.limits import (
    OpenPause,
    PauseLimit,
    QueuePauses,
    WhenExceeded,
    locked,
    start_of_day,
)
from fastagi.agents.lockout import USUAL_FOR, Keys, Lockout, Place, Verdict, judge
from fastagi.agents.log import Log
from fastagi.agents.model import (
    AgentState,
    Change,
    Membership,
    Step,
    as_taken,
    in_each_queue,
    missing_event,
)
from fastagi.agents.notes import Note
from fastagi.agents.operations import (
    AddMember,
    Answer,
    Operation,
    PauseMember,
    QueuesUnavailable,
    RemoveMember,
    ReportedMember,
    Result,
    SetPenalty,
    in_words,
)
from fastagi.agents.reasons import find, still
from fastagi.agents.reconcile import settlement, to_be_finished
from fastagi.agents.storage import wait_at_most
from fastagi.contract import LOGGED_OFF, EventType, Outcome, Script, Source

PATIENCE = 3.0  # seconds that a change of the same agent in another service is waited for
GIVE_UP_AFTER = 3  # faults of ours at settling one change
# Notes, by Asterisk: static and realtime members that agents of ours have used. Value: JSON, the
# names of the queue and of the interface.
STATIC = "static:{}:"
# Notes, by Asterisk, agent and queue: an agent's queue that Asterisk lacks, to be joined when it is
# there. Value: the id of the login that waits for it.
WAITING = "waiting:{}:{}:{}"
STATIC_CURE = (
    "remove its 'member =>' line from queues.conf, or its row from the realtime table, and run "
    "'queue reload all' in Asterisk"
)
OWED = "owed:{}:"  # notes: devices to be taken out of the queues of an Asterisk that was away
TAKE_OVERS = 3  # how often an occupant is logged off for one login, when others race for the device


class Store(Protocol):
    """What the hall needs of the store. Every call may raise StoreUnavailable."""

    async def agent(self, number: str) -> AgentState | None:
        """The agent with this number, unless archived."""

    async def agent_at(self, key: str) -> AgentState | None:
        """The agent who is logged in on the device with this ``Device.key``."""

    async def agents_at(self, keys: Sequence[str]) -> dict[str, AgentState]:
        """The same for many, by key; those where nobody is are left out."""

    async def agents_with_extension(self, extension: str, asterisk: str) -> list[AgentState]:
        """The agents who are logged in with this extension on this Asterisk, whatever the
        interface is."""

    async def states(self, numbers: Sequence[str]) -> dict[str, AgentState]:
        """The agents with these numbers, by number; also archived ones who are logged in."""

    async def queue_names(self) -> dict[str, tuple[str, str]]:
        """All queues, archived ones too: name in lower case -> name in Asterisk and number."""

    async def queue_numbered(self, number: str) -> str | None:
        """The name in Asterisk of the queue that agents dial as ``number``."""

    async def reasons(self) -> tuple[PauseReason, ...]:
        """The pause reasons, by code."""

    async def begin(
        self, command: Command, now: datetime, *, applied: bool = False, held: bool = False
    ) -> Change:
        """Load, decide and record the intent, in one transaction.

        For a LogIn, or an Adopt that logs in, the device is claimed with it: no second agent gets
        it. A change without steps is written at once, events and all; one that Asterisk has
        ``applied`` already likewise, without its steps, and once only: when its first event is
        there already, nothing is written. ``held``: asked under ``hold`` of this very agent.
        Raises the Refused that was decided, NoSuchAgent, or InProgress when an earlier intent of
        this agent is open: ``settle`` is False while it belongs to another living service.
        """

    def hold(self, numbers: Sequence[str]) -> AbstractAsyncContextManager[dict[str, AgentState]]:
        """Until it is left no other service begins a change of these agents (this one takes its
        own locks); their states, but for those with an open intent. Any number at a time, each
        of its own agents."""

    def alone(self, what: str) -> AbstractAsyncContextManager[bool]:
        """Whether no other service is at ``what`` now; none will be until it is left."""

    async def confirm(self, change: Change) -> None:
        """In one transaction: the change, its events, a delivery per event and sink; the intent
        and the device left behind are dropped. Doing it twice writes once."""

    async def withdraw(self, change: Change, event: Event | None) -> None:
        """In one transaction: the intent and its claim are dropped, ``event`` is written."""

    async def record(self, event: Event) -> None:
        """An event without a change, with its deliveries."""

    async def unsettled(self) -> list[Change]:
        """The unconfirmed intents, decided again, but for those of other living services; the
        oldest first."""

    async def logged_in(self) -> list[AgentState]: ...

    async def lately(self, events: int) -> list[AgentState]:
        """The agents of the last ``events`` events."""

    async def planned(self) -> list[LogOff | Pause]:
        """What waits for the end of a queue call."""

    async def limits(self) -> dict[str, PauseLimit]:
        """What the pause reasons allow, by code; those without any limit are left out."""

    async def queue_pauses(self) -> QueuePauses:
        """What queues say of pause reasons."""

    async def open_pauses(self) -> list[OpenPause]:
        """The pauses of now."""

    async def paused_since(self, agent: str, code: str, since: datetime) -> timedelta:
        """How long the agent was paused for this reason from ``since`` on, in segments that have
        ended."""

    async def overdue(self, cutoffs: Mapping[str, datetime]) -> list[str]:
        """Numbers of the agents to log off at the end of their shift. ``cutoffs``: for each time
        of day in ``shift_ends``, when it last was; those logged in since before it."""

    async def shift_ends(self) -> list[str]:
        """The times of day (``18:30``) at which agents are logged off, each once."""

    async def clock_was_set(self, before: datetime, by: timedelta, begun: Collection[str]) -> None:
        """The machine's clock, which showed ``before``, was set by so much: logins and pauses that
        go on began that much later. While several services share the database, only those that
        have ``begun`` here, by their ids: the others were written by other clocks."""

    async def pin_attempt(
        self,
        keys: Keys,
        now: float,
        memory: float,
        rule: Callable[[Mapping[str, Sequence[float]], bool], Verdict],
    ) -> Verdict:
        """Counts an attempt against each key as failed, at the moment that ``rule`` says, until
        ``pin_passed``; nothing where it says that a key is locked. ``rule`` is given the failures
        of the last ``memory`` seconds by key, and whether the PIN was proved with ``keys.own``
        before. One transaction: racing attempts all count. Seconds on ``AgentService.steady``."""

    async def pin_passed(self, keys: Keys, at: float, usual_until: float) -> None:
        """The attempt counted at ``at`` was right: it is forgotten, and so is every one of
        ``keys.own``, which is the agent's usual place until then."""

    async def outside_numbers(self, number: str) -> tuple[str, ...]:
        """Patterns of the outside numbers at which the agent may log in by phone."""

    async def note(self, key: str) -> str | None:
        """A remembered fact about the outside, such as Asterisk's start-up time."""

    async def set_note(self, key: str, value: str) -> None: ...

    async def notes(self, prefix: str) -> dict[str, str]:
        """The facts whose keys begin so."""

    async def drop_note(self, key: str) -> None: ...


class Queues(Protocol):
    """What the hall needs of the Asterisks. QueuesUnavailable: nothing was sent."""

    @property
    def names(self) -> Sequence[str]:
        """The Asterisks there are: "" where there is only one."""

    def connected(self, asterisk: str) -> bool: ...

    async def apply(self, operations: Sequence[Operation]) -> list[Result]: ...

    async def members(
        self,
        asterisk: str,
        queue: str | None = None,
        interface: str | None = None,
        queues: Collection[str] | None = None,
    ) -> list[ReportedMember]:
        """Of one queue, of ``queues``, or of all that are configured; of this interface alone."""

    async def lacking(self, asterisk: str, queues: Sequence[str]) -> set[str]:
        """Those of these queues that this Asterisk does not have, in lower case."""

    async def started_at(self, asterisk: str) -> str: ...

    async def notes(self, asterisk: str) -> list[Note]:
        """What the fallback did while no service was there, and nobody has taken yet."""

    async def forget(self, asterisk: str, notes: Sequence[Note]) -> None: ...


class Pins(Protocol):
    async def verify(self, pin_hash: str, pin: str) -> bool: ...


def ordered_id() -> str:
    """28 hexadecimal digits, unique for ever, later ones greater: rows and index entries named so
    are appended, which costs a database a tenth of writing in random places."""
    return f"{time.time_ns():016x}{random.getrandbits(48):012x}"


@contextmanager
def _told_as_unavailable() -> Iterator[None]:
    """A store that is away is a refusal to whoever asked."""
    try:
        yield
    except StoreUnavailable as error:
        raise errors.Unavailable(str(error)) from error


@dataclass(frozen=True, slots=True)
class Policy:
    """The admin's choices that hold for every door."""

    lockout: Lockout
    zone: tzinfo = UTC  # where a day begins at midnight
    refuse_missing_queue: bool = False  # a login while Asterisk lacks one of the agent's queues


class AgentService:
    """Commands in, changes out; locks are per agent and per device, reads take none."""

    def __init__(
        self,
        store: Store,
        queues: Queues,
        pins: Pins,
        policy: Policy,
        log: Log,
        *,
        clock: Clock | None = None,
        steady: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        new_id: Callable[[], str] = ordered_id,
        fence: Fence | None = None,
    ) -> None:
        self.store = store
        self.queues = queues
        self.policy = policy
        self.new_id = new_id
        self.fence = fence or Fence(log)
        self._pins = pins
        self._log = log
        self._clock = clock or Clock()
        self._steps_followed = 0
        self._following = asyncio.Lock()
        # Logins and pauses that have begun in this process, as far as they go on.
        self._begun: set[str] = set()
        # Called after the machine's clock was set, when the store knows.
        self.clock_set: list[Callable[[ClockStep], None]] = []
        self.steady = steady or steady_clock()
        self._sleep = sleep
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Whether the store can be relied on, as far as it has been seen. Set by whoever watches it.
        self.store_usable: Callable[[], bool] = lambda: True
        self._gone: set[str] = set()  # open commands whose caller has hung up
        self._failed: dict[str, int] = {}  # open commands: faults of ours at settling them
        # What the notes STATIC say, by note: queue and interface; as last read, or written here.
        self._static: dict[str, tuple[str, str]] = {}
        # And the notes WAITING: the id of the login, by note.
        self.waiting: dict[str, str] = {}
        # Called with every change that was written down, and when something was left to be done.
        self.changed: list[Callable[[Change], None]] = []
        self.left_open: list[Callable[[], None]] = []
        # Called with an Asterisk whose queues are to be compared, as nobody knows what was done.
        self.given_up: list[Callable[[str], None]] = []

    # -- reading

    async def agent(self, number: str) -> AgentState:
        """Raises NoSuchAgent, Unavailable."""
        with _told_as_unavailable():
            state = await self.store.agent(number)
        if state is None:
            raise errors.NoSuchAgent(number)
        return state

    async def agent_at(self, device: Device) -> AgentState | None:
        """Who is logged in on this device. Raises Unavailable."""
        return await self.agent_on(device.key)

    async def agent_with_extension(self, extension: str, asterisk: str) -> AgentState | None:
        """Who is logged in with this extension, as the login was stored: device rules may have
        changed since. None also where that is not certain, as there are several. Raises
        Unavailable."""
        with _told_as_unavailable():
            found = await self.store.agents_with_extension(extension, asterisk)
        return found[0] if len(found) == 1 else None

    async def agent_on(self, key: str) -> AgentState | None:
        """Who is logged in on the device with this ``Device.key``. Raises Unavailable."""
        with _told_as_unavailable():
            return await self.store.agent_at(key)

    async def number_of_queue(self, name: str) -> str:
        """What agents dial for the queue; "" when that is not known. Raises Unavailable."""
        with _told_as_unavailable():
            return (await self.store.queue_names()).get(name.lower(), ("", ""))[1]

    async def queue_numbered(self, number: str) -> str:
        """Raises NoSuchQueue, Unavailable."""
        with _told_as_unavailable():
            queue = await self.store.queue_numbered(number)
        if queue is None:
            raise errors.NoSuchQueue(number)
        return queue

    async def reasons(self) -> tuple[PauseReason, ...]:
        """The pause reasons by code. Raises Unavailable."""
        with _told_as_unavailable():
            return await self.store.reasons()

    async def reason(self, wanted: str) -> PauseReason | None:
        """The pause reason with this name, code or description. Raises Unavailable."""
        return find(await self.reasons(), wanted)

    def now(self) -> datetime:
        return self._clock()

    # -- the machine's clock

    async def follow_clock(self) -> None:
        """After the machine's clock was set: what goes on in the store has lasted as long as
        before. To be called before anything is judged by how long it lasts. Raises
        StoreUnavailable."""
        self._clock()
        if len(self._clock.steps) == self._steps_followed:
            return
        async with self._following:
            while self._steps_followed < len(self._clock.steps):
                step = self._clock.steps[self._steps_followed]
                await self.store.clock_was_set(step.before, step.by, self._begun)
                self._steps_followed += 1
                self._log.warning(
                    "the machine's clock was set: logins and pauses go on as long as they lasted",
                    by=clock_words(step.by),
                    mend="keep the clock right with a time service such as chrony",
                )
                for callback in self.clock_set:
                    with self.fence.item("clock"):
                        callback(step)

    # -- PINs

    async def check_pin(self, agent: AgentState, pin: str, place: Place) -> None:
        """Raises WrongPin, AgentLocked, ExtensionLocked, Unavailable. May take up to LONGEST_WAIT
        seconds, where others have typed wrong ones.

        Every attempt is counted before it is checked, so that attempts racing on many phones
        get no more guesses than one phone.
        """
        assert agent.pin_hash is not None
        keys, rule, now = place.keys(agent.number), self.policy.lockout, self.steady()
        memory = rule.memory.total_seconds()
        with _told_as_unavailable():
            verdict = await self.store.pin_attempt(
                keys,
                now,
                memory,
                lambda failed_at, usual: judge(rule, keys, failed_at, usual, now),
            )
            if verdict.locked:
                self._log.warning(
                    "too many wrong PINs", agent=agent.number, place=place.name, key=verdict.locked
                )
                of_place = verdict.locked == keys.place
                raise errors.ExtensionLocked() if of_place else errors.AgentLocked()
            if verdict.at > now:
                await self._sleep(verdict.at - now)
            if not await self._pins.verify(agent.pin_hash, pin):
                raise errors.WrongPin()
            await self.store.pin_passed(keys, verdict.at, self.steady() + USUAL_FOR)

    # -- outside numbers

    async def may_log_in_at(self, agent: AgentState, device: Device) -> None:
        """Raises NumberNotAllowed for an outside number that is none of this agent's, or where the
        agent has no PIN, which has been proved by now; Unavailable."""
        if device.type != "remote":
            return
        if agent.pin_hash is None:
            raise errors.NumberNotAllowed(
                f"an outside number needs a PIN: give agent {agent.number} one"
            )
        with _told_as_unavailable():
            allowed = await self.store.outside_numbers(agent.number)
        if not any(Pattern.parse(text).matches(device.extension) for text in allowed):
            raise errors.NumberNotAllowed(
                f"{device.extension} is not among agents[].outside of agent {agent.number}"
            )

    # -- changing

    async def execute(
        self,
        command: Command,
        *,
        hung_up: Callable[[], bool] = lambda: False,
        take_over: bool = False,
        only_if: Callable[[AgentState], bool] | None = None,
    ) -> Change:
        """Carries the command out, or raises the Refused that says why nothing was changed.

        ``hung_up`` is asked when the change is confirmed; the events tell. ``take_over`` logs
        another agent off who is logged in on the device of a LogIn. ``only_if`` is asked under
        the agent's lock; NotLoggedIn when it says no. A refused login is an event too, but for
        LoggedInElsewhere, after which the caller may still say "move".
        """
        attempts = TAKE_OVERS if take_over and isinstance(command, LogIn) else 0
        with wait_at_most():
            try:
                for attempt in range(attempts):
                    try:
                        return await self._execute(command, hung_up, only_if)
                    except errors.ExtensionInUse as refusal:
                        assert isinstance(command, LogIn)
                        await self._vacate(command, refusal.occupant, attempt, hung_up)
                return await self._execute(command, hung_up, only_if)
            except errors.LoggedInElsewhere:
                raise
            except errors.Refused as refusal:
                await self._record_refused(command, refusal, hung_up())
                raise

    async def execute_all(
        self,
        commands: Iterable[Command],
        *,
        at_once: int = 100,
        done: Callable[[Change], None] = lambda change: None,
    ) -> list[tuple[Command, errors.Refused]]:
        """Many commands of as many agents, ``at_once`` of them on their way at any time; those
        refused, and why. ``done`` is called with each of the others. What was begun is finished
        also when the caller is cut off."""
        waiting = iter(commands)
        refused: list[tuple[Command, errors.Refused]] = []

        async def work() -> None:
            for command in waiting:
                try:
                    done(await self.execute(command))
                except errors.Refused as refusal:
                    refused.append((command, refusal))
                except Exception as error:  # ours; the others' commands are carried out
                    self.fence.skipped("all agents", error, agent=command.agent)
                    refused.append((command, errors.Unavailable("a fault, see the log")))

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
        return refused

    async def devices_in_call(self) -> set[str]:
        """``Device.key`` of all devices with a queue call now, of the Asterisks that answer."""
        found: set[str] = set()
        for asterisk in self.queues.names:
            with suppress(QueuesUnavailable):
                members = await self.queues.members(asterisk)
                found |= {device_key(asterisk, m.interface) for m in members if m.in_call}
        return found

    async def _vacate(
        self, command: LogIn, occupant: str, attempt: int, hung_up: Callable[[], bool]
    ) -> None:
        """Logs the occupant off the device that the login wants.

        Not for a login that will not happen: its agent is elsewhere and did not say "move". And
        not one who has left meanwhile: the occupant may sit elsewhere by now.
        """
        key = command.device.key
        with _told_as_unavailable():
            state = await self.store.agent(command.agent)
        if state and state.session and not command.move:
            raise errors.LoggedInElsewhere(state.session.device)
        off = LogOff(
            id=f"{command.id}-off{attempt + 1}",
            agent=occupant,
            source=command.source,
            actor=command.actor,
            reason="taken over",
        )

        def still_there(occupying: AgentState) -> bool:
            session = occupying.session
            return session is not None and session.device.key == key

        with suppress(errors.NotLoggedIn):
            await self._execute(off, hung_up, still_there)

    async def _execute(
        self,
        command: Command,
        hung_up: Callable[[], bool],
        only_if: Callable[[AgentState], bool] | None = None,
    ) -> Change:
        if not self.linked:
            raise errors.Unavailable("the manager link to Asterisk is down")
        try:
            await self.follow_clock()
            async with self._lock("agent:" + command.agent):
                if only_if is not None:
                    state = await self.store.agent(command.agent)
                    if state is None or not only_if(state):
                        raise errors.NotLoggedIn(command.agent)
                command = await self._informed(command)
                if isinstance(command, LogIn):
                    async with self._lock("device:" + command.device.key):
                        return await self._change(command, hung_up)
                return await self._change(command, hung_up)
        except (StoreUnavailable, QueuesUnavailable) as error:
            raise errors.Unavailable(str(error)) from error

    def _lock(self, key: str) -> asyncio.Lock:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    def changing(self, number: str) -> bool:
        """Whether a change of this agent is on its way here."""
        lock = self._locks.get("agent:" + number)
        return lock is not None and lock.locked()

    @property
    def linked(self) -> bool:
        """Whether any Asterisk can be told anything."""
        return any(map(self.queues.connected, self.queues.names))

    def known(self, asterisk: str | None) -> bool:
        """Whether agents on this Asterisk are now as the store has them: it is connected, and the
        store can be relied on. None: who is logged off is on none."""
        return self.store_usable() and (asterisk is None or self.queues.connected(asterisk))

    @asynccontextmanager
    async def holding(self, numbers: Iterable[str]) -> AsyncIterator[dict[str, AgentState]]:
        """Until it is left nobody, here or in another service, changes these agents. Gives their
        states, but for those with a change that is open still. Raises StoreUnavailable."""
        ordered = sorted(set(numbers))  # whoever takes several takes them in one order
        async with AsyncExitStack() as stack:
            for number in ordered:
                await stack.enter_async_context(self._lock("agent:" + number))
            yield await stack.enter_async_context(self.store.hold(ordered))

    @asynccontextmanager
    async def holding_device(self, key: str) -> AsyncIterator[None]:
        """Until it is left nobody here logs in on the device with this ``Device.key``. After
        ``holding``, never before it."""
        async with self._lock("device:" + key):
            yield

    async def in_call(self, agent: AgentState) -> bool:
        """Is there a call of one of the agent's queues on the device of this agent, who is logged
        in? Not in wrap-up: then nothing has to be waited for, and by the queue's clock the next
        call may come sooner than by ours. Raises QueuesUnavailable."""
        assert agent.session is not None
        device = agent.session.device
        queues = [m.queue for m in agent.memberships]
        members = await self.queues.members(
            device.asterisk, interface=device.interface, queues=queues
        )
        return any(m.in_call for m in members)

    async def _informed(self, command: Command) -> Command:
        """What only Asterisk or the past knows, asked where the command depends on it."""
        if isinstance(command, LogOff | Pause) and command.when_in_call is not WhenInCall.ALLOW:
            state = await self.store.agent(command.agent)
            if state and state.session:
                command = replace(command, in_call=await self.in_call(state))
        as_agent = isinstance(command, Unpause) and command.as_agent
        by_agent = command.source is Source.PHONE or as_agent
        if isinstance(command, Pause | Unpause) and by_agent:
            command = await self._lockable(command)
        if isinstance(command, Pause):
            return await self._budgeted(command)
        if isinstance(command, LeaveQueue) and not command.confirmed:
            state = await self.store.agent(command.agent)
            if state and state.session:
                here = state.session.device
                members = await self.queues.members(here.asterisk, queue=command.queue)
                last = all(m.interface.lower() == here.interface.lower() for m in members)
                return replace(command, last=last)
        return command

    async def _lockable(self, command: Pause | Unpause) -> Pause | Unpause:
        said = await self.store.queue_pauses()
        if not said:
            return command
        state = await self.store.agent(command.agent)
        if state is None or state.pause is None:
            return command
        reason = still(await self.store.reasons(), state.pause.reason.code, state.pause.reason.name)
        if reason is None:
            return command
        pause = OpenPause(state.number, state.pause.id, reason, state.pause.since)
        queues = [m.queue for m in state.memberships]
        return replace(command, locked=locked(pause, self._clock(), queues, said))

    async def _budgeted(self, command: Pause) -> Pause:
        limit = (await self.store.limits()).get(command.reason.code)
        if (
            limit is None
            or limit.daily_budget is None
            or limit.when_exceeded is WhenExceeded.WARN  # the warning follows
        ):
            return command
        midnight = start_of_day(self._clock(), self.policy.zone)
        used = await self.store.paused_since(command.agent, command.reason.code, midnight)
        return replace(command, spent=used >= limit.daily_budget)

    async def _change(self, command: Command, hung_up: Callable[[], bool]) -> Change:
        try:
            change = await self._begin(command)
            if change.steps:
                change = await self._carry_out(change, hung_up)
        except BaseException as error:
            # Whatever it was, a caller cut off included, an intent may be open: see to it. After
            # a plain refusal nothing is.
            if isinstance(error, errors.Refused) and not isinstance(error, errors.Unavailable):
                raise
            if hung_up():
                self._gone.add(command.id)
            self._see_to_it()
            raise
        self._vouch(change)
        self.tell(change)
        if isinstance(command, LeaveQueue):
            await self._wait_no_more(change.after, command.queue)
        return change

    async def _wait_no_more(self, state: AgentState, queue: str) -> None:
        """Who leaves a queue does not want to join it when it is there."""
        for note in list(self.waiting):
            if waiting_in(note)[1:] == (state.number, queue):
                with suppress(StoreUnavailable):  # it is only not forgotten yet
                    await self.stop_waiting(note)

    def _vouch(self, change: Change) -> None:
        """Nothing had to be changed, says the store alone: of an Asterisk that is away nobody
        knows that. Raises Unavailable."""
        session = change.after.session
        if change.alters or change.steps or session is None:
            return
        if not isinstance(change.command, LogIn | Pause | Unpause):
            return
        if not self.queues.connected(session.device.asterisk):
            raise errors.Unavailable(f"the agent's Asterisk is away: {session.device.asterisk}")

    def tell(self, change: Change) -> None:
        """Whoever waits for changes learns of one that is written down."""
        if change.alters:
            self._note_begun(change)
            for callback in self.changed:
                try:
                    callback(change)
                except Exception as error:  # the change is made all the same
                    self.fence.skipped("changes", error, agent=change.before.number)

    def _note_begun(self, change: Change) -> None:
        before, after = change.before, change.after
        for was, now in ((before.session, after.session), (before.pause, after.pause)):
            if was is now:
                continue
            if was is not None and (now is None or now.id != was.id):
                self._begun.discard(was.id)
            if now is not None and (was is None or now.id != was.id):
                self._begun.add(now.id)

    def _see_to_it(self) -> None:
        for callback in self.left_open:
            with self.fence.item("changes"):
                callback()

    async def _begin(self, command: Command) -> Change:
        """An earlier change of the agent is waited for, or settled when nobody is at it."""
        settled = False
        deadline = time.monotonic() + PATIENCE
        while True:
            # It may have been set while others were waited for: what begins now is of the new time.
            await self.follow_clock()
            try:
                return await self.store.begin(command, self._clock())
            except errors.InProgress as other:
                if other.settle and not settled:
                    settled = True
                    for change in await self.store.unsettled():
                        if change.command.agent == command.agent:
                            await self._settle(change)
                elif other.settle or time.monotonic() > deadline:
                    raise
                else:
                    await asyncio.sleep(0.02)

    async def _carry_out(self, change: Change, hung_up: Callable[[], bool]) -> Change:
        change = await self._without_a_dead_asterisk(change)
        change = self._past_left_members(change)
        try:
            results = await self.apply([step.do for step in change.steps])
        except QueuesUnavailable:
            await self._withdraw(change, errors.Unavailable("nothing was sent"), hung_up())
            raise
        missing = {r.operation.queue for r in results if r.answer is Answer.NO_SUCH_QUEUE}
        refusal = self._refusal(change, results, missing)
        in_call = isinstance(change.command, Relog) and change.command.in_call
        unknown = any(result.answer is Answer.UNKNOWN for result in results)
        if refusal is None and not unknown and not in_call:
            results = await self._replace_strangers(results)
            refusal = self._refusal(change, results, missing)
        if any(result.answer is Answer.UNKNOWN for result in results):
            # The intent stays recorded; it is settled when the link is back.
            raise errors.Unsettled("Asterisk gave no answer")
        if refusal is not None:
            await self._take_back(change, self._undo(change.steps, results), refusal, hung_up())
            raise refusal
        change = await self._as_taken(change, results, missing)
        if hung_up():
            change = with_hang_up(change)
        try:
            await self.store.confirm(change)
        except StoreUnavailable as error:
            # Written or not, only the store can tell: while the intent is there it was not.
            raise errors.Unsettled(str(error)) from error
        return change

    def _refusal(
        self, change: Change, results: Sequence[Result], missing: Collection[str]
    ) -> errors.QueueRefused | None:
        """Of what Asterisk has refused: why the whole change is refused, if it is.

        A queue that Asterisk lacks keeps nobody out of the others, unless the admin wants it so.
        """
        for result in results:
            if result.answer.refused and result.answer is not Answer.NO_SUCH_QUEUE:
                text = f"{in_words(result.operation)}: {result.message}"
                queue = result.operation.queue  # "": every one
                return errors.QueueRefused(text, result.message, (queue,) if queue else ())
        if not missing:
            return None
        command, after = change.command, change.after
        lacking = [m for m in after.memberships if m.queue in missing]
        wanted = [m for m in after.joined if m.queue not in missing]
        nothing_left = change.before.session is None and not wanted
        unwanted = isinstance(command, LogIn) and self.policy.refuse_missing_queue
        if isinstance(command, JoinQueue) or nothing_left or unwanted:
            return errors.QueueMissing([m.queue for m in lacking], [m.number for m in lacking])
        return None

    def _undo(
        self, steps: Sequence[Step], results: Sequence[Result], *, already: bool = False
    ) -> list[Operation]:
        """What takes back the steps that had an effect; ``already``: or may have had it before."""
        operations: list[Operation] = []
        for step, result in reversed(list(zip(steps, results, strict=True))):
            add = step.undo
            if result.answer is Answer.DONE or (already and result.answer is Answer.ALREADY_SO):
                operations.append(step.undo)
            elif result.answer is Answer.PAUSED_INSTEAD and isinstance(add, AddMember):
                operations += _adjustment(add)
            elif result.answer is Answer.ADJUSTED and self._is_left(step.undo):
                # It was one of ours before. Else it was somebody's, and is left as it is.
                operations.append(step.undo)
        return operations

    # -- members that cannot be removed, and queues that are missing

    async def apply(self, operations: Sequence[Operation]) -> list[Result]:
        """Tells Asterisk. A member that cannot be removed, as it is static or realtime, is paused
        in that queue instead, and remembered. Raises QueuesUnavailable, StoreUnavailable."""
        results = await self.queues.apply(operations)
        if not any(result.answer is Answer.NOT_DYNAMIC for result in results):
            return results
        stay = [r.operation for r in results if r.answer is Answer.NOT_DYNAMIC]
        removals = [operation for operation in stay if isinstance(operation, RemoveMember)]
        pauses = [PauseMember(r.interface, True, LOGGED_OFF, r.queue, r.asterisk) for r in removals]
        try:
            answers = dict(zip(removals, await self.queues.apply(pauses), strict=True))
        except QueuesUnavailable as error:  # what was asked first may have been done
            answers = {r: Result(r, Answer.UNKNOWN, str(error)) for r in removals}
        for removal, answer in answers.items():
            if answer.answer is Answer.DONE:
                await self.remember_static(removal.asterisk, removal.queue, removal.interface)
        return [
            result
            if not isinstance(result.operation, RemoveMember) or result.operation not in answers
            else _paused_instead(result, answers[result.operation])
            for result in results
        ]

    async def remember_static(self, asterisk: str, queue: str, interface: str) -> None:
        note = STATIC.format(asterisk) + f"{queue}|{interface}".lower()
        if note not in self._static:
            await self.store.set_note(note, json.dumps([queue, interface]))
            self._static[note] = (queue, interface)

    async def forget_static(self, asterisk: str, queue: str, interface: str) -> None:
        note = STATIC.format(asterisk) + f"{queue}|{interface}".lower()
        self._static.pop(note, None)
        await self.store.drop_note(note)

    async def static_members(self, asterisk: str) -> list[tuple[str, str]]:
        """Queue and interface of the members of this Asterisk that agents of ours have used and
        that could not be removed. Raises StoreUnavailable."""
        prefix = STATIC.format(asterisk)
        notes = await self.store.notes(prefix)
        found: dict[str, tuple[str, str]] = {}
        for note, value in notes.items():
            with self.fence.item("static members", note=note):
                queue, interface = json.loads(value)
                found[note] = (queue, interface)
        others = {n: v for n, v in self._static.items() if not n.startswith(prefix)}
        self._static = others | found
        return list(found.values())

    def _is_left(self, operation: Operation) -> bool:
        note = STATIC.format(operation.asterisk)
        return note + f"{operation.queue}|{operation.interface}".lower() in self._static

    def _past_left_members(self, change: Change) -> Change:
        """A pause of all queues, or its end, spares the members that stand in queues which the
        agent has left: those stay paused."""
        session = change.after.session
        if not self._static or session is None or not change.steps:
            return change
        do = change.steps[0].do
        if not isinstance(do, PauseMember) or do.queue:
            return change
        joined = {m.queue.lower() for m in change.after.joined}
        left = [
            queue
            for queue, interface in self._static.values()
            if interface.lower() == do.interface.lower() and queue.lower() not in joined
        ]
        if not left:
            return change
        return replace(change, steps=tuple(in_each_queue(change.steps[0], change.after.joined)))

    async def _as_taken(
        self, change: Change, results: Sequence[Result], missing: Collection[str]
    ) -> Change:
        static = [r.operation for r in results if r.answer is Answer.ADJUSTED]
        paused = [r.operation for r in results if r.answer is Answer.PAUSED_INSTEAD]
        if not missing and not static and not paused and change.outcome is not Outcome.MOVED:
            return change
        change = as_taken(
            change,
            self._clock(),
            missing,
            tuple(operation.queue for operation in static),
            tuple(operation.queue for operation in paused),
        )
        for operation in static:
            await self.remember_static(operation.asterisk, operation.queue, operation.interface)
        self._warn_of_static(change, [*static, *paused])
        if change.after.session is not None:
            await self.wait_for(change.after, change.missing)
        if change.outcome is Outcome.MOVED:
            await self._wait_on(change)
        return change

    def _warn_of_static(self, change: Change, operations: Sequence[Operation]) -> None:
        for operation in operations:
            removed = isinstance(operation, RemoveMember)
            self._log.warning(
                "static member: it cannot be removed from the queue, and is paused there"
                if removed
                else "static member: the agent's log-off will only pause it in the queue",
                agent=change.before.number,
                queue=operation.queue,
                interface=operation.interface,
                cure=STATIC_CURE,
            )

    async def wait_for(self, state: AgentState, queues: Sequence[Membership]) -> None:
        """The agent joins these queues, which Asterisk lacks, when they are there. Raises
        StoreUnavailable."""
        for m in queues:
            await self._note_waiting(state, m.queue)
            self._log.warning(
                "Asterisk lacks a queue: the agent is not in it, and joins when it is there",
                agent=state.number,
                queue=m.queue,
                number=m.number,
                cure=errors.MISSING_QUEUE_CURE,
            )

    async def _note_waiting(self, state: AgentState, queue: str) -> None:
        session = state.session
        assert session is not None
        note = WAITING.format(session.device.asterisk, state.number, queue)
        if self.waiting.get(note) != session.id:
            await self.store.set_note(note, session.id)
            self.waiting[note] = session.id

    async def is_to_join(self, number: str, queue: str) -> None:
        """An agent who is logged in has got this queue: joined sooner or later, whatever happens to
        this process or to Asterisk meanwhile. Raises StoreUnavailable."""
        state = await self.store.agent(number)
        if state is not None and state.session is not None:
            await self._note_waiting(state, queue)

    async def wait_for_queue(self, number: str, queue: str, command: Command) -> None:
        """The same for an agent whose ``command`` to join was refused, with an event. Raises
        StoreUnavailable."""
        state = await self.store.agent(number)
        if state is None or state.session is None:
            return
        lacking = [m for m in state.memberships if m.queue == queue and not m.joined]
        if lacking:
            await self.wait_for(state, lacking)
            await self.store.record(missing_event(state, command, self._clock(), (queue,)))

    async def _wait_on(self, change: Change) -> None:
        """Who moves takes along what is waited for."""
        before, after = change.before.session, change.after.session
        assert before is not None
        assert after is not None
        for note, login in list(self.waiting.items()):
            _, number, queue = waiting_in(note)
            if number != change.after.number or login != before.id:
                continue
            moved = WAITING.format(after.device.asterisk, number, queue)
            await self.store.set_note(moved, after.id)
            self.waiting[moved] = after.id

    async def read_waiting(self) -> dict[str, str]:
        """The id of the login that waits, by note WAITING. Raises StoreUnavailable."""
        self.waiting = await self.store.notes("waiting:")
        return dict(self.waiting)

    async def stop_waiting(self, note: str) -> None:
        self.waiting.pop(note, None)
        await self.store.drop_note(note)

    async def _without_a_dead_asterisk(self, change: Change) -> Change:
        """Who moves away from an Asterisk that is away can do so: it is told when it is back."""
        if change.outcome not in (Outcome.MOVED, Outcome.LOGGED_OFF):
            return change
        assert change.before.session is not None
        left = change.before.session.device
        # Who logs off waits for an Asterisk that is away, but not for one that was taken away.
        waits = change.outcome is Outcome.LOGGED_OFF and left.asterisk in self.queues.names
        if waits or self.queues.connected(left.asterisk):
            return change
        await self.store.set_note(OWED.format(left.asterisk) + left.key, change.before.number)
        return replace(
            change,
            steps=tuple(s for s in change.steps if s.do.asterisk != left.asterisk),
        )

    async def _replace_strangers(self, results: list[Result]) -> list[Result]:
        """A member that was there already was not put there by this change: its penalty, name or
        pause may differ from what is meant. It is taken out and put in as meant; one that cannot
        be taken out gets the penalty and the pause that are meant."""
        strangers = [
            r.operation
            for r in results
            if r.answer is Answer.ALREADY_SO and isinstance(r.operation, AddMember)
        ]
        if not strangers:
            return results
        operations: list[Operation] = []
        for add in strangers:
            operations += [RemoveMember(add.queue, add.interface, add.asterisk), add]
        answers = await self.queues.apply(operations)
        again: dict[Operation, Result] = {r.operation: r for r in answers}
        stay = [
            add
            for add, removal in zip(strangers, answers[::2], strict=True)
            if removal.answer is Answer.NOT_DYNAMIC
        ]
        if stay:
            try:
                adjusted = await self.queues.apply([a for add in stay for a in _adjustment(add)])
            except QueuesUnavailable as error:
                adjusted = [Result(add, Answer.UNKNOWN, str(error)) for add in stay] * 2
            for place, add in enumerate(stay):
                both = adjusted[2 * place : 2 * place + 2]
                wrong = next((r for r in both if not r.ok), None)
                again[add] = (
                    Result(add, Answer.ADJUSTED)
                    if wrong is None
                    else Result(add, wrong.answer, f"{in_words(wrong.operation)}: {wrong.message}")
                )
        return [again.get(r.operation, r) for r in results]

    async def _take_back(
        self, change: Change, operations: list[Operation], refusal: errors.Refused, hung_up: bool
    ) -> None:
        try:
            results = await self._answered(operations)
        except QueuesUnavailable:
            self._see_to_it()
            return
        for result in results:
            if not result.ok:
                self._log.error(
                    "not taken back", operation=in_words(result.operation), why=result.message
                )
        await self._withdraw(change, refusal, hung_up)

    async def _withdraw(self, change: Change, refusal: errors.Refused, hung_up: bool) -> None:
        event = None
        if isinstance(change.command, LogIn):
            event = self._refused_event(change.command, refusal.outcome, hung_up)
        try:
            await self.store.withdraw(change, event)
        except StoreUnavailable:
            self._see_to_it()

    # -- refusals are facts too

    async def _record_refused(
        self, command: Command, refusal: errors.Refused, hung_up: bool
    ) -> None:
        # Where the refusal was written with the withdrawn intent, the same id writes nothing.
        # What is not settled yet has its event when it is.
        if isinstance(command, LogIn) and not isinstance(refusal, errors.Unsettled):
            await self.record_refusal(command, refusal.outcome, hung_up)

    async def record_refusal(self, command: LogIn, outcome: Outcome, hung_up: bool = False) -> None:
        """Writes down a login that was refused; never raises, as the refusal stands anyway."""
        await self._write_down(self._refused_event(command, outcome, hung_up))

    async def _write_down(self, event: Event) -> None:
        try:
            await self.store.record(event)
        except StoreUnavailable as error:
            self._log.warning("a refused login could not be written down", error=str(error))

    async def record_refused_login(
        self,
        agent: str,
        extension: str,
        context: str,
        actor: Actor,
        source: Source,
        outcome: Outcome,
    ) -> None:
        """The same for a login that never became a command: no such agent, a wrong PIN."""
        event = Event(
            id=f"{self.new_id()}-1",
            type=EventType.LOGIN_REFUSED,
            agent=agent,
            extension=extension,
            queues=(),
            reason=outcome.value,
            source=source,
            actor=actor,
            occurred_at=self._clock(),
            context=context,
        )
        await self._write_down(event)

    def _refused_event(self, command: LogIn, outcome: Outcome, hung_up: bool) -> Event:
        return Event(
            id=f"{command.id}-refused",
            type=EventType.LOGIN_REFUSED,
            agent=command.agent,
            extension=command.device.extension,
            queues=(),
            reason=outcome.value,
            source=command.source,
            actor=replace(command.actor, hung_up=True) if hung_up else command.actor,
            occurred_at=self._clock(),
            context=command.device.context,
            asterisk=command.device.asterisk,
            device_type=command.device.type,
        )

    # -- settling

    async def settle(self) -> None:
        """Settles the intents that nobody is at. Raises StoreUnavailable; QueuesUnavailable when
        some could not be settled, as their Asterisk is away."""
        away: QueuesUnavailable | None = None
        for change in await self.store.unsettled():
            async with self._lock("agent:" + change.command.agent):
                open_now = {c.command.id for c in await self.store.unsettled()}
                if change.command.id not in open_now:
                    continue
                try:
                    await self._settle(change)
                except QueuesUnavailable as error:
                    away = error
        if away is not None:
            raise away

    async def _settle(self, change: Change) -> None:
        """To be called under the agent's lock. Raises what is AWAY; the change may be open still.

        A fault of ours that is met again and again must not lock the agent out for ever: then what
        was begun is forgotten, and Asterisk's queues say what came of it.
        """
        command = change.command
        known: dict[str, Any] = {"agent": command.agent, "command": type(command).__name__}
        try:
            await self._settle_once(change)
        except AWAY:
            raise
        except Exception as error:
            self.fence.skipped("settle", error, **known)
            failed = self._failed[command.id] = self._failed.get(command.id, 0) + 1
            if failed < GIVE_UP_AFTER:
                return
            with self.fence.item("settle", *AWAY, **known):
                await self.store.withdraw(change, None)
                self._gone.discard(command.id)
                del self._failed[command.id]
                self._log.error(
                    "an unconfirmed change was given up after a fault of the service: the queues in"
                    " Asterisk say what came of it",
                    **known,
                )
                for asterisk in {step.do.asterisk for step in change.steps}:
                    for callback in self.given_up:
                        callback(asterisk)
        else:
            self._failed.pop(command.id, None)

    async def _settle_once(self, change: Change) -> None:
        command = change.command
        gone = command.id in self._gone
        if note := await self._overtaken(change):
            if isinstance(command, Pause) and note.script is Script.UNPAUSE:
                # The fallback ends no pause that it does not see: this one was made, and is over.
                await self.store.confirm(with_hang_up(change) if gone else change)
                session = change.before.session
                assert session is not None
                ended = Unpause(**noted_by(note, session.device.asterisk, command.agent))
                over = await self.store.begin(ended, note.at, applied=True)
                self.tell(change)
                self.tell(over)
            else:
                await self.store.withdraw(change, None)
            self._gone.discard(command.id)
            return
        finish = to_be_finished(command)
        results = await self._answered(settlement(change))
        if isinstance(command, Pause):
            # Not in any queue: Asterisk has lost the agent, who is put back paused, or somebody
            # has taken the agent out. In neither case does the phone ring.
            results = [replace(result, answer=Answer.ALREADY_SO) for result in results]
        missing = {r.operation.queue for r in results if r.answer is Answer.NO_SUCH_QUEUE}
        if finish and not all(r.ok or r.answer is Answer.NO_SUCH_QUEUE for r in results):
            # Nothing is stored that Asterisk refused: what could be done is taken back.
            finish = False
            results = await self._answered(self._undo(change.steps, results, already=True))
        for result in results:
            if not result.ok:  # "No such queue" where a login was refused for just that
                self._log.info(
                    "not taken back", operation=in_words(result.operation), why=result.message
                )
        self._log.warning(
            "an unconfirmed change was settled",
            agent=command.agent,
            command=type(command).__name__,
            how="finished" if finish else "taken back",
        )
        if finish:
            change = await self._as_taken(change, results, missing)
            await self.store.confirm(with_hang_up(change) if gone else change)
            self.tell(change)
        else:
            event = None
            if isinstance(command, LogIn):
                event = self._refused_event(command, Outcome.UNAVAILABLE, gone)
            await self.store.withdraw(change, event)
        self._gone.discard(command.id)

    async def noted(self, states: Mapping[str, AgentState]) -> set[str]:
        """Those of them at whose phones the fallback has left a note that was not taken yet: what
        they are is not known. Raises QueuesUnavailable."""
        devices = {n: state.session.device for n, state in states.items() if state.session}
        keys: set[str] = set()
        for asterisk in {device.asterisk for device in devices.values()}:
            if asterisk in self.queues.names and self.queues.connected(asterisk):
                notes = await self.queues.notes(asterisk)
                keys |= {device_key(asterisk, note.interface) for note in notes}
        return {number for number, device in devices.items() if device.key in keys}

    async def _overtaken(self, change: Change) -> Note | None:
        """The first note of a phone that has paused or unpaused since, without any service: then
        Asterisk is as the agent wants it, and the notes of the fallback tell how it came about."""
        session = change.before.session
        if session is None or not isinstance(change.command, Pause | Unpause):
            return None
        device, decided = session.device, change.events[0].occurred_at
        notes = [
            note
            for note in await self.queues.notes(device.asterisk)
            if note.at >= decided
            and note.script in (Script.PAUSE, Script.UNPAUSE)
            and device_key(device.asterisk, note.interface) == device.key
        ]
        return min(notes, key=lambda note: note.key, default=None)

    async def _answered(self, operations: Sequence[Operation]) -> list[Result]:
        """Raises QueuesUnavailable unless every operation was answered."""
        results = await self.apply(operations)
        if any(result.answer is Answer.UNKNOWN for result in results):
            raise QueuesUnavailable("Asterisk gave no answer")
        return results


def _adjustment(add: AddMember) -> list[Operation]:
    """Makes a member that is there what ``add`` means: two operations."""
    return [
        SetPenalty(add.queue, add.interface, add.penalty, add.asterisk),
        PauseMember(add.interface, add.paused, add.reason, add.queue, add.asterisk),
    ]


def _paused_instead(removal: Result, pause: Result) -> Result:
    if pause.answer is Answer.DONE:
        return Result(removal.operation, Answer.PAUSED_INSTEAD, removal.message)
    if pause.answer is Answer.UNKNOWN:
        return Result(removal.operation, Answer.UNKNOWN, pause.message)
    message = f"{removal.message}, and it cannot be paused: {pause.message}"
    return Result(removal.operation, Answer.REFUSED, message)


def waiting_in(note: str) -> tuple[str, str, str]:
    """Asterisk, agent and queue in a note WAITING."""
    _, asterisk, number, queue = note.split(":", 3)
    return asterisk, number, queue


def noted_by(note: Note, asterisk: str, number: str) -> dict[str, Any]:
    """The fields of the command that the fallback has noted: the same however often it is read."""
    return {
        "id": f"note-{asterisk}-{note.key}",
        "agent": number,
        "source": Source.PHONE,
        "actor": Actor(channel=note.channel, caller_id=note.caller_id, unique_id=note.unique_id),
    }


def with_hang_up(change: Change) -> Change:
    """The same change; its events say that the caller was gone before it was finished."""
    return replace(
        change,
        events=tuple(replace(e, actor=replace(e.actor, hung_up=True)) for e in change.events),
    )
