"""Figures for Prometheus: on a port of their own, and as text for whoever serves them.

What happens is counted as it happens, cheaply. What only the store knows is asked when somebody
wants to see it, and kept for a moment: scraping often costs the store no more.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Generic, TypeVar

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fastagi.agents.log import Trouble
from fastagi.agents.model import Status
from fastagi.agents.records import Backlog
from fastagi.contract import (
    METRIC_AGENTS,
    METRIC_AMI_CONNECTED,
    METRIC_AMI_SECONDS,
    METRIC_CALL_SECONDS,
    METRIC_CALLS,
    METRIC_DROPPED,
    METRIC_FAULTS,
    METRIC_HOOKS,
    METRIC_LISTENERS,
    METRIC_OUTBOX,
    METRIC_OUTBOX_AGE,
    METRIC_PARKED,
    METRIC_REPAIRS,
    METRIC_REQUESTS,
    METRIC_STORE,
    METRIC_STORE_LOG,
    Outcome,
    Script,
    Sink,
)

log = structlog.get_logger()

KEPT = 5.0  # seconds that an answer of the store is good for
PATIENCE = 4.0  # seconds that a scrape waits for the store; Prometheus itself gives up after 10

OTHER = "other"  # in place of a label's value that is none of the known ones
NONE = "NONE"  # the outcome of a call that ended before it had one

SCRIPTS = frozenset({*(script.value for script in Script), "busy"})
OUTCOMES = frozenset({*(outcome.value for outcome in Outcome), NONE})
HOOK_OUTCOMES = frozenset({"delivered", "failed", "parked"})
MAX_TASKS = 50  # names of tasks
HOOK_SINK = "hook"  # among the sinks: what is owed to hooks
SINKS = frozenset({*(sink.value for sink in Sink), HOOK_SINK})
UNKNOWN = "unknown"  # logged in, and the Asterisk or the store is away
STATES = (*(status.name.lower() for status in Status), UNKNOWN)

# Seconds. A call is mostly speech; a manager action is mostly the network.
CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
AMI_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One process's figures. Counting is cheap, and works whether they are served or not.

    Each label takes its values from a closed set, so that no caller can make series without end:
    agents, extensions and clients are no labels. ``agents_by_state`` counts by the Asterisk that
    agents are on, None for who is logged off, and by state; ``known`` says of an Asterisk whether
    that is true now. The callables say what holds now; they block and
    may fail, and are called in threads: figures that cannot be had are left out.
    """

    def __init__(
        self,
        *,
        agents_by_state: Callable[[], Mapping[tuple[str | None, str], int]] | None = None,
        backlog: Callable[[], Sequence[Backlog]] | None = None,
        connected: Callable[[], Mapping[str, bool]] | None = None,
        known: Callable[[str | None], bool] = lambda asterisk: True,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # each would be a second series, of no use to anybody here
        self.registry = CollectorRegistry()
        self._repairs = Counter(
            METRIC_REPAIRS,
            "Differences between the store and Asterisk's queues that were repaired or adopted",
            ["asterisk", "kind"],
            registry=self.registry,
        )
        self._calls = Counter(
            METRIC_CALLS,
            "Calls to feature codes",
            ["script", "outcome"],
            registry=self.registry,
        )
        self._call_seconds = Histogram(
            METRIC_CALL_SECONDS,
            "How long calls to feature codes took, until the answer was spoken",
            ["script"],
            buckets=CALL_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            METRIC_REQUESTS,
            "HTTP requests answered",
            ["face", "status"],
            registry=self.registry,
        )
        self._ami_seconds = Histogram(
            METRIC_AMI_SECONDS,
            "How long Asterisk took to answer manager actions, those sent together counting once",
            ["asterisk"],
            buckets=AMI_BUCKETS,
            registry=self.registry,
        )
        self._hooks = Counter(
            METRIC_HOOKS,
            "Attempts to deliver an event to a hook, by what became of them",
            ["outcome"],
            registry=self.registry,
        )
        self._listeners = Gauge(
            METRIC_LISTENERS, "Listeners of the event stream", registry=self.registry
        )
        self._store = Gauge(
            METRIC_STORE,
            "Whether the database can be written (1) or not (0)",
            registry=self.registry,
        )
        self._store_log = Gauge(
            METRIC_STORE_LOG,
            "Bytes of SQLite's -wal file; it grows while another program reads without end",
            registry=self.registry,
        )
        self._dropped = Counter(
            METRIC_DROPPED,
            "Deliveries that were given up, kept, and deleted as they were too many or too old",
            ["sink"],
            registry=self.registry,
        )
        self._faults = Counter(
            METRIC_FAULTS,
            "Items that a task of the service met, could not do and skipped",
            ["task"],
            registry=self.registry,
        )
        self._fault_tasks: set[str] = set()
        for outcome in sorted(HOOK_OUTCOMES):  # a rate can be taken from the first one on
            self._hooks.labels(outcome)
        # A label's child is looked up once: of all that counting takes, that takes the longest.
        self._call: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._request: dict[tuple[str, int], Counter] = {}
        self._acted: dict[str, Callable[[float], None]] = {}
        self._slow = Trouble(
            log, "the store is slow to give figures", "the store gives figures in time"
        )
        self._now = _Now(agents_by_state, backlog, connected, known)
        self.registry.register(self._now)

    # -- what happens

    def called(self, script: str, outcome: str, seconds: float) -> None:
        """A call has ended; ``outcome`` is "" when it ended before it had one."""
        entry = self._call.get((script, outcome))
        if entry is None:
            known = script if script in SCRIPTS else OTHER
            what = outcome or NONE
            entry = (
                self._calls.labels(known, what if what in OUTCOMES else OTHER),
                self._call_seconds.labels(known),
            )
            if known is not OTHER and what in OUTCOMES:
                self._call[script, outcome] = entry
        count, duration = entry
        count.inc()
        duration.observe(seconds)

    def acted(self, asterisk: str, seconds: float) -> None:
        """Asterisk has answered; ``asterisk`` is its name in the settings."""
        observe = self._acted.get(asterisk)
        if observe is None:
            observe = self._acted[asterisk] = self._ami_seconds.labels(asterisk).observe
        observe(seconds)

    def requested(self, interface: str, status: int) -> None:
        """A request was answered. ``interface`` is its name: a word, and no path."""
        count = self._request.get((interface, status))
        if count is None:
            is_name, is_status = interface.isidentifier(), 100 <= status <= 599
            known = is_name and is_status
            count = self._requests.labels(
                interface if is_name else OTHER, str(status) if is_status else OTHER
            )
            if known:
                self._request[interface, status] = count
        count.inc()

    def hooked(self, outcome: str) -> None:
        """``delivered``, ``failed`` (tried again later) or ``parked``."""
        self._hooks.labels(outcome if outcome in HOOK_OUTCOMES else OTHER).inc()

    def fault(self, task: str) -> None:
        """A task has skipped an item, see ``agents.fence``. From any thread."""
        if len(self._fault_tasks) < MAX_TASKS:
            self._fault_tasks.add(task)
        self._faults.labels(task if task in self._fault_tasks else OTHER).inc()

    def stored(self, writable: bool, log_bytes: int) -> None:
        """How the database is now."""
        self._store.set(float(writable))
        self._store_log.set(log_bytes)

    def dropped(self, sink: str, count: int) -> None:
        """So many parked deliveries to this sink were deleted."""
        self._dropped.labels(sink if sink in SINKS else OTHER).inc(count)

    def listeners(self, count: int) -> None:
        """So many follow the event stream now."""
        self._listeners.set(count)

    def repaired(self, asterisk: str, kind: str, count: int) -> None:
        self._repairs.labels(asterisk, kind.replace(" ", "_")).inc(count)

    # -- who wants to see

    async def text(self) -> tuple[bytes, str]:
        """All figures as Prometheus reads them, and the content type. What the store does not say
        in time is left out."""
        try:
            async with asyncio.timeout(PATIENCE):
                await _aside(self._now.ask)
        except TimeoutError:
            self._slow.is_there(seconds=PATIENCE)
        else:
            self._slow.is_over()
        return await asyncio.to_thread(self._text), CONTENT_TYPE_LATEST

    def _text(self) -> bytes:
        return generate_latest(self.registry)


async def _aside(question: Callable[[], None]) -> None:
    """In a thread that nobody waits for when the service stops, should it be stuck."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    def ask() -> None:
        question()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish)

    threading.Thread(target=ask, name="figures", daemon=True).start()
    await done


T = TypeVar("T")


class _Kept(Generic[T]):
    """The answer to a question that is not asked too often, nor by two at once."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._question = question
        self._asking = threading.Lock()
        self._away = Trouble(log, "figures could not be had", "figures can be had again")
        self._next = 0.0
        self._answer: T | None = None

    def ask(self) -> None:
        """Blocks, unless the last answer is still good or somebody is asking already."""
        if time.monotonic() < self._next or not self._asking.acquire(blocking=False):
            return
        try:
            self._answer = self._question()
        except Exception as error:  # a figure less; nothing else may suffer from it
            self._answer = None
            self._away.is_there(error=type(error).__name__)
        else:
            self._away.is_over()
        finally:
            self._next = time.monotonic() + KEPT
            self._asking.release()

    @property
    def answer(self) -> T | None:
        """None: it could not be had, or is older than two askings."""
        return self._answer if time.monotonic() < self._next + KEPT else None


class _Now(Collector):
    """What holds at the moment of the scrape."""

    def __init__(
        self,
        agents_by_state: Callable[[], Mapping[tuple[str | None, str], int]] | None,
        backlog: Callable[[], Sequence[Backlog]] | None,
        connected: Callable[[], Mapping[str, bool]] | None,
        known: Callable[[str | None], bool],
    ) -> None:
        self._known = known
        self._agents = None if agents_by_state is None else _Kept(agents_by_state)
        self._backlog = None if backlog is None else _Kept(backlog)
        self._connected = connected

    def ask(self) -> None:
        for kept in (self._agents, self._backlog):
            if kept is not None:
                kept.ask()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: registering must not ask the store."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        self.ask()
        if self._connected is not None:
            links = GaugeMetricFamily(
                METRIC_AMI_CONNECTED,
                "Whether the manager link to Asterisk is up (1) or not (0)",
                labels=["asterisk"],
            )
            for name, up in self._connected().items():
                links.add_metric([name], float(up))
            yield links
        if self._agents is not None and (agents := self._agents.answer) is not None:
            yield _by_state(agents, self._known)
        if self._backlog is not None and (backlog := self._backlog.answer) is not None:
            yield from _by_sink(backlog)


def _by_state(
    counts: Mapping[tuple[str | None, str], int], known: Callable[[str | None], bool]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        METRIC_AGENTS,
        "Agents, by what they are; available: logged in and not paused; unknown: away with their"
        " Asterisk, or the store is",
        labels=["state"],
    )
    found = dict.fromkeys(STATES, 0)
    for (asterisk, state), count in counts.items():
        found[state if known(asterisk) else UNKNOWN] += count
    for state in STATES:
        family.add_metric([state], found[state])
    return family


def _by_sink(backlog: Sequence[Backlog]) -> Iterator[GaugeMetricFamily]:
    now = datetime.now(UTC)
    waiting = dict.fromkeys(sorted(SINKS), 0)
    age = dict.fromkeys(waiting, 0.0)
    parked = dict.fromkeys(waiting, 0)
    for of in backlog:
        sink = of.sink if of.sink in SINKS else OTHER
        waiting[sink] = waiting.get(sink, 0) + of.waiting
        parked[sink] = parked.get(sink, 0) + of.parked
        oldest = 0.0 if of.oldest is None else max(0.0, (now - of.oldest).total_seconds())
        age[sink] = max(age.get(sink, 0.0), oldest)
    figures: tuple[tuple[str, str, Mapping[str, float]], ...] = (
        (METRIC_OUTBOX, "Deliveries that wait for their sink", waiting),
        (METRIC_OUTBOX_AGE, "Age of the oldest event that waits for its sink", age),
        (METRIC_PARKED, "Deliveries given up after too many attempts, and kept", parked),
    )
    for name, what, values in figures:
        family = GaugeMetricFamily(name, what, labels=["sink"])
        for sink, value in values.items():
            family.add_metric([sink], value)
        yield family
