"""What people get wrong in YAML, found by reading lines: where it is, and in plain words.

YAML's own parser stops where a text makes no sense any more. The mistake often stands lines above:
a quote that is not closed, a blank that is missing. Places are counted from 0, as YAML's marks are.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    line: int
    column: int
    message: str


JOINERS = "\u200c\u200d"  # part of words in Persian, Hindi and others
_MARKERS = re.compile(r"(<{7}|\|{7}|={7}|>{7})(?: |$)")
# Blanks that look like one and are none for YAML, and what cannot be seen at all.
_ODD = re.compile("[\u00a0\u1680\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff]")
_NO_WIDTH = "\u200b\u2060\ufeff"
_BESIDE = " \t:-,[]{}#"  # an odd blank beside one of these stands between words, not in a text
_KEY = re.compile(r"""[A-Za-z_][\w-]*|"[^"]*"|'[^']*'""")
_NO_BLANK = re.compile(r"""(?:^|(?<=[\s{,]))(?P<key>[A-Za-z_][\w-]*):(?=["'])""")
_ALONE = re.compile(r"\s*(?:- +)?(?P<key>[A-Za-z_][\w-]*):(?=[^\s:/])")
_NO_COLON = re.compile(r"\s+(?:- +)?(?P<key>[A-Za-z_]\w*)\s+[^\s:][^:]*$")
_DASH = re.compile(r" *-(?=[\w{\[\"'])")
_BLOCK_TEXT = re.compile(r"[|>][-+0-9]*\s*(#.*)?$")


def conflict(lines: Sequence[str]) -> Mistake | None:
    """Where git could not merge; the rest of such a file is not worth reading."""
    for number, line in enumerate(lines):
        if line.startswith(("<<<<<<<", ">>>>>>>")) and (found := _MARKERS.match(line)):
            return Mistake(
                number,
                0,
                f"{found[1]!r} is what git leaves of a merge: keep one of the two versions",
            )
    return None


def odd_blanks(text: str) -> Iterator[Mistake]:
    """No-break blanks and their like between words; one per line. In a text they are left alone:
    whoever reads the value says what he thinks of them."""
    if _ODD.search(text) is None:
        return
    for number, line in enumerate(text.split("\n")):
        for found in _ODD.finditer(line):
            at = found.start()
            before = line[:at].strip(" \t") and line[at - 1]
            after = line[at + 1 : at + 2]
            if _in_quotes_or_comment(line, at):
                continue
            if not before or not after or before in _BESIDE or after in _BESIDE:
                cure = "take it out" if found[0] in _NO_WIDTH else "write a blank"
                yield Mistake(number, at, f"{character(found[0])} stands here: {cure}")
                break


def without_odd_blanks(text: str, mistakes: Sequence[Mistake]) -> str:
    lines = text.split("\n")
    for mistake in mistakes:
        lines[mistake.line] = _ODD.sub(" ", lines[mistake.line])
    return "\n".join(lines)


def character(char: str) -> str:
    """``U+00A0 (NO-BREAK SPACE)``"""
    name = unicodedata.name(char, "")
    return f"U+{ord(char):04X} ({name})" if name else f"U+{ord(char):04X}"


def _in_quotes_or_comment(line: str, at: int) -> bool:
    quote = ""
    for index, char in enumerate(line[:at]):
        if quote:
            quote = "" if char == quote else quote
        elif char == "#" and line[index - 1 : index] in ("", " ", "\t"):
            return True
        elif char in "\"'" and line[:index].rstrip()[-1:] in ("", ":", "-", "[", "{", ","):
            quote = char
    return bool(quote)


def look(lines: Sequence[str], error: int, start: int, known: Collection[str]) -> Mistake | None:
    """The mistake behind an error that was met in line ``error``; ``start``: where the top-level
    block begins in which it was met. ``known``: the names of settings."""
    found = _quotes(lines)
    if found is not None and found.line <= error:
        return found
    if (found := _first_column(lines[: error + 1])) is not None:
        return found
    for number in range(start, min(error + 1, len(lines))):
        if (found := _no_blank(number, lines[number], known)) is not None:
            return found
    return _indentation(lines, error, start)


def missing_blank(text: str) -> str | None:
    """What is wrong with a text that stands where ``key: value`` lines belong."""
    found = re.match(r"([A-Za-z_][\w-]*)(:(?=\S)|\s*=)", text)
    if found is None:
        return None
    if found[2] == ":":
        return f"a blank is missing after '{found[1]}:'"
    return f"write '{found[1]}: ' with a colon, not '='"


def indented_section(line: str, sections: Collection[str]) -> str | None:
    """The section that begins in this line, were it not for one blank in front of it."""
    found = re.match(r" ([A-Za-z_]\w*):\s*(?:#.*)?$", line)
    return found[1] if found is not None and found[1] in sections else None


def _no_blank(number: int, line: str, known: Collection[str]) -> Mistake | None:
    code = re.split(r"(?:^|\s)#", line, maxsplit=1)[0]
    found = _NO_BLANK.search(code)
    if found is None and not re.search(r":(?:\s|$)", code):
        found = _ALONE.match(code)
        found = found if found and found["key"] in known else None
    if found is not None and not _in_quotes_or_comment(line, found.start()):
        return Mistake(number, found.end(), f"a blank is missing after '{found['key']}:'")
    found = _NO_COLON.match(code)
    if found is not None and found["key"] in known:
        return Mistake(number, found.end("key"), f"':' is missing after '{found['key']}'")
    if found := _DASH.match(code):
        return Mistake(number, found.end(), "a blank is missing after '-'")
    return None


def _first_column(lines: Sequence[str]) -> Mistake | None:
    """A line in the first column that begins no section, or one that is not there and should."""
    seen = False
    for number, line in enumerate(lines):
        if not line.strip() or line.lstrip()[0] == "#":
            continue
        indent = len(line) - len(line.lstrip(" "))
        if indent and not seen:
            if re.match(r" +[A-Za-z_][\w-]*:(\s|$)", line):
                blanks = "one blank" if indent == 1 else f"{indent} blanks"
                return Mistake(
                    number, indent, f"{blanks} too far right: sections begin in the first column"
                )
            return None
        seen = True
        if indent or line[0] in "\t-.%]}[{?&!*|>@`,":
            continue
        key = _KEY.match(line)
        if key is None:
            continue
        rest = line[key.end() :]
        if rest.lstrip(" \t").startswith(":") and rest.lstrip(" \t")[1:2] in ("", " ", "\t"):
            continue
        message = missing_blank(line) or "':' is missing after the key"
        column = key.end() + (1 if rest.startswith(":") else 0)
        return Mistake(number, column, message)
    return None


def _indentation(lines: Sequence[str], error: int, start: int) -> Mistake | None:
    """A line that stands a little left or right of those that it belongs to."""
    if error >= len(lines):
        return None
    line = lines[error]
    indent = len(line) - len(line.lstrip(" "))
    is_item = line[indent : indent + 2] in ("- ", "-")
    if not is_item and not re.match(r"""("[^"]*"|'[^']*'|[\w.-]+)\s*:(\s|$)""", line[indent:]):
        return None
    best: tuple[int, int, str] | None = None
    for number in range(error - 1, start - 1, -1):
        above = lines[number]
        if not above.strip() or above.lstrip()[0] == "#":
            continue
        for column, item, word in _columns(above):
            if item is not is_item:
                continue
            away = indent - column
            if away == 0:
                return None
            if (column or item) and abs(away) <= 3 and (best is None or abs(away) < abs(best[0])):
                best = (away, number, word)
        left = len(above) - len(above.lstrip(" "))
        if left == 0 or (not is_item and above[left : left + 2] == "- " and left < indent):
            break  # the section begins, or the item
    if best is None:
        return None
    away, number, word = best
    blanks = "one blank" if abs(away) == 1 else f"{abs(away)} blanks"
    end = next((n for n in range(error, len(lines)) if lines[n][:1].strip(" #")), len(lines))
    columns = [c for n in range(start, end) for c, item, _ in _columns(lines[n]) if item is is_item]
    if columns.count(indent) > columns.count(indent - away):
        # The one above stands alone with what it has: it is the one that is wrong.
        side = "right" if away < 0 else "left"
        own = next((w for c, item, w in _columns(line) if item is is_item), "the line")
        below = f"{blanks} {side} of {own} below (line {error + 1})"
        return Mistake(number, indent - away, f"this line stands {below}")
    side = "left" if away < 0 else "right"
    return Mistake(
        error, indent, f"this line stands {blanks} {side} of {word} above (line {number + 1})"
    )


def _columns(line: str) -> Iterator[tuple[int, bool, str]]:
    """Where the line's dashes and its key begin: column, whether a dash, what to call it."""
    column = len(line) - len(line.lstrip(" "))
    while line[column : column + 2] == "- ":
        yield column, True, "'-'"
        rest = line[column + 1 :]
        column += 1 + len(rest) - len(rest.lstrip(" "))
    if found := re.match(r"([A-Za-z_][\w-]*)\s*:(\s|$)", line[column:]):
        yield column, False, f"'{found[1]}'"


def _quotes(lines: Sequence[str]) -> Mistake | None:
    """A quote that is not closed where it should be, or closed too early."""
    opened: tuple[int, int] | None = None
    quote = ""
    depth = 0
    text_indent: int | None = None  # of the key whose block of text (| or >) is being passed
    for number, line in enumerate(lines):
        if text_indent is not None:
            if not line.strip() or len(line) - len(line.lstrip(" ")) > text_indent:
                continue
            text_indent = None
        i = 0
        fresh = True  # a value may begin here
        while i < len(line):
            char = line[i]
            if opened is not None:
                end = _closing(line, i, quote)
                if end < 0:
                    break
                rest = line[end + 1 :]
                follows = rest.lstrip()[:1]
                if follows not in ("", ",", "]", "}", ":", "#") or (
                    follows == "#" and rest.startswith("#")
                ):
                    if opened[0] != number:
                        return Mistake(*opened, "this quote is not closed")
                    message = "text follows the closing quote: one too few, or too many"
                    if depth:
                        message = "a ',' is missing here, or a quote is one too many"
                    return Mistake(number, end + 1, message)
                opened, fresh, i = None, False, end + 1
                continue
            if char == "#" and line[i - 1 : i] in ("", " ", "\t"):
                break
            if char in " \t":
                i += 1
                continue
            if fresh and char in "\"'":
                opened, quote = (number, i), char
            elif fresh and char in "|>" and _BLOCK_TEXT.match(line[i:]):
                text_indent = len(line) - len(line.lstrip(" "))
                break
            elif fresh and char in "[{":
                depth += 1
            elif char in "]}" and depth:
                depth -= 1
                fresh = False
            else:
                alone = line[i + 1 : i + 2] in ("", " ", "\t")
                fresh = (
                    (char == "," and depth > 0)
                    or (char == ":" and alone)
                    or (fresh and char == "-" and alone)
                )
            i += 1
    return None if opened is None else Mistake(*opened, "this quote is not closed")


def _closing(line: str, start: int, quote: str) -> int:
    i = start
    while i < len(line):
        if quote == '"' and line[i] == "\\":
            i += 2
            continue
        if line[i] == quote:
            if quote == "'" and line[i + 1 : i + 2] == "'":
                i += 2
                continue
            return i
        i += 1
    return -1
