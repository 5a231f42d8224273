"""Queues and the client against a real Asterisk, with the rights of the sample and no more."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fastagi.agents.notes import Note
from fastagi.agents.operations import (
    AddMember,
    Answer,
    MemberNews,
    PauseMember,
    QueuesUnavailable,
    RemoveMember,
    ReportedMember,
    SetPenalty,
)
from fastagi.ami.client import Client, Response
from fastagi.ami.news import EVENTS, News
from fastagi.ami.queues import NEEDED, Privileges, Queues
from fastagi.contract import Script
from fastagi.demo.asterisk import Asterisk

pytestmark = pytest.mark.asterisk

PHONE = "Local/1001@phones"

LOG_OFF = {
    "Action": "QueueLog",
    "Queue": "NONE",
    "Event": "AGENTCALLBACKLOGOFF",
    "Interface": "Agent/1001",
    "Uniqueid": "17.1",
    "Message": "1001@phones|60",
}


def lamp(state: str) -> dict[str, str]:
    return {"Action": "Setvar", "Variable": "DEVICE_STATE(Custom:agent-1001)", "Value": state}


def section(name: str, secret: str, read: str, write: str) -> str:
    return f"[{name}]\nsecret = {secret}\nread = {read}\nwrite = {write}\n\n"


@pytest.fixture(scope="module")
def own_asterisk(equipment: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asterisk]:
    asterisk = Asterisk(
        tmp_path_factory.mktemp("ami"),
        equipment.asterisk,
        more_dialplan=(
            "[lamps]\nexten => lamp,hint,Custom:agent-1001\n"
            "[callers]\nexten => answers,1,Answer()\n same => n,Wait(60)\n"
        ),
    )
    secret = asterisk.ami_secret
    asterisk.manager_sections = "".join(
        section(name, secret, read, write)
        for name, read, write in (
            (asterisk.ami_username, "agent", "agent,user,call,reporting"),
            ("listener", "user", ""),
            ("deaf", "", "agent,user,call,reporting"),
            ("no-agent", "agent", "user,call,reporting"),
            ("no-user", "agent", "agent,call,reporting"),
            ("no-call", "agent", "agent,user,reporting"),
            ("no-reporting", "agent", "agent,user,call"),
            ("nothing", "", ""),
        )
    )
    asterisk.start()
    yield asterisk
    asterisk.stop()


@pytest.fixture
def asterisk(own_asterisk: Asterisk) -> Asterisk:
    if not own_asterisk.running:
        own_asterisk.start()
    return own_asterisk


class Connected:
    def __init__(self, asterisk: Asterisk) -> None:
        self.asterisk = asterisk
        self.clients: list[Client] = []

    async def __call__(self, username: str = "", **options: Any) -> Client:
        client = Client(
            "127.0.0.1",
            self.asterisk.ami_port,
            username or self.asterisk.ami_username,
            options.pop("secret", self.asterisk.ami_secret),
            **options,
        )
        self.clients.append(client)
        await client.start()
        await client.ready(10)
        return client


@pytest.fixture
async def connect(asterisk: Asterisk) -> AsyncIterator[Connected]:
    connected = Connected(asterisk)
    yield connected
    for client in connected.clients:
        await client.close()


@pytest.fixture
async def queues(connect: Connected) -> AsyncIterator[Queues]:
    queues = Queues(await connect())
    await empty(queues)
    yield queues
    if queues.connected:
        await empty(queues)


async def started_again(asterisk: Asterisk) -> None:
    asterisk.spawn()
    await asyncio.to_thread(asterisk.wait_booted)


async def empty(queues: Queues) -> None:
    await queues.apply([RemoveMember(m.queue, m.interface) for m in await queues.members()])


def add(queue: str = "sales", interface: str = PHONE, **changes: Any) -> AddMember:
    fields: dict[str, Any] = {"state_interface": "Custom:agent-1001", "member_name": "Agent/1001"}
    return AddMember(queue, interface, **{**fields, **changes})


async def test_a_login_into_three_queues(queues: Queues, asterisk: Asterisk) -> None:
    operations = [
        add("sales", penalty=2, paused=True, reason="déjeuner"),
        add("support"),
        add("billing", penalty=1),
    ]
    results = await queues.apply(operations)
    assert [r.answer for r in results] == [Answer.DONE] * 3
    members = {m.queue: m for m in await queues.members()}
    assert members["sales"] == ReportedMember(
        queue="sales",
        interface=PHONE,
        state_interface="Custom:agent-1001",
        name="Agent/1001",
        penalty=2,
        paused=True,
        reason="déjeuner",
        in_call=False,
        dynamic=True,
        unreachable=False,
        last_call=0.0,
        asterisk="",
    )
    assert not members["support"].paused
    assert members["billing"].penalty == 1
    assert "paused:déjeuner" in await asyncio.to_thread(asterisk.cli, "queue show sales")
    assert [m.queue for m in await queues.members("SALES")] == ["sales"]
    assert await queues.members("nosuch") == []


async def test_every_answer(queues: Queues) -> None:
    async def answers(*operations: Any) -> list[tuple[Answer, str]]:
        return [(r.answer, r.message) for r in await queues.apply(operations)]

    assert await answers(add(), add(interface=PHONE.upper()), add("SALES"), add("nosuch")) == [
        (Answer.DONE, "Added interface to queue"),
        (Answer.ALREADY_SO, "Unable to add interface: Already there"),
        (Answer.ALREADY_SO, "Unable to add interface: Already there"),
        (Answer.NO_SUCH_QUEUE, "Unable to add interface to queue: No such queue"),
    ]
    assert await answers(
        PauseMember(PHONE, True, "lunch"),
        PauseMember(PHONE.lower(), False),
        PauseMember("Local/nobody@phones", True),
        PauseMember("Local/nobody@phones", False),
        SetPenalty("sales", PHONE, 7),
        SetPenalty("nosuch", PHONE, 7),
        SetPenalty("sales", "Local/nobody@phones", 7),
        RemoveMember("sales", PHONE),
        RemoveMember("sales", PHONE),
        RemoveMember("nosuch", PHONE),
    ) == [
        (Answer.DONE, "Interface paused successfully"),
        (Answer.DONE, "Interface unpaused successfully"),
        (Answer.ALREADY_SO, "Interface not found"),
        (Answer.ALREADY_SO, "Interface not found"),
        (Answer.DONE, "Interface penalty set successfully"),
        (Answer.ALREADY_SO, "Invalid interface, queuename or penalty"),
        (Answer.ALREADY_SO, "Invalid interface, queuename or penalty"),
        (Answer.DONE, "Removed interface from queue"),
        (Answer.ALREADY_SO, "Unable to remove interface: Not there"),
        (Answer.ALREADY_SO, "Unable to remove interface from queue: No such queue"),
    ]


async def test_a_static_member_cannot_be_removed(queues: Queues, asterisk: Asterisk) -> None:
    path = asterisk.etc / "queues.conf"
    before = path.read_text()
    path.write_text(before + "\n[static]\nmember => Local/1009@phones,0,Static Nine\n")
    await asyncio.to_thread(asterisk.cli, "queue reload all")
    try:
        (member,) = await queues.members("static")
        assert not member.dynamic
        assert member.name == "Static Nine"
        (result,) = await queues.apply([RemoveMember("static", "Local/1009@phones")])
        assert (result.answer, result.message) == (Answer.NOT_DYNAMIC, "Member not dynamic")
    finally:
        path.write_text(before)
        await asyncio.to_thread(asterisk.cli, "queue reload all")


async def test_which_queues_asterisk_lacks(queues: Queues) -> None:
    assert await queues.lacking(["sales", "Support", "nix", "No Such"]) == {"nix", "no such"}
    assert await queues.lacking([]) == set()
    (result,) = await queues.apply([add("SALES")])
    assert result.answer is Answer.DONE, "letter case does not matter"
    assert [m.queue for m in await queues.members(interface=PHONE)] == ["sales"]


async def test_pause_reaches_all_queues(queues: Queues) -> None:
    await queues.apply([add("sales"), add("support")])
    await queues.apply([PauseMember(PHONE, True, "lunch")])
    assert {(m.queue, m.paused, m.reason) for m in await queues.members()} == {
        ("sales", True, "lunch"),
        ("support", True, "lunch"),
    }
    await queues.apply([PauseMember(PHONE, False)])
    assert {(m.paused, m.reason) for m in await queues.members()} == {(False, "")}


async def test_names_of_79_bytes_arrive_whole(queues: Queues) -> None:
    name = "é" * 39 + "x"
    operation = add(
        member_name=name, state_interface="Custom:" + "s" * 72, paused=True, reason=name
    )
    assert (await queues.apply([operation]))[0].answer is Answer.DONE
    (member,) = await queues.members("sales")
    assert (member.name, member.reason) == (name, name)
    assert member.state_interface == "Custom:" + "s" * 72


async def test_queue_names_and_start_up_time(queues: Queues, asterisk: Asterisk) -> None:
    assert await queues.queue_names() == sorted(asterisk.queues.values())
    started = await queues.started_at()
    assert started == await queues.started_at()
    uptime = await asyncio.to_thread(asterisk.cli, "core show settings")
    assert started.split(" ")[1] in uptime
    assert re.fullmatch(r"[0-9-]{10} [0-9:]{8} life-[0-9a-f]{8}", started)


async def test_a_reload_is_no_restart(queues: Queues, asterisk: Asterisk) -> None:
    """Also where the dialplan's global variables are cleared with it."""
    assert "clearglobalvars = yes" in (asterisk.etc / "extensions.conf").read_text()
    started = await queues.started_at()
    for command in ("dialplan reload", "module reload", "core reload"):
        await asyncio.to_thread(asterisk.cli, command)
    assert await queues.started_at() == started


async def test_in_call(
    connect: Connected, queues: Queues, asterisk: Asterisk, eventually: Any
) -> None:
    interface = "Local/answers@callers/n"
    await queues.apply([add(interface=interface, state_interface="")])
    assert not await in_call(queues, interface)
    number = next(n for n, name in asterisk.queues.items() if name == "sales")
    admin = await connect(asterisk.admin_username, secret=asterisk.admin_secret)
    call = {"Action": "Originate", "Channel": f"Local/{number}@phones", "Async": "true"}
    assert (await admin.action({**call, "Application": "Wait", "Data": "60"})).success
    try:
        await eventually(lambda: in_call(queues, interface))
        assert await in_call(queues, interface.upper())
        assert await in_call(queues, interface, "sales")
        assert not await queues.members("support", interface)
        assert not await queues.members(interface="Local/nobody@phones")
    finally:
        await asyncio.to_thread(asterisk.cli, "channel request hangup all")
    await eventually(lambda: call_ended(queues, interface))


async def in_call(queues: Queues, interface: str, queue: str | None = None) -> bool:
    return any(m.in_call for m in await queues.members(queue, interface))


async def call_ended(queues: Queues, interface: str) -> bool:
    (member,) = await queues.members(interface=interface)
    return not member.in_call and member.last_call > 1_700_000_000


async def test_a_phone_that_is_not_there(queues: Queues) -> None:
    await queues.apply([add(interface="PJSIP/1001", state_interface=""), add()])
    unreachable = {m.interface: m.unreachable for m in await queues.members()}
    assert unreachable == {"PJSIP/1001": True, PHONE: False}


async def test_pause_in_one_queue(queues: Queues) -> None:
    await queues.apply([add("sales"), add("support")])
    results = await queues.apply(
        [
            PauseMember(PHONE, True, "lunch", "SALES"),
            PauseMember(PHONE, True, "lunch", "billing"),
            PauseMember(PHONE, False, queue="billing"),
        ]
    )
    assert [r.answer for r in results] == [Answer.DONE, Answer.ALREADY_SO, Answer.ALREADY_SO]
    assert {(m.queue, m.paused, m.reason) for m in await queues.members()} == {
        ("sales", True, "lunch"),
        ("support", False, ""),
    }
    await queues.apply([PauseMember(PHONE, True, "tea"), PauseMember(PHONE, False, queue="sales")])
    assert {(m.queue, m.paused) for m in await queues.members()} == {
        ("sales", False),
        ("support", True),
    }


async def test_notes_of_the_fallback(
    connect: Connected, queues: Queues, asterisk: Asterisk
) -> None:
    """They are read and deleted with the rights of the sample: without the class system."""
    at = datetime(2026, 11, 22, 12, 0, 0, 1_000, tzinfo=UTC)
    notes = [
        Note(at, Script.PAUSE, "PJSIP/1001", "2", "PJSIP/1001-0000001f", "1001", "1795348800.7"),
        Note(at + timedelta(seconds=1), Script.LOGOFF, "PJSIP/1002", unique_id="1795348801.8"),
    ]
    assert await queues.notes() == []
    # As the fallback writes them: over AGI there are no such limits as over AMI.
    admin = await connect(asterisk.admin_username, secret=asterisk.admin_secret)
    for note in reversed(notes):
        put = {"Action": "DBPut", "Family": "fastagi", "Key": note.key, "Val": note.value()}
        assert (await admin.action(put)).success
    await admin.action({"Action": "DBPut", "Family": "fastagi2", "Key": notes[0].key, "Val": "x"})
    assert await queues.notes() == notes
    await queues.forget([notes[0]])
    assert await queues.notes() == [notes[1]]
    await queues.forget(notes)
    assert await queues.notes() == []
    shown = await asyncio.to_thread(asterisk.cli, "database show fastagi")
    assert "0 results" in shown, "nothing is left behind"


async def test_events_of_a_login(connect: Connected, queues: Queues, eventually: Any) -> None:
    events: list[tuple[str, dict[str, str]]] = []
    await connect(on_event=lambda name, headers: events.append((name, headers)))
    await queues.apply([add(paused=True, reason="déjeuner")])
    await queues.apply([PauseMember(PHONE, False), RemoveMember("sales", PHONE)])
    await eventually(lambda: len(events) >= 3)
    names = [name for name, _ in events]
    assert names == ["QueueMemberAdded", "QueueMemberPause", "QueueMemberRemoved"]
    added = events[0][1]
    assert (added["MemberName"], added["Interface"]) == ("Agent/1001", PHONE)
    assert (added["Paused"], added["PausedReason"]) == ("1", "déjeuner")


class Heard:
    """What the hall hears of an Asterisk."""

    def __init__(self) -> None:
        self.news: list[MemberNews] = []
        self.reachable: list[tuple[str, bool]] = []
        self.ended: list[str] = []

    @property
    def told(self) -> list[tuple[str, bool, bool, str, int]]:
        return [
            (n.member.queue, n.present, n.member.paused, n.member.reason, n.member.penalty)
            for n in self.news
        ]


@pytest.fixture
async def heard(connect: Connected) -> AsyncIterator[Heard]:
    heard = Heard()
    news = News(
        "",
        heard.news.extend,
        lambda members: heard.reachable.extend((m.interface, m.unreachable) for m in members),
        lambda interface, asterisk: heard.ended.append(interface),
        gather=0.001,
    )
    await connect(raw_names=EVENTS, on_raw=news.take, event_names=())
    yield heard
    await news.close()


async def test_news_of_what_somebody_else_does(
    queues: Queues, asterisk: Asterisk, heard: Heard, eventually: Any
) -> None:
    """What the command line does comes as an event, and says the same as the list."""

    async def cli(command: str, *expected: tuple[str, bool, bool, str, int]) -> None:
        heard.news.clear()
        await asyncio.to_thread(asterisk.cli, command)
        await eventually(lambda: heard.told == list(expected))
        there = [n.member for n in heard.news if n.present]
        if there:
            assert await queues.members("sales") == there

    added = f"queue add member {PHONE} to sales penalty 2 as Agent/1001 state_interface Custom:x"
    await cli(added, ("sales", True, False, "", 2))
    assert heard.news[0].member.state_interface == "Custom:x"
    assert heard.news[0].member.name == "Agent/1001"
    pause = f"queue pause member {PHONE} queue sales reason tea"
    await cli(pause, ("sales", True, True, "tea", 2))
    await cli(f"queue set penalty 7 on {PHONE} in sales", ("sales", True, True, "tea", 7))
    await cli(f"queue unpause member {PHONE}", ("sales", True, False, "", 7))
    await cli(f"queue remove member {PHONE} from sales", ("sales", False, False, "", 7))
    assert heard.reachable == []


async def test_news_of_a_phone_that_goes_and_comes(
    queues: Queues, asterisk: Asterisk, heard: Heard, eventually: Any
) -> None:
    async def state(name: str) -> None:
        await asyncio.to_thread(asterisk.cli, f"devstate change Custom:agent-1001 {name}")

    await state("NOT_INUSE")
    try:
        await queues.apply([add("sales"), add("support")])
        await eventually(lambda: len(heard.news) == 2)
        await state("UNAVAILABLE")
        await eventually(lambda: heard.reachable[-1:] == [(PHONE, True)])
        assert all(m.unreachable for m in await queues.members())
        await state("RINGING")
        await eventually(lambda: heard.reachable[-1:] == [(PHONE, False)])
        heard.reachable.clear()
        await state("INUSE")
        await state("UNAVAILABLE")
        await state("NOT_INUSE")
        await eventually(lambda: len(heard.reachable) >= 2)
        assert heard.reachable == [(PHONE, True), (PHONE, False)]
        assert len(heard.news) == 2, "that is no change of a member"
    finally:
        await state("NOT_INUSE")


async def test_news_of_the_end_of_a_call(
    connect: Connected, queues: Queues, asterisk: Asterisk, heard: Heard, eventually: Any
) -> None:
    interface = "Local/answers@callers/n"
    await queues.apply([add(interface=interface, state_interface="")])
    number = next(n for n, name in asterisk.queues.items() if name == "sales")
    admin = await connect(asterisk.admin_username, secret=asterisk.admin_secret)
    call = {"Action": "Originate", "Channel": f"Local/{number}@phones", "Async": "true"}
    await admin.action({**call, "Application": "Wait", "Data": "60"})
    await eventually(lambda: in_call(queues, interface))
    await asyncio.to_thread(asterisk.cli, "channel request hangup all")
    await eventually(lambda: heard.ended == [interface])


async def test_a_reload_says_nothing_and_the_list_shows_it(
    queues: Queues, asterisk: Asterisk, heard: Heard, eventually: Any
) -> None:
    """Why listening alone is not enough: neither what queues.conf brings in, nor who was in a
    queue that it does not have any more, comes as an event."""
    path = asterisk.etc / "queues.conf"
    before = path.read_text()
    path.write_text(before + "\n[brief]\nmember => Local/1009@phones,3,Nine\n")
    await asyncio.to_thread(asterisk.cli, "queue reload all")
    try:
        assert (await queues.apply([add("brief")]))[0].ok
        assert {m.name for m in await queues.members("brief")} == {"Nine", "Agent/1001"}
    finally:
        path.write_text(before)
        await asyncio.to_thread(asterisk.cli, "queue reload all")
    assert await queues.members("brief") == []
    await queues.apply([add("sales")])
    await eventually(lambda: [n.member.queue for n in heard.news] == ["brief", "sales"])


async def test_without_reading_class_agent_lists_come_and_events_do_not(
    connect: Connected, queues: Queues
) -> None:
    events: list[str] = []
    deaf = await connect("deaf", on_event=lambda name, headers: events.append(name))
    assert (await Queues(deaf).apply([add()]))[0].answer is Answer.DONE
    assert [m.queue for m in await Queues(deaf).members()] == ["sales"]
    assert (await deaf.action({"Action": "Ping"})).success
    assert events == []


async def test_what_the_sinks_send(
    connect: Connected, queues: Queues, asterisk: Asterisk, eventually: Any
) -> None:
    events: list[dict[str, str]] = []
    await connect("listener", events="user", on_event=lambda name, headers: events.append(headers))
    client = await connect()
    answers = await client.actions(
        [
            {"Action": "UserEvent", "UserEvent": "AgentFeature", "Agent": "1001", "Reason": "é"},
            LOG_OFF,
            lamp("INUSE"),
        ]
    )
    assert answers == [
        Response(True, "Event Sent"),
        Response(True, "Event added successfully"),
        Response(True, "Variable Set"),
    ]
    await eventually(lambda: bool(events))
    assert events[0]["UserEvent"] == "AgentFeature"
    assert (events[0]["Agent"], events[0]["Reason"]) == ("1001", "é")

    def logged() -> bool:
        rows = asterisk.queue_log_path.read_text().splitlines()
        return any(
            row.endswith("|17.1|NONE|Agent/1001|AGENTCALLBACKLOGOFF|1001@phones|60") for row in rows
        )

    await eventually(logged)
    hints = await asyncio.to_thread(asterisk.cli, "core show hints")
    assert "State:InUse" in hints
    await client.action(lamp("NOT_INUSE"))


@pytest.mark.parametrize(
    ("username", "missing"),
    [
        ("", {}),
        (
            "no-agent",
            {"agent": ("QueueAdd", "QueueRemove", "QueuePause", "QueuePenalty", "QueueLog")},
        ),
        ("no-user", {"user": ("UserEvent",)}),
        ("no-call", {"call": ("Setvar",)}),
        ("no-reporting", {"reporting": ("CoreStatus", "DBGetTree")}),
    ],
)
async def test_privileges(
    connect: Connected, username: str, missing: dict[str, tuple[str, ...]]
) -> None:
    found = await Queues(await connect(username)).privileges()
    assert found == Privileges(missing, ())
    assert found.ok == (not missing)


async def test_each_right_is_needed(connect: Connected, queues: Queues) -> None:
    """What is refused without each of the classes: less than the sample does not do."""
    denied = Response(False, "Permission denied")
    (result,) = await Queues(await connect("no-agent")).apply([add()])
    assert (result.answer, result.message) == (Answer.REFUSED, "Permission denied")
    no_user = await connect("no-user")
    assert await no_user.action({"Action": "UserEvent", "UserEvent": "AgentFeature"}) == denied
    no_call = await connect("no-call")
    assert await no_call.action(lamp("INUSE")) == denied
    with pytest.raises(QueuesUnavailable, match="Permission denied"):
        await Queues(await connect("no-reporting")).started_at()
    with pytest.raises(QueuesUnavailable, match="Permission denied"):
        await Queues(await connect("no-reporting")).notes()
    assert await Queues(await connect("nothing")).queue_names() == await queues.queue_names()


async def test_a_module_that_is_not_loaded(connect: Connected, asterisk: Asterisk) -> None:
    queues = Queues(await connect())
    await asyncio.to_thread(asterisk.cli, "module unload app_queue.so")
    try:
        found = await queues.privileges()
    finally:
        await asyncio.to_thread(asterisk.cli, "module load app_queue.so")
    assert found.missing == {}
    assert found.unknown == tuple(name for name in NEEDED if name.startswith("Queue"))
    assert (await queues.privileges()).ok


async def test_a_wrong_secret(asterisk: Asterisk, eventually: Any) -> None:
    client = Client("127.0.0.1", asterisk.ami_port, asterisk.ami_username, "wrong")
    await client.start()
    await eventually(lambda: client.last_error)
    assert client.last_error == "login refused: Authentication failed"
    await client.close()


async def test_asterisk_killed_and_started_again(
    connect: Connected, asterisk: Asterisk, eventually: Any
) -> None:
    lost: list[str] = []
    ready: list[str] = []
    client = await connect(on_lost=lost.append, on_ready=lambda: ready.append("ready"))
    queues = Queues(client)
    assert (await queues.apply([add()]))[0].answer is Answer.DONE
    started = await queues.started_at()
    await asyncio.to_thread(asterisk.kill)
    await eventually(lambda: bool(lost))
    with pytest.raises(QueuesUnavailable):
        await queues.apply([add()])
    await started_again(asterisk)
    await client.ready(20)
    assert ready == ["ready", "ready"]
    assert await queues.members() == []  # nothing was sent again behind our back
    assert await queues.started_at() != started


async def test_five_hundred_operations_at_once(queues: Queues) -> None:
    adds = [add(interface=f"Local/{n}@phones", state_interface="") for n in range(10_000, 10_500)]
    results = await queues.apply(adds)
    assert {r.answer for r in results} == {Answer.DONE}
    assert len(await queues.members("sales")) == 500
    results = await queues.apply([RemoveMember("sales", a.interface) for a in adds])
    assert {r.answer for r in results} == {Answer.DONE}


async def test_persistent_members_are_not_forged(
    equipment: Any, tmp_path: Path, eventually: Any
) -> None:
    """The characters that are refused, and why: what is let through survives a restart as it is."""
    with Asterisk(
        tmp_path / "p",
        equipment.asterisk,
        queue_sections="[general]\npersistentmembers = yes\n[sales]\n[support]\n[billing]\n",
    ) as asterisk:
        client = Client("127.0.0.1", asterisk.ami_port, asterisk.ami_username, asterisk.ami_secret)
        await client.start()
        await client.ready(10)
        queues = Queues(client)
        name = 'Ann ("x") = & é / * \' $ % \\'
        operation = add(member_name=name, paused=True, reason=name)
        assert (await queues.apply([operation]))[0].answer is Answer.DONE
        before = await queues.members()
        await asyncio.to_thread(asterisk.stop)
        await started_again(asterisk)
        await client.ready(20)
        assert await queues.members() == before
        await client.close()
