"""What Evolux's document says: how its answers look, and what OpenAPI says of its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from fastagi.api.request import LARGEST_TEXT
from fastagi.api.schema import Describe, Schema, body, content, object_of, parameter

LARGEST_ID = 2**31 - 1
LARGEST_PRIORITY = 2**31 - 1
LONGEST_NAME = 128  # characters
LONGEST_PASSWORD = 256
MOST = 50  # entries on a page

BAD = "Bad request"
# In the document's words, as far as it has them.
_PHRASES = {
    400: BAD,
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    413: "Request entity too large",
    422: "Unprocessable entity",
    429: "Too many requests",
    500: "Internal server error",
    503: "Service unavailable",
}


def body_of(status: int, message: str | Mapping[str, str], **parts: Any) -> bytes:
    return orjson.dumps({"meta": {"status": status, "message": message}} | parts)


def envelope(status: int, text: str) -> bytes:
    """``{"meta": {"status": 400, "message": "Bad request"}, "errors": ["…"]}``; a text that says
    no more than the message is left out."""
    message = _PHRASES.get(status, "Error")
    if text.lower() == message.lower():
        return body_of(status, message)
    return body_of(status, message, errors=[text])


def _or_null(schema: Schema) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_BOOLEAN = {"type": "boolean"}
_INTEGER = {"type": "integer"}
_STRING = {"type": "string"}
_TEXTS = {"type": "array", "items": _STRING}
_BY_FIELD = {"type": "object", "additionalProperties": _STRING}
_TIME = {"type": "string", "format": "date-time"}
_ID = {"type": "integer", "minimum": 1, "maximum": LARGEST_ID}

_META = object_of(status=_INTEGER, message={"anyOf": [_STRING, _BY_FIELD]})
_DONE = object_of(meta=_META)
_PLAN = {
    "type": "string",
    "enum": ["log off", "pause"],
    "description": "Not done yet: it happens when the agent's queue call ends (an extra).",
}
_DONE_OR_PLANNED = {**_DONE, "properties": {"meta": _META, "planned": _PLAN}}
_ERROR = {
    **_DONE,
    "properties": {"meta": _META, "errors": {"anyOf": [_TEXTS, _BY_FIELD]}},
}
_REASON = object_of(
    system={**_BOOLEAN, "description": "Of the service itself."},
    productive=_BOOLEAN,
    type={"type": ["string", "null"]},
    id={**_INTEGER, "description": "0: in no table, or no reason was given."},
    description=_STRING,
)
_PAUSE = object_of(
    max_duration={"type": ["integer", "null"], "description": "Seconds."},
    time_start=_TIME,
    reason_id=_INTEGER,
    time_end=_or_null(_TIME),
    reason=_REASON,
    id=_INTEGER,
)
_SESSION = object_of(
    exten={**_STRING, "examples": ["sip/3012"]},
    time_logoff=_or_null(_TIME),
    id=_INTEGER,
    time_login=_TIME,
)
_AGENT = object_of(
    archived=_BOOLEAN,
    enable=_BOOLEAN,
    name=_STRING,
    queues={"type": "array", "items": _INTEGER},
    current_extension={"type": ["string", "null"]},
    last_pause=_or_null(_PAUSE),
    last_login=_or_null(_SESSION),
    current_pause=_or_null(_PAUSE),
    login=_STRING,
    current_outbound_queue={"type": "null"},
    id=_INTEGER,
)
_AGENT["properties"] |= {
    "planned": _PLAN,
    "known": {
        "type": "boolean",
        "description": "False while the agent's Asterisk or the database is away: what is shown is"
        " of before (an extra; else it is left out).",
    },
}
_AGENT_PAUSE = object_of(
    pause=_REASON,
    automatic_unpause=_BOOLEAN,
    queue_id=_INTEGER,
    disable_unpause={**_BOOLEAN, "description": "From the phone, before the limit."},
    limit_duration={"type": ["integer", "null"], "description": "Seconds."},
    id=_INTEGER,
)
_PAGINATION = object_of(
    max_limit=_INTEGER,
    limit=_INTEGER,
    first_url=_STRING,
    next_url={"type": ["string", "null"]},
    items=_INTEGER,
    last_url=_STRING,
    total=_INTEGER,
    current_url=_STRING,
    prev_url={"type": ["string", "null"]},
)


def _page_of(schema: Schema) -> dict[str, Any]:
    return object_of(pagination=_PAGINATION, meta=_META, data={"type": "array", "items": schema})


_DIGITS = {
    "minimum": 0,
    "maximum": LARGEST_TEXT,
}  # an integer is taken for the string of its digits
_NAME = {
    "type": ["string", "integer"],
    **_DIGITS,
    "minLength": 1,
    "maxLength": LONGEST_NAME,
    "pattern": r"\S",
    "description": "Nome do agente",
}
_PASSWORD = {
    "type": ["string", "integer"],
    **_DIGITS,
    "minLength": 1,
    "maxLength": LONGEST_PASSWORD,
    "pattern": r"\S",
    "description": "Senha do agente",
}
_QUEUES = {
    "type": ["array", "null"],
    "items": _ID,
    "description": "Lista de ids de filas que o agente atende",
}
_NEW = {
    "type": "object",
    "required": ["name", "login", "password"],
    "properties": {
        "name": _NAME,
        "login": {
            "type": ["string", "integer"],
            **_DIGITS,
            "pattern": "^[A-Za-z0-9_.@-]{1,64}$",
            "description": "Login do agente",
        },
        "password": _PASSWORD,
        "queues": _QUEUES,
    },
}
_PRIORITY = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": LARGEST_PRIORITY},
        {"type": "string", "pattern": "^[0-9]{1,9}$"},
    ]
}
_ID_SENT = {"anyOf": [_ID, {"type": "string", "pattern": "^[0-9]{1,10}$"}]}
_CHANGE = {
    "type": "object",
    "properties": {
        "name": {**_NAME, "type": ["string", "integer", "null"]},
        "password": {**_PASSWORD, "type": ["string", "integer", "null"]},
        "queues": _QUEUES,
        "levels": {
            "type": ["array", "null"],
            "items": object_of(queue_id=_ID_SENT, priority=_PRIORITY),
            "description": 'Lista de objetos que contém as propriedades "queue_id" e "priority":'
            " the member's penalty in Asterisk.",
        },
    },
}
_CHOICE = object_of(
    pause_id={
        "anyOf": [_ID, _STRING],
        "description": "ID da pausa; or its code, name or description (an extra)",
    }
)

_OK = {"meta": {"status": 200, "message": "OK"}}
_NEW_AGENT = {
    "archived": False,
    "enable": True,
    "name": "Agent 1",
    "queues": [1, 3],
    "current_extension": None,
    "last_pause": None,
    "last_login": None,
    "current_pause": None,
    "login": "agent.1",
    "current_outbound_queue": None,
    "id": 1,
}
_OLD_AGENT = {
    "archived": True,
    "enable": False,
    "name": "Agent 2",
    "queues": [4],
    "current_extension": None,
    "last_pause": {
        "max_duration": None,
        "time_start": "2018-07-07T16:40:11+00:00",
        "reason_id": 18,
        "time_end": "2018-07-07T17:06:38+00:00",
        "reason": {
            "system": False,
            "productive": True,
            "type": None,
            "id": 18,
            "description": "Pausa Cadastro",
        },
        "id": 46983,
    },
    "last_login": {
        "exten": "sip/3012",
        "time_logoff": "2018-07-07T17:06:38+00:00",
        "id": 4591,
        "time_login": "2018-07-07T12:27:42+00:00",
    },
    "current_pause": None,
    "login": "agent.2",
    "current_outbound_queue": None,
    "id": 40,
}
_ONE_PAUSE = {
    "pause": {
        "system": False,
        "productive": True,
        "type": "nr17rest10",
        "id": 49,
        "description": "10 minutos/NR17",
    },
    "automatic_unpause": False,
    "queue_id": 13,
    "disable_unpause": False,
    "limit_duration": 600,
    "id": 1300049,
}


def _page_example(url: str, entry: Any) -> dict[str, Any]:
    return {
        "pagination": {
            "max_limit": 2,
            "limit": 2,
            "first_url": f"{url}?limit=2&page=1",
            "next_url": None,
            "items": 1,
            "last_url": f"{url}?limit=2&page=1",
            "total": 1,
            "current_url": f"{url}?limit=2&page=1",
            "prev_url": None,
        },
        **_OK,
        "data": [entry],
    }


def _refused(status: int, message: Any, *texts: str) -> dict[str, Any]:
    refused: dict[str, Any] = {"meta": {"status": status, "message": message}}
    return refused | ({"errors": list(texts)} if texts else {})


def _impossible(message: str) -> dict[str, Any]:
    return _refused(422, message, "Request well-formed but has a semantic impossibility.")


_NO_AGENT = [_refused(404, "Agent not found")]
_QUEUE_REFUSED = ["Asterisk refused the change: No such queue"]
_BAD_PAGE = ["page must be a whole number from 1."]
_NO_PASSWORD = {"password": "password must not be empty or contain only spaces"}
_AGENT_ID = parameter("agent_id", "path", _ID, "ID do agente", 1)
_PAGED = [
    parameter(
        "limit",
        "query",
        {"type": "integer", "minimum": 1, "default": MOST},
        f"At most {MOST}: more is taken for that.",
        2,
    ),
    parameter(
        "page",
        "query",
        {"type": "integer", "minimum": 1, "maximum": 10**15 - 1, "default": 1},
        "From 1.",
        1,
    ),
]


_describe = Describe(
    "evolux",
    _ERROR,
    envelope,
    about={
        404: "There is no such agent, or no such pause.",
        409: "Asterisk refuses it.",
        422: "It makes no sense now.",
    },
)


def _answers(schema: Schema, example: Any, status: int = 200) -> dict[int, Any]:
    about = "The new agent." if status == 201 else "Done."
    return {status: {"description": about, "content": content(schema, example)}}


_OK_ANSWER = _answers(_DONE, _OK)
_OK_OR_PLANNED = _answers(_DONE_OR_PLANNED, _OK)
_AGENT_PAUSES = _answers(
    _page_of(_AGENT_PAUSE),
    _page_example("https://example.evolux.net.br/api/v1/agents/1/pauses", _ONE_PAUSE),
)


def _of_agent(
    name: str,
    summary: str,
    success: Mapping[int, Any],
    refusals: Mapping[int, Sequence[Any]],
    *parameters: Any,
    **more: Any,
) -> dict[str, Any]:
    refusals = {404: _NO_AGENT, **refusals}
    return _describe(name, summary, success, refusals, parameters=[_AGENT_ID, *parameters], **more)


AGENTS = _describe(
    "agents",
    "Listar agentes",
    _answers(
        _page_of(_AGENT),
        _page_example("https://example.evolux.net.br/api/v1/agents/", _OLD_AGENT),
    ),
    {400: _BAD_PAGE},
    parameters=_PAGED,
)
CREATE = _describe(
    "create",
    "Criar um agente",
    _answers(
        object_of(meta=_META, data=_AGENT), {**_refused(201, "Created"), "data": _NEW_AGENT}, 201
    ),
    {
        400: (
            "Agent not created, queues list must contains only integer ids.",
            "Agente não foi criado, esse login já está sendo usado.",
            "Agent not created, name is missing.",
        )
    },
    requestBody=body(
        _NEW,
        {"name": "Agent 1", "login": "agent.1", "password": "agent_pass", "queues": [1, 3]},
    ),
)
EDIT = _of_agent(
    "edit",
    "Editar um agente",
    _OK_ANSWER,
    {
        400: [{**_refused(400, _NO_PASSWORD), "errors": _NO_PASSWORD}],
        409: _QUEUE_REFUSED,
    },
    requestBody=body(_CHANGE, {"levels": [{"queue_id": 1, "priority": 3}]}, needed=False),
)
PAUSES = _of_agent("pauses", "Listar pausas do agente", _AGENT_PAUSES, {400: _BAD_PAGE}, *_PAGED)
PAUSES_BY_POST = _of_agent(
    "pauses_by_post",
    "Listar pausas do agente (as the document's example asks)",
    _AGENT_PAUSES,
    {400: _BAD_PAGE},
    *_PAGED,
)
PAUSE = _of_agent(
    "pause",
    "Pausar um agente",
    _OK_OR_PLANNED,
    {
        400: [
            _refused(400, "Agent is not logged"),
            "pause_id is missing.",
            _refused(400, "Não é possível pausar enquanto está em uma chamada."),
        ],
        404: [*_NO_AGENT, _refused(404, "Pause not found")],
        409: _QUEUE_REFUSED,
        422: [
            _impossible("Agent already paused"),
            _impossible("The time for this pause is used up for today"),
        ],
    },
    requestBody=body(_CHOICE, {"pause_id": 49}),
)
UNPAUSE = _of_agent(
    "unpause",
    "Despausar um agente",
    _OK_OR_PLANNED,
    {
        409: _QUEUE_REFUSED,
        422: [
            _impossible("Agent is unpaused"),
            _impossible("This pause cannot be ended before its time"),
        ],
    },
)
LOGOFF = _of_agent(
    "logoff",
    "Deslogar um agente",
    _OK_ANSWER,
    {
        400: [
            _refused(400, "Agent is not logged"),
            _refused(400, "Não é possível sair enquanto está em uma chamada."),
        ],
        409: _QUEUE_REFUSED,
    },
)
