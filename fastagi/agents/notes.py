"""Notes that the fallback leaves in Asterisk's database while the service is away. Pure.

One note per change, written before the change is made, so that whoever sees the change can know
who made it. A value holds at most 255 bytes (``MAX_DB_FIELD`` of Asterisk's manager).
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from fastagi.agents.text import Unusable, parsed_object, storable, tidied
from fastagi.contract import Script

MAX_VALUE = 255
_KEY = re.compile(r"(?P<at>[0-9]{13})-(?P<unique_id>[A-Za-z0-9_.-]{1,80})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SCRIPTS = frozenset({Script.PAUSE, Script.UNPAUSE, Script.LOGOFF})


@dataclass(frozen=True, slots=True)
class Note:
    """A phone paused, unpaused or logged off without the service."""

    at: datetime
    script: Script
    interface: str
    reason: str = ""  # the pause reason's code
    channel: str = ""
    caller_id: str = ""
    unique_id: str = ""

    @property
    def key(self) -> str:
        """Names the note; later ones sort behind earlier ones."""
        # In whole numbers: what is read has to have the key under which it was written.
        return f"{(self.at - _EPOCH) // _MILLISECOND:013d}-{self.unique_id}"

    def value(self) -> str:
        """Raises ValueError when it would not fit."""
        fields = {
            "s": self.script.value,
            "i": self.interface,
            "r": self.reason,
            "c": self.channel,
            "n": self.caller_id,
        }
        text = json.dumps(
            {name: text for name, text in fields.items() if text}, separators=(",", ":")
        )
        if len(text.encode()) > MAX_VALUE:
            raise ValueError("the note is too long")
        return text

    @classmethod
    def parse(cls, key: str, value: str) -> Self:
        """Raises Unusable for what is no note of ours: whoever can write to Asterisk's database
        can leave anything there."""
        match = _KEY.fullmatch(key)
        if match is None:
            raise Unusable("key: is not that of a note")
        if len(value) > MAX_VALUE:
            raise Unusable(f"value: is longer than {MAX_VALUE} characters")
        fields = parsed_object("value", value)
        script = storable("s", fields.get("s", ""))
        if script not in _SCRIPTS:
            raise Unusable("s: is nothing that a phone does without the service")
        return cls(
            at=_EPOCH + int(match["at"]) * _MILLISECOND,
            script=Script(script),
            interface=storable("i", fields.get("i", ""), needed=True),
            reason=storable("r", fields.get("r", "")),
            # Only shown: whatever a caller's phone calls itself is no reason to lose the note.
            channel=tidied(storable("c", fields.get("c", ""), controls=True)),
            caller_id=tidied(storable("n", fields.get("n", ""), controls=True)),
            unique_id=match["unique_id"],
        )
