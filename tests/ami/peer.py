"""A scripted manager interface on a real socket."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

GREETING = b"Asterisk Call Manager/11.0.0\r\n"
SECRET = "s3cret-of-the-tests"

MESSAGES = {
    "Login": "Authentication accepted",
    "QueueAdd": "Added interface to queue",
    "QueueRemove": "Removed interface from queue",
    "QueuePause": "Interface paused successfully",
}


class Link:
    """One connection of a client."""

    def __init__(self, peer: "Peer", writer: asyncio.StreamWriter) -> None:
        self.peer = peer
        self.writer = writer
        self.actions: list[dict[str, str]] = []
        self.reads: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def reply(self, action: dict[str, str], text: str = "", *, response: str = "Success") -> None:
        message = text or MESSAGES.get(action["Action"], "done")
        self.write(
            f"Response: {response}\r\nActionID: {action['ActionID']}\r\n"
            f"Message: {message}\r\n\r\n".encode()
        )

    def event(self, name: str, **headers: str) -> None:
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        self.write(f"Event: {name}\r\n{lines}\r\n".encode())

    def cut(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Link, dict[str, str]], Awaitable[None] | None]


class Peer:
    """Answers logins by the secret and everything else with Success, unless the script does.

    The script is called with every action after the login and answers it, or does not.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script = script
        self.links: list[Link] = []
        self.secret = SECRET
        self.greeting = GREETING
        self.answers_login = True
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for link in self.links:
            link.cut()
        await self.server.wait_closed()

    @property
    def actions(self) -> list[dict[str, str]]:
        """Everything received but logins, over all links."""
        return [a for link in self.links for a in link.actions if a["Action"] != "Login"]

    @property
    def logins(self) -> int:
        return sum(a["Action"] == "Login" for link in self.links for a in link.actions)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(condition)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, writer)
        self.links.append(link)
        link.write(self.greeting)
        rest = b""
        try:
            while data := await reader.read(65536):
                link.reads.append(data)
                *messages, rest = (rest + data).split(b"\r\n\r\n")
                for message in messages:
                    await self._receive(link, message)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            async with self._changed:
                self._changed.notify_all()

    async def _receive(self, link: Link, message: bytes) -> None:
        action: dict[str, str] = {}
        for line in message.decode().split("\r\n"):
            key, _, value = line.partition(": ")
            action.setdefault(key, value)
        link.actions.append(action)
        if action["Action"] == "Login":
            if not self.answers_login:
                pass
            elif action.get("Secret") == self.secret:
                link.reply(action)
            else:
                link.reply(action, "Authentication failed", response="Error")
                link.writer.close()
        elif self.script is None:
            link.reply(action)
        else:
            waiting = self.script(link, action)
            if waiting is not None:
                await waiting
        async with self._changed:
            self._changed.notify_all()
