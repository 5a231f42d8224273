"""A queue member as Asterisk tells of it, in a list (``QueueStatus``) and in an event.

Pure. The list says Name and Location where the events say MemberName and Interface; all else is
the same, and in the same order (app_queue.c, ``queue_member_blob_create`` and
``manager_queues_status``).
"""

import re
from dataclasses import replace

from fastagi.agents.operations import ReportedMember
from fastagi.agents.text import MAX_NUMBER, Unusable, is_text, number, storable, tidied
from fastagi.ami.actions import MAX_NAME, SEPARATORS
from fastagi.ami.client import parse_headers

_UNSAYABLE = SEPARATORS.search

# devicestate.h: AST_DEVICE_UNAVAILABLE, "for example because it is not registered".
UNREACHABLE = "5"
# AST_DEVICE_INVALID, "not valid: an error occurred": no such endpoint, no such hint.
INVALID = "4"

MAX_SECONDS = 10**12  # since 1970

# One search instead of twenty headers taken apart: fifty thousand members come in one answer, and
# each login brings an event per queue.
_MEMBER = re.compile(
    r"\r\nQueue: ([^\r]+)\r\n(?:Member)?Name: ([^\r]*)\r\n(?:Interface|Location): ([^\r]+)"
    r"\r\nStateInterface: ([^\r]*)\r\nMembership: ([^\r]*)\r\nPenalty: ([0-9]{1,10})"
    r"\r\nCallsTaken: [0-9]+\r\nLastCall: ([0-9]{1,12})(?:\r\nLastPause: [0-9]+)?"
    r"(?:\r\nLoginTime: [0-9]+)?\r\nInCall: ([01])\r\nStatus: ([0-9]+)\r\nPaused: ([01])"
    r"\r\nPausedReason: ([^\r]*)"
).search


def member(raw: bytes, asterisk: str = "") -> ReportedMember:
    """The member an event or an item of a list tells of.

    Raises Unusable when it names no queue or no interface, when these cannot be stored, or a number
    is none or out of range.
    """
    text = raw.decode("utf-8", "replace")
    found = _MEMBER(text)
    if found is None:
        return _of_headers(parse_headers(raw), asterisk)
    queue, name, interface, state, membership, penalty, last, in_call, status, paused, reason = (
        found.groups()
    )
    level = int(penalty)
    if level > MAX_NUMBER:
        raise Unusable(f"Penalty: is not from 0 to {MAX_NUMBER}")
    return ReportedMember(
        storable("Queue", queue),
        storable("Interface", interface),
        _sayable(state) or interface,
        tidied(name),
        level,
        paused == "1",
        _sayable(reason),
        in_call == "1",
        membership == "dynamic",
        status == UNREACHABLE,
        float(int(last)),
        asterisk,
        invalid=status == INVALID,
    )


def _of_headers(headers: dict[str, str], asterisk: str) -> ReportedMember:
    """An Asterisk that gives them in another order, or gives others."""
    interface = headers.get("Interface") or headers.get("Location", "")
    queue = headers.get("Queue", "")
    return ReportedMember(
        queue=storable("Queue", queue, needed=True),
        interface=storable("Interface", interface, needed=True),
        state_interface=_sayable(headers.get("StateInterface", "")) or interface,
        name=tidied(headers.get("MemberName") or headers.get("Name", "")),
        penalty=number("Penalty", headers.get("Penalty") or 0),
        paused=headers.get("Paused") == "1",
        reason=_sayable(headers.get("PausedReason", "")),
        in_call=headers.get("InCall") == "1",
        dynamic=headers.get("Membership") == "dynamic",
        unreachable=headers.get("Status") == UNREACHABLE,
        last_call=float(number("LastCall", headers.get("LastCall") or 0, most=MAX_SECONDS)),
        asterisk=asterisk,
        invalid=headers.get("Status") == INVALID,
    )


def unsure(raw: bytes, asterisk: str = "") -> ReportedMember | None:
    """Of an item that ``member`` cannot read: that there is such a member, if that much can be
    read."""
    headers = parse_headers(raw)
    usable = {key: headers[key] for key in _NAMES if key in headers}
    try:
        return replace(_of_headers(usable, asterisk), unsure=True)
    except Unusable:
        return None


_NAMES = ("Queue", "Interface", "Location", "MemberName", "Name", "Membership", "InCall")


def _sayable(text: str) -> str:
    """As it can be said back to Asterisk, which takes more at its console than ``QueueAdd`` may
    safely carry (see ``actions``): a member whom somebody paused "till 3, doctor" has to be put
    back after a restart."""
    if len(text) < 20 and is_text(text) and not _UNSAYABLE(text):
        return text
    text = "".join(" " if _UNSAYABLE(c) or not is_text(c) else c for c in text).strip()
    return text.encode()[:MAX_NAME].decode("utf-8", "ignore").strip()
