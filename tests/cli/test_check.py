"""`fastagi check`: a set-up in order, and set-ups broken each in its own way."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastagi import check
from fastagi.agents.callers import access
from fastagi.agents.devices import DeviceRule, Pattern
from fastagi.agi.prompts import SOUNDS
from fastagi.check.asterisk import Endpoint
from fastagi.check.devices import untold_contexts
from fastagi.check.findings import Finding, Level, Unmatched
from fastagi.config import Settings
from fastagi.demo.asterisk import Asterisk, free_port

from .conftest import PIN, SECRET, Running, Serve, Setting, fastagi

pytestmark = pytest.mark.asterisk


def findings(setting: Setting, *arguments: str) -> tuple[int, list[dict[str, str]]]:
    result = setting.fastagi("check", "--json", *arguments)
    assert SECRET not in result.out + result.err
    assert PIN not in result.out + result.err
    assert result.err == ""
    found = [json.loads(line) for line in result.lines]
    for finding in found:
        if finding["level"] != "ok":
            assert pasteable(finding["mend"]), finding["mend"]
    print(*(finding for finding in found if finding["level"] != "ok"), sep="\n")
    return result.status, found


COMMANDS = {
    *("fastagi", "asterisk", "systemctl", "ss", "sed", "apt-get", "chmod", "sudo", "getent", "nc"),
    *("install", "f"),
}


def pasteable(mend: str) -> bool:
    """Comments, with a shell command, a piece of YAML, of Asterisk's files, or SQL."""
    lines = [line for line in mend.splitlines() if line and line[0] not in "#;"]
    text = "\n".join(lines)
    if not lines:
        return bool(mend)
    if re.split(r"[ =]", lines[0])[0] in COMMANDS:
        return subprocess.run(["sh", "-n", "-c", text], check=False).returncode == 0
    if lines[0].startswith("DELETE FROM"):
        return text.endswith(";")
    if all(re.fullmatch(r"\[[^\]]+\](\(\+\))?|[a-z]+ =>? ?.*|[a-z_]+ = \S*", x) for x in lines):
        return True
    return isinstance(yaml.safe_load(text), dict)


def problems(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return [finding for finding in found if finding["level"] == "problem"]


def only(found: list[dict[str, str]], about: str) -> dict[str, str]:
    """The one problem there is, with a way to mend it."""
    (problem,) = problems(found)
    assert problem["about"] == about
    assert problem["where"]
    assert problem["mend"]
    return problem


def test_in_order(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    status, found = findings(healthy)
    assert [f for f in found if f["level"] != "ok"] == []
    assert status == 0
    assert {f["about"] for f in found} == {
        *("configuration", "store", "service", "manager", "privileges", "modules", "queues"),
        *("devices", "dialplan", "sounds"),
    }
    for finding in found:
        assert list(finding) == ["level", "about", "what", "where", "mend"]


def test_in_words(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    result = healthy.fastagi("check")
    assert result.status == 0
    assert result.lines[-1].startswith("0 problems, 0 warnings, ")
    assert "mend" not in result.out


def test_asks_nothing_of_the_service_that_stays(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    findings(healthy)
    assert healthy.fastagi("events").out == ""


def test_logged_in_on_an_asterisk_that_was_removed(healthy: Setting, serve: Serve) -> None:
    running = serve(healthy)
    for number in ("1", "3"):
        healthy.fastagi("dial", f"*31400{number}", "--from", f"100{number}")
    running.stop()
    with closing(sqlite3.connect(healthy.database)) as database, database:
        database.execute("UPDATE login_sessions SET asterisk = 'north' WHERE extension = '1003'")
    _, found = findings(healthy)
    (warning,) = [f for f in found if f["about"] == "store" and f["level"] == "warning"]
    gone = "1 logged in on Asterisk north, which is not in the configuration: 4003;"
    assert gone in warning["what"]
    assert "it is told nothing more of them" in warning["what"]
    assert "name: north" in warning["mend"]
    (fine,) = [f for f in found if f["about"] == "store" and f["level"] == "ok"]
    assert "2 logged in" in fine["what"]


def test_wrong_secret(healthy: Setting) -> None:
    healthy.change(SECRET, "another")
    status, found = findings(healthy)
    problem = only(found, "manager")
    assert "refuses the user 'fastagi'" in problem["what"]
    assert "[fastagi]" in problem["mend"]
    assert status == 1


def test_asterisk_away(setting: Setting) -> None:
    status, found = findings(setting)
    problem = only(found, "manager")
    assert "connection refused" in problem["what"]
    assert "enabled = yes" in problem["mend"]
    assert status == 1


@pytest.mark.parametrize(
    ("write", "missing", "purpose"),
    [
        ("user,call,reporting", "agent", "log agents in"),
        ("agent,call,reporting", "user", "tell other programs"),
        ("agent,user,reporting", "call", "lamps"),
    ],
)
def test_missing_privilege(
    healthy: Setting, asterisk: Asterisk, write: str, missing: str, purpose: str
) -> None:
    _write_classes(asterisk, write)
    status, found = findings(healthy)
    problem = only(found, "privileges")
    assert f"'{missing}'" in problem["what"]
    assert purpose in problem["what"]
    assert "write = agent,user,call,reporting" in problem["mend"]
    assert status == 1


def _write_classes(asterisk: Asterisk, write: str) -> None:
    sections = asterisk.manager_sections
    assert "write = agent,user,call,reporting" in sections
    asterisk.manager_sections = sections.replace(
        "write = agent,user,call,reporting", f"write = {write}"
    )
    asterisk.reload("manager")


def test_without_reporting_it_says_what_it_cannot_tell(
    healthy: Setting, asterisk: Asterisk
) -> None:
    _write_classes(asterisk, "agent,user,call")
    status, found = findings(healthy)
    assert "'reporting'" in only(found, "privileges")["what"]
    told = [f for f in found if f["level"] == "warning" and f["about"] == "dialplan"]
    assert "cannot be told" in told[0]["what"]
    assert "reporting" in told[0]["mend"]
    assert status == 1


def test_queue_that_asterisk_lacks(healthy: Setting) -> None:
    healthy.change("name: support}", "name: suport}")
    healthy.change("[sales, support]", "[sales, suport]")
    healthy.change("queues: [support]", "queues: [suport]")
    status, found = findings(healthy)
    problem = only(found, "queues")
    assert "'suport'" in problem["what"]
    assert "support" in problem["what"]
    assert "[suport]" in problem["mend"]
    assert status == 1


def test_device_pattern_no_endpoint_matches(healthy: Setting) -> None:
    healthy.change('match: "10XX"', 'match: "20XX"')
    status, found = findings(healthy)
    problem = only(found, "devices")
    assert "PJSIP/1001" in problem["what"]
    assert "20XX" in problem["where"]
    assert status == 1


def test_interface_of_another_technology(healthy: Setting) -> None:
    healthy.change("interface: PJSIP/{extension}", "interface: SIP/{extension}")
    _, found = findings(healthy)
    assert "no SIP endpoint matches; Asterisk has none" in only(found, "devices")["what"]


def test_phones_of_another_context(healthy: Setting) -> None:
    healthy.change("context: phones", "context: outbound")
    status, found = findings(healthy)
    (warning,) = (f for f in found if f["level"] == "warning" and f["about"] == "devices")
    assert "1001 in phones" in warning["what"]
    assert "do not reach" in only(found, "dialplan")["what"]
    assert status == 1


def test_remote_agents_through_no_context(healthy: Setting) -> None:
    healthy.change("@outbound/n", "@nowhere/n")
    status, found = findings(healthy)
    assert "'nowhere'" in only(found, "devices")["what"]
    assert status == 1


def test_dialplan_not_loaded(healthy: Setting, asterisk: Asterisk) -> None:
    asterisk.features = "[something-else]\nexten => 1,1,NoOp()\n"
    asterisk.reload("dialplan")
    status, found = findings(healthy)
    problem = only(found, "dialplan")
    assert "agent-features" in problem["what"]
    assert "not loaded" in problem["what"]
    assert "#include" in problem["mend"]
    assert "dialplan reload" in problem["mend"]
    assert status == 1


def test_dialplan_of_other_codes(healthy: Setting) -> None:
    healthy.change("pause_reasons:", 'feature_codes: {login: "*71"}\npause_reasons:')
    status, found = findings(healthy)
    assert only(found, "dialplan")["what"] == "the loaded file is old: *71 (login) not in it"
    assert status == 1


def test_dialplan_of_nothing_but_other_codes_is_one_finding(healthy: Setting) -> None:
    names = ("login", "logoff", "pause", "unpause", "status", "queue", "toggle_login")
    codes = ", ".join(f'{name}: "*7{number}"' for number, name in enumerate(names))
    healthy.change("pause_reasons:", f"feature_codes: {{{codes}}}\npause_reasons:")
    _, found = findings(healthy)
    what = only(found, "dialplan")["what"]
    assert what.startswith("the loaded file is old: *70 (login), *71 (logoff), ")
    assert "and 2 more" in what


def test_dialplan_of_another_server(healthy: Setting) -> None:
    healthy.change(f"listen: 127.0.0.1:{healthy.port}", f"listen: 127.0.0.1:{free_port()}")
    status, found = findings(healthy)
    (warning,) = (f for f in found if f["level"] == "warning" and f["about"] == "dialplan")
    assert "not what this configuration gives" in warning["what"]
    assert status == 0


@pytest.mark.parametrize("hiding", ["_*3X!", "_*.", "*34"])
def test_code_hidden_by_another_extension(
    healthy: Setting, asterisk: Asterisk, hiding: str
) -> None:
    asterisk.features += f"\n[phones](+)\nexten => {hiding},1,NoOp()\n"
    asterisk.reload("dialplan")
    status, found = findings(healthy)
    problem = only(found, "dialplan")
    assert f"{hiding} in [phones] comes first" in problem["what"]
    assert "*34" in problem["what"]
    assert status == 1


def test_sound_missing_in_one_language(healthy: Setting, tmp_path: Path) -> None:
    settings_sounds = tmp_path / "sounds"
    for language in ("en", "fr"):
        for sound in SOUNDS:
            file = settings_sounds / language / f"{sound}.gsm"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    (settings_sounds / "fr" / "agent-loginok.gsm").unlink()
    status, found = findings(healthy, "--sounds", str(settings_sounds))
    problem = only(found, "sounds")
    assert "1 of " in problem["what"]
    assert "'fr': agent-loginok" in problem["what"]
    assert "asterisk-core-sounds-fr" in problem["mend"]
    assert status == 1


def test_own_prompt_without_a_file(healthy: Setting) -> None:
    healthy.change("pause_reasons:", "prompts: {LOGGED_IN: custom/welcome}\npause_reasons:")
    _, found = findings(healthy)
    assert [p["about"] for p in problems(found)] == ["sounds", "sounds"]  # en and fr
    assert all("custom/welcome" in p["what"] for p in problems(found))


def test_language_without_sounds(healthy: Setting) -> None:
    healthy.change("language: fr", "language: pl")
    _, found = findings(healthy)
    assert "'pl'" in only(found, "sounds")["what"]


def test_something_else_on_the_port(healthy: Setting) -> None:
    with closing(socket.create_server(("127.0.0.1", healthy.port))) as server:
        pid = os.fork()
        if pid == 0:  # answers as a web server would, once per connection, until killed
            while True:
                connection, _ = server.accept()
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()
        try:
            status, found = findings(healthy)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    problem = only(found, "service")
    assert "something listens there that is not this service" in problem["what"]
    assert status == 1


def test_service_that_does_not_let_us_in(healthy: Setting, serve: Serve) -> None:
    healthy.change("allow: [127.0.0.1]", "allow: [10.1.2.3]")
    serve(healthy)
    _, found = findings(healthy)
    assert "allow" in only(found, "service")["mend"]


def test_service_not_running_is_a_warning(healthy: Setting) -> None:
    status, found = findings(healthy)
    (warning,) = (f for f in found if f["level"] == "warning")
    assert warning["about"] == "service"
    assert "not running" in warning["what"]
    assert status == 0


def test_database_that_is_none(healthy: Setting) -> None:
    healthy.database.parent.mkdir()
    healthy.database.write_text("this is no database, it only looks like a file\n" * 100)
    _, found = findings(healthy)
    assert "not a database" in only(found, "store")["what"]


def test_database_of_a_newer_version(healthy: Setting, serve: Serve) -> None:
    serve(healthy).stop()
    with closing(sqlite3.connect(healthy.database)) as database:
        database.execute(
            "INSERT INTO schema_migration (name, applied) VALUES ('0999_x', '2030-01-01')"
        )
        database.commit()
    _, found = findings(healthy)
    assert "0999_x" in only(found, "store")["what"]
    refused = healthy.fastagi("serve")
    assert refused.status == 1
    assert "0999_x" in refused.err
    assert "Traceback" not in refused.err


def test_postgresql_that_is_away(healthy: Setting) -> None:
    healthy.change(f"sqlite:///{healthy.database}", "postgresql://u:pw-of-the-store@127.0.0.1:1/x")
    result = healthy.fastagi("check")
    assert result.status == 1
    assert "problem  store:" in result.out
    assert "pw-of-the-store" not in result.out + result.err


@pytest.mark.postgres
def test_on_postgresql(healthy: Setting, serve: Serve, postgres_url: str) -> None:
    healthy.change(f"sqlite:///{healthy.database}", postgres_url)
    before = findings(healthy)[1]
    assert "the first start makes it" in next(f["what"] for f in before if f["about"] == "store")
    serve(healthy)
    status, found = findings(healthy)
    assert [f for f in found if f["level"] != "ok"] == []
    assert status == 0


def test_nobody_can_log_in(healthy: Setting) -> None:
    text = healthy.file.read_text()
    start, end = text.index("devices:"), text.index("pause_reasons:")
    healthy.file.write_text(f"{text[:start]}devices: []\n{text[end:]}")
    _, found = findings(healthy)
    assert "nobody can log in" in only(found, "configuration")["what"]
    assert not [f for f in found if f["level"] == "warning" and f["about"] == "devices"]


def test_asterisk_elsewhere_cannot_call_loopback(setting: Setting) -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): nothing is there
    setting.change("host: 127.0.0.1", "host: 192.0.2.7")
    setting.change("username: fastagi", "username: fastagi\n  timeout: 1s")
    _, found = findings(setting)
    about = [p for p in problems(found) if p["about"] == "configuration"]
    assert "its own machine" in about[0]["what"]
    assert "turned away" in about[1]["what"]
    assert "192.0.2.7" in about[1]["mend"]


def test_no_store_although_the_service_runs(healthy: Setting, serve: Serve, tmp_path: Path) -> None:
    """`sqlite:///fastagi.db` is another file in another folder."""
    healthy.change(f"sqlite:///{healthy.database}", "sqlite:///agents.db")
    (tmp_path / "var").mkdir()
    running = Running.start("serve", "--config", str(healthy.file), cwd=tmp_path / "var")
    try:
        running.wait_for("manager link is up")
        result = fastagi("check", "--json", "--config", str(healthy.file), cwd=tmp_path)
    finally:
        running.stop()
    found = [json.loads(line) for line in result.lines]
    (warning,) = (f for f in found if f["level"] == "warning")
    assert warning["about"] == "store"
    assert "the service answers: it has another one" in warning["what"]
    assert warning["where"] == f"sqlite:///{tmp_path}/agents.db"


def test_store_that_is_not_the_services(healthy: Setting, serve: Serve, tmp_path: Path) -> None:
    """Both are there: which one the service has tell its locks."""
    running = serve(healthy)
    assert [f for f in findings(healthy)[1] if f["level"] != "ok"] == []
    running.stop(signal.SIGTERM)
    mine = healthy.database
    healthy.change(f"sqlite:///{mine}", f"sqlite:///{tmp_path}/other.db")
    serve(healthy)
    healthy.change(f"sqlite:///{tmp_path}/other.db", f"sqlite:///{mine}")
    (warning,) = (f for f in findings(healthy)[1] if f["level"] == "warning")
    assert (warning["about"], warning["where"]) == ("store", f"sqlite:///{mine}")
    assert "no service uses this database" in warning["what"]


def test_store_by_another_name(healthy: Setting, serve: Serve, tmp_path: Path) -> None:
    running = serve(healthy)
    (tmp_path / "link.db").symlink_to(healthy.database)
    healthy.change(f"sqlite:///{healthy.database}", f"sqlite:///{tmp_path}/link.db")
    assert not [f for f in findings(healthy)[1] if f["about"] == "store" and f["level"] != "ok"]
    running.stop(signal.SIGTERM)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("unmatched", "matched", []),
        ("matched", "unmatched", []),
        ("unmatched", "unmatched", ["a, b: devices[0]"]),
        ("unmatched", "away", []),
    ],
)
async def test_a_rule_for_the_phones_of_one_of_several_asterisks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, a: str, b: str, said: list[str]
) -> None:
    found = {
        "unmatched": Unmatched(Level.PROBLEM, "devices", "no endpoint matches", "devices[0]", "#"),
        "matched": Finding(Level.OK, "devices", "matches 2", "devices[0]"),
        "away": Finding(Level.PROBLEM, "Asterisk", "is away", "127.0.0.1", "#"),
    }
    answers = {"a": found[a], "b": found[b]}

    async def looked(settings: Any, asterisk: Any, *_: Any, **__: Any) -> Any:
        yield answers[asterisk.name]

    monkeypatch.setattr(check, "_one_asterisk", looked)
    one = {"host": "127.0.0.1", "secret": "x"}
    settings = Settings.model_validate(
        {
            "asterisks": [{"name": name, **one} for name in answers],
            "fastagi": {"listen": f"127.0.0.1:{free_port()}"},
            "database": f"sqlite:///{tmp_path}/none.db",
        }
    )
    where = [f.where async for f in check.check(settings, "place") if f.what.startswith("no end")]
    assert where == said


def test_devices_whose_context_asterisk_does_not_tell() -> None:
    rules = [
        DeviceRule(Pattern.parse("1012"), "phones", "Local/1012@ring/n", "DAHDI/12"),
        DeviceRule(Pattern.parse("1013"), "phones", "DAHDI/13"),
    ]
    names = ["DAHDI/1", "DAHDI/12", "dahdi/13", "DAHDI/14", "SCCP/7", "PJSIP/1001", "SIP/1001"]
    endpoints = [Endpoint(name, name.partition("/")[2]) for name in names]
    (finding,) = untold_contexts(endpoints, rules, access(rules, False, ["DAHDI/14"]))
    assert finding.level is Level.OK, "lines belong there"
    assert "calls from DAHDI/1, SCCP/7 may not use the codes" in finding.what
    assert untold_contexts(endpoints[1:4], rules, access(rules, False, ["DAHDI/14"])) == []


def test_store_that_the_service_cannot_write(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    with closing(sqlite3.connect(healthy.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        deadline = time.monotonic() + 60
        while not problems(found := findings(healthy)[1]):  # it tries every few seconds
            assert time.monotonic() < deadline
        other.execute("ROLLBACK")
    problem = only(found, "service")
    assert "cannot use its database" in problem["what"]


def test_usage(setting: Setting) -> None:
    assert setting.fastagi("check", "--nonsense").status == 2
