"""What OpenAPI tells of agentd's face: its routes with what goes in and comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastagi.api import errors
from fastagi.api.face import LARGEST_TEXT, or_nothing

LARGEST_ID = 2**31 - 1


def _object(required: Sequence[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_ERROR = _object(["error"], error={"type": "string"})
_ID_SCHEMA = {"type": "integer", "minimum": 1, "maximum": LARGEST_ID}
_ID_SENT = {"anyOf": [_ID_SCHEMA, {"type": "string", "pattern": "^[0-9]{1,10}$"}]}
_NUMBER_SCHEMA = {"type": "string", "pattern": "^[0-9]{1,20}$"}
_MEMBER = _object(
    ["agent_id", "queue_id"],
    agent_id={**_ID_SENT, "description": "Agent's ID"},
    queue_id={**_ID_SENT, "description": "Queue's ID"},
)
_LOGIN = _object(
    ["extension"],
    extension={
        "type": ["string", "integer"],
        "minLength": 1,
        "maxLength": 40,
        "minimum": 0,
        "maximum": LARGEST_TEXT,
        "description": "Extension to log the agent",
    },
    context={
        "type": ["string", "integer", "null"],
        "minimum": 0,
        "maximum": LARGEST_TEXT,
        "description": "Context to log the agent; may be left out (an extra)",
    },
    asterisk={
        "type": ["string", "integer", "null"],
        "minimum": 0,
        "maximum": LARGEST_TEXT,
        "description": "Which Asterisk, by its name, where there are several: without it the"
        " first one (an extra)",
    },
)
_PAUSE = _object(
    [],
    reason={
        "type": ["string", "integer", "null"],
        "minimum": 0,
        "maximum": LARGEST_TEXT,
        "description": "A pause reason's code, name or description, in any case and with or"
        " without accents; without it a pause without reason (an extra)",
    },
)
_PLAN = {
    "type": "string",
    "enum": ["", "log off", "pause"],
    "description": "What happens when the agent's present queue call ends (an extra).",
}
_QUEUE = _object(
    ["id", "name", "logged", "paused"],
    id={"type": ["integer", "null"]},
    name={"type": "string"},
    logged={"type": "boolean", "description": "The agent is in it now."},
    paused={"type": "boolean", "description": "The agent gets no calls from it now."},
)
_STATUS = _object(
    ["id", "number", "logged", "paused", "paused_reason", "queues", "planned", "known"],
    id={"type": "integer"},
    number={"type": "string"},
    logged={"type": "boolean"},
    extension={"type": "string", "description": "Only while logged in."},
    context={"type": "string", "description": "Only while logged in."},
    paused={"type": "boolean"},
    paused_reason={"type": ["string", "null"], "description": '"": a pause without reason.'},
    queues={"type": "array", "items": _QUEUE},
    planned=_PLAN,
    known={
        "type": "boolean",
        "description": "False while the agent's Asterisk or the database is away: all this is of"
        " before, and may not be true any more (an extra).",
    },
)
_FAILURE = _object(
    ["id", "number", "error"],
    id={"type": "integer"},
    number={"type": "string"},
    error={"type": "string"},
)
_PARTLY = _object(
    ["done", "planned", "failed"],
    done={"type": "integer", "minimum": 0},
    planned={
        "type": "integer",
        "minimum": 0,
        "description": "For the end of the agent's queue call: not done yet.",
    },
    failed={"type": "array", "minItems": 1, "items": _FAILURE},
)
_LOGGED_EXAMPLE = {
    "id": 54,
    "number": "2312",
    "logged": True,
    "extension": "43563",
    "context": "office-1",
    "paused": True,
    "paused_reason": "lunch",
    "queues": [{"id": 15, "name": "sales", "logged": True, "paused": True}],
    "planned": "",
    "known": True,
}
_STATUSES_EXAMPLE = [
    _LOGGED_EXAMPLE,
    {
        "id": 55,
        "number": "2313",
        "logged": False,
        "paused": False,
        "paused_reason": None,
        "queues": [{"id": 15, "name": "sales", "logged": False, "paused": False}],
        "planned": "",
        "known": True,
    },
]

_PLANNED_HEADER = {
    "Fastagi-Planned": {
        "description": "`log off` or `pause`: not done yet, it happens when the agent's queue call"
        " ends (an extra). Of all agents with how many: `log off; agents=3`.",
        "schema": {"type": "string"},
    }
}
_JSON_WRONG = ("extension: is missing", "The body is no valid JSON: …")
_NOT_LOGGED = ("Not logged",)
_NO_AGENT = ("No such agent",)
_COMMON: dict[int, tuple[str, ...]] = {
    400: ("Two different tokens",),
    401: ("A token is needed", "Wrong token"),
    403: ("This needs the right 'control'",),
    413: ("The body is larger than 65536 bytes",),
    429: ("Too many wrong tokens from this address: try again later",),
    503: (errors.AWAY,),
}
_ABOUT = {
    400: "What was sent cannot be done.",
    401: "No token, or a wrong one.",
    403: "The token's rights do not reach.",
    404: "There is no such agent.",
    409: "Something stands in the way.",
    413: "The body is too large.",
    429: "Too many wrong tokens from this address.",
    503: "Asterisk or the database is away: try again.",
}


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    name: str
    summary: str
    body: Mapping[str, Any] | None = None
    example: Any = None
    needed: bool = True  # the body
    answer: Any = None  # 200: schema and example
    errors: Mapping[int, Sequence[str]] | None = None
    partly: bool = False

    @property
    def status(self) -> int:
        return 204 if self.answer is None else 200

    @property
    def may_plan(self) -> bool:
        return self.partly or self.name.startswith(("logoff", "pause", "unpause"))


_QUEUE_ERRORS = ("Asterisk refused the change: No such queue",)
_LOGIN_ERRORS = {
    400: ("No such extension", *_JSON_WRONG),
    404: _NO_AGENT,
    409: (
        "Extension is in use by agent 4002",
        "Agent is already logged in at 1002",
        *_QUEUE_ERRORS,
    ),
}
_LOGOFF_ERRORS = {
    400: _NOT_LOGGED,
    404: _NO_AGENT,
    409: ("Agent is in a call", *_QUEUE_ERRORS),
}
_PAUSE_ERRORS = {
    400: (*_NOT_LOGGED, "No such pause reason", "reason: must be a string"),
    404: _NO_AGENT,
    409: (
        "Agent is in a call",
        "The time for this pause reason is used up for today",
        *_QUEUE_ERRORS,
    ),
}
_UNPAUSE_ERRORS = {400: _NOT_LOGGED, 404: _NO_AGENT, 409: _QUEUE_ERRORS}
_LOGIN_EXAMPLE = {"extension": "2312", "context": "office-1"}
_MEMBER_EXAMPLE = {"agent_id": 5, "queue_id": 15}
_AGENT = "/agents/{agent_id}"
_BY_NUMBER = "/agents/by-number/{agent_number}"

ROUTES = (
    Route(
        "POST",
        "/members",
        "add_member",
        "Add an agent to a queue",
        _MEMBER,
        _MEMBER_EXAMPLE,
        errors={
            400: ("No such agent", "No such queue", "Agent already in queue", *_JSON_WRONG[1:]),
            409: _QUEUE_ERRORS,
        },
    ),
    Route(
        "DELETE",
        "/members",
        "remove_member",
        "Remove an agent from a queue; the fields may stand in the query instead (an extra)",
        _MEMBER,
        _MEMBER_EXAMPLE,
        errors={
            400: ("No such agent", "No such queue", "Agent not in queue", *_JSON_WRONG[1:]),
            409: _QUEUE_ERRORS,
        },
    ),
    Route("POST", "/agents/all/logoff", "logoff_all", "Log off all agents", partly=True),
    Route("POST", "/agents/all/relog", "relog_all", "Relog all agents", partly=True),
    Route(
        "GET",
        "/agents/all/statuses",
        "statuses",
        "Get the statuses of all agents",
        answer=({"type": "array", "items": _STATUS}, _STATUSES_EXAMPLE),
    ),
    *(
        route
        # The document pauses by number alone.
        for path, which, suffix, beyond in (
            (_AGENT, "ID", "", " (an extra)"),
            (_BY_NUMBER, "number", "_by_number", ""),
        )
        for route in (
            Route(
                "POST",
                path + "/login",
                "login" + suffix,
                f"Log an agent in, by {which}",
                _LOGIN,
                _LOGIN_EXAMPLE,
                errors=_LOGIN_ERRORS,
            ),
            Route(
                "POST",
                path + "/logoff",
                "logoff" + suffix,
                f"Log an agent off, by {which}",
                errors=_LOGOFF_ERRORS,
            ),
            Route(
                "POST",
                path + "/pause",
                "pause" + suffix,
                f"Pause an agent, by {which}" + beyond,
                _PAUSE,
                {"reason": "lunch"},
                needed=False,
                errors=_PAUSE_ERRORS,
            ),
            Route(
                "POST",
                path + "/unpause",
                "unpause" + suffix,
                f"Unpause an agent, by {which}" + beyond,
                errors=_UNPAUSE_ERRORS,
            ),
            Route(
                "GET",
                path + "/status",
                "status" + suffix,
                f"Get an agent's status, by {which}",
                answer=(_STATUS, _LOGGED_EXAMPLE),
                errors={404: _NO_AGENT},
            ),
        )
    ),
)


def _content(schema: Mapping[str, Any], *examples: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if len(examples) == 1:
        content["example"] = examples[0]
    elif examples:
        content["examples"] = {f"example {n}": {"value": e} for n, e in enumerate(examples, 1)}
    return {"application/json": content}


def responses(route: Route) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    if route.answer is None:
        found[204] = {"description": "Done."}
        if route.may_plan:
            found[204] = {"description": "Done, or planned.", "headers": _PLANNED_HEADER}
    else:
        schema, example = route.answer
        found[200] = {"description": "The answer.", "content": _content(schema, example)}
    if route.partly:
        failure = {"id": 54, "number": "2312", "error": "Agent is in a call"}
        found[207] = {
            "description": "Not all could be done: how many were, and which were not and why"
            " (an extra).",
            "content": _content(_PARTLY, {"done": 9999, "planned": 0, "failed": [failure]}),
            "headers": _PLANNED_HEADER,
        }
    for status, texts in sorted({**_COMMON, **(route.errors or {})}.items()):
        examples = [{"error": text} for text in texts]
        found[status] = {"description": _ABOUT[status], "content": _content(_ERROR, *examples)}
    return found


def extra(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = {}
    parameters: list[tuple[str, Mapping[str, Any], str, Any]] = []
    if "{agent_id}" in route.path:
        parameters.append(("agent_id", _ID_SCHEMA, "Agent's ID", 54))
    if "{agent_number}" in route.path:
        parameters.append(("agent_number", _NUMBER_SCHEMA, "Agent's number", "2312"))
    if parameters:
        found["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": about,
                "schema": schema,
                "example": example,
            }
            for name, schema, about, example in parameters
        ]
    if route.body is not None:
        found["requestBody"] = {
            "required": route.needed,
            "content": _content(
                route.body if route.needed else or_nothing(route.body), route.example
            ),
        }
    return found
