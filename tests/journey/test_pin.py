"""PINs: asked for, counted, and nowhere to be read."""

from typing import Any

import pytest

from tests.journey.parts import Peer, Service, sample

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pyst2's use of threading

SECRET = "908172"  # like nothing else that is written anywhere
GUESS = "716253"
SHORT = "4321"


@pytest.fixture
def guarded(make_service: Any) -> Any:
    """4003 and 4006 have a PIN; so many wrong ones lock."""

    def make(failures: int, pin: str = SHORT) -> Service:
        agents = sample()["agents"]
        for agent in agents:
            if "pin" in agent:
                agent["pin"] = pin
        lockout = {"failures": failures, "within": "15m", "for": "15m"}
        service: Service = make_service(agents=agents, login={"lockout": lockout})
        return service

    return make


async def test_wrong_then_right_and_nothing_is_written_down(
    guarded: Any, desk: Any, asterisk: Any, peer: Peer
) -> None:
    service = guarded(5, SECRET)
    mark = asterisk.mark()
    phone = await desk("1001")
    conversation = await phone.lift("*314003")
    await conversation.hears("agent-pass")
    await conversation.press(GUESS + "#")
    await conversation.hears("auth-incorrect")
    during = asterisk.cli(f"core show channel {conversation.channel}")
    await conversation.press(SECRET + "#")
    heard = await conversation.end()
    assert (heard.sounds, heard.outcome) == (
        ["agent-pass", "auth-incorrect", "agent-loginok"],
        "LOGGED_IN",
    )
    assert service.members()["support"] == {"PJSIP/1001"}
    # again with the right one at once, from elsewhere; and one try too many
    assert (await (await desk("1003")).dial("*324003", ("agent-pass", SECRET + "#"))).outcome == (
        "LOGGED_OFF"
    )
    wrong = [("agent-pass", GUESS + "#"), ("auth-incorrect", "2#"), ("auth-incorrect", "3#")]
    heard = await phone.dial("*314003", *wrong)
    assert (heard.outcome, heard.sounds[-2:]) == ("WRONG_PIN", ["confbridge-pin-bad", "vm-goodbye"])
    assert service.agents()["4003"]["status"] == "logged_off"
    assert [(e["type"], e["reason"]) for e in service.events()][-1] == (
        "login-refused",
        "WRONG_PIN",
    )

    places = {
        "Asterisk's log": asterisk.log_since(mark),
        "queue_log": asterisk.queue_log_path.read_text(),
        "the channel's variables": during,
        "what a manager client hears": repr(peer.heard),
        "the service's log": service.log.read_text(),
        "events": service.fastagi("events", "--json", "--last", "1000"),
        "agents": service.fastagi("agents", "--json"),
        "the database": "".join(
            file.read_bytes().decode("latin-1") for file in service.folder.glob("fastagi.db*")
        ),
    }
    assert "agent-pass" in places["Asterisk's log"]
    assert "VarSet" in places["what a manager client hears"]
    assert {place for place, text in places.items() if SECRET in text or GUESS in text} == set()


async def test_too_many_wrong_pins_lock_the_agent_there_and_nowhere_else(
    guarded: Any, desk: Any
) -> None:
    service = guarded(3)
    phone, other = await desk("1001"), await desk("1003")
    heard = await phone.dial("*314003", ("agent-pass", "1#"), *[("auth-incorrect", "2#")] * 2)
    assert heard.outcome == "WRONG_PIN"
    heard = await phone.dial("*314003", ("agent-pass", SHORT + "#"))
    assert (heard.outcome, heard.sounds[-2:]) == ("AGENT_LOCKED", ["vm-isunavail", "vm-goodbye"])
    # a restart forgets nothing
    service.kill()
    service.start()
    assert (await phone.dial("*314003", ("agent-pass", "1#"))).outcome == "AGENT_LOCKED"
    # nobody keeps the agent from another phone, or somebody else from this one
    assert (await other.dial("*314003", ("agent-pass", SHORT + "#"))).outcome == "LOGGED_IN"
    assert (await phone.dial("*314006", ("agent-pass", SHORT + "#"))).outcome == "LOGGED_IN"
    assert service.members()["support"] == {"PJSIP/1001", "PJSIP/1003"}
    assert [(e["agent"], e["extension"], e["reason"]) for e in service.events("login-refused")] == [
        ("4003", "1001", "WRONG_PIN"),
        ("4003", "1001", "AGENT_LOCKED"),
        ("4003", "1001", "AGENT_LOCKED"),
    ]


async def test_nothing_entered_is_no_guess(guarded: Any, desk: Any) -> None:
    service = guarded(1)
    phone = await desk("1001")
    heard = await phone.dial("*314003", *[("agent-pass", "#")] * 4)
    assert heard.outcome == "NO_INPUT"
    assert "auth-incorrect" not in heard.sounds
    assert (await phone.dial("*314003", ("agent-pass", SHORT + "#"))).outcome == "LOGGED_IN"
    service.agrees()
