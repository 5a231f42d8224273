"""What the commands print, into whatever they print it: a pipe that closes, a poor terminal."""

import os
import re
import subprocess
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from fastagi.dial import Channel

from .conftest import Serve, Setting, environment

asterisk_here = pytest.mark.asterisk

PARIS = ZoneInfo("Europe/Paris")


def run(setting: Setting, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """The program itself, whose output is a pipe."""
    return subprocess.run(
        [sys.executable, "-m", "fastagi", *words, "--config", str(setting.file)],
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="latin-1" if "PYTHONIOENCODING" in more else "utf-8",
    )


@asterisk_here
@pytest.mark.parametrize("lines", [1, 3, 5, 8, 12, 15])
def test_check_into_head(healthy: Setting, lines: int) -> None:
    """Whoever reads closes the pipe after some lines: that is no fault, and nothing is said."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastagi", "check", "--config", str(healthy.file)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    with open(reading) as out:
        for _ in range(lines):
            out.readline()
    _, said = process.communicate()
    assert said == ""


@pytest.mark.parametrize("command", ["dialplan", "agents", "events", "check"])
def test_nobody_reads_at_all(setting: Setting, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "fastagi", command, "--config", str(setting.file)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


@asterisk_here
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_poor_locale(healthy: Setting, serve: Serve, encoding: str) -> None:
    """Plainer signs where there are some; nothing ends with a traceback. Where the locale is
    ASCII, Click takes it for a mistake and writes UTF-8."""
    healthy.change("name: Bob Keller", "name: Бob Kéller")
    serve(healthy)
    done = run(healthy, "dial", "*314001", "--from", "1001", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "AGENT_STATUS=LOGGED_IN" in done.stdout
    if encoding == "latin-1":
        assert "  * Agent logged in." in done.stdout
    done = run(healthy, "agents", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("Desiree" if encoding == "ascii" else "Désirée") in done.stdout
    assert ("\\u0411ob Keller" if encoding == "ascii" else "\\u0411ob Kéller") in done.stdout


@asterisk_here
def test_a_row_stays_a_line_in_a_pipe(healthy: Setting, serve: Serve) -> None:
    healthy.change("name: Alice Martin", f"name: Alice {'Très-Long ' * 5}Martin")
    serve(healthy)
    assert run(healthy, "dial", "*314001", "--from", "1001").returncode == 0
    done = run(healthy, "agents", COLUMNS="80")
    (row,) = [line for line in done.stdout.splitlines() if "4001" in line]
    assert "Martin" in row
    assert "sales support" in row
    assert len(done.stdout.splitlines()) == 4  # a heading and three agents


@asterisk_here
def test_times_have_a_zone(healthy: Setting, serve: Serve) -> None:
    """That of the configuration, whatever the machine's is."""
    healthy.file.write_text(healthy.file.read_text() + "timezone: Europe/Paris\n")
    running = serve(healthy)
    assert run(healthy, "dial", "*314001", "--from", "1001").returncode == 0
    now = datetime.now(PARIS)
    (row,) = [line for line in run(healthy, "agents").stdout.splitlines() if "4001" in line]
    assert re.search(rf"\d\d \w+ {now:%H}:\d\d {now:%Z}\b", row)
    (event,) = run(healthy, "events").stdout.splitlines()
    distance = re.escape(now.isoformat()[-6:])
    assert re.match(rf"{now:%Y-%m-%d %H}:\d\d:\d\d{distance}  agent-login", event)
    running.stop()
    stamps = [line.split()[0] for line in running.err if line[:2] == "20"]
    assert all(datetime.fromisoformat(stamp).tzinfo is not None for stamp in stamps)
    assert len(stamps) > 2


def test_brackets_are_explained(setting: Setting) -> None:
    told = " ".join(run(setting, "agents", "--help").stdout.split())
    assert "in brackets" in told
    assert "[paused]" in told


def test_who_has_hung_up_hears_no_try_again(capsys: pytest.CaptureFixture[str]) -> None:
    from fastagi.cli import _tell_result

    _tell_result(Channel(hung_up=True), False)
    assert "nothing is played" in capsys.readouterr().out
    _tell_result(Channel(), False)
    assert "try again" in capsys.readouterr().out
