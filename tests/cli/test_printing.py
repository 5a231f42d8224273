"""What the commands print, into whatever they print it: a pipe that closes, a poor terminal."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
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


@pytest.mark.parametrize("words", [("dialplan",), ("agents", "--help"), ("hooks",)])
def test_who_has_read_enough_makes_no_failure(setting: Setting, words: tuple[str, ...]) -> None:
    """As with ``| head -1``, whatever prints: the pipe is closed at once."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "fastagi", *words]
    done = subprocess.run(
        command,
        env=environment(FASTAGI_CONFIG=str(setting.file)),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("buffered", [{}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.parametrize("words", [("dialplan",), ("check",), ("agents", "--help"), ("--version",)])
def test_a_full_disk_is_said_and_is_a_failure(
    setting: Setting, words: tuple[str, ...], buffered: dict[str, str]
) -> None:
    """``fastagi dialplan > file`` must not look as if all had been written."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastagi", *words],
            env=environment(FASTAGI_CONFIG=str(setting.file), **buffered),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = "fastagi: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    ("words", "status"), [(("dialplan",), 0), (("agents",), 1), (("dialplan", "--config", "no"), 2)]
)
def test_the_status_is_the_same_whoever_listens(
    setting: Setting, words: tuple[str, ...], status: int
) -> None:
    """With stdin, stdout and stderr closed, and where nothing can be written to stderr."""
    command = [sys.executable, "-m", "fastagi", *words]
    env = environment(FASTAGI_CONFIG=str(setting.file))
    for streams in ("<&- >&- 2>&-", ">&-", ">/dev/null 2>/dev/full"):
        shell = ["bash", "-c", f'"$@" {streams}', "bash", *command]
        done = subprocess.run(shell, env=env, capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), streams


def test_the_service_runs_with_its_streams_closed(setting: Setting) -> None:
    """As a careless script starts it. Its first files and connections are not taken for them."""
    shell = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash"]
    process = subprocess.Popen(
        [*shell, sys.executable, "-m", "fastagi", "serve", "--config", str(setting.file)],
        env=environment(),
    )
    try:
        _until(lambda: _answers(setting.port))
        for number in range(3):
            assert os.readlink(f"/proc/{process.pid}/fd/{number}") == "/dev/null"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "words",
    [
        ("events", "--last", str(10**23)),
        ("agents", "--watch", "--every", "inf"),
        ("agents", "--watch", "--every", "1e300"),
    ],
)
def test_numbers_that_nothing_can_count(setting: Setting, words: tuple[str, ...]) -> None:
    done = run(setting, *words)
    assert done.returncode == 2
    assert f"Invalid value for '{words[-2]}'" in done.stderr


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
