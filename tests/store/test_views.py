"""Reading, also from another process while the service writes."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from fastagi.agents.commands import Actor, Adopt, Seen, WhenInCall
from fastagi.agents.devices import Device
from fastagi.agents.hooks import Attempt
from fastagi.agents.model import Status
from fastagi.agents.service import StoreUnavailable
from fastagi.contract import EventType, Sink, Source
from fastagi.store import PeeweeStore, Reading, retry_parked

from .conftest import (
    ACTOR,
    IN_CALL,
    LATER,
    NOW,
    begin,
    device,
    done,
    log_in,
    log_off,
    login_sessions,
    parked,
    pause,
    pauses,
    settings,
)


async def test_agents(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    await done(store, log_in("1002", "2002"))
    await done(store, pause("1002"), LATER)
    await done(store, log_off("1002", when_in_call=WhenInCall.AFTER_CALL), facts=IN_CALL)
    assert [(a.number, a.status) for a in views.agents()] == [
        ("1001", Status.LOGGED_OFF),
        ("1002", Status.PAUSED),
        ("1003", Status.LOGGED_OFF),
    ]
    view = views.agent("1002")
    assert view is not None
    assert (view.extension, view.interface, view.since) == ("2002", "PJSIP/2002", NOW)
    assert view.queues == view.joined == ("sales", "support")
    assert (view.pause_reason, view.paused_since, view.planned) == ("lunch", LATER, "log off")
    off = views.agent("1001")
    assert off is not None
    assert (off.extension, off.joined, off.since, off.pause_reason) == ("", (), None, "")
    assert views.agent("1'); --") is None
    store.bring_in(settings(agents=[]))
    assert [a.number for a in views.agents()] == ["1002"]  # archived, but still logged in
    views.close()


async def test_events(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    first = await done(store, log_in("1001"))
    second = await done(store, log_in("1002", "2002"))
    third = await done(store, pause("1001"), LATER)
    stored = views.events()
    assert [s.event for s in stored] == [*first.events, *second.events, *third.events]
    assert [s.seq for s in stored] == sorted(s.seq for s in stored)
    assert [s.event for s in views.events(stored[0].seq, 1)] == list(second.events)
    assert [s.event for s in views.events(agent="1001", type=EventType.PAUSE)] == list(third.events)
    assert views.events(source=Source.API) == []
    assert [s.event for s in views.latest_events(2)] == [*second.events, *third.events]
    assert views.events(stored[-1].seq) == []
    assert stored[0].event.actor == ACTOR
    views.close()


async def test_sessions_and_pauses_tell_how_they_ended(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    await done(store, log_in("1001"))
    await done(store, pause("1001"))
    await done(store, log_in("1001", "3003", move=True), LATER)
    await done(store, log_off("1001", reason="taken over"), LATER + timedelta(seconds=1))
    last, first = login_sessions(views, "1001")
    assert (first.extension, first.since, first.ended_at, first.ended_how) == (
        "1001",
        NOW,
        LATER,
        "moved",
    )
    assert (last.extension, last.ended_how, last.source, last.ended_source) == (
        "3003",
        "taken over",
        Source.PHONE,
        Source.PHONE,
    )
    (segment,) = pauses(views)
    assert (segment.agent, segment.code, segment.name) == ("1001", "1", "lunch")
    assert (segment.since, segment.ended_at) == (NOW, LATER + timedelta(seconds=1))
    assert segment.ended_how == "logged_off"
    await done(store, log_in("1002", "2"))
    assert login_sessions(views, "1002")[0].ended_at is None
    assert len(login_sessions(views)) == 3
    views.close()


async def test_parked(store: PeeweeStore, url: str) -> None:
    change = await done(store, log_in("1001"))
    (delivery,) = await store.deliveries.due(NOW, 10, Sink.QUEUE_LOG)
    await store.deliveries.park(delivery, LATER, "no such queue")
    views = Reading(url)
    (given_up,) = views.parked()
    assert (given_up.sink, given_up.event_id, given_up.agent, given_up.attempts) == (
        "queue_log",
        change.events[0].id,
        "1001",
        1,
    )
    assert (given_up.error, given_up.parked_at) == ("no such queue", LATER)
    views.close()


async def test_what_was_given_up_is_tried_again(store: PeeweeStore, url: str) -> None:
    """As from the command line: by the event's id, or all."""
    for number in ("1001", "1002", "1003"):
        await done(store, log_in(number, number, id=f"in-{number}"))
    for sink in (Sink.QUEUE_LOG, Sink.LAMP):
        for delivery in await store.deliveries.due(NOW, 10, sink):
            await store.deliveries.park(delivery, LATER, "refused")
    assert await asyncio.to_thread(retry_parked, url, "in-1002-1") == 2
    assert await asyncio.to_thread(retry_parked, url, "in-1002-1") == 0
    assert await asyncio.to_thread(retry_parked, url, "nothing' OR 1=1") == 0
    (due,) = await store.deliveries.due(NOW, 10, Sink.LAMP)
    assert (due.event.id, due.attempts) == ("in-1002-1", 0)
    assert await asyncio.to_thread(retry_parked, url) == 4
    assert len(await store.deliveries.due(NOW, 10, Sink.LAMP)) == 3
    assert await parked(store) == []


def test_nothing_is_tried_again_where_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no such file"):
        retry_parked(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()


async def test_what_is_compared_with_asterisk(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    assert views.logged_in_states() == []
    seat = replace(device("1001"), asterisk="two")
    await done(store, replace(log_in("1001"), device=seat))
    await done(store, log_in("1002", "1002"))
    await done(store, log_in("1003", "1003"))
    await done(store, pause("1003"))
    await begin(
        store,
        Adopt(
            id="seen",
            agent="1001",
            source=Source.ASTERISK,
            members=(
                Seen("sales", "701", 0, True, "Auto-Pause"),
                Seen("support", "702", 2, False, ""),
            ),
        ),
        LATER,
    )
    assert views.logged_in_states() == await store.logged_in()
    assert len(views.logged_in_states()) == 3
    store.bring_in(settings(2))
    numbers = ["1001", "1003", "9999", "1002'"]
    assert views.states(numbers) == await store.states(numbers)
    assert views.states(numbers).keys() == {"1001", "1003"}  # archived, and still logged in
    assert views.states([]) == {}
    assert views.queue_names() == await store.queue_names()
    assert views.queue_names()["support"] == ("support", "702")
    assert views.queue_ids() == {"sales": 1, "support": 2, "billing": 3}
    assert views.note("started") is None
    await store.set_note("started", "today")
    assert views.note("started") == "today"
    first, second, third = views.agents()
    assert (first.asterisk, first.paused_in, first.planned) == ("two", ("sales",), "")
    assert (second.asterisk, second.paused_in) == ("", ())
    assert third.paused_in == ()  # paused in general
    views.close()


async def test_from_another_process_while_the_service_runs(store: PeeweeStore, url: str) -> None:
    await done(store, log_in("1001"))
    program = (
        "import json; from fastagi.store import Reading\n"
        f"print(json.dumps([[a.number, a.status.name] for a in Reading({url!r}).agents()]))"
    )
    child = subprocess.run(  # noqa: ASYNC221 - the store's thread goes on meanwhile
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert json.loads(child.stdout)[0] == ["1001", "AVAILABLE"]


async def test_views_cannot_write(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    with pytest.raises(StoreUnavailable, match=r"read.?only"), views.connected() as database:
        database.execute_sql("DELETE FROM notes")
    views.close()


def test_a_store_that_was_never_made(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no such file"):
        Reading(f"sqlite:///{tmp_path}/none.db").agents()
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(StoreUnavailable):
        Reading("postgresql://127.0.0.1:1/none").agents()


# -- for pages and figures


async def test_where_an_agent_is_and_how_the_agent_got_there(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    outside = Device("0612345678", "", "Local/0612345678@outbound/n", "", "remote", "paris")
    await done(store, replace(log_in("1002"), device=outside, source=Source.API))
    await done(store, pause("1002"), LATER)
    await done(store, replace(log_in("1003", "3003"), source=Source.SYSTEM))
    (away,) = views.agents(["1002"])
    assert (away.extension, away.context, away.device_type) == ("0612345678", "", "remote")
    assert (away.asterisk, away.source, away.pause_source) == ("paris", Source.API, Source.PHONE)
    off, here = views.agents(["1003", "1001", "1001", "nobody"])
    assert (off.number, off.context, off.device_type) == ("1001", "", "local")
    assert (off.source, off.pause_source) == (None, None)
    assert (here.number, here.context, here.source) == ("1003", "phones", Source.SYSTEM)
    assert here.pause_source is None
    assert views.agents([]) == []
    assert {view.number: view for view in views.agents()} == {
        "1001": off,
        "1002": away,
        "1003": here,
    }
    # Of the present session, not of the one before.
    await done(store, log_off("1002"), LATER)
    await done(store, log_in("1002", "2002"), LATER)
    (back,) = views.agents(["1002"])
    assert (back.source, back.pause_source, back.device_type) == (Source.PHONE, None, "local")
    (event,) = views.latest_events(1)
    assert event.event.device_type == "local"
    assert [s.event.device_type for s in views.events(agent="1002")][:2] == ["remote", "remote"]
    views.close()


async def test_which_program_it_was(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    crm, desk = Actor(name="crm"), Actor(name="front desk")
    await done(store, replace(log_in("1001"), source=Source.API, actor=crm))
    await done(store, replace(pause("1001"), source=Source.API, actor=desk), LATER)
    await done(store, log_in("1002", "1002"))
    ((here, there),) = [views.agents(["1001", "1002"])]
    assert (here.by, here.pause_by) == ("crm", "front desk")
    assert (there.source, there.by, there.pause_by) == (Source.PHONE, "", "")
    moved = replace(log_in("1001", "3003", move=True), source=Source.API, actor=desk)
    await done(store, moved, LATER)
    (here,) = views.agents(["1001"])
    assert (here.extension, here.by, here.pause_by) == ("3003", "front desk", "front desk")
    # An odd row names nobody.
    await store.run(lambda c: c.execute("UPDATE events SET actor = ? WHERE id LIKE '%'", ("[",)))
    (here,) = views.agents(["1001"])
    assert (here.source, here.by) == (Source.API, "")
    views.close()


async def test_how_many_are_at_it(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    assert views.agents_by_state() == {(None, "logged_off"): 3}
    await done(store, log_in("1001"))
    await done(store, log_in("1002", "2002"))
    await done(store, pause("1002"))
    here = {(None, "logged_off"): 1, ("", "available"): 1}
    assert views.agents_by_state() == here | {("", "paused"): 1}
    store.bring_in(settings(agents=[{"number": "1003", "name": "C", "queues": []}]))
    # Archived, and logged in still.
    assert views.agents_by_state() == here | {("", "paused"): 1}
    await done(store, log_off("1002"))
    assert views.agents_by_state() == here
    views.close()


async def test_what_waits_by_sink(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    nothing = [(sink, 0, None, 0) for sink in (*(s.value for s in Sink), "hook")]

    def figures() -> list[tuple[str, int, object, int]]:
        return [(b.sink, b.waiting, b.oldest, b.parked) for b in views.backlog()]

    assert figures() == nothing
    state = await store.agent("1001")
    assert state is not None
    for event_type in (EventType.LOGIN, EventType.LOGIN, EventType.PAUSE):
        await store.hooks.create(
            "7", state.id, "local", event_type, "GET", "http://receiver.example/", "json"
        )
    await done(store, log_in("1001"))
    await done(store, pause("1001"), LATER)
    assert figures() == [
        ("user_event", 2, NOW, 0),
        ("queue_log", 1, NOW, 0),
        ("lamp", 2, NOW, 0),
        ("hook", 3, NOW, 0),
    ]
    for owed in (await store.hook_deliveries.due(NOW, 9, frozenset()))[:2]:
        failed = Attempt(owed.event.id, owed.event.type, NOW, 1, 410, "410", 0.1, "parked")
        await store.hook_deliveries.park(owed, NOW, failed)
    for delivery in await store.deliveries.due(LATER, 9, Sink.QUEUE_LOG):
        await store.deliveries.park(delivery, NOW, "refused")
    assert figures() == [
        ("user_event", 2, NOW, 0),
        ("queue_log", 0, None, 1),
        ("lamp", 2, NOW, 0),
        ("hook", 1, LATER, 2),
    ]
    assert [parked.sink.split()[0] for parked in views.parked()] == ["hook", "hook", "queue_log"]
    views.close()


async def test_queues_by_name_archived_ones_too(store: PeeweeStore, url: str) -> None:
    views = Reading(url)
    store.bring_in(settings(queues=[{"number": "702", "name": "support"}], agents=[]))
    assert views.queue_ids() == {"sales": 1, "support": 2, "billing": 3}
    views.close()
