"""Nuclear Erix's face: every row of its two tables, who may ask, and whatever else may be sent."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from fastagi.agents.commands import LogOff, Pause, WhenInCall
from fastagi.agents.devices import DeviceRule, Pattern
from fastagi.agents.limits import PauseLimit, WhenExceeded
from fastagi.agents.operations import AddMember
from fastagi.config.settings import (
    AlreadyElsewhere,
    InUseByAnother,
    LoginSettings,
    PauseSettings,
)
from fastagi.contract import EventType, Source
from tests.agents.memory import LUNCH
from tests.api.conftest import House

PATH = "/api/agent.php"
HERE = {"allow": ["127.0.0.1"]}
TOKEN = "a-token-of-the-dialler"
CRM = "a-token-of-the-crm"
BOARD = "a-token-of-the-board"
TOKENS = {
    "crm": {"token": CRM, "rights": ["control"]},
    "board": {"token": BOARD, "rights": ["read", "configure"]},
}
WRONG = "a-token-of-nobody"
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Accept-Language": "pt-BR"}
INVALID = (400, {"error": "Argument list invalid"})
NOT_AUTHORIZED = (401, {"error": "Not authorized"})

Answer = tuple[int, dict[str, str]]
Ask = Callable[..., Awaitable[Answer]]


def told(answer: httpx2.Response) -> Answer:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json()


def ok(text: str) -> Answer:
    return 200, {"success": text}


def error(text: str) -> Answer:
    return 200, {"error": text}


async def get(http: httpx2.AsyncClient, fields: dict[str, str]) -> httpx2.Response:
    return await http.get(PATH, params=fields)


async def post(http: httpx2.AsyncClient, fields: dict[str, str]) -> httpx2.Response:
    return await http.post(PATH, data=fields)


async def post_query(http: httpx2.AsyncClient, fields: dict[str, str]) -> httpx2.Response:
    return await http.post(PATH, params=fields)


async def post_parts(http: httpx2.AsyncClient, fields: dict[str, str]) -> httpx2.Response:
    parts = [(name, (None, value.encode())) for name, value in fields.items()]
    return await http.post(PATH, files=parts)


@pytest.fixture(autouse=True)
def equipment(house: House) -> None:
    """Agent 1001 has a login name; 2XXX and billing are not of the call centre."""
    office = DeviceRule(Pattern.parse("2XXX"), "phones", "PJSIP/{extension}", call_center=False)
    house.rules = (*house.rules, office)
    house.records.logins["ana.souza"] = "1001"
    house.records.not_call_center.add("billing")


@pytest.fixture
async def http(house: House) -> httpx2.AsyncClient:
    return await house.open(agent_php=HERE)


@pytest.fixture(params=[get, post, post_query, post_parts], ids=lambda way: way.__name__)
def ask(request: pytest.FixtureRequest, http: httpx2.AsyncClient) -> Ask:
    """A request from an allowed address, by each way there is."""

    async def asked(**fields: str) -> Answer:
        return told(await request.param(http, fields))

    return asked


@pytest.fixture
def by_get(http: httpx2.AsyncClient) -> Ask:
    async def asked(**fields: str) -> Answer:
        return told(await get(http, fields))

    return asked


def login(agent: str = "ana.souza", exten: str = "1001", queue: str = "sales") -> dict[str, str]:
    return {"command": "login", "agent": agent, "exten": exten, "queue": queue}


def queues_of(house: House, exten: str) -> list[str]:
    """Those of Asterisk in which that extension is."""
    queues = house.hall.asterisk.queues.items()
    return [name for name, members in queues if f"pjsip/{exten}" in members]


# -- what the document shows


async def test_a_day(house: House, ask: Ask) -> None:
    assert await ask(**login()) == ok("Login OK")
    assert queues_of(house, "1001") == ["sales"]
    assert await ask(command="pause", agent="ana.souza", reason="lunch") == ok("Pause OK")
    member = house.hall.asterisk.queues["sales"]["pjsip/1001"]
    assert (member.paused, member.reason) == (True, "lunch")
    assert house.hall.state.pause is not None
    assert house.hall.state.pause.reason == LUNCH
    assert await ask(command="unpause", agent="ana.souza") == ok("Unpause OK")
    assert not house.hall.asterisk.queues["sales"]["pjsip/1001"].paused
    assert await ask(command="logoff", agent="ana.souza") == ok("Logoff OK")
    assert queues_of(house, "1001") == []
    events = house.hall.events
    assert [(event.type, event.queues) for event in events] == [
        (EventType.LOGIN, ("sales",)),
        (EventType.PAUSE, ("sales",)),
        (EventType.UNPAUSE, ("sales",)),
        (EventType.LOGOUT, ("sales",)),
    ]
    assert {(e.agent, e.source, e.actor.name) for e in events} == {
        ("1001", Source.API, "127.0.0.1")
    }
    house.hall.all_well()


async def test_every_error_of_the_table(house: House, ask: Ask) -> None:
    who = {"agent": "ana.souza"}
    for fields in (
        {"command": "login", **who},
        {"command": "login", **who, "exten": "1001"},
        {"command": "login", **who, "queue": "sales"},
        {"command": "login", **who, "queue": "sales", "exten": ""},
        {"command": "login", **who, "queue": "", "exten": "1001"},
        {"command": "dance", **who},
        {"command": "LOGIN", **who, "exten": "1001", "queue": "sales"},
    ):
        assert await ask(**fields) == INVALID
    for fields in ({}, {"command": ""}, who, {"reason": "lunch"}):
        assert await ask(**fields) == (400, {"error": "Command not specified"})
    for command in ("login", "logoff", "pause", "unpause", "dance"):
        for agent in ({}, {"agent": ""}):
            fields = {"command": command, "exten": "1001", "queue": "sales", **agent}
            assert await ask(**fields) == (400, {"error": "Agent not specified"})
    for command in ("login", "logoff", "pause", "unpause"):
        fields = {"command": command, "agent": "ana", "exten": "1001", "queue": "sales"}
        assert await ask(**fields) == error("Agent not exists")
    for command in ("logoff", "pause", "unpause"):
        assert await ask(command=command, **who) == error("Agent not logged")
    assert await ask(**login(queue="dreams")) == error("Queue not exists")
    for exten in ("3001", "100", "10011", "ana"):
        assert await ask(**login(exten=exten)) == error("Exten not exists")
    assert await ask(**login(queue="billing")) == error("Queue Call Center false")
    assert await ask(**login(exten="2001")) == error("Exten Call Center false")
    assert {event.type for event in house.hall.events} == {EventType.LOGIN_REFUSED}
    assert await ask(**login()) == ok("Login OK")
    assert await ask(command="unpause", **who) == error("Agent alredy available")
    assert await ask(command="pause", **who) == ok("Pause OK")
    for reason in ("", "lunch", "break", "anything"):
        assert await ask(command="pause", reason=reason, **who) == error("Agent alredy paused")
    assert house.hall.state.pause is not None
    assert house.hall.state.pause.reason.name == ""
    house.hall.all_well()


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({"agent": "nobody", "exten": "x", "queue": "dreams"}, "Agent not exists"),
        ({"agent": "1001", "exten": "x", "queue": "dreams"}, "Queue not exists"),
        ({"agent": "1001", "exten": "x", "queue": "billing"}, "Exten not exists"),
        ({"agent": "1001", "exten": "2001", "queue": "billing"}, "Queue Call Center false"),
        ({"agent": "1001", "exten": "2001", "queue": "sales"}, "Exten Call Center false"),
    ],
)
async def test_what_is_wrong_first_is_told(by_get: Ask, fields: dict[str, str], first: str) -> None:
    assert await by_get(command="login", **fields) == error(first)


async def test_refused_logins_are_events(house: House, by_get: Ask) -> None:
    await by_get(**login(agent="4711"))
    await by_get(**login(agent="nobody"))  # no number that could stand in an event
    await by_get(**login(exten="3001"))
    await by_get(**login(exten="2001"))
    await by_get(**login(queue="dreams"))
    await by_get(**login(queue="billing"))
    assert [(e.agent, e.extension, e.reason) for e in house.hall.events] == [
        ("4711", "1001", "NO_SUCH_AGENT"),
        ("1001", "3001", "NO_SUCH_EXTENSION"),
        ("1001", "2001", "NO_SUCH_EXTENSION"),
        ("1001", "1001", "NO_SUCH_QUEUE"),
        ("1001", "1001", "NO_SUCH_QUEUE"),
    ]
    assert {(e.type, e.source, e.actor.name) for e in house.hall.events} == {
        (EventType.LOGIN_REFUSED, Source.API, "127.0.0.1")
    }


# -- queues


async def test_a_second_queue(house: House, ask: Ask) -> None:
    assert await ask(**login()) == ok("Login OK")
    assert await ask(**login(queue="support")) == ok("Login OK")
    assert queues_of(house, "1001") == ["sales", "support"]
    changes = len(house.hall.asterisk.done)
    assert await ask(**login(queue="support")) == ok("Login OK")
    assert await ask(**login()) == ok("Login OK")
    assert len(house.hall.asterisk.done) == changes
    assert house.hall.told == [(EventType.LOGIN, ""), (EventType.QUEUE_JOIN, "")]
    assert await ask(command="logoff", agent="1001") == ok("Logoff OK")
    assert queues_of(house, "1001") == []
    house.hall.all_well()


async def test_a_queue_of_another_case(house: House, by_get: Ask) -> None:
    assert await by_get(**login(queue="SALES")) == ok("Login OK")
    assert queues_of(house, "1001") == ["sales"]


async def test_a_queue_that_was_not_the_agents(house: House, by_get: Ask) -> None:
    agents = house.hall.store.agents
    assert await by_get(**login(agent="1002", exten="1002", queue="support")) == ok("Login OK")
    assert queues_of(house, "1002") == ["support"]
    support = next(m for m in agents["1002"].memberships if m.queue == "support")
    assert (support.number, support.joined) == ("702", True)
    assert [e.queues for e in house.hall.events] == [("support",)]
    # The second, while logged in.
    house.records.not_call_center.clear()
    assert await by_get(**login(agent="1002", exten="1002", queue="billing")) == ok("Login OK")
    assert queues_of(house, "1002") == ["support", "billing"]
    house.hall.all_well()


@pytest.mark.parametrize("why", ["in use", "asterisk", "link"])
async def test_of_a_login_that_fails_no_queue_stays(house: House, by_get: Ask, why: str) -> None:
    wanted = login(agent="1002", queue="support", exten="1002")
    if why == "in use":
        assert await by_get(**login()) == ok("Login OK")
        wanted["exten"] = "1001"
        expected = error("Exten in use by agent 1001")
    elif why == "asterisk":
        house.hall.asterisk.refuses = lambda operation: isinstance(operation, AddMember)
        expected = error("Asterisk refused the change: Permission denied")
    else:
        house.hall.asterisk.linked = False
        expected = (503, {"error": "Service unavailable"})
    assert await by_get(**wanted) == expected
    state = house.hall.store.agents["1002"]
    assert (state.session, [m.queue for m in state.memberships]) == (None, ["sales"])
    house.hall.all_well()


async def test_a_queue_that_asterisk_lacks(house: House, by_get: Ask) -> None:
    del house.hall.asterisk.queues["support"]
    assert await by_get(**login(queue="support")) == error("Queue not exists")
    assert await by_get(**login()) == ok("Login OK")
    assert await by_get(**login(queue="support")) == error("Queue not exists")
    assert queues_of(house, "1001") == ["sales"]
    house.hall.asterisk.queues["support"] = {}
    house.hall.all_well()


async def test_two_logins_at_once(house: House, by_get: Ask) -> None:
    answers = await asyncio.gather(
        *(by_get(**login(queue=queue)) for queue in ("sales", "support", "sales", "support"))
    )
    assert answers == [ok("Login OK")] * 4
    assert queues_of(house, "1001") == ["sales", "support"]
    house.hall.all_well()


# -- where


async def test_logged_in_elsewhere(house: House, by_get: Ask) -> None:
    assert await by_get(**login()) == ok("Login OK")
    refused = error("Agent already logged at 1001")
    assert await by_get(**login(exten="1002")) == refused
    house.login = LoginSettings(already_elsewhere=AlreadyElsewhere.REFUSE)
    assert await by_get(**login(exten="1002", queue="support")) == refused
    assert queues_of(house, "1001") == ["sales"]
    assert house.hall.told[1:] == [(EventType.LOGIN_REFUSED, "LOGGED_IN_ELSEWHERE")] * 2
    house.login = LoginSettings(already_elsewhere=AlreadyElsewhere.MOVE)
    assert await by_get(**login(exten="1002", queue="support")) == ok("Login OK")
    assert queues_of(house, "1001") == []
    assert queues_of(house, "1002") == ["sales", "support"]
    house.hall.all_well()


async def test_an_extension_in_use(house: House, by_get: Ask) -> None:
    assert await by_get(**login()) == ok("Login OK")
    other = login(agent="1002")
    assert await by_get(**other) == error("Exten in use by agent 1001")
    house.login = LoginSettings(in_use_by_another=InUseByAnother.TAKE_OVER)
    assert await by_get(**other) == ok("Login OK")
    assert house.hall.state.session is None
    assert house.hall.asterisk.queues["sales"]["pjsip/1001"].name == "Agent/1002"
    house.hall.all_well()


async def test_a_remote_agent(house: House, by_get: Ask) -> None:
    assert await by_get(**login(exten="01155512345")) == ok("Login OK")
    assert house.hall.state.session is not None
    assert house.hall.state.session.device.type == "remote"


# -- in a call


async def test_log_off_in_a_call(house: House, by_get: Ask) -> None:
    assert await by_get(**login()) == ok("Login OK")
    house.hall.asterisk.calls.add("pjsip/1001")
    house.login = LoginSettings(logoff_in_call=WhenInCall.REFUSE)
    assert await by_get(command="logoff", agent="1001") == error("Agent in call")
    house.login = LoginSettings(logoff_in_call=WhenInCall.AFTER_CALL)
    planned = {"success": "Logoff OK", "planned": "log off"}
    assert await by_get(command="logoff", agent="1001") == (200, planned)
    assert isinstance(house.hall.state.planned, LogOff)
    # Who is to be logged off needs no pause: it is the log-off that is planned.
    house.pause = PauseSettings(when_in_call=WhenInCall.AFTER_CALL)
    planned = {"success": "Pause OK", "planned": "log off"}
    assert await by_get(command="pause", agent="1001") == (200, planned)
    # Logging in again, also to another queue, takes that back.
    assert await by_get(**login(queue="support")) == ok("Login OK")
    assert house.hall.state.planned is None
    assert queues_of(house, "1001") == ["sales", "support"]
    house.login = LoginSettings(logoff_in_call=WhenInCall.ALLOW)
    assert await by_get(command="logoff", agent="1001") == ok("Logoff OK")
    assert house.hall.state.session is None


async def test_pause_in_a_call(house: House, by_get: Ask) -> None:
    assert await by_get(**login()) == ok("Login OK")
    house.hall.asterisk.calls.add("pjsip/1001")
    house.pause = PauseSettings(when_in_call=WhenInCall.REFUSE)
    assert await by_get(command="pause", agent="1001") == error("Agent in call")
    house.pause = PauseSettings(when_in_call=WhenInCall.AFTER_CALL)
    planned = {"success": "Pause OK", "planned": "pause"}
    assert await by_get(command="pause", agent="1001") == (200, planned)
    assert isinstance(house.hall.state.planned, Pause)
    assert await by_get(command="unpause", agent="1001") == ok("Unpause OK")
    assert house.hall.state.planned is None
    assert await by_get(command="unpause", agent="1001") == error("Agent alredy available")


# -- reasons


# As sent, the name and the code of what comes of it.
REASONS = [
    ("lunch", "lunch", "1"),
    ("LUNCH", "lunch", "1"),
    ("2", "break", "2"),
    (" break ", "break", "2"),
    ("", "", ""),
    ("   ", "", ""),
    ("Reunião: 100% às 15h", "Reunião: 100% às 15h", ""),
    ("it's \"quoted\" \\ 'so' ${EXTEN} <b>", "it's \"quoted\" \\ 'so' ${EXTEN} <b>", ""),
    ("x' OR 1=1 --", "x' OR 1=1 --", ""),
    ("x" * 79, "x" * 79, ""),
    ("é" * 39, "é" * 39, ""),
    ("\u00a0a\u00a0", "a", ""),
]


async def test_reasons(house: House, ask: Ask) -> None:
    assert await ask(**login()) == ok("Login OK")
    for reason, name, code in REASONS:
        assert await ask(command="pause", agent="1001", reason=reason) == ok("Pause OK"), reason
        pause = house.hall.state.pause
        assert pause is not None
        assert (pause.reason.name, pause.reason.code) == (name, code)
        assert house.hall.asterisk.queues["sales"]["pjsip/1001"].reason == name
        house.hall.all_well()
        assert await ask(command="unpause", agent="1001") == ok("Unpause OK")


NO_REASONS = [
    "lunch, then cake",
    "a|b",
    "a;b",
    "lunch\r\nAction: Originate",
    "lunch\nx",
    "a\tb",
    "a\0b",
    "\x7f",
    "a\x85b",
    "a\u2028b",
    "a\u202eb",
    "x" * 80,
    "é" * 40,
    "device-lost",
    " Device-Lost ",
]


async def test_reasons_that_asterisk_cannot_keep(house: House, ask: Ask) -> None:
    assert await ask(**login()) == ok("Login OK")
    done = len(house.hall.asterisk.done)
    for reason in NO_REASONS:
        assert await ask(command="pause", agent="1001", reason=reason) == INVALID, reason
    assert house.hall.state.pause is None
    assert len(house.hall.asterisk.done) == done


async def test_a_reason_that_is_used_up(house: House, by_get: Ask) -> None:
    limit = PauseLimit(None, daily_budget=timedelta(0), when_exceeded=WhenExceeded.UNPAUSE)
    house.hall.store.known_limits = {"1": limit}
    assert await by_get(**login()) == ok("Login OK")
    wanted = {"command": "pause", "agent": "1001", "reason": "lunch"}
    assert await by_get(**wanted) == error("Pause reason used up for today")


# -- Asterisk or the store away


async def test_asterisk_away(house: House, http: httpx2.AsyncClient) -> None:
    assert told(await get(http, login())) == ok("Login OK")
    house.hall.asterisk.linked = False
    for command in ("logoff", "pause", "unpause", "login"):
        answer = await get(http, login() | {"command": command})
        assert told(answer) == (503, {"error": "Service unavailable"})
        assert answer.headers["retry-after"] == "1"
    house.hall.asterisk.linked = True
    house.hall.all_well()


@pytest.mark.parametrize("call", ["number_of", "call_center_queues", "agent", "begin", "*"])
async def test_the_store_away(house: House, ask: Ask, call: str) -> None:
    house.hall.store.down = {call}
    assert await ask(**login()) == (503, {"error": "Service unavailable"})
    assert house.hall.asterisk.done == []
    house.hall.store.down = set()
    assert await ask(**login()) == ok("Login OK")


async def test_the_store_away_for_a_queue_that_was_not_the_agents(
    house: House, by_get: Ask
) -> None:
    house.hall.store.down = {"queue_names"}
    wanted = login(agent="1002", exten="1002", queue="support")
    assert await by_get(**wanted) == (503, {"error": "Service unavailable"})
    house.hall.store.down = set()
    assert await by_get(**wanted) == ok("Login OK")


# -- what was sent


async def test_the_last_one_counts(house: House, http: httpx2.AsyncClient) -> None:
    query = "command=logoff&agent=1002&exten=1001&queue=sales&agent=1001&command=login"
    assert told(await http.get(f"{PATH}?{query}")) == ok("Login OK")
    assert house.hall.state.session is not None
    answer = await http.get(f"{PATH}?command=logoff&agent=1001&agent=")
    assert told(answer) == (400, {"error": "Agent not specified"})


async def test_the_body_before_the_query(house: House, http: httpx2.AsyncClient) -> None:
    query = {"command": "dance", "exten": "1001", "queue": "sales"}
    answer = await http.post(PATH, params=query, data={"command": "login", "agent": "1001"})
    assert told(answer) == ok("Login OK")
    answer = await http.post(PATH, params={"command": "logoff"}, data={"agent": "1001"})
    assert told(answer) == ok("Logoff OK")


OTHER_BODIES = [
    ("application/json", json.dumps(login())),
    ("text/plain", "command=logoff&agent=1001"),
    ("", "command=logoff&agent=1001"),
    ("multipart/form-data", "command=logoff"),
    ("multipart/form-data; boundary=", "--\r\n"),
    ("multipart/form-data; boundary=b", "--b"),
    ("multipart/form-data; boundary=b", "--b--\r\n--b\r\nContent-Disposition: form-data"),
    (
        "multipart/form-data; boundary=b",
        '--b\r\nContent-Disposition: form-data; name="command"; filename="x"\r\n\r\nlogin',
    ),
    (
        "multipart/form-data; boundary=b",
        '--b--\r\nContent-Disposition: form-data; name="command"\r\n\r\nlogin\r\n--b--',
    ),
]


async def test_of_other_bodies_nothing_is_read(http: httpx2.AsyncClient) -> None:
    for kind, body in OTHER_BODIES:
        headers = {"Content-Type": kind}
        answer = await http.post(PATH, params={"agent": "1001"}, content=body, headers=headers)
        assert told(answer) == (400, {"error": "Command not specified"}), (kind, body)


@pytest.mark.parametrize("way", ["get", "post"])
async def test_too_many_fields(http: httpx2.AsyncClient, way: str) -> None:
    text = "&".join(f"a{n}=1" for n in range(200)) + "&command=logoff&agent=1001"
    if way == "get":
        answer = await http.get(f"{PATH}?{text}")
    else:
        kind = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}
        answer = await http.post(PATH, content=text, headers=kind)
    assert told(answer) == INVALID


async def test_a_body_too_large(http: httpx2.AsyncClient) -> None:
    answer = await http.post(PATH, data={"command": "x" * 70_000})
    assert told(answer) == (413, {"error": "The body is larger than 65536 bytes"})


EVIL = [
    "1001' OR '1'='1",
    "1001; DROP TABLE agents",
    '1001"',
    "1001\\",
    "1001\r\nAction: Originate",
    "1001\r\nSet-Cookie: a=b",
    "1001\n",
    "1001\0",
    "\0",
    "１００１",
    "١٠٠١",
    "../../etc/passwd",
    "${SHELL(id)}",
    "<script>alert(1)</script>",
    "PJSIP/1001",
    "1001@phones",
    "1001&Local/0900",
    "%s%n{0}",
    " 1001",
    "x" * 60_000,
    "\U0001f600",
]


ANSWERS = {
    "command": INVALID,
    "agent": error("Agent not exists"),
    "queue": error("Queue not exists"),
    "exten": error("Exten not exists"),
}


async def test_nothing_evil_passes(house: House, ask: Ask) -> None:
    for field, answer in ANSWERS.items():
        for evil in EVIL:
            assert await ask(**login() | {field: evil}) == answer, (field, evil)
    assert house.hall.asterisk.done == []
    assert all(agent.session is None for agent in house.hall.store.agents.values())
    for event in house.hall.events:  # of refused logins: nothing of what was sent
        assert event.type is EventType.LOGIN_REFUSED
        assert (event.agent, event.extension) in (("1001", "1001"), ("1001", ""))
    for _, _, values in house.log.lines:
        line = str(values["command"]) + str(values["agent"])
        assert line.isascii()
        assert line.isprintable()
        assert len(line) < 1000


async def test_no_utf_8(house: House) -> None:
    """As bytes, which clients do not send by themselves."""
    app = house.application(agent_php=HERE, tokens=TOKENS, lockout={"failures": 1000})
    for text in (b"%ff%fe", b"%00", b"%ed%a0%80", b"%", b"%zz", b"%0d%0a", b"\xff", b"\0"):
        for field, expected in (ANSWERS | {"token": NOT_AUTHORIZED}).items():
            sent = {name: value.encode() for name, value in login("1001").items()}
            sent[field] = b"x" + text
            query = b"&".join(name.encode() + b"=" + value for name, value in sent.items())
            assert await raw(app, query) == expected, query
        if text not in (b"%", b"%zz", b"%0d%0a"):  # those are texts, and blanks at the end
            query = b"command=pause&agent=1001&reason=x" + text
            assert await raw(app, query) == INVALID, query
    assert house.hall.asterisk.done == []


async def raw(app: Any, query: bytes, **more: Any) -> Answer:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": query,
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 40000),
        **more,
    }
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


async def test_a_query_in_utf_8_as_it_is(house: House) -> None:
    app = house.application(agent_php=HERE)
    query = "&".join(f"{name}={value}" for name, value in login().items()).encode()
    assert await raw(app, query) == ok("Login OK")
    query = "command=pause&agent=1001&reason=reuni\u00e3o".encode()
    assert await raw(app, query) == ok("Pause OK")
    assert house.hall.state.pause is not None
    assert house.hall.state.pause.reason.name == "reuni\u00e3o"


async def test_other_methods_change_nothing(house: House, http: httpx2.AsyncClient) -> None:
    for method in ("HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        answer = await http.request(method, PATH, params=login())
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST"), method
        assert answer.headers["cache-control"] == "no-store"
    assert house.hall.asterisk.done == []
    assert house.hall.events == []


async def test_other_paths(http: httpx2.AsyncClient) -> None:
    for path in (f"{PATH}//", f"{PATH}/login", "/api/agent.phpx", "/api/", "/api"):
        answer = await http.get(path, params=login())
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"}), path


# -- who may ask


async def test_off_by_default(house: House) -> None:
    http = await house.open()
    for answer in (await get(http, login()), await post(http, login())):
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
    http = await house.open(CRM, tokens=TOKENS)
    assert (await get(http, login())).status_code == 404
    assert PATH not in (await http.get("/openapi.json")).json()["paths"]
    assert house.hall.asterisk.done == []


@pytest.mark.parametrize(
    ("allow", "address", "status"),
    [
        ([], "127.0.0.1", 401),
        (["127.0.0.1"], "127.0.0.1", 200),
        (["127.0.0.1"], "127.0.0.2", 401),
        (["192.0.2.0/28"], "192.0.2.15", 200),
        (["192.0.2.0/28"], "192.0.2.16", 401),
        (["192.0.2.0/28"], "127.0.0.1", 401),
        (["192.0.2.0/28"], "::ffff:192.0.2.15", 200),
        (["2001:db8::/64"], "2001:db8::7", 200),
        (["2001:db8::/64"], "2001:db8:0:1::7", 401),
        (["::/0"], "192.0.2.1", 401),
        (["0.0.0.0/0"], "", 401),
        (["0.0.0.0/0"], "a socket", 401),
    ],
)
async def test_addresses(house: House, allow: list[str], address: str, status: int) -> None:
    http = await house.open(address=address, agent_php={"allow": allow}, tokens=TOKENS)
    for way in (get, post):
        answer = await way(http, login())
        assert answer.status_code == status
        if status == 401:
            assert told(answer) == NOT_AUTHORIZED
            assert answer.headers["www-authenticate"] == "Bearer"
    assert {event.actor.name for event in house.hall.events} == (
        {address} if status == 200 else set()
    )
    assert (await http.post("/0.1/agents/1001/logoff")).status_code == 401


async def test_addresses_where_there_are_no_tokens(house: House) -> None:
    app = house.application(agent_php={"allow": ["192.0.2.0/28"]})
    http = await house.open(app=app, address="192.0.2.7")
    assert told(await get(http, login())) == ok("Login OK")
    assert (await http.post("/0.1/agents/1001/logoff")).status_code == 403
    for address in ("192.0.2.16", "127.0.0.1"):  # this machine is none of those
        http = await house.open(app=app, address=address)
        assert told(await get(http, login())) == NOT_AUTHORIZED


def shown(way: str, token: str) -> dict[str, Any]:
    """What of a request shows the token so."""
    match way:
        case "query":
            return {"params": {**login(), "token": token}}
        case "form":
            return {"data": {**login(), "token": token}}
        case "bearer":
            return {"params": login(), "headers": {"Authorization": f"Bearer {token}"}}
        case _:
            return {"params": login(), "headers": {way: token}}


WAYS = ("query", "form", "token", "bearer", "x-auth-token")
ACTORS = {
    TOKEN: "192.0.2.7",
    CRM: "crm",
    BOARD: "",
    WRONG: "",
    TOKEN + "x": "",
    TOKEN[:-1]: "",
    TOKEN.upper(): "",
}


@pytest.mark.parametrize("allow", [[], ["192.0.2.7"]])
async def test_tokens(house: House, allow: list[str]) -> None:
    """One that is shown decides, whatever the address."""
    settings = {"allow": allow, "token": TOKEN}
    http = await house.open(
        address="192.0.2.7", agent_php=settings, tokens=TOKENS, lockout={"failures": 1000}
    )
    for way in WAYS:
        for token, actor in ACTORS.items():
            house.hall.store.events.clear()
            method = "POST" if way == "form" else "GET"
            answer = told(await http.request(method, PATH, **shown(way, token)))
            assert answer == (ok("Login OK") if actor else NOT_AUTHORIZED), (way, token)
            off = await http.get(PATH, params={"command": "logoff", "agent": "1001", "token": CRM})
            assert told(off) == (ok("Logoff OK") if actor else error("Agent not logged"))
            actors = {e.actor.name for e in house.hall.events if e.type is EventType.LOGIN}
            assert actors == ({actor} if actor else set())
            assert token not in str(house.log.lines)


async def test_its_token_opens_nothing_else(house: House) -> None:
    http = await house.open(TOKEN, agent_php={"token": TOKEN}, tokens=TOKENS)
    assert (await http.get("/0.1/agents/1001/status")).status_code == 401
    assert (await http.post("/0.1/agents/1001/logoff")).status_code == 401


@pytest.mark.parametrize("tokens", [{}, TOKENS])
@pytest.mark.parametrize("way", ["query", "form", "token"])
async def test_too_many_wrong_tokens(house: House, tokens: dict[str, Any], way: str) -> None:
    lockout = {"failures": 3, "within": "1m", "for": "5m"}
    settings = {"token": TOKEN}
    app = house.application(agent_php=settings, tokens=tokens, lockout=lockout)
    http = await house.open(app=app, address="192.0.2.7")
    method = "POST" if way == "form" else "GET"
    for _ in range(5):  # none at all is no attempt
        assert told(await get(http, login())) == NOT_AUTHORIZED
    for _ in range(3):
        assert told(await http.request(method, PATH, **shown(way, WRONG))) == NOT_AUTHORIZED
    answer = await http.request(method, PATH, **shown(way, WRONG))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "300")
    # Somebody else's wrong ones refuse nobody who has a right one, or none.
    assert told(await http.request(method, PATH, **shown(way, TOKEN))) == ok("Login OK")
    assert told(await get(http, login())) == NOT_AUTHORIZED
    if tokens:
        other = await http.get("/0.1/agents/1001/status", headers={"token": WRONG})
        assert other.status_code == 429
    elsewhere = await house.open(app=app, address="192.0.2.8")
    assert told(await elsewhere.request(method, PATH, **shown(way, TOKEN))) == ok("Login OK")
    house.hall.clock.pass_(seconds=300)
    assert told(await http.request(method, PATH, **shown(way, TOKEN))) == ok("Login OK")


async def test_one_request_is_one_attempt(house: House) -> None:
    http = await house.open(agent_php={"token": TOKEN})
    two = (400, {"error": "Two different tokens"})
    both = {"params": {**login(), "token": TOKEN}, "headers": {"token": WRONG}}
    assert told(await http.get(PATH, **both)) == two
    parts = {"params": {**login(), "token": WRONG}, "data": {"token": TOKEN}}
    assert told(await http.post(PATH, **parts)) == two
    same = {"params": {**login(), "token": TOKEN}, "headers": {"token": TOKEN}}
    assert told(await http.get(PATH, **same)) == ok("Login OK")


# -- web pages


REFUSED_PAGES = (
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)
NO_PAGES_OF_OTHERS = (
    {},
    {"Origin": "http://localhost:9493"},
    {"Sec-Fetch-Site": "same-origin", **BROWSER},
    {"Sec-Fetch-Site": "none", **BROWSER},
    {"User-Agent": "Mozilla/4.0 (compatible; Win32; WinHttp.WinHttpRequest.5)"},
    {"User-Agent": "Mozilla/5.0 (Windows NT) WindowsPowerShell/5.1"},
)


@pytest.mark.parametrize("token", ["", TOKEN, CRM, WRONG])
async def test_pages_of_other_sites(house: House, token: str) -> None:
    lockout = {"failures": 1, "within": "1m", "for": "1m"}
    settings = {**HERE, "token": TOKEN}
    http = await house.open(token, agent_php=settings, tokens=TOKENS, lockout=lockout)
    ways = (("GET", "params"), ("POST", "data"), ("POST", "params"))
    for headers in REFUSED_PAGES:
        for method, part in ways:
            answer = await http.request(method, PATH, headers=headers, **{part: login()})
            # Before any token is looked at: no page locks anybody out.
            assert told(answer) == (403, {"error": "Pages of other sites may not ask"})
    assert house.hall.asterisk.done == []
    for headers in NO_PAGES_OF_OTHERS:
        for method, part in ways:
            answer = await http.request(method, PATH, headers=headers, **{part: login()})
            if token == WRONG:
                assert answer.status_code in (401, 429)
            else:
                assert told(answer) == ok("Login OK"), headers


async def test_a_browser_that_does_not_say_which_page_asks(house: House) -> None:
    """To plain http on another machine none does, and a picture's GET has no origin."""
    app = house.application(agent_php={"allow": ["192.0.2.7"], "token": TOKEN})
    http = await house.open(app=app, address="192.0.2.7")
    headers = {"Host": "agents.example", **BROWSER}
    assert told(await http.get(PATH, params=login(), headers=headers)) == NOT_AUTHORIZED
    answer = await http.get(PATH, params={**login(), "token": TOKEN}, headers=headers)
    assert told(answer) == ok("Login OK")
    for host in ("192.0.2.1:9493", "localhost"):
        headers = {"Host": host, **BROWSER}
        assert told(await http.get(PATH, params=login(), headers=headers)) == NOT_AUTHORIZED
        answer = await http.get(PATH, params=login(), headers={"Host": host})
        assert told(answer) == ok("Login OK")


FIREFOX = {"User-Agent": "a dialler", "Accept-Language": "en", "Accept": "*/*"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.0.2.1", 200),
        ("192.0.2.1:9493", 200),
        ("[2001:db8::1]:9493", 200),
        ("pbx.example:9493", 200),
        ("PBX.example.", 200),
        ("evil.test:9493", 401),
        ("pbx.example.evil.test", 401),
        ("192.0.2.1.evil.test", 401),
        ("pbx", 401),
    ],
)
@pytest.mark.parametrize("headers", [{}, FIREFOX])
async def test_dns_rebinding_of_a_workstation(
    house: House, host: str, status: int, headers: dict[str, str]
) -> None:
    """Firefox lets a page that has this very name say what it likes but for the name."""
    settings = {"allow": ["192.0.2.7"]}
    http = await house.open(address="192.0.2.7", agent_php=settings, names=["pbx.example"])
    for method in ("GET", "POST"):
        answer = await http.request(method, PATH, params=login(), headers={"Host": host, **headers})
        assert answer.status_code == status, told(answer)


@pytest.mark.parametrize(
    ("referer", "status"),
    [
        ("http://192.0.2.1:9493/somewhere", 200),
        ("http://evil.test/", 401),
        ("http://192.0.2.1/", 401),
    ],
)
async def test_a_link_in_a_page(house: House, referer: str, status: int) -> None:
    http = await house.open(address="192.0.2.7", agent_php={"allow": ["192.0.2.7"]})
    headers = {"Host": "192.0.2.1:9493", "Referer": referer}
    assert (await http.get(PATH, params=login(), headers=headers)).status_code == status


async def test_pictures_in_a_page_are_nobodys_attempts(house: House) -> None:
    """<img src="http://pbx/api/agent.php?token=wrong1"> in a page of anybody's."""
    lockout = {"failures": 3, "within": "1m", "for": "5m"}
    app = house.application(agent_php={"token": TOKEN}, tokens=TOKENS, lockout=lockout)
    http = await house.open(app=app, address="192.0.2.7")
    picture = {"Host": "pbx.test", **BROWSER}
    for n in range(12):
        params = {**login(), "token": f"{WRONG}{n}"}
        answer = await http.get(PATH, params=params, headers=picture)
        assert told(answer) == NOT_AUTHORIZED
    # The supervisor's browser there: not even a wrong one is told that it is one too many.
    answer = await http.get("/0.1/agents/1001/status", headers={"token": WRONG})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:9493", True),
        ("127.0.0.1", True),
        ("[::1]:9493", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:9493", False),
    ],
)
async def test_dns_rebinding(house: House, host: str, allowed: bool) -> None:
    http = await house.open(agent_php={**HERE, "token": TOKEN})
    answer = await http.get(PATH, params=login(), headers={"Host": host})
    assert told(answer) == (ok("Login OK") if allowed else NOT_AUTHORIZED)
    params = {**login(), "token": TOKEN}
    assert told(await http.get(PATH, params=params, headers={"Host": host})) == ok("Login OK")


# -- what is left behind


async def test_every_use_is_logged(house: House) -> None:
    settings = {"allow": ["192.0.2.7"], "token": TOKEN}
    app = house.application(agent_php=settings, tokens=TOKENS)
    http = await house.open(app=app, address="192.0.2.7")
    stranger = await house.open(app=app, address="192.0.2.8")
    await get(http, login())
    await get(http, {"command": "pause", "agent": "x\r\ny", "token": CRM})
    await get(stranger, {"command": "logoff", "agent": "1001", "token": TOKEN})
    await get(stranger, {"command": "logoff", "agent": "1001", "token": WRONG})
    await get(stranger, {"command": "logoff", "agent": "1001"})
    await http.get(PATH, params=login(), headers={"Origin": "http://evil.example"})

    def line(*values: str, **more: str) -> tuple[str, str, dict[str, str]]:
        names = ("address", "client", "command", "agent", "answer")
        return "info", "agent.php", dict(zip(names, values, strict=True)) | more

    assert house.log.lines == [
        line("192.0.2.7", "192.0.2.7", "login", "ana.souza", "Login OK"),
        line("192.0.2.7", "crm", "pause", "x\\r\\ny", "Agent not exists"),
        line("192.0.2.8", "192.0.2.8", "logoff", "1001", "Logoff OK"),
        line("192.0.2.8", "", "logoff", "1001", "Not authorized", why="wrong token"),
        line(
            "192.0.2.8",
            "",
            "logoff",
            "1001",
            "Not authorized",
            why="no token, and the address is not allowed",
        ),
        line("192.0.2.7", "", "", "", "Pages of other sites may not ask"),
    ]
    assert set(house.figures.requests) == {
        ("agent_php", 200),
        ("agent_php", 401),
        ("agent_php", 403),
    }


async def test_the_document_of_it(house: House, http: httpx2.AsyncClient) -> None:
    path = (await http.get("/openapi.json")).json()["paths"][PATH]
    assert {path[method]["operationId"] for method in path} == {"agent_php_get", "agent_php_post"}
    names = ["command", "agent", "exten", "queue", "reason", "token"]
    assert [one["name"] for one in path["get"]["parameters"]] == names
    form = path["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"]
    assert list(form["schema"]["properties"]) == names
    for operation in path.values():
        assert {"200", "400", "401", "403", "429", "503"} <= operation["responses"].keys()
        assert {} in operation["security"]


async def test_who_may_not_writes_no_log(house: House) -> None:
    """One line for the first, one a minute for the others; of who may each use."""
    app = house.application(agent_php={"allow": ["192.0.2.7"]})
    stranger = await house.open(app=app, address="192.0.2.8")
    for _ in range(50):
        assert told(await get(stranger, login())) == NOT_AUTHORIZED
        answer = await stranger.get(PATH, params=login(), headers={"Origin": "http://evil.test"})
        assert answer.status_code == 403
    assert [(values["address"], values["answer"]) for _, _, values in house.log.lines] == [
        ("192.0.2.8", "Not authorized"),
        ("192.0.2.8", "Pages of other sites may not ask"),
    ]
    http = await house.open(app=app, address="192.0.2.7")
    for _ in range(3):
        await get(http, login())
    assert len(house.log.lines) == 5


async def test_a_proxy_that_says_so_is_no_address(house: House) -> None:
    http = await house.open(agent_php=HERE)
    for name in (
        "X-Forwarded-Host",
        "X-Forwarded-Server",
        "CF-Connecting-IP",
        "Via",
        "X-Client-IP",
    ):
        answer = await http.get(PATH, params=login(), headers={name: "127.0.0.1"})
        assert told(answer) == NOT_AUTHORIZED, name
