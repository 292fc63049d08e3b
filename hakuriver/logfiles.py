"""A task's two log files: where they lie, and reading parts of them without loading the whole.

Logs are found by task id alone and never opened through a link. All functions block on the
disk: call them in a thread.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hakuriver.disk import make_private

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.model.messages import Stream

_BLOCK = 64 << 10


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """The tree that holds scripts and logs, in the shared directory or under a state directory."""

    root: Path

    def log(self, task_id: int, stream: Stream) -> Path:
        """Return where the task's output of one stream goes."""
        if stream == "stdout":
            return self.root / "task_outputs" / f"{task_id}.out"
        return self.root / "task_errors" / f"{task_id}.err"

    def script(self, task_id: int) -> Path:
        """Return where the task's script lies."""
        return self.root / "scripts" / str(task_id)

    def make(self) -> None:
        """Make the folders, for their owner alone; those that exist keep their mode."""
        for folder in ("scripts", "task_outputs", "task_errors"):
            make_private(self.root / folder)


def open_log(path: Path) -> int | None:
    """Return a descriptor to read `path`, None if there is no such file.

    Raises:
        PermissionError: the file is a link or something else than a regular file.
        OSError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(errno.EPERM, "a log is never read through a link") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "a log is a regular file")
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
