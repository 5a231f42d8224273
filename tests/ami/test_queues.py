"""Queues against a scripted peer: what each answer means, and what is told when there is none."""

from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from ami.peer import SECRET, Link, Peer
from fastagi.agents.notes import Note
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
from fastagi.ami.queues import ANSWERS, NOT_LOADED, SHOWN, SLICE, Queues, judge
from fastagi.contract import Script

NOTE = Note(
    datetime(2026, 11, 22, 12, 0, tzinfo=UTC), Script.PAUSE, "PJSIP/1001", "1", unique_id="17.5"
)
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
        (ADD, False, "Unable to add interface to queue: No such queue", Answer.NO_SUCH_QUEUE),
        (ADD, False, "Permission denied", Answer.REFUSED),
        (ADD, False, "Something new", Answer.REFUSED),
        (REMOVE, True, "Removed interface from queue", Answer.DONE),
        (REMOVE, False, "Unable to remove interface: Not there", Answer.ALREADY_SO),
        (REMOVE, False, "Unable to remove interface from queue: No such queue", Answer.ALREADY_SO),
        (REMOVE, False, "Member not dynamic", Answer.NOT_DYNAMIC),
        (PAUSE, True, "Interface paused successfully", Answer.DONE),
        (PAUSE, False, "Interface not found", Answer.ALREADY_SO),
        (UNPAUSE, True, "Interface unpaused successfully", Answer.DONE),
        (UNPAUSE, False, "Interface not found", Answer.ALREADY_SO),
        (PENALTY, True, "Interface penalty set successfully", Answer.DONE),
        (PENALTY, True, "Something new", Answer.DONE),
        (PENALTY, False, "Invalid interface, queuename or penalty", Answer.ALREADY_SO),
        (ADD, False, f"{NOT_LOADED}: QueueAdd. Use Action: ListCommands", Answer.UNKNOWN),
        (UNPAUSE, False, f"{NOT_LOADED}: QueuePause. Use Action: ListCommands", Answer.UNKNOWN),
    ],
)
def test_answers(operation: Operation, success: bool, message: str, answer: Answer) -> None:
    assert judge(operation, Response(success, message)) is answer


def test_every_operation_has_its_answers() -> None:
    assert set(ANSWERS) == {AddMember, RemoveMember, PauseMember, SetPenalty}


async def test_apply_is_pipelined_and_in_order(client_of: Any) -> None:
    async with Peer() as peer:
        queues = Queues(await client_of(peer))
        operations: list[Operation] = [ADD, PAUSE, REMOVE]
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
        lambda: queues.members(interface="x"),
        queues.started_at,
        queues.notes,
        lambda: queues.forget([NOTE]),
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
        elif action["Action"] in ("UserEvent", "Setvar", "QueueLog", "DBGetTree"):
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
            "reporting": ("DBGetTree",),
        }
        assert found.unknown == ("QueueRemove", "QueuePause", "QueuePenalty")


async def test_no_start_up_time(client_of: Any) -> None:
    async with Peer(lambda link, a: link.reply(a, "Permission denied", response="Error")) as peer:
        with pytest.raises(QueuesUnavailable, match="CoreStatus: Permission denied"):
            await Queues(await client_of(peer)).started_at()


def item(action: dict[str, str], **changes: str) -> bytes:
    """A member of a queue, as Asterisk 22 lists it."""
    headers = {
        "Event": "QueueMember",
        "Queue": "sales",
        "Name": "Agent/1001",
        "Location": "PJSIP/1001",
        "StateInterface": "PJSIP/1001",
        "Membership": "dynamic",
        "Penalty": "0",
        "CallsTaken": "0",
        "LastCall": "0",
        "LastPause": "0",
        "LoginTime": "1795383029",
        "InCall": "0",
        "Status": "1",
        "Paused": "0",
        "PausedReason": "",
        "Wrapuptime": "0",
        "ActionID": action["ActionID"],
        **changes,
    }
    return "".join(f"{key}: {value}\r\n" for key, value in headers.items()).encode() + b"\r\n"


def end(action: dict[str, str]) -> bytes:
    return f"Event: QueueStatusComplete\r\nActionID: {action['ActionID']}\r\n\r\n".encode()


async def test_many_members_in_slices_and_one_that_cannot_be_read(client_of: Any) -> None:
    count = SLICE * 2 + 1

    def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        for n in range(count):
            link.write(item(action, Location=f"PJSIP/{n}", Penalty=str(n % 3)))
        link.write(item(action, Location="", Queue="broken"))
        link.write(item(action, Location="PJSIP/odd", Penalty="99999999999999999999"))
        link.write(end(action))

    async with Peer(script) as peer:
        with capture_logs() as logs:
            queues = Queues(await client_of(peer), "north")
            members = await queues.members()
            assert await queues.members() == members
    assert [m.interface for m in members] == [*(f"PJSIP/{n}" for n in range(count)), "PJSIP/odd"]
    assert {m.asterisk for m in members} == {"north"}
    assert [m.interface for m in members if m.unsure] == ["PJSIP/odd"]
    assert [
        (log["event"], log["task"], log["error"]) for log in logs if log["log_level"] == "warning"
    ] == [
        ("skipped: it cannot be used", "read queue members", f"Unusable: {why}")
        for why in ("Interface: is empty", "Penalty: is not from 0 to 2147483647")
    ]


async def test_an_interface_in_another_case_is_found_among_all(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        if action.get("Member") in (None, "PJSIP/1001"):
            link.write(item(action))
        link.write(end(action))

    async with Peer(script) as peer:
        queues = Queues(await client_of(peer))
        (member,) = await queues.members("sales", "pjsip/1001")
        assert member.interface == "PJSIP/1001"
        assert [(a["Queue"], a.get("Member")) for a in peer.actions] == [
            ("sales", "pjsip/1001"),
            ("sales", None),
        ]
        assert await queues.members(interface="PJSIP/1002") == []
        assert await queues.members(interface="PJSIP/10\r\n01") == []


async def test_notes_are_read_in_order_and_bad_ones_told_once_and_deleted(client_of: Any) -> None:
    later = Note(
        datetime(2026, 11, 22, 12, 0, 1, tzinfo=UTC), Script.LOGOFF, "PJSIP/1002", unique_id="17.9"
    )
    kept = {
        later.key: later.value(),
        NOTE.key: NOTE.value(),
        "1795000000000-17.1": "",
        "\x1b[31mred": "x",
        "1795000000000-17.2": '{"s":"agent/login","i":"PJSIP/1"}',
        "1795000000000-17.3": "{",
        "1795000000000-17.4": "[" * 3_000,
        "1795000000000-17.5": r'{"s":"agent/pause","i":"PJSIP/\ud800","r":"1"}',
        "1795000000000-17.6": r'{"s":"agent/pause","i":"PJSIP/1001","c":"\ud800"}',
        "1795000000000-17.7": r'{"s":"agent/pause","i":"PJSIP/1001","n":"\udcff"}',
        "mode": "night",  # somebody else's
    }
    unreadable = [f"1795000000000-17.{n}" for n in range(2, 8)]

    def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        if action["Action"] == "Setvar":
            kept.pop(action["Variable"].removeprefix("DB_DELETE(fastagi/").removesuffix(")"))
            return
        for key, value in kept.items():
            link.event(
                "DBGetTreeResponse",
                Key=f"/fastagi/{key}",
                Val=value,
                ActionID=action["ActionID"],
            )
        link.event("DBGetTreeComplete", ActionID=action["ActionID"])

    async with Peer(script) as peer:
        queues = Queues(await client_of(peer))
        with capture_logs() as logs:
            assert await queues.notes() == [NOTE, later]
            assert await queues.notes() == [NOTE, later]
        told = [log for log in logs if log["event"].startswith("fallback note cannot be read")]
        assert [log["key"] for log in told] == unreadable
        assert told[3]["value"] == ascii(r'{"s":"agent/pause","i":"PJSIP/\ud800","r":"1"}')
        assert all(str(value).isprintable() for log in logs for value in log.values())
        other = {log["error"] for log in logs if log not in told}
        assert other == {"Unusable: key: is not that of a note"}
        await queues.forget([NOTE, Note(NOTE.at, Script.PAUSE, "x", unique_id="1)=x,DB(a/b")])
        deleted = [a["Variable"] for a in peer.actions if a["Action"] == "Setvar"]
        assert deleted == [f"DB_DELETE(fastagi/{key})" for key in [*unreadable, NOTE.key]]
        assert "mode" in kept


async def test_whoever_only_looks_deletes_no_note(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        key = "/fastagi/1795000000000-17.1"
        link.event("DBGetTreeResponse", Key=key, Val="x", ActionID=action["ActionID"])
        link.event("DBGetTreeComplete", ActionID=action["ActionID"])

    async with Peer(script) as peer:
        assert await Queues(await client_of(peer), reads_only=True).notes() == []
        assert [a["Action"] for a in peer.actions] == ["DBGetTree"]


async def test_many_notes_that_cannot_be_read_are_no_flood(client_of: Any) -> None:
    keys = [f"1795000000000-{n}" for n in range(1200)]

    def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        if action["Action"] == "DBGetTree":
            for key in keys:
                link.event(
                    "DBGetTreeResponse",
                    Key=f"/fastagi/{key}",
                    Val="x",
                    ActionID=action["ActionID"],
                )
            link.event("DBGetTreeComplete", ActionID=action["ActionID"])

    async with Peer(script) as peer:
        with capture_logs() as logs:
            assert await Queues(await client_of(peer)).notes() == []
        assert len([log for log in logs if log["log_level"] == "warning"]) == SHOWN + 1
        assert len([a for a in peer.actions if a["Action"] == "Setvar"]) == len(keys)


@pytest.mark.parametrize(
    ("date", "time", "usable"),
    [
        ("2026-11-22", "18:14:52", True),
        ("", "", False),
        ("2026-11-22\x00", "18:14:52", False),
        ("x" * 10_000, "18:14:52", False),
        ("\ufffd", "18:14:52", False),
    ],
)
async def test_the_start_up_time_is_one(client_of: Any, date: str, time: str, usable: bool) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] == "Getvar":
            headers = "Variable: ENV(FASTAGI_LIFE)\r\nValue: \x00\x1b[31m"
        elif action["Action"] == "CoreStatus":
            headers = f"CoreStartupDate: {date}\r\nCoreStartupTime: {time}"
        else:
            link.reply(action)
            return
        link.write(
            f"Response: Success\r\nActionID: {action['ActionID']}\r\n{headers}\r\n\r\n".encode()
        )

    async with Peer(script) as peer:
        queues = Queues(await client_of(peer))
        if usable:
            assert await queues.started_at() == "2026-11-22 18:14:52"
        else:
            with pytest.raises(QueuesUnavailable, match="no start-up time given"):
                await queues.started_at()


async def test_a_note_that_asterisk_keeps_is_not_read_twice(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] == "Setvar":
            link.reply(action, "Variable not set", response="Error")
            return
        link.reply(action)
        link.event(
            "DBGetTreeResponse",
            Key=f"/fastagi/{NOTE.key}",
            Val=NOTE.value(),
            ActionID=action["ActionID"],
        )
        link.event("DBGetTreeComplete", ActionID=action["ActionID"])

    async with Peer(script) as peer:
        queues = Queues(await client_of(peer))
        assert await queues.notes() == [NOTE]
        with capture_logs() as logs:
            await queues.forget([NOTE])
        assert [log["count"] for log in logs] == [1]
        assert await queues.notes() == []


async def test_notes_that_may_not_be_read(client_of: Any) -> None:
    async with Peer(lambda link, a: link.reply(a, "Permission denied", response="Error")) as peer:
        with pytest.raises(QueuesUnavailable, match="Permission denied"):
            await Queues(await client_of(peer)).notes()
