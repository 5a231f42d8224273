"""uvicorn within the running loop. Each stage of a connection has a number and a deadline.

Connections are accepted here and not by the loop: they are counted, in all and by address, before
TLS begins, and there are never more of them than HTTP's part of the descriptors. From then on:

    TLS handshake     HANDSHAKE
    head              HEAD_DEADLINE, MAX_HEAD, MAX_HEADERS; trailers count as no headers
    next request      KEEP_ALIVE; of several that are sent at once one is read ahead
    body              see ``guard``
    answer            written in pieces; who takes less than LEAST in WRITE_DEADLINE is cut
    all answers       BUFFERED; who has most of it is cut
"""

import asyncio
import logging
import resource
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fastagi.api.limits import Place, Places, Repeated, block, parsed
from fastagi.api.peer import owner
from fastagi.config.settings import HttpSettings, TlsSettings

try:
    import httptools
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
except ImportError:  # where there is no wheel of httptools: h11 has limits of its own
    HttpToolsProtocol = None  # type: ignore[assignment,misc]

log = structlog.get_logger()

KEEP_ALIVE = 75  # seconds that a connection may wait for its next request
HEAD_DEADLINE = 20.0  # seconds in which request line and headers must be there
MAX_HEAD = 65536  # bytes of them
MAX_HEADERS = 100
MAX_TRAILERS = 65536  # bytes within a chunked body that are none of it
PIECE = 16384  # bytes of a body that are read before anything else is looked at
HANDSHAKE = 10.0  # seconds for TLS
TLS_END = 5.0  # seconds for its last words
MORE = 1000  # connections beside those of listeners
WRITE_DEADLINE = 30.0  # seconds in which a client that is sent something takes …
LEAST = 65536  # … so many bytes, or all
BUFFERED = 64 * 2**20  # bytes that are written and not taken, of all connections together
SEND_BUFFER = 131072  # bytes that the kernel keeps of one connection
ACCEPT_AT_ONCE = 16  # then everybody else has a turn
RETRY_ACCEPT = 0.1  # seconds without accepting when there are no descriptors
BACKLOG = 1024
TICK = 1.0  # seconds: the time in the answers, and a look at the deadlines
STEP = 0.02  # seconds between two looks at what a drain waits for

# ASGI extensions, keys of ``scope["extensions"]``; each is a function.
ABORT = "fastagi.abort"  # () cuts the connection without waiting for anything
IDENTIFY = "fastagi.identify"  # (client, limited) -> False: this client has too many connections
OWNER = "fastagi.owner"  # () -> the user id of the process that asks, where that is known

_NO_LINGER = struct.pack("ii", 1, 0)


class _UvicornLog(logging.Handler):
    """What uvicorn has to say, into our log, and not at the rate at which clients can cause it;
    nonsense sent by clients is not worth a line."""

    def __init__(self) -> None:
        super().__init__()
        self._log = Repeated(log)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().strip()
        if not message.startswith(("Invalid HTTP request", "Unsupported upgrade", "No supported")):
            self._log("warning", "HTTP server", message, text=message, exc_info=record.exc_info)


def _quiet() -> None:
    """uvicorn's loggers configure nothing and print nothing; request lines are never logged."""
    errors = logging.getLogger("uvicorn.error")
    errors.propagate = False
    errors.setLevel(logging.WARNING)
    errors.handlers = [_UvicornLog()]
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


def share_of_files(http: HttpSettings, files: int) -> int:
    """How many connections HTTP may have: the phones need descriptors, too."""
    return min(http.max_listeners + MORE, max(files // 4, 16))


class _Watched:
    """What a connection has beside uvicorn's protocol: a place, and deadlines for what it sends."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Any
    place: Place
    places: Places
    head_since: float | None = None  # loop time; None: no head is waited for
    extensions: dict[str, Any]
    _sock: Any  # asyncio's TransportSocket
    _owner: int | None = None
    _asked_owner = False
    _taking: tuple[float, int] | None = None  # since when, and how much there was to take then

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.place.cut = self.cut
        self.extensions = {ABORT: self.cut, IDENTIFY: self._identify, OWNER: self._asks}
        self._sock = transport.get_extra_info("socket")
        super().connection_made(transport)  # type: ignore[misc]
        self.head_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self.places.leave(self.place)
        self.head_since = None
        super().connection_lost(exc)  # type: ignore[misc]

    def cut(self) -> None:
        """At once; the kernel keeps nothing either of what was not taken."""
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.abort()

    def abort(self) -> None:
        try:
            self.transport.abort()
        except AttributeError:
            # A TLS transport that was closed twice, and still says goodbye to the client, has
            # forgotten its protocol: in Python 3.11.2 (Debian 12) abort() raises, as
            # get_write_buffer_size() does.
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def _identify(self, client: str, limited: bool) -> bool:
        return self.places.identify(self.place, client, limited=limited)

    def _asks(self) -> int | None:
        if not self._asked_owner:
            self._asked_owner = True
            own = self.transport.get_extra_info("sockname")
            peer = self.transport.get_extra_info("peername")
            if own and peer:
                self._owner = owner(own[:2], peer[:2])
        return self._owner

    @property
    def answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def buffered(self) -> int:
        """Bytes that are written and not taken."""
        try:
            size: int = self.transport.get_write_buffer_size()
        except AttributeError:  # see ``abort``; saying goodbye has a deadline anyway
            return 0
        return size

    def overdue(self, now: float) -> bool:
        since = self.head_since
        return since is not None and now - since > HEAD_DEADLINE

    def stuck(self, now: float, size: int) -> bool:
        """The client takes nothing, or next to nothing; ``size`` is what there is to take."""
        if not size:
            self._taking = None
            return False
        since, before = self._taking or (now, size)
        if self._taking is None or before - size >= LEAST or size > before:
            self._taking = now, size
            return False
        return now - since > WRITE_DEADLINE


class _H11Connection(_Watched, H11Protocol):  # type: ignore[misc]
    """h11 has limits of its own for a head; how long it may take is seen to here."""

    def data_received(self, data: bytes) -> None:
        if not self.answering and self.head_since is None:
            self.head_since = self.loop.time()
        super().data_received(data)
        if self.answering:
            self.head_since = None

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None:
            self.cycle.scope["extensions"] = self.extensions


if HttpToolsProtocol is not None:

    class Connection(_Watched, HttpToolsProtocol):  # type: ignore[misc]
        """httptools knows no limits: they are kept here."""

        _head = 0  # bytes of it
        _beside = 0  # bytes within a body that are none of it
        _in_body = False
        _resumed = False  # a second parser reads the body
        _too_much = False  # of the head, or of what is beside a body
        _taken = 0  # bytes that were read of the piece that was given
        _held = b""  # was sent before its turn, and is not looked at yet
        _last = b""  # what is said when all that was asked before is answered
        _ended = False  # nothing more is read

        def on_message_begin(self) -> None:
            if self._resumed:
                return
            super().on_message_begin()
            self.scope["extensions"] = self.extensions
            self.head_since = self.loop.time()
            self._head = 0

        def on_url(self, url: bytes) -> None:
            if not self._resumed:
                super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_body:
                return  # a trailer is no header (RFC 9110, 6.5.1)
            if len(self.headers) >= MAX_HEADERS:
                self._too_much = True
                raise ValueError("too many headers")
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self._resumed:
                return
            self.head_since = None
            self._in_body = True
            self._beside = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._beside -= 8 * len(body)  # the smallest chunks have five bytes for one
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_body = self._resumed = False
            super().on_message_complete()

        def _unsupported_upgrade_warning(self) -> None:
            """Another protocol was offered (Java's client offers HTTP/2 with its first request),
            and is not taken. httptools takes what follows for that protocol: it is the body.

            Called while that is handled, and before anything of the request is worked at."""
            upgrade = sys.exc_info()[1]
            assert isinstance(upgrade, httptools.HttpParserUpgrade)
            self._taken = upgrade.args[0]  # the rest is looked at once more
            framing = {
                name: value
                for name, value in self.headers
                if name in (b"content-length", b"transfer-encoding")
            }
            if not framing or framing == {b"content-length": b"0"}:
                return
            head = b"".join(b"%b: %b\r\n" % header for header in framing.items())
            self.cycle.more_body = True
            self.cycle.message_event.clear()
            self._in_body = self._resumed = True
            self.parser = httptools.HttpRequestParser(self)
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % head)

        def data_received(self, data: bytes) -> None:
            if self._ended:
                return  # thrown away: unread bytes would take the answer with them
            if self._held:
                self._held += data
                self.flow.pause_reading()
                return
            self._read(data)

        def _read(self, data: bytes) -> None:
            """One request at a time, and one ahead: thousands can be sent at once."""
            if self.head_since is None and not self.answering and not self._in_body:
                # Blank lines may come before a request, and are the beginning of none.
                self.head_since = self.loop.time()
            begin = 0
            while begin < len(data) and not self._ended and not self.transport.is_closing():
                if self.pipeline:
                    self._held = data[begin:]
                    self.flow.pause_reading()
                    return
                piece = data[begin : self._end(data, begin)]
                self._taken = len(piece)
                super().data_received(piece)
                size = self._taken
                begin += size
                if self.transport.is_closing():
                    return
                if self.head_since is not None:
                    self._head += size
                    self._too_much |= self._head > MAX_HEAD
                elif self._in_body:
                    self._beside += size
                    if self._beside > MAX_TRAILERS:
                        self.cut()
                if self._too_much and not self._ended:
                    self._refuse()

        def _end(self, data: bytes, begin: int) -> int:
            if self._in_body:
                return begin + PIECE
            end = data.find(b"\r\n\r\n", begin, begin + PIECE)
            return begin + PIECE if end < 0 else end + 4

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing() or self.pipeline:
                return
            if self.answering:
                if self._in_body and self._held:  # its turn has come, and its body is held
                    self.loop.call_soon(self._go_on)
            elif self._last:
                self._say(self._last)
            elif self._held:
                self.loop.call_soon(self._go_on)

        def _go_on(self) -> None:
            data, self._held = self._held, b""
            if not self.transport.is_closing():
                self._unset_keepalive_if_required()
                self._read(data)

        def send_400_response(self, msg: str) -> None:
            """For what is no HTTP."""
            if self._too_much:
                self._refuse()
                return
            cycle = self.cycle
            if self._in_body and cycle is not None and not cycle.response_complete:
                # The body is wrong of what is asked: this is its answer.
                if self.pipeline and self.pipeline[0][0] is cycle:
                    self.pipeline.popleft()
                    cycle.response_complete = True
                    self._end_with(400, msg.encode(), wait=True)
                    return
                if cycle.response_started:
                    self.cut()
                    return
                cycle.disconnected = cycle.response_complete = True
                cycle.message_event.set()
            self._end_with(400, msg.encode())

        def _refuse(self) -> None:
            self._end_with(431, b"")

        def _end_with(self, status: int, text: bytes, *, wait: bool = False) -> None:
            """What was asked before is answered before."""
            self._ended = True
            self._held = b""
            response = STATUS_LINE[status] + (
                b"content-type: text/plain; charset=utf-8\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(text), text)
            )
            if wait or self.answering or self.pipeline:
                self._last = response
            else:
                self._say(response)

        def _say(self, response: bytes) -> None:
            self._last = b""
            self.head_since = self.loop.time()
            self.transport.write(response)
            if self.transport.can_write_eof():
                self.transport.write_eof()  # the client closes, or the deadline of the head does
            else:
                self.transport.close()


class HttpServer:
    """Serves ``app`` as ``http`` says. ``ending`` is called when a drain begins: whoever holds
    streams open ends them. ``most``: connections; else HTTP's part of what the process may open."""

    def __init__(
        self,
        app: ASGIApp,
        http: HttpSettings,
        ending: Callable[[], None] = lambda: None,
        most: int | None = None,
    ) -> None:
        if most is None:
            most = share_of_files(http, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self.most = most
        self._http = http
        self._ending = ending
        self._app = app
        self._state = ServerState()
        self._listeners: list[socket.socket] = []
        self._arriving: set[asyncio.Task[bool]] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._ticks: asyncio.Task[None] | None = None
        self._places = Places(most, max(most // 4, min(most, 16)), max(most * 3 // 4, 1))
        self._proxies = http.proxies
        self._log = Repeated(log)
        self._port = http.listen.port

    @property
    def port(self) -> int:
        """The one that was taken, where ``listen`` says 0."""
        return self._port

    @property
    def active(self) -> int:
        """Requests that are being answered."""
        return len(self._state.tasks)

    async def start(self) -> None:
        """Raises OSError when the port is taken or a file of TLS is no good."""
        http = self._http
        self._tls = None if http.tls is None else tls_context(http.tls)
        # Without log_config uvicorn leaves logging alone.
        self._config = uvicorn.Config(
            self._app,
            http=_H11Connection if HttpToolsProtocol is None else Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        self._config.load()
        _quiet()
        self._loop = asyncio.get_running_loop()
        self._set_date()
        await self._listen(http.listen.host)
        self._accept_again()
        self._ticks = asyncio.create_task(self._tick(), name="http")

    async def _listen(self, host: str) -> None:
        infos = await self._loop.getaddrinfo(
            host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, kind, protocol, _, address in dict.fromkeys(infos):
                listener = socket.socket(family, kind, protocol)
                self._listeners.append(listener)
                listener.setblocking(False)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # The following are inherited by every accepted socket.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    # What was written before a connection was closed is not kept for ever either.
                    limit = int(WRITE_DEADLINE * 1000)
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address[0], self._port, *address[2:]))
                listener.listen(BACKLOG)
                self._port = listener.getsockname()[1]
        except OSError as error:
            self._close_listeners()
            why = (error.strerror or str(error)).lower()
            raise OSError(error.errno, f"{host}:{self._port}: {why}") from error

    # -- connections

    def _accept_again(self) -> None:
        self._resume = None
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._wait(error)
                return
            self._arrived(sock, address[0])

    def _wait(self, error: OSError) -> None:
        """Without this the loop would spin: the listener stays readable while nobody is taken."""
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
        if self._resume is None:
            self._resume = self._loop.call_later(RETRY_ACCEPT, self._accept_again)
        self._log("error", "no HTTP connection can be accepted", error=str(error))

    def _arrived(self, sock: socket.socket, address: str) -> None:
        source = block(address)
        found = parsed(address)
        shared = found is not None and any(found in network for network in self._proxies)
        place = self._places.take(source, lambda: None, shared=shared)
        if place is None:
            self._log("warning", "too many connections, some are refused", limit=self._places.most)
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            sock.close()
            return
        sock.setblocking(False)
        task = self._loop.create_task(self._begin(sock, place))
        place.cut = task.cancel
        self._arriving.add(task)

        def begun(task: asyncio.Task[bool]) -> None:
            self._arriving.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._log("error", "an HTTP connection could not begin", exc_info=error)
            if task.cancelled() or error is not None or not task.result():
                self._places.leave(place)
                sock.close()

        task.add_done_callback(begun)

    async def _begin(self, sock: socket.socket, place: Place) -> bool:
        """TLS, where it is spoken; what comes then is the protocol's. False: it did not come."""
        limits = (
            {}
            if self._tls is None
            else {"ssl_handshake_timeout": HANDSHAKE, "ssl_shutdown_timeout": TLS_END}
        )

        def protocol() -> asyncio.Protocol:
            connection: Any = self._config.http_protocol_class(
                config=self._config,  # type: ignore[call-arg]
                server_state=self._state,
                app_state={},
                _loop=self._loop,
            )
            connection.place, connection.places = place, self._places
            made: asyncio.Protocol = connection
            return made

        try:
            await self._loop.connect_accepted_socket(
                protocol,
                sock,
                ssl=self._tls,
                **limits,
            )
        except OSError:
            return False  # no TLS, or gone meanwhile
        return True

    def _set_date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                self._set_date()
                self._look(self._loop.time())
            except Exception as error:  # without it no deadline would hold any more
                self._log("error", "HTTP connections could not be looked at", exc_info=error)

    def _look(self, now: float) -> None:
        total = 0
        sizes: list[tuple[int, Any]] = []
        for connection in list(self._state.connections):
            watched: Any = connection
            size = watched.buffered
            if watched.overdue(now) or watched.stuck(now, size):
                watched.cut()
            elif size:
                total += size
                sizes.append((size, watched))
        if total > BUFFERED:
            self._log("warning", "clients do not take their answers, some are cut", bytes=total)
            sizes.sort(key=lambda pair: pair[0])
            while total > BUFFERED:
                size, watched = sizes.pop()
                watched.cut()
                total -= size

    # -- the end

    def _close_listeners(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    async def drain(self, seconds: float) -> None:
        """No new connections; requests on their way have so long to finish, streams end at once;
        then everything is closed."""
        if self._ticks is None:
            return
        self._ending()
        self._close_listeners()
        for arriving in self._arriving:
            arriving.cancel()
        for connection in list(self._state.connections):
            connection.shutdown()
        loop = self._loop
        deadline = loop.time() + seconds
        state = self._state
        while (state.connections or state.tasks) and loop.time() < deadline:  # noqa: ASYNC110 - once
            await asyncio.sleep(STEP)
        left = list(self._state.tasks)
        if left:
            log.warning("requests were cut off", count=len(left))
        for connection in list(self._state.connections):
            connection.abort()  # type: ignore[union-attr]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1)
        self._ticks.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticks
