"""What must fit together: references, things that must be unique, codes that would clash.

These look at the plain data rather than at the settings, so that one wrong value elsewhere does not
hide them. Wrong types are none of their business: they pass over them.
"""

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

from fastagi.agents.devices import PLACEHOLDER, Pattern
from fastagi.config.document import Path, spell
from fastagi.config.problems import did_you_mean
from fastagi.config.settings import FeatureCodes
from fastagi.config.values import NAME_BYTES, duration, duration_or_off, host_port, is_off

MISSING = "is missing"

Found = Iterator[tuple[Path, str]]


def cross_checks(
    data: dict[str, Any],
    unread: frozenset[str] | None,
    *,
    agents: bool,
    name: Callable[[Path], str] = spell,
) -> Found:
    """``unread``: the top-level keys that could not be read (None: nobody knows which). ``name``:
    how another place is called."""
    yield from _asterisks(data, unread)
    yield from _feature_codes(data)
    yield from _http(data)
    yield from _metrics(data)
    yield from _fastagi(data)
    yield from _devices(data)
    for key in ("id", "code", "name"):
        yield from _unique(data, "pause_reasons", key, name)
    yield from _pause_limits(data)
    yield from _unplugged(data)
    for key in ("id", "number", "name"):
        yield from _unique(data, "queues", key, name)
    if agents:
        yield from _unique(data, "agents", "id", name)
        yield from _unique(data, "agents", "number", name)
        yield from _agents(data, references=unread is not None and "queues" not in unread)


def _section(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _items(data: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    value = data.get(key)
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            yield index, item


def _as_written(value: Any) -> Any:
    return value


def _by_number(value: str) -> str:
    return str(int(value)) if value.isascii() and value.isdigit() and len(value) < 20 else value


def _unique(
    data: dict[str, Any], key: str, name: str, named: Callable[[Path], str] = spell
) -> Found:
    same: Callable[[str], str] = {"id": _by_number, "name": str.lower}.get(name, _as_written)
    first: dict[str, int] = {}
    for index, item in _items(data, key):
        value = item.get(name)
        if not isinstance(value, str):
            continue
        earlier = first.setdefault(same(value), index)
        if earlier != index:
            yield (key, index, name), f"{value!r} is taken already by {named((key, earlier))}"


def _asterisks(data: dict[str, Any], unread: frozenset[str] | None) -> Found:
    one, several = data.get("asterisk"), data.get("asterisks")
    if one is None and several is None:
        if unread is not None and not {"asterisk", "asterisks"} & unread:
            yield ("asterisk",), MISSING
    elif one is not None and several is not None:
        yield ("asterisks",), "there is asterisk too: one of them, this one for several"
    elif several == []:
        yield ("asterisks",), "is empty"
    if isinstance(one, dict) and "name" in one:
        yield ("asterisk", "name"), "names are for several: make it a list, asterisks"
    places: dict[tuple[str, str], int] = {}
    for index, item in _items(data, "asterisks"):
        if "name" not in item:
            yield ("asterisks", index, "name"), MISSING
        # As text: it is the same one or it is not, whether or not it can be read.
        place = (str(item.get("host", "127.0.0.1")), str(item.get("port", "5038")))
        if places.setdefault(place, index) != index:
            name = "port" if "port" in item else "host"
            yield ("asterisks", index, name), f"the same Asterisk as asterisks[{places[place]}]"
    yield from _unique(data, "asterisks", "name")


def _feature_codes(data: dict[str, Any]) -> Found:
    written = _section(data, "feature_codes")
    codes: dict[str, str] = {
        name: info.default for name, info in FeatureCodes.model_fields.items()
    } | {name: code for name, code in written.items() if name in FeatureCodes.model_fields}
    names = [name for name, code in codes.items() if _looks_like_code(code)]
    for number, name in enumerate(names):
        for other in names[:number]:
            # Point at the one the admin wrote, rather than at a default.
            at, against = (name, other) if name in written else (other, name)
            if at not in written:
                continue
            mine, theirs = codes[at], codes[against]
            if mine == theirs:
                yield ("feature_codes", at), f"{mine!r} is the code of {against} already"
            elif mine.startswith(theirs) or theirs.startswith(mine):
                message = f"{mine!r} and {theirs!r} ({against}): one begins with the other"
                yield ("feature_codes", at), message


def _looks_like_code(code: object) -> bool:
    written = isinstance(code, str) and bool(code) and not is_off(code)
    return written and not str(code).strip("*#0123456789")


def _http(data: dict[str, Any]) -> Found:
    section = _section(data, "http")
    tokens = section.get("tokens")
    if isinstance(tokens, dict):
        first: dict[str, str] = {}
        for name, token in tokens.items():
            text = token.get("token") if isinstance(token, dict) else token
            if isinstance(text, str) and first.setdefault(text, name) != name:
                yield ("http", "tokens", name), f"the same token as that of {spell((first[text],))}"
    php = section.get("agent_php")
    if isinstance(php, dict) and not (php.get("allow") or php.get("token") or tokens):
        yield ("http", "agent_php"), "neither addresses nor a token: nobody could use it"
    listen = section.get("listen")
    if isinstance(listen, str) and not tokens:
        try:
            host = host_port(listen).host
            local = host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return
        if not local:
            yield ("http", "listen"), "without tokens only loopback (127.0.0.1, ::1) is served"


def _metrics(data: dict[str, Any]) -> Found:
    listen = _section(data, "metrics").get("listen")
    for other, otherwise in (("fastagi", "127.0.0.1:4573"), ("http", "127.0.0.1:9493")):
        if other == "http" and is_off(data.get("http")):
            continue
        if listen is not None and listen == _section(data, other).get("listen", otherwise):
            yield ("metrics", "listen"), f"is {other}.listen already: another port"


def _fastagi(data: dict[str, Any]) -> Found:
    if _section(data, "fastagi").get("allow") == []:
        yield ("fastagi", "allow"), "is empty: no Asterisk could call"


def _devices(data: dict[str, Any]) -> Found:
    for index, rule in _items(data, "devices"):
        try:
            pattern = Pattern.parse(rule["match"])
        except (KeyError, ValueError, AttributeError, TypeError):
            continue
        for name in ("interface", "state_interface"):
            template = rule.get(name)
            if not isinstance(template, str):
                continue
            if name == "interface" and PLACEHOLDER not in template and not pattern.literal:
                yield (
                    ("devices", index, name),
                    f"without {PLACEHOLDER} all that match would be one queue member",
                )
            longest = len(template.replace(PLACEHOLDER, "x" * pattern.max_length).encode())
            if longest > NAME_BYTES:
                yield (
                    ("devices", index, name),
                    f"up to {longest} bytes, Asterisk keeps {NAME_BYTES}: "
                    "shorten it, or match fewer digits",
                )


def _pause_limits(data: dict[str, Any]) -> Found:
    for index, reason in _items(data, "pause_reasons"):
        then = reason.get("when_exceeded")
        limits = (reason.get("max_duration"), reason.get("daily_budget"))
        if isinstance(then, str) and then != "warn" and all(map(is_off, limits)):
            yield (
                ("pause_reasons", index, "when_exceeded"),
                "means nothing without max_duration or daily_budget",
            )


def _unplugged(data: dict[str, Any]) -> Found:
    section = _section(data, "unplugged")
    pause = section.get("pause_after", "30s")
    logoff = section.get("logoff_after", "10m")
    try:
        wrong = bool(duration_or_off(pause)) and bool(duration_or_off(logoff))
        wrong = wrong and duration(logoff) <= duration(pause)
    except ValueError:
        return
    if wrong:
        at = "logoff_after" if "logoff_after" in section else "pause_after"
        message = f"logoff_after ({logoff}) must be longer than pause_after ({pause})"
        yield ("unplugged", at), message


def _agents(data: dict[str, Any], *, references: bool) -> Found:
    names: dict[str, str] = {}
    numbers: dict[str, str] = {}
    for _, queue in _items(data, "queues"):
        name, number = queue.get("name"), queue.get("number")
        if isinstance(name, str):
            names[name.lower()] = name
            if isinstance(number, str):
                numbers[number] = name
    said: dict[str, str] = {}  # of a queue: thousands of agents may have it
    for index, agent in _items(data, "agents"):
        if agent.get("pin") is not None and agent.get("pin_hash") is not None:
            yield ("agents", index, "pin_hash"), "there is a pin too: one of them"
        queues = agent.get("queues")
        seen: set[str] = set()
        for place, queue in enumerate(queues if isinstance(queues, list) else ()):
            name = queue.get("name") if isinstance(queue, dict) else queue
            if not isinstance(name, str):
                continue
            path: Path = ("agents", index, "queues", place)
            if isinstance(queue, dict):
                path = (*path, "name")
            if name in seen:
                yield path, f"{name!r} stands here twice"
            seen.add(name)
            if references and names.get(name.lower()) != name:
                if name not in said:
                    said[name] = _no_queue(name, names, numbers)
                yield path, said[name]


def _no_queue(name: str, names: dict[str, str], numbers: dict[str, str]) -> str:
    if name in numbers:
        return f"{name!r} is the number of a queue: write its name, {numbers[name]!r}"
    if not names:
        return f"no queue {name!r}: no queue is configured"
    return f"no queue {name!r}{did_you_mean(name, names.values())}"
