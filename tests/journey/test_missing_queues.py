"""The configuration and Asterisk name different queues, or a device rule is gone: nobody is
stranded, and whoever has to do something learns of it."""

from typing import Any

from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import sample, until
from tests.journey.test_static_members import sections

LACKS = "Asterisk lacks a queue: the agent is not in it, and joins when it is there"
GHOST = {"number": "704", "name": "ghost"}


def with_ghost(asterisk: Asterisk) -> None:
    asterisk.queue_sections = sections({"sales": "", "support": "", "billing": "", "ghost": ""})
    asterisk.reload("queues")


async def test_one_queue_is_missing(make_service: Any, asterisk: Asterisk, desk: Any) -> None:
    settings = sample()
    settings["agents"][0]["queues"] = ["sales", "ghost"]
    queues = [*settings["queues"], GHOST]
    service = make_service(queues=queues, agents=settings["agents"])
    phone = await desk("1001")
    heard = await phone.dial("*314001")
    assert heard.outcome == "LOGGED_IN"
    assert heard.sounds == ["agent-loginok", "digits/7", "digits/0", "digits/4", "vm-isunavail"]
    assert service.agents()["4001"]["joined"] == ["sales"]
    assert [(e["queues"], e["reason"]) for e in service.events("queue-missing")] == [
        (["ghost"], "no such queue")
    ]
    (warning,) = service.logged(LACKS)
    assert (warning["agent"], warning["queue"], warning["number"]) == ("4001", "ghost", "704")
    assert "queues.conf" in warning["cure"]
    heard = await phone.dial("*36704")
    assert heard.outcome == "QUEUE_REFUSED"
    assert (await phone.dial("*331")).outcome == "PAUSED"
    with_ghost(asterisk)
    await until(lambda: service.agents()["4001"]["joined"] == ["sales", "ghost"], within=40)
    assert "Agent/4001 (PJSIP/1001)" in asterisk.cli("queue show ghost")
    assert "paused:lunch" in asterisk.cli("queue show ghost")
    (joined,) = service.events("queue-join")
    assert (joined["agent"], joined["queues"], joined["source"]) == ("4001", ["ghost"], "system")
    assert len(service.logged(LACKS)) == 1


async def test_a_login_may_be_refused_for_it(make_service: Any, desk: Any) -> None:
    settings = sample()
    settings["agents"][0]["queues"] = ["sales", "ghost"]
    service = make_service(
        queues=[*settings["queues"], GHOST],
        agents=settings["agents"],
        login={"missing_queue": "refuse"},
    )
    heard = await (await desk("1001")).dial("*314001")
    assert heard.outcome == "QUEUE_REFUSED"
    assert service.members()["sales"] == set()
    (refused,) = [line for line in service.logged("refused") if line["script"] == "agent/login"]
    assert "no queue ghost (704)" in refused["why"]


async def test_a_queue_is_renamed_under_its_agents(
    make_service: Any, asterisk: Asterisk, desk: Any
) -> None:
    """In the YAML, and not yet in Asterisk: the agent was "available" in no queue, unsaid."""
    settings = sample()
    service = make_service(agents=settings["agents"])
    phone = await desk("1003")
    assert (await phone.dial("*314005")).outcome == "LOGGED_IN"
    written = service.settings()
    written["queues"] = [
        {**queue, "name": "ghost"} if queue["name"] == "support" else queue
        for queue in written["queues"]
    ]
    text = repr(written["agents"]).replace("'support'", "'ghost'")
    written["agents"] = eval(text)
    service.write(written)
    await service.reload("--confirm")
    await until(lambda: service.logged(LACKS))
    (warning,) = service.logged(LACKS)
    assert (warning["agent"], warning["queue"]) == ("4005", "ghost")
    assert service.agents()["4005"]["joined"] == []
    assert [e["queues"] for e in service.events("queue-missing")] == [["ghost"]]
    with_ghost(asterisk)
    await until(lambda: service.agents()["4005"]["joined"] == ["ghost"], within=40)
    assert "Agent/4005 (PJSIP/1003)" in asterisk.cli("queue show ghost")


async def test_a_device_rule_is_taken_away_under_a_paused_agent(
    make_service: Any, desk: Any
) -> None:
    service = make_service()
    phone, other = await desk("1001"), await desk("1002")
    await phone.dial("*314001")
    await other.dial("*314002")
    assert (await phone.dial("*331")).outcome == "PAUSED"
    written = service.settings()
    written["devices"] = [
        {"match": "1002", "context": "phones", "interface": "PJSIP/{extension}"},
    ]
    service.write(written)
    await service.reload("--confirm")
    said = "agent logged in where no device rule leads to"
    await until(lambda: service.logged(said))
    (warning,) = service.logged(said)
    assert (warning["agent"], warning["extension"]) == ("4001", "1001")
    assert warning["queues"] == ["sales", "support", "billing"]
    assert "devices" in warning["cure"]
    assert (await phone.dial("*35")).outcome == "STATUS_TOLD"
    assert (await phone.dial("*34")).outcome == "UNPAUSED"
    assert (await phone.dial("*32")).outcome == "LOGGED_OFF"


async def test_asterisk_restarts_without_a_queue(
    make_service: Any, asterisk: Asterisk, desk: Any
) -> None:
    service = make_service()
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    asterisk.queue_sections = sections({"sales": "", "billing": ""})
    asterisk.kill()
    asterisk.start()
    await until(lambda: service.agents()["4001"]["joined"] == ["sales", "billing"])
    await until(lambda: service.logged(LACKS))
    (warning,) = service.logged(LACKS)
    assert (warning["agent"], warning["queue"]) == ("4001", "support")
    asterisk.queue_sections = ""
    asterisk.reload("queues")
    await until(
        lambda: service.agents()["4001"]["joined"] == ["sales", "support", "billing"], within=40
    )
    service.agrees()


async def test_the_only_queue_of_an_agent_is_taken_away(make_service: Any, desk: Any) -> None:
    settings = sample()
    service = make_service(agents=settings["agents"])
    phone = await desk("1003")
    assert (await phone.dial("*314005")).outcome == "LOGGED_IN"
    written = service.settings()
    written["agents"] = [
        {**agent, "queues": []} if agent["number"] == "4005" else agent
        for agent in written["agents"]
    ]
    service.write(written)
    await service.reload("--confirm")
    said = "agent is logged in, and in no queue any more"
    await until(lambda: service.logged(said))
    (warning,) = service.logged(said)
    assert (warning["agent"], warning["extension"]) == ("4005", "1003")
    assert (await phone.dial("*32")).outcome == "LOGGED_OFF"
