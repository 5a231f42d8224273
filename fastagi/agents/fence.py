"""What keeps one bad answer from ending the service: a fence around each item of work, and a
supervisor for each task that runs as long as the service does."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from fastagi.agents.errors import StoreUnavailable, Unavailable
from fastagi.agents.log import Log, Repeats, Trouble
from fastagi.agents.operations import QueuesUnavailable
from fastagi.agents.text import Unusable, printable

AGAIN_AFTER = 3600.0  # seconds until a fault that still occurs is logged again
KINDS = 500  # kinds of faults that are told apart; more share one line
MAX_ERROR = 300  # characters of an error in a log line

# What is away for a time is nobody's fault, and tried again.
AWAY = (StoreUnavailable, QueuesUnavailable, Unavailable)


class Fence:
    """Whoever does one thing after the other puts each behind the fence: what fails is logged,
    counted and skipped, and the next one is done.

        for note in notes:
            with fence.item("reconcile", asterisk=name):
                take(note)

    A fault is logged the first time, with its traceback, and then once an hour with how often it
    came; what somebody else has sent and cannot be used (``Unusable``) is a warning without a
    traceback. ``counted`` learns each, by the task's name, from any thread.
    """

    def __init__(
        self,
        log: Log,
        counted: Callable[[str], None] = lambda task: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log = log
        self.faults: Counter[str] = Counter()  # by task
        self._counted = counted
        self._kinds = Repeats(KINDS, AGAIN_AFTER, clock)

    @contextmanager
    def item(self, task: str, *passes: type[BaseException], **facts: Any) -> Iterator[None]:
        """What is raised inside goes no further, unless it is one of ``passes``, or says that the
        task is to stop. ``facts`` go into the log line: which item it was."""
        try:
            yield
        except passes:
            raise
        except Exception as error:
            self.skipped(task, error, **facts)

    def skipped(
        self, task: str, error: BaseException, /, *, hidden: bool = False, **facts: Any
    ) -> None:
        """This error was met by the task, which goes on. Never raises. ``hidden``: its text may
        hold a secret, and is not logged."""
        self.faults[task] += 1
        self._counted(task)
        error = _cause(error)
        unusable = isinstance(error, Unusable)
        where = "" if unusable else _where(error.__traceback__)
        # What others send has few texts, an error of our own may have any.
        kind = str(error) if unusable else type(error).__name__
        again = self._kinds.count(self._kinds.key(task, kind, where))
        if again is None:
            return
        brief = type(error).__name__ if hidden else _brief(error)
        values: dict[str, Any] = {"task": task, "error": brief}
        if again:
            values["times"] = again
        if unusable:
            self.log.warning("skipped: it cannot be used", **values | facts)
            return
        values["where"] = where
        if not again and not hidden:
            values["exc_info"] = error
        self.log.error("skipped: a fault of the service", **values | facts)


class Supervisor:
    """Keeps tasks going that run as long as the service does.

    One that fails is begun again, after a time that grows from try to try. Until it has gone on
    for a while it is ``down``, for whoever asks whether the service is ready.
    """

    FIRST = 0.5  # seconds before the second attempt …
    LONGEST = 30.0  # … and at most
    STABLE = 5.0  # seconds after which a task that was begun again counts as well

    def __init__(self, fence: Fence, stopping: Callable[[], bool] = lambda: False) -> None:
        self.fence = fence
        self._stopping = stopping
        self._down: dict[str, int] = {}  # by name: failures in a row

    @property
    def down(self) -> list[str]:
        """The tasks that cannot do their work now."""
        return sorted(self._down)

    async def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Runs ``work`` until it is cancelled, or returns when the service stops. To be used as a
        task; raises nothing but CancelledError."""
        loop = asyncio.get_running_loop()
        trouble = Trouble(self.fence.log, "a task waits", "a task goes on", task=name)
        while True:
            well = (
                loop.call_later(self.STABLE, self._well, name, trouble)
                if name in self._down
                else None
            )
            began = loop.time()
            try:
                await work()
                if self._stopping():
                    return
                raise RuntimeError(f"the task {name} has ended")
            except asyncio.CancelledError as error:
                # Not all of them are for this task: what it waited for may have been cancelled.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self.fence.skipped(name, error, restarted=True)
            except Exception as error:
                if isinstance(_cause(error), AWAY):
                    trouble.is_there(error=_brief(_cause(error)))
                else:
                    self.fence.skipped(name, error, restarted=True)
            finally:
                if well is not None:
                    well.cancel()
            lived = loop.time() - began > max(self.STABLE, self.LONGEST)
            failures = self._down[name] = 1 if lived else self._down.get(name, 0) + 1
            await asyncio.sleep(min(self.LONGEST, self.FIRST * 2.0 ** min(failures - 1, 20)))

    def _well(self, name: str, trouble: Trouble) -> None:
        if self._down.pop(name, None) is not None and not trouble:
            self.fence.log.info("a task goes on", task=name)
        trouble.is_over()


def _cause(error: BaseException) -> BaseException:
    """Of several that a group of tasks has met: the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _brief(error: BaseException) -> str:
    text = str(error)
    whole = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return printable(whole[:MAX_ERROR])[:MAX_ERROR]


def _where(traceback: TracebackType | None) -> str:
    """The last place in our own code, ``reconciler.py:742``; else the last one there is."""
    found = ""
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if name != __file__ and ("/fastagi/" in name or not found):
            found = f"{name.rpartition('/')[2]}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found
