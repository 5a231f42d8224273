"""Two services on one PostgreSQL, either of which may die; and one on a SQLite file."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from peewee import PeeweeException

from fastagi.agents import errors
from fastagi.agents.events import Event
from fastagi.agents.model import Change
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType, Sink, Source
from fastagi.store import PeeweeStore, Reading, locks
from fastagi.store.changes import STALE
from fastagi.store.connection import Connection
from fastagi.store.locks import SharedPresence

from .conftest import (
    ACTOR,
    LATER,
    NOW,
    backlog,
    begin,
    done,
    log_in,
    log_off,
    pause,
    settings,
    standing_by,
    unsettled,
)

Opened = Callable[..., PeeweeStore]


async def eventually(condition: Callable[[], Any]) -> Any:
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.02)


@asynccontextmanager
async def another(url: str, what: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another service, in a process of its own, that does ``what`` with its ``store``, says
    ``done`` and stays."""
    program = textwrap.dedent(
        """
        import asyncio
        from datetime import timedelta
        from tests.store.conftest import *
        from fastagi.contract import Sink
        async def main():
            store = open_store({url!r})
        {what}
            print("done", flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
        """
    ).format(url=url, what=textwrap.indent(textwrap.dedent(what), "    "))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert child.stdout is not None
        while (line := await child.stdout.readline()) != b"done\n":
            assert line, "the other service has failed"
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


def cut(url: str, where: str = "true") -> None:
    """Connections of ours are cut by the server."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
            f" current_database() AND pid <> pg_backend_pid() AND {where}"
        )


PRESENCE = "query LIKE '%pg_advisory_lock(%service:%'"


@pytest.fixture
def pair(postgres_url: str, opened: Opened) -> tuple[PeeweeStore, PeeweeStore]:
    first, second = opened(postgres_url), opened(postgres_url)
    first.bring_in(settings(20))
    return first, second


Pair = tuple[PeeweeStore, PeeweeStore]

# -- intents


@pytest.mark.postgres
async def test_an_open_change_of_a_living_service_is_left_to_it(pair: Pair) -> None:
    first, second = pair
    change = await begin(first, log_in(), NOW)
    with pytest.raises(errors.InProgress) as other:
        await begin(second, log_off(), NOW)
    assert not other.value.settle
    with pytest.raises(errors.InProgress) as own:
        await begin(first, log_off(), NOW)
    assert own.value.settle
    assert await unsettled(second) == []
    assert await unsettled(first) == [change]
    await first.confirm(change)
    await done(second, log_off())


@pytest.mark.postgres
async def test_what_a_killed_service_left_open_is_everybodys_at_once(
    postgres_url: str, pair: Pair
) -> None:
    first, second = pair
    async with another(postgres_url, "await begin(store, log_in(id='left'), NOW)") as child:
        with pytest.raises(errors.InProgress) as living:
            await begin(first, log_off(), NOW)
        assert not living.value.settle
        assert await unsettled(first) == []
        child.send_signal(signal.SIGKILL)
        await child.wait()

        async def free() -> bool:
            with pytest.raises(errors.InProgress) as dead:
                await begin(first, log_off(), NOW)
            return dead.value.settle

        await eventually(free)
    both = await asyncio.gather(unsettled(first), unsettled(second))
    # One of them settles it, not both.
    assert sorted(len(found) for found in both) == [0, 1]
    owner, other = (first, second) if both[0] else (second, first)
    (change,) = await unsettled(owner)
    assert change.command.id == "left"
    with pytest.raises(errors.InProgress) as taken:
        await begin(other, log_off(), NOW)
    assert not taken.value.settle
    await owner.withdraw(change, None)
    await done(other, log_in())


@pytest.mark.postgres
async def test_a_change_that_was_taken_over_cannot_be_confirmed_behind_its_back(
    pair: Pair,
) -> None:
    """Who was taken for dead and is not must not write what the other takes back."""
    first, second = pair
    change = await begin(first, log_in(), NOW)

    def steal(connection: Connection) -> None:
        connection.execute("UPDATE intents SET owner = ?", (second.id,))

    await first.run(steal)
    with pytest.raises(StoreUnavailable, match="meanwhile"):
        await first.confirm(change)
    await first.withdraw(change, None)
    (found,) = await unsettled(second)
    await second.confirm(found)
    await first.confirm(change)  # it is as it was meant to be
    assert await first.agent("1001") == change.after


@pytest.mark.postgres
async def test_a_stopped_service_leaves_nothing_behind(
    postgres_url: str, opened: Opened, pair: Pair
) -> None:
    third = opened(postgres_url)
    async with standing_by(third, "deliver:lamp") as has:
        assert has.is_set()
        async with pair[0].exclusive("deliver:lamp") as lock:
            assert lock is None
        await begin(third, log_in(), NOW)
    await third.close()
    async with pair[0].exclusive("deliver:lamp") as lock:
        assert lock is not None
    assert len(await unsettled(pair[1])) == 1


@pytest.mark.postgres
async def test_whose_logins_a_clock_that_was_set_has_written(pair: Pair) -> None:
    """With others there only those of this service; when it is alone, all that go on."""
    first, second = pair
    await done(first, log_in("1001", "1001", id="here"))
    await done(second, log_in("1002", "1002", id="there"))

    async def since() -> list[timedelta]:
        found = (await first.states(["1001", "1002"])).values()
        return [a.session.since - NOW for a in found if a.session]

    hour = timedelta(hours=1)
    await first.clock_was_set(LATER, hour, {"here"})
    assert await since() == [hour, timedelta()]
    await second.close()
    await first.clock_was_set(LATER + hour, hour, ())
    assert await since() == [2 * hour, hour]


@pytest.mark.postgres
async def test_cut_off_for_a_moment_a_service_is_not_taken_for_dead(
    postgres_url: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    change = await begin(first, log_in(), NOW)
    cut(postgres_url)  # both of them, as when PostgreSQL restarts
    assert await unsettled(second) == []
    with pytest.raises(errors.InProgress) as other:
        await begin(second, log_off(), NOW)
    assert not other.value.settle
    await first.confirm(change)
    # Both are seen again, and believe what they see.
    monkeypatch.setattr(locks, "GRACE", 0.0)
    cut(postgres_url)

    async def sure() -> bool:
        return await second.run(
            lambda c: c.presence.dead(c, {first.id, "gone"}) == {"gone"}, writes=False
        )

    await eventually(sure)


@pytest.mark.postgres
async def test_an_intent_of_a_version_that_knew_no_owners(pair: Pair) -> None:
    first, second = pair
    change = await begin(first, log_in(), NOW)
    await first.run(lambda c: c.execute("UPDATE intents SET owner = ''") and None)
    with pytest.raises(errors.InProgress) as nobody:
        await begin(second, log_off(), NOW)
    assert nobody.value.settle
    assert await unsettled(second) == [change]


@pytest.mark.postgres
async def test_a_change_that_its_service_cannot_settle_is_anothers_after_a_while(
    pair: Pair,
) -> None:
    first, second = pair
    change = await begin(first, log_in(), NOW)
    await first.run(
        lambda c: c.execute("UPDATE intents SET owned_at = owned_at - ?", (STALE + 1,)) and None
    )
    with pytest.raises(errors.InProgress) as stale:
        await begin(second, log_off(), NOW)
    assert stale.value.settle
    assert await unsettled(second) == [change]
    assert await unsettled(first) == []
    with pytest.raises(errors.InProgress) as taken:
        await begin(first, log_off(), NOW)
    assert not taken.value.settle
    await second.withdraw(change, None)
    await done(first, log_in())


@pytest.mark.postgres
async def test_a_thousand_logins_of_one_agent_race(pair: Pair) -> None:
    """From two services, on two phones: one wins; the others hear why not."""

    async def log_in_at(store: PeeweeStore, n: int) -> Any:
        command = log_in(extension=str(2001 + n % 2), id=f"race-{n}")
        while True:
            try:
                change = await begin(store, command, NOW)
            except errors.InProgress:
                await asyncio.sleep(0.02)
                continue
            except errors.Refused as refusal:
                return refusal
            await store.confirm(change)
            return change

    results = await asyncio.gather(*(log_in_at(pair[n % 2], n) for n in range(1000)))
    changes = [r for r in results if isinstance(r, Change)]
    winners = [change for change in changes if change.alters]
    assert len(winners) == 1
    assert {type(r) for r in results if not isinstance(r, Change)} == {errors.LoggedInElsewhere}
    assert len(changes) - 1 + sum(not isinstance(r, Change) for r in results) == 999
    owed = await pair[0].deliveries.due(LATER, 10, Sink.LAMP)
    assert [d.event.id for d in owed] == [f"{winners[0].command.id}-1"]
    assert [a.number for a in await pair[1].logged_in()] == ["1001"]


# -- holding


async def test_who_is_held_is_read_afresh(store: PeeweeStore) -> None:
    await done(store, log_in())
    open_change = await begin(store, log_in("1002", "1002"), NOW)
    async with store.hold(["1001", "1002", "1003", "9999"]) as states:
        assert states.keys() == {"1001", "1003"}  # not one with an open change
        assert states["1001"].session is not None
        change = await begin(store, pause(), NOW, held=True)
        await store.confirm(change)
    async with store.hold(["1001"]) as states:
        assert states["1001"] == change.after
    await store.confirm(open_change)
    async with store.hold([]) as states:
        assert states == {}


@pytest.mark.postgres
async def test_who_is_held_is_changed_by_nobody_else(pair: Pair) -> None:
    first, second = pair
    numbers = [str(1001 + n) for n in range(10)]
    async with first.hold(numbers):
        for store in pair:
            with pytest.raises(errors.InProgress) as held:
                await begin(store, log_in("1003", "1003"), NOW)
            assert not held.value.settle
        await done(second, log_in("1015", "1015"))  # not held
        other = second.hold(["1010", "1011"])
        taking = asyncio.create_task(other.__aenter__())
        await asyncio.sleep(0.2)
        assert not taking.done()
        change = await begin(first, log_in("1003", "1003"), NOW, held=True)
        await first.confirm(change)
    assert (await taking).keys() == {"1010", "1011"}
    with pytest.raises(errors.InProgress):
        await begin(first, log_in("1011", "1011"), NOW)
    await other.__aexit__(None, None, None)
    await done(first, log_in("1011", "1011"))
    await done(second, log_off("1003"))


@pytest.mark.postgres
async def test_many_hold_at_once_and_nobody_waits_for_ever(pair: Pair) -> None:
    numbers = [str(1001 + n) for n in range(20)]
    order: list[list[str]] = [numbers, numbers[::-1], numbers[::2], numbers[5:15][::-1]]

    async def hold(n: int) -> int:
        async with pair[n % 2].hold(order[n % 4]) as states:
            await asyncio.sleep(0.01)
            return len(states)

    held = await asyncio.gather(*(hold(n) for n in range(40)))
    assert held == [len(order[n % 4]) for n in range(40)]


@pytest.mark.postgres
async def test_calls_go_on_while_many_wait_for_one_who_is_held(pair: Pair) -> None:
    first, second = pair
    async with first.hold(["1001"]):
        waiting = [asyncio.create_task(begin(second, log_in(), NOW)) for _ in range(50)]
        await done(second, log_in("1002", "1002"))  # would time out if they took the threads
        refused = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(r) for r in refused} == {errors.InProgress}


@pytest.mark.postgres
async def test_a_killed_service_holds_nobody(postgres_url: str, pair: Pair) -> None:
    what = "held = store.hold(['1001', '1002'])\nawait held.__aenter__()"
    async with another(postgres_url, what) as child:
        with pytest.raises(errors.InProgress):
            await begin(pair[0], log_in(), NOW)
        child.kill()
        await child.wait()
        async with pair[1].hold(["1001", "1002"]) as states:
            assert len(states) == 2
    await done(pair[0], log_in())


@pytest.mark.postgres
async def test_a_hold_whose_connection_is_cut(postgres_url: str, pair: Pair) -> None:
    first, second = pair
    async with first.hold(["1001"]):
        cut(postgres_url, "state = 'idle in transaction'")
        async with second.hold(["1001"]):
            pass
    async with first.hold(["1001"]) as states:
        assert states.keys() == {"1001"}


@pytest.mark.postgres
async def test_who_gives_up_waiting_for_a_hold_holds_nothing(pair: Pair) -> None:
    first, second = pair
    async with first.hold(["1001"]):
        taking = asyncio.create_task(second.hold(["1001", "1002"]).__aenter__())
        await asyncio.sleep(0.2)
        taking.cancel()
    await asyncio.wait({taking})

    async def free() -> bool:
        try:
            return bool(await begin(first, log_in(), NOW))
        except errors.InProgress:
            return False

    await eventually(free)


async def test_alone(store: PeeweeStore) -> None:
    async with store.exclusive("reconcile:a") as alone:
        assert alone
        async with store.exclusive("reconcile:b") as other:
            assert other
        async with store.exclusive("reconcile:a") as again:
            assert not again
    async with store.exclusive("reconcile:a") as alone:
        assert alone


@pytest.mark.postgres
async def test_alone_among_services(postgres_url: str, pair: Pair) -> None:
    first, second = pair
    async with first.exclusive("reconcile:"):
        async with second.exclusive("reconcile:") as alone:
            assert not alone
        async with second.exclusive("reconcile:other") as alone:
            assert alone
    async with second.exclusive("reconcile:") as alone:
        assert alone
    what = "at = store.exclusive('reconcile:')\nassert await at.__aenter__()"
    async with another(postgres_url, what) as child:
        async with first.exclusive("reconcile:") as alone:
            assert not alone
        child.kill()
        await child.wait()

        async def free() -> bool:
            async with first.exclusive("reconcile:") as alone:
                return alone is not None

        await eventually(free)


# -- deliveries


def event(id: str, agent: str = "1001") -> Event:
    return Event(id, EventType.LOGIN, agent, "1001", ("sales",), "", Source.PHONE, ACTOR, NOW)


HOLDS = """
held = store.exclusive("deliver:lamp", wait=True)
assert await held.__aenter__()
"""


@pytest.mark.postgres
async def test_what_a_killed_service_was_delivering_is_delivered_at_once(
    postgres_url: str, pair: Pair
) -> None:
    first, _ = pair
    for n in range(10):
        await first.record(event(f"e{n}", str(n % 3)))
    async with another(postgres_url, HOLDS) as child:
        async with first.exclusive("deliver:user_event") as other:
            assert other is not None
        async with standing_by(first, "deliver:lamp") as has:
            assert not has.is_set()
            child.kill()
            async with asyncio.timeout(10):
                await has.wait()
            due = await first.deliveries.due(NOW, 100, Sink.LAMP)
            assert [d.event.id for d in due] == [f"e{n}" for n in range(10)]


@pytest.mark.postgres
async def test_a_stuck_service_does_not_keep_the_others_waiting(
    postgres_url: str, pair: Pair
) -> None:
    """It lives and does nothing any more."""
    stuck = "from fastagi.store import locks\nlocks.STUCK = 1.0\n" + HOLDS
    async with (
        another(postgres_url, stuck) as child,
        standing_by(pair[0], "deliver:lamp") as has,
    ):
        await asyncio.sleep(2)
        assert not has.is_set()  # it works: for as long as it likes
        child.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(20):
            await has.wait()
        child.send_signal(signal.SIGCONT)


@pytest.mark.postgres
async def test_a_lock_is_lost_with_its_connection_and_waited_for_again(
    postgres_url: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then nobody delivers before the other could mark what it has delivered."""
    monkeypatch.setattr(locks, "GRACE", 0.5)
    first, second = pair
    lost = asyncio.Event()
    async with first.exclusive("deliver:lamp", wait=True, on_lost=lost.set) as lock:
        assert lock is not None
        assert not lock.lost
        async with standing_by(second, "deliver:lamp") as has:
            cut(postgres_url, "(query LIKE 'LISTEN%' OR query LIKE '%, 4))')")
            async with asyncio.timeout(10):
                await lost.wait()
                assert lock.lost
                assert not has.is_set()
                await has.wait()


@pytest.mark.postgres
async def test_while_a_service_of_an_earlier_version_runs_it_delivers(
    postgres_url: str, pair: Pair
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as earlier:
        earlier.execute("SELECT pg_advisory_lock_shared(hashtextextended('services', 3))")
        async with standing_by(pair[0], "deliver:lamp") as has:
            await asyncio.sleep(1.5)
            assert not has.is_set()
            earlier.close()
            async with asyncio.timeout(10):
                await has.wait()


@pytest.mark.postgres
async def test_two_services_tell_everything_once_and_in_order(pair: Pair) -> None:
    told: list[tuple[str, str]] = []
    agents, each = 12, 25
    writing = True

    async def write(store: PeeweeStore, agent: int) -> None:
        for n in range(each):
            await store.record(event(f"{agent}-{n}", str(agent)))

    async def deliver(store: PeeweeStore) -> None:
        while True:
            more = writing
            async with store.exclusive("deliver:lamp", wait=True):
                due = await store.deliveries.due(LATER, 7, Sink.LAMP)
                for delivery in due:
                    told.append((delivery.event.agent, delivery.event.id))
                    await asyncio.sleep(0)
                await store.deliveries.delivered(due)
            if not due:
                if not more and (await backlog(store))[0] == left:
                    return
                await asyncio.sleep(0.01)

    left = agents * each * 2  # the other two sinks' share
    delivering = [asyncio.create_task(deliver(store)) for store in pair]
    await asyncio.gather(*(write(pair[agent % 2], agent) for agent in range(agents)))
    writing = False
    await asyncio.gather(*delivering)
    assert len(told) == agents * each
    for agent in range(agents):
        assert [id for number, id in told if number == str(agent)] == [
            f"{agent}-{n}" for n in range(each)
        ]


@pytest.mark.postgres
async def test_who_delivers_is_woken_by_what_another_service_writes(pair: Pair) -> None:
    first, second = pair
    woken = asyncio.Event()
    first.on_commit(woken.set)
    async with (
        standing_by(first, "deliver:lamp") as delivers,
        standing_by(second, "deliver:lamp") as waits,
    ):
        assert delivers.is_set()
        assert not waits.is_set()
        await second.record(event("e1"))
        async with asyncio.timeout(10):
            await woken.wait()


# -- one service per SQLite file


async def test_a_second_service_on_one_file_is_refused(sqlite_url: str, opened: Opened) -> None:
    first = opened(sqlite_url, serve=True)
    with pytest.raises(StoreUnavailable, match="another service uses this file"):
        opened(sqlite_url, serve=True)
    beside = opened(sqlite_url)  # not as a service
    await first.set_note("a", "1")
    assert await beside.note("a") == "1"
    await first.close()
    opened(sqlite_url, serve=True)


async def test_a_killed_service_leaves_its_file_free(sqlite_url: str, opened: Opened) -> None:
    program = (
        "import os, signal; from fastagi.store import open_store\n"
        f"open_store({sqlite_url!r}, serve=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.returncode == -signal.SIGKILL
    opened(sqlite_url, serve=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    from fastagi.store import open_store

    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="file"):
        open_store(f"sqlite:///{tmp_path}/file/store.db", serve=True)


def test_without_postgresql_there_is_no_presence() -> None:
    from fastagi.store.database import parse

    presence = SharedPresence(parse("postgresql://127.0.0.1:1/none").database())
    for _ in range(2):  # it can be tried again
        with pytest.raises(PeeweeException):
            presence.start()
    presence.close()


# -- all of it at once

AT_IT = """
async def come_and_go(number):
    n = 0
    while True:
        n += 1
        for command in (log_in(number, number, id=f"child-in-{number}-{n}"),
                        log_off(number, id=f"child-off-{number}-{n}")):
            try:
                await done(store, command)
            except errors.Refused:
                await asyncio.sleep(0.005)
from fastagi.agents import errors
tasks = [asyncio.create_task(come_and_go(str(1001 + n))) for n in range(20)]
"""


@pytest.mark.postgres
async def test_one_of_two_is_killed_in_the_middle_of_everything(
    postgres_url: str, pair: Pair
) -> None:
    first, second = pair
    numbers = [str(1001 + n) for n in range(20)]
    stop = False

    async def come_and_go(number: str) -> None:
        n = 0
        while not stop:
            n += 1
            for command in (
                log_in(number, number, id=f"own-in-{number}-{n}"),
                log_off(number, id=f"own-off-{number}-{n}"),
            ):
                try:
                    await done(first, command)
                except errors.InProgress as other:
                    if other.settle:
                        for change in await unsettled(first):
                            if change.command.id.startswith("child-"):
                                await first.confirm(change)
                    await asyncio.sleep(0.005)
                except errors.Refused:
                    await asyncio.sleep(0.005)

    async def written(kind: str) -> int:
        def job(connection: Connection) -> int:
            return int(
                connection.execute(
                    "SELECT count(*) FROM events WHERE id LIKE ?", (f"{kind}-%",)
                ).fetchone()[0]
            )

        return await second.run(job, writes=False)

    async with another(postgres_url, AT_IT) as child:
        going = [asyncio.create_task(come_and_go(number)) for number in numbers]
        await eventually(lambda: _more(written, "child", 100))
        child.send_signal(signal.SIGKILL)
        await child.wait()
        ours = await written("own")
        await eventually(lambda: _more(written, "own", ours + 100))
        stop = True
        await asyncio.gather(*going)

    def no_intents(connection: Connection) -> bool:
        return bool(connection.execute("SELECT count(*) FROM intents").fetchone()[0] == 0)

    async def nothing_open() -> bool:
        for change in await unsettled(first):
            await first.confirm(change)
        return await first.run(no_intents)

    await eventually(nothing_open)
    there = {state.number: state for state in await second.logged_in()}
    views = Reading(postgres_url)
    for number in numbers:
        told = [event.event.type for event in views.events(limit=100_000, agent=number)]
        # In and out by turns, whoever did it, and the last is how it is.
        assert told == [EventType.LOGIN, EventType.LOGOUT] * (len(told) // 2) + (
            [EventType.LOGIN] if number in there else []
        )
    views.close()
    held = await first.run(lambda c: c.execute("SELECT interface FROM devices_in_use").fetchall())
    sessions = [state.session.device.key for state in there.values() if state.session]
    assert sorted(key for (key,) in held) == sorted(sessions)


async def _more(written: Callable[[str], Any], kind: str, than: int) -> bool:
    return bool(await written(kind) >= than)


@pytest.mark.postgres
async def test_the_backlog_of_an_hour_is_worked_off_by_both(pair: Pair) -> None:
    """As many events as wait when Asterisk was away; one of them is refused, and holds up nobody
    but its agent."""
    first, second = pair

    def fill(connection: Connection) -> None:
        connection.execute(
            "INSERT INTO events (id, type, agent, extension, context, queues, reason, source,"
            " actor, occurred_at, session_seconds) SELECT 'e' || n, 'agent-login',"
            " (n % 500)::text, '1', 'phones', '[]', '', 'phone', '{}', 1.0, 0"
            " FROM generate_series(1, 50000) n"
        )
        connection.execute(
            "INSERT INTO deliveries (sink, event, agent) SELECT 'lamp', seq, agent FROM events"
        )

    await first.run(fill)
    (poison,) = await first.deliveries.due(NOW, 1, Sink.LAMP)
    await first.deliveries.postpone(poison, LATER, "refused")
    seen: dict[str, int] = {poison.event.agent: 10**9}
    for _ in range(5):
        for store in pair:
            due = await store.deliveries.due(NOW, 500, Sink.LAMP)
            assert len(due) == 500
            for delivery in due:
                number = int(delivery.event.id[1:])
                assert seen.get(delivery.event.agent, 0) < number
                seen[delivery.event.agent] = number
            await store.deliveries.delivered(due)
    assert (await backlog(first))[0] == 50_000 - 5000
    assert await second.deliveries.due(LATER, 1, Sink.LAMP) != []


@pytest.mark.postgres
async def test_a_configuration_is_brought_in_while_agents_are_held(
    postgres_url: str, pair: Pair
) -> None:
    """By somebody who has one agent and wants another, which the configuration changes first."""
    renamed = settings(
        20, agents=[{"number": n, "name": "new", "queues": ["sales"]} for n in ("1001", "1002")]
    )
    lock = "SELECT id FROM agents WHERE number = '{}' FOR NO KEY UPDATE"
    with psycopg.connect(postgres_url) as other:
        other.execute(lock.format("1002"))
        bringing = asyncio.create_task(asyncio.to_thread(pair[0].bring_in, renamed))
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )

        def blocked() -> bool:
            with psycopg.connect(postgres_url) as admin:
                return admin.execute(waiting).fetchone() is not None

        await eventually(blocked)
        with contextlib.suppress(psycopg.errors.DeadlockDetected):  # it may be the one to go
            await asyncio.to_thread(other.execute, lock.format("1001"))
        other.rollback()
    difference = await bringing
    assert "agent 1002: name 'Agent 1' -> 'new'" in difference.changed
    state = await pair[1].agent("1002")
    assert state is not None
    assert state.name == "new"
