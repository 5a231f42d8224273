from collections.abc import Mapping

import pytest

from fastagi.agents.events import Event
from fastagi.outbox.asterisk import AmiSink, value
from fastagi.outbox.delivery import DELIVERED, Later, Rejected, SinkUnavailable

from .parts import Answer, ScriptedAmi, event


def two(happened: Event) -> list[dict[str, str]]:
    if happened.agent == "bad":
        raise ValueError("Agent: is bad")
    return [{"Action": "A", "Agent": happened.agent}, {"Action": "B", "Agent": happened.agent}]


async def test_a_batch_is_one_write_and_answers_find_their_events() -> None:
    def script(action: Mapping[str, str]) -> Answer | Exception:
        match action["Agent"], action["Action"]:
            case "2", "B":
                return Answer(False, "Such a value")
            case "3", "A":
                return TimeoutError("no answer")
            case "3", "B":
                return Answer(False, "refused")
            case "4", "A":
                return ValueError("header X: contains a control character")
            case "5", _:
                return Answer(False, "Permission denied")
        return Answer()

    ami = ScriptedAmi(script)
    events = [event(agent) for agent in ("1", "bad", "2", "3", "4", "5", "6")]
    receipts = await AmiSink(ami, two).deliver(events)
    assert len(ami.writes) == 1
    assert receipts == [
        DELIVERED,
        Rejected("Agent: is bad", final=True),
        Rejected("Asterisk: Such a value"),
        Later("no answer"),
        Rejected("header X: contains a control character", final=True),
        Later("Asterisk: Permission denied (write classes of the manager account)"),
        DELIVERED,
    ]


async def test_nothing_to_say_is_nothing_written() -> None:
    ami = ScriptedAmi(connected=False)
    assert await AmiSink(ami, lambda _: []).deliver([event()]) == [DELIVERED]
    assert ami.writes == []


async def test_a_lost_connection_is_no_events_fault() -> None:
    ami = ScriptedAmi(connected=False)
    sink = AmiSink(ami, two)
    assert not sink.ready
    with pytest.raises(SinkUnavailable, match="not connected"):
        await sink.deliver([event()])
    ami.connected = True
    assert sink.ready


@pytest.mark.parametrize(
    "text",
    ["", "lunch", "Déjeuner", "a: b", "x" * 900, "é" * 450, "午餐", "no\u00a0break", "`$(x)`;--"],
)
def test_what_can_be_one_value(text: str) -> None:
    assert value("Reason", text) is text


@pytest.mark.parametrize(
    "text",
    [
        "a\r\nAction: Originate",
        "a\n",
        "\r",
        "\0",
        "a\tb",
        "\x1b[31m",
        "\x7f",
        "a\x85b",
        "a\u2028b",
        "x" * 901,
        "é" * 451,
        "\ud800",
    ],
)
def test_what_cannot_be_a_value_is_named_and_never_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"^Reason: ") as caught:
        value("Reason", text)
    assert str(caught.value).isprintable()
    assert "Originate" not in str(caught.value)
