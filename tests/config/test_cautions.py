"""What is allowed, and hardly meant, is said, and how to write what is meant."""

from pathlib import Path

import pytest

from fastagi.config import Problem, load
from tests.config.test_mistakes import sections_without

ROOT = Path(__file__).parents[2]


def warned(tmp_path: Path, text: str, **environ: str) -> list[Problem]:
    file = tmp_path / "x.yml"
    rest = "" if "asterisk:" in text else "asterisk: {secret: x}\n"
    file.write_text(f"{text}\n{rest}{sections_without(text)}", encoding="utf-8")
    return list(load(file, environ=environ).warnings)


@pytest.mark.parametrize(
    ("text", "line", "column", "path", "message", "mend"),
    [
        (
            "asterisk: {secret: $AMI_SECRET}",
            *(
                1,
                20,
                "asterisk.secret",
                "no value of the environment",
                "did you mean ${AMI_SECRET}?",
            ),
        ),
        (
            "asterisk: {secret: abc$HUNTER22}",  # a part of a secret, and no variable here
            *(1, 20, "asterisk.secret", "no value of the environment", "did you mean ${NAME}?"),
        ),
        (
            "http: {tokens: {crm: $crm_token_of_mine}}",
            *(1, 22, "http.tokens.crm", "no value of the environment", "did you mean ${NAME}?"),
        ),
        (
            "database: postgresql://u:$DB_PASSWORD@h/d",
            *(1, 11, "database", "no value of the environment", "did you mean ${DB_PASSWORD}?"),
        ),
        (
            "asterisk:\n  secret: abc #def",
            *(2, 15, "asterisk.secret", "what follows is a comment", "quotes around the value"),
        ),
        (
            "http:\n  tokens:\n    crm: abcdefghijkl #mn",
            *(3, 23, "http.tokens.crm", "what follows is a comment", "quotes around"),
        ),
        (
            "agents:\n  - number: 1\n    name: Alice #1",
            *(3, 17, "", "what follows is a comment", "quotes around"),
        ),
        (
            "prompts: {LOGGED_IN: custom/hello.wav}",
            *(1, 22, "prompts.LOGGED_IN", "adds the ending itself", "custom/hello"),
        ),
        (
            "prompts: {LOGGED_IN: [beep, custom/hello.gsm]}",
            *(1, 29, "prompts.LOGGED_IN[1]", "finds no custom/hello.gsm.gsm", "custom/hello"),
        ),
        (
            'devices: [{match: anna, interface: "PJSIP/{extension}"}]',
            *(1, 19, "devices[0].match", "it never matches 'anna'", 'match: "a[n][n]a"'),
        ),
        (
            'devices: [{match: phoneXX, interface: "PJSIP/{extension}"}]',
            *(1, 19, "devices[0].match", "never matches 'phoneXX'", 'match: "pho[n]eXX"'),
        ),
        (
            'devices: [{match: alex-2, interface: "PJSIP/{extension}"}]',
            *(1, 19, "devices[0].match", "it never matches 'alex-2'", 'match: "ale[x]-2"'),
        ),
        (
            'devices: [{match: FAX, interface: "PJSIP/{extension}"}]',
            *(1, 19, "devices[0].match", "it never matches 'FAX'", 'match: "FA[X]"'),
        ),
        (
            'devices: [{match: Nina., interface: "PJSIP/{extension}"}]',
            *(1, 19, "devices[0].match", "never matches 'Nina.'", 'match: "[N]i[n]a."'),
        ),
        ("http:\n", 1, 6, "http", "is empty, and so switched off", "{} for its defaults"),
        (
            "asterisk: {secret: fastagi-demo}",
            *(1, 20, "asterisk.secret", "the sample's secret", "one of your own"),
        ),
        (
            "agents: [{number: 7, name: A, pin: 4321}, {number: 8, name: B, pin: '4321'}]",
            *(1, 36, "agents[0].pin", "the sample's PIN", "a PIN of their own"),
        ),
        (
            "agents: [{number: 7, name: A, outside: ['0712345678']}]",
            *(1, 40, "agents[0].outside", "without a PIN: agent 7", "a pin for each"),
        ),
        (
            "login: {from: [from-trunk]}\n"
            "agents: [{number: 7, name: A}, {number: 8, name: B, pin: 918273}]",
            *(1, 15, "login.from", "without a PIN in and off: agent 7", "a pin for each"),
        ),
    ],
)
def test_it_is_said_with_its_place_and_cure(
    tmp_path: Path, text: str, line: int, column: int, path: str, message: str, mend: str
) -> None:
    (found,) = warned(tmp_path, text)
    assert (found.line, found.column, found.path) == (line, column, path)
    assert message in found.message
    assert mend in found.mend
    assert "4321" not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "asterisk: {secret: '${AMI_SECRET}'}",
        "asterisk: {secret: a$b}",
        "agents: [{number: 1, name: A, pin_hash: $argon2id$v=19$abcdefgh}]",
        "asterisk:\n  secret: abc   # a remark",
        "asterisk:\n  secret: 'abc #def'",
        "asterisk:\n  secret: abc#def",
        "login:\n  pin_tries: 3 #three",
        "# name: x #y\nasterisk: {secret: abc}",
        "prompts: {LOGGED_IN: custom/v1.2}",
        "prompts: {LOGGED_IN: agent-loginok}",
        'devices: [{match: 10XX, interface: "PJSIP/{extension}"}]',
        'devices: [{match: "NXXNXX", interface: "PJSIP/{extension}"}]',
        'devices: [{match: "0X.", interface: "PJSIP/{extension}"}]',
        'devices: [{match: "alice-desk", interface: "PJSIP/{extension}"}]',
        'devices: [{match: "a[nxz]b", interface: "PJSIP/{extension}"}]',
        'devices: [{match: "SIPXX", interface: "PJSIP/{extension}"}]',
        "login: {from: [from-trunk]}\nagents: [{number: 8, name: B, pin: 918273}]",
        "agents: [{number: 8, name: B, pin: 918273, outside: ['0712345678']}]",
        "http: {}",
        "http: off",
        "http: null",
    ],
)
def test_what_is_meant_is_not_warned_of(tmp_path: Path, text: str) -> None:
    assert warned(tmp_path, text, AMI_SECRET="abc") == []


def test_what_it_proposes_is_right(tmp_path: Path) -> None:
    for name in ("anna", "alex-2", "zoe", "Xenia"):
        (found,) = warned(
            tmp_path, f'devices: [{{match: {name}, interface: "PJSIP/{{extension}}"}}]'
        )
        pattern = found.mend.removeprefix('match: "').removesuffix('"')
        file = tmp_path / "y.yml"
        rule = f'devices: [{{match: "{pattern}", interface: "PJSIP/{{extension}}"}}]\n'
        file.write_text(f"asterisk: {{secret: x}}\n{rule}{sections_without(rule)}")
        settings = load(file, environ={})
        assert settings.warnings == ()
        assert settings.device_rules()[0].pattern.matches(name)


def test_warnings_of_agents_are_seen_at_every_start(tmp_path: Path) -> None:
    """The short way leaves the agents out, so it is not taken where there is something to say."""
    file = tmp_path / "x.yml"
    text = "agents: [{number: 1, name: A, pin: 4321}]\n"
    file.write_text(f"asterisk: {{secret: x}}\n{text}{sections_without(text)}")
    whole = load(file, environ={})
    assert whole.warnings
    assert load(file, agents=False, environ={}).fingerprint_material != whole.fingerprint_material


def test_the_sample_says_what_of_it_must_not_stay() -> None:
    said = [warning.message for warning in load(ROOT / "config", environ={}).warnings]
    assert said == [
        "the sample's PIN, which everybody knows: agents 4003, 4006",
        "the sample's secret, which everybody knows",
    ]
    own = {"AMI_SECRET": "a", "PIN_CAROL": "123", "PIN_FANNY": "456"}
    assert load(ROOT / "config", environ=own).warnings == ()
