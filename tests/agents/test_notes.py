"""Notes of the fallback: what is written is what is read, and nothing else is read."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents.notes import MAX_VALUE, Note
from fastagi.agents.text import Unusable
from fastagi.contract import Script

AT = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
KEY = "1795348800250-1732276800.42"


def test_a_note_as_it_stands_in_asterisk_s_database() -> None:
    note = Note(AT, Script.PAUSE, "PJSIP/1001", "1", "PJSIP/1001-00000001", "1001", "1732276800.42")
    assert note.key == KEY
    assert note.value() == (
        '{"s":"agent/pause","i":"PJSIP/1001","r":"1","c":"PJSIP/1001-00000001","n":"1001"}'
    )
    assert Note.parse(note.key, note.value()) == note


def test_what_is_not_known_is_not_written() -> None:
    note = Note(AT, Script.LOGOFF, "PJSIP/1001", unique_id="1.1")
    assert note.value() == '{"s":"agent/logoff","i":"PJSIP/1001"}'
    assert Note.parse(note.key, note.value()) == note


LINES = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
texts = st.text(LINES, max_size=30)
notes = st.builds(
    Note,
    at=st.datetimes(datetime(2001, 9, 10), datetime(2286, 1, 1)).map(
        lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=UTC)
    ),
    script=st.sampled_from([Script.PAUSE, Script.UNPAUSE, Script.LOGOFF]),
    interface=st.text(LINES, min_size=1, max_size=30),
    reason=texts,
    channel=texts,
    caller_id=texts,
    unique_id=st.from_regex(r"[A-Za-z0-9_.-]{1,80}", fullmatch=True),
)


@given(notes)
def test_what_is_written_is_read_again(note: Note) -> None:
    try:
        value = note.value()
    except ValueError:
        return
    assert len(value.encode()) <= MAX_VALUE
    # One line of printable ASCII: nothing in it ends a line of the manager or of AGI.
    assert value.isascii()
    assert value.isprintable()
    assert Note.parse(note.key, value) == note
    assert Note.parse(note.key, value).key == note.key  # else it is never forgotten


@given(notes, notes)
def test_later_notes_sort_behind_earlier_ones(one: Note, other: Note) -> None:
    if one.at < other.at:
        assert one.key < other.key


def test_the_same_instant_on_two_channels_is_two_notes() -> None:
    one = Note(AT, Script.LOGOFF, "PJSIP/1001", unique_id="1.1")
    assert one.key != Note(AT, Script.LOGOFF, "PJSIP/1002", unique_id="1.2").key


def test_a_note_is_read_under_its_own_key_in_any_millisecond() -> None:
    """A key that came out one millisecond less was never deleted: one note in two hundred."""
    for n in range(2000):
        key = f"{1795348800000 + n}-1.1"
        assert Note.parse(key, '{"s":"agent/pause","i":"x"}').key == key


@pytest.mark.parametrize("field", ["interface", "channel", "caller_id"])
def test_what_does_not_fit_is_said_and_not_cut(field: str) -> None:
    values = {"interface": "PJSIP/1001", "unique_id": "1.1", field: "x" * 256}
    with pytest.raises(ValueError, match="too long"):
        Note(AT, Script.LOGOFF, **values).value()
    # By bytes, as Asterisk counts.
    longest = MAX_VALUE - len(Note(AT, Script.LOGOFF, "i").value()) + 1
    Note(AT, Script.LOGOFF, "x" * longest).value()
    with pytest.raises(ValueError, match="too long"):
        Note(AT, Script.LOGOFF, "x" * (longest - 1) + "é").value()


GOOD = '{"s":"agent/pause","i":"PJSIP/1001"}'


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", GOOD),
        ("x", GOOD),
        ("1795348800250", GOOD),
        ("1795348800250-", GOOD),
        ("179534880025-1.1", GOOD),
        ("17953488002500-1.1", GOOD),
        ("1795348800250-a b", GOOD),
        ("1795348800250-1.1\n", GOOD),
        ("1795348800250-" + "1" * 81, GOOD),
        ("١٧٩٥٣٤٨٨٠٠٢٥٠-1.1", GOOD),
        (KEY, ""),
        (KEY, "x"),
        (KEY, "[]"),
        (KEY, "1"),
        (KEY, "null"),
        (KEY, "{}"),
        (KEY, '{"s":"agent/pause"}'),
        (KEY, '{"s":"agent/pause","i":""}'),
        (KEY, '{"s":"agent/pause","i":1}'),
        (KEY, '{"s":"agent/pause","i":"x","r":null}'),
        (KEY, '{"i":"PJSIP/1001"}'),
        (KEY, '{"s":"agent/login","i":"PJSIP/1001"}'),  # never without the service
        (KEY, '{"s":"agent/queue","i":"PJSIP/1001"}'),
        (KEY, '{"s":"rm -rf","i":"PJSIP/1001"}'),
        (KEY, '{"s":["agent/pause"],"i":"PJSIP/1001"}'),
        (KEY, r'{"s":"agent/pause","i":"PJSIP/\ud800","r":"1"}'),
        (KEY, r'{"s":"agent/pause","i":"PJSIP/1001","c":"\ud800"}'),
        (KEY, r'{"s":"agent/pause","i":"PJSIP/1001","n":"\udcff"}'),
        (KEY, r'{"s":"agent/pause","i":"PJSIP/1001","r":"\udcff"}'),
        (KEY, r'{"s":"agent/pause","i":"PJSIP/\u0000"}'),
        (KEY, r'{"s":"agent/pause","i":"PJSIP/1\n"}'),
        (KEY, r'{"s":"agent/pause","i":"PJSIP/1001","n":"\u0000"}'),
        (KEY, "[" * 200),
        (KEY, "[" * 100_000),
        (KEY, '{"s":"agent/pause","i":"' + "x" * 300 + '"}'),
        (KEY, "9" * 200),
        (KEY, GOOD[:-1]),
    ],
)
def test_what_is_no_note_of_ours_is_refused(key: str, value: str) -> None:
    with pytest.raises(Unusable) as caught:
        Note.parse(key, value)
    assert str(caught.value).isprintable()


def test_a_caller_s_odd_name_is_shown_as_well_as_can_be() -> None:
    note = Note.parse(KEY, r'{"s":"agent/pause","i":"PJSIP/1001","n":"a\u001b[31m\r\nb"}')
    assert note.caller_id == "a\ufffd[31m\ufffd\ufffdb"


ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANYTHING,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANYTHING, inner, max_size=3),
    max_leaves=5,
)


@given(
    ANYTHING,
    ANYTHING
    | JSON.map(json.dumps)
    | st.dictionaries(st.sampled_from("sircn"), JSON | st.sampled_from(Script)).map(json.dumps),
)
def test_anything_at_all_is_a_note_that_can_be_stored_or_unusable(key: str, value: str) -> None:
    for name in (key, KEY):
        try:
            note = Note.parse(name, value)
        except Unusable:
            continue
        assert note.interface
        for text in (note.interface, note.reason, note.channel, note.caller_id, note.unique_id):
            assert "\0" not in text.encode().decode()


def test_what_a_later_version_adds_is_passed_over() -> None:
    note = Note.parse(KEY, json.dumps({**json.loads(GOOD), "later": "x"}))
    assert note == Note(AT, Script.PAUSE, "PJSIP/1001", unique_id="1732276800.42")
    assert note.at - AT == timedelta()
