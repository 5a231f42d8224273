"""What really went by while the machine's clock was set."""

from datetime import UTC, datetime, timedelta

import pytest

from fastagi.agents.clock import Clock, said
from fastagi.agents.operations import restarted

NINE = datetime(2026, 11, 24, 9, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Machine:
    """A clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.wall = NINE.timestamp()
        self.steady = 1000.0
        self.clock = Clock(lambda: self.wall, lambda: self.steady)
        self.heard: list[float] = []
        self.clock.stepped.append(self.heard.append)

    def goes(self, length: timedelta) -> datetime:
        self.wall += length.total_seconds()
        self.steady += length.total_seconds()
        return self.clock.now()

    def set(self, by: timedelta) -> datetime:
        self.wall += by.total_seconds()
        return self.clock.now()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_clock_that_is_left_alone(machine: Machine) -> None:
    began = machine.clock.now()
    now = machine.goes(HOUR)
    assert now - machine.clock.current(began) == HOUR
    assert machine.clock.current(began) is began
    assert machine.heard == []


@pytest.mark.parametrize("by", [DAY, -DAY, timedelta(minutes=10), -timedelta(minutes=10)])
def test_set_while_something_lasts(machine: Machine, by: timedelta) -> None:
    began = machine.clock.now()
    machine.goes(HOUR)
    machine.set(by)
    now = machine.goes(HOUR)
    assert machine.heard == [by.total_seconds()]
    assert now - machine.clock.current(began) == 2 * HOUR
    assert now == NINE + 2 * HOUR + by
    # What begins after it lasts as long as it lasts.
    began = now
    assert machine.goes(HOUR) - machine.clock.current(began) == HOUR


def test_set_and_set_right_again(machine: Machine) -> None:
    began = machine.clock.now()
    machine.goes(HOUR)
    machine.set(DAY)
    meanwhile = machine.goes(HOUR)
    machine.set(-DAY)
    now = machine.goes(HOUR)
    assert now - machine.clock.current(meanwhile) == HOUR
    assert now - machine.clock.current(began) == 3 * HOUR


def test_a_time_of_before_the_process(machine: Machine) -> None:
    """A login of an hour before the service was started: the clock was slow then, too."""
    began = NINE - HOUR
    machine.goes(HOUR)
    machine.set(DAY)
    assert machine.clock.now() - machine.clock.current(began) == 2 * HOUR


def test_after_a_step_back_what_is_not_to_come_is_of_now(machine: Machine) -> None:
    machine.goes(HOUR)
    machine.set(-timedelta(minutes=10))
    began = machine.clock.now()
    now = machine.goes(timedelta(minutes=5))
    assert now - machine.clock.current(began) == timedelta(minutes=5)


def test_what_a_time_service_does_is_no_step(machine: Machine) -> None:
    for _ in range(100):
        machine.goes(HOUR)
        machine.set(timedelta(seconds=1.8))
    assert machine.heard == []
    assert machine.clock.steps == ()


def test_sleep_is_no_step() -> None:
    """The real clocks, in a moment: nothing is noticed."""
    clock = Clock()
    first = clock.now()
    assert clock.now() >= first
    assert clock.steps == ()


def test_in_words() -> None:
    assert said(-86405.2) == "1 day, 0:00:05"
    assert said(600) == "0:10:00"


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
