"""URLs, files, migrations."""

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from fastagi.agents.commands import NO_FACTS, Facts, PauseReason, WhenInCall, to_dict
from fastagi.agents.deciding import again
from fastagi.agents.model import Change, Membership
from fastagi.agents.records import Stored
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType, Sink
from fastagi.store import BadDatabaseUrl, PeeweeStore, SchemaTooNew, open_store
from fastagi.store.connection import Connection
from fastagi.store.database import parse
from fastagi.store.migrations import FOLDER, migrate
from fastagi.store.tables import TABLES

from .conftest import (
    BACKENDS,
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


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """Of a database without anything in it."""
    if request.param == "sqlite":
        return sqlite_url
    address: str = request.getfixturevalue("postgres_url")
    return address


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///:memory:", "in memory"),
        ("sqlite://", "three slashes"),
        ("sqlite:store.db", "three slashes"),
        ("sqlite:///", "in memory"),
        ("sqlite:///file?mode=memory", "in memory"),
        ("sqlite:///file?x=1", "no options"),
        ("mysql://localhost/x", "'mysql'"),
        ("", "empty URL"),
        ("postgresql://localhost", "no database"),
    ],
)
def test_urls_that_cannot_be_used(url: str, says: str) -> None:
    with pytest.raises(BadDatabaseUrl, match=says):
        open_store(url)


def test_a_name_for_messages_has_no_password() -> None:
    assert "secret" not in parse("postgresql://me:secret@db.example/agents").name


async def test_a_relative_file_is_made_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    monkeypatch.chdir(tmp_path)
    store = opened("sqlite:///var/lib/store.db")
    await store.set_note("a", "1")
    files = sorted((tmp_path / "var" / "lib").iterdir())
    assert [f.name for f in files] == ["store.db", "store.db-shm", "store.db-wal"]
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    for made in (tmp_path / "var" / "lib", tmp_path / "var"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


async def test_what_was_answered_survives_a_power_cut(sqlite_url: str, opened: Opened) -> None:
    store = opened(sqlite_url)

    def pragmas(connection: Any) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await store.run(pragmas) == ["wal", 2, 1]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, but long enough to be read as one " * 10)
    with pytest.raises(StoreUnavailable, match="not a database"):
        open_store(f"sqlite:///{tmp_path}/x.db")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="file"):
        open_store(f"sqlite:///{tmp_path}/file/x.db")


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
        open_store("postgresql://me:hidden@127.0.0.1:1/x")


def test_a_second_start_finds_nothing_to_do(url: str) -> None:
    place = parse(url)
    open_store(url).workers.close()
    database = place.database()
    with database.connection_context():
        assert migrate(database) == []


def test_the_tables_are_what_the_models_say(url: str) -> None:
    open_store(url).workers.close()
    database = parse(url).database()
    with database.connection_context():
        assert {table._meta.table_name for table in TABLES} | {"schema_migration"} == set(
            database.get_tables()
        ) - {"sqlite_sequence"}
        for table in TABLES:
            found = {
                column.name: (column.null, column.primary_key)
                for column in database.get_columns(table._meta.table_name)
            }
            key = {field.column_name for field in table._meta.get_primary_keys()}
            meant = {
                field.column_name: (field.null, field.column_name in key)
                for field in table._meta.sorted_fields
            }
            assert found == meant, table


def test_a_database_from_the_future_is_refused(url: str) -> None:
    open_store(url).workers.close()
    database = parse(url).database()
    with database.connection_context():
        database.execute_sql(
            "INSERT INTO schema_migration (name, applied)"
            " VALUES ('9999_flying_agents', '2099-01-01 00:00:00')"
        )
    with pytest.raises(SchemaTooNew, match="9999_flying_agents"):
        open_store(url)


def test_a_migration_that_fails_leaves_nothing_behind(url: str, tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "0001_half.py").write_text(
        "def up(migrator, db):\n"
        "    db.execute_sql('CREATE TABLE half (id INTEGER)')\n"
        "    raise RuntimeError('half-way')\n"
    )
    place = parse(url)
    if place.path is not None:
        place.path.touch()
    database = place.database()
    with database.connection_context():
        with pytest.raises(RuntimeError, match="half-way"):
            migrate(database, tmp_path / "steps")
        assert "half" not in database.get_tables()
        assert migrate(database, FOLDER) == sorted(p.stem for p in FOLDER.glob("0*.py"))


async def test_four_processes_start_at_once(url: str) -> None:
    program = f"from fastagi.store import open_store; open_store({url!r}).workers.close()"
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    ended = await asyncio.gather(*(child.communicate() for child in children))
    assert [child.returncode for child in children] == [0] * 4, ended
    assert sum(b"brought up to date" in out + err for out, err in ended) == 1


def test_the_event_numbers_of_sqlite_are_never_given_twice(sqlite_url: str) -> None:
    open_store(sqlite_url).workers.close()
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        (sql,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'events'"
        ).fetchone()
    connection.close()
    assert "AUTOINCREMENT" in sql.upper()


# As version 0001 wrote it: an agent who is logged in, paused, and about to go; a delivery; a login
# on its way.
BEFORE_0002 = """
INSERT INTO agents (id, number, name, language, origin) VALUES (1, '1001', 'Ann', 'en', 'yaml'),
    (2, '1002', 'Ben', 'en', 'api');
INSERT INTO queues (id, number, name, origin) VALUES (1, '701', 'sales', 'yaml');
INSERT INTO memberships (agent_id, queue_id, penalty, joined) VALUES (1, 1, 3, {true}),
    (2, 1, 0, {false});
INSERT INTO pause_reasons (code, name, description, productive, max_duration, when_exceeded, origin)
    VALUES ('1', 'lunch', '', {false}, 2700.0, 'unpause', 'yaml');
INSERT INTO devices_in_use (interface, agent_id) VALUES ('pjsip/1001', 1), ('pjsip/1002', 2);
INSERT INTO login_sessions (id, agent_id, extension, context, interface, state_interface, type,
    since, source, planned) VALUES ('s', 1, '1001', 'phones', 'PJSIP/1001', 'PJSIP/1001', 'local',
    1700000000.5, 'phone', '{planned}');
INSERT INTO pause_segments (id, agent_id, code, name, since, source)
    VALUES ('p', 1, '1', 'lunch', 1700000100.0, 'phone');
INSERT INTO events (id, type, agent, extension, context, queues, reason, source, actor,
    occurred_at, session_seconds) VALUES ('e-1', 'agent-login', '1001', '1001', 'phones',
    '["sales"]', '', 'phone', '{{}}', 1700000000.5, 0);
INSERT INTO deliveries (sink, event, agent) SELECT 'lamp', seq, agent FROM events;
INSERT INTO intents (agent_id, command_id, command, decided_at)
    VALUES (2, 'left', '{intent}', 1700000200.0);
"""


async def test_what_version_1_wrote_is_kept(url: str, tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "steps").mkdir()
    shutil.copy(FOLDER / "0001_tables.py", tmp_path / "steps")
    planned = to_dict(log_off(id="off", when_in_call=WhenInCall.AFTER_CALL)) | {"in_call": True}
    intent = to_dict(log_in("1002", "1002", id="left"))
    del intent["device"]["asterisk"]  # type: ignore[attr-defined]
    for command in (planned, intent):
        command["actor"] = {}
    text = BEFORE_0002.format(
        planned=json.dumps(planned), intent=json.dumps(intent), true="TRUE", false="FALSE"
    )
    place = parse(url)
    if place.path is not None:
        place.path.touch()
    database: Any = place.database()
    with database.connection_context():
        assert migrate(database, tmp_path / "steps") == ["0001_tables"]
        for statement in text.split(";")[:-1]:
            database.execute_sql(statement.replace("%", "%%"))
    if hasattr(database, "close_all"):
        database.close_all()
    store = opened(url)
    state = await store.agent("1001")
    assert state is not None
    assert state.memberships == (Membership("sales", "701", 3, True),)
    assert state.session is not None
    assert (state.session.device, state.session.since.timestamp()) == (device(), 1700000000.5)
    assert state.pause is not None
    assert state.pause.reason == PauseReason("1", "lunch")
    assert [command.id for command in await store.planned()] == ["off"]
    assert [d.event.id for d in await store.deliveries.due(NOW, 9, Sink.LAMP)] == ["e-1"]
    assert (await store.limits())["1"].daily_budget is None
    (change,) = await unsettled(store)
    assert (change.command.id, change.after.number) == ("left", "1002")
    await store.withdraw(change, None)
    await done(store, log_off())
    assert await store.logged_in() == []
    origins = await store.run(
        lambda c: c.execute("SELECT origin FROM memberships ORDER BY agent_id").fetchall()
    )
    assert [origin for (origin,) in origins] == ["yaml", "api"]


@pytest.mark.parametrize(
    ("fields", "facts", "after"),
    [
        ({"in_call": False, "spent": False, "locked": False}, NO_FACTS, "lunch"),
        ({"in_call": True, "spent": False, "locked": True}, Facts(in_call=True, locked=True), ""),
        ({"facts": {"locked": True}}, Facts(locked=True), ""),
    ],
    ids=["0.3.0", "0.3.0, with facts", "now"],
)
async def test_an_intent_of_any_version_is_decided_as_it_was(
    store: PeeweeStore, fields: dict[str, Any], facts: Facts, after: str
) -> None:
    """Once a fact stood in the command itself. ``after``: the pause that it comes to."""
    store.bring_in(settings())
    await done(store, log_in())
    await done(store, pause(reason=PauseReason("2", "coffee")))
    change = await begin(store, pause(id="left"), NOW)
    recorded = to_dict(change.command) | fields

    def rewrite(connection: Connection) -> None:
        connection.execute("UPDATE intents SET command = ?", (json.dumps(recorded),))
        connection.forget()

    await store.run(rewrite)
    asked: list[Stored] = []

    def rule(stored: Stored) -> Change | None:
        asked.append(stored)
        return again(structlog.get_logger())(stored)

    found = await store.unsettled(rule)
    assert [stored.intent and stored.intent.recorded for stored in asked] == [
        (change.command, facts)
    ]
    assert [c.after.pause and c.after.pause.reason.name for c in found] == (
        [after] if after else []
    )


# As version 0002 wrote it.
BEFORE_0003 = """
INSERT INTO agents (id, number, name, language, origin) VALUES (1, '1001', 'Ann', 'en', 'yaml'),
    (2, '1002', 'Ben', 'en', 'yaml');
INSERT INTO queues (id, number, name, origin) VALUES (1, '701', 'sales', 'yaml');
INSERT INTO memberships (agent_id, queue_id, penalty, joined, origin) VALUES
    (1, 1, 3, TRUE, 'yaml'), (2, 1, 0, FALSE, 'api');
INSERT INTO pause_reasons (code, name, description, productive, daily_budget, origin)
    VALUES ('1', 'lunch', '', FALSE, 3600.0, 'yaml');
INSERT INTO devices_in_use (interface, agent_id) VALUES ('pjsip/1001', 1);
INSERT INTO login_sessions (id, agent_id, extension, context, interface, state_interface, type,
    asterisk, since, source) VALUES ('s', 1, '1001', 'phones', 'PJSIP/1001', 'PJSIP/1001', 'local',
    '', 1700000000.5, 'phone');
INSERT INTO events (id, type, agent, extension, context, queues, reason, source, actor,
    occurred_at, session_seconds) VALUES ('e-1', 'agent-login', '1001', '1001', 'phones',
    '["sales"]', '', 'phone', '{}', 1700000000.5, 0);
INSERT INTO deliveries (sink, event, agent) SELECT 'lamp', seq, agent FROM events;
"""


async def test_what_version_2_wrote_is_kept(url: str, tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "steps").mkdir()
    for name in ("0001_tables.py", "0002_truth.py"):
        shutil.copy(FOLDER / name, tmp_path / "steps")
    place = parse(url)
    if place.path is not None:
        place.path.touch()
    database: Any = place.database()
    with database.connection_context():
        assert migrate(database, tmp_path / "steps") == ["0001_tables", "0002_truth"]
        for statement in BEFORE_0003.split(";")[:-1]:
            database.execute_sql(statement)
    if hasattr(database, "close_all"):
        database.close_all()
    store = opened(url)
    state = await store.agent_by_id(1)
    assert state is not None
    assert state.memberships == (Membership("sales", "701", 3, True),)
    assert await store.queue_by_id(1) == ("sales", "701")
    assert await store.queue_pauses() == {}
    (delivery,) = await store.deliveries.due(NOW, 9, Sink.LAMP)
    assert delivery.event.device_type == "local"
    flags = await store.run(
        lambda c: c.execute(
            "SELECT a.enabled, a.login, q.call_center, p.type FROM agents a, queues q,"
            " pause_reasons p WHERE a.id = 1"
        ).fetchone()
    )
    assert [bool(flags[0]), flags[1], bool(flags[2]), flags[3]] == [True, None, True, ""]
    # An agent who was there before has hooks as any other.
    hook = await store.hooks.create(
        "7", 1, "local", EventType.LOGOUT, "GET", "https://receiver.example/", "json"
    )
    await done(store, log_off())
    (owed,) = await store.hook_deliveries.due(NOW, 9, frozenset())
    assert (owed.hook, owed.event.type) == (hook, EventType.LOGOUT)
