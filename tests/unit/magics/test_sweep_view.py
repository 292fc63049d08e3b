"""What the table of a sweep says, from its start to its end, however it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hakuriver.sweep.cluster.options import ClusterOptions
from hakuriver.sweep.journal import Journal
from hakuriver.sweep.records import Ended, Output, Started, Stream
from hakuriver.sweep.sweep import Sweep
from jupyter_ext.magics.place import Line, Place
from jupyter_ext.magics.sweep_view import SweepView

if TYPE_CHECKING:
    from pathlib import Path

    from jupyter_ext.magics.render import Rendered


class _Line(Line):
    def __init__(self) -> None:
        super().__init__(None)
        self.all: list[Rendered] = []

    def show(self, rendered: Rendered) -> None:
        self.all.append(rendered)


class _Place(Place):
    def __init__(self) -> None:
        super().__init__()
        self.one = _Line()

    def line(self) -> Line:
        return self.one

    @property
    def is_kernel(self) -> bool:
        return True


class _Seen:
    """A sweep's view, and what it has shown last."""

    def __init__(self, sweep: Sweep) -> None:
        self._place = _Place()
        self.view = SweepView(sweep, self._place)

    def start(self, index: int) -> None:
        self.view.take(Started(index, 1))

    def write(self, index: int, text: str, stream: Stream = "stdout") -> None:
        self.view.take(Output(index, stream, text.encode()))

    def end(self, index: int, code: int = 0, tail: str = "", reason: str = "") -> None:
        self.view.take(Ended(index, code, 0.5, 0.0, tail=tail, reason=reason))

    def last(self) -> Rendered:
        return self._place.one.all[-1]

    def look(self) -> str:
        """Finish, and return the text."""
        self.view.finish()
        return self.last().text

    def row(self, number: int) -> str:
        return next(
            line for line in self.last().text.splitlines() if line.split()[0] == f"{number}"
        )


def _sweep(tmp_path: Path, *words: str) -> Sweep:
    return Sweep(["true", *words], journal=tmp_path / "journal.jsonl")


def test_once_it_is_over_nothing_is_running_or_awaited(tmp_path: Path) -> None:
    seen = _Seen(_sweep(tmp_path, "span:{1..4}"))
    seen.start(0)
    seen.end(0, tail="fine\n")
    seen.start(1)
    seen.write(1, "begun\n")
    head = seen.look().splitlines()[0]
    assert "1 of 4 · stopped" in head
    assert "running" not in seen.last().text
    assert " left" not in head
    assert "stopped" in seen.row(2)
    assert seen.row(2).endswith("begun")
    assert "not run" in seen.row(3)


def test_tasks_that_go_on_are_not_said_to_be_stopped(tmp_path: Path) -> None:
    seen = _Seen(_sweep(tmp_path, "span:{1..3}"))
    seen.start(0)
    seen.view.finish(left=True)
    assert "0 of 3 · stopped · 1 left running" in seen.last().text
    assert "left running" in seen.row(1)
    assert "not run" in seen.row(2)


def test_tasks_that_wait_on_the_cluster_are_not_said_not_to_run(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    sweep = Sweep(["true", "span:{1..5}"], journal=path, cluster=ClusterOptions(("n",)))
    with Journal.create(path, sweep.header) as journal:
        for index in range(4):
            journal.write({"q": index, "attempt": 1, "target": "n"})
        for index in range(3):
            journal.write({"i": index, "task_id": f"7{index}"})
        journal.add(Ended(0, 0, 0.5, 0.0))
    seen = _Seen(sweep)
    for index in (0, 1):
        seen.start(index)
    seen.end(0)
    assert "pending" in seen.row(3)
    seen.view.finish(left=True)
    assert "1 of 5 · stopped · 1 left running · 1 left waiting" in seen.last().text
    assert "completed" in seen.row(1)
    assert "left running" in seen.row(2)
    assert "left waiting" in seen.row(3)
    # Of the fourth nobody knows whether the host has taken it.
    assert "not run" in seen.row(4)
    assert "not run" in seen.row(5)


def test_after_too_many_failures_nothing_is_left_waiting(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    sweep = Sweep(["true", "span:{1..2}"], journal=path, cluster=ClusterOptions(("n",)))
    with Journal.create(path, sweep.header) as journal:
        journal.write({"q": 1, "attempt": 1, "target": "n"})
        journal.write({"i": 1, "task_id": "7"})
    seen = _Seen(sweep)
    assert "left waiting" not in seen.look()
    assert "not run" in seen.row(2)


def test_parameters_are_called_in_the_head_as_they_were_given(tmp_path: Path) -> None:
    seen = _Seen(_sweep(tmp_path, "--lr=span:{1..2}", "LR=span:{1..2}"))
    head = seen.look().splitlines()[1]
    assert head.split() == ["run", "lr", "LR", "state", "time", "last", "line"]


def test_what_has_ended_at_all_is_not_said_to_be_stopped(tmp_path: Path) -> None:
    seen = _Seen(_sweep(tmp_path, "span:{1..2}"))
    for index in range(2):
        seen.start(index)
        seen.end(index)
    assert "stopped" not in seen.look()


def test_a_sweep_that_goes_on_shows_what_earlier_runs_did(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Sweep(["sh", "-c", "test $0 != 2 && echo was $0", "span:{1..3}"], journal=path)
    first.run()
    seen = _Seen(Sweep.resume(journal=path))
    seen.start(1)
    text = seen.last().text
    assert "2 of 3 · 1 running" in text
    # The earlier run's two tell nothing of how long this one takes.
    assert " left" not in text
    assert "completed" in seen.row(1)
    assert seen.row(1).endswith("was 1")
    assert "running" in seen.row(2)


@pytest.mark.parametrize(
    ("code", "stderr", "reason", "told"),
    [
        (3, "", "", "exit code 3: half way"),
        (1, "Traceback\nValueError: no\n\n", "", "exit code 1: ValueError: no"),
        (-9, "", "", "ended by signal 9: half way"),
        (1, "", "timed out after 2.0 s", "timed out after 2.0 s, exit code 1: half way"),
    ],
)
def test_a_failure_says_why(tmp_path: Path, code: int, stderr: str, reason: str, told: str) -> None:
    seen = _Seen(_sweep(tmp_path, "span:{1..2}"))
    seen.start(0)
    seen.write(0, "half way\n")
    if stderr:
        seen.write(0, stderr, "stderr")
    seen.end(0, code, "half way\n", reason)
    seen.look()
    assert seen.row(1).endswith(told)
    assert seen.view.failure(0) == told
    assert seen.view.failure(1) is None


def test_a_last_line_has_no_colours_and_no_controls(tmp_path: Path) -> None:
    seen = _Seen(_sweep(tmp_path, "span:{1..2}"))
    line = "\x1b]0;title\x07\x1b[1;31mred\x1b[0m\tand \x07 <b>bold</b>\n"
    seen.start(0)
    seen.write(0, line)
    seen.look()
    assert seen.row(1).endswith("red and \\x07 <b>bold</b>")
    assert "&lt;b&gt;bold" in seen.last().html
    seen.end(0, tail=line)
    seen.look()
    assert seen.row(1).endswith("red and \\x07 <b>bold</b>")


def test_long_values_and_lines_are_cut_and_newlines_are_told(tmp_path: Path) -> None:
    seen = _Seen(_sweep(tmp_path, f"a=span:[{'x' * 500}end,two\nlines]"))
    seen.start(0)
    seen.end(0, tail="y" * 500)
    text = seen.look()
    assert "end" in seen.row(1)
    assert all(len(line) < 160 for line in text.splitlines())
    assert "two\\nlines" in seen.row(2)
    assert "two\\nlines" in seen.last().html
    assert "y" * 81 not in seen.last().html


def test_a_long_sweep_has_as_many_rows_from_start_to_end(tmp_path: Path) -> None:
    seen = _Seen(_sweep(tmp_path, "span:{1..80}"))
    heights: set[int] = set()
    seen.start(0)
    for index in range(80):
        if index + 1 < 80:
            seen.start(index + 1)
        seen.end(index, code=int(index % 5 == 0))
        heights.add(len(seen.look().splitlines()))
    assert heights == {32}
    assert "failed" in seen.row(1)
