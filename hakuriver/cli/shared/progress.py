"""One line at the bottom of a terminal that tells how far several tasks are, or anything else."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from hakuriver.model.quantities import format_duration
from hakuriver.model.tasks import FINAL, TaskState

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from hakuriver.model.views import TaskView

_CLEAR = "\r\x1b[K"
_SECONDS = 1.0


class BottomLine:
    """Keeps a line on stderr if it is `shown` and stderr is a terminal; subclasses say what of.

    The line is drawn at each change and, for the time in it, each second. May be used from
    several threads.
    """

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._shown:
            self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._shown:
            self._clock.join()
            self._put(_CLEAR)

    @contextmanager
    def aside(self) -> Generator[None]:
        """Let whole lines be printed meanwhile, above this one."""
        with self._lock:
            self._put(_CLEAR)
            yield
            self._put(self._cut_line())

    def line(self) -> str:
        """Return what the line says now."""
        raise NotImplementedError

    def _tick(self) -> None:
        while not self._ended.wait(_SECONDS):
            with self._lock:
                self._put(_CLEAR + self._cut_line())

    def _put(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(text)
            sys.stderr.flush()

    def _cut_line(self) -> str:
        # A line that wraps could not be cleared.
        return self.line()[: shutil.get_terminal_size().columns - 1]


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
