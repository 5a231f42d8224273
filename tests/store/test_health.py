"""How the store is, how long somebody waits for it, and what is kept of failures."""

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import StoreFault, wait_at_most, waiting
from fastagi.contract import Sink
from fastagi.store import PeeweeStore, open_store, outbox
from fastagi.store.clock import Clock
from fastagi.store.connection import Connection
from fastagi.store.outbox import HORIZON

from .conftest import BACKENDS, NOW, begin, done, log_in, log_off, unsettled
from .test_deliveries import event
from .test_hooks import attempt, counted, hooked

Opened = Callable[..., PeeweeStore]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question is asked of the database."""
    monkeypatch.setattr("fastagi.store.health.FRESH", -1.0)


# -- readiness


async def test_many_questions_are_one_write(store: PeeweeStore) -> None:
    store.workers.commits = 0
    answers = await asyncio.gather(*(store.health.ask() for _ in range(100)))
    answers += [await store.health.ask() for _ in range(100)]
    assert {answer.fault for answer in answers} == {None}
    # One, and another each second that this takes.
    assert store.workers.commits <= 10


async def test_a_fault_of_whoever_is_told_keeps_nobody_waiting(
    opened: Opened, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs are given up in time, the later ones too."""
    store = opened(sqlite_url, deadline=0.2)

    def told(error: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(store.workers, "_on_result", told)
    gate = threading.Event()
    held = store.run(lambda connection: gate.wait())
    try:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="in time"):
                async with asyncio.timeout(20):
                    await store.run(lambda connection: None)
    finally:
        gate.set()
    await asyncio.wait([held])


@pytest.mark.usefixtures("fresh")
async def test_the_probe_leaves_nothing_behind(store: PeeweeStore, url: str) -> None:
    for _ in range(3):
        assert (await store.health.ask()).fault is None
    assert len(await store.notes("probe:")) == 1
    await store.close()
    again = open_store(url)
    assert await again.notes("probe:") == {}
    await again.close()


@pytest.mark.usefixtures("fresh")
async def test_what_is_wrong_is_said_once_and_so_is_its_end(
    store: PeeweeStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    back: list[bool] = []
    store.health.on_back.append(lambda: back.append(True))
    kind = store._backend
    begin = kind.begin

    def broken(self: Connection, writes: bool, synced: bool) -> None:
        raise OSError("the cable is out")

    monkeypatch.setattr(kind, "begin", broken)
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="the cable is out"):
            await store.set_note("a", "1")
        assert (await store.health.ask()).fault is StoreFault.AWAY
    monkeypatch.setattr(kind, "begin", begin)
    assert not back
    await store.set_note("a", "1")  # any write will do
    assert back == [True]
    assert (await store.health.ask()).fault is None
    out = capsys.readouterr().out
    assert out.count("the database cannot be used: feature codes say 'try again'") == 1
    assert out.count("the database can be used again") == 1


@pytest.mark.usefixtures("fresh")
async def test_a_database_that_does_not_answer(
    store: PeeweeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastagi.store.health.DEADLINE", 0.05)
    free = threading.Event()
    threads = 1 if store.place.sqlite else 8
    stuck = [store.run(lambda c: free.wait(30), writes=False) for _ in range(threads)]
    assert (await store.health.ask()).fault is StoreFault.NO_ANSWER
    free.set()
    await asyncio.gather(*stuck)
    monkeypatch.setattr("fastagi.store.health.DEADLINE", 60.0)
    await store.set_note("a", "1")
    assert (await store.health.ask()).fault is None


@pytest.mark.usefixtures("fresh")
async def test_another_database_at_the_same_address(store: PeeweeStore) -> None:
    """As after a restore into the running server."""
    await store.run(
        lambda c: c.execute("UPDATE notes SET value = 'other' WHERE key = 'identity'") and None
    )
    health = await store.health.ask()
    assert health.fault is StoreFault.REPLACED
    assert "another database" in health.why


@pytest.mark.postgres
@pytest.mark.parametrize("what", ["read-only", "table gone", "right gone"])
async def test_postgresql_that_refuses(
    what: str, postgres_url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastagi.store.health.FRESH", -1.0)
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        role = f"clerk_{time.time_ns()}"
        admin.execute(f"CREATE ROLE {role} LOGIN")  # type: ignore[call-overload]
        (database,) = admin.execute("SELECT current_database()").fetchone()  # type: ignore[misc]
        admin.execute(f"ALTER DATABASE {database} OWNER TO {role}")
        store = opened(postgres_url.replace("fastagi@", f"{role}@"))
        assert (await store.health.ask()).fault is None
        if what == "read-only":
            admin.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
                (role,),
            )
            wanted = StoreFault.READ_ONLY
        elif what == "table gone":
            admin.execute("ALTER TABLE notes RENAME TO remarks")
            wanted = StoreFault.REPLACED
        else:
            admin.execute("ALTER TABLE notes OWNER TO fastagi")
            wanted = StoreFault.DENIED
        # Never an error that nobody expects.
        with pytest.raises(StoreUnavailable) as refused:
            await store.set_note("a", "1")
        assert refused.value.fault is wanted
        assert (await store.health.ask()).fault is wanted
        await store.close()
        admin.execute(f"ALTER DATABASE {database} OWNER TO fastagi")
        admin.execute(f"REASSIGN OWNED BY {role} TO fastagi")
        admin.execute(f"DROP ROLE {role}")


# -- how long somebody waits


async def test_several_calls_share_one_time(store: PeeweeStore) -> None:
    free = threading.Event()
    threads = 1 if store.place.sqlite else 8
    stuck = [store.run(lambda c: free.wait(30), writes=False) for _ in range(threads)]
    with wait_at_most(0.3):
        with pytest.raises(StoreUnavailable, match="in time"):
            await store.note("a")
        left = waiting()
        assert left is not None
        assert left.left <= 0
        before = len(store.workers._waiting)
        for _ in range(3):  # there is no time left: not even asked
            with pytest.raises(StoreUnavailable, match="in time") as refused:
                await store.note("a")
            assert refused.value.fault is StoreFault.NO_ANSWER
        assert len(store.workers._waiting) == before
    assert waiting() is None
    free.set()
    await asyncio.gather(*stuck)
    assert await store.note("a") is None


async def test_what_somebody_gave_up_is_taken_back(store: PeeweeStore) -> None:
    """Also when it is under way already: the phone has said "try again"."""
    free, begun = threading.Event(), threading.Event()
    threads = 1 if store.place.sqlite else 8

    def wait(connection: Connection) -> None:
        begun.set()
        free.wait(30)

    stuck = [store.run(wait, writes=False) for _ in range(threads)]
    await asyncio.to_thread(begun.wait)
    with wait_at_most(0.2), pytest.raises(StoreUnavailable):
        await begin(store, log_in(), NOW)
    free.set()
    await asyncio.gather(*stuck)
    assert await unsettled(store) == []
    await done(store, log_in())
    await done(store, log_off())


async def test_a_task_has_its_own_time() -> None:
    """One that is begun by somebody in a hurry may live for ever."""
    with wait_at_most(0.1):
        inner = waiting()
        with wait_at_most(100.0):  # the outer one stays
            assert waiting() is inner

        async def later() -> object:
            return waiting()

        assert await asyncio.create_task(later()) is None
        assert await later() is inner


async def test_a_refusal_of_one_job_is_its_own(store: PeeweeStore) -> None:
    """Those in the same batch go on, and the database is not to blame."""

    def refuse(connection: Connection) -> None:
        raise StoreUnavailable("taken back meanwhile")

    jobs: list[Any] = [store.run(refuse), store.set_note("a", "1"), store.run(refuse)]
    said = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(one) for one in said] == [StoreUnavailable, type(None), StoreUnavailable]
    assert await store.note("a") == "1"
    assert store.health.now.fault is None


# -- clocks


def test_a_clock_that_never_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    before = clock.time()
    wall = time.time()
    monkeypatch.setattr(time, "time", lambda: wall - 86400)
    assert 0 <= clock.time() - before < 60
    monkeypatch.setattr(time, "time", lambda: wall + 86400)
    assert 0 <= clock.time() - before < 60
    assert clock.align(before + 1000) == pytest.approx(1000, abs=60)
    assert clock.time() - before == pytest.approx(1000, abs=60)


async def test_what_a_wrong_clock_has_postponed_is_due_at_the_start(
    store: PeeweeStore, url: str
) -> None:
    """The machine's clock was a day ahead when it was postponed, and is right now."""
    hook = await hooked(store)
    await store.record(event("e0"))
    now = store.clock.now()
    tomorrow = now + timedelta(days=1)
    for sink in (Sink.LAMP, Sink.USER_EVENT):
        (one,) = await store.deliveries.due(tomorrow, 9, sink)
        until = tomorrow if sink is Sink.LAMP else now + timedelta(seconds=60)
        await store.deliveries.postpone(one, until, "no answer")
    (owed,) = await store.hook_deliveries.due(tomorrow, 9, frozenset())
    await store.hook_deliveries.postpone(owed, tomorrow, attempt(owed, "failed", "500"))
    await store.close()
    again = open_store(url)
    now = again.clock.now()
    assert [d.attempts for d in await again.deliveries.due(now, 9, Sink.LAMP)] == [1]
    assert await again.deliveries.due(now, 9, Sink.USER_EVENT) == []  # rightly so
    assert [d.hook for d in await again.hook_deliveries.due(now, 9, frozenset())] == [hook]
    await again.close()


async def test_nothing_that_waits_rightly_is_taken_for_a_wrong_clock(store: PeeweeStore) -> None:
    await store.record(event("e0"))
    (one,) = await store.deliveries.due(NOW, 9, Sink.LAMP)
    await store.deliveries.postpone(one, NOW + timedelta(seconds=600), "no answer")
    assert HORIZON > 600
    await store.run(lambda c: store.deliveries.unstick(c, NOW.timestamp()))
    assert await store.deliveries.due(NOW, 9, Sink.LAMP) == []


@pytest.mark.postgres
async def test_services_that_share_a_database_share_its_clock(
    postgres_url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is a day behind postpones nothing until tomorrow, and takes nothing
    for stale."""
    right = opened(postgres_url)
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() - 86400)
    wrong = opened(postgres_url)
    monkeypatch.undo()
    assert abs(wrong.clock.time() - right.clock.time()) < 30


@pytest.mark.postgres
async def test_the_clock_of_the_database_is_set(
    postgres_url: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastagi.store.health.FRESH", -1.0)
    store = opened(postgres_url)
    await store.record(event("e0"))
    store.clock.align(store.clock.time() + 86400)  # what it showed until now
    (one,) = await store.deliveries.due(store.clock.now(), 9, Sink.LAMP)
    await store.deliveries.postpone(one, store.clock.now() + timedelta(minutes=1), "no answer")
    assert (await store.health.ask()).fault is None
    for _ in range(500):
        found = await store.deliveries.due(store.clock.now(), 9, Sink.LAMP)
        if found:
            break
        await asyncio.sleep(0.01)
    assert [d.event.id for d in found] == ["e0"]


# -- what was given up


@pytest.mark.parametrize("of", ["sink", "hook"])
async def test_of_what_was_given_up_the_latest_are_kept(
    of: str,
    store: PeeweeStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(outbox, "PARKED", 10)
    monkeypatch.setattr("fastagi.store.outbox.PARKED_OF_HOOK", 10)
    monkeypatch.setattr(outbox, "SPARE", 3)
    dropped: list[tuple[str, int]] = []
    store.on_dropped(lambda sink, count: dropped.append((sink, count)))
    await hooked(store)
    await hooked(store, client="8")
    for n in range(30):
        await store.record(event(f"e{n}"))
        if of == "sink":
            (one, *_) = await store.deliveries.due(NOW, 9, Sink.LAMP)
            await store.deliveries.park(one, NOW, "refused")
        else:
            owed, other = await store.hook_deliveries.due(NOW, 9, frozenset())
            await store.hook_deliveries.park(owed, NOW, attempt(owed, "parked", "500"))
            if n < 5:
                await store.hook_deliveries.park(other, NOW, attempt(other, "parked", "500"))
            else:
                await store.hook_deliveries.delivered(other, attempt(other))
    table = "deliveries" if of == "sink" else "hook_deliveries"
    kept = await store.run(
        lambda c: [
            id
            for (id,) in c.execute(
                f"SELECT e.id FROM {table} d JOIN events e ON e.seq = d.event"
                " WHERE d.parked_at IS NOT NULL"
                + (" AND d.hook = (SELECT min(id) FROM hooks)" if of == "hook" else "")
                + " ORDER BY e.seq"
            ).fetchall()
        ],
        writes=False,
    )
    assert 10 <= len(kept) <= 13
    assert kept == [f"e{n}" for n in range(30 - len(kept), 30)]
    assert sum(count for _, count in dropped) == 30 - len(kept)
    assert {sink for sink, _ in dropped} == {"lamp" if of == "sink" else "hook"}
    assert capsys.readouterr().out.count("parked deliveries are deleted") == 1
    if of == "hook":  # the other hook's are its own
        assert await counted(store, "hook_deliveries WHERE hook = (SELECT max(id) FROM hooks)") == 5


async def test_what_was_given_up_long_ago_is_deleted(store: PeeweeStore) -> None:
    dropped: list[tuple[str, int]] = []
    store.on_dropped(lambda sink, count: dropped.append((sink, count)))
    await hooked(store)
    for n, days in enumerate((40, 29)):
        at = NOW - timedelta(days=days)
        await store.record(event(f"e{n}"))
        (one,) = await store.deliveries.due(NOW, 9, Sink.LAMP)
        await store.deliveries.park(one, at, "refused")
        (owed,) = await store.hook_deliveries.due(NOW, 9, frozenset())
        await store.hook_deliveries.park(owed, at, attempt(owed, "parked", "500"))
    await store.deliveries.drop_old(NOW - timedelta(days=30))
    await store.hook_deliveries.drop_old(NOW - timedelta(days=30))
    assert await counted(store, "deliveries WHERE parked_at IS NOT NULL") == 1
    assert await counted(store, "hook_deliveries WHERE parked_at IS NOT NULL") == 1
    assert sorted(dropped) == [("hook", 1), ("lamp", 1)]


# -- opened later


@pytest.mark.parametrize("backend", BACKENDS)
async def test_until_it_is_opened_every_call_is_refused(
    backend: str, request: pytest.FixtureRequest, sqlite_url: str
) -> None:
    from fastagi.store import parse
    from tests.store.conftest import settings

    url = sqlite_url if backend == "sqlite" else request.getfixturevalue("postgres_url")
    store = PeeweeStore(parse(url))
    calls: list[Any] = [
        store.agent("1001"),
        unsettled(store),
        store.deliveries.due(NOW, 9, Sink.LAMP),
        store.hook_deliveries.due(NOW, 9, frozenset()),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="not opened yet") as refused:
            await call
        assert refused.value.fault is StoreFault.STARTING
    with pytest.raises(StoreUnavailable):
        async with store.hold(["1001"]):
            pass
    with pytest.raises(StoreUnavailable):
        async with store.exclusive("timers"):
            pass
    with pytest.raises(StoreUnavailable):
        store.bring_in(settings())
    store.not_opened(StoreUnavailable("refused", fault=StoreFault.AWAY))
    assert (await store.health.ask()).fault is StoreFault.AWAY
    store.open()
    store.bring_in(settings())
    store.opened()
    assert (await store.agent("1001")) is not None
    await store.close()
