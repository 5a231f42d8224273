"""Plays Asterisk, many calls at once, as cheaply as Python can: one epoll loop, no asyncio.

    python tests/bench/load.py closed --at-once 50 --seconds 5      N calls always in progress
    python tests/bench/load.py burst --calls 3000                   N calls in the same instant
    python tests/bench/load.py open --rate 500 --seconds 10         R calls a second, come what may
    python tests/bench/load.py hold --calls 2000 --hold 2 --pid P   N calls, each T s in a prompt

Every mode takes --host, --port, --script, --agents, --extensions, --digits, --expect and prints
one JSON object. A call counts as served only when the server set AGENT_STATUS to what is expected
and then closed. Latency is from when the call was due until the server closed, in milliseconds.
"""

import argparse
import errno
import heapq
import json
import os
import resource
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

READ = select.EPOLLIN | select.EPOLLRDHUP
GIVE_UP = 15.0  # seconds a call may take beside its hold


@dataclass(slots=True)
class Options:
    port: int
    host: str = "127.0.0.1"
    script: str = "agent/login"
    agents: tuple[int, int] | None = (1001, 1001)  # first argument of each call, in turn
    extensions: tuple[int, int] = (1001, 1001)
    digits: list[str] = field(default_factory=list)  # answers to GET DATA, in turn within a call
    expect: tuple[str, ...] = ("LOGGED_IN",)  # outcomes that count; empty: any
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Call:
    sock: socket.socket
    headers: bytes
    due: float
    hold: float = 0.0
    outcome: str = ""
    asked: int = 0
    rest: bytes = b""
    connected: bool = False


class Asterisk:
    """The calls in progress and what became of the others."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.address = (options.host, options.port)
        self.family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        self.epoll = select.epoll()
        self.calls: dict[int, Call] = {}
        self.number = count()
        self.order = count()
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.latencies: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.served = 0
        self.on_end: Callable[[Call], None] = lambda call: None
        # Each command line is looked up whole, once; SET VARIABLE brings its outcome along.
        self.known: dict[bytes, tuple[bytes, str]] = {}
        self.before, self.after = self.same_for_all()

    def headers(self, n: int) -> bytes:
        options = self.options
        first, last = options.extensions
        extension = first + n % (last - first + 1)
        argument = ""
        if options.agents is not None:
            first, last = options.agents
            argument = f"agi_arg_1: {first + n % (last - first + 1)}\n"
        return (
            f"{self.before}agi_channel: PJSIP/{extension}-{n:08x}\n"
            f"agi_uniqueid: 1790000000.{n}\n"
            f"agi_callerid: {extension}\nagi_calleridname: Phone {extension}\n"
            f"{self.after}{argument}\n"
        ).encode()

    def same_for_all(self) -> tuple[str, str]:
        options = self.options
        before = [
            "agi_network: yes",
            f"agi_network_script: {options.script}",
            f"agi_request: agi://{options.host}:{options.port}/{options.script}",
            "agi_language: en",
            "agi_type: PJSIP",
            "agi_version: 22.10.1",
        ]
        after = [
            "agi_callingpres: 0",
            "agi_callingani2: 0",
            "agi_callington: 0",
            "agi_callingtns: 0",
            "agi_dnid: *31",
            "agi_rdnis: unknown",
            "agi_context: phones",
            "agi_extension: *31",
            "agi_priority: 2",
            "agi_enhanced: 0.0",
            "agi_accountcode: ",
            "agi_threadid: 140000000000",
        ]
        return "\n".join([*before, ""]), "\n".join([*after, ""])

    def dial(self, due: float, hold: float = 0.0) -> None:
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        call = Call(sock, self.headers(next(self.number)), due, hold)
        self.calls[sock.fileno()] = call
        error = sock.connect_ex(self.address)
        if error not in (0, errno.EINPROGRESS):
            self.end(call, os.strerror(error))
            return
        # On the same machine the connection usually stands already.
        try:
            call.connected = sock.send(call.headers) > 0
        except OSError:
            call.connected = False
        self.epoll.register(sock.fileno(), READ if call.connected else READ | select.EPOLLOUT)

    def end(self, call: Call, error: str = "") -> None:
        fd = call.sock.fileno()
        del self.calls[fd]
        call.sock.close()  # which takes it out of the epoll, too
        expected = self.options.expect
        self.outcomes[call.outcome or "none"] += 1
        if call.outcome and (not expected or call.outcome in expected):
            self.served += 1
            self.latencies.append((time.perf_counter() - call.due) * 1000)
        else:
            self.errors[error or "closed without the expected outcome"] += 1
        self.on_end(call)

    def ready(self, fd: int) -> None:
        call = self.calls.get(fd)
        if call is None:
            return
        if not call.connected:
            error = call.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.end(call, os.strerror(error))
                return
            try:
                call.sock.send(call.headers)
            except BlockingIOError:
                return
            except OSError as failure:
                self.end(call, os.strerror(failure.errno or 0))
                return
            call.connected = True
            self.epoll.modify(fd, READ)
            return
        try:
            data = call.sock.recv(16384)
        except BlockingIOError:
            return
        except OSError as failure:  # normal after the last reply, else an error
            self.end(call, os.strerror(failure.errno or 0))
            return
        if not data:
            self.end(call)
            return
        if call.rest or not data.endswith(b"\n") or data.count(b"\n") > 1:
            *lines, call.rest = (call.rest + data).split(b"\n")
            for line in lines:
                self.answer(call, line + b"\n")
        else:
            self.answer(call, data)

    def answer(self, call: Call, line: bytes) -> None:
        known = self.known.get(line)
        if known is None:
            known = self.reply_to(line)
            if len(self.known) < 10_000:
                self.known[line] = known
        reply, outcome = known
        if outcome:
            call.outcome = outcome
        if line.startswith(b"GET DATA"):
            digits = self.options.digits
            text = digits[call.asked] if call.asked < len(digits) else None
            call.asked += 1
            reply = f"200 result={text}\n".encode() if text is not None else reply
        elif call.hold and line.startswith(b"STREAM FILE"):
            hold, call.hold = call.hold, 0.0
            self.later(time.perf_counter() + hold, lambda: self.send(call, reply))
            return
        self.send(call, reply)

    def send(self, call: Call, reply: bytes) -> None:
        try:
            call.sock.send(reply)
        except OSError as failure:
            if call.sock.fileno() >= 0:
                self.end(call, os.strerror(failure.errno or 0))

    def reply_to(self, line: bytes) -> tuple[bytes, str]:
        words = line.decode("utf-8", "replace").split()
        match words:
            case ["SET", "VARIABLE", "AGENT_STATUS", outcome]:
                return b"200 result=1\n", outcome.strip('"')
            case ["SET", "VARIABLE", *_]:
                return b"200 result=1\n", ""
            case ["EXEC", "MSet", pairs]:
                status = pairs.strip('"').rpartition("AGENT_STATUS=")[2]
                return b"200 result=0\n", status
            case ["GET", "VARIABLE", name]:
                value = self.options.variables.get(name.strip('"'))
                if value is None:
                    return b"200 result=0\n", ""
                return f"200 result=1 ({value})\n".encode(), ""
            case ["GET", "FULL", "VARIABLE", *_]:
                return b"200 result=1 ()\n", ""
            case ["STREAM", "FILE", *_]:
                return b"200 result=0 endpos=8000\n", ""
            case ["GET", "DATA", *_]:
                return b"200 result= (timeout)\n", ""
            case ["CHANNEL", "STATUS"]:
                return b"200 result=6\n", ""
            case ["ANSWER" | "NOOP" | "VERBOSE" | "EXEC" | "SAY" | "WAIT", *_]:
                return b"200 result=0\n", ""
            case ["HANGUP"]:
                return b"200 result=1\n", ""
        return b"510 Invalid or unknown command\n", ""

    def later(self, due: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.timers, (due, next(self.order), action))

    def run(self, going_on: Callable[[], bool]) -> None:
        """Until ``going_on`` says no."""
        timers = self.timers
        while going_on():
            now = time.perf_counter()
            while timers and timers[0][0] <= now:
                heapq.heappop(timers)[2]()
            wait = 0.05 if not timers else min(0.05, max(0.0, timers[0][0] - now))
            for fd, _ in self.epoll.poll(wait, 512):
                self.ready(fd)

    def finish(self) -> None:
        """Let the calls in progress end; what does not is an error."""
        until = time.perf_counter() + GIVE_UP
        self.run(lambda: bool(self.calls) and time.perf_counter() < until)
        for call in list(self.calls.values()):
            self.end(call, "not ended in time")

    def report(self, mode: str, seconds: float, served: int | None = None) -> dict[str, object]:
        served = self.served if served is None else served
        return {
            "mode": mode,
            "calls": sum(self.outcomes.values()),
            "served": self.served,
            "failed": sum(self.errors.values()),
            "seconds": round(seconds, 3),
            "per_second": round(served / seconds, 1) if seconds else 0.0,
            "latency_ms": percentiles(self.latencies),
            "outcomes": dict(self.outcomes),
            "errors": dict(self.errors),
        }


def percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 3)

    return {
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "p999": at(0.999),
        "max": round(ordered[-1], 3),
    }


def closed(options: Options, at_once: int, seconds: float, pid: int | None) -> dict[str, object]:
    """``at_once`` calls always in progress, for that time.

    ``cpu_us_per_call`` is the server's own time: it says more than the rate on a busy machine.
    """
    asterisk = Asterisk(options)
    cpu = _cpu(pid)
    start = time.perf_counter()
    stop = start + seconds

    def next_call(_: Call) -> None:
        now = time.perf_counter()
        if now < stop:
            asterisk.dial(now)

    asterisk.on_end = next_call
    for _ in range(at_once):
        asterisk.dial(time.perf_counter())
    asterisk.run(lambda: time.perf_counter() < stop)
    took = time.perf_counter() - start
    served = asterisk.served
    asterisk.finish()
    report = asterisk.report("closed", took, served)
    if pid is not None:
        report["cpu_us_per_call"] = round((_cpu(pid) - cpu) / max(asterisk.served, 1) * 1e6, 1)
    return report


def burst(options: Options, calls: int) -> dict[str, object]:
    """All in the same instant."""
    asterisk = Asterisk(options)
    start = time.perf_counter()
    for _ in range(calls):
        asterisk.dial(start)
    asterisk.finish()
    return asterisk.report("burst", time.perf_counter() - start)


def open_loop(options: Options, rate: float, seconds: float) -> dict[str, object]:
    """Calls come at that rate whether or not the earlier ones are done."""
    asterisk = Asterisk(options)
    start = time.perf_counter()
    total = int(rate * seconds)

    def due(n: int) -> float:
        return start + n / rate

    def dial(n: int) -> None:
        # Late or not, each call's time counts from when it was due.
        asterisk.dial(due(n))
        if n + 1 < total:
            asterisk.later(due(n + 1), lambda: dial(n + 1))

    asterisk.later(start, lambda: dial(0))
    asterisk.run(lambda: time.perf_counter() < start + seconds)
    asterisk.finish()
    return asterisk.report("open", time.perf_counter() - start)


def hold(options: Options, calls: int, seconds: float, pid: int | None) -> dict[str, object]:
    """That many calls in a prompt at once; meanwhile further calls, one after the other.

    ``idle_ms`` and ``meanwhile_ms`` are the latencies of single calls before and during;
    ``kib_per_call`` is the growth of the server's resident memory over the calls held.
    """
    idle = _one_by_one(options, 50)
    before = _resident(pid)
    asterisk = Asterisk(options)
    # Each call and each single one among them is an agent of its own.
    asterisk.number = count(1_000)
    start = time.perf_counter()
    for _ in range(calls):
        asterisk.dial(time.perf_counter(), hold=seconds)
    asterisk.run(
        lambda: len(asterisk.timers) < calls and time.perf_counter() < start + seconds * 0.9
    )
    held = len(asterisk.timers)
    during = _resident(pid)
    others = Asterisk(options)
    others.number = count(1_000 + calls)
    stop = start + seconds * 0.9
    for _ in range(50):
        if time.perf_counter() >= stop:
            break
        others.dial(time.perf_counter())
        others.run(lambda: bool(others.calls) and time.perf_counter() < stop)
    others.finish()
    asterisk.finish()
    report = asterisk.report("hold", time.perf_counter() - start)
    report["held"] = held
    report["idle_ms"] = percentiles(idle.latencies)
    report["meanwhile_ms"] = percentiles(others.latencies)
    report["meanwhile_failed"] = sum(others.errors.values())
    if before is not None and during is not None and held:
        report["resident_kib"] = {"before": before, "during": during}
        report["kib_per_call"] = round((during - before) / held, 2)
    return report


def _one_by_one(options: Options, calls: int) -> Asterisk:
    asterisk = Asterisk(options)
    for _ in range(calls):
        asterisk.dial(time.perf_counter())
        asterisk.finish()
    return asterisk


def _resident(pid: int | None) -> int | None:
    """A process's resident memory in KiB."""
    if pid is None:
        return None
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def _cpu(pid: int | None) -> float:
    """The seconds a process has computed so far, the system's time for it included."""
    if pid is None:
        return 0.0
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plays Asterisk towards a FastAGI server.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--host", default="127.0.0.1")
    common.add_argument("--port", type=int, default=4573)
    common.add_argument("--script", default="agent/login")
    common.add_argument("--agents", default="1001-1001", help="FIRST-LAST, or empty for none")
    common.add_argument("--extensions", default="1001-1001", help="FIRST-LAST")
    common.add_argument("--digits", action="append", default=[], help="answer to a GET DATA")
    common.add_argument("--variable", action="append", default=[], help="NAME=VALUE to be read")
    common.add_argument("--expect", action="append", default=[], help="outcome that counts")
    common.add_argument("--pid", type=int, help="of the server: its CPU time, or its memory")
    common.add_argument("--any", action="store_true", help="any outcome counts")
    modes = parser.add_subparsers(dest="mode", required=True)
    mode = modes.add_parser("closed", parents=[common])
    mode.add_argument("--at-once", type=int, default=50)
    mode.add_argument("--seconds", type=float, default=5.0)
    mode = modes.add_parser("burst", parents=[common])
    mode.add_argument("--calls", type=int, default=3_000)
    mode = modes.add_parser("open", parents=[common])
    mode.add_argument("--rate", type=float, default=500.0)
    mode.add_argument("--seconds", type=float, default=10.0)
    mode = modes.add_parser("hold", parents=[common])
    mode.add_argument("--calls", type=int, default=2_000)
    mode.add_argument("--hold", type=float, default=2.0, help="seconds in the prompt")
    given = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options = Options(
        port=given.port,
        host=given.host,
        script=given.script,
        agents=_range(given.agents) if given.agents else None,
        extensions=_range(given.extensions),
        digits=given.digits,
        expect=() if given.any else tuple(given.expect or ["LOGGED_IN"]),
        variables=dict(pair.split("=", 1) for pair in given.variable),
    )
    match given.mode:
        case "closed":
            report = closed(options, given.at_once, given.seconds, given.pid)
        case "burst":
            report = burst(options, given.calls)
        case "open":
            report = open_loop(options, given.rate, given.seconds)
        case _:
            report = hold(options, given.calls, given.hold, given.pid)
    print(json.dumps(report))
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
