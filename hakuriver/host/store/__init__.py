"""The host's database: Peewee on SQLite, one thread that writes and one that reads."""

from hakuriver.host.store.store import Store
from hakuriver.host.store.writer import CLASHES

__all__ = ["CLASHES", "Store"]
