"""The FastAGI server over real sockets: good calls, bad calls, too many calls, no calls."""

import asyncio
import gc
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fastagi.agi import server as server_module
from fastagi.agi.server import Connection, Handler, Server, raise_file_limit
from fastagi.agi.session import (
    CallerHungUp,
    ConnectionLost,
    Session,
    SessionError,
    SessionTimeout,
    SoundMissing,
)

from .asterisk_client import dial, headers

Journal = list[object]


async def login(session: Session) -> None:
    await session.answer()
    await session.get_data("agent-user", 1000, 4)
    await session.stream_file("agent-loginok")
    await session.set_variable("AGENT_STATUS", "LOGGED_IN")


async def busy(session: Session) -> None:
    await session.answer()
    await session.stream_file("all-reps-busy")
    await session.set_variable("AGENT_STATUS", "BUSY")


async def unknown(session: Session) -> None:
    await session.set_variable("AGENT_STATUS", "UNKNOWN")


@asynccontextmanager
async def serving(
    handler: Handler = login,
    *,
    allow: tuple[str, ...] = ("127.0.0.1",),
    max_sessions: int = 100,
    header_timeout: float = 5.0,
    session_deadline: float = 30.0,
    host: str = "127.0.0.1",
) -> AsyncIterator[Server]:
    before = asyncio.all_tasks()
    server = Server(
        {"agent/login": handler},
        host=host,
        port=0,
        allow=allow,
        busy=busy,
        unknown=unknown,
        max_sessions=max_sessions,
        header_timeout=header_timeout,
        session_deadline=session_deadline,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.drain(1.0)
        assert (server.active, server.waiting) == (0, 0)
        assert asyncio.all_tasks() == before  # nothing is left running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def assert_serves(server: Server) -> None:
    call = await dial(server.port, "agent/login", digits=["1001"])
    assert call.variables == {"AGENT_STATUS": "LOGGED_IN"}


# --- calls --------------------------------------------------------------------------------------


async def test_a_call() -> None:
    async with serving() as server:
        call = await dial(server.port, "agent/login", "1001", digits=["1001"])
        assert call.commands == [
            "ANSWER",
            "GET DATA agent-user 1000 4",
            'STREAM FILE agent-loginok ""',
            "SET VARIABLE AGENT_STATUS LOGGED_IN",
        ]
        assert call.heard == ["agent-user", "agent-loginok"]
        await until(lambda: server.served == 1)
        assert (server.active, server.refused, server.dropped) == (0, 0, 0)


async def test_unknown_script() -> None:
    async with serving() as server:
        for script in ("agent/nothing", "", "agent/login/more", "../agent/login"):
            call = await dial(server.port, script)
            assert call.variables == {"AGENT_STATUS": "UNKNOWN"}


async def test_script_with_a_query() -> None:
    queries: Journal = []

    async def handler(session: Session) -> None:
        queries.append(session.request.query)

    async with serving(handler) as server:
        await dial(server.port, "agent/login?server=2")
    assert queries == ["server=2"]


async def test_many_calls_at_once_each_with_its_own_answers() -> None:
    async def echo(session: Session) -> None:
        for n in range(5):
            await session.set_variable("V", f"{session.request.args[0]}-{n}")
            value = await session.get_variable("V")
            assert value == f"{session.request.args[0]}-{n}"
        await session.set_variable("AGENT_STATUS", session.request.args[0])

    async with serving(echo, max_sessions=1000) as server:
        calls = await asyncio.gather(
            *(dial(server.port, "agent/login", str(n)) for n in range(300))
        )
        assert [call.variables["AGENT_STATUS"] for call in calls] == [str(n) for n in range(300)]
        await until(lambda: server.served == 300)


async def test_headers_and_replies_in_pieces() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        data = headers("agent/login")
        for at in range(0, len(data), 5):
            writer.write(data[at : at + 5])
            await asyncio.sleep(0)
        assert await reader.readline() == b"ANSWER\n"
        for byte in b"200 result=0\n":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.002)
        assert (await reader.readline()).startswith(b"GET DATA")
        writer.close()


async def test_any_bytes_as_caller_name() -> None:
    names: Journal = []

    async def handler(session: Session) -> None:
        names.append(session.request.calleridname)
        await session.set_variable("AGENT_STATUS", "DONE")

    async with serving(handler) as server:
        for raw in (b"Fran\xe7ois", bytes(set(range(1, 256)) - {10, 13}), b"\xff\xfe", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(headers().replace(b"Phone 1001", raw))
            assert await reader.readline() == b"SET VARIABLE AGENT_STATUS DONE\n"
            writer.write(b"200 result=1\n")
            assert await reader.read() == b""
            writer.close()
    assert len(names) == 4


async def test_usage_text_then_the_right_reply() -> None:
    got: Journal = []

    async def handler(session: Session) -> None:
        try:
            await session.stream_file("x")
        except SessionError as error:
            got.append(str(error).splitlines()[0])
        got.append(await session.get_variable("A"))

    usage = "520-Invalid command syntax.  Proper usage follows:\nUsage: X\n520 End of proper usage."
    async with serving(handler) as server:
        await dial(
            server.port,
            answers={"STREAM FILE": usage, "GET VARIABLE": "200 result=1 (right)"},
        )
    assert got == ["520 Invalid command syntax.  Proper usage follows:", "right"]


# --- callers who hang up, connections that break ------------------------------------------------


@pytest.mark.parametrize("notices", [True, False])
@pytest.mark.parametrize("during", [True, False])
@pytest.mark.parametrize("at", range(4))
async def test_hang_up_at_each_command(at: int, during: bool, notices: bool) -> None:
    ends: Journal = []

    async def handler(session: Session) -> None:
        try:
            await login(session)
        except CallerHungUp:
            ends.append("hung up")
            await session.execute("RemoveQueueMember", "sales,PJSIP/1001")
            await session.set_variable("AGENT_STATUS", "TAKEN_BACK")
        else:
            ends.append("done")

    async with serving(handler) as server:
        call = await dial(
            server.port,
            digits=["1001"],
            hang_up_at=at if during else None,
            hang_up_after=None if during else at,
            notices=notices,
        )
        await until(lambda: server.served == 1)
    # Gone before the last prompt was over: taken back. After it, the variable is still set.
    gone = at < 3 if during else at < 2
    assert ends == ["hung up" if gone else "done"]
    assert call.variables["AGENT_STATUS"] == ("TAKEN_BACK" if gone else "LOGGED_IN")
    assert call.executed == ([("RemoveQueueMember", "sales,PJSIP/1001")] if gone else [])


async def test_missing_sound_is_told_from_a_hang_up() -> None:
    ends: Journal = []

    async def handler(session: Session) -> None:
        try:
            await session.stream_file("agent-loginok")
        except SoundMissing as missing:
            ends.append(missing.file)
        await session.say_number(1)

    async with serving(handler) as server:
        call = await dial(server.port, missing=["agent-loginok"])
    assert ends == ["agent-loginok"]
    assert call.heard == ["number:1"]


@pytest.mark.parametrize("at", range(4))
async def test_reset_at_each_command(at: int) -> None:
    ends: Journal = []

    async def handler(session: Session) -> None:
        try:
            await login(session)
        except ConnectionLost:
            ends.append("lost")
            raise

    async with serving(handler) as server:
        with capture_logs() as logs:
            await dial(server.port, digits=["1001"], drop_at=at)
            await until(lambda: server.served == 1)
        assert ends == ["lost"]
        assert [entry for entry in logs if entry["log_level"] != "debug"] == []
        await assert_serves(server)


async def test_eof_at_every_point_of_the_headers() -> None:
    data = headers("agent/login")
    async with serving() as server:
        with capture_logs() as logs:
            for cut in range(0, len(data), 3):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(data[:cut])
                writer.close()
            await until(lambda: server.dropped == len(range(0, len(data), 3)))
        assert [entry for entry in logs if entry["log_level"] != "debug"] == []
        assert server.active == 0
        await assert_serves(server)


async def test_hang_up_before_the_first_command() -> None:
    ends: Journal = []

    async def handler(session: Session) -> None:
        ends.append(session.hung_up)
        await asyncio.sleep(0)
        with pytest.raises(CallerHungUp):
            await session.answer()

    async with serving(handler) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(headers("agent/login") + b"HANGUP\n")
        assert await reader.read() == b""
        writer.close()
        await until(lambda: server.served == 1)
    assert ends == [True]


async def test_hangup_after_the_close_is_no_error() -> None:
    async with serving() as server:
        with capture_logs() as logs:
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(headers("agent/other"))
                await reader.readline()
                writer.write(b"200 result=1\nHANGUP\n")
                await reader.read()
                writer.write(b"HANGUP\n")
                writer.close()
            await until(lambda: server.served == 20)
        assert [entry for entry in logs if entry["log_level"] != "debug"] == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x00\xff" + os.urandom(250),
        b"\n",
        headers("agent/login") + b"what\n",
        headers("agent/login") + b"200 result=0\n200 result=0\n",
        headers("agent/login", more={"agi_calleridname": "x\nagi_extension: 99"}),
    ],
)
async def test_what_is_not_agi_is_closed_and_logged_once(data: bytes) -> None:
    async with serving() as server:
        with capture_logs() as logs:
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(data)
                try:
                    async with asyncio.timeout(5):
                        await reader.read()
                except ConnectionError:
                    pass
                writer.close()
            await until(lambda: server.active == server.waiting == 0)
        loud = [entry for entry in logs if entry["log_level"] != "debug"]
        assert [entry["event"] for entry in loud] == ["not AGI"]
        await assert_serves(server)


async def test_handler_that_fails() -> None:
    async def handler(session: Session) -> None:
        await session.answer()
        raise ZeroDivisionError("a mistake")

    async with serving(handler) as server:
        with capture_logs() as logs:
            call = await dial(server.port)
            await until(lambda: server.served == 1)
        assert call.commands == ["ANSWER"]
        [entry] = [entry for entry in logs if entry["log_level"] == "error"]
        assert entry["event"] == "skipped: a fault of the service"
        assert entry["exc_info"]


async def test_a_call_that_is_over_leaves_nothing_to_the_garbage_collector() -> None:
    async with serving() as server:
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await dial(server.port, digits=["1001"])
                await dial(server.port, hang_up_at=1)
                await dial(server.port, drop_at=1)
                await flood(server.port, headers("agent/login"), b"what\n", 5)
                await flood(server.port, b"GET /", b"x", 1)
            await until(lambda: server.active == server.waiting == 0)
            await until(lambda: server.served + server.dropped == 25)
            await asyncio.sleep(0.05)  # the loop lets go of the last ones
            left = [item for item in gc.get_objects() if isinstance(item, Session | Connection)]
            assert left == []
        finally:
            gc.enable()


# --- deadlines ----------------------------------------------------------------------------------


async def test_a_silent_client_is_closed() -> None:
    async with serving(header_timeout=0.1) as server:
        for sent in (b"", b"agi_network: yes\n", headers("agent/login")[:-1]):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()
        assert (server.dropped, server.served) == (3, 0)
        await assert_serves(server)


async def test_a_trickle_of_headers_does_not_hold_the_place() -> None:
    async with serving(header_timeout=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        gone = asyncio.ensure_future(reader.read())
        for byte in headers("agent/login"):
            if gone.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        assert gone.done()
        await asyncio.wait([gone])
        writer.close()
        assert server.dropped == 1


async def test_the_deadline_of_a_call() -> None:
    ends: Journal = []

    async def handler(session: Session) -> None:
        try:
            await login(session)
        except SessionTimeout:
            ends.append("timeout")
            with pytest.raises(SessionTimeout):
                await session.set_variable("AGENT_STATUS", "LATE")

    async with serving(handler, session_deadline=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(headers("agent/login"))
        async with asyncio.timeout(5):
            assert await reader.read() == b"ANSWER\n"  # which is never answered
        writer.close()
        await until(lambda: server.served == 1)
        assert ends == ["timeout"]
        await assert_serves(server)


async def test_a_handler_that_ignores_the_deadline_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "HANDLER_GRACE", 0.1)

    async def handler(session: Session) -> None:
        await asyncio.Event().wait()

    async with serving(handler, session_deadline=0.1) as server:
        with capture_logs() as logs:
            await dial(server.port)
            await until(lambda: server.served == 1)
        assert "handler cut off" in [entry["event"] for entry in logs]


# --- who may connect, and how many --------------------------------------------------------------


async def test_only_allowed_addresses() -> None:
    async with serving(allow=("10.0.0.0/8", "127.0.0.2", "::1")) as server:
        with capture_logs() as logs:
            for _ in range(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                try:
                    writer.write(headers("agent/login"))
                    assert await reader.read() == b""
                except ConnectionError:
                    pass
                writer.close()
        assert server.refused == 10
        assert server.served == 0
        [entry] = logs
        assert entry["address"] == "127.0.0.1"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, local_addr=("127.0.0.2", 0)
        )
        writer.write(headers("agent/login"))
        assert await reader.readline() == b"ANSWER\n"
        writer.close()


def wait_for(event: asyncio.Event) -> Handler:
    async def handler(session: Session) -> None:
        await session.answer()
        await event.wait()
        await session.set_variable("AGENT_STATUS", "LOGGED_IN")

    return handler


async def test_one_call_too_many_gets_a_polite_answer() -> None:
    go_on = asyncio.Event()
    async with serving(wait_for(go_on), max_sessions=3) as server:
        calls = [asyncio.ensure_future(dial(server.port)) for _ in range(3)]
        await until(lambda: server.active == 3)
        late = await dial(server.port)
        assert late.heard == ["all-reps-busy"]
        assert late.variables == {"AGENT_STATUS": "BUSY"}
        go_on.set()
        for call in calls:
            assert (await call).variables == {"AGENT_STATUS": "LOGGED_IN"}
        await until(lambda: server.active == 0)
        assert (await dial(server.port)).variables == {"AGENT_STATUS": "LOGGED_IN"}


async def test_far_too_many_calls_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_BUSY", 2)
    go_on = asyncio.Event()
    async with serving(wait_for(go_on), max_sessions=1) as server:
        first = asyncio.ensure_future(dial(server.port))
        await until(lambda: server.active == 1)
        told = [asyncio.ensure_future(dial(server.port, wait=0.3)) for _ in range(2)]
        await until(lambda: server.active == 3)
        closed = await dial(server.port)
        assert closed.commands == []
        assert (server.refused, server.dropped) == (1, 0)
        for call in told:
            assert (await call).variables == {"AGENT_STATUS": "BUSY"}
        go_on.set()
        await first


async def test_silent_connections_take_no_place_from_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "MAX_WAITING", 20)
    async with serving(max_sessions=2) as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(50)]
        await until(lambda: server.dropped >= 30)
        assert server.waiting == 20
        await assert_serves(server)
        # The oldest made room.
        assert await silent[0][0].read() == b""
        newest = silent[-1]
        newest[1].write(headers("agent/login"))
        assert await newest[0].readline() == b"ANSWER\n"
        for _, writer in silent:
            writer.close()


# --- draining -----------------------------------------------------------------------------------


async def test_drain_lets_calls_end() -> None:
    go_on = asyncio.Event()
    async with serving(wait_for(go_on)) as server:
        calls = [asyncio.ensure_future(dial(server.port)) for _ in range(5)]
        await until(lambda: server.active == 5)
        draining = asyncio.ensure_future(server.drain(5.0))
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", server.port)
        assert not draining.done()
        go_on.set()
        await draining
        for call in calls:
            assert (await call).variables == {"AGENT_STATUS": "LOGGED_IN"}
        assert server.served == 5


async def test_drain_serves_who_is_already_connected() -> None:
    async with serving() as server:
        # Not a moment for the server between the connection and the drain.
        sock = socket.create_connection(("127.0.0.1", server.port))
        draining = asyncio.ensure_future(server.drain(5.0))
        await asyncio.sleep(0.05)
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(headers("agent/other"))
        assert await reader.readline() == b"SET VARIABLE AGENT_STATUS UNKNOWN\n"
        writer.write(b"200 result=1\n")
        assert await reader.read() == b""
        writer.close()
        await draining
        assert server.served == 1


async def test_drain_cuts_off_what_does_not_end() -> None:
    ends: Journal = []

    async def handler(session: Session) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")

    async with serving(handler) as server:
        call = asyncio.ensure_future(dial(server.port))
        await until(lambda: server.active == 1)
        await server.drain(0.1)
        assert ends == ["cancelled"]
        assert (await call).commands == []


async def test_drain_does_not_wait_for_silent_connections() -> None:
    async with serving(header_timeout=60) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await until(lambda: server.waiting == 1)
        async with asyncio.timeout(5):
            await server.drain(60.0)
        writer.close()


# --- sockets that misbehave ---------------------------------------------------------------------


async def test_a_client_that_does_not_read() -> None:
    """What does not fit the socket is kept, in order, and sent before the close."""
    lines = [b"x" * 7_900 + b"%05d\n" % n for n in range(8)]

    async def handler(session: Session) -> None:
        for line in lines:
            session.write(line)
        await asyncio.sleep(0)

    async with serving(handler) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.connect(("127.0.0.1", server.port))
        sock.send(headers("agent/login"))
        await until(lambda: server.served == 1)
        sock.settimeout(5)
        got = b""
        while data := await asyncio.to_thread(sock.recv, 65_536):
            got += data
        assert got == b"".join(lines)
        sock.close()


async def test_a_client_that_never_reads_is_given_up() -> None:
    async def handler(session: Session) -> None:
        for _ in range(2_000):
            session.write(b"x" * 8_000)
        await session.answer()

    async with serving(handler) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.connect(("127.0.0.1", server.port))
        sock.send(headers("agent/login"))
        await until(lambda: server.served == 1)
        sock.close()


async def test_out_of_file_descriptors_accepting_pauses_and_goes_on() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        sock = socket.socket()
        sock.setblocking(False)
        last = os.dup(0)
        os.close(last)
        with capture_logs() as logs:
            resource.setrlimit(resource.RLIMIT_NOFILE, (last, hard))
            try:
                sock.connect_ex(("127.0.0.1", server.port))
                await until(lambda: bool(logs))
                # The call in progress does not notice.
                writer.write(headers("agent/other"))
                assert await reader.readline() == b"SET VARIABLE AGENT_STATUS UNKNOWN\n"
                await asyncio.sleep(0.3)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [entry["event"] for entry in logs] == ["no connection can be accepted"]
        writer.close()
        await until(lambda: server.waiting == 1)
        sock.close()
        await assert_serves(server)


def test_bounds_fit_the_limit_on_open_files() -> None:
    for files in (64, 256, 1_024, 4_096, 20_000, 1_048_576):
        server = Server({}, host="", port=0, allow=(), busy=busy, unknown=unknown)
        server._share_out(files)
        assert server._max_sessions + server._max_busy + server._max_waiting < files
        assert min(server._max_sessions, server._max_busy, server._max_waiting) > 0


async def test_port_in_use() -> None:
    async with serving() as server:
        second = Server(
            {}, host="127.0.0.1", port=server.port, allow=(), busy=busy, unknown=unknown
        )
        with pytest.raises(OSError, match="in use"):
            await second.start()


async def test_ipv6() -> None:
    async with serving(host="::1", allow=("127.0.0.0/8", "::1")) as server:
        call = await dial(server.port, host="::1", digits=["1001"])
        assert call.variables == {"AGENT_STATUS": "LOGGED_IN"}


# --- abuse, against a server in a process of its own --------------------------------------------

SERVE = """
import asyncio, sys
sys.path.insert(0, {root!r})
from fastagi.agi.server import Server
from tests.agi.test_server import busy, login, unknown

async def main():
    server = Server({{"agent/login": login}}, host="127.0.0.1", port=0, allow=["127.0.0.1"],
                    busy=busy, unknown=unknown)
    await server.start()
    print("port", server.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for _ in range(100):
        if server.active or server.waiting:
            await asyncio.sleep(0.05)
    print(len(asyncio.all_tasks()), server.active, server.waiting, flush=True)
    await server.drain(1.0)

{run}
"""
LOOPS = {"asyncio": "asyncio.run(main())", "uvloop": "import uvloop; uvloop.run(main())"}


class Process:
    def __init__(self, loop: str) -> None:
        root = str(Path(__file__).resolve().parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE.format(root=root, run=LOOPS[loop])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("port"):
            assert line, "the server did not start"
        self.port = int(line.split()[1])

    def resident_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line)

    def stop(self) -> list[int]:
        """Tasks, calls and waiting connections that were left."""
        out, _ = self.process.communicate("", timeout=20)
        assert self.process.returncode == 0
        return [int(word) for word in out.splitlines()[-1].split()]


@pytest.fixture(params=LOOPS)
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    process = Process(request.param)
    yield process
    if process.process.poll() is None:
        process.process.kill()
        process.process.communicate()


async def flood(port: int, start: bytes, piece: bytes, size: int) -> int:
    """Send ``start`` and then pieces until ``size`` or the end; returns how much was taken."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    taken = 0
    try:
        writer.write(start)
        while taken < size:
            writer.write(piece)
            await writer.drain()
            taken += len(piece)
    except ConnectionError:
        pass
    finally:
        writer.close()
    return taken


async def port_scan(port: int) -> None:
    for n in range(300):
        sock = socket.socket()
        sock.connect(("127.0.0.1", port))
        if n % 2:  # with a reset
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


# 10 MB fit into the kernel's own buffers when the server is slow to look: more than that never do.
MEGABYTES = 100 * 1024 * 1024
ABUSE: dict[str, Callable[[int], Awaitable[object]]] = {
    "a header of many MB": lambda port: flood(port, b"agi_arg_1: ", b"x" * 65_536, MEGABYTES),
    "many MB of headers": lambda port: flood(port, b"", b"agi_arg_1: x\n" * 5_000, MEGABYTES),
    "a reply of many MB": lambda port: flood(
        port, headers("agent/login") + b"200 result=1 (", b"x" * 65_536, MEGABYTES
    ),
    "a usage text of many MB": lambda port: flood(
        port, headers("agent/login") + b"520-x\n", b"more\n" * 10_000, MEGABYTES
    ),
    "many MB of replies": lambda port: flood(
        port, headers("agent/login"), b"200 result=0\n" * 5_000, MEGABYTES
    ),
    "many MB of HANGUP": lambda port: flood(
        port, headers("agent/login"), b"HANGUP\n" * 9_000, MEGABYTES
    ),
    "a port scan": port_scan,
}


async def test_abuse(process: Process) -> None:
    async def good() -> None:
        call = await dial(process.port, "agent/login", digits=["1001"])
        assert call.variables == {"AGENT_STATUS": "LOGGED_IN"}

    await good()
    for name, attack in ABUSE.items():
        before = process.resident_kib()
        for _ in range(3):
            taken = await attack(process.port)
            assert not isinstance(taken, int) or taken < MEGABYTES, name
        await good()
        assert process.resident_kib() - before < 4_096, name
    tasks, calls, waiting = process.stop()
    assert (tasks, calls, waiting) == (1, 0, 0)


async def test_five_thousand_silent_connections(process: Process) -> None:
    if raise_file_limit() < 6_000:
        pytest.fail("needs 6,000 open files")
    before = process.resident_kib()
    silent = []
    try:
        for n in range(5_000):
            sock = socket.socket()
            sock.connect(("127.0.0.1", process.port))
            if n % 3 == 0:
                sock.send(b"agi_network: yes\n")
            silent.append(sock)
        for _ in range(20):
            call = await dial(process.port, "agent/login", digits=["1001"])
            assert call.variables == {"AGENT_STATUS": "LOGGED_IN"}
        assert process.resident_kib() - before < 5_000 * 8
        # All are closed after the header timeout.
        for sock in silent[::500]:
            sock.settimeout(15)
            assert await asyncio.to_thread(sock.recv, 1) == b""
    finally:
        for sock in silent:
            sock.close()
        gc.collect()
    call = await dial(process.port, "agent/login", digits=["1001"])
    assert call.variables == {"AGENT_STATUS": "LOGGED_IN"}
    tasks, calls, waiting = process.stop()
    assert (tasks, calls, waiting) == (1, 0, 0)


async def test_two_thousand_calls_in_a_prompt(process: Process) -> None:
    """Less than 20 KiB each, and the next call is served."""
    raise_file_limit()
    before = process.resident_kib()
    held = []
    for n in range(2_000):
        sock = socket.socket()
        sock.connect(("127.0.0.1", process.port))
        sock.send(headers("agent/login", str(n)))
        held.append(sock)
    try:
        for sock in held:
            sock.settimeout(10)
            assert await asyncio.to_thread(sock.recv, 100) == b"ANSWER\n"
        assert (process.resident_kib() - before) / len(held) < 20
        call = await dial(process.port, "agent/login", digits=["1001"])
        assert call.variables == {"AGENT_STATUS": "LOGGED_IN"}
    finally:
        for sock in held:
            sock.close()
