"""The driver of ``reconcile``: keeps the store and the Asterisks of one mind, for ever.

Who wins: after a restart of Asterisk, told by its start-up time, the store; otherwise Asterisk,
as what changed there is somebody's doing, and is adopted.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from fastagi.agents import errors
from fastagi.agents.applying import OWED
from fastagi.agents.clock import ClockStep
from fastagi.agents.commands import (
    Actor,
    Adopt,
    Command,
    LogOff,
    Pause,
    Unpause,
    WhenInCall,
)
from fastagi.agents.devices import DeviceRule, device_key, device_of
from fastagi.agents.differences import (
    Difference,
    Kind,
    agrees,
    differences,
    key_of,
    number_in,
    owned,
    restored,
    seen,
)
from fastagi.agents.events import Event
from fastagi.agents.fence import AWAY, Supervisor
from fastagi.agents.log import Log, Trouble
from fastagi.agents.missing_queues import MissingQueues
from fastagi.agents.model import AgentState, Change
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
    in_words,
    restarted,
)
from fastagi.agents.phone_notes import noted_by, with_notes
from fastagi.agents.service import AgentService
from fastagi.agents.static_members import CURE as STATIC_CURE
from fastagi.contract import LOGGED_OFF, EventType, Script, Source

STARTED = "asterisk_started"  # note: when this Asterisk was started, as last seen
TO_PUT_BACK = "to_put_back:{}:"  # notes: agents whose members a restarted Asterisk still lacks
FEW = 8  # so many agents are asked for one by one; for more the whole of the queues is read
BATCH = 25  # members put back together: what a phone code may have to wait for …
AT_ONCE = 4  # … and three times as many on their way, so that Asterisk is never idle
CHUNK = 160  # agents looked at together
LATEST = 2_000  # events whose agents' lamps are set anew after a restart
AGAIN = 0.25  # seconds until what could not be judged is looked at again
# Seconds after which an event of a removal would have been heard, and written down by whichever
# service was the first, on a busy machine too.
SILENCE = 1.5
REFUSED_AGAIN = timedelta(seconds=60)  # a planned change that Asterisk refused
SKEW = timedelta(seconds=2)  # between Asterisk's clock and ours
RETRY = 1.0  # seconds until it is tried again while the store or Asterisk is away
MOST_TRIED = 1_000  # notes
# News of members that wait while the store is away; when there are more, all is compared instead.
MOST_NEWS = 20_000
TRIES = 3  # of a note of the fallback that meets a fault of ours
ALONE_AGAIN = 1.0  # seconds until it is asked again whether another service is still at it
# The fallback leaves its note first: so long it may take to do what the note says.
FRESH = timedelta(seconds=2)
MAX_SAID = 1_000  # refusals that are remembered so that they are logged once
# So many changes of ours, over so many seconds, are told back to us by no event before it is said
# that none come. One that was "already so" has none.
DEAF_AFTER, DEAF_SECONDS = 3, 10.0
MOST_INVALID = 1_000  # interfaces that are remembered as logged

RECONCILE = "reconcile"  # the actor of repairs
TASK = "reconcile"  # for the log and the metrics
PUT_BACK, TAKEN_OUT, ADOPTED, CORRECTED = "put back", "taken out", "adopted", "corrected"
REPAIRED_AS = {
    Kind.MISSING: PUT_BACK,
    Kind.EXTRA: TAKEN_OUT,
    Kind.ELSEWHERE: TAKEN_OUT,
    Kind.PAUSE: CORRECTED,
    Kind.PENALTY: CORRECTED,
}


class Reconciler:
    """Runs as ``run()`` in the application's task group.

    ``rules`` say which extension an interface is. ``every``: how often all is compared, None:
    only at start and after each reconnect. ``restored`` is called after an Asterisk has got its
    members back, with all agents who are logged in, or were lately. ``counted`` learns of repairs
    by kind.
    """

    def __init__(
        self,
        service: AgentService,
        log: Log,
        *,
        rules: Callable[[], Sequence[DeviceRule]],
        every: Callable[[], timedelta | None] = lambda: None,
        restored: Callable[[str, list[AgentState]], Awaitable[None]] | None = None,
        counted: Callable[[str, str, int], None] = lambda asterisk, kind, count: None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.service = service
        self.rules = rules
        self.every = every
        self.restored = restored
        self.counted = counted
        self.log = log
        self.fence = service.fence
        self._supervisor = supervisor or Supervisor(self.fence)
        self._unsettled = Trouble(
            log, "not everything could be settled yet", "all that was open is settled"
        )
        self._sides = {name: _Side(name, self) for name in service.queues.names}
        self.missing = MissingQueues(service, log)
        self._planned = True  # until it was looked
        self._not_before: dict[str, datetime] = {}  # by id of what was planned
        self._attention = asyncio.Event()
        self._attention.set()
        service.applying.on_unsettled.append(self._attention.set)
        service.applying.on_given_up.append(self.reconnected)
        service.changed.append(lambda change: self._note_plan(change.after))
        service.clock_set.append(self._clock_was_set)

    # -- what is told to it

    def reconnected(self, asterisk: str) -> None:
        """To be called at each manager login: this Asterisk may have restarted meanwhile."""
        self._sides[asterisk].reconnected()
        self._attention.set()
        self.missing.look_again()

    def noticed(self, news: Iterable[MemberNews]) -> None:
        """Members of queues have changed, by us or by others."""
        for item in news:
            self._sides[item.member.asterisk].noticed(item)
            self.missing.seen(item.member.queue)

    def call_ended(self, interface: str, asterisk: str = "") -> None:
        """A queue call has ended: what was planned for then may be due."""
        if self._planned:
            self._attention.set()

    def _clock_was_set(self, _: ClockStep) -> None:
        """What Asterisk refused is tried again now, not when the clock shows that time again."""
        self._not_before.clear()
        self._attention.set()

    def _note_plan(self, agent: AgentState) -> None:
        if agent.planned is not None:
            self._planned = True
            self._attention.set()

    # -- running

    async def run(self) -> None:
        keep = self._supervisor.keep
        async with asyncio.TaskGroup() as group:
            group.create_task(keep("settle", self._settle_for_ever), name="settle")
            for asterisk, side in self._sides.items():
                name = f"reconcile {asterisk}".rstrip()
                group.create_task(keep(name, side.run), name=name)
            name = "join queues that were missing"
            group.create_task(keep(name, self.missing.run), name=name)

    async def catch_up(self) -> None:
        """Does what is waiting to be done, once. Raises StoreUnavailable, QueuesUnavailable or
        Unavailable when something went away meanwhile; to be called again then."""
        for side in self._sides.values():
            await side.catch_up()
        await self.service.settle()
        await self._carry_out_planned()

    async def _settle_for_ever(self) -> None:
        """When something was left unconfirmed; while something waits for a call's end, every two
        seconds; and now and then, as another service may have died."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 if self._planned else 5):
                    await self._attention.wait()
            self._attention.clear()
            if not self.service.linked:
                continue  # the reconnect brings us back here
            away: Exception | None = None
            # Whatever is away keeps nobody from what can be done: it may be another Asterisk.
            for what in (self.service.settle, self._carry_out_planned):
                try:
                    await what()
                except AWAY as error:
                    away = error
                except BaseException:
                    self._attention.set()
                    raise
            if away is None:
                self._unsettled.is_over()
            else:
                self._unsettled.is_there(error=str(away))
                await asyncio.sleep(RETRY)
                self._attention.set()

    async def _carry_out_planned(self) -> None:
        self._planned = False  # first: something may be planned while these are read
        try:
            waiting = await self.service.store.planned()
            self._planned |= bool(waiting)
        except BaseException:
            self._planned = True
            raise
        away: QueuesUnavailable | errors.Unavailable | None = None
        now = self.service.now()
        self._not_before = {
            planned.id: self._not_before[planned.id]
            for planned in waiting
            if planned.id in self._not_before
        }
        for planned in waiting:
            if self._not_before.get(planned.id, now) > now:
                continue
            try:
                with self.fence.item("settle", *AWAY, errors.Refused, agent=planned.agent):
                    await self._carry_out_one(planned)
                    continue
                self._not_before[planned.id] = now + REFUSED_AGAIN
            except (QueuesUnavailable, errors.Unavailable) as error:
                away = error
            except errors.Refused as refusal:
                self._not_before[planned.id] = now + REFUSED_AGAIN
                self.log.warning(
                    "what was planned was refused", agent=planned.agent, why=str(refusal)
                )
        if away is not None:
            raise away

    async def _carry_out_one(self, planned: LogOff | Pause) -> None:
        state = await self.service.store.agent(planned.agent)
        if state is None or state.session is None:
            return
        if await self.service.in_call(state):
            return
        now = replace(planned, id=f"{planned.id}-after", when_in_call=WhenInCall.ALLOW)

        def still(state: AgentState) -> errors.Refused | None:
            return None if state.planned == planned else errors.NotLoggedIn()

        # Who has logged in again meanwhile, or taken it back, stays.
        with suppress(errors.NotLoggedIn):
            await self.service.execute(now, only_if=still)

    async def compare(self, asterisk: str) -> list[Difference]:
        """What differs now, without any lock: changes on their way are among it."""
        return await compare(self.service, asterisk)

    async def all_now(self) -> Counter[str]:
        """Compares and repairs all there is, now. Raises StoreUnavailable, QueuesUnavailable."""
        done: Counter[str] = Counter()
        away: Exception | None = None
        for side in self._sides.values():
            try:
                done += await side.compare_now()
            except AWAY as error:  # keeps nobody from comparing the others
                away = error
        if away is not None and not done:
            raise away
        return done


def started_note(asterisk: str) -> str:
    """Under which key the store remembers when this Asterisk was started."""
    return f"{STARTED}:{asterisk}" if asterisk else STARTED


def _batches(numbers: Iterable[str], missing: Mapping[str, int]) -> Iterator[list[str]]:
    """Agents, so many together that about BATCH members are put back."""
    batch: list[str] = []
    size = 0
    for number in numbers:
        batch.append(number)
        size += missing[number]
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _is_unpaused_static(item: MemberNews) -> bool:
    return item.present and not item.member.dynamic and not item.member.paused


def _is_of(note: Note, state: AgentState, key: str) -> bool:
    """Whether it was this agent who sat there then."""
    session = state.session
    return session is not None and session.device.key == key and session.since <= note.at + SKEW


async def compare(
    service: AgentService,
    asterisk: str,
    look: Callable[[Sequence[ReportedMember]], None] = lambda reported: None,
) -> list[Difference]:
    """See ``Reconciler.compare``. ``look`` gets the members that Asterisk reports."""
    queues = await service.store.queue_names()
    agents = await service.store.logged_in()
    reported = await service.queues.members(asterisk)
    look(reported)
    named = {number_in(m.name) for m in reported} - {agent.number for agent in agents} - {""}
    more = await service.store.states(sorted(named))
    found: list[Difference] = []

    def differ(some: Sequence[AgentState]) -> None:
        found.extend(differences(some, reported, asterisk, queues, service.queues.names))

    everybody = [*agents, *more.values()]
    try:
        differ(everybody)
    except Exception:  # of one of them: the others are compared without
        for agent in everybody:
            with service.fence.item("reconcile", agent=agent.number):
                differ([agent])
    return found


class _Side:
    """One Asterisk."""

    def __init__(self, asterisk: str, all_of_them: Reconciler) -> None:
        self.asterisk = asterisk
        self.all = all_of_them
        self.service = all_of_them.service
        self.store = all_of_them.service.store
        self.queues = all_of_them.service.queues
        self.log = all_of_them.log
        self._bell = asyncio.Event()
        self._reconnected = False
        self._connection = 0  # counts them
        self._met = -1  # the one over which it was seen whether this Asterisk has restarted
        self._news: dict[str, list[MemberNews]] = {}  # by the agent's number, "" where unknown
        self._unread = 0  # how many these are
        self._again: set[str] = set()  # agents who could not be judged
        # While a comparison waits: the interfaces (as ``Device.key``) whose removal was heard.
        self._removed: set[str] | None = None
        # Of our changes since the last event of a queue member, and when the first of them was.
        self._unheard = 0
        self._unheard_since = 0.0
        self._deaf = Trouble(
            all_of_them.log,
            "Asterisk sends no queue events",
            "Asterisk sends queue events again",
            asterisk=asterisk,
        )
        self._invalid: set[str] = set()  # interfaces whose state interface is Invalid, as logged
        self.service.changed.append(self._expect_news)
        # Agents for whom the store wins, as they could not be put back after a restart yet.
        self._to_put_back: set[str] = set()
        self._one_at_a_time = asyncio.Lock()
        self._not_repaired: dict[Operation, str] = {}  # what Asterisk refused, and how it said so
        self._tries: Counter[str] = Counter()  # of notes that cannot be taken, by key
        self._uncompared = Trouble(
            self.log,
            "not everything could be compared yet",
            "all is compared",
            **({"asterisk": asterisk} if asterisk else {}),
        )

    def reconnected(self) -> None:
        self._reconnected = True
        self._connection += 1
        self._unheard = 0
        self._news.clear()  # all is compared
        self._unread = 0
        self._bell.set()

    def noticed(self, item: MemberNews) -> None:
        if self._met != self._connection:
            return  # all is compared once it is known whether Asterisk has restarted
        self._unheard = 0
        if self._deaf:
            self._deaf.is_over()
        invalid = item.member.invalid and item.present
        if invalid is not (item.member.interface in self._invalid):
            self._note_invalid(item.member, invalid)
        if self._removed is not None and not item.present:
            self._removed.add(key_of(item.member))
        if self._unread >= MOST_NEWS:
            self.log.warning(
                "too many queue events wait for the store: all is compared once it is back",
                count=self._unread,
                **({"asterisk": self.asterisk} if self.asterisk else {}),
            )
            self.reconnected()
            return
        self._news.setdefault(number_in(item.member.name), []).append(item)
        self._unread += 1
        self._bell.set()

    def _expect_news(self, change: Change) -> None:
        """Each member that we add or remove is told back to us as an event, unless the manager
        user may not read it."""
        steps = [step.do for step in change.steps if step.do.asterisk == self.asterisk]
        if not any(isinstance(do, AddMember | RemoveMember) for do in steps):
            return
        now = asyncio.get_running_loop().time()
        if self._unheard == 0:
            self._unheard_since = now
        self._unheard += 1
        if self._unheard > DEAF_AFTER and now - self._unheard_since > DEAF_SECONDS:
            self._deaf.is_there(
                effect="what others change in Asterisk, phones that go away and ends of calls are"
                " found late or not at all",
                mend="read = agent for the manager user, no eventfilter that hides QueueMember",
            )

    def _note_invalid(self, member: ReportedMember, invalid: bool = True) -> None:
        """Said once, until it is valid again or the member is taken out."""
        if not invalid:
            self._invalid.discard(member.interface)
        elif number_in(member.name) and len(self._invalid) < MOST_INVALID:
            self._invalid.add(member.interface)
            self.log.warning(
                "a member's state interface is Invalid",
                effect="the queue does not ring this phone",
                agent=number_in(member.name),
                queue=member.queue,
                interface=member.interface,
                state_interface=member.state_interface,
                mend="correct state_interface in the device rule, or the endpoint or hint it names",
                **({"asterisk": self.asterisk} if self.asterisk else {}),
            )

    def _look_for_invalid(self, reported: Sequence[ReportedMember]) -> None:
        self._invalid &= {member.interface for member in reported if member.invalid}
        for member in reported:
            if member.invalid and member.interface not in self._invalid:
                self._note_invalid(member)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        compared = loop.time()
        while True:
            every = self.all.every()
            waits = [compared + every.total_seconds() - loop.time()] if every else []
            waits += [AGAIN] if self._again else []
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(waits)) if waits else None):
                    await self._bell.wait()
            self._bell.clear()
            if not self.queues.connected(self.asterisk):
                if not waits or self._bell.is_set():
                    continue
                await asyncio.sleep(AGAIN)
                compared = max(compared, loop.time() - 1)
                continue
            try:
                if self._reconnected:
                    compared = loop.time()
                elif every and loop.time() >= compared + every.total_seconds():
                    compared = loop.time()
                    await self.compare_now()
                await self.catch_up()
            except AWAY as error:
                self._uncompared.is_there(error=str(error))
                await asyncio.sleep(RETRY)
                self._bell.set()
            except BaseException:
                self._bell.set()  # for when it is begun again
                raise
            else:
                self._uncompared.is_over()

    async def catch_up(self) -> None:
        async with self._one_at_a_time:
            if self._reconnected:
                await self._meet_again()
            if not self._reconnected:
                await self._look_at_news()

    async def compare_now(self) -> Counter[str]:
        """Everything, beside what events told. Raises StoreUnavailable, QueuesUnavailable."""
        async with self._one_at_a_time:
            if self._reconnected:
                await self._meet_again()
            return await self.compare_all()

    # -- after a (re)connect

    async def _meet_again(self) -> None:
        self._reconnected = False  # first: there may be another one meanwhile
        try:
            async with self.store.alone(f"reconcile:{self.asterisk}") as alone:
                if not alone:
                    # Another service is at it. What it leaves is seen by looking once more.
                    await asyncio.sleep(ALONE_AGAIN)
                    self._reconnected = True
                    self._bell.set()
                    return
                connection = self._connection
                note = started_note(self.asterisk)
                started = await self.queues.started_at(self.asterisk)
                before = await self.store.note(note)
                if before is None:
                    # Known from now on: should Asterisk restart while the first comparison runs,
                    # who has logged in meanwhile is put back.
                    await self.store.set_note(note, started)
                with suppress(QueuesUnavailable):  # another Asterisk may be away
                    await self.service.settle()
                await self._take_notes()
                await self._pause_static_members()
                prefix = TO_PUT_BACK.format(self.asterisk)
                left = await self.store.notes(prefix)
                self._to_put_back = {key.removeprefix(prefix) for key in left}
                if before is not None and restarted(before, started):
                    await self._restore()
                await self.store.set_note(note, started)
                self._met = connection
                await self.compare_all(lost_link=True)
        except BaseException:
            self._reconnected = True
            raise

    async def _restore(self) -> None:
        """Asterisk has restarted, so its members are what the store says."""
        found = await compare(self.service, self.asterisk)
        if found:
            self.log.warning("Asterisk has restarted: members are put back", members=len(found))
        kinds: dict[str, set[Kind]] = {}
        for difference in found:
            kinds.setdefault(difference.agent, set()).add(difference.kind)
        # A change on its way may have been applied to the Asterisk of before.
        for change in await self.service.applying.unsettled():
            if any(step.do.asterisk == self.asterisk for step in change.steps):
                kinds.setdefault(change.command.agent, set()).add(Kind.MISSING)
        plain = [number for number, its in kinds.items() if its == {Kind.MISSING}]
        missing = Counter(difference.agent for difference in found)
        chunks = _batches(plain, missing)
        done: Counter[str] = Counter()

        async def put_back() -> None:
            for numbers in chunks:
                with self.all.fence.item(TASK, *AWAY, agents=len(numbers)):
                    done.update(await self._put_back(numbers))
                    continue
                # One of them is at fault: each is looked at by itself.
                await self._remember(numbers)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(put_back())
        except BaseExceptionGroup as failures:  # what is away is known by its own exception
            raise failures.exceptions[0] from None
        finally:
            await self._tell(done)
        others = sorted(kinds.keys() - set(plain))
        await self._remember(others)
        for i in range(0, len(others), CHUNK):
            await self._look(others[i : i + CHUNK])
        if self.all.restored is not None:
            # Asterisk writes its database now and then: what it was told last may be lost.
            agents = {agent.number: agent for agent in await self.store.lately(LATEST)}
            agents.update((agent.number, agent) for agent in await self.store.logged_in())
            with self.all.fence.item("lamps", *AWAY, asterisk=self.asterisk):
                await self.all.restored(self.asterisk, list(agents.values()))

    async def _put_back(self, numbers: Sequence[str]) -> Counter[str]:
        async with self.service.holding(numbers) as states:
            # An add of a member that is there after all is answered "Already there".
            adds = {
                add: state.number
                for state in states.values()
                for add in restored(state, self.asterisk)
            }
            done, refused = await self._apply([(add, PUT_BACK) for add in adds])
        # Those with an open change, and those whom Asterisk refused: by the next look.
        later = {adds[add] for add in refused if isinstance(add, AddMember)}
        await self._remember((set(numbers) - set(states)) | later)
        return done

    async def _remember(self, numbers: Iterable[str]) -> None:
        """For these agents the store wins until they were looked at, whatever happens."""
        for number in numbers:
            await self.store.set_note(TO_PUT_BACK.format(self.asterisk) + number, "")
            self._to_put_back.add(number)
            self._again.add(number)

    async def _put_back_is_done(self, numbers: Iterable[str]) -> None:
        for number in self._to_put_back.intersection(numbers):
            await self.store.drop_note(TO_PUT_BACK.format(self.asterisk) + number)
            self._to_put_back.discard(number)

    async def _take_out_owed(self) -> None:
        """Devices whose agents moved to another Asterisk while this one was away, at least for the
        service that moved them."""
        prefix = OWED.format(self.asterisk)
        for note, number in (await self.store.notes(prefix)).items():
            with self.all.fence.item(TASK, *AWAY, agent=number):
                await self._take_out(note, note.removeprefix(prefix), number)

    async def _take_out(self, note: str, key: str, number: str) -> None:
        async with self.service.holding([number]) as states:
            state = states.get(number)
            if state is None and await self.store.states([number]):
                self._again.add(number)  # a change is open; it may bring the agent back
                return
            if state is None or state.session is None or state.session.device.key != key:
                members = await self.queues.members(self.asterisk)
                removals: list[Operation] = [
                    RemoveMember(m.queue, m.interface, self.asterisk)
                    for m in members
                    if device_key(self.asterisk, m.interface) == key and number_in(m.name) == number
                ]
                done, _ = await self._apply([(removal, TAKEN_OUT) for removal in removals])
                await self._tell(done)
            await self.store.drop_note(note)

    # -- members that cannot be removed

    async def _pause_static_members(self) -> None:
        """Members that queues.conf or a realtime table keeps, and that agents of ours have used,
        are paused while no agent is in the queue with them: also after a restart of Asterisk,
        which forgets that they were."""
        rows = await self.service.applying.static.on(self.asterisk)
        if not rows:
            return
        # By name, as some may not be in the configuration any more.
        queues = sorted({queue for queue, _ in rows})
        reported = {
            (m.queue.lower(), m.interface.lower()): m
            for m in await self.queues.members(self.asterisk, queues=queues)
        }
        paused = 0
        for queue, interface in rows:
            with self.all.fence.item(TASK, *AWAY, queue=queue, interface=interface):
                member = reported.get((queue.lower(), interface.lower()))
                if member is None or member.dynamic:
                    # The line is gone, not only the whole queue for a moment.
                    if member or not await self.queues.lacking(self.asterisk, [queue]):
                        await self.service.applying.static.forget(self.asterisk, queue, interface)
                elif not member.paused:
                    paused += await self._pause_static(queue, interface)
        await self._tell(Counter({CORRECTED: paused} if paused else {}))

    async def _pause_static(self, queue: str, interface: str) -> bool:
        """Whether it was paused: not while somebody is in the queue with this phone, or just about
        to be."""
        key = device_key(self.asterisk, interface)
        before = await self.store.agent_at(key)
        numbers = [before.number] if before else []
        async with self.service.holding(numbers) as states, self.service.holding_device(key):
            now = await self.store.agent_at(key)
            found = [now.number] if now else []
            if found != numbers or len(states) < len(numbers):
                self._again.update([*numbers, *found])  # something is under way: looked at again
                return False
            for state in states.values():
                if any(m.queue.lower() == queue.lower() for m in state.joined):
                    return False
            members = await self.queues.members(self.asterisk, queue, interface)
            if not any(not m.dynamic and not m.paused for m in members):
                return False
            pause = PauseMember(interface, True, LOGGED_OFF, queue, self.asterisk)
            (result,) = await self.queues.apply([pause])
        if result.answer is not Answer.DONE:
            return False
        self.log.warning(
            "static member of a queue that its agent has left: it was not paused, and is now",
            queue=queue,
            interface=interface,
            cure=STATIC_CURE,
        )
        return True

    # -- notes of the fallback

    async def _take_notes(self) -> set[str]:
        """What phones did while no service was there becomes known as theirs, at its time.

        Gives the agents who are not to be judged before a later look has taken their notes.
        """
        notes = await self.queues.notes(self.asterisk)
        taken: list[Note] = []
        later: dict[str, str] = {}  # agents, by device: all that follows waits too
        for note in sorted(notes, key=lambda note: note.key):
            key = device_key(self.asterisk, note.interface)
            number = later.get(key)
            if not number:
                with self.all.fence.item(TASK, *AWAY, interface=note.interface, note=note.key):
                    number = await self._take(note, key)
                if number is None and self._tries_again(note):
                    continue  # it is tried once more, and not for ever
            if number:
                later[key] = number
            else:
                taken.append(note)
                self._tries.pop(note.key, None)
        if taken:
            await self.queues.forget(self.asterisk, taken)
        self._again |= set(later.values())
        return set(later.values())

    def _tries_again(self, note: Note) -> bool:
        if len(self._tries) > MOST_TRIED:
            self._tries.clear()
        self._tries[note.key] += 1
        return self._tries[note.key] < TRIES

    async def _take(self, note: Note, key: str) -> str:
        """The agent's number when it is to be taken later, else ""."""
        state = await self.store.agent_at(key)
        if state is None or not _is_of(note, state, key):
            self.log.info("a note of the fallback is of nobody", interface=note.interface)
            return ""
        if abs(self.service.now() - note.at) < FRESH:
            return state.number
        async with self.service.holding([state.number]) as states:
            held = states.get(state.number)
            if held is None:  # another change of the agent is open
                return state.number
            if not _is_of(note, held, key):  # the agent has moved meanwhile
                return ""
            if note.script is Script.UNPAUSE and held.pause and held.pause.since > note.at:
                return ""  # read once more, as Asterisk kept it: it ended no pause then
            state = held
            command = await self._noted(state, note)
            if command is None:
                self.log.warning("a note of the fallback names no pause reason", reason=note.reason)
                return ""
            try:
                change = await self.service.applying.write_applied(command, note.at, held=True)
            except errors.Unavailable:
                return state.number
            except errors.Refused as refusal:
                self.log.warning("a note of the fallback was refused", why=str(refusal))
                return ""
            self.service.applying.notify(change)
            self.log.info(
                "done on the phone while the service was away",
                agent=state.number,
                command=type(command).__name__,
                at=note.at.isoformat(timespec="milliseconds"),
            )
        return ""

    async def _noted(self, state: AgentState, note: Note) -> Command | None:
        fields = noted_by(note, self.asterisk, state.number)
        if note.script is Script.LOGOFF:
            return LogOff(**fields)
        if note.script is Script.UNPAUSE:
            return Unpause(**fields)
        for reason in await self.store.reasons():
            if reason.code == note.reason:
                return Pause(**fields, reason=reason)
        return None

    # -- comparing

    async def compare_all(self, *, lost_link: bool = False) -> Counter[str]:
        """Everything: what differs is looked at again under the agents' locks, then mended.

        Whoever changes a member is heard. So what differs although the link was there all the time
        was lost by Asterisk (app_queue was loaded anew, or has read queues.conf), and is put back.
        """
        if self._met != self._connection:
            raise QueuesUnavailable("it is not known yet whether Asterisk has restarted")
        await self._take_out_owed()
        later = await self._take_notes()
        await self._pause_static_members()
        found = await compare(self.service, self.asterisk, self._look_for_invalid)
        differing = {difference.agent for difference in found}
        lost = differing - {d.agent for d in found if lost_link or not d.reread}
        if lost - self._to_put_back:
            self._removed = {
                key_of(item.member)
                for items in self._news.values()
                for item in items
                if not item.present
            }
            try:
                await asyncio.sleep(SILENCE)
                await self._look_at_news()
                still = await compare(self.service, self.asterisk)
                removed = self._removed
            finally:
                self._removed = None
            missing = {d.agent: device_key(self.asterisk, d.interface) for d in still if d.reread}
            lost &= missing.keys()
            # A removal was heard since: what is missing now may be missing for another one, whose
            # event is still on its way. The next comparison finds what no event explains.
            later |= {number for number in lost if missing[number] in removed}
            later |= await self._take_notes()  # of what was done since, by the fallback
            await self._remember(lost - later)
        numbers = sorted(differing - later)
        done: Counter[str] = Counter()
        for i in range(0, len(numbers), CHUNK):
            done += await self._look(numbers[i : i + CHUNK])
        return done

    async def _look_at_news(self) -> None:
        news, self._news = self._news, {}
        self._unread = 0
        again, self._again = self._again, set()
        try:
            suspects = await self._suspects(news)
            if again or any(_is_unpaused_static(i) for items in news.values() for i in items):
                await self._pause_static_members()
            if again:
                await self._take_out_owed()
                for number in await self.store.states(sorted(again)):
                    suspects.setdefault(number, [])
            if suspects:
                later = await self._take_notes()
                if numbers := sorted(suspects.keys() - later):
                    await self._look(numbers, news=suspects)
        except Exception as error:
            if not isinstance(error, AWAY):
                # Something in these news: whoever they are about is looked at without them.
                self.all.fence.skipped(TASK, error, asterisk=self.asterisk)
                self._again |= again | (news.keys() - {""})
                return
            self._keep(news, again)
            raise
        except BaseException:
            self._keep(news, again)
            raise

    def _keep(self, news: dict[str, list[MemberNews]], again: set[str]) -> None:
        self._again |= again
        for number, items in news.items():
            self._news[number] = items + self._news.get(number, [])  # the earlier ones first
            self._unread += len(items)

    async def _suspects(self, news: dict[str, list[MemberNews]]) -> dict[str, list[MemberNews]]:
        """What the store has otherwise, by agent. Most news is our own doing."""
        if not news:
            return {}
        states = await self.store.states([number for number in news if number])
        suspects: dict[str, list[MemberNews]] = {}
        strange: list[MemberNews] = []  # by its name of no agent of ours
        for number, items in news.items():
            state = states.get(number)
            if state is None:
                strange += items
                continue
            # What agrees with the state of before may not agree with the one of a moment later.
            if self.service.changing(number) or not all(agrees(state, item) for item in items):
                suspects[number] = items
            here = state.session.device.key if state.session else ""
            # Somebody else may sit there.
            strange += [item for item in items if key_of(item.member) != here]
        if strange:
            keys = [device_key(self.asterisk, item.member.interface) for item in strange]
            sitting = await self.store.agents_at(sorted(set(keys)))
            for key, item in zip(keys, strange, strict=True):
                state = sitting.get(key)
                if state is not None and (
                    self.service.changing(state.number) or not agrees(state, item)
                ):
                    suspects.setdefault(state.number, []).append(item)
        return suspects

    async def _look(
        self, numbers: Sequence[str], *, news: dict[str, list[MemberNews]] | None = None
    ) -> Counter[str]:
        """Compares these agents once more, with nobody changing them, and mends what differs. One
        that meets a fault of ours is left out, until the next comparison."""
        try:
            return await self._look_together(numbers, news)
        except Exception as error:
            if isinstance(error, AWAY):
                raise
            if len(numbers) == 1:
                self.all.fence.skipped(TASK, error, agent=numbers[0], asterisk=self.asterisk)
                return Counter()
        done: Counter[str] = Counter()
        for number in numbers:
            done += await self._look([number], news=news)
        return done

    async def _look_together(
        self, numbers: Sequence[str], news: dict[str, list[MemberNews]] | None
    ) -> Counter[str]:
        connection = self._connection
        await self.service.follow_clock()
        async with self.service.holding(numbers) as states:
            self._again.update(set(numbers) - set(states))
            if news is not None:  # a change that was on its way is there by now
                states = {
                    number: state
                    for number, state in states.items()
                    if not news[number] or not all(agrees(state, item) for item in news[number])
                }
            # What an agent has left behind here is nobody's doing.
            owed = set((await self.store.notes(OWED.format(self.asterisk))).values())
            owed = (owed & states.keys()) - self._to_put_back
            self._again |= owed
            states = {n: state for n, state in states.items() if n not in owed}
            if not states:
                return Counter()
            queues = await self.store.queue_names()
            reported = [
                member
                for member in await self._reported(states.values(), news)
                if member.queue.lower() in queues
            ]
            store_wins = self._to_put_back & states.keys()
            if self._met != self._connection and store_wins != states.keys():
                # It may have restarted: what is missing was taken out by nobody.
                raise QueuesUnavailable("the connection is a new one")
            by_agent: dict[str, list[Difference]] = {}
            for difference in differences(
                list(states.values()), reported, self.asterisk, queues, self.queues.names
            ):
                by_agent.setdefault(difference.agent, []).append(difference)
            # A note is there before its change can be seen: what is to be adopted may have one.
            adopted = {number: states[number] for number in by_agent.keys() - store_wins}
            for number in await with_notes(self.queues, adopted):
                del by_agent[number]
                self._again.add(number)
            missing = await self._missing_queues(
                [d for number, some in by_agent.items() if number not in store_wins for d in some]
            )
            its = owned(states.values(), reported)
            done: Counter[str] = Counter()
            repairs: list[tuple[Operation, str]] = []
            removed: set[str] = set()
            rejected: set[str] = set()
            for number, differs in by_agent.items():
                if number in store_wins or all(d.ours for d in differs):
                    continue
                here = its[number].here if number in its else ()
                change = await self._adopt(states[number], here, queues, missing=missing)
                if change is None:
                    rejected.add(number)
                    continue
                done[ADOPTED] += 1
                if change.after.session is None:
                    removed.add(number)
            for number, differs in by_agent.items():
                everything = number in store_wins or number in rejected
                mended = [d for d in differs if everything or d.ours]
                if mended and removed and (number in removed or not states[number].session):
                    # Put in at another place, or at the place of somebody who is off now: seen as
                    # a login by the next look.
                    self._again.add(number)
                    continue
                repairs += [(d.repair, REPAIRED_AS[d.kind]) for d in mended]
            repaired, refused = await self._apply(repairs)
            if connection != self._connection:
                raise QueuesUnavailable("the connection is a new one")
            for number in store_wins:
                lacking = [
                    d
                    for d in by_agent.get(number, ())
                    if d.kind is Kind.MISSING and d.repair in refused
                ]
                if lacking:
                    missing = {
                        d.queue.lower()
                        for d in lacking
                        if refused[d.repair] is Answer.NO_SUCH_QUEUE
                    }
                    await self._give_up(states[number], queues, missing)
            await self._put_back_is_done(store_wins)
        await self._tell(repaired, adopted=done[ADOPTED])
        return done + repaired

    async def _missing_queues(self, differs: Sequence[Difference]) -> set[str]:
        """Of the queues that agents are not in: those that Asterisk lacks, in lower case. Nobody
        has taken anybody out of these."""
        queues = {d.queue for d in differs if d.kind is Kind.MISSING}
        return await self.queues.lacking(self.asterisk, sorted(queues)) if queues else set()

    async def _give_up(
        self, state: AgentState, queues: dict[str, tuple[str, str]], missing: set[str]
    ) -> None:
        """Asterisk does not take the agent back as the store means it: so it is as Asterisk has it,
        and that was nobody's doing but ours. The ``missing`` queues are joined when they are
        there."""
        reported = await self.queues.members(self.asterisk)
        its = owned([state], (m for m in reported if m.queue.lower() in queues))
        here = its[state.number].here if state.number in its else ()
        await self._adopt(state, here, queues, Source.SYSTEM, missing)

    async def _reported(
        self, states: Collection[AgentState], news: dict[str, list[MemberNews]] | None
    ) -> list[ReportedMember]:
        if len(states) > FEW:
            return await self.queues.members(self.asterisk)
        interfaces = {
            state.session.device.interface.lower(): state.session.device.interface
            for state in states
            if state.session and state.session.device.asterisk == self.asterisk
        }
        for state in states:
            for item in (news or {}).get(state.number, ()):
                interfaces.setdefault(item.member.interface.lower(), item.member.interface)
        if news is None or not all(news.get(state.number) for state in states):
            return await self.queues.members(self.asterisk)  # they may be anywhere
        found = await asyncio.gather(
            *(self.queues.members(self.asterisk, interface=name) for name in interfaces.values())
        )
        return [member for some in found for member in some]

    async def _adopt(
        self,
        state: AgentState,
        here: Sequence[ReportedMember],
        queues: dict[str, tuple[str, str]],
        source: Source = Source.ASTERISK,
        missing: Collection[str] = (),
    ) -> Change | None:
        """None: it cannot be so, as another agent has that device."""
        lacking = [m for m in state.joined if m.queue.lower() in missing]
        if lacking:
            await self.service.waiting.add(state, lacking)
        device = None
        if state.session is None and here:
            one = here[0]
            device = device_of(self.all.rules(), one.interface, one.state_interface, self.asterisk)
        command = Adopt(
            id=self.service.new_id(),
            agent=state.number,
            source=source,
            actor=Actor(name=self.asterisk if source is Source.ASTERISK else RECONCILE),
            members=seen(state, here, queues),
            device=device,
            reasons=await self.store.reasons(),
            missing=tuple(m.queue for m in lacking),
        )
        try:
            change = await self.service.applying.adopt(command)
        except errors.Unavailable:
            raise
        except errors.Refused as refusal:
            self.log.warning("cannot be adopted", agent=state.number, why=str(refusal))
            return None
        for event in change.events:
            self.log.info(
                "changed in Asterisk itself"
                if source is Source.ASTERISK
                else "not taken back by Asterisk",
                agent=event.agent,
                type=event.type.value,
                queues=list(event.queues),
                reason=event.reason,
            )
        self.service.applying.notify(change)
        return change

    async def _apply(
        self, repairs: Sequence[tuple[Operation, str]]
    ) -> tuple[Counter[str], dict[Operation, Answer]]:
        """How many of each kind were done, and what Asterisk refused. Raises QueuesUnavailable
        unless every operation was answered."""
        done: Counter[str] = Counter()
        refused: dict[Operation, Answer] = {}
        if not repairs:
            return done, refused
        results = await self.service.applying.apply([operation for operation, _ in repairs])
        for result, (operation, kind) in zip(results, repairs, strict=True):
            if result.answer is Answer.UNKNOWN:
                raise QueuesUnavailable("Asterisk gave no answer")
            if result.answer in (Answer.DONE, Answer.PAUSED_INSTEAD):
                done[kind] += 1
                self._not_repaired.pop(operation, None)
            elif result.ok:
                self._not_repaired.pop(operation, None)
            else:
                refused[operation] = result.answer
                self._say_not_repaired(operation, result)
        return done, refused

    def _say_not_repaired(self, operation: Operation, result: Result) -> None:
        """Once, and again when Asterisk gives another answer: it is tried for ever."""
        if result.answer is Answer.NO_SUCH_QUEUE:
            return  # said with the agent, who waits for the queue
        if self._not_repaired.get(operation) == result.message:
            return
        if len(self._not_repaired) >= MAX_SAID:
            self._not_repaired.clear()
        self._not_repaired[operation] = result.message
        self.log.error("not repaired", operation=in_words(operation), why=result.message)

    async def _tell(self, repaired: Counter[str], *, adopted: int = 0) -> None:
        """An event that counts the repairs; what was adopted has events of its own."""
        if adopted:
            self.all.counted(self.asterisk, ADOPTED, adopted)
        for kind, count in repaired.items():
            self.all.counted(self.asterisk, kind, count)
        if not repaired.total():
            return
        text = ", ".join(f"{count} {kind}" for kind, count in sorted(repaired.items()))
        self.log.warning("Asterisk was brought in line with the store", repaired=text)
        await self.store.record(
            Event(
                id=self.service.new_id(),
                type=EventType.REPAIR,
                agent="",
                extension="",
                queues=(),
                reason=text,
                source=Source.SYSTEM,
                actor=Actor(name=RECONCILE),
                occurred_at=self.service.now(),
                asterisk=self.asterisk,
            )
        )
