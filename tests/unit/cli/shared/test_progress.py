from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from hakuriver.cli.shared import bottom
from hakuriver.cli.shared.progress import Progress, summary
from hakuriver.model.tasks import TaskState
from support.processes import wait_until
from unit.client.fakes import make_view

if TYPE_CHECKING:
    import pytest

VIEWS = [make_view("7", "running"), make_view("8", "pending"), make_view("9", "completed")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal; within a test, since pytest puts its own there at the start."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(bottom, "_SECONDS", 0.01)
    return terminal


def test_how_far_tasks_are() -> None:
    states = [view.status for view in VIEWS]
    assert summary(states) == "1 of 3 ended, 1 running, 1 waiting"
    assert summary([TaskState.FAILED, TaskState.COMPLETED]) == "2 of 2 ended (1 not completed)"


def test_the_line_is_below_what_is_printed_and_goes_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = use_terminal(monkeypatch)
    with Progress(VIEWS) as line:
        wait_until(lambda: "1 of 3 ended, 1 running" in terminal.getvalue())
        line.note(make_view("7", "failed"))
        with line.aside():
            terminal.write("a line of its own\n")
        wait_until(lambda: "2 of 3 ended (1 not completed), 1 waiting" in terminal.getvalue())
    assert "\r\x1b[Ka line of its own\n" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_one_task_has_no_such_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with Progress(VIEWS[:1]) as line, line.aside():
        terminal.write("out\n")
    assert terminal.getvalue() == "out\n"


def test_elsewhere_than_on_a_terminal_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(VIEWS) as line, line.aside():
        sys.stdout.write("out\n")
    assert capsys.readouterr() == ("out\n", "")
