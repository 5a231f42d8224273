"""The real curl at the service's doors, and what stands in a document beside what came."""

import asyncio
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import Service


@dataclass(frozen=True)
class Answer:
    """``head`` is the response's head as it came, ``headers`` by name in lower case."""

    status: int
    head: str
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


async def curl(*words: str, stdin: bytes = b"") -> Answer:
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--show-error", "--include", "--max-time", "30", "--noproxy", "*"),
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, complaint = await process.communicate(stdin)
    assert process.returncode == 0, complaint.decode()
    head, _, body = out.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    assert len(headers) == len(lines), "no header twice"
    return Answer(int(first.split()[1]), head.decode("latin-1"), headers, body.decode())


def printed(text: str, changes: Mapping[str, str]) -> tuple[str, ...]:
    """A command line of a document as words for curl; what is changed must stand in it."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    # Its "--X" is no option of curl's.
    words = shlex.split(text.replace("--X ", "-X "))
    assert words[0] == "curl"
    return tuple(words[1:])


def queues(service: Service) -> str:
    """Asterisk's, for a line of a table: who is in which."""
    return " ".join(
        f"{queue}={','.join(sorted(its)) or '-'}" for queue, its in service.members().items()
    )


def row(what: str, document: Any, got: Any, service: Service, *, own: Sequence[str] = ()) -> None:
    """One line of the table that ``-s`` shows. Both are the same but for the fields named ``own``,
    which are of the same kind."""

    def line(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    print(f"{what}\n  {line(document)}\n->{line(got)}\n  {queues(service)}")
    assert got == _with(document, got, own), what


def _with(document: Any, got: Any, own: Sequence[str], name: str = "") -> Any:
    """The document with the values of ``got`` in those fields."""
    if name in own and type(document) is type(got):
        return got
    if isinstance(document, dict) and isinstance(got, dict):
        return {key: _with(value, got.get(key), own, key) for key, value in document.items()}
    if isinstance(document, list) and isinstance(got, list) and len(document) == len(got):
        return [_with(*pair, own) for pair in zip(document, got, strict=True)]
    return document


async def penalties(asterisk: Asterisk) -> dict[tuple[str, str], int]:
    """By queue and interface, as the manager interface's QueueStatus has them."""
    login = {"Username": asterisk.admin_username, "Secret": asterisk.admin_secret, "Events": "off"}
    actions: list[dict[str, str]] = [{"Action": "Login"} | login, {"Action": "QueueStatus"}]
    reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.ami_port)
    try:
        for action in actions:
            lines = [f"{name}: {value}\r\n" for name, value in action.items()]
            writer.write("".join([*lines, "\r\n"]).encode())
        async with asyncio.timeout(15):
            said = await reader.readuntil(b"Event: QueueStatusComplete")
    finally:
        writer.close()
    told = [
        dict(line.partition(": ")[::2] for line in packet.split("\r\n"))
        for packet in said.decode().split("\r\n\r\n")
    ]
    return {
        (one["Queue"], one["Location"]): int(one["Penalty"])
        for one in told
        if one.get("Event") == "QueueMember"
    }


def broken_lines(service: Service) -> list[str]:
    """Lines of the service's log that are no JSON object, or have control characters in them:
    something has got out of its field."""
    lines = service.log.read_bytes().decode().split("\n")
    return [
        line
        for line in lines
        if line and (not line.startswith('{"') or re.search(r"[\x00-\x1f\x7f-\x9f]", line))
    ]
