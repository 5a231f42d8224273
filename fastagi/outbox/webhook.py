"""Tells hooks' receivers over HTTP what happened to an agent.

A hook's deliveries go out one at a time and in order; hooks do not wait for each other. A delivery
is told at least once: a receiver knows one that comes again by its ``webhook-id``.
"""

import asyncio
import heapq
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol
from urllib.parse import urlencode
from uuid import uuid4

import structlog
from standardwebhooks import Webhook

from fastagi.agents.fence import Fence
from fastagi.agents.hooks import Attempt, Hook, HookDelivery, client_secret, told
from fastagi.agents.service import StoreUnavailable
from fastagi.config.settings import WebhookSettings
from fastagi.contract import EventType
from fastagi.outbox.outward import Failed, Header, Outward, Place, Request, Unfit, refusal, target

log = structlog.get_logger()

_NOWHERE: Place = ("", 0)  # of a URL that cannot be called

# For the log and the metrics. The text of a fault is never logged: a URL's query could stand in it.
TASK = "deliver to hooks"
TESTS = 10  # at once


class HookStore(Protocol):
    """The store's side. Every call may raise StoreUnavailable; times are aware, in UTC."""

    async def due(self, now: datetime, limit: int, busy: Set[int], /) -> Sequence[HookDelivery]:
        """Of each hook that is not ``busy``, by id, its first delivery, if that is due now."""

    async def next_due(self) -> datetime | None:
        """When the earliest postponed delivery is due."""

    async def delivered(self, delivery: HookDelivery, attempt: Attempt, /) -> None:
        """Need not be told again."""

    async def postpone(self, delivery: HookDelivery, until: datetime, attempt: Attempt, /) -> None:
        """Failed: counts an attempt, not due before ``until``, and holds back the hook's others."""

    async def park(self, delivery: HookDelivery, now: datetime, attempt: Attempt, /) -> None:
        """Given up: kept for the admin, not due again, holds nothing back."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How deliveries go out; times in seconds."""

    gather: float = 0.003  # a lone event waits this long for company
    interval: float = 0.02  # the store is asked at most this often
    look: float = 5.0  # what another service has written is found by looking
    places: int = 100  # requests at once
    places_per_host: int = 10  # of them to one host and port
    places_for_slow: int = 50  # of them to receivers that let us wait for long the last time
    held: int = 5000  # deliveries that wait for a place, taken from the store
    # For so long: then the store is asked again, which may have another URL for the hook, or none,
    # and where it is shared has lent the delivery for a time.
    fresh: float = 20.0
    first_delay: float = 1.0
    longest_delay: float = 600.0
    longest_wait: float = 600.0  # that a receiver can ask for
    longest_pause: float = 10.0  # between two attempts at a store that is away
    grace: float = 2.0  # when stopped: for requests under way to end, and to be marked

    def delay(self, attempts: int) -> float:
        """Exponential, with jitter, after so many failures (from 1)."""
        longest = min(self.longest_delay, self.first_delay * 2.0 ** min(attempts - 1, 32))
        return longest * random.uniform(0.5, 1.0)


class HookDispatcher:
    """Runs as ``run()`` in the application's task group and is stopped by cancelling it.

    Deliveries whose answer has come are marked before ``run()`` ends, so stop it before the store.
    ``settings`` gives those of the moment; ``counted`` is called with what became of each attempt:
    ``delivered``, ``failed`` or ``parked``. ``own``: hosts and ports to which nothing is delivered,
    whatever the settings allow, as the service itself or one of its Asterisks is there.
    """

    def __init__(
        self,
        hooks: HookStore,
        clock: Callable[[], datetime],
        settings: Callable[[], WebhookSettings],
        counted: Callable[[str], None] = lambda outcome: None,
        pace: Pace | None = None,
        fence: Fence | None = None,
        own: Sequence[Place] = (),
        *,
        due_clock: Callable[[], datetime] | None = None,
    ) -> None:
        """``due_clock`` is the store's for what is due later: unlike ``clock``, the machine's own,
        it never jumps."""
        self._fence = fence or Fence(log)
        self._own = tuple(own)
        self._hooks = hooks
        self._clock = clock
        self._due_clock = due_clock or clock
        self._settings = settings
        self._counted = counted
        self._pace = pace or Pace()
        self._outward = Outward(self._own)
        self._tests = asyncio.Semaphore(TESTS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = False
        self._slow: set[Place] = set()
        self._store_away = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._bell = asyncio.Event()
        self._stopping = asyncio.Event()
        self._busy: set[int] = set()  # hooks of which a delivery waits here or is under way
        self._waiting: dict[Place, deque[tuple[float, HookDelivery]]] = {}  # and since when
        self._held = 0  # deliveries in there
        self._under_way: Counter[Place] = Counter()
        self._running = 0
        self._running_slow = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._unanswered: set[asyncio.Task[None]] = set()
        self._retries: list[datetime] = []  # a heap: when what was postponed here is due again
        self._next: datetime | None = None  # when what was postponed elsewhere is due
        self._taken = self._due_clock()  # when the store was last asked

    def wake(self) -> None:
        """Something was committed. May be called from any thread, at any time, and is cheap."""
        loop = self._loop
        if self._rung or loop is None:
            return
        self._rung = True
        try:
            loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: the next start looks for itself
            self._loop = None

    def _wake(self) -> None:
        self._rung = False
        self._bell.set()

    def refusal(self, url: str) -> str | None:
        """Why nothing may be sent there, as far as the address itself tells; None: it may."""
        return refusal(url, self._settings().allow, self._own)

    async def test(self, hook: Hook, fields: Mapping[str, str]) -> Attempt:
        """Sends ``fields`` at once, past all that waits. Nothing is marked, counted or tried again;
        ``webhook-id`` begins with ``test-``."""
        settings = self._settings()
        event_id = f"test-{uuid4().hex}"
        try:
            async with asyncio.timeout(settings.timeout.total_seconds()):
                await self._tests.acquire()
        except TimeoutError:
            error = "too many tests at once"
            return Attempt(event_id, hook.event_type, self._clock(), 1, None, error, 0.0, "failed")
        try:
            attempt, _ = await self._try(hook, event_id, hook.event_type, fields, 1, settings)
        finally:
            self._tests.release()
            if self._loop is None:  # nobody else will close what was opened
                await self._outward.close()
        return attempt

    async def run(self) -> None:
        self._begin_anew()
        self._rung = False
        self._loop = asyncio.get_running_loop()
        try:
            await self._go_on()
        finally:
            self._loop = None
            await self._stop()

    async def _go_on(self) -> None:
        failures = 0
        looking = True  # not rung: what others have postponed counts, too
        while True:
            began = time.monotonic()
            self._bell.clear()  # before the store is read: a later commit rings again
            try:
                await self._take()
                if looking:
                    self._next = await self._hooks.next_due()
                    await self._outward.rest()
            except Exception as error:
                if isinstance(error, StoreUnavailable):
                    self._tell_of_the_store(error)
                else:  # ours; phones must not fall silent because hooks cannot be told
                    self._fence.skipped(TASK, error, hidden=True)
                failures += 1
                await self._pause(self._pace.delay(failures))
                looking = True
                continue
            failures = 0
            self._tell_of_the_store(None)
            looking = not await self._rings()
            spent = time.monotonic() - began
            await asyncio.sleep(max(self._pace.gather, self._pace.interval - spent))

    async def _pause(self, seconds: float) -> None:
        """Or until the store is back: then it rings."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, self._pace.longest_pause)):
                await self._bell.wait()
        await asyncio.sleep(self._pace.interval)

    async def _rings(self) -> bool:
        """False: it was the time that came."""
        now = self._due_clock()
        seconds = self._pace.look
        for due in (*self._retries[:1], *([self._next] if self._next is not None else [])):
            # What has become due since the store was asked is asked for at once.
            if due > self._taken:
                seconds = min(seconds, max((due - now).total_seconds(), 0.0))
        try:
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        except TimeoutError:
            return False
        return True

    async def _take(self) -> None:
        """From the store, until it has no more or there is no place."""
        while self._running < self._pace.places and self._held < self._pace.held:
            now = self._taken = self._due_clock()
            while self._retries and self._retries[0] <= now:
                heapq.heappop(self._retries)
            limit = min(2 * self._pace.places, self._pace.held - self._held)
            found = await self._hooks.due(now, limit, frozenset(self._busy))
            fresh = [delivery for delivery in found if delivery.hook.id not in self._busy]
            since = time.monotonic()
            for delivery in fresh:
                self._busy.add(delivery.hook.id)
                queue = self._waiting.setdefault(_place(delivery.hook), deque())
                queue.append((since, delivery))
            self._held += len(fresh)
            self._start()
            if len(found) < limit or not fresh:
                return

    def _start(self) -> None:
        """What has a place goes; receivers take turns."""
        oldest = time.monotonic() - self._pace.fresh
        begun = True
        while begun:
            begun = False
            for place in list(self._waiting):
                if self._running >= self._pace.places:
                    return
                if not self._free(place):
                    continue
                queue = self._waiting.pop(place)
                since, delivery = queue.popleft()
                if queue:
                    self._waiting[place] = queue  # at the end
                self._held -= 1
                begun = True
                if since < oldest:
                    self._busy.discard(delivery.hook.id)
                    self._bell.set()
                else:
                    self._begin(delivery, place)

    def _free(self, place: Place) -> bool:
        if self._under_way[place] >= self._pace.places_per_host:
            return False
        return place not in self._slow or self._running_slow < self._pace.places_for_slow

    def _begin(self, delivery: HookDelivery, place: Place) -> None:
        slow = place in self._slow
        self._running += 1
        self._running_slow += slow
        self._under_way[place] += 1
        task = asyncio.create_task(
            self._deliver(delivery, place, slow), name=f"tell hook {delivery.hook.id}"
        )
        self._tasks.add(task)
        self._unanswered.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._unanswered.discard(task)

    async def _deliver(self, delivery: HookDelivery, place: Place, slow: bool) -> None:
        hook, event = delivery.hook, delivery.event
        try:
            settings = self._settings()
            try:
                fields, number = (
                    told(hook.agent_id, event, paused=delivery.paused),
                    delivery.attempts + 1,
                )
                # Not the hook's type: it may have been told to wait for another one since.
                attempt, wait = await self._try(
                    hook, event.id, event.type, fields, number, settings
                )
            finally:
                self._running -= 1
                self._running_slow -= slow
                self._under_way[place] -= 1
                if not self._under_way[place]:
                    del self._under_way[place]
            limit = settings.timeout.total_seconds()
            if attempt.seconds >= limit / 2:  # with an answer or without
                self._slow.add(place)
            else:
                self._slow.discard(place)
            if not self._stopping.is_set():
                self._start()  # the place is free, whatever the store does now
            final = attempt.status == 410 or attempt.number >= settings.attempts
            if attempt.outcome == "failed" and final:
                attempt = replace(attempt, outcome="parked")
            await self._mark(delivery, attempt, wait, place)
        except Exception as fault:  # ours; the receiver must not be told again and again by it
            self._fence.skipped(TASK, fault, hidden=True, hook=hook.id)
            await self._unless_stopped(self._pace.longest_delay)
        finally:
            self._busy.discard(hook.id)
            self._bell.set()

    async def _try(
        self,
        hook: Hook,
        event_id: str,
        event_type: EventType,
        fields: Mapping[str, str],
        number: int,
        settings: WebhookSettings,
    ) -> tuple[Attempt, float]:
        """One request. And how many seconds the receiver wants us to wait."""
        at, began = self._clock(), time.monotonic()
        status: int | None = None
        wait = 0.0
        try:
            request = build(hook, event_id, fields, at, secrets(hook, settings))
            answer = await self._outward.send(
                request, settings.timeout.total_seconds(), settings.allow
            )
            status, wait = answer.status, answer.retry_after
            self._answered()
            await answer.close()
        except (Unfit, Failed) as failure:
            error = str(failure)
            if isinstance(failure, Failed) and failure.detail != error:
                # Not for who made the hook.
                log.warning("a hook's receiver was not called", hook=hook.id, why=failure.detail)
        except Exception as fault:  # ours; the others must not suffer by it
            error = f"internal error: {type(fault).__name__}"
            self._fence.skipped(TASK, fault, hidden=True, hook=hook.id)
        else:
            error = _verdict(status)
        self._answered()
        attempt = Attempt(
            event_id=event_id,
            event_type=event_type,
            at=at,
            number=number,
            status=status,
            error=error,
            seconds=time.monotonic() - began,
            outcome="failed" if error else "delivered",
        )
        return attempt, wait

    def _answered(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._unanswered.discard(task)

    async def _mark(
        self, delivery: HookDelivery, attempt: Attempt, wait: float, place: Place
    ) -> None:
        """Until the store has it: nothing is told twice only because the store was away."""
        pace, hook = self._pace, delivery.hook
        facts = {
            "hook": hook.id,
            "host": place[0],
            "event_id": attempt.event_id,
            "attempt": attempt.number,
            "error": attempt.error,
        }
        now = self._clock()
        until = self._due_clock()
        if attempt.outcome == "failed":
            seconds = max(pace.delay(attempt.number), min(wait, pace.longest_wait))
            until += timedelta(seconds=seconds)
        failures = 0
        while True:
            try:
                if attempt.outcome == "delivered":
                    await self._hooks.delivered(delivery, attempt)
                elif attempt.outcome == "failed":
                    await self._hooks.postpone(delivery, until, attempt)
                else:
                    await self._hooks.park(delivery, now, attempt)
                break
            except StoreUnavailable as error:
                self._tell_of_the_store(error)
                failures += 1
                if self._stopping.is_set():
                    log.warning("a hook was told, but that is not marked", **facts)
                    return
                # Stopped meanwhile, it tries once more.
                await self._unless_stopped(min(pace.delay(failures), pace.longest_pause))
        self._counted(attempt.outcome)
        if attempt.outcome == "failed":
            heapq.heappush(self._retries, until)
            log.warning("a hook's receiver failed, tried again later", **facts)
        elif attempt.outcome == "parked":
            log.error("a hook's delivery given up, parked", **facts)

    async def _unless_stopped(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _tell_of_the_store(self, error: StoreUnavailable | None) -> None:
        if (error is not None) is self._store_away:
            return
        self._store_away = error is not None
        if error is not None:
            log.warning("hooks' deliveries wait", error=str(error)[:300])
        else:
            log.info("hooks' deliveries go on")

    async def _stop(self) -> None:
        self._stopping.set()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._pace.grace)
            for task in list(self._unanswered):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._pace.grace / 2)
        finally:
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                with suppress(asyncio.CancelledError):
                    await asyncio.wait(self._tasks, timeout=1.0)
            await self._outward.close()


def secrets(hook: Hook, settings: WebhookSettings) -> tuple[str, ...]:
    """With what this hook's deliveries are signed: its client's secret; with ``shared_secret`` the
    one in the settings, too."""
    if settings.secret is None:
        return ()
    base = settings.secret.get_secret_value()
    own = client_secret(base, hook.client)
    return (own, base) if settings.shared_secret else (own,)


def build(
    hook: Hook, event_id: str, fields: Mapping[str, str], at: datetime, secrets: Sequence[str]
) -> Request:
    """The request for a hook. Raises Unfit.

    GET puts the fields behind the URL's own query, POST sends them as a JSON object or a form.
    With each of the secrets it is signed as Standard Webhooks says
    (https://github.com/standard-webhooks/standard-webhooks): ``webhook-signature`` is over
    ``webhook-id``, ``webhook-timestamp`` and the body as sent. A GET has no body; what is signed
    there is the query string as sent, all that stands behind the first ``?``.
    """
    goal = target(hook.url)
    timestamp = str(int(at.timestamp()))
    headers: list[Header] = [
        (b"Host", goal.authority.encode("ascii")),
        (b"User-Agent", _user_agent()),
        (b"Accept", b"*/*"),
        (b"webhook-id", event_id.encode("ascii", "replace")),
        (b"webhook-timestamp", timestamp.encode("ascii")),
    ]
    path, body = goal.path, None
    query = goal.query or ""
    if hook.method == "GET":
        signed = urlencode(fields, errors="replace")
        query = signed = f"{query}&{signed}" if query else signed
    elif hook.content_type == "form":
        signed = urlencode(fields, errors="replace")
        content_type = b"application/x-www-form-urlencoded"
    else:
        signed = json.dumps(dict(fields), ensure_ascii=False, separators=(",", ":"))
        signed = signed.encode("utf-8", "replace").decode("utf-8")
        content_type = b"application/json"
    if hook.method == "POST":
        body = signed.encode("utf-8")
        headers.append((b"Content-Type", content_type))
        headers.append((b"Content-Length", str(len(body)).encode("ascii")))
    if secrets:
        moment = at.astimezone(UTC)
        signatures = [_signer(secret).sign(event_id, moment, signed) for secret in secrets]
        headers.append((b"webhook-signature", " ".join(signatures).encode("ascii")))
    if query or goal.query is not None:
        path = f"{path}?{query}"
    return Request(hook.method, goal, path, headers, body)


@lru_cache(maxsize=1000)
def _signer(secret: str) -> Webhook:
    return Webhook(secret)


@lru_cache(maxsize=1)
def _user_agent() -> bytes:
    try:
        return f"fastagi-agentd/{version('fastagi-agentd')}".encode()
    except PackageNotFoundError:  # run from a checkout
        return b"fastagi-agentd/0"


def _place(hook: Hook) -> Place:
    try:
        goal = target(hook.url)
    except Unfit:
        return _NOWHERE
    return goal.host, goal.port


def _verdict(status: int) -> str:
    """What is wrong with this answer; nothing with 2xx."""
    if 200 <= status < 300:
        return ""
    if status == 410:
        return "gone: the receiver wants no more (410)"
    if 300 <= status < 400:
        return f"redirects are not followed ({status})"
    return f"the receiver answered {status}"
