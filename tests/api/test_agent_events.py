"""Hooks over HTTP: what an integrator's program sends, and what it gets."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import structlog
from fastapi import FastAPI

from fastagi.agents.commands import LogIn
from fastagi.agents.devices import Device
from fastagi.agents.hooks import Attempt, Hook
from fastagi.agents.service import StoreUnavailable
from fastagi.api import agent_events
from fastagi.api.asgi import Dispatcher
from fastagi.api.context import Context
from fastagi.api.table import Table
from fastagi.config.settings import HttpSettings, Right
from fastagi.contract import EventType, Source
from tests.agents.memory import Hall, an_agent
from tests.api.conftest import MemoryHooks, MemoryTester, Reader, alone, context_of

BASE = "/client/12/agent/local/136/event/"
NEW = {
    "url": "https://somehost.com/fordel/show.php",
    "method": "GET",
    "event_type": "agent-login",
}


@dataclass
class House:
    """The face, with everything behind it in memory."""

    hall: Hall
    hooks: MemoryHooks
    tester: MemoryTester
    app: FastAPI
    http: httpx2.AsyncClient
    rights: frozenset[Right]

    async def made(self, path: str = BASE, **more: object) -> int:
        answer = await self.http.post(path, json={**NEW, **more})
        assert answer.status_code == 200, answer.text
        id: int = answer.json()["id"]
        return id


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(agent_events, "STORE_DEADLINE", 60.0)
    hall = Hall(replace(an_agent("1001"), id=136), replace(an_agent("1002"), id=137))
    hooks, tester = MemoryHooks(Reader(hall.store)), MemoryTester(hall.clock)
    context = context_of(
        service=hall.service,
        directory=hooks,
        hooks=hooks,
        tester=tester,
        log=structlog.get_logger(),
        http=HttpSettings(),
        version="0.0",
    )
    dispatcher = Dispatcher(context, Table([agent_events.INTERFACE], context.http))
    app = alone(dispatcher, lambda: SimpleNamespace(name="crm", rights=it.rights))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://agents", timeout=60
    ) as http:
        it = House(hall, hooks, tester, await dispatcher.framework(), http, frozenset(Right))
        yield it


def error(answer: httpx2.Response) -> str:
    """The text of an error, whose shape is always the same."""
    assert answer.status_code >= 400
    body = answer.json()
    assert list(body) == ["error"]
    text = body["error"]
    assert isinstance(text, str)
    return text


async def test_the_documents_example(house: House) -> None:
    answer = await house.http.post(BASE, json=NEW)
    assert answer.status_code == 200
    assert list(answer.json().items()) == [
        ("url", "https://somehost.com/fordel/show.php"),
        ("id", 150),
        ("method", "GET"),
        ("event_type", "agent-login"),
    ]
    assert house.hooks.hooks[150].content_type == "json"


@pytest.mark.parametrize("kind", ["local", "remote"])
@pytest.mark.parametrize("type", ["agent-login", "agent-logout", "agent-pause", "agent-unpause"])
async def test_made_read_changed_and_deleted(house: House, kind: str, type: str) -> None:
    base = f"/client/12/agent/{kind}/136/event/"
    made = (await house.http.post(base, json={**NEW, "event_type": type})).json()
    one = f"{base}{made['id']}"
    assert (await house.http.get(one)).json() == made
    assert (await house.http.get(base)).json() == [made]

    changed = await house.http.put(one, json={"url": "https://other.example/x"})
    assert changed.json() == {**made, "url": "https://other.example/x"}
    assert (await house.http.get(one)).json() == changed.json()

    gone = await house.http.delete(one)
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await house.http.get(base)).json() == []
    for again in (await house.http.get(one), await house.http.delete(one)):
        assert again.status_code == 404
        assert error(again) == "No such event"


async def test_with_and_without_the_slash_at_the_end(house: House) -> None:
    made = await house.http.post(BASE.rstrip("/"), json=NEW)
    assert made.status_code == 200
    assert (await house.http.get(BASE.rstrip("/"))).json() == [made.json()]
    for slash in ("", "/"):
        assert (await house.http.get(f"{BASE}150{slash}")).json() == made.json()
        same = await house.http.put(f"{BASE}150{slash}", json={"event_type": "agent-login"})
        assert same.json() == made.json()
    assert (await house.http.delete(f"{BASE}150/")).status_code == 204


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("", "POST, GET, HEAD"),
        ("150", "GET, HEAD, PUT, DELETE"),
        ("150/test", "POST"),
        ("150/deliveries", "GET, HEAD"),
        ("150/retry", "POST"),
    ],
)
async def test_other_methods(house: House, path: str, allow: str) -> None:
    await house.made()
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - set(
        allow.split(", ")
    ):
        for spelt in (BASE + path, (BASE + path).rstrip("/"), (BASE + path).rstrip("/") + "/"):
            answer = await house.http.request(method, spelt, json=NEW)
            assert answer.status_code == 405
            assert answer.headers["allow"] == allow
            assert method == "HEAD" or error(answer) == f"Only {allow} can be done here"
    assert len(house.hooks.hooks) == 1


@pytest.mark.parametrize(
    ("given", "stored"), [("get", "GET"), ("Post", "POST"), ("POST", "POST"), ("GET", "GET")]
)
async def test_a_method_in_any_case(house: House, given: str, stored: str) -> None:
    answer = await house.http.post(BASE, json={**NEW, "method": given})
    assert answer.json()["method"] == stored
    changed = await house.http.put(f"{BASE}150", json={"method": given.swapcase()})
    assert changed.json()["method"] == stored


async def test_content_type_is_shown_where_it_counts(house: House) -> None:
    answer = await house.http.post(BASE, json={**NEW, "method": "POST"})
    assert list(answer.json()) == ["url", "id", "method", "event_type", "content_type"]
    assert answer.json()["content_type"] == "json"
    form = await house.http.put(f"{BASE}150", json={"content_type": "form"})
    assert form.json()["content_type"] == "form"
    by_get = await house.http.put(f"{BASE}150", json={"method": "GET"})
    assert "content_type" not in by_get.json()
    back = await house.http.put(f"{BASE}150", json={"method": "POST"})
    assert back.json()["content_type"] == "form"


async def test_a_put_changes_what_it_gives_and_nothing_else(house: House) -> None:
    await house.made()
    before = house.hooks.hooks[150]
    nothing: list[dict[str, Any]] = [
        {"json": {}},
        {},
        {"json": {"url": None, "method": None}},
        {"json": {"id": 7, "client": "13", "agent_id": 137}},
    ]
    for body in nothing:
        answer = await house.http.put(f"{BASE}150", **body)
        assert answer.status_code == 200
        assert house.hooks.hooks == {150: before}


async def test_what_a_program_sends_beside_is_ignored(house: House) -> None:
    answer = await house.http.post(BASE, json={**NEW, "name": "mine", "id": 7, "active": True})
    assert answer.status_code == 200
    assert answer.json()["id"] == 150


async def test_a_hook_is_seen_under_its_client_kind_and_agent_alone(house: House) -> None:
    await house.made()
    others = [BASE.replace("12", "13"), BASE.replace("local", "remote"), BASE.replace("136", "137")]
    for base in others:
        assert (await house.http.get(base)).json() == []
        for answer in (
            await house.http.get(f"{base}150"),
            await house.http.put(f"{base}150", json={"method": "POST"}),
            await house.http.delete(f"{base}150"),
            await house.http.post(f"{base}150/test"),
            await house.http.get(f"{base}150/deliveries"),
            await house.http.post(f"{base}150/retry"),
        ):
            assert answer.status_code == 404
            assert error(answer) == "No such event"
    assert house.hooks.hooks[150].method == "GET"
    assert house.tester.sent == []


async def test_unknown_agents(house: House) -> None:
    base = "/client/12/agent/local/999/event/"
    for answer in (await house.http.post(base, json=NEW), await house.http.get(base)):
        assert answer.status_code == 404
        assert error(answer) == "No such agent"


async def test_an_agent_archived_between_counting_and_creating(house: House) -> None:
    def archived(*of: object) -> Any:
        async def nothing() -> None:
            return None

        return nothing()

    house.hooks.create = archived  # type: ignore[method-assign]
    answer = await house.http.post(BASE, json=NEW)
    assert (answer.status_code, error(answer)) == (404, "No such agent")


@pytest.mark.parametrize(
    ("wrong", "field", "why"),
    [
        ({"url": None}, "url", "an http or https URL"),
        ({"url": 7}, "url", "an http or https URL"),
        ({"url": "https://somehost.com/" + 1980 * "x"}, "url", "at most 2000"),
        ({"url": ""}, "url", "begins with http:// or https://"),
        ({"url": "somehost.com/show.php"}, "url", "begins with http:// or https://"),
        ({"url": "ftp://somehost.com/"}, "url", "begins with http:// or https://"),
        ({"url": "https://some host.com/"}, "url", "no valid name"),
        ({"url": "https://somehost.com/\r\nX: y"}, "url", "printable ASCII"),
        ({"url": "https://somehost.com/\x00"}, "url", "printable ASCII"),
        ({"url": "https://somehost.com/\ud800"}, "url", ""),
        ({"url": "https://me:secret@somehost.com/"}, "url", "a user or a password"),
        ({"url": "http://127.0.0.1:9493/"}, "url", "127.0.0.1 is not allowed"),
        ({"url": "http://0x7f.1/"}, "url", "127.0.0.1 is not allowed"),
        ({"url": "http://[fd00::1]/"}, "url", "fd00::1 is not allowed"),
        ({"method": "PUT"}, "method", "GET or POST"),
        ({"method": "GET\n"}, "method", "GET or POST"),
        ({"method": ["GET"]}, "method", "GET or POST"),
        ({"event_type": "queue-join"}, "event_type", "agent-login, agent-logout, agent-pause"),
        ({"event_type": "AGENT-LOGIN"}, "event_type", "one of"),
        ({"event_type": {}}, "event_type", "one of"),
        ({"content_type": "xml"}, "content_type", "json or form"),
    ],
)
async def test_a_wrong_field_is_named(
    house: House, wrong: dict[str, object], field: str, why: str
) -> None:
    await house.made()
    before = dict(house.hooks.hooks)
    # As Python writes it: half a character too, which the client would not send.
    send = {"headers": {"Content-Type": "application/json"}}
    answers = [await house.http.post(BASE, content=json.dumps({**NEW, **wrong}), **send)]
    if None not in wrong.values():  # null is nothing given, to a PUT
        answers.append(await house.http.put(f"{BASE}150", content=json.dumps(wrong), **send))
    for answer in answers:
        assert answer.status_code == 400
        text = error(answer)
        assert text.startswith(f"{field}: ")
        assert why in text
        assert "secret" not in text
    assert house.hooks.hooks == before


async def test_all_that_is_missing_is_named_at_once(house: House) -> None:
    answer = await house.http.post(BASE, json={"method": "PATCH"})
    assert answer.status_code == 400
    assert error(answer) == ("event_type: is missing; method: must be GET or POST; url: is missing")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "The body is no JSON: "),
        (b'{"url": "x",}', "The body is no JSON: "),
        (b"url=https://somehost.com/&method=GET", "The body is no JSON: "),
        (b"[1]", "The body must be a JSON object"),
        (b'"GET"', "The body must be a JSON object"),
        (b"null", "The body must be a JSON object"),
        (b"", "The body must be a JSON object"),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, ""),
    ],
)
async def test_bodies_that_are_none(house: House, body: bytes, why: str) -> None:
    answer = await house.http.post(BASE, content=body)
    assert answer.status_code == 400
    assert why in error(answer)
    assert house.hooks.hooks == {}


@pytest.mark.parametrize(
    "type", ["", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "nonsense"]
)
async def test_a_body_is_json_whatever_it_is_called(house: House, type: str) -> None:
    headers = {"Content-Type": type} if type else {}
    made = await house.http.post(BASE, content=json.dumps(NEW), headers=headers)
    assert made.json()["id"] == 150
    change = json.dumps({"event_type": "agent-logout"})
    changed = await house.http.put(f"{BASE}150", content=change, headers=headers)
    assert changed.json()["event_type"] == "agent-logout"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/client/1%202/agent/local/136/event/", "client_id: must be 1 to 64 letters"),
        (f"/client/{65 * 'x'}/agent/local/136/event/", "client_id: must be"),
        ("/client/12%0A/agent/local/136/event/", "client_id: must be"),
        ("/client/12/agent/mobile/136/event/", "kind: must be local or remote"),
        ("/client/12/agent/local/alice/event/", "agent_id: must be a whole number"),
        ("/client/12/agent/local/0/event/", "agent_id: must be a whole number"),
        (f"{BASE}0", "event_id: must be a whole number"),
        (f"{BASE}150/deliveries?limit=201", "limit: must be a whole number from 1 to 200"),
        (f"{BASE}150/deliveries?limit=all", "limit: must be a whole number from 1 to 200"),
    ],
)
async def test_wrong_paths_and_queries(house: House, path: str, why: str) -> None:
    await house.made()
    answer = await house.http.get(path)
    assert answer.status_code == 400
    assert why in error(answer)


async def test_names_of_clients(house: House) -> None:
    for client in ("12", "a", "acme.example@crm_1-b", 64 * "x"):
        base = f"/client/{client}/agent/local/136/event/"
        id = await house.made(base)
        assert house.hooks.hooks[id].client == client


async def test_a_hundred_are_enough(house: House) -> None:
    for _ in range(99):
        await house.made()
    answers = await asyncio.gather(*(house.http.post(BASE, json=NEW) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert "100 events already" in error(refused)
    assert len(house.hooks.hooks) == 100
    await house.made(BASE.replace("136", "137"))
    await house.http.delete(f"{BASE}150")
    await house.made()


async def test_two_changes_at_once_both_hold(house: House) -> None:
    await house.made()
    await asyncio.gather(
        house.http.put(f"{BASE}150", json={"method": "POST"}),
        house.http.put(f"{BASE}150", json={"event_type": "agent-pause"}),
        house.http.put(f"{BASE}150", json={"url": "https://other.example/"}),
    )
    assert (await house.http.get(f"{BASE}150")).json() == {
        "url": "https://other.example/",
        "id": 150,
        "method": "POST",
        "event_type": "agent-pause",
        "content_type": "json",
    }


async def test_rights(house: House) -> None:
    await house.made()
    writes = [("POST", BASE), ("PUT", f"{BASE}150"), ("DELETE", f"{BASE}150")]
    writes += [("POST", f"{BASE}150/test"), ("POST", f"{BASE}150/retry")]
    reads = [("GET", BASE), ("GET", f"{BASE}150"), ("GET", f"{BASE}150/deliveries")]
    house.rights = frozenset({Right.READ, Right.CONTROL})
    # A URL may hold a receiver's password: who may not write does not read either.
    for method, path in writes + reads:
        # A body that is wrong too: who may not write learns nothing of it.
        answer = await house.http.request(method, path, content=b"{")
        assert answer.status_code == 403
        assert error(answer) == "This needs the right 'configure'"
    house.rights = frozenset({Right.CONFIGURE})
    for method, path in reads:
        assert (await house.http.request(method, path)).status_code == 200
    assert len(house.hooks.hooks) == 1


# -- beyond the document


async def test_the_test_button_sends_an_example(house: House) -> None:
    await house.made(event_type="agent-login")
    answer = await house.http.post(f"{BASE}150/test")
    assert answer.status_code == 200
    assert answer.json() == {"status": 200, "error": "", "seconds": 0.041, "delivered": True}
    (hook, fields) = house.tester.sent[0]
    assert hook == house.hooks.hooks[150]
    assert fields == {
        "agent_status": "available",
        "agent_type": "local",
        "event_source": "api",
        "agent_id": "136",
        "extension_name": "1001",
    }


async def test_the_example_is_of_where_the_agent_is(house: House) -> None:
    await house.hall.service.execute(
        LogIn(
            id="c1",
            agent="1001",
            source=Source.PHONE,
            device=Device("1017", "phones", "PJSIP/1017", "PJSIP/1017"),
        )
    )
    pause = await house.made(event_type="agent-pause")
    await house.http.post(f"{BASE}{pause}/test")
    assert house.tester.sent[-1][1] == {
        "agent_status": "paused",
        "agent_type": "local",
        "event_source": "api",
        "agent_id": "136",
        "extension_name": "1017@phones",
        "pause_reason": "example",
    }
    remote = BASE.replace("local", "remote")
    logout = await house.made(remote, event_type="agent-logout")
    await house.http.post(f"{remote}{logout}/test")
    assert house.tester.sent[-1][1] == {
        "agent_status": "logged_out",
        "agent_type": "remote",
        "event_source": "api",
        "agent_id": "136",
        "agent_number": "0123456789",  # the agent is at a phone in the house: an example
    }


async def test_a_test_that_fails_says_so(house: House) -> None:
    await house.made()
    house.tester.status = None
    answer = await house.http.post(f"{BASE}150/test")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": None,
        "error": "no answer",
        "seconds": 0.041,
        "delivered": False,
    }


async def test_the_log_and_the_retry(house: House) -> None:
    await house.made()
    log = f"{BASE}150/deliveries"
    assert (await house.http.get(log)).json() == {"parked": 0, "deliveries": []}
    at = datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)
    house.hooks.attempts[150] = [
        Attempt("c2-1", EventType.LOGIN, at, 2, 500, "answered 500", 0.12345, "parked"),
        Attempt("c2-1", EventType.LOGIN, at, 1, None, "no answer in time", 10.0, "failed"),
    ]
    house.hooks.given_up[150] = 1
    assert (await house.http.get(log)).json() == {
        "parked": 1,
        "deliveries": [
            {
                "event_id": "c2-1",
                "event_type": "agent-login",
                "at": "2026-11-22T10:00:00.123+00:00",
                "attempt": 2,
                "status": 500,
                "error": "answered 500",
                "seconds": 0.123,
                "outcome": "parked",
            },
            {
                "event_id": "c2-1",
                "event_type": "agent-login",
                "at": "2026-11-22T10:00:00.123+00:00",
                "attempt": 1,
                "status": None,
                "error": "no answer in time",
                "seconds": 10.0,
                "outcome": "failed",
            },
        ],
    }
    assert len((await house.http.get(f"{log}?limit=1")).json()["deliveries"]) == 1
    assert (await house.http.post(f"{BASE}150/retry")).json() == {"retried": 1}
    assert (await house.http.post(f"{BASE}150/retry")).json() == {"retried": 0}


# -- trouble


async def test_a_store_that_is_away(house: House) -> None:
    await house.made()
    house.hooks.away = StoreUnavailable("/var/lib/fastagi/fastagi.db: disk I/O error")
    for method, path in (
        ("GET", BASE),
        ("POST", BASE),
        ("PUT", f"{BASE}150"),
        ("DELETE", f"{BASE}150"),
        ("POST", f"{BASE}150/test"),
        ("GET", f"{BASE}150/deliveries"),
    ):
        answer = await house.http.request(method, path, json=NEW)
        assert answer.status_code == 503
        assert error(answer) == "The database is away: try again"


async def test_a_store_that_gives_no_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_events, "STORE_DEADLINE", 0.05)
    house.hooks.slow = True
    answer = await house.http.get(BASE)
    assert (answer.status_code, error(answer)) == (503, "The database is away: try again")


async def test_deleted_while_it_is_changed(house: House) -> None:
    await house.made()

    async def too_late(hook: Hook) -> bool:
        return False

    house.hooks.update = too_late  # type: ignore[method-assign]
    answer = await house.http.put(f"{BASE}150", json={"method": "POST"})
    assert (answer.status_code, error(answer)) == (404, "No such event: it was deleted meanwhile")


# -- what OpenAPI tells


async def test_openapi(house: House) -> None:
    paths = house.app.openapi()["paths"]
    base = "/client/{client_id}/agent/{kind}/{agent_id}/event/"
    one = base + "{event_id}"
    assert {path: sorted(methods) for path, methods in paths.items()} == {
        base: ["get", "post"],
        one: ["delete", "get", "put"],
        one + "/test": ["post"],
        one + "/deliveries": ["get"],
        one + "/retry": ["post"],
    }
    schemas = house.app.openapi()["components"]["schemas"]
    assert schemas["NewAgentEvent"]["required"] == ["event_type", "method", "url"]
    assert "required" not in schemas["AgentEventChange"]
    assert list(schemas["AgentEvent"]["properties"])[:4] == ["url", "id", "method", "event_type"]
    assert schemas["AgentEvent"]["example"]["id"] == 150
    for methods in paths.values():
        for operation in methods.values():
            assert operation["summary"]
            assert {"400", "401", "403", "404", "503"} <= set(operation["responses"])
            assert "422" not in operation["responses"]
    assert "409" in paths[base]["post"]["responses"]


def test_the_doors_have_what_is_used_here() -> None:
    assert {"service", "directory", "hooks", "tester", "log"} <= set(Context.__slots__)
