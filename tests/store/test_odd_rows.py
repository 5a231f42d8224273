"""What another version or another program has left in the store is read, or is unreadable."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from fastagi.agents.commands import COMMANDS, Command, LogOff, Pause, Unpause, from_dict, to_dict
from fastagi.agents.events import Event
from fastagi.agents.text import Unusable
from fastagi.config.settings import CreatedAgentsSettings
from fastagi.contract import EventType, Source
from fastagi.store import PeeweeStore, Reading, Records, connection
from fastagi.store.connection import planned_from
from fastagi.store.events import UnreadableEvent, event_from

from .conftest import done, log_in, pause

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
SOUND: dict[str, Any] = to_dict(Unpause(id="c", agent="1", source=Source.API))
FIELDS = ["id", "agent", "source", "actor", "device", "queue", "penalty", "reason", "kind"]


@given(
    JSON
    | st.dictionaries(st.sampled_from(FIELDS), JSON).map(lambda odd: SOUND | odd)
    | st.tuples(
        st.sampled_from(sorted(COMMANDS)), st.dictionaries(st.sampled_from(FIELDS), JSON)
    ).map(lambda odd: SOUND | odd[1] | {"kind": odd[0]})
)
def test_any_json_is_a_command_that_can_be_stored_or_is_refused(data: Any) -> None:
    try:
        command = from_dict(data)
    except (KeyError, Unusable):
        return
    assert isinstance(command, Command)
    assert isinstance(command.agent, str)
    text = json.dumps(to_dict(command), ensure_ascii=False)
    assert "\\u0000" not in text
    text.encode()
    assert from_dict(json.loads(text)) == command


@given(ANY_TEXT | JSON.map(json.dumps))
def test_what_was_planned_and_cannot_be_read_is_nothing(text: str) -> None:
    with capture_logs():
        assert planned_from(text) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000, "", "\0"])
def test_brackets_too_deep_and_numbers_too_long_are_refused(text: str) -> None:
    connection._unreadable.clear()
    with capture_logs() as logs:
        assert planned_from(text) is None
        assert planned_from(text) is None
    assert [entry["event"] for entry in logs] == ["what was planned cannot be read"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actor", {"channel": 5}),
        ("actor", []),
        ("actor", {"hung_up": "yes"}),
        ("agent", None),
        ("agent", "\ud800"),
        ("agent", "a\0"),
        ("source", "rumour"),
        ("reason", "lunch"),
        ("reason", {"code": 1, "name": "lunch"}),
        ("when_in_call", "never"),
        ("in_call", "no"),
    ],
)
def test_a_value_that_no_command_has_is_refused(field: str, value: Any) -> None:
    sound = {
        "kind": "Pause",
        "id": "c",
        "agent": "1",
        "source": "phone",
        "actor": {},
        "reason": {"code": "1", "name": "lunch"},
    }
    assert isinstance(from_dict(sound), Pause)
    with pytest.raises(Unusable):
        from_dict(sound | {field: value})


def test_what_an_earlier_version_wrote_is_read() -> None:
    command = from_dict({"kind": "LogOff", "id": "c", "agent": "1", "source": "phone"})
    assert command == LogOff(id="c", agent="1", source=Source.PHONE)


ROW: list[Any] = [
    *("id-1", "agent-login", "1001", "1001", "phones", '["sales"]', "", "phone", "{}"),
    *(1795348800.25, 0, "", False, "local"),
]
ODD = (
    st.none()
    | st.integers()
    | st.floats()
    | ANY_TEXT
    | st.binary(max_size=5)
    | JSON.map(json.dumps)
)


@given(st.dictionaries(st.integers(0, len(ROW) - 1), ODD, min_size=1))
def test_any_row_is_an_event_or_unreadable(odd: dict[int, Any]) -> None:
    row = [odd.get(n, value) for n, value in enumerate(ROW)]
    with suppress(UnreadableEvent):
        event = event_from(row)
        assert isinstance(event, Event)
        json.dumps(event.as_dict(), ensure_ascii=False).encode()


def test_the_row_itself_is_one() -> None:
    event = event_from(ROW)
    assert (event.type, event.queues, event.actor.channel) == (EventType.LOGIN, ("sales",), "")


@pytest.mark.parametrize("at", [1e300, float("nan"), float("inf"), -1e300, "x", None])
def test_a_time_that_is_none(at: Any) -> None:
    with pytest.raises(UnreadableEvent):
        event_from([*ROW[:9], at, *ROW[10:]])


ODD_VALUES: list[tuple[str, str, object]] = [
    ("login_sessions", "since", 1e18),
    ("login_sessions", "since", "abc"),
    ("login_sessions", "since", -1e15),
    ("login_sessions", "source", "a later one"),
    ("login_sessions", "planned", '{"a"'),
    ("pause_segments", "since", 1e300),
    ("pause_segments", "source", "a later one"),
    ("pause_reasons", "max_duration", 1e300),
    ("pause_reasons", "max_duration", "long"),
    ("pause_reasons", "when_exceeded", "a later one"),
    ("events", "occurred_at", 1e18),
    ("events", "source", "a later one"),
]


@pytest.mark.parametrize(("table", "column", "value"), ODD_VALUES)
async def test_one_odd_row_keeps_no_other_from_being_read(
    sqlite_made: dict[bool, Path],
    tmp_path: Path,
    opened: Callable[..., PeeweeStore],
    table: str,
    column: str,
    value: object,
) -> None:
    path = tmp_path / "odd.db"
    shutil.copy(sqlite_made[True], path)
    store = opened(f"sqlite:///{path}", serve=True)
    await done(store, log_in())
    await done(store, log_in("1002", "1002"))
    await done(store, pause())
    views = Reading(f"sqlite:///{path}", store.file)
    its = {
        "login_sessions": "agent_id = (SELECT id FROM agents WHERE number = '1001')",
        "events": "seq = 1",
    }
    hand = sqlite3.connect(path)
    hand.execute(f"UPDATE {table} SET {column} = ? WHERE {its.get(table, '1')}", (value,))
    hand.commit()
    hand.close()
    with capture_logs() as logs:
        for _ in range(3):
            assert [one.number for one in await store.logged_in()] == ["1001", "1002"]
            assert set(await store.states(["1001", "1002"])) == {"1001", "1002"}
            await store.planned()
    assert len(logs) <= 1
    assert len(await store.lately(100)) == 2
    assert [one.agent for one in await store.open_pauses()] == ["1001"]
    await store.limits()
    assert {"1001", "1002"} <= {one.number for one in views.agents()}
    assert Records(store, views, CreatedAgentsSettings, lambda: "en").reasons()
    assert len(views.settled_events(0, 10)) >= 2
    await done(store, pause("1002"))
    assert (await store.health.ask()).fault is None
    views.close()


async def test_a_hook_that_cannot_be_read_holds_no_other_back(
    sqlite_made: dict[bool, Path], tmp_path: Path, opened: Callable[..., PeeweeStore]
) -> None:
    path = tmp_path / "odd.db"
    shutil.copy(sqlite_made[True], path)
    store = opened(f"sqlite:///{path}", serve=True)
    agent = await store.agent("1001")
    assert agent is not None
    made = []
    for n in range(2):
        url = f"https://{n}.example/"
        hook = await store.hooks.create(
            "crm", agent.id, "local", EventType.LOGIN, "POST", url, "json"
        )
        assert hook is not None
        made.append(hook)
    await done(store, log_in())
    hand = sqlite3.connect(path)
    hand.execute("UPDATE hooks SET event_type = 'a later one' WHERE id = ?", (made[0].id,))
    hand.commit()
    hand.close()
    now = datetime.now(UTC) + timedelta(days=1)
    found = await store.hook_deliveries.due(now, 10, frozenset())
    assert [delivery.hook.id for delivery in found] == [made[1].id]
    assert await store.hooks.parked(made[0].id) == 1
