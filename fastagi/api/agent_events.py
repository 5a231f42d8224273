"""Hooks: an agent's events, sent to other programs over HTTP.

Paths, methods and fields are those of an existing system's "Queue Agent Events" resource, so that
programs written for it work here. What goes beyond the document says so.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from fastapi import Body, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Message

from fastagi.agents.commands import Actor
from fastagi.agents.devices import DeviceType
from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, ContentType, Hook, Method, payload
from fastagi.agents.model import AgentState
from fastagi.agents.service import AgentService, StoreUnavailable
from fastagi.api.answers import JSON, HttpError
from fastagi.api.context import Context
from fastagi.api.request import sent_text
from fastagi.api.schema import ABOUT, Responses
from fastagi.api.table import Handler, Interface, Row
from fastagi.config.settings import Right
from fastagi.contract import HOOK_TYPES, EventType, Source

MOST = 100  # hooks that one agent may have under one client: each is a request at every login
STORE_DEADLINE = 5.0  # seconds for the store to answer
NO_AGENT = "No such agent"
DELETED_MEANWHILE = "No such event: it was deleted meanwhile"
PLACEHOLDERS: dict[DeviceType, str] = {"local": "1001", "remote": "0123456789"}

T = TypeVar("T")

HookType = Literal["agent-login", "agent-logout", "agent-pause", "agent-unpause"]
assert set(HookType.__args__) == {str(type) for type in HOOK_TYPES}  # type: ignore[attr-defined]

ClientId = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9._@-]{1,64}$",
        description="A name under which hooks are kept: they are seen under it alone, and signed"
        " with a secret made for this name.",
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


@dataclass(frozen=True, slots=True)
class Agent:
    """Whose hooks."""

    client_id: ClientId
    kind: Kind
    agent_id: AgentId


@dataclass(frozen=True, slots=True)
class One(Agent):
    event_id: EventId


OfAgent = Annotated[Agent, Depends()]
OfOne = Annotated[One, Depends()]
Limit = Annotated[int, Query(ge=1, le=200, description="How many, the latest first.")]

Url = Annotated[
    str,
    Field(
        # Announced, not tested: the tester decides which URLs may be called, and says why not.
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
_ABOUT = {
    **ABOUT,
    400: "Something in the request is wrong: which field, and what.",
    404: "No such agent, or no such event of that agent under that client and kind.",
    503: "The store is away: try again.",
}
RESPONSES: Responses = {
    status: {"model": Error, "description": text} for status, text in _ABOUT.items()
}
# Else FastAPI would announce a 422 of another shape, which is never sent.
RESPONSES["default"] = {"model": Error, "description": "Anything else that went wrong."}
TOO_MANY: Responses = {
    409: {"model": Error, "description": f"The agent has {MOST} events already."}
}
DELETED: Responses = {204: {"description": "Deleted, with what waited for it and its log."}}


class Route(APIRoute):
    """Bodies are read as those programs send them, and mistakes named by their fields."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(await _taken_for_json(request))
            except RequestValidationError as error:
                raise HttpError(400, _mistakes(error)) from None

        return answered


async def _taken_for_json(request: Request) -> Request:
    """The document knows no other bodies, and programs declare them under many names (``curl -d``
    calls them forms). That no page in a browser makes use of it is the guard's business."""
    headers = [one for one in request.scope["headers"] if one[0] != b"content-type"]
    headers.append((b"content-type", JSON.encode()))
    body = await sent_text(request.scope, request.receive)
    if body.strip() in (b"", b"null", b"[]"):  # how some programs write that there is nothing in it
        body = b""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({**request.scope, "headers": headers}, receive)


def _mistakes(error: RequestValidationError) -> str:
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


class AgentEvents:
    """``request.state.client`` says who asks. To read hooks, too, takes the right to make them: a
    URL may hold a receiver's password."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._hooks = context.hooks
        # Counting and creating, reading and changing: what one request does, another must not undo.
        self._changing = asyncio.Lock()

    # -- hooks

    async def create(self, request: Request, agent: OfAgent, new: NewAgentEvent) -> Response:
        """The document prints the answer and no status. 200 is what a program that looks for one
        status only would look for, as none is documented; 201 would be unexpected there, while
        programs that look for 2xx take both."""
        self._check(new.url)
        async with self._changing:
            if len(await self._of(agent)) >= MOST:
                text = f"This agent has {MOST} events already, the most there may be"
                raise HttpError(409, text)
            hook = await self._stored(
                self._hooks.create(
                    agent.client_id,
                    agent.agent_id,
                    agent.kind,
                    EventType(new.event_type),
                    _method(new.method),
                    new.url,
                    new.content_type or "json",
                )
            )
        if hook is None:
            raise HttpError(404, NO_AGENT)
        self._log("hook created", request, hook)
        return JSONResponse(_shown(hook))

    async def every(self, agent: OfAgent) -> Response:
        hooks = await self._of(agent)
        return JSONResponse([_shown(hook) for hook in hooks])

    async def read(self, one: OfOne) -> Response:
        return JSONResponse(_shown(await self._hook(one)))

    async def update(
        self,
        request: Request,
        one: OfOne,
        change: Annotated[AgentEventChange | None, Body()] = None,
    ) -> Response:
        given = {} if change is None else change.model_dump(exclude_none=True)
        if "url" in given:
            self._check(given["url"])
        if "method" in given:
            given["method"] = _method(given["method"])
        if "event_type" in given:
            given["event_type"] = EventType(given["event_type"])
        async with self._changing:
            hook = await self._hook(one)
            changed = replace(hook, **given)
            if changed != hook:
                if not await self._stored(self._hooks.update(changed)):
                    raise HttpError(404, DELETED_MEANWHILE)
                self._log("hook changed", request, changed)
        return JSONResponse(_shown(changed))

    async def delete(self, request: Request, one: OfOne) -> Response:
        hook = await self._hook(one)
        if not await self._stored(self._hooks.delete(hook.id)):
            raise HttpError(404, DELETED_MEANWHILE)
        self._log("hook deleted", request, hook)
        return Response(status_code=204)

    # -- what becomes of them

    async def test(self, one: OfOne) -> Response:
        hook = await self._hook(one)
        agent = await self._stored(self._context.directory.agent_by_id(one.agent_id))
        if agent is None:
            raise HttpError(404, NO_AGENT)
        event = _example(hook, agent, self._context.service)
        # The tester limits the time itself, as for every delivery.
        attempt = await self._context.tester.test(hook, payload(one.agent_id, event))
        return JSONResponse(
            {
                "status": attempt.status,
                "error": attempt.error,
                "seconds": round(attempt.seconds, 3),
                "delivered": attempt.outcome == "delivered",
            }
        )

    async def deliveries(self, one: OfOne, limit: Limit = 50) -> Response:
        hook = await self._hook(one)
        attempts = await self._stored(self._hooks.log(hook.id, limit))
        return JSONResponse(
            {
                "parked": await self._stored(self._hooks.parked(hook.id)),
                "deliveries": [_logged(attempt) for attempt in attempts],
            }
        )

    async def retry(self, request: Request, one: OfOne) -> Response:
        hook = await self._hook(one)
        retried = await self._stored(self._hooks.retry(hook.id))
        self._log("parked deliveries of a hook are due again", request, hook)
        return JSONResponse({"retried": retried})

    # -- what they have in common

    async def _of(self, agent: Agent) -> Sequence[Hook]:
        hooks = None
        if agent.agent_id <= LARGEST_AGENT:
            found = self._hooks.of(agent.client_id, agent.agent_id, agent.kind)
            hooks = await self._stored(found)
        if hooks is None:
            raise HttpError(404, NO_AGENT)
        return hooks

    async def _hook(self, one: One) -> Hook:
        hook = None
        if one.agent_id <= LARGEST_AGENT and one.event_id <= LARGEST_EVENT:
            found = self._hooks.hook(one.client_id, one.agent_id, one.kind, one.event_id)
            hook = await self._stored(found)
        if hook is None:
            raise HttpError(404, "No such event")
        return hook

    def _check(self, url: str) -> None:
        if (why := self._context.tester.refusal(url)) is not None:
            raise HttpError(400, f"url: {why}")

    async def _stored(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(STORE_DEADLINE):
                return await answer
        except (StoreUnavailable, TimeoutError) as error:
            # What the store says may name files and addresses: it is for the log.
            why = str(error) or "no answer"
            self._context.log.warning("hook request refused: no answer from the store", why=why)
            raise StoreUnavailable(why) from error

    def _log(self, message: str, request: Request, hook: Hook) -> None:
        # Of the URL only the host: what follows may hold a receiver's password.
        self._context.log.info(
            message,
            by=request.state.client.name,
            hook=hook.id,
            client=hook.client,
            agent_id=hook.agent_id,
            type=hook.event_type.value,
            host=urlsplit(hook.url).hostname,
        )


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


def _example(hook: Hook, agent: AgentState, service: AgentService) -> Event:
    """What would be sent if it happened now, where the agent is now."""
    extension, context = PLACEHOLDERS[hook.agent_type], ""
    if agent.session is not None and agent.session.device.type == hook.agent_type:
        extension, context = agent.session.device.extension, agent.session.device.context
    paused = hook.event_type in (EventType.PAUSE, EventType.UNPAUSE)
    return Event(
        id=f"{service.new_id()}-1",
        type=hook.event_type,
        agent=agent.number,
        extension=extension,
        queues=tuple(m.queue for m in agent.memberships),
        reason="example" if paused else "",
        source=Source.API,
        actor=Actor(),
        occurred_at=service.now(),
        context=context,
        device_type=hook.agent_type,
    )


# -- the interface


def _row(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    more: Responses | None = None,
    **schema: Any,
) -> Row:
    responses = {**RESPONSES, **(more or {})}
    schema = {"summary": summary, "responses": responses, **schema}
    return Row(method, path, Right.CONFIGURE, handler, schema)


_ALL = "/client/{client_id}/agent/{kind}/{agent_id}/event/"
_ONE = _ALL + "{event_id}"

INTERFACE = Interface(
    name="agent_events",
    tag="agent events",
    bases=("/client",),
    make=AgentEvents,
    framework=Route,
    wrong_method="Only {allow} can be done here",
    rows=(
        _row(
            "POST",
            _ALL,
            AgentEvents.create,
            "Add an HTTP event of the queue agent",
            TOO_MANY,
            response_model=AgentEvent,
        ),
        _row(
            "GET",
            _ALL,
            AgentEvents.every,
            "Get the HTTP events of the queue agent",
            response_model=list[AgentEvent],
        ),
        _row(
            "GET",
            _ONE,
            AgentEvents.read,
            "Get an HTTP event of the queue agent",
            response_model=AgentEvent,
        ),
        _row(
            "PUT",
            _ONE,
            AgentEvents.update,
            "Update an HTTP event of the queue agent",
            response_model=AgentEvent,
        ),
        _row(
            "DELETE",
            _ONE,
            AgentEvents.delete,
            "Delete an HTTP event of the queue agent",
            DELETED,
            status_code=204,
        ),
        _row(
            "POST",
            _ONE + "/test",
            AgentEvents.test,
            "Send an example of the event now",
            response_model=TestResult,
        ),
        _row(
            "GET",
            _ONE + "/deliveries",
            AgentEvents.deliveries,
            "What was delivered, and what was not",
            response_model=Deliveries,
        ),
        _row(
            "POST",
            _ONE + "/retry",
            AgentEvents.retry,
            "Try again what was given up",
            response_model=Retried,
        ),
    ),
)
