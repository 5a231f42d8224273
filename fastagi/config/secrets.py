"""What must not be shown when something is wrong with it: secrets, also where none belongs."""

import re

_KEYS = frozenset(("pin", "pin_hash", "pass", "key", "database", "username"))
_KEY_PARTS = ("secret", "token", "passw", "pasw", "pwd", "credential", "apikey", "api_key")
# What makers of secrets begin them with, or the dollars between a hash's method and its salt.
_MADE = re.compile(r"whsec_|sk[-_]|pk_|gh[pousr]_|glpat-|xox[a-z]-|eyJ[\w-]{10}|\$[\w-]+\$")
_LONG = re.compile(r"[A-Za-z0-9+=_!?%&~^-]{12,}", re.ASCII)


def is_key(name: object) -> bool:
    """Whether secrets stand under a key of this name, misspelled or not."""
    if not isinstance(name, str):
        return False
    lower = name.lower()
    return lower in _KEYS or any(part in lower for part in _KEY_PARTS)


def looks_like_one(text: str) -> bool:
    """Whether a text looks like a password, a token or a hash: long, with digits among letters. A
    name may look so too: then it is not shown, which hurts nobody."""
    text = text.strip(" &|[](),;'\"")
    if _MADE.match(text) is not None:
        return True
    inside = text.strip("0123456789")  # kunden-service-1 is a name
    return (
        _LONG.fullmatch(text) is not None
        and any(char.isdigit() for char in inside)
        and any(char.isalpha() for char in inside)
    )


def without(message: str, value: str) -> str:
    """The message without the value, which it may repeat as a whole or in part."""
    if not value:
        return message
    lower = value.lower()

    def shown(found: re.Match[str]) -> str:
        inside = found[1].lower()
        return "this" if inside and (inside in lower or lower in inside) else found[0]

    said, mean, guess = message.replace(repr(value), "this").partition(", did you mean")
    message = re.sub(r"'([^']*)'", shown, said) + mean + guess
    if len(value) >= 3 and lower in message.lower():
        return "this value cannot stand here"
    return message
