"""Threads that run jobs on a synchronous database for an event loop.

SQLite has one writer, so one thread takes all waiting jobs into one transaction and answers them
together after its commit (group commit). PostgreSQL has several, a transaction per job.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import structlog

from fastagi.agents.errors import Refused
from fastagi.agents.fence import Fence
from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import StoreFault, Waiting, waiting

log = structlog.get_logger()

T = TypeVar("T")

TASK = "store"  # for the log and the metrics
SWEEP_SECONDS = 0.25
# A commit costs as much processor time as several jobs. So where many came together last time, the
# next ones are waited for a little; a lone one never waits.
GATHER_SECONDS = 0.002
CROWD = 20
ENOUGH = 24  # waiting already: no need to gather


class Transactor:
    """What a worker needs of a database; one belongs to each thread."""

    wrote_deliveries: bool
    outdated: bool  # at ``begin``: another connection has written since this one's last

    def prefetch(self, numbers: Sequence[str]) -> None:
        raise NotImplementedError

    def begin(self, writes: bool, synced: bool) -> None:
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def rollback(self) -> None:
        """Never raises; a connection that is beyond help is replaced at the next ``begin``."""
        raise NotImplementedError

    def unavailable(self, error: BaseException) -> bool:
        """Whether the database, not the job, is at fault."""
        raise NotImplementedError

    def worth_repeating(self, error: BaseException) -> bool:
        """Whether the same may well succeed at once on a new connection."""
        raise NotImplementedError

    def explained(self, error: BaseException) -> StoreUnavailable:
        """The same in words that help the admin."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


C = TypeVar("C", bound=Transactor)


class Job(Generic[C, T]):
    """``function`` may run again after a rollback; it raises Refused, or StoreUnavailable, before
    it writes anything.

    ``undo`` makes of the result the job that takes it back, for a caller who is gone by then.
    ``seen`` is called in the loop with the result, gone or not, in the order of the commits.
    ``synced``: what is written survives a power cut once the job is answered, not only a crash.
    """

    __slots__ = (
        "deadline",
        "function",
        "future",
        "last",
        "number",
        "seen",
        "synced",
        "ticket",
        "undo",
        "writes",
    )

    def __init__(
        self,
        function: Callable[[C], T],
        future: "asyncio.Future[T]",
        deadline: float,
        last: float,
        writes: bool,
        number: str | None,
        undo: "Callable[[T], Callable[[C], object] | None] | None",
        seen: "Callable[[T], object] | None",
        synced: bool,
    ) -> None:
        self.synced = synced
        self.function = function
        self.future = future
        # On the loop's clock: when it is not run any more, and when nobody waits for it any more.
        self.deadline = deadline
        self.last = last
        self.writes = writes
        self.number = number  # the agent whose state the job will read
        self.undo = undo
        self.seen = seen
        self.ticket = [None]  # list.pop is atomic: whoever gets it runs the job, or cancels it


Answer = tuple[Job[Any, Any], Any, BaseException | None]


class Workers(Generic[C]):
    """A queue of jobs and the threads that work it off.

    A job that waits longer than ``deadline`` seconds fails with StoreUnavailable and is not run.
    One that is running is waited for, as only the database knows what becomes of it, but not
    longer than another ``deadline``. Whoever has less time (``storage.wait_at_most``) waits no
    longer than that, running or not: what comes of it then is taken back, or settled later.

    ``on_result`` is called in the loop for each batch: with what failed, or with None when
    something was written.
    """

    def __init__(
        self,
        connect: Callable[[], C],
        *,
        threads: int,
        batch: int,
        deadline: float,
        retry: bool,
        on_commit: Callable[[], None],
        on_outdated: Callable[[], None],
        on_result: Callable[[StoreUnavailable | None], None] = lambda error: None,
        name: str,
        fence: Fence | None = None,
    ) -> None:
        self._connect = connect
        self._batch = batch
        self._deadline = deadline
        self._retry = retry
        self._on_commit = on_commit
        self._on_outdated = on_outdated
        self._fence = fence or Fence(log)
        self._on_result = on_result
        self.refusal: StoreUnavailable | None = None  # instead of running anything
        self._jobs: SimpleQueue[Job[C, Any] | None] = SimpleQueue()
        self._waiting: deque[Job[C, Any]] = deque()
        self._fresh: list[Job[C, Any]] = []  # of this turn of the loop
        self._sweeping = False
        self._closed = False
        self.commits = 0  # of transactions; for tests and figures
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        function: Callable[[C], T],
        *,
        writes: bool = True,
        number: str | None = None,
        undo: Callable[[T], Callable[[C], object] | None] | None = None,
        seen: Callable[[T], object] | None = None,
        synced: bool = True,
    ) -> "asyncio.Future[T]":
        """To be called in the loop. The future raises what the job raised, or StoreUnavailable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._closed:
            future.set_exception(StoreUnavailable("the store is closed"))
            return future
        if self.refusal is not None:
            future.set_exception(StoreUnavailable(str(self.refusal), fault=self.refusal.fault))
            return future
        now = loop.time()
        deadline = now + self._deadline
        last = deadline + self._deadline
        if (limit := waiting()) is not None:
            if limit.left <= 0:
                future.set_exception(_late())
                return future
            deadline = last = min(deadline, now + limit.left)
            future.add_done_callback(lambda done: _spend(limit, loop.time() - now))
        job = Job(function, future, deadline, last, writes, number, undo, seen, synced)
        self._waiting.append(job)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)
        if not self._fresh:
            loop.call_soon(self._hand_over)
        self._fresh.append(job)
        return future

    def close(self) -> None:
        """Works off what waits, then ends the threads. Blocks until then."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            for _ in self._threads:
                self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    # -- in the loop

    def _hand_over(self) -> None:
        """What one turn of the loop has brought, together: a commit costs more than a job."""
        for job in self._fresh:
            self._jobs.put(job)
        self._fresh.clear()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all jobs: a timer for each would cost more than the job."""
        now = loop.time()
        still: deque[Job[C, Any]] = deque()
        for job in self._waiting:
            if job.future.done():
                continue
            if now < job.deadline:
                still.append(job)
                continue
            try:
                job.ticket.pop()
            except IndexError:  # running
                if now < job.last:
                    still.append(job)
                    continue
            error = _late()
            job.future.set_exception(error)
            with self._fence.item(TASK):  # else nobody would be looked after any more
                self._on_result(error)
        self._waiting = still
        self._sweeping = bool(still)
        if still:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def _answer(
        self,
        answers: list[Answer],
        wrote_deliveries: bool,
        outdated: bool,
        failure: StoreUnavailable | None,
        wrote: bool,
    ) -> None:
        if outdated:
            with self._fence.item(TASK):
                self._on_outdated()
        if failure is not None or wrote:
            with self._fence.item(TASK):
                self._on_result(failure)
        for job, result, error in answers:
            future = job.future
            if error is None and job.seen is not None:
                try:
                    job.seen(result)
                except Exception as fault:  # all are answered, whatever one thinks of it
                    self._fence.skipped(TASK, fault)
            if not future.done():
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
            elif error is None and job.undo is not None:
                # The caller was cancelled or gave up: nobody will confirm what was begun.
                with self._fence.item(TASK):
                    function = job.undo(result)
                    if function is not None:
                        self.submit(function).add_done_callback(_log_failure)
        if wrote_deliveries:
            with self._fence.item(TASK):
                self._on_commit()

    # -- in the threads

    def _work(self) -> None:
        jobs = self._jobs
        connection = self._connect()
        ending = False
        crowded = False
        while not ending:
            job = jobs.get()
            if crowded and job is not None and jobs.qsize() < ENOUGH:
                time.sleep(GATHER_SECONDS)
            batch: list[Job[C, Any]] = []
            while True:
                if job is None:
                    ending = True
                    break
                if not job.future.done() and job.ticket:
                    try:
                        job.ticket.pop()
                    except IndexError:
                        pass
                    else:
                        batch.append(job)
                if len(batch) >= self._batch:
                    break
                try:
                    job = jobs.get_nowait()
                except Empty:
                    break
            crowded = len(batch) >= CROWD
            if batch:
                try:
                    self._run(connection, batch)
                except Exception as error:  # the thread is needed by all others
                    self._fence.skipped(TASK, error, jobs=len(batch))
                    fault = StoreUnavailable(f"a fault of the store: {type(error).__name__}")
                    self._post([(job, None, fault) for job in batch], False, True)
        with self._fence.item(TASK):
            connection.close()

    def _run(self, connection: C, batch: list[Job[C, Any]]) -> None:
        answers, failure = self._transaction(connection, batch)
        if (
            failure is not None
            and self._retry
            and connection.unavailable(failure)
            and connection.worth_repeating(failure)
        ):
            # A lost backend: the jobs are idempotent, so once more on a new connection.
            answers, failure = self._transaction(connection, batch)
        if failure is None:
            wrote = any(job.writes for job, _, error in answers if error is None)
            self._post(answers, connection.wrote_deliveries, connection.outdated, None, wrote)
        elif connection.unavailable(failure):
            explained = connection.explained(failure)
            for job in batch:
                error = StoreUnavailable(str(explained), fault=explained.fault)
                error.__cause__ = failure
                answers.append((job, None, error))
            self._post(answers, False, True, explained)
        elif len(batch) > 1:
            # One of them is at fault: each by itself harms nobody else.
            for job in batch:
                self._run(connection, [job])
        else:
            self._post([(batch[0], None, failure)], False, True)

    def _transaction(
        self, connection: C, batch: list[Job[C, Any]]
    ) -> tuple[list[Answer], BaseException | None]:
        answers: list[Answer] = []
        connection.wrote_deliveries = False
        try:
            writing = [job for job in batch if job.writes]
            connection.begin(bool(writing), any(job.synced for job in writing))
            numbers = [job.number for job in batch if job.number is not None]
            if numbers:
                connection.prefetch(numbers)
            for job in batch:
                try:
                    answers.append((job, job.function(connection), None))
                except (Refused, StoreUnavailable) as refusal:  # its own: the others go on
                    answers.append((job, None, refusal))
            connection.commit()
        except Exception as error:
            connection.rollback()
            return [], error
        self.commits += 1
        return answers, None

    def _post(
        self,
        answers: list[Answer],
        wrote_deliveries: bool,
        outdated: bool,
        failure: StoreUnavailable | None = None,
        wrote: bool = False,
    ) -> None:
        loop = answers[0][0].future.get_loop()
        try:
            loop.call_soon_threadsafe(
                self._answer, answers, wrote_deliveries, outdated, failure, wrote
            )
        except RuntimeError:  # the loop is closed: nobody waits
            log.debug("nobody waits for the store's answer any more")


def _late() -> StoreUnavailable:
    return StoreUnavailable("the database does not answer in time", fault=StoreFault.NO_ANSWER)


def _spend(limit: Waiting, seconds: float) -> None:
    limit.left -= seconds


def _log_failure(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled() and future.exception() is not None:
        log.warning("an abandoned change could not be taken back", error=str(future.exception()))
