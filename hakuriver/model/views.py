"""What the host's API answers: tasks, nodes, events and log lines as JSON.

Ids are strings (they exceed 2^53), times ISO 8601 with offset in UTC, memory is in bytes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hakuriver.model.messages import Stream
from hakuriver.model.nodes import Capabilities, NodeStatus, NumaNode, NumaUse
from hakuriver.model.tasks import TaskState, Usage

#: Stands for each value of a task's environment in every view.
MASK = "***"


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as everybody may see it: the values of its environment are masked."""

    task_id: str
    batch_id: str
    rev: int
    command: str
    arguments: list[str]
    env_vars: dict[str, str]
    required_cores: int
    required_memory_bytes: int | None
    status: TaskState
    reason: str | None
    assigned_node: str | None
    target_numa_node_id: int | None
    cpus: list[int]
    queue_position: int | None
    stdout_path: str | None
    stderr_path: str | None
    exit_code: int | None
    error_message: str | None
    submitted_at: str
    started_at: str | None
    completed_at: str | None
    use_private_network: bool
    use_private_pid: bool
    systemd_unit_name: str | None
    name: str
    owner: str
    working_directory: str | None
    time_limit_seconds: float | None
    retry_of: str | None
    usage: Usage | None

    @property
    def target(self) -> str:
        """Where it runs, as ``node`` or ``node:numa``; ``-`` while nobody knows."""
        if self.assigned_node is None:
            return "-"
        if self.target_numa_node_id is None:
            return self.assigned_node
        return f"{self.assigned_node}:{self.target_numa_node_id}"


class TaskList(msgspec.Struct, frozen=True):
    """A page of tasks, newest first; `next_before` asks for the page after it, None at the end."""

    tasks: list[TaskView]
    next_before: str | None = None


class Done(msgspec.Struct, frozen=True):
    """What was done, in words."""

    message: str


class FieldError(msgspec.Struct, frozen=True):
    """One field that was not accepted, and why."""

    field: str
    reason: str


class FailedTarget(msgspec.Struct, frozen=True):
    """A target that got no task, and why."""

    target: str
    reason: str


class SubmitReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ids of the tasks created, which are in the store by now.

    `joined` tells that the batch was there before, and has other tasks.
    """

    message: str
    task_ids: list[str]
    batch_id: str
    failed_targets: list[FailedTarget]
    joined: bool = False


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why one of many submissions got no task: what the same one alone would be answered."""

    status: int
    detail: str | list[FieldError]
    failed_targets: list[FailedTarget] = []


class SubmitManyReply(msgspec.Struct, frozen=True):
    """One answer for each submission, in their order: a `reply`, or an `error`."""

    answers: list[SubmitAnswer]


class SubmitAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to one of many submissions; exactly one field is set."""

    reply: SubmitReply | None = None
    error: ErrorAnswer | None = None


class KillBatchReply(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks of a batch will end; the others had ended already."""

    message: str
    task_ids: list[str]


class NumaAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What of one NUMA node is given out; memory only to tasks that are bound to it."""

    total_cores: int
    cores_in_use: int
    memory_bytes: int
    memory_in_use_bytes: int


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node with its accounting; counts are whole CPUs, memory is that of limits, in bytes."""

    hostname: str
    rev: int
    url: str | None
    status: NodeStatus
    total_cores: int
    cores_in_use: int
    available_cores: int
    cpus_in_use: list[int]
    memory_total_bytes: int
    memory_in_use_bytes: int
    last_heartbeat: str | None
    numa_topology: dict[str, NumaNode] | None
    numa_use: dict[str, NumaAccount]
    launcher: str
    capabilities: Capabilities
    version: str
    draining: bool
    #: Why the host did not take its runner in when it last tried to link up.
    refused: str | None = None


class NumaHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One NUMA node with its measured use; None where the runner could not measure it."""

    cores: list[int]
    memory_bytes: int
    use: NumaUse | None


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """A node's measured use, from its last heartbeat."""

    hostname: str
    status: NodeStatus
    last_heartbeat: str | None
    cpu_percent: float
    memory_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    load_average: float
    numa: dict[str, NumaHealth]
    launcher: str
    capabilities: Capabilities
    version: str


class NodeList(msgspec.Struct, frozen=True):
    """All nodes, sorted by name."""

    nodes: list[NodeView]


class HealthList(msgspec.Struct, frozen=True):
    """The measured use of all nodes, sorted by name, or of the one asked for."""

    nodes: list[HealthView]


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """The host's event loop runs; `time` is its clock, in seconds since the Unix epoch."""

    status: Literal["ok"] = "ok"
    version: str
    time: float


class Joining(msgspec.Struct, frozen=True, kw_only=True):
    """A runner's token is good for `node`; which cluster and version this is."""

    node: str
    cluster_id: str
    version: str


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``/events``: a task or node that changed, or, with neither, a sign of life.

    `forgotten` is the name of a node that was removed. `reset` says that the rows asked for are
    gone: take a fresh snapshot and go on from `rev`.
    """

    rev: int
    task: TaskView | None = None
    node: NodeView | None = None
    forgotten: str | None = None
    reset: bool = False


class LogEndView(msgspec.Struct, frozen=True):
    """How a followed log ended: the task's status and the log's size in bytes."""

    status: TaskState
    size: int


class LogLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a followed log: text or, where it is no UTF-8, Base64; or a mark.

    `offset` counts bytes from the start of the log. A line with nothing set is a sign of life.
    """

    offset: int | None = None
    data: str | None = None
    b64: str | None = None
    reset: bool = False
    end: LogEndView | None = None


class LogNews(LogLine, frozen=True, kw_only=True, omit_defaults=True):
    """A `LogLine` among those of other logs; `error` says why this one ends without its end."""

    id: str
    stream: Stream
    error: str | None = None


class StreamLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``POST /stream``: an event, or news of one of the logs."""

    event: Event | None = None
    log: LogNews | None = None


class ErrorView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every error: a sentence, or for 422 the fields.

    With 429 `retry_after` is the time until the next request is taken, in seconds.
    """

    detail: str | list[FieldError]
    failed_targets: list[FailedTarget] = []
    retry_after: Annotated[float, Meta(ge=0)] | None = None


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a task ended, and what it used.

    Times are in seconds since the Unix epoch, None where it never came so far.
    """

    task_id: str
    target: str
    status: TaskState
    exit_code: int | None
    reason: str | None
    started_at: float | None
    completed_at: float | None
    usage: Usage | None = None

    @property
    def seconds(self) -> float | None:
        """How long it ran, in seconds; None if it never started."""
        if self.started_at is None or self.completed_at is None:
            return None
        return max(0.0, self.completed_at - self.started_at)

    @classmethod
    def of(cls, view: TaskView) -> TaskResult:
        """Return the result in a final `view`."""
        return cls(
            task_id=view.task_id,
            target=view.target,
            status=view.status,
            exit_code=view.exit_code,
            reason=view.reason,
            started_at=from_iso(view.started_at),
            completed_at=from_iso(view.completed_at),
            usage=view.usage,
        )


def to_iso(moment: float | None) -> str | None:
    """Return seconds since the Unix epoch as ISO 8601 in UTC; None stays None."""
    if moment is None:
        return None
    # A page has thousands of these: msgspec takes half the time of `isoformat`, and writes a Z.
    text: str = msgspec.to_builtins(datetime.fromtimestamp(moment, UTC))
    return f"{text[:-1]}+00:00"


def from_iso(text: str | None) -> float | None:
    """Return ISO 8601 as seconds since the Unix epoch; None stays None."""
    return None if text is None else datetime.fromisoformat(text).timestamp()
