"""``python -m fastagi`` as a process of its own, forked from one that has imported it.

The interpreter's start and the imports are most of what a short-lived process costs, and there are
hundreds. What a test says about the start itself it says with ``subprocess``.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from fastagi.demo.asterisk import dies_with_us

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("fastagi.app", "fastagi.check", "fastagi.cli", "fastagi.dial", "fastagi.store"),
        *("fastagi.api.asgi", "psycopg", "rich.table", "uvloop", "tests.truth.door"),
    ]
)


class _Descriptor:
    """A file descriptor that goes over to the process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> Any:
        return reduction.DupFd(self.number)

    def __setstate__(self, duplicate: Any) -> None:
        self.number = duplicate.detach()


class Forked:
    """What is used of ``subprocess.Popen``.

    ``streams``: file descriptors for standard input, output and error; None: as ours.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        streams: Sequence[int | None] = (None, None, None),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        main: Callable[[], None] | None = None,
    ) -> None:
        handed = [None if number is None else _Descriptor(number) for number in streams]
        environment = dict(os.environ if env is None else env)
        self._process = _CONTEXT.Process(
            target=_run, args=(list(words), handed, environment, cwd or Path.cwd(), main)
        )
        self._process.daemon = True
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired("fastagi", timeout or 0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    words: list[str],
    streams: list[_Descriptor | None],
    environment: dict[str, str],
    cwd: Path,
    main: Callable[[], None] | None,
) -> None:
    dies_with_us()()
    for number, stream in enumerate(streams):
        if stream is not None:
            os.dup2(stream.number, number)
            os.close(stream.number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it lives as long as the process
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["fastagi", *words]
    if main is None:
        from fastagi.cli import main
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
