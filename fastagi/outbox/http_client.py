"""HTTP to addresses that strangers chose: hooks' receivers, and nothing inside the house.

Whoever may make a hook chooses where this machine sends requests to (server-side request forgery).
So a name is looked up here, every address it has is judged, and the connection is made to the very
address that was judged: there is no second look-up that could say otherwise (DNS rebinding).

It is httpcore2, which httpx2 stands on, without httpx2 around it: no redirects, no cookies, no
proxies, no second reading of the URL and no log line with one in it, at half the time.
"""

import asyncio
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, cast

import httpcore2
import idna

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Header = tuple[bytes, bytes]
Place = tuple[str, int]  # host and port

MAX_URL = 2000  # characters
MAX_BODY = 4096  # bytes of an answer's body that are read; of a longer one the connection is closed
BODY_SECONDS = 0.5  # for the rest of the body, once the status is known
MAX_ANSWER = 256 * 1024  # bytes from one request to the next, whatever they are
MAX_LOOKUPS = 200  # at once; each takes a thread
MAX_TRIED = 4  # addresses of one name
KEEP_SECONDS = 30.0  # an idle connection is kept
KEEP_CONNECTIONS = 50

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?", re.ASCII)
_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}", re.ASCII)
# As the URL standard has it ("ends in a number"): what a resolver would take for an address.
_NUMERIC = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*", re.ASCII)

# The registries of special-purpose addresses (IANA, RFC 6890 and its followers), not Python's
# ``is_private``: that has changed between versions.
_INSIDE_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; where clouds keep their metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_OUTSIDE_6 = IPv6Network("2000::/3")  # all that is global unicast; ULA, link-local … are not in it
_INSIDE_6 = (
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),
)
_NAT64 = IPv6Network("64:ff9b::/96")
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

OURS = "the service itself is there: hooks are not sent to it"
# The same whether there is no such name or one that leads inside.
NAMED = "the host's name leads to no address that hooks may reach (webhooks.allow)"


class InvalidUrl(ValueError):
    """Nothing can be sent to this URL; the text says why, and does not repeat it."""


class Failed(Exception):
    """No answer; the text says why, in words for the delivery log, which whoever made the hook can
    read. ``detail`` is for the service's own log: what a name leads to in here is nobody else's
    business."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail or text


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, read once. ``host`` is a lower-case ASCII name or an address in its usual form."""

    secure: bool
    host: str
    port: int
    path: str
    query: str | None
    address: Address | None  # when the host is one

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` with the query, as it is sent."""

    method: str
    target: Target
    path: str
    headers: Sequence[Header]
    body: bytes | None = None


@lru_cache(maxsize=4096)
def target(url: str) -> Target:
    """Raises InvalidUrl."""
    if len(url) > MAX_URL:
        raise InvalidUrl(f"a URL has at most {MAX_URL} characters")
    if "#" in url:
        raise InvalidUrl("a URL with a fragment (#) cannot be called")
    match = _URL.fullmatch(url)
    if match is None or (scheme := match[1].lower()) not in ("http", "https"):
        raise InvalidUrl("a URL begins with http:// or https://")
    authority, path, query = match[2], match[3], match[4]
    if not all("!" <= char <= "~" for char in path + (query or "")):
        raise InvalidUrl("only printable ASCII characters can stand in a URL")
    if "@" in authority:
        raise InvalidUrl("a URL with a user or a password is not called")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise InvalidUrl("this URL's host or port cannot be read")
    secure = scheme == "https"
    port = int(parts[2]) if parts[2] else 443 if secure else 80
    if not 1 <= port <= 65535:
        raise InvalidUrl("a port is a number from 1 to 65535")
    host, address = _host(parts[1])
    return Target(secure, host, port, path or "/", query, address)


def _host(text: str) -> tuple[str, Address | None]:
    if not text:
        raise InvalidUrl("a URL needs a host")
    if text.startswith("["):
        try:
            six = IPv6Address(text[1:-1])
        except ValueError:
            raise InvalidUrl("the host is no valid IPv6 address") from None
        if six.scope_id is not None:
            raise InvalidUrl("an address with a zone cannot be called")
        return str(six), six
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True).decode("ascii")
        except UnicodeError:
            raise InvalidUrl("the host is no valid name") from None
    name = text.lower()
    bare = name.removesuffix(".")
    if not _NAME.fullmatch(bare):
        raise InvalidUrl("the host is no valid name")
    if _NUMERIC.fullmatch(bare.rpartition(".")[2]):
        # 2130706433, 0x7f.1 and 0177.0.0.1 are all taken for 127.0.0.1 somewhere: so here, too.
        try:
            four = IPv4Address(socket.inet_aton(bare))
        except OSError:
            raise InvalidUrl("the host is no valid IPv4 address") from None
        return str(four), four
    return name, None


def permitted(address: Address, allow: Sequence[Network]) -> bool:
    """Whether hooks may reach this address: those of the world, and those in ``allow``.

    An IPv6 address that stands for an IPv4 one (mapped, 6to4, NAT64) is judged as that one.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return permitted(address.ipv4_mapped, allow)
    if any(address in network for network in allow):
        return True
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _INSIDE_4)
    if address.sixtofour is not None:
        return permitted(address.sixtofour, allow)
    if address in _NAT64:
        return permitted(IPv4Address(int(address) & 0xFFFFFFFF), allow)
    return address in _OUTSIDE_6 and not any(address in network for network in _INSIDE_6)


def refusal(url: str, allow: Sequence[Network], own: Sequence[Place] = ()) -> str | None:
    """Why nothing may be sent there, as far as the URL itself tells; None: it may. ``own``: where
    the service itself listens, and its Asterisks' managers: never there, whatever is allowed."""
    try:
        goal = target(url)
    except InvalidUrl as unfit:
        return str(unfit)
    if goal.address is not None:
        if not permitted(goal.address, allow):
            return _not_allowed(goal.address)
        return OURS if _is_own(goal.address, goal.port, own) else None
    bare = goal.host.removesuffix(".")
    if bare == "localhost" or bare.endswith(".localhost"):  # RFC 6761: loopback, always
        if not any(permitted(address, allow) for address in _LOOPBACK):
            return _not_allowed(_LOOPBACK[0])
        if _is_own(_LOOPBACK[0], goal.port, own):
            return OURS
    return None


def _is_own(address: Address, port: int, own: Sequence[Place]) -> bool:
    """Those of the service at this machine: whatever address it has, a port of ours may be reached
    by it. And those elsewhere, which are meant by their address."""
    hosts = [host for host, its in own if its == port]
    return bool(hosts) and (is_here(address) or str(_plain_address(address)) in hosts)


def is_here(address: Address) -> bool:
    """Whether a connection to it ends at this machine."""
    address = _plain_address(address)
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))  # only an address of this machine can be bound to
    except OSError:
        return False
    return True


def _plain_address(address: Address) -> Address:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _not_allowed(address: Address) -> str:
    # A mapped one is written differently from one Python to the next.
    return f"address {_plain_address(address)} is not allowed (webhooks.allow)"


@dataclass(frozen=True, slots=True)
class Answer:
    """``retry_after``: seconds the receiver asks for, 0 when it does not. To be closed."""

    status: int
    retry_after: float
    _response: httpcore2.Response
    _connections: "_Connections"

    async def close(self) -> None:
        """Reads what is left of a short body, so that the connection can be used again."""
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async with aclosing(self._response.aiter_stream()) as chunks:
                    async for chunk in chunks:
                        size += len(chunk)
                        if size > MAX_BODY:
                            break
        except (TimeoutError, Failed, httpcore2.NetworkError, httpcore2.ProtocolError):
            pass  # what it was about is known
        finally:
            try:
                await self._response.aclose()
            finally:
                await self._connections.release()


class HttpClient:
    """Sends requests. Connections are kept for the next to the same scheme, host and port.

    ``own``: where nothing is sent, see ``refusal``; a host may be a name here."""

    def __init__(self, own: Sequence[Place] = ()) -> None:
        self._own = tuple(own)
        self._context: ssl.SSLContext | None = None
        self._loading = asyncio.Lock()
        self._names = _Names()
        self._connections: _Connections | None = None

    async def send(self, request: Request, timeout: float, allow: tuple[Network, ...]) -> Answer:
        """One request, never a second for its answer. ``timeout``: seconds until the status is
        there, with look-up and connecting.

        Raises Failed.
        """
        goal = request.target
        extensions: dict[str, Any] = {"timeout": {"connect": timeout}}
        if goal.host.endswith("."):
            extensions["sni_hostname"] = goal.host[:-1]  # certificates have no final dot
        sent = httpcore2.Request(
            request.method,
            httpcore2.URL(
                scheme="https" if goal.secure else "http",
                host=goal.host,
                port=goal.port,
                target=request.path,
            ),
            headers=request.headers,
            content=request.body,
            extensions=extensions,
        )
        try:
            async with asyncio.timeout(timeout):
                connections = await self._current(allow)
                connections.users += 1
                try:
                    response = await _exchange(connections.pool, sent)
                except BaseException:
                    await connections.release()
                    raise
        except TimeoutError:
            raise Failed(f"no answer within {timeout:g} s") from None
        except httpcore2.RemoteProtocolError as error:
            if "disconnected" in str(error):
                raise Failed("the connection was closed without an answer") from None
            raise Failed("the answer is not HTTP") from None
        except httpcore2.LocalProtocolError:
            raise Failed("the request cannot be sent as HTTP") from None
        except httpcore2.NetworkError:
            raise Failed("the connection broke") from None
        return Answer(response.status, _retry_after(response.headers), response, connections)

    async def close_idle(self) -> None:
        """Closes what has been idle for long; to be called now and then."""
        held = self._connections
        if held is not None and not held.users and time.monotonic() > held.used + KEEP_SECONDS:
            self._connections = None
            await held.retire()

    async def close(self) -> None:
        held, self._connections = self._connections, None
        if held is not None:
            await held.retire()

    async def _current(self, allow: tuple[Network, ...]) -> "_Connections":
        if self._context is None:
            async with self._loading:
                if self._context is None:
                    # Reads the authorities' certificates (those of SSL_CERT_FILE, when that is
                    # set): tens of milliseconds, too long for the loop.
                    self._context = await asyncio.to_thread(ssl.create_default_context)
        held = self._connections
        if held is None or held.allow != allow:
            # A connection to what is not allowed any more must not be used again.
            guard = _Guard(allow, self._own, self._names)
            fresh = self._connections = _Connections(allow, self._context, guard)
            if held is not None:
                await held.retire()
            return fresh
        return held


class _Connections:
    """Connections made under one ``allow``; closed when the last request over them has ended."""

    def __init__(
        self, allow: tuple[Network, ...], context: ssl.SSLContext, guard: "_Guard"
    ) -> None:
        self.allow = allow
        self.users = 0
        self.used = time.monotonic()
        self.pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            max_connections=None,  # who sends keeps to limits of its own
            max_keepalive_connections=KEEP_CONNECTIONS,
            keepalive_expiry=KEEP_SECONDS,
            network_backend=guard,
        )
        self._retired = False

    async def release(self) -> None:
        self.users -= 1
        self.used = time.monotonic()
        if self._retired and not self.users:
            await self.pool.aclose()

    async def retire(self) -> None:
        self._retired = True
        if not self.users:
            await self.pool.aclose()


# Whether this task's request has opened a connection of its own.
_opened: ContextVar[list[str] | None] = ContextVar("opened", default=None)


async def _exchange(
    pool: httpcore2.AsyncConnectionPool, request: httpcore2.Request
) -> httpcore2.Response:
    """A receiver may close a kept connection in the moment of our request; that is not a failure
    of this request, so it goes over another one."""
    while True:
        opened: list[str] = []
        token = _opened.set(opened)
        try:
            return await pool.handle_async_request(request)
        except (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError):
            if opened:
                raise
        finally:
            _opened.reset(token)


def _retry_after(headers: Sequence[Header]) -> float:
    for name, value in headers:
        if name.lower() == b"retry-after" and re.fullmatch(rb"[0-9]{1,9}", value):
            return float(value)
    return 0.0


class _Guard(httpcore2.AsyncNetworkBackend):
    """Looks up, judges and connects."""

    def __init__(self, allow: tuple[Network, ...], own: tuple[Place, ...], names: "_Names") -> None:
        self._allow = allow
        self._own = own
        self._names = names

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: object = None,
    ) -> httpcore2.AsyncNetworkStream:
        named = False
        try:
            found: Sequence[Address] = [ip_address(host)]
        except ValueError:
            found, named = await self._names.addresses(host), True
        allowed = [address for address in found if permitted(address, self._allow)]
        own = await self._resolved(port) if allowed else ()
        chosen = [address for address in allowed if not _is_own(address, port, own)][:MAX_TRIED]
        if not chosen:
            why = OURS if allowed else _not_allowed(found[0])
            raise Failed(NAMED, why) if named else Failed(why)
        if (opened := _opened.get()) is not None:
            opened.append(host)
        loop = asyncio.get_running_loop()
        share = (timeout or 10.0) / len(chosen)
        error = ""
        for address in chosen:
            try:
                async with asyncio.timeout(share):
                    # A numeric host is never looked up.
                    _, link = await loop.create_connection(
                        _Link, str(address), port, flags=socket.AI_NUMERICHOST
                    )
                return link
            except TimeoutError:
                error = error or f"no connection within {share:g} s"
            except OSError as failure:
                error = error or os.strerror(failure.errno or 0).lower()
        raise Failed(error)

    async def _resolved(self, port: int) -> Sequence[Place]:
        """Our own places with this port; names become addresses."""
        places: list[Place] = []
        for host, its in self._own:
            if its != port:
                continue
            places.append((host, its))
            with suppress(ValueError):
                ip_address(host)
                continue
            with suppress(Failed):
                places += [(str(address), its) for address in await self._names.addresses(host)]
        return places

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: object = None
    ) -> httpcore2.AsyncNetworkStream:
        raise Failed("not a network address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Names:
    """Looks names up, each in a thread of its own: the loop's few would all be taken by a few
    names whose servers are away, and the whole service would wait for them."""

    def __init__(self) -> None:
        self._asking: dict[str, asyncio.Future[Sequence[Address]]] = {}

    async def addresses(self, host: str) -> Sequence[Address]:
        """At least one. Raises Failed."""
        future = self._asking.get(host)
        if future is None:
            if len(self._asking) >= MAX_LOOKUPS:
                raise Failed("too many names are being looked up")
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            self._asking[host] = future
            threading.Thread(
                target=self._ask, args=(loop, host, future), name="look up", daemon=True
            ).start()
        return await asyncio.shield(future)

    def _ask(
        self,
        loop: asyncio.AbstractEventLoop,
        host: str,
        future: "asyncio.Future[Sequence[Address]]",
    ) -> None:
        found: list[Address] = []
        error = "does not resolve"
        try:
            for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
                address = ip_address(entry[4][0])
                if address not in found:
                    found.append(address)
        except (OSError, ValueError) as failure:
            if isinstance(failure, socket.gaierror) and failure.strerror:
                error += f": {failure.strerror.lower()}"

        def settle() -> None:
            self._asking.pop(host, None)
            if future.done():
                return
            if found:
                future.set_result(found)
            else:
                future.set_exception(Failed(NAMED, f"the name {host} {error}"))
                future.exception()  # who asked may have gone

        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle)


class _Link(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One connection. The time limits are the caller's; those of httpcore2 do not count here."""

    _READ_AHEAD = 64 * 1024

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._over = False
        self._broken = False
        self._paused = False
        self._taken = 0  # bytes since the last request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > self._READ_AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._ring()

    def eof_received(self) -> bool:
        self._over = True
        self._ring()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._broken = self._broken or exc is not None
        self._ring()

    def _ring(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._received and not self._over:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if not self._received:
            if self._broken:
                raise httpcore2.ReadError("reset")
            return b""
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        self._taken += len(data)
        if self._taken > MAX_ANSWER:
            raise Failed("the answer is too long")
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._over:
            raise httpcore2.WriteError("closed")
        self._taken = 0
        self._transport.write(buffer)

    async def aclose(self) -> None:
        # Nothing of ours is under way, and a farewell (TLS has one) might be waited for.
        self._over = True
        self._transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            if self._received:  # said in the clear, it must not be taken for the answer
                raise Failed("TLS failed: the receiver does not speak it")
            transport = await asyncio.get_running_loop().start_tls(
                self._transport, self, ssl_context, server_hostname=server_hostname
            )
        except ssl.SSLCertVerificationError as error:
            self._transport.abort()
            raise Failed(f"certificate refused: {_plain(error.verify_message)}") from None
        except (OSError, ssl.SSLError) as error:
            self._transport.abort()
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            text = _plain(reason or "the connection was closed").replace("_", " ").lower()
            raise Failed(f"TLS failed: {text}") from None
        except BaseException:
            self._transport.abort()
            raise
        if transport is None or self._over:
            raise Failed("TLS failed: the connection was closed")
        self._transport = transport
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # an idle connection on which something comes has ended
            return self._over or bool(self._received)
        return self._transport.get_extra_info(info)


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:200]
