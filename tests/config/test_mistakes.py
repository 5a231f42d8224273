"""Every kind of mistake, with its exact place."""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagi.config import ConfigError, Problem, load

REST = 'asterisk: {secret: "x"}\n'
SECRETS = ("31415926", "t0psecret", "hunter22")

Load = Callable[[str], list[Problem]]


def sections_without(text: str) -> str:
    """The sections that must be there, empty, but for those in this text."""
    required = ("devices", "pause_reasons", "queues", "agents")
    text = text.replace("quues", "queues")
    missing = (key for key in required if not re.search(rf"^ ?{key}\b", text, re.MULTILINE))
    return "".join(f"{key}: []\n" for key in missing)


@pytest.fixture
def mistakes(tmp_path: Path) -> Load:
    """The problems of one file with this text, after a line that makes it complete."""

    def problems(text: str) -> list[Problem]:
        file = tmp_path / "x.yml"
        file.write_text(REST + text, encoding="utf-8")
        (tmp_path / "zz.yml").write_text(sections_without(text), encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, environ={"SET": "31415926"})
        assert [str(problem) for problem in caught.value.problems] == str(caught.value).splitlines()
        return caught.value.problems

    return problems


Q = "queues: [{number: 701, name: sales}]\n"

# text, line and column in it, path, what the message contains
MISTAKES: dict[str, tuple[str, int, int, str, str]] = {
    "unknown section": ("fastagy: {}\n", 1, 1, "fastagy", "did you mean 'fastagi'?"),
    "unknown section, nothing near": ("zzz: 1\n", 1, 1, "zzz", "unknown key"),
    "unknown key": ("fastagi:\n  lisen: x:1\n", 2, 3, "fastagi.lisen", "mean 'listen'?"),
    "unknown key, deep": (
        "login:\n  lockout: {failures: 3, fro: 15m}\n",
        *(2, 26, "login.lockout.fro", "did you mean 'for'?"),
    ),
    "unknown key in a list": (
        "agents:\n  - number: 1\n    name: A\n    pni: 1\n",
        *(4, 5, "agents[0].pni", "did you mean 'pin'?"),
    ),
    "codes from nowhere": (
        "login:\n  from: [phones, 'PJSIP/']\n",
        *(2, 18, "login.from[1]", "'PJSIP/' is no endpoint, such as PJSIP/trunk"),
    ),
    "codes from a pattern": (
        "login: {from: ['PJSIP/_2[']}\n",
        *(1, 16, "login.from[0]", "'[' without ']'"),
    ),
    "an outside number with a blank": (
        "agents: [{number: 1, name: A, pin: 918, outside: ['07 12']}]\n",
        *(1, 51, "agents[0].outside[0]", "write 0712345678"),
    ),
    "missing key": ("agents:\n  - name: A\n", 2, 5, "agents[0].number", "is missing"),
    "missing key, flow": ("queues: [{name: a}]\n", 1, 10, "queues[0].number", "is missing"),
    "empty value": ("agents:\n  - {number: 1, name: }\n", 2, 23, "agents[0].name", "is empty"),
    "not a mapping": ("login: 3\n", 1, 8, "login", "must be a mapping"),
    "not a list": ("queues: {a: b}\n", 1, 9, "queues", "must be a list"),
    "not one value": (
        "agents:\n  - {number: [1], name: A}\n",
        *(2, 14, "agents[0].number", "must be one value"),
    ),
    "item not a mapping": ("agents:\n  - 4001\n", 2, 5, "agents[0]", "must be a mapping"),
    "no whole number": (
        "login:\n  pin_tries: three\n",
        *(2, 14, "login.pin_tries", "must be a whole number"),
    ),
    "too long a time": (
        "webhooks:\n  timeout: 1m\n",
        *(2, 12, "webhooks.timeout", "must be at most 50s"),
    ),
    "too small": ("login: {pin_tries: 0}\n", 1, 20, "login.pin_tries", "at least 1"),
    "too large": ("asterisk2: 1\n", 1, 1, "asterisk2", "did you mean 'asterisk'?"),
    "no boolean": (
        "pause_reasons: [{code: 1, name: a, productive: maybe}]\n",
        *(1, 48, "pause_reasons[0].productive", "true or false"),
    ),
    "no choice": (
        "login: {extension_from: callerid}\n",
        *(1, 25, "login.extension_from", "'callerid' is no choice, did you mean 'caller_id'?"),
    ),
    "no choice, nothing near": (
        "login: {already_elsewhere: xyz}\n",
        *(1, 28, "login.already_elsewhere", "one of ask, move, refuse"),
    ),
    "duration without unit": (
        "login: {lockout: {within: 15}}\n",
        *(1, 27, "login.lockout.within", "'15' is no duration (with its unit)"),
    ),
    "duration of nothing": (
        "fastagi: {header_timeout: 0s}\n",
        *(1, 27, "fastagi.header_timeout"),
        "longer than 0s",
    ),
    "listen without host": ("fastagi: {listen: 4573}\n", 1, 19, "fastagi.listen", "not host:port"),
    "listen without a port that is one": (
        "fastagi: {listen: '127.0.0.1:99999'}\n",
        *(1, 19, "fastagi.listen", "'99999' is no port"),
    ),
    "IPv6 without brackets": ("fastagi: {listen: '::1:4573'}\n", 1, 19, "fastagi.listen", "[::1]"),
    "hostile host": (
        "fastagi: {advertise: 'a,b)x:1'}\n",
        *(1, 22, "fastagi.advertise", "neither a host name nor an address"),
    ),
    "network with host bits": (
        "fastagi:\n  allow:\n    - 10.0.0.1/8\n",
        *(3, 7, "fastagi.allow[0]", "did you mean '10.0.0.0/8'?"),
    ),
    "no network": ("webhooks: {allow: [x]}\n", 1, 20, "webhooks.allow[0]", "no address or network"),
    "nobody allowed": ("fastagi: {allow: []}\n", 1, 18, "fastagi.allow", "no Asterisk could call"),
    "database": ("database: mysql://x\n", 1, 11, "database", "sqlite:/// or postgresql://"),
    "database with two slashes": ("database: sqlite://x.db\n", 1, 11, "database", "sqlite:///"),
    "postgres": ("database: postgres://h/d\n", 1, 11, "database", "mean postgresql://"),
    "http open without tokens": (
        "http:\n  listen: 0.0.0.0:80\n",
        *(2, 11, "http.listen", "without tokens only loopback"),
    ),
    "language": ("language: french\n", 1, 11, "language", "'french' is no language"),
    "agent's language": (
        "agents: [{number: 1, name: A, language: FR}]\n",
        *(1, 41, "agents[0].language", "is no language"),
    ),
    "zone": ("timezone: Europe/Pariss\n", 1, 11, "timezone", "did you mean 'Europe/Paris'?"),
    "zone without its continent": (
        "timezone: paris\n",
        *(1, 11, "timezone", "'paris' is no time zone, did you mean 'Europe/Paris'?"),
    ),
    "zone that is a folder": ("timezone: Europe\n", 1, 11, "timezone", "is no time zone"),
    "zone with a way out": ("timezone: ../x\n", 1, 11, "timezone", "is no time zone"),
    "pause in a call": (
        "pause: {when_in_call: aftercall}\n",
        *(1, 23, "pause.when_in_call", "did you mean 'after_call'?"),
    ),
    "wrap-up without unit": ("pause: {wrapup: 5}\n", 1, 17, "pause.wrapup", "(with its unit)"),
    "the system's reason": (
        "pause_reasons: [{code: 1, name: Device-Lost}]\n",
        *(1, 33, "pause_reasons[0].name", "an agent whose phone is gone: not yours"),
    ),
    "logged off before paused": (
        "unplugged: {pause_after: 1m, logoff_after: 1m}\n",
        *(1, 44, "unplugged.logoff_after", "logoff_after (1m) must be longer than pause_after"),
    ),
    "logged off before paused, by default": (
        "unplugged:\n  pause_after: 15m\n",
        *(2, 16, "unplugged.pause_after", "logoff_after (10m) must be longer"),
    ),
    "unplugged, one word": ("unplugged: on\n", 1, 12, "unplugged", "must be a mapping"),
    "shift": (
        "shift: {logoff_at: 8pm}\n",
        *(1, 20, "shift.logoff_at", "'8pm' is no time of day: write HH:MM"),
    ),
    "shift at 24:00": ("shift: {logoff_at: 24:00}\n", 1, 20, "shift.logoff_at", '"00:00"'),
    "shift with seconds": ("shift: {logoff_at: 20:00:00}\n", 1, 20, "shift.logoff_at", "HH:MM"),
    "an agent's shift": (
        "agents: [{number: 1, name: A, logoff_at: nevr}]\n",
        *(1, 42, "agents[0].logoff_at", "did you mean 'never'?"),
    ),
    "reconcile": ("reconcile: {evry: 60s}\n", 1, 13, "reconcile.evry", "did you mean 'every'?"),
    "metrics on a port that is taken": (
        "http:\n  listen: 127.0.0.1:9493\nmetrics: {listen: 127.0.0.1:9493}\n",
        *(3, 19, "metrics.listen", "is http.listen already"),
    ),
    "fallback without facts": (
        "fastagi:\n  fallback:\n    command: /a\n",
        *(2, 3, "fastagi.fallback.facts", "is missing"),
    ),
    "fallback with a relative path": (
        "fastagi: {fallback: {command: bin/f, facts: /f}}\n",
        *(1, 31, "fastagi.fallback.command", "'bin/f' is no absolute path"),
    ),
    "fallback that ends an argument": (
        "fastagi: {fallback: {command: '/a,b)', facts: /f}}\n",
        *(1, 31, "fastagi.fallback.command", "a path in a dialplan"),
    ),
    "both kinds of Asterisk": (
        "asterisks:\n  - {name: a, secret: x}\n",
        *(1, 1, "asterisks", "there is asterisk too: one of them"),
    ),
    "code": (
        'feature_codes:\n  login: "31x"\n',
        *(2, 10, "feature_codes.login", "'31x' is no feature code"),
    ),
    "bare code": (
        "feature_codes:\n  login: *31\n",
        *(2, 10, "feature_codes.login"),
        'quote it: "*31"',
    ),
    "bare code with two stars": (
        "feature_codes: {login: *3*1, pause: '*40'}\n",
        *(1, 24, "feature_codes", 'quote it: "*3*1"'),
    ),
    "bare star": ("feature_codes:\n  login: *\n", *(2, 10, "feature_codes.login"), 'quote it: "*"'),
    "code that is a comment": (
        "feature_codes:\n  login: #31\n",
        *(2, 9, "feature_codes.login", "a code that begins with # needs quotes"),
    ),
    "same code": (
        'feature_codes:\n  login: "*33"\n',
        *(2, 10, "feature_codes.login", "'*33' is the code of pause already"),
    ),
    "code that begins another": (
        'feature_codes:\n  status: "*3"\n  login: "*40"\n  queue: "*401"\n',
        *(2, 11, "feature_codes.status", "one begins with the other"),
    ),
    "pattern": (
        'devices: [{match: "10[XX", interface: "PJSIP/{extension}"}]\n',
        *(1, 19, "devices[0].match", "'[' without ']', at character 3"),
    ),
    "placeholder": (
        'devices: [{match: "10XX", interface: "PJSIP/{exten}"}]\n',
        *(1, 38, "devices[0].interface", "the only placeholder is {extension}"),
    ),
    "interface without placeholder": (
        'devices: [{match: "10XX", interface: PJSIP/1}]\n',
        *(1, 38, "devices[0].interface", "would be one queue member"),
    ),
    "interface that is none": (
        'devices: [{match: "10XX", interface: "{extension}"}]\n',
        *(1, 38, "devices[0].interface", "is no interface"),
    ),
    "interface with a comma": (
        'devices: [{match: "1", interface: "PJSIP/1,2"}]\n',
        *(1, 35, "devices[0].interface", "',' cannot stand"),
    ),
    "interface with a new line": (
        'devices: [{match: "1", interface: "PJSIP/1\\nAction: x"}]\n',
        *(1, 35, "devices[0].interface", "control characters"),
    ),
    "interface that Asterisk would cut": (
        f'devices: [{{match: "1.", interface: "Local/{{extension}}@{"c" * 40}/n"}}]\n',
        *(1, 36, "devices[0].interface", "Asterisk keeps 79"),
    ),
    "device type": (
        'devices: [{match: "1", interface: PJSIP/1, type: remot}]\n',
        *(1, 50, "devices[0].type", "did you mean 'remote'?"),
    ),
    "prompt for no outcome": (
        "prompts:\n  LOGED_IN: x\n",
        *(2, 3, "prompts.LOGED_IN", "did you mean 'LOGGED_IN'?"),
    ),
    "prompt that is no sound": (
        "prompts: {WRONG_PIN: [ok, 'a&b']}\n",
        *(1, 27, "prompts.WRONG_PIN[1]", "'a&b' is no sound"),
    ),
    "silent prompt": (
        "prompts: {WRONG_PIN: []}\n",
        1,
        22,
        "prompts.WRONG_PIN",
        "never hear silence",
    ),
    "reason's name": (
        "pause_reasons: [{code: 1, name: 'a|b'}]\n",
        *(1, 33, "pause_reasons[0].name", "'|' cannot stand"),
    ),
    "reason's name too long": (
        f"pause_reasons: [{{code: 1, name: {'é' * 40}}}]\n",
        *(1, 33, "pause_reasons[0].name", "79 bytes"),
    ),
    "reason's code": (
        "pause_reasons: [{code: a1, name: b}]\n",
        *(1, 24, "pause_reasons[0].code", "'a1' is no code"),
    ),
    "reason's code twice": (
        "pause_reasons: [{code: 1, name: a}, {code: 1, name: b}]\n",
        *(1, 44, "pause_reasons[1].code", "taken already by pause_reasons[0]"),
    ),
    "reason's limit": (
        "pause_reasons: [{code: 1, name: a, when_exceeded: unpause}]\n",
        *(1, 51, "pause_reasons[0].when_exceeded", "without max_duration"),
    ),
    "queue's name": (
        'queues: [{number: 1, name: "a]"}]\n',
        *(1, 28, "queues[0].name", "brackets"),
    ),
    "queue called general": (
        "queues: [{number: 1, name: general}]\n",
        *(1, 28, "queues[0].name"),
        "is no queue",
    ),
    "queue twice": (
        "queues: [{number: 1, name: a}, {number: 2, name: A}]\n",
        *(1, 50, "queues[1].name", "'A' is taken already by queues[0]"),
    ),
    "agent's number": (
        "agents: [{number: 40-01, name: A}]\n",
        *(1, 19, "agents[0].number", "'40-01' is no number"),
    ),
    "agent's number too long": (
        f"agents: [{{number: {'1' * 21}, name: A}}]\n",
        *(1, 19, "agents[0].number", "1 to 20 digits"),
    ),
    "agent twice": (
        "agents:\n  - {number: 1, name: A}\n  - {number: 1, name: B}\n",
        *(3, 14, "agents[1].number", "'1' is taken already by agents[0]"),
    ),
    "id twice": (
        "agents:\n  - {id: 7, number: 1, name: A}\n  - {id: 07, number: 2, name: B}\n",
        *(3, 10, "agents[1].id", "taken already"),
    ),
    "name with a control character": (
        'agents: [{number: 1, name: "a\\tb"}]\n',
        *(1, 28, "agents[0].name", "control characters"),
    ),
    "no such queue": (
        Q + "agents: [{number: 1, name: A, queues: [sails]}]\n",
        *(2, 40, "agents[0].queues[0]", "no queue 'sails', did you mean 'sales'?"),
    ),
    "no such queue, long form": (
        Q + "agents: [{number: 1, name: A, queues: [{name: sails}]}]\n",
        *(2, 47, "agents[0].queues[0].name", "did you mean 'sales'?"),
    ),
    "queue by number": (
        Q + "agents: [{number: 1, name: A, queues: [701]}]\n",
        *(2, 40, "agents[0].queues[0]", "write its name, 'sales'"),
    ),
    "queue in another case": (
        Q + "agents: [{number: 1, name: A, queues: [Sales]}]\n",
        *(2, 40, "agents[0].queues[0]", "did you mean 'sales'?"),
    ),
    "queue twice for an agent": (
        Q + "agents: [{number: 1, name: A, queues: [sales, sales]}]\n",
        *(2, 47, "agents[0].queues[1]", "stands here twice"),
    ),
    "penalty": (
        Q + "agents: [{number: 1, name: A, queues: [{name: sales, penalty: -1}]}]\n",
        *(2, 63, "agents[0].queues[0].penalty", "at least 0"),
    ),
    "pin": (
        "agents: [{number: 1, name: A, pin: 31415926x}]\n",
        *(1, 36, "agents[0].pin", "a PIN has 3 to 12 digits"),
    ),
    "pin_hash": (
        "agents: [{number: 1, name: A, pin_hash: 31415926}]\n",
        *(1, 41, "agents[0].pin_hash", "argon2"),
    ),
    "pin and hash": (
        "agents: [{number: 1, name: A, pin: 31415926, pin_hash: $argon2id$v=19$abcdefgh}]\n",
        *(1, 56, "agents[0].pin_hash", "there is a pin too"),
    ),
    "token": (
        "http: {tokens: {a: t0psecret-9-9, b: {token: t0psecret-9-9}}}\n",
        *(1, 38, "http.tokens.b", "the same token as that of a"),
    ),
    "short token": (
        "http: {tokens: {a: t0psecret}}\n",
        *(1, 20, "http.tokens.a", "12 characters or more"),
    ),
    "no right": (
        "http: {tokens: {a: {token: t0psecret-9-9, rights: [reed]}}}\n",
        *(1, 52, "http.tokens.a.rights[0]", "did you mean 'read'?"),
    ),
    "hook secret": (
        "webhooks: {secret: whsec_t0psecret}\n",
        *(1, 20, "webhooks.secret", "base64 of 24 to 64"),
    ),
    "agent.php for nobody": (
        "http:\n  agent_php: {}\n",
        *(2, 14, "http.agent_php", "nobody could use it"),
    ),
    "half of TLS": (
        "http:\n  tls: {certificate: /etc/ssl/a.pem}\n",
        *(2, 8, "http.tls.key", "is missing"),
    ),
    "empty token": ('http: {tokens: {a: ""}}\n', 1, 20, "http.tokens.a", "is empty"),
    "environment": (
        "fastagi:\n  listen: ${LISTEN_ON}:4573\n",
        *(2, 11, "fastagi.listen", "the environment has no LISTEN_ON"),
    ),
    "environment, further on": (
        "language: en\nhttp: {tokens: {a: 'x${SET}y${NOT}'}}\n",
        *(2, 29, "http.tokens.a", "the environment has no NOT"),
    ),
    "environment, no name": (
        "database: sqlite:///${1X}\n",
        *(1, 21, "database", "write ${NAME} or ${NAME:-default}"),
    ),
    "environment value of the wrong kind": (
        "agents: [{number: 1, name: A, pin: '${SET}x'}]\n",
        *(1, 36, "agents[0].pin", "3 to 12 digits"),
    ),
    "key twice": (
        "login: {pin_tries: 1, pin_tries: 2}\n",
        *(1, 23, "login.pin_tries"),
        "stands here twice, first in line 2",
    ),
    "section twice": ("language: en\nlanguage: fr\n", 2, 1, "language", "first in line 2"),
    "tag": ("language: !!python/name:os.system x\n", 1, 11, "language", "tags (!…) mean nothing"),
    "tab": ("login:\n\tpin_tries: 3\n", 2, 1, "", "a tab cannot indent"),
    "tab after spaces": (
        "login:\n  pin_tries: 3\n\tlockout: {}\n",
        3,
        1,
        "",
        "a tab cannot indent",
    ),
    "quote not closed": ('language: "en\nlogin: {}\n', 1, 11, "", "this quote is not closed"),
    "bracket not closed": ("queues: [{number: 1\nlogin: {}\n", 1, 10, "", "is not closed"),
    "second colon": ("database: a: b\n", 1, 12, "", "a second ':'"),
    "forbidden first character": ("language: @x\n", 1, 11, "", "begins with '@' must be quoted"),
    "indentation": (
        "login:\n  pin_tries: 3\n lockout: {}\n",
        *(3, 2, "", "one blank left of 'pin_tries' above (line 3)"),
    ),
    "no colon": (
        "login:\n  pin_tries\n  lockout: {}\n",
        3,
        10,
        "",
        "a second ':' on this line, or",
    ),
    "control character": ("language: \x07\n", 1, 11, "", "control characters are not allowed"),
    "second document": ("language: en\n---\nlogin: {}\n", 2, 1, "", "a second document"),
    "unknown alias": (
        "login: &defaults {}\nfastagi: {<<: *default}\n",
        *(2, 15, "fastagi", "no anchor '&default' stands before this, did you mean 'defaults'?"),
    ),
    "merging no mapping": ("login: {<<: 3}\n", 1, 13, "login", "'<<' takes a mapping"),
    "alias of itself": ("agents: &a [*a]\n", 1, 9, "agents[0]", "contains itself"),
    "key that is a list": ("login: {[a]: b}\n", 1, 9, "login", "a key must be a word"),
    # blanks, quotes and lines that stand where they should not
    "item one blank too far left": (
        "queues:\n  - {number: 701, name: a}\n - {number: 702, name: b}\n",
        *(3, 2, "", "this line stands one blank left of '-' above (line 3)"),
    ),
    "key one blank too far left": (
        "queues:\n  - number: 701\n    name: a\n   description: x\n",
        *(4, 4, "", "one blank left of 'name' above (line 4)"),
    ),
    "key one blank too far right": (
        "agents:\n  - number: 4001\n     name: A\n",
        *(3, 6, "", "one blank right of 'number' above (line 3)"),
    ),
    "item two blanks too far right": (
        "queues:\n- {number: 701, name: a}\n  - {number: 702, name: b}\n",
        *(3, 3, "", "2 blanks right of '-' above (line 3)"),
    ),
    "the first of several too far left": (
        "login:\n pin_tries: 3\n  already_elsewhere: ask\n  in_use_by_another: refuse\n",
        *(2, 2, "", "one blank left of 'already_elsewhere' below (line 4)"),
    ),
    "a section that is indented": (
        "login:\n  pin_tries: 3\n devices:\n  - {match: 1, interface: PJSIP/1}\n",
        *(3, 2, "", "'devices' stands one blank too far right: sections begin in the first"),
    ),
    "two blanks behind a dash": (
        "agents:\n  -  number: 4004\n    name: A\n",
        *(3, 5, "", "one blank left of 'number' above (line 3)"),
    ),
    "no colon after a key": (
        "agents:\n  - number: 4005\n    name Étienne\n    language: fr\n",
        *(3, 9, "", "':' is missing after 'name'"),
    ),
    "no blank behind the colon, and a remark with one": (
        "login:\n  pin_tries: 3\n  already_elsewhere:ask  # ask: or move\n  lockout: {}\n",
        *(3, 21, "", "a blank is missing after 'already_elsewhere:'"),
    ),
    "a section's name misspelled": (
        "quues: [{number: 1, name: s}]\nagents: [{number: 1, name: A, queues: [s]}]\n",
        *(1, 1, "quues", "did you mean 'queues'?"),
    ),
    "quote not closed, noticed lines below": (
        'queues:\n  - number: "702\n    name: b\n  - number: "703"\n    name: c\n',
        *(2, 13, "", "this quote is not closed"),
    ),
    "single quote not closed": (
        "queues:\n  - number: '702\n    name: b\n  - number: '703'\n    name: c\n",
        *(2, 13, "", "this quote is not closed"),
    ),
    "quote not closed in braces": (
        'queues:\n  - {number: "702, name: b}\n  - {number: "703", name: c}\n',
        *(2, 14, "", "this quote is not closed"),
    ),
    "quote not closed, at the end": (
        'queues: []\nlogin:\n  already_elsewhere: "ask\n',
        *(3, 22, "", "this quote is not closed"),
    ),
    "text behind a quote": (
        'queues:\n  - number: "701" x\n    name: a\n',
        *(2, 18, "", "text follows the closing quote"),
    ),
    "no comma in braces": (
        'queues:\n  - {number: "701" name: a}\n',
        *(2, 19, "", "a ',' is missing here"),
    ),
    "no blank behind the colon": (
        'agents:\n  - number: "4001"\n    name: A\n  - number:"4002"\n    name: B\n',
        *(4, 12, "", "a blank is missing after 'number:'"),
    ),
    "no blank behind the colon, bare": (
        "agents:\n  - number: 4001\n    name:A\n",
        *(3, 10, "", "a blank is missing after 'name:'"),
    ),
    "no blank behind the colon, in the first line": (
        "login:\n  pin_tries:3\n  lockout: {}\n",
        *(2, 13, "", "a blank is missing after 'pin_tries:'"),
    ),
    "no blank behind the colon, alone": (
        "login:\n  pin_tries:3\n",
        *(2, 3, "login", "a blank is missing after 'pin_tries:'"),
    ),
    "no blank behind the colon of a section": (
        "language:en\n",
        *(1, 10, "", "a blank is missing after 'language:'"),
    ),
    "no blank behind the colon, in braces": (
        'agents:\n  - {number:"4001", name: A}\n',
        *(2, 6, "agents[0].number:…", "a blank is missing after 'number:'"),
    ),
    "no blank behind a dash": (
        "queues:\n  -{number: 701, name: a}\n",
        *(2, 4, "", "a blank is missing after '-'"),
    ),
    "an equals sign": (
        "login:\n  pin_tries = 3\n",
        *(2, 3, "login", "write 'pin_tries: ' with a colon"),
    ),
    "no-break blanks as indentation": (
        "agents:\n  - number: 4001\n\u00a0\u00a0\u00a0 name: A\n",
        *(3, 1, "", "U+00A0 (NO-BREAK SPACE) stands here: write a blank"),
    ),
    "a no-break blank behind the colon": (
        "agents:\n  - number:\u00a0'4001'\n    name: A\n",
        *(2, 12, "", "U+00A0 (NO-BREAK SPACE)"),
    ),
    "a blank of no width": (
        "login:\n  pin_tries:\u200b 3\n",
        *(2, 13, "", "U+200B (ZERO WIDTH SPACE)"),
    ),
    "a byte order mark in the middle": (
        "login:\n  \ufeffpin_tries: 3\n",
        *(2, 3, "", "U+FEFF"),
    ),
    "a no-break blank in a name": (
        "agents: [{number: 1, name: 'a\u00a0b'}]\n",
        *(1, 28, "agents[0].name", "U+00A0 (NO-BREAK SPACE) cannot stand here"),
    ),
    "what turns a line around in a name": (
        "agents: [{number: 1, name: 'a\u202eb'}]\n",
        *(1, 28, "agents[0].name", "U+202E (RIGHT-TO-LEFT OVERRIDE) cannot stand here"),
    ),
    "a merge": (
        "agents:\n  - {number: 1, name: A}\n<<<<<<< HEAD\n  - {number: 2, name: B}\n"
        "=======\n  - {number: 3, name: C}\n>>>>>>> other\n",
        *(3, 1, "", "'<<<<<<<' is what git leaves of a merge"),
    ),
    "the end of a merge": ("language: en\n>>>>>>> other\n", 2, 1, "", "'>>>>>>>' is what git"),
    "typographic quotes": (
        "queues: [{number: “701”, name: a}]\n",
        *(1, 19, "queues[0].number", "typographic quotes are no quotes"),
    ),
    "an escape that is none": (
        'language: "a\\qb"\n',
        *(1, 13, "", "a backslash begins something special"),
    ),
    "hostname": ("fastagi:\n  hostname: x\n", 2, 3, "fastagi.hostname", "unknown key"),
    "agents by their number": (
        'agents:\n  "4001": {name: A}\n',
        *(1, 1, "agents", "must be a list"),
    ),
    # what is empty
    "agents without a word": ("agents:\n", 1, 1, "agents", "is empty: write agents: [] where"),
    "agents null": ("agents: null\n", 1, 1, "agents", "is empty: write agents: []"),
    "queues without a word": ("queues:\n", 1, 1, "queues", "is empty: write queues: []"),
    "devices without a word": ("devices:\n", 1, 1, "devices", "is empty: write devices: []"),
    "pause reasons without a word": ("pause_reasons:\n", 1, 1, "pause_reasons", "is empty"),
    "a limit that is a comment": (
        "reconcile:\n  every: #60s\n",
        *(2, 9, "reconcile.every", "is empty: write its value, or null for none"),
    ),
    "a PIN that is a comment": (
        "agents:\n- number: 1\n  name: A\n  pin: #1234\n",
        *(4, 7, "agents[0].pin", "is empty: write its value"),
    ),
    "an unknown section without a word": ("zzz:\n", 1, 1, "zzz", "unknown key"),
    # values
    "id of a reason twice": (
        "pause_reasons: [{id: 1, code: 1, name: a}, {id: 1, code: 2, name: b}]\n",
        *(1, 49, "pause_reasons[1].id", "'1' is taken already by pause_reasons[0]"),
    ),
    "a name without end": (
        f"agents: [{{number: 1, name: {'x' * 300}}}]\n",
        *(1, 28, "agents[0].name", "longer than 250 characters"),
    ),
    "a value without end": (
        f"agents: [{{number: 1, name: {'x' * 5000}}}]\n",
        *(1, 28, "agents[0].name", "longer than any value may be (4096 characters)"),
    ),
    "a lock-out of nothing": (
        "login: {lockout: {within: off}}\n",
        *(1, 27, "login.lockout.within", "longer than 0s"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_place(mistakes: Load, name: str) -> None:
    text, line, column, path, message = MISTAKES[name]
    found = mistakes(text)
    first = next((p for p in found if message in p.message), None)
    assert first is not None, found
    # One line stands before the text.
    assert (first.line, first.column, first.path) == (line + 1, column, path)
    told = "\n".join(map(str, found))
    assert not [secret for secret in SECRETS if secret in told]


@pytest.mark.parametrize(
    "name", sorted(MISTAKES.keys() - {"code that begins another", "second document"})
)
def test_a_mistake_is_told_once(mistakes: Load, name: str) -> None:
    found = mistakes(MISTAKES[name][0])
    assert len(found) == 1, found


def test_eight_mistakes_in_one_run(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(
        "fastagi:\n"
        "  lisen: 127.0.0.1:4573\n"  # 1: unknown key
        "  header_timeout: 5\n"  # 2: no unit
        "asterisk:\n"
        "  secret: ${NO_SUCH_NAME}\n"  # 3: not in the environment
        "feature_codes:\n"
        "  login: *31\n"  # 4: a bare star
        'devices: [{match: "1[", interface: PJSIP/1}]\n'  # 5: pattern
        "pause_reasons: []\n",
        encoding="utf-8",
    )
    (tmp_path / "b.yml").write_text(
        "login:\n"
        "\tpin_tries: 3\n"  # 6: a tab
        "queues: [{number: 701, name: sales}]\n"
        "agents:\n"
        "  - {number: 1, name: A, queues: [sails]}\n"  # 7: no such queue
        "  - {number: 1, name: B}\n",  # 8: number twice
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, environ={})
    places = [
        (Path(problem.file).name, problem.line, problem.column, problem.path)
        for problem in caught.value.problems
    ]
    assert places == [
        ("a.yml", 2, 3, "fastagi.lisen"),
        ("a.yml", 3, 19, "fastagi.header_timeout"),
        ("a.yml", 5, 11, "asterisk.secret"),
        ("a.yml", 7, 10, "feature_codes.login"),
        ("a.yml", 8, 19, "devices[0].match"),
        ("b.yml", 2, 1, ""),
        ("b.yml", 5, 35, "agents[0].queues[0]"),
        ("b.yml", 6, 14, "agents[1].number"),
    ]
    assert str(caught.value).splitlines()[0] == (
        f"{tmp_path}/a.yml:2:3: fastagi.lisen: unknown key, did you mean 'listen'?"
    )


def test_a_section_that_cannot_be_read_causes_no_further_problems(mistakes: Load) -> None:
    found = mistakes("queues:\n\t- x\nagents: [{number: 1, name: A, queues: [sales]}]\n")
    assert [(p.line, p.message) for p in found] == [(3, "a tab cannot indent: use spaces")]


def test_a_missing_section(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text(f"language: en\n{sections_without('')}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}:1:1: asterisk: is missing"
    text = f"language: en\nasterisk:\n  host: localhost\n{sections_without('')}"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}:2:1: asterisk.secret: is missing"


def test_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_bytes(b"language: en\nagents: [{name: Andr\xe9}]\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [str(p) for p in caught.value.problems] == [
        f"{file}:2:21: this is not UTF-8: save the file with that encoding"
    ]


SCRAPS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("agents: ", "queues: ", "feature_codes: ", "asterisk: ", "secret: x", "login: "),
                *("number: ", "name: ", "null", "<<: ", "*31", "&a ", "*a", "${X}", "${", "!!int "),
                *("  - ", "- ", "---\n", "\n", "\t", "? ", "> ", ": ", ",", "  ", *"{}[]'\"#"),
            ]
        ),
        st.text(max_size=5),
    ),
    max_size=25,
).map("".join)


@settings(deadline=None, max_examples=400)
@given(SCRAPS)
def test_any_text_loads_or_is_a_list_of_problems(text: str) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "x.yml"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        for agents in (True, False):
            try:
                load(file, agents=agents, environ={})
            except ConfigError as error:
                problems = error.problems
            else:
                continue
            last = len(text.splitlines()) + 2
            assert problems
            assert all(1 <= p.line <= last and p.column >= 1 for p in problems)


@pytest.mark.parametrize("depth", [100, 3000])
def test_nesting_without_end(mistakes: Load, depth: int) -> None:
    assert mistakes("language: " + "[" * depth + "]" * depth + "\n")


def test_aliases_that_multiply(mistakes: Load) -> None:
    text = "language:\n  a: &a0 [x]\n"
    text += "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    assert "far too much" in "\n".join(map(str, mistakes(text)))


def test_places_count_characters_also_after_others(mistakes: Load) -> None:
    (found,) = mistakes("agents: [{name: 'Désirée 𝄞', number: x}]\n")
    assert (found.line, found.column) == (2, 38)


def test_the_short_way_tells_the_same_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    text = "agents: [{number: x, name: A}]\nlanguage: xyz\n"
    file.write_text(text + sections_without(text), encoding="utf-8")
    with pytest.raises(ConfigError) as whole:
        load(file)
    with pytest.raises(ConfigError) as short:
        load(file, agents=False)
    assert short.value.problems == whole.value.problems
    assert len(whole.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "place", "path", "message"),
    [
        ("language: en\n", (1, 1), "asterisk", "is missing"),
        ("asterisks: []\n", (1, 12), "asterisks", "is empty"),
        ("asterisks: [{secret: x}]\n", (1, 13), "asterisks[0].name", "is missing"),
        ("asterisk: {name: a, secret: x}\n", (1, 18), "asterisk.name", "make it a list"),
        ("asterisks: [{name: a b, secret: x}]\n", (1, 20), "asterisks[0].name", "20 letters"),
        (
            f"asterisks: [{{name: {'a' * 21}, secret: x}}]\n",
            *((1, 20), "asterisks[0].name", "is no name of an Asterisk"),
        ),
        ("asterisks: [{name: a, host: b}]\n", (1, 13), "asterisks[0].secret", "is missing"),
        ("asterisks: [{name: a, secrt: x}]\n", (1, 23), "asterisks[0].secrt", "mean 'secret'?"),
        ("asteriks: {secret: x}\n", (1, 1), "asteriks", "did you mean 'asterisk"),
        (
            "asterisks:\n- {name: a, secret: x}\n- {name: A, secret: y, port: 5039}\n",
            *((3, 10), "asterisks[1].name", "'A' is taken already by asterisks[0]"),
        ),
        (
            "asterisks:\n- {name: a, secret: x}\n- {name: b, secret: y, port: 5038}\n",
            *((3, 30), "asterisks[1].port", "the same Asterisk as asterisks[0]"),
        ),
    ],
)
def test_which_asterisk(
    tmp_path: Path, text: str, place: tuple[int, int], path: str, message: str
) -> None:
    file = tmp_path / "x.yml"
    file.write_text(text + sections_without(text), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    found = caught.value.problems[0]
    assert ((found.line, found.column), found.path) == (place, path)
    assert message in found.message


def test_a_missing_asterisk_is_found_beside_the_other_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text(f"language: french\ntimezone: x\n{sections_without('')}")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert {problem.path for problem in caught.value.problems} == {
        "asterisk",
        "language",
        "timezone",
    }
