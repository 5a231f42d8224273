"""Where the hall says what an admin should know, and how it does not repeat itself."""

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
