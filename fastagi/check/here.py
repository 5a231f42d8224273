"""What can be looked at without Asterisk: the configuration, the store, the service, the files."""

import asyncio
import fcntl
import os
import pwd
import shlex
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from fastagi import dialplan
from fastagi.agents.model import AgentState
from fastagi.agents.service import StoreUnavailable
from fastagi.agi.prompts import SOUNDS
from fastagi.check.extensions import Shape
from fastagi.check.findings import Finding, ok, one_line, problem, some, warning
from fastagi.config import AsteriskSettings, Settings
from fastagi.config.values import NEVER, SOUND_SUFFIXES
from fastagi.contract import LINKED, LINKS, WITHOUT_DIGITS
from fastagi.dial import Channel, Dialled, Prepared, ServiceAway, dial, headers
from fastagi.store import BadDatabaseUrl, Reading
from fastagi.store.schema import schema

SERVICE_WITHIN: Final = 10.0  # seconds for a call that asks for the status
SOUND_FOLDERS: Final = (Path("/var/lib/asterisk/sounds"), Path("/usr/share/asterisk/sounds"))


@dataclass(frozen=True, slots=True)
class Mends:
    """Commands that can be pasted. ``place``: where the configuration is."""

    place: str

    def _fastagi(self, *words: str) -> str:
        usual = self.place == "/etc/fastagi"
        config = () if usual else ("--config", str(Path(self.place).absolute()))
        return shlex.join(("fastagi", *words, *config))

    def include(self, asterisk: AsteriskSettings, etc: str) -> str:
        """The file for the dialplan; a mistake in the configuration leaves the old one there.

        ``etc``: Asterisk's folder of configurations.
        """
        named = ("--asterisk", asterisk.name) if asterisk.name else ()
        here = loopback(asterisk.host)
        file = f"{etc}/agent-features.conf" if here else "agent-features.conf"
        copy = "" if here else f"# copy it to {asterisk.host}:{etc}, and there:\n"
        return (
            f"f={shlex.quote(file)}\n"
            f'{self._fastagi("dialplan", *named)} > "$f.new" && mv "$f.new" "$f"\n'
            f"{copy}# once, in extensions.conf: #include agent-features.conf\n"
            "asterisk -rx 'dialplan reload'"
        )


# -- the configuration ----------------------------------------------------------------------------


def configuration(settings: Settings, place: str) -> Iterator[Finding]:
    """What is allowed, and yet hardly meant."""
    about = "configuration"
    agents = settings.agents or ()
    yield ok(
        about,
        f"{len(agents)} agents, {len(settings.queues)} queues, "
        f"{len(settings.pause_reasons)} pause reasons, {len(settings.devices)} device rules",
        place,
    )
    if not settings.devices:
        yield problem(
            about,
            "no extension can become a queue member, so nobody can log in",
            f"{place}: devices",
            "devices:\n  - {match: 10XX, context: phones, interface: 'PJSIP/{extension}'}",
        )
    idle = [agent.number for agent in agents if not agent.queues]
    if idle:
        yield warning(
            about,
            f"agents in no queue get no calls: {some(idle)}",
            f"{place}: agents",
            "queues: [NAME, …]   # for each of them",
        )
    codes = settings.feature_codes
    if codes.pause and not settings.pause_reasons:
        yield warning(
            about,
            f"{codes.pause} has no reason to offer: every pause is refused",
            f"{place}: pause_reasons",
            "pause_reasons:\n  - {code: 1, name: break}",
        )
    yield from _shadows(settings, place)
    yield from _timed(settings, place)
    for asterisk in settings.asterisks:
        yield from _within_reach(settings, asterisk, place)


def taken_from_rules(settings: Settings) -> list[tuple[str, Shape]]:
    """Codes, and the extensions and queue numbers that nobody can dial because of them.

    A rule that takes nearly every number, such as ``X.``, says nothing of what there is.
    """
    return [(code, its) for code, its, _ in _taken(settings)]


def _taken(settings: Settings) -> Iterator[tuple[str, Shape, str]]:
    numbers = [
        (Shape.pattern(rule.match.removeprefix("_")), f"{rule.match} (devices[{index}])")
        for index, rule in enumerate(settings.devices)
    ]
    numbers = [(its, name) for its, name in numbers if not its.tail or its.begins_fixed]
    numbers += [(Shape.number(q.number), f"{q.number} (queue {q.name})") for q in settings.queues]
    for script, code in settings.feature_codes.by_script().items():
        mine = [Shape.number(code)]
        if script not in WITHOUT_DIGITS:
            mine.append(Shape((*mine[0].places, frozenset("0123456789")), "!"))
        for its, name in numbers:
            if any(each.overlaps(its) for each in mine):
                yield code, its, name


def _shadows(settings: Settings, place: str) -> Iterator[Finding]:
    names = {
        code: script.name.lower() for script, code in settings.feature_codes.by_script().items()
    }
    told: dict[str, list[str]] = {}
    for code, _, name in _taken(settings):
        told.setdefault(code, []).append(name)
    for code, hidden in told.items():
        yield warning(
            "configuration",
            f"{names[code]} is dialled as {code}, and so are {some(hidden)}: where the codes come "
            "first, whoever dials those numbers gets the code",
            f"{place}: feature_codes.{names[code]}",
            f'feature_codes:\n  {names[code]}: "*{code}"   # with a star nothing else begins with',
        )


def _timed(settings: Settings, place: str) -> Iterator[Finding]:
    """UTC is what a server's clock often has, and what nobody's shift goes by."""
    agents = settings.agents or ()
    timed = (
        settings.shift.logoff_at is not None
        or any(agent.logoff_at not in (None, NEVER) for agent in agents)
        or any(reason.daily_budget is not None for reason in settings.pause_reasons)
    )
    if timed and settings.timezone is None and not _has_hours(settings):
        yield warning(
            "configuration",
            "shifts end and days begin by the machine's clock, which is UTC, and no `timezone` is "
            "set",
            f"{place}: timezone",
            "timezone: Europe/Paris   # where your agents are; UTC where that is meant",
        )


def _has_hours(settings: Settings) -> bool:
    now = datetime.now(UTC)
    months = (now.replace(month=month, day=1) for month in (1, 7))
    return any(settings.zone.utcoffset(month) != timedelta(0) for month in months)


def _within_reach(settings: Settings, asterisk: AsteriskSettings, place: str) -> Iterator[Finding]:
    about = "configuration"
    if not loopback(asterisk.host):
        if loopback(settings.fastagi.advertised.host):
            yield problem(
                about,
                f"Asterisk runs at {asterisk.host} and would call "
                f"{settings.fastagi.advertised}, which is its own machine",
                f"{place}: fastagi.listen",
                f"fastagi:\n  advertise: ADDRESS:{settings.fastagi.advertised.port}"
                "   # an address of this machine that Asterisk reaches",
            )
        address = _address(asterisk.host)
        if address and not any(address in network for network in settings.fastagi.allow):
            yield problem(
                about,
                f"calls from Asterisk at {asterisk.host} would be turned away",
                f"{place}: fastagi.allow",
                f"fastagi:\n  allow: [127.0.0.1, {asterisk.host}]",
            )


def _address(host: str):  # type: ignore[no-untyped-def]
    try:
        return ip_address(host)
    except ValueError:
        return None


def loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


# -- the store ------------------------------------------------------------------------------------


def store(
    url: str, asterisks: Collection[str], *, running: bool, running_here: bool = False
) -> tuple[list[Finding], list[AgentState]]:
    """What is to be said of it, and who is logged in. Blocks.

    ``asterisks``: the names of those in the configuration; ``running``: the service answers;
    ``running_here``: on this machine.
    """
    logged_in: list[AgentState] = []
    findings = _store(url, asterisks, logged_in, running=running, running_here=running_here)
    return findings, logged_in


def _used(path: Path) -> bool | None:
    """Whether a service has this SQLite file, by the locks that it holds as long as it runs, on the
    file beside it and on the file itself, which may have several names. None: not known."""
    for locked in (path.with_name(path.name + ".lock"), path):
        try:
            file = os.open(locked, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
        finally:
            os.close(file)
    return False


def _another(name: str) -> Finding:
    return warning(
        "store",
        "no service uses this database, and yet one answers: it has another one, and who is "
        "logged in there is not known here. A relative path is looked up in the folder in which "
        "each command is started; a changed `database` counts when the service is restarted",
        name,
        "database: sqlite:////var/lib/fastagi/fastagi.db   # four slashes: from the root",
    )


def _store(
    url: str,
    asterisks: Collection[str],
    logged_in: list[AgentState],
    *,
    running: bool,
    running_here: bool,
) -> list[Finding]:
    about = "store"
    try:
        found = schema(url)
    except BadDatabaseUrl as error:
        return [problem(about, str(error), "database", "database: sqlite:///fastagi.db")]
    except StoreUnavailable as error:
        return [problem(about, one_line(error), "database", _reach_store(url))]
    if found.unknown:
        return [
            problem(
                about,
                f"a newer version has written it (migration {some(found.unknown)})",
                found.name,
                "# install that version again, or restore the backup made before it",
            )
        ]
    if not found.exists:
        return [_new_store(found.name, running=running)]
    if found.pending:
        return [
            warning(
                about,
                f"its tables are those of an older version ({some(found.pending)} to come)",
                found.name,
                "# nothing: the next start of `fastagi serve` brings them up to date",
            )
        ]
    views = Reading(url)
    try:
        logged_in += views.logged_in_states()
        parked = views.parked()
    except StoreUnavailable as error:
        return [problem(about, one_line(error), found.name, _reach_store(url))]
    finally:
        views.close()
    version = found.applied[-1] if found.applied else "none"
    findings = [ok(about, f"readable, schema {version}, {len(logged_in)} logged in", found.name)]
    findings += _removed(logged_in, asterisks, found.name)
    if parked:
        findings.append(
            warning(
                about,
                f"{len(parked)} deliveries were given up; the last: {one_line(parked[-1].error)}",
                found.name,
                "fastagi events --parked",
            )
        )
    path = _file(found.name)
    if path is not None and not os.access(path, os.W_OK):
        findings.append(
            problem(
                about,
                "this user cannot write it",
                found.name,
                _as_owner(path),
            )
        )
    if path is not None and running_here and _used(path) is False:
        findings.append(_another(found.name))
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
            yield problem(
                "HTTP",
                one_line(error),
                place,
                "# http.tls: the files of the certificate and of its key, readable for the service",
            )
            return
    who = f"{len(its.tokens)} tokens" if its.tokens else "this machine alone, without tokens"
    yield ok("HTTP", f"{its.listen.host}:{its.listen.port}, {who}", place)


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
        yield warning(
            "store",
            f"{len(numbers)} logged in on {named} is not in the configuration: {some(numbers)};"
            " it is told nothing more of them; they can log off, or log in elsewhere",
            where,
            f"# where it is in use; otherwise nothing\nasterisks:\n  - {{name: {asterisk}, …}}"
            if asterisk
            else "# asterisk: instead of asterisks:, where there is only one; otherwise nothing",
        )


def _file(name: str) -> Path | None:
    return Path(name.removeprefix("sqlite:///")) if name.startswith("sqlite:///") else None


def _new_store(name: str, *, running: bool) -> Finding:
    path = _file(name)
    if path is not None:
        folder = next(parent for parent in path.parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            return problem(
                "store",
                f"there is none yet, and this user cannot make it in {folder}",
                name,
                f"install -d -o USER {shlex.quote(str(path.parent))}   # the service's user",
            )
    if running:
        return warning(
            "store",
            "there is none, and yet the service answers: it has another one. A relative path is "
            "looked up in the folder in which each command is started",
            name,
            "database: sqlite:////var/lib/fastagi/fastagi.db   # four slashes: from the root",
        )
    return ok("store", "there is none yet: the first start makes it", name)


def _reach_store(url: str) -> str:
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return (
            _as_owner(path)
            if path.exists() and not os.access(path, os.R_OK)
            else "# the user of the service must be able to read and write this file and its folder"
        )
    return "# is PostgreSQL running there, and may this user log in? psql with the same URL tells"


def _as_owner(path: Path) -> str:
    """This command, as the user who owns the store: most often that of the service."""
    try:
        owner = pwd.getpwuid(path.stat().st_uid).pw_name
    except (OSError, KeyError):
        owner = "USER"
    return f"sudo -u {owner} fastagi check   # as the service's user; or chown the file to it"


# -- the service ----------------------------------------------------------------------------------


async def service(settings: Settings) -> tuple[list[Finding], frozenset[str] | None]:
    """Does it answer, and can it write its store? It is asked as `fastagi agents` does.

    Then also the names of the Asterisks that it is connected to; None where it cannot work.
    """
    about = "service"
    host, port = settings.fastagi.advertised
    where = f"agi://{settings.fastagi.advertised}"
    stranger = f"ss -ltnp 'sport = :{port}'   # shows who; the service? see fastagi.allow"
    channel = Channel(settings.language)
    opening = headers(Dialled(LINKS, "", "", "links"), "FastAGI/check", (), host=host)
    try:
        async with asyncio.timeout(SERVICE_WITHIN):
            await dial(host, port, opening, channel, Prepared(""), lambda *_: None)
    except (ServiceAway, TimeoutError) as error:
        if await asyncio.to_thread(_listens, host, port):
            what = (
                "something listens there that is not this service, or does not let us in "
                f"({one_line(error) or 'no answer in time'})"
            )
            return [problem(about, what, where, stranger)], None
        what = "it is not running: callers hear 'please try again'"
        return [warning(about, what, where, "systemctl start fastagi   # or: fastagi serve")], None
    words = channel.variables.get(LINKED, "").split()
    if not words:
        what = "something listens there that is not this service, or is one of another version"
        return [problem(about, what, where, stranger)], None
    if "store=usable" not in words:
        what = "it answers calls with 'please try again', as it cannot use its database"
        return [problem(about, what, where, "# see its log: it says what to do")], None
    linked = (word.removeprefix("asterisk=") for word in words if word.startswith("asterisk="))
    return [ok(about, "it answers calls", where)], frozenset(linked)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


# -- sounds ---------------------------------------------------------------------------------------


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
    if not folders and loopback(asterisk.host):
        folders = [Path(data) / "sounds"] if data else list(SOUND_FOLDERS)
    folder = next((f for f in folders if f.is_dir() and os.access(f, os.R_OK | os.X_OK)), None)
    if folder is None:
        where = str(chosen or (data and f"{data}/sounds") or SOUND_FOLDERS[0])
        what = "whether every prompt has its sound cannot be told: no such folder here"
        return [
            (problem if chosen else warning)(
                about,
                what,
                where,
                "fastagi check --sounds DIR   # on Asterisk's machine, or a copy's DIR",
            )
        ]
    findings = []
    for language in settings.languages():
        missing = [sound for sound in wanted if not _has_sound(folder, language, sound)]
        where = str(folder / language)
        if not missing:
            findings.append(ok(about, f"all {len(wanted)} are there in {language!r}", where))
            continue
        findings.append(
            problem(
                about,
                f"{len(missing)} of {len(wanted)} have no file in {language!r}: {some(missing)}",
                where,
                "\n".join(_get_sounds(language, missing)),
            )
        )
    return findings


def _get_sounds(language: str, missing: Collection[str]) -> Iterator[str]:
    if own := sorted(set(missing) - SOUNDS):
        yield f"# record {some(own)}, or take other sounds in prompts"
    if len(own) < len(missing):
        name = language.partition("_")[0]
        yield f"apt-get install asterisk-core-sounds-{name}-gsm   # Debian; core sounds elsewhere"


def _has_sound(folder: Path, language: str, sound: str) -> bool:
    """Asterisk looks in the language, in the one without the country, and beside them (file.c)."""
    if sound.startswith("/"):
        return _is_file(Path(sound))
    places = dict.fromkeys((language, language.partition("_")[0], ""))
    return any(_is_file(folder / place / sound) for place in places)


def _is_file(path: Path) -> bool:
    try:
        return any(
            entry.name.partition(f"{path.name}.")[2] in SOUND_SUFFIXES
            for entry in path.parent.glob(f"{path.name}.*")
        )
    except OSError:
        return False


# -- the fallback ---------------------------------------------------------------------------------


def fallback(settings: Settings) -> list[Finding]:
    """Could Asterisk run it, and does it know this configuration? Blocks.

    Its files can be seen only from Asterisk's own machine.
    """
    about, chosen = "fallback", settings.fastagi.fallback
    if chosen is None:
        return []
    if not any(loopback(asterisk.host) for asterisk in settings.asterisks):
        what = "whether it is in place cannot be told from here"
        return [warning(about, what, chosen.command, "# run this on Asterisk's machine")]
    findings = []
    if not os.path.isfile(chosen.command):
        findings.append(
            problem(
                about,
                "there is no such program: without the service no code works",
                chosen.command,
                "# install fastagi-agentd on this machine, and name its fastagi-fallback in\n"
                "# fastagi.fallback.command",
            )
        )
    elif not os.access(chosen.command, os.X_OK):
        mend = f"chmod 755 {chosen.command}"
        findings.append(problem(about, "it cannot be executed", chosen.command, mend))
    write = f"fastagi dialplan --fallback > {chosen.facts}"
    try:
        facts = Path(chosen.facts).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        what = f"its facts cannot be read ({one_line(error)})"
        return [*findings, problem(about, what, chosen.facts, write)]
    if facts != dialplan.render_fallback_facts(settings):
        what = "its facts are not those of this configuration"
        findings.append(warning(about, what, chosen.facts, write))
    return findings or [ok(about, "in place, and knows this configuration", chosen.command)]
