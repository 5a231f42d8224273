"""The fallback as an Asterisk on this machine can run it, installed or from a checkout."""

import shlex
import sys
from pathlib import Path

import fastagi

FACTS = "agent-features-fallback.json"


def install(folder: Path) -> Path:
    """A script in ``folder`` that Asterisk can execute."""
    script = folder / "fastagi-fallback"
    package = Path(fastagi.__file__).parents[1]
    script.write_text(
        "#!/bin/sh\n"
        f"PYTHONPATH={shlex.quote(str(package))} "
        f'exec {shlex.quote(sys.executable)} -m fastagi.fallback "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    return script
