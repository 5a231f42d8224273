"""XiVO agentd's REST API under ``/0.1``: paths, methods, fields, statuses and texts of its
document, so that programs written for it work here. What goes beyond the document says so.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson

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
    Unavailable,
)
from fastagi.agents.model import AgentState, Change, Status
from fastagi.agents.records import AgentView
from fastagi.agents.service import StoreUnavailable
from fastagi.api import agentd_document as document
from fastagi.api.agentd_document import LARGEST_ID
from fastagi.api.answers import Answer, HttpError, as_http_error, json_answer
from fastagi.api.context import Context
from fastagi.api.request import STORE_DEADLINE, BadBody, Call, as_number, as_text, in_thread
from fastagi.api.table import Interface, Row
from fastagi.config.settings import AlreadyElsewhere, InUseByAnother, Right
from fastagi.contract import Outcome, Source

C = TypeVar("C", bound=Command)

CHUNK = 500  # agents written at a time: other threads run between two
NO_REASON = PauseReason("", "")

_ID = re.compile(r"[0-9]{1,20}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_CONTEXT = re.compile(r"[A-Za-z0-9_.-]{1,79}", re.ASCII)


# Programs know 204 as the answer, which has no body: that it is not done yet stands in a header.
PLANNED = b"fastagi-planned"
DONE = Answer(204)


def _done(change: Change) -> Answer:
    """204, and what waits for the end of the agent's queue call."""
    plan = change.after.plan
    return Answer(204, headers=((PLANNED, plan.encode()),)) if plan else DONE


class Agentd:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._service = context.service
        self._reading = asyncio.Semaphore(1)  # of all agents: many who ask are one reader
        self._running: set[asyncio.Task[Answer]] = set()

    # -- which agent

    async def _state(self, call: Call) -> AgentState:
        number = call.values.get("agent_number")
        if number is not None:
            return await self._service.agent(_number(number))
        key = call.values["agent_id"]
        state = await self._agent(int(key) if _ID.fullmatch(key) else 0)
        if state is None:
            raise NoSuchAgent(key)
        return state

    async def _agent_number(self, call: Call) -> str:
        """A number may be nobody's: the command is refused then."""
        number = call.values.get("agent_number")
        return (await self._state(call)).number if number is None else _number(number)

    async def _agent(self, id: int) -> AgentState | None:
        return await self._context.directory.agent_by_id(id) if 1 <= id <= LARGEST_ID else None

    def _command(self, kind: type[C], call: Call, agent: str, **values: Any) -> C:
        actor = Actor(name=call.client.name)
        return self._service.command(kind, agent, Source.API, actor, **values)

    # -- one agent

    async def log_in(self, call: Call) -> Answer:
        given = await _fields(call)
        extension = _text(given, "extension")
        context = _text(given, "context", "")
        asterisk = _text(given, "asterisk", "")
        number = await self._agent_number(call)
        device = self._context.device(extension, context, asterisk)
        if device is None:
            await self._no_such_extension(call, number, extension, context)
        assert device is not None
        settings = self._context.login()
        command = self._command(
            LogIn,
            call,
            number,
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
        when = self._context.login().logoff_in_call
        command = self._command(LogOff, call, number, when_in_call=when)
        return _done(await self._service.execute(command))

    async def pause(self, call: Call) -> Answer:
        wanted = _text(await _fields(call), "reason", "")
        number = await self._agent_number(call)
        reason = NO_REASON
        if wanted:
            await self._service.agent(number)  # before the reason: NoSuchAgent
            found = await self._service.reason(wanted)
            if found is None:
                raise NoSuchReason(wanted)
            reason = found
        when = self._context.pause().when_in_call
        command = self._command(Pause, call, number, reason=reason, when_in_call=when)
        return _done(await self._service.execute(command))

    async def unpause(self, call: Call) -> Answer:
        number = await self._agent_number(call)
        return _done(await self._service.execute(self._command(Unpause, call, number)))

    async def status(self, call: Call) -> Answer:
        state = await self._state(call)
        ids: Mapping[str, int] = {}
        if state.memberships:
            ids = await in_thread(self._context.reading.queue_ids)
        session = state.session
        known = self._service.known(None if session is None else session.device.asterisk)
        return json_answer(_state_json(state, ids, known))

    # -- all of them

    async def statuses(self, call: Call) -> Answer:
        reading = self._context.reading

        def read() -> bytes:
            ids = reading.queue_ids()
            agents = reading.agents()
            parts = [
                orjson.dumps(
                    [
                        _view_json(view, ids, self._context.known(view))
                        for view in agents[begin : begin + CHUNK]
                    ]
                )[1:-1]
                for begin in range(0, len(agents), CHUNK)
            ]
            return b"[" + b",".join(parts) + b"]"

        try:
            async with asyncio.timeout(STORE_DEADLINE), self._reading:
                return Answer(200, await in_thread(read))
        except TimeoutError as error:
            raise StoreUnavailable("too many ask for all agents") from error

    async def log_off_all(self, call: Call) -> Answer:
        return await self._to_the_end(self._log_off_all(call))

    async def _log_off_all(self, call: Call) -> Answer:
        states = await self._service.store.logged_in()
        when = self._context.login().logoff_in_call
        in_call: set[str] = set()
        if when is not WhenInCall.ALLOW and states:
            in_call = await self._service.devices_in_call()

        def command(state: AgentState) -> Command:
            talks = state.session is not None and state.session.device.key in in_call
            then = when if talks else WhenInCall.ALLOW
            return self._command(LogOff, call, state.number, when_in_call=then)

        return await self._all(states, command, "all agents are logged off")

    async def relog_all(self, call: Call) -> Answer:
        return await self._to_the_end(self._relog_all(call))

    async def _relog_all(self, call: Call) -> Answer:
        states = await self._service.store.logged_in()
        in_call = await self._service.devices_in_call() if states else set()

        def command(state: AgentState) -> Command:
            talks = state.session is not None and state.session.device.key in in_call
            return self._command(Relog, call, state.number, in_call=talks)

        return await self._all(states, command, "all agents are put into their queues again")

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
            self._context.log.error("changing all agents did not finish", error=str(error))

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
            {"id": ids[one.agent], "number": one.agent, "error": str(as_http_error(refusal))}
            for one, refusal in refused
            # Logged off meanwhile: that was wanted, or there is nothing left to do.
            if not isinstance(refusal, NotLoggedIn | NoSuchAgent)
        ]
        planned = sum(plans.values())
        done = len(states) - len(failed) - planned
        self._context.log.info(what, done=done, planned=planned, failed=len(failed))
        headers = tuple((PLANNED, f"{plan}; agents={n}".encode()) for plan, n in plans.items())
        if not failed:
            return Answer(204, headers=headers)
        failed.sort(key=lambda one: (len(str(one["number"])), one["number"]))
        return json_answer({"done": done, "planned": planned, "failed": failed}, 207, headers)

    # -- whose queues are whose

    async def add_member(self, call: Call) -> Answer:
        async def add(number: str, queue: str, dialled: str) -> None:
            command = self._command(AddToQueue, call, number, queue=queue, number=dialled)
            if not (await self._service.execute(command)).alters:
                raise HttpError(400, "Agent already in queue")

        return await self._member(call, await _fields(call), add)

    async def remove_member(self, call: Call) -> Answer:
        async def remove(number: str, queue: str, dialled: str) -> None:
            await self._service.execute(self._command(RemoveFromQueue, call, number, queue=queue))

        # Some proxies and clients drop the body of a DELETE.
        return await self._member(call, _in_query(call.query) | await _fields(call), remove)

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
                queue = await self._context.directory.queue_by_id(queue_id)
            if queue is None:
                raise HttpError(400, "No such queue")
            await change(state.number, *queue)
        except NoSuchAgent:
            raise HttpError(400, "No such agent") from None  # in this place the document has no 404
        return DONE


# -- what was sent


def _number(key: str) -> str:
    if not _NUMBER.fullmatch(key):
        raise NoSuchAgent(key)
    return key


async def _fields(call: Call) -> dict[str, Any]:
    try:
        return await call.fields()
    except BadBody as bad:
        raise HttpError(400, str(bad)) from None


def _in_query(query: bytes) -> dict[str, Any]:
    """The fields of a member."""
    try:
        given = parse_qsl(query.decode("latin-1"), max_num_fields=100)
    except ValueError:
        raise HttpError(400, "The query has too many fields") from None
    return {name: value for name, value in given if name in ("agent_id", "queue_id")}


def _text(given: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = given.get(name)
    if value is None:
        if default is None:
            raise HttpError(400, f"{name}: is missing")
        return default
    found = as_text(value)
    if found is None:
        raise HttpError(400, f"{name}: must be a string")
    return found


def _id(given: Mapping[str, Any], name: str) -> int:
    value = given.get(name)
    if value is None:
        raise HttpError(400, f"{name}: is missing")
    id = as_number(value)
    if id is None:
        raise HttpError(400, f"{name}: must be an integer")
    return id


# -- what is shown


def _state_json(state: AgentState, ids: Mapping[str, int], known: bool) -> dict[str, Any]:
    device = state.session.device if state.session is not None else None
    return _status(
        state.id,
        state.number,
        None if device is None else (device.extension, device.context),
        state.pause.reason.name if state.pause else None,
        [
            (ids.get(m.queue), m.queue, m.joined, m.joined and state.pause_in(m)[0])
            for m in state.memberships
        ],
        planned=state.plan,
        known=known,
    )


def _view_json(view: AgentView, ids: Mapping[str, int], known: bool) -> dict[str, Any]:
    paused = view.status is Status.PAUSED
    return _status(
        view.id,
        view.number,
        None if view.status is Status.LOGGED_OFF else (view.extension, view.context),
        view.pause_reason if paused else None,
        [
            (
                ids.get(name),
                name,
                name in view.joined,
                name in view.joined and (paused or name in view.paused_in),
            )
            for name in dict.fromkeys([*view.queues, *view.joined])
        ],
        planned=view.planned,
        known=known,
    )


def _status(
    id: int,
    number: str,
    place: tuple[str, str] | None,
    reason: str | None,
    queues: Iterable[tuple[int | None, str, bool, bool]],
    **more: object,
) -> dict[str, Any]:
    """``place``: extension and context; None: logged off. ``reason``: of the pause; None: there is
    none."""
    shown: dict[str, Any] = {"id": id, "number": number, "logged": place is not None}
    if place is not None:
        shown["extension"], shown["context"] = place
    shown |= {"paused": reason is not None, "paused_reason": reason, **more}
    fields = ("id", "name", "logged", "paused")
    shown["queues"] = [dict(zip(fields, queue, strict=True)) for queue in queues]
    return shown


# -- the interface

_BY_ID, _BY_NUMBER = document.OfOne("ID"), document.OfOne("number")

INTERFACE = Interface(
    name="agentd",
    tag="agentd",
    bases=("/0.1",),
    make=Agentd,
    rows=(
        Row("POST", "/0.1/members", Right.CONFIGURE, Agentd.add_member, document.ADD_MEMBER),
        Row(
            "DELETE", "/0.1/members", Right.CONFIGURE, Agentd.remove_member, document.REMOVE_MEMBER
        ),
        Row(
            "POST", "/0.1/agents/all/logoff", Right.CONTROL, Agentd.log_off_all, document.LOGOFF_ALL
        ),
        Row("POST", "/0.1/agents/all/relog", Right.CONTROL, Agentd.relog_all, document.RELOG_ALL),
        Row("GET", "/0.1/agents/all/statuses", Right.READ, Agentd.statuses, document.STATUSES),
        *(
            Row(method, f"{path}/{action}", right, handler, getattr(described, action))
            for path, described in (
                ("/0.1/agents/{agent_id}", _BY_ID),
                ("/0.1/agents/by-number/{agent_number}", _BY_NUMBER),
            )
            for method, action, right, handler in (
                ("POST", "login", Right.CONTROL, Agentd.log_in),
                ("POST", "logoff", Right.CONTROL, Agentd.log_off),
                ("POST", "pause", Right.CONTROL, Agentd.pause),
                ("POST", "unpause", Right.CONTROL, Agentd.unpause),
                ("GET", "status", Right.READ, Agentd.status),
            )
        ),
    ),
)
