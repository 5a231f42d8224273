"""What differs between the store and Asterisk, and what mends it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents.commands import (
    COMMANDS,
    AddToQueue,
    Adopt,
    Command,
    Facts,
    JoinQueue,
    LogIn,
    Seen,
    Unpause,
)
from fastagi.agents.devices import Device
from fastagi.agents.differences import (
    Kind,
    Owned,
    agrees,
    differences,
    number_in,
    owned,
    restored,
    seen,
    settlement,
    to_be_finished,
)
from fastagi.agents.errors import Refused
from fastagi.agents.model import AgentState, Change, LoginSession, OwnPause, PauseSegment, decide
from fastagi.agents.operations import (
    AddMember,
    Answer,
    MemberNews,
    Operation,
    PauseMember,
    RemoveMember,
    ReportedMember,
    SetPenalty,
)
from fastagi.contract import Source

from .memory import LUNCH, NOON, QUEUES, Member, an_agent, apply, device
from .test_model import any_facts, asterisk_as_meant, commands, states


def logged_in(
    number: str, *queues: str, paused: bool = False, at: Device | None = None
) -> AgentState:
    state = an_agent(number)
    return replace(
        state,
        session=LoginSession("s", at or device(number), NOON),
        memberships=tuple(replace(m, joined=m.queue in queues) for m in state.memberships),
        pause=PauseSegment("p", LUNCH, NOON) if paused else None,
    )


def reported(
    queue: str,
    interface: str = "PJSIP/1001",
    name: str = "Agent/1001",
    *,
    penalty: int | None = None,
    reason: str | None = None,
    dynamic: bool = True,
    asterisk: str = "",
) -> ReportedMember:
    return ReportedMember(
        queue,
        interface,
        interface,
        name,
        {"sales": 0, "support": 1, "billing": 2}[queue.lower()] if penalty is None else penalty,
        reason is not None,
        reason or "",
        False,
        dynamic,
        asterisk=asterisk,
    )


KNOWN = {name: (name, number) for name, number in QUEUES.items()}


def found(
    *members: ReportedMember, agents: Sequence[AgentState], asterisk: str = ""
) -> list[tuple[Kind, str, str, Operation]]:
    return [
        (d.kind, d.agent, d.queue, d.repair) for d in differences(agents, members, asterisk, KNOWN)
    ]


# -- whose members they are


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("Agent/1001", "1001"),
        ("Agent/", ""),
        ("Agent", ""),
        ("agent/1001", ""),
        ("", ""),
        ("Alice", ""),
        ("Agent/a b", "a b"),
    ],
)
def test_the_agent_in_a_member_s_name(name: str, number: str) -> None:
    assert number_in(name) == number


def test_an_agent_is_where_the_login_was() -> None:
    alice = logged_in("1001", "sales")
    here, there = reported("sales"), reported("sales", "PJSIP/1002")
    assert owned([alice], [there, here]) == {"1001": Owned((here,), (there,))}


def test_the_name_counts_for_nothing_where_an_agent_sits() -> None:
    """Somebody added the phone by hand, under any name."""
    alice = logged_in("1001", "sales")
    for name in ("Alice", "", "Agent/9999"):
        member = reported("sales", name=name)
        assert owned([alice], [member]) == {"1001": Owned((member,), ())}


def test_another_agent_s_name_on_a_phone_is_that_agent_elsewhere() -> None:
    alice, bob = logged_in("1001", "sales"), logged_in("1002", "sales")
    member = reported("sales", "PJSIP/1001", "Agent/1002")
    assert owned([alice, bob], [member]) == {"1002": Owned((), (member,))}
    # Nor is somebody logged in who is logged off, where another one sits.
    assert owned([alice, an_agent("1002")], [member]) == {"1002": Owned((), (member,))}


def test_who_is_logged_off_is_where_asterisk_has_the_first_member() -> None:
    first, second = reported("sales", "PJSIP/1005"), reported("support", "pjsip/1005")
    third = reported("billing", "PJSIP/1006")
    assert owned([an_agent("1001")], [first, second, third]) == {
        "1001": Owned((first, second), (third,))
    }


def test_two_who_are_logged_off_on_one_phone_are_not_both_there() -> None:
    one = reported("sales", "PJSIP/1005", "Agent/1001")
    other = reported("support", "PJSIP/1005", "Agent/1002")
    agents = [an_agent("1001"), an_agent("1002")]
    assert owned(agents, [one, other]) == {
        "1001": Owned((one,), ()),
        "1002": Owned((), (other,)),
    }


def test_nobody_s_members_are_left_out() -> None:
    agents = [logged_in("1001", "sales"), an_agent("1002")]
    strangers = [
        reported("sales", "PJSIP/1009", "Bob"),
        reported("sales", "PJSIP/1009", "Agent/9999"),
        reported("sales", "PJSIP/1009", ""),
    ]
    assert owned(agents, strangers) == {}
    assert found(*strangers, agents=[an_agent("1002")]) == []


def test_a_member_in_queues_conf_logs_nobody_in() -> None:
    static = reported("sales", dynamic=False)
    assert owned([an_agent("1001")], [static]) == {}
    assert owned([logged_in("1001")], [static]) == {"1001": Owned((static,), ())}


def test_a_phone_of_the_same_name_on_another_asterisk_is_another_phone() -> None:
    alice = logged_in("1001", "sales", at=device("1001", "north"))
    north = reported("sales", asterisk="north")
    south = reported("sales", asterisk="south")
    assert owned([alice], [north, south]) == {"1001": Owned((north,), (south,))}
    assert owned([alice], [reported("sales", name="x", asterisk="south")]) == {}


def test_letter_case_does_not_matter() -> None:
    alice = logged_in("1001", "sales")
    assert found(reported("SALES", "pjsip/1001"), agents=[alice]) == []
    assert agrees(alice, MemberNews(reported("Sales", "pJSIP/1001"), True))


# -- what differs


def test_what_asterisk_lost_is_put_back_as_it_was_meant() -> None:
    alice = logged_in("1001", "sales", "support", paused=True)
    add = AddMember(
        "support", "PJSIP/1001", "PJSIP/1001", "Agent/1001", 1, paused=True, reason="lunch"
    )
    assert found(reported("sales", reason="lunch"), agents=[alice, an_agent("1002")]) == [
        (Kind.MISSING, "1001", "support", add)
    ]
    assert restored(alice, "") == [replace(add, queue="sales", penalty=0), add]
    assert restored(alice, "north") == []
    assert restored(an_agent("1001"), "") == []


def test_each_difference_and_its_repair() -> None:
    alice = logged_in("1001", "sales", "support", paused=True)
    phone = "PJSIP/1001"
    assert found(
        reported("sales", reason="break"),
        reported("support", penalty=7),
        reported("billing"),
        reported("sales", "PJSIP/1002"),
        agents=[alice],
    ) == [
        (Kind.PAUSE, "1001", "sales", PauseMember(phone, True, "lunch", "sales")),
        (Kind.PAUSE, "1001", "support", PauseMember(phone, True, "lunch", "support")),
        (Kind.PENALTY, "1001", "support", SetPenalty("support", phone, 1)),
        (Kind.EXTRA, "1001", "billing", RemoveMember("billing", phone)),
        (Kind.ELSEWHERE, "1001", "sales", RemoveMember("sales", "PJSIP/1002")),
    ]


def test_a_difference_can_be_read() -> None:
    alice = logged_in("1001", "sales", "support", paused=True)
    members = [reported("sales"), reported("support", reason="lunch", penalty=3)]
    members.append(reported("billing"))
    said = [(d.kind.value, d.stored, d.reported) for d in differences([alice], members, "", KNOWN)]
    assert said == [
        ("pause", "paused: lunch", "not paused"),
        ("penalty", "1", "3"),
        ("extra", "at PJSIP/1001", "in the queue"),
    ]
    (lost,) = differences([logged_in("1001", "sales")], [], "", KNOWN)
    assert (lost.stored, lost.reported, lost.interface) == ("in the queue", "", "PJSIP/1001")
    (ghost,) = differences([an_agent("1001")], [reported("sales")], "", KNOWN)
    assert ghost.stored == "logged off"
    (nameless,) = differences(
        [logged_in("1001", "sales")], [reported("sales", reason="")], "", KNOWN
    )
    assert nameless.reported == "paused"


def test_a_reason_left_on_a_member_who_is_not_paused_is_none() -> None:
    """Asterisk keeps the last reason; it says nothing."""
    member = replace(reported("sales"), reason="lunch")
    alice = logged_in("1001", "sales")
    assert found(member, agents=[alice]) == []
    assert agrees(alice, MemberNews(member, True))


def test_what_is_a_queue_s_own_is_meant() -> None:
    alice = logged_in("1001", "sales", "support")
    alice = replace(
        alice,
        memberships=(
            replace(alice.memberships[0], own_penalty=7),
            replace(alice.memberships[1], own_pause=OwnPause(True, "no answer")),
            alice.memberships[2],
        ),
    )
    as_meant = (reported("sales", penalty=7), reported("support", reason="no answer"))
    assert found(*as_meant, agents=[alice]) == []
    assert [d[0] for d in found(reported("sales"), reported("support"), agents=[alice])] == [
        Kind.PENALTY,
        Kind.PAUSE,
    ]
    assert restored(alice, "") == [
        AddMember("sales", "PJSIP/1001", "PJSIP/1001", "Agent/1001", 7),
        AddMember("support", "PJSIP/1001", "PJSIP/1001", "Agent/1001", 1, True, "no answer"),
    ]


def test_who_is_on_another_asterisk_is_missed_on_none() -> None:
    alice = logged_in("1001", "sales", at=device("1001", "north"))
    assert found(agents=[alice], asterisk="south") == []
    assert found(reported("sales", asterisk="south"), agents=[alice], asterisk="south") == [
        (Kind.ELSEWHERE, "1001", "sales", RemoveMember("sales", "PJSIP/1001", "south"))
    ]
    ((kind, _, _, repair),) = found(agents=[alice], asterisk="north")
    assert kind is Kind.MISSING
    assert repair.asterisk == "north"


def test_what_stands_in_queues_conf_is_left_there() -> None:
    alice = logged_in("1001", "support")
    static = reported("sales", dynamic=False)
    assert found(static, reported("support"), agents=[alice]) == []
    elsewhere = reported("sales", "PJSIP/1002", dynamic=False)
    assert found(elsewhere, reported("support"), agents=[alice]) == []


def test_queues_that_the_store_does_not_have_are_not_looked_at() -> None:
    other = replace(reported("sales"), queue="reception")
    assert found(other, agents=[an_agent("1001")]) == []
    assert seen(an_agent("1001"), [other], KNOWN) == ()


# -- whether it is news


def test_our_own_doing_agrees() -> None:
    alice = logged_in("1001", "sales", paused=True)
    assert agrees(alice, MemberNews(reported("sales", reason="lunch"), True))
    assert agrees(alice, MemberNews(reported("support"), False))
    assert agrees(an_agent("1001"), MemberNews(reported("sales"), False))


@pytest.mark.parametrize(
    ("member", "present"),
    [
        (reported("sales"), True),
        (reported("sales", reason="break"), True),
        (reported("sales", reason="lunch", penalty=5), True),
        (reported("sales", reason="lunch"), False),
        (reported("support", reason="lunch"), True),
        (reported("sales", "PJSIP/1002", reason="lunch"), True),
        (reported("sales", reason="lunch", asterisk="north"), True),
    ],
)
def test_everything_else_does_not_agree(member: ReportedMember, present: bool) -> None:
    assert not agrees(logged_in("1001", "sales", paused=True), MemberNews(member, present))


def test_what_adoption_gets_to_know() -> None:
    alice = logged_in("1001", "sales")
    members = [
        reported("SALES", dynamic=False, penalty=3),  # it is in there by a login
        reported("support", dynamic=False),  # it is in there for ever
        reported("billing", reason="lunch"),
    ]
    assert seen(alice, members, KNOWN) == (
        Seen("sales", "701", 3, False, ""),
        Seen("billing", "703", 2, True, "lunch"),
    )


# -- whatever differs


@st.composite
def queues_of_asterisk(draw: st.DrawFn) -> dict[str, dict[str, Member]]:
    """Members by anybody, anywhere, of three agents and a stranger on three phones."""
    found: dict[str, dict[str, Member]] = {name: {} for name in QUEUES}
    for members in found.values():
        for phone in draw(st.sets(st.sampled_from(["1001", "1002", "1003"]))):
            reason = draw(st.sampled_from([None, "", "lunch", "no answer"]))
            name = draw(st.sampled_from(["Agent/1001", "Agent/1002", "Agent/1003", "stranger"]))
            members[f"pjsip/{phone}"] = Member(
                name,
                draw(st.sampled_from([f"PJSIP/{phone}", f"pjsip/{phone}"])),
                f"PJSIP/{phone}",
                draw(st.integers(0, 3)),
                reason is not None,
                reason or "",
            )
    return found


@st.composite
def three_agents(draw: st.DrawFn) -> list[AgentState]:
    """No two of them on one phone."""
    agents: list[AgentState] = []
    for number in ("1001", "1002", "1003"):
        state = replace(draw(states()), id=int(number), number=number)
        taken = {a.session.device.key for a in agents if a.session}
        if state.session and state.session.device.key in taken:
            state = an_agent(number)
        agents.append(state)
    return agents


def report(asterisk: dict[str, dict[str, Member]]) -> list[ReportedMember]:
    return [
        ReportedMember(
            queue,
            m.interface,
            m.state_interface,
            m.name,
            m.penalty,
            m.paused,
            m.reason,
            False,
            True,
        )
        for queue, members in asterisk.items()
        for m in members.values()
    ]


@given(three_agents(), queues_of_asterisk())
def test_repaired_nothing_differs(
    agents: list[AgentState], asterisk: dict[str, dict[str, Member]]
) -> None:
    """A member under another agent's name first has to go, so it takes two rounds at most."""
    for _ in range(2):
        left = differences(agents, report(asterisk), "", KNOWN)
        for difference in sorted(left, key=lambda d: not isinstance(d.repair, RemoveMember)):
            answer, message = apply(asterisk, difference.repair)
            assert answer in (Answer.DONE, Answer.ALREADY_SO), message
    assert differences(agents, report(asterisk), "", KNOWN) == []
    meant = {
        (m.queue, a.session.device.interface.lower()): (m.penalty_now, *a.pause_in(m))
        for a in agents
        if a.session
        for m in a.joined
    }
    for queue, members in asterisk.items():
        for phone, m in members.items():
            as_it_is = (m.penalty, m.paused, m.reason)
            assert meant.pop((queue, phone), as_it_is) == as_it_is
    assert meant == {}


@given(three_agents(), queues_of_asterisk())
def test_adopted_nothing_differs_but_who_is_elsewhere(
    agents: list[AgentState], asterisk: dict[str, dict[str, Member]]
) -> None:
    """Who takes an agent's place, or puts the agent into another, is seen when the agent is off."""
    for _ in range(len(agents) + 1):
        agents = adopted(agents, report(asterisk))
        sitting = [agent.session.device.key for agent in agents if agent.session]
        assert len(sitting) == len(set(sitting)), "two on one phone"
    left = differences(agents, report(asterisk), "", KNOWN)
    assert {difference.kind for difference in left} <= {Kind.ELSEWHERE}


def adopted(agents: list[AgentState], reported: list[ReportedMember]) -> list[AgentState]:
    its = owned(agents, reported)
    after: list[AgentState] = []
    for agent in agents:
        here = its[agent.number].here if agent.number in its else ()
        at = None
        if agent.session is None and here:
            extension = here[0].interface.partition("/")[2]
            at = replace(device(extension), interface=here[0].interface)
        command = Adopt(
            id="c",
            agent=agent.number,
            source=Source.ASTERISK,
            members=seen(agent, here, KNOWN),
            device=at,
        )
        change = decide(agent, command, NOON)
        assert isinstance(change, Change)
        after.append(change.after)
    return after


@given(three_agents(), queues_of_asterisk())
def test_where_nothing_differs_all_news_agree(
    agents: list[AgentState], asterisk: dict[str, dict[str, Member]]
) -> None:
    differ = {d.agent for d in differences(agents, report(asterisk), "", KNOWN)}
    its = owned(agents, report(asterisk))
    for agent in agents:
        if agent.number not in differ and agent.number in its:
            assert all(agrees(agent, MemberNews(member, True)) for member in its[agent.number].here)


# -- an intent that was not confirmed


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=COMMANDS)
def test_in_doubt_the_phone_does_not_ring(kind: type[Command]) -> None:
    assert to_be_finished(kind.__new__(kind)) is (
        kind not in (LogIn, JoinQueue, AddToQueue, Unpause)
    )


@given(states(), commands, any_facts)
def test_whatever_asterisk_has_seen_it_is_settled(
    state: AgentState, asked: Command, facts: Facts
) -> None:
    change = decide(state, asked, NOON, facts=facts)
    if isinstance(change, Refused):
        return
    meant = change.after if to_be_finished(asked) else change.before
    for stopped in range(len(change.steps) + 1):
        asterisk = asterisk_as_meant(state)
        for step in change.steps[:stopped]:
            apply(asterisk, step.do)
        for operation in settlement(change):
            apply(asterisk, operation)
        assert asterisk == asterisk_as_meant(meant)
        for operation in settlement(change):  # and once more, after a crash while settling
            apply(asterisk, operation)
        assert asterisk == asterisk_as_meant(meant)
