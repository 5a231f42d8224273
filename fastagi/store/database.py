"""From a URL to an open database."""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from peewee import Database, PeeweeException, SqliteDatabase
from playhouse.pool import PooledPostgresqlDatabase

from fastagi.agents.service import StoreUnavailable
from fastagi.store.migrations import migrate

IN_USE = "{}: another service uses this file"
BUSY_SECONDS = 5  # how long another process may keep the file locked before a call fails


class BadDatabaseUrl(ValueError):
    """The URL names no database that can be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which database, not connected to yet.

    ``database()`` gives a new Peewee database, ``reading()`` one that cannot write.
    """

    name: str  # for messages: without a password
    sqlite: bool
    database: Callable[[], Database]
    reading: Callable[[], Database]
    path: Path | None = None


def parse(url: str) -> Place:
    """Raises BadDatabaseUrl.

    ``sqlite:///file.db`` is relative to the working directory, ``sqlite:////var/lib/file.db``
    absolute; ``postgresql://user:password@host:port/name?option=…`` is libpq's own form.
    """
    scheme = url.partition(":")[0].lower()
    if scheme == "sqlite":
        return _sqlite(url)
    if scheme in ("postgresql", "postgres"):
        return _postgresql(url)
    raise BadDatabaseUrl(f"{scheme or 'an empty URL'!r}: use sqlite:///FILE or postgresql://…")


def _sqlite(url: str) -> Place:
    rest = url.partition(":")[2]
    if not rest.startswith("///"):
        raise BadDatabaseUrl("write sqlite:///FILE with three slashes, four for an absolute path")
    text = unquote(rest[3:])
    if text in ("", ":memory:") or "mode=memory" in text:
        raise BadDatabaseUrl(
            "a database in memory would be gone with the service: name a file, sqlite:///FILE"
        )
    if "?" in rest or "\0" in text:
        raise BadDatabaseUrl("sqlite:///FILE takes no options")
    path = Path(text)

    def writing() -> Database:
        return SqliteDatabase(
            str(path),
            timeout=BUSY_SECONDS,
            # Peewee sets them in this order on every new connection.
            pragmas=[
                ("journal_mode", "wal"),
                ("synchronous", "full"),  # what was answered survives a power cut
                ("wal_autocheckpoint", 4000),  # pages, 16 MiB: who is written often, is copied once
                ("foreign_keys", 1),
                ("temp_store", "memory"),
                ("cache_size", -16384),  # KiB
            ],
        )

    def reading() -> Database:
        # Opening for reading alone would fail where the -shm file is not there yet.
        return SqliteDatabase(
            str(path), timeout=BUSY_SECONDS, pragmas=[("query_only", 1)], check_same_thread=False
        )

    return Place(f"sqlite:///{path}", True, writing, reading, path)


def _postgresql(url: str) -> Place:
    parts = urlsplit(url)
    if not parts.path.strip("/"):
        raise BadDatabaseUrl("postgresql://… names no database after the host")

    def connect(options: str) -> Database:
        database: Database = PooledPostgresqlDatabase(
            url.replace("postgres://", "postgresql://", 1),
            prefer_psycopg3=True,
            max_connections=64,
            connect_timeout=5,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=10_000,  # ms: a host that vanished is noticed in the middle of a call
            application_name="fastagi",
            options=options,
        )
        return database

    where = f"postgresql://{parts.hostname or ''}{parts.path}"
    return Place(
        where,
        False,
        # ms; no statement of ours takes so long, and a thread never waits for ever. The rest is the
        # server's side: what a host has locked that vanished is free again within half a minute.
        lambda: connect(
            "-c statement_timeout=8000 -c lock_timeout=4000"
            " -c idle_in_transaction_session_timeout=30000"
            " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
        ),
        lambda: connect("-c statement_timeout=8000 -c default_transaction_read_only=on"),
    )


def claim(place: Place) -> Callable[[], None]:
    """Makes this the only service on a SQLite file until what is returned is called.

    The kernel gives it up with the process. Raises StoreUnavailable.
    """
    if place.path is None:
        return lambda: None
    # Not the file itself: to close it would take away SQLite's own locks on it
    # (https://www.sqlite.org/howtocorrupt.html, 2.2).
    path = place.path.with_name(place.path.name + ".lock")
    try:
        _make_folder(path.parent)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise StoreUnavailable(IN_USE.format(place.name)) from None
    except OSError as error:
        raise StoreUnavailable(f"{place.name}: {error}") from error
    return lambda: os.close(file)


def _make_folder(folder: Path) -> None:
    """For its owner alone, and so are those above it that are made with it."""
    for one in (*reversed(folder.parents), folder):
        if not one.exists():
            one.mkdir(mode=0o700, exist_ok=True)


def prepare(place: Place) -> list[str]:
    """Creates the file if need be (mode 0600, its folder 0700) and brings the tables up to date.

    Returns the names of the migrations that were applied. Raises SchemaTooNew, StoreUnavailable.
    """
    try:
        if place.path is not None:
            _make_folder(place.path.parent)
            # SQLite gives its -wal and -shm files the mode of this one.
            os.close(os.open(place.path, os.O_RDWR | os.O_CREAT, 0o600))
        database: Any = place.database()
        with database.connection_context():
            if place.sqlite:
                # Needed to rebuild tables, and cannot be changed inside the transaction.
                database.execute_sql("PRAGMA foreign_keys = 0")
            else:
                database.execute_sql("SET statement_timeout = 0")
                database.execute_sql("SET lock_timeout = 0")
                database.execute_sql("SET idle_in_transaction_session_timeout = 0")
            applied = migrate(database)
        if not place.sqlite:
            database.close_all()
        return applied
    except (OSError, PeeweeException) as error:
        raise StoreUnavailable(f"{place.name}: {error}") from error
