"""How an extension becomes a queue member: Asterisk patterns and device rules. Pure.

``PJSIP/{extension}`` for desk phones, ``Local/{extension}@outbound/n`` for agents elsewhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Self

DeviceType = Literal["local", "remote"]

MAX_EXTENSION: Final = 40
PLACEHOLDER: Final = "{extension}"
_EXTENSION = re.compile(r"[A-Za-z0-9_.+-]{1,40}", re.ASCII)
_WILDCARDS = {"X": "[0-9]", "Z": "[1-9]", "N": "[2-9]"}
_LITERALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-*#")


def is_extension(text: str) -> bool:
    """Whether ``text`` may stand in an interface: 1 to 40 of letters, digits and ``_ . + -``."""
    return _EXTENSION.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Pattern:
    """An Asterisk extension pattern, written without the leading underscore.

    ``X`` is 0-9, ``Z`` 1-9, ``N`` 2-9 (small letters too), ``[2-46]`` one of these, ``.`` one or
    more of anything, ``!`` none or more of anything; everything else is itself. Unlike in
    Asterisk ``-`` is itself as well: 10-01 and 1001 would be two devices.
    """

    text: str
    max_length: int  # of the extensions it can match
    literal: bool  # matches exactly one extension
    _matcher: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError saying what is wrong and at which character (counted from 1)."""
        start = 1 if text.startswith("_") else 0
        if len(text) == start:
            raise ValueError("a pattern needs at least one character")
        parts: list[str] = []
        literal, open_ended = True, False
        i = start
        while i < len(text):
            char, place = text[i], f"at character {i + 1}"
            if char in ".!":
                if i + 1 < len(text):
                    raise ValueError(f"nothing may follow {char!r}, {place}")
                parts.append(".+" if char == "." else ".*")
                literal, open_ended = False, True
            elif char == "[":
                end = text.find("]", i)
                if end < 0:
                    raise ValueError(f"'[' without ']', {place}")
                parts.append(_one_of(text[i + 1 : end], i + 1))
                literal = False
                i = end
            elif char.upper() in _WILDCARDS:
                parts.append(_WILDCARDS[char.upper()])
                literal = False
            elif char in _LITERALS:
                parts.append(re.escape(char))
            else:
                raise ValueError(f"{char!r} cannot stand in a pattern, {place}")
            i += 1
        if len(parts) - open_ended > MAX_EXTENSION:
            raise ValueError(f"longer than any extension ({MAX_EXTENSION} characters)")
        return cls(
            text=text,
            max_length=MAX_EXTENSION if open_ended else len(parts),
            literal=literal,
            _matcher=re.compile("".join(parts), re.ASCII),
        )

    @classmethod
    def exactly(cls, text: str) -> Self:
        """Matches this text alone, whatever stands in it."""
        return cls(text, len(text), True, re.compile(re.escape(text), re.ASCII))

    def matches(self, extension: str) -> bool:
        return is_extension(extension) and self._matcher.fullmatch(extension) is not None


def _one_of(inside: str, offset: int) -> str:
    """The regular expression for what stands between ``[`` and ``]``."""
    if not inside:
        raise ValueError(f"'[]' matches nothing, at character {offset}")
    chars: set[str] = set()
    i = 0
    while i < len(inside):
        first = inside[i]
        if not (first.isascii() and first.isprintable()) or first == "[":
            raise ValueError(f"{first!r} cannot stand in '[…]', at character {offset + i + 1}")
        if inside[i + 1 : i + 2] == "-" and i + 2 < len(inside):
            last = inside[i + 2]
            if not last.isascii() or ord(last) < ord(first):
                raise ValueError(
                    f"the range {inside[i : i + 3]!r} is the wrong way round, "
                    f"at character {offset + i + 1}"
                )
            chars.update(map(chr, range(ord(first), ord(last) + 1)))
            i += 3
        else:
            chars.add(first)
            i += 1
    return "[" + "".join(re.escape(char) for char in sorted(chars)) + "]"


@dataclass(frozen=True, slots=True)
class Device:
    """Where an agent sits: the extension, and what stands for it in Asterisk's queues."""

    extension: str
    context: str
    interface: str
    state_interface: str
    type: DeviceType = "local"
    asterisk: str = ""  # the name of the Asterisk it belongs to, where there are several

    @property
    def key(self) -> str:
        """Names the device among all: letter case does not matter in Asterisk."""
        return device_key(self.asterisk, self.interface)


def device_key(asterisk: str, interface: str) -> str:
    """``Device.key`` of an interface of this Asterisk."""
    return f"{asterisk}|{interface}".lower() if asterisk else interface.lower()


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """``interface`` and ``state_interface`` are templates with ``{extension}``.

    ``state_interface=None`` means the interface itself for a local device, and none for a remote
    one, whose line Asterisk does not see.
    """

    pattern: Pattern
    context: str
    interface: str
    state_interface: str | None = None
    type: DeviceType = "local"
    call_center: bool = True

    def device(self, extension: str, asterisk: str = "") -> Device:
        state = self.state_interface
        if state is None:
            state = self.interface if self.type == "local" else ""
        return Device(
            extension=extension,
            context=self.context,
            interface=self.interface.replace(PLACEHOLDER, extension),
            state_interface=state.replace(PLACEHOLDER, extension),
            type=self.type,
            asterisk=asterisk,
        )

    def extension_of(self, interface: str) -> str:
        """The extension whose device this interface is; "" when it is none of this rule's."""
        return self._extension_in(self.interface, interface)

    def extension_of_state(self, interface: str) -> str:
        """The same by the state interface: the phone that a ``Local/…`` interface leads to."""
        return self._extension_in(self.state_interface or "", interface)

    def _extension_in(self, template: str, interface: str) -> str:
        head, placeholder, tail = template.partition(PLACEHOLDER)
        if not placeholder:  # a rule for one extension, or for a shared device
            same = interface.lower() == head.lower() and self.pattern.literal
            return self.pattern.text.removeprefix("_") if same else ""
        end = len(interface) - len(tail)
        if (
            interface[: len(head)].lower() != head.lower()
            or interface[end:].lower() != tail.lower()
        ):
            return ""
        extension = interface[len(head) : end]
        return extension if self.pattern.matches(extension) else ""


def resolve(rules: Sequence[DeviceRule], extension: str, asterisk: str = "") -> Device | None:
    """The device of the first rule that matches; None when none does."""
    for rule in rules:
        if rule.pattern.matches(extension):
            return rule.device(extension, asterisk)
    return None


def device_of(
    rules: Sequence[DeviceRule], interface: str, state_interface: str, asterisk: str = ""
) -> Device:
    """The device behind a queue member that somebody else put in.

    One that no rule makes counts as a device too: its extension is what stands after the slash.
    """
    for rule in rules:
        extension = rule.extension_of(interface)
        if extension:
            return replace(rule.device(extension, asterisk), state_interface=state_interface)
    name = interface.partition("/")[2].partition("@")[0] or interface
    extension = name if is_extension(name) else "unknown"
    return Device(extension, "", interface, state_interface, "local", asterisk)


def endpoint_of(channel: str) -> str:
    """The endpoint in a channel's name: ``PJSIP/alice-0000002a`` -> ``alice``.

    ``Local/1001@phones-00000001;2`` -> ``1001``. Empty when there is none. What comes back is as
    untrusted as the name: only ``resolve`` says whether it is an extension.
    """
    technology, _, rest = channel.partition("/")
    name, dash, _ = rest.rpartition("-")
    endpoint = name if dash else rest.partition(";")[0]
    if technology.lower() == "local":
        endpoint = endpoint.partition("@")[0]
    return endpoint
