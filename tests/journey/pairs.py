"""Two services with one PostgreSQL, and what is asked of them."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import (
    Line,
    Peer,
    Service,
    Wire,
    shown_by_queue,
    until,
)

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
        for there in shown_by_queue(self.two.asterisk).values():
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
