"""The driver of ``reconcile``: keeps the store and the Asterisks of one mind, for ever.

Who wins: after a restart of Asterisk, told by its start-up time, the store; otherwise Asterisk,
as what changed there is somebody's doing, and is adopted.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta

from fastagi.agents.adoption import Adoption, Link
from fastagi.agents.after_restart import AfterRestart
from fastagi.agents.applying import OWED
from fastagi.agents.clock import ClockStep
from fastagi.agents.comparing import compare
from fastagi.agents.devices import DeviceRule, device_key
from fastagi.agents.differences import Difference, agrees, key_of, number_in
from fastagi.agents.fence import AWAY, Supervisor
from fastagi.agents.log import Log, Trouble
from fastagi.agents.missing_queues import MissingQueues
from fastagi.agents.model import AgentState
from fastagi.agents.operations import (
    Answer,
    MemberNews,
    Operation,
    PauseMember,
    QueuesUnavailable,
    RemoveMember,
    restarted,
)
from fastagi.agents.planned import PlannedChanges
from fastagi.agents.queue_events import QueueEvents
from fastagi.agents.repairs import CORRECTED, TAKEN_OUT, Repairs
from fastagi.agents.service import AgentService
from fastagi.agents.static_members import CURE as STATIC_CURE
from fastagi.agents.taking_notes import PhoneNotes
from fastagi.contract import LOGGED_OFF

STARTED = "asterisk_started"  # note: when this Asterisk was started, as last seen
CHUNK = 160  # agents looked at together
LATEST = 2_000  # events whose agents' lamps are set anew after a restart
AGAIN = 0.25  # seconds until what could not be judged is looked at again
# Seconds after which an event of a removal would have been heard, and written down by whichever
# service was the first, on a busy machine too.
SILENCE = 1.5
TOGETHER = 0.02  # seconds from an event of a queue member until it is looked at
RETRY = 1.0  # seconds until it is tried again while the store or Asterisk is away
# News of members that wait while the store is away; when there are more, all is compared instead.
MOST_NEWS = 20_000
ALONE_AGAIN = 1.0  # seconds until it is asked again whether another service is still at it
TASK = "reconcile"  # for the log and the metrics


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
        self._asterisks = {name: AsteriskReconciler(name, self) for name in service.queues.names}
        self.missing = MissingQueues(service, log)
        self.planned = PlannedChanges(service, log)
        self._attention = asyncio.Event()
        self._attention.set()
        service.applying.on_unsettled.append(self._attention.set)
        service.applying.on_given_up.append(self.reconnected)
        service.changed.append(lambda change: self._note_plan(change.after))
        service.clock_set.append(self._clock_was_set)

    # -- what is told to it

    def reconnected(self, asterisk: str) -> None:
        """To be called at each manager login: this Asterisk may have restarted meanwhile."""
        self._asterisks[asterisk].reconnected()
        self._attention.set()
        self.missing.look_again()

    def noticed(self, news: Iterable[MemberNews]) -> None:
        """Members of queues have changed, by us or by others."""
        for item in news:
            self._asterisks[item.member.asterisk].noticed(item)
            self.missing.seen(item.member.queue)

    def call_ended(self, interface: str, asterisk: str = "") -> None:
        """A queue call has ended: what was planned for then may be due."""
        if self.planned.waiting:
            self._attention.set()

    def _clock_was_set(self, _: ClockStep) -> None:
        """What Asterisk refused is tried again now, not when the clock shows that time again."""
        self.planned.try_all_now()
        self._attention.set()

    def _note_plan(self, agent: AgentState) -> None:
        if agent.planned is not None:
            self.planned.waiting = True
            self._attention.set()

    # -- running

    async def run(self) -> None:
        keep = self._supervisor.keep
        async with asyncio.TaskGroup() as group:
            group.create_task(keep("settle", self._settle_for_ever), name="settle")
            for asterisk, one in self._asterisks.items():
                name = f"reconcile {asterisk}".rstrip()
                group.create_task(keep(name, one.run), name=name)
            name = "join queues that were missing"
            group.create_task(keep(name, self.missing.run), name=name)

    async def catch_up(self) -> None:
        """Does what is waiting to be done, once. Raises StoreUnavailable, QueuesUnavailable or
        Unavailable when something went away meanwhile; to be called again then."""
        for one in self._asterisks.values():
            await one.catch_up()
        await self.service.settle()
        await self.planned.carry_out()

    async def _settle_for_ever(self) -> None:
        """When something was left unconfirmed; while something waits for a call's end, every two
        seconds; and now and then, as another service may have died."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 if self.planned.waiting else 5):
                    await self._attention.wait()
            self._attention.clear()
            if not self.service.linked:
                continue  # the reconnect brings us back here
            away: Exception | None = None
            # Whatever is away keeps nobody from what can be done: it may be another Asterisk.
            for what in (self.service.settle, self.planned.carry_out):
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

    async def compare(self, asterisk: str) -> list[Difference]:
        """What differs now, without any lock: changes on their way are among it."""
        return await compare(self.service, asterisk)

    async def all_now(self) -> Counter[str]:
        """Compares and repairs all there is, now. Raises StoreUnavailable, QueuesUnavailable."""
        done: Counter[str] = Counter()
        away: Exception | None = None
        for one in self._asterisks.values():
            try:
                done += await one.compare_now()
            except AWAY as error:  # keeps nobody from comparing the others
                away = error
        if away is not None and not done:
            raise away
        return done


def started_note(asterisk: str) -> str:
    """Under which key the store remembers when this Asterisk was started."""
    return f"{STARTED}:{asterisk}" if asterisk else STARTED


def _is_unpaused_static(item: MemberNews) -> bool:
    return item.present and not item.member.dynamic and not item.member.paused


class AsteriskReconciler:
    """One Asterisk."""

    def __init__(self, asterisk: str, parent: Reconciler) -> None:
        service = parent.service
        self.asterisk = asterisk
        self.parent = parent
        self.service = service
        self.store = service.store
        self.queues = service.queues
        self.log = parent.log
        self._bell = asyncio.Event()
        self._reconnected = False
        self._link = Link()
        self._news: dict[str, list[MemberNews]] = {}  # by the agent's number, "" where unknown
        self._unread = 0  # how many these are
        self._again: set[str] = set()  # agents who could not be judged
        # While a comparison waits: the interfaces (as ``Device.key``) whose removal was heard.
        self._removed: set[str] | None = None
        self._one_at_a_time = asyncio.Lock()
        self.events = QueueEvents(asterisk, parent.log)
        self.repairs = Repairs(service, asterisk, parent.log, parent.counted)
        self.notes = PhoneNotes(service, asterisk, parent.log, self._again)
        self.after_restart = AfterRestart(service, asterisk, parent.log, self.repairs, self._again)
        self.adoption = Adoption(
            service,
            asterisk,
            parent.log,
            parent.rules,
            self._link,
            self.repairs,
            self.after_restart,
            self._again,
        )
        service.changed.append(self.events.expect)
        self._uncompared = Trouble(
            self.log,
            "not everything could be compared yet",
            "all is compared",
            **({"asterisk": asterisk} if asterisk else {}),
        )

    def reconnected(self) -> None:
        self._reconnected = True
        self._link.number += 1
        self.events.forget()
        self._news.clear()  # all is compared
        self._unread = 0
        self._bell.set()

    def noticed(self, item: MemberNews) -> None:
        if not self._link.is_judged:
            return  # all is compared once it is known whether Asterisk has restarted
        self.events.heard(item)
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

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        compared = loop.time()
        while True:
            every = self.parent.every()
            waits = [compared + every.total_seconds() - loop.time()] if every else []
            waits += [AGAIN] if self._again else []
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(waits)) if waits else None):
                    await self._bell.wait()
            if self._unread:
                # The next ones are looked at together with it: under load most are our own doing.
                await asyncio.sleep(TOGETHER)
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
                await self._after_connect()
            if not self._reconnected:
                await self._look_at_news()

    async def compare_now(self) -> Counter[str]:
        """Everything, beside what events told. Raises StoreUnavailable, QueuesUnavailable."""
        async with self._one_at_a_time:
            if self._reconnected:
                await self._after_connect()
            return await self.compare_all()

    # -- after a (re)connect

    async def _after_connect(self) -> None:
        self._reconnected = False  # first: there may be another one meanwhile
        try:
            async with self.store.exclusive(f"reconcile:{self.asterisk}") as alone:
                if not alone:
                    # Another service is at it. What it leaves is seen by looking once more.
                    await asyncio.sleep(ALONE_AGAIN)
                    self._reconnected = True
                    self._bell.set()
                    return
                connection = self._link.number
                note = started_note(self.asterisk)
                started = await self.queues.started_at(self.asterisk)
                before = await self.store.note(note)
                if before is None:
                    # Known from now on: should Asterisk restart while the first comparison runs,
                    # who has logged in meanwhile is put back.
                    await self.store.set_note(note, started)
                with suppress(QueuesUnavailable):  # another Asterisk may be away
                    await self.service.settle()
                await self.notes.take()
                await self._pause_static_members()
                await self.after_restart.read()
                if before is not None and restarted(before, started):
                    await self._restore()
                await self.store.set_note(note, started)
                self._link.judged = connection
                await self.compare_all(lost_link=True)
        except BaseException:
            self._reconnected = True
            raise

    async def _restore(self) -> None:
        """Asterisk has restarted, so its members are what the store says."""
        others = await self.after_restart.restore()
        for i in range(0, len(others), CHUNK):
            await self.adoption.look(others[i : i + CHUNK])
        if self.parent.restored is not None:
            # Asterisk writes its database now and then: what it was told last may be lost.
            agents = {agent.number: agent for agent in await self.store.lately(LATEST)}
            agents.update((agent.number, agent) for agent in await self.store.logged_in())
            with self.parent.fence.item("lamps", *AWAY, asterisk=self.asterisk):
                await self.parent.restored(self.asterisk, list(agents.values()))

    async def _take_out_owed(self) -> None:
        """Devices whose agents moved to another Asterisk while this one was away, at least for the
        service that moved them."""
        prefix = OWED.format(self.asterisk)
        for note, number in (await self.store.notes(prefix)).items():
            with self.parent.fence.item(TASK, *AWAY, agent=number):
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
                done, _ = await self.repairs.apply([(removal, TAKEN_OUT) for removal in removals])
                await self.repairs.record(done)
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
            with self.parent.fence.item(TASK, *AWAY, queue=queue, interface=interface):
                member = reported.get((queue.lower(), interface.lower()))
                if member is None or member.dynamic:
                    # The line is gone, not only the whole queue for a moment.
                    if member or not await self.queues.lacking(self.asterisk, [queue]):
                        await self.service.applying.static.forget(self.asterisk, queue, interface)
                elif not member.paused:
                    paused += await self._pause_static(queue, interface)
        await self.repairs.record(Counter({CORRECTED: paused} if paused else {}))

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

    # -- comparing

    async def compare_all(self, *, lost_link: bool = False) -> Counter[str]:
        """Everything: what differs is looked at again under the agents' locks, then mended.

        Whoever changes a member is heard. So what differs although the link was there all the time
        was lost by Asterisk (app_queue was loaded anew, or has read queues.conf), and is put back.
        """
        if not self._link.is_judged:
            raise QueuesUnavailable("it is not known yet whether Asterisk has restarted")
        await self._take_out_owed()
        later = await self.notes.take()
        await self._pause_static_members()
        found = await compare(self.service, self.asterisk, self.events.look_for_invalid)
        differing = {difference.agent for difference in found}
        lost = differing - {d.agent for d in found if lost_link or not d.reread}
        if lost - self.after_restart.to_put_back:
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
            later |= await self.notes.take()  # of what was done since, by the fallback
            await self.after_restart.remember(lost - later)
        numbers = sorted(differing - later)
        done: Counter[str] = Counter()
        for i in range(0, len(numbers), CHUNK):
            done += await self.adoption.look(numbers[i : i + CHUNK])
        return done

    async def _look_at_news(self) -> None:
        news, self._news = self._news, {}
        self._unread = 0
        again = set(self._again)
        self._again.clear()
        try:
            suspects = await self._suspects(news)
            if again or any(_is_unpaused_static(i) for items in news.values() for i in items):
                await self._pause_static_members()
            if again:
                await self._take_out_owed()
                for number in await self.store.states(sorted(again)):
                    suspects.setdefault(number, [])
            if suspects:
                later = await self.notes.take()
                if numbers := sorted(suspects.keys() - later):
                    await self.adoption.look(numbers, news=suspects)
        except Exception as error:
            if not isinstance(error, AWAY):
                # Something in these news: whoever they are about is looked at without them.
                self.parent.fence.skipped(TASK, error, asterisk=self.asterisk)
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
