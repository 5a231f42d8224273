"""Two services, two Asterisks: an agent is on one of them."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from tests.journey.pairs import (
    QUEUES,
    Pair,
    crew,
    each,
    heard_all,
)
from tests.journey.parts import (
    AFTER,
    Desk,
    Line,
    Peer,
    Service,
    Wire,
    sample,
    shown_by_queue,
    until,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # pyst2's use of threading
    pytest.mark.postgres,
    pytest.mark.asterisk,
]


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
            f"{name}/{queue}": sorted(there)
            for name, asterisk in self.by_name.items()
            if asterisk.running
            for queue, there in shown_by_queue(asterisk).items()
            if queue in QUEUES
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
                del settings["asterisk"], settings["http"]
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
    town = make_town(agents=crew(150), login={"already_elsewhere": how})
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

    await each([lambda n=n: one(str(5000 + n)) for n in range(150)])
    print("north and south:", how, dict(outcomes))
    other = "MOVED" if how == "move" else "LOGGED_IN_ELSEWHERE"
    assert outcomes == {("LOGGED_IN", other): 150}
    await town.agrees()
    there = town.there()
    for queue in QUEUES:
        everybody = there[f"north/{queue}"] + there[f"south/{queue}"]
        assert sorted(everybody) == [f"PJSIP/{5000 + n}" for n in range(150)]
    events = town.events()
    types = Counter(event["type"] for event in events)
    if how == "move":
        assert types == {"agent-login": 300, "agent-logout": 150}
    else:
        assert types == {"agent-login": 150, "login-refused": 150}
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
        await asyncio.sleep(random.random() * 0.8)

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
        for _ in range(10):
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
        # One written in the instant in which its Asterisk came back is taken by the timer.
        await until(lambda: store.execute(owed).fetchall() == [], within=90, what="owed")
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
