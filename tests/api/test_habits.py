"""What clients of these systems send, whatever the documents say: other spellings of the same."""

import json
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from fastagi.agents.commands import PauseReason
from fastagi.agents.limits import QueuePause
from tests.api.conftest import House, Reason

DESCRIBED = PauseReason("3", "reuniao", "Reunião de equipe, às 15h")
LOGIN = {"extension": "1001", "context": "phones"}
HOOK = {"event_type": "agent-login", "method": "GET", "url": "https://somehost.com/x"}


@pytest.fixture
async def http(house: House) -> httpx2.AsyncClient:
    """Agent 1001 is logged in; there is a hook of hers, and a reason with a description."""
    house.hall.store.known_reasons += (DESCRIBED,)
    house.records.all_reasons.append(Reason(20, *_of(DESCRIBED)))
    client = await house.open(agent_php={"allow": ["127.0.0.1"]})
    assert (await client.post("/0.1/agents/1001/login", json=LOGIN)).status_code == 204
    made = await client.post("/client/12/agent/local/1001/event/", json=HOOK)
    assert made.json()["id"] == 150
    return client


def _of(reason: PauseReason) -> tuple[str, str, str]:
    return reason.code, reason.name, reason.description


IDS = {"client_id": "12", "kind": "local", "agent_id": "1001", "event_id": "150"}
IDS |= {"agent_number": "1001"}


async def routes(http: httpx2.AsyncClient, method: str) -> list[str]:
    """The documented paths with this method, of what is there."""
    paths = (await http.get("/openapi.json")).json()["paths"]
    found = [path.format(**IDS) for path, operations in paths.items() if method in operations]
    assert len(found) >= 2
    return found


MORE = ["/", "/page/page.js", "/live/agents", "/live/events", "/live/links", "/docs"]


# -- HEAD


async def test_every_get_answers_a_head(house: House, http: httpx2.AsyncClient) -> None:
    for path in [*await routes(http, "get"), *MORE, "/openapi.json"]:
        if path in ("/api/agent.php", "/events"):
            continue
        get, head = await http.get(path), await http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        for name in ("content-type", "content-length", "etag"):
            assert head.headers.get(name) == get.headers.get(name), (path, name)


async def test_the_head_of_the_endless_stream_ends(http: httpx2.AsyncClient) -> None:
    answer = await http.head("/events?after=0")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (await http.head("/events?agent=nobody")).status_code == 400


async def test_a_head_changes_nothing(house: House, http: httpx2.AsyncClient) -> None:
    """agent.php's GET does something: a HEAD of it is none."""
    answer = await http.head("/api/agent.php?command=logoff&agent=1001")
    assert answer.status_code == 405
    assert house.hall.state.session is not None


# -- the slash at the end


async def test_with_a_slash_at_the_end(http: httpx2.AsyncClient) -> None:
    for method in ("get", "post", "put", "delete"):
        for path in await routes(http, method):
            if path == "/events" or (method == "delete" and path.endswith("/150")):
                continue  # one never ends, the other is gone when asked again
            bare = path.rstrip("/")
            # What is asked makes no sense, so that the second answer is as the first.
            body = b"{" if method != "get" else None
            answers = [await http.request(method, p, content=body) for p in (bare, bare + "/")]
            one, other = answers
            assert one.status_code < 500, bare
            assert (one.status_code, one.content) == (other.status_code, other.content), bare


async def test_a_slash_at_the_end_loses_no_body(house: House, http: httpx2.AsyncClient) -> None:
    assert (await http.post("/0.1/agents/1001/pause/", json={"reason": "lunch"})).status_code == 204
    assert house.hall.state.pause is not None
    assert house.hall.state.pause.reason.name == "lunch"
    assert (await http.post("/api/v1/agents/1001/unpause/")).status_code == 200
    answer = await http.post("/api/agent.php/", data={"command": "logoff", "agent": "1001"})
    assert answer.json() == {"success": "Logoff OK"}


# -- numbers and strings


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/0.1/agents/1002/login", {"extension": 1002, "context": "phones"}),
        ("POST", "/0.1/agents/1001/pause", {"reason": 1}),
        ("POST", "/0.1/members", {"agent_id": "1002", "queue_id": "2"}),
        ("DELETE", "/0.1/members", {"agent_id": "1001", "queue_id": "2"}),
        ("POST", "/api/v1/agents/1001/pause", {"pause_id": "18"}),
        ("POST", "/api/v1/agents/1001/pause", {"pause_id": 18.0}),
        ("POST", "/api/v1/agents", {"name": 5, "login": 7001, "password": 4321}),
        ("PUT", "/api/v1/agents/1001", {"levels": [{"queue_id": "1", "priority": "3"}]}),
        ("POST", "/live/agents/1001/pause", {"reason": 1}),
    ],
)
async def test_numbers_as_strings_and_strings_as_numbers(
    house: House, http: httpx2.AsyncClient, method: str, path: str, body: dict[str, Any]
) -> None:
    before = dict(house.hall.store.agents)
    answer = await http.request(method, path, json=body)
    assert answer.is_success, answer.text
    assert house.hall.store.agents != before


# -- the body of a DELETE


async def test_a_delete_whose_body_was_dropped(house: House, http: httpx2.AsyncClient) -> None:
    answer = await http.delete("/0.1/members", params={"agent_id": 1001, "queue_id": 2})
    assert answer.status_code == 204
    assert "pjsip/1001" not in house.hall.asterisk.queues["support"]
    # What is in a body goes first.
    body = {"agent_id": 1001, "queue_id": 3}
    answer = await http.request("DELETE", "/0.1/members?agent_id=1001&queue_id=1", json=body)
    assert answer.status_code == 204
    assert [m.queue for m in house.hall.state.memberships] == ["sales"]
    answer = await http.delete("/0.1/members?agent_id=1001")
    assert (answer.status_code, answer.json()) == (400, {"error": "queue_id: is missing"})


async def test_a_post_takes_nothing_from_its_query(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/0.1/members?agent_id=1002&queue_id=2")
    assert (answer.status_code, answer.json()) == (400, {"error": "agent_id: is missing"})


# -- ids that nobody has


@pytest.mark.parametrize("id", [2**31, 2**32 + 1001, 2**63 - 1, 2**63, 2**64 - 1, 10**19])
async def test_ids_beyond_what_there_is(http: httpx2.AsyncClient, id: int) -> None:
    for method in ("get", "post", "put", "delete"):
        for path in (await http.get("/openapi.json")).json()["paths"]:
            if "{agent_id}" not in path:
                continue
            answer = await http.request(
                method, path.format(**IDS | {"agent_id": str(id)}), json=HOOK | LOGIN
            )
            assert answer.status_code in (404, 405), (method, path)
    answer = await http.post("/0.1/members", json={"agent_id": id, "queue_id": 1})
    assert (answer.status_code, answer.json()) == (400, {"error": "No such agent"})
    answer = await http.post("/0.1/members", json={"agent_id": 1001, "queue_id": id})
    assert (answer.status_code, answer.json()) == (400, {"error": "No such queue"})
    answer = await http.post("/api/v1/agents/1001/pause", json={"pause_id": id})
    assert answer.status_code == 404


@pytest.mark.parametrize("id", [2**63, 2**64, 10**30])
async def test_hooks_beyond_what_there_is(http: httpx2.AsyncClient, id: int) -> None:
    path = f"/client/12/agent/local/1001/event/{id}"
    for method, more in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/deliveries")):
        answer = await http.request(method, path + more, json={})
        assert (answer.status_code, answer.json()) == (404, {"error": "No such event"})


@pytest.mark.parametrize("number", ["\0", "1001\0", "é", "１００１", "x" * 1000])
async def test_numbers_that_nobody_can_have(http: httpx2.AsyncClient, number: str) -> None:
    answer = await http.get(f"/live/agents?number={quote(number)}")
    assert (answer.status_code, answer.json()["agents"]) == (200, [])
    answer = await http.post(f"/live/agents/{quote(number)}/pause", json={})
    assert answer.status_code == 404


# -- bodies


EMPTY = [b"", b" \r\n", b"null", b"[]", b"{}"]


@pytest.mark.parametrize("body", EMPTY)
@pytest.mark.parametrize(
    "path",
    [
        "/0.1/agents/1001/pause",
        "/0.1/agents/1001/logoff",
        "/0.1/agents/all/relog",
        "/api/v1/agents/1001/logoff",
        "/live/agents/1001/pause",
        "/live/agents/1001/logoff",
    ],
)
async def test_bodies_with_nothing_in_them(
    http: httpx2.AsyncClient, path: str, body: bytes
) -> None:
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    assert (await http.post(path, content=body, headers=headers)).is_success


@pytest.mark.parametrize("body", EMPTY)
async def test_changes_with_nothing_in_them(http: httpx2.AsyncClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("/api/v1/agents/1001", "/client/12/agent/local/1001/event/150"):
        assert (await http.put(path, content=body, headers=headers)).is_success


ACCENTS = {"reason": DESCRIBED.description}


@pytest.mark.parametrize(
    ("encoding", "kind"),
    [
        ("utf-8", "application/json"),
        ("utf-8-sig", "application/json"),
        ("utf-8-sig", 'application/json; charset="UTF-8"'),
        ("utf-16", "application/json"),
        ("utf-16", "application/json; charset=utf-16"),
        ("utf-32", "application/json"),
        ("latin-1", "application/json; charset=ISO-8859-1"),
        ("cp1252", "application/json;charset=windows-1252"),
    ],
)
@pytest.mark.parametrize("path", ["/0.1/agents/1001/pause", "/live/agents/1001/pause"])
async def test_other_encodings_of_json(
    house: House, http: httpx2.AsyncClient, encoding: str, kind: str, path: str
) -> None:
    body = json.dumps(ACCENTS, ensure_ascii=False).encode(encoding)
    answer = await http.post(path, content=body, headers={"Content-Type": kind})
    assert answer.is_success, answer.text
    assert house.hall.state.pause is not None
    assert house.hall.state.pause.reason == DESCRIBED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_other_encodings_for_the_other_faces(
    house: House, http: httpx2.AsyncClient, encoding: str
) -> None:
    new = json.dumps({"name": "João", "login": "j", "password": "p"}, ensure_ascii=False)
    answer = await http.post("/api/v1/agents", content=new.encode(encoding))
    assert answer.json()["data"]["name"] == "João"
    hook = json.dumps(HOOK).encode(encoding)
    answer = await http.post("/client/12/agent/local/1001/event/", content=hook)
    assert answer.json()["url"] == HOOK["url"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"reason": "\xe9"}', "application/json"),
        (b'{"reason": "\xe9"}', "application/json; charset=unicode_escape"),
        (b'{"reason": "\xe9"}', "application/json; charset=zlib"),
        (b'{"reason": "\xe9"}', f"application/json; charset={'x' * 5000}"),
        (b'\xff\xfe{"', "application/json"),
        (b'\xef\xbb\xbf\xef\xbb\xbf{"reason": "1"}', "application/json"),
    ],
)
async def test_what_is_in_no_known_encoding(
    http: httpx2.AsyncClient, body: bytes, kind: str
) -> None:
    for path in ("/0.1/agents/1001/pause", "/api/v1/agents/1001/pause", "/live/agents/1001/pause"):
        answer = await http.post(path, content=body, headers={"Content-Type": kind})
        assert answer.status_code == 400, path


# -- pause reasons


@pytest.fixture(
    params=["agentd", "evolux", "agent.php", "page"],
)
async def pausing(request: pytest.FixtureRequest, http: httpx2.AsyncClient) -> Any:
    """Pauses agent 1001 for what is written there, by each interface."""

    async def pause(reason: str) -> httpx2.Response:
        match request.param:
            case "agentd":
                return await http.post("/0.1/agents/1001/pause", json={"reason": reason})
            case "evolux":
                return await http.post("/api/v1/agents/1001/pause", json={"pause_id": reason})
            case "agent.php":
                given = {"command": "pause", "agent": "1001", "reason": reason}
                return await http.get("/api/agent.php", params=given)
        return await http.post("/live/agents/1001/pause", json={"reason": reason})

    return pause


@pytest.mark.parametrize(
    "written",
    [
        "reuniao",
        "REUNIÃO",
        "Reunião de equipe, às 15h",
        "REUNIAO DE EQUIPE, AS 15H",
        "  reunia\u0303o  de equipe, a\u0300s 15h ",
    ],
)
async def test_a_reason_by_any_of_its_names(house: House, pausing: Any, written: str) -> None:
    """One that is known is never taken for a new one, which no limit would hold."""
    answer = await pausing(written)
    assert answer.is_success, answer.text
    assert "error" not in answer.json() if answer.content else True
    assert house.hall.state.pause is not None
    assert house.hall.state.pause.reason == DESCRIBED
    assert house.hall.asterisk.queues["sales"]["pjsip/1001"].reason == "reuniao"


async def test_a_known_reason_in_latin_1(house: House, http: httpx2.AsyncClient) -> None:
    """As old programs percent-encode it; what is no known one is refused as ever."""
    query = "command=pause&agent=1001&reason=REUNI%C3O"
    assert (await http.get(f"/api/agent.php?{query}")).json() == {"success": "Pause OK"}
    assert house.hall.state.pause is not None
    assert house.hall.state.pause.reason == DESCRIBED
    query = "command=pause&agent=1001&reason=almo%E7o"
    assert (await http.get(f"/api/agent.php?{query}")).status_code == 400
    body = b"command=unpause&agent=1001"
    kind = {"Content-Type": "application/x-www-form-urlencoded; charset=ISO-8859-1"}
    answer = await http.post("/api/agent.php", content=body, headers=kind)
    assert answer.json() == {"success": "Unpause OK"}
    body = b"\xef\xbb\xbfcommand=pause&agent=1001&reason=almo%E7o"
    answer = await http.post("/api/agent.php", content=body, headers=kind)
    assert answer.json() == {"success": "Pause OK"}
    assert house.hall.state.pause.reason.name == "almoço"


async def test_a_locked_pause_is_said_in_the_documents_words(
    house: House, http: httpx2.AsyncClient
) -> None:
    locked = QueuePause(timedelta(minutes=30), disable_unpause=True)
    house.hall.store.known_queue_pauses = {("sales", "1"): locked}
    pause = {"command": "pause", "agent": "1001", "reason": "Lunch"}
    assert (await http.get("/api/agent.php", params=pause)).json() == {"success": "Pause OK"}
    answer = await http.get("/api/agent.php", params={"command": "unpause", "agent": "1001"})
    assert answer.status_code == 200
    assert answer.json() == {
        "error": "Agent alredy paused",
        "detail": "This pause cannot be ended before its time",
    }
    assert house.hall.state.pause is not None
