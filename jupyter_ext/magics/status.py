"""The status line of a cell: one display that is updated as the tasks go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hakuriver.client.futures import Batch, Task
from hakuriver.client.outcome import outcome
from hakuriver.errors import TaskError
from hakuriver.model.quantities import format_duration
from hakuriver.model.tasks import FINAL, TaskState
from hakuriver.model.views import TaskResult
from jupyter_ext.magics.feed import tasks_of
from jupyter_ext.magics.render import note_line, result_words, status_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.model.views import FailedTarget, TaskView
    from jupyter_ext.magics.place import Line

# Seconds between two updates; a batch of a thousand tasks changes far more often.
_PACE = 0.2
# The same while the host is silent, which is told ever more rarely: a terminal prints each line.
_SILENT_PACE = 1.0
_MINUTE = 60


class Status:
    """Shows on one line how the tasks of a cell stand; nothing before `begin`."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._head = ""
        self._ids: list[str] = []
        self._views: dict[str, TaskView] = {}
        self._refused: Sequence[FailedTarget] = ()
        self._note = ""
        self._silent: str | None = None
        self._silent_since = 0.0
        self._changed = False
        self._next = 0.0

    def begin(self, future: Task | Sequence[Task], word: str) -> None:
        """Show that the tasks are known, as `word` says; a second call changes nothing."""
        if self._ids:
            return
        self._ids = [task.task_id for task in tasks_of(future)]
        if isinstance(future, Task):
            self._head = f"task {future.task_id} · {word}"
        elif isinstance(future, Batch):
            self._refused = future.failed_targets
            self._head = f"batch {future.batch_id} · {len(future)} tasks · {word}"
        else:
            self._head = f"{len(future)} tasks · {word}"
        self._tell()

    def change(self, view: TaskView) -> None:
        """Take how one of the tasks stands now."""
        self._views[view.task_id] = view
        self._changed = True

    def note(self, text: str) -> None:
        """Add `text` to the line from now on."""
        self._note = text
        self._changed = True

    def silence(self, address: str | None) -> None:
        """Take which host has stopped to answer; None if it answers."""
        if address == self._silent:
            return
        self._silent, self._changed = address, True
        self._silent_since = time.monotonic()
        # A host that is back within a moment is not worth a word.
        self._next = 0.0 if address is None else self._silent_since + _SILENT_PACE

    def wait(self) -> float | None:
        """Return the seconds until `show` has something to do; None if nothing changed."""
        if self._all_ended() or not (self._changed or self._silent):
            return None
        return max(0.0, self._next - time.monotonic())

    def show(self) -> None:
        """Update the line if something changed and the last update is long enough ago.

        That all have ended is for `end` to tell, below the last of the output.
        """
        if self.wait() == 0:
            self._tell()

    def end(self, *, note: str = "") -> None:
        """Show the last word at once."""
        self._note = note or self._note
        self._silent = None
        self._tell()

    def results(self) -> list[TaskResult]:
        """Return how the tasks ended, in their order; those that have not are left out."""
        views = [self._views[one] for one in self._ids if one in self._views]
        return [TaskResult.of(view) for view in views if view.status in FINAL]

    def failure(self) -> TaskError | None:
        """Return how the first task that did not complete ended, None if there is none."""
        for one in self._ids:
            try:
                outcome(self._views[one])
            except TaskError as error:
                return error
        return None

    def fate(self, *, gone: bool) -> str:
        """Return what became of the tasks after a kill, for the cell's error."""
        if gone and len(self._ids) == 1 and self._ids[0] in self._views:
            return f"task {self._ids[0]}: {result_words(self._views[self._ids[0]])}"
        left = self.unfinished()
        if left:
            return (
                f"the kill was asked for, but {len(left)} of {len(self._ids)} tasks have not "
                f"ended yet; see %hakuriver status {left[0]}"
            )
        killed = sum(view.status is TaskState.KILLED for view in self._views.values())
        return f"{killed} of {len(self._ids)} tasks were killed, the others had ended before"

    def unfinished(self) -> list[str]:
        """Return the ids of the tasks that have not ended, as far as is known here."""
        return [
            one
            for one in self._ids
            if one not in self._views or self._views[one].status not in FINAL
        ]

    def _all_ended(self) -> bool:
        return len(self._views) == len(self._ids) and not self.unfinished()

    def _tell(self) -> None:
        self._changed = False
        views = [self._views[one] for one in self._ids if one in self._views]
        note = " · ".join(words for words in (self._note, self._silence_words()) if words)
        if views:
            self._line.show(status_line(views, refused=self._refused, note=note))
        elif self._head:
            self._line.show(note_line(f"{self._head} · {note}" if note else self._head))
        now = time.monotonic()
        silent_pace = max(_SILENT_PACE, (now - self._silent_since) / 10)
        self._next = now + (silent_pace if self._silent else _PACE)

    def _silence_words(self) -> str:
        silent = time.monotonic() - self._silent_since
        if self._silent is None or silent < _SILENT_PACE:
            return ""
        time_words = f"{silent:.0f} s" if silent < _MINUTE else format_duration(silent)
        goes = "the task goes on" if len(self._ids) == 1 else "the tasks go on"
        return (
            f"the host at {self._silent} has not answered for {time_words}; {goes}, waiting for it"
        )
