import json
from datetime import timedelta

from fastagi.agents.commands import Actor
from fastagi.agents.events import SINKS, Event
from fastagi.contract import EVENT_FIELDS, EventType, Sink, Source

from .memory import NOON

EVENT = Event(
    id="c-1",
    type=EventType.PAUSE,
    agent="1001",
    extension="1001",
    queues=("sales", "support"),
    reason="lunch",
    source=Source.PHONE,
    actor=Actor(channel="PJSIP/1001-1", hung_up=True),
    occurred_at=NOON + timedelta(microseconds=1_999),
    context="phones",
)


def test_an_event_as_others_read_it() -> None:
    assert json.loads(json.dumps(EVENT.as_dict())) == {
        "id": "c-1",
        "type": "agent-pause",
        "agent": "1001",
        "extension": "1001",
        "queues": ["sales", "support"],
        "reason": "lunch",
        "source": "phone",
        "actor": {"channel": "PJSIP/1001-1", "hung_up": True},
        "occurred_at": "2026-11-22T12:00:00.001+00:00",
    }
    assert tuple(EVENT.as_dict()) == EVENT_FIELDS


def test_every_event_is_delivered_somewhere() -> None:
    assert set(SINKS) == set(EventType)
    assert all(SINKS.values())


def test_queue_log_gets_logins_and_log_offs_and_no_more() -> None:
    """Asterisk writes the rows of pauses and of joining and leaving a queue itself."""
    logged = {type for type, sinks in SINKS.items() if Sink.QUEUE_LOG in sinks}
    assert logged == {EventType.LOGIN, EventType.LOGOUT}
