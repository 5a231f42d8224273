"""The configuration while the service runs: when it is read again, and what may be done by it.

Three things make it read: a file that has changed and lies still, SIGHUP, and `fastagi reload`.
What would take their login or their calls from agents at work is done only when it was confirmed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from fastagi import config
from fastagi.agents.protection import Loss, NotConfirmed
from fastagi.agents.service import StoreUnavailable
from fastagi.config import ConfigError, Settings
from fastagi.store import DirectoryConflict

log = structlog.get_logger()

LOOK_EVERY: Final = 0.5  # seconds between two looks at the folder
STILL_FOR: Final = 2.0  # seconds: an editor, a copy or a checkout has come to its end by then
CONFIRM_WITHIN: Final = 60.0  # seconds between a refused SIGHUP and the one that confirms it
STORE_AGAIN: Final = 1.0  # seconds until a store that was away is asked again
# Seconds until what a fault of our own has kept from being brought in is tried again.
FAULT_AGAIN: Final = (5.0, 60.0, 600.0)
LINES: Final = 20  # losses in the log, and lines for `fastagi reload`

MAY_BE_CUT: Final = (
    "a file of the configuration is shorter than before and ends in the middle of a line: is all of"
    " it there? What was cut off has changed the last agent, queue or setting of it"
)
HOW_TO_CONFIRM: Final = "fastagi reload --confirm, or SIGHUP twice within a minute"


class Outcome(StrEnum):
    """What became of a reload, as `fastagi reload` is told."""

    RELOADED = "RELOADED"
    NOT_CONFIRMED = "NOT_CONFIRMED"
    ERRORS = "ERRORS"
    STORE_AWAY = "STORE_AWAY"  # it goes on trying
    FAILED = "FAILED"  # a fault of the service, which its log has


@dataclass(frozen=True, slots=True)
class Report:
    """``lines`` are for the admin, in the order in which they are to be read."""

    outcome: Outcome
    lines: tuple[str, ...] = ()


class Cause(StrEnum):
    FILE = "a file has changed"
    SIGNAL = "SIGHUP"
    COMMAND = "fastagi reload"


@dataclass(slots=True)
class _Request:
    cause: Cause
    at: float  # seconds of the loop's clock
    confirmed: bool = False
    only: bytes = b""  # confirmed for the configuration with this fingerprint alone, unless empty
    answer: "asyncio.Future[Report] | None" = field(default=None)


class Reloader:
    """``use``: brings settings in, and returns a line for all that is worth to be known of it;
    whether they are confirmed is its second argument. It raises NotConfirmed, DirectoryConflict or
    StoreUnavailable."""

    def __init__(
        self, path: Path, use: Callable[[Settings, bool], Awaitable[Sequence[str]]]
    ) -> None:
        self._path = path
        self._use = use
        self._requests: asyncio.Queue[_Request] = asyncio.Queue()
        self._read = b""  # digest of the files as they were read last
        self._ends: dict[str, tuple[int, bool]] = {}  # how they ended, by name
        self._refused: tuple[bytes, float] | None = None  # to a SIGHUP: fingerprint, and when
        self._seen = b""  # fingerprint of what was refused last, to whomever
        self._waits = False  # for the store, and it was said
        # The store was away, or there was a fault of ours; and how many of those in a row.
        self._again: tuple[asyncio.TimerHandle, _Request] | None = None
        self._faults = 0
        self._warnings: frozenset[str] = frozenset()  # of the configuration read last

    def began_with(self, digest: bytes) -> None:
        """``content_digest`` of the files with which the service has started."""
        self._read = digest
        self._ends = config.endings(self._path)

    def was_refused(self, fingerprint: bytes) -> None:
        """At the start, and logged: this configuration is what ``fastagi reload --confirm`` is
        about."""
        self._seen = fingerprint

    def warn(self, settings: Settings) -> None:
        """Logs what is allowed in a configuration, and hardly meant; not again what was there
        before."""
        now = [str(warning) for warning in settings.warnings]
        for warning in _some([one for one in now if one not in self._warnings]):
            log.warning("configuration warning", warning=warning)
        self._warnings = frozenset(now)

    def signal(self) -> None:
        """SIGHUP."""
        self._requests.put_nowait(_Request(Cause.SIGNAL, asyncio.get_running_loop().time()))

    async def command(self, confirm: bool) -> Report:
        """`fastagi reload`; ``confirm``: with --confirm."""
        loop = asyncio.get_running_loop()
        request = _Request(Cause.COMMAND, loop.time(), confirm, answer=loop.create_future())
        self._requests.put_nowait(request)
        assert request.answer is not None
        return await request.answer

    async def watch(self) -> None:
        """Has the configuration read again when a file's content has changed and lies still."""
        # Not by the kernel's notices: those do not come for what links lead to, nor from network
        # file systems, and a database in the same folder would bring hundreds a second.
        loop = asyncio.get_running_loop()
        seen: object = None
        changed_at: float | None = None
        while True:
            now = await asyncio.to_thread(config.signature, self._path)
            if now != seen:
                seen, changed_at = now, loop.time()
            elif changed_at is not None and loop.time() - changed_at >= STILL_FOR:
                changed_at = None
                if await asyncio.to_thread(config.content_digest, self._path) != self._read:
                    self._requests.put_nowait(_Request(Cause.FILE, loop.time()))
            await asyncio.sleep(LOOK_EVERY)

    async def run(self) -> None:
        """Does what was asked for, one after the other."""
        while True:
            request = await self._requests.get()
            try:
                report = await self._reload(request)
            except BaseException as error:
                if request.answer is not None and not request.answer.done():
                    request.answer.set_result(Report(Outcome.FAILED, (type(error).__name__,)))
                if isinstance(error, Exception):
                    self._met_fault(request)
                raise
            self._faults = 0
            if request.answer is not None and not request.answer.done():
                request.answer.set_result(report)

    async def _reload(self, request: _Request) -> Report:
        if self._again is not None and request is self._again[1]:
            self._again = None
        self._read = await asyncio.to_thread(config.content_digest, self._path)
        try:
            settings = await asyncio.to_thread(config.load, self._path)
        except ConfigError as error:
            log.error("the configuration has errors, nothing was changed")
            problems = _some([str(problem) for problem in error.problems])
            for problem in problems:
                log.error("configuration", problem=problem)
            return Report(Outcome.ERRORS, problems)
        except OSError as error:
            log.error("the configuration cannot be read", error=str(error))
            return Report(Outcome.ERRORS, (str(error),))
        self.warn(settings)
        cut = await asyncio.to_thread(self._cut)
        for file in cut:
            log.warning(MAY_BE_CUT, file=file)
        fingerprint = settings.fingerprint_material
        confirmed = self._is_confirmed(request, fingerprint)
        if confirmed:
            request.only = fingerprint
        try:
            lines = await self._use(settings, confirmed)
        except NotConfirmed as error:
            if request.cause is Cause.SIGNAL:
                self._refused = (fingerprint, asyncio.get_running_loop().time())
            lines = [str(loss) for loss in error.losses]
            if request.confirmed:
                lines.insert(0, "this is not the configuration that was refused before: look again")
            self._seen = fingerprint
            refused(error.losses)
            return Report(Outcome.NOT_CONFIRMED, _some(lines))
        except DirectoryConflict as error:
            log.error("the configuration was not brought in", error=str(error))
            return Report(Outcome.ERRORS, (str(error),))
        except StoreUnavailable as error:
            if not self._waits:
                self._waits = True
                log.error("the configuration was not brought in yet", error=str(error))
            self._try_again(request, fingerprint)
            return Report(Outcome.STORE_AWAY, (str(error),))
        self._refused, self._seen = None, b""
        if self._again is not None:
            self._again[0].cancel()
            self._again = None
        self._waits = False
        return Report(Outcome.RELOADED, (*(f"{file}: {MAY_BE_CUT}" for file in cut), *lines))

    def _cut(self) -> list[str]:
        """Files that somebody may have written to half: shorter than before, and without the end
        of their last line, which they had. That may be meant; so it is only said."""
        before, self._ends = self._ends, config.endings(self._path)
        return [
            name
            for name, (size, whole) in self._ends.items()
            if not whole and before.get(name, (0, False))[0] > size and before[name][1]
        ]

    def _met_fault(self, request: _Request) -> None:
        """Whoever keeps this task going logs what it was; here stands what comes of it."""
        if self._faults < len(FAULT_AGAIN):
            seconds = FAULT_AGAIN[self._faults]
            self._faults += 1
            log.error("the configuration was not brought in: a fault", again_in_seconds=seconds)
            self._try_again(request, request.only, seconds)
        else:
            log.error("the configuration was not brought in: a fault", try_again="fastagi reload")

    def _try_again(self, request: _Request, fingerprint: bytes, after: float | None = None) -> None:
        """Once for all that wait for the store; what was confirmed stays so."""
        confirmed = bool(fingerprint) and self._is_confirmed(request, fingerprint)
        if self._again is not None:
            handle, earlier = self._again
            handle.cancel()
            confirmed = confirmed or (earlier.confirmed and earlier.only == fingerprint)
        again = _Request(request.cause, request.at, confirmed, fingerprint)
        loop = asyncio.get_running_loop()
        seconds = STORE_AGAIN if after is None else after
        self._again = (loop.call_later(seconds, self._requests.put_nowait, again), again)

    def _is_confirmed(self, request: _Request, fingerprint: bytes) -> bool:
        if request.confirmed:
            # Who confirms has seen what was refused: not what somebody has written since.
            return (request.only or self._seen or fingerprint) == fingerprint
        if request.cause is not Cause.SIGNAL or self._refused is None:
            return False
        # The very configuration that was refused, and sent by somebody who can have known it.
        what, at = self._refused
        return what == fingerprint and at < request.at <= at + CONFIRM_WITHIN


def refused(losses: Sequence[Loss], **more: object) -> None:
    """Logs that a configuration was not brought in, and why."""
    log.error("the configuration was not brought in: confirm it", confirm=HOW_TO_CONFIRM, **more)
    for line in _some([str(loss) for loss in losses]):
        log.error("not confirmed", what=line)


def _some(lines: Sequence[str]) -> tuple[str, ...]:
    more = (f"and {len(lines) - LINES} more",) if len(lines) > LINES else ()
    return (*lines[:LINES], *more)
