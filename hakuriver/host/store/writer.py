"""The one thread that writes: operations wait in a queue and are committed in groups.

What one turn of the event loop brings is one transaction, never two. Whoever awaits an operation
knows, when it returns, that it is on disk. Many that arrive together share one fsync. An operation
that fails is undone alone, the others of its group stand.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import peewee

from hakuriver.errors import StoreError
from hakuriver.host.tally import QUICK, SIZES, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from peewee import SqliteDatabase

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: What the database itself raises when it cannot do its work, wrapped by Peewee or not.
FAULTS = (peewee.PeeweeException, sqlite3.Error)
#: What it raises when a row would break a rule of its table, wrapped by Peewee or not.
CLASHES = (peewee.IntegrityError, sqlite3.IntegrityError)
# More would only make the first of a group wait longer. What came together stays together.
_GROUP = 256
#: So long a connection waits for another one's lock.
BUSY_MILLISECONDS = 5000
# After so many seconds without work the write-ahead log is emptied.
_IDLE = 1.0


class _Operation(Generic[T]):
    """A function to run within a transaction, and the future that its caller awaits."""

    def __init__(self, run: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self._run = run
        self.loop = loop
        self._value: T | None = None
        self._error: BaseException | None = None
        #: What made the whole group fail, before the attempts to undo it failed too.
        self.cause: BaseException | None = None
        self.future: asyncio.Future[T] = loop.create_future()

    def run(self) -> None:
        """Run it as part of a transaction that fails as a whole."""
        self._value = self._run()

    def run_alone(self, connection: sqlite3.Connection) -> None:
        """Run it in a savepoint of its own; remember value or error until the group is on disk."""
        try:
            connection.execute("SAVEPOINT operation")
            try:
                self._value = self._run()
            except BaseException:
                connection.execute("ROLLBACK TO operation")
                raise
            connection.execute("RELEASE operation")
        except CLASHES as error:
            self._error = error
        except FAULTS as error:
            self.cause = _root(error)
            raise
        except Exception as error:  # noqa: BLE001 - it is the caller's and is handed over whole
            self._error = error

    def settle(self, fault: BaseException | None) -> None:
        """Tell the caller; `fault` is the group's own failure, which undid this one too."""
        error = fault or self._error
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self._value)  # type: ignore[arg-type]


def _settle(group: list[_Operation[Any]], fault: StoreError | None) -> None:
    """Tell all callers of a group, in the order of their calls."""

    def settle() -> None:
        for operation in group:
            operation.settle(fault)

    group[0].loop.call_soon_threadsafe(settle)


def _root(error: BaseException) -> BaseException:
    """Return the first of the errors of which `error` is the last."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class Writer:
    """Runs operations in one thread, in the order given, in groups of one commit each."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self.seconds, self.changes = Histogram(QUICK), Histogram(SIZES)
        self.failures = 0
        self._gathered: list[_Operation[Any]] = []
        self._waiting: queue.SimpleQueue[list[_Operation[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[], T]) -> asyncio.Future[T]:
        """Queue `run` and return the future of its value, done once it is on disk."""
        loop = asyncio.get_running_loop()
        operation = _Operation(run, loop)
        if not self._gathered:
            # What else this turn of the loop brings shares the fsync.
            loop.call_soon(self._hand_over)
        self._gathered.append(operation)
        return operation.future

    def _hand_over(self) -> None:
        if self._gathered:
            self._waiting.put(self._gathered)
            self._gathered = []

    def close(self) -> None:
        """Write what is queued, then end the thread. Blocks until then."""
        self._hand_over()
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        idle: float | None = None
        while True:
            try:
                group = self._waiting.get(timeout=idle)
            except queue.Empty:
                self._empty_log()
                idle = None
                continue
            if group is None:
                break
            closing = self._add_waiting(group)
            self._commit(group)
            if closing:
                break
            idle = _IDLE
        self._database.close()

    def _empty_log(self) -> None:
        """Bring the write-ahead log into the database and empty it: it holds what was erased."""
        try:
            self._database.execute_sql("PRAGMA busy_timeout = 0")
            self._database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            self._database.execute_sql(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        except FAULTS as error:
            logger.warning("The write-ahead log could not be emptied: %s", error)

    def _add_waiting(self, group: list[_Operation[Any]]) -> bool:
        """Add to a group those that wait already; return whether the end was among them."""
        while len(group) < _GROUP:
            try:
                more = self._waiting.get_nowait()
            except queue.Empty:
                break
            if more is None:
                return True
            group += more
        return False

    def _commit(self, group: list[_Operation[Any]]) -> None:
        begin = time.perf_counter()
        try:
            self._run(group)
        except Exception as error:
            self.failures += 1
            # A full disk ends the transaction by itself, and then its end fails: not that counts.
            causes = (operation.cause for operation in group if operation.cause)
            cause = next(causes, None) or _root(error)
            if isinstance(error, FAULTS):
                logger.error("The store could not commit: %s", cause)  # noqa: TRY400 - one line
            else:
                # The top of a thread without which the host can do nothing.
                logger.exception("The store's thread met a fault")
            _settle(group, StoreError(f"the host's store cannot be written: {cause}"))
        else:
            self.seconds.observe(time.perf_counter() - begin)
            self.changes.observe(len(group))
            _settle(group, None)

    def _run(self, group: list[_Operation[Any]]) -> None:
        """Run a group as one transaction.

        Operations hardly ever fail, and savepoints cost as much as the operations themselves: so
        all run without, and only if one fails each anew within its own.
        """
        try:
            with self._database.atomic("IMMEDIATE"):
                for operation in group:
                    operation.run()
        except Exception:  # noqa: BLE001 - whatever it is, it comes again below, to its own caller
            with self._database.atomic("IMMEDIATE"):
                connection = self._database.connection()
                for operation in group:
                    operation.run_alone(connection)
