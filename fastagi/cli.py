"""The command line. No rules of its own: each command calls the room that knows.

Exit status: 0 done, 1 refused or not possible now, 2 bad usage or configuration. What a command
needs is imported inside it, so that none waits for what it does not use.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from fastagi.config import Settings
    from fastagi.dial import Channel, Step

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
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing may be flushed into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fastagi-agentd {version('fastagi-agentd')}")
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
) -> None:
    """Answer the feature codes, until SIGTERM or Ctrl-C."""
    from fastagi.app import serve as run

    path = _find(config)
    set_up_log(log_format, log_level)
    with _explained():
        _run(run(path), fast=True)


@app.command()
def dialplan(
    config: Config = None,
    manager: Annotated[
        bool, typer.Option("--manager", help="The user for manager.conf instead.")
    ] = False,
    queues: Annotated[
        bool, typer.Option("--queues", help="A sample for queues.conf instead.")
    ] = False,
) -> None:
    """Print the file to #include in extensions.conf."""
    from fastagi import dialplan as room

    if manager and queues:
        _fail("--manager and --queues are two files: ask for one at a time", USAGE)
    settings = _load(config)
    render = (
        room.render_manager if manager else room.render_queues if queues else (room.render_dialplan)
    )
    typer.echo(render(settings), nl=False)


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
    channel = room.Channel(spoken, hang_up_at)
    try:
        call = room.dialled(number, settings.feature_codes.by_script())
        opening = room.headers(call, phone, settings.device_rules(), host=host, language=spoken)
        fingers: room.Keys = (
            room.Terminal()
            if keys is None and sys.stdin.isatty() and not as_json
            else room.Prepared(keys or "")
        )
    except ValueError as error:
        _fail(str(error), USAGE)
    heard = _heard_json if as_json else _heard
    if not as_json:
        typer.echo(f"{number} from {phone}: {call.script}")
    try:
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
        _print_json({"step": "result", "done": channel.done, "variables": channel.variables})
        return
    if not channel.outcome:
        typer.echo("no AGENT_STATUS was set: the dialplan plays its own 'try again'")
    for name, value in channel.variables.items():
        typer.echo(f"{printable(name)}={printable(value)}")


# -- the log -------------------------------------------------------------------------------------


def set_up_log(form: LogFormat, level: LogLevel) -> None:
    """Lines on stderr. Values are escaped, so that no caller's name writes a line of its own."""
    import logging

    import structlog

    least = logging.getLevelNamesMapping()[level.upper()]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=form is LogFormat.JSON)
    render: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            stamp,
            structlog.processors.format_exc_info,
            render if form is LogFormat.JSON else console_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries speak through logging: only their warnings, in a line like ours.
    logging.basicConfig(
        level=max(least, logging.WARNING),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )


def console_line(_: object, __: str, event: Any) -> str:
    """``2026-11-22T18:28:52.123456 info    call  script=agent/login outcome=LOGGED_IN``"""
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
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


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


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What an admin can mend is said in one line, and without a traceback."""
    from fastagi.config import ConfigError

    try:
        yield
    except ConfigError as error:
        _fail(str(error), USAGE)
    except OSError as error:
        _fail(f"fastagi: {error.strerror or error}", REFUSED)


def _run(work: Coroutine[Any, Any, T], *, fast: bool = False) -> T:
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if fast:
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _fail(text: str, status: int) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(status)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def _dim(text: str) -> str:
    return typer.style(text, dim=True)
