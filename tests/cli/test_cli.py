"""What all commands share: errors of the configuration, usage, the log; and `fastagi serve`."""

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress

import pytest

from fastagi.agents.hooks import client_secret
from fastagi.cli import Lines, console_line, json_line

from .conftest import PIN, SECRET, Serve, Setting, environment, fastagi

COMMANDS = {
    "serve": (),
    "check": (),
    "dialplan": (),
    "dial": ("*31", "--from", "1001"),
    "reconcile": ("--dry-run",),
    "agents": (),
    "events": (),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_configuration_that_cannot_be_used(setting: Setting, command: str) -> None:
    setting.change("host: 127.0.0.1", "hots: 127.0.0.1")
    setting.change("name: lunch", "nam: lunch")
    result = setting.fastagi(command, *COMMANDS[command])
    assert result.status == 2
    assert result.out == ""
    first, *_, last = result.err.splitlines()
    assert re.fullmatch(
        re.escape(str(setting.file)) + r":\d+:\d+: asterisk\.hots: .*did you mean 'host'\?", first
    )
    assert re.match(re.escape(str(setting.file)) + r":\d+:\d+: pause_reasons\[0\]", last)
    assert SECRET not in result.err
    assert PIN not in result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_no_configuration(command: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    result = fastagi(command, *COMMANDS[command], "--config", str(tmp_path / "none.yml"))
    assert result.status == 2
    assert "none.yml:1:1: no such file" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("arguments", [("nonsense",), ("serve", "--nonsense"), ("serve", "more")])
def test_usage(arguments: tuple[str, ...]) -> None:
    result = fastagi(*arguments)
    assert result.status == 2
    assert result.err


def test_help_names_every_command() -> None:
    result = fastagi("--help")
    assert result.status == 0
    for command in (*COMMANDS, "demo"):
        assert re.search(rf"\b{command}\b", result.out)


def test_version() -> None:
    """The program itself; what the other tests call is forked from one that has it imported."""
    words = [sys.executable, "-m", "fastagi", "--version"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    assert re.match(r"fastagi-agentd \S+", done.stdout)


def test_what_is_not_needed_is_not_imported() -> None:
    code = (
        "import sys, fastagi.cli;"
        "print(*{'rich', 'pydantic', 'yaml', 'peewee', 'panoramisk', 'structlog'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_dialplan_and_samples(setting: Setting) -> None:
    assert "[agent-features]" in setting.fastagi("dialplan").out
    assert "[sales](agent-queue)" in setting.fastagi("dialplan", "--queues").out
    manager = setting.fastagi("dialplan", "--manager").out
    assert "[fastagi]" in manager
    assert SECRET not in manager
    assert setting.fastagi("dialplan", "--queues", "--manager").status == 2


# -- serve


def test_starts_and_stops(setting: Setting, serve: Serve) -> None:
    for how in (signal.SIGTERM, signal.SIGINT):
        running = serve(setting, linked=False)
        assert running.stop(how) == 0
        assert "Traceback" not in "".join(running.err)
        assert running.out == []


def test_json_log(setting: Setting, serve: Serve) -> None:
    running = serve(setting, "--log-format", "json", linked=False)
    running.stop()
    lines = [json.loads(line) for line in running.err]
    assert {"level", "event", "timestamp"} <= set(lines[0])
    assert "stopped" in [line["event"] for line in lines]
    assert SECRET not in "".join(running.err)


def test_quiet_log(setting: Setting, serve: Serve) -> None:
    running = setting.start("serve", "--log-level", "error")
    try:
        while setting.fastagi("dial", "*35", "--from", "1001").status not in (0, 1):
            pass
    finally:
        running.stop()
    assert not any(" info " in line for line in running.err)


def test_port_taken(setting: Setting) -> None:
    with closing(socket.create_server(("127.0.0.1", setting.port))):
        result = setting.fastagi("serve")
    assert result.status == 1
    assert f"fastagi.listen: 127.0.0.1:{setting.port}: Address already in use: " in result.err
    assert "Traceback" not in result.err


def test_database_that_cannot_be_made(setting: Setting) -> None:
    setting.database.parent.write_text("a file where a folder should be")
    result = setting.fastagi("serve")
    assert result.status == 1
    assert "the store" in result.err
    assert "Traceback" not in result.err


# -- the log


def test_a_log_line_says_what_and_with_what() -> None:
    line = console_line(
        None, "", {"timestamp": "T", "level": "info", "event": "call", "agent": "4001", "ms": 1.5}
    )
    assert line == "T info    call  agent=4001 ms=1.5"


@pytest.mark.parametrize(
    "name", ["a\nT error fake", "\x1b[2J", 'say "x"', "a b", "", "\x85\u2028", "\x00"]
)
def test_no_value_writes_a_line_of_its_own_or_moves_the_cursor(name: str) -> None:
    line = console_line(None, "", {"event": "call", "level": "info", "name": name})
    assert line.isprintable()
    assert line.count("name=") == 1
    assert re.search(r'name="', line)


def test_a_traceback_stays_readable() -> None:
    line = console_line(None, "", {"event": "x", "level": "error", "exception": "one\ntwo \x1b["})
    assert line.splitlines()[1:] == ["    one", "    two \\x1b["]


def test_the_secret_of_a_client(setting: Setting) -> None:
    base = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789").decode()
    result = fastagi("hooks", "secret", "crm", "--config", str(setting.file))
    assert (result.status, result.out) == (1, "")
    assert "set webhooks.secret" in result.err
    with setting.file.open("a") as file:
        file.write(f"webhooks: {{secret: {base}}}\n")
    secrets = [
        fastagi("hooks", "secret", name, "--config", str(setting.file)).out.strip()
        for name in ("crm", "crm", "shop")
    ]
    assert secrets[0] == secrets[1] == client_secret(base, "crm")
    assert secrets[2] == client_secret(base, "shop") != secrets[0]
    assert base not in secrets
    result = fastagi("hooks", "secret", "crm", "--json", "--config", str(setting.file))
    assert json.loads(result.out) == {"client": "crm", "secret": secrets[0]}
    result = fastagi("hooks", "secret", "c r m", "--config", str(setting.file))
    assert (result.status, result.out) == (2, "")


@pytest.mark.parametrize(
    "value",
    ["half a \udcff", 2**70, {1: "one"}, {"a": 2**70}],
    ids=["half", "large", "key", "deep"],
)
def test_whatever_stands_in_a_line_it_is_written(value: object) -> None:
    """A file's name that is no UTF-8, a number out of somebody's message: the log is no reason
    that work fails."""
    line = json_line({"event": "x", "value": value})
    assert json.loads(line)["event"] == "x"
    assert line.isascii()


def through_a_pipe(lines: Callable[[Lines], object]) -> tuple[bool, Callable[[], str]]:
    """Whether a loop that wrote these lines went on although nobody read them; and how to read
    them then."""
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    log = Lines(stream)

    async def main() -> None:
        lines(log)
        log.flush()
        await asyncio.sleep(3 * Lines.WAIT)

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    thread.join(10)

    def read() -> str:
        found = bytearray()

        def take() -> None:
            while data := os.read(reading, 65536):
                found.extend(data)

        taking = threading.Thread(target=take)
        taking.start()
        log._finish()
        stream.close()
        taking.join(10)
        os.close(reading)
        return found.decode()

    return not thread.is_alive(), read


def test_who_does_not_read_the_log_holds_up_no_call() -> None:
    """A pager that stands at its first page, a journal whose disk is full."""
    said = [f"{n:06} äöü {'x' * 90}\n" for n in range(5000)]
    went_on, read = through_a_pipe(lambda log: [log.write(line) for line in said])
    assert went_on
    assert read() == "".join(said)


def test_what_nobody_reads_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lines, "MOST", 1000)
    said = [f"{n:06} {'x' * 90}\n" for n in range(5000)]
    went_on, read = through_a_pipe(lambda log: [log.write(line) for line in said])
    assert went_on
    lines = read().splitlines(keepends=True)
    assert lines[:-1] == said[:1000]
    assert lines[-1] == "... 4000 lines of the log were lost: nobody took them\n"


def test_a_log_that_nobody_reads_holds_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lines, "PATIENCE", 0.1)
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    log = Lines(stream)
    for _ in range(5000):
        log.write("x" * 99 + "\n")
    ending = threading.Thread(target=log._finish, daemon=True)
    ending.start()
    ending.join(10)
    assert not ending.is_alive()
    os.close(reading)
    log._finish()  # and none is left that would wait at exit
    with suppress(BrokenPipeError):
        stream.close()


def test_another_loop_is_flushed_too(capfd: pytest.CaptureFixture[str]) -> None:
    log = Lines(sys.stderr)

    async def main(text: str, seconds: float) -> None:
        log.write(text)
        log.flush()
        await asyncio.sleep(seconds)

    asyncio.run(main("one\n", 0))  # ends before it is flushed
    asyncio.run(main("two\n", 3 * Lines.WAIT))
    assert capfd.readouterr().err == "one\ntwo\n"
