"""Reading a log from the shared directory, when the node that wrote it cannot be asked."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hakuriver.errors import Conflict
from hakuriver.logfiles import TaskFiles, open_log, tail_offset
from hakuriver.model.messages import MAX_CHUNK, LogChunk, LogEnd, LogOpen, LogOpened

if TYPE_CHECKING:
    from hakuriver.config import Config


class LocalLog:
    """A log as it lies in the shared directory now; the same face as a `Subscription`."""

    def __init__(self, path: Path, request: LogOpen) -> None:
        self._path = path
        self._request = request
        self._descriptor: int | None = None
        self._offset = self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    async def opened(self) -> LogOpened:
        """Open the file and return its size; raise `Conflict` if it cannot be read."""
        try:
            return await asyncio.to_thread(self._open)
        except OSError as error:
            raise Conflict(f"the log cannot be read: {error.strerror}") from None

    def _open(self) -> LogOpened:
        self._descriptor = open_log(self._path)
        size = 0 if self._descriptor is None else os.fstat(self._descriptor).st_size
        request = self._request
        self._offset = min(request.offset, size)
        if request.tail is not None and self._descriptor is not None:
            self._offset = tail_offset(self._descriptor, request.tail, size)
        self._end = size if request.limit is None else min(size, self._offset + request.limit)
        return LogOpened(subscription=0, size=size, offset=self._offset)

    async def next(self) -> LogChunk | LogEnd:
        """Return the next bytes, or that there are no more."""
        wanted = min(MAX_CHUNK, self._end - self._offset)
        if wanted <= 0 or self._descriptor is None:
            return LogEnd(subscription=0, size=self._offset)
        data = await asyncio.to_thread(os.pread, self._descriptor, wanted, self._offset)
        if not data:
            return LogEnd(subscription=0, size=self._offset)
        start, self._offset = self._offset, self._offset + len(data)
        return LogChunk(subscription=0, offset=start, data=data)

    def consumed(self, size: int) -> None:
        """Take note of nothing: a file waits by itself."""


def shared_log(config: Config, request: LogOpen) -> LocalLog | None:
    """Return the log in the shared directory; None if there is no such directory here."""
    if not config.paths.shared_dir:
        return None
    files = TaskFiles(Path(config.paths.shared_dir))
    return LocalLog(files.log(request.task_id, request.stream), request)
