"""One program, carried out and judged; and what all of them came to."""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fastagi.agents.events import Event
from fastagi.agents.model import AgentState
from fastagi.contract import EventType, Source
from fastagi.store.connection import STATE, loaded
from fastagi.store.events import EVENT_COLUMNS, event_from
from tests.truth import judge
from tests.truth.house import Happened, House
from tests.truth.program import Ask, Console, Program, shown


class Untrue(AssertionError):
    """The text is the whole story: what was wrong, the program, what happened when."""


@dataclass(slots=True)
class Counted:
    """What is asserted and printed in the end."""

    operations: int = 0
    faults: int = 0
    programs: int = 0
    divergences: int = 0
    doubles: int = 0
    wrong_sources: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # of changes at the console, in seconds
    seconds: float = 0.0

    def sums(self) -> dict[str, int]:
        return {
            "programs": self.programs,
            "operations": self.operations,
            "faults": self.faults,
            "divergences": self.divergences,
            "doubles": self.doubles,
            "wrong sources": self.wrong_sources,
        }

    def line(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in self.sums().items())

    def details(self) -> str:
        def listed(counter: Counter[str]) -> str:
            return ", ".join(f"{name or 'no answer'} {n}" for name, n in counter.most_common())

        slow = sorted(self.latencies) or [0.0]
        return (
            f"{len(self.latencies)} changes at a calm console were told within "
            f"{slow[len(slow) // 2] * 1000:.0f} ms (median), {slow[-1] * 1000:.0f} ms (most)\n"
            f"{self.seconds:.0f} s; faults: {listed(self.kinds)}; "
            f"answers: {listed(self.outcomes)}; events: {listed(self.events)}"
        )


class Trial:
    """Runs programs in one house, each from a house in which nobody is logged in."""

    def __init__(self, house: House, counted: Counted) -> None:
        self.house = house
        self.counted = counted
        self.clean = True
        house.calmly = self._calmly

    async def __call__(self, program: Program) -> None:
        """Raises Untrue."""
        began = time.monotonic()
        house, counted = self.house, self.counted
        if not self.clean:
            await house.begin_anew()
        self.clean = False
        mark, log_mark = house.asterisk.mark(), len(house.service.log)
        problems: list[str] = []
        try:
            await house.run(program)
        except Exception as error:
            problems.append(f"failed: {error!r}")
        happened = house.now
        said = "" if problems else await house.until(self._unsettled)
        events = self._events(happened.first_event)
        problems += said.splitlines()
        problems += self._judged(happened, events)
        counted.programs += 1
        counted.operations += len(happened.operations)
        counted.faults += len(happened.faults)
        counted.outcomes.update(
            o.outcome for o in happened.operations if not isinstance(o.do, Console)
        )
        counted.kinds.update(fault.kind for _, fault in happened.faults)
        counted.events.update(f"{event.type}/{event.source}" for event in events)
        counted.seconds += time.monotonic() - began
        if problems:
            kinds = {problem.partition(":")[0] for problem in problems}
            counted.divergences += bool(kinds & {"divergence", "history", "failed"})
            counted.doubles += "double" in kinds
            counted.wrong_sources += bool(kinds & {"source", "console", "answer"})
            log = house.service.log[log_mark:]
            story = self._story(program, problems, happened, events, log, mark)
            raise Untrue(story)
        await self._everybody_off()
        self.clean = True

    # -- what is

    def _events(self, after: int) -> list[Event]:
        with contextlib.closing(sqlite3.connect(self.house.database, timeout=10)) as connection:
            rows = connection.execute(
                f"SELECT {EVENT_COLUMNS} FROM events e WHERE seq > ? ORDER BY seq", (after,)
            )
            return [event_from(row) for row in rows]

    def _states(self) -> list[AgentState]:
        with contextlib.closing(sqlite3.connect(self.house.database, timeout=10)) as connection:
            rows = connection.execute(STATE.format(where="1 = 1", more="")).fetchall()
        return [found.state for found in loaded(rows)]

    async def _unsettled(self) -> str:
        """Why it cannot be said yet that all is well; "" when all is."""
        house = self.house
        if not house.service.running:
            return "divergence: the service has ended"
        if not house.link.stands:
            return "divergence: the service is not connected to Asterisk"
        owed = house.read("SELECT command FROM intents")
        if owed:
            return f"divergence: intents are open: {owed}"
        before = house.last_event()
        states = self._states()
        stored = judge.meant(states)
        there, wrong = judge.without_static(stored, await house.members(), self._events(0))
        wrong += judge.difference(stored, there)
        lamps = await house.lamps()
        wrong += [
            f"{lamp} is {lamps.get(lamp)}, stored {state}"
            for lamp, state in judge.lamps_meant(states).items()
            if lamps.get(lamp, "NOT_INUSE") != state
        ]
        if wrong:
            return "\n".join(f"divergence: {line}" for line in wrong)
        owed = house.read("SELECT sink, agent, attempts, error FROM deliveries")
        if owed:
            return f"divergence: events are not delivered: {owed}"
        return "" if house.last_event() == before else "divergence: it does not come to rest"

    def _judged(self, happened: Happened, events: list[Event]) -> list[str]:
        consoles = [o for o in happened.operations if isinstance(o.do, Console)]
        named = {o.do.agent for o in consoles}
        used = {o.interface.removeprefix("PJSIP/") for o in consoles}
        disk = any(fault.kind.startswith("disk") for _, fault in happened.faults)
        died = any(fault.kind == "kill asterisk" for _, fault in happened.faults)
        # The service died in a login, the phone was paused without it, the login was taken back.
        died |= any(
            "fallback note ignored: nobody logged in on that phone" in line
            for line in self.house.service.log
        )
        return [
            *(f"{o.wrong} ({o.id})" for o in consoles if o.wrong),
            *judge.history(events, self._states()),
            *judge.doubles(events),
            *judge.answers(happened.operations, events, store_failed=disk, asterisk_died=died),
            *judge.delivered(
                events,
                [(told["EventId"], told["Agent"]) for told in happened.told],
                faults=bool(happened.faults),
                lost=died,
            ),
            *judge.others(
                events,
                lambda event: event.agent in named or event.extension in used,
                disturbed=bool(consoles or happened.faults),
            ),
        ]

    async def _calmly(self, command: str) -> str:
        """At the console, when all is up and settled: what comes of it, and only that."""
        house = self.house
        said = await house.until(self._unsettled, pause=0.05)
        if said:
            return said
        states, after = self._states(), house.last_event()
        before = judge.reported(await house.members())
        house.note(f"at the console: {command}")
        began = time.monotonic()
        answer = await house.manager.console(command)
        there = judge.reported(await house.members())
        wanted = judge.of_the_console(before, there, states)
        house.note(f"it says {answer.strip()!r}; wanted: {wanted}")

        def told() -> list[Event]:
            return [
                e
                for e in self._events(after)
                if e.type is not EventType.REPAIR and not judge.in_general(e)
            ]

        async def missing() -> str:
            return "" if len(told()) >= len(wanted or ()) else "divergence: it is not told"

        said = await house.until(missing, pause=0.02)
        if wanted:
            self.counted.latencies.append(time.monotonic() - began)
        said = said or await house.until(self._unsettled, pause=0.05)
        events = told()
        if Counter(judge.as_told(events)) != Counter(wanted or []):
            return (
                f"console: {command}: wanted {wanted}, "
                f"the events say {[judge.brief(event) for event in events]} {said}"
            )
        if any(event.source is not Source.ASTERISK for event in events):
            return f"source: {command}: {[judge.brief(event) for event in events]}"
        if wanted is None and judge.reported(await house.members()) != before:
            return f"divergence: not taken back: {command}"
        return said

    async def _everybody_off(self) -> None:
        """By a door; a service that is not ready yet is asked again."""
        for state in self._states():
            for _ in range(50):
                if state.session is None:
                    break
                outcome = await self.house.ask(f"off{time.time_ns()}", Ask("LogOff", state.number))
                if outcome in ("LOGGED_OFF", "NOT_LOGGED_IN"):
                    break
                await asyncio.sleep(0.1)
        said = await self.house.until(self._unsettled)
        if said or any(state.session for state in self._states()):
            raise Untrue(f"not everybody could be logged off afterwards: {said}")

    # -- telling of it

    def _story(
        self,
        program: Program,
        problems: list[str],
        happened: Happened,
        events: list[Event],
        log: list[str],
        mark: int,
    ) -> str:
        said = [line for line in log if '"event":"call"' not in line]
        parts = [
            "\n".join(problems),
            f"program = {shown(program)}",
            "what happened:\n" + "\n".join(happened.notes),
            "events:\n" + "\n".join(f"{e.occurred_at:%T.%f} {judge.brief(e)}" for e in events),
            "the service's log:\n" + "\n".join(said[-60:]),
        ]
        story = "\n\n".join(parts)
        folder = Path(os.environ.get("TRUTH_STORIES", self.house.folder))
        kept = folder / f"story-{os.getpid()}-{time.time_ns()}.txt"
        asterisk = self.house.asterisk.log_since(mark)
        kept.write_text("\n\n".join([*parts, "\n".join(log), asterisk]))
        return f"{story}\n\nall of it: {kept}"
