"""Plays Asterisk towards a classic AGI: starts it, sends the headers, answers, hangs up.

Its queues and its database are two dictionaries; answers are Asterisk's own (res_agi.c, app_queue.c
of 22.10). Its console is a socket that knows `queue show`.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.agi.asterisk_client import ENDS_WITH_THE_CALL, WORKS_DEAD, headers, words

ROOT = Path(__file__).parents[2]
AGI = [sys.executable, "-m", "fastagi.fallback"]


@dataclass
class Member:
    paused: bool = False
    reason: str = ""
    dynamic: bool = True
    name: str = ""  # "" is the interface, as Asterisk has it


@dataclass
class Heard:
    """What the program did with a call."""

    commands: list[str] = field(default_factory=list)
    sounds: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)  # in the order they were set
    told: list[str] = field(default_factory=list)  # VERBOSE
    status: int = 0
    stderr: str = ""

    @property
    def outcome(self) -> str:
        return self.variables.get("AGENT_STATUS", "")


@dataclass
class Classic:
    facts: Path
    queues: dict[str, dict[str, Member]] = field(default_factory=dict)
    database: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)  # sounds
    console: Callable[[str], bytes] | None = None  # in place of what it answers

    def join(self, interface: str, *queues: str, **state: Any) -> None:
        for queue in queues:
            self.queues.setdefault(queue, {})[interface] = Member(**state)

    def dial(
        self,
        script: str,
        *digits: str,
        keys: Iterable[str] = (),
        answers: Mapping[str, str | Callable[[], str]] | None = None,
        hang_up_at: str = "",
        die_at: str = "",
        more: Mapping[str, str] | None = None,
        extension: str = "1001",
        raw: bytes | None = None,
    ) -> Heard:
        """One call.

        keys        pressed one after the other, when a key is waited for; "" is none in time
        answers     start of a command -> what is answered instead
        hang_up_at  the caller hangs up at the first command that begins so, before its answer
        die_at      Asterisk itself goes at that command
        """
        heard, pressed, gone = Heard(), iter(keys), False
        stack = contextlib.ExitStack()
        folder = stack.enter_context(self._console())
        process = subprocess.Popen(
            [*AGI, str(self.facts), script, *digits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=os.environ | {"PYTHONPATH": str(ROOT), "AST_RUN_DIR": folder},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        more = {"agi_network": "", "agi_network_script": ""} | dict(more or {})
        try:
            process.stdin.write(raw or headers(script, extension=extension, more=more))
            process.stdin.flush()
            for line in process.stdout:
                text = line.decode().removesuffix("\n")
                heard.commands.append(text)
                if die_at and text.startswith(die_at):
                    break
                if hang_up_at and text.startswith(hang_up_at) and not gone:
                    gone = True
                    process.send_signal(signal.SIGHUP)
                reply = self._reply(heard, text, pressed, answers or {}, gone)
                process.stdin.write(reply.encode() + b"\n")
                process.stdin.flush()
        except BrokenPipeError:
            pass
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        heard.stderr = process.stderr.read().decode()
        process.stderr.close()
        heard.status = process.wait(20)
        stack.close()
        return heard

    @contextlib.contextmanager
    def _console(self) -> Iterator[str]:
        # Not pytest's folder: the name of a socket has at most 107 characters.
        folder = tempfile.mkdtemp()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{folder}/asterisk.ctl")
        listener.listen()
        thread = threading.Thread(target=self._listen, args=(listener,), daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            listener.close()
            shutil.rmtree(folder)

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                asked = b""
                while not asked.endswith(b"\0"):
                    asked += peer.recv(4096)
                command = asked.decode().removesuffix("\0").removeprefix("cli quit after ")
                peer.sendall((self.console or self._shown)(command))

    def _shown(self, command: str) -> bytes:
        queue = command.removeprefix('queue show "').removesuffix('"')
        lines = ["host/1/22.10.1", f"{queue} has 0 calls (max unlimited) in 'ringall' strategy"]
        for interface, member in self.queues[queue].items():
            named = f"{member.name} ({interface})" if member.name else interface
            kind = " (\x1b[1;36;40mdynamic\x1b[0m)" if member.dynamic else ""
            why = f":{member.reason}" if member.reason else ""
            paused = f" (paused{why} was 3 secs ago)" if member.paused else ""
            lines.append(
                f"      {named} (ringinuse disabled){kind}{paused} (Not in use)"
                " has taken no calls yet (login was 7 secs ago)"
            )
        return "\n".join([*lines, "   No Callers", "", ""]).encode()

    def _reply(
        self,
        heard: Heard,
        line: str,
        pressed: Any,
        answers: Mapping[str, str | Callable[[], str]],
        gone: bool,
    ) -> str:
        for start, answer in answers.items():
            if line.startswith(start):
                return answer if isinstance(answer, str) else answer()
        if gone and not line.startswith(WORKS_DEAD):
            if line.startswith(ENDS_WITH_THE_CALL) and heard.commands.count(line) == 1:
                return "200 result=-1"
            return "511 Command Not Permitted on a dead channel or intercept routine"
        match words(line):
            case ["ANSWER"]:
                return "200 result=0"
            case ["CHANNEL", "STATUS"]:
                return "200 result=6"
            case ["VERBOSE", text, _]:
                heard.told.append(text)
                return "200 result=1"
            case ["STREAM", "FILE", sound, _, _] | ["STREAM", "FILE", sound, _]:
                if sound in self.missing:
                    return "200 result=-1 endpos=0"
                heard.sounds.append(sound)
                return "200 result=0 endpos=8000"
            case ["SAY", "DIGITS", text, _]:
                heard.sounds.append(text)
                return "200 result=0"
            case ["WAIT", "FOR", "DIGIT", _]:
                key = next(pressed, "")
                return f"200 result={ord(key) if key else 0}"
            case ["SET", "VARIABLE", name, value]:
                heard.variables[name] = value
                return "200 result=1"
            case ["GET", "FULL", "VARIABLE", "${BLINDTRANSFER}${FORWARDERNAME}"]:
                return "200 result=1 ()"
            case ["GET", "VARIABLE", name]:
                value = self._value(heard, name)
                return f"200 result=1 ({value})" if value else "200 result=0"
            case ["DATABASE", "PUT", family, key, value]:
                assert family == "fastagi"
                self.database[key] = value
                return "200 result=1"
            case ["DATABASE", "DEL", _, key]:
                return f"200 result={int(self.database.pop(key, None) is not None)}"
            case ["EXEC", application, text]:
                return self._execute(heard, application, text)
        return "510 Invalid or unknown command"

    def _value(self, heard: Heard, name: str) -> str:
        function, _, rest = name.removesuffix(")").partition("(")
        if function == "QUEUE_MEMBER_LIST":
            return ",".join(self.queues.get(rest, {}))[:1023]
        if function == "QUEUE_MEMBER":
            queue, what, interface = rest.split(",")
            assert what == "paused"
            member = self.queues.get(queue, {}).get(interface)
            return str(int(member is not None and member.paused))
        return heard.variables.get(name, "")

    def _execute(self, heard: Heard, application: str, text: str) -> str:
        if application == "RemoveQueueMember":
            queue, interface = text.split(",")
            found = self.queues.get(queue, {}).get(interface)
            if queue not in self.queues:
                said = "NOSUCHQUEUE"
            elif found is None:
                said = "NOTINQUEUE"
            elif not found.dynamic:
                said = "NOTDYNAMIC"
            else:
                del self.queues[queue][interface]
                said = "REMOVED"
            heard.variables["RQMSTATUS"] = said
            return "200 result=0"
        pause = application == "PauseQueueMember"
        assert pause or application == "UnpauseQueueMember", application
        queue, interface, *rest = text.split(",", 3)
        members = [
            m[interface] for n, m in self.queues.items() if interface in m and queue in ("", n)
        ]
        for member in members:
            member.paused, member.reason = pause, rest[1] if pause else ""
        name = "PQMSTATUS" if pause else "UPQMSTATUS"
        heard.variables[name] = ("PAUSED" if pause else "UNPAUSED") if members else "NOTFOUND"
        return "200 result=0"

    def notes(self) -> list[dict[str, str]]:
        return [json.loads(value) for _, value in sorted(self.database.items()) if value]
