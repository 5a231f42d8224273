"""Limits of pauses, and the end of the shift."""

from datetime import timedelta
from typing import Any

from fastagi.agents.commands import Actor
from fastagi.agents.events import Event
from fastagi.agents.limits import OpenPause, PauseLimit, WhenExceeded
from fastagi.contract import EventType, Source
from fastagi.store import PeeweeStore

from .conftest import NOW, done, log_in, log_off, pause, settings


def minutes(n: float) -> timedelta:
    return timedelta(minutes=n)


async def test_what_the_reasons_allow(store: PeeweeStore) -> None:
    assert await store.limits() == {
        "1": PauseLimit(minutes(45), None, WhenExceeded.UNPAUSE),
    }
    reasons: list[dict[str, Any]] = [
        {"code": "1", "name": "lunch"},
        {"code": "2", "name": "coffee", "daily_budget": "20m"},
        {
            "code": "3",
            "name": "smoke",
            "max_duration": "5m",
            "daily_budget": "15m",
            "when_exceeded": "logoff",
        },
    ]
    difference = store.bring_in(settings(pause_reasons=reasons))
    assert "pause reason 2: daily_budget None -> 1200.0" in difference.changed
    assert await store.limits() == {
        "2": PauseLimit(None, minutes(20), WhenExceeded.WARN),
        "3": PauseLimit(minutes(5), minutes(15), WhenExceeded.LOGOFF),
    }


async def test_how_long_an_agent_was_paused(store: PeeweeStore) -> None:
    async def paused(agent: str, begin: float, end: float, id: str, **more: Any) -> None:
        await done(store, pause(agent, id=id, **more), NOW + minutes(begin))
        await done(store, log_off(agent), NOW + minutes(end))
        await done(store, log_in(agent, agent), NOW + minutes(end))

    await done(store, log_in())
    await done(store, log_in("1002", "1002"))
    await paused("1001", 10, 20, "a")
    await paused("1001", 50, 80, "b")  # 60 is in the middle of it
    await paused("1001", 90, 91.5, "c")
    await paused("1002", 90, 99, "d")
    await done(store, pause("1001", id="open"), NOW + minutes(100))
    assert await store.paused_since("1001", "1", NOW + minutes(60)) == minutes(21.5)
    assert await store.paused_since("1001", "1", NOW) == minutes(41.5)
    assert await store.paused_since("1001", "2", NOW) == timedelta()
    assert await store.paused_since("1001", "1", NOW + minutes(200)) == timedelta()
    assert await store.paused_since("nobody", "1", NOW) == timedelta()


async def test_the_pauses_of_now(store: PeeweeStore) -> None:
    await done(store, log_in())
    await done(store, log_in("1002", "1002"))
    await done(store, pause("1002", id="second"), NOW + minutes(2))
    first = await done(store, pause("1001", id="first"), NOW + minutes(1))
    reason = first.after.pause.reason
    assert await store.open_pauses() == [
        OpenPause("1001", "first", reason, NOW + minutes(1)),
        OpenPause("1002", "second", reason, NOW + minutes(2)),
    ]
    await done(store, log_off("1001"), NOW + minutes(3))
    assert [p.agent for p in await store.open_pauses()] == ["1002"]


async def test_which_pauses_last_too_long(store: PeeweeStore) -> None:
    await done(store, log_in())
    await done(store, log_in("1002", "1002"))
    await done(store, pause("1001", id="first"))
    await done(store, pause("1002", id="second"))
    await store.record(
        Event(
            id="second-exceeded",
            type=EventType.PAUSE_EXCEEDED,
            agent="1002",
            extension="1002",
            queues=("sales",),
            reason="lunch",
            source=Source.SYSTEM,
            actor=Actor(),
            occurred_at=NOW,
        )
    )
    assert await store.exceeded([]) == set()
    assert await store.exceeded(["first"]) == set()
    many = [f"no-{n}" for n in range(1200)]  # more than one statement takes
    assert await store.exceeded(["first", *many, "second"]) == {"second"}


async def test_the_end_of_the_shift(store: PeeweeStore) -> None:
    def agent(number: str, logoff_at: str | None = None) -> dict[str, Any]:
        return {"number": number, "name": number, "logoff_at": logoff_at}

    store.bring_in(
        settings(
            agents=[
                agent("1001"),
                agent("1002", "18:30"),
                agent("1003", "never"),
                agent("1004", "18:30"),
                agent("1005", "22:00"),
                agent("1006"),
            ]
        )
    )
    assert await store.shift_ends() == ["18:30", "22:00"]
    for n in range(1, 6):
        await done(store, log_in(f"100{n}", f"100{n}"), NOW + minutes(n))
    at = NOW + minutes(3)
    assert await store.overdue({"": at, "18:30": at, "22:00": at, "never": at}) == ["1001", "1002"]
    at = NOW + minutes(60)
    assert sorted(await store.overdue({"": at, "18:30": at})) == ["1001", "1002", "1004"]
    assert await store.overdue({"22:00": at}) == ["1005"]
    assert await store.overdue({"never": at}) == []
    await done(store, log_off("1005"))
    assert await store.overdue({"22:00": at}) == []
