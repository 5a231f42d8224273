"""Evolux's agents API under ``/api/v1``: paths, fields, envelopes and texts of its document, so
that programs written for it work here.

Where the document is silent, an answer has the shape of those it shows: texts of refusals that it
does not know stand in ``errors``.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary
from zlib import crc32

from starlette.types import Scope

from fastagi.agents.commands import (
    Actor,
    AddToQueue,
    AssignPenalty,
    Command,
    LogOff,
    Pause,
    PauseReason,
    RemoveFromQueue,
    Unpause,
    WhenInCall,
)
from fastagi.agents.errors import (
    AlreadyPaused,
    InCall,
    NoSuchAgent,
    NotAMember,
    NotLoggedIn,
    PauseLocked,
    PauseSpent,
)
from fastagi.agents.limits import QueuePause, QueuePauses, WhenExceeded, limit_in_queues
from fastagi.agents.model import AgentState, Change
from fastagi.agents.reasons import find
from fastagi.agents.records import AgentRecord, Period, Reason
from fastagi.agents.text import is_text
from fastagi.api import evolux_document as document
from fastagi.api.answers import Answer, HttpError, json_answer
from fastagi.api.context import Context
from fastagi.api.evolux_document import (
    BAD,
    LARGEST_ID,
    LARGEST_PRIORITY,
    LONGEST_NAME,
    LONGEST_PASSWORD,
    MOST,
    body_of,
    envelope,
)
from fastagi.api.request import BadBody, Call, as_number, as_text, in_thread, in_time, integer
from fastagi.api.table import Interface, Row
from fastagi.config.settings import Right
from fastagi.contract import SYSTEM_REASONS, Outcome, Source

BASE = "/api/v1/agents"
ONE = f"{BASE}/{{agent_id}}"
IMPOSSIBLE = "Request well-formed but has a semantic impossibility."
LOGIN_TAKEN = "Agente não foi criado, esse login já está sendo usado."
LEAVING_IN_CALL = "Não é possível sair enquanto está em uma chamada."
PAUSING_IN_CALL = "Não é possível pausar enquanto está em uma chamada."  # after the one above

C = TypeVar("C", bound=Command)
T = TypeVar("T")

_ID = re.compile(r"[0-9]{1,10}", re.ASCII)
_LIMIT = re.compile(r"[0-9]{1,1000}", re.ASCII)
_PAGE = re.compile(r"[0-9]{1,15}", re.ASCII)
_LOGIN = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)
_ORDERED = re.compile(r"[0-9a-f]{28}", re.ASCII)
_HOST = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?", re.ASCII
)


def _refusal(
    status: int,
    message: str | Mapping[str, str],
    errors: Sequence[str] | Mapping[str, str] | None = None,
) -> HttpError:
    """``errors`` are left out when None."""
    parts = {} if errors is None else {"errors": errors}
    return HttpError(status, str(message), body=body_of(status, message, **parts))


def _bad(*texts: str) -> HttpError:
    return _refusal(400, BAD, texts)


def _impossible(message: str) -> HttpError:
    return _refusal(422, message, [IMPOSSIBLE])


def _in_fields(wrong: Mapping[str, str]) -> HttpError:
    """``message`` by field is the document's, and so would ``errors`` be, but for its brackets:
    ``["password": "…"]`` is no JSON. What stands between them is the inside of an object."""
    return _refusal(400, wrong, wrong)


def _not_found() -> HttpError:
    return _refusal(404, "Agent not found")


def _id(call: Call) -> int:
    key = call.values["agent_id"]
    id = int(key) if _ID.fullmatch(key) else 0
    if not _in_range(id):
        raise _not_found()
    return id


def _answer(status: int, message: str, **parts: Any) -> Answer:
    return Answer(status, body_of(status, message, **parts))


DONE = _answer(200, "OK")


def _done(change: Change) -> Answer:
    """What waits for the end of the agent's queue call stands beside the document's answer."""
    plan = change.after.plan
    return _answer(200, "OK", planned=plan) if plan else DONE


class Evolux:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._service = context.service
        # Of two who edit one agent at once, the result is what one of them wants.
        self._editing: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    # -- showing

    async def list_agents(self, call: Call) -> Answer:
        page = _page(call)
        rules = await in_time(self._context.directory.queue_pauses())

        def read() -> tuple[list[dict[str, Any]], int]:
            found, total = self._context.records.agents(page.offset, page.limit)
            showing = self._showing(rules)
            now = self._now([record.number for record in found])
            return [showing.agent(record) | now.get(record.number, {}) for record in found], total

        shown, total = await in_thread(read)
        return _listed(page, f"{_origin(call.scope)}{BASE}/", shown, total)

    async def list_pauses(self, call: Call) -> Answer:
        id, page = _id(call), _page(call)
        rules = await in_time(self._context.directory.queue_pauses())

        def read() -> list[dict[str, Any]]:
            record = self._context.records.agent(id)
            if record is None:
                raise _not_found()
            return list(self._showing(rules).pauses(record))

        found = await in_thread(read)
        shown = found[page.offset : page.offset + page.limit]
        return _listed(page, f"{_origin(call.scope)}{BASE}/{id}/pauses", shown, len(found))

    def _now(self, numbers: Sequence[str]) -> dict[str, dict[str, Any]]:
        """By number, what the document has no field for, where there is something to say: what is
        planned, and that what is shown may not be true any more. Blocks."""
        found: dict[str, dict[str, Any]] = {}
        for view in self._context.reading.agents(numbers):
            more = found[view.number] = {}
            if view.planned:
                more["planned"] = view.planned
            if not self._context.known(view):
                more["known"] = False
        return found

    def _showing(self, rules: QueuePauses) -> "Showing":
        """Blocks."""
        ids = self._context.reading.queue_ids()
        return Showing(self._context.records.reasons(), ids, rules)

    # -- creating and editing

    async def create(self, call: Call) -> Answer:
        given = await _fields(call)
        wrong: dict[str, str] = {}
        for field in ("name", "login", "password"):
            if given.get(field) is None:
                wrong[field] = f"{field} is missing"
        name = _checked(given, "name", _name, wrong)
        login = _checked(given, "login", _login, wrong)
        password = _checked(given, "password", _password, wrong)
        queues = _checked(given, "queues", _queues, wrong) or ()
        for id in queues:
            if not _in_range(id):
                wrong["queues"] = _no_such_queue(id)
        if wrong:
            raise _bad(*(f"Agent not created, {text}." for text in wrong.values()))
        assert name is not None
        assert login is not None
        assert password is not None
        records = self._context.records
        try:
            new = await in_time(records.create(name, login, password, queues))
        except KeyError as error:
            text = _no_such_queue(error.args[0])
            raise _bad(f"Agent not created, {text}.") from None
        if new is None:
            raise _bad(LOGIN_TAKEN)
        self._context.log.info("an agent was created", by=call.client.name, agent_id=new)
        rules = await in_time(self._context.directory.queue_pauses())

        def read() -> dict[str, Any]:
            record = records.agent(new)
            assert record is not None
            return self._showing(rules).agent(record)

        return _answer(201, "Created", data=await in_thread(read))

    async def edit(self, call: Call) -> Answer:
        id = _id(call)
        lock = self._editing.get(id)
        if lock is None:
            lock = self._editing[id] = asyncio.Lock()
        async with lock:
            state = await self._agent(id)
            given = await _fields(call)
            wrong: dict[str, str] = {}
            name = _checked(given, "name", _name, wrong)
            password = _checked(given, "password", _password, wrong)
            queues = _checked(given, "queues", _queues, wrong)
            levels = _checked(given, "levels", _levels, wrong)
            commands: list[Command] = []
            if queues is not None or levels:
                commands = await self._assigning(call, state, queues, levels or {}, wrong)
            if wrong:
                raise _in_fields(wrong)
            # From here on only Asterisk or the store may refuse: those changes first that can be.
            for command in commands:
                try:
                    await self._execute(command)
                except NotAMember:
                    if not isinstance(command, RemoveFromQueue):
                        raise  # out of it as wanted is as good, whoever did it
            if name is not None or password is not None:
                changed = self._context.records.change(id, name=name, password=password)
                if not await in_time(changed):
                    raise _not_found()
        fields = [field for field in ("name", "password", "queues", "levels") if field in given]
        log = self._context.log
        log.info("an agent was changed", by=call.client.name, agent_id=id, fields=fields)
        return DONE

    async def _assigning(
        self,
        call: Call,
        state: AgentState,
        queues: Sequence[int] | None,
        levels: Mapping[int, int],
        wrong: dict[str, str],
    ) -> list[Command]:
        """What makes the agent's queues exactly ``queues``, with these penalties; what cannot be is
        noted in ``wrong``."""
        context = self._context

        def read() -> tuple[Mapping[str, int], AgentRecord | None]:
            return context.reading.queue_ids(), context.records.agent(state.id)

        ids, record = await in_thread(read)
        own = set(record.queues) if record is not None else set()
        current = {ids[m.queue]: m.queue for m in state.memberships if m.queue in ids}
        joining: list[Command] = []
        leaving: list[Command] = []
        penalties: list[Command] = []

        def command(kind: type[C], **values: Any) -> C:
            return self._command(kind, call, state.number, **values)

        for id in queues or ():
            if id in current and id in own:
                continue
            queue = await in_time(context.directory.queue_by_id(id)) if _in_range(id) else None
            if queue is None:
                wrong.setdefault("queues", _no_such_queue(id))
                continue
            name, number = queue
            if (
                id in current
            ):  # somebody put the agent there in Asterisk: it becomes the agent's own
                joining.append(command(RemoveFromQueue, queue=name))
            penalty = levels.get(id, 0)
            joining.append(command(AddToQueue, queue=name, number=number, penalty=penalty))
        for id, name in current.items():
            if queues is not None and id not in queues:
                leaving.append(command(RemoveFromQueue, queue=name))
        staying = current.keys() if queues is None else queues
        for id, penalty in levels.items():
            if id not in staying:
                wrong.setdefault("levels", f"the agent is not in the queue with the id {id}")
            elif id in current and (queues is None or id in own):
                penalties.append(command(AssignPenalty, queue=current[id], penalty=penalty))
        # At no moment is the agent in fewer queues than before and after.
        return joining + penalties + leaving

    # -- which agent

    async def _agent(self, id: int) -> AgentState:
        state = await in_time(self._context.directory.agent_by_id(id))
        if state is None:
            raise _not_found()
        return state

    def _command(self, kind: type[C], call: Call, agent: str, **values: Any) -> C:
        actor = Actor(name=call.client.name)
        return self._service.command(kind, agent, Source.API, actor, **values)

    async def _execute(self, command: Command, **options: Any) -> Change:
        try:
            return await self._service.execute(command, **options)
        except NoSuchAgent:
            raise _not_found() from None

    # -- pausing and logging off

    async def pause(self, call: Call) -> Answer:
        state = await self._agent(_id(call))
        given = (await _fields(call)).get("pause_id")
        if given is None:
            raise _bad("pause_id is missing.")
        wanted = as_number(given)
        if wanted is None and not isinstance(given, str):
            raise _bad("pause_id must be an integer.")
        known = [r for r in await in_thread(self._context.records.reasons) if not r.archived]
        if wanted is not None:
            reason = next((r for r in known if r.id == wanted), None)
        else:  # the description, say, which is all that the document's lists say of a pause
            reason = find(known, given)
        if reason is None:
            raise _refusal(404, "Pause not found")
        command = self._command(
            Pause,
            call,
            state.number,
            reason=PauseReason(reason.code, reason.name),
            when_in_call=self._context.pause().when_in_call,
        )
        try:
            change = await self._execute(
                command, only_if=lambda now: AlreadyPaused() if now.pause else None
            )
        except AlreadyPaused:
            raise _impossible("Agent already paused") from None
        except NotLoggedIn:
            raise _refusal(400, "Agent is not logged") from None
        except PauseSpent:
            raise _impossible("The time for this pause is used up for today") from None
        except InCall:
            raise _refusal(400, PAUSING_IN_CALL) from None
        if change.outcome is Outcome.ALREADY_PAUSED:  # another service was faster
            raise _impossible("Agent already paused")
        return _done(change)

    async def unpause(self, call: Call) -> Answer:
        state = await self._agent(_id(call))
        try:
            command = self._command(Unpause, call, state.number, as_agent=True)
            change = await self._execute(command)
        except NotLoggedIn:  # so not paused either, and this the document knows
            raise _impossible("Agent is unpaused") from None
        except PauseLocked:
            raise _impossible("This pause cannot be ended before its time") from None
        # A pause that waited for the end of a call and is not wanted any more is a change.
        if change.outcome is Outcome.NOT_PAUSED and not change.alters:
            raise _impossible("Agent is unpaused")
        return _done(change)

    async def log_off(self, call: Call) -> Answer:
        state = await self._agent(_id(call))
        command = self._command(LogOff, call, state.number, when_in_call=WhenInCall.REFUSE)
        try:
            await self._execute(command)
        except NotLoggedIn:
            raise _refusal(400, "Agent is not logged") from None
        except InCall:
            raise _refusal(400, LEAVING_IN_CALL) from None
        return DONE


# -- what was sent


def _origin(scope: Scope) -> str:
    """``Host`` is whatever the client says: one that is none is not repeated."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    text = host.decode("latin-1")
    if not _HOST.fullmatch(text):
        server = scope.get("server") or ("localhost", None)
        name = f"[{server[0]}]" if ":" in server[0] else server[0]
        text = name if server[1] is None else f"{name}:{server[1]}"
    return f"{scope['scheme']}://{text}"


@dataclass(frozen=True, slots=True)
class Page:
    """``asked``: the limit was in the query."""

    limit: int
    number: int
    asked: bool

    @property
    def offset(self) -> int:
        return (self.number - 1) * self.limit


def _page(call: Call) -> Page:
    """More than the document's maximum is that maximum: who reads on by ``next_url`` gets all."""
    try:
        given = dict(parse_qsl(call.query.decode("latin-1"), True, max_num_fields=100))
    except ValueError:
        raise _bad("The query has too many fields.") from None
    counts: dict[str, int] = {}
    for field, digits in (("limit", _LIMIT), ("page", _PAGE)):
        if field in given:
            text = given[field]
            counts[field] = int(text) if digits.fullmatch(text) else 0
            if not counts[field]:
                raise _bad(f"{field} must be a whole number from 1.")
    limit = min(counts.get("limit", MOST), MOST)
    return Page(limit, counts.get("page", 1), "limit" in counts)


async def _fields(call: Call) -> dict[str, Any]:
    try:
        return await call.fields()
    except BadBody as bad:
        raise _bad(str(bad).partition(":")[0] + ".") from None


def _checked(
    given: Mapping[str, Any], field: str, check: Callable[[Any], T], wrong: dict[str, str]
) -> T | None:
    """The field's value, None where it is left out or null; what is wrong with it goes into
    ``wrong``."""
    value = given.get(field)
    if value is None:
        return None
    try:
        return check(value)
    except ValueError as error:
        wrong[field] = str(error)
        return None


def _text(value: Any, field: str, longest: int) -> str:
    given = as_text(value)
    if given is None:
        raise ValueError(f"{field} must be a string")
    if not given.strip():
        raise ValueError(f"{field} must not be empty or contain only spaces")
    if len(given) > longest:
        raise ValueError(f"{field} must not be longer than {longest} characters")
    return given


def _name(value: Any) -> str:
    name = _text(value, "name", LONGEST_NAME).strip()
    if not is_text(name):
        raise ValueError("name must not contain control characters")
    return name


def _password(value: Any) -> str:
    return _text(value, "password", LONGEST_PASSWORD)


def _login(value: Any) -> str:
    login = as_text(value)
    if login is None or not _LOGIN.fullmatch(login):
        raise ValueError("login must be 1 to 64 letters, digits and _ . @ -")
    return login


def _queues(value: Any) -> tuple[int, ...]:
    """Each once."""
    ids = [integer(id) for id in value] if isinstance(value, list) else [None]
    if None in ids:
        raise ValueError("queues list must contains only integer ids")  # its grammar, too
    return tuple(dict.fromkeys(id for id in ids if id is not None))


def _levels(value: Any) -> dict[int, int]:
    """Penalties by the queue's id."""
    if not isinstance(value, list) or not all(isinstance(level, dict) for level in value):
        raise ValueError("levels must be a list of objects with queue_id and priority")
    found: dict[int, int] = {}
    for level in value:
        id, priority = as_number(level.get("queue_id")), as_number(level.get("priority"))
        if id is None:
            raise ValueError("queue_id must be an integer")
        if priority is None or not 0 <= priority <= LARGEST_PRIORITY:
            raise ValueError(f"priority must be an integer from 0 to {LARGEST_PRIORITY}")
        if found.setdefault(id, priority) != priority:
            raise ValueError(f"the queue with the id {id} has two priorities")
    return found


def _in_range(id: int) -> bool:
    """Of what is not, the store is not asked."""
    return 1 <= id <= LARGEST_ID


def _no_such_queue(id: int) -> str:
    return f"there is no queue with the id {id}"


# -- what is shown


def _listed(page: Page, url: str, data: Sequence[Any], total: int) -> Answer:
    limit = f"limit={page.limit}&" if page.asked else ""
    last = max(1, -(-total // page.limit))

    def of(number: int) -> str:
        return f"{url}?{limit}page={number}"

    pagination = {
        "max_limit": page.limit,  # the one in force, as both examples have it
        "limit": page.limit,
        "first_url": of(1),
        "next_url": of(page.number + 1) if page.number < last else None,
        "items": len(data),
        "last_url": of(last),
        "total": total,
        "current_url": of(page.number),
        # From beyond the end back to where there is something.
        "prev_url": of(min(page.number - 1, last)) if page.number > 1 else None,
    }
    meta = {"status": 200, "message": "OK"}
    return json_answer({"pagination": pagination, "meta": meta, "data": data})


def number_of(id: str) -> int:
    """The number that stands for a session's or a pause's id: of those made here the microseconds
    they begin with, which stay below 2**53 and keep the order."""
    if _ORDERED.fullmatch(id):
        number = int(id[:16], 16) // 1000
        if number < 2**53:
            return number
    return crc32(id.encode())


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds")


def _exten(interface: str) -> str:
    # The document knows one SIP: to its programs PJSIP is that, too.
    lower = interface.lower()
    return f"sip/{lower[6:]}" if lower.startswith("pjsip/") else lower


class Showing:
    """Records in the document's fields, in its order."""

    def __init__(
        self, reasons: Iterable[Reason], queue_ids: Mapping[str, int], rules: QueuePauses
    ) -> None:
        self._reasons = {reason.code: reason for reason in reasons}
        self._queues = {id: name for name, id in queue_ids.items()}
        self._rules = rules

    def agent(self, record: AgentRecord) -> dict[str, Any]:
        return {
            "archived": record.archived,
            "enable": record.enabled and not record.archived,
            "name": record.name,
            "queues": list(record.queues),
            "current_extension": _exten(record.interface) or None,
            "last_pause": self._pause(record, record.last_pause),
            "last_login": self._login(record.last_login),
            "current_pause": self._pause(record, record.current_pause),
            "login": record.login,
            "current_outbound_queue": None,
            "id": record.id,
        }

    def _login(self, session: Period | None) -> dict[str, Any] | None:
        if session is None:
            return None
        return {
            "exten": _exten(session.subject),
            "time_logoff": _time(session.ended_at),
            "id": number_of(session.id),
            "time_login": _time(session.since),
        }

    def _pause(self, record: AgentRecord, pause: Period | None) -> dict[str, Any] | None:
        if pause is None:
            return None
        reason = self._reasons.get(pause.subject) if pause.subject else None
        limit = None
        if reason is not None:
            names = [self._queues[id] for id in record.queues if id in self._queues]
            limit = limit_in_queues(reason.limit, reason.code, names, self._rules)
        return {
            "max_duration": None
            if limit is None or limit.max_duration is None
            else int(limit.max_duration.total_seconds()),
            "time_start": _time(pause.since),
            "reason_id": 0 if reason is None else reason.id,
            "time_end": _time(pause.ended_at),
            "reason": _own(pause.name) if reason is None else _reason(reason, untyped=""),
            "id": number_of(pause.id),
        }

    def pauses(self, record: AgentRecord) -> Iterator[dict[str, Any]]:
        """What there is for the agent, by queue and by reason."""
        reasons = sorted(self._reasons.values(), key=lambda reason: reason.id)
        for queue_id in sorted(record.queues):
            queue = self._queues.get(queue_id, "")
            for reason in reasons:
                if not reason.archived:
                    yield self._pause_in(queue_id, reason, self._rules.get((queue, reason.code)))

    def _pause_in(self, queue_id: int, reason: Reason, rule: QueuePause | None) -> dict[str, Any]:
        duration: timedelta | None
        if rule is not None and rule.limit_duration is not None:
            duration, automatic = rule.limit_duration, rule.automatic_unpause
        else:
            limit = reason.limit
            duration = limit.max_duration if limit else None
            automatic = limit is not None and limit.when_exceeded is WhenExceeded.UNPAUSE
        return {
            "pause": _reason(reason),
            "automatic_unpause": automatic,
            "queue_id": queue_id,
            "disable_unpause": rule is not None and rule.disable_unpause,
            "limit_duration": None if duration is None else int(duration.total_seconds()),
            "id": queue_id * 100_000 + reason.id,
        }


def _reason(reason: Reason, *, untyped: str | None = None) -> dict[str, Any]:
    """``untyped``: what a reason without a type has for one, as the document's two examples do not
    agree on it."""
    return {
        "system": False,
        "productive": reason.productive,
        "type": reason.type or untyped,
        "id": reason.id,
        "description": reason.description or reason.name,
    }


def _own(name: str) -> dict[str, Any]:
    """A reason that is in no table: the service's own, a program's or somebody's in Asterisk; or
    none was given."""
    system = name in SYSTEM_REASONS
    return {"system": system, "productive": False, "type": "", "id": 0, "description": name}


# -- the interface

INTERFACE = Interface(
    name="evolux",
    tag="evolux",
    bases=("/api/v1",),
    make=Evolux,
    error_body=envelope,
    rows=(
        Row("GET", BASE, Right.READ, Evolux.list_agents, document.AGENTS),
        Row("POST", BASE, Right.CONFIGURE, Evolux.create, document.CREATE),
        Row("PUT", ONE, Right.CONFIGURE, Evolux.edit, document.EDIT),
        # The document's table says GET, its curl POST.
        Row("GET", f"{ONE}/pauses", Right.READ, Evolux.list_pauses, document.PAUSES),
        Row("POST", f"{ONE}/pauses", Right.READ, Evolux.list_pauses, document.PAUSES_BY_POST),
        Row("POST", f"{ONE}/pause", Right.CONTROL, Evolux.pause, document.PAUSE),
        Row("POST", f"{ONE}/unpause", Right.CONTROL, Evolux.unpause, document.UNPAUSE),
        Row("POST", f"{ONE}/logoff", Right.CONTROL, Evolux.log_off, document.LOGOFF),
    ),
)
