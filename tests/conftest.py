"""Real parts for the tests: Asterisk, SIP phones, PostgreSQL.

A test that asks for one of them fails where it cannot be had; it is never skipped. Nothing is
started before the first test that needs it.
"""

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest

from fastagi.demo import asterisk as demo_asterisk
from fastagi.demo.asterisk import Asterisk, clipped, dies_with_us, free_port
from fastagi.demo.equipment import Equipment, prepare
from fastagi.demo.phone import Phone

# What every phone of the tests can dial beside the queues and the other phones.
TEST_DIALPLAN = """
[phones](+)
exten => 600,1,Answer()
 same => n,Echo()
; what was pressed is played back digit by digit, and stands in the log
exten => 601,1,Answer()
 same => n,Read(PRESSED,agent-pass,20,,1,8)
 same => n,NoOp(pressed=${PRESSED})
 same => n,SayDigits(${PRESSED})
 same => n,Hangup()
exten => 602,1,Busy()
exten => 603,1,Answer()
 same => n,Wait(120)
 same => n,Hangup()
exten => 604,1,Wait(120)
"""

# Enough to find what a change breaks; HYPOTHESIS_PROFILE=default for Hypothesis's own hundred.
hypothesis.settings.register_profile("run", max_examples=50)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "run"))

# Each process of a run takes ports of its own: a server that is down for a moment keeps its port.
_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_each = len(demo_asterisk.PORTS) // _processes
demo_asterisk.PORTS = demo_asterisk.PORTS[_process * _each : (_process + 1) * _each]

Eventually = Callable[..., Awaitable[None]]
MakePhone = Callable[..., Awaitable[Phone]]


@pytest.fixture(scope="session")
def equipment() -> Equipment:
    """The programs: the machine's own, or Debian packages unpacked into the user's cache."""
    return prepare()


@pytest.fixture(scope="session")
def _session_asterisk(
    equipment: Equipment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asterisk]:
    folder = tmp_path_factory.mktemp("asterisk")
    program = clipped(equipment.asterisk, folder / "clipped", seconds=0.4)
    with Asterisk(folder, program, more_dialplan=TEST_DIALPLAN) as asterisk:
        yield asterisk


@pytest.fixture
def asterisk(_session_asterisk: Asterisk, request: pytest.FixtureRequest) -> Iterator[Asterisk]:
    """A running Asterisk with the queues sales, support and billing, empty, and no calls.

    One process serves all tests; a test may kill it. Its prompts are cut to 0.4 s, so that a
    test is not mostly listening; ``equipment.asterisk`` has them whole. For other settings make an
    ``Asterisk(tmp_path, equipment.asterisk, …)`` of your own: it starts in half a second.
    """
    asterisk = _session_asterisk
    if not asterisk.running:
        asterisk.start()
    before = (asterisk.features, asterisk.queue_sections, asterisk.manager_sections)
    request.node.stash[_LOG] = (asterisk, asterisk.mark())
    yield asterisk
    if asterisk.running:
        asterisk.cli("channel request hangup all")
        left = [
            f"queue remove member {interface} from {queue}"
            for queue in asterisk.queues.values()
            for interface in _members(asterisk.cli(f"queue show {queue}"))
        ]
        if len(left) > 50:  # each is a process; the next test starts an empty Asterisk sooner
            asterisk.kill()
        else:
            for command in left:
                asterisk.cli(command)
    after = (asterisk.features, asterisk.queue_sections, asterisk.manager_sections)
    if after != before:
        asterisk.features, asterisk.queue_sections, asterisk.manager_sections = before
        if asterisk.running:
            for what in ("dialplan", "queues", "manager"):
                asterisk.reload(what)


def _members(shown: str) -> list[str]:
    """Interfaces of dynamic members: ``Agent/1001 (PJSIP/1001) (ringinuse …) (dynamic) …``"""
    found = []
    for line in shown.splitlines():
        if "(dynamic)" in line:
            named = re.match(r"\s+.*?\(([^()]+/[^()]+)\)", line) or re.match(r"\s+(\S+/\S+)", line)
            if named:
                found.append(named[1].split(" from ")[0])
    return found


@pytest.fixture
async def phones(
    asterisk: Asterisk, equipment: Equipment, tmp_path: Path
) -> AsyncIterator[MakePhone]:
    """``await phones("1001")`` gives a registered phone; all are put away after the test.

    Keywords go to ``Phone``: ``auto_answer=False``, ``record=True``.
    """
    made: list[Phone] = []

    async def make(extension: str, **settings: bool) -> Phone:
        phone = Phone(
            tmp_path / f"phone-{extension}-{len(made)}",
            equipment.phone,
            extension,
            asterisk.password(extension),
            asterisk.sip_port,
            **settings,
        )
        made.append(phone)
        await phone.plug()
        return phone

    yield make
    await asyncio.gather(*(phone.close() for phone in made))


@pytest.fixture
def realtime(equipment: Equipment, tmp_path: Path) -> Iterator[Asterisk]:
    """An Asterisk whose queue support is in a database, with phone 1001 as a member."""
    program = clipped(equipment.asterisk, tmp_path / "clipped", seconds=0.04)
    asterisk = Asterisk(tmp_path / "asterisk", program)
    asterisk.queue_sections = "[sales]\nringinuse = no\n[billing]\nringinuse = no\n"
    with asterisk:
        path = tmp_path / "realtime.db"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE queues (name TEXT PRIMARY KEY, strategy TEXT)")
            database.execute("INSERT INTO queues VALUES ('support', 'ringall')")
            database.execute(
                "CREATE TABLE queue_members (uniqueid INTEGER PRIMARY KEY, queue_name TEXT,"
                " interface TEXT, membername TEXT, penalty INTEGER, paused INTEGER)"
            )
            database.execute(
                "INSERT INTO queue_members VALUES (1, 'support', 'PJSIP/1001', 'Front', 5, 0)"
            )
        (asterisk.etc / "extconfig.conf").write_text(
            "[settings]\nqueues => sqlite3,rt\nqueue_members => sqlite3,rt\n"
        )
        (asterisk.etc / "res_config_sqlite3.conf").write_text(f"[rt]\ndbfile => {path}\nbatch=0\n")
        asterisk.cli("module load res_config_sqlite3.so")
        asterisk.cli("module reload extconfig")
        yield asterisk


@pytest.fixture
def eventually() -> Eventually:
    """``await eventually(lambda: condition, within=10)``: waits for it, fails when it never comes.

    The condition may be a coroutine function. An AssertionError in it counts as "not yet", so
    that it may simply assert.
    """

    async def wait(condition: Callable[[], object], *, within: float = 10) -> None:
        deadline = time.monotonic() + within
        while True:
            error: AssertionError | None = None
            try:
                result = condition()
                if asyncio.iscoroutine(result):
                    result = await result
                if result or result is None:
                    return
            except AssertionError as refused:
                error = refused
            if time.monotonic() > deadline:
                raise error or AssertionError(f"did not come true within {within:g} s")
            await asyncio.sleep(0.05)

    return wait


def pytest_configure() -> None:
    """A shell's background jobs are born deaf to Ctrl-C, and so is all that they start; here it
    is something to test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# -- the log of Asterisk beside a failed test's own ---------------------------------------

_LOG = pytest.StashKey[tuple[Asterisk, int]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and _LOG in item.stash:
        asterisk, mark = item.stash[_LOG]
        lines = asterisk.log_since(mark).splitlines()
        report.sections.append(("Asterisk's log", "\n".join(lines[-80:])))
    return report


# -- PostgreSQL ---------------------------------------------------------------------------


@dataclass(slots=True)
class PostgreSQL:
    """A server of the tests' own: trusts 127.0.0.1, forgets everything at the end."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://fastagi@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Makes it, and starts it."""
        account = _unprivileged()
        if account is not None:
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        programs, who = _postgresql_programs(), _as(account)
        data = self.folder / "data"
        subprocess.run(
            [
                programs / "initdb",
                "-D",
                data,
                "-U",
                "fastagi",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
            ],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **who,
        )
        self.start_again()

    def start_again(self) -> None:
        """After ``stop``, with all that was in it."""
        programs, who = _postgresql_programs(), _as(_unprivileged())
        data = self.folder / "data"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
        }
        with (self.folder / "log").open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [str(programs / "postgres"), "-D", str(data)]
                + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=dies_with_us(signal.SIGINT),  # SIGINT: its fast shutdown
                **who,
            )
        self.process = process
        deadline = time.monotonic() + 30
        while True:
            try:
                with psycopg.connect(self.url(), connect_timeout=5):
                    return
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail((self.folder / "log").read_text(errors="replace"), pytrace=False)
                time.sleep(0.05)

    def create(self, name: str = "", template: str = "template0") -> str:
        name = name or f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _postgresql_programs() -> Path:
    # Debian keeps the server's programs out of PATH, a folder per version.
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3])
    )
    found = str(versions[-1]) if versions else shutil.which("initdb")
    if found is None:
        pytest.fail("no PostgreSQL server here: apt-get install postgresql", pytrace=False)
    return Path(found).parent


def _as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """How ``subprocess`` runs a program as this user."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _unprivileged() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.fail("neither a user postgres nor nobody here", pytrace=False)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One server for the session. Not below pytest's folder, which other users cannot enter."""
    folder = Path(tempfile.mkdtemp(prefix="fastagi-postgresql-"))
    server = PostgreSQL(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgresql: PostgreSQL) -> Iterator[str]:
    """The address of an empty database of this test's own."""
    name = postgresql.create()
    yield postgresql.url(name)
    postgresql.drop(name)


# -- what the programs of tests/truth came to ---------------------------------------------


# Those that take a minute and more are begun first, or one process ends long after the others.
LONG = (
    "test_two_services.py",
    "test_two_services_race.py",
    "test_two_asterisks.py",
    "test_backlog.py",
    "tests/truth/",
    "tests/journey/",
    "tests/cli/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(LONG) if name in item.nodeid), len(LONG))

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    total: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, sums in getattr(report, "user_properties", ()):
                if name == "truth":
                    total.update(sums)
                    terminalreporter.write_line(f"truth: {_listed(sums)}: {report.nodeid}")
    if total:
        terminalreporter.write_line(f"truth: {_listed(total)} in all")


def _listed(sums: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sums.items())
