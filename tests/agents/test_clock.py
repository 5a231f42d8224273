"""The machine's clock is set, and it is noticed."""

from datetime import UTC, datetime, timedelta

import pytest

from fastagi.agents.clock import Clock, clock_words
from fastagi.agents.operations import restarted

NINE = datetime(2026, 11, 24, 9, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Machine:
    """A clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.wall = NINE.timestamp()
        self.steady = 1000.0
        self.clock = Clock(lambda: self.wall, lambda: self.steady)

    def goes(self, length: timedelta) -> datetime:
        self.wall += length.total_seconds()
        self.steady += length.total_seconds()
        return self.clock()

    def set(self, by: timedelta) -> datetime:
        self.wall += by.total_seconds()
        return self.clock()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_clock_that_is_left_alone(machine: Machine) -> None:
    assert machine.goes(HOUR) == NINE + HOUR
    assert machine.clock.steps == []


@pytest.mark.parametrize("by", [DAY, -DAY, timedelta(minutes=10), -timedelta(minutes=10)])
def test_it_is_set(machine: Machine, by: timedelta) -> None:
    machine.goes(HOUR)
    assert machine.set(by) == NINE + HOUR + by
    (step,) = machine.clock.steps
    assert (step.before, step.by) == (NINE + HOUR, by)
    machine.goes(HOUR)
    assert len(machine.clock.steps) == 1


def test_what_went_by_before_it_is_noticed_counts(machine: Machine) -> None:
    machine.steady += HOUR.total_seconds()
    machine.wall += (HOUR + DAY).total_seconds()
    machine.clock()
    (step,) = machine.clock.steps
    assert (step.before, step.by) == (NINE + HOUR, DAY)


def test_what_a_time_service_does_is_no_step(machine: Machine) -> None:
    for _ in range(100):
        machine.goes(HOUR)
        machine.set(timedelta(seconds=1.8))
    assert machine.clock.steps == []


@pytest.mark.parametrize("stops", [1, 2, 3, 100])
def test_a_process_that_is_stopped_while_it_reads_has_seen_no_step(stops: int) -> None:
    machine, left = Machine(), 0

    def wall() -> float:
        """Read, and then nothing runs for a minute."""
        nonlocal left
        now = machine.wall
        if left:
            left -= 1
            machine.wall += 60
            machine.steady += 60
        return now

    clock = Clock(wall, lambda: machine.steady)
    left = stops
    for _ in range(5):
        clock()
        machine.wall += 5
        machine.steady += 5
    assert clock.steps == []
    machine.wall += HOUR.total_seconds()
    clock()
    left = 0
    clock()
    assert [step.by for step in clock.steps] == [HOUR]


def test_the_machines_own_clocks() -> None:
    clock = Clock()
    first = clock()
    assert clock() >= first
    assert clock.steps == []


def test_in_words() -> None:
    assert clock_words(timedelta(seconds=-86405.2)) == "back by 1 day, 0:00:05"
    assert clock_words(timedelta(seconds=600)) == "forward by 0:10:00"


T, LATER = "2026-11-22 18:14:52", "2026-11-22 18:14:53"


@pytest.mark.parametrize(
    ("noted", "now", "is_one"),
    [
        (f"{T} life-11111111", f"{T} life-11111111", False),
        (f"{T} life-11111111", f"{LATER} life-22222222", True),
        (f"{T} life-11111111", f"{LATER} life-11111111", True),  # core restart: the same process
        (f"{T} life-11111111", f"{T} life-22222222", True),  # within the second
        (f"{T} life-11111111", T, False),  # the mark cannot be had any more
        (T, f"{T} life-11111111", False),
        (T, LATER, True),
        (f"{T} 1a2b3c4d", f"{T} life-11111111", False),  # noted by 0.3
        (f"{T} 1a2b3c4d", f"{LATER} life-11111111", True),
    ],
)
def test_whether_asterisk_was_restarted(noted: str, now: str, is_one: bool) -> None:
    assert restarted(noted, now) is is_one
