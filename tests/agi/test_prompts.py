from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agents.memory import LUNCH, NOON, an_agent, device
from fastagi.agents.commands import LogOff, Pause, PauseReason
from fastagi.agents.model import AgentState, LoginSession, Membership, OwnPause, PauseSegment
from fastagi.agi import prompts
from fastagi.agi.prompts import ANSWERS, SOUNDS, Digits, Facts, Number
from fastagi.contract import DEVICE_LOST, Outcome, Source

# What the core sound packages of all languages have in common.
COMMON = set(
    (Path(__file__).parent.parent / "core-sounds-common.txt").read_text(encoding="utf-8").split()
)
FACTS = Facts(agent="1001", extension="2002", queue="701", reason="4", occupant="1002")


def test_every_outcome_has_an_answer_of_its_own() -> None:
    assert set(ANSWERS) == set(Outcome)
    spoken = {outcome: prompts.answer(outcome, FACTS, {}) for outcome in Outcome}
    del spoken[Outcome.STATUS_TOLD]  # put together by status()
    assert all(spoken.values()), "silence"
    assert len(set(spoken.values())) == len(spoken), "two outcomes sound the same"


def test_every_answer_can_be_told_from_the_others_when_nothing_is_known() -> None:
    """A refused call may know neither agent nor extension; it is not silent for that."""
    for outcome in set(Outcome) - {Outcome.STATUS_TOLD}:
        assert prompts.answer(outcome, Facts(), {}), outcome


def test_every_sound_is_there_in_every_language() -> None:
    assert COMMON >= SOUNDS


def test_every_sound_that_is_played_is_looked_for_by_the_check() -> None:
    phrases = [prompts.answer(outcome, FACTS, {}) for outcome in Outcome]
    phrases += [prompts.fill(prompts.ASK_TO_MOVE, FACTS), prompts.fill(prompts.ASK_TO_LEAVE, FACTS)]
    phrases += [prompts.menu(("1", "2")), prompts.queue_menu(("701",))]
    phrases += [prompts.status(state, NOON) for state in (AVAILABLE, PAUSED, LOST)]
    phrases += [
        prompts.status(replace(AVAILABLE, planned=planned), NOON)
        for planned in (LOG_OFF, LUNCH_LATER)
    ]
    played = {item for phrase in phrases for item in phrase if isinstance(item, str)}
    assert played <= SOUNDS
    assert not {sound for sound in SOUNDS if sound.startswith("{")}


def test_the_questions_differ_from_the_answers() -> None:
    asked = [
        prompts.fill(prompts.ASK_TO_MOVE, FACTS),
        prompts.fill(prompts.ASK_TO_LEAVE, FACTS),
        prompts.menu(("1",)),
        prompts.queue_menu(("1",)),
    ]
    answers = [prompts.answer(outcome, FACTS, {}) for outcome in Outcome]
    assert not [question for question in asked if question in answers]


def test_the_admin_s_own_sounds_are_played_as_they_stand() -> None:
    chosen = {Outcome.LOGGED_IN: ("custom/welcome", "custom/aboard")}
    assert prompts.answer(Outcome.LOGGED_IN, FACTS, chosen) == ("custom/welcome", "custom/aboard")
    assert prompts.answer(Outcome.LOGGED_OFF, FACTS, chosen) == ("agent-loggedoff",)


def test_what_is_not_known_is_left_out() -> None:
    assert prompts.fill(("spy-agent", "{agent}", "{queue}"), Facts(queue="7")) == (
        "spy-agent",
        Digits("7"),
    )


def joined(count: int) -> AgentState:
    state = an_agent("1001")
    return replace(
        state,
        session=LoginSession("s", device("2002"), NOON),
        memberships=tuple(replace(m, joined=n < count) for n, m in enumerate(state.memberships)),
    )


AVAILABLE = joined(2)
PAUSED = replace(AVAILABLE, pause=PauseSegment("p", LUNCH, NOON))
LOST = replace(PAUSED, pause=PauseSegment("p", PauseReason("", DEVICE_LOST), NOON))
LOG_OFF = LogOff(id="c", agent="1001", source=Source.PHONE)
LUNCH_LATER = Pause(id="c", agent="1001", source=Source.PHONE, reason=LUNCH)


def test_the_status_of_an_available_agent() -> None:
    assert prompts.status(AVAILABLE, NOON) == (
        "vm-extension",
        Digits("2002"),
        "agent-loginok",
        Digits("701"),
        "vm-and",
        Digits("702"),
        "vm-no",
        "dictate/pause",
    )


def test_a_pause_in_one_queue_is_told_with_it() -> None:
    """A missed call has paused the member there, or somebody at the console."""
    first, *others = AVAILABLE.memberships
    alone = (replace(first, own_pause=OwnPause(True, "missed")), *others)
    said = prompts.status(replace(AVAILABLE, memberships=alone), NOON)
    assert said[3:] == (
        Digits("701"), "dictate/paused", "vm-and", Digits("702"), "vm-no", "dictate/pause",
    )  # fmt: skip
    alone = (replace(first, own_pause=OwnPause(False)), *others)
    said = prompts.status(replace(PAUSED, memberships=alone), NOON)
    assert said[3:-4] == (Digits("701"), "vm-no", "dictate/pause", "vm-and", Digits("702"))


@pytest.mark.parametrize("count", [0, 4, 5, 30])
def test_of_many_queues_their_number_is_told(count: int) -> None:
    memberships = tuple(
        Membership(f"q{n}", str(700 + n), joined=n < count) for n in range(max(count, 3))
    )
    said = prompts.status(replace(AVAILABLE, memberships=memberships), NOON)
    named = [item.text for item in said[3:] if isinstance(item, Digits)]
    if count in (0, 5, 30):
        assert said[3:] == ("vm-youhave", Number(count), "vm-no", "dictate/pause")
    else:
        assert named == ["700", "701", "702", "703"]
    if count == 30:  # those with a pause of their own are named all the same, but not too many
        own = tuple(replace(m, own_pause=OwnPause(True, "x")) for m in memberships[10:17])
        memberships = (*memberships[:10], *own, *memberships[17:])
        said = prompts.status(replace(AVAILABLE, memberships=memberships), NOON)
        named = [item.text for item in said[3:] if isinstance(item, Digits)]
        assert named == ["710", "711", "712", "713"]
        assert said.count("dictate/paused") == 4


@pytest.mark.parametrize(
    ("seconds", "minutes", "unit"),
    [
        (0, 0, "queue-minutes"),
        (59, 0, "queue-minutes"),
        (60, 1, "queue-minute"),
        (119, 1, "queue-minute"),
        (7_200, 120, "queue-minutes"),
        (-30, 0, "queue-minutes"),  # the clock was set back
    ],
)
def test_the_status_of_a_paused_agent(seconds: int, minutes: int, unit: str) -> None:
    said = prompts.status(PAUSED, NOON + timedelta(seconds=seconds))
    assert said[-4:] == ("dictate/paused", Digits("1"), Number(minutes), unit)


def test_a_pause_without_a_code_is_told_without_one() -> None:
    """An empty SAY DIGITS is refused by Asterisk."""
    said = prompts.status(LOST, NOON + timedelta(minutes=2))
    assert said[-3:] == ("dictate/paused", Number(2), "queue-minutes")


def test_what_is_planned_is_told_at_the_end() -> None:
    plain = prompts.status(AVAILABLE, NOON)
    log_off = prompts.status(replace(AVAILABLE, planned=LOG_OFF), NOON)
    lunch = prompts.status(replace(AVAILABLE, planned=LUNCH_LATER), NOON)
    assert log_off == (*plain, "vm-isonphone", "agent-loggedoff")
    assert lunch == (*plain, "vm-isonphone", "dictate/pause", Digits("1"))
