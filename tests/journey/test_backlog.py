"""What could not be told waits, then is told: all of it, in order, once."""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import Censor, Line, Peer, Service, until
from tests.journey.test_sinks import lamps, rows

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # pyst2's use of threading
    pytest.mark.asterisk,
]

TOLD = ("UserEvent", "QueueLog", "Setvar")
UP = "connected to Asterisk's manager interface"


@pytest.fixture
def censor(asterisk: Asterisk) -> Iterator[Censor]:
    with Censor(asterisk.ami_port) as made:
        yield made


MakeService = Callable[..., Service]
SETTINGS: dict[str, Any] = {
    "devices": [{"match": "XXXX", "context": "phones", "interface": "PJSIP/{extension}"}],
    "unplugged": None,
}


def crew(count: int) -> list[dict[str, Any]]:
    return [
        {"number": str(5000 + n), "name": f"Agent {n}", "queues": ["sales"]} for n in range(count)
    ]


async def call(service: Service, script: str, digits: str, extension: str) -> str:
    return await (await Line.to(service.port)).call(script, digits, extension)


def events(service: Service) -> list[dict[str, Any]]:
    out = service.fastagi("events", "--json", "--last", "100000")
    return [json.loads(line) for line in out.splitlines()]


def owed(service: Service) -> int:
    with sqlite3.connect(service.folder / "fastagi.db") as store:
        found: int = store.execute(
            "SELECT count(*) FROM deliveries WHERE parked_at IS NULL"
        ).fetchone()[0]
    return found


def parked(service: Service) -> list[dict[str, Any]]:
    out = service.fastagi("events", "--parked", "--json")
    return [json.loads(line) for line in out.splitlines()]


def told_once_in_order(peer: Peer, stored: Sequence[dict[str, Any]]) -> None:
    order: dict[str, list[str]] = {}
    for fact in peer.facts():
        order.setdefault(fact["Agent"], []).append(fact["EventId"])
    expected: dict[str, list[str]] = {}
    for event in stored:
        expected.setdefault(event["agent"], []).append(event["id"])
    assert order == expected


async def day(service: Service, count: int) -> None:
    """Agents log in, every second one pauses and comes back, every fourth one goes home."""

    async def one(n: int) -> None:
        agent = str(5000 + n)
        steps = [("login", agent, "LOGGED_IN")]
        if n % 2 == 0:
            steps += [("pause", "1", "PAUSED"), ("unpause", "", "UNPAUSED")]
        if n % 4 == 0:
            steps += [("logoff", "", "LOGGED_OFF")]
        for script, digits, outcome in steps:
            assert await call(service, script, digits, agent) == outcome

    for begin in range(0, count, 20):
        await asyncio.gather(*(one(n) for n in range(begin, min(begin + 20, count))))


async def test_asterisk_is_away_with_hundreds_waiting(
    make_service: MakeService, censor: Censor, asterisk: Asterisk
) -> None:
    """And more comes meanwhile."""
    service = make_service(wire=censor, agents=crew(200), **SETTINGS)
    before = asterisk.queue_log_path.read_text()
    censor.denied = TOLD
    await day(service, 200)
    assert len(events(service)) == 450
    waiting = owed(service)
    print("waiting:", waiting)
    assert waiting == 450 + 200 + 50 + 450, "of each sink what it is for"
    asterisk.kill()
    await until(lambda: service.logged("manager link lost"))
    outcomes = Counter([await call(service, "login", str(5000 + 4 * n), "7001") for n in range(50)])
    assert outcomes == {"UNAVAILABLE": 50}
    await asyncio.sleep(3)
    censor.cut()
    censor.denied = ()
    asterisk.start()
    async with Peer(asterisk) as peer:
        censor.mend()
        await until(lambda: owed(service) == 0, within=60)
        stored = events(service)
        print("in all:", Counter(event["type"] for event in stored))
        await until(lambda: len(peer.facts()) >= len(stored))
        await asyncio.sleep(0.5)
        told_once_in_order(peer, stored)
    assert stored[-1]["type"] == "repair"
    assert parked(service) == []
    for n in range(200):
        written = [row.split("|")[1] for row in rows(asterisk, before, str(5000 + n))]
        written = [name for name in written if name.startswith("AGENTCALLBACK")]
        assert written == ["AGENTCALLBACKLOGIN", "AGENTCALLBACKLOGOFF"][: 2 if n % 4 == 0 else 1]
    for n in (0, 1, 2, 3):
        logged_in = "NOT_INUSE" if n == 0 else "INUSE"
        paused = lamps(asterisk, str(5000 + n))["pause"]
        assert lamps(asterisk, str(5000 + n))["agent"] == logged_in
        assert paused in ("NOT_INUSE", "")


async def test_stopped_again_and_again_while_it_flows(
    make_service: MakeService, censor: Censor, asterisk: Asterisk, peer: Peer
) -> None:
    """SIGTERM marks what has arrived: nothing is told twice."""
    service = make_service(wire=censor, agents=crew(400), **SETTINGS)
    censor.denied = TOLD
    await day(service, 400)
    stored = events(service)
    assert len(stored) == 900
    assert service.stop() == 0
    censor.denied = ()
    left = []
    for _ in range(6):
        heard, links = len(peer.facts()), len(service.logged(UP))
        service.spawn()
        # The peer may still be reading what the one before has told.
        await until(lambda links=links: len(service.logged(UP)) > links)  # type: ignore[misc]
        await until(lambda heard=heard: len(peer.facts()) > heard or not owed(service))
        assert service.stop() == 0
        left.append(owed(service))
    print("left after each stop:", left)
    service.start()
    await until(lambda: owed(service) == 0)
    await until(lambda: len(peer.facts()) >= len(stored))
    await asyncio.sleep(0.5)
    told_once_in_order(peer, stored)


async def test_killed_while_it_flows(
    make_service: MakeService, censor: Censor, asterisk: Asterisk, peer: Peer
) -> None:
    """kill -9: what was on its way comes once more, with its id, and nothing else does."""
    service = make_service(wire=censor, agents=crew(400), **SETTINGS)
    censor.denied = TOLD
    await day(service, 400)
    stored = events(service)
    service.stop()
    censor.denied = ()
    heard = len(peer.facts())
    service.spawn()
    await until(lambda: len(peer.facts()) > heard)
    service.kill()
    service.start()
    await until(lambda: owed(service) == 0)
    ids = {event["id"] for event in stored}
    await until(lambda: {fact["EventId"] for fact in peer.facts()} == ids)
    await asyncio.sleep(0.5)
    counts = Counter(fact["EventId"] for fact in peer.facts())
    print("heard:", Counter(counts.values()))
    assert max(counts.values()) <= 2
    order: dict[str, list[str]] = {}
    for fact in peer.facts():
        its = order.setdefault(fact["Agent"], [])
        if fact["EventId"] not in its:
            its.append(fact["EventId"])
    for agent, its in order.items():
        assert its == [event["id"] for event in stored if event["agent"] == agent]


# -- poison -----------------------------------------------------------------------------------


def corrupt(service: Service, agent: str, type: str, what: str) -> str:
    """Changes the event's row by hand, as a disk or an admin might; its id."""
    assert service.process is None
    with sqlite3.connect(service.folder / "fastagi.db") as store:
        (id,) = store.execute(
            "SELECT id FROM events WHERE agent = ? AND type = ?", (agent, type)
        ).fetchone()
        store.execute(f"UPDATE events SET {what} WHERE id = ?", (id,))
    return str(id)


@pytest.mark.parametrize(
    ("spoilt", "mended", "sinks"),
    [
        ("extension = '10|01'", "extension = '5000'", {"queue_log"}),
        ("extension = 'a' || char(10) || 'b'", "extension = '5000'", {"queue_log", "user_event"}),
        (
            "type = 'agent-of-tomorrow'",
            "type = 'agent-login'",
            {"queue_log", "user_event", "lamp"},
        ),
        ("queues = '[\"sales'", "queues = '[\"sales\"]'", {"queue_log", "user_event", "lamp"}),
    ],
)
async def test_a_poison_delivery_is_parked_listed_and_retried(
    make_service: MakeService,
    censor: Censor,
    asterisk: Asterisk,
    peer: Peer,
    spoilt: str,
    mended: str,
    sinks: set[str],
) -> None:
    """And holds nobody up, not even its own agent's later events."""
    service = make_service(wire=censor, agents=crew(20), **SETTINGS)
    censor.denied = TOLD
    await day(service, 20)
    stored = events(service)
    service.stop()
    poison = corrupt(service, "5000", "agent-login", spoilt)
    rest = [event["id"] for event in events(service) if event["id"] != poison]
    assert rest == [event["id"] for event in stored if event["id"] != poison]
    censor.denied = ()
    service.start()
    others = [event for event in stored if event["id"] != poison]
    await until(lambda: owed(service) == 0, within=30)
    await until(lambda: len(peer.facts()) >= len(others))
    await asyncio.sleep(0.5)
    told_once_in_order(peer, stored if "user_event" not in sinks else others)
    given_up = parked(service)
    print([(p["sink"], p["error"], p["attempts"]) for p in given_up])
    assert {p["sink"] for p in given_up} == sinks
    assert {(p["event"], p["agent"]) for p in given_up} == {(poison, "5000")}
    assert all(p["error"] and p["parked_at"] for p in given_up)
    listed = service.fastagi("events", "--parked")
    assert listed.count(poison) == len(sinks)
    # Service and codes go on.
    assert await call(service, "pause", "1", "5001") == "PAUSED"
    await until(lambda: peer.facts()[-1]["Agent"] == "5001")
    heard = len(peer.facts())
    # Retried as it is, it is parked again; somebody mends the row, and it goes.
    assert service.fastagi("events", "--retry", poison).startswith(str(len(sinks)))
    await until(lambda: len(parked(service)) == len(sinks), within=30)
    with sqlite3.connect(service.folder / "fastagi.db") as store:
        store.execute(f"UPDATE events SET {mended} WHERE id = ?", (poison,))
    assert service.fastagi("events", "--retry", "all").startswith(str(len(sinks)))
    await until(lambda: not parked(service) and not owed(service), within=30)
    service.fastagi("events", "--retry", "all", status=1)
    expected = [poison] if "user_event" in sinks else []
    await until(lambda: len(peer.facts()) >= heard + len(expected))
    await asyncio.sleep(0.5)
    assert [fact["EventId"] for fact in peer.facts()[heard:]] == expected
