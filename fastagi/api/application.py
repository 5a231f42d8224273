"""All faces as one application: FastAPI for its routes and its OpenAPI, the guard around it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastagi.agents.errors import Refused
from fastagi.agents.service import StoreUnavailable
from fastagi.api import agent_events, agent_php, agentd, errors, evolux, health, page, stream
from fastagi.api.docs import PAGE, POLICY
from fastagi.api.doors import Doors
from fastagi.api.fixed import Fixed
from fastagi.api.guard import OPEN, OPEN_BELOW, Guard, needs
from fastagi.api.stream import Feed
from fastagi.config.settings import Right

DESCRIPTION = """\
Agents of Asterisk's queues: who is where, logged in, paused; and what happens, as it happens.

A client shows its token in one of three headers. Without tokens in the configuration only this
machine is served, and needs none.
"""

DOCUMENT = "/openapi.json"

TOKENS: Mapping[str, Mapping[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "token": {"type": "apiKey", "in": "header", "name": "token"},
    "x_auth_token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
}

# What the guard may answer in place of any route.
GUARDED: Mapping[str, Mapping[str, Any]] = {
    status: {
        "description": text,
        "content": {
            errors.JSON: {
                "schema": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}},
                }
            }
        },
    }
    for status, text in (
        ("400", "The request is malformed, or shows two different tokens."),
        ("401", "No token, or a wrong one."),
        ("403", "The token's rights do not reach."),
        ("408", "The body took too long."),
        ("413", "The body is too large."),
        ("429", "Too many wrong tokens from this address, or too many requests without one."),
        ("503", "This client has too many connections, or is sent too much already."),
    )
}


def application(doors: Doors, feed: Feed, now: Callable[[], float] = time.monotonic) -> Guard:
    """``feed`` is run, and woken by commits, by whoever made it. ``now`` is a monotonic clock."""
    swift: dict[str, ASGIApp] = {"agentd": agentd.Agentd(doors), "evolux": evolux.Evolux(doors)}
    if doors.http.agent_php is not None:
        swift["agent_php"] = agent_php.AgentPhp(doors, doors.http.agent_php)
    faces = Faces(swift, lambda: routed(doors, feed))
    guard = Guard(faces, doors.http, doors.figures, doors.log, now)
    guard.on_use(feed.recheck)
    return guard


class Faces:
    """Some faces, by name, need none of what FastAPI does to a request, which costs as much as all
    else; what anybody may ask for comes from memory. FastAPI's routes take a tenth of a second to
    make: that is done when one is first asked for, in a thread, so that no phone waits for it."""

    def __init__(self, swift: Mapping[str, ASGIApp], others: Callable[[], FastAPI]) -> None:
        self._swift = swift
        self._files = page.Files()
        self._fixed: dict[str, ASGIApp] = {
            "/": self._files,
            "/docs": Fixed(PAGE, "text/html; charset=utf-8", {"Content-Security-Policy": POLICY}),
            "/health/live": Fixed(health.ALIVE, errors.JSON, health.NOT_KEPT),
        }
        self._make = others
        self._making = asyncio.Lock()
        self._others: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path in self._fixed:
            face: ASGIApp | None = self._fixed[path]
        elif path.startswith(OPEN_BELOW):
            face = self._files
        else:
            face = self._swift.get(errors.face_of(path), self._others)
        if face is None or (path == DOCUMENT and path not in self._fixed):
            async with self._making:
                if self._others is None:
                    self._others = await asyncio.to_thread(self._make)
                if path == DOCUMENT and path not in self._fixed:
                    content = await asyncio.to_thread(_openapi, self._others)
                    self._fixed[path] = Fixed(content, errors.JSON, {})
                face = self._fixed.get(path, self._others)
        assert face is not None
        if scope["method"] == "HEAD" and isinstance(face, FastAPI):
            await _head(face, scope, receive, send)
        else:
            await face(scope, receive, send)


async def _head(face: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Every GET answers a HEAD, with the same head and no body: the framework's routes do not. An
    answer that never ends, as the event stream's, ends with its head."""
    answered = asyncio.Event()

    async def taken() -> Message:
        waiting = asyncio.ensure_future(receive())
        over = asyncio.ensure_future(answered.wait())
        try:
            await asyncio.wait((waiting, over), return_when=asyncio.FIRST_COMPLETED)
            return {"type": "http.disconnect"} if answered.is_set() else waiting.result()
        finally:
            waiting.cancel()
            over.cancel()

    async def head_alone(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})
            answered.set()

    await face({**scope, "method": "GET"}, taken, head_alone)


def routed(doors: Doors, feed: Feed) -> FastAPI:
    """Every route; without the guard."""
    app = FastAPI(
        title="fastagi-agentd",
        version=doors.version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # A redirect would be made of what the client calls this host.
        redirect_slashes=False,
    )
    app.include_router(agentd.routes(doors))
    app.include_router(agent_events.routes(doors))
    app.include_router(evolux.routes(doors))
    app.include_router(agent_php.routes(doors))
    app.include_router(stream.routes(doors, feed), dependencies=[Depends(needs(Right.READ))])
    app.include_router(page.routes(doors))
    app.include_router(health.routes(doors))
    _document(app, tokens=bool(doors.http.tokens))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(StoreUnavailable, _refused)
    app.add_exception_handler(Exception, _failed)
    return app


# -- errors, where a face has not told them itself


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return errors.response(error.status_code, str(error.detail), headers, request.scope["path"])


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    text = "; ".join(_problem(one) for one in error.errors())
    return errors.response(422, text, path=request.scope["path"])


def _problem(one: Mapping[str, Any]) -> str:
    if one["type"] == "json_invalid":
        return "The body is no valid JSON"
    where = ".".join(str(part) for part in one["loc"][1:]) or str(one["loc"][0])
    return f"{where}: {one['msg']}"


async def _refused(request: Request, error: Exception) -> Response:
    status, text = errors.told(error)
    headers = errors.RETRY if status == 503 else None
    return errors.response(status, text, headers, request.scope["path"])


async def _failed(request: Request, error: Exception) -> Response:
    # It is raised again after this, and the guard writes it into the log.
    return errors.response(500, errors.FAILED, path=request.scope["path"])


# -- what it says of itself


def _document(app: FastAPI, *, tokens: bool) -> None:
    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            document.setdefault("components", {})["securitySchemes"] = TOKENS
            document["security"] = [{name: []} for name in TOKENS] if tokens else []
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    if path in OPEN:
                        operation["security"] = []
                    else:
                        for status, refusal in GUARDED.items():
                            operation["responses"].setdefault(status, refusal)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


def _openapi(app: FastAPI) -> bytes:
    return orjson.dumps(app.openapi())
