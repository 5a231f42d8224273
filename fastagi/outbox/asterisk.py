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
Message = tuple[int, Action]  # the index of its event in the batch, and the action


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
    Of several the one that the event is of gets it at least once; with ``everywhere`` the others
    get it if they are connected at that moment. An event of none goes to all that are connected.
    ``encode`` raises ValueError for an event that Asterisk would misread.
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
        self._best_effort: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        return any(ami.connected for ami in self._amis.values())

    async def deliver(self, events: Sequence[Event], /) -> list[Receipt]:
        receipts: list[Receipt] = [DELIVERED] * len(events)
        messages: list[Message] = []
        for index, event in enumerate(events):
            try:
                messages += [(index, action) for action in self._encode(event)]
            except ValueError as error:
                receipts[index] = Rejected(str(error), final=True)
        if not messages:
            return receipts
        if len(self._amis) == 1:
            (ami,) = self._amis.values()
            await _send(ami, messages, receipts)
            return receipts
        await self._send_each(events, messages, receipts)
        return receipts

    async def _send_each(
        self, events: Sequence[Event], messages: Sequence[Message], receipts: list[Receipt]
    ) -> None:
        connected = {name: ami for name, ami in self._amis.items() if ami.connected}
        required_on = []  # for each event: the Asterisks that have to get it
        for index, event in enumerate(events):
            if event.asterisk in connected:
                required_on.append({event.asterisk})
            elif event.asterisk in self._amis:
                required_on.append(set())
                receipts[index] = Waits(f"the Asterisk {event.asterisk!r} is not connected")
            elif self._everywhere:
                required_on.append(set(connected))
            else:
                required_on.append(set())
                receipts[index] = Rejected("of no Asterisk that is configured", final=True)
        waiting = []
        for name, ami in connected.items():
            owed, best_effort = [], []
            for message in messages:
                index = message[0]
                if name in required_on[index]:
                    owed.append(message)
                elif self._everywhere and required_on[index]:
                    best_effort.append(message[1])
            if owed:
                waiting.append(self._send_one(name, ami, owed, receipts))
            if best_effort:
                self._send_best_effort(ami, best_effort)
        await asyncio.gather(*waiting)
        for index, receipt in enumerate(receipts):
            if isinstance(receipt, Later):  # the fault of one Asterisk, and not of the others
                receipts[index] = Waits(receipt.error)

    async def _send_one(
        self, name: str, ami: Ami, messages: Sequence[Message], receipts: list[Receipt]
    ) -> None:
        try:
            await _send(ami, messages, receipts)
        except SinkUnavailable as error:
            for index, _ in messages:
                receipts[index] = Waits(f"the Asterisk {name!r}: {error}")

    def _send_best_effort(self, ami: Ami, actions: Sequence[Action]) -> None:
        """Nobody waits for it: one slow Asterisk must not delay the others."""

        async def send() -> None:
            with suppress(Exception):
                await ami.actions(actions)

        task = asyncio.create_task(send())
        self._best_effort.add(task)
        task.add_done_callback(self._best_effort.discard)


async def _send(ami: Ami, messages: Sequence[Message], receipts: list[Receipt]) -> None:
    """Raises SinkUnavailable: nothing was sent."""
    try:
        answers = await ami.actions([action for _, action in messages])
    except Exception as error:
        raise SinkUnavailable(str(error) or type(error).__name__) from error
    for (index, _), answer in zip(messages, answers, strict=True):
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
