"""A listener of the event stream, while phones and programs make events and the service is killed
again and again: in the end it has what the store has, once, in order."""

import asyncio
import contextlib
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from fastagi.demo.asterisk import free_port
from tests.api.listening import Browser
from tests.journey.parts import Line, Service, until

pytestmark = pytest.mark.asterisk

MakeService = Callable[..., Service]

CREW = 40
EVENTS = 500  # at least
TOKEN = "a-token-that-nobody-would-guess"
CODES = {"login": "{agent}", "pause": "1", "unpause": "", "logoff": ""}


def configured(make_service: MakeService) -> tuple[Service, int]:
    port = free_port()
    service = make_service(
        agents=[
            {"number": str(5000 + n), "name": f"Agent {n}", "queues": ["sales", "support"]}
            for n in range(CREW)
        ],
        devices=[{"match": "XXXX", "context": "phones", "interface": "PJSIP/{extension}"}],
        unplugged=None,
        http={"listen": f"127.0.0.1:{port}", "tokens": {"switchboard": TOKEN}},
    )
    return service, port


class Listener:
    """Comes back after every interruption, as a browser does: with the last id it has seen."""

    def __init__(self, port: int, **query: str) -> None:
        self._port = port
        self._path = f"/events?{urlencode(query)}"
        self.browser = Browser()
        self.connections = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._listen()
            # What was not dispatched is forgotten with the connection.
            told, self.browser = self.browser.told, Browser(self.browser.last_id)
            self.browser.told = told
            await asyncio.sleep(0.05)

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = (
                f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            )
            if self.browser.last_id:
                head += f"Last-Event-ID: {self.browser.last_id}\r\n"
            writer.write(f"{head}\r\n".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            self.connections += 1
            while size := int(await reader.readuntil(b"\r\n"), 16):
                self.browser.feed((await reader.readexactly(size + 2))[:-2])
        finally:
            writer.close()

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def ids(self) -> list[tuple[int, str]]:
        return [(int(told.id), told.data["id"]) for told in self.browser.told]


async def post(port: int, path: str, body: dict[str, str]) -> int:
    """The status; 0 when the service is away."""
    content = json.dumps(body).encode()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        answer = await reader.read()
        writer.close()
    except OSError:
        return 0
    return int(answer.split(b" ", 2)[1]) if answer else 0


def stored(service: Service, where: str = "") -> list[tuple[int, str]]:
    with contextlib.closing(sqlite3.connect(service.folder / "fastagi.db")) as store:
        return list(store.execute(f"SELECT seq, id FROM events {where} ORDER BY seq"))


def count(service: Service) -> int:
    return len(stored(service))


async def busy(service: Service, port: int, done: asyncio.Event, seed: int) -> Counter[str]:
    """Agents who do one thing after another, from the phone and by a program; another one does
    the same with the same agents at the same time."""
    chance = random.Random(seed)
    outcomes: Counter[str] = Counter()
    while not done.is_set():
        agent = str(5000 + chance.randrange(CREW))
        action = chance.choice(("login", "login", "pause", "unpause", "logoff"))
        if chance.random() < 0.5:
            try:
                line = await Line.to(service.port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            digits = CODES[action].format(agent=agent)
            outcomes["phone " + await line.call(action, digits, agent)] += 1
        else:
            path = f"/0.1/agents/by-number/{agent}/{action}"
            body = {"extension": agent, "context": "phones"} if action == "login" else {}
            status = await post(port, path, body)
            outcomes[f"api {status}"] += 1
            if not status:
                await asyncio.sleep(0.05)
    return outcomes


@pytest.fixture
async def listen() -> Any:
    made: list[Listener] = []

    def make(port: int, **query: str) -> Listener:
        made.append(Listener(port, **query))
        return made[-1]

    yield make
    for listener in made:
        await listener.stop()


async def test_all_events_once_in_order_whatever_happens_to_the_service(
    make_service: MakeService, listen: Callable[..., Listener]
) -> None:
    service, port = configured(make_service)
    whole = listen(port)
    pauses = listen(port, type="agent-pause", source="api")
    one = listen(port, agent="5003")
    await until(lambda: all(x.browser.last_id for x in (whole, pauses, one)))
    start = len(stored(service))
    done = asyncio.Event()
    makers = [asyncio.create_task(busy(service, port, done, seed)) for seed in range(6)]
    for part in (1, 2):
        await until(lambda part=part: count(service) - start >= EVENTS * part // 3, within=40)
        service.kill()
        # Some more happen to be on their way now, and nobody answers.
        await asyncio.sleep(0.1)
        await asyncio.to_thread(service.start)
    await until(lambda: count(service) - start >= EVENTS, within=40)
    done.set()
    outcomes = sum(await asyncio.gather(*makers), Counter[str]())
    # Nothing is on its way any more: what a kill left half done is settled, too.
    await until(lambda: service.members() == service.meant(), what="store and Asterisk agree")
    last = stored(service)[-1][0]
    await until(lambda: whole.browser.last_id == str(last))
    print(dict(outcomes))
    print(
        f"{len(whole.ids)} events over {whole.connections} connections;"
        f" {len(pauses.ids)} pauses by a program; {len(one.ids)} of one agent"
    )
    assert whole.connections >= 3
    assert len(whole.ids) >= EVENTS
    sources = Counter(told.data["source"] for told in whole.browser.told)
    assert sources["phone"] > EVENTS / 10
    assert sources["api"] > EVENTS / 10
    assert whole.ids == stored(service)
    filtered = {
        pauses: stored(service, "WHERE type = 'agent-pause' AND source = 'api'"),
        one: stored(service, "WHERE agent = '5003'"),
    }
    for listener, expected in filtered.items():
        await until(lambda li=listener, ex=expected: len(li.ids) >= len(ex))
        assert listener.ids == expected
    # Who comes only now, and wants everything, is told the same.
    late = listen(port, after="0")
    await until(lambda: late.browser.last_id == str(last))
    assert late.ids == whole.ids
    assert [t.data for t in late.browser.told] == [t.data for t in whole.browser.told]


async def test_the_stream_ends_with_the_service(
    make_service: MakeService, listen: Callable[..., Listener]
) -> None:
    """It does not wait for listeners, and they are told that the stream is over."""
    service, port = configured(make_service)
    listeners = [listen(port) for _ in range(20)]
    await until(lambda: all(x.browser.last_id for x in listeners))
    line = await Line.to(service.port)
    assert await line.call("login", "5001", "5001") == "LOGGED_IN"
    await until(lambda: all(x.ids for x in listeners))
    assert await asyncio.to_thread(service.stop, 10) == 0
    assert not service.logged("requests were cut off")
    await asyncio.to_thread(service.start)
    assert await (await Line.to(service.port)).call("logoff", "", "5001") == "LOGGED_OFF"
    await until(lambda: all(len(x.ids) == 2 for x in listeners))
    assert all(x.ids == stored(service) for x in listeners)
