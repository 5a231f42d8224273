"""Nuclear Erix's document against the whole of it: each link it prints and each row of its tables,
by the real curl; who may ask; and both doors beside the phones. (Evolux: ``test_doors.py``.)"""

import sqlite3
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.doors import Answer, broken_lines, curl, row
from tests.journey.parts import Desk, Peer, Service, until

pytestmark = [
    pytest.mark.asterisk,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # pyst2's use of threading
]

TOKEN = "a-token-of-erix"
CRM = "a-token-of-the-crm"
BOARD = "a-token-that-reads"
WRONG = "a-token-of-nobody"

# -- what the document prints

SERVER = "http://<server_IP>"
LOGIN = (
    "http://<server_IP>/api/agent.php?agent=login_agente&command=login"
    "&exten=num_ramal&queue=nome_fila"
)
LOGOFF = "http://<server_IP>/api/agent.php?agent=login_agente&command=logoff"
PAUSE = "http://<server_IP>/api/agent.php?agent=login_agente&command=pause&reason=motivo_da_pausa"
UNPAUSE = "http://<server_IP>/api/agent.php?agent=login_agente&command=unpause"

# -- the call centre of these tests

ANNA = {"number": "4001", "name": "Anna Souza", "login": "anna.souza", "queues": ["sales"]}
BERT = {"number": "4002", "name": "Bert", "queues": ["support"]}
QUEUES = [
    {"id": 1, "number": "701", "name": "sales"},
    {"id": 2, "number": "702", "name": "support"},
    {"id": 3, "number": "703", "name": "billing", "call_center": False},
]
PHONE = {"context": "phones", "interface": "PJSIP/{extension}"}
DEVICES = [PHONE | {"match": "1006", "call_center": False}, PHONE | {"match": "10XX"}]


class House:
    """The service, its address and who asks there."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.url = f"http://127.0.0.1:{service.http_port}"
        self.php = f"{self.url}/api/agent.php"

    async def follows(self, link: str, **changes: str) -> Answer:
        """A link of the document, for this host and with these values."""
        for old, new in {"http://<server_IP>": self.url, **changes}.items():
            assert old in link, old
            link = link.replace(old, new)
        return await curl(link)

    async def get(self, *words: str, **fields: str) -> Answer:
        return await curl(self.php, "--get", *_encoded(fields), *words)

    async def post(self, *words: str, **fields: str) -> Answer:
        return await curl(self.php, *_encoded(fields), *words)

    def facts(self, agent: str = "4001") -> list[tuple[str, str, str, str]]:
        """Type, reason, source and who, of each of the agent's events."""
        return [
            (event["type"], event["reason"], event["source"], event["actor"].get("name", ""))
            for event in self.service.events()
            if event["agent"] == agent
        ]


def _encoded(fields: dict[str, str]) -> list[str]:
    words: list[str] = []
    for name, value in fields.items():
        words += ["--data", f"{quote(name, safe='')}={quote(value, safe='')}"]
    return words


@pytest.fixture
def make_house(make_service: Callable[..., Service]) -> Callable[..., House]:
    def make(php: Any = None, **http: Any) -> House:
        clients = {
            "crm": {"token": CRM, "rights": ["read", "control", "configure"]},
            "board": {"token": BOARD, "rights": ["read"]},
        }
        about = {"tokens": clients, "agent_php": php} | http
        service = make_service(agents=[ANNA, BERT], queues=QUEUES, devices=DEVICES, http=about)
        return House(service)

    return make


HERE = {"allow": ["127.0.0.1"]}


def ok(text: str) -> dict[str, str]:
    return {"success": text}


def error(text: str) -> dict[str, str]:
    return {"error": text}


# -- each link, and each row of the two tables


async def test_every_link_of_the_document(make_house: Callable[..., House]) -> None:
    """The four of them, as links and as forms; Asterisk's queues after each."""
    house = make_house(HERE)
    service, members = house.service, house.service.members
    where = {"login_agente": "anna.souza", "num_ramal": "1001", "nome_fila": "sales"}
    who = {"login_agente": "anna.souza"}
    for turn in ("GET", "POST"):
        for what, link, changes, document, then in (
            ("login", LOGIN, where, "Login OK", {"PJSIP/1001"}),
            (
                "pause",
                PAUSE,
                who | {"motivo_da_pausa": "almoco"},
                "Pause OK",
                {"PJSIP/1001 paused:almoco"},
            ),
            ("unpause", UNPAUSE, who, "Unpause OK", {"PJSIP/1001"}),
            ("logoff", LOGOFF, who, "Logoff OK", set()),
        ):
            if turn == "GET":
                got = await house.follows(link, **changes)
            else:
                changed = link
                for old, new in changes.items():
                    changed = changed.replace(old, new)
                got = await curl(house.php, "--data", changed.partition("?")[2])
            row(f"{turn} {what}", ok(document), got.json, service)
            assert got.status == 200
            assert got.headers["cache-control"] == "no-store"
            assert got.headers["content-type"] == "application/json"
            assert members() == {"sales": then, "support": set(), "billing": set()}
    # A reason is optional, a known one goes by its code or its name.
    await house.get(agent="anna.souza", command="login", exten="1001", queue="sales")
    assert (await house.get(agent="anna.souza", command="pause")).json == ok("Pause OK")
    assert members()["sales"] == {"PJSIP/1001 paused:"}
    assert (await house.get(agent="anna.souza", command="unpause")).json == ok("Unpause OK")
    assert (await house.get(agent="anna.souza", command="pause", reason="1")).status == 200
    assert members()["sales"] == {"PJSIP/1001 paused:lunch"}
    service.agrees()
    events = house.service.events()
    assert {(e["agent"], e["source"], e["actor"]["name"]) for e in events} == {
        ("4001", "api", "127.0.0.1")
    }
    once = ["agent-login", "agent-pause", "agent-unpause", "agent-logout"]
    assert [event["type"] for event in events[:8]] == once * 2


async def test_every_error_of_the_document(make_house: Callable[..., House]) -> None:
    house = make_house(HERE)
    service = house.service
    login = {"agent": "anna.souza", "command": "login", "exten": "1001", "queue": "sales"}

    async def told(document: str, **fields: str) -> None:
        """Only where something is missing in the request the status is 400."""
        before = service.members()
        for ask in (house.get, house.post):
            got = await ask(**fields)
            row(f"{ask.__name__.upper()} {fields}", error(document), got.json, service)
            missing = document.endswith(("invalid", "specified"))
            assert got.status == (400 if missing else 200)
            assert got.headers["cache-control"] == "no-store"
            assert service.members() == before

    def without(*names: str, **others: str) -> dict[str, str]:
        return {key: value for key, value in login.items() if key not in names} | others

    await told("Argument list invalid", **without("exten"))
    await told("Argument list invalid", **without("queue"))
    await told("Argument list invalid", **without(exten=""))
    await told("Argument list invalid", **without(command="dance"))
    await told("Agent not specified", **without("agent"))
    await told("Command not specified", **without("command"))
    await told("Agent not exists", **without(agent="nobody"))
    await told("Agent not exists", **without(agent="Anna Souza"))  # "não utilizar o Nome aqui"
    await told("Queue not exists", **without(queue="nowhere"))
    await told("Exten not exists", **without(exten="2001"))
    await told("Exten not exists", **without(exten="PJSIP/1001"))  # "somente dígitos"
    await told("Queue Call Center false", **without(queue="billing"))
    await told("Exten Call Center false", **without(exten="1006"))
    for command in ("logoff", "pause", "unpause"):
        await told("Agent not logged", agent="anna.souza", command=command)
        await told("Agent not exists", agent="nobody", command=command)
        await told("Agent not specified", command=command)
    refused = service.events()
    assert {event["type"] for event in refused} == {"login-refused"}

    assert (await house.get(**login)).json == ok("Login OK")
    await told("Agent alredy available", agent="anna.souza", command="unpause")
    assert (await house.get(agent="anna.souza", command="pause", reason="almoco")).status == 200
    await told("Agent alredy paused", agent="anna.souza", command="pause", reason="almoco")
    await told("Agent alredy paused", agent="anna.souza", command="pause", reason="outro")
    await told("Agent alredy paused", agent="4001", command="pause")
    assert service.members()["sales"] == {"PJSIP/1001 paused:almoco"}
    service.agrees()


async def test_the_queue_named_and_no_other(make_house: Callable[..., House], desk: Any) -> None:
    house = make_house(HERE)
    service, members = house.service, house.service.members
    bert: Desk = await desk("1002")
    assert (await house.get(agent="4002", command="login", exten="1002", queue="sales")).json == (
        ok("Login OK")
    )
    assert members() == {"sales": {"PJSIP/1002"}, "support": set(), "billing": set()}
    # A queue more; the first one stays, and a pause counts there at once.
    assert (await house.get(agent="4002", command="pause", reason="almoco")).status == 200
    assert (await house.get(agent="4002", command="login", exten="1002", queue="support")).json == (
        ok("Login OK")
    )
    paused = {"PJSIP/1002 paused:almoco"}
    assert members() == {"sales": paused, "support": paused, "billing": set()}
    service.agrees()
    assert (await bert.dial("*34")).outcome == "UNPAUSED"
    assert (await bert.dial("*32")).outcome == "LOGGED_OFF"
    assert not any(members().values())
    assert [fact[::2] for fact in house.facts("4002")] == [
        ("agent-login", "api"),
        ("agent-pause", "api"),
        ("queue-join", "api"),
        ("agent-unpause", "phone"),
        ("agent-logout", "phone"),
    ]


# -- beside the phones, and beside the other door


async def test_phones_and_both_doors(make_house: Callable[..., House], desk: Any) -> None:
    """Created by Evolux, logged in on the phone, logged off by agent.php."""
    house = make_house({"allow": ["127.0.0.1"], "token": TOKEN})
    service = house.service
    made = await curl(
        f"{house.url}/api/v1/agents",
        "-H",
        f"token: {CRM}",
        "-d",
        '{"name": "Agent 1", "login": "agent.1", "password": "agent_pass", "queues": [1]}',
    )
    assert made.status == 201
    phone: Desk = await desk("1001")
    assert (await phone.dial("*319001")).outcome == "LOGGED_IN"
    assert (await phone.dial("*331")).outcome == "PAUSED"
    assert service.members()["sales"] == {"PJSIP/1001 paused:lunch"}
    unpaused = await house.get("-H", f"token: {CRM}", agent="agent.1", command="unpause")
    assert unpaused.json == ok("Unpause OK")
    assert (await house.get(agent="agent.1", command="logoff")).json == ok("Logoff OK")
    assert not any(service.members().values())
    assert house.facts("9001") == [
        ("agent-login", "", "phone", ""),
        ("agent-pause", "lunch", "phone", ""),
        ("agent-unpause", "lunch", "api", "crm"),
        ("agent-logout", "", "api", "127.0.0.1"),
    ]
    login, *_ = service.events("agent-login")
    assert login["actor"]["channel"].startswith("PJSIP/1001-")

    # And the other way round: logged in here, seen and logged off over there.
    assert (
        await house.post(agent="agent.1", command="login", exten="1001", queue="sales")
    ).json == ok("Login OK")
    id = made.json["data"]["id"]
    off = await curl("-X", "POST", f"{house.url}/api/v1/agents/{id}/logoff", "-H", f"token: {CRM}")
    assert off.json == {"meta": {"status": 200, "message": "OK"}}
    assert house.facts("9001")[4:] == [
        ("agent-login", "", "api", "127.0.0.1"),
        ("agent-logout", "", "api", "crm"),
    ]
    # On the phone it says where else an agent is.
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    got = await house.get(agent="anna.souza", command="login", exten="1002", queue="sales")
    assert got.json == error("Agent already logged at 1001")
    got = await house.get(agent="4002", command="login", exten="1001", queue="sales")
    assert got.json == error("Exten in use by agent 4001")
    assert service.members()["sales"] == {"PJSIP/1001"}
    assert service.members()["support"] == set()
    service.agrees()


# -- who may ask


async def test_it_is_off(make_house: Callable[..., House]) -> None:
    house = make_house()
    for token in (CRM, WRONG, ""):
        words = ["-H", f"token: {token}"] if token else []
        for ask in (house.get, house.post):
            got = await ask(*words, agent="4001", command="logoff")
            print(f"off, {ask.__name__}, token {token!r} -> {got.status} {got.text}")
            assert got.status == (404 if token == CRM else 401)
    assert house.service.events() == []


async def test_who_may_ask(make_house: Callable[..., House]) -> None:
    """By the address, or with a token in the query, the form or a header."""
    house = make_house(
        {"allow": ["127.0.0.2"], "token": TOKEN},
        lockout={"failures": 3, "within": "1m", "for": "1m"},
    )
    service = house.service
    ask = {"agent": "anna.souza", "command": "unpause"}
    done, denied = (200, error("Agent not logged")), (401, error("Not authorized"))

    async def told(answer: Answer, expected: tuple[int, Any], what: str) -> None:
        print(f"{what} -> {answer.status} {answer.text}")
        assert (answer.status, answer.json) == expected, what
        assert answer.headers["cache-control"] == "no-store"

    there = ("--interface", "127.0.0.2")
    await told(await house.get(**ask), denied, "an address that is not allowed")
    await told(await house.get(*there, **ask), done, "one that is")
    await told(await house.get(**ask, token=TOKEN), done, "the token in the query")
    await told(await house.post(**ask, token=TOKEN), done, "in the form")
    await told(await house.get("-H", f"token: {TOKEN}", **ask), done, "in a header")
    await told(await house.get("-H", f"Authorization: Bearer {TOKEN}", **ask), done, "as a bearer")
    await told(await house.get("-H", f"token: {CRM}", **ask), done, "a client's")
    await told(await house.get(**ask, token=BOARD), denied, "one without the right")
    page = ("-H", "Origin: http://elsewhere.example")
    got = await house.get(*there, *page, **ask)
    await told(got, (403, error("Pages of other sites may not ask")), "a page in a browser")
    await told(await house.get(*there, **ask, token=WRONG), denied, "a wrong one, there allowed")
    for _ in range(3):
        await told(await house.get(**ask, token=WRONG), denied, "a wrong one")
    too_many = (429, error("Too many wrong tokens from this address: try again later"))
    got = await house.get(**ask, token=WRONG)
    await told(got, too_many, "one too many")
    assert int(got.headers["retry-after"]) > 0
    await told(await house.get(**ask, token=TOKEN), done, "then the right one")
    await told(await house.get(*there, **ask), done, "and from elsewhere")

    assert await house.get(*there, **ask | {"command": "login", "exten": "1001", "queue": "sales"})
    assert house.facts() == [("agent-login", "", "api", "127.0.0.2")]
    await until(lambda: "login" in {line["command"] for line in service.logged("agent.php")})
    used = service.logged("agent.php")
    assert {line["address"] for line in used} == {"127.0.0.1", "127.0.0.2"}
    # Of what a page asks not even the query is read.
    assert {line["command"] for line in used} == {"unpause", "login", ""}
    assert {line["client"] for line in used} == {"", "127.0.0.1", "127.0.0.2", "crm"}
    late = "too many wrong tokens, the next ones are answered late"
    assert service.logged(late)[0]["address"] == "127.0.0.1"
    log = service.log.read_text()
    assert not any(token in log for token in (TOKEN, CRM, BOARD, WRONG))


# -- what nobody may do through it

EVIL = (
    "' OR '1'='1",
    "anna.souza'; DROP TABLE agents; --",
    '1"; DELETE FROM agents; --',
    "x\r\nAction: QueueRemove\r\nQueue: sales\r\nInterface: PJSIP/1001",
    "x\r\n\r\nAction: Command\r\nCommand: core stop now\r\n\r\n",
    "x\r\nX-Evil: 1",
    "x\nevil=1",
    "x\x00evil",
    "x\x1b[31mevil\x1b[0m",
    "x\u2028evil\u202e",
    "sales,support",
    "sales|evil",
    "1001&PJSIP/1002",
    "${SHELL(touch evil)}",
    "evil" * 5000,
)


async def test_nothing_gets_out_of_its_field(
    make_house: Callable[..., House], desk: Any, peer: Peer, asterisk: Asterisk
) -> None:
    house = make_house({"allow": ["127.0.0.1"]}, lockout={"failures": 1000})
    service = house.service
    anna: Desk = await desk("1001")
    await anna.dial("*314001")
    members, agents = service.members(), service.agents()

    def rows() -> dict[str, list[Any]]:
        with sqlite3.connect(service.folder / "fastagi.db") as store:
            assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            tables = ("agents", "queues", "memberships", "login_sessions", "pause_segments")
            found = {name: store.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
        store.close()
        return found

    before = rows()
    peer.heard.clear()
    mark = asterisk.mark()
    login = {"agent": "4002", "command": "login", "exten": "1002", "queue": "support"}
    asked: list[Answer] = []
    for evil in EVIL:
        for ask in (house.get, house.post):
            asked += [await ask(**login | {field: evil}) for field in login]
            asked.append(await ask(agent=evil, command="logoff"))
            asked.append(await ask(agent="4001", command="logoff", token=evil))
            asked.append(await ask(**{evil: evil, "agent": "4001"}))
        if "\x00" not in evil:
            asked.append(await house.get("-H", f"token: {evil}", agent="4001", command="logoff"))
            asked.append(await house.get("-H", f"Host: {evil}", agent="4002", command="logoff"))
    statuses = {answer.status for answer in asked}
    print(f"{len(asked)} requests -> {sorted(statuses)}")
    assert statuses <= {200, 400, 401, 413, 414, 431}
    for answer in asked:
        assert "success" not in answer.text
        assert "x-evil" not in answer.headers
        assert "evil" not in answer.head
    assert service.members() == members
    assert service.agents() == agents
    assert rows() == before
    assert {told["Event"] for told in peer.heard}.isdisjoint(
        {"QueueMemberAdded", "QueueMemberRemoved", "QueueMemberPause"}
    )

    # A reason is any text that Asterisk keeps as it is; the others are refused.
    for evil in EVIL:
        got = await house.get(agent="4001", command="pause", reason=evil)
        if got.status == 200:
            assert got.json == ok("Pause OK")
            await until(lambda: peer.named("QueueMemberPause"))
            assert {told["PausedReason"] for told in peer.named("QueueMemberPause")} == {evil}
            assert {told["Queue"] for told in peer.named("QueueMemberPause")} == {"sales"}
            assert house.facts()[-1] == ("agent-pause", evil, "api", "127.0.0.1")
            assert (await house.get(agent="4001", command="unpause")).json == ok("Unpause OK")
            await until(lambda: len(peer.named("QueueMemberPause")) == 2)
            peer.heard.clear()
        else:
            assert got.json == error("Argument list invalid") or got.status in (414, 431)
    assert service.members() == members
    assert "touch evil" not in asterisk.log_since(mark)
    assert asterisk.running
    assert broken_lines(service) == []
    assert (await anna.dial("*32")).outcome == "LOGGED_OFF"
    service.agrees()
