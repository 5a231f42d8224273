"""The store: what is meant, in SQLite or PostgreSQL. Peewee stays in this room."""

from fastagi.store.deliveries import Deliveries
from fastagi.store.transactions import PeeweeStore, open_store

__all__ = ["Deliveries", "PeeweeStore", "open_store"]
