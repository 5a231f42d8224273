"""Answers of the interfaces: what a handler gives back, and what a refusal says in which status.

``{"error": "No such agent"}`` in every interface that has no shape of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from fastagi.agents import errors
from fastagi.agents.service import StoreUnavailable
from fastagi.config.settings import Right

Headers = tuple[tuple[bytes, bytes], ...]

JSON = "application/json"
RETRY: Headers = ((b"retry-after", b"1"),)
AWAY = "Asterisk or the database is away and nothing was changed: try again"
STORE_AWAY = "The database is away: try again"
FAILED = "Internal error: the log says more"


@dataclass(slots=True)
class Answer:
    """An ASGI application that sends this."""

    status: int = 200
    body: bytes = b""
    headers: Headers = ()
    type: str = JSON

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.headers]
        if self.body:
            headers.append((b"content-type", self.type.encode()))
            headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class HttpError(Exception):
    """Ends a request with this status and text, in the interface's shape; or with ``body``."""

    def __init__(
        self, status: int, text: str, headers: Headers = (), body: bytes | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers
        self.body = body


def json_answer(content: object, status: int = 200, headers: Headers = ()) -> Answer:
    return Answer(status, orjson.dumps(content), headers)


def error_body(status: int, text: str) -> bytes:
    return orjson.dumps({"error": text})


def lacking(client: str, right: Right) -> str:
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


def as_http_error(refusal: Exception) -> HttpError:
    """Of a Refused or a StoreUnavailable."""
    for kind, status, words in _REFUSALS:
        if isinstance(refusal, kind):
            text = words if isinstance(words, str) else words(refusal)
            return HttpError(status, text, RETRY if status == 503 else ())
    raise refusal
