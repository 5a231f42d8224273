"""AgentService: every door goes through here.

A change is recorded as an intent, applied to Asterisk's queues, then confirmed together with its
events, so that nothing is ever assumed applied.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from fastagi.agents import errors
from fastagi.agents.commands import (
    Actor,
    Command,
    LeaveQueue,
    LogIn,
    LogOff,
    PauseReason,
    WhenInCall,
)
from fastagi.agents.events import Event
from fastagi.agents.lockout import Lockout
from fastagi.agents.model import AgentState, Change, decide
from fastagi.agents.operations import (
    AddMember,
    Answer,
    Operation,
    QueuesUnavailable,
    RemoveMember,
    ReportedMember,
    Result,
)
from fastagi.agents.reconcile import restored, settlement, to_be_finished, undo
from fastagi.contract import EventType, Outcome, Source

log = structlog.get_logger()


class StoreUnavailable(Exception):
    """The store cannot be read or written now: disk full, database away. Nothing was written."""


class Store(Protocol):
    """What the hall needs of the store. Every call may raise StoreUnavailable."""

    async def agent(self, number: str) -> AgentState | None:
        """The agent with this number, unless archived."""

    async def agent_at(self, interface: str) -> AgentState | None:
        """The agent who is logged in on this interface (letter case does not matter)."""

    async def queue_numbered(self, number: str) -> str | None:
        """The name in Asterisk of the queue that agents dial as ``number``."""

    async def reasons(self) -> tuple[PauseReason, ...]:
        """The pause reasons, by code."""

    async def begin(self, command: Command, now: datetime) -> Change:
        """Load, decide and record the intent, in one transaction.

        For a LogIn the device is claimed with the intent: no second agent gets it. A change
        without steps is written at once, events and all. Raises the Refused that was decided,
        NoSuchAgent, or Unavailable when an earlier intent of this agent is not settled yet.
        """

    async def confirm(self, change: Change) -> None:
        """In one transaction: the change, its events, a delivery per event and sink; the intent
        and the device left behind are dropped. Doing it twice writes once."""

    async def withdraw(self, change: Change, event: Event | None) -> None:
        """In one transaction: the intent and its claim are dropped, ``event`` is written."""

    async def record(self, event: Event) -> None:
        """An event without a change, with its deliveries."""

    async def unsettled(self) -> list[Change]:
        """The unconfirmed intents, decided again; the oldest first."""

    async def logged_in(self) -> list[AgentState]: ...

    async def planned(self) -> list[LogOff]:
        """The log-offs that wait for the end of a queue call."""

    async def pin_attempt(self, keys: Sequence[str], now: datetime, lockout: Lockout) -> str | None:
        """Counts an attempt against each key, as failed until ``pin_passed``; or, when one is
        locked, counts nothing and returns that key. One transaction: racing attempts all count."""

    async def pin_passed(self, keys: Sequence[str]) -> None:
        """The attempts of the first key are forgotten, and the latest of each other."""

    async def note(self, key: str) -> str | None:
        """A remembered fact about the outside, such as Asterisk's start-up time."""

    async def set_note(self, key: str, value: str) -> None: ...


class Queues(Protocol):
    """What the hall needs of Asterisk. QueuesUnavailable: nothing was sent."""

    @property
    def connected(self) -> bool: ...

    async def apply(self, operations: Sequence[Operation]) -> list[Result]: ...

    async def members(self, queue: str | None = None) -> list[ReportedMember]: ...

    async def in_call(self, interface: str) -> bool: ...

    async def started_at(self) -> str: ...


class Pins(Protocol):
    async def verify(self, pin_hash: str, pin: str) -> bool: ...
