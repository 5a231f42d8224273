"""One bad answer, note, agent or change is logged and skipped; all else is done all the same."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from fastagi.agents import adoption, after_restart, comparing
from fastagi.agents import reconciler as module
from fastagi.agents.applying import GIVE_UP_AFTER, Applying
from fastagi.agents.commands import Command, Pause
from fastagi.agents.errors import Unavailable
from fastagi.agents.fence import Supervisor
from fastagi.agents.model import Change
from fastagi.agents.notes import Note
from fastagi.agents.operations import (
    MemberNews,
    QueuesUnavailable,
    RemoveMember,
    ReportedMember,
)
from fastagi.agents.service import StoreUnavailable
from fastagi.agents.taking_notes import TRIES
from fastagi.agents.timers import Timers
from fastagi.contract import EventType, Script, Source

from .memory import NOON, Hall, an_agent
from .test_service import Running, until

FAULT = "skipped: a fault of the service"
GIVEN_UP = (
    "an unconfirmed change was given up after a fault of the service: the queues in Asterisk say"
    " what came of it"
)


@pytest.fixture
def hall() -> Hall:
    return Hall(an_agent("1001"), an_agent("1002"), an_agent("1003"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "FIRST", 0.01)
    monkeypatch.setattr(Supervisor, "STABLE", 0.05)
    monkeypatch.setattr(module, "RETRY", 0.01)
    monkeypatch.setattr(module, "SILENCE", 0.01)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found  # type: ignore[misc]


def faults(logs: list[Any]) -> list[tuple[str, str]]:
    return [(log["task"], log["error"]) for log in logs if log["event"] == FAULT]


def said(logs: list[Any], event: str) -> int:
    return sum(log["event"] == event for log in logs)


async def everybody_in(hall: Hall) -> None:
    await hall.settle()
    await hall.do(*(hall.log_in(number, agent=number) for number in ("1001", "1002", "1003")))
    await hall.settle()


def poisoned(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    """Whoever compares this agent meets a fault."""
    real = adoption.differences

    def differences(agents: Any, *values: Any) -> Any:
        if any(agent.number == number for agent in agents):
            raise TypeError("unorderable")
        return real(agents, *values)

    monkeypatch.setattr(adoption, "differences", differences)
    monkeypatch.setattr(comparing, "differences", differences)


async def test_an_agent_at_fault_keeps_no_other_from_being_put_back(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)
    poisoned(monkeypatch, "1002")
    hall.asterisk.restart("later")
    hall.reconnected()
    await hall.settle()
    assert {"pjsip/1001", "pjsip/1003"} <= hall.asterisk.queues["sales"].keys()
    assert ("reconcile", "TypeError: unorderable") in faults(logs)
    assert len(faults(logs)) <= 2, "of each kind one line"


async def test_one_member_that_cannot_be_read_undoes_nobody_s_login(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    await everybody_in(hall)
    real = hall.asterisk.members

    async def members(*values: Any, **more: Any) -> Any:
        return [
            replace(m, penalty=0, paused=True, unsure=True) if m.interface == "PJSIP/1002" else m
            for m in await real(*values, **more)
        ]

    monkeypatch.setattr(hall.asterisk, "members", members)
    known = len(hall.events)
    hall.asterisk.console(RemoveMember("sales", "PJSIP/1003"))
    hall.reconnected()
    await hall.settle()
    assert hall.store.agents["1002"].session is not None
    assert hall.store.agents["1002"].pause is None
    assert [event.agent for event in hall.events[known:]] == ["1003"]


async def test_news_at_fault_are_looked_at_without_them(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)

    def agrees(*values: Any) -> bool:
        raise KeyError("x")

    with monkeypatch.context() as broken:
        broken.setattr(module, "agrees", agrees)
        broken.setattr(adoption, "agrees", agrees)
        hall.asterisk.console(RemoveMember("sales", "PJSIP/1003"))
        await hall.settle()
        assert faults(logs)
        await hall.settle()
    assert "sales" not in [m.queue for m in hall.store.agents["1003"].joined]


async def test_a_note_at_fault_is_tried_again_and_not_for_ever(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)
    hall.clock.now += timedelta(minutes=1)
    hall.asterisk.left = [
        Note(NOON + timedelta(seconds=s), Script.LOGOFF, f"PJSIP/{n}", unique_id=f"{n}.1")
        for s, n in ((30, "1001"), (31, "1002"))
    ]
    real = hall.service.applying.write_applied

    async def write_applied(command: Command, *values: Any, **more: Any) -> Any:
        if command.agent == "1001":
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return await real(command, *values, **more)

    monkeypatch.setattr(hall.service.applying, "write_applied", write_applied)
    for _ in range(TRIES):
        hall.reconnected()
        await hall.settle()
    assert hall.asterisk.left == []
    by_phone = [e.agent for e in hall.events if e.type is EventType.LOGOUT]
    assert by_phone == ["1002"]
    assert len(faults(logs)) == 1
    assert faults(logs)[0][1].startswith("UnicodeEncodeError: ")


async def test_lamps_at_fault_keep_nobody_from_being_put_back(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)

    async def restored(*values: Any) -> None:
        raise KeyError("lamp")

    hall.reconciler.restored = restored
    hall.asterisk.restart("later")
    hall.reconnected()
    await hall.settle()
    hall.all_well()
    assert faults(logs) == [("lamps", "KeyError: 'lamp'")]
    assert hall.store.remembered["asterisk_started"] == "later"


async def test_putting_back_at_fault_is_done_one_by_one(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)
    real = after_restart.restored

    def restored(state: Any, asterisk: str) -> Any:
        if state.number == "1002":
            raise KeyError("x")
        return real(state, asterisk)

    monkeypatch.setattr(after_restart, "restored", restored)
    hall.asterisk.restart("later")
    hall.reconnected()
    for _ in range(3):
        await hall.settle()
    hall.all_well()
    assert faults(logs) == [("reconcile", "KeyError: 'x'")]


async def test_a_change_at_fault_keeps_no_other_from_being_settled(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await hall.settle()
    hall.asterisk.answers_left = 0
    for number in ("1001", "1002"):
        hall.asterisk.linked, hall.asterisk.answers_left = True, 0
        with pytest.raises(Unavailable):
            await hall.service.execute(hall.log_in(number, agent=number))
    assert set(hall.store.intents) == {"1001", "1002"}
    hall.asterisk.linked, hall.asterisk.answers_left = True, None
    real = Applying._settle_once

    async def settle(self: Applying, change: Any) -> None:
        if change.command.agent == "1001":
            raise KeyError("x")
        await real(self, change)

    monkeypatch.setattr(Applying, "_settle_once", settle)
    await hall.service.settle()
    assert set(hall.store.intents) == {"1001"}
    assert faults(logs) == [("settle", "KeyError: 'x'")]


async def test_whoever_learns_of_changes_cannot_undo_them(hall: Hall, logs: list[Any]) -> None:
    await hall.settle()
    heard: list[str] = []
    hall.service.changed.insert(0, lambda change: 1 / 0)  # type: ignore[arg-type, return-value]
    hall.service.changed.append(lambda change: heard.append(change.after.number))
    change = await hall.service.execute(hall.log_in())
    assert change.after.session is not None
    assert heard == ["1001"]
    assert faults(logs) == [("changes", "ZeroDivisionError: division by zero")]


async def test_one_of_many_commands_at_fault_is_refused_and_the_others_are_done(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)
    real = hall.store.begin

    async def begin(number: str, *values: Any, **more: Any) -> Any:
        if number == "1002":
            raise KeyError("x")
        return await real(number, *values, **more)

    monkeypatch.setattr(hall.store, "begin", begin)
    refused = await hall.service.execute_all(
        hall.log_off(number) for number in ("1001", "1002", "1003")
    )
    assert [(command.agent, type(why)) for command, why in refused] == [("1002", Unavailable)]
    assert [a.number for a in hall.store.agents.values() if a.session] == ["1002"]
    assert faults(logs) == [("all agents", "KeyError: 'x'")]


async def test_a_planned_change_at_fault_waits_and_the_others_are_carried_out(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)
    plans = [hall.log_off("1001"), hall.log_off("1002")]

    async def planned() -> Any:
        return plans

    done: list[str] = []

    async def carry_out(plan: Any) -> None:
        done.append(plan.agent)
        if plan.agent == "1001":
            raise KeyError("x")

    monkeypatch.setattr(hall.store, "planned", planned)
    monkeypatch.setattr(hall.reconciler.planned, "_carry_out_one", carry_out)
    await hall.reconciler.planned.carry_out()
    await hall.reconciler.planned.carry_out()
    assert done == ["1001", "1002", "1002"]
    assert faults(logs) == [("settle", "KeyError: 'x'")]


async def test_pauses_at_fault_keep_phones_from_nothing(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)
    timers = Timers(hall.service, lambda: None, hall.service._log, hall.clock)  # type: ignore[arg-type, return-value]
    looked: list[str] = []

    async def pauses(*values: Any) -> None:
        raise KeyError("x")

    async def phones(*values: Any) -> None:
        looked.append("phones")

    async def shifts() -> None:
        looked.append("shifts")

    monkeypatch.setattr(timers, "_look_at_pauses", pauses)
    monkeypatch.setattr(timers, "_look_at_phones", phones)
    monkeypatch.setattr(timers, "_look_at_shifts", shifts)
    await timers.look()
    assert looked == ["phones", "shifts"]
    assert faults(logs) == [("timers", "KeyError: 'x'")]


# -- the tasks


async def test_a_reconciler_that_fails_is_begun_again_and_still_has_all_to_do(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)
    supervisor = hall.reconciler._supervisor
    real = hall.asterisk.started_at
    left = 3

    async def started_at(asterisk: str) -> str:
        nonlocal left
        left -= 1
        if left >= 0:
            raise TypeError("object of type 'NoneType' has no len()")
        return await real(asterisk)

    monkeypatch.setattr(hall.asterisk, "started_at", started_at)
    hall.asterisk.restart("later")
    hall.reconnected()
    async with Running(hall):
        await until(lambda: supervisor.down == ["reconcile"])
        await until(lambda: left < 0 and supervisor.down == [])
        await until(lambda: "pjsip/1003" in hall.asterisk.queues["billing"])
    hall.all_well()
    assert faults(logs) == [("reconcile", "TypeError: object of type 'NoneType' has no len()")]
    assert supervisor.fence.faults["reconcile"] == 3


async def test_a_change_that_can_never_be_written_down_locks_nobody_out(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)
    real = hall.store.confirm

    async def confirm(change: Change) -> None:
        if isinstance(change.command, Pause):
            raise ValueError("UNIQUE constraint failed")
        await real(change)

    monkeypatch.setattr(hall.store, "confirm", confirm)
    with pytest.raises(ValueError, match="UNIQUE"):
        await hall.do(hall.pause(agent="1002"))
    assert "1002" in hall.store.intents
    for _ in range(GIVE_UP_AFTER):
        assert not said(logs, GIVEN_UP)
        await hall.service.settle()
    (line,) = [log for log in logs if log["event"] == GIVEN_UP]
    assert (line["log_level"], line["agent"], line["command"]) == ("error", "1002", "Pause")
    assert hall.service.fence.faults["settle"] == GIVE_UP_AFTER
    # What Asterisk has counts, and the agent goes on.
    await hall.settle()
    assert hall.store.agents["1002"].pause is not None
    assert hall.events[-1].source is Source.ASTERISK
    await hall.do(hall.unpause(agent="1002"))
    hall.all_well()


async def test_a_change_that_can_be_written_at_the_second_attempt_is(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    await everybody_in(hall)
    real = hall.store.confirm
    left = GIVE_UP_AFTER

    async def confirm(change: Change) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            raise KeyError("x")
        await real(change)

    monkeypatch.setattr(hall.store, "confirm", confirm)
    with pytest.raises(KeyError):
        await hall.do(hall.pause(agent="1002"))
    for _ in range(GIVE_UP_AFTER):
        await hall.service.settle()
    assert hall.store.agents["1002"].pause is not None
    assert hall.events[-1].source is Source.PHONE
    assert not said(logs, GIVEN_UP)
    hall.all_well()


async def test_what_cannot_be_compared_for_long_is_said_once(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    real = hall.asterisk.started_at
    asked = 0
    missing = True

    async def started_at(asterisk: str) -> str:
        nonlocal asked
        asked += 1
        if missing:
            raise QueuesUnavailable("CoreStatus: Permission denied")
        return await real(asterisk)

    monkeypatch.setattr(hall.asterisk, "started_at", started_at)
    async with Running(hall):
        await until(lambda: asked > 20)
        missing = False
        await until(lambda: said(logs, "all is compared"))
        missing = True
        hall.reconnected()
        begun = asked
        await until(lambda: asked > begun + 20)
    assert said(logs, "not everything could be compared yet") == 2, "before it was over, and after"
    assert not faults(logs)


async def test_what_cannot_be_settled_for_long_is_said_once(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    tries = 0

    async def settle() -> None:
        nonlocal tries
        tries += 1
        if tries < 20:
            raise QueuesUnavailable("Asterisk gave no answer")

    monkeypatch.setattr(hall.service, "settle", settle)
    async with Running(hall):
        await until(lambda: said(logs, "all that was open is settled"))
    assert said(logs, "not everything could be settled yet") == 1


async def test_stopping_is_prompt_while_a_task_is_down(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def started_at(asterisk: str) -> str:
        raise TypeError("x")

    monkeypatch.setattr(Supervisor, "FIRST", 600.0)
    monkeypatch.setattr(Supervisor, "LONGEST", 600.0)
    monkeypatch.setattr(hall.asterisk, "started_at", started_at)
    task = asyncio.create_task(hall.reconciler.run())
    with capture_logs():
        await until(lambda: hall.reconciler._supervisor.down)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=20)
    assert done


def told(interface: str, name: str, *, present: bool = True) -> MemberNews:
    member = ReportedMember(
        "sales", interface, interface, name, 0, False, "", in_call=False, dynamic=True
    )
    return MemberNews(member, present)


async def test_news_that_wait_for_the_store_have_an_end(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    """A database that is away for a night, and queues in which much happens."""
    await everybody_in(hall)
    monkeypatch.setattr(module, "MOST_NEWS", 50)
    (side,) = hall.reconciler._asterisks.values()
    hall.store.down.add("*")
    hall.asterisk.console(RemoveMember("sales", "PJSIP/1003"))
    for _ in range(40):
        for number in range(5):
            # Of somebody else: whatever happens to him concerns nobody here.
            hall.reconciler.noticed([told(f"PJSIP/20{number}", "Somebody")])
        with suppress(StoreUnavailable):
            await hall.reconciler.catch_up()
        assert sum(map(len, side._news.values())) <= 50
    assert said(logs, "too many queue events wait for the store: all is compared once it is back")
    hall.store.down.clear()
    await hall.settle()
    assert "sales" not in [m.queue for m in hall.store.agents["1003"].joined]
    assert hall.events[-1].source == "asterisk"


async def test_news_that_waited_come_before_those_that_came_meanwhile(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    await everybody_in(hall)
    (side,) = hall.reconciler._asterisks.values()
    real = hall.store.states

    async def states(numbers: Any) -> Any:
        side.noticed(told("PJSIP/1003", "Agent/1003", present=False))
        raise StoreUnavailable("away")

    monkeypatch.setattr(hall.store, "states", states)
    side.noticed(told("PJSIP/1003", "Agent/1003"))
    with pytest.raises(StoreUnavailable):
        await side.catch_up()
    assert [item.present for item in side._news["1003"]] == [True, False]
    monkeypatch.setattr(hall.store, "states", real)
