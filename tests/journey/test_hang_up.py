"""The receiver is put down at every step: nothing stays half done, the next call is served."""

import signal
from typing import Any

import pytest

from tests.journey.parts import Service, Wire, until

# what the agent of phone 1001 was before, the code, the prompts answered first, and the sound
# at which the phone hangs up
STEPS = {
    "asked for the agent": ((), "*31", (), "agent-user"),
    "asked for the agent again": ((), "*31", (("agent-user", "9999#"),), "agent-incorrect"),
    "asked for the PIN": ((), "*314003", (), "agent-pass"),
    "asked for the PIN again": ((), "*314003", (("agent-pass", "1#"),), "auth-incorrect"),
    "in the menu of reasons": (("*314001",), "*33", (), "dictate/pause"),
    "in the menu of reasons again": (
        ("*314001",),
        "*33",
        (("dictate/pause", "9"),),
        "conf-errormenu",
    ),
    "in the menu of queues": (("*314001",), "*36", (), "spy-agent"),
    "asked whether to leave": (("*314001",), "*36701", (), "vm-last"),
    "while the status is told": (("*314001",), "*35", (), "vm-and"),
    "while a refusal is told": ((), "*319999", (), "agent-incorrect"),
}


@pytest.mark.parametrize("step", STEPS)
async def test_nothing_changes(step: str, service: Service, desk: Any) -> None:
    before, code, answered, sound = STEPS[step]
    phone = await desk("1001")
    for dialled in before:
        await phone.dial(dialled)
    events = [e for e in service.events() if e["type"] != "login-refused"]
    members = service.members()
    conversation = await phone.lift(code)
    for asked, keys in answered:
        await conversation.hears(asked)
        await conversation.press(keys)
    await conversation.hears(sound)
    heard = await conversation.hang_up()
    assert heard.outcome == "", "nobody is there to be told"
    await until(lambda: len(service.logged("call")) == len(before) + 1)
    # Asterisk sends HANGUP and closes at once: the service may see either first.
    assert service.logged("call")[-1]["ended"] in ("hung up", "ConnectionLost")
    assert service.members() == members
    service.agrees()
    assert [e for e in service.events() if e["type"] != "login-refused"] == events
    expected = "STATUS_TOLD" if before else "NOT_LOGGED_IN"
    assert (await phone.dial("*35")).outcome == expected


async def test_no_call_is_left_behind(service: Service, desk: Any) -> None:
    """Hung up in the very moment in which the first sound begins, when Asterisk closes the
    connection while the service's next command is on its way."""
    phone = await desk("1001")
    await phone.dial("*314001")
    for done in range(1, 26):
        conversation = await phone.lift("*36")
        await conversation.hears("spy-agent")
        await conversation.hang_up()
        await until(lambda done=done: len(service.logged("call")) == done + 1)  # type: ignore[misc]
    service.signal(signal.SIGTERM)
    await until(lambda: service.logged("stopping: calls in progress finish"))
    assert service.logged("stopping: calls in progress finish")[0]["calls"] == 0


async def test_asked_to_move(service: Service, desk: Any) -> None:
    old, new = await desk("1001"), await desk("1003")
    await old.dial("*314001")
    conversation = await new.lift("*314001")
    await conversation.hears("vm-press")
    await conversation.hang_up()
    await until(lambda: service.events("login-refused"))
    assert service.members()["sales"] == {"PJSIP/1001"}
    service.agrees()
    assert [e["reason"] for e in service.events("login-refused")] == ["LOGGED_IN_ELSEWHERE"]
    assert (await new.dial("*314002")).outcome == "LOGGED_IN"
    service.agrees()


async def test_while_the_answer_is_told_what_is_done_is_done(make_service: Any, desk: Any) -> None:
    service = make_service(prompts={"LOGGED_IN": ["agent-loginok", "silence/5"]})
    phone = await desk("1001")
    conversation = await phone.lift("*314001")
    await conversation.hears("agent-loginok")
    await conversation.hang_up()
    assert service.members()["sales"] == {"PJSIP/1001"}
    service.agrees()
    (event,) = service.events()
    assert (event["type"], event["actor"].get("hung_up")) == ("agent-login", None)
    assert (await phone.dial("*35")).outcome == "STATUS_TOLD"


CHANGES = {
    "login": ((), "*314001", "QueueAdd", "agent-login", {"PJSIP/1001"}),
    "logoff": (("*314001",), "*32", "QueueRemove", "agent-logout", set()),
    "pause": (("*314001",), "*331", "QueuePause", "agent-pause", {"PJSIP/1001 paused:lunch"}),
    "unpause": (("*314001", "*331"), "*34", "QueuePause", "agent-unpause", {"PJSIP/1001"}),
}


@pytest.mark.parametrize("held", ["requests", "answers"])
@pytest.mark.parametrize("change", CHANGES)
async def test_in_the_middle_of_the_change(
    change: str, held: str, make_service: Any, wire: Wire, desk: Any
) -> None:
    """Asterisk is slow, the caller gone meanwhile: what was begun is finished, and the event
    says that the caller was not there any more."""
    before, code, action, kind, sales = CHANGES[change]
    service = make_service(wire=wire)
    phone = await desk("1001")
    for dialled in before:
        await phone.dial(dialled)
    getattr(wire, f"hold_{held}")(action)
    conversation = await phone.lift(code)
    await until(lambda: wire.holds)
    heard = await conversation.hang_up()
    assert heard.sounds == [], "nothing was said before it was so"
    wire.release()
    await until(lambda: service.events(kind))
    assert service.members()["sales"] == sales
    service.agrees()
    assert service.events()[-1]["type"] == kind
    assert service.events()[-1]["actor"]["hung_up"] is True
    assert service.events()[-1]["source"] == "phone"
    assert (await phone.dial("*34")).outcome != "UNAVAILABLE"


async def test_the_cable_is_pulled(service: Service, desk: Any, asterisk: Any) -> None:
    """No BYE comes: Asterisk ends the call at its own time, and the service sees it then."""
    phone = await desk("1001")
    conversation = await phone.lift("*31")
    await conversation.hears("agent-user")
    await phone.phone.unplug()
    asterisk.cli(f"channel request hangup {conversation.channel}")
    await conversation.end()
    await until(lambda: service.logged("call"))
    assert (await (await desk("1001")).dial("*314001")).outcome == "LOGGED_IN"
    service.agrees()
