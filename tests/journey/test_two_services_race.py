"""Two services, one PostgreSQL: they race for the same agents and phones, and one is killed."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import psycopg
import pytest

from tests.journey.pairs import (
    QUEUES,
    Pair,
    by_agent,
    crew,
    each,
    heard_all,
    race,
)
from tests.journey.parts import (
    Line,
    Peer,
    until,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # pyst2's use of threading
    pytest.mark.postgres,
    pytest.mark.asterisk,
]


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
    rounds = 4

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
    assert outcomes == {("EXTENSION_IN_USE", "LOGGED_IN"): 400}
    events = pair.events()
    assert Counter(e["type"] for e in events) == {
        "agent-login": 400,
        "login-refused": 400,
        "agent-logout": 300,
    }
    assert len({event["id"] for event in events}) == 1100
    await pair.agrees()
    assert [len(pair.two.members()[queue]) for queue in QUEUES] == [100, 100]
    assert set((await heard_all(peer, events)).values()) == {1}, "each once"


# -- one of them dies ---------------------------------------------------------------------------


@pytest.mark.timeout(400)
async def test_one_is_killed_in_the_middle(make_pair: Callable[..., Pair], peer: Peer) -> None:
    """Three hundred agents log in and pause through both; one service is gone at once, and nobody
    has to wait for what it was at."""
    pair = make_pair(agents=crew(300))
    outcomes: Counter[tuple[str, str]] = Counter()
    told: dict[str, list[str]] = {}

    async def one(n: int) -> None:
        agent = str(5000 + n)
        if n == 150:
            pair.one.kill()
        for script, digits in (("login", agent), ("pause", "1")):
            service = random.choice(pair.services)
            outcome = await pair.call(service, script, digits, agent)
            outcomes[script, outcome] += 1
            told.setdefault(agent, []).append(outcome)

    await each([lambda n=n: one(n) for n in range(300)])
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
    if script == "login":  # its log is a moment behind
        await until(lambda: len(pair.two.logged("an unconfirmed change was settled")) >= 40)
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
