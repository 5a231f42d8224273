"""AgentService: every interface goes through here. It holds the locks, gathers the facts that a
decision needs, and has the command carried out (``applying``)."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from fastagi.agents import errors
from fastagi.agents.applying import Applying
from fastagi.agents.clock import Clock, ClockStep, clock_words, steady_clock
from fastagi.agents.commands import (
    NO_FACTS,
    Actor,
    Command,
    Facts,
    LeaveQueue,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
    Unpause,
    WhenInCall,
)
from fastagi.agents.devices import Device, Pattern, device_key
from fastagi.agents.errors import Refused
from fastagi.agents.errors import StoreUnavailable as StoreUnavailable
from fastagi.agents.fence import Fence
from fastagi.agents.limits import OpenPause, QueuePauses, WhenExceeded, locked, start_of_day
from fastagi.agents.lockout import USUAL_FOR, Place, judge
from fastagi.agents.log import Log
from fastagi.agents.model import AgentState, Change
from fastagi.agents.operations import QueuesUnavailable
from fastagi.agents.ports import Pins, Queues, Store
from fastagi.agents.reasons import find, still
from fastagi.agents.records import Policy as Policy
from fastagi.agents.refused_logins import RefusedLogins
from fastagi.agents.storage import wait_at_most
from fastagi.contract import Source

TAKE_OVERS = 3  # how often an occupant is logged off for one login, when others race for the device

C = TypeVar("C", bound=Command)
# Asked under the agent's lock: why the command is not carried out after all; None: it is.
OnlyIf = Callable[[AgentState], Refused | None]


def ordered_id() -> str:
    """28 hexadecimal digits, unique for ever, later ones greater: rows and index entries named so
    are appended, which costs a database a tenth of writing in random places."""
    return f"{time.time_ns():016x}{random.getrandbits(48):012x}"


def _present() -> bool:
    return False


@contextmanager
def _store_as_unavailable() -> Iterator[None]:
    """A store that is away is a refusal to whoever asked."""
    try:
        yield
    except StoreUnavailable as error:
        raise errors.Unavailable(str(error)) from error


class _Locked:
    """Holds one lock, or two in this order."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: asyncio.Lock, second: asyncio.Lock | None) -> None:
        self._first = first
        self._second = second

    async def __aenter__(self) -> None:
        await self._first.acquire()
        if self._second is not None:
            try:
                await self._second.acquire()
            except BaseException:
                self._first.release()
                raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._second is not None:
            self._second.release()
        self._first.release()


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
        refused = RefusedLogins(store, log, self.now, lambda: self.new_id())
        self.record_refusal = refused.record
        self.record_refused_login = refused.record_unknown
        self.applying = Applying(
            store,
            queues,
            log,
            self.fence,
            self.now,
            self.follow_clock,
            refused,
            lambda: self.policy.refuse_missing_queue,
        )
        self.waiting = self.applying.waiting
        # Called with every change that was written down.
        self.changed = self.applying.on_change
        self.changed.append(self._note_begun)

    # -- reading

    async def agent(self, number: str) -> AgentState:
        """Raises NoSuchAgent, Unavailable."""
        with _store_as_unavailable():
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
        with _store_as_unavailable():
            found = await self.store.agents_with_extension(extension, asterisk)
        return found[0] if len(found) == 1 else None

    async def agent_on(self, key: str) -> AgentState | None:
        """Who is logged in on the device with this ``Device.key``. Raises Unavailable."""
        with _store_as_unavailable():
            return await self.store.agent_at(key)

    async def number_of_queue(self, name: str) -> str:
        """What agents dial for the queue; "" when that is not known. Raises Unavailable."""
        with _store_as_unavailable():
            return (await self.store.queue_names()).get(name.lower(), ("", ""))[1]

    async def queue_numbered(self, number: str) -> str:
        """Raises NoSuchQueue, Unavailable."""
        with _store_as_unavailable():
            queue = await self.store.queue_numbered(number)
        if queue is None:
            raise errors.NoSuchQueue(number)
        return queue

    async def reasons(self) -> tuple[PauseReason, ...]:
        """The pause reasons by code. Raises Unavailable."""
        with _store_as_unavailable():
            return await self.store.reasons()

    async def reason(self, wanted: str) -> PauseReason | None:
        """The pause reason with this name, code or description. Raises Unavailable."""
        return find(await self.reasons(), wanted)

    def now(self) -> datetime:
        return self._clock()

    # -- the machine's clock

    async def follow_clock(self) -> datetime:
        """After the machine's clock was set: what goes on in the store has lasted as long as
        before. To be called before anything is judged by how long it lasts. Returns what time it
        is. Raises StoreUnavailable."""
        now = self._clock()
        if len(self._clock.steps) == self._steps_followed:
            return now
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
        return self._clock()

    def _note_begun(self, change: Change) -> None:
        before, after = change.before, change.after
        for was, now in ((before.session, after.session), (before.pause, after.pause)):
            if was is now:
                continue
            if was is not None and (now is None or now.id != was.id):
                self._begun.discard(was.id)
            if now is not None and (was is None or now.id != was.id):
                self._begun.add(now.id)

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
        with _store_as_unavailable():
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
        with _store_as_unavailable():
            allowed = await self.store.outside_numbers(agent.number)
        if not any(Pattern.parse(text).matches(device.extension) for text in allowed):
            raise errors.NumberNotAllowed(
                f"{device.extension} is not among agents[].outside of agent {agent.number}"
            )

    # -- changing

    def command(self, kind: type[C], agent: str, source: Source, actor: Actor, **values: Any) -> C:
        """A command about the agent with this number. ``values``: what this kind needs; an ``id``
        where it is to be the same however often the command is built, else it gets a new one."""
        if "id" not in values:
            values["id"] = self.new_id()
        return kind(agent=agent, source=source, actor=actor, **values)

    async def execute(
        self,
        command: Command,
        *,
        hung_up: Callable[[], bool] = _present,
        take_over: bool = False,
        only_if: OnlyIf | None = None,
    ) -> Change:
        """Carries the command out, or raises the Refused that says why nothing was changed.

        ``hung_up`` is asked when the change is confirmed; the events tell. ``take_over`` logs
        another agent off who is logged in on the device of a LogIn. What ``only_if`` returns is
        raised; NotLoggedIn where there is no such agent. A refused login is an event too, but for
        LoggedInElsewhere, after which the caller may still say "move".
        """
        take_overs = TAKE_OVERS if take_over else 0
        occupant = ""
        with wait_at_most():
            for attempt in range(take_overs + 1):
                try:
                    if occupant:
                        await self._vacate(command, occupant, attempt, hung_up)
                    if not self.linked:
                        raise errors.Unavailable("the manager link to Asterisk is down")
                    async with self._locks_for(command):
                        facts = await self._facts_for(command, only_if)
                        return await self.applying.carry_out(command, facts, hung_up)
                except (StoreUnavailable, QueuesUnavailable) as error:
                    away = errors.Unavailable(str(error))
                    await self._record_refused(command, away, hung_up())
                    raise away from error
                except Refused as refusal:
                    if isinstance(refusal, errors.ExtensionInUse) and attempt < take_overs:
                        occupant = refusal.occupant
                        continue
                    await self._record_refused(command, refusal, hung_up())
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _record_refused(self, command: Command, refusal: Refused, hung_up: bool) -> None:
        # What is not settled yet has its event when it is.
        if isinstance(command, LogIn) and not isinstance(
            refusal, errors.Unsettled | errors.LoggedInElsewhere
        ):
            await self.record_refusal(command, refusal.outcome, hung_up)

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
        self, command: Command, occupant: str, attempt: int, hung_up: Callable[[], bool]
    ) -> None:
        """Logs the occupant off the device that the login wants.

        Not for a login that will not happen: its agent is elsewhere and did not say "move". And
        not one who has left meanwhile: the occupant may sit elsewhere by now.
        """
        assert isinstance(command, LogIn)
        key = command.device.key
        state = await self.agent(command.agent)
        if state.session and not command.move:
            raise errors.LoggedInElsewhere(state.session.device)
        off = LogOff(
            id=f"{command.id}-off{attempt}",
            agent=occupant,
            source=command.source,
            actor=command.actor,
            reason="taken over",
        )

        def still_there(occupying: AgentState) -> Refused | None:
            session = occupying.session
            there = session is not None and session.device.key == key
            return None if there else errors.NotLoggedIn()

        with suppress(errors.NotLoggedIn):
            await self.execute(off, hung_up=hung_up, only_if=still_there)

    async def settle(self) -> None:
        """Settles the changes that nobody is at. Raises StoreUnavailable; QueuesUnavailable when
        some could not be settled, as their Asterisk is away."""
        away: QueuesUnavailable | None = None
        for change in await self.applying.unsettled():
            async with self._lock("agent:" + change.command.agent):
                open_now = {c.command.id for c in await self.applying.unsettled()}
                if change.command.id not in open_now:
                    continue
                try:
                    await self.applying.settle(change)
                except QueuesUnavailable as error:
                    away = error
        if away is not None:
            raise away

    # -- locks

    def _locks_for(self, command: Command) -> _Locked:
        agent = self._lock("agent:" + command.agent)
        if not isinstance(command, LogIn):
            return _Locked(agent, None)
        return _Locked(agent, self._lock("device:" + command.device.key))

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

    # -- facts

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

    async def _facts_for(self, command: Command, only_if: OnlyIf | None) -> Facts:
        """What only Asterisk or the past knows, asked where the command depends on it."""
        if isinstance(command, Pause | Unpause):  # how long pauses have lasted counts
            await self.follow_clock()
        state: AgentState | None = None
        if only_if is not None:
            state = await self.store.agent(command.agent)
            refusal = errors.NotLoggedIn(command.agent) if state is None else only_if(state)
            if refusal is not None:
                raise refusal
        if not isinstance(command, LogOff | Pause | Unpause | LeaveQueue):
            return NO_FACTS
        over_budget = isinstance(command, Pause) and await self._is_over_budget(command)
        waits = isinstance(command, LogOff | Pause) and command.when_in_call is not WhenInCall.ALLOW
        leaves = isinstance(command, LeaveQueue) and not command.confirmed
        queue_pauses = await self._queue_pauses_for(command)
        if not waits and not leaves and not queue_pauses:
            return Facts(over_budget=True) if over_budget else NO_FACTS
        state = state or await self.store.agent(command.agent)
        if state is None or state.session is None:
            return NO_FACTS  # it will be refused
        return Facts(
            in_call=waits and await self.in_call(state),
            locked=await self._is_locked(state, queue_pauses),
            over_budget=over_budget,
            last_in_queue=leaves and await self._is_last(state, command),
        )

    async def _queue_pauses_for(self, command: Command) -> QueuePauses:
        """What queues say of pauses, where it binds who gives this command: the agent."""
        as_agent = isinstance(command, Unpause) and command.as_agent
        if isinstance(command, Pause | Unpause) and (as_agent or command.source is Source.PHONE):
            return await self.store.queue_pauses()
        return {}

    async def _is_locked(self, state: AgentState, queue_pauses: QueuePauses) -> bool:
        """Whether the agent may not end the pause there is before its time."""
        if not queue_pauses or state.pause is None:
            return False
        reasons = await self.store.reasons()
        reason = still(reasons, state.pause.reason.code, state.pause.reason.name)
        if reason is None:
            return False
        pause = OpenPause(state.number, state.pause.id, reason, state.pause.since)
        queues = [m.queue for m in state.memberships]
        return locked(pause, self._clock(), queues, queue_pauses)

    async def _is_over_budget(self, command: Pause) -> bool:
        limit = (await self.store.limits()).get(command.reason.code)
        if (
            limit is None
            or limit.daily_budget is None
            or limit.when_exceeded is WhenExceeded.WARN  # the warning follows
        ):
            return False
        midnight = start_of_day(self._clock(), self.policy.zone)
        used = await self.store.paused_since(command.agent, command.reason.code, midnight)
        return used >= limit.daily_budget

    async def _is_last(self, state: AgentState, command: Command) -> bool:
        """Whether nobody but this agent, who is logged in, is in the queue to be left."""
        assert isinstance(command, LeaveQueue)
        assert state.session is not None
        device = state.session.device
        members = await self.queues.members(device.asterisk, queue=command.queue)
        return all(m.interface.lower() == device.interface.lower() for m in members)
