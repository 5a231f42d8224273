"""Phones that are unplugged: real ones, and an Asterisk that asks whether they are there."""

from collections.abc import Iterator
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import Desk, Service, until

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
    await until(lambda: len(facts(service, "4001")) + len(facts(service, "4002")) == 4)
    service.kill()
    await bob.phone.plug()
    service.start()
    await until(lambda: len(facts(service, "4001")) + len(facts(service, "4002")) == 6)
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
