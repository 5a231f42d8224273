"""The live page at ``/``: its files, what it shows and what its buttons do.

The page follows the event stream and asks here again for the agents that an event touches, so it
shows the store and nothing that it worked out by itself. Its files hold no data and need no token.
"""

import asyncio
import hashlib
import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from fastagi.agents import errors
from fastagi.agents.commands import Actor, Command, LogOff, Pause, PauseReason, Unpause
from fastagi.agents.model import Change
from fastagi.agents.records import AgentView
from fastagi.agents.service import StoreUnavailable
from fastagi.api.answers import JSON, Answer, HttpError, json_answer
from fastagi.api.context import Context
from fastagi.api.fixed import Fixed, has
from fastagi.api.request import BadBody, Call, as_text, in_thread, in_time
from fastagi.api.table import Interface, Row
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
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),  # kept, but asked for every time: a new version shows at once
)

LATEST = 50  # events
AT_ONCE = 500  # agents asked for by number in one request
CHUNK = 500  # agents written at a time: other threads run between two

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

_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Snapshot:
    """The agents as one JSON object, and a digest of it."""

    text: bytes
    digest: bytes

    @classmethod
    def read(cls, context: Context, numbers: Sequence[str] | None = None) -> "Snapshot":
        """Blocks: a second for ten thousand agents. Raises StoreUnavailable."""
        # The event's number comes first: what happens in between is in both, never in neither.
        seq = context.reading.last_seq()
        agents = context.reading.agents(numbers)
        parts = [
            orjson.dumps(
                [
                    _agent(view) | {"known": context.known(view)}
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

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()
        self._asked = 0
        self._waiting = 0
        self._last: tuple[int, Snapshot] | None = None  # and the last request it was begun after
        self._sent: weakref.ref[Snapshot] | None = None  # as long as somebody still takes it

    async def latest(self) -> Snapshot:
        """Nothing in it is older than this call. Raises StoreUnavailable."""
        self._asked += 1
        asked = self._asked
        self._waiting += 1
        try:
            async with self._lock:
                if self._last is None or self._last[0] < asked:
                    upto = self._asked
                    snapshot = await asyncio.to_thread(Snapshot.read, self._context)
                    sent = self._sent() if self._sent is not None else None
                    if sent is not None and sent.digest == snapshot.digest:
                        snapshot = sent  # the same bytes need not be there twice
                    self._sent = weakref.ref(snapshot)
                    self._last = upto, snapshot
                return self._last[1]
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._last = None  # it is large


@dataclass(frozen=True, slots=True)
class Joined:
    """Sends a snapshot, which all who ask share, and ``head``, an object for this client alone."""

    snapshot: Snapshot
    head: bytes
    etag: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = str(len(self.snapshot.text) + len(self.head) - 1)  # two braces go, a comma comes
        headers = [
            (b"content-type", JSON.encode()),
            (b"content-length", length.encode()),
            (b"etag", self.etag.encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for body, more in (
            (memoryview(self.snapshot.text)[:-1], True),
            (b"," + self.head[1:], False),
        ):
            await send({"type": "http.response.body", "body": body, "more_body": more})


class Page:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._service = context.service
        files = {
            path.name: Fixed(path.read_bytes(), TYPES[path.suffix], HEADERS)
            for path in FOLDER.iterdir()
            if path.suffix in TYPES
        }
        self._files = {"": files["index.html"], **files}
        self._snapshots = Snapshots(context)
        self._plans = 0  # of agents in a call: how often they have changed, without an event
        self._service.changed.append(self._changed)

    def _changed(self, change: Change) -> None:
        if change.before.plan is not change.after.plan:
            self._plans += 1

    async def file(self, call: Call) -> Fixed:
        file = self._files.get(call.values.get("file", ""))
        if file is None:
            raise HttpError(404, "There is no such file.")
        return file

    # -- what is shown

    async def agents(self, call: Call) -> ASGIApp:
        numbers = [value for name, value in _query(call) if name == "number"]
        if len(numbers) > AT_ONCE:
            raise HttpError(400, f"At most {AT_ONCE} agents by number in one request.")
        try:
            reasons = await self._service.reasons()
            snapshot = await in_time(self._snapshot(numbers))
        except (StoreUnavailable, errors.Unavailable) as error:
            raise self._store_away(error) from error
        client = call.client
        head = orjson.dumps(
            {
                "client": {"name": client.name, "rights": sorted(client.rights)},
                "reasons": [{"code": r.code, "name": r.name} for r in reasons],
                "links": self._links(),
            }
        )
        etag = f'"{hashlib.blake2b(head + snapshot.digest, digest_size=12).hexdigest()}"'
        if has(call.scope, etag):
            return Answer(304, headers=((b"etag", etag.encode()),))
        return Joined(snapshot, head, etag)

    async def _snapshot(self, numbers: Sequence[str]) -> Snapshot:
        if not numbers:
            return await self._snapshots.latest()
        wanted = [one for one in numbers if _NUMBER.fullmatch(one)]
        return await asyncio.to_thread(Snapshot.read, self._context, wanted)

    def _links(self) -> dict[str, Any]:
        return self._context.links() | {"plans": self._plans}

    async def links(self, call: Call) -> Answer:
        """What the page asks for every few seconds: no event says that an Asterisk is away."""
        return json_answer(self._links())

    async def events(self, call: Call) -> Answer:
        def read() -> bytes:
            latest = self._context.reading.latest_events(LATEST)
            events = [{"seq": stored.seq, **stored.event.as_dict()} for stored in latest]
            return orjson.dumps({"events": events})

        try:
            return Answer(200, await in_thread(read))
        except StoreUnavailable as error:
            raise self._store_away(error) from error

    def _store_away(self, error: Exception) -> HttpError:
        self._context.log.warning("the page got no answer from the store", error=str(error))
        return HttpError(503, STORE_AWAY)

    # -- the buttons

    async def pause(self, call: Call) -> Answer:
        _not_from_elsewhere(call)
        number = call.values["number"]
        try:
            given = (await call.fields()).get("reason")
        except BadBody:
            raise HttpError(400, 'Send a JSON object: {"reason": "1"}.') from None
        wanted = "" if given is None else as_text(given)
        try:
            if wanted is None:
                raise errors.NoSuchReason
            # Without a reason too, as a program may: then it has no name.
            reason = await self._service.reason(wanted) if wanted else PauseReason("", "")
            if reason is None:
                raise errors.NoSuchReason
        except errors.Refused as refusal:
            raise _refusal(number, refusal) from refusal
        when = self._context.pause().when_in_call
        return await self._carry_out(Pause, call, reason=reason, when_in_call=when)

    async def unpause(self, call: Call) -> Answer:
        _not_from_elsewhere(call)
        return await self._carry_out(Unpause, call)

    async def log_off(self, call: Call) -> Answer:
        _not_from_elsewhere(call)
        when = self._context.login().logoff_in_call
        return await self._carry_out(LogOff, call, when_in_call=when)

    async def _carry_out(self, kind: type[Command], call: Call, **values: Any) -> Answer:
        number, actor = call.values["number"], Actor(name=call.client.name)
        try:
            if not _NUMBER.fullmatch(number):
                raise errors.NoSuchAgent(number)
            command = self._service.command(kind, number, Source.API, actor, **values)
            change = await self._service.execute(command)
        except errors.Refused as refusal:
            raise _refusal(number, refusal) from refusal
        return json_answer({"outcome": change.outcome.value})


def _query(call: Call) -> list[tuple[str, str]]:
    return parse_qsl(call.query.decode("latin-1"), keep_blank_values=True)


def _not_from_elsewhere(call: Call) -> None:
    """Another site's page cannot send this type without being asked first, and is not allowed to:
    so nobody else's page presses these buttons where no token is needed."""
    headers = dict(call.scope["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise HttpError(415, "Send application/json.")


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


def _refusal(number: str, refusal: errors.Refused) -> HttpError:
    words = WORDS.get(refusal.outcome, "That could not be done.").format(agent=number)
    if isinstance(refusal, errors.NoSuchAgent):
        return HttpError(404, words)
    if isinstance(refusal, errors.Unsettled):
        return HttpError(503, UNSETTLED)
    return HttpError(503 if isinstance(refusal, errors.Unavailable | errors.Busy) else 409, words)


# -- the interface

INTERFACE = Interface(
    name="page",
    tag="page",
    bases=("/", "/page", "/live"),
    make=Page,
    lacking=lambda client, right: f"{client or 'This client'} has no right to {right.value}.",
    rows=(
        Row("GET", "/", None, Page.file),
        Row("GET", "/page/{file:path}", None, Page.file),
        Row("GET", "/live/agents", Right.READ, Page.agents),
        Row("GET", "/live/links", Right.READ, Page.links),
        Row("GET", "/live/events", Right.READ, Page.events),
        Row("POST", "/live/agents/{number}/pause", Right.CONTROL, Page.pause),
        Row("POST", "/live/agents/{number}/unpause", Right.CONTROL, Page.unpause),
        Row("POST", "/live/agents/{number}/logoff", Right.CONTROL, Page.log_off),
    ),
)
