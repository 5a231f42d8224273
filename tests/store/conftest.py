"""Every test of the store runs on a real SQLite file and on a real PostgreSQL."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from fastagi.agents.commands import (
    NO_FACTS,
    Actor,
    Command,
    Facts,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
)
from fastagi.agents.deciding import again, beginning, device_wanted, once
from fastagi.agents.deliveries import Delivery
from fastagi.agents.devices import Device
from fastagi.agents.model import Change
from fastagi.config.settings import Settings
from fastagi.contract import Sink, Source
from fastagi.store import PeeweeStore, Reading, open_store, tables
from fastagi.store.connection import Connection, moment
from fastagi.store.events import EVENT_COLUMNS, event_from
from tests.conftest import PostgreSQL

NOW = datetime(2026, 11, 22, 9, 30, 0, 123457, UTC)
LATER = NOW + timedelta(minutes=20)
ACTOR = Actor(channel="PJSIP/1001-00000001", caller_id='"Ann", x', unique_id="1700000000.1")
LUNCH = PauseReason("1", "lunch")

_ids = count(1)


def device(extension: str = "1001") -> Device:
    return Device(extension, "phones", f"PJSIP/{extension}", f"PJSIP/{extension}")


def _common(agent: str, id: str | None) -> dict[str, Any]:
    return {
        "id": id or f"command-{next(_ids)}",
        "agent": agent,
        "source": Source.PHONE,
        "actor": ACTOR,
    }


def log_in(
    agent: str = "1001", extension: str = "1001", id: str | None = None, **more: Any
) -> LogIn:
    return LogIn(**_common(agent, id), device=device(extension), **more)


def log_off(agent: str = "1001", id: str | None = None, **more: Any) -> LogOff:
    return LogOff(**_common(agent, id), **more)


def pause(agent: str = "1001", reason: PauseReason = LUNCH, id: str | None = None) -> Pause:
    return Pause(**_common(agent, id), reason=reason)


def settings(size: int = 3, /, **sections: Any) -> Settings:
    """A small call centre: agents 1001 and up, each in sales and, with penalty 2, in support."""
    values: dict[str, Any] = {
        "asterisk": {"secret": "of no use here"},
        "queues": [
            {"number": "701", "name": "sales"},
            {"number": "702", "name": "support"},
            {"number": "703", "name": "billing"},
        ],
        "pause_reasons": [
            {"code": "10", "name": "meeting"},
            {"code": "2", "name": "coffee"},
            {"code": "1", "name": "lunch", "max_duration": "45m", "when_exceeded": "unpause"},
        ],
        "agents": [
            {
                "number": str(1001 + n),
                "name": f"Agent {n}",
                "queues": ["sales", {"name": "support", "penalty": 2}],
            }
            for n in range(size)
        ],
    }
    return Settings.model_validate(values | sections)


BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(scope="session")
def sqlite_made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Two files to copy: with the tables, and with the small call centre, too."""
    folder = tmp_path_factory.mktemp("made")
    made = {furnished: folder / f"{furnished}.db" for furnished in (False, True)}
    for furnished, path in made.items():
        _make(f"sqlite:///{path}", furnished)
    return made


@pytest.fixture(scope="session")
def postgresql_made(postgresql: PostgreSQL) -> dict[bool, str]:
    """The same as databases to copy."""
    made = {furnished: f"made_{furnished}".lower() for furnished in (False, True)}
    for furnished, name in made.items():
        postgresql.create(name)
        _make(postgresql.url(name), furnished)
    return made


def _make(url: str, furnished: bool) -> None:
    store = open_store(url)
    if furnished:
        store.bring_in(settings())
    store._close()


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of this test's own. It is a copy, as making one takes longer than most tests."""
    furnished = "store" in request.fixturenames
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        shutil.copy(request.getfixturevalue("sqlite_made")[furnished], path)
        yield f"sqlite:///{path}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.create(template=request.getfixturevalue("postgresql_made")[furnished])
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


OpenStore = Callable[[], PeeweeStore]


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[str], PeeweeStore]]:
    """Opens stores, and closes them after the test."""
    stores: list[PeeweeStore] = []

    def open(url: str, **more: Any) -> PeeweeStore:
        stores.append(open_store(url, **more))
        return stores[-1]

    yield open
    for store in stores:
        await store.close()


@pytest.fixture
def store(url: str, opened: Callable[[str], PeeweeStore]) -> PeeweeStore:
    """With the small call centre in it."""
    return opened(url)


IN_CALL = Facts(in_call=True)


def begin(
    store: PeeweeStore,
    command: Command,
    now: datetime,
    facts: Facts = NO_FACTS,
    *,
    applied: bool = False,
    held: bool = False,
) -> Coroutine[Any, Any, Change]:
    """As the hall begins it."""
    rule = beginning(command, now, facts, applied=applied)
    event = once(command, applied=applied)
    return store.begin(command.agent, rule, device_wanted(command), event=event, held=held)


def unsettled(store: PeeweeStore) -> Coroutine[Any, Any, list[Change]]:
    return store.unsettled(again(structlog.get_logger()))


async def done(
    store: PeeweeStore, command: Any, now: datetime = NOW, facts: Facts = NO_FACTS
) -> Any:
    """Begins and confirms, as if Asterisk had agreed."""
    change = await begin(store, command, now, facts)
    await store.confirm(change)
    return change


async def backlog(store: PeeweeStore) -> tuple[int, datetime | None]:
    """How many deliveries wait for sinks, and when the oldest event of them occurred."""

    def job(connection: Connection) -> tuple[int, datetime | None]:
        count, oldest = connection.execute(
            "SELECT count(*), min(e.occurred_at) FROM deliveries d JOIN events e ON e.seq = d.event"
            " WHERE d.parked_at IS NULL"
        ).fetchone()
        return count, None if oldest is None else datetime.fromtimestamp(oldest, UTC)

    return await store.run(job, writes=False)


async def parked(store: PeeweeStore) -> list[tuple[Delivery, str]]:
    """The deliveries to sinks that were given up, and why."""

    def job(connection: Connection) -> list[tuple[Delivery, str]]:
        rows = connection.execute(
            f"SELECT {EVENT_COLUMNS}, d.sink, d.attempts, d.error FROM deliveries d"
            " JOIN events e ON e.seq = d.event WHERE d.parked_at IS NOT NULL ORDER BY d.event"
        ).fetchall()
        return [
            (Delivery(Sink(row[-3]), row[-4], event_from(row), row[-2]), row[-1]) for row in rows
        ]

    return await store.run(job, writes=False)


async def unpark(store: PeeweeStore) -> None:
    """As ``fastagi events --retry all``, for deliveries to sinks."""
    await store.run(lambda connection: store.deliveries.unpark().execute(connection.peewee))
    store.wake()


@asynccontextmanager
async def standing_by(store: PeeweeStore, name: str) -> AsyncIterator[asyncio.Event]:
    """``store`` waits for the lock, and keeps it to the end; the event says that it has it."""
    has = asyncio.Event()

    async def wait() -> None:
        async with store.exclusive(name, wait=True):
            has.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.1)
    try:
        yield has
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def periods(reading: Reading, table: Any, agent: str | None = None) -> list[SimpleNamespace]:
    """Login sessions or pauses as rows, the latest first; open ones have no ``ended_at``."""
    query = table.select(table, tables.Agent.number.alias("number")).join(tables.Agent)
    if agent is not None:
        query = query.where(tables.Agent.number == agent)
    with reading.connected() as database:
        found = query.order_by(table.since.desc(), table.id).dicts().execute(database)
        return [
            SimpleNamespace(
                **row
                | {at: row[at] and moment(row[at]) for at in ("since", "ended_at")}
                | {"agent": row["number"]}
            )
            for row in found
        ]


def login_sessions(reading: Reading, agent: str | None = None) -> list[SimpleNamespace]:
    return periods(reading, tables.LoginSession, agent)


def pauses(reading: Reading, agent: str | None = None) -> list[SimpleNamespace]:
    return periods(reading, tables.PauseSegment, agent)
