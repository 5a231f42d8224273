"""The service with a second door: what ``fastagi serve`` runs, and a socket for programs.

Its two words are the configuration and the path of the socket. One JSON object a line goes in at
the door, one comes out: ``{"id", "kind", "agent", …}`` and ``{"outcome"}``. They are carried out
with source ``api`` by the same ``AgentService`` that serves the phones.
"""

import asyncio
import json
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from fastagi import app, cli
from fastagi.agents import commands
from fastagi.agents.commands import Actor, Command
from fastagi.agents.devices import resolve
from fastagi.agents.errors import Refused
from fastagi.contract import Source


async def command(running: app.App, asked: dict[str, Any]) -> Command:
    """What is asked for, with source ``api``."""
    values: dict[str, Any] = {
        "id": asked["id"],
        "agent": asked["agent"],
        "source": Source.API,
        "actor": Actor(name=asked["id"]),
    }
    if "extension" in asked:
        device = resolve(running.settings.device_rules(), asked["extension"])
        assert device is not None
        values["device"] = device
    if "reason" in asked:
        reasons = await running.service.reasons()
        values["reason"] = next(r for r in reasons if r.code == asked["reason"])
    for name in ("queue", "move", "confirmed"):
        if name in asked:
            values[name] = asked[name]
    return commands.COMMANDS[asked["kind"]](**values)


async def answer(running: app.App, asked: dict[str, Any]) -> str:
    try:
        wanted = await command(running, asked)
        change = await running.service.execute(wanted, take_over=asked.get("take_over", False))
    except Refused as refusal:
        return refusal.outcome.value
    return change.outcome.value


async def serve(
    running: app.App, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        # Until the service is made nobody is there.
        while hasattr(running, "service") and (line := await reader.readline()):
            outcome = await answer(running, json.loads(line))
            writer.write(json.dumps({"outcome": outcome}).encode() + b"\n")
            await writer.drain()
    except ConnectionError:
        pass  # who asked is gone
    finally:
        writer.close()


async def run(config: Path, door: Path) -> None:
    running = app.App(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.stop)
    server = await asyncio.start_unix_server(partial(serve, running), door)
    try:
        await running.run()
    finally:
        server.close()


def main() -> None:
    config, door = map(Path, sys.argv[1:])
    door.unlink(missing_ok=True)  # of a life that was ended by force
    cli.set_up_log(cli.LogFormat.JSON, cli.LogLevel.INFO)
    app.run(lambda: run(config, door))
