"""All Asterisks as one: what the hall asks of their queues, each question to the right one."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from fastagi.agents.notes import Note
from fastagi.agents.operations import (
    Answer,
    Operation,
    QueuesUnavailable,
    ReportedMember,
    Result,
)
from fastagi.ami.queues import Queues


class Asterisks:
    """The queues of every configured Asterisk, by its name; ``{"": …}`` where there is one.

    Whatever asks for an Asterisk that is not configured raises QueuesUnavailable: nothing was
    sent anywhere.
    """

    def __init__(self, queues: Mapping[str, Queues]) -> None:
        self._queues = dict(queues)
        self.names = tuple(self._queues)

    def connected(self, asterisk: str) -> bool:
        queues = self._queues.get(asterisk)
        return queues is not None and queues.connected

    async def apply(self, operations: Sequence[Operation]) -> list[Result]:
        """All at once, each to its Asterisk; one result each, in the same order.

        Raises QueuesUnavailable when one of these Asterisks is away: nothing was sent to any. Of
        one that goes away in that very moment, while others were told already, the operations are
        REFUSED, as nothing was sent there.
        """
        if not operations:
            return []
        first = operations[0].asterisk
        for operation in operations:
            if operation.asterisk != first:
                break
        else:  # nearly always: an agent is on one of them
            return await self._of(first).apply(operations)
        groups: dict[str, list[int]] = {}
        for place, operation in enumerate(operations):
            groups.setdefault(operation.asterisk, []).append(place)
        for name in groups:
            if not self._of(name).connected:
                raise QueuesUnavailable(f"the Asterisk {name!r} is not connected")
        answers = await asyncio.gather(
            *(
                self._apply(name, [operations[place] for place in places])
                for name, places in groups.items()
            )
        )
        unavailable = [answer for answer in answers if isinstance(answer, QueuesUnavailable)]
        if len(unavailable) == len(answers):
            raise unavailable[0]
        results: list[Result | None] = [None] * len(operations)
        for places, answer in zip(groups.values(), answers, strict=True):
            for index, place in enumerate(places):
                results[place] = (
                    Result(operations[place], Answer.REFUSED, f"not connected: {answer}")
                    if isinstance(answer, QueuesUnavailable)
                    else answer[index]
                )
        return [result for result in results if result is not None]

    async def _apply(
        self, name: str, operations: Sequence[Operation]
    ) -> list[Result] | QueuesUnavailable:
        try:
            return await self._of(name).apply(operations)
        except QueuesUnavailable as error:
            return error

    async def members(
        self,
        asterisk: str,
        queue: str | None = None,
        interface: str | None = None,
        queues: Collection[str] | None = None,
    ) -> list[ReportedMember]:
        return await self._of(asterisk).members(queue, interface, queues)

    async def lacking(self, asterisk: str, queues: Sequence[str]) -> set[str]:
        return await self._of(asterisk).lacking(queues)

    async def started_at(self, asterisk: str) -> str:
        return await self._of(asterisk).started_at()

    async def notes(self, asterisk: str) -> list[Note]:
        return await self._of(asterisk).notes()

    async def forget(self, asterisk: str, notes: Sequence[Note]) -> None:
        await self._of(asterisk).forget(notes)

    def _of(self, asterisk: str) -> Queues:
        queues = self._queues.get(asterisk)
        if queues is None:
            raise QueuesUnavailable(f"no Asterisk of the name {asterisk!r} is configured")
        return queues
