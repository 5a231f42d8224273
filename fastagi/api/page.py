"""The live page at ``/``: its files, what it shows and what its buttons do.

The page follows the event stream and asks here again for the agents that an event touches, so it
shows the store and nothing that it worked out by itself. Its files hold no data and need no token.
"""

import asyncio
import hashlib
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fastagi.agents import errors
from fastagi.agents.commands import Actor, Command, LogOff, Pause, PauseReason, Unpause
from fastagi.agents.model import Change
from fastagi.agents.service import StoreUnavailable
from fastagi.api.doors import AgentView, Doors, StoredEvent
from fastagi.api.face import BadBody, as_text, json_fields, sent_text
from fastagi.api.fixed import Fixed, has
from fastagi.config.settings import Right
from fastagi.contract import Outcome, Source

FOLDER = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing written into the page itself, and in nobody's frame.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked for every time: a new version shows at once
}
LIVE_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

LATEST = 50  # events
AT_ONCE = 500  # agents asked for by number in one request
CHUNK = 500  # agents written at a time: other threads run between two
PATIENCE = 20.0  # seconds for the store to answer

WORDS = {
    Outcome.NO_SUCH_AGENT: "There is no agent {agent}.",
    Outcome.NOT_LOGGED_IN: "Agent {agent} is not logged in.",
    Outcome.IN_CALL: "Agent {agent} is in a queue call: try again when it has ended.",
    Outcome.NO_SUCH_REASON: "There is no such pause reason.",
    Outcome.PAUSE_SPENT: "Agent {agent} has used up today's time for this reason.",
    Outcome.QUEUE_REFUSED: "Asterisk refused it, and nothing was changed. The log says why.",
    Outcome.UNAVAILABLE: "Asterisk or the database is away, and nothing was changed. Try again.",
    Outcome.BUSY: "The service is busy, and nothing was changed. Try again.",
}
UNSETTLED = "Asterisk gave no answer: it may have happened. The page shows it when it is known."
STORE_AWAY = "The database is away. Try again."

T = TypeVar("T")

_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)


class Files:
    """The page's files, as an ASGI application."""

    def __init__(self) -> None:
        found = {
            f"/page/{path.name}": Fixed(path.read_bytes(), TYPES[path.suffix], HEADERS)
            for path in FOLDER.iterdir()
            if path.suffix in TYPES
        }
        self._files = {"/": found["/page/index.html"], **found}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file: ASGIApp = self._files.get(scope["path"]) or _told(404, "There is no such file.")
        await file(scope, receive, send)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Snapshot:
    """The agents as one JSON object, and a digest of it."""

    text: bytes
    digest: bytes

    @classmethod
    def read(cls, doors: Doors, numbers: Sequence[str] | None = None) -> "Snapshot":
        """Blocks: a second for ten thousand agents. Raises StoreUnavailable."""
        # The event's number comes first: what happens in between is told by both, never by none.
        seq = doors.reading.last_seq()
        agents = doors.reading.agents(numbers)
        parts = [
            orjson.dumps(
                [
                    _agent(view) | {"known": doors.known(view)}
                    for view in agents[begin : begin + CHUNK]
                ]
            )[1:-1]
            for begin in range(0, len(agents), CHUNK)
        ]
        whole = b'{"seq":%d,"agents":[%b]}' % (seq, b",".join(parts))
        return cls(whole, hashlib.blake2b(whole, digest_size=12).digest())


class Snapshots:
    """Of all agents, one at a time. Those who wait share the next one: when the service is back
    after a restart, all pages ask at once."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._lock = asyncio.Lock()
        self._asked = 0
        self._waiting = 0
        self._last: tuple[int, Snapshot] | None = None  # and the last request it was begun after
        self._sent: weakref.ref[Snapshot] | None = None  # as long as somebody still takes it

    async def latest(self) -> Snapshot:
        """Nothing in it is older than this call. Raises StoreUnavailable."""
        self._asked += 1
        mine = self._asked
        self._waiting += 1
        try:
            async with self._lock:
                if self._last is None or self._last[0] < mine:
                    upto = self._asked
                    snapshot = await asyncio.to_thread(Snapshot.read, self._doors)
                    before = self._sent() if self._sent is not None else None
                    if before is not None and before.digest == snapshot.digest:
                        snapshot = before  # the same bytes need not be there twice
                    self._sent = weakref.ref(snapshot)
                    self._last = upto, snapshot
                return self._last[1]
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._last = None  # it is large


class Joined(Response):
    """A snapshot, which all who ask share, and what is told to this client alone."""

    def __init__(self, snapshot: Snapshot, head: bytes, headers: Mapping[str, str]) -> None:
        length = str(len(snapshot.text) + len(head) - 1)  # two braces go, a comma comes
        super().__init__(
            media_type="application/json", headers={**headers, "Content-Length": length}
        )
        self._snapshot = snapshot
        self._head = head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        for body, more in (
            (memoryview(self._snapshot.text)[:-1], True),
            (b"," + self._head[1:], False),
        ):
            await send({"type": "http.response.body", "body": body, "more_body": more})


def routes(doors: Doors) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    snapshots = Snapshots(doors)
    plans = 0  # of agents in a call: how often they have changed, of which no event tells

    def changed(change: Change) -> None:
        nonlocal plans
        if change.before.plan is not change.after.plan:
            plans += 1

    doors.service.changed.append(changed)

    def rests_on() -> dict[str, Any]:
        return doors.links() | {"plans": plans}

    # -- what is shown

    @router.get("/live/agents")
    async def agents(
        request: Request, number: Annotated[list[str] | None, Query()] = None
    ) -> Response:
        if refusal := _lacks(request, Right.READ):
            return refusal
        if number is not None and len(number) > AT_ONCE:
            return _told(400, f"At most {AT_ONCE} agents by number in one request.")
        try:
            reasons = await doors.service.reasons()
            async with asyncio.timeout(PATIENCE):
                if number is None:
                    snapshot = await snapshots.latest()
                else:
                    wanted = [one for one in number if _NUMBER.fullmatch(one)]
                    snapshot = await asyncio.to_thread(Snapshot.read, doors, wanted)
        except (StoreUnavailable, errors.Unavailable, TimeoutError) as error:
            return _store_away(doors, error)
        client = request.state.client
        head = orjson.dumps(
            {
                "client": {"name": client.name, "rights": sorted(client.rights)},
                "reasons": [{"code": r.code, "name": r.name} for r in reasons],
                "links": rests_on(),
            }
        )
        etag = _etag(head + snapshot.digest)
        headers = LIVE_HEADERS | {"ETag": etag}
        if has(request.scope, etag):
            return Response(status_code=304, headers=headers)
        return Joined(snapshot, head, headers)

    @router.get("/live/links")
    async def links(request: Request) -> Response:
        """What the page asks for every few seconds: no event tells that an Asterisk is away."""
        if refusal := _lacks(request, Right.READ):
            return refusal
        body = orjson.dumps(rests_on())
        return Response(body, media_type="application/json", headers=LIVE_HEADERS)

    @router.get("/live/events")
    async def events(request: Request) -> Response:
        if refusal := _lacks(request, Right.READ):
            return refusal

        def read() -> bytes:
            latest = doors.reading.latest_events(LATEST)
            return orjson.dumps({"events": [_event(stored) for stored in latest]})

        try:
            body = await _in_thread(read)
        except (StoreUnavailable, TimeoutError) as error:
            return _store_away(doors, error)
        return Response(body, media_type="application/json", headers=LIVE_HEADERS)

    # -- the buttons

    async def carried_out(request: Request, number: str, command: Command) -> Response:
        if not _NUMBER.fullmatch(number):
            return _refused(number, errors.NoSuchAgent(number))
        try:
            change = await doors.service.execute(command)
        except errors.Refused as refusal:
            return _refused(number, refusal)
        return Response(
            orjson.dumps({"outcome": change.outcome.value}),
            media_type="application/json",
            headers=LIVE_HEADERS,
        )

    def asked(request: Request, number: str) -> dict[str, Any]:
        return {
            "id": doors.service.new_id(),
            "agent": number,
            "source": Source.API,
            "actor": Actor(name=request.state.client.name),
        }

    def stopped(request: Request) -> Response | None:
        if refusal := _lacks(request, Right.CONTROL):
            return refusal
        # Another site's page cannot send this type without being asked first, and is not allowed
        # to: so nobody else's page presses these buttons where no token is needed.
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return _told(415, "Send application/json.")
        return None

    @router.post("/live/agents/{number}/pause")
    async def pause(request: Request, number: str) -> Response:
        if refusal := stopped(request):
            return refusal
        try:
            given = json_fields(await sent_text(request.scope, request.receive))
        except BadBody:
            return _told(400, 'Send a JSON object: {"reason": "1"}.')
        reason_given = given.get("reason")
        wanted = "" if reason_given is None else as_text(reason_given)
        if wanted is None:
            return _refused(number, errors.NoSuchReason())
        try:
            # Without a reason too, as a program may: then it has no name.
            reason = await doors.service.reason(wanted) if wanted else PauseReason("", "")
        except errors.Refused as away:
            return _refused(number, away)
        if reason is None:
            return _refused(number, errors.NoSuchReason())
        when = doors.pause().when_in_call
        command = Pause(**asked(request, number), reason=reason, when_in_call=when)
        return await carried_out(request, number, command)

    @router.post("/live/agents/{number}/unpause")
    async def unpause(request: Request, number: str) -> Response:
        if refusal := stopped(request):
            return refusal
        return await carried_out(request, number, Unpause(**asked(request, number)))

    @router.post("/live/agents/{number}/logoff")
    async def logoff(request: Request, number: str) -> Response:
        if refusal := stopped(request):
            return refusal
        when = doors.login().logoff_in_call
        command = LogOff(**asked(request, number), when_in_call=when)
        return await carried_out(request, number, command)

    return router


async def _in_thread(read: Callable[[], T]) -> T:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.to_thread(read)


def _agent(view: AgentView) -> dict[str, Any]:
    return {
        "id": view.id,
        "number": view.number,
        "name": view.name,
        "status": view.status.name.lower(),
        "extension": view.extension,
        "context": view.context,
        "device_type": view.device_type,
        "asterisk": view.asterisk,
        "since": view.since,
        "source": view.source,
        "by": view.by,
        "queues": list(view.queues),
        "joined": list(view.joined),
        "paused_in": list(view.paused_in),
        "pause_reason": view.pause_reason,
        "paused_since": view.paused_since,
        "pause_source": view.pause_source,
        "pause_by": view.pause_by,
        "planned": view.planned,
    }


def _event(stored: StoredEvent) -> dict[str, Any]:
    return {"seq": stored.seq, **stored.event.as_dict()}


def _etag(content: bytes) -> str:
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def _lacks(request: Request, right: Right) -> Response | None:
    client = request.state.client
    if right in client.rights:
        return None
    return _told(403, f"{client.name or 'This client'} has no right to {right.value}.")


def _refused(number: str, refusal: errors.Refused) -> Response:
    words = WORDS.get(refusal.outcome, "That could not be done.").format(agent=number)
    if isinstance(refusal, errors.NoSuchAgent):
        return _told(404, words)
    if isinstance(refusal, errors.Unsettled):
        return _told(503, UNSETTLED)
    return _told(503 if isinstance(refusal, errors.Unavailable | errors.Busy) else 409, words)


def _store_away(doors: Doors, error: Exception) -> Response:
    doors.log.warning("the page got no answer from the store", error=str(error))
    return _told(503, STORE_AWAY)


def _told(status: int, words: str) -> Response:
    body = orjson.dumps({"error": words})
    return Response(body, status_code=status, media_type="application/json", headers=LIVE_HEADERS)
