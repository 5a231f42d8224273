"""No secret is repeated when something is wrong with it, wherever it was written."""

from pathlib import Path

import pytest

from fastagi.config import ConfigError, Settings, load
from fastagi.config.secrets import looks_like_one, without
from fastagi.config.values import is_language
from tests.config.test_mistakes import sections_without

SECRET = "S3CR3T-ENV"
TOKEN = "9f86d081884c7d659a2feaa0c55ad015"
REST = "asterisk: {secret: x}\n"

# Everywhere a single value can stand: what comes from ${…} may have been put into the wrong place.
PLACES = [
    *("fastagi: {listen: '%s'}", "fastagi: {advertise: '%s'}", "fastagi: {allow: ['%s']}"),
    *("fastagi: {max_sessions: '%s'}", "fastagi: {drain: '%s'}", "fastagi: {standby: ['%s']}"),
    *("fastagi: {fallback: {command: '%s', facts: /f}}", "http: {listen: '%s'}"),
    *("http: {max_body: '%s'}", "http: {tokens: {a: '%s'}}", "http: {tls: '%s'}"),
    *("http: {tokens: {a: {token: '%s'}}}", "http: {agent_php: {allow: ['%s']}}"),
    *("http: {tokens: {a: {token: aaaaaaaaaaaa, rights: ['%s']}}}", "webhooks: {allow: ['%s']}"),
    *("webhooks: {secret: '%s'}", "webhooks: {timeout: '%s'}", "metrics: {listen: '%s'}"),
    *("language: '%s'", "timezone: '%s'", "database: '%s'", "database: 'postgres://u:%s@h/d'"),
    *("feature_codes: {login: '%s'}", "login: {pin_tries: '%s'}", "login: {lockout: '%s'}"),
    *("login: {already_elsewhere: '%s'}", "pause: {wrapup: '%s'}", "pause: {when_in_call: '%s'}"),
    *("devices: [{match: '%s[', interface: 'PJSIP/1'}]", "devices: ['%s']"),
    *("devices: [{match: '1', interface: '%s'}]", "devices: [{match: '1', interface: 'a/%s,'}]"),
    *("devices: [{match: '1', interface: 'PJSIP/1', type: '%s'}]", "prompts: {LOGGED_IN: '%s&'}"),
    *("pause_reasons: [{code: '%s', name: a}]", "pause_reasons: [{code: 1, name: '%s|'}]"),
    *("queues: [{number: '%s', name: a}]", "queues: [{number: 1, name: '%s]'}]"),
    *("queues: [{id: '%s', number: 1, name: a}]", "agents: [{number: '%s', name: A}]"),
    *("agents: [{number: 1, name: A, pin: '%s'}]", "agents: [{number: 1, name: A, login: '%s '}]"),
    *("agents: [{number: 1, name: A, queues: ['%s']}]", "agents: [{number: 1, name: ' %s'}]"),
    *("agents: [{number: 1, name: A, queues: [{name: '%s'}]}]", "shift: {logoff_at: '%s'}"),
    *("agents: [{number: 1, name: A, logoff_at: '%s'}]", "reconcile: {every: '%s'}"),
    *("agents: [{number: 1, name: A, enabled: '%s'}]", "unplugged: {pause_after: '%s'}"),
    *("unplugged: '%s'", "shift: '%s'", "agents: '%s'", "login: '%s'"),
    "agents: [{number: '%s', name: A}, {number: '%s', name: B}]",
]


def problems(tmp_path: Path, text: str, **environ: str) -> str:
    file = tmp_path / "x.yml"
    rest = "" if "asterisk:" in text else REST
    file.write_text(f"{rest}{text}\n{sections_without(text)}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file, environ=environ)
    return str(caught.value).replace(str(file), "x.yml")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("secret", [SECRET, "hunter2", 'it\'s "a" \\ secret', "Ünïcödé-S3cret"])
def test_a_value_of_the_environment_is_never_shown(tmp_path: Path, place: str, secret: str) -> None:
    said = problems(tmp_path, place.replace("%s", "${S}"), S=secret)
    assert secret not in said
    assert repr(secret)[1:-1] not in said


@pytest.mark.parametrize(
    "place",
    # In the others a token is in its place.
    [
        place
        for place in PLACES
        if "a: '%s'" not in place
        and "n: '%s'" not in place
        and not place.startswith("webhooks: {secret")
    ],
)
def test_what_looks_like_a_token_is_never_shown(tmp_path: Path, place: str) -> None:
    assert TOKEN[:20] not in problems(tmp_path, place.replace("%s", TOKEN)).replace(" ", "")


@pytest.mark.parametrize(
    "text",
    [
        f"http: {{tokens: {{{TOKEN}: reporting}}}}",  # the token as the name
        f"http: {{tokens: {{{TOKEN}: {{token: x}}}}}}",
        f"asterisk: {{secret: x, {TOKEN}: y}}",
        f'asterisk: {{secret:"{TOKEN}"}}',  # no blank
        f"asterisk: {{secret: x, username: 'p@ss w0rd {TOKEN}'}}",
        f"{TOKEN}:",
        "root:$y$j9T$abcdefgh$0123456789abcdef0123456789:19000:0:99999:7:::",
        "asterisk: {secret: *hunter2-h1dden}",
        "asterisk:\n  secret: *Hunter2-h1dden\n",
        f"agents: [{{number: 1, name: A, passwd: {TOKEN}}}]",
        f"http: {{tokens: {{a: {TOKEN}, b: {TOKEN}}}}}",
    ],
)
def test_a_secret_in_the_wrong_place(tmp_path: Path, text: str) -> None:
    said = problems(tmp_path, text)
    for secret in (TOKEN, "unter2", "h1dden", "0123456789abcdef", "w0rd"):
        assert secret not in said


def test_nor_where_the_mistake_is_another_ones(tmp_path: Path) -> None:
    said = problems(tmp_path, "feature_codes: {login: '${S}', logoff: '31'}", S="31415926")
    assert "one begins with the other" in said
    assert "31415926" not in said
    values = {"A": "it's 4711 of Q7", "B": "Q7-4711-0815"}
    said = problems(
        tmp_path,
        "queues: [{number: 1, name: \"${A}\"}, {number: 2, name: '${B}'}]\n"
        'agents: [{number: 1, name: A, queues: ["${A}x", Q7-4711-081]}]',
        **values,
    )
    assert "no queue 'Q7-4711-081'" in said
    assert not any(value in said for value in values.values())


def test_it_is_told_all_the_same_what_is_wrong(tmp_path: Path) -> None:
    said = problems(tmp_path, "pause: {wrapup: '${S}'}", S=SECRET)
    assert said == "x.yml:2:17: pause.wrapup: this is no duration: write 45m, 90s or 1h30m"
    said = problems(tmp_path, "login: {already_elsewhere: '${S}'}", S="movee")
    assert said == "x.yml:2:28: login.already_elsewhere: this is no choice, did you mean 'move'?"


def test_what_is_no_secret_is_shown(tmp_path: Path) -> None:
    assert "'kunden-service-1' is no language" in problems(tmp_path, "language: kunden-service-1")
    assert "'10.0.0.1/8' is an address" in problems(tmp_path, "webhooks: {allow: [10.0.0.1/8]}")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("9f86d081884c7d659a2feaa0c55ad015", True),
        ("whsec_abc", True),
        ("$argon2id$v=19$m=1", True),
        ("$2y$10$abc", True),
        ("Tr0ub4dor&3xyz", True),
        ("kunden-service-1", False),
        ("reporting-tool-2", False),
        ("support", False),
        ("127.0.0.1:4573", False),
        ("PJSIP/1001-alice-2nd", False),
        ("2026-11-22", False),
        ("", False),
    ],
)
def test_what_looks_like_a_secret(text: str, is_one: bool) -> None:
    assert looks_like_one(text) is is_one


def test_a_message_without_the_value() -> None:
    assert without("'a-b' is no x, did you mean 'c'?", "a-b") == "this is no x, did you mean 'c'?"
    assert without("write 0.0.0.0:s3cret", ":s3cret") == "this value cannot stand here"
    assert without("is empty", "") == "is empty"


def test_settings_are_as_silent(tmp_path: Path) -> None:
    assert is_language("en")
    settings = Settings.model_validate({"asterisk": {"secret": SECRET}})
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("asterisk: {secret: {hunter22}}", "asterisk.secret"),
        ("asterisk:\n  secret: {hunter22: 1}", "asterisk.secret"),
        ("asterisk: {secret: x, hunter22: secret}", "asterisk.…: unknown key"),
        ("asterisk: {secret: x}\nhttp: {tokens: {crm: {hunter22}}}", "http.tokens.crm.…"),
        ("asterisk: {secret: '${hunter22}'}", "the environment has no variable of this name"),
        ("asterisk: {secret: x, department: y}", "asterisk.department: unknown key"),
        ("asterisk: {secret: '${AMI}'}", "the environment has no AMI (${AMI:-…}"),
    ],
)
def test_a_secret_in_the_place_of_a_key_or_a_name(tmp_path: Path, text: str, said: str) -> None:
    nobody = "devices: []\npause_reasons: []\nqueues: []\nagents: []\n"
    (tmp_path / "x.yml").write_text(f"{text}\n{nobody}")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, environ={})
    assert said in str(caught.value)
    assert "hunter22" not in str(caught.value)
