"""The YAML is brought into the store."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from fastagi.agents.errors import ExtensionInUse, NoSuchAgent
from fastagi.agents.limits import QueuePause
from fastagi.agents.model import Change, Membership
from fastagi.store import Difference, DirectoryConflict, PeeweeStore
from fastagi.store.connection import Connection

from .conftest import NOW, begin, done, log_in, log_off, settings, unsettled

Opened = Callable[..., PeeweeStore]


def agent(number: str = "1001", *queues: Any, **more: Any) -> dict[str, Any]:
    return {"number": number, "name": f"Agent {number}", "queues": list(queues), **more}


def by_api(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO queues (id, number, name, origin) VALUES (50, '750', 'vip', 'api')"
    )
    connection.execute(
        "INSERT INTO agents (id, number, name, language, origin)"
        " VALUES (60, '6000', 'Made by API', 'en', 'api')"
    )
    connection.execute(
        "INSERT INTO memberships (agent_id, queue_id, penalty, joined) VALUES (60, 50, 0, ?)",
        (False,),
    )
    connection.forget()


async def test_a_first_start_and_a_second(url: str, opened: Opened) -> None:
    store = opened(url)
    difference = store.bring_in(settings(2))
    assert sorted(difference.created) == [
        "agent 1001",
        "agent 1002",
        "pause reason 1",
        "pause reason 10",
        "pause reason 2",
        "queue billing",
        "queue sales",
        "queue support",
    ]
    assert difference.lines()[0] == "created pause reason 10"
    assert not store.bring_in(settings(2))
    state = await store.agent("1002")
    assert state is not None
    assert state.memberships == (
        Membership("sales", "701"),
        Membership("support", "702", penalty=2),
    )


async def test_changes_are_told_line_by_line(store: PeeweeStore) -> None:
    difference = store.bring_in(
        settings(
            queues=[
                {"number": "702", "name": "sales"},  # swapped
                {"number": "701", "name": "support"},
                {"number": "703", "name": "billing"},
                {"number": "704", "name": "returns"},
            ],
            agents=[
                agent("1001", "sales", "returns", language="fr", pin="1234"),
                agent("1004"),
            ],
            pause_reasons=[{"code": "1", "name": "break"}],
        )
    )
    assert sorted(difference.lines()) == [
        "agent 1001: queue returns given, support taken away",
        "archived agent 1002",
        "archived agent 1003",
        "archived pause reason 10",
        "archived pause reason 2",
        "changed agent 1001: name 'Agent 0' -> 'Agent 1001', language 'en' -> 'fr', has a PIN",
        "changed pause reason 1: name 'lunch' -> 'break', max_duration 2700.0 -> None,"
        " when_exceeded 'unpause' -> 'warn'",
        "changed queue sales: number '701' -> '702'",
        "changed queue support: number '702' -> '701'",
        "created agent 1004",
        "created queue returns",
    ]
    assert await store.agent("1002") is None
    assert await store.queue_numbered("702") == "sales"
    assert [reason.name for reason in await store.reasons()] == ["break"]
    with pytest.raises(NoSuchAgent):
        await begin(store, log_in("1002"), NOW)


async def test_the_archived_come_back(store: PeeweeStore) -> None:
    before = await store.agent("1002")
    store.bring_in(settings(1))
    assert await store.agent("1002") is None
    difference = store.bring_in(settings(3))
    assert difference.changed == ["agent 1002: is back", "agent 1003: is back"]
    assert await store.agent("1002") == before


async def test_what_an_api_created_stays(store: PeeweeStore) -> None:
    await store.run(by_api)
    assert not store.bring_in(settings())
    state = await store.agent("6000")
    assert state is not None
    assert [m.queue for m in state.memberships] == ["vip"]
    with pytest.raises(DirectoryConflict, match="queue hot: the number 750"):
        store.bring_in(settings(queues=[{"number": "750", "name": "hot"}], agents=[]))
    with pytest.raises(DirectoryConflict, match="agent 7000: the id 60"):
        store.bring_in(settings(agents=[agent("7000", id=60)]))
    assert await store.queue_numbered("701") == "sales"  # all or nothing
    with pytest.raises(DirectoryConflict, match="agent 6000: the number belongs to 'Made by API'"):
        store.bring_in(settings(agents=[agent("6000", "sales")]))
    difference = store.bring_in(settings(agents=[agent("6000", "sales", name="Made by API")]))
    assert "agent 6000: is in the YAML now" in difference.changed


async def test_ids(url: str, opened: Opened) -> None:
    store = opened(url)
    store.bring_in(settings(agents=[agent("1001", "sales"), agent("1002", "sales", id=1)]))

    async def ids() -> dict[str, int]:
        states = [await store.agent(n) for n in ("1001", "1002", "1003")]
        return {s.number: s.id for s in states if s is not None}

    assert await ids() == {"1001": 2, "1002": 1}
    change = await done(store, log_in("1001"))
    store.bring_in(
        settings(agents=[agent("1001", "sales", id=1), agent("1002", id=2), agent("1003")])
    )
    assert await ids() == {"1001": 1, "1002": 2, "1003": 3}
    moved = await store.agent("1001")
    assert moved is not None
    assert moved.session == change.after.session  # what refers to an id follows it
    store.bring_in(settings(agents=[agent("1001", "sales"), agent("1002"), agent("1003", id=1)]))
    assert await ids() == {"1001": 4, "1002": 2, "1003": 1}
    store.bring_in(settings(agents=[agent(str(2000 + n)) for n in range(5)]))


async def test_an_agent_archived_while_logged_in(store: PeeweeStore) -> None:
    await done(store, log_in("1001"))
    await begin(store, log_in("1002", "2002"), NOW)  # on the way in
    difference = store.bring_in(settings(agents=[]))
    assert difference.to_log_off == ["1001", "1002"]
    assert await store.agent("1001") is None
    with pytest.raises(NoSuchAgent):
        await begin(store, log_in("1001"), NOW)
    store.bring_in(settings(agents=[agent("1003")]))
    with pytest.raises(ExtensionInUse):  # the row stays until the agent is logged off
        await begin(store, log_in("1003", "1001"), NOW)
    state = await store.agent_at("pjsip/1001")
    assert state is not None
    off = await done(store, log_off("1001"))
    assert [m.queue for m in off.before.joined] == ["sales", "support"]
    assert await store.agent_at("pjsip/1001") is None
    assert store.bring_in(settings(agents=[])).to_log_off == []


async def test_a_queue_taken_away_is_left_first(store: PeeweeStore) -> None:
    await done(store, log_in("1001"))
    difference = store.bring_in(settings(agents=[agent("1001", "sales")]))
    assert difference.to_leave == [("1001", "support")]
    state = await store.agent("1001")
    assert state is not None
    assert [m.queue for m in state.joined] == ["sales", "support"]
    change = await done(store, log_off("1001"))
    assert [step.do.queue for step in change.steps] == ["sales", "support"]
    again = await begin(store, log_in("1001"), NOW)
    assert [step.do.queue for step in again.steps] == ["sales"]


async def test_what_a_logged_in_agent_gains(store: PeeweeStore) -> None:
    await done(store, log_in("1001"))
    queues = [
        {"number": "701", "name": "sales"},
        {"number": "702", "name": "support"},
        {"number": "703", "name": "billing"},
    ]
    penalised = agent("1001", {"name": "sales", "penalty": 7}, "billing")
    difference = store.bring_in(
        settings(queues=queues, agents=[penalised, agent("1002", "billing")])
    )
    assert difference.to_join == [("1001", "billing")]
    assert difference.to_set_penalty == [("1001", "sales", 7)]
    assert difference.to_leave == [("1001", "support")]
    assert difference.queues == [
        "agent 1001: queue billing given, support taken away, queue sales: penalty 0 -> 7",
        "agent 1002: queue billing given, sales, support taken away",
    ]


async def test_a_login_that_began_before_the_change(store: PeeweeStore) -> None:
    change = await begin(store, log_in("1001"), NOW)
    store.bring_in(settings(agents=[agent("1001", "sales")]))
    (found,) = await unsettled(store)  # what Asterisk may have been told is not forgotten
    assert {step.do.queue for step in found.steps} == {"sales", "support"}
    await store.confirm(change)
    state = await store.agent("1001")
    assert state is not None
    assert [m.queue for m in state.joined] == ["sales", "support"]


async def test_pins(store: PeeweeStore) -> None:
    async def hash() -> str | None:
        state = await store.agent("1001")
        assert state is not None
        return state.pin_hash

    assert store.bring_in(settings(agents=[agent(pin="4711")])).changed[0].endswith("has a PIN")
    first = await hash()
    assert first is not None
    assert not store.bring_in(settings(agents=[agent(pin="4711")]))
    assert await hash() == first
    difference = store.bring_in(settings(agents=[agent(pin="4712")]))
    assert difference.changed == ["agent 1001: another PIN"]
    second = await hash()
    assert second is not None
    assert await store.pins.verify(second, "4712")
    assert store.bring_in(settings(agents=[agent(pin_hash=first)])).changed == [
        "agent 1001: another PIN"
    ]
    assert await hash() == first
    assert store.bring_in(settings(agents=[agent()])).changed == ["agent 1001: has no PIN any more"]
    assert await hash() is None


def test_the_settings_brought_in_last_are_known(store: PeeweeStore) -> None:
    def with_material(material: bytes) -> Any:
        made = settings()
        made._fingerprint_material = material
        return made

    assert not store.knows(b"first")
    store.bring_in(with_material(b"first"))
    assert store.knows(b"first")
    assert not store.knows(b"second")
    store.bring_in(with_material(b"second"))
    assert store.knows(b"second")
    assert not store.knows(b"first")


async def test_the_fingerprint_is_salted(url: str, opened: Opened) -> None:
    store = opened(url)
    made = settings()
    made._fingerprint_material = b"secret material"
    store.bring_in(made)
    first = await store.note("directory")
    store.bring_in(made)
    assert await store.note("directory") != first
    assert first is not None
    assert "secret" not in first


def test_settings_without_the_agents_are_refused(store: PeeweeStore) -> None:
    with pytest.raises(ValueError, match="left out"):
        store.bring_in(settings(agents=None))


async def test_a_change_is_seen_at_once(store: PeeweeStore) -> None:
    await store.agent("1001")
    change = await begin(store, log_in("1002", "2"), NOW)
    assert isinstance(change, Change)
    store.bring_in(settings(agents=[agent("1001", name="Renamed"), agent("1002")]))
    state = await store.agent("1001")
    assert state is not None
    assert state.name == "Renamed"
    again = await begin(store, log_in("1001"), NOW)
    assert again.before == state


def test_ten_thousand_agents(url: str, opened: Opened) -> None:
    store = opened(url)
    agents = [agent(str(10_000 + n), "sales", "support") for n in range(10_000)]
    difference = store.bring_in(settings(agents=agents))
    assert len(difference.created) == 10_006
    assert len(difference.lines()) == 21
    assert difference.lines()[-1] == "created 9986 more"
    assert not store.bring_in(settings(agents=agents))
    store.bring_in(settings(agents=agents[5_000:]))


def test_a_difference_never_tells_a_pin(store: PeeweeStore) -> None:
    differences = [
        store.bring_in(settings(agents=[agent(pin=pin)])) for pin in ("987654", "456789")
    ]
    for difference in differences:
        assert isinstance(difference, Difference)
        assert "987654" not in repr(difference)
        assert "456789" not in repr(difference)
        assert "argon2" not in repr(difference)


# -- what other programs know of agents, queues and pauses


def named(number: str, **more: Any) -> dict[str, Any]:
    return agent(number, "sales", **more)


async def column(store: PeeweeStore, name: str, table: str = "agents") -> list[Any]:
    def job(connection: Connection) -> list[Any]:
        rows = connection.execute(f"SELECT {name} FROM {table} ORDER BY id").fetchall()
        return [row[0] for row in rows]

    return await store.run(job, writes=False)


async def test_logins_are_given_swapped_and_passed_on(url: str, opened: Opened) -> None:
    store = opened(url)
    store.bring_in(settings(agents=[named("1001", login="ann"), named("1002", login="ben")]))
    assert await column(store, "login") == ["ann", "ben"]
    store.bring_in(settings(agents=[named("1001", login="ben"), named("1002", login="ann")]))
    assert await column(store, "login") == ["ben", "ann"]
    store.bring_in(settings(agents=[named("1001"), named("1003", login="ann")]))
    assert await column(store, "login") == [None, None, "ann"]
    assert not store.bring_in(settings(agents=[named("1001"), named("1003", login="ann")]))


async def test_a_login_that_a_program_has_given_is_taken(store: PeeweeStore) -> None:
    await store.run(
        lambda connection: (
            connection.execute(
                "INSERT INTO agents (id, number, name, language, origin, login)"
                " VALUES (60, '9001', 'Made', 'en', 'api', 'ann')"
            ).rowcount
        )
    )
    before = await column(store, "name")
    with pytest.raises(DirectoryConflict, match="agent 1001: the login ann belongs to agent 9001"):
        store.bring_in(settings(agents=[named("1001", login="ann")]))
    assert await column(store, "name") == before


async def test_one_who_is_not_enabled_is_archived_and_comes_back(store: PeeweeStore) -> None:
    await done(store, log_in("1001"))
    one, other = named("1001"), named("1002")
    store.bring_in(settings(agents=[one, other]))
    difference = store.bring_in(settings(agents=[one | {"enabled": False}, other]))
    assert difference.changed == ["agent 1001: enabled True -> False"]
    assert (difference.to_log_off, difference.to_leave) == (["1001"], [])
    assert (await store.left_over())[0] == ["1001"]
    assert await store.agent("1001") is None
    assert await store.agent_by_id(1) is None
    with pytest.raises(NoSuchAgent):
        await begin(store, log_in("1001"), NOW)
    assert not store.bring_in(settings(agents=[one | {"enabled": False}, other]))
    await done(store, log_off("1001"))
    back = store.bring_in(settings(agents=[one | {"queues": ["sales", "support"]}, other]))
    assert "agent 1001: enabled False -> True, is back" in back.changed
    state = await store.agent("1001")
    assert state is not None
    assert [m.queue for m in state.memberships] == ["sales", "support"]


async def test_an_agent_may_be_new_and_not_enabled(url: str, opened: Opened) -> None:
    store = opened(url)
    difference = store.bring_in(settings(agents=[named("1001", enabled=False)]))
    assert "agent 1001" in difference.created
    assert await store.agent("1001") is None
    assert difference.to_log_off == []
    assert "is back" in store.bring_in(settings(agents=[named("1001")])).changed[0]
    state = await store.agent("1001")
    assert state is not None
    assert [m.queue for m in state.memberships] == ["sales"]


async def test_call_centre_queues_and_kinds_of_reasons(url: str, opened: Opened) -> None:
    store = opened(url)
    queues: list[dict[str, Any]] = [
        {"number": "701", "name": "sales", "call_center": False},
        {"number": "702", "name": "support"},
    ]
    reasons = [{"code": "1", "name": "lunch", "type": "break"}]
    store.bring_in(settings(1, queues=queues, pause_reasons=reasons))
    assert list(map(bool, await column(store, "call_center", "queues"))) == [False, True]
    assert await column(store, "type", "pause_reasons") == ["break"]
    queues[0]["call_center"] = True
    difference = store.bring_in(settings(1, queues=queues, pause_reasons=reasons))
    assert difference.lines() == ["changed queue sales: call_center False -> True"]


async def test_queue_pauses_are_what_stands_in_the_yaml(url: str, opened: Opened) -> None:
    store = opened(url)

    def with_pauses(*pauses: dict[str, Any], id: int = 1) -> Any:
        sales = {"id": id, "number": "701", "name": "sales", "pauses": list(pauses)}
        return settings(1, queues=[sales, {"number": "702", "name": "support"}])

    lunch = {"reason": "1", "limit_duration": "30m", "automatic_unpause": True}
    coffee = {"reason": "2", "disable_unpause": True}
    store.bring_in(with_pauses(lunch, coffee))
    assert await store.queue_pauses() == {
        ("sales", "1"): QueuePause(timedelta(minutes=30), True, False),
        ("sales", "2"): QueuePause(None, False, True),
    }
    assert not store.bring_in(with_pauses(lunch, coffee))

    def made(connection: Connection) -> None:
        connection.execute(
            "INSERT INTO queues (id, number, name, origin) VALUES (50, '750', 'made', 'api')"
        )
        connection.execute("INSERT INTO queue_pauses VALUES (50, '1', 60, TRUE, TRUE)")

    await store.run(made)  # none of the YAML's business
    difference = store.bring_in(with_pauses(coffee | {"limit_duration": "5m"}, id=9))
    assert difference.lines() == ["changed queue sales: other pauses"]
    assert await store.queue_pauses() == {
        ("sales", "2"): QueuePause(timedelta(minutes=5), False, True),
        ("made", "1"): QueuePause(timedelta(minutes=1), True, True),
    }
    store.bring_in(settings(queues=[{"number": "702", "name": "support"}], agents=[]))
    assert (await store.queue_pauses()).keys() == {("made", "1")}
