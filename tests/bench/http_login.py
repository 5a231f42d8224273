"""Logins over HTTP, with everything on, against an empty FastAPI route of the same server.

    python tests/bench/http_login.py [--seconds 4] [--rounds 3] [--connections 16]

In turn, in the same run, over the same kept-alive connections: a POST to a route of the same
application that does nothing, and ``POST /0.1/agents/by-number/<number>/login`` for agents who
are not logged in yet: token, rights, agent looked up, intent and change committed durably, three
pipelined QueueAdds, an event with its deliveries over AMI. A stand-in for the manager interface
answers at once, and sends the members' events. Quote the ratios.
"""

import argparse
import asyncio
import json
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from load import percentiles  # noqa: E402 - found through the line above
from sessions import FIRST, Process, configuration, free_port  # noqa: E402

AGENTS = 49_000
TOKEN = "bench-token-of-a-client"
EMPTY = "/empty"


def serve(path: str) -> None:
    """``fastagi serve`` with one route more, which does nothing."""
    import fastagi.api.asgi
    from fastagi import cli

    ours = fastagi.api.asgi.routed

    def with_empty(*parts: Any) -> Any:
        application = ours(*parts)

        @application.post(EMPTY, status_code=204)
        async def empty() -> None: ...

        return application

    fastagi.api.asgi.routed = with_empty
    sys.argv = ["fastagi", "serve", "--log-format", "json", "--config", path]
    cli.main()


def with_http(path: Path) -> int:
    """The configuration of the other benchmarks, and HTTP with a token."""
    port = free_port()
    clients = f"tokens: {{bench: {{token: {TOKEN}, rights: [read, control, configure]}}}}"
    path.write_text(path.read_text() + f"http: {{listen: '127.0.0.1:{port}', {clients}}}\n")
    return port


def request(path: str, body: bytes = b"") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def login(number: int) -> bytes:
    body = json.dumps({"extension": str(number), "context": "phones"}).encode()
    return request(f"/0.1/agents/by-number/{number}/login", body)


def client(options: argparse.Namespace) -> dict[str, Any]:
    """So many connections, each with one request on its way all the time."""
    epoll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    sent: dict[int, float] = {}
    latencies: list[float] = []
    statuses: dict[str, int] = {}
    number = options.first
    empty = request(EMPTY)

    def send(sock: socket.socket) -> None:
        nonlocal number
        data = empty
        if options.what == "login":
            data, number = login(number), number + 1
        sent[sock.fileno()] = time.perf_counter()
        sock.send(data)

    for _ in range(options.connections):
        sock = socket.create_connection(("127.0.0.1", options.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[sock.fileno()] = sock
        epoll.register(sock.fileno(), select.EPOLLIN)
    begin = time.perf_counter()
    stop = begin + options.seconds
    for sock in sockets.values():
        send(sock)
    waiting = len(sockets)
    while waiting:
        for fd, _ in epoll.poll(1.0):
            answer = sockets[fd].recv(65536)
            if not answer:
                raise SystemExit("closed by the server")
            now = time.perf_counter()
            latencies.append((now - sent[fd]) * 1000)
            status = answer[9:12].decode()
            statuses[status] = statuses.get(status, 0) + 1
            if status != "204" and statuses[status] == 1:
                print(answer, file=sys.stderr)
            if now < stop:
                send(sockets[fd])
            else:
                waiting -= 1
    took = time.perf_counter() - begin
    return {
        "requests": len(latencies),
        "per_second": round(len(latencies) / took, 1),
        "latency_ms": percentiles(latencies),
        "statuses": statuses,
        "next": number,
    }


def measured(port: int, what: str, first: int, options: argparse.Namespace) -> dict[str, Any]:
    words = ("client", "--what", what, "--port", str(port), "--first", str(first))
    more = ("--connections", str(options.connections), "--seconds", str(options.seconds))
    done = subprocess.run(
        [sys.executable, __file__, *words, *more], capture_output=True, text=True, check=False
    )
    if not done.stdout:
        raise SystemExit(done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    if set(report["statuses"]) != {"204"}:
        print("UNEXPECTED:", report["statuses"], done.stderr, file=sys.stderr)
    return report


async def answers(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("role", nargs="?", choices=["serve", "client"])
    parser.add_argument("path", nargs="?", default="")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--what", choices=["empty", "login"])
    parser.add_argument("--port", type=int)
    parser.add_argument("--first", type=int, default=FIRST)
    options = parser.parse_args()
    if options.role == "serve":
        serve(options.path)
        return
    if options.role == "client":
        print(json.dumps(client(options)))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    two = len(os.sched_getaffinity(0)) > 1
    if two:
        os.sched_setaffinity(0, {1})  # the client inherits it
    with tempfile.TemporaryDirectory() as folder:
        ami = Process(sys.executable, str(HERE / "standin_ami.py"), "0", cpu=1 if two else None)
        path = configuration(Path(folder), ami.port, AGENTS)
        port = with_http(path)
        service = Process(sys.executable, __file__, "serve", str(path), cpu=0 if two else None)
        assert service.process.stdout is not None
        drain = subprocess.Popen(["cat"], stdin=service.process.stdout, stdout=subprocess.DEVNULL)
        try:
            asyncio.run(answers(port))
            time.sleep(8)  # it reads its agents ahead
            rates, tails, first = [], [], FIRST
            for _ in range(options.rounds):
                empty = measured(port, "empty", first, options)
                mine = measured(port, "login", first, options)
                first = mine["next"]
                rates.append(mine["per_second"] / empty["per_second"])
                tails.append(mine["latency_ms"]["p99"] / empty["latency_ms"]["p99"])
                print(
                    f"  empty {empty['per_second']:7.0f}/s p99 {empty['latency_ms']['p99']:.2f} ms"
                    f"   login {mine['per_second']:7.0f}/s p99 {mine['latency_ms']['p99']:.2f} ms"
                    f"   rate {rates[-1]:.2f}, p99 {tails[-1]:.2f} times",
                    flush=True,
                )
            print(
                f"{options.connections} connections: rate {statistics.median(rates):.2f} times, "
                f"p99 {statistics.median(tails):.2f} times"
            )
        finally:
            service.stop()
            ami.stop()
            drain.wait(10)


if __name__ == "__main__":
    main()
