"""Two services, one PostgreSQL: whichever answers, and whichever dies, it is one house."""

import asyncio
import contextlib
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fastagi import config
from fastagi.demo.asterisk import Asterisk, clipped
from fastagi.demo.equipment import Equipment
from fastagi.demo.phone import Phone
from fastagi.dialplan import render_dialplan, render_manager
from tests.conftest import TEST_DIALPLAN
from tests.journey.parts import (
    AFTER,
    Censor,
    Desk,
    Line,
    Peer,
    Service,
    Wire,
    sample,
    shown,
    until,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # pyst2's use of threading
    pytest.mark.postgres,
    pytest.mark.asterisk,
]

AT_ONCE = 24
QUEUES = ("sales", "support")
Event = dict[str, Any]


def crew(count: int, first: int = 5000) -> list[dict[str, Any]]:
    """Agents from 5000 on."""
    return [
        {"number": str(first + n), "name": f"Agent {n}", "queues": list(QUEUES)}
        for n in range(count)
    ]


class Pair:
    """Two services, each with its own way to Asterisk."""

    def __init__(self, services: Sequence[Service], wires: Sequence[Wire]) -> None:
        self.one, self.two = services
        self.services = services
        self.wires = wires

    def events(self, *types: str) -> list[Event]:
        """All there are, the oldest first."""
        return everything(self.two, *types)

    async def call(self, service: Service, script: str, digits: str, extension: str) -> str:
        """As the dialplan does: where one does not answer, or dies in the call, the other one is
        asked."""
        for asked in (service, self.two if service is self.one else self.one):
            with contextlib.suppress(OSError):
                if outcome := await (await Line.to(asked.port)).call(script, digits, extension):
                    return outcome
        return ""

    async def agrees(self) -> None:
        """In the end the store, both services' word for it and Asterisk are of one mind; and it
        stays so."""
        await until(lambda: self.two.members() == self.two.meant(), within=60)
        for queue in self.two.asterisk.queues.values():
            there = shown(self.two.asterisk.cli(f"queue show {queue}"))
            assert len(there) == len(set(there)), "no double member"


def everything(service: Service, *types: str) -> list[Event]:
    out = service.fastagi("events", "--json", "--last", "100000")
    found = [json.loads(line) for line in out.splitlines()]
    return [event for event in found if not types or event["type"] in types]


@pytest.fixture
def make_pair(
    make_service: Callable[..., Service], asterisk: Asterisk, postgres_url: str
) -> Iterator[Callable[..., Pair]]:
    with contextlib.ExitStack() as stack:

        def make(*, wire: type[Wire] = Wire, **changes: Any) -> Pair:
            settings = {
                "database": postgres_url,
                "devices": [
                    {"match": "XXXX", "context": "phones", "interface": "PJSIP/{extension}"}
                ],
                "unplugged": None,
                "login": {"already_elsewhere": "refuse"},
                "reconcile": {"every": "3s"},
                **changes,
            }
            wires = [stack.enter_context(wire(asterisk.ami_port)) for _ in range(2)]
            services = [
                make_service(name=name, wire=its, **settings)
                for name, its in zip(("one", "two"), wires, strict=True)
            ]
            return Pair(services, wires)

        yield make


async def each(jobs: Sequence[Callable[[], Awaitable[None]]], at_once: int = AT_ONCE) -> None:
    """All of them, so many at a time."""
    free = asyncio.Semaphore(at_once)

    async def one(job: Callable[[], Awaitable[None]]) -> None:
        async with free:
            await job()

    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(one(job))


async def race(*entries: tuple[Service, str, str]) -> list[str]:
    """Logins (service, agent, extension) that begin in one instant; their outcomes."""
    lines = [await Line.to(service.port) for service, _, _ in entries]
    return await asyncio.gather(
        *(
            line.call("login", agent, extension)
            for line, (_, agent, extension) in zip(lines, entries, strict=True)
        )
    )


def by_agent(events: Sequence[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event["agent"], []).append(event)
    return found


async def heard_all(peer: Peer, events: Sequence[Event]) -> Counter[str]:
    """How often the peer heard each event, once it has heard all; each agent's in their order."""
    ids = {event["id"] for event in events}
    await until(lambda: ids <= {fact["EventId"] for fact in peer.facts()}, within=60)
    await asyncio.sleep(0.5)  # a second time would come by now
    facts = peer.facts()
    order: dict[str, list[str]] = {}
    for fact in facts:
        its = order.setdefault(fact["Agent"], [])
        if fact["EventId"] not in its:
            its.append(fact["EventId"])
    for agent, its in by_agent(events).items():
        assert order[agent] == [event["id"] for event in its], agent
    return Counter(fact["EventId"] for fact in facts if fact["EventId"] in ids)


# -- races ------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
async def test_one_agent_on_two_phones_at_the_same_instant(
    make_pair: Callable[..., Pair], peer: Peer
) -> None:
    """A thousand times: one is in, the other one is told where the agent is."""
    agents = [str(5000 + n) for n in range(1000)]
    pair = make_pair(agents=crew(1000))
    outcomes: Counter[tuple[str, ...]] = Counter()
    winner: dict[str, str] = {}

    async def one(agent: str) -> None:
        phones = (agent, f"8{agent[1:]}")
        entries = list(zip(pair.services, (agent, agent), phones, strict=True))
        if random.random() < 0.5:
            entries.reverse()
        told = await race(*entries)
        outcomes[tuple(sorted(told))] += 1
        winner[agent] = entries[told.index("LOGGED_IN")][2] if "LOGGED_IN" in told else ""

    await each([lambda agent=agent: one(agent) for agent in agents])
    print("one agent, two phones:", dict(outcomes))
    assert outcomes == {("LOGGED_IN", "LOGGED_IN_ELSEWHERE"): 1000}
    events = pair.events()
    assert Counter(e["type"] for e in events) == {"agent-login": 1000, "login-refused": 1000}
    assert len({event["id"] for event in events}) == 2000
    assert {e["agent"]: e["extension"] for e in events if e["type"] == "agent-login"} == winner
    assert {e["source"] for e in events} == {"phone"}
    await pair.agrees()
    assert [len(pair.two.members()[queue]) for queue in QUEUES] == [1000, 1000]
    assert set((await heard_all(peer, events)).values()) == {1}, "each once"


@pytest.mark.timeout(400)
async def test_two_agents_at_one_phone_at_the_same_instant(
    make_pair: Callable[..., Pair], peer: Peer
) -> None:
    """And, by turns, everybody off again: on the phone itself, through the other service."""
    pair = make_pair(agents=crew(200))
    phones = [str(6000 + n) for n in range(100)]
    outcomes: Counter[tuple[str, ...]] = Counter()
    rounds = 10

    async def one(n: int, round: int) -> None:
        pairs = [str(5000 + 2 * n), str(5001 + 2 * n)]
        random.shuffle(pairs)
        told = await race(
            *((s, agent, phones[n]) for s, agent in zip(pair.services, pairs, strict=True))
        )
        outcomes[tuple(sorted(told))] += 1
        if round < rounds - 1:
            loser = pair.services[1 - told.index("LOGGED_IN")]
            off = await (await Line.to(loser.port)).call("logoff", "", phones[n])
            assert off == "LOGGED_OFF"

    for round in range(rounds):
        await each([lambda n=n, round=round: one(n, round) for n in range(100)])
    print("two agents, one phone:", dict(outcomes))
    assert outcomes == {("EXTENSION_IN_USE", "LOGGED_IN"): 1000}
    events = pair.events()
    assert Counter(e["type"] for e in events) == {
        "agent-login": 1000,
        "login-refused": 1000,
        "agent-logout": 900,
    }
    assert len({event["id"] for event in events}) == 2900
    await pair.agrees()
    assert [len(pair.two.members()[queue]) for queue in QUEUES] == [100, 100]
    assert set((await heard_all(peer, events)).values()) == {1}, "each once"


# -- one of them dies ---------------------------------------------------------------------------


@pytest.mark.timeout(400)
async def test_one_is_killed_in_the_middle(make_pair: Callable[..., Pair], peer: Peer) -> None:
    """A thousand agents log in and pause through both; one service is gone at once, and nobody
    has to wait for what it was at."""
    pair = make_pair(agents=crew(1000))
    outcomes: Counter[tuple[str, str]] = Counter()
    told: dict[str, list[str]] = {}

    async def one(n: int) -> None:
        agent = str(5000 + n)
        if n == 500:
            pair.one.kill()
        for script, digits in (("login", agent), ("pause", "1")):
            service = random.choice(pair.services)
            outcome = await pair.call(service, script, digits, agent)
            outcomes[script, outcome] += 1
            told.setdefault(agent, []).append(outcome)

    await each([lambda n=n: one(n) for n in range(1000)])
    print("killed in the middle:", dict(outcomes))
    settled = pair.two.logged("an unconfirmed change was settled")
    print("settled by the survivor:", Counter((s["command"], s["how"]) for s in settled))
    assert set(outcomes) <= {
        ("login", "LOGGED_IN"),
        ("login", "ALREADY_LOGGED_IN"),  # asked the other one, as the answer was lost
        ("pause", "PAUSED"),
        ("pause", "ALREADY_PAUSED"),
    }
    await pair.agrees()
    agents = pair.two.agents()
    assert {(a["status"], a["pause_reason"]) for a in agents.values()} == {("paused", "lunch")}
    events = pair.events()
    assert len({event["id"] for event in events}) == len(events)
    for agent, its in by_agent(events).items():
        facts = [(e["type"], e["source"]) for e in its if e["type"] != "login-refused"]
        assert facts == [("agent-login", "phone"), ("agent-pause", "phone")], agent
    refused = [e for e in events if e["type"] == "login-refused"]
    assert {e["reason"] for e in refused} <= {"UNAVAILABLE"}
    assert len(refused) <= sum(s["how"] == "taken back" for s in settled)
    counts = await heard_all(peer, events)
    print("heard:", Counter(counts.values()), "of", len(events))
    twice = {id for id, count in counts.items() if count > 1}
    assert max(counts.values()) <= 2
    # Only what was on its way in that instant: a batch for the one sink.
    assert len(twice) <= 500
    with psycopg.connect(pair.two.settings()["database"]) as store:
        assert store.execute("SELECT count(*) FROM intents").fetchone() == (0,)
        assert store.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)


@pytest.mark.parametrize("script", ["login", "pause"])
async def test_killed_with_many_changes_open(
    make_pair: Callable[..., Pair], peer: Peer, script: str
) -> None:
    """Asterisk has done them, and nobody has confirmed them. The callers ask the other service."""
    pair = make_pair(agents=crew(40))
    agents = [str(5000 + n) for n in range(40)]
    digits = {agent: agent if script == "login" else "1" for agent in agents}
    if script == "pause":
        for agent in agents:
            assert await pair.call(pair.two, "login", agent, agent) == "LOGGED_IN"
    pair.wires[0].hold_answers("QueueAdd" if script == "login" else "QueuePause")
    calls = [
        asyncio.create_task(pair.call(pair.one, script, digits[agent], agent)) for agent in agents
    ]
    await until(lambda: pair.wires[0].holds)
    with psycopg.connect(pair.two.settings()["database"], autocommit=True) as store:
        await until(lambda: store.execute("SELECT count(*) FROM intents").fetchone() == (40,))
    pair.one.kill()
    pair.wires[0].release()
    outcomes = Counter(await asyncio.gather(*calls))
    settled = pair.two.logged("an unconfirmed change was settled")
    print("open at the kill:", dict(outcomes), "settled:", Counter(s["how"] for s in settled))
    events = pair.events()
    if script == "login":
        # Taken back, and carried out for who asked again.
        assert outcomes == {"LOGGED_IN": 40}
        assert len(settled) == 40
        types = ["login-refused", "agent-login"]
    else:
        assert set(outcomes) <= {"PAUSED", "ALREADY_PAUSED"}
        types = ["agent-login", "agent-pause"]
    for agent, its in by_agent(events).items():
        assert [e["type"] for e in its] == types, agent
    await pair.agrees()
    assert {e["source"] for e in events} == {"phone"}
    assert set((await heard_all(peer, events)).values()) == {1}


TYPES = {
    "LOGGED_IN": "agent-login",
    "PAUSED": "agent-pause",
    "UNPAUSED": "agent-unpause",
    "LOGGED_OFF": "agent-logout",
}


def shift(agent: str) -> list[tuple[str, str]]:
    return [("login", agent), ("pause", "1"), ("unpause", ""), ("logoff", "")]


def sequel(types: Sequence[str]) -> bool:
    """Whether one agent's events can follow each other so."""
    logged_in = paused = False
    for type in types:
        if type == "agent-login":
            ok, logged_in, paused = not logged_in, True, False
        elif type == "agent-logout":
            ok, logged_in, paused = logged_in, False, False
        elif type == "agent-pause":
            ok, paused = logged_in, True
        elif type == "agent-unpause":
            ok, paused = logged_in and paused, False
        else:
            ok = True
        if not ok:
            return False
    return True


def check(events: Sequence[Event], done: dict[str, list[str]]) -> None:
    """``done``: what callers were told, by agent."""
    assert len({event["id"] for event in events}) == len(events)
    assert {event["source"] for event in events} <= {"phone"}
    for agent, its in by_agent(events).items():
        types = [event["type"] for event in its if event["type"] != "login-refused"]
        assert sequel(types), (agent, types)
        # What a caller was told did happen, in that order.
        rest = iter(types)
        assert all(type in rest for type in done[agent]), (agent, types, done[agent])


async def told_and_done(pair: Pair, peer: Peer, done: dict[str, list[str]]) -> None:
    """What callers were told did happen, in that order; whatever happened, happened once."""
    events = pair.events()
    check(events, done)
    counts = await heard_all(peer, events)
    print("heard:", Counter(counts.values()), "of", len(events))


@pytest.mark.timeout(400)
async def test_either_is_killed_again_and_again(
    make_pair: Callable[..., Pair], peer: Peer, asterisk: Asterisk
) -> None:
    """While calls go on: nothing is done twice, lost, or put down to somebody else."""
    pair = make_pair(agents=crew(60))
    over = asyncio.Event()
    outcomes: Counter[tuple[str, str]] = Counter()
    done: dict[str, list[str]] = {}

    async def one(agent: str) -> None:
        its = done.setdefault(agent, [])
        while not over.is_set():
            for script, digits in shift(agent):
                outcome = await pair.call(random.choice(pair.services), script, digits, agent)
                outcomes[script, outcome] += 1
                its += [TYPES[outcome]] if outcome in TYPES else []
                await asyncio.sleep(random.random() * 0.3)

    async def killer() -> None:
        for turn in range(10):
            service = pair.services[turn % 2]
            await asyncio.sleep(random.uniform(0.5, 2))
            service.kill()
            await asyncio.sleep(random.uniform(0.2, 1))
            began = service.spawn()
            await until(
                lambda service=service, began=began: (  # type: ignore[misc]
                    b'"listening"' in service.log.read_bytes()[began:]
                ),
                within=60,
            )
        over.set()

    async with asyncio.TaskGroup() as group:
        for n in range(60):
            group.create_task(one(str(5000 + n)))
        group.create_task(killer())
    print("killed ten times:", dict(sorted(outcomes.items())))
    await pair.agrees()
    await told_and_done(pair, peer, done)
    for service in pair.services:
        assert service.stop() == 0


async def test_one_is_stopped_and_frees_everything(
    make_pair: Callable[..., Pair], peer: Peer, asterisk: Asterisk
) -> None:
    """SIGTERM in mid-traffic: its calls end well, the other one goes on, and in the store nothing
    is kept for the one that is gone."""
    pair = make_pair(agents=crew(120))
    outcomes: Counter[tuple[str, str]] = Counter()

    def held() -> set[str]:
        """Who has locks or leases in the database, by its connections' processes."""
        with psycopg.connect(pair.two.settings()["database"]) as store:
            rows = store.execute(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchall()
            leases = store.execute(
                "SELECT DISTINCT leased_by FROM deliveries WHERE leased_until > 0"
            ).fetchall()
            owners = store.execute("SELECT DISTINCT owner FROM intents").fetchall()
            others = store.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid()"
            ).fetchall()
            return {
                f"{what} {row[0]}"
                for what, found in (
                    ("lock of", rows),
                    ("lease of", leases),
                    ("intent of", owners),
                    ("connection", others),
                )
                for row in found
            }

    async def one(n: int) -> None:
        agent = str(5000 + n)
        if n == 60:
            pair.one.signal(signal.SIGTERM)
        for script, digits in (("login", agent), ("pause", "1")):
            outcomes[script, await pair.call(pair.services[n % 2], script, digits, agent)] += 1

    await each([lambda n=n: one(n) for n in range(120)])
    assert outcomes == {("login", "LOGGED_IN"): 120, ("pause", "PAUSED"): 120}
    assert pair.one.stop() == 0
    assert pair.two.logged("an unconfirmed change was settled") == []
    await pair.agrees()
    events = pair.events()
    assert len(events) == 240
    assert set((await heard_all(peer, events)).values()) == {1}
    assert pair.two.stop() == 0
    assert held() == set()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["both go on", "one is killed"])
async def test_a_backlog_is_drained_by_both(
    make_pair: Callable[..., Pair], peer: Peer, how: str
) -> None:
    """Each event once, each agent's in their order, whoever takes which."""
    pair = make_pair(wire=Censor, agents=crew(300))
    wires = [wire for wire in pair.wires if isinstance(wire, Censor)]
    for wire in wires:
        wire.denied = ("UserEvent", "QueueLog", "Setvar")

    async def one(n: int) -> None:
        agent = str(5000 + n)
        for script, digits in (("login", agent), ("pause", "1"), ("unpause", ""), ("logoff", "")):
            assert await pair.call(pair.services[n % 2], script, digits, agent)

    await each([lambda n=n: one(n) for n in range(300)])
    events = pair.events()
    assert len(events) == 1200
    assert peer.facts() == []
    for wire in wires:
        wire.denied = ()
    if how == "one is killed":
        await until(lambda: len(peer.facts()) > 100, within=60)
        pair.one.kill()
    with psycopg.connect(pair.two.settings()["database"], autocommit=True) as store:
        await until(
            lambda: store.execute("SELECT count(*) FROM deliveries").fetchone() == (0,), within=60
        )
    counts = await heard_all(peer, events)
    print("a backlog of", len(events), how, "heard:", Counter(counts.values()))
    if how == "both go on":
        assert set(counts.values()) == {1}
    else:
        assert max(counts.values()) <= 2


@pytest.mark.timeout(300)
async def test_the_database_is_cut_again_and_again(
    make_pair: Callable[..., Pair], peer: Peer
) -> None:
    """All connections of both services at once, as when it restarts: neither takes the other one
    for dead, nothing is done twice or lost."""
    pair = make_pair(agents=crew(40))
    over = asyncio.Event()
    outcomes: Counter[tuple[str, str]] = Counter()
    done: dict[str, list[str]] = {}

    async def one(agent: str) -> None:
        its = done.setdefault(agent, [])
        while not over.is_set():
            for script, digits in shift(agent):
                outcome = await pair.call(random.choice(pair.services), script, digits, agent)
                outcomes[script, outcome] += 1
                its += [TYPES[outcome]] if outcome in TYPES else []
                await asyncio.sleep(random.random() * 0.2)

    async def cut() -> None:
        with psycopg.connect(pair.two.settings()["database"], autocommit=True) as admin:
            for _ in range(8):
                await asyncio.sleep(random.uniform(0.3, 2.0))
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                    " current_database() AND pid <> pg_backend_pid()"
                )
        over.set()

    async with asyncio.TaskGroup() as group:
        for n in range(40):
            group.create_task(one(str(5000 + n)))
        group.create_task(cut())
    print("database cut eight times:", dict(sorted(outcomes.items())))
    await pair.agrees()
    await told_and_done(pair, peer, done)


@pytest.mark.timeout(400)
async def test_everything_breaks(make_pair: Callable[..., Pair], asterisk: Asterisk) -> None:
    """Services killed or frozen, links cut, Asterisk killed, the database cut, and calls all the
    while: in the end all agree, and nothing is put down to anybody but who called."""
    pair = make_pair(agents=crew(40))
    over = asyncio.Event()
    outcomes: Counter[tuple[str, str]] = Counter()
    done: dict[str, list[str]] = {}
    faults: Counter[str] = Counter()

    async def one(agent: str) -> None:
        its = done.setdefault(agent, [])
        while not over.is_set():
            for script, digits in shift(agent):
                outcome = await pair.call(random.choice(pair.services), script, digits, agent)
                outcomes[script, outcome] += 1
                its += [TYPES[outcome]] if outcome in TYPES else []
                await asyncio.sleep(random.random() * 0.3)

    async def up(service: Service, began: int) -> None:
        await until(lambda: b'"listening"' in service.log.read_bytes()[began:], within=60)

    async def breaks() -> None:
        with psycopg.connect(pair.two.settings()["database"], autocommit=True) as admin:
            for _ in range(30):
                await asyncio.sleep(random.uniform(0.2, 1.5))
                n = random.randrange(2)
                service, wire = pair.services[n], pair.wires[n]
                fault = random.choice(["kill", "freeze", "link", "asterisk", "database"])
                faults[fault] += 1
                if fault == "kill":
                    service.kill()
                    await asyncio.sleep(random.random())
                    await up(service, service.spawn())
                elif fault == "freeze":
                    service.signal(signal.SIGSTOP)
                    await asyncio.sleep(random.uniform(0.5, 3))
                    service.signal(signal.SIGCONT)
                elif fault == "link":
                    wire.cut()
                    await asyncio.sleep(random.random())
                    wire.mend()
                elif fault == "asterisk":
                    asterisk.kill()
                    await asyncio.sleep(random.random())
                    asterisk.start()
                else:
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                        " current_database() AND pid <> pg_backend_pid()"
                    )
        over.set()

    async with asyncio.TaskGroup() as group:
        for n in range(40):
            group.create_task(one(str(5000 + n)))
        group.create_task(breaks())
    print("faults:", dict(faults), "outcomes:", dict(sorted(outcomes.items())))
    await pair.agrees()
    events = [event for event in pair.events() if event["type"] != "repair"]
    check(events, done)
    with psycopg.connect(pair.two.settings()["database"], autocommit=True) as store:
        for table in ("intents", "deliveries"):
            await until(
                lambda table=table: (  # type: ignore[misc]
                    store.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
                ),
                within=90,
                what=table,
            )
    await pair.agrees()
    assert len([event for event in pair.events() if event["type"] != "repair"]) == len(events)


# -- time ---------------------------------------------------------------------------------------


async def test_what_time_does_is_done_once(make_pair: Callable[..., Pair], peer: Peer) -> None:
    """Forty pauses end at their limits, all at once, under the eyes of both services."""
    pair = make_pair(
        agents=crew(40),
        pause_reasons=[
            {"code": 1, "name": "lunch", "max_duration": "3s", "when_exceeded": "unpause"},
            {"code": 2, "name": "break", "max_duration": "3s", "when_exceeded": "logoff"},
            {"code": 3, "name": "chat", "max_duration": "3s", "when_exceeded": "warn"},
        ],
    )

    async def one(n: int) -> None:
        agent = str(5000 + n)
        assert await pair.call(pair.services[n % 2], "login", agent, agent) == "LOGGED_IN"
        outcome = await pair.call(pair.services[n // 2 % 2], "pause", str(n % 3 + 1), agent)
        assert outcome == "PAUSED"

    await each([lambda n=n: one(n) for n in range(40)])
    await until(lambda: len(pair.events()) == 120, within=30)
    await asyncio.sleep(4)
    await pair.agrees()
    events = pair.events()
    last = ["agent-unpause", "agent-logout", "pause-exceeded"]
    for agent, its in by_agent(events).items():
        assert [event["type"] for event in its[:2]] == ["agent-login", "agent-pause"]
        (what,) = its[2:]
        kind = last[(int(agent) - 5000) % 3]
        assert (what["type"], what["source"]) == (kind, "system"), agent
    assert set((await heard_all(peer, events)).values()) == {1}


# -- Asterisk -----------------------------------------------------------------------------------


@pytest.mark.timeout(400)
async def test_asterisk_is_killed_and_comes_back(
    make_pair: Callable[..., Pair], asterisk: Asterisk
) -> None:
    """Its members are put back once, whoever does it; meanwhile agents come and go through both.
    The second time one of the services hears of it later than the other."""
    pair = make_pair(agents=crew(150))
    stay = [str(5000 + n) for n in range(100)]
    for n, agent in enumerate(stay):
        assert await pair.call(pair.services[n % 2], "login", agent, agent) == "LOGGED_IN"
    for agent in stay[:20]:
        assert await pair.call(pair.two, "pause", "1", agent) == "PAUSED"
    over = asyncio.Event()
    outcomes: Counter[tuple[str, str]] = Counter()

    async def comes_and_goes(agent: str) -> None:
        while not over.is_set():
            for script, digits in (("login", agent), ("logoff", "")):
                outcome = await pair.call(random.choice(pair.services), script, digits, agent)
                outcomes[script, outcome] += 1
                await asyncio.sleep(0.05 + random.random() * 0.2)

    async def restarts() -> None:
        for turn in range(3):
            await asyncio.sleep(1)
            repairs = len(pair.events("repair"))
            late = pair.wires[turn - 1] if turn else None
            if late is not None:
                late.cut()
            asterisk.kill()
            await asyncio.sleep(random.random())
            asterisk.start()

            await until(lambda repairs=repairs: len(pair.events("repair")) > repairs, within=60)
            await asyncio.sleep(2)
            if late is not None:
                late.mend()
            await asyncio.sleep(2)
        over.set()

    async with asyncio.TaskGroup() as group:
        for n in range(100, 150):
            group.create_task(comes_and_goes(str(5000 + n)))
        group.create_task(restarts())
    print("Asterisk killed three times:", dict(sorted(outcomes.items())))
    await pair.agrees()
    events = pair.events()
    repairs = [event["reason"] for event in events if event["type"] == "repair"]
    print("repairs:", repairs)
    assert len(repairs) == 3
    assert {event["source"] for event in events if event["type"] != "repair"} == {"phone"}
    its = by_agent(events)
    for n, agent in enumerate(stay):
        expected = ["agent-login"] + (["agent-pause"] if n < 20 else [])
        assert [event["type"] for event in its[agent]] == expected
    for agent in its:
        assert not agent or sequel([event["type"] for event in its[agent]]), agent
    agents = pair.two.agents()
    assert all(agents[agent]["interface"] for agent in stay)


async def test_what_is_done_at_the_console_is_adopted_once(
    make_pair: Callable[..., Pair], peer: Peer, asterisk: Asterisk
) -> None:
    pair = make_pair(agents=crew(20))
    agents = [str(5000 + n) for n in range(20)]
    for n, agent in enumerate(agents):
        assert await pair.call(pair.services[n % 2], "login", agent, agent) == "LOGGED_IN"

    def told(number: int) -> bool:
        return len(pair.events()) >= number

    steps = [
        ("queue pause member PJSIP/{} queue sales reason coffee", "agent-pause", ["sales"]),
        ("queue unpause member PJSIP/{} queue sales", "agent-unpause", ["sales"]),
        ("queue set penalty 3 on PJSIP/{} in support", "queue-penalty", ["support"]),
        ("queue remove member PJSIP/{} from sales", "queue-leave", ["sales"]),
        ("queue add member PJSIP/{0} to sales penalty 0 as Agent/{0}", "queue-join", ["sales"]),
        ("queue remove member PJSIP/{} from support", "queue-leave", ["support"]),
        ("queue remove member PJSIP/{} from sales", "agent-logout", ["sales"]),
        ("queue add member PJSIP/{0} to support penalty 0 as Agent/{0}", "agent-login", None),
    ]
    for count, (command, _, _) in enumerate(steps, 2):
        for agent in agents:
            await asterisk.ask(command.format(agent))
        await until(lambda count=count: told(20 * count), what=command)
    await pair.agrees()
    await asyncio.sleep(4)  # both compare all once more
    events = pair.events()
    for agent, its in by_agent(events).items():
        assert [(e["type"], e["source"]) for e in its] == [
            ("agent-login", "phone"),
            *((type, "asterisk") for _, type, _ in steps),
        ], agent
        for event, (_, _, queues) in zip(its[1:], steps, strict=True):
            assert event["queues"] == (queues or ["support"])
    assert len(events) == 20 * (len(steps) + 1)
    assert set((await heard_all(peer, events)).values()) == {1}


# -- two services, two Asterisks ------------------------------------------------------------------


class Town(Pair):
    """Asterisks north and south; each service has its own way to each."""

    def __init__(
        self,
        services: Sequence[Service],
        wires: dict[tuple[str, str], Wire],
        north: Asterisk,
        south: Asterisk,
    ) -> None:
        super().__init__(services, list(wires.values()))
        self.by_name = {"north": north, "south": south}
        self.way = wires

    async def dial(
        self, service: Service, script: str, digits: str, place: str, press: str = ""
    ) -> str:
        """``place``: ``north/1001``."""
        asterisk, _, extension = place.partition("/")
        line = await Line.to(service.port)
        return await line.call(script, digits, extension, asterisk=asterisk, press=press)

    def there(self) -> dict[str, list[str]]:
        """Asterisk and queue → its members."""
        return {
            f"{name}/{queue}": sorted(shown(asterisk.cli(f"queue show {queue}")))
            for name, asterisk in self.by_name.items()
            if asterisk.running
            for queue in QUEUES
        }

    def meant(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {f"{name}/{q}": [] for name in self.by_name for q in QUEUES}
        for agent in self.two.agents().values():
            for queue in agent["joined"]:
                paused = f" paused:{agent['pause_reason']}" if agent["paused_since"] else ""
                found[f"{agent['asterisk']}/{queue}"].append(agent["interface"] + paused)
        return {where: sorted(its) for where, its in found.items()}

    async def agrees(self) -> None:
        def of_one_mind() -> bool:
            meant = self.meant()
            return all(its == meant[where] for where, its in self.there().items())

        await until(of_one_mind, within=60)

    def facts(self, *agents: str) -> list[tuple[str, str, str, str, str]]:
        """Type, agent, reason, source, and the Asterisk."""
        with psycopg.connect(self.two.settings()["database"]) as store:
            rows = store.execute(
                "SELECT type, agent, reason, source, asterisk FROM events ORDER BY seq"
            ).fetchall()
        return [(a, b, c, d, e) for a, b, c, d, e in rows if not agents or b in agents]


def lamp(asterisk: Asterisk, name: str) -> str:
    for line in asterisk.cli("devstate list").splitlines():
        if f"'Custom:{name}'" in line:
            return line.split("State: '")[1].split("'")[0]
    return ""


def queue_log(asterisk: Asterisk, agent: str, since: str = "") -> list[str]:
    """The agent's log-ins and log-offs in it, after what was there ``since``."""
    text = asterisk.queue_log_path.read_text().removeprefix(since)
    rows = (line.split("|") for line in text.splitlines())
    return [row[4] for row in rows if row[3] == f"Agent/{agent}" and "CALLBACK" in row[4]]


@pytest.fixture
def south(equipment: Equipment, tmp_path: Path) -> Iterator[Asterisk]:
    program = clipped(equipment.asterisk, tmp_path / "clipped", seconds=0.04)
    folder = tmp_path / "south"
    with Asterisk(folder, program, more_dialplan=TEST_DIALPLAN) as asterisk:
        yield asterisk


@pytest.fixture
def make_town(
    asterisk: Asterisk, south: Asterisk, tmp_path: Path, postgres_url: str
) -> Iterator[Callable[..., Town]]:
    with contextlib.ExitStack() as stack:

        def make(**changes: Any) -> Town:
            both = {"north": asterisk, "south": south}
            services = []
            wires = {}
            for name in ("one", "two"):
                folder = tmp_path / name
                (folder / "config").mkdir(parents=True)
                service = Service(folder, asterisk, ami_port=0)
                stack.callback(service.kill)
                for place, there in both.items():
                    wires[name, place] = stack.enter_context(Wire(there.ami_port))
                settings = sample() | {
                    "fastagi": {"listen": f"127.0.0.1:{service.port}"},
                    "database": postgres_url,
                    "asterisks": [
                        {
                            "name": place,
                            "host": "127.0.0.1",
                            "port": wires[name, place].port,
                            "username": there.ami_username,
                            "secret": there.ami_secret,
                        }
                        for place, there in both.items()
                    ],
                    "devices": [
                        {"match": "XXXX", "context": "phones", "interface": "PJSIP/{extension}"}
                    ],
                    "agents": crew(20),
                    "unplugged": None,
                    "reconcile": {"every": "3s"},
                    **changes,
                }
                del settings["asterisk"]
                service.write(settings)
                services.append(service)
            plan = services[0].settings()
            plan["fastagi"]["standby"] = [f"127.0.0.1:{services[1].port}"]
            services[0].write(plan)
            loaded = config.load(services[0].config)
            for place, there in both.items():
                there.features = render_dialplan(loaded, place) + AFTER
                there.manager_sections = render_manager(loaded, place).replace(
                    "secret = ", f"secret = {there.ami_secret} ;"
                )
                there.reload("dialplan")
                there.reload("manager")
            for service in services:
                service.start()
            town = Town(services, wires, asterisk, south)
            for service in services:
                deadline = 200
                while len(service.logged("connected to Asterisk's manager interface")) < 2:
                    time.sleep(0.05)
                    deadline -= 1
                    assert deadline, service.log.read_text()
            return town

        yield make


async def test_an_agent_moves_from_one_asterisk_to_the_other(
    make_town: Callable[..., Town],
    asterisk: Asterisk,
    south: Asterisk,
    desk: Any,
    peer: Peer,
    equipment: Equipment,
    tmp_path: Path,
) -> None:
    """With real phones, which have the same extension on both."""
    before = asterisk.queue_log_path.read_text()
    town = make_town()
    here: Desk = await desk("1001")
    far = Phone(tmp_path / "far", equipment.phone, "1001", south.password("1001"), south.sip_port)
    async with Peer(south) as other_peer:
        try:
            await far.plug()
            there = Desk(far, south)
            assert (await here.dial("*315001")).outcome == "LOGGED_IN"
            assert (await here.dial("*331")).outcome == "PAUSED"
            assert town.there()["north/sales"] == ["PJSIP/1001 paused:lunch"]
            heard = await there.dial("*315001", ("pbx-transfer", "1"))
            assert (heard.outcome, heard.reason) == ("MOVED", "lunch")
            assert town.there()["north/sales"] == []
            assert town.there()["south/sales"] == ["PJSIP/1001 paused:lunch"]
            # The phone in the north is free, and it is another agent's now.
            assert (await here.dial("*34")).outcome == "NOT_LOGGED_IN"
            assert (await here.dial("*315002")).outcome == "LOGGED_IN"
            assert (await there.dial("*34")).outcome == "UNPAUSED"
            await town.agrees()
            assert town.facts("5001") == [
                ("agent-login", "5001", "", "phone", "north"),
                ("agent-pause", "5001", "lunch", "phone", "north"),
                ("agent-logout", "5001", "moved", "phone", "north"),
                ("agent-login", "5001", "moved", "phone", "south"),
                ("agent-unpause", "5001", "lunch", "phone", "south"),
            ]
            # Who listens at either hears all of it once; the rows of queue_log are where it was.
            events = town.events()
            for listener in (peer, other_peer):
                assert set((await heard_all(listener, events)).values()) == {1}
            for place in (asterisk, south):
                await until(lambda place=place: lamp(place, "agent-5001") == "INUSE")
                await until(lambda place=place: lamp(place, "pause-5001") == "NOT_INUSE")
            both = ["AGENTCALLBACKLOGIN", "AGENTCALLBACKLOGOFF"]
            await until(lambda: queue_log(asterisk, "5001", before) == both)
            await until(lambda: queue_log(south, "5001") == ["AGENTCALLBACKLOGIN"])
            assert (await there.dial("*32")).outcome == "LOGGED_OFF"
            await town.agrees()
        finally:
            await far.close()


@pytest.mark.parametrize("how", ["refuse", "move"])
async def test_both_places_at_the_same_instant(
    make_town: Callable[..., Town], peer: Peer, how: str
) -> None:
    """An agent logs in in the north through one service and in the south through the other."""
    town = make_town(agents=crew(300), login={"already_elsewhere": how})
    outcomes: Counter[tuple[str, ...]] = Counter()

    async def one(agent: str) -> None:
        lines = [await Line.to(service.port) for service in town.services]
        places = random.sample(["north", "south"], 2)
        told = await asyncio.gather(
            *(
                line.call("login", agent, agent, asterisk=place)
                for line, place in zip(lines, places, strict=True)
            )
        )
        outcomes[tuple(sorted(told))] += 1

    await each([lambda n=n: one(str(5000 + n)) for n in range(300)])
    print("north and south:", how, dict(outcomes))
    other = "MOVED" if how == "move" else "LOGGED_IN_ELSEWHERE"
    assert outcomes == {("LOGGED_IN", other): 300}
    await town.agrees()
    there = town.there()
    for queue in QUEUES:
        everybody = there[f"north/{queue}"] + there[f"south/{queue}"]
        assert sorted(everybody) == [f"PJSIP/{5000 + n}" for n in range(300)]
    events = town.events()
    types = Counter(event["type"] for event in events)
    if how == "move":
        assert types == {"agent-login": 600, "agent-logout": 300}
    else:
        assert types == {"agent-login": 300, "login-refused": 300}
    assert set((await heard_all(peer, events)).values()) == {1}


@pytest.mark.parametrize("how", ["killed", "cut off"])
async def test_the_place_that_is_left_is_away(
    make_town: Callable[..., Town], asterisk: Asterisk, how: str
) -> None:
    """The agent can move all the same; what is left there is taken out when it is back."""
    before = asterisk.queue_log_path.read_text()
    town = make_town()
    assert await town.dial(town.one, "login", "5001", "north/1001") == "LOGGED_IN"
    assert await town.dial(town.two, "login", "5002", "north/1002") == "LOGGED_IN"
    assert await town.dial(town.two, "pause", "2", "north/1001") == "PAUSED"
    ways = [wire for (_, place), wire in town.way.items() if place == "north"]
    if how == "killed":
        asterisk.kill()
    else:
        for wire in ways:
            wire.cut()
    for service in town.services:
        await until(lambda service=service: service.logged("manager link lost"))
    assert await town.dial(town.two, "login", "5001", "south/1003", press="1") == "MOVED"
    assert await town.dial(town.one, "pause", "1", "north/1002") == "UNAVAILABLE"
    assert await town.dial(town.one, "pause", "1", "south/1003") == "PAUSE_REASON_CHANGED"
    assert town.there()["south/sales"] == ["PJSIP/1003 paused:lunch"]
    if how == "killed":
        asterisk.start()
        # Somebody's reload, or members that Asterisk kept: the ghost is there.
        asterisk.cli("queue add member PJSIP/1001 to sales penalty 0 as Agent/5001")
    else:
        assert town.there()["north/sales"] == ["PJSIP/1001 paused:break", "PJSIP/1002"]
        for wire in ways:
            wire.mend()
    await town.agrees()
    assert town.there()["north/sales"] == ["PJSIP/1002"]
    await asyncio.sleep(4)  # all is compared once more
    assert town.facts("5001", "5002") == [
        ("agent-login", "5001", "", "phone", "north"),
        ("agent-login", "5002", "", "phone", "north"),
        ("agent-pause", "5001", "break", "phone", "north"),
        ("agent-logout", "5001", "moved", "phone", "north"),
        ("agent-login", "5001", "moved", "phone", "south"),
        ("agent-pause", "5001", "lunch", "phone", "south"),
    ]
    repairs = [fact for fact in town.facts() if fact[0] == "repair"]
    print("repairs:", repairs)
    assert {fact[4] for fact in repairs} == {"north"}
    # The phone that was left is nobody's.
    assert await town.dial(town.one, "login", "5003", "north/1001") == "LOGGED_IN"
    await town.agrees()
    # What waited for the north came there.
    both = ["AGENTCALLBACKLOGIN", "AGENTCALLBACKLOGOFF"]
    await until(lambda: queue_log(asterisk, "5001", before) == both)


async def test_one_service_loses_an_asterisk_and_the_other_does_not(
    make_town: Callable[..., Town], asterisk: Asterisk
) -> None:
    """A move through the one that cannot tell the north: the other one tells it."""
    town = make_town()
    assert await town.dial(town.two, "login", "5001", "north/1001") == "LOGGED_IN"
    town.way["one", "north"].cut()
    await until(lambda: town.one.logged("manager link lost"))
    assert await town.dial(town.one, "login", "5001", "south/1001", press="1") == "MOVED"
    await town.agrees()
    town.way["one", "north"].mend()
    await until(lambda: len(town.one.logged("connected to Asterisk's manager interface")) == 3)
    await asyncio.sleep(4)
    await town.agrees()
    assert town.facts("5001") == [
        ("agent-login", "5001", "", "phone", "north"),
        ("agent-logout", "5001", "moved", "phone", "north"),
        ("agent-login", "5001", "moved", "phone", "south"),
    ]
    with psycopg.connect(town.two.settings()["database"]) as store:
        assert store.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)


@pytest.mark.parametrize("every", ["1s", None])
async def test_what_was_left_behind_logs_nobody_in(
    make_town: Callable[..., Town], asterisk: Asterisk, every: str | None
) -> None:
    """Moved and gone home through a service that could not tell the north. The other one could
    have taken the members there for somebody's doing: it takes them out."""
    town = make_town(reconcile={"every": every})
    assert await town.dial(town.two, "login", "5001", "north/1001") == "LOGGED_IN"
    town.way["one", "north"].cut()
    await until(lambda: town.one.logged("manager link lost"))
    assert await town.dial(town.one, "login", "5001", "south/1001", press="1") == "MOVED"
    assert await town.dial(town.one, "logoff", "", "south/1001") == "LOGGED_OFF"
    if every is None:
        asterisk.cli("queue pause member PJSIP/1001 queue sales")  # brings it to attention
    await until(lambda: town.there()["north/sales"] == town.there()["north/support"] == [])
    await asyncio.sleep(2)
    await town.agrees()
    assert town.facts("5001") == [
        ("agent-login", "5001", "", "phone", "north"),
        ("agent-logout", "5001", "moved", "phone", "north"),
        ("agent-login", "5001", "moved", "phone", "south"),
        ("agent-logout", "5001", "", "phone", "south"),
    ]


@pytest.mark.timeout(400)
async def test_agents_move_about_while_everything_breaks(
    make_town: Callable[..., Town], asterisk: Asterisk, south: Asterisk
) -> None:
    """From one Asterisk to the other and back, while Asterisks die, links are cut and services
    are killed: in the end each agent is in one place, and no ghost anywhere."""
    town = make_town(agents=crew(30), login={"already_elsewhere": "move"})
    over = asyncio.Event()
    outcomes: Counter[tuple[str, str]] = Counter()
    faults: Counter[str] = Counter()

    async def dial(script: str, digits: str, place: str) -> None:
        outcome = ""
        for service in random.sample(town.services, 2):
            with contextlib.suppress(OSError):
                if outcome := await town.dial(service, script, digits, place):
                    break
        outcomes[script, outcome] += 1
        await asyncio.sleep(random.random() * 0.3)

    async def one(agent: str) -> None:
        while not over.is_set():
            here, there = random.sample([f"north/{agent}", f"south/{agent}"], 2)
            await dial("login", agent, here)
            await dial("pause", "1", here)
            await dial("login", agent, there)
            if random.random() < 0.5:
                await dial("unpause", "", there)
                await dial("logoff", "", there)

    async def breaks() -> None:
        for _ in range(20):
            await asyncio.sleep(random.uniform(0.3, 1.5))
            fault = random.choice(["kill", "link", "asterisk"])
            faults[fault] += 1
            if fault == "kill":
                service = random.choice(town.services)
                service.kill()
                await asyncio.sleep(random.random())
                began = service.spawn()
                await until(
                    lambda service=service, began=began: (  # type: ignore[misc]
                        b'"listening"' in service.log.read_bytes()[began:]
                    ),
                    within=60,
                )
            elif fault == "link":
                wire = random.choice(list(town.way.values()))
                wire.cut()
                await asyncio.sleep(random.random() * 2)
                wire.mend()
            else:
                place = random.choice([asterisk, south])
                place.kill()
                await asyncio.sleep(random.random() * 2)
                place.start()
        over.set()

    async with asyncio.TaskGroup() as group:
        for n in range(30):
            group.create_task(one(str(5000 + n)))
        group.create_task(breaks())
    print("faults:", dict(faults), "outcomes:", dict(sorted(outcomes.items())))
    await town.agrees()
    with psycopg.connect(town.two.settings()["database"], autocommit=True) as store:
        for table in ("intents", "deliveries"):
            await until(
                lambda table=table: (  # type: ignore[misc]
                    store.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
                ),
                within=90,
                what=table,
            )
        owed = "SELECT key, value FROM notes WHERE key LIKE 'owed:%'"
        assert store.execute(owed).fetchall() == []
    await town.agrees()
    assert {fact[3] for fact in town.facts() if fact[0] != "repair"} == {"phone"}
    where: dict[str, str] = {}
    for type, agent, reason, _, place in town.facts():
        if type == "agent-login":
            assert where.setdefault(agent, place) == place, (agent, "logged in twice")
        elif type == "agent-logout":
            assert where.pop(agent, "") == place, (agent, reason)
    agents = town.two.agents()
    assert where == {n: a["asterisk"] for n, a in agents.items() if a["interface"]}
