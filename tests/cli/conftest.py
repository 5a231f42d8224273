"""The command line as a user runs it: processes of their own, real files, a real Asterisk."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from fastagi import config as configuration
from fastagi import dialplan
from fastagi.demo.asterisk import Asterisk, free_port
from tests.forked import Forked

ROOT = Path(__file__).parents[2]

SECRET = "a-secret-nobody-may-see"
PIN = "73519"

YAML = """\
fastagi:
  listen: 127.0.0.1:{port}
  allow: [127.0.0.1]
asterisk:
  host: 127.0.0.1
  port: {ami_port}
  username: fastagi
  secret: {secret}
database: {database}
devices:
  - match: "10XX"
    context: phones
    interface: PJSIP/{{extension}}
  - match: "0X."
    type: remote
    interface: Local/{{extension}}@outbound/n
pause_reasons:
  - {{code: 1, name: lunch}}
  - {{code: 2, name: meeting}}
queues:
  - {{number: "701", name: sales}}
  - {{number: "702", name: support}}
agents:
  - {{number: "4001", name: Alice Martin, queues: [sales, support]}}
  - {{number: "4002", name: Bob Keller, pin: "{pin}", queues: [sales]}}
  - {{number: "4003", name: Désirée, language: fr, queues: [support]}}
"""


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def environment(**more: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FASTAGI")}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "160", "NO_COLOR": "1", **more}


def fastagi(*arguments: str, cwd: Path | None = None, keys: str | None = None) -> Result:
    """Run a command to its end."""
    with (
        tempfile.TemporaryFile() as typed,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        typed.write((keys or "").encode())
        typed.seek(0)
        streams = [file.fileno() for file in (typed, out, err)]
        process = Forked(arguments, streams=streams, env=environment(), cwd=cwd)
        try:
            status = process.wait(60)
        finally:
            process.kill()
        return Result(status, *(_text(file) for file in (out, err)))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@dataclass(slots=True)
class Running:
    """A command that goes on; what it says is collected line by line."""

    process: Forked
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    _readers: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(cls, *arguments: str, cwd: Path | None = None) -> "Running":
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        process = Forked(arguments, streams=(None, its_out, its_err), env=environment(), cwd=cwd)
        os.close(its_out)
        os.close(its_err)
        self = cls(process)
        for number, lines in ((out, self.out), (err, self.err)):
            reader = threading.Thread(target=_read, args=(number, lines), daemon=True)
            reader.start()
            self._readers.append(reader)
        return self

    def wait_for(self, text: str, *, within: float = 20) -> None:
        deadline = time.monotonic() + within
        while not any(text in line for line in [*self.out, *self.err]):
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{text!r} was not said:\n{''.join([*self.out, *self.err])}")
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM, *, within: float = 20) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            status = self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"it did not stop:\n{''.join([*self.out, *self.err])}")
        for reader in self._readers:
            reader.join(5)
        return status


@dataclass(slots=True)
class Setting:
    """A configuration file with all it names: ports, a fresh database."""

    file: Path
    port: int
    database: Path

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def fastagi(self, command: str, *arguments: str, keys: str | None = None) -> Result:
        return fastagi(command, "--config", str(self.file), *arguments, keys=keys)

    def start(self, command: str, *arguments: str) -> Running:
        return Running.start(command, "--config", str(self.file), *arguments)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """A configuration whose Asterisk is not there."""
    return _setting(tmp_path, free_port())


def _setting(folder: Path, ami_port: int) -> Setting:
    port, database = free_port(), folder / "store" / "agents.db"
    file = folder / "fastagi.yml"
    file.write_text(
        YAML.format(
            port=port, ami_port=ami_port, secret=SECRET, database=f"sqlite:///{database}", pin=PIN
        )
    )
    return Setting(file, port, database)


@pytest.fixture
def healthy(tmp_path: Path, asterisk: Asterisk) -> Setting:
    """A configuration and an Asterisk that fit each other, as the commands print it."""
    setting = _setting(tmp_path, asterisk.ami_port)
    settings = configuration.load(setting.file)
    asterisk.features = dialplan.render_dialplan(settings)
    asterisk.manager_sections = dialplan.render_manager(settings).replace("CHANGE-ME", SECRET)
    for what in ("dialplan", "manager"):
        asterisk.reload(what)
    return setting


Serve = Callable[..., Running]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """``serve(setting)`` starts the service and waits until it answers."""
    started: list[Running] = []

    def start(setting: Setting, *arguments: str, linked: bool = True) -> Running:
        running = setting.start("serve", *arguments)
        started.append(running)
        running.wait_for("listening")
        if linked:
            running.wait_for("manager link is up")
        return running

    yield start
    for running in started:
        running.stop(signal.SIGKILL)
        print("".join(running.err))  # pytest shows it beside a failure


def _read(number: int, lines: list[str]) -> None:
    with open(number) as stream:
        lines.extend(stream)
