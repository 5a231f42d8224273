"""A new interface is one module, which is what stands here, and one line in the list."""

import json
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Query, Request, Response
from fastapi.routing import APIRoute

from fastagi.agents.errors import NoSuchAgent
from fastagi.api.answers import Answer, HttpError, json_answer
from fastagi.api.asgi import INTERFACES
from fastagi.api.context import Context
from fastagi.api.request import Call
from fastagi.api.table import Interface, Row
from fastagi.config.settings import Right
from fastagi.outbox.metrics import Metrics
from tests.api.conftest import House

TOKENS = {
    "reader": {"token": "r" * 32, "rights": ["read"]},
    "robot": {"token": "c" * 32, "rights": ["control"]},
}
READER, ROBOT = {"token": "r" * 32}, {"token": "c" * 32}


class Extensions:
    def __init__(self, context: Context) -> None:
        self._service = context.service

    async def show(self, call: Call) -> Answer:
        state = await self._service.agent(call.values["number"])
        if state.session is None:
            raise HttpError(404, "nowhere")
        return json_answer({"extension": state.session.device.extension})


EXTENSIONS = Interface(
    name="extensions",
    tag="extensions",
    bases=("/extensions",),
    make=Extensions,
    error_body=lambda status, text: json.dumps([status, text]).encode(),
    rows=(
        Row(
            "GET",
            "/extensions/{number}",
            Right.READ,
            Extensions.show,
            {"summary": "Where an agent is"},
        ),
    ),
)


class Numbers:
    def __init__(self, context: Context) -> None: ...

    async def double(self, request: Request, n: Annotated[int, Query(le=100)]) -> Response:
        if n < 0:
            raise NoSuchAgent(str(n))
        return Response(str(2 * n))


NUMBERS = Interface(
    name="numbers",
    tag="numbers",
    bases=("/numbers",),
    make=Numbers,
    framework=APIRoute,
    rows=(Row("GET", "/numbers/double", Right.READ, Numbers.double, {}),),
)


@pytest.fixture
async def http(house: House) -> httpx2.AsyncClient:
    house.figures = Metrics()  # type: ignore[assignment]
    await house.hall.do(house.hall.log_in("1001", "1001"))
    return await house.open(tokens=TOKENS, interfaces=[*INTERFACES, EXTENSIONS, NUMBERS])


def said(answer: httpx2.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()


async def test_it_is_dispatched_in_its_own_shape_and_counted(
    house: House, http: httpx2.AsyncClient
) -> None:
    assert said(await http.get("/extensions/1001", headers=READER)) == (200, {"extension": "1001"})
    assert said(await http.get("/extensions/1001")) == (401, [401, "A token is needed"])
    lacking = [403, "This needs the right 'read'"]
    assert said(await http.get("/extensions/1001", headers=ROBOT)) == (403, lacking)
    assert said(await http.get("/extensions/1002", headers=READER)) == (404, [404, "nowhere"])
    assert said(await http.get("/extensions/7", headers=READER)) == (404, [404, "No such agent"])
    assert said(await http.get("/extensions/7/x", headers=READER)) == (404, [404, "Not Found"])
    other = await http.post("/extensions/1001", headers=READER)
    assert said(other) == (405, [405, "Method Not Allowed"])
    assert other.headers["allow"] == "GET, HEAD"
    head = await http.head("/extensions/1001", headers=READER)
    assert (head.status_code, head.content) == (200, b"")
    figures = (await house.figures.text())[0].decode()
    for status, count in ((200, 2), (401, 1), (403, 1), (404, 3), (405, 1)):
        line = f'fastagi_http_requests_total{{face="extensions",status="{status}"}} {count}.0'
        assert line in figures


async def test_one_that_fastapi_serves(http: httpx2.AsyncClient) -> None:
    path = "/numbers/double"
    answer = await http.get(path, params={"n": 21}, headers=READER)
    assert (answer.status_code, answer.text) == (200, "42")
    assert said(await http.get(path, params={"n": 21}, headers=ROBOT))[0] == 403
    too_large = {"error": "n: Input should be less than or equal to 100"}
    assert said(await http.get(path, params={"n": 101}, headers=READER)) == (422, too_large)
    nobody = {"error": "No such agent"}
    assert said(await http.get(path, params={"n": -1}, headers=READER)) == (404, nobody)


async def test_openapi_shows_it(http: httpx2.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    operation = paths["/extensions/{number}"]["get"]
    assert operation["summary"] == "Where an agent is"
    assert {"401", "403", "429"} <= operation["responses"].keys()
    assert paths["/numbers/double"]["get"]["parameters"][0]["name"] == "n"
    assert "security" not in operation


def test_every_path_belongs_to_one_interface() -> None:
    bases = [base for interface in INTERFACES for base in interface.bases]
    assert len(bases) == len(set(bases))
    names = [interface.name for interface in INTERFACES]
    assert len(names) == len(set(names))
    for interface in INTERFACES:
        for row in interface.rows:
            assert any(
                f"{row.path}/".startswith(base.rstrip("/") + "/") for base in interface.bases
            )
