"""The rendered dialplan on a real Asterisk: servers that answer, leave, hang or are not there."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fastagi.config import HostPort, Settings
from fastagi.demo.asterisk import Asterisk, free_port
from fastagi.dialplan import render_dialplan, render_manager, render_queues

pytestmark = pytest.mark.asterisk

Eventually = Callable[..., Awaitable[None]]


@dataclass
class Stub:
    """A FastAGI server: sets AGENT_STATUS, or (``mood``) leaves or hangs."""

    mood: str = "answers"
    port: int = field(default_factory=free_port)
    calls: list[tuple[str, str]] = field(default_factory=list)
    ended: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers = {}
        while (line := (await reader.readline()).decode().rstrip("\n")) != "":
            key, _, value = line.partition(": ")
            headers[key] = value
        self.calls.append((headers["agi_network_script"], headers.get("agi_arg_1", "(none)")))
        try:
            if self.mood == "answers":
                writer.write(b'SET VARIABLE AGENT_STATUS "LOGGED_IN"\n')
                await reader.readline()
            elif self.mood == "dies later":
                writer.write(b"ANSWER\n")
                await reader.readline()
            elif self.mood == "hangs":
                await reader.read()
        finally:
            self.ended += 1
            writer.close()


@asynccontextmanager
async def serving(stub: Stub) -> AsyncIterator[Stub]:
    server = await asyncio.start_server(stub.serve, "127.0.0.1", stub.port)
    try:
        yield stub
    finally:
        server.close()


def settings(*ports: int, **more: object) -> Settings:
    fastagi = {
        "listen": f"127.0.0.1:{ports[0]}",
        "standby": [f"127.0.0.1:{port}" for port in ports[1:]],
    }
    section = {**fastagi, **more.pop("fastagi", {})}  # type: ignore[dict-item]
    return Settings.model_validate({"asterisk": {"secret": "x"}, "fastagi": section, **more})


@pytest.fixture
def include(asterisk: Asterisk) -> Iterator[Callable[..., None]]:
    def take(text: str) -> None:
        asterisk.features = text
        asterisk.reload("dialplan")

    return take


async def originate(asterisk: Asterisk, extension: str) -> None:
    """A call to ``extension`` in the phones' context, through AMI: any character can be in it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.ami_port)
    lines = [
        "Action: Login",
        f"Username: {asterisk.admin_username}",
        f"Secret: {asterisk.admin_secret}",
        "Events: off",
        "",
        "Action: Originate",
        f"Channel: Local/{extension}@phones",
        "Application: Wait",
        "Data: 20",
        "Async: true",
        "",
        "",
    ]
    writer.write("\r\n".join(lines).encode())
    answers = b""
    while b"successfully queued" not in answers:
        chunk = await asyncio.wait_for(reader.read(4096), 5)
        assert chunk, answers
        answers += chunk
    writer.close()


def idle(asterisk: Asterisk) -> bool:
    return "0 active channels" in asterisk.cli("core show channels count")


async def test_every_form_of_every_code_reaches_its_script(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually
) -> None:
    async with serving(Stub()) as stub:
        include(render_dialplan(settings(stub.port, feature_codes={"queue": "#36"})))
        for dialled, called in {
            "*31": ("agent/login", ""),
            "*314001": ("agent/login", "4001"),
            "*314001*1001": ("agent/login", "4001*1001"),
            "*32": ("agent/logoff", ""),
            "*331": ("agent/pause", "1"),
            "*3312": ("agent/pause", "12"),
            "*34": ("agent/unpause", ""),
            "*35": ("agent/status", ""),
            "#36701": ("agent/queue", "701"),
            "*304001": ("agent/toggle-login", "4001"),
            "*39": ("agent/toggle-pause", ""),
        }.items():
            for typed in (dialled, f"{dialled}#"):  # some phones send the "#" that ends a number
                stub.calls.clear()
                await originate(asterisk, typed)
                await eventually(lambda called=called: stub.calls == [called])
        await eventually(lambda: idle(asterisk))
    assert asterisk.played(since=asterisk.mark()) == []


async def test_a_slip_after_a_code_without_digits_is_no_code(
    asterisk: Asterisk, include: Callable[..., None]
) -> None:
    include(render_dialplan(settings(1)))
    for slip in ("*345", "*3511"):
        shown = asterisk.cli(f"dialplan show {slip}@agent-features")
        assert "no existence of" in shown, shown


async def test_a_code_that_is_switched_off_is_not_there(
    asterisk: Asterisk, include: Callable[..., None]
) -> None:
    include(render_dialplan(settings(1, feature_codes={"status": None})))
    shown = asterisk.cli("dialplan show agent-features")
    assert "'*31'" in shown
    assert "*35" not in shown


async def test_the_second_server_takes_over(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually
) -> None:
    mark = asterisk.mark()
    async with serving(Stub()) as second:
        include(render_dialplan(settings(free_port(), second.port)))
        await originate(asterisk, "*331")
        await eventually(lambda: second.calls == [("agent/pause", "1")])
        await eventually(lambda: idle(asterisk))
    assert asterisk.played(since=mark) == []


@pytest.mark.parametrize("mood", ["leaves", "dies later"])
async def test_what_one_server_has_begun_no_other_does_again(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually, mood: str
) -> None:
    """A toggle would be done twice: the agent hears "try again"."""
    mark = asterisk.mark()
    async with serving(Stub(mood)) as first, serving(Stub()) as second:
        include(render_dialplan(settings(first.port, second.port)))
        await originate(asterisk, "*391")
        await eventually(
            lambda: asterisk.played(since=mark) == ["tt-somethingwrong", "please-try-again"]
        )
        await eventually(lambda: idle(asterisk))
    assert (len(first.calls), second.calls) == (1, [])


async def test_a_server_that_hangs_does_not_hold_the_call_for_ever(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually
) -> None:
    mark = asterisk.mark()
    async with serving(Stub("hangs")) as stub:
        include(render_dialplan(settings(stub.port, fastagi={"session_deadline": "1s"})))
        await originate(asterisk, "*31")
        await eventually(
            lambda: asterisk.played(since=mark) == ["tt-somethingwrong", "please-try-again"],
            within=20,
        )
        await eventually(lambda: idle(asterisk))
        await eventually(lambda: stub.ended == 1)


async def test_who_has_hung_up_is_not_taken_to_the_second_server(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually
) -> None:
    mark = asterisk.mark()
    async with serving(Stub("hangs")) as first, serving(Stub()) as second:
        include(render_dialplan(settings(first.port, second.port)))
        await originate(asterisk, "*31")
        await eventually(lambda: len(first.calls) == 1)
        asterisk.cli("channel request hangup all")
        await eventually(lambda: idle(asterisk))
        assert second.calls == []
    assert asterisk.played(since=mark) == []


async def test_a_missing_sound_is_not_silence(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually
) -> None:
    mark = asterisk.mark()
    include(render_dialplan(settings(free_port(), prompts={"UNAVAILABLE": "custom/not-there"})))
    await originate(asterisk, "*31")
    await eventually(lambda: "PlayTones" in asterisk.log_since(mark))
    await eventually(lambda: idle(asterisk))


async def test_the_admins_own_context_runs_afterwards(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually
) -> None:
    after = "[agent-features-after]\nexten => s,1,NoOp(told ${ARG1} ${AGENT_STATUS})\n"
    async with serving(Stub()) as stub:
        mark = asterisk.mark()
        include(render_dialplan(settings(stub.port)) + after + " same => n,Return()\n")
        await originate(asterisk, "*31")
        await eventually(lambda: "told agent/login LOGGED_IN" in asterisk.log_since(mark))
        await eventually(lambda: idle(asterisk))


@pytest.mark.parametrize(
    "dialled",
    [
        "*314001,evil)",
        "*314001)x${SHELL(id)}",
        '*314001"\\',
        "*314001${EVAL(${SHELL(touch x)})}",
        "*314001|Hangup(){}",
        "*31" + "9" * 70,
    ],
)
async def test_what_is_dialled_reaches_the_server_as_digits_and_stars_only(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually, dialled: str
) -> None:
    async with serving(Stub()) as stub:
        include(render_dialplan(settings(stub.port)))
        await originate(asterisk, dialled)
        await eventually(lambda: len(stub.calls) == 1)
        script, digits = stub.calls[0]
        assert script == "agent/login"
        assert not digits.strip("0123456789*")
        assert len(digits) <= 64
        await eventually(lambda: idle(asterisk))


async def test_lamps_for_agents_nobody_listed(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually
) -> None:
    include(render_dialplan(settings(1)))
    for extension, device in {
        "agent-4001": "Custom:agent-4001",
        "pause-4001": "Custom:pause-4001",
        "*304001": "Custom:agent-4001",
        "*317": "Custom:agent-7",
        "*304001*1001": "Custom:agent-4001",
        "*314001*0712345678": "Custom:agent-4001",
        "*304001#": "Custom:agent-4001",
        "agent4001": "Custom:agent-4001",  # a "-" in a pattern is nothing to Asterisk
        "pause4001": "Custom:pause-4001",
    }.items():
        for state, seen in (("INUSE", "INUSE"), ("NOT_INUSE", "NOT_INUSE")):
            asterisk.cli(f"devstate change {device} {state}")
            # The state a phone would be told: EXTENSION_STATE asks as a subscription does.
            said = asterisk.cli("dialplan eval function EXTENSION_STATE(" + extension + "@phones)")
            assert seen in said.replace("NOT_INUSE" if seen == "INUSE" else "#", "#"), said
    assert "Custom:agent-4001" in asterisk.cli("core show hints")


@pytest.mark.parametrize("code", ["30", "**30", "3*0", "#30", "30*", "*3*0*"])
async def test_the_lamp_of_a_starred_key_whatever_the_code(
    asterisk: Asterisk, include: Callable[..., None], code: str
) -> None:
    include(render_dialplan(settings(1, feature_codes={"toggle_login": code})))
    asterisk.cli("devstate change Custom:agent-4001 INUSE")
    try:
        for key in (f"{code}4001", f"{code}4001*1001"):
            said = asterisk.cli(f"dialplan eval function EXTENSION_STATE({key}@phones)")
            assert "Result: INUSE" in said, (key, said)
    finally:
        asterisk.cli("devstate change Custom:agent-4001 NOT_INUSE")


async def test_an_ipv6_server_can_be_called(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually
) -> None:
    stub = Stub()
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    server = await asyncio.start_server(stub.serve, "::1", port)
    changed = settings(1)
    fastagi = changed.fastagi.model_copy(update={"listen": HostPort("::1", port)})
    include(render_dialplan(changed.model_copy(update={"fastagi": fastagi})))
    await originate(asterisk, "*31")
    await eventually(lambda: stub.calls == [("agent/login", "")])
    server.close()


async def test_asterisk_takes_the_manager_section(asterisk: Asterisk) -> None:
    asterisk.manager_sections = render_manager(settings(1))
    asterisk.reload("manager")
    shown = asterisk.cli("manager show user fastagi")
    rights = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in shown.splitlines())
    }
    assert rights["read perm"] == "agent"
    assert set(rights["write perm"].split(",")) == {"agent", "user", "call", "reporting"}
    for entry in ("deny - 0.0.0.0/0.0.0.0", "allow - 127.0.0.1/255.255.255.255"):
        assert entry in shown
    reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.ami_port)
    writer.write(b"Action: Login\r\nUsername: fastagi\r\nSecret: CHANGE-ME\r\n\r\n")
    assert b"Authentication accepted" in await asyncio.wait_for(reader.readuntil(b"accepted"), 5)
    writer.close()


async def test_asterisk_takes_the_queues(asterisk: Asterisk) -> None:
    asterisk.queue_sections = render_queues(
        settings(1, queues=[{"number": "801", "name": "night shift"}])
    )
    asterisk.reload("queues")
    shown = asterisk.cli("queue show")
    assert "night shift" in shown
    assert "'leastrecent' strategy" in shown
    assert "W:0" in shown


async def test_a_call_says_which_of_several_asterisks_it_comes_from(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually
) -> None:
    async with serving(Stub()) as stub:
        several = Settings.model_validate(
            {
                "asterisks": [{"name": "lyon-2", "secret": "x"}],
                "fastagi": {"listen": f"127.0.0.1:{stub.port}"},
            }
        )
        include(render_dialplan(several, "lyon-2"))
        await originate(asterisk, "*331")
        await eventually(lambda: stub.calls == [("agent/pause?asterisk=lyon-2", "1")])
        await eventually(lambda: idle(asterisk))


async def test_the_fallback_gets_the_script_and_the_digits(
    asterisk: Asterisk, include: Callable[..., None], eventually: Eventually, tmp_path: Path
) -> None:
    command, facts = tmp_path / "fallback", tmp_path / "facts.json"
    command.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/told\n'
        'while read -r line && [ -n "$line" ]; do :; done\n'
        "echo 'SET VARIABLE AGENT_STATUS \"PAUSED\"'\nread -r reply\n"
    )
    command.chmod(0o755)
    told = tmp_path / "told"
    told.touch()
    mark = asterisk.mark()
    chosen = {"command": str(command), "facts": str(facts)}
    include(render_dialplan(settings(free_port(), fastagi={"fallback": chosen})))
    await originate(asterisk, "*3312")
    await eventually(lambda: told.read_text() == f"{facts} agent/pause 12\n")
    await eventually(lambda: idle(asterisk))
    assert asterisk.played(since=mark) == []
