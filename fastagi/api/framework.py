"""FastAPI: calls the handlers of the interfaces that ask for it, and writes openapi.json."""

from collections.abc import Mapping
from types import MethodType
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fastagi.agents.errors import Refused
from fastagi.agents.service import StoreUnavailable
from fastagi.api import answers
from fastagi.api.answers import HttpError
from fastagi.api.context import Context
from fastagi.api.schema import content, object_of
from fastagi.api.table import Interface, Row, Table

DESCRIPTION = """\
Agents of Asterisk's queues: who is where, logged in, paused; and what happens, as it happens.

A client shows its token in one of three headers. Without tokens in the configuration only this
machine is served, and needs none.
"""

TOKENS: Mapping[str, Mapping[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "token": {"type": "apiKey", "in": "header", "name": "token"},
    "x_auth_token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
}

# What the guard may answer in place of any handler.
GUARDED: Mapping[str, Mapping[str, Any]] = {
    status: {"description": text, "content": content(object_of(error={"type": "string"}))}
    for status, text in (
        ("400", "The request is malformed, or shows two different tokens."),
        ("401", "No token, or a wrong one."),
        ("403", "The token lacks the required right."),
        ("408", "The body took too long."),
        ("413", "The body is too large."),
        ("429", "Too many wrong tokens from this address, or too many requests without one."),
        ("503", "This client has too many connections, or is sent too much already."),
    )
}


class _Direct(Response):
    """A route that stands here for OpenAPI: the dispatcher answers."""

    def __init__(self, dispatcher: ASGIApp) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._dispatcher(scope, receive, send)


def routed(
    context: Context, table: Table, handlers: Mapping[str, Any], dispatcher: ASGIApp
) -> FastAPI:
    """Every row that FastAPI serves or documents. ``handlers``: objects by interface."""
    app = FastAPI(
        title="fastagi-agentd",
        version=context.version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # A redirect would be made of what the client calls this host.
        redirect_slashes=False,
    )
    for interface in table.on:
        for row in interface.rows:
            if row.schema is not None or interface.framework:
                _add(app, interface, row, handlers[interface.name], dispatcher)
    _document(app, table, tokens=bool(context.http.tokens))
    for kind in (HttpError, Refused, StoreUnavailable):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    return app


def _add(
    app: FastAPI, interface: Interface, row: Row, handlers: object, dispatcher: ASGIApp
) -> None:
    async def direct(request: Request) -> Response:
        return _Direct(dispatcher)

    served: dict[str, Any] = {
        "endpoint": MethodType(row.handler, handlers) if interface.framework else direct,
        "methods": [row.method],
        "name": row.handler.__name__,
        "tags": [interface.tag],
        "description": "",
        "response_class": JSONResponse if "response_model" in (row.schema or {}) else Response,
        "route_class_override": interface.framework,
        **(row.schema or {}),
    }
    app.router.add_api_route(row.path, include_in_schema=row.schema is not None, **served)
    if row.path.endswith("/"):  # shown as the document spells it; the slash is taken off
        app.router.add_api_route(row.path[:-1], include_in_schema=False, **served)


# -- errors, in the shape of the interface


async def _refused(request: Request, error: Exception) -> Any:
    interface: Interface = request.scope["state"]["place"].interface
    return interface.refusal(error)


async def _http_error(request: Request, error: Exception) -> Any:
    assert isinstance(error, HTTPException)
    headers = tuple((k.encode(), v.encode()) for k, v in (error.headers or {}).items())
    return await _refused(request, HttpError(error.status_code, str(error.detail), headers))


async def _invalid(request: Request, error: Exception) -> Any:
    assert isinstance(error, RequestValidationError)
    return await _refused(request, HttpError(422, "; ".join(map(_problem, error.errors()))))


async def _failed(request: Request, error: Exception) -> Any:
    # It is raised again after this, and the guard writes it into the log.
    return await _refused(request, HttpError(500, answers.FAILED))


def _problem(one: Mapping[str, Any]) -> str:
    if one["type"] == "json_invalid":
        return "The body is no valid JSON"
    where = ".".join(str(part) for part in one["loc"][1:]) or str(one["loc"][0])
    return f"{where}: {one['msg']}"


# -- openapi.json


def _document(app: FastAPI, table: Table, *, tokens: bool) -> None:
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
                is_open = table.place({"path": path}).is_open
                for operation in operations.values():
                    if is_open:
                        operation["security"] = []
                    else:
                        for status, refusal in GUARDED.items():
                            operation["responses"].setdefault(status, refusal)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]
