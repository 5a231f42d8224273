"""The table of interfaces. A row is a method, a path, a right, a handler and a schema.

Who may ask, dispatch, the shape of errors, OpenAPI and the names in the metrics all read it. An
interface is a module with its handlers and its rows; ``asgi.INTERFACES`` lists the interfaces.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.routing import APIRoute
from starlette.types import Scope

from fastagi.api import answers
from fastagi.api.answers import Answer, HttpError
from fastagi.api.context import Context
from fastagi.config.settings import HttpSettings, Right

# Of the object that ``Interface.make`` gives: takes the ``Call`` and gives what sends the answer.
Handler = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """``path``: ``{name}`` is one segment, ``{name:path}`` all that follow.

    ``right``: None where everybody may ask. ``schema``: arguments of FastAPI's ``add_api_route``;
    None keeps the row out of OpenAPI.
    """

    method: str
    path: str
    right: Right | None
    handler: Handler
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What one other system, or one kind of user, asks for over HTTP."""

    name: str  # in the metrics
    tag: str  # in OpenAPI
    bases: tuple[str, ...]  # the beginnings of all its paths, also of those that lead nowhere
    make: Callable[[Context], Any]  # the object that has the handlers
    rows: Sequence[Row]
    error_body: Callable[[int, str], bytes] = answers.error_body  # from status and text
    lacking: Callable[[str, Right], str] = answers.lacking  # the text of 403, for this client
    wrong_method: str = "Method Not Allowed"
    names_head: bool = True  # in ``Allow``; a GET answers a HEAD in any case
    judges: bool = False  # the handlers say who may ask; their GETs change things
    endless: bool = False  # an answer may take for ever
    # FastAPI calls the handlers, by routes of this kind: it reads what is sent, and checks it.
    framework: type[APIRoute] | None = None
    is_on: Callable[[HttpSettings], bool] = lambda http: True

    def refusal(self, error: Exception) -> Answer:
        """The answer to an HttpError, a Refused or a StoreUnavailable."""
        found = error if isinstance(error, HttpError) else answers.as_http_error(error)
        body = self.error_body(found.status, str(found)) if found.body is None else found.body
        return Answer(found.status, body, found.headers)


# Of paths that belong to no other one.
NONE = Interface(name="other", tag="", bases=(), make=lambda context: None, rows=())


@dataclass(slots=True)  # one for each request: frozen ones take three times as long to make
class Place:
    """Where a path leads. No rows: nowhere."""

    interface: Interface
    rows: Mapping[str, Row]
    is_open: bool  # everybody may ask
    values: Mapping[str, str]  # what stands in the path, by name

    @property
    def judges(self) -> bool:
        """The interface says who may ask here."""
        return self.interface.judges and bool(self.rows)

    def row(self, method: str) -> Row:
        """Raises HttpError. A GET answers a HEAD, unless it changes something."""
        if not self.rows:
            raise HttpError(404, "Not Found")
        interface = self.interface
        row = self.rows.get(method)
        if row is None and method == "HEAD" and not interface.judges:
            row = self.rows.get("GET")
        if row is None:
            allow = ", ".join(self.rows)
            if interface.names_head and not interface.judges:
                allow = allow.replace("GET", "GET, HEAD")
            text = interface.wrong_method.format(allow=allow)
            raise HttpError(405, text, ((b"allow", allow.encode()),))
        return row


@dataclass(slots=True)
class _Node:
    """What is known of a path up to one of its slashes."""

    interface: Interface
    segments: dict[str, "_Node"] = field(default_factory=dict)
    any: "_Node | None" = None  # any other segment
    rest: bool = False  # and all that follow
    rows: dict[str, Row] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # of what stands in the path
    is_open: bool = False


class Table:
    """All rows that are on, by path. A segment that a row names goes before ``{name}``."""

    def __init__(self, interfaces: Iterable[Interface], http: HttpSettings) -> None:
        self.on: list[Interface] = []
        self._root = _Node(NONE)
        for interface in interfaces:
            for base in interface.bases:
                self._node(base).interface = interface
            if not interface.is_on(http):
                continue
            self.on.append(interface)
            for row in interface.rows:
                node = self._node(row.path)
                node.rows[row.method] = row
                node.is_open = not interface.judges and all(
                    row.right is None for row in node.rows.values()
                )
                node.names = tuple(
                    part[1:-1].removesuffix(":path")
                    for part in row.path.split("/")
                    if part.startswith("{")
                )

    def _node(self, path: str) -> _Node:
        node = self._root
        for part in path.rstrip("/").split("/")[1:] or [""]:
            if part.startswith("{"):
                node.any = node.any or _Node(node.interface, rest=part.endswith(":path}"))
                node = node.any
            else:
                node = node.segments.setdefault(part, _Node(node.interface))
        return node

    def place(self, scope: Scope) -> Place:
        """Where this request leads. With and without a slash at the end a path is the same: a
        redirect would lose the body of a POST."""
        state = scope.setdefault("state", {})
        found: Place | None = state.get("place")
        if found is None:
            path: str = scope["path"]
            if path.endswith("/") and not path.endswith("//") and path != "/":
                path = scope["path"] = path[:-1]
            found = state["place"] = self._find(path)
        return found

    def _find(self, path: str) -> Place:
        node = self._root
        values: list[str] = []
        parts = path.split("/")
        for depth, part in enumerate(parts[1:], 1):
            following = node.segments.get(part)
            if following is None:
                following = node.any
                if following is None or not part:
                    return Place(node.interface, {}, False, {})
                if following.rest:
                    node = following
                    values.append("/".join(parts[depth:]))
                    break
                values.append(part)
            node = following
        by_name = dict(zip(node.names, values, strict=False))
        return Place(node.interface, node.rows, node.is_open, by_name)
