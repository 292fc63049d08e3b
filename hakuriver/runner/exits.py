"""Exit records: what a supervisor wrote when a task was over, and what that means.

The file is the truth about a task's end. Reading and removing block on the disk: call them in a
thread. `decide` is pure.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from hakuriver.model.tasks import Exit, TaskState

if TYPE_CHECKING:
    from pathlib import Path


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the keeper writes. Times are seconds since the Unix epoch.

    `exit_code` is None when the program could not be started at all; `killed` means that a kill
    was asked before the main process ended; `reason` says why a start failed.
    """

    exit_code: int | None
    started_at: float | None
    completed_at: float
    killed: bool = False
    reason: str | None = None


def decide(record: ExitRecord) -> Exit:
    """Return how the task ended, by its exit record."""
    code = record.exit_code
    if record.killed:
        status, reason = TaskState.KILLED, "killed on request"
    elif code == 0 and record.reason is None:
        status, reason = TaskState.COMPLETED, None
    else:
        status, reason = TaskState.FAILED, record.reason or explain(code)
    return Exit(status=status, exit_code=code, reason=reason, completed_at=record.completed_at)


def explain(code: int | None) -> str:
    """Return the words for an exit code as the kernel gives it: -N is signal N."""
    if code is None:
        return "could not be started"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:  # a real-time signal has no name
        return f"ended by signal {-code}"


@dataclass(frozen=True, slots=True)
class ExitFolder:
    """The folder with one ``<id>.json`` for each task that is over and not yet forgotten."""

    path: Path

    def read(self, task_id: int) -> ExitRecord | None:
        """Return the record; None if there is none, or none that can be read whole."""
        try:
            return msgspec.json.decode(
                (self.path / f"{task_id}.json").read_bytes(), type=ExitRecord
            )
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def remove(self, task_id: int) -> None:
        """Forget how a task ended."""
        (self.path / f"{task_id}.json").unlink(missing_ok=True)

    def ids(self) -> set[int]:
        """Return the tasks that have a record."""
        if not self.path.is_dir():
            return set()
        return {int(path.stem) for path in self.path.glob("*.json") if path.stem.isdigit()}
