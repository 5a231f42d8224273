"""The lamps on desk phones: a custom device state each for "logged in" and "paused".

Needs the write class ``call``. Asterisk keeps these states in its database, over restarts.
"""

import re

from fastagi.agents.events import Event
from fastagi.contract import LOGIN_LAMP, PAUSE_LAMP, EventType
from fastagi.outbox.asterisk import Action, Ami, AmiSink

ON = "INUSE"
OFF = "NOT_INUSE"
MOVED = "moved"

# The number stands inside DEVICE_STATE(…), in a hint and in a key of Asterisk's database.
_NUMBER = re.compile(r"[A-Za-z0-9_.+-]{1,60}")


def sink(ami: Ami) -> AmiSink:
    return AmiSink(ami, actions)


def actions(event: Event) -> list[Action]:
    """The lamps that this event changes. Raises ValueError.

    A log-in leaves the pause lamp alone, and a log-off because the agent moved leaves both: who
    moves stays logged in, and paused if paused.
    """
    if event.type is EventType.LOGIN:
        return [_lamp(LOGIN_LAMP, event.agent, ON)]
    if event.type is EventType.LOGOUT and event.reason != MOVED:
        return [_lamp(LOGIN_LAMP, event.agent, OFF), _lamp(PAUSE_LAMP, event.agent, OFF)]
    if event.type is EventType.PAUSE:
        return [_lamp(PAUSE_LAMP, event.agent, ON)]
    if event.type is EventType.UNPAUSE:
        return [_lamp(PAUSE_LAMP, event.agent, OFF)]
    return []


def _lamp(name: str, number: str, state: str) -> Action:
    if not _NUMBER.fullmatch(number):
        raise ValueError("Agent: a lamp's name takes only letters, digits and _ . + -")
    device = name.format(number=number)
    return {"Action": "Setvar", "Variable": f"DEVICE_STATE({device})", "Value": state}
