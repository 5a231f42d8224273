"""A change, from its intent to its confirmation: recorded, applied to Asterisk's queues, then
confirmed together with its events, so that nothing is ever assumed applied.

Whoever calls this holds the agent's lock.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from fastagi.agents import errors
from fastagi.agents.commands import (
    Adopt,
    Command,
    Facts,
    JoinQueue,
    LeaveQueue,
    LogIn,
    Pause,
    Relog,
    Unpause,
)
from fastagi.agents.deciding import again, beginning, device_wanted, once
from fastagi.agents.differences import settlement, to_be_finished
from fastagi.agents.errors import Refused, StoreUnavailable
from fastagi.agents.fence import AWAY, Fence
from fastagi.agents.log import Log
from fastagi.agents.model import Change, Step, as_taken
from fastagi.agents.notes import Note
from fastagi.agents.operations import (
    AddMember,
    Answer,
    Operation,
    QueuesUnavailable,
    Result,
    in_words,
)
from fastagi.agents.phone_notes import noted_by, overtaken_by
from fastagi.agents.ports import Queues, Store
from fastagi.agents.refused_logins import RefusedLogins
from fastagi.agents.static_members import StaticMembers, adjustment
from fastagi.agents.waiting_queues import WaitingQueues
from fastagi.contract import Outcome, Script

GIVE_UP_AFTER = 3  # faults of ours at settling one change
OTHERS_MAY_TAKE = 3.0  # seconds that a change of the same agent in another service is waited for
OWED = "owed:{}:"  # notes: devices to be taken out of the queues of an Asterisk that was away


class Applying:
    """``follow_clock`` gives the time at which something is begun; ``now`` that of all else.
    ``refuses_missing_queue``: whether a login is refused when Asterisk lacks one of its queues.
    """

    def __init__(
        self,
        store: Store,
        queues: Queues,
        log: Log,
        fence: Fence,
        now: Callable[[], datetime],
        follow_clock: Callable[[], Awaitable[datetime]],
        refused_logins: RefusedLogins,
        refuses_missing_queue: Callable[[], bool],
    ) -> None:
        self._store = store
        self._queues = queues
        self._log = log
        self._fence = fence
        self._now = now
        self._follow_clock = follow_clock
        self._refused_logins = refused_logins
        self._refuses_missing_queue = refuses_missing_queue
        self._again = again(log)
        self._gone: set[str] = set()  # open commands whose caller has hung up
        self._failed: dict[str, int] = {}  # open commands: faults of ours at settling them
        self.static = StaticMembers(store, queues, log, fence)
        self.waiting = WaitingQueues(store, log, now)
        # Called with every change that was written down, and when one was left unsettled.
        self.on_change: list[Callable[[Change], None]] = []
        self.on_unsettled: list[Callable[[], None]] = []
        # Called with an Asterisk whose queues are to be compared, as nobody knows what was done.
        self.on_given_up: list[Callable[[str], None]] = []

    async def carry_out(
        self, command: Command, facts: Facts, hung_up: Callable[[], bool]
    ) -> Change:
        """Raises Refused, StoreUnavailable, QueuesUnavailable."""
        began, settled = time.monotonic(), False
        try:
            while True:
                # The clock may have been set while others were waited for: what begins now is of
                # the new time.
                rule = beginning(command, await self._follow_clock(), facts)
                try:
                    change = await self._store.begin(
                        command.agent, rule, device_wanted(command), event=once(command)
                    )
                    break
                except errors.InProgress as other:
                    settled = await self._let_others_finish(command.agent, other, began, settled)
            if change.steps:
                change = await self._apply(change, hung_up)
        except BaseException as error:
            # Whatever it was, a caller cut off included, an intent may be open. After a plain
            # refusal none is.
            if isinstance(error, Refused) and not isinstance(error, errors.Unavailable):
                raise
            if hung_up():
                self._gone.add(command.id)
            self._request_settling()
            raise
        self._require_link(change)
        self.notify(change)
        if isinstance(command, LeaveQueue):
            await self.waiting.leave(command.agent, command.queue)
        return change

    # -- begin

    async def _let_others_finish(
        self, agent: str, other: errors.InProgress, began: float, settled: bool
    ) -> bool:
        """An earlier change of the agent is waited for, or settled when nobody is at it. Returns
        whether it was; raises ``other`` when there is no waiting any longer."""
        if other.settle and not settled:
            for change in await self.unsettled():
                if change.command.agent == agent:
                    await self.settle(change)
            return True
        if other.settle or time.monotonic() > began + OTHERS_MAY_TAKE:
            raise other
        await asyncio.sleep(0.02)
        return settled

    async def write_applied(self, command: Command, at: datetime, *, held: bool = False) -> Change:
        """Writes what Asterisk has already, decided at ``at``, once only."""
        return await self._store.begin(
            command.agent,
            beginning(command, at, applied=True),
            device_wanted(command),
            event=once(command, applied=True),
            held=held,
        )

    async def adopt(self, command: Adopt) -> Change:
        """What somebody did in Asterisk; to be called under ``holding`` of the agent."""
        rule = beginning(command, self._now())
        return await self._store.begin(command.agent, rule, command.device, held=True)

    def _require_link(self, change: Change) -> None:
        """Nothing had to be changed, says the store alone: of an Asterisk that is away nobody
        knows that. Raises Unavailable."""
        session = change.after.session
        if change.alters or change.steps or session is None:
            return
        if not isinstance(change.command, LogIn | Pause | Unpause):
            return
        if not self._queues.connected(session.device.asterisk):
            raise errors.Unavailable(f"the agent's Asterisk is away: {session.device.asterisk}")

    def notify(self, change: Change) -> None:
        """Whoever waits for changes learns of one that is written down."""
        if change.alters:
            for callback in self.on_change:
                try:
                    callback(change)
                except Exception as error:  # the change is made all the same
                    self._fence.skipped("changes", error, agent=change.before.number)

    def _request_settling(self) -> None:
        for callback in self.on_unsettled:
            with self._fence.item("changes"):
                callback()

    # -- apply

    async def _apply(self, change: Change, hung_up: Callable[[], bool]) -> Change:
        change = self.static.spared(await self._without_a_dead_asterisk(change))
        try:
            results = await self.apply([step.do for step in change.steps])
        except QueuesUnavailable:
            await self._withdraw(change, errors.Unavailable("nothing was sent"), hung_up())
            raise
        missing = {r.operation.queue for r in results if r.answer is Answer.NO_SUCH_QUEUE}
        refusal = self._refusal(change, results, missing)
        in_call = isinstance(change.command, Relog) and change.command.in_call
        if refusal is None and not in_call and not _is_unknown(results):
            results = await self.static.replace_strangers(results)
            refusal = self._refusal(change, results, missing)
        if _is_unknown(results):
            # The intent stays recorded; it is settled when the link is back.
            raise errors.Unsettled("Asterisk gave no answer")
        if refusal is not None:
            await self._take_back(change, self._undo(change.steps, results), refusal, hung_up())
            raise refusal
        change = await self._as_taken(change, results, missing)
        if hung_up():
            change = _with_hang_up(change)
        try:
            await self._store.confirm(change)
        except StoreUnavailable as error:
            # Written or not, only the store can tell: while the intent is there it was not.
            raise errors.Unsettled(str(error)) from error
        return change

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Result]:
        """Tells Asterisk. A static member is paused instead of removed, and remembered. Raises
        QueuesUnavailable, StoreUnavailable."""
        results = await self._queues.apply(operations)
        for result in results:
            if result.answer is Answer.NOT_DYNAMIC:
                return await self.static.pause_instead(results)
        return results

    async def _answered(self, operations: Sequence[Operation]) -> Sequence[Result]:
        """Raises QueuesUnavailable unless every operation was answered."""
        results = await self.apply(operations)
        if _is_unknown(results):
            raise QueuesUnavailable("Asterisk gave no answer")
        return results

    async def _without_a_dead_asterisk(self, change: Change) -> Change:
        """Who moves away from an Asterisk that is away can do so: it is told when it is back."""
        if change.outcome not in (Outcome.MOVED, Outcome.LOGGED_OFF):
            return change
        assert change.before.session is not None
        left = change.before.session.device
        # Who logs off waits for an Asterisk that is away, but not for one that was taken away.
        waits = change.outcome is Outcome.LOGGED_OFF and left.asterisk in self._queues.names
        if waits or self._queues.connected(left.asterisk):
            return change
        await self._store.set_note(OWED.format(left.asterisk) + left.key, change.before.number)
        return replace(
            change,
            steps=tuple(s for s in change.steps if s.do.asterisk != left.asterisk),
        )

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
        unwanted = isinstance(command, LogIn) and self._refuses_missing_queue()
        if isinstance(command, JoinQueue) or nothing_left or unwanted:
            return errors.QueueMissing([m.queue for m in lacking], [m.number for m in lacking])
        return None

    async def _as_taken(
        self, change: Change, results: Sequence[Result], missing: Collection[str]
    ) -> Change:
        added = [r.operation for r in results if r.answer is Answer.ADJUSTED]
        removed = [r.operation for r in results if r.answer is Answer.PAUSED_INSTEAD]
        if added or removed or missing:
            change = as_taken(
                change,
                self._now(),
                missing,
                tuple(operation.queue for operation in added),
                tuple(operation.queue for operation in removed),
            )
            await self.static.met(change.before.number, added, removed)
            if change.after.session is not None:
                await self.waiting.add(change.after, change.missing)
        if change.outcome is Outcome.MOVED:
            await self.waiting.move(change)
        return change

    # -- take back

    def _undo(
        self, steps: Sequence[Step], results: Sequence[Result], *, already: bool = False
    ) -> list[Operation]:
        """What takes back the steps that had an effect; ``already``: or may have had it before."""
        operations: list[Operation] = []
        for step, result in reversed(list(zip(steps, results, strict=True))):
            undo, answer = step.undo, result.answer
            if answer is Answer.DONE or (already and answer is Answer.ALREADY_SO):
                operations.append(undo)
            elif answer is Answer.PAUSED_INSTEAD and isinstance(undo, AddMember):
                operations += adjustment(undo)
            elif answer is Answer.ADJUSTED and self.static.is_one(undo):
                # It was one of ours before. Else it was somebody's, and is left as it is.
                operations.append(undo)
        return operations

    async def _take_back(
        self, change: Change, operations: list[Operation], refusal: Refused, hung_up: bool
    ) -> None:
        try:
            results = await self._answered(operations)
        except QueuesUnavailable:
            self._request_settling()
            return
        for result in results:
            if not result.ok:
                self._log.error(
                    "not taken back", operation=in_words(result.operation), why=result.message
                )
        await self._withdraw(change, refusal, hung_up)

    async def _withdraw(self, change: Change, refusal: Refused, hung_up: bool) -> None:
        event = None
        if isinstance(change.command, LogIn):
            event = self._refused_logins.event(change.command, refusal.outcome, hung_up)
        try:
            await self._store.withdraw(change, event)
        except StoreUnavailable:
            self._request_settling()

    # -- settle

    async def unsettled(self) -> list[Change]:
        """The changes that nobody is at, decided again; the oldest first. Raises
        StoreUnavailable."""
        return await self._store.unsettled(self._again)

    async def settle(self, change: Change) -> None:
        """Finishes an unconfirmed change, or takes it back. Raises what is AWAY; the change may be
        open still.

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
            self._fence.skipped("settle", error, **known)
            failed = self._failed[command.id] = self._failed.get(command.id, 0) + 1
            if failed < GIVE_UP_AFTER:
                return
            with self._fence.item("settle", *AWAY, **known):
                await self._store.withdraw(change, None)
                self._gone.discard(command.id)
                del self._failed[command.id]
                self._log.error(
                    "an unconfirmed change was given up after a fault of the service: the queues in"
                    " Asterisk say what came of it",
                    **known,
                )
                for asterisk in {step.do.asterisk for step in change.steps}:
                    for callback in self.on_given_up:
                        callback(asterisk)
        else:
            self._failed.pop(command.id, None)

    async def _settle_once(self, change: Change) -> None:
        gone = change.command.id in self._gone
        note = await overtaken_by(self._queues, change)
        if note is not None:
            await self._settle_overtaken(change, note, gone)
        else:
            await self._settle(change, gone)
        self._gone.discard(change.command.id)

    async def _settle_overtaken(self, change: Change, note: Note, gone: bool) -> None:
        if not isinstance(change.command, Pause) or note.script is not Script.UNPAUSE:
            await self._store.withdraw(change, None)
            return
        # The fallback ends no pause that it does not see: this one was made, and is over.
        await self._store.confirm(_with_hang_up(change) if gone else change)
        session = change.before.session
        assert session is not None
        ended = Unpause(**noted_by(note, session.device.asterisk, change.command.agent))
        over = await self.write_applied(ended, note.at)
        self.notify(change)
        self.notify(over)

    async def _settle(self, change: Change, gone: bool) -> None:
        command = change.command
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
            await self._store.confirm(_with_hang_up(change) if gone else change)
            self.notify(change)
        else:
            event = None
            if isinstance(command, LogIn):
                event = self._refused_logins.event(command, Outcome.UNAVAILABLE, gone)
            await self._store.withdraw(change, event)


def _is_unknown(results: Sequence[Result]) -> bool:
    return any(result.answer is Answer.UNKNOWN for result in results)


def _with_hang_up(change: Change) -> Change:
    """The same change; its events say that the caller was gone before it was finished."""
    return replace(
        change,
        events=tuple(replace(e, actor=replace(e.actor, hung_up=True)) for e in change.events),
    )
