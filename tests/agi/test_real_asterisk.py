"""The session on a real Asterisk: what the replies were taken to mean is what it means."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fastagi.agi.protocol import command
from fastagi.agi.server import Server
from fastagi.agi.session import CallerHungUp, CommandFailed, Digits, Session, SoundMissing
from fastagi.demo.asterisk import Asterisk

pytestmark = pytest.mark.asterisk

Step = Callable[[Session], Awaitable[object]]


async def on_a_call(asterisk: Asterisk, handler: Step, *args: str) -> None:
    """Run the handler on a call of Asterisk's own; what it raises is raised here."""
    done: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def run(session: Session) -> None:
        try:
            done.set_result(await handler(session))
        except BaseException as error:
            done.set_exception(error)

    server = Server(
        {"agent/test": run},
        host="127.0.0.1",
        port=0,
        allow=["127.0.0.1"],
        busy=run,
        unknown=run,
    )
    await server.start()
    try:
        url = ",".join([f"agi://127.0.0.1:{server.port}/agent/test?x=1", *args])
        await originate(asterisk, url)
        async with asyncio.timeout(30):
            await done
    finally:
        await server.drain(2.0)


async def originate(asterisk: Asterisk, url: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.ami_port)
    actions = [
        [
            "Action: Login",
            f"Username: {asterisk.admin_username}",
            f"Secret: {asterisk.admin_secret}",
        ],
        ["Action: Originate", "Channel: Local/603@phones/n", "Application: AGI", f"Data: {url}"],
    ]
    actions[0].append("Events: off")
    actions[1].append("Async: true")
    try:
        await reader.readline()
        for action in actions:
            writer.write("".join(f"{line}\r\n" for line in [*action, ""]).encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b"Response: Success" in answer, answer
    finally:
        writer.close()


async def hang_up(asterisk: Asterisk) -> None:
    await asterisk.ask("channel request hangup all")


async def test_everything_a_feature_uses(asterisk: Asterisk) -> None:
    async def handler(session: Session) -> None:
        request = session.request
        assert (request.script, request.query) == ("agent/test", "x=1")
        assert request.args == ("1001", "", "a b")
        assert request.channel.startswith("Local/603@phones")
        assert request.uniqueid
        assert request.language == "en"
        await session.answer()
        assert await session.stream_file("agent-loginok") == ""
        assert await session.get_data("agent-user", 500, 4) == Digits("", True)
        assert await session.say_digits("0042", "#") == ""
        assert await session.say_digits("1a") == ""
        assert await session.say_number(1234) == ""
        assert await session.wait_for_digit(100) == ""
        await session.set_variable("CHANNEL(language)", "fr")
        assert await session.get_variable("CHANNEL(language)") == "fr"
        assert await session.get_variable("NOT_SET") is None
        assert await session.get_full_variable("${CHANNEL(language)}-${NOT_SET}") == "fr-"
        assert await session.execute("NoOp", "a, b") == 0
        assert not session.hung_up

    await on_a_call(asterisk, handler, "1001", "", "a b")


async def test_text_reaches_a_variable_unchanged(asterisk: Asterisk) -> None:
    texts = [
        "",
        " ",
        " two  blanks ",
        '"',
        "\\",
        '\\"',
        'a "b" \\c\\',
        "${EXTEN}",
        "$[1+1]",
        "a;b,c|d&e",
        "(in) parentheses)",
        "Zoë 日本",
        "x" * 900,
    ]

    async def handler(session: Session) -> None:
        for text in texts:
            await session.set_variable("TEXT", text)
            assert await session.get_variable("TEXT") == text

    await on_a_call(asterisk, handler)


async def test_a_value_of_several_lines_does_not_shift_the_replies(asterisk: Asterisk) -> None:
    async def handler(session: Session) -> None:
        value = await session.get_full_variable("${URIDECODE(one%0AHANGUP%0Atwo)}")
        assert value == "one\nHANGUP\ntwo"
        assert not session.hung_up
        await session.set_variable("AFTER", "right")
        assert await session.get_variable("AFTER") == "right"

    await on_a_call(asterisk, handler)


async def test_a_missing_sound_is_told_and_the_call_goes_on(asterisk: Asterisk) -> None:
    async def handler(session: Session) -> None:
        await session.answer()
        with pytest.raises(SoundMissing):
            await session.stream_file("no-such-sound")
        with pytest.raises(SoundMissing):
            await session.get_data("no-such-sound", 500, 4)
        assert await session.stream_file("agent-loginok") == ""

    await on_a_call(asterisk, handler)


async def test_refused_commands_and_the_call_goes_on(asterisk: Asterisk) -> None:
    async def handler(session: Session) -> None:
        with pytest.raises(CommandFailed) as caught:
            await session._media(command("SAY", "DIGITS", "x", ""))
        assert caught.value.code == 520
        assert caught.value.text.endswith("End of proper usage.")
        with pytest.raises(CommandFailed) as caught:
            await session._media(command("NO", "SUCH", "COMMAND"))
        assert caught.value.code == 510
        with pytest.raises(CommandFailed, match="NoSuchApplication"):
            await session.execute("NoSuchApplication")
        await session.set_variable("AFTER", "right")
        assert await session.get_variable("AFTER") == "right"

    await on_a_call(asterisk, handler)


PLAYING: dict[str, Step] = {
    "stream_file": lambda session: session.stream_file("long"),
    "get_data": lambda session: session.get_data("agent-user", 20_000, 4),
    "say_digits": lambda session: session.say_digits("1234567890" * 5),
    "wait_for_digit": lambda session: session.wait_for_digit(20_000),
}


@pytest.mark.parametrize("name", PLAYING)
async def test_hang_up_while_something_is_played(
    asterisk: Asterisk, name: str, tmp_path: Path
) -> None:
    long = tmp_path / "long.sln"
    long.write_bytes(bytes(16_000 * 20))

    async def handler(session: Session) -> None:
        await session.answer()
        asyncio.get_running_loop().call_later(
            0.5, lambda: hanging_up.append(asyncio.ensure_future(hang_up(asterisk)))
        )
        step = PLAYING[name]
        if name == "stream_file":
            step = lambda session: session.stream_file(str(long.with_suffix("")))  # noqa: E731
        with pytest.raises(CallerHungUp):
            await step(session)
        assert session.hung_up
        # Taken back on the dead channel.
        await session.set_variable("AGENT_STATUS", "TAKEN_BACK")
        assert await session.get_variable("AGENT_STATUS") == "TAKEN_BACK"
        assert await session.execute("NoOp", "x") == 0
        with pytest.raises(CallerHungUp):
            await session.answer()

    hanging_up: list[asyncio.Task[None]] = []
    with capture_logs() as logs:
        await on_a_call(asterisk, handler)
        await asyncio.gather(*hanging_up)
    assert [entry for entry in logs if entry["log_level"] not in ("debug", "info")] == []


async def test_hang_up_while_nothing_is_asked(asterisk: Asterisk) -> None:
    async def handler(session: Session) -> None:
        await session.answer()
        await hang_up(asterisk)
        async with asyncio.timeout(5):
            while not session.hung_up:  # noqa: ASYNC110 - the notice comes by itself
                await asyncio.sleep(0.01)
        with pytest.raises(CallerHungUp):
            await session.stream_file("agent-loginok")
        await session.set_variable("AGENT_STATUS", "TAKEN_BACK")

    await on_a_call(asterisk, handler)


async def test_hangup_command(asterisk: Asterisk) -> None:
    async def handler(session: Session) -> None:
        await session.answer()
        await session.hangup()
        assert session.hung_up
        with pytest.raises(CallerHungUp):
            await session.stream_file("agent-loginok")
        await session.set_variable("AGENT_STATUS", "DONE")

    await on_a_call(asterisk, handler)
