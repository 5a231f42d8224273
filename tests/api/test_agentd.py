"""XiVO agentd's face: every route, every error of its document, and whatever else may be sent."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from fastagi.agents.commands import WhenInCall
from fastagi.agents.limits import PauseLimit, WhenExceeded
from fastagi.api.asgi import INTERFACES, Dispatcher
from fastagi.api.guard import LOCAL
from fastagi.api.table import Table
from fastagi.config.settings import (
    AlreadyElsewhere,
    InUseByAnother,
    LoginSettings,
    PauseSettings,
)
from fastagi.contract import EventType, Source
from tests.agents.memory import an_agent
from tests.api.conftest import House, alone

LOGIN = {"extension": "1001", "context": "phones"}
BOTH_WAYS = pytest.mark.parametrize("path", ["/0.1/agents/1001", "/0.1/agents/by-number/1001"])
A_CHANGE = pytest.mark.parametrize("action", ["logoff", "pause", "unpause"])


def told(answer: httpx2.Response) -> tuple[int, str]:
    """Status and error; the shape is checked with it."""
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().items()
    assert error[0] == "error"
    return answer.status_code, error[1]


def done(answer: httpx2.Response) -> bool:
    assert (answer.status_code, answer.content) == (204, b""), answer.text
    return True


@pytest.fixture
async def logged_in(house: House, http: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """Agent 1001, at extension 1001."""
    assert done(await http.post("/0.1/agents/1001/login", json=LOGIN))
    return http


# -- what the document shows


@BOTH_WAYS
async def test_a_day(house: House, http: httpx2.AsyncClient, path: str) -> None:
    assert done(await http.post(f"{path}/login", json=LOGIN))
    state = house.hall.state
    assert state.session is not None
    assert (state.session.device.extension, state.session.device.context) == ("1001", "phones")
    assert house.hall.asterisk.queues["sales"].keys() == {"pjsip/1001"}
    assert done(await http.post(f"{path}/pause"))
    assert house.hall.state.pause is not None
    assert done(await http.post(f"{path}/unpause"))
    assert house.hall.state.pause is None
    assert done(await http.post(f"{path}/logoff"))
    assert house.hall.state.session is None
    events = house.hall.events
    assert [event.type for event in events] == [
        EventType.LOGIN,
        EventType.PAUSE,
        EventType.UNPAUSE,
        EventType.LOGOUT,
    ]
    assert {event.source for event in events} == {Source.API}
    assert {event.actor.name for event in events} == {"local"}
    house.hall.all_well()


async def test_the_actor_is_the_client_of_the_token(house: House) -> None:
    tokens = {"crm": "a-token-of-the-crm", "wallboard": "a-token-of-the-board"}
    http = await house.open("a-token-of-the-crm", tokens=tokens)
    assert done(await http.post("/0.1/agents/1001/login", json=LOGIN))
    assert [event.actor.name for event in house.hall.events] == ["crm"]


@BOTH_WAYS
async def test_status(house: House, http: httpx2.AsyncClient, path: str) -> None:
    off = [
        {"id": 1, "name": "sales", "logged": False, "paused": False},
        {"id": 2, "name": "support", "logged": False, "paused": False},
        {"id": 3, "name": "billing", "logged": False, "paused": False},
    ]
    answer = await http.get(f"{path}/status")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "id": 1001,
        "number": "1001",
        "logged": False,
        "paused": False,
        "paused_reason": None,
        "queues": off,
        "planned": "",
        "known": True,
    }
    await http.post(f"{path}/login", json=LOGIN)
    await http.post(f"{path}/pause", json={"reason": "lunch"})
    await house.hall.do(house.hall.leave("billing"))
    assert (await http.get(f"{path}/status")).json() == {
        "id": 1001,
        "number": "1001",
        "logged": True,
        "extension": "1001",
        "context": "phones",
        "paused": True,
        "paused_reason": "lunch",
        "queues": [
            {"id": 1, "name": "sales", "logged": True, "paused": True},
            {"id": 2, "name": "support", "logged": True, "paused": True},
            {"id": 3, "name": "billing", "logged": False, "paused": False},
        ],
        "planned": "",
        "known": True,
    }
    # A pause without a reason is one, too.
    await http.post(f"{path}/pause", json={})
    assert (await http.get(f"{path}/status")).json()["paused_reason"] == ""


async def test_all_statuses_say_what_each_status_says(
    house: House, logged_in: httpx2.AsyncClient
) -> None:
    await logged_in.post("/0.1/agents/1001/pause", json={"reason": "break"})
    each = [(await logged_in.get(f"/0.1/agents/{id}/status")).json() for id in (1001, 1002)]
    answer = await logged_in.get("/0.1/agents/all/statuses")
    assert (answer.status_code, answer.json()) == (200, each)


async def test_all_statuses_of_many() -> None:
    async with AsyncExitStack() as stack:
        house = House(stack, *(an_agent(str(number), "sales") for number in range(1000, 3001)))
        http = await house.open()
        statuses = (await http.get("/0.1/agents/all/statuses")).json()
    assert [status["number"] for status in statuses] == [str(n) for n in range(1000, 3001)]


async def test_all_statuses_of_nobody(house: House, http: httpx2.AsyncClient) -> None:
    house.hall.store.agents.clear()
    assert (await http.get("/0.1/agents/all/statuses")).json() == []


async def test_members(house: House, http: httpx2.AsyncClient) -> None:
    member = {"agent_id": 1002, "queue_id": 3}
    house.hall.store.own_queues["1002"] = {"sales", "billing"}
    assert done(await http.post("/0.1/members", json=member))
    assert [m.queue for m in house.hall.store.agents["1002"].memberships] == ["sales", "billing"]
    assert told(await http.post("/0.1/members", json=member)) == (400, "Agent already in queue")
    await http.post("/0.1/agents/1002/login", json={"extension": "1002"})
    assert "pjsip/1002" in house.hall.asterisk.queues["billing"]
    gone = await http.request("DELETE", "/0.1/members", json=member)
    assert done(gone)
    assert "pjsip/1002" not in house.hall.asterisk.queues["billing"]
    again = await http.request("DELETE", "/0.1/members", json=member)
    assert told(again) == (400, "Agent not in queue")


# -- errors of the document


@pytest.mark.parametrize(
    ("method", "agent_id", "queue_id", "error"),
    [
        ("POST", 5, 1, "No such agent"),
        ("POST", 1001, 99, "No such queue"),
        ("POST", 5, 99, "No such agent"),  # asked for first
        ("POST", 1001, 1, "Agent already in queue"),
        ("DELETE", 5, 1, "No such agent"),
        ("DELETE", 1001, 99, "No such queue"),
        ("DELETE", 5, 99, "No such agent"),
        ("DELETE", 1002, 3, "Agent not in queue"),
        *(("POST", id, 1, "No such agent") for id in (0, -1, 2**31, 2**63, -(2**63))),
        *(("POST", 1001, id, "No such queue") for id in (0, -1, 2**31, 2**63)),
    ],
)
async def test_members_refused(
    http: httpx2.AsyncClient, method: str, agent_id: int, queue_id: int, error: str
) -> None:
    body = {"agent_id": agent_id, "queue_id": queue_id}
    assert told(await http.request(method, "/0.1/members", json=body)) == (400, error)


@BOTH_WAYS
@A_CHANGE
async def test_not_logged(http: httpx2.AsyncClient, path: str, action: str) -> None:
    assert told(await http.post(f"{path}/{action}")) == (400, "Not logged")


NOBODY = [
    "5",
    "0",
    "-1",
    "2147483648",
    "99999999999999999999999999",
    "x",
    "1001x",
    "1001%20",
    "%201001",
    "1001%0d%0aAction:%20Logoff",
    "1001'--",
    "1001%22",
    "1001%00",
    "%EF%BC%91%EF%BC%90%EF%BC%90%EF%BC%91",  # full-width digits
    "%D9%A1%D9%A0%D9%A0%D9%A1",  # Arabic ones
    "%ff%fe",
    "1001;drop",
    "+1001",
    "1e3",
    "0x3e9",
    "1001.0",
    "1_001",
    "9" * 3000,
]


@pytest.mark.parametrize("key", NOBODY)
@pytest.mark.parametrize("by", ["", "by-number/"])
async def test_no_such_agent(house: House, http: httpx2.AsyncClient, by: str, key: str) -> None:
    base = f"/0.1/agents/{by}{key}"
    assert told(await http.post(f"{base}/login", json=LOGIN)) == (404, "No such agent")
    for action in ("logoff", "pause", "unpause"):
        assert told(await http.post(f"{base}/{action}")) == (404, "No such agent")
    assert told(await http.get(f"{base}/status")) == (404, "No such agent")
    assert all(event.agent.isascii() and event.agent.isdigit() for event in house.hall.events)


async def test_the_agent_is_asked_for_before_all_else(
    house: House, http: httpx2.AsyncClient
) -> None:
    for base in ("/0.1/agents/5", "/0.1/agents/by-number/5"):
        nowhere = await http.post(f"{base}/login", json={"extension": "nowhere"})
        assert told(nowhere) == (404, "No such agent")
        unknown = await http.post(f"{base}/pause", json={"reason": "unknown"})
        assert told(unknown) == (404, "No such agent")


# -- login


@pytest.mark.parametrize(
    "extension",
    [
        "2001",  # no rule
        "",
        "1001\r\nAction: Logoff",
        "1001\n",
        "1001\x00",
        "1001'; DROP TABLE agent; --",
        '1001"',
        "1001@evil",
        "1001/n",
        "1001&PJSIP/1002",
        "1001,1",
        "1001|",
        "../1001",
        "${EXTEN}",
        "１００１",
        "١٠٠١",
        "1" * 41,
        "1" * 30_000,
    ],
)
async def test_no_such_extension(house: House, http: httpx2.AsyncClient, extension: str) -> None:
    answer = await http.post("/0.1/agents/by-number/1001/login", json={"extension": extension})
    assert told(answer) == (400, "No such extension")
    (event,) = house.hall.events
    assert event.type is EventType.LOGIN_REFUSED
    assert (event.agent, event.reason, event.source) == ("1001", "NO_SUCH_EXTENSION", Source.API)
    assert event.extension in ("2001", "")
    assert house.hall.asterisk.done == []


@pytest.mark.parametrize(
    "context", ["office-1", "phones ", "PHONES", "phones\r\n", "phones\x00", "'", "x" * 9000]
)
async def test_an_extension_of_another_context(
    house: House, http: httpx2.AsyncClient, context: str
) -> None:
    body = {"extension": "1001", "context": context}
    answer = await http.post("/0.1/agents/1001/login", json=body)
    assert told(answer) == (400, "No such extension")
    assert house.hall.events[0].context in ("office-1", "PHONES", "")


@pytest.mark.parametrize("more", [{}, {"context": ""}, {"context": None}, {"asterisk": None}])
async def test_the_context_may_be_left_out(
    house: House, http: httpx2.AsyncClient, more: dict[str, Any]
) -> None:
    assert done(await http.post("/0.1/agents/1001/login", json={"extension": "1001"} | more))


async def test_a_remote_agent(house: House, http: httpx2.AsyncClient) -> None:
    body = {"extension": "0123456789", "context": "outbound"}
    assert done(await http.post("/0.1/agents/1001/login", json=body))
    assert "local/0123456789@outbound/n" in house.hall.asterisk.queues["sales"]


async def test_one_of_several_asterisks() -> None:
    async with AsyncExitStack() as stack:
        house = House(stack, asterisks=("east", "west"))
        http = await house.open()
        for name, status in (("north", 400), ("west", 204)):
            body = LOGIN | {"asterisk": name}
            answer = await http.post("/0.1/agents/1001/login", json=body)
            assert answer.status_code == status
        assert "pjsip/1001" in house.hall.asterisks["west"].queues["sales"]


async def test_logged_in_there_already(house: House, logged_in: httpx2.AsyncClient) -> None:
    assert done(await logged_in.post("/0.1/agents/1001/login", json=LOGIN))
    assert len(house.hall.events) == 1


async def test_extension_in_use(house: House, logged_in: httpx2.AsyncClient) -> None:
    answer = await logged_in.post("/0.1/agents/1002/login", json=LOGIN)
    assert told(answer) == (409, "Extension is in use by agent 1001")
    assert house.hall.told[-1] == (EventType.LOGIN_REFUSED, "EXTENSION_IN_USE")


async def test_taken_over(house: House, logged_in: httpx2.AsyncClient) -> None:
    house.login = LoginSettings(in_use_by_another=InUseByAnother.TAKE_OVER)
    assert done(await logged_in.post("/0.1/agents/1002/login", json=LOGIN))
    assert house.hall.state.session is None
    assert house.hall.store.agents["1002"].session is not None


@pytest.mark.parametrize("policy", [AlreadyElsewhere.ASK, AlreadyElsewhere.REFUSE])
async def test_logged_in_elsewhere(
    house: House, logged_in: httpx2.AsyncClient, policy: AlreadyElsewhere
) -> None:
    house.login = LoginSettings(already_elsewhere=policy)
    answer = await logged_in.post("/0.1/agents/1001/login", json={"extension": "1002"})
    assert told(answer) == (409, "Agent is already logged in at 1001")
    assert house.hall.told[-1] == (EventType.LOGIN_REFUSED, "LOGGED_IN_ELSEWHERE")


async def test_moved(house: House, logged_in: httpx2.AsyncClient) -> None:
    house.login = LoginSettings(already_elsewhere=AlreadyElsewhere.MOVE)
    assert done(await logged_in.post("/0.1/agents/1001/login", json={"extension": "1002"}))
    assert house.hall.state.session is not None
    assert house.hall.state.session.device.extension == "1002"


async def test_refused_by_asterisk(house: House, http: httpx2.AsyncClient) -> None:
    house.hall.asterisk.refuses = lambda operation: True
    answer = await http.post("/0.1/agents/1001/login", json=LOGIN)
    assert told(answer) == (409, "Asterisk refused the change: Permission denied")


# -- log-off and pause


async def test_logoff_in_call(house: House, logged_in: httpx2.AsyncClient) -> None:
    house.hall.asterisk.calls.add("pjsip/1001")
    house.login = LoginSettings(logoff_in_call=WhenInCall.REFUSE)
    answer = await logged_in.post("/0.1/agents/1001/logoff")
    assert told(answer) == (409, "Agent is in a call")
    house.login = LoginSettings(logoff_in_call=WhenInCall.AFTER_CALL)
    answer = await logged_in.post("/0.1/agents/1001/logoff")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["fastagi-planned"] == "log off"
    assert house.hall.state.planned is not None
    for path in ("/0.1/agents/1001/status", "/0.1/agents/all/statuses"):
        told_of = (await logged_in.get(path)).json()
        first = told_of[0] if isinstance(told_of, list) else told_of
        assert (first["logged"], first["planned"]) == (True, "log off")
    house.login = LoginSettings(logoff_in_call=WhenInCall.ALLOW)
    assert done(await logged_in.post("/0.1/agents/1001/logoff"))
    assert house.hall.state.session is None


@pytest.mark.parametrize("said", ["lunch", "Lunch", "1"])
async def test_pause_with_a_reason(house: House, logged_in: httpx2.AsyncClient, said: str) -> None:
    body = {"reason": said}
    assert done(await logged_in.post("/0.1/agents/by-number/1001/pause", json=body))
    assert done(await logged_in.post("/0.1/agents/by-number/1001/pause", json=body))
    assert house.hall.told[1:] == [(EventType.PAUSE, "lunch")]  # once
    changed = {"reason": "break"}
    assert done(await logged_in.post("/0.1/agents/by-number/1001/pause", json=changed))
    assert house.hall.told[-1] == (EventType.PAUSE, "break")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"reason": null}', b'{"reason": ""}'])
async def test_pause_without_a_reason(
    house: House, logged_in: httpx2.AsyncClient, body: bytes
) -> None:
    assert done(await logged_in.post("/0.1/agents/1001/pause", content=body))
    assert done(await logged_in.post("/0.1/agents/1001/pause", content=body))
    assert house.hall.told[1:] == [(EventType.PAUSE, "")]
    assert done(await logged_in.post("/0.1/agents/1001/unpause"))


@pytest.mark.parametrize("reason", ["tea", "3", "lunch\r\n", "lunch\x00", "'", "１", "x" * 9000])
async def test_no_such_reason(logged_in: httpx2.AsyncClient, reason: str) -> None:
    answer = await logged_in.post("/0.1/agents/1001/pause", json={"reason": reason})
    assert told(answer) == (400, "No such pause reason")


async def test_a_spent_budget(house: House, logged_in: httpx2.AsyncClient) -> None:
    limit = PauseLimit(None, timedelta(minutes=30), WhenExceeded.UNPAUSE)
    house.hall.store.known_limits["1"] = limit
    body = {"reason": "lunch"}
    assert done(await logged_in.post("/0.1/agents/1001/pause", json=body))
    house.hall.clock.pass_(minutes=31)
    assert done(await logged_in.post("/0.1/agents/1001/unpause"))
    answer = await logged_in.post("/0.1/agents/1001/pause", json=body)
    assert told(answer) == (409, "The time for this pause reason is used up for today")


async def test_pause_in_call(house: House, logged_in: httpx2.AsyncClient) -> None:
    house.hall.asterisk.calls.add("pjsip/1001")
    house.pause = PauseSettings(when_in_call=WhenInCall.REFUSE)
    assert told(await logged_in.post("/0.1/agents/1001/pause")) == (409, "Agent is in a call")
    house.pause = PauseSettings(when_in_call=WhenInCall.AFTER_CALL)
    answer = await logged_in.post("/0.1/agents/1001/pause")
    assert (answer.status_code, answer.headers["fastagi-planned"]) == (204, "pause")
    assert house.hall.state.pause is None
    # Taken back: nothing is planned any more.
    answer = await logged_in.post("/0.1/agents/1001/unpause")
    assert (answer.status_code, "fastagi-planned" in answer.headers) == (204, False)


async def test_unpause_of_who_is_not_paused(logged_in: httpx2.AsyncClient) -> None:
    assert done(await logged_in.post("/0.1/agents/1001/unpause"))


# -- all agents


@pytest.fixture
async def staff() -> Any:
    """Agents 1000 to 1149, all but the last one logged in."""
    async with AsyncExitStack() as stack:
        house = House(stack, *(an_agent(str(number), "sales") for number in range(1000, 1150)))
        await asyncio.gather(
            *(house.hall.do(house.hall.log_in(str(n), str(n))) for n in range(1000, 1149))
        )
        yield house


async def test_log_off_all(staff: House) -> None:
    http = await staff.open()
    assert done(await http.post("/0.1/agents/all/logoff"))
    assert staff.hall.asterisk.queues["sales"] == {}
    assert staff.hall.told[-149:] == [(EventType.LOGOUT, "")] * 149
    assert done(await http.post("/0.1/agents/all/logoff"))
    staff.hall.all_well()


async def test_log_off_all_but_those_in_calls(staff: House) -> None:
    http = await staff.open()
    staff.hall.asterisk.calls |= {"pjsip/1003", "pjsip/1001"}
    staff.login = LoginSettings(logoff_in_call=WhenInCall.REFUSE)
    answer = await http.post("/0.1/agents/all/logoff")
    assert (answer.status_code, answer.json()) == (
        207,
        {
            "done": 147,
            "planned": 0,
            "failed": [
                {"id": 1001, "number": "1001", "error": "Agent is in a call"},
                {"id": 1003, "number": "1003", "error": "Agent is in a call"},
            ],
        },
    )
    assert staff.hall.asterisk.queues["sales"].keys() == {"pjsip/1003", "pjsip/1001"}
    staff.login = LoginSettings(logoff_in_call=WhenInCall.AFTER_CALL)
    answer = await http.post("/0.1/agents/all/logoff")
    assert (answer.status_code, answer.headers["fastagi-planned"]) == (204, "log off; agents=2")
    assert {n for n, a in staff.hall.store.agents.items() if a.planned} == {"1001", "1003"}


async def test_who_logs_off_meanwhile_is_logged_off(staff: House) -> None:
    http = await staff.open()
    everybody = await staff.hall.store.logged_in()

    async def as_it_was() -> Any:
        await staff.hall.do(staff.hall.log_off("1005"))
        return everybody

    staff.hall.store.logged_in = as_it_was  # type: ignore[method-assign]
    assert done(await http.post("/0.1/agents/all/logoff"))
    assert staff.hall.asterisk.queues["sales"] == {}


async def test_relog_all(staff: House) -> None:
    http = await staff.open()
    await staff.hall.do(staff.hall.pause(agent="1007"))
    before = dict(staff.hall.store.agents)
    events = len(staff.hall.events)
    staff.hall.asterisk.queues["sales"].clear()
    assert done(await http.post("/0.1/agents/all/relog"))
    assert staff.hall.store.agents == before
    assert len(staff.hall.events) == events
    staff.hall.all_well()
    assert staff.hall.asterisk.queues["sales"]["pjsip/1007"].reason == "lunch"


async def test_relog_tells_who_could_not(staff: House) -> None:
    http = await staff.open()
    staff.hall.asterisk.queues["sales"].pop("pjsip/1042")
    staff.hall.asterisk.refuses = lambda operation: operation.interface == "PJSIP/1042"
    answer = await http.post("/0.1/agents/all/relog")
    assert answer.status_code == 207
    assert answer.json() == {
        "done": 148,
        "planned": 0,
        "failed": [
            {
                "id": 1042,
                "number": "1042",
                "error": "Asterisk refused the change: Permission denied",
            }
        ],
    }


@pytest.mark.parametrize("action", ["logoff", "relog"])
async def test_all_while_asterisk_is_away(staff: House, action: str) -> None:
    http = await staff.open()
    staff.hall.asterisk.linked = False
    answer = await http.post(f"/0.1/agents/all/{action}")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_a_client_that_goes_stops_nothing(staff: House) -> None:
    faults = staff.hall.faults
    http = await staff.open()
    reached = faults.stop_at("before store.logged_in")
    asked = asyncio.create_task(http.post("/0.1/agents/all/logoff"))
    await reached.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    faults.go_on("before store.logged_in")
    async with asyncio.timeout(10):
        while staff.hall.asterisk.queues["sales"] or staff.hall.store.intents:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert all(agent.session is None for agent in staff.hall.store.agents.values())


# -- nobody there


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/0.1/agents/1001/login", LOGIN),
        ("POST", "/0.1/agents/by-number/1001/login", LOGIN),
        ("POST", "/0.1/agents/by-number/1001/logoff", None),
        ("POST", "/0.1/agents/by-number/1001/pause", {"reason": "lunch"}),
        ("POST", "/0.1/agents/by-number/1001/unpause", None),
        ("POST", "/0.1/agents/all/logoff", None),
        ("POST", "/0.1/agents/all/relog", None),
        ("GET", "/0.1/agents/1001/status", None),
        ("GET", "/0.1/agents/by-number/1001/status", None),
        ("GET", "/0.1/agents/all/statuses", None),
        ("POST", "/0.1/members", {"agent_id": 1001, "queue_id": 1}),
        ("DELETE", "/0.1/members", {"agent_id": 1001, "queue_id": 1}),
    ],
)
async def test_the_store_is_away(
    house: House, logged_in: httpx2.AsyncClient, method: str, path: str, body: Any
) -> None:
    house.hall.store.down.add("*")
    answer = await logged_in.request(method, path, json=body)
    status, error = told(answer)
    assert (status, answer.headers["retry-after"]) == (503, "1")
    assert "disk" not in error  # that is for the log


async def test_asterisk_is_away(house: House, logged_in: httpx2.AsyncClient) -> None:
    house.hall.asterisk.linked = False
    status, error = told(await logged_in.post("/0.1/agents/1001/pause"))
    assert status == 503
    assert error == "Asterisk or the database is away and nothing was changed: try again"


async def test_asterisk_gives_no_answer(house: House, http: httpx2.AsyncClient) -> None:
    house.hall.asterisk.answers_left = 1
    status, error = told(await http.post("/0.1/agents/1001/login", json=LOGIN))
    assert status == 503
    assert error == "Asterisk or the database gave no answer: it may have happened"


# -- bodies


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "extension: is missing"),
        (b"{}", "extension: is missing"),
        (b'{"extension": null}', "extension: is missing"),
        (b'{"context": "phones"}', "extension: is missing"),
        (b'{"extension": 1001.5}', "extension: must be a string"),
        (b'{"extension": -1001}', "extension: must be a string"),
        (b'{"extension": true}', "extension: must be a string"),
        (b'{"extension": ["1001"]}', "extension: must be a string"),
        (b'{"extension": {"a": 1}}', "extension: must be a string"),
        (b'{"extension": "1001", "context": true}', "context: must be a string"),
        (b'{"extension": "1001", "asterisk": [5]}', "asterisk: must be a string"),
        (b"[]", "extension: is missing"),
        (b"[1]", "The body must be a JSON object"),
        (b'"1001"', "The body must be a JSON object"),
        (b"null", "extension: is missing"),
        (b"extension=1001&context=phones", "The body is no valid JSON"),
        (b'{"extension": "1001"', "The body is no valid JSON"),
        (b'{"extension": "1001"} {}', "The body is no valid JSON"),
        (b'{"extension": "\xff"}', "The body is no valid JSON"),
        (b'{"extension": "\\ud800"}', "The body is no valid JSON"),
        (b'{"extension": NaN}', "The body is no valid JSON"),
        (b"[" * 60_000, "The body is no valid JSON"),
        (b"\x00", "The body is no valid JSON"),
    ],
)
async def test_a_wrong_body(http: httpx2.AsyncClient, body: bytes, error: str) -> None:
    status, text = told(await http.post("/0.1/agents/1001/login", content=body))
    assert status == 400
    assert text.partition(": line")[0].startswith(error)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "agent_id: is missing"),
        ({"agent_id": 1001}, "queue_id: is missing"),
        ({"agent_id": "Alice", "queue_id": 1}, "agent_id: must be an integer"),
        ({"agent_id": "-1", "queue_id": 1}, "agent_id: must be an integer"),
        ({"agent_id": "１", "queue_id": 1}, "agent_id: must be an integer"),
        ({"agent_id": True, "queue_id": 1}, "agent_id: must be an integer"),
        ({"agent_id": 1001, "queue_id": 1.5}, "queue_id: must be an integer"),
        ({"agent_id": 1001, "queue_id": [1]}, "queue_id: must be an integer"),
        ({"agent_id": None, "queue_id": 1}, "agent_id: is missing"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_wrong_ids(
    http: httpx2.AsyncClient, method: str, body: dict[str, Any], error: str
) -> None:
    assert told(await http.request(method, "/0.1/members", json=body)) == (400, error)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_any_content_type(http: httpx2.AsyncClient, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    body = json.dumps(LOGIN).encode()
    answer = await http.post("/0.1/agents/1001/login", content=body, headers=headers)
    assert done(answer)


async def test_other_fields_are_ignored(http: httpx2.AsyncClient) -> None:
    body = LOGIN | {"move": True, "agent": "1002", "source": "phone"}
    assert done(await http.post("/0.1/agents/1001/login", json=body))


@A_CHANGE
async def test_a_body_nobody_asked_for(
    house: House, logged_in: httpx2.AsyncClient, action: str
) -> None:
    assert done(await logged_in.post(f"/0.1/agents/1001/{action}", content=b"{}"))


# -- paths, methods, rights


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/0.1/members", "POST, DELETE"),
        ("PUT", "/0.1/members", "POST, DELETE"),
        ("GET", "/0.1/agents/1001/login", "POST"),
        ("DELETE", "/0.1/agents/by-number/1001/logoff", "POST"),
        ("POST", "/0.1/agents/1001/status", "GET, HEAD"),
        ("POST", "/0.1/agents/all/statuses", "GET, HEAD"),
        ("GET", "/0.1/agents/all/logoff", "POST"),
        ("OPTIONS", "/0.1/agents/all/relog", "POST"),
    ],
)
async def test_another_method(
    http: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await http.request(method, path)
    assert told(answer) == (405, "Method Not Allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/0.1",
        "/0.1/",
        "/0.1/agents",
        "/0.1/agents/1001",
        "/0.1/agents/1001/",
        "/0.1/agents/1001/dance",
        "/0.1/agents/all/status",
        "/0.1/agents/by-number/1001/statuses",
        "/0.1/agents/by-number/10/01/status",
        "/0.1/members//",
        "/0.2/members",
    ],
)
async def test_no_such_path(http: httpx2.AsyncClient, path: str) -> None:
    assert told(await http.get(path)) == (404, "Not Found")


@pytest.mark.parametrize(
    ("rights", "statuses"),
    [
        (["read"], (200, 403, 403)),
        (["control"], (403, 204, 403)),
        (["configure"], (403, 403, 204)),
        ([], (403, 403, 403)),
    ],
)
async def test_rights(house: House, rights: list[str], statuses: tuple[int, ...]) -> None:
    tokens = {"crm": {"token": "a-token-of-the-crm", "rights": rights}}
    http = await house.open("a-token-of-the-crm", tokens=tokens)
    member = {"agent_id": 1001, "queue_id": 1}
    answers = [
        await http.get("/0.1/agents/all/statuses"),
        await http.post("/0.1/agents/1001/login", json=LOGIN),
        await http.request("DELETE", "/0.1/members", json=member),
    ]
    assert tuple(answer.status_code for answer in answers) == statuses
    needed = ("read", "control", "configure")
    for answer, right in zip(answers, needed, strict=True):
        if answer.status_code == 403:
            assert told(answer) == (403, f"This needs the right '{right}'")


# -- what it says of itself


async def test_every_route_is_documented_and_served(
    house: House, logged_in: httpx2.AsyncClient
) -> None:
    document = (await logged_in.get("/openapi.json")).json()
    routes = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith("/0.1/")
    }
    one = {"login", "logoff", "pause", "unpause"}
    assert routes == {
        ("POST", "/0.1/members"),
        ("DELETE", "/0.1/members"),
        ("POST", "/0.1/agents/all/logoff"),
        ("POST", "/0.1/agents/all/relog"),
        ("GET", "/0.1/agents/all/statuses"),
        ("GET", "/0.1/agents/{agent_id}/status"),
        ("GET", "/0.1/agents/by-number/{agent_number}/status"),
        *(("POST", f"/0.1/agents/{{agent_id}}/{action}") for action in one),
        *(("POST", f"/0.1/agents/by-number/{{agent_number}}/{action}") for action in one),
    }
    for method, path in routes:
        operation = document["paths"][path][method.lower()]
        at = path.format(agent_id=1001, agent_number=1001)
        answer = await logged_in.request(method, at, json={})
        assert str(answer.status_code) in operation["responses"], (method, path)


async def test_served_without_the_short_cut(house: House) -> None:
    """FastAPI's own routing comes to the same."""
    context = house.context()
    app = await Dispatcher(context, Table(INTERFACES, context.http)).framework()
    http = await house.open(app=alone(app, lambda: LOCAL))
    assert done(await http.post("/0.1/agents/by-number/1001/login", json=LOGIN))
    assert (await http.get("/0.1/agents/1001/status")).json()["logged"] is True
    assert told(await http.post("/0.1/agents/5/logoff")) == (404, "No such agent")


async def test_ten_thousand_log_off_in_one_go() -> None:
    numbers = range(100_000, 110_000)
    async with AsyncExitStack() as stack:
        house = House(stack, *(an_agent(str(number), "sales") for number in numbers))
        store = house.hall.store
        for n in numbers:
            await house.hall.do(house.hall.log_in(str(n), str(n)))
        asked = store.faults.trace.count("before queues.members")
        http = await house.open()
        assert done(await http.post("/0.1/agents/all/logoff"))
        # Whether anybody is in a call is asked once, not ten thousand times.
        assert store.faults.trace.count("before queues.members") == asked + 1
        assert all(a.session is None for a in store.agents.values())
