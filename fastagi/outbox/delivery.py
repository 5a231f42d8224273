"""What the dispatcher needs of a sink, and what a sink may answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fastagi.agents.events import Event


class SinkUnavailable(Exception):
    """The receiver is away: nothing is known to be delivered, everything is tried again later."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The receiver refused this event. ``final``: asking again cannot change that."""

    error: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Later:
    """Not this event's fault: no answer came, or the receiver lets us deliver nothing at all."""

    error: str


@dataclass(frozen=True, slots=True)
class Waits:
    """What this event is for is away, and others' events can go on: only its agent's later ones
    wait with it."""

    error: str


Receipt = Delivered | Rejected | Later | Waits
DELIVERED = Delivered()


class SinkProtocol(Protocol):
    @property
    def ready(self) -> bool:
        """Whether the receiver is believed to be there."""

    async def deliver(self, events: Sequence[Event], /) -> list[Receipt]:
        """One receipt for each event, in the same order; no agent stands twice in ``events``.

        Raises SinkUnavailable. An event may come again although it was delivered once.
        """
