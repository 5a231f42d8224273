"""Members that stand in queues.conf or in a realtime table: Asterisk does not remove them. Whoever
leaves such a queue is paused in it instead, and the store remembers the member."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace

from fastagi.agents.fence import Fence
from fastagi.agents.log import Log
from fastagi.agents.model import Change, in_each_queue
from fastagi.agents.operations import (
    AddMember,
    Answer,
    Operation,
    PauseMember,
    QueuesUnavailable,
    RemoveMember,
    Result,
    SetPenalty,
    in_words,
)
from fastagi.agents.ports import Queues, Store
from fastagi.contract import LOGGED_OFF

# Notes in the store, by Asterisk, queue and interface. Value: JSON, the names of the queue and of
# the interface.
NOTE = "static:{}:"
CURE = (
    "remove its 'member =>' line from queues.conf, or its row from the realtime table, and run "
    "'queue reload all' in Asterisk"
)


class StaticMembers:
    """Those that agents of ours have used."""

    def __init__(self, store: Store, queues: Queues, log: Log, fence: Fence) -> None:
        self._store = store
        self._queues = queues
        self._log = log
        self._fence = fence
        # By note: queue and interface, as last read, or written here.
        self._remembered: dict[str, tuple[str, str]] = {}

    async def on(self, asterisk: str) -> list[tuple[str, str]]:
        """Queue and interface of those on this Asterisk. Raises StoreUnavailable."""
        prefix = NOTE.format(asterisk)
        found: dict[str, tuple[str, str]] = {}
        for note, value in (await self._store.notes(prefix)).items():
            with self._fence.item("static members", note=note):
                queue, interface = json.loads(value)
                found[note] = (queue, interface)
        others = {n: v for n, v in self._remembered.items() if not n.startswith(prefix)}
        self._remembered = others | found
        return list(found.values())

    async def remember(self, member: Operation) -> None:
        note = _note(member.asterisk, member.queue, member.interface)
        if note not in self._remembered:
            pair = member.queue, member.interface
            await self._store.set_note(note, json.dumps(pair))
            self._remembered[note] = pair

    async def forget(self, asterisk: str, queue: str, interface: str) -> None:
        note = _note(asterisk, queue, interface)
        self._remembered.pop(note, None)
        await self._store.drop_note(note)

    def is_one(self, member: Operation) -> bool:
        return _note(member.asterisk, member.queue, member.interface) in self._remembered

    async def pause_instead(self, results: Sequence[Result]) -> Sequence[Result]:
        """Of what Asterisk has answered: members that it did not remove, as they are static, are
        paused in their queues, and remembered. Raises StoreUnavailable."""
        removals = [
            result.operation
            for result in results
            if result.answer is Answer.NOT_DYNAMIC and isinstance(result.operation, RemoveMember)
        ]
        pauses = [PauseMember(r.interface, True, LOGGED_OFF, r.queue, r.asterisk) for r in removals]
        answers = dict(zip(removals, await answered(self._queues, pauses), strict=True))
        for removal, answer in answers.items():
            if answer.answer is Answer.DONE:
                await self.remember(removal)
        return [
            _paused_instead(result, answers[result.operation])
            if isinstance(result.operation, RemoveMember) and result.operation in answers
            else result
            for result in results
        ]

    async def replace_strangers(self, results: Sequence[Result]) -> Sequence[Result]:
        """A member that was there already was not put there by this change: its penalty, name or
        pause may differ from what is meant. It is taken out and put in as meant; one that cannot
        be taken out gets the penalty and the pause that are meant. Raises QueuesUnavailable."""
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
        answers = await self._queues.apply(operations)
        again: dict[Operation, Result] = {r.operation: r for r in answers}
        stay = [
            add
            for add, removal in zip(strangers, answers[::2], strict=True)
            if removal.answer is Answer.NOT_DYNAMIC
        ]
        adjusted = await answered(self._queues, [a for add in stay for a in adjustment(add)])
        for place, add in enumerate(stay):
            both = adjusted[2 * place : 2 * place + 2]
            wrong = next((r for r in both if not r.ok), None)
            again[add] = (
                Result(add, Answer.ADJUSTED)
                if wrong is None
                else Result(add, wrong.answer, f"{in_words(wrong.operation)}: {wrong.message}")
            )
        return [again.get(r.operation, r) for r in results]

    def spared(self, change: Change) -> Change:
        """A pause of all queues, or its end, spares the members that stand in queues which the
        agent has left: those stay paused."""
        session = change.after.session
        if not self._remembered or session is None or not change.steps:
            return change
        do = change.steps[0].do
        if not isinstance(do, PauseMember) or do.queue:
            return change
        joined = {m.queue.lower() for m in change.after.joined}
        if not any(
            interface.lower() == do.interface.lower() and queue.lower() not in joined
            for queue, interface in self._remembered.values()
        ):
            return change
        return replace(change, steps=tuple(in_each_queue(change.steps[0], change.after.joined)))

    async def met(
        self, agent: str, added: Collection[Operation], removed: Collection[Operation]
    ) -> None:
        """An agent has come into queues as such members, and has left queues as such members."""
        for operation in added:
            await self.remember(operation)
        for operations, message in (
            (added, "static member: the agent's log-off will only pause it in the queue"),
            (removed, "static member: it cannot be removed from the queue, and is paused there"),
        ):
            for operation in operations:
                self._log.warning(
                    message,
                    agent=agent,
                    queue=operation.queue,
                    interface=operation.interface,
                    cure=CURE,
                )


def adjustment(add: AddMember) -> list[Operation]:
    """Makes a member that is there what ``add`` means: two operations."""
    return [
        SetPenalty(add.queue, add.interface, add.penalty, add.asterisk),
        PauseMember(add.interface, add.paused, add.reason, add.queue, add.asterisk),
    ]


async def answered(queues: Queues, operations: Sequence[Operation]) -> list[Result]:
    """What became of them, when something was asked before them that may have been done."""
    if not operations:
        return []
    try:
        return await queues.apply(operations)
    except QueuesUnavailable as error:
        return [Result(operation, Answer.UNKNOWN, str(error)) for operation in operations]


def _note(asterisk: str, queue: str, interface: str) -> str:
    return NOTE.format(asterisk) + f"{queue}|{interface}".lower()


def _paused_instead(removal: Result, pause: Result) -> Result:
    if pause.answer is Answer.DONE:
        return Result(removal.operation, Answer.PAUSED_INSTEAD, removal.message)
    if pause.answer is Answer.UNKNOWN:
        return Result(removal.operation, Answer.UNKNOWN, pause.message)
    message = f"{removal.message}, and it cannot be paused: {pause.message}"
    return Result(removal.operation, Answer.REFUSED, message)
