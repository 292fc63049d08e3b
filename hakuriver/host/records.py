"""What the host keeps of a task and a node, frozen, and how it is shown to clients."""

from __future__ import annotations

import msgspec

from hakuriver.model.nodes import NodeInfo
from hakuriver.model.tasks import FINAL, Origin, Placement, TaskSpec, TaskState, Usage
from hakuriver.model.views import MASK, TaskView, to_iso


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the task table with its batch's spec (without the script, which can be large).

    Times are in seconds since the Unix epoch. `node` is the target's until the scheduler has
    decided, and None for a task that may run anywhere. `unit` is the task's systemd unit.
    `logs_removed` means that retention has
    taken its logs.
    """

    id: int
    placement: Placement
    origin: Origin
    spec: TaskSpec
    rev: int
    status: TaskState
    node: str | None
    reason: str | None = None
    exit_code: int | None = None
    kill_requested: bool = False
    started_at: float | None = None
    completed_at: float | None = None
    stdout_path: str | None = None
    stderr_path: str | None = None
    unit: str | None = None
    usage: Usage | None = None
    logs_removed: bool = False

    @property
    def is_final(self) -> bool:
        """Whether the task has ended, or is believed to have."""
        return self.status in FINAL

    def to_view(
        self, *, queue_position: int | None = None, waits_for: str | None = None
    ) -> TaskView:
        """Return what clients see; the values of the environment are masked."""
        spec, place, origin = self.spec, self.placement, self.origin
        failed = self.is_final and self.status is not TaskState.COMPLETED
        return TaskView(
            task_id=str(self.id),
            batch_id=str(place.batch),
            rev=self.rev,
            command=spec.command or " ".join(spec.interpreter) or "python",
            arguments=list(spec.arguments),
            env_vars=dict.fromkeys(spec.env_vars, MASK),
            required_cores=spec.required_cores,
            required_memory_bytes=spec.required_memory_bytes,
            status=self.status,
            reason=waits_for or self.reason,
            assigned_node=self.node,
            target_numa_node_id=place.numa_node,
            cpus=list(place.cpus),
            queue_position=queue_position,
            stdout_path=self.stdout_path,
            stderr_path=self.stderr_path,
            exit_code=self.exit_code,
            error_message=self.reason if failed else None,
            submitted_at=to_iso(origin.submitted_at) or "",
            started_at=to_iso(self.started_at),
            completed_at=to_iso(self.completed_at),
            use_private_network=spec.use_private_network,
            use_private_pid=spec.use_private_pid,
            systemd_unit_name=self.unit,
            name=spec.name,
            owner=origin.owner,
            working_directory=spec.working_directory,
            time_limit_seconds=spec.time_limit_seconds,
            retry_of=None if origin.retry_of is None else str(origin.retry_of),
            usage=self.usage,
        )


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A submission that bore a key: what was asked, as a digest, and the JSON it was answered."""

    key: str
    digest: bytes
    reply: bytes


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the node table: the machine as it last told of itself."""

    name: str
    rev: int
    uid: str
    info: NodeInfo
    last_heartbeat: float | None
    draining: bool = False
