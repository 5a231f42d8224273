"""`fastagi check` before PBXs that somebody has set up: what would fail at the phone is found, each
cause once, and what works is not complained of."""

import os
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fastagi import config, dialplan
from fastagi.check.asterisk import Member
from fastagi.check.queues import place_of
from fastagi.demo.asterisk import Asterisk

from .conftest import ROOT, SECRET, Serve, Setting, _setting
from .test_check import findings, only, pasteable, problems

pytestmark = pytest.mark.asterisk

Found = list[dict[str, str]]


def warnings(found: Found, about: str) -> list[dict[str, str]]:
    return [f for f in found if f["level"] == "warning" and f["about"] == about]


def one_warning(found: Found, about: str) -> dict[str, str]:
    assert problems(found) == []
    (warning,) = warnings(found, about)
    assert warning["mend"]
    return warning


def oks(found: Found, about: str) -> list[str]:
    return [f["what"] for f in found if f["level"] == "ok" and f["about"] == about]


def content(found: Found) -> bool:
    """Nothing but that the service does not run."""
    return [f["about"] for f in found if f["level"] != "ok"] == ["service"]


Loads = Callable[[str], None]


@pytest.fixture
def more(asterisk: Asterisk) -> Loads:
    """``more(text)`` adds contexts to the dialplan."""

    def load(text: str) -> None:
        asterisk.features += f"\n{text}\n"
        asterisk.reload("dialplan")

    return load


@pytest.fixture
def endpoints(asterisk: Asterisk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loads]:
    """``endpoints(text)`` adds sections to pjsip.conf; Asterisk is started anew with them."""
    plain = Asterisk._pjsip_conf

    def load(text: str) -> None:
        monkeypatch.setattr(Asterisk, "_pjsip_conf", lambda self: plain(self) + text)
        asterisk.kill()
        asterisk.start()

    yield load
    asterisk.kill()


def endpoint(name: str, context: str, *more: str) -> str:
    lines = "\n".join(more)
    return (
        f"\n[{name}]\ntype = endpoint\ntransport = udp\ncontext = {context}\nallow = ulaw\n"
        f"auth = 1001\naors = 1001\n{lines}\n"
    )


@pytest.fixture
def queues(asterisk: Asterisk) -> Loads:
    """``queues(text)``: these queues instead."""

    def load(text: str) -> None:
        asterisk.queue_sections = text
        asterisk.reload("queues")

    return load


def remove(member: str, queue: str, asterisk: Asterisk) -> None:
    asterisk.cli(f"queue remove member {member} from {queue}")


# -- state interfaces ----------------------------------------------------------------------------


def test_hint_context_mistyped(healthy: Setting) -> None:
    state = 'interface: PJSIP/{extension}\n    state_interface: "hint:{extension}@ext-locale"'
    healthy.change("interface: PJSIP/{extension}", state)
    status, found = findings(healthy)
    problem = only(found, "devices")
    assert "the context 'ext-locale', which is not loaded" in problem["what"]
    assert "never rings them" in problem["what"]
    assert '"hint:{extension}@phones"' in problem["mend"]
    assert status == 1


def test_hint_that_is_right(healthy: Setting) -> None:
    state = 'interface: PJSIP/{extension}\n    state_interface: "hint:{extension}@phones"'
    healthy.change("interface: PJSIP/{extension}", state)
    _, found = findings(healthy)
    assert content(found)


def test_no_hints_in_the_context(healthy: Setting) -> None:
    state = 'interface: PJSIP/{extension}\n    state_interface: "hint:{extension}@outbound"'
    healthy.change("interface: PJSIP/{extension}", state)
    _, found = findings(healthy)
    problem = only(found, "devices")
    assert "no hint in the context 'outbound' for 1001, 1002, " in problem["what"]
    assert "@phones" in problem["mend"]


def test_hint_in_no_context_is_one_in_default(healthy: Setting) -> None:
    state = 'interface: PJSIP/{extension}\n    state_interface: "hint:{extension}"'
    healthy.change("interface: PJSIP/{extension}", state)
    _, found = findings(healthy)
    assert "the context 'default'" in only(found, "devices")["what"]


def test_hint_of_a_device_that_does_not_exist(healthy: Setting, more: Loads) -> None:
    more("[lamps]\nexten => _10XX,hint,PJSIP/lost-${EXTEN}")
    state = 'interface: PJSIP/{extension}\n    state_interface: "hint:{extension}@lamps"'
    healthy.change("interface: PJSIP/{extension}", state)
    _, found = findings(healthy)
    assert "PJSIP/lost-1001 of 1001" in only(found, "devices")["what"]


def test_state_interface_of_no_device(healthy: Setting) -> None:
    state = "interface: PJSIP/{extension}\n    state_interface: PJSIP/phone-{extension}"
    healthy.change("interface: PJSIP/{extension}", state)
    _, found = findings(healthy)
    assert "does not know: PJSIP/phone-1001 of 1001" in only(found, "devices")["what"]


def test_member_at_a_phone_that_does_not_exist(
    healthy: Setting, serve: Serve, asterisk: Asterisk
) -> None:
    serve(healthy)
    healthy.fastagi("dial", "*314001*1099", "--from", "1001")
    assert "Invalid" in asterisk.cli("queue show sales")
    status, found = findings(healthy)
    problem = only(found, "devices")
    assert re.match(
        r"Agent/4001 is in (sales, support|support, sales) at PJSIP/1099", problem["what"]
    )
    assert problem["mend"].startswith("fastagi dial '*324001' --from 1099 ")
    assert status == 1


def test_members_of_a_broken_rule_are_told_of_once(
    healthy: Setting, serve: Serve, asterisk: Asterisk
) -> None:
    state = 'interface: PJSIP/{extension}\n    state_interface: "hint:{extension}@ext-locale"'
    healthy.change("interface: PJSIP/{extension}", state)
    serve(healthy)
    healthy.fastagi("dial", "*314001", "--from", "1001")
    assert "Invalid" in asterisk.cli("queue show sales")
    _, found = findings(healthy)
    assert "ext-locale" in only(found, "devices")["what"]


# -- rules through a context ---------------------------------------------------------------------

LOCAL = "interface: Local/{extension}@from-queue/n"


def test_local_rule(healthy: Setting, more: Loads) -> None:
    more("[from-queue]\nexten => _10XX,1,Dial(PJSIP/${EXTEN})")
    healthy.change("interface: PJSIP/{extension}", LOCAL)
    _, found = findings(healthy)
    assert content(found)
    assert "matches 6: 1001, 1002, 1003, 1004, 1005 and 1 more" in oks(found, "devices")


def test_local_rule_that_fits_no_phone(healthy: Setting, more: Loads) -> None:
    more("[from-queue]\nexten => _XXXX,1,Dial(PJSIP/${EXTEN})")
    healthy.change('match: "10XX"', 'match: "20XX"')
    healthy.change("interface: PJSIP/{extension}", LOCAL)
    _, found = findings(healthy)
    told = [w["what"] for w in warnings(found, "devices")]
    assert any("fits no phone" in what and "PJSIP/1001" in what for what in told)


def test_local_rule_into_a_context_without_such_numbers(healthy: Setting, more: Loads) -> None:
    more("[from-queue]\nexten => _20XX,1,Dial(PJSIP/${EXTEN})\nexten => s,1,Hangup()")
    healthy.change("interface: PJSIP/{extension}", LOCAL)
    status, found = findings(healthy)
    problem = only(found, "devices")
    assert "no extension of the context 'from-queue' takes 10XX" in problem["what"]
    assert "exten => _10XX" in problem["mend"]
    assert status == 1


def test_local_rule_into_a_context_with_some_of_the_numbers(healthy: Setting, more: Loads) -> None:
    more("[from-queue]\nexten => _100[1-4],1,Dial(PJSIP/${EXTEN})")
    healthy.change("interface: PJSIP/{extension}", LOCAL)
    _, found = findings(healthy)
    assert "has no extension for 1005, 1006" in only(found, "devices")["what"]
    assert "matches 4: 1001, 1002, 1003, 1004" in oks(found, "devices")


def test_local_rule_into_no_context(healthy: Setting) -> None:
    healthy.change("interface: PJSIP/{extension}", LOCAL)
    status, found = findings(healthy)
    assert "'from-queue'" in only(found, "devices")["what"]
    assert status == 1


def test_local_rule_into_a_switch_is_not_complained_of(healthy: Setting, more: Loads) -> None:
    more("[from-queue]\nswitch => Loopback/@inner\n[inner]\nexten => _10XX,1,NoOp()")
    healthy.change("interface: PJSIP/{extension}", LOCAL)
    _, found = findings(healthy)
    assert content(found)


def test_outside_numbers_that_the_context_does_not_take(healthy: Setting, more: Loads) -> None:
    more("[nine]\nexten => _9.,1,Dial(PJSIP/${EXTEN:1}@trunk)")
    healthy.change("@outbound/n", "@nine/n")
    _, found = findings(healthy)
    assert "takes 0X." in only(found, "devices")["what"]
    healthy.change("Local/{extension}@nine", "Local/9{extension}@nine")
    _, found = findings(healthy)
    assert content(found)


# -- phones and rules ----------------------------------------------------------------------------


def test_endpoint_that_is_no_extension(healthy: Setting, endpoints: Loads, more: Loads) -> None:
    endpoints(endpoint("alice-desk", "phones", "callerid = Alice <201>"))
    more("[from-queue]\nexten => 201,1,Dial(PJSIP/alice-desk)")
    rule = '  - match: "201"\n    context: phones\n    interface: Local/{extension}@from-queue/n\n'
    healthy.change("pause_reasons:", f"{rule}pause_reasons:")
    status, found = findings(healthy)
    problem = only(found, "devices")
    assert "with extension_from: endpoint no rule matches" in problem["what"]
    assert "with caller_id one does: PJSIP/alice-desk (as 201)" in problem["what"]
    assert status == 1
    healthy.change("pause_reasons:", f"{problem['mend']}\npause_reasons:")
    _, found = findings(healthy)
    assert content(found)


def test_endpoint_that_is_the_interface_of_a_rule(healthy: Setting, endpoints: Loads) -> None:
    endpoints(endpoint("alice-desk", "phones", "callerid = Alice <201>"))
    rule = '  - match: "201"\n    context: phones\n    interface: PJSIP/alice-desk\n'
    healthy.change("pause_reasons:", f"{rule}pause_reasons:")
    _, found = findings(healthy)
    assert content(found), "the rule says which extension it is"
    healthy.change("pause_reasons:", "login: {extension_from: caller_id}\npause_reasons:")
    _, found = findings(healthy)
    assert content(found)


def test_caller_id_that_is_no_extension(healthy: Setting, endpoints: Loads) -> None:
    endpoints(endpoint("1050", "phones", "callerid = Desk <5550>"))
    healthy.change("pause_reasons:", "login: {extension_from: caller_id}\npause_reasons:")
    _, found = findings(healthy)
    problem = only(found, "devices")
    assert "with endpoint one does: PJSIP/1050 (as 1050)" in problem["what"]


def test_caller_id_of_a_phone_that_does_not_exist(healthy: Setting, endpoints: Loads) -> None:
    endpoints(endpoint("alice-desk", "phones", "callerid = Alice <1077>"))
    healthy.change("pause_reasons:", "login: {extension_from: caller_id}\npause_reasons:")
    _, found = findings(healthy)
    what = only(found, "devices")["what"]
    assert "PJSIP/alice-desk for 1077, which becomes PJSIP/1077" in what


def test_phone_whose_caller_id_asterisk_does_not_set(healthy: Setting, endpoints: Loads) -> None:
    endpoints(endpoint("bob-desk", "phones"))
    rule = '  - match: "205"\n    context: phones\n    interface: PJSIP/bob-desk\n'
    healthy.change("pause_reasons:", f"{rule}login: {{extension_from: caller_id}}\npause_reasons:")
    _, found = findings(healthy)
    assert content(found), "the phone itself may say 205"


def test_phone_without_a_password(healthy: Setting, endpoints: Loads) -> None:
    endpoints(endpoint("1060", "phones").replace("auth = 1001\n", ""))
    healthy.change('match: "10XX"', 'match: "106X"')
    _, found = findings(healthy)
    assert "matches 1: 1060" in oks(found, "devices")
    assert problems(found) == []


def test_phones_made_since_asterisk_was_started(healthy: Setting, asterisk: Asterisk) -> None:
    """DeviceStateList has them when they have registered."""
    path = asterisk.etc / "pjsip.conf"
    path.write_text(path.read_text() + endpoint("2001", "phones"))
    asterisk.cli("module reload res_pjsip.so")
    rule = '{match: "200X", context: phones, interface: "PJSIP/{extension}"}'
    healthy.change('  - match: "0X."', f'  - {rule}\n  - match: "0X."')
    try:
        _, found = findings(healthy)
    finally:
        asterisk.reload("pjsip")
    assert "matches 1: 2001" in oks(found, "devices")
    assert content(found)


def test_device_states_that_nobody_lists(healthy: Setting, unload: Callable[[str], None]) -> None:
    unload("res_manager_devicestate")
    status, found = findings(healthy)
    warning = one_warning(found, "devices")
    assert "which phones Asterisk has cannot be told" in warning["what"]
    assert warning["mend"] == "asterisk -rx 'module load res_manager_devicestate.so'"
    assert status == 0


def test_phones_that_no_rule_matches(healthy: Setting, endpoints: Loads) -> None:
    endpoints(endpoint("2001", "phones") + endpoint("2002", "phones"))
    _, found = findings(healthy)
    warning = one_warning(found, "devices")
    assert "phones can dial the codes" in warning["what"]
    assert "PJSIP/2001, PJSIP/2002" in warning["what"]


def test_phones_elsewhere_are_nobodys_business(healthy: Setting, endpoints: Loads) -> None:
    endpoints(endpoint("2001", "outbound"))
    _, found = findings(healthy)
    assert content(found)


def test_rule_behind_another(healthy: Setting) -> None:
    rule = '  - match: "1003"\n    context: phones\n    interface: PJSIP/{extension}\n'
    healthy.change("pause_reasons:", f"{rule}pause_reasons:")
    _, found = findings(healthy)
    warning = one_warning(found, "devices")
    assert "devices[0] stands before it" in warning["what"]


def test_name_spelt_with_letters_of_patterns(healthy: Setting, endpoints: Loads) -> None:
    endpoints(endpoint("front", "phones"))
    rule = "  - match: front\n    context: phones\n    interface: PJSIP/{extension}\n"
    healthy.change("pause_reasons:", f"{rule}pause_reasons:")
    _, found = findings(healthy)
    assert problems(found) == []
    assert "fro[n]t" in warnings(found, "configuration")[0]["mend"]
    assert [w["what"][:40] for w in warnings(found, "devices")] == [
        "phones can dial the codes, and no device"
    ]


def test_logged_in_where_no_rule_matches(healthy: Setting, serve: Serve) -> None:
    serve(healthy).stop  # noqa: B018
    healthy.fastagi("dial", "*314001", "--from", "1001")
    healthy.change('match: "10XX"', 'match: "100[2-6]"')
    _, found = findings(healthy)
    told = [w for w in warnings(found, "devices") if "logged in" in w["what"]]
    assert [w["what"] for w in told] == [
        "logged in where no device rule puts anybody any more: 4001 at 1001 (PJSIP/1001); once "
        "logged off, they cannot log in there again"
    ]


# -- queues --------------------------------------------------------------------------------------


def test_queue_names_as_they_are_written(healthy: Setting, queues: Loads) -> None:
    queues("[KUNDEN]\n[sales]\n[Tech Support]\n")
    _, found = findings(healthy)
    problem = only(found, "queues")
    assert "no queue 'support'; it has KUNDEN, Tech Support, sales" in problem["what"]
    assert "[support]" in problem["mend"]


def test_queue_missing_under_logged_in_agents(
    healthy: Setting, serve: Serve, queues: Loads
) -> None:
    serve(healthy)
    for number in ("1", "3"):
        healthy.fastagi("dial", f"*31400{number}", "--from", f"100{number}")
    queues("[sales]\n")
    _, found = findings(healthy)
    assert only(found, "queues")["what"].endswith("logged in without it: 4001, 4003")
    assert not warnings(found, "queues"), "one finding for one cause"


def test_logged_in_and_in_no_queue(healthy: Setting, serve: Serve) -> None:
    serve(healthy)
    healthy.fastagi("dial", "*314003", "--from", "1003")
    healthy.fastagi("dial", "*36702", "--from", "1003", "--keys", "1")
    _, found = findings(healthy)
    assert one_warning(found, "queues")["what"] == (
        "logged in, and in no queue, so they get no calls: 4003"
    )


def test_static_members(healthy: Setting, asterisk: Asterisk, queues: Loads) -> None:
    queues(
        "[sales]\nstrategy = ringall\nmember => PJSIP/1001\nmember => PJSIP/9999\n\n"
        "[support]\nmember => PJSIP/1003,0,Agent/4003\n\n[others]\nmember => PJSIP/1002\n"
    )
    _, found = findings(healthy)
    assert problems(found) == []
    first, second = sorted(warnings(found, "queues"), key=lambda w: w["what"])
    assert first["what"].startswith("PJSIP/1001 is a static member of sales: ")
    assert second["what"].startswith("PJSIP/1003 (agent 4003) is a static member of support: ")
    file = asterisk.etc / "queues.conf"
    assert file.read_text().splitlines()[int(first["where"].split(":")[1].split()[0]) - 1] == (
        "member => PJSIP/1001"
    )
    assert "queue reload members" in first["mend"]


def test_static_member_in_an_included_file(
    healthy: Setting, asterisk: Asterisk, queues: Loads
) -> None:
    (asterisk.etc / "more-queues.conf").write_text("[support]\nmember=PJSIP/1004,1\n")
    queues("[sales]\n#include more-queues.conf\n")
    _, found = findings(healthy)
    warning = one_warning(found, "queues")
    assert warning["where"] == f"{asterisk.etc}/more-queues.conf:2 [support]"


# -- rights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["read = system", "read ="])
def test_read_class_missing(healthy: Setting, asterisk: Asterisk, read: str) -> None:
    _manager(asterisk, "read = agent", read)
    status, found = findings(healthy)
    problem = only(found, "privileges")
    assert "the read class 'agent' is missing" in problem["what"]
    assert "read = agent" in problem["mend"]
    assert status == 1


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ("eventfilter = !Event: QueueMember.*", "read class 'agent' is missing, or an eventfilter"),
        ("eventfilter(action(exclude),name(QueueMemberPause)) =", "hides QueueMemberPause"),
        ("eventfilter = Event: QueueMemberAdded", "hides QueueMemberPause, QueueMemberRemoved"),
        ("eventfilter = !Channel: Local/.*", ""),
    ],
)
def test_eventfilter(healthy: Setting, asterisk: Asterisk, filters: str, told: str) -> None:
    _manager(asterisk, "read = agent", f"read = agent\n{filters}")
    _, found = findings(healthy)
    if told:
        assert told in only(found, "privileges")["what"]
    else:
        assert content(found)


def _manager(asterisk: Asterisk, old: str, new: str) -> None:
    assert old in asterisk.manager_sections
    asterisk.manager_sections = asterisk.manager_sections.replace(old, new)
    asterisk.reload("manager")


def test_the_probe_leaves_nothing_and_nobody_takes_it_for_an_agent(
    healthy: Setting, serve: Serve, asterisk: Asterisk
) -> None:
    running = serve(healthy)
    findings(healthy)
    assert "fastagi-check" not in asterisk.cli("queue show")
    assert healthy.fastagi("events").out == ""
    assert not [line for line in running.err if "error" in line or "warning" in line]
    rows = asterisk.queue_log_path.read_text().splitlines()
    probe = [row.split("|")[4] for row in rows if "fastagi-check" in row]
    assert "ADDMEMBER" in probe
    assert "REMOVEMEMBER" in probe


def test_without_the_probe_the_queues_are_not_touched(healthy: Setting, asterisk: Asterisk) -> None:
    before = asterisk.queue_log_path.read_text()
    _, found = findings(healthy, "--no-probe")
    assert asterisk.queue_log_path.read_text() == before
    assert content(found)


def test_user_that_may_be_in_once(healthy: Setting, serve: Serve, asterisk: Asterisk) -> None:
    _manager(asterisk, "read = agent", "read = agent\nallowmultiplelogin = no")
    serve(healthy)
    status, found = findings(healthy)
    warning = one_warning(found, "manager")
    assert (
        "in once only (allowmultiplelogin = no), and the running service is in" in warning["what"]
    )
    assert "allowmultiplelogin = yes" in warning["mend"]
    assert "secret" not in warning["mend"]
    assert status == 0


def test_user_that_another_program_uses(healthy: Setting, asterisk: Asterisk) -> None:
    _manager(asterisk, "read = agent", "read = agent\nallowmultiplelogin = no")
    with closing(socket.create_connection(("127.0.0.1", asterisk.ami_port))) as other:
        login = f"Action: Login\r\nUsername: fastagi\r\nSecret: {SECRET}\r\nEvents: off\r\n\r\n"
        other.sendall(login.encode())
        other.settimeout(10)
        heard = b""
        while b"accepted" not in heard:
            heard += other.recv(1000)
        status, found = findings(healthy)
    assert "another program is in" in only(found, "manager")["what"]
    assert status == 1


@pytest.mark.parametrize(
    ("host", "what"),
    [("no-such-host.invalid", "the name 'no-such-host.invalid' cannot be looked up")],
)
def test_no_such_host(setting: Setting, host: str, what: str) -> None:
    setting.change("host: 127.0.0.1", f"host: {host}")
    setting.change("listen: 127.0.0.1", "advertise: 192.0.2.1:4573\n  listen: 127.0.0.1")
    _, found = findings(setting)
    problem = only(found, "manager")
    assert what in problem["what"]
    assert "bindaddr" not in problem["mend"]


# -- modules -------------------------------------------------------------------------------------


@pytest.fixture
def unload(asterisk: Asterisk) -> Iterator[Callable[[str], None]]:
    gone: list[str] = []

    def away(module: str) -> None:
        gone.append(module)
        asterisk.cli(f"module unload {module}.so")
        assert f"{module}.so" not in asterisk.cli(f"module show like {module}.so")

    yield away
    for module in gone:
        asterisk.cli(f"module load {module}.so")


@pytest.mark.parametrize(
    ("module", "effect", "level"),
    [
        ("app_stack", "hears nothing", "problem"),
        ("func_strings", "'try again'", "problem"),
        ("func_timeout", "for ever", "problem"),
        ("func_dialplan", "agent-features-after", "warning"),
        ("func_devstate", "lamp", "warning"),
        ("app_playback", "callers hear nothing", "warning"),
        ("app_playtones", "callers hear nothing", "warning"),
    ],
)
def test_module_that_is_not_loaded(
    healthy: Setting, unload: Callable[[str], None], module: str, effect: str, level: str
) -> None:
    unload(module)
    status, found = findings(healthy)
    (finding,) = (f for f in found if f["level"] != "ok" and f["about"] != "service")
    assert (finding["level"], finding["about"]) == (level, "modules")
    assert finding["what"].startswith(f"{module} is not loaded: ")
    assert effect in finding["what"]
    assert f"module load {module}.so" in finding["mend"]
    assert status == (level == "problem")


def test_res_agi_that_is_not_loaded(
    healthy: Setting, asterisk: Asterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastagi.demo import asterisk as laboratory

    less = tuple(module for module in laboratory.MODULES if module != "res_agi")
    monkeypatch.setattr(laboratory, "MODULES", less)
    asterisk.kill()
    asterisk.start()
    try:
        _, found = findings(healthy)
    finally:
        asterisk.kill()
    assert "res_agi is not loaded: whoever dials" in only(found, "modules")["what"]


def test_gosub_is_missed_without_func_module(
    healthy: Setting, unload: Callable[[str], None]
) -> None:
    unload("func_module")
    assert content(findings(healthy)[1])
    unload("app_stack")
    assert "app_stack" in only(findings(healthy)[1], "modules")["what"]
    unload("func_logic")
    assert content(findings(healthy)[1]), "then it cannot be asked for"


def test_all_that_the_dialplan_uses_is_asked_for(healthy: Setting) -> None:
    """Functions and applications of the rendered dialplan, and the modules they are of."""
    known = {
        *("Gosub", "GosubIf", "GotoIf", "Goto", "Set", "Answer", "Wait", "Hangup", "NoOp"),
        *("AGI", "Playback", "Playtones", "FILTER", "LEN", "TIMEOUT", "DIALPLAN_EXISTS", "CUT"),
    }
    text = dialplan.render_dialplan(config.load(healthy.file))
    lines = [line for line in text.splitlines() if not line.startswith(";")]
    used = set(re.findall(r"\b([A-Za-z_]{2,})\(", "\n".join(lines)))
    assert used - known == set(), "tell check.rights of the module that has it"


# -- the dialplan --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "exten => _*X.,1,Goto(internal,${EXTEN},1)\n[internal]\ninclude => agent-features",
        "exten => _.,1,Gosub(internal,${EXTEN},1)\n[internal]\ninclude => agent-features",
        "exten => _*X.,1,NoOp()\n same => n,Set(CALLER=1)\n same => n,Goto(a,${EXTEN},1)\n"
        "[a]\nexten => _*X.,1,Goto(internal,${EXTEN},1)\n[internal]\ninclude => agent-features",
        "include => from-internal-xfer\n[from-internal-xfer]\ninclude => custom\n"
        "include => bad-number\n[custom]\ninclude => agent-features\n"
        "[bad-number]\nexten => _X.,1,Hangup()\nexten => _*.,1,Hangup()",
        "switch => Realtime/phones@extensions",
        "exten => 1,1,NoOp()\nswitch => Realtime/phones@extensions\ninclude => agent-features",
        "exten => _*X.,1,Goto(${WHERE},${EXTEN},1)",
    ],
)
def test_phones_whose_context_hands_on(
    healthy: Setting, endpoints: Loads, more: Loads, text: str
) -> None:
    endpoints(endpoint("3001", "office"))
    more(f"[office]\n{text}")
    healthy.change("context: phones", "context: office")
    healthy.change('match: "10XX"', 'match: "3001"')
    _, found = findings(healthy)
    # 1001 to 1006 are in [phones], which is an inbound context by this configuration.
    assert [f["what"] for f in found if f["level"] == "problem"] == []
    assert [w["what"][:40] for w in warnings(found, "dialplan")] == [
        "calls that come in through PJSIP/1001, P"
    ]


def test_where_nobody_sees_is_said_without_complaint(
    healthy: Setting, endpoints: Loads, more: Loads
) -> None:
    endpoints(endpoint("3001", "office"))
    more("[office]\nswitch => Realtime/office@extensions")
    healthy.change("context: phones", "context: office")
    healthy.change('match: "10XX"', 'match: "3001"')
    _, found = findings(healthy)
    assert any(
        "cannot be seen from outside: switch => Realtime/office@extensions in [office]" in what
        for what in oks(found, "dialplan")
    )


def test_codes_that_hide_the_pbxs_own(healthy: Setting, endpoints: Loads, more: Loads) -> None:
    endpoints(endpoint("3001", "office"))
    more(
        "[office]\ninclude => agent-features\ninclude => features\n[features]\n"
        "exten => *30,1,NoOp()\nexten => *31,1,NoOp()\nexten => _*3X.,1,NoOp()\n"
        "exten => *77,1,NoOp()\nexten => *71,1,NoOp()\nexten => _*.,1,NoOp()"
    )
    healthy.change("context: phones", "context: office")
    healthy.change('match: "10XX"', 'match: "3001"')
    _, found = findings(healthy)
    assert problems(found) == []
    (warning,) = (w for w in warnings(found, "dialplan") if "hide" in w["what"])
    assert "*30 hides *30 of [features]" in warning["what"]
    assert "*31 hides *31 of [features]" in warning["what"]
    assert "_*3X. of [features]" in warning["what"]
    assert "*77" not in warning["what"]
    suggested = re.findall(r'(\w+): "(\*\d+)"', warning["mend"])
    assert suggested, "codes that nobody has"
    assert not {code for _, code in suggested} & {"*71", "*77"}


def test_a_code_that_begins_extensions_and_queues(healthy: Setting, more: Loads) -> None:
    healthy.change("pause_reasons:", 'feature_codes: {logoff: "10", queue: "70"}\npause_reasons:')
    _, found = findings(healthy)
    told = [w["what"] for w in warnings(found, "configuration")]
    assert told == [
        "logoff is dialled as 10, and so are 10XX (devices[0]): where the codes come first, "
        "whoever dials those numbers gets the code",
        "queue is dialled as 70, and so are 701 (queue sales), 702 (queue support): where the "
        "codes come first, whoever dials those numbers gets the code",
    ]
    asked = warnings(found, "configuration")[0]["mend"]
    assert 'logoff: "*10"' in asked


def test_a_code_that_hides_extensions_is_told_of_once(
    healthy: Setting, asterisk: Asterisk, endpoints: Loads
) -> None:
    endpoints(endpoint("3001", "office"))
    healthy.change("pause_reasons:", 'feature_codes: {logoff: "10"}\npause_reasons:')
    asterisk.features = dialplan.render_dialplan(config.load(healthy.file)) + (
        "\n[office]\ninclude => agent-features\ninclude => phones\n"
    )
    asterisk.reload("dialplan")
    healthy.change(
        '  - match: "0X."',
        '  - {match: "3001", context: office, interface: "PJSIP/{extension}"}\n  - match: "0X."',
    )
    _, found = findings(healthy)
    assert problems(found) == []
    assert len(warnings(found, "configuration")) == 1
    assert warnings(found, "dialplan") == []


def test_codes_of_digits_that_nobody_else_has(healthy: Setting) -> None:
    codes = '{logoff: "201", unpause: "75", status: "8", login: "02"}'
    healthy.change('  - match: "0X."', '  - match: "9X."')
    healthy.change("pause_reasons:", f"feature_codes: {codes}\npause_reasons:")
    _, found = findings(healthy)
    assert warnings(found, "configuration") == []


def test_a_lamp_that_was_asked_for_is_no_change_of_the_file(
    healthy: Setting, asterisk: Asterisk
) -> None:
    _, before = findings(healthy)
    _subscribe(asterisk, "agent-4001")
    assert "agent-4001" in asterisk.cli("dialplan show agent-features-hints")
    _, found = findings(healthy)
    assert content(before)
    assert content(found)


def _subscribe(asterisk: Asterisk, hint: str) -> None:
    """What a phone's subscription does: Asterisk makes a hint of the pattern."""
    with closing(socket.create_connection(("127.0.0.1", asterisk.ami_port))) as admin:
        admin.settimeout(10)
        admin.sendall(
            (
                f"Action: Login\r\nUsername: {asterisk.admin_username}\r\n"
                f"Secret: {asterisk.admin_secret}\r\nEvents: off\r\n\r\n"
                f"Action: ExtensionState\r\nExten: {hint}\r\n"
                "Context: agent-features-hints\r\n\r\n"
            ).encode()
        )
        heard = b""
        while b"StatusText" not in heard:
            heard += admin.recv(4096)


# -- calls from outside --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trunk",
    [
        endpoint("carrier", "from-trunk", "outbound_auth = 1001"),
        endpoint("anonymous", "from-trunk"),
        endpoint("gateway", "from-trunk"),
    ],
)
def test_an_inbound_context_reaches_the_codes(
    healthy: Setting, endpoints: Loads, more: Loads, trunk: str
) -> None:
    endpoints(trunk)
    more(
        "[from-trunk]\nexten => 700,1,Queue(sales)\ninclude => office\n[office]\ninclude => phones"
    )
    status, found = findings(healthy)
    name = re.search(r"\[(\w+)\]", trunk)
    assert name is not None
    warning = one_warning(found, "dialplan")
    assert f"through PJSIP/{name[1]} reach the feature codes" in warning["what"]
    assert "'from-trunk'; the service refuses whom login.from does not list" in warning["what"]
    assert status == 0
    mend = warning["mend"].partition("login:\n")[2]
    healthy.change("pause_reasons:", f"login:\n{mend}\npause_reasons:")
    assert warnings(findings(healthy)[1], "dialplan") == []


def test_a_trunk_in_the_phones_own_context(healthy: Setting, endpoints: Loads) -> None:
    endpoints(endpoint("carrier", "phones", "outbound_auth = 1001"))
    _, found = findings(healthy)
    what = one_warning(found, "dialplan")["what"]
    assert "through PJSIP/carrier" in what
    assert "whoever calls can log agents in and off" in what


def test_a_trunk_whose_name_a_device_rule_matches(
    healthy: Setting, endpoints: Loads, more: Loads
) -> None:
    """Providers' accounts are numbers, and so are extensions."""
    endpoints(
        endpoint("1099", "from-trunk", "outbound_auth = 1001")
        + endpoint("1098", "elsewhere", "outbound_auth = 1001")
    )
    more("[from-trunk]\nexten => _X.,1,Goto(phones,${EXTEN},1)\ninclude => phones\n[elsewhere]\n")
    _, found = findings(healthy)
    what = one_warning(found, "dialplan")["what"]
    assert "through PJSIP/1099 reach the feature codes" in what
    assert "they count as phones, as a device rule matches their names" in what


def test_an_inbound_context_that_reaches_no_code(
    healthy: Setting, endpoints: Loads, more: Loads
) -> None:
    endpoints(endpoint("carrier", "from-trunk", "outbound_auth = 1001"))
    more("[from-trunk]\nexten => 700,1,Queue(sales)\nexten => _1XXX,1,Goto(phones,${EXTEN},1)")
    _, found = findings(healthy)
    assert content(found)


# -- a peer that answers what it likes -----------------------------------------------------------

ITEMS = (
    ("QueueParams", "Calls: many"),
    ("QueueMember", "Location: /"),
    ("ListDialplan", "Context: {context}", "Extension: _[", "Priority: 1"),
    ("ListDialplan", "Context: {context}", "IncludeContext: ,"),
    ("DeviceStateChange", "Device: PJSIP/"),
    ("DeviceStateChange", "Device: PJSIP/a)b,c", "State: "),
    ("ExtensionStatus",),
    ("QueueStatusComplete",),
    ("ShowDialPlanComplete",),
    ("DeviceStateListComplete",),
    ("ExtensionStateListComplete",),
)
ODD = {
    "empty": "Response: Success\r\nActionID: {id}\r\n\r\n",
    "garbage": "Response: Success\r\nActionID: {id}\r\nValue: \udcff[\r\nStatus: x\r\nHint:\r\n\r\n",  # noqa: E501
    "error": "Response: Error\r\nActionID: {id}\r\nMessage: \r\n\r\n",
    "lists": "Response: Success\r\nActionID: {id}\r\nEventList: start\r\n\r\n"
    + "".join(
        "\r\n".join((f"Event: {name}", "ActionID: {id}", *lines)) + "\r\n\r\n"
        for name, *lines in ITEMS
    ),
    "silence": "",
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_odd_answers_are_findings_and_no_traceback(setting: Setting, answer: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=_peer, args=(server, answer), daemon=True).start()
        port = server.getsockname()[1]
        text = setting.file.read_text()
        asterisk = text[text.index("asterisk:") : text.index("database:")]
        changed = re.sub(r"port: \d+", f"port: {port}\n  timeout: 1s", asterisk)
        setting.file.write_text(text.replace(asterisk, changed))
        status, found = findings(setting)
    assert status == 1
    assert {f["about"] for f in found} >= {"configuration", "store", "service", "manager", "sounds"}
    assert all(list(f) == ["level", "about", "what", "where", "mend"] for f in found)
    assert len([f for f in found if "link was lost" in f["what"]]) <= 1


def _peer(server: socket.socket, answer: str) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        connection.sendall(b"Asterisk Call Manager/11.0.0\r\n")
        waiting = b""
        while data := connection.recv(65536):
            *actions, waiting = (waiting + data).split(b"\r\n\r\n")
            for action in actions:
                lines = action.decode().split("\r\n")
                said = dict(line.split(": ", 1) for line in lines if ": " in line)
                reply = answer
                if said.get("Action") == "Login":
                    reply = "Response: Success\r\nActionID: {id}\r\nMessage: accepted\r\n\r\n"
                reply = reply.replace("{id}", said["ActionID"])
                reply = reply.replace("{context}", said.get("Context", ""))
                connection.sendall(reply.encode(errors="surrogateescape"))


# -- what it says to do, done ---------------------------------------------------------------------


def paste(asterisk: Asterisk, file: str, mend: str, reload: str) -> None:
    """Appends the lines to one of Asterisk's files."""
    path = asterisk.etc / file
    path.write_text(f"{path.read_text()}\n{mend}\n")
    asterisk.cli(reload)


def run(asterisk: Asterisk, mend: str, folder: Path) -> None:
    """As an admin would: in a shell with the commands ``fastagi`` and ``asterisk``."""
    folder.mkdir()
    asterisks = shlex.join([*asterisk.program.command, "-C", str(asterisk.etc / "asterisk.conf")])
    programs = {"asterisk": asterisks, "fastagi": shlex.join([sys.executable, "-m", "fastagi"])}
    for name, command in programs.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    path = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-e", "-c", mend], check=True, cwd=asterisk.folder, env=path)


def test_old_file_mended(healthy: Setting, asterisk: Asterisk, tmp_path: Path) -> None:
    healthy.change("pause_reasons:", 'feature_codes: {login: "*71"}\npause_reasons:')
    mend = only(findings(healthy)[1], "dialplan")["mend"]
    run(asterisk, mend, tmp_path / "bin")
    assert content(findings(healthy)[1])


def test_old_file_stays_when_the_configuration_has_an_error(
    healthy: Setting, asterisk: Asterisk, tmp_path: Path
) -> None:
    healthy.change("pause_reasons:", 'feature_codes: {login: "*71"}\npause_reasons:')
    mend = only(findings(healthy)[1], "dialplan")["mend"]
    healthy.change('"*71"', '"seventy-one"')
    before = (asterisk.etc / "agent-features.conf").read_text()
    run(asterisk, mend, tmp_path / "bin")
    assert (asterisk.etc / "agent-features.conf").read_text() == before


def test_module_mended(
    healthy: Setting, asterisk: Asterisk, unload: Callable[[str], None], tmp_path: Path
) -> None:
    unload("app_stack")
    mend = only(findings(healthy)[1], "modules")["mend"]
    run(asterisk, mend.rpartition("; then: ")[2], tmp_path / "bin")
    assert content(findings(healthy)[1])


def test_rights_mended(healthy: Setting, asterisk: Asterisk) -> None:
    _manager(asterisk, "read = agent\nwrite = agent,user,call,reporting", "read =\nwrite = agent")
    (write,) = problems(findings(healthy)[1])[:1]
    paste(asterisk, "manager.conf", write["mend"], "manager reload")
    read = only(findings(healthy)[1], "privileges")
    paste(asterisk, "manager.conf", read["mend"], "manager reload")
    assert content(findings(healthy)[1])


def test_missing_queue_mended(healthy: Setting, asterisk: Asterisk, queues: Loads) -> None:
    queues("[sales]\n")
    mend = only(findings(healthy)[1], "queues")["mend"]
    paste(asterisk, "queues.conf", mend, "queue reload all")
    assert content(findings(healthy)[1])


def test_missing_include_mended(healthy: Setting, asterisk: Asterisk, endpoints: Loads) -> None:
    endpoints(endpoint("3001", "outbound"))
    healthy.change("context: phones", "context: outbound")
    healthy.change('match: "10XX"', 'match: "3001"')
    mend = only(findings(healthy)[1], "dialplan")["mend"]
    paste(asterisk, "extensions.conf", mend, "dialplan reload")
    assert problems(findings(healthy)[1]) == []


def test_static_member_mended(
    healthy: Setting, asterisk: Asterisk, queues: Loads, tmp_path: Path
) -> None:
    queues("[support]\n[sales]\nmember => PJSIP/1001\nmember => PJSIP/1002\n")
    for number in (1, 2):
        mend = warnings(findings(healthy)[1], "queues")[0]["mend"]
        run(asterisk, mend, tmp_path / f"bin{number}")
    assert content(findings(healthy)[1])


def test_hint_mended(healthy: Setting) -> None:
    state = 'interface: PJSIP/{extension}\n    state_interface: "hint:{extension}@ext-locale"'
    healthy.change("interface: PJSIP/{extension}", state)
    mend = only(findings(healthy)[1], "devices")["mend"]
    healthy.change('state_interface: "hint:{extension}@ext-locale"', mend)
    assert content(findings(healthy)[1])


def test_extensions_for_a_local_rule_mended(
    healthy: Setting, asterisk: Asterisk, more: Loads
) -> None:
    more("[from-queue]\nexten => s,1,Hangup()")
    healthy.change("interface: PJSIP/{extension}", LOCAL)
    mend = only(findings(healthy)[1], "devices")["mend"]
    paste(asterisk, "extensions.conf", mend, "dialplan reload")
    assert content(findings(healthy)[1])


def test_a_member_whose_line_is_not_found_may_be_in_a_table() -> None:
    member = Member("sales", "x'); --", "PJSIP/1001", "PJSIP/1001", "static", False)
    where, mend = place_of(replace(member, queue="o'hara"), None)
    assert where.startswith("queues.conf [o'hara], or the realtime table")
    assert mend.endswith(
        "DELETE FROM queue_members\nWHERE queue_name = 'o''hara' AND interface = 'PJSIP/1001';"
    )
    assert pasteable(mend)


def test_realtime_members(realtime: Asterisk, tmp_path: Path) -> None:
    """Asterisk's manager calls them static, and their lines are in no file."""
    with sqlite3.connect(tmp_path / "realtime.db") as database:
        database.execute("ALTER TABLE queue_members ADD COLUMN state_interface TEXT")
        database.execute(
            "INSERT INTO queue_members"
            " VALUES (2, 'support', 'PJSIP/1003', 'Back', 5, 0, 'PJSIP/no')"
        )
    setting = _setting(tmp_path, realtime.ami_port)
    settings = config.load(setting.file)
    realtime.manager_sections = dialplan.render_manager(settings).replace("CHANGE-ME", SECRET)
    realtime.reload("manager")
    _, found = findings(setting, "--no-probe")
    first, second = sorted(warnings(found, "queues"), key=lambda w: w["what"])
    assert first["what"].startswith("PJSIP/1001 is a static or realtime member of support: ")
    assert second["what"].startswith("PJSIP/1003 is a static or realtime member of support: ")
    assert "AND interface = 'PJSIP/1001';" in first["mend"]
    (invalid,) = [p for p in problems(found) if p["about"] == "devices"]
    assert "at PJSIP/1003, and Asterisk knows no device PJSIP/no" in invalid["what"]
    assert "state_interface in the realtime table" in invalid["mend"]
    assert "fastagi dial" not in invalid["mend"], "a log-off does not take it out"
