"""Queues against a scripted peer: what each answer means, and what is told when there is none."""

from typing import Any

import pytest

from ami.peer import SECRET, Link, Peer
from fastagi.agents.operations import (
    AddMember,
    Answer,
    Operation,
    PauseMember,
    QueuesUnavailable,
    RemoveMember,
    SetPenalty,
)
from fastagi.ami.client import Client, Response
from fastagi.ami.queues import ANSWERS, Queues, judge

ADD = AddMember("sales", "PJSIP/1001", "PJSIP/1001", "Agent/1001")
REMOVE = RemoveMember("sales", "PJSIP/1001")
PAUSE = PauseMember("PJSIP/1001", True, "lunch")
UNPAUSE = PauseMember("PJSIP/1001", False)
PENALTY = SetPenalty("sales", "PJSIP/1001", 3)


@pytest.mark.parametrize(
    ("operation", "success", "message", "answer"),
    [
        (ADD, True, "Added interface to queue", Answer.DONE),
        (ADD, False, "Unable to add interface: Already there", Answer.ALREADY_SO),
        (ADD, False, "Unable to add interface to queue: No such queue", Answer.REFUSED),
        (ADD, False, "Permission denied", Answer.REFUSED),
        (ADD, False, "Something new", Answer.REFUSED),
        (REMOVE, True, "Removed interface from queue", Answer.DONE),
        (REMOVE, False, "Unable to remove interface: Not there", Answer.ALREADY_SO),
        (REMOVE, False, "Unable to remove interface from queue: No such queue", Answer.ALREADY_SO),
        (REMOVE, False, "Member not dynamic", Answer.REFUSED),
        (PAUSE, True, "Interface paused successfully", Answer.DONE),
        (PAUSE, False, "Interface not found", Answer.REFUSED),
        (UNPAUSE, True, "Interface unpaused successfully", Answer.DONE),
        (UNPAUSE, False, "Interface not found", Answer.ALREADY_SO),
        (PENALTY, True, "Interface penalty set successfully", Answer.DONE),
        (PENALTY, True, "Something new", Answer.DONE),
        (PENALTY, False, "Invalid interface, queuename or penalty", Answer.REFUSED),
    ],
)
def test_answers(operation: Operation, success: bool, message: str, answer: Answer) -> None:
    assert judge(operation, Response(success, message)) is answer


def test_every_operation_has_its_answers() -> None:
    assert set(ANSWERS) == {AddMember, RemoveMember, PauseMember, SetPenalty}


async def test_apply_is_pipelined_and_in_order(client_of: Any) -> None:
    async with Peer() as peer:
        queues = Queues(await client_of(peer))
        operations = [ADD, PAUSE, REMOVE]
        results = await queues.apply(operations)
        assert [result.operation for result in results] == operations
        assert all(result.answer is Answer.DONE for result in results)
        assert results[0].message == "Added interface to queue"
        assert len(peer.links[0].reads) == 2  # the login, then all three
        assert await queues.apply([]) == []


async def test_nothing_is_sent_without_a_link() -> None:
    queues = Queues(Client("127.0.0.1", 1, "fastagi", SECRET))
    assert not queues.connected
    for call in (
        lambda: queues.apply([ADD]),
        queues.members,
        queues.queue_names,
        lambda: queues.in_call("x"),
        queues.started_at,
        queues.privileges,
    ):
        with pytest.raises(QueuesUnavailable):
            await call()


async def test_a_link_lost_midway_leaves_the_rest_unknown(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] == "QueuePause":
            link.writer.close()
        else:
            link.reply(action)

    async with Peer(script) as peer:
        queues = Queues(await client_of(peer))
        results = await queues.apply([ADD, PAUSE, REMOVE])
        assert [r.answer for r in results] == [Answer.DONE, Answer.UNKNOWN, Answer.UNKNOWN]
        assert results[1].message


async def test_a_silent_asterisk_leaves_all_unknown(client_of: Any) -> None:
    async with Peer(lambda link, action: None) as peer:
        queues = Queues(await client_of(peer, action_timeout=0.1))
        assert [r.answer for r in await queues.apply([ADD, ADD])] == [Answer.UNKNOWN] * 2


async def test_what_asterisk_would_misread_is_refused_unsent(client_of: Any) -> None:
    async with Peer() as peer:
        queues = Queues(await client_of(peer))
        results = await queues.apply(
            [
                AddMember("sales", "PJSIP/1001", "PJSIP/1001", "Smith, Ann"),
                ADD,
                PauseMember("PJSIP/1001", True, "a\r\nb"),
            ]
        )
        assert [r.answer for r in results] == [Answer.REFUSED, Answer.DONE, Answer.REFUSED]
        assert results[0].message == "header MemberName: contains one of , | ;"
        assert results[2].message == "header Reason: contains a control character"
        assert len(peer.actions) == 1
        assert await queues.members("a\nb") == []
        assert await queues.apply([results[0].operation]) == [results[0]]


async def test_privileges_tell_missing_classes_from_missing_modules(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] == "ListCommands":
            link.write(
                f"Response: Success\r\nActionID: {action['ActionID']}\r\n"
                "QueueAdd: Add.  (Priv: agent,all)\r\nQueueStatus: Show.  (Priv: <none>)\r\n"
                "CoreStatus: Show.  (Priv: system,reporting,all)\r\n\r\n".encode()
            )
        elif action["Action"] in ("UserEvent", "Setvar", "QueueLog"):
            link.reply(action, "Permission denied", response="Error")
        else:
            link.reply(action, "Invalid/unknown command: X.", response="Error")

    async with Peer(script) as peer:
        found = await Queues(await client_of(peer)).privileges()
        assert not found.ok
        assert found.missing == {
            "agent": ("QueueLog",),
            "user": ("UserEvent",),
            "call": ("Setvar",),
        }
        assert found.unknown == ("QueueRemove", "QueuePause", "QueuePenalty")


async def test_no_start_up_time(client_of: Any) -> None:
    async with Peer(lambda link, a: link.reply(a, "Permission denied", response="Error")) as peer:
        with pytest.raises(QueuesUnavailable, match="CoreStatus: Permission denied"):
            await Queues(await client_of(peer)).started_at()
