"""The store: opens the database, and gives the event loop awaitable reads and writes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import uuid4

import msgspec
import peewee

from hakuriver.errors import StoreError
from hakuriver.host.store import files, migrations, models, queries
from hakuriver.host.store.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hakuriver.host.records import NodeRecord, TaskRecord
    from hakuriver.model.tasks import TaskState

P = ParamSpec("P")
T = TypeVar("T")

_PRAGMAS = {
    "journal_mode": "wal",
    # An id that a client has received must survive a power cut.
    "synchronous": "full",
    "foreign_keys": 1,
    "busy_timeout": 5000,
    # What is erased (values of --env) is overwritten.
    "secure_delete": 1,
}


class Store:
    """The host's memory on disk. One process at a time; all methods belong to one event loop.

    The methods that change something return a future that is done once the change is on disk.
    Changes are applied in the order of the calls.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the database; blocks. Raises `StoreError` and never overwrites a file."""
        self._lock = files.prepare(path)
        self._database = peewee.SqliteDatabase(str(path), pragmas=_PRAGMAS)
        models.database.initialize(self._database)
        try:
            self._open(path)
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
        self._reader = ThreadPoolExecutor(1, "store-reader")

    def _open(self, path: Path) -> None:
        with self._database.connection_context():
            if self._database.execute_sql("PRAGMA quick_check").fetchone()[0] != "ok":
                raise peewee.DatabaseError("it is corrupt")
            migrations.migrate(self._database, path)
            self._rev, self.last_id = queries.highest()
            self.cluster_id = queries.read_meta("cluster_id") or uuid4().hex
            queries.write_meta("cluster_id", self.cluster_id)

    def close(self) -> None:
        """Write what is queued and let go of the file. Blocks."""
        self._writer.close()
        self._reader.submit(self._database.close)
        self._reader.shutdown()
        os.close(self._lock)

    @property
    def rev(self) -> int:
        """The largest rev given so far; rows that bear it may not be on disk yet."""
        return self._rev

    def next_rev(self) -> int:
        """Return a rev larger than every one before."""
        self._rev += 1
        return self._rev

    def insert(self, records: Sequence[TaskRecord], script: bytes | None) -> asyncio.Future[None]:
        """Write the tasks of one submission, all or none."""
        return self._writer.submit(lambda: queries.insert_batch(records, script))

    def transition(
        self, task_id: int, to: TaskState, **conditions_and_changes: Any
    ) -> asyncio.Future[TaskRecord | None]:
        """Enter a state if that is legal; the future holds the new record, or None.

        Takes the conditions of `queries.transition` and the columns to change.
        """
        changes = conditions_and_changes
        cpus = changes.get("cpus")
        if cpus is not None:
            changes["cpus"] = msgspec.json.encode(cpus).decode()
        rev = self.next_rev()
        return self._writer.submit(lambda: queries.transition(task_id, to, rev, **changes))

    def request_kill(self, task_id: int) -> asyncio.Future[TaskRecord | None]:
        """Remember that a task is to end; the future holds the new record, or None if it has."""
        rev = self.next_rev()
        return self._writer.submit(lambda: queries.request_kill(task_id, rev))

    def save_node(self, record: NodeRecord) -> asyncio.Future[None]:
        """Insert or replace a node."""
        return self._writer.submit(lambda: queries.save_node(record))

    async def read(self, query: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of `queries` in the thread that reads."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reader, lambda: query(*args, **kwargs))
        except (peewee.DatabaseError, sqlite3.Error) as error:
            raise StoreError(f"the host's store cannot be read: {error}") from None
