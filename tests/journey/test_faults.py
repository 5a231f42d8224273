"""Faults of our own in each task that runs as long as the service does: logged, begun again,
seen in /health/ready, and no code waits for them."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.journey.parts import Line, Service, until
from tests.journey.test_store import is_ready, ready

FAULT = "skipped: a fault of the service"
FOLDER = "TEST_FAULTS"  # in the environment: what has a file there, fails


def faulty() -> None:
    """``fastagi`` whose tasks fail as long as a file with their name is there."""
    from fastagi.agents.fence import Supervisor
    from fastagi.ami.client import Client
    from fastagi.ami.news import News
    from fastagi.api.server import HttpServer
    from fastagi.cli import main
    from fastagi.store.health import Health
    from fastagi.store.worker import Workers

    folder = Path(os.environ[FOLDER])

    def is_due(name: str) -> bool:
        return (folder / name.replace(" ", "_")).exists()

    def fail(name: str) -> None:
        if is_due(name):
            raise ZeroDivisionError(f"injected: {name}")

    keep = Supervisor.keep

    async def kept(self: Supervisor, name: str, work: Callable[[], Awaitable[None]]) -> None:
        async def attacked() -> None:
            real = asyncio.ensure_future(work())
            try:
                while not (await asyncio.wait({real}, timeout=0.05))[0]:
                    fail(name)
                await real
            finally:
                real.cancel()
                await asyncio.gather(real, return_exceptions=True)

        with (folder / "names").open("a") as names:
            names.write(f"{name}\n")
        await keep(self, name, attacked)

    def failing(owner: type, method: str) -> None:
        real: Any = getattr(owner, method)

        def either(self: Any, *values: Any, **more: Any) -> Any:
            fail(f"{owner.__name__}.{method}")
            return real(self, *values, **more)

        setattr(owner, method, either)

    Supervisor.keep = kept  # type: ignore[method-assign]
    known = {c.__name__: c for c in (Client, News, HttpServer, Health, Workers)}
    for owner, _, method in (name.partition(".") for names in INNER for name in names):
        failing(known[owner], method)
    main()


# What no supervisor holds: callbacks, threads, and tasks that others begin again. Those of a line
# fail at the same time.
INNER: list[tuple[str, ...]] = [
    ("Client.connection_made",),
    ("Client._arm_pinger", "Client.ping"),
    ("News._read",),
    ("HttpServer._look", "HttpServer._arrived"),
    ("Health._look", "Health._read_back", "Health.failed"),
    ("Workers._run", "Workers._sweep"),
]


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


@pytest.fixture
async def service(faults: Path, make_service: Any) -> Service:
    made: Service = make_service(http={}, unplugged=None, start=False)
    made.main = faulty
    made.start()
    await until(lambda: is_ready(made))
    assert await code(made, "login", "4001") == "LOGGED_IN"
    return made


def begin(faults: Path, name: str) -> None:
    (faults / name.replace(" ", "_")).touch()


def end(faults: Path, name: str) -> None:
    (faults / name.replace(" ", "_")).unlink()


async def code(service: Service, script: str, digits: str = "") -> str:
    return await (await Line.to(service.port)).call(script, digits, "1001")


async def pause_and_back(service: Service) -> list[str]:
    return [await code(service, "pause", "1"), await code(service, "unpause")]


def injected(service: Service) -> set[str]:
    """The tasks whose faults were logged with their cause."""
    return {
        line["task"]
        for line in service.logged(FAULT)
        if "ZeroDivisionError: injected" in line["error"] and "where" in line
    }


def lamp(service: Service) -> str:
    """What lights the key for the agent's pause."""
    shown = service.asterisk.cli("devstate list")
    found = re.search(r"Name: 'Custom:pause-4001'\s+State: '(\w+)'", shown)
    return found[1] if found else ""


def again(service: Service) -> set[str]:
    """The tasks that are said to go on."""
    return {line["task"] for line in service.logged("a task goes on")}


async def all_is_well(service: Service) -> None:
    """What the tasks are there for is done."""
    assert await pause_and_back(service) == ["PAUSED", "UNPAUSED"]
    assert await code(service, "pause", "1") == "PAUSED"
    await until(lambda: lamp(service) == "INUSE")
    assert await code(service, "unpause") == "UNPAUSED"
    await until(lambda: lamp(service) == "NOT_INUSE")
    # What somebody does in Asterisk is noticed …
    service.asterisk.cli("queue remove member PJSIP/1001 from sales")
    await until(lambda: "sales" not in service.agents()["4001"]["joined"])
    # … and so is what somebody does to the configuration.
    before = len(service.logged("the configuration was reloaded"))
    settings = service.settings()
    settings["language"] = "fr" if settings.get("language") == "en" else "en"
    service.write(settings)
    await until(lambda: len(service.logged("the configuration was reloaded")) > before)
    assert await code(service, "logoff") == "LOGGED_OFF"
    assert await code(service, "login", "4001") == "LOGGED_IN"
    service.agrees()


async def test_every_task_is_begun_again(service: Service, faults: Path) -> None:
    every = set((faults / "names").read_text().splitlines())
    assert {"look after the database", "tidy up the database", "settle", "timers"} <= every
    assert {"deliver to hooks", "watch the configuration", "reload", "tell listeners"} <= every
    groups = {"reconcile", "deliver"}  # which end those in them, too
    for names in (every - groups, groups):
        for name in names:
            begin(faults, name)
        await until(lambda names=names: names <= set(ready(service)["tasks_down"]))  # type: ignore[misc]
        assert ready(service)["code"] == 503
        assert await pause_and_back(service) == ["PAUSED", "UNPAUSED"]
        await until(lambda names=names: names <= injected(service))  # type: ignore[misc]
        for name in names:
            end(faults, name)
        await until(lambda: is_ready(service), within=90)
        for name in names:
            await until(lambda name=name: name in again(service), what=name)  # type: ignore[misc]
        await all_is_well(service)
    assert service.stop() == 0


@pytest.mark.parametrize("names", INNER, ids="+".join)
async def test_a_fault_in_a_callback_or_a_thread_passes_by(
    names: tuple[str, ...], service: Service, faults: Path
) -> None:
    for name in names:
        begin(faults, name)
    if names[0].startswith("Client"):
        # The link is lost while it lasts.
        service.asterisk.kill()
        service.asterisk.start()
    for _ in range(20):
        said = await pause_and_back(service)
        assert said in (["PAUSED", "UNPAUSED"], ["UNAVAILABLE"] * 2), said
        await asyncio.sleep(0.1)
    for name in names:
        end(faults, name)
    await until(lambda: is_ready(service), within=60)
    await until(lambda: service.members() == service.meant(), within=60)
    await all_is_well(service)
    assert service.stop() == 0
