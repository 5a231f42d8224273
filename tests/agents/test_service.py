"""Every path through the service, on a store and an Asterisk that can be broken at any point."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from fastagi.agents import errors
from fastagi.agents.commands import Command, LogIn, WhenInCall
from fastagi.agents.lockout import Place
from fastagi.agents.model import AgentState
from fastagi.agents.operations import AddMember, PauseMember, QueuesUnavailable, RemoveMember
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType, Outcome, Source

from .memory import BREAK, LUNCH, Hall, Killed, Member, an_agent, device

LOGIN, LOGOUT, REFUSED = EventType.LOGIN, EventType.LOGOUT, EventType.LOGIN_REFUSED


@pytest.fixture
def hall() -> Hall:
    return Hall()


def members(hall: Hall, queue: str = "sales") -> list[str]:
    return sorted(member.interface for member in hall.asterisk.queues[queue].values())


async def refused(kind: type[errors.Refused], doing: Awaitable[object]) -> errors.Refused:
    with pytest.raises(kind) as caught:
        await doing
    assert isinstance(caught.value, kind)
    return caught.value


# -- done


async def test_an_agent_s_day(hall: Hall) -> None:
    execute = hall.service.execute
    outcomes = [
        (await execute(command)).outcome
        for command in (
            hall.log_in(),
            hall.log_in(),
            hall.pause(),
            hall.pause(),
            hall.pause(BREAK),
            hall.log_in("1002", move=True),
            hall.leave("sales"),
            hall.join("sales"),
            hall.unpause(),
            hall.unpause(),
            hall.log_off(),
        )
    ]
    assert outcomes == [
        Outcome.LOGGED_IN,
        Outcome.ALREADY_LOGGED_IN,
        Outcome.PAUSED,
        Outcome.ALREADY_PAUSED,
        Outcome.PAUSE_REASON_CHANGED,
        Outcome.MOVED,
        Outcome.QUEUE_LEFT,
        Outcome.QUEUE_JOINED,
        Outcome.UNPAUSED,
        Outcome.NOT_PAUSED,
        Outcome.LOGGED_OFF,
    ]
    assert hall.told == [
        (LOGIN, ""),
        (EventType.PAUSE, "lunch"),
        (EventType.PAUSE, "break"),
        (LOGOUT, "moved"),
        (LOGIN, "moved"),
        (EventType.QUEUE_LEAVE, ""),
        (EventType.QUEUE_JOIN, ""),
        (EventType.UNPAUSE, "break"),
        (LOGOUT, ""),
    ]
    assert all(event.source is Source.PHONE for event in hall.events)
    hall.all_well()


async def test_who_is_not_there(hall: Hall) -> None:
    await refused(errors.NoSuchAgent, hall.service.agent("9999"))
    await refused(errors.NoSuchAgent, hall.service.execute(hall.log_off("9999")))
    await refused(errors.NoSuchQueue, hall.service.queue_numbered("999"))
    assert await hall.service.queue_numbered("701") == "sales"
    assert await hall.service.agent_at(device("1001")) is None
    assert await hall.service.reasons() == (LUNCH, BREAK)


async def test_reading_says_when_the_store_is_away(hall: Hall) -> None:
    hall.store.down = {"*"}
    for reading in (
        hall.service.agent("1001"),
        hall.service.agent_at(device("1001")),
        hall.service.queue_numbered("701"),
        hall.service.reasons(),
        hall.service.check_pin(an_agent("1001", pin="1234"), "1234", phone("1001")),
    ):
        await refused(errors.Unavailable, reading)


# -- refused by Asterisk


@pytest.mark.parametrize("queue", ["sales", "support", "billing"])
async def test_a_login_that_asterisk_refuses_in_one_queue_leaves_nothing(
    hall: Hall, queue: str
) -> None:
    hall.asterisk.refuses = lambda operation: getattr(operation, "queue", "") == queue
    await refused(errors.QueueRefused, hall.service.execute(hall.log_in()))
    hall.asterisk.refuses = lambda _: False
    assert hall.state == an_agent("1001")
    assert hall.told == [(REFUSED, "QUEUE_REFUSED")]
    hall.all_well()


def first_state(hall: Hall) -> list[Command]:
    """Logged in at 1001, paused for lunch, not in billing."""
    return [hall.log_in(), hall.leave("billing"), hall.pause()]


CHANGES: dict[str, Callable[[Hall], Command]] = {
    "move": lambda hall: hall.log_in("1002", move=True),
    "log off": lambda hall: hall.log_off(),
    "pause": lambda hall: hall.pause(BREAK),
    "unpause": lambda hall: hall.unpause(),
    "join": lambda hall: hall.join("billing"),
    "leave": lambda hall: hall.leave("sales"),
    "penalty": lambda hall: hall.penalty("sales", 7),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("nth", range(4))
async def test_a_change_that_asterisk_refuses_midway_is_taken_back(
    hall: Hall, name: str, nth: int
) -> None:
    await hall.do(*first_state(hall))
    before = hall.state
    seen = 0

    def refuses(_: object) -> bool:
        nonlocal seen
        seen += 1
        return seen == nth + 1

    hall.asterisk.refuses = refuses
    change = CHANGES[name](hall)
    try:
        await hall.service.execute(change)
    except errors.QueueRefused:
        assert hall.state == before
        assert [e.reason for e in hall.events if e.type is REFUSED] == (
            ["QUEUE_REFUSED"] if name == "move" else []
        )
    else:
        assert seen <= nth, "Asterisk refused, and the caller heard that it was done"
    hall.all_well()


async def test_a_member_that_was_there_already_becomes_what_is_meant(hall: Hall) -> None:
    stranger = Member("somebody", "PJSIP/1001", "", 7, True, "forgotten")
    hall.asterisk.queues["support"]["pjsip/1001"] = stranger
    await hall.do(hall.log_in())
    hall.all_well()


async def test_a_refused_login_leaves_the_member_that_was_there_already(hall: Hall) -> None:
    stranger = Member("somebody", "PJSIP/1001", "", 7, True, "forgotten")
    hall.asterisk.queues["sales"]["pjsip/1001"] = stranger
    hall.asterisk.refuses = lambda operation: getattr(operation, "queue", "") == "support"
    await refused(errors.QueueRefused, hall.service.execute(hall.log_in()))
    assert hall.asterisk.queues["sales"] == {"pjsip/1001": stranger}
    assert hall.asterisk.queues["billing"] == {}
    assert hall.store.intents == {}


async def test_a_refusal_while_replacing_a_member_is_a_refusal(hall: Hall) -> None:
    hall.asterisk.queues["sales"]["pjsip/1001"] = Member("x", "PJSIP/1001", "", 7, False, "")
    removed = False

    def refuses(operation: object) -> bool:
        nonlocal removed
        removed |= isinstance(operation, RemoveMember)
        return removed and operation == first_add

    first_add = AddMember("sales", "PJSIP/1001", "PJSIP/1001", "Agent/1001")
    hall.asterisk.refuses = refuses
    await refused(errors.QueueRefused, hall.service.execute(hall.log_in()))
    hall.all_well()


# -- the link


async def test_without_a_link_nothing_is_begun(hall: Hall) -> None:
    hall.asterisk.linked = False
    await refused(errors.Unavailable, hall.service.execute(hall.log_in()))
    assert "before store.begin" not in hall.faults.trace
    assert hall.told == [(REFUSED, "UNAVAILABLE")]


async def test_a_link_lost_before_anything_was_sent_leaves_nothing(hall: Hall) -> None:
    def cut(_: int, point: str) -> None:
        if point == "before queues.apply":
            hall.asterisk.linked = False

    hall.faults.at_point = cut
    await refused(errors.Unavailable, hall.service.execute(hall.log_in()))
    assert hall.state == an_agent("1001")
    assert hall.told == [(REFUSED, "UNAVAILABLE")]
    hall.all_well()


async def settle_until_done(hall: Hall) -> None:
    hall.faults.at_point = None
    hall.store.down.clear()
    hall.store.late.clear()
    hall.asterisk.linked = True
    hall.asterisk.answers_left = None
    hall.reconnected()
    await hall.settle()


@pytest.mark.parametrize("name", ["log in", *CHANGES])
@pytest.mark.parametrize("answers", range(4))
@pytest.mark.parametrize("executed", [True, False], ids=["executed", "lost"])
async def test_a_link_lost_midway_is_settled_when_it_is_back(
    hall: Hall, name: str, answers: int, executed: bool
) -> None:
    await hall.settle()  # notes when Asterisk was started
    if name == "log in":
        change: Command = hall.log_in()
    else:
        await hall.do(*first_state(hall))
        change = CHANGES[name](hall)
    before = hall.state
    hall.asterisk.answers_left = answers
    hall.asterisk.executes_unanswered = executed
    try:
        await hall.service.execute(change)
    except errors.Unavailable:
        told = Outcome.UNAVAILABLE
        assert hall.state == before, "stored before Asterisk had answered"
        assert set(hall.store.intents) == {"1001"}
    else:
        told = Outcome.LOGGED_IN
    await settle_until_done(hall)
    hall.all_well()
    if told is Outcome.UNAVAILABLE and name in ("log in", "move", "unpause", "join"):
        assert hall.state == before, "the agent was told to try again, yet is within reach"
    refusals = [e.reason for e in hall.events if e.type is REFUSED]
    expected = told is Outcome.UNAVAILABLE and isinstance(change, LogIn)
    assert refusals == (["UNAVAILABLE"] if expected else [])


@pytest.mark.parametrize("name", ["log in", *CHANGES])
async def test_the_next_command_settles_what_was_left_open(hall: Hall, name: str) -> None:
    """The agent is told "try again", and does so before anybody else has looked at it."""
    await hall.settle()
    if name != "log in":
        await hall.do(*first_state(hall))
    hall.asterisk.answers_left = 0
    await refused(errors.Unavailable, hall.service.execute(EVERY[name](hall)))
    hall.asterisk.linked = True
    again = EVERY[name](hall)
    if name == "log off":  # it was finished
        await refused(errors.NotLoggedIn, hall.service.execute(again))
    else:
        await hall.service.execute(again)
    hall.all_well()


async def test_a_link_lost_while_a_member_is_replaced_is_settled(hall: Hall) -> None:
    stranger = Member("somebody", "PJSIP/1001", "", 7, True, "forgotten")
    for answers in range(5):
        hall.asterisk.queues["support"]["pjsip/1001"] = replace(stranger)
        hall.asterisk.answers_left = answers
        await refused(errors.Unavailable, hall.service.execute(hall.log_in()))
        await settle_until_done(hall)
        hall.all_well()
        assert hall.state.session is None


async def test_a_link_lost_between_joining_and_replacing_is_seen_to(hall: Hall) -> None:
    await hall.settle()
    hall.asterisk.queues["support"]["pjsip/1001"] = Member("x", "PJSIP/1001", "", 7, False, "")
    applied = 0

    def cut(_: int, point: str) -> None:
        nonlocal applied
        applied += point == "before queues.apply"
        hall.asterisk.linked = applied != 2

    hall.faults.at_point = cut
    await refused(errors.Unavailable, hall.service.execute(hall.log_in()))
    hall.faults.at_point = None
    hall.asterisk.linked = True
    await running(hall, lambda: not hall.store.intents)
    hall.all_well()


# -- the store


@pytest.mark.parametrize("name", ["log in", *CHANGES])
@pytest.mark.parametrize(
    "failing",
    [{"begin"}, {"confirm"}, {"confirm", "withdraw"}, {"agent", "record"}, {"*"}],
    ids=lambda failing: " and ".join(sorted(failing)),
)
async def test_a_store_that_fails(hall: Hall, name: str, failing: set[str]) -> None:
    await hall.settle()
    if name == "log in":
        change: Command = hall.log_in()
    else:
        await hall.do(*first_state(hall))
        change = CHANGES[name](hall)
    before = hall.state
    hall.store.down = set(failing)
    if failing == {"agent", "record"}:
        await hall.service.execute(change)
    else:
        await refused(errors.Unavailable, hall.service.execute(change))
        assert hall.state == before
    await settle_until_done(hall)
    hall.all_well()


async def test_a_confirmation_that_was_late_but_written(hall: Hall) -> None:
    await hall.settle()
    hall.store.late = {"confirm"}
    await refused(errors.Unavailable, hall.service.execute(hall.log_in()))
    await settle_until_done(hall)
    hall.all_well()


async def test_a_refused_login_stays_refused_when_it_cannot_be_written_down(hall: Hall) -> None:
    hall.store.down = {"record"}
    with capture_logs() as logs:
        await refused(errors.NotLoggedIn, hall.service.execute(hall.log_off()))
        await refused(errors.NoSuchAgent, hall.service.execute(hall.log_in(agent="9")))
    assert [line["log_level"] for line in logs] == ["warning"]


# -- killed, cancelled


async def trace_of(name: str) -> list[str]:
    hall = Hall()
    await prepared(hall, name)
    start = len(hall.faults.trace)
    await hall.service.execute(EVERY[name](hall))
    return hall.faults.trace[start:]


EVERY: dict[str, Callable[[Hall], Command]] = {
    "log in": lambda hall: hall.log_in(),
    "log in over a stranger": lambda hall: hall.log_in(),
    "log off after the call": lambda hall: hall.log_off(when_in_call=WhenInCall.AFTER_CALL),
    "leave unless the last": lambda hall: hall.leave("sales", confirmed=False),
    **CHANGES,
}


async def prepared(hall: Hall, name: str) -> None:
    await hall.settle()
    if name == "leave unless the last":
        hall.store.agents["1002"] = an_agent("1002")
        await hall.do(hall.log_in("1002", agent="1002"))
    if name == "log in over a stranger":
        hall.asterisk.queues["sales"]["pjsip/1001"] = Member("x", "PJSIP/1001", "", 7, False, "")
    elif name != "log in":
        await hall.do(*first_state(hall))


def stranger_left(hall: Hall, name: str) -> None:
    """Killed before it was touched, the member that was nobody's is still there."""
    member = hall.asterisk.queues["sales"].get("pjsip/1001")
    if name == "log in over a stranger" and member and member.name == "x":
        del hall.asterisk.queues["sales"]["pjsip/1001"]


@pytest.mark.parametrize("name", EVERY)
async def test_killed_at_any_instant_nothing_is_lost_doubled_or_blamed(name: str) -> None:
    points = await trace_of(name)
    for n in range(len(points)):
        hall = Hall()
        await prepared(hall, name)
        before, start = hall.state, len(hall.faults.trace)

        def kill(at: int, _: str, start: int = start, n: int = n) -> None:
            if at == start + n:
                raise Killed

        hall.faults.at_point = kill
        command = EVERY[name](hall)
        with pytest.raises(Killed):
            await hall.service.execute(command)
        hall.faults.at_point = None
        hall.start()
        hall.reconnected()
        await hall.settle()
        stranger_left(hall, name)
        hall.all_well()
        for event in hall.events:
            assert event.source is Source.PHONE
            assert event.id.rpartition("-")[0] in {f"c{i}" for i in range(20)}
        if hall.state == before:
            continue
        assert any(event.id.startswith(f"{command.id}-") for event in hall.events)


@pytest.mark.parametrize("name", EVERY)
async def test_cancelled_at_any_instant_the_change_is_seen_to(name: str) -> None:
    points = await trace_of(name)
    for n in range(len(points)):
        hall = Hall()
        await prepared(hall, name)
        start = len(hall.faults.trace)

        def cancel(at: int, _: str, start: int = start, n: int = n) -> None:
            if at == start + n:
                raise asyncio.CancelledError

        hall.faults.at_point = cancel
        with pytest.raises(asyncio.CancelledError):
            await hall.service.execute(EVERY[name](hall))
        hall.faults.at_point = None
        await running(hall, lambda hall=hall: not hall.store.intents)
        stranger_left(hall, name)
        hall.all_well()


@pytest.mark.parametrize("name", EVERY)
async def test_killed_while_settling_the_next_process_settles(name: str) -> None:
    points = await trace_of(name)
    opened = points.index("after store.begin")
    for n in range(opened, len(points)):
        for m in range(30):
            hall = Hall()
            await prepared(hall, name)
            start = len(hall.faults.trace)

            def kill(at: int, _: str, start: int = start, n: int = n) -> None:
                if at == start + n:
                    raise Killed

            hall.faults.at_point = kill
            with pytest.raises(Killed):
                await hall.service.execute(EVERY[name](hall))
            again = len(hall.faults.trace)

            def kill_again(at: int, _: str, again: int = again, m: int = m) -> None:
                if at == again + m:
                    raise Killed

            hall.faults.at_point = kill_again
            hall.start()
            hall.reconnected()
            try:
                await hall.settle()
            except Killed:
                hall.faults.at_point = None
                hall.start()
                hall.reconnected()
                await hall.settle()
                stranger_left(hall, name)
                hall.all_well()
            else:
                break


@pytest.mark.parametrize("name", CHANGES)
async def test_asterisk_killed_at_any_instant_of_a_change(name: str) -> None:
    """It comes back without members while the change goes on."""
    points = await trace_of(name)
    for n in range(len(points)):
        hall = Hall()
        await prepared(hall, name)
        start = len(hall.faults.trace)

        def restart(at: int, point: str, hall: Hall = hall, start: int = start, n: int = n) -> None:
            if at == start + n:
                hall.asterisk.restart("later")
                if "apply" in point:
                    hall.asterisk.answers_left = 0

        hall.faults.at_point = restart
        with suppress(errors.Unavailable, errors.QueueRefused):
            await hall.service.execute(EVERY[name](hall))
        await settle_until_done(hall)
        hall.all_well()


async def test_settling_does_not_store_what_asterisk_refuses(hall: Hall) -> None:
    await hall.do(hall.log_in())

    def kill(_: int, point: str) -> None:
        if point == "before queues.apply":
            raise Killed

    hall.faults.at_point = kill
    with pytest.raises(Killed):
        await hall.service.execute(hall.log_off())
    hall.faults.at_point = None
    hall.start()
    hall.asterisk.refuses = lambda operation: getattr(operation, "queue", "") == "support"
    await hall.settle()
    hall.asterisk.refuses = lambda _: False
    assert hall.state.session is not None
    hall.all_well()


# -- the caller hangs up


@pytest.mark.parametrize("name", ["log in", *CHANGES])
async def test_the_event_says_that_the_caller_was_gone(hall: Hall, name: str) -> None:
    if name != "log in":
        await hall.do(*first_state(hall))
    known = set(hall.store.events)
    command = EVERY[name](hall)
    await hall.service.execute(command, hung_up=lambda: True)
    new = [event for id, event in hall.store.events.items() if id not in known]
    assert new
    assert all(event.actor.hung_up for event in new)
    assert all(event.actor.channel == "PJSIP/1001-00000001" for event in new)
    hall.all_well()


@pytest.mark.parametrize("how", ["asterisk refuses", "no answer", "in use", "store fails"])
async def test_a_refused_login_says_that_the_caller_was_gone(hall: Hall, how: str) -> None:
    hall.store.agents["1002"] = an_agent("1002")
    match how:
        case "asterisk refuses":
            hall.asterisk.queues.clear()
        case "no answer":
            hall.asterisk.answers_left = 1
        case "in use":
            await hall.do(hall.log_in(agent="1002"))
        case "store fails":
            hall.store.down = {"confirm"}
    with pytest.raises(errors.Refused):
        await hall.service.execute(hall.log_in(), hung_up=lambda: True)
    await settle_until_done(hall)
    event = hall.events[-1]
    assert event.type is REFUSED
    assert event.actor.hung_up


# -- two agents, one phone


@pytest.fixture
def two() -> Hall:
    return Hall(an_agent("1001"), an_agent("1002"))


async def test_another_s_phone_is_refused(two: Hall) -> None:
    await two.do(two.log_in(agent="1002"))
    refusal = await refused(errors.ExtensionInUse, two.service.execute(two.log_in()))
    assert refusal.occupant == "1002"  # type: ignore[attr-defined]
    assert two.told[-1] == (REFUSED, "EXTENSION_IN_USE")
    two.all_well()


async def test_taking_over(two: Hall) -> None:
    await two.do(two.log_in(agent="1002"), two.pause(agent="1002"))
    change = await two.service.execute(two.log_in(), take_over=True)
    assert change.outcome is Outcome.LOGGED_IN
    assert [(e.agent, e.type, e.reason) for e in two.events[-2:]] == [
        ("1002", LOGOUT, "taken over"),
        ("1001", LOGIN, ""),
    ]
    two.all_well()


async def test_nobody_is_logged_off_for_a_login_that_only_asks(two: Hall) -> None:
    """1001 sits elsewhere and has not said "move": 1002 stays."""
    await two.do(two.log_in("1002", agent="1002"), two.log_in("1001"))
    wanted = two.log_in("1002")
    await refused(errors.LoggedInElsewhere, two.service.execute(wanted, take_over=True))
    assert two.store.agents["1002"].session is not None
    two.all_well()


async def test_an_occupant_who_left_meanwhile_is_not_logged_off_elsewhere(two: Hall) -> None:
    await two.do(two.log_in("1001", agent="1002"))
    moved = False

    async def move() -> None:
        await two.do(two.log_in("1003", agent="1002", move=True))

    begin = two.store.begin

    async def begin_then_move(*values: object, event: str) -> object:
        nonlocal moved
        try:
            return await begin(*values, event=event)  # type: ignore[arg-type]
        except errors.ExtensionInUse:
            if not moved:
                moved = True
                await move()
            raise

    two.store.begin = begin_then_move  # type: ignore[assignment, method-assign]
    change = await two.service.execute(two.log_in("1001"), take_over=True)
    assert change.outcome is Outcome.LOGGED_IN
    elsewhere = two.store.agents["1002"].session
    assert elsewhere is not None
    assert elsewhere.device == device("1003")
    two.all_well()


async def test_a_phone_that_is_being_logged_in_to_is_in_use(two: Hall) -> None:
    """Its claim is not confirmed yet: there is nobody to log off, and nobody is told otherwise."""
    two.asterisk.answers_left = 1
    await refused(errors.Unavailable, two.service.execute(two.log_in(agent="1002")))
    two.asterisk.linked = True
    refusal = two.service.execute(two.log_in(), take_over=True)
    with pytest.raises((errors.ExtensionInUse, errors.Unavailable)):
        await refusal
    assert [e.type for e in two.events if e.agent == "1001"] == [REFUSED]
    await settle_until_done(two)
    two.all_well()


async def test_a_takeover_that_asterisk_refuses_says_so(two: Hall) -> None:
    await two.do(two.log_in(agent="1002"))
    two.asterisk.refuses = lambda operation: (
        isinstance(operation, RemoveMember) and operation.queue == "billing"
    )
    await refused(errors.QueueRefused, two.service.execute(two.log_in(), take_over=True))
    two.asterisk.refuses = lambda _: False
    assert two.store.agents["1002"].session is not None
    assert two.told[-1] == (REFUSED, "QUEUE_REFUSED")
    two.all_well()


# -- races


async def outcomes(*doing: Awaitable[object]) -> list[str]:
    results = await asyncio.gather(*doing, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, errors.Refused):
            raise result
    return sorted(result.outcome.value for result in results)  # type: ignore[union-attr]


async def test_one_agent_on_twenty_phones_at_once(hall: Hall) -> None:
    commands = [hall.log_in(str(1000 + n)) for n in range(20)]
    said = await outcomes(*(hall.service.execute(command) for command in commands))
    assert said == ["LOGGED_IN"] + ["LOGGED_IN_ELSEWHERE"] * 19
    hall.all_well()


async def test_one_agent_moves_to_twenty_phones_at_once(hall: Hall) -> None:
    commands = [hall.log_in(str(1000 + n), move=True) for n in range(20)]
    said = await outcomes(*(hall.service.execute(command) for command in commands))
    assert said == ["LOGGED_IN"] + ["MOVED"] * 19
    assert len(hall.events) == 1 + 19 * 2
    hall.all_well()


@pytest.mark.parametrize("take_over", [False, True])
async def test_twenty_agents_on_one_phone_at_once(take_over: bool) -> None:
    hall = Hall(*(an_agent(str(1000 + n)) for n in range(20)))
    commands = [hall.log_in("1001", agent=str(1000 + n)) for n in range(20)]
    said = await outcomes(
        *(hall.service.execute(command, take_over=take_over) for command in commands)
    )
    if take_over:
        assert set(said) <= {"LOGGED_IN", "EXTENSION_IN_USE"}
    else:
        assert said == ["EXTENSION_IN_USE"] * 19 + ["LOGGED_IN"]
    assert sum(agent.session is not None for agent in hall.store.agents.values()) == 1
    hall.all_well()


async def test_agents_do_not_wait_for_each_other(two: Hall) -> None:
    seen = two.faults.stop_at("after store.begin")
    held = asyncio.create_task(two.service.execute(two.log_in("1001")))
    await seen.wait()
    gate = two.faults.hold.pop("after store.begin")
    await two.do(two.log_in("1002", agent="1002"))
    assert not held.done()
    gate.set()
    await held
    two.all_well()


async def test_agents_change_phones_with_each_other_without_waiting_for_ever(two: Hall) -> None:
    await two.do(two.log_in("1001"), two.log_in("1002", agent="1002"))
    async with asyncio.timeout(5):
        said = await outcomes(
            two.service.execute(two.log_in("1002", move=True)),
            two.service.execute(two.log_in("1001", agent="1002", move=True)),
        )
    assert said == ["EXTENSION_IN_USE"] * 2
    two.all_well()


async def test_no_lock_outlives_its_change(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.log_off())
    assert not list(hall.service._locks)


@pytest.mark.parametrize("seed", range(60))
async def test_everything_at_once_while_everything_breaks(seed: int) -> None:
    """Three agents, three phones, random commands, faults anywhere; then all is settled."""
    dice = random.Random(seed)
    agents = ["1001", "1002", "1003"]
    hall = Hall(*map(an_agent, agents))
    await hall.settle()
    quiet = 0

    def fault(_: int, point: str) -> None:
        nonlocal quiet
        if dice.random() > 0.02:
            return
        match dice.choice(["cut", "cut at once", "store", "kill", "restart", "call"]):
            case "cut":
                hall.asterisk.answers_left = dice.randrange(3)
                hall.asterisk.executes_unanswered = dice.random() < 0.5
            case "cut at once":
                hall.asterisk.linked = False
            case "store":
                hall.store.down = {dice.choice(["begin", "confirm", "withdraw", "*"])}
            case "kill":
                raise Killed
            case "restart":
                hall.asterisk.restart(f"restart {dice.random()}")
                hall.reconnected()
            case "call":
                hall.asterisk.calls ^= {f"pjsip/{dice.choice(agents)}"}

    def any_command() -> Command:
        who = dice.choice(agents)
        queue = dice.choice(["sales", "support", "billing"])
        return dice.choice(
            [
                lambda: hall.log_in(dice.choice(agents), who, dice.random() < 0.5),
                lambda: hall.log_in(dice.choice(agents), who, dice.random() < 0.5),
                lambda: hall.log_off(who, when_in_call=dice.choice(list(WhenInCall))),
                lambda: hall.pause(dice.choice([LUNCH, BREAK]), who),
                lambda: hall.unpause(who),
                lambda: hall.join(queue, who),
                lambda: hall.leave(queue, who, dice.random() < 0.5),
            ]
        )()

    for _ in range(12):
        hall.faults.at_point = fault
        tasks = [
            asyncio.create_task(hall.service.execute(any_command(), take_over=dice.random() < 0.5))
            for _ in range(4)
        ]
        tasks.append(asyncio.create_task(hall.settle()))  # type: ignore[arg-type]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        died = any(task.done() and isinstance(task.exception(), Killed) for task in tasks)
        if not died:
            await asyncio.wait(tasks)
            died = any(isinstance(task.exception(), Killed) for task in tasks)
        if died:  # everything in the process dies with it
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            hall.start()
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            if error and not isinstance(error, errors.Refused | Killed | StoreUnavailable):
                assert type(error).__name__ == "QueuesUnavailable", error
        hall.asterisk.calls.clear()
        await settle_until_done(hall)
        hall.all_well()
        for event in hall.events:
            if event.type is not EventType.REPAIR:
                assert event.source is Source.PHONE, f"nobody else was there: {event}"


# -- calls


async def test_logging_off_in_a_call(hall: Hall) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.calls.add("pjsip/1001")
    await refused(errors.InCall, hall.service.execute(hall.log_off(when_in_call=WhenInCall.REFUSE)))
    hall.all_well()
    change = await hall.service.execute(hall.log_off(when_in_call=WhenInCall.AFTER_CALL))
    assert change.outcome is Outcome.LOGOFF_AFTER_CALL
    assert hall.state.planned is not None
    hall.all_well()
    change = await hall.service.execute(hall.log_off(when_in_call=WhenInCall.ALLOW))
    assert change.outcome is Outcome.LOGGED_OFF
    hall.all_well()


async def test_a_planned_log_off_is_carried_out_after_the_call(hall: Hall) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.calls.add("pjsip/1001")
    command = hall.log_off(when_in_call=WhenInCall.AFTER_CALL)
    await hall.do(command)
    await hall.settle()
    assert hall.state.session is not None
    hall.asterisk.calls.clear()
    await hall.settle()
    assert hall.state.session is None
    assert hall.told == [(LOGIN, ""), (LOGOUT, "")]
    event = hall.events[-1]
    assert event.source is Source.PHONE
    assert event.actor == command.actor
    hall.all_well()
    await hall.settle()
    assert len(hall.events) == 2


async def test_a_planned_log_off_outlives_the_process(hall: Hall) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.calls.add("pjsip/1001")
    await hall.do(hall.log_off(when_in_call=WhenInCall.AFTER_CALL))
    hall.start()
    hall.asterisk.calls.clear()
    await running(hall, lambda: hall.state.session is None)
    hall.all_well()


async def test_the_end_of_the_call_is_enough(hall: Hall) -> None:
    """The service was idle, waiting for nothing, when the log-off was planned."""
    async with Running(hall):
        await idle(hall)
        await hall.do(hall.log_in())
        hall.asterisk.calls.add("pjsip/1001")
        await hall.do(hall.log_off(when_in_call=WhenInCall.AFTER_CALL))
        hall.asterisk.calls.clear()
        hall.reconciler.call_ended("PJSIP/1001")
        await until(lambda: hall.state.session is None)
    hall.all_well()


async def test_a_call_whose_end_nobody_reports_ends_all_the_same(hall: Hall) -> None:
    async with Running(hall):
        await idle(hall)
        await hall.do(hall.log_in())
        hall.asterisk.calls.add("pjsip/1001")
        await hall.do(hall.log_off(when_in_call=WhenInCall.AFTER_CALL))
        hall.asterisk.calls.clear()
        await until(lambda: hall.state.session is None)
    hall.all_well()


async def test_a_log_off_planned_while_the_plans_are_read_is_not_forgotten(hall: Hall) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.calls.add("pjsip/1001")
    seen = hall.faults.stop_at("after store.planned")
    settling = asyncio.create_task(hall.settle())
    await seen.wait()
    await hall.do(hall.log_off(when_in_call=WhenInCall.AFTER_CALL))
    hall.faults.go_on("after store.planned")
    await settling
    hall.asterisk.calls.clear()
    async with Running(hall):
        hall.reconciler.call_ended("PJSIP/1001")
        await until(lambda: hall.state.session is None)


@pytest.mark.parametrize("point", ["after store.planned", "before queues.members"])
async def test_who_logs_in_again_is_not_logged_off_by_the_old_plan(hall: Hall, point: str) -> None:
    await hall.do(hall.log_in())
    hall.asterisk.calls.add("pjsip/1001")
    await hall.do(hall.log_off(when_in_call=WhenInCall.AFTER_CALL))
    hall.asterisk.calls.clear()
    seen = hall.faults.stop_at(point)
    settling = asyncio.create_task(hall.settle())
    await seen.wait()
    again = asyncio.create_task(hall.service.execute(hall.log_in()))
    for _ in range(20):
        await asyncio.sleep(0)
    hall.faults.go_on(point)
    await settling
    said = (await again).outcome
    # Whichever came first: what the agent heard is what holds.
    assert said in (Outcome.ALREADY_LOGGED_IN, Outcome.LOGGED_IN)
    assert hall.state.session is not None
    hall.all_well()


async def test_one_planned_log_off_that_cannot_be_done_stops_no_other() -> None:
    hall = Hall(an_agent("1001", "sales"), an_agent("1002", "support"))
    hall.asterisk.calls = {"pjsip/1001", "pjsip/1002"}
    for number in ("1001", "1002"):
        await hall.do(
            hall.log_in(number, agent=number),
            hall.log_off(number, when_in_call=WhenInCall.AFTER_CALL),
        )
    hall.asterisk.calls.clear()
    hall.asterisk.refuses = lambda operation: getattr(operation, "queue", "") == "sales"
    await running(hall, lambda: hall.store.agents["1002"].session is None)
    hall.asterisk.refuses = lambda _: False
    assert hall.store.agents["1001"].session is not None
    done = len(hall.asterisk.done)
    await hall.settle()
    assert len(hall.asterisk.done) == done, "not tried again at once"
    hall.clock.pass_(minutes=1)
    await running(hall, lambda: hall.store.agents["1001"].session is None)
    hall.all_well()


async def test_the_last_in_a_queue_is_asked(two: Hall) -> None:
    await two.do(two.log_in(), two.log_in("1002", agent="1002"))
    await two.do(two.leave("sales", agent="1002", confirmed=False))
    await refused(errors.LastInQueue, two.service.execute(two.leave("sales", confirmed=False)))
    assert members(two) == ["PJSIP/1001"]
    await two.do(two.leave("sales", confirmed=True))
    assert members(two) == []
    two.all_well()


# -- Asterisk restarts


async def test_a_restarted_asterisk_gets_its_members_back(two: Hall) -> None:
    await two.settle()
    await two.do(
        two.log_in(),
        two.leave("support"),
        two.pause(),
        two.log_in("1002", agent="1002"),
        two.log_off("1002"),
    )
    known = len(two.events)
    two.asterisk.restart("later")
    two.reconnected()
    await two.settle()
    two.all_well()
    (repair,) = two.events[known:]
    assert (repair.type, repair.reason) == (EventType.REPAIR, "2 put back"), "a repair is no login"
    assert (repair.source, repair.agent) == (Source.SYSTEM, "")


async def test_a_lost_link_is_no_restart(hall: Hall) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.queues["sales"].clear()  # somebody's doing
    hall.reconnected()
    await hall.settle()
    assert members(hall) == []


@pytest.mark.parametrize("answers", range(6))
async def test_a_link_lost_while_members_are_put_back(two: Hall, answers: int) -> None:
    await two.settle()
    await two.do(two.log_in(), two.log_in("1002", agent="1002"))
    two.asterisk.restart("later")
    two.asterisk.answers_left = answers
    two.asterisk.executes_unanswered = False
    two.reconnected()
    with pytest.raises(Exception, match=r"link|answer"):
        await two.settle()
    await settle_until_done(two)
    two.all_well()


@pytest.mark.parametrize(
    "point", ["after store.logged_in", "after queues.members", "after store.set_note"]
)
async def test_a_second_restart_while_the_first_is_repaired(hall: Hall, point: str) -> None:
    await hall.settle()
    await hall.do(hall.log_in())
    hall.asterisk.restart("first")
    hall.reconnected()
    seen = hall.faults.stop_at(point)
    settling = asyncio.create_task(hall.settle())
    await seen.wait()
    hall.asterisk.restart("second")
    hall.reconnected()
    hall.faults.go_on(point)
    with suppress(QueuesUnavailable):  # it is begun anew
        await settling
    for _ in range(3):
        await hall.settle()
    hall.all_well()
    assert {e.source for e in hall.events} <= {Source.PHONE, Source.SYSTEM}


async def test_a_change_on_its_way_is_waited_for_before_members_are_put_back(hall: Hall) -> None:
    """Asterisk dies between the login's last answer and its confirmation."""
    await hall.settle()
    confirming = hall.faults.stop_at("before store.confirm")
    login = asyncio.create_task(hall.service.execute(hall.log_in()))
    await confirming.wait()
    hall.asterisk.restart("later")
    hall.reconnected()
    settling = asyncio.create_task(hall.settle())
    for _ in range(50):
        await asyncio.sleep(0)
    assert members(hall) == []
    hall.faults.go_on("before store.confirm")
    await login
    await settling
    hall.all_well()
    assert members(hall) == ["PJSIP/1001"]
    assert hall.told == [(LOGIN, ""), (EventType.REPAIR, "3 put back")]


@pytest.mark.parametrize("point", ["after store.logged_in", "after queues.members"])
async def test_a_login_while_others_are_put_back(two: Hall, point: str) -> None:
    await two.settle()
    await two.do(two.log_in("1002", agent="1002"))
    two.asterisk.restart("later")
    two.reconnected()
    seen = two.faults.stop_at(point)
    settling = asyncio.create_task(two.settle())
    await seen.wait()
    gate = two.faults.hold.pop(point)
    await two.do(two.log_in())
    gate.set()
    await settling
    two.all_well()
    assert members(two) == ["PJSIP/1001", "PJSIP/1002"]


# -- PINs


def phone(extension: str) -> Place:
    return Place(f"phone::pjsip/{extension}", outside=False)


def mobile(number: str) -> Place:
    return Place(f"number:{number}" if number else "", outside=True)


async def guess(hall: Hall, agent: AgentState, place: Place, times: int) -> list[type]:
    """What became of so many wrong PINs."""
    said: list[type] = []
    for _ in range(times):
        try:
            await hall.service.check_pin(agent, "0", place)
        except errors.Refused as refusal:
            said.append(type(refusal))
    return said


async def test_a_pin_is_checked_and_wrong_ones_lock_where_they_were_typed(hall: Hall) -> None:
    agent = an_agent("1001", pin="1234")
    check = hall.service.check_pin
    await check(agent, "1234", phone("1001"))
    assert await guess(hall, agent, phone("1001"), 2) == [errors.WrongPin] * 2
    await check(agent, "1234", phone("1001"))  # forgives the agent's failures there
    assert await guess(hall, agent, phone("1002"), 4) == [errors.WrongPin] * 3 + [
        errors.AgentLocked
    ]
    await refused(errors.AgentLocked, check(agent, "1234", phone("1002")))
    # Elsewhere the agent is as before, and so is somebody else at that phone, who has to wait.
    await check(agent, "1234", phone("1003"))
    assert hall.slept == []
    await check(an_agent("1002", pin="1"), "1", phone("1002"))
    assert hall.slept == [2.0]
    hall.clock.pass_(minutes=15)
    await check(agent, "1234", phone("1002"))


async def test_wrong_pins_from_outside_keep_nobody_from_the_own_desk(hall: Hall) -> None:
    agent = an_agent("1001", pin="1234")
    for n in range(40):  # every call with another number
        await guess(hall, agent, mobile(f"07{n:08}"), 1)
        await guess(hall, agent, mobile(""), 1)
    hall.slept.clear()
    await hall.service.check_pin(agent, "1234", phone("1001"))
    assert hall.slept == []
    await refused(errors.AgentLocked, hall.service.check_pin(agent, "1234", mobile("0799999999")))


async def test_who_has_called_from_a_number_before_does_not_wait_for_others(hall: Hall) -> None:
    agent = an_agent("1001", pin="1234")
    own = mobile("0712345678")
    await hall.service.check_pin(agent, "1234", own)
    for n in range(40):
        await guess(hall, agent, mobile(f"06{n:08}"), 1)
    hall.slept.clear()
    await hall.service.check_pin(agent, "1234", own)
    assert hall.slept == []
    # What is typed there itself counts there.
    assert await guess(hall, agent, own, 4) == [errors.WrongPin] * 3 + [errors.AgentLocked]
    hall.clock.pass_(days=31)  # for ever is too long: numbers change hands
    for n in range(40):
        await guess(hall, agent, mobile(f"05{n:08}"), 1)
    await refused(errors.AgentLocked, hall.service.check_pin(agent, "1234", own))


@pytest.mark.parametrize("outside", [True, False])
async def test_guessing_one_pin_from_everywhere_gets_slow(hall: Hall, outside: bool) -> None:
    """Not more guesses a day than some hundreds, from however many numbers or phones, and however
    many calls at once."""
    agent = an_agent("1001", pin="1234")
    end = hall.clock.now + timedelta(days=1)
    tried = calls = 0
    while hall.clock.now < end:
        places = [Place(f"somewhere:{calls}-{n}", outside) for n in range(4)]
        said = await asyncio.gather(
            *(hall.service.check_pin(agent, "0", place) for place in places),
            return_exceptions=True,
        )
        tried += sum(isinstance(answer, errors.WrongPin) for answer in said)
        calls += 1
        hall.clock.pass_(seconds=60)
    assert tried < 1_500
    assert calls > 1_000


async def test_guessing_everybodys_pin_at_one_phone_gets_slow(hall: Hall) -> None:
    said = [
        kind
        for n in range(200)
        for kind in await guess(hall, an_agent(str(2000 + n), pin="1"), phone("1001"), 1)
    ]
    assert said.count(errors.WrongPin) < 12
    assert said.count(errors.ExtensionLocked) > 180
    # Another phone is not concerned, and who sat here before does not wait either.
    await hall.service.check_pin(an_agent("1002", pin="1"), "1", phone("1002"))


async def test_callers_without_a_number_share_no_lock(hall: Hall) -> None:
    await guess(hall, an_agent("1001", pin="1"), mobile(""), 10)
    hall.slept.clear()
    await hall.service.check_pin(an_agent("1002", pin="1"), "1", mobile(""))
    assert hall.slept == []


@pytest.mark.parametrize("by", [timedelta(hours=1), -timedelta(hours=1)])
async def test_the_clock_is_set_while_a_login_waits_for_another_change(
    hall: Hall, by: timedelta
) -> None:
    """It begins by the new clock, and is not moved as if it had begun by the old one."""
    async with hall.service.holding(["1001"]):
        login = asyncio.create_task(hall.do(hall.log_in()))
        for _ in range(10):  # as far as it gets
            await asyncio.sleep(0)
        hall.clock.set(by)
    await login
    await hall.service.follow_clock()
    assert hall.state.session is not None
    assert hall.state.session.since == hall.clock.now


async def test_somebody_put_in_at_the_console_just_after_the_clock_was_set(hall: Hall) -> None:
    await hall.settle()
    hall.clock.set(-timedelta(hours=1))
    phone = "PJSIP/1001"
    hall.asterisk.console(AddMember("sales", phone, phone, "Agent/1001"))
    await hall.settle()
    await hall.service.follow_clock()
    assert hall.state.session is not None
    assert hall.state.session.since == hall.clock.now


@pytest.mark.parametrize("days", [-1, 1])
async def test_the_machines_clock_is_set_and_a_lock_stays_a_lock(hall: Hall, days: int) -> None:
    agent = an_agent("1001", pin="1234")
    await guess(hall, agent, phone("1001"), 3)
    hall.step(timedelta(days=days))
    await refused(errors.AgentLocked, hall.service.check_pin(agent, "1234", phone("1001")))
    # Nobody is locked by it, and the lock ends in its time.
    await hall.service.check_pin(agent, "1234", phone("1002"))
    hall.clock.pass_(minutes=15)
    await hall.service.check_pin(agent, "1234", phone("1001"))


async def test_racing_guesses_get_no_more_than_one_phone(hall: Hall) -> None:
    agent = an_agent("1001", pin="0019")
    said = await asyncio.gather(
        *(hall.service.check_pin(agent, f"{n:04}", phone("1001")) for n in range(20)),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in said]
    assert kinds.count(errors.WrongPin) == 3
    assert kinds.count(errors.AgentLocked) == 17


async def test_a_pin_check_that_was_cut_off_counts(hall: Hall) -> None:
    agent = an_agent("1001", pin="1234")
    hall.store.down = {"pin_passed"}
    for _ in range(3):
        await refused(errors.Unavailable, hall.service.check_pin(agent, "1234", phone("1001")))
    await refused(errors.AgentLocked, hall.service.check_pin(agent, "1234", phone("1001")))


# -- outside numbers


async def test_an_outside_number_needs_a_pin_and_must_be_the_agents_own(hall: Hall) -> None:
    may = hall.service.may_log_in_at
    outside = replace(device("1001"), extension="0712345678", type="remote")
    with_pin = an_agent("1001", pin="1234")
    await may(an_agent("1001"), device("1001"))  # in the house
    await refused(errors.NumberNotAllowed, may(an_agent("1001"), outside))
    await refused(errors.NumberNotAllowed, may(with_pin, outside))
    hall.store.outside["1001"] = ("06XXXXXXXX", "0712345678")
    await may(with_pin, outside)
    await may(with_pin, replace(outside, extension="0612345678"))
    await refused(errors.NumberNotAllowed, may(an_agent("1001"), outside))
    for other in ("0900123456", "07123456789", "071234567", "06123456789"):
        await refused(errors.NumberNotAllowed, may(with_pin, replace(outside, extension=other)))


# -- run()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (whatever it is, nobody sets an event for it)
            await asyncio.sleep(0.01)


async def idle(hall: Hall) -> None:
    """Nothing happens any more."""
    seen = -1
    async with asyncio.timeout(20):
        while seen != len(hall.faults.trace):
            seen = len(hall.faults.trace)
            await asyncio.sleep(2.2 if hall.reconciler.planned.waiting else 0.1)


class Running:
    """``run()`` for the time of a block; ended, it leaves no task."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall

    async def __aenter__(self) -> None:
        self._before = asyncio.all_tasks()
        self._task = asyncio.create_task(self._hall.reconciler.run())

    async def __aexit__(self, *_: object) -> None:
        if self._task.done():
            await self._task
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task
        assert asyncio.all_tasks() == self._before


async def running(hall: Hall, condition: Callable[[], bool]) -> None:
    # Nothing is due in two seconds' time: only what was noticed is seen to.
    hall.reconciler.planned.waiting = any(agent.planned for agent in hall.store.agents.values())
    async with Running(hall):
        await until(condition)


async def test_run_settles_what_failed_once_the_store_and_the_link_are_back(hall: Hall) -> None:
    async with Running(hall):
        hall.reconnected()
        await until(lambda: "asterisk_started" in hall.store.remembered)
        hall.store.down = {"confirm", "withdraw"}
        await refused(errors.Unavailable, hall.service.execute(hall.log_in()))
        hall.asterisk.linked = False
        await until(lambda: not hall.reconciler._attention.is_set())
        hall.store.down = {"*"}
        hall.asterisk.linked = True
        hall.reconnected()
        await asyncio.sleep(0.1)
        assert set(hall.store.intents) == {"1001"}
        hall.store.down.clear()
        await until(lambda: not hall.store.intents)
    hall.all_well()


async def test_run_sleeps_while_there_is_nothing_to_do(hall: Hall) -> None:
    hall.reconciler.planned.waiting = False
    async with Running(hall):
        hall.reconnected()
        await until(lambda: "asterisk_started" in hall.store.remembered)
        await asyncio.sleep(0.1)
        settled = len(hall.faults.trace)
        await asyncio.sleep(0.1)
        assert len(hall.faults.trace) == settled
        hall.reconciler.call_ended("PJSIP/1001")  # of a member who has no plan
        await asyncio.sleep(0.1)
        assert len(hall.faults.trace) == settled


async def test_pause_is_told_to_asterisk_once(hall: Hall) -> None:
    await hall.do(hall.log_in(), hall.pause(), hall.pause(), hall.unpause(), hall.unpause())
    told = [op for op in hall.asterisk.done if isinstance(op, PauseMember)]
    assert told == [PauseMember("PJSIP/1001", True, "lunch"), PauseMember("PJSIP/1001", False)]
