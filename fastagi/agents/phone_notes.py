"""What phones did while no service was there: the notes of the fallback, in Asterisk's database."""

from collections.abc import Mapping
from typing import Any

from fastagi.agents.commands import Actor, Pause, Unpause
from fastagi.agents.devices import device_key
from fastagi.agents.model import AgentState, Change
from fastagi.agents.notes import Note
from fastagi.agents.ports import Queues
from fastagi.contract import Script, Source


def noted_by(note: Note, asterisk: str, number: str) -> dict[str, Any]:
    """The fields of the command that the fallback has noted: the same however often it is read."""
    return {
        "id": f"note-{asterisk}-{note.key}",
        "agent": number,
        "source": Source.PHONE,
        "actor": Actor(channel=note.channel, caller_id=note.caller_id, unique_id=note.unique_id),
    }


async def with_notes(queues: Queues, states: Mapping[str, AgentState]) -> set[str]:
    """Those of these agents at whose phones the fallback has left a note that was not taken yet:
    what they are is not known. Raises QueuesUnavailable."""
    devices = {n: state.session.device for n, state in states.items() if state.session}
    keys: set[str] = set()
    for asterisk in {device.asterisk for device in devices.values()}:
        if asterisk in queues.names and queues.connected(asterisk):
            notes = await queues.notes(asterisk)
            keys |= {device_key(asterisk, note.interface) for note in notes}
    return {number for number, device in devices.items() if device.key in keys}


async def overtaken_by(queues: Queues, change: Change) -> Note | None:
    """The first note of a phone that has paused or unpaused since the change was decided, without
    any service: then Asterisk is as the agent wants it, and the notes of the fallback tell how it
    came about. Raises QueuesUnavailable."""
    session = change.before.session
    if session is None or not isinstance(change.command, Pause | Unpause):
        return None
    device = session.device
    notes = [
        note
        for note in await queues.notes(device.asterisk)
        if note.at >= change.at
        and note.script in (Script.PAUSE, Script.UNPAUSE)
        and device_key(device.asterisk, note.interface) == device.key
    ]
    return min(notes, key=lambda note: note.key, default=None)
