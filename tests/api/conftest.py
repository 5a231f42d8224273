"""All faces over the hall in memory: ``house`` is the whole of it, ``http`` a client on loopback.

    async def test_it(house: House, http: httpx2.AsyncClient) -> None:
        answer = await http.post("/0.1/agents/by-number/1001/login", json={…})

Without tokens everybody on this machine may do everything; ``house.open(tokens={…})`` gives a
client of an application with other settings.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from fastagi.agents.devices import DeviceRule, DeviceType, Pattern
from fastagi.agents.hooks import Attempt, ContentType, Hook, Method
from fastagi.agents.limits import QueuePause, QueuePauses
from fastagi.agents.model import AgentState, Membership
from fastagi.agents.records import AgentRecord, AgentView, Period, Reason, StoredEvent
from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import WELL, StoreHealth
from fastagi.api import guard
from fastagi.api.asgi import INTERFACES, application
from fastagi.api.context import Context
from fastagi.api.stream import Feed
from fastagi.api.table import Interface, Table
from fastagi.config.settings import HttpSettings, LoginSettings, PauseSettings
from fastagi.contract import EventType, Source
from fastagi.outbox import http_client
from tests.agents.memory import QUEUES, Hall, MemoryStore, an_agent

QUEUE_IDS = {"sales": 1, "support": 2, "billing": 3}
RULES = (
    DeviceRule(Pattern.parse("1XXX"), "phones", "PJSIP/{extension}"),
    DeviceRule(Pattern.parse("0X."), "", "Local/{extension}@outbound/n", type="remote"),
)
FULL = ("read", "control", "configure")
TABLE = Table(INTERFACES, HttpSettings())


def view(state: AgentState) -> AgentView:
    device = state.session.device if state.session else None
    return AgentView(
        id=state.id,
        number=state.number,
        name=state.name,
        language=state.language,
        status=state.status,
        extension=device.extension if device else "",
        interface=device.interface if device else "",
        context=device.context if device else "",
        device_type=device.type if device else "local",
        asterisk=device.asterisk if device else "",
        since=state.session.since if state.session else None,
        source=Source.API if state.session else None,
        queues=tuple(m.queue for m in state.memberships),
        joined=tuple(m.queue for m in state.joined),
        paused_in=tuple(m.queue for m in state.joined if m.own_pause and m.own_pause.paused),
        pause_reason=state.pause.reason.name if state.pause else "",
        paused_since=state.pause.since if state.pause else None,
        pause_source=Source.API if state.pause else None,
        planned=state.plan,
    )


class Reader:
    """``ports.Directory`` and ``ports.Reading`` over the store in memory."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.ids = dict(QUEUE_IDS)
        self.said: dict[tuple[str, str], QueuePause] = {}  # of pause reasons

    def _there(self, name: str) -> None:
        if self.store.down & {name, "*"}:
            raise StoreUnavailable(f"{name}: the disk is full")

    async def agent_by_id(self, id: int) -> AgentState | None:
        self._there("agent_by_id")
        return next((a for a in self.store.agents.values() if a.id == id), None)

    async def queue_by_id(self, id: int) -> tuple[str, str] | None:
        self._there("queue_by_id")
        for name, number in self.store.known_queues.items():
            if self.ids.get(name) == id:
                return name, number
        return None

    async def queue_pauses(self) -> QueuePauses:
        self._there("queue_pauses")
        return self.said

    def agents(self, numbers: Sequence[str] | None = None) -> Sequence[AgentView]:
        self._there("agents")
        found = [a for n, a in self.store.agents.items() if numbers is None or n in numbers]
        return [view(a) for a in sorted(found, key=lambda a: (len(a.number), a.number))]

    def queue_ids(self) -> Mapping[str, int]:
        self._there("queue_ids")
        return dict(self.ids)

    def _events(self) -> list[StoredEvent]:
        self._there("events")
        return [StoredEvent(n, event) for n, event in enumerate(self.store.events.values(), 1)]

    def settled_events(self, after: int, limit: int) -> Sequence[StoredEvent]:
        return [stored for stored in self._events() if stored.seq > after][:limit]

    def latest_events(self, limit: int) -> Sequence[StoredEvent]:
        return self._events()[-limit:] if limit else []

    def last_seq(self) -> int:
        return len(self._events())


class MemoryRecords:
    """``ports.Records``: the agents of the store in memory, and others who are none any more."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._store = reader.store
        self.logins: dict[str, str] = {}  # login name -> number
        self.not_call_center: set[str] = set()  # queues
        self.others: dict[int, AgentRecord] = {}  # by id
        self.passwords: dict[int, str] = {}
        self.all_reasons: list[Reason] = [
            Reason(18, "1", "lunch", "Pausa Cadastro", productive=True),
            Reason(19, "2", "break"),
        ]

    def _record(self, state: AgentState) -> AgentRecord:
        own = self._store.own_queues.get(state.number, {m.queue for m in state.memberships})
        session, pause = state.session, state.pause
        interface = session.device.interface if session else ""
        return AgentRecord(
            state.id,
            state.number,
            state.name,
            next((login for login, n in self.logins.items() if n == state.number), state.number),
            queues=tuple(sorted(self._reader.ids[queue] for queue in own)),
            interface=interface,
            last_login=Period(session.id, interface, "", session.since) if session else None,
            current_pause=Period(pause.id, pause.reason.code, pause.reason.name, pause.since)
            if pause
            else None,
        )

    def agents(self, offset: int, limit: int) -> tuple[Sequence[AgentRecord], int]:
        self._reader._there("agents")
        there = [self._record(state) for state in self._store.agents.values()]
        every = sorted([*there, *self.others.values()], key=lambda record: record.id)
        return every[offset : offset + limit], len(every)

    def agent(self, id: int) -> AgentRecord | None:
        self._reader._there("agent")
        found = [self._record(state) for state in self._store.agents.values() if state.id == id]
        return found[0] if found else self.others.get(id)

    def reasons(self) -> Sequence[Reason]:
        self._reader._there("reasons")
        return self.all_reasons

    async def create(
        self, name: str, login: str, password: str, queues: Sequence[int]
    ) -> int | None:
        self._reader._there("create")
        names = {id: name for name, id in self._reader.ids.items()}
        memberships = [Membership(names[id], QUEUES[names[id]]) for id in queues]
        if login in self.logins or login in self._store.agents:
            return None
        id = max((state.id for state in self._store.agents.values()), default=0) + 1
        number = login if login.isdigit() else str(9000 + id)
        self._store.agents[number] = AgentState(
            id, number, name, "en", memberships=tuple(memberships)
        )
        self._store.own_queues[number] = {m.queue for m in memberships}
        self.logins[login] = number
        self.passwords[id] = password
        return id

    async def change(self, id: int, *, name: str | None, password: str | None) -> bool:
        self._reader._there("change")
        state = next((s for s in self._store.agents.values() if s.id == id), None)
        if state is None:
            return False
        if name is not None:
            self._store.agents[state.number] = replace(state, name=name)
        if password is not None:
            self.passwords[id] = password
        return True

    def call_center_queues(self) -> Mapping[str, bool]:
        self._reader._there("call_center_queues")
        return {name: name not in self.not_call_center for name in self._store.known_queues}

    async def number_of(self, login: str) -> str | None:
        self._reader._there("number_of")
        number = self.logins.get(login, login)
        return number if number in self._store.agents else None


class MemoryHooks:
    """``ports.Hooks`` as dictionaries, and what hooks ask of ``ports.Directory``."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.hooks: dict[int, Hook] = {}
        self.attempts: dict[int, list[Attempt]] = {}
        self.given_up: dict[int, int] = {}
        self.away: Exception | None = None
        self.slow = False

    async def _asked(self) -> None:
        await asyncio.sleep(60 if self.slow else 0)
        if self.away is not None:
            raise self.away

    async def agent_by_id(self, id: int) -> AgentState | None:
        await self._asked()
        return await self._reader.agent_by_id(id)

    async def create(
        self,
        client: str,
        agent_id: int,
        agent_type: DeviceType,
        event_type: EventType,
        method: Method,
        url: str,
        content_type: ContentType,
    ) -> Hook | None:
        if await self.agent_by_id(agent_id) is None:
            return None
        id = max(self.hooks, default=149) + 1
        hook = Hook(id, client, agent_id, agent_type, event_type, method, url, content_type)
        self.hooks[id] = hook
        return hook

    async def of(self, client: str, agent_id: int, agent_type: DeviceType) -> Sequence[Hook] | None:
        if await self.agent_by_id(agent_id) is None:
            return None
        path = (client, agent_id, agent_type)
        return [h for h in self.hooks.values() if (h.client, h.agent_id, h.agent_type) == path]

    async def hook(
        self, client: str, agent_id: int, agent_type: DeviceType, id: int
    ) -> Hook | None:
        found = await self.of(client, agent_id, agent_type) or ()
        return next((hook for hook in found if hook.id == id), None)

    async def update(self, hook: Hook) -> bool:
        await self._asked()
        if hook.id not in self.hooks:
            return False
        self.hooks[hook.id] = hook
        return True

    async def delete(self, id: int) -> bool:
        await self._asked()
        return self.hooks.pop(id, None) is not None

    async def log(self, id: int, limit: int) -> Sequence[Attempt]:
        await self._asked()
        return self.attempts.get(id, [])[:limit]

    async def parked(self, id: int) -> int:
        await self._asked()
        return self.given_up.get(id, 0)

    async def retry(self, id: int) -> int:
        await self._asked()
        return self.given_up.pop(id, 0)


class MemoryTester:
    """``ports.Tester``: refuses what the real one does, and keeps what it was to send."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.sent: list[tuple[Hook, dict[str, str]]] = []
        self.status: int | None = 200
        self._now = now

    async def test(self, hook: Hook, fields: Mapping[str, str]) -> Attempt:
        self.sent.append((hook, dict(fields)))
        failed = self.status != 200
        return Attempt(
            "test",
            hook.event_type,
            self._now(),
            1,
            self.status,
            "no answer" if failed else "",
            0.0414,
            "failed" if failed else "delivered",
        )

    def refusal(self, url: str) -> str | None:
        return http_client.refusal(url, ())


@dataclass
class MemoryFigures:
    """``ports.Figures``."""

    requests: list[tuple[str, int]] = field(default_factory=list)
    listening: int = 0

    def requested(self, interface: str, status: int) -> None:
        self.requests.append((interface, status))

    def listeners(self, count: int) -> None:
        self.listening = count

    async def text(self) -> tuple[bytes, str]:
        return b"fastagi_agents 1.0\n", "text/plain; version=1.0.0; charset=utf-8"


@dataclass
class Logged:
    """structlog's, remembered."""

    lines: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, /, **values: Any) -> None:
        self.lines.append(("info", event, values))

    def warning(self, event: str, /, **values: Any) -> None:
        self.lines.append(("warning", event, values))

    def error(self, event: str, /, **values: Any) -> None:
        self.lines.append(("error", event, values))


class WellStored:
    """``ports.Storage``."""

    now = WELL

    async def ask(self) -> StoreHealth:
        return self.now


def context_of(**parts: Any) -> Context:
    """As far as one interface needs it."""
    return Context(**{field.name: parts.get(field.name) for field in fields(Context)})


def alone(dispatcher: ASGIApp, client: Callable[[], Any]) -> ASGIApp:
    """Without the guard; ``client`` gives who asks."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["client"] = client()
        await dispatcher(scope, receive, send)

    return app


class House:
    """The hall in memory, what the faces are given, and clients of the application."""

    def __init__(self, stack: AsyncExitStack, *agents: AgentState, **settings: Any) -> None:
        self._stack = stack
        self.hall = Hall(*(agents or (an_agent("1001"), an_agent("1002", "sales"))), **settings)
        self.reader = Reader(self.hall.store)
        self.records = MemoryRecords(self.reader)
        self.hooks = MemoryHooks(self.reader)
        self.tester = MemoryTester(self.hall.clock)
        self.figures = MemoryFigures()
        self.log = Logged()
        self.rules = RULES
        self.login = LoginSettings()
        self.pause = PauseSettings()

    def context(self, **http: Any) -> Context:
        return Context(
            service=self.hall.service,
            directory=self.reader,
            reading=self.reader,
            records=self.records,
            hooks=self.hooks,
            tester=self.tester,
            figures=self.figures,
            storage=WellStored(),
            feed=Feed(self.reader, self.log, self.figures),
            http=HttpSettings.model_validate(http),
            rules=lambda: self.rules,
            login=lambda: self.login,
            pause=lambda: self.pause,
            version="0.0",
            log=self.log,
        )

    def application(self, interfaces: Sequence[Interface] = INTERFACES, **http: Any) -> Any:
        context = self.context(**http)
        self.feed = context.feed
        return application(context, self.seconds, interfaces)

    def seconds(self) -> float:
        """A monotonic clock."""
        return self.hall.clock().timestamp()

    async def open(
        self, token: str = "", address: str = "127.0.0.1", app: Any = None, **http: Any
    ) -> httpx2.AsyncClient:
        """A client with this token, from this address; ``http``: the settings of that section."""
        transport = httpx2.ASGITransport(
            app or self.application(**http), client=(address, 40000), raise_app_exceptions=False
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx2.AsyncClient(
            transport=transport, base_url="http://localhost:9493", headers=headers, timeout=60
        )
        return await self._stack.enter_async_context(client)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is made to wait for a wrong token."""
    monkeypatch.setattr(guard, "SLOW", 0.0)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """Agents 1001 (id 1001; sales, support, billing) and 1002 (id 1002; sales), logged off."""
    async with AsyncExitStack() as stack:
        yield House(stack)


@pytest.fixture
async def http(house: House) -> httpx2.AsyncClient:
    """From this machine, without tokens."""
    return await house.open()
