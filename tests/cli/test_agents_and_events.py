"""`fastagi agents` and `fastagi events` beside a running service."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
from rich.console import Console

from fastagi.agents.commands import Actor
from fastagi.agents.events import Event
from fastagi.agents.model import Status
from fastagi.agents.records import AgentView
from fastagi.cli import _agent_json, _agents_table, _tell_event
from fastagi.contract import EVENT_FIELDS, EventType, Source
from fastagi.store.database import parse, prepare

from .conftest import Running, Serve, Setting, environment

asterisk_here = pytest.mark.asterisk


NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

ALICE = AgentView(
    id=1,
    number="4001",
    name="Alice [b]Martin",
    language="en",
    status=Status.AVAILABLE,
    extension="1001",
    interface="PJSIP/1001",
    since=NOON,
    queues=("sales", "support", "billing"),
    joined=("sales", "support"),
    pause_reason="",
    paused_since=None,
)


def shown(*found: AgentView) -> list[str]:
    """The table's lines, each with single blanks."""
    screen = Console(width=200, color_system=None)
    with screen.capture() as capture:
        screen.print(_agents_table(found, UTC))
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def test_a_pause_of_one_queue_and_what_is_planned() -> None:
    paused = replace(ALICE, paused_in=("support",), planned="pause")
    heading, row = shown(paused)
    assert heading == "agent name status extension since queues"
    assert "Alice [b]Martin available (pauses after this call) 1001" in row
    assert row.endswith("sales support[paused] (billing)")
    leaving = replace(ALICE, planned="log off")
    assert "available (logs off after this call)" in shown(leaving)[1]
    assert "after this call" not in shown(ALICE)[1]


def test_on_which_of_several_asterisks() -> None:
    north = replace(ALICE, asterisk="north")
    heading, one, other = shown(north, replace(ALICE, number="4002", extension="", asterisk=""))
    assert heading == "agent name status extension on since queues"
    assert " 1001 north " in one
    assert "north" not in other


def test_what_a_program_reads_of_an_agent() -> None:
    view = replace(ALICE, asterisk="north", paused_in=("sales",), planned="log off")
    told = _agent_json(view)
    assert told["asterisk"] == "north"
    assert told["paused_in"] == ["sales"]
    assert told["planned"] == "log off"
    assert told["logoff_planned"] is True
    assert _agent_json(ALICE)["planned"] == ""
    assert _agent_json(replace(ALICE, planned="pause"))["logoff_planned"] is False


LOGIN = Event(
    id="x-1",
    type=EventType.LOGIN,
    agent="4001",
    extension="1001",
    queues=("sales",),
    reason="",
    source=Source.PHONE,
    actor=Actor(channel="PJSIP/1001-00000001"),
    occurred_at=NOON,
)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (LOGIN, "agent-login 4001 at 1001 sales by phone PJSIP/1001-00000001"),
        (replace(LOGIN, asterisk="north"), "agent-login 4001 at 1001 on north sales by phone"),
        (
            replace(
                LOGIN,
                type=EventType.QUEUE_PENALTY,
                reason="5",
                source=Source.ASTERISK,
                actor=Actor(),
            ),
            "queue-penalty 4001 at 1001 penalty 5 sales by asterisk",
        ),
        (
            replace(
                LOGIN,
                type=EventType.PAUSE_EXCEEDED,
                reason="lunch",
                source=Source.SYSTEM,
                actor=Actor(name="limits"),
            ),
            "pause-exceeded 4001 at 1001 longer than lunch may last sales by system limits",
        ),
        (
            replace(
                LOGIN,
                type=EventType.REPAIR,
                agent="",
                extension="",
                queues=(),
                reason="2 put back",
                source=Source.SYSTEM,
                actor=Actor(name="reconcile"),
                asterisk="north",
            ),
            "repair - on north 2 put back by system reconcile",
        ),
    ],
)
def test_an_event_in_words(event: Event, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    _tell_event(UTC, event)
    assert words in " ".join(capsys.readouterr().out.split())


def test_before_the_first_start(setting: Setting) -> None:
    for command in ("agents", "events"):
        result = setting.fastagi(command)
        assert result.status == 1
        assert "the store" in result.err
        assert "Traceback" not in result.err


@asterisk_here
def test_who_is_where(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    healthy.fastagi("dial", "*314001", "--from", "1001")
    healthy.fastagi("dial", "*332", "--from", "1001")
    alice, bob, desiree = map(json.loads, healthy.fastagi("agents", "--json").lines)
    assert alice["status"] == "paused"
    assert alice["extension"] == "1001"
    assert alice["pause_reason"] == "meeting"
    assert alice["joined"] == ["sales", "support"]
    assert bob["status"] == "logged_off"
    assert bob["since"] is None
    assert desiree["name"] == "Désirée"

    heading, *rows = healthy.fastagi("agents").lines
    assert heading.split() == ["agent", "name", "status", "extension", "since", "queues"]
    assert "paused 0 min: meeting" in rows[0]
    assert "logged off" in rows[1]


@asterisk_here
def test_agents_watched(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    watching = healthy.start("agents", "--json", "--watch", "--every", "0.1")
    watching.wait_for('"4003"')
    healthy.fastagi("dial", "*314001", "--from", "1001")
    watching.wait_for('"available"')
    assert watching.stop(signal.SIGINT) == 130
    assert watching.err == []
    lines = [json.loads(line) for line in watching.out]
    assert [(a["number"], a["status"]) for a in lines] == [
        ("4001", "logged_off"),
        ("4002", "logged_off"),
        ("4003", "logged_off"),
        ("4001", "available"),
    ]


@asterisk_here
def test_each_fact_with_its_source(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    for number in ("*314001", "*331", "*34", "*32"):
        assert healthy.fastagi("dial", number, "--from", "1001").status == 0
    healthy.fastagi("dial", "*319999", "--from", "1002", "--keys", "")
    events = [json.loads(line) for line in healthy.fastagi("events", "--json").lines]
    assert [tuple(event) for event in events] == [EVENT_FIELDS] * len(events)
    assert [event["type"] for event in events] == [
        *("agent-login", "agent-pause", "agent-unpause", "agent-logout", "login-refused")
    ]
    assert {event["source"] for event in events} == {"phone"}
    assert events[1]["reason"] == "lunch"
    assert events[0]["queues"] == ["sales", "support"]
    assert events[0]["actor"]["channel"].startswith("PJSIP/1001-")

    in_words = healthy.fastagi("events").lines
    assert "agent-pause" in in_words[1]
    assert "lunch" in in_words[1]
    assert "by phone PJSIP/1001-" in in_words[1]
    assert len(healthy.fastagi("events", "--last", "2").lines) == 2
    assert len(healthy.fastagi("events", "--agent", "9999").lines) == 1
    assert healthy.fastagi("events", "--last", "0").out == ""
    assert healthy.fastagi("events", "--parked").out == ""


@asterisk_here
def test_following_misses_none_and_tells_none_twice(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    assert healthy.fastagi("dial", "*314001", "--from", "1001").status == 0
    following = healthy.start("events", "--follow", "--json")
    only_bob = healthy.start("events", "--follow", "--json", "--agent", "4002", "--last", "0")
    following.wait_for("agent-login")
    for _ in range(3):
        assert healthy.fastagi("dial", "*332", "--from", "1001").status == 0
        assert healthy.fastagi("dial", "*34", "--from", "1001").status == 0
    assert healthy.fastagi("dial", "*32", "--from", "1001").status == 0
    healthy.fastagi("dial", "*314002", "--from", "1002", "--keys", "1#2#3#")
    following.wait_for("login-refused")
    only_bob.wait_for("login-refused")
    assert following.stop(signal.SIGINT) == 130
    assert only_bob.stop(signal.SIGINT) == 130
    assert following.err == []
    followed = [json.loads(line) for line in following.out]
    stored = [json.loads(line) for line in healthy.fastagi("events", "--json").lines]
    assert followed == stored
    assert len(followed) == 9
    assert [json.loads(line)["agent"] for line in only_bob.out] == ["4002"]


@asterisk_here
def test_a_reader_who_has_seen_enough(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    assert healthy.fastagi("dial", "*314001", "--from", "1001").status == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "fastagi", "events", "--follow", "--config", str(healthy.file)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert b"agent-login" in process.stdout.readline()
    process.stdout.close()
    healthy.fastagi("dial", "*32", "--from", "1001")
    assert process.wait(20) in (0, 1)
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(
    "arguments",
    [("--parked", "--follow"), ("--parked", "--retry", "all"), ("--follow", "--retry", "x-1")],
)
def test_what_does_not_go_together(setting: Setting, arguments: tuple[str, ...]) -> None:
    result = setting.fastagi("events", *arguments)
    assert result.status == 2
    assert "do not go together" in result.err


PARK = """
INSERT INTO deliveries (sink, event, agent, due_at, attempts, error, parked_at, leased_until)
SELECT 'user_event', seq, agent, 0, 12, 'Asterisk said \x1b[2J no', strftime('%s', 'now'), 0
FROM events
"""


def give_up(setting: Setting) -> None:
    """As if Asterisk had refused to take every event."""
    with closing(sqlite3.connect(setting.database)) as database, database:
        database.execute(PARK)


def owed(setting: Setting) -> int:
    with closing(sqlite3.connect(setting.database)) as database:
        (count,) = database.execute("SELECT count(*) FROM deliveries").fetchone()
    return int(count)


def eventually_delivered(setting: Setting) -> None:
    deadline = time.monotonic() + 30
    while owed(setting):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@asterisk_here
def test_what_was_given_up_is_retried(healthy: Setting, serve: Serve) -> None:
    running = serve(healthy)
    for number in ("*314001", "*331", "*34"):
        assert healthy.fastagi("dial", number, "--from", "1001").status == 0
    eventually_delivered(healthy)
    running.stop()
    give_up(healthy)
    ids = [json.loads(line)["id"] for line in healthy.fastagi("events", "--json").lines]
    parked = healthy.fastagi("events", "--parked")
    assert parked.status == 0
    assert [line.split("  event ")[1].split()[0] for line in parked.lines] == ids
    assert all("12 attempts: Asterisk said \\x1b[2J no" in line for line in parked.lines)

    result = healthy.fastagi("events", "--retry", ids[1])
    assert (result.status, result.out) == (0, "1 delivery is due again\n")
    result = healthy.fastagi("events", "--retry", ids[1])
    assert (result.status, result.out) == (1, "")
    assert ids[1] in result.err
    result = healthy.fastagi("events", "--retry", "' OR 1=1 --\x1b[2J")
    assert result.status == 1
    assert "\x1b" not in result.err
    assert len(healthy.fastagi("events", "--parked").lines) == 2
    # while the service runs, it sees to it by itself
    serve(healthy)
    result = healthy.fastagi("events", "--retry", "all", "--json")
    assert (result.status, json.loads(result.out)) == (0, {"retried": 2})
    assert healthy.fastagi("events", "--retry", "all").status == 1
    assert healthy.fastagi("events", "--parked").out == ""
    eventually_delivered(healthy)


def test_retry_before_the_first_start(setting: Setting) -> None:
    result = setting.fastagi("events", "--retry", "all")
    assert result.status == 1
    assert "the store" in result.err
    assert not setting.database.exists()


@asterisk_here
def test_without_the_service_the_last_is_still_told(healthy: Setting, serve: Serve) -> None:
    running: Running = serve(healthy)
    healthy.fastagi("dial", "*314001", "--from", "1001")
    running.stop()
    assert "agent-login" in healthy.fastagi("events").out
    assert json.loads(healthy.fastagi("agents", "--json").lines[0])["status"] == "available"


_INSERT = """
INSERT INTO events (id, type, agent, extension, context, queues, reason, source, actor,
  occurred_at, session_seconds)
VALUES (%s, 'agent-login', '4001', '1001', 'phones', '["sales"]', '', 'phone', '{}', 0, 0)
"""


@pytest.mark.postgres
def test_an_event_that_another_service_commits_later(setting: Setting, postgres_url: str) -> None:
    """PostgreSQL gives numbers when a row is written, and shows it when it is committed. What
    follows is shown when it is settled what comes before it, as in the event stream."""
    setting.change(f"sqlite:///{setting.database}", postgres_url)
    prepare(parse(postgres_url))
    with psycopg.connect(postgres_url) as slow, psycopg.connect(postgres_url) as quick:
        quick.execute(_INSERT, ("before",))
        quick.commit()
        following = setting.start("events", "--follow", "--json")
        following.wait_for("before")
        slow.execute(_INSERT, ("first",))
        quick.execute(_INSERT, ("second",))
        quick.commit()
        time.sleep(1.0)
        assert [json.loads(line)["id"] for line in following.out] == ["before"]
        slow.commit()
        following.wait_for("second")
        slow.execute(_INSERT, ("never",))
        slow.rollback()
        quick.execute(_INSERT, ("last",))
        quick.commit()
        following.wait_for("last")
    following.stop(signal.SIGINT)
    told = [json.loads(line)["id"] for line in following.out]
    assert told == ["before", "first", "second", "last"]
