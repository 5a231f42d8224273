import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from fastagi.agents.events import Event
from fastagi.contract import EventType, Sink
from fastagi.outbox.delivery import DELIVERED, Later, Receipt, Rejected, SinkProtocol, Waits
from fastagi.outbox.dispatcher import Dispatcher, Pace

from .parts import Memory, Receiver, event, now, until

QUICK = Pace(first_delay=0.01, longest_delay=0.05, ask_ready=0.005, look=0.05)
# Nothing is found by looking: what arrives was woken or was due.
DEAF = Pace(first_delay=0.01, longest_delay=0.05, ask_ready=0.005, look=3600.0)

Running = Callable[..., AbstractAsyncContextManager[Dispatcher]]


@asynccontextmanager
async def running(
    memory: Memory, sinks: Mapping[Sink, SinkProtocol], pace: Pace = QUICK
) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(memory, sinks, now, pace)
    memory.on_change = dispatcher.wake
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
        assert not task.done(), "the dispatcher ended by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def memory() -> Memory:
    return Memory()


async def test_every_sink_gets_what_is_its_own(memory: Memory) -> None:
    sinks = {sink: Receiver() for sink in Sink}
    login, pause, join = event(), event(type=EventType.PAUSE), event(type=EventType.QUEUE_JOIN)
    async with running(memory, sinks):
        await memory.commit(login, pause, join)
        await until(lambda: not memory.rows)
    assert sinks[Sink.USER_EVENT].got == [login, pause, join]
    assert sinks[Sink.LAMP].got == [login, pause]
    assert sinks[Sink.QUEUE_LOG].got == [login]


async def test_all_events_stay_in_order_while_none_is_refused(memory: Memory) -> None:
    told = [event(f"100{n * n % 7}", EventType.PAUSE, reason=str(n)) for n in range(60)]
    await memory.commit(*told)
    receiver = Receiver()
    async with running(memory, {Sink.LAMP: receiver}):
        await until(lambda: len(receiver.got) == 60)
    assert receiver.got == told


async def test_what_an_earlier_service_left_is_delivered_without_a_wake(memory: Memory) -> None:
    first, second = event(), event(type=EventType.PAUSE)
    await memory.commit(first, second)
    receiver = Receiver()
    async with running(memory, {Sink.USER_EVENT: receiver}, DEAF):
        await until(lambda: receiver.got == [first, second])


async def test_what_another_process_wrote_is_found_by_looking(memory: Memory) -> None:
    receiver = Receiver()
    async with running(memory, {Sink.USER_EVENT: receiver}):
        memory.on_change = lambda: None
        await asyncio.sleep(0.01)
        await memory.commit(event())
        await until(lambda: receiver.got)


async def test_a_wake_from_another_thread_is_enough(memory: Memory) -> None:
    receiver = Receiver()
    async with running(memory, {Sink.USER_EVENT: receiver}, DEAF) as dispatcher:
        memory.on_change = lambda: None
        for count in range(1, 30):
            await memory.commit(event())
            thread = threading.Thread(target=dispatcher.wake)
            thread.start()
            await until(lambda: len(receiver.got) == count)  # noqa: B023
            thread.join()


async def test_a_wake_from_another_thread_ends_the_sleep_of_an_idle_loop(memory: Memory) -> None:
    receiver, arrived = Receiver(), asyncio.Event()
    receiver.before = arrived.set
    async with running(memory, {Sink.USER_EVENT: receiver}, DEAF) as dispatcher:
        memory.on_change = lambda: None
        await asyncio.sleep(0.01)
        await memory.commit(event())
        timer = threading.Timer(0.1, dispatcher.wake)
        timer.start()
        async with asyncio.timeout(10):  # the loop's only other timer
            await arrived.wait()
        timer.join()


async def test_after_a_wake_it_is_quiet_again(memory: Memory) -> None:
    receiver = Receiver()
    async with running(memory, {Sink.USER_EVENT: receiver}, DEAF):
        await until(lambda: memory.reads)
        await memory.commit(event())
        await until(lambda: receiver.got)
        await asyncio.sleep(0.1)
        reads = memory.reads
        await asyncio.sleep(0.2)
        assert memory.reads == reads


def test_a_wake_without_a_running_loop_is_harmless(memory: Memory) -> None:
    dispatcher = Dispatcher(memory, {Sink.LAMP: Receiver()}, now)
    dispatcher.wake()

    async def once() -> None:
        task = asyncio.create_task(dispatcher.run())
        await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(once())
    dispatcher.wake()
    asyncio.run(once())


async def test_an_agents_events_stay_in_order_when_one_is_refused_at_first(memory: Memory) -> None:
    refusals = 3
    login, pause, unpause = event(), event(type=EventType.PAUSE), event(type=EventType.UNPAUSE)
    other = event("1002")

    def script(happened: Event) -> Receipt:
        nonlocal refusals
        if happened is pause and refusals:
            refusals -= 1
            return Rejected("busy")
        return DELIVERED

    receiver = Receiver(script)
    async with running(memory, {Sink.LAMP: receiver}, DEAF):
        await memory.commit(login, pause, unpause, other)
        await until(lambda: len(receiver.got) == 4)
    assert [e for e in receiver.got if e.agent == "1001"] == [login, pause, unpause]
    assert receiver.got.index(other) < receiver.got.index(pause), "nobody else had to wait"
    assert refusals == 0
    assert not memory.parked


async def test_poison_is_parked_after_so_many_attempts_and_holds_back_nothing(
    memory: Memory,
) -> None:
    poison, after = event(reason="poison"), event(type=EventType.LOGOUT)
    tried = 0

    def script(happened: Event) -> Receipt:
        nonlocal tried
        tried += happened is poison
        return Rejected("No") if happened is poison else DELIVERED

    receiver = Receiver(script)
    pace = Pace(attempts=4, first_delay=0.005, longest_delay=0.01)
    async with running(memory, {Sink.QUEUE_LOG: receiver}, pace):
        await memory.commit(poison, after)
        await until(lambda: receiver.got == [after])
    assert tried == 4
    assert [(row.event, error) for row, error in memory.parked.values()] == [(poison, "No")]


async def test_a_final_refusal_is_parked_at_once_and_the_agent_goes_on(memory: Memory) -> None:
    bad, good = event(), event(type=EventType.LOGOUT)
    receiver = Receiver(lambda e: Rejected("Reason: …", final=True) if e is bad else DELIVERED)
    async with running(memory, {Sink.LAMP: receiver}, DEAF):
        await memory.commit(bad, good)
        await until(lambda: receiver.got == [good])
    ((row, error),) = memory.parked.values()
    assert (row.attempts, error) == (0, "Reason: …")


async def test_while_the_receiver_is_away_nothing_is_read_tried_or_counted(memory: Memory) -> None:
    receiver = Receiver(ready=False)
    async with running(memory, {Sink.USER_EVENT: receiver}):
        await memory.commit(event(), event("1002"))
        await asyncio.sleep(0.1)
        assert memory.reads == 0
        assert receiver.batches == []
        receiver.ready = True
        await until(lambda: len(receiver.got) == 2)
    assert not memory.parked


async def test_an_outage_that_outlasts_every_attempt_parks_nothing(memory: Memory) -> None:
    receiver = Receiver(away=True)
    first, second = event(), event(type=EventType.LOGOUT)
    async with running(memory, {Sink.LAMP: receiver}, Pace(attempts=2, first_delay=0.002)):
        await memory.commit(first, second)
        await until(lambda: len(receiver.batches) > 5)
        assert all(row.attempts == 0 for row in memory.rows.values())
        receiver.away = False
        await until(lambda: receiver.got == [first, second])
    assert not memory.parked


async def test_a_receiver_that_answers_half_a_batch_gets_the_other_half_again(
    memory: Memory,
) -> None:
    cut = True

    def script(happened: Event) -> Receipt:
        return Later("connection lost") if cut and happened.agent > "1003" else DELIVERED

    receiver = Receiver(script)
    async with running(memory, {Sink.LAMP: receiver}):
        await memory.commit(*(event(f"100{n}") for n in range(1, 6)))
        await until(lambda: len(memory.rows) == 12)  # 5 × 3, less the three lamps
        cut = False
        await until(lambda: len(receiver.got) == 5)
    assert sorted(e.agent for e in receiver.got) == ["1001", "1002", "1003", "1004", "1005"]


async def test_no_answer_for_one_event_never_lets_the_next_overtake_it(memory: Memory) -> None:
    login, pause = event(), event(type=EventType.PAUSE)
    answers = [Later("no answer"), Later("no answer")]

    def script(happened: Event) -> Receipt:
        return answers.pop() if happened is login and answers else DELIVERED

    receiver = Receiver(script)
    async with running(memory, {Sink.LAMP: receiver}):
        await memory.commit(login, pause)
        await until(lambda: len(receiver.got) == 2)
    assert receiver.got == [login, pause]
    assert not answers


async def test_a_sink_that_is_away_does_not_stop_the_others(memory: Memory) -> None:
    away, there = Receiver(ready=False), Receiver()
    pace = Pace(batch=10, ask_ready=0.005)
    async with running(memory, {Sink.USER_EVENT: away, Sink.LAMP: there}, pace):
        await memory.commit(*(event(f"{n}") for n in range(100)))
        await until(lambda: len(there.got) == 100)
    assert not away.got


async def test_a_silent_sink_does_not_stop_the_others_and_is_asked_again(memory: Memory) -> None:
    silent, there = Receiver(), Receiver()
    silent.before = lambda: asyncio.sleep(3600)
    pace = Pace(deadline=0.05, first_delay=0.01)
    async with running(memory, {Sink.USER_EVENT: silent, Sink.LAMP: there}, pace):
        await memory.commit(event())
        await until(lambda: there.got)
        await until(lambda: len(silent.batches) > 1)
        silent.before = None
        await until(lambda: silent.got)


async def test_a_storm_goes_out_in_few_large_batches(memory: Memory) -> None:
    receiver = Receiver()
    async with running(memory, {Sink.USER_EVENT: receiver}, DEAF):
        for n in range(1000):
            await memory.commit(event(f"{n}"))
            if n % 4 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: len(receiver.got) == 1000)
    assert len(receiver.batches) <= 50
    assert len(memory.marks) == len(receiver.batches), "marked once for a batch"


async def test_one_agents_backlog_arrives_in_order(memory: Memory) -> None:
    events = [event(type=EventType.PAUSE, reason=str(n)) for n in range(700)]
    receiver = Receiver()
    await memory.commit(*events)
    async with running(memory, {Sink.USER_EVENT: receiver}):
        await until(lambda: len(receiver.got) == 700)
    assert receiver.got == events


async def test_killed_between_delivery_and_mark_it_is_delivered_again(memory: Memory) -> None:
    first = event()
    await memory.commit(first)
    before = dict(memory.rows)
    receiver = Receiver()
    async with running(memory, {Sink.LAMP: receiver}):
        await until(lambda: receiver.got)
    memory.rows = before  # the process died before its mark was on disk
    async with running(memory, {Sink.LAMP: receiver}):
        await until(lambda: len(receiver.got) == 2)
    assert receiver.got == [first, first]


async def test_a_store_that_cannot_mark_does_not_make_it_deliver_twice(memory: Memory) -> None:
    receiver = Receiver()

    def breaks() -> None:
        memory.broken = True

    receiver.before = breaks
    async with running(memory, {Sink.LAMP: receiver}):
        await memory.commit(event())
        await until(lambda: receiver.got)
        receiver.before = None
        await asyncio.sleep(0.05)
        memory.broken = False
        await until(lambda: memory.marks)
        await memory.commit(event("1002"))
        await until(lambda: len(receiver.got) == 2)
    assert [e.agent for e in receiver.got] == ["1001", "1002"]


async def test_a_store_that_cannot_be_read_is_asked_again(memory: Memory) -> None:
    memory.broken = True
    receiver = Receiver()
    async with running(memory, {Sink.LAMP: receiver}, DEAF):
        await memory.commit(event())
        await until(lambda: memory.reads > 2)
        memory.broken = False
        await until(lambda: receiver.got)


async def test_a_fault_in_a_sink_costs_one_event_not_the_service(memory: Memory) -> None:
    def script(happened: Event) -> Receipt:
        if happened.agent == "1002":
            raise KeyError("a bug")
        return DELIVERED

    receiver = Receiver(script)
    async with running(memory, {Sink.LAMP: receiver}, Pace(attempts=2, first_delay=0.005)):
        await memory.commit(event("1001"), event("1002"), event("1003"))
        await until(lambda: memory.parked)
        await until(lambda: len(receiver.got) == 2)
    ((row, error),) = memory.parked.values()
    assert row.event.agent == "1002"
    assert "a bug" in error


async def test_a_sink_that_answers_too_little_loses_nothing(memory: Memory) -> None:
    class Short(Receiver):
        async def deliver(self, events: Sequence[Event], /) -> list[Receipt]:
            receipts = await super().deliver(events)
            return receipts[:1]

    receiver = Short()
    async with running(memory, {Sink.LAMP: receiver}):
        await memory.commit(event("1001"), event("1002"))
        await until(lambda: not [r for r in memory.rows.values() if r.sink is Sink.LAMP])
    assert {e.agent for e in receiver.got} == {"1001", "1002"}


async def test_cancelled_in_a_round_it_ends_the_round_and_marks_it(memory: Memory) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        entered.set()
        await leave.wait()

    receiver = Receiver()
    receiver.before = waits
    login, pause = event(), event(type=EventType.PAUSE)
    await memory.commit(login, pause)
    dispatcher = Dispatcher(memory, {Sink.LAMP: receiver}, now, QUICK)
    task = asyncio.create_task(dispatcher.run())
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert receiver.got == [login], "the second round is not begun"
    assert [row.event for row in memory.rows.values() if row.sink is Sink.LAMP] == [pause]
    assert len(memory.marks) == 1


async def test_cancelled_while_a_sink_is_silent_it_marks_what_had_arrived(memory: Memory) -> None:
    receiver = Receiver()

    async def second_round_hangs() -> None:
        if len(receiver.batches) == 2:
            await asyncio.sleep(3600)

    receiver.before = second_round_hangs
    login, pause = event(), event(type=EventType.PAUSE)
    await memory.commit(login, pause)
    dispatcher = Dispatcher(memory, {Sink.LAMP: receiver}, now, Pace(grace=0.05))
    async with asyncio.timeout(10):
        task = asyncio.create_task(dispatcher.run())
        await until(lambda: len(receiver.batches) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [row.event for row in memory.rows.values() if row.sink is Sink.LAMP] == [pause]
    left = {t for t in asyncio.all_tasks() if t is not asyncio.current_task()}
    assert not left


def test_the_delay_grows_and_has_an_end() -> None:
    pace = Pace(first_delay=1.0, longest_delay=60.0)
    for attempts, longest in ((1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (100_000, 60.0)):
        delays = {pace.delay(attempts) for _ in range(50)}
        assert all(longest / 2 <= delay <= longest for delay in delays)
        assert len(delays) > 1, "jitter"


async def test_what_waits_keeps_its_agents_order_and_delays_no_other(memory: Memory) -> None:
    """More of them wait than go into one batch: they must not fill it."""
    away = True

    def script(happened: Event) -> Receipt:
        return Waits("away") if away and happened.asterisk == "north" else DELIVERED

    receiver = Receiver(script)
    few = Pace(batch=3, first_delay=0.01, ask_ready=0.005, look=0.01)
    north = [event(f"100{n % 4}", EventType.PAUSE, asterisk="north") for n in range(20)]
    south = [event(f"200{n}", EventType.PAUSE, asterisk="south") for n in range(5)]
    repairs = [event("", EventType.REPAIR, asterisk=name) for name in ("north", "south")]
    later = event("1000", EventType.UNPAUSE, asterisk="south")
    async with running(memory, {Sink.USER_EVENT: receiver}, few) as dispatcher:
        await memory.commit(*north, repairs[0], *south, repairs[1], later)
        await until(lambda: len(receiver.got) == 6)
        assert {e.id for e in receiver.got} == {e.id for e in [*south, repairs[1]]}
        assert not memory.parked
        assert all(row.attempts == 0 for row in memory.rows.values())
        away = False
        dispatcher.wake()
        await until(lambda: len(receiver.got) == 28)
    rest = receiver.got[6:]
    for agent in {e.agent for e in north}:
        mine = [e for e in [*north, later] if e.agent == agent]
        assert [e for e in rest if e.agent == agent] == mine


async def test_waiting_is_told_once_in_the_log(memory: Memory) -> None:
    away = True
    receiver = Receiver(lambda happened: Waits("away") if away else DELIVERED)
    with capture_logs() as logs:
        async with running(memory, {Sink.LAMP: receiver}) as dispatcher:
            await memory.commit(event(), event("1002"))
            await until(lambda: len(receiver.batches) > 3)
            away = False
            dispatcher.wake()
            await until(lambda: len(receiver.got) == 2)
    assert [log["event"] for log in logs] == ["some deliveries wait", "all deliveries go on"]


@pytest.mark.parametrize("days", [-1, 1])
async def test_a_machine_whose_clock_is_set_delivers_when_it_would_have(
    memory: Memory, days: int
) -> None:
    """A day back: what was postponed by a moment is not due in a day. A day forward: attempts are
    not used up all at once. Only what people read is the machine's time."""
    wrong = timedelta()
    refusals = 2

    def script(happened: Event) -> Receipt:
        nonlocal refusals, wrong
        if refusals:
            refusals -= 1
            wrong = timedelta(days=days)
            return Rejected("busy")
        return DELIVERED

    receiver = Receiver(script)
    dispatcher = Dispatcher(
        memory, {Sink.LAMP: receiver}, lambda: now() + wrong, DEAF, due_clock=now
    )
    memory.on_change = dispatcher.wake
    task = asyncio.create_task(dispatcher.run())
    happened = event()
    await memory.commit(happened)
    await until(lambda: receiver.got)
    task.cancel()
    assert receiver.got == [happened]
    with suppress(asyncio.CancelledError):
        await task


async def test_it_goes_on_as_soon_as_the_store_is_back(memory: Memory) -> None:
    """However long it was away: it rings then."""
    slow = Pace(first_delay=3600.0, longest_delay=3600.0, ask_ready=0.005, look=3600.0)
    receiver = Receiver()
    memory.broken = True
    async with running(memory, {Sink.LAMP: receiver}, slow) as dispatcher:
        await until(lambda: memory.reads)
        await memory.commit(event())
        await until(lambda: memory.reads > 1)
        memory.broken = False
        dispatcher.wake()
        await until(lambda: receiver.got)
