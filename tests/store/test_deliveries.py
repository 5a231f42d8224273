"""What is owed to whom, in which order."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from fastagi.agents.events import SINKS, Event
from fastagi.contract import EventType, Sink, Source
from fastagi.store import PeeweeStore
from fastagi.store.deliveries import LEASE

from .conftest import ACTOR, NOW

Opened = Callable[..., PeeweeStore]


def event(id: str, agent: str = "1001") -> Event:
    return Event(id, EventType.LOGIN, agent, "1001", ("sales",), "", Source.PHONE, ACTOR, NOW)


async def owed(store: PeeweeStore, seconds: float = 0, sink: Sink = Sink.LAMP) -> list[str]:
    due = await store.deliveries.due(NOW + timedelta(seconds=seconds), 100, sink)
    return [delivery.event.id for delivery in due]


async def test_every_sink_gets_every_event_once_and_in_order(store: PeeweeStore) -> None:
    for n in range(20):
        await store.record(event(f"e{n}", str(1001 + n % 3)))
    for sink in SINKS[EventType.LOGIN]:
        assert await owed(store, sink=sink) == [f"e{n}" for n in range(20)]
    first = await store.deliveries.due(NOW, 5, Sink.LAMP)
    assert [d.event.id for d in first] == [f"e{n}" for n in range(5)]
    await store.deliveries.delivered([d.id for d in first])
    await store.deliveries.delivered([d.id for d in first])
    await store.deliveries.delivered([])
    assert await owed(store) == [f"e{n}" for n in range(5, 20)]
    assert len(await owed(store, sink=Sink.USER_EVENT)) == 20


async def test_a_postponed_event_holds_back_the_later_ones_of_its_agent(store: PeeweeStore) -> None:
    for n in range(6):
        await store.record(event(f"e{n}", "1001" if n % 2 else "1002"))
    due = await store.deliveries.due(NOW, 100, Sink.LAMP)
    await store.deliveries.postpone(due[1].id, NOW + timedelta(seconds=30), "no answer")
    assert await owed(store) == ["e0", "e2", "e4"]
    assert len(await owed(store, sink=Sink.QUEUE_LOG)) == 6
    assert await owed(store, 31) == [f"e{n}" for n in range(6)]
    again = await store.deliveries.due(NOW + timedelta(seconds=31), 100, Sink.LAMP)
    assert [d.attempts for d in again] == [0, 1, 0, 0, 0, 0]


async def test_a_parked_event_holds_nothing_back(store: PeeweeStore) -> None:
    await store.record(event("e0"))
    await store.record(event("e1"))
    (first, _) = await store.deliveries.due(NOW, 100, Sink.LAMP)
    await store.deliveries.postpone(first.id, NOW + timedelta(seconds=30), "refused")
    await store.deliveries.park(first.id, "refused for good", NOW)
    assert await owed(store) == ["e1"]
    assert await owed(store, 3600) == ["e1"]
    ((parked, why),) = await store.deliveries.parked()
    assert (parked.event, parked.sink, parked.attempts, why) == (
        event("e0"),
        Sink.LAMP,
        2,
        "refused for good",
    )
    woken: list[int] = []
    store.on_commit(lambda: woken.append(1))
    await store.deliveries.unpark([parked.id])
    assert woken
    assert await owed(store) == ["e0", "e1"]
    assert await store.deliveries.parked() == []


async def test_the_backlog(store: PeeweeStore) -> None:
    assert (await store.deliveries.backlog()).count == 0
    assert (await store.deliveries.backlog()).oldest is None
    for n in range(3):
        await store.record(replace(event(f"e{n}"), occurred_at=NOW + timedelta(seconds=n)))
    backlog = await store.deliveries.backlog()
    assert (backlog.count, backlog.oldest) == (9, NOW)
    for sink in SINKS[EventType.LOGIN]:
        first = (await store.deliveries.due(NOW, 1, sink))[0]
        await store.deliveries.delivered([first.id])
    backlog = await store.deliveries.backlog()
    assert (backlog.count, backlog.oldest) == (6, NOW + timedelta(seconds=1))


async def test_what_is_delivered_never_comes_back_under_its_id(store: PeeweeStore) -> None:
    seen: set[int] = set()
    for n in range(5):
        await store.record(event(f"e{n}"))
        (delivery,) = await store.deliveries.due(NOW, 10, Sink.LAMP)
        assert delivery.id not in seen
        seen.add(delivery.id)
        await store.deliveries.delivered([delivery.id])


async def test_what_cannot_be_read_is_parked_and_in_nobodys_way(url: str, opened: Opened) -> None:
    """Damaged, or written by a later version that was taken back: once it ended the service."""
    store = opened(url)
    for n in range(3):
        await store.record(event(f"e{n}"))
    spoilt = "UPDATE events SET type = 'agent-of-tomorrow' WHERE id = 'e0'"
    await store.run(lambda connection: connection.execute(spoilt))
    other = opened(url)  # which has not written them itself a moment ago
    woken: list[None] = []
    other.on_commit(lambda: woken.append(None))
    assert await owed(other) == ["e1", "e2"]
    assert woken
    assert await owed(other) == ["e1", "e2"]
    assert (await other.deliveries.backlog()).count == 8
    await other.run(lambda connection: connection.execute("UPDATE events SET type = 'agent-login'"))
    ((parked, why),) = await other.deliveries.parked()
    assert (parked.event.id, parked.attempts) == ("e0", 1)
    assert "agent-of-tomorrow" in why
    await other.deliveries.unpark([parked.id])
    assert await owed(other) == ["e0", "e1", "e2"]


@pytest.mark.postgres
async def test_two_services_share_the_work_and_keep_each_agents_order(
    postgres_url: str, opened: Opened
) -> None:
    first, second = opened(postgres_url), opened(postgres_url)
    for n in range(20):
        await first.record(event(f"e{n}", str(n % 4)))
    mine, others = await asyncio.gather(
        first.deliveries.due(NOW, 10, Sink.LAMP), second.deliveries.due(NOW, 10, Sink.LAMP)
    )
    # All agents' first events went to one of them; the other has to wait for every agent.
    assert sorted([len(mine), len(others)]) == [0, 10]
    owner, other = (first, second) if mine else (second, first)
    assert len(await owner.deliveries.due(NOW, 100, Sink.LAMP)) == 20  # its own may be asked again
    assert await owed(other) == []
    await first.record(event("new", "another agent"))
    assert await owed(other) == ["new"]
    # The owner dies: its deliveries are the other's a minute later.
    assert len(await owed(other, LEASE + 1)) == 21
