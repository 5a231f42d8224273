"""Text and numbers from outside, checked where they enter. Pure.

Asterisk, its database, telephones, programs over HTTP and a store written by another version may
say anything. What passes here can be stored by SQLite and PostgreSQL, encoded as UTF-8, sent to
Asterisk and logged.
"""

import json
import re
from typing import Any

MAX_NUMBER = 2**31 - 1  # what an integer column of PostgreSQL holds
MAX_TEXT = 255  # characters

# NUL cannot be stored by PostgreSQL, a lone surrogate by nobody.
_NEVER = re.compile("[\x00\ud800-\udfff]")
# Joined or not joined: parts of words in Persian, Hindi and others.
_WITHOUT_JOINERS = str.maketrans("", "", "\u200c\u200d")
# A line break, C1's and Unicode's own among them, begins a new header or log line. Joiners (U+200C,
# U+200D) belong into names.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Unusable(ValueError):
    """Cannot be used as it is. The text says which field and why and never repeats the value, so
    that there are few different texts, and each can be logged once."""


def storable(
    name: str,
    value: object,
    most: int = MAX_TEXT,
    *,
    needed: bool = False,
    controls: bool = False,
) -> str:
    """``value``, if it is text of at most ``most`` characters that can be stored; ``needed``: and
    is not empty; ``controls``: it may have several lines. Raises Unusable."""
    if not isinstance(value, str):
        raise Unusable(f"{name}: is no text")
    if len(value) > most:
        raise Unusable(f"{name}: is longer than {most} characters")
    if needed and not value:
        raise Unusable(f"{name}: is empty")
    unstorable = _NEVER if controls else _UNSTORABLE
    if not value.isprintable() and (found := unstorable.search(value)):
        lone = "\ud800" <= found[0] <= "\udfff"
        raise Unusable(f"{name}: has {'half a character' if lone else 'a control character'} in it")
    return value


def tidied(value: str, most: int = MAX_TEXT) -> str:
    """Text that is only shown: what cannot be stored becomes U+FFFD, what is too long is cut."""
    value = value[:most]
    return value if value.isprintable() else _UNSTORABLE.sub("\ufffd", value)


def number(name: str, value: object, least: int = 0, most: int = MAX_NUMBER) -> int:
    """A whole number, or ASCII digits that are one, within these bounds. Raises Unusable."""
    if isinstance(value, str):
        digits = value[1:] if value.startswith("-") else value
        if not digits.isascii() or not digits.isdigit():
            raise Unusable(f"{name}: is no number")
        # More digits than any bound has: Python refuses to read some thousands of them.
        value = int(value) if len(digits) <= 20 else most + 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unusable(f"{name}: is no number")
    if not least <= value <= most:
        raise Unusable(f"{name}: is not from {least} to {most}")
    return value


def parsed(name: str, text: object) -> Any:
    """What this JSON says. Raises Unusable, whatever is wrong with it."""
    if not isinstance(text, str):
        raise Unusable(f"{name}: is no text")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # the latter for brackets too deep
        raise Unusable(f"{name}: is no JSON") from None


def parsed_object(name: str, text: object) -> dict[str, Any]:
    """The same for an object. Raises Unusable."""
    value = parsed(name, text)
    if not isinstance(value, dict):
        raise Unusable(f"{name}: is no JSON object")
    return value


def is_text(text: str) -> bool:
    """Whether it is printable: no control character, nothing that turns lines around, no half of a
    character. U+200C and U+200D are parts of names."""
    return text.isprintable() or text.translate(_WITHOUT_JOINERS).isprintable()


def printable(text: str) -> str:
    """The text with everything that is not printable escaped: safe in a log line, a terminal."""
    if is_text(text):
        return text
    return "".join(c if is_text(c) else c.encode("unicode_escape").decode("ascii") for c in text)
