"""How tasks look in a notebook: plain text, and a small table of HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from hakuriver.client.outcome import cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.model.views import TaskView

_ROWS = 50
_WORDS = 60


def mimebundle(plain: str, views: Sequence[TaskView]) -> dict[str, str]:
    """Return `plain`, and the tasks as a table."""
    return {"text/plain": plain, "text/html": table(views)}


def table(views: Sequence[TaskView]) -> str:
    """Return tasks as a table of HTML with everything escaped; at most 50 rows."""
    head = "".join(f"<th>{title}</th>" for title in ("task", "target", "state", "", "command"))
    rows = "".join(_row(view) for view in views[:_ROWS])
    more = f"<p>and {len(views) - _ROWS} more</p>" if len(views) > _ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def command_line(view: TaskView) -> str:
    """Return what the task runs, cut to a length that fits a table."""
    words = " ".join([view.command or "(script)", *view.arguments])
    return words if len(words) <= _WORDS else words[: _WORDS - 1] + "…"


def _row(view: TaskView) -> str:
    cells = (view.task_id, view.target, view.status.value, cause(view), command_line(view))
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
