import pytest

from fastagi.agents.commands import Actor
from fastagi.contract import EventType
from fastagi.outbox import queue_log
from fastagi.outbox.delivery import Rejected

from .parts import ScriptedAmi, event


def test_a_login_is_the_row_asterisk_wrote() -> None:
    assert queue_log.actions(event("1002", extension="1005")) == [
        {
            "Action": "QueueLog",
            "Queue": "NONE",
            "Event": "AGENTCALLBACKLOGIN",
            "Uniqueid": "1700000000.7",
            "Interface": "Agent/1002",
            "Message": "1005@phones",
        }
    ]


@pytest.mark.parametrize("reason", ["", "moved", "taken over"])
def test_a_logoff_tells_the_time_and_why(reason: str) -> None:
    (action,) = queue_log.actions(
        event("1002", EventType.LOGOUT, reason=reason, session_seconds=3661)
    )
    assert action["Event"] == "AGENTCALLBACKLOGOFF"
    assert action["Message"] == f"1001@phones|3661|{reason}"
    assert action["Interface"] == "Agent/1002"


def test_without_a_call_or_a_context() -> None:
    (action,) = queue_log.actions(event(actor=Actor(name="reporting"), context=""))
    assert (action["Uniqueid"], action["Message"]) == ("NONE", "1001")


@pytest.mark.parametrize("kind", sorted(set(EventType) - {EventType.LOGIN, EventType.LOGOUT}))
def test_other_events_are_no_rows(kind: EventType) -> None:
    assert queue_log.actions(event(type=kind)) == []


@pytest.mark.parametrize(
    ("field", "hostile"),
    [
        ("extension", "1001|x"),
        ("context", "a|b"),
        ("context", "a\r\nAction: Command"),
        ("reason", "moved|999"),
        ("agent", "1|2"),
        ("actor", Actor(unique_id="1|NONE")),
        ("actor", Actor(unique_id="1\n2")),
    ],
)
async def test_columns_cannot_be_forged(field: str, hostile: object) -> None:
    ami = ScriptedAmi()
    bad = event(type=EventType.LOGOUT, **{field: hostile})  # type: ignore[arg-type]
    (refused,) = await queue_log.sink(ami).deliver([bad])
    assert isinstance(refused, Rejected)
    assert refused.final
    assert ami.sent == []
