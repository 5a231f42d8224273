"""What every request passes: who asks, how much, how often wrongly; and what every answer carries.

Pure ASGI, around everything, as a login goes through here too.
"""

import asyncio
import hmac
import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastagi.agents.lockout import Lockout
from fastagi.api import errors
from fastagi.api.doors import Figures
from fastagi.config.settings import ClientSettings, HttpSettings, Right

BODY_DEADLINE = 30.0  # seconds in which a whole body must be there
LINGER = 5.0  # seconds that what a refused client still sends is taken and thrown away
MOST_ADDRESSES = 10_000  # whose wrong tokens are remembered

# These show no more than that the service is there and what can be asked of it.
OPEN = frozenset({"/", "/docs", "/openapi.json", "/health/live", "/health/ready"})
OPEN_BELOW = "/page/"
# Who may ask here the face says itself, where it is switched on.
AGENT_PHP = "/api/agent.php"

OTHER_SITES = "Pages of other sites may not ask"

_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
_CLOSE = (b"connection", b"close")


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. ``name`` is the actor in events."""

    name: str
    rights: frozenset[Right]


Refusal = tuple[int, str, tuple[tuple[bytes, bytes], ...]]  # status, text, headers

LOCAL = Client("local", frozenset(Right))


def needs(right: Right) -> Callable[[Request], Coroutine[Any, Any, None]]:
    """A dependency of routes: ``dependencies=[Depends(needs(Right.READ))]``; else 403."""

    async def needed(request: Request) -> None:
        if right not in request.state.client.rights:
            raise HTTPException(403, errors.lacking(right))

    return needed


class Attempts:
    """Wrong tokens by address. At most ``MOST_ADDRESSES`` are remembered, the latest ones."""

    def __init__(self, rule: Lockout) -> None:
        self._rule = rule
        self._failed: dict[str, deque[datetime]] = {}

    def __bool__(self) -> bool:
        return bool(self._failed)

    def __len__(self) -> int:
        return len(self._failed)

    def locked(self, address: str, now: datetime) -> timedelta | None:
        """For how long still; None: not locked."""
        times = self._failed.get(_block(address))
        if times is None or not self._rule.locked(times, now):
            return None
        # While locked nothing is counted: the last failure is the one that locked.
        return times[-1] + self._rule.duration - now

    def failed(self, address: str, now: datetime) -> bool:
        """Counts one; whether it locks."""
        address = _block(address)
        times = self._failed.pop(address, None)
        if times is None:
            times = deque(maxlen=self._rule.failures)
        times.append(now)
        self._failed[address] = times
        for oldest in list(islice(self._failed, 2)):  # two for one: it does not stay full for ever
            over = len(self._failed) > MOST_ADDRESSES
            if over or now - self._failed[oldest][-1] > self._rule.memory:
                del self._failed[oldest]
        return self._rule.locked(times, now)


def _block(address: str) -> str:
    """Who has one IPv6 address has the 2**64 beside it too: they count as one."""
    if ":" not in address:
        return address
    found = parsed(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found) if found else address


def address_of(scope: Scope) -> str:
    peer = scope.get("client")
    return peer[0] if peer else ""


def parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_loopback(text: str) -> bool:
    address = parsed(text)
    return address is not None and address.is_loopback


def names_this_machine(host: str) -> bool:
    """``host`` as in the header ``Host``, with or without a port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    name = name.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


# A proxy on this machine speaks for others.
PROXIED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"})


class TooLarge(Exception):
    pass


class Guard:
    """Around ``app``. ``now`` tells the time for lock-outs, aware."""

    def __init__(
        self,
        app: ASGIApp,
        http: HttpSettings,
        figures: Figures,
        log: Any,
        now: Callable[[], datetime],
    ) -> None:
        self._app = app
        self._figures = figures
        self._log = log
        self._now = now
        self._max_body = http.max_body
        self._agent_php = http.agent_php is not None
        self.use(http.tokens)
        self._attempts = Attempts(http.lockout.rule())

    def use(self, tokens: Mapping[str, ClientSettings]) -> None:
        """From now on these: one that is not among them opens nothing any more."""
        self._clients = [
            (digest(of.token.get_secret_value().encode()), Client(name, frozenset(of.rights)))
            for name, of in tokens.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # neither WebSockets nor a lifespan are served
        path: str = scope["path"]
        if path.endswith("/") and not path.endswith("//") and path != "/":
            # The same with and without it: a redirect would lose the body of a POST.
            path = scope["path"] = path[:-1]
        face = errors.face_of(path)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        started = finished = False

        async def answer(message: Message) -> None:
            nonlocal started, finished
            if message["type"] == "http.response.start":
                started = True
                given = message.setdefault("headers", [])
                names = {name for name, _ in given}
                more = [one for one in (_NOSNIFF, _NO_STORE) if one[0] not in names]
                message["headers"] = [*given, *more]
                self._figures.requested(face, message["status"])
            elif not message.get("more_body"):
                finished = True
            await send(message)

        refusal = None
        if path == AGENT_PHP and self._agent_php:
            refusal = self._locked_out(address_of(scope))
            scope.setdefault("state", {})["known"] = self._counted
        elif path not in OPEN and not path.startswith(OPEN_BELOW):
            refusal = self._refusal(scope, headers)
        if b"webhook-id" in headers:
            # However it came here, through a proxy or another service: whoever may make hooks is
            # not whoever may ask here.
            refusal = (403, "Hooks are not delivered to the service itself", ())
        # Without either header there is no body (RFC 9112, 6.3).
        length = headers.get(b"content-length")
        if length == b"0" or (length is None and b"transfer-encoding" not in headers):
            if refusal is not None:
                await _refuse(answer, path, *refusal)
                return
            take = receive
        else:
            if refusal is None and length is not None and _size(length) > self._max_body:
                refusal = (413, self._too_large, ())
            body = b""
            asked = refusal is None  # for the body: who waits to be asked sends it now
            if asked:
                try:
                    async with asyncio.timeout(BODY_DEADLINE):
                        whole = await self._whole(receive)
                except TooLarge:
                    refusal = (413, self._too_large, ())
                except TimeoutError:
                    refusal = (408, "The body took too long", ())
                else:
                    if whole is None:
                        return  # the client is gone
                    body = whole
            if refusal is not None:
                waits = (b"expect" in headers and not asked) or refusal[0] == 408
                thrown_away = None if waits else receive
                await _refuse(answer, path, *refusal, thrown_away=thrown_away, close=True)
                return
            take = _replayed(body, receive)

        try:
            await self._app(scope, take, answer)
        except Exception as error:
            self._log.error(
                "a request failed",
                method=scope["method"],
                # As it came, in ASCII, and without the query.
                path=scope.get("raw_path", b"")[:200].decode("ascii", "replace"),
                exc_info=error,
            )
            if not started:
                await _refuse(answer, path, 500, errors.FAILED)
            elif not finished:
                raise  # the server cuts the connection: what was sent is not all

    # -- who asks

    def _refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Refusal | None:
        """Why not; None: ``scope["state"]["client"]`` is who asks."""
        address = address_of(scope)
        if not self._clients:
            why = _not_local(address, headers)
            if why is not None:
                return 403, why, ()
            scope.setdefault("state", {})["client"] = LOCAL
            return None
        locked = self._locked_out(address)
        if locked is not None:
            return locked
        token = token_in(headers)
        if token is None:
            return 401, "A token is needed", ((b"www-authenticate", b"Bearer"),)
        client = self._counted(token, address)
        if client is None:
            return (
                401,
                "Wrong token",
                ((b"www-authenticate", b'Bearer error="invalid_token"'),),
            )
        scope.setdefault("state", {})["client"] = client
        return None

    def _locked_out(self, address: str) -> Refusal | None:
        left = self._attempts.locked(address, self._now()) if self._attempts else None
        if left is None:
            return None
        seconds = max(1, math.ceil(left.total_seconds()))
        return (
            429,
            "Too many wrong tokens from this address: try again later",
            ((b"retry-after", str(seconds).encode()),),
        )

    def _counted(self, token: bytes, address: str) -> Client | None:
        """Whose token this is; a wrong one is an attempt of that address. All are compared, and
        hashes of one length: time tells nothing."""
        shown = digest(token)
        found = None
        for known, client in self._clients:
            if hmac.compare_digest(known, shown):
                found = client
        if found is None and self._attempts.failed(address, self._now()):
            self._log.warning("too many wrong tokens, locked out", address=address)
        return found

    # -- how much

    @property
    def _too_large(self) -> str:
        return f"The body is larger than {self._max_body} bytes"

    async def _whole(self, receive: Receive) -> bytes | None:
        """The body; None when the client is gone. Raises TooLarge."""
        message = await receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body"):
            if len(body) > self._max_body:
                raise TooLarge
            return body
        parts, size = [body], len(body)
        while True:
            if message["type"] == "http.disconnect":
                return None
            if size > self._max_body:
                raise TooLarge
            if not message.get("more_body"):
                return b"".join(parts)
            message = await receive()
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)


def digest(token: bytes) -> bytes:
    return sha256(token).digest()


def token_in(headers: Mapping[bytes, bytes]) -> bytes | None:
    """One per request, so that one request is one attempt."""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        token = token.strip()
        if scheme.lower() == b"bearer" and token:
            return token
    return headers.get(b"token") or headers.get(b"x-auth-token") or None


def _not_local(address: str, headers: Mapping[bytes, bytes]) -> str | None:
    """Without tokens whoever sits at this machine is trusted: neither other machines, nor pages
    from elsewhere in a browser that runs here."""
    if not is_loopback(address) or not PROXIED.isdisjoint(headers):
        return "Without tokens only this machine is served: set http.tokens"
    host = headers.get(b"host", b"").decode("latin-1")
    if host and not names_this_machine(host):
        return "Without tokens only localhost is served: set http.tokens, or ask for localhost"
    return OTHER_SITES if of_another_site(headers) else None


def of_another_site(headers: Mapping[bytes, bytes]) -> bool:
    """A browser says that a page from elsewhere asks."""
    origin = headers.get(b"origin")
    if origin is not None:
        _, _, asking = origin.partition(b"://")
        if asking.lower() != headers.get(b"host", b"").lower():
            return True
    return headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")


def _size(length: bytes) -> int:
    try:
        return int(length)
    except ValueError:
        return 2**63  # the server has refused such a one already


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(
    send: Send,
    path: str,
    status: int,
    text: str,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    *,
    thrown_away: Receive | None = None,
    close: bool = False,
) -> None:
    """``thrown_away``: the answer is sent at once, and what the client still sends is taken for a
    while: a connection that is closed with bytes unread takes the answer with it (RFC 9112, 9.6).
    """
    body = errors.body_at(path, status, text)
    fixed = [
        (b"content-type", errors.JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    if close:
        fixed.append(_CLOSE)
    await send({"type": "http.response.start", "status": status, "headers": fixed})
    if thrown_away is not None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        body = b""
        try:
            async with asyncio.timeout(LINGER):
                while (await thrown_away()).get("more_body"):
                    pass
        except TimeoutError:
            pass
    await send({"type": "http.response.body", "body": body})
