"""What the service does beside its rooms."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastagi import app
from fastagi.agents.commands import Command
from fastagi.agents.service import StoreUnavailable
from fastagi.store import Difference


async def test_a_full_disk_just_after_the_start_does_not_end_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by the property test: what an earlier configuration left to do is read then."""
    answers: list[Any] = [StoreUnavailable("disk I/O error")] * 2 + [(["1"], [("2", "sales")])]
    waited, done = [], []

    async def left_over() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def execute(command: Command) -> None:
        done.append((type(command).__name__, command.agent))

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(app.asyncio, "sleep", sleep)
    service = app.App(Path("unread.yml"))
    service.store = SimpleNamespace(left_over=left_over)  # type: ignore[assignment]
    service.service = SimpleNamespace(  # type: ignore[assignment]
        new_id=iter("ab").__next__, execute=execute
    )
    await service._bring_along(Difference())
    assert waited == [1, 1]
    assert done == [("LogOff", "1"), ("LeaveQueue", "2")]
