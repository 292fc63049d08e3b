"""Views of tasks, made up for tests of what shows them."""

from __future__ import annotations

from hakuriver.model.tasks import TaskState
from hakuriver.model.views import TaskView


def view(status: TaskState = TaskState.RUNNING, **changes: object) -> TaskView:
    fields: dict[str, object] = {
        "task_id": "7",
        "batch_id": "6",
        "rev": 1,
        "command": "",
        "arguments": [],
        "env_vars": {},
        "required_cores": 1,
        "required_memory_bytes": None,
        "status": status,
        "reason": None,
        "assigned_node": "node1",
        "target_numa_node_id": None,
        "cpus": [],
        "queue_position": None,
        "stdout_path": None,
        "stderr_path": None,
        "exit_code": None,
        "error_message": None,
        "submitted_at": "2026-01-01T00:00:00+00:00",
        "started_at": None,
        "completed_at": None,
        "use_private_network": False,
        "use_private_pid": False,
        "systemd_unit_name": None,
        "name": "",
        "owner": "default",
        "working_directory": None,
        "time_limit_seconds": None,
        "retry_of": None,
        "usage": None,
    }
    return TaskView(**(fields | changes))  # type: ignore[arg-type]


def ended(status: TaskState, seconds: float = 1.2, **changes: object) -> TaskView:
    return view(
        status,
        started_at="2026-01-01T00:00:00+00:00",
        completed_at=f"2026-01-01T00:00:{seconds:09.6f}+00:00",
        **changes,
    )
