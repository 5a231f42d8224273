"""Hands deliveries over to hooks' receivers, by HTTP.

A hook's deliveries go out one at a time and in order; hooks do not wait for each other. Each is
delivered at least once: a receiver knows one that comes again by its ``webhook-id``.
"""

import asyncio
import heapq
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlencode
from uuid import uuid4

import structlog
from standardwebhooks import Webhook

from fastagi.agents.deliveries import Exclusive, HookDeliveries, unshared
from fastagi.agents.fence import Fence
from fastagi.agents.hooks import Attempt, Hook, HookDelivery, client_secret, payload
from fastagi.agents.service import StoreUnavailable
from fastagi.config.settings import WebhookSettings
from fastagi.contract import EventType
from fastagi.outbox import dispatcher
from fastagi.outbox.dispatcher import Lane, Stalled
from fastagi.outbox.http_client import (
    Failed,
    Header,
    HttpClient,
    InvalidUrl,
    Place,
    Request,
    refusal,
    target,
)

log = structlog.get_logger()

_NOWHERE: Place = ("", 0)  # of a URL that cannot be called

# For the log and the metrics. The text of a fault is never logged: a URL's query could stand in it.
TASK = "deliver to hooks"
TESTS = 10  # at once
DRAIN = 30.0  # seconds for requests under way to end and to be marked when the lock was lost


@dataclass(frozen=True, slots=True)
class Pace(dispatcher.Pace):
    interval: float = 0.02  # the store is asked at most this often
    places: int = 100  # requests at once
    places_per_host: int = 10  # of them to one host and port
    places_for_slow: int = 50  # of them to receivers that let us wait for long the last time
    held: int = 5000  # deliveries that wait for a place, taken from the store
    # For so long: then the store is asked again, which may have another URL for the hook, or none.
    fresh: float = 20.0
    longest_delay: float = 600.0
    longest_wait: float = 600.0  # that a receiver can ask for
    longest_pause: float = 10.0
    ask_ready: float = 0.02


class HookDispatcher(Lane):
    """The lane to all hooks.

    ``settings`` gives those of the moment; ``counted`` is called with what became of each attempt:
    ``delivered``, ``failed`` or ``parked``. ``own``: hosts and ports to which nothing is delivered,
    whatever the settings allow, as the service itself or one of its Asterisks is there.
    """

    pace: Pace

    def __init__(
        self,
        hooks: HookDeliveries,
        clock: Callable[[], datetime],
        settings: Callable[[], WebhookSettings],
        counted: Callable[[str], None] = lambda outcome: None,
        pace: Pace | None = None,
        fence: Fence | None = None,
        own: Sequence[Place] = (),
        *,
        due_clock: Callable[[], datetime] | None = None,
        exclusive: Exclusive = unshared,
    ) -> None:
        self._own = tuple(own)
        self._hooks = hooks
        self._settings = settings
        self._counted = counted
        self._client = HttpClient(self._own)
        self._tests = asyncio.Semaphore(TESTS)
        self._slow: set[Place] = set()
        super().__init__(
            "hooks", clock, due_clock or clock, pace or Pace(), fence or Fence(log), exclusive
        )

    def begin(self) -> None:
        super().begin()
        self._busy: set[int] = set()  # hooks of which a delivery waits here or is under way
        self._waiting: dict[Place, deque[tuple[float, HookDelivery]]] = {}  # and since when
        self._held = 0  # deliveries in there
        self._under_way: Counter[Place] = Counter()
        self._running = 0
        self._running_slow = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._unanswered: set[asyncio.Task[None]] = set()
        self._next: datetime | None = None  # when what was postponed elsewhere is due
        self._taken = self.due_clock()  # when the store was last asked

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
            return Attempt(event_id, hook.event_type, self.clock(), 1, None, error, 0.0, "failed")
        try:
            attempt, _ = await self._try(hook, event_id, hook.event_type, fields, 1, settings)
        finally:
            self._tests.release()
            if self.loop is None:  # nobody else will close what was opened
                await self._client.close()
        return attempt

    async def turn(self) -> bool:
        try:
            await self._take()
            if self.looking:
                self._next = await self._hooks.next_due()
                await self._client.close_idle()
        except StoreUnavailable:
            raise
        except Exception as error:  # ours; phones must not fall silent because of hooks
            self.fence.skipped(TASK, error, hidden=True)
            raise Stalled from error
        return False

    def next_due(self) -> datetime | None:
        # What has become due since the store was asked is asked for at once.
        soon = (*self.retries[:1], *([self._next] if self._next is not None else []))
        return min((due for due in soon if due > self._taken), default=None)

    async def _take(self) -> None:
        """From the store, until it has no more or there is no place."""
        while (
            not self.lock.lost and self._running < self.pace.places and self._held < self.pace.held
        ):
            now = self._taken = self.now()
            limit = min(2 * self.pace.places, self.pace.held - self._held)
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
        oldest = time.monotonic() - self.pace.fresh
        begun = True
        while begun:
            begun = False
            for place in list(self._waiting):
                if self.lock.lost or self._running >= self.pace.places:
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
                    self.bell.set()
                else:
                    self._begin(delivery, place)

    def _free(self, place: Place) -> bool:
        if self._under_way[place] >= self.pace.places_per_host:
            return False
        return place not in self._slow or self._running_slow < self.pace.places_for_slow

    def _begin(self, delivery: HookDelivery, place: Place) -> None:
        slow = place in self._slow
        self._running += 1
        self._running_slow += slow
        self._under_way[place] += 1
        task = asyncio.create_task(
            self._deliver(delivery, place, slow), name=f"deliver to hook {delivery.hook.id}"
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
                fields = payload(hook.agent_id, event, paused=delivery.paused)
                number = delivery.attempts + 1
                # Not the hook's type: it may be for another one since.
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
            if not self.stopping.is_set():
                self._start()  # the place is free, whatever the store does now
            final = attempt.status == 410 or attempt.number >= settings.attempts
            if attempt.outcome == "failed" and final:
                attempt = replace(attempt, outcome="parked")
            await self._mark(delivery, attempt, wait, place)
        except Exception as fault:  # ours; the receiver must not get it again and again
            self.fence.skipped(TASK, fault, hidden=True, hook=hook.id)
            await self.unless_stopped(self.pace.longest_delay)
        finally:
            self._busy.discard(hook.id)
            self.bell.set()

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
        at, began = self.clock(), time.monotonic()
        status: int | None = None
        wait = 0.0
        try:
            request = build(hook, event_id, fields, at, secrets(hook, settings))
            answer = await self._client.send(
                request, settings.timeout.total_seconds(), settings.allow
            )
            status, wait = answer.status, answer.retry_after
            self._answered()
            await answer.close()
        except (InvalidUrl, Failed) as failure:
            error = str(failure)
            if isinstance(failure, Failed) and failure.detail != error:
                # Not for who made the hook.
                log.warning("hook receiver not called", hook=hook.id, why=failure.detail)
        except Exception as fault:  # ours; the others must not suffer by it
            error = f"internal error: {type(fault).__name__}"
            self.fence.skipped(TASK, fault, hidden=True, hook=hook.id)
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
        """Until the store has it: nothing is sent twice only because the store was away."""
        pace, hook = self.pace, delivery.hook
        facts = {
            "hook": hook.id,
            "host": place[0],
            "event_id": attempt.event_id,
            "attempt": attempt.number,
            "error": attempt.error,
        }
        now = self.clock()
        until = self.due_clock()
        if attempt.outcome == "failed":
            seconds = max(pace.delay(attempt.number), min(wait, pace.longest_wait))
            until += timedelta(seconds=seconds)

        async def write() -> None:
            if attempt.outcome == "delivered":
                await self._hooks.delivered(delivery, attempt)
            elif attempt.outcome == "failed":
                await self._hooks.postpone(delivery, until, attempt)
            else:
                await self._hooks.park(delivery, now, attempt)

        if not await self.marked(write, **facts):
            return
        self._counted(attempt.outcome)
        if attempt.outcome == "failed":
            heapq.heappush(self.retries, until)
            log.warning("hook delivery failed, tried again later", **facts)
        elif attempt.outcome == "parked":
            log.error("hook delivery given up, parked", **facts)

    async def drain(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN)

    async def end(self) -> None:
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self.pace.grace)
            for task in list(self._unanswered):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self.pace.grace / 2)
        finally:
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                with suppress(asyncio.CancelledError):
                    await asyncio.wait(self._tasks, timeout=1.0)
            await self._client.close()


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
    """The request for a hook. Raises InvalidUrl.

    GET puts the fields behind the URL's own query, POST sends them as a JSON object or a form.
    With each of the secrets it is signed as Standard Webhooks says
    (https://github.com/standard-webhooks/standard-webhooks): ``webhook-signature`` is over
    ``webhook-id``, ``webhook-timestamp`` and the body as sent. A GET has no body; what is signed
    there is the query string as sent, all that stands behind the first ``?``.
    """
    parts = target(hook.url)
    timestamp = str(int(at.timestamp()))
    headers: list[Header] = [
        (b"Host", parts.authority.encode("ascii")),
        (b"User-Agent", _user_agent()),
        (b"Accept", b"*/*"),
        (b"webhook-id", event_id.encode("ascii", "replace")),
        (b"webhook-timestamp", timestamp.encode("ascii")),
    ]
    path, body = parts.path, None
    query = parts.query or ""
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
    if query or parts.query is not None:
        path = f"{path}?{query}"
    return Request(hook.method, parts, path, headers, body)


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
        parts = target(hook.url)
    except InvalidUrl:
        return _NOWHERE
    return parts.host, parts.port


def _verdict(status: int) -> str:
    """What is wrong with this answer; nothing with 2xx."""
    if 200 <= status < 300:
        return ""
    if status == 410:
        return "gone: the receiver wants no more (410)"
    if 300 <= status < 400:
        return f"redirects are not followed ({status})"
    return f"the receiver answered {status}"
