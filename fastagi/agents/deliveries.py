"""What is owed to other programs: an event each, to a sink or to a hook; and who keeps it."""

from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, HookDelivery
from fastagi.agents.storage import Lock
from fastagi.contract import Sink


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event owed to one sink. ``attempts`` counts the refusals so far."""

    sink: Sink
    seq: int  # of the event
    event: Event
    attempts: int


class Deliveries(Protocol):
    """What is owed to sinks. Every call may raise StoreUnavailable; times are aware, in UTC."""

    async def due(self, now: datetime, limit: int, sink: Sink, /) -> Sequence[Delivery]:
        """Up to ``limit`` deliveries to this sink, in the order of their events.

        One that is postponed beyond ``now`` holds back the later ones of its agent. The sink is
        part of the question, so that one whose receiver is away never fills the answer.
        """

    async def delivered(self, deliveries: Sequence[Delivery], /) -> None:
        """These are done."""

    async def postpone(self, delivery: Delivery, until: datetime, error: str, /) -> None:
        """Refused: counts an attempt, not due before ``until``."""

    async def park(self, delivery: Delivery, now: datetime, error: str, /) -> None:
        """Given up: kept for the admin, never due again, holds nothing back."""


class HookDeliveries(Protocol):
    """What is owed to hooks; likewise. Each attempt is logged; of a hook that was deleted
    meanwhile nothing is."""

    async def due(self, now: datetime, limit: int, busy: Set[int], /) -> Sequence[HookDelivery]:
        """Of each hook that is not ``busy``, by id, its first delivery, if that is due: up to
        ``limit``, the oldest events first."""

    async def next_due(self) -> datetime | None:
        """When the next of those that are postponed is due; what was due already when ``due`` was
        asked last does not count. None: nothing is postponed."""

    async def delivered(self, delivery: HookDelivery, attempt: Attempt, /) -> None:
        """It is done."""

    async def postpone(self, delivery: HookDelivery, until: datetime, attempt: Attempt, /) -> None:
        """Failed: counts an attempt, not due before ``until``, and holds back the hook's others."""

    async def park(self, delivery: HookDelivery, now: datetime, attempt: Attempt, /) -> None:
        """Given up: kept for the admin, not due again, holds nothing back."""


class Exclusive(Protocol):
    def __call__(
        self, name: str, *, wait: bool, on_lost: Callable[[], None]
    ) -> AbstractAsyncContextManager[Lock | None]:
        """Waits until nobody else is at ``name``, in no service that shares the database; nobody
        is until it is left, or until the lock is lost: then ``on_lost`` is called."""


@asynccontextmanager
async def unshared(
    name: str, *, wait: bool, on_lost: Callable[[], None]
) -> AsyncIterator[Lock | None]:
    """``Exclusive`` where there is nobody else."""
    yield Lock()
