"""What somebody did in Asterisk itself is stored as decided, and lasts as long as it must."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fastagi.agents import errors
from fastagi.agents.commands import (
    Adopt,
    ChangePenalty,
    LeaveQueue,
    LogOff,
    Pause,
    PauseReason,
    Seen,
    Unpause,
    WhenInCall,
)
from fastagi.agents.devices import Device
from fastagi.agents.model import Change, Membership, OwnPause
from fastagi.contract import EventType, Outcome, Sink, Source
from fastagi.store import PeeweeStore, Reading
from fastagi.store.connection import Connection

from .conftest import (
    ACTOR,
    IN_CALL,
    LATER,
    LUNCH,
    NOW,
    begin,
    device,
    done,
    log_in,
    log_off,
    pause,
    pauses,
    settings,
    unsettled,
)

Opened = Callable[..., PeeweeStore]

SALES = Seen("sales", "701", 0, False, "")
SUPPORT = Seen("support", "702", 2, False, "")


@pytest.fixture
def store(url: str, opened: Opened) -> PeeweeStore:
    store = opened(url)
    store.bring_in(with_billing())
    return store


def with_billing(**more: Any) -> Any:
    """The small call centre; nobody's queue is billing."""
    return settings(
        **{
            "queues": [
                {"number": "701", "name": "sales"},
                {"number": "702", "name": "support"},
                {"number": "703", "name": "billing"},
            ],
            **more,
        }
    )


def adopt(*members: Seen, agent: str = "1001", id: str = "seen", **more: Any) -> Adopt:
    return Adopt(
        id=id, agent=agent, source=Source.ASTERISK, actor=ACTOR, members=members,
        reasons=(LUNCH,), **more,
    )  # fmt: skip


async def fresh(store: PeeweeStore, number: str = "1001") -> Any:
    return await store.run(
        lambda connection: connection.loaded_where("a.number = ?", (number,))[0].state, writes=False
    )


async def seen_as(store: PeeweeStore, *members: Seen, **more: Any) -> Change:
    """Adopted; and what is read back says the same, from memory and from the tables."""
    change = await begin(store, adopt(*members, **more), LATER)
    assert change.steps == ()
    for state in (await store.agent("1001"), await fresh(store)):
        assert state is not None
        assert (state.session, state.pause) == (change.after.session, change.after.pause)
        assert {m for m in state.memberships if m.joined} == set(change.after.joined)
    return change


async def rows(store: PeeweeStore) -> dict[str, tuple[Any, ...]]:
    def job(connection: Connection) -> dict[str, tuple[Any, ...]]:
        found = connection.execute(
            "SELECT q.name, m.penalty, m.joined, m.origin, m.archived_at IS NOT NULL,"
            " m.own_penalty, m.own_paused, m.own_reason FROM memberships m"
            " JOIN queues q ON q.id = m.queue_id JOIN agents a ON a.id = m.agent_id"
            " WHERE a.number = '1001'"
        ).fetchall()
        return {
            row[0]: (row[1], bool(row[2]), row[3], bool(row[4]), row[5],
                     None if row[6] is None else bool(row[6]), row[7])
            for row in found
        }  # fmt: skip

    return await store.run(job, writes=False)


async def test_a_penalty_and_a_pause_of_ones_own_last_until_the_queue_is_left(
    store: PeeweeStore,
) -> None:
    await done(store, log_in())
    change = await seen_as(
        store, replace(SALES, penalty=5), replace(SUPPORT, paused=True, reason="Auto-Pause")
    )
    assert {e.type for e in change.events} == {EventType.PAUSE, EventType.QUEUE_PENALTY}
    assert (await fresh(store)).memberships == (
        Membership("sales", "701", 0, True, own_penalty=5),
        Membership("support", "702", 2, True, own_pause=OwnPause(True, "Auto-Pause")),
    )
    await done(store, log_off())
    assert await rows(store) == {
        "sales": (0, False, "yaml", False, None, None, None),
        "support": (2, False, "yaml", False, None, None, None),
    }
    again = await done(store, log_in())
    assert again.after.memberships == (
        Membership("sales", "701", 0, True),
        Membership("support", "702", 2, True),
    )


async def test_back_as_it_should_be_nothing_is_its_own(store: PeeweeStore) -> None:
    await done(store, log_in())
    await seen_as(store, replace(SALES, penalty=5), replace(SUPPORT, paused=True), id="a")
    await seen_as(store, SALES, SUPPORT, id="b")
    assert (await rows(store))["sales"][4:] == (None, None, None)
    assert (await rows(store))["support"][4:] == (None, None, None)


async def test_an_own_pause_that_says_not_paused(store: PeeweeStore) -> None:
    await done(store, log_in())
    await done(store, pause())
    await seen_as(store, SALES, replace(SUPPORT, paused=True, reason="lunch"))
    state = await store.agent("1001")
    assert state is not None
    assert state.pause is not None
    assert state.memberships[0].own_pause == OwnPause(False)
    off = await done(store, Unpause(id="u", agent="1001", source=Source.PHONE))
    assert await fresh(store) == off.after
    assert off.after.pause is None
    assert off.after.memberships[0].own_pause is None


async def test_a_pause_that_ends_without_an_event_of_its_own(store: PeeweeStore, url: str) -> None:
    """In each queue it had ended before; in general it ends when nobody is left who is in it."""
    await done(store, log_in())
    await done(store, pause())
    await seen_as(store, SALES, replace(SUPPORT, paused=True, reason="lunch"), id="a")
    await done(store, leave("support"))
    change = await seen_as(store, SALES, id="b")
    assert (change.events, change.after.pause) == ((), None)
    views = Reading(url)
    (segment,) = pauses(views)
    assert (segment.ended_at, segment.ended_how, segment.ended_source) == (
        LATER,
        "unpaused",
        Source.ASTERISK,
    )
    views.close()


def leave(queue: str) -> LeaveQueue:
    return LeaveQueue(id=f"leave-{queue}", agent="1001", source=Source.PHONE, queue=queue)


async def test_put_into_a_queue_that_is_none_of_the_agents(store: PeeweeStore) -> None:
    await done(store, log_in())
    billing = Seen("billing", "703", 7, True, "audit")
    change = await seen_as(store, SALES, SUPPORT, billing)
    assert [(e.type, e.queues) for e in change.events] == [
        (EventType.QUEUE_JOIN, ("billing",)),
        (EventType.PAUSE, ("billing",)),
    ]
    assert (await rows(store))["billing"] == (7, True, "asterisk", True, None, True, "audit")
    # The configuration takes nobody out whom it did not put in …
    assert await store.left_over() == ([], [])
    difference = store.bring_in(with_billing())
    assert not difference
    assert difference.to_leave == []
    assert (await store.agent("1001")) == await fresh(store)
    # … and a log-off is one from there too.
    off = await begin(store, log_off(), LATER)
    assert len(off.steps) == 3
    await store.confirm(off)
    assert (await rows(store))["billing"] == (7, False, "asterisk", True, None, None, None)
    back = await done(store, log_in())
    assert [m.queue for m in back.after.memberships] == ["sales", "support"]
    # Once more: the row is there already.
    await seen_as(store, SALES, SUPPORT, replace(billing, penalty=1, paused=False), id="b")
    assert (await rows(store))["billing"] == (1, True, "asterisk", True, None, None, None)


async def test_the_configuration_names_a_queue_that_was_adopted(store: PeeweeStore) -> None:
    await done(store, log_in())
    await seen_as(store, SALES, SUPPORT, Seen("billing", "703", 7, False, ""))
    queues = ["sales", {"name": "support", "penalty": 2}, {"name": "billing", "penalty": 3}]
    difference = store.bring_in(
        with_billing(agents=[{"number": "1001", "name": "A", "queues": queues}])
    )
    assert difference.queues == [
        "agent 1001: queue billing is in the YAML now, queue billing: penalty 7 -> 3"
    ]
    assert difference.to_set_penalty == [("1001", "billing", 3)]
    assert difference.to_join == difference.to_leave == []
    assert (await rows(store))["billing"] == (3, True, "yaml", False, 7, None, None)
    # And takes it away again like any other of its own.
    difference = store.bring_in(with_billing())
    assert difference.to_leave == [("1001", "billing")]
    assert await store.left_over() == ([], [("1001", "billing")])


async def test_put_back_into_a_queue_that_the_configuration_took_away(store: PeeweeStore) -> None:
    store.bring_in(
        with_billing(agents=[{"number": "1001", "name": "Agent 0", "queues": ["sales"]}])
    )
    await done(store, log_in())
    change = await seen_as(store, SALES, SUPPORT)
    assert change.after.memberships[1] == Membership("support", "702", 2, True)
    assert (await rows(store))["support"][:4] == (2, True, "asterisk", True)
    assert await store.left_over() == ([], [])


async def test_a_new_penalty_in_the_configuration_ends_one_of_its_own(store: PeeweeStore) -> None:
    await done(store, log_in())
    await seen_as(store, replace(SALES, penalty=5), SUPPORT)
    difference = store.bring_in(
        with_billing(
            agents=[
                {
                    "number": "1001",
                    "name": "Agent 0",
                    "queues": [{"name": "sales", "penalty": 9}, {"name": "support", "penalty": 2}],
                }
            ]
        )
    )
    assert difference.to_set_penalty == [("1001", "sales", 9)]
    # Until Asterisk is told, it has the one of before.
    assert (await fresh(store)).memberships[0] == Membership("sales", "701", 9, True, 5)
    tell = ChangePenalty(
        id="p", agent="1001", source=Source.SYSTEM, actor=ACTOR, queue="sales", penalty=9
    )
    change = await done(store, tell)
    assert [(e.type, e.reason) for e in change.events] == [(EventType.QUEUE_PENALTY, "9")]
    assert (await fresh(store)).memberships[0] == Membership("sales", "701", 9, True)


async def test_put_into_queues_without_a_login(store: PeeweeStore) -> None:
    seat = replace(device("2002"), asterisk="two")
    change = await seen_as(store, SALES, device=seat)
    assert [e.type for e in change.events] == [EventType.LOGIN]
    assert change.events[0].asterisk == "two"
    state = await store.agent_at("two|pjsip/2002")
    assert state is not None
    assert state.session is not None
    assert state.session.device == seat
    assert await store.agent_at("pjsip/2002") is None
    owed = await store.deliveries.due(LATER, 10, Sink.LAMP)
    assert [d.event for d in owed] == list(change.events)
    gone = await seen_as(store, id="gone")
    assert [(e.type, e.reason) for e in gone.events] == [(EventType.LOGOUT, "removed")]
    assert await store.agent_at("two|pjsip/2002") is None
    assert await begin(store, log_in("1002", "2002"), LATER) is not None


async def test_a_device_that_is_another_agents_is_not_adopted(store: PeeweeStore) -> None:
    await done(store, log_in("1002", "2002"))
    with pytest.raises(errors.ExtensionInUse) as refusal:
        await begin(store, adopt(SALES, device=device("2002")), LATER)
    assert refusal.value.occupant == "1002"
    assert await fresh(store) == await store.agent("1001")
    assert await store.logged_in() == [await store.agent("1002")]
    # On another Asterisk an extension of the same name is another phone.
    other = replace(device("2002"), asterisk="two")
    await seen_as(store, SALES, device=other)


async def test_archived_agents_are_adopted_as_long_as_they_are_in(store: PeeweeStore) -> None:
    await done(store, log_in())
    store.bring_in(with_billing(agents=[]))
    assert (await store.states(["1001", "1002"])).keys() == {"1001"}
    async with store.hold(["1001", "1002"]) as states:
        assert states.keys() == {"1001"}
    change = await begin(store, adopt(replace(SALES, penalty=4), SUPPORT), LATER)
    assert change.after.memberships[0].own_penalty == 4
    await begin(store, adopt(id="gone"), LATER)
    with pytest.raises(errors.NoSuchAgent):
        await begin(store, adopt(SALES, device=device(), id="back"), LATER)


async def test_of_what_is_applied_already_only_the_store_learns_and_once(
    store: PeeweeStore,
) -> None:
    await done(store, log_in())
    noted: Any = Pause(id="note-1", agent="1001", source=Source.PHONE, reason=LUNCH)
    change = await begin(store, noted, NOW, applied=True)
    assert change.steps == ()
    assert change.after.pause is not None
    assert await fresh(store) == change.after
    assert await unsettled(store) == []
    again = await begin(store, noted, NOW, applied=True)
    assert not again.alters
    assert again.outcome is Outcome.ALREADY_PAUSED
    gone: Any = LogOff(id="note-2", agent="1001", source=Source.PHONE)
    await begin(store, gone, NOW, applied=True)
    assert await store.agent_at("pjsip/1001") is None
    again = await begin(store, gone, NOW, applied=True)  # not even "not logged in"
    assert not again.alters
    owed = await store.deliveries.due(LATER, 10, Sink.USER_EVENT)
    assert [d.event.id for d in owed][1:] == ["note-1-1", "note-2-1"]
    with pytest.raises(errors.NotLoggedIn):
        await begin(store, replace(gone, id="note-3"), NOW, applied=True)


async def test_a_pause_waits_for_the_end_of_the_call(store: PeeweeStore, url: str) -> None:
    await done(store, log_in())
    later = replace(pause(), when_in_call=WhenInCall.AFTER_CALL)
    change = await done(store, later, facts=IN_CALL)
    assert await store.planned() == [later]
    assert await fresh(store) == change.after
    views = Reading(url)
    assert views.agents()[0].planned == "pause"
    await done(store, Unpause(id="u", agent="1001", source=Source.PHONE))
    assert views.agents()[0].planned == ""
    views.close()
    assert await store.planned() == []


async def test_a_plan_that_nobody_understands_shuts_nobody_out(store: PeeweeStore) -> None:
    await done(store, log_in())

    def garble(connection: Connection) -> None:
        connection.execute("UPDATE login_sessions SET planned = ?", ('{"kind": "Fly"}',))
        connection.forget()

    await store.run(garble)
    assert await store.planned() == []
    await done(store, log_off())


async def test_two_asterisks_with_one_extension(store: PeeweeStore) -> None:
    here, there = (replace(device(), asterisk=name) for name in ("one", "two"))
    await done(store, replace(log_in("1001"), device=here))
    await done(store, replace(log_in("1002"), device=there))
    both = await store.agents_at([here.key, there.key, "pjsip/none"])
    assert {key: state.number for key, state in both.items()} == {
        "one|pjsip/1001": "1001",
        "two|pjsip/1001": "1002",
    }
    with pytest.raises(errors.ExtensionInUse):
        await begin(store, replace(log_in("1003"), device=there), NOW)
    # Moving to the same extension of the other Asterisk lets go of the first.
    third = Device("1001", "phones", "PJSIP/1001", "PJSIP/1001", "local", "three")
    moved = await done(store, replace(log_in("1001", move=True), device=third))
    assert moved.outcome is Outcome.MOVED
    assert await store.agents_at([here.key]) == {}
    assert await fresh(store) == moved.after
    begun = await begin(store, replace(log_in("1003"), device=here), NOW)
    await store.withdraw(begun, None)
    await done(store, replace(log_in("1003"), device=here))


async def test_reasons_of_no_configuration(store: PeeweeStore) -> None:
    await done(store, log_in())
    change = await seen_as(
        store,
        replace(SALES, paused=True, reason="fire drill"),
        replace(SUPPORT, paused=True, reason="fire drill"),
    )
    assert change.after.pause is not None
    assert change.after.pause.reason == PauseReason("", "fire drill")
    assert await fresh(store) == change.after
