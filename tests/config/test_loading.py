"""What a configuration without mistakes means."""

import os
import socket
import weakref
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import TZPATH, ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fastagi.agents.commands import WhenInCall
from fastagi.agents.devices import Device, resolve
from fastagi.config import (
    ConfigError,
    FallbackSettings,
    HostPort,
    Settings,
    UnpluggedSettings,
    checks,
    content_digest,
    find,
    load,
    loading,
    signature,
)
from fastagi.config.cautions import hashes
from fastagi.config.values import duration, host_port
from fastagi.contract import Outcome, Script
from tests.config.test_mistakes import sections_without

ROOT = Path(__file__).parents[2]
REST = 'asterisk: {secret: "x"}\n'
NOBODY = "devices: []\npause_reasons: []\n"


def loaded(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "x.yml"
    file.write_text(REST + text + sections_without(text), encoding="utf-8")
    return load(file, environ=environ)


def test_the_sample_loads_as_it_is() -> None:
    settings = load(ROOT / "config", environ={})
    assert [(q.number, q.name) for q in settings.queues] == [
        ("701", "sales"),
        ("702", "support"),
        ("703", "billing"),
    ]
    assert settings.agents is not None
    assert [agent.number for agent in settings.agents] == [f"400{n}" for n in range(1, 7)]
    assert settings.languages() == ("en", "fr")
    assert sum(agent.pin is not None for agent in settings.agents) == 2
    assert [reason.name for reason in settings.pause_reasons] == [
        "lunch",
        "break",
        "meeting",
        "training",
        "admin",
    ]
    assert len(settings.devices) == 2
    rules = settings.device_rules()
    assert resolve(rules, "1001") == Device("1001", "phones", "PJSIP/1001", "PJSIP/1001", "local")
    assert resolve(rules, "0301") == Device("0301", "", "Local/0301@outbound/n", "", "remote")


def test_the_sample_takes_its_secrets_from_the_environment() -> None:
    settings = load(ROOT / "config", environ={"AMI_SECRET": "abc", "PIN_CAROL": "777"})
    assert settings.asterisk.secret.get_secret_value() == "abc"
    assert settings.agents is not None
    assert settings.agents[2].pin is not None
    assert settings.agents[2].pin.get_secret_value() == "777"


def test_what_every_documented_value_becomes(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        """
fastagi: {listen: "[::1]:4573", allow: [10.0.0.0/8, "::1"], standby: ["b:1"], drain: 1m}
database: postgresql://u:p@h/d
http:
  listen: 0.0.0.0:9493
  tokens: {reporting: tok-en-of-12}
  proxies: [10.0.0.4, 10.1.0.0/16]
  names: [pbx.example.com]
webhooks: {allow: [192.168.0.0/16]}
language: fr
feature_codes: {login: "*41", status: null, queue: ~}
login:
  extension_from: caller_id
  lockout: {failures: 7, within: 1h30m, for: 90s}
  already_elsewhere: move
  in_use_by_another: take_over
  logoff_in_call: refuse
devices: [{match: _10XX, interface: "SIP/{extension}", context: c}]
prompts: {LOGGED_IN: custom/hello, WRONG_PIN: [a, b]}
pause_reasons: [{code: 01, name: no, productive: no, max_duration: 45m, when_exceeded: logoff}]
queues: [{id: 3, number: 0701, name: 1:30}]
agents: [{number: 0123, name: yes, pin: 0042, queues: [{name: "1:30", penalty: 2}]}]
""",
    )
    assert settings.fastagi.listen == HostPort("::1", 4573)
    assert settings.fastagi.allow == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert settings.fastagi.standby == (("b", 1),)
    assert settings.fastagi.drain == timedelta(minutes=1)
    assert settings.http is not None
    assert settings.http.tokens["reporting"].token.get_secret_value() == "tok-en-of-12"
    assert settings.http.tokens["reporting"].rights == ("read", "control")
    assert settings.http.proxies == (ip_network("10.0.0.4"), ip_network("10.1.0.0/16"))
    assert settings.http.names == ("pbx.example.com",)
    assert settings.webhooks.allow == (ip_network("192.168.0.0/16"),)
    codes = settings.feature_codes.by_script()
    assert codes[Script.LOGIN] == "*41"
    assert Script.STATUS not in codes
    assert Script.QUEUE not in codes
    assert codes[Script.TOGGLE_PAUSE] == "*39"
    login = settings.login
    assert login.extension_from == "caller_id"
    assert login.lockout.rule().within == timedelta(minutes=90)
    assert login.lockout.rule().duration == timedelta(seconds=90)
    assert (login.already_elsewhere, login.in_use_by_another) == ("move", "take_over")
    assert login.logoff_in_call is WhenInCall.REFUSE
    assert resolve(settings.device_rules(), "1001") == Device(
        "1001", "c", "SIP/1001", "SIP/1001", "local"
    )
    assert settings.prompts == {
        Outcome.LOGGED_IN: ("custom/hello",),
        Outcome.WRONG_PIN: ("a", "b"),
    }
    # What YAML 1.1 would have made False, 1, 449 and 90 of is text here.
    (reason,) = settings.pause_reasons
    assert (reason.code, reason.name, reason.productive) == ("01", "no", False)
    assert (reason.max_duration, reason.when_exceeded) == (timedelta(minutes=45), "logoff")
    (queue,) = settings.queues
    assert (queue.id, queue.number, queue.name) == (3, "0701", "1:30")
    assert settings.agents is not None
    (agent,) = settings.agents
    assert (agent.number, agent.name, agent.language) == ("0123", "yes", "fr")
    assert agent.pin is not None
    assert agent.pin.get_secret_value() == "0042"
    assert [(q.name, q.penalty) for q in agent.queues] == [("1:30", 2)]


def test_defaults(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "agents: []\nqueues: []\n")
    assert settings.fastagi.listen == HostPort("127.0.0.1", 4573)
    assert settings.fastagi.max_sessions == 4000
    assert settings.fastagi.session_deadline == timedelta(seconds=120)
    assert settings.agents == settings.queues == ()
    assert settings.http is None
    with_http = loaded(tmp_path, "http: {}\n")
    assert with_http.http is not None
    assert with_http.http.listen == HostPort("127.0.0.1", 9493)
    assert with_http.http.loopback


def test_settings_do_not_change(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "prompts: {LOGGED_IN: a}\n")
    with pytest.raises(ValidationError):
        settings.language = "fr"  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.prompts[Outcome.LOGGED_IN] = ("b",)  # type: ignore[index]


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        "database: postgresql://u:s3cret@h/d\n"
        "http: {tokens: {a: s3cret-and-more, b: {token: more-s3cret-here, rights: [read]}}}\n"
        "agents: [{number: 1, name: A, pin: 31415926}]\n"
        "fastagi: {standby: [a:1]}\n",
    )
    for shown in (repr(settings), str(settings), repr(settings.http), repr(settings.agents)):
        assert "s3cret" not in shown
        assert "31415926" not in shown


def test_environment_values(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        "database: sqlite:///${DIR:-here}/${FILE}\n"
        "agents: [{number: 1, name: '$${NAME} $ ${NAME}', pin: '${PIN:-4321}'}]\n"
        "queues: [{number: 7, name: '${EMPTY:-seven}'}]\n"
        "# ${ONLY_IN_A_COMMENT}\n",
        FILE="a.db",
        NAME="x: [*y, ${FILE}] #",
        EMPTY="",
    )
    assert settings.database == "sqlite:///here/a.db"
    assert settings.agents is not None
    # A value is a value: neither YAML nor another ${…} in it means anything.
    assert settings.agents[0].name == "${NAME} $ x: [*y, ${FILE}] #"
    assert settings.agents[0].pin is not None
    assert settings.agents[0].pin.get_secret_value() == "4321"
    assert settings.queues[0].name == "seven"


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        """
agents:
  - &first {number: 1, name: A, language: fr, queues: &both [{name: s, penalty: 1}]}
  - {<<: *first, number: 2, name: B}
  - {<<: [{language: de}, *first], number: 3, name: C, queues: *both}
queues: [{number: 7, name: s}]
""",
    )
    assert settings.agents is not None
    assert [(a.number, a.name, a.language) for a in settings.agents] == [
        ("1", "A", "fr"),
        ("2", "B", "fr"),
        ("3", "C", "de"),
    ]
    assert all(agent.queues[0].penalty == 1 for agent in settings.agents)


def test_a_folder_is_all_its_yml_files(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text("language: fr\n", encoding="utf-8")
    (tmp_path / "a.yml").write_text(REST + sections_without(""), encoding="utf-8")
    (tmp_path / "empty.yml").write_text("# nothing yet\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not: [yaml", encoding="utf-8")
    (tmp_path / ".hidden.yml").write_text("x: y\n", encoding="utf-8")
    assert load(tmp_path).language == "fr"
    (tmp_path / "c.yml").write_text("login: {}\nlanguage: de\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/c.yml:2:1: language: stands here and in {tmp_path}/b.yml:1: once is enough"
    )


def test_other_endings_and_empty_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \*\.yml in this folder"):
        load(tmp_path)
    (tmp_path / "a.yaml").write_text(REST + sections_without(""), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"call it a\.yml"):
        load(tmp_path)
    assert load(tmp_path / "a.yaml").language == "en"  # named outright it is fine
    with pytest.raises(ConfigError, match="no such file or folder"):
        load(tmp_path / "nowhere")


def test_where_the_configuration_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTAGI_CONFIG", raising=False)
    monkeypatch.setattr("fastagi.config.loading.SYSTEM", tmp_path / "etc")
    with pytest.raises(ConfigError, match="no configuration"):
        find()
    (tmp_path / "config").mkdir()
    assert find() == Path("config")
    (tmp_path / "etc").mkdir()
    assert find() == tmp_path / "etc"
    monkeypatch.setenv("FASTAGI_CONFIG", "/somewhere")
    assert find() == Path("/somewhere")
    assert find("given.yml") == Path("given.yml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("45m", 2700),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1d", 86400),
        ("1d2h3m4s", 93784),
        ("0s", 0),
        ("007m", 420),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "15",
        "m",
        "1.5h",
        "-5m",
        "30m1h",
        "5 m",
        "5min",
        "1h 30m",
        "5M",
        "٣m",
        "400d",
        "9" * 99 + "d",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no duration|longer than a year"):
        duration(text)


@given(st.text(max_size=40))
def test_any_text_is_host_and_port_or_a_value_error(text: str) -> None:
    try:
        place = host_port(text)
    except ValueError:
        return
    assert 1 <= place.port <= 65535
    assert host_port(str(place)) == place
    assert not set(place.host) & set(" ,;()&\n/\"'$")


AGENTS = """\
# the people
agents:   # all of them
- {number: 1, name: A}

# a remark
- number: "2"
  name: "B: 日本"
  pin: ${PIN}
"""
OTHERS = NOBODY + "queues:\n- {number: 7, name: s}\nlanguage: fr\n"


@pytest.mark.parametrize(
    "files",
    [
        {"x.yml": REST + AGENTS + OTHERS},
        {"x.yml": AGENTS + REST + OTHERS},
        {"x.yml": OTHERS + REST + AGENTS},
        {"a.yml": AGENTS, "b.yml": REST + OTHERS},
        {"x.yml": (REST + AGENTS + OTHERS).replace("\n", "\r\n")},
        {"x.yml": "---\n" + REST + OTHERS + AGENTS + "...\n"},
    ],
    ids=["middle", "first", "last", "own file", "CRLF", "markers"],
)
def test_the_short_way_reads_all_but_the_agents(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    whole = load(tmp_path, environ={"PIN": "123"})
    short = load(tmp_path, agents=False, environ={"PIN": "123"})
    assert whole.sliceable
    assert whole.agents is not None
    assert [agent.number for agent in whole.agents] == ["1", "2"]
    assert short.agents is None
    for name in Settings.model_fields.keys() - {"agents"}:
        assert getattr(short, name) == getattr(whole, name)
    assert short.fingerprint_material == whole.fingerprint_material


@pytest.mark.parametrize(
    "text",
    [
        # what looks like a block by its lines is none
        "queues: [{number: 7, name: s, description: 'a\nagents: b'}]\nlanguage: en\n'agents': []\n",
        "agents:\n- &a {number: 1, name: A}\nqueues: [{<<: *a}]\n",
        "queues: []\nagents: [{number: 1, name: 'a\nlanguage: fr\nb'}]\n",
    ],
)
def test_where_lines_deceive_everything_is_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yml"
    file.write_text(REST + NOBODY + text, encoding="utf-8")
    whole = load(file)
    short = load(file, agents=False)
    assert not whole.sliceable
    # Either it was noticed, or nobody takes the short reading for the whole one.
    if short.agents is None:
        assert short.fingerprint_material != whole.fingerprint_material
    else:
        assert short == whole


def test_the_fingerprint_follows_every_byte_and_every_value_used(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    text = REST + NOBODY + "queues: []\nagents: [{number: 1, name: A, pin: '${PIN:-123}'}]\n"

    def taken(text: str, **environ: str) -> bytes:
        file.write_text(text, encoding="utf-8")
        first = load(file, environ=environ).fingerprint_material
        assert load(file, agents=False, environ=environ).fingerprint_material == first
        return first

    different = [
        taken(text),
        taken(text + " "),
        taken(text, PIN="123"),
        taken(text, PIN="1234"),
        taken(text.replace("A,", "B,")),
    ]
    assert len(set(different)) == len(different)
    assert taken(text, UNUSED="1") == different[0]


def test_what_every_setting_of_time_becomes(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        """
timezone: Europe/Paris
pause: {when_in_call: after_call, wrapup: 5s}
pause_reasons: [{code: 1, name: lunch, daily_budget: 1h, when_exceeded: logoff}]
unplugged: {pause_after: null, logoff_after: 5m}
shift: {logoff_at: 20:00}
reconcile: {every: null}
metrics: {listen: 127.0.0.1:9494}
fastagi: {fallback: {command: /opt/f/bin/fastagi-fallback, facts: /etc/asterisk/f.json}}
agents:
  - {number: 1, name: A, logoff_at: "18:30"}
  - {number: 2, name: B, logoff_at: never}
  - {number: 3, name: C, logoff_at: null}
  - {number: 4, name: D, logoff_at: 8:05}
""",
    )
    assert settings.zone == ZoneInfo("Europe/Paris")
    assert settings.pause.when_in_call is WhenInCall.AFTER_CALL
    assert settings.pause.wrapup == timedelta(seconds=5)
    assert settings.pause_reasons[0].daily_budget == timedelta(hours=1)
    assert settings.unplugged.pause_after is None
    assert settings.unplugged.logoff_after == timedelta(minutes=5)
    assert settings.shift.logoff_at == "20:00"
    assert settings.reconcile.every is None
    assert settings.metrics.listen == HostPort("127.0.0.1", 9494)
    assert settings.fastagi.fallback == FallbackSettings(
        command="/opt/f/bin/fastagi-fallback", facts="/etc/asterisk/f.json"
    )
    assert [a.logoff_at for a in settings.agents or ()] == ["18:30", "never", "never", "08:05"]


def test_a_wrap_up_of_an_earlier_version_is_taken_and_told(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "pause:\n  when_in_call: after_call\n  wrapup: 5s\n")
    (warning,) = [w for w in settings.warnings if w.path == "pause.wrapup"]
    assert warning.line == 4  # a secret stands above
    assert "has no effect any more" in warning.message


def test_what_is_not_written_of_it(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "unplugged:\n  # pause_after: 1m\n")
    assert settings.pause.when_in_call is WhenInCall.ALLOW
    assert settings.pause.wrapup == timedelta(0)
    assert settings.unplugged == UnpluggedSettings(pause_after="30s", logoff_after="10m")
    assert settings.shift.logoff_at is None
    assert settings.reconcile.every == timedelta(seconds=60)
    assert settings.metrics.listen is None
    assert settings.fastagi.fallback is None


@pytest.mark.parametrize("off", ["null", "~", "off", "OFF", "no", "false"])
def test_unplugged_phones_are_left_alone_by_one_line(tmp_path: Path, off: str) -> None:
    unplugged = loaded(tmp_path, f"unplugged: {off}\n").unplugged
    assert (unplugged.pause_after, unplugged.logoff_after) == (None, None)


def test_one_asterisk_has_no_name(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "")
    assert [asterisk.name for asterisk in settings.asterisks] == [""]
    assert settings.asterisk is settings.asterisks[0]
    assert settings.asterisk_named("") is settings.asterisk


def test_several_asterisks(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text(
        "asterisks:\n  - {name: paris, secret: a}\n  - {name: lyon-2, host: 10.0.0.2, secret: b}\n"
        + sections_without("")
    )
    settings = load(file, environ={})
    assert [(a.name, a.host) for a in settings.asterisks] == [
        ("paris", "127.0.0.1"),
        ("lyon-2", "10.0.0.2"),
    ]
    assert settings.asterisk.name == "paris"
    assert settings.asterisk_named("lyon-2").secret.get_secret_value() == "b"
    with pytest.raises(KeyError):
        settings.asterisk_named("")
    assert load(file, agents=False, environ={}).asterisks == settings.asterisks


def test_the_zone_is_the_machine_s_when_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    monkeypatch.setenv("TZ", "America/Sao_Paulo")
    assert loaded(tmp_path, "").zone.utcoffset(noon) == timedelta(hours=-3)
    monkeypatch.delenv("TZ")
    paris = next(
        Path(root, "Europe/Paris") for root in TZPATH if Path(root, "Europe/Paris").exists()
    )
    (tmp_path / "localtime").symlink_to(paris)
    monkeypatch.setattr("fastagi.config.values._LOCAL_ZONE", str(tmp_path / "localtime"))
    assert loaded(tmp_path, "").zone.utcoffset(noon) == timedelta(hours=2)
    assert loaded(tmp_path, "").zone.tzname(noon.replace(month=1)) == "CET"
    monkeypatch.setattr("fastagi.config.values._LOCAL_ZONE", str(tmp_path / "none"))
    assert loaded(tmp_path, "").zone is UTC


@pytest.mark.parametrize("word", ["asterisk", "asterisks"])
def test_an_unreadable_asterisk_is_not_called_missing_too(tmp_path: Path, word: str) -> None:
    file = tmp_path / "x.yml"
    file.write_text(f"{word}: {{\nlanguage: en\n{sections_without('')}")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert len(caught.value.problems) == 1


OFF = ["off", "OFF", "no", "none", "false", "never", "null", "~", "0"]


@pytest.mark.parametrize("word", OFF)
def test_the_same_words_switch_everything_off(tmp_path: Path, word: str) -> None:
    settings = loaded(
        tmp_path,
        f"""
http: {{tls: {word}, agent_php: {word}}}
fastagi: {{fallback: {word}, advertise: {word}, drain: {word}}}
webhooks: {{secret: {word}}}
feature_codes: {{login: {word}, logoff: {word}, pause: {word}, unpause: {word}, status: {word},
  queue: {word}, toggle_login: {word}, toggle_pause: {word}}}
pause: {{wrapup: {word}}}
unplugged: {{pause_after: {word}, logoff_after: {word}}}
shift: {{logoff_at: {word}}}
reconcile: {{every: {word}}}
metrics: {{listen: {word}}}
pause_reasons: [{{code: 1, name: a, max_duration: {word}, daily_budget: {word}}}]
queues: [{{number: 7, name: s, pauses: [{{reason: 1, limit_duration: {word}}}]}}]
agents: [{{number: 1, name: A, logoff_at: {word}}}]
""",
    )
    assert settings.http is not None
    assert settings.http.tls is settings.http.agent_php is None
    assert settings.fastagi.fallback is settings.fastagi.advertise is None
    assert settings.fastagi.drain == settings.pause.wrapup == timedelta(0)
    assert settings.webhooks.secret is None
    assert settings.feature_codes.by_script() == {}
    assert settings.unplugged.pause_after is settings.unplugged.logoff_after is None
    assert settings.shift.logoff_at is None
    assert settings.reconcile.every is None
    assert settings.metrics.listen is None
    (reason,) = settings.pause_reasons
    assert reason.max_duration is reason.daily_budget is None
    assert settings.queues[0].pauses[0].limit_duration is None
    assert settings.agents is not None
    assert settings.agents[0].logoff_at == "never"
    assert [warning.path for warning in settings.warnings] == ["pause.wrapup"], "of no effect"


@pytest.mark.parametrize("word", OFF)
def test_the_same_words_switch_whole_sections_off(tmp_path: Path, word: str) -> None:
    text = "".join(f"{s}: {word}\n" for s in ("http", "metrics", "unplugged", "shift", "reconcile"))
    settings = loaded(tmp_path, text)
    assert settings.http is None
    assert settings.metrics.listen is None
    assert settings.unplugged == UnpluggedSettings(pause_after=None, logoff_after=None)
    assert settings.shift.logoff_at is None
    assert settings.reconcile.every is None


def test_a_limit_of_nothing_is_none(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "reconcile: {every: 0s}\nunplugged: {pause_after: 0m}\n")
    assert settings.reconcile.every is settings.unplugged.pause_after is None


def test_an_id_of_a_pause_reason(tmp_path: Path) -> None:
    (reason,) = loaded(tmp_path, "pause_reasons: [{id: 12, code: 1, name: a}]\n").pause_reasons
    assert reason.id == 12


def test_joiners_are_parts_of_names(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        "agents: [{number: 1, name: می‌خواهم}, {number: 2, name: क्‍ष}]\n"
        "pause_reasons: [{code: 1, name: نمی‌دانم}]\n"
        "queues: [{number: 7, name: پشتیبانی‌فنی}]\n",
    )
    assert settings.agents is not None
    assert [a.name for a in settings.agents] == ["می‌خواهم", "क्‍ष"]
    assert "\u200c" in settings.pause_reasons[0].name
    assert "\u200c" in settings.queues[0].name


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::1", "::1/128"),
        ("fd00::/8", "fd00::/8"),
    ],
)
def test_an_address_of_ipv4_written_as_ipv6(tmp_path: Path, text: str, network: str) -> None:
    settings = loaded(tmp_path, f"fastagi: {{allow: ['{text}']}}\n")
    assert settings.fastagi.allow == (ip_network(network),)


def test_one_file_for_each_team(tmp_path: Path) -> None:
    (tmp_path / "fastagi.yml").write_text(f"{REST}devices: []\npause_reasons: []\n")
    (tmp_path / "north.yml").write_text(
        "queues: [{number: 701, name: north}]\nagents: [{number: 1, name: A, queues: [north]}]\n"
    )
    (tmp_path / "south.yml").write_text(
        "queues: [{number: 702, name: south}]\n"
        "agents:\n- {number: 2, name: B, queues: [north, south]}\n- {number: 3, name: C}\n"
    )
    (tmp_path / "west.yml").write_text("pause_reasons: [{code: 1, name: lunch}]\nagents: []\n")
    settings = load(tmp_path)
    assert [queue.name for queue in settings.queues] == ["north", "south"]
    assert settings.agents is not None
    assert [agent.number for agent in settings.agents] == ["1", "2", "3"]
    assert [reason.name for reason in settings.pause_reasons] == ["lunch"]
    short = load(tmp_path, agents=False)
    assert short.agents is None
    assert short.fingerprint_material == settings.fingerprint_material
    assert settings.sliceable


def test_mistakes_in_the_file_of_a_team(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(f"{REST}devices: []\npause_reasons: []\nqueues: []\n")
    (tmp_path / "b.yml").write_text("agents:\n- {number: 1, name: A}\n- {number: 2, name: B}\n")
    (tmp_path / "c.yml").write_text(
        "agents:\n- {number: x, name: C}\n- {number: 2, name: D, queues: [sales]}\n"
    )
    (tmp_path / "d.yml").write_text("agents:\n")
    (tmp_path / "e.yml").write_text("agents: {4: D}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert [str(p).removeprefix(f"{tmp_path}/") for p in caught.value.problems] == [
        "c.yml:2:12: agents[0].number: 'x' is no number: 1 to 20 digits",
        f"c.yml:3:12: agents[1].number: '2' is taken already by agents[1] in {tmp_path}/b.yml:3",
        "c.yml:3:33: agents[1].queues[0]: no queue 'sales': no queue is configured",
        "d.yml:1:1: agents: is empty: write agents: [] where there are none",
        "e.yml:1:1: agents: must be a list ([…] or '- ' lines)",
    ]


def test_device_rules_stand_in_one_file_as_their_order_counts(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(f"{REST}{sections_without('')}")
    (tmp_path / "b.yml").write_text("devices: []\n")
    with pytest.raises(ConfigError, match=r"b\.yml:1:1: devices: .* the first rule that matches"):
        load(tmp_path)


def test_a_missing_section_is_missing_in_the_folder(tmp_path: Path) -> None:
    for name in ("agents.yml", "queues.yml", "fastagi.yml"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert {problem.file for problem in caught.value.problems} == {str(tmp_path)}
    assert [problem.path for problem in caught.value.problems] == [
        *("devices", "pause_reasons", "queues", "agents", "asterisk")
    ]


def test_what_is_no_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(f"{REST}{sections_without('')}")
    os.mkfifo(tmp_path / "b.yml")
    (tmp_path / "c.yml").symlink_to("/dev/zero")
    (tmp_path / "d.yml").symlink_to("/dev/tty")
    (tmp_path / "e.yml").symlink_to("nowhere")
    with (tmp_path / "f.yml").open("wb") as huge:
        huge.truncate(2**33)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "g.yml"))
        with pytest.raises(ConfigError) as caught:
            load(tmp_path)
        assert content_digest(tmp_path) == content_digest(tmp_path)
    said = {Path(p.file).name: p.message for p in caught.value.problems}
    odd = "is no ordinary file (a pipe, a socket or a device)"
    assert said == {
        **dict.fromkeys(("b.yml", "c.yml", "d.yml", "g.yml"), odd),
        "e.yml": "is a link to a file that is not there",
        "f.yml": "is larger than 32 MiB: is that a configuration?",
    }


def test_what_aliases_make_of_a_few_lines_is_bounded(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    file = tmp_path / "x.yml"
    file.write_text(REST + text + sections_without(""))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [p.message for p in caught.value.problems if not p.message.startswith("unknown")] == [
        "this alias contains itself, or far too much"
    ]


def test_signature_and_content(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("x: 1\n")
    seen, content = signature(tmp_path), content_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert (signature(tmp_path), content_digest(tmp_path)) == (seen, content)
    (tmp_path / "a.yml").write_text("x: 1\n")
    assert signature(tmp_path) != seen
    assert content_digest(tmp_path) == content
    (tmp_path / "b.yml").write_text("")
    assert content_digest(tmp_path) != content
    assert signature(tmp_path / "nowhere") == ()
    assert content_digest(tmp_path / "nowhere") != content


MINIMAL = 'asterisk: {secret: "x"}\ndevices: []\npause_reasons: []\nqueues: []\nagents: []\n'


def problems(place: Path, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(place, environ=environ or {})
    return [str(problem).removeprefix(f"{place}/") for problem in caught.value.problems]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_other_encodings_are_told(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yml").write_bytes(MINIMAL.encode(encoding))
    assert problems(tmp_path) == ["a.yml:1:1: this is not UTF-8: save the file with that encoding"]


def test_files_put_together_have_their_marks_in_the_middle(tmp_path: Path) -> None:
    """Written by Windows' editors, joined by ``copy a.yml+b.yml`` or ``cat``."""
    text = MINIMAL.replace("queues", "\ufeffqueues").replace("\n", "\r\n")
    (tmp_path / "a.yml").write_bytes(b"\xef\xbb\xbf" * 2 + text.encode())
    assert load(tmp_path, environ={}).queues == ()


def test_what_has_no_width_is_to_be_taken_out(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(MINIMAL.replace("queues: ", "queues:\u200b "), "utf-8")
    assert problems(tmp_path)[-1].endswith("U+200B (ZERO WIDTH SPACE) stands here: take it out")


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000])
def test_nested_too_deep(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yml").write_text(MINIMAL + "login:\n  " + text)
    (problem,) = problems(tmp_path)
    assert "nested too deep" in problem or "is not closed" in problem


@pytest.mark.parametrize("name", ["agents.yaml", "agents.YML", "agents.Yaml"])
def test_another_ending_is_seen_come_and_go(tmp_path: Path, name: str) -> None:
    """It is a mistake as long as it is there: once it is gone, the rest has to be read."""
    (tmp_path / "a.yml").write_text(MINIMAL)
    without = signature(tmp_path)
    (tmp_path / name).write_text("agents: []\n")
    (problem,) = problems(tmp_path)
    assert problem == f"{name}:1:1: not read: in a folder *.yml counts, call it agents.yml"
    assert signature(tmp_path) != without
    (tmp_path / name).unlink()
    assert signature(tmp_path) == without


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('http: {tls: {certificate: "a\\0b", key: k}}', "http.tls.certificate"),
        ("http: {tls: {certificate: c, key: '${ODD}'}}", "http.tls.key"),
        ("database: 'sqlite:///${ODD}'", "database"),
    ],
)
def test_names_of_files_that_no_file_can_have(tmp_path: Path, text: str, path: str) -> None:
    """Else it is met when the file is opened, by somebody who does not know what it is about."""
    (tmp_path / "a.yml").write_text(f"{MINIMAL}{text}\n")
    (problem,) = problems(tmp_path, {"ODD": "a\udcffb"})
    assert f": {path}: " in problem


@pytest.mark.parametrize("wrong", ["", "logn: {}\n"])
def test_what_was_read_is_gone_before_the_collector_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """It would look through millions of objects, and no phone would be answered meanwhile."""
    (tmp_path / "a.yml").write_text(MINIMAL + wrong)
    alive: list[int] = []
    made: list[weakref.ref[Any]] = []

    class Watched(loading._Loading):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(weakref.ref(self))

    def enable() -> None:
        alive.append(sum(one() is not None for one in made))

    monkeypatch.setattr(loading, "_Loading", Watched)
    collector = SimpleNamespace(isenabled=lambda: True, disable=lambda: None, enable=enable)
    monkeypatch.setattr(loading, "gc", collector)
    with suppress(ConfigError):
        load(tmp_path, environ={})
    assert made
    assert alive == [0]


def test_a_line_of_blanks_takes_no_time() -> None:
    """It took hours, with all calls waiting."""
    text = "language: en" + " " * 3_000_000 + "x\nshift: off # a remark\nname: Anna #1\n"
    assert list(hashes(text)) == [(2, 11, "name")]


def test_thousands_of_mistakes_of_one_kind_are_looked_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that was renamed in one file, all agents have; each has a remark in the other."""
    agents = "".join(f"  - {{number: {n}, name: A, queues: [sales]}}\n" for n in range(300))
    remarks = "".join(f"  - number: {n}\n    name: A #{n}\n" for n in range(300, 600))
    text = MINIMAL.replace("queues: []", "queues: [{number: 1, name: sale}]")
    (tmp_path / "a.yml").write_text(text.replace("agents: []", "agents:") + agents + remarks)
    guessed: list[str] = []
    real = checks.did_you_mean
    monkeypatch.setattr(
        checks, "did_you_mean", lambda word, known: guessed.append(word) or real(word, known)
    )
    assert len(problems(tmp_path)) == 300
    assert guessed == ["sales"]
    (tmp_path / "a.yml").write_text(text.replace("agents: []", "agents:") + remarks)
    split: set[int] = set()
    path_by_line = loading.path_by_line
    monkeypatch.setattr(
        loading,
        "path_by_line",
        lambda lines, line: split.add(id(lines)) or path_by_line(lines, line),
    )
    assert len(load(tmp_path, environ={}).warnings) == 300
    assert len(split) <= 2, "the text is cut into lines once for each reading"


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(MINIMAL)
    (tmp_path / "b.yml").symlink_to(tmp_path / "gone")
    assert problems(tmp_path) == ["b.yml:1:1: is a link to a file that is not there"]
