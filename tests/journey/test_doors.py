"""Evolux's document against the whole of it: each request it prints by the real curl, each error it
knows, and what it implies on real phones. (agent.php: ``test_doors_agent_php.py``.)"""

import asyncio
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.doors import (
    Answer,
    broken_lines,
    curl,
    penalties,
    printed,
    row,
)
from tests.journey.parts import Desk, Peer, Service, until

pytestmark = [
    pytest.mark.asterisk,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # pyst2's use of threading
]

TOKEN = "a-token-of-evolux"
READER = "a-token-that-reads"
SITE = "https://example.evolux.net.br"
NOTHING = "sales=- support=- billing=-"

# -- what the document prints

LIST = """curl -X GET \
  'https://example.evolux.net.br/api/v1/agents?page=1&limit=2' \
  -H 'Content-Type: application/json' \
  -H 'token: <EVOLUX_TOKEN>'"""
CREATE = """curl --X POST \
  https://example.evolux.net.br/api/v1/agents \
  -H 'Content-Type: application/json' \
  -H 'token: <EVOLUX_TOKEN>' \
  -d '{"name": "Agent 1", "login": "agent.1", "password": "agent_pass", "queues": [1, 3]}'"""
EDIT = """curl --X PUT \
  https://example.evolux.net.br/api/v1/agents/1 \
  -H 'Content-Type: application/json' \
  -H 'token: <EVOLUX_TOKEN>' \
  -d '{"levels": [{"queue_id": 1, "priority": 3}]}'"""
PAUSES = """curl -X POST \
  'https://example.evolux.net.br/api/v1/agents/1/pauses?page=1&limit=2' \
  -H 'Content-Type: application/json' \
  -H 'token: <EVOLUX_TOKEN>'"""
PAUSE = """curl -X POST \
  https://example.evolux.net.br/api/v1/agents/1/pause \
  -H 'Content-Type: application/json' \
  -H 'token: <EVOLUX_TOKEN>' \
  -d '{"pause_id": 49}'"""
UNPAUSE = """curl -X POST \
  https://example.evolux.net.br/api/v1/agents/1/unpause \
  -H 'token: <EVOLUX_TOKEN>'"""
LOGOFF = """curl -X POST \
  https://example.evolux.net.br/api/v1/agents/1/logoff \
  -H 'token: <EVOLUX_TOKEN>'"""

OK = {"meta": {"status": 200, "message": "OK"}}
IMPOSSIBLE = ["Request well-formed but has a semantic impossibility."]
ONE = {
    "archived": True,
    "enable": False,
    "name": "Agent 1",
    "queues": [],
    "current_extension": None,
    "last_pause": None,
    "last_login": None,
    "current_pause": None,
    "login": "agent1",
    "current_outbound_queue": None,
    "id": 53,
}
TWO = {
    "archived": True,
    "enable": False,
    "name": "Agent 2",
    "queues": [4],
    "current_extension": None,
    "last_pause": {
        "max_duration": None,
        "time_start": "2018-07-07T16:40:11+00:00",
        "reason_id": 18,
        "time_end": "2018-07-07T17:06:38+00:00",
        "reason": {
            "system": False,
            "productive": True,
            "type": "",
            "id": 18,
            "description": "Pausa Cadastro",
        },
        "id": 46983,
    },
    "last_login": {
        "exten": "sip/3012",
        "time_logoff": "2018-07-07T17:06:38+00:00",
        "id": 4591,
        "time_login": "2018-07-07T12:27:42+00:00",
    },
    "current_pause": None,
    "login": "agent.2",
    "current_outbound_queue": None,
    "id": 40,
}
CREATED = {
    "meta": {"status": 201, "message": "Created"},
    "data": {
        "archived": False,
        "enable": True,
        "name": "Agent 1",
        "queues": [1, 3],
        "current_extension": None,
        "last_pause": None,
        "last_login": None,
        "current_pause": None,
        "login": "agent.1",
        "current_outbound_queue": None,
        "id": 1,
    },
}
PAUSES_OF = [
    {
        "pause": {
            "system": False,
            "productive": True,
            "type": "nr17rest10",
            "id": 49,
            "description": "10 minutos/NR17",
        },
        "automatic_unpause": False,
        "queue_id": 13,
        "disable_unpause": False,
        "limit_duration": 5,
        "id": 3,
    },
    {
        "pause": {
            "system": False,
            "productive": True,
            "type": None,
            "id": 50,
            "description": "Almoço",
        },
        "automatic_unpause": False,
        "queue_id": 20,
        "disable_unpause": False,
        "limit_duration": 3600,
        "id": 4,
    },
]

# -- the call centre of these tests

NR17 = {"code": 10, "name": "nr17", "description": "10 minutos/NR17", "productive": True}
ALMOCO = {"code": 11, "name": "almoco", "description": "Almoço", "productive": True}
CADASTRO = {"code": 12, "name": "cadastro", "description": "Pausa Cadastro", "productive": True}
REASONS = [NR17 | {"type": "nr17rest10"}, ALMOCO | {"max_duration": "1h"}, CADASTRO]
FIRST = {"id": 1, "number": "5001", "name": "Agent 1", "login": "agent1"}
SECOND = {"id": 2, "number": "5002", "name": "Agent 2", "login": "agent.2", "queues": ["billing"]}
ANNA = {"id": 10, "number": "4001", "name": "Anna", "queues": ["sales", "support"]}
BERT = {"id": 11, "number": "4002", "name": "Bert", "queues": ["sales"]}


def in_queues(*pauses: dict[str, Any]) -> list[dict[str, Any]]:
    """The queues, with the ids of the document as far as there are so many; and what sales says of
    pauses."""
    return [
        {"id": 1, "number": "701", "name": "sales", "pauses": list(pauses)},
        {"id": 3, "number": "702", "name": "support"},
        {"id": 4, "number": "703", "name": "billing"},
    ]


class House:
    """The service, its address and who asks there."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.url = f"http://127.0.0.1:{service.http_port}"

    async def runs(self, text: str, **changes: int) -> Answer:
        """A command line of the document, for this host and with this token; ``agent`` and
        ``pause``: other ids than the document's."""
        here = {SITE: self.url, "<EVOLUX_TOKEN>": TOKEN}
        if "agent" in changes:
            here["agents/1"] = f"agents/{changes['agent']}"
        if "pause" in changes:
            here['"pause_id": 49'] = f'"pause_id": {changes["pause"]}'
        return await curl(*printed(text, here))

    async def ask(self, method: str, path: str, *more: str, token: str = TOKEN) -> Answer:
        url = f"{self.url}/api/v1/agents{path}"
        return await curl("-X", method, url, "-H", f"token: {token}", *more)

    async def send(self, method: str, path: str, body: Any = None) -> Answer:
        data = [] if body is None else ["-d", json.dumps(body)]
        return await self.ask(method, path, *data)

    async def agent(self, id: int) -> dict[str, Any]:
        """As the list shows it."""
        found: list[dict[str, Any]] = (await self.ask("GET", "")).json["data"]
        return next(agent for agent in found if agent["id"] == id)

    async def reason(self, id: int, name: str) -> int:
        """The id of a pause reason, from the agent's pauses."""
        found = (await self.ask("GET", f"/{id}/pauses")).json["data"]
        descriptions = {pause["pause"]["description"]: pause["pause"]["id"] for pause in found}
        return int(descriptions[name])

    def facts(self, agent: str) -> list[tuple[str, str, str, str]]:
        """Type, reason, source and who, of each of the agent's events."""
        return [
            (event["type"], event["reason"], event["source"], event["actor"].get("name", ""))
            for event in self.service.events()
            if event["agent"] == agent
        ]


@pytest.fixture
def make_house(make_service: Callable[..., Service]) -> Callable[..., House]:
    def make(*, http: Any = None, **changes: Any) -> House:
        clients = {
            "evolux": {"token": TOKEN, "rights": ["read", "control", "configure"]},
            "board": {"token": READER, "rights": ["read"]},
        }
        settings = {
            "agents": [ANNA, BERT],
            "queues": in_queues(),
            "pause_reasons": REASONS,
            **changes,
        }
        return House(make_service(http={"tokens": clients} | (http or {}), **settings))

    return make


# -- each request


async def test_every_request_of_the_document(make_house: Callable[..., House], desk: Any) -> None:
    limit = {"reason": "10", "limit_duration": "5s"}
    house = make_house(agents=[FIRST, SECOND, ANNA], queues=in_queues(limit))
    service = house.service
    phone: Desk = await desk("1001")
    for code in ("*315002", "*3312", "*34", "*32"):  # agent.2 has a past
        await phone.dial(code)
    service.write(service.settings() | {"agents": [ANNA]})  # and none of both a future
    await service.reload("--confirm")

    got = await house.runs(LIST)
    url = f"{house.url}/api/v1/agents/?limit=2&page="
    document = {
        "pagination": {
            "max_limit": 2,
            "limit": 2,
            "first_url": f"{url}1",
            "next_url": f"{url}2",
            "items": 2,
            "last_url": f"{url}2",
            "total": 3,
            "current_url": f"{url}1",
            "prev_url": None,
        },
        **OK,
        "data": [ONE, TWO],
    }
    own = ("id", "reason_id", "time_start", "time_end", "time_login", "time_logoff", "exten")
    row("list agents", document, got.json, service, own=own)
    first, second = got.json["data"]
    assert (first["id"], second["id"]) == (1, 2)
    assert second["last_login"]["exten"].endswith("/1001")
    assert all(second["last_pause"][key].endswith("+00:00") for key in ("time_start", "time_end"))
    assert got.headers["content-type"] == "application/json"

    got = await house.runs(CREATE)
    row("create", CREATED, got.json, service, own=["id"])
    id = got.json["data"]["id"]
    assert (await phone.dial("*319001")).outcome == "LOGGED_IN"

    got = await house.runs(EDIT, agent=id)
    row("edit", OK, got.json, service)
    assert "with penalty 3" in service.asterisk.cli("queue show sales")
    assert "with penalty" not in service.asterisk.cli("queue show support")

    got = await house.runs(PAUSES, agent=id)
    url = f"{house.url}/api/v1/agents/{id}/pauses?limit=2&page="
    document = {
        "pagination": {
            "max_limit": 2,
            "limit": 2,
            "first_url": f"{url}1",
            "next_url": f"{url}2",
            "items": 2,
            "last_url": f"{url}3",
            "total": 6,
            "current_url": f"{url}1",
            "prev_url": None,
        },
        **OK,
        "data": PAUSES_OF,
    }
    row("list pauses", document, got.json, service, own=["id", "queue_id"])
    nr17 = got.json["data"][0]["pause"]["id"]
    # As its table has it, which says GET; the shell took the limit away from what it prints there.
    got = await house.ask("GET", f"/{id}/pauses?page=1")
    pages = got.json["pagination"]
    url = f"{house.url}/api/v1/agents/{id}/pauses?page=1"
    assert (pages["max_limit"], pages["limit"], pages["items"]) == (50, 50, 6)
    assert (pages["first_url"], pages["last_url"], pages["current_url"]) == (url, url, url)
    assert (pages["next_url"], pages["prev_url"]) == (None, None)

    got = await house.runs(PAUSE, agent=id, pause=nr17)
    row("pause", OK, got.json, service)
    assert service.members()["sales"] == {"PJSIP/1001 paused:nr17"}
    shown = await house.agent(id)
    assert shown["current_extension"].endswith("/1001")
    assert shown["current_pause"]["reason"]["description"] == "10 minutos/NR17"
    assert shown["current_pause"]["max_duration"] == 5

    got = await house.runs(UNPAUSE, agent=id)
    row("unpause", OK, got.json, service)
    assert service.members()["support"] == {"PJSIP/1001"}

    got = await house.runs(LOGOFF, agent=id)
    row("log off", OK, got.json, service)
    assert not any(service.members().values())
    service.agrees()
    assert house.facts("9001") == [
        ("agent-login", "", "phone", ""),
        ("queue-penalty", "3", "api", "evolux"),
        ("agent-pause", "nr17", "api", "evolux"),
        ("agent-unpause", "nr17", "api", "evolux"),
        ("agent-logout", "", "api", "evolux"),
    ]


# -- each error


async def test_every_error_of_the_document(make_house: Callable[..., House], desk: Any) -> None:
    house = make_house()
    service = house.service

    async def told(
        what: str, document: Any, method: str, path: str, body: Any = None, **of: str
    ) -> None:
        before = service.members()
        data = [] if body is None else ["-d", json.dumps(body)]
        got = await house.ask(method, path, *data, **of)
        row(what, document, got.json, service)
        assert got.status == document["meta"]["status"]
        assert got.headers["content-type"] == "application/json"
        assert service.members() == before

    def bad(*texts: str) -> dict[str, Any]:
        return {"meta": {"status": 400, "message": "Bad request"}, "errors": list(texts)}

    def impossible(text: str) -> dict[str, Any]:
        return {"meta": {"status": 422, "message": text}, "errors": IMPOSSIBLE}

    def plain(status: int, text: str) -> dict[str, Any]:
        return {"meta": {"status": status, "message": text}}

    new = {"name": "Agent 1", "login": "agent.1", "password": "agent_pass", "queues": [1, 3]}
    await told(
        "create, a queue that is no id",
        bad("Agent not created, queues list must contains only integer ids."),
        "POST",
        "",
        new | {"queues": [1, "3"]},
    )
    assert (await house.send("POST", "", new)).status == 201
    await told(
        "create, the login is taken",
        bad("Agente não foi criado, esse login já está sendo usado."),
        "POST",
        "",
        new,
    )
    empty = {"password": "password must not be empty or contain only spaces"}
    # Its `"errors": ["password": "…"]` is no JSON: an object is the nearest that is.
    document = {"meta": {"status": 400, "message": empty}, "errors": empty}
    for password in ("", "   "):
        await told("edit, an empty password", document, "PUT", "/10", {"password": password})
    missing = plain(404, "Agent not found")
    for path in ("/99/pause", "/99/unpause", "/99/logoff", "/99/pauses", "/x/pause"):
        body = {"pause_id": 1} if path.endswith("/pause") else None
        await told(f"there is no such agent: {path}", missing, "POST", path, body)
    await told("edit, there is no such agent", missing, "PUT", "/99", {"name": "x"})
    await told("unpause, logged off", impossible("Agent is unpaused"), "POST", "/10/unpause")
    await told("log off, logged off", plain(400, "Agent is not logged"), "POST", "/10/logoff")

    anna: Desk = await desk("1001")
    caller: Desk = await desk("1003")
    await anna.dial("*314001")
    nr17 = await house.reason(10, "10 minutos/NR17")
    await told("unpause, available", impossible("Agent is unpaused"), "POST", "/10/unpause")
    assert (await house.send("POST", "/10/pause", {"pause_id": nr17})).json == OK
    already = impossible("Agent already paused")
    await told("pause, paused", already, "POST", "/10/pause", {"pause_id": nr17})
    almoco = await house.reason(10, "Almoço")
    await told("pause, for another reason", already, "POST", "/10/pause", {"pause_id": almoco})
    assert service.members()["sales"] == {"PJSIP/1001 paused:nr17"}
    assert (await house.send("POST", "/10/unpause")).json == OK

    await caller.phone.dial("701")
    await anna.phone.wait_answered()
    in_call = "Não é possível sair enquanto está em uma chamada."
    await told("log off, in a call", plain(400, in_call), "POST", "/10/logoff")
    assert service.members()["sales"] == {"PJSIP/1001"}
    await caller.phone.hangup()
    await until(lambda: "(in call)" not in service.asterisk.cli("queue show sales"))
    assert (await house.send("POST", "/10/logoff")).json == OK

    # One who is not enabled: out at once, and kept out; shown all the same.
    assert (await anna.dial("*314001")).outcome == "LOGGED_IN"
    service.write(service.settings() | {"agents": [ANNA | {"enabled": False}, BERT]})
    await service.reload("--confirm")
    await until(lambda: not service.members()["sales"])
    shown = await house.agent(10)
    assert (shown["enable"], shown["archived"], shown["current_extension"]) == (False, False, None)
    again = ("agent-incorrect", "4001#")
    assert (await anna.dial("*314001", again, again)).outcome == "NO_SUCH_AGENT"
    await told("pause, not enabled", missing, "POST", "/10/pause", {"pause_id": nr17})
    assert house.facts("4001")[4:6] == [
        ("agent-login", "", "phone", ""),
        ("agent-logout", "archived", "system", "configuration"),
    ]

    # What the document does not tell of, in its envelope.
    for what, token, status in (
        ("no such token", "a-token-of-nobody", 401),
        ("no token", "", 401),
        ("no right to", READER, 403),
    ):
        got = await house.ask("POST", "/10/logoff", token=token)
        print(f"{what} -> {got.text}")
        assert (got.status, got.json["meta"]["status"]) == (status, status)
    got = await house.ask("GET", "?limit=2", token=READER)
    assert got.json["pagination"]["total"] == 3
    for query in ("?limit=0", "?page=x", "?page=-1"):
        assert (await house.ask("GET", query)).json["meta"]["status"] == 400
    got = await house.ask("GET", "?limit=5000")
    assert got.json["pagination"]["limit"] == 50
    assert [event["type"] for event in service.events()] == [
        "agent-login",
        "agent-pause",
        "agent-unpause",
        "agent-logout",
        "agent-login",
        "agent-logout",
        "login-refused",
    ]
    service.agrees()


# -- what it implies


async def test_levels_are_penalties_that_stay(
    make_house: Callable[..., House], desk: Any, asterisk: Asterisk
) -> None:
    house = make_house()
    service = house.service
    anna: Desk = await desk("1001")
    await anna.dial("*314001")
    sales, support = ("sales", "PJSIP/1001"), ("support", "PJSIP/1001")
    levels = {"levels": [{"queue_id": 1, "priority": 3}, {"queue_id": 3, "priority": 1}]}
    assert (await house.send("PUT", "/10", levels)).json == OK
    assert await penalties(asterisk) == {sales: 3, support: 1}
    await anna.dial("*32")
    await anna.dial("*314001")
    assert await penalties(asterisk) == {sales: 3, support: 1}

    service.signal(signal.SIGHUP)  # the same as before
    await until(lambda: service.logged("the configuration was reloaded"))
    assert await penalties(asterisk) == {sales: 3, support: 1}
    assert service.stop() == 0
    service.start()
    assert await penalties(asterisk) == {sales: 3, support: 1}

    settings = service.settings()
    settings["agents"][1]["name"] = "Bertram"
    service.write(settings)

    async def back() -> bool:
        return await penalties(asterisk) == {sales: 0, support: 0}

    for _ in range(200):
        if await back():
            break
        await asyncio.sleep(0.05)
    assert await back()
    told = [
        (event["reason"], event["queues"], event["source"])
        for event in service.events("queue-penalty")
    ]
    assert told[:2] == [("3", ["sales"], "api"), ("1", ["support"], "api")]
    assert sorted(told[2:]) == [("0", ["sales"], "system"), ("0", ["support"], "system")]
    service.agrees()


async def test_what_a_queue_says_of_pauses(make_house: Callable[..., House], desk: Any) -> None:
    """On the phone, too: one that ends by itself, one that only tells, one that is locked."""
    house = make_house(
        queues=in_queues(
            {"reason": "10", "limit_duration": "2s", "automatic_unpause": True},
            {"reason": "11", "limit_duration": "2s"},
            {"reason": "12", "limit_duration": "10m", "disable_unpause": True},
        )
    )
    service = house.service
    anna: Desk = await desk("1001")
    await anna.dial("*314001")
    nr17 = await house.reason(10, "10 minutos/NR17")
    IN = ("agent-login", "", "phone", "")
    ended = [
        ("agent-pause", "nr17", "api", "evolux"),
        ("agent-unpause", "nr17", "system", "pause limit"),
    ]
    assert (await house.send("POST", "/10/pause", {"pause_id": nr17})).json == OK
    assert service.members()["sales"] == {"PJSIP/1001 paused:nr17"}
    await until(lambda: len(house.facts("4001")) == 3)
    assert house.facts("4001") == [IN, *ended]
    assert service.members()["sales"] == {"PJSIP/1001"}

    assert (await anna.dial("*3311")).outcome == "PAUSED"
    await until(lambda: len(house.facts("4001")) == 5)
    exceeded = ("pause-exceeded", "almoco", "system", "pause limit")
    assert house.facts("4001")[4] == exceeded
    assert service.members()["sales"] == {"PJSIP/1001 paused:almoco"}
    assert (await anna.dial("*34")).outcome == "UNPAUSED"

    assert (await anna.dial("*3312")).outcome == "PAUSED"
    for code in ("*34", "*39"):
        heard = await anna.dial(code)
        assert heard.outcome == "PAUSE_LOCKED", code
        assert heard.sounds
    assert (await anna.dial("*3311")).outcome == "PAUSE_LOCKED", "another reason is no way out"
    assert service.members()["sales"] == {"PJSIP/1001 paused:cadastro"}
    # A program that speaks as the agent cannot either; a supervisor's can.
    as_agent = await house.send("POST", "/10/unpause")
    assert as_agent.json["meta"] == {
        "status": 422,
        "message": "This pause cannot be ended before its time",
    }
    assert service.members()["sales"] == {"PJSIP/1001 paused:cadastro"}
    board = f"{house.url}/0.1/agents/by-number/4001/unpause"
    assert (await curl("-X", "POST", board, "-H", f"token: {TOKEN}")).status == 204
    assert service.members()["sales"] == {"PJSIP/1001"}
    service.agrees()
    shown = await house.agent(10)
    assert shown["last_pause"]["max_duration"] == 600
    assert shown["current_pause"] is None


async def test_created_agents_at_a_phone(make_house: Callable[..., House], desk: Any) -> None:
    house = make_house(http={"created_agents": {"first_number": "9501", "password_is_pin": True}})
    service = house.service
    new = {"name": "Zoë", "login": "agent.1", "password": "agent_pass", "queues": [1, 3]}
    one = (await house.send("POST", "", new)).json["data"]["id"]
    digits = {"name": "Yan", "login": "7007", "password": "24680246"}
    two = (await house.send("POST", "", digits)).json["data"]["id"]
    assert {"9501", "7007"} <= service.agents().keys()

    phone: Desk = await desk("1001")
    assert (await phone.dial("*319501")).outcome == "LOGGED_IN"  # a password is no PIN
    assert service.members() == {
        "sales": {"PJSIP/1001"},
        "support": {"PJSIP/1001"},
        "billing": set(),
    }
    # Other queues, at once.
    assert (await house.send("PUT", f"/{one}", {"queues": [3, 4]})).json == OK
    assert service.members() == {
        "sales": set(),
        "support": {"PJSIP/1001"},
        "billing": {"PJSIP/1001"},
    }
    assert (await house.agent(one))["queues"] == [3, 4]
    assert (await house.send("PUT", f"/{one}", {"queues": [3, 99]})).status == 400
    assert (await house.send("PUT", f"/{one}", {"queues": []})).json == OK
    assert not any(service.members().values())
    assert (await house.send("PUT", f"/{one}", {"queues": [1]})).json == OK
    assert service.members()["sales"] == {"PJSIP/1001"}
    assert (await phone.dial("*32")).outcome == "LOGGED_OFF"

    # A password of digits is the PIN.
    asked = await phone.dial("*317007", ("agent-pass", "1111#"), ("auth-incorrect", "24680246#"))
    assert asked.outcome == "LOGGED_IN"
    assert (await house.send("PUT", f"/{two}", {"queues": [1], "password": "13571357"})).json == OK
    assert service.members()["sales"] == {"PJSIP/1001"}
    await phone.dial("*32")
    asked = await phone.dial(
        "*317007", ("agent-pass", "24680246#"), ("auth-incorrect", "13571357#")
    )
    assert asked.outcome == "LOGGED_IN"
    assert service.members()["sales"] == {"PJSIP/1001"}

    service.kill()
    service.start()  # what an API created stays
    assert {"9501", "7007"} <= service.agents().keys()
    assert (await house.send("POST", f"/{two}/logoff")).json == OK
    log = service.log.read_text()
    assert not any(secret in log for secret in ("agent_pass", "24680246", "13571357", TOKEN))
    service.agrees()


# -- what nobody may do through it

EVIL = (
    "' OR '1'='1",
    "1'; DROP TABLE agents; --",
    '1"; DELETE FROM agents; --',
    "x\r\nAction: QueueRemove\r\nQueue: sales\r\nInterface: PJSIP/1001",
    "x\r\n\r\nAction: Command\r\nCommand: core stop now\r\n\r\n",
    "x\r\nX-Evil: 1",
    "x\nevil=1",
    "x\x00evil",
    "x\x1b[31mevil\x1b[0m",
    "x\u2028evil\u202e",
    "${SHELL(touch evil)}",
    "$(touch evil)",
    "{{evil}}%s%n",
)
PERCENT = "".join  # for bytes in a path


def quoted(text: str) -> str:
    return PERCENT(f"%{byte:02X}" for byte in text.encode())


async def test_nothing_gets_out_of_its_field(
    make_house: Callable[..., House], desk: Any, peer: Peer, asterisk: Asterisk
) -> None:
    house = make_house()
    service = house.service
    anna: Desk = await desk("1001")
    await anna.dial("*314001")
    members, events = service.members(), service.events()
    agents = (await house.ask("GET", "")).json
    peer.heard.clear()
    mark = asterisk.mark()
    new = {"name": "Mallory", "login": "mallory", "password": "a password", "queues": []}
    asked: list[Answer] = []
    for evil in EVIL:
        path = quoted(evil)
        asked += [
            await house.send("POST", "", new | {"login": evil}),
            await house.send("POST", "", new | {"queues": [evil]}),
            await house.send("POST", "", new | {"queues": evil}),
            await house.send("PUT", "/10", {"levels": [{"queue_id": evil, "priority": 1}]}),
            await house.send("PUT", "/10", {"levels": [{"queue_id": 1, "priority": evil}]}),
            await house.send("PUT", "/10", {"queues": [1, evil]}),
            await house.send("PUT", "/10", {"name": evil, "queues": [evil]}),
            await house.send("POST", "/10/pause", {"pause_id": evil}),
            await house.send("POST", f"/{path}/pause", {"pause_id": 1}),
            await house.send("POST", f"/10{path}/logoff"),
            await house.send("PUT", f"/{path}", {"name": "x"}),
            await house.ask("GET", f"?limit={path}"),
            await house.ask("GET", f"?page={path}"),
            await house.ask("GET", f"/10/pauses?page={path}"),
        ]
        if "\x00" not in evil:  # no word of a command line
            lines = evil.replace("\r\n", "\r\n ")  # folded, as HTTP once had it
            asked += [
                await house.ask("GET", "", "-H", f"Host: {evil.encode().decode('latin-1')}"),
                await curl(f"{house.url}/api/v1/agents", "-H", f"token: {lines}"),
            ]
    got = {answer.status for answer in asked}
    print(f"{len(asked)} requests -> {sorted(got)}")
    assert got <= {200, 400, 401, 404, 405, 422, 429}
    for answer in asked:
        assert "x-evil" not in answer.headers
        assert "evil" not in answer.head.lower()
    accepted = [a for a in asked if a.status == 200]
    for answer in accepted:  # a host that is none; curl was asked for the list
        assert "evil" not in answer.json["pagination"]["first_url"]
    assert service.members() == members
    assert service.events() == events
    assert (await house.ask("GET", "")).json == agents
    assert {told["Event"] for told in peer.heard} & {
        "QueueMemberAdded",
        "QueueMemberRemoved",
    } == set()
    assert "evil" not in asterisk.log_since(mark)

    # A name is any text that can be printed: it is kept as it came, and goes nowhere else.
    printable = [evil for evil in EVIL if evil.isprintable()]
    for n, evil in enumerate(printable):
        made = await house.send(
            "POST", "", new | {"login": f"m{n}", "name": evil, "password": evil}
        )
        assert made.status == 201
        assert (await house.agent(made.json["data"]["id"]))["name"] == evil
    for evil in (evil for evil in EVIL if not evil.isprintable()):
        assert (await house.send("POST", "", new | {"login": "m", "name": evil})).status == 400
        assert (await house.send("PUT", "/10", {"name": evil})).status == 400
    await anna.dial("*32")
    assert (await anna.dial("*319001")).outcome == "LOGGED_IN"
    assert broken_lines(service) == []
    assert "evil" not in asterisk.log_since(mark)
    assert asterisk.running
    service.agrees()
    assert TOKEN not in service.log.read_text()
