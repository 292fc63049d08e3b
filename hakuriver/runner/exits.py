"""Exit records: what a supervisor wrote when a task was over, and what that means.

The file is the truth about a task's end. All methods of `ExitFile` block on the disk: call them
in a thread. `decide` is pure.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from hakuriver.model.quantities import format_duration
from hakuriver.model.tasks import Exit, TaskState, Usage

if TYPE_CHECKING:
    from pathlib import Path


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

Cause = Literal["killed", "timeout", "memory", "reboot"]


#: Why a task is lost that the machine's end has ended.
REBOOTED = "node rebooted"


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor writes. Times are seconds since the Unix epoch.

    `exit_code` is None when the program could not be started at all, and `reason` says why.
    `cause` is why the task was ended, None when it ended by itself, and `limit` what it had
    exceeded, in seconds or bytes; a task without a memory limit that is ended for memory fell to
    the kernel, since the machine had none left. What was not measured is None.
    """

    exit_code: int | None
    started_at: float | None
    completed_at: float
    cause: Cause | None = None
    limit: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    reason: str | None = None
    #: The supervisor's own word for the end.
    result: str = "success"
    #: Whether the machine was certainly not going down.
    sure: bool = True


def decide(record: ExitRecord) -> Exit:
    """Return how the task ended, by its exit record."""
    status, reason = _verdict(record)
    usage = Usage(cpu_seconds=record.cpu_seconds, peak_memory_bytes=record.peak_memory_bytes)
    return Exit(
        status=status,
        exit_code=None if status is TaskState.LOST else record.exit_code,
        reason=reason,
        completed_at=record.completed_at,
        usage=None if usage == Usage() else usage,
    )


def _verdict(record: ExitRecord) -> tuple[TaskState, str | None]:
    limit = record.limit or 0
    if record.cause == "reboot":
        return TaskState.LOST, REBOOTED
    if record.cause == "killed":
        return TaskState.KILLED, "killed on request"
    if record.cause == "timeout":
        return TaskState.FAILED, f"timeout: ran longer than {format_duration(limit)}"
    if record.cause == "memory":
        return TaskState.KILLED_OOM, _out_of_memory(record)
    if record.exit_code == 0 and record.reason is None:
        return TaskState.COMPLETED, None
    return TaskState.FAILED, record.reason or explain(record.exit_code)


def _out_of_memory(record: ExitRecord) -> str:
    if record.limit is None:
        return "ended by the kernel: the machine had no memory left"
    return (
        f"memory limit exceeded: peak {_peak_of(record.peak_memory_bytes or 0, int(record.limit))}"
    )


def _peak_of(peak: int, limit: int) -> str:
    """Return both in the unit of the limit: ``1.02 of 1.00 GiB``."""
    power = min(max(limit.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    size = 1 << 10 * power
    return f"{peak / size:.2f} of {limit / size:.2f} {_UNITS[power]}"


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


class _Line(msgspec.Struct, frozen=True):
    id: int
    record: ExitRecord


_decoder = msgspec.json.Decoder(_Line)


class Exits(Protocol):
    """The exit records of a launcher's tasks, on disk; all methods block."""

    def load(self) -> dict[int, ExitRecord]:
        """Return all records."""
        ...

    def read(self, task_id: int) -> ExitRecord | None:
        """Return the record of one task, None if there is none."""
        ...

    def droppable(self) -> set[int]:
        """Return tasks of which `drop` could remove what is left here."""
        ...

    def drop(self, task_ids: set[int]) -> None:
        """Remove what is left of these tasks, whose ends are known elsewhere by now."""


@dataclass(frozen=True, slots=True)
class ExitFile:
    """The file to which a keeper's minders append a line for each task that is over.

    There are two generations: when the older one is dropped, the present one becomes that.
    Supervisors open the file for each line, so that it may be renamed at any time.
    """

    path: Path

    @property
    def old(self) -> Path:
        """The older generation."""
        return self.path.with_suffix(".old")

    def load(self) -> dict[int, ExitRecord]:
        """Return all records; lines that are torn are passed over."""
        present = _read(self.path)
        return {**_read(self.old), **present}

    def read(self, task_id: int) -> ExitRecord | None:
        """Return the record of one task, None if there is none."""
        return self.load().get(task_id)

    def droppable(self) -> set[int]:
        """Return the tasks of the older generation."""
        return set(_read(self.old))

    def drop(self, task_ids: set[int]) -> None:
        """Drop the older generation if it is all of these, and begin a new one."""
        if self.droppable() <= task_ids:
            with contextlib.suppress(FileNotFoundError):
                self.path.replace(self.old)


def _read(path: Path) -> dict[int, ExitRecord]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    found: dict[int, ExitRecord] = {}
    for line in filter(None, lines):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            read = _decoder.decode(line)
            found[read.id] = read.record
    return found
