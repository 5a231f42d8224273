"""Members that cannot be removed: they stand in queues.conf, or in a realtime table."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from fastagi.agents import errors
from fastagi.agents.commands import Command
from fastagi.agents.operations import PauseMember, RemoveMember, SetPenalty
from fastagi.contract import LOGGED_OFF, EventType, Outcome, Source

from .memory import BREAK, Hall, Member, an_agent

PHONE = "PJSIP/1001"
KEY = PHONE.lower()
LOGIN, LOGOUT, STATIC = EventType.LOGIN, EventType.LOGOUT, EventType.QUEUE_STATIC


def put(
    hall: Hall, queue: str, phone: str = PHONE, name: str = "Front desk", **how: object
) -> None:
    """Somebody has written it into queues.conf."""
    member = Member(name, phone, phone, 5, False, "", dynamic=False)
    for key, value in how.items():
        setattr(member, key, value)
    hall.asterisk.queues[queue][phone.lower()] = member


def row(hall: Hall, queue: str, key: str = KEY) -> tuple[int, bool, str] | None:
    """Penalty, whether paused, and why."""
    member = hall.asterisk.queues[queue].get(key)
    return member and (member.penalty, member.paused, member.reason)


def static_events(hall: Hall) -> list[tuple[str, tuple[str, ...]]]:
    return [(event.reason, event.queues) for event in hall.events if event.type is STATIC]


@pytest.fixture
async def hall() -> Hall:
    """Agent 1001 with a static member in support; Asterisk is known, nobody is logged in."""
    made = Hall(an_agent("1001"), an_agent("1002"))
    await made.settle()
    put(made, "support")
    return made


async def test_a_login_makes_it_what_is_meant_and_warns(hall: Hall) -> None:
    put(hall, "support", paused=True, reason=LOGGED_OFF)
    with capture_logs() as logs:
        change = await hall.service.execute(hall.log_in())
    assert change.outcome is Outcome.LOGGED_IN
    assert [row(hall, queue) for queue in ("sales", "support", "billing")] == [
        (0, False, ""),
        (1, False, ""),
        (2, False, ""),
    ]
    assert static_events(hall) == [("static member: a log-off can only pause it", ("support",))]
    (warning,) = [line for line in logs if line["event"].startswith("static member")]
    assert (warning["agent"], warning["queue"], warning["interface"]) == ("1001", "support", PHONE)
    assert "queues.conf" in warning["cure"]
    hall.history_is_true()


OFF: dict[str, tuple[Callable[[Hall], Command], Outcome]] = {
    "log-off": (lambda hall: hall.log_off(), Outcome.LOGGED_OFF),
    "end of shift": (
        lambda hall: hall.log_off(reason="end of shift"),
        Outcome.LOGGED_OFF,
    ),
    "archived": (lambda hall: hall.log_off(reason="archived"), Outcome.LOGGED_OFF),
    "move": (lambda hall: hall.log_in("1002", move=True), Outcome.MOVED),
    "leave": (lambda hall: hall.leave("support"), Outcome.QUEUE_LEFT),
}


@pytest.mark.parametrize("how", OFF)
async def test_what_cannot_be_left_is_paused_there(hall: Hall, how: str) -> None:
    command, outcome = OFF[how]
    await hall.do(hall.log_in())
    hall.asterisk.done.clear()
    with capture_logs() as logs:
        change = await hall.service.execute(command(hall))
    assert change.outcome is outcome
    assert row(hall, "support") == (1, True, LOGGED_OFF)
    assert static_events(hall)[-1] == ("static member: paused, not removed", ("support",))
    (warning,) = [line for line in logs if line["event"].startswith("static member")]
    assert (warning["agent"], warning["queue"], warning["interface"]) == ("1001", "support", PHONE)
    assert "queues.conf" in warning["cure"]
    # Out of the others once, and not back in.
    left = {"leave": 0}.get(how, 2)
    assert sum(isinstance(done, RemoveMember) for done in hall.asterisk.done) == left
    if how != "leave":
        assert row(hall, "sales") is None
        assert row(hall, "billing") is None
    assert hall.store.intents == {}
    hall.history_is_true()


async def test_the_whole_of_a_static_agent_can_log_off() -> None:
    hall = Hall(an_agent("1001", "sales"))
    await hall.settle()
    put(hall, "sales")
    await hall.do(hall.log_in(), hall.log_off())
    assert hall.state == an_agent("1001", "sales")
    assert row(hall, "sales") == (0, True, LOGGED_OFF)


async def test_a_paused_one_is_as_meant_while_the_agent_is_off(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.log_off())
    await hall.settle()
    before, done = list(hall.events), len(hall.asterisk.done)
    for _ in range(3):
        await hall.reconciler.all_now()
        hall.reconnected()
        await hall.settle()
    assert (hall.events, len(hall.asterisk.done)) == (before, done)
    assert hall.state == an_agent("1001")


async def test_a_restart_of_asterisk_forgets_the_pause_and_it_is_paused_again(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.log_off(), hall.log_in("1002", "1002"))
    await hall.settle()
    hall.asterisk.restart("2026-11-22 09:00:00")
    put(hall, "support")
    put(hall, "billing", "PJSIP/1009")  # no agent of ours has ever used this one
    hall.start()  # the service, too: nothing of it is in memory
    with capture_logs() as logs:
        await hall.settle()
    assert row(hall, "support") == (5, True, LOGGED_OFF)
    assert row(hall, "billing", "pjsip/1009") == (5, False, "")
    assert any(line["event"].startswith("static member of a queue") for line in logs)
    assert hall.state == an_agent("1001")
    assert not any(event.source is Source.ASTERISK for event in hall.events)


async def test_a_restart_under_a_logged_in_agent(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.pause())
    await hall.settle()
    hall.asterisk.restart("2026-11-22 09:00:00")
    put(hall, "support")
    hall.reconnected()
    await hall.settle()
    assert [row(hall, queue) for queue in ("sales", "support", "billing")] == [
        (0, True, "lunch"),
        (1, True, "lunch"),
        (2, True, "lunch"),
    ]
    assert not any(event.source is Source.ASTERISK for event in hall.events)


async def test_queues_conf_read_anew_is_nobody_s_doing(hall: Hall) -> None:
    """Asterisk then gives static members the penalty of the file and forgets why they are
    paused, and tells nobody."""
    await hall.do(hall.log_in(), hall.pause())
    await hall.settle()
    put(hall, "support", paused=True)
    await hall.reconciler.all_now()
    assert row(hall, "support") == (1, True, "lunch")
    assert not any(event.source is Source.ASTERISK for event in hall.events)


async def test_what_somebody_does_to_it_at_the_console_is_adopted(hall: Hall) -> None:
    await hall.do(hall.log_in())
    await hall.settle()
    hall.asterisk.console(SetPenalty("support", PHONE, 7))
    await hall.settle()
    hall.asterisk.console(PauseMember(PHONE, True, "till 3"))
    await hall.settle()
    assert row(hall, "support") == (7, True, "till 3")
    assert [(e.type, e.reason) for e in hall.events if e.source is Source.ASTERISK] == [
        (EventType.QUEUE_PENALTY, "7"),
        (EventType.PAUSE, "till 3"),
    ]


async def test_unpaused_at_the_console_while_the_agent_is_off_it_is_paused_again(
    hall: Hall,
) -> None:
    await hall.do(hall.log_in(), hall.log_off())
    await hall.settle()
    hall.asterisk.console(PauseMember(PHONE, False))
    await hall.settle()
    assert row(hall, "support") == (1, True, LOGGED_OFF)
    assert hall.state == an_agent("1001")
    assert [event.type for event in hall.events[4:]] == [EventType.REPAIR]


async def test_a_pause_and_its_end_spare_the_queue_that_was_left(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.leave("support"), hall.pause(), hall.pause(BREAK))
    assert row(hall, "support") == (1, True, LOGGED_OFF)
    assert row(hall, "sales") == (0, True, "break")
    hall.asterisk.done.clear()
    await hall.do(hall.unpause())
    assert [op for op in hall.asterisk.done if getattr(op, "queue", "") == "support"] == []
    assert row(hall, "support") == (1, True, LOGGED_OFF)
    assert row(hall, "sales") == (0, False, "")


async def test_it_can_be_joined_again(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.pause(), hall.leave("support"), hall.join("support"))
    assert row(hall, "support") == (1, True, "lunch")
    hall.history_is_true()
    await hall.do(hall.unpause())
    await hall.settle()
    assert row(hall, "support") == (1, False, "")
    hall.history_is_true()


async def test_the_next_agent_at_the_phone(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.log_off())
    await hall.do(hall.log_in("1001", "1002"))
    await hall.settle()
    assert row(hall, "support") == (1, False, "")
    assert await hall.service.agent_at(hall.log_in().device) == hall.store.agents["1002"]


async def test_taking_over_a_static_phone(hall: Hall) -> None:
    await hall.do(hall.log_in())
    await hall.service.execute(hall.log_in("1001", "1002"), take_over=True)
    await hall.settle()
    assert row(hall, "support") == (1, False, "")
    assert hall.state == an_agent("1001")


async def test_whose_name_it_has_does_not_matter(hall: Hall) -> None:
    """Named after 1002 in queues.conf, it is the phone of 1001 all the same."""
    put(hall, "support", name="Agent/1002")
    await hall.do(hall.log_in())
    await hall.reconciler.all_now()
    assert row(hall, "support") == (1, False, "")
    assert hall.told == [(LOGIN, ""), (STATIC, "static member: a log-off can only pause it")]


async def test_when_the_line_is_gone_it_is_a_member_like_others(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.log_off())
    del hall.asterisk.queues["support"][KEY]
    await hall.reconciler.all_now()
    assert not [note for note in hall.store.remembered if note.startswith("static")]
    await hall.do(hall.log_in(), hall.log_off())
    assert row(hall, "support") is None
    put(hall, "support")  # of somebody else now
    await hall.reconciler.all_now()
    assert row(hall, "support") == (5, False, "")


async def test_it_is_not_forgotten_with_its_queue(hall: Hall) -> None:
    """queues.conf is broken for a while."""
    await hall.do(hall.log_in(), hall.log_off())
    was = hall.asterisk.queues.pop("support")
    await hall.reconciler.all_now()
    hall.asterisk.queues["support"] = was
    was[KEY].paused = False
    await hall.reconciler.all_now()
    assert row(hall, "support") == (1, True, LOGGED_OFF)


async def test_a_refused_login_leaves_somebody_s_static_member_alone(hall: Hall) -> None:
    hall.asterisk.refuses = lambda operation: getattr(operation, "queue", "") == "billing"
    with pytest.raises(errors.QueueRefused):
        await hall.service.execute(hall.log_in())
    assert row(hall, "support") == (5, False, "")


async def test_a_refused_log_off_undoes_the_pause(hall: Hall) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.refuses = lambda operation: operation == RemoveMember("billing", PHONE)
    with pytest.raises(errors.QueueRefused):
        await hall.service.execute(hall.log_off())
    assert row(hall, "support") == (1, False, "")
    assert row(hall, "sales") == (0, False, "")


async def test_what_can_not_even_be_paused_is_a_refusal(hall: Hall) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.refuses = lambda operation: isinstance(operation, PauseMember)
    with pytest.raises(errors.QueueRefused, match="Member not dynamic, and it cannot be paused"):
        await hall.service.execute(hall.log_off())
    assert hall.state.session is not None


async def test_a_log_off_whose_answer_was_lost_is_finished(hall: Hall) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.answers_left = 1
    with pytest.raises(errors.Unavailable):
        await hall.service.execute(hall.log_off())
    hall.asterisk.linked = True
    hall.reconnected()
    await hall.settle()
    assert hall.state == an_agent("1001")
    assert row(hall, "support") == (1, True, LOGGED_OFF)
    assert hall.told[-2:] == [(LOGOUT, ""), (STATIC, "static member: paused, not removed")]
    hall.history_is_true()


async def test_a_note_that_cannot_be_read_is_left_alone(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.log_off())
    hall.store.remembered["static::x"] = "nothing"
    hall.asterisk.queues["support"][KEY].paused = False
    await hall.reconciler.all_now()
    assert row(hall, "support") == (1, True, LOGGED_OFF)


async def test_one_of_two_asterisks_has_it() -> None:
    hall = Hall(an_agent("1001"), asterisks=("paris", "rome"))
    await hall.settle()
    rome = hall.asterisks["rome"]
    rome.queues["support"][KEY] = Member("Front desk", PHONE, PHONE, 5, False, "", dynamic=False)
    await hall.do(hall.log_in(asterisk="rome"), hall.log_in(asterisk="paris", move=True))
    assert (rome.queues["support"][KEY].paused, rome.queues["sales"]) == (True, {})
    rome.restart("later")
    rome.queues["support"][KEY].paused = False
    hall.reconnected()
    await hall.settle()
    assert rome.queues["support"][KEY].paused
    assert not hall.asterisks["paris"].queues["support"][KEY].paused


async def test_paused_by_another_service_while_somebody_logs_in_it_is_no_pause_of_the_agent(
    hall: Hall,
) -> None:
    await hall.do(hall.log_in())
    await hall.settle()
    hall.asterisk.console(PauseMember(PHONE, True, LOGGED_OFF, "support"))
    await hall.settle()
    assert row(hall, "support") == (1, False, "")
    assert not [event for event in hall.events if event.source is Source.ASTERISK]
    assert hall.state.memberships[1].own_pause is None
