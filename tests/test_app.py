"""What the service does beside its rooms."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from fastagi import app, cli
from fastagi.agents.commands import Command
from fastagi.agents.service import StoreUnavailable
from fastagi.config import HostPort
from fastagi.store import Difference


async def test_a_full_disk_just_after_the_start_does_not_end_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by the property test: what an earlier configuration left to do is read then."""
    answers: list[Any] = [StoreUnavailable("disk I/O error")] * 2 + [(["1"], [("2", "sales")])]
    waited, done = [], []

    async def left_over() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def execute(command: Command) -> None:
        done.append((type(command).__name__, command.agent))

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(app.asyncio, "sleep", sleep)
    service = app.App(Path("unread.yml"))

    async def nobody(*_: object) -> dict[str, Any]:
        return {}

    service.store = SimpleNamespace(  # type: ignore[assignment]
        left_over=left_over, logged_in=nobody, states=nobody
    )
    service.service = SimpleNamespace(  # type: ignore[assignment]
        new_id=iter("ab").__next__, execute=execute, read_waiting=nobody
    )
    await service._bring_along(Difference())
    assert waited == [1, 1]
    assert done == [("LogOff", "1"), ("LeaveQueue", "2")]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.EADDRINUSE,
            "metrics.listen: [::1]:80: Address already in use: `ss -ltnp 'sport = :80'` shows by "
            "whom: stop it, or take another",
        ),
        (
            errno.EADDRNOTAVAIL,
            "metrics.listen: [::1]:80: Cannot assign requested address: no interface of this "
            "machine has this address",
        ),
        (
            errno.EACCES,
            "metrics.listen: [::1]:80: Permission denied: ports below 1024 are not for every "
            "user: give another port",
        ),
    ],
)
def test_where_nothing_can_listen_the_setting_is_named(number: int, said: str) -> None:
    with (
        pytest.raises(OSError, match="metrics") as caught,
        app.listening_at("metrics.listen", HostPort("::1", 80)),
    ):
        raise OSError(number, "error while attempting to bind on address")
    assert (caught.value.errno, caught.value.strerror) == (number, said)


def test_another_fault_stays_as_it_is() -> None:
    fault = OSError("http.tls.key: /x: no such file")
    with (
        pytest.raises(OSError, match="no such file") as caught,
        app.listening_at("http.listen", HostPort("::1", 80)),
    ):
        raise fault
    assert caught.value is fault


def test_a_fault_of_a_file_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, cli._explained():
        raise PermissionError(errno.EACCES, "Permission denied", "/var/lib/fastagi/x")
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err == "fastagi: /var/lib/fastagi/x: Permission denied\n"
