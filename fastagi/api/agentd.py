"""XiVO agentd's REST API under ``/0.1``: paths, methods, fields, statuses and texts of its
document, so that programs written for it work here. What goes beyond the document says so.

A login is the hot path: the routes stand in FastAPI's table for the sake of OpenAPI, but are
served by ``Agentd``, which reads the path and the body by hand.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson
from fastapi import APIRouter
from starlette.types import Receive, Scope, Send

from fastagi.agents.commands import (
    Actor,
    AddToQueue,
    Command,
    LogIn,
    LogOff,
    Pause,
    PauseReason,
    Relog,
    RemoveFromQueue,
    Unpause,
    WhenInCall,
)
from fastagi.agents.devices import is_extension
from fastagi.agents.errors import (
    LoggedInElsewhere,
    NoSuchAgent,
    NoSuchExtension,
    NoSuchReason,
    NotLoggedIn,
    Refused,
    Unavailable,
)
from fastagi.agents.model import AgentState, Change, Status
from fastagi.agents.service import StoreUnavailable
from fastagi.api import errors
from fastagi.api.agentd_document import LARGEST_ID, ROUTES, extra, responses
from fastagi.api.doors import AgentView, Doors
from fastagi.api.face import (
    PATIENCE,
    BadBody,
    as_number,
    as_text,
    documented,
    in_thread,
    json_fields,
    sent_text,
)
from fastagi.api.guard import Client
from fastagi.config.settings import AlreadyElsewhere, InUseByAnother, Right
from fastagi.contract import Outcome, Source

CHUNK = 500  # agents written at a time: other threads run between two
NO_REASON = PauseReason("", "")

_ID = re.compile(r"[0-9]{1,20}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_CONTEXT = re.compile(r"[A-Za-z0-9_.-]{1,79}", re.ASCII)


class Bad(Exception):
    """An answer: status, and why."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 204
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


DONE = Answer()
# Programs know 204 as the answer, which has no body: that it is not done yet stands in a header.
PLANNED = b"fastagi-planned"


def _done(change: Change) -> Answer:
    """204; what waits for the end of the agent's queue call is told."""
    plan = change.after.plan
    return Answer(headers=((PLANNED, plan.encode()),)) if plan else DONE


@dataclass(slots=True)
class Call:
    """A request: ``key`` is the agent's id or number, as it stands in the path."""

    client: Client
    key: str
    by_number: bool
    body: bytes
    query: bytes


Operation = Callable[["Agentd", Call], Awaitable[Answer]]


class Agentd:
    """The face as an ASGI application; ``scope["state"]["client"]`` is who asks."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._service = doors.service
        self._reading = asyncio.Semaphore(1)  # of all agents: many who ask are one reader
        self._running: set[asyncio.Task[Answer]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answered(scope, receive)
            status, body = answer.status, answer.body
            headers = list(answer.headers)
        except Bad as bad:
            status, body = bad.status, errors.body(str(bad))
            headers = _encoded(bad.headers)
        except (Refused, StoreUnavailable) as refusal:
            status, text = errors.told(refusal)
            body = errors.body(text)
            headers = _encoded(errors.RETRY if status == 503 else {})
        if body:
            headers.append((b"content-type", b"application/json"))
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answered(self, scope: Scope, receive: Receive) -> Answer:
        key, by_number = "", False
        match scope["path"].split("/")[2:]:
            case ["agents", "by-number", key, action]:
                by_number = True
                methods = ACTIONS.get(action)
            case ["agents", "all", action]:
                methods = FOR_ALL.get(action)
            case ["agents", key, action]:
                methods = ACTIONS.get(action)
            case ["members"]:
                methods = MEMBERS
            case _:
                methods = None
        if methods is None:
            raise Bad(404, "Not Found")
        method = scope["method"]
        chosen = methods.get(method)
        if chosen is None:
            raise Bad(405, "Method Not Allowed", {"Allow": ", ".join(methods)})
        right, operation = chosen
        client: Client = scope["state"]["client"]
        if right not in client.rights:
            raise Bad(403, errors.lacking(right))
        body = b""
        if method != "GET" and method != "HEAD":
            body = await sent_text(scope, receive)
        return await operation(
            self, Call(client, key, by_number, body, scope.get("query_string", b""))
        )

    # -- who is meant

    async def _state(self, call: Call) -> AgentState:
        if call.by_number:
            return await self._service.agent(_number(call.key))
        state = await self._agent(int(call.key) if _ID.fullmatch(call.key) else 0)
        if state is None:
            raise NoSuchAgent(call.key)
        return state

    async def _agent_number(self, call: Call) -> str:
        """Given by number, it may be nobody's: the command will be told."""
        return _number(call.key) if call.by_number else (await self._state(call)).number

    async def _agent(self, id: int) -> AgentState | None:
        return await self._doors.directory.agent_by_id(id) if 1 <= id <= LARGEST_ID else None

    def _asked(self, call: Call, number: str) -> dict[str, Any]:
        return {
            "id": self._service.new_id(),
            "agent": number,
            "source": Source.API,
            "actor": Actor(name=call.client.name),
        }

    # -- one agent

    async def log_in(self, call: Call) -> Answer:
        given = _fields(call.body)
        extension = _text(given, "extension")
        context = _text(given, "context", "")
        asterisk = _text(given, "asterisk", "")
        number = await self._agent_number(call)
        device = self._doors.device(extension, context, asterisk)
        if device is None:
            await self._no_such_extension(call, number, extension, context)
        assert device is not None
        settings = self._doors.login()
        command = LogIn(
            id=self._service.new_id(),
            agent=number,
            source=Source.API,
            actor=Actor(name=call.client.name),
            device=device,
            # Nobody is there to be asked: "ask" is "refuse".
            move=settings.already_elsewhere is AlreadyElsewhere.MOVE,
        )
        take_over = settings.in_use_by_another is InUseByAnother.TAKE_OVER
        try:
            await self._service.execute(command, take_over=take_over)
        except LoggedInElsewhere as refusal:
            await self._service.record_refusal(command, refusal.outcome)
            raise
        return DONE

    async def _no_such_extension(
        self, call: Call, number: str, extension: str, context: str
    ) -> None:
        await self._service.agent(number)  # who is asked for comes first: NoSuchAgent
        await self._service.record_refused_login(
            number,
            extension if is_extension(extension) else "",
            context if _CONTEXT.fullmatch(context) else "",
            Actor(name=call.client.name),
            Source.API,
            Outcome.NO_SUCH_EXTENSION,
        )
        raise NoSuchExtension(extension)

    async def log_off(self, call: Call) -> Answer:
        number = await self._agent_number(call)
        when = self._doors.login().logoff_in_call
        command = LogOff(**self._asked(call, number), when_in_call=when)
        return _done(await self._service.execute(command))

    async def pause(self, call: Call) -> Answer:
        wanted = _text(_fields(call.body), "reason", "")
        number = await self._agent_number(call)
        reason = NO_REASON
        if wanted:
            await self._service.agent(number)  # before the reason: NoSuchAgent
            found = await self._service.reason(wanted)
            if found is None:
                raise NoSuchReason(wanted)
            reason = found
        when = self._doors.pause().when_in_call
        command = Pause(**self._asked(call, number), reason=reason, when_in_call=when)
        return _done(await self._service.execute(command))

    async def unpause(self, call: Call) -> Answer:
        number = await self._agent_number(call)
        return _done(await self._service.execute(Unpause(**self._asked(call, number))))

    async def status(self, call: Call) -> Answer:
        state = await self._state(call)
        ids: Mapping[str, int] = {}
        if state.memberships:
            ids = await in_thread(self._doors.reading.queue_ids)
        session = state.session
        known = self._service.known(None if session is None else session.device.asterisk)
        return Answer(200, orjson.dumps(_told(state, ids, known)))

    # -- all of them

    async def statuses(self, call: Call) -> Answer:
        reading = self._doors.reading

        def read() -> bytes:
            ids = reading.queue_ids()
            agents = reading.agents()
            parts = [
                orjson.dumps(
                    [
                        _shown(view, ids, self._doors.known(view))
                        for view in agents[begin : begin + CHUNK]
                    ]
                )[1:-1]
                for begin in range(0, len(agents), CHUNK)
            ]
            return b"[" + b",".join(parts) + b"]"

        try:
            async with asyncio.timeout(PATIENCE), self._reading:
                return Answer(200, await in_thread(read))
        except TimeoutError as error:
            raise StoreUnavailable("too many ask for all agents") from error

    async def log_off_all(self, call: Call) -> Answer:
        return await self._to_the_end(self._log_off_all(call))

    async def _log_off_all(self, call: Call) -> Answer:
        states = await self._service.store.logged_in()
        when = self._doors.login().logoff_in_call
        in_call: set[str] = set()
        if when is not WhenInCall.ALLOW and states:
            in_call = await self._service.devices_in_call()

        def command(state: AgentState) -> Command:
            talks = state.session is not None and state.session.device.key in in_call
            asked = self._asked(call, state.number)
            return LogOff(**asked, when_in_call=when if talks else WhenInCall.ALLOW)

        return await self._all(states, command, "all agents are logged off")

    async def relog_all(self, call: Call) -> Answer:
        return await self._to_the_end(self._relog_all(call))

    async def _relog_all(self, call: Call) -> Answer:
        states = await self._service.store.logged_in()
        in_call = await self._service.devices_in_call() if states else set()

        def command(state: AgentState) -> Command:
            talks = state.session is not None and state.session.device.key in in_call
            return Relog(**self._asked(call, state.number), in_call=talks)

        return await self._all(states, command, "all logins are told to Asterisk anew")

    async def _to_the_end(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """A client that goes does not stop it midway."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._ended_alone)
            raise

    def _ended_alone(self, task: asyncio.Task[Answer]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._doors.log.error("all agents: not finished", error=str(error))

    async def _all(
        self, states: Sequence[AgentState], command: Callable[[AgentState], Command], what: str
    ) -> Answer:
        if states and not self._service.linked:
            raise Unavailable("no Asterisk is connected")
        plans: Counter[str] = Counter()

        def done_with(change: Change) -> None:
            if isinstance(change.command, LogOff) and change.after.plan:
                plans[change.after.plan] += 1

        refused = await self._service.execute_all(map(command, states), done=done_with)
        ids = {state.number: state.id for state in states}
        failed = [
            {"id": ids[one.agent], "number": one.agent, "error": errors.told(refusal)[1]}
            for one, refusal in refused
            # Logged off meanwhile, by whomever, is what was wanted, or leaves nothing to be told.
            if not isinstance(refusal, NotLoggedIn | NoSuchAgent)
        ]
        planned = sum(plans.values())
        done = len(states) - len(failed) - planned
        self._doors.log.info(what, done=done, planned=planned, failed=len(failed))
        headers = tuple((PLANNED, f"{plan}; agents={n}".encode()) for plan, n in plans.items())
        if not failed:
            return Answer(headers=headers)
        failed.sort(key=lambda one: (len(str(one["number"])), one["number"]))
        told = {"done": done, "planned": planned, "failed": failed}
        return Answer(207, orjson.dumps(told), headers)

    # -- whose queues are whose

    async def add_member(self, call: Call) -> Answer:
        async def add(number: str, queue: str, dialled: str) -> None:
            command = AddToQueue(**self._asked(call, number), queue=queue, number=dialled)
            if not (await self._service.execute(command)).alters:
                raise Bad(400, "Agent already in queue")

        return await self._member(call, _fields(call.body), add)

    async def remove_member(self, call: Call) -> Answer:
        async def remove(number: str, queue: str, dialled: str) -> None:
            await self._service.execute(RemoveFromQueue(**self._asked(call, number), queue=queue))

        # Some proxies and clients drop the body of a DELETE.
        return await self._member(call, _in_query(call.query) | _fields(call.body), remove)

    async def _member(
        self,
        call: Call,
        given: Mapping[str, Any],
        change: Callable[[str, str, str], Awaitable[None]],
    ) -> Answer:
        agent_id, queue_id = _id(given, "agent_id"), _id(given, "queue_id")
        try:
            state = await self._agent(agent_id)
            if state is None:
                raise NoSuchAgent(str(agent_id))
            queue = None
            if 1 <= queue_id <= LARGEST_ID:
                queue = await self._doors.directory.queue_by_id(queue_id)
            if queue is None:
                raise Bad(400, "No such queue")
            await change(state.number, *queue)
        except NoSuchAgent:
            raise Bad(400, "No such agent") from None  # in this place the document has no 404
        return DONE


ACTIONS: dict[str, dict[str, tuple[Right, Operation]]] = {
    "login": {"POST": (Right.CONTROL, Agentd.log_in)},
    "logoff": {"POST": (Right.CONTROL, Agentd.log_off)},
    "pause": {"POST": (Right.CONTROL, Agentd.pause)},
    "unpause": {"POST": (Right.CONTROL, Agentd.unpause)},
    "status": {"GET": (Right.READ, Agentd.status), "HEAD": (Right.READ, Agentd.status)},
}
FOR_ALL: dict[str, dict[str, tuple[Right, Operation]]] = {
    "logoff": {"POST": (Right.CONTROL, Agentd.log_off_all)},
    "relog": {"POST": (Right.CONTROL, Agentd.relog_all)},
    "statuses": {"GET": (Right.READ, Agentd.statuses), "HEAD": (Right.READ, Agentd.statuses)},
}
MEMBERS: dict[str, tuple[Right, Operation]] = {
    "POST": (Right.CONFIGURE, Agentd.add_member),
    "DELETE": (Right.CONFIGURE, Agentd.remove_member),
}


# -- what was sent


def _number(key: str) -> str:
    if not _NUMBER.fullmatch(key):
        raise NoSuchAgent(key)
    return key


def _fields(body: bytes) -> dict[str, Any]:
    try:
        return json_fields(body)
    except BadBody as bad:
        raise Bad(400, str(bad)) from None


def _in_query(query: bytes) -> dict[str, Any]:
    """The fields of a member."""
    try:
        given = parse_qsl(query.decode("latin-1"), max_num_fields=100)
    except ValueError:
        raise Bad(400, "The query has too many fields") from None
    return {name: value for name, value in given if name in ("agent_id", "queue_id")}


def _text(given: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = given.get(name)
    if value is None:
        if default is None:
            raise Bad(400, f"{name}: is missing")
        return default
    found = as_text(value)
    if found is None:
        raise Bad(400, f"{name}: must be a string")
    return found


def _id(given: Mapping[str, Any], name: str) -> int:
    value = given.get(name)
    if value is None:
        raise Bad(400, f"{name}: is missing")
    id = as_number(value)
    if id is None:
        raise Bad(400, f"{name}: must be an integer")
    return id


# -- what is told


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def _told(state: AgentState, ids: Mapping[str, int], known: bool) -> dict[str, Any]:
    told = _head(state.id, state.number, state.session is not None)
    if state.session is not None:
        told["extension"] = state.session.device.extension
        told["context"] = state.session.device.context
    told["paused"] = state.pause is not None
    told["paused_reason"] = state.pause.reason.name if state.pause else None
    told["planned"] = state.plan
    told["known"] = known
    told["queues"] = [
        {
            "id": ids.get(m.queue),
            "name": m.queue,
            "logged": m.joined,
            "paused": m.joined and state.pause_in(m)[0],
        }
        for m in state.memberships
    ]
    return told


def _shown(view: AgentView, ids: Mapping[str, int], known: bool) -> dict[str, Any]:
    logged = view.status is not Status.LOGGED_OFF
    paused = view.status is Status.PAUSED
    told = _head(view.id, view.number, logged)
    if logged:
        told["extension"] = view.extension
        told["context"] = view.context
    told["paused"] = paused
    told["paused_reason"] = view.pause_reason if paused else None
    told["planned"] = view.planned
    told["known"] = known
    told["queues"] = [
        {
            "id": ids.get(name),
            "name": name,
            "logged": name in view.joined,
            "paused": name in view.joined and (paused or name in view.paused_in),
        }
        for name in dict.fromkeys([*view.queues, *view.joined])
    ]
    return told


def _head(id: int, number: str, logged: bool) -> dict[str, Any]:
    return {"id": id, "number": number, "logged": logged}


# -- the routes, for OpenAPI


def routes(doors: Doors) -> APIRouter:
    return documented(Agentd(doors), "agentd", "/0.1", ROUTES, responses, extra)
