"""`fastagi agents` and `fastagi events` beside a running service."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass

import psycopg
import pytest

from fastagi.cli import GAP_SECONDS, Following
from fastagi.contract import EVENT_FIELDS
from fastagi.store.database import parse, prepare

from .conftest import Running, Serve, Setting, environment

asterisk_here = pytest.mark.asterisk


@dataclass(frozen=True, slots=True)
class Stored:
    seq: int


def stored(*numbers: int) -> list[Stored]:
    return [Stored(number) for number in numbers]


class TestFollowing:
    def test_each_once(self) -> None:
        following = Following(0)
        assert following.fresh(stored(1, 2, 3), 0) == stored(1, 2, 3)
        assert following.fresh(stored(1, 2, 3), 1) == []
        assert following.after == 3
        assert following.fresh(stored(4), 2) == stored(4)

    def test_one_that_becomes_visible_after_a_higher_one(self) -> None:
        following = Following(10)
        assert following.fresh(stored(11, 13), 0) == stored(11, 13)
        assert following.after == 11
        assert following.knows(13)
        assert following.fresh(stored(12, 13, 14), 1) == stored(12, 14)
        assert following.after == 14

    def test_a_number_that_never_comes_is_given_up(self) -> None:
        following = Following(0)
        following.fresh(stored(2, 3, 5), 0)
        following.fresh((), GAP_SECONDS - 1)
        assert following.after == 0
        following.fresh((), GAP_SECONDS + 1)
        assert following.after == 3
        # the second missing number has its own time
        following.fresh((), GAP_SECONDS * 2)
        assert following.after == 3
        following.fresh((), GAP_SECONDS * 2 + 2)
        assert following.after == 5
        assert following.fresh(stored(6), 100) == stored(6)
        assert following.after == 6


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


def test_parked_and_follow_do_not_go_together(setting: Setting) -> None:
    assert setting.fastagi("events", "--parked", "--follow").status == 2


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
    """PostgreSQL gives numbers when a row is written, and shows it when it is committed."""
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
        following.wait_for("second")
        slow.commit()
        following.wait_for("first")
        slow.execute(_INSERT, ("never",))
        slow.rollback()
        quick.execute(_INSERT, ("last",))
        quick.commit()
        following.wait_for("last")
    following.stop(signal.SIGINT)
    told = [json.loads(line)["id"] for line in following.out]
    assert told == ["before", "second", "first", "last"]
