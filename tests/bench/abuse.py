"""What a hostile network does to the running service: memory and the next call, before and after.

python tests/bench/abuse.py
"""

import contextlib
import os
import resource
import socket
import statistics
import sys
import time
from collections.abc import Callable

from sessions import Rig, load

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


def main() -> None:
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
