"""What the faces that read paths and bodies by hand have in common."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from fastapi import APIRouter, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fastagi.agents.service import StoreUnavailable

PATIENCE = 20.0  # seconds for the store to answer

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
