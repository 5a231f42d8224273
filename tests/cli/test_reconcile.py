"""`fastagi reconcile`: what differs, seen from outside; and asking the service to repair it."""

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from fastagi.demo.asterisk import Asterisk

from .conftest import SECRET, Result, Running, Serve, Setting

asterisk_here = pytest.mark.asterisk


def known(setting: Setting, serve: Serve, *, linked: bool = True) -> None:
    """The store is made, and Asterisk has been met."""
    running = serve(setting, linked=linked)
    if linked:
        eventually_in_line(setting)
    running.stop()


def eventually_in_line(setting: Setting) -> None:
    deadline = time.monotonic() + 20
    while (result := setting.fastagi("reconcile", "--dry-run")).status != 0:
        if time.monotonic() > deadline:
            pytest.fail(result.out + result.err)
    assert result.lines == ["nothing differs"]


def told(result: Result, *, away: bool = False) -> list[dict[str, str]]:
    """``away``: the service is, so what it wrote last may not be so now, and that is said."""
    assert result.err == "" if not away else "may not be so now" in result.err
    return [json.loads(line) for line in result.lines]


# -- from outside


@asterisk_here
def test_added_at_the_console_while_the_service_is_away(
    healthy: Setting, serve: Serve, asterisk: Asterisk
) -> None:
    known(healthy, serve)
    asterisk.cli("queue add member PJSIP/1001 to sales penalty 0 as Agent/4001")
    result = healthy.fastagi("reconcile", "--dry-run")
    assert result.status == 1
    assert result.err == ""
    heading, row = result.lines
    assert " ".join(heading.split()) == "agent queue interface stored Asterisk would be"
    assert " ".join(row.split()) == "4001 sales PJSIP/1001 logged off in the queue adopted"
    result = healthy.fastagi("reconcile", "--dry-run", "--json")
    assert result.status == 1
    assert told(result) == [
        {
            "asterisk": "",
            "agent": "4001",
            "queue": "sales",
            "interface": "PJSIP/1001",
            "difference": "extra",
            "stored": "logged off",
            "reported": "in the queue",
            "repair": "adopted",
        }
    ]
    assert healthy.fastagi("events").out == ""  # nobody has changed anything

    serve(healthy)
    eventually_in_line(healthy)
    (event,) = told(healthy.fastagi("events", "--json"))
    assert (event["type"], event["agent"], event["source"]) == ("agent-login", "4001", "asterisk")
    assert "PJSIP/1001" in asterisk.cli("queue show sales")


@asterisk_here
def test_asterisk_was_restarted_while_the_service_is_away(
    healthy: Setting, serve: Serve, asterisk: Asterisk
) -> None:
    running = serve(healthy)
    assert healthy.fastagi("dial", "*314001", "--from", "1001").status == 0
    assert healthy.fastagi("dial", "*332", "--from", "1001").status == 0
    eventually_in_line(healthy)
    running.stop()
    asterisk.kill()
    asterisk.start()
    asterisk.cli("queue add member PJSIP/1002 to sales penalty 0 as Agent/4002")
    asterisk.cli("queue add member PJSIP/1001 to support penalty 0 as Agent/4001")
    result = healthy.fastagi("reconcile", "--dry-run", "--json")
    assert result.status == 1
    assert [(d["agent"], d["queue"], d["difference"], d["repair"]) for d in told(result)] == [
        ("4001", "sales", "missing", "put back"),
        ("4001", "support", "pause", "corrected"),
        ("4002", "sales", "extra", "taken out"),
    ]
    assert [d["stored"] for d in told(result)][1] == "paused: meeting"

    serve(healthy)
    eventually_in_line(healthy)
    assert "PJSIP/1001" in asterisk.cli("queue show sales")
    assert "PJSIP/1002" not in asterisk.cli("queue show sales")
    in_words = healthy.fastagi("events").lines[-1]
    assert " repair " in in_words
    assert "put back" in in_words
    assert "by system reconcile" in in_words


@asterisk_here
def test_a_member_from_where_the_agent_is_not(
    healthy: Setting, serve: Serve, asterisk: Asterisk
) -> None:
    running = serve(healthy)
    assert healthy.fastagi("dial", "*314001", "--from", "1001").status == 0
    eventually_in_line(healthy)
    running.stop()
    asterisk.cli("queue add member PJSIP/1003 to sales penalty 0 as Agent/4001")
    (one,) = told(healthy.fastagi("reconcile", "--dry-run", "--json"))
    assert (one["interface"], one["stored"]) == ("PJSIP/1003", "at PJSIP/1001")
    assert one["repair"] == "taken out"


@asterisk_here
def test_who_is_on_an_asterisk_that_is_not_in_the_configuration_is_left_alone(
    healthy: Setting, serve: Serve
) -> None:
    running = serve(healthy)
    assert healthy.fastagi("dial", "*314001", "--from", "1001").status == 0
    eventually_in_line(healthy)
    running.stop()
    with closing(sqlite3.connect(healthy.database)) as database, database:
        database.execute("UPDATE login_sessions SET asterisk = 'north'")
    result = healthy.fastagi("reconcile", "--dry-run")
    assert (result.status, result.lines) == (0, ["nothing differs"])


@asterisk_here
@pytest.mark.postgres
def test_a_store_in_postgresql(
    healthy: Setting, serve: Serve, asterisk: Asterisk, postgres_url: str
) -> None:
    healthy.change(f"sqlite:///{healthy.database}", postgres_url)
    known(healthy, serve)
    asterisk.cli("queue add member PJSIP/1001 to sales penalty 0 as Agent/4001")
    result = healthy.fastagi("reconcile", "--dry-run", "--json")
    assert result.status == 1
    assert [(d["agent"], d["queue"], d["repair"]) for d in told(result)] == [
        ("4001", "sales", "adopted")
    ]
    result = healthy.fastagi("events", "--retry", "all")
    assert (result.status, result.err) == (1, "no delivery was given up\n")


@asterisk_here
def test_asterisk_away(setting: Setting, serve: Serve) -> None:
    known(setting, serve, linked=False)
    for arguments in ((), ("--json",)):
        result = setting.fastagi("reconcile", "--dry-run", *arguments)
        assert result.status == 1
        assert result.out == ""
        (line,) = result.err.splitlines()
        assert line.startswith("fastagi: Asterisk at 127.0.0.1:")
        assert "connection refused" in line


@asterisk_here
def test_a_secret_that_asterisk_refuses(healthy: Setting, serve: Serve) -> None:
    known(healthy, serve)
    healthy.change(SECRET, "another-secret")
    result = healthy.fastagi("reconcile", "--dry-run")
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert "refused" in line
    assert "another-secret" not in line


@asterisk_here
def test_the_store_away(healthy: Setting) -> None:
    result = healthy.fastagi("reconcile", "--dry-run")
    assert result.status == 1
    assert "the store" in result.err
    assert "Traceback" not in result.err


@asterisk_here
def test_several_asterisks(healthy: Setting, serve: Serve, asterisk: Asterisk) -> None:
    """One of them is away: what the other has is told all the same."""
    several(healthy)
    running = serve(healthy)
    assert healthy.fastagi("dial", "*314001", "--from", "1001", "--asterisk", "north").status == 0
    running.stop()
    (alice, *_) = told(healthy.fastagi("agents", "--json"), away=True)
    assert alice["asterisk"] == "north"
    heading, row, *_ = healthy.fastagi("agents").lines
    assert " ".join(heading.split()) == "agent name status extension on since queues"
    assert "1001 " in row
    assert " north " in row
    assert "at 1001 on north" in healthy.fastagi("events").lines[0]

    asterisk.cli("queue pause member PJSIP/1001 queue sales reason lunch")
    result = healthy.fastagi("reconcile", "--dry-run")
    assert result.status == 1
    heading, row = result.lines
    assert " ".join(heading.split()) == "on agent queue interface stored Asterisk would be"
    assert row.split()[:4] == ["north", "4001", "sales", "PJSIP/1001"]
    assert result.err.startswith("fastagi: Asterisk south at 127.0.0.1:")
    result = healthy.fastagi("reconcile", "--dry-run", "--asterisk", "north", "--json")
    assert result.status == 1
    (one,) = told(result)
    assert (one["stored"], one["reported"]) == ("not paused", "paused: lunch")
    asterisk.cli("queue unpause member PJSIP/1001 queue sales")
    result = healthy.fastagi("reconcile", "--dry-run", "--asterisk", "north")
    assert (result.status, result.out, result.err) == (0, "nothing differs\n", "")


def several(setting: Setting) -> None:
    """Another Asterisk, which is not there."""
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    text = setting.file.read_text()
    before, _, rest = text.partition("asterisk:\n")
    only, database, after = rest.partition("database:")
    one, other = "  - name: north\n", "  - name: south\n"
    here = "".join(f"  {line}\n" for line in only.splitlines())
    ours = here.partition("port: ")[2].partition("\n")[0]
    away = here.replace(f"port: {ours}", f"port: {port}")
    setting.file.write_text(f"{before}asterisks:\n{one}{here}{other}{away}{database}{after}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("reconcile", "--dry-run", "--asterisk", "west"),
        ("dial", "*35", "--from", "1001"),
        ("dial", "*35", "--from", "1001", "--asterisk", "west"),
        ("dialplan",),
        ("dialplan", "--asterisk", "west"),
        ("dialplan", "--manager"),
        ("dialplan", "--fallback", "--asterisk", "west"),
    ],
)
def test_which_asterisk_must_be_known(setting: Setting, arguments: tuple[str, ...]) -> None:
    several(setting)
    result = setting.fastagi(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert "name one of north, south" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("reconcile", "--asterisk", "north"),
        ("dialplan", "--fallback", "--manager", "--asterisk", "north"),
        ("dialplan", "--fallback", "--queues"),
        ("reconcile", "more"),
    ],
)
def test_what_does_not_go_together(setting: Setting, arguments: tuple[str, ...]) -> None:
    several(setting)
    result = setting.fastagi(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.err
    assert "Traceback" not in result.err


def test_each_asterisk_has_a_dialplan_of_its_own(setting: Setting) -> None:
    several(setting)
    for name in ("north", "south"):
        text = setting.fastagi("dialplan", "--asterisk", name).out
        assert f"?asterisk={name}" in text
        assert "[fastagi]" in setting.fastagi("dialplan", "--asterisk", name, "--manager").out
    facts = setting.fastagi("dialplan", "--fallback").out  # the same for all
    assert json.loads(facts)["queues"] == ["sales", "support"]
    assert SECRET not in facts
    assert "[sales]" in setting.fastagi("dialplan", "--queues").out


def test_a_name_where_there_is_only_one(setting: Setting) -> None:
    for command in (("reconcile", "--dry-run"), ("dialplan",), ("dial", "*35", "--from", "1001")):
        result = setting.fastagi(*command, "--asterisk", "north")
        assert result.status == 2
        assert "only one Asterisk" in result.err


# -- asking the service


class Service:
    """Takes calls at the service's port and answers each with these commands."""

    def __init__(self, port: int, *commands: str) -> None:
        self.commands = commands
        self.heads: list[str] = []
        self.replies: list[str] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rw", encoding="utf-8", newline="\n") as stream:
                head = []
                while (line := stream.readline()) not in ("\n", ""):
                    head.append(line)
                self.heads.append("".join(head))
                for command in self.commands:
                    stream.write(command + "\n")
                    stream.flush()
                    self.replies.append(stream.readline())

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)


def answering(setting: Setting, *commands: str) -> Iterator[Service]:
    service = Service(setting.port, *commands)
    yield service
    service.close()


@pytest.mark.parametrize(
    ("answer", "said", "counts"),
    [
        ("nothing", "nothing differed", {}),
        ("1 adopted", "1 adopted", {"adopted": 1}),
        ("2 adopted, 31 put back", "2 adopted, 31 put back", {"adopted": 2, "put back": 31}),
    ],
)
def test_the_service_repairs(
    setting: Setting, answer: str, said: str, counts: dict[str, int]
) -> None:
    for service in answering(setting, f'SET VARIABLE FASTAGI_REPAIRS "{answer}"'):
        result = setting.fastagi("reconcile")
        assert (result.status, result.out, result.err) == (0, said + "\n", "")
        result = setting.fastagi("reconcile", "--json")
        assert (result.status, told(result)) == (0, [{"repairs": counts}])
        assert "agi_network_script: service/reconcile\n" in service.heads[0]
        assert service.replies == ["200 result=1\n"] * 2


@pytest.mark.parametrize(
    ("commands", "why"),
    [
        (('SET VARIABLE FASTAGI_REPAIRS "UNAVAILABLE: no \x1b[2J link"',), "no \\x1b[2J link"),
        (('SET VARIABLE FASTAGI_REPAIRS ""',), "did not say"),
        (('SET VARIABLE FASTAGI_REPAIRS "much"',), "did not say"),
        (('SET VARIABLE AGENT_STATUS "BUSY"',), "BUSY"),
        ((), "without a word"),
    ],
)
def test_the_service_does_not_repair(setting: Setting, commands: tuple[str, ...], why: str) -> None:
    for _ in answering(setting, *commands):
        result = setting.fastagi("reconcile")
        assert result.status == 1
        assert result.out == ""
        (line,) = result.err.splitlines()
        assert line.startswith("fastagi: ")
        assert why in line


def test_no_service(setting: Setting) -> None:
    result = setting.fastagi("reconcile", "--json")
    assert result.status == 1
    assert result.out == ""
    assert "is `fastagi serve` running?" in result.err


@asterisk_here
def test_a_running_service_repairs(healthy: Setting, serve: Serve, asterisk: Asterisk) -> None:
    running: Running = serve(healthy)
    eventually_in_line(healthy)
    result = healthy.fastagi("reconcile")
    assert (result.status, result.out, result.err) == (0, "nothing differed\n", "")
    asterisk.kill()
    running.wait_for("lost")
    result = healthy.fastagi("reconcile")
    assert result.status == 1
    assert "the service cannot" in result.err
