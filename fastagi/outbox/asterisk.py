"""What the sinks on Asterisk's manager interface have in common."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fastagi.agents.events import Event
from fastagi.outbox.delivery import (
    DELIVERED,
    Later,
    Receipt,
    Rejected,
    SinkUnavailable,
)

# Asterisk reads lines of at most 1,024 bytes with CRLF; a longer one is cut.
MAX_VALUE = 900

# Beside the C0 and C1 controls the two separators at which many clients also break lines.
_BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Action = Mapping[str, str]


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

    ``encode`` raises ValueError for an event that cannot be said to Asterisk without being
    misread.
    """

    def __init__(self, ami: Ami, encode: Callable[[Event], Sequence[Action]]) -> None:
        self._ami = ami
        self._encode = encode

    @property
    def ready(self) -> bool:
        return self._ami.connected

    async def deliver(self, events: Sequence[Event], /) -> list[Receipt]:
        receipts: list[Receipt] = [DELIVERED] * len(events)
        actions: list[Action] = []
        owners: list[int] = []
        for index, event in enumerate(events):
            try:
                encoded = self._encode(event)
            except ValueError as error:
                receipts[index] = Rejected(str(error), final=True)
                continue
            actions += encoded
            owners += [index] * len(encoded)
        if not actions:
            return receipts
        try:
            answers = await self._ami.actions(actions)
        except Exception as error:
            raise SinkUnavailable(str(error) or type(error).__name__) from error
        for index, answer in zip(owners, answers, strict=True):
            receipt = _receipt(answer)
            if receipt is not DELIVERED and not isinstance(receipts[index], Later):
                receipts[index] = receipt
        return receipts


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
