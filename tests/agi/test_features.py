"""Every code on a real FastAGI server, with a caller who types, waits, errs and hangs up."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from agents.memory import BREAK, LUNCH, NOON, QUEUES, Hall, an_agent
from fastagi.agents.commands import Pause, PauseReason, WhenInCall
from fastagi.agents.devices import DeviceRule, Pattern
from fastagi.agents.limits import PauseLimit, QueuePause, WhenExceeded
from fastagi.agents.model import Membership
from fastagi.agents.unplugged import PHONE_AWAY
from fastagi.agi import prompts
from fastagi.agi.features import (
    BUSY,
    FEATURES,
    PhoneSettings,
    asterisk_in,
    handlers,
    parse,
    unknown,
)
from fastagi.agi.server import Server
from fastagi.contract import EventType, Outcome, Script, Source, Variable

from .asterisk_client import Call, dial, words

RULES = (
    DeviceRule(Pattern.parse("10XX"), "phones", "PJSIP/{extension}"),
    DeviceRule(Pattern.parse("0X."), "", "Local/{extension}@outbound/n", type="remote"),
)
ALL = frozenset(Variable)
LANGUAGE_SET = 'SET VARIABLE "CHANNEL(language)" fr'


@dataclass
class Answered:
    """A call when it is over."""

    call: Call
    set: list[tuple[str, str]]  # channel variables, in order
    logs: list[Any]

    @property
    def variables(self) -> dict[str, str]:
        return dict(self.set)

    @property
    def outcome(self) -> str:
        return self.variables.get(Variable.STATUS, "")

    @property
    def heard(self) -> list[str]:
        return self.call.heard

    @property
    def decided(self) -> str:
        """The outcome as the service wrote it down; "" when the caller was gone before."""
        (line,) = [line for line in self.logs if line["event"] == "call"]
        return str(line["outcome"])

    def sound_of_mind(self) -> None:
        wrong = [line for line in self.logs if line["event"] in FAILURES]
        assert not wrong, wrong


FAILURES = ("skipped: a fault of the service", "not AGI", "malformed")


@dataclass
class Desk:
    """1001 (no PIN, French), 1002 (PIN 4321), 1003 (no PIN); phones 1000 to 1099."""

    hall: Hall = field(
        default_factory=lambda: Hall(
            an_agent("1001", language="fr"), an_agent("1002", pin="4321"), an_agent("1003")
        )
    )
    settings: PhoneSettings = field(default_factory=lambda: PhoneSettings(RULES))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        features = handlers(self.hall.service, lambda: self.settings)
        server = Server(
            features,
            host="127.0.0.1",
            port=0,
            allow=["127.0.0.1"],
            busy=features[BUSY],
            unknown=unknown,
        )
        await server.start()
        try:
            yield server.port
        finally:
            await server.drain(2)

    async def dial(self, script: str, *args: str, **how: Any) -> Answered:
        with capture_logs() as logs:
            async with self.serving() as port:
                call = await dial(port, script, *args, **how)
        return Answered(call, was_set(call), logs)

    async def good(self, script: str, *args: str, **how: Any) -> Answered:
        """A call that ends as a call should: spoken, and told to the dialplan."""
        answered = await self.dial(script, *args, **how)
        answered.sound_of_mind()
        assert answered.heard, "silence"
        assert {name for name, _ in answered.set} >= ALL
        assert answered.set[-1][0] == Variable.STATUS
        assert answered.outcome == answered.decided
        self.hall.all_well()
        return answered


def was_set(call: Call) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in call.commands:
        match words(line):
            case ["SET", "VARIABLE", name, value]:
                found.append((name, value))
            case ["EXEC", "MSet", pairs]:
                found += [
                    (name, value)
                    for name, _, value in (pair.partition("=") for pair in pairs.split(","))
                ]
    return found


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def logged_in(desk: Desk) -> None:
    await desk.hall.do(desk.hall.log_in("1001", "1001"))


async def paused(desk: Desk) -> None:
    await logged_in(desk)
    await desk.hall.do(desk.hall.pause(LUNCH))


async def elsewhere(desk: Desk) -> None:
    await desk.hall.do(desk.hall.log_in("1009", "1001"))


async def occupied(desk: Desk) -> None:
    await desk.hall.do(desk.hall.log_in("1001", "1003"))


async def in_call(desk: Desk) -> None:
    await logged_in(desk)
    desk.hall.asterisk.calls.add("pjsip/1001")


async def may_not_leave(desk: Desk) -> None:
    await in_call(desk)
    desk.settings = replace(desk.settings, when_in_call=WhenInCall.REFUSE)


async def pause_later(desk: Desk) -> None:
    await in_call(desk)
    desk.settings = replace(desk.settings, pause_when_in_call=WhenInCall.AFTER_CALL)


async def pause_not_now(desk: Desk) -> None:
    await in_call(desk)
    desk.settings = replace(desk.settings, pause_when_in_call=WhenInCall.REFUSE)


async def pause_planned(desk: Desk) -> None:
    await pause_later(desk)
    answered = await desk.good(Script.PAUSE, "2")
    assert answered.outcome == "PAUSE_AFTER_CALL"


async def phone_away(desk: Desk) -> None:
    await logged_in(desk)
    await desk.hall.do(desk.hall.pause(PHONE_AWAY))


async def lunch_eaten(desk: Desk) -> None:
    """The hour that the day allows is used up."""
    await logged_in(desk)
    hour = timedelta(hours=1)
    desk.hall.store.known_limits["1"] = PauseLimit(None, hour, WhenExceeded.UNPAUSE)
    desk.hall.store.ended_pauses.append(("1001", "1", NOON - hour, NOON))


async def locked_in(desk: Desk) -> None:
    """Ten minutes of lunch, and not less."""
    await paused(desk)
    desk.hall.store.known_queue_pauses["sales", "1"] = QueuePause(
        timedelta(minutes=10), automatic_unpause=True, disable_unpause=True
    )


async def not_in_sales(desk: Desk) -> None:
    await logged_in(desk)
    await desk.hall.do(desk.hall.leave("sales"))


async def in_company(desk: Desk) -> None:
    await logged_in(desk)
    await desk.hall.do(desk.hall.log_in("1003", "1003"))


async def asterisk_refuses(desk: Desk) -> None:
    desk.hall.asterisk.queues.clear()


async def link_down(desk: Desk) -> None:
    desk.hall.asterisk.linked = False


async def store_down(desk: Desk) -> None:
    desk.hall.store.down = {"*"}


def failed(desk: Desk, key: str, times: int) -> None:
    desk.hall.store.failed_at[key] = [desk.hall.clock.now.timestamp()] * times


async def agent_locked(desk: Desk) -> None:
    failed(desk, "agent:1002@phone::pjsip/1001", 3)


async def extension_locked(desk: Desk) -> None:
    failed(desk, "place:phone::pjsip/1001", 6)


def listed(desk: Desk, *codes_from: str) -> None:
    desk.settings = replace(desk.settings, codes_from=codes_from)


async def trunk_listed(desk: Desk) -> None:
    listed(desk, "PJSIP/trunk")


async def logged_in_and_trunk_listed(desk: Desk) -> None:
    await logged_in(desk)
    await trunk_listed(desk)


async def with_a_number(desk: Desk) -> None:
    desk.hall.store.outside["1002"] = ("0401234567", "07XXXXXXXX")


async def other_queue(desk: Desk) -> None:
    await logged_in(desk)
    desk.hall.store.known_queues["night"] = "799"


async def never_asked(desk: Desk) -> None:
    await elsewhere(desk)
    desk.settings = replace(desk.settings, ask_to_move=False)


async def always_moved(desk: Desk) -> None:
    await elsewhere(desk)
    desk.settings = replace(desk.settings, ask_to_move=False, move=True)


async def taken_over(desk: Desk) -> None:
    await occupied(desk)
    desk.settings = replace(desk.settings, take_over=True)


async def as_it_is(desk: Desk) -> None:
    pass


O, S = Outcome, Script  # noqa: E741


@dataclass
class Case:
    outcome: Outcome
    script: str
    args: tuple[str, ...] = ()
    before: Callable[[Desk], Awaitable[None]] = as_it_is
    digits: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()  # at least, in this order
    extension: str = "1001"
    keys: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    @property
    def how(self) -> dict[str, Any]:
        return {
            "digits": self.digits,
            "extension": self.extension,
            "keys": self.keys,
            "told": self.told,
        }

    def __str__(self) -> str:
        dialled = "".join(self.args) or "alone"
        return f"{self.outcome} {self.script} {dialled} {self.before.__name__} {self.digits}"


REASON_MENU = ("dictate/pause", "vm-press", "digits:1", "digits:2")

CASES = [
    # *31
    Case(O.LOGGED_IN, S.LOGIN, ("1001",), heard=("agent-loginok",)),
    Case(O.LOGGED_IN, S.LOGIN, digits=("1001",), heard=("agent-user", "agent-loginok")),
    Case(O.LOGGED_IN, S.LOGIN, ("",), digits=("1001",), heard=("agent-user", "agent-loginok")),
    Case(
        O.LOGGED_IN, S.LOGIN, digits=("", "1001"),
        heard=("agent-user", "agent-user", "agent-loginok"),
    ),
    Case(
        O.LOGGED_IN, S.LOGIN, ("9999",), digits=("1001",),
        heard=("agent-incorrect", "agent-loginok"),
    ),
    Case(O.LOGGED_IN, S.LOGIN, ("1001*1005",), heard=("agent-loginok",)),
    Case(O.LOGGED_IN, S.LOGIN, digits=("1001*1005",), heard=("agent-user", "agent-loginok")),
    Case(
        O.LOGGED_IN, S.LOGIN, ("1002*0401234567",), with_a_number, ("4321",),
        ("agent-pass", "agent-loginok"),
    ),
    Case(
        O.NUMBER_NOT_ALLOWED, S.LOGIN, ("1002*0900123456",), with_a_number, ("4321",),
        ("agent-pass", "digits:0900123456", "ss-noservice"),
    ),
    Case(O.NUMBER_NOT_ALLOWED, S.LOGIN, ("1001*0401234567",), heard=("ss-noservice",)),
    Case(O.LOGGED_IN, S.LOGIN, ("1002",), digits=("4321",), heard=("agent-pass", "agent-loginok")),
    Case(
        O.LOGGED_IN, S.LOGIN, ("1002",), digits=("1", "", "4321"),
        heard=("agent-pass", "auth-incorrect", "agent-pass", "agent-loginok"),
    ),
    Case(O.LOGGED_IN, S.LOGIN, ("1001",), taken_over, heard=("agent-loginok",)),
    Case(O.ALREADY_LOGGED_IN, S.LOGIN, ("1001",), logged_in, heard=("spy-agent", "digits:1001")),
    Case(
        O.MOVED, S.LOGIN, ("1001",), elsewhere, ("1",),
        heard=("digits:1009", "digits/1", "pbx-transfer", "digits:1001"),
    ),
    Case(O.MOVED, S.LOGIN, ("1001",), elsewhere, keys={"vm-extension": "1"}),
    Case(O.MOVED, S.LOGIN, ("1001",), always_moved, heard=("pbx-transfer",)),
    Case(O.LOGGED_IN_ELSEWHERE, S.LOGIN, ("1001",), elsewhere, ("2",), heard=("digits:1009",)),
    Case(O.LOGGED_IN_ELSEWHERE, S.LOGIN, ("1001",), elsewhere, heard=("digits:1009",)),
    Case(O.LOGGED_IN_ELSEWHERE, S.LOGIN, ("1001",), never_asked, heard=("digits:1009",)),
    Case(
        O.EXTENSION_IN_USE, S.LOGIN, ("1001",), occupied,
        heard=("vm-extension", "digits:1001", "spy-agent", "digits:1003", "agent-loginok"),
    ),
    Case(O.NO_INPUT, S.LOGIN, heard=("agent-user",) * 3 + ("vm-sorry",)),
    Case(O.NO_INPUT, S.LOGIN, ("1002",), heard=("agent-pass",) * 3 + ("vm-sorry",)),
    Case(O.NO_SUCH_AGENT, S.LOGIN, digits=("8", "9", "10"), heard=("vm-incorrect", "vm-goodbye")),
    Case(
        O.WRONG_PIN, S.LOGIN, ("1002",), digits=("1", "2", "3"),
        heard=("agent-pass", "auth-incorrect", "auth-incorrect", "confbridge-pin-bad"),
    ),
    Case(O.AGENT_LOCKED, S.LOGIN, ("1002",), agent_locked, ("4321",), ("spy-agent", "digits:1002")),
    Case(
        O.EXTENSION_LOCKED, S.LOGIN, ("1002",), extension_locked, ("4321",),
        ("vm-extension", "digits:1001"),
    ),
    Case(O.NO_SUCH_EXTENSION, S.LOGIN, ("1001*2000",), heard=("pbx-invalid",)),
    Case(
        O.NO_SUCH_EXTENSION, S.LOGIN, ("1001",), extension="lobby", heard=("pbx-invalid",),
        told={"${PJSIP_ENDPOINT(lobby,context)}": "phones"},
    ),
    Case(O.NO_SUCH_EXTENSION, S.LOGIN, ("1001",), trunk_listed, extension="trunk"),
    Case(O.NOT_FROM_HERE, S.LOGIN, ("1001",), extension="trunk", heard=("privacy-unident",)),
    Case(
        O.QUEUE_REFUSED, S.LOGIN, ("1001",), asterisk_refuses,
        heard=("queue-callswaiting", "digits:701", "vm-isunavail"),
    ),
    Case(O.UNAVAILABLE, S.LOGIN, ("1001",), link_down, heard=("please-try-again",)),
    Case(O.UNAVAILABLE, S.LOGIN, ("1001",), store_down, heard=("please-try-again",)),
    # *32
    Case(O.LOGGED_OFF, S.LOGOFF, before=logged_in, heard=("agent-loggedoff",)),
    Case(O.LOGGED_OFF, S.LOGOFF, ("1001",), logged_in, heard=("agent-loggedoff",)),
    Case(
        O.LOGGED_OFF, S.LOGOFF, ("1001",), logged_in, extension="1007", heard=("agent-loggedoff",)
    ),
    Case(
        O.LOGGED_OFF, S.LOGOFF, before=logged_in_and_trunk_listed, digits=("1001",),
        extension="trunk", heard=("agent-user", "agent-loggedoff"),
    ),
    Case(O.LOGOFF_AFTER_CALL, S.LOGOFF, before=in_call, heard=("vm-isonphone", "auth-thankyou")),
    Case(O.IN_CALL, S.LOGOFF, before=may_not_leave, heard=("vm-isonphone", "please-try-again")),
    Case(O.NOT_LOGGED_IN, S.LOGOFF, heard=("beeperr", "vm-no", "spy-agent", "vm-goodbye")),
    Case(O.NOT_LOGGED_IN, S.LOGOFF, ("1001",), heard=("beeperr", "vm-no", "spy-agent")),
    Case(O.WRONG_PIN, S.LOGOFF, ("1002",), digits=("1", "2", "3"), heard=("confbridge-pin-bad",)),
    # *33
    Case(O.PAUSED, S.PAUSE, ("1",), logged_in, heard=("dictate/paused", "digits:1")),
    Case(O.PAUSED, S.PAUSE, before=logged_in, digits=("2",), heard=(*REASON_MENU, "digits:2")),
    Case(O.PAUSED, S.PAUSE, before=logged_in, keys={"digits:1": "2"}, heard=("dictate/paused",)),
    Case(
        O.PAUSED, S.PAUSE, ("7",), logged_in, ("1",),
        heard=("conf-errormenu", *REASON_MENU, "dictate/paused"),
    ),
    Case(O.ALREADY_PAUSED, S.PAUSE, ("1",), paused, heard=("spy-agent", "dictate/paused")),
    Case(O.PAUSE_REASON_CHANGED, S.PAUSE, ("2",), paused, heard=("vm-saved", "digits:2")),
    Case(O.PAUSED, S.PAUSE, ("1",), in_call, heard=("dictate/paused", "digits:1")),
    Case(
        O.PAUSE_AFTER_CALL, S.PAUSE, ("1",), pause_later,
        heard=("vm-isonphone", "dictate/pause", "digits:1", "auth-thankyou"),
    ),
    Case(O.PAUSE_AFTER_CALL, S.PAUSE, ("1",), pause_planned, heard=("vm-isonphone", "digits:1")),
    Case(O.IN_CALL, S.PAUSE, ("1",), pause_not_now, heard=("vm-isonphone", "please-try-again")),
    Case(
        O.PAUSE_SPENT, S.PAUSE, ("1",), lunch_eaten,
        heard=("beeperr", "dictate/pause", "digits:1", "vm-isunavail"),
    ),
    Case(O.PAUSED, S.PAUSE, ("2",), lunch_eaten, heard=("dictate/paused", "digits:2")),
    Case(O.NOT_LOGGED_IN, S.PAUSE, ("1",), heard=("beeperr", "vm-no", "spy-agent")),
    Case(O.NO_SUCH_REASON, S.PAUSE, ("7",), logged_in, ("8", "9", "6"), heard=("vm-goodbye",)),
    Case(O.NO_INPUT, S.PAUSE, before=logged_in, heard=(*REASON_MENU * 3, "vm-sorry")),
    # *34
    Case(O.UNPAUSED, S.UNPAUSE, before=paused, heard=("auth-thankyou", "vm-no", "dictate/pause")),
    Case(
        O.PAUSE_LOCKED, S.UNPAUSE, before=locked_in,
        heard=("beeperr", "dictate/pause", "digits:1", "please-try-again"),
    ),
    Case(O.NOT_PAUSED, S.UNPAUSE, before=logged_in, heard=("vm-no", "dictate/pause")),
    Case(O.NOT_PAUSED, S.UNPAUSE, before=pause_planned, heard=("vm-no", "dictate/pause")),
    Case(O.NOT_LOGGED_IN, S.UNPAUSE, heard=("beeperr", "vm-no", "spy-agent")),
    # *35
    Case(
        O.STATUS_TOLD, S.STATUS, before=logged_in,
        heard=("digits:1001", "agent-loginok", "digits:701", "vm-and", "digits:703", "vm-no"),
    ),
    Case(O.STATUS_TOLD, S.STATUS, before=paused, heard=("dictate/paused", "digits:1", "number:0")),
    Case(O.STATUS_TOLD, S.STATUS, before=pause_planned, heard=("vm-isonphone", "digits:2")),
    Case(O.STATUS_TOLD, S.STATUS, before=phone_away, heard=("dictate/paused", "number:0")),
    Case(O.NOT_LOGGED_IN, S.STATUS, heard=("beeperr", "vm-no", "spy-agent")),
    # *36
    Case(O.QUEUE_JOINED, S.QUEUE, ("701",), not_in_sales, heard=("agent-loginok", "digits:701")),
    Case(
        O.QUEUE_JOINED, S.QUEUE, before=not_in_sales, digits=("7", "0", "1"),
        heard=("spy-agent", "vm-press", "digits:701", "agent-loginok"),
    ),
    Case(O.QUEUE_LEFT, S.QUEUE, ("701",), in_company, heard=("agent-loggedoff", "digits:701")),
    Case(O.QUEUE_LEFT, S.QUEUE, ("701",), logged_in, ("1",), heard=("digits/1", "digits:701")),
    Case(O.LAST_IN_QUEUE, S.QUEUE, ("701",), logged_in, ("2",), heard=("vm-last", "digits:701")),
    Case(O.NO_SUCH_QUEUE, S.QUEUE, ("700",), logged_in, heard=("privacy-incorrect",)),
    Case(O.NOT_A_MEMBER, S.QUEUE, ("799",), other_queue, heard=("privacy-incorrect",)),
    Case(O.NO_INPUT, S.QUEUE, before=logged_in, heard=("spy-agent", "vm-press", "vm-sorry")),
    Case(O.NOT_LOGGED_IN, S.QUEUE, ("701",), heard=("beeperr", "vm-no", "spy-agent")),
    # *30 and *39
    Case(O.LOGGED_IN, S.TOGGLE_LOGIN, ("1001",), heard=("agent-loginok",)),
    Case(O.LOGGED_IN, S.TOGGLE_LOGIN, digits=("1001",), heard=("agent-user", "agent-loginok")),
    Case(O.LOGGED_OFF, S.TOGGLE_LOGIN, before=logged_in, heard=("agent-loggedoff",)),
    Case(O.LOGGED_OFF, S.TOGGLE_LOGIN, ("1001",), logged_in, heard=("agent-loggedoff",)),
    Case(O.EXTENSION_IN_USE, S.TOGGLE_LOGIN, ("1003",), logged_in, heard=("digits:1001",)),
    Case(O.PAUSED, S.TOGGLE_PAUSE, ("2",), logged_in, heard=("dictate/paused", "digits:2")),
    Case(O.UNPAUSED, S.TOGGLE_PAUSE, before=paused, heard=("auth-thankyou",)),
    Case(O.NOT_PAUSED, S.TOGGLE_PAUSE, before=pause_planned, heard=("vm-no", "dictate/pause")),
    Case(O.PAUSE_AFTER_CALL, S.TOGGLE_PAUSE, ("1",), pause_later, heard=("digits:1",)),
    Case(O.NOT_LOGGED_IN, S.TOGGLE_PAUSE, heard=("beeperr", "vm-no", "spy-agent")),
    # one call too many
    Case(O.BUSY, BUSY, heard=("beeperr", "please-try-again")),
]  # fmt: skip


def in_order(wanted: tuple[str, ...], heard: list[str]) -> bool:
    rest = iter(heard)
    return all(sound in rest for sound in wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_codes(desk: Desk, case: Case) -> None:
    await case.before(desk)
    answered = await desk.good(case.script, *case.args, **case.how)
    assert answered.outcome == case.outcome
    assert in_order(case.heard, answered.heard), answered.heard


def test_every_outcome_and_every_code_is_among_the_cases() -> None:
    assert {case.outcome for case in CASES} == set(Outcome)
    assert {case.script for case in CASES} - {BUSY} == set(FEATURES) == set(Script)
    for script in Script:
        assert {bool(case.args) for case in CASES if case.script == script} >= {False}


# -- what the dialplan is told


async def test_the_variables_of_a_login(desk: Desk) -> None:
    answered = await desk.good(S.LOGIN, "1001")
    assert answered.set[-4:] == [
        ("AGENT_NUMBER", "1001"),
        ("AGENT_EXTENSION", "1001"),
        ("AGENT_PAUSE_REASON", ""),
        ("AGENT_STATUS", "LOGGED_IN"),
    ]


async def test_the_variables_of_a_pause_with_a_reason_that_needs_quoting(desk: Desk) -> None:
    odd = "a \"b\", ${EXTEN} \\ = 'c'"
    desk.hall.store.known_reasons = (PauseReason("1", odd),)
    await logged_in(desk)
    answered = await desk.good(S.PAUSE, "1")
    assert answered.variables[Variable.PAUSE_REASON] == odd
    assert not answered.call.executed, "an application would have taken it apart"


async def test_a_pause_that_was_refused_is_no_pause(desk: Desk) -> None:
    await paused(desk)
    desk.hall.asterisk.refuses = lambda _: True
    answered = await desk.good(S.PAUSE, "2")
    assert answered.outcome == "QUEUE_REFUSED"
    assert answered.variables[Variable.PAUSE_REASON] == "lunch"


async def test_a_locked_phone_is_called_by_its_own_number(desk: Desk) -> None:
    """Not by that of the phone where the agent is logged in."""
    await desk.hall.do(desk.hall.log_in("1009", "1002"))
    await extension_locked(desk)
    answered = await desk.good(S.LOGIN, "1002", digits=["4321"])
    assert answered.outcome == "EXTENSION_LOCKED"
    assert "digits:1001" in answered.heard
    assert answered.variables[Variable.EXTENSION] == "1001"


async def test_where_the_agent_is_instead(desk: Desk) -> None:
    await elsewhere(desk)
    answered = await desk.good(S.LOGIN, "1001")
    assert answered.variables[Variable.EXTENSION] == "1009"
    (_, event) = desk.hall.events
    assert (event.type, event.extension) == (EventType.LOGIN_REFUSED, "1001")


@pytest.mark.parametrize(
    "dialled", ["1001x", "1" * 21, "1001**", "*", "**", "\t\x01\x7f", "é", "1001*é"]
)
async def test_what_no_phone_should_send_is_as_if_nothing_was_dialled(
    desk: Desk, dialled: str
) -> None:
    answered = await desk.good(S.LOGIN, dialled)
    assert answered.outcome == "NO_INPUT"


@pytest.mark.parametrize("script", [S.PAUSE, S.QUEUE, S.STATUS, S.LOGOFF, S.TOGGLE_PAUSE])
@pytest.mark.parametrize("dialled", ["\t\x01\x7f", "7" * 5000, '"; core stop now', "${SHELL(id)}"])
async def test_nothing_dialled_comes_out_again(desk: Desk, script: str, dialled: str) -> None:
    await logged_in(desk)
    answered = await desk.good(script, dialled)
    for line in answered.call.commands:
        assert "SHELL" not in line
        assert "stop now" not in line
        assert len(line) < 200


def test_parse() -> None:
    assert parse("", "") == ("", "")
    assert parse("1001", "") == ("1001", "")
    assert parse("1001*2002", "") == ("1001", "2002")
    assert parse("*2002", "") == ("", "2002")
    assert parse("1001", "2002") == ("1001", "2002")
    assert parse("1001*", "2002") == ("", "2002")


async def test_the_caller_s_own_name_is_written_down_harmlessly(desk: Desk) -> None:
    more = {"agi_callerid": "\x1b[31m1001\x07" + "9" * 500}
    await desk.good(S.LOGIN, "1001", more=more)
    (event,) = desk.hall.events
    assert event.source is Source.PHONE
    assert event.actor.caller_id.isprintable()
    assert len(event.actor.caller_id) <= 80
    assert event.actor.channel == "PJSIP/1001-00000001"
    assert event.actor.unique_id == "1790000000.1"


async def test_the_extension_from_the_caller_id(desk: Desk) -> None:
    desk.settings = replace(desk.settings, extension_from_endpoint=False)
    told = {"${PJSIP_ENDPOINT(alice,context)}": "phones"}
    channel = "PJSIP/alice-00000001"
    await desk.good(S.LOGIN, "1001", channel=channel, extension="1005", told=told)
    assert desk.hall.state.session
    assert desk.hall.state.session.device.extension == "1005"


async def test_settings_are_read_at_each_call(desk: Desk) -> None:
    async with desk.serving() as port:
        desk.settings = replace(desk.settings, prompts={Outcome.LOGGED_IN: ("custom/hello",)})
        call = await dial(port, S.LOGIN, "1001")
    assert call.heard == ["custom/hello"]


# -- what is to follow the call


async def test_a_pause_that_is_to_come_is_not_there_yet(desk: Desk) -> None:
    await pause_later(desk)
    answered = await desk.good(S.PAUSE, "1")
    assert answered.variables[Variable.PAUSE_REASON] == ""
    planned = desk.hall.state.planned
    assert isinstance(planned, Pause)
    assert planned.reason == LUNCH
    desk.hall.asterisk.calls.clear()
    await desk.hall.settle()
    assert desk.hall.state.pause
    assert desk.hall.told[-1] == (EventType.PAUSE, "lunch")


@pytest.mark.parametrize("script", [S.UNPAUSE, S.TOGGLE_PAUSE])
async def test_a_pause_that_is_to_come_is_taken_back(desk: Desk, script: str) -> None:
    await pause_planned(desk)
    await desk.good(script)
    desk.hall.asterisk.calls.clear()
    await desk.hall.settle()
    assert desk.hall.state.pause is None
    assert [type for type, _ in desk.hall.told] == [EventType.LOGIN]


async def test_the_time_after_a_call_belongs_to_it(desk: Desk) -> None:
    await pause_later(desk)
    desk.hall.asterisk.calls.clear()
    desk.hall.asterisk.last_call["pjsip/1001"] = (NOON - timedelta(seconds=20)).timestamp()
    assert (await desk.good(S.PAUSE, "1")).outcome == "PAUSED"


async def test_the_system_s_own_reason_is_not_offered(desk: Desk) -> None:
    await phone_away(desk)
    answered = await desk.good(S.PAUSE, digits=["2"])
    assert answered.outcome == "PAUSE_REASON_CHANGED"
    assert [sound for sound in answered.heard if sound.startswith("digits:")] == [
        "digits:1",
        "digits:2",
        "digits:2",
    ]


# -- several Asterisks


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("", ""),
        ("asterisk=north", "north"),
        ("a=b&asterisk=south&c=d", "south"),
        ("asterisk=south%2D2", "south-2"),
        ("asterisk=NORTH", ""),
        ("asterisk=elsewhere", ""),
        ("asterisk=", ""),
        ("asterisk", ""),
        ("asterisk=north\n", ""),
        ("&".join(["asterisk=north"] * 50), ""),
        ("asterisk=%ff%fe", ""),
    ],
)
def test_which_asterisk_calls(query: str, name: str) -> None:
    assert asterisk_in(query, ("north", "south", "south-2")) == name
    assert asterisk_in(query, ("",)) == ""


async def test_a_phone_belongs_to_the_asterisk_that_calls() -> None:
    desk = Desk(hall=Hall(an_agent("1001"), an_agent("1003"), asterisks=("north", "south")))
    for name, agent in (("north", "1001"), ("south", "1003")):
        answered = await desk.good(f"{S.LOGIN}?asterisk={name}", agent)
        assert answered.outcome == "LOGGED_IN"
        session = desk.hall.store.agents[agent].session
        assert session
        assert session.device.asterisk == name
        # The same extension, and another phone.
        assert session.device.extension == "1001"
    answered = await desk.dial(f"{S.STATUS}?asterisk=south")
    assert answered.variables[Variable.NUMBER] == "1003"
    answered = await desk.dial(f"{S.LOGOFF}?asterisk=north")
    assert answered.variables[Variable.NUMBER] == "1001"


# -- language


async def test_the_agent_s_language_comes_before_the_first_word_to_the_agent(desk: Desk) -> None:
    desk.hall.store.agents["1002"] = an_agent("1002", pin="4321", language="fr")
    answered = await desk.good(S.LOGIN, digits=["1002", "4321"])
    commands = answered.call.commands
    language = commands.index(LANGUAGE_SET)
    assert [c.split()[2] for c in commands[:language] if c.startswith("GET DATA")] == ["agent-user"]
    assert commands[language + 1].startswith("GET DATA agent-pass")


@pytest.mark.parametrize(
    "script", [S.PAUSE, S.UNPAUSE, S.STATUS, S.QUEUE, S.LOGOFF, S.TOGGLE_PAUSE]
)
async def test_every_code_speaks_the_agent_s_language(desk: Desk, script: str) -> None:
    await logged_in(desk)
    answered = await desk.good(script)
    first = next(
        n for n, c in enumerate(answered.call.commands) if c.startswith(("STREAM", "SAY", "GET"))
    )
    assert LANGUAGE_SET in answered.call.commands[:first]


async def test_a_language_that_is_spoken_already_is_not_set_again(desk: Desk) -> None:
    answered = await desk.good(S.LOGIN, "1001", more={"agi_language": "fr"})
    assert not [c for c in answered.call.commands if "CHANNEL" in c]


# -- sounds that are not there


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_without_its_sounds_a_call_beeps(case: Case) -> None:
    desk = Desk()
    await case.before(desk)
    missing = prompts.SOUNDS - {prompts.LAST_RESORT}
    how = case.how
    if case.script in (S.LOGIN, S.LOGOFF, S.TOGGLE_LOGIN):  # asked digit by digit then
        how["digits"] = [digit for entry in case.digits for digit in (*entry, "#")]
    if case.keys:  # there is nothing to press them during
        how["digits"] = list(case.keys.values())
    answered = await desk.good(case.script, *case.args, **how, missing=missing)
    assert prompts.LAST_RESORT in answered.heard
    assert answered.outcome == case.outcome


async def test_a_prompt_that_is_missing_is_named_in_the_log(desk: Desk) -> None:
    answered = await desk.good(S.LOGIN, digits="1001#", missing=["agent-user"])
    assert answered.outcome == "LOGGED_IN"
    (line,) = [line for line in answered.logs if line["event"] == "a sound file is missing"]
    assert line["sound"] == "agent-user"


async def test_digits_that_cannot_be_spoken_end_no_call(desk: Desk) -> None:
    """The language package lacks digits/: the answer goes on, and the dialplan is told."""
    await logged_in(desk)
    answered = await desk.good(S.STATUS, answers={"SAY DIGITS": "200 result=-1"})
    assert answered.outcome == "STATUS_TOLD"
    assert "agent-loginok" in answered.heard


@pytest.mark.parametrize("reply", ["510 Invalid or unknown command", "200 result=-1"])
async def test_a_call_that_cannot_be_answered_is_told_to_the_dialplan(
    desk: Desk, reply: str
) -> None:
    answered = await desk.dial(S.LOGIN, "1001", answers={"ANSWER": reply})
    answered.sound_of_mind()
    assert answered.outcome == answered.decided == "LOGGED_IN"
    desk.hall.all_well()


async def test_a_script_nobody_knows_is_answered(desk: Desk) -> None:
    for missing in ([], ["tt-somethingwrong", "please-try-again"]):
        answered = await desk.dial("agent/dance", missing=missing)
        answered.sound_of_mind()
        assert answered.outcome == "UNAVAILABLE"


async def test_whatever_goes_wrong_in_here_the_caller_is_told(desk: Desk) -> None:
    async def broken(number: str) -> None:
        raise ZeroDivisionError

    desk.hall.store.agent = broken  # type: ignore[assignment, method-assign]
    answered = await desk.dial(S.LOGIN, "1001")
    assert answered.outcome == "UNAVAILABLE"
    assert "please-try-again" in answered.heard


# -- PINs


async def test_a_pin_is_never_seen(desk: Desk) -> None:
    pins = ("777111", "777222", "4321")
    seen: list[str] = []
    answered = await desk.good(S.LOGIN, "1002", digits=pins)
    seen += answered.call.commands
    seen.append(repr(answered.logs))
    seen.append(repr(desk.hall.events))
    answered = await desk.good(S.LOGOFF, "1002", digits=["777333"] * 3, extension="1008")
    seen += answered.call.commands
    seen.append(repr(answered.logs))
    for text in seen:
        # Standing alone: a port or a time may happen to contain four digits of it.
        assert not re.search(rf"(?<!\d)({'|'.join(pins)}|777333)(?!\d)", text)


async def test_a_pin_is_not_in_a_traceback(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(pin_hash: str, pin: str) -> bool:
        raise ZeroDivisionError

    desk.hall.service._pins.verify = broken  # type: ignore[method-assign]
    # As the service logs; structlog's own default would print local variables.
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.LogfmtRenderer()],
        cache_logger_on_first_use=False,
    )
    try:
        async with desk.serving() as port:
            call = await dial(port, S.LOGIN, "1002", digits=["777111"])
    finally:
        structlog.reset_defaults()
    assert ("AGENT_STATUS", "UNAVAILABLE") in was_set(call)
    out = capsys.readouterr()
    assert "ZeroDivisionError" in out.out + out.err
    assert "777111" not in out.out + out.err


# -- hanging up


JOURNEYS = [
    Case(O.LOGGED_IN, S.LOGIN, digits=("9", "1002", "1", "4321")),
    Case(O.LOGGED_IN, S.LOGIN, ("1001",)),
    Case(O.MOVED, S.LOGIN, ("1001",), elsewhere, ("1",)),
    Case(O.LOGGED_IN_ELSEWHERE, S.LOGIN, ("1001",), elsewhere, ("2",)),
    Case(O.WRONG_PIN, S.LOGIN, ("1002",), digits=("1", "2", "3")),
    Case(O.LOGGED_OFF, S.LOGOFF, before=logged_in),
    Case(
        O.LOGGED_OFF,
        S.LOGOFF,
        before=logged_in_and_trunk_listed,
        digits=("1001",),
        extension="trunk",
    ),
    Case(O.PAUSED, S.PAUSE, before=logged_in, digits=("7", "1")),
    Case(O.UNPAUSED, S.UNPAUSE, before=paused),
    Case(O.STATUS_TOLD, S.STATUS, before=paused),
    Case(O.QUEUE_LEFT, S.QUEUE, before=logged_in, digits=("7", "0", "1", "1")),
    Case(O.LOGGED_OFF, S.TOGGLE_LOGIN, before=logged_in),
    Case(O.PAUSED, S.TOGGLE_PAUSE, before=logged_in, digits=("2",)),
    Case(O.BUSY, BUSY),
]


@pytest.mark.parametrize("case", JOURNEYS, ids=str)
@pytest.mark.parametrize("notices", [True, False], ids=["HANGUP", "silent"])
@pytest.mark.parametrize("when", ["hang_up_at", "hang_up_after", "drop_at"])
async def test_hanging_up_at_every_step(case: Case, when: str, notices: bool) -> None:
    decided = 0
    for step in itertools.count():
        desk = Desk()
        await case.before(desk)
        states, events = dict(desk.hall.store.agents), len(desk.hall.events)
        answered = await desk.dial(
            case.script, *case.args, **case.how, **{when: step}, notices=notices
        )
        answered.sound_of_mind()
        desk.hall.all_well()
        if step >= len(answered.call.commands):
            assert answered.outcome == case.outcome
            break
        if not answered.decided:
            assert desk.hall.store.agents == states, "changed for a caller who had decided nothing"
            assert all(e.type is EventType.LOGIN_REFUSED for e in desk.hall.events[events:])
            assert answered.outcome == ""
        elif when != "drop_at":
            decided += 1
            assert answered.outcome == answered.decided
            assert answered.set[-1][0] == Variable.STATUS
            assert {name for name, _ in answered.set} >= ALL
    assert decided or when == "drop_at"


async def test_who_hangs_up_at_the_question_has_said_no(desk: Desk) -> None:
    await logged_in(desk)
    alone = await desk.dial(S.QUEUE, "701", digits=["2"])
    question = next(n for n, c in enumerate(alone.call.commands) if c.startswith("WAIT"))
    answered = await desk.dial(S.QUEUE, "701", hang_up_at=question)
    assert answered.outcome == answered.decided == "LAST_IN_QUEUE"
    await desk.hall.do(desk.hall.log_off(), desk.hall.log_in("1009", "1001"))
    alone = await desk.dial(S.LOGIN, "1001", digits=["2"])
    question = next(n for n, c in enumerate(alone.call.commands) if c.startswith("WAIT"))
    answered = await desk.dial(S.LOGIN, "1001", hang_up_at=question)
    assert answered.outcome == answered.decided == "LOGGED_IN_ELSEWHERE"
    assert desk.hall.events[-1].actor.hung_up
    told = len(desk.hall.events)
    # Asterisk may close the connection before its HANGUP was read.
    await desk.dial(S.LOGIN, "1001", drop_at=question)
    assert [e.reason for e in desk.hall.events[told:]] == ["LOGGED_IN_ELSEWHERE"]
    assert desk.hall.events[-1].actor.hung_up


async def test_who_hangs_up_after_deciding_is_logged_in_and_the_event_says_so(desk: Desk) -> None:
    def hang_up(_: int, point: str) -> None:
        if point == "before queues.apply":
            session.caller_hung_up()

    session: Any = None
    features = handlers(desk.hall.service, lambda: desk.settings)

    async def login(given: Any) -> None:
        nonlocal session
        session = given
        await features[S.LOGIN](given)

    desk.hall.faults.at_point = hang_up
    server = Server(
        {S.LOGIN: login},
        host="127.0.0.1",
        port=0,
        allow=["127.0.0.1"],
        busy=features[BUSY],
        unknown=unknown,
    )
    await server.start()
    call = await dial(server.port, S.LOGIN, "1001")
    await server.drain(2)
    assert dict(was_set(call))["AGENT_STATUS"] == "LOGGED_IN"
    assert call.heard == []
    (event,) = desk.hall.events
    assert event.type is EventType.LOGIN
    assert event.actor.hung_up
    desk.hall.all_well()


async def test_reasons_are_offered_by_code(desk: Desk) -> None:
    desk.hall.store.known_reasons = (LUNCH, BREAK, PauseReason("12", "training"))
    await logged_in(desk)
    answered = await desk.good(S.PAUSE, digits=["1", "2"])
    assert answered.variables[Variable.PAUSE_REASON] == "training"
    answered = await desk.good(S.PAUSE, digits=["1", "#"])
    assert answered.variables[Variable.PAUSE_REASON] == "lunch"


async def test_an_agent_without_queues_is_offered_none(desk: Desk) -> None:
    state = desk.hall.store.agents["1001"]
    desk.hall.store.agents["1001"] = replace(state, memberships=())
    await logged_in(desk)
    answered = await desk.good(S.QUEUE)
    assert answered.outcome == O.NOT_A_MEMBER
    assert "vm-press" not in answered.heard


# -- the device rule is gone, or another one, since the agent logged in

OTHER_RULE = DeviceRule(Pattern.parse("10XX"), "phones", "Local/{extension}@desks")


@pytest.mark.parametrize("rules", [(), (RULES[1],), (OTHER_RULE,)], ids=["none", "others", "new"])
@pytest.mark.parametrize(
    ("script", "args", "outcome"),
    [
        (Script.UNPAUSE, (), Outcome.UNPAUSED),
        (Script.LOGOFF, (), Outcome.LOGGED_OFF),
        (Script.STATUS, (), Outcome.STATUS_TOLD),
        (Script.PAUSE, ("2",), Outcome.PAUSE_REASON_CHANGED),
        (Script.QUEUE, ("701",), Outcome.QUEUE_LEFT),
        (Script.TOGGLE_PAUSE, (), Outcome.UNPAUSED),
        (Script.TOGGLE_LOGIN, (), Outcome.LOGGED_OFF),
    ],
)
async def test_who_sits_at_a_phone_can_do_everything_without_its_rule(
    desk: Desk,
    rules: tuple[DeviceRule, ...],
    script: Script,
    args: tuple[str, ...],
    outcome: Outcome,
) -> None:
    await desk.hall.do(desk.hall.log_in(agent="1003", at="1003"), desk.hall.log_in())
    await desk.hall.do(desk.hall.pause())
    desk.settings = replace(desk.settings, rules=rules)
    answered = await desk.good(script, *args)
    assert answered.outcome == outcome
    assert answered.variables[Variable.NUMBER] == "1001"


async def test_two_with_the_same_extension_are_nobody_for_certain(desk: Desk) -> None:
    hall = desk.hall
    for agent, interface in (("1001", "Local/1001@desks"), ("1003", "Local/1001@floor")):
        login = hall.log_in(agent=agent, at=agent)
        at = replace(login.device, extension="1001", interface=interface)
        await hall.do(replace(login, device=at))
    desk.settings = replace(desk.settings, rules=(OTHER_RULE,))
    assert (await desk.good(Script.UNPAUSE)).outcome == Outcome.NOT_PAUSED  # at the desk
    desk.settings = replace(desk.settings, rules=())
    assert (await desk.good(Script.UNPAUSE)).outcome == Outcome.NOT_FROM_HERE
    # The interface of the channel itself is certain.
    login = hall.log_in(agent="1002", at="1001")
    await hall.do(login)
    assert (await desk.good(Script.UNPAUSE)).variables[Variable.NUMBER] == "1002"


async def test_a_trunk_named_like_the_phone_of_an_agent_is_not_that_phone(desk: Desk) -> None:
    await logged_in(desk)
    for more in ({"agi_channel": "IAX2/1001-4711"}, {"agi_channel": "SIP/1001-00000001"}):
        answered = await desk.good(Script.LOGOFF, more=more)
        assert answered.outcome == Outcome.NOT_FROM_HERE
    assert desk.hall.state.session is not None


async def test_nor_is_an_endpoint_named_like_the_extension_of_another_phone(desk: Desk) -> None:
    rule = DeviceRule(Pattern.parse("201"), "office", "PJSIP/alice-desk")
    desk.settings = replace(desk.settings, rules=(rule,))
    assert (await desk.good(Script.LOGIN, "1001", extension="alice-desk")).outcome == "LOGGED_IN"
    answered = await desk.good(Script.LOGOFF, extension="201")
    assert answered.outcome == Outcome.NOT_FROM_HERE
    assert (await desk.good(Script.LOGOFF, extension="alice-desk")).outcome == "LOGGED_OFF"


async def test_nor_is_a_trunk_named_like_the_outside_number_of_one(desk: Desk) -> None:
    login = desk.hall.log_in(at="0712345678")
    device = RULES[1].device("0712345678")
    await desk.hall.do(replace(login, device=device))
    answered = await desk.good(Script.LOGOFF, extension="0712345678")
    assert answered.outcome == Outcome.NOT_FROM_HERE
    assert desk.hall.state.session is not None


FLOORS = (
    DeviceRule(Pattern.parse("1001"), "sales", "PJSIP/1001"),
    DeviceRule(Pattern.parse("1001"), "office", "PJSIP/office-1001"),
)


async def test_a_phone_with_the_same_extension_in_another_context(desk: Desk) -> None:
    """Agents log in at their own, and act for nobody at the other."""
    desk.settings = replace(desk.settings, rules=FLOORS)
    at_office = {"agi_channel": "PJSIP/office-1001-00000001"}
    assert (await desk.good(Script.LOGIN, "1003", more=at_office)).outcome == Outcome.LOGGED_IN
    session = desk.hall.store.agents["1003"].session
    assert session is not None
    assert session.device == FLOORS[1].device("1001")
    assert (await desk.good(Script.LOGOFF)).outcome == Outcome.NOT_LOGGED_IN
    assert (await desk.good(Script.LOGIN, "1001")).outcome == Outcome.LOGGED_IN
    assert (await desk.good(Script.LOGOFF, more=at_office)).variables[Variable.NUMBER] == "1003"


# -- callers from outside, whose numbers can be forged


@pytest.mark.parametrize("by_endpoint", [True, False])
@pytest.mark.parametrize(
    ("script", "args"),
    [
        (Script.LOGOFF, ()),
        (Script.PAUSE, ("2",)),
        (Script.STATUS, ()),
        (Script.QUEUE, ("701",)),
        (Script.TOGGLE_LOGIN, ()),
        (Script.TOGGLE_PAUSE, ("2",)),
    ],
)
async def test_a_forged_number_makes_nobody_sit_at_a_desk(
    desk: Desk, by_endpoint: bool, script: Script, args: tuple[str, ...]
) -> None:
    await trunk_listed(desk)
    desk.settings = replace(desk.settings, extension_from_endpoint=by_endpoint)
    await desk.hall.do(desk.hall.log_in("1005", "1002"))
    before = desk.hall.store.agents["1002"]
    how: dict[str, Any] = {"extension": "trunk", "more": {"agi_callerid": "1005"}}
    answered = await desk.good(script, *args, digits=["1002", "1", "2", "3"], **how)
    assert answered.outcome == Outcome.WRONG_PIN
    assert desk.hall.store.agents["1002"] == before
    desk.hall.store.failed_at.clear()
    answered = await desk.good(script, *args, digits=["1002", "4321", "1"], **how)
    assert answered.variables[Variable.NUMBER] == "1002"  # who has the PIN can do everything
    assert desk.hall.store.agents["1002"] != before or script is Script.STATUS


async def test_callers_without_a_number_lock_nobody_among_them(desk: Desk) -> None:
    """They show "anonymous", all of them, and are not one place."""
    await trunk_listed(desk)
    how: dict[str, Any] = {"extension": "trunk", "more": {"agi_callerid": "anonymous"}}
    wrong = await desk.good(Script.LOGOFF, "1002", digits=["1", "2", "3"], **how)
    assert wrong.outcome == Outcome.WRONG_PIN
    right = await desk.good(Script.LOGOFF, "1002", digits=["4321"], **how)
    assert right.outcome == Outcome.NOT_LOGGED_IN
    assert not [key for key in desk.hall.store.usual if "anonymous" in key]


async def test_wrong_pins_from_outside_do_not_reach_a_desk_known_by_its_number(desk: Desk) -> None:
    await trunk_listed(desk)
    desk.settings = replace(desk.settings, extension_from_endpoint=False)
    for number in range(20):
        how: dict[str, Any] = {"extension": "trunk", "more": {"agi_callerid": f"07{number:08}1"}}
        await desk.dial(Script.LOGOFF, "1002", digits=["1"], **how)
    await desk.dial(Script.LOGOFF, "1002", digits=["1", "2", "3"], extension="trunk")  # as 1005
    desk.hall.slept.clear()
    told = {"${PJSIP_ENDPOINT(alice,context)}": "phones"}
    at_the_desk: dict[str, Any] = {"extension": "alice", "more": {"agi_callerid": "1005"}}
    answered = await desk.good(Script.LOGIN, "1002", digits=["4321"], told=told, **at_the_desk)
    assert answered.outcome == Outcome.LOGGED_IN
    assert desk.hall.slept == []


# -- who may, and what it costs


@pytest.mark.parametrize(
    ("script", "args", "sounds"),
    [
        (S.LOGIN, ("1003",), ["agent-loginok"]),
        (S.UNPAUSE, (), ["auth-thankyou", "vm-no", "dictate/pause"]),
        (S.PAUSE, ("2",), ["dictate/paused", "vm-saved", "digits:2"]),
        (S.LOGOFF, (), ["agent-loggedoff"]),
    ],
)
async def test_a_code_from_a_phone_asks_asterisk_nothing(
    desk: Desk, script: str, args: tuple[str, ...], sounds: list[str]
) -> None:
    """The wire has to carry the answer and its result, and nothing for who is calling."""
    if script is not S.LOGIN:
        await paused(desk)
    answered = await desk.good(script, *args, more={"agi_language": "fr"}, extension="1001")
    verbs = [" ".join(line.split()[:2]) for line in answered.call.commands]
    said = ["SAY DIGITS" if ":" in sound else "STREAM FILE" for sound in sounds]
    language = [] if script is not S.LOGIN else ["SET VARIABLE"]  # 1003 speaks English
    assert verbs == [*language, "ANSWER", *said, "EXEC MSet"]


async def test_a_stranger_is_logged_with_the_cure(desk: Desk) -> None:
    answered = await desk.good(S.LOGIN, "1001", extension="trunk", more={"agi_context": "ivr"})
    (line,) = [line for line in answered.logs if line["event"] == "refused"]
    assert line["outcome"] == "NOT_FROM_HERE"
    assert line["extension"] == "trunk"
    assert "PJSIP/trunk or ivr in login.from" in line["why"]
    assert desk.hall.events == []


async def test_a_login_without_a_rule_is_logged_with_what_was_looked_for(desk: Desk) -> None:
    told = {"${PJSIP_ENDPOINT(alice-desk,context)}": "phones"}
    answered = await desk.good(S.LOGIN, "1001", extension="alice-desk", told=told)
    assert answered.outcome == "NO_SUCH_EXTENSION"
    (line,) = [line for line in answered.logs if line["event"] == "refused"]
    assert line["extension"] == "alice-desk"
    assert "no device rule matches 'alice-desk'" in line["why"]
    assert "extension_from: caller_id?" in line["why"]
    (line,) = [line for line in answered.logs if line["event"] == "call"]
    assert line["extension"] == "alice-desk"


async def test_busy_is_told_to_whoever_calls(desk: Desk) -> None:
    for extension, told in (("1001", "1001"), ("trunk", "")):
        answered = await desk.good(BUSY, extension=extension)
        assert (answered.outcome, answered.variables[Variable.EXTENSION]) == ("BUSY", told)


# -- "#"


async def test_a_hash_cuts_a_question_short_once(desk: Desk) -> None:
    """It ended what was typed before; the question is asked anew, and a second one is an answer."""
    await logged_in(desk)
    answered = await desk.good(S.QUEUE, "701", digits=["1"], keys={"vm-last": "#"})
    assert answered.outcome == "LAST_IN_QUEUE"  # pressed at both
    first = True

    def press(_: list[str]) -> str:
        nonlocal first
        key, first = (ord("#") if first else 0), False
        return f"200 result={key} endpos=0"

    answered = await desk.good(S.QUEUE, "701", digits=["1"], answers={"STREAM FILE vm-last": press})
    assert answered.outcome == "QUEUE_LEFT"


async def test_a_hash_after_the_last_digit_of_a_pin_is_no_try(desk: Desk) -> None:
    desk.settings = replace(desk.settings, pin_tries=2)
    answered = await desk.good(S.LOGIN, "1002", digits=["123456789012", "", "4321"])
    assert answered.outcome == "LOGGED_IN"
    assert answered.heard == ["agent-pass", "auth-incorrect", "auth-incorrect", "agent-loginok"]


async def test_a_hash_that_comes_late_answers_no_next_question(desk: Desk) -> None:
    """The time for the next digit was over: that ended the number, not the ``#``."""
    await logged_in(desk)
    answered = await desk.good(S.QUEUE, digits=["7", "0", "1", "#", "1"])
    assert answered.outcome == "QUEUE_LEFT"
    await desk.good(S.QUEUE, "701")
    four = {"night": "7010", **QUEUES}
    desk.hall.store.known_queues = four
    state = desk.hall.state
    more = (*state.memberships, Membership("night", "7010"))
    desk.hall.store.agents["1001"] = replace(state, memberships=more)
    answered = await desk.good(S.QUEUE, digits=["7", "0", "1", "", "#", "1"])
    assert answered.outcome == "QUEUE_LEFT"


async def test_a_late_hash_is_no_try_at_the_pin(desk: Desk) -> None:
    desk.settings = replace(desk.settings, pin_tries=1)
    late = iter(["1002 (timeout)", "", "4321"])

    def typed(_: list[str]) -> str:
        return f"200 result={next(late)}"

    answered = await desk.good(S.LOGIN, answers={"GET DATA": typed})
    assert answered.outcome == "LOGGED_IN"


async def test_nothing_typed_is_not_wrong(desk: Desk) -> None:
    answered = await desk.good(S.LOGIN, digits=["9999", "", "", "1001"])
    assert answered.heard[:3] == ["agent-user", "agent-incorrect", "agent-user"]


# -- please wait


@dataclass
class Slow:
    """A store that takes its time to find an agent."""

    hall: Hall
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        find = self.hall.store.agent

        async def agent(number: str) -> Any:
            await self.open.wait()
            return await find(number)

        self.hall.store.agent = agent  # type: ignore[method-assign]


async def test_who_waits_is_told_so_and_hears_the_answer_when_it_comes(desk: Desk) -> None:
    slow = Slow(desk.hall)

    def waited(words: list[str]) -> str:
        slow.open.set()
        return "200 result=0 endpos=8000"

    answered = await desk.good(
        S.LOGIN, "1001", answers={f"STREAM FILE {prompts.PLEASE_WAIT}": waited}
    )
    assert answered.outcome == "LOGGED_IN"
    verbs = [line.split()[0] for line in answered.call.commands]
    assert verbs == ["ANSWER", "STREAM", "SET", "STREAM", "EXEC"]
    assert answered.heard == ["agent-loginok"]


async def test_a_please_wait_that_is_still_spoken_is_waited_for(desk: Desk) -> None:
    """One command at a time: the answer may not cut in."""
    slow = Slow(desk.hall)
    asyncio.get_running_loop().call_later(1.1, slow.open.set)
    answered = await desk.good(S.LOGIN, "1001", wait=0.5)
    assert answered.heard == [prompts.PLEASE_WAIT, "agent-loginok"]


@pytest.mark.parametrize("when", ["hang_up_at", "hang_up_after", "drop_at"])
@pytest.mark.parametrize("step", [0, 1])
async def test_hanging_up_while_waiting(desk: Desk, when: str, step: int) -> None:
    slow = Slow(desk.hall)
    asyncio.get_running_loop().call_later(1.5, slow.open.set)
    answered = await desk.dial(S.LOGIN, "1001", **{when: step})
    answered.sound_of_mind()
    desk.hall.all_well()
    assert [e for e in desk.hall.events if e.type is EventType.LOGIN] == []


async def test_a_missing_please_wait_is_a_beep(desk: Desk) -> None:
    slow = Slow(desk.hall)
    asyncio.get_running_loop().call_later(1.5, slow.open.set)
    answered = await desk.good(S.LOGIN, "1001", missing=[prompts.PLEASE_WAIT])
    assert answered.heard == [prompts.LAST_RESORT, "agent-loginok"]


async def test_who_thinks_about_an_answer_is_not_told_to_wait(desk: Desk) -> None:
    answered = await desk.good(S.LOGIN, digits=["1001"], wait=0.3)

    assert prompts.PLEASE_WAIT not in answered.heard
