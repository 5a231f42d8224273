"""Who gets in, how much may be sent, and what an answer carries."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from fastagi.api import guard
from fastagi.api.guard import Client, Guard
from fastagi.api.peer import GONE
from fastagi.api.server import ABORT, OWNER
from fastagi.config.settings import HttpSettings, Right
from tests.api.conftest import FULL, TABLE, House

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
    guarded = Guard(app, TABLE, settings, house.figures, house.log)
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

    guarded = Guard(app, TABLE, HttpSettings(), house.figures, house.log)

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
        ("@localhost", 400),
        ("localhost:80@evil.example", 400),
        ("127.0.0.1%00.evil.example", 400),
        ("localhost evil.example", 400),
        ("localhost,evil.example", 400),
        ("localhost:port", 400),
        ("localhost:123456", 400),
        ("", 400),
        ("[", 400),
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


async def test_too_many_wrong_tokens_and_right_ones_all_the_same(house: House) -> None:
    app = house.application(tokens=TOKENS, lockout=LOCKOUT)
    http = await house.open(app=app, address="192.0.2.7")
    elsewhere = await house.open(app=app, address="192.0.2.8")
    right = {"token": TOKEN}
    for _ in range(3):
        assert told(await http.get(PATH, headers=WRONG)) == (401, "Wrong token")
    answer = await http.get(PATH, headers=WRONG)
    status, error = told(answer)
    assert (status, answer.headers["retry-after"]) == (429, "300")
    assert error == "Too many wrong tokens from this address: try again later"
    # A proxy's address is many people's, and a page of anybody's can make a browser ask.
    assert (await http.get(PATH, headers=right)).status_code == 200
    assert told(await http.get(PATH)) == (401, "A token is needed")
    assert (await http.get("/health/live")).status_code == 200
    assert told(await elsewhere.get(PATH, headers=WRONG)) == (401, "Wrong token")
    house.hall.clock.pass_(seconds=299.5)
    answer = await http.get(PATH, headers=WRONG)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    house.hall.clock.pass_(seconds=0.5)
    assert told(await http.get(PATH, headers=WRONG)) == (401, "Wrong token")
    # Once, with the address, and nothing of the token.
    assert house.log.lines == [
        (
            "warning",
            "too many wrong tokens, the next ones are answered late",
            {"address": "192.0.2.7"},
        )
    ]


async def test_guesses_are_slow_whatever_comes_of_them(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an address with too many wrong tokens, also the first time that a right one is shown:
    else what is answered at once is the right one."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(guard, "SLOW", 7.0)
    app = house.application(tokens=TOKENS, lockout=LOCKOUT)
    http = await house.open(app=app, address="192.0.2.7")
    await http.get(PATH, headers={"token": OTHER})  # familiar there from now on
    for _ in range(3):
        await http.get(PATH, headers=WRONG)
    monkeypatch.setattr("fastagi.api.guard.asyncio.sleep", sleep)
    assert (await http.get(PATH, headers=WRONG)).status_code == 429
    assert waited == [7.0]
    assert (await http.get(PATH, headers={"token": OTHER})).status_code == 200
    assert waited == [7.0]
    assert (await http.get(PATH, headers={"token": TOKEN})).status_code == 200
    assert waited == [7.0, 7.0]
    assert (await http.get(PATH, headers={"token": TOKEN})).status_code == 200
    assert waited == [7.0, 7.0]


async def test_few_wrong_tokens_or_none_slow_nobody_down(house: House) -> None:
    http = await house.open(tokens=TOKENS, lockout=LOCKOUT)
    for _ in range(10):
        assert (await http.get(PATH)).status_code == 401
    for _ in range(5):  # two a minute, and slower
        assert (await http.get(PATH, headers=WRONG)).status_code == 401
        assert (await http.get(PATH, headers=WRONG)).status_code == 401
        house.hall.clock.pass_(seconds=61)
    assert (await http.get(PATH, headers={"token": TOKEN})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("token", "guess-number-one"), ("X-Auth-Token", TOKEN), ("token", "guess-two-also")],
        [("Authorization", "Bearer wrong-token-1"), ("token", TOKEN)],
        [("token", TOKEN), ("token", OTHER)],
        [("Authorization", f"Bearer {OTHER}"), ("Authorization", f"Bearer {TOKEN}")],
    ],
)
async def test_two_tokens_are_one_too_many(house: House, headers: list[tuple[str, str]]) -> None:
    http = await house.open(tokens=TOKENS, lockout=LOCKOUT)
    for _ in range(5):  # no attempt either: none of them is looked at
        assert told(await http.get(PATH, headers=headers)) == (400, "Two different tokens")
    assert told(await http.get(PATH, headers=WRONG)) == (401, "Wrong token")


async def test_one_token_twice_is_one(house: House) -> None:
    http = await house.open(tokens=TOKENS)
    headers = [("token", TOKEN), ("X-Auth-Token", TOKEN), ("Authorization", f"Bearer {TOKEN}")]
    assert (await http.get(PATH, headers=headers)).status_code == 200


# -- proxies


@pytest.mark.parametrize(
    "name",
    [
        *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"),
        *("X-Forwarded-Server", "X-Forwarded-Port", "X-Real-IP", "Via", "CF-Connecting-IP"),
        *("X-Client-IP", "True-Client-IP", "X-Cluster-Client-IP"),
    ],
)
async def test_without_tokens_no_proxy_is_served(house: House, name: str) -> None:
    http = await house.open()
    error = "Without tokens only this machine is served: set http.tokens"
    assert told(await http.get(PATH, headers={name: "127.0.0.1"})) == (403, error)
    assert (await http.get("/health/live", headers={name: "x"})).status_code == 200


async def test_without_tokens_a_proxy_that_says_nothing(house: House) -> None:
    """nginx with nothing but proxy_pass: HTTP/1.0, and the Host that stands there."""
    app = house.application()
    assert (await asked(app, PATH, http_version="1.1"))[0] == 200
    status, body = await asked(app, PATH, http_version="1.0")
    assert (status, b"HTTP/1.0" in body) == (403, True)
    with_tokens = house.application(tokens=TOKENS)
    shown = [(b"host", b"pbx.example"), (b"token", TOKEN.encode())]
    assert (await asked(with_tokens, PATH, http_version="1.0", headers=shown))[0] == 200


@pytest.mark.parametrize(
    ("uid", "status"),
    [(None, 200), (0, 200), (1000, 200), (33, 403), (999, 403), (65534, 403), (GONE, 403)],
)
async def test_without_tokens_no_account_of_a_proxy_is_served(
    house: House, monkeypatch: pytest.MonkeyPatch, uid: int | None, status: int
) -> None:
    """Nothing else tells one that speaks HTTP/1.1 and adds no header."""
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    extensions: dict[str, Callable[[], int | None]] = {OWNER: lambda: uid}
    answer = await asked(house.application(), PATH, extensions=extensions)
    assert answer[0] == status
    if status == 403:
        assert b"set http.tokens" in answer[1]


async def test_the_service_itself_is_no_proxy(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 998)
    assert (await asked(house.application(), PATH, extensions={OWNER: lambda: 998}))[0] == 200


async def test_who_is_behind_a_proxy_of_ours(house: House) -> None:
    """Its clients are told apart by what it tells of them: its own word, not theirs."""
    app = house.application(tokens=TOKENS, lockout=LOCKOUT, proxies=["192.0.2.7", "10.9.0.0/16"])
    http = await house.open(app=app, address="192.0.2.7")
    evil = {**WRONG, "X-Forwarded-For": "10.0.0.99, 198.51.100.1, 10.9.0.1"}
    for _ in range(3):
        assert (await http.get(PATH, headers=evil)).status_code == 401
    assert (await http.get(PATH, headers=evil)).status_code == 429
    for other in ("198.51.100.2", "10.0.0.99", "198.51.100.1, 198.51.100.2", "nonsense"):
        headers = {**WRONG, "X-Forwarded-For": other}
        assert (await http.get(PATH, headers=headers)).status_code == 401, other
    # From anywhere else the header means nothing.
    elsewhere = await house.open(app=app, address="192.0.2.8")
    for n in range(3):
        headers = {**WRONG, "X-Forwarded-For": f"198.51.100.{n + 10}"}
        assert (await elsewhere.get(PATH, headers=headers)).status_code == 401
    assert (await elsewhere.get(PATH, headers=WRONG)).status_code == 429


# -- heads that mean two things


@pytest.mark.parametrize(
    ("headers", "version", "status"),
    [
        ([(b"host", b"localhost"), (b"host", b"localhost")], "1.1", 400),
        ([(b"host", b"localhost"), (b"host", b"evil.example")], "1.1", 400),
        ([], "1.1", 400),
        ([], "1.0", 403),
    ],
)
async def test_hosts(
    house: House, headers: list[tuple[bytes, bytes]], version: str, status: int
) -> None:
    answer = await asked(house.application(), PATH, headers=headers, http_version=version)
    assert answer[0] == status


# -- requests without a right token wait their turn


async def test_the_pace_of_strangers(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("fastagi.api.limits.asyncio.sleep", sleep)
    app = house.application(tokens=TOKENS)
    http = await house.open(app=app, address="192.0.2.7")
    for _ in range(150):
        assert (await http.get("/health/live")).status_code == 200
    for _ in range(50):
        assert (await http.get(PATH)).status_code == 401
    assert waited == []
    for path in ("/", "/docs", "/health/live", PATH, "/nowhere"):
        await http.get(path)
    assert len(waited) == 5
    # Who has shown a right token does not, nor who comes from elsewhere.
    assert (await http.get(PATH, headers={"token": TOKEN})).status_code == 200
    elsewhere = await house.open(app=app, address="192.0.2.8")
    assert (await elsewhere.get("/health/live")).status_code == 200
    assert len(waited) == 5
    house.hall.clock.pass_(seconds=60)
    await http.get("/health/live")
    assert len(waited) == 5


async def test_who_asks_far_too_often_is_cut_off(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastagi.api.limits.BURST", 1)
    monkeypatch.setattr("fastagi.api.limits.LONGEST_WAIT", 0.0)
    cut: list[bool] = []
    app = house.application(tokens=TOKENS)
    extensions = {ABORT: lambda: cut.append(True)}
    assert (await asked(app, "/health/live", extensions=extensions))[0] == 200
    assert (await asked(app, "/health/live", extensions=extensions))[0] == 429
    assert cut == [True]


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

    guarded = Guard(app, TABLE, HttpSettings(), house.figures, house.log)
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


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/page/page.js", "/docs", "/openapi.json", "/health/live", "/health/ready"),
        *("/metrics", "/live/agents", "/live/events", "/events"),
    ],
)
async def test_head(house: House, http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"]


async def test_https_from_now_on(house: House) -> None:
    app = house.application(tokens=TOKENS)
    for scheme, there in (("https", True), ("http", False)):
        sent: list[Message] = []

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "method": "GET", "path": "/", "scheme": scheme}
        headers = {"headers": [(b"host", b"x")], "client": ("192.0.2.7", 1)}
        await app(scope | headers, receive, send)
        names = [name for name, _ in sent[0]["headers"]]
        assert (b"strict-transport-security" in names) is there


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


# -- answers that are not taken


def large(size: int) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = bytes(size)
        length = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": body})

    return app


async def test_only_so_much_waits_to_be_taken(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one client, and of all; the others hear that it is too much."""
    monkeypatch.setattr("fastagi.api.limits.OUTPUT", 1_600_000)
    monkeypatch.setattr("fastagi.api.limits.OUTPUT_OF_CLIENT", 1_100_000)
    app = Guard(
        large(500_000),
        TABLE,
        HttpSettings.model_validate({"tokens": TOKENS}),
        house.figures,
        house.log,
    )
    taken = asyncio.Event()
    waiting: list[asyncio.Task[tuple[int, int]]] = []

    async def ask(token: str) -> tuple[int, int]:
        sizes: list[int] = []
        status = 0

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            if sizes and status == 200:
                await taken.wait()
            sizes.append(len(message.get("body", b"")))

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [(b"host", b"x"), (b"token", token.encode())]
        scope = {"type": "http", "method": "GET", "path": PATH, "headers": headers}
        await app(scope | {"client": ("192.0.2.7", 1)}, receive, send)
        assert max(sizes) <= 65536
        return status, sum(sizes)

    async def asks(token: str) -> asyncio.Task[tuple[int, int]]:
        task = asyncio.create_task(ask(token))
        for _ in range(10):
            await asyncio.sleep(0)
        return task

    waiting += [await asks(TOKEN), await asks(TOKEN)]
    refused = [await asks(TOKEN)]  # a share of its own
    waiting += [await asks(OTHER)]
    refused += [await asks(OTHER)]  # and what all together may have
    assert [task.done() for task in (*waiting, *refused)] == [False] * 3 + [True] * 2
    assert [(await task)[0] for task in refused] == [503, 503]
    taken.set()
    assert [await task for task in waiting] == [(200, 500_000)] * 3
    assert await (await asks(TOKEN)) == (200, 500_000)


# -- failures


def broken(house: House, error: Exception, started: bool = False) -> Guard:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    return Guard(app, TABLE, HttpSettings(), house.figures, house.log)


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
