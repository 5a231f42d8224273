"""``GET /events``: what happens, as it happens, as server-sent events.

One reader for all: the feed asks the store once for what is new and gives every listener the same
bytes. Who resumes reads pages of the store until it is where the feed is, and is served by the
feed from then on; who takes too little is sent back to the pages, so that no backlog grows. An
event's number in the store alone decides what comes next: nothing is missing, nothing comes twice.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from starlette.datastructures import Headers, QueryParams
from starlette.types import Message, Receive, Scope, Send

from fastagi.agents.fence import Fence
from fastagi.agents.log import Trouble
from fastagi.agents.ports import Figures, Reading
from fastagi.api.answers import HttpError
from fastagi.api.context import Context
from fastagi.api.request import Call
from fastagi.api.schema import content, object_of, parameter
from fastagi.api.server import ABORT
from fastagi.api.table import Interface, Row
from fastagi.config.settings import Right
from fastagi.contract import EVENT_FIELDS, EventType, Source

# All in seconds.
GATHER = 0.15  # between two readings of what is new: a hundred codes a second cost seven
LOOK = 1.0  # another service on the same store does not wake us
KEEP_ALIVE = 15.0
STUCK = 30.0  # a client that takes nothing for so long is dropped
DEADLINE = 10.0  # for one answer of the store
PATIENCE = 2.0  # until a stream begins while the store is away
FAREWELL = 0.2  # until a client has taken that the stream ends

PAGE = 500  # events
KEPT_PAGES = 8  # after a restart all come back to the same place
READERS = 2  # pages read at once; the feed has a thread of its own beside them
SLICE = 10  # listeners served before phone calls have their turn
SPREAD = 0.1  # seconds over which a batch goes out to all

# What waits for one listener, until it is sent back to the pages.
MAX_EVENTS = 1000
MAX_BYTES = 2**18

RETRY = 1000  # ms: when a browser comes back

TASK = "tell listeners"  # for the log and the metrics

_LARGEST = 2**63 - 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listener wants; an empty set: all. An event of several queues counts for each."""

    agents: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()

    def takes(self, frame: "Frame") -> bool:
        return (
            (not self.agents or frame.agent in self.agents)
            and (not self.types or frame.type in self.types)
            and (not self.sources or frame.source in self.sources)
            and (not self.queues or not self.queues.isdisjoint(frame.queues))
        )


ALL = Filter()


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as it is sent, and what filters look at."""

    seq: int
    text: bytes
    agent: str
    queues: tuple[str, ...]
    type: str
    source: str


class Batch:
    """What is new, up to and with the event numbered ``to``; each filter looks at it once."""

    __slots__ = ("_cuts", "frames", "start", "to")

    def __init__(self, start: int, frames: Sequence[Frame]) -> None:
        self.start = start
        self.frames = frames
        self.to = frames[-1].seq
        self._cuts: dict[Filter, tuple[bytes, int, int]] = {}

    def cut(self, filter: Filter, after: int) -> tuple[bytes, int, int]:
        """What a listener who is at ``after`` gets: the bytes, how many events, the last one."""
        if after > self.start:
            return _joined([f for f in self.frames if f.seq > after and filter.takes(f)])
        found = self._cuts.get(filter)
        if found is None:
            found = self._cuts[filter] = _joined([f for f in self.frames if filter.takes(f)])
        return found


def _joined(frames: Sequence[Frame]) -> tuple[bytes, int, int]:
    if not frames:
        return b"", 0, 0
    return b"".join([frame.text for frame in frames]), len(frames), frames[-1].seq


@dataclass(frozen=True, slots=True)
class _EventPage:
    frames: Sequence[Frame]
    settled: int  # where the feed was before the page was read: up to there nothing is missing


class Feed:
    """Reads once what is new, for all listeners; reads nothing while there are none.

    ``run`` is a task; when it is cancelled all streams end at once and no new ones begin. The
    store being away ends nothing: the streams stay open and go on when it is back.
    """

    def __init__(
        self, reading: Reading, log: Any, figures: Figures, fence: Fence | None = None
    ) -> None:
        self._reading = reading
        self._log = log
        self._figures = figures
        self._fence = fence or Fence(log)
        self._listeners: dict[Listener, None] = {}  # in the order they came
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._readers = asyncio.Semaphore(READERS)
        self._pages: dict[int, asyncio.Task[_EventPage]] = {}
        self._trouble = Trouble(
            log, "the event stream waits for the store", "the event stream goes on"
        )
        self.position: int | None = None
        """Up to this event everything was given to the listeners; None: nothing was read yet."""
        self.ended = False  # for good
        self.down = False  # it has failed, and is being begun again

    # -- what the rest of the service calls

    def wake(self) -> None:
        """There may be something new. From any thread."""
        loop = self._loop
        if loop is None or not self._listeners or self._woken.is_set():
            return
        try:
            in_loop = asyncio.get_running_loop() is loop
        except RuntimeError:
            in_loop = False
        if in_loop:
            self._woken.set()
            return
        with suppress(RuntimeError):  # the loop is closed: there is nobody to wake
            loop.call_soon_threadsafe(self._woken.set)

    async def run(self) -> None:
        """Until it is cancelled. When it fails all streams end, and it can be run again."""
        self.down = False
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(READERS + 1, thread_name_prefix="events")
        try:
            await self._serve(self._loop)
        finally:
            self.down = True
            self._end_all()
            self._threads.shutdown(wait=False, cancel_futures=True)

    def end(self) -> None:
        """All streams end at once, and no new ones begin."""
        self.ended = True
        self._end_all()

    def _end_all(self) -> None:
        self.position = None  # whoever comes back says where it was
        for listener in list(self._listeners):
            listener.end()
        for page in self._pages.values():
            page.cancel()

    # -- the listeners

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def join(self, listener: "Listener") -> None:
        self._listeners[listener] = None
        self._figures.listeners(len(self._listeners))
        self._woken.set()

    def leave(self, listener: "Listener") -> None:
        self._listeners.pop(listener, None)
        self._figures.listeners(len(self._listeners))

    def listeners_of(self, client: str) -> int:
        return sum(listener.client == client for listener in self._listeners)

    def recheck(self) -> None:
        """Tokens may have changed: a stream whose client may not read any more ends."""
        for listener in list(self._listeners):
            if not listener.may_listen():
                listener.end()

    # -- reading

    async def page(self, after: int) -> _EventPage:
        """The events after this one, up to ``PAGE`` of them. Raises _Away.

        Those who want the same page read it once; what is in it never changes.
        """
        task = self._pages.get(after)
        if task is None:
            task = self._pages[after] = asyncio.create_task(self._read_page(after))
            task.add_done_callback(lambda done: self._keep(after, done))
        return await asyncio.shield(task)

    async def _read_page(self, after: int) -> _EventPage:
        async with self._readers:
            settled = self.position or 0
            return _EventPage(await self._ask(self._frames, after), settled)

    def _keep(self, after: int, task: asyncio.Task[_EventPage]) -> None:
        # After an empty page something may come; a failed one is asked for again.
        if task.cancelled() or task.exception() is not None or not task.result().frames:
            self._pages.pop(after, None)
        while len(self._pages) > KEPT_PAGES:
            oldest = next(iter(self._pages))
            if not self._pages[oldest].done():
                break
            del self._pages[oldest]

    async def newest(self) -> int:
        """No event has a higher number. Raises _Away."""
        async with self._readers:
            return await self._ask(self._newest)

    def _newest(self) -> int:
        # The last settled one is not always the last one: somebody else may have seen that.
        last = self._reading.latest_events(1)
        return max(self._reading.last_seq(), last[-1].seq if last else 0)

    def _frames(self, after: int) -> list[Frame]:
        return [
            Frame(
                stored.seq,
                b"id: %d\nevent: %b\ndata: %b\n\n"
                % (
                    stored.seq,
                    stored.event.type.value.encode(),
                    orjson.dumps(stored.event.as_dict() | {"seq": stored.seq}),
                ),
                stored.event.agent,
                stored.event.queues,
                stored.event.type.value,
                stored.event.source.value,
            )
            for stored in self._reading.settled_events(after, PAGE)
        ]

    async def _ask(self, question: Callable[..., T], *values: Any) -> T:
        """In a thread, with a deadline. Raises _Away: the log knows why."""
        assert self._loop is not None
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await self._loop.run_in_executor(self._threads, question, *values)
        except Exception as error:  # a feed that dies would take the phones with it
            self._trouble.is_there(error=str(error))
            raise _Away from error
        self._trouble.is_over()
        return answer

    # -- serving

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        began = looked = -LOOK
        while True:
            while not self._listeners:
                self.position = None
                self._pages.clear()
                self._woken.clear()
                await self._woken.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._woken.wait()
            await asyncio.sleep(max(0.0, began + GATHER - loop.time()))
            self._woken.clear()
            began = loop.time()
            with self._fence.item(TASK), suppress(_Away):
                await self._read()
            if loop.time() - looked >= LOOK:
                looked = loop.time()
                with self._fence.item(TASK):
                    await self._look_after(looked)

    async def _read(self) -> None:
        if self.position is None:
            self.position = await self._ask(self._reading.last_seq)
            for listener in self._listeners:
                listener.wake()
            return
        while True:
            frames = await self._ask(self._frames, self.position)
            if frames:
                await self._give(Batch(self.position, frames))
            if len(frames) < PAGE:
                return

    async def _give(self, batch: Batch) -> None:
        # First of all: who catches up during the pauses below is compared with this.
        self.position = batch.to
        listeners = [listener for listener in self._listeners if listener.live]
        for start in range(0, len(listeners), SLICE):
            for listener in listeners[start : start + SLICE]:
                if not listener.may_listen():
                    listener.end()
                elif listener.live:
                    try:
                        listener.take(batch)
                    except Exception as error:
                        self._fence.skipped(TASK, error)
                        listener.end()  # it comes back and says where it was
            # Spread: many listeners at once would be a pause for the phones.
            await asyncio.sleep(SPREAD * SLICE / max(len(listeners), SLICE * 2))

    async def _look_after(self, now: float) -> None:
        """Keeps idle connections open, and drops who takes nothing."""
        listeners = list(self._listeners)
        for start in range(0, len(listeners), SLICE):
            for listener in listeners[start : start + SLICE]:
                if listener.stuck(now):
                    self._log.warning("a listener takes nothing and is dropped")
                    listener.end()
                else:
                    listener.look(now)
            await asyncio.sleep(0)


class _Away(Exception):
    """The store does not answer."""


class Listener:
    """One open stream.

    ``may_listen``: whether its client still may. ``position``: up to this event all that the
    listener wants was sent or waits in ``_waiting``;
    None: it is not known yet. ``live``: the feed brings what is new; until then, pages do.
    """

    __slots__ = (
        "_after",
        "_bytes",
        "_events",
        "_feed",
        "_filter",
        "_named",
        "_pump",
        "_reached",
        "_send",
        "_sending_since",
        "_spoke",
        "_waiting",
        "_wake",
        "client",
        "live",
        "may_listen",
        "over",
        "position",
    )

    def __init__(
        self,
        feed: Feed,
        filter: Filter,
        after: int | None,
        send: Send,
        client: str = "",
        may_listen: Callable[[], bool] = lambda: True,
    ) -> None:
        self._feed = feed
        self._filter = filter
        self._after = after
        self._send = send
        self.client = client
        self.may_listen = may_listen
        self._wake = asyncio.Event()
        self._waiting: list[bytes] = []
        self._events = self._bytes = 0  # that wait
        self._reached = 0  # the position before what waits
        self._named = 0  # the last id among what was sent or waits
        self._sending_since: float | None = None
        self._spoke = 0.0
        self._pump: asyncio.Task[None] | None = None
        self.position: int | None = None
        self.live = False
        self.over = False

    async def run(self, receive: Receive, abort: Callable[[], None] | None) -> None:
        """Until the client is gone, takes nothing any more, or the feed ends."""
        self._pump = asyncio.create_task(self._serve(), name="listener")
        gone = asyncio.create_task(_disconnected(receive), name="listener gone")
        self._feed.join(self)
        try:
            await asyncio.wait((self._pump, gone), return_when=asyncio.FIRST_COMPLETED)
            stays = self.over and not gone.done()
        finally:
            self.live = False
            self._feed.leave(self)
            self._waiting.clear()
            self._pump.cancel()
            gone.cancel()
            await asyncio.wait((self._pump, gone))
        if not self._pump.cancelled() and (error := self._pump.exception()) is not None:
            raise error
        if stays and not await self._farewell() and abort is not None:
            abort()
            await asyncio.sleep(0)  # for the server to notice

    async def _farewell(self) -> bool:
        """False: the client does not take it."""
        if self._sending_since is not None:
            return False
        try:
            async with asyncio.timeout(FAREWELL):
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):
            return False
        return True

    # -- what the feed calls

    def wake(self) -> None:
        self._wake.set()

    def take(self, batch: Batch) -> None:
        """The next events; those that it has already are left out."""
        position = self.position or 0
        if batch.to <= position:
            return
        text, events, last = batch.cut(self._filter, position)
        if events and self._waiting and self._too_much(events, len(text)):
            # What waits is in the store: it is read there when there is room again.
            self._waiting.clear()
            self._events = self._bytes = 0
            self.position = self._reached
            self.live = False
            return
        self.position = batch.to
        if events:
            self._add(text, events, last)
            self._wake.set()

    def _too_much(self, events: int, size: int) -> bool:
        return self._events + events > MAX_EVENTS or self._bytes + size > MAX_BYTES

    def look(self, now: float) -> None:
        """Once a second."""
        idle = self._sending_since is None and not self._waiting
        if idle and self._spoke and now - self._spoke >= KEEP_ALIVE:
            self._add(b":\n" + self._resume_id())
            self._wake.set()
        elif not self.live:
            self._wake.set()

    def stuck(self, now: float) -> bool:
        return self._sending_since is not None and now - self._sending_since >= STUCK

    def end(self) -> None:
        """At once."""
        self.over = True
        if self._pump is not None:
            self._pump.cancel()

    # -- sending

    async def _serve(self) -> None:
        if self._after is None:
            # Now is before the client is answered: what it does then, it must hear of.
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._feed_began()
        await self._give({"type": "http.response.start", "status": 200, "headers": HEADERS})
        self._add(b"retry: %d\n\n" % RETRY)
        while True:
            went_on = self.live or await self._catch_up()
            if self._waiting:
                text = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
                self._waiting.clear()
                self._events = self._bytes = 0
                self._reached = self.position or 0
                await self._give({"type": "http.response.body", "body": text, "more_body": True})
            elif self.live or not went_on:
                await self._wake.wait()
                self._wake.clear()

    async def _feed_began(self) -> None:
        while self._feed.position is None:
            await self._wake.wait()
            self._wake.clear()

    async def _give(self, message: Message) -> None:
        clock = asyncio.get_running_loop().time
        self._sending_since = clock()
        with suppress(OSError):  # gone: that is noticed elsewhere
            await self._send(message)
        self._sending_since = None
        self._spoke = clock()

    def _add(self, text: bytes, events: int = 0, last: int = 0) -> None:
        self._waiting.append(text)
        self._events += events
        self._bytes += len(text)
        if last:
            self._named = last

    def _resume_id(self) -> bytes:
        """Tells the client where to resume, if the last event it got does not.

        The HTML standard (9.2.6, interpreting an event stream) begins dispatching with "Set the
        last event ID string of the event source to the value of the last event ID buffer" and goes
        on with "If the data buffer is an empty string, set the data buffer and the event type
        buffer to the empty string and return": an id alone is kept, and no event is seen.
        """
        position = self.position
        if position is None or position == self._named:
            return b"\n"
        self._named = position
        return b"id: %d\n\n" % position

    # -- catching up

    async def _catch_up(self) -> bool:
        """False: there is nothing to do before the feed has something."""
        if self._feed.position is None:
            return False
        try:
            if self.position is None:
                await self._begin(self._feed.position)
                return True
            return await self._read_on(self.position)
        except _Away:
            return False

    async def _begin(self, now: int) -> None:
        after = self._after
        if after is not None and after > now and after > await self._feed.newest():
            # Numbers are never given twice: that one is of another store.
            now = self._feed.position or now
            reset = orjson.dumps({"asked": after, "seq": now})
            self._add(b"id: %d\nevent: reset\ndata: %b\n\n" % (now, reset), 1, now)
            self.position = now
        else:
            self.position = self._reached = now if after is None else after
            # Even who has heard of nothing yet can resume, and misses nothing of while it was away.
            # (0 is sent, too: without an id a client would begin anew.)
            self._named = self.position
            self._add(b"id: %d\n\n" % self.position)
        self._now_live()

    async def _read_on(self, after: int) -> bool:
        page = await self._feed.page(after)
        if page.frames:
            text, events, last = _joined([f for f in page.frames if self._filter.takes(f)])
            self.position = page.frames[-1].seq
            if events:
                self._add(text, events, last)
            elif self._named + PAGE * 4 <= self.position:
                self._add(self._resume_id())
        elif page.settled > after:
            self.position = page.settled
        self._now_live()
        return self.live or self.position != after

    def _now_live(self) -> None:
        """Nothing is awaited between this and whatever the feed does next."""
        reached, position = self._feed.position, self.position
        self.live = reached is not None and position is not None and position >= reached


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Stream:
    """The answer to a listener: bytes as they come, no generator in between."""

    feed: Feed
    filter: Filter
    after: int | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        may = state.get("still")

        def may_listen() -> bool:
            return may is None or Right.READ in may()

        abort = (scope.get("extensions") or {}).get(ABORT)
        client = state["client"].name
        listener = Listener(self.feed, self.filter, self.after, send, client, may_listen)
        await listener.run(receive, abort)


# -- what is asked for


class BadValue(ValueError):
    """A value that means nothing; the text names the field."""


def wanted(query: QueryParams, last_event_id: str | None) -> tuple[Filter, int | None]:
    """The filter, and after which event to begin: None: from now on. Raises BadValue."""
    after = query.getlist("after")
    if len(after) > 1:
        raise BadValue("after: given more than once")
    begin = _number("after", after[0]) if after else None
    if last_event_id:  # an empty one is no id, says the HTML standard
        begin = _number("Last-Event-ID", last_event_id)
    return Filter(
        agents=_values(query, "agent", _agent),
        queues=_values(query, "queue", _queue),
        types=_values(query, "type", lambda text: _one_of(EventType, text)),
        sources=_values(query, "source", lambda text: _one_of(Source, text)),
    ), begin


def _number(field: str, text: str) -> int:
    if re.fullmatch("[0-9]{1,19}", text) and int(text) <= _LARGEST:
        return int(text)
    raise BadValue(f"{field}: is no number of an event")


def _values(query: QueryParams, field: str, checked: Callable[[str], str]) -> frozenset[str]:
    found = set()
    for text in query.getlist(field):
        try:
            found.add(checked(text))
        except BadValue as error:
            raise BadValue(f"{field}: {error}") from error
    return frozenset(found)


def _agent(text: str) -> str:
    if re.fullmatch("[0-9]{1,20}", text):
        return text
    raise BadValue("is no agent's number")


def _queue(text: str) -> str:
    if text and text.isprintable() and len(text) <= 128:
        return text
    raise BadValue("is no queue's name")


def _one_of(kind: Iterable[EventType | Source], text: str) -> str:
    known = [member.value for member in kind]
    if text in known:
        return text
    raise BadValue(f"is none of {', '.join(known)}")


# -- what OpenAPI says

DESCRIPTION = f"""\
Every event of the store, in order, once. An event's `id` is its number; its `event` is its type;
its `data` is a JSON object.

**Resuming.** A client that reconnects with `Last-Event-ID` gets what it missed, then goes on live;
`after` does the same for a client that has no such header, which wins where both are there.
Without either the stream begins now. The stream names an id at once and then every
{KEEP_ALIVE:g} seconds at most, also when a filter lets nothing through, in blocks without data,
which browsers keep and do not show: after any interruption nothing is missing and nothing comes
twice.

**Reset.** An id beyond the newest event is of another database. The stream then begins now, and
its first event is `reset`, with `{{"asked": <that id>, "seq": <where the stream begins>}}`:
what the client knows should be read anew.

**Filters.** Each may be repeated, and means one of these; different ones must all hold. An event
of several queues counts for each of them.

A client that takes nothing for {STUCK:g} seconds is dropped, and can resume.
"""

_TEXT = {"type": "string"}
_TYPES = {"type": "string", "enum": [member.value for member in EventType]}
_SOURCES = {"type": "string", "enum": [member.value for member in Source]}
_SEQ = {"type": "integer", "minimum": 0, "maximum": _LARGEST}

EVENT: dict[str, Any] = {
    "type": "object",
    "title": "Event",
    "required": [*EVENT_FIELDS, "seq"],
    "properties": {
        "id": {**_TEXT, "description": "The event's own, the same in every sink and hook."},
        "type": _TYPES,
        "agent": {**_TEXT, "description": "The agent's number."},
        "extension": {**_TEXT, "description": "Where the agent is, was or wanted to be."},
        "queues": {"type": "array", "items": _TEXT},
        "reason": {
            **_TEXT,
            "description": "Of a pause its name, of a refused login the outcome; why an agent was "
            "logged off who did not ask for it.",
        },
        "source": {**_SOURCES, "description": "Who caused it."},
        "actor": {
            "type": "object",
            "additionalProperties": {"type": ["string", "boolean"]},
            "description": "Who exactly, as far as it is known.",
        },
        "occurred_at": {"type": "string", "format": "date-time"},
        "seq": {**_SEQ, "description": "Its number: the stream's id."},
    },
}


def _refused(description: str) -> dict[str, Any]:
    return {"description": description, "content": content(object_of(error=_TEXT))}


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The stream; it has no end.",
        "content": {
            "text/event-stream": {
                "schema": _TEXT,
                # As OpenAPI 3.2 describes the items of a stream.
                "itemSchema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {
                        "id": _TEXT,
                        "event": {"type": "string", "enum": [*_TYPES["enum"], "reset"]},
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": EVENT,
                        },
                        "retry": {"type": "integer", "minimum": 0},
                    },
                },
            }
        },
    },
    400: _refused("A value means nothing; the text names the field."),
    503: _refused(
        "There are as many listeners as `http.max_listeners` allows, or the service is "
        "stopping: come back after `Retry-After` seconds."
    ),
}


def _filter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    several = {"type": "array", "items": schema}
    return parameter(name, "query", several, description) | {"style": "form", "explode": True}


PARAMETERS: list[dict[str, Any]] = [
    _filter("agent", {"type": "string", "pattern": "^[0-9]{1,20}$"}, "An agent's number."),
    _filter("queue", {"type": "string", "minLength": 1, "maxLength": 128}, "A queue's name."),
    _filter("type", _TYPES, "What happened."),
    _filter("source", _SOURCES, "Who caused it."),
    parameter(
        "after", "query", _SEQ, "Begin after the event with this number; 0: with the first one."
    ),
    parameter(
        "Last-Event-ID",
        "header",
        {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "The last id the client has seen.",
    ),
]


# -- the interface


class Events:
    def __init__(self, context: Context) -> None:
        http = context.http
        self._feed = context.feed
        self._most = http.max_listeners
        # Where there are several clients, none takes all the places.
        several = len(http.tokens) > 1
        self._most_of_client = self._most - self._most // 4 if several else self._most

    async def listen(self, call: Call) -> Stream:
        query = QueryParams(call.query)
        last_event_id = Headers(scope=call.scope).get("last-event-id")
        try:
            filter, after = wanted(query, last_event_id)
        except BadValue as error:
            raise HttpError(400, str(error)) from None
        if why := self._refused(call.client.name):
            raise HttpError(503, why, ((b"retry-after", b"5"),))
        return Stream(self._feed, filter, after)

    def _refused(self, client: str) -> str | None:
        feed = self._feed
        if feed.ended:
            return "The service is stopping"
        if feed.down:
            return "Events cannot be sent now: try again"
        if feed.listeners >= self._most:
            return "There are too many listeners"
        if feed.listeners_of(client) >= self._most_of_client:
            return "This client has too many listeners"
        return None


INTERFACE = Interface(
    name="events",
    tag="events",
    bases=("/events",),
    make=Events,
    endless=True,
    rows=(
        Row(
            "GET",
            "/events",
            Right.READ,
            Events.listen,
            {
                "operation_id": "listen_to_events",
                "summary": "What happens, as it happens (server-sent events)",
                "description": DESCRIPTION,
                "responses": RESPONSES,
                "openapi_extra": {"parameters": PARAMETERS},
            },
        ),
    ),
)
