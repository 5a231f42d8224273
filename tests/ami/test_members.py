"""One member of one queue, read from the bytes of a list and of an event."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents.operations import ReportedMember
from fastagi.agents.text import MAX_NUMBER, Unusable, storable
from fastagi.ami.members import member, unsure

# As Asterisk 22.10.1 wrote them.
EVENT = (
    "Event: QueueMemberPause\r\nPrivilege: agent,all\r\nSystemName: demo\r\nQueue: sales\r\n"
    "MemberName: Agent/1001\r\nInterface: Local/1001@phones\r\nStateInterface: PJSIP/1001\r\n"
    "Membership: dynamic\r\nPenalty: 4\r\nCallsTaken: 3\r\nLastCall: 1795383028\r\n"
    "LastPause: 1795383028\r\nLoginTime: 1795383028\r\nInCall: 1\r\nStatus: 5\r\nPaused: 1\r\n"
    "PausedReason: Déjeuner: court\r\nRinginuse: 0\r\nWrapuptime: 0"
)
ITEM = (
    EVENT.replace("QueueMemberPause\r\nPrivilege: agent,all\r\nSystemName: demo", "QueueMember")
    .replace("MemberName", "Name")
    .replace("Interface: Local", "Location: Local")
    .replace("\r\nRinginuse: 0", "")
    + "\r\nActionID: 8fef0000-1"
)
EXPECTED = ReportedMember(
    queue="sales",
    interface="Local/1001@phones",
    state_interface="PJSIP/1001",
    name="Agent/1001",
    penalty=4,
    paused=True,
    reason="Déjeuner: court",
    in_call=True,
    dynamic=True,
    unreachable=True,
    last_call=1795383028.0,
    asterisk="north",
)


def reversed_lines(text: str) -> str:
    first, *rest = text.split("\r\n")
    return "\r\n".join([first, *reversed(rest)])


@pytest.mark.parametrize("text", [EVENT, ITEM, reversed_lines(EVENT), reversed_lines(ITEM)])
def test_lists_and_events_say_the_same_in_any_order(text: str) -> None:
    assert member(text.encode(), "north") == EXPECTED


@pytest.mark.parametrize(
    ("header", "value", "field", "expected"),
    [
        ("Status: 5", "Status: 1", "unreachable", False),
        ("Status: 5", "Status: 4", "unreachable", False),  # AST_DEVICE_INVALID: no such phone
        ("Status: 5", "Status: 15", "unreachable", False),
        ("Paused: 1", "Paused: 0", "paused", False),
        ("Membership: dynamic", "Membership: static", "dynamic", False),
        ("Membership: dynamic", "Membership: realtime", "dynamic", False),
        ("LastCall: 1795383028", "LastCall: 0", "last_call", 0.0),
        ("StateInterface: PJSIP/1001", "StateInterface: ", "state_interface", "Local/1001@phones"),
        ("PausedReason: Déjeuner: court", "PausedReason: ", "reason", ""),
        ("LoginTime: 1795383028\r\n", "", "penalty", 4),  # before Asterisk 18
    ],
)
def test_each_header(header: str, value: str, field: str, expected: object) -> None:
    for text in (EVENT, ITEM):
        assert header in text
        for said in (text.replace(header, value), reversed_lines(text.replace(header, value))):
            assert getattr(member(said.encode()), field) == expected


def test_other_encodings_harm_nothing() -> None:
    raw = EVENT.encode().replace("é".encode(), b"\xe9")
    assert member(raw).reason == "D\ufffdjeuner: court"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"Event: QueueMemberAdded",
        EVENT.replace("Queue: sales", "Queue: ").encode(),
        EVENT.replace("Interface: Local/1001@phones", "X: y").encode(),
        EVENT.replace("Interface: Local/1001@phones", "Interface: ").encode(),
        EVENT.replace("Penalty: 4", "Penalty: many").encode(),
        EVENT.replace("LastCall: 1795383028", "LastCall: nan").encode(),
        EVENT.replace("LastCall: 1795383028", "LastCall: " + "9" * 5000).encode(),
        EVENT.replace("Penalty: 4", "Penalty: 99999999999999999999").encode(),
        EVENT.replace("Penalty: 4", "Penalty: 3000000000").encode(),
        EVENT.replace("Penalty: 4", "Penalty: " + "9" * 5000).encode(),
        EVENT.replace("Penalty: 4", "Penalty: -1").encode(),
        EVENT.replace("Queue: sales", "Queue: sa\0les").encode(),
        EVENT.replace("Queue: sales", "Queue: " + "x" * 300).encode(),
        EVENT.replace("Local/1001@phones", "Local/\x1b[31m").encode(),
    ],
)
def test_what_is_no_member(raw: bytes) -> None:
    with pytest.raises(Unusable, match=r"^(Queue|Interface|Penalty|LastCall): ") as caught:
        member(raw)
    assert str(caught.value).isprintable()


def test_of_one_that_cannot_be_read_it_is_known_that_it_is_there() -> None:
    raw = EVENT.replace("Penalty: 4", "Penalty: 99999999999999999999").encode()
    found = unsure(raw, "north")
    assert found is not None
    assert (found.queue, found.interface, found.name) == (
        "sales",
        "Local/1001@phones",
        "Agent/1001",
    )
    assert (found.asterisk, found.unsure, found.penalty) == ("north", True, 0)
    assert unsure(b"Event: QueueMemberAdded") is None


def test_a_name_that_cannot_be_stored_is_shown_as_well_as_can_be() -> None:
    raw = EVENT.replace("Agent/1001", "Bob\0\x1b" + "x" * 300).encode()
    assert member(raw).name == ("Bob\ufffd\ufffd" + "x" * 300)[:255]


HEADERS = st.sampled_from(
    [line.partition(": ")[0] for text in (EVENT, ITEM) for line in text.split("\r\n")]
)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.integers().map(str)


@given(st.dictionaries(HEADERS, VALUES), st.sampled_from([EVENT, ITEM]), st.booleans())
def test_anything_at_all_is_a_member_that_can_be_stored_or_unusable(
    changes: dict[str, str], text: str, whole: bool
) -> None:
    for line in text.split("\r\n"):
        key = line.partition(": ")[0]
        if key in changes:
            text = text.replace(line, f"{key}: {changes[key]}")
    try:
        found = member(text.encode() if whole else text.encode()[: len(text) // 2])
    except Unusable:
        return
    assert found.queue
    assert found.interface
    assert 0 <= found.penalty <= MAX_NUMBER
    for said in (found.queue, found.interface, found.state_interface, found.name, found.reason):
        assert storable("x", said) == said


@given(st.binary(max_size=200))
def test_any_bytes_are_a_member_or_unusable(raw: bytes) -> None:
    with suppress(Unusable):
        member(raw)
    unsure(raw)
