"""All interfaces as one application: the guard, and behind it the dispatcher over the table."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastagi.agents.errors import Refused
from fastagi.agents.service import StoreUnavailable
from fastagi.api import agent_events, agent_php, agentd, docs, evolux, health, page, stream
from fastagi.api.answers import HttpError
from fastagi.api.context import Context
from fastagi.api.framework import routed
from fastagi.api.guard import Guard
from fastagi.api.request import Call
from fastagi.api.table import NONE, Interface, Place, Row, Table

# Every interface: a new one is one module and one line here.
INTERFACES: tuple[Interface, ...] = (
    agentd.INTERFACE,
    agent_events.INTERFACE,
    evolux.INTERFACE,
    agent_php.INTERFACE,
    stream.INTERFACE,
    page.INTERFACE,
    health.INTERFACE,
    health.METRICS,
    docs.INTERFACE,
)


def application(
    context: Context,
    now: Callable[[], float] = time.monotonic,
    interfaces: Sequence[Interface] = INTERFACES,
) -> Guard:
    """``context.feed`` is run, and woken by commits, by whoever made it. ``now`` is a monotonic
    clock."""
    table = Table(interfaces, context.http)
    dispatcher = Dispatcher(context, table)
    guard = Guard(dispatcher, table, context.http, context.figures, context.log, now)
    guard.on_use(context.feed.recheck)
    return guard


class Dispatcher:
    """Gives a request to the handler of its row, after the right was checked.

    What FastAPI does to a request costs as much as all else: it calls the handlers of those
    interfaces alone that ask for it. Its routes take a tenth of a second to make: that is done
    when they are first needed, in a thread, so that no phone waits for it.
    """

    def __init__(self, context: Context, table: Table) -> None:
        self._table = table
        self._context = replace(context, document=self._document)
        self._handlers = {one.name: one.make(self._context) for one in table.on}
        self._making = asyncio.Lock()
        self._framework: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = self._table.place(scope)
        interface = place.interface
        if interface is NONE:
            answer: ASGIApp = await self.framework()
        else:
            try:
                row = place.rows.get(scope["method"]) or await _other_row(place, scope)
                client = scope["state"].get("client")
                if row.right is not None and row.right not in client.rights:
                    raise HttpError(403, interface.lacking(client.name, row.right))
                if interface.framework is not None:
                    answer = await self.framework()
                else:
                    call = Call(scope, receive, client, place.values)
                    answer = await row.handler(self._handlers[interface.name], call)
            except (HttpError, Refused, StoreUnavailable) as refusal:
                answer = interface.refusal(refusal)
        if scope["method"] == "HEAD":
            await _head(answer, scope, receive, send)
        else:
            await answer(scope, receive, send)

    async def framework(self) -> FastAPI:
        if self._framework is None:
            async with self._making:
                if self._framework is None:
                    self._framework = await asyncio.to_thread(
                        routed, self._context, self._table, self._handlers, self
                    )
        return self._framework

    async def _document(self) -> bytes:
        framework = await self.framework()
        return await asyncio.to_thread(lambda: orjson.dumps(framework.openapi()))


async def _other_row(place: Place, scope: Scope) -> Row:
    """Raises HttpError, when it is time for it."""
    try:
        return place.row(scope["method"])
    except HttpError:
        if "asker" in scope["state"]:
            await scope["state"]["asker"].nobody()
        raise


async def _head(answer: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """The head of the answer to a GET, and no body. An answer that never ends, as the event
    stream's, ends with its head."""
    answered = asyncio.Event()

    async def taken() -> Message:
        waiting = asyncio.ensure_future(receive())
        over = asyncio.ensure_future(answered.wait())
        try:
            await asyncio.wait((waiting, over), return_when=asyncio.FIRST_COMPLETED)
            return {"type": "http.disconnect"} if answered.is_set() else waiting.result()
        finally:
            waiting.cancel()
            over.cancel()

    async def head_alone(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})
            answered.set()

    await answer({**scope, "method": "GET"}, taken, head_alone)
