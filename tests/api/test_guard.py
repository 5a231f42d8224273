"""Who gets in, how much may be sent, and what an answer carries."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from fastagi.agents.lockout import Lockout
from fastagi.api import guard
from fastagi.api.guard import Attempts, Client, Guard
from fastagi.config.settings import HttpSettings, Right
from tests.agents.memory import NOON
from tests.api.conftest import FULL, House

TOKEN, OTHER = "a-token-of-the-crm", "another-token-of-a-wallboard"
TOKENS = {
    "crm": {"token": TOKEN, "rights": FULL},
    "wallboard": {"token": OTHER, "rights": ["read"]},
}
PATH = "/0.1/agents/1001/status"
WRONG = {"token": "not-the-right-token"}


def told(answer: httpx2.Response) -> tuple[int, str]:
    assert list(answer.json()) == ["error"]
    return answer.status_code, answer.json()["error"]


# -- tokens


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer   {TOKEN} "},
        {"token": TOKEN},
        {"Token": TOKEN},
        {"X-Auth-Token": TOKEN},
        {"Authorization": "Basic dXNlcjpwYXNz", "token": TOKEN},
    ],
)
async def test_the_right_token(house: House, headers: dict[str, str]) -> None:
    http = await house.open(tokens=TOKENS, address="192.0.2.7")
    assert (await http.get(PATH, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, "A token is needed"),
        ({"Authorization": "Bearer"}, "A token is needed"),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "A token is needed"),
        ({"Authorization": TOKEN}, "A token is needed"),
        ({"token": ""}, "A token is needed"),
        ({"Cookie": f"token={TOKEN}"}, "A token is needed"),
        ({"token": "x"}, "Wrong token"),
        ({"token": TOKEN[:-1]}, "Wrong token"),
        ({"token": TOKEN + "x"}, "Wrong token"),
        ({"token": TOKEN.upper()}, "Wrong token"),
        ({"token": "crm"}, "Wrong token"),
        ({"Authorization": "Bearer \u00e9\u00e8"}, "Wrong token"),
        ({"Authorization": "Bearer wrong-token-1", "token": TOKEN}, "Wrong token"),
    ],
)
@pytest.mark.parametrize(
    "path",
    [PATH, "/events", "/metrics", "/client/12/agent/local/1/event/", "/live/agents", "/nowhere"],
)
async def test_no_or_a_wrong_token(
    house: House, headers: dict[str, str], error: str, path: str
) -> None:
    http = await house.open(tokens=TOKENS)  # from this machine, too
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = await http.get(path, headers=raw)
    assert told(answer) == (401, error)
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_no_token_in_the_query(house: House) -> None:
    http = await house.open(tokens=TOKENS)
    answer = await http.get(PATH, params={"token": TOKEN, "access_token": TOKEN})
    assert answer.status_code == 401


async def test_each_token_is_a_client(house: House) -> None:
    seen: list[Client] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"]["client"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    settings = HttpSettings.model_validate({"tokens": TOKENS})
    guarded = Guard(app, settings, house.figures, house.log, house.hall.clock)
    http = await house.open(app=guarded)
    for token in (OTHER, TOKEN):
        await http.get("/0.1/x", headers={"token": token})
    assert seen == [
        Client("wallboard", frozenset({Right.READ})),
        Client("crm", frozenset(Right)),
    ]


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/page/icon.svg"]
)
async def test_open_to_everybody(house: House, path: str) -> None:
    for tokens in (TOKENS, {}):
        http = await house.open(tokens=tokens, address="192.0.2.7")
        assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/health", "/page", "/page/../0.1/agents/all/statuses", "//", "/docs//"],
)
async def test_not_open_to_everybody(house: House, path: str) -> None:
    app = house.application(tokens=TOKENS)
    answer = await asked(app, path)
    assert answer[0] in (401, 404)
    assert b"1001" not in answer[1]


async def asked(app: Any, path: str, **scope: Any) -> tuple[int, bytes]:
    """A GET as a server gives it, with this very path."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    http = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    await app(http | scope, receive, send)
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


async def test_only_requests(house: House) -> None:
    """No WebSocket gets past, whatever it shows."""
    reached = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope)

    guarded = Guard(app, HttpSettings(), house.figures, house.log, house.hall.clock)

    async def nothing(*message: Message) -> Any:
        raise AssertionError

    await guarded({"type": "websocket", "path": "/", "headers": []}, nothing, nothing)
    assert reached == []


# -- without tokens


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_may_do_everything(house: House, address: str) -> None:
    http = await house.open(address=address)
    assert (await http.post("/0.1/agents/all/logoff")).status_code == 204
    body = {"agent_id": 1001, "queue_id": 1}
    assert (await http.request("DELETE", "/0.1/members", json=body)).status_code == 204


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.0.1", "2001:db8::1", "fe80::1%eth0", ""])
async def test_other_machines_may_do_nothing(house: House, address: str) -> None:
    http = await house.open(address=address)
    status, error = told(await http.get(PATH))
    assert (status, error) == (403, "Without tokens only this machine is served: set http.tokens")


async def test_a_peer_without_an_address(house: House) -> None:
    assert (await asked(house.application(), PATH, client=None))[0] == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:9493", 200),
        ("LOCALHOST", 200),
        ("localhost.", 200),
        ("agents.localhost:9493", 200),
        ("127.0.0.1:9493", 200),
        ("[::1]:9493", 200),
        ("evil.example", 403),
        ("evil.example:9493", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evillocalhost", 403),
        ("192.0.2.7", 403),
        ("[2001:db8::1]", 403),
        ("0.0.0.0", 403),
        ("@localhost", 403),
        ("[", 403),
    ],
)
async def test_dns_rebinding(house: House, host: str, status: int) -> None:
    http = await house.open()
    assert (await http.get(PATH, headers={"Host": host})).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://localhost:9493"}, 204),
        ({"Origin": "http://LOCALHOST:9493"}, 204),
        ({"Sec-Fetch-Site": "same-origin"}, 204),
        ({"Sec-Fetch-Site": "none"}, 204),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
async def test_pages_of_other_sites(house: House, headers: dict[str, str], status: int) -> None:
    http = await house.open()
    assert (await http.post("/0.1/agents/all/logoff", headers=headers)).status_code == status


async def test_with_tokens_any_name_and_page_will_do(house: House) -> None:
    http = await house.open(TOKEN, tokens=TOKENS, address="192.0.2.7")
    headers = {"Host": "agents.example", "Origin": "https://crm.example"}
    assert (await http.get(PATH, headers=headers)).status_code == 200


# -- too many wrong tokens

LOCKOUT = {"failures": 3, "within": "1m", "for": "5m"}


async def test_locked_out_and_in_again(house: House) -> None:
    app = house.application(tokens=TOKENS, lockout=LOCKOUT)
    http = await house.open(app=app, address="192.0.2.7")
    elsewhere = await house.open(app=app, address="192.0.2.8")
    right = {"token": TOKEN}
    for _ in range(3):
        assert told(await http.get(PATH, headers=WRONG)) == (401, "Wrong token")
    for headers in (WRONG, right, {}):
        answer = await http.get(PATH, headers=headers)
        status, error = told(answer)
        assert (status, answer.headers["retry-after"]) == (429, "300")
        assert error == "Too many wrong tokens from this address: try again later"
    assert (await http.get("/health/live")).status_code == 200
    assert (await elsewhere.get(PATH, headers=right)).status_code == 200
    house.hall.clock.pass_(seconds=299.5)
    answer = await http.get(PATH, headers=right)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    house.hall.clock.pass_(seconds=0.5)
    assert (await http.get(PATH, headers=right)).status_code == 200
    # Once, with the address, and nothing of the token.
    assert house.log.lines == [
        ("warning", "too many wrong tokens, locked out", {"address": "192.0.2.7"})
    ]


async def test_few_wrong_tokens_or_none_lock_nobody_out(house: House) -> None:
    http = await house.open(tokens=TOKENS, lockout=LOCKOUT)
    for _ in range(10):
        assert (await http.get(PATH)).status_code == 401
    for _ in range(5):  # two a minute, and slower
        assert (await http.get(PATH, headers=WRONG)).status_code == 401
        assert (await http.get(PATH, headers=WRONG)).status_code == 401
        house.hall.clock.pass_(seconds=61)
    assert (await http.get(PATH, headers={"token": TOKEN})).status_code == 200


async def test_one_request_is_one_attempt(house: House) -> None:
    http = await house.open(tokens=TOKENS, lockout=LOCKOUT)
    many = [("token", "guess-number-one"), ("X-Auth-Token", TOKEN), ("token", "guess-two-also")]
    assert (await http.get(PATH, headers=many)).status_code == 401


def test_addresses_that_count_as_one() -> None:
    attempts = Attempts(Lockout(2, timedelta(minutes=1), timedelta(minutes=1)))
    assert not attempts.failed("2001:db8:1:2::1", NOON)
    assert attempts.failed("2001:db8:1:2:ffff::9", NOON)
    assert attempts.locked("2001:db8:1:2:3:4:5:6", NOON) == timedelta(minutes=1)
    assert attempts.locked("2001:db8:1:3::1", NOON) is None
    assert not attempts.failed("192.0.2.1", NOON)
    assert attempts.failed("::ffff:192.0.2.1", NOON)
    assert attempts.locked("192.0.2.2", NOON) is None


def test_only_so_many_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_ADDRESSES", 100)
    attempts = Attempts(Lockout(2, timedelta(minutes=1), timedelta(minutes=1)))
    for n in range(1000):
        attempts.failed(f"10.0.{n // 250}.{n % 250}", NOON)
    assert len(attempts) == 100
    assert attempts.failed("10.0.3.249", NOON)  # the latest ones
    later = NOON + timedelta(minutes=3)
    for n in range(60):
        attempts.failed(f"10.9.9.{n}", later)
    assert len(attempts) == 60  # what matters no more is forgotten


# -- how much


async def chunks(size: int, part: int = 65536) -> AsyncIterator[bytes]:
    for _ in range(0, size, part):
        yield b"x" * part


async def test_a_body_too_large(house: House, http: httpx2.AsyncClient) -> None:
    path = "/0.1/agents/1001/login"
    error = (413, "The body is larger than 65536 bytes")
    assert told(await http.post(path, content=b" " * 65537)) == error
    assert told(await http.post(path, content=chunks(50_000_000))) == error
    declared = await http.post(path, content=b"{}", headers={"Content-Length": "50000000"})
    assert told(declared) == error
    assert (await http.post(path, content=b" " * 65536)).status_code == 400


async def test_the_limit_is_a_setting(house: House) -> None:
    http = await house.open(max_body=1024)
    assert (await http.post("/0.1/agents/all/logoff", content=b" " * 1025)).status_code == 413
    assert (await http.post("/0.1/agents/all/logoff", content=b" " * 1024)).status_code == 204


async def test_a_chunked_body(house: House, http: httpx2.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for byte in b'{"extension": "1001"}':
            yield bytes([byte])

    answer = await http.post("/0.1/agents/1001/login", content=parts())
    assert answer.status_code == 204


async def test_a_slow_body(
    house: House, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_DEADLINE", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    answer = await http.post("/0.1/agents/1001/login", content=slow())
    assert told(answer) == (408, "The body took too long")
    assert answer.headers["connection"] == "close"


async def test_without_a_token_no_body_is_read(house: House) -> None:
    http = await house.open(tokens=TOKENS)
    answer = await http.post("/0.1/agents/1001/login", content=chunks(50_000_000))
    assert told(answer) == (401, "A token is needed")


async def test_a_client_that_goes_within_the_body(house: House) -> None:
    reached = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope)

    messages = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    guarded = Guard(app, HttpSettings(), house.figures, house.log, house.hall.clock)
    scope = {
        "type": "http",
        "path": "/0.1/members",
        "method": "POST",
        "headers": [(b"transfer-encoding", b"chunked")],
        "client": ("127.0.0.1", 1),
    }
    await guarded(scope, receive, send)
    assert reached == []


# -- answers


@pytest.mark.parametrize(
    ("path", "cache"),
    [
        (PATH, "no-store"),
        ("/nowhere", "no-store"),
        ("/openapi.json", "no-store"),
        ("/", "no-cache"),  # the page says so itself
    ],
)
async def test_headers(http: httpx2.AsyncClient, path: str, cache: str) -> None:
    answer = await http.get(path)
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("cache-control") == [cache]
    assert "server" not in answer.headers


async def test_figures(house: House) -> None:
    http = await house.open(tokens=TOKENS)
    for path in (PATH, "/client/1/x", "/events", "/live/x", "/", "/health/live", "/docs", "/q"):
        await http.get(path)
    assert house.figures.requests == [
        ("agentd", 401),
        ("agent_events", 401),
        ("events", 401),
        ("page", 401),
        ("page", 200),
        ("health", 200),
        ("docs", 200),
        ("other", 401),
    ]


# -- failures


def broken(house: House, error: Exception, started: bool = False) -> Guard:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    return Guard(app, HttpSettings(), house.figures, house.log, house.hall.clock)


async def test_a_failure_tells_nothing_and_is_logged(house: House) -> None:
    error = RuntimeError("a secret path")
    http = await house.open(app=broken(house, error))
    answer = await http.get("/0.1/x%0Ay?token=secret")
    assert told(answer) == (500, "Internal error: the log says more")
    ((level, event, values),) = house.log.lines
    assert (level, event, values["exc_info"]) == ("error", "a request failed", error)
    assert values["path"] == "/0.1/x%0Ay"


async def test_a_failure_within_an_answer_is_no_whole_answer(house: House) -> None:
    with pytest.raises(RuntimeError):
        await asked(broken(house, RuntimeError("x"), started=True), PATH)
    assert len(house.log.lines) == 1


async def test_a_failure_in_a_route(house: House) -> None:
    """Through FastAPI: the same shape, and one line in the log."""

    async def text() -> tuple[bytes, str]:
        raise RuntimeError("a secret")

    house.figures.text = text  # type: ignore[method-assign]
    http = await house.open()
    answer = await http.get("/metrics")
    assert told(answer) == (500, "Internal error: the log says more")
    assert [line[:2] for line in house.log.lines] == [("error", "a request failed")]
    assert house.figures.requests == [("metrics", 500)]


async def test_refusals_of_any_route(house: House, http: httpx2.AsyncClient) -> None:
    assert told(await http.get("/nowhere")) == (404, "Not Found")
    answer = await http.post("/metrics")
    assert told(answer) == (405, "Method Not Allowed")
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize("path", ["/metrics", "/events", "/live/agents"])
async def test_rights_of_other_faces(house: House, path: str) -> None:
    tokens = {"dialler": {"token": TOKEN, "rights": ["control"]}}
    http = await house.open(TOKEN, tokens=tokens)
    assert (await http.get(path)).status_code == 403


# -- the documentation


async def test_the_documentation_needs_nobody_else(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/docs")
    assert "://" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_openapi(house: House, http: httpx2.AsyncClient) -> None:
    assert (await http.get("/openapi.json")).json()["security"] == []
    http = await house.open(tokens=TOKENS)
    document = (await http.get("/openapi.json")).json()
    assert document["info"]["title"] == "fastagi-agentd"
    schemes = document["components"]["securitySchemes"]
    assert document["security"] == [{name: []} for name in schemes]
    assert document["paths"]["/health/live"]["get"]["security"] == []
    metrics = document["paths"]["/metrics"]["get"]
    assert "security" not in metrics
    assert {"401", "403", "413", "429"} <= metrics["responses"].keys()
    names = [
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("tokens", [{}, TOKENS])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/agent.php?command=logoff&agent=1001"),
        ("POST", "/0.1/agents/all/logoff"),
        ("GET", "/live/agents"),
        ("GET", "/"),
    ],
)
async def test_deliveries_of_hooks_may_not_ask_here(
    house: House, tokens: dict[str, Any], method: str, path: str
) -> None:
    """By whatever way they come, through a proxy, say: whoever may make hooks would do in our own
    name what only others may."""
    await house.hall.do(house.hall.log_in())
    http = await house.open(tokens=tokens, agent_php={"allow": ["127.0.0.1"]})
    answer = await http.request(method, path, headers={"Webhook-Id": "x-1"})
    assert answer.status_code == 403
    assert house.hall.state.session is not None
