"""Several Asterisks as one."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ami.peer import Link, Peer
from fastagi.agents.operations import (
    AddMember,
    Answer,
    Operation,
    QueuesUnavailable,
    RemoveMember,
)
from fastagi.ami.asterisks import Asterisks
from fastagi.ami.client import Client
from fastagi.ami.queues import Queues


def add(asterisk: str = "", queue: str = "sales") -> AddMember:
    return AddMember(queue, "PJSIP/1001", "PJSIP/1001", "Agent/1001", asterisk=asterisk)


@pytest.fixture
async def two(client_of: Any) -> AsyncIterator[tuple[Asterisks, Peer, Peer]]:
    async with Peer() as north, Peer() as south:
        asterisks = Asterisks(
            {
                "north": Queues(await client_of(north), "north"),
                "south": Queues(await client_of(south), "south"),
            }
        )
        yield asterisks, north, south


async def test_one_without_a_name(client_of: Any) -> None:
    async with Peer() as peer:
        asterisks = Asterisks({"": Queues(await client_of(peer))})
        assert asterisks.names == ("",)
        assert asterisks.connected("")
        assert not asterisks.connected("north")
        results = await asterisks.apply([add(), add(queue="support")])
        assert [r.answer for r in results] == [Answer.DONE] * 2
        assert len(peer.links[0].reads) == 2, "the login, then both at once"
        assert await asterisks.apply([]) == []
        with pytest.raises(QueuesUnavailable, match="'north'"):
            await asterisks.apply([add("north")])
        with pytest.raises(QueuesUnavailable, match="'north'"):
            await asterisks.apply([add(), add("north")])
        assert len(peer.actions) == 2, "what belongs to another is told to none"


async def test_each_is_told_its_own_and_results_are_in_order(
    two: tuple[Asterisks, Peer, Peer],
) -> None:
    asterisks, north, south = two
    assert asterisks.names == ("north", "south")
    operations: list[Operation] = [
        add("north"),
        RemoveMember("sales", "PJSIP/1001", "south"),
        add("north", "support"),
    ]
    results = await asterisks.apply(operations)
    assert [r.operation for r in results] == operations
    assert [r.message for r in results] == [
        "Added interface to queue",
        "Removed interface from queue",
        "Added interface to queue",
    ]
    assert [a["Queue"] for a in north.actions] == ["sales", "support"]
    assert [a["Action"] for a in south.actions] == ["QueueRemove"]


async def test_one_away_and_nothing_is_sent_to_any(
    two: tuple[Asterisks, Peer, Peer], eventually: Any
) -> None:
    asterisks, north, south = two
    south.secret = "another"
    south.links[0].cut()
    await eventually(lambda: not asterisks.connected("south"))
    assert asterisks.connected("north")
    with pytest.raises(QueuesUnavailable, match="'south'"):
        await asterisks.apply([add("north"), add("south")])
    assert north.actions == []
    assert (await asterisks.apply([add("north")]))[0].ok, "the other goes on"
    for call in (
        lambda: asterisks.apply([add("south")]),
        lambda: asterisks.members("south"),
        lambda: asterisks.started_at("south"),
        lambda: asterisks.notes("south"),
        lambda: asterisks.forget("south", []),
        lambda: asterisks.members("nowhere"),
    ):
        with pytest.raises(QueuesUnavailable):
            await call()


class _GoesAway(Client):
    """Connected when asked, and not when told."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 1, "fastagi", "x")
        self.authenticated = True


async def test_one_that_goes_away_in_that_very_moment(client_of: Any) -> None:
    async with Peer() as peer:
        asterisks = Asterisks(
            {
                "north": Queues(await client_of(peer), "north"),
                "south": Queues(_GoesAway(), "south"),
                "west": Queues(_GoesAway(), "west"),
            }
        )
        results = await asterisks.apply([add("south"), add("north")])
        assert [r.answer for r in results] == [Answer.REFUSED, Answer.DONE]
        assert "not connected" in results[0].message
        with pytest.raises(QueuesUnavailable):
            await asterisks.apply([add("south"), add("west")])


async def test_a_link_lost_midway_leaves_only_that_one_unknown(client_of: Any) -> None:
    def cuts(link: Link, action: dict[str, str]) -> None:
        link.cut()

    async with Peer() as north, Peer(cuts) as south:
        asterisks = Asterisks(
            {
                "north": Queues(await client_of(north), "north"),
                "south": Queues(await client_of(south), "south"),
            }
        )
        results = await asterisks.apply([add("south"), add("north")])
        assert [r.answer for r in results] == [Answer.UNKNOWN, Answer.DONE]
