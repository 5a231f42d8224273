"""The kinds of values that stand in a configuration: durations, addresses, names, numbers.

Everything comes as text. Each parser raises ValueError saying what is wrong; those of secrets
never repeat what was written.
"""

import os
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, timedelta, tzinfo
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from fastagi.agents.text import is_text
from fastagi.config.problems import did_you_mean
from fastagi.config.syntax import character
from fastagi.contract import DEVICE_LOST

NAME_BYTES = 79  # app_queue cuts a longer name, in the middle of a character
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_LONGEST = timedelta(days=366)
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)
_SOUND = re.compile(r"[A-Za-z0-9_/.-]+", re.ASCII)
_CONTEXT = re.compile(r"[A-Za-z0-9_.-]{1,79}", re.ASCII)
_LOGIN = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2}(_[A-Z]{2})?", re.ASCII)
_USERNAME = re.compile(r"[A-Za-z0-9_.@-]{1,79}", re.ASCII)
_CODE = re.compile(r"[*#0-9]{1,16}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_REASON_CODE = re.compile(r"[0-9]{1,10}", re.ASCII)
_PIN = re.compile(r"[0-9]{3,12}", re.ASCII)
_ASTERISK = re.compile(r"[A-Za-z0-9_-]{1,20}", re.ASCII)
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_PATH = re.compile(r"/[A-Za-z0-9_./+@-]{1,250}", re.ASCII)
_LOCAL_ZONE = "/etc/localtime"
NEVER = "never"  # where a time of day may be given: not for this agent
OFF = frozenset(("off", "no", "none", "false", "never", "null", "0"))
LONGEST_NAME = 250  # characters
SOUND_SUFFIXES = frozenset(
    (
        *("alaw", "al", "ulaw", "ul", "mu", "pcm", "gsm", "g719", "g722", "g723", "g723sf", "g729"),
        *("g726-16", "g726-24", "g726-32", "g726-40", "ilbc", "mp3", "ogg", "raw", "vox"),
        *("siren7", "siren14", "sln", "sln12", "sln16", "sln24", "sln32", "sln44", "sln48"),
        *("sln96", "sln192", "wav", "wav16", "wav49", "WAV"),
    )
)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is empty" if value is None else "must be a single value")
    return value


def is_off(value: object) -> bool:
    """Whether this is one of the words that switch something off: off, no, false, never, 0."""
    return value is None or (isinstance(value, str) and value.lower() in OFF)


def or_off(value: Any) -> Any:
    """None for a word that switches it off."""
    return None if is_off(value) else value


def duration_or_off(value: Any) -> Any:
    """None for a word that switches it off, and for a length of nothing."""
    if is_off(value):
        return None
    length = duration(value)
    return length or None


def duration(value: object) -> timedelta:
    """``90s``, ``45m``, ``2h``, ``1h30m``, ``1d``; nothing is ``0`` or a word such as ``off``."""
    if isinstance(value, timedelta):
        return value
    text = _text(value)
    if is_off(text):
        return timedelta(0)
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        unit = " (with its unit)" if text.isdigit() else ""
        raise ValueError(f"{text!r} is no duration{unit}: write 45m, 90s or 1h30m")
    days, hours, minutes, seconds = (
        int(part or 0) if len(part or "") < 10 else 10**9 for part in found.groups()
    )
    try:
        length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        length = timedelta.max
    if length > _LONGEST:
        raise ValueError(f"{text!r} is longer than a year")
    return length


def positive(length: timedelta) -> timedelta:
    if length <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return length


def at_most(longest: timedelta) -> Callable[[timedelta], timedelta]:
    """pydantic's own bound would be told in Python's words."""

    def check(length: timedelta) -> timedelta:
        if length > longest:
            raise ValueError(f"must be at most {longest.total_seconds():g}s")
        return length

    return check


def time_of_day(value: object) -> str:
    """``20:00``; ``8:30`` becomes ``08:30``."""
    text = _text(value)
    found = _TIME.fullmatch(text)
    if found is None:
        also = ', the end of the day is "00:00"' if text == "24:00" else ""
        raise ValueError(f"{text!r} is no time of day: write HH:MM, such as 20:00{also}")
    return f"{int(found.group(1)):02}:{found.group(2)}"


def time_or_never(value: object) -> str:
    text = _text(value)
    if is_off(text):
        return NEVER
    try:
        return time_of_day(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {NEVER}{did_you_mean(text, [NEVER])}") from None


def timezone(value: object) -> str:
    """A name that zoneinfo has, such as ``Europe/Paris``."""
    text = _text(value)
    try:
        return ZoneInfo(text).key
    except (LookupError, ValueError, OSError):
        pass
    known = available_timezones()
    ends = sorted(name for name in known if name.lower().endswith(f"/{text.lower()}"))
    guess = f", did you mean {ends[0]!r}?" if ends else did_you_mean(text, known)
    raise ValueError(f"{text!r} is no time zone{guess or ', such as Europe/Paris'}")


def local_zone() -> tzinfo:
    """The machine's: ``$TZ``, else /etc/localtime, else UTC. It knows its summer time."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if name and not name.startswith("/"):
        try:
            return ZoneInfo(name)
        except (LookupError, ValueError, OSError):
            pass
    place = name if name.startswith("/") else _LOCAL_ZONE
    try:
        with open(place, "rb") as file:
            return ZoneInfo.from_file(file, key=os.path.realpath(place).partition("zoneinfo/")[2])
    except (ValueError, OSError):
        return UTC


def host(value: object) -> str:
    """A host name or an address, nothing else: it goes into dialplan and manager.conf."""
    text = _text(value)
    try:
        return str(ip_address(text)) if "%" not in text else _no_host(text)
    except ValueError:
        pass
    if not _HOST.fullmatch(text) or text.replace(".", "").isdigit():
        _no_host(text)
    return text


def _no_host(text: str) -> str:
    raise ValueError(f"{text!r} is neither a host name nor an address")


class HostPort(NamedTuple):
    """Where to listen or connect; as text an IPv6 address stands in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def host_port(value: object) -> HostPort:
    if isinstance(value, HostPort):
        return value
    text = _text(value)
    name, colon, port = text.rpartition(":")
    if not colon or (":" in name and not name.startswith("[")):
        raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:4573 or [::1]:4573")
    if not name:
        raise ValueError(f"{text!r} has no host: write 0.0.0.0{text} to listen on all addresses")
    if name.startswith("["):
        if not name.endswith("]") or ":" not in name:
            raise ValueError(f"{text!r} is not host:port, such as [::1]:4573")
        name = name[1:-1]
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError(f"{port!r} is no port: 1 to 65535")
    return HostPort(host(name), int(port))


Network = IPv4Network | IPv6Network


def network(value: object) -> Network:
    """An address or a network."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    text = _text(value)
    try:
        return _unmapped(ip_network(text))
    except ValueError:
        pass
    try:
        wide = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network, such as 10.0.0.0/8") from None
    raise ValueError(f"{text!r} is an address inside a network, did you mean {str(wide)!r}?")


def _unmapped(network: Network) -> Network:
    """``::ffff:10.0.0.1`` is how an IPv6 socket shows 10.0.0.1, and who comes from there is known
    as 10.0.0.1."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def database_url(value: object) -> str:
    """May hold a password, so the message never repeats it."""
    text = _text(value)
    if not is_text(text):
        raise ValueError("control characters cannot stand in a database URL")
    scheme, _, rest = text.partition(":")
    if scheme == "sqlite":
        if not rest.startswith("///") or len(rest) == 3:
            raise ValueError("write sqlite:///file.db, or sqlite:////folder/file.db")
        return text
    if scheme == "postgresql":
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            raise ValueError("this PostgreSQL URL cannot be read") from None
        if not rest.startswith("//") or not parts.path.strip("/"):
            raise ValueError("write postgresql://user:password@host/database")
        return text
    if scheme in ("postgres", "psql", "pgsql", "postgresql+psycopg"):
        raise ValueError("did you mean postgresql://…?")
    raise ValueError("must begin with sqlite:/// or postgresql://")


def plain(text: str) -> str:
    """Text for people: no control characters, no blanks around it."""
    if not text.strip():
        raise ValueError("is empty")
    if not is_text(text):
        raise ValueError(f"{_unseen(text)} cannot stand here")
    if text != text.strip():
        raise ValueError("begins or ends with a blank")
    if len(text) > LONGEST_NAME:
        raise ValueError(f"longer than {LONGEST_NAME} characters")
    return text


def _unseen(text: str) -> str:
    char = next(char for char in text if not is_text(char))
    return "control characters" if char < " " or char == "\x7f" else character(char)


def asterisk_name(text: str) -> str:
    """A name that Asterisk keeps among others: it joins them with ``|`` and splits on ``, | ;``."""
    plain(text)
    for char in ",|;":
        if char in text:
            raise ValueError(f"{char!r} cannot stand in a name that Asterisk sees")
    if len(text.encode()) > NAME_BYTES:
        raise ValueError(f"longer than the {NAME_BYTES} bytes that Asterisk keeps")
    return text


def reason_name(text: str) -> str:
    asterisk_name(text)
    if text.lower() == DEVICE_LOST:
        raise ValueError(f"{DEVICE_LOST!r} is the pause of an agent whose phone is gone: not yours")
    return text


def path_for_dialplan(value: object) -> str:
    """An absolute path of characters that end no argument of a dialplan application."""
    text = _text(value)
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is no absolute path: it begins with /")
    if not _PATH.fullmatch(text):
        raise ValueError("a path in a dialplan has up to 250 of letters, digits and _ . / + @ -")
    return text


def file_path(value: object) -> Path:
    text = str(value) if isinstance(value, Path) else _text(value)
    if not is_text(text):
        raise ValueError("control characters cannot stand in the name of a file")
    return Path(text)


def username(text: str) -> str:
    """The name of a section in manager.conf and of an AMI header's value."""
    if not _USERNAME.fullmatch(text):
        raise ValueError(f"{text!r} is no user name: letters, digits and _ . @ -")
    return text


def queue_name(text: str) -> str:
    asterisk_name(text)
    if any(char in '[]()"\\' for char in text):
        raise ValueError("brackets, quotes and backslashes cannot stand in a queue's name")
    if text.lower() in ("general", "globals"):
        raise ValueError(f"{text!r} is no queue: queues.conf has a section of that name")
    return text


def is_language(value: object) -> bool:
    return isinstance(value, str) and _LANGUAGE.fullmatch(value) is not None


def _matching(pattern: re.Pattern[str], message: str, show: bool = True) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{text!r} {message}" if show else message)
        return text

    return AfterValidator(check)


def _secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        raise ValueError("is empty")
    if any(not char.isprintable() for char in text):
        raise ValueError("control characters cannot stand in a secret")
    return value


def _token(value: SecretStr) -> SecretStr:
    text = _secret(value).get_secret_value()
    if len(text) < 12 or not text.isascii() or " " in text:
        raise ValueError("a token has 12 characters or more, ASCII without blanks")
    return value


def _hook_secret(value: SecretStr) -> SecretStr:
    """Standard Webhooks: ``whsec_`` and the base64 of 24 to 64 bytes."""
    text = value.get_secret_value()
    try:
        key = b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError(
            "must be whsec_ and the base64 of 24 to 64 random bytes "
            "(openssl rand -base64 32 makes some)"
        )
    return value


def _pin(value: SecretStr) -> SecretStr:
    if not _PIN.fullmatch(value.get_secret_value()):
        raise ValueError("a PIN has 3 to 12 digits")
    return value


def _pin_hash(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not re.fullmatch(r"\$argon2(id|i|d)\$[A-Za-z0-9+/=,$-]{8,200}", text, re.ASCII):
        raise ValueError("must be an argon2 hash, $argon2id$…")
    return value


def _sounds(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _not_silent(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("needs at least one sound: a caller must never hear silence")
    return value


K = TypeVar("K")
V = TypeVar("V")


def frozen_mapping(value: Mapping[K, V]) -> Mapping[K, V]:
    return MappingProxyType(dict(value))


Duration = Annotated[
    timedelta, BeforeValidator(duration), BeforeValidator(lambda v: "0" if v is None else v)
]
Timeout = Annotated[timedelta, BeforeValidator(duration), AfterValidator(positive)]
Limit = Annotated[timedelta | None, BeforeValidator(duration_or_off)]  # None: there is none
OrOff = BeforeValidator(or_off)  # in front of what may be None
TimeOfDay = Annotated[str, BeforeValidator(time_of_day)]
TimeOrNever = Annotated[str, BeforeValidator(time_or_never)]
TimeZone = Annotated[str, BeforeValidator(timezone)]
PathForDialplan = Annotated[str, BeforeValidator(path_for_dialplan)]
Host = Annotated[str, BeforeValidator(host)]
HostPortValue = Annotated[HostPort, BeforeValidator(host_port)]
NetworkValue = Annotated[Network, BeforeValidator(network)]
FilePath = Annotated[Path, BeforeValidator(file_path)]
DatabaseUrl = Annotated[str, BeforeValidator(database_url)]
PlainText = Annotated[str, AfterValidator(plain)]
AsteriskName = Annotated[str, AfterValidator(asterisk_name)]
ReasonName = Annotated[str, AfterValidator(reason_name)]
Username = Annotated[str, AfterValidator(username)]
AsteriskId = Annotated[
    str, _matching(_ASTERISK, "is no name of an Asterisk: 1 to 20 letters, digits, - and _")
]
QueueName = Annotated[str, AfterValidator(queue_name)]
Language = Annotated[str, _matching(_LANGUAGE, "is no language, such as en or pt_BR")]
Code = Annotated[str, _matching(_CODE, "is no feature code: 1 to 16 of 0-9, * and #")]
Number = Annotated[str, _matching(_NUMBER, "is no number: 1 to 20 digits")]
ReasonCode = Annotated[str, _matching(_REASON_CODE, "is no code: 1 to 10 digits")]
Context = Annotated[str, _matching(_CONTEXT, "is no context: letters, digits and _ . -")]
Sound = Annotated[str, _matching(_SOUND, "is no sound: letters, digits and _ / . -")]
Sounds = Annotated[tuple[Sound, ...], BeforeValidator(_sounds), AfterValidator(_not_silent)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
LoginName = Annotated[
    str, _matching(_LOGIN, "is no login name: letters, digits and _ . @ -, 64 at most")
]
Token = Annotated[SecretStr, AfterValidator(_token)]
HookSecret = Annotated[SecretStr, AfterValidator(_hook_secret)]
Pin = Annotated[SecretStr, AfterValidator(_pin)]
PinHash = Annotated[SecretStr, AfterValidator(_pin_hash)]
Id = Annotated[int, Field(ge=1, le=2**31 - 1)]
Penalty = Annotated[int, Field(ge=0, le=2**31 - 1)]
