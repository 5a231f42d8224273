"""Every request passes here: the client is identified, sizes and rates are limited.

Pure ASGI, around everything, as a login goes through here too.
"""

import asyncio
import hmac
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastagi.agents.ports import Figures
from fastagi.api import answers
from fastagi.api.answers import HttpError
from fastagi.api.limits import Attempts, Output, Pace, Repeated, Turns, parsed
from fastagi.api.peer import speaks_for_others
from fastagi.api.server import ABORT, IDENTIFY, OWNER
from fastagi.api.table import Place, Table
from fastagi.config.settings import ClientSettings, HttpSettings, Right

BODY_DEADLINE = 30.0  # seconds in which a whole body must be there
LINGER = 5.0  # seconds that what a refused client still sends is taken and thrown away
SLOW = 1.0  # seconds that an answer waits for an address with too many wrong tokens
AT_WORK = 16  # requests of one client in progress; the next ones wait, phones do not
PIECE = 65536  # bytes of an answer that are sent at once; then the client has to take some
LARGE = 262144  # bytes of an answer that counts in what may wait to be taken

OTHER_SITES = "Pages of other sites may not ask"
TWO_TOKENS = "Two different tokens"

_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
_CLOSE = (b"connection", b"close")
_HSTS = (b"strict-transport-security", b"max-age=31536000")

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")


@dataclass(frozen=True, slots=True)
class Client:
    """The client of a request. ``name`` is the actor in events."""

    name: str
    rights: frozenset[Right]


LOCAL = Client("local", frozenset(Right))

NO_TOKEN = HttpError(401, "A token is needed", ((b"www-authenticate", b"Bearer"),))
WRONG_TOKEN = HttpError(
    401, "Wrong token", ((b"www-authenticate", b'Bearer error="invalid_token"'),)
)
TOO_MANY_CONNECTIONS = HttpError(503, "This client has too many connections")
BUSY = HttpError(503, "Too much is being sent already: try again", answers.RETRY)


class Verdict(NamedTuple):
    """The client or the refusal. ``late``: the answer waits in either case."""

    client: Client | None = None
    refusal: HttpError | None = None
    late: bool = False


def address_of(scope: Scope) -> str:
    peer = scope.get("client")
    return peer[0] if peer else ""


def is_loopback(text: str) -> bool:
    address = parsed(text)
    return address is not None and address.is_loopback


def names_this_machine(host: str) -> bool:
    """``host`` as in the header ``Host``, with or without a port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    name = name.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


# What proxies say of those they speak for.
_FORWARDED = frozenset(
    {
        *(b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip"),
        *(b"true-client-ip", b"cf-connecting-ip", b"cf-ray", b"fastly-client-ip"),
        *(b"x-original-host", b"x-original-url", b"x-envoy-external-address", b"x-arr-log-id"),
    }
)


def proxied(headers: Iterable[bytes]) -> bool:
    """By the names of its headers."""
    return any(name in _FORWARDED or name.startswith(b"x-forwarded") for name in headers)


def malformed(scope: Scope) -> str | None:
    """Why a proxy might understand this request in another way (RFC 9112, 3.2)."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) > 1:
        return "Host is given more than once"
    if hosts and not _HOST.fullmatch(hosts[0]):
        return "Host names no host"
    if not hosts and scope.get("http_version", "1.0") != "1.0":
        return "Host is missing"
    return None


class TooLarge(Exception):
    pass


class Guard:
    """Around ``app``. ``now`` is a monotonic clock, in seconds."""

    def __init__(
        self,
        app: ASGIApp,
        table: Table,
        http: HttpSettings,
        figures: Figures,
        log: Any,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._table = table
        self._figures = figures
        self._log = log
        self._repeated = Repeated(log)
        self._now = now
        self._max_body = http.max_body
        self._proxies = http.proxies
        self._changed: list[Callable[[], None]] = []
        self.use(http.tokens)
        rule = http.lockout
        self._attempts = Attempts(
            rule.failures, rule.within.total_seconds(), rule.for_.total_seconds()
        )
        self._pace = Pace(now)
        self._turns = Turns()
        self._lanes: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(AT_WORK)
        )
        self._output = Output()

    def use(self, tokens: Mapping[str, ClientSettings]) -> None:
        """Replaces the tokens. Streams of a token that is not among them any more end."""
        self._clients = [
            (digest(of.token.get_secret_value().encode()), Client(name, frozenset(of.rights)))
            for name, of in tokens.items()
        ]
        self._rights = {shown: client.rights for shown, client in self._clients}
        for changed in self._changed:
            changed()

    def on_use(self, changed: Callable[[], None]) -> None:
        """``changed`` is called when tokens or rights may have changed."""
        self._changed.append(changed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # neither WebSockets nor a lifespan are served
        place = self._table.place(scope)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        source = self._source(scope, headers)
        answer = _Answer(self, scope, place, send)
        verdict = self._verdict(scope, headers, place, source)
        refusal = verdict.refusal
        if verdict.client is None or verdict.late:
            refusal = await self._in_time(scope, place, verdict, source)
        await self._turns.turn()
        # Without either header there is no body (RFC 9112, 6.3).
        length = headers.get(b"content-length")
        if length != b"0" and (length is not None or b"transfer-encoding" in headers):
            body = await self._body(headers, receive, answer, refusal)
            if body is None:
                return
            receive = _replayed(body, receive)
        elif refusal is not None:
            await _refuse(answer, refusal, close=refusal.status in (400, 503))
            return
        if verdict.client is not None and not place.interface.endless:
            lane = self._lanes[verdict.client.name]
            await lane.acquire()
            answer.lane = lane
        await self._serve(scope, receive, answer)

    async def _in_time(
        self, scope: Scope, place: Place, verdict: Verdict, source: str
    ) -> HttpError | None:
        """Requests without a right token wait; the refusal, if the request is refused."""
        refusal = verdict.refusal
        if verdict.client is None:
            if place.judges and refusal is None:
                scope["state"]["asker"] = Asker(self, scope, source)
            elif not await self._pace.wait(source):
                refusal = self._cut(scope)
        if verdict.late:
            await asyncio.sleep(SLOW)
        return refusal

    async def _body(
        self,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        answer: "_Answer",
        refusal: HttpError | None,
    ) -> bytes | None:
        """The whole body; None: the request was refused, or the client is gone."""
        length = headers.get(b"content-length")
        if refusal is None and length is not None and _size(length) > self._max_body:
            refusal = self._too_large
        asked = refusal is None  # for the body: a client that waits to be asked sends it now
        if asked:
            try:
                async with asyncio.timeout(BODY_DEADLINE):
                    return await self._whole(receive)
            except TooLarge:
                refusal = self._too_large
            except TimeoutError:
                refusal = HttpError(408, "The body took too long")
        assert refusal is not None
        waits = (b"expect" in headers and not asked) or refusal.status == 408
        thrown_away = None if waits else receive
        await _refuse(answer, refusal, thrown_away=thrown_away, close=True)
        return None

    async def _serve(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            # As it came, in ASCII, and without the query.
            shown = scope.get("raw_path", b"")[:200].decode("ascii", "replace")
            method = scope["method"]
            kind = type(error).__name__
            self._repeated(
                *("error", "a request failed", method, answer.interface.name, kind),
                method=method,
                path=shown,
                exc_info=error,
            )
            if not answer.started:
                await _refuse(answer, HttpError(500, answers.FAILED))
            elif not answer.finished:
                raise  # the server cuts the connection: what was sent is not all
        finally:
            answer.over()

    # -- which client

    def _verdict(
        self, scope: Scope, headers: Mapping[bytes, bytes], place: Place, source: str
    ) -> Verdict:
        """Neither client nor refusal: everybody may ask, or the interface says who."""
        if (why := malformed(scope)) is not None:
            return Verdict(refusal=HttpError(400, why))
        if b"webhook-id" in headers:
            # However it came here, through a proxy or another service: the right to make hooks is
            # not the right to use the interfaces.
            return Verdict(refusal=HttpError(403, "Hooks are not delivered to the service itself"))
        if place.is_open or place.judges:
            return Verdict()
        state = scope["state"]
        if not self._clients:
            why = _not_direct(scope, headers)
            if why is not None:
                return Verdict(refusal=HttpError(403, why))
            verdict, shown = Verdict(LOCAL), b""
        else:
            tokens = tokens_in(scope)
            if len(tokens) > 1:
                return Verdict(refusal=HttpError(400, TWO_TOKENS))
            if not tokens:
                return Verdict(refusal=NO_TOKEN)
            shown = digest(tokens.pop())
            verdict = self.judge(shown, source)
        client = verdict.client
        if client is not None:
            if not self._identified(scope, client):
                return Verdict(client, TOO_MANY_CONNECTIONS)
            state["client"] = client
            state["still"] = partial(self._still, shown)
        return verdict

    def judge(
        self, shown: bytes, source: str, own: bytes | None = None, *, counts: bool = True
    ) -> Verdict:
        """Whose token (its hash) this is. ``own``: the hash of agent.php's. ``counts``: a wrong
        one is an attempt of that address.

        A right token is never refused for the wrong ones of somebody else. But nobody learns fast
        from a suspect address which one is right: answers come late, to tokens that were not seen
        to be right there before, too.
        """
        client = self._whose(shown)
        if client is None and own is not None and hmac.compare_digest(own, shown):
            client = OWN
        now = self._now()
        left = self._attempts.suspect(source, now)
        if client is not None:
            familiar = self._attempts.familiar(source, shown)
            return Verdict(client, late=left is not None and not familiar)
        if left is not None:
            seconds = str(max(1, math.ceil(left))).encode()
            text = "Too many wrong tokens from this address: try again later"
            return Verdict(refusal=HttpError(429, text, ((b"retry-after", seconds),)), late=True)
        if not counts:
            return Verdict(refusal=WRONG_TOKEN, late=True)
        if self._attempts.failed(source, now):
            self._repeated(
                *("warning", "too many wrong tokens, the next ones are answered late", source),
                address=source,
            )
        return Verdict(refusal=WRONG_TOKEN)

    def _whose(self, shown: bytes) -> Client | None:
        """All are compared, and hashes of one length: the time it takes reveals nothing."""
        found = None
        for known, client in self._clients:
            if hmac.compare_digest(known, shown):
                found = client
        return found

    def _still(self, shown: bytes) -> frozenset[Right]:
        """The rights that the client of an open stream has now."""
        if not self._clients:
            return frozenset() if shown else LOCAL.rights
        return self._rights.get(shown, frozenset())

    def _source(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
        """The address that asks: behind a proxy of ours the one that the proxy names."""
        address = address_of(scope)
        if not self._proxies:
            return address
        forwarded = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        while self._is_proxy(address) and forwarded:
            before = parsed(forwarded.pop().strip())  # the last one was added by the proxy
            if before is None:
                break
            address = str(before)
        return address

    def _is_proxy(self, address: str) -> bool:
        found = parsed(address)
        return found is not None and any(found in network for network in self._proxies)

    def _identified(self, scope: Scope, client: Client) -> bool:
        identify = (scope.get("extensions") or {}).get(IDENTIFY)
        return identify is None or identify(client.name, bool(self._clients))

    @staticmethod
    def _cut(scope: Scope) -> HttpError:
        """The connection, where that can be done; else it is a refusal."""
        abort = (scope.get("extensions") or {}).get(ABORT)
        if abort is not None:
            abort()
        return HttpError(429, "Too many requests from this address", ((b"retry-after", b"10"),))

    # -- how much

    @property
    def _too_large(self) -> HttpError:
        return HttpError(413, f"The body is larger than {self._max_body} bytes")

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


OWN = Client("agent.php", frozenset({Right.CONTROL}))  # shows agent.php's own token


class Asker:
    """Given to an interface that says itself who may ask (``state["asker"]``)."""

    def __init__(self, guard: Guard, scope: Scope, source: str) -> None:
        self._guard = guard
        self._scope = scope
        self.source = source

    async def judge(self, token: bytes, own: bytes | None, *, counts: bool) -> Client | HttpError:
        """Whose token it is, or the answer; when it is time for it."""
        shown = digest(token)
        verdict = self._guard.judge(shown, self.source, own, counts=counts)
        client = verdict.client
        refusal = verdict.refusal
        if client is None and not await self._guard._pace.wait(self.source):
            refusal = self._guard._cut(self._scope)
        if verdict.late:
            await asyncio.sleep(SLOW)
        if client is not None:
            if self._guard._identified(self._scope, client):
                return client
            return TOO_MANY_CONNECTIONS
        assert refusal is not None
        return refusal

    def known(self, name: str) -> None:
        """The client is allowed by its address alone."""
        self._guard._identified(self._scope, Client(name, frozenset()))

    async def nobody(self) -> None:
        """The request shows no token: the answer waits its turn."""
        if not await self._guard._pace.wait(self.source):
            self._guard._cut(self._scope)

    def log(self, level: str, event: str, *kind: str, **fields: Any) -> None:
        """A log line that any client can cause."""
        self._guard._repeated(level, event, *kind, **fields)


class _Answer:
    """The way back: adds headers, counts, and sends no more than the client takes."""

    def __init__(self, guard: Guard, scope: Scope, place: Place, send: Send) -> None:
        self.interface = place.interface
        self.started = self.finished = False
        self.head = scope["method"] == "HEAD"
        self.lane: asyncio.Semaphore | None = None
        self._guard = guard
        self._scope = scope
        self._send = send
        self._secure = scope.get("scheme") == "https"
        self._start: Message | None = None  # of a large answer, until its first bytes are there
        self._size = 0
        self._counted: object = None
        self._refused = False

    async def __call__(self, message: Message) -> None:
        if self._refused:
            return
        if message["type"] == "http.response.start":
            await self._begin(message)
            return
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self._start is not None:
            whole = body.obj if isinstance(body, memoryview) else body
            if not self._guard._output.begin(self._client, whole, self._size):
                self._start, self._refused = None, True
                await _refuse(self, BUSY, send=self._begin_refusal)
                return
            self._counted = whole
            start, self._start = self._start, None
            self._guard._figures.requested(self.interface.name, start["status"])
            await self._send(start)
        if not more:
            self.finished = True
        if self.head:
            body = b""
        if len(body) > PIECE:
            view = memoryview(body)
            for begin in range(0, len(body), PIECE):
                part = view[begin : begin + PIECE]
                last = not more and begin + PIECE >= len(body)
                await self._send(
                    {"type": "http.response.body", "body": bytes(part), "more_body": not last}
                )
            return
        given = {"type": "http.response.body", "body": bytes(body), "more_body": more}
        await self._send(given)

    @property
    def _client(self) -> str:
        client = self._scope.get("state", {}).get("client")
        return client.name if client is not None else ""

    def _leave(self) -> None:
        """The work is done: a client that reads slowly keeps no other request waiting."""
        if self.lane is not None:
            self.lane.release()
            self.lane = None

    async def _begin(self, message: Message) -> None:
        self.started = True
        self._leave()
        given = message.setdefault("headers", [])
        names = {name for name, _ in given}
        more = [one for one in (_NOSNIFF, _NO_STORE) if one[0] not in names]
        if self._secure:
            more.append(_HSTS)
        message["headers"] = [*given, *more]
        for name, value in given:
            if name == b"content-length" and not self.head and int(value) > LARGE:
                self._start, self._size = message, int(value)
                return
        self._guard._figures.requested(self.interface.name, message["status"])
        await self._send(message)

    async def _begin_refusal(self, message: Message) -> None:
        self._refused = False
        await self(message)
        self._refused = True

    def over(self) -> None:
        self._leave()
        if self._counted is not None:
            self._guard._output.end(self._client, self._counted, self._size)
            self._counted = None


def digest(token: bytes) -> bytes:
    return sha256(token).digest()


def tokens_in(scope: Scope) -> set[bytes]:
    """The different tokens that the headers show."""
    found = set()
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                found.add(token.strip())
        elif name in (b"token", b"x-auth-token"):
            found.add(value)
    found.discard(b"")
    return found


def _not_direct(scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
    """Without tokens whoever sits at this machine is trusted: neither other machines, nor pages
    from elsewhere in a browser that runs here, nor a proxy that speaks for others.

    A proxy that says nothing of itself, and calls us by the name that it was given, is known by
    its HTTP/1.0 or by the account that it runs as.
    """
    if not is_loopback(address_of(scope)) or proxied(headers):
        return "Without tokens only this machine is served: set http.tokens"
    host = headers.get(b"host", b"").decode("latin-1")
    if host and not names_this_machine(host):
        return "Without tokens only localhost is served: set http.tokens, or ask for localhost"
    if of_another_site(headers):
        return OTHER_SITES
    version = scope.get("http_version", "1.1")
    if version != "1.1":  # nothing else is known of those that speak for nobody but themselves
        return f"Without tokens HTTP/{version} is not served, which proxies speak: set http.tokens"
    owner = (scope.get("extensions") or {}).get(OWNER)
    account = None if owner is None else speaks_for_others(owner())
    if account is not None:
        return (
            f"Without tokens the account {account} is not served, which may be a proxy's: "
            "set http.tokens"
        )
    return None


def of_another_site(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page of another site sent this."""
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
    answer: _Answer,
    error: HttpError,
    *,
    thrown_away: Receive | None = None,
    close: bool = False,
    send: Send | None = None,
) -> None:
    """``thrown_away``: the answer is sent at once, and what the client still sends is taken for a
    while: a connection that is closed with bytes unread takes the answer with it (RFC 9112, 9.6).
    """
    send = send or answer
    body = answer.interface.error_body(error.status, str(error))
    fixed = [
        (b"content-type", answers.JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        *error.headers,
    ]
    if close:
        fixed.append(_CLOSE)
    await send({"type": "http.response.start", "status": error.status, "headers": fixed})
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
