"""The main path, on real parts."""

from typing import Any

from tests.journey.conftest import Service


async def test_an_agent_dials_and_is_in_the_queues(
    service: Service, phones: Any, asterisk: Any, eventually: Any
) -> None:
    phone = await phones("1001")
    await phone.dial("*314001")
    await phone.wait_closed()
    assert asterisk.played("PJSIP/1001") == ["agent-loginok"]
    assert service.members() == {
        "sales": {"PJSIP/1001"},
        "support": {"PJSIP/1001"},
        "billing": {"PJSIP/1001"},
    }
    (event,) = service.events()
    assert (event["type"], event["source"], event["agent"], event["extension"]) == (
        "agent-login",
        "phone",
        "4001",
        "1001",
    )
