"""How tasks and tables look in a notebook: each as plain text and as HTML.

Everything that comes from elsewhere is escaped. Colours are JupyterLab's own, with fallbacks for
front ends that lack its variables.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from hakuriver.cli.shared.tables import Table, printable
from hakuriver.client.outcome import cause
from hakuriver.model.nodes import NodeStatus
from hakuriver.model.quantities import format_duration
from hakuriver.model.tasks import FINAL, TaskState
from hakuriver.model.views import TaskResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.model.views import FailedTarget, TaskView

_FONT = "font-family: var(--jp-code-font-family, monospace); font-size: 0.9em"
_GREY = "var(--jp-ui-font-color2, #757575)"
#: How far from the left edge what stands under a cell begins.
MARGIN = "var(--jp-code-padding, 5px)"
_LINE = f"{_FONT}; color: {_GREY}; padding-left: {MARGIN}"
_GREEN = "var(--jp-success-color1, #2e7d32)"
_RED = "var(--jp-error-color1, #c62828)"
_BLUE = "var(--jp-brand-color1, #1565c0)"

#: A mark and a colour for each state.
LOOK = {
    TaskState.PENDING: ("○", _GREY),
    TaskState.ASSIGNING: ("○", _GREY),
    TaskState.RUNNING: ("●", _BLUE),
    TaskState.COMPLETED: ("✓", _GREEN),
    TaskState.FAILED: ("✗", _RED),
    TaskState.KILLED: ("■", _RED),
    TaskState.KILLED_OOM: ("✗", _RED),
    TaskState.LOST: ("?", _RED),
}

_STATE_COLOURS: dict[str, str] = {
    **{state.value: colour for state, (_, colour) in LOOK.items()},
    NodeStatus.ONLINE.value: _GREEN,
    NodeStatus.OFFLINE.value: _RED,
}

# Results of a batch that are told one by one.
_TOLD = 12

# Characters of a cell under a head; a command may have a hundred thousand.
_WIDEST = 80
# Rows keep their height, so that a table that is replaced moves nothing below it.
_ONE_LINE = "white-space: pre"
_WRAPPED = "white-space: pre-wrap; overflow-wrap: anywhere"


@dataclass(frozen=True, slots=True)
class Rendered:
    """Something to display: `text` for terminals and `print`, `html` for notebooks."""

    text: str
    html: str

    def __repr__(self) -> str:
        return self.text

    def bundle(self) -> dict[str, str]:
        """Return both by their MIME types."""
        return {"text/plain": self.text, "text/html": self.html}

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self.bundle()


def status_line(
    views: Sequence[TaskView],
    *,
    refused: Sequence[FailedTarget] = (),
    note: str = "",
) -> Rendered:
    """Return the one line that says how the tasks of a cell stand, `note` at its end."""
    if len(views) == 1 and not refused:
        head, parts = [f"task {views[0].task_id}"], _one(views[0])
    else:
        # Tasks of several batches are waited for together.
        batches = {view.batch_id for view in views}
        head = [f"batch {batch}" for batch in batches] if len(batches) == 1 else []
        parts = _many(views, refused)
    state = worst([view.status for view in views])
    mark, colour = LOOK[state]
    if refused and state is TaskState.COMPLETED:
        mark, colour = LOOK[TaskState.FAILED]
    text = " · ".join(part for part in (*head, *parts, note) if part)
    return Rendered(
        f"{mark} {text}",
        f'<div style="{_LINE}"><span style="color: {colour}">{mark}</span> {escape(text)}</div>',
    )


def note_line(text: str) -> Rendered:
    """Return `text` as a status line of its own, before there is any task."""
    return Rendered(text, f'<div style="{_LINE}">{escape(text)}</div>')


def worst(states: Sequence[TaskState]) -> TaskState:
    """Return the state that speaks for all: what goes on, else what went wrong, else success."""
    order = (
        TaskState.RUNNING,
        TaskState.ASSIGNING,
        TaskState.PENDING,
        TaskState.LOST,
        TaskState.FAILED,
        TaskState.KILLED_OOM,
        TaskState.KILLED,
    )
    return next((state for state in order if state in states), TaskState.COMPLETED)


def _one(view: TaskView) -> list[str]:
    """Return where a task runs and how it stands."""
    where = [] if view.target == "-" else [view.target]
    if view.status is TaskState.ASSIGNING:
        return [*where, "starting"]
    if view.status is TaskState.PENDING:
        return [*where, f"waiting: {view.reason}" if view.reason else "waiting"]
    if view.status not in FINAL:
        return [*where, str(view.status)]
    return [*where, result_words(view)]


def result_words(view: TaskView) -> str:
    """Return how a task ended: ``completed in 1.2 s``, ``failed after 3.0 s: exit code 2``."""
    seconds = TaskResult.of(view).seconds
    word = {TaskState.KILLED_OOM: "out of memory"}.get(view.status, str(view.status))
    if view.status is TaskState.COMPLETED:
        return word if seconds is None else f"{word} in {format_duration(seconds)}"
    if seconds is not None:
        word += f" after {format_duration(seconds)}"
    reason = cause(view)
    return f"{word}: {reason}" if reason else word


def _many(views: Sequence[TaskView], refused: Sequence[FailedTarget]) -> list[str]:
    """Return the counts of a batch and, once all have ended, each result, failures first."""
    counts = Counter(view.status for view in views)
    summary = ", ".join(f"{counts[state]} {state}" for state in TaskState if counts[state])
    plural = "" if len(views) == 1 else "s"
    parts = [f"{len(views)} task{plural}: {summary}"]
    if refused:
        parts[0] += f", {len(refused)} refused"
    if all(view.status in FINAL for view in views):
        ordered = sorted(views, key=lambda view: view.status is TaskState.COMPLETED)
        told = [f"{view.target} {LOOK[view.status][0]} {_short(view)}" for view in ordered]
        parts += told[:_TOLD]
        if len(told) > _TOLD:
            parts.append(f"and {len(told) - _TOLD} more")
    return parts + [f"{one.target} refused: {one.reason}" for one in refused[:_TOLD]]


def _short(view: TaskView) -> str:
    """Return a result in the fewest words."""
    seconds = TaskResult.of(view).seconds
    if view.status is TaskState.COMPLETED and seconds is not None:
        return format_duration(seconds)
    if view.status is TaskState.FAILED and view.exit_code is not None:
        return f"exit code {view.exit_code}"
    return result_words(view)


def table(content: Table) -> Rendered:
    """Return a table as notebooks show one; the text is the one that commands print.

    Under a head each row is one line and long cells are cut; a list of names and values wraps.
    """
    if content.head:
        rows = tuple(tuple(shorten(cell, _WIDEST) for cell in row) for row in content.rows)
        content = Table(content.head, rows, content.right)
    lines = _ONE_LINE if content.head else _WRAPPED
    head = _row("th", content.head, content.right, lines)
    body = "".join(_row("td", row, content.right, lines) for row in content.rows)
    return Rendered(
        content.render(),
        f'<table style="{_FONT}"><thead>{head}</thead><tbody>{body}</tbody></table>',
    )


def shorten(text: str, width: int) -> str:
    """Return `text`, without its middle if it has more than `width` characters."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _row(tag: str, cells: Sequence[str], right: frozenset[int], lines: str) -> str:
    """Return a row of HTML; a word that is a state gets its colour."""
    parts: list[str] = []
    for index, cell in enumerate(cells):
        style = f"text-align: {'right' if index in right else 'left'}; {lines}"
        if cell in _STATE_COLOURS:
            style += f"; color: {_STATE_COLOURS[cell]}"
        parts.append(f'<{tag} style="{style}">{escape(printable(cell))}</{tag}>')
    return f"<tr>{''.join(parts)}</tr>" if parts else ""
