"""A listener of server-sent events, written from the HTML standard (9.2.5 and 9.2.6)."""

import json
from typing import Any, NamedTuple


class Told(NamedTuple):
    id: str
    type: str
    data: dict[str, Any]


class Browser:
    """What a browser makes of the bytes."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry: int | None = None
        self.comments = 0
        self.told: list[Told] = []
        self._rest = b""
        self._id, self._type, self._data = last_id, "", ""

    def feed(self, text: bytes) -> None:
        *lines, self._rest = (self._rest + text).split(b"\n")
        for line in lines:
            self._line(line.decode())

    def _line(self, line: str) -> None:
        if not line:
            self.last_id = self._id
            if self._data:
                data = json.loads(self._data.removesuffix("\n"))
                self.told.append(Told(self.last_id, self._type or "message", data))
            self._data = self._type = ""
        elif line.startswith(":"):
            self.comments += 1
        else:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                self._data += value + "\n"
            elif field == "event":
                self._type = value
            elif field == "id":
                self._id = value
            elif field == "retry":
                self.retry = int(value)
            else:
                raise AssertionError(f"no such field: {line!r}")

    @property
    def seqs(self) -> list[int]:
        return [told.data["seq"] for told in self.told if told.type != "reset"]
