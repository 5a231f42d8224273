"""One call: what it asked for, and the commands that can be given to it.

A session needs no socket: it writes through the callable it is given, and its replies are put
into it. One command is in flight at a time. Asterisk lets a new command interrupt a prompt and
then swallows the first one's reply (res_agi.c: "don't print a result line, as there is a new
command"), so nothing is ever pipelined.

Errors
    AGIError
    └── SessionError
        ├── CallerHungUp     the caller is gone; variables can still be set, work be taken back
        ├── SessionTimeout   the call has used up its time
        ├── ConnectionLost   Asterisk closed or reset the connection, or sent what is not AGI
        └── CommandFailed    Asterisk refused this command; the call goes on
            └── SoundMissing a prompt does not exist; the caller heard nothing
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from fastagi.agi.protocol import AGIError, Reply, Request, UnexpectedReply, command


class SessionError(AGIError):
    """A command could not be carried out."""


class CallerHungUp(SessionError):
    """The caller is gone.

    Nothing more can be played or asked, but Asterisk still serves ``set_variable``,
    ``get_variable`` and ``execute`` on the dead channel.
    """


class SessionTimeout(SessionError):
    """The call has used up its time. Every later command raises this too."""


class ConnectionLost(SessionError):
    """The connection to Asterisk is gone. Every later command raises this too."""


class CommandFailed(SessionError):
    """Asterisk refused a command: ``code`` is 200, 510 or 520, ``text`` what it said."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class SoundMissing(CommandFailed):
    """Asterisk has no such sound file in this call's language; the caller heard nothing."""

    def __init__(self, file: str) -> None:
        super().__init__(200, f"no sound {file!a}")
        self.file = file


@dataclass(frozen=True, slots=True)
class Digits:
    """What the caller entered, without the closing ``#``.

    ``timed_out``: the time ran out before ``#`` or the last digit. Nothing entered and
    ``timed_out`` false means that the caller pressed only ``#``.
    """

    text: str
    timed_out: bool


ANSWER = command("ANSWER")
HANGUP = command("HANGUP")
CHANNEL_STATUS = command("CHANNEL", "STATUS")

DEAD_CHANNEL = 511  # "Command Not Permitted on a dead channel or intercept routine"


class Session:
    """A call in progress. Commands are coroutines; each raises a SessionError when it cannot be.

    What is played, asked and said raises CallerHungUp once the caller is gone; setting and
    getting variables and executing applications goes on.
    """

    __slots__ = ("_ended", "_loop", "_waiter", "commands", "hung_up", "request", "write")

    def __init__(
        self,
        request: Request,
        write: Callable[[bytes], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.request = request
        self.write = write  # takes whole command lines; use the commands instead
        self.hung_up = False
        self.commands = 0  # given so far
        self._loop = loop or asyncio.get_running_loop()
        self._waiter: asyncio.Future[Reply] | None = None  # set while a command is in flight
        self._ended: SessionError | None = None

    # --- commands -------------------------------------------------------------------------------

    async def answer(self) -> None:
        """Answer the call, unless it is answered."""
        if (await self._media(ANSWER)).result == "-1":
            await self._why_failed()
            raise CommandFailed(200, "the call could not be answered")

    async def stream_file(self, name: str, escape_digits: str = "") -> str:
        """Play a sound; one of the escape digits ends it. Return that digit, or "".

        Raises SoundMissing when there is no such file.
        """
        reply = await self._media(command("STREAM", "FILE", name, escape_digits))
        if reply.result == "0":
            return ""
        return await self._digit(reply, name)

    async def get_data(self, file: str, timeout_ms: int, max_digits: int) -> Digits:
        """Play a sound and take digits until ``#``, the last one, or a pause of ``timeout_ms``.

        A timeout of 0 means 6 s for the first digit and 2 s for each more. ``*`` is a digit.
        Raises SoundMissing when there is no such file: Asterisk asks for nothing then.
        """
        reply = await self._media(
            command("GET", "DATA", file, str(int(timeout_ms)), str(int(max_digits)))
        )
        if reply.result == "-1":
            await self._why_failed()
            raise SoundMissing(file)
        return Digits(reply.result, reply.value == "timeout")

    async def say_digits(self, text: str, escape: str = "") -> str:
        """Say each digit; anything else in the text is spelt. Return the digit that ended it."""
        if not text:
            return ""
        verb = "DIGITS" if text.isascii() and text.isdigit() else "ALPHA"
        reply = await self._media(command("SAY", verb, text, escape))
        if reply.result == "0":
            return ""
        return await self._digit(reply, f"digits/{text}" if verb == "DIGITS" else text)

    async def say_number(self, n: int, escape: str = "") -> str:
        """Say a whole number. Return the digit that ended it, or ""."""
        reply = await self._media(command("SAY", "NUMBER", str(int(n)), escape))
        if reply.result == "0":
            return ""
        return await self._digit(reply, f"digits/{n}")

    async def wait_for_digit(self, timeout_ms: int) -> str:
        """Wait for one digit, in silence. Return it, or "" when none came in time."""
        reply = await self._media(command("WAIT", "FOR", "DIGIT", str(int(timeout_ms))))
        if reply.result == "0":
            return ""
        return await self._digit(reply, None)

    async def set_variable(self, name: str, value: str) -> None:
        """Set a channel variable, or write a dialplan function such as CHANNEL(language)."""
        reply = await self._command(command("SET", "VARIABLE", name, value))
        if reply.code != 200:
            raise self._failed(reply)

    async def get_variable(self, name: str) -> str | None:
        """Read a channel variable or function; None when it is not set."""
        return self._value(await self._command(command("GET", "VARIABLE", name)))

    async def get_full_variable(self, expression: str) -> str | None:
        """Evaluate a dialplan expression. Never put anything from outside into it."""
        return self._value(await self._command(command("GET", "FULL", "VARIABLE", expression)))

    async def execute(self, application: str, argument: str = "") -> int:
        """Run a dialplan application and return its result; CommandFailed when there is no such.

        The argument is the application's whole one, its own commas and all: never put anything
        from outside into it unchecked.
        """
        reply = await self._command(command("EXEC", application, argument))
        if reply.code != 200:
            raise self._failed(reply)
        if reply.result == "-2":  # res_agi.c: handle_exec
            raise CommandFailed(200, f"no application {application}")
        return _integer(reply.result)

    async def hangup(self) -> None:
        """Hang up; nothing happens when the caller already has."""
        if self.hung_up:
            return
        reply = await self._command(HANGUP)
        if reply.code not in (200, DEAD_CHANNEL):
            raise self._failed(reply)
        self.hung_up = True

    @property
    def gone(self) -> bool:
        """Nobody listens any more: the caller has hung up, or Asterisk has closed the connection,
        as it does after a hang-up with AGIEXITONHANGUP=yes."""
        return self.hung_up or self._ended is not None

    @property
    def idle(self) -> bool:
        """No command is on its way, and one could be given to a caller who listens."""
        return self._waiter is None and not self.gone

    # --- what the connection tells --------------------------------------------------------------

    def reply_received(self, reply: Reply) -> None:
        """The reply to the command in flight; raises UnexpectedReply when there is none."""
        waiter = self._waiter
        if waiter is None:
            if self._ended is not None:
                return  # too late
            raise UnexpectedReply(f"{reply.code} {reply.text or reply.result}"[:80])
        self._waiter = None
        if not waiter.done():  # else nobody waits for it any more
            waiter.set_result(reply)

    def caller_hung_up(self) -> None:
        """HANGUP arrived. The command in flight still gets its reply."""
        self.hung_up = True

    def end(self, error: SessionError) -> None:
        """No reply will come any more: the command in flight and all later ones raise this."""
        if self._ended is not None:
            return
        self._ended = error
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(_anew(error))

    # --- inside ---------------------------------------------------------------------------------

    def _command(self, line: bytes) -> "asyncio.Future[Reply]":
        if self._ended is not None:
            raise _anew(self._ended)
        if self._waiter is not None:
            raise RuntimeError("a command of this call is still in flight")
        # Not a coroutine: what is awaited is the bare future, one object for each reply.
        waiter = self._waiter = self._loop.create_future()
        self.commands += 1
        self.write(line)
        return waiter

    async def _media(self, line: bytes) -> Reply:
        if self.hung_up:
            raise CallerHungUp("the caller has hung up")
        reply = await self._command(line)
        if reply.code == 200:
            return reply
        raise self._failed(reply)

    def _failed(self, reply: Reply) -> SessionError:
        if reply.code == DEAD_CHANNEL:
            self.hung_up = True
            return CallerHungUp(reply.text)
        return CommandFailed(reply.code, reply.text or reply.result)

    def _value(self, reply: Reply) -> str | None:
        if reply.code != 200:
            raise self._failed(reply)
        return None if reply.result == "0" else (reply.value or "")

    async def _digit(self, reply: Reply, sound: str | None) -> str:
        code = _integer(reply.result)
        if code == 0:
            return ""
        if 0x20 < code < 0x7F:
            return chr(code)
        await self._why_failed()
        if code == -1 and sound is not None:
            raise SoundMissing(sound)
        raise CommandFailed(200, f"result={reply.result}")

    async def _why_failed(self) -> None:
        """Raise CallerHungUp if that is why a command answered -1.

        Asterisk says -1 for a missing sound and for a caller who is gone. It sends HANGUP only
        after the command, perhaps in another segment, and with AGISIGHUP=no never; so ask for
        something that a dead channel refuses. The notice comes before that answer.
        """
        if not self.hung_up:
            reply = await self._command(CHANNEL_STATUS)
            if reply.code == DEAD_CHANNEL:
                self.hung_up = True
        if self.hung_up:
            raise CallerHungUp("the caller has hung up")


def _anew(error: SessionError) -> SessionError:
    """The same error without a traceback, which would keep a dead call in memory."""
    again = type(error)(*error.args)
    again.__cause__ = error.__cause__
    return again


def _integer(result: str) -> int:
    try:
        return int(result)
    except ValueError as error:
        raise CommandFailed(200, f"result={result[:80]}") from error
