from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.model.tasks import TaskState
from hakuriver.runner.exits import decide
from hakuriver.runner.launchers.systemd.records import Told, Word, exit_code, parse, to_record

TOLD = Told(
    result="success",
    code=0,
    cpu_seconds=1.5,
    peak_memory_bytes=4096,
    time_limit=None,
    memory_limit=None,
    system="running",
)


def told(**changes: Any) -> Told:
    return Told(**{name: getattr(TOLD, name) for name in TOLD.__struct_fields__} | changes)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("success exited 0 1500000 4096 - - running\n", TOLD),
        ("exit-code exited 3 1500000 4096 - - degraded\n", told(
            result="exit-code", code=3, system="degraded"
        )),
        ("signal dumped SEGV - - 2.5 100 -\n", told(
            result="signal", code=-11, cpu_seconds=None, peak_memory_bytes=None,
            time_limit=2.5, memory_limit=100, system="-",
        )),
        ("oom-kill killed KILL 1500000 4096 - 4096 running\n", told(
            result="oom-kill", code=-9, memory_limit=4096
        )),
        ("resources - - - - - - running\n", told(
            result="resources", code=None, cpu_seconds=None, peak_memory_bytes=None
        )),
        ("", None),
        ("success exited 0 1500000 4096 - -", None),
        ("success exited 0 1500000 4096 - - running", None),
        ("success exited 0\n", None),
    ],
)  # fmt: skip
def test_a_line_is_read_whole_or_not_at_all(line: str, expected: Told | None) -> None:
    assert parse(line) == expected


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("exited", "0", 0),
        ("exited", "255", 255),
        ("exited", "x", None),
        ("killed", "TERM", -15),
        ("killed", "9", -9),
        ("dumped", "ABRT", -6),
        ("killed", "RTMIN+3", -37),
        ("killed", "NOSUCH", None),
        ("-", "-", None),
    ],
)
def test_codes_are_the_kernels(code: str, status: str, expected: int | None) -> None:
    assert exit_code(code, status) == expected


def judged(line: Told, *, word: Word | None = None, killed: bool = False, **times: Any) -> Any:
    moments: dict[str, Any] = {"started_at": 10.0, "completed_at": 20.0, **times}
    return decide(to_record(line, word=word, killed=killed, **moments))


@pytest.mark.parametrize(
    ("line", "killed", "state", "reason"),
    [
        (told(), False, TaskState.COMPLETED, None),
        (told(code=4, result="exit-code"), False, TaskState.FAILED, "exit code 4"),
        # A task that handles SIGTERM looks completed when the machine goes down.
        (told(system="stopping"), False, TaskState.LOST, "node rebooted"),
        (told(system="stopping"), True, TaskState.LOST, "node rebooted"),
        # A kill whose grace ran out looks like a time limit.
        (told(result="timeout", code=-9), True, TaskState.KILLED, "killed on request"),
        (told(result="oom-kill", code=-9), True, TaskState.KILLED, "killed on request"),
        (told(), True, TaskState.KILLED, "killed on request"),
        (
            told(result="oom-kill", code=-9, memory_limit=8192),
            False,
            TaskState.KILLED_OOM,
            "memory limit exceeded: peak 4.00 of 8.00 KiB",
        ),
        (
            told(result="oom-kill", code=-9),
            False,
            TaskState.KILLED_OOM,
            "ended by the kernel: the machine had no memory left",
        ),
        (
            told(result="timeout", code=0, time_limit=10.0),
            False,
            TaskState.FAILED,
            "timeout: ran longer than 10.0 s",
        ),
        # What it left behind had to be killed: that is no time limit.
        (told(result="timeout", code=0, time_limit=100.0), False, TaskState.COMPLETED, None),
        (told(result="timeout", code=0), False, TaskState.COMPLETED, None),
        (
            told(result="resources", code=None),
            False,
            TaskState.FAILED,
            "systemd could not run it (resources)",
        ),
    ],
)
def test_the_order_of_causes(
    line: Told,
    killed: bool,  # noqa: FBT001
    state: TaskState,
    reason: str | None,
) -> None:
    end = judged(line, killed=killed)
    assert (end.status, end.reason) == (state, reason)


def test_what_was_not_started_says_why_and_has_no_start() -> None:
    fault = Word(code=127, fault="program not found: x", exit_code=127)
    record = to_record(told(code=127), word=fault, started_at=1.0, completed_at=2.0, killed=False)
    assert (record.exit_code, record.reason, record.started_at) == (127, fault.fault, None)
    unnamed = Word(code=125, fault="cannot enter the working directory /x")
    end = judged(told(code=125), word=unnamed)
    assert (end.exit_code, end.reason) == (None, unnamed.fault)


def test_a_unit_that_did_not_come_to_its_program_has_no_code_of_it() -> None:
    end = judged(told(code=127, result="exit-code"), started_at=None, unread=True)
    assert (end.exit_code, end.reason) == (None, "could not be started (exit code 127)")


@pytest.mark.parametrize(("ran", "state"), [(9.8, "failed"), (9.0, "completed")])
def test_systemds_own_clock_tells_a_time_limit_from_stubborn_remains(
    ran: float, state: str
) -> None:
    line = told(result="timeout", code=0, time_limit=10.0)
    assert judged(line, started_at=0.0, completed_at=30.0, ran=ran).status == state


def test_the_last_word_may_be_missing_when_nobody_writes_it_any_more() -> None:
    line = "success exited 0 1500000 4096 - - "
    assert parse(line) is None
    assert parse(line, settled=True) == told(system="-")
    assert parse("success exited 0 15", settled=True) is None


def test_a_peak_that_nobody_could_read_is_the_limit() -> None:
    line = told(result="oom-kill", code=-9, memory_limit=8192, peak_memory_bytes=None)
    assert judged(line).reason == "memory limit exceeded: peak 8.00 of 8.00 KiB"


def test_a_word_counts_with_its_own_code_alone() -> None:
    lie = Word(code=125, fault="a lie")
    assert judged(told(code=0), word=lie).status is TaskState.COMPLETED
    assert judged(told(code=125, result="exit-code"), word=None).reason == "exit code 125"


def test_a_signal_in_process_ids_of_its_own_is_told_by_word() -> None:
    word = Word(code=139, signal=11, started_at=12.0)
    record = to_record(told(code=139), word=word, started_at=None, completed_at=20.0, killed=False)
    assert (record.exit_code, record.started_at, record.reason) == (-11, 12.0, None)


def test_a_task_whose_order_was_taken_back_was_interrupted() -> None:
    end = judged(told(code=125, result="exit-code"), started_at=None)
    assert (end.status, end.exit_code, end.reason) == (TaskState.FAILED, None, "start interrupted")


@given(st.floats(), st.floats(min_value=0, max_value=1e10))
def test_no_time_is_believed_that_cannot_be(started_at: float, completed_at: float) -> None:
    record = to_record(
        told(), word=None, started_at=started_at, completed_at=completed_at, killed=False
    )
    assert record.started_at is None or 0 <= record.started_at <= completed_at
