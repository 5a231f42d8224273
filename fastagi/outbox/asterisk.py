"""What the sinks on Asterisk's manager interface have in common."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from fastagi.agents.events import Event
from fastagi.outbox.delivery import (
    DELIVERED,
    Later,
    Receipt,
    Rejected,
    SinkUnavailable,
    Waits,
)

# Asterisk reads lines of at most 1,024 bytes with CRLF; a longer one is cut.
MAX_VALUE = 900

# Beside the C0 and C1 controls the two separators at which many clients also break lines.
_BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Action = Mapping[str, str]
Letter = tuple[int, Action]  # the place of its event in the batch, and what is said


class Response(Protocol):
    @property
    def success(self) -> bool: ...

    @property
    def message(self) -> str: ...


class Ami(Protocol):
    """What a sink needs of the manager connection."""

    @property
    def connected(self) -> bool: ...

    async def actions(self, actions: Sequence[Action], /) -> Sequence[Response | Exception]:
        """Send all in one write; an answer or an error for each, in the same order.

        Raises when nothing was sent. A ValueError among the answers says that this action cannot
        be sent as it is; any other error, that it is not known whether it happened.
        """


class AmiSink:
    """Delivers an event as the manager actions that ``encode`` makes of it, possibly none.

    ``amis``: the connections, by the Asterisks' names; one connection alone, where there is one.
    Of several the one that the event is of is told at least once, and the others, when
    ``everywhere``, if they are there at that moment; an event of none is told to all that are.
    ``encode`` raises ValueError for an event that cannot be said to Asterisk without being
    misread.
    """

    def __init__(
        self,
        amis: Ami | Mapping[str, Ami],
        encode: Callable[[Event], Sequence[Action]],
        *,
        everywhere: bool = False,
    ) -> None:
        self._amis = dict(amis) if isinstance(amis, Mapping) else {"": amis}
        self._encode = encode
        self._everywhere = everywhere
        self._along: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        return any(ami.connected for ami in self._amis.values())

    async def deliver(self, events: Sequence[Event], /) -> list[Receipt]:
        receipts: list[Receipt] = [DELIVERED] * len(events)
        letters: list[Letter] = []
        for index, event in enumerate(events):
            try:
                letters += [(index, action) for action in self._encode(event)]
            except ValueError as error:
                receipts[index] = Rejected(str(error), final=True)
        if not letters:
            return receipts
        if len(self._amis) == 1:
            (ami,) = self._amis.values()
            await _tell(ami, letters, receipts)
            return receipts
        await self._tell_each(events, letters, receipts)
        return receipts

    async def _tell_each(
        self, events: Sequence[Event], letters: Sequence[Letter], receipts: list[Receipt]
    ) -> None:
        there = {name: ami for name, ami in self._amis.items() if ami.connected}
        homes = []  # of each event: those that have to be told
        for index, event in enumerate(events):
            if event.asterisk in there:
                homes.append({event.asterisk})
            elif event.asterisk in self._amis:
                homes.append(set())
                receipts[index] = Waits(f"the Asterisk {event.asterisk!r} is not connected")
            elif self._everywhere:
                homes.append(set(there))
            else:
                homes.append(set())
                receipts[index] = Rejected("of no Asterisk that is configured", final=True)
        waiting = []
        for name, ami in there.items():
            owed, along = [], []
            for letter in letters:
                index = letter[0]
                if name in homes[index]:
                    owed.append(letter)
                elif self._everywhere and homes[index]:
                    along.append(letter[1])
            if owed:
                waiting.append(self._tell_one(name, ami, owed, receipts))
            if along:
                self._tell_along(ami, along)
        await asyncio.gather(*waiting)
        for index, receipt in enumerate(receipts):
            if isinstance(receipt, Later):  # the fault of one Asterisk, and not of the others
                receipts[index] = Waits(receipt.error)

    async def _tell_one(
        self, name: str, ami: Ami, letters: Sequence[Letter], receipts: list[Receipt]
    ) -> None:
        try:
            await _tell(ami, letters, receipts)
        except SinkUnavailable as error:
            for index, _ in letters:
                receipts[index] = Waits(f"the Asterisk {name!r}: {error}")

    def _tell_along(self, ami: Ami, actions: Sequence[Action]) -> None:
        """Nobody waits for it: one slow Asterisk must not delay the others."""

        async def told() -> None:
            with suppress(Exception):
                await ami.actions(actions)

        task = asyncio.create_task(told())
        self._along.add(task)
        task.add_done_callback(self._along.discard)


async def _tell(ami: Ami, letters: Sequence[Letter], receipts: list[Receipt]) -> None:
    """Raises SinkUnavailable: nothing was sent."""
    try:
        answers = await ami.actions([action for _, action in letters])
    except Exception as error:
        raise SinkUnavailable(str(error) or type(error).__name__) from error
    for (index, _), answer in zip(letters, answers, strict=True):
        receipt = _receipt(answer)
        if receipt is not DELIVERED and not isinstance(receipts[index], Later):
            receipts[index] = receipt


def _receipt(answer: Response | Exception) -> Receipt:
    if isinstance(answer, Exception):
        text = str(answer) or type(answer).__name__
        return Rejected(text, final=True) if isinstance(answer, ValueError) else Later(text)
    if answer.success:
        return DELIVERED
    # manager.c, process_message: the account lacks the action's write class. That is so for every
    # event until an admin changes it, so it is no event's fault and no event is given up for it.
    if answer.message.casefold().startswith("permission denied"):
        return Later(f"Asterisk: {answer.message} (write classes of the manager account)")
    return Rejected(f"Asterisk: {answer.message or 'refused without a reason'}")


def value(name: str, text: str) -> str:
    """``text``, if it can be one value of a manager action; the ValueError never repeats it."""
    if text.isprintable() and len(text) <= 200:
        return text
    if _BREAKING.search(text):
        raise ValueError(f"{name}: contains a control character")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name}: is not valid Unicode text") from None
    if size > MAX_VALUE:
        raise ValueError(f"{name}: {size} bytes, at most {MAX_VALUE} fit into a manager line")
    return text
