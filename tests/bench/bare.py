"""The reference: a bare asyncio streams server that answers every call with the same commands.

python tests/bench/bare.py PORT [COMMAND ...]
"""

import asyncio
import sys

COMMANDS = [
    "ANSWER",
    "GET VARIABLE AGENT",
    'STREAM FILE agent-loginok ""',
    "SET VARIABLE AGENT_STATUS LOGGED_IN",
]


async def serve(port: int, commands: list[str]) -> None:
    lines = [command.encode() + b"\n" for command in commands]

    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readline() not in (b"\n", b""):
                pass
            for line in lines:
                writer.write(line)
                await reader.readline()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(call, "127.0.0.1", port, backlog=4096)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2:] or COMMANDS))
