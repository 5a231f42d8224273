"""What is owed to whom, in which order."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from fastagi.agents.events import SINKS, Event
from fastagi.contract import EventType, Sink, Source
from fastagi.store import PeeweeStore

from .conftest import ACTOR, NOW, backlog, parked, unpark

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
    await store.deliveries.delivered(first)
    await store.deliveries.delivered(first)
    await store.deliveries.delivered([])
    assert await owed(store) == [f"e{n}" for n in range(5, 20)]
    assert len(await owed(store, sink=Sink.USER_EVENT)) == 20


async def test_a_postponed_event_holds_back_the_later_ones_of_its_agent(store: PeeweeStore) -> None:
    for n in range(6):
        await store.record(event(f"e{n}", "1001" if n % 2 else "1002"))
    due = await store.deliveries.due(NOW, 100, Sink.LAMP)
    await store.deliveries.postpone(due[1], NOW + timedelta(seconds=30), "no answer")
    assert await owed(store) == ["e0", "e2", "e4"]
    assert len(await owed(store, sink=Sink.QUEUE_LOG)) == 6
    assert await owed(store, 31) == [f"e{n}" for n in range(6)]
    again = await store.deliveries.due(NOW + timedelta(seconds=31), 100, Sink.LAMP)
    assert [d.attempts for d in again] == [0, 1, 0, 0, 0, 0]


async def test_a_parked_event_holds_nothing_back(store: PeeweeStore) -> None:
    await store.record(event("e0"))
    await store.record(event("e1"))
    (first, _) = await store.deliveries.due(NOW, 100, Sink.LAMP)
    await store.deliveries.postpone(first, NOW + timedelta(seconds=30), "refused")
    await store.deliveries.park(first, NOW, "refused for good")
    assert await owed(store) == ["e1"]
    assert await owed(store, 3600) == ["e1"]
    ((given_up, why),) = await parked(store)
    assert (given_up.event, given_up.sink, given_up.attempts, why) == (
        event("e0"),
        Sink.LAMP,
        2,
        "refused for good",
    )
    woken: list[int] = []
    store.on_commit(lambda: woken.append(1))
    await unpark(store)
    assert woken
    assert await owed(store) == ["e0", "e1"]
    assert await parked(store) == []


async def test_the_backlog(store: PeeweeStore) -> None:
    assert await backlog(store) == (0, None)
    for n in range(3):
        await store.record(replace(event(f"e{n}"), occurred_at=NOW + timedelta(seconds=n)))
    assert await backlog(store) == (9, NOW)
    for sink in SINKS[EventType.LOGIN]:
        first = (await store.deliveries.due(NOW, 1, sink))[0]
        await store.deliveries.delivered([first])
    assert await backlog(store) == (6, NOW + timedelta(seconds=1))


async def test_what_is_delivered_never_comes_back_under_its_id(store: PeeweeStore) -> None:
    seen: set[int] = set()
    for n in range(5):
        await store.record(event(f"e{n}"))
        (delivery,) = await store.deliveries.due(NOW, 10, Sink.LAMP)
        assert delivery.seq not in seen
        seen.add(delivery.seq)
        await store.deliveries.delivered([delivery])


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
    assert (await backlog(other))[0] == 8
    await other.run(lambda connection: connection.execute("UPDATE events SET type = 'agent-login'"))
    ((given_up, why),) = await parked(other)
    assert (given_up.event.id, given_up.attempts) == ("e0", 1)
    assert "agent-of-tomorrow" in why
    await unpark(other)
    assert await owed(other) == ["e0", "e1", "e2"]


@pytest.mark.postgres
async def test_one_of_two_services_delivers_and_the_other_goes_on_in_each_agents_order(
    postgres_url: str, opened: Opened
) -> None:
    first, second = opened(postgres_url), opened(postgres_url)
    for n in range(20):
        await first.record(event(f"e{n}", str(n % 4)))
    async with first.exclusive("deliver:lamp", wait=True):
        async with second.exclusive("deliver:lamp") as other:
            assert other is None
        await first.deliveries.delivered(await first.deliveries.due(NOW, 10, Sink.LAMP))
        await first.record(event("new", "another agent"))
    async with second.exclusive("deliver:lamp") as other:
        assert other is not None
        assert await owed(second) == [*(f"e{n}" for n in range(10, 20)), "new"]
