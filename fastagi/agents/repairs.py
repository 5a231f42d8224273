"""What brings an Asterisk in line with the store, and the event that tells of it."""

from collections import Counter
from collections.abc import Callable, Sequence

from fastagi.agents.commands import Actor
from fastagi.agents.differences import Kind
from fastagi.agents.events import Event
from fastagi.agents.log import Log
from fastagi.agents.operations import Answer, Operation, QueuesUnavailable, Result, in_words
from fastagi.agents.service import AgentService
from fastagi.contract import EventType, Source

MOST_LOGGED = 1_000  # refusals that are remembered so that they are logged once
RECONCILE = "reconcile"  # the actor of repairs
PUT_BACK, TAKEN_OUT, ADOPTED, CORRECTED = "put back", "taken out", "adopted", "corrected"
REPAIRED_AS = {
    Kind.MISSING: PUT_BACK,
    Kind.EXTRA: TAKEN_OUT,
    Kind.ELSEWHERE: TAKEN_OUT,
    Kind.PAUSE: CORRECTED,
    Kind.PENALTY: CORRECTED,
}


class Repairs:
    """Of one Asterisk. ``counted`` learns of them by kind."""

    def __init__(
        self,
        service: AgentService,
        asterisk: str,
        log: Log,
        counted: Callable[[str, str, int], None],
    ) -> None:
        self._service = service
        self._asterisk = asterisk
        self._log = log
        self._counted = counted
        self._not_repaired: dict[Operation, str] = {}  # what Asterisk refused, and its words

    async def apply(
        self, repairs: Sequence[tuple[Operation, str]]
    ) -> tuple[Counter[str], dict[Operation, Answer]]:
        """How many of each kind were done, and what Asterisk refused. Raises QueuesUnavailable
        unless every operation was answered."""
        done: Counter[str] = Counter()
        refused: dict[Operation, Answer] = {}
        if not repairs:
            return done, refused
        results = await self._service.applying.apply([operation for operation, _ in repairs])
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
                self._log_not_repaired(operation, result)
        return done, refused

    def _log_not_repaired(self, operation: Operation, result: Result) -> None:
        """Once, and again when Asterisk gives another answer: it is tried for ever."""
        if result.answer is Answer.NO_SUCH_QUEUE:
            return  # said with the agent, who waits for the queue
        if self._not_repaired.get(operation) == result.message:
            return
        if len(self._not_repaired) >= MOST_LOGGED:
            self._not_repaired.clear()
        self._not_repaired[operation] = result.message
        self._log.error("not repaired", operation=in_words(operation), why=result.message)

    async def record(self, repaired: Counter[str], *, adopted: int = 0) -> None:
        """An event that counts the repairs; what was adopted has events of its own."""
        if adopted:
            self._counted(self._asterisk, ADOPTED, adopted)
        for kind, count in repaired.items():
            self._counted(self._asterisk, kind, count)
        if not repaired.total():
            return
        text = ", ".join(f"{count} {kind}" for kind, count in sorted(repaired.items()))
        self._log.warning("Asterisk was brought in line with the store", repaired=text)
        await self._service.store.record(
            Event(
                id=self._service.new_id(),
                type=EventType.REPAIR,
                agent="",
                extension="",
                queues=(),
                reason=text,
                source=Source.SYSTEM,
                actor=Actor(name=RECONCILE),
                occurred_at=self._service.now(),
                asterisk=self._asterisk,
            )
        )
