"""Clients that are closed when a test ends."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ami.peer import SECRET, Peer
from fastagi.ami.client import Client

Connect = Callable[..., Any]


@pytest.fixture
async def client_of() -> AsyncIterator[Connect]:
    """``await client_of(peer, **options)``: a started client; ``wait=False``: not logged in yet."""
    clients: list[Client] = []

    async def connect(peer: Peer, *, wait: bool = True, **options: Any) -> Client:
        options.setdefault("secret", SECRET)
        client = Client("127.0.0.1", peer.port, "fastagi", **options)
        clients.append(client)
        await client.start()
        if wait:
            await client.ready(10)
        return client

    yield connect
    for client in clients:
        await client.close()
