"""What is said: outcome → sounds, digits and numbers, from core sounds every language has.

There is no core sound for every idea ("queue", "available"), so answers are put together from
what all language packages share; an admin with recordings of their own names them per outcome
under ``prompts:``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fastagi.contract import Outcome

# The fallback, a process per call, speaks the same answers and has no time to import the rules.
if TYPE_CHECKING:
    from fastagi.agents.model import AgentState


@dataclass(frozen=True, slots=True)
class Digits:
    """Spoken one by one."""

    text: str


@dataclass(frozen=True, slots=True)
class Number:
    value: int


Phrase = tuple[str | Digits | Number, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an answer may speak of."""

    agent: str = ""
    extension: str = ""
    queue: str = ""
    reason: str = ""  # the pause reason's code
    occupant: str = ""  # the number of the agent who is logged in on the extension


# In a template "{agent}", "{extension}", "{queue}", "{reason}" and "{occupant}" stand for spoken
# digits.
ANSWERS: dict[Outcome, tuple[str, ...]] = {
    Outcome.LOGGED_IN: ("agent-loginok",),
    Outcome.ALREADY_LOGGED_IN: (
        "spy-agent",
        "{agent}",
        "vm-extension",
        "{extension}",
        "agent-loginok",
    ),
    Outcome.MOVED: ("pbx-transfer", "vm-extension", "{extension}", "agent-loginok"),
    Outcome.LOGGED_OFF: ("agent-loggedoff",),
    Outcome.LOGOFF_AFTER_CALL: ("spy-agent", "{agent}", "vm-isonphone", "auth-thankyou"),
    Outcome.PAUSED: ("dictate/paused", "{reason}"),
    Outcome.PAUSE_AFTER_CALL: (
        "spy-agent",
        "{agent}",
        "vm-isonphone",
        "dictate/pause",
        "{reason}",
        "auth-thankyou",
    ),
    Outcome.ALREADY_PAUSED: ("spy-agent", "{agent}", "dictate/paused", "{reason}"),
    Outcome.PAUSE_REASON_CHANGED: ("dictate/paused", "vm-saved", "{reason}"),
    Outcome.UNPAUSED: ("auth-thankyou", "vm-no", "dictate/pause"),
    Outcome.NOT_PAUSED: ("vm-no", "dictate/pause"),
    Outcome.STATUS_TOLD: (),  # composed by status()
    Outcome.QUEUE_JOINED: ("agent-loginok", "{queue}"),
    Outcome.QUEUE_LEFT: ("agent-loggedoff", "{queue}"),
    Outcome.NO_INPUT: ("vm-sorry", "vm-goodbye"),
    Outcome.NO_SUCH_AGENT: ("vm-incorrect", "vm-goodbye"),
    Outcome.WRONG_PIN: ("confbridge-pin-bad", "vm-goodbye"),
    Outcome.AGENT_LOCKED: ("spy-agent", "{agent}", "vm-isunavail", "vm-goodbye"),
    Outcome.EXTENSION_LOCKED: ("vm-extension", "{extension}", "vm-isunavail", "vm-goodbye"),
    Outcome.NO_SUCH_EXTENSION: ("pbx-invalid",),
    Outcome.EXTENSION_IN_USE: (
        "beeperr",
        "vm-extension",
        "{extension}",
        "vm-isunavail",
        "spy-agent",
        "{occupant}",
        "agent-loginok",
        "vm-goodbye",
    ),
    Outcome.NUMBER_NOT_ALLOWED: ("beeperr", "{extension}", "ss-noservice"),
    Outcome.NOT_FROM_HERE: ("privacy-unident", "vm-goodbye"),
    Outcome.LOGGED_IN_ELSEWHERE: ("spy-agent", "{agent}", "vm-extension", "{extension}"),
    Outcome.NOT_LOGGED_IN: ("beeperr", "vm-no", "spy-agent", "vm-goodbye"),
    Outcome.IN_CALL: ("spy-agent", "{agent}", "vm-isonphone", "please-try-again"),
    Outcome.NO_SUCH_REASON: ("conf-errormenu", "vm-goodbye"),
    Outcome.PAUSE_SPENT: ("beeperr", "dictate/pause", "{reason}", "vm-isunavail", "vm-goodbye"),
    Outcome.PAUSE_LOCKED: ("beeperr", "dictate/pause", "{reason}", "please-try-again"),
    Outcome.NO_SUCH_QUEUE: ("privacy-incorrect",),
    Outcome.NOT_A_MEMBER: ("privacy-incorrect", "spy-agent", "{agent}"),
    Outcome.LAST_IN_QUEUE: ("beeperr", "vm-last", "spy-agent", "{queue}"),
    # The only words for a queue that all languages share.
    Outcome.QUEUE_REFUSED: (
        "beeperr",
        "queue-callswaiting",
        "{queue}",
        "vm-isunavail",
        "vm-goodbye",
    ),
    Outcome.UNAVAILABLE: ("tt-somethingwrong", "please-try-again"),
    Outcome.BUSY: ("beeperr", "please-try-again"),
}

ASK_AGENT = "agent-user"
ASK_AGENT_AGAIN = "agent-incorrect"
ASK_PIN = "agent-pass"
ASK_PIN_AGAIN = "auth-incorrect"
WRONG_CHOICE = "conf-errormenu"
ASK_TO_MOVE = ("vm-extension", "{extension}", "vm-press", "digits/1", "pbx-transfer")
ASK_TO_LEAVE = ("vm-last", "spy-agent", "{queue}", "vm-press", "digits/1", "agent-loggedoff")
PLEASE_WAIT = "queue-thankyou"  # while the answer takes longer than a caller waits in silence
LAST_RESORT = "beeperr"  # a sound file is missing: anything is better than silence

# Everything that may be played by name; `fastagi check` looks for each in each language.
SOUNDS: frozenset[str] = frozenset(
    sound
    for template in (*ANSWERS.values(), ASK_TO_MOVE, ASK_TO_LEAVE)
    for sound in template
    if not sound.startswith("{")
) | {
    ASK_AGENT,
    ASK_AGENT_AGAIN,
    ASK_PIN,
    ASK_PIN_AGAIN,
    WRONG_CHOICE,
    PLEASE_WAIT,
    LAST_RESORT,
    "vm-and",
    "vm-youhave",
    "queue-minute",
    "queue-minutes",
    *(f"digits/{digit}" for digit in range(10)),
}


def fill(template: tuple[str, ...], facts: Facts) -> Phrase:
    """The template with what it speaks of; what is not known is left out."""
    values = {
        "{agent}": facts.agent,
        "{extension}": facts.extension,
        "{queue}": facts.queue,
        "{reason}": facts.reason,
        "{occupant}": facts.occupant,
    }
    phrase: list[str | Digits | Number] = []
    for item in template:
        if item not in values:
            phrase.append(item)
        elif values[item]:
            phrase.append(Digits(values[item]))
    return tuple(phrase)


def answer(outcome: Outcome, facts: Facts, chosen: Mapping[Outcome, tuple[str, ...]]) -> Phrase:
    """What is said at the end of a call; ``chosen`` are the admin's own sounds."""
    return tuple(chosen[outcome]) if outcome in chosen else fill(ANSWERS[outcome], facts)


QUEUES_NAMED = 4  # so many are told one by one; more are counted


def status(state: "AgentState", now: datetime) -> Phrase:
    """Where, in which queues, paused or not; then what comes after this call, if anything.

    "extension 1001, agent logged in, 701 and 702 paused and 703, no pause": a queue in which the
    agent is paused, or is not, other than in general is told with it. Of many queues only these are
    named, after their count. A pause is told with its reason's code, where it has one, and its
    minutes.
    """
    assert state.session is not None
    phrase: tuple[str | Digits | Number, ...] = (
        "vm-extension",
        Digits(state.session.device.extension),
        "agent-loginok",
        *_queues(state),
    )
    if state.pause is None:
        phrase += ("vm-no", "dictate/pause")
    else:
        minutes = max(0, (now - state.pause.since) // timedelta(minutes=1))
        code = state.pause.reason.code  # none for what the system or Asterisk itself did
        phrase += ("dictate/paused", *((Digits(code),) if code else ()), Number(minutes))
        phrase += ("queue-minute" if minutes == 1 else "queue-minutes",)
    return (*phrase, *_planned(state))


def _queues(state: "AgentState") -> Phrase:
    joined = state.joined
    many = len(joined) > QUEUES_NAMED
    named: list[Phrase] = []
    for membership in joined:
        paused, _ = state.pause_in(membership)
        differs: Phrase = ()
        if paused and state.pause is None:
            differs = ("dictate/paused",)
        elif not paused and state.pause is not None:
            differs = ("vm-no", "dictate/pause")
        if differs or not many:
            named.append((Digits(membership.number), *differs))
    phrase: list[str | Digits | Number] = []
    if many or not joined:
        phrase += ["vm-youhave", Number(len(joined))]
    # "and" parts the numbers: 701 702 would be heard as one.
    for one in named[:QUEUES_NAMED]:
        phrase += ["vm-and", *one] if phrase else one
    return tuple(phrase)


def _planned(state: "AgentState") -> Phrase:
    from fastagi.agents.commands import Pause

    if state.planned is None:
        return ()
    if isinstance(state.planned, Pause):
        code = state.planned.reason.code
        return ("vm-isonphone", "dictate/pause", *((Digits(code),) if code else ()))
    return ("vm-isonphone", "agent-loggedoff")


def missing_queues(numbers: tuple[str, ...]) -> Phrase:
    """Which queues the agent is not in, as Asterisk lacks them: "… is unavailable"."""
    return tuple(item for number in numbers for item in (Digits(number), "vm-isunavail"))


def menu(codes: tuple[str, ...]) -> Phrase:
    """The pause reasons to choose from, by code."""
    return ("dictate/pause", "vm-press", *_choices(codes))


def queue_menu(numbers: tuple[str, ...]) -> Phrase:
    """The agent's queues to choose from, by number."""
    return ("spy-agent", "vm-press", *_choices(numbers))


def _choices(numbers: tuple[str, ...]) -> Phrase:
    return tuple([Digits(number) for number in numbers])
