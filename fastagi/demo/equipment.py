"""What a laboratory needs: an Asterisk with its sounds, and a phone.

The machine's own programs where it has them, unpacked Debian packages for what is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastagi.demo import asterisk, debian, phone

LANGUAGES = ("en", "fr")


@dataclass(frozen=True, slots=True)
class Equipment:
    asterisk: asterisk.Program
    phone: phone.Program


def prepare(
    languages: Sequence[str] = LANGUAGES,
    *,
    cache: Path | None = None,
    on_progress: debian.Progress | None = None,
) -> Equipment:
    """Find or fetch everything; a second time it takes milliseconds. Blocks.

    Raises:
        DebianError: something is missing here and cannot be fetched.
    """
    own = asterisk.on_machine()
    sounds = asterisk.sounds_in(own[2], languages) if own else {}
    baresip = phone.on_machine()
    packages = [f"asterisk-core-sounds-{name}-gsm" for name in languages if name not in sounds]
    needs = [
        *([] if own else ["asterisk"]),
        *([] if baresip else ["baresip-core"]),
    ]
    if needs:
        tree = debian.unpacked([*needs, *packages], cache=cache, on_progress=on_progress)
    elif packages:
        tree = debian.unpacked(packages, dependencies=False, cache=cache, on_progress=on_progress)
    else:
        tree = None
    if tree is not None:
        sounds |= asterisk.sounds_in(tree.root / "usr/share/asterisk", languages)
    missing = set(languages) - set(sounds)
    if missing:
        raise debian.DebianError(f"no core sounds in {', '.join(sorted(missing))}")
    command, modules, data = own or asterisk.in_tree(_made(tree))
    return Equipment(
        asterisk.Program(command, modules, data, sounds),
        baresip or phone.in_tree(_made(tree)),
    )


def _made(tree: debian.Tree | None) -> debian.Tree:
    if tree is None:
        raise debian.DebianError("nothing was unpacked")
    return tree
