"""What the dispatcher needs of the store and of a sink, and what a sink may answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from fastagi.agents.events import Event
from fastagi.contract import Sink


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


class Delivery(Protocol):
    """One event on its way to one sink. ``attempts`` counts the refusals so far."""

    @property
    def id(self) -> int: ...

    @property
    def sink(self) -> Sink: ...

    @property
    def event(self) -> Event: ...

    @property
    def attempts(self) -> int: ...


class Deliveries(Protocol):
    """The store's side. Every call may raise StoreUnavailable; times are aware, in UTC."""

    async def due(self, now: datetime, limit: int, sink: Sink, /) -> Sequence[Delivery]:
        """Up to ``limit`` deliveries to this sink, in the order of their events.

        One that is postponed beyond ``now`` holds back the later ones of its agent. The sink is
        part of the question, so that one whose receiver is away never fills the answer.
        """

    async def delivered(self, ids: Sequence[int], /) -> None:
        """These need not be told again."""

    async def postpone(self, id: int, until: datetime, error: str, /) -> None:
        """Refused: counts an attempt, not due before ``until``."""

    async def park(self, id: int, error: str, now: datetime, /) -> None:
        """Given up: kept for the admin, never due again, holds nothing back."""
