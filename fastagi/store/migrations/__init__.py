"""Numbered migrations, forward only, run at every start.

``playhouse.migrations`` applies and records them (table ``schema_migration``); what it lacks is
added here: a lock against a second process, and the refusal of a database newer than the code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peewee import Database, SqliteDatabase
from playhouse.migrations import Runner

FOLDER = Path(__file__).parent
_LOCK = 0x66617374  # any number that means us: pg_advisory_lock's key


class SchemaTooNew(Exception):
    """The database was written by a newer version of this software."""


def migrate(database: Database, folder: Path = FOLDER) -> list[str]:
    """Applies what is pending and returns its names. Raises SchemaTooNew.

    ``database`` must be connected in this thread. Two processes may call this at once: one waits
    for the other and then finds nothing to do.
    """
    runner = Runner(database, str(folder))
    with _alone(database):
        unknown = [step.name for step in runner.status() if step.path is None]
        if unknown:
            raise SchemaTooNew(
                f"the database has the migrations {', '.join(unknown)}, which this version does "
                "not know: it was written by a newer one; install that, or restore a backup"
            )
        return list(runner.up())


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    connection: Any = database
    if isinstance(database, SqliteDatabase):
        # EXCLUSIVE: the whole run is one transaction, the runner's own become savepoints.
        with connection.atomic("EXCLUSIVE"):
            yield
        return
    connection.execute_sql("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        yield
    finally:
        connection.execute_sql("SELECT pg_advisory_unlock(%s)", (_LOCK,))
