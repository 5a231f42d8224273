"""Where the service says what an admin should know, and how it does not repeat itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Log(Protocol):
    """A structured log: a constant message, and fields."""

    def info(self, event: str, /, **values: Any) -> Any: ...

    def warning(self, event: str, /, **values: Any) -> Any: ...

    def error(self, event: str, /, **values: Any) -> Any: ...


class Trouble:
    """Something that may last for hours, and is met at each attempt: logged when it begins, when
    it becomes another one, and when it is over.

        away = Trouble(log, "deliveries wait", "deliveries go on", sink="lamp")
        away.is_there(error="the disk is full")  # at each attempt that fails
        away.is_over()  # at each that succeeds

    What was said is not said again before it is over, also when two texts take turns, and no
    more than ``MOST`` texts are said of one trouble: some hold a figure that is never the same.
    """

    MOST = 5

    def __init__(self, log: Log, begins: str, over: str, /, **fields: Any) -> None:
        self._log = log
        self._begins = begins
        self._over = over
        self._fields = fields
        self._said: list[dict[str, Any]] = []

    def __bool__(self) -> bool:
        """Whether it is there."""
        return bool(self._said)

    def is_there(self, **fields: Any) -> None:
        if fields in self._said or len(self._said) >= self.MOST:
            return
        self._said.append(fields)
        self._log.warning(self._begins, **self._fields, **fields)

    def is_over(self) -> None:
        if self._said:
            self._said.clear()
            self._log.info(self._over, **self._fields)


@dataclass(slots=True)
class _Kind:
    written: float  # when, on the clock
    more: int = 0  # since


class Repeats:
    """Log lines of many kinds: each is written the first time, and then not again for ``every``
    seconds, but counted. ``most``: kinds that are told apart."""

    def __init__(
        self, most: int, every: float = float("inf"), clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._most = most
        self._every = every
        self._clock = clock
        self._kinds: dict[tuple[str, ...], _Kind] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def key(self, *kind: str, shared: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Of a kind, for what follows: one that is too many shares this key."""
        return kind if kind in self._kinds or len(self._kinds) < self._most else shared

    def count(self, key: tuple[str, ...]) -> int | None:
        """Counts one. How many came since the last that was written; None: this one is not."""
        now = self._clock()
        kind = self._kinds.get(key)
        if kind is None:
            self._kinds[key] = _Kind(now)
            return 0
        kind.more += 1
        if now < kind.written + self._every:
            return None
        more, kind.more, kind.written = kind.more, 0, now
        return more

    def take(self, key: tuple[str, ...]) -> int:
        """How many came since the last that was written; 0: the kind is forgotten."""
        kind = self._kinds[key]
        more, kind.more = kind.more, 0
        if not more:
            del self._kinds[key]
        return more
