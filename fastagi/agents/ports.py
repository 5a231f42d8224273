"""What the hall and the interfaces need of the other rooms: each port is implemented once, and what
it promises stands here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

from fastagi.agents.commands import LogOff, Pause, PauseReason
from fastagi.agents.deciding import Again, Rule
from fastagi.agents.devices import Device, DeviceType
from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, ContentType, Hook, Method
from fastagi.agents.limits import OpenPause, PauseLimit, QueuePauses
from fastagi.agents.lockout import Keys, Verdict
from fastagi.agents.model import AgentState, Change
from fastagi.agents.notes import Note
from fastagi.agents.operations import Operation, ReportedMember, Result
from fastagi.agents.records import AgentRecord, AgentView, Reason, StoredEvent
from fastagi.agents.storage import Lock, StoreHealth
from fastagi.contract import EventType

# -- the store and Asterisk's queues, for the hall itself


class Store(Protocol):
    """What the hall needs of the store. Every call may raise StoreUnavailable."""

    async def agent(self, number: str) -> AgentState | None:
        """The agent with this number, unless archived."""

    async def agent_at(self, key: str) -> AgentState | None:
        """The agent who is logged in on the device with this ``Device.key``."""

    async def agents_at(self, keys: Sequence[str]) -> dict[str, AgentState]:
        """The same for many, by key; those where nobody is are left out."""

    async def agents_with_extension(self, extension: str, asterisk: str) -> list[AgentState]:
        """The agents who are logged in with this extension on this Asterisk, whatever the
        interface is."""

    async def states(self, numbers: Sequence[str]) -> dict[str, AgentState]:
        """The agents with these numbers, by number; also archived ones who are logged in."""

    async def queue_names(self) -> dict[str, tuple[str, str]]:
        """All queues, archived ones too: name in lower case -> name in Asterisk and number."""

    async def queue_numbered(self, number: str) -> str | None:
        """The name in Asterisk of the queue that agents dial as ``number``."""

    async def reasons(self) -> tuple[PauseReason, ...]:
        """The pause reasons, by code."""

    async def begin(
        self,
        number: str,
        rule: Rule,
        device: Device | None = None,
        *,
        event: str = "",
        held: bool = False,
    ) -> Change:
        """Load the agent, call ``rule``, and write what it says, in one transaction.

        Where the change has steps, the intent is recorded and the device that it claims is the
        agent's: nobody else gets it. One without steps is written at once, events and all.
        ``Stored.occupant`` is who has ``device``, ``Stored.written`` says whether ``event`` is
        there. ``held``: asked under ``hold`` of this very agent.

        Raises what ``rule`` raises, which may be called twice; NoSuchAgent; InProgress while
        another service changes the agent.
        """

    def hold(self, numbers: Sequence[str]) -> AbstractAsyncContextManager[dict[str, AgentState]]:
        """Until it is left no other service begins a change of these agents (this one takes its
        own locks); their states, but for those with an open intent. Any number at a time, each
        of its own agents."""

    def exclusive(self, name: str) -> AbstractAsyncContextManager[Lock | None]:
        """No other service is at ``name`` until it is left. None: one is."""

    async def confirm(self, change: Change) -> None:
        """In one transaction: the change, its events, a delivery per event and sink; the intent
        and the device left behind are dropped. Doing it twice writes once."""

    async def withdraw(self, change: Change, event: Event | None) -> None:
        """In one transaction: the intent and its claim are dropped, ``event`` is written."""

    async def record(self, event: Event) -> None:
        """An event without a change, with its deliveries."""

    async def unsettled(self, rule: Again) -> list[Change]:
        """The unconfirmed intents, decided again by ``rule``, but for those of other living
        services; the oldest first. One that cannot be decided again is dropped."""

    async def logged_in(self) -> list[AgentState]: ...

    async def lately(self, events: int) -> list[AgentState]:
        """The agents of the last ``events`` events."""

    async def planned(self) -> list[LogOff | Pause]:
        """What waits for the end of a queue call."""

    async def limits(self) -> dict[str, PauseLimit]:
        """What the pause reasons allow, by code; those without any limit are left out."""

    async def queue_pauses(self) -> QueuePauses:
        """What queues say of pause reasons."""

    async def open_pauses(self) -> list[OpenPause]:
        """The pauses of now."""

    async def paused_since(self, agent: str, code: str, since: datetime) -> timedelta:
        """How long the agent was paused for this reason from ``since`` on, in segments that have
        ended."""

    async def overdue(self, cutoffs: Mapping[str, datetime]) -> list[str]:
        """Numbers of the agents to log off at the end of their shift. ``cutoffs``: for each time
        of day in ``shift_ends``, when it last was; those logged in since before it."""

    async def shift_ends(self) -> list[str]:
        """The times of day (``18:30``) at which agents are logged off, each once."""

    async def clock_was_set(self, before: datetime, by: timedelta, begun: Collection[str]) -> None:
        """The machine's clock, which showed ``before``, was set by so much: logins and pauses that
        go on began that much later. While several services share the database, only those that
        have ``begun`` here, by their ids: the others were written by other clocks."""

    async def pin_attempt(
        self,
        keys: Keys,
        now: float,
        memory: float,
        rule: Callable[[Mapping[str, Sequence[float]], bool], Verdict],
    ) -> Verdict:
        """Counts an attempt against each key as failed, at the moment that ``rule`` says, until
        ``pin_passed``; nothing where it says that a key is locked. ``rule`` is given the failures
        of the last ``memory`` seconds by key, and whether the PIN was proved with ``keys.own``
        before. One transaction: racing attempts all count. Seconds on ``AgentService.steady``."""

    async def pin_passed(self, keys: Keys, at: float, usual_until: float) -> None:
        """The attempt counted at ``at`` was right: it is forgotten, and so is every one of
        ``keys.own``, which is the agent's usual place until then."""

    async def outside_numbers(self, number: str) -> tuple[str, ...]:
        """Patterns of the outside numbers at which the agent may log in by phone."""

    async def note(self, key: str) -> str | None:
        """A remembered fact about the outside, such as Asterisk's start-up time."""

    async def set_note(self, key: str, value: str) -> None: ...

    async def notes(self, prefix: str) -> dict[str, str]:
        """The facts whose keys begin so."""

    async def drop_note(self, key: str) -> None: ...


class Queues(Protocol):
    """What the hall needs of the Asterisks. QueuesUnavailable: nothing was sent."""

    @property
    def names(self) -> Sequence[str]:
        """The Asterisks there are: "" where there is only one."""

    def connected(self, asterisk: str) -> bool: ...

    async def apply(self, operations: Sequence[Operation]) -> list[Result]: ...

    async def members(
        self,
        asterisk: str,
        queue: str | None = None,
        interface: str | None = None,
        queues: Collection[str] | None = None,
    ) -> list[ReportedMember]:
        """Of one queue, of ``queues``, or of all that are configured; of this interface alone."""

    async def lacking(self, asterisk: str, queues: Sequence[str]) -> set[str]:
        """Those of these queues that this Asterisk does not have, in lower case."""

    async def started_at(self, asterisk: str) -> str: ...

    async def notes(self, asterisk: str) -> list[Note]:
        """What the fallback did while no service was there, and nobody has taken yet."""

    async def forget(self, asterisk: str, notes: Sequence[Note]) -> None: ...


class Pins(Protocol):
    async def verify(self, pin_hash: str, pin: str) -> bool: ...


# -- for the interfaces


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


class Records(Protocol):
    """The directory, to be shown and changed. The reading calls block (make them in a
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
    def requested(self, interface: str, status: int) -> None: ...

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
