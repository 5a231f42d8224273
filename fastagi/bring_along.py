"""What a changed configuration means for agents who are logged in: they are logged off, leave and
join queues, get other penalties.

It lasts until Asterisk was told, also over a restart of the service, and what Asterisk refuses is
tried again. A later configuration decides: what it takes back is not done.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import structlog

from fastagi.agents.commands import Actor, ChangePenalty, Command, JoinQueue, LeaveQueue, LogOff
from fastagi.agents.devices import DeviceRule, resolve
from fastagi.agents.errors import NotLoggedIn, QueueMissing, Refused
from fastagi.agents.log import Trouble
from fastagi.agents.model import AgentState
from fastagi.agents.service import AgentService, OnlyIf, StoreUnavailable
from fastagi.agents.waiting_queues import waiting_in
from fastagi.contract import Source
from fastagi.store import Difference, PeeweeStore

log = structlog.get_logger()

T = TypeVar("T")
Pair = tuple[str, str]  # an agent's number and a queue's name

ROUND_EVERY: Final = 1.0  # seconds between two attempts, where something could not be done …
REFUSED_EVERY: Final = 15.0  # … and where all that is left was refused
_PENALTY: Final = "penalty:"  # notes in the store: penalties that Asterisk does not know yet


@dataclass(frozen=True, slots=True)
class _Due:
    """``only_if``: whether it is still meant, asked right before it is carried out."""

    command: Command
    only_if: OnlyIf | None = None

    @property
    def key(self) -> "Key":
        return type(self.command), self.command.agent, getattr(self.command, "queue", "")


Key = tuple[type[Command], str, str]  # what is to be done, the agent and the queue


class BringAlong:
    """``rules``: the device rules that are in use."""

    def __init__(
        self,
        service: AgentService,
        store: PeeweeStore,
        rules: Callable[[], Sequence[DeviceRule]],
    ) -> None:
        self._service = service
        self._store = store
        self._rules = rules
        self._one = asyncio.Lock()  # two at once would do the same twice
        self._latest = 0  # which configuration counts
        self._later = asyncio.Event()  # there is a later one
        # What Asterisk does not know yet. What is to be left, and who is to be logged off, the
        # store knows; it finds again what an earlier process could not finish.
        self._joins: dict[Pair, None] = {}
        self._penalties: dict[Pair, int] = {}
        self._notes_read = False
        self._refused: dict[Key, str] = {}  # why, as last logged
        self._left: set[str] = set()  # agents who have left queues that were taken away
        self._stranded: set[str] = set()  # logins, by id, that a warning was logged about

    async def run(self, difference: Difference) -> None:
        """Ends when all is done, or when it runs once more for a later configuration."""
        self._latest += 1
        mine = self._latest
        self._later.set()
        for pair in difference.to_join:
            # Also a note in the store, as this process may end before Asterisk is back.
            await _until_stored(partial(self._service.waiting.add_new, *pair))
            self._joins[pair] = None
        await _until_stored(partial(self._note_penalties, difference.to_set_penalty))
        over: set[Key] = set()
        warned = False
        async with self._one:
            self._later.clear()
            while mine == self._latest:
                due = [one for one in await _until_stored(self._due) if one.key not in over]
                self._left.update(d.command.agent for d in due if isinstance(d.command, LeaveQueue))
                tried = await self._round(due, mine)
                over |= tried
                left = {one.key for one in due} - tried
                self._refused = {key: why for key, why in self._refused.items() if key in left}
                refused = left == self._refused.keys()
                if refused and not warned and mine == self._latest:
                    warned = True
                    await self._warn()
                if not left:
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(REFUSED_EVERY if refused else ROUND_EVERY):
                        await self._later.wait()

    async def _note_penalties(self, penalties: Iterable[tuple[str, str, int]]) -> None:
        """In the store as well: this process may end before Asterisk is told."""
        if not self._notes_read:
            notes = await self._store.notes(_PENALTY)
            self._notes_read = True
            for note, value in notes.items():
                with self._service.fence.item("bring along", note=note):
                    number, queue = json.loads(note.removeprefix(_PENALTY))
                    self._penalties[number, queue] = int(value)
        for number, queue, penalty in penalties:
            await self._store.set_note(_noted((number, queue)), str(penalty))
            self._penalties[number, queue] = penalty

    async def _warn(self) -> None:
        left, self._left = sorted(self._left), set()
        await _until_stored(partial(self._warn_of_idle, left))
        await _until_stored(self._warn_of_stranded)

    async def _due(self) -> list[_Due]:
        to_log_off, to_leave = await self._store.left_over()
        due = [_Due(self._command(LogOff, number, reason="archived")) for number in to_log_off]
        for number, queue in to_leave:
            due.append(_Due(self._command(LeaveQueue, number, queue=queue, confirmed=True)))
        for number, queue in self._joins:
            due.append(
                _Due(self._command(JoinQueue, number, queue=queue), partial(_is_to_join, queue))
            )
        for (number, queue), penalty in self._penalties.items():
            change = self._command(ChangePenalty, number, queue=queue, penalty=penalty)
            due.append(_Due(change, partial(_has_penalty, queue, penalty)))
        return due

    def _command(self, kind: type[Command], number: str, **values: object) -> Command:
        actor = Actor(name="configuration")
        return self._service.command(kind, number, Source.SYSTEM, actor, **values)

    async def _round(self, due: Sequence[_Due], mine: int) -> set[Key]:
        """Tries each once. Returns what need not be tried again."""
        numbers = sorted({one.command.agent for one in due})
        states = await _until_stored(partial(self._store.states, numbers))
        over: set[Key] = set()
        away: set[str] = set()  # Asterisks: their agents keep those of others waiting no longer
        for one in due:
            state = states.get(one.command.agent)
            asterisk = state.session.device.asterisk if state and state.session else None
            if asterisk in away:
                continue
            if mine != self._latest:
                break
            if await self._tried(one):
                over.add(one.key)
                await _until_stored(partial(self._forget, one.command))
            elif not self._service.store_usable():
                break
            elif asterisk is not None and not self._service.queues.connected(asterisk):
                away.add(asterisk)
        return over

    async def _forget(self, command: Command) -> None:
        if isinstance(command, JoinQueue):
            self._joins.pop((command.agent, command.queue), None)
        elif isinstance(command, ChangePenalty):
            pair = command.agent, command.queue
            if self._penalties.get(pair) == command.penalty:  # else a later one came meanwhile
                await self._store.drop_note(_noted(pair))
                del self._penalties[pair]

    async def _tried(self, one: _Due) -> bool:
        """Whether it is done, or never can be; else it is worth trying again."""
        command = one.command
        try:
            with self._service.fence.item("bring along", Refused, agent=command.agent):
                await self._service.execute(command, only_if=one.only_if)
        except QueueMissing as refusal:
            queue, number = refusal.queues[0], command.agent
            wait = partial(self._service.waiting.add_refused, number, queue, command)
            await _until_stored(wait)
        except NotLoggedIn:
            pass  # logged off meanwhile, or not meant any more
        except Refused as refusal:
            if refusal.passing:
                self._refused.pop(one.key, None)
                return False
            why = str(refusal)
            if self._refused.get(one.key) != why:
                log.warning(
                    "configuration change not applied to a logged-in agent",
                    agent=command.agent,
                    change=type(command).__name__,
                    queue=getattr(command, "queue", ""),
                    outcome=refusal.outcome.value,
                    why=why,
                    next="tried again every 15 s",
                )
            # A queue that is to be joined is noted, and tried again by those who wait for it.
            if isinstance(command, JoinQueue):
                return True
            self._refused[one.key] = why
            return False
        return True

    async def _warn_of_idle(self, numbers: Sequence[str]) -> None:
        """Of these agents, who have lost a queue: those who are in none now, and wait for none."""
        waiting = {waiting_in(note)[1] for note in await self._service.waiting.read()}
        for state in (await self._store.states(numbers)).values():
            if state.session is not None and not state.joined and state.number not in waiting:
                log.warning(
                    "agent is logged in, and in no queue any more",
                    agent=state.number,
                    extension=state.session.device.extension,
                    cure="give the agent a queue, or log the agent off",
                )

    async def _warn_of_stranded(self) -> None:
        """Agents who are logged in where no device rule leads to, once: they stay in their queues
        and can log off, but nobody can log in there."""
        for state in await self._store.logged_in():
            session = state.session
            assert session is not None
            device = session.device
            rule = resolve(self._rules(), device.extension, device.asterisk)
            if session.id in self._stranded or (rule is not None and rule.key == device.key):
                continue
            self._stranded.add(session.id)
            where = {"asterisk": device.asterisk} if device.asterisk else {}
            log.warning(
                "agent logged in where no device rule leads to",
                agent=state.number,
                extension=device.extension,
                interface=device.interface,
                queues=[m.queue for m in state.joined],
                cure="add a rule for it under devices, or log the agent off",
                **where,
            )


def _noted(pair: Pair) -> str:
    return _PENALTY + json.dumps(pair, ensure_ascii=False)


def _is_to_join(queue: str, state: AgentState) -> Refused | None:
    lacks = any(m.queue == queue and not m.joined for m in state.memberships)
    return None if lacks else NotLoggedIn()


def _has_penalty(queue: str, penalty: int, state: AgentState) -> Refused | None:
    has = any(m.queue == queue and m.penalty == penalty for m in state.memberships)
    return None if has else NotLoggedIn()


async def _until_stored(ask: Callable[[], Awaitable[T]]) -> T:
    away = Trouble(log, "the store is away: nobody is brought along yet", "the store is back")
    while True:
        try:
            answer = await ask()
        except StoreUnavailable as error:
            away.is_there(error=str(error))
            await asyncio.sleep(1)
        else:
            away.is_over()
            return answer
