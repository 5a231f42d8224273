"""Every outcome has its journey: brought about on real parts, spoken, seen by the dialplan.

A journey ends with a call that comes to its outcome, and tells what the answer may speak of and
what the channel variables are to say.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from fastagi.agents.devices import Device
from fastagi.agents.model import AgentState, LoginSession, Membership
from fastagi.agi import prompts
from fastagi.agi.prompts import Facts
from fastagi.contract import Outcome
from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import Desk, Heard, Service, Wire, sample, spoken, until

PIN = "4321#"  # of the sample's agents 4003 and 4006


@dataclass
class Lab:
    make_service: Callable[..., Service]
    desk: Callable[..., Awaitable[Desk]]
    asterisk: Asterisk
    wire: Wire
    request: pytest.FixtureRequest


@dataclass(frozen=True)
class Told:
    """The call, and what is expected of it: agent, extension and reason as channel variables."""

    heard: Heard
    agent: str = ""
    extension: str = "1001"
    reason: str = ""
    code: str = ""  # of the pause reason
    queue: str = ""
    occupant: str = ""
    answer: list[str] | None = None  # where it is not the fixed one


Journey = Callable[[Lab], Awaitable[Told]]
JOURNEYS: dict[Outcome, Journey] = {}


def comes_to(outcome: Outcome) -> Callable[[Journey], Journey]:
    def enter(journey: Journey) -> Journey:
        assert outcome not in JOURNEYS
        JOURNEYS[outcome] = journey
        return journey

    return enter


@pytest.fixture
def lab(
    make_service: Any, desk: Any, asterisk: Asterisk, wire: Wire, request: pytest.FixtureRequest
) -> Lab:
    return Lab(make_service, desk, asterisk, wire, request)


@pytest.mark.parametrize("outcome", Outcome)
async def test_every_outcome_is_produced_and_spoken(outcome: Outcome, lab: Lab) -> None:
    told = await JOURNEYS[outcome](lab)
    answer = told.answer
    if answer is None:
        facts = Facts(
            agent=told.agent,
            extension=told.extension,
            queue=told.queue,
            reason=told.code,
            occupant=told.occupant,
        )
        answer = spoken(prompts.answer(outcome, facts, {}))
    assert answer, "never silence"
    assert told.heard.sounds[-len(answer) :] == answer
    assert told.heard.outcome == outcome.value
    assert (told.heard.agent, told.heard.extension, told.heard.reason) == (
        told.agent,
        told.extension,
        told.reason,
    )


def test_no_outcome_is_without_a_journey() -> None:
    assert set(JOURNEYS) == set(Outcome)


def test_no_two_outcomes_sound_the_same() -> None:
    facts = Facts(agent="4001", extension="1001", queue="701", reason="2", occupant="4002")
    answers = [tuple(spoken(prompts.answer(outcome, facts, {}))) for outcome in Outcome]
    assert len(set(answers)) == len(answers)


# -- done -----------------------------------------------------------------------------------


@comes_to(Outcome.LOGGED_IN)
async def logged_in(lab: Lab) -> Told:
    lab.make_service()
    desk = await lab.desk("1001")
    return Told(await desk.dial("*314001"), "4001")


@comes_to(Outcome.ALREADY_LOGGED_IN)
async def already_logged_in(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    told = Told(await desk.dial("*314001"), "4001")
    assert len(service.events()) == 1, "nothing changed"
    return told


@comes_to(Outcome.MOVED)
async def moved(lab: Lab) -> Told:
    service = lab.make_service()
    await (await lab.desk("1001")).dial("*314001")
    heard = await (await lab.desk("1003")).dial("*314001", ("pbx-transfer", "1"))
    assert service.members()["sales"] == {"PJSIP/1003"}
    return Told(heard, "4001", "1003")


@comes_to(Outcome.LOGGED_OFF)
async def logged_off(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    heard = await desk.dial("*32")
    assert service.members()["sales"] == set()
    return Told(heard, "4001")


async def _agent_in_a_queue_call(lab: Lab, **login: str) -> tuple[Service, Desk]:
    """4001 at 1001 talks to a caller at 1003."""
    service = lab.make_service(login=login)
    agent, caller = await lab.desk("1001"), await lab.desk("1003")
    await agent.dial("*314001")
    await caller.phone.dial("701")
    await agent.phone.wait_answered()
    await until(lambda: "in call" in lab.asterisk.cli("queue show sales"))
    return service, caller


@comes_to(Outcome.LOGOFF_AFTER_CALL)
async def logoff_after_call(lab: Lab) -> Told:
    service, caller = await _agent_in_a_queue_call(lab)
    told = Told(await (await lab.desk("1005")).dial("*324001"), "4001")
    assert service.members()["sales"] == {"PJSIP/1001"}, "until the call has ended"
    assert service.agents()["4001"]["logoff_planned"]
    await caller.phone.hangup()
    await until(lambda: not service.members()["sales"])
    await until(lambda: service.agents()["4001"]["status"] == "logged_off")
    assert [e["source"] for e in service.events("agent-logout")] == ["phone"]
    return told


@comes_to(Outcome.PAUSED)
async def paused(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    heard = await desk.dial("*331")
    assert service.members()["sales"] == {"PJSIP/1001 paused:lunch"}
    return Told(heard, "4001", reason="lunch", code="1")


@comes_to(Outcome.PAUSE_AFTER_CALL)
async def pause_after_call(lab: Lab) -> Told:
    service = lab.make_service(pause={"when_in_call": "after_call"})
    agent, caller = await lab.desk("1001"), await lab.desk("1003")
    await agent.dial("*314001")
    await caller.phone.dial("701")
    await agent.phone.wait_answered()
    told = Told(await agent.dial("*331"), "4001", code="1")
    assert service.members()["sales"] == {"PJSIP/1001"}, "until the call has ended"
    await caller.phone.hangup()
    await until(lambda: service.members()["sales"] == {"PJSIP/1001 paused:lunch"})
    return told


@comes_to(Outcome.PAUSE_SPENT)
async def pause_spent(lab: Lab) -> Told:
    reason = {"code": 1, "name": "lunch", "daily_budget": "1s", "when_exceeded": "unpause"}
    service = lab.make_service(pause_reasons=[reason])
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    await desk.dial("*331")
    await until(lambda: service.events("agent-unpause"))
    told = Told(await desk.dial("*331"), "4001", code="1")
    assert len(service.events("agent-pause")) == 1
    return told


@comes_to(Outcome.PAUSE_LOCKED)
async def pause_locked(lab: Lab) -> Told:
    queues = sample()["queues"]
    queues[0]["pauses"] = [{"reason": 1, "limit_duration": "10m", "disable_unpause": True}]
    service = lab.make_service(queues=queues)
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    await desk.dial("*331")
    told = Told(await desk.dial("*34"), "4001", reason="lunch", code="1")
    assert not service.events("agent-unpause")
    return told


@comes_to(Outcome.ALREADY_PAUSED)
async def already_paused(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    await desk.dial("*332")
    told = Told(await desk.dial("*332"), "4001", reason="break", code="2")
    assert len(service.events("agent-pause")) == 1
    return told


@comes_to(Outcome.PAUSE_REASON_CHANGED)
async def pause_reason_changed(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    await desk.dial("*332")
    told = Told(await desk.dial("*331"), "4001", reason="lunch", code="1")
    assert [event["reason"] for event in service.events("agent-pause")] == ["break", "lunch"]
    assert service.members()["sales"] == {"PJSIP/1001 paused:lunch"}
    return told


@comes_to(Outcome.UNPAUSED)
async def unpaused(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    await desk.dial("*332")
    heard = await desk.dial("*34")
    assert service.members()["sales"] == {"PJSIP/1001"}
    return Told(heard, "4001")


@comes_to(Outcome.NOT_PAUSED)
async def not_paused(lab: Lab) -> Told:
    lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    return Told(await desk.dial("*34"), "4001")


@comes_to(Outcome.STATUS_TOLD)
async def status_told(lab: Lab) -> Told:
    lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    now = datetime.now(UTC)
    state = AgentState(
        1,
        "4001",
        "",
        "en",
        memberships=tuple(Membership(str(n), str(n), joined=True) for n in (701, 702, 703)),
        session=LoginSession("1", Device("1001", "phones", "PJSIP/1001", "PJSIP/1001"), now),
    )
    heard = await desk.dial("*35")
    return Told(heard, "4001", answer=spoken(prompts.status(state, now)))


@comes_to(Outcome.QUEUE_JOINED)
async def queue_joined(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    await desk.dial("*36702", ("agent-loggedoff", "1"))  # the last there: 1 to leave
    assert service.members()["support"] == set()
    heard = await desk.dial("*36702")
    assert service.members()["support"] == {"PJSIP/1001"}
    return Told(heard, "4001", queue="702")


@comes_to(Outcome.QUEUE_LEFT)
async def queue_left(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    await (await lab.desk("1003")).dial("*314002")
    heard = await desk.dial("*36701")
    assert service.members()["sales"] == {"PJSIP/1003"}
    return Told(heard, "4001", queue="701")


# -- refused --------------------------------------------------------------------------------


@comes_to(Outcome.NO_INPUT)
async def no_input(lab: Lab) -> Told:
    lab.make_service()
    desk = await lab.desk("1001")
    return Told(await desk.dial("*31", *[("agent-user", "#")] * 3))


@comes_to(Outcome.NO_SUCH_AGENT)
async def no_such_agent(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    heard = await desk.dial("*319999", ("agent-incorrect", "8888#"), ("agent-incorrect", "7777#"))
    assert [(e["type"], e["reason"]) for e in service.events()] == [
        ("login-refused", "NO_SUCH_AGENT")
    ]
    return Told(heard, "7777")


@comes_to(Outcome.WRONG_PIN)
async def wrong_pin(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    steps = [("agent-pass", "1#"), ("auth-incorrect", "2#"), ("auth-incorrect", "3#")]
    heard = await desk.dial("*314003", *steps)
    assert service.members()["support"] == set()
    return Told(heard, "4003")


LOCKOUT = {"failures": 2, "within": "15m", "for": "15m"}


@comes_to(Outcome.AGENT_LOCKED)
async def agent_locked(lab: Lab) -> Told:
    service = lab.make_service(login={"lockout": LOCKOUT})
    desk = await lab.desk("1001")
    conversation = await desk.lift("*314003")
    await (await conversation.hears("agent-pass")).press("1#")
    await (await conversation.hears("auth-incorrect")).press("2#")
    await conversation.hears("auth-incorrect")
    await conversation.hang_up()
    heard = await desk.dial("*314003", ("agent-pass", PIN))  # the right one
    assert service.members()["support"] == set()
    return Told(heard, "4003", "1001")


@comes_to(Outcome.EXTENSION_LOCKED)
async def extension_locked(lab: Lab) -> Told:
    """Everybody's PIN is tried, which takes longer and longer, at last too long to wait for."""
    agents = [agent | {"pin": "4321"} for agent in sample()["agents"]]
    one = {"failures": 1, "within": "15m", "for": "15m"}
    service = lab.make_service(agents=agents, login={"lockout": one})
    desk = await lab.desk("1001")
    for agent in ("4001", "4002", "4004", "4005"):
        conversation = await desk.lift(f"*31{agent}")
        await (await conversation.hears("agent-pass")).press("1#")
        await conversation.hears("auth-incorrect")
        await conversation.hang_up()
    heard = await desk.dial("*314003", ("agent-pass", PIN))
    assert service.members()["support"] == set()
    return Told(heard, "4003")


@comes_to(Outcome.NUMBER_NOT_ALLOWED)
async def number_not_allowed(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    heard = await desk.dial("*314003*0900123456", ("agent-pass", PIN))
    assert service.members()["support"] == set()
    assert [e["reason"] for e in service.events()] == ["NUMBER_NOT_ALLOWED"]
    (line,) = service.logged("refused")
    assert "0900123456 is not among agents[].outside of agent 4003" in line["why"]
    return Told(heard, "4003", "0900123456")


@comes_to(Outcome.NOT_FROM_HERE)
async def not_from_here(lab: Lab) -> Told:
    service = lab.make_service(
        devices=[{"match": "1001", "context": "office", "interface": "PJSIP/{extension}"}]
    )
    heard = await (await lab.desk("1003")).dial("*314001*1001")
    assert service.members()["sales"] == set()
    (line,) = service.logged("refused")
    assert line["extension"] == "1003"
    for cure in (
        "device rule",
        "login.extension_from: caller_id",
        "PJSIP/1003 or phones in login.",
    ):
        assert cure in line["why"]
    return Told(heard, "", "1003")


@comes_to(Outcome.NO_SUCH_EXTENSION)
async def no_such_extension(lab: Lab) -> Told:
    lab.make_service()
    desk = await lab.desk("1001")
    return Told(await desk.dial("*314001*7777"), "4001", "7777")


@comes_to(Outcome.EXTENSION_IN_USE)
async def extension_in_use(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    told = Told(await desk.dial("*314002"), "4002", occupant="4001")
    assert service.agents()["4002"]["status"] == "logged_off"
    assert "Agent/4001" in lab.asterisk.cli("queue show sales")
    return told


@comes_to(Outcome.LOGGED_IN_ELSEWHERE)
async def logged_in_elsewhere(lab: Lab) -> Told:
    service = lab.make_service()
    await (await lab.desk("1001")).dial("*314001")
    heard = await (await lab.desk("1003")).dial("*314001", ("pbx-transfer", "2"))
    assert service.members()["sales"] == {"PJSIP/1001"}
    return Told(heard, "4001", "1001")  # what is spoken and told is where the agent is


@comes_to(Outcome.NOT_LOGGED_IN)
async def not_logged_in(lab: Lab) -> Told:
    lab.make_service()
    desk = await lab.desk("1001")
    return Told(await desk.dial("*331"))


@comes_to(Outcome.IN_CALL)
async def in_call(lab: Lab) -> Told:
    service, _ = await _agent_in_a_queue_call(lab, logoff_in_call="refuse")
    told = Told(await (await lab.desk("1005")).dial("*324001"), "4001")
    assert service.members()["sales"] == {"PJSIP/1001"}
    assert not service.agents()["4001"]["logoff_planned"]
    return told


@comes_to(Outcome.NO_SUCH_REASON)
async def no_such_reason(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    heard = await desk.dial("*339", *[("dictate/pause", "9")] * 3)
    assert service.members()["sales"] == {"PJSIP/1001"}
    return Told(heard, "4001")


@comes_to(Outcome.NO_SUCH_QUEUE)
async def no_such_queue(lab: Lab) -> Told:
    lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    return Told(await desk.dial("*36999"), "4001", queue="999")


@comes_to(Outcome.NOT_A_MEMBER)
async def not_a_member(lab: Lab) -> Told:
    lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314002")
    return Told(await desk.dial("*36703"), "4002", queue="703")


@comes_to(Outcome.LAST_IN_QUEUE)
async def last_in_queue(lab: Lab) -> Told:
    service = lab.make_service()
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    heard = await desk.dial("*36701", ("agent-loggedoff", "#"))
    assert service.members()["sales"] == {"PJSIP/1001"}
    return Told(heard, "4001", queue="701")


@comes_to(Outcome.QUEUE_REFUSED)
async def queue_refused(lab: Lab) -> Told:
    settings = sample()
    settings["queues"].append({"number": "704", "name": "ghost"})
    settings["agents"][0]["queues"] = ["ghost"]
    service = lab.make_service(queues=settings["queues"], agents=settings["agents"])
    desk = await lab.desk("1001")
    heard = await desk.dial("*314001")
    assert service.members() == {"sales": set(), "support": set(), "billing": set()}
    assert service.agents()["4001"]["status"] == "logged_off"
    assert [(e["type"], e["reason"]) for e in service.events()] == [
        ("login-refused", "QUEUE_REFUSED")
    ]
    return Told(heard, "4001", queue="704")


@comes_to(Outcome.UNAVAILABLE)
async def unavailable(lab: Lab) -> Told:
    """First the store is away, then the manager link."""
    database = lab.request.getfixturevalue("postgres_url")
    service = lab.make_service(wire=lab.wire, database=database)
    desk = await lab.desk("1001")
    await desk.dial("*314001")
    server, _, name = database.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                      " WHERE datname = %s", (name,))  # fmt: skip
        heard = await desk.dial("*331")
        assert heard.outcome == Outcome.UNAVAILABLE
        assert heard.sounds == spoken(prompts.answer(Outcome.UNAVAILABLE, Facts(), {}))
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    lab.wire.cut()
    await until(lambda: service.logged("manager link lost"))
    told = Told(await desk.dial("*331"), "4001")
    assert service.members()["sales"] == {"PJSIP/1001"}
    service.agrees()
    return told


@comes_to(Outcome.BUSY)
async def busy(lab: Lab) -> Told:
    lab.make_service(fastagi={"max_sessions": 1})
    first = await (await lab.desk("1003")).lift("*31")
    await first.hears("agent-user")
    told = Told(await (await lab.desk("1001")).dial("*314001"))
    await first.press("4001#")
    assert (await first.end()).outcome == "LOGGED_IN", "the call in progress is served"
    return told
