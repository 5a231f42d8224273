"""An Asterisk that comes back without its members: how long until all are there again?

    python tests/bench/restore.py [--agents 10000] [--rounds 2]

In turn, in the same run: a raw manager client that pipelines a QueueAdd for each of the agents'
five queues to a fresh Asterisk, and the service, which finds that its Asterisk was killed and puts
the same members back. The service's time is from its manager login to the end of the repair, with
all that belongs to it: finding out what is missing, the agents' locks, the events that every
QueueAdd brings, the lamps' states. Meanwhile a phone logs in, pauses and logs off again and again;
the time of a code is told before the restart and during the repair.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from fastagi import config  # noqa: E402 - found through the line above, installed or not
from fastagi.agents.commands import LogIn  # noqa: E402
from fastagi.agents.deciding import beginning  # noqa: E402
from fastagi.agents.devices import resolve  # noqa: E402
from fastagi.contract import Source  # noqa: E402
from fastagi.demo.asterisk import Asterisk, free_port  # noqa: E402
from fastagi.demo.equipment import prepare  # noqa: E402
from fastagi.dialplan import render_manager  # noqa: E402
from fastagi.store import open_store  # noqa: E402

FIRST = 20_000
QUEUES = {f"70{n}": f"queue{n}" for n in range(5)}
PHONES = 200  # agents beside, who log in and off meanwhile
OUTSTANDING = 500  # QueueAdds the raw client has on their way

REPAIRED = "Asterisk was brought in line with the store"
CONNECTED = "connected to Asterisk's manager interface"


def configuration(folder: Path, asterisk: Asterisk, agents: int) -> Path:
    path = folder / "config.yml"
    names = ", ".join(QUEUES.values())
    lines = [
        f"fastagi: {{listen: '127.0.0.1:{free_port()}'}}",
        f"asterisk: {{port: {asterisk.ami_port}, secret: '{asterisk.ami_secret}'}}",
        f"database: sqlite:///{folder / 'bench.db'}",
        "unplugged: off",
        "devices: [{match: 'XXXXX', context: phones, interface: 'PJSIP/{extension}'}]",
        "pause_reasons: [{code: 1, name: lunch}]",
        "queues:",
        *(f"  - {{number: '{number}', name: {name}}}" for number, name in QUEUES.items()),
        "agents:",
        *(
            f"  - {{number: '{FIRST + n}', name: Agent {n}, queues: [{names}]}}"
            for n in range(agents + PHONES)
        ),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


async def log_everybody_in(path: Path, agents: int) -> None:
    """In the store, as if they had dialled: without an Asterisk, in seconds."""
    settings = config.load(path)
    store = open_store(settings.database)
    store.bring_in(settings)

    async def one(n: int) -> None:
        number = str(FIRST + n)
        device = resolve(settings.device_rules(), number)
        assert device is not None
        login = LogIn(id=f"bench{n}", agent=number, source=Source.PHONE, device=device)
        await store.confirm(
            await store.begin(login.agent, beginning(login, datetime.now(UTC)), login.device)
        )

    for first in range(0, agents, 500):
        await asyncio.gather(*(one(n) for n in range(first, min(agents, first + 500))))
    await store.set_note("asterisk_started", "before")
    await store.close()


def raw(asterisk: Asterisk, agents: int) -> float:
    """Seconds from the first QueueAdd to the last answer."""
    link = socket.create_connection(("127.0.0.1", asterisk.ami_port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(
        f"Action: Login\r\nUsername: {asterisk.admin_username}\r\n"
        f"Secret: {asterisk.admin_secret}\r\nEvents: off\r\n\r\n".encode()
    )
    while b"Authentication accepted" not in link.recv(65536):
        pass
    actions = [
        f"Action: QueueAdd\r\nQueue: {queue}\r\nInterface: PJSIP/{number}\r\nPenalty: 0\r\n"
        f"Paused: false\r\nMemberName: Agent/{number}\r\nStateInterface: PJSIP/{number}\r\n\r\n"
        for number in range(FIRST, FIRST + agents)
        for queue in QUEUES.values()
    ]
    began = time.perf_counter()
    sent = answered = 0
    while answered < len(actions):
        if sent < len(actions) and sent - answered < OUTSTANDING:
            some = actions[sent : answered + OUTSTANDING]
            link.sendall("".join(some).encode())
            sent += len(some)
        data = link.recv(1 << 20)
        answered += data.count(b"\r\n\r\n")
    took = time.perf_counter() - began
    link.close()
    return took


class Codes:
    """A phone: log in, pause, log off, one after the other, each code timed."""

    def __init__(self, port: int, agents: int) -> None:
        self.port = port
        self.agents = agents
        self.took: list[float] = []
        self.outcomes: dict[str, int] = {}

    async def run(self) -> None:
        n = 0
        while True:
            extension = str(FIRST + self.agents + n % PHONES)
            for script, digits in (("login", extension), ("pause", "1"), ("logoff", "")):
                began = time.perf_counter()
                outcome = await self.code(script, digits, extension)
                self.took.append((time.perf_counter() - began) * 1000)
                self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
                await asyncio.sleep(0.01)
            n += 1

    async def code(self, script: str, digits: str, extension: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            f"agi_network: yes\nagi_network_script: agent/{script}\n"
            f"agi_channel: PJSIP/{extension}-00000001\nagi_language: en\n"
            f"agi_callerid: {extension}\nagi_uniqueid: 1.1\nagi_arg_1: {digits}\n\n".encode()
        )
        outcome = ""
        while line := await reader.readline():
            if b"AGENT_STATUS=" in line:
                outcome = line.decode().split("AGENT_STATUS=")[1].strip().strip('"')
            writer.write(b"200 result=0\n")
        writer.close()
        return outcome

    def told(self) -> str:
        took = sorted(self.took)
        p99 = took[int(len(took) * 0.99)] if took else 0.0
        text = f"{len(took)} codes, p50 {statistics.median(took):.1f} ms, p99 {p99:.1f} ms"
        self.took = []
        return text


def logged(log: Path, began: int, event: str) -> datetime | None:
    for line in log.read_text()[began:].splitlines():
        if f'"{event}"' in line:
            return datetime.fromisoformat(json.loads(line)["timestamp"])
    return None


def start(path: Path, log: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """The service, and its port."""
    words = ["serve", "--log-format", "json", "--config", str(path)]
    with log.open("a") as out:
        service = subprocess.Popen(
            [sys.executable, "-m", "fastagi", *words],
            stderr=out,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    return service, int(path.read_text().split("127.0.0.1:")[1].split("'")[0])


async def ours(folder: Path, path: Path, asterisk: Asterisk, agents: int) -> tuple[float, str, str]:
    """Seconds; the codes before, and during."""
    log = folder / "service.log"
    log.touch()
    start_mark = len(log.read_text())
    service, port = start(path, log)
    codes = Codes(port, agents)
    try:
        await wait(lambda: logged(log, start_mark, REPAIRED), 600)
        await asyncio.sleep(3)
        calling = asyncio.create_task(codes.run())
        await asyncio.sleep(8)
        before = codes.told()
        calling.cancel()
        asterisk.kill()
        mark = len(log.read_text())
        asterisk.start()
        await wait(lambda: logged(log, mark, CONNECTED), 60)
        calling = asyncio.create_task(codes.run())
        await wait(lambda: logged(log, mark, REPAIRED), 600)
        during = codes.told()
        calling.cancel()
        began, done = logged(log, mark, CONNECTED), logged(log, mark, REPAIRED)
        assert began is not None
        assert done is not None
        assert members(asterisk) >= agents * len(QUEUES)
        refused = {k: v for k, v in codes.outcomes.items() if "LOGGED" not in k and k != "PAUSED"}
        if refused:
            during += f", refused: {refused}"
        return (done - began).total_seconds(), before, during
    finally:
        service.terminate()
        service.wait()


async def wait(condition: object, within: float) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("nothing happens any more")
        await asyncio.sleep(0.5)


def members(asterisk: Asterisk) -> int:
    return sum(
        asterisk.cli(f"queue show {queue}", within=60).count("Agent/") for queue in QUEUES.values()
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    equipment = prepare()
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asterisk = Asterisk(folder / "asterisk", equipment.asterisk, queues=QUEUES)
        path = configuration(folder, asterisk, options.agents)
        asterisk.manager_sections = render_manager(config.load(path)).replace(
            "secret = ", f"secret = {asterisk.ami_secret} ;"
        )
        asyncio.run(log_everybody_in(path, options.agents))
        for _ in range(options.rounds):
            with asterisk:
                # As Asterisk is installed: the laboratory's log has a line per dialplan step.
                log = asterisk.etc / "logger.conf"
                log.write_text("[logfiles]\nmessages => notice,warning,error\n")
                asterisk.cli("logger reload")
                bare = raw(asterisk, options.agents)
            with asterisk:
                asterisk.cli("logger reload")
                took, before, during = asyncio.run(ours(folder, path, asterisk, options.agents))
            ratios.append(took / bare)
            total = options.agents * len(QUEUES)
            print(f"{total:,} members: raw client {bare:.2f} s, the service {took:.2f} s: ", end="")
            print(f"{took / bare:.2f} times")
            print(f"  codes before: {before}\n  codes during: {during}", flush=True)
    print(f"median {statistics.median(ratios):.2f} times")


if __name__ == "__main__":
    main()
