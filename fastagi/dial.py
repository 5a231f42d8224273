"""A phone in the terminal: plays Asterisk towards the running service, over FastAGI.

``Channel`` is the protocol without a socket: command lines in, replies out, and what a caller would
hear. ``dial`` connects it to the service and to the keys somebody presses.
"""

import asyncio
import contextlib
import os
import re
import sys
import termios
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self
from urllib.parse import quote

from fastagi.agents import errors
from fastagi.agents.callers import CAME_FROM, phone_of
from fastagi.agents.devices import DeviceRule, resolve
from fastagi.contract import CALL_CONTEXT, WITHOUT_DIGITS, Outcome, Script, Variable

LINE_BYTES: Final = 8_192  # res_agi.c, AGI_BUF_LEN
CONNECT_WITHIN: Final = 2.0  # seconds; Asterisk's own limit
SILENCE: Final = 60.0  # seconds the service may take for its next command
KEYS_WITHIN: Final = 60.0  # seconds somebody at a terminal may take to press a key

# Only for programs is it a refusal that an agent is paused already.
REFUSED: Final = frozenset(kind.outcome for kind in errors.Refused.__subclasses__()) - {
    Outcome.ALREADY_PAUSED
}

# The sounds whose answer may be shown. Everything else that is typed in one go could be a PIN.
_NOT_SECRET: Final = frozenset(("agent-user", "agent-incorrect"))
# What Asterisk refuses on a dead channel (res_agi.c: the commands without "dead").
_NEED_A_CALLER: Final = frozenset(
    ("ANSWER", "STREAM", "CONTROL", "GET DATA", "GET OPTION", "SAY", "WAIT", "CHANNEL", "HANGUP")
)

# What the sounds say: the transcripts of Asterisk's core sounds, for those the service plays.
TRANSCRIPTS: Final[Mapping[str, str]] = {
    "agent-incorrect": "Login incorrect. Please enter your agent number followed by the pound key.",
    "agent-loggedoff": "Agent logged off.",
    "agent-loginok": "Agent logged in.",
    "agent-pass": "Please enter your password followed by the pound key.",
    "agent-user": "Agent login. Please enter your agent number followed by the pound key.",
    "auth-incorrect": "Password incorrect. Please enter your password followed by the pound key.",
    "auth-thankyou": "Thank you.",
    "beeperr": "[this is an error beep tone]",
    "conf-errormenu": "Invalid choice.",
    "confbridge-pin-bad": "You have entered too many invalid personal identification numbers.",
    "dictate/pause": "pause",
    "dictate/paused": "paused",
    "digits/0": "zero",
    "digits/1": "one",
    "digits/2": "two",
    "digits/3": "three",
    "digits/4": "four",
    "digits/5": "five",
    "digits/6": "six",
    "digits/7": "seven",
    "digits/8": "eight",
    "digits/9": "nine",
    "pbx-invalid": "I am sorry, that's not a valid extension. Please try again.",
    "pbx-transfer": "Transfer.",
    "please-try-again": "Please try again.",
    "privacy-incorrect": "I'm sorry, that number is not valid.",
    "privacy-unident": ("The party you are trying to reach does not accept unidentified calls."),
    "queue-callswaiting": "Waiting to speak with a representative",
    "queue-minute": "minute",
    "queue-minutes": "minutes",
    "queue-thankyou": "Thank you for your patience.",
    "spy-agent": "Agent",
    "ss-noservice": (
        "The number you have dialed is not in service. Please check the number and try again."
    ),
    "tt-somethingwrong": "Something is terribly wrong.",
    "vm-and": "and",
    "vm-extension": "extension",
    "vm-goodbye": "Goodbye.",
    "vm-incorrect": "Login incorrect.",
    "vm-isonphone": "is on the phone",
    "vm-isunavail": "is unavailable",
    "vm-last": "last",
    "vm-no": "no",
    "vm-press": "press",
    "vm-saved": "saved",
    "vm-sorry": "I'm sorry, I did not understand your response.",
    "vm-youhave": "you have",
}


class NotACode(ValueError):
    """What was dialled is none of the configured feature codes."""


class ServiceAway(Exception):
    """The service cannot be reached, or stopped talking in mid-call."""


# -- what is dialled -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dialled:
    """A call as the dialplan hands it over."""

    script: str
    code: str
    digits: str  # behind the code
    number: str  # all of it


# What the rendered dialplan takes after a code, and what it leaves out of it.
_AFTER: Final = re.compile(r"|#|[0-9].*", re.DOTALL)
_FILTERED: Final = re.compile(r"[^0-9*]")
_MOST_DIGITS: Final = 64


def dialled(number: str, codes: Mapping[Script, str]) -> Dialled:
    """Which code this is and what was dialled after it. Raises NotACode."""
    found = [
        Dialled(script, code, _FILTERED.sub("", number[len(code) :])[:_MOST_DIGITS], number)
        for script, code in codes.items()
        if number.startswith(code)
        and _AFTER.fullmatch(number[len(code) :])
        and (number in (code, f"{code}#") or script not in WITHOUT_DIGITS)
    ]
    if not found:
        known = ", ".join(f"{code} {script.name.lower()}" for script, code in codes.items())
        raise NotACode(f"{number!r} is no feature code; there are {known or 'none'}")
    return max(found, key=lambda call: len(call.code))


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PHONE = re.compile(r"(?:[A-Za-z0-9]+/)?[A-Za-z0-9_.+@-]{1,80}", re.ASCII)


def headers(
    call: Dialled,
    phone: str,
    rules: Sequence[DeviceRule],
    *,
    host: str = "127.0.0.1",
    language: str = "en",
    asterisk: str = "",
    caller_id: str = "",
) -> bytes:
    """The block Asterisk opens a FastAGI call with.

    phone: an extension (``1001``), or a technology and an endpoint (``SIP/1001``,
    ``PJSIP/trunk``). asterisk: the name of the Asterisk that calls, where there are several.
    caller_id: where it is not the extension. Raises ValueError.
    """
    if not _PHONE.fullmatch(phone):
        raise ValueError(f"{phone!r} is no phone: write its extension, such as 1001")
    if caller_id and not _PHONE.fullmatch(caller_id):
        raise ValueError(f"{caller_id!r} is no caller ID")
    technology, slash, extension = phone.rpartition("/")
    endpoint = extension
    device = resolve(rules, extension)
    if not slash:
        its, name = ("", "") if device is None else phone_of(device)
        # A Local channel is a way to the phone; the phone itself calls in its own channel.
        technology, endpoint = its or "PJSIP", name or extension
    script = f"{call.script}?asterisk={quote(asterisk, safe='')}" if asterisk else str(call.script)
    now = time.time()
    serial = int(now * 1000) & 0xFFFFFFFF
    name = (
        f"{extension}@phones-{serial:08x};2"
        if technology == "Local"
        else (f"{endpoint}-{serial:08x}")
    )
    lines = [
        ("network", "yes"),
        ("network_script", script),
        ("request", f"agi://{host}/{script}"),
        ("channel", f"{technology}/{name}"),
        ("language", language),
        ("type", technology),
        ("uniqueid", f"{now:.3f}"),
        ("version", "fastagi dial"),
        ("callerid", caller_id or extension),
        ("calleridname", extension),
        ("callingpres", "0"),
        ("callingani2", "0"),
        ("callington", "0"),
        ("callingtns", "0"),
        ("dnid", _CONTROL.sub("", call.number)),
        ("rdnis", "unknown"),
        ("context", CALL_CONTEXT),
        ("extension", "s"),
        ("priority", "3"),
        ("enhanced", "0.0"),
        ("accountcode", ""),
        ("threadid", str(serial)),
        ("arg_1", call.digits),
    ]
    return "".join(f"agi_{key}: {value}\n" for key, value in lines).encode() + b"\n"


# -- the call, without a socket ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the service, as a caller meets it.

    ``max_keys`` is how many keys may be pressed now, 0 for none. ``secret``: do not show them.
    """

    kind: str  # answer, play, say, ask, set, hangup, other
    sound: str = ""  # the file, when one is played
    text: str = ""  # what is heard, or the command
    max_keys: int = 0
    secret: bool = False
    words: tuple[str, ...] = ()


def split(line: str) -> tuple[str, ...]:
    """A command line's words as Asterisk splits them: blanks, quotes, backslashes."""
    words: list[str] = []
    word: list[str] | None = None
    quoted = escaped = False
    for char in line:
        if escaped:
            word = [*(word or []), char]
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
            word = word or []
        elif char in " \t" and not quoted:
            if word is not None:
                words.append("".join(word))
            word = None
        else:
            word = word or []
            word.append(char)
    if word is not None:
        words.append("".join(word))
    return tuple(words)


@dataclass(slots=True)
class Channel:
    """Asterisk's side of one call."""

    language: str = "en"
    context: str = ""  # that the code was dialled in, and that the endpoint's calls begin in
    hang_up_at: int = 0  # the caller hangs up during this command, counted from 1; 0: never
    variables: dict[str, str] = field(default_factory=dict)
    answered: bool = False
    hung_up: bool = False
    commands: int = 0

    def receive(self, line: bytes) -> Step:
        """What this command means for the caller; then call ``reply``."""
        self.commands += 1
        words = split(line.decode("utf-8", "replace"))
        verb = [word.upper() for word in words[:3]]
        arguments = [*words[2:], "", "", ""]
        if verb[:1] == ["ANSWER"]:
            return Step("answer", words=words)
        if verb[:2] == ["STREAM", "FILE"]:
            return Step("play", arguments[0], transcript(arguments[0]), words=words)
        if verb[:2] == ["GET", "DATA"]:
            most = int(arguments[2]) if arguments[2].isdecimal() else 1024
            secret = arguments[0] not in _NOT_SECRET
            return Step("ask", arguments[0], transcript(arguments[0]), most, secret, words)
        if verb == ["WAIT", "FOR", "DIGIT"]:
            return Step("ask", max_keys=1, words=words)
        if verb[:1] == ["SAY"]:
            kind = verb[1] if len(verb) > 1 else ""
            return Step("say", text=_spoken(kind, arguments[0]), words=words)
        if verb[:2] == ["SET", "VARIABLE"]:
            return Step("set", text=f"{arguments[0]}={arguments[1]}", words=words)
        if verb[:1] == ["HANGUP"]:
            return Step("hangup", words=words)
        if verb[:2] == ["EXEC", "MSET"]:
            return Step("set", text=arguments[0], words=words)
        return Step("other", text=" ".join(words), words=words)

    def reply(self, step: Step, keys: str = "") -> bytes:
        """The bytes that answer it; ``keys`` are those pressed, with the ``#`` that ended them."""
        words = step.words
        name = " ".join(words[:2]).upper()
        first = name.partition(" ")[0]
        media = first in _NEED_A_CALLER or name in _NEED_A_CALLER
        if self.hung_up and media:
            return b"511 Command Not Permitted on a dead channel or intercept routine\n"
        if self.commands == self.hang_up_at and not self.hung_up:
            self.hung_up = True
            if media:
                tail = b" endpos=0" if first == "STREAM" else b""
                return b"200 result=-1" + tail + b"\nHANGUP\n"
            return self._result(step, keys) + b"HANGUP\n"
        return self._result(step, keys)

    def _result(self, step: Step, keys: str) -> bytes:
        words = step.words
        name = " ".join(words[:2]).upper()
        match step.kind:
            case "answer":
                self.answered = True
            case "play":
                return b"200 result=0 endpos=8000\n"
            case "ask" if name == "GET DATA":
                text, hash_, _ = keys.partition("#")
                in_time = hash_ or len(text) >= step.max_keys
                return f"200 result={text}{'' if in_time else ' (timeout)'}\n".encode()
            case "ask":
                return f"200 result={ord(keys[0]) if keys else 0}\n".encode()
            case "set":
                self._set(step)
                return b"200 result=1\n" if name == "SET VARIABLE" else b"200 result=0\n"
            case "hangup":
                self.hung_up = True
                return b"200 result=1\nHANGUP\n"
            case "other":
                return self._other(name, words)
        return b"200 result=0\n"

    def _set(self, step: Step) -> None:
        if step.words[0].upper() == "SET":
            name, _, value = step.text.partition("=")
            pairs = [(name, value)]
        else:
            pairs = [(n, v) for n, _, v in (p.partition("=") for p in step.text.split(","))]
        for name, value in pairs:
            if name == "CHANNEL(language)":
                self.language = value
            else:
                self.variables[name] = value

    def _other(self, name: str, words: tuple[str, ...]) -> bytes:
        if name == "GET VARIABLE" and len(words) == 3:
            value = (
                self.language if words[2] == "CHANNEL(language)" else (self.variables.get(words[2]))
            )
            if value is None:
                return b"200 result=0\n"
            return f"200 result=1 ({value})\n".encode()
        if name == "GET FULL" and len(words) == 4:
            from_context = words[3] == CAME_FROM or words[3].startswith("${PJSIP_ENDPOINT(")
            return f"200 result=1 ({self.context if from_context else ''})\n".encode()
        if name == "CHANNEL STATUS":
            return b"200 result=6\n" if self.answered else b"200 result=4\n"
        if name.partition(" ")[0] in ("NOOP", "VERBOSE", "EXEC", "DATABASE", "SET", "GET"):
            return b"200 result=0\n"
        return b"510 Invalid or unknown command\n"

    @property
    def outcome(self) -> str:
        """AGENT_STATUS; "" when the service did not set it."""
        return self.variables.get(Variable.STATUS, "")

    @property
    def done(self) -> bool:
        """Whether what was dialled was done, and not refused."""
        try:
            return Outcome(self.outcome) not in REFUSED
        except ValueError:
            return False


def transcript(sound: str) -> str:
    """What a sound says; a sound of the admin's own is shown by its name."""
    return TRANSCRIPTS.get(sound, f"[{sound}]")


def _spoken(kind: str, text: str) -> str:
    return text if kind == "NUMBER" else " ".join(text)


# -- who presses the keys ------------------------------------------------------------------------


class HangUp(Exception):
    """The person at the terminal puts the receiver down."""


class Keys(Protocol):
    async def press(self, most: int, secret: bool) -> str:
        """Up to ``most`` keys, or fewer and ``#``, or fewer: then nothing more came in time."""


class Prepared:
    """Keys given beforehand, pressed as they are asked for.

    A comma is a silence: what stands behind it waits for the next question. ``1001,4321`` answers
    two, the second of two commas leaves one unanswered.
    """

    def __init__(self, keys: str) -> None:
        if not re.fullmatch(r"[0-9*#A-Da-d,]*", keys):
            raise ValueError("keys are 0-9, *, #, A-D, and a comma for a pause")
        self._left = deque(keys.upper())
        self._ended = False  # the last question, by # or because it had enough

    async def press(self, most: int, secret: bool) -> str:
        if self._ended and self._left and self._left[0] == ",":
            self._left.popleft()
        self._ended = False
        pressed = ""
        while self._left and not self._ended:
            key = self._left.popleft()
            if key == ",":
                break
            pressed += key
            self._ended = key == "#" or len(pressed) == most
        return pressed


class Terminal:
    """Keys typed at a terminal, a line at a time. Enter stands for ``#``.

    Where single keys are asked for, a line of several is pressed one after the other. Inside
    ``with`` nothing is echoed but the answers to questions that are no PIN's, so that no PIN is
    shown that was typed too early.
    """

    def __init__(self) -> None:
        self._left: deque[str] = deque()
        self._input = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._input)

    def __enter__(self) -> Self:
        self._echo(False)
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    def _echo(self, on: bool) -> None:
        mode = list(self._before)
        mode[3] = mode[3] | termios.ECHO if on else mode[3] & ~termios.ECHO
        termios.tcsetattr(self._input, termios.TCSADRAIN, mode)

    async def press(self, most: int, secret: bool) -> str:
        if not self._left:
            line = await self._line(secret)
            self._left.extend(c for c in line if c in "0123456789*#ABCD")
            if most > 1 or not self._left:
                self._left.append("#")
        pressed = ""
        while self._left and len(pressed) < most:
            pressed += self._left.popleft()
            if pressed.endswith("#"):
                break
        if most > 1:
            self._left.clear()
        return pressed

    async def _line(self, secret: bool) -> str:
        self._echo(not secret)
        sys.stdout.write("  keys (Enter for #, Ctrl-D hangs up): ")
        sys.stdout.flush()
        loop = asyncio.get_running_loop()
        typed: asyncio.Future[bytes] = loop.create_future()

        def readable() -> None:
            if not typed.done():
                typed.set_result(os.read(self._input, 1024))

        loop.add_reader(self._input, readable)
        try:
            async with asyncio.timeout(KEYS_WITHIN):
                data = await typed
        except TimeoutError:
            data = b"\n"
        finally:
            loop.remove_reader(self._input)
            self._echo(False)
        if secret or not data:
            sys.stdout.write("\n")
        if not data:
            raise HangUp
        return data.decode("ascii", "replace").strip().upper()


# -- the call over a socket ----------------------------------------------------------------------


async def dial(
    host: str,
    port: int,
    opening: bytes,
    channel: Channel,
    keys: Keys,
    heard: Callable[[Step, str], None],
    *,
    silence: float | None = None,
) -> None:
    """Plays one call to the service and returns when it is over; the result is in ``channel``.

    heard: told each step, and the keys that were pressed at it (masked where they may be a PIN).
    silence: seconds the service may take for its next command, SILENCE unless given. Raises
    ServiceAway.
    """
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            reader, writer = await asyncio.open_connection(host, port, limit=LINE_BYTES)
    except (OSError, TimeoutError) as error:
        raise ServiceAway(
            f"no answer at {host}:{port} ({_reason(error)}): is `fastagi serve` running?"
        ) from error
    try:
        writer.write(opening)
        async for line in _lines(reader, SILENCE if silence is None else silence):
            step = channel.receive(line)
            pressed = ""
            gone = channel.hung_up or channel.commands == channel.hang_up_at
            if step.max_keys and not gone:
                heard(step, "")
                try:
                    pressed = await keys.press(step.max_keys, step.secret)
                except HangUp:
                    channel.hang_up_at = channel.commands
                else:
                    # Not even how many they were.
                    heard(Step("keys"), "••••" if step.secret and pressed else pressed)
            elif not channel.hung_up:
                heard(step, "")
            writer.write(channel.reply(step, pressed))
            if channel.commands == channel.hang_up_at:
                heard(Step("hung up"), "")
            await writer.drain()
    except OSError as error:
        if not channel.outcome:
            raise ServiceAway(f"the call was cut off: {_reason(error)}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()
    if channel.commands == 0:
        raise ServiceAway(
            f"{host}:{port} closed the call without a word: is this address in `fastagi: allow`, "
            "and is it the service that listens there?"
        )


async def _lines(reader: asyncio.StreamReader, silence: float) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(silence):
                line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return
        except (TimeoutError, asyncio.LimitOverrunError) as error:
            what = "is silent" if isinstance(error, TimeoutError) else "does not speak AGI"
            raise ServiceAway(f"the service {what}") from error
        yield line.rstrip(b"\r\n")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or "no connection in time"
