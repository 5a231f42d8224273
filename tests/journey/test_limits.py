"""What time does to pauses and shifts, on real phones: the agent hears it, and it is written down
as the system's doing."""

import asyncio
import signal
import sqlite3
from typing import Any

import pytest

from fastagi.demo.asterisk import Asterisk
from tests.journey.parts import Desk, Service, until
from tests.journey.test_sinks import lamps


def reasons(**lunch: Any) -> list[dict[str, Any]]:
    return [{"code": 1, "name": "lunch", **lunch}, {"code": 2, "name": "break"}]


def facts(service: Service, agent: str = "4001") -> list[tuple[str, str, str, str]]:
    """Type, reason, source and the name of who did it, of each of the agent's events."""
    return [
        (event["type"], event["reason"], event["source"], event["actor"].get("name", ""))
        for event in service.events()
        if event["agent"] == agent
    ]


IN = ("agent-login", "", "phone", "")
LUNCH = ("agent-pause", "lunch", "phone", "")
ENDED = ("agent-unpause", "lunch", "system", "pause limit")


async def test_a_pause_ends_by_itself(make_service: Any, desk: Any) -> None:
    lunch = reasons(max_duration="2s", when_exceeded="unpause")
    service: Service = make_service(pause_reasons=lunch)
    anna: Desk = await desk("1001")
    await anna.dial("*314001")
    assert (await anna.dial("*331")).outcome == "PAUSED"
    await until(lambda: len(facts(service)) == 3)
    assert facts(service) == [IN, LUNCH, ENDED]
    assert service.members()["sales"] == {"PJSIP/1001"}
    assert (await anna.dial("*34")).outcome == "NOT_PAUSED"
    service.agrees()


@pytest.mark.parametrize(
    ("exceeded", "fact"),
    [
        ("warn", ("pause-exceeded", "lunch", "system", "pause limit")),
        ("logoff", ("agent-logout", "pause limit", "system", "pause limit")),
    ],
)
async def test_a_limit_holds_over_a_restart_and_is_told_once(
    make_service: Any, desk: Any, exceeded: str, fact: tuple[str, ...]
) -> None:
    lunch = reasons(max_duration="3s", when_exceeded=exceeded)
    service: Service = make_service(pause_reasons=lunch)
    anna: Desk = await desk("1001")
    await anna.dial("*314001")
    await anna.dial("*331")
    service.kill()
    service.start()
    await until(lambda: len(facts(service)) == 3)
    service.kill()
    service.start()
    await anna.dial("*35")
    assert facts(service) == [IN, LUNCH, fact]
    service.agrees()


async def test_a_pause_that_is_too_long_blinks_after_a_restart_of_asterisk_too(
    make_service: Any, desk: Any, asterisk: Asterisk
) -> None:
    service: Service = make_service(pause_reasons=reasons(max_duration="1s"))
    anna: Desk = await desk("1001")
    bert: Desk = await desk("1002")
    await anna.dial("*314001")
    await anna.dial("*331")
    await bert.dial("*314002")
    await bert.dial("*332")
    await until(lambda: lamps(asterisk, "4001")["pause"] == "RINGING")
    await until(lambda: lamps(asterisk, "4002")["pause"] == "INUSE")
    service.signal(signal.SIGSTOP)  # or it would have seen to the lamps before they are made wrong
    asterisk.kill()
    asterisk.start()
    # As if Asterisk had not written it down before it died.
    for number in ("4001", "4002"):
        asterisk.cli(f"devstate change Custom:pause-{number} NOT_INUSE")
    service.signal(signal.SIGCONT)
    await until(lambda: service.events("repair"), within=40)
    await until(lambda: lamps(asterisk, "4001") == {"agent": "INUSE", "pause": "RINGING"})
    await until(lambda: lamps(asterisk, "4002") == {"agent": "INUSE", "pause": "INUSE"})
    service.agrees()


async def test_a_day_s_budget(make_service: Any, desk: Any) -> None:
    lunch = reasons(daily_budget="2s", when_exceeded="unpause")
    service: Service = make_service(pause_reasons=lunch)
    anna: Desk = await desk("1001")
    await anna.dial("*314001")
    await anna.dial("*331")
    await until(lambda: len(facts(service)) == 3)
    assert facts(service) == [IN, LUNCH, ENDED]
    heard = await anna.dial("*331")
    assert heard.outcome == "PAUSE_SPENT"
    assert heard.sounds == [
        "beeperr",
        "dictate/pause",
        "digits/1",
        "vm-isunavail",
        "vm-goodbye",
    ]
    assert len(facts(service)) == 3
    # Somebody else's is whole, and so is that of another reason.
    assert (await anna.dial("*332")).outcome == "PAUSED"
    bob: Desk = await desk("1003")
    await bob.dial("*314002")
    assert (await bob.dial("*331")).outcome == "PAUSED"
    service.agrees()


async def test_a_pause_that_follows_the_call(make_service: Any, desk: Any) -> None:
    service: Service = make_service(pause={"when_in_call": "after_call"})
    anna: Desk = await desk("1001")
    caller: Desk = await desk("1003")
    await anna.dial("*314001")
    call = await caller.phone.dial("701")
    await anna.phone.wait_answered()
    heard = await anna.dial("*331")
    assert (heard.outcome, heard.reason) == ("PAUSE_AFTER_CALL", "")
    assert "vm-isonphone" in heard.sounds
    assert service.members()["sales"] == {"PJSIP/1001"}
    assert facts(service) == [IN]
    assert call.active
    await caller.phone.hangup()
    await until(lambda: len(facts(service)) == 2)
    assert facts(service) == [IN, LUNCH]
    (pause,) = service.events("agent-pause")
    assert pause["actor"]["channel"].startswith("PJSIP/1001-")
    service.agrees()
    assert (await anna.dial("*34")).outcome == "UNPAUSED"


async def test_a_pause_that_was_to_follow_is_taken_back(make_service: Any, desk: Any) -> None:
    service: Service = make_service(pause={"when_in_call": "after_call"})
    anna: Desk = await desk("1001")
    caller: Desk = await desk("1003")
    await anna.dial("*314001")
    await caller.phone.dial("701")
    await anna.phone.wait_answered()
    assert (await anna.dial("*391")).outcome == "PAUSE_AFTER_CALL"
    assert (await anna.dial("*39")).outcome == "NOT_PAUSED"
    await caller.phone.hangup()
    # What would have been done at the call's end comes before this.
    await caller.phone.dial("701")
    await anna.phone.wait_answered(2)
    assert facts(service) == [IN]
    service.agrees()


async def test_a_pause_in_wrap_up_begins_at_once(make_service: Any, desk: Any) -> None:
    """A caller waits, and the queue rings again when its wrap-up is over: the pause comes first.
    Also where the configuration still has a ``wrapup`` from before."""
    service: Service = make_service(pause={"when_in_call": "after_call", "wrapup": "60s"})
    asterisk = service.asterisk
    asterisk.queue_sections = "".join(
        f"[{name}]\nstrategy = ringall\nretry = 1\nwrapuptime = 8\nringinuse = no\n"
        "joinempty = yes\n"
        for name in asterisk.queues.values()
    )
    asterisk.reload("queues")
    anna: Desk = await desk("1001")
    caller: Desk = await desk("1003")
    waiting: Desk = await desk("1005")
    await anna.dial("*314001")
    await caller.phone.dial("701")
    await anna.phone.wait_answered()
    await waiting.phone.start_call("701")
    await until(lambda: "has 1 calls" in asterisk.cli("queue show sales"))
    await caller.phone.hangup()
    await until(lambda: "(in call)" not in asterisk.cli("queue show sales"))
    answered = len(anna.phone.answered)
    assert (await anna.dial("*331")).outcome == "PAUSED"
    assert facts(service)[-1] == LUNCH
    await asyncio.sleep(10)  # the wrap-up, and a try of the queue
    assert len(anna.phone.answered) == answered
    await waiting.phone.hangup()


async def test_a_pause_for_after_the_call_begins_at_its_end(make_service: Any, desk: Any) -> None:
    service: Service = make_service(pause={"when_in_call": "after_call", "wrapup": "60s"})
    anna: Desk = await desk("1001")
    caller: Desk = await desk("1003")
    await anna.dial("*314001")
    await caller.phone.dial("701")
    await anna.phone.wait_answered()
    assert (await anna.dial("*331")).outcome == "PAUSE_AFTER_CALL"
    await caller.phone.hangup()
    await until(lambda: LUNCH in facts(service))
    service.agrees()


async def logged_in_yesterday(service: Service) -> None:
    """As if: the service is stopped, and the login is a day older."""
    service.kill()
    with sqlite3.connect(service.folder / "fastagi.db") as store:
        store.execute("UPDATE login_sessions SET since = since - 86400 WHERE ended_at IS NULL")
    store.close()
    service.start()


async def test_the_end_of_a_shift_that_the_service_missed(
    make_service: Any, desk: Any, asterisk: Asterisk
) -> None:
    """And never in a call: then when it is over."""
    service: Service = make_service(shift={"logoff_at": "20:00"}, timezone="Europe/Paris")
    anna: Desk = await desk("1001")
    bob: Desk = await desk("1003")
    caller: Desk = await desk("1005")
    await anna.dial("*314001")
    call = await caller.phone.dial("701")
    await anna.phone.wait_answered()
    await bob.dial("*314002")
    await bob.dial("*331")
    await logged_in_yesterday(service)
    end = ("agent-logout", "end of shift", "system", "end of shift")
    await until(lambda: len(facts(service, "4002")) == 3)
    assert facts(service, "4002") == [IN, LUNCH, end]
    await until(lambda: service.logged("time is up"))
    assert facts(service) == [IN]
    assert call.active
    await caller.phone.hangup()
    await until(lambda: len(facts(service)) == 2)
    assert facts(service) == [IN, end]
    assert not any(service.members().values())
    # Who comes after the end of the shift stays.
    assert (await bob.dial("*314002")).outcome == "LOGGED_IN"
    service.agrees()
