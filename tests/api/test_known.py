"""No answer says more than is known: while an Asterisk or the store is away, that is said."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from tests.api.conftest import House

PHP = {"agent_php": {"allow": ["127.0.0.1"]}}


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """Agent 1001 is logged in at east, 1002 at west."""
    async with AsyncExitStack() as stack:
        made = House(stack, asterisks=("east", "west"))
        await made.hall.do(made.hall.log_in("1001", agent="1001", asterisk="east"))
        await made.hall.do(made.hall.log_in("1002", agent="1002", asterisk="west"))
        yield made


@pytest.fixture
async def http(house: House) -> httpx2.AsyncClient:
    return await house.open(**PHP)


async def known(http: httpx2.AsyncClient) -> dict[str, set[Any]]:
    """Of each agent, what each answer says of it."""
    found: dict[str, set[Any]] = {"1001": set(), "1002": set()}
    for one in (await http.get("/0.1/agents/all/statuses")).json():
        found[one["number"]].add(one["known"])
    for number in found:
        for path in (f"/0.1/agents/{number}/status", f"/0.1/agents/by-number/{number}/status"):
            found[number].add((await http.get(path)).json()["known"])
    for one in (await http.get("/live/agents")).json()["agents"]:
        found[one["number"]].add(one["known"])
    for one in (await http.get("/api/v1/agents")).json()["data"]:
        found[one["login"]].add(one.get("known", True))
    return found


async def test_one_of_two_asterisks_is_away(house: House, http: httpx2.AsyncClient) -> None:
    assert await known(http) == {"1001": {True}, "1002": {True}}
    house.hall.asterisks["west"].linked = False
    assert await known(http) == {"1001": {True}, "1002": {False}}
    links = {"store": True, "asterisks": {"east": True, "west": False}, "plans": 0}
    assert (await http.get("/live/links")).json() == links
    assert (await http.get("/live/agents")).json()["links"] == links
    # Who is logged off is so wherever.
    await house.hall.do(house.hall.log_off("1001"))
    assert (await known(http))["1001"] == {True}
    house.hall.asterisks["west"].linked = True
    assert await known(http) == {"1001": {True}, "1002": {True}}


async def test_the_store_cannot_be_relied_on(house: House, http: httpx2.AsyncClient) -> None:
    house.hall.service.store_usable = lambda: False
    await house.hall.do(house.hall.log_off("1001"))
    assert await known(http) == {"1001": {False}, "1002": {False}}
    assert (await http.get("/live/links")).json()["store"] is False


async def test_what_the_page_has_is_asked_for_again(house: House, http: httpx2.AsyncClient) -> None:
    """An ETag is of the links, too."""
    first = await http.get("/live/agents")
    same = {"If-None-Match": first.headers["etag"]}
    assert (await http.get("/live/agents", headers=same)).status_code == 304
    house.hall.asterisks["west"].linked = False
    assert (await http.get("/live/agents", headers=same)).status_code == 200


async def test_a_plan_is_counted_where_no_event_tells(
    house: House, http: httpx2.AsyncClient
) -> None:
    house.hall.asterisks["east"].calls.add("pjsip/1001")
    assert (await http.get("/live/links")).json()["plans"] == 0
    answer = await http.post("/0.1/agents/1001/logoff")
    assert answer.headers["fastagi-planned"] == "log off"
    assert (await http.get("/live/links")).json()["plans"] == 1
    (alice,) = (await http.get("/live/agents?number=1001")).json()["agents"]
    assert (alice["status"], alice["planned"]) == ("available", "log off")


NOTHING_TO_DO = [
    ("POST", "/0.1/agents/1002/unpause", None),
    ("POST", "/0.1/agents/1002/login", {"extension": "1002", "asterisk": "west"}),
    ("POST", "/api/v1/agents/1002/unpause", None),
    ("GET", "/api/agent.php?command=unpause&agent=1002", None),
    ("POST", "/live/agents/1002/unpause", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), NOTHING_TO_DO)
async def test_that_nothing_is_to_be_done_is_not_known_either(
    house: House, http: httpx2.AsyncClient, method: str, path: str, body: Any
) -> None:
    answer = await http.request(method, path, json=body)
    assert answer.status_code in (200, 204, 422)
    house.hall.asterisks["west"].linked = False
    answer = await http.request(method, path, json=body)
    assert answer.status_code == 503
    house.hall.asterisks["west"].linked = True


async def test_the_links_need_the_right_to_read(house: House) -> None:
    tokens = {"robot": {"token": "r" * 32, "rights": ["control"]}}
    http = await house.open("r" * 32, tokens=tokens)
    assert (await http.get("/live/links")).status_code == 403
