"""The store: what is meant, in SQLite or PostgreSQL. Peewee stays in this room."""

from fastagi.store.database import BadDatabaseUrl, parse
from fastagi.store.deliveries import Deliveries
from fastagi.store.directory import Difference, DirectoryConflict
from fastagi.store.file import StoreUnusable
from fastagi.store.migrations import SchemaTooNew
from fastagi.store.records import Records
from fastagi.store.transactions import PeeweeStore, open_store
from fastagi.store.views import Views, retry_parked

__all__ = [
    "BadDatabaseUrl",
    "Deliveries",
    "Difference",
    "DirectoryConflict",
    "PeeweeStore",
    "Records",
    "SchemaTooNew",
    "StoreUnusable",
    "Views",
    "open_store",
    "parse",
    "retry_parked",
]
