"""The rules about how much others may take, each by itself."""

import asyncio

import pytest

from fastagi.api import limits
from fastagi.api.limits import Attempts, Output, Pace, Place, Places, Repeated, Turns
from tests.api.conftest import Logged

# -- wrong tokens


def test_addresses_that_count_as_one() -> None:
    attempts = Attempts(2, 60, 60)
    assert not attempts.failed("2001:db8:1:2::1", 0)
    assert attempts.failed("2001:db8:1:2:ffff::9", 0)
    assert attempts.suspect("2001:db8:1:2:3:4:5:6", 0) == 60
    assert attempts.suspect("2001:db8:1:3::1", 0) is None
    assert not attempts.failed("192.0.2.1", 0)
    assert attempts.failed("::ffff:192.0.2.1", 0)
    assert attempts.suspect("192.0.2.2", 0) is None


def test_only_so_many_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_SOURCES", 100)
    attempts = Attempts(2, 60, 60)
    for n in range(1000):
        attempts.failed(f"10.0.{n // 250}.{n % 250}", 0)
    assert len(attempts) == 100
    assert attempts.failed("10.0.3.249", 0)  # the latest ones
    for n in range(60):
        attempts.failed(f"10.9.9.{n}", 180)
    assert len(attempts) == 60  # what matters no more is forgotten


def test_what_was_right_is_familiar_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_FAMILIAR", 10)
    attempts = Attempts(2, 60, 60)
    assert not attempts.familiar("192.0.2.1", b"a")
    assert attempts.familiar("::ffff:192.0.2.1", b"a")
    assert not attempts.familiar("192.0.2.1", b"b")
    assert not attempts.familiar("192.0.2.2", b"a")
    for n in range(10):
        attempts.familiar(f"10.0.0.{n}", b"a")
    assert not attempts.familiar("192.0.2.1", b"a")


# -- rates


async def test_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("fastagi.api.limits.asyncio.sleep", sleep)
    now = [1000.0]
    pace = Pace(lambda: now[0])
    for _ in range(limits.BURST):
        assert await pace.wait("192.0.2.1")
    assert waited == []
    for n in range(1, 4):
        assert await pace.wait("192.0.2.1")
        assert waited[-1] == pytest.approx(n / limits.RATE)
    assert await pace.wait("192.0.2.2")
    assert len(waited) == 3
    # Many addresses have a rate of all together.
    for n in range(limits.BURST_OF_ALL):
        assert await pace.wait(f"10.0.{n // 250}.{n % 250}")
    assert len(waited) > 50
    now[0] += 60
    waited.clear()
    assert await pace.wait("192.0.2.1")
    assert waited == []


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(seconds: float) -> None:
        pass

    monkeypatch.setattr("fastagi.api.limits.asyncio.sleep", sleep)
    pace = Pace(lambda: 0.0)
    answers = [await pace.wait("192.0.2.1") for _ in range(2000)]
    most = limits.BURST + int(limits.RATE * limits.LONGEST_WAIT)
    assert answers.count(True) == pytest.approx(most, abs=2)
    assert await pace.wait("192.0.2.2")


async def test_this_machine_s_own_programs_do_not_wait_behind_strangers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("fastagi.api.limits.asyncio.sleep", sleep)
    pace = Pace(lambda: 0.0)
    for n in range(5000):
        await pace.wait(f"10.0.{n // 250}.{n % 250}")
    assert not await pace.wait("192.0.2.1")
    waited.clear()
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert await pace.wait(address)
    assert waited == []
    # They have a rate, too: one for all of them.
    answers = [await pace.wait(f"127.0.{n // 250}.{n % 250}") for n in range(2000)]
    most = limits.BURST + int(limits.RATE * limits.LONGEST_WAIT)
    assert answers.count(True) == pytest.approx(most, abs=5)


async def test_only_so_many_begin_in_a_turn_of_the_loop() -> None:
    turns = Turns()
    begun: list[int] = []
    turn = [0]

    async def request(n: int) -> None:
        await turns.turn()
        begun.append(turn[0])

    def count() -> None:
        turn[0] += 1
        if len(begun) < 100:
            asyncio.get_running_loop().call_soon(count)

    tasks = [asyncio.create_task(request(n)) for n in range(100)]
    count()
    await asyncio.gather(*tasks)
    counts = [begun.count(n) for n in set(begun)]
    assert max(counts) <= 2 * limits.AT_ONCE  # a turn's own, and what the one before let go
    assert len(counts) >= 100 // (2 * limits.AT_ONCE)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not turns._counting  # and an idle loop is idle


async def test_who_gives_up_takes_no_turn() -> None:
    turns = Turns()
    for _ in range(limits.AT_ONCE):
        await turns.turn()
    waiting = [asyncio.create_task(turns.turn()) for _ in range(3)]
    waiting[0].cancel()
    await asyncio.wait(waiting)
    assert [task.cancelled() for task in waiting] == [True, False, False]


# -- connections


def cut(places: Places, source: str, gone: list[str], **more: bool) -> Place | None:
    return places.take(source, lambda: gone.append(source), **more)


def test_the_oldest_stranger_makes_room() -> None:
    places = Places(most=10, of_source=4, of_client=5)
    gone: list[str] = []
    first = cut(places, "a", gone)
    for _ in range(3):
        cut(places, "a", gone)
    assert gone == []
    cut(places, "a", gone)
    assert gone == ["a"]
    assert first is not None
    assert first.gone
    assert len(places) == 4
    # Whoever has most of them loses one when there is no place at all.
    for source in ("b", "b", "b", "c", "c", "d"):
        cut(places, source, gone)
    assert (len(places), gone) == (10, ["a"])
    cut(places, "e", gone)
    assert (len(places), gone) == (10, ["a", "a"])
    places.leave(first)  # as the connection's end is told too
    assert len(places) == 10


def test_who_is_known_keeps_the_place() -> None:
    places = Places(most=4, of_source=2, of_client=3)
    gone: list[str] = []
    for _ in range(3):
        place = cut(places, "a", gone)
        assert place is not None
        assert places.identify(place, "crm", limited=True)
        assert places.identify(place, "crm", limited=True)
    place = cut(places, "a", gone)
    assert place is not None
    assert not places.identify(place, "crm", limited=True)
    assert places.identify(place, "board", limited=True)
    assert gone == []
    assert cut(places, "b", gone) is None
    places.leave(place)
    assert cut(places, "b", gone) is not None
    assert gone == []


def test_behind_a_proxy_are_many() -> None:
    places = Places(most=10, of_source=2, of_client=5)
    gone: list[str] = []
    for _ in range(8):
        cut(places, "proxy", gone, shared=True)
    assert (len(places), gone) == (8, [])


# -- memory


def test_the_same_bytes_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OUTPUT", 100)
    monkeypatch.setattr(limits, "OUTPUT_OF_CLIENT", 60)
    output = Output()
    same, other, third = b"x" * 50, b"y" * 50, b"z" * 50
    for _ in range(10):
        assert output.begin("a", same, 50)
    assert not output.begin("a", other, 50)
    assert output.begin("b", other, 50)
    assert not output.begin("c", third, 50)
    for _ in range(9):
        output.end("a", same, 50)
    assert not output.begin("c", third, 50)
    output.end("a", same, 50)
    assert output.begin("c", third, 50)
    output.end("b", other, 50)
    output.end("c", third, 50)
    # One alone may be larger than all together.
    assert output.begin("a", same, 5000)


# -- log lines


async def test_a_line_that_others_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_EVERY", 0.05)
    log = Logged()
    said = Repeated(log)
    for _ in range(1240):
        said("info", "agent.php", "192.0.2.8", address="192.0.2.8")
    said("info", "agent.php", "192.0.2.9", address="192.0.2.9")
    assert [values for *_, values in log.lines] == [
        {"address": "192.0.2.8"},
        {"address": "192.0.2.9"},
    ]
    while len(log.lines) < 3:  # noqa: ASYNC110 - a timer's doing
        await asyncio.sleep(0.01)
    assert log.lines[2] == ("info", "agent.php", {"address": "192.0.2.8", "more": 1239})
    while said._more:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    said("info", "agent.php", "192.0.2.8", address="192.0.2.8")
    assert log.lines[3:] == [("info", "agent.php", {"address": "192.0.2.8"})]


async def test_only_so_many_kinds_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_KINDS", 10)
    log = Logged()
    said = Repeated(log)
    for n in range(1000):
        said("warning", "too many", str(n), address=str(n))
    assert len(log.lines) == 11
