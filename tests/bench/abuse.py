"""What a hostile network does to the running service: memory and the next call, before and after.

    python tests/bench/abuse.py          FastAGI's port
    python tests/bench/abuse.py http     HTTP's: what codes take meanwhile, 50 of them a second

``http --root FOLDER`` measures the service of another checkout, to compare two on one machine.
"""

import argparse
import contextlib
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sessions
from http_login import TOKEN, with_http
from sessions import FIRST, Process, Rig, configuration, load

HEADERS = b"agi_network: yes\nagi_network_script: agent/login\nagi_channel: PJSIP/1001-1\n"


class Attacker:
    def __init__(self, port: int) -> None:
        self.port = port
        self.held: list[socket.socket] = []

    def connect(self, data: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        if data:
            with contextlib.suppress(OSError):  # closed in our face: just right
                sock.sendall(data)
        return sock

    def port_scan(self) -> None:
        for _ in range(2000):
            self.connect().close()

    def end_of_file_anywhere(self) -> None:
        for end in range(len(HEADERS)):
            self.connect(HEADERS[:end]).close()

    def half_headers(self) -> None:
        self.held += [self.connect(HEADERS) for _ in range(500)]

    def silent(self) -> None:
        self.held += [self.connect() for _ in range(500)]

    def idle_5000(self) -> None:
        self.held += [self.connect() for _ in range(5000)]

    def long_lines(self) -> None:
        for _ in range(20):
            self.connect(b"agi_callerid: " + b"x" * 10_000_000).close()

    def many_headers(self) -> None:
        for _ in range(20):
            self.connect(b"".join(b"agi_x%d: y\n" % n for n in range(500_000))).close()

    def any_bytes(self) -> None:
        for byte in range(256):
            name = b"agi_calleridname: " + bytes([byte]) * 40 + b"\n\n"
            self.connect(HEADERS + name).close()

    def other_protocols(self) -> None:
        for data in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            os.urandom(4096),
        ):
            for _ in range(200):
                self.connect(data).close()

    def resets(self) -> None:
        for _ in range(500):
            sock = self.connect(HEADERS + b"\n")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()


# -- HTTP

PHONES = 50  # agents who log in and off
CONNECTIONS = 100
TOGETHER = 1_900  # connections that read nothing
WRONG = b"token: somebody-elses-token\r\n"
RIGHT = b"token: " + TOKEN.encode() + b"\r\n"
FLOODS = {
    "GET /": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /openapi.json": b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /docs": b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /health/ready": b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no token": b"GET /0.1/agents/1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a right token": b"GET /0.1/agents/1/status HTTP/1.1\r\nHost: localhost\r\n" + RIGHT + b"\r\n",
    "a wrong token": b"GET /0.1/agents/1/status HTTP/1.1\r\nHost: localhost\r\n" + WRONG + b"\r\n",
}


def flood(port: int, request: bytes, connections: int) -> None:
    """Each connection asks again as soon as it is answered, until standard input ends."""
    os.nice(10)  # what it takes of the machine itself is not what is measured
    epoll = select.epoll()
    epoll.register(sys.stdin.fileno(), select.EPOLLIN)
    held: dict[int, socket.socket] = {}
    answers = 0

    def connect() -> None:
        sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        held[sock.fileno()] = sock
        epoll.register(sock.fileno(), select.EPOLLIN)
        sock.send(request)

    for _ in range(connections):
        connect()
    print("flooding", flush=True)
    while True:
        for fd, _ in epoll.poll(1.0):
            if fd == sys.stdin.fileno():
                print(answers, flush=True)
                return
            with contextlib.suppress(OSError):
                if data := held[fd].recv(2**20):
                    if data.startswith(b"HTTP/1.1 "):
                        answers += 1
                        held[fd].send(request)
                    continue
            held.pop(fd).close()
            connect()


def codes(port: int, seconds: float) -> str:
    last = str(FIRST + PHONES - 1)
    report = load(
        port,
        *("open", "--script", "agent/toggle-login", "--rate", "50", "--seconds", str(seconds)),
        *("--agents", f"{FIRST}-{last}", "--extensions", f"{FIRST}-{last}"),
        *("--expect", "LOGGED_IN", "--expect", "LOGGED_OFF"),
    )
    latency = report["latency_ms"]
    return f"codes p50 {latency['p50']:7.2f} ms, p99 {latency['p99']:7.2f} ms"


def http(options: argparse.Namespace) -> None:
    if options.root is not None:
        sessions.ROOT = options.root
    two = len(os.sched_getaffinity(0)) > 1
    if two:
        os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as folder:
        standin = Path(__file__).parent / "standin_ami.py"
        ami = Process(sys.executable, str(standin), "0", cpu=1 if two else None)
        path = configuration(Path(folder), ami.port, options.agents)
        port = with_http(path)
        words = ("-m", "fastagi", "serve", "--log-format", "json", "--config", str(path))
        service = Process(sys.executable, *words, cpu=0 if two else None)
        assert service.process.stdout is not None
        log = (Path(folder) / "log").open("w")
        drain = subprocess.Popen(["cat"], stdin=service.process.stdout, stdout=log)
        time.sleep(5)

        def shown(what: str, said: str) -> None:
            files = len(list(Path(f"/proc/{service.pid}/fd").iterdir()))
            written = Path(log.name).stat().st_size / 1024
            print(
                f"{what:26} {said}   RSS {service.rss() / 1024:6.1f} MiB   {files} descriptors   "
                f"log {written:.0f} KiB",
                flush=True,
            )

        try:
            codes(service.port, 3)
            shown("before", codes(service.port, options.seconds))
            for name in FLOODS:
                flooding = subprocess.Popen(
                    [sys.executable, __file__, "flood", "--port", str(port), "--what", name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                assert flooding.stdout is not None
                flooding.stdout.readline()
                latency = codes(service.port, options.seconds)
                answers, _ = flooding.communicate()
                shown(name, f"{latency}   {int(answers) / options.seconds:5.0f} answers/s")
            many = [connected(port) for _ in range(3000)]
            shown("3,000 silent", codes(service.port, options.seconds))
            for sock in many:
                sock.close()
            ask = b"GET /live/agents HTTP/1.1\r\nHost: localhost\r\n" + RIGHT + b"\r\n"
            many = [connected(port, ask) for _ in range(TOGETHER)]
            shown("1,900 that read nothing", codes(service.port, options.seconds))
            time.sleep(45)
            shown("45 s later", codes(service.port, options.seconds))
            for sock in many:
                sock.close()
            ask = FLOODS["GET /health/ready"].replace(b"ready", b"live") * 5000
            many = [connected(port, ask) for _ in range(20)]
            shown("20 x 5,000 at once", codes(service.port, options.seconds))
            for sock in many:
                sock.close()
            shown("after", codes(service.port, options.seconds))
        finally:
            service.stop()
            ami.stop()
            drain.wait(10)


def connected(port: int, data: bytes = b"") -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(5)
    with contextlib.suppress(OSError):
        sock.connect(("127.0.0.1", port))
        sock.sendall(data)
    return sock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("what_port", nargs="?", choices=["fastagi", "http", "flood"])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--port", type=int)
    parser.add_argument("--what", choices=list(FLOODS))
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.what_port == "flood":
        flood(options.port, FLOODS[options.what], CONNECTIONS)
    elif options.what_port == "http":
        http(options)
    else:
        fastagi()


def fastagi() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rig = Rig(5000, core=None)
    try:
        time.sleep(3)
        look(rig, "before", lambda: None)
        attacker = Attacker(rig.service.port)
        for attack in (
            attacker.port_scan,
            attacker.end_of_file_anywhere,
            attacker.half_headers,
            attacker.silent,
            attacker.idle_5000,
            attacker.long_lines,
            attacker.many_headers,
            attacker.any_bytes,
            attacker.other_protocols,
            attacker.resets,
        ):
            look(rig, attack.__name__, attack)
        for sock in attacker.held:
            sock.close()
        time.sleep(6)
        look(rig, "after", lambda: None)
    finally:
        rig.stop()


def look(rig: Rig, name: str, attack: Callable[[], None]) -> None:
    attack()
    reports = [load(rig.service.port, "burst", "--calls", "1", *rig.fresh(1)) for _ in range(10)]
    latency = statistics.median(report["latency_ms"].get("p50", -1) for report in reports)
    served = sum(report["served"] for report in reports)
    print(
        f"{name:22} RSS {rig.service.rss() / 1024:6.1f} MiB   "
        f"the next logins: {served} of 10 served, p50 {latency:.2f} ms",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
