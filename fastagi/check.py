"""Is everything as it must be? Asks each part, changes nothing, and says how to mend what is wrong.

Of Asterisk it needs no more rights than the service itself: ``DeviceStateList``, ``ShowDialPlan``
and ``Getvar`` come with the class ``reporting``.
"""

import asyncio
import itertools
import os
import re
import socket
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from fastagi import dialplan
from fastagi.agents.devices import PLACEHOLDER, DeviceRule, resolve
from fastagi.agents.model import AgentState
from fastagi.agents.operations import QueuesUnavailable
from fastagi.agents.service import StoreUnavailable
from fastagi.agi.prompts import SOUNDS
from fastagi.ami.client import Client, ManagerError, Refused
from fastagi.ami.queues import NEEDED, Queues
from fastagi.config import AsteriskSettings, Settings
from fastagi.config.values import NEVER
from fastagi.contract import FEATURES_CONTEXT, HINTS_CONTEXT, WITHOUT_DIGITS, Outcome, Script
from fastagi.dial import Channel, Dialled, Prepared, ServiceAway, dial, headers
from fastagi.store import BadDatabaseUrl, Views
from fastagi.store.schema import schema

LOGIN_WITHIN: Final = 8.0  # seconds; a refusal takes Asterisk one
SERVICE_WITHIN: Final = 10.0  # seconds for a call that asks for the status
SOUND_FOLDERS: Final = (Path("/var/lib/asterisk/sounds"), Path("/usr/share/asterisk/sounds"))
_SUFFIXES: Final = frozenset(
    (
        *("alaw", "al", "ulaw", "ul", "mu", "pcm", "gsm", "g719", "g722", "g723", "g723sf", "g729"),
        *("g726-16", "g726-24", "g726-32", "g726-40", "ilbc", "mp3", "ogg", "raw", "vox"),
        *("siren7", "siren14", "sln", "sln12", "sln16", "sln24", "sln32", "sln44", "sln48"),
        *("sln96", "sln192", "wav", "wav16", "wav49", "WAV"),
    )
)
# Technologies whose endpoints Asterisk lists among the device states.
_LISTED: Final = frozenset(("PJSIP", "SIP", "IAX2", "DAHDI", "SCCP", "SKINNY"))
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_.+@-]+", re.ASCII)
_SHOWN: Final = 5  # names in one message


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``mend`` is empty where nothing is to be done."""

    level: Level
    about: str
    what: str
    where: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def _ok(about: str, what: str, where: str) -> Finding:
    return Finding(Level.OK, about, what, where)


def _warning(about: str, what: str, where: str, mend: str) -> Finding:
    return Finding(Level.WARNING, about, what, where, mend)


def _problem(about: str, what: str, where: str, mend: str) -> Finding:
    return Finding(Level.PROBLEM, about, what, where, mend)


def _some(names: Iterable[str]) -> str:
    """``a, b, c and 7 more``"""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


async def check(
    settings: Settings, place: str, sounds: Path | None = None
) -> AsyncIterator[Finding]:
    """All findings, as they come.

    place: where the configuration is, for the findings; sounds: Asterisk's folder of sounds, with
    a folder per language in it.
    """
    for finding in configuration(settings, place):
        yield finding
    names = [asterisk.name for asterisk in settings.asterisks]
    for finding in await asyncio.to_thread(store, settings.database, names):
        yield finding
    for finding in await service(settings):
        yield finding
    for finding in http(settings, place):
        yield finding
    for asterisk in settings.asterisks:
        async for finding in _one_asterisk(settings, asterisk, sounds):
            named = f"{asterisk.name}: " if asterisk.name else ""
            yield replace(finding, where=named + finding.where)
    for finding in await asyncio.to_thread(fallback, settings):
        yield finding


async def _one_asterisk(
    settings: Settings, asterisk: AsteriskSettings, sounds: Path | None
) -> AsyncIterator[Finding]:
    async with _manager(asterisk) as (client, refused):
        for finding in refused:
            yield finding
        if client is None:
            for finding in prompts(settings, asterisk, sounds, None):
                yield finding
            return
        queues = Queues(client)
        for part in (
            privileges(asterisk, queues),
            asterisk_queues(settings, client, queues),
            devices(settings, asterisk, client),
            loaded_dialplan(settings, asterisk, client),
        ):
            try:
                findings = await part
            except (ManagerError, QueuesUnavailable) as error:
                findings = [_lost(asterisk, error)]
            for finding in findings:
                yield finding
        data = await _variable(client, "ASTDATADIR")
        for finding in prompts(settings, asterisk, sounds, data):
            yield finding


# -- the configuration ---------------------------------------------------------------------------


def configuration(settings: Settings, place: str) -> Iterator[Finding]:
    """What is allowed, and yet hardly meant."""
    about = "configuration"
    agents = settings.agents or ()
    yield _ok(
        about,
        f"{len(agents)} agents, {len(settings.queues)} queues, "
        f"{len(settings.pause_reasons)} pause reasons, {len(settings.devices)} device rules",
        place,
    )
    if not settings.devices:
        yield _problem(
            about,
            "no extension can become a queue member, so nobody can log in",
            f"{place}: devices",
            "devices:\n  - {match: 10XX, context: phones, interface: 'PJSIP/{extension}'}",
        )
    idle = [agent.number for agent in agents if not agent.queues]
    if idle:
        yield _warning(
            about,
            f"agents in no queue get no calls: {_some(idle)}",
            f"{place}: agents",
            "queues: [NAME, …] for each of them",
        )
    codes = settings.feature_codes
    if codes.pause and not settings.pause_reasons:
        yield _warning(
            about,
            f"{codes.pause} has no reason to offer: every pause is refused",
            f"{place}: pause_reasons",
            "pause_reasons:\n  - {code: 1, name: break}",
        )
    yield from _timed(settings, place)
    for asterisk in settings.asterisks:
        yield from _within_reach(settings, asterisk, place)


def _timed(settings: Settings, place: str) -> Iterator[Finding]:
    """UTC is what a server's clock often has, and what nobody's shift goes by."""
    agents = settings.agents or ()
    timed = (
        settings.shift.logoff_at is not None
        or any(agent.logoff_at not in (None, NEVER) for agent in agents)
        or any(reason.daily_budget is not None for reason in settings.pause_reasons)
    )
    if timed and settings.timezone is None and not _has_hours(settings):
        yield _warning(
            "configuration",
            "shifts end and days begin by this machine's clock, which has no time zone (UTC)",
            f"{place}: timezone",
            "timezone: Europe/Paris, or where your agents are; UTC where that is meant",
        )


def _has_hours(settings: Settings) -> bool:
    now = datetime.now(UTC)
    months = (now.replace(month=month, day=1) for month in (1, 7))
    return any(settings.zone.utcoffset(month) != timedelta(0) for month in months)


def _within_reach(settings: Settings, asterisk: AsteriskSettings, place: str) -> Iterator[Finding]:
    about = "configuration"
    if not _loopback(asterisk.host):
        if _loopback(settings.fastagi.advertised.host):
            yield _problem(
                about,
                f"Asterisk runs at {asterisk.host} and would call "
                f"{settings.fastagi.advertised}, which is its own machine",
                f"{place}: fastagi.listen",
                "listen: an address of this machine that Asterisk reaches; or advertise: that one",
            )
        address = _address(asterisk.host)
        if address and not any(address in network for network in settings.fastagi.allow):
            yield _problem(
                about,
                f"calls from Asterisk at {asterisk.host} would be turned away",
                f"{place}: fastagi.allow",
                f"allow: [127.0.0.1, {asterisk.host}]",
            )


def _address(host: str):  # type: ignore[no-untyped-def]
    try:
        return ip_address(host)
    except ValueError:
        return None


def _loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


# -- the store -----------------------------------------------------------------------------------


def store(url: str, asterisks: Collection[str]) -> list[Finding]:
    """Blocks. ``asterisks``: the names of those in the configuration."""
    about = "store"
    try:
        found = schema(url)
    except BadDatabaseUrl as error:
        return [_problem(about, str(error), "database", "database: sqlite:///fastagi.db")]
    except StoreUnavailable as error:
        return [_problem(about, _one_line(error), "database", _reach_store(url))]
    if found.unknown:
        return [
            _problem(
                about,
                f"a newer version has written it (migration {_some(found.unknown)})",
                found.name,
                "install that version again, or restore the backup made before it",
            )
        ]
    if not found.exists:
        return [_new_store(found.name)]
    if found.pending:
        return [
            _warning(
                about,
                f"its tables are those of an older version ({_some(found.pending)} to come)",
                found.name,
                "nothing: the next start of `fastagi serve` brings them up to date",
            )
        ]
    views = Views(url)
    try:
        logged_in = views.logged_in_states()
        parked = views.parked()
    except StoreUnavailable as error:
        return [_problem(about, _one_line(error), found.name, _reach_store(url))]
    finally:
        views.close()
    version = found.applied[-1] if found.applied else "none"
    findings = [_ok(about, f"readable, schema {version}, {len(logged_in)} logged in", found.name)]
    findings += _removed(logged_in, asterisks, found.name)
    if parked:
        findings.append(
            _warning(
                about,
                f"{len(parked)} deliveries were given up; the last: {_one_line(parked[-1].error)}",
                found.name,
                "`fastagi events --parked` shows them",
            )
        )
    path = _file(found.name)
    if path is not None and not os.access(path, os.W_OK):
        findings.append(
            _problem(
                about,
                "this user cannot write it",
                found.name,
                f"chown it to the user of the service: chown fastagi {path}",
            )
        )
    return findings


def http(settings: Settings, place: str) -> Iterator[Finding]:
    """What the HTTP server will find at its start."""
    from fastagi.api.server import tls_context

    its = settings.http
    if its is None:
        return
    if its.tls is not None:
        try:
            tls_context(its.tls)
        except OSError as error:
            yield _problem(
                "HTTP",
                _one_line(error),
                place,
                "name the files of the certificate and of its key, readable for the service",
            )
            return
    who = f"{len(its.tokens)} tokens" if its.tokens else "this machine alone, without tokens"
    yield _ok("HTTP", f"{its.listen.host}:{its.listen.port}, {who}", place)


def _removed(
    logged_in: Iterable[AgentState], asterisks: Collection[str], where: str
) -> Iterator[Finding]:
    """Sessions on an Asterisk that is in the configuration no more, or by another name."""
    found: dict[str, list[str]] = {}
    for agent in logged_in:
        if agent.session is not None and agent.session.device.asterisk not in asterisks:
            found.setdefault(agent.session.device.asterisk, []).append(agent.number)
    for asterisk, numbers in sorted(found.items()):
        named = f"Asterisk {asterisk}, which" if asterisk else "an Asterisk without a name, which"
        yield _warning(
            "store",
            f"{len(numbers)} logged in on {named} is not in the configuration: {_some(numbers)};"
            " it is told nothing more of them; they can log off, or log in elsewhere",
            where,
            f"asterisks: - {{name: {asterisk}, …}}, where it is still in use; otherwise nothing"
            if asterisk
            else "asterisk: instead of asterisks:, where there is only one; otherwise nothing",
        )


def _file(name: str) -> Path | None:
    return Path(name.removeprefix("sqlite:///")) if name.startswith("sqlite:///") else None


def _new_store(name: str) -> Finding:
    path = _file(name)
    if path is not None:
        folder = next(parent for parent in path.parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            return _problem(
                "store",
                f"there is none yet, and this user cannot make it in {folder}",
                name,
                f"make {path.parent} for the user of the service, or name another database",
            )
    return _ok("store", "there is none yet: the first start makes it", name)


def _reach_store(url: str) -> str:
    if url.startswith("sqlite"):
        return "let the user of the service read and write this file and its folder"
    return "is PostgreSQL running there, and may this user log in? try: psql with the same URL"


# -- the service ---------------------------------------------------------------------------------


async def service(settings: Settings) -> list[Finding]:
    """Makes a call to it that changes nothing: the status of a phone where nobody is logged in."""
    about = "service"
    host, port = settings.fastagi.advertised
    where = f"agi://{settings.fastagi.advertised}"
    channel = Channel(settings.language)
    opening = headers(
        Dialled(Script.STATUS, "", "", "check"), "FastAGI/check", settings.device_rules(), host=host
    )
    try:
        async with asyncio.timeout(SERVICE_WITHIN):
            await dial(host, port, opening, channel, Prepared(""), lambda *_: None)
    except (ServiceAway, TimeoutError) as error:
        if await asyncio.to_thread(_listens, host, port):
            return [
                _problem(
                    about,
                    "something listens there that is not this service, or does not let us in "
                    f"({_one_line(error) or 'no answer in time'})",
                    where,
                    f"`ss -ltnp 'sport = :{port}'` shows who; else look at fastagi.allow",
                )
            ]
        return [
            _warning(
                about,
                "it is not running: callers hear 'please try again'",
                where,
                "fastagi serve, or: systemctl start fastagi",
            )
        ]
    if channel.outcome == Outcome.UNAVAILABLE:
        return [
            _problem(
                about,
                "it answers, but reaches its store or Asterisk's manager interface not",
                where,
                "see its log, and the other findings here",
            )
        ]
    if not channel.outcome:
        return [
            _problem(
                about,
                "something listens there that is not this service",
                where,
                f"`ss -ltnp 'sport = :{port}'` shows who; give fastagi.listen another port",
            )
        ]
    return [_ok(about, "it answers calls", where)]


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


# -- Asterisk's manager interface ----------------------------------------------------------------


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
            yield client, [_ok("manager", f"logged in as {asterisk.username}", where)]
        else:
            yield None, [_not_connected(asterisk, client.last_error or "no answer")]
    finally:
        await client.close()


def _not_connected(asterisk: AsteriskSettings, reason: str) -> Finding:
    where = f"{asterisk.host}:{asterisk.port}"
    if "refused: " in reason:
        return _problem(
            "manager",
            f"Asterisk refuses the user {asterisk.username!r} ({_one_line(reason)})",
            where,
            f"in manager.conf: a section [{asterisk.username}], its secret the same as "
            "asterisk.secret in the configuration, and this machine's address in permit "
            "(`fastagi dialplan --manager` prints the section); "
            "then: asterisk -rx 'manager reload'",
        )
    return _problem(
        "manager",
        f"no manager interface answers ({_one_line(reason)})",
        where,
        "is Asterisk running? In manager.conf, [general]: enabled = yes, "
        f"port = {asterisk.port}, bindaddr = {asterisk.host}; "
        "then: asterisk -rx 'manager reload'",
    )


def _lost(asterisk: AsteriskSettings, error: Exception) -> Finding:
    return _problem(
        "manager",
        f"the link was lost while asking ({_one_line(error)})",
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
            _problem(
                about,
                f"write class {missing!r} is missing: without it the service cannot "
                f"{', '.join(purposes)} ({', '.join(actions)})",
                f"manager.conf [{name}]",
                f"write = {classes}\nthen: asterisk -rx 'manager reload'",
            )
        )
    if found.unknown:
        findings.append(
            _problem(
                about,
                f"this Asterisk does not know {', '.join(found.unknown)}",
                "modules.conf",
                "load = app_queue.so\nthen: asterisk -rx 'module load app_queue.so'",
            )
        )
    return findings or [_ok(about, f"may do all that is needed ({classes})", f"[{name}]")]


async def asterisk_queues(settings: Settings, client: Client, queues: Queues) -> list[Finding]:
    about = "queues"
    there = {name.casefold() for name in await queues.queue_names()}
    missing = [queue.name for queue in settings.queues if queue.name.casefold() not in there]
    if not missing:
        return [_ok(about, f"Asterisk has all {len(settings.queues)}", "queues.conf")]
    return [
        _problem(
            about,
            f"Asterisk has no queue {name!r}; it has {_some(sorted(there)) or 'none at all'}",
            "queues.conf",
            f"[{name}]\nstrategy = leastrecent\n(`fastagi dialplan --queues` prints a sample) "
            "then: asterisk -rx 'queue reload all'. A realtime queue is seen once it was used",
        )
        for name in missing
    ]


# -- devices -------------------------------------------------------------------------------------


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
                _warning(
                    about,
                    f"whether a {technology} device exists cannot be told from outside",
                    where,
                    "log in from such a phone once",
                )
            )
            continue
        found = _matching(rules, rule, there)
        if found:
            findings.append(_ok(about, f"matches {len(found)}: {_some(found)}", where))
            findings += await _contexts(client, rule, found, where)
            continue
        others = [d for d in there if d.upper().startswith(technology.upper() + "/")]
        findings.append(
            _problem(
                about,
                f"no {technology} endpoint matches; Asterisk has {_some(others) or 'none'}",
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
        return _warning(
            "devices", "where it leads cannot be told from outside", where, "log in there once"
        )
    rows = await _show(client, context)
    if isinstance(rows, str):
        return _warning(
            "devices",
            f"the context {context!r}, through which these agents are called, is not to be seen "
            f"({rows})",
            where,
            f"in extensions.conf: [{context}] that dials out; then: asterisk -rx 'dialplan reload'",
        )
    return _ok("devices", f"the context {context!r} is loaded", where)


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
    told = _some(f"{extension} in {context}" for extension, context in elsewhere.items())
    return [
        _warning(
            "devices",
            f"phones dial in another context than {rule.context!r}: {told}",
            where,
            "context: the phones' own, as in pjsip.conf; it is written to the events and queue_log",
        )
    ]


# -- the dialplan --------------------------------------------------------------------------------


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
            finding = _warning if lamps else _problem
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
                _problem(
                    about,
                    f"{code} ({script.name.lower()}) is not in the loaded dialplan",
                    where,
                    mend,
                )
            )
    if not findings and (difference := _difference(rendered, loaded)):
        findings.append(
            _warning(
                about,
                f"what Asterisk has loaded is not what this configuration gives: {difference}",
                where,
                mend,
            )
        )
    if not findings:
        findings.append(_ok(about, "loaded, and as this configuration gives it", where))
    for context in dict.fromkeys(d.context for d in settings.devices if d.context):
        findings += await _reached(settings, client, context)
    if not any(d.context for d in settings.devices if d.type == "local"):
        findings.append(
            _warning(
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
            _problem(
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
            _problem(
                about,
                f"phones in {context!r} do not reach {_some(unreached)}",
                where,
                f"[{context}]\ninclude => {FEATURES_CONTEXT}\nthen: asterisk -rx 'dialplan reload'",
            )
        )
    findings += [
        _problem(
            about,
            f"{_some(codes)} never reaches the service: {by} comes first",
            where,
            "dial other codes (feature_codes in the configuration), or move that extension to a "
            f"context included after {FEATURES_CONTEXT}",
        )
        for by, codes in hidden.items()
    ]
    return findings or [_ok(about, f"phones in {context!r} reach every code", where)]


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


# -- sounds --------------------------------------------------------------------------------------


def prompts(
    settings: Settings, asterisk: AsteriskSettings, chosen: Path | None, data: str | None
) -> list[Finding]:
    """Is there a file for every sound in every language?

    data: Asterisk's data folder, as Asterisk itself says. Its files can be seen only from its own
    machine.
    """
    about = "sounds"
    wanted = sorted(SOUNDS.union(*settings.prompts.values()))
    folders = [chosen] if chosen else []
    if not folders and _loopback(asterisk.host):
        folders = [Path(data) / "sounds"] if data else list(SOUND_FOLDERS)
    folder = next((f for f in folders if f.is_dir() and os.access(f, os.R_OK | os.X_OK)), None)
    if folder is None:
        where = str(chosen or (data and f"{data}/sounds") or SOUND_FOLDERS[0])
        what = "whether every prompt has its sound cannot be told: no such folder here"
        return [
            (_problem if chosen else _warning)(
                about, what, where, "run this on Asterisk's machine, or give --sounds DIR"
            )
        ]
    findings = []
    for language in settings.languages():
        missing = [sound for sound in wanted if not _has_sound(folder, language, sound)]
        where = str(folder / language)
        if not missing:
            findings.append(_ok(about, f"all {len(wanted)} are there in {language!r}", where))
            continue
        findings.append(
            _problem(
                about,
                f"{len(missing)} of {len(wanted)} have no file in {language!r}: {_some(missing)}",
                where,
                f"install the core sounds of that language (Debian: asterisk-core-sounds-"
                f"{language.partition('_')[0]}), record what is your own, or take other sounds in "
                "prompts",
            )
        )
    return findings


def _has_sound(folder: Path, language: str, sound: str) -> bool:
    """Asterisk looks in the language, in the one without the country, and beside them (file.c)."""
    if sound.startswith("/"):
        return _is_file(Path(sound))
    places = dict.fromkeys((language, language.partition("_")[0], ""))
    return any(_is_file(folder / place / sound) for place in places)


def _is_file(path: Path) -> bool:
    try:
        return any(
            entry.name.partition(f"{path.name}.")[2] in _SUFFIXES
            for entry in path.parent.glob(f"{path.name}.*")
        )
    except OSError:
        return False


# -- the fallback --------------------------------------------------------------------------------


def fallback(settings: Settings) -> list[Finding]:
    """Could Asterisk run it, and does it know this configuration? Blocks.

    Its files can be seen only from Asterisk's own machine.
    """
    about, chosen = "fallback", settings.fastagi.fallback
    if chosen is None:
        return []
    if not any(_loopback(asterisk.host) for asterisk in settings.asterisks):
        what = "whether it is in place cannot be told from here"
        return [_warning(about, what, chosen.command, "run this on Asterisk's machine")]
    findings = []
    if not os.path.isfile(chosen.command):
        findings.append(
            _problem(
                about,
                "there is no such program: without the service no code works",
                chosen.command,
                "install fastagi-agentd on this machine, and name its fastagi-fallback in "
                "fastagi.fallback.command",
            )
        )
    elif not os.access(chosen.command, os.X_OK):
        mend = f"chmod 755 {chosen.command}"
        findings.append(_problem(about, "it cannot be executed", chosen.command, mend))
    write = f"fastagi dialplan --fallback > {chosen.facts}"
    try:
        facts = Path(chosen.facts).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        what = f"its facts cannot be read ({_one_line(error)})"
        return [*findings, _problem(about, what, chosen.facts, write)]
    if facts != dialplan.render_fallback_facts(settings):
        what = "its facts are not those of this configuration"
        findings.append(_warning(about, what, chosen.facts, write))
    return findings or [_ok(about, "in place, and knows this configuration", chosen.command)]


# -- what the parts share ------------------------------------------------------------------------


async def _variable(client: Client, name: str) -> str | None:
    """A global variable or function of Asterisk's; None when it is not told."""
    try:
        response = await client.action({"Action": "Getvar", "Variable": name})
    except ManagerError:
        return None
    return response.headers.get("Value") or None if response.success else None


def _untold(asterisk: AsteriskSettings, about: str, what: str, error: Exception) -> Finding:
    return _warning(
        about,
        f"{what} cannot be told ({_one_line(error)})",
        f"manager.conf [{asterisk.username}]",
        "write = …,reporting lets this user ask; then: asterisk -rx 'manager reload'",
    )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
