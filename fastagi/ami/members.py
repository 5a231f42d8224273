"""A queue member as Asterisk tells of it, in a list (``QueueStatus``) and in an event.

Pure. The list says Name and Location where the events say MemberName and Interface; all else is
the same, and in the same order (app_queue.c, ``queue_member_blob_create`` and
``manager_queues_status``).
"""

import re

from fastagi.agents.operations import ReportedMember
from fastagi.ami.actions import MAX_NAME, SEPARATORS
from fastagi.ami.client import parse_headers

_UNSAYABLE = SEPARATORS.search

# devicestate.h: AST_DEVICE_UNAVAILABLE, "for example because it is not registered".
UNREACHABLE = "5"

# One search instead of twenty headers taken apart: fifty thousand members come in one answer, and
# each login brings an event per queue.
_MEMBER = re.compile(
    r"\r\nQueue: ([^\r]+)\r\n(?:Member)?Name: ([^\r]*)\r\n(?:Interface|Location): ([^\r]+)"
    r"\r\nStateInterface: ([^\r]*)\r\nMembership: ([^\r]*)\r\nPenalty: ([0-9]+)"
    r"\r\nCallsTaken: [0-9]+\r\nLastCall: ([0-9]+)(?:\r\nLastPause: [0-9]+)?"
    r"(?:\r\nLoginTime: [0-9]+)?\r\nInCall: ([01])\r\nStatus: ([0-9]+)\r\nPaused: ([01])"
    r"\r\nPausedReason: ([^\r]*)"
).search


def member(raw: bytes, asterisk: str = "") -> ReportedMember:
    """The member an event or an item of a list tells of.

    Raises ValueError when it names no queue or no interface, or a number is none.
    """
    text = raw.decode("utf-8", "replace")
    found = _MEMBER(text)
    if found is None:
        return _of_headers(parse_headers(raw), asterisk)
    queue, name, interface, state, membership, penalty, last, in_call, status, paused, reason = (
        found.groups()
    )
    return ReportedMember(
        queue,
        interface,
        _sayable(state) or interface,
        name,
        int(penalty),
        paused == "1",
        _sayable(reason),
        in_call == "1",
        membership == "dynamic",
        status == UNREACHABLE,
        float(int(last)),
        asterisk,
    )


def _of_headers(headers: dict[str, str], asterisk: str) -> ReportedMember:
    """An Asterisk that gives them in another order, or gives others."""
    interface = headers.get("Interface") or headers.get("Location", "")
    queue = headers.get("Queue", "")
    if not interface or not queue:
        raise ValueError("no Queue or no Interface")
    return ReportedMember(
        queue=queue,
        interface=interface,
        state_interface=_sayable(headers.get("StateInterface", "")) or interface,
        name=headers.get("MemberName") or headers.get("Name", ""),
        penalty=int(headers.get("Penalty") or 0),
        paused=headers.get("Paused") == "1",
        reason=_sayable(headers.get("PausedReason", "")),
        in_call=headers.get("InCall") == "1",
        dynamic=headers.get("Membership") == "dynamic",
        unreachable=headers.get("Status") == UNREACHABLE,
        last_call=float(int(headers.get("LastCall") or 0)),
        asterisk=asterisk,
    )


def _sayable(text: str) -> str:
    """As it can be said back to Asterisk, which takes more at its console than ``QueueAdd`` may
    safely carry (see ``actions``): a member whom somebody paused "till 3, doctor" has to be put
    back after a restart."""
    if len(text) < 20 and text.isprintable() and not _UNSAYABLE(text):
        return text
    text = "".join(" " if _UNSAYABLE(c) or not c.isprintable() else c for c in text).strip()
    return text.encode()[:MAX_NAME].decode("utf-8", "ignore").strip()
