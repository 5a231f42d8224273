"""``metrics.listen``: figures for Prometheus, without a token, on a port of their own.

Under the same server and limits as the rest of HTTP. A page from elsewhere that has its own name
lead here (DNS rebinding) would make a browser read them: who shows any sign of a browser must ask
for an address, for localhost or for this machine's name.
"""

import asyncio
import socket
import time
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from fastagi.agents.ports import Figures
from fastagi.api.answers import JSON, Answer, error_body
from fastagi.api.guard import (
    address_of,
    malformed,
    names_this_machine,
    of_another_site,
)
from fastagi.api.health import NOT_KEPT
from fastagi.api.limits import Pace, Turns, parsed

CONNECTIONS = 64  # Prometheus has one
KEPT = 1.0  # seconds
HEADERS = ((b"x-content-type-options", b"nosniff"), (b"connection", b"close"), *NOT_KEPT)

_OF_BROWSERS = frozenset({b"accept-language", b"origin", b"referer", b"cookie"})


class FiguresAlone:
    """An ASGI application that answers ``/metrics``, and ``/`` too, as it always did."""

    def __init__(self, figures: Figures, now: Callable[[], float] = time.monotonic) -> None:
        self._figures = figures
        self._pace = Pace(now)
        self._turns = Turns()
        self._name = socket.gethostname().lower()
        self._now = now
        self._asking = asyncio.Lock()
        self._last: tuple[float, tuple[bytes, str]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if await self._pace.wait(address_of(scope)):
            await self._turns.turn()
            status, text = self._refusal(scope)
        else:
            status, text = 429, "Too many requests from this address"
        content, kind = await self._text() if status == 200 else (error_body(status, text), JSON)
        await Answer(status, content, HEADERS, kind)(scope, receive, send)

    async def _text(self) -> tuple[bytes, str]:
        """Written down once a second at most: it takes some milliseconds of the phones' time."""
        async with self._asking:
            now = self._now()
            if self._last is None or now - self._last[0] > KEPT:
                self._last = now, await self._figures.text()
            return self._last[1]

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        """200, where there is none."""
        if (why := malformed(scope)) is not None:
            return 400, why
        headers = dict(scope["headers"])
        if of_another_site(headers):
            return 403, "Pages of other sites may not ask"
        host = headers.get(b"host", b"").decode("latin-1")
        if host and not self._is_named(host) and _in_a_browser(headers):
            return 403, "A browser must ask for an address or for this machine's name"
        if scope["path"] not in ("/", "/metrics"):
            return 404, "Not Found"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "Method Not Allowed"
        return 200, ""

    def _is_named(self, host: str) -> bool:
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return (
            parsed(name) is not None
            or names_this_machine(host)
            or name.lower().removesuffix(".") == self._name
        )


def _in_a_browser(headers: dict[bytes, bytes]) -> bool:
    return (
        not _OF_BROWSERS.isdisjoint(headers)
        or any(name.startswith((b"sec-fetch-", b"sec-ch-")) for name in headers)
        or headers.get(b"user-agent", b"").lower().startswith(b"mozilla/")
    )
