"""The dialplan that Asterisk has loaded: is it this configuration's, do the phones reach it, and
what does it hide?"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from fastagi import dialplan
from fastagi.ami.client import Refused
from fastagi.check.asterisk import Pbx, untold
from fastagi.check.extensions import Context, Denied, Shape, Way, hidden, shape
from fastagi.check.findings import Finding, ok, problem, some, warning
from fastagi.check.here import Mends, taken_from_rules
from fastagi.config import Settings
from fastagi.contract import FEATURES_CONTEXT, HINTS_CONTEXT, WITHOUT_DIGITS

_ABOUT: Final = "dialplan"


async def loaded(settings: Settings, pbx: Pbx, mends: Mends) -> list[Finding]:
    try:
        return await _loaded(settings, pbx, mends)
    except Denied as error:
        what = "whether the dialplan is loaded"
        return [untold(pbx.asterisk, _ABOUT, what, Refused(str(error)))]


async def _loaded(settings: Settings, pbx: Pbx, mends: Mends) -> list[Finding]:
    rendered = _rendered(dialplan.render_dialplan(settings, pbx.asterisk.name))
    mend = mends.include(pbx.asterisk, await pbx.folder())
    found: dict[str, Context] = {}
    for name in rendered:
        context = await pbx.dialplan.context(name)
        if isinstance(context, str):
            lamps = name == HINTS_CONTEXT
            finding = warning if lamps else problem
            what = "so lamps stay dark" if lamps else "so no code can be dialled"
            return [
                finding(
                    _ABOUT,
                    f"the context {name} is not loaded ({context}), {what}",
                    "extensions.conf",
                    mend,
                )
            ]
        found[name] = context
    where = f"extensions.conf [{FEATURES_CONTEXT}]"
    codes = settings.feature_codes.by_script()
    missing = {
        script: code for script, code in codes.items() if code not in found[FEATURES_CONTEXT].steps
    }
    findings: list[Finding] = []
    if missing:
        told = some(f"{code} ({script.name.lower()})" for script, code in missing.items())
        findings.append(
            problem(
                _ABOUT,
                f"the loaded file is old: {told} not in it",
                where,
                mend,
            )
        )
    elif difference := _difference(rendered, found):
        findings.append(
            warning(
                _ABOUT,
                f"what Asterisk has loaded is not what this configuration gives: {difference}",
                where,
                mend,
            )
        )
    else:
        findings.append(ok(_ABOUT, "loaded, and as this configuration gives it", where))
    dialled = [
        (code,) if script in WITHOUT_DIGITS else (code, code + "1", code + "1001")
        for script, code in codes.items()
        if script not in missing
    ]
    for name in dict.fromkeys(d.context for d in settings.devices if d.context):
        findings += await _reached(settings, pbx, name, dialled)
    if not any(d.context for d in settings.devices if d.type == "local"):
        findings.append(
            warning(
                _ABOUT,
                "whether phones reach the codes cannot be told: no device rule names a context",
                "devices",
                "context: phones   # that of the phones, in each device rule",
            )
        )
    return findings


async def _reached(
    settings: Settings, pbx: Pbx, name: str, dialled: Sequence[Sequence[str]]
) -> list[Finding]:
    """Does a code dialled in the phones' context end in ours, or in something before it?"""
    where = f"extensions.conf [{name}]"
    context = await pbx.dialplan.context(name)
    if isinstance(context, str):
        return [
            problem(
                _ABOUT,
                f"the phones' context {name!r} is not loaded ({context})",
                where,
                "context: phones   # in the device rule: the context that the phones have in "
                "pjsip.conf",
            )
        ]
    lost: dict[str, list[str]] = {}
    unseen: dict[str, list[str]] = {}
    unreached: list[str] = []
    ends: dict[str, None] = {}
    for numbers in dialled:
        for number in numbers:
            reach = await pbx.dialplan.reach(name, number)
            if reach.way is Way.REACHED:
                ends.setdefault(reach.context)
                continue
            if reach.way is Way.HIDDEN:
                lost.setdefault(reach.by, []).append(numbers[0])
            elif reach.way is Way.UNSEEN:
                unseen.setdefault(reach.by, []).append(numbers[0])
            else:
                unreached.append(numbers[0])
            break
    findings = []
    if unreached:
        findings.append(
            problem(
                _ABOUT,
                f"phones in {name!r} do not reach {some(unreached)}",
                where,
                f"; extensions.conf:\n[{name}](+)\ninclude => {FEATURES_CONTEXT}\n"
                "; then: asterisk -rx 'dialplan reload'",
            )
        )
    findings += [
        problem(
            _ABOUT,
            f"{some(codes)} never reaches the service: {by} comes first",
            where,
            f"# other codes in the configuration (feature_codes), or in extensions.conf that\n"
            f"# extension in a context which [{name}] includes after {FEATURES_CONTEXT}",
        )
        for by, codes in lost.items()
    ]
    findings += [
        ok(_ABOUT, f"where {some(codes)} ends cannot be seen from outside: {by}; dial one", where)
        for by, codes in unseen.items()
    ]
    taken: dict[tuple[str, str], str] = {}
    for end in ends:
        taken |= await hidden(pbx.dialplan, end, [numbers[0] for numbers in dialled])
    findings += await _hides(settings, pbx, name, taken)
    if not any(finding.level == "problem" for finding in findings) and ends:
        findings.append(ok(_ABOUT, f"phones in {name!r} reach every code", where))
    return findings


async def _hides(
    settings: Settings, pbx: Pbx, name: str, taken: Mapping[tuple[str, str], str]
) -> list[Finding]:
    """What the PBX has of its own, and the phones cannot dial any more."""
    known = taken_from_rules(settings)  # told with the configuration
    told: dict[str, list[str]] = {}
    for (extension, context), code in taken.items():
        if not any(code == other and its.overlaps(shape(extension)) for other, its in known):
            told.setdefault(code, []).append(f"{extension} of [{context}]")
    if not told:
        return []
    numbers = [
        shape(extension)
        for context in await pbx.dialplan.search(name)
        for extension in context.dialled()
        if not shape(extension).catch_all
    ]
    names = {
        code: script.name.lower() for script, code in settings.feature_codes.by_script().items()
    }
    free = _free(numbers, len(told))
    lines = "".join(f'\n  {names.get(c, "…")}: "{f}"' for c, f in zip(told, free, strict=False))
    return [
        warning(
            _ABOUT,
            f"the codes hide what the PBX has of its own for phones in {name!r}: "
            + "; ".join(f"{code} hides {some(its)}" for code, its in told.items()),
            f"extensions.conf [{name}]",
            f"# nobody has these; then the file for the dialplan anew\nfeature_codes:{lines}",
        )
    ]


def _free(taken: Sequence[Shape], count: int) -> list[str]:
    """Codes that take nothing away from anybody."""
    found = []
    for number in (*range(71, 100), *range(40, 71), *range(10, 40), *range(100, 1000)):
        code = f"*{number}"
        its = Shape(Shape.number(code).places, "!")
        if not any(its.overlaps(other) for other in taken):
            found.append(code)
        if len(found) == count:
            break
    return found


# -- the text of ours, and what became of it ------------------------------------------------------

_LINE = re.compile(r"(?:exten => (?P<exten>[^,]+),(?P<first>1|hint)| same => n(?:\([^)]*\))?),(.*)")


def _rendered(text: str) -> dict[str, dict[str, list[str]]]:
    """Context -> extension -> what is done, step by step; ``hint …`` for a hint."""
    contexts: dict[str, dict[str, list[str]]] = {}
    steps: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            here = contexts.setdefault(line[1 : line.index("]")], {})
        elif match := _LINE.fullmatch(line):
            if match["exten"]:
                steps = here.setdefault(match["exten"], [])
            steps.append(("hint " if match["first"] == "hint" else "") + match[3])
    return contexts


def _as_rendered(context: Context) -> dict[str, list[str]]:
    extensions = {
        extension: [f"{step.application}({step.data})" for step in steps]
        for extension, steps in context.steps.items()
    }
    for extension, devices in context.hints.items():
        extensions.setdefault(extension, []).append(f"hint {devices}")
    return extensions


def _difference(
    rendered: Mapping[str, Mapping[str, Sequence[str]]], found: Mapping[str, Context]
) -> str:
    for context, extensions in rendered.items():
        there = _as_rendered(found[context])
        for extension, steps in extensions.items():
            if extension not in there:
                return f"{extension} is missing in [{context}]"
            if list(steps) != there[extension]:
                return f"{extension} in [{context}] is another"
        patterns = [shape(extension) for extension in extensions if extension.startswith("_")]
        for extension in there:
            its_own_hint = extension not in found[context].steps and any(
                pattern.matches(extension) for pattern in patterns
            )  # Asterisk makes one of a pattern for each lamp that is asked for
            if extension not in extensions and not its_own_hint:
                return f"{extension} in [{context}] is too much"
    return ""
