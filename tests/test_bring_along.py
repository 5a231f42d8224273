"""Agents who are logged in while the configuration changes, and Asterisks that are away then."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from fastagi import bring_along
from fastagi.agents.operations import Operation, RemoveMember, SetPenalty
from fastagi.agents.service import AgentService, Policy, StoreUnavailable
from fastagi.bring_along import BringAlong
from fastagi.store import Difference, open_store
from tests.agents.memory import LOCKOUT, Faults, MemoryAsterisk, MemoryAsterisks, MemoryPins
from tests.store.conftest import device, log_in, settings


def agent(number: int, *queues: Any) -> dict[str, Any]:
    return {"number": str(number), "name": f"Agent {number}", "queues": list(queues)}


class Place:
    """Two Asterisks, a and b, a real store, and the agents 1001 (on a) and 1002 (on b)."""

    def __init__(self, folder: Path) -> None:
        faults = Faults()
        self.a, self.b = (MemoryAsterisk(faults, name=name) for name in "ab")
        self.store = open_store(f"sqlite:///{folder}/store.db")
        self.service = AgentService(
            self.store,
            MemoryAsterisks({"a": self.a, "b": self.b}),
            MemoryPins(),
            Policy(LOCKOUT),
            structlog.get_logger(),
        )
        self.along = BringAlong(self.service, self.store, lambda: ())
        self.tasks: list[asyncio.Task[None]] = []

    def bring_in(self, *agents: dict[str, Any]) -> Difference:
        return self.store.bring_in(settings(agents=list(agents)))

    def reload(self, *agents: dict[str, Any]) -> asyncio.Task[None]:
        task = asyncio.create_task(self.along.run(self.bring_in(*agents)))
        self.tasks.append(task)
        return task

    def members(self, asterisk: MemoryAsterisk) -> dict[str, dict[str, int]]:
        """Interface and penalty, by queue."""
        return {
            queue: {key: member.penalty for key, member in members.items()}
            for queue, members in asterisk.queues.items()
            if members
        }

    async def until(self, so: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not so():  # noqa: ASYNC110 - of several tasks' doing
                await asyncio.sleep(0.005)


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(bring_along, "ROUND_EVERY", 0.01)
    made = Place(tmp_path)
    made.bring_in(agent(1001, "sales"), agent(1002, "sales"))
    for number, asterisk in (("1001", "a"), ("1002", "b")):
        there = replace(device(number), asterisk=asterisk)
        await made.service.execute(replace(log_in(number), device=there))
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    await made.store.close()


async def tried(place: Place) -> None:
    """Waits until something was tried once more, in vain."""
    seen = len(place.a.faults.trace)
    ids = 0
    real = place.service.new_id

    def new_id() -> str:
        nonlocal ids
        ids += 1
        return real()

    place.service.new_id = new_id
    await place.until(lambda: ids >= 6 or len(place.a.faults.trace) > seen + 50)
    place.service.new_id = real


@pytest.mark.parametrize("away", ["a", "b"])
async def test_an_asterisk_that_is_away_keeps_nobody_waiting_on_another(
    place: Place, away: str
) -> None:
    gone, there = (place.a, place.b) if away == "a" else (place.b, place.a)
    gone.linked = False
    task = place.reload(agent(1009))
    await place.until(lambda: place.members(there) == {})
    assert not task.done()
    assert place.members(gone) != {}
    gone.linked = True
    await asyncio.wait_for(task, 30)
    assert place.members(gone) == {}
    assert await place.store.logged_in() == []


async def test_a_log_off_that_a_later_reload_takes_back_is_not_done(place: Place) -> None:
    place.a.linked = False
    place.reload(agent(1002, "sales"))
    await tried(place)
    last = place.reload(agent(1001, "sales"), agent(1002, "sales"))
    await asyncio.wait_for(last, 30)
    place.a.linked = True
    await asyncio.gather(*place.tasks)
    assert place.members(place.a) == {"sales": {"pjsip/1001": 0}}
    assert [state.number for state in await place.store.logged_in()] == ["1001", "1002"]


async def test_a_queue_that_a_later_reload_gives_back_is_not_left(place: Place) -> None:
    place.a.linked = False
    place.reload(agent(1001), agent(1002, "sales"))
    await tried(place)
    await asyncio.wait_for(place.reload(agent(1001, "sales"), agent(1002, "sales")), 30)
    place.a.linked = True
    await asyncio.gather(*place.tasks)
    assert place.members(place.a) == {"sales": {"pjsip/1001": 0}}


async def test_of_two_penalties_the_later_one_counts(place: Place) -> None:
    place.a.linked = False
    for penalty in (5, 7):
        place.reload(agent(1001, {"name": "sales", "penalty": penalty}), agent(1002, "sales"))
        await tried(place)
    place.a.linked = True
    await asyncio.wait_for(asyncio.gather(*place.tasks), 30)
    assert place.members(place.a) == {"sales": {"pjsip/1001": 7}}


async def test_what_an_earlier_reload_has_left_to_do_a_later_one_does(place: Place) -> None:
    """Another change, of somebody else, does not make it forget."""
    place.a.linked = False
    high = {"name": "sales", "penalty": 5}
    place.reload(agent(1001, high, "support"), agent(1002, "sales"))
    await tried(place)
    place.reload(agent(1001, high, "support"), agent(1002, "sales", "billing"))
    await place.until(lambda: "billing" in place.members(place.b))
    place.a.linked = True
    await asyncio.wait_for(asyncio.gather(*place.tasks), 30)
    assert place.members(place.a) == {"sales": {"pjsip/1001": 5}, "support": {"pjsip/1001": 0}}
    assert place.members(place.b) == {"sales": {"pjsip/1002": 0}, "billing": {"pjsip/1002": 0}}


async def test_a_full_disk_just_after_the_start_does_not_end_the_service(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier configuration left to do is read then."""
    place.bring_in(agent(1002))
    answers: list[Any] = [StoreUnavailable("disk I/O error")] * 2
    waited: list[float] = []
    real = place.store.left_over

    async def left_over() -> Any:
        if answers:
            raise answers.pop(0)
        return await real()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(place.store, "left_over", left_over)
    with monkeypatch.context() as patched:
        patched.setattr(bring_along.asyncio, "sleep", sleep)
        await place.along.run(Difference())
    assert waited[:2] == [1, 1]
    assert (place.members(place.a), place.members(place.b)) == ({}, {})


# -- what Asterisk refuses


def warned(logs: list[Any]) -> list[tuple[str, str]]:
    said = "configuration change not applied to a logged-in agent"
    return [(line["change"], line["agent"]) for line in logs if line["event"] == said]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bring_along, "REFUSED_EVERY", 0.01)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", [SetPenalty, RemoveMember])
async def test_what_asterisk_refuses_is_tried_again_and_said_once(
    place: Place, kind: type[Operation]
) -> None:
    """Such as a manager user whose rights were taken away for a while."""
    high = {"name": "sales", "penalty": 5}
    place.a.refuses = lambda operation: isinstance(operation, kind)
    asked = [high] if kind is SetPenalty else []
    with structlog.testing.capture_logs() as logs:
        task = place.reload(agent(1001, *asked), agent(1002, "sales"))
        await tried(place)
        assert not task.done()
        assert place.members(place.a) == {"sales": {"pjsip/1001": 0}}
        place.a.refuses = lambda _: False
        await asyncio.wait_for(task, 30)
    assert place.members(place.a) == ({"sales": {"pjsip/1001": 5}} if asked else {})
    assert warned(logs) == [("ChangePenalty" if asked else "LeaveQueue", "1001")]


@pytest.mark.usefixtures("at_once")
async def test_a_log_off_that_was_refused_is_tried_again(place: Place) -> None:
    place.a.refuses = lambda operation: isinstance(operation, RemoveMember)
    task = place.reload(agent(1002, "sales"))
    await tried(place)
    assert not task.done()
    place.a.refuses = lambda _: False
    await asyncio.wait_for(task, 30)
    assert place.members(place.a) == {}
    assert [state.number for state in await place.store.logged_in()] == ["1002"]


async def test_a_later_reload_does_not_wait_for_what_is_refused(place: Place) -> None:
    place.a.refuses = lambda operation: isinstance(operation, SetPenalty)
    with structlog.testing.capture_logs() as logs:
        first = place.reload(agent(1001, {"name": "sales", "penalty": 5}), agent(1002, "sales"))
        await place.until(lambda: bool(warned(logs)))
        second = place.reload(agent(1001, "sales"), agent(1002, "sales", "billing"))
        await place.until(lambda: "billing" in place.members(place.b))
        await asyncio.wait_for(asyncio.gather(first, second), 30)
    assert place.members(place.a) == {"sales": {"pjsip/1001": 0}}


@pytest.mark.parametrize("why", ["refused", "away"])
async def test_a_penalty_is_set_although_the_service_was_restarted_before(
    place: Place, why: str
) -> None:
    place.a.linked = why != "away"
    place.a.refuses = lambda operation: isinstance(operation, SetPenalty)
    task = place.reload(agent(1001, {"name": "sales", "penalty": 5}), agent(1002, "sales"))
    await tried(place) if why == "away" else await place.until(lambda: bool(place.along._refused))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    place.a.linked = True
    place.a.refuses = lambda _: False
    anew = BringAlong(place.service, place.store, lambda: ())
    await asyncio.wait_for(anew.run(Difference()), 30)
    assert place.members(place.a) == {"sales": {"pjsip/1001": 5}}
    assert await place.store.notes("penalty:") == {}


async def test_a_penalty_that_a_later_reload_takes_back_is_not_noted(place: Place) -> None:
    place.a.linked = False
    place.reload(agent(1001, {"name": "sales", "penalty": 5}), agent(1002, "sales"))
    await tried(place)
    place.reload(agent(1001), agent(1002, "sales"))
    await tried(place)
    place.a.linked = True
    await asyncio.wait_for(asyncio.gather(*place.tasks), 30)
    assert place.members(place.a) == {}
    assert await place.store.notes("penalty:") == {}


async def test_a_member_that_asterisk_has_lost_comes_back_with_the_new_penalty(
    place: Place,
) -> None:
    place.a.queues["sales"].clear()
    high = {"name": "sales", "penalty": 5}
    with structlog.testing.capture_logs() as logs:
        await asyncio.wait_for(place.reload(agent(1001, high), agent(1002, "sales")), 30)
    assert warned(logs) == []
    state = await place.store.agent("1001")
    assert state is not None
    assert [m.penalty_now for m in state.joined] == [5]
