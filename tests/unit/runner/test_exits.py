from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.model.tasks import TaskState
from hakuriver.runner.exits import ExitFile, ExitRecord, decide, explain

if TYPE_CHECKING:
    from pathlib import Path


def record(code: int | None, **more: Any) -> ExitRecord:
    return ExitRecord(exit_code=code, started_at=1.0, completed_at=2.0, **more)


OVER = {"cause": "memory", "limit": 1 << 30, "peak_memory_bytes": int(1.02 * (1 << 30))}


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        (record(0), TaskState.COMPLETED, None),
        (record(4), TaskState.FAILED, "exit code 4"),
        (record(-11), TaskState.FAILED, "ended by signal 11 (SIGSEGV)"),
        (record(-40), TaskState.FAILED, "ended by signal 40"),
        (record(-9, peak_memory_bytes=5), TaskState.FAILED, "ended by signal 9 (SIGKILL)"),
        (record(127, reason="program not found: x"), TaskState.FAILED, "program not found: x"),
        (record(None, reason="no folder"), TaskState.FAILED, "no folder"),
        (record(0, cause="killed"), TaskState.KILLED, "killed on request"),
        (record(-15, cause="killed"), TaskState.KILLED, "killed on request"),
        (
            record(0, cause="timeout", limit=2.0),
            TaskState.FAILED,
            "timeout: ran longer than 2.0 s",
        ),
        (
            record(-9, **OVER),
            TaskState.KILLED_OOM,
            "memory limit exceeded: peak 1.02 of 1.00 GiB",
        ),
    ],
)
def test_what_a_record_means(given: ExitRecord, state: TaskState, words: str | None) -> None:
    end = decide(given)
    assert (end.status, end.reason) == (state, words)
    assert end.exit_code == given.exit_code
    assert end.completed_at == 2.0
    assert (end.usage and end.usage.peak_memory_bytes) == given.peak_memory_bytes


@pytest.mark.parametrize(
    ("peak", "limit", "figures"),
    [
        (2000, 1000, "2000.00 of 1000.00 B"),
        (105 << 20, 100 << 20, "105.00 of 100.00 MiB"),
        (3 << 30, 1536 << 20, "3.00 of 1.50 GiB"),
        (1 << 60, 1 << 59, "1048576.00 of 524288.00 TiB"),
    ],
)
def test_a_peak_is_told_in_the_unit_of_its_limit(peak: int, limit: int, figures: str) -> None:
    end = decide(record(-9, cause="memory", limit=limit, peak_memory_bytes=peak))
    assert end.reason == f"memory limit exceeded: peak {figures}"


def test_an_exit_without_a_code_has_words() -> None:
    assert explain(None) == "could not be started"


def test_records_are_read_and_dropped_by_generations(tmp_path: Path) -> None:
    exits = ExitFile(tmp_path / "exits.ndjson")
    assert exits.load() == {}
    exits.drop(set())
    line = '{"event":"finished","id":7,"record":{"exit_code":3,"started_at":1.5,"completed_at":2}}'
    exits.path.write_text(f"\n{line}\n\n{line[:20]}\n{line.replace('7', '8')}\n\xff\n" + line[:-1])
    record = ExitRecord(exit_code=3, started_at=1.5, completed_at=2.0)
    assert exits.load() == {7: record, 8: record}
    assert exits.droppable() == set()
    exits.drop(set())
    assert exits.droppable() == {7, 8}
    exits.path.write_text(line.replace("7", "9"))
    assert (exits.read(7), exits.read(9), exits.read(10)) == (record, record, None)
    # As long as one of them must be kept, all are.
    exits.drop({7})
    assert exits.read(8) == record
    exits.drop({7, 8, 9})
    assert exits.load() == {9: record}
