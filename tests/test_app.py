"""What the service does beside its rooms."""

import errno

import pytest
import typer

from fastagi import app, cli
from fastagi.config import HostPort


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
