"""Which pause reason is meant, whatever somebody writes."""

from datetime import UTC, datetime

import pytest

from fastagi.agents.commands import Adopt, LogIn, Pause, PauseReason, Seen, from_dict, to_dict
from fastagi.agents.model import Change, decide
from fastagi.agents.reasons import find, folded
from fastagi.contract import EventType, Source
from tests.agents.memory import an_agent, device

LUNCH = PauseReason("1", "lunch", "Almoço da equipe")
BREAK = PauseReason("2", "Pausa café", "")
CODED = PauseReason("10", "2", "Lunch")
REASONS = (LUNCH, BREAK, CODED)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("lunch", LUNCH),
        ("LUNCH", LUNCH),
        ("  lunch ", LUNCH),
        ("Almoço da equipe", LUNCH),
        ("ALMOÇO DA EQUIPE", LUNCH),
        ("almoco da equipe", LUNCH),
        ("Almoc\u0327o da equipe", LUNCH),  # the cedilla as a character of its own
        ("almoço\u00a0da  equipe", LUNCH),
        ("１", None),  # a code is dialled, and this is no key
        ("1", LUNCH),
        (" 1 ", LUNCH),
        ("01", None),
        ("2", BREAK),  # a code goes before a name
        ("10", CODED),
        ("Lunch", LUNCH),  # a name goes before a description
        ("PAUSA CAFE", BREAK),
        ("pausa café", BREAK),
        ("", None),
        ("   ", None),
        ("\u0301", None),
        ("lunch\r\nAction: Logoff", None),
        ("lunch\x00", None),
        ("lunc", None),
        ("x" * 100_000, None),
    ],
)
def test_find(wanted: str, found: PauseReason | None) -> None:
    assert find(REASONS, wanted) is found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße", "STRASSE"),
        ("İstanbul", "istanbul"),
        ("ｌｕｎｃｈ", "LUNCH"),
        ("Réunion", "reunion"),
        ("ΣΊΣΥΦΟΣ", "Σίσυφος"),
        ("Ǆ", "ǆ"),
    ],
)
def test_folded(one: str, other: str) -> None:
    assert folded(one) == folded(other)


def test_of_two_that_fit_equally_the_first_counts() -> None:
    one, other = PauseReason("3", "café"), PauseReason("4", "Cafe")
    assert find((one, other), "CAFÉ") is one
    assert find((one, other), "Cafe") is other  # written exactly so


def test_a_description_makes_no_other_reason_and_is_not_recorded() -> None:
    assert PauseReason("1", "lunch") == LUNCH
    command = Pause(id="c", agent="1001", source=Source.API, reason=LUNCH)
    assert to_dict(command)["reason"] == {"code": "1", "name": "lunch"}
    assert from_dict(to_dict(command)) == command


@pytest.mark.parametrize(
    ("written", "code"), [("LUNCH", "1"), ("Almoco da equipe", "1"), ("1", "1"), ("tea", "")]
)
def test_what_is_written_at_the_console_is_known_too(written: str, code: str) -> None:
    """Its limits hold then; the name stays as Asterisk has it, which is compared with it."""
    hall = an_agent("1001", "sales")
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    login = LogIn(id="l", agent="1001", source=Source.PHONE, device=device("1001"))
    there = decide(hall, login, now)
    assert isinstance(there, Change)
    seen = Seen("sales", "701", 0, True, written)
    adopt = Adopt(id="a", agent="1001", source=Source.ASTERISK, members=(seen,), reasons=REASONS)
    change = decide(there.after, adopt, now)
    assert isinstance(change, Change)
    assert change.after.pause is not None
    assert change.after.pause.reason == PauseReason(code, written)
    assert [(e.type, e.reason) for e in change.events] == [(EventType.PAUSE, written)]
