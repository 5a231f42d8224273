"""Phones that are unplugged: real ones, and an Asterisk that asks whether they are there."""

from collections.abc import Iterator
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import Desk, Line, Service, until

Facts = list[tuple[str, str, str, str]]
LOST = ("agent-pause", "device-lost", "system", "phone away")
BACK = ("agent-unpause", "device-lost", "system", "phone away")
OFF = ("agent-logout", "device-lost", "system", "phone away")
IN = ("agent-login", "", "phone", "")


@pytest.fixture(autouse=True)
def _asks_its_phones(asterisk: Asterisk) -> Iterator[None]:
    """Else a phone that is gone would be believed in until its registration expires."""
    asterisk.qualify = 1
    asterisk.reload("pjsip")
    yield
    asterisk.qualify = 0
    if asterisk.running:
        asterisk.reload("pjsip")


def facts(service: Service, agent: str) -> Facts:
    """Type, reason, source and the name of who did it, of each of the agent's events."""
    return [
        (event["type"], event["reason"], event["source"], event["actor"].get("name", ""))
        for event in service.events()
        if event["agent"] == agent
    ]


async def away(asterisk: Asterisk, extension: str) -> None:
    """Waits until Asterisk has noticed."""

    def noticed() -> bool:
        lines = asterisk.cli("queue show sales").splitlines()
        return any(f"PJSIP/{extension})" in line and "(Unavailable)" in line for line in lines)

    await until(noticed, what=f"{extension} is unavailable")


async def test_a_flap_is_nothing_and_a_phone_that_stays_away_pauses_its_agent(
    make_service: Any, desk: Any, asterisk: Asterisk
) -> None:
    service: Service = make_service(unplugged={"pause_after": "6s", "logoff_after": "1h"})
    anna: Desk = await desk("1001")
    bob: Desk = await desk("1003")
    await anna.dial("*314001")
    await bob.dial("*314002")
    await anna.phone.unplug()
    await away(asterisk, "1001")
    await bob.phone.unplug()
    await anna.phone.plug()
    await away(asterisk, "1003")
    # When bob's time is up, anna's would have been up before.
    await until(lambda: len(facts(service, "4002")) == 2)
    assert facts(service, "4002") == [IN, LOST]
    assert facts(service, "4001") == [IN]
    assert service.members()["sales"] == {"PJSIP/1001", "PJSIP/1003 paused:device-lost"}
    service.agrees()

    # What the agent hears on another phone, and that he is back with his own.
    heard = await anna.dial("*35")
    assert heard.outcome == "STATUS_TOLD"
    await bob.phone.plug()
    await until(lambda: len(facts(service, "4002")) == 3)
    assert facts(service, "4002") == [IN, LOST, BACK]
    await until(lambda: service.members() == service.meant())
    assert "PJSIP/1003" in service.members()["sales"]
    assert (await bob.dial("*34")).outcome == "NOT_PAUSED"


async def test_who_is_unpaused_while_the_phone_is_away_is_not_locked_out(
    make_service: Any, desk: Any, asterisk: Asterisk
) -> None:
    service: Service = make_service(unplugged={"pause_after": "2s", "logoff_after": "1h"})
    anna: Desk = await desk("1001")
    await anna.dial("*314001")
    await anna.phone.unplug()
    await away(asterisk, "1001")
    await until(lambda: facts(service, "4001")[-1] == LOST)
    # Her phone is not there for Asterisk, yet it dials.
    assert await (await Line.to(service.port)).call("unpause", "", "1001") == "UNPAUSED"
    began = len(facts(service, "4001"))
    # The clock has looked again, and done nothing, when it has seen to another one.
    bob: Desk = await desk("1003")
    await bob.dial("*314002")
    await bob.phone.unplug()
    await until(lambda: facts(service, "4002")[-1] == LOST)
    assert facts(service, "4001")[began:] == []
    line = await Line.to(service.port)
    assert await line.call("pause", "1", "1001") == "PAUSED"
    line = await Line.to(service.port)
    assert await line.call("unpause", "", "1001") == "UNPAUSED"
    await anna.phone.plug()
    assert (await anna.dial("*32")).outcome == "LOGGED_OFF"
    assert not service.logged("skipped: a fault of the service")
    service.agrees()


async def test_a_phone_that_is_gone_for_good_logs_its_agent_off(
    make_service: Any, desk: Any, asterisk: Asterisk
) -> None:
    service: Service = make_service(unplugged={"pause_after": "1s", "logoff_after": "4s"})
    anna: Desk = await desk("1001")
    bob: Desk = await desk("1003")
    await anna.dial("*314001")
    await bob.dial("*314002")
    await bob.dial("*331")  # his lunch is his own
    await anna.phone.unplug()
    await bob.phone.unplug()
    await until(lambda: not service.agents()["4001"]["interface"])
    await until(lambda: not service.agents()["4002"]["interface"])
    assert facts(service, "4001") == [IN, LOST, OFF]
    assert facts(service, "4002") == [IN, ("agent-pause", "lunch", "phone", ""), OFF]
    assert not any(service.members().values())

    # The desk is free, and its phone works again.
    await anna.phone.plug()
    assert (await anna.dial("*314002")).outcome == "LOGGED_IN"
    service.agrees()


async def test_the_time_goes_on_while_the_service_is_away(
    make_service: Any, desk: Any, asterisk: Asterisk
) -> None:
    service: Service = make_service(unplugged={"pause_after": "1s", "logoff_after": "8s"})
    anna: Desk = await desk("1001")
    bob: Desk = await desk("1003")
    await anna.dial("*314001")
    await bob.dial("*314002")
    await anna.phone.unplug()
    await bob.phone.unplug()
    await until(lambda: all(len(facts(service, agent)) > 1 for agent in ("4001", "4002")))
    service.kill()
    await bob.phone.plug()
    service.start()
    await until(lambda: all(len(facts(service, agent)) > 2 for agent in ("4001", "4002")))
    assert facts(service, "4001") == [IN, LOST, OFF]
    assert facts(service, "4002") == [IN, LOST, BACK]
    service.agrees()


async def test_a_caller_is_not_cut_off(make_service: Any, desk: Any, asterisk: Asterisk) -> None:
    """Nobody is paused or logged off in a queue call, however dead the phone."""
    service: Service = make_service(unplugged={"pause_after": "1s", "logoff_after": "3s"})
    anna: Desk = await desk("1001")
    bob: Desk = await desk("1003")
    caller: Desk = await desk("1005")
    await anna.dial("*314001")
    call = await caller.phone.dial("701")
    await anna.phone.wait_answered()
    await bob.dial("*314002")
    await anna.phone.unplug()
    await bob.phone.unplug()
    await until(lambda: len(facts(service, "4002")) == 3)
    assert facts(service, "4002") == [IN, LOST, OFF]
    assert facts(service, "4001") == [IN]
    assert call.active
    await caller.phone.hangup()
    await until(lambda: not service.agents()["4001"]["interface"])
    assert facts(service, "4001")[-1] == OFF
    service.agrees()


async def test_switched_off(make_service: Any, desk: Any, asterisk: Asterisk) -> None:
    """One line; and a reload of the configuration switches it on."""
    service: Service = make_service(unplugged=None)
    anna: Desk = await desk("1001")
    await anna.dial("*314001")
    await anna.phone.unplug()
    await away(asterisk, "1001")
    settings = service.settings()
    assert settings["unplugged"] is None
    settings["unplugged"] = {"pause_after": "1s", "logoff_after": None}
    assert facts(service, "4001") == [IN]
    service.write(settings)
    await until(lambda: len(facts(service, "4001")) == 2)
    assert facts(service, "4001") == [IN, LOST]


async def test_two_services_do_it_once(
    make_service: Any, desk: Any, asterisk: Asterisk, postgres_url: str
) -> None:
    """Both see the phones, both have the clock."""
    same: dict[str, Any] = {
        "database": postgres_url,
        "unplugged": {"pause_after": "1s", "logoff_after": "6s"},
        "pause_reasons": [
            {"code": 1, "name": "lunch", "max_duration": "2s", "when_exceeded": "unpause"},
            {"code": 2, "name": "break", "max_duration": "2s", "when_exceeded": "warn"},
        ],
    }
    make_service(name="second", **same)
    service: Service = make_service(**same)
    agents = {"4001": "1001", "4002": "1003", "4004": "1004", "4005": "1005"}
    desks = {agent: await desk(extension) for agent, extension in agents.items()}
    for agent, at in desks.items():
        assert (await at.dial(f"*31{agent}")).outcome == "LOGGED_IN"
    await desks["4004"].dial("*331")
    await desks["4005"].dial("*332")
    await desks["4001"].phone.unplug()
    await desks["4002"].phone.unplug()
    await until(lambda: len(facts(service, "4002")) == 2)
    await desks["4002"].phone.plug()
    for agent in agents:
        await until(lambda agent=agent: len(facts(service, agent)) == 3, what=agent)
    by_limit = ("system", "pause limit")
    assert facts(service, "4001") == [IN, LOST, OFF]
    assert facts(service, "4002") == [IN, LOST, BACK]
    assert facts(service, "4004")[2] == ("agent-unpause", "lunch", *by_limit)
    assert facts(service, "4005")[2] == ("pause-exceeded", "break", *by_limit)
    # A look of either later it is still so.
    assert (await desks["4002"].dial("*331")).outcome == "PAUSED"
    await until(lambda: len(facts(service, "4002")) == 5)
    assert [len(facts(service, agent)) for agent in agents] == [3, 5, 3, 3]
    service.agrees()
