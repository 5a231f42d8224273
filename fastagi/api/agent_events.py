"""Hooks: an agent's events, told to other programs over HTTP.

Paths, methods and fields are those of an existing system's "Queue Agent Events" resource, so that
programs written for it work here. What goes beyond its document says so.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Body, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import Message

from fastagi.agents.commands import Actor
from fastagi.agents.devices import DeviceType
from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, ContentType, Hook, Method, told
from fastagi.agents.model import AgentState
from fastagi.agents.service import StoreUnavailable
from fastagi.api import errors
from fastagi.api.doors import Doors
from fastagi.api.face import sent_text
from fastagi.config.settings import Right
from fastagi.contract import HOOK_TYPES, EventType, Source

MOST = 100  # hooks that one agent may have under one client: each is a request at every login
PATIENCE = 5.0  # seconds that an answer of the store is waited for
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
PLACEHOLDERS: dict[DeviceType, str] = {"local": "1001", "remote": "0123456789"}

T = TypeVar("T")

HookType = Literal["agent-login", "agent-logout", "agent-pause", "agent-unpause"]
assert set(HookType.__args__) == {str(type) for type in HOOK_TYPES}  # type: ignore[attr-defined]

ClientId = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9._@-]{1,64}$",
        description="A name under which hooks are kept: they are seen under it alone, and signed"
        " with a secret of its own.",
        examples=["12"],
    ),
]
LARGEST_AGENT, LARGEST_EVENT = 2**31 - 1, 2**63 - 1  # ids: beyond them there is nobody, nothing
AgentId = Annotated[
    int,
    Path(
        ge=1,
        description="The agent's id, not the number.",
        examples=[136],
        json_schema_extra={"maximum": LARGEST_AGENT},
    ),
]
EventId = Annotated[
    int,
    Path(
        ge=1,
        description="The hook's id.",
        examples=[150],
        json_schema_extra={"maximum": LARGEST_EVENT},
    ),
]
Kind = Annotated[
    DeviceType,
    Path(
        description="Whether the hook is about the agent at phones in the house (`local`) or at"
        " outside numbers (`remote`).",
        examples=["local"],
    ),
]
Limit = Annotated[int, Query(ge=1, le=200, description="How many, the latest first.")]

Url = Annotated[
    str,
    Field(
        # Announced, not tested: what may be called the tester says, in words of its own.
        json_schema_extra={
            "format": "http-url",
            "pattern": r'^[Hh][Tt][Tt][Pp][Ss]?://[0-9A-Za-z_.:\[\]-]+([/?][!-"$-~]*)?$',
        },
        description="Where the request is sent when the event occurs: `http` or `https`, without"
        " user and password. Private addresses must be allowed in the settings.",
        examples=["https://somehost.com/fordel/show.php"],
    ),
]
AnyMethod = Annotated[
    str,
    Field(
        pattern=r"^([Gg][Ee][Tt]|[Pp][Oo][Ss][Tt])$",
        description="The request's method: `GET` (the data is in the query) or `POST`.",
        examples=["GET"],
    ),
]
EVENT_TYPE = (
    "`agent-login`: the agent logs in; `agent-logout`: logs off; `agent-pause`, `agent-unpause`:"
    " begins and ends a pause."
)
CONTENT_TYPE = "How the data is sent with `POST`: as a JSON object (`json`) or like a form (`form`)"


class NewAgentEvent(BaseModel):
    """Other fields are ignored: a program written for another system may send some."""

    event_type: HookType = Field(description=EVENT_TYPE, examples=["agent-login"])
    method: AnyMethod
    url: Url
    content_type: ContentType | None = Field(
        None, description=f"{CONTENT_TYPE}; without it `json`."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "url": "https://somehost.com/fordel/show.php",
                "method": "GET",
                "event_type": "agent-login",
            }
        }
    )


class AgentEventChange(BaseModel):
    """What is left out or null stays as it is."""

    event_type: HookType | None = Field(None, description=EVENT_TYPE)
    method: AnyMethod | None = None
    url: Url | None = None
    content_type: ContentType | None = Field(None, description=f"{CONTENT_TYPE}.")

    model_config = ConfigDict(json_schema_extra={"example": {"method": "POST"}})


class AgentEvent(BaseModel):
    """A hook. The order of the fields is that of the document's example."""

    url: str
    id: int
    method: Method
    event_type: HookType
    content_type: ContentType | None = Field(None, description="Only where `method` is `POST`.")

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "url": "https://somehost.com/fordel/show.php",
                "id": 150,
                "method": "GET",
                "event_type": "agent-login",
            }
        }
    )


class TestResult(BaseModel):
    status: int | None = Field(description="HTTP's; null when no answer came.")
    error: str = Field(description='Why it counts as not delivered; "" when it was.')
    seconds: float
    delivered: bool

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"status": 200, "error": "", "seconds": 0.041, "delivered": True}
        }
    )


class Delivery(BaseModel):
    """One attempt to deliver one event."""

    event_id: str
    event_type: HookType
    at: str = Field(description="When it was sent, ISO 8601.")
    attempt: int = Field(description="Of this event, from 1.")
    status: int | None = Field(description="HTTP's; null when no answer came.")
    error: str
    seconds: float
    outcome: Literal["delivered", "failed", "parked"] = Field(
        description="`failed`: is tried again later; `parked`: was given up, see retry."
    )


class Deliveries(BaseModel):
    parked: int = Field(description="How many events were given up and are kept for a retry.")
    deliveries: list[Delivery] = Field(description="The latest first.")

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "parked": 0,
                "deliveries": [
                    {
                        "event_id": "187aa3c8d2f1e0c0a1b2c3d4e5f6-1",
                        "event_type": "agent-login",
                        "at": "2026-11-22T10:00:00.123+00:00",
                        "attempt": 1,
                        "status": 200,
                        "error": "",
                        "seconds": 0.041,
                        "outcome": "delivered",
                    }
                ],
            }
        }
    )


class Retried(BaseModel):
    retried: int = Field(description="How many parked events are due again.")

    model_config = ConfigDict(json_schema_extra={"example": {"retried": 2}})


class Error(BaseModel):
    error: str

    model_config = ConfigDict(json_schema_extra={"example": {"error": "url: is missing"}})


class Refusal(Exception):
    """An answer with ``{"error": text}``."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


EXPECTED = {
    "client_id": "1 to 64 letters, digits and . _ @ -",
    "kind": "local or remote",
    "agent_id": f"a whole number from 1 to {LARGEST_AGENT}",
    "event_id": f"a whole number from 1 to {LARGEST_EVENT}",
    "limit": "a whole number from 1 to 200",
    "event_type": "one of " + ", ".join(HOOK_TYPES),
    "method": "GET or POST",
    "url": "text, an http or https URL",
    "content_type": "json or form",
}
ABOUT = {
    400: "Something in the request is wrong: which field, and what.",
    401: "No token, or a wrong one.",
    403: "The token's rights do not reach.",
    404: "No such agent, or no such event of that agent under that client and kind.",
    409: f"The agent has {MOST} events already.",
    413: "The body is too large.",
    429: "Too many wrong tokens from this address.",
    503: "The store is away: try again.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": text} for status, text in ABOUT.items() if status != 409
}
# Else FastAPI would announce its 422, of another shape, which is never sent.
ERRORS["default"] = {"model": Error, "description": "Anything else that went wrong."}


class Route(APIRoute):
    """Every error as ``{"error": text}``; the right is asked for before anything is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            # To read them, too: a URL may hold a receiver's password.
            if Right.CONFIGURE not in request.state.client.rights:
                return errors.response(403, errors.lacking(Right.CONFIGURE))
            try:
                return await handle(await _taken_for_json(request))
            except Refusal as refusal:
                return errors.response(refusal.status, str(refusal), refusal.headers)
            except RequestValidationError as error:
                return errors.response(400, _told(error))
            except HTTPException as error:
                return errors.response(error.status_code, error.detail)

        return answered


async def _taken_for_json(request: Request) -> Request:
    """The document knows no other bodies, and programs send theirs under many names (``curl -d``
    calls them forms). That no page in a browser makes use of it is the guard's business."""
    headers = [one for one in request.scope["headers"] if one[0] != b"content-type"]
    headers.append((b"content-type", errors.JSON.encode()))
    body = await sent_text(request.scope, request.receive)
    if body.strip() in (b"", b"null", b"[]"):  # how some programs write that there is nothing in it
        body = b""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({**request.scope, "headers": headers}, receive)


def _told(error: RequestValidationError) -> str:
    """Every mistake with the field it is in. Values are not repeated: they may be secrets."""
    return "; ".join(dict.fromkeys(map(_mistake, error.errors())))


def _mistake(found: dict[str, Any]) -> str:
    kind, place = found["type"], found["loc"]
    if kind == "json_invalid":
        return f"The body is no JSON: {found['ctx']['error']}, at character {place[1]}"
    if len(place) < 2:
        return "The body must be a JSON object"
    field = str(place[1])
    if kind == "missing":
        return f"{field}: is missing"
    return f"{field}: must be {EXPECTED[field]}"


def routes(doors: Doors) -> APIRouter:
    """``request.state.client`` says who asks."""
    router = APIRouter(tags=["agent events"], route_class=Route)
    hooks = doors.hooks
    # Counting and creating, reading and changing: what one request does, another must not undo.
    one_at_a_time = asyncio.Lock()
    all_of_them = "/client/{client_id}/agent/{kind}/{agent_id}/event"
    one = all_of_them + "/{event_id}"

    async def asked(answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except (StoreUnavailable, TimeoutError) as error:
            # What the store says may name files and addresses: it is for the log.
            doors.log.warning("a hook's request was not served", why=str(error) or "no answer")
            raise Refusal(503, errors.STORE_AWAY, errors.RETRY) from None

    def log(what: str, request: Request, hook: Hook) -> None:
        # Of the URL only the host: what follows may hold a receiver's password.
        doors.log.info(
            what,
            by=request.state.client.name,
            hook=hook.id,
            client=hook.client,
            agent_id=hook.agent_id,
            type=hook.event_type.value,
            host=urlsplit(hook.url).hostname,
        )

    def checked(url: str) -> str:
        if (why := doors.tester.refusal(url)) is not None:
            raise Refusal(400, f"url: {why}")
        return url

    async def of(client_id: str, kind: DeviceType, agent_id: int) -> Sequence[Hook]:
        there = None
        if agent_id <= LARGEST_AGENT:
            there = await asked(hooks.of(client_id, agent_id, kind))
        if there is None:
            raise Refusal(404, "No such agent")
        return there

    async def found(client_id: str, kind: DeviceType, agent_id: int, event_id: int) -> Hook:
        hook = None
        if agent_id <= LARGEST_AGENT and event_id <= LARGEST_EVENT:
            hook = await asked(hooks.hook(client_id, agent_id, kind, event_id))
        if hook is None:
            raise Refusal(404, "No such event")
        return hook

    async def create(
        request: Request, client_id: ClientId, kind: Kind, agent_id: AgentId, new: NewAgentEvent
    ) -> Response:
        """The document prints the answer and no status. 200 is what a program that looks for one
        status only would look for without being told of another; 201 would be news to it, while
        those that look for 2xx take both."""
        url = checked(new.url)
        async with one_at_a_time:
            if len(await of(client_id, kind, agent_id)) >= MOST:
                raise Refusal(409, f"This agent has {MOST} events already, the most there may be")
            hook = await asked(
                hooks.create(
                    client_id,
                    agent_id,
                    kind,
                    EventType(new.event_type),
                    _method(new.method),
                    url,
                    new.content_type or "json",
                )
            )
        if hook is None:
            raise Refusal(404, "No such agent")
        log("a hook was made", request, hook)
        return JSONResponse(_shown(hook))

    async def every(client_id: ClientId, kind: Kind, agent_id: AgentId) -> Response:
        there = await of(client_id, kind, agent_id)
        return JSONResponse([_shown(hook) for hook in there])

    async def read(
        client_id: ClientId, kind: Kind, agent_id: AgentId, event_id: EventId
    ) -> Response:
        return JSONResponse(_shown(await found(client_id, kind, agent_id, event_id)))

    async def update(
        request: Request,
        client_id: ClientId,
        kind: Kind,
        agent_id: AgentId,
        event_id: EventId,
        change: Annotated[AgentEventChange | None, Body()] = None,
    ) -> Response:
        given = {} if change is None else change.model_dump(exclude_none=True)
        if "url" in given:
            checked(given["url"])
        if "method" in given:
            given["method"] = _method(given["method"])
        if "event_type" in given:
            given["event_type"] = EventType(given["event_type"])
        async with one_at_a_time:
            hook = await found(client_id, kind, agent_id, event_id)
            changed = replace(hook, **given)
            if changed != hook:
                if not await asked(hooks.update(changed)):
                    raise Refusal(404, "No such event: it was deleted meanwhile")
                log("a hook was changed", request, changed)
        return JSONResponse(_shown(changed))

    async def delete(
        request: Request, client_id: ClientId, kind: Kind, agent_id: AgentId, event_id: EventId
    ) -> Response:
        hook = await found(client_id, kind, agent_id, event_id)
        if not await asked(hooks.delete(hook.id)):
            raise Refusal(404, "No such event: it was deleted meanwhile")
        log("a hook was deleted", request, hook)
        return Response(status_code=204)

    async def test(
        client_id: ClientId, kind: Kind, agent_id: AgentId, event_id: EventId
    ) -> Response:
        hook = await found(client_id, kind, agent_id, event_id)
        agent = await asked(doors.directory.agent_by_id(agent_id))
        if agent is None:
            raise Refusal(404, "No such agent")
        event = _example(hook, agent, doors)
        # Has a time limit of its own, that of every delivery.
        attempt = await doors.tester.test(hook, told(agent_id, event))
        return JSONResponse(
            {
                "status": attempt.status,
                "error": attempt.error,
                "seconds": round(attempt.seconds, 3),
                "delivered": attempt.outcome == "delivered",
            }
        )

    async def deliveries(
        client_id: ClientId,
        kind: Kind,
        agent_id: AgentId,
        event_id: EventId,
        limit: Limit = 50,
    ) -> Response:
        hook = await found(client_id, kind, agent_id, event_id)
        attempts = await asked(hooks.log(hook.id, limit))
        return JSONResponse(
            {
                "parked": await asked(hooks.parked(hook.id)),
                "deliveries": [_logged(attempt) for attempt in attempts],
            }
        )

    async def retry(
        request: Request, client_id: ClientId, kind: Kind, agent_id: AgentId, event_id: EventId
    ) -> Response:
        hook = await found(client_id, kind, agent_id, event_id)
        retried = await asked(hooks.retry(hook.id))
        log("what a hook was owed is due again", request, hook)
        return JSONResponse({"retried": retried})

    known: dict[str, list[str]] = {}

    def add(
        method: str,
        path: str,
        endpoint: Callable[..., Awaitable[Response]],
        summary: str,
        more: dict[int | str, dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """With and without the slash at the end: a redirect from one to the other would lose the
        body of a POST. The document's spelling is the one that is shown."""
        bare = path.rstrip("/")
        for spelt in (path, bare if path.endswith("/") else path + "/"):
            known.setdefault(spelt, []).append(method)
            router.add_api_route(
                spelt,
                endpoint,
                methods=[method],
                name=endpoint.__name__,
                summary=summary,
                description="",
                responses={**ERRORS, **(more or {})},
                include_in_schema=spelt == path,
                **options,
            )

    too_many: dict[int | str, dict[str, Any]] = {409: {"model": Error, "description": ABOUT[409]}}
    add(
        "POST",
        all_of_them + "/",
        create,
        "Add an HTTP event of the queue agent",
        too_many,
        response_model=AgentEvent,
    )
    add(
        "GET",
        all_of_them + "/",
        every,
        "Get the HTTP events of the queue agent",
        response_model=list[AgentEvent],
    )
    add("GET", one, read, "Get an HTTP event of the queue agent", response_model=AgentEvent)
    add("PUT", one, update, "Update an HTTP event of the queue agent", response_model=AgentEvent)
    add(
        "DELETE",
        one,
        delete,
        "Delete an HTTP event of the queue agent",
        {204: {"description": "Deleted, with what waited for it and its log."}},
        status_code=204,
    )
    add(
        "POST",
        one + "/test",
        test,
        "Send an example of the event now",
        response_model=TestResult,
    )
    add(
        "GET",
        one + "/deliveries",
        deliveries,
        "What was delivered, and what was not",
        response_model=Deliveries,
    )
    add(
        "POST",
        one + "/retry",
        retry,
        "Try again what was given up",
        response_model=Retried,
    )
    for path, methods in known.items():
        others = [method for method in METHODS if method not in methods and method != "HEAD"]
        if "GET" not in methods:
            others.append("HEAD")
        router.add_route(path, _other_method(methods), others, include_in_schema=False)
    return router


def _other_method(methods: Sequence[str]) -> Callable[[Request], Awaitable[Response]]:
    """The framework would name the methods of one of its routes only."""
    allow = ", ".join(methods).replace("GET", "GET, HEAD")

    async def refuse(request: Request) -> Response:
        return errors.response(405, f"Only {allow} can be done here", {"Allow": allow})

    return refuse


def _method(text: str) -> Method:
    return "GET" if text.upper() == "GET" else "POST"


def _shown(hook: Hook) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "url": hook.url,
        "id": hook.id,
        "method": hook.method,
        "event_type": hook.event_type.value,
    }
    if hook.method == "POST":
        shown["content_type"] = hook.content_type
    return shown


def _logged(attempt: Attempt) -> dict[str, Any]:
    return {
        "event_id": attempt.event_id,
        "event_type": attempt.event_type.value,
        "at": attempt.at.isoformat(timespec="milliseconds"),
        "attempt": attempt.number,
        "status": attempt.status,
        "error": attempt.error,
        "seconds": round(attempt.seconds, 3),
        "outcome": attempt.outcome,
    }


def _example(hook: Hook, agent: AgentState, doors: Doors) -> Event:
    """What the receiver would be told if it happened now, where the agent is now."""
    extension, context = PLACEHOLDERS[hook.agent_type], ""
    if agent.session is not None and agent.session.device.type == hook.agent_type:
        extension, context = agent.session.device.extension, agent.session.device.context
    paused = hook.event_type in (EventType.PAUSE, EventType.UNPAUSE)
    return Event(
        id=f"{doors.service.new_id()}-1",
        type=hook.event_type,
        agent=agent.number,
        extension=extension,
        queues=tuple(m.queue for m in agent.memberships),
        reason="example" if paused else "",
        source=Source.API,
        actor=Actor(),
        occurred_at=doors.service.now(),
        context=context,
        device_type=hook.agent_type,
    )
