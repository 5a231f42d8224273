"""What OpenAPI tells of Evolux's face: its routes with what goes in and comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastagi.api import errors
from fastagi.api.face import LARGEST_TEXT, or_nothing

LARGEST_ID = 2**31 - 1
LARGEST_PRIORITY = 2**31 - 1
LONGEST_NAME = 128  # characters
LONGEST_PASSWORD = 256
MOST = 50  # entries on a page

Schema = Mapping[str, Any]


def _object(**properties: Any) -> dict[str, Any]:
    """All of them required."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _or_null(schema: Schema) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_BOOLEAN = {"type": "boolean"}
_INTEGER = {"type": "integer"}
_STRING = {"type": "string"}
_TEXTS = {"type": "array", "items": _STRING}
_BY_FIELD = {"type": "object", "additionalProperties": _STRING}
_TIME = {"type": "string", "format": "date-time"}
_ID = {"type": "integer", "minimum": 1, "maximum": LARGEST_ID}

_META = _object(status=_INTEGER, message={"anyOf": [_STRING, _BY_FIELD]})
_DONE = _object(meta=_META)
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
_REASON = _object(
    system={**_BOOLEAN, "description": "Of the service itself."},
    productive=_BOOLEAN,
    type={"type": ["string", "null"]},
    id={**_INTEGER, "description": "0: in no table, or no reason was given."},
    description=_STRING,
)
_PAUSE = _object(
    max_duration={"type": ["integer", "null"], "description": "Seconds."},
    time_start=_TIME,
    reason_id=_INTEGER,
    time_end=_or_null(_TIME),
    reason=_REASON,
    id=_INTEGER,
)
_SESSION = _object(
    exten={**_STRING, "examples": ["sip/3012"]},
    time_logoff=_or_null(_TIME),
    id=_INTEGER,
    time_login=_TIME,
)
_AGENT = _object(
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
_AGENT_PAUSE = _object(
    pause=_REASON,
    automatic_unpause=_BOOLEAN,
    queue_id=_INTEGER,
    disable_unpause={**_BOOLEAN, "description": "From the phone, before the limit."},
    limit_duration={"type": ["integer", "null"], "description": "Seconds."},
    id=_INTEGER,
)
_PAGINATION = _object(
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
    return _object(pagination=_PAGINATION, meta=_META, data={"type": "array", "items": schema})


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
            "items": _object(queue_id=_ID_SENT, priority=_PRIORITY),
            "description": 'Lista de objetos que contém as propriedades "queue_id" e "priority":'
            " the member's penalty in Asterisk.",
        },
    },
}
_CHOICE = _object(
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
    told: dict[str, Any] = {"meta": {"status": status, "message": message}}
    return told | ({"errors": list(texts)} if texts else {})


def _impossible(message: str) -> dict[str, Any]:
    return _refused(422, message, "Request well-formed but has a semantic impossibility.")


def _common(status: int, message: str, text: str) -> tuple[int, list[dict[str, Any]]]:
    return status, [_refused(status, message, text)]


_EVERYWHERE = dict(
    [
        _common(400, "Bad request", "Two different tokens"),
        _common(401, "Unauthorized", "Wrong token"),
        _common(403, "Forbidden", "This needs the right 'control'"),
        _common(413, "Request entity too large", "The body is larger than 65536 bytes"),
        _common(
            429, "Too many requests", "Too many wrong tokens from this address: try again later"
        ),
        _common(503, "Service unavailable", errors.AWAY),
    ]
)
_ABOUT = {
    200: "Done.",
    201: "The new agent.",
    400: "What was sent cannot be done.",
    401: "No token, or a wrong one.",
    403: "The token's rights do not reach.",
    404: "There is no such agent, or no such pause.",
    409: "Asterisk refuses it.",
    413: "The body is too large.",
    422: "It makes no sense now.",
    429: "Too many wrong tokens from this address.",
    503: "Asterisk or the database is away: try again.",
}


@dataclass(frozen=True, slots=True)
class Route:
    """``answer``: schema and example of success, ``refusals``: examples by status."""

    method: str
    path: str
    name: str
    summary: str
    answer: tuple[Schema, Any] = (_DONE, _OK)
    refusals: Mapping[int, Sequence[Any]] | None = None
    body: tuple[Schema, Any] | None = None
    status: int = 200
    paged: bool = False


_NO_AGENT = [_refused(404, "Agent not found")]
_QUEUE_REFUSED = [_refused(409, "Conflict", "Asterisk refused the change: No such queue")]
_BAD_PAGE = [_refused(400, "Bad request", "page must be a whole number from 1.")]
_NO_PASSWORD = {"password": "password must not be empty or contain only spaces"}
_ONE = "/agents/{agent_id}"
_AGENT_PAUSES = (
    _page_of(_AGENT_PAUSE),
    _page_example("https://example.evolux.net.br/api/v1/agents/1/pauses", _ONE_PAUSE),
)

ROUTES = (
    Route(
        "GET",
        "/agents",
        "agents",
        "Listar agentes",
        (
            _page_of(_AGENT),
            _page_example("https://example.evolux.net.br/api/v1/agents/", _OLD_AGENT),
        ),
        {400: _BAD_PAGE},
        paged=True,
    ),
    Route(
        "POST",
        "/agents",
        "create",
        "Criar um agente",
        (_object(meta=_META, data=_AGENT), {**_refused(201, "Created"), "data": _NEW_AGENT}),
        {
            400: [
                _refused(400, "Bad request", text)
                for text in (
                    "Agent not created, queues list must contains only integer ids.",
                    "Agente não foi criado, esse login já está sendo usado.",
                    "Agent not created, name is missing.",
                )
            ]
        },
        (
            _NEW,
            {"name": "Agent 1", "login": "agent.1", "password": "agent_pass", "queues": [1, 3]},
        ),
        status=201,
    ),
    Route(
        "PUT",
        _ONE,
        "edit",
        "Editar um agente",
        refusals={
            400: [{**_refused(400, _NO_PASSWORD), "errors": _NO_PASSWORD}],
            404: _NO_AGENT,
            409: _QUEUE_REFUSED,
        },
        body=(_CHANGE, {"levels": [{"queue_id": 1, "priority": 3}]}),
    ),
    Route(
        "GET",
        f"{_ONE}/pauses",
        "pauses",
        "Listar pausas do agente",
        _AGENT_PAUSES,
        {400: _BAD_PAGE, 404: _NO_AGENT},
        paged=True,
    ),
    Route(
        "POST",
        f"{_ONE}/pauses",
        "pauses_by_post",
        "Listar pausas do agente (as the document's example asks)",
        _AGENT_PAUSES,
        {400: _BAD_PAGE, 404: _NO_AGENT},
        paged=True,
    ),
    Route(
        "POST",
        f"{_ONE}/pause",
        "pause",
        "Pausar um agente",
        (_DONE_OR_PLANNED, _OK),
        refusals={
            400: [
                _refused(400, "Agent is not logged"),
                _refused(400, "Bad request", "pause_id is missing."),
                _refused(400, "Não é possível pausar enquanto está em uma chamada."),
            ],
            404: [*_NO_AGENT, _refused(404, "Pause not found")],
            409: _QUEUE_REFUSED,
            422: [
                _impossible("Agent already paused"),
                _impossible("The time for this pause is used up for today"),
            ],
        },
        body=(_CHOICE, {"pause_id": 49}),
    ),
    Route(
        "POST",
        f"{_ONE}/unpause",
        "unpause",
        "Despausar um agente",
        (_DONE_OR_PLANNED, _OK),
        refusals={
            404: _NO_AGENT,
            409: _QUEUE_REFUSED,
            422: [
                _impossible("Agent is unpaused"),
                _impossible("This pause cannot be ended before its time"),
            ],
        },
    ),
    Route(
        "POST",
        f"{_ONE}/logoff",
        "logoff",
        "Deslogar um agente",
        refusals={
            400: [
                _refused(400, "Agent is not logged"),
                _refused(400, "Não é possível sair enquanto está em uma chamada."),
            ],
            404: _NO_AGENT,
            409: _QUEUE_REFUSED,
        },
    ),
)


def _json(schema: Schema, *examples: Any) -> dict[str, Any]:
    named = {f"example {n}": {"value": example} for n, example in enumerate(examples, 1)}
    return {"application/json": {"schema": schema, "examples": named}}


def responses(route: Route) -> dict[int | str, dict[str, Any]]:
    schema, example = route.answer
    about = _ABOUT[route.status]
    found: dict[int | str, dict[str, Any]] = {
        route.status: {"description": about, "content": _json(schema, example)}
    }
    for status, refusals in sorted({**_EVERYWHERE, **(route.refusals or {})}.items()):
        found[status] = {"description": _ABOUT[status], "content": _json(_ERROR, *refusals)}
    return found


def _parameter(name: str, place: str, schema: Schema, about: str, example: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": about,
        "schema": schema,
        "example": example,
    }


def extra(route: Route) -> dict[str, Any]:
    parameters = []
    if "{agent_id}" in route.path:
        parameters.append(_parameter("agent_id", "path", _ID, "ID do agente", 1))
    if route.paged:
        limit = {"type": "integer", "minimum": 1, "default": MOST}
        about = f"At most {MOST}: more is taken for that."
        parameters.append(_parameter("limit", "query", limit, about, 2))
        page = {"type": "integer", "minimum": 1, "maximum": 10**15 - 1, "default": 1}
        parameters.append(_parameter("page", "query", page, "From 1.", 1))
    found: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if route.body is not None:
        schema, example = route.body
        needed = "required" in schema
        content = _json(schema if needed else or_nothing(schema), example)
        found["requestBody"] = {"required": needed, "content": content}
    return found
