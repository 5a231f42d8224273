"""What is allowed, and hardly meant. Like ``checks``, these look at the plain data."""

import re
from collections.abc import Collection, Iterator
from typing import Any

from fastagi.agents.devices import Pattern, is_extension
from fastagi.config.document import Path
from fastagi.config.values import SOUND_SUFFIXES

# What the sample stands on until somebody gives values of his own.
SAMPLE_SECRET = "fastagi-demo"
SAMPLE_PIN = "4321"

# Keys of texts: there a # after a blank may be meant as a part of it.
_TEXTS = frozenset(
    ("secret", "token", "password", "name", "description", "database", "login", "type", "username")
)
_PLAIN = re.compile(r" *(?:- +)?(?P<key>[\w-]+) *: +[^\s\"'#\[{|>&*!]")
_LETTERS = re.compile(r"[A-Za-z]+")
_SHOWN = 5  # names in one message

Cautions = Iterator[tuple[Path, str, str]]  # the place, what is so, what to write instead


def cautions(data: dict[str, Any]) -> Cautions:
    yield from _sample(data)
    yield from _prompts(data)
    yield from _patterns(data)
    yield from _outside(data)
    yield from _old(data)


def _old(data: dict[str, Any]) -> Cautions:
    pause = data.get("pause")
    if isinstance(pause, dict) and "wrapup" in pause:
        yield (
            ("pause", "wrapup"),
            "has no effect any more: a pause in wrap-up begins at once, one that waits for a call's"
            " end begins with it",
            "nothing: take the line out",
        )


def hashes(text: str) -> Iterator[tuple[int, int, str]]:
    """Lines with a ``#`` right before a word: line, column (from 0) of the ``#``, and the key."""
    if " #" not in text and "\t#" not in text:
        return
    for number, line in enumerate(text.split("\n")):
        at = line.find("#")
        if at > 0 and line[at - 1] in " \t" and line[at + 1 : at + 2].strip():
            found = _PLAIN.match(line)
            if found is not None and found.end() < at:
                yield number, at, found["key"]


def is_text_key(key: str, path: str) -> bool:
    return key in _TEXTS or path.startswith("http.tokens.")


def _sample(data: dict[str, Any]) -> Cautions:
    one, several = data.get("asterisk"), data.get("asterisks")
    places: list[tuple[Path, Any]] = [(("asterisk", "secret"), one)]
    if isinstance(several, list):
        places += [(("asterisks", n, "secret"), item) for n, item in enumerate(several)]
    for path, section in places:
        if isinstance(section, dict) and section.get("secret") == SAMPLE_SECRET:
            yield (
                path,
                "the sample's secret, which everybody knows",
                "one of your own, here and in manager.conf (openssl rand -hex 16 makes one)",
            )
    agents = data.get("agents")
    if isinstance(agents, list):
        with_it = [
            (index, str(agent.get("number", "")))
            for index, agent in enumerate(agents)
            if isinstance(agent, dict) and agent.get("pin") == SAMPLE_PIN
        ]
        if with_it:
            yield (
                ("agents", with_it[0][0], "pin"),
                f"the sample's PIN, which everybody knows: {_some([n for _, n in with_it])}",
                "a PIN of their own for each of them",
            )


def _outside(data: dict[str, Any]) -> Cautions:
    """Codes from outside, and agents without a PIN."""
    agents = data.get("agents")
    without = [
        (index, agent)
        for index, agent in enumerate(agents if isinstance(agents, list) else ())
        if isinstance(agent, dict) and agent.get("pin") is None and agent.get("pin_hash") is None
    ]
    numbers = [(index, str(a.get("number", ""))) for index, a in without if a.get("outside")]
    if numbers:
        yield (
            ("agents", numbers[0][0], "outside"),
            f"at an outside number nobody logs in without a PIN: {_some([n for _, n in numbers])}",
            "a pin for each of them",
        )
    login = data.get("login")
    if without and isinstance(login, dict) and login.get("from"):
        who = _some([str(agent.get("number", "")) for _, agent in without])
        yield (
            ("login", "from"),
            f"whoever calls from there can log agents without a PIN in and off: {who}",
            "a pin for each of them",
        )


def _some(numbers: Collection[str]) -> str:
    listed = list(numbers)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"agent{'s' * (len(listed) > 1)} {', '.join(listed[:_SHOWN])}{more}"


def _prompts(data: dict[str, Any]) -> Cautions:
    section = data.get("prompts")
    for outcome, said in section.items() if isinstance(section, dict) else ():
        sounds = said if isinstance(said, list) else [said]
        for index, sound in enumerate(sounds):
            if not isinstance(sound, str):
                continue
            name, dot, ending = sound.rpartition(".")
            if dot and name and ending in SOUND_SUFFIXES:
                path: Path = ("prompts", outcome)
                yield (
                    (*path, index) if isinstance(said, list) else path,
                    f"Asterisk adds the ending itself, and finds no {sound}.{ending}",
                    name,
                )


def _patterns(data: dict[str, Any]) -> Cautions:
    rules = data.get("devices")
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        text = rule.get("match") if isinstance(rule, dict) else None
        if isinstance(text, str) and (meant := _meant(text)) is not None:
            yield (
                ("devices", index, "match"),
                f"a pattern, in which n is 2-9, x 0-9 and z 1-9: it never matches {text!r}",
                f'match: "{meant}"',
            )


def _meant(text: str) -> str | None:
    """The pattern for a name that its own letters keep from matching; None where all is well."""
    name = text.removeprefix("_")
    try:
        if Pattern.parse(text).matches(name):
            return None
    except ValueError:
        return None
    digits = any(char.isdigit() for char in name)
    meant, last = "", 0
    for found in _LETTERS.finditer(name):
        run = found[0]
        if (
            "[" in name[: found.start()]
            and "]" not in name[name.rindex("[", 0, found.start()) : found.start()]
        ):
            continue  # in brackets letters are themselves
        word = run.rstrip("XNZ")  # phoneXX: a word, and digits behind it
        if len(run) - len(word) == 1 and not digits and is_extension(name):
            word = run  # FAX: a single letter at the end of a name without digits is one of it
        if word.strip("xnzXNZ"):
            meant += name[last : found.start()] + re.sub("[xnzXNZ]", r"[\g<0>]", word)
            last = found.start() + len(word)
    meant += name[last:]
    return None if meant == name else meant
