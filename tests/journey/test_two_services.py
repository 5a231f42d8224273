"""Two services, one PostgreSQL: whichever answers, and whichever dies, it is one house."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable

import psycopg
import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.pairs import (
    TYPES,
    Pair,
    by_agent,
    check,
    crew,
    each,
    heard_all,
    sequel,
    shift,
    told_and_done,
)
from tests.journey.parts import (
    Censor,
    Peer,
    Service,
    until,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # pyst2's use of threading
    pytest.mark.postgres,
    pytest.mark.asterisk,
]


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
                await asyncio.sleep(random.random() * 0.8)

    async def killer() -> None:
        for turn in range(3):
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
    print("killed three times:", dict(sorted(outcomes.items())))
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
        """Who has locks in the database, by its connections' processes."""
        with psycopg.connect(pair.two.settings()["database"]) as store:
            rows = store.execute(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
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
                await asyncio.sleep(random.random() * 0.6)

    async def cut() -> None:
        with psycopg.connect(pair.two.settings()["database"], autocommit=True) as admin:
            for _ in range(4):
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
    print("database cut four times:", dict(sorted(outcomes.items())))
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
                await asyncio.sleep(random.random() * 0.8)

    async def up(service: Service, began: int) -> None:
        await until(lambda: b'"listening"' in service.log.read_bytes()[began:], within=60)

    async def breaks() -> None:
        with psycopg.connect(pair.two.settings()["database"], autocommit=True) as admin:
            for _ in range(8):
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
                await asyncio.sleep(0.1 + random.random() * 0.8)

    async def restarts() -> None:
        for turn in range(2):
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
    print("Asterisk killed twice:", dict(sorted(outcomes.items())))
    await pair.agrees()
    events = pair.events()
    repairs = [event["reason"] for event in events if event["type"] == "repair"]
    print("repairs:", repairs)
    assert len(repairs) == 2
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
        """Of each: what follows at once is seen as its net effect only."""
        its = by_agent(pair.events())
        return len(its) == 20 and all(len(events) >= number for events in its.values())

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
        await until(lambda count=count: told(count), within=60, what=command)
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
