"""How far several tasks are, in one line at the bottom of a terminal."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from hakuriver.cli.shared.bottom import BottomLine
from hakuriver.model.quantities import format_duration
from hakuriver.model.tasks import FINAL, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hakuriver.model.views import TaskView


class Progress(BottomLine):
    """Tells how far tasks are; shows nothing for one task, or where stderr is no terminal."""

    def __init__(self, views: Iterable[TaskView]) -> None:
        self._states = {view.task_id: view.status for view in views}
        super().__init__(shown=len(self._states) > 1)

    def note(self, view: TaskView) -> None:
        """Take note of a task's state."""
        self._states[view.task_id] = view.status

    def line(self) -> str:
        """Return how many tasks are how far, and for how long this has been watched."""
        seconds = time.monotonic() - self._began
        return f"{summary(self._states.values())}; {format_duration(seconds)}"


def summary(states: Iterable[TaskState]) -> str:
    """Return how many tasks are how far: ``3 of 9 ended (1 not completed), 4 running``."""
    counts = Counter(states)
    ended = sum(count for state, count in counts.items() if state in FINAL)
    bad = ended - counts[TaskState.COMPLETED]
    waiting = counts[TaskState.PENDING] + counts[TaskState.ASSIGNING]
    parts = [f"{ended} of {counts.total()} ended" + (f" ({bad} not completed)" if bad else "")]
    if counts[TaskState.RUNNING]:
        parts.append(f"{counts[TaskState.RUNNING]} running")
    if waiting:
        parts.append(f"{waiting} waiting")
    return ", ".join(parts)
