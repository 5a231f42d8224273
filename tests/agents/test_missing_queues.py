"""Queues of agents that Asterisk lacks: everything else goes on, and they are joined when they are
there."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from fastagi.agents import errors
from fastagi.agents.commands import AddToQueue, AssignPenalty, Command, Relog, RemoveFromQueue
from fastagi.agents.operations import AddMember, PauseMember
from fastagi.contract import EventType, Outcome, Source

from .memory import BREAK, Hall, an_agent

LOGIN, LOGOUT, MISSING = EventType.LOGIN, EventType.LOGOUT, EventType.QUEUE_MISSING
JOIN, LEAVE = EventType.QUEUE_JOIN, EventType.QUEUE_LEAVE
KEY = "pjsip/1001"


@pytest.fixture
async def hall() -> Hall:
    """Agents in sales, support and billing, of which Asterisk lacks billing."""
    made = Hall(an_agent("1001"), an_agent("1002"))
    await made.settle()
    del made.asterisk.queues["billing"]
    return made


def joined(hall: Hall) -> list[str]:
    return [m.queue for m in hall.state.joined]


def there(hall: Hall) -> list[str]:
    return [queue for queue, members in hall.asterisk.queues.items() if KEY in members]


async def appears(hall: Hall, queue: str = "billing") -> None:
    hall.asterisk.queues[queue] = {}
    await hall.reconciler.missing.look()


def events(hall: Hall, *types: EventType) -> list[tuple[str, tuple[str, ...], str]]:
    return [(e.type.value, e.queues, e.source.value) for e in hall.events if e.type in types]


async def test_the_agent_logs_in_to_the_others_and_joins_when_it_is_there(hall: Hall) -> None:
    with capture_logs() as logs:
        change = await hall.service.execute(hall.log_in())
    assert change.outcome is Outcome.LOGGED_IN
    assert [m.number for m in change.missing] == ["703"]
    assert joined(hall) == there(hall) == ["sales", "support"]
    assert events(hall, LOGIN, MISSING) == [
        ("agent-login", ("sales", "support"), "phone"),
        ("queue-missing", ("billing",), "phone"),
    ]
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert (warning["agent"], warning["queue"], warning["number"]) == ("1001", "billing", "703")
    assert "queues.conf" in warning["cure"]
    with capture_logs() as logs:
        for _ in range(3):
            await hall.reconciler.missing.look()
            await hall.reconciler.all_now()
    assert [line for line in logs if line["log_level"] != "info"] == []
    await hall.do(hall.pause())
    await appears(hall)
    assert joined(hall) == there(hall) == ["sales", "support", "billing"]
    assert hall.asterisk.queues["billing"][KEY].paused
    assert events(hall, JOIN) == [("queue-join", ("billing",), "system")]
    assert hall.store.remembered.keys() == {"asterisk_started"}
    hall.all_well()


async def test_it_can_be_a_refusal(hall: Hall) -> None:
    hall.service.policy = replace(hall.service.policy, refuse_missing_queue=True)
    with pytest.raises(errors.QueueMissing) as caught:
        await hall.service.execute(hall.log_in())
    assert "billing (703)" in str(caught.value)
    assert caught.value.numbers == ("703",)
    assert there(hall) == []
    assert hall.told == [(EventType.LOGIN_REFUSED, "QUEUE_REFUSED")]
    hall.all_well()


async def test_where_all_are_missing_it_is_a_refusal_that_names_them(hall: Hall) -> None:
    hall.asterisk.queues.clear()
    with pytest.raises(errors.QueueMissing) as caught:
        await hall.service.execute(hall.log_in())
    assert "sales (701), support (702), billing (703)" in str(caught.value)
    assert "queues.conf" in str(caught.value)
    hall.all_well()


async def test_an_agent_without_any_queue_logs_in_as_ever() -> None:
    hall = Hall(replace(an_agent("1001"), memberships=()))
    await hall.settle()
    assert (await hall.service.execute(hall.log_in())).outcome is Outcome.LOGGED_IN


async def test_joining_it_by_hand_is_refused_by_name(hall: Hall) -> None:
    await hall.do(hall.log_in())
    with pytest.raises(errors.QueueMissing, match="Asterisk has no queue billing"):
        await hall.service.execute(hall.join("billing"))
    await appears(hall)
    assert joined(hall) == ["sales", "support", "billing"]
    hall.all_well()


async def test_who_leaves_it_does_not_join_it_later(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.leave("billing"))
    await appears(hall)
    assert joined(hall) == ["sales", "support"]
    hall.all_well()


async def test_nor_who_has_logged_off_and_in_to_some(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.log_off(), replace(hall.log_in(), queues=("sales",)))
    await appears(hall)
    assert joined(hall) == ["sales"]
    assert not [note for note in hall.store.remembered if note.startswith("waiting")]
    hall.all_well()


async def test_nor_who_has_lost_it(hall: Hall) -> None:
    await hall.do(hall.log_in())
    command = {"agent": "1001", "source": Source.API, "id": "remove"}
    await hall.do(RemoveFromQueue(queue="billing", **command))  # type: ignore[arg-type]
    await appears(hall)
    assert joined(hall) == ["sales", "support"]
    hall.all_well()


async def test_it_is_waited_for_across_a_move_and_a_restart_of_the_service(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.log_in("1002", move=True))
    hall.start()
    await hall.settle()
    await appears(hall)
    assert joined(hall) == ["sales", "support", "billing"]
    assert list(hall.asterisk.queues["billing"]) == ["pjsip/1002"]
    hall.all_well()


async def test_a_queue_gone_since_does_not_keep_the_agent_from_moving(hall: Hall) -> None:
    await hall.do(hall.log_in())
    del hall.asterisk.queues["support"]
    change = await hall.service.execute(hall.log_in("1002", move=True))
    assert change.outcome is Outcome.MOVED
    assert joined(hall) == ["sales"]
    hall.history_is_true()
    await appears(hall, "support")
    await appears(hall, "billing")
    assert joined(hall) == ["sales", "support", "billing"]
    hall.all_well()


@pytest.mark.parametrize("name", ["pause", "unpause", "reason", "relog", "log off"])
async def test_nor_from_anything_else(hall: Hall, name: str) -> None:
    await hall.do(hall.log_in(), hall.pause())
    # An own pause there: what follows is said to each queue.
    hall.asterisk.console(PauseMember("PJSIP/1001", False, "", "support"))
    await hall.settle()
    del hall.asterisk.queues["support"]
    commands: dict[str, Command] = {
        "pause": hall.pause(),
        "unpause": hall.unpause(),
        "reason": hall.pause(BREAK),
        "relog": Relog(id="relog", agent="1001", source=Source.API),
        "log off": hall.log_off(),
    }
    await hall.do(commands[name])
    hall.history_is_true()
    hall.start()
    await hall.settle()
    if name != "log off":
        assert joined(hall) == ["sales"]
        assert events(hall, LEAVE) == [
            ("queue-leave", ("support",), "api" if name == "relog" else "asterisk")
        ]
        await appears(hall, "support")
        assert joined(hall) == ["sales", "support"]
    hall.all_well()


async def test_a_program_gives_an_agent_a_queue_that_is_missing(hall: Hall) -> None:
    hall.store.agents["1001"] = an_agent("1001", "sales")
    hall.store.own_queues["1001"] = {"sales"}
    await hall.do(hall.log_in())
    api = {"agent": "1001", "source": Source.API}
    await hall.do(AddToQueue(id="add", queue="billing", number="703", penalty=3, **api))  # type: ignore[arg-type]
    assert joined(hall) == ["sales"]
    assert events(hall, JOIN, MISSING) == [("queue-missing", ("billing",), "api")]
    await hall.do(AssignPenalty(id="penalty", queue="billing", penalty=4, **api))  # type: ignore[arg-type]
    await appears(hall)
    assert hall.asterisk.queues["billing"][KEY].penalty == 4
    hall.all_well()


async def test_a_restarted_asterisk_that_lacks_one_gets_the_others(hall: Hall) -> None:
    await hall.do(hall.log_in())
    await hall.settle()
    hall.asterisk.restart("later")
    del hall.asterisk.queues["support"]
    hall.reconnected()
    with capture_logs() as logs:
        for _ in range(3):
            await hall.settle()
            await hall.reconciler.all_now()
    assert joined(hall) == there(hall) == ["sales"]
    assert events(hall, LEAVE, MISSING)[1:] == [
        ("queue-leave", ("support",), "system"),
        ("queue-missing", ("support",), "system"),
    ]
    (warning,) = [line for line in logs if line["event"].startswith("Asterisk lacks a queue")]
    assert (warning["agent"], warning["queue"]) == ("1001", "support")
    await appears(hall, "support")
    assert joined(hall) == there(hall) == ["sales", "support"]
    hall.all_well()


async def test_a_restarted_asterisk_without_any_of_them_logs_nobody_off(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.pause())
    await hall.settle()
    hall.asterisk.restart("later")
    hall.asterisk.queues.clear()
    hall.reconnected()
    await hall.settle()
    assert hall.state.session is not None
    assert hall.state.pause is not None
    assert joined(hall) == []
    hall.start()
    await hall.settle()
    for queue in ("sales", "support", "billing"):
        hall.asterisk.queues[queue] = {}
    await hall.reconciler.missing.look()
    assert joined(hall) == there(hall) == ["sales", "support", "billing"]
    assert hall.asterisk.queues["sales"][KEY].reason == "lunch"
    hall.all_well()


@pytest.mark.parametrize("linked", [True, False])
async def test_a_queue_that_goes_away_under_its_agents(hall: Hall, linked: bool) -> None:
    """queues.conf was read anew; Asterisk tells nobody. Or the link was lost meanwhile."""
    await hall.do(hall.log_in())
    await hall.settle()
    del hall.asterisk.queues["support"]
    if linked:
        await hall.reconciler.all_now()
    else:
        hall.reconnected()
        await hall.settle()
    assert joined(hall) == ["sales"]
    assert events(hall, MISSING)[1:] == [
        ("queue-missing", ("support",), "system" if linked else "asterisk")
    ]
    hall.history_is_true()
    await appears(hall, "support")
    assert joined(hall) == there(hall) == ["sales", "support"]
    hall.all_well()


async def test_of_many_who_wait_one_is_enough_to_see(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.log_in("1002", "1002"))
    hall.faults.trace.clear()
    await hall.reconciler.missing.look()
    assert hall.faults.trace.count("within queues.apply") == 1
    await appears(hall)
    assert set(hall.asterisk.queues["billing"]) == {"pjsip/1001", "pjsip/1002"}
    hall.all_well()


async def test_a_member_in_it_tells_that_it_is_there(hall: Hall) -> None:
    await hall.do(hall.log_in())
    missing = hall.reconciler.missing
    missing._wake.clear()
    hall.asterisk.queues["Billing"] = {}
    hall.asterisk.console(AddMember("Billing", "PJSIP/1009", "", "somebody"))
    assert missing._wake.is_set()


async def test_what_is_refused_in_another_way_is_said_once(hall: Hall) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.queues["billing"] = {}
    hall.asterisk.refuses = lambda operation: isinstance(operation, AddMember)
    with capture_logs() as logs:
        for _ in range(3):
            await hall.reconciler.missing.look()
    (line,) = [x for x in logs if x["event"] == "a queue that is waited for could not be joined"]
    assert (line["agent"], line["queue"]) == ("1001", "billing")
    assert "Permission denied" in line["why"]
    hall.asterisk.refuses = lambda _: False
    await hall.reconciler.missing.look()
    hall.all_well()


async def test_a_repair_that_is_refused_for_ever_is_said_once(hall: Hall) -> None:
    await hall.do(hall.log_in())
    await hall.settle()
    hall.asterisk.restart("later")
    hall.asterisk.refuses = lambda operation: isinstance(operation, AddMember)
    with capture_logs() as logs:
        for n in range(3):
            hall.asterisk.started = f"{n}"
            hall.store.agents["1001"] = replace(
                hall.state,
                memberships=tuple(replace(m, joined=True) for m in hall.state.memberships[:1]),
            )
            hall.reconnected()
            await hall.settle()
    said = [line for line in logs if line["event"] == "not repaired"]
    assert [line["operation"] for line in said] == sorted({line["operation"] for line in said})
    assert "add PJSIP/1001 to queue sales" in {line["operation"] for line in said}


async def test_one_agent_at_fault_keeps_nobody_else_from_joining(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hall.do(hall.log_in(), hall.log_in("1002", "1002"))
    hall.asterisk.queues["billing"] = {}
    execute = hall.service.execute

    async def faulty(command: Command, **how: object) -> object:
        if command.agent == "1001":
            raise RuntimeError("a fault")
        return await execute(command, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(hall.service, "execute", faulty)
    await hall.reconciler.missing.look()
    assert list(hall.asterisk.queues["billing"]) == ["pjsip/1002"]


async def test_one_of_two_asterisks_lacks_a_queue() -> None:
    hall = Hall(an_agent("1001"), asterisks=("paris", "rome"))
    await hall.settle()
    del hall.asterisks["rome"].queues["billing"]
    await hall.do(hall.log_in(asterisk="rome"))
    assert joined(hall) == ["sales", "support"]
    hall.asterisks["rome"].queues["billing"] = {}
    await hall.reconciler.missing.look()
    assert list(hall.asterisks["rome"].queues["billing"]) == [KEY]
    assert hall.asterisks["paris"].queues["billing"] == {}
    hall.all_well()


async def test_it_is_waited_for_where_the_agent_has_moved_to() -> None:
    hall = Hall(an_agent("1001"), asterisks=("paris", "rome"))
    await hall.settle()
    del hall.asterisks["rome"].queues["billing"]
    await hall.do(hall.log_in(asterisk="paris"), hall.log_in(asterisk="rome", move=True))
    assert joined(hall) == ["sales", "support"]
    hall.asterisks["rome"].queues["billing"] = {}
    await hall.reconciler.missing.look()
    assert list(hall.asterisks["rome"].queues["billing"]) == [KEY]
    hall.all_well()


async def test_a_new_queue_is_joined_although_the_service_was_killed_before(hall: Hall) -> None:
    """The YAML gives a queue to an agent who is logged in; then the service dies."""
    hall.store.agents["1001"] = an_agent("1001", "sales")
    await hall.do(hall.log_in())
    hall.store.agents["1001"] = replace(
        hall.state,
        memberships=(*hall.state.memberships, an_agent("1001", "support").memberships[0]),
    )
    await hall.service.waiting.add_new("1001", "support")
    hall.start()
    await hall.settle()
    await hall.reconciler.missing.look()
    assert joined(hall) == there(hall) == ["sales", "support"]
    assert not [note for note in hall.store.remembered if note.startswith("waiting")]
