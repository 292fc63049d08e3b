"""What is known of tasks in the moment between the host's reply and its first event."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hakuriver.model.targets import Target
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import MASK, SubmitReply, TaskView, to_iso

if TYPE_CHECKING:
    from hakuriver.model.submission import SubmitRequest


def pending_views(request: SubmitRequest, reply: SubmitReply) -> list[TaskView]:
    """Return every created task as pending, with revision 0: whatever the host tells is newer."""
    targets = created_targets(request.targets or [], reply)
    now = to_iso(time.time()) or ""
    return [
        _pending(request, task_id, reply.batch_id, target, now)
        for task_id, target in zip(reply.task_ids, targets, strict=True)
    ]


def created_targets(targets: list[str], reply: SubmitReply) -> list[Target | None]:
    """Return the target of each id in `reply`: they come in the order asked, refused ones left out.

    None where nobody knows yet.
    """
    accepted = list(targets)
    for failed in reply.failed_targets:
        if failed.target in accepted:
            accepted.remove(failed.target)
    if len(accepted) != len(reply.task_ids):
        return [None] * len(reply.task_ids)
    return [Target.parse(target) for target in accepted]


def _pending(
    request: SubmitRequest, task_id: str, batch_id: str, target: Target | None, now: str
) -> TaskView:
    return TaskView(
        task_id=task_id,
        batch_id=batch_id,
        rev=0,
        command=request.command or "",
        arguments=request.arguments,
        env_vars=dict.fromkeys(request.env_vars, MASK),
        required_cores=request.required_cores,
        required_memory_bytes=request.required_memory_bytes,
        status=TaskState.PENDING,
        reason=None,
        assigned_node=target.node if target else None,
        target_numa_node_id=target.numa if target else None,
        cpus=[],
        queue_position=None,
        stdout_path=None,
        stderr_path=None,
        exit_code=None,
        error_message=None,
        submitted_at=now,
        started_at=None,
        completed_at=None,
        use_private_network=request.use_private_network,
        use_private_pid=request.use_private_pid,
        systemd_unit_name=None,
        name=request.name,
        owner="",
        working_directory=request.working_directory,
        time_limit_seconds=request.time_limit_seconds,
        retry_of=None,
        usage=None,
    )
