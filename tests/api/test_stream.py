"""The event stream over a store of the tests' own: what each listener gets, byte by byte."""

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Self, cast
from urllib.parse import urlencode

import pytest
import structlog
import uvicorn
from fastapi.openapi.utils import get_openapi
from structlog.testing import capture_logs

from fastagi.agents.commands import Actor
from fastagi.agents.events import Event
from fastagi.agents.fence import Fence, Supervisor
from fastagi.agents.records import AgentView, StoredEvent
from fastagi.agents.service import StoreUnavailable
from fastagi.api import stream
from fastagi.api.asgi import Dispatcher
from fastagi.api.guard import Client
from fastagi.api.table import Table
from fastagi.config.settings import HttpSettings, Right
from fastagi.contract import EVENT_FIELDS, EventType, Source
from tests.api.conftest import alone, context_of
from tests.api.listening import Browser, Told

# -- the store --------------------------------------------------------------------------------


def event(n: int, **changes: Any) -> Event:
    values: dict[str, Any] = {
        "id": f"event-{n}",
        "type": EventType.LOGIN,
        "agent": "4001",
        "extension": "1001",
        "queues": ("sales",),
        "reason": "",
        "source": Source.PHONE,
        "actor": Actor(caller_id="1001"),
        "occurred_at": datetime(2026, 11, 23, 8, 0, tzinfo=UTC),
    }
    return Event(**values | changes)


class Store:
    """Rows that are there, and numbers that others may still fill (``begin``, ``fill``)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rows: dict[int, Event] = {}
        self.begun: set[int] = set()
        self.given = 0
        self.reads = 0
        self.away = False
        self.before_read: Callable[[int], None] = lambda after: None
        self.after_read: Callable[[int], None] = lambda after: None

    def begin(self) -> int:
        with self._lock:
            self.given += 1
            self.begun.add(self.given)
            return self.given

    def fill(self, seq: int, **values: Any) -> None:
        with self._lock:
            self.rows[seq] = event(seq, **values)
            self.begun.discard(seq)

    def give_up(self, seq: int) -> None:
        """Rolled back: there is no such event, ever."""
        with self._lock:
            self.begun.discard(seq)

    def add(self, count: int = 1, **values: Any) -> int:
        for _ in range(count):
            self.fill(self.begin(), **values)
        return self.given

    @property
    def seqs(self) -> list[int]:
        with self._lock:
            return sorted(self.rows)

    # -- Reading

    def settled_events(self, after: int, limit: int) -> list[StoredEvent]:
        self.reads += 1
        self.before_read(after)
        self._there()
        with self._lock:
            end = min([seq for seq in self.begun if seq > after], default=self.given + 1)
            seqs = [seq for seq in sorted(self.rows) if after < seq < end]
            found = [StoredEvent(seq, self.rows[seq]) for seq in seqs[:limit]]
        self.after_read(after)
        return found

    def last_seq(self) -> int:
        self.reads += 1
        self._there()
        with self._lock:
            end = min(self.begun, default=self.given + 1)
            return max((seq for seq in self.rows if seq < end), default=0)

    def latest_events(self, limit: int) -> list[StoredEvent]:
        self.reads += 1
        self._there()
        with self._lock:
            return [StoredEvent(seq, self.rows[seq]) for seq in sorted(self.rows)[-limit:]]

    def agents(self, numbers: Sequence[str] | None = None) -> Sequence[AgentView]:
        raise NotImplementedError

    def queue_ids(self) -> dict[str, int]:
        raise NotImplementedError

    def _there(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


class Counted:
    """Figures."""

    def __init__(self) -> None:
        self.counts: list[int] = [0]

    def requested(self, interface: str, status: int) -> None: ...

    def listeners(self, count: int) -> None:
        self.counts.append(count)

    async def text(self) -> tuple[bytes, str]:
        return b"", ""


# -- a listener -------------------------------------------------------------------------------


class Ear(Browser):
    """A client: takes what it is sent, unless it is ``deaf``."""

    def __init__(self, app: Any, query: Sequence[tuple[str, Any]], last_id: str | None) -> None:
        super().__init__(last_id or "")
        self._app = app
        self.headers: dict[str, str] = {}
        self.status = 0
        self.body = b""
        self.ended = False  # by the server, in good order
        self.aborted = False
        self.sends = 0
        self._hears = asyncio.Event()
        self._hears.set()
        self._gone = asyncio.Event()
        self._asked = False
        headers = [(b"accept", b"*/*")]
        if last_id is not None:
            headers.append((b"last-event-id", last_id.encode()))
        self._scope = {
            "type": "http",
            "method": "GET",
            "path": "/events",
            "raw_path": b"/events",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "query_string": urlencode(query).encode(),
            "headers": headers,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 9493),
            "extensions": {stream.ABORT: self._abort},
        }
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    def _abort(self) -> None:
        self.aborted = True
        self._gone.set()
        self._hears.set()

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self._hears.wait()  # as uvicorn does when the socket's buffer is full
        if self._gone.is_set():
            return
        self.sends += 1
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.body += message["body"]
        self.ended = not message.get("more_body", False)
        if self.status == 200:
            self.feed(message["body"])

    def deaf(self) -> None:
        self._hears.clear()

    def hears_again(self) -> None:
        self._hears.set()

    async def leave(self) -> None:
        self._gone.set()
        self._hears.set()
        await self.task


class Radio:
    """The feed, its route and those who listen."""

    def __init__(self, most: int = 1000) -> None:
        self.store = Store()
        self.figures = Counted()
        self.feed = stream.Feed(self.store, structlog.get_logger(), self.figures)
        http = HttpSettings(max_listeners=most)
        context = context_of(feed=self.feed, http=http, version="0.0")
        self.dispatcher = Dispatcher(context, Table([stream.INTERFACE], http))
        self.app = alone(self.dispatcher, lambda: Client("", frozenset(Right)))
        self.ears: list[Ear] = []
        self.task = asyncio.create_task(self.feed.run())

    def tune(self, last_id: int | str | None = None, /, **query: Any) -> Ear:
        pairs = [
            (name, value)
            for name, values in query.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        ear = Ear(self.app, pairs, None if last_id is None else str(last_id))
        self.ears.append(ear)
        return ear

    async def tuned(self, last_id: int | str | None = None, /, **query: Any) -> Ear:
        """The stream is open and told where it begins."""
        ear = self.tune(last_id, **query)
        await until(lambda: ear.body.count(b"\n\n") >= 2, "the stream begins")
        return ear

    def say(self, count: int = 1, **values: Any) -> int:
        last = self.store.add(count, **values)
        self.feed.wake()
        return last

    async def off(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def close(self) -> None:
        await self.off()
        for ear in self.ears:
            ear._gone.set()
            ear._hears.set()
        await asyncio.gather(*(ear.task for ear in self.ears))


async def until(condition: Callable[[], object], what: str = "", within: float = 20) -> None:
    """The limit only ends a test that has failed."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.002)


@asynccontextmanager
async def tuning(**settings: Any) -> AsyncIterator[Radio]:
    radio = Radio(**settings)
    try:
        yield radio
    finally:
        await radio.close()


@pytest.fixture
async def radio(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Radio]:
    monkeypatch.setattr(stream, "GATHER", 0.005)
    async with tuning() as made:
        yield made


# -- what is sent -----------------------------------------------------------------------------


async def test_an_event_as_it_is_sent(radio: Radio) -> None:
    ear = await radio.tuned()
    assert ear.status == 200
    assert ear.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert ear.headers["cache-control"] == "no-store"
    assert ear.headers["x-accel-buffering"] == "no"
    assert "content-length" not in ear.headers
    assert ear.body == b"retry: 1000\n\nid: 0\n\n"
    radio.say(reason="Ma\u00eetre\n\u2028", queues=("sales", "support"))
    await until(lambda: ear.told)
    assert ear.retry == 1000
    text = ear.body.split(b"\n\n")[2]
    assert text.startswith(b"id: 1\nevent: agent-login\ndata: {")
    assert text.count(b"\n") == 2, "a line break in a value is escaped"
    (told,) = ear.told
    assert told.id == "1"
    assert told.type == "agent-login"
    assert told.data == event(
        1, reason="Ma\u00eetre\n\u2028", queues=("sales", "support")
    ).as_dict() | {"seq": 1}
    assert set(told.data) == {*EVENT_FIELDS, "seq"}


async def test_from_now_on(radio: Radio) -> None:
    radio.store.add(7)
    ear = await radio.tuned()
    assert ear.last_id == "7", "known at once: who is cut off now misses nothing later"
    radio.say(3)
    await until(lambda: len(ear.told) == 3)
    assert ear.seqs == [8, 9, 10]


async def test_what_a_client_does_once_it_is_answered_it_hears_of(radio: Radio) -> None:
    radio.store.add(3)
    gate = threading.Event()
    last_seq = radio.store.last_seq

    def slowly() -> int:
        gate.wait(5)
        return last_seq()

    radio.store.last_seq = slowly  # type: ignore[method-assign]
    ear = radio.tune()
    await asyncio.sleep(0.05)
    assert not ear.status, "nobody knows yet where now is"
    gate.set()
    await until(lambda: ear.status)
    radio.say()
    await until(lambda: ear.told)
    assert ear.seqs == [4]


async def test_ids_are_kept_although_nothing_is_dispatched(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that who waits for something rare does not read everything again."""
    monkeypatch.setattr(stream, "KEEP_ALIVE", 0.05)
    monkeypatch.setattr(stream, "LOOK", 0.02)
    ear = await radio.tuned(agent="4002")
    radio.say(50)
    await until(lambda: ear.last_id == "50")
    assert ear.told == []
    await until(lambda: ear.comments > 3)
    assert ear.body.count(b"id: 50\n") == 1, "said once"
    radio.say(agent="4002")
    await until(lambda: ear.told)
    assert ear.told[0].id == "51"
    size = len(ear.body)
    comments = ear.comments
    await until(lambda: ear.comments > comments + 2)
    assert set(ear.body[size:]) <= set(b":\n")


# -- filters ----------------------------------------------------------------------------------

FACTS: list[dict[str, Any]] = [
    {"agent": agent, "queues": queues, "type": type, "source": source}
    for agent in ("4001", "4002")
    for queues in ((), ("sales",), ("support", "sales"), ("billing",))
    for type in (EventType.LOGIN, EventType.PAUSE, EventType.LOGIN_REFUSED)
    for source in Source
]

FILTERS: list[dict[str, Any]] = [
    {},
    {"agent": "4001"},
    {"agent": ["4001", "4002"]},
    {"agent": "9999"},
    {"queue": "sales"},
    {"queue": ["sales", "billing"]},
    {"type": "agent-pause"},
    {"type": ["agent-pause", "login-refused"]},
    {"source": "api"},
    {"source": ["api", "phone", "asterisk", "system"]},
    {"agent": "4002", "queue": "support", "type": "agent-login", "source": ["api", "phone"]},
]


def _wants(query: dict[str, Any], fact: dict[str, Any]) -> bool:
    wanted = {key: value if isinstance(value, list) else [value] for key, value in query.items()}
    return (
        fact["agent"] in wanted.get("agent", [fact["agent"]])
        and fact["type"].value in wanted.get("type", [fact["type"].value])
        and fact["source"].value in wanted.get("source", [fact["source"].value])
        and ("queue" not in wanted or any(q in wanted["queue"] for q in fact["queues"]))
    )


async def test_filters_live_and_resumed(radio: Radio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAGE", 10)
    monkeypatch.setattr(stream, "KEEP_ALIVE", 0.05)
    monkeypatch.setattr(stream, "LOOK", 0.02)
    live = [await radio.tuned(**query) for query in FILTERS]
    for fact in FACTS:
        radio.say(**fact)
    late = [radio.tune(0, **query) for query in FILTERS]
    for query, *ears in zip(FILTERS, live, late, strict=True):
        expected = [n for n, fact in enumerate(FACTS, 1) if _wants(query, fact)]
        for ear in ears:
            await until(lambda ear=ear: ear.last_id == str(len(FACTS)), str(query))
            assert ear.seqs == expected
    everything = list(range(1, len(FACTS) + 1))
    assert live[0].seqs == everything
    assert live[3].seqs == []


@pytest.mark.parametrize(
    ("query", "last_id", "field"),
    [
        ({"agent": ""}, None, "agent"),
        ({"agent": "4001,4002"}, None, "agent"),
        ({"agent": ["4001", "alice"]}, None, "agent"),
        ({"agent": "\u0664"}, None, "agent"),
        ({"agent": "1" * 21}, None, "agent"),
        ({"queue": ""}, None, "queue"),
        ({"queue": "a\r\nb"}, None, "queue"),
        ({"queue": "q" * 129}, None, "queue"),
        ({"type": "login"}, None, "type"),
        ({"type": ""}, None, "type"),
        ({"source": "Phone"}, None, "source"),
        ({"after": "-1"}, None, "after"),
        ({"after": ""}, None, "after"),
        ({"after": "1.0"}, None, "after"),
        ({"after": str(2**63)}, None, "after"),
        ({"after": "\u0661"}, None, "after"),
        ({"after": ["1", "2"]}, None, "after"),
        ({}, "x", "Last-Event-ID"),
        ({"after": "1"}, "1 ", "Last-Event-ID"),
        ({}, str(2**63), "Last-Event-ID"),
    ],
)
async def test_what_means_nothing_is_refused(
    radio: Radio, query: dict[str, Any], last_id: str | None, field: str
) -> None:
    ear = radio.tune(last_id, **query)
    await ear.task
    assert ear.status == 400
    assert ear.headers["content-type"] == "application/json"
    answer = json.loads(ear.body)
    assert list(answer) == ["error"]
    assert answer["error"].startswith(f"{field}: ")
    assert radio.feed.listeners == 0


# -- resuming ---------------------------------------------------------------------------------


async def test_resumed_at_each_boundary(radio: Radio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAGE", 4)
    radio.store.add(17)
    ears = [await radio.tuned(after) for after in range(18)]
    more = [await radio.tuned(after=after) for after in range(18)]
    radio.say(6)
    for after, both in enumerate(zip(ears, more, strict=True)):
        for ear in both:
            await until(lambda ear=ear: ear.last_id == "23")
            assert ear.seqs == list(range(after + 1, 24))
            assert [told.id for told in ear.told] == [str(n) for n in ear.seqs]


async def test_the_header_wins(radio: Radio) -> None:
    """A browser comes back to the address it knows, with the header added."""
    radio.store.add(9)
    ear = radio.tune("7", after="2")
    await until(lambda: ear.last_id == "9")
    assert ear.seqs == [8, 9]
    ear = await radio.tuned("", after="8")
    await until(lambda: ear.last_id == "9")
    assert ear.seqs == [9]


async def test_an_id_of_another_database(radio: Radio) -> None:
    radio.store.add(5)
    ear = radio.tune(6)
    await until(lambda: ear.told)
    radio.say(2)
    await until(lambda: len(ear.told) == 3)
    reset, *events = ear.told
    assert reset == Told("5", "reset", {"asked": 6, "seq": 5})
    assert [told.data["seq"] for told in events] == [6, 7]
    # Told once: the client comes back with the new id.
    again = await radio.tuned(ear.last_id)
    assert again.told == []
    empty = Radio()
    ear = empty.tune(1)
    await until(lambda: ear.told)
    assert ear.told == [Told("0", "reset", {"asked": 1, "seq": 0})]
    await empty.close()


async def test_an_id_that_is_ahead_of_us_is_not_of_another_database(radio: Radio) -> None:
    """Another service on the same store has seen more already."""
    radio.store.add(5)
    first = await radio.tuned()
    other = radio.store.begin()
    radio.store.fill(radio.store.begin())
    assert radio.store.last_seq() == 5
    ear = await radio.tuned(7)
    assert ear.last_id == "7"
    assert ear.told == []
    radio.store.fill(other)
    radio.say(2)
    await until(lambda: first.last_id == ear.last_id == "9")
    assert first.seqs == [6, 7, 8, 9]
    assert ear.seqs == [8, 9]


# -- numbers that may still be filled ---------------------------------------------------------


async def test_nothing_overtakes_a_number_that_may_be_filled(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK", 0.03)
    ear = await radio.tuned()
    radio.say(2)
    late, never = radio.store.begin(), radio.store.begin()
    radio.say(3)
    resumed = radio.tune(1)
    await until(lambda: ear.seqs == [1, 2] and resumed.seqs == [2])
    reads = radio.store.reads
    await until(lambda: radio.store.reads > reads + 3)
    assert ear.seqs == [1, 2]
    radio.store.fill(late)  # and nobody says so: another service did it
    await until(lambda: ear.seqs == [1, 2, 3])
    radio.store.give_up(never)
    await until(lambda: ear.seqs == [1, 2, 3, 5, 6, 7])
    await until(lambda: resumed.seqs == [2, 3, 5, 6, 7])


async def test_numbers_given_up_at_the_end(radio: Radio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the feed begins, no event may be: who resumes gets there all the same, and does not
    take what is new meanwhile for read."""
    monkeypatch.setattr(stream, "LOOK", 60.0)
    store = radio.store
    store.add(5)
    for _ in range(2):
        store.give_up(store.begin())
    monkeypatch.setattr(store, "last_seq", lambda: 7)
    there = await radio.tuned()
    assert there.last_id == "7"
    ear = await radio.tuned(3)
    await until(lambda: ear.seqs == [4, 5])
    await until(lambda: all(listener.live for listener in radio.feed._listeners))
    loop = asyncio.get_running_loop()

    def meanwhile(after: int) -> None:
        if after == 5:
            store.after_read = lambda after: None
            radio.say(2)
            asyncio.run_coroutine_threadsafe(until(lambda: there.seqs), loop).result(10)

    store.after_read = meanwhile
    late = radio.tune(5)
    await until(lambda: late.seqs == there.seqs == [8, 9])
    await until(lambda: ear.seqs == [4, 5, 8, 9])
    assert store.after_read is not meanwhile


async def test_another_services_events_come_without_a_word(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK", 0.03)
    ear = await radio.tuned()
    radio.store.add(4)
    await until(lambda: ear.seqs == [1, 2, 3, 4])


async def test_a_long_way_with_nothing_on_it_is_named(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is cut off in the middle of it does not begin anew."""
    monkeypatch.setattr(stream, "PAGE", 4)
    radio.store.add(100)
    there = await radio.tuned()
    ear = radio.tune(0, agent="4002")
    await until(lambda: int(ear.last_id or 0) > 80)
    ids = [block for block in ear.body.split(b"\n\n") if block.startswith(b"id: ")]
    assert len(ids) >= 5
    assert ear.told == there.told == []


# -- between the pages and the feed -----------------------------------------------------------


@pytest.mark.parametrize("cut", range(8))
async def test_what_comes_between_a_page_and_the_feed(
    radio: Radio, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Events are made before and after the cut-th reading, wherever that falls: in the page of one
    who resumes, in the feed's own reading, with the feed further than the page and behind it."""
    monkeypatch.setattr(stream, "PAGE", 3)
    radio.store.add(8)
    there = await radio.tuned(0)
    await until(lambda: there.last_id == "8")
    begun = radio.store.reads
    loop = asyncio.get_running_loop()

    def meanwhile(after: int) -> None:
        if begun + cut == radio.store.reads:
            radio.say(2)
            # The feed has them before this reading goes on.
            done = threading.Event()

            async def fed() -> None:
                with suppress(TimeoutError):
                    await until(lambda: (radio.feed.position or 0) >= radio.store.given, within=0.3)
                done.set()

            asyncio.run_coroutine_threadsafe(fed(), loop)
            done.wait(2)

    for when in ("before_read", "after_read"):
        begun = radio.store.reads
        setattr(radio.store, when, meanwhile)
        ear = radio.tune(2)
        radio.say()
        await until(
            lambda ear=ear, end=begun + cut: (
                radio.store.reads >= end or ear.last_id == str(radio.store.given)
            )
        )
        setattr(radio.store, when, lambda after: None)
        radio.say()
        last = str(radio.store.given)
        await until(lambda last=last, ear=ear: ear.last_id == there.last_id == last)
        assert ear.seqs == list(range(3, radio.store.given + 1))
    assert there.seqs == list(range(1, radio.store.given + 1))


@pytest.mark.parametrize("seed", range(12))
async def test_clients_come_and_go_while_events_are_made(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Cut off at any moment and resumed, slow or quick, filtered or not, with gaps, a store that
    goes away and a service that ends: each ends up with all that it wants, once, in order."""
    chance = random.Random(seed)
    for name, value in {"PAGE": 7, "GATHER": 0.002, "LOOK": 0.01, "MAX_EVENTS": 12}.items():
        monkeypatch.setattr(stream, name, value)
    radios = [Radio()]
    store = radios[0].store
    done = asyncio.Event()

    async def write() -> None:
        open_: list[int] = []
        for _ in range(150):
            for _ in range(chance.choice((0, 1, 1, 3, 20))):
                store.add(agent=chance.choice(("4001", "4002")))
            if chance.random() < 0.2:
                open_.append(store.begin())
            while open_ and chance.random() < 0.5:
                seq = open_.pop(chance.randrange(len(open_)))
                if chance.random() < 0.7:
                    store.fill(seq, agent=chance.choice(("4001", "4002")))
                else:
                    store.give_up(seq)
            store.away = chance.random() < 0.05
            if chance.random() < 0.7:
                radios[-1].feed.wake()
            if chance.random() < 0.03:
                await restart()
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.004)))
        store.away = False
        for seq in open_:
            store.give_up(seq)
        store.add(1, agent="4001")
        store.add(1, agent="4002")
        done.set()

    async def restart() -> None:
        old = radios[-1]
        new = Radio()
        new.store = store
        new.feed._reading = store
        radios.append(new)
        await old.close()

    async def listen(agent: str | None) -> list[int]:
        query = {"agent": agent} if agent else {}
        got: list[int] = []
        last = "0"
        end = 0
        while True:
            ear = radios[-1].tune(last, **query)
            last_time = done.is_set()
            for _ in range(0 if last_time else chance.randrange(1, 40)):
                if ear.task.done():
                    break
                if chance.random() < 0.2:
                    ear.deaf()
                elif chance.random() < 0.4:
                    ear.hears_again()
                await asyncio.sleep(chance.choice((0, 0.001, 0.003)))
            if last_time:
                end = max(s for s, e in store.rows.items() if agent in (None, e.agent))
                await until(
                    lambda ear=ear, end=end: ear.task.done() or int(ear.last_id or 0) >= end
                )
            await ear.leave()
            assert not ear.told or ear.told[0].type != "reset"
            got += ear.seqs
            last = ear.last_id or last
            if last_time and int(last) >= end:
                return got

    wanted = [None, None, None, "4001", "4002", "4001"]
    writing = asyncio.create_task(write())
    try:
        heard = await asyncio.gather(*(listen(agent) for agent in wanted))
    finally:
        await writing
        for made in radios:
            await made.close()
    for agent, got in zip(wanted, heard, strict=True):
        assert got == [s for s in store.seqs if agent in (None, store.rows[s].agent)]


# -- many -------------------------------------------------------------------------------------


async def test_three_hundred_listeners(radio: Radio) -> None:
    radio.store.add(600)
    ears = [radio.tune() for _ in range(150)] + [radio.tune(100) for _ in range(150)]
    await until(lambda: radio.feed.listeners == 300)
    await until(lambda: all(ear.last_id == "600" for ear in ears))
    assert radio.store.reads < 30, "who comes back to the same place reads the same page"
    reads = radio.store.reads
    for _ in range(20):
        radio.say(10)
        await asyncio.sleep(0.01)
    await until(lambda: all(ear.last_id == "800" for ear in ears))
    assert all(ear.seqs == list(range(601, 801)) for ear in ears[:150])
    assert all(ear.seqs == list(range(101, 801)) for ear in ears[150:])
    assert radio.store.reads - reads <= 21 * 2, "as many as for one"
    assert max(radio.figures.counts) == 300


async def test_one_send_for_what_came_together(radio: Radio) -> None:
    ear = await radio.tuned()
    sends = ear.sends
    radio.say(200)
    await until(lambda: ear.last_id == "200")
    assert ear.sends == sends + 1


async def test_others_have_their_turn_while_many_are_served(radio: Radio) -> None:
    ears = [await radio.tuned() for _ in range(200)]
    served: list[int] = []

    async def phone() -> None:
        while True:
            served.append(sum(bool(ear.told) for ear in ears))
            await asyncio.sleep(0)

    calls = asyncio.create_task(phone())
    radio.say(30)
    await until(lambda: all(ear.told for ear in ears))
    calls.cancel()
    steps = [b - a for a, b in pairwise(served)]
    assert max(steps) <= 2 * stream.SLICE


async def test_the_house_is_full() -> None:
    async with tuning(most=2) as radio:
        ears = [await radio.tuned() for _ in range(2)]
        third = radio.tune()
        await third.task
        assert third.status == 503
        assert third.headers["retry-after"] == "5"
        assert json.loads(third.body) == {"error": "There are too many listeners"}
        await ears[0].leave()
        assert (await radio.tuned()).status == 200


# -- who takes too little ---------------------------------------------------------------------


async def test_a_slow_client_loses_nothing_and_costs_little(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_EVENTS", 100)
    monkeypatch.setattr(stream, "PAGE", 50)
    slow, quick = await radio.tuned(), await radio.tuned()
    slow.deaf()
    listener = next(iter(radio.feed._listeners))
    kept = []
    for _ in range(200):
        radio.say(10)
        await asyncio.sleep(0.001)
        kept.append(listener._events)
    await until(lambda: quick.last_id == "2000")
    assert slow.told == []
    assert max(kept) <= 100
    assert not listener.live
    # It reads on at its own pace, a page at a time.
    slow.hears_again()
    await until(lambda: slow.last_id == "2000")
    radio.say()
    await until(lambda: slow.last_id == "2001")
    assert slow.seqs == quick.seqs == list(range(1, 2002))
    assert listener.live


async def test_a_backlog_is_bounded_in_bytes_too(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_BYTES", 10_000)
    slow, quick = await radio.tuned(), await radio.tuned()
    slow.deaf()
    listener = next(iter(radio.feed._listeners))
    for n in range(60):
        radio.say(reason="x" * 900)
        await until(lambda n=n: quick.last_id == str(n + 1))
        assert listener._bytes <= 10_000
    slow.hears_again()
    await until(lambda: slow.last_id == "60")
    assert slow.seqs == list(range(1, 61))


async def test_who_takes_nothing_for_long_is_dropped(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STUCK", 0.1)
    monkeypatch.setattr(stream, "LOOK", 0.02)
    stuck, well = await radio.tuned(), await radio.tuned()
    stuck.deaf()
    radio.say()
    await until(lambda: radio.feed.listeners == 1)
    await until(stuck.task.done)
    assert stuck.aborted
    assert not stuck.ended
    radio.say()
    await until(lambda: well.seqs == [1, 2])
    assert not well.task.done()
    # It comes back.
    again = await radio.tuned(stuck.last_id)
    await until(lambda: again.seqs == [1, 2])


# -- coming and going -------------------------------------------------------------------------


async def test_without_listeners_nothing_is_read(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK", 0.01)
    radio.say(5)
    await asyncio.sleep(0.05)
    assert radio.store.reads == 0
    tasks = asyncio.all_tasks()
    for _ in range(3):
        ear = await radio.tuned()
        radio.say()
        await until(lambda ear=ear: ear.told)
        await ear.leave()
        assert ear.ended is False
    assert radio.feed.listeners == 0
    assert radio.figures.counts == [0, 1, 0, 1, 0, 1, 0]
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() <= tasks | {t for t in asyncio.all_tasks() if t.done()}
    reads = radio.store.reads
    radio.say(5)
    await asyncio.sleep(0.05)
    assert radio.store.reads == reads


async def test_who_goes_while_it_is_deaf(radio: Radio) -> None:
    ear = await radio.tuned()
    ear.deaf()
    radio.say()
    await asyncio.sleep(0.03)
    ear._gone.set()
    await ear.task
    assert radio.feed.listeners == 0


async def test_the_end_of_the_service_ends_all_streams_at_once(radio: Radio) -> None:
    tasks = asyncio.all_tasks()
    radio.store.add(5)
    ears = [await radio.tuned() for _ in range(20)]
    deaf = ears[0]
    deaf.deaf()
    gate = threading.Event()
    radio.store.before_read = lambda after: cast(None, gate.wait(10))
    reading = radio.tune(0)
    radio.say()
    await until(lambda: radio.feed._pages)
    # The server says so first, and stops the feed when its own work is done.
    radio.feed.end()
    await asyncio.gather(*(ear.task for ear in ears[1:]), reading.task)
    assert all(ear.ended for ear in [*ears[1:], reading])
    await deaf.task
    assert radio.feed.listeners == 0
    await radio.off()
    assert deaf.aborted
    assert asyncio.all_tasks() < tasks, "nothing is left behind"
    late = radio.tune()
    await late.task
    assert late.status == 503
    gate.set()


async def test_a_feed_that_failed_is_begun_again(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is ready again: then it tells its listeners again, too."""
    await radio.off()
    good = radio.feed._serve
    to_fail = asyncio.Event()

    async def serve(loop: asyncio.AbstractEventLoop) -> None:
        serving = asyncio.create_task(good(loop))
        failing = asyncio.create_task(to_fail.wait())
        await asyncio.wait((serving, failing), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        failing.cancel()
        if to_fail.is_set():
            to_fail.clear()
            raise ValueError("boom")

    monkeypatch.setattr(Supervisor, "FIRST", 0.05)
    monkeypatch.setattr(Supervisor, "STABLE", 0.01)
    monkeypatch.setattr(radio.feed, "_serve", serve)
    with capture_logs():
        keeper = Supervisor(Fence(structlog.get_logger()))
        radio.task = asyncio.create_task(keeper.keep("tell listeners", radio.feed.run))
        await until(lambda: not radio.feed.down)
        radio.store.add(3)
        ear = await radio.tuned(1)
        await until(lambda: ear.seqs == [2, 3])
        to_fail.set()
        await ear.task
        refused = radio.tune(3)
        await refused.task
        assert refused.status == 503
        await until(lambda: not keeper.down)
        radio.say(2)
        again = await radio.tuned(3)
        await until(lambda: again.seqs == [4, 5])
        radio.say()
        await until(lambda: again.seqs == [4, 5, 6])
    radio.feed.end()
    await again.task
    late = radio.tune()
    await late.task
    assert late.status == 503


async def test_the_store_is_away(radio: Radio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LOOK", 0.02)
    monkeypatch.setattr(stream, "PATIENCE", 0.05)
    radio.store.add(3)
    there = await radio.tuned()
    with capture_logs() as logs:
        radio.store.away = True
        radio.say(2)
        resuming, new = radio.tune(1), radio.tune()
        await until(lambda: new.status == resuming.status == 200)
        await asyncio.sleep(0.1)
        assert not there.task.done()
        radio.store.away = False
        await until(lambda: there.seqs == [4, 5])
        await until(lambda: resuming.seqs == [2, 3, 4, 5])
        await until(lambda: not radio.feed._trouble)
    assert [entry["event"] for entry in logs] == [
        "the event stream waits for the store",
        "the event stream goes on",
    ]
    radio.say()
    await until(lambda: new.seqs[-1:] == [6])


async def test_the_store_is_away_from_the_beginning(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK", 0.02)
    monkeypatch.setattr(stream, "PATIENCE", 0.05)
    monkeypatch.setattr(stream, "KEEP_ALIVE", 0.05)
    radio.store.away = True
    radio.store.add(3)
    resuming, new = radio.tune(1), radio.tune()
    await until(lambda: new.comments > 1 and resuming.comments > 1)
    assert new.last_id == ""
    radio.store.away = False
    await until(lambda: resuming.seqs == [2, 3])
    await until(lambda: new.last_id == "3")
    radio.say()
    await until(lambda: new.seqs == [4])


async def test_a_reading_that_fails_in_an_unforeseen_way(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK", 0.02)
    ear = await radio.tuned()

    def breaks(after: int) -> None:
        raise KeyError("who would have thought")

    radio.store.before_read = breaks
    radio.say()
    await asyncio.sleep(0.06)
    assert not radio.task.done(), "the phones go on"
    radio.store.before_read = lambda after: None
    await until(lambda: ear.seqs == [1])


async def test_woken_from_any_thread(radio: Radio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LOOK", 60.0)
    ear = await radio.tuned()
    await asyncio.to_thread(radio.say, 2)
    await until(lambda: ear.seqs == [1, 2])
    radio.say()
    await until(lambda: ear.seqs == [1, 2, 3])


async def test_readings_are_gathered(radio: Radio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "GATHER", 60.0)
    ear = await radio.tuned()
    reads = radio.store.reads
    for _ in range(50):
        radio.say()
        await asyncio.sleep(0)
    assert radio.store.reads == reads, "only so often, however often it is woken"
    assert ear.told == []


# -- over a real socket -----------------------------------------------------------------------


class Socket:
    """HTTP/1.1 by hand: the bytes of the stream, without the chunks' frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.source = Browser()

    @classmethod
    async def to(cls, port: int, path: str) -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**12)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return cls(reader, writer)

    async def hear(self, last_id: str) -> None:
        async with asyncio.timeout(30):
            while self.source.last_id != last_id:
                size = int(await self.reader.readline(), 16)
                assert size, "the stream ended"
                self.source.feed((await self.reader.readexactly(size + 2))[:-2])


async def test_a_socket_that_is_not_read(radio: Radio) -> None:
    class Server(uvicorn.Server):
        def install_signal_handlers(self) -> None: ...

    config = uvicorn.Config(radio.app, port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        slow = await Socket.to(port, "/events?after=0")
        quick = await Socket.to(port, "/events?after=0")
        hearing = asyncio.create_task(quick.hear("4000"))
        for _ in range(200):  # more than the sockets' buffers hold
            radio.say(20, reason="r" * 4000)
            await asyncio.sleep(0.002)
        await hearing
        listeners = list(radio.feed._listeners)
        assert [listener.live for listener in listeners] == [False, True]
        assert all(listener._bytes <= stream.MAX_BYTES for listener in listeners)
        await slow.hear("4000")
        assert slow.source.seqs == quick.source.seqs == list(range(1, 4001))
        slow.writer.close()
        await until(lambda: radio.feed.listeners == 1)
        await radio.off()
        assert (await quick.reader.readuntil(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")
        quick.writer.close()
    finally:
        await server.shutdown()


# -- the documentation ------------------------------------------------------------------------


async def test_the_route_is_documented(radio: Radio) -> None:
    routes = (await radio.dispatcher.framework()).routes
    document = get_openapi(title="", version="", routes=routes)
    operation = document["paths"]["/events"]["get"]
    assert {p["name"] for p in operation["parameters"]} == {
        "agent",
        "queue",
        "type",
        "source",
        "after",
        "Last-Event-ID",
    }
    assert set(operation["responses"]) == {"200", "400", "503"}
    content = operation["responses"]["200"]["content"]
    assert list(content) == ["text/event-stream"]
    schema = content["text/event-stream"]["itemSchema"]["properties"]["data"]["contentSchema"]
    assert set(schema["properties"]) == {*EVENT_FIELDS, "seq"}
    assert schema["properties"]["type"]["enum"] == [member.value for member in EventType]
    for word in ("Last-Event-ID", "reset", "after"):
        assert word in operation["description"]
