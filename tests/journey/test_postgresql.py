"""PostgreSQL is restarted, cut off, closed or full while codes are dialled: each code is answered,
and what was answered is written once."""

import asyncio
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import PostgreSQL
from tests.journey.parts import Line, Service, until
from tests.journey.test_store import is_ready, ready, relogged

pytestmark = pytest.mark.postgres

AGENTS = [f"70{n:02}" for n in range(40)]
DONE = {
    "login": ("LOGGED_IN", "agent-login"),
    "pause": ("PAUSED", "agent-pause"),
    "unpause": ("UNPAUSED", "agent-unpause"),
    "logoff": ("LOGGED_OFF", "agent-logout"),
}
# What an agent hears who tries again after "try again".
FINE = {"ALREADY_LOGGED_IN", "ALREADY_PAUSED", "NOT_PAUSED", "NOT_LOGGED_IN", "NO_AGENT_HERE"}


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    """One of the test's own, which it may stop."""
    folder = Path(tempfile.mkdtemp(prefix="fastagi-postgresql-"))
    made = PostgreSQL(folder)
    try:
        made.start()
        made.create("agents")
        # The other tests do without: here the server dies, and keeps what it has confirmed.
        ask(made, "ALTER ROLE fastagi SET synchronous_commit = on")
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def ask(server: PostgreSQL, statement: str, database: str = "postgres") -> Any:
    # Whoever mends a server that is read-only must write.
    with psycopg.connect(
        server.url(database), autocommit=True, options="-c default_transaction_read_only=off"
    ) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else None


class Shift:
    """Forty agents who dial, one code after the other, about twenty a second in all."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ending = asyncio.Event()
        self.answers: dict[str, Counter[str]] = {agent: Counter() for agent in AGENTS}

    @property
    def count(self) -> int:
        return sum(sum(answers.values()) for answers in self.answers.values())

    def heard(self, outcome: str) -> int:
        return sum(answers[outcome] for answers in self.answers.values())

    async def _work(self, agent: str) -> None:
        extension = f"10{agent[2:]}"
        random_ = random.Random(agent)
        while True:
            for script, digits in (
                ("login", agent),
                ("pause", "1"),
                ("unpause", ""),
                ("logoff", ""),
            ):
                while True:
                    if self._ending.is_set():
                        return
                    await asyncio.sleep(random_.uniform(0, 4))
                    line = await Line.to(self._service.port)
                    outcome = await line.call(script, digits, extension)
                    self.answers[agent][outcome] += 1
                    if outcome != "UNAVAILABLE":
                        break

    async def go_on(self, codes: int) -> None:
        wanted = self.count + codes
        await until(lambda: self.count >= wanted, within=90)

    async def __aenter__(self) -> "Shift":
        self._tasks = [asyncio.create_task(self._work(agent)) for agent in AGENTS]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.set()
        await asyncio.gather(*self._tasks)


def kill(server: PostgreSQL, how: signal.Signals) -> None:
    assert server.process is not None
    server.process.send_signal(how)
    server.process.wait()


async def restart(server: PostgreSQL, shift: Shift, how: signal.Signals) -> None:
    await asyncio.to_thread(kill, server, how)
    before = shift.heard("UNAVAILABLE")
    await until(lambda: shift.heard("UNAVAILABLE") > before + 5, within=60)
    server.start_again()  # here, as it is to end with us


async def fast(server: PostgreSQL, shift: Shift) -> None:
    await restart(server, shift, signal.SIGINT)


async def immediate(server: PostgreSQL, shift: Shift) -> None:
    await restart(server, shift, signal.SIGQUIT)


async def at_once(server: PostgreSQL, shift: Shift) -> None:
    """As a package's upgrade does it."""
    kill(server, signal.SIGINT)
    server.start_again()


async def cut_off(server: PostgreSQL, shift: Shift) -> None:
    for _ in range(5):
        await asyncio.to_thread(
            ask,
            server,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'fastagi'",
        )
        await shift.go_on(10)


async def read_only(server: PostgreSQL, shift: Shift) -> None:
    for value in ("on", "off"):
        await asyncio.to_thread(
            ask, server, f"ALTER SYSTEM SET default_transaction_read_only = {value}"
        )
        await asyncio.to_thread(ask, server, "SELECT pg_reload_conf()")
        await shift.go_on(40)


@pytest.mark.parametrize("fault", [fast, immediate, at_once, cut_off, read_only])
async def test_codes_go_on(
    fault: Callable[[PostgreSQL, Shift], Awaitable[None]],
    server: PostgreSQL,
    make_service: Any,
) -> None:
    agents = [
        {"number": agent, "name": f"Agent {agent}", "queues": ["sales", "support"]}
        for agent in AGENTS
    ]
    service: Service = make_service(
        database=server.url("agents"), http={}, unplugged=None, agents=agents
    )
    async with Shift(service) as shift:
        await shift.go_on(60)
        for _ in range(2):
            await fault(server, shift)
            await until(lambda: is_ready(service), within=60)
            await shift.go_on(60)
    assert service.process is not None
    assert service.process.poll() is None
    assert not service.logged("skipped: a fault of the service")
    heard = sum(shift.answers.values(), Counter())
    assert set(heard) <= {"UNAVAILABLE", *FINE, *(outcome for outcome, _ in DONE.values())}
    await until(lambda: service.members() == service.meant(), within=60)
    events: dict[str, list[str]] = {agent: [] for agent in AGENTS}
    for event in service.events():
        if event["agent"] in events and event["type"] in {type for _, type in DONE.values()}:
            events[event["agent"]].append(event["type"])
    order = [type for _, type in DONE.values()]
    for agent, types in events.items():
        # One after the other, as they were dialled: none is missing, none is there twice.
        for one, other in pairwise(["agent-logout", *types]):
            assert order.index(other) == (order.index(one) + 1) % 4, (agent, types)
        for outcome, type in DONE.values():
            said = shift.answers[agent][outcome]
            assert said <= types.count(type) <= said + shift.answers[agent]["UNAVAILABLE"], agent
    assert service.stop() == 0


async def test_no_connection_is_left_at_the_start(server: PostgreSQL, make_service: Any) -> None:
    service: Service = make_service(database=server.url("agents"), http={}, start=False)
    with ExitStack() as taken:
        while True:
            try:
                taken.enter_context(psycopg.connect(server.url()))
            except psycopg.OperationalError:
                break
        service.spawn()
        await until(lambda: bool(service.logged("listening")) and bool(relogged(service)))
        line = await Line.to(service.port)
        assert await line.call("login", "4001", "1001") == "UNAVAILABLE"
        answer = ready(service)
        assert (answer["code"], answer["store_fault"]) == (503, "away")
        assert "max_connections" in relogged(service)[0]["why"]
        assert service.process is not None
        assert service.process.poll() is None
    await until(lambda: is_ready(service), within=60)
    line = await Line.to(service.port)
    assert await line.call("login", "4001", "1001") == "LOGGED_IN"
    service.agrees()
