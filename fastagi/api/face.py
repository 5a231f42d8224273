"""What the faces that read paths and bodies by hand have in common."""

import asyncio
import codecs
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import orjson
from fastapi import APIRouter, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fastagi.agents.service import StoreUnavailable

PATIENCE = 20.0  # seconds for the store to answer
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


class Route(Protocol):
    """An operation of a face, as OpenAPI shows it."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def status(self) -> int:
        """Of success."""


R = TypeVar("R", bound=Route)


def documented(
    face: ASGIApp,
    name: str,
    prefix: str,
    routes: Iterable[R],
    responses: Callable[[R], dict[int | str, dict[str, Any]]],
    extra: Callable[[R], Mapping[str, Any]],
) -> APIRouter:
    """The routes of a face that reads its requests by hand, for the sake of OpenAPI."""
    router = APIRouter(prefix=prefix, tags=[name])

    async def served(request: Request) -> Response:
        return Served(face)

    for route in routes:
        router.add_api_route(
            route.path,
            served,
            methods=[route.method],
            name=route.name,
            operation_id=f"{name}_{route.name}",
            summary=route.summary,
            description="",
            status_code=route.status,
            response_class=Response,
            responses=responses(route),
            openapi_extra=dict(extra(route)),
        )
    return router


class Served(Response):
    """What a route of FastAPI's, which stands there for the sake of OpenAPI, gives back: the face
    itself answers."""

    def __init__(self, face: ASGIApp) -> None:
        super().__init__()
        self._face = face

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._face(scope, receive, send)


async def whole(receive: Receive) -> bytes:
    """The body; how large it may be the guard has seen to."""
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
    body = await whole(receive)
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


def or_nothing(schema: Mapping[str, Any]) -> dict[str, Any]:
    """For OpenAPI: a JSON object that may be left out, in the ways that ``json_fields`` takes."""
    return {"anyOf": [schema, {"type": "null"}, {"type": "array", "maxItems": 0}]}


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
        async with asyncio.timeout(PATIENCE):
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
