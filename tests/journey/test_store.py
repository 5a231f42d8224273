"""The store fails under a running service, or comes late: no phone hears a lie, and all goes on."""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import PostgreSQL
from tests.journey.parts import Line, Service, until

SORRY = ["tt-somethingwrong", "please-try-again"]


def ready(service: Service) -> dict[str, Any]:
    """What /health/ready says, with its status."""
    url = f"http://127.0.0.1:{service.http_port}/health/ready"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return {"code": answer.status} | json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return {"code": error.code} | json.loads(error.read())


def page_trusts_store(service: Service) -> bool:
    """What the live page asks for every few seconds: when not, it says so in red."""
    url = f"http://127.0.0.1:{service.http_port}/live/links"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return bool(json.loads(answer.read())["store"])


def is_ready(service: Service) -> bool:
    try:
        return bool(ready(service)["code"] == 200)
    except OSError:  # it does not listen yet
        return False


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    sqlite3.connect(other).execute("CREATE TABLE t (x)").connection.close()
    os.replace(other, path)


def overwrite(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.write(os.urandom(128))


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def truncate_log(path: Path) -> None:
    os.truncate(f"{path}-wal", 0)


LOST: dict[Callable[[Path], None], str] = {
    delete: "missing",
    replace: "replaced",
    overwrite: "damaged",
    truncate: "damaged",
    truncate_log: "damaged",
}


@pytest.mark.parametrize("what", LOST, ids=lambda what: what.__name__)
async def test_no_phone_hears_what_is_not_written(
    what: Callable[[Path], None], make_service: Any, desk: Any
) -> None:
    service = make_service(http={})
    path = service.folder / "fastagi.db"
    alice, bob = await desk("1001"), await desk("1002")
    assert (await alice.dial("*314001")).outcome == "LOGGED_IN"
    backup = service.folder / "backup.db"
    with sqlite3.connect(path) as source, sqlite3.connect(backup) as copy:
        source.backup(copy)
    source.close()
    copy.close()
    assert is_ready(service)
    assert page_trusts_store(service)
    what(path)
    for phone, code in ((bob, "*314004"), (alice, "*331"), (alice, "*35"), (alice, "*32")):
        heard = await phone.dial(code)
        assert (heard.sounds, heard.outcome) == (SORRY, "UNAVAILABLE"), code
    said = ready(service)
    assert (said["code"], said["store"], said["store_fault"]) == (503, "unavailable", LOST[what])
    assert str(path) not in json.dumps(said)
    assert not page_trusts_store(service)
    (line,) = service.logged("the database cannot be used: feature codes say 'try again'")
    assert line["level"] == "error"
    assert str(path) in line["why"]
    # What Asterisk has was not touched.
    assert service.members()["sales"] == {"PJSIP/1001"}
    service.stop()
    # Nothing is begun anew without a word; with the backup all is as it was.
    if what is delete:
        assert "is gone" in refused_start(service)
    elif what is replace:
        assert "another program" in refused_start(service)
    elif what is overwrite:
        assert "damaged" in refused_start(service)
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    shutil.copy(backup, path)
    service.start()
    await until(lambda: is_ready(service))
    assert (await alice.dial("*32")).outcome == "LOGGED_OFF"
    service.agrees()
    assert [event["type"] for event in service.events("agent-login", "agent-logout")] == [
        "agent-login",
        "agent-logout",
    ]


def refused_start(service: Service) -> str:
    """What a start says that ends with 1."""
    began = service.spawn()
    assert service.process is not None
    status = service.process.wait(60)
    service.process = None
    text = service.log.read_bytes()[began:].decode()
    assert status == 1, text
    assert "Traceback" not in text
    return text


async def test_an_empty_database_only_when_told_to(make_service: Any, desk: Any) -> None:
    service = make_service()
    path = service.folder / "fastagi.db"
    service.stop()
    path.unlink()
    assert f"{path}: the database is gone" in refused_start(service)
    service.more_words = ("--new-database",)
    service.start()
    assert (await (await desk("1001")).dial("*314001")).outcome == "LOGGED_IN"


LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(600)
"""


async def test_a_code_waits_for_a_locked_store_once(make_service: Any) -> None:
    """However many calls of the store it takes, and by how many phones: one time, and at most
    that of one attempt."""
    service = make_service(http={})
    line = await Line.to(service.port)
    assert await line.call("login", "4001", "1001") == "LOGGED_IN"
    path = str(service.folder / "fastagi.db")
    locker = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", LOCK, path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert locker.stdout is not None
        assert locker.stdout.readline() == "locked\n"
        lines = [await Line.to(service.port) for _ in range(3)]
        said = await asyncio.gather(
            lines[0].call("pause", "1", "1001"),
            lines[1].call("login", "4004", "1002"),
            lines[2].call("logoff", "", "1001"),
        )
        assert said == ["UNAVAILABLE"] * 3
        assert ready(service)["code"] == 503

        def took() -> list[float]:
            return [c["ms"] for c in service.logged("call") if c["outcome"] == "UNAVAILABLE"]

        await until(lambda: len(took()) == 3)
        # 5 s for the store, and the machine's own slowness; three attempts would be 12 s and more.
        assert max(took()) < 10_000
        why = service.logged("the database cannot be used: feature codes say 'try again'")
        await until(lambda: any(f"pid {locker.pid}" in line["why"] for line in relogged(service)))
        assert why
    finally:
        locker.kill()
        locker.communicate()
    await until(lambda: is_ready(service))
    assert await (await Line.to(service.port)).call("pause", "1", "1001") == "PAUSED"
    service.agrees()


def relogged(service: Service) -> list[dict[str, Any]]:
    return service.logged("the database cannot be used: feature codes say 'try again'")


# -- PostgreSQL


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    """One of the test's own, which it may stop."""
    folder = Path(tempfile.mkdtemp(prefix="fastagi-postgresql-"))
    made = PostgreSQL(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.postgres
async def test_postgresql_comes_up_after_the_service(
    make_service: Any, desk: Any, server: PostgreSQL
) -> None:
    server.create("agents")
    server.stop()
    service = make_service(database=server.url("agents"), http={}, start=False)
    began = service.spawn()

    def said() -> str:
        return service.log.read_bytes()[began:].decode()

    await until(lambda: '"listening"' in said() and "connected to Asterisk" in said())
    phone = await desk("1001")
    heard = await phone.dial("*314001")
    assert (heard.sounds, heard.outcome) == (SORRY, "UNAVAILABLE")
    answer = ready(service)
    assert (answer["code"], answer["store"], answer["store_fault"]) == (503, "unavailable", "away")
    # Several attempts later it was said once, with where and what.
    await asyncio.sleep(3)
    (line,) = relogged(service)
    assert "127.0.0.1" in line["why"]
    assert "is the server running" in line["why"]
    assert service.process is not None
    assert service.process.poll() is None
    server.start_again()
    await until(lambda: is_ready(service), within=40)
    assert (await phone.dial("*314001")).outcome == "LOGGED_IN"
    assert service.logged("the database can be used again")
    service.agrees()
    assert service.stop() == 0


@pytest.mark.postgres
@pytest.mark.parametrize("wrong", ["database", "user"])
async def test_what_is_wrong_in_postgresql_is_waited_for_and_said(
    wrong: str, make_service: Any, postgresql: PostgreSQL
) -> None:
    name, user = f"late_{os.getpid()}", "fastagi"

    def do(statement: str) -> None:
        with psycopg.connect(postgresql.url(), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    if wrong == "user":
        user = f"late_user_{os.getpid()}"
        do(f"CREATE DATABASE {name}")
    url = f"postgresql://{user}:hidden@127.0.0.1:{postgresql.port}/{name}"
    service = make_service(database=url, http={}, start=False)
    service.spawn()
    await until(lambda: bool(relogged(service)))
    why = relogged(service)[0]["why"]
    assert "does not exist: CREATE DATABASE and CREATE ROLE" in why
    assert name in why
    await until(lambda: bool(service.logged("listening")))
    assert ready(service)["code"] == 503
    do(f"CREATE ROLE {user} SUPERUSER LOGIN" if wrong == "user" else f"CREATE DATABASE {name}")
    await until(lambda: is_ready(service), within=40)
    assert "hidden" not in service.log.read_text()
    service.kill()
    postgresql.drop(name)
    if wrong == "user":
        do(f"DROP ROLE {user}")


@pytest.mark.postgres
async def test_postgresql_that_cannot_be_written(make_service: Any, server: PostgreSQL) -> None:
    server.create("agents")
    service = make_service(database=server.url("agents"), http={})
    await until(lambda: is_ready(service))

    def alter(value: str) -> None:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(  # type: ignore[call-overload]
                f"ALTER SYSTEM SET default_transaction_read_only = {value}"
            )
            connection.execute("SELECT pg_reload_conf()")

    alter("on")
    await until(lambda: ready(service)["store_fault"] == "read-only")
    assert await (await Line.to(service.port)).call("login", "4001", "1001") == "UNAVAILABLE"
    # The session that mends it must write.
    with psycopg.connect(
        server.url(), autocommit=True, options="-c default_transaction_read_only=off"
    ) as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = off")
        connection.execute("SELECT pg_reload_conf()")
    await until(lambda: is_ready(service))
    assert await (await Line.to(service.port)).call("login", "4001", "1001") == "LOGGED_IN"


@pytest.mark.postgres
async def test_a_table_of_postgresql_that_is_locked(make_service: Any, server: PostgreSQL) -> None:
    server.create("agents")
    service = make_service(database=server.url("agents"), http={})
    await until(lambda: is_ready(service))
    with psycopg.connect(server.url("agents")) as connection:
        connection.execute("LOCK TABLE agents, notes IN ACCESS EXCLUSIVE MODE")
        said = await (await Line.to(service.port)).call("login", "4001", "1001")
        assert said == "UNAVAILABLE"
        await until(lambda: bool(service.logged("call")))
        assert service.logged("call")[0]["ms"] < 7_900  # two attempts would be 8 s
        assert ready(service)["code"] == 503
        connection.rollback()
    await until(lambda: is_ready(service))
    assert await (await Line.to(service.port)).call("login", "4001", "1001") == "LOGGED_IN"


def test_a_mistake_in_the_configuration_is_said_at_once(
    make_service: Any, postgresql: PostgreSQL
) -> None:
    """Also while the database is away."""
    service = make_service(database="postgresql://fastagi@127.0.0.1:1/agents", http={}, start=False)
    agents = service.config / "agents.yml"
    agents.write_text("agents:\n  - {number: nobody, name: Ann}\n")
    settings = service.settings()
    settings.pop("agents", None)
    service.write(settings)
    service.spawn()
    assert service.process is not None
    assert service.process.wait(60) == 2
    service.process = None
    assert "agents.yml:2" in service.log.read_text()
