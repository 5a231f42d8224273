"""FastAGI sessions: this service with everything on, against a bare asyncio streams server.

    python tests/bench/sessions.py [--seconds 5] [--rounds 3]

Every call to the service logs a fresh agent in: headers checked, agent looked up, intent and
change committed durably, three pipelined QueueAdds, an event with its three deliveries, which
go out over AMI too. A stand-in for the manager interface answers at once. The bare server gives
four commands from a list (ANSWER, GET VARIABLE, STREAM FILE, SET VARIABLE); with --same-dialogue
the three that the service sends. Both are measured in turn in the same run; quote the ratios.
"""

import argparse
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
AGENTS = 49_000
FIRST = 1_000_000
# What the service sends when it logs an agent in.
SAME_DIALOGUE = (
    "ANSWER",
    'STREAM FILE agent-loginok ""',
    'EXEC MSet "AGENT_NUMBER=1001,AGENT_EXTENSION=1001,AGENT_PAUSE_REASON=,AGENT_STATUS=LOGGED_IN"',
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def configuration(folder: Path, ami_port: int, agents: int) -> Path:
    """Agents with three queues each, on extensions of the same numbers."""
    # In a folder of its own, as that one is watched for changes.
    path = folder / "config" / "config.yml"
    path.parent.mkdir()
    lines = [
        f"fastagi: {{listen: '127.0.0.1:{free_port()}', max_sessions: 10000}}",
        f"asterisk: {{host: 127.0.0.1, port: {ami_port}, secret: x}}",
        f"database: sqlite:///{folder / 'bench.db'}",
        "login: {in_use_by_another: take_over}",
        "devices: [{match: 'XXXX.', context: phones, interface: 'PJSIP/{extension}'}]",
        "pause_reasons: []",
        "queues:",
        *(f"  - {{number: '70{n}', name: queue{n}}}" for n in range(3)),
        "agents:",
        *(
            f"  - {{number: '{FIRST + n}', name: Agent {n}, queues: [queue0, queue1, queue2]}}"
            for n in range(agents)
        ),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


class Process:
    """A server on a core of its own (where there are two), ready when it prints its port."""

    def __init__(self, *words: str, env: dict[str, str] | None = None, cpu: int | None = None):
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        )
        if cpu is not None and len(os.sched_getaffinity(0)) > 1:
            os.sched_setaffinity(self.process.pid, {cpu})
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.last = line
            if "listening" in line:
                self.port = int(
                    json.loads(line)["port"] if line.startswith("{") else line.split()[-1]
                )
                break
        else:
            raise SystemExit(f"{words} did not start: {self.last}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def rss(self) -> int:
        """Resident memory in KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def load(port: int, *words: str, pid: int | None = None) -> dict[str, Any]:
    """One run of the load client, which plays Asterisk, on the other core."""
    command = [sys.executable, str(HERE / "load.py"), *words, "--port", str(port)]
    if pid is not None:
        command += ["--pid", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and not done.stdout:
        raise SystemExit(done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    if report["failed"]:
        print("FAILED CALLS:", report["errors"], report["outcomes"], file=sys.stderr)
    return report


class Rig:
    """The service, its stand-in manager and the bare server."""

    def __init__(
        self, agents: int = AGENTS, core: int | None = 0, commands: Sequence[str] = ()
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        python = sys.executable
        self.ami = Process(
            python, str(HERE / "standin_ami.py"), "0", cpu=None if core is None else 1
        )
        path = configuration(folder, self.ami.port, agents)
        self.next = FIRST
        self.service = Process(
            *(python, "-m", "fastagi", "serve", "--log-format", "json", "--config", str(path)),
            cpu=core,
        )
        # Its log goes on: somebody must read it, or the pipe fills.
        assert self.service.process.stdout is not None
        self.drain = subprocess.Popen(
            ["cat"], stdin=self.service.process.stdout, stdout=subprocess.DEVNULL
        )
        self.bare = Process(
            python,
            str(HERE / "bare.py"),
            "0",
            *commands,
            env={"MALLOC_MMAP_THRESHOLD_": "1073741824"},
            cpu=core,
        )

    def fresh(self, calls: int) -> list[str]:
        """Options of the load client for agents who are not logged in yet."""
        first, self.next = self.next, self.next + calls
        span = f"{first}-{first + calls - 1}"
        return ["--agents", span, "--extensions", span]

    def stop(self) -> None:
        for process in (self.service, self.bare, self.ami):
            process.stop()
        self.folder.cleanup()


def closed(rig: Rig, at_once: int, seconds: float, rounds: int) -> None:
    ratios, ours, theirs = [], [], []
    for _ in range(rounds):
        bare = load(rig.bare.port, "closed", "--at-once", str(at_once), "--seconds", str(seconds))
        mine = load(
            rig.service.port,
            *("closed", "--at-once", str(at_once), "--seconds", str(seconds)),
            *rig.fresh(int(6000 * seconds)),
            pid=rig.service.pid,
        )
        rig.next -= int(6000 * seconds) - mine["calls"]
        ours.append(mine["per_second"])
        theirs.append(bare["per_second"])
        ratios.append(mine["per_second"] / bare["per_second"])
        print(
            f"  bare {bare['per_second']:8.0f}/s   service {mine['per_second']:8.0f}/s   "
            f"ratio {ratios[-1]:.2f}   {mine.get('cpu_us_per_call')} µs CPU a call   "
            f"failed {mine['failed']}",
            flush=True,
        )
    print(
        f"{at_once} at once: bare {statistics.median(theirs):.0f}/s, "
        f"service {statistics.median(ours):.0f}/s, ratio {statistics.median(ratios):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["closed", "open", "burst", "hold"])
    parser.add_argument("--same-dialogue", action="store_true")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {1})  # the load client inherits it
    rig = Rig(commands=SAME_DIALOGUE if options.same_dialogue else ())
    time.sleep(8)  # it reads its agents ahead
    try:
        if options.only in (None, "hold"):  # first: memory that was once needed is not given back
            hold(rig)
        if options.only in (None, "closed"):
            for at_once in (50, 500):
                closed(rig, at_once, options.seconds, options.rounds)
        if options.only in (None, "open"):
            report = load(
                rig.service.port, "open", "--rate", "500", "--seconds", "10", *rig.fresh(5000)
            )
            print(
                f"open loop, 500 logins a second: {report['latency_ms']}, {report['failed']} failed"
            )
        if options.only in (None, "burst"):
            report = load(rig.service.port, "burst", "--calls", "3000", *rig.fresh(3000))
            print(f"3,000 calls at once: {report['served']} served, {report['failed']} failed")
    finally:
        rig.stop()


def hold(rig: Rig) -> None:
    """Calls that wait in a prompt: their memory, and what a login costs meanwhile."""
    options = ("hold", "--calls", "2000", "--hold", "2")
    report = load(rig.service.port, *options, *rig.fresh(3_100), pid=rig.service.pid)
    idle, busy = report["idle_ms"]["p50"], report["meanwhile_ms"]["p50"]
    print(
        f"2,000 calls in a 2 s prompt: {report['held']} held, {report['failed']} failed, "
        f"{report['kib_per_call']} KiB a call; one login more took {busy:.2f} ms, "
        f"idle {idle:.2f} ms ({busy / idle:.2f} times)"
    )


if __name__ == "__main__":
    main()
