"""Manager actions as plain dicts, ready for `Client.action` and `Client.actions`.

What cannot be said to Asterisk without being misread raises BadAction, which is a ValueError; the
text names what is wrong and never repeats the value.
"""

import re

from fastagi.agents.operations import AddMember, Operation, PauseMember, RemoveMember, SetPenalty
from fastagi.ami.client import BadAction

# Asterisk keeps 80 bytes, the last a zero, and cuts the rest off in the middle of a character.
MAX_NAME = 79
# app_queue stores persistent members as one text, joined by "|" and split on "|", "," and ";":
# with one of these in a name, members nobody added exist after a restart.
SEPARATORS = re.compile("[,|;]")

AmiAction = dict[str, str | int]


def _name(header: str, value: str, *, required: bool = True, separators: bool = False) -> str:
    if required and not value:
        raise BadAction(f"header {header}: is empty")
    # A text of 19 characters cannot have more than 79 bytes.
    if len(value) > 19 and len(value.encode("utf-8", "replace")) > MAX_NAME:
        raise BadAction(f"header {header}: longer than {MAX_NAME} bytes")
    if not separators and SEPARATORS.search(value):
        raise BadAction(f"header {header}: contains one of , | ;")
    return value


def _penalty(value: int) -> int:
    if type(value) is not int or value < 0:
        raise BadAction("header Penalty: must be 0 or more")
    return value


def queue_add(operation: AddMember) -> AmiAction:
    action: AmiAction = {
        "Action": "QueueAdd",
        "Queue": _name("Queue", operation.queue),
        "Interface": _name("Interface", operation.interface),
        "Penalty": _penalty(operation.penalty),
        "Paused": "true" if operation.paused else "false",
    }
    if operation.member_name:
        action["MemberName"] = _name("MemberName", operation.member_name)
    if operation.state_interface:
        action["StateInterface"] = _name("StateInterface", operation.state_interface)
    if operation.paused and operation.reason:
        action["Reason"] = _name("Reason", operation.reason)
    return action


def queue_remove(operation: RemoveMember) -> AmiAction:
    # Whatever stands in a queue can be taken out, also a name we would not have put in.
    return {
        "Action": "QueueRemove",
        "Queue": _name("Queue", operation.queue),
        "Interface": _name("Interface", operation.interface, separators=True),
    }


def queue_pause(operation: PauseMember) -> AmiAction:
    """Without a Queue header Asterisk pauses the interface in every queue it is in."""
    action: AmiAction = {
        "Action": "QueuePause",
        "Interface": _name("Interface", operation.interface, separators=True),
        "Paused": "true" if operation.paused else "false",
    }
    if operation.queue:
        action["Queue"] = _name("Queue", operation.queue)
    if operation.reason:
        action["Reason"] = _name("Reason", operation.reason)
    return action


def queue_penalty(operation: SetPenalty) -> AmiAction:
    return {
        "Action": "QueuePenalty",
        "Queue": _name("Queue", operation.queue),
        "Interface": _name("Interface", operation.interface, separators=True),
        "Penalty": _penalty(operation.penalty),
    }


def queue_operation(operation: Operation) -> AmiAction:
    if isinstance(operation, AddMember):
        return queue_add(operation)
    if isinstance(operation, RemoveMember):
        return queue_remove(operation)
    if isinstance(operation, PauseMember):
        return queue_pause(operation)
    return queue_penalty(operation)
