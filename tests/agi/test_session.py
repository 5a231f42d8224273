"""Commands of a call, without a socket: what is sent, what replies mean, how a call ends."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fastagi.agi.protocol import (
    CommandRefused,
    ControlCharacter,
    Hangup,
    Reply,
    Request,
    UnexpectedReply,
    Wire,
)
from fastagi.agi.session import (
    CallerHungUp,
    CommandFailed,
    ConnectionLost,
    Digits,
    Session,
    SessionError,
    SessionTimeout,
    SoundMissing,
)

from .asterisk_client import headers


class Line:
    """A session whose commands are answered from a list, as real bytes."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.sent: list[str] = []
        self.wire = Wire()
        [request] = self.wire.receive(headers("agent/login", "1001"))
        assert isinstance(request, Request)
        self.session = Session(request, self.write)

    def write(self, data: bytes) -> None:
        self.sent.append(data.decode())
        if self.replies:
            asyncio.get_running_loop().call_soon(self.arrive, self.replies.pop(0))

    def arrive(self, text: str) -> None:
        for event in self.wire.receive(text.encode()):
            if isinstance(event, Hangup):
                self.session.caller_hung_up()
            elif isinstance(event, Reply):
                self.session.reply_received(event)


async def test_what_is_sent() -> None:
    line = Line(*["200 result=0\n"] * 20)
    session = line.session
    await session.answer()
    await session.stream_file("agent-loginok")
    await session.stream_file("vm-goodbye", "12#")
    await session.say_digits("0042")
    await session.say_digits("10a", "#")
    await session.say_number(42)
    await session.wait_for_digit(2500)
    await session.set_variable("AGENT_STATUS", 'a "b"')
    await session.execute("Wait", "1")
    await session.execute("NoOp")
    await session.get_variable("CHANNEL(language)")
    await session.get_full_variable("${EXTEN}")
    assert await session.say_digits("") == ""
    assert line.sent == [
        "ANSWER\n",
        'STREAM FILE agent-loginok ""\n',
        "STREAM FILE vm-goodbye 12#\n",
        'SAY DIGITS 0042 ""\n',
        "SAY ALPHA 10a #\n",
        'SAY NUMBER 42 ""\n',
        "WAIT FOR DIGIT 2500\n",
        'SET VARIABLE AGENT_STATUS "a \\"b\\""\n',
        "EXEC Wait 1\n",
        'EXEC NoOp ""\n',
        'GET VARIABLE "CHANNEL(language)"\n',
        'GET FULL VARIABLE "${EXTEN}"\n',
    ]


@pytest.mark.parametrize(
    ("reply", "digits"),
    [
        ("200 result=12\n", Digits("12", False)),
        ("200 result=12 (timeout)\n", Digits("12", True)),
        ("200 result=\n", Digits("", False)),
        ("200 result= (timeout)\n", Digits("", True)),
        ("200 result=*31*\n", Digits("*31*", False)),
    ],
)
async def test_get_data(reply: str, digits: Digits) -> None:
    line = Line(reply)
    assert await line.session.get_data("agent-user", 5000, 10) == digits
    assert line.sent == ["GET DATA agent-user 5000 10\n"]


Step = Callable[[Session], Awaitable[object]]
MEDIA: dict[str, Step] = {
    "answer": lambda session: session.answer(),
    "stream_file": lambda session: session.stream_file("sound", "1"),
    "get_data": lambda session: session.get_data("sound", 1000, 4),
    "say_digits": lambda session: session.say_digits("12"),
    "say_number": lambda session: session.say_number(12),
    "wait_for_digit": lambda session: session.wait_for_digit(1000),
}
STILL: dict[str, Step] = {
    "set_variable": lambda session: session.set_variable("A", "b"),
    "get_variable": lambda session: session.get_variable("A"),
    "get_full_variable": lambda session: session.get_full_variable("${A}"),
    "execute": lambda session: session.execute("RemoveQueueMember", "sales,PJSIP/1001"),
}
ALL = MEDIA | STILL


@pytest.mark.parametrize("name", ["stream_file", "say_digits", "say_number", "wait_for_digit"])
async def test_digit_pressed(name: str) -> None:
    assert await MEDIA[name](Line("200 result=49 endpos=100\n").session) == "1"
    assert await MEDIA[name](Line("200 result=35\n").session) == "#"
    assert await MEDIA[name](Line("200 result=0 endpos=100\n").session) == ""


async def test_variables() -> None:
    assert await Line("200 result=0\n").session.get_variable("A") is None
    assert await Line("200 result=1 ()\n").session.get_variable("A") == ""
    assert await Line("200 result=1 (é (x))\n").session.get_variable("A") == "é (x)"


@pytest.mark.parametrize("name", MEDIA)
async def test_hang_up_during_a_command(name: str) -> None:
    # In one piece, as Asterisk usually sends it: nothing more need be asked.
    line = Line("200 result=-1\nHANGUP\n")
    with pytest.raises(CallerHungUp):
        await MEDIA[name](line.session)
    assert line.session.hung_up
    assert len(line.sent) == 1
    # The notice comes later: it is asked for.
    line = Line("200 result=-1\n", "HANGUP\n511 Command Not Permitted on a dead channel\n")
    with pytest.raises(CallerHungUp):
        await MEDIA[name](line.session)
    assert line.sent[1:] == ["CHANNEL STATUS\n"]
    # AGISIGHUP=no: there is no notice at all.
    line = Line("200 result=-1\n", "511 Command Not Permitted on a dead channel\n")
    with pytest.raises(CallerHungUp):
        await MEDIA[name](line.session)
    assert line.session.hung_up


@pytest.mark.parametrize("name", MEDIA)
async def test_after_a_hang_up_nothing_is_played_but_variables_are_set(name: str) -> None:
    line = Line(*["200 result=1\n"] * 4)
    line.arrive("HANGUP\n")
    assert line.session.hung_up
    with pytest.raises(CallerHungUp):
        await MEDIA[name](line.session)
    assert line.sent == []
    for step in STILL.values():
        await step(line.session)
    assert len(line.sent) == len(STILL)


@pytest.mark.parametrize("name", MEDIA)
async def test_dead_channel(name: str) -> None:
    line = Line("511 Command Not Permitted on a dead channel or intercept routine\n")
    with pytest.raises(CallerHungUp):
        await MEDIA[name](line.session)
    assert line.session.hung_up


@pytest.mark.parametrize("name", ["stream_file", "get_data", "say_digits", "say_number"])
async def test_a_missing_sound_is_not_a_hang_up(name: str) -> None:
    line = Line("200 result=-1 endpos=0\n", "200 result=6\n", "200 result=0\n")
    with pytest.raises(SoundMissing) as caught:
        await MEDIA[name](line.session)
    assert caught.value.file in ("sound", "digits/12")
    assert not line.session.hung_up
    assert await line.session.stream_file("another") == ""


@pytest.mark.parametrize("name", ["answer", "wait_for_digit"])
async def test_minus_one_without_a_sound(name: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        await MEDIA[name](Line("200 result=-1\n", "200 result=6\n").session)
    assert not isinstance(caught.value, SoundMissing)


@pytest.mark.parametrize("name", ALL)
async def test_refused_command_and_the_call_goes_on(name: str) -> None:
    line = Line(
        "520-Invalid command syntax.  Proper usage follows:\nUsage: X\n520 End of proper usage.\n",
        "510 Invalid or unknown command\n",
        "200 result=1 (next)\n",
    )
    with pytest.raises(CommandFailed) as caught:
        await ALL[name](line.session)
    assert caught.value.code == 520
    assert "Usage: X" in caught.value.text
    with pytest.raises(CommandFailed) as caught:
        await ALL[name](line.session)
    assert caught.value.code == 510
    assert await line.session.get_variable("A") == "next"


async def test_unknown_application() -> None:
    with pytest.raises(CommandFailed, match="NoSuchApp"):
        await Line("200 result=-2\n").session.execute("NoSuchApp")
    assert await Line("200 result=-1\n").session.execute("Hangup") == -1
    with pytest.raises(CommandFailed):
        await Line("200 result=what\n").session.execute("Odd")


async def test_hangup() -> None:
    line = Line("200 result=1\nHANGUP\n")
    await line.session.hangup()
    assert line.session.hung_up
    await line.session.hangup()
    assert line.sent == ["HANGUP\n"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("error", [SessionTimeout("long"), ConnectionLost("reset")])
async def test_the_end_reaches_the_command_in_flight_and_all_later(
    name: str, error: SessionError
) -> None:
    line = Line()
    task = asyncio.ensure_future(ALL[name](line.session))
    await asyncio.sleep(0)
    assert len(line.sent) == 1
    line.session.end(error)
    with pytest.raises(type(error)):
        await task
    for step in ALL.values():
        with pytest.raises(type(error)):
            await step(line.session)
    line.session.end(ConnectionLost("later"))
    with pytest.raises(type(error)):
        await line.session.set_variable("A", "b")
    line.arrive("200 result=0\n")  # too late, and no harm
    assert len(line.sent) == 1


async def test_never_two_commands_at_once() -> None:
    line = Line()
    first = asyncio.ensure_future(line.session.stream_file("long"))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await line.session.set_variable("A", "b")
    first.cancel()
    await asyncio.wait([first])
    # Nobody waits any more, but Asterisk is still at it.
    with pytest.raises(RuntimeError):
        await line.session.set_variable("A", "b")
    line.arrive("200 result=0 endpos=1\n")
    line.replies.append("200 result=1\n")
    await line.session.set_variable("A", "b")
    assert line.sent == ['STREAM FILE long ""\n', "SET VARIABLE A b\n"]


async def test_a_reply_to_nothing() -> None:
    line = Line()
    with pytest.raises(UnexpectedReply):
        line.arrive("200 result=0\n")


@pytest.mark.parametrize("text", ["x\nHANGUP", "x" * 9_000])
async def test_what_cannot_be_said_is_not_sent(text: str) -> None:
    line = Line("200 result=1\n")
    with pytest.raises(CommandRefused):
        await line.session.set_variable("A", text)
    with pytest.raises(CommandRefused):
        await line.session.stream_file(text)
    assert line.sent == []
    await line.session.set_variable("A", "b")


async def test_a_refusal_does_not_show_what_was_to_be_sent_unescaped() -> None:
    with pytest.raises(ControlCharacter) as caught:
        await Line().session.set_variable("A", "x\x1b[31m\n")
    assert str(caught.value).isprintable()
