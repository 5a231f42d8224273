"""Hooks: which there are, what is owed to each, in which order, and by which service."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from fastagi.agents.devices import DeviceType
from fastagi.agents.events import Event
from fastagi.agents.hooks import Attempt, Hook, HookDelivery, payload
from fastagi.contract import HOOK_TYPES, EventType, Source
from fastagi.store import PeeweeStore, Reading, retry_parked
from fastagi.store.connection import Connection
from fastagi.store.outbox import KEPT

from .conftest import ACTOR, LATER, NOW, done, log_in, log_off, pause, settings, standing_by
from .test_services import another, eventually

Opened = Callable[..., PeeweeStore]
Place = tuple[str, int, DeviceType]
URL = "https://receiver.example/told"


def event(id: str, agent: str = "1001", type: EventType = EventType.LOGIN, **more: Any) -> Event:
    return Event(id, type, agent, "1001", ("sales",), "", Source.PHONE, ACTOR, NOW, **more)


async def agent_id(store: PeeweeStore, number: str = "1001") -> int:
    state = await store.agent(number)
    assert state is not None
    return state.id


async def hooked(
    store: PeeweeStore,
    number: str = "1001",
    type: EventType = EventType.LOGIN,
    agent_type: Any = "local",
    client: str = "7",
) -> Hook:
    hook = await store.hooks.create(
        client, await agent_id(store, number), agent_type, type, "POST", URL, "json"
    )
    assert hook is not None
    return hook


async def due(store: PeeweeStore, seconds: float = 0, busy: Any = frozenset()) -> list[str]:
    found = await store.hook_deliveries.due(NOW + timedelta(seconds=seconds), 100, busy)
    return [delivery.event.id for delivery in found]


async def first(store: PeeweeStore) -> HookDelivery:
    (delivery,) = await store.hook_deliveries.due(NOW, 100, frozenset())
    return delivery


def attempt(delivery: HookDelivery, outcome: Any = "delivered", error: str = "") -> Attempt:
    status = 204 if outcome == "delivered" else 500
    return Attempt(
        delivery.event.id,
        delivery.event.type,
        LATER,
        delivery.attempts + 1,
        status,
        error,
        0.25,
        outcome,
    )


async def counted(store: PeeweeStore, what: str) -> int:
    def job(connection: Connection) -> int:
        return int(connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0])

    return await store.run(job, writes=False)


# -- which there are


async def test_a_hook_is_seen_under_its_own_path_alone(store: PeeweeStore) -> None:
    hook = await hooked(store)
    other = await hooked(store, type=EventType.PAUSE)
    assert other.id != hook.id
    place: Place = ("7", hook.agent_id, "local")
    assert await store.hooks.of(*place) == [hook, other]
    assert await store.hooks.hook(*place, hook.id) == hook
    second = await agent_id(store, "1002")
    strangers: list[Place] = [
        ("8", hook.agent_id, "local"),
        ("7", second, "local"),
        ("7", hook.agent_id, "remote"),
    ]
    for stranger in strangers:
        assert await store.hooks.hook(*stranger, hook.id) is None
        assert await store.hooks.of(*stranger) == []
    assert await store.hooks.hook(*place, 999) is None
    assert await store.hooks.of("7", 999, "local") is None
    assert await store.hooks.create("7", 999, "local", EventType.LOGIN, "GET", URL, "json") is None


async def test_an_archived_agents_hooks_are_kept_and_come_back(store: PeeweeStore) -> None:
    hook = await hooked(store)
    store.bring_in(settings(agents=[]))
    place: Place = ("7", hook.agent_id, "local")
    assert await store.hooks.of(*place) is None
    assert await store.hooks.create(*place, EventType.LOGIN, "GET", URL, "json") is None
    store.bring_in(settings())
    assert await store.hooks.of(*place) == [hook]


async def test_a_hook_follows_its_agent_to_another_id(store: PeeweeStore) -> None:
    hook = await hooked(store)
    await store.record(event("before"))
    store.bring_in(settings(agents=[{"number": "1001", "name": "A", "id": 77, "queues": []}]))
    moved = replace(hook, agent_id=77)
    assert await store.hooks.of("7", 77, "local") == [moved]
    await store.record(event("after"))
    (delivery,) = await store.hook_deliveries.due(NOW, 10, frozenset())
    assert (delivery.hook, delivery.event.id) == (moved, "before")
    await store.hook_deliveries.delivered(delivery, attempt(delivery))
    assert await due(store) == ["after"]


async def test_what_waits_goes_to_the_new_address(store: PeeweeStore) -> None:
    hook = await hooked(store)
    await store.record(event("e"))
    changed = replace(hook, url="http://other.example/", method="GET", content_type="form")
    assert await store.hooks.update(changed)
    assert (await first(store)).hook == changed
    assert await store.hooks.delete(hook.id)
    assert not await store.hooks.update(hook)
    assert not await store.hooks.delete(hook.id)


async def test_a_changed_type_counts_from_the_next_event_on(store: PeeweeStore) -> None:
    hook = await hooked(store)
    await store.record(event("in"))
    assert await store.hooks.update(replace(hook, event_type=EventType.LOGOUT))
    await store.record(event("in again"))
    await store.record(event("off", type=EventType.LOGOUT))
    assert await due(store) == ["in"]
    delivery = await first(store)
    await store.hook_deliveries.delivered(delivery, attempt(delivery))
    assert await due(store) == ["off"]


async def test_an_id_is_never_given_twice(store: PeeweeStore) -> None:
    """An answer that comes late must not count for another's hook."""
    hook = await hooked(store)
    await store.hooks.delete(hook.id)
    assert (await hooked(store)).id > hook.id


# -- what is owed


async def test_told_is_what_was_asked_for_and_nothing_else(store: PeeweeStore) -> None:
    logins, pauses = await hooked(store), await hooked(store, type=EventType.PAUSE)
    remote = await hooked(store, agent_type="remote")
    await hooked(store, "1002")
    await done(store, log_in(id="in"))
    await done(store, pause(id="pause"))
    await done(store, log_off(id="off"))
    found = await store.hook_deliveries.due(NOW, 10, frozenset())
    assert [(d.hook, d.event.id, d.attempts) for d in found] == [
        (logins, "in-1", 0),
        (pauses, "pause-1", 0),
    ]
    await store.record(event("in part", type=EventType.PAUSE, in_part=True))
    await store.record(event("away", device_type="remote"))
    found = await store.hook_deliveries.due(NOW, 10, frozenset({logins.id}))
    assert [(d.hook, d.event.id) for d in found] == [(pauses, "pause-1"), (remote, "away")]
    assert found[1].event.device_type == "remote"
    assert await counted(store, "hook_deliveries") == 3


async def test_who_moves_while_paused_is_paused_at_the_other_phone(store: PeeweeStore) -> None:
    """Told so also when it is told much later, and no login after it."""
    await hooked(store)
    minute = timedelta(minutes=1)
    away = log_in(extension="1002", id="moved", move=True)
    for number, command in enumerate(
        [log_in(id="in"), pause(), away, log_off(), log_in(id="again"), pause(), log_off()]
    ):
        await done(store, command, NOW + number * minute)
    told_of = []
    for _ in range(3):
        (delivery,) = await store.hook_deliveries.due(NOW + 9 * minute, 10, frozenset())
        told_of.append((delivery.event.id, payload(1, delivery.event, paused=delivery.paused)))
        await store.hook_deliveries.delivered(delivery, attempt(delivery))
    assert [(id, fields["agent_status"]) for id, fields in told_of] == [
        ("in-1", "available"),
        ("moved-2", "paused"),
        ("again-1", "available"),
    ]


async def test_only_what_hooks_are_made_for_is_owed(store: PeeweeStore) -> None:
    for type in EventType:
        await hooked(store, type=type)
        await store.record(event(type.value, type=type))
    found = await store.hook_deliveries.due(NOW, 100, frozenset())
    assert {d.event.type for d in found} == set(HOOK_TYPES)


async def test_the_same_event_twice_is_owed_once(store: PeeweeStore) -> None:
    await hooked(store)
    await store.record(event("e"))
    await store.record(event("e"))
    assert await counted(store, "hook_deliveries") == 1


async def test_events_that_are_taken_back_are_owed_to_nobody(store: PeeweeStore) -> None:
    await hooked(store)

    def job(connection: Connection) -> None:
        connection.write_event(event("e"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.run(job)
    assert await due(store) == []
    await store.record(event("later"))
    assert await due(store) == ["later"]


async def test_a_hook_that_was_taken_back_is_owed_nothing(store: PeeweeStore) -> None:
    """The writer remembers who has hooks: not those of a transaction that failed."""
    id = await agent_id(store)

    def job(connection: Connection) -> None:
        connection.execute(
            "INSERT INTO hooks (client, agent_id, agent_type, event_type, method, url,"
            " content_type, created_at) VALUES ('7', ?, 'local', 'agent-login', 'GET', 'x',"
            " 'json', 0)",
            (id,),
        )
        connection.hooks_changed()
        connection.write_event(event("e"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.run(job)
    await store.record(event("later"))
    assert await counted(store, "hook_deliveries") == 0


async def test_a_hook_made_by_another_process_counts_at_once(url: str, opened: Opened) -> None:
    first, second = opened(url), opened(url)
    first.bring_in(settings())
    await first.record(event("nobody listens"))
    hook = await hooked(second)
    await first.record(event("e"))
    assert await due(first) == ["e"]
    assert await second.hooks.delete(hook.id)
    await first.record(event("again nobody"))
    assert await counted(first, "hook_deliveries") == 0


async def test_without_hooks_nothing_is_written_and_hardly_asked(
    store: PeeweeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that every phone code takes."""
    await hooked(store, "1002")
    await done(store, log_in(id="warm"))  # who has hooks is known from now on
    statements: list[str] = []
    kind = store._backend
    execute = kind.execute

    def listening(self: Any, sql: str, values: Any = ()) -> Any:
        statements.append(sql)
        return execute(self, sql, values)

    monkeypatch.setattr(kind, "execute", listening)
    await done(store, log_off(id="off"))
    monkeypatch.undo()
    if store.place.sqlite:
        assert not [sql for sql in statements if "hook" in sql]
    else:  # with the sinks' deliveries, in one statement
        assert len([sql for sql in statements if "hook" in sql]) == 1
        assert len([sql for sql in statements if "deliveries" in sql]) == 1
    assert await counted(store, "hook_deliveries") == 0


async def test_whoever_delivers_is_woken(store: PeeweeStore) -> None:
    woken: list[None] = []
    store.on_commit(lambda: woken.append(None))
    hook = await hooked(store)
    await store.record(event("e"))
    assert len(woken) == 1
    delivery = await first(store)
    await store.hook_deliveries.park(delivery, NOW, attempt(delivery, "parked", "gone"))
    assert await store.hooks.retry(hook.id) == 1
    assert len(woken) == 2


# -- in which order


async def test_one_at_a_time_of_each_hook_the_oldest_first(store: PeeweeStore) -> None:
    hook = await hooked(store)
    second = await hooked(store, "1002")
    third = await hooked(store, "1003")
    for n in range(9):
        await store.record(event(f"e{n}", str(1003 - n % 3)))
    assert await due(store) == ["e0", "e1", "e2"]
    found = await store.hook_deliveries.due(NOW, 2, frozenset())
    assert [d.event.id for d in found] == ["e0", "e1"]
    assert [d.hook.id for d in found] == [third.id, second.id]
    # Those under way do not fill the answer.
    found = await store.hook_deliveries.due(NOW, 1, frozenset({third.id, second.id}))
    assert [d.event.id for d in found] == ["e2"]
    for n in (0, 3, 6):
        (delivery,) = await store.hook_deliveries.due(NOW, 1, frozenset({hook.id, second.id}))
        assert delivery.event.id == f"e{n}"
        await store.hook_deliveries.delivered(delivery, attempt(delivery))
    assert await due(store) == ["e1", "e2"]


async def test_one_that_is_postponed_holds_up_its_own_hook_alone(store: PeeweeStore) -> None:
    hook = await hooked(store)
    await hooked(store, "1002")
    assert await store.hook_deliveries.next_due() is None
    for n in range(4):
        await store.record(event(f"e{n}", "1002" if n % 2 else "1001"))
    assert await store.hook_deliveries.next_due() is None
    (delivery, other) = await store.hook_deliveries.due(NOW, 10, frozenset())
    until = NOW + timedelta(seconds=30)
    await store.hook_deliveries.postpone(delivery, until, attempt(delivery, "failed", "no answer"))
    assert await store.hook_deliveries.next_due() == until
    assert await due(store) == ["e1"]
    assert await due(store, 29) == ["e1"]
    await store.hook_deliveries.delivered(other, attempt(other))
    assert await due(store, 29) == ["e3"]
    assert await due(store, 31) == ["e0", "e3"]
    again = await store.hook_deliveries.due(until, 1, frozenset())
    assert [(d.hook.id, d.attempts) for d in again] == [(hook.id, 1)]


async def test_what_is_given_up_holds_up_nothing(store: PeeweeStore, url: str) -> None:
    hook = await hooked(store)
    await store.record(event("e0"))
    await store.record(event("e1"))
    delivery = await first(store)
    await store.hook_deliveries.postpone(delivery, LATER, attempt(delivery, "failed", "500"))
    (delivery,) = await store.hook_deliveries.due(LATER, 10, frozenset())
    await store.hook_deliveries.park(delivery, LATER, attempt(delivery, "parked", "500 again"))
    assert await due(store) == ["e1"]
    assert await store.hook_deliveries.next_due() is None
    assert await store.hooks.parked(hook.id) == 1
    views = Reading(url)
    (parked,) = views.parked()
    assert (parked.sink, parked.event_id, parked.agent) == (f"hook {hook.id}", "e0", "1001")
    assert (parked.attempts, parked.error, parked.parked_at) == (2, "500 again", LATER)
    assert await store.hooks.retry(hook.id) == 1
    assert await store.hooks.retry(hook.id) == 0
    assert views.parked() == []
    views.close()
    delivery = await first(store)
    assert (delivery.event.id, delivery.attempts) == ("e0", 0)


async def test_given_up_of_one_event_or_of_all_is_tried_again(store: PeeweeStore, url: str) -> None:
    """As from the command line."""
    await hooked(store)
    await hooked(store, "1002")
    await store.record(event("e0"))
    await store.record(event("e1", "1002"))
    for delivery in await store.hook_deliveries.due(NOW, 10, frozenset()):
        await store.hook_deliveries.park(delivery, NOW, attempt(delivery, "parked", "410"))
    assert await asyncio.to_thread(retry_parked, url, "e1") == 1
    assert await due(store) == ["e1"]
    assert await asyncio.to_thread(retry_parked, url) == 1
    assert await due(store) == ["e0", "e1"]


async def test_what_cannot_be_read_is_parked_and_in_nobodys_way(url: str, opened: Opened) -> None:
    store = opened(url)
    store.bring_in(settings())
    hook = await hooked(store)
    await store.record(event("e0"))
    await store.record(event("e1"))
    spoilt = "UPDATE events SET source = 'telepathy' WHERE id = 'e0'"
    await store.run(lambda connection: connection.execute(spoilt) and None)
    other = opened(url)
    woken: list[None] = []
    other.on_commit(lambda: woken.append(None))
    assert await due(other) == []
    assert woken  # to ask again
    assert await due(other) == ["e1"]
    assert await other.hooks.parked(hook.id) == 1


async def test_many_hooks_and_a_long_backlog(store: PeeweeStore) -> None:
    """Of ten thousand hooks one waits for a receiver that has been away for a day."""

    def fill(connection: Connection) -> None:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
        connection.execute(
            numbers.format(10_000)
            + " INSERT INTO hooks (client, agent_id, agent_type, event_type, method, url,"
            " content_type, created_at) SELECT '7', 1, 'local', 'agent-logout', 'GET', 'x',"
            " 'json', 0 FROM n"
        )
        connection.execute(
            numbers.format(20_000)
            + " INSERT INTO events (id, type, agent, extension, context, queues, reason, source,"
            " actor, occurred_at, session_seconds) SELECT 'e' || i, 'agent-login', '1001', '1',"
            " 'phones', '[]', '', 'phone', '{}', 1.0, 0 FROM n"
        )
        connection.execute(
            "INSERT INTO hook_deliveries (hook, event, parked_at)"
            " SELECT (SELECT max(id) FROM hooks), seq,"
            " CASE WHEN seq <= 15000 THEN 1.0 ELSE NULL END FROM events"
        )
        connection.hooks_changed()

    await store.run(fill)
    for n in range(15_001, 15_011):
        delivery = await first(store)
        assert delivery.event.id == f"e{n}"
        await store.hook_deliveries.delivered(delivery, attempt(delivery))
    steps = await store.run(_steps, writes=False) if store.place.sqlite else 0
    assert steps < 10  # thousands of instructions: not all hooks, nor all that waits


def _steps(connection: Connection) -> int:
    """How far SQLite had to go for what is due."""
    from fastagi.store import outbox

    raw: Any = connection.peewee.connection()  # type: ignore[no-untyped-call]
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    raw.set_progress_handler(count, 1000)
    text = outbox._HOOKS_FIRST.format(index=connection.WAITING_HOOKS)
    connection.execute(text, (NOW.timestamp(), 100)).fetchall()
    raw.set_progress_handler(None, 0)
    return steps


# -- how it went


async def test_the_log_tells_of_every_attempt_the_latest_first(store: PeeweeStore) -> None:
    hook, other = await hooked(store), await hooked(store, "1002")
    await store.record(event("e0"))
    delivery = await first(store)
    failed = attempt(delivery, "failed", "the receiver answered 500")
    await store.hook_deliveries.postpone(delivery, NOW, failed)
    delivery = await first(store)
    unanswered = replace(attempt(delivery, "failed", "no answer"), status=None)
    await store.hook_deliveries.postpone(delivery, NOW, unanswered)
    delivery = await first(store)
    arrived = attempt(delivery)
    await store.hook_deliveries.delivered(delivery, arrived)
    assert await store.hooks.log(hook.id, 10) == [arrived, unanswered, failed]
    assert [a.number for a in await store.hooks.log(hook.id, 10)] == [3, 2, 1]
    assert await store.hooks.log(hook.id, 1) == [arrived]
    assert await store.hooks.log(other.id, 10) == []


async def test_the_log_keeps_the_latest(store: PeeweeStore) -> None:
    hook, other = await hooked(store), await hooked(store, "1002")
    await store.record(event("e", "1002"))
    told = await first(store)
    await store.hook_deliveries.delivered(told, attempt(told))
    delivery = HookDelivery(hook, 1, event("x"), 0)
    for n in range(KEPT + 60):
        told = replace(delivery, event=event(f"x{n}"))
        await store.hook_deliveries.delivered(told, attempt(told))
    kept = await store.hooks.log(hook.id, 10_000)
    assert [a.event_id for a in kept] == [f"x{n}" for n in range(KEPT + 59, 59, -1)]
    assert await counted(store, "hook_attempts") <= KEPT + 1 + 50
    assert len(await store.hooks.log(other.id, 10)) == 1


async def test_a_hook_may_be_deleted_while_it_is_being_told(store: PeeweeStore) -> None:
    hook = await hooked(store)
    for n in range(4):
        await store.record(event(f"e{n}"))
    delivery = await first(store)
    assert await store.hooks.delete(hook.id)
    await store.hook_deliveries.delivered(delivery, attempt(delivery))
    await store.hook_deliveries.postpone(delivery, LATER, attempt(delivery, "failed", "x"))
    await store.hook_deliveries.park(delivery, NOW, attempt(delivery, "parked", "x"))
    assert await due(store) == []
    assert await store.hooks.log(hook.id, 10) == []
    assert await store.hooks.retry(hook.id) == 0
    assert await counted(store, "hook_deliveries") == await counted(store, "hook_attempts") == 0
    await store.record(event("later"))


@pytest.mark.postgres
async def test_a_hook_goes_while_its_agents_event_is_written(
    postgres_url: str, opened: Opened
) -> None:
    """The call must not fail for it, whoever is first."""
    store = opened(postgres_url)
    store.bring_in(settings())
    hook = await hooked(store)
    with psycopg.connect(postgres_url) as other:
        other.execute("DELETE FROM hooks WHERE id = %s", (hook.id,))
        writing = asyncio.ensure_future(done(store, log_in(id="in")))
        await eventually(lambda: _waits(postgres_url))
        other.commit()
    await writing
    assert await counted(store, "hook_deliveries") == 0
    hook = await hooked(store, type=EventType.LOGOUT)
    await done(store, log_off(id="off"))
    delivery = await first(store)
    with psycopg.connect(postgres_url) as other:
        other.execute("DELETE FROM hooks WHERE id = %s", (hook.id,))
        marking = asyncio.ensure_future(
            store.hook_deliveries.delivered(delivery, attempt(delivery))
        )
        await eventually(lambda: _waits(postgres_url))
        other.commit()
    await marking
    assert await counted(store, "hook_attempts") == 0


def _waits(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as admin:
        return (
            admin.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock'"
            ).fetchone()
            is not None
        )


# -- two services


@pytest.fixture
def pair(postgres_url: str, opened: Opened) -> tuple[PeeweeStore, PeeweeStore]:
    first, second = opened(postgres_url), opened(postgres_url)
    first.bring_in(settings(20))
    return first, second


Pair = tuple[PeeweeStore, PeeweeStore]


HOOKS = "deliver:hooks"


@pytest.mark.postgres
async def test_what_one_service_has_begun_the_other_goes_on_with(pair: Pair) -> None:
    one, other = pair
    await hooked(one)
    await hooked(one, "1002")
    for n in range(3):
        await one.record(event(f"e{n}"))
    async with standing_by(other, HOOKS) as has:
        async with asyncio.timeout(10):
            await has.wait()
        delivery = await first(other)
        await one.record(event("f", "1002"))
        assert await due(other) == ["e0", "f"]
        postponed = attempt(delivery, "failed", "500")
        await other.hook_deliveries.postpone(delivery, LATER, postponed)
    async with one.exclusive(HOOKS) as lock:
        assert lock is not None
        assert await due(one) == ["f"]  # e0 is not due
        found = await one.hook_deliveries.due(LATER, 9, frozenset())
        (again,) = [d for d in found if d.event.id != "f"]
        assert (again.event.id, again.attempts) == ("e0", 1)
        await one.hook_deliveries.delivered(again, attempt(again))
        assert await due(one) == ["e1", "f"]


@pytest.mark.postgres
async def test_two_who_ask_by_turns_get_each_hook_once(pair: Pair) -> None:
    for n in range(20):
        await hooked(pair[0], str(1001 + n))
    for n in range(200):
        await pair[0].record(event(f"{1001 + n % 20}-{n // 20}", str(1001 + n % 20)))
    told: list[str] = []

    async def work(store: PeeweeStore) -> None:
        while len(told) < 200:
            async with store.exclusive(HOOKS, wait=True):
                for delivery in await store.hook_deliveries.due(NOW, 7, frozenset()):
                    told.append(delivery.event.id)
                    await store.hook_deliveries.delivered(delivery, attempt(delivery))

    await asyncio.gather(*map(work, pair))
    assert len(told) == len(set(told)) == 200
    for number in range(1001, 1021):
        mine = [id for id in told if id.startswith(str(number))]
        assert mine == [f"{number}-{n}" for n in range(10)]


async def test_an_earlier_one_that_is_tried_again_waits_for_the_later_one_under_way(
    store: PeeweeStore,
) -> None:
    hook = await hooked(store)
    await store.record(event("e0"))
    await store.record(event("e1"))
    delivery = await first(store)
    await store.hook_deliveries.park(delivery, NOW, attempt(delivery, "parked", "410"))
    later = await first(store)
    assert later.event.id == "e1"
    assert await store.hooks.retry(hook.id) == 1
    assert await due(store, busy=frozenset({hook.id})) == []
    await store.hook_deliveries.delivered(later, attempt(later))
    assert await due(store) == ["e0"]


@pytest.mark.postgres
async def test_a_killed_services_deliveries_are_the_others_at_once(
    postgres_url: str, pair: Pair
) -> None:
    await hooked(pair[0])
    await pair[0].record(event("e0"))
    holds = f"held = store.exclusive({HOOKS!r}, wait=True)\nassert await held.__aenter__()"
    async with another(postgres_url, holds) as child, standing_by(pair[0], HOOKS) as has:
        assert not has.is_set()
        child.send_signal(signal.SIGKILL)
        async with asyncio.timeout(10):
            await has.wait()
        assert await due(pair[0]) == ["e0"]


@pytest.mark.postgres
async def test_a_stopped_service_keeps_nothing(pair: Pair) -> None:
    await hooked(pair[0])
    await pair[0].record(event("e0"))
    async with standing_by(pair[0], HOOKS), standing_by(pair[1], HOOKS) as has:
        assert not has.is_set()
    async with pair[1].exclusive(HOOKS) as lock:
        assert lock is not None
        assert await due(pair[1]) == ["e0"]


@pytest.mark.postgres
async def test_what_waits_for_long_stays_this_services(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow receiver's deliveries wait in the service for a place, longer than a stuck service is
    waited for."""
    monkeypatch.setattr("fastagi.store.locks.STUCK", 0.6)
    async with standing_by(pair[0], HOOKS) as has, standing_by(pair[1], HOOKS) as other:
        await asyncio.sleep(2)
        assert has.is_set()
        assert not other.is_set()
