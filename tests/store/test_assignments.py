"""Which queues are an agent's, as other programs and the YAML want it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fastagi.agents import errors
from fastagi.agents.commands import AddToQueue, Adopt, Relog, RemoveFromQueue, Seen
from fastagi.agents.model import AgentState, Membership
from fastagi.contract import EventType, Source
from fastagi.store import PeeweeStore
from fastagi.store.connection import Connection

from .conftest import ACTOR, LATER, NOW, begin, done, log_in, log_off, pause, settings, unsettled

Opened = Callable[..., PeeweeStore]

COMMON: dict[str, Any] = {"agent": "1001", "source": Source.API, "actor": ACTOR}
SALES = Membership("sales", "701")
SUPPORT = Membership("support", "702", 2)
BILLING = Membership("billing", "703", 4)


def add(queue: str = "billing", number: str = "703", penalty: int = 4, id: str = "add") -> Any:
    return AddToQueue(id=id, queue=queue, number=number, penalty=penalty, **COMMON)


def remove(queue: str = "billing", id: str = "remove") -> Any:
    return RemoveFromQueue(id=id, queue=queue, **COMMON)


def relog(id: str = "relog") -> Any:
    return Relog(id=id, **COMMON)


def joined(*memberships: Membership) -> tuple[Membership, ...]:
    return tuple(replace(m, joined=True) for m in memberships)


async def there(store: PeeweeStore) -> AgentState:
    """As the tables have it, and as the service remembers it."""
    fresh = await store.run(lambda c: c.loaded_where("a.number = '1001'")[0].state, writes=False)
    assert await store.agent("1001") == fresh
    return fresh


async def row(store: PeeweeStore, queue: str = "billing") -> tuple[Any, ...] | None:
    def job(connection: Connection) -> tuple[Any, ...] | None:
        found = connection.execute(
            "SELECT m.penalty, m.joined, m.origin, m.archived_at, m.own_penalty, m.own_paused,"
            " m.own_reason FROM memberships m JOIN queues q ON q.id = m.queue_id"
            " JOIN agents a ON a.id = m.agent_id WHERE a.number = '1001' AND q.name = ?",
            (queue,),
        ).fetchone()
        if found is None:
            return None
        return (found[0], bool(found[1]), found[2], found[3] is None, *found[4:])

    return await store.run(job, writes=False)


def with_queues(*queues: Any) -> Any:
    return settings(agents=[{"number": "1001", "name": "Agent 0", "queues": list(queues)}])


def material(made: Any, fingerprint: bytes) -> Any:
    made._fingerprint_material = fingerprint
    return made


YAML = ("sales", {"name": "support", "penalty": 2})


async def test_given_and_taken_while_logged_off(store: PeeweeStore) -> None:
    change = await begin(store, add(), NOW)
    assert (change.steps, change.events) == ((), ())
    assert (await there(store)).memberships == (SALES, SUPPORT, BILLING)
    assert await row(store) == (4, False, "api", True, None, None, None)
    again = await begin(store, add(id="again"), NOW)
    assert not again.alters
    inside = await done(store, log_in())
    assert inside.after.joined == joined(SALES, SUPPORT, BILLING)
    await done(store, log_off())
    change = await begin(store, remove(), LATER)
    assert (change.steps, change.events) == ((), ())
    assert (await there(store)).memberships == (SALES, SUPPORT)
    penalty, is_in, _, live, *own = await row(store) or ()
    assert (penalty, is_in, live, own) == (4, False, False, [None, None, None])
    with pytest.raises(errors.NotAMember):
        await begin(store, remove(id="again"), LATER)
    # Back, with another penalty.
    await begin(store, add(penalty=1), LATER)
    assert (await there(store)).memberships == (SALES, SUPPORT, replace(BILLING, penalty=1))
    assert await row(store) == (1, False, "api", True, None, None, None)


async def test_given_and_taken_while_logged_in(store: PeeweeStore) -> None:
    await done(store, log_in())
    await done(store, pause())
    change = await begin(store, add(), NOW)
    assert [(step.do.queue, step.do.paused) for step in change.steps] == [  # type: ignore[union-attr]
        ("billing", True)
    ]
    assert (await there(store)).memberships == joined(SALES, SUPPORT)  # Asterisk was not told yet
    await store.confirm(change)
    await store.confirm(change)
    assert (await there(store)).memberships == joined(SALES, SUPPORT, BILLING)
    assert (await there(store)).pause is not None
    taken = await begin(store, remove(), LATER)
    assert len(taken.steps) == 1
    await store.confirm(taken)
    assert (await there(store)).memberships == joined(SALES, SUPPORT)
    assert [event.type for event in (*change.events, *taken.events)] == [
        EventType.QUEUE_JOIN,
        EventType.QUEUE_LEAVE,
    ]
    assert await store.left_over() == ([], [])
    await done(store, log_off())
    assert len((await done(store, log_in())).steps) == 2


async def test_what_asterisk_refuses_is_not_stored(store: PeeweeStore) -> None:
    await done(store, log_in())
    before = await there(store)
    for command in (add(), remove("sales"), relog()):
        change = await begin(store, command, NOW)
        await store.withdraw(change, None)
        assert await there(store) == before
        assert await unsettled(store) == []
    assert await row(store) is None


async def test_the_last_queue_is_taken(store: PeeweeStore) -> None:
    await done(store, log_in())
    for queue in ("sales", "support"):
        await done(store, remove(queue, id=f"take-{queue}"))
    state = await there(store)
    assert (state.memberships, state.session is not None) == ((), True)
    await done(store, log_off())
    await begin(store, add(), NOW)
    assert (await there(store)).memberships == (BILLING,)


async def test_taken_with_what_was_its_own(store: PeeweeStore) -> None:
    await done(store, log_in())
    members = (Seen("sales", "701", 9, True, "audit"), Seen("support", "702", 2, False, ""))
    adopt = Adopt(
        id="seen", agent="1001", source=Source.ASTERISK, actor=ACTOR, members=members, reasons=()
    )
    await begin(store, adopt, NOW)
    assert (await there(store)).memberships[0].own_penalty == 9
    await done(store, remove("sales"))
    assert (await row(store, "sales") or ())[4:] == (None, None, None)
    await done(store, add("sales", "701", 0))
    assert joined(SALES)[0] in (await there(store)).memberships


# -- a crash in between


@pytest.mark.parametrize("command", [add(), remove("sales"), relog()], ids=["add", "take", "relog"])
async def test_left_open_it_is_the_same_change_again(
    url: str, opened: Opened, command: Any
) -> None:
    store = opened(url)
    store.bring_in(settings())
    await done(store, log_in())
    change = await begin(store, command, NOW)
    assert change.steps
    with pytest.raises(errors.InProgress):
        await begin(store, log_off(), NOW)
    await store.close()
    after = opened(url)
    (found,) = await unsettled(after)
    assert (found.command, found.steps, found.events) == (
        command,
        change.steps,
        change.events,
    )
    await after.confirm(found)
    assert await unsettled(after) == []
    assert (await there(after)).memberships == change.after.memberships
    await done(after, log_off())


async def test_given_back_and_left_open(url: str, opened: Opened) -> None:
    """The row of before, which is archived, is none of the agent's queues."""
    store = opened(url)
    store.bring_in(settings())
    await begin(store, add(id="a"), NOW)
    await begin(store, remove(id="b"), NOW)
    await done(store, log_in())
    change = await begin(store, add(id="c", penalty=1), NOW)
    await store.close()
    after = opened(url)
    (found,) = await unsettled(after)
    assert (found.steps, found.events) == (change.steps, change.events)
    await after.confirm(found)
    assert joined(replace(BILLING, penalty=1))[0] in (await there(after)).memberships


async def test_the_yaml_gives_it_while_asterisk_is_being_told(url: str, opened: Opened) -> None:
    store = opened(url)
    store.bring_in(settings())
    await done(store, log_in())
    await begin(store, add(penalty=2), NOW)
    store.bring_in(with_queues(*YAML, {"name": "billing", "penalty": 2}))
    await store.close()
    after = opened(url)
    (found,) = await unsettled(after)
    assert len(found.steps) == 1
    await after.confirm(found)
    assert await unsettled(after) == []
    assert joined(replace(BILLING, penalty=2))[0] in (await there(after)).memberships


async def test_the_yaml_takes_it_while_asterisk_is_being_told(url: str, opened: Opened) -> None:
    store = opened(url)
    store.bring_in(settings())
    await done(store, log_in())
    change = await begin(store, remove("sales"), NOW)
    store.bring_in(with_queues({"name": "support", "penalty": 2}))
    await store.close()
    after = opened(url)
    (found,) = await unsettled(after)
    assert (found.steps, found.events) == (change.steps, change.events)
    await after.confirm(found)
    assert (await there(after)).memberships == joined(SUPPORT)
    assert await after.left_over() == ([], [])


# -- beside the YAML


async def test_the_yaml_does_not_take_what_a_program_gave(store: PeeweeStore) -> None:
    await begin(store, add(), NOW)
    await done(store, log_in())
    difference = store.bring_in(with_queues("sales"))
    assert difference.to_leave == [("1001", "support")]
    assert [m.queue for m in (await there(store)).memberships] == ["sales", "support", "billing"]
    assert await store.left_over() == ([], [("1001", "support")])
    assert (await row(store) or ())[2:4] == ("api", True)


async def test_what_a_program_took_comes_back_with_a_changed_yaml_alone(
    store: PeeweeStore,
) -> None:
    store.bring_in(material(settings(), b"first"))
    await done(store, log_in())
    await done(store, remove("support"))
    # Read again as it was: at each start, and when somebody touched the file.
    assert not store.bring_in(material(settings(), b"first"))
    assert (await there(store)).memberships == joined(SALES)
    assert await store.left_over() == ([], [])
    changed = with_queues("sales", {"name": "support", "penalty": 3})
    difference = store.bring_in(material(changed, b"second"))
    assert difference.to_join == [("1001", "support")]
    assert [m.queue for m in (await there(store)).memberships] == ["sales", "support"]


async def test_what_a_program_gave_may_be_written_into_the_yaml(store: PeeweeStore) -> None:
    await begin(store, add(), NOW)
    difference = store.bring_in(with_queues(*YAML, {"name": "billing", "penalty": 4}))
    assert difference.queues == ["agent 1001: queue billing is in the YAML now"]
    store.bring_in(with_queues(*YAML))
    assert (await there(store)).memberships == (SALES, SUPPORT)


# -- by id


async def test_agents_and_queues_by_id(store: PeeweeStore) -> None:
    state = await store.agent("1002")
    assert state is not None
    for _ in range(2):
        assert await store.agent_by_id(state.id) == state
        assert await store.queue_by_id(3) == ("billing", "703")
        assert await store.agent_by_id(999) is None
        assert await store.queue_by_id(999) is None
    inside = await done(store, log_in("1002", "2002"))
    assert await store.agent_by_id(state.id) == inside.after
    # Archived, and another agent under an id that was somebody's.
    store.bring_in(
        settings(
            queues=[{"number": "701", "name": "sales"}],
            agents=[{"number": "1001", "name": "A", "id": state.id, "queues": []}],
        )
    )
    moved = await store.agent_by_id(state.id)
    assert moved is not None
    assert moved.number == "1001"
    assert await store.agent_by_id(1) is None
    assert await store.queue_by_id(3) is None
    assert await store.queue_by_id(1) == ("sales", "701")


async def test_by_id_what_another_process_has_changed(url: str, opened: Opened) -> None:
    store, other = opened(url), opened(url)
    store.bring_in(settings())
    assert (await store.agent_by_id(1)) == await store.agent("1001")
    assert await store.queue_by_id(1) == ("sales", "701")
    other.bring_in(
        settings(
            queues=[{"number": "709", "name": "sales"}, {"number": "702", "name": "support"}],
            agents=[{"number": "1003", "name": "C", "id": 1, "queues": []}],
        )
    )
    await store.set_note("anything", "at all")  # the next transaction sees it
    found = await store.agent_by_id(1)
    assert found is not None
    assert found.number == "1003"
    assert await store.queue_by_id(1) == ("sales", "709")


async def test_a_queue_is_given_that_somebody_has_put_the_agent_into(store: PeeweeStore) -> None:
    """In Asterisk itself: nothing is to be told there, and the queue is the agent's from now on."""
    await done(store, log_in())
    members = tuple(
        Seen(m.queue, m.number, m.penalty, False, "") for m in (SALES, SUPPORT, BILLING)
    )
    adopt = Adopt(
        id="seen", agent="1001", source=Source.ASTERISK, actor=ACTOR, members=members, reasons=()
    )
    await begin(store, adopt, NOW)
    assert (await row(store) or ())[2:4] == ("asterisk", False)
    change = await begin(store, add(penalty=1), NOW)
    assert (change.steps, change.events) == ((), ())
    assert (await row(store) or ())[:4] == (4, True, "api", True)
    await done(store, log_off())
    assert (await there(store)).memberships == (SALES, SUPPORT, BILLING)


async def test_a_queue_is_given_that_the_yaml_is_taking(store: PeeweeStore) -> None:
    """The agent is in it still, and stays."""
    await done(store, log_in())
    store.bring_in(with_queues("sales"))
    assert await store.left_over() == ([], [("1001", "support")])
    assert not (await begin(store, add("support", "702", 2), NOW)).steps
    assert await store.left_over() == ([], [])
    await done(store, log_off())
    assert (await there(store)).memberships == (SALES, SUPPORT)
    store.bring_in(with_queues("sales"))
    assert (await there(store)).memberships == (SALES, SUPPORT)
