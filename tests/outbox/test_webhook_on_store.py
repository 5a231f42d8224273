"""Hooks on the real store: SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastagi.agents.deliveries import HookDeliveries
from fastagi.agents.hooks import Hook
from fastagi.config.settings import Settings
from fastagi.contract import EventType
from fastagi.outbox.hooks import HookDispatcher
from fastagi.store.transactions import PeeweeStore, open_store

from .parts import event, now, until
from .receivers import DEAF, OK, hang, receiver, settings, status

PACE = replace(DEAF, grace=0.2)
CENTRE = Settings.model_validate(
    {
        "asterisk": {"secret": "of no use here"},
        "queues": [{"number": "701", "name": "sales"}],
        "agents": [
            {"number": number, "name": f"Agent {number}", "queues": ["sales"]}
            for number in ("1001", "1002")
        ],
    }
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fastagi.db"
    return str(request.getfixturevalue("postgres_url"))


@asynccontextmanager
async def service(url: str, **more: Any) -> AsyncIterator[PeeweeStore]:
    """As in the application."""
    store = await asyncio.to_thread(open_store, url)
    await asyncio.to_thread(store.bring_in, CENTRE)
    hooks: HookDeliveries = store.hook_deliveries
    dispatcher = HookDispatcher(
        hooks, now, lambda: settings(**more), pace=PACE, exclusive=store.exclusive
    )
    store.on_commit(dispatcher.wake)
    task = asyncio.create_task(dispatcher.run())
    try:
        yield store
        assert not task.done(), "the dispatcher ended by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await store.close()


async def _hook(store: PeeweeStore, url: str, number: str = "1001", **more: Any) -> Hook:
    agent = await store.agent(number)
    assert agent is not None
    values: dict[str, Any] = {
        "event_type": EventType.LOGIN,
        "method": "GET",
        "content_type": "json",
    } | more
    made = await store.hooks.create("12", agent.id, "local", url=url, **values)
    assert made is not None
    return made


async def test_told_in_order_failed_and_logged(url: str) -> None:
    async with receiver(OK, status(500), OK) as there, service(url) as store:
        told = await _hook(store, there.url())
        await _hook(store, there.url("/other"), "1002")
        await _hook(store, there.url("/pause"), event_type=EventType.PAUSE)
        events = [event() for _ in range(6)]
        for happened in events:
            await store.record(happened)
        await until(lambda: len(there.seen) == 7)
        async with asyncio.timeout(10):
            while len(attempts := await store.hooks.log(told.id, 100)) < 7:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert await store.hooks.parked(told.id) == 0
        assert await store.hook_deliveries.next_due() is None
    ids = [one.headers["webhook-id"] for one in there.seen]
    assert ids == [one.id for one in (events[0], events[1], *events[1:])]
    assert [attempt.outcome for attempt in reversed(attempts)] == [
        "delivered",
        "failed",
        *["delivered"] * 5,
    ]
    assert attempts[-2].error == "the receiver answered 500"


async def test_after_a_restart_the_rest_is_told(url: str) -> None:
    first, second = event(), event()
    async with receiver(hang, OK) as there:
        async with service(url) as store:
            await _hook(store, there.url())
            await store.record(first)
            await store.record(second)
            await until(lambda: there.seen)
        async with service(url):
            await until(lambda: len(there.seen) == 3)
    ids = [one.headers["webhook-id"] for one in there.seen]
    assert ids == [first.id, first.id, second.id]


async def test_given_up_and_told_when_asked_again(url: str) -> None:
    async with receiver(status(410), OK) as there, service(url) as store:
        told = await _hook(store, there.url())
        await store.record(event())
        async with asyncio.timeout(10):
            while await store.hooks.parked(told.id) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert await store.hooks.retry(told.id) == 1
        await until(lambda: len(there.seen) == 2)


async def test_deleted_while_its_receiver_thinks(url: str) -> None:
    go_on = asyncio.Event()

    async def slowly(*_: object) -> bytes:
        await go_on.wait()
        return OK

    async with receiver(slowly) as there, receiver() as other, service(url) as store:
        gone, stays = await _hook(store, there.url()), await _hook(store, other.url())
        await store.record(event())
        await until(lambda: there.seen)
        assert await store.hooks.delete(gone.id)
        go_on.set()
        await store.record(event())
        await until(lambda: len(other.seen) == 2)
        assert await store.hooks.log(gone.id, 10) == []
        assert await store.hooks.of("12", stays.agent_id, "local") == [stays]
    assert len(there.seen) == 1
