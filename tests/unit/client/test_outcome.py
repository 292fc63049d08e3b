from __future__ import annotations

import pytest

from hakuriver.client.outcome import cause, describe, ending, is_final, outcome
from hakuriver.errors import TaskError, TaskFailed, TaskKilled, TaskLost, TaskOutOfMemory
from hakuriver.model.tasks import FINAL, TaskState
from unit.client.fakes import make_view


def test_a_completed_task_has_a_result() -> None:
    view = make_view("7", "completed", exit_code=0, started_at="2026-01-01T00:00:00+00:00")
    assert outcome(view).exit_code == 0
    assert outcome(view).target == "node1"


@pytest.mark.parametrize(
    ("status", "changes", "error", "message"),
    [
        ("failed", {"exit_code": 4}, TaskFailed, "task 7 on node1 failed: exit code 4"),
        (
            "failed",
            {"exit_code": 4, "reason": "exit code 4"},
            TaskFailed,
            "task 7 on node1 failed: exit code 4",
        ),
        ("failed", {"exit_code": -11}, TaskFailed, "task 7 on node1 failed: ended by signal 11"),
        (
            "failed",
            {"exit_code": 127, "reason": "there is no program 'x'"},
            TaskFailed,
            "task 7 on node1 failed: exit code 127, there is no program 'x'",
        ),
        ("failed", {"reason": "start interrupted"}, TaskFailed, ".* failed: start interrupted"),
        ("failed", {}, TaskFailed, "task 7 on node1 failed"),
        ("killed", {"exit_code": -15}, TaskKilled, "task 7 on node1 was killed"),
        (
            "killed_oom",
            {"reason": "peak 1.02 of 1.00 GiB"},
            TaskOutOfMemory,
            "task 7 on node1 went over its memory limit: peak 1.02 of 1.00 GiB",
        ),
        (
            "lost",
            {"reason": "the node fell silent"},
            TaskLost,
            "task 7 on node1 was lost: the node fell silent; the node may still tell",
        ),
    ],
)
def test_every_other_end_is_raised_in_words(
    status: str, changes: dict[str, object], error: type[TaskError], message: str
) -> None:
    view = make_view("7", status, **changes)
    with pytest.raises(error, match=f"^{message}$") as caught:
        outcome(view)
    assert type(caught.value) is error
    assert caught.value.result.status is TaskState(status)


def test_a_task_without_a_node_is_called_by_its_id() -> None:
    assert describe(make_view("7", assigned_node=None)) == "task 7"
    assert describe(make_view("7", target_numa_node_id=1)) == "task 7 on node1:1"


def test_final_states_are_the_models_own() -> None:
    assert {state for state in TaskState if is_final(make_view(status=state))} == FINAL


def test_there_is_no_cause_for_what_went_well() -> None:
    assert cause(make_view("7", "completed", exit_code=0)) == ""
    assert ending(make_view("7", "completed", exit_code=0)) == "completed"
