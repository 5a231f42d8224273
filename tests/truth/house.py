"""The house: a real Asterisk, the service as a process, the link between them, and all doors."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import resource
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fastagi import config
from fastagi.contract import NOTES_FAMILY, Variable
from fastagi.demo import fallback
from fastagi.demo.asterisk import Asterisk, free_port
from fastagi.dial import Channel, ServiceAway, dial, dialled, headers
from fastagi.dialplan import (
    AFTER_CONTEXT,
    render_dialplan,
    render_fallback_facts,
    render_manager,
)
from tests.forked import Forked
from tests.truth import door
from tests.truth.manager import Headers, Link, Manager, ManagerGone, Trap, first
from tests.truth.program import (
    AGENTS,
    QUEUES,
    WITH_PIN,
    Ask,
    Console,
    Deed,
    Dial,
    Fault,
    Program,
    Rest,
    home_of,
    queues_of,
)

NOTICE = "TruthHeard"

# The end of a code at a phone of the real dialplan, told to the test.
AFTER = f"""
[{AFTER_CONTEXT}]
exten => s,1,UserEvent({NOTICE},Outcome: ${{{Variable.STATUS.value}}})
 same => n,Return()
"""

SETTLED_WITHIN = 30.0  # seconds; only ends a run that has failed


def settings(port: int, ami_port: int, asterisk: Asterisk, database: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "fastagi": {"listen": f"127.0.0.1:{port}", "drain": "2s"},
        "asterisk": {"port": ami_port, "secret": asterisk.ami_secret, "timeout": "1s"},
        "database": database,
        "login": {
            # One phone is dialled by many here, and each call says who calls.
            "extension_from": "caller_id",
            "lockout": {"failures": 1000, "within": "1s", "for": "1s"},
        },
        "unplugged": None,  # nobody has plugged in a phone here
        "reconcile": {"every": "2s"},  # often, to come in between
        "devices": [{"match": "10XX", "context": "phones", "interface": "PJSIP/{extension}"}],
        "pause_reasons": [
            {"code": "1", "name": "lunch"},
            {"code": "2", "name": "break"},
            {"code": "3", "name": "meeting"},
        ],
        "queues": [{"number": number, "name": name} for number, name in QUEUES.items()],
        "agents": [
            {
                "number": number,
                "name": f"Agent {number}",
                "queues": [{"name": q, "penalty": p} for q, p in queues_of(number).items()],
            }
            | ({"pin": WITH_PIN[number]} if number in WITH_PIN else {})
            for number in AGENTS
        ],
    }
    return made


@dataclass(slots=True)
class Operation:
    """Something that was done, and what came of it. ``outcome`` is "" where nobody was told."""

    id: str
    do: Dial | Ask | Console
    began: float
    outcome: str = ""
    ended: float = 0.0
    interface: str = ""  # of a Console
    wrong: str = ""  # what was seen at once, where it was calm

    @property
    def source(self) -> str:
        return {Dial: "phone", Ask: "api", Console: "asterisk"}[type(self.do)]


@dataclass(slots=True)
class Happened:
    """What one run of a program did."""

    operations: list[Operation] = field(default_factory=list)
    faults: list[tuple[float, Fault]] = field(default_factory=list)  # those that came about
    first_event: int = 0  # events after this one are of this run
    told: list[dict[str, str]] = field(default_factory=list)  # UserEvents heard
    notes: list[str] = field(default_factory=list)  # in plain words, with the time


class Presses:
    """The keys of who has dialled: the PIN where it is asked for, 1 where a choice is."""

    def __init__(self, deed: Dial) -> None:
        self._deed = deed

    async def press(self, max_keys: int, secret: bool) -> str:
        if max_keys > 4:
            return next((pin + "#" for who, pin in WITH_PIN.items() if who in self._deed.code), "#")
        return "1" if self._deed.sure else ""


class Service:
    """The service as a process of its own: ``tests.truth.door``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yml"
        self.door = folder / "door"
        self.log: list[str] = []
        self._process: Forked | None = None
        self._pumps: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Until it listens."""
        mark = len(self.log)
        here, there = os.pipe()
        words = [str(self.config), str(self.door)]
        process = Forked(words, streams=(None, None, there), main=door.main)
        os.close(there)
        self._process = process
        pump = asyncio.create_task(self._pump(here))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        deadline = time.monotonic() + SETTLED_WITHIN
        while not any('"event":"listening"' in line for line in self.log[mark:]):
            if process.returncode is not None and pump.done():
                if process.returncode == -signal.SIGKILL:
                    return  # killed again while it started
                said = "\n".join(self.log[mark:])
                if "in _open" in said and "StoreUnavailable" in said:
                    # It does not start without a store; its supervisor starts it once more.
                    await self.start()
                    return
                raise AssertionError("the service ended:\n" + said)
            assert time.monotonic() < deadline, "the service does not start"
            await asyncio.sleep(0.01)

    async def _pump(self, end: int) -> None:
        # A pipe, not a file: a limit on the size of files is for the store alone.
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(end, "rb", 0)
        )
        async for line in reader:
            self.log.append(line.decode("utf-8", "replace").rstrip())
        transport.close()

    async def end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(how)
        deadline = time.monotonic() + 20
        while process.returncode is None and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if process.returncode is None:
            self.log.append(f"it did not end on {how.name}")
            process.kill()
            process.wait()
            raise AssertionError(f"the service did not end on {how.name}")

    def kill_at_once(self) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        await self.end(signal.SIGKILL)
        await asyncio.gather(*self._pumps, return_exceptions=True)


class House:
    """Everything, for any number of programs one after the other; it keeps its state."""

    def __init__(self, folder: Path, asterisk: Asterisk, *, changes: dict[str, Any]) -> None:
        self.folder = folder
        self.asterisk = asterisk
        self.changes = changes
        self.port = free_port()
        self.link = Link(asterisk.ami_port)
        self.service = Service(folder)
        self.database = folder / "store" / "fastagi.db"
        self.manager = Manager()
        self.now = Happened()
        self._began = time.monotonic()
        self._ids = itertools.count(1)
        self._outcomes: dict[str, asyncio.Future[str]] = {}
        # One life at a time: a fault on what is down already is none.
        self._service_turn = asyncio.Lock()
        self._asterisk_turn = asyncio.Lock()
        self._all_done = asyncio.Event()
        # Carries a command out when all is settled, and says what did not come of it as it should.
        self.calmly: Callable[[str], Awaitable[str]] = self.manager.console

    # -- building it up

    async def open(self) -> None:
        self.database.parent.mkdir(exist_ok=True)
        await self.link.open()
        self._configure()
        await self._connect()
        await self.service.start()
        await self._all_up()

    def _configure(self) -> None:
        made = settings(self.port, self.link.port, self.asterisk, f"sqlite:///{self.database}")
        made["fastagi"]["fallback"] = fallback.settings(self.folder)
        for key, value in self.changes.items():
            merge = isinstance(value, dict) and isinstance(made.get(key), dict)
            made[key] = {**made[key], **value} if merge else value
        self.service.config.write_text(yaml.safe_dump(made, sort_keys=False))
        self.settings = config.load(self.service.config)
        fallback.install(self.folder, render_fallback_facts(self.settings))
        self.asterisk.features = render_dialplan(self.settings) + AFTER
        self.asterisk.manager_sections = render_manager(self.settings).replace(
            "secret = ", f"secret = {self.asterisk.ami_secret} ;"
        )
        self.asterisk.reload("dialplan")
        self.asterisk.reload("manager")

    async def begin_anew(self) -> None:
        """After a run that has failed: an empty store, empty queues, all lamps off."""
        await self._all_up()
        await self.service.end(signal.SIGKILL)
        for file in self.database.parent.iterdir():
            file.unlink()
        for member in await self.members():
            await self.manager.console(
                f"queue remove member {member['Location']} from {member['Queue']}"
            )
        await self.manager.console(f"database deltree {NOTES_FAMILY}")
        for lamp in await self.lamps():
            await self.manager.console(f"devstate change {lamp} NOT_INUSE")
        await self._all_up()

    async def close(self) -> None:
        await self.service.close()
        await self.manager.close()
        await self.link.close()

    async def _connect(self) -> None:
        await self.manager.close()
        self.manager = Manager(self._hear)
        deadline = time.monotonic() + SETTLED_WITHIN
        while True:
            try:
                return await self.manager.connect(
                    self.asterisk.ami_port,
                    self.asterisk.admin_username,
                    self.asterisk.admin_secret,
                )
            except (OSError, ManagerGone, asyncio.IncompleteReadError):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)

    async def _all_up(self) -> None:
        """After every fault: all parts run and are connected."""
        async with self._service_turn, self._asterisk_turn:
            self.link.traps.clear()
            self.link.mend()
            if not self.asterisk.running:
                await self._start_asterisk()
            if not self.manager.connected:
                await self._connect()
            if self.service.running:
                self._limit(None)
                os.kill(self.service.pid, signal.SIGCONT)
            else:
                await self.service.start()

    async def _start_asterisk(self) -> None:
        self.asterisk.spawn()
        await asyncio.to_thread(self.asterisk.wait_booted)
        await self._connect()

    def _hear(self, event: Headers) -> None:
        kind = first(event, "Event")
        if kind == "UserEvent" and first(event, "UserEvent") == NOTICE:
            self._outcome(first(event, "Uniqueid"), first(event, "Outcome"))
        elif kind == "UserEvent" and first(event, "UserEvent") == "AgentFeature":
            self.now.told.append(dict(event))
        elif kind == "Hangup":
            self._outcome(first(event, "Uniqueid"), "")

    def _outcome(self, unique_id: str, outcome: str) -> None:
        waiting = self._outcomes.get(unique_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    def note(self, text: str) -> None:
        self.now.notes.append(f"{time.monotonic() - self._began:7.3f} {text}")

    # -- running a program

    async def run(self, program: Program) -> Happened:
        """Does everything, ends every fault, and returns when nothing is under way any more."""
        self.now = Happened(first_event=self.last_event())
        self._all_done = asyncio.Event()
        self._began = time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        lasting: set[asyncio.Task[None]] = set()
        try:
            for step in program:
                await asyncio.sleep(step.after / 1000)
                calm = isinstance(step.do, Console) and step.do.calm
                if isinstance(step.do, Rest) or calm:
                    await self._gathered(under_way)
                    self._all_done.set()
                    await self._gathered(lasting)
                    self._all_done.clear()
                if isinstance(step.do, Rest):
                    continue
                task = asyncio.create_task(self._do(step.do))
                (lasting if isinstance(step.do, Fault) else under_way).add(task)
                if calm:
                    await self._gathered(under_way)
            await self._gathered(under_way)
            self._all_done.set()
            await self._gathered(lasting)
        finally:
            for task in under_way | lasting:
                task.cancel()
            await asyncio.gather(*under_way, *lasting, return_exceptions=True)
            await self._all_up()
        return self.now

    async def _gathered(self, tasks: set[asyncio.Task[None]]) -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
        tasks.clear()

    async def _do(self, deed: Deed) -> None:
        if isinstance(deed, Fault):
            await self._fault(deed)
            return
        assert not isinstance(deed, Rest)
        operation = Operation(f"t{next(self._ids):06}", deed, time.time())
        self.now.operations.append(operation)
        self.note(f"{operation.id} begins: {deed}")
        if isinstance(deed, Dial):
            call = self._call_for_real if deed.real else self._call
            operation.outcome = await call(operation.id, deed)
        elif isinstance(deed, Ask):
            operation.outcome = await self.ask(operation.id, deed)
        else:
            operation.outcome = await self._console(operation, deed)
        operation.ended = time.time()
        self.note(f"{operation.id} ends: {operation.outcome or '-'}")

    # -- the doors

    async def _call(self, id: str, deed: Dial) -> str:
        """As Asterisk calls; the answer is what the dialplan is told."""
        call = dialled(deed.code, self.settings.feature_codes.by_script())
        opening = headers(call, deed.phone, self.settings.device_rules())
        opening = re.sub(rb"agi_uniqueid: [^\n]*", f"agi_uniqueid: {id}".encode(), opening)
        channel = Channel(hang_up_at=deed.hang_up_at)
        with contextlib.suppress(ServiceAway):
            await dial(
                "127.0.0.1", self.port, opening, channel, Presses(deed), lambda step, keys: None
            )
        return channel.variables.get(Variable.STATUS.value, "")

    async def _call_for_real(self, id: str, deed: Dial) -> str:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._outcomes[id] = ended
        manager = self.manager
        try:
            await manager.action(
                {
                    "Action": "Originate",
                    "Channel": f"Local/{deed.code}@phones/n",
                    "CallerID": deed.phone,
                    "Application": "Wait",
                    "Data": "20",
                    "Async": "true",
                    "ChannelId": f"of-{id}",
                    "OtherChannelId": id,
                }
            )
            deadline = time.monotonic() + 20
            while not ended.done() and manager.connected and time.monotonic() < deadline:
                await asyncio.wait([ended], timeout=0.1)
        except ManagerGone:
            pass
        finally:
            del self._outcomes[id]
        return ended.result() if ended.done() else ""

    async def ask(self, id: str, deed: Ask) -> str:
        asked: dict[str, Any] = {"id": id, "kind": deed.kind, "agent": deed.agent}
        match deed.kind:
            case "LogIn":
                asked |= {"extension": deed.at, "move": deed.sure}
                asked["take_over"] = deed.detail == "take over"
            case "Pause":
                asked["reason"] = deed.detail
            case "JoinQueue":
                asked["queue"] = deed.detail
            case "LeaveQueue":
                asked |= {"queue": deed.detail, "confirmed": deed.sure}
        try:
            reader, writer = await asyncio.open_unix_connection(self.service.door)
        except OSError:
            return ""
        try:
            writer.write(json.dumps(asked).encode() + b"\n")
            async with asyncio.timeout(40):
                line = await reader.readline()
        except OSError:
            return ""
        finally:
            writer.close()
        return str(json.loads(line)["outcome"]) if line else ""

    async def _console(self, operation: Operation, deed: Console) -> str:
        try:
            operation.interface = await self._interface(deed)
            if not operation.interface:
                return "nobody there"
            command = self._command(deed, operation.interface)
            if deed.calm:
                operation.wrong = await self.calmly(command)
            else:
                return (await self.manager.console(command)).strip()
        except ManagerGone:
            return ""
        return "done"

    async def _interface(self, deed: Console) -> str:
        if deed.at:
            return f"PJSIP/{deed.at}"
        for member in await self.members():
            if member["Name"] == f"Agent/{deed.agent}":
                return member["Location"]
        return f"PJSIP/{home_of(deed.agent)}" if deed.verb == "add" else ""

    @staticmethod
    def _command(deed: Console, interface: str) -> str:
        match deed.verb:
            case "add":
                penalty = f" penalty {deed.detail}" if deed.detail else " penalty 0"
                return (
                    f"queue add member {interface} to {deed.queue}{penalty}"
                    f" as Agent/{deed.agent} state_interface {interface}"
                )
            case "remove":
                return f"queue remove member {interface} from {deed.queue}"
            case "penalty":
                return f"queue set penalty {deed.detail} on {interface} in {deed.queue}"
            case _:
                queue = f" queue {deed.queue}" if deed.queue else ""
                reason = f" reason {deed.detail}" if deed.detail else ""
                return f"queue {deed.verb} member {interface}{queue}{reason}"

    # -- faults

    async def _fault(self, fault: Fault) -> None:
        if fault.at:
            sprung = asyncio.Event()

            def spring() -> None:
                # At once, before anybody else runs.
                if fault.kind == "kill service":
                    self.service.kill_at_once()
                elif fault.kind == "kill asterisk":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.asterisk.pid, signal.SIGKILL)
                sprung.set()

            trap = Trap(fault.at, fault.answered, fault.count, spring)
            self.link.traps.append(trap)
            ways = [asyncio.create_task(event.wait()) for event in (sprung, self._all_done)]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            if trap in self.link.traps:
                self.link.traps.remove(trap)  # nobody came: now, then
            else:
                async with asyncio.timeout(10):  # it has been met, and waits for the answer
                    await sprung.wait()
        await self._strike(fault)

    async def _strike(self, fault: Fault) -> None:
        self.note(f"begins: {fault}")
        self.now.faults.append((time.time(), fault))
        lasts = fault.lasts / 1000
        match fault.kind:
            case "kill service" | "stop service":
                async with self._service_turn:
                    how = signal.SIGKILL if fault.kind == "kill service" else signal.SIGTERM
                    if self.service.running:
                        os.kill(self.service.pid, signal.SIGCONT)
                    await self.service.end(how)
                    await asyncio.sleep(lasts)
                    await self.service.start()
            case "kill asterisk":
                async with self._asterisk_turn:
                    self.asterisk.kill()
                    await asyncio.sleep(lasts)
                    await self._start_asterisk()
            case "cut":
                self.link.cut()
                await asyncio.sleep(lasts)
                self.link.mend()
            case "slow":
                self.link.delay = 0.05
                await asyncio.sleep(lasts)
                self.link.delay = 0.0
            case "silence":
                self.link.hush()
                await asyncio.sleep(lasts)
                self.link.speak()
            case "freeze asterisk":
                async with self._asterisk_turn:
                    os.kill(self.asterisk.pid, signal.SIGSTOP)
                    await asyncio.sleep(lasts)
                    os.kill(self.asterisk.pid, signal.SIGCONT)
            case "freeze service":
                async with self._service_turn:
                    if self.service.running:
                        os.kill(self.service.pid, signal.SIGSTOP)
                        await asyncio.sleep(lasts)
                        os.kill(self.service.pid, signal.SIGCONT)
            case "disk full":
                self._limit(0)
                await asyncio.sleep(lasts)
                self._limit(None)
            case "disk nearly full":
                files = self.database.parent.iterdir()
                self._limit(max(file.stat().st_size for file in files))
                await asyncio.sleep(lasts)
                self._limit(None)
            case unknown:
                raise AssertionError(unknown)
        self.note(f"ended: {fault}")

    def _limit(self, size: int | None) -> None:
        """No file of the service grows beyond this. It writes nowhere but into its store."""
        if self.service.running:
            soft = resource.RLIM_INFINITY if size is None else size
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(
                    self.service.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY)
                )

    # -- what is seen

    async def members(self) -> list[dict[str, str]]:
        """Raises ManagerGone."""
        return await self.manager.listing(
            {"Action": "QueueStatus"}, "QueueMember", "QueueStatusComplete"
        )

    async def lamps(self) -> dict[str, str]:
        """``Custom:agent-4001`` → ``INUSE`` or ``NOT_INUSE``. Raises ManagerGone."""
        text = await self.manager.console("devstate list")
        found = re.findall(r"Name: '(Custom:[^']+)'\s+State: '([^']*)'", text)
        return dict(found)

    def read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """From the store, as it lies on the disk."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as connection:
            return connection.execute(sql, values).fetchall()

    def last_event(self) -> int:
        return int(self.read("SELECT coalesce(max(seq), 0) FROM events")[0][0])

    async def until(self, wrong: Callable[[], Awaitable[str]], *, pause: float = 0.15) -> str:
        """Waits for ``await wrong()`` to be "" twice, a little apart; else what it last was."""
        deadline = time.monotonic() + SETTLED_WITHIN
        quiet = 0
        said = ""
        while time.monotonic() < deadline:
            try:
                said = await wrong()
            except ManagerGone:
                said = "Asterisk is away"
                with contextlib.suppress(OSError):
                    await self._connect()
            quiet = 0 if said else quiet + 1
            if quiet == 2:
                return ""
            await asyncio.sleep(0.05 if said else pause)
        return said
