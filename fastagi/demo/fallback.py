"""The fallback as an Asterisk on this machine can run it, installed or from a checkout."""

import shlex
import sys
from pathlib import Path

import fastagi
from fastagi.config.values import path_for_dialplan

COMMAND = "fastagi-fallback"
FACTS = "agent-features-fallback.json"


def settings(folder: Path) -> dict[str, str] | None:
    """``fastagi.fallback`` for what ``install`` puts there; None for a folder whose name cannot
    stand in a dialplan."""
    try:
        return {
            "command": path_for_dialplan(str(folder / COMMAND)),
            "facts": path_for_dialplan(str(folder / FACTS)),
        }
    except ValueError:
        return None


def install(folder: Path, facts: str) -> None:
    """A script in ``folder`` that Asterisk can execute, and what it must know."""
    script = folder / COMMAND
    package = Path(fastagi.__file__).parents[1]
    script.write_text(
        "#!/bin/sh\n"
        f"PYTHONPATH={shlex.quote(str(package))} "
        f'exec {shlex.quote(sys.executable)} -P -B -m fastagi.fallback "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    (folder / FACTS).write_text(facts, encoding="utf-8")
