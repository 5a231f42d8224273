import asyncio
from collections.abc import Mapping

import pytest

from fastagi.agents.events import Event
from fastagi.outbox.asterisk import AmiSink, value
from fastagi.outbox.delivery import DELIVERED, Later, Rejected, SinkUnavailable, Waits

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


def one(happened: Event) -> list[dict[str, str]]:
    return [{"Action": "A", "Agent": happened.agent}]


def agents(ami: ScriptedAmi) -> list[str]:
    return [action["Agent"] for action in ami.sent]


@pytest.mark.parametrize("everywhere", [True, False])
async def test_of_several_each_is_told_what_is_its_own(everywhere: bool) -> None:
    north, south = ScriptedAmi(), ScriptedAmi()
    sink = AmiSink({"north": north, "south": south}, one, everywhere=everywhere)
    events = [
        event("1", asterisk="north"),
        event("2", asterisk="south"),
        event("3", asterisk="north"),
    ]
    assert await sink.deliver(events) == [DELIVERED] * 3
    await asyncio.sleep(0)
    assert [a for a in agents(north) if a != "2"] == ["1", "3"]
    assert [a for a in agents(south) if a == "2"] == ["2"]
    assert sorted(agents(north)) == (["1", "2", "3"] if everywhere else ["1", "3"])
    assert sorted(agents(south)) == (["1", "2", "3"] if everywhere else ["2"])


async def test_an_event_of_none_is_told_to_all_or_given_up() -> None:
    north, south = ScriptedAmi(), ScriptedAmi()
    amis = {"north": north, "south": south}
    events = [event("1"), event("2", asterisk="gone")]
    assert await AmiSink(amis, one, everywhere=True).deliver(events) == [DELIVERED] * 2
    assert agents(north) == agents(south) == ["1", "2"]
    refused = Rejected("of no Asterisk that is configured", final=True)
    assert await AmiSink(amis, one).deliver(events) == [refused] * 2
    assert len(north.sent) == 2


async def test_one_of_several_away_keeps_only_its_own_waiting() -> None:
    north, south = ScriptedAmi(connected=False), ScriptedAmi()
    sink = AmiSink({"north": north, "south": south}, one, everywhere=True)
    assert sink.ready
    receipts = await sink.deliver([event("1", asterisk="north"), event("2", asterisk="south")])
    assert receipts == [Waits("the Asterisk 'north' is not connected"), DELIVERED]
    assert agents(south) == ["2"], "an event is told to the others when it is told to its own"
    south.connected = False
    assert not sink.ready


async def test_one_of_several_that_fails_in_that_moment_or_refuses_everything() -> None:
    class Fails(ScriptedAmi):
        async def actions(self, actions: object, /) -> list[Answer | Exception]:
            raise ConnectionError("lost")

    south = ScriptedAmi()
    denied = ScriptedAmi(lambda action: Answer(False, "Permission denied"))
    sink = AmiSink({"north": Fails(), "south": south, "west": denied}, one)
    receipts = await sink.deliver(
        [event(name, asterisk=name) for name in ("north", "south", "west")]
    )
    assert [type(receipt) for receipt in receipts] == [Waits, type(DELIVERED), Waits]
    assert agents(south) == ["south"]


async def test_one_slow_asterisk_does_not_delay_the_others() -> None:
    class Slow(ScriptedAmi):
        async def actions(self, actions: object, /) -> list[Answer | Exception]:
            await asyncio.Event().wait()
            raise AssertionError

    south = ScriptedAmi()
    sink = AmiSink({"north": Slow(), "south": south}, one, everywhere=True)
    async with asyncio.timeout(10):
        assert await sink.deliver([event("2", asterisk="south")]) == [DELIVERED]
    for task in list(sink._best_effort):
        task.cancel()


async def test_the_only_one_is_told_everything_whatever_its_name() -> None:
    ami = ScriptedAmi()
    sink = AmiSink({"north": ami}, one)
    assert await sink.deliver([event("1"), event("2", asterisk="south")]) == [DELIVERED] * 2
    assert len(ami.writes) == 1


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
