"""The live page's files, what it is told and what its buttons do; without a browser."""

import asyncio
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from fastagi.agents.limits import PauseLimit, WhenExceeded
from fastagi.agents.records import AgentView
from fastagi.agents.service import StoreUnavailable
from fastagi.api import page, request
from fastagi.config.settings import LoginSettings, PauseSettings
from fastagi.contract import Source
from tests.agents.memory import BREAK, LUNCH, NOON, an_agent
from tests.api.conftest import House

TOKENS = {
    "wall": {"token": "w" * 32, "rights": ["read"]},
    "desk": {"token": "d" * 32, "rights": ["read", "control"]},
    "robot": {"token": "r" * 32, "rights": ["control"]},
}


@pytest.fixture
async def logged_in(house: House) -> House:
    await house.hall.do(house.hall.log_in("1001", "1001"))
    return house


# -- the files --------------------------------------------------------------------------------


async def test_the_files_need_no_token_and_hold_no_data(house: House) -> None:
    http = await house.open(tokens=TOKENS)
    for path, kind in {
        "/": "text/html; charset=utf-8",
        "/page/index.html": "text/html; charset=utf-8",
        "/page/page.js": "text/javascript; charset=utf-8",
        "/page/page.css": "text/css; charset=utf-8",
        "/page/icon.svg": "image/svg+xml",
    }.items():
        answer = await http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == page.POLICY
        etag = answer.headers["etag"]
        again = await http.get(path, headers={"If-None-Match": f'"other", W/{etag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        head = await http.head(path)
        assert (head.status_code, head.headers["etag"]) == (200, etag)
    assert (await http.get("/live/agents")).status_code == 401


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/nothing.js", "/page/..%2fpage.py", "/page/%2e%2e/page.py", "/page/page.py"],
)
async def test_nothing_else_is_a_file(http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_nothing_from_elsewhere_and_nothing_inline() -> None:
    html = (page.FOLDER / "index.html").read_text()
    for found in re.findall(r'(?:src|href)="([^"]*)"', html):
        assert found.startswith(("/page/", "#")), found
    for name in re.findall(r'"/page/([^"]*)"', html):
        assert (page.FOLDER / name).is_file()
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=|javascript:", html)
    for name in ("page.js", "page.css"):
        text = (page.FOLDER / name).read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert "@import" not in text
        assert "url(" not in text


# -- what is shown ----------------------------------------------------------------------------


async def test_an_agent(logged_in: House, http: httpx2.AsyncClient) -> None:
    hall = logged_in.hall
    await hall.do(hall.pause(BREAK))
    answer = await http.get("/live/agents")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-length"] == str(len(answer.content))
    told = answer.json()
    assert told["client"] == {"name": "local", "rights": ["configure", "control", "read"]}
    assert told["reasons"] == [{"code": "1", "name": "lunch"}, {"code": "2", "name": "break"}]
    assert told["seq"] == 2
    assert [agent["number"] for agent in told["agents"]] == ["1001", "1002"]
    assert told["agents"][0] == {
        "id": 1001,
        "number": "1001",
        "name": "Agent 1001",
        "status": "paused",
        "extension": "1001",
        "context": "phones",
        "device_type": "local",
        "asterisk": "",
        "since": NOON.isoformat(),
        "source": "api",
        "by": "",
        "queues": ["sales", "support", "billing"],
        "joined": ["sales", "support", "billing"],
        "paused_in": [],
        "pause_reason": "break",
        "paused_since": NOON.isoformat(),
        "pause_source": "api",
        "pause_by": "",
        "planned": "",
        "known": True,
    }
    assert told["links"] == {"store": True, "asterisks": {"": True}, "plans": 0}
    off = told["agents"][1]
    assert (off["status"], off["extension"], off["since"], off["source"]) == (
        "logged_off",
        "",
        None,
        None,
    )


async def test_some_agents(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/live/agents", params=[("number", "1002"), ("number", "9999")])
    assert [agent["number"] for agent in answer.json()["agents"]] == ["1002"]
    many = "&".join(f"number={n}" for n in range(page.AT_ONCE + 1))
    answer = await http.get(f"/live/agents?{many}")
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


async def test_nothing_new_is_not_sent_again(logged_in: House, http: httpx2.AsyncClient) -> None:
    first = await http.get("/live/agents")
    known = {"If-None-Match": first.headers["etag"]}
    assert (await http.get("/live/agents", headers=known)).status_code == 304
    await logged_in.hall.do(logged_in.hall.pause())
    assert (await http.get("/live/agents", headers=known)).status_code == 200


async def test_many_agents_are_one_document(house: House, http: httpx2.AsyncClient) -> None:
    count = 2 * page.CHUNK + 1
    house.hall.store.agents = {str(n): an_agent(str(n)) for n in range(10_000, 10_000 + count)}
    told = (await http.get("/live/agents")).json()
    assert [int(agent["number"]) for agent in told["agents"]] == [*range(10_000, 10_000 + count)]
    house.hall.store.agents = {}
    assert (await http.get("/live/agents")).json()["agents"] == []


async def test_the_number_is_of_before(logged_in: House, http: httpx2.AsyncClient) -> None:
    """What happens while the agents are read is told by the stream again, never missed."""
    order: list[str] = []
    agents, last = logged_in.reader.agents, logged_in.reader.last_seq

    def reading(numbers: Sequence[str] | None = None) -> Sequence[AgentView]:
        order.append("agents")
        return agents(numbers)

    def asking() -> int:
        order.append("number")
        return last()

    logged_in.reader.agents = reading  # type: ignore[method-assign]
    logged_in.reader.last_seq = asking  # type: ignore[method-assign]
    await http.get("/live/agents")
    assert order == ["number", "agents"]


async def test_the_loop_goes_on_meanwhile(house: House, http: httpx2.AsyncClient) -> None:
    """The store blocks; the phones do not wait for it."""
    go_on, agents = threading.Event(), house.reader.agents

    def slowly(numbers: Sequence[str] | None = None) -> Sequence[AgentView]:
        assert go_on.wait(20), "the loop stood still"
        return agents(numbers)

    house.reader.agents = slowly  # type: ignore[method-assign]
    asked = asyncio.create_task(http.get("/live/agents"))
    await house.hall.do(house.hall.log_in())
    go_on.set()
    assert (await asked).status_code == 200


async def test_many_who_ask_at_once(logged_in: House) -> None:
    """They share a reading of the store, though never one that began before they asked."""
    go_on, begun, agents = threading.Event(), threading.Event(), logged_in.reader.agents
    reads: list[int] = []

    def slowly(numbers: Sequence[str] | None = None) -> Sequence[AgentView]:
        reads.append(logged_in.reader.last_seq())
        begun.set()
        assert go_on.wait(20)
        return agents(numbers)

    logged_in.reader.agents = slowly  # type: ignore[method-assign]
    snapshots = page.Snapshots(logged_in.context())
    first = asyncio.create_task(snapshots.latest())
    await asyncio.to_thread(begun.wait, 20)
    await logged_in.hall.do(logged_in.hall.pause())
    others = [asyncio.create_task(snapshots.latest()) for _ in range(20)]
    await asyncio.sleep(0)  # all of them wait
    go_on.set()
    assert b'"seq":1,' in (await first).text
    assert all(b'"seq":2,' in snapshot.text for snapshot in await asyncio.gather(*others))
    assert reads == [1, 2]


async def test_the_last_events(logged_in: House, http: httpx2.AsyncClient) -> None:
    hall = logged_in.hall
    for _ in range(30):
        await hall.do(hall.pause(), hall.unpause())
    told = (await http.get("/live/events")).json()["events"]
    assert [event["seq"] for event in told] == [*range(12, 62)]
    assert told[-1] == {"seq": 61, **hall.events[-1].as_dict()}


async def test_the_store_is_away(house: House, http: httpx2.AsyncClient) -> None:
    house.hall.store.down = {"*"}
    for path in ("/live/agents", "/live/agents?number=1001", "/live/events"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()) == (503, {"error": page.STORE_AWAY})
    house.hall.store.down = {"agents"}
    assert (await http.get("/live/agents")).status_code == 503


async def test_a_store_that_gives_no_answer(
    house: House, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def never(numbers: Sequence[str] | None = None) -> Sequence[AgentView]:
        release.wait(20)
        raise StoreUnavailable("too late")

    house.reader.agents = never  # type: ignore[method-assign]
    monkeypatch.setattr(request, "STORE_DEADLINE", 0.05)
    try:
        for path in ("/live/agents", "/live/agents?number=1001"):
            assert (await http.get(path)).json() == {"error": page.STORE_AWAY}
    finally:
        release.set()


# -- the buttons ------------------------------------------------------------------------------


async def press(http: httpx2.AsyncClient, what: str, agent: str = "1001", **body: Any) -> Any:
    answer = await http.post(f"/live/agents/{agent}/{what}", json=body)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json()


async def test_the_buttons(logged_in: House) -> None:
    http = await logged_in.open("d" * 32, tokens=TOKENS)
    assert await press(http, "pause", reason="1") == (200, {"outcome": "PAUSED"})
    assert logged_in.hall.state.pause is not None
    assert logged_in.hall.state.pause.reason == LUNCH
    assert await press(http, "pause", reason="2") == (200, {"outcome": "PAUSE_REASON_CHANGED"})
    assert await press(http, "unpause") == (200, {"outcome": "UNPAUSED"})
    assert await press(http, "unpause") == (200, {"outcome": "NOT_PAUSED"})
    assert await press(http, "pause") == (200, {"outcome": "PAUSED"})  # for no reason
    assert await press(http, "logoff") == (200, {"outcome": "LOGGED_OFF"})
    said = {(event.source, event.actor.name) for event in logged_in.hall.events[1:]}
    assert said == {(Source.API, "desk")}
    logged_in.hall.all_well()


async def test_in_a_call(logged_in: House, http: httpx2.AsyncClient) -> None:
    logged_in.hall.asterisk.calls.add("pjsip/1001")
    logged_in.pause = PauseSettings.model_validate({"when_in_call": "after_call"})
    assert await press(http, "pause", reason="1") == (200, {"outcome": "PAUSE_AFTER_CALL"})
    assert await press(http, "logoff") == (200, {"outcome": "LOGOFF_AFTER_CALL"})
    await press(http, "unpause")
    logged_in.login = LoginSettings.model_validate({"logoff_in_call": "refuse"})
    status, told = await press(http, "logoff")
    assert (status, "in a queue call" in told["error"]) == (409, True)


async def test_refused(logged_in: House, http: httpx2.AsyncClient) -> None:
    hall = logged_in.hall
    for what in ("pause", "unpause", "logoff"):
        assert await press(http, what, "9999") == (404, {"error": "There is no agent 9999."})
        assert await press(http, what, "1002") == (409, {"error": "Agent 1002 is not logged in."})
    assert await press(http, "pause", reason="77") == (
        409,
        {"error": "There is no such pause reason."},
    )
    hall.store.known_limits[LUNCH.code] = PauseLimit(
        None, timedelta(seconds=1), WhenExceeded.UNPAUSE
    )
    hall.store.ended_pauses.append(("1001", LUNCH.code, NOON - timedelta(minutes=5), NOON))
    status, told = await press(http, "pause", reason="1")
    assert (status, "used up" in told["error"]) == (409, True)
    hall.asterisk.refuses = lambda _: True
    status, told = await press(http, "pause", reason="2")
    assert (status, "Asterisk refused it" in told["error"]) == (409, True)
    hall.asterisk.linked = False
    for what in ("pause", "logoff"):
        status, told = await press(http, what)
        assert (status, "Try again" in told["error"]) == (503, True)
    hall.store.down = {"*"}
    assert (await press(http, "pause", reason="1"))[0] == 503
    assert hall.state.pause is None


async def test_it_may_have_happened(logged_in: House, http: httpx2.AsyncClient) -> None:
    logged_in.hall.asterisk.answers_left = 0
    assert await press(http, "pause", reason="1") == (503, {"error": page.UNSETTLED})


@pytest.mark.parametrize("body", [b"{", b"[1]", b"1", b'"1"', b"\xff"])
async def test_no_object(logged_in: House, http: httpx2.AsyncClient, body: bytes) -> None:
    kind = {"Content-Type": "application/json"}
    answer = await http.post("/live/agents/1001/pause", content=body, headers=kind)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert logged_in.hall.state.pause is None


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("what", ["pause", "unpause", "logoff"])
async def test_what_pages_of_other_sites_can_send(
    logged_in: House, http: httpx2.AsyncClient, what: str, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    body = json.dumps({"reason": "1"}).encode()
    answer = await http.post(f"/live/agents/1001/{what}", content=body, headers=headers)
    assert answer.status_code == 415
    assert len(logged_in.hall.events) == 1


async def test_rights(logged_in: House) -> None:
    app = logged_in.application(tokens=TOKENS)
    wall = await logged_in.open("w" * 32, app=app)
    robot = await logged_in.open("r" * 32, app=app)
    assert (await wall.get("/live/agents")).json()["client"] == {"name": "wall", "rights": ["read"]}
    for what in ("pause", "unpause", "logoff"):
        assert await press(wall, what) == (403, {"error": "wall has no right to control."})
    for path in ("/live/agents", "/live/events"):
        answer = await robot.get(path)
        assert (answer.status_code, answer.json()) == (
            403,
            {"error": "robot has no right to read."},
        )
    assert len(logged_in.hall.events) == 1


async def test_names_are_passed_on_as_they_are(house: House, http: httpx2.AsyncClient) -> None:
    name = "<img src=x onerror=alert(1)> \"'&\u2028"
    house.hall.store.agents["1001"] = replace(an_agent("1001"), name=name)
    answer = await http.get("/live/agents")
    assert answer.json()["agents"][0]["name"] == name
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
