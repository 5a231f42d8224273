"""Text and numbers from outside: what passes can be stored, encoded, sent and logged."""

import sqlite3
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents.text import (
    MAX_NUMBER,
    Unusable,
    is_text,
    number,
    printable,
    storable,
    tidied,
)

ANYTHING = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("PJSIP/\ud800", "half a character"),
        ("\udfff", "half a character"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\x1b[31m", "control character"),
        ("a\x85b", "control character"),
        ("a\u2028b", "control character"),
        ("x" * 256, "longer than 255"),
        (None, "no text"),
        (7, "no text"),
        (b"x", "no text"),
        (["x"], "no text"),
    ],
)
def test_what_cannot_be_stored(value: object, why: str) -> None:
    with pytest.raises(Unusable, match=why) as caught:
        storable("Interface", value)
    assert str(caught.value).startswith("Interface: ")
    assert str(caught.value).isprintable()


def test_what_is_needed_is_not_empty() -> None:
    assert storable("Reason", "") == ""
    with pytest.raises(Unusable, match="Interface: is empty"):
        storable("Interface", "", needed=True)


@pytest.mark.parametrize("value", ["Désirée ☎", "کمک‌رسان", "क्‍ष", "a\u00a0b", "😀", "ﷺ", "x" * 255])
def test_names_of_all_languages_can_be_stored(value: str) -> None:
    assert storable("Name", value) == value
    assert tidied(value) == value


@given(ANYTHING)
def test_what_passes_can_be_encoded_and_stored(value: str) -> None:
    try:
        passed = storable("Name", value)
    except Unusable:
        passed = tidied(value)
        assert len(passed) == min(len(value), 255)
    with sqlite3.connect(":memory:") as database:
        (kept,) = database.execute("SELECT ?", (passed,)).fetchone()
    database.close()
    assert kept.encode().decode() == passed
    assert "\0" not in passed
    assert len(passed.splitlines()) <= 1


@pytest.mark.parametrize(
    "value",
    [
        "99999999999999999999",
        "3000000000",
        str(MAX_NUMBER + 1),
        "-1",
        "9" * 5000,
        "",
        "-",
        "+1",
        "1.5",
        "1e3",
        " 1",
        "1_000",
        "٣",
        "²",
        "x",
        None,
        True,
        1.0,
        10**30,
        -1,
    ],
)
def test_what_is_no_number_in_range(value: object) -> None:
    with pytest.raises(Unusable, match=r"^Penalty: "):
        number("Penalty", value)


@pytest.mark.parametrize(
    ("value", "read"), [("0", 0), ("007", 7), (str(MAX_NUMBER), MAX_NUMBER), (5, 5)]
)
def test_numbers(value: object, read: int) -> None:
    assert number("Penalty", value) == read
    assert number("Offset", "-3", least=-5) == -3


@given(ANYTHING)
def test_any_text_is_a_number_in_range_or_unusable(value: str) -> None:
    with suppress(Unusable):
        assert 0 <= number("N", value) <= MAX_NUMBER


def test_joiners_are_text_and_nothing_else_unseen_is() -> None:
    assert is_text("می\u200cخواهم")
    assert is_text("क\u200dष")
    for unseen in ("a\u202eb", "a\u200bb", "a\u2066b", "a\nb", "a\x7fb", "\ud800", "a\u00a0b"):
        assert not is_text(unseen)
    assert printable("می\u200cخواهم") == "می\u200cخواهم"
    assert printable("a\u202e\u200c\n") == "a\\u202e\u200c\\n"
