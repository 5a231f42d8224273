"""How far a database's tables are, read without changing anything."""

from dataclasses import dataclass
from typing import Any

from peewee import PeeweeException
from playhouse.migrations import Runner
from playhouse.pool import PooledDatabase

from fastagi.store.database import explained, parse
from fastagi.store.migrations import FOLDER


@dataclass(frozen=True, slots=True)
class Schema:
    """Names of migrations. With ``exists`` false there is no database yet: a start makes it."""

    name: str  # of the database, without a password
    exists: bool
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()  # the next start applies them
    unknown: tuple[str, ...] = ()  # of a newer version of this software


def schema(url: str) -> Schema:
    """Raises BadDatabaseUrl, StoreUnavailable. Blocks."""
    place = parse(url)
    if place.path is not None and not place.path.exists():
        return Schema(place.name, False)
    database: Any = place.reading()
    try:
        with database.connection_context():
            steps = Runner(database, str(FOLDER)).status()
    except PeeweeException as error:
        raise explained(place, error) from error
    finally:
        if isinstance(database, PooledDatabase):
            database.close_all()
    return Schema(
        place.name,
        any(step.applied for step in steps),
        tuple(step.name for step in steps if step.applied and step.path),
        tuple(step.name for step in steps if not step.applied),
        tuple(step.name for step in steps if step.path is None),
    )
