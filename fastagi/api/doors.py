"""What the faces are given, and what they need of the store."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from fastagi.agents.devices import Device, DeviceRule, DeviceType, resolve
from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, ContentType, Hook, Method
from fastagi.agents.limits import PauseLimit, QueuePauses
from fastagi.agents.model import AgentState, Status
from fastagi.agents.reasons import Described
from fastagi.agents.service import AgentService
from fastagi.agents.storage import WELL, StoreHealth
from fastagi.config.settings import HttpSettings, LoginSettings, PauseSettings
from fastagi.contract import EventType, Planned, Source

_CONTEXT = re.compile(r"[A-Za-z0-9_.-]{1,79}", re.ASCII)


class AgentView(Protocol):
    """An agent as pages and status answers show one (``store.views.AgentView``)."""

    @property
    def id(self) -> int: ...
    @property
    def number(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def extension(self) -> str: ...
    @property
    def context(self) -> str: ...
    @property
    def device_type(self) -> DeviceType: ...
    @property
    def asterisk(self) -> str: ...
    @property
    def since(self) -> datetime | None:
        """Of the login."""

    @property
    def source(self) -> Source | None:
        """Where the login came from."""

    @property
    def queues(self) -> Sequence[str]:
        """The agent's; names."""

    @property
    def joined(self) -> Sequence[str]:
        """Those the agent is in now."""

    @property
    def paused_in(self) -> Sequence[str]:
        """With a pause that is not the agent's in general."""

    @property
    def pause_reason(self) -> str: ...
    @property
    def paused_since(self) -> datetime | None: ...
    @property
    def pause_source(self) -> Source | None: ...
    @property
    def by(self) -> str:
        """The program's name, of a login by an interface; "" otherwise."""

    @property
    def pause_by(self) -> str: ...
    @property
    def planned(self) -> Planned:
        """What happens when the present queue call ends."""


class StoredEvent(Protocol):
    @property
    def seq(self) -> int: ...
    @property
    def event(self) -> Event: ...


class Directory(Protocol):
    """Who is who, by id. Every call may raise StoreUnavailable; cheap, some thousands a second."""

    async def agent_by_id(self, id: int) -> AgentState | None:
        """Unless archived."""

    async def queue_by_id(self, id: int) -> tuple[str, str] | None:
        """Name in Asterisk and number, unless archived."""

    async def queue_pauses(self) -> QueuePauses:
        """What queues say of pause reasons."""


class Reading(Protocol):
    """What is there now and what happened. Every call blocks (make it in a thread) and may raise
    StoreUnavailable."""

    def agents(self, numbers: Sequence[str] | None = None) -> Sequence[AgentView]:
        """All that are not archived, or still logged in; or of those the ones with these numbers.
        By number."""

    def queue_ids(self) -> Mapping[str, int]:
        """Of all queues, archived ones too, by name."""

    def settled_events(self, after: int, limit: int) -> Sequence[StoredEvent]:
        """Events after the one numbered ``after``, the oldest first, up to the first number that
        may still be filled by a transaction of another service: none is ever missed."""

    def latest_events(self, limit: int) -> Sequence[StoredEvent]:
        """The last ones, the oldest of them first."""

    def last_seq(self) -> int:
        """Where ``settled_events`` goes on for somebody who wants nothing of before; 0: none."""


class AgentRecord(Protocol):
    """An agent as the directory has one, archived or not, with the latest of everything."""

    @property
    def id(self) -> int: ...
    @property
    def number(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def login(self) -> str:
        """The number where no login name is set."""

    @property
    def archived(self) -> bool: ...
    @property
    def enabled(self) -> bool: ...
    @property
    def queues(self) -> Sequence[int]:
        """Ids of the agent's queues."""

    @property
    def interface(self) -> str:
        """Where the agent is logged in; ""."""

    @property
    def last_login(self) -> "Stretch | None":
        """The present or the latest session; its ``subject`` is the interface."""

    @property
    def last_pause(self) -> "Stretch | None":
        """The latest that has ended; ``subject`` is the reason's code."""

    @property
    def current_pause(self) -> "Stretch | None": ...


class Stretch(Protocol):
    """A session or a pause."""

    @property
    def id(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def name(self) -> str:
        """The reason's, also of one that is in no table (any more)."""

    @property
    def since(self) -> datetime: ...
    @property
    def ended_at(self) -> datetime | None: ...


class Reason(Described, Protocol):
    """A pause reason, archived ones too."""

    @property
    def id(self) -> int: ...
    @property
    def productive(self) -> bool: ...
    @property
    def type(self) -> str: ...
    @property
    def archived(self) -> bool: ...
    @property
    def limit(self) -> PauseLimit | None: ...


class Records(Protocol):
    """The directory, for faces that show and change it. The reading calls block (make them in a
    thread); every call may raise StoreUnavailable."""

    def agents(self, offset: int, limit: int) -> tuple[Sequence[AgentRecord], int]:
        """A page of all there ever were, by id, and how many there are."""

    def agent(self, id: int) -> AgentRecord | None: ...

    def reasons(self) -> Sequence[Reason]:
        """By id."""

    def call_center_queues(self) -> Mapping[str, bool]:
        """Of the queues that are not archived, by name: whether agent.php may use them."""

    async def create(
        self, name: str, login: str, password: str, queues: Sequence[int]
    ) -> int | None:
        """The new agent's id; None: the login is taken. The number is the login where that is one
        and free, else the next free one. The password is kept hashed. Raises KeyError(id) for a
        queue that there is not."""

    async def change(self, id: int, *, name: str | None, password: str | None) -> bool:
        """False: there is no such agent."""

    async def number_of(self, login: str) -> str | None:
        """The number of the agent with this login name, or this number; unless archived."""


class Hooks(Protocol):
    """The hooks. ``client``, ``agent_id`` and ``agent_type`` are those of the path: a hook is seen
    under them alone. Every call may raise StoreUnavailable."""

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
        """None: there is no such agent."""

    async def of(self, client: str, agent_id: int, agent_type: DeviceType) -> Sequence[Hook] | None:
        """By id; None: there is no such agent."""

    async def hook(
        self, client: str, agent_id: int, agent_type: DeviceType, id: int
    ) -> Hook | None: ...

    async def update(self, hook: Hook) -> bool:
        """False: it is gone. What waits goes to the new address."""

    async def delete(self, id: int) -> bool:
        """With what waits for it and its log."""

    async def log(self, id: int, limit: int) -> Sequence[Attempt]:
        """The latest first."""

    async def parked(self, id: int) -> int:
        """How many deliveries were given up and are kept."""

    async def retry(self, id: int) -> int:
        """Those are due again; how many."""


class Tester(Protocol):
    """Sends a hook an example at once, past all that waits; is not in the log."""

    async def test(self, hook: Hook, fields: Mapping[str, str]) -> Attempt: ...

    def refusal(self, url: str) -> str | None:
        """Why nothing may be sent there, as far as the address itself tells; None: it may."""


class Figures(Protocol):
    def requested(self, face: str, status: int) -> None: ...

    def listeners(self, count: int) -> None: ...

    async def text(self) -> tuple[bytes, str]:
        """All figures for Prometheus, and the content type."""


class Storage(Protocol):
    """How the database is. ``why`` is for clients that may read, ``fault`` for everybody."""

    @property
    def now(self) -> StoreHealth:
        """What is known, at once."""

    async def ask(self) -> StoreHealth:
        """Something was written and read back within the last second, or cannot be. Answers within
        two seconds, and costs little however often it is asked."""


class _WellStored:
    now = WELL

    async def ask(self) -> StoreHealth:
        return WELL


WELL_STORED = _WellStored()


@dataclass(frozen=True, slots=True)
class Doors:
    """What ``app.py`` hands in. The callables give what holds now: settings are reloaded."""

    service: AgentService
    directory: Directory
    reading: Reading
    records: Records
    hooks: Hooks
    tester: Tester
    figures: Figures
    http: HttpSettings
    rules: Callable[[], Sequence[DeviceRule]]
    login: Callable[[], LoginSettings]
    pause: Callable[[], PauseSettings]
    version: str
    log: Any  # structlog's
    # How the database is.
    storage: Storage = WELL_STORED
    # Tasks of the service that have failed and are not well again yet, by name.
    tasks_down: Callable[[], Sequence[str]] = tuple

    def known(self, view: AgentView) -> bool:
        """Whether it is known that the agent is as ``view`` says."""
        return self.service.known(view.asterisk if view.status is not Status.LOGGED_OFF else None)

    def links(self) -> dict[str, Any]:
        """What the answers rest on, for JSON: whether the store can be relied on, and whether each
        Asterisk is connected, by name ("" where there is only one)."""
        queues = self.service.queues
        return {
            "store": self.service.store_usable(),
            "asterisks": {name: queues.connected(name) for name in queues.names},
        }

    def device(self, extension: str, context: str, asterisk: str = "") -> Device | None:
        """Where an agent is who sits there; None: no device rule says so. A rule that names no
        context serves all. ``asterisk``: the first one where there are several."""
        names = self.service.queues.names
        if asterisk and asterisk not in names:
            return None
        rules = [rule for rule in self.rules() if not context or rule.context in ("", context)]
        device = resolve(rules, extension, asterisk or names[0])
        if device is not None and not device.context and _CONTEXT.fullmatch(context):
            return replace(device, context=context)
        return device
