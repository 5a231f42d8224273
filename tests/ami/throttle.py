"""A slow line: a TCP proxy on loopback that lets so many bytes a second through, each way."""

import asyncio
import socket
import threading
from typing import Self

STEP = 0.02  # seconds between two portions
BUFFER = 16_384  # bytes that the line itself holds; all else waits where it comes from


class Line:
    """``async with Line(port_of_asterisk) as line: Client(…, line.port)``"""

    def __init__(self, port: int, bytes_a_second: int = 125_000, host: str = "127.0.0.1") -> None:
        self.to = (host, port)
        self.rate = bytes_a_second
        self.connections = 0
        self.carried = 0  # bytes towards the client
        self.flows = asyncio.Event()  # cleared: nothing is carried, nothing is closed
        self.flows.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far = socket.socket()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        far.setblocking(False)
        writers = [writer]
        try:
            await asyncio.get_running_loop().sock_connect(far, self.to)
            far_reader, far_writer = await asyncio.open_connection(sock=far, limit=BUFFER)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, far_writer, back=False))
                group.create_task(self._carry(far_reader, writer, back=True))
        except* (OSError, EOFError, asyncio.CancelledError):
            pass  # asyncio's streams complain of tasks that end otherwise
        finally:
            for one in writers:
                one.transport.abort()
            self._tasks.discard(task)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            data = await reader.read(max(1, int(self.rate * STEP)))
            if not data:
                raise EOFError
            await self.flows.wait()
            due = max(due, loop.time() - STEP) + len(data) / self.rate
            await asyncio.sleep(due - loop.time())
            writer.write(data)
            await writer.drain()
            if back:
                self.carried += len(data)


class SlowLine:
    """The same in a thread of its own, for a test that blocks its loop."""

    def __init__(self, port: int, bytes_a_second: int = 125_000) -> None:
        self._loop = asyncio.new_event_loop()
        self._line = Line(port, bytes_a_second)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._line.__aenter__(), self._loop).result(20)
        self.port = self._line.port
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._line.__aexit__(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    @property
    def connections(self) -> int:
        return self._line.connections

    @property
    def carried(self) -> int:
        return self._line.carried
