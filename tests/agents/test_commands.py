import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents.commands import (
    COMMANDS,
    NO_FACTS,
    Actor,
    Command,
    Facts,
    LogIn,
    Pause,
    PauseReason,
    Relog,
    Unpause,
    WhenInCall,
    from_dict,
    recorded,
    to_dict,
)
from fastagi.agents.devices import Device
from fastagi.contract import Source

BOTH = Facts(over_budget=True, locked=True)

# Of all characters only these cannot be stored.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))

STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "id": TEXT,
    "agent": TEXT,
    "source": st.sampled_from(Source),
    "actor": st.builds(Actor, TEXT, TEXT, TEXT, TEXT, st.booleans()),
    "device": st.builds(Device, TEXT, TEXT, TEXT, TEXT, st.sampled_from(["local", "remote"])),
    "when_in_call": st.sampled_from(WhenInCall),
    "queue": TEXT,
    "queues": st.none() | st.lists(TEXT).map(tuple),
    "number": TEXT,
    "penalty": st.integers(0, 99),
    "reason": TEXT,
}


def any_of(kind: type[Command]) -> st.SearchStrategy[Command]:
    values = {f.name: STRATEGIES.get(f.name, st.booleans()) for f in fields(kind)}
    if kind is Pause:
        values["reason"] = st.builds(PauseReason, TEXT, TEXT)
    return st.builds(kind, **values)


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=COMMANDS)
@given(data=st.data())
def test_an_intent_is_read_as_it_was_written(kind: type[Command], data: st.DataObject) -> None:
    command = data.draw(any_of(kind))
    again = from_dict(json.loads(json.dumps(to_dict(command))))
    assert again == command
    assert type(again) is kind


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=COMMANDS)
@given(data=st.data())
def test_the_facts_are_recorded_with_it(kind: type[Command], data: st.DataObject) -> None:
    command = data.draw(any_of(kind))
    facts = data.draw(st.builds(Facts, **{f.name: st.booleans() for f in fields(Facts)}))
    assert recorded(json.loads(json.dumps(to_dict(command, facts)))) == (command, facts)


@pytest.mark.parametrize(
    ("kind", "fields", "facts"),
    [
        ("LogOff", {"in_call": True}, Facts(in_call=True)),
        ("Pause", {"in_call": True, "spent": False, "locked": False}, Facts(in_call=True)),
        ("Pause", {"in_call": False, "spent": True, "locked": True}, BOTH),
        ("Unpause", {"locked": True}, Facts(locked=True)),
        ("LeaveQueue", {"last": True}, Facts(last_in_queue=True)),
        ("LeaveQueue", {"last": False}, NO_FACTS),
    ],
)
def test_facts_that_stood_in_the_command_are_read(
    kind: str, fields: dict[str, bool], facts: Facts
) -> None:
    data = {"id": "c", "agent": "1", "source": "phone", "actor": {}, "kind": kind}
    data |= {"Pause": {"reason": {"code": "1", "name": "lunch"}}, "LeaveQueue": {"queue": "q"}}.get(
        kind, {}
    )
    assert recorded(data | fields) == (from_dict(data), facts)


def test_a_relog_keeps_what_it_is_about() -> None:
    relog = Relog(id="c", agent="1", source=Source.API, in_call=True)
    assert recorded(to_dict(relog)) == (relog, NO_FACTS)


UNPAUSE = to_dict(Unpause(id="c", agent="1", source=Source.API))


@pytest.mark.parametrize(
    "data",
    [
        {},
        UNPAUSE | {"kind": "Promote"},
        {key: value for key, value in UNPAUSE.items() if key != "source"},
        UNPAUSE | {"colour": "blue"},
    ],
    ids=["empty", "unknown kind", "a field too few", "a field too many"],
)
def test_what_another_version_wrote_is_not_guessed_at(data: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        from_dict(data)


def test_every_kind_is_known_by_name() -> None:
    assert set(COMMANDS) == {
        "LogIn",
        "LogOff",
        "Pause",
        "Unpause",
        "JoinQueue",
        "LeaveQueue",
        "ChangePenalty",
        "AddToQueue",
        "RemoveFromQueue",
        "AssignPenalty",
        "Relog",
    }


def test_an_actor_shows_only_what_is_known() -> None:
    assert Actor().as_dict() == {}
    assert Actor(caller_id="1001", hung_up=True).as_dict() == {"caller_id": "1001", "hung_up": True}


def test_commands_cannot_be_changed() -> None:
    device = Device("1", "phones", "PJSIP/1", "PJSIP/1")
    command = LogIn(id="c", agent="1", source=Source.PHONE, device=device)
    with pytest.raises(AttributeError):
        command.move = True  # type: ignore[misc]
