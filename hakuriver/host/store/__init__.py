"""The host's database: Peewee on SQLite, one thread that writes and one that reads."""

from hakuriver.host.store.store import Store

__all__ = ["Store"]
