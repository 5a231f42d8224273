"""What Asterisk tells of queue members while it happens, gathered into batches for the hall.

Every change of our own comes back as an event, several to each login, so an event may cost next
to nothing when it arrives: it is put aside unread, and read with all the others a moment later, in
slices between which the calls go on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from fastagi.agents.fence import Fence
from fastagi.agents.operations import MemberNews, ReportedMember
from fastagi.agents.text import Unusable
from fastagi.ami.members import UNREACHABLE, member

log = structlog.get_logger()

REMOVED = b"QueueMemberRemoved"
STATUS = b"QueueMemberStatus"
CHANGES = ("QueueMemberAdded", "QueueMemberRemoved", "QueueMemberPause", "QueueMemberPenalty")
CALL_ENDED = ("AgentComplete", "AgentDump")
# For `Client(raw_names=…)`.
EVENTS = (*CHANGES, "QueueMemberStatus", *CALL_ENDED)

SLICE = 200
# What waits to be read, at most, and of how many phones it is remembered whether they can be
# reached. More can only mean that nobody takes it any more, or that somebody makes phones up.
MOST = 100_000
MOST_BYTES = 100 << 20
LONGEST = 10_000  # bytes of an event; one of Asterisk's has some hundreds

_CALL_ENDED = frozenset(name.encode() for name in CALL_ENDED)
_AWAY = f"\r\nStatus: {UNREACHABLE}\r\n".encode()

TASK = "read queue events"  # for the log and the metrics


class Overflow(Exception):
    """More events of queue members than can be kept; all is compared instead."""


T = TypeVar("T")
OnMembers = Callable[[list[MemberNews]], Awaitable[None] | None]
OnReachable = Callable[[list[ReportedMember]], Awaitable[None] | None]


class News:
    """Events of one Asterisk in, batches out. `take` is what ``Client(on_raw=…)`` calls.

    ``on_members`` gets how members were after they were added, removed, paused or given a penalty,
    in the order of the events; of one member only the latest. ``on_reachable`` gets one member of
    each phone that has become unreachable, or reachable again; after a new connection it may hear
    once more what it knows. Both may be coroutine functions: while they run, the next batch
    gathers. ``on_call_ended`` gets the interface and the Asterisk's name, at once. ``on_missed``
    is called when events were lost: only a comparison with Asterisk can tell what they were.

    ``gather``: seconds from the first event of a batch to its reading.
    """

    def __init__(
        self,
        asterisk: str,
        on_members: OnMembers,
        on_reachable: OnReachable,
        on_call_ended: Callable[[str, str], None],
        *,
        on_missed: Callable[[], None] = lambda: None,
        gather: float = 0.03,
        fence: Fence | None = None,
    ) -> None:
        self.asterisk = asterisk
        self.gather = gather
        self._on_members = on_members
        self._on_reachable = on_reachable
        self._on_call_ended = on_call_ended
        self._on_missed = on_missed
        self._fence = fence or Fence(log)
        self._size = 0  # bytes of what waits
        # Each event's name and lines, and whether it tells that a phone went away or came back.
        self._waiting: list[tuple[bytes, bytes, bool]] = []
        # Interfaces, as Asterisk writes them, that were unreachable when last heard of, and those
        # of which it said that they are not.
        self._away: set[bytes] = set()
        self._there: set[bytes] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def take(self, name: bytes, raw: bytes) -> None:
        """One event: its name, and all of its lines. Never raises."""
        if len(raw) > LONGEST:
            self._fence.skipped(TASK, Unusable("an event is too long"), asterisk=self.asterisk)
            return
        if name in _CALL_ENDED:
            self._call_ended(raw)
            return
        flipped = False
        if name == STATUS:
            # These come by the thousand, with each ring of each phone.
            if not self._flips(raw, _AWAY in raw, told=True):
                return
            flipped = True
        elif name != REMOVED:
            # Most are echoes of our own changes to members whose phones can be reached.
            away = _AWAY in raw
            if away or self._away:
                flipped = self._flips(raw, away, told=False)
        waiting = self._waiting
        waiting.append((name, raw, flipped))
        self._size += len(raw)
        if self._timer is None and self._task is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.gather, self._begin)
        elif len(waiting) >= MOST or self._size > MOST_BYTES:
            self._fence.skipped(
                TASK, Overflow(), asterisk=self.asterisk, count=len(waiting), bytes=self._size
            )
            waiting.clear()
            self._size = 0
            self._guarded(self._on_missed)

    def _flips(self, raw: bytes, away: bool, *, told: bool) -> bool:
        """Is it news that this phone is away, or that it can be reached?

        Of one never heard of, the latter is news only when Asterisk makes a point of it
        (``told``): it may have been away when the connection was.
        """
        interface = _interface(raw)
        if away:
            if interface in self._away:
                return False
            if len(self._away) >= MOST:
                self._away.clear()  # who is away is heard of again
            self._away.add(interface)
            return True
        if interface in self._away:
            self._away.discard(interface)
            self._there.add(interface)
            return True
        if not told or interface in self._there:
            return False
        if len(self._there) >= MOST:
            self._there.clear()
        self._there.add(interface)
        return True

    def forget(self) -> None:
        """After a new connection: what phones did meanwhile was not heard."""
        self._away.clear()
        self._there.clear()

    async def close(self) -> None:
        """What has gathered is given up."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1.0)

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._read(), name="read news")
        self._task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fence.skipped(TASK, error, asterisk=self.asterisk)
            self._guarded(self._on_missed)
        if self._waiting and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(self.gather, self._begin)

    async def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._size = 0
        members: dict[tuple[str, str], MemberNews] = {}
        reachable: list[ReportedMember] = []
        for begin in range(0, len(waiting), SLICE):
            if begin:
                await asyncio.sleep(0)
            for name, raw, flipped in waiting[begin : begin + SLICE]:
                try:
                    news = member(raw, self.asterisk)
                except Unusable as error:
                    self._fence.skipped(TASK, error, asterisk=self.asterisk)
                    continue
                if name != STATUS:
                    key = (news.queue.casefold(), news.interface.casefold())
                    members.pop(key, None)  # the latest stands where it came
                    members[key] = MemberNews(news, name != REMOVED)
                if flipped:
                    reachable.append(news)
        if members:
            await self._tell(self._on_members, list(members.values()))
        if reachable:
            await self._tell(self._on_reachable, reachable)

    async def _tell(
        self, callback: Callable[[list[T]], Awaitable[None] | None], news: list[T]
    ) -> None:
        try:
            waiting = callback(news)
            if waiting is not None:
                await waiting
        except Exception as error:
            self._fence.skipped(TASK, error, asterisk=self.asterisk)
            self._guarded(self._on_missed)

    def _call_ended(self, raw: bytes) -> None:
        interface = _interface(raw).decode("utf-8", "replace")
        self._guarded(self._on_call_ended, interface, self.asterisk)

    def _guarded(self, callback: Callable[..., None], *values: str) -> None:
        with self._fence.item(TASK, asterisk=self.asterisk):
            callback(*values)


def _interface(raw: bytes) -> bytes:
    begin = raw.find(b"\r\nInterface: ") + 13
    if begin < 13:
        return b""
    end = raw.find(b"\r\n", begin)
    return raw[begin:end] if end >= 0 else raw[begin:]
