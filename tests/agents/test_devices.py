import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agents.devices import (
    Device,
    DeviceRule,
    Pattern,
    device_key,
    device_of,
    endpoint_of,
    is_extension,
    resolve,
)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("10XX", ["1000", "1099"], ["100", "10000", "1100", "10a0", "10-0", ""]),
        ("_10XX", ["1000"], ["_1000", "10XX"]),
        ("0X.", ["001", "0123456789"], ["0", "01", "x01", "0a1"]),
        ("[2-4]XX", ["200", "499"], ["500", "20", "2000"]),
        ("Z", list("123456789"), ["0", "a"]),
        ("N", list("23456789"), ["0", "1"]),
        ("xzn", ["012"], ["0a2", "002"]),
        ("!", ["1", "alice", "+4912"], ["", "a b"]),
        (".", ["1", "alice"], [""]),
        ("10!", ["10", "101", "10a"], ["1"]),
        ("+49.", ["+491"], ["491", "+49"]),
        ("1-1", ["1-1"], ["11"]),
        ("[ab-d9]", ["a", "c", "9"], ["b-", "-", "e"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[.]1", [".1"], ["11"]),
        ("1001", ["1001"], ["1002"]),
        ("ali[cx]e", ["alice", "alixe"], ["Alice"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    parsed = Pattern.parse(pattern)
    assert [text for text in yes if not parsed.matches(text)] == []
    assert [text for text in no if parsed.matches(text)] == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "at least one character"),
        ("_", "at least one character"),
        ("1.2", "nothing may follow '.', at character 2"),
        ("1!X", "nothing may follow '!', at character 2"),
        ("10[2", "'[' without ']', at character 3"),
        ("1[]", "'[]' matches nothing, at character 2"),
        ("1[4-2]", "'4-2' is the wrong way round, at character 3"),
        ("1 2", "' ' cannot stand in a pattern, at character 2"),
        ("12]", "']' cannot stand in a pattern, at character 3"),
        ("1\n", "cannot stand in a pattern, at character 2"),
        ("1é", "'é' cannot stand in a pattern, at character 2"),
        ("_10,", "',' cannot stand in a pattern, at character 4"),
        ("[[]", "'[' cannot stand in '[…]', at character 2"),
        ("X" * 41, "longer than any extension"),
    ],
)
def test_a_wrong_pattern_says_what_and_where(pattern: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        Pattern.parse(pattern)
    assert message in str(caught.value)


def reference(pattern: str, text: str) -> bool:
    """Asterisk's rules spelled out, a character at a time."""
    if not pattern:
        return not text
    head, rest = pattern[0], pattern[1:]
    if head == "!":
        return True
    if not text:
        return False
    if head == ".":
        return True
    if head == "[":
        inside, _, rest = rest.partition("]")
        return text[0] in inside and reference(rest, text[1:])
    digits = {"X": "0123456789", "Z": "123456789", "N": "23456789"}
    return text[0] in digits.get(head.upper(), head) and reference(rest, text[1:])


parts = st.one_of(
    st.sampled_from("XZNxzn0123456789abcQ+_"),
    st.text("0123456789ab", min_size=1, max_size=4).map(lambda inside: f"[{inside}]"),
)


@given(
    st.lists(parts, min_size=1, max_size=6).map("".join),
    st.sampled_from(["", ".", "!"]),
    st.text("0123456789abcQ+_-. ", max_size=8),
)
def test_patterns_match_as_the_reference_does(body: str, tail: str, extension: str) -> None:
    pattern = Pattern.parse("_" + body + tail)
    expected = is_extension(extension) and reference(body + tail, extension)
    assert pattern.matches(extension) == expected
    if expected:
        assert len(extension) <= pattern.max_length


@given(st.text(max_size=60))
def test_any_text_is_a_pattern_or_a_value_error(text: str) -> None:
    try:
        pattern = Pattern.parse(text)
    except ValueError:
        return
    assert pattern.text == text
    pattern.matches(text)


@given(st.text(max_size=50))
def test_what_could_split_a_line_is_no_extension(text: str) -> None:
    allowed = string.ascii_letters + string.digits + "_.+-"
    assert is_extension(text) == (1 <= len(text) <= 40 and all(char in allowed for char in text))
    if not is_extension(text):
        assert not Pattern.parse("!").matches(text)


RULES = (
    DeviceRule(Pattern.parse("1001"), "phones", "PJSIP/boss"),
    DeviceRule(Pattern.parse("10XX"), "phones", "PJSIP/{extension}", "hint:{extension}@phones"),
    DeviceRule(Pattern.parse("0X."), "", "Local/{extension}@outbound/n", type="remote"),
    DeviceRule(
        Pattern.parse("9XX"), "", "Local/{extension}@far/n", "Custom:far-{extension}", "remote"
    ),
)


@pytest.mark.parametrize(
    ("extension", "device"),
    [
        ("1001", Device("1001", "phones", "PJSIP/boss", "PJSIP/boss", "local")),
        ("1002", Device("1002", "phones", "PJSIP/1002", "hint:1002@phones", "local")),
        ("0049301", Device("0049301", "", "Local/0049301@outbound/n", "", "remote")),
        ("911", Device("911", "", "Local/911@far/n", "Custom:far-911", "remote")),
        ("2000", None),
        ("", None),
        ("1002\r\nAction: Command", None),
    ],
)
def test_the_first_rule_that_matches_makes_the_device(
    extension: str, device: Device | None
) -> None:
    assert resolve(RULES, extension) == device


@pytest.mark.parametrize(
    ("channel", "endpoint"),
    [
        ("PJSIP/alice-0000002a", "alice"),
        ("PJSIP/alice-desk-0000002a", "alice-desk"),
        ("SIP/1001-00000001", "1001"),
        ("Local/1001@ctx-00000001;2", "1001"),
        ("Local/1001@my-ctx-00000001;1", "1001"),
        ("PJSIP/alice", "alice"),
        ("PJSIP/", ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_the_endpoint_in_a_channels_name(channel: str, endpoint: str) -> None:
    assert endpoint_of(channel) == endpoint


# -- back from a queue member to the device


@pytest.mark.parametrize(
    ("interface", "state", "device"),
    [
        ("PJSIP/boss", "PJSIP/boss", Device("1001", "phones", "PJSIP/boss", "PJSIP/boss")),
        ("pjsip/BOSS", "x", Device("1001", "phones", "PJSIP/boss", "x")),
        (
            "PJSIP/1002",
            "hint:1002@phones",
            Device("1002", "phones", "PJSIP/1002", "hint:1002@phones"),
        ),
        # Added by hand: its state is what the one who added it said.
        ("PJSIP/1002", "PJSIP/1002", Device("1002", "phones", "PJSIP/1002", "PJSIP/1002")),
        ("pjsip/1002", "", Device("1002", "phones", "PJSIP/1002", "")),
        (
            "Local/0049301@outbound/n",
            "",
            Device("0049301", "", "Local/0049301@outbound/n", "", "remote"),
        ),
        ("Local/911@far/n", "x", Device("911", "", "Local/911@far/n", "x", "remote")),
        # Of no rule: the pattern does not match, or nothing is like it.
        ("Local/0049301@elsewhere/n", "", Device("0049301", "", "Local/0049301@elsewhere/n", "")),
        ("PJSIP/2000", "", Device("2000", "", "PJSIP/2000", "")),
        ("PJSIP/alice", "", Device("alice", "", "PJSIP/alice", "")),
        ("Local/@outbound/n", "", Device("unknown", "", "Local/@outbound/n", "")),
        ("Agent", "", Device("Agent", "", "Agent", "")),
        ("PJSIP/", "", Device("unknown", "", "PJSIP/", "")),
        ("PJSIP/a b\r\n", "", Device("unknown", "", "PJSIP/a b\r\n", "")),
    ],
)
def test_the_device_behind_a_member(interface: str, state: str, device: Device) -> None:
    assert device_of(RULES, interface, state) == device


@given(st.from_regex(r"[0-9]{1,12}|[a-z]{1,5}", fullmatch=True), st.sampled_from(["", "north"]))
def test_who_was_logged_in_by_us_is_found_again(extension: str, asterisk: str) -> None:
    device = resolve(RULES, extension, asterisk)
    if device is None:
        return
    assert device.extension == extension
    assert device.asterisk == asterisk
    assert device_of(RULES, device.interface, device.state_interface, asterisk) == device
    shouted = device_of(RULES, device.interface.upper(), device.state_interface, asterisk)
    assert shouted.key == device.key


@given(st.text(max_size=60), st.text(max_size=10))
def test_whatever_the_interface_there_is_an_extension(interface: str, state: str) -> None:
    device = device_of(RULES, interface, state)
    assert is_extension(device.extension)
    assert device.state_interface == state
    assert device.key == device_key("", interface)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern.text)
def test_a_rule_knows_its_own_extensions_only(rule: DeviceRule) -> None:
    for extension in ("1001", "1099", "0049", "911"):
        interface = rule.device(extension).interface
        if rule.pattern.matches(extension):
            assert rule.extension_of(interface) == extension
            assert rule.extension_of(interface.lower()) == extension
        elif rule.interface != "PJSIP/boss":
            assert rule.extension_of(interface) == ""
        assert rule.extension_of("x" + interface) == ""
        assert rule.extension_of(interface + "x") == ""
        assert rule.extension_of("") == ""


def test_a_device_shared_by_a_pattern_is_no_extension_s() -> None:
    shared = DeviceRule(Pattern.parse("10XX"), "phones", "PJSIP/door")
    assert shared.extension_of("PJSIP/door") == ""
    assert device_of((shared,), "PJSIP/door", "").extension == "door"


def test_a_key_names_a_device_among_all() -> None:
    here = Device("1001", "phones", "PJSIP/Alice", "PJSIP/Alice")
    assert here.key == "pjsip/alice" == device_key("", "PJSIP/ALICE")
    north = Device("1001", "phones", "PJSIP/Alice", "PJSIP/Alice", asterisk="North")
    assert north.key == "north|pjsip/alice" == device_key("north", "pjsip/alice")
    assert here.key != north.key
