"""The service as a process, a desk with an agent's ear, a wire to cut, a peer who listens."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import yaml
from asterisk.manager import Manager
from typer.testing import CliRunner

from fastagi import config
from fastagi.agi.prompts import Digits, Number, Phrase
from fastagi.cli import app
from fastagi.contract import Variable
from fastagi.demo.asterisk import Asterisk, Played, free_port
from fastagi.demo.phone import Phone
from fastagi.dialplan import AFTER_CONTEXT, render_dialplan, render_manager
from tests.forked import Forked

SAMPLE = Path(__file__).parents[2] / "config"

STATUS, NUMBER = Variable.STATUS.value, Variable.NUMBER.value
EXTENSION, REASON = Variable.EXTENSION.value, Variable.PAUSE_REASON.value

# An admin's own continuation: what it sees of a call goes into Asterisk's log.
_SEEN = "|".join(f"${{{name}}}" for name in ("ARG1", STATUS, NUMBER, EXTENSION, REASON))
AFTER = f"""
[{AFTER_CONTEXT}]
exten => s,1,NoOp(result={_SEEN})
 same => n,Return()
"""


async def until(condition: Callable[[], object], *, within: float = 20, what: str = "") -> None:
    """Waits for ``condition``; the limit only ends a test that has failed."""
    deadline = time.monotonic() + within
    while True:
        asked = time.monotonic()
        if condition():
            return
        if asked > deadline:
            raise AssertionError(f"did not come true within {within:g} s: {what or condition}")
        # Some ask Asterisk's console and three commands: what is waited for needs the processor.
        await asyncio.sleep(0.02 + 2 * (time.monotonic() - asked))


# -- the service ----------------------------------------------------------------------------


class Service:
    """``fastagi serve`` with the sample configuration, changed where a test wants it."""

    def __init__(self, folder: Path, asterisk: Asterisk, *, ami_port: int) -> None:
        self.folder = folder
        self.asterisk = asterisk
        self.ami_port = ami_port
        self.port = free_port()
        self.http_port = free_port()
        self.config = folder / "config"
        self.log = folder / "service.log"
        self.process: Forked | None = None
        self.more_words: tuple[str, ...] = ()  # of the command line
        self.main: Callable[[], None] | None = None  # what the process does, else `fastagi`

    # -- its configuration

    def configure(self, **changes: Any) -> None:
        """Top-level keys to change; a mapping is merged into the sample's. No HTTP unless asked
        for: ``http={}``."""
        changes["fastagi"] = {"listen": f"127.0.0.1:{self.port}"} | changes.get("fastagi", {})
        changes["asterisk"] = {
            "port": self.ami_port,
            "secret": self.asterisk.ami_secret,
        } | changes.get("asterisk", {})
        if "http" in changes:
            changes["http"] = {"listen": f"127.0.0.1:{self.http_port}"} | changes["http"]
        changes.setdefault("database", f"sqlite:///{self.folder / 'fastagi.db'}")
        settings = sample()
        if "http" not in changes:
            del settings["http"]
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(settings.get(key), dict):
                settings[key] = {**settings[key], **value}
            else:
                settings[key] = value
        self.config.mkdir(exist_ok=True)
        self.write(settings)
        loaded = config.load(self.config)
        self.asterisk.features = render_dialplan(loaded) + AFTER
        self.asterisk.manager_sections = render_manager(loaded).replace(
            "secret = ", f"secret = {self.asterisk.ami_secret} ;"
        )
        self.asterisk.reload("dialplan")
        self.asterisk.reload("manager")

    @property
    def file(self) -> Path:
        return self.config / "fastagi.yml"

    def settings(self) -> dict[str, Any]:
        """What stands in its file."""
        found: dict[str, Any] = yaml.safe_load(self.file.read_text())
        return found

    def write(self, settings: dict[str, Any]) -> None:
        """In one step, as editors do."""
        new = self.folder / "new.yml"
        new.write_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False))
        new.replace(self.file)

    # -- its life

    def start(self, *, within: float = 30) -> None:
        """Spawn it and wait until it listens and is connected to Asterisk."""
        began = self.spawn()
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            text = self.log.read_bytes()[began:].decode()
            if '"listening"' in text and "connected to Asterisk" in text:
                return
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended:\n{text}")
            time.sleep(0.02)
        raise AssertionError(f"the service did not start:\n{self.log.read_text()}")

    def spawn(self) -> int:
        """Returns where in its log this life begins."""
        words = ["serve", "--log-format", "json", "--config", str(self.config)]
        words += self.more_words
        with self.log.open("ab") as log:
            began = log.tell()
            streams = (None, log.fileno(), log.fileno())
            self.process = Forked(words, streams=streams, main=self.main)
        return began

    def kill(self) -> None:
        """kill -9"""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, within: float = 40) -> int:
        """SIGTERM, and its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(within)
        self.process = None
        return status

    def logged(self, event: str) -> list[dict[str, Any]]:
        """What it logged under this name."""
        found = []
        for line in self.log.read_text().splitlines():
            if event in line:
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if entry.get("event") == event:
                        found.append(entry)
        return found

    # -- what is seen of it from outside

    def fastagi(self, *words: str, status: int | None = 0) -> str:
        """What a command prints, with this configuration."""
        words = (*words, "--config", str(self.config))
        # In a thread, as commands have an event loop of their own; and this process keeps its log
        # as it is, which later tests look into.
        with ThreadPoolExecutor(1) as thread, patch("fastagi.cli.set_up_log"):
            result = thread.submit(CliRunner().invoke, app, words).result()
        if status is not None:
            assert result.exit_code == status, result.output
        return result.stdout

    async def reload(self, *words: str, status: int = 0) -> list[str]:
        """The lines of `fastagi reload`."""
        out = await asyncio.to_thread(self.fastagi, "reload", *words, status=status)
        return out.splitlines()

    def events(self, *types: str) -> list[dict[str, Any]]:
        """What `fastagi events` shows, the oldest first; of these types only."""
        out = self.fastagi("events", "--json", "--last", "1000")
        found = [json.loads(line) for line in out.splitlines()]
        return [event for event in found if not types or event["type"] in types]

    def agents(self) -> dict[str, dict[str, Any]]:
        """What `fastagi agents` shows, by number."""
        found = [json.loads(line) for line in self.fastagi("agents", "--json").splitlines()]
        return {agent["number"]: agent for agent in found}

    def members(self) -> dict[str, set[str]]:
        """Queue → "interface" or "interface paused:reason", as Asterisk's console shows it."""
        return {queue: set(there) for queue, there in shown_by_queue(self.asterisk).items()}

    def meant(self) -> dict[str, set[str]]:
        """The same as the store has it."""
        found: dict[str, set[str]] = {queue: set() for queue in self.asterisk.queues.values()}
        for agent in self.agents().values():
            for queue in agent["joined"]:
                paused = f" paused:{agent['pause_reason']}" if agent["paused_since"] else ""
                found[queue].add(agent["interface"] + paused)
        return found

    def agrees(self) -> None:
        """The store and Asterisk are of one mind."""
        assert self.members() == self.meant()


def sample() -> dict[str, Any]:
    """The sample configuration."""
    settings: dict[str, Any] = {}
    for file in sorted(SAMPLE.glob("*.yml")):
        settings |= yaml.safe_load(file.read_text())
    return settings


# Agent/4001 (PJSIP/1001) with penalty 2 (ringinuse disabled) (dynamic) (paused:lunch was 1 secs …
_MEMBER = re.compile(r"^\s+Agent/\S+ \((?P<interface>[^() ]+)[^\n]*\(dynamic\)", re.MULTILINE)


def shown(text: str) -> list[str]:
    """The dynamic members in the output of "queue show"."""
    found = []
    for line in text.splitlines():
        if match := _MEMBER.match(line):
            paused = re.search(r"\(paused:?(\S*)(?: was [^)]*)?\)", line)
            found.append(match["interface"] + (f" paused:{paused[1]}" if paused else ""))
    return found


def shown_by_queue(asterisk: Asterisk) -> dict[str, list[str]]:
    """All of them in one go."""
    found: dict[str, list[str]] = {queue: [] for queue in asterisk.queues.values()}
    for text in asterisk.cli("queue show").split("\n\n"):
        queue = text.lstrip().partition(" has ")[0]
        if queue in found:
            found[queue] = shown(text)
    return found


# -- a desk ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """A call that is over: what was played, and what the dialplan was told."""

    played: tuple[Played, ...]
    script: str = ""
    outcome: str = ""
    agent: str = ""
    extension: str = ""
    reason: str = ""

    @property
    def sounds(self) -> list[str]:
        return [played.sound for played in self.played]

    @property
    def languages(self) -> set[str]:
        return {played.language for played in self.played}


class Conversation:
    """One call of a desk to a feature code."""

    def __init__(self, phone: Phone, asterisk: Asterisk, code: str) -> None:
        self.phone = phone
        self.asterisk = asterisk
        self.code = code
        self.channel = ""
        self._mark = asterisk.mark()
        self._heard = 0  # how many of the sounds were waited for

    async def began(self) -> Self:
        """The call is in Asterisk's dialplan."""
        number = re.escape(self.code)
        pattern = re.compile(
            rf'Executing \[{number}@phones:1\] Gosub\("(PJSIP/{self.phone.extension}-[0-9a-f]+)"'
        )

        def found() -> bool:
            match = pattern.search(self.log())
            self.channel = match[1] if match else ""
            return match is not None

        await until(found, what=f"{self.code} dialled at {self.phone.extension}")
        return self

    def log(self) -> str:
        return self.asterisk.log_since(self._mark)

    def played(self) -> list[Played]:
        return self.asterisk.prompts(self.channel, since=self._mark)

    async def hears(self, sound: str) -> Self:
        """Waits until this sound is played, after those that were waited for before."""

        def heard() -> bool:
            sounds = [played.sound for played in self.played()]
            if sound not in sounds[self._heard :]:
                return False
            self._heard = sounds.index(sound, self._heard) + 1
            return True

        await until(heard, what=f"{sound} at {self.phone.extension}")
        return self

    async def press(self, keys: str) -> Self:
        await self.phone.press(keys)
        return self

    async def hang_up(self) -> Heard:
        """At any moment, answered or not."""
        await self.phone.hangup()
        return await self.end()

    async def end(self) -> Heard:
        """Waits until the call is over, whoever ends it."""

        def over() -> bool:
            # One thread writes the log, in order: after its last line nothing more comes. A call
            # that ran out of time is picked up once more, so the channel must be gone, too.
            lines = [line for line in self.log().splitlines() if self.channel in line]
            return "Spawn extension" in lines[-1] and (
                f"{self.channel}!" not in self.asterisk.cli("core show channels concise")
            )

        await until(over, within=40, what=f"the end of {self.code} at {self.phone.extension}")
        text = self.log()
        result = re.search(rf'NoOp\("{re.escape(self.channel)}", "result=([^"]*)"\)', text)
        return Heard(tuple(self.played()), *(result[1].split("|") if result else ()))

    async def asked_again(self, question: str, then: str) -> bool:
        """Waits until ``then`` is played, or the question once more: true, as after keys that did
        not arrive."""
        again = False

        def goes_on() -> bool:
            nonlocal again
            sounds = [played.sound for played in self.played()][self._heard :]
            again = question in sounds and then not in sounds[: sounds.index(question) + 1]
            return again or then in sounds

        await until(goes_on, within=40, what=f"{then} at {self.phone.extension}")
        if again:
            await self.hears(question)
        return again


class Desk:
    """A phone and who sits there."""

    def __init__(self, phone: Phone, asterisk: Asterisk) -> None:
        self.phone = phone
        self.asterisk = asterisk
        self._dialling: set[asyncio.Task[Any]] = set()

    async def lift(self, code: str) -> Conversation:
        """Dial and listen."""
        conversation = Conversation(self.phone, self.asterisk, code)
        self.call(code)
        return await conversation.began()

    def call(self, number: str) -> None:
        """Dial, and wait for nothing: the phone tells of its call only when it is answered."""
        dialling = asyncio.create_task(self._dial(number))
        self._dialling.add(dialling)
        dialling.add_done_callback(self._dialling.discard)

    async def _dial(self, number: str) -> None:
        with contextlib.suppress(Exception):  # what became of it is read in Asterisk's log
            await self.phone.dial(number)

    async def takes(self, call: int = 1) -> None:
        """Waits for it to ring and answers: the ``call``-th one since the phone is there."""
        await self.phone.wait_ringing()
        if not self.phone.auto_answer:
            await self.phone.answer()
        await self.phone.wait_answered(call)

    @property
    def rung(self) -> int:
        """How many calls have come in."""
        return sum(call.incoming for call in self.phone.calls.values())

    async def dial(self, code: str, *steps: tuple[str, str]) -> Heard:
        """Dial, press the keys of each step when its sound is heard, and listen to the end."""
        conversation = await self.lift(code)
        for sound, keys in steps:
            await conversation.hears(sound)
            await conversation.press(keys)
        return await conversation.end()

    async def dial_patiently(self, code: str, *steps: tuple[str, str], answer: str) -> Heard:
        """The same as somebody who presses the keys once more when asked once more: Asterisk drops
        a key that arrives between two commands of the service, which are far apart on a machine
        that is busy. ``answer`` is the first sound of the answer."""
        conversation = await self.lift(code)
        following = [*(sound for sound, _ in steps[1:]), answer]
        for (sound, keys), then in zip(steps, following, strict=False):
            await conversation.hears(sound)
            await conversation.press(keys)
            while keys and await conversation.asked_again(sound, then):
                await conversation.press(keys)
        return await conversation.end()


def spoken(phrase: Phrase) -> list[str]:
    """The sound files of a phrase; its numbers are below twenty."""
    sounds: list[str] = []
    for item in phrase:
        if isinstance(item, Digits):
            sounds += [f"digits/{digit}" for digit in item.text]
        elif isinstance(item, Number):
            assert item.value < 20
            sounds.append(f"digits/{item.value}")
        else:
            sounds.append(item)
    return sounds


# -- a call without a phone -------------------------------------------------------------------


class Line:
    """A FastAGI call as Asterisk makes it: connected, it waits for the instant to begin."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> Self:
        """Raises OSError when nobody listens there."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def call(
        self, script: str, digits: str, extension: str, *, asterisk: str = "", press: str = ""
    ) -> str:
        """The outcome; "" when the service was gone before it told one. ``press``: a key, pressed
        whenever one may be."""
        query = f"?asterisk={asterisk}" if asterisk else ""
        self._writer.write(
            f"agi_network: yes\nagi_network_script: agent/{script}{query}\n"
            f"agi_channel: PJSIP/{extension}-00000001\nagi_language: en\n"
            f"agi_callerid: {extension}\nagi_uniqueid: 1.1\nagi_arg_1: {digits}\n\n".encode()
        )
        outcome = ""
        with contextlib.suppress(OSError):
            while line := await self._reader.readline():
                told = re.search(rb'AGENT_STATUS"? "?([A-Z_]+)', line.replace(b"=", b" "))
                outcome = told[1].decode() if told else outcome
                key = press and line.startswith(b"STREAM FILE") and b'""' not in line
                self._writer.write(f"200 result={ord(press) if key else 0} endpos=0\n".encode())
        self._writer.close()
        return outcome


# -- the way between the service and Asterisk's manager port ----------------------------------


class Wire:
    """Passes everything on, until it is told to hold something up or is cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._open = {"there": threading.Event(), "back": threading.Event()}
        self._before = self._after = b""
        self._stuck = threading.Event()
        self._listener: socket.socket | None = None
        self.port = 0
        self.release()
        self.mend()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def hold_requests(self, action: str) -> None:
        """The next request with this action does not arrive, nor does what follows it."""
        self._stuck.clear()
        self._before = f"Action: {action}\r\n".encode()

    def hold_answers(self, action: str) -> None:
        """The next request with this action arrives; nothing comes back from then on."""
        self._stuck.clear()
        self._after = f"Action: {action}\r\n".encode()

    @property
    def holds(self) -> bool:
        """The request was met."""
        return self._stuck.is_set()

    def release(self) -> None:
        """What was held up goes on."""
        self._before = self._after = b""
        for way in self._open.values():
            way.set()

    def cut(self) -> None:
        """Connections break, new ones are refused; what was held up is lost."""
        with self._lock:
            if self._listener is not None:
                # close() alone leaves a thread in accept() and the port open
                with contextlib.suppress(OSError):
                    self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._listener = None
            for end in self._sockets:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self._sockets.clear()
        self.release()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._to), timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                with self._lock:
                    if self._listener is not listener:
                        near.close()
                        far.close()
                        return
                    self._sockets += [near, far]
                for ends in ((near, far, "there"), (far, near, "back")):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if way == "there" and self._before and self._before in data:
                    self._open["there"].clear()
                    self._stuck.set()
                self._open[way].wait()
                if way == "there" and self._after and self._after in data:
                    self._open["back"].clear()
                sink.sendall(data)
                if way == "there" and self._after and self._after in data:
                    self._stuck.set()
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Censor(Wire):
    """Actions with these names do not arrive; the answer is "Permission denied", as Asterisk's."""

    def __init__(self, to: int) -> None:
        self.denied: tuple[str, ...] = ()
        self._ends: dict[socket.socket, tuple[threading.Lock, list[bytes]]] = {}
        super().__init__(to)

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        near = source if way == "there" else sink
        lock, waiting = self._ends.setdefault(near, (threading.Lock(), [b"\r\n\r\n"]))
        # waiting[0]: how what was sent back ends; the rest: answers that wait for its boundary.

        def answer() -> None:
            while len(waiting) > 1 and waiting[0].endswith(b"\r\n\r\n"):
                near.sendall(waiting.pop(1))

        rest = b""
        try:
            while data := source.recv(65536):
                if way == "back":
                    with lock:
                        sink.sendall(data)
                        waiting[0] = (waiting[0] + data)[-4:]
                        answer()
                    continue
                *packets, rest = (rest + data).split(b"\r\n\r\n")
                for packet in packets:
                    name = re.search(rb"^Action: (\S+)", packet, re.MULTILINE)
                    if name is None or name[1].decode() not in self.denied:
                        sink.sendall(packet + b"\r\n\r\n")
                        continue
                    id = re.search(rb"^ActionID: [^\r]*", packet, re.MULTILINE)
                    assert id is not None
                    with lock:
                        waiting.append(
                            b"Response: Error\r\n"
                            + id[0]
                            + b"\r\nMessage: Permission denied\r\n\r\n"
                        )
                        answer()
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


# -- a peer ---------------------------------------------------------------------------------


class Peer:
    """pyst2's Manager: an implementation of the manager protocol that is not ours."""

    def __init__(self, asterisk: Asterisk) -> None:
        self._asterisk = asterisk
        self._manager = Manager()
        self.heard: list[dict[str, str]] = []

    async def __aenter__(self) -> Self:
        self._manager.register_event("*", self._hear)
        await asyncio.to_thread(self._manager.connect, "127.0.0.1", self._asterisk.ami_port)
        await asyncio.to_thread(
            self._manager.login, self._asterisk.admin_username, self._asterisk.admin_secret
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        # Manager.close() logs off, and fails or waits for ever when Asterisk is the quicker to
        # hang up. To one that is not connected any more it only ends its threads.
        self._manager._connected.clear()
        with contextlib.suppress(OSError, AttributeError):  # Asterisk may be gone
            self._manager._sock._sock.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(self._manager.close)

    def _hear(self, told: Any, _: Manager) -> None:
        self.heard.append(dict(told.headers))

    def originate(self, channel: str) -> None:
        """A call from nowhere to this channel; nobody waits for it."""
        action = {"Action": "Originate", "Channel": channel, "Application": "Wait", "Data": "20"}
        packet = "".join(f"{name}: {value}\r\n" for name, value in action.items())
        self._manager._sock._sock.sendall(f"{packet}Async: true\r\n\r\n".encode())

    async def put(self, family: str, key: str, value: str) -> None:
        """Writes into Asterisk's own database; returns when that is done."""
        action = {"Action": "DBPut", "Family": family, "Key": key, "Val": value}
        await asyncio.to_thread(self._manager.send_action, action)

    def named(self, event: str) -> list[dict[str, str]]:
        return [told for told in list(self.heard) if told.get("Event") == event]

    def facts(self) -> list[dict[str, str]]:
        """The service's own events."""
        return [told for told in self.named("UserEvent") if told["UserEvent"] == "AgentFeature"]
