"""What the documents say is what there is: settings, commands, files, links."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import typer
import yaml
from pydantic import AfterValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fastagi import config
from fastagi.api.asgi import INTERFACES
from fastagi.app import FIXED
from fastagi.cli import app
from fastagi.config import settings, values
from fastagi.config.loading import REQUIRED
from fastagi.config.settings import HostPort, Section, Settings
from fastagi.contract import Outcome

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "config" / "README.md"

# -- the settings --------------------------------------------------------------------------------

# How the table calls what a field's type takes; a new type needs a word here.
WORDS: list[tuple[Any, str]] = [
    (values.HostPortValue, "`host:port`"),
    (values.NetworkValue, "address or network"),
    (values.Timeout, "duration"),
    (values.Duration, "duration or `0`"),
    (values.Limit, "duration or `off`"),
    (values.PathForDialplan, "absolute path"),
    (values.FilePath, "path"),
    (values.Host, "host or address"),
    (values.Username, "user name"),
    (values.Secret, "secret"),
    (values.Token, "token"),
    (values.HookSecret, "signing secret"),
    (values.Pin, "3 to 12 digits"),
    (values.PinHash, "argon2 hash"),
    (values.DatabaseUrl, "URL"),
    (values.Language, "language"),
    (values.TimeZone, "time zone"),
    (values.TimeOfDay, "`HH:MM`"),
    (values.TimeOrNever, "`HH:MM` or `never`"),
    (values.Code, "code"),
    (values.Number, "digits"),
    (values.ReasonCode, "digits"),
    (values.Context, "context"),
    (values.LoginName, "login name"),
    (values.AsteriskId, "name"),
    (values.ReasonName, "name"),
    (values.QueueName, "name"),
    (values.PlainText, "text"),
    (values.Sounds, "sound or list of sounds"),
    (Annotated[str, AfterValidator(settings._caller)], "context or endpoint"),
    (Annotated[str, AfterValidator(settings._pattern)], "pattern"),
    (Annotated[str, AfterValidator(settings._outside)], "number or pattern"),
    (Annotated[str, AfterValidator(settings._interface)], "interface"),
    (Annotated[str, AfterValidator(settings._template)], "interface"),
    (settings.ClientSettings, "token or section"),
    (settings.AgentQueue, "name or section"),
    (Outcome, "outcome"),
    (bool, "`true` or `false`"),
    (str, "text"),
]
# What the model alone does not say.
DEFAULTS = {
    "asterisk": "required, or `asterisks`",
    "asterisks[].name": "required",
    "agents[].language": "`language`",
} | dict.fromkeys(REQUIRED, "required")


def kind(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    for known, words in WORDS:
        # What comes behind in Annotated narrows it, and is told in words.
        if hint == known or (
            origin is Annotated and inside[: len(get_args(known))] == get_args(known) != ()
        ):
            return words
    if origin is Annotated:
        for each in inside[1:]:
            if isinstance(each, FieldInfo) and inside[0] is int:
                low, high = each.metadata
                return f"{low.ge} to {high.le}"
        return f"{kind(inside[0])} or `off`" if values.OrOff in inside else kind(inside[0])
    if origin in (Union, UnionType):
        (one,) = (each for each in inside if each is not NoneType)
        return kind(one)
    if origin is tuple:
        return f"list: {kind(inside[0])}"
    if origin is Mapping:
        return f"map: {kind(inside[0])} → {kind(inside[1])}"
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in inside)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{one.value}`" for one in hint)
    if isinstance(hint, type) and issubclass(hint, Section):
        return "section"
    raise AssertionError(f"a word for {hint}, please")


def default(value: Any, type: str) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "`off`" if type.endswith("or `off`") else "none"
    if isinstance(value, tuple) and not isinstance(value, HostPort):
        return ", ".join(default(one, type) for one in value) or "none"
    if isinstance(value, Mapping):
        return "none" if not value else repr(value)
    if isinstance(value, timedelta):
        seconds = int(value.total_seconds())
        unit = next(u for u in ("h", "m", "s") if seconds % {"h": 3600, "m": 60, "s": 1}[u] == 0)
        return f"`{seconds // {'h': 3600, 'm': 60, 's': 1}[unit]}{unit}`" if seconds else "`0`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    text = re.sub(r"/(32|128)$", "", str(value))
    return f"`{text}`" if text else "none"


def sections(hint: Any) -> Iterator[tuple[str, type[Section]]]:
    """The models inside, with what leads to them from the key: "." or "[]."."""
    if isinstance(hint, type) and issubclass(hint, Section):
        yield ".", hint
    for inside in get_args(hint):
        for way, model in sections(inside):
            yield ("[]." if get_origin(hint) in (tuple, Mapping) else way), model


@cache
def known() -> dict[str, tuple[str, str]]:
    """Every setting with its type and default, as the table has to say them."""
    found: dict[str, tuple[str, str]] = {}

    def walk(model: type[Section], prefix: str) -> None:
        hints = get_type_hints(model, include_extras=True)
        for field, info in model.model_fields.items():
            path = f"{prefix}{info.alias or field}".replace("asterisk.name", "asterisks[].name")
            value = info.get_default(call_default_factory=True)
            if not isinstance(value, Section):
                words = kind(hints[field])
                found[path] = words, DEFAULTS.get(path) or default(value, words)
            for way, inside in sections(hints[field]):
                if path != "asterisks":  # as those of the only one
                    walk(inside, path + way)

    walk(Settings, "")
    return found


def rows() -> list[list[str]]:
    text = SETTINGS.read_text(encoding="utf-8")
    table = text.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" |", 5)[:5]] for line in lines]


def test_every_setting_is_in_the_table_with_its_type_and_default() -> None:
    wanted = [f"| `{name}` | {type} | {default} |" for name, (type, default) in known().items()]
    there = [f"| {name} | {type} | {default} |" for name, type, default, *_ in rows()]
    assert [line for line in wanted if line not in there] == [], "missing, or not so"
    assert sorted(there) == sorted(wanted)


class Raw(str):
    """YAML that is taken as it is."""


def block(value: Any, indent: int = 0) -> str:
    """YAML in lines, as people write it."""
    margin = " " * indent
    if isinstance(value, list):
        items = [block(one, indent + 2) for one in value]
        return "".join(f"{margin}- {item.lstrip()}" for item in items)
    text = ""
    for key, inside in value.items():
        if isinstance(inside, dict) or (isinstance(inside, list) and isinstance(inside[0], dict)):
            text += f"{margin}{key}:\n{block(inside, indent + 2)}"
        else:
            shown = inside if isinstance(inside, Raw) else json.dumps(inside)
            text += f"{margin}{key}: {shown}\n"
    return text


AGENT = {"number": "4001", "name": "Alice", "queues": ["sales"]}
BASE: dict[str, Any] = {
    "asterisk": {"secret": "x"},
    "devices": [{"match": "10XX", "interface": "PJSIP/{extension}"}],
    "pause_reasons": [{"code": "1", "name": "lunch"}],
    "queues": [{"number": "701", "name": "sales"}, {"number": "702", "name": "support"}],
    "agents": [AGENT],
}
# What stands beside some settings in the same section, or they could not.
BESIDE: dict[str, dict[str, Any]] = {
    "pause_reasons[].when_exceeded": {"max_duration": "45m"},
    "queues[].pauses[].": {"reason": "1"},
    "http.tokens[].rights": {"token": "a-long-random-token"},
    "http.tls.": {"certificate": "a.pem", "key": "a.key"},
    "fastagi.fallback.": {"command": "/a", "facts": "/b"},
    "http.agent_php.allow": {},
}


def example(path: str, text: str) -> str:
    """A configuration with this one setting as its example has it."""
    data = json.loads(json.dumps(BASE))
    if path.startswith("asterisks"):
        del data["asterisk"]
        if path != "asterisks":
            data["asterisks"] = [{"secret": "x"}]
    place: Any = data
    *way, last = path.replace("[]", ".[]").split(".")
    for key, following in zip(way, [*way, last][1:], strict=True):
        if key == "[]":
            if isinstance(place, dict):
                place = place.setdefault("crm", {})
                continue
            if not place:
                place.append({})
            if isinstance(place[0], str):
                place[0] = {"name": place[0]}
            place = place[0]
        else:
            mapping = path.startswith("http.tokens")
            place = place.setdefault(key, [] if following == "[]" and not mapping else {})
    for prefix, beside in BESIDE.items():
        if path.startswith(prefix):
            place.update({**beside, **place})
    place[last] = Raw(text)
    return block(data)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0].strip("`"))
def test_every_example_is_taken(row: list[str], tmp_path: Path) -> None:
    file = tmp_path / "fastagi.yml"
    file.write_text(example(row[0].strip("`"), row[3].strip("`")), encoding="utf-8")
    config.load(file, environ={})


def test_every_setting_is_in_the_sample() -> None:
    sample = "".join(path.read_text(encoding="utf-8") for path in SETTINGS.parent.glob("*.yml"))
    for field, info in Settings.model_fields.items():
        name = info.alias or field
        assert re.search(rf"^(# )?{name}:", sample, re.MULTILINE), name


def test_every_route_is_told_with_its_right() -> None:
    routes = {
        # agent.php asks for the right itself, where it needs a token.
        (f"{row.method} {row.path}", "control" if one.judges else str(row.right or "none").lower())
        for one in INTERFACES
        for row in one.rows
        if row.schema is not None
    }
    text = (ROOT / "fastagi" / "api" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \| (\w+) \|", text, re.MULTILINE)) == routes


def test_what_needs_a_restart_is_said() -> None:
    said = re.search(r"need a restart:\*\* ([^.]+)", SETTINGS.read_text(encoding="utf-8"))
    assert said is not None
    assert set(re.findall(r"`(\w+)`", said[1])) == {*FIXED, "asterisk"}


# -- links ---------------------------------------------------------------------------------------


@cache
def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.splitlines()]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(document: Path) -> frozenset[str]:
    """As the usual hosts make them of headings."""
    found = []
    for heading in re.findall(r"^#+ (.*)", without_code(document.read_text("utf-8")), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\]\(.*?\)", "]", heading).lower())
        found.append(plain.strip().replace(" ", "-"))
    assert len(found) == len(set(found)), f"two headings of {document} are the same"
    return frozenset(found)


def test_every_link_leads_somewhere() -> None:
    broken = []
    for document in documents():
        text = without_code(document.read_text(encoding="utf-8"))
        for link in re.findall(r"\]\(([^)]+)\)", text):
            if "://" in link:
                continue
            name, _, anchor = link.partition("#")
            to = (document.parent / name).resolve() if name else document
            if not to.exists() or (anchor and anchor not in anchors(to)):
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert broken == []


def test_every_document_can_be_reached_from_the_first_one() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        document = todo.pop()
        reached.add(document)
        for link in re.findall(r"\]\(([^)#:]+)[)#]", document.read_text(encoding="utf-8")):
            to = (document.parent / link).resolve()
            to = to / "README.md" if to.is_dir() else to
            if to.suffix == ".md" and to not in reached:
                todo.append(to)
    assert set(documents()) <= reached


# -- what can be pasted ----------------------------------------------------------------------------


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for document in documents():
        text = document.read_text(encoding="utf-8")
        for found in re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            yield document, found


def test_every_piece_of_yaml_is_taken(tmp_path: Path) -> None:
    pieces = [(where, text) for where, text in blocks("yaml") if where.name == "README.md"]
    assert len(pieces) > 5
    for where, text in pieces:
        given = yaml.safe_load(text)
        data = {**BASE, **given}
        if "asterisks" in given:
            del data["asterisk"]
        file = tmp_path / "fastagi.yml"
        file.write_text(yaml.safe_dump(data), encoding="utf-8")
        try:
            config.load(file, environ={})
        except config.ConfigError as error:
            raise AssertionError(f"{where}: {error}") from error


def test_every_command_is_there_with_its_options() -> None:
    group: Any = typer.main.get_command(app)
    said = []
    for document in documents():
        text = document.read_text(encoding="utf-8")
        said += re.findall(
            r"(?:`|^|\s|/)fastagi ([a-z]+)((?: (?!>)[^`\n|>,.;]+)*)", text, re.MULTILINE
        )
    commands = [(name, rest) for name, rest in said if name in group.commands]
    assert {name for name, _ in commands} == set(group.commands)
    for name, rest in commands:
        command = group.commands[name]
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in options, f"fastagi {name} {option}"


def test_every_file_that_is_named_is_there() -> None:
    for document in documents():
        text = document.read_text(encoding="utf-8")
        names = re.findall(r"(?<![/\w])(?:tests|fastagi|config|dialplan)/[\w/.-]*\w", text)
        names += re.findall(r"`(\w+(?:/\w+)*(?:\.py|/))[`:]", text)
        for name in names:
            assert any((base / name).exists() for base in (ROOT, document.parent)), (document, name)


def test_every_name_in_the_code_that_is_named_is_there() -> None:
    found = re.findall(r"`([\w/]+\.py):(\w+)`", (ROOT / "fastagi" / "README.md").read_text("utf-8"))
    assert found
    for file, name in found:
        code = (ROOT / "fastagi" / file).read_text(encoding="utf-8")
        assert re.search(rf"^(class|def|async def) {name}\b|^{name}\b", code, re.MULTILINE), name


def test_the_hooks_before_a_commit_are_the_steps_of_a_run() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    steps = re.findall(r"^step '[\w ]+' (.+)$", (ROOT / "tests" / "run").read_text(), re.MULTILINE)
    entries = {hook["entry"].removeprefix(".venv/bin/") for hook in hooks}
    assert entries == {step.replace(" --check", "").removesuffix(" .") for step in steps[:-1]}
