"""What a look at one thing came to."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

SHOWN: Final = 5  # names in one message


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``mend`` is empty where nothing is to be done."""

    level: Level
    about: str
    what: str
    where: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unmatched(Finding):
    """A device rule that fits no phone of this Asterisk; of several it may be meant for another."""


def ok(about: str, what: str, where: str) -> Finding:
    return Finding(Level.OK, about, what, where)


def warning(about: str, what: str, where: str, mend: str) -> Finding:
    return Finding(Level.WARNING, about, what, where, mend)


def problem(about: str, what: str, where: str, mend: str) -> Finding:
    return Finding(Level.PROBLEM, about, what, where, mend)


def some(names: Iterable[str]) -> str:
    """``a, b, c and 7 more``"""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def one_line(text: object) -> str:
    return " ".join(str(text).split())
