"""One YAML file: text -> nodes that know their places -> plain data.

Every scalar stays text (``no``, ``0123`` and ``1:30`` are what they look like); the settings know
which of them are numbers. After a mistake in the syntax the top-level block it stands in is blanked
out and the rest is read, so that one pass finds the mistakes of all blocks.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from fastagi.config import secrets, syntax
from fastagi.config.problems import Problem, did_you_mean

_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_NULLS = frozenset(("", "~", "null"))
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))
_TOP_KEY = re.compile(r"""(?:([A-Za-z_][\w-]*)|"([^"]*)"|'([^']*)')[ \t]*:(?=[ \t\r]|$)""")
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{[^}]*\}?")
_WITHOUT_BRACES = re.compile(r"\$([A-Z][A-Z0-9_]{2,}|[A-Za-z_][A-Za-z0-9_]*\Z)", re.ASCII)
_BREAK = re.compile("\r\n?|[\x85\u2028\u2029]")  # what ends a line for YAML beside \n
_MARK = re.compile("^\ufeff+", re.MULTILINE)  # says that a file is UTF-8
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NOT_UTF8 = "this is not UTF-8: save the file with that encoding"
_MOST_RETRIES = 50
# A text has no more nodes than characters. What is beyond, and this much more, comes from aliases
# of aliases of aliases.
_MORE_NODES = 100_000
_LONGEST = 4096  # characters of one value
_DEEPEST = 50

Path = tuple[str | int, ...]


def spell(path: Path) -> str:
    """``("agents", 3, "pin")`` -> ``agents[3].pin``. A key that may be a secret, or part of one, is
    shown as ``…``: somebody wrote a token where its name belongs, or forgot the blank after ':'. So
    is what stands below a secret: ``secret: {…}``."""
    text = ""
    within = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # Below tokens stand their names.
            secret = within != "tokens" and secrets.is_key(within)
            shown = "…" if secret else _shown_key(part)
            within = part
            text += f".{shown}" if text else shown
    return text


def _shown_key(key: str) -> str:
    name, colon, rest = key.partition(":")
    if colon and rest:
        return f"{_shown_key(name)}:…"
    return "…" if len(key) > 40 or secrets.looks_like_one(key) else key


@dataclass(frozen=True, slots=True)
class Block:
    """A top-level key with everything up to the next one, by lines (counted from 0)."""

    key: str
    start: int
    end: int


def blocks(lines: list[str]) -> list[Block]:
    """The blocks as far as lines tell: a key in the first column begins one."""
    starts: list[tuple[int, str | None]] = []
    for number, line in enumerate(lines):
        if not line or (line[0] in " \t#-\r" and not line.startswith("---")):
            continue
        if found := _TOP_KEY.match(line):
            starts.append((number, next(name for name in found.groups() if name is not None)))
        elif line.startswith(("---", "...")):
            starts.append((number, None))
    ends = [*(number for number, _ in starts), len(lines)][1:]
    return [
        Block(key, number, end)
        for (number, key), end in zip(starts, ends, strict=True)
        if key is not None
    ]


def without(text: str, block: Block) -> str:
    """The text with the block's lines emptied, so that every other place stays where it is."""
    lines = text.split("\n")
    lines[block.start : block.end] = [""] * (block.end - block.start)
    return "\n".join(lines)


@dataclass(slots=True)
class Document:
    file: str
    text: str
    root: MappingNode | None = None
    problems: list[Problem] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # top-level keys that could not be read
    unreadable: bool = False  # nothing could be read
    lost: bool = False  # a line outside of all sections could not: it may have begun any
    mended: set[tuple[int, int]] = field(default_factory=set)  # places that hold no real value
    # Places whose value, or a part of it, came from the environment: it is never shown.
    hidden: set[tuple[int, int]] = field(default_factory=set)
    hidden_values: set[str] = field(default_factory=set)
    # Keys without anything behind the colon, and where that would stand.
    empty: list[tuple[Path, int, int]] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def report(self, line: int, column: int, path: str, message: str) -> None:
        """``line`` and ``column`` count from 0 here, as YAML's marks do."""
        self.problems.append(Problem(self.file, line + 1, column + 1, path, message))

    def warn(self, line: int, column: int, path: str, message: str, mend: str) -> None:
        self.warnings.append(Problem(self.file, line + 1, column + 1, path, message, mend))


def decode(file: str, data: bytes) -> Document:
    """The file's text; what is not UTF-8 is reported."""
    if (data[:2] in _UTF16 or 0 in data[:2]) and data.strip(b"\0"):
        document = Document(file, "", unreadable=True)
        document.report(0, 0, "", _NOT_UTF8)
        return document
    try:
        # Files with such a mark that were put together have it in the middle, too.
        return Document(file, _MARK.sub("", _BREAK.sub("\n", data.decode("utf-8"))))
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        document = Document(file, "", unreadable=True)
        line = before.count("\n")
        column = len(before) - (before.rfind("\n") + 1)
        document.report(line, column, "", _NOT_UTF8)
        return document


def compose(
    document: Document, known: Collection[str] = (), sections: Collection[str] = ()
) -> None:
    """Fills in ``root``, and reports mistakes in the syntax. ``known``: the names of settings;
    ``sections``: those of the top level."""
    if (conflict := syntax.conflict(document.text.split("\n"))) is not None:
        document.report(conflict.line, conflict.column, "", conflict.message)
        document.unreadable = True
        return
    odd = list(syntax.odd_blanks(document.text))
    for mistake in odd:
        document.report(mistake.line, mistake.column, "", mistake.message)
    if odd:
        document.text = syntax.without_odd_blanks(document.text, odd)
    text = document.text
    poisoned = False
    for _ in range(_MOST_RETRIES):
        try:
            root = _Loader(text).get_single_node()
        except ReaderError as error:
            before = text[: error.position]
            line, column = before.count("\n"), len(before) - (before.rfind("\n") + 1)
            document.report(
                line,
                column,
                "",
                f"{error.reason} (U+{ord(error.character):04X})"
                if isinstance(error.character, str)
                else f"{error.reason} (U+{error.character:04X})",
            )
            document.unreadable = True
            return
        except RecursionError:  # only where PyYAML came without libyaml
            document.report(0, 0, "", "nested too deep")
            document.unreadable = True
            return
        except yaml.MarkedYAMLError as error:
            mended = _mend(document, text, error, known, sections)
            if mended is None:
                document.unreadable = True
                return
            text = mended
            poisoned = True
            continue
        if root is None or (isinstance(root, ScalarNode) and root.value == ""):
            return
        if not isinstance(root, MappingNode):
            mark = root.start_mark
            found = syntax.look(text.split("\n"), mark.line, mark.line, known)
            if found is None:
                found = syntax.Mistake(mark.line, mark.column, "expected 'key: value' lines")
            document.report(found.line, found.column, "", found.message)
            document.unreadable = True
            return
        document.root = root
        return
    document.unreadable = poisoned


def _mend(
    document: Document,
    text: str,
    error: yaml.MarkedYAMLError,
    known: Collection[str],
    sections: Collection[str],
) -> str | None:
    """Reports the mistake; returns a text without it, or None when there is nothing to go on."""
    context, problem = error.context or "", error.problem or ""
    context_mark = error.context_mark or error.problem_mark
    mark = error.problem_mark or context_mark
    if mark is None:
        document.report(0, 0, "", problem or "cannot be read")
        return None
    assert context_mark is not None
    lines = text.split("\n")
    undefined = problem.startswith("found undefined alias")
    if undefined or "scanning an alias" in context:
        at = mark if undefined else context_mark
        return _mend_alias(document, lines, at.line, at.column)
    escape = problem.startswith("found unknown escape")
    opened = any(word in context for word in ("quoted scalar", "flow")) and not escape
    at = context_mark if opened else mark
    line, column = at.line, at.column
    message = _explain(lines, line, column, context, problem)
    around = _around(lines, mark.line)
    if not escape and not message.startswith(_SURE):
        begun = _around(lines, min(context_mark.line, mark.line)) or around
        start = begun.start if begun is not None else mark.line
        if (found := syntax.look(lines, mark.line, start, known)) is not None:
            line, column, message = found.line, found.column, found.message
    written = lines[line] if line < len(lines) else ""
    if (section := syntax.indented_section(written, sections)) is not None:
        message = f"'{section}' stands one blank too far right: sections begin in the first column"
        document.broken.add(section)
    document.report(line, column, "", message)
    around = _around(lines, line)
    if around is not None:
        document.broken.add(around.key)
        return without(text, around)
    if not written.strip():
        return None
    # In front of all sections, or a line that begins none: the rest can be read without it.
    document.lost = True
    lines[line] = ""
    return "\n".join(lines)


def _around(lines: list[str], line: int) -> Block | None:
    return next((block for block in blocks(lines) if block.start <= line < block.end), None)


def _mend_alias(document: Document, lines: list[str], line: int, column: int) -> str:
    """A bare ``*31`` is an alias to YAML, and to the admin a feature code."""
    rest = lines[line][column:]
    found = re.match(r"\*[^\s,\[\]{}]*", rest)
    written = found.group() if found else "*"
    name = written[1:].rstrip(":")
    if name and name[0].isalpha():
        anchors = re.findall(r"&([\w-]+)", "\n".join(lines))
        message = f"no anchor '&{name}' stands before this{did_you_mean(name, anchors)}"
    else:
        message = f'quote it: "{written.rstrip(":")}" (a bare * is an alias in YAML)'
    path = path_by_line(lines, line)
    if secrets.is_key(re.split(r"[^\w]", lines[line][:column].rstrip(" :"))[-1]):
        message = "quote it (a bare * is an alias in YAML)"
    document.report(line, column, path, message)
    document.mended.add((line, column))
    # The same place, now an ordinary word: whatever is wrong with that is not reported again.
    lines[line] = lines[line][:column] + "x" + lines[line][column + 1 :]
    return "\n".join(lines)


def path_by_line(lines: list[str], line: int) -> str:
    """``feature_codes.login`` by the keys above, without YAML."""
    path: list[str] = []
    indent = 10**6
    for number in range(line, -1, -1):
        found = re.match(r"( *)([A-Za-z_][\w-]*)[ ]*:(?=\s|$)", lines[number])
        if found and len(found.group(1)) < indent:
            indent = len(found.group(1))
            path.insert(0, found.group(2))
        elif number != line and re.match(r" *- ", lines[number]):
            return ""  # in a list: its place says enough
        if indent == 0:
            return ".".join(path)
    return ""


# What YAML says of these stands where the mistake is.
_SURE = ("a tab", "text that begins", "a second document")


def _explain(lines: list[str], line: int, column: int, context: str, problem: str) -> str:
    source = lines[line] if line < len(lines) else ""
    if "unknown directive" in problem or source.startswith("%"):
        return "text that begins with '%' must be quoted"
    indent = source[: len(source) - len(source.lstrip())]
    char = source[column : column + 1]
    if "\t" in indent or char == "\t":
        return "a tab cannot indent: use spaces"
    if problem.startswith("found unknown escape"):
        return "a backslash begins something special in double quotes: use single quotes"
    if "quoted scalar" in context:
        return "this quote is not closed"
    if "flow" in context:
        return (
            f"this {char!r} is not closed, or a ',' is missing in it "
            "(text with { } [ ] in it must be quoted)"
        )
    if "cannot start any token" in problem:
        return f"text that begins with {char!r} must be quoted"
    if "mapping values are not allowed" in problem:
        return "a second ':' on this line, or wrong indentation: quote text that has ': ' in it"
    if "expected key" in problem or "could not find expected ':'" in problem:
        return "wrong indentation, or ':' is missing after the key"
    if "maximum nesting depth" in problem:
        return "nested too deep"
    if "but found another document" in problem:
        return "a second document ('---'): one file holds one"
    return f"{context}: {problem}" if context else problem


class _TooMuch(Exception):
    pass


class Builder:
    """Nodes -> plain data (dict, list, str, None), with environment values put in."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._lines = document.text.split("\n")
        self._path: list[str | int] = []
        self._open: set[int] = set()
        self._built = 0
        self._most = len(document.text) + _MORE_NODES

    def build(self, node: Node, *path: str | int) -> Any:
        """None, and nothing else is said, where aliases make far too much of the text."""
        self._path = list(path)
        try:
            return self._build(node)
        except _TooMuch:
            self._document.unreadable = True
            return None

    def _report(self, node: Node, message: str, column: int | None = None) -> None:
        mark = node.start_mark
        place = mark.column if column is None else column
        self._document.report(mark.line, place, spell(tuple(self._path)), message)

    def _build(self, node: Node) -> Any:
        if node.tag not in _TAGS:
            self._report(node, "tags (!…) mean nothing here: leave it out, or quote the text")
            return None
        if isinstance(node, ScalarNode):
            value: str = node.value
            if value in _NULLS and not node.style:
                if not value:
                    mark = node.start_mark
                    self._document.empty.append((tuple(self._path), mark.line, mark.column))
                return None
            if "$" in value:
                value = self._with_environment(node, value)
            if len(value) > _LONGEST:
                self._report(node, f"longer than any value may be ({_LONGEST} characters)")
                self._document.mended.add((node.start_mark.line, node.start_mark.column))
                return ""
            return value
        self._built += 1 + len(node.value)
        if id(node) in self._open or self._built > self._most:
            self._report(node, "this alias contains itself, or far too much")
            if self._built > self._most:
                raise _TooMuch
            return None
        if len(self._open) > _DEEPEST:
            self._report(node, "nested too deep")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode):
                return self._list(node)
            assert isinstance(node, MappingNode)
            return self._dict(node)
        finally:
            self._open.discard(id(node))

    def _list(self, node: SequenceNode) -> list[Any]:
        items, path = [], self._path
        for index, item in enumerate(node.value):
            path.append(index)
            items.append(self._build(item))
            path.pop()
        return items

    def _dict(self, node: MappingNode) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        path = self._path
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._report(key, "a key must be a word")
                continue
            name: str = key.value
            if name == "<<" and not key.style:
                for source in value.value if isinstance(value, SequenceNode) else [value]:
                    more = self._build(source)
                    if isinstance(more, dict):
                        merged = more | merged  # the earlier one wins
                    else:
                        self._report(source, "'<<' takes a mapping (*anchor) or a list of them")
                continue
            path.append(name)
            if name in data:
                self._report(key, f"stands here twice, first in line {first[name] + 1}")
            else:
                first[name] = key.start_mark.line
                data[name] = self._build(value)
            path.pop()
        return merged | data if merged else data

    def _with_environment(self, node: ScalarNode, value: str) -> str:
        if "${" in value:
            self._document.hidden.add((node.start_mark.line, node.start_mark.column))
            value = self._substitute(node, value)
            self._document.hidden_values.add(value)
            return value
        found = _WITHOUT_BRACES.search(value)
        if found is not None and (found[0] == value or found[1].isupper()):
            # A secret may have a $ in it: only what can be nothing but a name is repeated.
            is_name = re.fullmatch("[A-Z]+(_[A-Z]+)+", found[1])
            named = found[1] if is_name or found[1] in self._environ else "NAME"
            self._document.warn(
                node.start_mark.line,
                node.start_mark.column,
                spell(tuple(self._path)),
                "taken as it stands, no value of the environment",
                f"did you mean ${{{named}}}?",
            )
        return value

    def _substitute(self, node: ScalarNode, value: str) -> str:
        def wrong(found: re.Match[str], message: str) -> str:
            self._report(node, message, self._column(node, found.group()))
            self._document.mended.add((node.start_mark.line, node.start_mark.column))
            return ""

        def one(found: re.Match[str]) -> str:
            name, default = found.group(1), found.group(2)
            if found.group() == "$${":
                return "${"
            if name is None:
                return wrong(
                    found, "write ${NAME} or ${NAME:-default}, or $${ for a ${ that means nothing"
                )
            set_to = self._environ.get(name)
            if default is not None:
                return set_to or default
            if set_to is None:
                # The secret itself may stand in the braces.
                hidden = not name.isupper() and any(map(secrets.is_key, self._path))
                named = "variable of this name" if hidden else name
                default = f"${{{'NAME' if hidden else name}:-…}}"
                return wrong(found, f"the environment has no {named} ({default} gives a default)")
            return set_to

        return _VARIABLE.sub(one, value)

    def _column(self, node: ScalarNode, written: str) -> int:
        line = self._lines[node.start_mark.line] if self._lines else ""
        place = line.find(written, node.start_mark.column)
        return place if place >= 0 else int(node.start_mark.column)


def pair(node: MappingNode, name: str) -> tuple[Node, Node] | None:
    """The key and the value named ``name``, looked for in merged mappings too."""
    merged: list[Node] = []
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            continue
        if key.value == name:
            return key, value
        if key.value == "<<" and not key.style:
            merged += value.value if isinstance(value, SequenceNode) else [value]
    for source in merged:
        if isinstance(source, MappingNode) and source is not node and (found := pair(source, name)):
            return found
    return None
