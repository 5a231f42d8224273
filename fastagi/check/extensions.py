"""Asterisk's loaded dialplan: which extension a number reaches, and what hides what.

Extensions are written as Asterisk shows them: ``*31`` is one number, ``_*31X.`` a pattern. The
order of the search is Asterisk's own (pbx.c, ``pbx_find_extension``): the extensions of the
context, the most exact first; then its switches; then its includes, one after the other.
"""

import itertools
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final, Self

from fastagi.contract import FEATURES_CONTEXT

_DIGITS: Final = "0123456789"
_WILDCARDS: Final = {
    "X": frozenset(_DIGITS),
    "Z": frozenset(_DIGITS[1:]),
    "N": frozenset(_DIGITS[2:]),
}
# Extensions that are not dialled: Asterisk goes there by itself.
_SPECIAL: Final = frozenset(("s", "i", "t", "T", "h", "o", "a", "e", "fax", "failed"))


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of one extension: for each place the characters it may have, then the tail:
    ``""`` nothing more, ``"."`` one character or more, ``"!"`` any number of them."""

    places: tuple[frozenset[str], ...]
    tail: str = ""

    @classmethod
    def number(cls, text: str) -> Self:
        return cls(tuple(frozenset(char) for char in text.replace("-", "")))

    @classmethod
    def pattern(cls, text: str) -> Self:
        """``text`` without the leading underscore. What Asterisk would not read matches nothing."""
        places: list[frozenset[str]] = []
        at = 0
        while at < len(text):
            char = text[at]
            if char in ".!":
                return cls(tuple(places), char)
            if char == "[":
                end = text.find("]", at)
                if end < 0:
                    return cls((frozenset(),))
                places.append(_one_of(text[at + 1 : end]))
                at = end
            elif char != "-":  # for the eye only
                places.append(_WILDCARDS.get(char.upper(), frozenset(char)))
            at += 1
        return cls(tuple(places))

    @property
    def shortest(self) -> int:
        return len(self.places) + (self.tail == ".")

    @property
    def longest(self) -> float:
        return float("inf") if self.tail else len(self.places)

    @property
    def catch_all(self) -> bool:
        """Begins with at most one fixed character and has no end: ``_.``, ``_*X.``, ``_X!``."""
        fixed = 0
        for place in self.places:
            if len(place) != 1:
                break
            fixed += 1
        return bool(self.tail) and fixed < 2

    @property
    def begins_fixed(self) -> bool:
        return bool(self.places) and len(self.places[0]) == 1

    def matches(self, number: str) -> bool:
        return self.overlaps(Shape.number(number))

    def overlaps(self, other: "Shape") -> bool:
        """There is a number that both have."""
        return all(mine & its for mine, its in zip(self.places, other.places, strict=False)) and (
            max(self.shortest, other.shortest) <= min(self.longest, other.longest)
        )

    def example(self, other: "Shape") -> str:
        """A number that both have; they must overlap."""
        length = max(self.shortest, other.shortest)
        chars = []
        for at in range(length):
            sets = [s.places[at] for s in (self, other) if at < len(s.places)]
            chars.append(min(frozenset.intersection(*sets)) if sets else "1")
        return "".join(chars)

    def numbers(self, most: int) -> list[str]:
        """All of them; none where there are more than ``most``."""
        if self.tail or math.prod(map(len, self.places)) > most:
            return []
        return ["".join(chars) for chars in itertools.product(*map(sorted, self.places))]

    @property
    def order(self) -> tuple[tuple[int, int, str], ...]:
        """Of several that match, Asterisk takes the one with the least (``ext_cmp``)."""
        end = {"": 3, ".": 1, "!": 2}[self.tail]
        places = [(0, len(place), min(place, default="")) for place in self.places]
        return (*places, (end, 0, ""))


def _one_of(inside: str) -> frozenset[str]:
    chars: set[str] = set()
    at = 0
    while at < len(inside):
        first, last = inside[at], inside[at + 2 : at + 3]
        if inside[at + 1 : at + 2] == "-" and last:
            chars.update(map(chr, range(ord(first), ord(last) + 1)))
            at += 3
        else:
            chars.add(first)
            at += 1
    return frozenset(chars)


@lru_cache(maxsize=20_000)
def shape(extension: str) -> Shape:
    """Of an extension as the dialplan has it."""
    if extension.startswith("_"):
        return Shape.pattern(extension[1:])
    return Shape.number(extension)


@dataclass(frozen=True, slots=True)
class Step:
    application: str
    data: str


@dataclass(slots=True)
class Context:
    """What one context holds, without what it includes."""

    name: str
    steps: dict[str, list[Step]] = field(default_factory=dict)  # by extension
    hints: dict[str, str] = field(default_factory=dict)  # extension -> devices
    includes: list[str] = field(default_factory=list)
    switches: list[str] = field(default_factory=list)

    @classmethod
    def of_rows(cls, name: str, rows: Iterable[Mapping[str, str]]) -> Self:
        """``rows``: those of AMI's ShowDialPlan; others than this context's are left out."""
        self = cls(name)
        for row in rows:
            if row.get("Context") != name:
                continue
            if include := row.get("IncludeContext"):
                self.includes.append(re.split(r"[,|]", include)[0].strip())  # without its hours
            elif switch := row.get("Switch") or row.get("SwitchEval"):
                self.switches.append(switch)
            elif extension := row.get("Extension"):
                application, data = row.get("Application", ""), row.get("AppData", "")
                if row.get("Priority") == "hint":
                    self.hints[extension] = application
                else:
                    self.steps.setdefault(extension, []).append(Step(application, data))
        return self

    def best(self, number: str) -> str | None:
        """The extension that takes this number."""
        if number in self.steps:
            return number
        dialled = Shape.number(number)
        fitting = [e for e in self.steps if shape(e).overlaps(dialled)]
        return min(fitting, key=lambda e: (e.startswith("_"), shape(e).order), default=None)

    def dialled(self) -> Iterator[str]:
        """Extensions that somebody can dial."""
        return (extension for extension in self.steps if extension not in _SPECIAL)


class Denied(Exception):
    """This manager user may not look at the dialplan; the text is Asterisk's."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a number ends."""

    context: str
    extension: str


@dataclass(frozen=True, slots=True)
class Switch:
    """A place into which nobody can look from outside: ``switch => Realtime/…``."""

    context: str
    switch: str


class Way(Enum):
    """What becomes of a number that is dialled in a context."""

    REACHED = "reached"  # it ends in one of the feature codes
    UNSEEN = "unseen"  # it goes on to where nobody can look from outside
    HIDDEN = "hidden"  # another extension takes it
    NOTHING = "nothing"  # no extension takes it


@dataclass(frozen=True, slots=True)
class Reach:
    """``by``: the extension that took it, the switch that was met, or where it was found."""

    way: Way
    by: str = ""
    context: str = ""


_BEST: Final = (Way.REACHED, Way.UNSEEN, Way.HIDDEN, Way.NOTHING)
_DEEPEST: Final = 50  # jumps that are followed
_MOST: Final = 2_000  # contexts
# After one of these nothing more is done with the number that was dialled.
_ENDS: Final = frozenset(("hangup", "busy", "congestion", "dial", "queue", "voicemail", "agi"))
_JUMPS: Final = frozenset(("goto", "gosub", "gotoif", "gosubif", "gotoiftime", "execif"))
_EXTEN: Final = re.compile(r"\$\{EXTEN(?::(-?\d+))?(?::(-?\d+))?\}", re.ASCII)

Rows = list[dict[str, str]] | str


class Dialplan:
    """The loaded dialplan, each context asked for once.

    ``show`` gives the rows of a context, or what Asterisk says instead. ``Denied`` comes out of
    every method where Asterisk says "Permission denied".
    """

    def __init__(self, show: Callable[[str], Awaitable[Rows]]) -> None:
        self._show = show
        self._contexts: dict[str, Context | str] = {}

    async def context(self, name: str) -> Context | str:
        """The context, or why it cannot be had."""
        if name not in self._contexts:
            if len(self._contexts) >= _MOST:
                return "too many contexts"
            rows = await self._show(name)
            if isinstance(rows, str) and rows.startswith("Permission denied"):
                raise Denied(rows)
            self._contexts[name] = rows if isinstance(rows, str) else Context.of_rows(name, rows)
        return self._contexts[name]

    async def search(self, name: str) -> list[Context]:
        """This context and all it includes, in the order in which Asterisk looks into them."""
        order: list[Context] = []
        await self._collect(name, order, set())
        return order

    async def _collect(self, name: str, order: list[Context], seen: set[str]) -> None:
        if name in seen:
            return
        seen.add(name)
        found = await self.context(name)
        if isinstance(found, str):
            return
        order.append(found)
        for include in found.includes:
            await self._collect(include, order, seen)

    async def find(self, name: str, number: str) -> Found | Switch | None:
        for context in await self.search(name):
            extension = context.best(number)
            if extension is not None:
                return Found(context.name, extension)
            if context.switches:
                return Switch(context.name, context.switches[0])
        return None

    async def reach(self, name: str, number: str) -> Reach:
        """Does this number, dialled in this context, end in one of the feature codes?

        Jumps are followed as far as they can be read: a context that hands everything on with
        ``Goto(internal,${EXTEN},1)`` reaches what the other one reaches.
        """
        return await self._reach(name, number, set())

    async def _reach(self, name: str, number: str, seen: set[tuple[str, str]]) -> Reach:
        if (name, number) in seen or len(seen) >= _DEEPEST:
            return Reach(Way.NOTHING)
        seen.add((name, number))
        found = await self.find(name, number)
        if found is None:
            return Reach(Way.NOTHING)
        if isinstance(found, Switch):
            return Reach(Way.UNSEEN, f"switch => {found.switch} in [{found.context}]")
        if found.context == FEATURES_CONTEXT:
            return Reach(Way.REACHED, found.extension, name)
        best = Reach(Way.HIDDEN, f"{found.extension} in [{found.context}]", found.context)
        context = await self.context(found.context)
        for step in context.steps[found.extension] if isinstance(context, Context) else ():
            for target in _targets(step, name, number):
                if target is None:
                    unseen = f"{step.application}({step.data}) of {best.by}"
                    there = Reach(Way.UNSEEN, unseen, found.context)
                else:
                    there = await self._reach(*target, seen)
                if there.way is not Way.HIDDEN and _BEST.index(there.way) < _BEST.index(best.way):
                    best = there
            if step.application.lower() in _ENDS or step.application.lower() == "goto":
                break
        return best


def _targets(step: Step, context: str, number: str) -> list[tuple[str, str] | None]:
    """Where the step may lead: context and number; None: that cannot be told from outside."""
    application = step.application.lower()
    data = step.data
    if application == "dial":
        local = re.match(r"Local/([^@,/&]+)@([^/,&]+)", data, re.IGNORECASE)
        return [None] if local and _EXTEN.search(local[1]) else []
    if application not in _JUMPS:
        return []
    places = [data]
    if application in ("gotoif", "gosubif", "gotoiftime"):
        places = _split(data.partition("?")[2], ":")
    elif application == "execif":
        calls = [
            re.fullmatch(r"\s*(?:goto|gosub)\((.*)\)\s*", call, re.IGNORECASE)
            for call in _split(data.partition("?")[2], ":")
        ]
        places = [call[1] for call in calls if call]
    found: list[tuple[str, str] | None] = []
    for place in places:
        words = _split(place.strip(), ",")
        if len(words) < 2:  # a priority or a label of the same extension
            continue
        if len(words) == 2:
            words = [context, *words]
        there, dialled = (_filled_in(word, context, number) for word in words[:2])
        found.append(None if "${" in there + dialled or "$[" in dialled else (there, dialled))
    return found


def _filled_in(text: str, context: str, number: str) -> str:
    def cut(match: "re.Match[str]") -> str:
        start, length = int(match[1] or 0), match[2]
        rest = number[start:]
        if length is None:
            return rest
        return rest[: int(length)]

    return _EXTEN.sub(cut, text.strip()).replace("${CONTEXT}", context)


def _split(text: str, at: str) -> list[str]:
    """At commas (or colons) that are in no bracket."""
    parts, depth, begin = [], 0, 0
    for place, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == at and depth <= 0:
            parts.append(text[begin:place])
            begin = place + 1
    return [*parts, text[begin:]]


async def hidden(dialplan: Dialplan, name: str, codes: Sequence[str]) -> dict[tuple[str, str], str]:
    """What the feature codes take away from those who dial in this context.

    ``(extension, context)`` -> the code that comes before it. An extension that takes nearly
    everything (``_*X.``, ``_.``) is there for what nothing else takes, and hidden from nobody.
    """
    order = await dialplan.search(name)
    names = [context.name for context in order]
    if FEATURES_CONTEXT not in names:
        return {}
    place = names.index(FEATURES_CONTEXT)
    ours = [(extension, shape(extension)) for extension in order[place].dialled()]
    begins = frozenset[str]().union(*(code.places[0] for _, code in ours if code.places))
    found: dict[tuple[str, str], str] = {}
    for context in order[place + 1 :]:
        for extension in context.dialled():
            its = shape(extension)
            if its.catch_all or not (its.places and its.places[0] & begins):
                continue
            for mine, code in ours:
                if not code.overlaps(its):
                    continue
                taken = await dialplan.find(name, code.example(its))
                if isinstance(taken, Found) and taken.context == FEATURES_CONTEXT:
                    whole = mine.lstrip("_").rstrip("X.!#")
                    by = max((c for c in codes if whole.startswith(c)), key=len, default=whole)
                    found[extension, context.name] = by
                    break
    return found
