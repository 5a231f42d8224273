"""The store: what is meant, in SQLite or PostgreSQL. Peewee stays in this room."""

from fastagi.store.configured import Difference, DirectoryConflict
from fastagi.store.created import Records
from fastagi.store.database import BadDatabaseUrl, parse
from fastagi.store.file import StoreUnusable
from fastagi.store.migrations import SchemaTooNew
from fastagi.store.outbox import retry_parked
from fastagi.store.reading import Reading
from fastagi.store.transactions import PeeweeStore, open_store

__all__ = [
    "BadDatabaseUrl",
    "Difference",
    "DirectoryConflict",
    "PeeweeStore",
    "Reading",
    "Records",
    "SchemaTooNew",
    "StoreUnusable",
    "open_store",
    "parse",
    "retry_parked",
]
