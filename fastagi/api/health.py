"""Whether the service lives, whether it can do its work, and its figures."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fastagi.agents.storage import StoreFault
from fastagi.api.answers import JSON, Answer, json_answer
from fastagi.api.context import Context
from fastagi.api.fixed import Fixed
from fastagi.api.request import Call
from fastagi.api.table import Interface, Row
from fastagi.config.settings import Right

UNNAMED = "default"  # the Asterisk, where there is only one
ALIVE = b'{"status":"alive"}'
NOT_KEPT = ((b"cache-control", b"no-store"),)  # an answer is of its moment

Link = Literal["connected", "away"]


class Alive(BaseModel):
    status: Literal["alive"]


class Readiness(BaseModel):
    """Ready: the store can be written, at least one Asterisk is connected, and no task of the
    service has failed."""

    status: Literal["ready", "not ready"]
    store: Literal["ok", "unavailable", "no answer"] = Field(
        description="Whether something was written and read back a moment ago."
    )
    store_fault: str = Field(
        description=f"Why not: {', '.join(f'`{fault}`' for fault in StoreFault)}; empty when it"
        " can. The log says where and what to do."
    )
    asterisk: dict[str, Link] = Field(description=f"By name; `{UNNAMED}` where there is only one.")
    tasks_down: list[str] = Field(
        description="Parts of the service that have failed and are being started again; the log"
        " says why."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "status": "ready",
                "store": "ok",
                "store_fault": "",
                "asterisk": {UNNAMED: "connected"},
                "tasks_down": [],
            }
        }
    )


class Health:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._alive = Fixed(ALIVE, JSON, NOT_KEPT)

    async def live(self, call: Call) -> Fixed:
        return self._alive

    async def ready(self, call: Call) -> Answer:
        store, fault = await self._store()
        queues = self._context.service.queues
        links: dict[str, Link] = {
            name or UNNAMED: "connected" if queues.connected(name) else "away"
            for name in queues.names
        }
        down = list(self._context.tasks_down())
        is_ready = store == "ok" and "connected" in links.values() and not down
        return json_answer(
            {
                "status": "ready" if is_ready else "not ready",
                "store": store,
                "store_fault": fault,
                "asterisk": links,
                "tasks_down": down,
            },
            200 if is_ready else 503,
            NOT_KEPT,
        )

    async def _store(self) -> tuple[str, str]:
        """What the store itself says of it may name files and addresses: not for everybody."""
        fault = (await self._context.storage.ask()).fault
        if fault is None:
            return "ok", ""
        return ("no answer" if fault is StoreFault.NO_ANSWER else "unavailable"), fault.value

    async def metrics(self, call: Call) -> Answer:
        text, content_type = await self._context.figures.text()
        return Answer(200, text, NOT_KEPT, content_type)


INTERFACE = Interface(
    name="health",
    tag="health",
    bases=("/health",),
    make=Health,
    names_head=False,
    rows=(
        Row(
            "GET",
            "/health/live",
            None,
            Health.live,
            {"response_model": Alive, "summary": "Does the process answer?"},
        ),
        Row(
            "GET",
            "/health/ready",
            None,
            Health.ready,
            {
                "response_model": Readiness,
                "summary": "Can calls and requests be served?",
                "description": Readiness.__doc__ or "",
                "responses": {503: {"model": Readiness, "description": "Not ready."}},
            },
        ),
    ),
)
METRICS = Interface(
    name="metrics",
    tag="health",
    bases=("/metrics",),
    make=Health,
    names_head=False,
    rows=(
        Row(
            "GET",
            "/metrics",
            Right.READ,
            Health.metrics,
            {
                "summary": "Figures for Prometheus",
                "responses": {
                    200: {
                        "description": "The figures, as Prometheus reads them.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                },
            },
        ),
    ),
)
