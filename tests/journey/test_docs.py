"""Whoever pastes the examples of fastagi/api/README.md gets the answers that stand there."""

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journey.parts import Service

README = Path(__file__).parents[2] / "fastagi" / "api" / "README.md"
TOKEN = "a-token-of-your-own"

pytestmark = pytest.mark.asterisk


def examples(text: str) -> Iterator[tuple[str, str]]:
    """Commands, and what they print, in their order."""
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, answer = example.partition("\n")
            yield command, answer


def plain(text: str) -> Any:
    """Without what is another one every time: times, the ids of events, sessions and pauses."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "TIME", text.strip())
    text = re.sub(r"\b[0-9a-f]{28}(-\d)?\b", "ID", text)
    text = re.sub(r"\b\d{16}\b", "0", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9493", text)
    try:
        return json.loads(text)
    except ValueError:
        return re.sub(r"\n+", "\n", text)


async def test_every_example_answers_so(make_service: Callable[..., Service]) -> None:
    service = make_service(
        http={
            "tokens": {"crm": {"token": TOKEN, "rights": ["read", "control", "configure"]}},
            "agent_php": {},
        },
        unplugged={"pause_after": None, "logoff_after": None},  # nobody is at these phones
    )
    environment = os.environ | {"URL": f"http://127.0.0.1:{service.http_port}", "TOKEN": TOKEN}

    async def printed(command: str) -> str:
        shell = await asyncio.create_subprocess_exec(
            "bash", "-c", command, env=environment, stdout=asyncio.subprocess.PIPE
        )
        return (await shell.communicate())[0].decode()

    text = README.read_text(encoding="utf-8")
    found = list(examples(text))
    assert len(found) > 30
    wrong = []
    for command, answer in found:
        there = await printed(command)
        if plain(there) != plain(answer):
            wrong.append(f"$ {command}\n{there}")
    assert wrong == [], "\n".join(wrong)
