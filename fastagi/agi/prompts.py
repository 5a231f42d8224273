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


# In a template "{agent}", "{extension}", "{queue}" and "{reason}" stand for spoken digits.
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
        "vm-theperson",
        "{extension}",
        "vm-isonphone",
        "vm-goodbye",
    ),
    Outcome.LOGGED_IN_ELSEWHERE: ("spy-agent", "{agent}", "vm-extension", "{extension}"),
    Outcome.NOT_LOGGED_IN: ("beeperr", "vm-no", "spy-agent", "vm-goodbye"),
    Outcome.IN_CALL: ("spy-agent", "{agent}", "vm-isonphone", "please-try-again"),
    Outcome.NO_SUCH_REASON: ("conf-errormenu", "vm-goodbye"),
    Outcome.PAUSE_SPENT: ("beeperr", "dictate/pause", "{reason}", "vm-isunavail", "vm-goodbye"),
    Outcome.PAUSE_LOCKED: ("beeperr", "dictate/pause", "{reason}", "please-try-again"),
    Outcome.NO_SUCH_QUEUE: ("privacy-incorrect",),
    Outcome.NOT_A_MEMBER: ("privacy-incorrect", "spy-agent", "{agent}"),
    Outcome.LAST_IN_QUEUE: ("beeperr", "vm-last", "spy-agent", "{queue}"),
    Outcome.QUEUE_REFUSED: ("tt-somethingwrong", "ss-noservice"),
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
    LAST_RESORT,
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


def status(state: "AgentState", now: datetime) -> Phrase:
    """Extension, number of queues, then "no pause", or paused with the reason's code (where it has
    one) and for how many minutes; then what comes after this call, if anything was planned."""
    assert state.session is not None
    phrase: tuple[str | Digits | Number, ...] = (
        "vm-extension",
        Digits(state.session.device.extension),
        "vm-youhave",
        Number(len(state.joined)),
    )
    if state.pause is None:
        phrase += ("vm-no", "dictate/pause")
    else:
        minutes = max(0, (now - state.pause.since) // timedelta(minutes=1))
        code = state.pause.reason.code  # none for what the system or Asterisk itself did
        phrase += ("dictate/paused", *((Digits(code),) if code else ()), Number(minutes))
        phrase += ("queue-minute" if minutes == 1 else "queue-minutes",)
    return (*phrase, *_planned(state))


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
    phrase: list[str | Digits | Number] = ["dictate/pause", "vm-press"]
    phrase += [Digits(code) for code in codes]
    return tuple(phrase)


def queue_menu(numbers: tuple[str, ...]) -> Phrase:
    """The agent's queues to choose from, by number."""
    phrase: list[str | Digits | Number] = ["spy-agent", "vm-press"]
    phrase += [Digits(number) for number in numbers]
    return tuple(phrase)
