"""What an integrator has at hand: curl; and what is asked of the service with it."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

TOKEN = "a-token-that-nobody-would-guess"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # lower-case names
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of ``{"error": text}``, which is all that is there."""
        (only,) = self.json.items()
        assert only[0] == "error"
        return str(only[1])

    def __str__(self) -> str:
        return f"{self.status} {self.body}".strip()


@dataclass
class Curl:
    """The program, with a token and without; ``headers`` goes before the token's."""

    port: int
    token: str | None = TOKEN
    headers: Sequence[str] = field(default=("Content-Type: application/json",))

    def __call__(self, method: str, path: str, body: str | None = None, *more: str) -> Answer:
        """``body`` as it stands; ``@file`` is that file's content."""
        words = ["curl", "--silent", "--show-error", "--dump-header", "-", "--max-time", "30"]
        words += ["--request", method]
        for header in self.headers:
            words += ["--header", header]
        if self.token is not None:
            words += ["--header", f"Authorization: Bearer {self.token}"]
        if body is not None:
            words += ["--data-binary", body]
        words += [*more, f"http://127.0.0.1:{self.port}{path}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        head, _, rest = done.stdout.replace("\r\n", "\n").partition("\n\n")
        while head.startswith("HTTP/1.1 100"):
            head, _, rest = rest.partition("\n\n")
        first, *lines = head.split("\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return Answer(
            int(first.split(" ")[1]), {k.lower(): v for k, v in headers.items()}, rest.strip()
        )


def table(title: str, *rows: tuple[str, str, str]) -> None:
    """Prints what was asked, what the document has and what came."""
    print(f"\n{title}")
    wide = max(len(asked) for asked, _, _ in rows)
    middle = max(len(expected) for _, expected, _ in rows)
    for asked, expected, got in rows:
        print(f"  {asked:{wide}}  {expected:{middle}}  ->  {got}")
