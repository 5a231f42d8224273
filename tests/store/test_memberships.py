"""What programs change of an agent's queues outlasts log-ins, crashes and reloads."""

from collections.abc import Callable
from typing import Any

import pytest

from fastagi.agents import errors
from fastagi.agents.commands import AddToQueue, AssignPenalty, Relog, RemoveFromQueue
from fastagi.agents.model import Membership
from fastagi.config.settings import Settings
from fastagi.contract import EventType, Source
from fastagi.store import PeeweeStore
from fastagi.store.connection import Connection

from .conftest import LATER, NOW, begin, done, log_in, log_off, pause, settings, unsettled

Opened = Callable[..., PeeweeStore]
Row = tuple[str, int, bool, str, bool]
COMMON: dict[str, Any] = {"agent": "1001", "source": Source.API}
REMOVED: Row = ("sales", 0, False, "api", True)
SUPPORT: Row = ("support", 2, False, "yaml", False)


def add() -> AddToQueue:
    return AddToQueue(id="add", queue="billing", number="703", penalty=4, **COMMON)


def remove() -> RemoveFromQueue:
    return RemoveFromQueue(id="remove", queue="sales", **COMMON)


def assign(penalty: int, id: str = "assign", queue: str = "sales") -> AssignPenalty:
    return AssignPenalty(id=id, queue=queue, penalty=penalty, **COMMON)


async def rows(store: PeeweeStore) -> list[Row]:
    """Queue, penalty, whether in it, whose, and whether archived."""

    def job(connection: Connection) -> list[Row]:
        found = connection.execute(
            "SELECT q.name, m.penalty, m.joined, m.origin, m.archived_at FROM memberships m"
            " JOIN queues q ON q.id = m.queue_id JOIN agents a ON a.id = m.agent_id"
            " WHERE a.number = '1001' ORDER BY q.id"
        ).fetchall()
        return [(row[0], row[1], bool(row[2]), row[3], row[4] is not None) for row in found]

    return await store.run(job, writes=False)


async def memberships(store: PeeweeStore) -> tuple[Membership, ...]:
    state = await store.agent("1001")
    assert state is not None
    return state.memberships


def yaml(material: bytes) -> Settings:
    """As if it was read from files: the same bytes are the same YAML."""
    found = settings()
    found._fingerprint_material = material
    return found


async def test_a_login_does_not_join_what_was_taken(store: PeeweeStore) -> None:
    await done(store, remove())
    assert await rows(store) == [REMOVED, SUPPORT]
    change = await done(store, log_in())
    assert len(change.steps) == 1
    assert await rows(store) == [REMOVED, ("support", 2, True, "yaml", False)]
    await done(store, log_off())
    assert await rows(store) == [REMOVED, SUPPORT]


async def test_nor_one_that_is_decided_again_after_a_crash(url: str, opened: Opened) -> None:
    store = opened(url)
    store.bring_in(settings())
    await done(store, remove())
    change = await begin(store, log_in(), LATER)
    await store.close()
    after = opened(url)
    assert await unsettled(after) == [change]
    await after.confirm(change)
    assert await rows(after) == [REMOVED, ("support", 2, True, "yaml", False)]


async def test_a_penalty_for_good(store: PeeweeStore) -> None:
    await done(store, assign(7))
    assert (await rows(store))[0] == ("sales", 7, False, "yaml", False)
    await done(store, log_in())
    change = await done(store, assign(3, "other"))
    assert [event.type for event in change.events] == [EventType.QUEUE_PENALTY]
    assert (await memberships(store))[0] == Membership("sales", "701", 3, True)
    await done(store, log_off())
    assert await rows(store) == [("sales", 3, False, "yaml", False), SUPPORT]


async def test_a_login_to_some_queues(store: PeeweeStore) -> None:
    await done(store, log_in(queues=("support",)))
    assert [m.joined for m in await memberships(store)] == [False, True]
    await done(store, log_off())
    await done(store, log_in(queues=()))
    assert [m.joined for m in await memberships(store)] == [False, False]
    await done(store, log_off())
    await done(store, log_in())
    assert [m.joined for m in await memberships(store)] == [True, True]


async def test_relog_is_an_intent_that_changes_nothing(store: PeeweeStore) -> None:
    with pytest.raises(errors.NotLoggedIn):
        await begin(store, Relog(id="nobody", **COMMON), NOW)
    await done(store, log_in())
    await done(store, pause())
    before = await store.agent("1001")
    change = await begin(store, Relog(id="relog", **COMMON), LATER)
    assert len(change.steps) == 2
    with pytest.raises(errors.InProgress):
        await begin(store, log_off(), LATER)
    assert await unsettled(store) == [change]
    await store.confirm(change)
    await store.confirm(change)
    assert await store.agent("1001") == before
    change = await begin(store, Relog(id="again", **COMMON), LATER)
    await store.withdraw(change, None)
    assert await store.agent("1001") == before
    assert await unsettled(store) == []


async def test_the_same_yaml_again_takes_nothing_back(url: str, opened: Opened) -> None:
    store = opened(url)
    store.bring_in(yaml(b"one"))
    for command in (remove(), assign(7, queue="support"), add()):
        await done(store, command)
    changed = [
        REMOVED,
        ("support", 7, False, "yaml", False),
        ("billing", 4, False, "api", False),
    ]
    assert await rows(store) == changed
    assert not store.bring_in(yaml(b"one"))
    assert await rows(store) == changed


async def test_another_yaml_says_what_it_says(url: str, opened: Opened) -> None:
    store = opened(url)
    store.bring_in(yaml(b"one"))
    await done(store, log_in())
    for command in (remove(), assign(7, queue="support"), add()):
        await done(store, command)
    difference = store.bring_in(yaml(b"two"))
    assert difference.queues == [
        "agent 1001: queue sales given, queue support: penalty 7 -> 2",
    ]
    assert difference.to_join == [("1001", "sales")]
    assert difference.to_set_penalty == [("1001", "support", 2)]
    # What a program added, and no YAML names, stays.
    assert await rows(store) == [
        ("sales", 0, False, "yaml", False),
        ("support", 2, True, "yaml", False),
        ("billing", 4, True, "api", False),
    ]
    assert await store.left_over() == ([], [])


async def test_who_is_logged_in_with_an_extension_whatever_its_interface(
    store: PeeweeStore,
) -> None:
    assert await store.agents_with_extension("1001", "") == []
    await done(store, log_in())
    (found,) = await store.agents_with_extension("1001", "")
    assert found == await store.agent("1001")
    assert await store.agents_with_extension("1001", "paris") == []
    assert await store.agents_with_extension("1002", "") == []
    await done(store, log_off())
    assert await store.agents_with_extension("1001", "") == []
