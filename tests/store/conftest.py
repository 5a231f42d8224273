"""Every test of the store runs on a real SQLite file and on a real PostgreSQL."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fastagi.agents.commands import Actor, LogIn, LogOff, Pause, PauseReason
from fastagi.agents.devices import Device
from fastagi.config.settings import Settings
from fastagi.contract import Source
from fastagi.store import PeeweeStore, open_store

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


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    address: str = request.getfixturevalue("postgres_url")
    return address


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
    store = opened(url)
    store.bring_in(settings())
    return store


async def done(store: PeeweeStore, command: Any, now: datetime = NOW) -> Any:
    """Begins and confirms, as if Asterisk had agreed."""
    change = await store.begin(command, now)
    await store.confirm(change)
    return change
