"""PINs: hashed, compared, never slow for others."""

import asyncio
import time

import pytest
from argon2 import PasswordHasher
from structlog.testing import capture_logs

from fastagi.store import pins


async def test_right_and_wrong() -> None:
    door = pins.Pins()
    (hash,) = pins.hashed([("1001", "4321")], {}).values()
    assert "4321" not in hash
    assert await door.verify(hash, "4321")
    assert not await door.verify(hash, "4320")
    assert not await door.verify(hash, "")
    door.close()


def test_an_unchanged_pin_keeps_its_hash() -> None:
    first = pins.hashed([("a", "1111"), ("b", "2222")], {})
    second = pins.hashed([("a", "1111"), ("b", "3333"), ("c", "1111")], first)
    assert second["a"] == first["a"]
    assert second["b"] != first["b"]
    assert second["c"] != first["a"]  # salted: the same PIN does not show


async def test_an_admins_own_hash_counts_whatever_it_costs() -> None:
    door = pins.Pins()
    own = PasswordHasher(time_cost=2, memory_cost=1024).hash("777")
    assert await door.verify(own, "777")
    door.close()


@pytest.mark.parametrize("hash", ["", "$argon2id$broken", "4321"])
async def test_a_hash_that_cannot_be_read_lets_nobody_in(hash: str) -> None:
    door = pins.Pins()
    with capture_logs() as logs:
        assert not await door.verify(hash, "4321")
    assert "4321" not in repr(logs)
    assert logs[0]["log_level"] == "error"
    door.close()


async def test_the_loop_runs_on_while_pins_are_compared() -> None:
    door = pins.Pins()
    (hash,) = pins.hashed([("1001", "4321")], {}).values()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(turn())
    began = time.monotonic()
    assert all(await asyncio.gather(*(door.verify(hash, "4321") for _ in range(20))))
    task.cancel()
    assert turns > 20, f"{turns} turns in {time.monotonic() - began:.3f} s"
    door.close()
