"""What time does, on a store and an Asterisk that can be broken; the clock is the test's."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from fastagi.agents import errors
from fastagi.agents.clock import Clock as RealClock
from fastagi.agents.commands import LogOff, PauseReason, WhenInCall
from fastagi.agents.events import Event
from fastagi.agents.limits import PauseLimit, QueuePause, TimePolicy, WhenExceeded
from fastagi.agents.notes import Note
from fastagi.agents.operations import Answer, PauseMember, RemoveMember
from fastagi.agents.timers import Timers
from fastagi.contract import EventType, Outcome, Script, Source

from .memory import BREAK, LUNCH, NOON, Hall, Killed, an_agent, apply

LOGIN, LOGOUT = EventType.LOGIN, EventType.LOGOUT
PAUSE, UNPAUSE, EXCEEDED = EventType.PAUSE, EventType.UNPAUSE, EventType.PAUSE_EXCEEDED
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
WARN, BACK, OFF = WhenExceeded.WARN, WhenExceeded.UNPAUSE, WhenExceeded.LOGOFF
AWAY = [(LOGIN, ""), (PAUSE, "device-lost")]


class House(Hall):
    """A hall with a clock on the wall."""

    policy = TimePolicy(UTC)

    def start(self) -> None:
        super().start()
        self.timers = self.another()

    def another(self) -> Timers:
        """One more, as a second service has it."""
        return Timers(
            self.service,
            lambda: self.policy,
            structlog.get_logger(),
            self.clock,
        )

    async def after(self, **time: float) -> list[tuple[EventType, str]]:
        """Lets so much time pass, looks at the clock, and says what has happened so far."""
        self.clock.pass_(**time)
        await self.timers.look()
        return self.told

    def phone(self, away: bool, extension: str = "1001") -> None:
        """It is unplugged or plugged in, and Asterisk tells of it."""
        key = f"pjsip/{extension}"
        (self.asterisk.unreachable.add if away else self.asterisk.unreachable.discard)(key)
        self.timers.reachable(
            [
                self.asterisk._reported(queue, members[key])
                for queue, members in self.asterisk.queues.items()
                if key in members
            ]
        )

    @property
    def last(self) -> Event:
        return self.events[-1]

    def allow(
        self,
        exceeded: WhenExceeded,
        duration: timedelta | None = None,
        budget: timedelta | None = None,
    ) -> None:
        """What lunch may last."""
        self.store.known_limits[LUNCH.code] = PauseLimit(duration, budget, exceeded)


@pytest.fixture
def house() -> House:
    made = House(an_agent("1001"), an_agent("1002"))
    made.policy = TimePolicy(UTC, timedelta(seconds=30), timedelta(seconds=600))
    return made


def by_the_system(event: Event, who: str) -> None:
    assert event.source is Source.SYSTEM
    assert event.actor.as_dict() == {"name": who}


# -- pause limits


async def test_a_pause_ends_when_its_time_is_up(house: House) -> None:
    house.allow(BACK, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    assert len(await house.after(minutes=44, seconds=59)) == 2
    assert await house.after(seconds=1) == [(LOGIN, ""), (PAUSE, "lunch"), (UNPAUSE, "lunch")]
    by_the_system(house.last, "pause limit")
    assert house.last.occurred_at == NOON + 45 * MINUTE
    await house.after(hours=3)
    assert len(house.events) == 3
    house.all_well()


async def test_only_what_is_too_long_is_ended(house: House) -> None:
    house.allow(BACK, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    house.clock.pass_(minutes=40)
    await house.do(house.pause(BREAK))
    assert len(await house.after(hours=3)) == 3, "a break may last"
    await house.do(house.pause())
    assert len(await house.after(minutes=44)) == 4, "lunch began anew"
    await house.do(house.log_in("1002", "1002"), house.pause(agent="1002"))
    told = await house.after(minutes=1)
    assert told[-1] == (UNPAUSE, "lunch")
    assert house.last.agent == "1001"
    assert house.store.agents["1002"].pause is not None


async def test_a_pause_that_is_too_long_is_told_once(house: House) -> None:
    house.allow(WARN, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    told = await house.after(minutes=45)
    assert told[2:] == [(EXCEEDED, "lunch")]
    by_the_system(house.last, "pause limit")
    assert (house.last.extension, house.last.queues) == ("1001", ("sales", "support", "billing"))
    await house.another().look()
    house.start()
    assert len(await house.after(hours=1)) == 3
    assert house.state.pause is not None
    # The next lunch has a warning of its own.
    await house.do(house.unpause(), house.pause())
    assert (await house.after(minutes=45))[-1] == (EXCEEDED, "lunch")
    assert len({event.id for event in house.events}) == 6


async def test_a_pause_that_is_too_long_logs_off(house: House) -> None:
    house.allow(OFF, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    assert (await house.after(minutes=45))[2:] == [(LOGOUT, "pause limit")]
    by_the_system(house.last, "pause limit")
    house.all_well()


@pytest.mark.parametrize("exceeded", [WARN, BACK, OFF])
async def test_a_pause_that_ended_in_time_at_the_phone_is_not_too_long(
    house: House, exceeded: WhenExceeded
) -> None:
    """While no service was there, and its note is read later than the time."""
    house.allow(exceeded, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    house.clock.pass_(minutes=10)
    house.asterisk.left.append(Note(house.clock.now, Script.UNPAUSE, "PJSIP/1001", unique_id="1.7"))
    assert apply(house.asterisk.queues, PauseMember("PJSIP/1001", False))[0] is Answer.DONE
    house.start()
    assert len(await house.after(hours=1)) == 2
    await house.settle()
    assert house.told[2:] == [(UNPAUSE, "lunch")]
    assert house.last.source is Source.PHONE
    assert len(await house.after(hours=1)) == 3
    house.all_well()


async def test_nobody_is_logged_off_in_a_call(house: House) -> None:
    house.allow(OFF, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    house.asterisk.calls.add("pjsip/1001")
    await house.after(minutes=45)
    planned = house.state.planned
    assert isinstance(planned, LogOff)
    await house.after(minutes=5)
    assert house.state.planned == planned, "planned once"
    assert len(house.events) == 2
    house.asterisk.calls.clear()
    await house.settle()
    assert house.told[2:] == [(LOGOUT, "pause limit")]
    by_the_system(house.last, "pause limit")
    house.all_well()


async def test_it_is_known_when_to_look_again(house: House) -> None:
    house.allow(BACK, 45 * MINUTE)
    assert await house.timers.look() == NOON + timedelta(seconds=5)
    await house.do(house.log_in(), house.pause())
    house.clock.pass_(minutes=44, seconds=57.5)
    assert await house.timers.look() == NOON + 45 * MINUTE


async def test_a_day_s_budget(house: House) -> None:
    house.allow(BACK, budget=HOUR)
    await house.do(house.log_in(), house.pause())
    house.clock.pass_(minutes=40)
    await house.do(house.unpause())
    house.clock.pass_(hours=2)
    await house.do(house.pause())
    assert len(await house.after(minutes=19, seconds=59)) == 4
    assert (await house.after(seconds=1))[4:] == [(UNPAUSE, "lunch")]
    # Nothing is left of it today, of other reasons all.
    with pytest.raises(errors.PauseSpent):
        await house.do(house.pause())
    await house.do(house.pause(BREAK), house.unpause())
    house.clock.now = NOON.replace(hour=0) + timedelta(days=1)
    await house.do(house.pause())
    assert len(await house.after(minutes=59)) == 8
    assert (await house.after(minutes=1))[8:] == [(UNPAUSE, "lunch")]
    house.all_well()


async def test_a_pause_over_midnight_has_the_new_day_s_budget(house: House) -> None:
    house.policy = TimePolicy(timezone(timedelta(hours=2)))
    house.allow(BACK, budget=HOUR)
    house.clock.now = datetime(2026, 11, 22, 21, 30, tzinfo=UTC)  # half past eleven there
    await house.do(house.log_in(), house.pause())
    assert len(await house.after(minutes=29)) == 2
    assert len(await house.after(minutes=60)) == 2, "only an hour less a minute of the new day"
    assert (await house.after(minutes=1))[2:] == [(UNPAUSE, "lunch")]


async def test_a_spent_budget_that_is_only_warned_of(house: House) -> None:
    house.allow(WARN, budget=HOUR)
    await house.do(house.log_in(), house.pause())
    assert (await house.after(hours=1))[2:] == [(EXCEEDED, "lunch")]
    await house.do(house.unpause(), house.pause())
    assert (await house.after())[-1] == (EXCEEDED, "lunch"), "at once"


async def test_limits_hold_over_a_restart(house: House) -> None:
    house.allow(BACK, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    house.clock.pass_(minutes=30)
    house.start()
    assert len(await house.after(minutes=14)) == 2
    house.start()
    assert len(await house.after(minutes=1)) == 3
    # It was away when the time was up.
    await house.do(house.pause())
    house.clock.pass_(hours=5)
    house.start()
    assert (await house.after())[-1] == (UNPAUSE, "lunch")
    house.all_well()


async def test_a_code_that_is_given_to_another_reason_takes_its_limit_along(house: House) -> None:
    """By a reload, while somebody is paused: the pause is for what was dialled then."""
    house.allow(BACK, 45 * MINUTE)
    house.store.known_queue_pauses["sales", LUNCH.code] = QueuePause(40 * MINUTE, True)
    await house.do(house.log_in(), house.pause())
    await house.after(minutes=10)
    house.store.known_reasons = (PauseReason("1", "training"), BREAK)
    house.store.known_limits["1"] = PauseLimit(SECOND, None, WhenExceeded.LOGOFF)
    house.store.known_queue_pauses["sales", "1"] = QueuePause(SECOND, True)
    assert len(await house.after(minutes=29)) == 2
    assert (await house.after(minutes=1))[2:] == [(UNPAUSE, "lunch")]
    house.all_well()


async def test_a_reason_that_has_another_code_now_has_its_limit_there(house: House) -> None:
    """And a limit that is changed holds for the pauses that go on."""
    house.allow(BACK, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    house.allow(BACK, 50 * MINUTE)
    await house.after(minutes=46)
    house.store.known_reasons = (PauseReason("1", "training"), PauseReason("5", "Lunch"))
    house.store.known_limits["1"] = PauseLimit(SECOND, None, WhenExceeded.LOGOFF)
    house.store.known_limits["5"] = PauseLimit(HOUR, None, WhenExceeded.UNPAUSE)
    house.start()
    assert len(await house.after(minutes=13)) == 2
    assert (await house.after(minutes=1))[2:] == [(UNPAUSE, "lunch")]


async def test_a_pause_is_not_locked_for_what_a_queue_says_of_another_reason(house: House) -> None:
    house.store.known_queue_pauses["sales", LUNCH.code] = QueuePause(disable_unpause=True)
    await house.do(house.log_in(), house.pause())
    with pytest.raises(errors.PauseLocked):
        await house.do(house.unpause())
    house.store.known_reasons = (PauseReason("1", "training"), BREAK)
    await house.do(house.unpause())
    assert house.told[-1] == (UNPAUSE, "lunch")


async def test_two_services_end_a_pause_once(house: House) -> None:
    house.allow(BACK, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    house.clock.pass_(minutes=45)
    await asyncio.gather(house.timers.look(), house.another().look(), house.another().look())
    assert len(house.events) == 3
    house.all_well()


async def test_a_pause_that_the_agent_ends_in_that_moment_is_ended_once(house: House) -> None:
    """And the one for the same reason that follows is left alone."""
    house.allow(BACK, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    house.clock.pass_(minutes=45)
    there = house.faults.stop_at("before store.states")
    looking = asyncio.create_task(house.timers.look())
    await there.wait()
    await house.do(house.unpause(), house.pause())
    house.faults.go_on("before store.states")
    await looking
    assert house.told[1:] == [(PAUSE, "lunch"), (UNPAUSE, "lunch"), (PAUSE, "lunch")]
    house.all_well()


async def test_killed_at_any_point_a_pause_is_ended_once() -> None:
    for step in range(1000):
        house = House()
        house.allow(BACK, 45 * MINUTE)
        await house.do(house.log_in(), house.pause())
        house.clock.pass_(minutes=45)
        begun = len(house.faults.trace)

        def kill(n: int, point: str, at: int = begun + step) -> None:
            if n == at:
                raise Killed

        house.faults.at_point = kill
        try:
            await house.timers.look()
        except Killed:
            house.faults.at_point = None
            house.start()
            await house.settle()
            await house.timers.look()
            await house.timers.look()
            assert house.told.count((UNPAUSE, "lunch")) == 1
            assert house.state.pause is None
            house.all_well()
        else:
            assert step > 8
            break


async def test_what_asterisk_refuses_is_not_asked_for_all_the_time(house: House) -> None:
    house.allow(BACK, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    house.asterisk.refuses = lambda operation: isinstance(operation, PauseMember)
    with capture_logs() as logs:
        await house.after(minutes=45)
        for _ in range(10):
            await house.after(seconds=5)
    assert [line["event"] for line in logs].count("what is due was refused") == 1
    house.asterisk.refuses = lambda _: False
    assert (await house.after(seconds=10))[2:] == [(UNPAUSE, "lunch")]
    house.all_well()


@pytest.mark.parametrize("broken", ["store", "link", "begin", "confirm"])
async def test_what_is_away_is_told_once_and_waited_for(house: House, broken: str) -> None:
    house.allow(BACK, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    if broken == "link":
        house.asterisk.linked = False
    else:
        house.store.down = {"*" if broken == "store" else broken}
    with capture_logs() as logs:
        await house.after(minutes=45)
        for _ in range(20):
            await house.after(seconds=5)
    said = [line["event"] for line in logs if line["log_level"] == "warning"]
    said = [line for line in said if line.startswith("not everything")]
    assert said == ([] if broken == "link" else ["not everything that is due could be done yet"])
    house.asterisk.linked = True
    house.store.down = set()
    await house.settle()
    await house.after(seconds=5)
    # Asterisk was told; in doubt, nobody is given calls: settled, and then ended.
    await house.after(seconds=5)
    assert house.told[2:] == [(UNPAUSE, "lunch")]
    house.all_well()


# -- phones


async def test_a_flap_does_nothing(house: House) -> None:
    await house.do(house.log_in())
    for _ in range(100):
        house.phone(away=True)
        await house.after(seconds=29)
        house.phone(away=False)
        await house.after(seconds=1)
    assert house.told == [(LOGIN, "")]


async def test_a_phone_that_stays_away(house: House) -> None:
    await house.do(house.log_in())
    await house.timers.look()
    house.phone(away=True)
    assert await house.after(seconds=29) == [(LOGIN, "")]
    assert await house.after(seconds=1) == AWAY
    by_the_system(house.last, "phone away")
    assert house.asterisk.queues["sales"]["pjsip/1001"].paused
    assert await house.after(seconds=569) == AWAY
    assert await house.after(seconds=1) == [*AWAY, (LOGOUT, "device-lost")]
    by_the_system(house.last, "phone away")
    await house.after(hours=1)
    assert len(house.events) == 3
    house.all_well()


async def test_back_in_time(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    assert await house.after(seconds=40) == AWAY
    house.phone(away=False)
    assert await house.after() == [*AWAY, (UNPAUSE, "device-lost")]
    by_the_system(house.last, "phone away")
    house.all_well()
    # Gone again: all of its time again, and events of its own.
    house.phone(away=True)
    assert len(await house.after(seconds=29)) == 3
    assert len(await house.after(seconds=1)) == 4
    house.phone(away=False)
    assert (await house.after())[3:] == [(PAUSE, "device-lost"), (UNPAUSE, "device-lost")]
    house.all_well()


async def test_it_is_known_when_a_phone_is_away_too_long(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    house.clock.pass_(seconds=27)
    assert await house.timers.look() == NOON + timedelta(seconds=30)
    await house.after(seconds=570.5)
    assert await house.timers.look() == NOON + timedelta(seconds=600)


async def test_who_is_at_lunch_stays_at_lunch(house: House) -> None:
    await house.do(house.log_in(), house.pause())
    house.phone(away=True)
    await house.after(seconds=300)
    house.phone(away=False)
    assert await house.after() == [(LOGIN, ""), (PAUSE, "lunch")]
    house.phone(away=True)
    assert len(await house.after(seconds=599)) == 2
    assert (await house.after(seconds=1))[2:] == [(LOGOUT, "device-lost")]
    house.all_well()


async def test_who_comes_back_from_lunch_without_a_phone(house: House) -> None:
    await house.do(house.log_in(), house.pause())
    house.phone(away=True)
    await house.after(seconds=300)
    await house.do(house.unpause())
    assert (await house.after())[-1] == (PAUSE, "device-lost")


async def test_who_is_unpaused_by_somebody_while_the_phone_is_away_is_not_paused_again(
    house: House,
) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    assert await house.after(seconds=30) == AWAY
    await house.do(house.unpause())  # through an API, or by a phone that Asterisk cannot reach
    back = [*AWAY, (UNPAUSE, "device-lost")]
    for _ in range(5):
        assert await house.after(seconds=1) == back
    assert await house.another().look()
    assert house.told == back
    house.all_well()
    # The next time it is away counts anew, and what is later than a pause does, too.
    house.phone(away=False)
    await house.after(seconds=1)
    house.phone(away=True)
    assert (await house.after(seconds=30))[3:] == [(PAUSE, "device-lost")]
    await house.do(house.unpause())
    assert (await house.after(seconds=570))[-1] == (LOGOUT, "device-lost")
    house.all_well()


async def test_a_reason_chosen_meanwhile_is_kept(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    await house.after(seconds=30)
    await house.do(house.pause())  # through an API
    house.phone(away=False)
    assert await house.after() == [*AWAY, (PAUSE, "lunch")]


async def test_not_in_a_call(house: House) -> None:
    await house.do(house.log_in())
    house.asterisk.calls.add("pjsip/1001")
    house.phone(away=True)
    assert await house.after(seconds=40) == [(LOGIN, "")]
    house.asterisk.calls.clear()
    assert await house.after(seconds=5) == AWAY
    house.asterisk.calls.add("pjsip/1001")
    assert await house.after(seconds=600) == AWAY
    assert house.state.planned is None
    house.asterisk.calls.clear()
    assert (await house.after(seconds=5))[2:] == [(LOGOUT, "device-lost")]
    house.all_well()


async def test_what_was_told_is_not_believed_blindly(house: House) -> None:
    """The phone was back before Asterisk was asked, or what it told never came."""
    await house.do(house.log_in())
    house.phone(away=True)
    house.asterisk.unreachable.clear()
    assert await house.after(seconds=40) == [(LOGIN, "")]
    house.phone(away=True)
    assert len(await house.after(seconds=29)) == 1, "its time began anew"
    assert len(await house.after(seconds=1)) == 2
    house.phone(away=False)
    house.asterisk.unreachable.add("pjsip/1001")
    assert await house.after() == AWAY, "gone again"


async def test_a_phone_that_was_never_there(house: House) -> None:
    """Logged in at a desk whose phone is not plugged in: the login itself tells."""
    house.asterisk.unreachable.add("pjsip/1001")
    await house.do(house.log_in())
    house.phone(away=True)
    assert len(await house.after(seconds=29)) == 1
    assert await house.after(seconds=1) == AWAY


async def test_the_next_agent_at_a_dead_phone_has_the_whole_time(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    await house.after(seconds=600)
    assert house.state.session is None
    for _ in range(60):
        await house.after(minutes=1)
    # Asterisk told long ago that this phone is away, and tells it no more.
    await house.do(house.log_in("1001", "1002"))
    told = len(house.events)
    assert len(await house.after(seconds=29)) == told
    assert (await house.after(seconds=1))[told:] == [(PAUSE, "device-lost")]
    assert house.last.agent == "1002"


async def test_another_service_s_login_at_a_dead_phone_is_found(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    await house.after(seconds=600)
    await house.after(seconds=5)
    first = house.timers
    house.start()  # the other service
    other, house.timers = house.timers, first
    await house.do(house.log_in("1001", "1002"))
    assert other is not first
    await house.after(seconds=61)
    assert house.told[-1] == (PAUSE, "device-lost")


async def test_remote_agents_and_those_in_no_queue_are_left_alone(house: House) -> None:
    remote = replace(house.log_in(), device=replace(house.log_in().device, type="remote"))
    await house.do(remote, house.log_in("1002", "1002"))
    for queue in ("sales", "support", "billing"):
        await house.do(house.leave(queue, "1002"))
    before = house.told
    house.phone(away=True)
    house.asterisk.unreachable.add("pjsip/1002")
    assert await house.after(hours=5) == before


async def test_after_a_restart_the_time_goes_on(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    await house.after(seconds=31)
    house.clock.pass_(seconds=200)
    house.start()
    assert await house.after() == AWAY
    # 600 s less the 30 before the pause, which was seen a second late
    assert await house.after(seconds=369) == AWAY
    assert await house.after(seconds=1) == [*AWAY, (LOGOUT, "device-lost")]
    house.all_well()


async def test_after_a_restart_a_phone_that_is_back_is_given_back(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    await house.after(seconds=31)
    house.asterisk.unreachable.clear()
    house.clock.pass_(hours=2)
    house.start()
    assert await house.after() == [*AWAY, (UNPAUSE, "device-lost")]
    house.all_well()


async def test_after_a_restart_an_available_agent_has_the_whole_time(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    await house.after(seconds=29)
    house.start()
    await house.after()
    assert await house.after(seconds=29) == [(LOGIN, "")]
    assert await house.after(seconds=1) == AWAY


async def test_while_the_link_is_down_nothing_is_decided(house: House) -> None:
    await house.do(house.log_in(), house.log_in("1002", "1002"))
    house.phone(away=True, extension="1002")
    await house.after(seconds=30)
    house.phone(away=True)
    house.asterisk.linked = False
    before = house.told
    assert await house.after(hours=1) == before
    house.asterisk.linked = True
    house.timers.reconnected("")
    # 1002 was found lost already, of 1001 nobody knows what happened meanwhile.
    assert (await house.after())[len(before) :] == [(LOGOUT, "device-lost")]
    assert house.last.agent == "1002"
    assert len(await house.after(seconds=29)) == len(before) + 1
    assert (await house.after(seconds=1))[-1] == (PAUSE, "device-lost")
    house.all_well()


async def test_a_short_cut_of_the_link_that_nobody_saw(house: House) -> None:
    """Lost and back between two looks: the reconnect tells."""
    await house.do(house.log_in())
    house.phone(away=True)
    await house.after(seconds=30)
    house.asterisk.unreachable.clear()  # while it was cut
    house.timers.reconnected("")
    assert (await house.after())[-1] == (UNPAUSE, "device-lost")


async def test_asterisk_restarts_while_a_phone_is_away(house: House) -> None:
    await house.do(house.log_in())
    await house.settle()
    house.phone(away=True)
    await house.after(seconds=30)
    house.asterisk.restart("2026-11-22 13:00:00")
    house.asterisk.unreachable.clear()
    house.timers.reconnected("")
    assert await house.after() == AWAY, "in no queue yet: nothing is known of the phone"
    house.reconnected()
    await house.settle()
    told = await house.after(seconds=5)
    assert [fact for fact in told if fact[0] is not EventType.REPAIR] == [
        *AWAY,
        (UNPAUSE, "device-lost"),
    ]
    house.all_well()


async def test_who_moves_to_a_phone_that_works_is_back(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    await house.after(seconds=30)
    await house.do(house.log_in("1002", move=True))
    told = await house.after()
    assert told[-1] == (UNPAUSE, "device-lost")
    assert house.last.extension == "1002"
    house.all_well()


async def test_switched_off(house: House) -> None:
    await house.do(house.log_in())
    house.phone(away=True)
    house.policy = TimePolicy(UTC)
    assert await house.after(hours=9) == [(LOGIN, "")]
    house.policy = TimePolicy(UTC, pause_after=MINUTE)
    assert await house.after() == AWAY
    house.policy = TimePolicy(UTC)
    house.phone(away=False)
    assert await house.after() == [*AWAY, (UNPAUSE, "device-lost")], "what was begun is ended"


async def test_two_services_and_one_phone(house: House) -> None:
    other = house.another()
    for time in (30, 570):
        await house.do(*([house.log_in()] if time == 30 else []))
        house.asterisk.unreachable.add("pjsip/1001")
        members = await house.asterisk.members("", interface="PJSIP/1001")
        house.timers.reachable(members)
        house.clock.pass_(seconds=0.02)
        other.reachable(members)
        house.clock.pass_(seconds=time)
        await asyncio.gather(house.timers.look(), other.look())
    assert house.told == [*AWAY, (LOGOUT, "device-lost")]
    house.all_well()


# -- shifts


async def test_the_end_of_the_shift(house: House) -> None:
    house.policy = TimePolicy(timezone(HOUR), shift_end="18:00")
    await house.do(house.log_in(), house.log_in("1002", "1002"), house.pause(agent="1002"))
    before = house.told
    assert await house.after(hours=4, minutes=59) == before
    told = await house.after(minutes=1)
    assert told[len(before) :] == [(LOGOUT, "end of shift")] * 2
    by_the_system(house.last, "end of shift")
    assert house.last.occurred_at == NOON + 5 * HOUR
    house.all_well()
    # Who comes after it may stay.
    await house.do(house.log_in())
    assert len(await house.after(hours=20)) == len(told) + 1
    assert len(await house.after(hours=4)) == len(told) + 2


async def test_shifts_of_their_own(house: House) -> None:
    house.policy = TimePolicy(UTC, shift_end="18:00")
    house.store.own_shift_ends = {"1001": "14:00", "1002": "never"}
    await house.do(house.log_in(), house.log_in("1002", "1002"))
    assert (await house.after(hours=2))[2:] == [(LOGOUT, "end of shift")]
    assert house.last.agent == "1001"
    assert len(await house.after(days=3)) == 3


async def test_a_shift_that_ended_while_no_service_was_there(house: House) -> None:
    house.policy = TimePolicy(UTC, shift_end="20:00")
    await house.do(house.log_in())
    house.clock.now = NOON + timedelta(days=1)
    house.start()
    assert (await house.after())[1:] == [(LOGOUT, "end of shift")]
    house.all_well()


async def test_the_shift_ends_after_the_call(house: House) -> None:
    house.policy = TimePolicy(UTC, shift_end="20:00")
    await house.do(house.log_in())
    house.asterisk.calls.add("pjsip/1001")
    for _ in range(3):
        assert await house.after(hours=8) == [(LOGIN, "")]
        assert isinstance(house.state.planned, LogOff)
        house.clock.pass_(hours=-7, minutes=-55)
    house.asterisk.calls.clear()
    await house.settle()
    assert house.told == [(LOGIN, ""), (LOGOUT, "end of shift")]
    by_the_system(house.last, "end of shift")


async def test_it_is_known_when_a_shift_ends(house: House) -> None:
    house.policy = TimePolicy(UTC, shift_end="12:01")
    assert await house.timers.look() == NOON + timedelta(seconds=5)
    house.clock.pass_(seconds=58)
    assert await house.timers.look() == NOON + MINUTE


@pytest.mark.parametrize("broken", ["store", "link", "overdue", "begin"])
async def test_a_shift_that_cannot_end_now_ends_when_it_can(house: House, broken: str) -> None:
    house.policy = TimePolicy(UTC, shift_end="20:00")
    await house.do(house.log_in())
    if broken == "link":
        house.asterisk.linked = False
    else:
        house.store.down = {"*" if broken == "store" else broken}
    assert await house.after(hours=8) == [(LOGIN, "")]
    assert await house.after(seconds=5) == [(LOGIN, "")]
    house.asterisk.linked = True
    house.store.down = set()
    assert await house.after(seconds=5) == [(LOGIN, ""), (LOGOUT, "end of shift")]
    house.all_well()


async def test_two_services_end_a_shift_once(house: House) -> None:
    house.policy = TimePolicy(UTC, shift_end="20:00")
    await house.do(house.log_in(), house.log_in("1002", "1002"))
    house.clock.pass_(hours=8)
    await asyncio.gather(house.timers.look(), house.another().look())
    assert house.told[2:] == [(LOGOUT, "end of shift")] * 2
    house.all_well()


async def test_one_who_asterisk_does_not_let_go_keeps_no_other(house: House) -> None:
    house.policy = TimePolicy(UTC, shift_end="20:00")
    await house.do(house.log_in(), house.log_in("1002", "1002"))
    house.asterisk.refuses = lambda operation: (
        isinstance(operation, RemoveMember) and operation.interface == "PJSIP/1001"
    )
    assert (await house.after(hours=8))[2:] == [(LOGOUT, "end of shift")]
    assert house.last.agent == "1002"
    house.asterisk.refuses = lambda _: False
    assert len(await house.after(minutes=2)) == 4


# -- running


@asynccontextmanager
async def running(timers: Timers) -> Any:
    task = asyncio.create_task(timers.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_running_it_wakes_for_what_begins(house: House) -> None:
    """On a real clock: a pause of half a second, and a phone."""
    house.clock = RealClock()
    house.start()
    half = timedelta(seconds=0.5)
    house.policy = TimePolicy(UTC, half, None)
    house.allow(BACK, half)
    async with running(house.timers):
        await house.do(house.log_in(), house.pause())
        await until(lambda: (UNPAUSE, "lunch") in house.told)
        house.phone(away=True)
        await until(lambda: (PAUSE, "device-lost") in house.told)
        house.phone(away=False)
        await until(lambda: (UNPAUSE, "device-lost") in house.told)
    house.all_well()


async def test_running_it_outlives_what_is_away(house: House) -> None:
    house.clock = RealClock()
    house.start()
    house.allow(BACK, timedelta(seconds=0.1))
    await house.do(house.log_in(), house.pause())
    house.store.down = {"*"}
    with capture_logs() as logs:
        async with running(house.timers) as task:
            await until(lambda: logs)
            house.store.down = set()
            house.timers.reconnected("")
            await until(lambda: (UNPAUSE, "lunch") in house.told)
            assert not task.done()
    house.all_well()


async def test_a_log_off_at_once_is_still_at_once(house: House) -> None:
    """What the system plans for after the call, the agent can do now."""
    house.policy = TimePolicy(UTC, shift_end="20:00")
    await house.do(house.log_in())
    house.asterisk.calls.add("pjsip/1001")
    await house.after(hours=8)
    change = await house.service.execute(house.log_off(when_in_call=WhenInCall.ALLOW))
    assert change.outcome is Outcome.LOGGED_OFF
    assert house.last.source is Source.PHONE


# -- the machine's clock is set


DAY = timedelta(days=1)
SET = pytest.mark.parametrize("by", [DAY, -DAY, 2 * HOUR, -2 * HOUR])


@SET
async def test_a_pause_lasts_as_long_as_it_lasts(house: House, by: timedelta) -> None:
    house.allow(BACK, 45 * MINUTE)
    await house.do(house.log_in(), house.pause())
    await house.after(minutes=20)
    house.clock.set(by)
    assert len(await house.after(minutes=24, seconds=59)) == 2
    assert len(await house.after(seconds=1)) == 3
    assert house.last.type is UNPAUSE
    assert house.last.occurred_at == NOON + 45 * MINUTE + by
    house.all_well()


@SET
async def test_a_login_lasts_as_long_as_it_lasts(house: House, by: timedelta) -> None:
    await house.do(house.log_in())
    house.clock.pass_(hours=3)
    house.clock.set(by)
    house.clock.pass_(hours=1)
    await house.do(house.log_off())
    assert house.last.session_seconds == 4 * 3600
    house.all_well()


async def test_a_login_with_a_slow_clock_is_no_end_of_shift(house: House) -> None:
    """The machine starts in the past, and its clock is set right an hour later."""
    house.policy = replace(house.policy, shift_end="20:00")
    await house.do(house.log_in())
    await house.after(hours=1)
    house.clock.set(DAY)
    assert await house.after(seconds=5) == [(LOGIN, "")]
    # At 13:00 of the right day; the shift ends at 20:00.
    assert await house.after(hours=6, minutes=59) == [(LOGIN, "")]
    assert len(await house.after(minutes=1)) == 2
    assert (house.last.type, house.last.reason) == (LOGOUT, "end of shift")


async def test_a_clock_set_back_does_not_put_the_end_of_the_shift_off(house: House) -> None:
    house.policy = replace(house.policy, shift_end="20:00")
    await house.do(house.log_in())
    await house.after(hours=1)
    house.clock.set(-DAY)
    await house.after(hours=6, minutes=59)
    assert house.told == [(LOGIN, "")]
    await house.after(minutes=2)
    assert (house.last.type, house.last.reason) == (LOGOUT, "end of shift")


@SET
async def test_a_phone_is_away_as_long_as_it_is_away(house: House, by: timedelta) -> None:
    await house.do(house.log_in())
    await house.timers.look()
    house.phone(away=True)
    await house.after(seconds=10)
    house.clock.set(by)
    assert await house.after(seconds=19) == [(LOGIN, "")]
    assert await house.after(seconds=1) == AWAY
    house.all_well()


async def test_nothing_is_judged_before_the_store_knows_of_the_clock(house: House) -> None:
    house.policy = replace(house.policy, shift_end="20:00")
    await house.do(house.log_in())
    await house.after(hours=1)
    house.clock.set(DAY)
    house.store.down = {"clock_was_set"}
    with capture_logs() as logs:
        assert await house.after(seconds=5) == [(LOGIN, "")]
        with pytest.raises(errors.Unavailable):
            await house.service.execute(house.log_off())
        house.store.down.clear()
        assert await house.after(seconds=5) == [(LOGIN, "")]
    (said,) = [log for log in logs if log["event"].startswith("the machine's clock was set")]
    assert said["by"] == "forward by 1 day, 0:00:00"
    assert "chrony" in said["mend"]
