from __future__ import annotations

import pytest

from hakuriver.model.tasks import MAX_REASON, Exit, TaskState
from hakuriver.runner.exits import ExitRecord
from hakuriver.runner.launchers.base import Running
from hakuriver.runner.records import Entry, Launched
from hakuriver.runner.recovery import judge, orphaned, tellable
from support.runner_tools import launch

MESSAGE = launch(1, "true")
LAUNCHED = Launched(task_id=1, spec=MESSAGE.spec, placement=MESSAGE.placement, boot_id="now")
RUNNING = Running(id=1, pid=10, start=20, started_at=1.5)
RECORD = ExitRecord(exit_code=4, started_at=1.5, completed_at=2.0)
CUT_OFF = ExitRecord(exit_code=0, started_at=1.5, completed_at=2.0, sure=False)


@pytest.mark.parametrize(
    ("entry", "record", "boot", "state", "reason"),
    [
        (Entry(launch=LAUNCHED, running=RUNNING), RECORD, "now", "failed", "exit code 4"),
        (Entry(launch=LAUNCHED, running=RUNNING), RECORD, "then", "failed", "exit code 4"),
        (Entry(launch=LAUNCHED), RECORD, "now", "failed", "exit code 4"),
        (Entry(launch=LAUNCHED, running=RUNNING), CUT_OFF, "now", "completed", None),
        # It may have been the end of the machine that it handled so well.
        (Entry(launch=LAUNCHED, running=RUNNING), CUT_OFF, "then", "lost", "node rebooted"),
        (Entry(launch=LAUNCHED, running=RUNNING), None, "now", "lost", "exit record missing"),
        (Entry(launch=LAUNCHED, running=RUNNING), None, "then", "lost", "node rebooted"),
        (Entry(launch=LAUNCHED), None, "then", "lost", "node rebooted"),
        (Entry(launch=LAUNCHED), None, "now", "failed", "start interrupted"),
        (Entry(launch=LAUNCHED, kill=True), None, "now", "killed", "killed before it started"),
        (Entry(kill=True), None, "now", "killed", "killed before it started"),
    ],
)
def test_what_became_of_a_task(
    entry: Entry, record: ExitRecord | None, boot: str, state: str, reason: str | None
) -> None:
    end = judge(entry, record, boot_id=boot, now=9.0)
    assert (end.status, end.reason) == (TaskState(state), reason)


def test_a_task_whose_keeper_died() -> None:
    assert orphaned(RECORD, now=9.0).exit_code == 4
    end = orphaned(None, now=9.0)
    assert end.status is TaskState.LOST
    assert end.reason
    assert "keeper" in end.reason


def test_a_reason_is_short_enough_to_be_told() -> None:
    short = Exit(status=TaskState.FAILED, reason="r" * MAX_REASON, completed_at=1.0)
    assert tellable(short) is short
    long = Exit(status=TaskState.FAILED, reason="a" + "b" * 100_000 + "c", completed_at=1.0)
    reason = tellable(long).reason or ""
    assert len(reason) <= MAX_REASON
    assert (reason[0], reason[-1], "…" in reason) == ("a", "c", True)
    nothing = Exit(status=TaskState.COMPLETED, completed_at=1.0)
    assert tellable(nothing) is nothing
