"""The one thread that writes: operations wait in a queue and are committed in groups.

Whoever awaits an operation knows, when it returns, that it is on disk. Many that arrive together
share one fsync. An operation that fails is undone alone, the others of its group stand.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import peewee

from hakuriver.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from peewee import SqliteDatabase

logger = logging.getLogger(__name__)
T = TypeVar("T")

# More would only make the first of a group wait longer.
_GROUP = 256


class _Operation(Generic[T]):
    """A function to run within a transaction, and the future that its caller awaits."""

    def __init__(self, run: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self._run = run
        self._loop = loop
        self._value: T | None = None
        self._error: BaseException | None = None
        #: What made the whole group fail, before the attempts to undo it failed too.
        self.cause: BaseException | None = None
        self.future: asyncio.Future[T] = loop.create_future()

    def run(self, database: SqliteDatabase) -> None:
        """Run it in a savepoint of its own; remember value or error until the group is on disk."""
        try:
            with database.savepoint():
                self._value = self._run()
        except peewee.OperationalError as error:
            self.cause = _root(error)
            raise
        except Exception as error:  # noqa: BLE001 - it is the caller's and is handed over whole
            self._error = error

    def settle(self, error: BaseException | None = None) -> None:
        """Tell the caller; `error` is the group's own failure, which undid this one too."""
        self._loop.call_soon_threadsafe(self._resolve, error or self._error)

    def _resolve(self, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self._value)  # type: ignore[arg-type]


def _root(error: BaseException) -> BaseException:
    """Return the first of the errors of which `error` is the last."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class Writer:
    """Runs operations in one thread, in the order given, in groups of one commit each."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._waiting: queue.SimpleQueue[_Operation[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[], T]) -> asyncio.Future[T]:
        """Queue `run` and return the future of its value, done once it is on disk."""
        operation = _Operation(run, asyncio.get_running_loop())
        self._waiting.put(operation)
        return operation.future

    def close(self) -> None:
        """Write what is queued, then end the thread. Blocks until then."""
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        closing = False
        while not closing:
            taken = self._take()
            group = [operation for operation in taken if operation is not None]
            closing = len(group) < len(taken)
            if group:
                self._commit(group)
        self._database.close()

    def _take(self) -> list[_Operation[Any] | None]:
        """Wait for one operation, and take with it those that wait already."""
        taken = [self._waiting.get()]
        while len(taken) < _GROUP:
            try:
                taken.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return taken

    def _commit(self, group: list[_Operation[Any]]) -> None:
        try:
            with self._database.atomic("IMMEDIATE"):
                for operation in group:
                    operation.run(self._database)
        except peewee.DatabaseError as error:
            cause = next((operation.cause for operation in group if operation.cause), error)
            logger.error("The store could not commit: %s", cause)  # noqa: TRY400 - one line
            for operation in group:
                operation.settle(StoreError(f"the host's store cannot be written: {cause}"))
        else:
            for operation in group:
                operation.settle()
