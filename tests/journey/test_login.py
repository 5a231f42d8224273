"""The main path, on real parts."""

from typing import Any

from tests.journey.parts import Service


async def test_an_agent_dials_and_is_in_the_queues(service: Service, desk: Any) -> None:
    heard = await (await desk("1001")).dial("*314001")
    assert heard.sounds == ["agent-loginok"]
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
