"""Tasks: what is to run, the states it goes through, and which changes of state are legal."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec


class TaskState(StrEnum):
    """The states of a task; all but the first three are final."""

    PENDING = "pending"
    ASSIGNING = "assigning"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    KILLED = "killed"
    KILLED_OOM = "killed_oom"
    LOST = "lost"


#: A task in one of these never changes again, but for `LOST` (see `LEGAL`).
FINAL = frozenset(
    {
        TaskState.COMPLETED,
        TaskState.FAILED,
        TaskState.KILLED,
        TaskState.KILLED_OOM,
        TaskState.LOST,
    }
)

#: The others, in the order in which a task goes through them.
UNFINISHED = tuple(state for state in TaskState if state not in FINAL)

#: Finals that a node tells about a process of its own.
TOLD = FINAL - {TaskState.LOST}

#: From each state the ones that may follow. `LOST` is a belief about a silent node, so the
#: node's own word, that it still runs or how it ended, replaces it.
LEGAL: dict[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset({TaskState.ASSIGNING, TaskState.FAILED, TaskState.KILLED}),
    # Back to PENDING never: an assigning task that its node does not know is dispatched again.
    TaskState.ASSIGNING: frozenset({TaskState.RUNNING}) | FINAL,
    TaskState.RUNNING: FINAL,
    TaskState.COMPLETED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.KILLED: frozenset(),
    TaskState.KILLED_OOM: frozenset(),
    TaskState.LOST: frozenset({TaskState.RUNNING}) | TOLD,
}


def sources_of(state: TaskState) -> frozenset[TaskState]:
    """Return the states from which `state` may be entered: the WHERE of its update."""
    return frozenset(before for before, after in LEGAL.items() if state in after)


#: The id of a task or batch.
Id = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Small = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
ExitCode = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=1 << 31)]
#: Seconds since the Unix epoch, to about the year 5100; a number that no date has is refused.
Moment = Annotated[float, msgspec.Meta(ge=0, le=1e11)]


Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
#: Characters of a reason that a runner gives at most: it may hold what a program printed.
MAX_REASON = 1 << 12
# What is read may be longer: journals keep what earlier versions wrote.
_Reason = Annotated[str, msgspec.Meta(max_length=1 << 16)]
_Name = Annotated[str, msgspec.Meta(max_length=1 << 10)]
_Path = Annotated[str, msgspec.Meta(max_length=1 << 13)]
_Cores = Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
_Words = Annotated[tuple[str, ...], msgspec.Meta(max_length=1 << 17)]
_ByNode = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=20)], Bytes], msgspec.Meta(max_length=1 << 12)
]


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One command with its limits, as the runner gets it; the same for a whole batch.

    Either `command` is a program and `arguments` its arguments, or `script` is the text of a
    file that `interpreter` runs (with `arguments` after it). Memory is in bytes, time in seconds.
    """

    command: str
    arguments: _Words = ()
    env_vars: Annotated[dict[str, str], msgspec.Meta(max_length=1 << 17)] = {}
    script: bytes | None = None
    interpreter: _Words = ()
    required_cores: _Cores = 1
    required_memory_bytes: Bytes | None = None
    time_limit_seconds: Seconds | None = None
    working_directory: _Path | None = None
    use_private_network: bool = False
    use_private_pid: bool = False
    name: _Name = ""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task comes from: what only the host knew, kept by the runner for a new database.

    `targeted` means that its node was asked for, not picked; `retry_of` is the task it repeats.
    """

    owner: _Name = ""
    submitted_at: Moment = 0.0
    targeted: bool = True
    retry_of: Id | None = None


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where in a batch and on which CPUs a task runs: what differs between its siblings.

    `batch_id` is that of its own submission, with whose other tasks it shares what it runs, and
    which index and size count. Where that has joined the batch of another, `joined_id` is that
    one's. `cpus` are CPU numbers as the kernel counts them; empty when the task asked for no cores.
    """

    batch_id: Id
    batch_index: Small
    batch_size: Small
    cpus: Annotated[tuple[Small, ...], msgspec.Meta(max_length=1 << 16)] = ()
    numa_node: Small | None = None
    joined_id: Id | None = None

    @property
    def batch(self) -> int:
        """The batch in which users see the task."""
        return self.batch_id if self.joined_id is None else self.joined_id


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task's whole process tree has used; None where it was not measured.

    `memory_bytes` is what it held when it was last looked at, `peak_memory_bytes` the most that
    it held at once. By NUMA node only anonymous memory is counted, what the task itself has
    filled: the last look, and the most at any look.
    """

    cpu_seconds: Seconds | None = None
    memory_bytes: Bytes | None = None
    peak_memory_bytes: Bytes | None = None
    numa_memory_bytes: _ByNode | None = None
    peak_numa_memory_bytes: _ByNode | None = None


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a task ended, as its node tells it.

    `exit_code` is the program's own, -N when signal N ended it, 127 when the program was not
    found, None when it never ran. Times are seconds since the Unix epoch.
    """

    status: TaskState
    exit_code: ExitCode | None = None
    reason: _Reason | None = None
    completed_at: Moment
    usage: Usage | None = None
