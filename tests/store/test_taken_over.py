"""A database of version 0.3.0, left by a service that was killed with everything in flight."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from fastagi.agents.commands import LogIn, LogOff, Pause
from fastagi.contract import EventType, Sink, Source
from fastagi.store import PeeweeStore, Reading, retry_parked

from .conftest import (
    BACKENDS,
    LATER,
    LUNCH,
    NOW,
    done,
    log_off,
    login_sessions,
    parked,
    pauses,
    unsettled,
)

Opened = Callable[..., PeeweeStore]

MADE = Path(__file__).parent / "made_by_0_3"
LAST = ["in-1001-1", "in-1002-1", "pause-1002-1", "in-1005-1", "off-1005-1", "in-again-1005-1"]


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    text = (MADE / f"{request.param}.sql").read_text("utf-8")
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        connection = sqlite3.connect(path)
        connection.executescript(text)
        connection.close()
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("postgres_url")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(text.encode())
    return url


async def test_sessions_and_pauses_go_on(url: str, opened: Opened) -> None:
    store = opened(url)
    states = {state.number: state for state in await store.logged_in()}
    assert sorted(states) == ["1001", "1002", "1005"]
    for number, state in states.items():
        assert state.session is not None
        assert (state.session.device.interface, state.session.since) == (f"PJSIP/{number}", NOW)
        assert [m.queue for m in state.joined] == ["sales", "support"]
    paused = states["1002"].pause
    assert paused is not None
    assert (paused.reason.code, paused.reason.name, paused.since) == ("1", "lunch", NOW)
    await done(store, log_off("1002"), LATER)
    reading = Reading(url)
    assert login_sessions(reading, "1002")[0].ended_at == LATER
    assert pauses(reading, "1002")[0].ended_how == "logged_off"
    assert [s.event.id for s in reading.events()][:6] == LAST
    reading.close()


async def test_what_was_begun_is_settled(url: str, opened: Opened) -> None:
    store = opened(url)
    changes = {change.command.agent: change for change in await unsettled(store)}
    assert sorted(changes) == ["1001", "1003", "1005"]
    off, into, pause = (changes[number].command for number in ("1001", "1003", "1005"))
    assert isinstance(off, LogOff)
    assert isinstance(into, LogIn)
    assert isinstance(pause, Pause)
    assert pause.reason.code == LUNCH.code
    assert {change.command.source for change in changes.values()} == {Source.PHONE}
    await store.confirm(changes["1001"])
    await store.withdraw(changes["1003"], None)
    await store.confirm(changes["1005"])
    assert await unsettled(store) == []
    assert sorted(state.number for state in await store.logged_in()) == ["1002", "1005"]
    reading = Reading(url)
    told = [(s.event.id, s.event.type, s.event.occurred_at) for s in reading.events(after=6)]
    assert sorted(told) == [
        ("open-off-1001-1", EventType.LOGOUT, LATER),
        ("open-pause-1005-1", EventType.PAUSE, LATER),
    ]
    assert reading.agents(["1005"])[0].pause_reason == LUNCH.name
    reading.close()


async def test_what_is_owed_to_asterisk_is_delivered(url: str, opened: Opened) -> None:
    """With nothing twice: what is postponed waits, what was given up is where the admin left it."""
    store = opened(url)

    async def owed(sink: Sink) -> list[str]:
        return [d.event.id for d in await store.deliveries.due(LATER, 99, sink)]

    async with store.exclusive("deliver:lamp", wait=True):  # at once: its holder is dead
        assert await owed(Sink.LAMP) == LAST[1:]
        assert await owed(Sink.QUEUE_LOG) == [LAST[0], LAST[1], *LAST[3:]]
        assert await owed(Sink.USER_EVENT) == LAST[1:]
        ((given_up, why),) = await parked(store)
        assert (given_up.event.id, given_up.sink) == (LAST[0], Sink.USER_EVENT)
        assert (given_up.attempts, why) == (1, "refused by Asterisk")
        retry_parked(url, LAST[0])
        assert await owed(Sink.USER_EVENT) == LAST
        await store.deliveries.delivered(await store.deliveries.due(LATER, 99, Sink.USER_EVENT))
        assert await owed(Sink.USER_EVENT) == []


async def test_hooks_and_what_is_owed_to_them(url: str, opened: Opened) -> None:
    store = opened(url)
    agent = await store.agent("1005")
    assert agent is not None
    (hook,) = await store.hooks.of("crm", agent.id, "local") or []
    assert (hook.event_type, hook.method, hook.url) == (
        EventType.LOGIN,
        "POST",
        "http://127.0.0.1:9/1005",
    )
    (attempt,) = await store.hooks.log(hook.id, 9)
    assert (attempt.event_id, attempt.status, attempt.outcome) == ("in-1005-1", 500, "failed")
    due = await store.hook_deliveries.due(LATER, 9, frozenset())
    assert [d.event.id for d in due] == ["pause-1002-1"]  # in-1005-1 is postponed
    first = (await store.agent("1001")) or agent
    (of_first,) = await store.hooks.of("crm", first.id, "local") or []
    assert await store.hooks.parked(of_first.id) == 1
    assert await store.hooks.retry(of_first.id) == 1
    due = await store.hook_deliveries.due(LATER, 9, frozenset())
    assert [(d.event.id, d.attempts) for d in due] == [("in-1001-1", 0), ("pause-1002-1", 0)]


async def test_reports_of_what_waits(url: str, opened: Opened) -> None:
    opened(url)
    reading = Reading(url)
    assert [(b.sink, b.waiting, b.parked) for b in reading.backlog()] == [
        ("user_event", 5, 1),
        ("queue_log", 5, 0),
        ("lamp", 6, 0),
        ("hook", 3, 1),
    ]
    assert [(p.sink, p.event_id) for p in reading.parked()] == [
        ("hook 1", "in-1001-1"),
        ("user_event", "in-1001-1"),
    ]
    reading.close()
