"""The journal's file: loading, appending, rewriting. Everything here blocks on the disk."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

from hakuriver.runner.records import Entry, apply, from_line

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

# Bytes of the disk that are left for the ends of tasks that run: a new one must not take them.
_RESERVE = 256 << 10


class JournalFile:
    """The file itself; every method blocks on the disk. A failed write leaves no trace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = 0

    def load(self) -> dict[int, Entry]:
        """Read all records; cut off a torn last one."""
        content = self._path.read_bytes()
        entries: dict[int, Entry] = {}
        for line in content.splitlines(keepends=True):
            record = from_line(line)
            if record is None:
                break
            apply(entries, record)
            self.size += len(line)
        if self.size < len(content):
            _log.warning(
                "%s: cut off %d bytes of a torn record", self._path, len(content) - self.size
            )
            self._cut()
        self._sync_folder()
        return entries

    def append(self, data: bytes, *, durable: bool) -> None:
        """Write `data` at the end, fsynced if `durable`; raise `OSError`.

        What must be durable is a task to be started: it is refused when the disk is all but full.
        """
        try:
            if durable:
                self._check_room()
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self.size + written)
            if durable:
                os.fdatasync(self._descriptor)
        except OSError:
            self._cut()
            raise
        self.size += len(data)

    def replace(self, data: bytes) -> None:
        """Put a new file with `data` in the place of the old one, durably and at once."""
        new = self._path.with_suffix(".new")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
            new.replace(self._path)
        except OSError:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor, self.size = descriptor, len(data)
        self._sync_folder()

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)

    def _check_room(self) -> None:
        disk = os.fstatvfs(self._descriptor)
        if disk.f_bavail * disk.f_frsize < _RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self.size)

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
