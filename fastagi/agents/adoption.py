"""What somebody changed in Asterisk itself is adopted; what nobody did is mended."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass

from fastagi.agents import errors
from fastagi.agents.after_restart import AfterRestart
from fastagi.agents.applying import OWED
from fastagi.agents.commands import Actor, Adopt
from fastagi.agents.devices import DeviceRule, device_of
from fastagi.agents.differences import Difference, Kind, agrees, differences, owned, seen
from fastagi.agents.fence import AWAY
from fastagi.agents.log import Log
from fastagi.agents.model import AgentState, Change
from fastagi.agents.operations import (
    Answer,
    MemberNews,
    Operation,
    QueuesUnavailable,
    ReportedMember,
)
from fastagi.agents.phone_notes import with_notes
from fastagi.agents.repairs import ADOPTED, RECONCILE, REPAIRED_AS, Repairs
from fastagi.agents.service import AgentService
from fastagi.contract import Source

FEW = 8  # so many agents are asked for one by one; for more the whole of the queues is read


News = dict[str, list[MemberNews]]  # by the agent's number
Queues = dict[str, tuple[str, str]]  # name in lower case -> name in Asterisk and number


@dataclass(slots=True)
class Link:
    """The connection to one Asterisk: ``number`` counts them."""

    number: int = 0
    judged: int = -1  # the one over which it was seen whether this Asterisk has restarted

    @property
    def is_judged(self) -> bool:
        return self.judged == self.number


class Adoption:
    """``again``: agents who are to be looked at once more."""

    def __init__(
        self,
        service: AgentService,
        asterisk: str,
        log: Log,
        rules: Callable[[], Sequence[DeviceRule]],
        link: Link,
        repairs: Repairs,
        after_restart: AfterRestart,
        again: set[str],
    ) -> None:
        self._service = service
        self._store = service.store
        self._queues = service.queues
        self._asterisk = asterisk
        self._log = log
        self._rules = rules
        self._link = link
        self._repairs = repairs
        self._after_restart = after_restart
        self._again = again

    async def look(self, numbers: Sequence[str], *, news: News | None = None) -> Counter[str]:
        """Compares these agents once more, with nobody changing them, and mends what differs. One
        that meets a fault of ours is left out, until the next comparison."""
        try:
            return await self._look_together(numbers, news)
        except Exception as error:
            if isinstance(error, AWAY):
                raise
            if len(numbers) == 1:
                self._service.fence.skipped(
                    "reconcile", error, agent=numbers[0], asterisk=self._asterisk
                )
                return Counter()
        done: Counter[str] = Counter()
        for number in numbers:
            done += await self.look([number], news=news)
        return done

    async def _look_together(self, numbers: Sequence[str], news: News | None) -> Counter[str]:
        link = self._link.number
        await self._service.follow_clock()
        async with self._service.holding(numbers) as held:
            self._again.update(set(numbers) - set(held))
            states = await self._to_be_judged(held, news)
            if not states:
                return Counter()
            queues = await self._store.queue_names()
            reported = [
                member
                for member in await self._reported(states.values(), news)
                if member.queue.lower() in queues
            ]
            store_wins = self._after_restart.to_put_back & states.keys()
            if not self._link.is_judged and store_wins != states.keys():
                # It may have restarted: what is missing was taken out by nobody.
                raise QueuesUnavailable("the connection is a new one")
            differing = self._differing(states, reported, queues)
            # A note is there before its change can be seen: what is to be adopted may have one.
            adopted = {number: states[number] for number in differing.keys() - store_wins}
            for number in await with_notes(self._queues, adopted):
                del differing[number]
                self._again.add(number)
            changes = await self._adopt_all(states, differing, reported, queues, store_wins)
            repaired, refused = await self._repairs.apply(
                self._to_be_mended(states, differing, changes, store_wins)
            )
            if link != self._link.number:
                raise QueuesUnavailable("the connection is a new one")
            for number in store_wins:
                some = differing.get(number, ())
                await self._give_up_refused(states[number], some, refused, queues)
            await self._after_restart.is_done(store_wins)
        done = Counter({ADOPTED: n} if (n := sum(map(bool, changes.values()))) else {})
        await self._repairs.record(repaired, adopted=done[ADOPTED])
        return done + repaired

    async def _to_be_judged(
        self, states: dict[str, AgentState], news: News | None
    ) -> dict[str, AgentState]:
        if news is not None:  # a change that was on its way is there by now
            states = {
                number: state
                for number, state in states.items()
                if not news[number] or not all(agrees(state, item) for item in news[number])
            }
        # What an agent has left behind here is nobody's doing.
        owed = set((await self._store.notes(OWED.format(self._asterisk))).values())
        owed = (owed & states.keys()) - self._after_restart.to_put_back
        self._again.update(owed)
        return {number: state for number, state in states.items() if number not in owed}

    def _differing(
        self, states: dict[str, AgentState], reported: Sequence[ReportedMember], queues: Queues
    ) -> dict[str, list[Difference]]:
        by_agent: dict[str, list[Difference]] = {}
        for difference in differences(
            list(states.values()), reported, self._asterisk, queues, self._queues.names
        ):
            by_agent.setdefault(difference.agent, []).append(difference)
        return by_agent

    async def _adopt_all(
        self,
        states: dict[str, AgentState],
        differing: dict[str, list[Difference]],
        reported: Sequence[ReportedMember],
        queues: Queues,
        store_wins: Set[str],
    ) -> dict[str, Change | None]:
        """What became of those whom somebody has changed; None: it cannot be so."""
        theirs = {number: some for number, some in differing.items() if number not in store_wins}
        missing = await self._missing_queues([d for some in theirs.values() for d in some])
        members = owned(states.values(), reported)
        changes: dict[str, Change | None] = {}
        for number, some in theirs.items():
            if not all(d.ours for d in some):
                here = members[number].here if number in members else ()
                changes[number] = await self._adopt(states[number], here, queues, missing=missing)
        return changes

    def _to_be_mended(
        self,
        states: dict[str, AgentState],
        differing: dict[str, list[Difference]],
        changes: dict[str, Change | None],
        store_wins: Set[str],
    ) -> list[tuple[Operation, str]]:
        removed = {n for n, change in changes.items() if change and not change.after.session}
        repairs: list[tuple[Operation, str]] = []
        for number, some in differing.items():
            everything = number in store_wins or (number in changes and changes[number] is None)
            mended = [d for d in some if everything or d.ours]
            if mended and removed and (number in removed or not states[number].session):
                # Put in at another place, or at the place of somebody who is off now: seen as a
                # login by the next look.
                self._again.add(number)
                continue
            repairs += [(d.repair, REPAIRED_AS[d.kind]) for d in mended]
        return repairs

    async def _give_up_refused(
        self,
        state: AgentState,
        differs: Sequence[Difference],
        refused: Mapping[Operation, Answer],
        queues: Queues,
    ) -> None:
        lacking = [d for d in differs if d.kind is Kind.MISSING and d.repair in refused]
        if lacking:
            gone = (d for d in lacking if refused[d.repair] is Answer.NO_SUCH_QUEUE)
            await self._give_up(state, queues, {d.queue.lower() for d in gone})

    async def _missing_queues(self, differs: Sequence[Difference]) -> set[str]:
        """Of the queues that agents are not in: those that Asterisk lacks, in lower case. Nobody
        has taken anybody out of these."""
        queues = {d.queue for d in differs if d.kind is Kind.MISSING}
        return await self._queues.lacking(self._asterisk, sorted(queues)) if queues else set()

    async def _give_up(self, state: AgentState, queues: Queues, missing: set[str]) -> None:
        """Asterisk does not take the agent back as the store means it: so it is as Asterisk has it,
        and that was nobody's doing but ours. The ``missing`` queues are joined when they are
        there."""
        reported = await self._queues.members(self._asterisk)
        its = owned([state], (m for m in reported if m.queue.lower() in queues))
        here = its[state.number].here if state.number in its else ()
        await self._adopt(state, here, queues, Source.SYSTEM, missing)

    async def _reported(
        self, states: Collection[AgentState], news: News | None
    ) -> list[ReportedMember]:
        if len(states) > FEW:
            return await self._queues.members(self._asterisk)
        interfaces = {
            state.session.device.interface.lower(): state.session.device.interface
            for state in states
            if state.session and state.session.device.asterisk == self._asterisk
        }
        for state in states:
            for item in (news or {}).get(state.number, ()):
                interfaces.setdefault(item.member.interface.lower(), item.member.interface)
        if news is None or not all(news.get(state.number) for state in states):
            return await self._queues.members(self._asterisk)  # they may be anywhere
        found = await asyncio.gather(
            *(self._queues.members(self._asterisk, interface=name) for name in interfaces.values())
        )
        return [member for some in found for member in some]

    async def _adopt(
        self,
        state: AgentState,
        here: Sequence[ReportedMember],
        queues: Queues,
        source: Source = Source.ASTERISK,
        missing: Collection[str] = (),
    ) -> Change | None:
        """None: it cannot be so, as another agent has that device."""
        lacking = [m for m in state.joined if m.queue.lower() in missing]
        if lacking:
            await self._service.waiting.add(state, lacking)
        device = None
        if state.session is None and here:
            one = here[0]
            device = device_of(self._rules(), one.interface, one.state_interface, self._asterisk)
        command = self._service.command(
            Adopt,
            state.number,
            source,
            Actor(name=self._asterisk if source is Source.ASTERISK else RECONCILE),
            members=seen(state, here, queues),
            device=device,
            reasons=await self._store.reasons(),
            missing=tuple(m.queue for m in lacking),
        )
        try:
            change = await self._service.applying.adopt(command)
        except errors.Unavailable:
            raise
        except errors.Refused as refusal:
            self._log.warning("cannot be adopted", agent=state.number, why=str(refusal))
            return None
        for event in change.events:
            self._log.info(
                "changed in Asterisk itself"
                if source is Source.ASTERISK
                else "not taken back by Asterisk",
                agent=event.agent,
                type=event.type.value,
                queues=list(event.queues),
                reason=event.reason,
            )
        self._service.applying.notify(change)
        return change
