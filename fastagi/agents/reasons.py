"""Which pause reason somebody means: one matching for every interface. Pure."""

import unicodedata
from collections.abc import Iterable
from typing import Protocol, TypeVar

LONGEST = 500  # characters: nobody names a reason with more


class Described(Protocol):
    @property
    def code(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...


R = TypeVar("R", bound=Described)


def folded(text: str) -> str:
    """``text`` without what people write differently: letter case, accents, width, and blanks
    around and between words."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(char for char in apart if not unicodedata.combining(char))
    # Once more: some letters fold only after they were taken apart.
    return " ".join(unicodedata.normalize("NFKC", bare.casefold()).split())


def find(reasons: Iterable[R], wanted: str) -> R | None:
    """The reason with this code, name or description; None: there is none.

    A code goes first, as phones dial it, then the name as it is written, the name in another case
    or without its accents, and the description likewise. Of several that fit equally the first
    one counts.
    """
    if len(wanted) > LONGEST or any(unicodedata.category(char) == "Cc" for char in wanted):
        return None
    plain = folded(wanted)
    if not plain:
        return None
    known = list(reasons)
    ways = (
        (reason for reason in known if reason.code == wanted.strip()),
        (reason for reason in known if reason.name == wanted),
        (reason for reason in known if folded(reason.name) == plain),
        (reason for reason in known if folded(reason.description) == plain),
    )
    return next((reason for way in ways for reason in way), None)


def still(reasons: Iterable[R], code: str, name: str) -> R | None:
    """What the reason of a pause that goes on is by now; None: there is no such reason any more.

    It may have another code since the pause began, and its code may be another one's.
    """
    known = list(reasons)
    return find((reason for reason in known if reason.code == code), name) or find(known, name)
