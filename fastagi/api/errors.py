"""What a caller is told when something is refused, and in which shape.

``{"error": "No such agent"}`` in every face that has no shape of its own.
"""

from collections.abc import Callable
from typing import Any

import orjson
from starlette.responses import Response

from fastagi.agents import errors
from fastagi.agents.service import StoreUnavailable
from fastagi.config.settings import Right

JSON = "application/json"
RETRY = {"Retry-After": "1"}
AWAY = "Asterisk or the database is away and nothing was changed: try again"
STORE_AWAY = "The database is away: try again"
FAILED = "Internal error: the log says more"

# The face that a path belongs to, by its first segment or two: names of figures, too.
_FACES = {
    "0.1": "agentd",
    "api/agent.php": "agent_php",
    "api/v1": "evolux",
    "client": "agent_events",
    "events": "events",
    "": "page",
    "page": "page",
    "live": "page",
    "health": "health",
    "metrics": "metrics",
    "docs": "docs",
    "openapi.json": "docs",
}

# In Evolux's words, as far as its document has them.
_PHRASES = {
    400: "Bad request",
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


def face_of(path: str) -> str:
    """The name of the face, "other" where no face is."""
    first, _, rest = path[1:].partition("/")
    if first == "api":  # two faces live there
        first = f"api/{rest.partition('/')[0]}"
    return _FACES.get(first, "other")


def body(text: str) -> bytes:
    return orjson.dumps({"error": text})


def envelope(status: int, text: str) -> bytes:
    """Evolux's: ``{"meta": {"status": 400, "message": "Bad request"}, "errors": ["…"]}``."""
    meta = {"status": status, "message": _PHRASES.get(status, "Error")}
    return orjson.dumps({"meta": meta, "errors": [text]})


# Of the faces that do not have the common one: from status and text.
_SHAPES: dict[str, Callable[[int, str], bytes]] = {"evolux": envelope}


def body_at(path: str, status: int, text: str) -> bytes:
    """In the shape of the face that ``path`` belongs to."""
    shape = _SHAPES.get(face_of(path))
    return body(text) if shape is None else shape(status, text)


def response(
    status: int, text: str, headers: dict[str, str] | None = None, path: str = ""
) -> Response:
    return Response(body_at(path, status, text), status, headers, JSON)


def lacking(right: Right) -> str:
    return f"This needs the right {right.value!r}"


def _refused_by_asterisk(refusal: errors.QueueRefused) -> str:
    words = refusal.words
    return f"Asterisk refused the change: {words}" if words else "Asterisk refused the change"


_Words = str | Callable[[Any], str]

# Subclasses before their bases.
_REFUSALS: tuple[tuple[type[Exception], int, _Words], ...] = (
    (errors.NoSuchAgent, 404, "No such agent"),
    (errors.NotLoggedIn, 400, "Not logged"),
    (errors.NoSuchExtension, 400, "No such extension"),
    (errors.ExtensionInUse, 409, lambda r: f"Extension is in use by agent {r.occupant}"),
    (
        errors.LoggedInElsewhere,
        409,
        lambda r: f"Agent is already logged in at {r.device.extension}",
    ),
    (errors.InCall, 409, "Agent is in a call"),
    (errors.NoSuchReason, 400, "No such pause reason"),
    (errors.PauseLocked, 409, "This pause cannot be ended before its time"),
    (errors.PauseSpent, 409, "The time for this pause reason is used up for today"),
    (errors.NoSuchQueue, 400, "No such queue"),
    (errors.NotAMember, 400, "Agent not in queue"),
    (errors.LastInQueue, 409, "Agent is the last one in the queue"),
    (errors.QueueRefused, 409, _refused_by_asterisk),
    (errors.Unsettled, 503, "Asterisk or the database gave no answer: it may have happened"),
    (errors.InProgress, 503, "Another change of this agent is on its way: try again"),
    (errors.Unavailable, 503, AWAY),
    (errors.Busy, 503, "The service is busy and nothing was changed: try again"),
    (StoreUnavailable, 503, STORE_AWAY),
    (errors.Refused, 403, "Refused"),
)


def told(refusal: Exception) -> tuple[int, str]:
    """Status and text of a Refused or a StoreUnavailable."""
    for kind, status, words in _REFUSALS:
        if isinstance(refusal, kind):
            return status, words if isinstance(words, str) else words(refusal)
    raise refusal
