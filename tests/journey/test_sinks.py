"""What others hear of it: manager clients, queue_log, lamps, the events command."""

import asyncio
import re
import time
from typing import Any

import pytest

from fastagi import config
from fastagi.contract import USER_EVENT_KEYS
from fastagi.dialplan import render_manager
from tests.journey.parts import Peer, Service, Wire, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pyst2's use of threading


def rows(asterisk: Any, since: str, agent: str) -> list[str]:
    """The agent's new rows of queue_log: queue, event and columns."""
    text = asterisk.queue_log_path.read_text().removeprefix(since)
    found = []
    for line in text.splitlines():
        _, _, queue, who, event, *columns = line.split("|")
        if who == f"Agent/{agent}":
            found.append("|".join([queue, event, *columns]).rstrip("|"))
    return found


def lamps(asterisk: Any, agent: str) -> dict[str, str]:
    states = dict(re.findall(r"Name: '([^']*)'\s+State: '([^']*)'", asterisk.cli("devstate list")))
    return {kind: states.get(f"Custom:{kind}-{agent}", "") for kind in ("agent", "pause")}


async def test_a_day_as_others_hear_it(
    service: Service, desk: Any, asterisk: Any, peer: Peer
) -> None:
    before = asterisk.queue_log_path.read_text()
    phone = await desk("1001")
    await phone.dial("*314001")
    await until(lambda: lamps(asterisk, "4001")["agent"] == "INUSE")
    await phone.dial("*331")
    await until(lambda: lamps(asterisk, "4001") == {"agent": "INUSE", "pause": "INUSE"})
    await phone.dial("*333")
    await phone.dial("*34")
    await until(lambda: lamps(asterisk, "4001") == {"agent": "INUSE", "pause": "NOT_INUSE"})
    await phone.dial("*36703", ("agent-loggedoff", "1"))
    await phone.dial("*36703")
    other = await desk("1003")
    await other.dial("*314001", ("pbx-transfer", "1"))
    await other.dial("*32")
    await until(lambda: lamps(asterisk, "4001") == {"agent": "NOT_INUSE", "pause": "NOT_INUSE"})
    await phone.dial("*319999", ("agent-incorrect", "#"), ("agent-incorrect", "#"))

    stored = service.events()
    await until(lambda: len(peer.facts()) == len(stored))
    own = ("Type", "Agent", "Extension", "Queues", "Reason", "Source", "EventId", "OccurredAt")
    assert own == USER_EVENT_KEYS
    for said, event in zip(peer.facts(), stored, strict=True):
        assert [said[key] for key in own[:7]] == [
            event["type"],
            event["agent"],
            event["extension"],
            ",".join(event["queues"]),
            event["reason"],
            "phone",
            event["id"],
        ]
        assert said["OccurredAt"] == event["occurred_at"]
    assert [(event["type"], event["reason"]) for event in stored] == [
        ("agent-login", ""),
        ("agent-pause", "lunch"),
        ("agent-pause", "meeting"),
        ("agent-unpause", "meeting"),
        ("queue-leave", ""),
        ("queue-join", ""),
        ("agent-logout", "moved"),
        ("agent-login", "moved"),
        ("agent-logout", ""),
        ("login-refused", "NO_SUCH_AGENT"),
    ]

    def written() -> list[str]:
        return rows(asterisk, before, "4001")

    await until(lambda: sum("LOGOFF" in row for row in written()) == 2)
    callbacks = [re.sub(r"\|\d+(?=\||$)", "|N", row) for row in written() if "CALLBACK" in row]
    assert callbacks == [
        "NONE|AGENTCALLBACKLOGIN|1001@phones",
        "NONE|AGENTCALLBACKLOGOFF|1001@phones|N|moved",
        "NONE|AGENTCALLBACKLOGIN|1003@phones",
        "NONE|AGENTCALLBACKLOGOFF|1003@phones|N",
    ]
    for queue in ("sales", "support", "billing"):
        pauses = [row for row in written() if row.startswith(f"{queue}|") and "PAUSE" in row]
        assert pauses[:3] == [f"{queue}|PAUSE|lunch", f"{queue}|PAUSE|meeting", f"{queue}|UNPAUSE"]


async def test_hints_show_it(service: Service, desk: Any, asterisk: Any) -> None:
    """A phone that watches agent-4001, pause-4001 or *304001 sees the lamp."""
    phone = await desk("1001")

    # A pattern's hint comes to be when somebody asks for it: here as a phone's key would.
    asterisk.features += (
        "\n[phones](+)\nexten => 620,1,NoOp(lamp=${EXTENSION_STATE(agent-4001@phones)}"
        "/${EXTENSION_STATE(pause-4001@phones)}/${EXTENSION_STATE(*304001@phones)})\n"
    )
    asterisk.reload("dialplan")

    async def seen() -> str:
        mark = asterisk.mark()
        phone.call("620")
        await until(lambda: "lamp=" in asterisk.log_since(mark))
        return re.search(r'lamp=([^"]*)"', asterisk.log_since(mark))[1]  # type: ignore[index]

    async def becomes(expected: str) -> None:
        last = ""
        for _ in range(40):
            last = await seen()
            if last == expected:
                return
        assert last == expected

    await phone.dial("*314001")
    await becomes("INUSE/NOT_INUSE/INUSE")
    await phone.dial("*331")
    await becomes("INUSE/INUSE/INUSE")
    await phone.dial("*32")
    await becomes("NOT_INUSE/NOT_INUSE/NOT_INUSE")


async def test_an_outage_of_the_manager_link(
    make_service: Any, desk: Any, asterisk: Any, wire: Wire, peer: Peer
) -> None:
    """What could not be told meanwhile is told later, in order."""
    service = make_service(wire=wire)
    phone = await desk("1001")
    await phone.dial("*314001")
    await until(lambda: len(peer.facts()) == 1)
    wire.cut()
    await until(lambda: service.logged("manager link lost"))
    other = await desk("1003")
    assert (await phone.dial("*331")).outcome == "UNAVAILABLE"
    assert (await phone.dial("*32")).outcome == "UNAVAILABLE"
    assert (await phone.dial("*35")).outcome == "STATUS_TOLD", "reading goes on"
    for dialled in ("*314002", "*314004", "*314002"):
        assert (await other.dial(dialled)).outcome == "UNAVAILABLE"
    service.agrees()
    assert len(peer.facts()) == 1
    wire.mend()
    await until(lambda: len(peer.facts()) == 4)
    assert [(f["Type"], f["Agent"], f["Reason"]) for f in peer.facts()[1:]] == [
        ("login-refused", "4002", "UNAVAILABLE"),
        ("login-refused", "4004", "UNAVAILABLE"),
        ("login-refused", "4002", "UNAVAILABLE"),
    ]
    assert (await phone.dial("*331")).outcome == "PAUSED"
    service.agrees()


async def test_without_the_right_it_waits_and_is_told_in_order(
    make_service: Any, desk: Any, asterisk: Any, wire: Wire, peer: Peer
) -> None:
    """The manager user may not send UserEvents: agents log in all the same; when the admin has
    mended that, all is told in order."""
    service = make_service(wire=wire)
    right = asterisk.manager_sections
    asterisk.manager_sections = right.replace(
        "write = agent,user,call,reporting", "write = agent,reporting"
    )
    assert asterisk.manager_sections != right
    asterisk.reload("manager")
    wire.cut()
    wire.mend()
    await until(lambda: len(service.logged("manager link is up")) == 2)
    phone = await desk("1001")
    for code, outcome in (
        ("*314001", "LOGGED_IN"),
        ("*331", "PAUSED"),
        ("*34", "UNPAUSED"),
        ("*32", "LOGGED_OFF"),
    ):
        assert (await phone.dial(code)).outcome == outcome
    assert peer.facts() == []
    asterisk.manager_sections = right
    asterisk.reload("manager")
    wire.cut()
    wire.mend()
    await until(lambda: len(peer.facts()) >= 4, within=60)
    types = [fact["Type"] for fact in peer.facts()]
    assert types == ["agent-login", "agent-pause", "agent-unpause", "agent-logout"]
    await until(lambda: lamps(asterisk, "4001") == {"agent": "NOT_INUSE", "pause": "NOT_INUSE"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("read = agent\n", "read =\n"),
        ("read = agent\n", "read = agent\neventfilter = !Event: QueueMember.*\n"),
    ],
    ids=["no class", "a filter"],
)
async def test_a_manager_user_that_hears_nothing_is_told(
    make_service: Any, desk: Any, asterisk: Any, wire: Wire, old: str, new: str
) -> None:
    """The echoes of the service's own changes never come. Codes go on as ever."""
    service = make_service(wire=wire)
    right = asterisk.manager_sections
    asterisk.manager_sections = right.replace(old, new)
    assert asterisk.manager_sections != right
    asterisk.reload("manager")
    wire.cut()
    wire.mend()
    await until(lambda: len(service.logged("manager link is up")) == 2)
    phone = await desk("1001")
    deadline = time.monotonic() + 100
    while not (said := service.logged("Asterisk sends no queue events")):
        assert time.monotonic() < deadline
        assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
        assert (await phone.dial("*32")).outcome == "LOGGED_OFF"
    assert len(said) == 1
    assert "read = agent" in str(said)


async def test_a_phone_that_the_queue_does_not_ring_is_told(make_service: Any, desk: Any) -> None:
    """A hint's context with a typo: Asterisk takes the member, and never rings it."""
    service = make_service(
        devices=[
            {
                "match": "10XX",
                "context": "phones",
                "interface": "PJSIP/{extension}",
                "state_interface": "hint:{extension}@no-such-context",
            }
        ],
        unplugged=None,
    )
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    await until(lambda: service.logged("a member's state interface is Invalid"))
    await asyncio.sleep(1)
    (said,) = service.logged("a member's state interface is Invalid")
    assert "4001" in str(said)
    assert "hint:1001@no-such-context" in str(said)
    assert "(Invalid)" in service.asterisk.cli("queue show sales")


def test_the_rendered_manager_user_has_no_more_rights(service: Service) -> None:
    text = render_manager(config.load(service.config))
    assert "read = agent\nwrite = agent,user,call,reporting\n" in text
