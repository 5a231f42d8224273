"""A house for each file of this folder, and the sum of what its programs came to."""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis.strategies import SearchStrategy

from fastagi.demo.asterisk import Asterisk, clipped
from fastagi.demo.equipment import Equipment
from tests.truth.house import House
from tests.truth.program import Program, Step
from tests.truth.trial import Counted, Trial

# How many operations all tests of programs make together at least, and the first seed.
OPERATIONS = int(os.environ.get("TRUTH_OPERATIONS", "2000"))
SEED = int(os.environ.get("TRUTH_SEED", "1"))


@dataclass(frozen=True, slots=True)
class Share:
    """How many operations and faults of one test there are at least, in every 2,000 and 100."""

    operations: int
    faults: int


# One for each test of programs, by its name.
SHARES = {
    "test_codes_and_commands_in_trouble": Share(780, 38),
    "test_the_console_while_all_is_calm": Share(220, 8),
    "test_the_console_in_trouble": Share(470, 24),
    "test_codes_through_the_dialplan_in_trouble": Share(330, 18),
    "test_static_members_and_a_missing_queue_in_trouble": Share(200, 12),
}

Trials = Callable[..., Counted]
Story = Callable[..., Counted]


@pytest.fixture(scope="module")
def own_asterisk(
    equipment: Equipment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asterisk]:
    folder = tmp_path_factory.mktemp("truth")
    program = clipped(equipment.asterisk, folder / "clipped", seconds=0.02)
    with Asterisk(folder, program) as asterisk:
        yield asterisk


@pytest.fixture
def trials(
    own_asterisk: Asterisk,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> Trials:
    """``trials(strategy)`` runs programs until the test's share of operations and of faults have
    come about, and asserts that nothing was untrue; each batch of programs has its own seed."""
    share = SHARES[request.node.name]

    def run(strategy: SearchStrategy[Program], *, changes: dict[str, Any] | None = None) -> Counted:
        counted = Counted()
        house = House(tmp_path_factory.mktemp("house"), own_asterisk, changes=changes or {})
        with asyncio.Runner() as runner:
            runner.run(house.open())
            trial = Trial(house, counted)
            try:
                number = SEED
                while (
                    counted.operations < share.operations * OPERATIONS / 2000
                    or counted.faults < share.faults * OPERATIONS / 2000
                ):
                    _batch(strategy, number, lambda program: runner.run(trial(program)))
                    number += 1
            finally:
                record_property("truth", counted.sums())
                print(f"\n{counted.line()}\n{counted.details()}")
                runner.run(house.close())
        assert (counted.divergences, counted.doubles, counted.wrong_sources) == (0, 0, 0)
        return counted

    return run


@pytest.fixture
def story(own_asterisk: Asterisk, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """``story(step, step, …, changes={…})``: one program in a house of its own, judged."""

    def run(*program: Step, changes: dict[str, Any] | None = None) -> Counted:
        counted = Counted()
        house = House(tmp_path_factory.mktemp("house"), own_asterisk, changes=changes or {})
        with asyncio.Runner() as runner:
            runner.run(house.open())
            try:
                runner.run(Trial(house, counted)(program))
            finally:
                runner.run(house.close())
        return counted

    return run


def _batch(
    strategy: SearchStrategy[Program], number: int, judge: Callable[[Program], None]
) -> None:
    """Programs of one seed. With ``TRUTH_SHRINK`` set a failing one is shrunk, which takes up to
    five minutes; what races may not fail again, then Hypothesis shows the first failure, too."""
    phases = [Phase.generate]
    if os.environ.get("TRUTH_SHRINK"):
        phases.append(Phase.shrink)

    @seed(number)
    @hypothesis_settings(
        max_examples=5,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(strategy)
    def programs(program: Program) -> None:
        if program:
            judge(program)

    programs()
