"""The server on a real socket: what clients send, and how it ends."""

import asyncio
import logging
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from starlette.types import Receive, Scope, Send

from fastagi.api import guard, peer, server
from fastagi.api.server import HttpServer
from fastagi.config.settings import HostPort, HttpSettings
from tests.api.conftest import TABLE, House

LOGIN = b'{"extension": "1001", "context": "phones"}'
POST = b"POST /0.1/agents/1001/login HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /0.1/agents/1001/status HTTP/1.1\r\nHost: localhost\r\n"

Serve = Callable[..., Awaitable[HttpServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(app, …)`` gives a server that is up; keywords are settings of ``http``."""
    async with AsyncExitStack() as stack:

        async def started(
            app: Any,
            ending: Callable[[], Any] = lambda: None,
            most: int | None = None,
            **http: Any,
        ) -> HttpServer:
            settings = HttpSettings.model_validate(http)
            if "listen" not in http:
                settings = settings.model_copy(update={"listen": HostPort("127.0.0.1", 0)})
            it = HttpServer(app, settings, ending, most)
            await it.start()
            stack.push_async_callback(it.drain, 0)
            return it

        yield started


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - of the server's inside no event tells
        await asyncio.sleep(0.01)


async def sent(port: int, *parts: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            with suppress(ConnectionError):
                await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


def post(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(line + b"\r\n" for line in (*headers, b"Content-Length: %d" % len(body)))
    return POST + lines + b"\r\n" + body


async def test_served(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    async with httpx2.AsyncClient(base_url=f"http://localhost:{it.port}", timeout=60) as http:
        answer = await http.post("/0.1/agents/by-number/1001/login", content=LOGIN)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "server" not in answer.headers
        assert "date" in answer.headers
        assert (await http.get("/0.1/agents/1001/status")).json()["logged"] is True
        # The connection is kept.
        assert len(it._state.connections) == 1


async def test_the_port_is_taken(serve: Serve, house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="address already in use"):
            await serve(house.application(), listen=f"127.0.0.1:{port}")


async def test_several_requests_at_once_on_one_connection(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    last = GET + b"Connection: close\r\n\r\n"
    answer = await sent(it.port, post(LOGIN) + GET + b"\r\n" + last)
    assert answer.count(b"HTTP/1.1 204 No Content\r\n") == 1
    assert answer.count(b'"number":"1001","logged":true') == 2


async def test_without_httptools(
    house: House, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on machines for which it was not built."""
    monkeypatch.setattr(server, "HttpToolsProtocol", None)
    it = await serve(house.application())
    answer = await sent(it.port, post(LOGIN, b"Connection: close"))
    assert answer.startswith(b"HTTP/1.1 204 ")
    with suppress(ConnectionError):
        endless = await sent(it.port, GET, *[b"X-More: " + b"x" * 8000 + b"\r\n"] * 100)
        assert endless.startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("cut", [1, 7, 40, 90, 130])
async def test_a_request_in_pieces(house: House, serve: Serve, cut: int) -> None:
    it = await serve(house.application())
    whole = post(LOGIN, b"Connection: close")
    pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]
    assert (await sent(it.port, *pieces)).startswith(b"HTTP/1.1 204 ")


# -- what is too much


async def test_fifty_megabytes(house: House, serve: Serve) -> None:
    """The answer arrives, although the client sends on."""
    it = await serve(house.application())
    body = b"x" * 50_000_000
    answer = await sent(it.port, post(body))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'{"error":"The body is larger than 65536 bytes"}')
    async with httpx2.AsyncClient(base_url=f"http://localhost:{it.port}", timeout=60) as http:
        assert (await http.post("/0.1/agents/1001/login", content=body)).status_code == 413


@pytest.mark.parametrize("expects", [False, True])
async def test_fifty_megabytes_in_chunks(house: House, serve: Serve, expects: bool) -> None:
    """As curl sends them, which asks first and is told to go on."""
    it = await serve(house.application())
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = POST + b"Transfer-Encoding: chunked\r\n"
    head += b"Expect: 100-continue\r\n\r\n" if expects else b"\r\n"
    answer = await sent(it.port, head, *[chunk] * 800, b"0\r\n\r\n")
    assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").startswith(b"HTTP/1.1 413 ")


async def test_who_asks_before_sending_too_much(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    head = b"Content-Length: 50000000\r\nExpect: 100-continue\r\n\r\n"
    answer = await sent(it.port, POST + head)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_who_asks_before_sending(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    head = b"Content-Length: 42\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    answer = await sent(it.port, POST + head, LOGIN)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 ")


async def test_a_body_without_a_token(house: House, serve: Serve) -> None:
    it = await serve(house.application(tokens={"crm": "a-token-of-the-crm"}))
    answer = await sent(it.port, post(LOGIN))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nwww-authenticate: Bearer\r\n" in answer


async def test_headers_without_end(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    lines = [b"X-More: " + b"x" * 8000 + b"\r\n"] * 100
    answer = await sent(it.port, GET, *lines)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_path_without_end(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    answer = await sent(it.port, b"GET /", *[b"a" * 50_000] * 20)
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("begun", [b"", b"G", GET])
async def test_a_head_that_does_not_come(
    house: House, serve: Serve, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TICK", 0.02)
    monkeypatch.setattr(server, "HEAD_DEADLINE", 0.05)
    it = await serve(house.application())
    with suppress(ConnectionError):
        assert await sent(it.port, begun) == b""
    assert not it._state.connections


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", b"\r\n\r\n\r\n"])
async def test_blank_lines_between_two_requests_hold_no_connection(
    house: House, serve: Serve, blank: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end the time for the next request, and begin none."""
    monkeypatch.setattr(server, "TICK", 0.02)
    it = await serve(house.application())
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    writer.write(GET + b"\r\n")
    await reader.readuntil(b"]}")
    monkeypatch.setattr(server, "HEAD_DEADLINE", 0.1)
    writer.write(blank)
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    await until(lambda: not it._state.connections)


async def test_a_body_that_does_not_come(
    house: House, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_DEADLINE", 0.05)
    it = await serve(house.application())
    answer = await sent(it.port, POST + b"Content-Length: 42\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_slow_request_in_time(
    house: House, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for an answer, or between two requests, is not taken for a slow head."""
    monkeypatch.setattr(server, "TICK", 0.02)
    monkeypatch.setattr(server, "HEAD_DEADLINE", 0.05)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.3)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    it = await serve(slow)
    async with httpx2.AsyncClient(base_url=f"http://localhost:{it.port}", timeout=60) as http:
        assert (await http.get("/")).status_code == 204
        (connection,) = it._state.connections
        await asyncio.sleep(0.3)
        assert (await http.get("/")).status_code == 204
        assert it._state.connections == {connection}


async def test_too_many_connections(
    house: House, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MORE", 2)
    it = await serve(house.application(), max_listeners=1)
    with structlog.testing.capture_logs() as logs:
        kept = [await asyncio.open_connection("127.0.0.1", it.port) for _ in range(3)]
        for _, writer in kept:
            writer.write(GET + b"\r\n")
        for reader, _ in kept:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        for _ in range(3):
            with suppress(ConnectionError):
                assert await sent(it.port, GET + b"\r\n") == b""
        for _, writer in kept:
            writer.close()
            await writer.wait_closed()
    assert [line["event"] for line in logs] == ["too many connections, some are refused"]
    async with httpx2.AsyncClient(base_url=f"http://localhost:{it.port}", timeout=60) as http:
        assert (await http.get("/health/live")).status_code == 200


async def silent(port: int, count: int, host: str = "127.0.0.1") -> list[asyncio.StreamWriter]:
    """So many connections from that address that send nothing."""
    made = [
        await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0)) for _ in range(count)
    ]
    return [writer for _, writer in made]


async def test_one_address_does_not_take_every_connection(house: House, serve: Serve) -> None:
    """The oldest of an address that has shown no token make room, also for their own."""
    it = await serve(house.application(tokens={"crm": "a-token-of-the-crm"}), most=64)
    many = await silent(it.port, 80)
    try:
        await until(lambda: len(it._places) == 16)
        ask = GET + b"token: a-token-of-the-crm\r\nConnection: close\r\n\r\n"
        assert (await sent(it.port, ask)).startswith(b"HTTP/1.1 200 ")
        live = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await sent(it.port, live)).startswith(b"HTTP/1.1 200 ")
    finally:
        for writer in many:
            writer.close()


async def test_many_addresses_do_not_take_every_connection(house: House, serve: Serve) -> None:
    it = await serve(house.application(tokens={"crm": "a-token-of-the-crm"}), most=64)
    many = []
    for n in range(8):
        many += await silent(it.port, 15, f"127.0.1.{n + 1}")
    try:
        await until(lambda: len(it._places) == 64)
        ask = GET + b"token: a-token-of-the-crm\r\nConnection: close\r\n\r\n"
        assert (await sent(it.port, ask)).startswith(b"HTTP/1.1 200 ")
    finally:
        for writer in many:
            writer.close()


async def test_who_has_shown_a_token_keeps_the_connection(house: House, serve: Serve) -> None:
    it = await serve(house.application(tokens={"crm": "a-token-of-the-crm"}), most=64)
    ask = GET + b"token: a-token-of-the-crm\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    writer.write(ask)
    await reader.readuntil(b"}]}")
    many = await silent(it.port, 80)
    try:
        writer.write(ask)
        assert (await reader.readuntil(b"}]}")).startswith(b"HTTP/1.1 200 ")
    finally:
        for one in (writer, *many):
            one.close()


async def test_one_client_does_not_take_every_connection(house: House, serve: Serve) -> None:
    tokens = {"crm": "a-token-of-the-crm", "board": "a-token-of-the-board"}
    it = await serve(house.application(tokens=tokens), most=8)
    ask = GET + b"token: a-token-of-the-board\r\n\r\n"
    held = [await asyncio.open_connection("127.0.0.1", it.port) for _ in range(6)]
    for reader, writer in held:
        writer.write(ask)
        assert (await reader.readuntil(b"}]}")).startswith(b"HTTP/1.1 200 ")
    answer = await sent(it.port, ask)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"This client has too many connections" in answer
    ask = GET + b"token: a-token-of-the-crm\r\nConnection: close\r\n\r\n"
    assert (await sent(it.port, ask)).startswith(b"HTTP/1.1 200 ")
    for _, writer in held:
        writer.close()


async def test_behind_a_proxy_of_ours_are_many(house: House, serve: Serve) -> None:
    it = await serve(house.application(), most=64, proxies=["127.0.0.0/8"])
    many = await silent(it.port, 60)
    await until(lambda: len(it._places) == 60)
    for writer in many:
        writer.close()


async def test_no_descriptors(house: House, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is taken when there are some again; one line is written."""
    monkeypatch.setattr(server, "RETRY_ACCEPT", 0.01)
    it = await serve(house.application())
    (listener,) = it._listeners
    left = 5

    class Listener:
        def accept(self) -> Any:
            nonlocal left
            left -= 1
            if left > 0:
                raise OSError(24, "Too many open files")
            return listener.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(listener, name)

    it._loop.remove_reader(listener.fileno())
    it._listeners[:] = [Listener()]  # type: ignore[list-item]
    it._accept_again()
    with structlog.testing.capture_logs() as logs:
        live = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await sent(it.port, live)).startswith(b"HTTP/1.1 200 ")
    assert [line["event"] for line in logs] == ["no HTTP connection can be accepted"]


async def test_pipelined_health_checks(house: House, serve: Serve) -> None:
    """All are answered, in their order, and nothing is logged."""
    it = await serve(house.application())
    live = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = live.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with structlog.testing.capture_logs() as logs:
        answer = await sent(it.port, live * 190 + GET + b"\r\n" + last)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 192
    assert answer.index(b'"number":"1001"') > answer.rindex(b"alive", 0, answer.rindex(b"alive"))
    assert logs == []


async def test_thousands_sent_at_once_are_read_one_by_one(house: House, serve: Serve) -> None:
    """What is not its turn yet is kept as it came."""
    begun = asyncio.Event()
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    it = await serve(app)
    live = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    last = live.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    asked = asyncio.create_task(sent(it.port, live * 5000 + last))
    await begun.wait()
    for _ in range(5):
        await asyncio.sleep(0.01)
    (connection,) = it._state.connections
    assert len(connection.pipeline) == 1
    go_on.set()
    assert (await asked).count(b"HTTP/1.1 204 ") == 5001


async def test_what_is_too_much_is_said_after_what_was_asked_before(
    house: House, serve: Serve
) -> None:
    it = await serve(house.application())
    endless = b"GET /health/live HTTP/1.1\r\nX: " + b"x" * 70_000
    for wrong, status in ((endless, b"431"), (b"nonsense\r\n\r\n", b"400")):
        answer = await sent(it.port, GET + b"\r\n" + wrong)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1 ") == 2
        assert b"HTTP/1.1 " + status in answer


async def test_too_many_headers(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    answer = await sent(it.port, GET + b"a: b\r\n" * 200 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")


CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("head", "trailer", "status"),
    [
        (b"", b"token: a-token-of-the-crm\r\n", b"401"),
        (b"token: a-token-of-the-board\r\n", b"token: a-token-of-the-crm\r\n", b"403"),
        (b"token: a-token-of-the-crm\r\n", b"token: wrong-one\r\n", b"204"),
        (b"token: a-token-of-the-crm\r\n", b"Host: evil.example\r\n", b"204"),
    ],
)
async def test_trailers_are_no_headers(
    house: House, serve: Serve, head: bytes, trailer: bytes, status: bytes
) -> None:
    tokens = {
        "crm": {"token": "a-token-of-the-crm", "rights": ["read", "control"]},
        "board": {"token": "a-token-of-the-board", "rights": ["read"]},
    }
    it = await serve(house.application(tokens=tokens))
    body = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(LOGIN), LOGIN, trailer)
    close = b"Connection: close\r\n\r\n"
    answer = await sent(it.port, POST + head + CHUNKED + close + body)
    assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "what", [b"X: " + b"x" * 8000 + b"\r\n", b"1;" + b"x" * 8000 + b"\r\nx\r\n"]
)
async def test_trailers_without_end(house: House, serve: Serve, what: bytes) -> None:
    """Nor extensions of chunks."""
    it = await serve(house.application())
    end = b"" if what.startswith(b"1;") else b"0\r\n"
    with suppress(ConnectionError):
        await sent(it.port, POST + CHUNKED + b"\r\n" + end, *[what] * 100)
    assert not it._state.connections


async def test_two_hosts(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    answer = await sent(it.port, GET + b"Host: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"error":"Host is given more than once"}')


# -- who does not read


async def reads_nothing(port: int, request: bytes) -> socket.socket:
    """A client with a small window that has asked."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, request)
    return sock


def answering(size: int) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        length = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": bytes(size)})

    return app


@pytest.mark.parametrize("size", [3_000_000, 400_000])
async def test_who_takes_nothing_is_cut(
    house: House, serve: Serve, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(server, "TICK", 0.02)
    monkeypatch.setattr(server, "WRITE_DEADLINE", 0.2)
    guarded = guard.Guard(answering(size), TABLE, HttpSettings(), house.figures, house.log)
    it = await serve(guarded)
    sock = await reads_nothing(it.port, GET + b"\r\n")
    await until(lambda: bool(it._state.connections))
    await until(lambda: not it._state.connections)
    assert not it._state.tasks
    assert len(it._places) == 0
    sock.close()


async def test_an_answer_is_written_in_pieces(house: House, serve: Serve) -> None:
    """What one client does not take is not all in the server's buffer."""
    guarded = guard.Guard(answering(20_000_000), TABLE, HttpSettings(), house.figures, house.log)
    it = await serve(guarded)
    sock = await reads_nothing(it.port, GET + b"\r\n")
    await until(lambda: bool(it._state.connections))
    for _ in range(20):
        await asyncio.sleep(0.01)
    (connection,) = it._state.connections
    assert 0 < connection.buffered < 400_000
    sock.setblocking(True)
    read = await asyncio.to_thread(lambda: sum(len(sock.recv(2**20)) for _ in range(5)))
    assert read > 0
    sock.close()


def test_a_slow_reader_who_takes_some_is_not_cut() -> None:
    late = server.WRITE_DEADLINE + 1
    slow = server._Watched()
    left, now = 1_000_000, 0.0
    while left > 0:
        assert not slow.stuck(now, left)
        now, left = now + server.WRITE_DEADLINE / 2, left - server.LEAST
    assert not slow.stuck(now, 0)

    assert not slow.stuck(now, 500_000)  # the next answer
    assert not slow.stuck(now + late / 2, 499_000)
    assert slow.stuck(now + late, 498_000)  # next to nothing

    growing = server._Watched()  # a stream: what is added is taken, too
    assert not growing.stuck(0, 1000)
    assert not growing.stuck(late, 2000)
    assert growing.stuck(2 * late, 2000)


async def test_of_all_answers_only_so_much_waits(
    house: House, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TICK", 0.02)
    monkeypatch.setattr(server, "BUFFERED", 100_000)
    it = await serve(
        guard.Guard(answering(3_000_000), TABLE, HttpSettings(), house.figures, house.log)
    )
    with structlog.testing.capture_logs() as logs:
        socks = [await reads_nothing(it.port, GET + b"\r\n") for _ in range(5)]
        await until(lambda: bool(logs))
        await until(lambda: sum(one.buffered for one in it._state.connections) <= 100_000)
    assert {line["event"] for line in logs} == {"clients do not take their answers, some are cut"}
    for sock in socks:
        sock.close()


# -- who asks


async def test_whose_process_it_is(house: House, serve: Serve) -> None:
    seen: list[int | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["extensions"][server.OWNER]())
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with socket.create_server((host, 0), family=family) as free:
            port = free.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        await serve(app, listen=f"{shown}:{port}")
        async with httpx2.AsyncClient(base_url=f"http://{shown}:{port}", timeout=60) as http:
            await http.get("/")
    assert seen == [os.getuid()] * 2


async def test_whose_process_it_was(house: House) -> None:
    """A socket that is closed is nobody's: not root's, as the kernel has it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        mine, _ = listening.accept()
        with mine:
            ends = mine.getsockname(), mine.getpeername()
            assert peer.owner(*ends) == os.getuid()
            client.close()
            assert peer.owner(*ends) == peer.GONE


# -- nonsense

NONSENSE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a server without
    b"GET / HTTP/9.9\r\n\r\n",
    b"\r\n\r\n\x00\x00\x00",
    b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 42, 43\r\n\r\n",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_nonsense(
    house: House, serve: Serve, nonsense: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    it = await serve(house.application())
    with structlog.testing.capture_logs() as logs:
        answer = await sent(it.port, nonsense)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert house.hall.events == []
    assert logs == []  # whoever scans ports writes no log
    assert capfd.readouterr() == ("", "")
    async with httpx2.AsyncClient(base_url=f"http://localhost:{it.port}", timeout=60) as http:
        assert (await http.get("/health/live")).status_code == 200


async def test_no_websocket(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    upgrade = (
        b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    answer = await sent(it.port, b"GET /events HTTP/1.1\r\nHost: evil.example\r\n" + upgrade)
    assert answer.startswith(b"HTTP/1.1 403 ")


async def test_no_forwarded_address_is_believed(house: House, serve: Serve) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["client"][0], scope["scheme"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    it = await serve(app)
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    async with httpx2.AsyncClient(base_url=f"http://localhost:{it.port}", timeout=60) as http:
        await http.get("/", headers=headers)
    assert seen == [("127.0.0.1", "http")]


async def test_what_is_logged(
    house: House, serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    """No request line, whoever listens to everything; an application that fails, once."""
    heard: list[str] = []

    class Ears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    ears, root = Ears(), logging.getLogger()
    level = root.level
    root.addHandler(ears)
    root.setLevel(logging.DEBUG)
    try:
        it = await serve(house.application())
        with structlog.testing.capture_logs() as logs:
            await sent(it.port, b"GET /docs?token=secret HTTP/1.0\r\n\r\n")
            await sent(it.port, b"GET /nowhere?token=secret HTTP/1.0\r\n\r\n")
    finally:
        root.removeHandler(ears)
        root.setLevel(level)
    assert not [line for line in heard if "secret" in line or "GET" in line]
    assert logs == []
    assert capfd.readouterr() == ("", "")


async def test_an_answer_that_breaks_off(house: House, serve: Serve) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("half-way")

    settings = HttpSettings()
    guarded = guard.Guard(app, TABLE, settings, house.figures, house.log)
    it = await serve(guarded)
    with structlog.testing.capture_logs() as logs:
        answer = await sent(it.port, GET + b"\r\n")
    assert not answer.endswith(b"0\r\n\r\n")  # the end of a whole one
    assert [line["event"] for line in logs] == ["HTTP server"]


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificate.pem and key.pem, of localhost; other.pem is another key, and
    locked.pem one with a password."""
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    for name, more in (("key", ["-nodes"]), ("other", ["-nodes"]), ("locked", [])):
        made = "certificate" if name == "key" else f"{name}-certificate"
        request = ["openssl", "req", "-x509", "-days", "2", "-passout", "pass:secret"]
        files = ["-keyout", f"{folder}/{name}.pem", "-out", f"{folder}/{made}.pem"]
        subprocess.run([*request, *ec, *more, *subject, *files], check=True, capture_output=True)
    return folder


async def test_tls(house: House, serve: Serve, certificate: Path) -> None:
    files = {"certificate": certificate / "certificate.pem", "key": certificate / "key.pem"}
    it = await serve(house.application(), tls=files)
    trusting = ssl.create_default_context(cafile=str(files["certificate"]))
    async with httpx2.AsyncClient(
        base_url=f"https://localhost:{it.port}", verify=trusting, timeout=60
    ) as http:
        answer = await http.post("/0.1/agents/1001/login", content=LOGIN)
        assert answer.status_code == 204
    # Plain HTTP is not served beside it.
    with suppress(ConnectionError):
        assert not (await sent(it.port, GET + b"\r\n")).startswith(b"HTTP")


async def test_handshakes_that_never_end_are_counted(
    house: House, serve: Serve, certificate: Path
) -> None:
    """From the first byte on, by address: others get through, and one's own new ones, too."""
    files = {"certificate": certificate / "certificate.pem", "key": certificate / "key.pem"}
    it = await serve(house.application(), tls=files, most=64)
    many = await silent(it.port, 80)
    begun = await silent(it.port, 80, "127.0.0.2")
    try:
        for writer in begun:
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        await until(lambda: len(it._places) == 32)
        trusting = ssl.create_default_context(cafile=str(files["certificate"]))
        base = f"https://localhost:{it.port}"
        async with httpx2.AsyncClient(base_url=base, verify=trusting, timeout=60) as http:
            answer = await http.get("/health/live")
        assert answer.status_code == 200
        assert "max-age=" in answer.headers["strict-transport-security"]
    finally:
        for writer in (*many, *begun):
            writer.close()


async def test_a_handshake_has_its_time(
    house: House, serve: Serve, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE", 0.1)
    files = {"certificate": certificate / "certificate.pem", "key": certificate / "key.pem"}
    it = await serve(house.application(), tls=files)
    with structlog.testing.capture_logs() as logs, suppress(ConnectionError):
        assert await sent(it.port, b"\x16\x03\x01") == b""
    await until(lambda: len(it._places) == 0)
    assert logs == []


async def test_a_tls_client_that_does_not_take_the_goodbye_stops_no_deadline(
    house: House, serve: Serve, certificate: Path
) -> None:
    """One that is closed twice raises in Python 3.11.2 when it is aborted."""
    files = {"certificate": certificate / "certificate.pem", "key": certificate / "key.pem"}
    it = await serve(house.application(), tls=files)
    trusting = ssl.create_default_context(cafile=str(files["certificate"]))
    with socket.create_connection(("127.0.0.1", it.port)) as sock:
        sock.setblocking(False)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting.wrap_bio(incoming, outgoing, server_hostname="localhost")
        loop = asyncio.get_running_loop()
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                await loop.sock_sendall(sock, outgoing.read())
                incoming.write(await loop.sock_recv(sock, 65536))
        client.write(b"GET /docs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await loop.sock_sendall(sock, outgoing.read())
        await until(lambda: [c for c in it._state.connections if c.transport.is_closing()])
        with structlog.testing.capture_logs() as logs:
            (left,) = it._state.connections
            left.shutdown()
            it._look(loop.time())
            left.cut()
            await until(lambda: not it._state.connections)
        assert logs == []


async def test_old_tls_is_refused(house: House, serve: Serve, certificate: Path) -> None:
    files = {"certificate": certificate / "certificate.pem", "key": certificate / "key.pem"}
    it = await serve(house.application(), tls=files)

    async def with_version(version: ssl.TLSVersion) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(files["certificate"])
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        _, writer = await asyncio.open_connection("localhost", it.port, ssl=context)
        spoken: str = writer.get_extra_info("ssl_object").version()
        writer.close()
        return spoken

    assert await with_version(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert await with_version(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with (
        pytest.warns(DeprecationWarning, match="TLSv1_1"),
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        await with_version(ssl.TLSVersion.TLSv1_1)


@pytest.mark.parametrize(
    ("cert", "key", "error"),
    [
        ("missing.pem", "key.pem", r"http\.tls\.certificate: .*missing\.pem: No such file"),
        ("certificate.pem", "missing.pem", r"http\.tls\.key: .*missing\.pem: No such file"),
        ("certificate.pem", ".", r"http\.tls\.key: .*: Is a directory"),
        ("key.pem", "key.pem", r"http\.tls\.certificate: .*key\.pem: is no certificate in PEM"),
        ("certificate.pem", "certificate.pem", r"http\.tls\.key: .*: is no key in PEM"),
        ("certificate.pem", "other.pem", r"other\.pem: is not the key of .*certificate\.pem"),
        ("locked-certificate.pem", "locked.pem", r"locked\.pem: needs a password"),
    ],
)
async def test_bad_files(
    house: House, serve: Serve, certificate: Path, cert: str, key: str, error: str
) -> None:
    files = {"certificate": certificate / cert, "key": certificate / key}
    with pytest.raises(OSError, match=error):
        await serve(house.application(), tls=files)


# -- the end


async def test_drained(house: House, serve: Serve) -> None:
    """A request on its way is finished, one that waits for nothing is closed, none is taken."""
    it = await serve(house.application())
    reached = house.hall.faults.stop_at("before queues.apply")
    port = it.port
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
    idle_writer.write(GET + b"\r\n")
    await idle_reader.readuntil(b"}]}")
    asked = asyncio.create_task(sent(it.port, post(LOGIN)))
    await reached.wait()
    drained = asyncio.create_task(it.drain(30))
    assert await idle_reader.read() == b""
    idle_writer.close()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)
    assert not drained.done()
    house.hall.faults.go_on("before queues.apply")
    assert (await asked).startswith(b"HTTP/1.1 204 ")
    await drained
    assert house.hall.state.session is not None
    await it.drain(30)  # once more does no harm


async def test_who_does_not_finish_is_cut_off(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    reached = house.hall.faults.stop_at("before queues.apply")
    asked = asyncio.create_task(sent(it.port, post(LOGIN)))
    await reached.wait()
    with structlog.testing.capture_logs() as logs:
        await it.drain(0.05)
    assert logs[0] == {"event": "requests were cut off", "count": 1, "log_level": "warning"}
    with suppress(ConnectionError):
        assert await asked == b""


async def test_streams_end_at_once(house: House, serve: Serve) -> None:
    app = house.application()
    feed = asyncio.create_task(house.feed.run())
    it = await serve(app, ending=lambda: bool(feed.cancel()))
    async with (
        httpx2.AsyncClient(base_url=f"http://localhost:{it.port}", timeout=60) as http,
        http.stream("GET", "/events") as stream,
    ):
        assert stream.status_code == 200
        lines = stream.aiter_lines()
        await anext(lines)
        async with asyncio.timeout(10):
            await it.drain(60)
            async for _ in lines:
                pass
    with suppress(asyncio.CancelledError):
        await feed


async def test_never_started(house: House) -> None:
    await HttpServer(house.application(), HttpSettings()).drain(1)


# -- tokens that are withdrawn


async def test_a_stream_ends_with_its_token(house: House, serve: Serve) -> None:
    """At once, whether something happens or not; the others go on."""
    tokens = {
        "crm": {"token": "a-token-of-the-crm", "rights": ["read", "control"]},
        "board": {"token": "a-token-of-the-board", "rights": ["read"]},
        "wall": {"token": "a-token-of-the-wall", "rights": ["read"]},
    }
    app = house.application(tokens=tokens)
    feeding = asyncio.create_task(house.feed.run())
    it = await serve(app)
    streams = {}
    for name, of in tokens.items():
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        token = str(of["token"]).encode()
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\ntoken: " + token + b"\r\n\r\n")
        await reader.readuntil(b"id: ")
        streams[name] = reader, writer
    assert house.feed.listeners == 3
    later = tokens | {"wall": {"token": "a-token-of-the-wall", "rights": ["control"]}}
    del later["crm"]
    app.use(HttpSettings.model_validate({"tokens": later}).tokens)
    for name in ("crm", "wall"):
        reader, writer = streams[name]
        await reader.readuntil(b"0\r\n\r\n")  # the end of a whole one
        writer.close()
    assert house.feed.listeners == 1
    ask = GET + b"token: a-token-of-the-crm\r\nConnection: close\r\n\r\n"
    assert (await sent(it.port, ask)).startswith(b"HTTP/1.1 401 ")
    streams["board"][1].close()
    feeding.cancel()


async def test_without_tokens_a_stream_ends_when_there_are_some(house: House, serve: Serve) -> None:
    app = house.application()
    feeding = asyncio.create_task(house.feed.run())
    it = await serve(app)
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"id: ")
    app.use(HttpSettings.model_validate({"tokens": {"crm": "a-token-of-the-crm"}}).tokens)
    await reader.readuntil(b"0\r\n\r\n")  # the end of a whole one
    writer.close()
    feeding.cancel()


async def test_one_client_does_not_take_every_place_of_listeners(
    house: House, serve: Serve
) -> None:
    tokens = {"crm": "a-token-of-the-crm", "board": "a-token-of-the-board"}
    app = house.application(tokens=tokens, max_listeners=4)
    feeding = asyncio.create_task(house.feed.run())
    it = await serve(app)

    async def listen(token: str) -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        ask = f"GET /events HTTP/1.1\r\nHost: localhost\r\ntoken: {token}\r\n\r\n"
        writer.write(ask.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        return head, writer

    answers = [await listen(tokens["board"]) for _ in range(4)]
    answers.append(await listen(tokens["crm"]))
    statuses = [head.split()[1] for head, _ in answers]
    assert statuses == [b"200", b"200", b"200", b"503", b"200"]
    for _, writer in answers:
        writer.close()
    feeding.cancel()


async def test_heads_over_the_wire(house: House, serve: Serve) -> None:
    """Nothing follows a head, so the connection can be used again; also after the endless one's."""
    it = await serve(house.application())
    feeding = asyncio.create_task(house.feed.run())
    limits = httpx2.Limits(max_connections=1)
    try:
        async with httpx2.AsyncClient(
            base_url=f"http://localhost:{it.port}", limits=limits, timeout=20
        ) as http:
            for path in ("/live/agents", "/events?after=0", "/health/ready", "/page/page.js"):
                head = await http.head(path)
                assert (head.status_code, head.content) == (200, b""), path
                assert (await http.get("/health/live")).json() == {"status": "alive"}
            assert house.feed.listeners == 0
    finally:
        feeding.cancel()


LAST = GET + b"Connection: close\r\n\r\n"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LOGIN), LOGIN)


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: %d\r\n\r\n%b" % (len(LOGIN), LOGIN),
        b"Transfer-Encoding: chunked\r\n\r\n" + IN_CHUNKS,
    ],
    ids=["length", "chunked"],
)
async def test_a_body_behind_another_request_is_read(
    house: House, serve: Serve, body: bytes
) -> None:
    """It is held while the first is answered."""
    it = await serve(house.application())
    answer = await sent(it.port, GET + b"\r\n" + POST + body + LAST)
    assert answer.count(b'"number":"1001","logged":false') == 1
    assert answer.count(b"HTTP/1.1 204 No Content\r\n") == 1
    assert answer.count(b'"number":"1001","logged":true') == 1


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: %d\r\n\r\n%b" % (len(LOGIN), LOGIN),
        b"Transfer-Encoding: chunked\r\n\r\n" + IN_CHUNKS,
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("cut", [0, 1, 3], ids=["whole", "in_the_blank_line", "before_it"])
async def test_a_body_with_an_offer_of_another_protocol_is_read(
    house: House, serve: Serve, body: bytes, cut: int
) -> None:
    """Java's HttpClient offers HTTP/2 with its first request, whatever that is."""
    it = await serve(house.application())
    head, _, rest = (POST + UPGRADE + body).partition(b"\r\n\r\n")
    text = head + b"\r\n\r\n" + rest + POST + UPGRADE + body + LAST
    begin = len(head) + 4 - cut if cut else 0
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    try:
        if begin:
            writer.write(text[:begin])
            await until(lambda: any(c.scope is not None for c in it._state.connections))
        writer.write(text[begin:])
        async with asyncio.timeout(20):
            answer = await reader.read()
    finally:
        writer.close()
    assert answer.count(b"HTTP/1.1 204 No Content\r\n") == 2
    assert answer.count(b'"number":"1001","logged":true') == 1


async def test_a_request_behind_a_refused_upgrade(house: House, serve: Serve) -> None:
    it = await serve(house.application())
    answer = await sent(it.port, GET + UPGRADE + b"\r", b"\n" + LAST)
    assert answer.count(b'"number":"1001"') == 2


@pytest.mark.parametrize("version", [b"0.9", b"1.0", b"2.0"])
@pytest.mark.parametrize("host", [b"", b"Host: localhost\r\n"], ids=["no_host", "host"])
async def test_without_tokens_only_http_1_1_is_served(
    house: House, serve: Serve, version: bytes, host: bytes
) -> None:
    it = await serve(house.application())
    answer = await sent(
        it.port, b"GET /0.1/agents/1001/status HTTP/" + version + b"\r\n" + host + b"\r\n"
    )
    status = int(answer.split(b" ", 2)[1])
    assert status in (400, 403)
    assert b"1001" not in answer


async def test_a_connection_that_cannot_begin_leaves_its_place(
    house: House, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = await serve(house.application())
    good = it._config.http_protocol_class

    def bad(**_: Any) -> Any:
        raise ValueError("boom")

    monkeypatch.setattr(it._config, "http_protocol_class", bad)
    with structlog.testing.capture_logs() as logs:
        assert await sent(it.port, GET + b"\r\n") == b""
    assert [entry["event"] for entry in logs] == ["an HTTP connection could not begin"]
    assert len(it._places) == 0
    monkeypatch.setattr(it._config, "http_protocol_class", good)
    assert b"200 OK" in await sent(it.port, LAST)
