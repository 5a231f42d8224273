"""What the faces that read paths and bodies by hand have in common."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fastagi.agents.service import StoreUnavailable

PATIENCE = 20.0  # seconds for the store to answer

T = TypeVar("T")


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
