"""What a caller is told when something is refused, and in which shape.

One shape for every face here: ``{"error": "No such agent"}``.
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

# The face that a path belongs to, by its first segment: names of figures, too.
_FACES = {
    "0.1": "agentd",
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


def face_of(path: str) -> str:
    """The name of the face, "other" where no face is."""
    return _FACES.get(path[1:].partition("/")[0], "other")


def body(text: str) -> bytes:
    return orjson.dumps({"error": text})


def response(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(body(text), status, headers, JSON)


def lacking(right: Right) -> str:
    return f"This needs the right {right.value!r}"


def _refused_by_asterisk(refusal: errors.Refused) -> str:
    # In front of Asterisk's own words stands the operation, which is for the log.
    words = str(refusal).rpartition("): ")[2]
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
