"""The machine's clock is set while agents are logged in and paused: they are as long as before."""

from datetime import timedelta

import pytest

from fastagi.agents.commands import Unpause
from fastagi.contract import Source
from fastagi.store import PeeweeStore

from .conftest import ACTOR, LATER, LUNCH, NOW, begin, done, log_in, log_off, pause

DAY = timedelta(days=1)


@pytest.mark.parametrize("by", [DAY, -DAY])
async def test_what_goes_on(store: PeeweeStore, by: timedelta) -> None:
    await done(store, log_in(id="in"))
    await store.confirm(await begin(store, pause(id="p"), LATER))
    # Somebody who was logged in before this service was started, or is not any more.
    await done(store, log_in("1002", "1002", id="other"))
    await done(store, log_in("1003", "1003", id="gone"))
    await done(store, log_off("1003"))
    await store.clock_was_set(LATER + timedelta(minutes=10), by, {"in", "p"})
    state = (await store.states(["1001"]))["1001"]
    assert state.session is not None
    assert state.pause is not None
    assert state.session.since == NOW + by
    assert state.pause.since == LATER + by
    (open_pause,) = await store.open_pauses()
    assert open_pause.since == LATER + by
    other = (await store.states(["1002"]))["1002"].session
    assert other is not None
    assert other.since == NOW + by
    # What it lasted is what went by: budgets and events count that.
    now = LATER + by + timedelta(minutes=30)
    back = Unpause(id="back", agent="1001", source=Source.PHONE, actor=ACTOR)
    await store.confirm(await begin(store, back, now))
    midnight = (NOW + by).replace(hour=0, minute=0)
    assert await store.paused_since("1001", LUNCH.code, midnight) == timedelta(minutes=30)
    change = await begin(store, log_off(id="off"), now)
    assert change.events[-1].session_seconds == 50 * 60


async def test_a_login_of_a_right_clock_is_not_moved(store: PeeweeStore) -> None:
    """Written before a restart of the machine, whose clock then was in the past until it was set
    right: it is no login of that clock."""
    await done(store, log_in(id="in"))
    await store.clock_was_set(NOW - 2 * DAY, 2 * DAY, ())
    state = (await store.states(["1001"]))["1001"]
    assert state.session is not None
    assert state.session.since == NOW
