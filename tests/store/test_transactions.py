"""Begin, confirm, withdraw: what is written, and what is left after each kind of accident."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import product

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents import errors
from fastagi.agents.commands import (
    NO_FACTS,
    AddToQueue,
    Adopt,
    AssignPenalty,
    ChangePenalty,
    Command,
    Facts,
    JoinQueue,
    LeaveQueue,
    LogIn,
    PauseReason,
    Relog,
    RemoveFromQueue,
    Unpause,
    WhenInCall,
    from_dict,
    to_dict,
)
from fastagi.agents.events import SINKS, Event
from fastagi.agents.lockout import USUAL_FOR, Place, Verdict
from fastagi.agents.model import TABLE, Change, Status
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType, Outcome, Sink, Source
from fastagi.store import PeeweeStore
from fastagi.store.connection import Connection, dumped

from .conftest import (
    ACTOR,
    IN_CALL,
    LATER,
    NOW,
    begin,
    device,
    done,
    log_in,
    log_off,
    pause,
    settings,
    unsettled,
)

Opened = Callable[..., PeeweeStore]


def count(table: str) -> Callable[[Connection], int]:
    def job(connection: Connection) -> int:
        (number,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(number)

    return job


async def fresh(store: PeeweeStore, number: str = "1001") -> object:
    """The state as the database has it, past everything that is kept in memory."""
    return await store.run(
        lambda connection: connection.loaded_where("a.number = ?", (number,))[0].state, writes=False
    )


async def same_everywhere(store: PeeweeStore, change: Change) -> None:
    assert await fresh(store) == change.after
    assert await store.agent("1001") == change.after


COFFEE = PauseReason("2", "coffee")


def commands(kind: type[Command]) -> list[Command]:
    """Every command of a kind that makes a difference to how it is stored."""
    common = {"agent": "1001", "source": Source.PHONE, "actor": ACTOR}
    return {
        "LogIn": [
            log_in(),
            log_in(extension="2002", move=True),
            log_in(extension="2002"),
            replace(log_in(), id="some", queues=("support",)),
        ],
        "LogOff": [
            log_off(),
            log_off(id="later", when_in_call=WhenInCall.AFTER_CALL),
            log_off(id="not-now", when_in_call=WhenInCall.REFUSE),
            log_off(reason="taken over"),
        ],
        "Pause": [pause(), pause(reason=COFFEE), pause(id="not-locked")],
        "Unpause": [Unpause(id="unpause", **common)],
        "JoinQueue": [
            JoinQueue(id="join", queue="support", **common),
            JoinQueue(id="join-sales", queue="sales", **common),
            JoinQueue(id="join-none", queue="nowhere", **common),
        ],
        "LeaveQueue": [
            LeaveQueue(id="leave", queue="sales", **common),
            LeaveQueue(id="leave-last", queue="sales", **common),
            LeaveQueue(id="leave-support", queue="support", **common),
        ],
        "ChangePenalty": [
            ChangePenalty(id="penalty", queue="sales", penalty=7, **common),
            ChangePenalty(id="penalty-same", queue="sales", penalty=0, **common),
            ChangePenalty(id="penalty-none", queue="nowhere", penalty=7, **common),
        ],
        "AddToQueue": [
            AddToQueue(id="give", queue="billing", number="703", penalty=4, **common),
            AddToQueue(id="give-sales", queue="sales", number="701", **common),
        ],
        "RemoveFromQueue": [
            RemoveFromQueue(id="take", queue="sales", **common),
            RemoveFromQueue(id="take-support", queue="support", **common),
            RemoveFromQueue(id="take-none", queue="nowhere", **common),
        ],
        "AssignPenalty": [
            AssignPenalty(id="assign", queue="sales", penalty=7, **common),
            AssignPenalty(id="assign-support", queue="support", penalty=7, **common),
            AssignPenalty(id="assign-same", queue="sales", penalty=0, **common),
            AssignPenalty(id="assign-none", queue="nowhere", penalty=7, **common),
        ],
        "Relog": [Relog(id="relog", **common)],
    }[kind.__name__]  # type: ignore[return-value]


FACTS = {  # by the command's id
    "later": IN_CALL,
    "not-now": IN_CALL,
    "leave-last": Facts(last_in_queue=True),
    "not-locked": Facts(locked=True),
}
CELLS = [
    pytest.param(
        status, planned, command, id=f"{status.name}{'-planned' * planned}-{command.id}-{n}"
    )
    for n, (kind, status) in enumerate(product(TABLE, Status))
    if kind is not Adopt  # never an intent
    for command in commands(kind)
    for planned in (False, True)
    if not (planned and status is Status.LOGGED_OFF)
]


@pytest.mark.parametrize(("status", "planned", "command"), CELLS)
async def test_every_transition_is_read_back_as_it_was_decided(
    store: PeeweeStore, status: Status, planned: bool, command: Command
) -> None:
    if status is not Status.LOGGED_OFF:
        await done(store, log_in())
        await done(store, LeaveQueue(id="out", agent="1001", source=Source.API, queue="support"))
    if status is Status.PAUSED:
        await done(store, pause())
    if planned:
        await done(store, log_off(when_in_call=WhenInCall.AFTER_CALL), facts=IN_CALL)
    before = await fresh(store)
    events = await store.run(count("events"))
    try:
        change = await begin(store, command, LATER, FACTS.get(command.id, NO_FACTS))
    except errors.Refused:
        assert await fresh(store) == before
        assert await store.run(count("events")) == events
        assert await store.run(count("intents")) == 0
        return
    assert change.before == before
    if change.steps:
        assert await fresh(store) == before  # nothing is assumed applied
        assert await unsettled(store) == [change]
        assert await store.agent("1001") == before
    await store.confirm(change)
    await same_everywhere(store, change)
    await store.confirm(change)
    await same_everywhere(store, change)
    assert await store.run(count("events")) == events + len(change.events)
    assert await unsettled(store) == []
    for event in change.events:
        for sink in SINKS[event.type]:
            owed = [d.event for d in await store.deliveries.due(LATER, 100, sink)]
            assert owed.count(event) == 1
    # Whose device is whose follows from the sessions.
    after = change.after.session
    held = await store.run(
        lambda connection: connection.execute("SELECT interface FROM devices_in_use").fetchall()
    )
    assert [row[0] for row in held] == ([] if after is None else [after.device.key])


@pytest.mark.parametrize(("status", "planned", "command"), CELLS[::3])
async def test_a_withdrawn_change_leaves_no_trace(
    store: PeeweeStore, status: Status, planned: bool, command: Command
) -> None:
    if status is not Status.LOGGED_OFF:
        await done(store, log_in())
    if status is Status.PAUSED:
        await done(store, pause())
    before = await fresh(store)
    rows = await store.run(count("events")), await store.run(count("devices_in_use"))
    try:
        change = await begin(store, command, LATER, FACTS.get(command.id, NO_FACTS))
    except errors.Refused:
        return
    if not change.steps:
        return
    await store.withdraw(change, None)
    await store.withdraw(change, None)
    assert await fresh(store) == before
    assert await store.agent("1001") == before
    assert await unsettled(store) == []
    assert rows == (await store.run(count("events")), await store.run(count("devices_in_use")))


async def test_the_event_of_a_withdrawal_is_written_once(store: PeeweeStore) -> None:
    change = await begin(store, log_in(), NOW)
    refused = replace(
        change.events[0],
        id=f"{change.command.id}-refused",
        type=EventType.LOGIN_REFUSED,
        reason=Outcome.QUEUE_REFUSED.value,
    )
    await store.withdraw(change, refused)
    await store.record(refused)
    due = await store.deliveries.due(NOW, 10, Sink.USER_EVENT)
    assert [d.event for d in due] == [refused]


async def test_what_was_taken_back_cannot_be_confirmed(store: PeeweeStore) -> None:
    change = await begin(store, log_in(), NOW)
    await store.withdraw(change, None)
    with pytest.raises(StoreUnavailable, match="taken back"):
        await store.confirm(change)
    assert await store.logged_in() == []


async def test_what_the_clock_has_done_once_it_does_not_do_again(store: PeeweeStore) -> None:
    await done(store, log_in())
    away = replace(pause(), id="away-1", source=Source.SYSTEM)
    await done(store, away)
    await done(store, Unpause(id="back", agent="1001", source=Source.API))
    before = await fresh(store)
    again = await begin(store, away, LATER)
    assert not again.alters
    assert again.steps == ()
    await store.confirm(again)
    assert await fresh(store) == before
    assert await unsettled(store) == []


async def test_one_unsettled_change_per_agent(store: PeeweeStore) -> None:
    change = await begin(store, log_in(), NOW)
    with pytest.raises(errors.Unavailable):
        await begin(store, log_in(extension="2002"), NOW)
    assert await begin(store, change.command, LATER) == change  # the same call again
    await store.confirm(change)
    with pytest.raises(errors.LoggedInElsewhere):
        await begin(store, log_in(extension="2002"), NOW)


async def test_an_intent_nobody_understands_locks_nobody_out(store: PeeweeStore) -> None:
    change = await begin(store, log_in(), NOW)

    def garble(connection: Connection) -> None:
        connection.execute("UPDATE intents SET command = ?", ('{"kind": "Fly"}',))
        connection.forget()

    await store.run(garble)
    assert await unsettled(store) == []
    assert await begin(store, log_in(), NOW) is not None, "the agent and the device are free"
    assert change.command.agent == "1001"


async def test_unknown_agents(store: PeeweeStore) -> None:
    assert await store.agent("9999") is None
    with pytest.raises(errors.NoSuchAgent):
        await begin(store, log_in("9999"), NOW)
    nasty = "1001'; DROP TABLE agents; --"
    assert await store.agent(nasty) is None
    assert await store.queue_numbered(nasty) is None
    assert await store.agent_at(nasty) is None
    assert await store.agent("1001") is not None


async def test_who_is_where(store: PeeweeStore) -> None:
    change = await begin(store, log_in(), NOW)
    assert await store.agent_at("pjsip/1001") is None  # claimed, not yet logged in
    await store.confirm(change)
    assert await store.agent_at("pjsip/1001") == change.after
    moved = await begin(store, log_in(extension="2002", move=True), LATER)
    assert await store.agent_at("pjsip/2002") is None
    assert await store.agent_at("pjsip/1001") == change.after
    await store.confirm(moved)
    assert await store.agent_at("pjsip/1001") is None
    assert await store.agent_at("pjsip/2002") == moved.after
    assert await store.logged_in() == [moved.after]


async def test_small_questions(store: PeeweeStore) -> None:
    assert await store.queue_numbered("702") == "support"
    assert await store.queue_numbered("799") is None
    assert [r.code for r in await store.reasons()] == ["1", "2", "10"]
    assert await store.note("asterisk_started") is None
    await store.set_note("asterisk_started", "2026-11-22 08:00:00")
    await store.set_note("asterisk_started", "2026-11-22 09:00:00")
    assert await store.note("asterisk_started") == "2026-11-22 09:00:00"


async def test_planned_log_offs(store: PeeweeStore) -> None:
    await done(store, log_in())
    command = log_off(when_in_call=WhenInCall.AFTER_CALL)
    await done(store, command, facts=IN_CALL)
    assert await store.planned() == [command]
    await done(store, log_off())
    assert await store.planned() == []


async def test_a_wake_up_follows_a_commit_with_deliveries(store: PeeweeStore) -> None:
    woken: list[int] = []
    store.on_commit(lambda: woken.append(1))
    change = await begin(store, log_in(), NOW)
    assert not woken
    await store.confirm(change)
    assert woken == [1]
    await store.confirm(change)
    assert woken == [1]


# -- races


async def test_fifty_agents_want_one_device(url: str, opened: Opened) -> None:
    """On PostgreSQL two services race for it; SQLite belongs to one."""
    first = opened(url)
    first.bring_in(settings(50))
    second = first if url.startswith("sqlite") else opened(url)
    results = await asyncio.gather(
        *(begin((first, second)[n % 2], log_in(str(1001 + n), "5000"), NOW) for n in range(50)),
        return_exceptions=True,
    )
    winners = [r for r in results if isinstance(r, Change)]
    assert len(winners) == 1
    refusals = [r for r in results if not isinstance(r, Change)]
    assert {type(r) for r in refusals} == {errors.ExtensionInUse}
    assert {getattr(r, "occupant", None) for r in refusals} == {winners[0].command.agent}
    (winner,) = {n % 2 for n, result in enumerate(results) if isinstance(result, Change)}
    await (first, second)[winner].confirm(winners[0])
    assert await second.agent_at("pjsip/5000") == winners[0].after


async def test_two_changes_of_one_agent_race(url: str, opened: Opened) -> None:
    first = opened(url)
    first.bring_in(settings())
    second = first if url.startswith("sqlite") else opened(url)
    results = await asyncio.gather(
        *(begin((first, second)[n % 2], log_in(extension=str(5000 + n)), NOW) for n in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(r, Change) for r in results) == 1
    assert sum(isinstance(r, errors.Unavailable) for r in results) == 19
    assert await first.run(count("devices_in_use")) == 1


AT = NOW.timestamp()
MEMORY = 1800.0
DESK = Place("phone::pjsip/2001", outside=False)


def only(most: int) -> Callable[[Mapping[str, Sequence[float]], bool], Verdict]:
    """So many failures of the agent at the place; then it is locked."""

    def rule(failed_at: Mapping[str, Sequence[float]], usual: bool) -> Verdict:
        own = next(key for key in failed_at if "phone" in key)
        return Verdict(AT, own if len(failed_at[own]) >= most else "")

    return rule


async def test_racing_attempts_all_count(url: str, opened: Opened) -> None:
    first = opened(url)
    second = first if url.startswith("sqlite") else opened(url)
    keys = DESK.keys("1001")
    answers = await asyncio.gather(
        *((first, second)[n % 2].pin_attempt(keys, AT, MEMORY, only(5)) for n in range(30))
    )
    assert [answer.locked for answer in answers].count("") == 5
    assert await first.run(count("pin_failures")) == 3 * 5
    # A right one forgives all of the agent's at the place, and its own among the others'.
    await first.pin_passed(keys, AT, AT + 60)
    assert await first.run(count("pin_failures")) == 2 * 4
    # In the end everything is forgotten, and not kept for ever either.
    await first.pin_attempt(keys, AT + MEMORY + 1, MEMORY, only(5))
    assert await first.run(count("pin_failures")) == 3


async def test_a_right_pin_forgives_its_own_failure_and_no_other(store: PeeweeStore) -> None:
    keys = Place("number:0712345678", outside=True).keys("1001")
    for seconds in (0.0, 50.0, 20.0):
        await store.pin_attempt(keys, AT, MEMORY, lambda _, __, at=AT + seconds: Verdict(at))
    await store.pin_passed(keys, AT + 50.0, AT + 500)

    def left(connection: Connection) -> list[tuple[str, float]]:
        rows = connection.execute("SELECT key, at FROM pin_failures ORDER BY at, key").fetchall()
        return [(key, at - AT) for key, at in rows]

    assert await store.run(left) == [
        ("agent:1001@outside", 0.0),
        ("place:number:0712345678", 0.0),
        ("agent:1001@outside", 20.0),
        ("place:number:0712345678", 20.0),
    ]


async def test_a_place_where_the_pin_was_proved_is_the_agents_usual_one(
    store: PeeweeStore,
) -> None:
    keys = DESK.keys("1001")
    told: list[bool] = []

    def rule(_: Mapping[str, Sequence[float]], usual: bool) -> Verdict:
        told.append(usual)
        return Verdict(AT)

    await store.pin_attempt(keys, AT, MEMORY, rule)
    await store.pin_passed(keys, AT, AT + USUAL_FOR)
    await store.pin_attempt(keys, AT, MEMORY, rule)
    await store.pin_attempt(DESK.keys("1002"), AT, MEMORY, rule)
    await store.pin_attempt(keys, AT + USUAL_FOR, MEMORY, rule)
    assert told == [False, True, False, False]
    nowhere = Place("", outside=True).keys("1001")
    await store.pin_passed(nowhere, AT, AT + 2 * USUAL_FOR)
    assert await store.run(count("usual_places")) == 1
    await store.pin_passed(DESK.keys("1003"), AT, AT + 3 * USUAL_FOR)
    assert await store.run(count("usual_places")) == 1, "what is over is not kept"


async def test_failures_survive_a_restart_with_the_clock_set_back(url: str, opened: Opened) -> None:
    """As if they were of now: a lock ends in its time, and neither at once nor a day later."""
    first = opened(url)
    keys = DESK.keys("1001")
    await first.pin_attempt(keys, AT, MEMORY, only(9))
    await first.close()
    second = opened(url)
    earlier = AT - 86_400
    seen: list[Sequence[float]] = []

    def rule(failed_at: Mapping[str, Sequence[float]], usual: bool) -> Verdict:
        seen.append(failed_at[keys.own])
        return Verdict(earlier, keys.own)

    await second.pin_attempt(keys, earlier, MEMORY, rule)
    assert seen == [[earlier]]


async def test_the_outside_numbers_of_an_agent(store: PeeweeStore) -> None:
    assert await store.outside_numbers("1001") == ()
    assert await store.outside_numbers("9999") == ()
    agents = [
        {"number": "1001", "name": "Agent 0", "outside": ["0712345678", "06XXXXXXXX"]},
        {"number": "1002", "name": "Bob"},
    ]
    difference = store.bring_in(settings(agents=agents))
    assert "agent 1001" in str(difference.lines())
    assert "outside numbers none -> 0712345678 06XXXXXXXX" in str(difference.lines())
    assert await store.outside_numbers("1001") == ("0712345678", "06XXXXXXXX")
    assert await store.outside_numbers("1002") == ()


# -- many calls, one commit


async def test_waiting_calls_share_a_commit(sqlite_url: str, opened: Opened) -> None:
    store = opened(sqlite_url)
    store.bring_in(settings(50))
    commits = store.workers.commits
    changes = await asyncio.gather(
        *(begin(store, log_in(str(1001 + n), str(1001 + n)), NOW) for n in range(50))
    )
    await asyncio.gather(*(store.confirm(change) for change in changes))
    assert store.workers.commits - commits <= 6
    assert len(await store.logged_in()) == 50


async def test_a_failing_call_harms_no_other(store: PeeweeStore) -> None:
    class Fault(Exception):
        pass

    def faulty(connection: Connection) -> None:
        connection.execute("INSERT INTO notes (key, value) VALUES ('faulty', 'x')")
        raise Fault

    def forbidden(connection: Connection) -> None:
        connection.execute("INSERT INTO notes (key, value) VALUES ('twice', 'x')")
        connection.execute("INSERT INTO notes (key, value) VALUES ('twice', 'x')")

    results = await asyncio.gather(
        store.set_note("before", "1"),
        store.run(faulty),
        begin(store, log_in(), NOW),
        store.run(forbidden),
        store.set_note("after", "1"),
        return_exceptions=True,
    )
    assert isinstance(results[1], Fault)
    assert isinstance(results[3], sqlite3.IntegrityError | psycopg.IntegrityError)
    assert isinstance(results[2], Change)
    await store.confirm(results[2])
    assert await store.note("before") == await store.note("after") == "1"
    assert await store.note("faulty") is None
    assert await store.note("twice") is None


# -- accidents


async def test_a_full_disk(sqlite_url: str, opened: Opened) -> None:
    store = opened(sqlite_url)
    store.bring_in(settings())
    before = await fresh(store)
    change = await begin(store, log_in(), NOW)

    def pragma(name: str, value: int) -> Callable[[Connection], None]:
        return lambda connection: connection.execute(f"PRAGMA {name} = {value}").fetchall() and None

    def fill(connection: Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    await store.run(fill, writes=False)
    big = "x" * 1_000_000
    results = await asyncio.gather(
        store.confirm(change), store.set_note("big", big), return_exceptions=True
    )
    assert [type(r) for r in results] == [StoreUnavailable, StoreUnavailable]
    assert await store.agent("1001") == before  # nothing was written, reading goes on
    assert await unsettled(store) == [change]
    await store.run(pragma("max_page_count", 1_000_000), writes=False)
    await store.confirm(change)
    await store.set_note("big", big)
    await same_everywhere(store, change)


async def test_a_disk_that_is_full_at_any_call(sqlite_url: str, opened: Opened) -> None:
    """Whatever is called: refused, nothing of it stored, and done when there is room again."""
    store = opened(sqlite_url)
    store.bring_in(settings(40))
    for n in range(5):
        await done(store, log_in(str(1001 + n), str(1001 + n)))

    def limit(more: int) -> Callable[[Connection], None]:
        def job(connection: Connection) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages + more}").fetchall()

        return job

    async def everything() -> list[str]:
        def job(connection: Connection) -> list[str]:
            tables = (
                "events",
                "deliveries",
                "login_sessions",
                "intents",
                "devices_in_use",
                "notes",
            )
            return [
                repr(connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall())
                for table in tables
            ]

        return await store.run(job, writes=False)

    full = 0
    for n in range(40):
        # Each time, as SQLite ends the transaction by itself and the connection is replaced.
        await store.run(limit(n % 3), writes=False)
        number = str(1001 + n)
        long = replace(device(number), context="phones" + "x" * 3000)
        try:
            change = await begin(store, replace(log_in(number), device=long, move=True), LATER)
        except StoreUnavailable:
            full += 1
            continue
        before = await everything()
        try:
            await store.confirm(change)
        except StoreUnavailable:
            full += 1
            assert await everything() == before
            assert change in await unsettled(store)
            await store.run(limit(0), writes=False)
            with pytest.raises(StoreUnavailable):
                await store.record(replace(change.events[0], context="x" * 1_000_000))
            assert await everything() == before
    assert full > 10
    await store.run(limit(100_000), writes=False)
    for change in await unsettled(store):
        await store.confirm(change)
    for n in range(40):
        number = str(1001 + n)
        await done(store, replace(log_in(number, number), move=True))
        assert await fresh(store, number) == await store.agent(number)
    assert len(await store.logged_in()) == 40
    assert await unsettled(store) == []


async def test_a_file_system_that_takes_no_more(sqlite_url: str, opened: Opened) -> None:
    """The kernel refuses to let the files grow, in another process; then it lets them again."""
    opened(sqlite_url).bring_in(settings())
    program = textwrap.dedent(
        f"""
        import asyncio, glob, os, resource
        from tests.store.conftest import *
        from fastagi.agents.service import StoreUnavailable
        async def main():
            store = open_store({sqlite_url!r})
            resource.setrlimit(resource.RLIMIT_FSIZE, (16384, resource.RLIM_INFINITY))
            failed = 0
            for n in range(20):
                try:
                    await done(store, log_in(id=f"in-{{n}}"))
                    await done(store, log_off(id=f"off-{{n}}"))
                except StoreUnavailable:
                    failed += 1
            assert failed, "there was room"
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            for change in await unsettled(store):
                await store.withdraw(change, None)
            state = await store.agent("1001")
            if state.session is not None:
                await done(store, log_off())
            await done(store, log_in(id="in-the-end"))
            print((await store.agent("1001")).session.id)
            await store.close()
        asyncio.run(main())
        """
    )
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines()[-1] == "in-the-end"


async def test_a_locked_file_is_waited_for_and_given_up(sqlite_url: str, opened: Opened) -> None:
    store = opened(sqlite_url, deadline=2.0)
    store.bring_in(settings())
    path = sqlite_url.removeprefix("sqlite:///")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    running = asyncio.ensure_future(store.set_note("a", "1"))
    await asyncio.sleep(0.3)
    waiting = asyncio.ensure_future(store.set_note("b", "1"))
    with pytest.raises(StoreUnavailable):
        await waiting
    other.execute("ROLLBACK")
    await running  # was at it already: only the database knows what becomes of it
    assert await store.note("a") == "1"
    assert await store.note("b") is None  # what was given up was not done behind our back
    other.close()


async def test_a_caller_who_leaves_while_it_begins(sqlite_url: str, opened: Opened) -> None:
    store = opened(sqlite_url)
    store.bring_in(settings())
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    task = asyncio.ensure_future(begin(store, log_in(), NOW))
    await asyncio.sleep(0.2)  # the thread waits for the lock now
    task.cancel()
    await asyncio.wait({task})
    other.execute("ROLLBACK")
    other.close()
    for _ in range(100):
        if not await store.run(count("devices_in_use")) and not await unsettled(store):
            break
        await asyncio.sleep(0.02)
    change = await begin(store, log_in(), NOW)
    assert change.outcome is Outcome.LOGGED_IN


@pytest.mark.postgres
async def test_lost_backends_are_replaced(postgres_url: str, opened: Opened) -> None:
    store = opened(postgres_url)
    store.bring_in(settings())
    change = await begin(store, log_in(), NOW)
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        for _ in range(3):
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.gather(*(store.set_note(f"n{n}", "1") for n in range(20)))
    await store.confirm(change)
    await same_everywhere(store, change)


async def test_after_a_kill_the_same_change_is_found(url: str, opened: Opened) -> None:
    opened(url).bring_in(settings())
    program = textwrap.dedent(
        f"""
        import asyncio, os, signal
        from tests.store.conftest import NOW, begin, log_in
        from fastagi.store import open_store
        async def main():
            store = open_store({url!r})
            change = await begin(store, log_in(id="before-the-kill"), NOW)
            print(repr(change), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
        """
    )
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    store = opened(url)
    (change,) = await unsettled(store)
    assert repr(change) in child.stdout
    with pytest.raises(errors.ExtensionInUse):  # the claim holds too
        await begin(store, log_in("1002", "1001"), NOW)
    await store.withdraw(change, None)
    await done(store, log_in("1002", "1001"))


async def test_unsettled_changes_come_oldest_first(store: PeeweeStore) -> None:
    late = await begin(store, log_in("1001", "1"), LATER)
    early = await begin(store, log_in("1002", "2"), NOW)
    assert await unsettled(store) == [early, late]


async def test_a_closed_store_says_so(sqlite_url: str, opened: Opened) -> None:
    store = opened(sqlite_url)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.agent("1001")


# -- words on paper

# What no command has: nothing that holds it gets this far, and PostgreSQL stores no NUL.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(id=TEXT, caller=TEXT, extension=TEXT, hung_up=st.booleans(), move=st.booleans())
def test_a_command_is_written_as_the_hall_would(
    id: str, caller: str, extension: str, hung_up: bool, move: bool
) -> None:
    actor = replace(ACTOR, caller_id=caller, hung_up=hung_up)
    command = LogIn(
        id=id,
        agent="1001",
        source=Source.API,
        actor=actor,
        device=replace(device(), extension=extension),
        move=move,
    )
    assert json.loads(dumped(command)) == to_dict(command)
    assert from_dict(json.loads(dumped(command))) == command


@pytest.mark.parametrize("kind", sorted(TABLE.keys() - {Adopt}, key=str))
def test_every_command_is_written_as_the_hall_would(kind: type[Command]) -> None:
    for command in commands(kind):
        assert json.loads(dumped(command)) == json.loads(json.dumps(to_dict(command)))
        assert from_dict(json.loads(dumped(command))) == command


@pytest.mark.parametrize("moment", [NOW, datetime.max.replace(tzinfo=NOW.tzinfo, year=2100)])
async def test_an_event_is_read_back_as_it_was(store: PeeweeStore, moment: datetime) -> None:
    event = Event(
        id="e",
        type=EventType.LOGOUT,
        agent="no such agent",
        extension="+49 'x' %s ?",
        queues=("a,b", 'c"d'),
        reason="naïve ☎",
        source=Source.ASTERISK,
        actor=replace(ACTOR, hung_up=True),
        occurred_at=moment,
        context="phones",
        session_seconds=12,
    )
    await store.record(event)
    await store.record(event)
    for sink in SINKS[event.type]:
        assert [d.event for d in await store.deliveries.due(NOW, 10, sink)] == [event]
