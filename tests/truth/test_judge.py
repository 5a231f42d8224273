"""The judge sees a lie: each of these must not pass, so that the others do mean something."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fastagi.agents.commands import Actor, PauseReason
from fastagi.agents.devices import Device
from fastagi.agents.events import Event
from fastagi.agents.model import AgentState, LoginSession, Membership, OwnPause, PauseSegment
from fastagi.contract import EventType, Source
from tests.truth import judge
from tests.truth.conftest import SHARES
from tests.truth.house import Operation
from tests.truth.judge import Member
from tests.truth.program import Ask, Dial

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DESK = Device("1001", "phones", "PJSIP/1001", "PJSIP/1001")


def agent(*joined: str, where: Device | None = DESK, pause: str = "") -> AgentState:
    return AgentState(
        id=1,
        number="4001",
        name="",
        language="en",
        memberships=tuple(Membership(q, "", 2, q in joined) for q in ("sales", "support")),
        session=where and LoginSession("s", where, NOON),
        pause=PauseSegment("p", PauseReason("1", pause), NOON) if pause else None,
    )


OFF = agent(where=None)


def event(
    type: EventType,
    *queues: str,
    id: str = "a-1",
    by: str = "t1",
    reason: str = "",
    source: Source = Source.PHONE,
    at: str = "1001",
) -> Event:
    actor = Actor(unique_id=by) if source is Source.PHONE else Actor(name=by)
    return Event(id, type, "4001", at, queues, reason, source, actor, NOON)


LOGIN = event(EventType.LOGIN, "sales", "support")
PAUSE = event(EventType.PAUSE, "sales", "support", id="b-1", by="t2", reason="lunch")
LOGOUT = event(EventType.LOGOUT, "sales", "support", id="c-1", by="t3")


# -- the store and Asterisk

THERE = judge.meant([agent("sales", pause="lunch")])
AS_IT_IS = Member("Agent/4001", "PJSIP/1001", 2, True, "lunch")


def test_the_same_is_no_difference() -> None:
    assert THERE == {("sales", "PJSIP/1001"): AS_IT_IS}
    assert judge.difference(THERE, THERE) == []


@pytest.mark.parametrize(
    "other",
    [
        {},
        {("support", "PJSIP/1001"): AS_IT_IS},
        {("sales", "PJSIP/1002"): AS_IT_IS},
        {("sales", "PJSIP/1001"): replace(AS_IT_IS, penalty=0)},
        {("sales", "PJSIP/1001"): replace(AS_IT_IS, paused=False, reason="")},
        {("sales", "PJSIP/1001"): replace(AS_IT_IS, reason="break")},
        {("sales", "PJSIP/1001"): replace(AS_IT_IS, name="")},
        {("sales", "PJSIP/1001"): replace(AS_IT_IS, state_interface="")},
    ],
)
def test_any_other_is(other: judge.Members) -> None:
    assert judge.difference(THERE, other) != []


ITEM = {
    "Queue": "sales",
    "Location": "PJSIP/1001",
    "Name": "Agent/4001",
    "StateInterface": "PJSIP/1001",
    "Membership": "dynamic",
    "Penalty": "2",
    "Paused": "1",
    "PausedReason": "lunch",
}
STATIC = {**ITEM, "Membership": "static", "Name": "Front desk"}


def test_what_asterisk_reports_is_read() -> None:
    assert judge.reported([ITEM]) == THERE


def test_a_static_member_where_its_agent_is() -> None:
    assert judge.without_static(THERE, [STATIC], [LOGIN]) == (THERE, [])
    found, _ = judge.without_static(THERE, [{**STATIC, "Penalty": "4"}], [LOGIN])
    assert judge.difference(THERE, found) != []


@pytest.mark.parametrize(
    ("item", "events", "well"),
    [
        (STATIC, [LOGIN, LOGOUT], True),
        ({**STATIC, "Paused": "0"}, [], True),  # nobody's business
        ({**STATIC, "Paused": "0"}, [LOGIN, LOGOUT], False),
    ],
)
def test_a_static_member_where_nobody_is(
    item: dict[str, str], events: list[Event], well: bool
) -> None:
    found, wrong = judge.without_static({}, [item], events)
    assert (found, wrong == []) == ({}, well)


def test_a_dynamic_member_is_as_ever() -> None:
    assert judge.without_static({}, [ITEM], []) == (THERE, [])


def test_lamps() -> None:
    assert judge.lamps_meant([agent("sales", pause="lunch")]) == {
        "Custom:agent-4001": "INUSE",
        "Custom:pause-4001": "INUSE",
    }
    assert set(judge.lamps_meant([OFF]).values()) == {"NOT_INUSE"}


# -- the event log


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], OFF),
        ([LOGIN], agent("sales", "support")),
        ([LOGIN, PAUSE], agent("sales", "support", pause="lunch")),
        ([LOGIN, PAUSE, LOGOUT], OFF),
        (
            [LOGIN, event(EventType.QUEUE_LEAVE, "sales", id="d-1")],
            agent("support"),
        ),
    ],
)
def test_a_true_history(events: list[Event], state: AgentState) -> None:
    assert judge.history(events, [state]) == []


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], agent("sales", "support")),
        ([LOGIN], OFF),
        ([LOGIN], agent("sales")),
        ([LOGIN], agent("sales", "support", where=replace(DESK, extension="1002"))),
        ([LOGIN], agent("sales", "support", pause="lunch")),
        ([LOGIN, LOGIN], agent("sales", "support")),
        ([LOGOUT], OFF),
        ([LOGIN, replace(LOGOUT, extension="1002")], OFF),
        ([LOGIN, PAUSE, PAUSE], agent("sales", "support", pause="lunch")),
        ([LOGIN, PAUSE], agent("sales", "support", pause="break")),
        ([LOGIN, event(EventType.UNPAUSE, "sales")], agent("sales", "support")),
        ([LOGIN, event(EventType.QUEUE_JOIN, "sales")], agent("sales", "support")),
    ],
)
def test_a_false_history(events: list[Event], state: AgentState) -> None:
    assert judge.history(events, [state]) != []


def test_a_pause_in_one_queue_only() -> None:
    state = agent("sales", "support")
    sales, support = state.memberships
    state = replace(state, memberships=(replace(sales, own_pause=OwnPause(True, "lunch")), support))
    paused = event(EventType.PAUSE, "sales", id="b-1", reason="lunch", source=Source.ASTERISK)
    assert judge.history([LOGIN, paused], [state]) == []
    assert judge.history([LOGIN, replace(paused, queues=("support",))], [state]) != []


def test_a_pause_without_a_reason_is_one_too() -> None:
    paused = event(EventType.PAUSE, "sales", id="b-1", source=Source.ASTERISK)
    unpaused = event(EventType.UNPAUSE, "sales", id="b-2", by="t2")
    state = agent("sales", "support")
    assert judge.history([LOGIN, paused, unpaused], [state]) == []
    assert judge.history([LOGIN, paused, unpaused, unpaused], [state]) != []


# -- answers


def dialled(outcome: str, code: str = "*314001", id: str = "t1") -> Operation:
    return Operation(id, Dial("1001", code), 0.0, outcome)


REFUSED = event(EventType.LOGIN_REFUSED)


@pytest.mark.parametrize(
    ("operation", "events"),
    [
        (dialled("LOGGED_IN"), [LOGIN]),
        (dialled("ALREADY_LOGGED_IN"), []),
        (dialled("EXTENSION_IN_USE"), [REFUSED]),
        (dialled("UNAVAILABLE"), [REFUSED]),
        (dialled(""), [LOGIN]),
        (dialled(""), []),
        (dialled("NOT_LOGGED_IN", "*331"), []),
        (
            Operation("t1", Ask("LogIn", "4001", "1001"), 0.0, "LOGGED_IN"),
            [event(EventType.LOGIN, "sales", source=Source.API)],
        ),
    ],
)
def test_a_true_answer(operation: Operation, events: list[Event]) -> None:
    assert judge.answers([operation], events) == []


@pytest.mark.parametrize(
    ("operation", "events"),
    [
        (dialled("LOGGED_IN"), []),
        (dialled("LOGGED_IN"), [LOGIN, replace(LOGIN, id="z-1")]),
        (dialled("LOGGED_IN"), [replace(LOGIN, actor=Actor(unique_id="t9"))]),
        (dialled("LOGGED_IN"), [event(EventType.LOGIN, "sales", source=Source.API)]),
        (dialled("LOGGED_IN"), [REFUSED]),
        (dialled("EXTENSION_IN_USE"), [LOGIN]),
        (dialled("EXTENSION_IN_USE"), []),
        (dialled("PAUSED", "*331"), []),
        (dialled("NOT_LOGGED_IN", "*331"), [PAUSE]),
        (dialled("UNAVAILABLE"), [LOGIN, REFUSED]),
        (dialled(""), [LOGIN, replace(LOGIN, id="z-1")]),
    ],
)
def test_a_false_answer(operation: Operation, events: list[Event]) -> None:
    assert judge.answers([operation], events) != []


def test_doubles() -> None:
    assert judge.doubles([LOGIN, PAUSE, LOGOUT]) == []
    assert judge.doubles([LOGIN, LOGIN]) != []


# -- sources


def test_the_console_and_repairs_have_a_cause() -> None:
    by_console = event(EventType.LOGIN, source=Source.ASTERISK)
    assert judge.others([by_console], lambda event: True, disturbed=True) == []
    assert judge.others([by_console], lambda event: False, disturbed=True) != []
    repair = event(EventType.REPAIR, source=Source.SYSTEM)
    assert judge.others([repair], lambda event: False, disturbed=True) == []
    assert judge.others([repair], lambda event: False, disturbed=False) != []


# -- the console

KEY = ("sales", "PJSIP/1001")
PLAIN = replace(AS_IT_IS, paused=False, reason="")


@pytest.mark.parametrize(
    ("before", "there", "state", "told"),
    [
        ({}, {KEY: PLAIN}, OFF, (EventType.LOGIN, "")),
        ({}, {KEY: PLAIN}, agent("support"), (EventType.QUEUE_JOIN, "")),
        ({KEY: PLAIN}, {}, agent("sales", "support"), (EventType.QUEUE_LEAVE, "")),
        ({KEY: PLAIN}, {}, agent("sales"), (EventType.LOGOUT, "removed")),
        ({KEY: PLAIN}, {KEY: AS_IT_IS}, agent("sales"), (EventType.PAUSE, "lunch")),
        ({KEY: AS_IT_IS}, {KEY: PLAIN}, agent("sales"), (EventType.UNPAUSE, "lunch")),
        (
            {KEY: PLAIN},
            {KEY: replace(PLAIN, penalty=7)},
            agent("sales"),
            (EventType.QUEUE_PENALTY, "7"),
        ),
    ],
)
def test_what_the_console_does(
    before: judge.Members, there: judge.Members, state: AgentState, told: tuple[EventType, str]
) -> None:
    type, reason = told
    wanted = [(type, "4001", frozenset({"sales"}), reason)]
    assert judge.of_the_console(before, there, [state]) == wanted


def test_what_is_taken_back() -> None:
    """An agent is in one place."""
    elsewhere = agent("support", where=replace(DESK, extension="1002", interface="PJSIP/1002"))
    assert judge.of_the_console({}, {KEY: PLAIN}, [elsewhere]) is None


# -- what others are told


def test_deliveries() -> None:
    told = [(LOGIN.id, "4001"), (PAUSE.id, "4001")]
    quiet = {"faults": False, "lost": False}
    assert judge.delivered([LOGIN, PAUSE], told, **quiet) == []
    assert judge.delivered([LOGIN, PAUSE], told[:1], **quiet) != []
    assert judge.delivered([LOGIN, PAUSE], told[::-1], **quiet) != []
    assert judge.delivered([LOGIN, PAUSE], [*told, told[1]], **quiet) != []
    assert judge.delivered([LOGIN], told, **quiet) != []
    assert judge.delivered([LOGIN, PAUSE], [*told, told[1]], faults=True, lost=False) == []
    assert judge.delivered([LOGIN, PAUSE], told[1:], faults=True, lost=True) == []


# -- how much there is of it


def test_it_is_two_thousand_operations_and_a_hundred_faults() -> None:
    assert sum(share.operations for share in SHARES.values()) == 2000
    assert sum(share.faults for share in SHARES.values()) == 100
