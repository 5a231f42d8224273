"""How the store is, and how long somebody waits for it. Nothing here asks a database."""

import asyncio
from contextvars import ContextVar, Token
from dataclasses import dataclass

from fastagi.agents.errors import StoreFault as StoreFault

STORE_WAIT = 5.0  # seconds that one code or one command waits for the store, in all its calls of it


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """``fault`` is None while the store can be written and what was written is read back.

    ``why`` is for the admin: it may name files and hosts, and says what to do.
    """

    fault: StoreFault | None = None
    why: str = ""


WELL = StoreHealth()


class Lock:
    """A named lock that is held. ``lost``: not any more."""

    __slots__ = ("lost",)

    def __init__(self) -> None:
        self.lost = False


class Waiting:
    """What is left of a task's time, in seconds."""

    __slots__ = ("left", "task")

    def __init__(self, left: float) -> None:
        self.left = left
        self.task = asyncio.current_task()


_waiting: ContextVar[Waiting | None] = ContextVar("waiting", default=None)


class wait_at_most:
    """All calls of the store that this task makes inside wait for so long together. An outer limit
    stays in force; tasks that are begun inside have none."""

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float = STORE_WAIT) -> None:
        self._seconds = seconds
        self._token: Token[Waiting | None] | None = None

    def __enter__(self) -> None:
        if waiting() is None:
            self._token = _waiting.set(Waiting(self._seconds))

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _waiting.reset(self._token)


def waiting() -> Waiting | None:
    """The limit that is in force in this task; None: there is none."""
    found = _waiting.get()
    # A task inherits the variables of the one that has begun it, and may live for ever.
    return found if found is not None and found.task is asyncio.current_task() else None
