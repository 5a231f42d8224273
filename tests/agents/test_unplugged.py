"""What a phone that is away means for its agent: the rules as a table, and what is known of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fastagi.agents.commands import LogOff, Pause, PauseReason
from fastagi.agents.devices import Device
from fastagi.agents.limits import TimePolicy
from fastagi.agents.model import AgentState, LoginSession, Membership, PauseSegment
from fastagi.agents.operations import ReportedMember
from fastagi.agents.unplugged import PHONE_AWAY, Action, Sightings, action
from fastagi.contract import Source

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
LUNCH = PauseReason("1", "lunch")


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def policy(pause: int | None = 30, off: int | None = 600) -> TimePolicy:
    return TimePolicy(
        UTC,
        None if pause is None else timedelta(seconds=pause),
        None if off is None else timedelta(seconds=off),
    )


DESK = Device("1001", "phones", "PJSIP/1001", "PJSIP/1001")
HERE = AgentState(
    1,
    "4001",
    "Anna",
    "en",
    memberships=(Membership("sales", "701", joined=True), Membership("support", "702")),
    session=LoginSession("s", DESK, at(-3600)),
)
OFF = LogOff(id="o", agent="4001", source=Source.PHONE)
LATER = Pause(id="p", agent="4001", source=Source.PHONE, reason=LUNCH)


def paused(since: float, reason: PauseReason = PHONE_AWAY) -> AgentState:
    return replace(HERE, pause=PauseSegment("p", reason, at(since)))


AT_LUNCH = paused(-60, LUNCH)
REMOTE = replace(
    HERE, session=LoginSession("s", replace(DESK, interface="Local/1@o", type="remote"), NOON)
)
NOWHERE = replace(HERE, memberships=(Membership("sales", "701"),))
GONE_HOME = replace(HERE, session=None, memberships=())
JUST_CAME = replace(HERE, session=LoginSession("s", DESK, at(100)))

TABLE = [
    # a flap: away, and back before anything is due
    ("just gone", HERE, 0, 0, policy(), None),
    ("a flap", HERE, 0, 29.9, policy(), None),
    ("back from a flap", HERE, None, 30, policy(), None),
    ("away too long", HERE, 0, 30, policy(), Action.PAUSE),
    ("seen late", HERE, 0, 599, policy(), Action.PAUSE),
    ("back", paused(30), None, 31, policy(), Action.UNPAUSE),
    ("gone again", HERE, 40, 69, policy(), None),
    ("gone again for long", HERE, 40, 70, policy(), Action.PAUSE),
    # the pause is on: the time to the log-off goes on from when the phone went
    ("still away", paused(30), 0, 599, policy(), None),
    ("for good", paused(30), 0, 600, policy(), Action.LOGOFF),
    ("for good and never paused", HERE, 0, 600, policy(), Action.LOGOFF),
    # an earlier process paused the agent, this one has just seen the phone away
    ("after a restart", paused(30), 590, 599, policy(), None),
    ("after a restart, for good", paused(30), 590, 600, policy(), Action.LOGOFF),
    ("after a long stop", paused(30), 5000, 5000, policy(), Action.LOGOFF),
    ("after a restart, back", paused(30), None, 5000, policy(), Action.UNPAUSE),
    # paused late, as there was a call
    ("from when the phone went", paused(300), 0, 600, policy(), Action.LOGOFF),
    # paused for a reason of the agent's own
    ("at lunch", AT_LUNCH, 0, 30, policy(), None),
    ("at lunch, back", AT_LUNCH, None, 40, policy(), None),
    ("at lunch, for good", AT_LUNCH, 0, 600, policy(), Action.LOGOFF),
    ("a pause of this name with a code", paused(0, PauseReason("9", "device-lost")), None, 9,
     policy(), None),
    # what the phone did before the agent came
    ("just came", JUST_CAME, 0, 129, policy(), None),
    ("came, and the phone never did", JUST_CAME, 0, 130, policy(), Action.PAUSE),
    ("came, for good", JUST_CAME, 0, 700, policy(), Action.LOGOFF),
    # what is planned
    ("log-off planned", replace(paused(30), planned=OFF), 0, 600, policy(), None),
    ("log-off planned, not paused", replace(HERE, planned=OFF), 0, 30, policy(), Action.PAUSE),
    ("pause planned", replace(HERE, planned=LATER), 0, 30, policy(), Action.PAUSE),
    # as the admin wants it
    ("no pause", HERE, 0, 599, policy(pause=None), None),
    ("no pause, for good", HERE, 0, 600, policy(pause=None), Action.LOGOFF),
    ("no log-off", paused(30), 0, 10**6, policy(off=None), None),
    ("off", HERE, 0, 10**6, policy(None, None), None),
    ("off since, back", paused(30), None, 60, policy(None, None), Action.UNPAUSE),
    ("no pause since, for good", paused(30), 20, 630, policy(pause=None), Action.LOGOFF),
    ("log-off before the pause", HERE, 0, 10, policy(30, 10), Action.LOGOFF),
    # of whom Asterisk tells nothing
    ("remote", REMOTE, 0, 10**6, policy(), None),
    ("in no queue", NOWHERE, 0, 10**6, policy(), None),
    ("logged off", GONE_HOME, 0, 10**6, policy(), None),
    ("logged off, back", GONE_HOME, None, 10**6, policy(), None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "away", "now", "chosen", "due"),
    [row[1:] for row in TABLE],
    ids=[str(row[0]) for row in TABLE],
)
def test_rules(
    state: AgentState, away: float | None, now: float, chosen: TimePolicy, due: Action | None
) -> None:
    assert action(state, None if away is None else at(away), at(now), chosen) is due


# -- what is known of phones


def member(
    extension: str = "1001", away: bool = False, queue: str = "sales", asterisk: str = ""
) -> ReportedMember:
    interface = f"PJSIP/{extension}"
    return ReportedMember(
        queue, interface, interface, "Agent/1", 0, False, "", False, True, away, asterisk=asterisk
    )


def test_a_phone_goes_and_comes_back() -> None:
    known = Sightings()
    assert known.told([member()], at(0))
    assert known.known("", "pjsip/1001")
    assert not known.told([member(queue="support")], at(1)), "nothing new"
    assert known.told([member(away=True), member(away=True, queue="support")], at(2))
    assert not known.told([member(away=True)], at(9))
    assert known.away_since("", "pjsip/1001") == at(2), "since it was first told"
    assert known.away() == {("", "pjsip/1001"): at(2)}
    assert known.told([member()], at(10))
    assert known.away() == {}
    assert known.told([member(away=True)], at(11))
    assert known.away_since("", "pjsip/1001") == at(11), "its time begins anew"


def test_phones_of_different_asterisks_are_different_phones() -> None:
    known = Sightings()
    known.told([member(away=True, asterisk="north"), member(asterisk="south")], at(0))
    assert known.away() == {("north", "north|pjsip/1001"): at(0)}
    known.forget("south")
    assert known.known("north", "north|pjsip/1001")
    known.forget("north")
    assert not known.known("north", "north|pjsip/1001")
    assert known.away() == {}


def test_what_is_told_while_the_list_is_on_its_way_is_newer_than_the_list() -> None:
    known = Sightings()
    known.told([member("1001", away=True), member("1002"), member("1009", away=True)], at(0))
    known.forget("")
    known.told([member("1001"), member("1002", away=True)], at(5))
    known.snapshot([member("1001", True), member("1002"), member("1003", True)], at(6))
    assert known.away() == {("", "pjsip/1002"): at(5), ("", "pjsip/1003"): at(6)}
    assert known.known("", "pjsip/1001")
    assert not known.known("", "pjsip/1009"), "in no queue any more"
