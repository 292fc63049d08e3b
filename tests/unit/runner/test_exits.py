from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hakuriver.model.tasks import TaskState
from hakuriver.runner.exits import ExitFolder, ExitRecord, decide, explain

if TYPE_CHECKING:
    from pathlib import Path


def record(code: int | None, *, killed: bool = False, reason: str | None = None) -> ExitRecord:
    return ExitRecord(
        exit_code=code, started_at=1.0, completed_at=2.0, killed=killed, reason=reason
    )


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        (record(0), TaskState.COMPLETED, None),
        (record(4), TaskState.FAILED, "exit code 4"),
        (record(-11), TaskState.FAILED, "ended by signal 11 (SIGSEGV)"),
        (record(-40), TaskState.FAILED, "ended by signal 40"),
        (record(127, reason="program not found: x"), TaskState.FAILED, "program not found: x"),
        (record(None, reason="no folder"), TaskState.FAILED, "no folder"),
        (record(0, killed=True), TaskState.KILLED, "killed on request"),
        (record(-15, killed=True), TaskState.KILLED, "killed on request"),
    ],
)
def test_what_a_record_means(given: ExitRecord, state: TaskState, words: str | None) -> None:
    end = decide(given)
    assert (end.status, end.reason) == (state, words)
    assert end.exit_code == given.exit_code
    assert end.completed_at == 2.0


def test_an_exit_without_a_code_has_words() -> None:
    assert explain(None) == "could not be started"


def test_records_are_read_listed_and_removed(tmp_path: Path) -> None:
    folder = ExitFolder(tmp_path / "exits")
    assert folder.ids() == set()
    folder.path.mkdir()
    text = '{"exit_code": 3, "started_at": 1.5, "completed_at": 2.5, "killed": false}'
    (folder.path / "7.json").write_text(text)
    (folder.path / "8.json").write_text(text[:20])
    (folder.path / "9.json.tmp").write_text(text)
    assert folder.ids() == {7, 8}
    assert folder.read(7) == ExitRecord(exit_code=3, started_at=1.5, completed_at=2.5)
    assert folder.read(8) is None
    assert folder.read(9) is None
    folder.remove(7)
    folder.remove(7)
    assert folder.ids() == {8}
