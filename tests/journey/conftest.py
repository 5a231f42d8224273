"""The whole of it: a real Asterisk, real SIP phones and the service as a process of its own."""

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk, clipped
from fastagi.demo.equipment import Equipment
from tests.conftest import TEST_DIALPLAN
from tests.journey.pairs import make_pair as make_pair
from tests.journey.parts import Desk, Peer, Service, Wire

MakeService = Callable[..., Service]
Desks = Callable[..., Any]

_SERVICES = pytest.StashKey[list[Service]]()


@pytest.fixture(scope="session")
def _session_asterisk(
    equipment: Equipment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asterisk]:
    """An Asterisk of the journeys' own: its prompts are so short that status is told in a second,
    and nobody's left-over registrations are in it."""
    folder = tmp_path_factory.mktemp("journey")
    program = clipped(equipment.asterisk, folder / "clipped", seconds=0.04)
    with Asterisk(folder, program, more_dialplan=TEST_DIALPLAN) as asterisk:
        yield asterisk


@pytest.fixture
def make_service(
    asterisk: Asterisk, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[MakeService]:
    """``make_service(login={"already_elsewhere": "move"})``: configured and started.

    ``wire=`` puts a Wire between it and Asterisk's manager port; ``name=`` makes another one;
    ``start=False`` leaves the start to the test.
    """
    made: list[Service] = []
    request.node.stash[_SERVICES] = made

    def make(
        *, name: str = "service", wire: Wire | None = None, start: bool = True, **changes: Any
    ) -> Service:
        folder = tmp_path / name
        folder.mkdir()
        service = Service(folder, asterisk, ami_port=wire.port if wire else asterisk.ami_port)
        made.append(service)
        service.configure(**changes)
        if start:
            service.start()
        return service

    yield make
    for service in made:
        service.kill()


@pytest.fixture
def service(make_service: MakeService) -> Service:
    """The service with the sample configuration."""
    return make_service()


@pytest.fixture
def desk(phones: Any, asterisk: Asterisk) -> Desks:
    """``await desk("1001")``: a phone on a desk, and the ear of who sits there."""

    async def make(extension: str, **settings: bool) -> Desk:
        return Desk(await phones(extension, **settings), asterisk)

    return make


@pytest.fixture
def wire(asterisk: Asterisk) -> Iterator[Wire]:
    with Wire(asterisk.ami_port) as made:
        yield made


@pytest.fixture
async def peer(asterisk: Asterisk) -> AsyncIterator[Peer]:
    """Somebody else's manager client, who hears everything."""
    async with Peer(asterisk) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The service's log beside a failed test's own."""
    report = yield
    if report.failed:
        for service in item.stash.get(_SERVICES, []):
            if service.log.exists():
                lines = service.log.read_text(errors="replace").splitlines()
                report.sections.append(("the service's log", "\n".join(lines[-60:])))
    return report
