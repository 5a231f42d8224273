"""Asterisk and the phones are real, and do what the other tests take for granted."""

import asyncio
import dataclasses
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from fastagi.demo import debian
from fastagi.demo.asterisk import Asterisk, AsteriskError, Extension, Played, clipped, parse_log
from fastagi.demo.equipment import Equipment
from fastagi.demo.phone import CallRefused, Phone, PhoneError, in_tree

MakePhone = Callable[..., Awaitable[Phone]]
Eventually = Callable[..., Awaitable[None]]

pytestmark = pytest.mark.asterisk


def test_boots_with_its_queues_and_without_a_complaint(
    equipment: Equipment, tmp_path: Path
) -> None:
    """One of its own: other tests have the shared one complain."""
    with Asterisk(tmp_path, equipment.asterisk) as asterisk:
        shown = asterisk.cli("queue show")
        assert all(name in shown for name in ("sales", "support", "billing"))
        said = asterisk.log_path.read_text().splitlines()
    assert [line for line in said if "ERROR[" in line] == []


def test_command_line_refuses_a_second_line(asterisk: Asterisk) -> None:
    with pytest.raises(ValueError, match="one line"):
        asterisk.cli("core show version\ncore stop now")


def test_killed_and_started_again(equipment: Equipment, tmp_path: Path) -> None:
    asterisk = Asterisk(tmp_path, equipment.asterisk)
    with asterisk:
        first = asterisk.pid
        asterisk.kill()
        assert not asterisk.running
        with pytest.raises(AsteriskError):
            asterisk.cli("core show version")
        asterisk.start()
        assert asterisk.pid != first
        assert "Asterisk" in asterisk.cli("core show version")
    assert not asterisk.running


def test_a_start_that_fails_says_why(equipment: Equipment, tmp_path: Path) -> None:
    program = dataclasses.replace(
        equipment.asterisk, command=("sh", "-c", "echo no room on the stairs; exit 1")
    )
    with pytest.raises(AsteriskError, match="no room on the stairs"):
        Asterisk(tmp_path, program).start()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_is_taken_is_told(
    equipment: Equipment, tmp_path: Path, kind: socket.SocketKind
) -> None:
    asterisk = Asterisk(tmp_path, equipment.asterisk)
    port = asterisk.ami_port if kind is socket.SOCK_STREAM else asterisk.sip_port
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", port))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        with pytest.raises(AsteriskError, match="already in use"):
            asterisk.start()
    assert not asterisk.running


def test_its_folder_may_have_a_long_path(equipment: Equipment, tmp_path: Path) -> None:
    with Asterisk(tmp_path / ("x" * 120), equipment.asterisk) as asterisk:
        assert "Asterisk" in asterisk.cli("core show version")


async def test_digits_arrive_as_they_were_pressed(
    asterisk: Asterisk, phones: MakePhone, eventually: Eventually
) -> None:
    mark = asterisk.mark()
    phone = await phones("1001")
    await phone.dial("601")
    await eventually(lambda: "agent-pass" in asterisk.played("PJSIP/1001", since=mark))
    await phone.press("0123456789*0012#")
    await eventually(lambda: "digits/2" in asterisk.played("PJSIP/1001", since=mark))
    await phone.hangup()
    assert 'pressed=0123456789*0012"' in asterisk.log_since(mark)
    heard = asterisk.prompts("PJSIP/1001", since=mark)
    assert [played.sound for played in heard][:4] == [
        "agent-pass",
        "digits/0",
        "digits/1",
        "digits/2",
    ]
    assert {played.language for played in heard} == {"en"}


def test_clipped_prompts_are_all_there_and_short(equipment: Equipment, tmp_path: Path) -> None:
    short = clipped(equipment.asterisk, tmp_path, seconds=0.2)
    for language, whole in equipment.asterisk.sounds.items():
        names = {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()}
        folder = short.sounds[language]
        assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == names
        assert (folder / "agent-loginok.gsm").stat().st_size == 330
        assert (folder / "silence/1.gsm").stat().st_size > 1600


async def test_the_phone_among_unpacked_packages(
    asterisk: Asterisk, tmp_path: Path, eventually: Eventually
) -> None:
    """The machine's own baresip is taken where there is one; this is what others get."""
    tree = await asyncio.to_thread(debian.unpacked, ["baresip-core"])
    mark = asterisk.mark()
    program, password = in_tree(tree), asterisk.password("1005")
    async with Phone(tmp_path / "5", program, "1005", password, asterisk.sip_port) as phone:
        await phone.dial("601")
        await eventually(lambda: "agent-pass" in asterisk.played("PJSIP/1005", since=mark))
        await phone.press("159#")
        await phone.wait_closed()
        assert 'pressed=159"' in asterisk.log_since(mark)
        with pytest.raises(CallRefused, match="486"):
            await phone.dial("602")
        async with Phone(
            tmp_path / "6", program, "1006", asterisk.password("1006"), asterisk.sip_port
        ) as other:
            await phone.dial("1006")
            call = await other.wait_answered()
            await phone.hangup()
            await asyncio.wait_for(call.closed.wait(), 10)
        unanswered = await phone.start_call("604")
        await phone.hangup()
        assert unanswered.closed.is_set()


async def test_a_french_phone_hears_french(asterisk: Asterisk, phones: MakePhone) -> None:
    mark = asterisk.mark()
    phone = await phones("1002")
    await phone.dial("601")
    await asyncio.sleep(0.2)
    await phone.hangup()
    heard = asterisk.prompts("PJSIP/1002", since=mark)
    assert [(played.sound, played.language) for played in heard] == [("agent-pass", "fr")]


async def test_hung_up_before_anybody_answers(phones: MakePhone, asterisk: Asterisk) -> None:
    """Nothing is told of such a call, not even that it rings."""
    phone = await phones("1001")
    call = await phone.start_call("604")
    assert not call.established.is_set()
    await phone.hangup()
    assert call.closed.is_set()
    again = await phone.dial("600")
    assert again is not call
    assert again.active
    await phone.hangup()


async def test_one_phone_calls_another(asterisk: Asterisk, phones: MakePhone) -> None:
    caller, called = await phones("1001"), await phones("1002")
    await caller.dial("1002")
    call = await called.wait_answered()
    assert call.incoming
    assert "sip:1001@" in call.peer
    assert "2 active channels" in await asterisk.ask("core show channels")
    await caller.hangup()
    await asyncio.wait_for(call.closed.wait(), 10)
    assert called.active is None


async def test_a_phone_that_is_not_answered_rings(phones: MakePhone) -> None:
    caller, called = await phones("1001"), await phones("1002", auto_answer=False)
    await caller.start_call("1002")
    call = await called.wait_ringing()
    assert called.ringing
    assert called.answered == []
    await called.answer()
    assert await called.wait_answered() is call
    await called.hangup()
    await caller.wait_closed()


async def test_a_call_through_a_queue(
    asterisk: Asterisk, phones: MakePhone, eventually: Eventually
) -> None:
    caller, agent = await phones("1001"), await phones("1003")
    await asterisk.ask("queue add member PJSIP/1003 to sales")
    await caller.start_call("701")
    await agent.wait_answered()
    # The phone has answered before Asterisk has heard of it and written it down.
    await eventually(lambda: "|CONNECT|" in asterisk.queue_log_path.read_text())
    await caller.hangup()
    await eventually(lambda: agent.active is None)


def test_queues_are_empty_again_after_such_a_test(asterisk: Asterisk) -> None:
    assert "PJSIP" not in asterisk.cli("queue show")


@pytest.mark.parametrize(("number", "reason"), [("602", "486"), ("999", "404"), ("*99#", "404")])
async def test_refused_calls_say_why(phones: MakePhone, number: str, reason: str) -> None:
    phone = await phones("1001")
    with pytest.raises(CallRefused) as refused:
        await phone.dial(number)
    assert refused.value.reason.startswith(reason)


async def test_wrong_password(asterisk: Asterisk, equipment: Equipment, tmp_path: Path) -> None:
    phone = Phone(tmp_path, equipment.phone, "1001", "wrong", asterisk.sip_port)
    with pytest.raises(PhoneError, match="phone 1001"):
        await phone.plug(within=2)


async def test_unplugged_and_plugged_in_again(phones: MakePhone, asterisk: Asterisk) -> None:
    phone = await phones("1001")
    call = await phone.dial("600")
    await phone.unplug()
    assert call.closed.is_set()
    with pytest.raises(PhoneError):
        await phone.press("1")
    await phone.plug()
    await phone.dial("600")
    await phone.hangup()


async def test_phones_survive_a_restart_of_asterisk(asterisk: Asterisk, phones: MakePhone) -> None:
    caller, called = await phones("1001"), await phones("1002")
    asterisk.kill()
    asterisk.start()
    await asyncio.gather(caller.register(), called.register())
    await caller.dial("1002")
    await called.wait_answered()
    await caller.hangup()


async def test_what_a_phone_hears_can_be_recorded(phones: MakePhone, asterisk: Asterisk) -> None:
    phone = await phones("1001", record=True)
    await phone.dial("601")
    await asyncio.sleep(1)
    await phone.hangup()
    recorded = [path for path in (phone.folder / "heard").iterdir() if path.stat().st_size > 4000]
    assert recorded


def test_the_log_is_read_line_by_line() -> None:
    text = (
        "[2026-01-01 00:00:00.000] VERBOSE[1][C-1] file.c: <PJSIP/1001-00000001> Playing "
        "'agent-loginok.gsm' (language 'en')\n"
        "[2026-01-01 00:00:01.000] VERBOSE[1][C-2] file.c: <Local/1@phones-0;2> Playing "
        "'digits/1.slin' (language 'fr')\n"
    )
    assert parse_log(text) == [
        Played("PJSIP/1001-00000001", "agent-loginok", "en"),
        Played("Local/1@phones-0;2", "digits/1", "fr"),
    ]


def test_other_extensions(equipment: Equipment, tmp_path: Path) -> None:
    many = [Extension(str(number), "secret", "en") for number in range(2001, 2004)]
    with Asterisk(tmp_path, equipment.asterisk, many, {"900": "night"}) as asterisk:
        assert "2003" in asterisk.cli("pjsip show endpoints")
        assert "night" in asterisk.cli("queue show")


@pytest.mark.postgres
@pytest.mark.parametrize("round_", [1, 2])
def test_every_test_has_a_database_of_its_own(postgres_url: str, round_: int) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE once (id int)")


def test_asterisk_dies_with_the_test_run(equipment: Equipment, tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path\n"
        "from fastagi.demo.asterisk import Asterisk; from fastagi.demo.equipment import prepare\n"
        "a = Asterisk(Path(sys.argv[1]), prepare().asterisk); a.start(); print(a.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert told.returncode == -signal.SIGKILL
    pid = int(told.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "Asterisk outlived the process that started it"
        time.sleep(0.05)
