"""Names that are no plain letters go to Asterisk and come back as they are."""

import asyncio
from typing import Any

import pytest

from tests.journey.parts import until

pytestmark = pytest.mark.asterisk

JOINED = "نمی‌دانم"  # with U+200C, which is part of the word


async def test_a_reason_with_a_joiner_is_the_same_in_asterisk(make_service: Any, desk: Any) -> None:
    service = make_service(pause_reasons=[{"code": 1, "name": JOINED}])
    phone = await desk("1001")
    await phone.dial("*314001")
    assert (await phone.dial("*331")).outcome == "PAUSED"
    await until(lambda: f"PJSIP/1001 paused:{JOINED}" in service.members()["sales"])
    assert await asyncio.to_thread(service.fastagi, "reconcile") == "nothing differed\n"
    assert [e["reason"] for e in service.events("agent-pause")] == [JOINED]
    assert (await phone.dial("*35")).outcome == "STATUS_TOLD"
    assert (await phone.dial("*34")).outcome == "UNPAUSED"
    kinds = [(e["type"], e["source"]) for e in service.events()]
    assert kinds == [("agent-login", "phone"), ("agent-pause", "phone"), ("agent-unpause", "phone")]
    service.agrees()
