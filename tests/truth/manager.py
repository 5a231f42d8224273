"""A manager client of the test's own, and the link between the service and Asterisk.

Neither shares a line with the service's client: what they say of Asterisk is not what the service
believes of it.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Headers = list[tuple[str, str]]

ANSWERS_WITHIN = 15.0  # seconds, on a machine that has other things to do


class ManagerGone(Exception):
    """Asterisk has hung up, or never answered."""


def first(headers: Headers, name: str) -> str:
    return next((value for key, value in headers if key.lower() == name.lower()), "")


class Manager:
    """One login to Asterisk's manager interface."""

    def __init__(self, on_event: Callable[[Headers], None] = lambda _: None) -> None:
        self._on_event = on_event
        self._ids = itertools.count(1)
        self._waiting: dict[str, asyncio.Queue[Headers | None]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.connected = False

    async def connect(self, port: int, username: str, secret: str) -> None:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readuntil(b"\r\n")  # the banner
        self._reading = asyncio.create_task(self._read(reader))
        self.connected = True
        await self.action({"Action": "Login", "Username": username, "Secret": secret})

    async def close(self) -> None:
        self.connected = False
        if self._writer is not None:
            self._writer.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                block = await reader.readuntil(b"\r\n\r\n")
                lines = block.decode("utf-8", "replace").split("\r\n")
                headers = [
                    (name, value.removeprefix(" "))
                    for name, colon, value in (line.partition(":") for line in lines)
                    if colon
                ]
                waiting = self._waiting.get(first(headers, "ActionID"))
                if waiting is not None:
                    waiting.put_nowait(headers)
                if first(headers, "Event"):
                    self._on_event(headers)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connected = False
            for waiting in self._waiting.values():
                waiting.put_nowait(None)

    async def _ask(self, action: Mapping[str, str], complete: str) -> list[Headers]:
        """The response, and the events up to the one named ``complete``."""
        if not self.connected or self._writer is None:
            raise ManagerGone
        name = f"truth-{next(self._ids)}"
        waiting = self._waiting[name] = asyncio.Queue()
        told: list[Headers] = []
        try:
            packet = "".join(f"{k}: {v}\r\n" for k, v in {**action, "ActionID": name}.items())
            self._writer.write(packet.encode() + b"\r\n")
            async with asyncio.timeout(ANSWERS_WITHIN):
                while True:
                    headers = await waiting.get()
                    if headers is None:
                        raise ManagerGone
                    told.append(headers)
                    failed = first(headers, "Response") == "Error"
                    if failed or not complete or first(headers, "Event") == complete:
                        return told
        except (OSError, TimeoutError) as error:
            raise ManagerGone from error
        finally:
            del self._waiting[name]

    async def action(self, action: Mapping[str, str]) -> Headers:
        """The response. Raises ManagerGone."""
        return (await self._ask(action, ""))[0]

    async def listing(
        self, action: Mapping[str, str], item: str, complete: str
    ) -> list[dict[str, str]]:
        """The events of this name between the response and the one that completes it."""
        told = await self._ask(action, complete)
        return [dict(headers) for headers in told if first(headers, "Event") == item]

    async def console(self, command: str) -> str:
        """What Asterisk's command line answers."""
        headers = await self.action({"Action": "Command", "Command": command})
        return "\n".join(value for name, value in headers if name == "Output")


@dataclass(slots=True)
class Trap:
    """Waits for the ``count``-th request with this action. ``answered``: Asterisk has carried it
    out and the service does not know; else it never arrives, nor does what follows it.

    The connection ends with it, and ``spring`` is called.
    """

    action: str
    answered: bool
    count: int
    spring: Callable[[], None]

    def found(self, data: bytes) -> int:
        """Where in ``data`` the request begins; -1 when it does not."""
        place = -1
        needle = f"Action: {self.action}\r\n".encode()
        while (place := data.find(needle, place + 1)) >= 0:
            self.count -= 1
            if self.count <= 0:
                begins = data.rfind(b"\r\n\r\n", 0, place)
                return 0 if begins < 0 else begins + 4
        return -1


class Link:
    """Between the service and Asterisk's manager port. Everything passes, unless it is told to be
    slow, silent, cut, or has a trap set."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._whole = True
        self.delay = 0.0  # seconds for whatever comes at once
        self.traps: list[Trap] = []
        self._swallow = False
        self._logged_in: set[asyncio.StreamReader] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def stands(self) -> bool:
        """The service has a connection on which it has logged in."""
        return bool(self._logged_in)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Connections break and what was under way is lost; new ones are refused."""
        self._whole = False
        for task in self._tasks:
            task.cancel()

    def mend(self) -> None:
        self._whole = True
        self.delay = 0.0
        self._flowing.set()

    def hush(self) -> None:
        """Nothing passes in either direction; connections stand."""
        self._flowing.clear()

    def speak(self) -> None:
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            if not self._whole:
                return
            with contextlib.suppress(OSError):
                from_there, far = await asyncio.open_connection("127.0.0.1", self._to)
                answered = asyncio.Event()
                both = {
                    asyncio.create_task(self._there(reader, far, answered)),
                    asyncio.create_task(self._back(from_there, writer, answered)),
                }
                try:
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in both:
                        pump.cancel()
                    await asyncio.gather(*both, return_exceptions=True)
        except asyncio.CancelledError:
            pass  # cut: the server's own bookkeeping must not see a task that was cancelled
        finally:
            self._tasks.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.close()

    async def _pass(
        self, data: bytes, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        if not self._flowing.is_set():
            await self._flowing.wait()
            if source.at_eof():
                return  # who sent it has given up: it was never acknowledged
        sink.write(data)
        await sink.drain()

    async def _there(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answered: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                met = [(trap, trap.found(data)) for trap in self.traps]
                trap, begins = next((pair for pair in met if pair[1] >= 0), (None, -1))
                if trap is None:
                    await self._pass(data, source, sink)
                    continue
                self.traps.remove(trap)
                if trap.answered:
                    ends = data.find(b"\r\n\r\n", begins) + 4
                    answered.clear()
                    self._swallow = True
                    await self._pass(data[:ends], source, sink)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await answered.wait()
                    self._swallow = False
                else:
                    await self._pass(data[:begins], source, sink)
                trap.spring()
                return

    async def _back(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answered: asyncio.Event
    ) -> None:
        try:
            while data := await source.read(65536):
                if self._swallow and b"Response: " in data:
                    answered.set()
                if not self._swallow:
                    await self._pass(data, source, sink)
                if b"Message: Authentication accepted" in data:
                    self._logged_in.add(source)
        except OSError:
            pass
        finally:
            self._logged_in.discard(source)
