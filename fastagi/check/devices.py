"""Phones and device rules: does each rule fit a phone, and each phone a rule? Does Asterisk know
the state of every member that a rule makes, and who else can dial the codes?"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fastagi.agents.callers import CONFIGURED_IN, Access, access, extension_of
from fastagi.agents.devices import PLACEHOLDER, DeviceRule, resolve
from fastagi.agents.differences import number_in
from fastagi.agents.model import AgentState
from fastagi.ami.client import Refused
from fastagi.check.asterisk import LISTED, Endpoint, Pbx, untold
from fastagi.check.extensions import Denied, Shape, Way, shape
from fastagi.check.findings import Finding, Level, Unmatched, ok, problem, some, warning
from fastagi.check.queues import IN_A_TABLE, IN_QUEUES_CONF
from fastagi.config import ExtensionFrom, Settings

_ABOUT: Final = "devices"
_HINT: Final = re.compile(r"hint:([^@]*)(?:@(.*))?", re.IGNORECASE)
_LOCAL: Final = re.compile(r"Local/([^@]*)@([^/]*)(?:/.*)?", re.IGNORECASE)
_SPELT_OUT: Final = 1_000  # a rule for no more numbers than these is tried with each of them
_MOST: Final = 2_000  # extensions of one rule whose state is asked for


@dataclass(slots=True)
class _Rule:
    """A rule and what is known of it."""

    number: int
    rule: DeviceRule
    extensions: dict[str, str] = field(default_factory=dict)  # -> the endpoint, "" if none is seen
    broken: bool = False  # a finding says that its members are Invalid

    @property
    def where(self) -> str:
        return f"devices[{self.number}] ({self.rule.pattern.text} → {self.rule.interface})"

    @property
    def local(self) -> "re.Match[str] | None":
        return _LOCAL.fullmatch(self.rule.interface)


async def devices(settings: Settings, pbx: Pbx, agents: Sequence[AgentState]) -> list[Finding]:
    """``agents``: those logged in on this Asterisk."""
    rules = [_Rule(number, rule) for number, rule in enumerate(settings.device_rules())]
    hints = await pbx.all_hints()
    try:
        endpoints = await pbx.endpoints(_named(settings, hints.values(), agents))
    except Refused as error:
        return [untold(pbx.asterisk, _ABOUT, "which phones Asterisk has", error)]
    findings: list[Finding] = []
    misspelt = {warning.path for warning in settings.warnings}
    for its in rules:
        if f"devices[{its.number}].match" in misspelt:
            its.broken = True  # told with the configuration: it matches nothing
            continue
        its.extensions = _extensions(settings, its.rule, endpoints, hints, agents)
        if its.rule.type == "remote" or its.local:
            findings += await _through_context(pbx, its, endpoints)
        elif its.rule.interface.partition("/")[0].upper() in LISTED:
            findings += _of_endpoints(settings, its, endpoints)
        else:
            findings.append(
                warning(
                    _ABOUT,
                    f"whether a {its.rule.interface.partition('/')[0]} device exists cannot be "
                    "told from outside",
                    its.where,
                    "# log in from such a phone once",
                )
            )
        if not its.broken:
            findings += await _states(pbx, its, hints)
    findings += await _invalid(settings, pbx, rules)
    findings += await _phones(settings, pbx, rules, endpoints)
    return findings


def _named(settings: Settings, hints: Iterable[str], agents: Iterable[AgentState]) -> Iterator[str]:
    """Devices that somebody speaks of: they may exist without being listed."""
    for rule in settings.device_rules():
        if PLACEHOLDER not in rule.interface:
            yield rule.interface
        elif rule.type == "local" and not _LOCAL.fullmatch(rule.interface):
            numbers = Shape.pattern(rule.pattern.text.removeprefix("_")).numbers(_SPELT_OUT)
            yield from (rule.interface.replace(PLACEHOLDER, number) for number in numbers)
    for devices in hints:
        yield from re.split(r"[&,]", devices)
    for agent in agents:
        if agent.session is not None:
            yield agent.session.device.interface


def _extensions(
    settings: Settings,
    rule: DeviceRule,
    endpoints: Iterable[Endpoint],
    hints: Iterable[tuple[str, str]],
    agents: Iterable[AgentState],
) -> dict[str, str]:
    """Extensions of phones that this rule, and none before it, makes members of."""
    rules = settings.device_rules()
    candidates: dict[str, str] = {}
    for endpoint in endpoints:
        made = rule.extension_of(endpoint.device)
        for extension in (endpoint.name, endpoint.caller_id, made):
            candidates.setdefault(extension, endpoint.device)
    if rule.type == "local":
        for extension, _ in hints:
            candidates.setdefault(extension, "")
    for agent in agents:
        if agent.session is not None:
            candidates.setdefault(agent.session.device.extension, "")
    return {
        extension: device
        for extension, device in candidates.items()
        if next((other for other in rules if other.pattern.matches(extension)), None) == rule
    }


def _of_endpoints(settings: Settings, its: _Rule, endpoints: Sequence[Endpoint]) -> list[Finding]:
    """A rule whose interface is an endpoint, such as ``PJSIP/{extension}``."""
    rule = its.rule
    by_device = {endpoint.device.casefold(): endpoint for endpoint in endpoints}
    found = {
        extension: by_device[interface]
        for extension in its.extensions
        if (interface := rule.device(extension).interface.casefold()) in by_device
    }
    its.extensions = {extension: endpoint.device for extension, endpoint in found.items()}
    if found:
        matched = ok(_ABOUT, f"matches {len(found)}: {some(found)}", its.where)
        return [matched, *_elsewhere(its, found)]
    its.broken = True  # what else is wrong with it follows from this
    earlier = [
        number
        for number, other in enumerate(settings.device_rules()[: its.number])
        if any(
            rule.extension_of(endpoint.device)
            and other.pattern.matches(rule.extension_of(endpoint.device))
            for endpoint in endpoints
        )
    ]
    if earlier:
        return [
            warning(
                _ABOUT,
                f"matches nobody: devices[{earlier[0]}] stands before it and takes all that match",
                its.where,
                f"# move this rule above devices[{earlier[0]}], or take it out",
            )
        ]
    technology = rule.interface.partition("/")[0]
    others = [e.device for e in endpoints if e.device.upper().startswith(technology.upper() + "/")]
    return [
        Unmatched(
            Level.PROBLEM,
            _ABOUT,
            f"no {technology} endpoint matches; Asterisk has {some(others) or 'none'}",
            its.where,
            "# correct match or interface, or make the endpoint in Asterisk. Realtime endpoints\n"
            "# are listed once they have registered",
        )
    ]


def _elsewhere(its: _Rule, found: Mapping[str, Endpoint]) -> list[Finding]:
    """Do these phones dial where the rule says they do?"""
    elsewhere = {
        extension: endpoint.context
        for extension, endpoint in found.items()
        if its.rule.context and endpoint.context and endpoint.context != its.rule.context
    }
    if not elsewhere:
        return []
    told = some(f"{extension} in {context}" for extension, context in elsewhere.items())
    usual = max(elsewhere.values(), key=list(elsewhere.values()).count)
    return [
        warning(
            _ABOUT,
            f"phones dial in another context than {its.rule.context!r}: {told}",
            its.where,
            f"context: {usual}   # the phones' own; it is written to the events and queue_log",
        )
    ]


# -- members that are called through a context ----------------------------------------------------


async def _through_context(pbx: Pbx, its: _Rule, endpoints: Sequence[Endpoint]) -> list[Finding]:
    """``Local/{extension}@from-queue/n``: is there a context, and does it take such numbers?"""
    local = its.local
    if local is None or PLACEHOLDER in local[2]:
        return [
            warning(
                _ABOUT, "where it leads cannot be told from outside", its.where, "# log in once"
            )
        ]
    dialled, context = local[1], local[2]
    try:
        found = await pbx.dialplan.context(context)
        order = await pbx.dialplan.search(context)
    except Denied:
        return []  # told where the dialplan is looked at
    if isinstance(found, str):
        its.broken = True
        elsewhere = its.rule.type == "local" and not its.extensions
        return [
            (Unmatched if elsewhere else Finding)(
                Level.PROBLEM,
                _ABOUT,
                f"the context {context!r}, through which these agents are called, is not loaded "
                f"({found}): nobody can reach them",
                its.where,
                f"; extensions.conf:\n[{context}]\n"
                f"exten => _{its.rule.pattern.text.removeprefix('_')},1,Dial(…)\n"
                "; then: asterisk -rx 'dialplan reload'",
            )
        ]
    wanted = _shape(dialled, its.rule)
    unseen = any(each.switches for each in order)
    if not unseen and not any(
        shape(extension).overlaps(wanted) for each in order for extension in each.dialled()
    ):
        its.broken = True
        elsewhere = its.rule.type == "local" and not its.extensions
        return [
            (Unmatched if elsewhere else Finding)(
                Level.PROBLEM,
                _ABOUT,
                f"no extension of the context {context!r} takes {its.rule.pattern.text}: nobody "
                "can reach these agents",
                its.where,
                f"; extensions.conf:\n[{context}](+)\n"
                f"exten => _{its.rule.pattern.text.removeprefix('_')},1,Dial(…)\n"
                "; then: asterisk -rx 'dialplan reload'",
            )
        ]
    if its.rule.type == "remote":
        return [ok(_ABOUT, f"the context {context!r} is loaded and takes such numbers", its.where)]
    taken = [
        extension
        for extension in its.extensions
        if unseen or any(each.best(dialled.replace(PLACEHOLDER, extension)) for each in order)
    ]
    lacking = [extension for extension in its.extensions if extension not in taken]
    findings = []
    if taken:
        findings.append(ok(_ABOUT, f"matches {len(taken)}: {some(taken)}", its.where))
    elif not lacking:
        findings.append(
            Unmatched(
                Level.WARNING,
                _ABOUT,
                "fits no phone: neither an endpoint, a caller ID nor a hint has such an extension; "
                f"Asterisk has {some(e.device for e in endpoints) or 'no phone'}",
                its.where,
                "# correct match: it is compared with the endpoint's name, or, with\n"
                "# login.extension_from: caller_id, with the number of its caller ID",
            )
        )
    if lacking:
        its.extensions = dict.fromkeys(taken, "")
        findings.append(
            problem(
                _ABOUT,
                f"the context {context!r} has no extension for {some(lacking)}: nobody can reach "
                "them there",
                its.where,
                f"; extensions.conf, [{context}]: an extension for each\n"
                "; then: asterisk -rx 'dialplan reload'",
            )
        )
    return findings


def _shape(dialled: str, rule: DeviceRule) -> Shape:
    """The numbers that a template such as ``9{extension}`` makes of the rule's extensions."""
    before, placeholder, after = dialled.partition(PLACEHOLDER)
    if not placeholder:
        return Shape.number(dialled)
    middle = Shape.pattern(rule.pattern.text.removeprefix("_"))
    places = (*Shape.number(before).places, *middle.places)
    if middle.tail:
        return Shape(places, middle.tail)
    return Shape((*places, *Shape.number(after).places))


# -- state interfaces ----------------------------------------------------------------------------

_NEVER_RUNG: Final = "Asterisk calls such members Invalid and never rings them"


async def _states(pbx: Pbx, its: _Rule, hints: Mapping[tuple[str, str], str]) -> list[Finding]:
    rule = its.rule
    template = rule.state_interface
    if template is None and its.local is None:
        return []  # the endpoint itself, which was found
    extensions = list(its.extensions)[:_MOST]
    hint = _HINT.fullmatch(template) if template else None
    if hint:
        return await _hinted(pbx, its, extensions, hint, hints)
    states = {e: rule.device(e).state_interface or rule.device(e).interface for e in extensions}
    known = await pbx.device_states(states.values())
    bad = [f"{state} of {e}" for e, state in states.items() if known.get(state) == "INVALID"]
    if not bad:
        return []
    its.broken = True
    return [
        problem(
            _ABOUT,
            f"state interfaces that Asterisk does not know: {some(bad)}; {_NEVER_RUNG}",
            its.where,
            "state_interface: PJSIP/{extension}   # or hint:{extension}@CONTEXT: a device that "
            "exists",
        )
    ]


async def _hinted(
    pbx: Pbx,
    its: _Rule,
    extensions: Sequence[str],
    hint: "re.Match[str]",
    hints: Mapping[tuple[str, str], str],
) -> list[Finding]:
    context = hint[2] or "default"
    if PLACEHOLDER in context:
        return []
    places = {e: (hint[1].replace(PLACEHOLDER, e), context) for e in extensions}
    try:
        loaded = await pbx.dialplan.context(context)
    except Denied:
        loaded = ""
    wanted = {place[0] for place in places.values()}
    elsewhere = sorted({c for e, c in hints if e in wanted and c != context})
    mend = (
        f'state_interface: "hint:{hint[1]}@{(elsewhere or ["CONTEXT"])[0]}"'
        "   # a context with hints for these phones"
    )
    if loaded and isinstance(loaded, str):
        its.broken = True
        return [
            problem(
                _ABOUT,
                f"the state interface is a hint in the context {context!r}, which is not loaded "
                f"({loaded}): {_NEVER_RUNG}",
                its.where,
                mend,
            )
        ]
    told = await pbx.hints(places.values())
    without = [e for e, place in places.items() if told.get(place) == ""]
    if without:
        its.broken = True
        return [
            problem(
                _ABOUT,
                f"no hint in the context {context!r} for {some(without)}: {_NEVER_RUNG}",
                its.where,
                mend
                if elsewhere
                else f"; extensions.conf, [{context}], for each:\n"
                f"exten => {without[0]},hint,PJSIP/{without[0]}\n"
                "; then: asterisk -rx 'dialplan reload'",
            )
        ]
    behind = {e: re.split(r"[&,]", told[p])[0] for e, p in places.items() if told.get(p)}
    known = await pbx.device_states(behind.values())
    bad = [f"{device} of {e}" for e, device in behind.items() if known.get(device) == "INVALID"]
    if not bad:
        return []
    its.broken = True
    return [
        problem(
            _ABOUT,
            f"hints in the context {context!r} lead to devices that do not exist: {some(bad)}; "
            "Asterisk never rings such members",
            its.where,
            f"; extensions.conf, [{context}]: exten => NUMBER,hint,DEVICE of a phone there is\n"
            "; then: asterisk -rx 'dialplan reload'",
        )
    ]


async def _invalid(settings: Settings, pbx: Pbx, rules: Sequence[_Rule]) -> list[Finding]:
    """Members in the queues now; those of a rule that is told of already are not told again."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for_good: set[tuple[str, str, str]] = set()  # which a log-off does not take out
    agents = {agent.number for agent in settings.agents or ()}
    for member in (await pbx.queues()).members:
        if not member.invalid:
            continue
        its = next((r for r in rules if r.rule.extension_of(member.interface)), None)
        agent = number_in(member.name)
        if (its is None and agent not in agents) or (its is not None and its.broken):
            continue
        key = (member.name, member.interface, member.state_interface)
        found.setdefault(key, []).append(member.queue)
        if member.kind != "dynamic":
            for_good.add(key)
    return [
        problem(
            _ABOUT,
            f"{name} is in {some(queues)} at {interface}, and Asterisk knows no device "
            f"{state}: it never rings there",
            f"queues: {some(queues)}",
            f"; its state interface: {' and '.join(map(IN_QUEUES_CONF.format, queues))}, or\n"
            f"; state_interface in {IN_A_TABLE}\n; then: asterisk -rx 'queue reload members'"
            if (name, interface, state) in for_good
            else f"fastagi dial '{settings.feature_codes.logoff or '*32'}{number_in(name)}' --from "
            f"{_dialled_from(rules, interface)}   # logs the agent off",
        )
        for (name, interface, state), queues in found.items()
    ]


def _dialled_from(rules: Sequence[_Rule], interface: str) -> str:
    extensions = (its.rule.extension_of(interface) for its in rules)
    return next(filter(None, extensions), "1")


# -- phones that no rule knows, and others that reach the codes -----------------------------------


async def _phones(
    settings: Settings, pbx: Pbx, looked_at: Sequence[_Rule], endpoints: Sequence[Endpoint]
) -> list[Finding]:
    rules = [its.rule for its in looked_at]
    broken = [its.rule for its in looked_at if its.broken]  # told of already
    ours = {rule.context for rule in rules if rule.context and rule.type == "local"}
    by_device = {endpoint.device.casefold() for endpoint in endpoints}
    listed = access(rules, _by_endpoint(settings), settings.login.from_)
    named: list[str] = []  # the other way of telling the extension would find a rule
    gone: list[str] = []  # taken for the extension of a phone that does not exist
    nobody: list[str] = []
    inbound: dict[str, list[str]] = {}
    matched: dict[str, list[str]] = {}  # lines that a rule takes for phones
    reached: dict[str, bool] = {}

    async def reaches(context: str) -> bool:
        if context not in reached:
            reached[context] = await _reaches(settings, pbx, context)
        return reached[context]

    for endpoint in endpoints if rules else ():  # without any, nobody can log in anywhere
        technology = endpoint.device.partition("/")[0]
        # What calls like a line, and not from where the phones do.
        if (
            endpoint.trunk
            and endpoint.context not in ("", *ours)
            and ours
            and extension_of(technology, endpoint.name, rules)
            and await reaches(endpoint.context)
        ):
            matched.setdefault(endpoint.context, []).append(endpoint.device)
            continue
        extension, otherwise = _extensions_of(settings, endpoint, rules)
        device = resolve(rules, extension) if extension else None
        if device is not None and (
            not pbx.listed(device.interface)
            or device.interface.casefold() in by_device
            or any(device == rule.device(extension) for rule in broken)
        ):
            continue
        if endpoint.context and not await reaches(endpoint.context):
            continue
        phone = not (endpoint.trunk or endpoint.name == "anonymous")
        there = resolve(rules, otherwise) if otherwise and phone else None
        if there is not None and any(there == rule.device(otherwise) for rule in broken):
            continue  # the rule that would match is told of already
        if device is not None:
            gone.append(f"{endpoint.device} for {extension}, which becomes {device.interface}")
        elif there is not None and there.type == "local" and (extension or _by_endpoint(settings)):
            named.append(f"{endpoint.device} (as {otherwise})")
        elif phone and endpoint.context in ours:
            if extension or _by_endpoint(settings):  # else its calls may have any caller ID
                nobody.append(endpoint.device)
        elif endpoint.context and not (
            endpoint.context in listed.contexts or listed.lists(technology, endpoint.name)
        ):
            inbound.setdefault(endpoint.context, []).append(endpoint.device)
    return [
        *_misfits(settings, named, gone),
        *_without_rule(nobody),
        *untold_contexts(endpoints, rules, listed),
        *(
            _inbound(context, devices, "a device rule has that context" * (context in ours))
            for context, devices in inbound.items()
        ),
        *(
            _inbound(context, devices, "a device rule matches their names, which is too much")
            for context, devices in matched.items()
        ),
    ]


def untold_contexts(
    endpoints: Iterable[Endpoint], rules: Sequence[DeviceRule], listed: Access
) -> list[Finding]:
    """Devices of which Asterisk does not tell whether they are phones or lines: the codes refuse
    them, whatever caller ID they show. As it must be for lines, so that nothing is to be mended."""
    found = []
    for endpoint in endpoints if rules else ():
        technology = endpoint.device.partition("/")[0]
        if (
            technology.upper() not in CONFIGURED_IN
            and not extension_of(technology, endpoint.name, rules)
            and not listed.lists(technology, endpoint.name)
        ):
            found.append(endpoint.device)
    if not found:
        return []
    return [
        ok(
            _ABOUT,
            f"calls from {some(found)} may not use the codes: Asterisk does not tell in which "
            "context they begin. A phone among them needs a device rule with it as interface or "
            "state_interface, such as state_interface: " + found[0],
            "devices",
        )
    ]


def _by_endpoint(settings: Settings) -> bool:
    return settings.login.extension_from is ExtensionFrom.ENDPOINT


def _extensions_of(
    settings: Settings, endpoint: Endpoint, rules: Sequence[DeviceRule]
) -> tuple[str, str]:
    """What a call from this endpoint is taken for, and what it would be by the other setting of
    ``login.extension_from``; "" where it is none, or not known."""
    by_endpoint = extension_of(endpoint.device.partition("/")[0], endpoint.name, rules)
    found = (by_endpoint, endpoint.caller_id)
    return found if _by_endpoint(settings) else (found[1], found[0])


def _misfits(settings: Settings, named: Sequence[str], gone: Sequence[str]) -> list[Finding]:
    mine, other = ExtensionFrom.ENDPOINT, ExtensionFrom.CALLER_ID
    if not _by_endpoint(settings):
        mine, other = other, mine
    findings = []
    if named:
        findings.append(
            problem(
                _ABOUT,
                f"with extension_from: {mine.value} no rule matches these phones, so nobody can "
                f"log in there; with {other.value} one does: {some(named)}",
                "login.extension_from",
                f"login:\n  extension_from: {other.value}   # or a rule that matches them",
            )
        )
    if gone:
        findings.append(
            problem(
                _ABOUT,
                f"phones are taken for others, which do not exist: {some(gone)}",
                "login.extension_from",
                f"login:\n  extension_from: {other.value}   # or a rule for each phone",
            )
        )
    return findings


def _without_rule(nobody: Sequence[str]) -> list[Finding]:
    if not nobody:
        return []
    return [
        warning(
            _ABOUT,
            "phones can dial the codes, and no device rule matches them, so nobody can log in "
            f"there: {some(nobody)}",
            "devices",
            f"devices:\n  - {{match: '{nobody[0].partition('/')[2]}', context: CONTEXT, "
            f"interface: '{nobody[0]}'}}   # one for each, or a pattern",
        )
    ]


def _inbound(context: str, devices: Sequence[str], phones_as: str) -> Finding:
    """``phones_as``: why they count as phones; "" where they do not."""
    if phones_as:
        what = f"they count as phones, as {phones_as}: whoever calls can log agents in and off"
    else:
        what = "the service refuses whom login.from does not list"
    return warning(
        "dialplan",
        f"calls that come in through {some(devices)} reach the feature codes in their context "
        f"{context!r}; {what}",
        f"extensions.conf [{context}]",
        "; extensions.conf: a context of their own for these calls, without\n"
        "; include => agent-features, directly or through another context;\n"
        "; then: asterisk -rx 'dialplan reload'\n"
        "# or, where agents call in from there:\n"
        f"login:\n  from: [{', '.join(devices)}]",
    )


async def _reaches(settings: Settings, pbx: Pbx, context: str) -> bool:
    for code in settings.feature_codes.by_script().values():
        try:
            if (await pbx.dialplan.reach(context, code)).way is Way.REACHED:
                return True
        except Denied:
            return False
    return False
