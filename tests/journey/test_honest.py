"""No interface says more than is known, or that something is done which is only planned: with a
real Asterisk that is killed, real calls, and every interface asked at that moment."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.http import TOKEN, Answer, Curl
from tests.journey.parts import Desk, Service, until
from tests.journey.test_page import enter, seen
from tests.outbox.receivers import receiver, status
from tests.page.conftest import _chromium as _chromium
from tests.page.conftest import browser as browser
from tests.page.parts import Browser

pytestmark = pytest.mark.asterisk

MakeService = Callable[..., Service]

ALICE, BOB = "4001", "4002"
HERE = ["127.0.0.0/8", "0.0.0.0/8", "::1/128"]
CONFIGURES = "a-token-that-may-only-configure"
AGENTS = [
    {"id": 1, "number": ALICE, "name": "Alice Martin", "queues": ["sales", "support"]},
    {"id": 2, "number": BOB, "name": "Bob Keller", "queues": ["sales"]},
]


def office(make_service: MakeService, **more: Any) -> Service:
    http = {
        "tokens": {
            "desk": {"token": TOKEN, "rights": ["read", "control", "configure"]},
            "hooks": {"token": CONFIGURES, "rights": ["configure"]},
        },
        "agent_php": {"allow": ["127.0.0.1"]},
    }
    return make_service(agents=AGENTS, http=http, **more)


class Page:
    """What ``tests.journey.test_page`` knows of a service's page."""

    def __init__(self, service: Service) -> None:
        self.url = f"http://127.0.0.1:{service.http_port}/"


async def ask(service: Service, method: str, path: str, body: Any = None, *more: str) -> Answer:
    """Not from the loop that the phones are in."""
    sent = None if body is None else json.dumps(body)
    return await asyncio.to_thread(Curl(service.http_port), method, path, sent, *more)


async def get(service: Service, path: str) -> Any:
    answer = await ask(service, "GET", path)
    assert answer.status == 200, answer
    return answer.json


async def agents_by_state(service: Service) -> dict[str, int]:
    text = (await ask(service, "GET", "/metrics")).body
    lines = [line for line in text.splitlines() if line.startswith("fastagi_agents{")]
    return {line.split('"')[1]: int(float(line.split()[1])) for line in lines}


async def said_to_be_known(service: Service) -> set[Any]:
    """By each interface, of two agents who are logged in."""
    found: set[Any] = {one["known"] for one in await get(service, "/0.1/agents/all/statuses")}
    for path in ("/0.1/agents/1/status", f"/0.1/agents/by-number/{BOB}/status"):
        found.add((await get(service, path))["known"])
    found |= {one["known"] for one in (await get(service, "/live/agents"))["agents"]}
    found |= {one.get("known", True) for one in (await get(service, "/api/v1/agents"))["data"]}
    found |= {one["known"] for one in service.agents().values()}
    return found


async def test_asterisk_is_killed(
    make_service: MakeService, desk: Any, asterisk: Asterisk, browser: Browser
) -> None:
    service = office(make_service)
    alice: Desk = await desk("1001")
    bob: Desk = await desk("1003")
    await alice.dial(f"*31{ALICE}")
    await bob.dial(f"*31{BOB}")
    await bob.dial("*331")
    enter(browser, Page(service))  # type: ignore[arg-type]
    await seen(browser, lambda: browser.cell(BOB, "state") == "Paused", "what is so")
    assert await said_to_be_known(service) == {True}
    counts = {"logged_off": 0, "available": 1, "paused": 1, "unknown": 0}
    assert await agents_by_state(service) == counts

    asterisk.kill()
    await seen(browser, lambda: browser.text("#connection") == "Asterisk away", "the page in red")
    await seen(browser, lambda: browser.cell(ALICE, "state") == "Unknown\nwas available")
    assert browser.cell(BOB, "state") == "Unknown\nwas paused"
    assert browser.text("#banner").startswith("Not connected to Asterisk")
    browser.shot("real-asterisk-killed")
    assert await said_to_be_known(service) == {False}
    unknown = {"logged_off": 0, "available": 0, "paused": 0, "unknown": 2}
    assert await agents_by_state(service) == unknown
    table = service.fastagi("agents")
    assert "unknown (was available)" in table
    assert "unknown (was paused" in table
    # And nothing says that it is done, or need not be.
    for method, path, body in (
        ("POST", "/0.1/agents/1/unpause", None),
        ("POST", "/0.1/agents/1/logoff", None),
        ("POST", "/api/v1/agents/1/unpause", None),
        ("GET", f"/api/agent.php?command=unpause&agent={ALICE}", None),
        ("POST", f"/live/agents/{ALICE}/unpause", {}),
    ):
        assert (await ask(service, method, path, body)).status == 503, path

    asterisk.start()
    await until(lambda: service.agents()[ALICE]["known"])
    await seen(browser, lambda: browser.text("#connection") == "Live", "it is back")
    await seen(browser, lambda: browser.cell(BOB, "state") == "Paused", "and so is what is known")
    assert await said_to_be_known(service) == {True}
    assert await agents_by_state(service) == counts
    assert {"503" in complaint for complaint in browser.complaints()} <= {True}


async def test_the_service_is_killed(make_service: MakeService, desk: Any) -> None:
    """Then nobody keeps the store true, and the command that reads it says so."""
    service = office(make_service)
    alice: Desk = await desk("1001")
    await alice.dial(f"*31{ALICE}")
    assert service.agents()[ALICE]["known"] is True
    service.kill()
    agents = service.agents()
    assert (agents[ALICE]["status"], agents[ALICE]["known"]) == ("available", False)
    assert agents[BOB]["known"] is True  # logged off, on no Asterisk
    assert "unknown (was available)" in service.fastagi("agents")


async def test_what_is_only_planned(
    make_service: MakeService, desk: Any, asterisk: Asterisk, browser: Browser
) -> None:
    service = office(make_service, pause={"when_in_call": "after_call"})
    alice: Desk = await desk("1001")
    caller: Desk = await desk("1005")
    await alice.dial(f"*31{ALICE}")
    enter(browser, Page(service))  # type: ignore[arg-type]
    await caller.phone.dial("701")
    await alice.phone.wait_answered()
    await until(lambda: "(in call)" in asterisk.cli("queue show sales"))

    async def planned() -> set[str]:
        """What each interface says of her."""
        found = {(await get(service, "/0.1/agents/1/status"))["planned"]}
        (one, _) = await get(service, "/0.1/agents/all/statuses")
        (live,) = (await get(service, f"/live/agents?number={ALICE}"))["agents"]
        evolux = (await get(service, "/api/v1/agents"))["data"][0]
        found |= {one["planned"], live["planned"], evolux.get("planned", "")}
        return found | {service.agents()[ALICE]["planned"]}

    php = f"/api/agent.php?agent={ALICE}&command="
    assert (await get(service, php + "pause")) == {"success": "Pause OK", "planned": "pause"}
    assert await planned() == {"pause"}
    await seen(browser, lambda: "pauses after the call" in browser.cell(ALICE, "state"))
    assert (await get(service, php + "unpause")) == {"success": "Unpause OK"}
    assert await planned() == {""}
    answer = await ask(service, "POST", "/api/v1/agents/1/pause", {"pause_id": 1})
    assert answer.json == {"meta": {"status": 200, "message": "OK"}, "planned": "pause"}
    answer = await ask(service, "POST", "/0.1/agents/1/logoff")
    assert (answer.status, answer.headers["fastagi-planned"]) == (204, "log off")
    assert await planned() == {"log off"}
    assert (await get(service, php + "logoff")) == {"success": "Logoff OK", "planned": "log off"}
    await seen(browser, lambda: "logs off after the call" in browser.cell(ALICE, "state"))
    assert "(logs off after this call)" in service.fastagi("agents")
    assert service.events("agent-logout") == []  # an event tells of what has happened

    await caller.phone.hangup()
    await until(lambda: service.events("agent-logout"))
    assert await planned() == {""}
    answer = await ask(service, "POST", "/0.1/agents/1/logoff")
    assert (answer.status, answer.error) == (400, "Not logged")


async def test_hooks_do_not_ask_the_service_itself(make_service: MakeService, desk: Any) -> None:
    """A token that may make hooks, and nothing else, logs nobody off: neither at once nor through
    somebody on this machine who passes on what comes."""
    service = office(make_service, webhooks={"allow": HERE, "attempts": 1})
    alice: Desk = await desk("1001")
    curl = Curl(service.http_port, CONFIGURES)
    assert curl("POST", f"/0.1/agents/by-number/{ALICE}/logoff").status == 403
    events = "/client/evil/agent/local/1/event/"

    def wanted(host: str, port: int) -> str:
        url = f"http://{host}:{port}/api/agent.php?command=logoff&agent={ALICE}"
        return json.dumps({"event_type": "agent-login", "method": "GET", "url": url})

    for port in (service.http_port, service.port, service.asterisk.ami_port):
        for host in ("127.0.0.1", "localhost", "127.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"):
            answer = curl("POST", events, wanted(host, port))
            assert answer.status == 400, (host, port)
            assert answer.error == "url: the service itself is there: hooks are not sent to it"

    passed_on: list[int] = []

    async def proxy(request: Any, writer: asyncio.StreamWriter) -> bytes:
        """As a web server in front of the service does it, with all headers."""
        words = [w for k, v in request.headers.items() for w in ("-H", f"{k}: {v}")]
        answer = await asyncio.to_thread(
            Curl(service.http_port, None, ()), request.method, request.path, None, *words
        )
        passed_on.append(answer.status)
        return status(answer.status)

    async with receiver(proxy) as front:
        made = await asyncio.to_thread(curl, "POST", events, wanted("127.0.0.1", front.port))
        assert made.status == 200, made
        await alice.dial(f"*31{ALICE}")
        await until(lambda: passed_on)
        tried = await asyncio.to_thread(curl, "POST", f"{events}{made.json['id']}/test")
    assert passed_on == [403, 403]
    assert tried.json["delivered"] is False
    assert service.agents()[ALICE]["status"] == "available"
    assert service.events("agent-logout") == []
