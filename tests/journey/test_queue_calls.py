"""Callers and agents: who is rung, who is not, and where."""

from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import Desk, Peer, Service, sample, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pyst2's use of threading


def talking(asterisk: Asterisk) -> list[str]:
    """Who of the sales queue is in a queue call."""
    shown = asterisk.cli("queue show sales").splitlines()
    return [line.split("(")[1].split(")")[0] for line in shown if "(in call)" in line]


async def test_a_call_reaches_who_is_there_and_not_who_pauses(
    service: Service, desk: Any, asterisk: Any
) -> None:
    anna: Desk = await desk("1001", auto_answer=False)
    bob: Desk = await desk("1003", auto_answer=False)
    caller: Desk = await desk("1005")
    second: Desk = await desk("1006")
    await anna.dial("*314001")
    await bob.dial("*314002")

    caller.call("701")
    await bob.phone.wait_ringing()
    await anna.takes()
    await until(lambda: not bob.phone.ringing)
    second.call("701")  # anna talks: only bob's phone rings
    await bob.takes()
    assert not anna.phone.ringing
    await until(lambda: len(talking(asterisk)) == 2)
    await second.phone.hangup()
    await caller.phone.hangup()
    await until(lambda: not talking(asterisk))

    assert (await anna.dial("*331")).outcome == "PAUSED"
    rung = anna.rung
    caller.call("701")
    await bob.takes(2)
    assert anna.rung == rung
    await until(lambda: talking(asterisk) == ["PJSIP/1003"])
    await caller.phone.hangup()
    await until(lambda: not talking(asterisk))

    # one is back, the other off: the next call is the first one's
    assert (await anna.dial("*34")).outcome == "UNPAUSED"
    assert (await bob.dial("*32")).outcome == "LOGGED_OFF"
    rung = bob.rung
    caller.call("701")
    await anna.takes(2)
    assert bob.rung == rung
    service.agrees()

    told = [(e["type"], e["agent"], e["extension"], e["reason"]) for e in service.events()]
    assert told == [
        ("agent-login", "4001", "1001", ""),
        ("agent-login", "4002", "1003", ""),
        ("agent-pause", "4001", "1001", "lunch"),
        ("agent-unpause", "4001", "1001", "lunch"),
        ("agent-logout", "4002", "1003", ""),
    ]
    assert {event["source"] for event in service.events()} == {"phone"}
    shown = service.fastagi("events")
    assert len([line for line in shown.splitlines() if "by phone PJSIP/" in line]) == len(told)


async def test_who_moves_in_a_pause_stays_paused_all_the_way(
    service: Service, desk: Any, asterisk: Any, peer: Peer
) -> None:
    old, new = await desk("1001"), await desk("1003")
    await old.dial("*314001")
    await old.dial("*36703", ("agent-loggedoff", "1"))  # billing left
    await old.dial("*331")
    peer.heard.clear()
    heard = await new.dial("*314001", ("pbx-transfer", "1"))
    assert (heard.outcome, heard.extension, heard.reason) == ("MOVED", "1003", "lunch")
    assert service.members() == {
        "sales": {"PJSIP/1003 paused:lunch"},
        "support": {"PJSIP/1003 paused:lunch"},
        "billing": set(),
    }
    assert "with penalty 2" in asterisk.cli("queue show support")
    service.agrees()
    # No call slips through: at no moment was anybody there who was not paused.
    await until(lambda: len(peer.named("QueueMemberRemoved")) == 2)
    added = peer.named("QueueMemberAdded")
    assert [(m["Interface"], m["Paused"], m["PausedReason"]) for m in added] == [
        ("PJSIP/1003", "1", "lunch")
    ] * 2
    assert not [m for m in peer.named("QueueMemberPause") if m["Paused"] == "0"]
    # The new place before the old one: at no moment in fewer queues.
    changes = ("QueueMemberAdded", "QueueMemberRemoved")
    order = [told["Event"] for told in peer.heard if told.get("Event") in changes]
    assert order == ["QueueMemberAdded"] * 2 + ["QueueMemberRemoved"] * 2

    # A queue joined meanwhile is joined paused, too, and back from the pause all are back.
    await new.dial("*36703")
    assert service.members()["billing"] == {"PJSIP/1003 paused:lunch"}
    await new.dial("*34")
    assert service.members()["billing"] == {"PJSIP/1003"}
    pauses = service.events("agent-pause", "agent-unpause")
    assert [(e["type"], e["extension"]) for e in pauses] == [
        ("agent-pause", "1001"),
        ("agent-unpause", "1003"),
    ]


async def test_a_moved_agent_is_rung_at_the_new_place(service: Service, desk: Any) -> None:
    old, new, caller = await desk("1001"), await desk("1003"), await desk("1005")
    await old.dial("*314001")
    await new.dial("*314001", ("pbx-transfer", "1"))
    await caller.phone.dial("701")
    await new.phone.wait_answered()
    assert not old.phone.answered


async def test_a_remote_agent_gets_a_queue_call(
    make_service: Any, desk: Any, asterisk: Any
) -> None:
    agents = sample()["agents"]
    agents[0] |= {"pin": "4321", "outside": ["0555123"]}
    service = make_service(agents=agents)
    phone, caller = await desk("1001"), await desk("1003")
    heard = await phone.dial("*314001*0555123", ("agent-pass", "4321#"))
    assert (heard.outcome, heard.extension) == ("LOGGED_IN", "0555123")
    assert service.members()["sales"] == {"Local/0555123@outbound/n"}
    await caller.phone.dial("701")
    await until(lambda: talking(asterisk) == ["Local/0555123@outbound/n"])
    assert "!outbound!0555123!" in asterisk.cli("core show channels concise")
    await caller.phone.hangup()
    # The phone it was dialled at is free for somebody else.
    assert (await phone.dial("*34")).outcome == "NOT_LOGGED_IN"
    assert (await phone.dial("*314002")).outcome == "LOGGED_IN"
    assert (await phone.dial("*324001", ("agent-pass", "4321#"))).outcome == "LOGGED_OFF"
    assert service.members()["sales"] == {"PJSIP/1001"}


async def test_logoff_in_a_call_on_ones_own_phone(make_service: Any, desk: Any) -> None:
    """At once, where the admin wants it so: the call goes on, the next one does not come."""
    service = make_service(login={"logoff_in_call": "allow"})
    agent, caller = await desk("1001"), await desk("1003")
    await agent.dial("*314001")
    call = await caller.phone.dial("701")
    await agent.phone.wait_answered()
    assert (await agent.dial("*32")).outcome == "LOGGED_OFF"
    assert service.members()["sales"] == set()
    assert call.active
