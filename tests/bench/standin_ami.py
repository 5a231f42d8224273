"""A manager interface that answers every action at once and keeps nothing.

    python tests/bench/standin_ami.py PORT [--no-events]

Changes of members come back as events, as they do from Asterisk: the answers first.
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
# As Asterisk 22 writes it, when somebody has read class agent.
EVENT = (
    b"Event: %s\r\nPrivilege: agent,all\r\nQueue: %s\r\nMemberName: %s\r\nInterface: %s\r\n"
    b"StateInterface: %s\r\nMembership: dynamic\r\nPenalty: 0\r\nCallsTaken: 0\r\nLastCall: 0\r\n"
    b"LastPause: 0\r\nLoginTime: 1795383029\r\nInCall: 0\r\nStatus: 1\r\nPaused: %s\r\n"
    b"PausedReason: %s\r\nRinginuse: 0\r\nWrapuptime: 0\r\n\r\n"
)
EVENTS = {
    b"QueueAdd": b"QueueMemberAdded",
    b"QueueRemove": b"QueueMemberRemoved",
    b"QueuePause": b"QueueMemberPause",
}
ACTION = re.compile(rb"Action: (\w+)").search
ACTION_ID = re.compile(rb"ActionID: (\S+)").search


told = "--no-events" not in sys.argv


def event(name: bytes, text: bytes) -> bytes:
    headers = dict(line.split(b": ", 1) for line in text.split(b"\r\n") if b": " in line)
    interface = headers.get(b"Interface", b"")
    return EVENT % (
        name,
        headers.get(b"Queue", b"queue0"),
        headers.get(b"MemberName", b""),
        interface,
        headers.get(b"StateInterface", interface),
        b"1" if headers.get(b"Paused") == b"true" else b"0",
        headers.get(b"Reason", b""),
    )


class Manager(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.rest = b""
        transport.write(b"Asterisk Call Manager/11.0.0\r\n")

    def data_received(self, data: bytes) -> None:
        *actions, self.rest = (self.rest + data).split(b"\r\n\r\n")
        answers = []
        events = []
        for text in actions:
            action, action_id = ACTION(text), ACTION_ID(text)
            if action is None:
                continue
            tag = b"ActionID: " + action_id[1] + b"\r\n" if action_id else b""
            message = MESSAGES.get(action[1], b"done")
            answers.append(b"Response: Success\r\n" + tag + b"Message: " + message + b"\r\n\r\n")
            if action[1] in (b"QueueStatus", b"DBGetTree"):
                complete = b"Event: " + action[1] + b"Complete\r\n"
                answers.append(complete + tag + b"ListItems: 0\r\n\r\n")
            if told and action[1] in EVENTS:
                events.append(event(EVENTS[action[1]], text))
        self.transport.write(b"".join(answers + events))


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Manager, "127.0.0.1", port)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
