"""Live events, from their bytes to batches; and from a real Asterisk."""

import asyncio
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ami.peer import Peer
from fastagi.agents.fence import Fence
from fastagi.agents.operations import MemberNews, ReportedMember
from fastagi.ami import news as news_module
from fastagi.ami.client import Client
from fastagi.ami.news import EVENTS, SLICE, News


def event(name: str, queue: str = "sales", interface: str = "PJSIP/1001", **changes: str) -> bytes:
    """As Asterisk 22.10.1 writes it."""
    headers = {
        "Event": name,
        "Privilege": "agent,all",
        "Queue": queue,
        "MemberName": "Agent/1001",
        "Interface": interface,
        "StateInterface": interface,
        "Membership": "dynamic",
        "Penalty": "0",
        "CallsTaken": "0",
        "LastCall": "0",
        "LastPause": "0",
        "LoginTime": "1795383029",
        "InCall": "0",
        "Status": "1",
        "Paused": "0",
        "PausedReason": "",
        "Ringinuse": "0",
        "Wrapuptime": "0",
        **changes,
    }
    return "\r\n".join(f"{key}: {value}" for key, value in headers.items()).encode()


class Hall:
    """What is told of, in the order it was told."""

    def __init__(self, **options: Any) -> None:
        self.batches: list[list[MemberNews]] = []
        self.reachable: list[ReportedMember] = []
        self.ended: list[tuple[str, str]] = []
        self.missed = 0
        options.setdefault("gather", 0.001)
        self.news = News(
            "north",
            self.batches.append,
            self.reachable.extend,
            lambda *call: self.ended.append(call),
            on_missed=self.miss,
            **options,
        )

    def miss(self) -> None:
        self.missed += 1

    def take(self, *events: bytes) -> None:
        for raw in events:
            self.news.take(raw.partition(b"\r\n")[0].removeprefix(b"Event: "), raw)

    async def settled(self) -> None:
        async with asyncio.timeout(20):
            while self.news._waiting or self.news._timer or self.news._task:
                await asyncio.gather(*filter(None, [self.news._task]), asyncio.sleep(0.001))

    def told(self) -> list[tuple[str, str, bool]]:
        return [
            (n.member.queue, n.member.interface, n.present) for batch in self.batches for n in batch
        ]


async def test_a_batch_has_the_latest_of_each_member_in_order() -> None:
    hall = Hall()
    hall.take(
        event("QueueMemberAdded"),
        event("QueueMemberAdded", "support"),
        event("QueueMemberPause", Paused="1", PausedReason="lunch"),
        event("QueueMemberPenalty", "SUPPORT", "pjsip/1001", Penalty="3"),
        event("QueueMemberRemoved", "billing"),
        event("QueueMemberRemoved"),
        event("QueueMemberAdded"),
        event("QueueMemberPause", Paused="1", PausedReason="tea"),
    )
    await hall.settled()
    assert hall.told() == [
        ("SUPPORT", "pjsip/1001", True),
        ("billing", "PJSIP/1001", False),
        ("sales", "PJSIP/1001", True),
    ]
    penalty, _, last = hall.batches[0]
    assert penalty.member.penalty == 3
    assert (last.member.paused, last.member.reason) == (True, "tea")
    assert last.member.asterisk == "north"


async def test_many_come_in_slices_and_what_comes_meanwhile_is_the_next_batch() -> None:
    hall = Hall()
    count = SLICE * 3 + 1
    hall.take(*(event("QueueMemberAdded", interface=f"PJSIP/{n}") for n in range(count)))
    turns = 0
    while not hall.batches:
        await asyncio.sleep(0)
        turns += 1
        if hall.news._task is not None and len(hall.news._waiting) < 5:
            hall.take(event("QueueMemberRemoved", interface=f"PJSIP/late-{turns}"))
    await hall.settled()
    assert len(hall.batches[0]) == count
    late = [interface for _, interface, present in hall.told() if not present]
    assert late
    assert len(late) == len(set(late))
    assert len(hall.told()) == count + len(late), "none is lost, none comes twice"


async def test_what_cannot_be_read_is_told_and_skipped() -> None:
    faults: list[str] = []
    hall = Hall(fence=Fence(structlog.get_logger(), faults.append))
    with capture_logs() as logs:
        hall.take(
            b"Event: QueueMemberAdded",
            *[event("QueueMemberAdded", Penalty=f"x{n}") for n in range(1000)],
            event("QueueMemberPause", ""),
            event("QueueMemberAdded", Penalty="99999999999999999999"),
            event("QueueMemberAdded", "support"),
            event("QueueMemberAdded", PausedReason="x" * 10_000),
        )
        await hall.settled()
    assert hall.told() == [("support", "PJSIP/1001", True)]
    assert [log["error"] for log in logs] == [
        "Unusable: an event is too long",
        "Unusable: Queue: is empty",
        "Unusable: Penalty: is no number",
        "Unusable: Penalty: is not from 0 to 2147483647",
    ], "each kind once, however many come"
    assert {log["event"] for log in logs} == {"skipped: it cannot be used"}
    assert faults == ["read queue events"] * 1004


async def test_reachability_is_told_when_it_changes_and_once_per_phone() -> None:
    hall = Hall()

    async def after(*events: bytes) -> list[tuple[str, bool]]:
        hall.reachable.clear()
        hall.take(*events)
        await hall.settled()
        return [(m.interface, m.unreachable) for m in hall.reachable]

    def status(code: str, queue: str = "sales", interface: str = "PJSIP/1001") -> bytes:
        return event("QueueMemberStatus", queue, interface, Status=code)

    assert await after(event("QueueMemberAdded")) == [], "who logs in can be reached"
    assert await after(status("2"), status("6")) == [("PJSIP/1001", False)], "perhaps it was away"
    hall.take(status("1"), status("2", "support"))
    assert not hall.news._waiting, "ringing phones cost nothing"
    assert await after(status("5"), status("5", "support")) == [("PJSIP/1001", True)]
    assert await after(status("5")) == []
    assert await after(event("QueueMemberPause", Status="5", Paused="1")) == []
    assert await after(status("1"), status("1", "support")) == [("PJSIP/1001", False)]
    assert await after(status("5"), status("1")) == [("PJSIP/1001", True), ("PJSIP/1001", False)]
    # A member put back after Asterisk restarted, before the phone has registered there.
    assert await after(event("QueueMemberAdded", interface="PJSIP/1002", Status="5")) == [
        ("PJSIP/1002", True)
    ]
    assert await after(status("5", interface="PJSIP/1002")) == []
    assert await after(event("QueueMemberRemoved", interface="PJSIP/1002")) == []
    assert await after(status("3", interface="PJSIP/1002")) == [("PJSIP/1002", False)]
    assert all(news.member.asterisk == "north" for batch in hall.batches for news in batch)


async def test_after_a_new_connection_the_first_status_counts() -> None:
    """The phone went away, the link was lost, the phone came back: nobody else would tell."""
    hall = Hall()
    hall.take(event("QueueMemberStatus", Status="5"))
    await hall.settled()
    hall.news.forget()
    hall.take(event("QueueMemberStatus", Status="1"), event("QueueMemberStatus", Status="1"))
    await hall.settled()
    assert [m.unreachable for m in hall.reachable] == [True, False]


async def test_the_end_of_a_call_is_told_at_once() -> None:
    hall = Hall(gather=60)
    hall.take(
        b"Event: AgentComplete\r\nQueue: sales\r\nInterface: PJSIP/1001\r\nMemberName: Agent/1001",
        b"Event: AgentDump\r\nQueue: sales\r\nInterface: Local/\xe9@phones",
        b"Event: AgentComplete\r\nQueue: sales",
    )
    assert hall.ended == [("PJSIP/1001", "north"), ("Local/\ufffd@phones", "north"), ("", "north")]
    assert hall.news._timer is None


async def test_a_callback_that_fails_stops_nothing_and_is_made_good() -> None:
    got: list[int] = []

    async def fails_once(batch: list[MemberNews]) -> None:
        await asyncio.sleep(0)
        got.append(len(batch))
        if len(got) == 1:
            raise RuntimeError("the disk is full")

    hall = Hall()
    news = News(
        "",
        fails_once,
        hall.reachable.extend,
        lambda *call: 1 / 0,  # type: ignore[arg-type]
        on_missed=hall.miss,
        gather=0.001,
    )
    hall.news = news
    with capture_logs() as logs:
        hall.take(b"Event: AgentComplete\r\nInterface: x", event("QueueMemberAdded", Status="5"))
        await hall.settled()
        hall.take(event("QueueMemberRemoved"))
        await hall.settled()
    assert got == [1, 1]
    assert hall.missed == 1, "what that batch told must be found out by a comparison"
    assert len(hall.reachable) == 1
    assert [(log["event"], log["error"]) for log in logs] == [
        ("skipped: a fault of the service", "ZeroDivisionError: division by zero"),
        ("skipped: a fault of the service", "RuntimeError: the disk is full"),
    ]


async def test_more_than_anybody_takes_is_let_go_and_told(monkeypatch: Any) -> None:
    monkeypatch.setattr(news_module, "MOST", 50)
    hall = Hall(gather=0.001)
    hall.take(*[event("QueueMemberAdded", interface=f"PJSIP/{n}") for n in range(70)])
    await hall.settled()
    assert hall.missed == 1
    assert len(hall.told()) == 20


async def test_so_do_more_bytes(monkeypatch: Any) -> None:
    monkeypatch.setattr(news_module, "MOST_BYTES", 50_000)
    hall = Hall(gather=0.001)
    hall.take(
        *[event("QueueMemberAdded", PausedReason="x" * 9000, Penalty=f"{n}") for n in range(9)]
    )
    assert hall.missed == 1
    await hall.settled()
    assert hall.news._size == 0


async def test_phones_that_somebody_makes_up_take_no_memory(monkeypatch: Any) -> None:
    monkeypatch.setattr(news_module, "MOST", 500)
    hall = Hall(gather=60)
    for n in range(1000):
        hall.take(event("QueueMemberStatus", interface=f"PJSIP/{n}", Status="5"))
    for n in range(3000, 5000):
        hall.take(event("QueueMemberStatus", interface=f"PJSIP/{n}", Status="1"))
    assert len(hall.news._away) <= 500
    assert len(hall.news._there) <= 500
    assert len(hall.news._waiting) <= 500


ANY = st.binary(max_size=60)
NAMES = st.sampled_from([name.encode() for name in EVENTS])
EVENT = event("QueueMemberAdded")


@given(
    st.lists(
        st.tuples(
            NAMES,
            ANY
            | st.tuples(st.integers(0, len(EVENT)), ANY).map(
                lambda at: EVENT[: at[0]] + at[1] + EVENT[at[0] + len(at[1]) :]
            ),
        ),
        max_size=5,
    )
)
@settings(max_examples=50)
async def test_any_bytes_harm_nothing(events: list[tuple[bytes, bytes]]) -> None:
    hall = Hall(gather=0)
    with capture_logs():
        for name, raw in events:
            hall.news.take(name, raw)
        hall.take(event("QueueMemberAdded", "last"))
        await hall.settled()
    assert hall.missed == 0
    assert ("last", "PJSIP/1001", True) in hall.told()


async def test_closing_ends_it() -> None:
    started = asyncio.Event()

    async def for_ever(batch: list[MemberNews]) -> None:
        started.set()
        await asyncio.Event().wait()

    news = News("", for_ever, lambda m: None, lambda *call: None, gather=0.001)
    news.take(b"QueueMemberAdded", event("QueueMemberAdded"))
    await started.wait()
    await news.close()
    news.take(b"QueueMemberAdded", event("QueueMemberAdded"))
    assert news._timer is None
    assert news._task is None
    waits = News("", for_ever, lambda m: None, lambda *call: None, gather=60)
    waits.take(b"QueueMemberAdded", event("QueueMemberAdded"))
    await waits.close()
    assert waits._timer is None


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
async def test_over_a_link_cut_anywhere(client_of: Any, eventually: Any, size: int) -> None:
    hall = Hall()
    others: list[str] = []
    stream = b"".join(
        raw + b"\r\n\r\n"
        for raw in (
            event("QueueMemberAdded", PausedReason="Déjeuner"),
            event("QueueMemberRinginuse"),
            b"Event: QueueCallerJoin\r\nQueue: sales",
            event("QueueMemberRemoved"),
            b"Event: AgentComplete\r\nInterface: PJSIP/1001\r\nHoldTime: 1",
            event("QueueMemberAdded", "support"),
        )
    )
    async with Peer() as peer:
        await client_of(
            peer,
            raw_names=EVENTS,
            on_raw=hall.news.take,
            event_names=("QueueCallerJoin",),
            on_event=lambda name, headers: others.append(name),
        )
        for begin in range(0, len(stream), size):
            peer.links[0].write(stream[begin : begin + size])
            if size == 1 and begin % 50 == 0:
                await asyncio.sleep(0.001)
        await peer.links[0].writer.drain()
        await eventually(lambda: "support" in [queue for queue, _, _ in hall.told()])
    # One batch or several: what is told last of each member is how it is.
    assert hall.told()[-2:] == [("sales", "PJSIP/1001", False), ("support", "PJSIP/1001", True)]
    assert hall.ended == [("PJSIP/1001", "north")]
    assert others == ["QueueCallerJoin"]


async def test_a_raw_callback_that_fails_harms_nothing(client_of: Any) -> None:
    async with Peer() as peer:

        def fails(name: bytes, raw: bytes) -> None:
            raise RuntimeError

        client: Client = await client_of(peer, raw_names=EVENTS, on_raw=fails)
        peer.links[0].event("QueueMemberAdded", Queue="sales")
        assert (await client.action({"Action": "Ping"})).success
        assert client.connected
