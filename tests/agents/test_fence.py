"""Faults are logged once with their cause, counted and skipped; tasks that fail are begun again."""

import asyncio
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from fastagi.agents.errors import InProgress
from fastagi.agents.fence import AGAIN_AFTER, AWAY, KINDS, Fence, Supervisor
from fastagi.agents.log import Trouble
from fastagi.agents.service import StoreUnavailable
from fastagi.agents.text import storable

log = structlog.get_logger()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fence(**values: Any) -> Fence:
    return Fence(log, **values)


def fails(text: str = "boom") -> None:
    raise ValueError(text)


def test_what_fails_is_logged_with_its_cause_counted_and_skipped() -> None:
    counted: list[str] = []
    behind = fence(counted=counted.append)
    done = []
    with capture_logs() as logs:
        for number in range(5):
            with behind.item("reconcile", agent=str(number)):
                if number % 2:
                    fails(f"no {number}")
                done.append(number)
    assert done == [0, 2, 4]
    assert counted == ["reconcile", "reconcile"]
    assert behind.faults == {"reconcile": 2}
    (entry,) = logs
    assert entry["log_level"] == "error"
    assert entry["event"] == "skipped: a fault of the service"
    assert entry["task"] == "reconcile"
    assert entry["agent"] == "1"
    assert entry["error"] == "ValueError: no 1"
    assert entry["where"].startswith("test_fence.py:")
    assert isinstance(entry["exc_info"], ValueError)


def test_a_fault_that_goes_on_is_logged_once_an_hour_with_how_often_it_came() -> None:
    clock = Clock()
    behind = fence(clock=clock)
    with capture_logs() as logs:
        for number in range(1002):
            clock.now += AGAIN_AFTER if number == 1001 else 0
            with behind.item("x"):
                fails()
    assert [entry.get("times") for entry in logs] == [None, 1001]
    assert "exc_info" not in logs[1]


def test_another_kind_is_another_line_and_there_is_no_end_of_kinds() -> None:
    behind = fence()
    with capture_logs() as logs:
        for kind in (KeyError, TypeError, KeyError):
            with behind.item("x"):
                raise kind("v")
        for number in range(KINDS * 2):
            with behind.item(f"task {number}"):
                fails()
    assert [entry["error"] for entry in logs[:2]] == ["KeyError: 'v'", "TypeError: v"]
    assert logs[2]["task"] == "task 0", "the second KeyError is of the first one's kind"
    assert len(logs) == KINDS + 1
    assert len(behind._kinds) <= KINDS + 1


def test_what_others_send_is_a_warning_without_a_traceback() -> None:
    behind = fence()
    with capture_logs() as logs:
        for value in ("\ud800", "\ud801", "a\0"):
            with behind.item("reconcile", asterisk="north"):
                storable("Interface", value)
    assert [(entry["log_level"], entry["error"]) for entry in logs] == [
        ("warning", "Unusable: Interface: has half a character in it"),
        ("warning", "Unusable: Interface: has a control character in it"),
    ]
    assert all("exc_info" not in entry for entry in logs)


def test_what_is_to_pass_passes() -> None:
    behind = fence()
    with pytest.raises(StoreUnavailable), behind.item("x", StoreUnavailable):
        raise StoreUnavailable("away")
    with pytest.raises(asyncio.CancelledError), behind.item("x"):
        raise asyncio.CancelledError
    with pytest.raises(KeyboardInterrupt), behind.item("x"):
        raise KeyboardInterrupt
    assert not behind.faults


def test_of_a_group_the_first_cause_is_told() -> None:
    with capture_logs() as logs, fence().item("x"):
        raise ExceptionGroup("g", [ExceptionGroup("h", [KeyError("k")]), TypeError("t")])
    assert logs[0]["error"] == "KeyError: 'k'"


def test_nothing_unprintable_reaches_the_log() -> None:
    with capture_logs() as logs, fence().item("x"):
        fails("a\x1b[31m\r\nb\ud800" + "x" * 1000)
    assert logs[0]["error"].isprintable()
    assert len(logs[0]["error"]) <= 300


# -- tasks


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "FIRST", 0.01)
    monkeypatch.setattr(Supervisor, "LONGEST", 0.05)
    monkeypatch.setattr(Supervisor, "STABLE", 0.05)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is anything at all
            await asyncio.sleep(0.005)


async def test_a_task_that_fails_is_down_begun_again_and_well_again() -> None:
    supervisor = Supervisor(fence())
    begun = 0
    downs: list[list[str]] = []

    async def work() -> None:
        nonlocal begun
        begun += 1
        downs.append(supervisor.down)
        if begun < 4:
            raise KeyError("x")
        await asyncio.Event().wait()

    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(supervisor.keep("reconcile", work))
            await until(lambda: begun == 4 and not supervisor.down)
            task.cancel()
    assert downs == [[], ["reconcile"], ["reconcile"], ["reconcile"]]
    assert [entry["event"] for entry in logs] == [
        "skipped: a fault of the service",
        "a task goes on",
    ]
    assert logs[0]["restarted"] is True
    assert supervisor.fence.faults == {"reconcile": 3}


async def test_one_that_waits_for_the_store_says_so_once_and_is_no_fault() -> None:
    supervisor = Supervisor(fence())
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 4:
            raise ExceptionGroup("g", [StoreUnavailable("the disk is full")])
        await asyncio.Event().wait()

    with capture_logs() as logs:
        task = asyncio.create_task(supervisor.keep("timers", work))
        await until(lambda: begun == 4 and not supervisor.down)
        task.cancel()
        await asyncio.wait([task])
    assert [entry["event"] for entry in logs] == ["a task waits", "a task goes on"]
    assert logs[0]["error"] == "StoreUnavailable: the disk is full"
    assert not supervisor.fence.faults


async def test_one_that_ends_unasked_is_begun_again_and_one_that_is_to_stop_stops() -> None:
    stop = False
    supervisor = Supervisor(fence(), lambda: stop)
    begun = 0

    async def work() -> None:
        nonlocal begun, stop
        begun += 1
        stop = begun == 3

    with capture_logs():
        await asyncio.wait_for(supervisor.keep("watch", work), 20)
    assert begun == 3


async def test_cancelling_is_prompt_at_work_and_between_two_attempts() -> None:
    supervisor = Supervisor(fence())

    async def broken() -> None:
        raise KeyError("x")

    for work in (broken, asyncio.Event().wait):
        Supervisor.FIRST = Supervisor.LONGEST = 60.0
        task = asyncio.create_task(supervisor.keep("x", work))  # type: ignore[arg-type]
        with capture_logs():
            await asyncio.sleep(0.01)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=20)
        assert done
        assert task.cancelled()


# -- what lasts


def test_what_lasts_is_said_when_it_begins_changes_and_is_over() -> None:
    with capture_logs() as logs:
        away = Trouble(log, "it waits", "it goes on", asterisk="north")
        away.is_over()
        for _ in range(100):
            away.is_there(error="a")
            away.is_there(error="b")
        assert away
        away.is_over()
        away.is_over()
        assert not away
        away.is_there(error="a")
    assert [(entry["event"], entry.get("error")) for entry in logs] == [
        ("it waits", "a"),
        ("it waits", "b"),
        ("it goes on", None),
        ("it waits", "a"),
    ]
    assert {entry["asterisk"] for entry in logs} == {"north"}


def test_a_text_that_never_is_the_same_is_no_flood() -> None:
    with capture_logs() as logs:
        away = Trouble(log, "it waits", "it goes on")
        for number in range(1000):
            away.is_there(error=f"no answer within {number} s")
    assert len(logs) == Trouble.MOST


def test_a_change_under_way_elsewhere_is_no_fault() -> None:
    assert issubclass(InProgress, AWAY)


async def test_what_a_task_waits_for_may_be_cancelled(quick: None) -> None:
    """That is no end of the task, which nobody has cancelled: it would be gone for good, and the
    service ready."""
    stopping = asyncio.Event()
    behind = fence()
    keeper = Supervisor(behind, stopping.is_set)
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        await asyncio.Event().wait()

    with capture_logs():
        task = asyncio.create_task(keeper.keep("timers", work))
        await until(lambda: keeper.down == ["timers"])
        await until(lambda: tries == 3 and not keeper.down)
    assert behind.faults == {"timers": 2}
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
