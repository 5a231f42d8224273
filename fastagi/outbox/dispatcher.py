"""Takes what is due from the store, hands it to the sinks, and marks what has arrived.

Each sink has a lane of its own, so that a slow or absent receiver delays no other. A lane takes a
batch and hands it over in rounds in which no agent comes twice. So an agent's events stay in order
even when one of them is refused, all events stay in order when none is, and a storm of many agents
is still one round.
"""

import asyncio
import heapq
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from fastagi.agents.events import Event
from fastagi.agents.fence import Fence, Supervisor
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import Sink
from fastagi.outbox.delivery import (
    Delivered,
    Deliveries,
    Delivery,
    Later,
    Receipt,
    Rejected,
    SinkProtocol,
    SinkUnavailable,
    Waits,
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How a lane works; times in seconds."""

    batch: int = 500
    # A lone event waits this long for company. The calls run in this very process: in a storm a
    # lane therefore turns at most once in ``interval``, with a larger batch each time.
    gather: float = 0.003
    interval: float = 0.04
    # What another process has written, or was postponed by an earlier one, is found by looking.
    look: float = 5.0
    deadline: float = 15.0
    # Refused by the receiver: so many attempts, with these delays between, then parked.
    attempts: int = 8
    first_delay: float = 1.0
    longest_delay: float = 60.0
    # While the receiver is away, how often to ask whether it is back.
    ask_ready: float = 0.1
    # When stopped: how long a round that has begun may take to end.
    grace: float = 2.0

    def delay(self, attempts: int) -> float:
        """Exponential, with jitter, after so many failures (from 1)."""
        longest = min(self.longest_delay, self.first_delay * 2.0 ** min(attempts - 1, 32))
        return longest * random.uniform(0.5, 1.0)


class Dispatcher:
    """Runs as ``run()`` in the application's task group and is stopped by cancelling it.

    What was delivered before the cancel is marked before ``run()`` ends, so stop it before the
    connections it delivers over and before the store.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        sinks: Mapping[Sink, SinkProtocol],
        clock: Callable[[], datetime],
        pace: Pace | None = None,
        supervisor: Supervisor | None = None,
        *,
        due_clock: Callable[[], datetime] | None = None,
    ) -> None:
        """``due_clock`` is the store's for what is due later: unlike ``clock``, the machine's own,
        it never jumps."""
        pace = pace or Pace()
        due_clock = due_clock or clock
        self._supervisor = supervisor or Supervisor(Fence(log))
        fence = self._supervisor.fence
        self._lanes = [
            _Lane(name, sink, deliveries, clock, due_clock, pace, fence)
            for name, sink in sinks.items()
        ]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = False

    def wake(self) -> None:
        """Something was committed. May be called from any thread, at any time, and is cheap."""
        loop = self._loop
        # Once rung, further calls cost nothing until the lanes have been woken: they read the
        # store after that, and so see what these calls were about.
        if self._rung or loop is None:
            return
        self._rung = True
        try:
            loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: the next start looks for itself
            self._loop = None

    def _wake(self) -> None:
        self._rung = False
        for lane in self._lanes:
            lane.bell.set()

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = False
        try:
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes:
                    name = f"deliver to {lane.name}"
                    group.create_task(self._supervisor.keep(name, lane.run), name=name)
        finally:
            self._loop = None


class _Lane:
    """The way to one sink."""

    def __init__(
        self,
        name: Sink,
        sink: SinkProtocol,
        deliveries: Deliveries,
        clock: Callable[[], datetime],
        due_clock: Callable[[], datetime],
        pace: Pace,
        fence: Fence,
    ) -> None:
        self.name = name
        self._fence = fence
        self.bell = asyncio.Event()
        self._sink = sink
        self._deliveries = deliveries
        self._clock = clock
        self._due_clock = due_clock
        self._pace = pace
        self._retries: list[datetime] = []  # a heap: when what was postponed here is due again
        self._stopping = False
        self._told_of_waiting = False
        self._waiting = 0  # events whose receiver was away in the last turn

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = False
        self.bell = asyncio.Event()
        failures = 0
        while True:
            began = loop.time()
            self.bell.clear()  # before the store is read: a later commit rings again
            if not self._sink.ready:
                # Who owns the connection has logged it; the rows stay as they are.
                await asyncio.sleep(self._pace.ask_ready)
                continue
            try:
                more = await self._to_the_end(self._turn())
            except (SinkUnavailable, StoreUnavailable) as error:
                if not failures:
                    log.warning("deliveries wait", sink=self.name.value, error=_brief(error))
                failures += 1
                # Without a connection there is nothing to wait out: go on as soon as it is back.
                if isinstance(error, StoreUnavailable):
                    await self._pause(self._pace.delay(failures))
                elif self._sink.ready:
                    await asyncio.sleep(self._pace.delay(failures))
                continue
            if failures:
                failures = 0
                log.info("deliveries go on", sink=self.name.value)
            if more:
                continue
            if await self._rest():
                await asyncio.sleep(
                    max(self._pace.gather, began + self._pace.interval - loop.time())
                )

    async def _pause(self, seconds: float) -> None:
        """Or until the store is back: then it rings."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.bell.wait()
        await asyncio.sleep(self._pace.ask_ready)

    async def _rest(self) -> bool:
        """Until the bell rings (True), or something is due, or it is time to look."""
        limit = self._pace.look
        if self._retries:
            limit = min(limit, (self._retries[0] - self._due_clock()).total_seconds())
        try:
            async with asyncio.timeout(max(limit, 0.001)):
                await self.bell.wait()
        except TimeoutError:
            return False
        return True

    async def _to_the_end(self, turn: Coroutine[Any, Any, bool]) -> bool:
        """When cancelled, the round that has begun may still end, and is marked."""
        task = asyncio.create_task(turn)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stopping = True
            await asyncio.wait({task}, timeout=self._pace.grace)
            task.cancel()
            await asyncio.wait({task}, timeout=self._pace.grace)
            if task.done() and not task.cancelled():
                task.exception()  # seen; whatever it was, it is delivered again
            raise

    async def _turn(self) -> bool:
        """One batch. True when there is probably more."""
        now = self._due_clock()
        while self._retries and self._retries[0] <= now:
            heapq.heappop(self._retries)
        # Those that wait come first in every answer, and must not fill it.
        limit = self._pace.batch + self._waiting
        batch = await self._deliveries.due(now, limit, self.name)
        self._waiting = 0
        if not batch:
            self._told_of_waiting = False
            return False
        arrived: list[int] = []
        try:
            await self._rounds(batch, arrived)
        finally:
            if arrived:
                await self._mark(arrived)
        return len(batch) >= limit and len(batch) > self._waiting

    async def _rounds(self, batch: Sequence[Delivery], arrived: list[int]) -> None:
        held: set[str] = set()  # agents with an event refused or waiting: no later ones before it
        waits: dict[str, str] = {}
        begin = 0
        while not self._stopping:
            chosen, begin = _next_round(batch, begin, held)
            if not chosen:
                break
            receipts = await self._hand_over([delivery.event for delivery in chosen])
            later: Later | None = None
            refused: list[tuple[Delivery, Rejected]] = []
            for delivery, receipt in zip(chosen, receipts, strict=True):
                if isinstance(receipt, Delivered):
                    arrived.append(delivery.id)
                elif isinstance(receipt, Later):
                    later = receipt
                elif isinstance(receipt, Waits):
                    held.add(_whose(delivery.event))
                    waits[_whose(delivery.event)] = receipt.error
                else:
                    refused.append((delivery, receipt))
                    if not self._gives_up(delivery, receipt):
                        held.add(_whose(delivery.event))
            for delivery, rejection in refused:
                await self._refuse(delivery, rejection)
            if later is not None:
                raise SinkUnavailable(later.error)
        if waits:
            self._waiting = sum(_whose(delivery.event) in waits for delivery in batch)
        if bool(waits) != self._told_of_waiting:
            self._told_of_waiting = bool(waits)
            if waits:
                error = next(iter(waits.values()))
                log.warning("some deliveries wait", sink=self.name.value, error=error)
            else:
                log.info("all deliveries go on", sink=self.name.value)

    async def _hand_over(self, events: list[Event]) -> list[Receipt]:
        try:
            async with asyncio.timeout(self._pace.deadline):
                receipts = await self._sink.deliver(events)
            if len(receipts) != len(events):
                raise RuntimeError(f"{len(receipts)} receipts for {len(events)} events")
            return receipts
        except SinkUnavailable:
            raise
        except TimeoutError:
            raise SinkUnavailable(f"no answer within {self._pace.deadline:g} s") from None
        except Exception as error:
            # A fault of ours that one event brought about must not stop all others.
            if len(events) == 1:
                self._fence.skipped(f"deliver to {self.name}", error, event_id=events[0].id)
                return [Rejected(_brief(error))]
            return [receipt for event in events for receipt in await self._hand_over([event])]

    def _gives_up(self, delivery: Delivery, rejection: Rejected) -> bool:
        return rejection.final or delivery.attempts + 1 >= self._pace.attempts

    async def _refuse(self, delivery: Delivery, rejection: Rejected) -> None:
        told = {
            "sink": self.name.value,
            "event_id": delivery.event.id,
            "attempt": delivery.attempts + 1,
            "error": rejection.error,
        }
        if self._gives_up(delivery, rejection):
            await self._deliveries.park(delivery.id, rejection.error, self._clock())
            log.error("delivery given up, parked", **told)
            return
        until = self._due_clock() + timedelta(seconds=self._pace.delay(delivery.attempts + 1))
        await self._deliveries.postpone(delivery.id, until, rejection.error)
        heapq.heappush(self._retries, until)
        log.warning("delivery refused, tried again later", **told)

    async def _mark(self, ids: list[int]) -> None:
        """Until the store has it: nothing is told twice only because the store was away."""
        failures = 0
        while True:
            try:
                await self._deliveries.delivered(ids)
                return
            except StoreUnavailable as error:
                if self._stopping:
                    log.warning("delivered, but not marked", sink=self.name.value, count=len(ids))
                    return
                failures += 1
                if failures == 1:
                    log.warning("deliveries wait", sink=self.name.value, error=_brief(error))
                await asyncio.sleep(self._pace.delay(failures))


def _next_round(
    batch: Sequence[Delivery], begin: int, held: Set[str]
) -> tuple[list[Delivery], int]:
    """From ``begin`` on until an agent comes a second time, without those ``held`` back."""
    agents: set[str] = set()
    chosen = []
    for delivery in batch[begin:]:
        whose = _whose(delivery.event)
        if whose in agents:
            break
        begin += 1
        if whose not in held:
            agents.add(whose)
            chosen.append(delivery)
    return chosen, begin


def _whose(event: Event) -> str:
    """Events of one agent stay in order, and so do those of no agent that one Asterisk has."""
    return event.agent or f"@{event.asterisk}"


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
