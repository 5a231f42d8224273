"""The whole of it: a real Asterisk, real SIP phones and the service as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastagi import config
from fastagi.demo.asterisk import Asterisk, free_port
from fastagi.dialplan import render_dialplan, render_manager

SAMPLE = Path(__file__).parents[2] / "config"


class Service:
    """``fastagi serve`` with the sample configuration, changed where a test wants it."""

    def __init__(self, folder: Path, asterisk: Asterisk) -> None:
        self.folder = folder
        self.asterisk = asterisk
        self.port = free_port()
        self.config = folder / "config"
        self.log = folder / "service.log"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, **changes: Any) -> None:
        """Top-level keys to change; a mapping is merged into the sample's."""
        settings: dict[str, Any] = {}
        for file in sorted(SAMPLE.glob("*.yml")):
            settings |= yaml.safe_load(file.read_text())
        changes.setdefault("fastagi", {})
        changes["fastagi"] |= {"listen": f"127.0.0.1:{self.port}"}
        changes["asterisk"] = {"port": self.asterisk.ami_port, "secret": self.asterisk.ami_secret}
        changes.setdefault("database", f"sqlite:///{self.folder / 'fastagi.db'}")
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(settings.get(key), dict):
                settings[key] = {**settings[key], **value}
            else:
                settings[key] = value
        self.config.mkdir(exist_ok=True)
        (self.config / "fastagi.yml").write_text(
            yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
        )
        loaded = config.load(self.config)
        self.asterisk.features = render_dialplan(loaded)
        self.asterisk.manager_sections = render_manager(loaded).replace(
            "secret = ", f"secret = {self.asterisk.ami_secret} ;"
        )
        self.asterisk.reload("dialplan")
        self.asterisk.reload("manager")

    def start(self, *, within: float = 15) -> None:
        log = self.log.open("ab")
        began = log.tell()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastagi", "serve", "--log-format", "json"]
            + ["--config", str(self.config)],
            stderr=log,
            stdout=log,
            env=os.environ | {"PYTHONPATH": str(SAMPLE.parent)},
        )
        log.close()
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            text = self.log.read_bytes()[began:].decode()
            if '"listening"' in text and "connected to Asterisk" in text:
                return
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended:\n{text}")
            time.sleep(0.02)
        raise AssertionError(f"the service did not start:\n{self.log.read_text()}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self, within: float = 40) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(within)
        self.process = None
        return status

    def fastagi(self, *words: str, status: int | None = 0) -> str:
        """What a command prints, with this configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "fastagi", *words, "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"PYTHONPATH": str(SAMPLE.parent)},
            check=False,
        )
        if status is not None:
            assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def events(self) -> list[dict[str, Any]]:
        """What `fastagi events` shows, the oldest first."""
        out = self.fastagi("events", "--json", "--last", "1000")
        return [json.loads(line) for line in out.splitlines()]

    def members(self) -> dict[str, set[str]]:
        """Queue → "interface" or "interface paused", as Asterisk's own console shows it."""
        found: dict[str, set[str]] = {}
        for queue in self.asterisk.queues.values():
            found[queue] = {
                f"{name} paused" if paused else name
                for name, paused in shown(self.asterisk.cli(f"queue show {queue}"))
            }
        return found


def shown(text: str) -> Iterator[tuple[str, bool]]:
    """Interface and paused of each dynamic member in the output of "queue show"."""
    for line in text.splitlines():
        if "(dynamic)" in line:
            words = line.strip()
            interface = words.split("(")[1].split(")")[0] if words.startswith("Agent/") else words
            yield interface.split(" ")[0], "(paused" in line


MakeService = Callable[..., Service]


@pytest.fixture
def make_service(asterisk: Asterisk, tmp_path: Path) -> Iterator[MakeService]:
    """``make_service(login={"already_elsewhere": "move"})``: configured and started."""
    made: list[Service] = []

    def make(**changes: Any) -> Service:
        service = Service(tmp_path, asterisk)
        made.append(service)
        service.configure(**changes)
        service.start()
        return service

    yield make
    for service in made:
        service.kill()


@pytest.fixture
def service(make_service: MakeService) -> Service:
    """The service with the sample configuration."""
    return make_service()
