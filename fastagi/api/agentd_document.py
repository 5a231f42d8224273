"""What OpenAPI says of agentd's interface: schemas and examples of what goes in and comes out."""

from typing import Any

from fastagi.api.request import LARGEST_TEXT
from fastagi.api.schema import Describe, Schema, body, content, object_of, parameter

LARGEST_ID = 2**31 - 1

_ERROR = object_of(error={"type": "string"})
_ID_SCHEMA = {"type": "integer", "minimum": 1, "maximum": LARGEST_ID}
_ID_SENT = {"anyOf": [_ID_SCHEMA, {"type": "string", "pattern": "^[0-9]{1,10}$"}]}
_NUMBER_SCHEMA = {"type": "string", "pattern": "^[0-9]{1,20}$"}
_MEMBER = object_of(
    agent_id={**_ID_SENT, "description": "Agent's ID"},
    queue_id={**_ID_SENT, "description": "Queue's ID"},
)
_LOGIN = object_of(
    "context",
    "asterisk",
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
_PAUSE = object_of(
    "reason",
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
_QUEUE = object_of(
    id={"type": ["integer", "null"]},
    name={"type": "string"},
    logged={"type": "boolean", "description": "The agent is in it now."},
    paused={"type": "boolean", "description": "The agent gets no calls from it now."},
)
_STATUS = object_of(
    "extension",
    "context",
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
_FAILURE = object_of(
    id={"type": "integer"},
    number={"type": "string"},
    error={"type": "string"},
)
_PARTLY = object_of(
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
_QUEUE_ERRORS = ("Asterisk refused the change: No such queue",)
_IN_CALL = ("Agent is in a call",)
_DONE = {204: {"description": "Done."}}
_MAY_BE_PLANNED = {204: {"description": "Done, or planned.", "headers": _PLANNED_HEADER}}
_describe = Describe("agentd", _ERROR, about={409: "Something stands in the way."})


def _answers(schema: Schema, example: Any) -> dict[int, Any]:
    return {200: {"description": "The answer.", "content": content(schema, example)}}


def _member(name: str, summary: str, refusal: str) -> dict[str, Any]:
    refusals = {
        400: ("No such agent", "No such queue", refusal, *_JSON_WRONG[1:]),
        409: _QUEUE_ERRORS,
    }
    example = {"agent_id": 5, "queue_id": 15}
    return _describe(name, summary, _DONE, refusals, requestBody=body(_MEMBER, example))


def _for_all(name: str, summary: str) -> dict[str, Any]:
    failure = {"id": 54, "number": "2312", "error": "Agent is in a call"}
    partly = {
        "description": "Not all could be done: how many were, and which were not and why (an"
        " extra).",
        "content": content(_PARTLY, {"done": 9999, "planned": 0, "failed": [failure]}),
        "headers": _PLANNED_HEADER,
    }
    return _describe(name, summary, {**_MAY_BE_PLANNED, 207: partly})


ADD_MEMBER = _member("add_member", "Add an agent to a queue", "Agent already in queue")
REMOVE_MEMBER = _member(
    "remove_member",
    "Remove an agent from a queue; the fields may stand in the query instead (an extra)",
    "Agent not in queue",
)
LOGOFF_ALL = _for_all("logoff_all", "Log off all agents")
RELOG_ALL = _for_all("relog_all", "Relog all agents")
STATUSES = _describe(
    "statuses",
    "Get the statuses of all agents",
    _answers({"type": "array", "items": _STATUS}, _STATUSES_EXAMPLE),
)


class OfOne:
    """Of what is done with one agent, who is named in the path by ``which``: ID or number."""

    def __init__(self, which: str) -> None:
        by_id = which == "ID"
        suffix = "" if by_id else "_by_number"
        # The document pauses by number alone.
        extra = " (an extra)" if by_id else ""
        agent = parameter(
            "agent_id" if by_id else "agent_number",
            "path",
            _ID_SCHEMA if by_id else _NUMBER_SCHEMA,
            f"Agent's {which}",
            54 if by_id else "2312",
        )

        def describe(
            name: str, summary: str, success: Any, refusals: Any, **more: Any
        ) -> dict[str, Any]:
            refusals = {404: _NO_AGENT, **refusals}
            return _describe(name + suffix, summary, success, refusals, parameters=[agent], **more)

        self.login = describe(
            "login",
            f"Log an agent in, by {which}",
            _DONE,
            {
                400: ("No such extension", *_JSON_WRONG),
                409: (
                    "Extension is in use by agent 4002",
                    "Agent is already logged in at 1002",
                    *_QUEUE_ERRORS,
                ),
            },
            requestBody=body(_LOGIN, {"extension": "2312", "context": "office-1"}),
        )
        self.logoff = describe(
            "logoff",
            f"Log an agent off, by {which}",
            _MAY_BE_PLANNED,
            {400: _NOT_LOGGED, 409: (*_IN_CALL, *_QUEUE_ERRORS)},
        )
        self.pause = describe(
            "pause",
            f"Pause an agent, by {which}{extra}",
            _MAY_BE_PLANNED,
            {
                400: (*_NOT_LOGGED, "No such pause reason", "reason: must be a string"),
                409: (
                    *_IN_CALL,
                    "The time for this pause reason is used up for today",
                    *_QUEUE_ERRORS,
                ),
            },
            requestBody=body(_PAUSE, {"reason": "lunch"}, needed=False),
        )
        self.unpause = describe(
            "unpause",
            f"Unpause an agent, by {which}{extra}",
            _MAY_BE_PLANNED,
            {400: _NOT_LOGGED, 409: _QUEUE_ERRORS},
        )
        self.status = describe(
            "status",
            f"Get an agent's status, by {which}",
            _answers(_STATUS, _LOGGED_EXAMPLE),
            {},
        )
