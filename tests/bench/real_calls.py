"""Real calls on a real Asterisk: a login through this service against pure dialplan.

    python tests/bench/real_calls.py [--calls 200]

In turn, in the same run: from sending the Originate to hearing of the third QueueMemberAdded, once
by *314001 (the agent has three queues and no PIN), once with three AddQueueMember in the dialplan
and nothing else. Between two calls all three queues are left again. First with a real SIP phone,
which is called and answers by itself, then with a Local channel, a call without a phone.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from fastagi import config  # noqa: E402 - found through the line above, installed or not
from fastagi.demo.asterisk import Asterisk, free_port  # noqa: E402
from fastagi.demo.equipment import prepare  # noqa: E402
from fastagi.demo.phone import Phone  # noqa: E402
from fastagi.dialplan import render_dialplan  # noqa: E402

PURE = """
[bench-pure]
exten => s,1,AddQueueMember(sales,PJSIP/1001,0,,Agent/4001,PJSIP/1001)
 same => n,AddQueueMember(support,PJSIP/1001,2,,Agent/4001,PJSIP/1001)
 same => n,AddQueueMember(billing,PJSIP/1001,0,,Agent/4001,PJSIP/1001)
 same => n,Hangup()
[bench-idle]
exten => _X.,1,Answer()
 same => n,Wait(60)
"""
QUEUES = ("sales", "support", "billing")


class Manager:
    """The raw interface: what is measured is not this client."""

    def __init__(self, asterisk: Asterisk) -> None:
        self.socket = socket.create_connection(("127.0.0.1", asterisk.ami_port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(10)
        self.rest = b""
        self.send(
            Action="Login",
            Username=asterisk.admin_username,
            Secret=asterisk.admin_secret,
            Events="agent",
        )
        self.until(b"Authentication accepted")

    def send(self, **headers: str) -> None:
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        self.socket.sendall(f"{lines}\r\n".encode())

    def until(self, text: bytes, times: int = 1) -> None:
        while times:
            while b"\r\n\r\n" not in self.rest:
                self.rest += self.socket.recv(65536)
            message, _, self.rest = self.rest.partition(b"\r\n\r\n")
            times -= text in message

    def originate(self, channel: str, context: str, extension: str) -> float:
        """Milliseconds from here to the third member added."""
        began = time.perf_counter()
        self.send(
            Action="Originate",
            Channel=channel,
            Context=context,
            Exten=extension,
            Priority="1",
            Async="true",
        )
        self.until(b"Event: QueueMemberAdded", 3)
        return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    equipment = prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config").mkdir()
        asterisk = Asterisk(folder / "asterisk", equipment.asterisk, more_dialplan=PURE)
        for path in (ROOT / "config").glob("*.yml"):
            text = path.read_text(encoding="utf-8")
            text = text.replace("listen: 127.0.0.1:4573", f"listen: 127.0.0.1:{free_port()}")
            text = text.replace("port: 5038", f"port: {asterisk.ami_port}")
            text = text.replace("sqlite:///fastagi.db", f"sqlite:///{folder / 'fastagi.db'}")
            (folder / "config" / path.name).write_text(text, encoding="utf-8")
        os.environ["AMI_SECRET"] = asterisk.ami_secret
        asterisk.features = render_dialplan(config.load(folder / "config"))
        with asterisk:
            # As Asterisk is installed: the laboratory's verbose log is a line per dialplan step.
            log = asterisk.etc / "logger.conf"
            log.write_text("[logfiles]\nmessages => notice,warning,error\n")
            asterisk.cli("logger reload")
            service = subprocess.Popen(
                [sys.executable, "-m", "fastagi", "serve", "--config", str(folder / "config")],
                cwd=ROOT,
                stderr=subprocess.DEVNULL,
            )
            phone = Phone(
                folder / "phone",
                equipment.phone,
                "1001",
                asterisk.password("1001"),
                asterisk.sip_port,
            )
            try:
                asyncio.run(run(phone, asterisk, calls))
            finally:
                service.terminate()
                service.wait()


async def run(phone: Phone, asterisk: Asterisk, calls: int) -> None:
    async with phone:
        await asyncio.sleep(3)
        manager = Manager(asterisk)
        for name, channel in (
            ("a SIP phone", "PJSIP/1001"),
            ("a Local channel", "Local/1001@bench-idle/n"),
        ):
            await asyncio.to_thread(measure, manager, name, channel, calls)


def measure(manager: Manager, title: str, channel: str, calls: int) -> None:
    ours: list[float] = []
    pure: list[float] = []
    for n in range(calls + 10):
        took = manager.originate(channel, "phones", "*314001")
        time.sleep(0.01)
        manager.send(
            Action="Originate",
            Channel=channel,
            Context="phones",
            Exten="*32",
            Priority="1",
            Async="true",
        )
        manager.until(b"Event: QueueMemberRemoved", 3)
        manager.send(Action="Command", Command="channel request hangup all")
        time.sleep(0.01)
        other = manager.originate(channel, "bench-pure", "s")
        for queue in QUEUES:
            manager.send(Action="QueueRemove", Queue=queue, Interface="PJSIP/1001")
        manager.until(b"Event: QueueMemberRemoved", 3)
        # Nobody listens to the prompts: the next pair starts on a quiet Asterisk.
        manager.send(Action="Command", Command="channel request hangup all")
        time.sleep(0.01)
        if n >= 10:  # the first ones warm both up
            ours.append(took)
            pure.append(other)
    print(f"{title}:")
    for name, values in (("pure dialplan", pure), ("this service", ours)):
        ordered = sorted(values)
        print(
            f"  {name}: p50 {statistics.median(ordered):.2f} ms, "
            f"p90 {ordered[int(len(ordered) * 0.9)]:.2f} ms over {len(ordered)} calls"
        )
    print(f"  ratio of p50: {statistics.median(ours) / statistics.median(pure):.2f}")


if __name__ == "__main__":
    main()
