"""The page at ``/docs``: shows openapi.json and tries its routes out. No asset from outside."""

import base64
import hashlib
import re
from pathlib import Path

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
