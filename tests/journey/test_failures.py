"""Processes die at the worst moment: no lie is told, and afterwards both sides agree."""

import asyncio
import os
import signal
from typing import Any

import pytest

from fastagi.agi.prompts import PLEASE_WAIT
from tests.journey.parts import Peer, Service, Wire, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pyst2's use of threading

SORRY = ["tt-somethingwrong", "please-try-again"]

# what was before, the code, the action that is under way, and how it is settled: what brings an
# agent into reach of calls is taken back, what takes one out of reach is finished
CHANGES = {
    "login": ((), "*314001", "QueueAdd", set(), "login-refused"),
    "logoff": (("*314001",), "*32", "QueueRemove", set(), "agent-logout"),
    "pause": (("*314001",), "*331", "QueuePause", {"PJSIP/1001 paused:lunch"}, "agent-pause"),
    "unpause": (
        ("*314001", "*331"),
        "*34",
        "QueuePause",
        {"PJSIP/1001 paused:lunch"},
        "agent-pause",
    ),
}


def settled(service: Service, sales: set[str], last: str) -> bool:
    return (
        service.members() == service.meant()
        and service.members()["sales"] == sales
        and [e["type"] for e in service.events() if e["type"] != "repair"][-1:] == [last]
    )


@pytest.mark.parametrize("held", ["requests", "answers"])
@pytest.mark.parametrize("change", CHANGES)
async def test_the_service_is_killed_in_the_middle(
    change: str, held: str, make_service: Any, wire: Wire, desk: Any
) -> None:
    """kill -9 before Asterisk was told, or after it was and before the service knows."""
    before, code, action, sales, last = CHANGES[change]
    service = make_service(wire=wire)
    phone = await desk("1001")
    for dialled in before:
        await phone.dial(dialled)
    getattr(wire, f"hold_{held}")(action)
    conversation = await phone.lift(code)
    await until(lambda: wire.holds)
    service.kill()
    heard = await conversation.end()
    assert (heard.sounds, heard.outcome) == (SORRY, ""), "the dialplan's own way out"
    wire.cut()
    wire.mend()
    service.start()
    await until(lambda: settled(service, sales, last))
    events = service.events()
    assert {event["source"] for event in events} == {"phone"}
    assert len({event["id"] for event in events}) == len(events)
    assert (await phone.dial("*34")).outcome in ("NOT_LOGGED_IN", "UNPAUSED", "NOT_PAUSED")
    if change == "login":
        assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    service.agrees()


@pytest.mark.parametrize("held", ["requests", "answers"])
@pytest.mark.parametrize("change", ["login", "logoff", "pause"])
async def test_asterisk_is_killed_in_the_middle(
    change: str, held: str, make_service: Any, wire: Wire, desk: Any, asterisk: Any
) -> None:
    before, code, action, sales, last = CHANGES[change]
    service = make_service(wire=wire)
    phone = await desk("1001")
    for dialled in before:
        await phone.dial(dialled)
    getattr(wire, f"hold_{held}")(action)
    await phone.lift(code)
    await until(lambda: wire.holds)
    asterisk.kill()
    wire.cut()
    wire.mend()
    asterisk.start()
    await until(lambda: settled(service, sales, last), within=40)
    await phone.phone.register()
    if change == "login":
        assert service.events("agent-login") == [], "nothing is stored that was not so"
        assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    else:
        assert (await phone.dial("*35")).outcome in ("STATUS_TOLD", "NOT_LOGGED_IN")
    service.agrees()


async def test_asterisk_answers_before_it_has_queues(
    make_service: Any, wire: Wire, desk: Any, asterisk: Any
) -> None:
    """As it does for a moment while it starts: a log-off that was under way is not taken back."""
    service = make_service(wire=wire)
    phone = await desk("1001")
    await phone.dial("*314001")
    wire.hold_requests("QueueRemove")
    await phone.lift("*32")
    await until(lambda: wire.holds)
    asterisk.cli("module unload app_queue.so")
    try:
        wire.cut()
        wire.mend()
        await until(lambda: service.logged("not everything could be settled yet"))
        with_another = await desk("1003")
        assert (await with_another.dial("*314002")).outcome == "UNAVAILABLE"
    finally:
        asterisk.cli("module load app_queue.so")
    await until(lambda: service.events("agent-logout") and service.events("login-refused"))
    service.agrees()
    assert service.members()["sales"] == set()


async def test_asterisk_is_killed_in_a_storm_of_logins(
    make_service: Any, asterisk: Any, peer: Peer
) -> None:
    """Some were told "logged in", some were under way, some had not begun."""
    agents = [
        {"number": str(5000 + n), "name": f"Agent {n}", "queues": ["sales", "support", "billing"]}
        for n in range(60)
    ]
    service = make_service(agents=agents)
    mark = asterisk.mark()
    for n in range(60):
        peer.originate(f"Local/*31{5000 + n}*10{n:02}@phones/n")
    await until(lambda: len(service.logged("call")) >= 20)
    asterisk.kill()
    told = {
        line.split("AGENT_NUMBER=")[1].split(",")[0]
        for line in asterisk.log_since(mark).splitlines()
        if "AGENT_STATUS=LOGGED_IN" in line
    }
    assert told
    asterisk.start()
    await until(lambda: service.members() == service.meant(), within=40)
    there = {n for n, agent in service.agents().items() if agent["status"] == "available"}
    assert told <= there, "who was told so is logged in"
    assert len(service.members()["sales"]) == len(there)
    stored = [event["agent"] for event in service.events("agent-login")]
    assert sorted(stored) == sorted(there), "each once"


async def test_asterisk_restarts_and_finds_everything_as_it_was(
    service: Service, desk: Any, asterisk: Any
) -> None:
    phone = await desk("1001")
    await phone.dial("*314001")
    await phone.dial("*331")
    events = service.events()
    asterisk.kill()
    asterisk.start()
    await until(lambda: service.members()["billing"] == {"PJSIP/1001 paused:lunch"})
    service.agrees()
    assert "with penalty 2" in asterisk.cli("queue show support")
    told = [event for event in service.events() if event["type"] != "repair"]
    assert told == events, "nobody did anything"
    await phone.phone.register()
    assert (await phone.dial("*34")).outcome == "UNPAUSED"
    assert service.members()["billing"] == {"PJSIP/1001"}


@pytest.mark.parametrize("change", ["login", "pause"])
async def test_asterisk_does_not_answer(
    change: str, make_service: Any, wire: Wire, desk: Any
) -> None:
    """The manager port is silent for longer than the service waits: "try again", and that is
    the truth: what Asterisk has done meanwhile is settled."""
    before, code, action, sales, last = CHANGES[change]
    service = make_service(wire=wire, asterisk={"timeout": "1s"})
    phone = await desk("1001")
    for dialled in before:
        await phone.dial(dialled)
    wire.hold_answers(action)
    heard = await phone.dial(code)
    # The limit and the "please wait" are both a second.
    sounds = [sound for sound in heard.sounds if sound != PLEASE_WAIT]
    assert (sounds, heard.outcome) == (SORRY, "UNAVAILABLE")
    wire.release()
    await until(lambda: settled(service, sales, last))
    assert (await phone.dial("*32")).outcome in ("LOGGED_OFF", "NOT_LOGGED_IN")
    service.agrees()


async def test_asterisk_is_frozen_for_a_while(make_service: Any, desk: Any, asterisk: Any) -> None:
    """SIGSTOP: nothing moves, the service included; then everything goes on."""
    service = make_service(asterisk={"timeout": "1s"})
    phone = await desk("1001")
    conversation = await phone.lift("*31")
    await conversation.hears("agent-user")
    os.kill(asterisk.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(1.5)
        service.kill()
        service.spawn()
        await asyncio.sleep(1)
    finally:
        os.kill(asterisk.pid, signal.SIGCONT)
    heard = await conversation.end()
    assert heard.outcome == ""
    assert heard.sounds[-2:] == SORRY
    await until(lambda: service.logged("connected to Asterisk's manager interface"))
    await until(lambda: len(service.logged("connected to Asterisk's manager interface")) >= 2)
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    service.agrees()


async def test_the_service_is_killed_between_calls(service: Service, desk: Any) -> None:
    phone = await desk("1001")
    await phone.dial("*314001")
    await phone.dial("*331")
    service.kill()
    service.start()
    service.agrees()
    heard = await phone.dial("*35")
    assert (heard.outcome, heard.reason) == ("STATUS_TOLD", "lunch")
    assert len(service.events()) == 2
