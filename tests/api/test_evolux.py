"""Evolux's face: each example of its document field by field, each error, and whatever else may
be sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from fastagi.agents.commands import PauseReason, WhenInCall
from fastagi.agents.limits import PauseLimit, QueuePause, WhenExceeded
from fastagi.agents.model import LoginSession, PauseSegment
from fastagi.agents.records import AgentRecord, Period, Reason
from fastagi.api import evolux
from fastagi.api.asgi import application
from fastagi.api.evolux import _time, number_of
from fastagi.config.settings import PauseSettings
from fastagi.contract import EventType, Source
from tests.agents.memory import NOON, an_agent, device
from tests.api.conftest import FULL, QUEUE_IDS, House

TOKEN = "a-token-of-the-crm"
SITE = {"host": "example.evolux.net.br"}
IMPOSSIBLE = "Request well-formed but has a semantic impossibility."
OK = {"meta": {"status": 200, "message": "OK"}}
NO_AGENT = {"meta": {"status": 404, "message": "Agent not found"}}
NOT_LOGGED = {"meta": {"status": 400, "message": "Agent is not logged"}}
NEW = {"name": "Agent 1", "login": "agent.1", "password": "agent_pass", "queues": [1, 3]}


def id_of(number: int) -> str:
    """The id of a session or pause that is shown with this number."""
    return f"{number * 1000:016x}{'0' * 12}"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """Agents 1 and 2, numbers 1001 (sales, support, billing) and 1002 (sales), logged off."""
    async with AsyncExitStack() as stack:
        one, two = replace(an_agent("1001"), id=1), replace(an_agent("1002", "sales"), id=2)
        yield House(stack, one, two)


CRM = {"crm": {"token": TOKEN, "rights": FULL}}


def as_the_document(http: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """The header ``token``, at the document's own address."""
    http.headers |= {"token": TOKEN, **SITE}
    return http


@pytest.fixture
async def everything(house: House) -> httpx2.AsyncClient:
    """All faces, of which this is one."""
    return as_the_document(await house.open(tokens=CRM))


@pytest.fixture
async def http(house: House) -> httpx2.AsyncClient:
    """This face and the guard alone, which takes a tenth of the time to build."""
    context = house.context(tokens=CRM)
    app = application(context, interfaces=[evolux.INTERFACE])
    return as_the_document(await house.open(app=app))


async def log_in(house: House, agent: str = "1001") -> None:
    await house.hall.do(house.hall.log_in(agent, agent=agent))


def is_as_printed(answer: httpx2.Response, status: int, expected: Mapping[str, Any]) -> bool:
    """The same fields with the same values in the same order."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert json.dumps(answer.json()) == json.dumps(expected)
    return True


def bad(*texts: str) -> dict[str, Any]:
    return {"meta": {"status": 400, "message": "Bad request"}, "errors": list(texts)}


def impossible(message: str) -> dict[str, Any]:
    return {"meta": {"status": 422, "message": message}, "errors": [IMPOSSIBLE]}


def wrong_fields(**texts: str) -> dict[str, Any]:
    return {"meta": {"status": 400, "message": texts}, "errors": texts}


# -- the list


NEVER_THERE = {
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
ONCE_THERE = {
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


def moment(text: str) -> datetime:
    return datetime.fromisoformat(f"2018-07-07T{text}+00:00")


def as_in_the_document(house: House) -> None:
    """62 agents, those of the example first."""
    house.hall.store.agents.clear()
    house.records.others[53] = AgentRecord(53, "53", "Agent 1", "agent1", archived=True)
    house.records.others[40] = AgentRecord(
        40,
        "40",
        "Agent 2",
        "agent.2",
        archived=True,
        queues=(4,),
        last_login=Period(
            id_of(4591), "SIP/3012", "", moment("12:27:42.123456"), moment("17:06:38")
        ),
        last_pause=Period(id_of(46983), "1", "lunch", moment("16:40:11"), moment("17:06:38.9")),
    )
    for id in range(100, 160):
        house.records.others[id] = AgentRecord(id, str(id), f"Agent {id}", str(id))


@pytest.mark.parametrize("path", ["/api/v1/agents", "/api/v1/agents/"])
async def test_the_list_of_the_document(
    everything: httpx2.AsyncClient, house: House, path: str
) -> None:
    as_in_the_document(house)
    answer = await everything.get(
        f"{path}?page=1&limit=2", headers={"Content-Type": "application/json"}
    )
    url = "http://example.evolux.net.br/api/v1/agents/?limit=2"
    expected = {
        "pagination": {
            "max_limit": 2,
            "limit": 2,
            "first_url": f"{url}&page=1",
            "next_url": f"{url}&page=2",
            "items": 2,
            "last_url": f"{url}&page=31",
            "total": 62,
            "current_url": f"{url}&page=1",
            "prev_url": None,
        },
        "meta": {"status": 200, "message": "OK"},
        "data": [ONCE_THERE, NEVER_THERE],
    }
    assert is_as_printed(answer, 200, expected)


@pytest.mark.parametrize(
    ("query", "limit", "items", "pages"),
    [  # pages: previous, current, next, last
        ("", 50, 50, (None, 1, 2, 2)),
        ("?page=2", 50, 12, (1, 2, None, 2)),
        ("?limit=50", 50, 50, (None, 1, 2, 2)),
        ("?limit=51", 50, 50, (None, 1, 2, 2)),
        (f"?limit={'9' * 40}", 50, 50, (None, 1, 2, 2)),
        ("?limit=31", 31, 31, (None, 1, 2, 2)),
        ("?limit=31&page=2", 31, 31, (1, 2, None, 2)),
        ("?limit=31&page=3", 31, 0, (2, 3, None, 2)),
        ("?limit=1&page=62", 1, 1, (61, 62, None, 62)),
        ("?limit=20&page=3", 20, 20, (2, 3, 4, 4)),
        ("?limit=20&page=4", 20, 2, (3, 4, None, 4)),
        ("?limit=20&page=999999999999999", 20, 0, (4, 999999999999999, None, 4)),
        ("?page=01&x=y&limit=007", 7, 7, (None, 1, 2, 9)),
    ],
)
async def test_paging(
    http: httpx2.AsyncClient,
    house: House,
    query: str,
    limit: int,
    items: int,
    pages: tuple[int | None, ...],
) -> None:
    as_in_the_document(house)
    answer = (await http.get(f"/api/v1/agents{query}")).json()
    asked = f"limit={limit}&" if "limit" in query else ""

    def url(page: int | None) -> str | None:
        if page is None:
            return None
        return f"http://example.evolux.net.br/api/v1/agents/?{asked}page={page}"

    previous, current, following, last = map(url, pages)
    assert answer["pagination"] == {
        "max_limit": limit,
        "limit": limit,
        "first_url": url(1),
        "next_url": following,
        "items": items,
        "last_url": last,
        "total": 62,
        "current_url": current,
        "prev_url": previous,
    }
    assert len(answer["data"]) == items


@pytest.mark.parametrize("limit", [1, 7, 50])
async def test_who_follows_the_urls_sees_each_once(
    http: httpx2.AsyncClient, house: House, limit: int
) -> None:
    as_in_the_document(house)
    url, seen = f"/api/v1/agents?limit={limit}", []
    while url:
        answer = (await http.get(url)).json()
        seen += [agent["id"] for agent in answer["data"]]
        url = answer["pagination"]["next_url"]
    assert seen == sorted(house.records.others)


async def test_a_list_of_nobody(http: httpx2.AsyncClient, house: House) -> None:
    house.hall.store.agents.clear()
    answer = (await http.get("/api/v1/agents")).json()
    assert answer["data"] == []
    url = "http://example.evolux.net.br/api/v1/agents/?page=1"
    assert answer["pagination"] == {
        "max_limit": 50,
        "limit": 50,
        "first_url": url,
        "next_url": None,
        "items": 0,
        "last_url": url,
        "total": 0,
        "current_url": url,
        "prev_url": None,
    }


@pytest.mark.parametrize("path", ["/api/v1/agents", "/api/v1/agents/1/pauses"])
@pytest.mark.parametrize("field", ["limit", "page"])
@pytest.mark.parametrize(
    "value",
    ["0", "-1", "x", "", "1.5", "%201", "1%0d%0aX:y", "1;drop", "٣", "%D9%A3", "1e3"],
)
async def test_bad_paging(http: httpx2.AsyncClient, path: str, field: str, value: str) -> None:
    answer = await http.get(f"{path}?{field}={value}")
    assert is_as_printed(answer, 400, bad(f"{field} must be a whole number from 1."))


@pytest.mark.parametrize("query", ["page=" + "9" * 16, "limit=" + "9" * 4500])
async def test_numbers_that_are_too_long(http: httpx2.AsyncClient, query: str) -> None:
    answer = await http.get(f"/api/v1/agents?{query}")
    field = query.partition("=")[0]
    assert is_as_printed(answer, 400, bad(f"{field} must be a whole number from 1."))


async def test_too_many_fields(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/api/v1/agents?" + "a=1&" * 200)
    assert is_as_printed(answer, 400, bad("The query has too many fields."))


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("pbx.example:8080", "pbx.example:8080"),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("x" * 300, None),
    ],
)
async def test_what_the_client_calls_this_host(
    http: httpx2.AsyncClient, host: str, shown: str | None
) -> None:
    answer = await http.get("/api/v1/agents", headers={"host": host})
    shown = shown or "localhost:9493"
    current = answer.json()["pagination"]["current_url"]
    assert current == f"http://{shown}/api/v1/agents/?page=1"


@pytest.mark.parametrize(
    "host",
    ['evil"/><script>', "a b", "user:password@evil", "evil/path?", "evil\\", "evil:123456", ""],
)
async def test_what_is_no_host_is_refused(http: httpx2.AsyncClient, host: str) -> None:
    answer = await http.get("/api/v1/agents", headers={"host": host})
    assert is_as_printed(answer, 400, refusal(400, "Bad request", "Host names no host"))


async def test_a_host_with_line_breaks_is_not_repeated(
    house: House, http: httpx2.AsyncClient
) -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/agents",
        "query_string": b"",
        "headers": [(b"host", b"x\r\nSet-Cookie: a=b"), (b"token", TOKEN.encode())],
        "scheme": "https",
        "server": ("::1", 9493),
        "client": ("127.0.0.1", 1),
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await house.application(tokens={"crm": TOKEN})(scope, receive, send)
    assert sent[0]["status"] == 400
    assert b"Set-Cookie" not in sent[1]["body"]


# -- an agent


async def test_one_who_is_there(house: House, http: httpx2.AsyncClient) -> None:
    state = house.hall.store.agents["1001"]
    later = NOON + timedelta(hours=1)
    house.hall.store.agents["1001"] = replace(
        state,
        session=LoginSession(id_of(1753258851265714), device("1001"), NOON),
        pause=PauseSegment(id_of(1753258851265715), PauseReason("1", "lunch"), later),
    )
    limit = PauseLimit(timedelta(minutes=45), None, WhenExceeded.UNPAUSE)
    house.records.all_reasons[0] = replace(house.records.all_reasons[0], limit=limit, type="nr17")
    (agent, other) = (await http.get("/api/v1/agents")).json()["data"]
    assert agent == {
        "archived": False,
        "enable": True,
        "name": "Agent 1001",
        "queues": [1, 2, 3],
        "current_extension": "sip/1001",
        "last_pause": None,
        "last_login": {
            "exten": "sip/1001",
            "time_logoff": None,
            "id": 1753258851265714,
            "time_login": "2026-11-22T12:00:00+00:00",
        },
        "current_pause": {
            "max_duration": 2700,
            "time_start": "2026-11-22T13:00:00+00:00",
            "reason_id": 18,
            "time_end": None,
            "reason": {
                "system": False,
                "productive": True,
                "type": "nr17",
                "id": 18,
                "description": "Pausa Cadastro",
            },
            "id": 1753258851265715,
        },
        "login": "1001",
        "current_outbound_queue": None,
        "id": 1,
    }
    assert (other["id"], other["current_extension"], other["current_pause"]) == (2, None, None)


async def test_how_long_a_pause_may_be_is_what_holds(
    http: httpx2.AsyncClient, house: House
) -> None:
    """The shortest of the reason's and the queues'."""
    limit = PauseLimit(timedelta(minutes=45), None, WhenExceeded.WARN)
    house.records.all_reasons[0] = replace(house.records.all_reasons[0], limit=limit)
    house.reader.said = {
        ("support", "1"): QueuePause(timedelta(minutes=10)),
        ("billing", "1"): QueuePause(timedelta(minutes=5)),
    }
    pause = Period("p", "1", "lunch", NOON)
    house.records.others[70] = AgentRecord(
        70, "70", "In both", "a", queues=(1, 2), current_pause=pause
    )
    house.records.others[71] = AgentRecord(
        71, "71", "In one", "b", queues=(1,), current_pause=pause
    )
    agents = (await http.get("/api/v1/agents")).json()["data"][2:]
    assert [agent["current_pause"]["max_duration"] for agent in agents] == [600, 2700]


@pytest.mark.parametrize(
    ("code", "name", "system"),
    [
        ("", "device-lost", True),
        ("77", "device-lost", True),
        ("", "", False),  # a person's pause without a reason
        ("", "tea", False),  # a program's, or somebody's in Asterisk
    ],
)
async def test_a_reason_that_is_in_no_table(
    http: httpx2.AsyncClient, house: House, code: str, name: str, system: bool
) -> None:
    pause = Period("x", code, name, NOON)
    house.records.others[70] = AgentRecord(70, "70", "Unplugged", "u", current_pause=pause)
    shown = (await http.get("/api/v1/agents")).json()["data"][2]["current_pause"]
    assert shown["reason_id"] == 0
    assert shown["reason"] == {
        "system": system,
        "productive": False,
        "type": "",
        "id": 0,
        "description": name,
    }


async def test_disabled_and_archived(http: httpx2.AsyncClient, house: House) -> None:
    house.records.others[70] = AgentRecord(70, "70", "Off", "off", enabled=False)
    house.records.others[71] = AgentRecord(71, "71", "Gone", "gone", archived=True, enabled=True)
    agents = (await http.get("/api/v1/agents")).json()["data"]
    assert [(agent["archived"], agent["enable"]) for agent in agents] == [
        (False, True),
        (False, True),
        (False, False),
        (True, False),
    ]


async def test_a_reason_says_its_name_where_it_has_no_description(
    http: httpx2.AsyncClient, house: House
) -> None:
    house.records.others[70] = AgentRecord(
        70, "70", "A", "a", last_pause=Period("x", "2", "break", NOON)
    )
    shown = (await http.get("/api/v1/agents")).json()["data"][2]["last_pause"]
    assert (shown["reason"]["description"], shown["max_duration"]) == ("break", None)


def test_numbers_of_ids() -> None:
    assert number_of("18a5f2c3d4e5f6a7" + "0" * 12) == 0x18A5F2C3D4E5F6A7 // 1000
    earlier, later = f"{10**18:016x}" + "f" * 12, f"{10**18 + 1000:016x}" + "0" * 12
    assert number_of(earlier) + 1 == number_of(later) < 2**53
    # Others are the same at every start, and no larger than what JavaScript can count.
    assert number_of("c1") == 1591159457
    for id in ("", "c1", "é", "f" * 28, "18A5F2C3D4E5F6A7" + "0" * 12, "0" * 27):
        assert 0 <= number_of(id) < 2**32
    assert number_of("c1") != number_of("c2")


# -- creating


async def test_creating_as_in_the_document(house: House, everything: httpx2.AsyncClient) -> None:
    house.hall.store.agents.clear()
    answer = await everything.post("/api/v1/agents", json=NEW)
    expected = {
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
    assert is_as_printed(answer, 201, expected)
    assert house.records.passwords == {1: "agent_pass"}
    assert house.log.lines == [("info", "an agent was created", {"by": "crm", "agent_id": 1})]
    # The login is taken now.
    answer = await everything.post("/api/v1/agents/", json=NEW)
    taken = bad("Agente não foi criado, esse login já está sendo usado.")
    assert is_as_printed(answer, 400, taken)


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}, {"content-type": "x"}])
async def test_a_body_is_json_whatever_it_is_called(
    http: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await http.post("/api/v1/agents", content=json.dumps(NEW), headers=headers)
    assert answer.status_code == 201


@pytest.mark.parametrize("queues", [None, [], ...])
async def test_an_agent_without_queues(http: httpx2.AsyncClient, queues: Any) -> None:
    body = {**NEW, "queues": queues}
    if queues is ...:
        del body["queues"]
    answer = await http.post("/api/v1/agents", json=body)
    assert (answer.status_code, answer.json()["data"]["queues"]) == (201, [])


async def test_a_queue_named_twice_counts_once(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/api/v1/agents", json={**NEW, "queues": [3, 1, 3]})
    assert answer.json()["data"]["queues"] == [1, 3]


INTEGERS = "queues list must contains only integer ids"
EMPTY = "{} must not be empty or contain only spaces"
LOGIN = "login must be 1 to 64 letters, digits and _ . @ -"
NASTY = ["x\r\nAction: Logoff", "x\x00", "'; DROP TABLE agents; --", "${SHELL}", "é", "x y", "x,y"]
WRONG_NEW = [
    *(("queues", value, INTEGERS) for value in (["1"], [1, None], [True], [1.5], "1", 1, {}, [[]])),
    *(("queues", value, INTEGERS) for value in ([2**70], False, {"1": 1})),
    *(
        ("queues", [1, id], f"there is no queue with the id {id}")
        for id in (4, 0, -1, 2**31, 2**63)
    ),
    *(("name", value, "name is missing") for value in (None, ...)),
    *(("name", value, "name must be a string") for value in (1.5, True, [], {}, ["x"])),
    *(("name", value, EMPTY.format("name")) for value in ("", " ", " \t\n ")),
    ("name", "x" * 129, "name must not be longer than 128 characters"),
    *(
        ("name", value, "name must not contain control characters")
        for value in ("a\r\nb", "a\x00b", "a\x1b[31m", "a\u2028b", "a\u202eb")
    ),
    *(("login", value, "login is missing") for value in (None, ...)),
    *(("login", value, LOGIN) for value in ("", "x" * 65, 1.5, True, [], {}, "x\n", *NASTY)),
    *(("password", value, "password is missing") for value in (None, ...)),
    *(("password", value, "password must be a string") for value in (1.5, False, [], {})),
    *(("password", value, EMPTY.format("password")) for value in ("", "   ", "\t\n")),
    ("password", "x" * 257, "password must not be longer than 256 characters"),
]


@pytest.mark.parametrize(("field", "value", "text"), WRONG_NEW)
async def test_creating_is_refused(
    house: House, http: httpx2.AsyncClient, field: str, value: Any, text: str
) -> None:
    body = {**NEW, field: value}
    if value is ...:
        del body[field]
    before = dict(house.hall.store.agents)
    answer = await http.post("/api/v1/agents", content=json.dumps(body))
    assert is_as_printed(answer, 400, bad(f"Agent not created, {text}."))
    assert (house.hall.store.agents, house.records.passwords, house.log.lines) == (before, {}, [])


async def test_all_that_is_wrong_is_told(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/api/v1/agents", json={"login": "x y", "queues": "all"})
    expected = bad(
        "Agent not created, name is missing.",
        "Agent not created, password is missing.",
        f"Agent not created, {LOGIN}.",
        f"Agent not created, {INTEGERS}.",
    )
    assert is_as_printed(answer, 400, expected)


async def test_what_a_name_may_be(http: httpx2.AsyncClient, house: House) -> None:
    """Text is text: none of this means anything to whoever keeps or shows it as such."""
    for n, name in enumerate(["João Ávila", "'; DROP TABLE agents; --", '"<b>', "${x}", "名前"]):
        answer = await http.post(
            "/api/v1/agents", json={**NEW, "name": f" {name} ", "login": f"{n}"}
        )
        assert answer.json()["data"]["name"] == name


BODIES = [
    ("{", "The body is no valid JSON."),
    ("\xff", "The body is no valid JSON."),
    ('{"name": NaN}', "The body is no valid JSON."),
    ('{"name": "\\ud800"}', "The body is no valid JSON."),
    ("[1]", "The body must be a JSON object."),
    ("1", "The body must be a JSON object."),
    ("name=x&login=y", "The body is no valid JSON."),
    ("[" * 5000, "The body is no valid JSON."),
]


@pytest.mark.parametrize(("body", "text"), BODIES)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/agents"), ("PUT", "/agents/1"), ("POST", "/agents/1/pause")],
)
async def test_bodies_that_are_none(
    http: httpx2.AsyncClient, method: str, path: str, body: str, text: str
) -> None:
    answer = await http.request(method, f"/api/v1{path}", content=body.encode("latin-1"))
    assert is_as_printed(answer, 400, bad(text))


# -- editing


async def edit(http: httpx2.AsyncClient, **fields: Any) -> None:
    assert is_as_printed(await http.put("/api/v1/agents/1", json=fields), 200, OK)


async def test_levels_as_in_the_document(house: House, http: httpx2.AsyncClient) -> None:
    """At once, also in Asterisk."""
    await log_in(house)
    await edit(http, levels=[{"queue_id": 1, "priority": 3}, {"queue_id": 2, "priority": 0}])
    queues = house.hall.asterisk.queues
    assert [queues[name]["pjsip/1001"].penalty for name in QUEUE_IDS] == [3, 0, 2]
    assert [m.penalty for m in house.hall.state.memberships] == [3, 0, 2]
    events = [event for event in house.hall.events if event.type is EventType.QUEUE_PENALTY]
    assert {(event.source, event.actor.name) for event in events} == {(Source.API, "crm")}
    house.hall.all_well()


async def test_levels_of_one_who_is_away(house: House, http: httpx2.AsyncClient) -> None:
    await edit(http, levels=[{"queue_id": 3, "priority": 2**31 - 1}])
    assert [m.penalty for m in house.hall.state.memberships] == [0, 1, 2**31 - 1]
    assert house.hall.events == []


@pytest.mark.parametrize("logged_in", [True, False])
async def test_the_queues_become_exactly_these(
    house: House, http: httpx2.AsyncClient, logged_in: bool
) -> None:
    store, queues = house.hall.store, house.hall.asterisk.queues
    if logged_in:
        await log_in(house, "1002")

    async def become(*ids: int) -> list[tuple[str, int]]:
        answer = await http.put("/api/v1/agents/2", json={"queues": ids})
        assert is_as_printed(answer, 200, OK)
        in_asterisk = {name for name, members in queues.items() if "pjsip/1002" in members}
        there = store.agents["1002"].memberships
        assert in_asterisk == ({m.queue for m in there} if logged_in else set())
        house.hall.all_well()
        return [(m.queue, m.penalty) for m in there]

    assert await become(1, 3) == [("sales", 0), ("billing", 0)]
    assert await become(3, 2, 2) == [("billing", 0), ("support", 0)]
    assert await become(3, 2) == [("billing", 0), ("support", 0)]
    assert await become() == []
    assert await become(1) == [("sales", 0)]


async def test_queues_and_levels_in_one(house: House, http: httpx2.AsyncClient) -> None:
    await log_in(house)
    levels = [{"queue_id": 1, "priority": 5}, {"queue_id": 3, "priority": 6}]
    await edit(http, queues=[1, 3], levels=levels, name="João", password="new")
    queues = house.hall.asterisk.queues
    found = {name: m["pjsip/1001"].penalty for name, m in queues.items() if "pjsip/1001" in m}
    assert found == {"sales": 5, "billing": 6}
    assert house.hall.state.name == "João"
    assert house.records.passwords == {1: "new"}
    ((_, event, values),) = house.log.lines
    assert (event, values) == (
        "an agent was changed",
        {"by": "crm", "agent_id": 1, "fields": ["name", "password", "queues", "levels"]},
    )
    # A new queue has its penalty from the first moment.
    await edit(http, queues=[2], levels=[{"queue_id": 2, "priority": 9}])
    assert queues["support"]["pjsip/1001"].penalty == 9
    assert not any(event.type is EventType.QUEUE_PENALTY for event in house.hall.events[-3:])
    house.hall.all_well()


async def test_a_queue_somebody_put_the_agent_into_in_asterisk(
    house: House, http: httpx2.AsyncClient
) -> None:
    """It becomes the agent's own, or the agent leaves it."""
    store = house.hall.store
    store.own_queues["1001"] = {"sales"}
    await log_in(house)
    await edit(http, queues=[1, 2])
    assert store.own_queues["1001"] == {"sales", "support"}
    assert {m.queue for m in house.hall.state.joined} == {"sales", "support"}
    house.hall.all_well()


@pytest.mark.parametrize("body", ["", "{}", '{"name": null, "queues": null, "login": "x", "x": 1}'])
async def test_nothing_to_change(house: House, http: httpx2.AsyncClient, body: str) -> None:
    before = house.hall.state
    assert is_as_printed(await http.put("/api/v1/agents/1", content=body), 200, OK)
    assert house.hall.state == before


LEVELS = "levels must be a list of objects with queue_id and priority"
PRIORITY = "priority must be an integer from 0 to 2147483647"
WRONG_EDITS: list[tuple[dict[str, Any], dict[str, str]]] = [
    *(
        ({"password": value}, {"password": EMPTY.format("password")})
        for value in ("", " ", "     ", "\t\r\n")
    ),
    ({"password": True}, {"password": "password must be a string"}),
    ({"password": "x" * 257}, {"password": "password must not be longer than 256 characters"}),
    ({"name": "  "}, {"name": EMPTY.format("name")}),
    ({"name": ["x"]}, {"name": "name must be a string"}),
    ({"name": "a\r\nb"}, {"name": "name must not contain control characters"}),
    *(({"queues": value}, {"queues": INTEGERS}) for value in (["1"], [True], "1", {}, [[1]], 0)),
    *(
        ({"queues": [1, id]}, {"queues": f"there is no queue with the id {id}"})
        for id in (4, 0, -1, 2**31, 2**63)
    ),
    *(({"levels": value}, {"levels": LEVELS}) for value in ("x", {}, [1], [None], 5, [[]])),
    *(
        ({"levels": [{"queue_id": id, "priority": 1}]}, {"levels": "queue_id must be an integer"})
        for id in ("one", None, True, 1.5, [])
    ),
    ({"levels": [{"priority": 1}]}, {"levels": "queue_id must be an integer"}),
    *(
        ({"levels": [{"queue_id": 1, "priority": priority}]}, {"levels": PRIORITY})
        for priority in ("low", None, True, -1, 2**31, 2**70, 1.5)
    ),
    ({"levels": [{"queue_id": 1}]}, {"levels": PRIORITY}),
    *(
        (
            {"levels": [{"queue_id": id, "priority": 1}]},
            {"levels": f"the agent is not in the queue with the id {id}"},
        )
        for id in (4, 0, -1, 2**63)
    ),
    (
        {"queues": [1, 2], "levels": [{"queue_id": 3, "priority": 1}]},
        {"levels": "the agent is not in the queue with the id 3"},
    ),
    (
        {"levels": [{"queue_id": 1, "priority": 1}, {"queue_id": 1, "priority": 2}]},
        {"levels": "the queue with the id 1 has two priorities"},
    ),
    (
        {"name": "", "password": "", "queues": [99], "levels": 1},
        {
            "name": EMPTY.format("name"),
            "password": EMPTY.format("password"),
            "levels": LEVELS,
            "queues": "there is no queue with the id 99",
        },
    ),
]


@pytest.mark.parametrize(("body", "wrong"), WRONG_EDITS)
async def test_editing_is_refused(
    house: House, http: httpx2.AsyncClient, body: dict[str, Any], wrong: dict[str, str]
) -> None:
    """And then nothing of it was done, whatever else was right."""
    await log_in(house)
    before, events = house.hall.state, house.hall.events
    right = {"name": "New", "password": "new", "queues": [1], "levels": []}
    answer = await http.put("/api/v1/agents/1", json={**right, **body})
    assert is_as_printed(answer, 400, wrong_fields(**wrong))
    assert (house.hall.state, house.hall.events, house.records.passwords) == (before, events, {})
    assert house.log.lines == []


async def test_asterisk_refuses_a_queue(house: House, http: httpx2.AsyncClient) -> None:
    await log_in(house, "1002")
    house.hall.asterisk.refuses = lambda operation: getattr(operation, "queue", "") == "billing"
    answer = await http.put("/api/v1/agents/2", json={"queues": [1, 3], "name": "New"})
    assert answer.status_code == 409
    assert answer.json()["meta"] == {"status": 409, "message": "Conflict"}
    (text,) = answer.json()["errors"]
    assert text == "Asterisk refused the change: Permission denied"
    assert house.hall.store.agents["1002"].name == "Agent 1002"


async def test_a_queue_that_asterisk_lacks_is_the_agent_s(
    house: House, http: httpx2.AsyncClient
) -> None:
    """Joined when it is there."""
    await log_in(house, "1002")
    del house.hall.asterisk.queues["billing"]
    answer = await http.put("/api/v1/agents/2", json={"queues": [1, 3]})
    assert answer.status_code == 200
    state = house.hall.store.agents["1002"]
    assert [m.queue for m in state.memberships] == ["sales", "billing"]
    assert [m.queue for m in state.joined] == ["sales"]
    house.hall.asterisk.queues["billing"] = {}
    await house.hall.reconciler.missing.look()
    state = house.hall.store.agents["1002"]
    assert [m.queue for m in state.joined] == ["sales", "billing"]


async def test_two_who_edit_one_agent(house: House, http: httpx2.AsyncClient) -> None:
    """What comes of it is what one of them wants, not a mixture."""
    await log_in(house)
    bodies = [{"queues": [1, 2]}, {"queues": [3]}] * 3
    answers = await asyncio.gather(*(http.put("/api/v1/agents/1", json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert {m.queue for m in house.hall.state.joined} in ({"sales", "support"}, {"billing"})
    house.hall.all_well()


# -- pauses of an agent


def pauses_of_the_document(house: House) -> None:
    house.records.all_reasons = [
        Reason(49, "1", "nr17", "10 minutos/NR17", productive=True, type="nr17rest10"),
        Reason(50, "2", "almoco", "Almoço", productive=True),
    ]
    house.reader.ids.update({"thirteen": 13, "twenty": 20})
    house.records.others[7] = AgentRecord(7, "7", "Agent 7", "agent.7", queues=(20, 13))
    house.reader.said = {
        ("thirteen", "1"): QueuePause(timedelta(seconds=5)),
        ("twenty", "2"): QueuePause(timedelta(hours=1), True, True),
    }


def a_pause(queue_id: int, reason: Reason, limit: int | None, *flags: bool) -> dict[str, Any]:
    automatic, disabled = flags or (False, False)
    return {
        "pause": {
            "system": False,
            "productive": reason.productive,
            "type": reason.type or None,
            "id": reason.id,
            "description": reason.description or reason.name,
        },
        "automatic_unpause": automatic,
        "queue_id": queue_id,
        "disable_unpause": disabled,
        "limit_duration": limit,
        "id": queue_id * 100_000 + reason.id,
    }


@pytest.mark.parametrize("method", ["GET", "POST"])  # the document says the one and shows the other
async def test_pauses_of_an_agent(
    everything: httpx2.AsyncClient, house: House, method: str
) -> None:
    pauses_of_the_document(house)
    short, long = house.records.all_reasons
    # The shell ends the document's own example at the &: without limit, then.
    answer = await everything.request(method, "/api/v1/agents/7/pauses?page=1")
    url = "http://example.evolux.net.br/api/v1/agents/7/pauses?page=1"
    expected = {
        "pagination": {
            "max_limit": 50,
            "limit": 50,
            "first_url": url,
            "next_url": None,
            "items": 4,
            "last_url": url,
            "total": 4,
            "current_url": url,
            "prev_url": None,
        },
        "meta": {"status": 200, "message": "OK"},
        "data": [
            a_pause(13, short, 5),
            a_pause(13, long, None),
            a_pause(20, short, None),
            a_pause(20, long, 3600, True, True),
        ],
    }
    assert is_as_printed(answer, 200, expected)
    answer = await everything.request(method, "/api/v1/agents/7/pauses?page=2&limit=3")
    assert answer.json()["data"] == [a_pause(20, long, 3600, True, True)]
    pagination = answer.json()["pagination"]
    url = "http://example.evolux.net.br/api/v1/agents/7/pauses?limit=3"
    assert (pagination["items"], pagination["total"], pagination["max_limit"]) == (1, 4, 3)
    assert (pagination["prev_url"], pagination["next_url"]) == (f"{url}&page=1", None)


@pytest.mark.parametrize(
    ("own", "said", "limit", "automatic", "disabled"),
    [
        (None, None, None, False, False),
        (PauseLimit(timedelta(minutes=1), None, WhenExceeded.WARN), None, 60, False, False),
        (PauseLimit(timedelta(minutes=1), None, WhenExceeded.UNPAUSE), None, 60, True, False),
        (PauseLimit(timedelta(minutes=1), None, WhenExceeded.LOGOFF), None, 60, False, False),
        (
            PauseLimit(timedelta(minutes=1), None, WhenExceeded.UNPAUSE),
            QueuePause(timedelta(minutes=2)),
            120,
            False,
            False,
        ),
        (
            PauseLimit(timedelta(minutes=1), None, WhenExceeded.UNPAUSE),
            QueuePause(disable_unpause=True),
            60,
            True,
            True,
        ),
        (None, QueuePause(disable_unpause=True), None, False, True),
        (None, QueuePause(timedelta(seconds=90.5), True), 90, True, False),
    ],
)
async def test_what_the_queue_says_goes_first(
    http: httpx2.AsyncClient,
    house: House,
    own: PauseLimit | None,
    said: QueuePause | None,
    limit: int | None,
    automatic: bool,
    disabled: bool,
) -> None:
    house.records.all_reasons = [
        Reason(18, "1", "lunch", limit=own),
        Reason(19, "2", "gone", archived=True),
    ]
    house.reader.said = {} if said is None else {("sales", "1"): said}
    (pause,) = (await http.get("/api/v1/agents/2/pauses")).json()["data"]
    assert pause == a_pause(1, house.records.all_reasons[0], limit, automatic, disabled)


async def test_pauses_of_one_who_is_archived(http: httpx2.AsyncClient, house: House) -> None:
    house.records.others[7] = AgentRecord(7, "7", "Gone", "gone", archived=True, queues=(2,))
    answer = (await http.get("/api/v1/agents/7/pauses")).json()
    assert [pause["id"] for pause in answer["data"]] == [200018, 200019]


# -- pausing, unpausing, logging off


async def act(http: httpx2.AsyncClient, action: str, body: Any = None) -> httpx2.Response:
    content = None if body is None else json.dumps(body)
    return await http.post(f"/api/v1/agents/1/{action}", content=content)


async def test_a_day(house: House, everything: httpx2.AsyncClient) -> None:
    await log_in(house)
    assert is_as_printed(await act(everything, "pause", {"pause_id": 18}), 200, OK)
    state = house.hall.state
    assert state.pause is not None
    assert state.pause.reason == PauseReason("1", "lunch")
    assert house.hall.asterisk.queues["sales"]["pjsip/1001"].reason == "lunch"
    assert is_as_printed(await act(everything, "unpause"), 200, OK)
    assert house.hall.state.pause is None
    assert is_as_printed(await act(everything, "logoff"), 200, OK)
    assert house.hall.state.session is None
    events = house.hall.events[1:]
    assert [event.type for event in events] == [
        EventType.PAUSE,
        EventType.UNPAUSE,
        EventType.LOGOUT,
    ]
    assert {(event.source, event.actor.name) for event in events} == {(Source.API, "crm")}
    house.hall.all_well()


@pytest.mark.parametrize("pause_id", [18, 19])
async def test_paused_already(house: House, http: httpx2.AsyncClient, pause_id: int) -> None:
    """For whatever reason."""
    await log_in(house)
    await act(http, "pause", {"pause_id": 18})
    answer = await act(http, "pause", {"pause_id": pause_id})
    assert is_as_printed(answer, 422, impossible("Agent already paused"))
    pause = house.hall.state.pause
    assert pause is not None
    assert pause.reason.code == "1"


async def test_of_two_at_once_one_pauses(house: House, http: httpx2.AsyncClient) -> None:
    await log_in(house)
    both = (act(http, "pause", {"pause_id": id}) for id in (18, 19))
    answers = await asyncio.gather(*both)
    assert sorted(answer.status_code for answer in answers) == [200, 422]
    assert [event.type for event in house.hall.events].count(EventType.PAUSE) == 1


async def test_not_logged(http: httpx2.AsyncClient) -> None:
    assert is_as_printed(await act(http, "pause", {"pause_id": 18}), 400, NOT_LOGGED)
    assert is_as_printed(await act(http, "logoff"), 400, NOT_LOGGED)
    # What the document has for this: it has no other error there.
    assert is_as_printed(await act(http, "unpause"), 422, impossible("Agent is unpaused"))


async def test_not_paused(house: House, http: httpx2.AsyncClient) -> None:
    await log_in(house)
    assert is_as_printed(await act(http, "unpause"), 422, impossible("Agent is unpaused"))
    assert len(house.hall.events) == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "pause_id is missing."),
        ({"pause_id": None}, "pause_id is missing."),
        *(
            ({"pause_id": value}, "pause_id must be an integer.")
            for value in (True, 18.5, [18], {"id": 18}, 2**70)
        ),
    ],
)
async def test_no_pause_given(house: House, http: httpx2.AsyncClient, body: Any, text: str) -> None:
    await log_in(house)
    assert is_as_printed(await act(http, "pause", body), 400, bad(text))


async def test_no_body(house: House, http: httpx2.AsyncClient) -> None:
    await log_in(house)
    assert is_as_printed(await act(http, "pause"), 400, bad("pause_id is missing."))


@pytest.mark.parametrize(
    "pause_id", [17, 0, -1, 2**63, -(2**63), 20, "20", "gone", "1; DROP", "x\r\ny", ""]
)
async def test_no_such_pause(house: House, http: httpx2.AsyncClient, pause_id: Any) -> None:
    house.records.all_reasons.append(Reason(20, "3", "gone", archived=True))
    await log_in(house)
    expected = {"meta": {"status": 404, "message": "Pause not found"}}
    assert is_as_printed(await act(http, "pause", {"pause_id": pause_id}), 404, expected)
    assert house.hall.state.pause is None


async def test_spent(house: House, http: httpx2.AsyncClient) -> None:
    await log_in(house)
    budget = PauseLimit(None, timedelta(minutes=10), WhenExceeded.UNPAUSE)
    house.hall.store.known_limits["1"] = budget
    await act(http, "pause", {"pause_id": 18})
    house.hall.clock.pass_(minutes=11)
    await act(http, "unpause")
    answer = await act(http, "pause", {"pause_id": 18})
    expected = impossible("The time for this pause is used up for today")
    assert is_as_printed(answer, 422, expected)


def call(house: House, on: bool) -> None:
    house.hall.asterisk.calls = {"pjsip/1001"} if on else set()


async def test_in_a_call(house: House, http: httpx2.AsyncClient) -> None:
    await log_in(house)
    call(house, True)
    answer = await act(http, "logoff")
    text = "Não é possível sair enquanto está em uma chamada."
    expected = {"meta": {"status": 400, "message": text}}
    assert is_as_printed(answer, 400, expected)
    assert text.encode() in answer.content
    assert house.hall.state.session is not None
    call(house, False)
    assert is_as_printed(await act(http, "logoff"), 200, OK)


async def test_pausing_in_a_call(house: House, http: httpx2.AsyncClient) -> None:
    """As the settings say; and what waits for the end of the call can be taken back."""
    await log_in(house)
    call(house, True)
    house.pause = PauseSettings(when_in_call=WhenInCall.REFUSE)
    text = "Não é possível pausar enquanto está em uma chamada."
    answer = await act(http, "pause", {"pause_id": 18})
    assert is_as_printed(answer, 400, {"meta": {"status": 400, "message": text}})
    house.pause = PauseSettings(when_in_call=WhenInCall.AFTER_CALL)
    planned = OK | {"planned": "pause"}
    assert is_as_printed(await act(http, "pause", {"pause_id": 18}), 200, planned)
    assert house.hall.state.planned is not None
    (alice,) = [a for a in (await http.get("/api/v1/agents")).json()["data"] if a["id"] == 1]
    assert alice["planned"] == "pause"
    assert is_as_printed(await act(http, "unpause"), 200, OK)
    assert house.hall.state.planned is None
    assert is_as_printed(await act(http, "unpause"), 422, impossible("Agent is unpaused"))


ONE = [
    ("PUT", "", '{"name": "x"}'),
    ("GET", "/pauses", ""),
    ("POST", "/pauses", ""),
    ("POST", "/pause", '{"pause_id": 18}'),
    ("POST", "/unpause", ""),
    ("POST", "/logoff", ""),
]


@pytest.mark.parametrize(("method", "action", "body"), ONE)
@pytest.mark.parametrize(
    "id",
    [
        "3",
        "0",
        "-1",
        "2147483648",
        "9" * 30,
        "x",
        "1x",
        "1%20",
        "1%0d%0aX:%20y",
        "%00",
        "1'--",
        "١",
    ],
)
async def test_nobody(
    http: httpx2.AsyncClient, method: str, action: str, body: str, id: str
) -> None:
    answer = await http.request(method, f"/api/v1/agents/{id}{action}", content=body)
    assert is_as_printed(answer, 404, NO_AGENT)


@pytest.mark.parametrize(("method", "action", "body"), [one for one in ONE if "/pauses" not in one])
async def test_who_is_archived_stays_as_he_is(
    http: httpx2.AsyncClient, house: House, method: str, action: str, body: str
) -> None:
    house.records.others[7] = AgentRecord(7, "7", "Gone", "gone", archived=True, queues=(1,))
    answer = await http.request(method, f"/api/v1/agents/7{action}", content=body)
    assert is_as_printed(answer, 404, NO_AGENT)


# -- every answer is an envelope


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/agents", "GET, HEAD, POST"),
        ("PUT", "/agents/", "GET, HEAD, POST"),
        ("GET", "/agents/1", "PUT"),
        ("DELETE", "/agents/1", "PUT"),
        ("PATCH", "/agents/1/pauses", "GET, HEAD, POST"),
        ("GET", "/agents/1/pause", "POST"),
        ("GET", "/agents/1/logoff", "POST"),
    ],
)
async def test_methods(
    everything: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await everything.request(method, f"/api/v1{path}")
    expected = {"meta": {"status": 405, "message": "Method not allowed"}}
    assert is_as_printed(answer, 405, expected)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path", ["", "/", "/agent", "/agents//", "/agents/1//", "/agents/1/login", "/agents/1/pause/x"]
)
async def test_no_such_path(http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.get(f"/api/v1{path}")
    assert is_as_printed(answer, 404, {"meta": {"status": 404, "message": "Not found"}})


async def test_head(everything: httpx2.AsyncClient) -> None:
    assert (await everything.head("/api/v1/agents")).status_code == 200


def refusal(status: int, message: str, text: str) -> dict[str, Any]:
    return {"meta": {"status": status, "message": message}, "errors": [text]}


async def test_tokens(house: House, everything: httpx2.AsyncClient) -> None:
    del everything.headers["token"]
    answer = await everything.get("/api/v1/agents")
    assert is_as_printed(answer, 401, refusal(401, "Unauthorized", "A token is needed"))
    answer = await everything.get("/api/v1/agents", headers={"token": "wrong"})
    assert is_as_printed(answer, 401, refusal(401, "Unauthorized", "Wrong token"))
    for _ in range(10):
        answer = await everything.get("/api/v1/agents", headers={"token": "wrong"})
    text = "Too many wrong tokens from this address: try again later"
    assert is_as_printed(answer, 429, refusal(429, "Too many requests", text))
    # Elsewhere it is told as it is told there.
    answer = await everything.get("/0.1/agents/1/status", headers={"token": "wrong"})
    assert (answer.status_code, answer.json()) == (429, {"error": text})


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", "/agents", "read"),
        ("GET", "/agents/1/pauses", "read"),
        ("POST", "/agents/1/pauses", "read"),
        ("POST", "/agents/1/pause", "control"),
        ("POST", "/agents/1/unpause", "control"),
        ("POST", "/agents/1/logoff", "control"),
        ("POST", "/agents", "configure"),
        ("PUT", "/agents/1", "configure"),
    ],
)
async def test_rights(house: House, method: str, path: str, right: str) -> None:
    tokens = {
        "less": {"token": TOKEN, "rights": [one for one in FULL if one != right]},
        "only": {"token": "another-token-of-it", "rights": [right]},
    }
    http = await house.open(tokens=tokens)
    answer = await http.request(method, f"/api/v1{path}", headers={"token": TOKEN})
    expected = refusal(403, "Forbidden", f"This needs the right '{right}'")
    assert is_as_printed(answer, 403, expected)
    headers = {"token": "another-token-of-it"}
    answer = await http.request(method, f"/api/v1{path}", headers=headers)
    assert answer.status_code not in (401, 403)


async def test_too_large(everything: httpx2.AsyncClient) -> None:
    answer = await everything.post("/api/v1/agents", content=b" " * 70_000)
    text = "The body is larger than 65536 bytes"
    assert is_as_printed(answer, 413, refusal(413, "Request entity too large", text))


@pytest.mark.parametrize(
    ("down", "method", "path", "body"),
    [
        ("agents", "GET", "/agents", ""),
        ("queue_ids", "GET", "/agents", ""),
        ("queue_pauses", "GET", "/agents", ""),
        ("agent", "GET", "/agents/1/pauses", ""),
        ("reasons", "GET", "/agents/1/pauses", ""),
        ("create", "POST", "/agents", json.dumps(NEW)),
        ("change", "PUT", "/agents/1", '{"name": "x"}'),
        ("agent_by_id", "PUT", "/agents/1", '{"name": "x"}'),
        ("queue_by_id", "PUT", "/agents/2", '{"queues": [2]}'),
        ("agent_by_id", "POST", "/agents/1/pause", '{"pause_id": 18}'),
        ("reasons", "POST", "/agents/1/pause", '{"pause_id": 18}'),
        ("begin", "POST", "/agents/1/pause", '{"pause_id": 18}'),
        ("begin", "POST", "/agents/1/unpause", ""),
        ("begin", "POST", "/agents/1/logoff", ""),
    ],
)
async def test_the_store_is_away(
    house: House, http: httpx2.AsyncClient, down: str, method: str, path: str, body: str
) -> None:
    await log_in(house)
    house.hall.store.down.add(down)
    answer = await http.request(method, f"/api/v1{path}", content=body)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["meta"] == {"status": 503, "message": "Service unavailable"}
    assert "disk" not in answer.text


@pytest.mark.parametrize("action", ["pause", "unpause", "logoff"])
async def test_asterisk_is_away(house: House, http: httpx2.AsyncClient, action: str) -> None:
    await log_in(house)
    house.hall.asterisk.linked = False
    answer = await act(http, action, {"pause_id": 18})
    text = "Asterisk or the database is away and nothing was changed: try again"
    assert is_as_printed(answer, 503, refusal(503, "Service unavailable", text))


async def test_a_failure_tells_nothing(house: House, everything: httpx2.AsyncClient) -> None:
    async def create(name: str, login: str, password: str, queues: Sequence[int]) -> int:
        raise RuntimeError("a secret")

    house.records.create = create  # type: ignore[method-assign]
    answer = await everything.post("/api/v1/agents", json=NEW)
    text = "Internal error: the log says more"
    assert is_as_printed(answer, 500, refusal(500, "Internal server error", text))
    assert [line[:2] for line in house.log.lines] == [("error", "a request failed")]


async def test_passwords_are_neither_shown_nor_logged(
    house: House, http: httpx2.AsyncClient
) -> None:
    secret = "hunter2-hunter2"
    answers = [
        await http.post("/api/v1/agents", json={**NEW, "password": secret}),
        await http.post("/api/v1/agents", json={**NEW, "password": secret}),  # is taken
        await http.post("/api/v1/agents", json={**NEW, "login": "x y", "password": secret}),
        await http.put("/api/v1/agents/1", json={"password": secret}),
        await http.put("/api/v1/agents/1", json={"password": secret, "queues": [99]}),
        await http.put("/api/v1/agents/1", json={"password": secret * 20}),
        await http.get("/api/v1/agents"),
    ]
    assert [answer.status_code for answer in answers] == [201, 400, 400, 200, 400, 400, 200]
    assert not any("hunter2" in answer.text for answer in answers)
    assert len(house.log.lines) == 2
    assert "hunter2" not in repr(house.log.lines)


# -- what it says of itself


async def test_openapi_shows_every_route(everything: httpx2.AsyncClient) -> None:
    document = (await everything.get("/openapi.json")).json()
    shown = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in document["paths"].items()
        if path.startswith("/api/v1/")
        for method in methods
    }
    assert shown == {
        ("GET", "/agents"),
        ("POST", "/agents"),
        *((method, "/agents/{agent_id}" + action) for method, action, _ in ONE),
    }
    for path, methods in document["paths"].items():
        if path.startswith("/api/v1/"):
            for operation in methods.values():
                assert {"401", "403", "413", "429", "503"} < operation["responses"].keys()
                assert "422" not in operation["responses"] or path.endswith("pause")


def test_times_of_other_zones_are_told_in_utc() -> None:
    there = datetime.fromisoformat("2026-11-22T09:00:00.5-03:00")
    assert _time(there) == "2026-11-22T12:00:00+00:00"
    assert _time(datetime(2026, 11, 22, 12, tzinfo=UTC)) == "2026-11-22T12:00:00+00:00"
