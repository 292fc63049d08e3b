from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hakuriver.errors import Conflict
from hakuriver.sweep.journal import (
    Journal,
    JournalError,
    Marks,
    new_id,
    read_ends,
    read_header,
    read_marks,
)
from hakuriver.sweep.records import Ended
from support import journals

if TYPE_CHECKING:
    from pathlib import Path

HEADER = replace(journals.HEADER, name="n", words=["prog", "\udcff", "span:{1..9}"], total=9)


def ended(index: int, code: int | None = 0, **more: object) -> Ended:
    return Ended(index, code, 0.5, 12.25, **more)  # type: ignore[arg-type]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "j.jsonl"
    events = [
        ended(3, -9, reason="timed out", attempt=2),
        ended(0, tail="a\nlast \udcff", value={"x": [1]}),
        ended(3, 0, task_id="7", target="node1:0"),
        ended(1, None),
    ]
    with Journal.create(path, HEADER) as journal:
        for event in events:
            journal.add(event)
    assert read_header(path) == HEADER
    assert list(read_ends(path)) == [events[1], events[3], events[2]]
    marks = read_marks(path)
    expected = [Marks.OK, Marks.FAILED, Marks.NONE, Marks.OK, Marks.NONE]
    assert [marks[index] for index in range(5)] == expected
    assert (marks.count(Marks.OK), marks.count(Marks.FAILED)) == (2, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(cut=st.integers(0, 400))
def test_whatever_a_kill_leaves_of_the_last_lines_the_rest_holds(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    path.unlink(missing_ok=True)
    with Journal.create(path, HEADER) as journal:
        head = path.stat().st_size
        for index in range(6):
            journal.add(ended(index))
    content = path.read_bytes()
    path.write_bytes(content[: max(head, len(content) - cut)])
    whole = path.read_bytes()[head:].count(b"\n")
    assert [end.index for end in read_ends(path)] == list(range(whole))
    with Journal.open(path) as journal:
        journal.add(ended(8))
    assert [end.index for end in read_ends(path)] == [*range(whole), 8]


def test_a_damaged_line_costs_its_combination_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal.create(path, HEADER) as journal:
        journal.add(ended(0))
    with path.open("ab") as file:
        file.write(b"\0\0\0\xff\n17\n")
    with Journal.open(path) as journal:
        journal.add(ended(2))
    assert [end.index for end in read_ends(path)] == [0, 2]


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal.create(path, HEADER), pytest.raises(Conflict, match="runs already"):
        Journal.open(path)
    with pytest.raises(JournalError, match="exists"):
        Journal.create(path, HEADER)
    Journal.open(path).close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_is_removed_while_it_is_opened_is_not_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replaced: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    path = tmp_path / "j.jsonl"
    Journal.create(path, HEADER).close()
    content, lock = path.read_bytes(), fcntl.flock
    opened: list[int] = []

    def late(descriptor: int, operation: int) -> None:
        opened.append(descriptor)
        path.unlink()
        if replaced:
            path.write_bytes(content)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(JournalError, match=r"j\.jsonl was removed in this moment"):
        Journal.open(path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[]\n", b'{"hakurun": 1}\n', b"\xff"])
def test_other_files_are_no_journals(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="no journal"):
        read_header(path)
    with pytest.raises(JournalError, match="cannot be read"):
        read_header(tmp_path / "missing")


def test_ids_differ() -> None:
    assert len({new_id() for _ in range(100)}) == 100
