"""The store and Asterisk are kept of one mind, whoever changed either, whatever fails meanwhile."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from fastagi.agents import errors, queue_events, reconciler
from fastagi.agents.commands import Command, PauseReason, WhenInCall
from fastagi.agents.differences import Difference, Kind
from fastagi.agents.model import OwnPause
from fastagi.agents.notes import Note
from fastagi.agents.operations import (
    AddMember,
    Answer,
    MemberNews,
    Operation,
    PauseMember,
    QueuesUnavailable,
    RemoveMember,
    ReportedMember,
    SetPenalty,
)
from fastagi.agents.service import AgentService, StoreUnavailable
from fastagi.contract import EventType, Outcome, Script, Source

from .memory import BREAK, LUNCH, NOON, Hall, Killed, Member, an_agent, apply, device
from .test_service import EVERY, Running, prepared, refused, settle_until_done, until

LOGIN, LOGOUT = EventType.LOGIN, EventType.LOGOUT
PAUSE, UNPAUSE = EventType.PAUSE, EventType.UNPAUSE
JOIN, LEAVE = EventType.QUEUE_JOIN, EventType.QUEUE_LEAVE
PENALTY, REPAIR = EventType.QUEUE_PENALTY, EventType.REPAIR

PHONE = "PJSIP/1001"
ALL = ("sales", "support", "billing")


@pytest.fixture
def hall() -> Hall:
    return Hall()


@pytest.fixture
def two() -> Hall:
    return Hall(an_agent("1001"), an_agent("1002"))


def add(
    queue: str,
    at: str = "1001",
    agent: str = "1001",
    *,
    penalty: int | None = None,
    reason: str | None = None,
    asterisk: str = "",
) -> AddMember:
    """As somebody at the console would, with the agent's own penalty."""
    phone = f"PJSIP/{at}"
    its = {"sales": 0, "support": 1, "billing": 2}[queue] if penalty is None else penalty
    paused = reason is not None
    return AddMember(queue, phone, phone, f"Agent/{agent}", its, paused, reason or "", asterisk)


def remove(queue: str, at: str = "1001", asterisk: str = "") -> RemoveMember:
    return RemoveMember(queue, f"PJSIP/{at}", asterisk)


def pause(queue: str = "", reason: str = "") -> PauseMember:
    return PauseMember(PHONE, True, reason, queue)


def unpause(queue: str = "") -> PauseMember:
    return PauseMember(PHONE, False, "", queue)


def told(hall: Hall, since: int = 0) -> list[tuple[EventType, str, tuple[str, ...], Source]]:
    return [(e.type, e.reason, e.queues, e.source) for e in hall.events[since:]]


def by_asterisk(
    *events: tuple[EventType, str, tuple[str, ...]],
) -> list[tuple[EventType, str, tuple[str, ...], Source]]:
    return [(*event, Source.ASTERISK) for event in events]


def silently(hall: Hall, *operations: Operation) -> None:
    """Somebody does it while the link is down or the service is away: no news come of it."""
    for operation in operations:
        asterisk = hall.asterisks[operation.asterisk]
        answer, message = apply(asterisk.queues, operation)
        assert answer is Answer.DONE, message


# -- what somebody does in Asterisk


@dataclass(frozen=True)
class Live:
    name: str
    before: Callable[[Hall], list[Command]]
    done: Sequence[Operation]
    told: Sequence[tuple[EventType, str, tuple[str, ...]]]


IN: Callable[[Hall], list[Command]] = lambda hall: [hall.log_in()]  # noqa: E731
OFF: Callable[[Hall], list[Command]] = lambda hall: []  # noqa: E731
PAUSED: Callable[[Hall], list[Command]] = lambda hall: [hall.log_in(), hall.pause()]  # noqa: E731
IN_SALES: Callable[[Hall], list[Command]] = lambda hall: [  # noqa: E731
    hall.log_in(),
    hall.leave("support"),
    hall.leave("billing"),
]

LIVE = [
    Live("added", OFF, [add("sales")], [(LOGIN, "", ("sales",))]),
    Live(
        "added paused",
        OFF,
        [add("sales", reason="lunch")],
        [(LOGIN, "", ("sales",)), (PAUSE, "lunch", ("sales",))],
    ),
    Live("added with another penalty", OFF, [add("sales", penalty=9)], [(LOGIN, "", ("sales",))]),
    Live("added at another phone", OFF, [add("sales", "1007")], [(LOGIN, "", ("sales",))]),
    Live("added to one more", IN_SALES, [add("support")], [(JOIN, "", ("support",))]),
    Live("removed from one", IN, [remove("support")], [(LEAVE, "", ("support",))]),
    Live("removed from the last", IN_SALES, [remove("sales")], [(LOGOUT, "removed", ("sales",))]),
    Live("paused", IN, [pause("", "lunch")], [(PAUSE, "lunch", ALL)]),
    Live("paused for an unknown reason", IN, [pause("", "Mittag")], [(PAUSE, "Mittag", ALL)]),
    Live("paused for no reason", IN, [pause()], [(PAUSE, "", ALL)]),
    Live("paused in one", IN, [pause("sales", "x")], [(PAUSE, "x", ("sales",))]),
    Live("paused in the only one", IN_SALES, [pause("sales", "x")], [(PAUSE, "x", ("sales",))]),
    Live("unpaused", PAUSED, [unpause()], [(UNPAUSE, "lunch", ALL)]),
    Live("unpaused in one", PAUSED, [unpause("sales")], [(UNPAUSE, "lunch", ("sales",))]),
    Live("paused for another reason", PAUSED, [pause("", "break")], [(PAUSE, "break", ALL)]),
    Live("penalty", IN, [SetPenalty("sales", PHONE, 5)], [(PENALTY, "5", ("sales",))]),
    Live(
        "several at once",
        IN,
        [remove("billing"), SetPenalty("sales", PHONE, 5), pause("support", "x")],
        [
            (LEAVE, "", ("billing",)),
            (PENALTY, "5", ("sales",)),
            (PAUSE, "x", ("support",)),
        ],
    ),
    Live("paused and unpaused again", IN, [pause("", "x"), unpause()], []),
    Live("removed and added again", IN, [remove("sales"), add("sales")], []),
    Live(
        "moved to another phone",
        IN,
        [*(remove(queue) for queue in ALL), add("sales", "1007")],
        [(LOGOUT, "removed", ALL), (LOGIN, "", ("sales",))],
    ),
    Live(
        "the phone added without the agent's name",
        IN_SALES,
        [replace(add("support"), member_name="Alice")],
        [(JOIN, "", ("support",))],
    ),
]


@pytest.mark.parametrize("live", LIVE, ids=lambda live: live.name)
@pytest.mark.parametrize("how", ["one by one", "in one batch", "late, one by one", "link lost"])
async def test_what_somebody_does_in_asterisk_is_written_down_once(
    hall: Hall, live: Live, how: str
) -> None:
    await hall.settle()
    await hall.do(*live.before(hall))
    await hall.settle()
    known = len(hall.events)
    started = hall.asterisk.started
    for operation in live.done:
        match how:
            case "one by one":
                hall.asterisk.console(operation)
                await hall.settle()
            case "in one batch":
                hall.asterisk.console(operation)
            case "late, one by one":
                hall.asterisk.wait_for_news = True
                hall.asterisk.console(operation)
            case "link lost":
                silently(hall, operation)
    for news in hall.asterisk.waiting:
        hall.reconciler.noticed([news])
        await hall.settle()
    if how == "link lost":
        hall.reconnected()
    await hall.settle()
    await hall.settle()
    if how == "one by one" and len(live.done) > 1:
        assert len(hall.events) - known >= len(live.told)
        assert {event.source for event in hall.events[known:]} <= {Source.ASTERISK}
    else:
        assert told(hall, known) == by_asterisk(*live.told)
    assert hall.asterisk.started == started
    if live.name != "the phone added without the agent's name":
        hall.all_well()
    hall.history_is_true()
    # And never again.
    hall.reconnected()
    await hall.settle()
    count = len(hall.events)
    await hall.settle()
    await hall.reconciler.all_now()
    assert len(hall.events) == count


async def test_what_is_adopted_names_the_phone_and_nobody(hall: Hall) -> None:
    await hall.settle()
    hall.clock.pass_(minutes=5)
    hall.asterisk.console(add("sales", "1007"))
    await hall.settle()
    assert hall.state.session is not None
    assert hall.state.session.device == device("1007")
    (event,) = hall.events
    assert (event.extension, event.context) == ("1007", "phones")
    assert event.actor.as_dict() == {}
    assert event.occurred_at == NOON + timedelta(minutes=5)


async def test_a_known_pause_reason_is_known_by_its_code(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.console(pause("", "break"))
    await hall.settle()
    assert hall.state.pause is not None
    assert hall.state.pause.reason == BREAK
    change = await hall.service.execute(hall.pause(BREAK))
    assert change.outcome is Outcome.ALREADY_PAUSED


async def test_an_agent_goes_on_after_what_somebody_did(hall: Hall) -> None:
    """Whatever the state is by then, the codes do what they say."""
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.console(pause("support", "no answer"))
    hall.asterisk.console(SetPenalty("sales", PHONE, 9))
    await hall.settle()
    for command, outcome in (
        (hall.unpause(), Outcome.UNPAUSED),
        (hall.unpause(), Outcome.NOT_PAUSED),
        (hall.pause(), Outcome.PAUSED),
        (hall.log_in("1002", move=True), Outcome.MOVED),
        (hall.leave("sales"), Outcome.QUEUE_LEFT),
        (hall.join("sales"), Outcome.QUEUE_JOINED),  # with the agent's own penalty again
        (hall.log_off(), Outcome.LOGGED_OFF),
    ):
        assert (await hall.service.execute(command)).outcome is outcome
        await hall.settle()
        hall.all_well()
    assert {event.source for event in hall.events[3:]} == {Source.PHONE}


async def test_strangers_are_nobody_s_business(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    known = len(hall.events)
    stranger = replace(add("sales", "1009"), member_name="Bob")
    hall.asterisk.console(stranger)
    hall.asterisk.console(replace(add("support", "1009"), member_name="Agent/9999"))
    hall.asterisk.console(remove("sales", "1009"))
    await hall.settle()
    hall.reconnected()
    await hall.settle()
    assert len(hall.events) == known
    assert "pjsip/1009" in hall.asterisk.queues["support"]


async def test_who_sits_on_a_phone_is_not_joined_by_another(two: Hall) -> None:
    """Somebody adds 1002's phone under the name of 1001, who is logged off."""
    await two.settle()
    await two.do(two.log_in("1002", agent="1002"), two.leave("sales", agent="1002"))
    known = len(two.events)
    two.asterisk.console(add("sales", "1002", "1001"))
    await two.settle()
    assert [e.type for e in two.events[known:]] == [REPAIR]
    two.all_well()
    assert two.store.agents["1001"].session is None


async def test_a_phone_that_gets_another_s_name_is_missed(two: Hall) -> None:
    """Out and in again, as somebody who sits elsewhere; of one member only the latest is told."""
    await two.settle()
    await two.do(two.log_in(), two.log_in("1002", agent="1002"))
    await two.settle()
    known = len(two.events)
    silently(two, remove("sales", "1002"))
    two.asterisk.console(add("sales", "1002", "1001"))
    await two.settle()
    await two.settle()
    two.all_well()
    assert [(e.type, e.agent, e.queues) for e in two.events[known:]] == [
        (REPAIR, "", ()),
        (LEAVE, "1002", ("sales",)),
    ]


async def test_an_agent_takes_another_s_place_in_asterisk(two: Hall) -> None:
    """A script at the change of shifts: one out, the next in, same phone."""
    for batch in (True, False):
        hall = Hall(an_agent("1001"), an_agent("1002"))
        await hall.settle()
        await hall.do(hall.log_in())
        for operation in [*(remove(queue) for queue in ALL), add("sales", "1001", "1002")]:
            hall.asterisk.console(operation)
            if not batch:
                await hall.settle()
        await hall.settle()
        await hall.settle()
        assert hall.store.agents["1001"].session is None
        assert hall.store.agents["1002"].session is not None
        assert {e.source for e in hall.events[1:]} == {Source.ASTERISK}
        hall.all_well()


async def test_an_agent_cannot_be_at_two_places(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.console(add("sales", "1007"))
    await hall.settle()
    assert told(hall, 1) == [(REPAIR, "1 taken out", (), Source.SYSTEM)]
    assert hall.counted == {("", "taken out"): 1}
    hall.all_well()


async def test_a_queue_that_is_none_of_the_agent_s_is_left_like_any_other() -> None:
    hall = Hall(an_agent("1001", "sales"))
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.console(add("billing"))
    await hall.settle()
    hall.all_well()
    await hall.do(hall.pause())
    assert hall.asterisk.queues["billing"]["pjsip/1001"].paused
    await hall.do(hall.log_off(), hall.log_in())
    assert hall.asterisk.queues["billing"] == {}
    await hall.settle()
    hall.all_well()


async def test_a_queue_that_the_store_does_not_have_is_left_alone(hall: Hall) -> None:
    del hall.store.known_queues["billing"]
    await hall.settle()
    hall.asterisk.console(add("billing"))
    await hall.settle()
    assert hall.events == []
    assert "pjsip/1001" in hall.asterisk.queues["billing"]


async def test_a_planned_log_off_ends_with_the_login(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.calls.add("pjsip/1001")
    await hall.do(hall.log_off(when_in_call=WhenInCall.AFTER_CALL))
    for queue in ALL:
        hall.asterisk.console(remove(queue))
    await hall.settle()
    hall.asterisk.calls.clear()
    await hall.settle()
    assert [(e.type, e.source) for e in hall.events] == [
        (LOGIN, Source.PHONE),
        (LOGOUT, Source.ASTERISK),
    ]


async def test_many_at_once_are_looked_at_with_one_question() -> None:
    agents = [an_agent(str(2000 + n)) for n in range(40)]
    hall = Hall(*agents)
    await hall.settle()
    start = len(hall.faults.trace)
    for agent in agents:
        hall.asterisk.console(add("sales", agent.number, agent.number))
    await hall.settle()
    assert hall.faults.trace[start:].count("before queues.members") == 1
    assert len(hall.events) == 40
    assert hall.counted == {("", "adopted"): 40}
    hall.all_well()


async def test_within_a_second_and_without_being_asked(hall: Hall) -> None:
    async with Running(hall):
        await until(lambda: "asterisk_started" in hall.store.remembered)
        await hall.do(hall.log_in())
        hall.asterisk.console(pause("", "x"))
        await until(lambda: hall.state.pause is not None)
        hall.asterisk.console(unpause())
        await until(lambda: hall.state.pause is None)
    hall.all_well()


# -- our own doing is no news


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("when", ["at once", "later", "twice", "after a reconnect"])
async def test_our_own_doing_is_not_written_down_again(name: str, when: str) -> None:
    hall = Hall()
    await prepared(hall, name)
    await hall.settle()
    hall.asterisk.wait_for_news = when != "at once"
    command = EVERY[name](hall)
    await hall.service.execute(command)
    known = len(hall.events)
    match when:
        case "later":
            hall.asterisk.tell_waiting()
        case "twice":
            news = list(hall.asterisk.waiting)
            hall.asterisk.tell_waiting()
            await hall.settle()
            hall.reconciler.noticed(news)
        case "after a reconnect":
            hall.reconnected()
            await hall.settle()
            hall.asterisk.tell_waiting()
    await hall.settle()
    assert told(hall, known) == []
    hall.all_well()


@pytest.mark.parametrize("name", EVERY)
async def test_an_echo_is_looked_at_when_its_change_is_confirmed(name: str) -> None:
    hall = Hall()
    await prepared(hall, name)
    await hall.settle()
    seen = hall.faults.stop_at("before store.confirm")
    doing = asyncio.create_task(hall.service.execute(EVERY[name](hall)))
    waiting = asyncio.create_task(seen.wait())
    await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    known = len(hall.events)
    looking = asyncio.create_task(hall.reconciler._asterisks[""].catch_up())
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(hall.events) == known
    hall.faults.go_on("before store.confirm")
    await doing
    await looking
    waiting.cancel()
    await hall.settle()
    assert {event.source for event in hall.events} == {Source.PHONE}
    hall.all_well()


@pytest.mark.parametrize("name", EVERY)
async def test_an_echo_of_what_is_over_is_no_news(name: str) -> None:
    """Echoes come when a later change is there already, of ours or of somebody else's."""
    hall = Hall()
    await prepared(hall, name)
    await hall.settle()
    hall.asterisk.wait_for_news = True
    await hall.service.execute(EVERY[name](hall))
    with suppress(errors.NotLoggedIn):
        await hall.do(hall.pause(PauseReason("3", "meeting")))
        await hall.do(hall.leave("support"))
    known = len(hall.events)
    echoes = list(hall.asterisk.waiting)
    hall.asterisk.waiting.clear()
    at = hall.state.session.device.interface if hall.state.session else PHONE
    if hall.state.session:
        hall.asterisk.console(SetPenalty("sales" if name != "leave" else "billing", at, 8)) if any(
            m.queue == ("sales" if name != "leave" else "billing") for m in hall.state.joined
        ) else None
    for news in [*hall.asterisk.waiting, *echoes, *hall.asterisk.waiting]:
        hall.reconciler.noticed([news])
        await hall.settle()
    assert {e.type for e in hall.events[known:]} <= {PENALTY}
    assert len(hall.events) - known <= 1
    hall.all_well()


async def test_the_echo_of_a_refused_login_is_no_login(hall: Hall) -> None:
    await hall.settle()
    hall.asterisk.wait_for_news = True
    hall.asterisk.refuses = lambda operation: getattr(operation, "queue", "") == "billing"
    await refused(errors.QueueRefused, hall.service.execute(hall.log_in()))
    hall.asterisk.tell_waiting()
    await hall.settle()
    assert [event.type for event in hall.events] == [EventType.LOGIN_REFUSED]


async def test_who_is_put_back_in_the_middle_of_a_log_off_is_seen() -> None:
    """News that agrees with the store while the store is about to change its mind."""
    hall = Hall(an_agent("1001", "sales"))
    await hall.settle()
    await hall.do(hall.log_in())
    await hall.settle()
    hall.asterisk.wait_for_news = True
    seen = hall.faults.stop_at("before store.confirm")
    doing = asyncio.create_task(hall.service.execute(hall.log_off()))
    await seen.wait()
    hall.asterisk.console(add("sales"))
    # Of one member only the latest is told.
    hall.reconciler.noticed(hall.asterisk.waiting[-1:])
    settling = asyncio.create_task(hall.reconciler._asterisks[""].catch_up())
    for _ in range(30):
        await asyncio.sleep(0)
    hall.faults.go_on("before store.confirm")
    await doing
    await settling
    assert [(e.type, e.source) for e in hall.events] == [
        (LOGIN, Source.PHONE),
        (LOGOUT, Source.PHONE),
        (LOGIN, Source.ASTERISK),
    ]
    hall.all_well()


# -- who wins


async def worked_on(hall: Hall) -> None:
    """1001 is in with pauses and penalties of all kinds, 1002 is paused, 1003 is off."""
    await hall.settle()
    await hall.do(
        hall.log_in(),
        hall.leave("billing"),
        hall.log_in("1002", agent="1002"),
        hall.pause(agent="1002"),
        hall.log_in("1003", agent="1003"),
        hall.log_off("1003"),
    )
    hall.asterisk.console(pause("support", "no answer"))
    hall.asterisk.console(SetPenalty("sales", PHONE, 9))
    await hall.settle()
    hall.all_well()


@pytest.fixture
def three() -> Hall:
    return Hall(an_agent("1001"), an_agent("1002"), an_agent("1003"))


async def test_after_a_restart_all_are_back_as_they_were(three: Hall) -> None:
    await worked_on(three)
    before, known = dict(three.store.agents), len(three.events)
    meant = {name: dict(members) for name, members in three.asterisk.queues.items()}
    three.asterisk.restart("later")
    three.reconnected()
    await three.settle()
    assert three.store.agents == before
    assert three.asterisk.queues == meant
    assert three.asterisk.queues["sales"]["pjsip/1001"].penalty == 9
    assert three.asterisk.queues["support"]["pjsip/1001"].reason == "no answer"
    assert three.asterisk.queues["sales"]["pjsip/1002"].reason == "lunch"
    assert told(three, known) == [(REPAIR, "5 put back", (), Source.SYSTEM)]
    assert three.counted["", "put back"] == 5
    # 1003 has just logged off: Asterisk may not have written that lamp down.
    assert three.lamps_set == [("", ["1001", "1002", "1003"])]
    three.all_well()


async def test_a_restart_while_the_service_was_away(three: Hall) -> None:
    await worked_on(three)
    meant = {name: dict(members) for name, members in three.asterisk.queues.items()}
    three.asterisk.restart("later")
    three.start()
    await three.settle()
    assert three.asterisk.queues == meant
    three.all_well()


async def test_what_asterisk_remembered_wrongly_is_corrected_after_a_restart(three: Hall) -> None:
    """persistentmembers: it brings back members as they were when it wrote them down."""
    await worked_on(three)
    known = len(three.events)
    three.asterisk.restart("later")
    silently(
        three,
        add("sales", penalty=4),
        add("billing"),  # had been left
        add("support", "1002", "1002"),  # was not paused then
        add("sales", "1003", "1003"),  # has logged off
        replace(add("sales", "1009"), member_name="stranger"),
    )
    three.reconnected()
    await three.settle()
    stranger = three.asterisk.queues["sales"].pop("pjsip/1009")
    assert stranger.name == "stranger"
    three.all_well()
    assert told(three, known) == [
        (REPAIR, "2 corrected, 3 put back, 2 taken out", (), Source.SYSTEM)
    ]


async def test_a_first_start_takes_asterisk_as_it_is(two: Hall) -> None:
    """Members that were there before this software was."""
    silently(two, add("sales"), add("support", reason="lunch"), add("sales", "1002", "1002"))
    await two.settle()
    assert told(two) == by_asterisk(
        (LOGIN, "", ("sales", "support")), (PAUSE, "lunch", ("support",)), (LOGIN, "", ("sales",))
    )
    two.all_well()


@pytest.mark.parametrize("point", ["store.unsettled", "queues.notes", "queues.members"])
async def test_a_restart_within_the_very_first_comparison(hall: Hall, point: str) -> None:
    """Who has logged in meanwhile is put back, not taken for removed at the console."""
    waits = hall.faults.stop_at(f"before {point}")
    looking = asyncio.create_task(hall.reconciler._asterisks[""].catch_up())
    await waits.wait()
    await hall.do(hall.log_in())
    hall.asterisk.linked = False
    hall.faults.go_on(f"before {point}")
    with pytest.raises(QueuesUnavailable):
        await looking
    hall.asterisk.restart("later")
    hall.reconnected()
    await hall.settle()
    assert told(hall) == [
        (LOGIN, "", ALL, Source.PHONE),
        (REPAIR, "3 put back", (), Source.SYSTEM),
    ]
    hall.all_well()


async def test_what_was_done_while_the_service_was_away_is_adopted(two: Hall) -> None:
    await two.settle()
    await two.do(two.log_in(), two.pause())
    silently(two, remove("sales"), unpause(), add("billing", "1002", "1002"))
    known = len(two.events)
    two.start()
    await two.settle()
    assert told(two, known) == by_asterisk(
        (LEAVE, "", ("sales",)),
        (UNPAUSE, "lunch", ("support", "billing")),
        (LOGIN, "", ("billing",)),
    )
    two.all_well()


async def test_all_members_gone_without_a_restart_was_somebody(two: Hall) -> None:
    """``module reload app_queue.so`` or a script: not for us to undo."""
    await two.settle()
    await two.do(two.log_in(), two.log_in("1002", agent="1002"))
    for members in two.asterisk.queues.values():
        members.clear()
    two.reconnected()
    await two.settle()
    assert told(two, 2) == by_asterisk((LOGOUT, "removed", ALL), (LOGOUT, "removed", ALL))
    two.all_well()


async def test_nothing_is_adopted_from_an_asterisk_that_may_have_restarted(hall: Hall) -> None:
    """A comparison was on its way when the link was cut, and Asterisk is a new one after it."""
    for how in ("timer", "news", "command"):
        hall = Hall()
        await hall.settle()
        await hall.do(hall.log_in())
        await hall.settle()
        silently(hall, pause("sales", "x"))
        seen = hall.faults.stop_at("before store.hold")
        side = hall.reconciler._asterisks[""]
        if how == "news":
            hall.asterisk._tell(pause("sales", "x"))
        doing: Awaitable[object] = {
            "timer": side.compare_all,
            "news": side.catch_up,
            "command": hall.reconciler.all_now,
        }[how]()
        looking = asyncio.create_task(doing)  # type: ignore[arg-type]
        await seen.wait()
        hall.asterisk.restart("later")
        hall.reconnected()
        hall.faults.go_on("before store.hold")
        with pytest.raises(QueuesUnavailable):
            await looking
        assert hall.state.session is not None
        await hall.settle()
        hall.all_well()
        assert [e.source for e in hall.events] == [Source.PHONE, Source.SYSTEM]


async def test_nothing_is_compared_before_it_is_known_who_wins(hall: Hall) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.queues["sales"].clear()
    with pytest.raises(QueuesUnavailable):
        await hall.reconciler._asterisks[""].compare_all()
    await hall.settle()
    assert (await hall.reconciler.all_now()).total() == 0


async def test_a_service_that_finds_another_one_at_it_waits(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two on one store: the other one puts the members back; ours adopts nothing meanwhile."""
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.restart("later")
    hall.reconnected()
    hall.store.others_are_at.add("reconcile:")
    monkeypatch.setattr("fastagi.agents.reconciler.ALONE_AGAIN", 0.01)
    hall.asterisk.last_name = "Agent/1001"
    hall.asterisk._tell(remove("sales"))  # not there yet; what is told does not agree
    await hall.settle()
    assert len(hall.events) == 1
    assert hall.asterisk.queues["sales"] == {}
    hall.store.others_are_at.clear()
    await hall.settle()
    hall.all_well()
    assert len(hall.events) == 2


async def test_what_differs_can_be_read_without_being_mended(two: Hall) -> None:
    await two.settle()
    await two.do(two.log_in(), two.leave("billing"))
    silently(two, remove("sales"), pause("support", "x"), add("billing", "1002", "1002"))
    found = await two.reconciler.compare("")
    assert [(d.kind, d.agent, d.queue) for d in found] == [
        (Kind.MISSING, "1001", "sales"),
        (Kind.PAUSE, "1001", "support"),
        (Kind.EXTRA, "1002", "billing"),
    ]
    assert len(two.events) == 2
    assert await two.reconciler.all_now() == {"adopted": 2}
    assert await two.reconciler.compare("") == []
    two.all_well()


async def test_every_so_often_all_is_compared(hall: Hall) -> None:
    """News can be lost; the timer sees it all the same."""
    hall.every = timedelta(seconds=0.05)
    async with Running(hall):
        await until(lambda: "asterisk_started" in hall.store.remembered)
        await hall.do(hall.log_in())
        silently(hall, pause("", "x"))
        await until(lambda: hall.state.pause is not None)
        hall.asterisk.linked = False
        await asyncio.sleep(0.2)
        hall.asterisk.linked = True
        hall.reconnected()
        silently(hall, unpause())
        await until(lambda: hall.state.pause is None)
    hall.all_well()
    assert {event.source for event in hall.events[1:]} == {Source.ASTERISK}


async def test_run_goes_on_after_whatever_failed(hall: Hall) -> None:
    async with Running(hall):
        await until(lambda: "asterisk_started" in hall.store.remembered)
        await hall.do(hall.log_in())
        hall.asterisk.restart("later")
        hall.asterisk.answers_left = 1
        hall.asterisk.executes_unanswered = False
        hall.reconnected()
        await until(lambda: not hall.asterisk.linked)
        hall.store.down = {"*"}
        hall.asterisk.restart("even later")
        hall.reconnected()
        await asyncio.sleep(0.1)
        hall.store.down = set()
        await until(lambda: hall.store.remembered["asterisk_started"] == "even later")
        hall.asterisk.console(pause("", "x"))
        await until(lambda: hall.state.pause is not None)
    hall.all_well()


async def test_an_open_change_is_not_taken_for_somebody_else_s(hall: Hall) -> None:
    """The intent of a login is open while the queues are compared: it is settled, not adopted."""
    await hall.settle()
    hall.asterisk.answers_left = 2
    await refused(errors.Unavailable, hall.service.execute(hall.log_in()))
    hall.asterisk.linked = True
    hall.reconnected()
    await hall.reconciler._asterisks[""]._look_at_news()
    with suppress(QueuesUnavailable):
        await hall.reconciler.all_now()
    assert {event.source for event in hall.events} <= {Source.PHONE}
    await hall.settle()
    assert told(hall) == [(EventType.LOGIN_REFUSED, "UNAVAILABLE", (), Source.PHONE)]
    hall.all_well()


async def test_who_was_open_during_a_restart_is_put_back_later(two: Hall) -> None:
    """Their changes could not be settled then. They are not taken for removed."""
    await two.settle()
    await two.do(two.log_in(), two.log_in("1002", agent="1002"))
    two.asterisk.answers_left = 0
    two.asterisk.executes_unanswered = False
    await refused(errors.Unavailable, two.service.execute(two.pause()))
    two.asterisk.restart("later")
    two.reconnected()
    settle = two.service.settle

    async def cannot_settle() -> None:
        raise QueuesUnavailable("another Asterisk is away")

    two.service.settle = cannot_settle  # type: ignore[method-assign]
    with pytest.raises(QueuesUnavailable):
        await two.settle()
    assert two.asterisk.queues["sales"].keys() == {"pjsip/1002"}
    # Others' lives go on: what somebody does meanwhile is adopted.
    two.asterisk.console(PauseMember("PJSIP/1002", True, "lunch"))
    with pytest.raises(QueuesUnavailable):
        await two.settle()
    two.service.settle = settle  # type: ignore[method-assign]
    await settled(two)
    two.all_well()
    pause = EventType.PAUSE
    assert [e.agent for e in two.events if e.source is Source.ASTERISK] == ["1002"]
    assert [(e.agent, e.source) for e in two.events if e.type is pause] == [
        ("1002", Source.ASTERISK),
        ("1001", Source.PHONE),
    ]
    assert two.store.agents["1001"].pause is not None, "in doubt the phone does not ring"


async def test_a_login_that_another_service_had_open_during_the_restart(two: Hall) -> None:
    """It was applied to the Asterisk of before, and is confirmed when the others are back."""
    await two.settle()
    await two.do(two.log_in())
    confirming = two.faults.stop_at("before store.confirm")
    login = asyncio.create_task(two.service.execute(two.log_in("1002", agent="1002")))
    await confirming.wait()
    (other,) = two.faults.hold.keys()
    change = (await two.service.applying.unsettled())[0]
    two.asterisk.restart("later")
    two.start()  # we are the other service, which does not have the lock of that one
    two.service.settle = nothing  # type: ignore[method-assign]
    await two.settle()
    two.faults.go_on(other)
    await login
    assert change.command.id not in two.store.intents
    await settled(two)
    two.all_well()
    assert {e.source for e in two.events if e.type is not REPAIR} == {Source.PHONE}


async def nothing() -> None:
    pass


async def test_who_is_gone_is_not_looked_for_for_ever(hall: Hall) -> None:
    await hall.settle()
    side = hall.reconciler._asterisks[""]
    side._again.add("9999")
    await side.catch_up()
    assert side._again == set()


async def test_a_queue_that_is_gone_after_a_restart_is_left_by_nobody(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.restart("later")
    del hall.asterisk.queues["billing"]
    hall.reconnected()
    await settled(hall)
    hall.all_well()
    left = [e for e in hall.events if e.type is EventType.QUEUE_LEAVE]
    assert [(e.queues, e.source) for e in left] == [(("billing",), Source.SYSTEM)]


async def test_members_that_vanish_without_a_word_are_put_back(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """app_queue unloaded and loaded: the start-up time is the same, and nobody took anybody out."""
    monkeypatch.setattr("fastagi.agents.reconciler.SILENCE", 0)
    await hall.settle()
    await hall.do(hall.log_in(), hall.pause())
    await hall.settle()  # the echoes are heard
    for queue in hall.asterisk.queues.values():
        queue.clear()
    assert (await hall.reconciler.all_now())["put back"] == 3
    hall.all_well()
    assert {e.source for e in hall.events} == {Source.PHONE, Source.SYSTEM}
    assert hall.state.pause is not None


async def test_who_was_taken_out_a_moment_before_stays_out(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastagi.agents.reconciler.SILENCE", 0)
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.console(RemoveMember("sales", "PJSIP/1001"))
    await hall.reconciler.all_now()
    hall.all_well()
    assert "sales" not in [m.queue for m in hall.state.joined]
    assert [e.source for e in hall.events if e.type is EventType.QUEUE_LEAVE] == [Source.ASTERISK]


# -- what the admin has to know


def warned(logs: Sequence[Any], start: str) -> list[Any]:
    return [log for log in logs if log["event"].startswith(start)]


async def test_an_asterisk_that_sends_no_queue_events_is_told_once(hall: Hall) -> None:
    """As to a manager user without ``read = agent``, or with an ``eventfilter``: the echoes of our
    own changes never come."""
    await hall.settle()
    heard = hall.asterisk.on_news
    hall.asterisk.on_news = lambda news: None
    with capture_logs() as logs:
        for _ in range(6):
            await hall.do(hall.log_in(), hall.log_off())
        assert warned(logs, "Asterisk sends") == []  # all within a moment
        side = hall.reconciler._asterisks[""]
        side.events._unheard_since -= queue_events.DEAF_SECONDS + 1
        await hall.do(hall.log_in(), hall.log_off(), hall.log_in())
        (said,) = warned(logs, "Asterisk sends no queue events")
        assert "read = agent" in said["mend"]
        hall.asterisk.on_news = heard
        await hall.do(hall.log_off())
        await hall.settle()
    assert len(warned(logs, "Asterisk sends queue events again")) == 1


async def test_echoes_that_come_are_enough(hall: Hall) -> None:
    await hall.settle()
    with capture_logs() as logs:
        for _ in range(6):
            await hall.do(hall.log_in(), hall.log_off())
            await hall.settle()
        hall.reconciler._asterisks[""].events._unheard_since -= queue_events.DEAF_SECONDS + 1
        await hall.do(hall.log_in())
    assert warned(logs, "Asterisk sends") == []


async def test_a_state_interface_that_is_invalid_is_told_once(hall: Hall) -> None:
    """Whether an event tells of it or the comparison; and once more after it was valid."""
    await hall.settle()
    side = hall.reconciler._asterisks[""]
    good = ReportedMember(
        "sales", PHONE, "hint:1001@typo", "Agent/1001", 0, False, "", in_call=False, dynamic=True
    )
    bad = replace(good, invalid=True)
    somebody = replace(bad, name="Somebody else", interface="PJSIP/9")
    what = "a member's state interface is Invalid"
    with capture_logs() as logs:
        for member in (bad, bad, somebody, replace(bad, queue="support")):
            side.noticed(MemberNews(member, present=True))
        side.events.look_for_invalid([bad, somebody])
        (said,) = warned(logs, what)
        assert (said["agent"], said["queue"], said["interface"], said["state_interface"]) == (
            *("1001", "sales", PHONE, "hint:1001@typo"),
        )
        side.events.look_for_invalid([good])
        side.events.look_for_invalid([bad])
        assert len(warned(logs, what)) == 2
        side.noticed(MemberNews(bad, present=False))
        side.noticed(MemberNews(bad, present=True))
        assert len(warned(logs, what)) == 3


async def test_two_removals_are_not_taken_for_one_that_nobody_heard(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken out, put in and taken out again at the console, on a slow machine: at both looks the
    agent is missing, and the event of the second removal is still on its way."""
    monkeypatch.setattr("fastagi.agents.reconciler.SILENCE", 0)
    await hall.settle()
    await hall.do(hall.log_in(), hall.leave("support"), hall.leave("billing"))
    await hall.settle()
    since = len(hall.events)
    side = hall.reconciler._asterisks[""]
    member = ReportedMember(
        "sales", PHONE, PHONE, "Agent/1001", 0, False, "", in_call=False, dynamic=True
    )
    silently(hall, remove("sales"))
    looks = 0

    async def look(service: AgentService, asterisk: str, *more: Any) -> list[Difference]:
        nonlocal looks
        looks += 1
        if looks == 2:
            silently(hall, remove("sales"))
        found = await compare(service, asterisk, *more)
        if looks == 1:
            side.noticed(MemberNews(member, present=False))
            hall.asterisk.console(add("sales"))
        return found

    compare = reconciler.compare
    monkeypatch.setattr(reconciler, "compare", look)
    assert (await hall.reconciler.all_now())["put back"] == 0
    assert looks == 2
    side.noticed(MemberNews(member, present=False))
    await hall.settle()
    hall.all_well()
    assert hall.state.session is None
    assert {event.source for event in hall.events[since:]} == {Source.ASTERISK}


async def test_what_is_not_heard_before_it_is_known_who_wins_does_not_pile_up(hall: Hall) -> None:
    hall.store.down = {"note"}
    with pytest.raises(StoreUnavailable):
        await hall.settle()
    for queue in ("sales", "support") * 50:
        hall.asterisk.console(AddMember(queue, "PJSIP/9", "PJSIP/9", "Somebody"))
        hall.asterisk.console(RemoveMember(queue, "PJSIP/9"))
    assert hall.reconciler._asterisks[""]._news == {}
    hall.store.down.clear()
    await hall.settle()
    hall.all_well()


# -- notes of the fallback


def leave_note(
    hall: Hall,
    script: Script,
    reason: str = "",
    *,
    at: datetime | None = None,
    extension: str = "1001",
    unique_id: str = "1.7",
) -> Note:
    note = Note(
        at or hall.clock.now,
        script,
        f"PJSIP/{extension}",
        reason,
        f"PJSIP/{extension}-00000007",
        extension,
        unique_id,
    )
    hall.asterisk.left.append(note)
    return note


NOTES: dict[str, tuple[Script, str, tuple[EventType, str, tuple[str, ...]]]] = {
    "pause": (Script.PAUSE, "2", (PAUSE, "break", ALL)),
    "unpause": (Script.UNPAUSE, "", (UNPAUSE, "lunch", ALL)),
    "logoff": (Script.LOGOFF, "", (LOGOUT, "", ALL)),
}
BY_FALLBACK: dict[str, list[Operation]] = {
    "pause": [pause("", "break")],
    "unpause": [unpause()],
    "logoff": [remove(queue) for queue in ALL],
}


async def away_and_back(hall: Hall, name: str) -> Note:
    """Logged in and paused; without the service the phone does it; then a service is there."""
    await hall.settle()
    await hall.do(hall.log_in(), hall.pause())
    hall.clock.pass_(minutes=10)
    script, reason, _ = NOTES[name]
    note = leave_note(hall, script, reason)
    silently(hall, *BY_FALLBACK[name])
    hall.clock.pass_(minutes=20)
    hall.start()
    return note


@pytest.mark.parametrize("name", NOTES)
async def test_what_the_phone_did_without_us_is_the_phone_s_at_its_time(
    hall: Hall, name: str
) -> None:
    note = await away_and_back(hall, name)
    await hall.settle()
    assert told(hall, 2) == [(*NOTES[name][2], Source.PHONE)]
    event = hall.events[-1]
    assert event.occurred_at == note.at == NOON + timedelta(minutes=10)
    assert event.actor.as_dict() == {
        "channel": "PJSIP/1001-00000007",
        "caller_id": "1001",
        "unique_id": "1.7",
    }
    assert hall.asterisk.left == []
    hall.all_well()


@pytest.mark.parametrize("name", NOTES)
@pytest.mark.parametrize("how", ["started", "compared"])
@pytest.mark.parametrize("look", range(3))
async def test_the_fallback_is_at_it_while_a_service_looks(
    hall: Hall, name: str, how: str, look: int
) -> None:
    """Between the reading of the notes and the reading of the members, whichever it is."""
    await hall.settle()
    await hall.do(hall.log_in(), hall.pause())
    hall.clock.pass_(minutes=10)
    looks = 0

    def at_point(_: int, point: str) -> None:
        nonlocal looks
        if point == "before queues.members":
            if looks == look:
                script, reason, _told = NOTES[name]
                leave_note(hall, script, reason)
                silently(hall, *BY_FALLBACK[name])
            looks += 1

    if how == "started":
        hall.start()
    hall.faults.at_point = at_point
    for _ in range(2):
        await hall.settle()
        await hall.reconciler.all_now()
    assert looks > look
    hall.clock.pass_(minutes=1)  # what is fresh is taken later
    await hall.settle()
    await hall.reconciler.all_now()
    assert told(hall, 2) == [(*NOTES[name][2], Source.PHONE)]
    assert hall.asterisk.left == []
    hall.all_well()


@pytest.mark.parametrize("name", NOTES)
async def test_a_note_is_taken_once(hall: Hall, name: str) -> None:
    """Asterisk keeps it all the same; every process reads it again."""
    note = await away_and_back(hall, name)
    for _ in range(3):
        await hall.settle()
        assert told(hall, 2) == [(*NOTES[name][2], Source.PHONE)]
        hall.asterisk.left = [note]
        hall.start()
    with suppress(errors.NotLoggedIn):
        await hall.do(hall.log_in(), hall.pause(PauseReason("3", "meeting")))
    known = len(hall.events)
    hall.clock.pass_(minutes=1)
    hall.start()
    await hall.settle()
    assert len(hall.events) == known
    hall.all_well()


async def test_a_note_that_changed_nothing_does_not_change_anything_later(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.clock.pass_(minutes=10)
    note = leave_note(hall, Script.UNPAUSE)
    hall.clock.pass_(minutes=10)
    hall.start()
    await hall.settle()
    await hall.do(hall.pause())
    hall.asterisk.left = [note]  # could not be deleted
    hall.start()
    await hall.settle()
    assert hall.state.pause is not None
    assert len(hall.events) == 2
    hall.all_well()


async def test_notes_are_taken_in_their_order(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    for minutes, (script, reason) in enumerate(
        [(Script.PAUSE, "1"), (Script.UNPAUSE, ""), (Script.PAUSE, "2"), (Script.UNPAUSE, "")]
    ):
        leave_note(hall, script, reason, at=NOON + timedelta(minutes=1 + minutes))
    hall.asterisk.left.reverse()
    hall.clock.pass_(minutes=30)
    hall.start()
    await hall.settle()
    assert told(hall, 1) == [
        (PAUSE, "lunch", ALL, Source.PHONE),
        (UNPAUSE, "lunch", ALL, Source.PHONE),
        (PAUSE, "break", ALL, Source.PHONE),
        (UNPAUSE, "break", ALL, Source.PHONE),
    ]
    minutes_of = [(event.occurred_at - NOON).seconds // 60 for event in hall.events[1:]]
    assert minutes_of == [1, 2, 3, 4]
    hall.all_well()


async def test_notes_that_follow_one_that_waits_wait_too(hall: Hall) -> None:
    """The change in the way is settled between the first and the second."""
    await hall.settle()
    await hall.do(hall.log_in())
    leave_note(hall, Script.PAUSE, "1", at=NOON + timedelta(minutes=1))
    leave_note(hall, Script.UNPAUSE, at=NOON + timedelta(minutes=2))
    hall.clock.pass_(minutes=30)
    hall.asterisk.answers_left = 0
    await refused(errors.Unavailable, hall.service.execute(hall.leave("sales")))
    assert hall.store.intents
    hall.asterisk.linked = True
    side = hall.reconciler._asterisks[""]
    take = side.notes._take

    async def then_settled(note: Note, key: str) -> str:
        number = await take(note, key)
        await hall.service.settle()
        return number

    side.notes._take = then_settled  # type: ignore[method-assign]
    assert await side.notes.take() == {"1001"}
    assert len(hall.asterisk.left) == 2
    await hall.settle()
    assert [(e.type, e.source) for e in hall.events] == [
        (LOGIN, Source.PHONE),
        (LEAVE, Source.PHONE),
        (PAUSE, Source.PHONE),
        (UNPAUSE, Source.PHONE),
    ]
    hall.all_well()


@pytest.mark.parametrize(
    "note", ["of nobody", "of before the login", "of another phone", "no reason"]
)
async def test_notes_that_are_of_no_use_are_forgotten(hall: Hall, note: str) -> None:
    await hall.settle()
    hall.clock.pass_(minutes=10)
    match note:
        case "of nobody":
            leave_note(hall, Script.LOGOFF)
        case "of before the login":
            leave_note(hall, Script.LOGOFF, at=NOON + timedelta(minutes=5))
            await hall.do(hall.log_in())
        case "of another phone":
            await hall.do(hall.log_in())
            leave_note(hall, Script.LOGOFF, extension="1002")
        case "no reason":
            await hall.do(hall.log_in())
            leave_note(hall, Script.PAUSE, "77")
    known = len(hall.events)
    hall.clock.pass_(minutes=1)
    hall.reconnected()
    await hall.settle()
    assert hall.asterisk.left == []
    assert len(hall.events) == known
    hall.all_well()


async def test_a_pause_for_a_reason_nobody_knows_is_adopted_from_asterisk(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    leave_note(hall, Script.PAUSE, "77", at=NOON + timedelta(minutes=1))
    silently(hall, pause("", "deleted"))
    hall.clock.pass_(minutes=10)
    hall.start()
    await hall.settle()
    assert told(hall, 1) == by_asterisk((PAUSE, "deleted", ALL))
    hall.all_well()


async def test_a_note_of_an_agent_with_an_open_change_waits_for_it(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.clock.pass_(minutes=1)
    # The service dies in the middle of the log-off, before it tells Asterisk; …

    def kill(_: int, point: str) -> None:
        if point == "before queues.apply":
            raise Killed

    hall.faults.at_point = kill
    with pytest.raises(Killed):
        await hall.service.execute(hall.leave("billing"))
    hall.faults.at_point = None
    hall.clock.pass_(minutes=1)
    leave_note(hall, Script.PAUSE, "1")
    silently(hall, pause("", "lunch"))
    hall.clock.pass_(minutes=1)
    hall.start()
    side = hall.reconciler._asterisks[""]
    # … and the next one sees the note before it has settled that.
    later = await side.notes.take()
    assert later == {"1001"}
    assert len(hall.asterisk.left) == 1
    await hall.settle()
    await hall.settle()
    assert [(e.type, e.source) for e in hall.events] == [
        (LOGIN, Source.PHONE),
        (LEAVE, Source.PHONE),
        (PAUSE, Source.PHONE),
    ]
    assert hall.asterisk.left == []
    hall.all_well()


async def test_an_agent_whose_note_waits_is_not_judged(hall: Hall) -> None:
    """The change in the way is settled between the notes and the look at Asterisk."""
    await hall.settle()
    await hall.do(hall.log_in())
    await hall.settle()
    hall.asterisk.answers_left = 0
    hall.asterisk.executes_unanswered = False
    await refused(errors.Unavailable, hall.service.execute(hall.leave("billing")))
    hall.asterisk.linked = True
    hall.clock.pass_(minutes=1)
    leave_note(hall, Script.PAUSE, "1")
    hall.clock.pass_(minutes=1)
    hall.asterisk.console(pause("", "lunch"))
    side = hall.reconciler._asterisks[""]
    seen = hall.faults.stop_at("before queues.notes")
    looking = asyncio.create_task(side.catch_up())
    await seen.wait()
    take_notes = side.notes.take

    async def then_settled() -> set[str]:
        later = await take_notes()
        await hall.service.settle()
        return later

    side.notes.take = then_settled  # type: ignore[method-assign]
    hall.faults.go_on("before queues.notes")
    await looking
    await hall.settle()
    await hall.settle()
    assert {event.source for event in hall.events} == {Source.PHONE}
    hall.all_well()


async def test_the_fallback_is_given_time_to_do_what_its_note_says(hall: Hall) -> None:
    """The service is back in the instant between the note and the change."""
    await hall.settle()
    await hall.do(hall.log_in())
    hall.clock.pass_(minutes=10)
    note = leave_note(hall, Script.LOGOFF)
    silently(hall, remove("sales"))
    hall.start()
    await hall.settle()
    assert len(hall.events) == 1
    assert hall.asterisk.left == [note]
    silently(hall, remove("support"), remove("billing"))
    hall.clock.pass_(seconds=3)
    await hall.settle()
    assert told(hall, 1) == [(LOGOUT, "", ALL, Source.PHONE)]
    assert hall.events[-1].occurred_at == note.at
    hall.all_well()


async def test_a_note_that_was_taken_back_changes_nothing(hall: Hall) -> None:
    """Asterisk refused, and the fallback took its note back."""
    await hall.settle()
    await hall.do(hall.log_in())
    hall.clock.pass_(minutes=10)
    leave_note(hall, Script.PAUSE, "1")
    hall.start()
    await hall.settle()
    hall.asterisk.left.clear()
    hall.clock.pass_(seconds=3)
    await hall.settle()
    assert len(hall.events) == 1
    hall.all_well()


async def test_a_clock_that_is_ahead_on_the_other_machine_delays_nothing(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    leave_note(hall, Script.PAUSE, "1", at=NOON + timedelta(hours=1))
    silently(hall, pause("", "lunch"))
    hall.start()
    await hall.settle()
    assert told(hall, 1) == [(PAUSE, "lunch", ALL, Source.PHONE)]
    hall.all_well()


async def test_a_note_of_who_moved_meanwhile_is_of_nobody(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.clock.pass_(minutes=1)
    leave_note(hall, Script.LOGOFF)
    hall.clock.pass_(minutes=1)
    side = hall.reconciler._asterisks[""]
    seen = hall.faults.stop_at("before store.hold")
    taking = asyncio.create_task(side.notes.take())
    await seen.wait()
    gate = hall.faults.hold.pop("before store.hold")
    moved = replace(
        hall.state,
        session=replace(hall.state.session, device=device("1002")),  # type: ignore[type-var]
    )
    hall.store.agents["1001"] = moved  # by another service
    gate.set()
    assert await taking == set()
    assert hall.state.session is not None
    assert len(hall.events) == 1


async def test_notes_are_taken_before_a_restarted_asterisk_gets_its_members(hall: Hall) -> None:
    """Paused by the fallback, then Asterisk died as well: back, and paused."""
    await hall.settle()
    await hall.do(hall.log_in())
    hall.clock.pass_(minutes=1)
    leave_note(hall, Script.PAUSE, "1")
    hall.clock.pass_(minutes=1)
    hall.asterisk.restart("later")
    hall.start()
    await hall.settle()
    assert told(hall, 1) == [
        (PAUSE, "lunch", ALL, Source.PHONE),
        (REPAIR, "3 put back", (), Source.SYSTEM),
    ]
    assert hall.asterisk.queues["sales"]["pjsip/1001"].reason == "lunch"
    hall.all_well()


# -- several Asterisks


def spread(*agents: str) -> Hall:
    return Hall(*map(an_agent, agents or ("1001",)), asterisks=("north", "south"))


async def test_an_agent_is_on_one_of_them() -> None:
    hall = spread()
    await hall.settle()
    await hall.do(hall.log_in(asterisk="north"))
    await refused(errors.LoggedInElsewhere, hall.service.execute(hall.log_in(asterisk="south")))
    change = await hall.service.execute(hall.log_in(asterisk="south", move=True))
    assert change.outcome is Outcome.MOVED
    await hall.settle()
    assert [e.asterisk for e in hall.events] == ["north", "north", "south"]
    hall.all_well()


async def test_the_other_one_is_not_compared_with_this_one() -> None:
    hall = spread("1001", "1002")
    await hall.settle()
    await hall.do(
        hall.log_in(asterisk="north"),
        hall.log_in("1001", agent="1002", asterisk="south"),  # a phone of the same name
        hall.pause(agent="1002"),
    )
    hall.asterisks["north"].restart("later")
    hall.reconnected()
    await hall.settle()
    assert [e.asterisk for e in hall.events if e.type is REPAIR] == ["north"]
    hall.asterisks["south"].console(replace(unpause(), asterisk="south"))
    await hall.settle()
    event = hall.events[-1]
    assert (event.type, event.agent, event.asterisk) == (UNPAUSE, "1002", "south")
    assert event.actor.as_dict() == {"name": "south"}
    hall.all_well()


async def test_who_is_on_an_asterisk_that_is_away_can_log_in_on_another() -> None:
    hall = spread()
    await hall.settle()
    await hall.do(hall.log_in(asterisk="north"), hall.pause())
    hall.asterisks["north"].linked = False
    change = await hall.service.execute(hall.log_in("1002", asterisk="south", move=True))
    assert change.outcome is Outcome.MOVED
    known = len(hall.events)
    assert hall.asterisks["north"].queues["sales"] != {}
    hall.asterisks["north"].linked = True
    hall.reconnected()
    await hall.settle()
    assert told(hall, known) == [(REPAIR, "3 taken out", (), Source.SYSTEM)]
    assert hall.store.remembered.keys() == {"asterisk_started:north", "asterisk_started:south"}
    hall.all_well()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("then", ["log off", "back again", "back to another phone", "away again"])
async def test_what_the_ghost_s_agent_did_meanwhile(restarted: bool, then: str) -> None:
    hall = spread()
    north, south = hall.asterisks["north"], hall.asterisks["south"]
    await hall.settle()
    await hall.do(hall.log_in(asterisk="north"))
    north.linked = False
    await hall.do(hall.log_in("1002", asterisk="south", move=True))
    if then == "log off":
        await hall.do(hall.log_off())
    if restarted:
        north.restart("later")
    north.linked = True
    match then:
        case "back again":
            await hall.do(hall.log_in(asterisk="north", move=True))
        case "back to another phone":
            await hall.do(hall.log_in("1003", asterisk="north", move=True))
        case "away again":
            north.linked = False
            south.linked = True
            await hall.do(hall.log_in("1004", asterisk="south", move=True))
            north.linked = True
    hall.reconnected()
    await hall.settle()
    await hall.settle()
    assert Source.ASTERISK not in {event.source for event in hall.events}
    assert hall.store.remembered.keys() == {"asterisk_started:north", "asterisk_started:south"}
    hall.all_well()


async def test_a_ghost_is_left_alone_while_its_agent_s_change_is_open() -> None:
    """It may be what a login that is on its way has just put there."""
    hall = spread()
    north = hall.asterisks["north"]
    await hall.settle()
    await hall.do(hall.log_in(asterisk="north"))
    north.linked = False
    await hall.do(hall.log_in("1002", asterisk="south", move=True))
    north.linked = True
    north.answers_left = 0
    back = hall.log_in(asterisk="north", move=True)
    await refused(errors.Unavailable, hall.service.execute(back))
    assert hall.store.intents
    north.linked = True
    side = hall.reconciler._asterisks["north"]
    await side._take_out_owed()
    assert north.queues["sales"] != {}
    assert [key for key in hall.store.remembered if key.startswith("owed")]
    hall.reconnected()
    await hall.settle()
    await hall.settle()
    assert not [key for key in hall.store.remembered if key.startswith("owed")]
    hall.all_well()


async def test_one_that_is_away_stops_nothing_on_the_other() -> None:
    hall = spread("1001", "1002")
    north, south = hall.asterisks["north"], hall.asterisks["south"]
    await hall.settle()
    await hall.do(hall.log_in(asterisk="north"), hall.log_in("1002", "1002", asterisk="south"))
    north.calls.add("pjsip/1001")
    south.calls.add("pjsip/1002")
    for number in ("1001", "1002"):
        await hall.do(hall.log_off(number, when_in_call=WhenInCall.AFTER_CALL))
    # One change is left open in the north as well.
    north.answers_left = 0
    await refused(errors.Unavailable, hall.service.execute(hall.pause()))
    south.calls.clear()
    async with Running(hall):
        hall.reconciler.call_ended("PJSIP/1002", "south")
        await until(lambda: hall.store.agents["1002"].session is None)
        south.console(add("sales", "1002", "1002", asterisk="south"))
        await until(lambda: hall.store.agents["1002"].session is not None)
        north.linked = True
        north.calls.clear()
        hall.reconciler.reconnected("north")
        await until(lambda: hall.store.agents["1001"].session is None)
    hall.all_well()


async def test_one_that_is_away_keeps_no_other_from_being_put_back() -> None:
    hall = spread("1001", "1002")
    north, south = hall.asterisks["north"], hall.asterisks["south"]
    await hall.settle()
    await hall.do(hall.log_in(asterisk="north"), hall.log_in("1002", "1002", asterisk="south"))
    south.answers_left = 0
    await refused(errors.Unavailable, hall.service.execute(hall.leave("sales", "1002")))
    north.restart("later")
    hall.reconnected()
    with pytest.raises(QueuesUnavailable):
        await hall.settle()
    assert hall.lamps_set[0][0] == "north"
    assert north.queues["sales"] != {}
    north.console(replace(pause("", "x"), asterisk="north"))
    with pytest.raises(QueuesUnavailable):
        await hall.settle()
    assert (hall.events[-1].type, hall.events[-1].agent) == (PAUSE, "1001")
    south.linked = True
    hall.reconnected()
    await hall.settle()
    hall.all_well()


async def test_killed_in_the_middle_of_moving_away_from_one_that_is_away() -> None:
    async def moving(hall: Hall) -> None:
        await hall.settle()
        await hall.do(hall.log_in(asterisk="north"))
        hall.asterisks["north"].linked = False

    def move(hall: Hall) -> Command:
        return hall.log_in("1002", asterisk="south", move=True)

    hall = spread()
    await moving(hall)
    start = len(hall.faults.trace)
    await hall.service.execute(move(hall))
    points = len(hall.faults.trace) - start
    assert points > 5
    for n in range(points):
        hall = spread()
        await moving(hall)
        kill_at(hall, n)
        with pytest.raises(Killed):
            await hall.service.execute(move(hall))
        hall.faults.at_point = None
        hall.start()
        with suppress(QueuesUnavailable):  # it may have to wait for the north
            await hall.settle()
        hall.asterisks["north"].linked = True
        hall.reconnected()
        await hall.settle()
        await hall.settle()
        hall.all_well()
        assert {e.source for e in hall.events} <= {Source.PHONE, Source.SYSTEM}
        assert not [key for key in hall.store.remembered if key.startswith("owed")]


# -- planned pauses


async def test_a_pause_after_the_call_does_not_wait_for_the_end_of_the_wrap_up(
    hall: Hall,
) -> None:
    """The queue's clock may be faster than ours: waiting, the next call would come first."""
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.calls.add("pjsip/1001")
    planned = hall.pause(when_in_call=WhenInCall.AFTER_CALL)
    assert (await hall.service.execute(planned)).outcome is Outcome.PAUSE_AFTER_CALL
    await hall.settle()
    assert hall.state.pause is None
    hall.asterisk.calls.clear()
    hall.asterisk.last_call["pjsip/1001"] = hall.clock.now.timestamp()
    hall.clock.pass_(seconds=1)
    await hall.settle()
    assert hall.state.pause is not None
    event = hall.events[-1]
    assert (event.type, event.reason, event.source) == (PAUSE, "lunch", Source.PHONE)
    assert event.actor == planned.actor
    assert event.occurred_at == NOON + timedelta(seconds=1)
    await hall.settle()
    assert len(hall.events) == 2
    hall.all_well()


@pytest.mark.parametrize("how", ["unpause", "pause now", "another pause", "log off"])
async def test_a_planned_pause_can_be_taken_back(hall: Hall, how: str) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.calls.add("pjsip/1001")
    await hall.do(hall.pause(when_in_call=WhenInCall.AFTER_CALL))
    await hall.do(
        {
            "unpause": hall.unpause(),
            "pause now": hall.pause(BREAK),
            "another pause": hall.pause(BREAK, when_in_call=WhenInCall.AFTER_CALL),
            "log off": hall.log_off(),
        }[how]
    )
    hall.asterisk.calls.clear()
    await hall.settle()
    assert [e.reason for e in hall.events if e.type is PAUSE] == (
        ["break"] if how in ("pause now", "another pause") else []
    )
    hall.all_well()


@pytest.mark.parametrize("first", ["log off", "pause"])
async def test_what_is_planned_is_not_lost_by_what_follows(hall: Hall, first: str) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.calls.add("pjsip/1001")
    pause = hall.pause(when_in_call=WhenInCall.AFTER_CALL)
    if first == "log off":
        await hall.do(hall.log_off(when_in_call=WhenInCall.AFTER_CALL))
        assert (await hall.service.execute(pause)).outcome is Outcome.LOGOFF_AFTER_CALL
    else:
        await hall.do(pause, hall.log_in())
    hall.asterisk.calls.clear()
    await hall.settle()
    if first == "log off":
        assert hall.state.session is None
    else:
        assert hall.state.pause is not None
    assert len(hall.events) == 2
    hall.all_well()


async def test_the_end_of_a_call_is_enough_for_a_planned_pause(hall: Hall) -> None:
    async with Running(hall):
        await until(lambda: "asterisk_started" in hall.store.remembered)
        await hall.do(hall.log_in())
        hall.asterisk.calls.add("pjsip/1001")
        await hall.do(hall.pause(when_in_call=WhenInCall.AFTER_CALL))
        hall.asterisk.calls.clear()
        hall.reconciler.call_ended("PJSIP/1001")
        await until(lambda: hall.state.pause is not None)
    hall.all_well()


# -- killed, cut off, out of store: at every point


def kill_at(hall: Hall, n: int) -> None:
    start = len(hall.faults.trace)

    def kill(at: int, _: str) -> None:
        if at == start + n:
            raise Killed

    hall.faults.at_point = kill


async def restarted(hall: Hall) -> None:
    await worked_on(hall)
    hall.asterisk.restart("later")
    hall.reconnected()


async def restarted_with_leftovers(hall: Hall) -> None:
    await restarted(hall)
    silently(hall, add("sales", penalty=4), add("billing"), add("sales", "1003", "1003"))


async def changed_by_others(hall: Hall) -> None:
    await worked_on(hall)
    silently(
        hall,
        remove("sales"),
        PauseMember("PJSIP/1002", False),
        SetPenalty("support", "PJSIP/1002", 6),
        add("billing", "1003", "1003", reason="x"),
        add("billing", "1008", "1003"),  # at two places
    )
    hall.reconnected()


async def changed_live(hall: Hall) -> None:
    await worked_on(hall)
    hall.asterisk.console(remove("sales"))
    hall.asterisk.console(remove("support"))
    hall.asterisk.console(PauseMember("PJSIP/1002", False))
    hall.asterisk.console(add("billing", "1003", "1003", reason="x"))
    hall.asterisk.console(add("sales", "1001", "1004"))  # put in where 1001 was


async def with_notes(hall: Hall) -> None:
    await worked_on(hall)
    hall.clock.pass_(minutes=5)
    leave_note(hall, Script.PAUSE, "2")
    silently(hall, pause("", "break"))
    hall.clock.pass_(minutes=5)
    leave_note(hall, Script.LOGOFF, extension="1002", unique_id="1.9")
    silently(hall, *(remove(queue, "1002") for queue in ALL))
    hall.clock.pass_(minutes=5)
    leave_note(hall, Script.UNPAUSE)
    silently(hall, unpause())
    leave_note(hall, Script.LOGOFF, extension="1009")
    silently(hall, SetPenalty("support", PHONE, 5))
    hall.clock.pass_(minutes=5)
    hall.start()


async def with_notes_and_restarted(hall: Hall) -> None:
    await with_notes(hall)
    hall.asterisk.restart("later")


async def with_a_plan(hall: Hall) -> None:
    await worked_on(hall)
    hall.asterisk.calls |= {"pjsip/1001", "pjsip/1002"}
    await hall.do(
        hall.pause(BREAK, when_in_call=WhenInCall.AFTER_CALL),
        hall.log_off("1002", when_in_call=WhenInCall.AFTER_CALL),
    )
    hall.asterisk.calls.clear()


SITUATIONS: dict[str, Callable[[Hall], Awaitable[None]]] = {
    "restart": restarted,
    "restart with leftovers": restarted_with_leftovers,
    "changed while the link was down": changed_by_others,
    "changed live": changed_live,
    "notes": with_notes,
    "notes and a restart": with_notes_and_restarted,
    "plans": with_a_plan,
}


def all_agents() -> Hall:
    return Hall(*map(an_agent, ("1001", "1002", "1003", "1004")))


Said = tuple[EventType, str, str, tuple[str, ...], Source]


def said(hall: Hall) -> list[Said]:
    """All but the repairs, whose number depends on how often it was begun; per agent in order."""
    return sorted(
        ((e.type, e.agent, e.reason, e.queues, e.source) for e in hall.events if e.agent),
        key=lambda one: one[1],
    )


async def settled(hall: Hall) -> None:
    for _ in range(3):  # what is to be looked at again, too
        await hall.settle()


async def without_faults(name: str) -> tuple[list[Said], int]:
    hall = all_agents()
    await SITUATIONS[name](hall)
    start = len(hall.faults.trace)
    await settled(hall)
    hall.all_well()
    return said(hall), len(hall.faults.trace) - start


@pytest.mark.parametrize("name", SITUATIONS)
async def test_killed_at_any_instant_of_it_the_next_process_does_it_once(name: str) -> None:
    expected, points = await without_faults(name)
    for n in range(points):
        hall = all_agents()
        await SITUATIONS[name](hall)
        kill_at(hall, n)
        with pytest.raises(Killed):
            await settled(hall)
        hall.faults.at_point = None
        hall.start()
        await settled(hall)
        hall.all_well()
        assert said(hall) == expected, n


@pytest.mark.parametrize("name", SITUATIONS)
async def test_killed_twice(name: str) -> None:
    expected, points = await without_faults(name)
    for n in range(0, points, 3):
        for m in range(points):
            hall = all_agents()
            await SITUATIONS[name](hall)
            kill_at(hall, n)
            with pytest.raises(Killed):
                await settled(hall)
            kill_at(hall, m)
            hall.start()
            try:
                await settled(hall)
            except Killed:
                hall.faults.at_point = None
                hall.start()
                await settled(hall)
            hall.all_well()
            assert said(hall) == expected, (n, m)


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("executed", [True, False], ids=["executed", "lost"])
async def test_the_link_is_lost_at_any_instant_of_it(name: str, executed: bool) -> None:
    expected, points = await without_faults(name)
    for n in range(points):
        hall = all_agents()
        await SITUATIONS[name](hall)
        start = len(hall.faults.trace)

        def cut(at: int, point: str, hall: Hall = hall, n: int = n, start: int = start) -> None:
            if at == start + n:
                if "queues.apply" in point:
                    hall.asterisk.answers_left = 0
                    hall.asterisk.executes_unanswered = executed
                else:
                    hall.asterisk.linked = False

        hall.faults.at_point = cut
        with suppress(QueuesUnavailable, errors.Unavailable):
            await settled(hall)
        await settle_until_done(hall)
        await settled(hall)
        hall.all_well()
        assert said(hall) == expected, n


@pytest.mark.parametrize("name", SITUATIONS)
async def test_the_store_fails_at_any_instant_of_it(name: str) -> None:
    expected, points = await without_faults(name)
    for n in range(points):
        hall = all_agents()
        await SITUATIONS[name](hall)
        start = len(hall.faults.trace)

        def fail(at: int, _: str, hall: Hall = hall, n: int = n, start: int = start) -> None:
            if at == start + n:
                hall.store.down = {"*"}

        hall.faults.at_point = fail
        with suppress(StoreUnavailable, errors.Unavailable):
            await settled(hall)
        hall.faults.at_point = None
        hall.store.down = set()
        await settled(hall)
        hall.all_well()
        assert said(hall) == expected, n


@pytest.mark.parametrize("name", SITUATIONS)
async def test_asterisk_is_killed_at_any_instant_of_it(name: str) -> None:
    """What was not adopted by then is lost with it; the store's is what there is again."""
    _, points = await without_faults(name)
    for n in range(points):
        hall = all_agents()
        await SITUATIONS[name](hall)
        start = len(hall.faults.trace)

        def die(at: int, point: str, hall: Hall = hall, n: int = n, start: int = start) -> None:
            if at == start + n:
                hall.asterisk.restart("once more")
                if "apply" in point:
                    hall.asterisk.answers_left = 0
                hall.reconnected()

        hall.faults.at_point = die
        with suppress(QueuesUnavailable, errors.Unavailable):
            await settled(hall)
        await settle_until_done(hall)
        await settled(hall)
        hall.all_well()
        assert not [e for e in hall.events if e.reason == "removed" and name != "changed live"]


# -- everything at once


@pytest.mark.parametrize("seed", range(120))
async def test_everybody_does_something_while_everything_breaks(seed: int) -> None:
    """Phones, the console and the fallback; the link, the store, the service and Asterisk fail."""
    dice = random.Random(seed)
    agents = ["1001", "1002", "1003"]
    hall = Hall(*map(an_agent, agents))
    await hall.settle()

    def at_the_console(operations: int = 1) -> None:
        for _ in range(operations):
            queue, phone = dice.choice(ALL), dice.choice(agents)
            interface = f"PJSIP/{phone}"
            operation: Operation = dice.choice(
                [
                    add(
                        queue,
                        phone,
                        dice.choice([phone, phone, *agents]),
                        penalty=dice.randrange(4),
                    ),
                    remove(queue, phone),
                    remove(queue, phone),
                    PauseMember(interface, True, dice.choice(["", "lunch", "x"]), queue),
                    PauseMember(interface, True, "x"),
                    PauseMember(interface, False, "", dice.choice(["", queue])),
                    SetPenalty(queue, interface, dice.randrange(4)),
                ]
            )
            hall.asterisk._remember_name(operation)
            if apply(hall.asterisk.queues, operation)[0] is Answer.DONE:
                hall.asterisk._tell(operation)

    def fault(_: int, point: str) -> None:
        if dice.random() > 0.02:
            return
        match dice.choice(["cut", "cut at once", "store", "kill", "restart", *["console"] * 6]):
            case "cut":
                hall.asterisk.answers_left = dice.randrange(3)
                hall.asterisk.executes_unanswered = dice.random() < 0.5
            case "cut at once":
                hall.asterisk.linked = False
            case "store":
                hall.store.down = {dice.choice(["begin", "confirm", "withdraw", "hold", "*"])}
            case "kill":
                raise Killed
            case "restart":
                hall.asterisk.restart(f"restart {dice.random()}")
                hall.reconnected()
            case "console":
                at_the_console()

    def any_command() -> Command:
        who, queue = dice.choice(agents), dice.choice(ALL)
        return dice.choice(
            [
                lambda: hall.log_in(dice.choice(agents), who, dice.random() < 0.5),
                lambda: hall.log_in(who, who),
                lambda: hall.log_off(who, when_in_call=dice.choice(list(WhenInCall))),
                lambda: hall.pause(dice.choice([LUNCH, BREAK]), who),
                lambda: hall.unpause(who),
                lambda: hall.join(queue, who),
                lambda: hall.leave(queue, who, dice.random() < 0.5),
                lambda: hall.penalty(queue, dice.randrange(4), who),
            ]
        )()

    for _ in range(8):
        hall.faults.at_point = fault
        hall.asterisk.wait_for_news = dice.random() < 0.5
        doing: list[Awaitable[object]] = [
            hall.service.execute(any_command(), take_over=dice.random() < 0.5) for _ in range(3)
        ]
        tasks = [asyncio.ensure_future(one) for one in [*doing, hall.settle(), hall.settle()]]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if not any(task.done() and isinstance(task.exception(), Killed) for task in tasks):
            await asyncio.wait(tasks)
        died = any(task.done() and isinstance(task.exception(), Killed) for task in tasks)
        if died:  # everything in the process dies with it
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            hall.start()
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            allowed = errors.Refused | Killed | StoreUnavailable | QueuesUnavailable
            assert error is None or isinstance(error, allowed), error
        if dice.random() < 0.3:
            at_the_console(3)
        hall.asterisk.wait_for_news = False
        hall.asterisk.tell_waiting()
        await settle_until_done(hall)
        for _ in range(4):
            await hall.settle()
        hall.all_well()
        count = len(hall.events)
        hall.reconnected()
        await hall.settle()
        assert len(hall.events) == count, "told again"


async def test_members_written_in_queues_conf_are_nobody_s_login(hall: Hall) -> None:
    static = Member("Agent/1001", PHONE, PHONE, 0, False, "", dynamic=False)
    hall.asterisk.queues["sales"]["pjsip/1001"] = static
    await hall.settle()
    assert hall.events == []
    with capture_logs() as logs:
        await hall.reconciler.all_now()
    assert logs == []


async def test_a_pause_of_its_own_lasts_until_the_queue_is_left(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.console(pause("sales", "no answer"))
    await hall.settle()
    assert hall.state.memberships[0].own_pause == OwnPause(True, "no answer")
    hall.asterisk.restart("later")
    hall.reconnected()
    await hall.settle()
    assert hall.asterisk.queues["sales"]["pjsip/1001"].reason == "no answer"
    assert not hall.asterisk.queues["support"]["pjsip/1001"].paused
    await hall.do(hall.leave("sales"), hall.join("sales"))
    assert not hall.asterisk.queues["sales"]["pjsip/1001"].paused
    hall.all_well()
