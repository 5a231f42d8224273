"""What pyst2's AGI would do to a call, and ours does not."""

import io
import threading
from collections.abc import Iterable

import pytest
from asterisk.agi import (
    AGIAppError,
    AGIHangup,
    AGIInvalidCommand,
    AGISIGHUPHangup,
    AGIUnknownError,
    AGIUsageError,
)

from fastagi.fallback import Phone, SoundMissing

HEAD = ["agi_channel: PJSIP/1001-1", "agi_calleridname: A: B :C", ""]


class Wire:
    """Asterisk's side, written beforehand."""

    def __init__(self, replies: Iterable[str], ended: bool = True) -> None:
        self.sent = io.StringIO()
        text = "".join(line + "\n" for line in [*HEAD, *replies])
        self.phone = Phone(io.StringIO(text if ended else text[:-1]), self.sent)

    @property
    def commands(self) -> list[str]:
        return self.sent.getvalue().splitlines()


def test_a_header_s_value_keeps_its_colons() -> None:
    assert Wire([]).phone.env["agi_calleridname"] == "A: B :C"


def test_it_can_be_made_outside_the_main_thread() -> None:
    """pyst2 calls signal.signal, which raises ValueError there."""
    made: list[Phone] = []
    thread = threading.Thread(target=lambda: made.append(Wire([]).phone))
    thread.start()
    thread.join()
    assert made


def test_nothing_is_written_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    Wire(["200 result=0"]).phone.answer()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ('a"b', r'"a\"b"'),
        ("a\\", r'"a\\"'),
        ("a\nEXEC System x", '"aEXEC System x"'),
        ("a\r\0\x7fb", '"ab"'),
        (5, '"5"'),
    ],
)
def test_quotes_backslashes_and_line_ends(value: object, sent: str) -> None:
    wire = Wire(["200 result=1"])
    wire.phone.set_variable("X", value)
    assert wire.commands == [f'SET VARIABLE "X" {sent}']


def test_hangup_as_a_line_of_its_own() -> None:
    """pyst2 takes it for a reply without a code: ValueError, and every later one is off by one."""
    wire = Wire(["HANGUP", "200 result=1 (x)"])
    assert wire.phone.get_variable("X") == "x"
    assert wire.phone.gone
    with pytest.raises(AGISIGHUPHangup):
        wire.phone.answer()
    wire.phone.finishing = True
    with pytest.raises(AGIHangup):
        wire.phone.get_variable("Y")  # the end of the wire


@pytest.mark.parametrize("replies", [[], ["HANGUP"]])
def test_the_end_of_file_is_a_hang_up(replies: list[str]) -> None:
    with pytest.raises(AGIHangup):
        Wire(replies).phone.answer()


def test_a_reply_cut_short_is_none() -> None:
    with pytest.raises(AGIHangup):
        Wire(["200 result=1 (half of i"], ended=False).phone.get_variable("X")


def test_the_end_of_file_within_a_520() -> None:
    """pyst2 reads the end of file for ever."""
    with pytest.raises(AGIHangup):
        Wire(["520-Invalid command syntax.  Proper usage follows:", "Usage: X"]).phone.answer()


def test_a_520_of_many_lines_and_of_one() -> None:
    wire = Wire(
        [
            "520-Invalid command syntax.  Proper usage follows:",
            "Usage: ANSWER",
            "520 End of proper usage.",
            "520 Invalid command syntax.  Proper usage not available.",
            "200 result=1 (next)",
        ]
    )
    for _ in range(2):
        with pytest.raises(AGIUsageError):
            wire.phone.answer()
    assert wire.phone.get_variable("X") == "next"


def test_a_dead_channel() -> None:
    wire = Wire(["511 Command Not Permitted on a dead channel or intercept routine"])
    with pytest.raises(AGIHangup):
        wire.phone.answer()
    assert wire.phone.gone


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("510 Invalid or unknown command", AGIInvalidCommand),
        ("503 Service", AGIUnknownError),
        ("hello", AGIUnknownError),
        ("", AGIUnknownError),
    ],
)
def test_other_replies(reply: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Wire([reply]).phone.answer()


@pytest.mark.parametrize("value", ["a) b", "(a (b)", "result=5 (c)", " ", "x=y z=(w)"])
def test_values_with_anything_in_them(value: str) -> None:
    assert Wire([f"200 result=1 ({value})"]).phone.get_variable("X") == value


def test_a_variable_that_is_not_set() -> None:
    assert Wire(["200 result=0"]).phone.get_variable("X") == ""


def test_a_missing_sound_is_told_from_a_hang_up() -> None:
    wire = Wire(["200 result=-1 endpos=0", "200 result=6", "200 result=0 endpos=800"])
    with pytest.raises(SoundMissing):
        wire.phone.play('my "sound"', "")
    assert wire.phone.play("beep", "12") == ""
    assert wire.commands == [
        r'STREAM FILE "my \"sound\"" ""',
        "CHANNEL STATUS",
        'STREAM FILE "beep" "12"',
    ]
    gone = ["200 result=-1 endpos=0", "511 Command Not Permitted on a dead channel"]
    with pytest.raises(AGIHangup):
        Wire(gone).phone.play("beep", "")


def test_a_key_that_ends_a_sound() -> None:
    assert Wire(["200 result=49 endpos=800"]).phone.play("beep", "1") == "1"


def test_an_application_that_asterisk_does_not_have() -> None:
    with pytest.raises(AGIAppError, match="RemoveQueueMember"):
        Wire(["200 result=-2"]).phone.application("RemoveQueueMember", "q", "i")
