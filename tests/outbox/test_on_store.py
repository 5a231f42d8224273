"""The dispatcher on the real store: SQLite and PostgreSQL."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from fastagi.agents.events import Event
from fastagi.contract import EventType, Sink
from fastagi.outbox.delivery import DELIVERED, Receipt, Rejected
from fastagi.outbox.dispatcher import Dispatcher, Pace
from fastagi.store.outbox import SinkOutbox
from fastagi.store.transactions import PeeweeStore, open_store
from tests.store.conftest import parked as given_up

from .parts import Receiver, event, now, until

# Nothing is found by looking: the store wakes the dispatcher, or a delivery comes due again.
PACE = Pace(first_delay=0.02, longest_delay=0.05, ask_ready=0.005, look=3600.0)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fastagi.db"
    return str(request.getfixturevalue("postgres_url"))


@asynccontextmanager
async def service(
    url: str, *receivers: Receiver, pace: Pace = PACE
) -> AsyncIterator[tuple[PeeweeStore, SinkOutbox]]:
    """A store and a dispatcher as in the application; receivers for the sinks in their order."""
    store = await asyncio.to_thread(open_store, url)
    deliveries = store.deliveries
    sinks = dict(zip(Sink, receivers, strict=False))
    dispatcher = Dispatcher(deliveries, sinks, now, pace, exclusive=store.exclusive)
    store.on_commit(dispatcher.wake)
    task = asyncio.create_task(dispatcher.run())
    try:
        yield store, deliveries
        assert not receivers or not task.done(), "the dispatcher ended by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await store.close()


async def test_events_arrive_as_they_were_recorded(url: str) -> None:
    receivers = [Receiver() for _ in Sink]
    told = [event(reason="Déjeuner | ,;", type=EventType.PAUSE), event(), event("1002")]
    async with service(url, *receivers) as (store, _):
        for happened in told:
            await store.record(happened)
        await until(lambda: [len(r.got) for r in receivers] == [3, 2, 3])
    user, rows, lamps = (receiver.got for receiver in receivers)
    assert user == told
    assert rows == told[1:]
    assert lamps == told
    async with service(url) as (_, deliveries):
        assert [await deliveries.due(now(), 500, sink) for sink in Sink] == [[], [], []]


async def test_refused_for_a_while_holds_back_that_agent_only(url: str) -> None:
    refusals = 3
    login, pause, unpause = event(), event(type=EventType.PAUSE), event(type=EventType.UNPAUSE)
    other = event("1002")

    def script(happened: Event) -> Receipt:
        nonlocal refusals
        if happened == pause and refusals:
            refusals -= 1
            return Rejected("busy")
        return DELIVERED

    receiver = Receiver(script)
    async with service(url, receiver) as (store, _):
        for happened in (login, pause, unpause, other):
            await store.record(happened)
        await until(lambda: len(receiver.got) == 4)
    assert [e for e in receiver.got if e.agent == "1001"] == [login, pause, unpause]
    assert receiver.got.index(other) < receiver.got.index(pause)


async def test_poison_is_parked_and_the_rest_flows(url: str) -> None:
    poison, final, after = event(reason="a"), event(reason="b"), event(type=EventType.LOGOUT)

    def script(happened: Event) -> Receipt:
        if happened == poison:
            return Rejected("No")
        return Rejected("Never", final=True) if happened == final else DELIVERED

    receiver = Receiver(script)
    pace = Pace(attempts=3, first_delay=0.01, longest_delay=0.02)
    async with service(url, receiver, pace=pace) as (store, _):
        for happened in (poison, final, after):
            await store.record(happened)
        await until(lambda: receiver.got == [after])
        parked = [(d.event, d.attempts, error) for d, error in await given_up(store)]
    assert parked == [(poison, 3, "No"), (final, 1, "Never")]


async def test_an_outage_counts_no_attempt_and_ends_in_order(url: str) -> None:
    receiver = Receiver(away=True)
    told = [event(reason=str(n), type=EventType.PAUSE) for n in range(20)]
    async with service(url, receiver) as (store, deliveries):
        for happened in told:
            await store.record(happened)
        await until(lambda: len(receiver.batches) > 10)  # more often than a refusal is allowed
        due = await deliveries.due(now(), 500, Sink.USER_EVENT)
        assert {delivery.attempts for delivery in due} == {0}
        receiver.away = False
        await until(lambda: receiver.got == told)


async def test_a_storm_through_three_sinks(url: str) -> None:
    receivers = [Receiver() for _ in Sink]
    logins = [event(str(n)) for n in range(300)]
    logoffs = [event(str(n), EventType.LOGOUT) for n in range(300)]
    async with service(url, *receivers) as (store, _):
        for burst in (logins, logoffs):
            await asyncio.gather(*(store.record(happened) for happened in burst))
        await until(lambda: all(len(r.got) == 600 for r in receivers), 60)
    for receiver in receivers:
        for n in (0, 17, 299):
            assert [e for e in receiver.got if e.agent == str(n)] == [logins[n], logoffs[n]]


async def test_stopped_and_started_in_mid_backlog_nothing_is_lost_or_doubled(url: str) -> None:
    told = [event(reason=str(n), type=EventType.PAUSE) for n in range(40)]
    receiver = Receiver()
    receiver.before = lambda: asyncio.sleep(0.001)
    async with service(url) as (store, _):
        for happened in told:
            await store.record(happened)
    starts = 0
    while len(receiver.got) < len(told):
        starts += 1
        async with service(url, receiver, pace=Pace(look=0.05)):
            had = len(receiver.got)
            await until(lambda: len(receiver.got) >= min(had + 7, len(told)))  # noqa: B023
    assert receiver.got == told
    assert starts > 2


KILLED = """
import asyncio, os, signal, sys
from datetime import UTC, datetime
from fastagi.contract import Sink
from fastagi.outbox.dispatcher import Dispatcher
from fastagi.store.transactions import open_store

class Receiver:
    ready = True
    async def deliver(self, events):
        print(*(event.id for event in events), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    deliveries = open_store(sys.argv[1]).deliveries
    await Dispatcher(deliveries, {Sink.LAMP: Receiver()}, lambda: datetime.now(UTC)).run()

asyncio.run(main())
"""


async def test_killed_after_it_delivered_it_delivers_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/fastagi.db"
    happened = event()
    async with service(url) as (store, _):
        await store.record(happened)
    for _ in range(2):
        died = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", KILLED, url],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (died.returncode, died.stdout.split()) == (-9, [happened.id]), died.stderr
    receiver = Receiver()
    async with service(url, Receiver(ready=False), Receiver(ready=False), receiver):
        await until(lambda: receiver.got == [happened])
