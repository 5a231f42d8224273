"""Whom a changed configuration would take something from."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from fastagi.agents.commands import PauseReason
from fastagi.agents.devices import Device, DeviceRule, Pattern
from fastagi.agents.model import AgentState, LoginSession, Membership, PauseSegment
from fastagi.agents.protection import Loss, NotConfirmed, Removal, losses, only_hopes

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def rule(match: str, interface: str = "PJSIP/{extension}") -> DeviceRule:
    return DeviceRule(Pattern.parse(match), "phones", interface)


def agent(number: str, *queues: str, extension: str = "1001", left: str = "") -> AgentState:
    """Logged in and in these queues; ``left``: one of the agent's in which he is not."""
    interface = f"PJSIP/{extension}"
    memberships = [Membership(queue, "7", joined=True) for queue in queues]
    if left:
        memberships.append(Membership(left, "8"))
    device = Device(extension, "phones", interface, interface)
    return AgentState(
        int(number), number, "A", "en", None, tuple(memberships), LoginSession("s", device, NOW)
    )


def removal_of(*agents: AgentState, **removal: Any) -> Removal:
    removal.setdefault("agents", 100)
    for name in ("queues", "taken", "given", "reasons"):
        removal[name] = frozenset(removal.get(name, ()))
    return Removal(logged_in=agents, **removal)


def found(
    *agents: AgentState,
    before: Any = None,
    after: Any = (),
    lacking: Any = None,
    **removal: Any,
) -> list[str]:
    what = losses(removal_of(*agents, **removal), before, after, lacking)
    return [str(loss) for loss in what]


ANNA = agent("4001", "sales", "support")


def test_nothing_taken_is_nothing_lost() -> None:
    assert found(ANNA) == []


def test_an_agent_archived_while_logged_in() -> None:
    assert found(ANNA, archived=("4001",), logged_off=("4001",)) == [
        "agent 4001 is logged in, and would be archived"
    ]


def test_an_agent_archived_while_logged_off_is_nobodys_loss() -> None:
    assert found(ANNA, archived=("4002",)) == []


@pytest.mark.parametrize(("archived", "agents", "asked"), [(10, 100, False), (11, 100, True)])
def test_more_than_a_tenth_of_all(archived: int, agents: int, asked: bool) -> None:
    numbers = tuple(str(4000 + n) for n in range(archived))
    said = found(archived=numbers, agents=agents)
    assert bool(said) is asked
    if asked:
        assert said == [
            "11 of 100 agents would be archived: 4000, 4001, 4002, 4003, 4004, 4005, 4006, 4007,"
            " 4008, 4009 and 1 more"
        ]


def test_one_of_six_is_more_than_a_tenth() -> None:
    assert found(archived=("4001",), agents=6) == ["1 of 6 agents would be archived: 4001"]


def test_an_empty_store_has_nobody_to_lose() -> None:
    assert found(agents=0) == []


def test_one_queue_of_several_may_be_taken_away() -> None:
    assert found(ANNA, taken=[("4001", "sales")]) == []


def test_the_last_queue_may_not() -> None:
    both = [("4001", "sales"), ("4001", "support")]
    assert found(ANNA, taken=both) == [
        "agent 4001 would be in no queue any more (now in sales, support)"
    ]
    assert found(ANNA, taken=both, given=[("4001", "billing")]) == []
    assert found(ANNA, taken=both, given=[("4002", "billing")]) != []


def test_for_the_last_queue_one_that_asterisk_lacks_is_none() -> None:
    both = [("4001", "sales"), ("4001", "support")]
    given = [("4001", "Salse"), ("4001", "returns")]
    removal = removal_of(ANNA, agent("4002", "sales"), taken=both, given=given)
    assert only_hopes(removal) == {"": {"Salse", "returns"}}
    lacking = {"": {"salse", "returns"}}
    assert found(ANNA, taken=both, given=given, lacking=lacking) == [
        "agent 4001 would be in no queue any more "
        "(now in sales, support; Asterisk lacks Salse, returns)"
    ]
    assert found(ANNA, taken=both, given=given, lacking={"": {"salse"}}) == []
    assert found(ANNA, taken=both, given=given, lacking={"paris": {"salse", "returns"}}) == []
    assert found(ANNA, taken=both[:1], given=given, lacking=lacking) == [], "in support as before"
    assert only_hopes(removal_of(ANNA, taken=both[:1], given=given)) == {}


def test_a_pause_reason_that_goes_under_one_who_is_paused() -> None:
    paused = replace(ANNA, pause=PauseSegment("p", PauseReason("1", "lunch"), NOW))
    assert found(ANNA, reasons=["1"]) == found(paused, reasons=["2"]) == []
    assert found(paused, reasons=["1"]) == [
        "agent 4001 is paused for lunch, a reason which would be archived"
    ]


def test_a_queue_that_the_agent_is_not_in_does_not_count() -> None:
    left = agent("4001", "sales", left="support")
    assert found(left, taken=[("4001", "sales")]) == [
        "agent 4001 would be in no queue any more (now in sales)"
    ]


def test_one_who_has_left_all_queues_loses_none() -> None:
    assert found(agent("4001", left="sales"), taken=[("4001", "sales")]) == []


def test_a_queue_that_goes_under_those_who_are_in_it() -> None:
    taken = [("4001", "support")]
    assert found(ANNA, queues=["support"], taken=taken, given=[("4001", "helpdesk")]) == [
        "agent 4001 is in queue support, which would be archived"
    ]
    assert found(ANNA, queues=["billing"]) == []


def test_a_rule_that_goes_under_an_agent() -> None:
    before = [rule("10XX")]
    assert found(ANNA, before=before, after=[rule("20XX")]) == [
        "agent 4001 is logged in at extension 1001, which no device rule would match"
    ]
    assert found(ANNA, before=before, after=[rule("10XX", "SIP/{extension}")]) == [
        "agent 4001 is logged in at extension 1001 as PJSIP/1001, which would be SIP/1001"
    ]
    assert found(ANNA, before=before, after=[rule("1XXX")]) == []


def test_one_whom_no_rule_has_put_there_loses_none() -> None:
    assert found(ANNA, before=[rule("20XX")], after=[rule("30XX")]) == []
    assert found(ANNA, before=None, after=[]) == [], "nobody knows which rules there were"


def test_in_order_and_in_one_text() -> None:
    others = agent("999", "sales"), agent("4001", "sales")
    said = found(*others, queues=["sales"], taken=[("999", "sales")])
    assert [line.split()[1] for line in said] == ["999", "999", "4001", "4001"]
    error = NotConfirmed([Loss("1", "a"), Loss("", "b")])
    assert str(error) == "agent 1 a; b"
