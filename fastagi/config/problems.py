"""What is wrong with a configuration, and where."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. ``line`` and ``column`` count from 1; ``path`` is ``agents[3].pin``. Of a
    warning ``mend`` says what to write instead; a mistake's message does so itself."""

    file: str
    line: int
    column: int
    path: str
    message: str
    mend: str = ""

    @property
    def place(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}"
        return f"{place}: {self.path}" if self.path else place

    def __str__(self) -> str:
        mend = f": {self.mend}" if self.mend else ""
        return f"{self.place}: {self.message}{mend}"


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` has every mistake of every file."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?``, or nothing when nothing comes near."""
    by_lower = {name.lower(): name for name in known}
    # ``hostname`` is as near to ``name`` as to ``host``: the beginning decides.
    if near := get_close_matches(word.lower(), by_lower, n=1, cutoff=0.8):
        return f", did you mean {by_lower[near[0]]!r}?"
    if begins := [name for name in by_lower if len(name) > 3 and word.lower().startswith(name)]:
        return f", did you mean {by_lower[max(begins, key=len)]!r}?"
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f", did you mean {by_lower[near[0]]!r}?" if near else ""
