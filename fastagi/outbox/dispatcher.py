"""The clockwork that delivers: takes what is due from the store, hands it over, marks what arrived.

Each receiver has a lane, so that a slow or absent one delays no other. Of the services that share
a database one at a time is at a lane; the others stand by, and go on at once when it dies.

There are two ways to hand over. To a sink go batches, in rounds in which no agent comes twice: an
agent's events stay in order even when one is refused, all events when none is, and a storm of many
agents is still one round. To hooks (``outbox.hooks``) each delivery goes by itself.
"""

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from fastagi.agents.deliveries import Deliveries, Delivery, Exclusive, unshared
from fastagi.agents.events import Event
from fastagi.agents.fence import Fence, Supervisor
from fastagi.agents.log import Trouble
from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import Lock
from fastagi.contract import Sink
from fastagi.outbox.delivery import (
    Delivered,
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
    longest_pause: float = 60.0  # between two attempts at a store that is away
    # While the receiver is away, how often to ask whether it is back.
    ask_ready: float = 0.1
    # When stopped: how long what has begun may take to end, and to be marked.
    grace: float = 2.0

    def delay(self, attempts: int) -> float:
        """Exponential, with jitter, after so many failures (from 1)."""
        longest = min(self.longest_delay, self.first_delay * 2.0 ** min(attempts - 1, 32))
        return longest * random.uniform(0.5, 1.0)


class Stalled(Exception):
    """Nothing can be handed over now, for a reason that is logged."""


class Lane:
    """Runs as ``run()`` and is stopped by cancelling it; what was delivered before is marked before
    ``run()`` ends. So stop it before the connections it delivers over, and before the store.

    ``due_clock`` is the store's for what is due later: unlike ``clock``, the machine's own, it
    never jumps.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], datetime],
        due_clock: Callable[[], datetime],
        pace: Pace,
        fence: Fence,
        exclusive: Exclusive,
    ) -> None:
        self.name = name
        self.clock = clock
        self.due_clock = due_clock
        self.pace = pace
        self.fence = fence
        self._exclusive = exclusive
        self.trouble = Trouble(log, "deliveries wait", "deliveries go on", sink=name)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._rung = False
        self.lock = Lock()
        self.begin()

    # -- what a way to hand over adds

    @property
    def ready(self) -> bool:
        """Whether the receiver is believed to be there."""
        return True

    def begin(self) -> None:
        """This service is at it from now on."""
        self.bell = asyncio.Event()
        self.stopping = asyncio.Event()
        self.retries: list[datetime] = []  # a heap: when what was postponed here is due again
        self.looking = True  # not rung: what others have written or postponed counts, too

    async def turn(self) -> bool:
        """Hands over what is due. True when there is probably more. Raises StoreUnavailable,
        SinkUnavailable, Stalled."""
        raise NotImplementedError

    async def drain(self) -> None:
        """The lock is lost, or the receiver is away: what has begun ends, and is marked."""

    async def end(self) -> None:
        """Nothing goes on."""

    # -- the clockwork

    def wake(self) -> None:
        """Something was committed. May be called from any thread, at any time, and is cheap."""
        loop = self.loop
        # Once rung, further calls cost nothing until the lane has been woken: it reads the store
        # after that, and so sees what these calls were about.
        if self._rung or loop is None:
            return
        self._rung = True
        try:
            loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: the next start looks for itself
            self.loop = None

    def _wake(self) -> None:
        self._rung = False
        self.bell.set()

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._rung = False
        try:
            while True:
                while not self.ready:  # noqa: ASYNC110 - no receiver rings
                    # Who owns the connection has logged it; the rows stay as they are.
                    await asyncio.sleep(self.pace.ask_ready)
                async with self._exclusive(
                    f"deliver:{self.name}", wait=True, on_lost=lambda: self.bell.set()
                ) as lock:
                    self.lock = lock or Lock()
                    self.begin()
                    try:
                        await self._turns()
                        await self.drain()
                    finally:
                        self.stopping.set()
                        await self.end()
        finally:
            self.loop = None

    async def _turns(self) -> None:
        """While the receiver is there, and nobody else is at it."""
        failures = 0
        while self.ready and not self.lock.lost:
            began = asyncio.get_running_loop().time()
            self.bell.clear()  # before the store is read: a later commit rings again
            try:
                more = await self.turn()
            except (SinkUnavailable, StoreUnavailable, Stalled) as error:
                if not isinstance(error, Stalled):
                    self.trouble.is_there(error=_brief(error))
                failures += 1
                self.looking = True
                await self._pause(self.pace.delay(failures), not isinstance(error, SinkUnavailable))
                continue
            failures = 0
            self.trouble.is_over()
            if more:
                continue
            self.looking = not await self._rings()
            if not self.looking:
                spent = asyncio.get_running_loop().time() - began
                await asyncio.sleep(max(self.pace.gather, self.pace.interval - spent))

    async def _pause(self, seconds: float, rings: bool) -> None:
        """Or until the store is back: then it rings. Nothing rings for a receiver."""
        if not self.ready:
            return
        if rings:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, self.pace.longest_pause)):
                    await self.bell.wait()
            seconds = self.pace.ask_ready
        await asyncio.sleep(seconds)

    def next_due(self) -> datetime | None:
        """When what was postponed is due, if it is soon."""
        return self.retries[0] if self.retries else None

    async def _rings(self) -> bool:
        """Until the bell rings (True), or something is due, or it is time to look."""
        limit, due = self.pace.look, self.next_due()
        if due is not None:
            limit = min(limit, (due - self.due_clock()).total_seconds())
        try:
            async with asyncio.timeout(max(limit, 0.001)):
                await self.bell.wait()
        except TimeoutError:
            return False
        return True

    def now(self) -> datetime:
        """What is due until now is asked for."""
        now = self.due_clock()
        while self.retries and self.retries[0] <= now:
            heapq.heappop(self.retries)
        return now

    async def marked(self, write: Callable[[], Awaitable[None]], **facts: object) -> bool:
        """Until the store has it: nothing is delivered twice only because the store was away.
        False: stopped meanwhile."""
        failures = 0
        while True:
            try:
                await write()
                return True
            except StoreUnavailable as error:
                self.trouble.is_there(error=_brief(error))
                failures += 1
                if self.stopping.is_set():
                    log.warning("delivered, but not marked", sink=self.name, **facts)
                    return False
                # Stopped meanwhile, it tries once more.
                await self.unless_stopped(min(self.pace.delay(failures), self.pace.longest_pause))

    async def unless_stopped(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()


class Dispatcher:
    """The lanes to the sinks; runs and is stopped as a ``Lane``."""

    def __init__(
        self,
        deliveries: Deliveries,
        sinks: Mapping[Sink, SinkProtocol],
        clock: Callable[[], datetime],
        pace: Pace | None = None,
        supervisor: Supervisor | None = None,
        *,
        due_clock: Callable[[], datetime] | None = None,
        exclusive: Exclusive = unshared,
    ) -> None:
        """``supervisor`` keeps the lanes; see ``Lane``."""
        self._supervisor = supervisor or Supervisor(Fence(log))
        fence = self._supervisor.fence
        self._lanes = [
            _SinkLane(
                name, sink, deliveries, clock, due_clock or clock, pace or Pace(), fence, exclusive
            )
            for name, sink in sinks.items()
        ]

    def wake(self) -> None:
        for lane in self._lanes:
            lane.wake()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                name = f"deliver to {lane.name}"
                group.create_task(self._supervisor.keep(name, lane.run), name=name)


class _SinkLane(Lane):
    """The way to one sink."""

    def __init__(
        self,
        sink: Sink,
        receiver: SinkProtocol,
        deliveries: Deliveries,
        clock: Callable[[], datetime],
        due_clock: Callable[[], datetime],
        pace: Pace,
        fence: Fence,
        exclusive: Exclusive,
    ) -> None:
        self._sink = sink
        self._receiver = receiver
        self._deliveries = deliveries
        self._some_wait = Trouble(
            log, "some deliveries wait", "all deliveries go on", sink=sink.value
        )
        self._waiting = 0  # events whose receiver was away in the last turn
        super().__init__(sink.value, clock, due_clock, pace, fence, exclusive)

    @property
    def ready(self) -> bool:
        return self._receiver.ready

    async def turn(self) -> bool:
        return await self._to_the_end(self._batch())

    async def _to_the_end(self, turn: Coroutine[Any, Any, bool]) -> bool:
        """When cancelled, the round that has begun may still end, and is marked."""
        task = asyncio.create_task(turn)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.stopping.set()
            await asyncio.wait({task}, timeout=self.pace.grace)
            task.cancel()
            await asyncio.wait({task}, timeout=self.pace.grace)
            if task.done() and not task.cancelled():
                task.exception()  # seen; whatever it was, it is delivered again
            raise

    async def _batch(self) -> bool:
        # Those that wait come first in every answer, and must not fill it.
        limit = self.pace.batch + self._waiting
        batch = await self._deliveries.due(self.now(), limit, self._sink)
        self._waiting = 0
        if not batch:
            self._some_wait.is_over()
            return False
        arrived: list[Delivery] = []
        try:
            await self._rounds(batch, arrived)
        finally:
            if arrived:
                await self.marked(lambda: self._deliveries.delivered(arrived), count=len(arrived))
        return len(batch) >= limit and len(batch) > self._waiting

    async def _rounds(self, batch: Sequence[Delivery], arrived: list[Delivery]) -> None:
        held: set[str] = set()  # agents with an event refused or waiting: no later ones before it
        waits: dict[str, str] = {}
        begin = 0
        while not self.stopping.is_set() and not self.lock.lost:
            chosen, begin = _next_round(batch, begin, held)
            if not chosen:
                break
            receipts = await self._hand_over([delivery.event for delivery in chosen])
            later: Later | None = None
            refused: list[tuple[Delivery, Rejected]] = []
            for delivery, receipt in zip(chosen, receipts, strict=True):
                if isinstance(receipt, Delivered):
                    arrived.append(delivery)
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
            self._some_wait.is_there(error=next(iter(waits.values())))
        else:
            self._some_wait.is_over()

    async def _hand_over(self, events: list[Event]) -> list[Receipt]:
        try:
            async with asyncio.timeout(self.pace.deadline):
                receipts = await self._receiver.deliver(events)
            if len(receipts) != len(events):
                raise RuntimeError(f"{len(receipts)} receipts for {len(events)} events")
            return receipts
        except SinkUnavailable:
            raise
        except TimeoutError:
            raise SinkUnavailable(f"no answer within {self.pace.deadline:g} s") from None
        except Exception as error:
            # A fault of ours that one event brought about must not stop all others.
            if len(events) == 1:
                self.fence.skipped(f"deliver to {self.name}", error, event_id=events[0].id)
                return [Rejected(_brief(error))]
            return [receipt for event in events for receipt in await self._hand_over([event])]

    def _gives_up(self, delivery: Delivery, rejection: Rejected) -> bool:
        return rejection.final or delivery.attempts + 1 >= self.pace.attempts

    async def _refuse(self, delivery: Delivery, rejection: Rejected) -> None:
        facts = {
            "sink": self.name,
            "event_id": delivery.event.id,
            "attempt": delivery.attempts + 1,
            "error": rejection.error,
        }
        if self._gives_up(delivery, rejection):
            await self._deliveries.park(delivery, self.clock(), rejection.error)
            log.error("delivery given up, parked", **facts)
            return
        until = self.due_clock() + timedelta(seconds=self.pace.delay(delivery.attempts + 1))
        await self._deliveries.postpone(delivery, until, rejection.error)
        heapq.heappush(self.retries, until)
        log.warning("delivery refused, tried again later", **facts)


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
