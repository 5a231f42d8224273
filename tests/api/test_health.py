"""Whether the service says how it is."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import httpx2
import pytest

from fastagi.agents.storage import WELL, StoreFault, StoreHealth
from fastagi.api import health
from fastagi.api.asgi import Dispatcher
from fastagi.api.table import Table
from fastagi.config.settings import HttpSettings, Right
from fastagi.outbox.metrics import Metrics
from tests.agents.memory import Hall
from tests.api.conftest import alone, context_of


@dataclass
class House:
    hall: Hall
    metrics: Metrics
    http: httpx2.AsyncClient
    rights: frozenset[Right] = frozenset({Right.READ})
    down: list[str] = field(default_factory=list)  # tasks of the service
    storage: "Stored" = field(default_factory=lambda: Stored())


class Stored:
    """The database, as the store's health tells of it."""

    now = WELL

    async def ask(self) -> StoreHealth:
        return self.now


@pytest.fixture
def names() -> tuple[str, ...]:
    return ("",)


@pytest.fixture
async def house(names: tuple[str, ...]) -> AsyncIterator[House]:
    hall, metrics = Hall(asterisks=names), Metrics()
    down: list[str] = []
    storage = Stored()
    context = context_of(
        service=hall.service,
        figures=metrics,
        tasks_down=lambda: down,
        storage=storage,
        http=HttpSettings(),
    )
    table = Table([health.INTERFACE, health.METRICS], context.http)
    app = alone(
        Dispatcher(context, table), lambda: SimpleNamespace(name="prometheus", rights=it.rights)
    )
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://agents", timeout=60
    ) as http:
        it = House(hall, metrics, http, down=down, storage=storage)
        yield it


async def test_alive(house: House) -> None:
    house.hall.store.down = {"*"}
    house.hall.asterisk.linked = False
    answer = await house.http.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_ready(house: House) -> None:
    answer = await house.http.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "store": "ok",
        "store_fault": "",
        "asterisk": {"default": "connected"},
        "tasks_down": [],
    }
    assert answer.headers["cache-control"] == "no-store"


async def test_while_a_task_is_down(house: House) -> None:
    house.down.append("reconcile")
    answer = await house.http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "store": "ok",
        "store_fault": "",
        "asterisk": {"default": "connected"},
        "tasks_down": ["reconcile"],
    }
    house.down.clear()
    assert (await house.http.get("/health/ready")).status_code == 200


async def test_without_asterisk(house: House) -> None:
    house.hall.asterisk.linked = False
    answer = await house.http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "store": "ok",
        "store_fault": "",
        "asterisk": {"default": "away"},
        "tasks_down": [],
    }
    house.hall.asterisk.linked = True
    assert (await house.http.get("/health/ready")).status_code == 200


@pytest.mark.parametrize("names", [("paris", "lyon")])
async def test_one_of_several_is_enough(house: House) -> None:
    house.hall.asterisks["lyon"].linked = False
    answer = await house.http.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["asterisk"] == {"paris": "connected", "lyon": "away"}
    house.hall.asterisks["paris"].linked = False
    answer = await house.http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["asterisk"] == {"paris": "away", "lyon": "away"}


@pytest.mark.parametrize("fault", StoreFault)
async def test_without_the_store(house: House, fault: StoreFault) -> None:
    where = "postgresql://fastagi:secret@10.0.0.5/fastagi"
    house.storage.now = StoreHealth(fault, f"{where}: refused")
    answer = await house.http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "store": "no answer" if fault is StoreFault.NO_ANSWER else "unavailable",
        "store_fault": fault.value,
        "asterisk": {"default": "connected"},
        "tasks_down": [],
    }
    assert "secret" not in answer.text
    assert "10.0.0.5" not in answer.text
    house.storage.now = WELL
    assert (await house.http.get("/health/ready")).status_code == 200


async def test_figures(house: House) -> None:
    house.metrics.called("agent/login", "LOGGED_IN", 0.1)
    answer = await house.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'fastagi_calls_total{outcome="LOGGED_IN",script="agent/login"} 1.0' in answer.text


async def test_figures_are_for_those_who_may_read(house: House) -> None:
    house.rights = frozenset({Right.CONTROL, Right.CONFIGURE})
    answer = await house.http.get("/metrics")
    assert answer.status_code == 403
    for path in ("/health/live", "/health/ready"):
        assert (await house.http.get(path)).status_code == 200
