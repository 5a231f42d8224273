"""The AGI protocol without a socket: bytes in, requests, replies, notices out; commands to bytes.

Asterisk opens the connection, sends a block of ``agi_*`` headers and a blank line, and then
answers one command at a time with one reply. ``HANGUP`` on a line of its own is a notice that may
come at any moment between replies; it never answers a command (res_agi.c, run_agi).

Errors
    AGIError
    ├── ProtocolError           what arrived is not AGI, or too much of it: close the connection
    │   ├── NotAGI              the first bytes are no agi_ header: HTTP, TLS, a port scan
    │   ├── HeadersTooLong      the header block is longer than MAX_HEADER_BYTES
    │   ├── TooManyHeaders      more than MAX_HEADERS of them
    │   ├── LineTooLong         one header longer than MAX_HEADER_LINE
    │   ├── RepeatedHeader      a header stands there twice: somebody smuggled in a line break
    │   ├── ReplyTooLong        a reply longer than MAX_REPLY_BYTES
    │   ├── MalformedReply      a line that is neither a reply nor a notice
    │   └── UnexpectedReply     a reply to nothing
    └── CommandRefused          what was to be sent would not mean what its author meant
        ├── ControlCharacter    a line break would start a second command
        ├── NotEncodable        text that is not Unicode (a lone surrogate)
        ├── CommandTooLong      Asterisk runs the rest of a long line as another command
        └── TooManyWords        Asterisk's argument vector has a fixed size
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fastagi.agents.text import printable as printable

# An AGI() application's whole argument is under 8,192 bytes and comes twice at most (agi_request
# and agi_network_script, or the arguments); the other headers are short.
MAX_HEADER_BYTES: Final = 32_768
MAX_HEADER_LINE: Final = 10_000
MAX_HEADERS: Final = 256  # about 23, and 127 arguments at most
MAX_REPLY_BYTES: Final = 65_536  # one reply, all lines of a 520 together
MAX_NOTICES: Final = 16  # Asterisk sends one, or two when we close after it

# res_agi.c: AGI_BUF_LEN 8192, MAX_ARGS 128. Some room is left on both.
MAX_COMMAND_BYTES: Final = 8_000  # including the line feed
MAX_COMMAND_WORDS: Final = 64


class AGIError(Exception):
    """Anything that ends or spoils an AGI session."""


class ProtocolError(AGIError):
    """What arrived is not AGI, or too much of it."""


class NotAGI(ProtocolError):
    pass


class HeadersTooLong(ProtocolError):
    pass


class TooManyHeaders(ProtocolError):
    pass


class LineTooLong(ProtocolError):
    pass


class RepeatedHeader(ProtocolError):
    pass


class ReplyTooLong(ProtocolError):
    pass


class MalformedReply(ProtocolError):
    pass


class UnexpectedReply(ProtocolError):
    pass


class CommandRefused(AGIError, ValueError):
    """What was to be sent would not mean what its author meant; nothing was sent."""


class ControlCharacter(CommandRefused):
    pass


class NotEncodable(CommandRefused):
    pass


class CommandTooLong(CommandRefused):
    pass


class TooManyWords(CommandRefused):
    pass


@dataclass(frozen=True, slots=True)
class Request:
    """What Asterisk says of the call before the first command.

    Text from outside (a caller's name is whatever the caller's phone sends) is UTF-8 where it is
    valid UTF-8, else Latin-1, so any bytes make a ``str`` that can be stored and encoded again.
    It may contain control characters: put it through `printable` before it is shown.
    """

    script: str  # "agent/login" of agi://HOST/agent/login?…; empty when the URL has no path
    query: str  # what stands behind the "?", raw
    args: tuple[str, ...]  # agi_arg_1, agi_arg_2 …
    headers: Mapping[str, str]  # all of them, with their agi_ names

    @property
    def channel(self) -> str:
        return self.headers.get("agi_channel", "")

    @property
    def callerid(self) -> str:
        """The caller's number; "unknown" when there is none."""
        return self.headers.get("agi_callerid", "")

    @property
    def calleridname(self) -> str:
        return self.headers.get("agi_calleridname", "")

    @property
    def uniqueid(self) -> str:
        return self.headers.get("agi_uniqueid", "")

    @property
    def language(self) -> str:
        return self.headers.get("agi_language", "")

    @property
    def context(self) -> str:
        return self.headers.get("agi_context", "")

    @property
    def extension(self) -> str:
        return self.headers.get("agi_extension", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """Asterisk's answer to one command.

    ``200 result=`` · ``200 result= (timeout)`` · ``200 result=12 (timeout)`` ·
    ``200 result=0 endpos=4160`` · ``510 Invalid or unknown command``
    """

    code: int
    result: str = ""  # what stands behind "result=", up to a blank
    value: str | None = None  # what stands in parentheses; None when there are none
    endpos: int | None = None  # samples at 8 kHz, where a playback stopped
    text: str = ""  # of any code but 200: the words, all lines of a usage text


@dataclass(frozen=True, slots=True)
class Hangup:
    """The caller has hung up. A notice, never a reply."""


Event = Request | Reply | Hangup

HANGUP: Final = Hangup()


# --- commands -----------------------------------------------------------------------------------

# Asterisk splits at blanks and tabs; quotes and backslashes are the only other characters that
# mean something to it (res_agi.c, parse_args). Everything unusual is quoted all the same.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@&=+*#,-]+").fullmatch
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]").search


def command(*words: str) -> bytes:
    """One command line, its words quoted where they need it; raises CommandRefused.

    >>> command("SET", "VARIABLE", "NAME", 'a "b"')
    b'SET VARIABLE NAME "a \\\\"b\\\\""\\n'
    """
    if len(words) > MAX_COMMAND_WORDS:
        raise TooManyWords(f"{len(words)} words")
    line = " ".join([word if _PLAIN(word) else _quoted(word) for word in words])
    try:
        data = line.encode() + b"\n"
    except UnicodeEncodeError as error:
        raise NotEncodable(f"in a {words[0]} command") from error
    if len(data) > MAX_COMMAND_BYTES:
        raise CommandTooLong(f"{len(data)} bytes")
    return data


def _quoted(word: str) -> str:
    if _CONTROL(word):
        raise ControlCharacter(f"in {word[:80]!a}")
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- what arrives -------------------------------------------------------------------------------

_AGI = b"agi_"
_NOTICE = b"HANGUP"
_RESULT = b"200 result="
# The answers to nearly every command, whole as they arrive; replies never change, so all calls
# share these.
_COMMON: Final[dict[bytes, Reply]] = {
    _RESULT + result: Reply(200, result.decode()) for result in (b"0", b"1", b"-1", b"")
}
_COMMON_CHUNKS: Final[dict[bytes, tuple[Event, ...]]] = {
    line + b"\n": (reply,) for line, reply in _COMMON.items()
}
_ENDPOS = re.compile(r"([^ ]*) endpos=([0-9]{1,15})").fullmatch
# A value may contain anything, parentheses too: it ends with the last one before the tail.
_VALUE = re.compile(r"([^ ]*) \((.*)\)(?: endpos=([0-9]{1,15}))?(?: .*)?", re.DOTALL).fullmatch
_STATUS = re.compile(rb"(\d{3})([ -]|$)").match


class Wire:
    """One connection's incoming side: give it bytes as they come, it returns what they mean."""

    __slots__ = ("_in_headers", "_lines", "_notices", "_rest", "_scanned", "_size")

    def __init__(self) -> None:
        self._in_headers = True
        self._rest = bytearray()  # of an unfinished header block or line
        self._scanned = 0  # so far there is no end in _rest
        self._lines: list[bytes] | None = None  # of a reply that goes on over several lines
        self._size = 0  # of those lines, bytes
        self._notices = 0

    def receive(self, data: bytes) -> Sequence[Event]:
        """Take what arrived; raises ProtocolError, after which the connection is of no use."""
        if self._in_headers:
            return self._headers(data)
        if not self._rest and self._lines is None:
            events = _COMMON_CHUNKS.get(data)
            if events is not None:
                return events
        return self._replies(data)

    def _headers(self, data: bytes) -> Sequence[Event]:
        rest = self._rest
        if not rest and data.endswith(b"\n\n") and data.startswith(_AGI):
            end = data.find(b"\n\n")
            if end == len(data) - 2 and end <= MAX_HEADER_BYTES and b"\r" not in data:
                self._in_headers = False  # all of it in one piece: nothing to keep
                return (_request(data[:end]),)
        rest += data
        if not rest.startswith(_AGI) and not _AGI.startswith(rest[:4]):
            raise NotAGI(ascii(bytes(rest[:40])))
        # The blank line is looked for where it can be new, so that a trickle costs no more.
        start = max(self._scanned - 2, 0)
        end = rest.find(b"\n\n", start)
        length = 2
        if end < 0 or b"\r" in rest:
            dos = rest.find(b"\n\r\n", start)
            if dos >= 0 and (end < 0 or dos < end):
                end, length = dos, 3
        if end > MAX_HEADER_BYTES or (end < 0 and len(rest) > MAX_HEADER_BYTES):
            raise HeadersTooLong(f"over {MAX_HEADER_BYTES} bytes")
        if end < 0:
            self._scanned = len(rest)
            return ()
        request = _request(bytes(rest[:end]))
        more = bytes(rest[end + length :])
        self._in_headers = False
        self._rest = bytearray()
        self._scanned = 0
        return (request, *self._replies(more)) if more else (request,)

    def _replies(self, data: bytes) -> Sequence[Event]:
        rest = self._rest
        if rest:
            rest += data
            if len(rest) > MAX_REPLY_BYTES and rest.find(b"\n", self._scanned) < 0:
                raise ReplyTooLong(f"over {MAX_REPLY_BYTES} bytes")
            if rest.find(b"\n", self._scanned) < 0:
                self._scanned = len(rest)
                return ()
            data = bytes(rest)
            rest.clear()
        *lines, unfinished = data.split(b"\n")
        self._scanned = len(unfinished)
        if unfinished:
            if len(unfinished) > MAX_REPLY_BYTES:
                raise ReplyTooLong(f"over {MAX_REPLY_BYTES} bytes")
            rest += unfinished
        events: list[Event] = []
        for line in lines:
            event = self._line(line)
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: bytes) -> Event | None:
        if self._lines is not None:
            return self._continued(line)
        if line.endswith(b"\r"):
            line = line[:-1]
        reply = _COMMON.get(line)
        if reply is not None:
            return reply
        if line == _NOTICE:
            self._notices += 1
            if self._notices > MAX_NOTICES:
                raise MalformedReply("HANGUP over and over")
            return HANGUP
        if len(line) > MAX_REPLY_BYTES:
            raise ReplyTooLong(f"over {MAX_REPLY_BYTES} bytes")
        status = _STATUS(line)
        if status is None:
            raise MalformedReply(repr(line[:80]))
        if status[2] == b"-" or _unfinished(line):
            self._lines = [line]
            self._size = len(line)
            return None
        return _reply(line)

    def _continued(self, line: bytes) -> Reply | None:
        """A usage text ends with ``520 End of proper usage.``, a variable's value with ``)``."""
        lines = self._lines
        assert lines is not None
        lines.append(line)
        self._size += len(line) + 1
        if self._size > MAX_REPLY_BYTES:
            raise ReplyTooLong(f"over {MAX_REPLY_BYTES} bytes")
        first = lines[0]
        if first.startswith(_RESULT):
            if not line.endswith(b")"):
                return None
            self._lines = None
            return _reply(b"\n".join(lines))
        if not line.startswith(first[:3] + b" "):
            return None
        self._lines = None
        return Reply(int(first[:3]), text=_text(b"\n".join([first[4:], *lines[1:-1], line[4:]])))


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _unfinished(line: bytes) -> bool:
    """A variable's value with a line break in it: its closing parenthesis comes in a later line."""
    return (
        line.startswith(_RESULT) and b" (" in line and not line.endswith(b")") and b") " not in line
    )


def _reply(line: bytes) -> Reply:
    text = _text(line)
    code = int(text[:3])
    if not text.startswith("200 result="):
        return Reply(code, text=text[4:])
    rest = text[11:]
    if " " not in rest:
        return Reply(200, rest)
    match = _ENDPOS(rest)
    if match is not None:
        return Reply(200, match[1], endpos=int(match[2]))
    match = _VALUE(rest)
    if match is not None:
        return Reply(200, match[1], match[2], None if match[3] is None else int(match[3]))
    return Reply(200, rest.partition(" ")[0], text=text[4:])


def _request(block: bytes) -> Request:
    lines = block.count(b"\n") + 1
    if lines > MAX_HEADERS:
        raise TooManyHeaders(f"{lines} headers")
    headers: dict[str, str] | None = None
    if len(block) <= MAX_HEADER_LINE and b"\r" not in block:
        try:
            # One decoding, one split: this is how every real Asterisk's headers are read.
            pairs = [line.split(": ", 1) for line in block.decode().split("\n")]
            headers = dict(pairs)
        except ValueError:  # not UTF-8, or a line without a colon
            pass
        else:
            if len(headers) != lines:
                raise RepeatedHeader("a header stands there twice")
    if headers is None:
        headers = _odd_headers(block)
    script, _, query = headers.get("agi_network_script", "").partition("?")
    args: list[str] = []
    while (arg := headers.get(f"agi_arg_{len(args) + 1}")) is not None:
        args.append(arg)
    return Request(script.strip("/"), query, tuple(args), MappingProxyType(headers))


def _odd_headers(block: bytes) -> dict[str, str]:
    """The slow way, each line for itself: a name in Latin-1 must not spoil the others."""
    headers: dict[str, str] = {}
    for line in block.split(b"\n"):
        if len(line) > MAX_HEADER_LINE:
            raise LineTooLong(f"a header of {len(line)} bytes")
        name, colon, value = _text(line.removesuffix(b"\r")).partition(":")
        if not colon:
            continue  # the second line of a value with a line break; it names nothing
        if name in headers:
            raise RepeatedHeader(printable(name[:80]))
        headers[name] = value.removeprefix(" ")
    return headers
