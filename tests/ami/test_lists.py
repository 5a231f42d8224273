"""Lists that break off, end oddly, never end or are slow; and what is answered meanwhile."""

import asyncio
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from ami.peer import Link, Peer
from ami.test_client import ADD, until
from ami.test_queues import end, item
from ami.throttle import Line
from fastagi.agents.operations import AddMember, Answer, QueuesUnavailable
from fastagi.ami import client as module
from fastagi.ami.client import OutcomeUnknown, Refused
from fastagi.ami.queues import Queues

STATUS = {"Action": "QueueStatus"}
LOGIN = AddMember("sales", "PJSIP/1001", "PJSIP/1001", "Agent/1001")


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", (0.01, 0.05))


def complete(action: dict[str, str]) -> bytes:
    kind = {"QueueStatus": "QueueStatusComplete", "DBGetTree": "DBGetTreeComplete"}
    return f"Event: {kind[action['Action']]}\r\nActionID: {action['ActionID']}\r\n\r\n".encode()


# -- lists that end oddly


async def test_a_list_that_ends_without_its_response_is_no_answer(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] in ("QueueStatus", "DBGetTree"):
            link.write(item(action))
            link.write(complete(action))
        else:
            link.reply(action)

    async with Peer(script) as peer:
        client = await client_of(peer)
        queues = Queues(client)
        with pytest.raises(QueuesUnavailable, match="never answered"):
            await queues.members()
        with pytest.raises(QueuesUnavailable, match="never answered"):
            await queues.queue_names()
        with pytest.raises(QueuesUnavailable, match="never answered"):
            await queues.notes()
        assert client.protocol.in_flight == 0
        assert (await client.action(ADD)).success
        assert len(peer.links) == 1


async def test_a_response_after_the_end_of_its_list_is_nobody_s(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] == "QueueStatus":
            link.write(complete(action))
        link.reply(action)

    async with Peer(script) as peer:
        client = await client_of(peer)
        with pytest.raises(OutcomeUnknown):
            await client.list_action(STATUS, "QueueMember", "QueueStatusComplete")
        assert (await client.action(ADD)).success


async def test_an_error_in_the_middle_of_a_list_ends_it_at_once(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action, "Queue status will follow")
        link.write(item(action))
        link.reply(action, "Did not find extension", response="Error")

    async with Peer(script) as peer:
        client = await client_of(peer, action_timeout=60)
        began = time.monotonic()
        with pytest.raises(Refused, match="Did not find extension"):
            await client.list_action(STATUS, "QueueMember", "QueueStatusComplete")
        with pytest.raises(QueuesUnavailable, match="Did not find extension"):
            await Queues(client).members()
        assert time.monotonic() - began < 30, "nothing is waited for"
        assert client.protocol.in_flight == 0
        assert not client.protocol._lists
        assert len(peer.links) == 1


async def test_a_second_success_in_the_middle_of_a_list_ends_nothing(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        link.write(item(action))
        link.reply(action)
        link.write(item(action) + complete(action))

    async with Peer(script) as peer:
        assert len(await Queues(await client_of(peer)).members()) == 2


@pytest.mark.parametrize(("items", "size"), [(1000, 1 << 30), (1 << 30, 400_000)])
async def test_a_list_without_an_end_is_given_up(
    client_of: Any, monkeypatch: pytest.MonkeyPatch, items: int, size: int
) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS", items)
    monkeypatch.setattr(module, "MAX_LIST", size)

    async def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        while action["Action"] == "QueueStatus":
            link.write(item(action))
            await link.writer.drain()

    async with Peer(script) as peer:
        client = await client_of(peer, action_timeout=60)
        with pytest.raises(QueuesUnavailable, match=r"a list without an end: 1[0-9]{3} items"):
            await Queues(client).members()
        await client.ready(20)


async def test_a_list_that_takes_longer_than_any_is_given_up(
    client_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIST_SECONDS", 0.5)

    async def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        while action["Action"] == "QueueStatus":
            link.write(item(action))
            await link.writer.drain()
            await asyncio.sleep(0.01)

    async with Peer(script) as peer:
        client = await client_of(peer, action_timeout=60)
        client.action_timeout = 0.2
        with pytest.raises(OutcomeUnknown, match="no answer within"):
            await client.list_action(STATUS, "QueueMember", "QueueStatusComplete")


# -- slow ones


async def test_whoever_sends_behind_a_slow_list_is_not_late(client_of: Any) -> None:
    """Asterisk needs five times the limit of an action for its list, and answers then."""

    async def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] == "QueueStatus":
            for _ in range(20):
                link.write(item(action))
                await link.writer.drain()
                await asyncio.sleep(0.1)
        link.reply(action)
        if action["Action"] == "QueueStatus":
            link.write(end(action))

    async with Peer(script) as peer:
        client = await client_of(peer, action_timeout=0.4)
        members, added, batch = await asyncio.gather(
            Queues(client).members(), client.action(ADD), client.actions([ADD, ADD])
        )
        assert len(members) == 20
        assert added.success
        assert all(answer.success for answer in batch)
        assert len(peer.links) == 1


async def test_an_asterisk_that_thinks_long_before_it_lists(client_of: Any) -> None:
    async def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] == "QueueStatus":
            await asyncio.sleep(1.0)  # twice the limit of an action
        link.reply(action)
        if action["Action"] == "QueueStatus":
            link.write(item(action) + end(action))

    async with Peer(script) as peer:
        client = await client_of(peer, action_timeout=0.5)
        members, added = await asyncio.gather(Queues(client).members(), client.action(ADD))
        assert len(members) == 1
        assert added.success
        assert len(peer.links) == 1


async def test_a_peer_that_dies_in_the_middle_of_a_list_is_noticed(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        link.write(item(action))

    lost: list[str] = []
    async with Peer(script) as peer:
        client = await client_of(peer, action_timeout=0.1, on_lost=lost.append)
        with pytest.raises(OutcomeUnknown, match="no answer within"):
            await client.list_action(STATUS, "QueueMember", "QueueStatusComplete")
        assert lost


async def test_an_answer_behind_many_events_is_waited_for(client_of: Any) -> None:
    async def script(link: Link, action: dict[str, str]) -> None:
        for _ in range(15):
            link.event("Newchannel", Channel="x")
            await link.writer.drain()
            await asyncio.sleep(0.1)
        link.reply(action)

    async with Peer(script) as peer:
        client = await client_of(peer, action_timeout=0.5)
        assert (await client.action(ADD)).success
        assert len(peer.links) == 1


async def test_an_answer_that_never_comes_is_not_waited_for_whatever_else_comes(
    client_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST", 3)

    async def script(link: Link, action: dict[str, str]) -> None:
        while not link.writer.transport.is_closing():
            link.event("Newchannel", Channel="x")
            await asyncio.sleep(0.02)

    async with Peer(script) as peer:
        client = await client_of(peer, action_timeout=0.1)
        with pytest.raises(OutcomeUnknown, match="no answer within"):
            await client.action(ADD)


# -- in parts


def queues_of(peer_rows: dict[str, int]) -> Any:
    """A peer with so many members in each queue; answers as Asterisk does, one after the other."""

    async def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        if action["Action"] == "QueueStatus":
            for queue, count in peer_rows.items():
                if action.get("Queue", queue).lower() == queue.lower():
                    for n in range(count):
                        link.write(item(action, Queue=queue, Location=f"PJSIP/{n}"))
            link.write(end(action))
            await link.writer.drain()

    return script


async def test_only_configured_queues_are_asked_for(client_of: Any) -> None:
    async def configured() -> list[str]:
        return ["sales", "support", "Sales", "nosuch", "cannot\r\nbe", "x" * 2000]

    rows = {"sales": 3, "support": 2} | {f"foreign-{n}": 100 for n in range(40)}
    async with Peer(queues_of(rows)) as peer:
        queues = Queues(await client_of(peer), configured=configured)
        found = await queues.members()
        assert sorted({m.queue for m in found}) == ["sales", "support"]
        assert len(found) == 5
        assert {a.get("Queue") for a in peer.actions} == {"Sales", "support", "nosuch"}
        assert len(await queues.members(queues=["support"])) == 2
        assert len(await queues.members(queues=["support"], interface="PJSIP/1")) == 2
        assert await queues.members(queues=[]) == []


async def test_a_store_that_is_away_says_so(client_of: Any) -> None:
    async def configured() -> list[str]:
        raise QueuesUnavailable("the store is away")

    async with Peer() as peer:
        with pytest.raises(QueuesUnavailable, match="the store is away"):
            await Queues(await client_of(peer), configured=configured).members()


async def test_parts_fill_a_window_and_no_more(
    client_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 10_000)  # one answer has about 1,150 bytes
    names = [f"q{n}" for n in range(30)]
    held: list[dict[str, str]] = []
    most = 0

    def script(link: Link, action: dict[str, str]) -> None:
        nonlocal most
        held.append(action)
        most = max(most, len(held))
        if len(held) >= expected_at_once or len(seen()) == len(names):
            while held:
                one = held.pop(0)
                link.reply(one)
                link.write(item(one, Queue=one["Queue"]) + end(one))

    def seen() -> list[str]:
        return [a["Queue"] for a in peer.actions]

    async with Peer(script) as peer:

        async def configured() -> list[str]:
            return names

        queues = Queues(await client_of(peer), configured=configured)
        expected_at_once = 1
        assert [m.queue for m in await queues.members()] == names
        assert most <= 8
        most = 0
        peer.links[0].actions.clear()
        expected_at_once = 8
        assert [m.queue for m in await queues.members()] == names
        assert most == 8


async def test_a_refusal_of_one_part_leaves_nothing_behind(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] == "QueueStatus" and action["Queue"] == "q1":
            link.reply(action, "Permission denied", response="Error")
            return
        link.reply(action)
        link.write(end(action))

    async def configured() -> list[str]:
        return [f"q{n}" for n in range(5)]

    async with Peer(script) as peer:
        client = await client_of(peer)
        with pytest.raises(QueuesUnavailable, match="Permission denied"):
            await Queues(client, configured=configured).members()
        await until(lambda: client.protocol.in_flight == 0)
        assert (await client.action(STATUS | {"Queue": "q0"})).success


@pytest.mark.parametrize("foreign", [True, False])
async def test_four_thousand_rows_behind_a_slow_line(client_of: Any, foreign: bool) -> None:
    """A quarter of the time of 1 Mbit/s, and of the limit of an action."""
    rows = {f"q{n}": 100 for n in range(40)}
    ours = ["q0", "q1"] if foreign else list(rows)

    async def configured() -> list[str]:
        return ours

    async with Peer(queues_of(rows)) as peer, Line(peer.port, 500_000) as line:
        behind: Any = type("Behind", (), {"port": line.port})
        lost: list[str] = []
        client = await client_of(behind, action_timeout=1.25, on_lost=lost.append)
        queues = Queues(client, configured=configured)
        listing = asyncio.create_task(queues.members())
        codes = 0
        slowest = 0.0
        while not listing.done():
            began = time.monotonic()
            (result,) = await queues.apply([LOGIN])
            slowest = max(slowest, time.monotonic() - began)
            assert result.answer is Answer.DONE
            codes += 1
            await asyncio.sleep(0.1)
        found = await listing
        assert len(found) == 100 * len(ours)
        assert lost == []
        assert line.connections == 1
        print(f"{len(found)} rows, {line.carried} bytes, {codes} codes, slowest {slowest:.2f} s")
        if foreign:
            assert line.carried < 200_000, "what is not ours is not asked for"
        else:
            assert codes >= 5, "codes are answered while the list is on its way"
        again = asyncio.create_task(queues.members())
        assert (await queues.apply([LOGIN]))[0].answer is Answer.DONE
        assert not again.done() or foreign
        assert len(await again) == len(found)


async def test_a_line_that_stands_still_is_given_up(client_of: Any) -> None:
    async with Peer() as peer, Line(peer.port, 500_000) as line:
        behind: Any = type("Behind", (), {"port": line.port})
        lost: list[str] = []
        client = await client_of(behind, action_timeout=0.2, ping_interval=0.1, on_lost=lost.append)
        line.flows.clear()
        await until(lambda: lost)
        line.flows.set()
        await client.ready(20)


# -- a flood


async def test_a_hostile_flood_takes_no_memory(client_of: Any) -> None:
    async with Peer() as peer:
        client = await client_of(peer, raw_names=["X"], on_raw=lambda name, raw: None)
        with capture_logs() as logs:
            for number in range(3000):
                name = f"{number}" + "N" * 5000
                peer.links[0].write(f"Event: {name}\r\nA: b\r\n\r\n".encode())
                head = f"Response: Success\r\nX: {number}{'x' * 2000}\r\nActionID: {number}"
                peer.links[0].write(f"{head}\r\n\r\n".encode())
                if not number % 100:
                    await peer.links[0].writer.drain()
            assert (await client.action(ADD)).success
        assert not logs
        assert sum(map(len, client._wanted)) < 100_000
        assert sum(len(head) + len(rest) for head, rest in client.protocol._known) < 100_000


async def test_a_message_of_very_many_headers_is_read_in_no_time(client_of: Any) -> None:
    async with Peer() as peer:
        seen: list[dict[str, str]] = []
        client = await client_of(peer, on_event=lambda name, headers: seen.append(headers))
        peer.links[0].write(b"Event: E\r\n" + b"A: x\r\n" * 170_000 + b"\r\n")
        assert (await client.action(ADD)).success
        assert len(seen[0]["A"]) == 2 * 170_000 - 1
