"""The directory as other programs see and change it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from argon2 import PasswordHasher

from fastagi.agents.commands import PauseReason, Unpause
from fastagi.agents.errors import NoSuchAgent
from fastagi.agents.limits import PauseLimit, QueuePause, WhenExceeded
from fastagi.agents.model import Membership
from fastagi.config.settings import CreatedAgentsSettings
from fastagi.contract import Source
from fastagi.store import DirectoryConflict, PeeweeStore, Reading, Records
from fastagi.store.connection import Connection
from fastagi.store.pins import matches

from .conftest import ACTOR, LATER, NOW, begin, done, log_in, log_off, pause, settings

SALES, SUPPORT, BILLING = 1, 2, 3

Make = Callable[..., Records]


def unpause(agent: str, id: str) -> Unpause:
    return Unpause(id=id, agent=agent, source=Source.API, actor=ACTOR)


@pytest.fixture(autouse=True)
def _cheap_passwords(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password's hash costs half a second of processor time by design."""
    if request.node.originalname != "test_a_new_agent":
        monkeypatch.setattr("fastagi.store.created._hasher", PasswordHasher(1, 8, 1))


@pytest.fixture
def make(url: str) -> Iterator[Make]:
    """Records over a store; keywords are ``http.created_agents``."""
    views: list[Reading] = []

    def made(store: PeeweeStore, **created: Any) -> Records:
        views.append(Reading(url))
        section = CreatedAgentsSettings.model_validate(created)
        return Records(store, views[-1], lambda: section, lambda: "fr")

    yield made
    for one in views:
        one.close()


@pytest.fixture
def records(store: PeeweeStore, make: Make) -> Records:
    store.bring_in(settings(queues=QUEUES))
    return make(store)


QUEUES = [
    {"id": SALES, "number": "701", "name": "sales"},
    {"id": SUPPORT, "number": "702", "name": "support"},
    {"id": BILLING, "number": "703", "name": "billing", "call_center": False},
]


async def stored(store: PeeweeStore, id: int) -> dict[str, Any]:
    """What stands in the table."""
    columns = ("number", "name", "language", "pin_hash", "origin", "login", "password_hash")

    def job(connection: Connection) -> dict[str, Any]:
        query = f"SELECT {', '.join(columns)} FROM agents WHERE id = ?"
        return dict(zip(columns, connection.execute(query, (id,)).fetchone(), strict=True))

    return await store.run(job, writes=False)


async def created(records: Records, login: str, *queues: int, **more: str) -> int:
    id = await records.create(
        more.get("name", "Zoë"), login, more.get("password", "a password"), queues
    )
    assert id is not None
    return id


# -- creating


async def test_a_new_agent(store: PeeweeStore, records: Records) -> None:
    id = await created(records, "agent.1", SALES, BILLING, SALES)
    row = await stored(store, id)
    assert (row["number"], row["login"], row["origin"]) == ("9001", "agent.1", "api")
    assert (row["name"], row["language"], row["pin_hash"]) == ("Zoë", "fr", None)
    assert "a password" not in str(row)
    assert PasswordHasher().verify(row["password_hash"], "a password")
    shown = records.agent(id)
    assert shown is not None
    assert (shown.id, shown.number, shown.name, shown.login) == (id, "9001", "Zoë", "agent.1")
    assert (shown.archived, shown.enabled, shown.queues) == (False, True, (SALES, BILLING))
    assert (shown.interface, shown.last_login, shown.last_pause) == ("", None, None)
    state = await store.agent("9001")
    assert state is not None
    assert state.memberships == (Membership("sales", "701"), Membership("billing", "703"))
    change = await done(store, log_in("9001", "1009"))
    assert change.after.session is not None
    assert not store.bring_in(settings(queues=QUEUES))  # what an API created stays
    assert await store.agent("9001") == change.after


async def test_many_who_are_created_at_once_leave_the_threads_to_others(
    store: PeeweeStore, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password's hash is slow by design: sixty of them at once must not keep the readers, who
    share the threads, waiting."""
    go_on, at_once = threading.Event(), []

    class Slow:
        def hash(self, password: str) -> str:
            at_once.append(password)
            assert go_on.wait(30)
            return "$argon2id$"

    monkeypatch.setattr("fastagi.store.created._hasher", Slow())
    creating = [
        asyncio.create_task(records.create(f"Agent {n}", f"agent.{n}", "secret", []))
        for n in range(60)
    ]
    try:
        async with asyncio.timeout(20):
            (agents, total) = await asyncio.to_thread(records.agents, 0, 50)
        assert (len(agents), total, len(at_once)) == (3, 3, 1)
    finally:
        go_on.set()
    ids = await asyncio.gather(*creating)
    assert None not in ids
    assert len(set(ids)) == 60


async def test_numbers(store: PeeweeStore, make: Make) -> None:
    """The login where that is one, else the next free one; with leading zeros as it is long."""
    store.bring_in(settings(agents=[{"number": "0098", "name": "Taken"}]))
    records = make(store, first_number="0098")
    ids = [await created(records, login) for login in ("a", "0100", "b", "c", "555", "d")]
    numbers = [(await stored(store, id))["number"] for id in ids]
    assert numbers == ["0099", "0100", "0101", "0102", "555", "0103"]


async def test_a_login_that_is_taken(store: PeeweeStore, records: Records) -> None:
    """By another's login or number, of the living and of the archived."""
    store.bring_in(
        settings(
            queues=QUEUES,
            agents=[
                {"number": "1001", "name": "Anna", "login": "anna"},
                {"number": "1002", "name": "Gone"},
            ],
        )
    )
    store.bring_in(
        settings(queues=QUEUES, agents=[{"number": "1001", "name": "Anna", "login": "anna"}])
    )
    await created(records, "agent.1")
    _, total = records.agents(0, 1)
    for login in ("anna", "1001", "1002", "1003", "agent.1", "9001"):
        assert await records.create("Zoë", login, "a password", ()) is None, login
    assert await created(records, "Anna")  # letter case tells them apart, as in the YAML
    assert records.agents(0, 1)[1] == total + 1


async def test_a_queue_that_there_is_not(store: PeeweeStore, records: Records) -> None:
    _, total = records.agents(0, 1)
    with pytest.raises(KeyError) as refused:
        await records.create("Zoë", "agent.1", "a password", (SALES, 99))
    assert refused.value.args == (99,)
    without_billing = [queue for queue in QUEUES if queue["id"] != BILLING]
    store.bring_in(settings(queues=without_billing))
    with pytest.raises(KeyError):  # one that is archived
        await records.create("Zoë", "agent.1", "a password", (BILLING,))
    assert records.agents(0, 1)[1] == total
    assert await store.agent("9001") is None
    assert await created(records, "agent.1", SALES)  # nothing was left of it


async def test_a_password_is_a_pin_where_it_is_so_configured(
    store: PeeweeStore, make: Make
) -> None:
    records = make(store, password_is_pin=True)
    pin = await created(records, "a", password="2468")
    row = await stored(store, pin)
    assert await asyncio.to_thread(matches, row["pin_hash"], "2468")
    assert not await asyncio.to_thread(matches, row["pin_hash"], "a")
    for n, password in enumerate(("agent_pass", "12", "1" * 13, "12３4", "12 34")):
        id = await created(records, f"b{n}", password=password)
        assert (await stored(store, id))["pin_hash"] is None
        assert await records.change(id, name=None, password="another")
        assert (await stored(store, id))["pin_hash"] is None
    # Changed, it is the new PIN; and one that can be no PIN leaves none that fits.
    assert await records.change(pin, name=None, password="1357")
    row = await stored(store, pin)
    assert await asyncio.to_thread(matches, row["pin_hash"], "1357")
    assert await records.change(pin, name=None, password="agent_pass")
    row = await stored(store, pin)
    assert row["pin_hash"] is not None
    assert not await asyncio.to_thread(matches, row["pin_hash"], "1357")


@pytest.mark.parametrize("login", ["agent.1", "7007"])
async def test_two_services_create_one_login(
    postgres_url: str, opened: Callable[..., PeeweeStore], login: str
) -> None:
    """One of them wins; both know the agent then, and no number is given twice."""
    stores = [opened(postgres_url), opened(postgres_url)]
    stores[0].bring_in(settings(queues=QUEUES))
    views = Reading(postgres_url)
    section = CreatedAgentsSettings()
    doors = [Records(store, views, lambda: section, lambda: "en") for store in stores]
    before = views.agents()
    for store in stores:
        assert await store.agent("9001") is None  # asked for, and known not to be there

    async def one(n: int) -> int | None:
        return await doors[n % 2].create("Zoë", login, f"password {n}", (SALES,))

    won = [id for id in await asyncio.gather(*map(one, range(10))) if id is not None]
    assert len(won) == 1
    number = login if login.isdigit() else "9001"
    for store, door in zip(stores, doors, strict=True):
        state = await store.agent(number)
        assert state is not None
        assert state.id == won[0]
        assert await door.number_of(login) == number
    others = [doors[n % 2].create("Yan", f"other.{n}", "a password", ()) for n in range(10)]
    ids = await asyncio.gather(*others)
    numbers = {(await stored(stores[0], id))["number"] for id in ids if id is not None}
    assert len(numbers) == 10
    assert len(views.agents()) == len(before) + 11
    views.close()


async def test_one_is_created_while_the_yaml_is_brought_in(store: PeeweeStore, make: Make) -> None:
    """It names the same login: whoever comes first has it, and nothing is there twice."""
    records = make(store)
    agents = [{"number": "4001", "name": "Anna", "login": "anna"}]

    def brought_in() -> str:
        try:
            store.bring_in(settings(agents=agents))
        except DirectoryConflict as conflict:
            return str(conflict)
        return ""

    id, conflict = await asyncio.gather(
        records.create("Zoë", "anna", "a password", ()), asyncio.to_thread(brought_in)
    )
    assert (id is None) == (conflict == "")
    found, _ = records.agents(0, 50)
    assert [agent.login for agent in found].count("anna") == 1


# -- changing


async def test_a_change(store: PeeweeStore, records: Records) -> None:
    id = await created(records, "agent.1")
    before = await stored(store, id)
    await done(store, log_in("9001", "1009"))
    assert await records.change(id, name="Zoë's other name", password=None)
    assert await stored(store, id) == before | {"name": "Zoë's other name"}
    assert await records.change(id, name=None, password="another")
    after = await stored(store, id)
    assert PasswordHasher().verify(after["password_hash"], "another")
    assert after | {"password_hash": ""} == before | {
        "name": "Zoë's other name",
        "password_hash": "",
    }
    assert await records.change(id, name=None, password=None)
    state = await store.agent("9001")
    assert state is not None
    assert state.session is not None  # nobody is thrown out
    assert not await records.change(99999, name="x", password=None)
    store.bring_in(settings(0, queues=QUEUES))
    gone = records.agents(0, 1)[0][0]
    assert gone.archived
    assert not await records.change(gone.id, name="x", password="y")
    assert (await stored(store, gone.id))["name"] != "x"


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE agents; --", '" OR 1=1', "é%s?\\", "${x}", "a\nb", "\x7f"]
)
async def test_any_text_is_data(store: PeeweeStore, records: Records, text: str) -> None:
    _, total = records.agents(0, 1)
    assert await records.number_of(text) is None
    id = await created(records, text, name=text, password=text)
    shown = records.agent(id)
    assert shown is not None
    assert (shown.name, shown.login) == (text, text)
    assert await records.number_of(text) == "9001"
    assert await records.create("x", text, "y", ()) is None
    assert records.agents(0, 1)[1] == total + 1


# -- who is meant


async def test_whose_login_it_is(store: PeeweeStore, records: Records) -> None:
    agents = [
        {"number": "1001", "name": "Anna", "login": "1002"},  # somebody else's number
        {"number": "1002", "name": "Bert", "login": "bert"},
        {"number": "1003", "name": "Carol"},
    ]
    store.bring_in(settings(queues=QUEUES, agents=agents))
    await created(records, "agent.1")
    found = {
        login: await records.number_of(login)
        for login in ("1001", "1002", "bert", "1003", "agent.1", "9001", "nobody", "Bert", "")
    }
    assert found == {
        "1001": "1001",
        "1002": "1001",  # a login name goes first
        "bert": "1002",
        "1003": "1003",
        "agent.1": "9001",
        "9001": "9001",
        "nobody": None,
        "Bert": None,
        "": None,
    }
    store.bring_in(settings(queues=QUEUES, agents=agents[1:]))
    assert await records.number_of("1001") is None  # archived
    assert await records.number_of("1002") == "1002"


# -- what is shown


async def test_pages(store: PeeweeStore, records: Records) -> None:
    ids = [agent.id for agent in records.agents(0, 50)[0]]
    ids += [await created(records, f"agent.{n}", SALES) for n in range(4)]
    assert ids == sorted(ids)
    pages = [records.agents(offset, 3) for offset in (0, 3, 6, 9)]
    assert [[agent.id for agent in found] for found, _ in pages] == [ids[:3], ids[3:6], ids[6:], []]
    assert {total for _, total in pages} == {7}
    assert records.agent(ids[-1]) == records.agents(6, 3)[0][0]
    assert records.agent(99999) is None
    assert [agent.queues for agent in pages[1][0]] == [(SALES,)] * 3


async def test_the_latest_of_everything(store: PeeweeStore, records: Records) -> None:
    def shown() -> Any:
        found = next(agent for agent in records.agents(0, 50)[0] if agent.number == "1001")
        assert records.agent(found.id) == found
        return found

    minutes = [NOW + timedelta(minutes=n) for n in range(12)]
    assert (shown().last_login, shown().last_pause, shown().current_pause) == (None, None, None)
    await done(store, log_in("1001", id="l1"), minutes[0])
    first = shown()
    assert first.interface == "PJSIP/1001"
    assert (first.last_login.id, first.last_login.subject) == ("l1", "PJSIP/1001")
    assert (first.last_login.since, first.last_login.ended_at) == (minutes[0], None)
    await done(store, pause("1001", id="p1"), minutes[1])
    second = shown()
    assert second.last_pause is None
    assert (second.current_pause.id, second.current_pause.subject) == ("p1", "1")
    assert (second.current_pause.name, second.current_pause.since) == ("lunch", minutes[1])
    # Another reason ends the first one.
    await done(store, pause("1001", PauseReason("2", "coffee"), id="p2"), minutes[2])
    third = shown()
    assert (third.last_pause.id, third.last_pause.ended_at) == ("p1", minutes[2])
    assert third.current_pause.id == "p2"
    await done(store, unpause("1001", "u"), minutes[3])
    fourth = shown()
    assert fourth.current_pause is None
    assert (fourth.last_pause.id, fourth.last_pause.ended_at) == ("p2", minutes[3])
    # A log-off ends a pause too; a new login is the latest one.
    await done(store, pause("1001", id="p3"), minutes[4])
    await done(store, log_off("1001", id="o"), minutes[5])
    fifth = shown()
    assert (fifth.interface, fifth.current_pause) == ("", None)
    assert (fifth.last_pause.id, fifth.last_login.ended_at) == ("p3", minutes[5])
    await done(store, log_in("1001", "2002", id="l2"), LATER)
    sixth = shown()
    assert (sixth.last_login.id, sixth.interface) == ("l2", "PJSIP/2002")
    assert sixth.last_pause == fifth.last_pause
    # Nobody else's.
    other = next(agent for agent in records.agents(0, 50)[0] if agent.number == "1002")
    assert (other.last_login, other.last_pause) == (None, None)


async def test_archived_and_not_enabled(store: PeeweeStore, records: Records) -> None:
    def flags() -> dict[str, tuple[bool, bool]]:
        found, _ = records.agents(0, 50)
        return {agent.number: (agent.archived, agent.enabled) for agent in found}

    def anna(**more: Any) -> dict[str, Any]:
        return {"number": "1001", "name": "Anna", "queues": ["sales"], **more}

    bert = {"number": "1002", "name": "Bert", "queues": ["sales"]}
    store.bring_in(settings(queues=QUEUES, agents=[anna(), bert]))
    there, gone, off = (False, True), (True, False), (False, False)
    assert flags() == {"1001": there, "1002": there, "1003": gone}
    await done(store, log_in("1001"))
    await done(store, log_in("1002", "1002"))

    difference = store.bring_in(settings(queues=QUEUES, agents=[anna(enabled=False), bert]))
    assert difference.to_log_off == ["1001"]
    assert difference.lines() == ["changed agent 1001: enabled True -> False"]
    assert flags() == {"1001": off, "1002": there, "1003": gone}
    assert await store.agent("1001") is None
    assert await records.number_of("1001") is None
    with pytest.raises(NoSuchAgent):
        await begin(store, log_in("1001"), LATER)
    await done(store, log_off("1001"))  # out they come
    assert not store.bring_in(
        settings(queues=QUEUES, agents=[anna(enabled=False), bert])
    ).to_log_off
    # As they were, when they are back.
    back = store.bring_in(settings(queues=QUEUES, agents=[anna(), bert]))
    assert back.lines() == ["changed agent 1001: enabled False -> True, is back"]
    assert flags()["1001"] == there
    state = await store.agent("1001")
    assert state is not None
    assert [m.queue for m in state.memberships] == ["sales"]
    # One who never was enabled, and one who is not and then is gone.
    carol = {"number": "1004", "name": "Carol", "queues": ["sales"], "enabled": False}
    store.bring_in(settings(queues=QUEUES, agents=[anna(), bert, carol]))
    assert flags()["1004"] == off
    assert await store.agent("1004") is None
    store.bring_in(settings(queues=QUEUES, agents=[anna(), bert]))
    assert flags()["1004"] == gone
    # What an API created is the YAML's business as soon as that names it.
    id = await created(records, "agent.1")
    assert flags()["9001"] == there
    with pytest.raises(DirectoryConflict, match="agent 9001: the number belongs to 'Zoë'"):
        store.bring_in(settings(queues=QUEUES, agents=[{"number": "9001", "name": "Anna"}]))
    assert flags()["9001"] == there
    store.bring_in(settings(queues=QUEUES, agents=[{"number": "9001", "name": "Zoë"}]))
    shown = records.agent(id)
    assert shown is not None
    assert (shown.name, shown.archived) == ("Zoë", False)
    store.bring_in(settings(queues=QUEUES, agents=[]))
    assert flags() == dict.fromkeys(["1001", "1002", "1003", "1004", "9001"], gone)


async def test_reasons_and_queues(store: PeeweeStore, make: Make) -> None:
    limits = {"reason": "1", "limit_duration": "5m", "automatic_unpause": True}
    queues = [QUEUES[0] | {"pauses": [limits]}, *QUEUES[1:]]
    reasons = [
        {"code": "1", "name": "lunch", "max_duration": "45m", "when_exceeded": "unpause"},
        {"code": "2", "name": "rest", "description": "NR17", "type": "nr17", "productive": True},
    ]
    store.bring_in(settings(queues=queues, pause_reasons=reasons))
    store.bring_in(settings(queues=queues[:2], pause_reasons=reasons))
    records = make(store)
    found = {reason.code: reason for reason in records.reasons()}
    assert [reason.id for reason in found.values()] == sorted(r.id for r in found.values())
    lunch, rest = found["1"], found["2"]
    assert lunch.limit == PauseLimit(timedelta(minutes=45), None, WhenExceeded.UNPAUSE)
    assert (lunch.type, lunch.productive, lunch.archived) == ("", False, False)
    assert (rest.description, rest.type, rest.productive) == ("NR17", "nr17", True)
    assert rest.limit is None
    assert found["10"].archived  # of the small call centre
    assert records.call_center_queues() == {"sales": True, "support": True}
    store.bring_in(settings(queues=queues, pause_reasons=reasons))
    assert records.call_center_queues() == {"sales": True, "support": True, "billing": False}
    said = QueuePause(timedelta(minutes=5), automatic_unpause=True)
    assert await store.queue_pauses() == {("sales", "1"): said}
    changed = [replace_pause(queues[0], disable_unpause=True), *queues[1:]]
    assert store.bring_in(settings(queues=changed, pause_reasons=reasons)).lines() == [
        "changed queue sales: other pauses"
    ]
    assert await store.queue_pauses() == {("sales", "1"): replace(said, disable_unpause=True)}


async def test_many_creations_keep_nobody_else_waiting(
    store: PeeweeStore, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash takes a processor for a tenth of a second: those who read do it in other threads."""
    free = threading.Event()

    class Slow:
        def hash(self, password: str) -> str:
            free.wait(30)
            return "hash"

    monkeypatch.setattr("fastagi.store.created._hasher", Slow())
    creating = [asyncio.create_task(created(records, f"9{n:03}", SALES)) for n in range(60)]
    await asyncio.sleep(0)
    assert len(await asyncio.to_thread(records.agents, 0, 10)) == 2
    assert not any(task.done() for task in creating)
    free.set()
    assert len(set(await asyncio.gather(*creating))) == 60


def replace_pause(queue: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return queue | {"pauses": [queue["pauses"][0] | changes]}
