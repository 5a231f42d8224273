"""How much others may take: connections, turns of the loop, guesses, memory and log lines.

Plain rules with numbers. Times are seconds of a monotonic clock: a clock that is set has no effect.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from typing import Any

from fastagi.agents.log import Repeats

MOST_SOURCES = 10_000  # addresses that are remembered, the latest ones
MOST_FAMILIAR = 10_000  # right tokens that are remembered, by address

AT_ONCE = 8  # requests that begin in one turn of the loop; phone calls have their turns in between

# Requests without a right token: answered at this rate, the others wait.
RATE = 100.0  # a second, of one address
BURST = 200  # at once, of one address
RATE_OF_ALL = 300.0
BURST_OF_ALL = 400
LONGEST_WAIT = 10.0  # seconds; what would wait longer is not answered

OUTPUT = 64 * 2**20  # bytes of large answers that wait to be taken, all together
OUTPUT_OF_CLIENT = OUTPUT // 2

LOG_EVERY = 60.0  # seconds between two lines of one kind
LOG_KINDS = 1000  # kinds that are distinguished; more share one line


def parsed(text: str) -> IPv4Address | IPv6Address | None:
    """An address as it is written in a socket's name or a header; None: it is none."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def block(address: str) -> str:
    """Who has one IPv6 address has the 2**64 beside it too: they count as one."""
    if ":" not in address:
        return address
    found = parsed(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found) if found else address


class Attempts:
    """Wrong tokens by address, and which tokens were right there.

    So many failures within ``within`` seconds make an address suspect for ``duration`` seconds.
    """

    def __init__(self, failures: int, within: float, duration: float) -> None:
        self._failures = failures
        self._within = within
        self._duration = duration
        self._failed: dict[str, deque[float]] = {}
        self._familiar: dict[tuple[str, bytes], None] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def suspect(self, address: str, now: float) -> float | None:
        """For how long still; None: it is not."""
        times = self._failed.get(block(address)) if self._failed else None
        if times is None or len(times) < self._failures or times[-1] - times[0] > self._within:
            return None
        # While it is suspect nothing is counted: the last failure is the one that made it so.
        left = times[-1] + self._duration - now
        return left if left > 0 else None

    def failed(self, address: str, now: float) -> bool:
        """Counts one; whether the address is suspect now."""
        address = block(address)
        times = self._failed.pop(address, None)
        if times is None:
            times = deque(maxlen=self._failures)
        times.append(now)
        self._failed[address] = times
        memory = self._within + self._duration
        for oldest in list(islice(self._failed, 2)):  # two for one: it does not stay full for ever
            over = len(self._failed) > MOST_SOURCES
            if over or now - self._failed[oldest][-1] > memory:
                del self._failed[oldest]
        return self.suspect(address, now) is not None

    def familiar(self, address: str, token: bytes) -> bool:
        """Whether this token (its hash) was right from there before; it is from now on."""
        key = (block(address), token)
        if key in self._familiar:
            return True
        if len(self._familiar) >= MOST_FAMILIAR:
            del self._familiar[next(iter(self._familiar))]
        self._familiar[key] = None
        return False


class Pace:
    """A rate for each address and one for all together; a request that comes too early waits.

    This machine's own programs, such as health checks, have a rate for themselves.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._of_all = 0.0
        self._of: dict[str, float] = {}  # until when what was let in uses the rate up

    async def wait(self, address: str) -> bool:
        """False: it would take too long."""
        now = self._now()
        here = address == "::1" or (address := block(address)).startswith("127.")
        address = "here" if here else address
        own = max(self._of.get(address, 0.0), now) + 1 / RATE
        delay = own - BURST / RATE - now
        every = self._of_all
        if not here:
            every = max(every, now) + 1 / RATE_OF_ALL
            delay = max(delay, every - BURST_OF_ALL / RATE_OF_ALL - now)
        if delay > LONGEST_WAIT:
            return False
        self._of_all = every
        self._of.pop(address, None)
        self._of[address] = own
        for oldest in list(islice(self._of, 2)):
            if len(self._of) > MOST_SOURCES or self._of[oldest] <= now:
                del self._of[oldest]
        if delay > 0:
            await asyncio.sleep(delay)
        return True


class Turns:
    """At most ``AT_ONCE`` requests begin in one turn of the loop, in the order they came."""

    def __init__(self) -> None:
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._counting = False

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._counting:
            self._counting = True
            loop.call_soon(self._next, loop)
        if self._begun < AT_ONCE and not self._waiting:
            self._begun += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = 0
        while self._waiting and self._begun < AT_ONCE:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                self._begun += 1
        self._counting = self._begun > 0
        if self._counting:
            loop.call_soon(self._next, loop)


class Output:
    """Large answers that are being sent. The same bytes sent to many count once."""

    def __init__(self) -> None:
        self._users: dict[int, int] = {}  # by the bytes' identity
        self._of_client: dict[str, int] = {}
        self._total = 0

    def begin(self, client: str, content: object, size: int) -> bool:
        """False: too much waits already."""
        key = id(content)
        if key not in self._users:
            of_client = self._of_client.get(client, 0)
            # The first one always may: there are answers larger than a client's share.
            if of_client and of_client + size > OUTPUT_OF_CLIENT:
                return False
            if self._total and self._total + size > OUTPUT:
                return False
            self._users[key] = 0
            self._total += size
            self._of_client[client] = of_client + size
        self._users[key] += 1
        return True

    def end(self, client: str, content: object, size: int) -> None:
        key = id(content)
        self._users[key] -= 1
        if self._users[key]:
            return
        del self._users[key]
        self._total -= size
        left = self._of_client.get(client, 0) - size
        if left > 0:
            self._of_client[client] = left
        else:
            self._of_client.pop(client, None)


@dataclass(eq=False, slots=True)
class Place:
    """Of one connection. ``client`` is "" until a request has shown a right token."""

    source: str
    cut: Callable[[], object]
    client: str = ""
    gone: bool = False


@dataclass(slots=True)
class Places:
    """Who may connect.

    most         connections in all
    of_source    of one address, as long as they have shown no right token
    of_client    of one client

    Where there is no place for one more, the oldest connection without a right token makes room:
    whoever holds many, of one address or of all, loses them before anybody is kept out.
    """

    most: int
    of_source: int
    of_client: int
    _taken: int = 0
    _unknown: dict[str, OrderedDict[Place, None]] = field(default_factory=dict)
    _known: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self._taken

    def take(self, source: str, cut: Callable[[], object], *, shared: bool = False) -> Place | None:
        """None: there is none. ``shared``: many are behind that address, it has no limit."""
        place = Place(source, cut)
        own = self._unknown.get(source)
        if own is not None and len(own) >= self.of_source and not shared:
            self._evict(own)
        elif self._taken >= self.most:
            if not self._unknown:
                return None
            self._evict(max(self._unknown.values(), key=len))
        self._taken += 1
        self._unknown.setdefault(source, OrderedDict())[place] = None
        return place

    def _evict(self, places: OrderedDict[Place, None]) -> None:
        oldest = next(iter(places))
        self.leave(oldest)
        oldest.cut()

    def identify(self, place: Place, client: str, *, limited: bool) -> bool:
        """The connection is that client's from now on; False: it has too many already."""
        if place.client == client:
            return True
        count = self._known.get(client, 0)
        if limited and count >= self.of_client:
            return False
        if not place.gone:
            self._forget(place)
            place.client = client
            self._known[client] = count + 1
        return True

    def leave(self, place: Place) -> None:
        if not place.gone:
            place.gone = True
            self._taken -= 1
            self._forget(place)

    def _forget(self, place: Place) -> None:
        if place.client:
            left = self._known[place.client] - 1
            if left:
                self._known[place.client] = left
            else:
                del self._known[place.client]
            return
        own = self._unknown[place.source]
        del own[place]
        if not own:
            del self._unknown[place.source]


class Repeated:
    """Log lines that others cause, at their rate: the first of a kind is written at once, the
    others of the next minute as one line that says how many ``more`` there were."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._more = Repeats(LOG_KINDS)

    def __call__(self, level: str, event: str, *kind: str, **fields: Any) -> None:
        """``kind``: what distinguishes lines of this event."""
        key = self._more.key(event, *kind, shared=(event,))
        if self._more.count(key) is None:
            return
        write = partial(getattr(self._log, level), event, **fields)
        write()
        loop = asyncio.get_running_loop()
        loop.call_later(LOG_EVERY, self._sum_up, loop, key, write)

    def _sum_up(
        self, loop: asyncio.AbstractEventLoop, key: tuple[str, ...], write: Callable[..., None]
    ) -> None:
        if more := self._more.take(key):
            write(more=more)
            loop.call_later(LOG_EVERY, self._sum_up, loop, key, write)
