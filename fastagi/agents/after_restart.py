"""After a restart of Asterisk its members are what the store says: they are put back."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fastagi.agents.comparing import compare
from fastagi.agents.differences import Kind, restored
from fastagi.agents.fence import AWAY
from fastagi.agents.log import Log
from fastagi.agents.operations import AddMember
from fastagi.agents.repairs import PUT_BACK, Repairs
from fastagi.agents.service import AgentService

TO_PUT_BACK = "to_put_back:{}:"  # notes: agents whose members a restarted Asterisk still lacks
BATCH = 25  # members put back together: what a phone code may have to wait for …
AT_ONCE = 4  # … and three times as many on their way, so that Asterisk is never idle


class AfterRestart:
    """``again``: agents who are to be looked at once more."""

    def __init__(
        self,
        service: AgentService,
        asterisk: str,
        log: Log,
        repairs: Repairs,
        again: set[str],
    ) -> None:
        self._service = service
        self._store = service.store
        self._asterisk = asterisk
        self._log = log
        self._repairs = repairs
        self._again = again
        # Agents for whom the store wins, as they could not be put back yet.
        self.to_put_back: set[str] = set()

    async def read(self) -> None:
        """What an earlier process has left. Raises StoreUnavailable."""
        prefix = TO_PUT_BACK.format(self._asterisk)
        left = await self._store.notes(prefix)
        self.to_put_back = {key.removeprefix(prefix) for key in left}

    async def restore(self) -> list[str]:
        """Puts back whoever is plainly missing. Returns those who are to be looked at one by one.
        Raises StoreUnavailable, QueuesUnavailable."""
        differing = await compare(self._service, self._asterisk)
        if differing:
            self._log.warning(
                "Asterisk has restarted: members are put back", members=len(differing)
            )
        kinds: dict[str, set[Kind]] = {}
        for difference in differing:
            kinds.setdefault(difference.agent, set()).add(difference.kind)
        # A change on its way may have been applied to the Asterisk of before.
        for change in await self._service.applying.unsettled():
            if any(step.do.asterisk == self._asterisk for step in change.steps):
                kinds.setdefault(change.command.agent, set()).add(Kind.MISSING)
        plain = [number for number, found in kinds.items() if found == {Kind.MISSING}]
        missing = Counter(difference.agent for difference in differing)
        chunks = _batches(plain, missing)
        done: Counter[str] = Counter()

        async def put_back() -> None:
            for numbers in chunks:
                with self._service.fence.item("reconcile", *AWAY, agents=len(numbers)):
                    done.update(await self._put_back(numbers))
                    continue
                # One of them is at fault: each is looked at by itself.
                await self.remember(numbers)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(put_back())
        except BaseExceptionGroup as failures:  # what is away is known by its own exception
            raise failures.exceptions[0] from None
        finally:
            await self._repairs.record(done)
        others = sorted(kinds.keys() - set(plain))
        await self.remember(others)
        return others

    async def _put_back(self, numbers: Sequence[str]) -> Counter[str]:
        async with self._service.holding(numbers) as states:
            # An add of a member that is there after all is answered "Already there".
            adds = {
                add: state.number
                for state in states.values()
                for add in restored(state, self._asterisk)
            }
            done, refused = await self._repairs.apply([(add, PUT_BACK) for add in adds])
        # Those with an open change, and those whom Asterisk refused: by the next look.
        later = {adds[add] for add in refused if isinstance(add, AddMember)}
        await self.remember((set(numbers) - set(states)) | later)
        return done

    async def remember(self, numbers: Iterable[str]) -> None:
        """For these agents the store wins until they were looked at, whatever happens."""
        for number in numbers:
            await self._store.set_note(TO_PUT_BACK.format(self._asterisk) + number, "")
            self.to_put_back.add(number)
            self._again.add(number)

    async def is_done(self, numbers: Iterable[str]) -> None:
        for number in self.to_put_back.intersection(numbers):
            await self._store.drop_note(TO_PUT_BACK.format(self._asterisk) + number)
            self.to_put_back.discard(number)


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
