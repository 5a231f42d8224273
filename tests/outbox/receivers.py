"""Real HTTP receivers on loopback, raw, and hooks' deliveries in memory."""

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, Hook, HookDelivery
from fastagi.agents.service import StoreUnavailable
from fastagi.config.settings import WebhookSettings
from fastagi.contract import EventType
from fastagi.outbox.hooks import HookDispatcher, Pace

from .parts import LONG_AGO, now

_ids = itertools.count(1)

QUICK = Pace(first_delay=0.02, longest_delay=0.05, look=0.1)
# Nothing is found by looking: what arrives was woken or was due.
DEAF = replace(QUICK, look=3600.0)
LOOPBACK = (ip_network("127.0.0.0/8"),)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


def status(code: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} X", "Content-Length: 0", *headers, "", ""]
    return "\r\n".join(lines).encode()


@dataclass
class Seen:
    """A request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]  # lower-case names
    body: bytes
    raw: bytes
    connection: int
    reader: asyncio.StreamReader


Script = Callable[[Seen, asyncio.StreamWriter], Awaitable[bytes | None]]


@dataclass
class HttpReceiver:
    """``answers``: one for each request, the last for all that follow. A script may write by
    itself; None from it closes the connection."""

    answers: Sequence[bytes | Script] = (OK,)
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.open.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
                headers = {}
                for line in lines:
                    name, _, value = line.partition(": ")
                    assert name.lower() not in headers, "a header twice"
                    headers[name.lower()] = value
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, path, _ = first.split(" ")
                seen = Seen(method, path, headers, body, head + body, number, reader)
                answer = self.answers[min(len(self.seen), len(self.answers) - 1)]
                self.seen.append(seen)
                if not isinstance(answer, bytes):
                    given = await answer(seen, writer)
                    if given is None:
                        return
                    answer = given
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()


@asynccontextmanager
async def receiver(
    *answers: bytes | Script, host: str = "127.0.0.1", **how: Any
) -> AsyncIterator[HttpReceiver]:
    made = HttpReceiver(answers or (OK,))
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await made.serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the test
        finally:
            handlers.discard(task)

    server = await asyncio.start_server(serve, host, 0, **how)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for writer in list(made.open):
            writer.transport.abort()
        for task in list(handlers):
            task.cancel()
        if handlers:
            await asyncio.wait(handlers, timeout=5)


async def hang(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
    await seen.reader.read()  # until the other side gives up
    return None


async def drip(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
    """A byte at a time, for ever: never so long in between that a read would time out."""
    writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def reset(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
    linger = struct.pack("ii", 1, 0)  # closed with a reset
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
    return None


def hook(url: str, **more: Any) -> Hook:
    values: dict[str, Any] = {
        "id": next(_ids),
        "client": "12",
        "agent_id": 136,
        "agent_type": "local",
        "event_type": EventType.LOGIN,
        "method": "GET",
    }
    return Hook(url=url, **(values | more))


@dataclass
class Owed:
    delivery: HookDelivery
    due: datetime = LONG_AGO


@dataclass
class HookMemory:
    """Keeps what is owed, as the real store: it outlives a dispatcher."""

    owed: list[Owed] = field(default_factory=list)
    log: list[tuple[int, Attempt]] = field(default_factory=list)
    untils: list[datetime] = field(default_factory=list)
    parked: list[HookDelivery] = field(default_factory=list)
    broken: bool = False
    most: int = 0  # the largest answer of ``due``
    on_change: Callable[[], None] = lambda: None

    def owe(self, hook: Hook, *events: Event) -> None:
        for event in events:
            self.owed.append(Owed(HookDelivery(hook, next(_ids), event, 0)))
        self.on_change()

    async def due(self, now: datetime, limit: int, busy: Set[int], /) -> Sequence[HookDelivery]:
        self._works()
        seen = set(busy)
        found = []
        for row in self.owed:
            if row.delivery.hook.id not in seen:
                seen.add(row.delivery.hook.id)
                if row.due <= now:
                    found.append(row.delivery)
        self.most = max(self.most, len(found[:limit]))
        await asyncio.sleep(0)
        return found[:limit]

    async def next_due(self) -> datetime | None:
        self._works()
        return min((row.due for row in self.owed if row.due > LONG_AGO), default=None)

    async def delivered(self, delivery: HookDelivery, attempt: Attempt, /) -> None:
        self._works()
        self._take(delivery)
        self.log.append((delivery.hook.id, attempt))

    async def postpone(self, delivery: HookDelivery, until: datetime, attempt: Attempt, /) -> None:
        self._works()
        row = self._row(delivery)
        row.delivery = replace(row.delivery, attempts=row.delivery.attempts + 1)
        row.due = until
        self.untils.append(until)
        self.log.append((delivery.hook.id, attempt))

    async def park(self, delivery: HookDelivery, now: datetime, attempt: Attempt, /) -> None:
        self._works()
        self._take(delivery)
        self.parked.append(delivery)
        self.log.append((delivery.hook.id, attempt))

    def outcomes(self, id: int | None = None) -> list[str]:
        return [attempt.outcome for hook, attempt in self.log if id in (None, hook)]

    def _row(self, delivery: HookDelivery) -> Owed:
        (row,) = (r for r in self.owed if (r.delivery.hook.id, r.delivery.seq) == _key(delivery))
        return row

    def _take(self, delivery: HookDelivery) -> None:
        self.owed.remove(self._row(delivery))

    def _works(self) -> None:
        if self.broken:
            raise StoreUnavailable("disk full")


def _key(delivery: HookDelivery) -> tuple[int, int]:
    return delivery.hook.id, delivery.seq


def settings(**more: Any) -> WebhookSettings:
    values: dict[str, Any] = {"allow": LOOPBACK, "timeout": timedelta(seconds=5)}
    return WebhookSettings(**(values | more))


@asynccontextmanager
async def telling(
    memory: HookMemory,
    of: WebhookSettings | Callable[[], WebhookSettings] | None = None,
    pace: Pace = QUICK,
    counted: Callable[[str], None] = lambda outcome: None,
) -> AsyncIterator[HookDispatcher]:
    given = of or settings()
    current = given if callable(given) else lambda: given
    dispatcher = HookDispatcher(memory, now, current, counted, pace)
    memory.on_change = dispatcher.wake
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
        assert not task.done(), "the dispatcher ended by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
