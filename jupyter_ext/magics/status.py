"""The status line of a cell: one display that is updated as the tasks go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, cast

from IPython.display import display

from hakuriver.client.futures import Batch, Task
from hakuriver.client.outcome import outcome
from hakuriver.errors import TaskError
from hakuriver.model.tasks import FINAL, TaskState
from jupyter_ext.magics.render import note_line, result_words, status_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hakuriver.model.views import FailedTarget, TaskView
    from jupyter_ext.magics.render import Rendered

# Seconds between two updates; a batch of a thousand tasks changes far more often.
_PACE = 0.2


class Status:
    """Shows how the tasks of one cell stand, in the place where `begin` was called."""

    def __init__(self) -> None:
        self._handle: _Handle | None = None
        self._ids: list[str] = []
        self._views: dict[str, TaskView] = {}
        self._refused: Sequence[FailedTarget] = ()
        self._note = ""
        self._shown = ""
        self._changed = False
        self._next = 0.0

    def begin(self, future: Task | Batch) -> None:
        """Show that there is a submission; a second call changes nothing."""
        if self._ids:
            return
        if isinstance(future, Batch):
            self._ids = [task.task_id for task in future]
            self._refused = future.failed_targets
            self._update(note_line(f"batch {future.batch_id} · {len(future)} tasks · submitted"))
        else:
            self._ids = [future.task_id]
            self._update(note_line(f"task {future.task_id} · submitted"))

    def change(self, view: TaskView) -> None:
        """Take how one of the tasks stands now."""
        self._views[view.task_id] = view
        self._changed = True

    def note(self, text: str) -> None:
        """Add `text` to the line from now on."""
        self._note = text
        self._changed = True

    def wait(self) -> float | None:
        """Return the seconds until `show` has something to do; None if nothing changed."""
        if not self._changed or self._all_ended():
            return None
        return max(0.0, self._next - time.monotonic())

    def show(self) -> None:
        """Update the line if something changed and the last update is long enough ago.

        That all have ended is for `end` to tell, below the last of the output.
        """
        if self._changed and not self._all_ended() and time.monotonic() >= self._next:
            self._show()

    def _all_ended(self) -> bool:
        return len(self._views) == len(self._ids) and all(
            view.status in FINAL for view in self._views.values()
        )

    def _show(self) -> None:
        self._changed = False
        views = [self._views[one] for one in self._ids if one in self._views]
        if views:
            self._update(status_line(views, refused=self._refused, note=self._note))

    def end(self, *, note: str = "") -> None:
        """Show the last word at once."""
        self._note = note or self._note
        self._show()

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
        left = [
            one
            for one in self._ids
            if one not in self._views or self._views[one].status not in FINAL
        ]
        if left:
            return (
                f"the kill was asked for, but {len(left)} of {len(self._ids)} tasks have not "
                f"ended yet; see %hakuriver status {left[0]}"
            )
        killed = sum(view.status is TaskState.KILLED for view in self._views.values())
        return f"{killed} of {len(self._ids)} tasks were killed, the others had ended before"

    def _update(self, rendered: Rendered) -> None:
        self._next = time.monotonic() + _PACE
        if rendered.html == self._shown:
            return
        self._shown = rendered.html
        if self._handle is None:
            self._handle = _display(rendered)
        else:
            self._handle.update(rendered)


class _Handle(Protocol):
    """The part of IPython's display handle that is used, with types."""

    def update(self, obj: object) -> None: ...


def _display(rendered: Rendered) -> _Handle:
    """Show `rendered` here, and return what updates it in place."""
    return cast("_Handle", cast("Callable[..., object]", display)(rendered, display_id=True))
