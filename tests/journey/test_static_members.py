"""An admin has members in queues.conf, or in a realtime table, and agents sit at these phones."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import Line, Service, until

FRONT = "member => PJSIP/1001,5,Front desk\n"


def sections(queues: dict[str, str]) -> str:
    """queues.conf: the text behind each queue's name."""
    return "".join(f"[{name}]\nringinuse = no\n{text}\n" for name, text in queues.items())


def members(asterisk: Asterisk, queue: str) -> dict[str, str]:
    """Interface → "7 static", "7 realtime paused:lunch": penalty, kind, pause."""
    found: dict[str, str] = {}
    for line in asterisk.cli(f"queue show {queue}").splitlines():
        match = re.match(r"\s+.*?\((PJSIP/\d+)\)(.*)", line)
        if match is None:
            continue
        interface, rest = match.groups()
        kind = re.search(r"\((dynamic|realtime)\)", rest)
        paused = re.search(r"\((paused\S*) was", rest)
        penalty = re.search(r"with penalty (\d+)", rest)
        words = (penalty[1] if penalty else "0", kind[1] if kind else "static")
        found[interface] = " ".join(words + ((paused[1],) if paused else ()))
    return found


def static_events(service: Service) -> list[tuple[str, list[str], str]]:
    return [(e["agent"], e["queues"], e["reason"]) for e in service.events("queue-static")]


@pytest.fixture
def front_desk(asterisk: Asterisk) -> Asterisk:
    """Phone 1001 stands in queues.conf as a member of support."""
    asterisk.queue_sections = sections({"sales": "", "support": FRONT, "billing": ""})
    asterisk.reload("queues")
    return asterisk


async def test_a_day_at_a_static_phone(front_desk: Asterisk, make_service: Any, desk: Any) -> None:
    asterisk, service = front_desk, make_service(login={"already_elsewhere": "move"})
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    assert members(asterisk, "support") == {"PJSIP/1001": "2 static"}
    assert members(asterisk, "sales") == {"PJSIP/1001": "0 dynamic"}
    assert static_events(service) == [
        ("4001", ["support"], "static member: a log-off can only pause it")
    ]
    assert (await phone.dial("*331")).outcome == "PAUSED"
    assert members(asterisk, "support") == {"PJSIP/1001": "2 static paused:lunch"}
    assert (await phone.dial("*34")).outcome == "UNPAUSED"
    # Leave and join
    assert (await phone.dial("*36702", ("agent-loggedoff", "1"))).outcome == "QUEUE_LEFT"
    assert members(asterisk, "support") == {"PJSIP/1001": "2 static paused:logged-off"}
    await phone.dial("*331")
    assert (await phone.dial("*34")).outcome == "UNPAUSED"
    assert members(asterisk, "support") == {"PJSIP/1001": "2 static paused:logged-off"}
    assert (await phone.dial("*36702")).outcome == "QUEUE_JOINED"
    assert members(asterisk, "support") == {"PJSIP/1001": "2 static"}
    # Move away and back
    other = await desk("1002")
    assert (await other.dial("*314001")).outcome == "MOVED"
    assert members(asterisk, "support") == {
        "PJSIP/1001": "2 static paused:logged-off",
        "PJSIP/1002": "2 dynamic",
    }
    assert (await phone.dial("*314001")).outcome == "MOVED"
    heard = await phone.dial("*32")
    assert (heard.outcome, heard.sounds) == ("LOGGED_OFF", ["agent-loggedoff"])
    assert members(asterisk, "support") == {"PJSIP/1001": "2 static paused:logged-off"}
    assert members(asterisk, "sales") == members(asterisk, "billing") == {}
    assert static_events(service)[-1] == (
        "4001",
        ["support"],
        "static member: paused, not removed",
    )
    said = "static member: it cannot be removed from the queue, and is paused there"
    warning = service.logged(said)[-1]
    assert (warning["agent"], warning["queue"], warning["interface"]) == (
        "4001",
        "support",
        "PJSIP/1001",
    )
    assert "queues.conf" in warning["cure"]
    assert service.agents()["4001"]["status"] == "logged_off"
    # What is compared finds nothing to mend, and nobody is taken for logged in.
    assert await asyncio.to_thread(service.fastagi, "reconcile") == "nothing differed\n"
    assert not [e for e in service.events() if e["source"] == "asterisk"]


async def test_asterisk_restarts_and_forgets_that_it_was_paused(
    front_desk: Asterisk, make_service: Any, desk: Any
) -> None:
    asterisk, service = front_desk, make_service()
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    assert (await phone.dial("*32")).outcome == "LOGGED_OFF"
    line = FRONT + "member => PJSIP/1006,5,Nobody of ours\n"
    asterisk.queue_sections = sections({"sales": "", "support": line, "billing": ""})
    asterisk.kill()
    asterisk.start()
    await until(lambda: "paused" in members(asterisk, "support").get("PJSIP/1001", ""))
    assert members(asterisk, "support") == {
        "PJSIP/1001": "5 static paused:logged-off",
        "PJSIP/1006": "5 static",
    }
    await until(lambda: service.events("repair"))
    assert service.agents()["4001"]["status"] == "logged_off"
    # queues.conf read anew keeps the pause and forgets the reason
    asterisk.queue_sections += "\n"
    asterisk.reload("queues")
    await asyncio.to_thread(service.fastagi, "reconcile")
    assert members(asterisk, "support")["PJSIP/1001"].startswith("5 static paused")


# -- realtime


async def test_a_realtime_member(realtime: Asterisk, tmp_path: Path) -> None:
    folder = tmp_path / "service"
    folder.mkdir()
    service = Service(folder, realtime, ami_port=realtime.ami_port)
    service.configure()

    async def dial(script: str, digits: str = "") -> str:
        line = await Line.to(service.port)
        return await line.call(script, digits, "1001")

    try:
        service.start()
        assert await dial("login", "4001") == "LOGGED_IN"
        assert members(realtime, "support") == {"PJSIP/1001": "2 realtime"}
        assert await dial("pause", "1") == "PAUSED"
        assert await dial("logoff") == "LOGGED_OFF"
        assert members(realtime, "support") == {"PJSIP/1001": "2 realtime paused:logged-off"}
        assert members(realtime, "sales") == members(realtime, "billing") == {}
        assert [queues for _, queues, _ in static_events(service)] == [["support"], ["support"]]
        assert await dial("login", "4001") == "LOGGED_IN"
        assert members(realtime, "support") == {"PJSIP/1001": "2 realtime"}
    finally:
        service.kill()
