"""The event stream's reading: no event is missed, whatever is committed before what."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from fastagi.agents.events import Event
from fastagi.contract import EventType, Source
from fastagi.store import PeeweeStore, Reading
from fastagi.store import reading as module
from fastagi.store.connection import Connection

from .conftest import ACTOR, NOW, settings
from .test_services import cut, eventually

Opened = Callable[..., PeeweeStore]

INSERT = (
    "INSERT INTO events (id, type, agent, extension, context, queues, reason, source, actor,"
    " occurred_at, session_seconds) VALUES (%s, 'agent-login', '1001', '1', 'phones', '[]', '',"
    " 'phone', '{}', extract(epoch FROM now()), 0)"
)


def event(id: str) -> Event:
    return Event(id, EventType.LOGIN, "1001", "1001", ("sales",), "", Source.PHONE, ACTOR, NOW)


@pytest.fixture
def reading(store: PeeweeStore, url: str) -> Iterator[Reading]:
    found = Reading(url)
    yield found
    found.close()


@pytest.fixture
def shared(postgres_url: str, opened: Opened) -> Iterator[Reading]:
    """With events ``e0`` to ``e2``, and a reader."""
    store = opened(postgres_url)
    store.bring_in(settings())
    with psycopg.connect(postgres_url) as connection:
        for n in range(3):
            connection.execute(INSERT, (f"e{n}",))
    found = Reading(postgres_url)
    yield found
    found.close()


def told(reading: Reading, after: int = 0, limit: int = 100) -> list[str]:
    return [stored.event.id for stored in reading.settled_events(after, limit)]


async def test_page_by_page_to_the_last(store: PeeweeStore, reading: Reading) -> None:
    assert (reading.last_seq(), reading.settled_events(0, 10)) == (0, [])
    for n in range(7):
        await store.record(event(f"e{n}"))
    last = reading.last_seq()
    found: list[str] = []
    after = 0
    while page := reading.settled_events(after, 3):
        assert len(page) <= 3
        found += [stored.event.id for stored in page]
        after = page[-1].seq
    assert found == [f"e{n}" for n in range(7)]
    assert after == last
    assert [stored.event.id for stored in reading.latest_events(2)] == ["e5", "e6"]


async def test_what_was_taken_back_is_not_waited_for(store: PeeweeStore, reading: Reading) -> None:
    def fails(connection: Connection) -> None:
        connection.write_event(event("never"))
        raise ZeroDivisionError

    await store.record(event("e0"))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await store.run(fails)
        await store.record(event("e0"))  # which is there
    await store.record(event("e1"))
    assert told(reading) == ["e0", "e1"]
    assert [s.event.id for s in reading.settled_events(reading.last_seq() - 1, 9)] == ["e1"]


async def test_what_cannot_be_read_is_in_nobodys_way(store: PeeweeStore, reading: Reading) -> None:
    for n in range(6):
        await store.record(event(f"e{n}"))
    spoilt = "UPDATE events SET source = 'telepathy' WHERE id IN ('e1', 'e2', 'e5')"
    await store.run(lambda connection: connection.execute(spoilt) and None)
    assert told(reading) == ["e0", "e3", "e4"]
    (first,) = reading.settled_events(0, 1)
    assert [s.event.id for s in reading.settled_events(first.seq, 1)] == ["e3"]
    assert reading.settled_events(reading.last_seq(), 1) == []


@pytest.mark.postgres
async def test_an_event_that_is_committed_after_a_later_one(
    postgres_url: str, shared: Reading
) -> None:
    after = shared.last_seq()
    with psycopg.connect(postgres_url) as slow, psycopg.connect(postgres_url) as quick:
        slow.execute(INSERT, ("slow",))
        quick.execute(INSERT, ("quick",))
        quick.commit()
        assert [s.event.id for s in shared.latest_events(1)] == ["quick"]
        for _ in range(3):
            assert told(shared, after) == []
            assert told(shared) == ["e0", "e1", "e2"]
        slow.commit()
    assert told(shared, after) == ["slow", "quick"]
    assert told(shared) == ["e0", "e1", "e2", "slow", "quick"]


@pytest.mark.postgres
async def test_an_event_that_is_taken_back_after_a_later_one_was_committed(
    postgres_url: str, shared: Reading
) -> None:
    after = shared.last_seq()
    with psycopg.connect(postgres_url) as slow, psycopg.connect(postgres_url) as quick:
        slow.execute(INSERT, ("never",))
        quick.execute(INSERT, ("quick",))
        quick.commit()
        assert told(shared, after) == []
        slow.rollback()
        assert told(shared, after) == ["quick"]


@pytest.mark.postgres
async def test_a_writer_whose_connection_is_cut(postgres_url: str, shared: Reading) -> None:
    after = shared.last_seq()
    slow = psycopg.connect(postgres_url)
    slow.execute(INSERT, ("never",))
    with psycopg.connect(postgres_url) as quick:
        quick.execute(INSERT, ("quick",))
    assert told(shared, after) == []
    cut(postgres_url, f"pid = {slow.info.backend_pid}")
    await eventually(lambda: told(shared, after) == ["quick"])
    slow.close()


@pytest.mark.postgres
async def test_whoever_began_later_is_not_waited_for(postgres_url: str, shared: Reading) -> None:
    """Under load somebody always writes: only those count who can fill the gap."""
    after = shared.last_seq()
    with (
        psycopg.connect(postgres_url) as slow,
        psycopg.connect(postgres_url) as quick,
        psycopg.connect(postgres_url) as later,
    ):
        slow.execute(INSERT, ("never",))
        quick.execute(INSERT, ("quick",))
        quick.commit()
        assert told(shared, after) == []
        later.execute(INSERT, ("later",))
        slow.rollback()
        assert told(shared, after) == ["quick"]
        quick.execute(INSERT, ("last",))
        quick.commit()
        assert told(shared, after) == ["quick"]
        later.commit()
        assert told(shared, after) == ["quick", "later", "last"]


@pytest.mark.postgres
async def test_long_transactions_of_others_hold_nothing_up(
    postgres_url: str, shared: Reading
) -> None:
    """A backup, a report, somebody else's work: they write no events."""
    after = shared.last_seq()
    with psycopg.connect(postgres_url) as backup, psycopg.connect(postgres_url) as writes:
        backup.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        backup.execute("SELECT count(*) FROM events")
        backup.execute("INSERT INTO notes (key, value) VALUES ('x', 'y')")
        writes.execute(INSERT, ("never",))
        writes.rollback()
        writes.execute(INSERT, ("e3",))
        writes.commit()
        assert told(shared, after) == ["e3"]
        backup.rollback()


@pytest.mark.postgres
async def test_the_last_number_is_before_what_is_open(
    postgres_url: str, shared: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    after = shared.last_seq()
    with psycopg.connect(postgres_url) as slow, psycopg.connect(postgres_url) as quick:
        slow.execute(INSERT, ("slow",))
        quick.execute(INSERT, ("quick",))
        quick.commit()
        assert shared.last_seq() == after
        slow.commit()
    assert shared.last_seq() > after
    assert told(shared, shared.last_seq()) == []


@pytest.mark.postgres
async def test_another_reader_that_begins_in_between(postgres_url: str, shared: Reading) -> None:
    """It has seen nothing of how the gap came about."""
    after = shared.last_seq()
    with psycopg.connect(postgres_url) as slow, psycopg.connect(postgres_url) as quick:
        slow.execute(INSERT, ("slow",))
        quick.execute(INSERT, ("quick",))
        quick.commit()
        other = Reading(postgres_url)
        assert told(other, after) == []
        slow.commit()
        assert told(other, after) == ["slow", "quick"]
        other.close()


@pytest.mark.postgres
async def test_many_writers_and_readers_miss_nothing(postgres_url: str, shared: Reading) -> None:
    """Some are slow, some change their minds, one reads from the middle on."""
    begin = shared.last_seq()
    each, writers = 40, 4
    kept: list[str] = []
    done = threading.Event()

    def write(who: int) -> None:
        with psycopg.connect(postgres_url) as connection:
            for n in range(each):
                id = f"{who}-{n}"
                connection.execute(INSERT, (id,))
                if n % 7 == who:
                    connection.execute("SELECT pg_sleep(0.01)")
                if n % 5 == who:
                    connection.rollback()
                else:
                    connection.commit()
                    kept.append(id)

    def read(start: Callable[[], int]) -> list[str]:
        found: list[str] = []
        after = start()
        first = after
        while True:
            last = done.is_set()  # before the page is read
            page = shared.settled_events(after, 9)
            found += [stored.event.id for stored in page]
            if page:
                after = page[-1].seq
            elif last:
                return [str(first), *found]
            time.sleep(0.001)

    readers = [
        asyncio.create_task(asyncio.to_thread(read, lambda: begin)),
        asyncio.create_task(asyncio.to_thread(read, shared.last_seq)),
    ]
    await asyncio.gather(*(asyncio.to_thread(write, who) for who in range(writers)))
    done.set()
    whole, part = await asyncio.gather(*readers)
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT seq, id FROM events ORDER BY seq").fetchall()
    assert whole[1:] == [id for seq, id in rows if seq > begin]
    assert sorted(whole[1:]) == sorted(kept)
    assert part[1:] == [id for seq, id in rows if seq > int(part[0])]


@pytest.mark.postgres
async def test_what_is_committed_between_reading_and_asking_who_writes(
    postgres_url: str, shared: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = shared.last_seq()
    looked = module._Gaps._looked
    with psycopg.connect(postgres_url) as slow, psycopg.connect(postgres_url) as quick:
        slow.execute(INSERT, ("slow",))
        quick.execute(INSERT, ("quick",))
        quick.commit()

        def late(self: module._Gaps, database: object, missing: int, newest: int) -> bool:
            slow.commit()
            return looked(self, database, missing, newest)

        monkeypatch.setattr(module._Gaps, "_looked", late)
        assert told(shared, after) == ["slow", "quick"]
