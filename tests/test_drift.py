"""What the service would do about each kind of difference."""

import pytest

from fastagi.agents.differences import Difference, Kind
from fastagi.agents.operations import RemoveMember
from fastagi.drift import TAKEN_AS_NOTED, judged


def difference(
    kind: Kind, agent: str = "4001", queue: str = "sales", interface: str = "PJSIP/1001"
) -> Difference:
    repair = RemoveMember(queue, interface)
    return Difference(kind, agent, queue, interface, "logged off", "in the queue", repair)


@pytest.mark.parametrize(
    ("kind", "lost_link", "restarted"),
    [
        (Kind.MISSING, "adopted", "put back"),
        (Kind.EXTRA, "adopted", "taken out"),
        (Kind.PAUSE, "adopted", "corrected"),
        (Kind.PENALTY, "adopted", "corrected"),
        (Kind.ELSEWHERE, "taken out", "taken out"),
    ],
)
def test_who_wins(kind: Kind, lost_link: str, restarted: str) -> None:
    (one,) = judged([difference(kind)], "", restarted=False)
    assert one.repair == lost_link
    (one,) = judged([difference(kind)], "", restarted=True)
    assert one.repair == restarted


def test_what_a_phone_did_meanwhile_is_the_phones() -> None:
    differs = [difference(Kind.PAUSE), difference(Kind.PAUSE, "4002", interface="PJSIP/1002")]
    told = judged(differs, "", restarted=False, noted={"pjsip/1001"})
    assert [one.repair for one in told] == [TAKEN_AS_NOTED, "adopted"]
    # of several Asterisks, each has a PJSIP/1001 of its own
    told = judged(differs, "north", restarted=False, noted={"south|pjsip/1001"})
    assert [one.repair for one in told] == ["adopted", "adopted"]
    told = judged(differs, "north", restarted=False, noted={"north|pjsip/1001"})
    assert [one.repair for one in told] == [TAKEN_AS_NOTED, "adopted"]


def test_in_the_order_of_agents() -> None:
    numbers = ["4010", "401", "4002"]
    told = judged([difference(Kind.EXTRA, number) for number in numbers], "", restarted=False)
    assert [one.difference.agent for one in told] == ["401", "4002", "4010"]


def test_one_that_is_missing_is_told_as_such() -> None:
    missing = Difference(
        Kind.MISSING, "4001", "sales", "PJSIP/1001", "in the queue", "", RemoveMember("sales", "x")
    )
    (one,) = judged([missing], "north", restarted=True)
    assert one.as_dict() == {
        "asterisk": "north",
        "agent": "4001",
        "queue": "sales",
        "interface": "PJSIP/1001",
        "difference": "missing",
        "stored": "in the queue",
        "reported": "not in the queue",
        "repair": "put back",
    }
