"""The folder of the database, as a service without the rights of root meets it: closed, full, under
another mount. All passes by, and nothing is lost or done twice."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journey.parts import Line, Service, until
from tests.journey.test_store import is_ready, ready, relogged

NOBODY = 65534 if os.geteuid() == 0 else os.geteuid()


def as_nobody() -> None:
    from fastagi.cli import main

    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    main()


def run(*command: str) -> None:
    """Only root can mount."""
    words = command if os.geteuid() == 0 else ("sudo", "-n", *command)
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(f"needs root, or sudo without a password: {error}", pytrace=False)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below pytest's folder, which other users cannot enter."""
    outer = Path(tempfile.mkdtemp(prefix="fastagi-folder-"))
    outer.chmod(0o755)
    made = outer / "database"
    made.mkdir()
    yield made
    while made.is_mount():
        run("umount", "-l", str(made))
    shutil.rmtree(outer, ignore_errors=True)


@pytest.fixture
async def service(folder: Path, make_service: Any) -> Service:
    """On a small disk of its own, with one agent logged in."""
    run("mount", "-t", "tmpfs", "-o", f"size=4m,uid={NOBODY},mode=700", "tmpfs", str(folder))
    made: Service = make_service(
        database=f"sqlite:///{folder}/fastagi.db", http={}, unplugged=None, start=False
    )
    if os.geteuid() == 0:
        made.main = as_nobody
    readable = shutil.copytree(made.config, folder.parent / "config")
    made.config = Path(readable)
    made.spawn()
    await until(lambda: bool(made.logged("listening")) and is_ready(made))
    assert await code(made, "login", "4001") == "LOGGED_IN"
    return made


async def code(service: Service, script: str, digits: str = "", extension: str = "1001") -> str:
    return await (await Line.to(service.port)).call(script, digits, extension)


def close(folder: Path) -> None:
    folder.chmod(0)


def open_(folder: Path) -> None:
    folder.chmod(0o700)


def cover(folder: Path) -> None:
    run("mount", "-t", "tmpfs", "-o", f"uid={NOBODY}", "tmpfs", str(folder))


def uncover(folder: Path) -> None:
    run("umount", str(folder))


def cover_file(folder: Path) -> None:
    other = folder.parent / "other.db"
    other.touch()
    run("mount", "--bind", str(other), str(folder / "fastagi.db"))


def uncover_file(folder: Path) -> None:
    run("umount", str(folder / "fastagi.db"))


def fill(folder: Path) -> None:
    for size in (65536, 4096, 1):
        with contextlib.suppress(OSError), (folder / "more").open("ab", buffering=0) as opened:
            while True:
                opened.write(b"x" * size)


def empty(folder: Path) -> None:
    (folder / "more").unlink()


FAULTS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "closed": (close, open_, "permission denied"),
    "another mount": (cover, uncover, "missing"),
    "another mount on the file": (cover_file, uncover_file, "replaced"),
    "full": (fill, empty, "disk full"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_it_passes_by(fault: str, service: Service, folder: Path) -> None:
    begin, end, word = FAULTS[fault]
    for _ in range(2):
        before = service.events("agent-pause", "agent-unpause")
        begin(folder)
        # What is reserved already may be written on a full disk; then it is no more.
        done = []
        while (said := await code(service, "pause", "1")) != "UNAVAILABLE" and len(done) < 500:
            done.append(said)
            assert await code(service, "unpause") in ("UNPAUSED", "UNAVAILABLE")
        assert len(done) < 500
        assert await code(service, "login", "4002", "1003") == "UNAVAILABLE"
        answer = ready(service)
        assert (answer["code"], answer["store_fault"]) == (503, word)
        end(folder)
        await until(lambda: is_ready(service))
        assert await code(service, "unpause") in ("NOT_PAUSED", "UNPAUSED")
        assert await code(service, "pause", "1") == "PAUSED"
        assert await code(service, "unpause") == "UNPAUSED"
        now = service.events("agent-pause", "agent-unpause")[len(before) :]
        assert [event["type"] for event in now] == ["agent-pause", "agent-unpause"] * (
            len(now) // 2
        )
        assert 1 <= len(now) // 2 <= len(done) + 2
    assert relogged(service)
    assert not service.logged("skipped: a fault of the service")
    await until(lambda: service.members() == service.meant())
    assert service.members()["sales"] == {"PJSIP/1001"}
    assert service.stop() == 0
