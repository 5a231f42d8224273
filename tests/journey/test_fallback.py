"""The service is away: what still works on a real phone, and what is left for it to find."""

import re
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import fastagi
from fastagi import config
from fastagi.agents.notes import Note
from fastagi.contract import Script
from fastagi.demo import fallback
from fastagi.demo.asterisk import Asterisk
from fastagi.dialplan import render_fallback_facts
from tests.journey.parts import Heard, Service, until

pytestmark = pytest.mark.asterisk

SORRY = ["tt-somethingwrong", "please-try-again"]
IN_SALES = {"PJSIP/1001"}
MakeService = Callable[..., Service]


@pytest.fixture
def with_fallback(make_service: MakeService, tmp_path: Path, asterisk: Asterisk) -> Iterator[Any]:
    """A service like ``make_service``'s whose dialplan has the fallback."""
    asterisk.cli("database deltree fastagi")

    def make(**changes: Any) -> Service:
        service = make_service(fastagi={"fallback": fallback.settings(tmp_path)}, **changes)
        fallback.install(tmp_path, render_fallback_facts(config.load(service.config)))
        return service

    yield make
    asterisk.cli("database deltree fastagi")


def away(service: Service) -> None:
    service.signal(signal.SIGTERM)
    assert service.process is not None
    service.process.wait(40)
    service.process = None


def notes(asterisk: Asterisk) -> list[Note]:
    """Those in Asterisk's database, the oldest first."""
    shown = asterisk.cli("database show fastagi")
    return [
        Note.parse(found[1], found[2].strip())
        for found in re.finditer(r"^/fastagi/(\S+)\s*: ?(.*)", shown, re.MULTILINE)
    ]


def told(heard: Heard) -> tuple[str, str, str, str]:
    return heard.outcome, heard.agent, heard.extension, heard.reason


async def test_a_day_without_the_service(with_fallback: Any, desk: Any, asterisk: Asterisk) -> None:
    service = with_fallback()
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    away(service)

    heard = await phone.dial("*331")
    assert told(heard) == ("PAUSED", "", "1001", "lunch")
    assert heard.sounds == ["dictate/paused", "digits/1"]
    assert service.members()["sales"] == {"PJSIP/1001 paused:lunch"}
    assert service.members()["support"] == {"PJSIP/1001 paused:lunch"}

    heard = await phone.dial("*34")
    assert told(heard) == ("UNPAUSED", "", "1001", "")
    assert service.members()["sales"] == IN_SALES
    assert (await phone.dial("*34")).outcome == "NOT_PAUSED"

    assert (await phone.dial("*392")).outcome == "PAUSED"
    assert service.members()["sales"] == {"PJSIP/1001 paused:break"}
    assert (await phone.dial("*39")).outcome == "UNPAUSED"

    heard = await phone.dial("*32")
    assert told(heard) == ("LOGGED_OFF", "", "1001", "")
    assert heard.sounds == ["agent-loggedoff"]
    assert not any(service.members().values())

    for code in ("*331", "*34", "*39", "*32"):
        heard = await phone.dial(code)
        assert told(heard) == ("NOT_LOGGED_IN", "", "1001", "")
        assert heard.sounds == ["beeperr", "vm-no", "spy-agent", "vm-goodbye"]

    left = notes(asterisk)
    assert [(note.script, note.reason) for note in left] == [
        (Script.PAUSE, "1"),
        (Script.UNPAUSE, ""),
        (Script.PAUSE, "2"),
        (Script.UNPAUSE, ""),
        (Script.LOGOFF, ""),
    ]
    assert {note.interface for note in left} == {"PJSIP/1001"}
    assert {note.caller_id for note in left} == {"1001"}
    assert all(note.channel.startswith("PJSIP/1001-") for note in left)
    assert [note.at for note in left] == sorted(note.at for note in left)


@pytest.mark.parametrize("code", ["*31", "*314001", "*35", "*36701", "*30", "*324002"])
async def test_what_only_the_service_can_do_says_try_again(
    code: str, with_fallback: Any, desk: Any, asterisk: Asterisk
) -> None:
    service = with_fallback()
    away(service)
    heard = await (await desk("1002")).dial(code)
    assert (heard.outcome, heard.sounds) == ("UNAVAILABLE", SORRY)
    assert notes(asterisk) == []


async def test_one_key_logs_off(with_fallback: Any, desk: Any, asterisk: Asterisk) -> None:
    service = with_fallback()
    phone = await desk("1001")
    await phone.dial("*304001")
    away(service)
    assert (await phone.dial("*30")).outcome == "LOGGED_OFF"
    assert not any(service.members().values())
    assert [note.script for note in notes(asterisk)] == [Script.LOGOFF]


async def test_the_menu_asks_for_the_reason(
    with_fallback: Any, desk: Any, asterisk: Asterisk
) -> None:
    service = with_fallback()
    phone = await desk("1001")
    await phone.dial("*314001")
    away(service)
    heard = await phone.dial("*33", ("vm-press", "3"))
    assert told(heard) == ("PAUSED", "", "1001", "meeting")
    heard = await phone.dial("*339", ("conf-errormenu", "2"))
    assert told(heard) == ("PAUSE_REASON_CHANGED", "", "1001", "break")
    assert service.members()["sales"] == {"PJSIP/1001 paused:break"}


async def test_paused_for_this_reason_already(
    with_fallback: Any, desk: Any, asterisk: Asterisk
) -> None:
    service = with_fallback()
    phone = await desk("1001")
    await phone.dial("*314001")
    await phone.dial("*331")
    before = service.events()
    away(service)
    heard = await phone.dial("*331")
    assert told(heard) == ("ALREADY_PAUSED", "", "1001", "lunch")
    assert heard.sounds == [
        "spy-agent",
        *(f"digits/{d}" for d in "4001"),
        "dictate/paused",
        "digits/1",
    ]
    assert notes(asterisk) == []
    service.start()
    assert (await phone.dial("*331")).outcome == "ALREADY_PAUSED"
    assert service.events() == before


async def test_a_static_member_stays_off(with_fallback: Any, desk: Any, asterisk: Asterisk) -> None:
    """Neither *34 nor *33 wakes the phone of a logged-off agent whom queues.conf keeps there."""
    asterisk.queue_sections = "".join(
        f"[{queue}]\nringinuse = no\n{line}"
        for queue, line in (("sales", ""), ("support", "member => PJSIP/1001,5,Front desk\n"))
    )
    asterisk.reload("queues")
    service = with_fallback()
    phone = await desk("1001")
    await phone.dial("*314001")
    await phone.dial("*32")
    away(service)
    off = asterisk.cli("queue show support")
    assert "(paused:logged-off was" in off
    for code in ("*34", "*331", "*32", "*391"):
        assert told(await phone.dial(code)) == ("NOT_LOGGED_IN", "", "1001", "")
    assert (await phone.dial("*30")).outcome == "UNAVAILABLE"
    assert "(paused:logged-off was" in asterisk.cli("queue show support")
    # Logged in, but out of that queue
    service.start()
    await phone.dial("*314001")
    await phone.dial("*36702", ("agent-loggedoff", "1"))
    away(service)
    for code, outcome in (("*34", "NOT_PAUSED"), ("*331", "PAUSED"), ("*34", "UNPAUSED")):
        assert (await phone.dial(code)).outcome == outcome
        assert "(paused:logged-off was" in asterisk.cli("queue show support")
    assert service.members()["sales"] == IN_SALES
    assert (await phone.dial("*32")).outcome == "LOGGED_OFF"
    assert "(paused:logged-off was" in asterisk.cli("queue show support")
    assert service.members()["sales"] == set()


async def test_who_hangs_up_at_the_menu_changes_nothing(
    with_fallback: Any, desk: Any, asterisk: Asterisk
) -> None:
    service = with_fallback()
    phone = await desk("1001")
    await phone.dial("*314001")
    away(service)
    conversation = await phone.lift("*33")
    await conversation.hears("vm-press")
    await conversation.hang_up()
    assert service.members()["sales"] == IN_SALES
    assert notes(asterisk) == []


# The fallback, but waiting for the caller to hang up between the note and the change.
_SLOW = """#!/bin/sh
PYTHONPATH={path} exec {python} -c '
import time, fastagi.fallback as f
put = f.Phone.database_put
def slow(self, *note):
    put(self, *note)
    while not self.gone:
        time.sleep(0.01)
f.Phone.database_put = slow
f.main()
' "$@"
"""


@pytest.mark.parametrize("code", ["*331", "*32"])
async def test_what_has_begun_is_finished_though_the_caller_hangs_up(
    code: str, with_fallback: Any, desk: Any, tmp_path: Path, asterisk: Asterisk
) -> None:
    service = with_fallback()
    phone = await desk("1001")
    await phone.dial("*314001")
    away(service)
    script = _SLOW.format(path=Path(fastagi.__file__).parents[1], python=sys.executable)
    (tmp_path / fallback.COMMAND).write_text(script)
    conversation = await phone.lift(code)
    await until(lambda: notes(asterisk))
    assert service.members()["sales"] == IN_SALES, "not changed yet"
    heard = await conversation.hang_up()
    assert heard.sounds == []
    after = {"PJSIP/1001 paused:lunch"} if code == "*331" else set()
    await until(lambda: service.members()["sales"] == service.members()["support"] == after)
    assert len(notes(asterisk)) == 1


async def test_names_that_applications_would_split_or_unquote(
    with_fallback: Any, desk: Any, asterisk: Asterisk
) -> None:
    name = r'a "b" \c (d [e'
    service = with_fallback(pause_reasons=[{"code": "1", "name": name}])
    phone = await desk("1001")
    await phone.dial("*314001")
    await phone.dial("*331")
    by_service = asterisk.cli("queue show sales")
    await phone.dial("*34")
    away(service)
    await phone.dial("*331")
    by_fallback = asterisk.cli("queue show sales")
    assert f"paused:{name}" in by_service
    assert f"paused:{name}" in by_fallback


async def test_a_fallback_that_is_not_there_is_not_silence(
    with_fallback: Any, desk: Any, tmp_path: Path, asterisk: Asterisk
) -> None:
    service = with_fallback()
    phone = await desk("1001")
    await phone.dial("*314001")
    away(service)
    for break_it in (
        lambda: (tmp_path / fallback.FACTS).write_text("{}"),
        lambda: (tmp_path / fallback.FACTS).unlink(),
        lambda: (tmp_path / fallback.COMMAND).unlink(),
    ):
        break_it()
        heard = await phone.dial("*331")
        assert (heard.outcome, heard.sounds) == ("", SORRY)
    assert service.members()["sales"] == IN_SALES
    assert notes(asterisk) == []


async def test_sounds_of_the_admin_s_own(with_fallback: Any, desk: Any) -> None:
    service = with_fallback(prompts={"PAUSED": ["beep", "custom/is-not-there"]})
    phone = await desk("1001")
    await phone.dial("*314001")
    away(service)
    heard = await phone.dial("*331")
    assert (heard.outcome, heard.sounds) == ("PAUSED", ["beep", "beeperr"])


async def test_a_queue_with_more_members_than_asterisk_lists(
    with_fallback: Any, desk: Any, asterisk: Asterisk
) -> None:
    """QUEUE_MEMBER_LIST is cut at 1,023 characters: who is not in it may be in the queue."""
    service = with_fallback()
    agents = [await desk("1001"), await desk("1003"), await desk("1002")]
    for number, phone in enumerate(agents[:2], 1):
        await phone.dial(f"*31400{number}")
    for n in range(150):
        asterisk.cli(f"queue add member Local/{n:06}@nowhere to sales")
    away(service)
    assert (await agents[0].dial("*34")).outcome == "NOT_PAUSED"
    assert (await agents[0].dial("*391")).outcome == "PAUSED"
    assert (await agents[0].dial("*39")).outcome == "UNPAUSED"
    assert (await agents[1].dial("*32")).outcome == "LOGGED_OFF"
    for code in ("*331", "*34", "*32"):
        assert (await agents[2].dial(code)).outcome == "NOT_LOGGED_IN"
    assert {note.interface for note in notes(asterisk)} == {"PJSIP/1001", "PJSIP/1003"}


async def test_the_service_is_back(with_fallback: Any, desk: Any, asterisk: Asterisk) -> None:
    """What was dialled without it is in its events as if it had been there."""
    service = with_fallback()
    phone, other = await desk("1001"), await desk("1003")
    await phone.dial("*314001")
    await other.dial("*314002")
    before = len(service.events())
    away(service)
    for code in ("*331", "*34", "*32"):
        await phone.dial(code)
    await other.dial("*332")
    left = notes(asterisk)
    assert len(left) == 4
    service.start()
    await until(lambda: len(service.events()) >= before + 4)
    await until(lambda: notes_left(asterisk) == [])
    found = service.events()[before:]
    assert [(event["type"], event["agent"], event["reason"]) for event in found] == [
        ("agent-pause", "4001", "lunch"),
        ("agent-unpause", "4001", "lunch"),
        ("agent-logout", "4001", ""),
        ("agent-pause", "4002", "break"),
    ]
    assert {event["source"] for event in found} == {"phone"}
    told = [datetime.fromisoformat(event["occurred_at"]) for event in found]
    assert [at.timestamp() for at in told] == pytest.approx(
        [note.at.timestamp() for note in left], abs=0.001
    )
    assert [event["actor"]["channel"] for event in found] == [note.channel for note in left]
    assert service.agents()["4001"]["status"] == "logged_off"
    assert service.agents()["4002"]["status"] == "paused"
    service.agrees()


def notes_left(asterisk: Asterisk) -> list[str]:
    """Keys of those that are not taken yet."""
    shown = asterisk.cli("database show fastagi")
    return re.findall(r"^/fastagi/(\S+)\s*: ?\S", shown, re.MULTILINE)
