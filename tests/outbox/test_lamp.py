import pytest

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
        (EventType.QUEUE_JOIN, "", []),
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
