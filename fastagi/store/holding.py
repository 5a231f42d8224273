"""What a service keeps from the others for longer than a transaction; PostgreSQL only.

Rows of agents are locked, not advisory keys: of those all services together have some six thousand
by default (max_locks_per_transaction), of row locks as many as there are rows.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from fastagi.agents.service import StoreUnavailable
from fastagi.store.connection import Connection

log = structlog.get_logger()

T = TypeVar("T")


class Holder:
    """A connection with its thread, as Peewee's connections belong to threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, "hold")

    def start(self, function: Callable[[Connection], T], *, writes: bool) -> "asyncio.Future[T]":
        """``function`` in a transaction that stays open when it ``writes``."""

        def job() -> T:
            connection = self._connection
            try:
                connection.begin(writes, True)
                return function(connection)
            except Exception as error:
                connection.rollback()
                if connection.unavailable(error):
                    raise connection.explained(error) from error
                raise

        return asyncio.wrap_future(self._thread.submit(job))

    def end(self, function: Callable[[Connection], object]) -> "asyncio.Future[None]":
        """Never raises: a connection that is lost holds nothing any more."""

        def job() -> None:
            try:
                function(self._connection)
            except Exception as error:
                self._connection.rollback()
                self._connection.close()
                log.warning("what was held was lost before its end", error=str(error))

        return asyncio.wrap_future(self._thread.submit(job))

    def close(self) -> None:
        self._thread.submit(self._connection.close)
        self._thread.shutdown()


class Holders:
    """Made when they are needed, used again and again; whoever wants one too many waits."""

    def __init__(self, connect: Callable[[], Connection], deadline: float, at_once: int) -> None:
        self._connect = connect
        self._deadline = deadline
        self._slots = asyncio.Semaphore(at_once)
        self._free: list[Holder] = []
        self._closed = False

    @asynccontextmanager
    async def use(
        self,
        take: Callable[[Connection], T],
        leave: Callable[[Connection], object],
        *,
        writes: bool,
    ) -> AsyncIterator[T]:
        """What ``take`` gives; ``leave`` follows whatever happens. Raises StoreUnavailable."""
        async with self._slots:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            holder = self._free.pop() if self._free else Holder(self._connect())
            taking = holder.start(take, writes=writes)
            try:
                try:
                    async with asyncio.timeout(self._deadline):
                        taken = await asyncio.shield(taking)
                except TimeoutError:
                    taking.add_done_callback(_seen)
                    raise StoreUnavailable("the database does not answer in time") from None
                yield taken
            finally:
                # In the same thread, so after ``take`` even when nobody waits for that any more.
                leaving = holder.end(leave)
                self._free.append(holder)
                if self._closed:
                    self.close()
                await asyncio.shield(leaving)

    def close(self) -> None:
        """Blocks. What is still held is closed when it is left."""
        self._closed = True
        while self._free:
            self._free.pop().close()


def _seen(future: "asyncio.Future[T]") -> None:
    if not future.cancelled():
        future.exception()
