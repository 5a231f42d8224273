"""Who calls, as a table: the channel, what is asked of Asterisk, and who that is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from fastagi.agents.callers import (
    CAME_FROM,
    CONFIGURED,
    FIRST_CHANNEL,
    FIRST_SENT_BY,
    TRANSFERER,
    Access,
    Caller,
    Standing,
    access,
    device_of_caller,
    entry,
    phone_of,
    tells_apart,
    who_calls,
)
from fastagi.agents.devices import DeviceRule, Pattern, resolve
from fastagi.contract import CALL_CONTEXT

RULES = (
    DeviceRule(Pattern.parse("10XX"), "phones", "PJSIP/{extension}"),
    DeviceRule(Pattern.parse("201"), "office", "PJSIP/alice-desk"),
    DeviceRule(Pattern.parse("202"), "office", "Local/202@ring", "SIP/bob"),
    DeviceRule(Pattern.parse("203"), "office", "SIP/pbx2/203"),
    DeviceRule(Pattern.parse("1012"), "phones", "Local/1012@ring/n", "DAHDI/12"),
    DeviceRule(Pattern.parse("1013"), "phones", "DAHDI/13"),
    DeviceRule(Pattern.parse("30XX"), "phones", "Local/{extension}@from-queue/n"),
    DeviceRule(Pattern.parse("0X."), "", "Local/{extension}@outbound/n", type="remote"),
)
MOBILE = "0712345678"
PHONE, OUTSIDE, STRANGER = Standing.PHONE, Standing.OUTSIDE, Standing.STRANGER


@dataclass
class Case:
    standing: Standing
    extension: str
    channel: str
    number: str = "1001"
    told: dict[str, str] = field(default_factory=dict)
    listed: Sequence[str] = ()
    context: str = CALL_CONTEXT
    by_endpoint: bool = True
    sent_by: str = ""

    def __str__(self) -> str:
        how = "endpoint" if self.by_endpoint else "caller ID"
        return f"{self.channel} {self.number} {self.told} {self.listed} {how}"


def asked(case: Case, rules: Sequence[DeviceRule] = RULES) -> tuple[Caller, list[str]]:
    """The caller, and the questions."""
    chosen = access(rules, case.by_endpoint, case.listed)
    steps = who_calls(case.channel, case.context, case.number, chosen, case.sent_by)
    questions: list[str] = []
    try:
        question = next(steps)
        while True:
            questions.append(question)
            question = steps.send(case.told.get(question, ""))
    except StopIteration as found:
        caller: Caller = found.value
        return caller, questions


def at_home(endpoint: str, context: str, dialled_in: str = "phones") -> dict[str, str]:
    return {CAME_FROM: dialled_in, CONFIGURED.format(endpoint): context}


TRUNK = "PJSIP/trunk-00000001"
ALICE = "PJSIP/alice-00000001"
LOCAL = "Local/*331@phones-00000001;2"

CASES = [
    # a phone, by its endpoint
    Case(PHONE, "1001", "PJSIP/1001-00000001"),
    Case(PHONE, "1001", "PJSIP/1001-00000001", number="unknown"),
    Case(PHONE, "1005", "PJSIP/1001-00000001", number="1005", by_endpoint=False),
    Case(PHONE, "201", "PJSIP/alice-desk-00000001"),
    Case(PHONE, "203", "SIP/203-00000001"),  # the interface has more than an endpoint
    Case(PHONE, "3001", "PJSIP/3001-00000001"),  # the interface is only a way to it
    # somebody else has transferred it to the code, or forwarded the call there
    Case(STRANGER, "", "PJSIP/1001-00000001", sent_by="PJSIP/1003-00000002"),
    Case(STRANGER, "", LOCAL, sent_by="PJSIP/1003-00000002"),
    Case(STRANGER, "", ALICE, sent_by="PJSIP/1003-00000002", told=at_home("alice", "phones")),
    Case(STRANGER, "", TRUNK, MOBILE, sent_by="PJSIP/1003-00000002"),
    Case(STRANGER, "", "DAHDI/12-1", sent_by="PJSIP/1003-00000002", by_endpoint=False),
    Case(
        STRANGER, "", LOCAL,
        told={FIRST_CHANNEL: "PJSIP/1001-00000001", FIRST_SENT_BY: "PJSIP/1003-00000002"},
    ),
    # not so who is asked for the agent's number and PIN; the caller ID tells nothing then
    Case(OUTSIDE, "", TRUNK, MOBILE, sent_by="PJSIP/1003-00000002", listed=["PJSIP/trunk"]),
    Case(
        OUTSIDE, "", TRUNK, MOBILE, sent_by="PJSIP/1003-00000002", listed=["from-trunk"],
        told={CAME_FROM: "from-trunk"},
    ),
    Case(STRANGER, "", "PJSIP/1001-00000001", sent_by="PJSIP/1003-00000002", listed=["PJSIP/1001"]),
    # a phone that no rule makes one, by the context that its calls begin in
    Case(PHONE, "alice", ALICE, told=at_home("alice", "phones")),
    Case(PHONE, "1001", ALICE, told=at_home("alice", "office"), by_endpoint=False),
    # an IVR, and one that hands its callers on by Goto; whatever number they show
    Case(STRANGER, "trunk", TRUNK, told=at_home("trunk", "from-trunk", "from-trunk")),
    Case(STRANGER, "trunk", TRUNK, told=at_home("trunk", "from-trunk")),
    Case(STRANGER, "1001", TRUNK, told=at_home("trunk", "from-trunk"), by_endpoint=False),
    Case(STRANGER, "trunk", TRUNK, context="from-trunk"),
    Case(STRANGER, "trunk", TRUNK, number=MOBILE, told=at_home("trunk", "from-trunk")),
    Case(STRANGER, "lobby", "PJSIP/lobby-00000001"),  # Asterisk has no such function
    # other technologies have no such function either
    Case(STRANGER, "5551234", "DAHDI/i1/5551234-1", told={CAME_FROM: "phones"}, number="5551234"),
    Case(STRANGER, "1001", "DAHDI/i1/5551234-1", told={CAME_FROM: "phones"}, by_endpoint=False),
    Case(STRANGER, "1001", "SCCP/1001-00000001", told={CAME_FROM: "phones"}, by_endpoint=False),
    # unless a rule names the device, be it as the state interface alone
    Case(PHONE, "1012", "DAHDI/12-1", number="1012", by_endpoint=False),
    Case(PHONE, "1012", "DAHDI/12-1", number=""),
    Case(PHONE, "1013", "dahdi/13-1", number=""),
    # a trunk of another technology, named like a phone; a caller without an account
    Case(STRANGER, "1001", "IAX2/1001-4711", told={CAME_FROM: "phones"}),
    Case(STRANGER, "1001", "SIP/1001-00000001", told={CAME_FROM: "phones"}),
    Case(STRANGER, "201", "PJSIP/201-00000001", told=at_home("201", "from-trunk")),
    Case(STRANGER, "anonymous", "PJSIP/anonymous-00000001", told=at_home("anonymous", "phones")),
    Case(OUTSIDE, "", "PJSIP/anonymous-00000001", listed=["PJSIP/anonymous"]),
    # the other technologies that know of a context of their own
    Case(
        STRANGER, "1001", "IAX2/carrier-4711", by_endpoint=False,
        told={CAME_FROM: "phones", "${IAXPEER(carrier,context)}": "from-trunk"},
    ),
    Case(
        STRANGER, "1001", "SIP/carrier-00000001", by_endpoint=False,
        told={CAME_FROM: "phones", "${SIPPEER(carrier,context)}": "from-trunk"},
    ),
    Case(
        PHONE, "1001", "SIP/alice-00000001", by_endpoint=False,
        told={CAME_FROM: "phones", "${SIPPEER(alice,context)}": "office"},
    ),
    Case(STRANGER, "1001", "SIP/alice-00000001", told={CAME_FROM: "phones"}, by_endpoint=False),
    # whom login.from lists: the outside number tells where they are, a number of the house not
    Case(OUTSIDE, MOBILE, TRUNK, MOBILE, listed=["PJSIP/trunk"]),
    Case(OUTSIDE, MOBILE, TRUNK, MOBILE, listed=["pjsip/_tru[n]k"]),
    Case(OUTSIDE, MOBILE, TRUNK, MOBILE, {CAME_FROM: "from-trunk"}, ["from-trunk"]),
    Case(OUTSIDE, MOBILE, TRUNK, MOBILE, listed=["from-trunk"], context="from-trunk"),
    Case(OUTSIDE, "", TRUNK, "1001", listed=["PJSIP/trunk"]),
    Case(OUTSIDE, "", TRUNK, "unknown", listed=["PJSIP/trunk"]),
    Case(OUTSIDE, "1001", TRUNK, "1001", listed=["PJSIP/trunk"], by_endpoint=False),
    Case(STRANGER, "trunk", TRUNK, MOBILE, listed=["PJSIP/trunk2", "SIP/trunk", "trunk"]),
    # behind a Local channel
    Case(PHONE, "1003", LOCAL, told={FIRST_CHANNEL: "PJSIP/1003-00000007"}),
    Case(
        PHONE, "1003", LOCAL,
        told={TRANSFERER: "PJSIP/1003-00000007", FIRST_CHANNEL: TRUNK},
    ),
    Case(STRANGER, "trunk", LOCAL, told={FIRST_CHANNEL: TRUNK, CAME_FROM: "phones"}),
    Case(
        STRANGER, "trunk", LOCAL, listed=["from-trunk"],
        told={FIRST_CHANNEL: TRUNK, CAME_FROM: "from-trunk"},
    ),
    Case(OUTSIDE, MOBILE, LOCAL, MOBILE, {FIRST_CHANNEL: TRUNK}, ["PJSIP/trunk"]),
    # made by a program in Asterisk: the number is what that says
    Case(
        PHONE, "1001", LOCAL,
        told={FIRST_CHANNEL: "Local/*331@phones-00000001;1", CAME_FROM: "phones"},
    ),
    Case(
        PHONE, "", LOCAL, MOBILE,
        told={FIRST_CHANNEL: "Local/*331@phones-00000001;1", CAME_FROM: "phones"},
    ),
    Case(
        STRANGER, "", LOCAL,
        told={FIRST_CHANNEL: "Local/*331@phones-00000001;1", CAME_FROM: "elsewhere"},
    ),
    # who began the call is gone, or cannot be told
    Case(STRANGER, "", LOCAL, told={FIRST_CHANNEL: LOCAL, CAME_FROM: "phones"}),
    Case(STRANGER, "", LOCAL, told={CAME_FROM: "phones"}),
    # click-to-dial: spoken into by whoever was called
    Case(PHONE, "1005", "Local/1005@phones-00000001;1", told={CAME_FROM: "phones"}),
    Case(STRANGER, "", "Local/1005@phones-00000001;1", told={CAME_FROM: "from-trunk"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_who_calls(case: Case) -> None:
    caller, _ = asked(case)
    assert (caller.standing, caller.extension) == (case.standing, case.extension)
    assert bool(caller.why) is (case.standing is STRANGER)


WIDE = (
    DeviceRule(Pattern.parse("_."), "phones", "PJSIP/{extension}"),
    DeviceRule(Pattern.parse("_."), "phones", "Local/{extension}@ring", "PJSIP/{extension}"),
    DeviceRule(Pattern.parse("_."), "phones", "Local/{extension}@ring", "hint:{extension}@phones"),
)


@pytest.mark.parametrize("rule", WIDE, ids=lambda rule: f"{rule.interface} {rule.state_interface}")
def test_a_pattern_for_everything_makes_no_phone_of_everybody(rule: DeviceRule) -> None:
    for channel, by_state in (
        ("PJSIP/1001-00000001", PHONE),
        ("pjsip/1001-00000001", PHONE),
        ("IAX2/carrier-4711", STRANGER),
        ("PJSIP/anonymous-00000001", STRANGER),
        ("PJSIP/Anonymous-00000001", STRANGER),
    ):
        # Of a Local channel whose state is a hint's nobody can tell what rings there.
        unsure = rule.state_interface == WIDE[2].state_interface and channel.startswith("IAX2")
        caller, _ = asked(Case(PHONE, "", channel, told={CAME_FROM: "from-trunk"}), (rule,))
        assert caller.standing is (PHONE if unsure else by_state), channel


@pytest.mark.parametrize(
    ("extension", "phone"),
    [
        ("1001", ("PJSIP", "1001")),
        ("201", ("PJSIP", "alice-desk")),
        ("202", ("SIP", "bob")),
        ("203", ("SIP", "")),
        ("3001", ("", "")),
    ],
)
def test_the_phone_behind_a_device(extension: str, phone: tuple[str, str]) -> None:
    device = resolve(RULES, extension)
    assert device is not None
    assert phone_of(device) == phone


FLOORS = (
    DeviceRule(Pattern.parse("1001"), "sales", "PJSIP/1001"),
    DeviceRule(Pattern.parse("1001"), "office", "PJSIP/office-1001"),
    DeviceRule(Pattern.parse("1002"), "sales", "Local/1002@ring"),
    DeviceRule(Pattern.parse("1002"), "sales", "PJSIP/1002"),
)


@pytest.mark.parametrize(
    ("channel", "interface"),
    [
        ("PJSIP/1001-00000001", "PJSIP/1001"),
        ("PJSIP/office-1001-00000001", "PJSIP/office-1001"),
        ("PJSIP/1002-00000001", "Local/1002@ring"),  # the first that matches
    ],
)
def test_two_phones_with_one_extension(channel: str, interface: str) -> None:
    caller, _ = asked(Case(PHONE, "", channel), FLOORS)
    device = device_of_caller(caller, FLOORS, "")
    assert device is not None
    assert device.interface == interface


@pytest.mark.parametrize("shown", ["anonymous", "Anonymous", "restricted", "0", "0000000000", ""])
def test_a_withheld_number_tells_nobody_from_others(shown: str) -> None:
    assert not tells_apart(shown)
    assert tells_apart("1001")
    assert tells_apart("+33712345678")
    assert tells_apart("0033712345678")


def test_of_a_phone_nothing_is_asked() -> None:
    for case in CASES[:6]:
        assert asked(case)[1] == []


def test_the_first_words_of_an_answer_are_no_question() -> None:
    """Nothing that comes from outside is put into an expression."""
    odd = Case(STRANGER, "", "PJSIP/x${SHELL(id)}-00000001", number="${SHELL(id)}")
    behind = Case(STRANGER, "", LOCAL, told={FIRST_CHANNEL: odd.channel, CAME_FROM: "phones"})
    for case in (odd, behind):
        caller, questions = asked(case)
        assert caller.standing is STRANGER
        assert not [question for question in questions if "SHELL" in question]


def test_without_any_rule_nobody_is_a_phone() -> None:
    for case in CASES:
        if not case.listed:
            assert asked(case, rules=())[0].standing is STRANGER, case


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither a context nor an endpoint"),
        ("from trunk", "neither a context nor an endpoint"),
        ("PJSIP/", "no endpoint"),
        ("/trunk", "no endpoint"),
        ("PJSIP/tr unk", "no endpoint"),
        ("Local/1001@phones", "no endpoint"),
        ("PJSIP/_[", "'[' without ']'"),
    ],
)
def test_what_cannot_be_listed(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("[", r"\[").replace("]", r"\]")):
        entry(text)


def test_a_listed_endpoint_is_a_name_and_no_pattern() -> None:
    chosen = Access((), endpoints=access((), True, ["PJSIP/XZN"]).endpoints)
    assert chosen.lists("PJSIP", "XZN")
    assert not chosen.lists("PJSIP", "123")
