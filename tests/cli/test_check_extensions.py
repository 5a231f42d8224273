"""What reaches the codes, and what they hide: on dialplans written here, and beside Asterisk."""

import random
from collections.abc import Mapping, Sequence

import pytest

from fastagi.ami.client import Client
from fastagi.check.asterisk import Pbx
from fastagi.check.extensions import Dialplan, Found, Reach, Shape, Way, hidden, shape
from fastagi.config import AsteriskSettings
from fastagi.demo.asterisk import Asterisk

FEATURES = {"*31": [("Gosub", "x")], "_*31X": [("Gosub", "x")], "_*31X.": [("Gosub", "x")]}

Steps = Sequence[tuple[str, str]]


def dialplan(**contexts: Mapping[str, Steps | str]) -> Dialplan:
    """Contexts by name, ``_`` for ``-``; ``include`` and ``switch`` are names of contexts."""
    contexts = {"agent_features": FEATURES, **contexts}
    rows = {
        name.replace("_", "-"): _rows(name.replace("_", "-"), its) for name, its in contexts.items()
    }

    async def show(context: str) -> list[dict[str, str]] | str:
        return rows.get(context, f"Did not find context {context}")

    return Dialplan(show)


def _rows(context: str, its: Mapping[str, Steps | str]) -> list[dict[str, str]]:
    rows = []
    for name, what in its.items():
        if isinstance(what, str):
            key = {"include": "IncludeContext", "switch": "Switch"}[name.rstrip("0123456789")]
            rows.append({"Context": context, key: what})
            continue
        for number, (application, data) in enumerate(what, 1):
            rows.append(
                {
                    "Context": context,
                    "Extension": name,
                    "Priority": str(number),
                    "Application": application,
                    "AppData": data,
                }
            )
    return rows


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("*31", "*31", True),
        ("*31", "_*3X", True),
        ("*31", "_*3X.", False),  # one more character at least
        ("*31", "_*3X!", True),
        ("_10X.", "_10XX", True),
        ("_10X.", "1001", True),
        ("_10X.", "10", False),
        ("_70X", "_7[1-9]X", False),
        ("_[2-4]0", "_30", True),
        ("_N.", "1", False),
        ("_Z!", "_0X.", False),
        ("5-55", "555", True),  # for the eye only
        ("_*31X.", "_*3[02-9]X", False),
        ("_[", "1", False),
    ],
)
def test_two_shapes_have_a_number_in_common(one: str, other: str, overlap: bool) -> None:
    assert shape(one).overlaps(shape(other)) is overlap
    assert shape(other).overlaps(shape(one)) is overlap
    if overlap:
        number = shape(one).example(shape(other))
        assert shape(one).matches(number)
        assert shape(other).matches(number)


@pytest.mark.parametrize(
    ("extension", "catch_all"),
    [("_.", True), ("_*X.", True), ("_X!", True), ("_*3X.", False), ("_XX", False), ("1", False)],
)
def test_what_takes_nearly_everything(extension: str, catch_all: bool) -> None:
    assert shape(extension).catch_all is catch_all


@pytest.mark.parametrize(
    "step",
    [
        ("Goto", "internal,${EXTEN},1"),
        ("Gosub", "internal,${EXTEN},1"),
        ("Gosub", "internal,${EXTEN},1(a,b)"),
        ("Goto", "internal,*${EXTEN:1},1"),
        ("Goto", "internal,${EXTEN:0:1}${EXTEN:1},1"),
        ("GotoIf", '$["${CALLERID(num)}" = "1"]?internal,${EXTEN},1'),
        ("GotoIf", "${OPEN}?other,s,1:internal,${EXTEN},1"),
        ("GotoIfTime", "9:00-17:00,mon-fri,*,*?internal,${EXTEN},1"),
        ("ExecIf", "$[1]?Goto(internal,${EXTEN},1)"),
    ],
)
@pytest.mark.parametrize("before", [[], [("NoOp", ""), ("Set", "a=b"), ("Gosub", "log,s,1")]])
async def test_handed_on(step: tuple[str, str], before: list[tuple[str, str]]) -> None:
    plan = dialplan(
        phones={"_*X.": [*before, step]},
        internal={"include": "agent-features"},
        log={"s": [("Return", "")]},
    )
    assert (await plan.reach("phones", "*311")).way is Way.REACHED
    assert (await plan.reach("phones", "*99")).way is Way.HIDDEN


async def test_handed_on_in_the_same_context_and_in_a_circle() -> None:
    plan = dialplan(
        phones={
            "_91X": [("Goto", "*3${EXTEN:2},1")],
            "_92X": [("Goto", "${CONTEXT},*3${EXTEN:2},1")],
            "8": [("Goto", "phones,8,1")],
            "include": "agent-features",
        }
    )
    assert (await plan.reach("phones", "911")).way is Way.REACHED
    assert (await plan.reach("phones", "921")).way is Way.REACHED
    assert (await plan.reach("phones", "8")).way is Way.HIDDEN


@pytest.mark.parametrize(
    "step", [("Goto", "${CTX},${EXTEN},1"), ("Dial", "Local/${EXTEN}@internal/n")]
)
async def test_handed_on_to_where_nobody_sees(step: tuple[str, str]) -> None:
    plan = dialplan(phones={"_*X.": [step]}, internal={"include": "agent-features"})
    assert (await plan.reach("phones", "*31")).way is Way.UNSEEN


@pytest.mark.parametrize(
    "steps",
    [
        [("Playback", "pbx-invalid")],
        [("Hangup", ""), ("Goto", "internal,${EXTEN},1")],
        [("Goto", "nowhere,${EXTEN},1")],
        [("Goto", "other,s,1"), ("Goto", "internal,${EXTEN},1")],
    ],
)
async def test_taken_by_another(steps: Steps) -> None:
    plan = dialplan(phones={"_*X.": steps, "include": "agent-features"}, other={})
    assert await plan.reach("phones", "*31") == Reach(Way.HIDDEN, "_*X. in [phones]", "phones")


async def test_switches_come_before_includes() -> None:
    plan = dialplan(phones={"switch": "Realtime/phones@extensions", "include": "agent-features"})
    reach = await plan.reach("phones", "*31")
    assert (reach.way, reach.by) == (Way.UNSEEN, "switch => Realtime/phones@extensions in [phones]")
    plan = dialplan(
        phones={"include": "agent-features", "include2": "more"}, more={"switch": "X/y"}
    )
    assert (await plan.reach("phones", "*31")).way is Way.REACHED


async def test_includes_in_a_circle_and_with_hours() -> None:
    plan = dialplan(
        phones={"include": "day,9:00-17:00,mon-fri,*,*"},
        day={"include": "phones", "include2": "agent-features"},
    )
    assert (await plan.reach("phones", "*31")).way is Way.REACHED


async def test_hidden() -> None:
    own = {
        "*31": [("NoOp", "")],
        "_*3X.": [("NoOp", "")],
        "_*X.": [("NoOp", "")],
        "*3": [("NoOp", "")],
    }
    plan = dialplan(phones={"include": "agent-features", "include2": "features"}, features=own)
    assert await hidden(plan, "phones", ["*31"]) == {
        ("*31", "features"): "*31",
        ("_*3X.", "features"): "*31",
    }


async def test_what_something_else_takes_first_is_not_hidden_by_the_codes() -> None:
    plan = dialplan(
        phones={"_*31X": [("NoOp", "")], "include": "agent-features", "include2": "features"},
        features={"_*312": [("NoOp", "")], "*31": [("NoOp", "")], "s": [("NoOp", "")]},
    )
    assert await hidden(plan, "phones", ["*31"]) == {("*31", "features"): "*31"}


def test_shape_of_a_number() -> None:
    assert Shape.number("*31").matches("*31")
    assert not Shape.number("*31").matches("*311")


@pytest.mark.asterisk
async def test_the_search_is_asterisks_own(asterisk: Asterisk) -> None:
    """Random extensions in three contexts: the one that Asterisk finds is the one found here."""
    chance = random.Random(7)
    names = set()
    while len(names) < 60:
        parts = [
            chance.choice(["1", "2", "9", "*", "#", "X", "Z", "N", "[1-4]", "[29]"])
            for _ in range(chance.randint(1, 4))
        ]
        pattern = any(len(part) > 1 or part in "XZN" for part in parts)
        tail = chance.choice(["", "", ".", "!"]) if pattern else ""
        names.add(("_" if pattern else "") + "".join(parts) + tail)
    listed = sorted(names)
    text = ""
    for number, name in enumerate(("alpha", "beta", "gamma")):
        lines = "".join(f"exten => {e},1,NoOp({name})\n" for e in listed[number::3])
        text += f"[{name}]\n{lines}" + (
            f"include => {['beta', 'gamma'][number]}\n" if number < 2 else ""
        )
    asterisk.features += text
    asterisk.reload("dialplan")
    client = Client(
        "127.0.0.1", asterisk.ami_port, asterisk.admin_username, asterisk.admin_secret, events="off"
    )
    await client.start()
    await client.ready(10)
    pbx = Pbx(AsteriskSettings(secret="unused"), client)  # type: ignore[arg-type]
    differ = []
    for _ in range(300):
        number = "".join(chance.choice("1239*#") for _ in range(chance.randint(1, 5)))
        found = await pbx.dialplan.find("alpha", number)
        here = (found.context, found.extension) if isinstance(found, Found) else None
        if here != (there := await _asked(client, number)):
            differ.append((number, here, there))
    await client.close()
    assert differ == []


async def _asked(client: Client, number: str) -> tuple[str, str] | None:
    """Which extension takes it: DIALPLAN_EXISTS says whether one does, ShowDialPlan lists all."""
    from fastagi.ami.client import Refused

    try:
        rows = await client.list_action(
            {"Action": "ShowDialPlan", "Context": "alpha", "Extension": number},
            "ListDialplan",
            "ShowDialPlanComplete",
        )
    except Refused:
        return None
    first = next(row for row in rows if row.get("Priority") == "1")
    return first["Context"], first["Extension"]
