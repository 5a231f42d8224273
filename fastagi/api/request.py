"""What handlers read of a request, and how long they wait for the store."""

import asyncio
import codecs
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from starlette.types import Receive, Scope

from fastagi.agents.service import StoreUnavailable
from fastagi.api.guard import Client

STORE_DEADLINE = 20.0  # seconds for the store to answer
LARGEST_TEXT = 10**15  # an integer that stands for a string of digits

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as the next one does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What programs of Windows and old PHP declare. No other codec is looked up: some do more than
# that.
_CHARSETS = frozenset(
    {
        *("utf-16", "utf-16le", "utf-16be"),
        *("iso-8859-1", "latin1", "iso-8859-15", "windows-1252", "cp1252"),
    }
)
_CHARSET = re.compile(rb";\s*charset\s*=\s*\"?([A-Za-z0-9_-]{1,20})", re.I)
_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)

T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """A request, as handlers get it. ``client``: who asks; nobody where everybody may ask.
    ``values``: what stands in the path, by name."""

    scope: Scope
    receive: Receive
    client: Client
    values: Mapping[str, str]

    @property
    def query(self) -> bytes:
        query: bytes = self.scope["query_string"]
        return query

    async def fields(self) -> dict[str, Any]:
        """Of the JSON object that was sent. Raises BadBody."""
        return json_fields(await sent_text(self.scope, self.receive))


async def whole_body(receive: Receive) -> bytes:
    """The guard has limited its size."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


def declared_charset(content_type: bytes) -> str:
    """The charset of a Content-Type where it is another one than UTF-8 and known; else ""."""
    found = _CHARSET.search(content_type)
    name = found[1].decode().lower() if found else ""
    return name if name in _CHARSETS else ""


async def sent_text(scope: Scope, receive: Receive) -> bytes:
    """The body in UTF-8 without a byte order mark, whatever charset it came in; as it came where
    it cannot be read so."""
    body = await whole_body(receive)
    charset = next((name for bom, name in _BOMS if body.startswith(bom)), "")
    if charset == "utf-8":
        return body[len(codecs.BOM_UTF8) :]
    if not charset:
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        charset = declared_charset(kind)
    if not charset:
        return body
    try:
        return body.decode(charset).removeprefix("\ufeff").encode()
    except UnicodeError:
        return body


class BadBody(ValueError):
    """The text says what is wrong with a request's body."""


def json_fields(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object. An empty body, ``null`` and the empty list that PHP makes of an
    empty object have none. Raises BadBody."""
    if not body.strip():
        return {}
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadBody(f"The body is no valid JSON: {error}") from None
    if given is None or given == []:
        return {}
    if not isinstance(given, dict):
        raise BadBody("The body must be a JSON object")
    return given


async def in_time(answer: Awaitable[T]) -> T:
    """Raises StoreUnavailable, also when no answer comes."""
    try:
        async with asyncio.timeout(STORE_DEADLINE):
            return await answer
    except TimeoutError as error:
        raise StoreUnavailable("no answer in time") from error


async def in_thread(read: Callable[[], T]) -> T:
    return await in_time(asyncio.to_thread(read))


def integer(value: object) -> int | None:
    """What JSON Schema takes for one: 15 and 15.0, and no boolean. Beyond 2**53 what came as a
    float is not what was sent."""
    if type(value) is int:  # a boolean is one to isinstance
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return None


def as_number(value: object) -> int | None:
    """An integer, also one that came as a string of digits."""
    if isinstance(value, str):
        return int(value) if _DIGITS.fullmatch(value) else None
    return integer(value)


def as_text(value: object) -> str | None:
    """A string, also one of digits that came as an integer: ``1001`` for ``"1001"``."""
    if isinstance(value, str):
        return value
    given = integer(value)
    return str(given) if given is not None and 0 <= given <= LARGEST_TEXT else None
