"""A task's two log files: where they lie, and reading parts of them without loading the whole.

Logs are found by task id alone and never opened through a link. All functions block on the
disk: call them in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hakuriver.disk import make_private, opened_folder, remove_at

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.model.messages import Stream

_BLOCK = 64 << 10


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """The tree that holds scripts and logs, in the shared directory or under a state directory.

    `owner` is the uid that all logs have, None if nobody can tell.
    """

    root: Path
    owner: int | None = None

    def log(self, task_id: int, stream: Stream) -> Path:
        """Return where the task's output of one stream goes."""
        if stream == "stdout":
            return self.root / "task_outputs" / f"{task_id}.out"
        return self.root / "task_errors" / f"{task_id}.err"

    def script(self, task_id: int) -> Path:
        """Return where the task's script lies."""
        return self.root / "scripts" / str(task_id)

    def remove(self, task_id: int) -> None:
        """Remove a task's logs and its script, whatever a task has made of them."""
        for path in (
            self.log(task_id, "stdout"),
            self.log(task_id, "stderr"),
            self.script(task_id),
        ):
            with contextlib.suppress(FileNotFoundError), opened_folder(path.parent) as folder:
                remove_at(path.name, folder)

    def make(self) -> None:
        """Make the folders, for their owner alone; those that exist keep their mode."""
        for folder in ("scripts", "task_outputs", "task_errors"):
            make_private(self.root / folder)


def open_log(path: Path, *, owner: int | None = None) -> int | None:
    """Return a descriptor to read `path`, None if there is no such file.

    Neither the file nor its folder is found through a link: both may be a task's. `owner` is the
    uid that the file must have, so that no other's can be put in its place.

    Raises:
        PermissionError: the file is a link, another's, or something else than a regular file.
        OSError: it cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with opened_folder(path.parent) as folder:
            descriptor = os.open(path.name, flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise PermissionError(errno.EPERM, "a log is never read through a link") from None
        raise
    status = os.fstat(descriptor)
    fault = None
    if not stat.S_ISREG(status.st_mode):
        fault = "a log is a regular file"
    elif owner is not None and status.st_uid != owner:
        fault = "a log is its task's own file"
    if fault is not None:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, fault)
    return descriptor


def tail_offset(descriptor: int, lines: int, size: int) -> int:
    """Return the offset at which the last `lines` lines of the first `size` bytes begin.

    Reads backwards in blocks. A last line without a newline counts as a line.
    """
    if lines <= 0:
        return size
    # The newline that ends the last line begins no line of its own.
    end = size - 1 if size and os.pread(descriptor, 1, size - 1) == b"\n" else size
    while end > 0:
        start = max(0, end - _BLOCK)
        block = os.pread(descriptor, end - start, start)
        position = len(block)
        while (position := block.rfind(b"\n", 0, position)) >= 0:
            lines -= 1
            if lines == 0:
                return start + position + 1
        end = start
    return 0
