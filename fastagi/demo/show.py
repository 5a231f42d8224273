"""``fastagi demo``: everything on one machine, and one login from a real SIP phone.

The service is a process of its own, spoken to as an admin would: through its configuration and
its commands. All that is written lies in one temporary folder, which goes away at the end.
"""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from fastagi import config as configuration
from fastagi.config.settings import AgentSettings, Settings
from fastagi.demo import fallback
from fastagi.demo.asterisk import Asterisk, AsteriskError, Extension, dies_with_us, free_port
from fastagi.demo.debian import DebianError, cache_folder
from fastagi.demo.equipment import Equipment, prepare
from fastagi.demo.phone import Phone, PhoneError
from fastagi.dial import transcript
from fastagi.dialplan import (
    render_dialplan,
    render_fallback_facts,
    render_manager,
    render_queues,
)

DONE, FAILED, INTERRUPTED = 0, 1, 130

T = TypeVar("T")

# -P: modules are not looked for in the folder one happens to stand in, where a yaml.py may lie;
# -B: nothing is left beside the sources.
PROGRAM = (sys.executable, "-P", "-B", "-m", "fastagi")

# What Asterisk has sounds for, as Debian packages.
_PACKAGED = ("en", "es", "fr", "it", "ru")


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


def main(*, cache: Path | None = None, wait: bool = True, config: Path | None = None) -> int:
    """Show it all; returns the exit status. Ends with Ctrl-C, or after the call without ``wait``.

    ``config``: one's own configuration instead of the sample; it is copied, and the ports, the
    manager's secret and the database are the demonstration's.
    """
    console = Console(highlight=False)
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    alive = _claim(folder)
    with Interruption() as interruption:
        try:
            settings = _configure(config or sample(), folder / "config")
            equipment = _prepare(settings, cache, console)
            interruption.hold()
            demo = Demo(
                settings, equipment, _asterisk(settings, equipment, folder), folder, console
            )
            return asyncio.run(interruption.cancels(demo.show(wait)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return DONE if wait else INTERRUPTED
        except (DemoError, DebianError, AsteriskError, PhoneError) as error:
            console.print(f"[red]{escape(str(error))}[/]")
            return FAILED
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            console.print(f"[red]{escape(f'{place}{error.strerror or error}')}[/]")
            return FAILED
        finally:
            interruption.hold()
            shutil.rmtree(folder, ignore_errors=True)
            os.close(alive)
            kept = cache or cache_folder()
            downloads = f"; {kept} is kept for next time" if kept.is_dir() else ""
            console.print(f"All is stopped and removed{downloads}.", soft_wrap=True)


PREFIX = "fastagi-demo-"
_ALIVE = "alive"  # locked as long as the demonstration runs, however it ends


def _claim(folder: Path) -> int:
    """A descriptor that holds the folder's lock until it is closed, or the process ends."""
    number = os.open(folder / _ALIVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(number, fcntl.LOCK_EX)
    return number


def sweep(within: Path | None = None) -> list[Path]:
    """Remove what demonstrations that were killed have left; returns the folders.

    A folder is removed when its lock is free: whoever made it is gone, and with it, as the kernel
    ends them, its Asterisk, its phones and its service.
    """
    swept = []
    for folder in (within or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
        try:
            # Others can put links into the same folder: nothing is followed.
            number = os.open(folder / _ALIVE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # of another user, or just being made
            continue
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
        except OSError:  # in use
            continue
        finally:
            os.close(number)
    return swept


class Interruption:
    """Ctrl-C, SIGTERM and SIGHUP while all this runs.

    At first they raise KeyboardInterrupt where the program stands. Inside an event loop that would
    tear it apart, so there they cancel the task; and while things are put away they are kept
    waiting, so that an impatient second Ctrl-C leaves nothing half removed.
    """

    def __init__(self) -> None:
        self._cancel: Callable[[], object] | None = None
        self._held = self._came = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[each] = signal.signal(each, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def hold(self) -> None:
        """From here on an interruption waits for ``cancels``."""
        self._held = True

    async def cancels(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the work; an interruption cancels it, one that came already at once."""
        loop, task = asyncio.get_running_loop(), asyncio.create_task(work)
        # A signal does not wake the loop; this does.
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self._came:
            task.cancel()
        try:
            return await task
        finally:
            self._cancel = None

    def _signalled(self, *_: object) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        elif self._held:
            self._came = True
        else:
            raise KeyboardInterrupt


# -- configuration ------------------------------------------------------------------------


def sample() -> Path:
    """The sample configuration: beside the package in a checkout, inside it once installed."""
    package = Path(configuration.__file__).parents[1]
    for folder in (package / "sample", package.parent / "config"):
        if (folder / "fastagi.yml").is_file():
            return folder
    raise DemoError(f"the sample configuration is missing from {package}")


def _configure(source: Path, folder: Path) -> Settings:
    """A copy of the configuration whose ports are free, and whose files are the demonstration's.

    Raises ConfigError for a configuration with mistakes.
    """
    given = configuration.load(source)
    parts = folder.parent
    ours: dict[str, Any] = {
        "fastagi": {
            "listen": f"127.0.0.1:{_port(given.fastagi.listen.port)}",
            "fallback": fallback.settings(parts),
        },
        "asterisk": {
            "host": "127.0.0.1",
            "port": _port(given.asterisk.port),
            "username": given.asterisk.username,
            "secret": secrets.token_hex(16),
        },
        "database": f"sqlite:///{parts / 'fastagi.db'}",
    }
    if given.http is not None:
        ours["http"] = {"listen": f"127.0.0.1:{_port(given.http.listen.port)}"}
    if given.metrics.listen is not None:
        ours["metrics"] = {"listen": f"127.0.0.1:{_port(given.metrics.listen.port)}"}
    folder.mkdir()
    for path in sorted(source.glob("*.yml")) if source.is_dir() else [source]:
        text = _without(path.read_text(encoding="utf-8"), [*ours, "asterisks"])
        (folder / path.name).write_text(text, encoding="utf-8")
    # JSON is YAML: nothing here needs another way of quoting.
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in ours.items()]
    (folder / "demo.yml").write_text("".join(lines), encoding="utf-8")
    settings = configuration.load(folder)
    fallback.install(parts, render_fallback_facts(settings))
    return settings


def _without(text: str, keys: Sequence[str]) -> str:
    """YAML without some of its top-level keys; each ends where the next line is not indented."""
    kept: list[str] = []
    dropping = False
    for line in text.splitlines(keepends=True):
        top = re.match(r"(?P<key>[A-Za-z_]+)\s*:", line)
        if top or not re.match(r"[\s#\]})-]", line):
            dropping = top is not None and top["key"] in keys
        if not dropping:
            kept.append(line)
    return "".join(kept)


def _port(wanted: int) -> int:
    """The configured port where it is free, else another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return free_port()
    return wanted


def _numbers(settings: Settings, most: int = 6) -> list[str]:
    """Extensions that the device rules take for SIP phones: 1001 to 1006 for ``10XX``."""
    digits = {"X": "0123456789", "Z": "123456789", "N": "23456789"}
    for rule in settings.devices:
        if rule.interface == "PJSIP/{extension}" and re.fullmatch(r"_?[0-9XZN]+", rule.match):
            choices = [digits.get(letter, letter) for letter in rule.match.lstrip("_")]
            found = ("".join(chosen) for chosen in itertools.product(*choices))
            return list(itertools.islice((n for n in found if not n.endswith("0")), most))
    raise DemoError(
        "no device rule makes a SIP phone of a number: one like "
        '{match: "10XX", interface: PJSIP/{extension}} is needed'
    )


# -- its parts ----------------------------------------------------------------------------


def _prepare(settings: Settings, cache: Path | None, console: Console) -> Equipment:
    languages = {settings.language, "en", *(agent.language for agent in settings.agents or ())}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("looking for an Asterisk and a SIP phone", total=None)

        def tell(done: int, total: int, text: str) -> None:
            progress.update(task, completed=done, total=total, description=text)

        known = sorted(language for language in languages if language in _PACKAGED)
        return prepare(known, cache=cache, on_progress=tell)


def _asterisk(settings: Settings, equipment: Equipment, folder: Path) -> Asterisk:
    secret = settings.asterisk.secret.get_secret_value()
    return Asterisk(
        folder / "asterisk",
        equipment.asterisk,
        extensions=[
            Extension(number, secrets.token_urlsafe(12), settings.language)
            for number in _numbers(settings)
        ],
        queues={queue.number: queue.name for queue in settings.queues},
        features=render_dialplan(settings),
        qualify=2,  # an unplugged phone is noticed
        queue_sections=render_queues(settings),
        manager_sections=re.sub(
            r"^secret = .*$", f"secret = {secret}", render_manager(settings), flags=re.MULTILINE
        ),
        language=settings.language,
        sip_port=_sip_port(),
        ami_port=settings.asterisk.port,
        ami_username=settings.asterisk.username,
        ami_secret=secret,
    )


def _sip_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", 5060))
        except OSError:
            return free_port()
    return 5060


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        process.kill()
        await process.wait()


@dataclass(slots=True)
class Demo:
    """The running demonstration."""

    settings: Settings
    equipment: Equipment
    asterisk: Asterisk
    folder: Path
    console: Console
    _service: asyncio.subprocess.Process | None = field(default=None, init=False)

    @property
    def config(self) -> Path:
        return self.folder / "config"

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Asterisk and the service. Nothing is awaited between a start and its promised end."""
        asterisk = self.asterisk
        asterisk.spawn()
        stack.callback(asterisk.stop)
        await asyncio.to_thread(asterisk.wait_booted)
        said = await asterisk.ask("core show version")
        # Warnings may come first, as where there is no network interface.
        version = next((line for line in said.splitlines() if line.startswith("Asterisk ")), said)
        self.console.print(f"[bold]Asterisk[/]  {version.split(' built')[0]}")
        with (self.folder / "service.log").open("ab") as log:
            self._service = await asyncio.create_subprocess_exec(
                *self._fastagi("serve"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; it gets SIGTERM when its turn comes
                preexec_fn=dies_with_us(signal.SIGTERM),
            )
        stack.push_async_callback(_stop, self._service)
        await self._wait_connected()
        self.console.print(
            f"[bold]service[/]   fastagi serve --config {self.config}", soft_wrap=True
        )

    async def _wait_connected(self, within: float = 30) -> None:
        """Until calls are answered and Asterisk has seen the service log in."""
        deadline = time.monotonic() + within
        user = re.escape(self.settings.asterisk.username)
        listen = self.settings.fastagi.listen
        while time.monotonic() < deadline:
            if self._service is None or self._service.returncode is not None:
                break
            connected = await self.asterisk.ask("manager show connected")
            if re.search(rf"^\s*{user}\s", connected, re.MULTILINE):
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(*listen)
                    writer.close()
                    return
            await asyncio.sleep(0.05)
        words = (self.folder / "service.log").read_text(errors="replace").splitlines()[-15:]
        raise DemoError("the service did not start\n" + "\n".join(words))

    def _fastagi(self, *words: str) -> list[str]:
        return [*PROGRAM, *words, "--config", str(self.config)]

    async def show(self, wait: bool) -> int:
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            phones = [
                await stack.enter_async_context(
                    Phone(
                        self.folder / f"phone-{extension.number}",
                        self.equipment.phone,
                        extension.number,
                        extension.password,
                        self.asterisk.sip_port,
                    )
                )
                for extension in self.asterisk.extensions[:3]
            ]
            names = ", ".join(phone.extension for phone in phones)
            self.console.print(f"[bold]phones[/]    {names} are registered\n")
            passed = await self._calls(*phones)
            if wait:
                self._tell_codes(*(phone.extension for phone in (phones[0], phones[2])))
                await self._watch()
            return DONE if passed else FAILED

    # -- the calls ------------------------------------------------------------------------

    async def _calls(self, first: Phone, second: Phone, caller: Phone) -> bool:
        """A login without a PIN, one with a PIN and spoken questions, and a call to the queue."""
        login = self.settings.feature_codes.login
        plain, with_pin = first_agents(self.settings)
        if login is None or plain is None or not plain.queues:
            self.console.print("no agent here can log in by a code without a PIN: no call is shown")
            return True
        passed = await self._login(first, f"{login}{plain.number}", plain, [])
        if with_pin is not None and with_pin.pin is not None:
            pin = with_pin.pin.get_secret_value()
            keys = [
                (f"{with_pin.number}#", f"{with_pin.number}#"),
                (f"{pin}#", "•" * len(pin) + "#"),
            ]
            passed &= await self._login(second, login, with_pin, keys)
        await self._call_queue(caller, plain.queues[0].name, [first, second])
        return passed

    async def _login(
        self, phone: Phone, number: str, agent: AgentSettings, keys: Sequence[tuple[str, str]]
    ) -> bool:
        """``keys``: what is pressed at each question, and how that is shown."""
        self.console.print(
            f"[bold cyan]{phone.extension} dials {number}[/]  ({escape(agent.name)})"
        )
        mark = self.asterisk.mark()
        prefix = f"PJSIP/{phone.extension}-"
        call = await phone.dial(number)
        heard, pending = 0, list(keys)
        deadline = time.monotonic() + 60
        while not call.closed.is_set() and time.monotonic() < deadline:
            heard = self._tell_heard(prefix, mark, heard)
            if pending and heard > len(keys) - len(pending):
                await asyncio.sleep(0.5)
                pressed, shown = pending.pop(0)
                self.console.print(f"    ⌨ {shown}")
                await phone.press(pressed)
            await asyncio.sleep(0.05)
        self._tell_heard(prefix, mark, heard)
        members = await self.asterisk.ask("queue show")
        member = f"Agent/{agent.number} (PJSIP/{phone.extension})"
        inside = [q.name for q in agent.queues if member in _section(members, q.name)]
        for name in inside:
            self.console.print(f"    [green]✓[/] Asterisk's queue {escape(name)} has {member}")
        missing = [q.name for q in agent.queues if q.name not in inside]
        if missing:
            self.console.print(f"    [red]✗[/] {member} is not in {', '.join(missing)}")
        self.console.print()
        return not missing

    def _tell_heard(self, prefix: str, mark: int, told: int) -> int:
        """Print what was played since the last time; returns how many sounds that makes."""
        played = self.asterisk.prompts(prefix, since=mark)
        for sound in played[told:]:
            self.console.print(
                f"    ♪ {escape(transcript(sound.sound))}  [dim]{sound.language}/{sound.sound}[/]",
                soft_wrap=True,
            )
        return len(played)

    async def _call_queue(self, caller: Phone, queue: str, members: Sequence[Phone]) -> None:
        number = next(n for n, name in self.asterisk.queues.items() if name == queue)
        self.console.print(f"[bold cyan]{caller.extension} dials {number}[/]  (the queue {queue})")
        before = {phone.extension: len(phone.answered) for phone in members}
        await caller.start_call(number)
        deadline = time.monotonic() + 20
        answered: list[str] = []
        while not answered and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            answered = [p.extension for p in members if len(p.answered) > before[p.extension]]
        if answered:
            self.console.print(f"    [green]✓[/] {answered[0]} rings and answers\n")
            await asyncio.sleep(1)
        else:
            self.console.print("    [red]✗[/] nobody answered\n")
        await caller.hangup()

    # -- afterwards -----------------------------------------------------------------------

    def _tell_codes(self, phone: str, free_phone: str) -> None:
        """Lines to paste into another terminal, in any folder. Each does what is said of it, in
        this order: the first agent is logged in at ``phone``, nobody at ``free_phone``."""
        program = _program()
        self.console.print("[bold]Try it yourself[/]: paste these in another terminal.\n")
        self.console.print(
            f"  export FASTAGI_CONFIG={shlex.quote(str(self.config))}", soft_wrap=True
        )
        for words, what in tries(self.settings, phone, free_phone):
            line = f"  {program} {words}"
            self.console.print(f"{escape(line):<60} [dim]# {escape(what)}[/]", soft_wrap=True)
        if self.settings.http is not None:
            listen = self.settings.http.listen
            self.console.print(
                f"\n  http://{listen.host}:{listen.port}/ shows it live", soft_wrap=True
            )
        self.console.print(
            f"  {program} check --sounds {shlex.quote(f'{self.folder}/asterisk/data/sounds')}\n",
            soft_wrap=True,
        )

    async def _watch(self) -> None:
        """A live table of agents, and what happened last, until Ctrl-C."""
        agents: dict[str, dict[str, Any]] = {}
        happened: deque[str] = deque(maxlen=8)
        changed = asyncio.Event()

        async def follow_agents() -> None:
            async for line in self._lines("agents", "--json", "--watch", "--every", "0.5"):
                agents[line["number"]] = line
                changed.set()

        async def follow_events() -> None:
            async for line in self._lines("events", "--json", "--follow", "--last", "8"):
                happened.append(_event_line(line, self.settings.zone))
                changed.set()

        async def draw() -> None:
            with Live(console=self.console, auto_refresh=False) as live:
                while True:
                    await changed.wait()
                    changed.clear()
                    live.update(
                        Group(
                            _table(agents),
                            Text(),
                            *map(Text, happened),
                            Text("\nCtrl-C ends it all"),
                        ),
                        refresh=True,
                    )
                    await asyncio.sleep(0.1)

        async def watch_service() -> None:
            if self._service is not None:
                await self._service.wait()
            raise DemoError("the service ended")

        tasks = [
            asyncio.create_task(each())
            for each in (follow_agents, follow_events, draw, watch_service)
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _lines(self, *words: str) -> AsyncIterator[dict[str, Any]]:
        """The JSON lines a command prints, until it is no longer asked for."""
        process = await asyncio.create_subprocess_exec(
            *self._fastagi(*words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dies_with_us(),
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                yield json.loads(line)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def first_agents(settings: Settings) -> tuple[AgentSettings | None, AgentSettings | None]:
    """Whom the demonstration logs in: the first agent without a PIN, the first one with a PIN."""
    agents = settings.agents or ()
    plain = next((a for a in agents if a.pin is None and a.pin_hash is None), None)
    return plain, next((a for a in agents if a.pin is not None), None)


def tries(settings: Settings, phone: str, free_phone: str) -> Iterator[tuple[str, str]]:
    """The arguments of ``fastagi`` and what they do, for the lines to paste."""
    codes = settings.feature_codes

    def dial(code: str, at: str = phone, keys: str = "") -> str:
        pressed = f" --keys {shlex.quote(keys)}" if keys else ""
        return f"dial {shlex.quote(code)} --from {at}{pressed}"

    logged_in = first_agents(settings)
    if logged_in[0] is not None:
        if codes.status:
            yield dial(codes.status), "where am I, and since when"
        if codes.pause and settings.pause_reasons:
            reason = settings.pause_reasons[0]
            yield dial(f"{codes.pause}{reason.code}"), f"pause: {reason.name}"
        if codes.unpause:
            yield dial(codes.unpause), "back from the pause"
        if codes.queue and len(logged_in[0].queues) > 1:
            queue = next(q for q in settings.queues if q.name == logged_in[0].queues[-1].name)
            # Whoever is the last one in a queue is asked before leaving it: 1 is "yes".
            leave = dial(f"{codes.queue}{queue.number}", keys="1")
            yield leave, f"leave {queue.name}; once more: join it"
        if codes.logoff:
            yield dial(codes.logoff), "log off"
    others = [agent for agent in settings.agents or () if agent not in logged_in]
    if codes.login and others:
        agent = next((a for a in others if a.pin is not None), others[0])
        pin = ", then the PIN that stands in the configuration" if agent.pin is not None else ""
        yield dial(codes.login, free_phone), f"{agent.name} logs in: type {agent.number}#{pin}"
    yield "agents", "who is where"
    yield "events --follow", "what happens, until Ctrl-C"


def _section(shown: str, queue: str) -> str:
    """The part of ``queue show`` that is about one queue: it begins with ``sales has 0 calls``."""
    match = re.search(
        rf"^{re.escape(queue)} has .*?(?:\n\s*\n|\Z)", shown, re.MULTILINE | re.DOTALL
    )
    return match[0] if match else ""


def _program() -> str:
    """How the command is called from any folder, for the lines to paste."""
    called = Path(sys.argv[0])
    if called.name == "fastagi":
        found = shutil.which("fastagi")
        at = called.absolute()
        return "fastagi" if found and Path(found).samefile(at) else shlex.quote(str(at))
    return shlex.join(PROGRAM)


_COLOURS = {"available": "green", "paused": "yellow", "logged_off": "dim"}


def _table(agents: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("agent", "name", "status", "phone", "queues"):
        table.add_column(heading, overflow="fold")
    for number, agent in sorted(agents.items()):
        status = str(agent["status"])
        reason = f": {agent['pause_reason']}" if agent["pause_reason"] else ""
        table.add_row(
            number,
            Text(agent["name"]),
            Text(status.replace("_", " ") + reason, style=_COLOURS.get(status, "")),
            agent["extension"] or "",
            " ".join(agent["joined"]),
        )
    return table


def _event_line(event: dict[str, Any], zone: tzinfo) -> str:
    when = datetime.fromisoformat(event["occurred_at"]).astimezone(zone).strftime("%H:%M:%S %Z")
    place = f"at {event['extension']}" if event["extension"] else ""
    words = (place, event["reason"], " ".join(event["queues"] or ()), f"({event['source']})")
    return f"{when}  {event['type']:13} {event['agent']}  " + "  ".join(w for w in words if w)
