from datetime import UTC, datetime, timedelta, timezone

import pytest

from fastagi.contract import USER_EVENT_KEYS, EventType, Source
from fastagi.outbox import user_event
from fastagi.outbox.delivery import DELIVERED, Rejected

from .parts import ScriptedAmi, event


@pytest.mark.parametrize("kind", EventType)
def test_every_event_is_told_whole(kind: EventType) -> None:
    told = event("1002", kind, id="c9-1", extension="1005", reason="lunch", source=Source.API)
    assert user_event.actions(told) == [
        {
            "Action": "UserEvent",
            "UserEvent": "AgentFeature",
            "Type": kind.value,
            "Agent": "1002",
            "Extension": "1005",
            "Queues": "sales,support",
            "Reason": "lunch",
            "Source": "api",
            "EventId": "c9-1",
            "OccurredAt": "2026-11-22T10:00:00.123+00:00",
        }
    ]


def test_all_keys_are_there_when_there_is_nothing_to_say() -> None:
    (action,) = user_event.actions(event(queues=(), extension=""))
    assert list(action)[2:] == list(USER_EVENT_KEYS)
    assert (action["Queues"], action["Extension"]) == ("", "")


def test_times_are_told_in_utc() -> None:
    paris = timezone(timedelta(hours=1))
    (action,) = user_event.actions(event(occurred_at=datetime(2026, 1, 1, 0, 30, tzinfo=paris)))
    assert action["OccurredAt"] == "2025-12-31T23:30:00.000+00:00"
    assert datetime.fromisoformat(action["OccurredAt"]).tzinfo == UTC


def test_more_queues_than_fit_into_a_line_are_counted_not_cut() -> None:
    names = tuple(f"straße-{n:03}" for n in range(200))
    (action,) = user_event.actions(event(queues=names))
    told = action["Queues"].split(",")
    assert len(action["Queues"].encode()) <= 900
    assert told == list(names[: len(told)])
    assert int(action["QueuesOmitted"]) == 200 - len(told)
    assert len(f"Queues: {action['Queues']}\r\n".encode()) < 1024


@pytest.mark.parametrize(
    ("field", "hostile"),
    [
        ("reason", "x\r\nAction: Command\r\nCommand: core stop now"),
        ("extension", "1001\n"),
        ("id", "\0"),
        ("queues", ("sales,boss",)),
        ("queues", ("sales\r\n",)),
        ("agent", "1\x1b[2J"),
        ("reason", "y" * 2000),
    ],
)
async def test_hostile_values_are_refused_for_good_and_nothing_is_sent(
    field: str, hostile: object
) -> None:
    ami = ScriptedAmi()
    bad = event(**{field: hostile})  # type: ignore[arg-type]
    refused, _ = await user_event.sink(ami).deliver([bad, event("1002")])
    assert isinstance(refused, Rejected)
    assert refused.final
    assert [action["Agent"] for action in ami.sent] == ["1002"]


async def test_an_event_of_no_agent_is_told() -> None:
    ami = ScriptedAmi()
    repair = event("", EventType.REPAIR, extension="", queues=(), reason="3 restored")
    assert await user_event.sink(ami).deliver([repair]) == [DELIVERED]
    (sent,) = ami.sent
    assert (sent["Type"], sent["Agent"], sent["Reason"]) == ("repair", "", "3 restored")
