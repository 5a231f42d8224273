from datetime import UTC, datetime

import pytest

from fastagi.agents.commands import PauseReason
from fastagi.agents.devices import Device
from fastagi.agents.model import AgentState, LoginSession, PauseSegment
from fastagi.contract import EventType
from fastagi.outbox import lamp
from fastagi.outbox.delivery import Rejected

from .parts import ScriptedAmi, event


def set_lamp(name: str, state: str) -> dict[str, str]:
    return {"Action": "Setvar", "Variable": f"DEVICE_STATE(Custom:{name})", "Value": state}


@pytest.mark.parametrize(
    ("kind", "reason", "actions"),
    [
        (EventType.LOGIN, "", [set_lamp("agent-1002", "INUSE")]),
        (EventType.LOGIN, "moved", [set_lamp("agent-1002", "INUSE")]),
        (
            EventType.LOGOUT,
            "",
            [set_lamp("agent-1002", "NOT_INUSE"), set_lamp("pause-1002", "NOT_INUSE")],
        ),
        (
            EventType.LOGOUT,
            "taken over",
            [set_lamp("agent-1002", "NOT_INUSE"), set_lamp("pause-1002", "NOT_INUSE")],
        ),
        (EventType.LOGOUT, "moved", []),
        (EventType.PAUSE, "lunch", [set_lamp("pause-1002", "INUSE")]),
        (EventType.UNPAUSE, "lunch", [set_lamp("pause-1002", "NOT_INUSE")]),
        (EventType.PAUSE_EXCEEDED, "lunch", [set_lamp("pause-1002", "RINGING")]),
        (EventType.QUEUE_JOIN, "", []),
        (EventType.QUEUE_PENALTY, "3", []),
        (EventType.REPAIR, "added to sales", []),
        (EventType.QUEUE_LEAVE, "", []),
        (EventType.LOGIN_REFUSED, "WRONG_PIN", []),
    ],
)
def test_each_event_sets_its_lamps(
    kind: EventType, reason: str, actions: list[dict[str, str]]
) -> None:
    assert lamp.actions(event("1002", kind, reason=reason)) == actions


@pytest.mark.parametrize(
    "number", ["", "1)", "1,2", "1001)=x", "1\r\nA: b", "${X}", "1 2", "9" * 61, "a/b", "1&2"]
)
async def test_a_number_that_is_no_lamp_is_refused_for_good(number: str) -> None:
    ami = ScriptedAmi()
    (refused,) = await lamp.sink(ami).deliver([event(number, EventType.PAUSE)])
    assert isinstance(refused, Rejected)
    assert refused.final
    assert ami.sent == []


async def test_both_lamps_of_each_agent_as_they_should_be() -> None:
    at = datetime(2026, 11, 22, 10, tzinfo=UTC)
    session = LoginSession("s", Device("1001", "phones", "PJSIP/1001", "PJSIP/1001"), at)
    pause = PauseSegment("p", PauseReason("1", "lunch"), at)
    too_long = PauseSegment("q", PauseReason("1", "lunch"), at)
    states = [
        AgentState(1, "1001", "Alice", "en", session=session),
        AgentState(2, "1002", "Bob", "en", session=session, pause=pause),
        AgentState(3, "1003", "Carol", "en"),
        AgentState(4, "1)=x", "Mallory", "en", session=session),
        AgentState(5, "1005", "Eve", "en", session=session, pause=too_long),
    ]
    assert lamp.refresh(states, {"q", "of nobody"}) == [
        set_lamp("agent-1001", "INUSE"),
        set_lamp("pause-1001", "NOT_INUSE"),
        set_lamp("agent-1002", "INUSE"),
        set_lamp("pause-1002", "INUSE"),
        set_lamp("agent-1003", "NOT_INUSE"),
        set_lamp("pause-1003", "NOT_INUSE"),
        set_lamp("agent-1005", "INUSE"),
        set_lamp("pause-1005", "RINGING"),
    ]
    assert lamp.refresh([]) == []
