"""Whether the service lives, whether it can do its work, and its figures."""

from typing import Any, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from fastagi.agents.storage import StoreFault
from fastagi.api.doors import Doors
from fastagi.api.guard import needs
from fastagi.config.settings import Right

UNNAMED = "default"  # the Asterisk, where there is only one
ALIVE = b'{"status":"alive"}'
NOT_KEPT = {"Cache-Control": "no-store"}  # an answer is of its moment

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


class Refused(BaseModel):
    error: str


def routes(doors: Doors) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get(
        "/health/live", response_model=Alive, summary="Does the process answer?", description=""
    )
    async def live() -> Response:  # pragma: no cover - answered before it is routed
        return Response(ALIVE, media_type="application/json", headers=NOT_KEPT)

    @router.get(
        "/health/ready",
        response_model=Readiness,
        summary="Can calls and requests be served?",
        description=Readiness.__doc__ or "",
        responses={503: {"model": Readiness, "description": "Not ready."}},
    )
    async def ready() -> Response:
        store, fault = await _store(doors)
        queues = doors.service.queues
        links: dict[str, Link] = {
            name or UNNAMED: "connected" if queues.connected(name) else "away"
            for name in queues.names
        }
        down = list(doors.tasks_down())
        is_ready = store == "ok" and "connected" in links.values() and not down
        return JSONResponse(
            {
                "status": "ready" if is_ready else "not ready",
                "store": store,
                "store_fault": fault,
                "asterisk": links,
                "tasks_down": down,
            },
            200 if is_ready else 503,
            headers=NOT_KEPT,
        )

    responses: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The figures, as Prometheus reads them.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        401: {"model": Refused, "description": "No token, or a wrong one."},
        403: {"model": Refused, "description": "The token's rights do not reach."},
    }

    @router.get(
        "/metrics",
        response_class=Response,
        dependencies=[Depends(needs(Right.READ))],
        summary="Figures for Prometheus",
        description="",
        responses=responses,
    )
    async def metrics() -> Response:
        text, content_type = await doors.figures.text()
        return Response(text, media_type=content_type, headers=NOT_KEPT)

    return router


async def _store(doors: Doors) -> tuple[str, str]:
    """What the store itself says of it may name files and addresses: not for everybody."""
    fault = (await doors.storage.ask()).fault
    if fault is None:
        return "ok", ""
    return ("no answer" if fault is StoreFault.NO_ANSWER else "unavailable"), fault.value
