"""Nuclear Erix's ``/api/agent.php``: four commands by GET or POST, answered in the words of its
document, its spelling too.

It knows no authentication of its own and its GETs change things: so it is off unless the
configuration has it, and each request must come from an address that is named there or show a
token. An address proves little where a browser can be: without a token a request must also name
this service as no page from elsewhere can make a browser do.
"""

import re
import socket
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson

from fastagi.agents.commands import (
    Actor,
    AddToQueue,
    Command,
    JoinQueue,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
    RemoveFromQueue,
    Unpause,
)
from fastagi.agents.devices import Device, is_extension
from fastagi.agents.errors import (
    AlreadyPaused,
    ExtensionInUse,
    InCall,
    LoggedInElsewhere,
    NoSuchAgent,
    NotLoggedIn,
    PauseLocked,
    PauseSpent,
    QueueMissing,
    Refused,
    Unavailable,
    Unsettled,
)
from fastagi.agents.model import AgentState
from fastagi.agents.service import StoreUnavailable
from fastagi.agents.text import is_text
from fastagi.api.answers import (
    JSON,
    RETRY,
    Answer,
    Headers,
    HttpError,
    as_http_error,
    json_answer,
    lacking,
)
from fastagi.api.context import Context
from fastagi.api.guard import (
    OTHER_SITES,
    OWN,
    TWO_TOKENS,
    Asker,
    Client,
    address_of,
    digest,
    is_loopback,
    names_this_machine,
    of_another_site,
    proxied,
    tokens_in,
)
from fastagi.api.limits import parsed
from fastagi.api.request import Call, declared_charset, in_thread, whole_body
from fastagi.api.schema import object_of, parameter
from fastagi.api.table import Interface, Row
from fastagi.config.settings import AlreadyElsewhere, InUseByAnother, Right
from fastagi.contract import DEVICE_LOST, Outcome, Source

MOST_FIELDS = 100
REASON_BYTES = 79  # app_queue keeps no more
NO_REASON = PauseReason("", "")

C = TypeVar("C", bound=Command)

INVALID = "Argument list invalid"
NO_AGENT = "Agent not exists"
NO_QUEUE = "Queue not exists"
NO_EXTEN = "Exten not exists"
NOT_LOGGED = "Agent not logged"
PAUSED = "Agent alredy paused"
AVAILABLE = "Agent alredy available"
AWAY = "Service unavailable"
NOT_AUTHORIZED = "Not authorized"
LOCKED = "This pause cannot be ended before its time"

_DIGITS = re.compile(r"[0-9]{1,40}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_BOUNDARY = re.compile(rb'multipart/form-data\s*;.*?boundary="?([^";,\s]{1,70})', re.I | re.S)
# A field; what has a file name too is none.
_PART = re.compile(
    rb'^content-disposition:[ \t]*form-data;[ \t]*name="?([a-z]+)"?[ \t]*\r?$', re.I | re.M
)


class PhpError(HttpError):
    """``detail``: for people, what the document's words do not say."""

    def __init__(self, text: str, status: int = 200, detail: str = "", headers: Headers = ()):
        more = {"detail": detail} if detail else {}
        super().__init__(status, text, headers, orjson.dumps({"error": text} | more))


class NotAuthorized(PhpError):
    """``why`` is for the log."""

    def __init__(self, why: str) -> None:
        # RFC 9110, 15.5.2: a 401 says how to do it better.
        super().__init__(NOT_AUTHORIZED, 401, headers=((b"www-authenticate", b"Bearer"),))
        self.why = why


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command needs to know of the request. ``number`` is the agent's."""

    fields: Mapping[str, str]
    actor: Actor
    number: str = ""

    def get(self, name: str) -> str:
        """Given empty is not given."""
        return self.fields.get(name, "")


@dataclass(frozen=True, slots=True)
class Done:
    """A success, in the document's words. ``planned``: it is not done yet, but happens when the
    agent's queue call ends."""

    text: str
    planned: str = ""


Operation = Callable[["AgentPhp", Asked], Awaitable[Done]]


class AgentPhp:
    """The guard leaves to it who may ask, and gives ``scope["state"]["asker"]``, which judges
    tokens."""

    def __init__(self, context: Context) -> None:
        settings = context.http.agent_php
        assert settings is not None
        self._context = context
        self._service = context.service
        self._allow = settings.allow
        own = (socket.gethostname(), *context.http.names)
        self._names = frozenset(name.lower().removesuffix(".") for name in own)
        token = settings.token
        self._token = None if token is None else digest(token.get_secret_value().encode())

    async def serve(self, call: Call) -> Answer:
        scope = call.scope
        asker: Asker = scope["state"]["asker"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        address = address_of(scope)
        given: dict[str, str] = {}
        actor, judged = "", False
        try:
            # A link or a picture in a web page is enough for a GET: whoever may ask here, and
            # with whatever token, no other site's page asks in their place.
            if of_another_site(headers):
                raise PhpError(OTHER_SITES, 403)
            given = _fields(call.query)
            tokens = tokens_in(scope) | _shown(given)
            if scope["method"] == "POST":
                form = _form(headers.get(b"content-type", b""), await whole_body(call.receive))
                tokens |= _shown(form)
                given |= form
            if len(tokens) > 1:
                raise PhpError(TWO_TOKENS, 400)
            if tokens:
                judged = True
                actor = await self._whose(asker, headers, address, tokens.pop())
            else:
                actor = self._by_address(headers, address)
                asker.known(actor)
            done = await self._done(Asked(given, Actor(name=actor)))
        except PhpError as error:
            if not actor and not judged:
                await asker.nobody()
            self._note(asker, address, actor, given, str(error), getattr(error, "why", ""))
            raise
        text = f"{done.text} (planned: {done.planned})" if done.planned else done.text
        self._note(asker, address, actor, given, text)
        planned = {"planned": done.planned} if done.planned else {}
        return json_answer({"success": done.text} | planned)

    def _note(
        self,
        asker: Asker,
        address: str,
        client: str,
        given: Mapping[str, str],
        answer: str,
        why: str = "",
    ) -> None:
        """Every use by somebody who may; the token stays out of it. Of those who may not the first
        of a minute, and how many more there were."""
        fields = {
            "address": address,
            "client": client,
            "command": _plain(given.get("command", "")),
            "agent": _plain(given.get("agent", "")),
            "answer": answer,
        }
        if client:
            self._context.log.info("agent.php", **fields)
            return
        about = {"why": why} if why else {}
        asker.log("info", "agent.php", asker.source, answer, why, **fields, **about)

    # -- who asks

    async def _whose(
        self, asker: Asker, headers: Mapping[bytes, bytes], address: str, token: bytes
    ) -> str:
        """The name in events: the client's, or the address. A token that is shown decides, also
        where none is needed; one per request, so that one request is one attempt."""
        # A page from elsewhere can make a browser show wrong ones: not that address's attempts.
        counts = not _in_a_browser(headers)
        found = await asker.judge(token, self._token, counts=counts)
        if not isinstance(found, Client):
            if found.status == 401:
                raise NotAuthorized("wrong token")
            raise PhpError(str(found), found.status, headers=found.headers)
        if Right.CONTROL not in found.rights:
            raise NotAuthorized(lacking("", Right.CONTROL))
        return address if found is OWN else found.name

    def _by_address(self, headers: Mapping[bytes, bytes], address: str) -> str:
        """Without a token, which is the address; raises NotAuthorized."""
        found = parsed(address)
        if proxied(headers):
            raise NotAuthorized("no token, and a proxy's address is nobody's")
        if found is None or not any(found in network for network in self._allow):
            raise NotAuthorized("no token, and the address is not allowed")
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_named(host, loopback=is_loopback(address)):
            why = "no token, and asked for by a name that is not ours: use the address, a token"
            raise NotAuthorized(f"{why} or http.names")
        if _in_a_browser(headers) or _linked(headers):
            raise NotAuthorized("no token, and a browser needs one")
        return address

    def _is_named(self, host: str, *, loopback: bool) -> bool:
        """A page from elsewhere that has its own name lead here (DNS rebinding) makes a browser
        ask for that name, whatever else it can change: an address, localhost and the names that
        the configuration knows are none that it can have."""
        if not host:
            return True  # of HTTP/1.0; every browser has one
        if loopback or names_this_machine(host):
            return names_this_machine(host)
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return parsed(name) is not None or name.lower().removesuffix(".") in self._names

    # -- what is asked

    async def _done(self, asked: Asked) -> Done:
        if not asked.get("command"):
            raise PhpError("Command not specified", 400)
        if not asked.get("agent"):
            raise PhpError("Agent not specified", 400)
        command = asked.get("command")
        operation = COMMANDS.get(command)
        if operation is None or not all(map(asked.get, NEEDED.get(command, ()))):
            raise PhpError(INVALID, 400)
        try:
            number = await self._number(asked)
            return await operation(self, Asked(asked.fields, asked.actor, number))
        except (Unavailable, StoreUnavailable) as error:
            self._context.log.warning(
                "agent.php request refused: Asterisk or the database is away", why=str(error)
            )
            raise PhpError(AWAY, 503, headers=RETRY) from error
        except Refused as refusal:
            raise _in_the_documents_words(refusal) from refusal

    async def _number(self, asked: Asked) -> str:
        login = asked.get("agent")
        number = None
        if len(login) <= 100 and login.isprintable():
            number = await self._context.records.number_of(login)
        if number is None:
            if asked.get("command") == "login" and _NUMBER.fullmatch(login):
                await self._refused(asked, Outcome.NO_SUCH_AGENT, login)
            raise NoSuchAgent(login)
        return number

    def _command(self, kind: type[C], asked: Asked, **values: Any) -> C:
        return self._service.command(kind, asked.number, Source.API, asked.actor, **values)

    # -- logging in

    async def log_in(self, asked: Asked) -> Done:
        state = await self._service.agent(asked.number)
        queue, device = await self._place(asked)
        settings = self._context.login()
        command = self._command(
            LogIn,
            asked,
            device=device,
            # Nobody is there to be asked: "ask" is "refuse".
            move=settings.already_elsewhere is AlreadyElsewhere.MOVE,
            queues=(queue,),
        )
        take_over = settings.in_use_by_another is InUseByAnother.TAKE_OVER
        # Who is logged in already is refused or moved below: the queue is joined then.
        added = state.session is None and await self._add(asked, state, queue)
        try:
            change = await self._service.execute(command, take_over=take_over)
        except Refused as refusal:
            if added and not isinstance(refusal, Unsettled):
                await self._take_back(asked, queue)
            if isinstance(refusal, LoggedInElsewhere):
                await self._service.record_refusal(command, refusal.outcome)
            raise
        state = change.after
        if not _is_in(state, queue) and not await self._add(asked, state, queue):
            await self._service.execute(self._command(JoinQueue, asked, queue=queue))
        return Done("Login OK")

    async def _place(self, asked: Asked) -> tuple[str, Device]:
        """The queue as Asterisk spells it, and where the agent sits."""
        queues = await self._call_center_queues()
        queue = _spelled(queues, asked.get("queue"))
        if queue is None:
            await self._refused(asked, Outcome.NO_SUCH_QUEUE)
            raise PhpError(NO_QUEUE)
        exten = asked.get("exten")
        device = self._context.device(exten, "") if _DIGITS.fullmatch(exten) else None
        if device is None:
            await self._refused(asked, Outcome.NO_SUCH_EXTENSION)
            raise PhpError(NO_EXTEN)
        if not queues[queue]:
            await self._refused(asked, Outcome.NO_SUCH_QUEUE)
            raise PhpError("Queue Call Center false")
        # The first one that matches made the device.
        rule = next(rule for rule in self._context.rules() if rule.pattern.matches(exten))
        if not rule.call_center:
            await self._refused(asked, Outcome.NO_SUCH_EXTENSION)
            raise PhpError("Exten Call Center false")
        return queue, device

    async def _call_center_queues(self) -> Mapping[str, bool]:
        return await in_thread(self._context.records.call_center_queues)

    async def _add(self, asked: Asked, state: AgentState, queue: str) -> bool:
        """The queue becomes one of the agent's, who is in it at once when logged in; False: it was
        already."""
        if any(m.queue == queue for m in state.memberships):
            return False
        names = await self._service.store.queue_names()
        _, dialled = names.get(queue.lower(), ("", ""))
        if not dialled:  # gone this very moment
            raise PhpError(NO_QUEUE)
        command = self._command(AddToQueue, asked, queue=queue, number=dialled)
        return (await self._service.execute(command)).alters

    async def _take_back(self, asked: Asked, queue: str) -> None:
        """Of a login that did not happen nothing stays."""
        try:
            await self._service.execute(
                self._command(RemoveFromQueue, asked, queue=queue),
                only_if=lambda state: NotLoggedIn() if state.session else None,
            )
        except Refused as refusal:
            if not isinstance(refusal, NotLoggedIn):  # who has come meanwhile keeps it
                self._context.log.warning(
                    "the queue of a refused login stays the agent's",
                    agent=asked.number,
                    queue=queue,
                    why=str(refusal),
                )

    async def _refused(self, asked: Asked, outcome: Outcome, number: str = "") -> None:
        """A login that never became a command is an event all the same."""
        exten = asked.get("exten")
        await self._service.record_refused_login(
            asked.number or number,
            exten if is_extension(exten) else "",
            "",
            asked.actor,
            Source.API,
            outcome,
        )

    # -- the rest

    async def log_off(self, asked: Asked) -> Done:
        when = self._context.login().logoff_in_call
        change = await self._service.execute(self._command(LogOff, asked, when_in_call=when))
        return Done("Logoff OK", change.after.plan)

    async def pause(self, asked: Asked) -> Done:
        reason = await self._reason(asked.get("reason").strip())
        when = self._context.pause().when_in_call
        command = self._command(Pause, asked, reason=reason, when_in_call=when)
        try:
            # Elsewhere a second pause with another reason changes the reason: not in this document.
            change = await self._service.execute(
                command, only_if=lambda state: AlreadyPaused() if state.pause else None
            )
        except AlreadyPaused:
            raise PhpError(PAUSED) from None
        if change.outcome is Outcome.ALREADY_PAUSED:
            raise PhpError(PAUSED)
        return Done("Pause OK", change.after.plan)

    async def _reason(self, wanted: str) -> PauseReason:
        if not wanted:
            return NO_REASON
        found = await self._service.reason(_readable(wanted))
        if found is None and not _is_reason(wanted):
            raise PhpError(INVALID, 400)
        # Else it is one of the program's own, as the document has it: reports group by the name.
        return found or PauseReason("", wanted)

    async def unpause(self, asked: Asked) -> Done:
        change = await self._service.execute(self._command(Unpause, asked, as_agent=True))
        # A pause that was to follow the call is taken back: that is one, too.
        if change.outcome is Outcome.NOT_PAUSED and not change.alters:
            raise PhpError(AVAILABLE)
        return Done("Unpause OK", change.after.plan)


COMMANDS: Mapping[str, Operation] = {
    "login": AgentPhp.log_in,
    "logoff": AgentPhp.log_off,
    "pause": AgentPhp.pause,
    "unpause": AgentPhp.unpause,
}
NEEDED: Mapping[str, tuple[str, ...]] = {"login": ("exten", "queue")}  # beside the agent


def _in_the_documents_words(refusal: Refused) -> PhpError:
    """In the document's words, where it has some."""
    match refusal:
        case NoSuchAgent():
            return PhpError(NO_AGENT)
        case NotLoggedIn():
            return PhpError(NOT_LOGGED)
        case LoggedInElsewhere():
            return PhpError(f"Agent already logged at {refusal.device.extension}")
        case ExtensionInUse():
            return PhpError(f"Exten in use by agent {refusal.occupant}")
        case InCall():
            return PhpError("Agent in call")
        case PauseSpent():
            return PhpError("Pause reason used up for today")
        case PauseLocked():  # which the document does not know: the agent is paused, and stays so
            return PhpError(PAUSED, detail=LOCKED)
        case QueueMissing():
            return PhpError(NO_QUEUE)
        case _:
            error = as_http_error(refusal)
            return PhpError(AWAY, 503) if error.status == 503 else PhpError(str(error))


def _is_in(state: AgentState, queue: str) -> bool:
    return any(m.queue == queue for m in state.joined)


def _spelled(queues: Mapping[str, bool], wanted: str) -> str | None:
    """Letter case does not matter in Asterisk."""
    if wanted in queues:
        return wanted
    return next((name for name in queues if name.lower() == wanted.lower()), None)


def _readable(text: str) -> str:
    """What was sent in Latin-1, as old programs do, in its letters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    return text


def _is_reason(text: str) -> bool:
    """Whether Asterisk can be given it as it is, which keeps members as one text that it splits
    on ``, | ;``; and is not the system's own."""
    return (
        is_text(text)  # nor half a character: a lone surrogate is none
        and len(text.encode("utf-8", "replace")) <= REASON_BYTES
        and not any(char in text for char in ",|;")
        and text.lower() != DEVICE_LOST
    )


def _in_a_browser(headers: Mapping[bytes, bytes]) -> bool:
    """A page in a browser may be what asks. Only to https and localhost do browsers say from where
    (Fetch Metadata, 2.3), and a picture's GET has no origin either: but for these what a browser
    shows of itself has to do. A page from elsewhere cannot change it without being asked for leave
    first (CORS); one that has this very name can, which ``_is_named`` keeps out."""
    if b"sec-fetch-site" in headers:
        return False  # ``of_another_site`` has seen it
    agent = headers.get(b"user-agent", b"").lower()
    return agent.startswith(b"mozilla/5.0") and b"accept-language" in headers


def _linked(headers: Mapping[bytes, bytes]) -> bool:
    """A page that has another name than this service leads here."""
    _, _, rest = headers.get(b"referer", b"").partition(b"://")
    asking = rest.partition(b"/")[0]
    return bool(asking) and asking.lower() != headers.get(b"host", b"").lower()


def _shown(given: Mapping[str, str]) -> set[bytes]:
    token = given.get("token", "")
    return {token.encode("utf-8", "surrogateescape")} if token else set()


# -- what was sent


def _fields(text: bytes, charset: str = "utf-8") -> dict[str, str]:
    """A query or a form; the last of a name counts, as in PHP. What is no UTF-8 comes out as lone
    surrogates, which nothing here is named."""
    try:
        pairs = parse_qsl(
            text.removeprefix(BOM_UTF8).decode(charset, "surrogateescape"),
            keep_blank_values=True,
            encoding=charset,
            errors="surrogateescape",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError:
        raise PhpError(INVALID, 400) from None
    return dict(pairs)


def _form(kind: bytes, body: bytes) -> dict[str, str]:
    """Also as PHP's own curl sends an array; of other bodies PHP reads nothing."""
    if kind.lower().lstrip().startswith(b"application/x-www-form-urlencoded"):
        return _fields(body, declared_charset(kind) or "utf-8")
    found = _BOUNDARY.match(kind.lstrip())
    return dict(_parts(body, b"\r\n--" + found[1])) if found else {}


def _parts(body: bytes, delimiter: bytes) -> Iterator[tuple[str, str]]:
    """RFC 7578, for fields of text."""
    for part in (b"\r\n" + body).split(delimiter, MOST_FIELDS)[1:]:
        if part.startswith(b"--"):
            return
        head, _, value = part.partition(b"\r\n\r\n")
        name = _PART.search(head)
        if name is not None:
            yield name[1].decode(), value.decode("utf-8", "surrogateescape")


def _plain(text: str) -> str:
    """For the log: in ASCII, no control characters, not long."""
    return text[:80].encode("unicode_escape").decode("ascii")


# -- what OpenAPI says

_ABOUT = """\
Nuclear Erix's agent.php. Off unless `http.agent_php` is set; then for the addresses named there,
or with a token: its own or that of a client with the right `control`. Of a parameter given twice
the last one counts; of a POST the body counts before the query.
"""
_FIELDS: Mapping[str, tuple[bool, str, Mapping[str, Any], str]] = {
    "command": (True, "What to do", {"enum": list(COMMANDS)}, "login"),
    "agent": (True, "The agent's login name, or number", {"minLength": 1}, "1001"),
    "exten": (False, "Where the agent sits, digits only; for `login`", {}, "1001"),
    "queue": (False, "The queue to be in, by name; for `login`", {}, "sales"),
    "reason": (
        False,
        "Why; for `pause`, and optional: a known reason's code, name or description, in any case"
        " and with or without accents, or any other printable text"
        f" of up to {REASON_BYTES} bytes without `,` `;` `|`",
        {},
        "lunch",
    ),
    "token": (False, "A token, where none of the headers has it (an extra)", {}, ""),
}
_SUCCESS = ("Login OK", "Logoff OK", "Pause OK", "Unpause OK")
_ERRORS: Mapping[int, tuple[str, tuple[str, ...]]] = {
    200: (
        "Done, or why not.",
        (
            NOT_LOGGED,
            NO_AGENT,
            NO_QUEUE,
            NO_EXTEN,
            "Queue Call Center false",
            "Exten Call Center false",
            PAUSED,
            AVAILABLE,
            "Agent already logged at 1002",
            "Exten in use by agent 1002",
            "Agent in call",
            "Pause reason used up for today",
        ),
    ),
    400: (
        "Something is missing.",
        (INVALID, "Agent not specified", "Command not specified", TWO_TOKENS),
    ),
    401: ("Neither an allowed address nor a right token.", (NOT_AUTHORIZED,)),
    403: ("A web page of another site asks.", (OTHER_SITES,)),
    413: ("The body is too large.", ("The body is larger than 65536 bytes",)),
    429: (
        "Too many wrong tokens from this address.",
        ("Too many wrong tokens from this address: try again later",),
    ),
    503: ("Asterisk or the database is away: try again.", (AWAY,)),
}


def _one(key: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [key],
        "properties": {key: {"type": "string"}, **_BESIDE[key]},
        "additionalProperties": False,
    }


_BESIDE: Mapping[str, Mapping[str, Any]] = {
    "success": {
        "planned": {
            "type": "string",
            "enum": ["log off", "pause"],
            "description": "Not done yet: it happens when the agent's queue call ends (an extra).",
        }
    },
    "error": {
        "detail": {"type": "string", "description": "For people, where there is more (an extra)."}
    },
}


def _responses() -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for status, (about, texts) in _ERRORS.items():
        examples = [{"error": text} for text in texts]
        schema = _one("error")
        if status == 200:
            examples = [{"success": text} for text in _SUCCESS] + examples
            schema = {"oneOf": [_one("success"), schema]}
        named = {next(iter(e.values())): {"value": e} for e in examples}
        found[status] = {
            "description": about,
            "content": {JSON: {"schema": schema, "examples": named}},
        }
    return found


def _schema(method: str) -> dict[str, Any]:
    name = f"agent_php_{method.lower()}"
    return {
        "name": name,
        "operation_id": name,
        "summary": f"Log an agent in or off, pause or unpause, by {method}",
        "description": _ABOUT,
        "responses": _responses(),
        # {}: nothing at all, from an allowed address.
        "openapi_extra": {
            "security": [{}, {"bearer": []}, {"token": []}, {"x_auth_token": []}],
            **(_in_the_query() if method == "GET" else _in_the_body()),
        },
    }


def _in_the_query() -> dict[str, Any]:
    parameters = [
        parameter(name, "query", {"type": "string", **more}, about, example or None)
        | {"required": needed}
        for name, (needed, about, more, example) in _FIELDS.items()
    ]
    return {"parameters": parameters}


def _in_the_body() -> dict[str, Any]:
    schema = object_of(
        *(name for name, (needed, *_) in _FIELDS.items() if not needed),
        **{
            name: {"type": "string", "description": about, **more}
            for name, (_, about, more, _) in _FIELDS.items()
        },
    )
    example = {name: example for name, (*_, example) in _FIELDS.items() if example}
    del example["reason"]
    content = {"schema": schema, "example": example}
    kinds = ("application/x-www-form-urlencoded", "multipart/form-data")
    return {"requestBody": {"required": True, "content": dict.fromkeys(kinds, content)}}


# -- the interface

INTERFACE = Interface(
    name="agent_php",
    tag="agent.php",
    bases=("/api/agent.php",),
    make=AgentPhp,
    is_on=lambda http: http.agent_php is not None,
    judges=True,
    rows=[
        Row(method, "/api/agent.php", None, AgentPhp.serve, _schema(method))
        for method in ("GET", "POST")
    ],
)
