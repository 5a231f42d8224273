"""A configuration that changes while agents work, or that is damaged for a moment."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journey.parts import Service, until

pytestmark = pytest.mark.asterisk

REFUSED = "the configuration was not brought in: confirm it"
RELOADED = "the configuration was reloaded"
ERRORS = "the configuration has errors, nothing was changed"


def without(service: Service, *numbers: str) -> dict[str, Any]:
    """The configuration without these agents."""
    settings = service.settings()
    settings["agents"] = [a for a in settings["agents"] if a["number"] not in numbers]
    return settings


def losses(service: Service) -> list[str]:
    return [entry["what"] for entry in service.logged("not confirmed")]


async def test_a_reload_that_would_log_agents_off_waits_for_reload_confirm(
    service: Service, desk: Any
) -> None:
    phone = await desk("1001")
    await phone.dial("*314001")
    before = service.members()
    service.write(without(service, "4001") | {"language": "fr"})
    await until(lambda: service.logged(REFUSED))
    (entry,) = service.logged(REFUSED)
    assert entry["level"] == "error"
    assert "fastagi reload --confirm" in entry["confirm"]
    said = [
        "1 of 6 agents would be archived: 4001",
        "agent 4001 is logged in, and would be archived",
    ]
    await until(lambda: sorted(losses(service)) == said)
    assert service.members() == before
    assert (await phone.dial("*331")).outcome == "PAUSED", "as before"
    assert (await phone.dial("*34")).outcome == "UNPAUSED"

    assert sorted(await service.reload(status=1)) == said
    assert not service.logged(RELOADED)
    assert service.members() == before
    lines = await service.reload("--confirm")
    assert lines == ["archived agent 4001"] or "archived agent 4001" in lines
    await until(lambda: service.members()["sales"] == set())
    assert service.events("agent-logout")[-1]["reason"] == "archived"
    assert await service.reload() == ["nothing has changed"]
    service.agrees()


async def test_a_second_sighup_confirms_and_no_other_thing_does(
    service: Service, desk: Any
) -> None:
    phone = await desk("1001")
    await phone.dial("*314001")
    before = service.members()
    service.write(without(service, "4001"))
    await until(lambda: service.logged(REFUSED), what="the file's change")
    service.signal(signal.SIGHUP)  # the first one: somebody reloads, and has not read the log
    await until(lambda: len(service.logged(REFUSED)) == 2)
    assert service.members() == before
    service.write(without(service, "4001", "4002"))  # something else than what was refused
    service.signal(signal.SIGHUP)
    await until(lambda: len(service.logged(REFUSED)) == 3)
    assert service.members() == before
    service.signal(signal.SIGHUP)
    await until(lambda: service.logged(RELOADED))
    await until(lambda: service.members()["sales"] == set())
    assert service.agents().keys() == {"4003", "4004", "4005", "4006"}
    service.agrees()


async def test_an_emptied_a_missing_and_a_half_written_file_log_nobody_off(
    service: Service, desk: Any
) -> None:
    phone = await desk("1001")
    await phone.dial("*314001")
    before = service.members()
    settings = service.settings()
    agents = service.config / "agents.yml"
    agents.write_text(yaml.safe_dump({"agents": settings.pop("agents")}))
    service.write(settings)
    await service.reload()
    whole = agents.read_text()
    agents.write_text("")
    await until(lambda: len(service.logged(ERRORS)) == 1)
    agents.write_text("agents:\n")
    await until(lambda: len(service.logged(ERRORS)) == 2)
    agents.rename(service.folder / "away.yml")
    await until(lambda: len(service.logged(ERRORS)) == 3)
    agents.write_text("\n".join(whole.splitlines()[:1]) + " []\n")
    await until(lambda: len(service.logged(REFUSED)) == 1)
    agents.write_text(whole[: whole.index("- name: Bob")])  # parses, and holds one agent
    await until(lambda: len(service.logged(REFUSED)) == 2)
    problems = [entry["problem"] for entry in service.logged("configuration")]
    assert [problem.partition(": ")[2] for problem in problems] == [
        "agents: is missing: write agents: [] where there are none",
        "agents: is empty: write agents: [] where there are none",
        "agents: is missing: write agents: [] where there are none",
    ]
    assert service.members() == before
    assert service.events() == service.events("agent-login")
    agents.write_text(whole)
    assert await service.reload() == ["nothing has changed"]
    service.agrees()


async def test_a_queue_renamed_and_a_rule_that_goes_under_logged_in_agents(
    service: Service, desk: Any
) -> None:
    await (await desk("1001")).dial("*314005")  # support alone
    before = service.members()
    settings = service.settings()
    service.write(yaml.safe_load(yaml.safe_dump(settings).replace("support", "helpdesk")))
    assert "agent 4005 is in queue support, which would be archived" in await service.reload(
        status=1
    )
    settings["agents"][4]["queues"] = []
    service.write(settings)
    assert await service.reload(status=1) == [
        "agent 4005 would be in no queue any more (now in support)"
    ]
    settings["queues"].append({"number": "709", "name": "salse"})
    settings["agents"][4]["queues"] = ["salse"]
    service.write(settings)
    assert await service.reload(status=1) == [
        "agent 4005 would be in no queue any more (now in support; Asterisk lacks salse)"
    ]
    del settings["queues"][-1]
    settings["agents"][4]["queues"] = ["support"]
    settings["devices"][0]["match"] = "20XX"
    service.write(settings)
    assert await service.reload(status=1) == [
        "agent 4005 is logged in at extension 1001, which no device rule would match"
    ]
    assert service.members() == before
    settings["devices"][0]["match"] = "1XXX"
    settings["agents"][4]["queues"] = ["support", "sales"]
    service.write(settings)
    assert await service.reload() == ["agent 4005: queue sales given"]
    await until(lambda: service.members()["sales"] == {"PJSIP/1001"})


async def test_a_service_that_is_started_with_emptied_agents_goes_on_with_those_it_had(
    service: Service, desk: Any
) -> None:
    phone = await desk("1001")
    await phone.dial("*314001")
    before = service.members()
    service.stop()
    whole = service.settings()
    service.write(whole | {"agents": []})
    service.start()
    (entry,) = service.logged(REFUSED)
    assert entry["level"] == "error"
    assert entry["meanwhile"] == "agents, queues and pause reasons are those of before"
    assert service.members() == before
    assert (await phone.dial("*331")).outcome == "PAUSED"
    assert (await phone.dial("*34")).outcome == "UNPAUSED"
    findings = [
        json.loads(line)
        for line in (await asyncio.to_thread(_check, service)).splitlines()
        if "confirmed" in line
    ]
    (finding,) = findings
    assert finding["level"] == "problem"
    assert "agent 4001 is logged in, and would be archived" in finding["what"]
    assert finding["mend"].startswith("fastagi reload --confirm")
    service.write(whole)
    assert await service.reload() == ["nothing has changed"]
    service.write(whole | {"agents": []})
    await service.reload("--confirm")
    await until(lambda: service.members()["sales"] == set())
    service.agrees()


def _check(service: Service) -> str:
    # Not in this process: the command sets up the log of whatever process it runs in.
    return service.fastagi("check", "--json", status=None)


async def test_our_own_database_and_others_files_in_the_folder_are_no_change(
    make_service: Any, desk: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "service" / "config"
    service: Service = make_service(database=f"sqlite:///{folder / 'fastagi.db'}")
    phone = await desk("1001")
    for code in ("*314001", "*331", "*34", "*32"):
        await phone.dial(code)
    (service.config / "notes.txt").write_text("not: [yaml")
    (service.config / "service.log").write_text("a line\n")
    service.file.touch()
    service.file.write_bytes(service.file.read_bytes())  # the same once more
    # A real change after it: whatever was to be noticed of the others has been by then.
    settings = service.settings()
    settings["agents"].append({"number": "4010", "name": "Nora", "queues": ["sales"]})
    service.write(settings)
    await until(lambda: service.logged(RELOADED))
    assert len(service.logged(RELOADED)) == 1
    assert service.agents()["4010"]["status"] == "logged_off"
    service.agrees()


async def test_what_has_to_be_done_in_asterisk_is_said(service: Service) -> None:
    settings = service.settings()
    settings["feature_codes"]["logoff"] = "*82"
    settings["feature_codes"]["status"] = None
    settings["agents"][1]["queues"] = [{"name": "support", "penalty": 3}, "billing"]
    service.write(settings)
    lines = await service.reload()
    assert lines == [
        "agent 4002: queue billing given, sales taken away, queue support: penalty 0 -> 3",
        "feature_codes.logoff is now *82, feature_codes.status is off now: run again: "
        "fastagi dialplan > /etc/asterisk/agent-features.conf, then: "
        "asterisk -rx 'dialplan reload'",
    ]
    await until(lambda: service.logged("the dialplan is out of date"))
    (entry,) = service.logged("the dialplan is out of date")
    assert entry["what"] == "feature_codes.logoff is now *82, feature_codes.status is off now"


def test_a_port_that_is_taken_is_named(service: Service) -> None:
    service.stop()
    with socket.create_server(("127.0.0.1", service.port)):
        words = ["serve", "--config", str(service.config)]
        ended = subprocess.run(
            [sys.executable, "-m", "fastagi", *words], capture_output=True, text=True, timeout=60
        )
    assert ended.returncode == 1
    assert (
        f"fastagi: fastagi.listen: 127.0.0.1:{service.port}: Address already in use: "
        f"`ss -ltnp 'sport = :{service.port}'` shows by whom: stop it, or take another"
    ) in ended.stderr.splitlines()
