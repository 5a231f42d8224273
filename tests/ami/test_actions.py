"""What the builders of manager actions let through."""

from typing import Any

import pytest

from fastagi.agents.operations import AddMember, PauseMember, RemoveMember, SetPenalty
from fastagi.ami.actions import queue_operation
from fastagi.ami.client import BadAction, serialise


def add(**changes: Any) -> AddMember:
    fields: dict[str, Any] = {
        "queue": "sales",
        "interface": "PJSIP/1001",
        "state_interface": "PJSIP/1001",
        "member_name": "Agent/1001",
        "penalty": 2,
        "paused": True,
        "reason": "lunch",
    }
    return AddMember(**{**fields, **changes})


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        (
            add(),
            {
                "Action": "QueueAdd",
                "Queue": "sales",
                "Interface": "PJSIP/1001",
                "Penalty": 2,
                "Paused": "true",
                "MemberName": "Agent/1001",
                "StateInterface": "PJSIP/1001",
                "Reason": "lunch",
            },
        ),
        (
            add(paused=False, member_name="", state_interface="", penalty=0),
            {
                "Action": "QueueAdd",
                "Queue": "sales",
                "Interface": "PJSIP/1001",
                "Penalty": 0,
                "Paused": "false",
            },
        ),
        (
            RemoveMember("sales", "Odd;name|here"),
            {"Action": "QueueRemove", "Queue": "sales", "Interface": "Odd;name|here"},
        ),
        (
            PauseMember("PJSIP/1001", True, "lunch"),
            {
                "Action": "QueuePause",
                "Interface": "PJSIP/1001",
                "Paused": "true",
                "Reason": "lunch",
            },
        ),
        (
            PauseMember("PJSIP/1001", True, queue="sales"),
            {
                "Action": "QueuePause",
                "Interface": "PJSIP/1001",
                "Paused": "true",
                "Queue": "sales",
            },
        ),
        (
            PauseMember("PJSIP/1001", False),
            {"Action": "QueuePause", "Interface": "PJSIP/1001", "Paused": "false"},
        ),
        (
            SetPenalty("sales", "PJSIP/1001", 0),
            {
                "Action": "QueuePenalty",
                "Queue": "sales",
                "Interface": "PJSIP/1001",
                "Penalty": 0,
            },
        ),
    ],
)
def test_operations(operation: Any, action: dict[str, Any]) -> None:
    assert queue_operation(operation) == action


@pytest.mark.parametrize(
    ("field", "header"),
    [
        ("interface", "Interface"),
        ("state_interface", "StateInterface"),
        ("member_name", "MemberName"),
        ("reason", "Reason"),
        ("queue", "Queue"),
    ],
)
@pytest.mark.parametrize("value", ["a,b", "a|b", "a;b", "x" * 80, "é" * 40])
def test_names_that_would_forge_members_or_be_cut(field: str, header: str, value: str) -> None:
    with pytest.raises(BadAction, match=f"header {header}: ") as caught:
        queue_operation(add(**{field: value}))
    assert value not in str(caught.value)
    queue_operation(add(**{field: "x" * 79}))
    queue_operation(add(**{field: "é" * 39}))


@pytest.mark.parametrize("field", ["queue", "interface", "member_name", "reason"])
def test_control_characters_never_pass(field: str) -> None:
    action = queue_operation(add(**{field: "a\r\nAction: Originate"}))
    with pytest.raises(BadAction, match="control character"):
        serialise(action, "1")


@pytest.mark.parametrize("penalty", [-1, "abc", "1", None, True, 1.5])
def test_penalties_are_numbers(penalty: Any) -> None:
    with pytest.raises(BadAction, match="Penalty"):
        queue_operation(SetPenalty("sales", "PJSIP/1001", penalty))
    with pytest.raises(BadAction, match="Penalty"):
        queue_operation(add(penalty=penalty))


@pytest.mark.parametrize(
    "operation", [add(queue=""), add(interface=""), RemoveMember("", "x"), PauseMember("", True)]
)
def test_empty_names(operation: Any) -> None:
    with pytest.raises(BadAction, match="is empty"):
        queue_operation(operation)
