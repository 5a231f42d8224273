"""``/openapi.json``, and the page at ``/docs``, which shows it and tries its operations out. No
asset from outside."""

import base64
import hashlib
import re
from pathlib import Path

from fastagi.api.answers import JSON
from fastagi.api.context import Context
from fastagi.api.fixed import Fixed
from fastagi.api.request import Call
from fastagi.api.table import Interface, Row

PAGE = (Path(__file__).parent / "docs.html").read_bytes()


def _hash(tag: bytes) -> str:
    inside = re.search(rb"<%b>(.*?)</%b>" % (tag, tag), PAGE, re.DOTALL)
    assert inside is not None
    return "'sha256-" + base64.b64encode(hashlib.sha256(inside[1]).digest()).decode() + "'"


# The page's own script and style alone, and no other host.
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(b'script')}",
        f"style-src {_hash(b'style')}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
POLICY_HEADER = ((b"content-security-policy", POLICY.encode()),)


class Docs:
    def __init__(self, context: Context) -> None:
        self._document = context.document
        self._page = Fixed(PAGE, "text/html; charset=utf-8", POLICY_HEADER)
        self._openapi: Fixed | None = None

    async def page(self, call: Call) -> Fixed:
        return self._page

    async def openapi(self, call: Call) -> Fixed:
        if self._openapi is None:
            assert self._document is not None
            self._openapi = Fixed(await self._document(), JSON)
        return self._openapi


INTERFACE = Interface(
    name="docs",
    tag="docs",
    bases=("/docs", "/openapi.json"),
    make=Docs,
    rows=(
        Row("GET", "/docs", None, Docs.page),
        Row("GET", "/openapi.json", None, Docs.openapi),
    ),
)
