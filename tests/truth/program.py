"""What is done to the house: a program is a list of steps, drawn by Hypothesis.

A step begins ``after`` milliseconds after the one before it began, whether that one has ended or
not; so people race each other and faults come in the middle. ``repr`` of a program is Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

QUEUES = {"701": "sales", "702": "support", "703": "billing"}
PHONES = tuple(str(number) for number in range(1001, 1009))
AGENTS = tuple(str(number) for number in range(4001, 4013))
WITH_PIN = {"4012": "4321"}
REASONS = ("1", "2", "3")


def queues_of(agent: str) -> dict[str, int]:
    """Queue → penalty, as configured: one, two or three queues each."""
    n = int(agent)
    names = tuple(QUEUES.values())
    return {names[(n + i) % 3]: (n + i) % 4 for i in range(1 + n % 3)}


@dataclass(frozen=True, slots=True)
class Dial:
    """A code at a phone. ``sure``: presses 1 when asked. ``hang_up_at``: hangs up during that
    command of the service, counted from 1. ``real``: through Asterisk's dialplan, else straight
    over FastAGI as Asterisk would."""

    phone: str
    code: str
    sure: bool = False
    hang_up_at: int = 0
    real: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """A command at the other door, with source ``api``."""

    kind: str
    agent: str
    at: str = ""  # the extension of a LogIn
    detail: str = ""  # code of the reason, name of the queue; "take over" on a LogIn
    sure: bool = False  # LogIn: move; LeaveQueue: though the last one


@dataclass(frozen=True, slots=True)
class Console:
    """Somebody at Asterisk's own command line. ``at`` is a phone; "" is where Asterisk has the
    agent now. ``calm``: when nothing else is going on, and everything is up."""

    verb: str  # add, remove, pause, unpause, penalty
    agent: str
    queue: str  # "": in all queues (pause, unpause)
    at: str = ""
    detail: str = ""  # the reason, or the penalty
    calm: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Lasts ``lasts`` milliseconds. ``at``: not now, but at the next request to Asterisk with this
    action, before it arrives or, with ``answered``, when it was carried out."""

    kind: str
    lasts: int = 0
    at: str = ""
    answered: bool = False
    count: int = 1


@dataclass(frozen=True, slots=True)
class Rest:
    """Everything under way comes to its end."""


Deed = Dial | Ask | Console | Fault | Rest


@dataclass(frozen=True, slots=True)
class Step:
    do: Deed
    after: int = 0  # ms


Program = tuple[Step, ...]


def shown(program: Sequence[Step]) -> str:
    """As Python, to be put into a test."""
    return "(\n" + "".join(f"    {step!r},\n" for step in program) + ")"


# -- strategies -----------------------------------------------------------------------------------

phones = st.sampled_from(PHONES)
agents = st.sampled_from(AGENTS)
queue_numbers = st.sampled_from(tuple(QUEUES))
queue_names = st.sampled_from(tuple(QUEUES.values()))
reasons = st.sampled_from(REASONS)


def home_of(agent: str) -> str:
    """Where the agent usually sits; some share a desk."""
    return PHONES[int(agent) % len(PHONES)]


@st.composite
def dials(draw: st.DrawFn, real: bool = False) -> Dial:
    agent, reason = draw(agents), draw(reasons)
    phone = draw(st.sampled_from((home_of(agent), home_of(agent), draw(phones))))
    if real:
        # Only what asks nothing: nobody is there to press a key, and to wait takes its time.
        who = "4011" if agent in WITH_PIN else agent
        codes = (f"*31{who}", "*32", f"*33{reason}", f"*33{reason}", "*34", "*34", f"*39{reason}")
        return Dial(phone, draw(st.sampled_from(codes)), real=True)
    code = draw(
        st.sampled_from(
            (
                f"*31{agent}",
                f"*31{agent}",
                f"*31{agent}",
                f"*31{agent}*{draw(phones)}",
                "*32",
                f"*32{agent}",
                f"*33{reason}",
                f"*33{reason}",
                f"*33{reason}",
                "*34",
                "*34",
                "*34",
                f"*36{draw(queue_numbers)}",
                f"*36{draw(queue_numbers)}",
                f"*36{draw(queue_numbers)}",
                f"*30{agent}",
                f"*39{reason}",
                f"*39{reason}",
                "*35",
                "*339",
                "*319999",
            )
        )
    )
    hang_up_at = draw(st.sampled_from((0, 0, 0, 0, 0, 1, 2, 3)))
    return Dial(phone, code, draw(st.booleans()), hang_up_at)


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    kind = draw(
        st.sampled_from(
            ("LogIn", "LogOff", "Pause", "Pause", "Unpause", "Unpause", "JoinQueue", "LeaveQueue")
        )
    )
    agent = draw(agents)
    if kind == "LogIn":
        at = draw(st.sampled_from((home_of(agent), draw(phones))))
        detail = draw(st.sampled_from(("", "", "take over")))
        return Ask(kind, agent, at=at, detail=detail, sure=draw(st.booleans()))
    if kind == "Pause":
        return Ask(kind, agent, detail=draw(reasons))
    if kind in ("JoinQueue", "LeaveQueue"):
        return Ask(kind, agent, detail=draw(queue_names), sure=draw(st.booleans()))
    return Ask(kind, agent)


@st.composite
def consoles(draw: st.DrawFn, calm: bool = False) -> Console:
    verb = draw(st.sampled_from(("add", "remove", "pause", "unpause", "penalty")))
    agent, queue = draw(agents), draw(queue_names)
    at = draw(st.sampled_from(("", "", "", *PHONES[:3])))
    match verb:
        case "add":
            detail = draw(st.sampled_from(("", "0", "3")))
        case "pause":
            detail = draw(st.sampled_from(("lunch", "break", "coffee", "")))
            queue = draw(st.sampled_from(("", queue)))
        case "unpause":
            detail = ""
            queue = draw(st.sampled_from(("", queue)))
        case "penalty":
            detail = draw(st.sampled_from(("0", "1", "5")))
        case _:
            detail = ""
    return Console(verb, agent, queue, at, detail, calm)


rests = st.just(Rest())


ACTIONS = ("QueueAdd", "QueueRemove", "QueuePause", "QueueStatus", "UserEvent", "Setvar")


@st.composite
def faults(draw: st.DrawFn, kinds: Sequence[str]) -> Fault:
    kind = draw(st.sampled_from(tuple(kinds)))
    lasts = draw(st.sampled_from((0, 30, 100, 300)))
    if kind in ("kill service", "kill asterisk", "cut"):
        at = draw(st.sampled_from(("", *ACTIONS[:3], *ACTIONS)))
        return Fault(kind, lasts, at, draw(st.booleans()), draw(st.sampled_from((1, 1, 2, 3))))
    if kind == "silence":
        return Fault(kind, draw(st.sampled_from((200, 800, 1500))))
    if kind in ("slow", "disk full", "disk nearly full"):
        return Fault(kind, draw(st.sampled_from((100, 300, 700))))
    return Fault(kind, lasts)


FAULTS = (
    "kill service",
    "kill service",
    "kill service",
    "kill asterisk",
    "kill asterisk",
    "cut",
    "cut",
    "slow",
    "silence",
    "stop service",
    "freeze asterisk",
    "freeze service",
    "disk full",
    "disk nearly full",
)

pauses = st.sampled_from((0, 0, 0, 1, 3, 8, 20, 60))


@st.composite
def programs(
    draw: st.DrawFn,
    deeds: st.SearchStrategy[Deed],
    *,
    length: int,
    kinds: Sequence[str] = FAULTS,
    trouble: int = 2,
) -> Program:
    """``length`` deeds, among them ``trouble`` faults at random places. Each may shrink to nothing,
    and is then left out."""

    def one(what: st.SearchStrategy[Deed]) -> Step | None:
        # 0 is the simplest: a step shrinks to none at all.
        return Step(draw(what), draw(pauses)) if draw(st.integers(0, 9)) else None

    morning = st.builds(lambda agent: Dial(home_of(agent), f"*31{agent}"), agents)
    program = [one(morning) for _ in range(length // 5)]
    program += [one(deeds) for _ in range(length - length // 5)]
    for _ in range(trouble):
        program.insert(draw(st.integers(0, length)), one(faults(kinds)))
    return tuple(step for step in program if step is not None)
