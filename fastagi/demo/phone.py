"""A real SIP phone without a screen: baresip as a child process, driven over its control port."""

import asyncio
import contextlib
import itertools
import json
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from fastagi.demo.asterisk import dies_with_us, free_port
from fastagi.demo.debian import DebianError, Tree

log = structlog.get_logger()

# From one key to the next, in seconds. baresip spends 240 ms on a key's RTP packets (tone, its end
# three times) and queues those that come faster, so they would arrive after we believe them gone.
_KEY = 0.25

_KEYS = frozenset("0123456789*#ABCD")

# netstring: <length>:<bytes>, — no message of baresip's is near this long.
_LONGEST = 65536


class PhoneError(Exception):
    """The phone did not start, register, answer or do as it was told."""


class CallRefused(PhoneError):
    """The other side did not take the call; ``reason`` as SIP has it, such as ``486 Busy Here``."""

    def __init__(self, number: str, reason: str) -> None:
        super().__init__(f"{number}: {reason or 'ended'}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Program:
    """A baresip that can be started: how, and where its modules and sounds lie."""

    command: tuple[str, ...]
    modules: Path
    sounds: Path


@dataclass(slots=True)
class Call:
    """One call of a phone, in either direction."""

    id: str
    peer: str
    incoming: bool
    established: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""  # why it ended

    @property
    def active(self) -> bool:
        return self.established.is_set() and not self.closed.is_set()


def on_machine() -> Program | None:
    """The machine's own baresip, when there is one with its modules."""
    path = shutil.which("baresip")
    modules = _modules(Path("/"))
    if path is None or modules is None:
        return None
    return Program((path,), modules, Path("/usr/share/baresip"))


def in_tree(tree: Tree) -> Program:
    """The baresip among unpacked packages."""
    modules = _modules(tree.root)
    if modules is None:
        raise DebianError(f"no baresip modules in {tree.root}")
    return Program(tuple(tree.command("baresip")), modules, tree.root / "usr/share/baresip")


def _modules(root: Path) -> Path | None:
    for pattern in ("usr/lib/baresip/modules", "usr/lib/*/baresip/modules"):
        for folder in sorted(root.glob(pattern)):
            if (folder / "ctrl_tcp.so").exists():
                return folder
    return None


@dataclass(slots=True)
class Phone:
    """A desk phone with one line: registers, dials, presses keys, answers.

    Everything it writes is in ``folder``. Use it from one event loop, on the main thread.
    """

    folder: Path
    program: Program
    extension: str
    password: str = field(repr=False)
    sip_port: int  # Asterisk's
    auto_answer: bool = True
    record: bool = False  # what it hears, as WAV files in folder/heard
    answered: list[Call] = field(default_factory=list, init=False)  # incoming calls, in order
    calls: dict[str, Call] = field(default_factory=dict, init=False)
    _process: asyncio.subprocess.Process | None = field(default=None, init=False, repr=False)
    _reader: "asyncio.Task[None] | None" = field(default=None, init=False, repr=False)
    _writer: asyncio.StreamWriter | None = field(default=None, init=False, repr=False)
    _replies: "dict[str, asyncio.Future[Mapping[str, Any]]]" = field(
        default_factory=dict, init=False, repr=False
    )
    _tokens: "itertools.count[int]" = field(default_factory=itertools.count, init=False, repr=False)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition, init=False, repr=False)
    _dialling: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)
    _current: Call | None = field(default=None, init=False, repr=False)
    _nameless: Call | None = field(default=None, init=False, repr=False)  # dialled, no id yet
    _refused: str = field(default="", init=False, repr=False)

    # -- plugged in and out ---------------------------------------------------------------

    async def plug(self, *, within: float = 20) -> None:
        """Start it and wait until Asterisk has taken its registration.

        Raises:
            PhoneError: it did not come up, or Asterisk refused it, within so many seconds.
        """
        if self._process is not None and self._process.returncode is None:
            raise PhoneError(f"phone {self.extension} is plugged in already")
        for attempt in range(3):
            try:
                await self._plug(within)
            except PhoneError as error:
                # Somebody was quicker with a port that had been free a moment ago.
                if attempt == 2 or "Address already in use" not in str(error):
                    raise
            else:
                return

    async def _plug(self, within: float) -> None:
        self._refused = ""
        control = free_port()
        self._configure(control)
        with (self.folder / "console").open("wb") as console:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                "-f",
                str(self.folder),
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=console,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dies_with_us(),
            )
        try:
            async with asyncio.timeout(within):
                reader, self._writer = await self._connect(control)
                self._reader = asyncio.create_task(self._listen(reader))
                await self._until_registered()
        except TimeoutError as error:
            await self.unplug()
            why = self._refused or f"not registered after {within:g} s"
            raise PhoneError(f"phone {self.extension}: {why}\n{self._last_words()}") from error
        except BaseException:
            await self.unplug()
            raise

    async def _connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            if self._process is not None and self._process.returncode is not None:
                raise PhoneError(f"phone {self.extension} ended\n{self._last_words()}")
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)

    async def _until_registered(self) -> None:
        """Ask until it says OK: the event of the first registration may come before we listen."""
        while True:
            told = str((await self._command("reginfo")).get("data", ""))
            told = re.sub(r"\x1b\[[0-9;]*m", "", told)
            # > sip:1001@127.0.0.1:5060      OK  Asterisk Expires 599s
            # baresip 1.1 has "0 - " where 1.0 has "> "
            if re.search(r"\bsip:\S+\s+OK\b", told):
                return
            if re.search(r"\bsip:\S+\s+ERR\b", told):
                self._refused = "Asterisk refuses the registration"
            await asyncio.sleep(0.02)

    async def register(self) -> None:
        """Register again, for an Asterisk that was killed before it had noted where we are.

        A call in progress is lost, as it is at the other end.
        """
        await self.unplug()
        await self.plug()

    async def unplug(self) -> None:
        """Pull the cable: the process is killed, Asterisk hears nothing of it."""
        await self._end(signal.SIGKILL)

    async def close(self) -> None:
        """Hang up, unregister and end."""
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
            self._reader = None
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
            try:
                await asyncio.wait_for(process.wait(), 3)
            except TimeoutError:
                process.kill()
                await process.wait()
        await self._all_closed("unplugged")

    async def __aenter__(self) -> Self:
        await self.plug()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # -- what a person does with it -------------------------------------------------------

    async def dial(self, number: str, *, within: float = 30) -> Call:
        """Lift the receiver and dial; returns when somebody has answered.

        Raises:
            CallRefused: busy, no such number, nobody answered.
        """
        call = await self.start_call(number)
        try:
            async with asyncio.timeout(within):
                await self._until(lambda: call.established.is_set() or call.closed.is_set())
        except TimeoutError as error:
            raise CallRefused(number, f"no answer after {within:g} s") from error
        if not call.established.is_set():
            raise CallRefused(number, call.reason)
        return call

    async def start_call(self, number: str) -> Call:
        """Dial without waiting for an answer."""
        if not re.fullmatch(r"[0-9A-Za-z*#+._-]+", number):
            raise ValueError(f"cannot be dialled: {number!r}")
        # RFC 3261 section 25.1: a * may stand in the user part as it is, a # may not.
        user = number.replace("#", "%23")
        call = Call("", f"sip:{user}", incoming=False)
        self._current = self._nameless = call
        async with self._dialling:
            told = await self._command("dial", f"sip:{user}@127.0.0.1:{self.sip_port}")
            # baresip 1.1 says which call it is. 1.0 does not, nor does either tell of a call before
            # it rings, is answered or ends: the first that is told of will be this one.
            named = re.search(r"call id: (\S+)", str(told.get("data", "")))
            if named and not call.id:
                self._name(call, named[1])
        return call

    def _name(self, call: Call, number: str) -> None:
        call.id = number
        self.calls[number] = call
        self._nameless = None

    async def press(self, keys: str) -> None:
        """Press keys one after the other: RFC 4733 events in the call's RTP stream."""
        for key in keys:
            if key not in _KEYS:
                raise ValueError(f"not a key: {key!r}")
            await self._command("sndcode", key)
            await asyncio.sleep(_KEY)

    async def transfer(self, number: str) -> None:
        """Send the other side of the call to another number, without consulting (SIP REFER)."""
        await self._command("transfer", f"sip:{number}@127.0.0.1:{self.sip_port}")

    async def hangup(self) -> None:
        """Put the receiver down and wait until the call is gone."""
        call = self._current
        if call is None or call.closed.is_set():
            return
        # baresip 1.1 has no current call before it rings or is answered, so it is told which; 1.0
        # takes its only one.
        async with self._dialling:
            await self._command("hangup", call.id)
        await self.wait_closed()

    async def answer(self) -> None:
        """Take the call that rings; for phones that do not answer by themselves."""
        await self._command("accept")

    async def wait_closed(self, *, within: float = 30) -> Call:
        """Wait until the current call is over, whoever ends it."""
        call = self._current
        if call is None:
            raise PhoneError(f"phone {self.extension} has no call")
        try:
            await asyncio.wait_for(call.closed.wait(), within)
        except TimeoutError as error:
            raise PhoneError(f"the call with {call.peer} goes on after {within:g} s") from error
        return call

    async def wait_ringing(self, *, within: float = 20) -> Call:
        """Wait until it rings, or rang and was answered."""
        try:
            async with asyncio.timeout(within):
                await self._until(lambda: self._incoming() is not None)
        except TimeoutError as error:
            raise PhoneError(f"phone {self.extension} did not ring in {within:g} s") from error
        call = self._incoming()
        assert call is not None
        return call

    async def wait_answered(self, number: int = 1, *, within: float = 20) -> Call:
        """Wait for the ``number``-th incoming call since it was made to be answered; returns it."""
        try:
            async with asyncio.timeout(within):
                await self._until(lambda: len(self.answered) >= number)
        except TimeoutError as error:
            raise PhoneError(
                f"phone {self.extension} answered {len(self.answered)} calls in {within:g} s"
            ) from error
        return self.answered[number - 1]

    def _incoming(self) -> Call | None:
        waiting = [c for c in self.calls.values() if c.incoming and not c.closed.is_set()]
        return waiting[-1] if waiting else None

    @property
    def active(self) -> Call | None:
        """The call in progress."""
        calls = [call for call in self.calls.values() if call.active]
        return calls[-1] if calls else None

    @property
    def ringing(self) -> bool:
        return any(
            c.incoming and not c.established.is_set() and not c.closed.is_set()
            for c in self.calls.values()
        )

    # -- baresip's control port -----------------------------------------------------------

    async def _command(self, name: str, params: str = "") -> Mapping[str, Any]:
        if self._writer is None:
            raise PhoneError(f"phone {self.extension} is not plugged in")
        token = str(next(self._tokens))
        message = json.dumps({"command": name, "params": params, "token": token}).encode()
        reply: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[token] = reply
        try:
            self._writer.write(b"%d:%s," % (len(message), message))
            async with asyncio.timeout(10):
                await self._writer.drain()
                answer = await reply
        except (TimeoutError, OSError) as error:
            raise PhoneError(f"phone {self.extension} does not answer to {name}") from error
        finally:
            self._replies.pop(token, None)
        if not answer.get("ok"):
            raise PhoneError(f"phone {self.extension} refuses {name}: {answer.get('data', '')}")
        return answer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                length = int((await reader.readuntil(b":"))[:-1])
                if length > _LONGEST:
                    raise PhoneError(f"a message of {length} bytes")
                message = json.loads((await reader.readexactly(length + 1))[:-1])
                if message.get("response"):
                    waiting = self._replies.get(str(message.get("token")))
                    if waiting is not None and not waiting.done():
                        waiting.set_result(message)
                elif message.get("event"):
                    await self._event(message)
        except (asyncio.IncompleteReadError, OSError, ValueError, PhoneError) as error:
            log.debug("phone went away", extension=self.extension, error=repr(error))
            for waiting in self._replies.values():
                if not waiting.done():
                    waiting.set_exception(PhoneError(f"phone {self.extension} went away"))
            await self._all_closed("phone went away")

    async def _event(self, event: Mapping[str, Any]) -> None:
        kind, number = str(event.get("type")), str(event.get("id", ""))
        reason = str(event.get("param", ""))
        if event.get("class") != "call" or not number:
            return
        async with self._changed:
            incoming = event.get("direction") == "incoming"
            if number not in self.calls:
                if self._nameless is not None and not incoming:
                    self._name(self._nameless, number)
                else:
                    peer = str(event.get("peeruri", ""))
                    self.calls[number] = Call(number, peer, incoming)
            call = self.calls[number]
            if kind == "CALL_ESTABLISHED":
                call.established.set()
                self._current = call
                if call.incoming:
                    self.answered.append(call)
            elif kind == "CALL_CLOSED":
                call.reason = reason
                call.closed.set()
            self._changed.notify_all()

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(holds)

    async def _all_closed(self, reason: str) -> None:
        async with self._changed:
            for call in [*self.calls.values(), *([self._nameless] if self._nameless else [])]:
                if not call.closed.is_set():
                    call.reason = reason
                    call.closed.set()
            self._nameless = None
            self._changed.notify_all()

    # -- its files ------------------------------------------------------------------------

    def _configure(self, control: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        heard = self.folder / "heard"
        heard.mkdir(exist_ok=True)
        listen = free_port(beside=1)  # it takes the next port too
        while control in (listen, listen + 1):
            listen = free_port(beside=1)
        # The microphone is wired to the earpiece: that source never ends, where a sound file takes
        # the call with it at its end (baresip's aufile), and it keeps RTP and so the keys going.
        modules = ["g711.so", "aubridge.so", *(["sndfile.so"] if self.record else [])]
        (self.folder / "config").write_text(
            f"""\
sip_listen 127.0.0.1:{listen}
net_interface 127.0.0.1
call_local_timeout 120
call_max_calls 8
audio_player aubridge,nil
audio_source aubridge,nil
audio_alert aubridge,nil
audio_path {self.program.sounds}
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
rtp_ports 30000-39999
rtp_timeout 0
snd_path {heard}
module_path {self.program.modules}
"""
            + "".join(f"module {name}\n" for name in modules)
            + f"""\
module_tmp account.so
module_app ctrl_tcp.so
module_app menu.so
ctrl_tcp_listen 127.0.0.1:{control}
"""
        )
        accounts = self.folder / "accounts"
        accounts.write_text(
            f"<sip:{self.extension}@127.0.0.1:{self.sip_port};transport=udp>"
            f";auth_user={self.extension};auth_pass={self.password};regint=600"
            f";answermode={'auto' if self.auto_answer else 'manual'}"
            ";audio_codecs=pcmu,pcma\n"
        )
        accounts.chmod(0o600)
        for name in ("contacts", "current_contact"):
            (self.folder / name).touch()

    def _last_words(self) -> str:
        path = self.folder / "console"
        return "\n".join(path.read_text(errors="replace").splitlines()[-15:])
