"""From a task's last state to its result, or to the exception that tells what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.errors import TaskError, TaskFailed, TaskKilled, TaskLost, TaskOutOfMemory
from hakuriver.model.tasks import FINAL, TaskState
from hakuriver.model.views import TaskResult

if TYPE_CHECKING:
    from hakuriver.model.views import TaskView

_ERRORS: dict[TaskState, type[TaskError]] = {
    TaskState.FAILED: TaskFailed,
    TaskState.KILLED: TaskKilled,
    TaskState.KILLED_OOM: TaskOutOfMemory,
    TaskState.LOST: TaskLost,
}


def outcome(view: TaskView) -> TaskResult:
    """Return the result of a task that completed; raise how else it ended.

    Raises:
        TaskFailed: another exit than 0, or it could not start.
        TaskOutOfMemory: it went over its memory limit.
        TaskKilled: it was ended on request.
        TaskLost: its node fell silent; the node may still tell.
    """
    result = TaskResult.of(view)
    error = _ERRORS.get(view.status)
    if error is None:
        return result
    raise error(f"{describe(view)} {ending(view)}", result)


def is_final(view: TaskView) -> bool:
    """Tell whether nothing more is awaited of the task."""
    return view.status in FINAL


def describe(view: TaskView) -> str:
    """Return how people call the task: its id, and its target once that is known."""
    known = view.assigned_node is not None
    return f"task {view.task_id} on {view.target}" if known else f"task {view.task_id}"


def ending(view: TaskView) -> str:
    """Return how the task ended, as the words after its name: ``failed: exit code 4``."""
    why = cause(view)
    match view.status:
        case TaskState.KILLED:
            return "was killed"
        case TaskState.KILLED_OOM:
            return f"went over its memory limit{f': {view.reason}' if view.reason else ''}"
        case TaskState.LOST:
            return f"was lost{f': {view.reason}' if view.reason else ''}; the node may still tell"
        case _:
            return f"{view.status.value}: {why}" if why else view.status.value


def cause(view: TaskView) -> str:
    """Return exit code and reason of a task that failed; empty where there is neither."""
    parts: list[str] = []
    reason = view.reason or ""
    if view.exit_code is not None and view.status is TaskState.FAILED:
        code = view.exit_code
        said = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
        if said not in reason:
            parts.append(said)
    if reason:
        parts.append(reason)
    return ", ".join(parts)
