"""Finding the files, loading them, and saying everything that is wrong with them at once."""

import gc
import hashlib
import os
import re
import stat
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fastagi.config import secrets
from fastagi.config.cautions import cautions, hashes, is_text_key
from fastagi.config.checks import MISSING, cross_checks
from fastagi.config.document import (
    Builder,
    Document,
    blocks,
    compose,
    decode,
    pair,
    path_by_line,
    spell,
    without,
)
from fastagi.config.document import Path as KeyPath
from fastagi.config.problems import ConfigError, Problem, did_you_mean
from fastagi.config.settings import ASTERISKS, Settings
from fastagi.config.syntax import missing_blank
from fastagi.config.values import NEVER, is_language

ENVIRONMENT = "FASTAGI_CONFIG"
SYSTEM = Path("/etc/fastagi")
HERE = Path("config")

# Written as null these are switched off; empty, with everything below commented out, they are not.
_OFF_BY_NULL = frozenset({"unplugged", "reconcile"})

# Where they are missing, a file may have been moved away for a moment, or have lost its content:
# that nobody is an agent any more has to be written.
REQUIRED = ("devices", "pause_reasons", "queues", "agents")
# In several files, a team's in each, they are one list. Not the devices: their order matters.
JOINED = frozenset({"agents", "queues", "pause_reasons"})
NONE = "write {}: [] where there are none"

MOST_BYTES = 32 * 2**20  # of one file; ten thousand agents are two million
_TELLING = 4  # characters of a value of the environment that are worth to be hidden
_SHOWN = 60  # characters of a wrong value

_LIKE_A_KEY = re.compile("[a-z]+(_[a-z]+)*")
_NAMES = re.compile(rb"\$\{([A-Za-z_][A-Za-z0-9_]*)")


def find(path: str | os.PathLike[str] | None = None) -> Path:
    """``path``, else $FASTAGI_CONFIG, else /etc/fastagi, else ./config.

    The first two are taken at their word; raises ConfigError when there is none of the four.
    """
    if path is not None:
        return Path(path)
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    for place in (SYSTEM, HERE):
        if place.exists():
            return place
    message = f"no configuration: give --config, set {ENVIRONMENT}, or make {SYSTEM} or ./{HERE}"
    raise ConfigError([Problem(str(SYSTEM), 1, 1, "", message)])


def load(
    path: str | os.PathLike[str],
    *,
    agents: bool = True,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in a file, or in all ``*.yml`` of a folder. Raises ConfigError.

    With ``agents=False`` the block of the agents is left out by its lines, unread, and
    ``Settings.agents`` is None. It is for a start with thousands of agents that have not changed:
    compare ``fingerprint_material`` with what the last full load had; it never equals that of a
    load that was not ``sliceable``. Where leaving out goes wrong, everything is loaded.
    """
    environ = os.environ if environ is None else environ
    with _collector_off():
        return _load(Path(path), agents, environ)


def _load(place: Path, agents: bool, environ: Mapping[str, str]) -> Settings:
    files, problems = _read(place)
    if not agents and not problems:
        quick = _Loading(place, files, environ, agents=False)
        settings = quick.settings()
        if settings is not None and quick.left_out:
            return settings
    full = _Loading(place, files, environ, agents=True, problems=problems)
    settings = full.settings()
    if settings is None:
        found = full.in_order()
        del full  # the error would keep it alive
        raise ConfigError(found)
    settings._sliceable = full.sliceable()
    if not settings._sliceable:
        # Another digest than the short way's, so that whoever compares never believes it.
        settings._fingerprint_material = hashlib.sha256(
            b"read whole" + settings._fingerprint_material
        ).digest()
    return settings


@contextmanager
def _collector_off() -> Iterator[None]:
    # Ten thousand agents make a million objects that all live: looking for garbage among them,
    # again and again, takes longer than reading them, and nobody else gets a turn meanwhile. They
    # have to be gone before the collector is back.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def signature(path: str | os.PathLike[str]) -> Hashable:
    """Another one whenever a file that counts has been written, moved or replaced: a look at the
    folder, not into the files. Never raises."""
    place = Path(path)
    try:
        if place.is_dir():
            names = sorted(name for name in os.listdir(place) if _counts(name) or _misnamed(name))
            return tuple((name, *_stamp(place / name)) for name in names)
    except OSError:
        return ()
    return _stamp(place)


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def content_digest(path: str | os.PathLike[str]) -> bytes:
    """Of the files that count, as they are now. Never raises; what cannot be read counts too."""
    files, problems = _read(Path(path))
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
    for problem in problems:
        digest.update(str(problem).encode("utf-8", "surrogateescape"))
    return digest.digest()


def endings(path: str | os.PathLike[str]) -> dict[str, tuple[int, bool]]:
    """By file: its size in bytes, and whether its last line has an end.

    Never raises; what cannot be read is left out."""
    files, _ = _read(Path(path))
    return {name: (len(content), content.endswith(b"\n")) for name, content in files}


def _counts(name: str) -> bool:
    return name.endswith(".yml") and not name.startswith(".")


def _misnamed(name: str) -> bool:
    """It would count with another ending: that is a mistake, so it has to be seen come and go."""
    return name.lower().endswith((".yml", ".yaml")) and name[0] != "." and not _counts(name)


def _content(file: Path) -> bytes:
    """Raises OSError, and ValueError for what is no ordinary file: a pipe, a device, or one without
    end behind a link."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("is no ordinary file (a pipe, a socket or a device)")
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is no ordinary file (a pipe, a socket or a device)")
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES >> 20} MiB: is that a configuration?")
    return content


def _read(place: Path) -> tuple[list[tuple[str, bytes]], list[Problem]]:
    files: list[tuple[str, bytes]] = []
    problems: list[Problem] = []

    def wrong(where: Path, message: str) -> None:
        problems.append(Problem(str(where), 1, 1, "", message))

    try:
        if place.is_dir():
            names = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
            chosen = [name for name in names if _counts(name.name) and not name.is_dir()]
            for name in names:
                if _misnamed(name.name):
                    wrong(name, f"not read: in a folder *.yml counts, call it {name.stem}.yml")
            if not chosen and not problems:
                wrong(place, "no *.yml in this folder")
        else:
            chosen = [place]
    except OSError as error:
        wrong(place, error.strerror or "cannot be read")
        return files, problems
    for name in chosen:
        try:
            files.append((str(name), _content(name)))
        except FileNotFoundError:
            away = "is a link to a file that is not there"
            wrong(name, away if name.is_symlink() else "no such file or folder")
        except ValueError as error:
            wrong(name, str(error))
        except OSError as error:
            wrong(name, error.strerror or "cannot be read")
    return files, problems


@dataclass(frozen=True, slots=True)
class _Part:
    """A top-level key in one file; of a list that others go on with, from ``first`` on."""

    document: Document
    key: Node
    node: Node
    first: int = 0


class _Loading:
    """One pass over all files."""

    def __init__(
        self,
        place: Path,
        files: Sequence[tuple[str, bytes]],
        environ: Mapping[str, str],
        *,
        agents: bool,
        problems: Sequence[Problem] = (),  # of files that could not even be opened
    ) -> None:
        self.problems: list[Problem] = list(problems)
        self._incomplete = bool(problems)
        self.left_out = False
        self._place = place
        self._files = files
        self._environ = environ
        self._with_agents = agents
        self._documents: list[Document] = []
        self._top: dict[str, list[_Part]] = {}
        self._misspelled: set[str] = set()  # sections that seem to be there by another name
        self.data: dict[str, Any] = {}
        for file, content in files:
            self._add(file, content)

    def _add(self, file: str, content: bytes) -> None:
        document = decode(file, content)
        self._documents.append(document)
        if not self._with_agents:
            for block in blocks(document.text.split("\n")):
                if block.key == "agents":
                    document.text = without(document.text, block)
                    self.left_out = True
                    break
        if not document.unreadable:
            compose(document, _known_names(), _known_keys(()))
        if document.root is not None:
            builder = Builder(document, self._environ)
            data = builder.build(document.root)
            for key in data if isinstance(data, dict) else ():
                self._add_key(document, key, data[key])
        self.problems += document.problems

    def _add_key(self, document: Document, key: str, value: Any) -> None:
        assert document.root is not None
        found = pair(document.root, key)
        assert found is not None
        mark = found[0].start_mark
        if value is None and key in REQUIRED:
            document.report(mark.line, mark.column, key, f"is empty: {NONE.format(key)}")
        parts = self._top.setdefault(key, [])
        if parts and key in JOINED:
            there = self.data.get(key)
            if isinstance(there, list) and isinstance(value, list):
                parts.append(_Part(document, *found, len(there)))
                self.data[key] = [*there, *value]
            else:
                # One of them is no list: its own mistake, and what the other has is not known.
                document.broken.add(key)
                if value is not None and not isinstance(value, list):
                    document.report(mark.line, mark.column, key, _SAID["tuple_type"])
            return
        if parts:
            other = parts[0]
            message = (
                f"stands here and in {other.document.file}:{other.key.start_mark.line + 1}: "
                "once is enough"
            )
            if key in REQUIRED:
                message += ", as the first rule that matches wins"
            document.report(mark.line, mark.column, key, message)
            return
        parts.append(_Part(document, *found))
        written = isinstance(found[1], ScalarNode) and found[1].value != ""
        # Else no value at all: a key with everything below it commented out.
        if value is not None or (written and key in _OFF_BY_NULL) or key not in _known_keys(()):
            self.data[key] = value

    def settings(self) -> Settings | None:
        """None when there are problems."""
        data = self.data
        language = data.get("language")
        if is_language(language) and isinstance(data.get("agents"), list):
            for agent in data["agents"]:
                if isinstance(agent, dict):
                    agent.setdefault("language", language)
        for agent in data["agents"] if isinstance(data.get("agents"), list) else ():
            if isinstance(agent, dict) and "logoff_at" in agent and agent["logoff_at"] is None:
                agent["logoff_at"] = NEVER  # switched off, as null does everywhere
        settings = None
        try:
            settings = Settings.model_validate(data)
        except ValidationError as error:
            # Not the errors' own inputs: they may be secrets.
            for item in error.errors(include_url=False, include_input=False):
                self._report_invalid(item)
        self._report_empty()
        self._report_missing()
        for path, message in cross_checks(
            data, self._unknown, agents=self._with_agents, name=self._named
        ):
            self._report(path, message, missing=message == MISSING)
        if self.problems or settings is None:
            return None
        if self.left_out:
            settings = settings.model_copy(update={"agents": None})
        settings._fingerprint_material = self._fingerprint()
        settings._warnings = tuple(self.warnings())
        return settings

    def _report_empty(self) -> None:
        """``login: #31`` is a comment to YAML: it must not switch a code off unnoticed, nor may a
        key whose value is still to be written."""
        for document in self._documents:
            for path, line, column in document.empty:
                annotation = _annotations(path)
                if annotation is None or get_origin(annotation) in (tuple, Mapping):
                    continue  # an unknown key; nothing below a key with everything commented out
                if any(map(_is_model, _inside(annotation))):
                    if type(None) in get_args(annotation) and path != ("asterisk",):
                        document.warn(
                            line,
                            column,
                            spell(path),
                            "is empty, and so switched off",
                            "off where that is meant, {} for its defaults",
                        )
                    continue
                message = "is empty: write its value, or null for none"
                if path[0] == "feature_codes":
                    message = (
                        "is empty: null switches it off, a code that begins with # needs quotes"
                    )
                document.report(line, column, spell(path), message)
                self.problems.append(document.problems[-1])

    def _report_missing(self) -> None:
        for key in set(self.data) - set(_known_keys(())):
            meant = did_you_mean(key, _known_keys(()))
            self._misspelled.update(name for name in _known_keys(()) if repr(name) in meant)
        unknown = self._unknown
        for key in REQUIRED:
            if key in self._top or unknown is None or key in unknown:
                continue
            if key == "agents" and self.left_out:
                continue
            self._report((key,), f"{MISSING}: {NONE.format(key)}", missing=True)

    def _named(self, path: KeyPath) -> str:
        """How a message calls another place: with its file, where there are several."""
        document, mark, walked = self._locate(path)
        text = spell(walked)
        if document is not None and mark is not None and len(self._top[str(path[0])]) > 1:
            return f"{text} in {document.file}:{mark.line + 1}"
        return text

    def warnings(self) -> list[Problem]:
        """By place, without those of agents that were left out."""
        for document in self._documents:
            lines = document.text.split("\n")
            for line, column, key in hashes(document.text):
                path = path_by_line(lines, line)
                if is_text_key(key, path):
                    document.warn(
                        line,
                        column,
                        path,
                        "what follows is a comment, as a blank stands before the '#'",
                        "quotes around the value, or a blank after the '#'",
                    )
        for where, message, mend in cautions(self.data):
            found, mark, walked = self._locate(where)
            if found is not None and mark is not None:
                found.warn(mark.line, mark.column, spell(walked), message, mend)
        said = [warning for document in self._documents for warning in document.warnings]
        order = {file: number for number, (file, _) in enumerate(self._files)}
        unique = dict.fromkeys(said)
        return sorted(unique, key=lambda w: (order.get(w.file, -1), w.line, w.column))

    @property
    def _unknown(self) -> frozenset[str] | None:
        """Top-level keys whose content could not be read; None: it may be any of them."""
        if self._incomplete or any(d.unreadable or d.lost for d in self._documents):
            return None
        return frozenset(self._misspelled).union(*(d.broken for d in self._documents))

    def in_order(self) -> list[Problem]:
        """By place; of several on one value the first, which the others mostly follow from."""
        order = {file: number for number, (file, _) in enumerate(self._files)}
        kept: dict[tuple[str, int, int, str], Problem] = {}
        for problem in self.problems:
            place = (problem.file, problem.line, problem.column)
            kept.setdefault((*place, problem.path), problem)
        return sorted(
            kept.values(), key=lambda p: (order.get(p.file, -1), p.file, p.line, p.column)
        )

    def sliceable(self) -> bool:
        """Whether the short way reads the same: it is taken, and all but the agents compared."""
        short = _Loading(self._place, self._files, self._environ, agents=False)
        if not short.left_out or short.problems or short.warnings() != self.warnings():
            return False  # what is to be said of agents has to be seen at every start
        return short.data == {key: self.data[key] for key in self.data if key != "agents"}

    def _fingerprint(self) -> bytes:
        digest = hashlib.sha256()

        def add(part: bytes) -> None:
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)

        for source in sorted(Path(__file__).parent.glob("*.py")):
            add(source.read_bytes())  # another version may make something else of the same files
        names: set[bytes] = set()
        for file, content in self._files:
            add(os.path.basename(file).encode("utf-8", "surrogateescape"))
            add(content)
            names.update(_NAMES.findall(content))
        for name in sorted(names):
            value = self._environ.get(name.decode())
            add(name)
            add(b"" if value is None else b"=" + value.encode("utf-8", "surrogateescape"))
        return digest.digest()

    # Where it is, and what to say.

    def _locate(self, path: KeyPath, key: bool = False) -> tuple[Document | None, Any, KeyPath]:
        """The file, the mark and the part of ``path`` that is really written there."""
        if not path or path[0] not in self._top:
            one = self._documents[0] if len(self._documents) == 1 else None
            return one, None, path
        parts = self._top[str(path[0])]
        chosen = parts[0]
        if len(path) > 1 and isinstance(path[1], int):
            index = path[1]
            chosen = next(part for part in reversed(parts) if part.first <= index)
            path = (path[0], index - chosen.first, *path[2:])
        document, key_node, node = chosen.document, chosen.key, chosen.node
        at, walked = (key_node if key or _is_block(node) else node), 1
        for part in path[1:]:
            if isinstance(node, MappingNode) and isinstance(part, str):
                found = pair(node, part)
                if found is None:
                    break
                key_node, node = found
                at = key_node if _is_block(node) else node
            elif (
                isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value)
            ):
                key_node = at = node = node.value[part]
            else:
                break
            walked += 1
        if key and walked == len(path):
            at = key_node
        return document, at.start_mark, path[:walked]

    def _report(
        self,
        path: KeyPath,
        message: str,
        *,
        key: bool = False,
        missing: bool = False,
        hidden: bool = False,  # the last part of the path
    ) -> None:
        document, mark, walked = self._locate(path, key)
        if document is None:
            self.problems.append(Problem(str(self._place), 1, 1, spell(path), message))
            return
        line, column = (mark.line, mark.column) if mark is not None else (0, 0)
        if (line, column) in document.mended:
            return  # said already what is wrong there
        value = path[-1] if key else self._value(path)
        if isinstance(value, str):
            secret = (line, column) in document.hidden or any(map(secrets.is_key, path))
            if secret or secrets.looks_like_one(value):
                message = secrets.without(message, value)
            elif len(value) > _SHOWN:
                message = message.replace(repr(value), f"{value[:_SHOWN]!r}…")
        message = self._hiding(message)
        shown = spell((*walked, *path[len(walked) :]) if missing else walked)
        if hidden:
            shown = spell((*walked[:-1], "…"))
        self.problems.append(Problem(document.file, line + 1, column + 1, shown, message))

    def _hiding(self, message: str) -> str:
        """A message may name what stands elsewhere. Each text in quotes is looked up, as there may
        be as many hidden values as agents, and as many messages."""
        quotes = [at for at, char in enumerate(message) if char in "'\""]
        for number, start in enumerate(quotes):
            for end in quotes[number + 1 :]:
                text = message[start : end + 1]
                if text in self._hidden:
                    return self._hiding(message.replace(text, "…"))
        return message

    @cached_property
    def _hidden(self) -> frozenset[str]:
        """Values of the environment, as messages quote them."""
        values = set().union(*(document.hidden_values for document in self._documents))
        return frozenset(repr(value) for value in values if len(value) >= _TELLING)

    def _report_invalid(self, item: Any) -> None:
        kind: str = item["type"]
        path: KeyPath = tuple(item["loc"])
        context: dict[str, Any] = item.get("ctx", {})
        on_key = bool(path) and path[-1] == "[key]"
        if on_key:
            path = path[:-1]
        if kind == ASTERISKS:
            return  # cross_checks says it, whatever else is wrong
        if kind == "missing":
            unknown = self._unknown
            if len(path) == 1 and (unknown is None or path[0] in unknown):
                return  # it may stand in what could not be read
            beside = self._value(path[:-1])
            if isinstance(beside, dict) and self._misnamed(path, beside):
                return  # it is there, by a wrong name: that is said
            self._report(path, MISSING, missing=True)
        elif kind == "extra_forbidden":
            hidden = False
            name, known = str(path[-1]), _known_keys(path[:-1])
            guess = did_you_mean(name, known)
            message = f"unknown key{guess}"
            if not guess and len(path) > 1 and any(map(secrets.is_key, known)):
                # A secret in the place of its key? Ours are small letters.
                hidden = _LIKE_A_KEY.fullmatch(name) is None
            if name.partition(":")[0] in _known_keys(path[:-1]):
                message = f"a blank is missing after '{name.partition(':')[0]}:'"
            self._report(path, message, key=True, hidden=hidden)
        elif kind in ("enum", "literal_error"):
            self._report(path, self._choose(path, on_key), key=on_key)
        else:
            value = self._value(path)
            message = _say(kind, context, item["msg"])
            if kind.endswith("_type") and not on_key and value is None:
                message = "is empty"
            elif isinstance(value, str) and value[:1] in _TYPOGRAPHIC:
                message = 'typographic quotes are no quotes: write "…" instead'
            elif isinstance(value, str) and kind in ("model_type", "dict_type", "mapping_type"):
                message = missing_blank(value) or message
            self._report(path, message, key=on_key)

    def _misnamed(self, path: KeyPath, beside: Mapping[str, Any]) -> bool:
        """Whether a key beside it is meant for this one."""
        known, name = _known_keys(path[:-1]), str(path[-1])
        return any(
            key.startswith(f"{name}:") or repr(name) in did_you_mean(key, known)
            for key in beside
            if key not in known
        )

    def _value(self, path: KeyPath) -> Any:
        value: Any = self.data
        for part in path:
            if isinstance(value, str):  # one sound stands for a list of one
                break
            try:
                value = value[part]
            except (LookupError, TypeError):  # ``sales`` stands for ``{name: sales}``
                break
        return value

    def _choose(self, path: KeyPath, on_key: bool) -> str:
        choices = _choices(path, on_key)
        value: Any = path[-1] if on_key else self._value(path)
        if not isinstance(value, str):
            return f"must be one of {', '.join(choices)}"
        guess = did_you_mean(value, choices)
        what = f"{value!r} is not known" if on_key else f"{value!r} is no choice"
        if on_key and guess:
            return f"{what}{guess}"
        return f"{what}{guess or ': one of ' + ', '.join(choices)}"


def _is_block(node: Node) -> bool:
    """Written below its key: then the key is the better place to point at."""
    return isinstance(node, MappingNode | SequenceNode) and not node.flow_style


_TYPOGRAPHIC = tuple("“”„‟‘’‚«»")

_SAID = {
    "model_type": "must be a mapping ('key: value' lines)",
    "dict_type": "must be a mapping ('key: value' lines)",
    "mapping_type": "must be a mapping ('key: value' lines)",
    "tuple_type": "must be a list ([…] or '- ' lines)",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "string_type": "must be one value, not a list or a mapping",
}


def _say(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind == "value_error":
        return str(context["error"])
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']}"
    return _SAID.get(kind, message)


def _annotations(path: KeyPath) -> Any:
    """The annotation of what stands at ``path`` in the settings."""
    at: Any = Settings
    for part in path:
        while get_origin(at) is Annotated:
            at = get_args(at)[0]
        if get_origin(at) is Mapping:
            at = get_args(at)[1]  # under a name of the admin's choice
            continue
        models = [inner for inner in _inside(at) if _is_model(inner)]
        if isinstance(part, str) and models:
            fields = models[0].model_fields
            named = {info.alias or name: info for name, info in fields.items()}
            if part not in named:
                return None
            at = named[part].annotation
    return at


def _inside(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _inside(inner)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@cache
def _known_names() -> frozenset[str]:
    """Of all settings, wherever they stand."""
    names: set[str] = set()
    models: list[type[BaseModel]] = [Settings]
    seen: set[type[BaseModel]] = set()
    while models:
        model = models.pop()
        if model in seen:
            continue
        seen.add(model)
        for name, info in model.model_fields.items():
            names.add(info.alias or name)
            models += [inner for inner in _inside(info.annotation) if _is_model(inner)]
    return frozenset(names)


def _known_keys(path: KeyPath) -> list[str]:
    for inner in _inside(_annotations(path)):
        if _is_model(inner):
            return [info.alias or name for name, info in inner.model_fields.items()]
    return []


def _choices(path: KeyPath, on_key: bool) -> list[str]:
    annotation = _annotations(path[:-1] if on_key else path)
    for inner in _inside(annotation):
        if isinstance(inner, type) and issubclass(inner, Enum):
            return [str(member.value) for member in inner]
    return [inner for inner in _inside(annotation) if isinstance(inner, str)]
