"""From the start of `fastagi serve` to its first served call, with 10,000 agents in YAML.

    python tests/bench/start.py

The first run brings the agents into a new database; the others find them unchanged.
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sessions import ROOT, configuration

REQUEST = b"""agi_network: yes
agi_network_script: agent/status
agi_channel: PJSIP/1001-00000001
agi_language: en
agi_callerid: 1001

"""


def served(port: int) -> bytes:
    """The commands of one call, answered as Asterisk would."""
    while True:
        try:
            call = socket.create_connection(("127.0.0.1", port))
            break
        except OSError:
            time.sleep(0.005)
    heard = b""
    with call:
        call.settimeout(10)
        call.sendall(REQUEST)
        while b"AGENT_STATUS" not in heard:
            heard += call.recv(4096)
            call.sendall(b"200 result=0\n")
    return heard


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = configuration(Path(name), 1, 10_000)
        port = int(path.read_text().split("127.0.0.1:")[1].split("'")[0])
        for run in range(4):
            began = time.perf_counter()
            with (Path(name) / "log").open("w") as log:
                service = subprocess.Popen(
                    [sys.executable, "-m", "fastagi", "serve", "--config", str(path)],
                    stderr=log,
                    cwd=ROOT,
                )
            served(port)
            what = "new" if run == 0 else "unchanged"
            took = time.perf_counter() - began
            print(f"10,000 agents, {what}: first call served after {took:.2f} s")
            service.terminate()
            service.wait()


if __name__ == "__main__":
    main()
