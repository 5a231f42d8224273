"""`fastagi dial`: the protocol without a socket, then calls to the running service."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pytest

from fastagi import dial
from fastagi.agents.devices import DeviceRule, Pattern
from fastagi.agi.prompts import SOUNDS
from fastagi.agi.protocol import Hangup, Reply, Request, Wire, command
from fastagi.contract import Outcome, Script
from fastagi.demo.asterisk import Asterisk

from .conftest import PIN, Serve, Setting, environment

CODES = {Script.LOGIN: "*31", Script.STATUS: "*35", Script.PAUSE: "*33"}
RULES = (DeviceRule(Pattern.parse("10XX"), "phones", "SIP/{extension}"),)


# -- what is dialled


@pytest.mark.parametrize(
    ("number", "script", "digits"),
    [
        ("*31", Script.LOGIN, ""),
        ("*314001", Script.LOGIN, "4001"),
        ("*314001*1002", Script.LOGIN, "4001*1002"),
        ("*3140-0 1", Script.LOGIN, "4001"),
        ("*33", Script.PAUSE, ""),
        ("*339", Script.PAUSE, "9"),
        ("*35", Script.STATUS, ""),
        ("*35#", Script.STATUS, ""),
        ("*31#", Script.LOGIN, ""),
        ("*314001#", Script.LOGIN, "4001"),
        ("*31" + "1" * 90, Script.LOGIN, "1" * 64),
    ],
)
def test_code_and_digits_as_the_dialplan_takes_them(
    number: str, script: Script, digits: str
) -> None:
    call = dial.dialled(number, CODES)
    assert (call.script, call.digits) == (script, digits)


@pytest.mark.parametrize("number", ["", "*", "31", "*4", "**31", "*31*4001", "*35#1"])
def test_what_is_no_code(number: str) -> None:
    with pytest.raises(dial.NotACode, match=r"\*31 login"):
        dial.dialled(number, CODES)


def test_headers_are_those_of_a_real_call() -> None:
    block = dial.headers(dial.dialled("*314001", CODES), "1001", RULES, host="127.0.0.1")
    (request,) = Wire().receive(block)
    assert isinstance(request, Request)
    assert request.script == "agent/login"
    assert request.args == ("4001",)
    assert request.channel.startswith("SIP/1001-")
    assert request.callerid == "1001"
    assert request.headers["agi_accountcode"] == ""


@pytest.mark.parametrize(
    ("rule", "channel"),
    [
        (DeviceRule(Pattern.parse("201"), "office", "PJSIP/alice-desk"), "PJSIP/alice-desk-"),
        (DeviceRule(Pattern.parse("201"), "office", "Local/201@ring", "SIP/alice"), "SIP/alice-"),
        (DeviceRule(Pattern.parse("201"), "office", "Local/201@ring"), "PJSIP/201-"),
    ],
)
def test_the_call_comes_from_the_phone_of_the_rule(rule: DeviceRule, channel: str) -> None:
    block = dial.headers(dial.dialled("*35", CODES), "201", (rule,))
    (request,) = Wire().receive(block)
    assert isinstance(request, Request)
    assert request.channel.startswith(channel)
    assert request.callerid == "201"


@pytest.mark.parametrize("phone", ["", "a b", "1001\nagi_arg_1: 4001", "1/2/3", "ü"])
def test_no_phone(phone: str) -> None:
    with pytest.raises(ValueError, match="no phone"):
        dial.headers(dial.dialled("*31", CODES), phone, RULES)


def test_what_is_dialled_makes_no_header() -> None:
    block = dial.headers(dial.dialled("*311\nagi_x: y", CODES), "1001", RULES)
    (request,) = Wire().receive(block)
    assert isinstance(request, Request)
    assert "agi_x" not in request.headers
    assert request.args == ("1",)


# -- Asterisk's side of the protocol


@pytest.mark.parametrize(
    "words", [("NOOP",), ("SET", "VARIABLE", "A", 'x "y" \\z\\'), ("A", "", "é")]
)
def test_words_come_out_as_they_were_quoted(words: tuple[str, ...]) -> None:
    assert dial.split(command(*words).decode().rstrip("\n")) == words


def answers(channel: dial.Channel, *words: str, keys: str = "") -> list[object]:
    """What our own reader makes of the reply to a command."""
    step = channel.receive(command(*words).rstrip(b"\n"))
    wire = Wire()
    wire.receive(dial.headers(dial.dialled("*31", CODES), "1001", ()))
    return list(wire.receive(channel.reply(step, keys)))


def test_digits_until_hash_enough_or_silence() -> None:
    channel = dial.Channel()
    ask = ("GET", "DATA", "agent-user", "8000", "4")
    assert answers(channel, *ask, keys="12#") == [Reply(200, "12")]
    assert answers(channel, *ask, keys="1234") == [Reply(200, "1234")]
    assert answers(channel, *ask, keys="12") == [Reply(200, "12", "timeout")]
    assert answers(channel, *ask, keys="#") == [Reply(200, "")]
    assert answers(channel, *ask) == [Reply(200, "", "timeout")]


def test_single_digits() -> None:
    channel = dial.Channel()
    assert answers(channel, "WAIT", "FOR", "DIGIT", "8000", keys="7") == [Reply(200, "55")]
    assert answers(channel, "WAIT", "FOR", "DIGIT", "8000") == [Reply(200, "0")]


def test_variables() -> None:
    channel = dial.Channel()
    assert answers(channel, "SET", "VARIABLE", "A", "b=c") == [Reply(200, "1")]
    assert answers(channel, "GET", "VARIABLE", "A") == [Reply(200, "1", "b=c")]
    assert answers(channel, "GET", "VARIABLE", "B") == [Reply(200, "0")]
    assert answers(channel, "EXEC", "MSet", "B=1,AGENT_STATUS=PAUSED") == [Reply(200, "0")]
    assert channel.variables == {"A": "b=c", "B": "1", "AGENT_STATUS": "PAUSED"}
    answers(channel, "SET", "VARIABLE", "CHANNEL(language)", "fr")
    assert channel.language == "fr"
    assert channel.done


def test_unknown_command() -> None:
    (reply,) = answers(dial.Channel(), "DANCE")
    assert isinstance(reply, Reply)
    assert reply.code == 510


def test_dead_channel() -> None:
    channel = dial.Channel(hang_up_at=2)
    assert answers(channel, "ANSWER") == [Reply(200, "0")]
    played = answers(channel, "STREAM", "FILE", "agent-loginok", "")
    assert played == [Reply(200, "-1", endpos=0), Hangup()]
    (reply,) = answers(channel, "STREAM", "FILE", "agent-loginok", "")
    assert isinstance(reply, Reply)
    assert reply.code == 511
    assert answers(channel, "SET", "VARIABLE", "A", "1") == [Reply(200, "1")]


def test_hanging_up_while_a_variable_is_set() -> None:
    channel = dial.Channel(hang_up_at=1)
    assert answers(channel, "SET", "VARIABLE", "A", "1") == [Reply(200, "1"), Hangup()]
    assert channel.variables == {"A": "1"}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_each_outcome_is_done_or_refused(outcome: Outcome) -> None:
    channel = dial.Channel(variables={"AGENT_STATUS": outcome})
    assert channel.done is (list(Outcome).index(outcome) <= list(Outcome).index(Outcome.QUEUE_LEFT))


def test_no_outcome_is_not_done() -> None:
    assert not dial.Channel().done
    assert not dial.Channel(variables={"AGENT_STATUS": "ELSE"}).done


def test_every_sound_has_its_words() -> None:
    assert set(dial.TRANSCRIPTS) >= SOUNDS


# -- keys


async def test_keys_given_beforehand() -> None:
    keys = dial.Prepared("4001#12,,3*4567")
    assert await keys.press(20, False) == "4001#"
    assert await keys.press(20, False) == "12"
    assert await keys.press(20, False) == ""
    assert await keys.press(3, False) == "3*4"
    assert [await keys.press(1, False) for _ in range(4)] == ["5", "6", "7", ""]


async def test_a_comma_behind_an_answered_question_costs_no_question() -> None:
    keys = dial.Prepared("4001#,1,2")
    assert await keys.press(20, False) == "4001#"
    assert await keys.press(1, False) == "1"
    assert await keys.press(1, False) == "2"


def test_what_is_no_key() -> None:
    with pytest.raises(ValueError, match="keys are"):
        dial.Prepared("12x")


# -- services that are none


async def _call(port: int) -> dial.Channel:
    channel = dial.Channel()
    opening = dial.headers(dial.dialled("*31", CODES), "1001", RULES)
    await dial.dial("127.0.0.1", port, opening, channel, dial.Prepared(""), lambda *_: None)
    return channel


async def _server(behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]) -> int:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n\n")
        behave(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def test_a_server_that_closes_at_once() -> None:
    port = await _server(lambda reader, writer: writer.close())
    with pytest.raises(dial.ServiceAway, match="without a word"):
        await _call(port)


async def test_a_server_that_talks_without_end() -> None:
    port = await _server(lambda reader, writer: writer.write(b"x" * 100_000))
    with pytest.raises(dial.ServiceAway, match="does not speak AGI"):
        await _call(port)


async def test_a_server_that_goes_in_the_middle() -> None:
    def go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ANSWER\n")
        writer.close()

    channel = await _call(await _server(go))
    assert channel.answered
    assert not channel.done


async def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "SILENCE", 0.1)
    held = []  # or Python 3.13 would close what nobody refers to
    port = await _server(lambda reader, writer: held.append(writer))
    with pytest.raises(dial.ServiceAway, match="silent"):
        await _call(port)


# -- the service

asterisk_here = pytest.mark.asterisk


def test_nobody_serves(setting: Setting) -> None:
    result = setting.fastagi("dial", "*31", "--from", "1001", "--keys", "")
    assert result.status == 1
    assert "is `fastagi serve` running?" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("*77", "--from", "1001"),
        ("*31", "--from", "a b"),
        ("*31", "--from", "1001", "--keys", "xyz"),
        ("*31",),
        ("--from", "1001"),
        ("*31", "--from", "1001", "--hang-up-at", "-1"),
    ],
)
def test_bad_usage(setting: Setting, arguments: tuple[str, ...]) -> None:
    result = setting.fastagi("dial", *arguments)
    assert result.status == 2
    assert result.err
    assert "Traceback" not in result.err


@asterisk_here
def test_in_and_out(healthy: Setting, serve: Serve, asterisk: Asterisk) -> None:
    serve(healthy)
    result = healthy.fastagi("dial", "*314001", "--from", "1001")
    assert result.status == 0
    assert "Agent logged in.  agent-loginok" in result.out
    assert "AGENT_STATUS=LOGGED_IN" in result.lines
    assert "AGENT_NUMBER=4001" in result.lines
    assert "PJSIP/1001" in asterisk.cli("queue show sales")

    result = healthy.fastagi("dial", "*331", "--from", "1001")
    assert "AGENT_PAUSE_REASON=lunch" in result.lines
    assert result.status == 0
    result = healthy.fastagi("dial", "*32", "--from", "1001")
    assert "AGENT_STATUS=LOGGED_OFF" in result.lines
    assert "PJSIP/1001" not in asterisk.cli("queue show sales")
    result = healthy.fastagi("dial", "*34", "--from", "1001")
    assert result.status == 1
    assert "AGENT_STATUS=NOT_LOGGED_IN" in result.lines


@asterisk_here
def test_the_pin_is_asked_for_and_never_shown(healthy: Setting, serve: Serve) -> None:
    running = serve(healthy, "--log-level", "debug")
    right = healthy.fastagi("dial", "*31", "--from", "1001", "--keys", f"4002#{PIN}#")
    assert right.status == 0
    assert "⌨ 4002#" in right.out
    assert "Please enter your password" in right.out
    wrong = healthy.fastagi("dial", "*314002", "--from", "1002", "--keys", "86420#86421#86422#")
    assert wrong.status == 1
    assert "AGENT_STATUS=WRONG_PIN" in wrong.lines
    events = healthy.fastagi("events", "--json").out
    running.stop()
    said = right.out + wrong.out + events + "".join(running.err)
    for pin in (PIN, "86420", "86421", "86422"):
        assert pin not in said


@asterisk_here
def test_json(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    result = healthy.fastagi("dial", "*33", "--from", "1002", "--json")
    steps = [json.loads(line) for line in result.lines]
    assert steps[-1]["step"] == "result"
    assert steps[-1]["done"] is False
    assert steps[-1]["variables"]["AGENT_STATUS"] == "NOT_LOGGED_IN"
    assert {"step": "play", "sound": "vm-goodbye", "text": "Goodbye."} in steps
    assert result.status == 1


@asterisk_here
def test_hanging_up_at_each_step(healthy: Setting, serve: Serve, asterisk: Asterisk) -> None:
    """Whenever the caller goes, store and queues agree, and the next call is served."""
    serve(healthy)
    for step in range(1, 9):
        result = healthy.fastagi(
            *("dial", "*31", "--from", "1001", "--keys", f"4002#{PIN}#"),
            *("--hang-up-at", str(step)),
        )
        assert result.status in (0, 1), result.err
        (bob,) = (
            agent
            for agent in map(json.loads, healthy.fastagi("agents", "--json").lines)
            if agent["number"] == "4002"
        )
        in_queue = "PJSIP/1001" in asterisk.cli("queue show sales")
        assert (bob["status"] == "available") is in_queue
        if in_queue:
            assert healthy.fastagi("dial", "*32", "--from", "1001").status == 0
    assert healthy.fastagi("dial", "*314001", "--from", "1001").status == 0


class Desk:
    """`fastagi dial '*31'` at a terminal."""

    def __init__(self, setting: Setting) -> None:
        self.here, there = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fastagi", "dial", "*31", "--from", "1001"),
                *("--config", str(setting.file)),
            ],
            env=environment(),
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(there)

    def wait_for(self, text: str) -> None:
        """Forgets what was shown up to there."""
        deadline = time.monotonic() + 20
        while text not in self.shown:
            ready, _, _ = select.select([self.here], [], [], max(0, deadline - time.monotonic()))
            assert ready, self.shown
            try:
                self.shown += os.read(self.here, 4096).decode()
            except OSError:  # the other end is closed
                break
        before, found, self.shown = self.shown.partition(text)
        assert found, before

    def type(self, keys: str) -> None:
        os.write(self.here, keys.encode())

    def rest(self) -> str:
        """All that is still shown, until it ends."""
        with contextlib.suppress(OSError):
            while data := os.read(self.here, 4096):
                self.shown += data.decode()
        return self.shown


@pytest.fixture
def desk(healthy: Setting, serve: Serve) -> Iterator[Desk]:
    serve(healthy)
    desk = Desk(healthy)
    yield desk
    if desk.process.poll() is None:
        desk.process.send_signal(signal.SIGKILL)
    desk.process.wait()
    os.close(desk.here)


@asterisk_here
def test_typed_at_a_terminal(desk: Desk) -> None:
    desk.wait_for("Ctrl-D hangs up): ")
    desk.type("4002\n")
    desk.wait_for("Please enter your password")
    desk.wait_for("Ctrl-D hangs up): ")
    desk.type(f"{PIN}\n")
    shown = desk.rest()
    assert "AGENT_STATUS=LOGGED_IN" in shown
    assert PIN not in shown
    assert desk.process.wait(10) == 0


@asterisk_here
def test_ctrl_d_hangs_up(desk: Desk, healthy: Setting) -> None:
    desk.wait_for("Ctrl-D hangs up): ")
    desk.type("\x04")
    assert "(hung up)" in desk.rest()
    assert desk.process.wait(10) == 1
    assert all("logged_off" in line for line in healthy.fastagi("agents", "--json").lines)


@asterisk_here
def test_ctrl_c_is_quiet(desk: Desk) -> None:
    desk.wait_for("Ctrl-D hangs up): ")
    desk.type("\x03")
    assert "Traceback" not in desk.rest()
    assert desk.process.wait(10) == 130


@asterisk_here
def test_in_the_agents_language(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    result = healthy.fastagi("dial", "*314003", "--from", "1003", "--json")
    assert result.status == 0
    assert json.loads(result.lines[-1])["language"] == "fr"
