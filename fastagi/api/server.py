"""uvicorn within the running loop, with limits for those who send nothing, or without end."""

import asyncio
import logging
import resource
import ssl
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from fastagi.config.settings import HttpSettings, TlsSettings

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # where there is no wheel of httptools: h11 has limits of its own
    HttpToolsProtocol = None  # type: ignore[assignment,misc]

log = structlog.get_logger()

KEEP_ALIVE = 75  # seconds that a connection may wait for its next request
HEAD_DEADLINE = 20.0  # seconds in which request line and headers must be there
MAX_HEAD = 65536  # bytes of them
HANDSHAKE = 10.0  # seconds for TLS
MORE = 1000  # connections beside those of listeners
TICK = 1.0  # seconds: the time in the answers, and a look at heads that are waited for
REMIND = 60.0  # seconds between two lines about too many connections
STEP = 0.02  # seconds between two looks at what a drain waits for

ABORT = "fastagi.abort"  # an ASGI extension: cuts the connection without waiting for anything


class _Told(logging.Handler):
    """What uvicorn has to say, into our log; nonsense sent by clients is not worth a line."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(("Invalid HTTP request", "Unsupported upgrade", "No supported Web")):
            return
        log.warning("HTTP server", said=message.strip(), exc_info=record.exc_info)


def _quiet() -> None:
    """uvicorn's loggers configure nothing and print nothing; request lines are never logged."""
    errors = logging.getLogger("uvicorn.error")
    errors.propagate = False
    errors.setLevel(logging.WARNING)
    if not any(isinstance(handler, _Told) for handler in errors.handlers):
        errors.addHandler(_Told())
    access = logging.getLogger("uvicorn.access")
    access.handlers = []
    access.propagate = False


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """TLS 1.2 and newer. Raises OSError naming the setting and the file."""
    for setting, path in (("certificate", tls.certificate), ("key", tls.key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise OSError(f"http.tls.{setting}: {path}: {error.strerror or error}") from error

    def no_password() -> str:
        raise OSError(f"http.tls.key: {tls.key}: needs a password, which cannot be given here")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key, no_password)
    except ssl.SSLError as error:
        raise OSError(_tls_mistake(tls, error)) from error
    return context


def _tls_mistake(tls: TlsSettings, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"http.tls.key: {tls.key}: is not the key of {tls.certificate}"
    if not _is_certificate(tls.certificate):
        return f"http.tls.certificate: {tls.certificate}: is no certificate in PEM"
    return f"http.tls.key: {tls.key}: is no key in PEM ({error.reason or error})"


def _is_certificate(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True


if HttpToolsProtocol is not None:

    class Connection(HttpToolsProtocol):
        """httptools knows no limits: those of a request's head are kept here."""

        head_since: float | None = None  # loop time; None: no head is waited for
        _head = 0
        _refused = False
        _extensions: dict[str, Any]
        most: int  # connections
        too_many: Callable[[], None]

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            if len(self.connections) >= self.most:
                self.too_many()
                transport.abort()
            super().connection_made(transport)
            self._extensions = {ABORT: transport.abort}
            self.head_since = self.loop.time()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.head_since = None

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope["extensions"] = self._extensions
            self.head_since = self.loop.time()
            self._head = 0

        def on_headers_complete(self) -> None:
            self.head_since = None
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return  # thrown away: unread bytes would take the answer with them
            super().data_received(data)
            if self.head_since is not None and not self.transport.is_closing():
                self._head += len(data)
                if self._head > MAX_HEAD:
                    self._refuse()

        def _refuse(self) -> None:
            self._refused = True
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
                b"content-length: 0\r\nconnection: close\r\n\r\n"
            )
            if self.transport.can_write_eof():
                self.transport.write_eof()  # the client closes, or the deadline of the head does
            else:
                self.transport.close()


class HttpServer:
    """Serves ``app`` as ``http`` says. ``ending`` is called when a drain begins: whoever holds
    streams open ends them."""

    def __init__(
        self, app: ASGIApp, http: HttpSettings, ending: Callable[[], None] = lambda: None
    ) -> None:
        self._http = http
        self._ending = ending
        self._app = app
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._ticks: asyncio.Task[None] | None = None
        # The phones need file descriptors, too.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = min(http.max_listeners + MORE, max(files // 3, 16))
        self._reminded = -REMIND

    @property
    def port(self) -> int:
        """The one that was taken, where ``listen`` says 0."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def active(self) -> int:
        """Requests that are being answered."""
        return len(self._state.tasks)

    async def start(self) -> None:
        """Raises OSError when the port is taken or a file of TLS is no good."""
        http = self._http
        context = None if http.tls is None else tls_context(http.tls)
        kind: Any = "h11"
        if HttpToolsProtocol is not None:
            limits = {"most": self._most, "too_many": staticmethod(self._too_many)}
            kind = type("Connection", (Connection,), limits)
        # Without log_config uvicorn leaves logging alone.
        config = uvicorn.Config(
            self._app,
            http=kind,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        config.load()
        _quiet()
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            protocol: asyncio.Protocol = config.http_protocol_class(
                config=config,  # type: ignore[call-arg]
                server_state=self._state,
                app_state={},
                _loop=loop,
            )
            return protocol

        self._tell_time()
        self._server = await loop.create_server(
            connection,
            http.listen.host,
            http.listen.port,
            ssl=context,
            backlog=1024,
            ssl_handshake_timeout=None if context is None else HANDSHAKE,
        )
        self._ticks = asyncio.create_task(self._tick(), name="http")

    def _too_many(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._reminded + REMIND:
            self._reminded = now
            log.warning("too many connections, some are refused", limit=self._most)

    def _tell_time(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            self._tell_time()
            late = loop.time() - HEAD_DEADLINE
            for connection in list(self._state.connections):
                since = getattr(connection, "head_since", None)
                if since is not None and since < late:
                    connection.transport.abort()

    async def drain(self, seconds: float) -> None:
        """No new connections; requests on their way have so long to finish, streams end at once;
        then everything is closed."""
        if self._server is None:
            return
        self._ending()
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        state = self._state
        while (state.connections or state.tasks) and loop.time() < deadline:  # noqa: ASYNC110 - once
            await asyncio.sleep(STEP)
        left = list(self._state.tasks)
        if left:
            log.warning("requests were cut off", count=len(left))
        for connection in list(self._state.connections):
            connection.transport.abort()
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1)
        if self._ticks is not None:
            self._ticks.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticks
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._server.wait_closed()
