"""The service is away, goes, comes, or gets another configuration: nobody hears silence."""

import asyncio
import signal
import sqlite3
from typing import Any

import yaml

from tests.journey.parts import Service, Wire, until

SORRY = ["tt-somethingwrong", "please-try-again"]


async def test_nobody_answers(service: Service, desk: Any) -> None:
    phone = await desk("1001")
    await phone.dial("*314001")
    assert service.stop() == 0
    for code in ("*31", "*314001", "*32", "*331", "*36"):
        heard = await phone.dial(code)
        assert (code, heard.sounds, heard.outcome) == (code, SORRY, "")
    service.start()
    assert (await phone.dial("*32")).outcome == "LOGGED_OFF"


async def test_the_admins_own_words_in_the_way_out(make_service: Any, desk: Any) -> None:
    service = make_service(prompts={"UNAVAILABLE": ["vm-sorry", "vm-goodbye"]})
    service.kill()
    heard = await (await desk("1001")).dial("*35")
    assert heard.sounds == ["vm-sorry", "vm-goodbye"]


async def test_the_standby_server_takes_over(
    make_service: Any, desk: Any, postgres_url: str
) -> None:
    second = make_service(name="second", database=postgres_url)
    first = make_service(database=postgres_url, fastagi={"standby": [f"127.0.0.1:{second.port}"]})
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    await until(lambda: first.logged("call"))
    assert not second.logged("call")
    first.kill()
    heard = await phone.dial("*331")
    assert (heard.outcome, heard.reason) == ("PAUSED", "lunch")
    await until(lambda: len(second.logged("call")) == 1)
    second.agrees()
    # the first one is back and knows what happened meanwhile
    first.start()
    assert (await phone.dial("*34")).outcome == "UNPAUSED"
    await until(lambda: len(first.logged("call")) == 2)
    first.agrees()


async def test_killed_in_mid_call_no_other_server_does_it_again(
    make_service: Any, desk: Any, postgres_url: str
) -> None:
    """What the first had begun is not known to Asterisk: a toggle would be done twice."""
    second = make_service(name="second", database=postgres_url)
    first = make_service(database=postgres_url, fastagi={"standby": [f"127.0.0.1:{second.port}"]})
    conversation = await (await desk("1001")).lift("*31")
    await conversation.hears("agent-user")
    first.kill()
    heard = await conversation.end()
    assert (heard.sounds, heard.outcome) == (["agent-user", *SORRY], "")
    assert (await (await desk("1001")).dial("*314001")).outcome == "LOGGED_IN", "by the other one"
    second.agrees()


async def test_a_stop_lets_calls_finish(service: Service, desk: Any) -> None:
    first, second = await desk("1001"), await desk("1003")
    conversation = await first.lift("*314003")
    await conversation.hears("agent-pass")
    service.signal(signal.SIGTERM)
    await until(lambda: service.logged("stopping: calls in progress finish"))
    heard = await second.dial("*314002")
    assert (heard.sounds, heard.outcome) == (SORRY, "")
    await conversation.press("4321#")
    heard = await conversation.end()
    assert (heard.sounds, heard.outcome) == (["agent-pass", "agent-loginok"], "LOGGED_IN")
    assert service.stop() == 0
    assert service.logged("stopped")
    assert [event["agent"] for event in service.events()] == ["4003"]
    service.agrees()


async def test_a_stop_does_not_wait_for_ever(make_service: Any, desk: Any) -> None:
    service = make_service(fastagi={"drain": "1s"})
    conversation = await (await desk("1001")).lift("*31")
    await conversation.hears("agent-user")
    assert service.stop() == 0
    heard = await conversation.end()
    assert (heard.sounds[-2:], heard.outcome) == (SORRY, "")


async def test_a_changed_file_is_noticed(service: Service, desk: Any) -> None:
    phone = await desk("1001")
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    settings = service.settings()
    settings["agents"].append({"number": "4010", "name": "Nora", "queues": ["sales"]})
    settings["pause_reasons"].append({"code": 7, "name": "fire drill"})
    settings["login"]["in_use_by_another"] = "take_over"
    service.write(settings)
    await until(lambda: service.logged("the configuration was reloaded"))
    assert {"created agent 4010", "created pause reason 7"} <= {
        entry["what"] for entry in service.logged("brought in")
    }
    heard = await phone.dial("*337")
    assert (heard.outcome, heard.reason) == ("PAUSED", "fire drill")
    assert (await phone.dial("*314010")).outcome == "LOGGED_IN", "taken over"
    assert service.agents()["4001"]["status"] == "logged_off"
    service.agrees()


async def test_an_agent_who_is_no_more_is_logged_off(service: Service, desk: Any) -> None:
    phone = await desk("1001")
    await phone.dial("*314001")
    settings = service.settings()
    settings["agents"] = settings["agents"][1:]
    service.write(settings)
    await service.reload("--confirm")
    await until(lambda: service.events("agent-logout"))
    assert service.events()[-1]["source"] == "system"
    assert service.members()["sales"] == set()
    heard = await phone.dial("*314001", ("agent-incorrect", "4002#"))
    assert heard.outcome == "LOGGED_IN"
    service.agrees()


async def test_an_agent_taken_away_while_asterisk_was_away(
    make_service: Any, wire: Wire, desk: Any
) -> None:
    service = make_service(wire=wire)
    phone = await desk("1001")
    await phone.dial("*314001")
    wire.cut()
    settings = service.settings()
    settings["agents"] = settings["agents"][1:]
    service.write(settings)
    await service.reload("--confirm")
    service.stop()
    assert service.agents()["4001"]["status"] == "available", "nobody could log the agent off"
    wire.mend()
    service.start()
    await until(lambda: service.events()[-1]["reason"] == "archived")
    assert service.members()["sales"] == set()
    assert (await phone.dial("*314002")).outcome == "LOGGED_IN", "the phone is free"
    service.agrees()


async def test_a_file_that_is_replaced_is_noticed_every_time(service: Service) -> None:
    service.stop()
    service.config = service.config / "fastagi.yml"  # named itself, not its folder
    service.start()
    for number in ("4011", "4012", "4013"):
        settings = yaml.safe_load(service.config.read_text())
        settings["agents"].append({"number": number, "name": f"Agent {number}"})
        new = service.folder / "new.yml"
        new.write_text(yaml.safe_dump(settings))
        new.replace(service.config)
        await until(
            lambda number=number: any(
                entry["what"] == f"created agent {number}" for entry in service.logged("brought in")
            )
        )


async def test_a_store_that_is_busy_is_asked_again(service: Service) -> None:
    other = sqlite3.connect(service.folder / "fastagi.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    settings = service.settings()
    settings["agents"].append({"number": "4010", "name": "Nora"})
    service.write(settings)
    await until(lambda: service.logged("the configuration was not brought in yet"), within=30)
    other.execute("ROLLBACK")
    await until(lambda: service.logged("the configuration was reloaded"), within=30)
    assert service.agents()["4010"]["status"] == "logged_off"
    other.close()


async def test_whoever_is_logged_in_follows_the_configuration(
    service: Service, desk: Any, asterisk: Any
) -> None:
    phone = await desk("1001")
    await phone.dial("*314002")  # sales, support
    settings = service.settings()
    agent = next(agent for agent in settings["agents"] if agent["number"] == "4002")
    agent["queues"] = [{"name": "support", "penalty": 7}, "billing"]
    service.write(settings)
    await until(lambda: service.members()["billing"] == {"PJSIP/1001"})
    await until(lambda: service.members()["sales"] == set())
    await until(lambda: "penalty 7" in asterisk.cli("queue show support"))
    await until(lambda: service.events("queue-penalty"))
    brought = [e for e in service.events() if e["actor"].get("name") == "configuration"]
    assert [(e["type"], e["queues"], e["source"]) for e in brought] == [
        ("queue-leave", ["sales"], "system"),
        ("queue-join", ["billing"], "system"),
        ("queue-penalty", ["support"], "system"),
    ]
    service.agrees()


async def test_a_broken_file_changes_nothing_and_is_told(service: Service, desk: Any) -> None:
    phone = await desk("1001")
    await phone.dial("*314001")
    good = service.file.read_text()
    settings = service.settings()
    settings["agents"] = []
    settings["feature_codez"] = {}
    service.write(settings)
    await until(lambda: service.logged("the configuration has errors, nothing was changed"))
    await until(lambda: service.logged("configuration"))
    lines = service.file.read_text().splitlines()
    place = lines.index("feature_codez: {}") + 1
    (told,) = service.logged("configuration")
    assert f"fastagi.yml:{place}:1: feature_codez" in told["problem"]
    assert "feature_codes" in told["problem"], "did you mean"
    assert (await phone.dial("*331")).outcome == "PAUSED"

    service.file.write_text("agents: [unclosed\n")
    service.signal(signal.SIGHUP)
    await until(
        lambda: len(service.logged("the configuration has errors, nothing was changed")) >= 2
    )
    assert (await phone.dial("*34")).outcome == "UNPAUSED"
    service.file.write_text(good)
    await until(lambda: service.logged("the configuration was reloaded"))
    service.agrees()
    assert yaml.safe_load(good) == service.settings()


async def test_sighup_reloads(service: Service, desk: Any) -> None:
    service.signal(signal.SIGHUP)
    await until(lambda: service.logged("the configuration was reloaded"))
    assert (await (await desk("1001")).dial("*314001")).outcome == "LOGGED_IN"


async def test_a_call_in_progress_survives_a_reload(service: Service, desk: Any) -> None:
    conversation = await (await desk("1001")).lift("*31")
    await conversation.hears("agent-user")
    settings = service.settings()
    settings["agents"].append({"number": "4010", "name": "Nora", "queues": ["sales"]})
    service.write(settings)
    await until(lambda: service.logged("the configuration was reloaded"))
    await conversation.press("4010#")
    assert (await conversation.end()).outcome == "LOGGED_IN"
    service.agrees()


async def test_a_silent_server_is_left(service: Service, desk: Any, asterisk: Any) -> None:
    """It takes the call and says nothing: Asterisk itself would wait for ever."""
    taken = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.set()
        while await reader.read(4096):
            pass
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asterisk.features = asterisk.features.replace(f":{service.port}/", f":{port}/").replace(
        "TIMEOUT(absolute)=125", "TIMEOUT(absolute)=1"
    )
    asterisk.reload("dialplan")
    phone = await desk("1001")
    heard = await phone.dial("*35")
    assert taken.is_set()
    assert (heard.sounds, heard.outcome) == (SORRY, "")
    server.close()
