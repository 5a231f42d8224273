"""``fastagi demo`` as somebody sees it who runs it for the first time."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml

from fastagi import check, config
from fastagi.demo import show
from fastagi.demo.equipment import Equipment

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.asterisk


def _environment(temporary: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": path, "COLUMNS": "120"}


def _left(temporary: Path) -> list[str]:
    """Processes that have something to do with the folder, and what is in it."""
    found = [path.name for path in temporary.iterdir()]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(temporary) in line:
            found.append(line)
    return found


class Terminal:
    """The demonstration in a terminal of its own, with somebody at the keyboard."""

    def __init__(self, temporary: Path, *words: str) -> None:
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(temporary)
                command = [sys.executable, "-m", "fastagi", "demo", *words]
                os.execve(sys.executable, command, _environment(temporary) | {"TERM": "xterm"})
            finally:
                os._exit(127)

    def until(self, pattern: str, within: float = 60) -> re.Match[str]:
        deadline = time.monotonic() + within
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} did not come:\n{self.seen}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:  # its end is closed
                    found = re.search(pattern, self.seen)
                    assert found is not None, f"{pattern!r} did not come:\n{self.seen}"
                    break
        return found

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def status(self, within: float = 30) -> int:
        deadline = time.monotonic() + within
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"it does not end:\n{self.seen}"
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    time.sleep(0.05)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            self.status()
        os.close(self.fd)


@pytest.fixture
def terminal(tmp_path: Path, equipment: Equipment) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


def test_two_agents_log_in_and_a_caller_reaches_one(tmp_path: Path, equipment: Equipment) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "fastagi", "demo", "--no-wait"],
        env=_environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    said = told.stdout
    assert "1001 dials *314001" in said
    assert "♪ Agent logged in." in said
    for queue in ("sales", "support", "billing"):
        assert f"queue {queue} has Agent/4001 (PJSIP/1001)" in said
    assert "⌨ 4003#" in said
    assert "⌨ ••••#" in said
    assert "4321" not in said + told.stderr  # the PIN
    assert "queue support has Agent/4003 (PJSIP/1002)" in said
    assert "1001 rings and answers" in said
    assert "✗" not in said
    assert _left(tmp_path) == []
    # The README shows it: but for Asterisk's version and the folder it is this.
    shown = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- demo -->")[2]
    _, shown, _ = shown.partition("<!-- /demo -->")[0].split("```\n")
    for line in shown.splitlines()[2:]:
        assert f"{line}\n" in said, line


def test_what_lies_in_the_folder_one_stands_in_is_not_run(
    tmp_path: Path, equipment: Equipment
) -> None:
    """As an admin who has a yaml.py and a folder fastagi there: the installed program runs."""
    (tmp_path / "tmp").mkdir()
    here = tmp_path / "here"
    (here / "fastagi").mkdir(parents=True)
    for name in ("yaml", "asterisk", "rich"):
        (here / f"{name}.py").write_text('raise SystemExit("not this one")\n')
    before = sorted(here.rglob("*"))
    told = subprocess.run(
        [*show.PROGRAM, "demo", "--no-wait"],
        env=_environment(tmp_path / "tmp"),
        cwd=here,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "Agent logged in." in told.stdout
    assert sorted(here.rglob("*")) == before
    # The line that names Asterisk is not the warning that may come before it.
    assert re.search(r"^Asterisk +Asterisk \d+\.", told.stdout, re.MULTILINE)


def test_the_lines_to_try_can_be_pasted(terminal: Terminal, tmp_path: Path) -> None:
    """Into a shell in any folder, each of them; and each does what is said of it."""
    terminal.until("Ctrl-C ends it all")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.seen).replace("\r", "")
    block = text[text.index("Try it yourself") : text.index("shows it live")]
    export, *lines = [line.strip() for line in block.splitlines()[1:] if line.strip()]
    assert export.startswith("export FASTAGI_CONFIG=")
    lines = [line for line in lines if " -m fastagi " in line]
    away = tmp_path / "away"
    away.mkdir()

    def paste(line: str, typed: str = "") -> str:
        done = subprocess.run(
            ["bash", "-c", f"{export}\n{line}"],
            cwd=away,
            env={"HOME": str(away), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (line, done.stdout + done.stderr)
        return done.stdout

    told = {}
    for line in lines:
        command, _, what = line.partition("# ")
        if "--follow" in line:
            line = command.replace(" --follow", "")
        if "type 4006#" in what:  # keys are typed on a terminal; here they are given
            line = f"{command} --keys 4006#,4321#"
        told[what] = paste(line)
    assert "AGENT_STATUS=PAUSED" in told["pause: lunch"]
    assert "AGENT_STATUS=UNPAUSED" in told["back from the pause"]
    assert "AGENT_STATUS=QUEUE_LEFT" in told["leave billing; once more: join it"]
    assert "AGENT_STATUS=LOGGED_OFF" in told["log off"]
    (login,) = [out for what, out in told.items() if "Fanny Moreau logs in" in what]
    assert "AGENT_STATUS=LOGGED_IN" in login
    assert "4321" not in terminal.seen  # the PIN
    assert len(told) == 8


def test_what_a_killed_one_has_left_is_swept(terminal: Terminal, tmp_path: Path) -> None:
    terminal.until("1001 dials")
    (folder,) = [path for path in tmp_path.iterdir() if path.name.startswith(show.PREFIX)]
    assert show.sweep(tmp_path) == []  # it is in use
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.status()
    deadline = time.monotonic() + 60
    while show.sweep(tmp_path) != [folder]:  # its children end a moment later
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not folder.exists()


def test_only_what_is_ones_own_is_swept(tmp_path: Path) -> None:
    """Folders of somebody else's making are left: without a lock, or behind a link."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "precious").write_text("x")
    os.close(show._claim(other))
    (tmp_path / f"{show.PREFIX}link").symlink_to(other)
    (tmp_path / f"{show.PREFIX}bare").mkdir()
    linked = tmp_path / f"{show.PREFIX}lock"
    linked.mkdir()
    (linked / "alive").symlink_to(other / "precious")
    assert show.sweep(tmp_path) == []
    assert (other / "precious").read_text() == "x"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    """The path is named, and nothing is said to be kept."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "cache").write_text("a file where a folder should be")
    told = subprocess.run(
        [*show.PROGRAM, "demo", "--no-wait", "--cache", str(tmp_path / "cache" / "x")],
        env=_environment(tmp_path / "tmp") | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 1, told.stdout + told.stderr
    assert str(tmp_path / "cache") in told.stdout
    assert "kept" not in told.stdout
    assert "Traceback" not in told.stdout + told.stderr


def test_ctrl_c_leaves_nothing_behind(terminal: Terminal, tmp_path: Path) -> None:
    folder = terminal.until(r"export FASTAGI_CONFIG=(\S+)/config")[1]
    terminal.until("Ctrl-C ends it all")
    environment = _environment(tmp_path) | {"FASTAGI_CONFIG": f"{folder}/config"}

    def fastagi(*words: str) -> None:
        told = subprocess.run(
            [sys.executable, "-m", "fastagi", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert told.returncode == 0, told.stdout + told.stderr

    fastagi("dial", "*331", "--from", "1001")
    terminal.until("paused: lunch")  # in the table
    terminal.until("agent-pause +4001 +at 1001 +lunch")  # and below it
    fastagi("check", "--sounds", f"{folder}/asterisk/data/sounds")
    assert any("asterisk" in line for line in _left(tmp_path))
    terminal.press(b"\x03")
    assert terminal.status() == 0
    assert "kept for next time" in terminal.seen
    assert "Traceback" not in terminal.seen
    assert _left(tmp_path) == []


@pytest.mark.parametrize("moment", ["Asterisk", "service", "phones", "agent-user"])
def test_ended_at_any_moment(terminal: Terminal, tmp_path: Path, moment: str) -> None:
    terminal.until(moment)
    os.kill(terminal.pid, signal.SIGTERM)
    os.kill(terminal.pid, signal.SIGINT)  # and an impatient one
    assert terminal.status() == 0
    assert "Traceback" not in terminal.seen
    assert _left(tmp_path) == []


def test_killed_it_leaves_no_process(terminal: Terminal, tmp_path: Path) -> None:
    terminal.until("1001 dials")
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.status()
    deadline = time.monotonic() + 20
    while running := [line for line in _left(tmp_path) if " " in line]:
        assert time.monotonic() < deadline, running
        time.sleep(0.1)


def test_a_configuration_with_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    mine = tmp_path / "mine.yml"
    mine.write_text("asterisk: {secret: x}\nqueus: []\n")
    told = subprocess.run(
        [sys.executable, "-m", "fastagi", "demo", "--config", str(mine)],
        env=_environment(tmp_path / "tmp"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 2, told.stdout + told.stderr
    assert f"{mine}:2:1" in told.stdout + told.stderr
    assert _left(tmp_path / "tmp") == []


def test_ones_own_configuration(tmp_path: Path, equipment: Equipment) -> None:
    (tmp_path / "t").mkdir()
    mine = tmp_path / "mine.yml"
    mine.write_text(
        """\
asterisk:
  host: 192.0.2.1
  secret: not-this-one
database: postgresql://nobody@192.0.2.1/nothing
feature_codes: {login: "*88"}
devices: [{match: 20X, context: phones, interface: "PJSIP/{extension}"}]
pause_reasons: []
queues: [{number: "900", name: night}]
agents: [{number: "7", name: Only One, queues: [night]}]
"""
    )
    told = subprocess.run(
        [sys.executable, "-m", "fastagi", "demo", "--no-wait", "--config", str(mine)],
        env=_environment(tmp_path / "t"),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "201 dials *887" in told.stdout
    assert "queue night has Agent/7 (PJSIP/201)" in told.stdout
    assert "203 dials 900" in told.stdout


def test_the_copy_differs_only_where_it_must(tmp_path: Path) -> None:
    settings = show._configure(show.sample(), tmp_path / "config")
    given = config.load(show.sample())
    changed = {
        name for name in type(given).model_fields if getattr(given, name) != getattr(settings, name)
    }
    assert changed <= {"fastagi", "only_asterisk", "asterisks", "database", "http"}
    assert str(tmp_path) in settings.database
    assert [finding.level for finding in check.fallback(settings)] == ["ok"]


def test_several_asterisks_are_one_in_the_demonstration(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yml"
    mine.write_text(
        "asterisks:\n- {name: paris, secret: a}\n- {name: lyon, host: 10.0.0.2, secret: b}\n"
        "metrics: {listen: 0.0.0.0:9494}\n"
        "devices: []\npause_reasons: []\nqueues: []\nagents: []\n"
    )
    settings = show._configure(mine, tmp_path / "config")
    assert [(a.name, a.host) for a in settings.asterisks] == [("", "127.0.0.1")]
    assert settings.metrics.listen is not None
    assert settings.metrics.listen.host == "127.0.0.1"


def test_a_folder_that_no_dialplan_can_name_has_no_fallback(tmp_path: Path) -> None:
    odd = tmp_path / "a, b"
    odd.mkdir()
    settings = show._configure(show.sample(), odd / "config")
    assert settings.fastagi.fallback is None


def test_keys_are_taken_out_with_all_that_belongs_to_them() -> None:
    text = """\
a:
  b: 1
# a remark on c
c:
- 1

- 2
database: x
d: {e: 1,
  f: 2
}
g: 3
"""
    left = show._without(text, ["c", "d", "database"])
    assert yaml.safe_load(left) == {"a": {"b": 1}, "g": 3}
    assert show._without(text, []) == text


def test_times_have_the_zone_of_the_configuration() -> None:
    event = {
        "occurred_at": "2026-11-22T23:30:00.000+00:00",
        "type": "agent-pause",
        "agent": "4001",
        "extension": "1001",
        "reason": "lunch",
        "queues": None,
        "source": "phone",
    }
    line = show._event_line(event, ZoneInfo("Asia/Kolkata"))
    assert line == "05:00:00 IST  agent-pause   4001  at 1001  lunch  (phone)"


def test_a_port_in_use_is_left_alone() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert show._port(port) != port
    assert show._port(port) == port
