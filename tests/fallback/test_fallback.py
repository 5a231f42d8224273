"""The fallback as Asterisk starts it: a process, its bytes, its end."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from fastagi.agents.notes import MAX_VALUE, Note
from fastagi.agi.prompts import ANSWERS
from fastagi.contract import Outcome, Script
from fastagi.dialplan import render_fallback_facts
from tests.fallback.classic import AGI, ROOT, Classic, Member
from tests.fallback.conftest import settings

LOCAL = "Local/*32@phones-00000001;2"
SORRY = ["tt-somethingwrong", "please-try-again"]
BOTH = ("sales", "night shift")


def untouched(classic: Classic) -> bool:
    here = {"PJSIP/1001": Member()}
    return classic.queues == dict.fromkeys(BOTH, here) and classic.database == {}


def test_a_pause(classic: Classic) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    heard = classic.dial("agent/pause", "22")
    assert (heard.outcome, heard.status, heard.stderr) == ("PAUSED", 0, "")
    assert heard.sounds == ["dictate/paused", "22"]
    for queue in BOTH:
        assert classic.queues[queue] == {"PJSIP/1001": Member(True, "a meeting")}
    set_by_us = [name for name in heard.variables if name.startswith("AGENT_")]
    assert set_by_us[-1] == "AGENT_STATUS", "last, so that the dialplan may trust the others"
    assert heard.variables["AGENT_PAUSE_REASON"] == "a meeting"
    assert heard.variables["AGENT_EXTENSION"] == "1001"
    assert heard.variables["AGENT_NUMBER"] == ""
    ((key, value),) = classic.database.items()
    note = Note.parse(key, value)
    assert before <= note.at <= datetime.now(UTC)
    assert note == Note(
        at=note.at,
        script=Script.PAUSE,
        interface="PJSIP/1001",
        reason="22",
        channel="PJSIP/1001-00000001",
        caller_id="1001",
        unique_id="1790000000.1",
    )


def test_the_note_comes_before_the_change(classic: Classic) -> None:
    for script, change in (
        ("agent/pause", "EXEC PauseQueueMember"),
        ("agent/unpause", "EXEC UnpauseQueueMember"),
        ("agent/logoff", "EXEC RemoveQueueMember"),
    ):
        heard = classic.dial(script, *(["1"] if script == "agent/pause" else []))
        starts = [line[: len(change)] for line in heard.commands]
        (noted,) = (n for n, line in enumerate(heard.commands) if line.startswith("DATABASE PUT"))
        assert noted < starts.index(change), heard.commands


def test_an_unpause(classic: Classic) -> None:
    classic.join("PJSIP/1001", *BOTH, paused=True, reason="lunch")
    heard = classic.dial("agent/unpause")
    assert heard.outcome == "UNPAUSED"
    assert heard.sounds == list(ANSWERS[Outcome.UNPAUSED])
    assert classic.queues["sales"] == {"PJSIP/1001": Member()}
    assert classic.notes() == [
        {"s": "agent/unpause", "i": "PJSIP/1001", "c": "PJSIP/1001-00000001", "n": "1001"}
    ]


def test_nothing_to_unpause(classic: Classic) -> None:
    assert classic.dial("agent/unpause").outcome == "NOT_PAUSED"
    assert untouched(classic)


def test_paused_in_one_queue_only(classic: Classic) -> None:
    classic.queues["night shift"]["PJSIP/1001"].paused = True
    assert classic.dial("agent/unpause").outcome == "UNPAUSED"
    assert not classic.queues["night shift"]["PJSIP/1001"].paused


def test_a_log_off(classic: Classic) -> None:
    heard = classic.dial("agent/logoff")
    assert heard.outcome == "LOGGED_OFF"
    assert heard.sounds == ["agent-loggedoff"]
    assert classic.queues == {"sales": {}, "night shift": {}}
    assert [note["s"] for note in classic.notes()] == ["agent/logoff"]


@pytest.mark.parametrize(
    ("script", "paused", "outcome"),
    [
        ("agent/toggle-pause", False, "PAUSED"),
        ("agent/toggle-pause", True, "UNPAUSED"),
        ("agent/toggle-login", False, "LOGGED_OFF"),
    ],
)
def test_toggles(classic: Classic, script: str, paused: bool, outcome: str) -> None:
    classic.join("PJSIP/1001", *BOTH, paused=paused)
    assert classic.dial(script, *["1"] * (script == "agent/toggle-pause")).outcome == outcome
    assert len(classic.database) == 1


@pytest.mark.parametrize(
    ("script", "digits"),
    [
        ("agent/login", ""),
        ("agent/login", "4001"),
        ("agent/status", ""),
        ("agent/queue", "701"),
        ("agent/logoff", "4002"),
        ("agent/toggle-login", "4002"),
        ("agent/unheard-of", ""),
        ("", ""),
    ],
)
def test_what_only_the_service_can_do(classic: Classic, script: str, digits: str) -> None:
    heard = classic.dial(script, digits)
    assert (heard.outcome, heard.sounds, heard.status) == ("UNAVAILABLE", SORRY, 0)
    assert untouched(classic)


def test_one_key_cannot_log_in(classic: Classic) -> None:
    heard = classic.dial("agent/toggle-login", extension="1002")
    assert (heard.outcome, heard.sounds) == ("UNAVAILABLE", SORRY)


@pytest.mark.parametrize("extension", ["1002", "7777", "", "10 01", "1001@x"])
@pytest.mark.parametrize("script", ["agent/pause", "agent/unpause", "agent/logoff"])
def test_a_local_channel_of_nobody(classic: Classic, script: str, extension: str) -> None:
    """An empty queue is none that a phone without a name is in."""
    classic.queues["sales"].clear()
    heard = classic.dial(script, extension=extension, more={"agi_channel": LOCAL})
    assert heard.outcome == Outcome.NOT_FROM_HERE
    assert not [line for line in heard.commands if line.startswith("EXEC")]
    assert classic.database == {}


def test_a_forged_number_makes_nobody_sit_at_a_desk(classic: Classic) -> None:
    login = {"extension_from": "caller_id", "from": ["PJSIP/trunk"]}
    facts = render_fallback_facts(settings(login=login))
    classic.facts.write_text(facts, encoding="utf-8")
    more = {"agi_channel": "PJSIP/trunk-00000001"}
    for script in ("agent/pause", "agent/unpause", "agent/logoff"):
        assert classic.dial(script, more=more).outcome == "UNAVAILABLE"
    assert untouched(classic)


@pytest.mark.parametrize("extension", ["1002", "7777", "", "10 01", "1001@x"])
@pytest.mark.parametrize("script", ["agent/pause", "agent/unpause", "agent/logoff"])
def test_nobody_here(classic: Classic, extension: str, script: str) -> None:
    heard = classic.dial(script, extension=extension)
    outcome = Outcome.NOT_LOGGED_IN if extension == "1002" else Outcome.NOT_FROM_HERE
    assert heard.outcome == outcome
    assert heard.sounds == list(ANSWERS[outcome])
    assert untouched(classic)


def test_a_phone_whose_rule_is_gone_is_known_by_the_queues(classic: Classic) -> None:
    classic.join("PJSIP/7777", "sales")
    assert classic.dial("agent/pause", "1", extension="7777").outcome == "PAUSED"
    assert classic.queues["sales"]["PJSIP/7777"].paused


def test_callers_from_outside_may_only_where_they_are_listed(classic: Classic) -> None:
    """By caller ID, and that of an outside number alone; who else it is the service has to ask."""
    classic.join("Local/0712345678@out/n", "sales")
    more = {"agi_callerid": "0712345678"}
    heard = classic.dial("agent/pause", "1", extension="trunk", more=more)
    assert heard.outcome == "NOT_FROM_HERE"
    rules = [
        {"match": "XXXX", "context": "phones", "interface": "PJSIP/{extension}"},
        {"match": "0X.", "type": "remote", "interface": "Local/{extension}@out/n"},
    ]
    for listed in ("PJSIP/trunk", "from-trunk"):
        classic.join("Local/0712345678@out/n", "sales")
        chosen = settings(login={"from": [listed]}, devices=rules)
        classic.facts.write_text(render_fallback_facts(chosen), encoding="utf-8")
        more["agi_context"] = "agent-features-call"
        told = {'GET FULL VARIABLE "${STACK': "200 result=1 (from-trunk)"}
        heard = classic.dial("agent/pause", "1", extension="trunk", more=more, answers=told)
        assert (listed, heard.outcome) == (listed, "PAUSED")
        forged = more | {"agi_callerid": "1001"}
        heard = classic.dial("agent/pause", "1", extension="trunk", more=forged, answers=told)
        assert (listed, heard.outcome) == (listed, "UNAVAILABLE")


def test_behind_a_local_channel_is_the_phone_that_dialled(classic: Classic) -> None:
    heard = classic.dial(
        "agent/pause",
        "1",
        more={"agi_channel": "Local/*331@phones-00000001;2"},
        answers={
            'GET FULL VARIABLE "${TRANSFERERNAME}': "200 result=1 ()",
            'GET FULL VARIABLE "${MASTER_CHANNEL(CHANNEL': "200 result=1 (PJSIP/1001-00000005)",
        },
    )
    assert (heard.outcome, heard.variables["AGENT_EXTENSION"]) == ("PAUSED", "1001")


@pytest.mark.parametrize("script", ["agent/pause", "agent/unpause", "agent/logoff"])
def test_who_was_sent_to_a_code_has_not_dialled_it(classic: Classic, script: str) -> None:
    sent = {'GET FULL VARIABLE "${BLINDTRANSFER': "200 result=1 (PJSIP/1003-00000007)"}
    assert classic.dial(script, answers=sent).outcome == Outcome.NOT_FROM_HERE
    assert untouched(classic)


def test_a_hash_right_after_what_was_asked_answers_nothing(classic: Classic) -> None:
    heard = classic.dial("agent/pause", keys=["#", "9", "9", "#", "2", "2"])
    assert (heard.outcome, heard.variables["AGENT_PAUSE_REASON"]) == ("PAUSED", "a meeting")


def test_the_extension_is_the_caller_id_where_it_is_so_configured(classic: Classic) -> None:
    classic.join("Local/2001@out/n", "sales")
    classic.facts.write_text(
        render_fallback_facts(settings(login={"extension_from": "caller_id"})), encoding="utf-8"
    )
    heard = classic.dial("agent/pause", "1", more={"agi_callerid": "2001"})
    assert heard.outcome == "PAUSED"
    assert heard.variables["AGENT_EXTENSION"] == "2001"
    assert classic.queues["sales"]["Local/2001@out/n"].paused
    assert not classic.queues["sales"]["PJSIP/1001"].paused


# -- asking


def test_the_reason_is_asked_for(classic: Classic) -> None:
    heard = classic.dial("agent/pause", keys=["2", "2"])
    assert heard.outcome == "PAUSED"
    assert heard.sounds == ["dictate/pause", "vm-press", "1", "22", "dictate/paused", "22"]


def test_a_shorter_one_ends_with_a_pound_or_a_silence(classic: Classic) -> None:
    for keys in (["1", "#"], ["1", ""]):
        assert classic.dial("agent/pause", keys=keys).variables["AGENT_PAUSE_REASON"] == "lunch"


def test_wrong_reasons(classic: Classic) -> None:
    heard = classic.dial("agent/pause", "9", keys=["8", "8", "7", "#", ""])
    assert heard.outcome == "NO_SUCH_REASON"
    assert heard.sounds.count("conf-errormenu") == 4, "before each menu, and as the answer"
    assert untouched(classic)
    assert classic.dial("agent/pause", "9", keys=["1"]).outcome == "PAUSED"


def test_no_reason(classic: Classic) -> None:
    heard = classic.dial("agent/pause", keys=["", "", ""])
    assert (heard.outcome, heard.sounds.count("vm-press")) == ("NO_INPUT", 3)
    assert untouched(classic)


# -- it fails


def test_without_a_note_nothing_is_changed(classic: Classic) -> None:
    for reply in ("200 result=0", "510 Invalid or unknown command", "520 Invalid command syntax."):
        for script in ("agent/pause", "agent/logoff"):
            heard = classic.dial(script, *["1"] * ("pause" in script), answers={"DATABASE": reply})
            assert (heard.outcome, heard.sounds) == ("UNAVAILABLE", SORRY)
            assert untouched(classic)


def test_what_did_not_happen_leaves_no_note(classic: Classic) -> None:
    """Somebody took the member out between the look and the change."""
    gone = {"EXEC": "200 result=0", 'GET VARIABLE "PQM': "200 result=1 (NOTFOUND)"}
    gone |= {'GET VARIABLE "RQM': "200 result=1 (NOTINQUEUE)"}
    for script, digits in (("agent/pause", "1"), ("agent/logoff", "")):
        assert classic.dial(script, digits, answers=gone).outcome == "NOT_LOGGED_IN"
        assert classic.database == {}


@pytest.mark.parametrize("static", [BOTH[:1], BOTH])
def test_a_member_that_cannot_be_removed_is_paused(
    classic: Classic, static: tuple[str, ...]
) -> None:
    for queue in static:
        classic.queues[queue]["PJSIP/1001"].dynamic = False
    assert classic.dial("agent/logoff").outcome == "LOGGED_OFF"
    for queue in BOTH:
        member = classic.queues[queue].get("PJSIP/1001")
        assert (member is not None) == (queue in static)
        assert member is None or (member.paused, member.reason) == (True, "logged-off")
    assert len(classic.database) == 1


def test_a_static_member_that_its_agent_has_left_stays_paused(classic: Classic) -> None:
    """Nobody is logged in there: neither is the pause ended nor another one begun."""
    for queue in BOTH:
        member = Member(True, "logged-off", dynamic=False, name="Front desk (1001)")
        classic.queues[queue]["PJSIP/1001"] = member
    for script in ("agent/unpause", "agent/pause", "agent/logoff", "agent/toggle-pause"):
        heard = classic.dial(script, *["1"] * ("pause" in script))
        assert (script, heard.outcome) == (script, "NOT_LOGGED_IN")
    assert classic.dial("agent/toggle-login").outcome == "UNAVAILABLE", "only the service logs in"
    for queue in BOTH:
        assert classic.queues[queue]["PJSIP/1001"] == member
    assert classic.database == {}


def test_a_queue_that_was_left_stays_left(classic: Classic) -> None:
    left = Member(True, "logged-off", dynamic=False)
    classic.queues["sales"]["PJSIP/1001"] = left
    night = classic.queues["night shift"]
    for script, outcome, after in (
        ("agent/unpause", "NOT_PAUSED", Member()),
        ("agent/pause", "PAUSED", Member(True, "lunch")),
        ("agent/unpause", "UNPAUSED", Member()),
        ("agent/toggle-pause", "PAUSED", Member(True, "lunch")),
        ("agent/toggle-pause", "UNPAUSED", Member()),
        ("agent/logoff", "LOGGED_OFF", None),
    ):
        heard = classic.dial(script, *["1"] * ("pause" in script))
        assert (heard.outcome, night.get("PJSIP/1001")) == (outcome, after)
        assert classic.queues["sales"]["PJSIP/1001"] == left


def test_a_dynamic_member_with_that_reason_is_somebody_s(classic: Classic) -> None:
    classic.join("PJSIP/1001", *BOTH, paused=True, reason="logged-off")
    assert classic.dial("agent/unpause").outcome == "UNPAUSED"


def test_paused_for_this_very_reason(classic: Classic) -> None:
    paused = Member(True, "lunch", name="Agent/4001")
    classic.queues = {queue: {"PJSIP/1001": paused} for queue in BOTH}
    heard = classic.dial("agent/pause", "1")
    assert heard.outcome == "ALREADY_PAUSED"
    assert heard.sounds == ["spy-agent", "4001", "dictate/paused", "1"]
    assert heard.variables["AGENT_PAUSE_REASON"] == "lunch"
    assert not [line for line in heard.commands if line.startswith("EXEC")]
    assert classic.database == {}, "nothing was done"
    heard = classic.dial("agent/pause", "22")
    assert (heard.outcome, heard.variables["AGENT_PAUSE_REASON"]) == (
        "PAUSE_REASON_CHANGED",
        "a meeting",
    )
    assert heard.sounds == ["dictate/paused", "vm-saved", "22"]
    assert paused.reason == "a meeting"


def test_for_this_reason_in_one_queue_only(classic: Classic) -> None:
    classic.queues["sales"]["PJSIP/1001"] = Member(True, "lunch")
    assert classic.dial("agent/pause", "1").outcome == "PAUSED"
    assert classic.queues["night shift"]["PJSIP/1001"] == Member(True, "lunch")


@pytest.mark.parametrize("reason", ["a (b) was 3 secs ago) (c", "ä" * 39, "logged-off (dynamic)"])
def test_odd_reasons(classic: Classic, reason: str) -> None:
    facts = render_fallback_facts(settings(pause_reasons=[{"code": "1", "name": reason}]))
    classic.facts.write_text(facts, encoding="utf-8")
    for queue in BOTH:
        classic.queues[queue]["PJSIP/1001"] = Member(True, reason, name="Agent/1")
    assert classic.dial("agent/pause", "1").outcome == "ALREADY_PAUSED"


@pytest.mark.parametrize("shown", [b"", b"\xff\x00\n", b"No such queue: sales\n", b"x" * 5_000_000])
def test_a_console_that_does_not_answer_keeps_nobody_from_a_pause(
    classic: Classic, shown: bytes
) -> None:
    classic.console = lambda command: shown
    classic.join("PJSIP/1001", *BOTH, paused=True, reason="lunch")
    assert classic.dial("agent/pause", "1").outcome == "PAUSED"
    assert classic.dial("agent/unpause").outcome == "UNPAUSED"


def test_who_is_available_is_not_looked_for_on_the_console(classic: Classic) -> None:
    asked: list[str] = []
    classic.console = lambda command: asked.append(command) or b""  # type: ignore[func-returns-value]
    assert classic.dial("agent/pause", "1").outcome == "PAUSED"
    assert asked == []
    classic.dial("agent/unpause")
    assert asked == [f'queue show "{queue}"' for queue in BOTH]


def test_one_that_cannot_even_be_paused(classic: Classic) -> None:
    """Its other queues are left; the note stays, as something has changed."""
    classic.queues["sales"]["PJSIP/1001"].dynamic = False
    gone = {'GET VARIABLE "PQM': "200 result=1 (NOTFOUND)"}
    assert classic.dial("agent/logoff", answers=gone).outcome == "QUEUE_REFUSED"
    assert classic.queues["night shift"] == {}
    assert len(classic.database) == 1


def test_missing_sounds_are_beeps_and_none_at_all_is_no_failure(classic: Classic) -> None:
    classic.missing = {"dictate/paused"}
    heard = classic.dial("agent/pause", "1")
    assert (heard.outcome, heard.sounds) == ("PAUSED", ["beeperr", "1"])
    assert "dictate/paused" in heard.told[0]
    classic.missing = {"dictate/paused", "beeperr"}
    classic.join("PJSIP/1001", *BOTH)
    heard = classic.dial("agent/pause", "1")
    assert (heard.outcome, heard.sounds) == ("PAUSED", ["1"])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"devices": 3}', '{"devices": [{"match": "["}]}', "\udcff"]
)
def test_no_facts_are_told_to_the_log_and_the_dialplan_speaks(classic: Classic, text: str) -> None:
    classic.facts.write_bytes(text.encode("utf-8", "surrogateescape"))
    heard = classic.dial("agent/pause", "1")
    assert (heard.outcome, heard.sounds, heard.status, heard.stderr) == ("", [], 1, "")
    assert str(classic.facts) in heard.told[0]
    assert untouched(classic)


def test_too_few_arguments_are_a_person_s() -> None:
    result = subprocess.run(AGI, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert "Asterisk runs this" in result.stderr


# -- the caller, or Asterisk, is gone


@pytest.mark.parametrize("at", ["GET VARIABLE", "ANSWER", "STREAM FILE", "WAIT FOR DIGIT"])
def test_who_hangs_up_before_the_change_changes_nothing(classic: Classic, at: str) -> None:
    heard = classic.dial("agent/pause", keys=["1", "#"], hang_up_at=at)
    assert untouched(classic)
    assert heard.stderr == ""


@pytest.mark.parametrize(
    ("script", "at"),
    [
        ("agent/pause", "DATABASE PUT"),
        ("agent/pause", "EXEC"),
        ("agent/pause", 'GET VARIABLE "PQMSTATUS'),
        ("agent/logoff", "DATABASE PUT"),
        ("agent/logoff", "EXEC"),
        ("agent/logoff", 'GET VARIABLE "RQMSTATUS'),
    ],
)
def test_what_has_begun_is_finished_though_the_caller_is_gone(
    classic: Classic, script: str, at: str
) -> None:
    heard = classic.dial(script, *["1"] * ("pause" in script), hang_up_at=at)
    if script == "agent/pause":
        assert all(classic.queues[queue]["PJSIP/1001"].paused for queue in BOTH)
    else:
        assert classic.queues == {"sales": {}, "night shift": {}}
    assert len(classic.database) == 1
    assert heard.outcome in ("PAUSED", "LOGGED_OFF")
    assert heard.sounds == [], "nobody listens"


@pytest.mark.parametrize("at", ["GET VARIABLE", "DATABASE", "EXEC", "ANSWER", "SET"])
def test_asterisk_dies(classic: Classic, at: str) -> None:
    heard = classic.dial("agent/pause", "1", die_at=at)
    assert heard.status in (0, 1)
    assert heard.stderr == ""


@pytest.mark.parametrize("raw", [b"", b"agi_channel: x\n", b"x" * 70_000, b"a: b\n" * 200])
def test_headers_that_never_end(classic: Classic, raw: bytes) -> None:
    """The pipe closes behind them."""
    process = subprocess.Popen(
        [*AGI, str(classic.facts), "agent/pause", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    out, err = process.communicate(raw, timeout=20)
    assert (out, err) == (b"", b"")
    assert process.returncode in (0, 1)


# -- hostile or odd


def test_a_caller_name_in_another_encoding(classic: Classic) -> None:
    heard = classic.dial(
        "agent/pause", "1", more={"agi_calleridname": "\udcc9tienne", "agi_callerid": "\udcff1"}
    )
    assert heard.outcome == "PAUSED"
    assert classic.notes()[0]["n"].endswith("1")


@pytest.mark.parametrize("digits", ["1\nEXEC System id", '1" "2', "1;2", "①", "1" * 500])
def test_digits_are_digits(classic: Classic, digits: str) -> None:
    heard = classic.dial("agent/pause", digits)
    assert not any("System" in line for line in heard.commands)
    assert heard.outcome in ("PAUSED", "NO_SUCH_REASON", "NO_INPUT")


def test_a_caller_id_with_quotes_line_ends_and_a_whole_novel(classic: Classic) -> None:
    hostile = 'x" y\\" \r EXEC System' + "é" * 300
    heard = classic.dial("agent/pause", "1", more={"agi_callerid": hostile})
    assert heard.outcome == "PAUSED"
    ((key, value),) = classic.database.items()
    assert len(value.encode()) <= MAX_VALUE
    assert Note.parse(key, value).interface == "PJSIP/1001"
    assert not any(line.startswith("EXEC System") for line in heard.commands)


def test_a_unique_id_that_is_no_key(classic: Classic) -> None:
    classic.dial("agent/pause", "1", more={"agi_uniqueid": "../a b/\u2028" + "9" * 200})
    (key,) = classic.database
    assert Note.parse(key, classic.database[key]).unique_id.startswith("..ab9")


def test_other_notes_are_left_to_the_service(classic: Classic) -> None:
    others = {"1750000000001-a": "", "1750000000003-b": '{"s":"agent/pause","i":"PJSIP/9"}'}
    classic.database = dict(others)
    heard = classic.dial("agent/pause", "1")
    assert heard.outcome == "PAUSED"
    assert len(classic.database) == 3
    assert classic.database.items() >= others.items()
    assert not any("DB" in line for line in heard.commands)


def test_a_queue_with_more_members_than_asterisk_lists(classic: Classic) -> None:
    crowd = {f"Local/{n:05}@out": Member() for n in range(200)}
    here = {"PJSIP/1001": Member(paused=True)}
    classic.queues = {"sales": crowd | here, "night shift": dict(crowd)}
    assert classic.dial("agent/unpause").outcome == "UNPAUSED"
    assert classic.dial("agent/unpause", extension="1002").outcome == "NOT_LOGGED_IN"
    assert classic.dial("agent/logoff", extension="1002").outcome == "NOT_LOGGED_IN"
    assert len(classic.database) == 1
    assert classic.dial("agent/logoff").outcome == "LOGGED_OFF"
    assert classic.queues["sales"] == crowd


def test_sounds_of_the_admin_s_own(classic: Classic) -> None:
    classic.facts.write_text(
        render_fallback_facts(settings(prompts={"PAUSED": ["custom/a", "custom/b"]})),
        encoding="utf-8",
    )
    assert classic.dial("agent/pause", "1").sounds == ["custom/a", "custom/b"]


def test_it_imports_little() -> None:
    """A process per call: the settings or the store would be most of it."""
    program = "import json, sys, fastagi.fallback; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    imported = set(json.loads(result.stdout))
    heavy = {"pydantic", "peewee", "structlog", "yaml", "asyncio", "logging", "fastagi.config"}
    assert not imported & (heavy | {"fastagi.agents.model", "fastagi.agents.service"})
