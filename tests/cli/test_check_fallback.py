"""`fastagi check`: the fallback, several Asterisks, the clock."""

import json
from pathlib import Path

import pytest

from fastagi import check, config, dialplan
from fastagi.check import Level
from fastagi.demo import fallback
from fastagi.demo.asterisk import Asterisk

from .conftest import SECRET, Setting
from .test_check import findings, problems


def with_fallback(setting: Setting, folder: Path) -> Path:
    """Configured, and in place."""
    chosen = json.dumps(fallback.settings(folder))
    setting.change("fastagi:\n", f"fastagi:\n  fallback: {chosen}\n")
    fallback.install(folder, dialplan.render_fallback_facts(config.load(setting.file)))
    return folder / fallback.FACTS


def found(setting: Setting) -> list[tuple[str, str, str]]:
    settings = config.load(setting.file)
    return [(f.level.value, f.what, f.mend) for f in check.fallback(settings)]


def test_in_place(setting: Setting, tmp_path: Path) -> None:
    with_fallback(setting, tmp_path)
    assert found(setting) == [("ok", "in place, and knows this configuration", "")]


def test_not_configured(setting: Setting) -> None:
    assert found(setting) == []


def test_no_program(setting: Setting, tmp_path: Path) -> None:
    with_fallback(setting, tmp_path)
    (tmp_path / "fastagi-fallback").unlink()
    ((level, what, mend),) = found(setting)
    assert level == "problem"
    assert "no such program" in what
    assert "install fastagi-agentd" in mend


def test_not_executable(setting: Setting, tmp_path: Path) -> None:
    with_fallback(setting, tmp_path)
    (tmp_path / "fastagi-fallback").chmod(0o644)
    ((level, what, mend),) = found(setting)
    assert (level, what) == ("problem", "it cannot be executed")
    assert mend == f"chmod 755 {tmp_path}/fastagi-fallback"


def test_no_facts(setting: Setting, tmp_path: Path) -> None:
    facts = with_fallback(setting, tmp_path)
    facts.unlink()
    ((level, what, mend),) = found(setting)
    assert level == "problem"
    assert "cannot be read" in what
    assert mend == f"fastagi dialplan --fallback > {facts}"
    facts.write_bytes(b"\xff")
    assert found(setting)[0][0] == "problem"


def test_facts_of_another_configuration(setting: Setting, tmp_path: Path) -> None:
    facts = with_fallback(setting, tmp_path)
    facts.write_text(facts.read_text().replace("PJSIP/", "SIP/"))
    ((level, what, mend),) = found(setting)
    assert (level, what) == ("warning", "its facts are not those of this configuration")
    assert str(facts) in mend


def test_on_another_machine_it_cannot_be_seen(setting: Setting, tmp_path: Path) -> None:
    with_fallback(setting, tmp_path)
    setting.change("host: 127.0.0.1", "host: 10.9.9.9")
    ((level, _, mend),) = found(setting)
    assert (level, mend) == ("warning", "# run this on Asterisk's machine")


def test_it_stands_among_the_findings(setting: Setting, tmp_path: Path) -> None:
    with_fallback(setting, tmp_path).unlink()
    _, told = findings(setting)
    assert [f["about"] for f in problems(told)] == ["manager", "fallback"]


@pytest.mark.asterisk
def test_several_asterisks(healthy: Setting, asterisk: Asterisk) -> None:
    """One is in order but for its dialplan, which does not say which it is; the other is away."""
    healthy.change("asterisk:\n  host: 127.0.0.1", "asterisks:\n- name: here")
    healthy.change("database:", f"- {{name: there, port: 1, secret: {SECRET}}}\ndatabase:")
    status, told = findings(healthy)
    assert status == 1
    (away,) = problems(told)
    assert (away["about"], away["where"]) == ("manager", "there: 127.0.0.1:1")
    (other,) = (f for f in told if f["about"] == "dialplan" and f["level"] == "warning")
    assert other["where"].startswith("here: ")
    assert "is another" in other["what"]
    assert "\nfastagi dialplan --asterisk here --config" in other["mend"]
    asterisk.features = dialplan.render_dialplan(config.load(healthy.file), "here")
    asterisk.reload("dialplan")
    _, told = findings(healthy)
    assert not [f for f in told if f["about"] == "dialplan" and f["level"] != "ok"]


@pytest.mark.parametrize(
    ("zone", "sections", "warned"),
    [
        ("UTC", "shift: {logoff_at: 20:00}\n", True),
        ("UTC", "", False),
        ("UTC", "shift: {logoff_at: 20:00}\ntimezone: UTC\n", False),
        ("Europe/Paris", "shift: {logoff_at: 20:00}\n", False),
    ],
)
def test_a_clock_without_a_zone(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, zone: str, sections: str, warned: bool
) -> None:
    monkeypatch.setenv("TZ", zone)
    setting.file.write_text(setting.file.read_text() + "\n" + sections)
    told = check.configuration(config.load(setting.file), str(setting.file))
    warnings = [f for f in told if f.level is Level.WARNING and "is UTC" in f.what]
    assert bool(warnings) == warned


@pytest.mark.asterisk
def test_a_dialplan_with_the_fallback_is_recognised(
    healthy: Setting, asterisk: Asterisk, tmp_path: Path
) -> None:
    with_fallback(healthy, tmp_path)
    _, told = findings(healthy)
    (finding,) = (f for f in told if f["about"] == "dialplan" and f["level"] == "warning")
    assert "is another" in finding["what"], "the loaded one has none yet"
    asterisk.features = dialplan.render_dialplan(config.load(healthy.file))
    asterisk.reload("dialplan")
    _, told = findings(healthy)
    assert not [f for f in told if f["about"] in ("dialplan", "fallback") and f["level"] != "ok"]
