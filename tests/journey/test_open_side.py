"""Programs, phones and Asterisk together: the interfaces of other systems, as their documents have
them, sent with curl to the service; what becomes of it in Asterisk's queues and at the phones."""

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk, free_port
from tests.journey.http import TOKEN, Answer, Curl, table
from tests.journey.parts import Desk, Peer, Service, until
from tests.journey.test_sinks import lamps, rows

pytestmark = [
    pytest.mark.asterisk,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # pyst2's use of threading
]

MakeService = Callable[..., Service]


def talking(asterisk: Asterisk, queue: str = "sales") -> list[str]:
    """Who is in a queue call."""
    shown = asterisk.cli(f"queue show {queue}").splitlines()
    return [line.split("(")[1].split(")")[0] for line in shown if "(in call)" in line]


READER, WRITER = "a-token-that-may-only-read-here", "a-token-that-may-also-control"
HTTP: dict[str, Any] = {
    "tokens": {
        "crm": {"token": TOKEN, "rights": ["read", "control", "configure"]},
        "wallboard": {"token": READER, "rights": ["read"]},
        "dialler": WRITER,
    }
}
# The ids, numbers, extensions and the context are those that the documents' examples have.
OFFICE: dict[str, Any] = {
    "http": HTTP,
    "queues": [
        {"id": 15, "number": "701", "name": "sales"},
        {"id": 16, "number": "702", "name": "support"},
        {"id": 17, "number": "703", "name": "billing"},
    ],
    "agents": [
        {"id": 5, "number": "4005", "name": "Eve", "queues": ["support"]},
        {
            "id": 54,
            "number": "2312",
            "name": "Alice Martin",
            "queues": ["sales", {"name": "support", "penalty": 2}],
        },
        {"id": 55, "number": "2313", "name": "Bob Keller", "queues": ["sales"]},
        {"id": 136, "number": "4006", "name": "Fanny", "queues": ["billing"]},
    ],
    "devices": [
        {"match": "2312", "context": "office-1", "interface": "PJSIP/1001"},
        {"match": "43563", "context": "office-1", "interface": "PJSIP/1003"},
        {"match": "10XX", "context": "phones", "interface": "PJSIP/{extension}"},
    ],
    "unplugged": None,
}


@pytest.fixture
def office(make_service: MakeService) -> Service:
    return make_service(**OFFICE)


LOGIN = '{\n    "extension": "2312",\n    "context": "office-1"\n}'
MEMBER = '{\n    "agent_id": 5,\n    "queue_id": 15\n}'
FREE = {"sales": set(), "support": set(), "billing": set()}
ALICE = FREE | {"sales": {"PJSIP/1001"}, "support": {"PJSIP/1001"}}
BOB = FREE | {"sales": {"PJSIP/1001"}}


def test_every_example_of_the_first_document(office: Service) -> None:
    """XiVO agentd's, in an order in which each can succeed."""
    curl = Curl(office.http_port)
    paused = FREE | {"sales": {"PJSIP/1001 paused:"}}
    eve = ALICE | {"support": {"PJSIP/1001", "PJSIP/1002"}, "sales": {"PJSIP/1001", "PJSIP/1002"}}
    shown: list[tuple[str, str, str]] = []

    def asks(method: str, path: str, body: str | None, queues: dict[str, set[str]]) -> None:
        answer = curl(method, path, body)
        now = office.members()
        there = " ".join(f"{name}={'+'.join(sorted(who))}" for name, who in now.items() if who)
        shown.append((f"{method} {path}", "204 OK", f"{answer} [{there}]"))
        assert (answer.status, answer.body) == (204, "")
        assert now == queues

    try:
        asks("POST", "/0.1/members", MEMBER, FREE)
        asks("DELETE", "/0.1/members", MEMBER, FREE)
        asks("POST", "/0.1/agents/54/login", LOGIN, ALICE)
        assert "with penalty 2" in office.asterisk.cli("queue show support")
        asks("POST", "/0.1/agents/54/logoff", None, FREE)
        asks("POST", "/0.1/agents/by-number/2313/login", LOGIN, BOB)
        asks("POST", "/0.1/agents/by-number/2313/pause", None, paused)
        asks("POST", "/0.1/agents/by-number/2313/unpause", None, BOB)
        asks("POST", "/0.1/agents/by-number/2313/logoff", None, FREE)
        # Whoever is logged in is at once in the queue and out of it again.
        asks("POST", "/0.1/agents/54/login", LOGIN, ALICE)
        assert curl("POST", "/0.1/agents/5/login", '{"extension": "1002"}').status == 204
        asks("POST", "/0.1/members", MEMBER, eve)
        asks("POST", "/0.1/agents/all/relog", None, eve)
        asks("DELETE", "/0.1/members", MEMBER, eve | {"sales": {"PJSIP/1001"}})
        asks("POST", "/0.1/agents/all/logoff", None, FREE)
    finally:
        table("seed 0: the document's answer -> ours [queues in Asterisk]", *shown)

    elsewhere = '{"extension": "43563", "context": "office-1"}'
    assert curl("POST", "/0.1/agents/54/login", elsewhere).status == 204
    document = {"id": 54, "number": "2312", "logged": True}
    document |= {"extension": "43563", "context": "office-1"}
    queue = {"logged": True, "paused": False}
    ours = document | {
        "paused": False,
        "paused_reason": None,
        "planned": "",
        "known": True,
        "queues": [{"id": 15, "name": "sales"} | queue, {"id": 16, "name": "support"} | queue],
    }
    statuses = []
    for path in ("/0.1/agents/54/status", "/0.1/agents/by-number/2312/status"):
        answer = curl("GET", path)
        statuses.append((f"GET {path}", f"200 OK {json.dumps(document)}", str(answer)))
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json == ours
        assert list(answer.json)[:5] == list(document)
    answer = curl("GET", "/0.1/agents/all/statuses")
    wanted = [document, {"id": 55, "logged": False}]
    statuses.append(("GET /0.1/agents/all/statuses", json.dumps(wanted), str(answer)))
    table("seed 0: the document's answer -> ours", *statuses)
    assert answer.status == 200
    told = {one["id"]: one for one in answer.json}
    assert set(told) == {5, 54, 55, 136}
    assert told[54] == ours
    assert {"id": 55, "logged": False}.items() <= told[55].items()
    assert "extension" not in told[55]
    told_of = [(e["type"], e["agent"], e["source"], e["actor"]) for e in office.events()]
    assert told_of[0] == ("agent-login", "2312", "api", {"name": "crm"})
    assert {source for _, _, source, _ in told_of} == {"api"}
    assert not {type for type, *_ in told_of} & {"login-refused"}


def test_every_error_of_the_first_document(office: Service) -> None:
    curl = Curl(office.http_port)
    shown: list[tuple[str, str, str]] = []

    def refused(
        method: str, path: str, body: str | None, status: int, text: str | re.Pattern[str]
    ) -> None:
        answer = curl(method, path, body)
        what = text if isinstance(text, str) else text.pattern
        sent = "" if body is None else " ".join(body.split())
        shown.append((f"{method} {path} {sent}", f"{status} {what}", str(answer)))
        assert answer.status == status
        assert re.fullmatch(text, answer.error) if not isinstance(text, str) else True
        assert not isinstance(text, str) or answer.error == text

    def member(agent: int, queue: int) -> str:
        return json.dumps({"agent_id": agent, "queue_id": queue})

    try:
        for method in ("POST", "DELETE"):
            refused(method, "/0.1/members", member(999, 15), 400, "No such agent")
            refused(method, "/0.1/members", member(5, 999), 400, "No such queue")
        refused("POST", "/0.1/members", member(5, 16), 400, "Agent already in queue")
        refused("DELETE", "/0.1/members", member(5, 15), 400, "Agent not in queue")
        for who, nobody in (("54", "999"), ("by-number/2312", "by-number/999")):
            refused("POST", f"/0.1/agents/{nobody}/login", LOGIN, 404, "No such agent")
            refused("POST", f"/0.1/agents/{nobody}/logoff", None, 404, "No such agent")
            refused("GET", f"/0.1/agents/{nobody}/status", None, 404, "No such agent")
            refused("POST", f"/0.1/agents/{who}/logoff", None, 400, "Not logged")
        for action in ("pause", "unpause"):
            refused("POST", f"/0.1/agents/by-number/999/{action}", None, 404, "No such agent")
            refused("POST", f"/0.1/agents/by-number/2312/{action}", None, 400, "Not logged")

        # where the document is silent
        assert curl("POST", "/0.1/agents/54/login", LOGIN).status == 204
        refused("POST", "/0.1/agents/55/login", LOGIN, 409, "Extension is in use by agent 2312")
        elsewhere = '{"extension": "1002", "context": "phones"}'
        already = "Agent is already logged in at 2312"
        refused("POST", "/0.1/agents/54/login", elsewhere, 409, already)
        refused("POST", "/0.1/agents/by-number/2312/login", elsewhere, 409, already)
        nowhere = '{"extension": "7777", "context": "office-1"}'
        refused("POST", "/0.1/agents/55/login", nowhere, 400, "No such extension")
        reason = '{"reason": "siesta"}'
        pause = "/0.1/agents/by-number/2312/pause"
        refused("POST", pause, reason, 400, "No such pause reason")

        # what is no request at all
        invalid = re.compile("The body is no valid JSON: .*")
        refused("POST", "/0.1/agents/55/login", '{"extension": "23', 400, invalid)
        refused("POST", "/0.1/agents/55/login", '["2312"]', 400, "The body must be a JSON object")
        refused("POST", "/0.1/agents/55/login", "{}", 400, "extension: is missing")
        yes = '{"extension": true}'
        refused("POST", "/0.1/agents/55/login", yes, 400, "extension: must be a string")
        refused("POST", "/0.1/members", '{"agent_id": 5}', 400, "queue_id: is missing")
        refused("GET", "/0.1/agents/54/login", None, 405, "Method Not Allowed")
        refused("GET", "/0.1/nothing", None, 404, "Not Found")
    finally:
        table("seed 0: what is to be answered -> what is", *shown)
    assert office.members() == ALICE
    told = office.events("login-refused")
    assert {event["source"] for event in told} == {"api"}


HOOK = "/client/12/agent/local/136/event/"


def test_every_example_of_the_fifth_document(make_service: MakeService) -> None:
    """Agent events: create, list, read, update, delete, for local and remote agents."""
    office = make_service(**OFFICE)
    curl = Curl(office.http_port)
    body = json.dumps(
        {
            "url": "https://somehost.com/fordel/show.php",
            "method": "GET",
            "event_type": "agent-login",
        }
    )
    shown: list[tuple[str, str, str]] = []

    def asks(method: str, path: str, sent: str | None, expected: Any) -> Answer:
        answer = curl(method, path, sent)
        document = "204" if expected is None else f"200 {json.dumps(expected)}"
        shown.append((f"{method} {path}", document, str(answer)))
        if expected is None:
            assert (answer.status, answer.body) == (204, "")
        else:
            assert answer.status == 200
            assert answer.json == expected
        return answer

    def refused(method: str, path: str, sent: str | None, status: int, text: str) -> None:
        answer = curl(method, path, sent)
        shown.append((f"{method} {path} {sent or ''}"[:64], f"{status} {text}", str(answer)))
        assert answer.status == status
        assert text in answer.error

    try:
        for kind in ("local", "remote"):
            all_of_them = f"/client/12/agent/{kind}/136/event/"
            created = curl("POST", all_of_them, body)
            shown.append((f"POST {all_of_them}", "200", str(created)))
            assert created.status == 200
            hook = created.json
            id = hook["id"]
            assert hook == json.loads(body) | {"id": id}
            assert list(hook) == ["url", "id", "method", "event_type"]
            assert id > 0
            asks("GET", all_of_them, None, [hook])
            asks("GET", f"{all_of_them}{id}", None, hook)
            other = hook | {"event_type": "agent-logout"}
            asks("PUT", f"{all_of_them}{id}", '{"event_type": "agent-logout"}', other)
            asks("GET", f"{all_of_them}{id}", None, other)
            asks("DELETE", f"{all_of_them}{id}", None, None)
            refused("GET", f"{all_of_them}{id}", None, 404, "No such event")
            asks("GET", all_of_them, None, [])
        refused("POST", "/client/12/agent/local/999/event/", body, 404, "No such agent")
        refused("GET", "/client/12/agent/local/999/event/", None, 404, "No such agent")
        refused("GET", f"{HOOK}4711", None, 404, "No such event")
        refused("POST", HOOK, "{}", 400, "event_type: is missing")
        refused("POST", HOOK, '{"url": ', 400, "no JSON")
        refused("POST", HOOK, body.replace("GET", "PATCH"), 400, "method: must be GET or POST")
        for inside in ("http://127.0.0.1/", "http://169.254.169.254/meta", "http://[::1]:8080/"):
            sent = body.replace("https://somehost.com/fordel/show.php", inside)
            refused("POST", HOOK, sent, 400, "is not allowed (webhooks.allow)")
        refused("GET", "/client/12/agent/elsewhere/136/event/", None, 400, "kind: must be")
    finally:
        table("seed 4: the document's answer -> ours", *shown)


async def test_phones_and_programs(
    make_service: MakeService, desk: Any, asterisk: Any, peer: Peer
) -> None:
    """One is logged in by a program and logged off by phone, another one the other way round."""
    service = make_service(http=HTTP)
    before = asterisk.queue_log_path.read_text()
    curl = Curl(service.http_port, WRITER)
    alice: Desk = await desk("1001")
    bob: Desk = await desk("1003")
    caller: Desk = await desk("1005")

    there = '{"extension": "1001", "context": "phones"}'
    assert curl("POST", "/0.1/agents/by-number/4001/login", there).status == 204
    await caller.phone.dial("701")
    await alice.phone.wait_answered()
    await until(lambda: talking(asterisk) == ["PJSIP/1001"])
    await caller.phone.hangup()
    await until(lambda: not talking(asterisk))
    lunch = '{"reason": "lunch"}'
    assert curl("POST", "/0.1/agents/by-number/4001/pause", lunch).status == 204
    await until(lambda: lamps(asterisk, "4001")["pause"] == "INUSE")
    assert service.members()["sales"] == {"PJSIP/1001 paused:lunch"}
    assert (await alice.dial("*34")).outcome == "UNPAUSED"
    assert (await bob.dial("*314002")).outcome == "LOGGED_IN"
    await until(lambda: lamps(asterisk, "4002")["agent"] == "INUSE")
    status = curl("GET", "/0.1/agents/by-number/4002/status").json
    assert (status["logged"], status["extension"], status["context"]) == (True, "1003", "phones")
    assert curl("POST", "/0.1/agents/by-number/4002/logoff").status == 204
    assert (await bob.dial("*34")).outcome == "NOT_LOGGED_IN"
    assert (await alice.dial("*32")).outcome == "LOGGED_OFF"
    assert service.members() == FREE

    expected = [
        ("agent-login", "4001", "api"),
        ("agent-pause", "4001", "api"),
        ("agent-unpause", "4001", "phone"),
        ("agent-login", "4002", "phone"),
        ("agent-logout", "4002", "api"),
        ("agent-logout", "4001", "phone"),
    ]
    events = service.events()
    assert [(e["type"], e["agent"], e["source"]) for e in events] == expected
    for event in events:
        if event["source"] == "api":
            assert event["actor"] == {"name": "dialler"}
        else:
            assert event["actor"]["channel"].startswith("PJSIP/100")
    await until(lambda: len(peer.facts()) == len(expected))
    assert [(f["Type"], f["Agent"], f["Source"]) for f in peer.facts()] == expected

    def logged() -> list[str]:
        found = rows(asterisk, before, "4001") + rows(asterisk, before, "4002")
        return [row for row in found if "CALLBACK" in row]

    await until(lambda: len(logged()) == 4)
    in_order = [re.sub(r"\|\d+$", "", row) for row in logged()]
    assert in_order == [
        "NONE|AGENTCALLBACKLOGIN|1001@phones",
        "NONE|AGENTCALLBACKLOGOFF|1001@phones",
        "NONE|AGENTCALLBACKLOGIN|1003@phones",
        "NONE|AGENTCALLBACKLOGOFF|1003@phones",
    ]
    await until(lambda: {lamps(asterisk, n)["agent"] for n in ("4001", "4002")} == {"NOT_INUSE"})
    print("\nby whom:", *(f"{t} {a} {s}" for t, a, s in expected), sep="\n  ")


async def test_all_of_them(make_service: MakeService, desk: Any, asterisk: Any) -> None:
    """relog and logoff of several, one of them paused, another one in a queue call."""
    service = make_service(http=HTTP)
    curl = Curl(service.http_port)
    alice: Desk = await desk("1001")
    bob: Desk = await desk("1003")
    caller: Desk = await desk("1005")
    await alice.dial("*314001")
    await bob.dial("*314002")
    await bob.dial("*332")
    there = '{"extension": "1006", "context": "phones"}'
    assert curl("POST", "/0.1/agents/by-number/4006/login", there).status == 204
    assert curl("POST", "/0.1/agents/by-number/4006/pause", '{"reason": "3"}').status == 204
    call = await caller.phone.dial("703")
    await alice.phone.wait_answered()
    members, agents = service.members(), service.agents()
    assert members["sales"] == {
        "PJSIP/1001",
        "PJSIP/1003 paused:break",
        "PJSIP/1006 paused:meeting",
    }

    def penalties() -> set[tuple[str, ...]]:
        text = "".join(asterisk.cli(f"queue show {queue}") for queue in service.members())
        return set(re.findall(r"(PJSIP/\d+)\) with (penalty \d)", text))

    weights = penalties()
    assert weights == {("PJSIP/1001", "penalty 2"), ("PJSIP/1006", "penalty 3")}
    answer = curl("POST", "/0.1/agents/all/relog")
    print(f"\nPOST /0.1/agents/all/relog, one paused, one in a call: {answer}")
    assert (answer.status, answer.body) == (204, "")
    assert (service.members(), service.agents()) == (members, agents)
    assert penalties() == weights
    assert call.active
    assert talking(asterisk, "billing") == ["PJSIP/1001"]
    answer = curl("POST", "/0.1/agents/all/logoff")
    print(f"POST /0.1/agents/all/logoff, one paused, one in a call: {answer}")
    assert (answer.status, answer.body) == (204, "")
    assert answer.headers["fastagi-planned"] == "log off; agents=1"
    # Who talks is logged off when that call is over, as the settings say.
    assert set().union(*service.members().values()) == {"PJSIP/1001"}
    assert call.active
    assert service.agents()["4001"]["logoff_planned"]
    await caller.phone.hangup()
    await until(lambda: service.members() == FREE)
    logoffs = service.events("agent-logout")
    assert {e["agent"]: (e["source"], e["actor"]["name"]) for e in logoffs} == dict.fromkeys(
        ("4001", "4002", "4006"), ("api", "crm")
    )


def test_who_may_not(make_service: MakeService, tmp_path: Path) -> None:
    http = HTTP | {"lockout": {"failures": 3, "within": "1m", "for": "1m"}}
    service = make_service(**(OFFICE | {"http": http}))
    port = service.http_port
    status = "/0.1/agents/54/status"
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(50 * 2**20)
    shown: list[tuple[str, str, str]] = []

    def refused(what: str, answer: Answer, status: int, text: str) -> Answer:
        shown.append((what, f"{status} {text}", str(answer)))
        assert answer.status == status
        assert text in answer.error
        assert answer.headers["x-content-type-options"] == "nosniff"
        return answer

    try:
        answer = refused("no token", Curl(port, None)("GET", status), 401, "A token is needed")
        assert answer.headers["www-authenticate"] == "Bearer"
        reader = Curl(port, READER)
        assert reader("GET", status).status == 200
        for header in ("token", "X-Auth-Token"):
            assert Curl(port, None)("GET", status, None, "-H", f"{header}: {READER}").status == 200
        login = "/0.1/agents/54/login"
        lacking = refused("may read, logs in", reader("POST", login, LOGIN), 403, "'control'")
        assert lacking.error == "This needs the right 'control'"
        writer = Curl(port, WRITER)
        refused("may control, members", writer("POST", "/0.1/members", MEMBER), 403, "'configure'")
        refused("may control, hooks", writer("POST", HOOK, "{}"), 403, "'configure'")
        curl = Curl(port)
        refused("50 MB body", curl("POST", login, f"@{big}"), 413, "larger than 65536 bytes")
        chunked = curl("POST", login, f"@{big}", "-H", "Transfer-Encoding: chunked")
        refused("50 MB in chunks", chunked, 413, "larger than 65536 bytes")
        refused("invalid JSON", curl("POST", login, "{"), 400, "The body is no valid JSON")
        refused("invalid JSON, hooks", curl("POST", HOOK, "{"), 400, "The body is no JSON")
        unknown = "/0.1/agents/99999999999999999999/status"
        refused("unknown id", curl("GET", unknown), 404, "No such agent")
        refused("no id", curl("GET", "/0.1/agents/x;y/status"), 404, "No such agent")
        huge = "/client/12/agent/local/99999999999999999999/event/"
        refused("unknown id, hooks", curl("GET", huge), 404, "No such agent")
        wrong = Curl(port, "a-token-that-somebody-guessed")
        for n in (1, 2, 3):
            refused(f"wrong token, {n}", wrong("GET", status), 401, "Wrong token")
        locked = refused("wrong token, 4", wrong("GET", status), 429, "Too many wrong tokens")
        assert int(locked.headers["retry-after"]) > 0
        assert curl("GET", status).status == 200  # the right one is not refused for it
        assert curl("GET", "/health/live").status == 200
    finally:
        table("who may not: what is to be answered -> what is", *shown)
    assert service.members() == FREE
    service.stop()
    (suspect,) = service.logged("too many wrong tokens, the next ones are answered late")
    assert suspect["address"] == "127.0.0.1"
    assert "a-token-that" not in service.log.read_text()


def metrics(service: Service) -> dict[str, float]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.http_port}/metrics", headers={"token": TOKEN}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


async def test_health_and_figures(make_service: MakeService, desk: Any, asterisk: Any) -> None:
    own = free_port()
    service = make_service(http=HTTP, unplugged=None, metrics={"listen": f"127.0.0.1:{own}"})
    curl = Curl(service.http_port, None, ())
    ready = curl("GET", "/health/ready")
    shown = [("Asterisk there", "200", str(ready))]
    assert ready.status == 200
    alice: Desk = await desk("1001")
    await alice.dial("*314001")
    await alice.dial("*331")
    await alice.dial("*319999", ("agent-incorrect", "#"), ("agent-incorrect", "#"))
    asterisk.kill()
    await until(lambda: curl("GET", "/health/ready").status == 503)
    gone = curl("GET", "/health/ready")
    shown.append(("Asterisk killed", "503", str(gone)))
    assert gone.json["status"] == "not ready"
    assert curl("GET", "/health/live").status == 200
    away = Curl(service.http_port)("POST", "/0.1/agents/by-number/4001/unpause")
    shown.append(("unpause meanwhile", "503", str(away)))
    assert away.status == 503
    assert "retry-after" in away.headers
    asterisk.start()
    await until(lambda: curl("GET", "/health/ready").status == 200)
    shown.append(("Asterisk back", "200", str(curl("GET", "/health/ready"))))
    await until(lambda: service.members()["sales"] == {"PJSIP/1001 paused:lunch"})
    table("/health/ready", *shown)

    await until(lambda: metrics(service).get('fastagi_outbox_deliveries{sink="user_event"}') == 0)
    found = metrics(service)
    names = r"fastagi_(calls_total|repairs_total|agents|outbox|hook|ami_conn|http_req|event_list)"
    kept = {name: value for name, value in found.items() if re.match(names, name)}
    print("\n/metrics", *(f"{name} {value:g}" for name, value in kept.items()), sep="\n  ")
    assert found['fastagi_calls_total{outcome="LOGGED_IN",script="agent/login"}'] == 1
    assert found['fastagi_calls_total{outcome="PAUSED",script="agent/pause"}'] == 1
    assert found['fastagi_calls_total{outcome="NO_SUCH_AGENT",script="agent/login"}'] == 1
    assert found['fastagi_agents{state="paused"}'] == 1
    assert sum(v for name, v in found.items() if name.startswith("fastagi_repairs_total")) > 0
    # Prometheus's own port: the same, without a token, and not for a page that has its name.
    prometheus = Curl(own, None, ())
    assert 'fastagi_agents{state="paused"} 1.0' in prometheus("GET", "/metrics").body
    rebound = ("--header", "Host: evil.test", "--header", "Accept-Language: en")
    assert prometheus("GET", "/metrics", None, *rebound).status == 403
