"""A manager interface that answers every action at once and keeps nothing.

python tests/bench/standin_ami.py PORT
"""

import asyncio
import re
import sys

MESSAGES = {
    b"Login": b"Authentication accepted",
    b"QueueAdd": b"Added interface to queue",
    b"QueueRemove": b"Removed interface from queue",
    b"QueuePause": b"Interface paused successfully",
    b"CoreStatus": b"Core Status\r\nCoreStartupDate: 2026-01-01\r\nCoreStartupTime: 00:00:00",
}
ACTION = re.compile(rb"Action: (\w+)").search
ACTION_ID = re.compile(rb"ActionID: (\S+)").search


class Manager(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.rest = b""
        transport.write(b"Asterisk Call Manager/11.0.0\r\n")

    def data_received(self, data: bytes) -> None:
        *actions, self.rest = (self.rest + data).split(b"\r\n\r\n")
        answers = []
        for text in actions:
            action, action_id = ACTION(text), ACTION_ID(text)
            if action is None:
                continue
            tag = b"ActionID: " + action_id[1] + b"\r\n" if action_id else b""
            message = MESSAGES.get(action[1], b"done")
            answers.append(b"Response: Success\r\n" + tag + b"Message: " + message + b"\r\n\r\n")
            if action[1] == b"QueueStatus":
                answers.append(b"Event: QueueStatusComplete\r\n" + tag + b"ListItems: 0\r\n\r\n")
        self.transport.write(b"".join(answers))


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Manager, "127.0.0.1", port)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
