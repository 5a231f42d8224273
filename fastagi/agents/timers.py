"""What time does: pauses and shifts end, and phones that stay away take their agents out.

All of it is computed from the store and from what Asterisk reports, so nothing is lost with this
process, and several services may do it at once: commands are named after what they end, and are
carried out only while that is still so.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from fastagi.agents import errors
from fastagi.agents.clock import ClockStep
from fastagi.agents.commands import Actor, Command, LogOff, Pause, Unpause, WhenInCall
from fastagi.agents.devices import Device
from fastagi.agents.events import Event
from fastagi.agents.fence import AWAY
from fastagi.agents.limits import (
    OpenPause,
    PauseLimit,
    TimePolicy,
    WhenExceeded,
    exceeded_at,
    exceeded_event,
    limit_in_queues,
    start_of_day,
)
from fastagi.agents.log import Log, Trouble
from fastagi.agents.model import AgentState, Change
from fastagi.agents.operations import ReportedMember
from fastagi.agents.phone_notes import with_notes
from fastagi.agents.reasons import still
from fastagi.agents.service import AgentService, OnlyIf
from fastagi.agents.shifts import latest, upcoming
from fastagi.agents.unplugged import PHONE_AWAY, Action, Sightings, action, is_lost
from fastagi.contract import DEVICE_LOST, EventType, Source

EVERY = timedelta(seconds=5)  # what other services began is found so late at most
AT_MOST = 0.5  # seconds between two looks, however much happens
SHIFTS_EVERY = timedelta(seconds=60)
AGAIN = timedelta(seconds=60)  # what Asterisk refused is tried again after so long
AT_ONCE = 8  # agents at a time: phones are served meanwhile

PAUSE_LIMIT, END_OF_SHIFT = "pause limit", "end of shift"
_AWAY = Actor(name="phone away")


class Timers:
    """Runs as ``run()`` in the application's task group.

    ``policy`` is asked at each look, so that a reload holds from the next one on. ``reconnected``
    and ``reachable`` are to be called with what Asterisk tells.
    """

    def __init__(
        self,
        service: AgentService,
        policy: Callable[[], TimePolicy],
        log: Log,
        clock: Callable[[], datetime],
    ) -> None:
        self._service = service
        self._store = service.store
        self._queues = service.queues
        self._policy = policy
        self._log = log
        self._clock = clock
        self._wake = asyncio.Event()
        self._sightings = Sightings()
        self._unread = set(self._queues.names)  # Asterisks whose phones are to be read
        self._idle: dict[tuple[str, str], datetime] = {}  # phones away with nobody there
        self._used: dict[str, tuple[datetime, timedelta]] = {}  # by segment: the day, its part
        self._warned: set[str] = set()  # segments
        self._limits: dict[str, PauseLimit | None] = {}  # by segment, as long as its reason was
        self._not_before: dict[str, datetime] = {}  # by id of a command that Asterisk refused
        self._shifts_due: datetime | None = None  # None: at once
        self._fence = service.fence
        self._trouble: list[str] = []
        self._undone = Trouble(
            log, "not everything that is due could be done yet", "all that was due is done"
        )
        service.changed.append(self._changed)
        service.clock_set.append(self._clock_was_set)

    # -- what is told to it

    def _changed(self, change: Change) -> None:
        before, after = change.before, change.after
        if after.session is not None and after.session != before.session:
            device = after.session.device
            self._idle.pop((device.asterisk, device.key), None)
        if after.pause != before.pause:
            self._wake.set()

    def reconnected(self, asterisk: str) -> None:
        """To be called at each manager login: phones may have come and gone meanwhile."""
        self._sightings.forget(asterisk)
        self._unread.add(asterisk)
        self._wake.set()

    def reachable(self, members: Iterable[ReportedMember]) -> None:
        """The phones of these members went away or came back, just now."""
        if self._sightings.told(members, self._clock()):
            self._wake.set()

    def _clock_was_set(self, step: ClockStep) -> None:
        """All that is due at a time of day is looked for anew, and phones have been away for as
        long as they have."""
        self._shifts_due = None
        self._not_before.clear()
        self._idle.clear()
        self._sightings.clock_was_set(step.by)
        self._wake.set()

    # -- running

    async def run(self) -> None:
        while True:
            self._wake.clear()
            due = await self.look()
            await asyncio.sleep(AT_MOST)
            # Not longer, also when the clock was set back since.
            rest = min((due - self._clock()).total_seconds(), EVERY.total_seconds())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, rest)):
                    await self._wake.wait()

    async def look(self) -> datetime:
        """Does what is due now; returns when something is due next, EVERY from now at the latest.

        Never raises what passes by: a store or an Asterisk that is away is told to the log.
        """
        self._trouble.clear()
        await self._guarded(self._service.follow_clock())
        dues = [self._clock() + EVERY]
        if self._trouble:  # what lasts how long cannot be judged yet
            self._tell()
            return dues[0]
        await self._guarded(self._look_at_agents(dues))
        if self._shifts_due is None or self._shifts_due <= self._clock():
            self._shifts_due = None
            await self._guarded(self._look_at_shifts())
        if self._shifts_due is not None:
            dues.append(self._shifts_due)
        self._tell()
        return min(dues)

    def _tell(self) -> None:
        if self._trouble:
            self._undone.is_there(error=self._trouble[0])
        else:
            self._undone.is_over()

    async def _guarded(self, doing: Awaitable[object]) -> None:
        """One agent, or one kind of work: what it meets keeps nothing else from being done."""
        try:
            await doing
        except AWAY as error:
            self._trouble.append(str(error))
        except Exception as error:
            self._fence.skipped("timers", error)

    async def _all(self, doing: Sequence[Awaitable[None]]) -> None:
        for i in range(0, len(doing), AT_ONCE):
            await asyncio.gather(*map(self._guarded, doing[i : i + AT_ONCE]))

    async def _carry_out(self, command: Command, only_if: OnlyIf) -> None:
        """Raises Unavailable: it is found due again at the next look."""
        now = self._clock()
        if self._not_before.get(command.id, now) > now:
            return
        try:
            change = await self._service.execute(command, only_if=only_if)
        except (errors.NotLoggedIn, errors.InProgress):
            return  # it is not so any more, or somebody is at it
        except errors.Unavailable:
            raise
        except errors.Refused as refusal:
            self._not_before[command.id] = now + AGAIN
            self._log.warning(
                "what is due was refused",
                agent=command.agent,
                command=type(command).__name__,
                because=command.actor.name,
                why=str(refusal) or refusal.outcome.value,
            )
            return
        if not change.alters:  # done before, and somebody has undone it: that counts
            self._not_before[command.id] = now + AGAIN
            return
        self._log.info(
            "time is up",
            agent=command.agent,
            outcome=change.outcome.value,
            because=command.actor.name,
        )

    def _in_reach(self, state: AgentState) -> bool:
        """Whether the agent's Asterisk can be told anything; else it is found due again."""
        asterisk = state.session.device.asterisk if state.session else ""
        return asterisk in self._queues.names and self._queues.connected(asterisk)

    async def _look_at_agents(self, dues: list[datetime]) -> None:
        now = self._clock()
        self._not_before = {id: when for id, when in self._not_before.items() if when > now}
        pauses = await self._store.open_pauses()
        await self._guarded(self._look_at_pauses(pauses, dues))
        await self._guarded(self._look_at_phones(pauses, dues))

    # -- pauses

    async def _look_at_pauses(self, pauses: Sequence[OpenPause], dues: list[datetime]) -> None:
        segments = {pause.segment for pause in pauses}
        self._warned &= segments
        self._used = {id: used for id, used in self._used.items() if id in segments}
        self._limits = {id: limit for id, limit in self._limits.items() if id in segments}
        limits = await self._store.limits()
        said = await self._store.queue_pauses()
        reasons = await self._store.reasons() if pauses else ()
        by_now = {r: still(reasons, r.code, r.name) for r in {pause.reason for pause in pauses}}
        codes = {code for _, code in said}
        said_of = {r for r, now in by_now.items() if now is not None and now.code in codes}
        theirs = [pause.agent for pause in pauses if pause.reason in said_of]
        members = await self._store.states(theirs) if theirs else {}
        now = self._clock()
        today = start_of_day(now, self._policy().zone)
        exceeded: list[tuple[OpenPause, PauseLimit]] = []
        for pause in pauses:
            with self._fence.item("timers", *AWAY, agent=pause.agent):
                reason = by_now[pause.reason] if pause.reason.code else None
                if reason is None:
                    # Renamed, or gone while the pause goes on: what was said of it holds.
                    limit = self._limits.get(pause.segment)
                else:
                    limit = limits.get(reason.code)
                    if pause.agent in members:
                        queues = [m.queue for m in members[pause.agent].memberships]
                        limit = limit_in_queues(limit, reason.code, queues, said)
                    self._limits[pause.segment] = limit
                if limit is None:
                    continue
                used = await self._used_today(pause, today) if limit.daily_budget else timedelta()
                when = exceeded_at(limit, pause.since, today, used)
                if when is not None and when > now:
                    dues.append(when)
                elif when is not None:
                    exceeded.append((pause, limit))
        states = await self._not_noted([p.agent for p, _ in exceeded])
        await self._all(
            [
                self._exceeded(states[pause.agent], pause, limit)
                for pause, limit in exceeded
                if pause.agent in states
            ]
        )

    async def _not_noted(self, numbers: Sequence[str]) -> Mapping[str, AgentState]:
        """Without those whom a phone has unpaused or logged off while no service was there, which
        is not written down yet: they are found due again, or are not."""
        if not numbers:
            return {}
        states = await self._store.states(numbers)
        noted = await with_notes(self._queues, states)
        return {number: state for number, state in states.items() if number not in noted}

    async def _used_today(self, pause: OpenPause, today: datetime) -> timedelta:
        """Of this reason before this pause. It does not change while the pause lasts."""
        day, used = self._used.get(pause.segment, (None, timedelta()))
        if day != today:
            used = await self._store.paused_since(pause.agent, pause.reason.code, today)
            self._used[pause.segment] = (today, used)
        return used

    async def _exceeded(self, state: AgentState, pause: OpenPause, limit: PauseLimit) -> None:
        def goes_on(state: AgentState) -> errors.Refused | None:
            return _only(state.pause is not None and state.pause.id == pause.segment)

        if goes_on(state) is not None:
            return
        if limit.when_exceeded is WhenExceeded.WARN:
            if pause.segment not in self._warned:
                await self._warn(state, pause)
                self._warned.add(pause.segment)
            return
        if not self._in_reach(state):
            return
        id, number, actor = f"{pause.segment}-limit", pause.agent, Actor(name=PAUSE_LIMIT)
        if limit.when_exceeded is WhenExceeded.UNPAUSE:
            back = self._service.command(Unpause, number, Source.SYSTEM, actor, id=id)
            await self._carry_out(back, goes_on)
        elif not isinstance(state.planned, LogOff):
            await self._carry_out(self._log_off(number, id, actor, PAUSE_LIMIT), goes_on)

    async def _warn(self, state: AgentState, pause: OpenPause) -> None:
        assert state.session is not None
        device = state.session.device
        await self._store.record(
            Event(
                id=exceeded_event(pause.segment),
                type=EventType.PAUSE_EXCEEDED,
                agent=state.number,
                extension=device.extension,
                queues=tuple(m.queue for m in state.joined),
                reason=pause.reason.name,
                source=Source.SYSTEM,
                actor=Actor(name=PAUSE_LIMIT),
                occurred_at=self._clock(),
                context=device.context,
                asterisk=device.asterisk,
                device_type=device.type,
            )
        )

    # -- phones

    async def _look_at_phones(self, pauses: Sequence[OpenPause], dues: list[datetime]) -> None:
        policy = self._policy()
        lost = [pause.agent for pause in pauses if pause.reason == PHONE_AWAY]
        waits = [after for after in (policy.pause_after, policy.logoff_after) if after is not None]
        for asterisk in self._queues.names:
            if not self._queues.connected(asterisk):
                # What a phone does now nobody knows. Its time begins anew with the link.
                self._sightings.forget(asterisk)
                self._unread.add(asterisk)
            elif asterisk in self._unread and (waits or lost):
                await self._guarded(self._read(asterisk))
        now = self._clock()
        states = await self._store.states(lost) if lost else {}
        due: dict[tuple[str, str], datetime] = {}
        for phone, since in self._sightings.away().items():
            dues += [since + wait for wait in waits if since + wait > now]
            if waits and since + min(waits) <= now and self._idle.get(phone, now) <= now:
                due[phone] = since
        if due:
            found = await self._store.agents_at([key for _, key in due])
            states |= {state.number: state for state in found.values()}
            # Nobody is there now. One who logs in there in another service is found in a while.
            self._idle |= {phone: now + AGAIN for phone in due if phone[1] not in found}
        away = self._sightings.away()
        self._idle = {phone: when for phone, when in self._idle.items() if phone in away}
        await self._all([self._look_at_phone(state, policy) for state in states.values()])

    async def _read(self, asterisk: str) -> None:
        self._unread.discard(asterisk)
        try:
            members = await self._queues.members(asterisk)
        except BaseException:
            self._unread.add(asterisk)
            raise
        if asterisk not in self._unread:  # else there was another reconnect meanwhile
            self._sightings.snapshot(members, self._clock())

    async def _look_at_phone(self, state: AgentState, policy: TimePolicy) -> None:
        session = state.session
        if session is None or not self._in_reach(state):
            return
        device = session.device
        known = self._sightings.known(device.asterisk, device.key)
        if known and self._due(state, policy) is None:
            return
        # Asked once more: what was told may be of another time, when nobody sat there.
        members = await self._ask(state, device)
        what = self._due(state, policy) if members else None
        if what is Action.UNPAUSE:
            assert state.pause is not None
            await self._back(state, state.pause.id)
        elif what is not None and not any(member.in_call for member in members):
            await self._gone(state, session.id, what)

    def _due(self, state: AgentState, policy: TimePolicy) -> Action | None:
        assert state.session is not None
        device = state.session.device
        since = self._sightings.away_since(device.asterisk, device.key)
        return action(state, since, self._clock(), policy)

    async def _ask(self, state: AgentState, device: Device) -> list[ReportedMember]:
        queues = [m.queue for m in state.memberships]
        members = await self._queues.members(
            device.asterisk, interface=device.interface, queues=queues
        )
        self._sightings.told(members, self._clock())
        return members

    async def _back(self, state: AgentState, segment: str) -> None:
        def goes_on(state: AgentState) -> errors.Refused | None:
            return _only(is_lost(state) and state.pause is not None and state.pause.id == segment)

        id = f"{segment}-back"
        back = self._service.command(Unpause, state.number, Source.SYSTEM, _AWAY, id=id)
        await self._carry_out(back, goes_on)

    async def _gone(self, state: AgentState, session: str, what: Action) -> None:
        def same(state: AgentState) -> errors.Refused | None:
            return _only(state.session is not None and state.session.id == session)

        def same_and_not_paused(state: AgentState) -> errors.Refused | None:
            return same(state) or _only(state.pause is None)

        assert state.session is not None
        device = state.session.device
        if what is Action.LOGOFF:
            off = self._log_off(state.number, f"{session}-away-off", _AWAY, DEVICE_LOST)
            await self._carry_out(off, same)
            return
        since = self._sightings.away_since(device.asterisk, device.key)
        if since is None:
            return  # back while the others were seen to
        # Each time that the phone is away has its own; asking again is the same time.
        id = f"{session}-away-{int(since.timestamp())}"
        pause = self._service.command(
            Pause, state.number, Source.SYSTEM, _AWAY, id=id, reason=PHONE_AWAY
        )
        await self._carry_out(pause, same_and_not_paused)

    # -- shifts

    async def _look_at_shifts(self) -> None:
        policy = self._policy()
        now = self._clock()
        ends = {of_day: of_day for of_day in await self._store.shift_ends()}
        if policy.shift_end is not None:
            ends[""] = policy.shift_end
        if ends:
            cutoffs = {key: latest(of_day, now, policy.zone) for key, of_day in ends.items()}
            before = len(self._trouble)
            numbers = await self._store.overdue(cutoffs)
            states = await self._not_noted(numbers)
            if len(states) < len(numbers):
                self._trouble.append("what a phone did without the service is not known yet")
            await self._all([self._end_shift(state) for state in states.values()])
            if len(self._trouble) > before:
                return  # again at the next look
        following = [upcoming(of_day, now, policy.zone) for of_day in ends.values()]
        self._shifts_due = min([now + SHIFTS_EVERY, *following])

    async def _end_shift(self, state: AgentState) -> None:
        session = state.session
        # In a call, and told already.
        if session is None or isinstance(state.planned, LogOff):
            return
        if not self._in_reach(state):
            if session.device.asterisk in self._queues.names:
                raise errors.Unavailable("the manager link to Asterisk is down")
            return  # another service's
        actor = Actor(name=END_OF_SHIFT)
        off = self._log_off(state.number, f"{session.id}-shift", actor, END_OF_SHIFT)
        await self._carry_out(off, lambda now: _only(now.session == session))

    def _log_off(self, agent: str, id: str, actor: Actor, reason: str) -> LogOff:
        return self._service.command(
            LogOff,
            agent,
            Source.SYSTEM,
            actor,
            id=id,
            reason=reason,
            when_in_call=WhenInCall.AFTER_CALL,
        )


def _only(goes_on: bool) -> errors.Refused | None:
    return None if goes_on else errors.NotLoggedIn()
