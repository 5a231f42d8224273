"""What Asterisk is asked, over a manager link of our own."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fastagi import dialplan
from fastagi.agents.devices import PLACEHOLDER, DeviceRule, resolve
from fastagi.ami.client import Client, ManagerError, Refused
from fastagi.ami.queues import NEEDED, Queues
from fastagi.check.findings import Finding, ok, one_line, problem, some, warning
from fastagi.config import AsteriskSettings, Settings
from fastagi.contract import FEATURES_CONTEXT, HINTS_CONTEXT, WITHOUT_DIGITS

LOGIN_WITHIN: Final = 8.0  # seconds; a refusal takes Asterisk one
# Technologies whose endpoints Asterisk lists among the device states.
_LISTED: Final = frozenset(("PJSIP", "SIP", "IAX2", "DAHDI", "SCCP", "SKINNY"))
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_.+@-]+", re.ASCII)

# -- Asterisk's manager interface -----------------------------------------------------------------


@asynccontextmanager
async def _manager(
    asterisk: AsteriskSettings,
) -> AsyncIterator[tuple[Client | None, list[Finding]]]:
    client = Client(
        asterisk.host,
        asterisk.port,
        asterisk.username,
        asterisk.secret.get_secret_value(),
        events="off",
        action_timeout=asterisk.timeout.total_seconds(),
    )
    await client.start()
    try:
        waited = 0.0
        while not client.connected and not client.last_error and waited < LOGIN_WITHIN:
            await asyncio.sleep(0.02)
            waited += 0.02
        if client.connected:
            where = f"{asterisk.host}:{asterisk.port}"
            yield client, [ok("manager", f"logged in as {asterisk.username}", where)]
        else:
            yield None, [_not_connected(asterisk, client.last_error or "no answer")]
    finally:
        await client.close()


def _not_connected(asterisk: AsteriskSettings, reason: str) -> Finding:
    where = f"{asterisk.host}:{asterisk.port}"
    if "refused: " in reason:
        return problem(
            "manager",
            f"Asterisk refuses the user {asterisk.username!r} ({one_line(reason)})",
            where,
            f"in manager.conf: a section [{asterisk.username}], its secret the same as "
            "asterisk.secret in the configuration, and this machine's address in permit "
            "(`fastagi dialplan --manager` prints the section); "
            "then: asterisk -rx 'manager reload'",
        )
    return problem(
        "manager",
        f"no manager interface answers ({one_line(reason)})",
        where,
        "is Asterisk running? In manager.conf, [general]: enabled = yes, "
        f"port = {asterisk.port}, bindaddr = {asterisk.host}; "
        "then: asterisk -rx 'manager reload'",
    )


def _lost(asterisk: AsteriskSettings, error: Exception) -> Finding:
    return problem(
        "manager",
        f"the link was lost while asking ({one_line(error)})",
        f"{asterisk.host}:{asterisk.port}",
        "look at Asterisk's log, and run this again",
    )


async def privileges(asterisk: AsteriskSettings, queues: Queues) -> list[Finding]:
    about, name = "privileges", asterisk.username
    found = await queues.privileges()
    findings = []
    classes = ",".join(dict.fromkeys(cls for cls, _ in NEEDED.values() if cls))
    for missing, actions in found.missing.items():
        purposes = dict.fromkeys(NEEDED[action][1] for action in actions)
        findings.append(
            problem(
                about,
                f"write class {missing!r} is missing: without it the service cannot "
                f"{', '.join(purposes)} ({', '.join(actions)})",
                f"manager.conf [{name}]",
                f"write = {classes}\nthen: asterisk -rx 'manager reload'",
            )
        )
    if found.unknown:
        findings.append(
            problem(
                about,
                f"this Asterisk does not know {', '.join(found.unknown)}",
                "modules.conf",
                "load = app_queue.so\nthen: asterisk -rx 'module load app_queue.so'",
            )
        )
    return findings or [ok(about, f"may do all that is needed ({classes})", f"[{name}]")]


async def asterisk_queues(settings: Settings, client: Client, queues: Queues) -> list[Finding]:
    about = "queues"
    there = {name.casefold() for name in await queues.queue_names()}
    missing = [queue.name for queue in settings.queues if queue.name.casefold() not in there]
    if not missing:
        return [ok(about, f"Asterisk has all {len(settings.queues)}", "queues.conf")]
    return [
        problem(
            about,
            f"Asterisk has no queue {name!r}; it has {some(sorted(there)) or 'none at all'}",
            "queues.conf",
            f"[{name}]\nstrategy = leastrecent\n(`fastagi dialplan --queues` prints a sample) "
            "then: asterisk -rx 'queue reload all'. A realtime queue is seen once it was used",
        )
        for name in missing
    ]


# -- devices --------------------------------------------------------------------------------------


async def devices(settings: Settings, asterisk: AsteriskSettings, client: Client) -> list[Finding]:
    about = "devices"
    try:
        items = await client.list_action(
            {"Action": "DeviceStateList"}, "DeviceStateChange", "DeviceStateListComplete"
        )
    except Refused as error:
        return [_untold(asterisk, about, "which phones Asterisk has", error)]
    there = [item.get("Device", "") for item in items]
    rules = settings.device_rules()
    findings: list[Finding] = []
    for number, rule in enumerate(rules):
        where = f"devices[{number}] ({rule.pattern.text} → {rule.interface})"
        if rule.type == "remote" or rule.interface.upper().startswith("LOCAL/"):
            findings.append(await _outside(client, rule, where))
            continue
        technology = rule.interface.partition("/")[0]
        if technology.upper() not in _LISTED:
            findings.append(
                warning(
                    about,
                    f"whether a {technology} device exists cannot be told from outside",
                    where,
                    "log in from such a phone once",
                )
            )
            continue
        found = _matching(rules, rule, there)
        if found:
            findings.append(ok(about, f"matches {len(found)}: {some(found)}", where))
            findings += await _contexts(client, rule, found, where)
            continue
        others = [d for d in there if d.upper().startswith(technology.upper() + "/")]
        findings.append(
            problem(
                about,
                f"no {technology} endpoint matches; Asterisk has {some(others) or 'none'}",
                where,
                "correct match or interface, or make the endpoint in Asterisk. Realtime endpoints "
                "are listed once they have registered",
            )
        )
    return findings


def _matching(
    rules: Sequence[DeviceRule], rule: DeviceRule, there: Iterable[str]
) -> dict[str, str]:
    """Extension -> device, of those devices that this rule, and none before it, makes of one."""
    before, placeholder, after = rule.interface.partition(PLACEHOLDER)
    template = re.compile(
        re.escape(before) + ("(.+)" if placeholder else "()") + re.escape(after), re.IGNORECASE
    )
    found = {}
    for device in there:
        match = template.fullmatch(device)
        if match is None:
            continue
        extension = match[1] or rule.pattern.text.removeprefix("_")
        if rule.pattern.matches(extension) and resolve(rules, extension) == rule.device(extension):
            found[extension] = device
    return found


async def _outside(client: Client, rule: DeviceRule, where: str) -> Finding:
    context = rule.interface.partition("@")[2].partition("/")[0]
    if not _PLAIN_NAME.fullmatch(context):
        return warning(
            "devices", "where it leads cannot be told from outside", where, "log in there once"
        )
    rows = await _show(client, context)
    if isinstance(rows, str):
        return warning(
            "devices",
            f"the context {context!r}, through which these agents are called, is not to be seen "
            f"({rows})",
            where,
            f"in extensions.conf: [{context}] that dials out; then: asterisk -rx 'dialplan reload'",
        )
    return ok("devices", f"the context {context!r} is loaded", where)


async def _contexts(
    client: Client, rule: DeviceRule, found: Mapping[str, str], where: str
) -> list[Finding]:
    """Do these phones dial where the rule says they do? Only PJSIP tells."""
    if not rule.context or not rule.interface.upper().startswith("PJSIP/"):
        return []
    elsewhere: dict[str, str] = {}
    for extension, device in itertools.islice(found.items(), 20):
        name = device.partition("/")[2]
        if _PLAIN_NAME.fullmatch(name):
            context = await _variable(client, f"PJSIP_ENDPOINT({name},context)")
            if context and context != rule.context:
                elsewhere[extension] = context
    if not elsewhere:
        return []
    told = some(f"{extension} in {context}" for extension, context in elsewhere.items())
    return [
        warning(
            "devices",
            f"phones dial in another context than {rule.context!r}: {told}",
            where,
            "context: the phones' own, as in pjsip.conf; it is written to the events and queue_log",
        )
    ]


# -- the dialplan ---------------------------------------------------------------------------------


def _include(asterisk: AsteriskSettings) -> str:
    named = f" --asterisk {asterisk.name}" if asterisk.name else ""
    return (
        f"fastagi dialplan{named} > /etc/asterisk/agent-features.conf\n"
        "in extensions.conf: #include agent-features.conf\n"
        "then: asterisk -rx 'dialplan reload'"
    )


async def loaded_dialplan(
    settings: Settings, asterisk: AsteriskSettings, client: Client
) -> list[Finding]:
    """Is it loaded, is it this configuration's, and do the phones reach it?"""
    about, mend = "dialplan", _include(asterisk)
    rendered = _rendered(dialplan.render_dialplan(settings, asterisk.name))
    loaded: dict[str, dict[str, list[str]]] = {}
    for context in rendered:
        rows = await _show(client, context)
        if rows == "Permission denied":
            return [_untold(asterisk, about, "whether the dialplan is loaded", Refused(rows))]
        if isinstance(rows, str):
            lamps = context == HINTS_CONTEXT
            finding = warning if lamps else problem
            what = "so lamps stay dark" if lamps else "so no code can be dialled"
            return [
                finding(
                    about,
                    f"the context {context} is not loaded ({rows}), {what}",
                    "extensions.conf",
                    mend,
                )
            ]
        loaded[context] = _by_extension(row for row in rows if row.get("Context") == context)
    where = f"extensions.conf [{FEATURES_CONTEXT}]"
    findings: list[Finding] = []
    for script, code in settings.feature_codes.by_script().items():
        if code not in loaded[FEATURES_CONTEXT]:
            findings.append(
                problem(
                    about,
                    f"{code} ({script.name.lower()}) is not in the loaded dialplan",
                    where,
                    mend,
                )
            )
    if not findings and (difference := _difference(rendered, loaded)):
        findings.append(
            warning(
                about,
                f"what Asterisk has loaded is not what this configuration gives: {difference}",
                where,
                mend,
            )
        )
    if not findings:
        findings.append(ok(about, "loaded, and as this configuration gives it", where))
    for context in dict.fromkeys(d.context for d in settings.devices if d.context):
        findings += await _reached(settings, client, context)
    if not any(d.context for d in settings.devices if d.type == "local"):
        findings.append(
            warning(
                about,
                "whether phones reach the codes cannot be told: no device rule names a context",
                "devices",
                "context: that of the phones, in each device rule",
            )
        )
    return findings


async def _reached(settings: Settings, client: Client, context: str) -> list[Finding]:
    """Does a code dialled in the phones' context end in ours, or in something before it?"""
    about, where = "dialplan", f"extensions.conf [{context}]"
    rows = await _show(client, context)
    if isinstance(rows, str):
        return [
            problem(
                about,
                f"the phones' context {context!r} is not loaded ({rows})",
                where,
                "context: that of the phones, in the device rule",
            )
        ]
    hidden: dict[str, list[str]] = {}
    unreached = []
    for script, code in settings.feature_codes.by_script().items():
        numbers = (code,) if script in WITHOUT_DIGITS else (code, code + "1", code + "1001")
        for number in numbers:
            found = await _show(client, context, number)
            first = (
                next((row for row in found if row.get("Priority") == "1"), None)
                if not isinstance(found, str)
                else None
            )
            if first is None:
                unreached.append(code)
                break
            if first.get("Context") != FEATURES_CONTEXT:
                by = f"{first.get('Extension')} in [{first.get('Context')}]"
                hidden.setdefault(by, []).append(code)
                break
    findings = []
    if unreached:
        findings.append(
            problem(
                about,
                f"phones in {context!r} do not reach {some(unreached)}",
                where,
                f"[{context}]\ninclude => {FEATURES_CONTEXT}\nthen: asterisk -rx 'dialplan reload'",
            )
        )
    findings += [
        problem(
            about,
            f"{some(codes)} never reaches the service: {by} comes first",
            where,
            "dial other codes (feature_codes in the configuration), or move that extension to a "
            f"context included after {FEATURES_CONTEXT}",
        )
        for by, codes in hidden.items()
    ]
    return findings or [ok(about, f"phones in {context!r} reach every code", where)]


async def _show(
    client: Client, context: str, extension: str | None = None
) -> list[dict[str, str]] | str:
    """Rows of the loaded dialplan; or what Asterisk says instead."""
    action = {"Action": "ShowDialPlan", "Context": context}
    if extension is not None:
        action["Extension"] = extension
    try:
        return await client.list_action(action, "ListDialplan", "ShowDialPlanComplete")
    except Refused as error:
        return str(error)


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


def _by_extension(rows: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    extensions: dict[str, list[str]] = {}
    for row in rows:
        if "Extension" not in row:
            continue
        steps = extensions.setdefault(row["Extension"], [])
        application, data = row.get("Application", ""), row.get("AppData", "")
        hint = row.get("Priority") == "hint"
        steps.append(f"hint {application}" if hint else f"{application}({data})")
    return extensions


def _difference(
    rendered: Mapping[str, Mapping[str, Sequence[str]]],
    loaded: Mapping[str, Mapping[str, Sequence[str]]],
) -> str:
    for context, extensions in rendered.items():
        for extension, steps in extensions.items():
            if extension not in loaded[context]:
                return f"{extension} is missing in [{context}]"
            if list(steps) != list(loaded[context][extension]):
                return f"{extension} in [{context}] is another"
        for extension in loaded[context]:
            if extension not in extensions:
                return f"{extension} in [{context}] is too much"
    return ""


# -- what the parts share -------------------------------------------------------------------------


async def _variable(client: Client, name: str) -> str | None:
    """A global variable or function of Asterisk's; None when it is not told."""
    try:
        response = await client.action({"Action": "Getvar", "Variable": name})
    except ManagerError:
        return None
    return response.headers.get("Value") or None if response.success else None


def _untold(asterisk: AsteriskSettings, about: str, what: str, error: Exception) -> Finding:
    return warning(
        about,
        f"{what} cannot be told ({one_line(error)})",
        f"manager.conf [{asterisk.username}]",
        "write = …,reporting lets this user ask; then: asterisk -rx 'manager reload'",
    )
