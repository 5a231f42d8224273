from dataclasses import replace

import pytest
from hypothesis import given

from fastagi.agents.commands import COMMANDS, Command, JoinQueue, LogIn, Unpause
from fastagi.agents.errors import Refused
from fastagi.agents.model import AgentState, LoginSession, PauseSegment, decide
from fastagi.agents.operations import AddMember, ReportedMember
from fastagi.agents.reconcile import restored, settlement, to_be_finished

from .memory import LUNCH, NOON, an_agent, apply, device
from .test_model import asterisk_as_meant, commands, states


def logged_in(number: str, *queues: str, paused: bool = False) -> AgentState:
    state = an_agent(number)
    return replace(
        state,
        session=LoginSession("s", device(number), NOON),
        memberships=tuple(replace(m, joined=m.queue in queues) for m in state.memberships),
        pause=PauseSegment("p", LUNCH, NOON) if paused else None,
    )


def reported(queue: str, interface: str) -> ReportedMember:
    return ReportedMember(queue, interface, interface, "x", 0, False, "", False, True)


def test_what_asterisk_lost_is_put_back_as_it_was_meant() -> None:
    alice = logged_in("1001", "sales", "support", paused=True)
    assert restored([alice, an_agent("1002")], [reported("SALES", "pjsip/1001")]) == [
        (
            alice,
            AddMember(
                "support", "PJSIP/1001", "PJSIP/1001", "Agent/1001", 1, paused=True, reason="lunch"
            ),
        )
    ]


def test_a_stranger_s_membership_is_nobody_else_s() -> None:
    alice = logged_in("1001", "sales")
    assert len(restored([alice], [reported("sales", "PJSIP/1002")])) == 1
    assert len(restored([alice], [reported("support", "PJSIP/1001")])) == 1
    assert restored([alice], [reported("sales", "PJSIP/1001")]) == []


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=COMMANDS)
def test_in_doubt_the_phone_does_not_ring(kind: type[Command]) -> None:
    assert to_be_finished(kind.__new__(kind)) is (kind not in (LogIn, JoinQueue, Unpause))


@given(states(), commands)
def test_whatever_asterisk_has_seen_it_is_settled(state: AgentState, asked: Command) -> None:
    change = decide(state, asked, NOON)
    if isinstance(change, Refused):
        return
    meant = change.after if to_be_finished(asked) else change.before
    for seen in range(len(change.steps) + 1):
        asterisk = asterisk_as_meant(state)
        for step in change.steps[:seen]:
            apply(asterisk, step.do)
        for operation in settlement(change):
            apply(asterisk, operation)
        assert asterisk == asterisk_as_meant(meant)
        for operation in settlement(change):  # and once more, after a crash while settling
            apply(asterisk, operation)
        assert asterisk == asterisk_as_meant(meant)
