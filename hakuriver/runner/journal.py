"""The runner's journal: which tasks it was given, kept until the host has acknowledged their end.

One JSON record a line in ``journal.ndjson``, only ever appended to; now and then rewritten with
what still counts, so that an acknowledged task's environment does not stay on the disk.
`append_durably` returns when its record is fsynced: many waiting appends share one fsync.
A torn last record, from a crash while writing, is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Self

from hakuriver.runner.journal_file import JournalFile
from hakuriver.runner.records import Entry, Forgotten, Record, apply, records_of, to_line

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_IDLE = 1.0
_SOON = 0.05
_LARGE = 4 << 20


class _Waiting(NamedTuple):
    """A record on its way to the disk, None for a mark among them, and who waits for it."""

    record: Record | None
    #: Made before it waits: what cannot be encoded is its caller's fault, and stops nobody else.
    line: bytes = b""
    future: asyncio.Future[None] | None = None

    @property
    def is_durable(self) -> bool:
        """Whether it must be fsynced before its waiter may go on."""
        return self.record is not None and self.future is not None


class Journal:
    """The entries in memory, and their way to the disk through one thread."""

    def __init__(self, path: Path, file: JournalFile, thread: ThreadPoolExecutor) -> None:
        self.entries: dict[int, Entry] = {}
        self._path = path
        self._file = file
        self._thread = thread
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.TimerHandle | None = None
        #: Records in the file that count no more, so that rewriting it gains something.
        self._dead = 0
        #: Whether something that was noted could not be written, and is in memory alone.
        self._lacks = False

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Return the journal in `path`, with everything that it held."""
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        file = await loop.run_in_executor(thread, JournalFile, path)
        journal = cls(path, file, thread)
        journal.entries = await loop.run_in_executor(thread, file.load)
        journal._dead = 1 if file.size else 0
        return journal

    async def append_durably(self, record: Record) -> None:
        """Return when `record` is safe on the disk; raise `OSError` if it cannot be written."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enqueue(_Waiting(record, to_line(record), future))
        await future

    def append_lazily(self, record: Record) -> None:
        """Note `record` now; it is written with the next durable one or soon, without an fsync."""
        waiting = _Waiting(record, to_line(record))
        apply(self.entries, record)
        self._enqueue(waiting)

    async def written(self) -> bool:
        """Return whether everything noted so far has been written (not fsynced), once it can be.

        If so, it outlives this process from then on, though not the machine.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enqueue(_Waiting(None, b"", future))
        with contextlib.suppress(OSError):
            await future
        return not self._lacks

    async def close(self) -> None:
        """Write what waits, drop what counts no more, then let the file go."""
        while self._waiting or self._writer is not None:
            self._write()
            if self._writer is not None:
                await asyncio.wait([self._writer])
        if self._timer is not None:
            self._timer.cancel()
        if self._dead:
            await self._compact()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
        self._thread.shutdown(wait=False)

    def _enqueue(self, one: _Waiting) -> None:
        self._waiting.append(one)
        if isinstance(one.record, Forgotten):
            self._dead += 1
        if one.future is not None:
            self._write()
        elif self._writer is None and self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_SOON, self._write)

    def _write(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain(), name="journal writer")

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._write_batch()
                if self._dead and self._file.size > _LARGE:
                    await self._compact()
        finally:
            self._writer = None
        self._compact_when_idle()

    async def _write_batch(self) -> None:
        batch, self._waiting = self._waiting, []
        data = b"".join(one.line for one in batch)
        durable = any(one.is_durable for one in batch)
        fault: OSError | None = None
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(
                self._thread, lambda: self._file.append(data, durable=durable)
            )
        except OSError as error:
            _log.error("%s: cannot be written: %s", self._path, error.strerror)
            # What was noted lazily comes to the disk with the next rewriting.
            self._dead += 1
            self._lacks = True
            fault = error
        for one in batch:
            self._settle(one, fault)

    def _settle(self, one: _Waiting, fault: OSError | None) -> None:
        future = one.future
        if future is None:
            return
        if fault is None and one.record is not None:
            apply(self.entries, one.record)
        if not future.done():  # its waiter may have been cancelled
            future.set_result(None) if fault is None else future.set_exception(fault)

    def _compact_when_idle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dead:
            self._timer = asyncio.get_running_loop().call_later(_IDLE, self._idle)

    def _idle(self) -> None:
        self._timer = None
        if self._writer is None:
            self._writer = asyncio.create_task(self._compact_alone(), name="journal compaction")

    async def _compact_alone(self) -> None:
        try:
            await self._compact()
        finally:
            await self._drain()

    async def _compact(self) -> None:
        """Rewrite the file with what the entries hold; on failure the old one goes on."""
        records = [records_of(*item) for item in self.entries.items()]
        data = b"".join(to_line(record) for some in records for record in some)
        self._dead = 0
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._file.replace, data)
            self._lacks = False
        except OSError as error:
            _log.error("%s: cannot be rewritten: %s", self._path, error.strerror)
            self._dead = 1
