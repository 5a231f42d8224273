"""``metrics.listen``: the port of Prometheus's own."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from fastagi.api.figures import FiguresAlone
from fastagi.api.server import HttpServer
from fastagi.config.settings import HostPort, HttpSettings
from fastagi.outbox.metrics import Metrics
from tests.api.conftest import MemoryFigures

PROMETHEUS = {"User-Agent": "Prometheus/2.53.0", "Accept": "text/plain;version=0.0.4"}


@pytest.fixture
async def served() -> AsyncIterator[HttpServer]:
    metrics = Metrics(agents_by_state=lambda: {("", "paused"): 5}, connected=lambda: {"": True})
    settings = HttpSettings().model_copy(update={"listen": HostPort("127.0.0.1", 0)})
    it = HttpServer(FiguresAlone(metrics), settings, most=16)
    await it.start()
    yield it
    await it.drain(0)


@pytest.mark.parametrize("path", ["/metrics", "/"])
async def test_the_figures(served: HttpServer, path: str) -> None:
    async with httpx2.AsyncClient(headers=PROMETHEUS, timeout=60) as http:
        answer = await http.get(f"http://127.0.0.1:{served.port}{path}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert b'fastagi_agents{state="paused"} 5.0' in answer.content


async def test_who_says_nothing_costs_no_thread(served: HttpServer) -> None:
    before = threading.active_count()
    silent = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(100)]
    while len(served._places) != 16:  # noqa: ASYNC110 - of the server's inside no event tells
        await asyncio.sleep(0.01)
    assert threading.active_count() == before
    async with httpx2.AsyncClient(timeout=60) as http:
        answer = await http.get(f"http://127.0.0.1:{served.port}/metrics")
    assert answer.status_code == 200
    for _, writer in silent:
        writer.close()


async def asked(app: Any, **scope: Any) -> int:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    http = {"type": "http", "method": "GET", "path": "/metrics", "http_version": "1.1"}
    headers = [(b"host", b"127.0.0.1:9494")]
    await app(http | {"headers": headers, "client": ("192.0.2.7", 1)} | scope, receive, send)
    status: int = sent[0]["status"]
    return status


BROWSER = [(b"accept-language", b"")]  # a page can change it, and not leave it out


@pytest.mark.parametrize(
    ("host", "more", "status"),
    [
        (b"127.0.0.1:9494", [], 200),
        (b"pbx.example:9494", [], 200),  # Prometheus by a name
        (b"192.0.2.1:9494", BROWSER, 200),
        (b"localhost:9494", BROWSER, 200),
        (socket.gethostname().encode(), BROWSER, 200),
        (b"evil.test:9494", BROWSER, 403),
        (b"evil.test:9494", [(b"user-agent", b"Mozilla/5.0 (X11)")], 403),
        (b"evil.test:9494", [(b"sec-fetch-site", b"same-origin")], 403),
        (b"evil.test:9494", [(b"origin", b"http://evil.test:9494")], 403),
        (b"127.0.0.1:9494", [(b"origin", b"http://evil.test")], 403),
        (b"127.0.0.1:9494", [(b"sec-fetch-site", b"cross-site")], 403),
        (b"127.0.0.1:9494", [(b"host", b"evil.test")], 400),
        (b"localhost:80@evil.test", [], 400),
    ],
)
async def test_pages_of_other_sites(
    host: bytes, more: list[tuple[bytes, bytes]], status: int
) -> None:
    app = FiguresAlone(MemoryFigures())
    assert await asked(app, headers=[(b"host", host), *more]) == status


async def test_nothing_else_is_there() -> None:
    app = FiguresAlone(MemoryFigures())
    assert await asked(app, path="/0.1/agents/all/statuses") == 404
    assert await asked(app, method="POST") == 405


async def test_they_are_not_written_down_at_every_request() -> None:
    class Counting(MemoryFigures):
        asked = 0

        async def text(self) -> tuple[bytes, str]:
            self.asked += 1
            return await super().text()

    figures, now = Counting(), [0.0]
    app = FiguresAlone(figures, lambda: now[0])
    for _ in range(20):
        assert await asked(app) == 200
    assert figures.asked == 1
    now[0] = 2.0
    assert await asked(app) == 200
    assert figures.asked == 2
