"""Whatever fails, and whoever changes what: the store, Asterisk and the events agree."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fastagi import config
from fastagi.demo.asterisk import Asterisk
from fastagi.demo.fallback import install, settings
from fastagi.dialplan import render_fallback_facts
from tests.journey.parts import Peer, Service, Wire, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pyst2's use of threading

MakeService = Callable[..., Service]
ME = "PJSIP/1001"


def facts(service: Service, *types: str) -> list[tuple[str, str, list[str], str, str]]:
    """Type, agent, queues, reason, source of what happened."""
    return [
        (e["type"], e["agent"], e["queues"], e["reason"], e["source"])
        for e in service.events(*types)
    ]


async def dials(service: Service, extension: int, code: str) -> None:
    """Without a phone: ``fastagi dial``, which has an event loop of its own."""
    await asyncio.to_thread(service.fastagi, "dial", code, "--from", str(extension))


def lamp(asterisk: Asterisk, name: str) -> str:
    return next(
        (
            line.split("State: '")[1].split("'")[0]
            for line in asterisk.cli("devstate list").splitlines()
            if f"'Custom:{name}'" in line
        ),
        "",
    )


# -- somebody changes Asterisk itself ------------------------------------------------------------


async def test_a_reload_that_clears_global_variables_is_no_restart(
    make_service: MakeService, wire: Wire, desk: Any, asterisk: Asterisk
) -> None:
    """``clearglobalvars = yes`` and ``dialplan reload`` while the link is cut: what somebody does
    then is adopted, not undone as after a restart."""
    service = make_service(wire=wire)
    await (await desk("1001")).dial("*314001")
    wire.cut()
    asterisk.cli("dialplan reload")
    asterisk.cli(f"queue remove member {ME} from support")
    wire.mend()
    await until(lambda: facts(service, "queue-leave"))
    assert facts(service, "queue-leave") == [
        ("queue-leave", "4001", ["support"], "", "asterisk"),
    ]
    assert service.members()["support"] == set()
    service.agrees()


async def test_what_is_done_at_the_console_is_adopted_once(
    service: Service, desk: Any, asterisk: Asterisk
) -> None:
    """Each change in Asterisk itself: one event, with source asterisk; ours are not told twice."""
    await (await desk("1001")).dial("*314001")
    asterisk.cli(f"queue pause member {ME} queue support reason coffee")
    await until(lambda: facts(service, "agent-pause"))
    assert facts(service, "agent-pause") == [
        ("agent-pause", "4001", ["support"], "coffee", "asterisk")
    ]
    asterisk.cli(f"queue unpause member {ME} queue support")
    await until(lambda: facts(service, "agent-unpause"))
    asterisk.cli(f"queue pause member {ME}")
    await until(lambda: len(facts(service, "agent-pause")) == 2)
    assert service.agents()["4001"]["status"] == "paused"
    await until(lambda: lamp(asterisk, "pause-4001") == "INUSE")
    asterisk.cli(f"queue set penalty 7 on {ME} in sales")
    await until(lambda: facts(service, "queue-penalty"))
    asterisk.cli(f"queue remove member {ME} from billing")
    await until(lambda: facts(service, "queue-leave"))
    asterisk.cli(f"queue add member {ME} to billing penalty 0 as Agent/4001")
    await until(lambda: facts(service, "queue-join"))
    for queue in ("sales", "support", "billing"):
        asterisk.cli(f"queue remove member {ME} from {queue}")
        await asyncio.sleep(0.5)
    await until(lambda: facts(service, "agent-logout"))
    await asyncio.sleep(1)
    assert facts(service) == [
        ("agent-login", "4001", ["sales", "support", "billing"], "", "phone"),
        ("agent-pause", "4001", ["support"], "coffee", "asterisk"),
        ("agent-unpause", "4001", ["support"], "coffee", "asterisk"),
        ("agent-pause", "4001", ["sales", "support", "billing"], "", "asterisk"),
        ("queue-penalty", "4001", ["sales"], "7", "asterisk"),
        ("queue-leave", "4001", ["billing"], "", "asterisk"),
        # The agent is paused, and there not.
        ("queue-join", "4001", ["billing"], "", "asterisk"),
        ("agent-unpause", "4001", ["billing"], "", "asterisk"),
        ("queue-leave", "4001", ["sales"], "", "asterisk"),
        ("queue-leave", "4001", ["support"], "", "asterisk"),
        ("agent-unpause", "4001", [], "", "asterisk"),  # only where the agent is not paused
        ("agent-logout", "4001", ["billing"], "removed", "asterisk"),
    ]
    assert lamp(asterisk, "agent-4001") == "NOT_INUSE"
    service.agrees()


async def test_an_agent_put_in_at_the_console_is_logged_in(
    service: Service, desk: Any, asterisk: Asterisk
) -> None:
    asterisk.cli(f"queue add member {ME} to sales penalty 3 as Agent/4001")
    await until(lambda: facts(service, "agent-login"))
    assert facts(service) == [("agent-login", "4001", ["sales"], "", "asterisk")]
    agent = service.agents()["4001"]
    assert (agent["extension"], agent["joined"]) == ("1001", ["sales"])
    assert (await (await desk("1001")).dial("*32")).outcome == "LOGGED_OFF"
    service.agrees()


async def test_an_agent_is_in_one_place(service: Service, desk: Any, asterisk: Asterisk) -> None:
    await (await desk("1001")).dial("*314001")
    asterisk.cli("queue add member PJSIP/1002 to sales penalty 0 as Agent/4001")
    await until(lambda: facts(service, "repair"))
    assert facts(service, "repair") == [("repair", "", [], "1 taken out", "system")]
    service.agrees()


async def test_what_changed_while_the_link_was_cut_is_adopted(
    make_service: MakeService, wire: Wire, desk: Any, asterisk: Asterisk
) -> None:
    service = make_service(wire=wire)
    await (await desk("1001")).dial("*314001")
    wire.cut()
    for queue in ("sales", "support", "billing"):
        asterisk.cli(f"queue pause member {ME} queue {queue} reason lunch")
    asterisk.cli("queue add member PJSIP/1002 to sales penalty 0 as Agent/4002")
    wire.mend()
    await until(lambda: service.members() == service.meant() and len(service.events()) == 3)
    assert sorted(facts(service)[1:]) == [
        ("agent-login", "4002", ["sales"], "", "asterisk"),
        ("agent-pause", "4001", ["sales", "support", "billing"], "lunch", "asterisk"),
    ]


async def test_a_new_penalty_in_the_configuration_is_told_once(
    service: Service, desk: Any, asterisk: Asterisk
) -> None:
    await (await desk("1001")).dial("*314001")
    settings = service.settings()
    settings["agents"][0]["queues"][0] = {"name": "sales", "penalty": 6}
    service.write(settings)
    await until(lambda: facts(service, "queue-penalty"))
    await asyncio.sleep(1)
    assert facts(service, "queue-penalty") == [("queue-penalty", "4001", ["sales"], "6", "system")]
    assert ("Agent/4001", "6") in {
        (line.split("(")[0].strip(), line.split("with penalty ")[1].split()[0])
        for line in asterisk.cli("queue show sales").splitlines()
        if "with penalty " in line
    }


# -- Asterisk dies -------------------------------------------------------------------------------


async def test_fifty_agents_ten_paused_and_asterisk_is_killed(
    make_service: MakeService, asterisk: Asterisk, peer: Peer
) -> None:
    """All are back with their penalties, pauses and reasons, and nobody is blamed."""
    agents = [
        {
            "number": str(5000 + n),
            "name": f"Agent {n}",
            "queues": ["sales", {"name": "support", "penalty": n % 4}, "billing"],
        }
        for n in range(50)
    ]
    service = make_service(agents=agents)
    for n in range(50):
        await dials(service, 1000 + n, f"*31{5000 + n}")
    for n in range(10):
        await dials(service, 1000 + n, f"*33{n % 3 + 1}")
    before = service.members()
    shown = [asterisk.cli(f"queue show {queue}") for queue in before]
    assert all(len(members) == 50 for members in before.values())
    assert sum("paused" in member for member in before["sales"]) == 10
    told = len(service.events())
    asterisk.kill()
    asterisk.start()
    began = time.monotonic()
    await until(lambda: service.members() == before, within=40)
    took = time.monotonic() - began
    print(f"50 agents, 150 members, 10 paused: back {took:.2f} s after Asterisk")
    await until(lambda: service.events("repair"))
    assert facts(service)[told:] == [("repair", "", [], "150 put back", "system")]
    assert [penalties(asterisk.cli(f"queue show {queue}")) for queue in before] == [
        penalties(text) for text in shown
    ]
    await until(lambda: lamp(asterisk, "pause-5003") == "INUSE")


def penalties(shown: str) -> set[tuple[str, str]]:
    return {
        (line.split("(")[1].split(")")[0], line.split("with penalty ")[1].split()[0])
        for line in shown.splitlines()
        if "with penalty " in line
    }


# -- the service is away, and its dialplan's fallback is there -----------------------------------


async def test_what_phones_did_without_the_service_is_known_as_theirs(
    make_service: MakeService, desk: Any, asterisk: Asterisk, tmp_path: Path
) -> None:
    asterisk.cli("database deltree fastagi")
    where = settings(tmp_path)
    service = make_service(fastagi={"fallback": where})
    install(tmp_path, render_fallback_facts(config.load(service.config)))
    one, two = await desk("1001"), await desk("1002")
    await one.dial("*314001")
    await two.dial("*314002")
    assert service.stop() == 0
    paused_at = datetime.now(UTC)
    assert (await one.dial("*331")).outcome == "PAUSED"
    done = datetime.now(UTC)
    assert (await two.dial("*32")).outcome == "LOGGED_OFF"
    await asyncio.sleep(2)
    service.start()
    await until(lambda: len(service.events()) == 4)
    pause, off = service.events()[2:]
    assert (pause["type"], pause["agent"], pause["reason"]) == ("agent-pause", "4001", "lunch")
    assert (off["type"], off["agent"]) == ("agent-logout", "4002")
    assert (pause["source"], off["source"]) == ("phone", "phone")
    assert paused_at <= datetime.fromisoformat(pause["occurred_at"]) <= done
    assert pause["actor"]["channel"].startswith("PJSIP/1001-")
    assert (await one.dial("*34")).outcome == "UNPAUSED"
    service.kill()
    service.start()
    await asyncio.sleep(1)
    assert [event["source"] for event in service.events()] == ["phone"] * 5, "taken once"
    service.agrees()
    asterisk.cli("database deltree fastagi")


# -- the disk is full ----------------------------------------------------------------------------


async def test_the_disk_is_full_at_a_login(service: Service, desk: Any, asterisk: Asterisk) -> None:
    """The agent hears "try again", nothing is stored, and the service needs no restart.

    The kernel lets the service write no byte beyond what its files have: what a full disk does.
    """
    phone = await desk("1001")
    assert service.process is not None
    size = max(path.stat().st_size for path in service.folder.glob("fastagi.db*"))
    _, hard = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    log = service.log.stat().st_size
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (min(size, log), hard))
    heard = await phone.dial("*314001")
    assert heard.outcome == "UNAVAILABLE"
    assert heard.sounds == ["tt-somethingwrong", "please-try-again"]
    assert not any(service.members().values())
    assert service.events("agent-login") == []
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    service.agrees()
    assert len(service.events("agent-login")) == 1


async def test_the_disk_fills_up_after_asterisk_was_told(
    make_service: MakeService, wire: Wire, desk: Any
) -> None:
    """Nobody can write that the login happened: it is taken back once that can be written."""
    service = make_service(wire=wire)
    phone = await desk("1001")
    wire.hold_answers("QueueAdd")
    conversation = await phone.lift("*314001")
    await until(lambda: wire.holds)
    assert service.process is not None
    _, hard = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (1, hard))
    wire.release()
    assert (await conversation.end()).outcome == "UNAVAILABLE"
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    await until(lambda: service.members() == service.meant() and not service.meant()["sales"])
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    service.agrees()


# -- and by hand ---------------------------------------------------------------------------------


async def test_the_service_is_stopped_hard_while_it_adopts(
    make_service: MakeService, asterisk: Asterisk
) -> None:
    """kill -9 right after changes at the console: the next process finds them, once each."""
    service = make_service()
    for n in range(4):
        asterisk.cli(f"queue add member PJSIP/100{n + 1} to sales penalty 0 as Agent/400{n + 1}")
        await asyncio.sleep(n * 0.02)
        assert service.process is not None
        os.kill(service.process.pid, signal.SIGKILL)
        service.kill()
        service.start()
    await until(lambda: len(facts(service, "agent-login")) == 4)
    await asyncio.sleep(1)
    assert sorted(facts(service)) == [
        ("agent-login", f"400{n + 1}", ["sales"], "", "asterisk") for n in range(4)
    ]
    service.agrees()
