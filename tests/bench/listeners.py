"""Phone codes while many listen: what 200 event streams and 50 hooks cost the one who dials.

    python tests/bench/listeners.py [--seconds 20] [--rounds 3] [--listeners 200]

50 agents dial ``agent/toggle-login`` in turn, 100 codes a second, come what may; in the same run
without anybody listening, and with 200 listeners of ``/events`` and a hook for each login and
each log-off of every one of the agents, so that 100 deliveries go out a second too. A stand-in
for the manager interface answers at once. The service has a core of its own; all who call and
listen share the other one, the listeners behind the phones. Quote the ratio of the codes' p99.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from http_login import TOKEN, answers, with_http  # noqa: E402 - found through the line above
from sessions import FIRST, Process, configuration, load  # noqa: E402

AGENTS = 50


async def listen(port: int, listeners: int) -> None:
    """Says ``listening``, then counts what arrives until its standard input ends."""
    os.nice(19)  # the phones, on the same core, would be measured waiting for it
    events = deliveries = 0

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal deliveries
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            if length:
                await reader.readexactly(int(length))
            deliveries += 1
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await receive(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()

    async def stream() -> None:
        nonlocal events
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        ready.append(True)
        while data := await reader.read(65536):
            events += data.count(b"\nevent: ")

    ready: list[bool] = []
    receiver = await asyncio.start_server(quietly, "127.0.0.1", 0)
    tasks = [asyncio.create_task(stream()) for _ in range(listeners)]
    while len(ready) < listeners:  # noqa: ASYNC110 - counted, not one event
        await asyncio.sleep(0.02)
    print("listening", receiver.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"events": events, "deliveries": deliveries}), flush=True)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # all connections are cut
    for task in tasks:
        task.cancel()


def codes(port: int, seconds: float) -> dict[str, float]:
    last = FIRST + AGENTS - 1
    report = load(
        port,
        *("open", "--script", "agent/toggle-login", "--rate", "100", "--seconds", str(seconds)),
        *("--agents", f"{FIRST}-{last}", "--extensions", f"{FIRST}-{last}"),
        *("--expect", "LOGGED_IN", "--expect", "LOGGED_OFF"),
    )
    latency: dict[str, float] = report["latency_ms"]
    return latency


def hooks(port: int, receiver: int) -> None:
    for agent in range(1, AGENTS + 1):
        for kind in ("agent-login", "agent-logout"):
            data = {
                "url": f"http://127.0.0.1:{receiver}/hook",
                "method": "POST",
                "event_type": kind,
            }
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/client/bench/agent/local/{agent}/event/",
                json.dumps(data).encode(),
                {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
            )
            urllib.request.urlopen(request, timeout=10).read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("role", nargs="?", choices=["listen"])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--listeners", type=int, default=200)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    if options.role == "listen":
        asyncio.run(listen(options.port, options.listeners))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    two = len(os.sched_getaffinity(0)) > 1
    if two:
        os.sched_setaffinity(0, {1})
    ratios = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            ami = Process(sys.executable, str(HERE / "standin_ami.py"), "0", cpu=1 if two else None)
            path = configuration(Path(folder), ami.port, AGENTS)
            port = with_http(path)
            path.write_text(path.read_text() + "webhooks: {allow: [127.0.0.0/8]}\n")
            words = ("-m", "fastagi", "serve", "--log-format", "json", "--config", str(path))
            service = Process(sys.executable, *words, cpu=0 if two else None)
            assert service.process.stdout is not None
            drain = subprocess.Popen(
                ["cat"], stdin=service.process.stdout, stdout=subprocess.DEVNULL
            )
            asyncio.run(answers(port))
            time.sleep(2)
            codes(service.port, 3)
            alone = codes(service.port, options.seconds)
            listener = subprocess.Popen(
                [
                    sys.executable,
                    __file__,
                    "listen",
                    "--port",
                    str(port),
                    "--listeners",
                    str(options.listeners),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert listener.stdout is not None
            hooks(port, int(listener.stdout.readline().split()[1]))
            heard = codes(service.port, options.seconds)
            time.sleep(2)
            told, _ = listener.communicate()
            ratios.append(heard["p99"] / alone["p99"])
            print(
                f"  alone p50 {alone['p50']:.2f} p99 {alone['p99']:.2f} ms   listened to p50 "
                f"{heard['p50']:.2f} p99 {heard['p99']:.2f} ms   p99 {ratios[-1]:.2f} times   "
                f"heard: {told.strip()}",
                flush=True,
            )
            service.stop()
            ami.stop()
            drain.wait(10)
    print(
        f"p99 of a code with {options.listeners} listeners: {statistics.median(ratios):.2f} times"
    )


if __name__ == "__main__":
    main()
