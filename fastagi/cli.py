"""The command line. No rules of its own: each command calls the room that knows.

Exit status: 0 done, 1 refused or not possible now, 2 bad usage or configuration. What a command
needs is imported inside it, so that none waits for what it does not use.
"""

import asyncio
import atexit
import contextlib
import errno
import io
import json
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fastagi.agents.events import Event
    from fastagi.agents.records import AgentView
    from fastagi.check import Finding
    from fastagi.config import Settings
    from fastagi.config.settings import AsteriskSettings
    from fastagi.dial import Channel, Step
    from fastagi.drift import Drift
    from fastagi.store import Reading

T = TypeVar("T")

DONE, REFUSED, USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="fastagi",
    help="Agent feature codes for Asterisk: log in, pause, unpause and log off from a desk phone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its pages of local variables would show secrets
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="PATH",
        help="The configuration: a file, or a folder with *.yml. Else $FASTAGI_CONFIG, "
        "/etc/fastagi or ./config.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]


def _named(help: str) -> Any:
    return typer.Option("--asterisk", metavar="NAME", help=help, show_default=False)


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def main() -> None:
    """The command ``fastagi``."""
    _open_standard_streams()
    _print_everywhere()
    try:
        _command()
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            # What could not be written is flushed once more at exit, and would change the status.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _command() -> None:
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        # Typer makes a 1 of a pipe that was closed: who read it has seen enough.
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(DONE)
        raise
    except OSError as error:
        if not (isinstance(error, BrokenPipeError) or _of_output(error)):
            raise
        # Nothing may be flushed into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(DONE)
        _say(f"fastagi: the output cannot be written: {error.strerror}")
        sys.exit(REFUSED)


def _open_standard_streams() -> None:
    """Where whoever started us has closed 0, 1 or 2, nothing is there: else the first file or
    connection that is opened would get the number, and whatever is printed with it."""
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        os.set_inheritable(number, True)
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _of_output(error: OSError) -> bool:
    """Whether it tells that stdout cannot be written, as a file on a full disk. Files that we open
    ourselves have a name; sockets fail otherwise."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    return error.filename is None and error.errno in full


# Signs that a terminal of a poor locale cannot show, and what it shows instead.
_PLAIN_SIGNS = {"♪": "*", "⌨": ">", "✓": "+", "✗": "x", "•": "*", "…": "...", "–": "-", "’": "'"}


def _print_everywhere() -> None:
    """Whatever the locale is, no text ends a command: what the terminal cannot show is written in
    plainer signs, or as ``\\u4e2d``."""
    import codecs
    import unicodedata

    def plainer(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        shown = ""
        for sign in error.object[error.start : error.end]:
            plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
            shown += _PLAIN_SIGNS.get(sign, plain) or sign.encode("unicode_escape").decode("ascii")
        return shown, error.end

    codecs.register_error("plainer", plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # exchanged for a pipe since it was opened
                stream.reconfigure(errors="plainer")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("fastagi-agentd")
        except PackageNotFoundError:
            number = "(not installed)"
        typer.echo(f"fastagi-agentd {number}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", is_eager=True, callback=_version
        ),
    ] = False,
) -> None: ...


# -- the service ---------------------------------------------------------------------------------


@app.command()
def serve(
    config: Config = None,
    log_format: Annotated[LogFormat, typer.Option(help="Of the log on stderr.")] = (
        LogFormat.CONSOLE
    ),
    log_level: Annotated[LogLevel, typer.Option(help="The least that is logged.")] = LogLevel.INFO,
    new_database: Annotated[
        bool,
        typer.Option(
            "--new-database",
            help="Start although the SQLite file is gone (with an empty one), or another one than "
            "last time. For once, not for a systemd unit.",
        ),
    ] = False,
) -> None:
    """Answer the feature codes, until SIGTERM or Ctrl-C."""
    from fastagi import app as service

    path = _find(config)
    set_up_log(log_format, log_level)
    with _explained():
        service.run(lambda: service.serve(path, new_database=new_database))


@app.command()
def check(
    config: Config = None,
    as_json: Json = False,
    sounds: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Asterisk's folder of sounds, when it is not in one of the usual places.",
            show_default=False,
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            help="Put a paused member, fastagi-check, into a queue for a moment, to see whether "
            "Asterisk tells of it.",
        ),
    ] = True,
) -> None:
    """Look for what is wrong, and say how to mend it. Changes nothing, but for the probe.

    Exit status 0 when nothing is (warnings may be), 1 with problems, 2 when the configuration
    cannot be used.
    """
    from fastagi import check as room

    place = _find(config)
    settings = _load(place)
    set_up_log(LogFormat.CONSOLE, LogLevel.ERROR)
    counts = dict.fromkeys(room.Level, 0)

    async def tell() -> None:
        looked = room.check(settings, str(place), sounds, probe=probe)
        async with contextlib.aclosing(looked) as findings:
            async for finding in findings:
                counts[finding.level] += 1
                if as_json:
                    _print_json(finding.as_dict())
                else:
                    _tell_finding(finding)

    _run(tell())
    if not as_json:
        told = ((n, f"{level}{'s' * (n != 1)}") for level, n in counts.items() if level != "ok")
        words = ", ".join(f"{n} {word}" for n, word in reversed(list(told)))
        typer.echo(f"{words}, {counts[room.Level.OK]} ok")
    raise typer.Exit(REFUSED if counts[room.Level.PROBLEM] else DONE)


_LEVEL_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


def _tell_finding(finding: "Finding") -> None:
    level = typer.style(f"{finding.level:8}", fg=_LEVEL_COLOURS[finding.level])
    typer.echo(f"{level} {finding.about}: {_printable(finding.what)}")
    if finding.mend:
        typer.echo(f"         where: {_printable(finding.where)}")
        lines = [_printable(line) for line in finding.mend.splitlines()]
        typer.echo("         mend:  " + "\n                ".join(lines))


@app.command()
def dialplan(
    config: Config = None,
    manager: Annotated[
        bool, typer.Option("--manager", help="The user for manager.conf instead.")
    ] = False,
    queues: Annotated[
        bool, typer.Option("--queues", help="A sample for queues.conf instead.")
    ] = False,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="The facts file of the fallback instead.")
    ] = False,
    asterisk: Annotated[
        str, _named("The one it is for, where there are several: each has its own.")
    ] = "",
) -> None:
    """Print the file to #include in extensions.conf."""
    from fastagi import dialplan as room

    if manager + queues + fallback > 1:
        _fail("--manager, --queues and --fallback are files of their own: one at a time", USAGE)
    settings = _load(config)
    if asterisk:
        _one_asterisk(settings, asterisk)
    try:
        if queues:
            text = room.render_queues(settings)
        elif fallback:
            text = room.render_fallback_facts(settings, asterisk)
        else:
            render = room.render_manager if manager else room.render_dialplan
            text = render(settings, asterisk)
    except ValueError as error:
        _fail(str(error), USAGE)
    typer.echo(text, nl=False)


@app.command()
def dial(
    number: Annotated[str, typer.Argument(help="What is dialled, such as '*31' or '*331'.")],
    phone: Annotated[
        str, typer.Option("--from", metavar="EXTENSION", help="The phone it is dialled on.")
    ],
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="KEYS",
            help="Keys to press when asked, such as 4321#; a comma waits for the next question. "
            "Without it they are asked for, on a terminal.",
            show_default=False,
        ),
    ] = None,
    hang_up_at: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Hang up during the Nth thing the service does.",
            show_default=False,
        ),
    ] = 0,
    language: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="The phone's language.", show_default=False),
    ] = None,
    caller_id: Annotated[
        str,
        typer.Option(metavar="NUMBER", help="Where it is not the extension.", show_default=False),
    ] = "",
    context: Annotated[
        str,
        typer.Option(
            metavar="CONTEXT",
            help="The one it is dialled in; without it that of the phones.",
            show_default=False,
        ),
    ] = "",
    asterisk: Annotated[str, _named("The one the phone is on, where there are several.")] = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Play a call to the running service; prompts are shown as text.

    Exit status 0 when it was done, 1 when it was refused, 2 for what is no feature code.
    """
    from fastagi import dial as room

    settings = _load(config, agents=False)
    spoken = language or settings.language
    host, port = settings.fastagi.advertised
    rules = settings.device_rules()
    of_phones = next((rule.context for rule in rules if rule.context), "")
    channel = room.Channel(spoken, context or of_phones, hang_up_at)
    try:
        call = room.dialled(number, settings.feature_codes.by_script())
        opening = room.headers(
            call,
            phone,
            rules,
            host=host,
            language=spoken,
            caller_id=caller_id,
            asterisk=_one_asterisk(settings, asterisk).name,
        )
        asked = keys is None and sys.stdin.isatty() and not as_json
        terminal = room.Terminal() if asked else None
        fingers = terminal or room.Prepared(keys or "")
    except ValueError as error:
        _fail(str(error), USAGE)
    heard = _heard_json if as_json else _heard
    if not as_json:
        typer.echo(f"{number} from {phone}: {call.script}")
    try:
        with terminal or contextlib.nullcontext():
            _run(room.dial(host, port, opening, channel, fingers, heard))
    except room.ServiceAway as error:
        _fail(str(error), REFUSED)
    _tell_result(channel, as_json)
    raise typer.Exit(DONE if channel.done else REFUSED)


def _heard(step: "Step", keys: str) -> None:
    from fastagi.agi.protocol import printable

    match step.kind:
        case "play" | "ask" if step.sound:
            typer.echo(f"  ♪ {printable(step.text)}  {_dim(printable(step.sound))}")
        case "say":
            typer.echo(f"  ♪ {printable(step.text)}")
        case "keys":
            typer.echo(f"  ⌨ {keys or '(nothing pressed)'}")
        case "hung up" | "hangup":
            typer.echo("  (hung up)")
        case "other":
            typer.echo(f"  {_dim(printable(step.text))}")


def _heard_json(step: "Step", keys: str) -> None:
    if step.kind == "keys":
        _print_json({"step": "keys", "keys": keys})
    elif step.kind != "set":
        said = {"sound": step.sound, "text": step.text}
        kind = "hangup" if step.kind == "hung up" else step.kind
        _print_json({"step": kind, **{key: value for key, value in said.items() if value}})


def _tell_result(channel: "Channel", as_json: bool) -> None:
    from fastagi.agi.protocol import printable

    if as_json:
        _print_json(
            {
                "step": "result",
                "done": channel.done,
                "language": channel.language,
                "variables": channel.variables,
            }
        )
        return
    if not channel.outcome:
        typer.echo(
            "no AGENT_STATUS was set: the caller had hung up, nothing is played"
            if channel.hung_up
            else "no AGENT_STATUS was set: the dialplan plays its own 'try again'"
        )
    for name, value in channel.variables.items():
        typer.echo(f"{printable(name)}={printable(value)}")


# -- the store and Asterisk ----------------------------------------------------------------------


@app.command()
def reconcile(
    config: Config = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only show what differs; the service need not run."),
    ] = False,
    asterisk: Annotated[str, _named("With --dry-run: only this one of several.")] = "",
    as_json: Json = False,
) -> None:
    """Have the service compare its store with Asterisk's queues now, and repair what differs.

    Exit status 0 when done, 1 when the service, its store or Asterisk is away. With --dry-run: 0
    when nothing differs, 1 when something does.
    """
    from fastagi import drift

    settings = _load(config, agents=False)
    if asterisk and not dry_run:
        _fail("--asterisk goes with --dry-run: the service looks at all of them", USAGE)
    set_up_log(LogFormat.CONSOLE, LogLevel.ERROR)
    if dry_run:
        chosen = [_one_asterisk(settings, asterisk)] if asterisk else settings.asterisks
        raise typer.Exit(_look(settings, chosen, as_json))
    try:
        counts = _run(drift.repair_now(settings))
    except drift.Away as error:
        _fail(f"fastagi: {_printable(str(error))}", REFUSED)
    if as_json:
        _print_json({"repairs": counts})
    else:
        typer.echo(", ".join(f"{n} {kind}" for kind, n in counts.items()) or "nothing differed")


@app.command("reload")
def reload_(
    config: Config = None,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm", help="Also where agents at work would lose their login or their calls."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Have the service read its configuration again, and say what has changed.

    Exit status 0 when done, 1 when it has to be confirmed or the service or its store is away, 2
    when the configuration has errors.
    """
    from fastagi import drift
    from fastagi.reload import Outcome

    settings = _load(config, agents=False)
    set_up_log(LogFormat.CONSOLE, LogLevel.ERROR)
    try:
        outcome, lines = _run(drift.reload_now(settings, confirm=confirm))
    except drift.Away as error:
        _fail(f"fastagi: {_printable(str(error))}", REFUSED)
    done = outcome == Outcome.RELOADED
    if as_json:
        _print_json({"outcome": outcome.lower(), "lines": lines})
    else:
        for line in lines or (["nothing has changed"] if done else []):
            typer.echo(_printable(line))
        if (told := _RELOAD_REFUSED.get(outcome)) is not None:
            _say(f"fastagi: {told}")
    if not done:
        raise typer.Exit(USAGE if outcome == Outcome.ERRORS else REFUSED)


_RELOAD_REFUSED = {
    "NOT_CONFIRMED": "nothing was changed: where that is meant, fastagi reload --confirm",
    "ERRORS": "the configuration has errors, nothing was changed",
    "STORE_AWAY": "the store is away: it is brought in as soon as it is back",
    "FAILED": "a fault of the service, nothing was changed yet: its log says more",
}


def _look(settings: "Settings", chosen: "Sequence[AsteriskSettings]", as_json: bool) -> int:
    """The exit status."""
    from fastagi import drift
    from fastagi.store import Reading

    found: list[Drift] = []
    away = []
    names = [asterisk.name for asterisk in settings.asterisks]
    with _explained(), contextlib.closing(Reading(settings.database)) as views:
        for asterisk in chosen:
            try:
                found += _run(drift.look(views, asterisk, names))
            except drift.Away as error:
                away.append(str(error))
    if as_json:
        for one in found:
            _print_json(one.as_dict())
    elif found:
        _console().print(_drift_table(found, len(settings.asterisks) > 1))
    elif not away:
        typer.echo("nothing differs")
    for reason in away:
        _say(f"fastagi: {_printable(reason)}")
    return REFUSED if found or away else DONE


def _drift_table(found: "Sequence[Drift]", several: bool) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    place = ("on",) if several else ()
    for heading in (*place, "agent", "queue", "interface", "stored", "Asterisk", "would be"):
        table.add_column(heading, overflow="fold")
    for one in found:
        told = one.as_dict()
        names = (*(("asterisk",) if several else ()), "agent", "queue", "interface")
        cells = [told[name] for name in (*names, "stored", "reported", "repair")]
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    return table


# -- who is where, and what happened -------------------------------------------------------------


@app.command()
def agents(
    config: Config = None,
    as_json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep the table up to date, until Ctrl-C.")
    ] = False,
    every: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, max=86_400, help="How often, with --watch."),
    ] = 1.0,
) -> None:
    """Who is where: logged in, paused, in which queues.

    A queue in brackets is one of the agent's, and the agent is not in it now; \\[paused] behind a
    queue: the agent is paused in this queue only. Unknown: the agent's Asterisk, or the service,
    is away.
    """
    from fastagi.store import Reading

    settings = _load(config, agents=False)
    zone = settings.zone
    with (
        _explained(),
        _interruptible(),
        contextlib.closing(Reading(settings.database)) as views,
    ):
        links = Links(settings)
        if not watch:
            found = views.agents()
            links.look()
            if as_json:
                for agent in found:
                    _print_json(_agent_json(agent, links.knows(agent)))
            else:
                _console().print(_agents_table(found, zone, links.knows))
            links.complain()
            return
        if as_json:
            _watch_json(views, links, every)
        from rich.live import Live

        links.look()
        first = _agents_table(views.agents(), zone, links.knows)
        with Live(first, auto_refresh=False, screen=False) as live:
            while True:
                time.sleep(every)
                found = views.agents()
                links.look()
                live.update(_agents_table(found, zone, links.knows), refresh=True)


class Links:
    """What the store's word is worth: whether the service runs, and which Asterisks it is
    connected to. The store alone does not know that."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._connected: frozenset[str] = frozenset()
        self._why = ""
        self._said = ""

    def look(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        from fastagi import drift

        self._why = ""
        try:
            # In a thread: who calls this may be in a loop already.
            with ThreadPoolExecutor(1) as thread:
                asking = thread.submit(lambda: asyncio.run(drift.linked(self._settings)))
                self._connected = asking.result()
        except drift.Away as error:
            self._connected = frozenset()
            self._why = f"this is what was written last, and may not be so now: {error}"
            return
        away = [a.name for a in self._settings.asterisks if a.name not in self._connected]
        if away:
            names = " ".join(["Asterisk", *filter(None, away)])
            self._why = f"{names} is away: agents there are shown as they were last"

    def knows(self, agent: "AgentView") -> bool:
        """Whether it is known that the agent is so now."""
        return not agent.extension or agent.asterisk in self._connected

    def complain(self) -> None:
        """On stderr, when there is something else to say than last time."""
        if self._why and self._why != self._said:
            _say(f"fastagi: {_printable(self._why)}")
        self._said = self._why


def _watch_json(views: "Reading", links: Links, every: float) -> NoReturn:
    """A line for each agent at first, then one for each that has changed."""
    shown: dict[str, dict[str, Any]] = {}
    while True:
        found = views.agents()
        links.look()
        told = {agent.number: _agent_json(agent, links.knows(agent)) for agent in found}
        for number, agent in told.items():
            if shown.get(number) != agent:
                _print_json(agent)
        shown = told
        sys.stdout.flush()
        links.complain()
        time.sleep(every)


def _agent_json(agent: "AgentView", known: bool = True) -> dict[str, Any]:
    return {
        "number": agent.number,
        "name": agent.name,
        "status": agent.status.name.lower(),
        "extension": agent.extension,
        "interface": agent.interface,
        "since": _moment(agent.since),
        "queues": list(agent.queues),
        "joined": list(agent.joined),
        "pause_reason": agent.pause_reason,
        "paused_since": _moment(agent.paused_since),
        "paused_in": list(agent.paused_in),
        "logoff_planned": agent.planned == "log off",
        "planned": agent.planned,
        "asterisk": agent.asterisk,
        "known": known,
    }


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")


def _when(at: datetime, zone: tzinfo) -> str:
    """``2026-11-22 18:28:52+01:00``"""
    return at.astimezone(zone).isoformat(sep=" ", timespec="seconds")


_COLOURS = {"LOGGED_OFF": "dim", "AVAILABLE": "green", "PAUSED": "yellow"}


def _agents_table(
    found: "Sequence[AgentView]",
    zone: tzinfo,
    knows: "Callable[[AgentView], bool]" = lambda agent: True,
) -> "Table":
    from rich.table import Table
    from rich.text import Text

    several = any(agent.asterisk for agent in found)
    table = Table(box=None, pad_edge=False, header_style="bold")
    places = ("extension", "on") if several else ("extension",)
    for heading in ("agent", "name", "status", *places, "since", "queues"):
        table.add_column(heading, overflow="fold")
    now = datetime.now(UTC)
    for agent in found:
        status = agent.status.name.lower().replace("_", " ")
        if agent.paused_since is not None:
            status = f"paused {_lasted(now - agent.paused_since)}: {_printable(agent.pause_reason)}"
        known = knows(agent)
        if not known:
            status = f"unknown (was {status})"
        if agent.planned:
            status += f" ({_PLANS[agent.planned]} after this call)"
        place = [Text(_printable(agent.extension))]
        if several:
            place.append(Text(_printable(agent.asterisk)))
        table.add_row(
            agent.number,
            Text(_printable(agent.name)),
            Text(status, style=_COLOURS[agent.status.name] if known else "red"),
            *place,
            "" if agent.since is None else agent.since.astimezone(zone).strftime("%d %b %H:%M %Z"),
            Text(_printable(" ".join(_queue_shown(queue, agent) for queue in agent.queues))),
        )
    return table


_PLANS = {"log off": "logs off", "pause": "pauses"}


def _queue_shown(queue: str, agent: "AgentView") -> str:
    """In brackets: one of the agent's where the agent is not; ``[paused]``: paused there only."""
    if agent.extension and queue not in agent.joined:
        return f"({queue})"
    return f"{queue}[paused]" if queue in agent.paused_in else queue


def _lasted(length: timedelta) -> str:
    minutes = max(0, int(length.total_seconds())) // 60
    return f"{minutes // 60}:{minutes % 60:02}" if minutes >= 60 else f"{minutes} min"


@app.command()
def events(
    config: Config = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens now, until Ctrl-C.")
    ] = False,
    agent: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Of this agent only.", show_default=False),
    ] = None,
    last: Annotated[
        int,
        typer.Option(
            "--last", "-n", metavar="N", min=0, max=2**31 - 1, help="How many to begin with."
        ),
    ] = 20,
    parked: Annotated[
        bool,
        typer.Option("--parked", help="The deliveries that were given up, and why, instead."),
    ] = False,
    retry: Annotated[
        str | None,
        typer.Option(
            metavar="EVENT|all",
            help="Deliver once more what was given up: of one event, or all. Exit status 1 when "
            "there was none such.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What happened: who did what, where, when, and through which door."""
    if parked + follow + (retry is not None) > 1:
        _fail("--parked, --follow and --retry do not go together", USAGE)
    if retry is not None:
        _retry(config, retry, as_json)
        return
    with _explained(), _interruptible(), _views(config) as (views, zone):
        if parked:
            _tell_parked(views, zone, as_json)
            return
        tell = _tell_event_json if as_json else partial(_tell_event, zone)
        if not follow:
            for stored in views.latest_events(last, agent=agent) if last else ():
                tell(stored.event)
            return
        after = views.last_seq()
        for stored in views.latest_events(last, agent=agent) if last else ():
            if stored.seq <= after:  # else it is new, and comes below
                tell(stored.event)
        while True:
            while page := views.settled_events(after, PAGE):
                after = page[-1].seq
                for stored in page:
                    if agent is None or stored.event.agent == agent:
                        tell(stored.event)
            sys.stdout.flush()
            time.sleep(POLL_SECONDS)


POLL_SECONDS = 0.3
PAGE = 500


def _tell_event(zone: tzinfo, event: "Event") -> None:
    actor = event.actor
    by = actor.name or actor.channel
    if actor.hung_up:
        by += " (had hung up)"
    place = f"at {event.extension}" if event.extension else ""
    if event.asterisk:
        place = f"{place} on {event.asterisk}".lstrip()
    reason = _REASONS.get(event.type.value, "{}").format(event.reason) if event.reason else ""
    words = (place, reason, " ".join(event.queues), f"by {event.source} {by}".rstrip())
    when = _when(event.occurred_at, zone)
    line = f"{when}  {event.type.value:14} {event.agent or '-':>6}  "
    typer.echo(_printable(line + "  ".join(w for w in words if w)))


# What an event's reason is, where it does not tell by itself.
_REASONS = {
    "queue-penalty": "penalty {}",
    "pause-exceeded": "longer than {} may last",
}


def _tell_event_json(event: "Event") -> None:
    _print_json(event.as_dict())


def _tell_parked(views: "Reading", zone: tzinfo, as_json: bool) -> None:
    for delivery in views.parked():
        at = delivery.parked_at
        if as_json:
            _print_json(
                {
                    "sink": delivery.sink,
                    "event": delivery.event_id,
                    "agent": delivery.agent,
                    "attempts": delivery.attempts,
                    "error": delivery.error,
                    "parked_at": _moment(at),
                }
            )
        else:
            typer.echo(
                _printable(
                    f"{_when(at, zone)}  {delivery.sink}  agent {delivery.agent or '-'}  "
                    f"event {delivery.event_id}  {delivery.attempts} attempts: {delivery.error}"
                )
            )


def _retry(config: Path | None, event: str, as_json: bool) -> None:
    from fastagi.store import retry_parked

    with _explained():
        count = retry_parked(
            _load(config, agents=False).database, None if event == "all" else event
        )
    if as_json:
        _print_json({"retried": count})
    elif count:
        typer.echo(f"{count} {'delivery is' if count == 1 else 'deliveries are'} due again")
    else:
        what = "" if event == "all" else f" of the event {_printable(event)}"
        _say(f"no delivery{what} was given up")
    if not count:
        raise typer.Exit(REFUSED)


@contextlib.contextmanager
def _views(config: Path | None) -> "Iterator[tuple[Reading, tzinfo]]":
    """The store to read, and the time zone in which times are shown: that of the configuration."""
    from fastagi.store import Reading

    settings = _load(config, agents=False)
    views = Reading(settings.database)
    try:
        yield views, settings.zone
    finally:
        views.close()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


# -- hooks ----------------------------------------------------------------------------------------

hooks = typer.Typer(
    help="Hooks: what an integrator needs to know.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(hooks, name="hooks")


@hooks.command()
def secret(
    client: Annotated[
        str,
        typer.Argument(
            metavar="CLIENT", help="The name in the path of the hooks: /client/CLIENT/agent/…"
        ),
    ],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Print the secret with which the deliveries to one client are signed.

    Give it to whoever receives them, and no other client's: with it a receiver knows what the
    service has sent (Standard Webhooks). It is made of webhooks.secret, and changes with it. Exit
    status 1 when nothing is signed, as there is none.
    """
    from fastagi.agents.hooks import CLIENT, client_secret

    if not CLIENT.fullmatch(client):
        _fail(f"{_printable(client)!r} is no client: 1 to 64 letters, digits and . _ @ -", USAGE)
    base = _load(config, agents=False).webhooks.secret
    if base is None:
        _fail("fastagi: nothing is signed: set webhooks.secret", REFUSED)
    made = client_secret(base.get_secret_value(), client)
    if as_json:
        _print_json({"client": client, "secret": made})
    else:
        typer.echo(made)


# -- the demonstration ---------------------------------------------------------------------------


@app.command()
def demo(
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where a downloaded Asterisk is kept; else the user's cache folder.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Stay, with a live table of agents, until Ctrl-C."),
    ] = True,
    config: Config = None,
) -> None:
    """Show it all on this machine: a real Asterisk, a SIP phone, the service, one login."""
    from fastagi.demo import show

    with _explained(), _interruptible():
        raise typer.Exit(show.main(cache=cache, wait=wait, config=config))


# -- the log -------------------------------------------------------------------------------------


def set_up_log(form: LogFormat, level: LogLevel) -> None:
    """Lines on stderr. Values are escaped, so that no caller's name writes a line of its own."""
    import logging

    import structlog

    least = logging.getLevelNamesMapping()[level.upper()]
    as_json = form is LogFormat.JSON
    stamp: Any = structlog.processors.TimeStamper(fmt="iso") if as_json else LocalStamp()
    render: Any = structlog.processors.JSONRenderer(json_line)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            stamp,
            structlog.processors.format_exc_info,
            render if as_json else console_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(file=Lines(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    # Libraries speak through logging: only their warnings, in a line like ours.
    logging.basicConfig(
        level=max(least, logging.WARNING),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )


class LocalStamp:
    """The machine's time and its distance from UTC: ``2026-11-22T18:28:52.123456+01:00``.

    The distance is looked up once a minute: every call writes a line."""

    def __init__(self) -> None:
        self._minute = 0
        self._distance = ""

    def __call__(self, _: object, __: str, event: Any) -> Any:
        now = time.time()
        if (minute := int(now // 60)) != self._minute:
            self._minute = minute
            self._distance = datetime.fromtimestamp(now).astimezone().isoformat()[-6:]
        stamp = datetime.fromtimestamp(now).isoformat(timespec="microseconds")
        event["timestamp"] = stamp + self._distance
        return event


class Lines:
    """A stream that a running loop flushes a few times a second at most, not at each line: under
    load that is a tenth of the processor's time. Elsewhere, and at exit, it is flushed at once.

    Whoever reads the log may stand still, as a pager does, or a journal whose disk is full: calls
    do not wait for it. What it does not take is kept, up to a limit, and then lost and counted."""

    WAIT = 0.05  # seconds
    PIECE = 1000  # characters, at most 4,000 bytes: a pipe that can be written takes so many
    MOST = 20_000  # lines that wait
    PATIENCE = 5.0  # seconds, where no loop runs

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: deque[str] = deque()
        self._rest = ""  # of the line that is being written
        self._lost = 0
        self._awaited = False
        self._loop: asyncio.AbstractEventLoop | None = None
        atexit.register(self._finish)

    def write(self, text: str) -> None:
        if len(self._lines) < self.MOST:
            self._lines.append(text)
        else:
            self._lost += 1

    def flush(self) -> None:
        if self._awaited and self._loop is not None and self._loop.is_running():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            other = self._loop
            if other is None or not other.is_running():
                self._finish()
                return
            # Another thread than the loop's: it has no time to wait either.
            with contextlib.suppress(RuntimeError):
                other.call_soon_threadsafe(self.flush)
            return
        self._loop = loop
        self._awaited = True
        loop.call_later(self.WAIT, self._write, loop)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        self._awaited = False
        while self._waits and self._takes(0.0):
            self._write_piece()
        if self._waits:
            self._awaited = True
            loop.call_later(self.WAIT, self._write, loop)

    def _finish(self) -> None:
        until = time.monotonic() + self.PATIENCE
        while self._waits and self._takes(until - time.monotonic()):
            self._write_piece()

    @property
    def _waits(self) -> bool:
        return bool(self._rest or self._lines or self._lost)

    def _takes(self, patience: float) -> bool:
        """Whether a piece can be written now, or within so many seconds."""
        try:
            poll = select.poll()
            poll.register(self._stream.fileno(), select.POLLOUT)
            return bool(poll.poll(max(patience, 0.0) * 1000))
        except (AttributeError, OSError, ValueError):  # no file: nobody stands still there
            return True

    def _write_piece(self) -> None:
        parts, size = [self._rest], len(self._rest)
        while self._lines and size < self.PIECE:
            parts.append(self._lines.popleft())
            size += len(parts[-1])
        if self._lost and not self._lines and size < self.PIECE:
            lost, self._lost = self._lost, 0
            parts.append(f"... {lost} lines of the log were lost: nobody took them\n")
        text = "".join(parts)
        self._rest = text[self.PIECE :]
        with contextlib.suppress(OSError, ValueError):  # whoever read the log is gone
            self._stream.write(text[: self.PIECE])
            self._stream.flush()


def json_line(event: Any, **_: object) -> str:
    import orjson

    try:
        return orjson.dumps(event, default=str).decode()
    except TypeError:  # half a character, a number beyond 64 bits: the line is written all the same
        return json.dumps(event, default=str, skipkeys=True)


def console_line(_: object, __: str, event: Any) -> str:
    """``2026-11-22T18:28:52.123456+01:00 info    call  script=agent/login outcome=LOGGED_IN``"""
    what = _printable(str(event.pop("event", "")))
    head = f"{event.pop('timestamp', '')} {event.pop('level', ''):7} {what}"
    trace = event.pop("exception", "")
    rest = " ".join([f"{key}={_value(value)}" for key, value in event.items()])
    lines = "".join(f"\n    {_printable(line)}" for line in trace.splitlines())
    return f"{head}  {rest}{lines}" if rest else head + lines


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@+*#,()[]-")


def _value(value: object) -> str:
    text = str(value)
    if text and _PLAIN.issuperset(text):
        return text
    return _printable(json.dumps(text, ensure_ascii=False) if isinstance(value, str) else text)


def _printable(text: str) -> str:
    from fastagi.agents.text import printable

    return printable(text)


# -- what the commands share ---------------------------------------------------------------------


def _find(config: Path | None) -> Path:
    from fastagi.config import ConfigError, find

    try:
        return find(config)
    except ConfigError as error:
        _fail(str(error), USAGE)


def _load(config: Path | None, *, agents: bool = True) -> "Settings":
    from fastagi.config import ConfigError, load

    try:
        return load(_find(config), agents=agents)
    except ConfigError as error:
        _fail(str(error), USAGE)


def _one_asterisk(settings: "Settings", name: str) -> "AsteriskSettings":
    """The one that is meant; it need not be named where it is the only one."""
    names = [asterisk.name for asterisk in settings.asterisks]
    if not name and len(names) == 1:
        return settings.asterisk
    if names == [""]:
        _fail(f"there is only one Asterisk, and it has no name: not {name!r}", USAGE)
    if name not in names:
        what = f"no Asterisk is called {name!r}" if name else "there are several Asterisks"
        _fail(f"{what}: name one of {', '.join(names)} with --asterisk", USAGE)
    return settings.asterisk_named(name)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What an admin can mend is said in a line, and without a traceback."""
    from fastagi.agents.service import StoreUnavailable
    from fastagi.config import ConfigError
    from fastagi.store import BadDatabaseUrl, DirectoryConflict, SchemaTooNew

    try:
        yield
    except Exception as error:
        cause = error
        while isinstance(cause, ExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        if isinstance(cause, ConfigError):
            _fail(str(cause), USAGE)
        if isinstance(cause, BadDatabaseUrl | DirectoryConflict):
            _fail(f"fastagi: {cause}", USAGE)
        if isinstance(cause, StoreUnavailable | SchemaTooNew):
            _fail(f"fastagi: the store: {cause}", REFUSED)
        if isinstance(cause, OSError) and not isinstance(cause, BrokenPipeError):
            if _of_output(cause):
                raise  # main says so
            where = f"{cause.filename}: " if cause.filename is not None else ""
            _fail(f"fastagi: {_printable(f'{where}{cause.strerror or cause}')}", REFUSED)
        raise


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _fail(text: str, status: int) -> NoReturn:
    _say(text)
    raise typer.Exit(status)


def _say(text: str) -> None:
    """On stderr. The exit status tells the same: it does not depend on who can read this."""
    with contextlib.suppress(OSError):
        typer.echo(text, err=True)


def _console() -> "Console":
    """For tables. In a pipe a row is never wrapped, so that ``grep`` finds the whole of it."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=100_000)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def _dim(text: str) -> str:
    return typer.style(text, dim=True)
