"""The lamps on desk phones: a custom device state each for "logged in" and "paused".

Needs the write class ``call``. Asterisk keeps these states in its database, over restarts.
"""

import re
from collections.abc import Collection, Iterable, Mapping

from fastagi.agents.events import Event
from fastagi.agents.model import AgentState, Status
from fastagi.contract import LOGIN_LAMP, PAUSE_LAMP, EventType
from fastagi.outbox.asterisk import Action, Ami, AmiSink

ON = "INUSE"
BLINKING = "RINGING"
OFF = "NOT_INUSE"
MOVED = "moved"

# The number stands inside DEVICE_STATE(…), in a hint and in a key of Asterisk's database.
_NUMBER = re.compile(r"[A-Za-z0-9_.+-]{1,60}")


def sink(amis: Ami | Mapping[str, Ami]) -> AmiSink:
    return AmiSink(amis, actions, everywhere=True)


def actions(event: Event) -> list[Action]:
    """The lamps that this event changes. Raises ValueError.

    A log-in leaves the pause lamp alone, and a log-off because the agent moved leaves both: who
    moves stays logged in, and paused if paused.
    """
    if event.in_part:
        return []
    if event.type is EventType.LOGIN:
        return [_lamp(LOGIN_LAMP, event.agent, ON)]
    if event.type is EventType.LOGOUT and event.reason != MOVED:
        return [_lamp(LOGIN_LAMP, event.agent, OFF), _lamp(PAUSE_LAMP, event.agent, OFF)]
    if event.type is EventType.PAUSE:
        return [_lamp(PAUSE_LAMP, event.agent, ON)]
    if event.type is EventType.UNPAUSE:
        return [_lamp(PAUSE_LAMP, event.agent, OFF)]
    if event.type is EventType.PAUSE_EXCEEDED:
        return [_lamp(PAUSE_LAMP, event.agent, BLINKING)]
    return []


def refresh(states: Iterable[AgentState], blinking: Collection[str] = ()) -> list[Action]:
    """Both lamps of each of these agents, as they should be now: for an Asterisk that may show
    them as of before. Agents whose numbers no lamp can have are left out.

    ``blinking``: the ids of the pauses that have lasted too long.
    """
    found = []
    for state in states:
        if not _NUMBER.fullmatch(state.number):
            continue
        logged_in = state.status is not Status.LOGGED_OFF
        pause = OFF
        if state.pause is not None:
            pause = BLINKING if state.pause.id in blinking else ON
        found.append(_lamp(LOGIN_LAMP, state.number, ON if logged_in else OFF))
        found.append(_lamp(PAUSE_LAMP, state.number, pause))
    return found


def _lamp(name: str, number: str, state: str) -> Action:
    if not _NUMBER.fullmatch(number):
        raise ValueError("Agent: a lamp's name takes only letters, digits and _ . + -")
    device = name.format(number=number)
    return {"Action": "Setvar", "Variable": f"DEVICE_STATE({device})", "Value": state}
