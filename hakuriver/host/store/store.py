"""The store: opens the database, and gives the event loop awaitable reads and writes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import peewee

from hakuriver.errors import StoreError
from hakuriver.host.store import changes, files, migrations, models, queries
from hakuriver.host.store.writer import BUSY_MILLISECONDS, Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")

_PRAGMAS = {
    "journal_mode": "wal",
    # An id that a client has received must survive a power cut.
    "synchronous": "full",
    "foreign_keys": 1,
    "busy_timeout": BUSY_MILLISECONDS,
    # What is erased (values of --env) is overwritten.
    "secure_delete": 1,
}


class Store:
    """The host's memory on disk. One process at a time; all methods belong to one event loop.

    What `write` returns is done once the change is on disk. Changes are applied in the order of
    the calls; those that one turn of the loop brings are one transaction.
    """

    def __init__(self, path: Path, *, cluster_id: str) -> None:
        """Open or make the database; blocks. Raises `StoreError` and never overwrites a file.

        `cluster_id` is what a new database takes for its own.
        """
        self._lock = files.prepare(path)
        self._database = peewee.SqliteDatabase(str(path), pragmas=_PRAGMAS)
        models.database.initialize(self._database)
        try:
            self._open(path, cluster_id)
        except StoreError:
            os.close(self._lock)
            raise
        except (peewee.DatabaseError, sqlite3.Error) as error:
            os.close(self._lock)
            raise StoreError(
                f"{path}: is no usable database ({error}); put back a copy, or move it away to "
                "begin with an empty one"
            ) from None
        self._writer = Writer(self._database)
        #: How long commits take, in seconds, and how many changes share one.
        self.seconds, self.changes = self._writer.seconds, self._writer.changes
        self._reader = ThreadPoolExecutor(1, "store-reader")

    def _open(self, path: Path, cluster_id: str) -> None:
        with self._database.connection_context():
            if self._database.execute_sql("PRAGMA quick_check").fetchone()[0] != "ok":
                raise peewee.DatabaseError("it is corrupt")
            migrations.migrate(self._database, path)
            if queries.read_meta("cluster_id") is None:
                # Larger than any rev of a database that was here before: followers notice.
                changes.raise_rev_floor(time.time_ns() // 1_000_000)
            self._rev, self.last_id = queries.highest()
            #: What changed before this rev can no longer be told row by row.
            self.rev_floor = queries.rev_floor()
            self.cluster_id = queries.read_meta("cluster_id") or cluster_id
            queries.write_meta("cluster_id", self.cluster_id)
            # What a host that was killed had erased is in the log alone.
            self._database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Write what is queued and let go of the file. Blocks."""
        self._writer.close()
        self._reader.submit(self._database.close)
        self._reader.shutdown()
        os.close(self._lock)

    @property
    def failures(self) -> int:
        """How many commits have failed."""
        return self._writer.failures

    @property
    def rev(self) -> int:
        """The largest rev given so far; rows that bear it may not be on disk yet."""
        return self._rev

    def raise_floor(self, rev: int) -> None:
        """Take note that a row that bore `rev` was deleted."""
        self.rev_floor = max(self.rev_floor, rev)

    def next_rev(self) -> int:
        """Return a rev larger than every one before."""
        self._rev += 1
        return self._rev

    def write(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run a function of `changes` or `queries` in the thread that writes."""
        return self._writer.submit(lambda: change(*args, **kwargs))

    async def read(self, query: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of `queries` in the thread that reads."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reader, lambda: query(*args, **kwargs))
        except (peewee.DatabaseError, sqlite3.Error) as error:
            raise StoreError(f"the host's store cannot be read: {error}") from None
