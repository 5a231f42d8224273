"""From a URL to an open database."""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import psycopg
from peewee import Database, PeeweeException, SqliteDatabase
from playhouse.pool import PooledPostgresqlDatabase

from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import StoreFault
from fastagi.store.file import Claimed, StoreUnusable
from fastagi.store.migrations import migrate

IN_USE = "{}: another service uses this file; two services need PostgreSQL"
# How long another process may keep the file locked before a call fails: less than STORE_WAIT, so
# that who waits hears of the lock and not only that time is up.
BUSY_SECONDS = 4
LOG_BYTES = 64 * 2**20  # the -wal file is cut back to this when all of it is copied
CHECKED_BYTES = 64 * 2**20  # a file up to this size is looked through at start: 0.1 s
IDENTITY = "identity"  # the note that tells this database from all others
NEW_DATABASE = "`fastagi serve --new-database`"


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
    # A connection on which a statement may wait for ever: for locks. PostgreSQL only.
    waiting: Callable[[], Awaitable["psycopg.AsyncConnection[Any]"]] | None = None


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
    path = Path(os.path.abspath(text))
    # mode=rw: SQLite never makes a file. One that is gone is not silently an empty one.
    uri = f"{path.as_uri()}?mode=rw"

    def writing() -> Database:
        return SqliteDatabase(
            uri,
            uri=True,
            timeout=BUSY_SECONDS,
            # Peewee sets them in this order on every new connection.
            pragmas=[
                ("journal_mode", "wal"),
                ("synchronous", "full"),  # what was answered survives a power cut
                ("wal_autocheckpoint", 4000),  # pages, 16 MiB: who is written often, is copied once
                ("journal_size_limit", LOG_BYTES),
                ("foreign_keys", 1),
                ("temp_store", "memory"),
                ("cache_size", -16384),  # KiB
            ],
        )

    def reading() -> Database:
        # Opening for reading alone would fail where the -shm file is not there yet.
        return SqliteDatabase(
            uri,
            uri=True,
            timeout=BUSY_SECONDS,
            pragmas=[("query_only", 1)],
            check_same_thread=False,
        )

    return Place(f"sqlite:///{path}", True, writing, reading, path)


def _postgresql(url: str) -> Place:
    parts = urlsplit(url)
    if not parts.path.strip("/"):
        raise BadDatabaseUrl("postgresql://… names no database after the host")

    url = url.replace("postgres://", "postgresql://", 1)
    link: dict[str, Any] = {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,  # ms: a host that vanished is noticed in the middle of a call
        "application_name": "fastagi",
    }
    # The server's side: what a host has locked that vanished is free again within half a minute.
    vanished = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"

    def connect(options: str) -> Database:
        database: Database = PooledPostgresqlDatabase(
            url, prefer_psycopg3=True, max_connections=64, options=options, **link
        )
        return database

    def waiting() -> Awaitable["psycopg.AsyncConnection[Any]"]:
        options = f"-c statement_timeout=0 -c lock_timeout=0 {vanished}"
        return psycopg.AsyncConnection.connect(url, autocommit=True, options=options, **link)

    where = f"postgresql://{parts.hostname or ''}{parts.path}"
    return Place(
        where,
        False,
        # ms; no statement of ours takes so long, and a thread never waits for ever.
        lambda: connect(
            "-c statement_timeout=8000 -c lock_timeout=4000"
            f" -c idle_in_transaction_session_timeout=30000 {vanished}"
        ),
        lambda: connect("-c statement_timeout=8000 -c default_transaction_read_only=on"),
        waiting=waiting,
    )


class Claim:
    """This is the only service on a SQLite file until it is closed, or the process ends.

    The file beside it also says which database this service used last: another one, or none, is
    not taken without a word.
    """

    def __init__(self, place: Place) -> None:
        """Raises StoreUnusable."""
        self._file = -1
        self._place = place
        self._claimed: Claimed | None = None
        if place.path is None:
            return
        # Not the file itself: to close it would take away SQLite's own locks on it
        # (https://www.sqlite.org/howtocorrupt.html, 2.2).
        path = place.path.with_name(place.path.name + ".lock")
        try:
            _make_folder(path.parent)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _denied(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise StoreUnusable(IN_USE.format(place.name), fault=StoreFault.LOCKED) from None
        except OSError as error:
            os.close(file)
            raise _denied(path, error) from error
        self._file = file

    def take(self) -> None:
        """The database file itself, once it is there: it may have other names. Raises
        StoreUnusable."""
        path = self._place.path
        if path is None or self._claimed is not None:
            return
        try:
            self._claimed = Claimed(path)
        except BlockingIOError:
            text = IN_USE.format(self._place.name)
            raise StoreUnusable(text, fault=StoreFault.LOCKED) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _denied(path, error) from error

    @property
    def last(self) -> str:
        """The identity of the database that was used last; "" when none was."""
        return "" if self._file < 0 else os.pread(self._file, 100, 0).decode("ascii", "replace")

    def note(self, identity: str) -> None:
        if self._file >= 0 and self.last != identity:
            with suppress(OSError):  # a full disk: the next start notes it
                os.pwrite(self._file, identity.encode("ascii"), 0)
                os.ftruncate(self._file, len(identity))

    def close(self) -> None:
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _make_folder(folder: Path) -> None:
    """For its owner alone, and so are those above it that are made with it."""
    for one in (*reversed(folder.parents), folder):
        if not one.exists():
            one.mkdir(mode=0o700, exist_ok=True)


def _denied(path: Path, error: OSError) -> StoreUnavailable:
    where = error.filename if isinstance(error.filename, str) else str(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(
            f"{where}: {error.strerror}: make room on its file system", fault=StoreFault.FULL
        )
    return StoreUnusable(
        f"{where}: {error.strerror or error}: let the user of the service read and write this"
        " file and its folder",
        fault=StoreFault.DENIED,
    )


def prepare(place: Place, *, last: str = "", new: bool = False) -> tuple[list[str], str]:
    """Creates the file if need be (mode 0600, its folders 0700) and brings the tables up to date.

    Returns the names of the migrations that were applied, and the identity of the database.
    ``last``: the identity that it must have, unless ``new``. Raises SchemaTooNew; StoreUnusable
    when somebody has to do something about it, StoreUnavailable when it may be better later.
    """
    if place.path is not None:
        _prepare_file(place, place.path, "" if new else last)
    try:
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
            identity = _identified(database)
        if not place.sqlite:
            database.close_all()
        return applied, identity
    except (OSError, PeeweeException, sqlite3.Error, psycopg.Error) as error:
        raise explained(place, error, starting=True) from error


def _prepare_file(place: Place, path: Path, last: str) -> None:
    try:
        _make_folder(path.parent)
        empty = not path.exists() or path.stat().st_size == 0
        if empty and last:
            raise StoreUnusable(
                f"{path}: the database is gone (a service used it here before). Put it or a backup"
                f" of it back; {NEW_DATABASE} starts with an empty one",
                fault=StoreFault.MISSING,
            )
        # SQLite gives its -wal and -shm files the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _denied(path, error) from error
    if empty:
        return
    database: Any = place.reading()
    try:
        with database.connection_context():
            tables = set(database.get_tables())
            if tables and not tables & {"schema_migration", "notes"}:
                raise StoreUnusable(
                    f"{path}: this is the database of another program (it has the tables"
                    f" {', '.join(sorted(tables)[:3])}); name another file in `database`",
                    fault=StoreFault.REPLACED,
                )
            if last and "notes" in tables:
                found = _noted_identity(database)
                if found != last:
                    raise StoreUnusable(
                        f"{path}: this is another database than the one a service used here"
                        f" before. Put that one or a backup of it back; {NEW_DATABASE} goes on"
                        " with this one",
                        fault=StoreFault.REPLACED,
                    )
            if path.stat().st_size <= CHECKED_BYTES:
                (found,) = database.execute_sql("PRAGMA quick_check(1)").fetchone()
                if found != "ok":
                    raise damaged(path, str(found))
    except (PeeweeException, sqlite3.Error) as error:
        raise explained(place, error, starting=True) from error


def _noted_identity(database: Any) -> str:
    row = database.execute_sql(f"SELECT value FROM notes WHERE key = '{IDENTITY}'").fetchone()
    return "" if row is None else str(row[0])


def _identified(database: Any) -> str:
    """The identity of the database, given to it when it has none."""
    found = _noted_identity(database)
    if not found:
        mark = "?" if isinstance(database, SqliteDatabase) else "%s"
        database.execute_sql(
            f"INSERT INTO notes (key, value) VALUES ('{IDENTITY}', {mark})"
            " ON CONFLICT (key) DO NOTHING",
            (uuid4().hex,),
        )
        found = _noted_identity(database)
    return found


# -- what went wrong, in words that help


def no_file(place: Place) -> StoreUnavailable:
    return StoreUnavailable(f"{place.path}: there is no such file yet", fault=StoreFault.MISSING)


def damaged(path: Path, what: str) -> StoreUnusable:
    return StoreUnusable(
        f"{path}: the database is damaged ({' '.join(what.split())}): stop the service, restore a"
        f" backup, or save what can be read with `sqlite3 {path} .recover`",
        fault=StoreFault.DAMAGED,
    )


_SQLITE = {
    sqlite3.SQLITE_BUSY: (
        StoreFault.LOCKED,
        "another program has locked the database: end it, or let it commit sooner",
    ),
    sqlite3.SQLITE_LOCKED: (StoreFault.LOCKED, "the database is locked"),
    sqlite3.SQLITE_FULL: (StoreFault.FULL, "the disk is full: make room on its file system"),
    sqlite3.SQLITE_READONLY: (
        StoreFault.READ_ONLY,
        "the database cannot be written: look at its mount (read-only?) and at who may write the"
        " file and its folder",
    ),
    sqlite3.SQLITE_IOERR: (
        StoreFault.AWAY,
        "the disk gives an error: look at `dmesg`, at the mount, and whether it is full",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        StoreFault.DENIED,
        "the file cannot be opened: let the user of the service read and write it and its folder",
    ),
    sqlite3.SQLITE_PERM: (StoreFault.DENIED, "the file may not be opened"),
}
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_POSTGRESQL: tuple[tuple[type[BaseException], StoreFault, str], ...] = (
    (
        psycopg.errors.ReadOnlySqlTransaction,
        StoreFault.READ_ONLY,
        "is it a standby, or default_transaction_read_only on?",
    ),
    (psycopg.errors.DiskFull, StoreFault.FULL, "make room on the server's disk"),
    (
        psycopg.errors.LockNotAvailable,
        StoreFault.LOCKED,
        "somebody holds a lock for long: see pg_stat_activity and pg_locks",
    ),
    (
        psycopg.errors.QueryCanceled,
        StoreFault.LOCKED,
        "no answer in time: see pg_stat_activity and pg_locks",
    ),
    (
        psycopg.errors.InsufficientPrivilege,
        StoreFault.DENIED,
        "GRANT the user of `database` all on these tables",
    ),
    (
        psycopg.errors.UndefinedTable,
        StoreFault.REPLACED,
        "this is not the database that the service was started with: restart the service",
    ),
)
# What the server says when it refuses a connection; psycopg gives it no class of its own.
_REFUSALS = (
    (
        ("authentication failed", "no password supplied", "no pg_hba.conf entry"),
        "look at user and password in `database`, and at the server's pg_hba.conf",
    ),
    (("does not exist",), "CREATE DATABASE and CREATE ROLE, or mend the name in `database`"),
    (
        ("too many clients", "connection slots", "too many connections"),
        "end sessions that nobody needs, or raise max_connections",
    ),
    (("starting up", "shutting down", "in recovery"), "the server is not ready yet"),
    (
        ("onnection refused", "resolve", "timeout", "No route", "unreachable", "No such file"),
        "is the server running and reachable?",
    ),
)


def explained(place: Place, error: BaseException, *, starting: bool = False) -> StoreUnavailable:
    """The same as StoreUnavailable: where, what, and what to do. Never a password."""
    if isinstance(error, StoreUnavailable):
        return error
    cause: BaseException | None = error
    while cause is not None:
        code = getattr(cause, "sqlite_errorcode", None)
        # SQLite has rolled back by itself, and Peewee tried it once more: the reason is behind it.
        if code is not None and not ("cannot rollback" in str(cause) and cause.__context__):
            return _of_sqlite(place, cause, code & 0xFF, starting)
        for kind, fault, cure in _POSTGRESQL:
            if isinstance(cause, kind):
                return StoreUnavailable(f"{place.name}: {_line(cause)}: {cure}", fault=fault)
        cause = cause.__cause__ or cause.__context__
    text = _line(error)
    cure = next((cure for words, cure in _REFUSALS if any(word in text for word in words)), "")
    return StoreUnavailable(f"{place.name}: {text}" + (f": {cure}" if cure else ""))


def _of_sqlite(place: Place, error: BaseException, code: int, starting: bool) -> StoreUnavailable:
    if code in _BROKEN and place.path is not None:
        return damaged(place.path, str(error))
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and place.path is not None:
        code = _behind_it(place.path, code)
    fault, cure = _SQLITE.get(code, (StoreFault.AWAY, ""))
    text = f"{place.path}: {error}" + (f": {cure}" if cure else "")
    if code == sqlite3.SQLITE_ERROR and "no such" in str(error) and place.path is not None:
        return damaged(place.path, str(error))
    if starting and fault in (StoreFault.DENIED, StoreFault.READ_ONLY):
        return StoreUnusable(text, fault=fault)
    return StoreUnavailable(text, fault=fault)


def _behind_it(path: Path, code: int) -> int:
    """What SQLite calls an I/O error, or a file that cannot be opened, is sometimes a full or a
    read-only file system."""
    with suppress(OSError):
        found = os.statvfs(path.parent)
        if found.f_flag & os.ST_RDONLY:
            return sqlite3.SQLITE_READONLY
        if not found.f_bavail or (found.f_files and not found.f_favail):
            return sqlite3.SQLITE_FULL  # of bytes, or of files
    return code


def _line(error: BaseException) -> str:
    """On one line; what libpq says of several addresses of a host is told once each."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(dict.fromkeys(line for line in lines if line)) or type(error).__name__
