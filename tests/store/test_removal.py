"""What bringing a configuration in would take away is known before it is."""

from typing import Any

import pytest

from fastagi.agents.protection import NotConfirmed, Removal, losses
from fastagi.store import PeeweeStore, Reading

from .conftest import NOW, begin, done, log_in, settings
from .test_directory import agent, by_api

TWO = [agent("1001", "sales", "support"), agent("1002", "sales")]


def refuse(removal: Removal) -> None:
    raise NotConfirmed(losses(removal))


def removed(store: PeeweeStore, declared: Any) -> Removal:
    """Nothing is changed by asking."""
    seen: list[Removal] = []

    def allow(removal: Removal) -> None:
        seen.append(removal)
        raise NotConfirmed([])

    with pytest.raises(NotConfirmed):
        store.bring_in(declared, allow)
    return seen[0]


async def test_what_is_refused_changes_nothing(store: PeeweeStore) -> None:
    await done(store, log_in("1001"))
    with pytest.raises(NotConfirmed) as caught:
        store.bring_in(settings(agents=[]), refuse)
    assert [str(loss) for loss in caught.value.losses] == [
        "agent 1001 is logged in, and would be archived",
        "3 of 3 agents would be archived: 1001, 1002, 1003",
    ]
    assert await store.agent("1002") is not None
    assert await store.left_over() == ([], [])
    assert not store.bring_in(settings()), "as it was"


async def test_one_whose_login_has_begun_counts_as_logged_in(store: PeeweeStore) -> None:
    await begin(store, log_in("1002", "2002"), NOW)
    assert removed(store, settings(1)).logged_off == ("1002",)


async def test_one_who_is_not_enabled_is_archived(store: PeeweeStore) -> None:
    await done(store, log_in("1001"))
    declared = settings(agents=[agent("1001", enabled=False), agent("1002"), agent("1003")])
    removal = removed(store, declared)
    assert (removal.agents, removal.archived, removal.logged_off) == (3, ("1001",), ("1001",))


async def test_queues_taken_given_and_gone(store: PeeweeStore) -> None:
    await done(store, log_in("1001"))
    queues = [{"number": "701", "name": "sales"}, {"number": "704", "name": "returns"}]
    agents = [agent("1001", "sales", "returns"), agent("1002"), agent("1003")]
    removal = removed(store, settings(queues=queues, agents=agents))
    assert removal.queues == {"support", "billing"}
    assert removal.taken == {("1001", "support")}
    assert removal.given == {("1001", "returns")}
    assert [state.number for state in removal.logged_in] == ["1001"]
    assert removal.archived == ()


async def test_pause_reasons_that_go(store: PeeweeStore) -> None:
    assert removed(store, settings()).reasons == frozenset()
    assert removed(store, settings(pause_reasons=[{"code": "1", "name": "b"}])).reasons == {
        "2",
        "10",
    }


async def test_what_a_program_created_is_not_taken_away(store: PeeweeStore) -> None:
    await store.run(by_api)
    removal = removed(store, settings())
    assert (removal.agents, removal.archived, removal.queues) == (4, (), frozenset())


async def test_from_outside_it_is_the_same(store: PeeweeStore, url: str) -> None:
    await done(store, log_in("1001"))
    declared = settings(agents=TWO[1:])
    views = Reading(url)
    try:
        assert views.removal(declared) == removed(store, declared)
    finally:
        views.close()
