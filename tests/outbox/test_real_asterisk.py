"""The three sinks on a real Asterisk; who listens there is somebody else's manager client."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from asterisk.manager import Manager

from fastagi.agents.commands import Actor
from fastagi.ami.client import Client
from fastagi.contract import EventType, Sink, Source
from fastagi.demo.asterisk import Asterisk
from fastagi.demo.equipment import Equipment
from fastagi.outbox import lamp, queue_log, user_event
from fastagi.outbox.dispatcher import Dispatcher, Pace

from .parts import Memory, event, now

Eventually = Callable[..., Awaitable[None]]

ASTERISKS_OWN = ("Event", "Privilege", "SystemName")

pytestmark = [
    pytest.mark.asterisk,
    # pyst2 calls the threading module by its old names.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@asynccontextmanager
async def service(asterisk: Asterisk, memory: Memory, **others: Asterisk) -> AsyncIterator[Client]:
    named = {"": asterisk} if not others else {"main": asterisk, **others}
    amis = {
        name: Client("127.0.0.1", one.ami_port, one.ami_username, one.ami_secret)
        for name, one in named.items()
    }
    sinks = {
        Sink.USER_EVENT: user_event.sink(amis),
        Sink.QUEUE_LOG: queue_log.sink(amis),
        Sink.LAMP: lamp.sink(amis),
    }
    dispatcher = Dispatcher(memory, sinks, now, Pace(first_delay=0.1, look=0.2))
    memory.on_change = dispatcher.wake
    for ami in amis.values():
        await ami.start()
    task = asyncio.create_task(dispatcher.run())
    try:
        yield next(iter(amis.values()))
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        for ami in amis.values():
            await ami.close()


@asynccontextmanager
async def listener(asterisk: Asterisk) -> AsyncIterator[list[dict[str, str]]]:
    """What pyst2's Manager hears of our events."""
    heard: list[dict[str, str]] = []

    def hear(told: Any, _: Manager) -> None:
        if told.get_header("UserEvent") == "AgentFeature":
            heard.append({k: v for k, v in told.headers.items() if k != "ActionID"})

    peer = Manager()
    peer.register_event("UserEvent", hear)
    await asyncio.to_thread(peer.connect, "127.0.0.1", asterisk.ami_port)
    await asyncio.to_thread(peer.login, asterisk.admin_username, asterisk.admin_secret)
    try:
        yield heard
    finally:
        # Manager.close() logs off, and fails or waits for ever when Asterisk is the quicker to
        # hang up. To one that is not connected any more it only ends its threads.
        peer._connected.clear()
        peer._sock._sock.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(peer.close)


def rows(asterisk: Asterisk, agent: str) -> list[str]:
    """The agent's rows in queue_log, without the time stamp."""
    lines = asterisk.queue_log_path.read_text().splitlines()
    return [line.partition("|")[2] for line in lines if f"|Agent/{agent}|" in line]


async def lamps(asterisk: Asterisk, agent: str) -> dict[str, str]:
    shown = await asterisk.ask("devstate list")
    states = dict(re.findall(r"Name: '([^']*)'\s+State: '([^']*)'", shown))
    names = {kind: f"Custom:{kind}-{agent}" for kind in ("agent", "pause")}
    return {kind: states[name] for kind, name in names.items() if name in states}


async def test_a_day_of_an_agent(asterisk: Asterisk, eventually: Eventually) -> None:
    memory = Memory()
    call = Actor(channel="PJSIP/1005-00000001", caller_id="1005", unique_id="1700000000.1")
    where = {"extension": "1005", "actor": call, "source": Source.PHONE}

    async def shows(**expected: str) -> None:
        async def shown() -> bool:
            return await lamps(asterisk, "2002") == expected

        await eventually(shown)

    async with service(asterisk, memory), listener(asterisk) as heard:
        told = [event("2002", EventType.LOGIN, **where)]
        await memory.commit(told[-1])
        await shows(agent="INUSE")
        told.append(event("2002", EventType.PAUSE, reason="Déjeuner: 午餐, court", **where))
        await memory.commit(told[-1])
        await shows(agent="INUSE", pause="INUSE")
        told += [
            event("2002", EventType.LOGOUT, reason="moved", session_seconds=61, **where),
            event("2002", EventType.LOGIN, reason="moved", **{**where, "extension": "1006"}),
        ]
        await memory.commit(*told[-2:])
        await eventually(lambda: len(heard) == 4)
        await eventually(lambda: not memory.rows)
        await shows(agent="INUSE", pause="INUSE")
        told += [
            event("2002", EventType.UNPAUSE, reason="lunch", **where),
            event("2002", EventType.PAUSE, reason="lunch", **where),
            event("2002", EventType.LOGOUT, actor=Actor(), session_seconds=3661, extension="1006"),
        ]
        await memory.commit(*told[-3:])
        await eventually(lambda: len(heard) == 7)
        await eventually(lambda: not memory.rows)
        await shows(agent="NOT_INUSE", pause="NOT_INUSE")

    for said, happened in zip(heard, told, strict=True):
        assert {k: said[k] for k in list(said) if k not in ASTERISKS_OWN} == {
            "UserEvent": "AgentFeature",
            "Type": happened.type.value,
            "Agent": "2002",
            "Extension": happened.extension,
            "Queues": "sales,support",
            "Reason": happened.reason,
            "Source": "phone",
            "EventId": happened.id,
            "OccurredAt": "2026-11-22T10:00:00.123+00:00",
        }
    assert rows(asterisk, "2002") == [
        "1700000000.1|NONE|Agent/2002|AGENTCALLBACKLOGIN|1005@phones",
        "1700000000.1|NONE|Agent/2002|AGENTCALLBACKLOGOFF|1005@phones|61|moved",
        "1700000000.1|NONE|Agent/2002|AGENTCALLBACKLOGIN|1006@phones",
        "NONE|NONE|Agent/2002|AGENTCALLBACKLOGOFF|1006@phones|3661|",
    ]
    assert not memory.parked


async def test_hostile_values_reach_nobody(asterisk: Asterisk, eventually: Eventually) -> None:
    memory = Memory()
    before = asterisk.queue_log_path.read_text()
    async with service(asterisk, memory), listener(asterisk) as heard:
        await memory.commit(
            event("2003", reason="x\r\nUserEvent: Forged", extension="1|2|3"),
            event("1)=x", EventType.PAUSE),
            event("2004", queues=tuple(f"queue-{n:04}" for n in range(300))),
        )
        await eventually(lambda: not memory.rows)
        await eventually(lambda: len(heard) == 2)
    assert [said["Agent"] for said in heard] == ["1)=x", "2004"]
    assert heard[1]["QueuesOmitted"] == "219"  # 81 names of ten letters fit
    assert heard[1]["OccurredAt"], "nothing after the long line was lost"
    written = asterisk.queue_log_path.read_text().removeprefix(before)
    assert "Agent/2003" not in written
    assert "Agent/2004" in written
    parked = sorted((row.sink.value, row.event.agent) for row, _ in memory.parked.values())
    assert parked == [("lamp", "1)=x"), ("queue_log", "2003"), ("user_event", "2003")]


async def test_asterisk_is_killed_in_mid_storm_and_nothing_is_lost(
    asterisk: Asterisk, eventually: Eventually
) -> None:
    memory = Memory()
    agents = [f"3{n:03}" for n in range(200)]
    async with service(asterisk, memory) as ami:
        await ami.ready(10)
        await memory.commit(*(event(agent) for agent in agents))
        await eventually(
            lambda: memory.marks or "Agent/3000" in asterisk.queue_log_path.read_text()
        )
        asterisk.kill()
        await memory.commit(
            *(event(agent, EventType.LOGOUT, session_seconds=5) for agent in agents)
        )
        await asyncio.sleep(0.5)
        assert memory.rows, "it waits"
        asterisk.start()
        await eventually(lambda: not memory.rows, within=30)
    for agent in agents:
        kinds = [row.split("|")[3] for row in rows(asterisk, agent)]
        first_logoff = kinds.index("AGENTCALLBACKLOGOFF")
        # At least once, and in order: a repetition is possible, a log-off before its log-in is not.
        assert set(kinds[:first_logoff]) <= {"AGENTCALLBACKLOGIN"}, kinds
        assert set(kinds[first_logoff:]) == {"AGENTCALLBACKLOGOFF"}, kinds
    assert await lamps(asterisk, "3199") == {"agent": "NOT_INUSE", "pause": "NOT_INUSE"}
    assert not memory.parked


async def test_a_missing_write_class_stops_only_what_needs_it(
    asterisk: Asterisk, eventually: Eventually
) -> None:
    memory = Memory()
    asterisk.manager_sections = (
        f"[{asterisk.ami_username}]\nsecret = {asterisk.ami_secret}\n"
        "permit = 127.0.0.1/255.255.255.255\nread = agent\nwrite = agent,call\n"
    )
    asterisk.reload("manager")
    async with service(asterisk, memory):
        await memory.commit(event("2005"))
        await eventually(lambda: [row.sink for row in memory.rows.values()] == [Sink.USER_EVENT])
        assert rows(asterisk, "2005")
        await asyncio.sleep(0.5)
    (row,) = memory.rows.values()
    assert row.attempts == 0
    assert row.seq not in memory.due_at, "not postponed: it is no fault of the event"


async def test_two_asterisks_and_one_of_them_is_killed(
    asterisk: Asterisk, equipment: Equipment, tmp_path: Path, eventually: Eventually
) -> None:
    memory = Memory()
    with Asterisk(tmp_path, equipment.asterisk) as south:
        async with service(asterisk, memory, south=south), listener(asterisk) as heard:
            await memory.commit(event("2101", asterisk="main"), event("2102", asterisk="south"))
            await eventually(lambda: not memory.rows)
            await eventually(lambda: sorted(said["Agent"] for said in heard) == ["2101", "2102"])
            for one in (asterisk, south):
                assert await lamps(one, "2101") == {"agent": "INUSE"}
                assert await lamps(one, "2102") == {"agent": "INUSE"}
            assert rows(asterisk, "2101")
            assert not rows(asterisk, "2102"), "a row stands where the agent is"
            assert not rows(south, "2101")
            assert rows(south, "2102")
            south.kill()
            await memory.commit(
                event("2102", EventType.PAUSE, asterisk="south"),
                event("2101", EventType.LOGOUT, asterisk="main"),
                event("2103", asterisk="main"),
            )
            await eventually(lambda: {row.event.agent for row in memory.rows.values()} == {"2102"})
            assert len(rows(asterisk, "2101")) == 2
            south.start()
            await eventually(lambda: not memory.rows, within=30)
            assert (await lamps(south, "2102"))["pause"] == "INUSE"
    assert not memory.parked
