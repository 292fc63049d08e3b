"""How a sweep stands, in a notebook: a bar and a table, replaced in place as it goes on."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

from hakuriver.cli.tables import Table
from hakuriver.model.quantities import format_duration
from hakuriver.sweep.records import Ended, Output, Started
from jupyter_ext.magics.render import Rendered, note_line, table

if TYPE_CHECKING:
    from hakuriver.sweep.records import Event
    from hakuriver.sweep.sweep import Sweep
    from jupyter_ext.magics.place import Place

# Seconds between two updates, and how many rows there are at most.
_PACE = 0.2
_CALM = 0.8
_ROWS = 30
_WIDEST = 80


class SweepView:
    """Shows a sweep's combinations under its cell; a terminal gets the last state alone."""

    def __init__(self, sweep: Sweep, place: Place) -> None:
        self._sweep = sweep
        self._line = place.line()
        self._live = place.is_kernel
        self._running: dict[int, float] = {}
        self._ended: dict[int, Ended] = {}
        self._failed: list[int] = []
        self._lines: dict[int, str] = {}
        self._begin = time.monotonic()
        self._next, self._changed = 0.0, False

    def take(self, event: Event) -> None:
        """Take what happened, and show it if the last look was not just now."""
        match event:
            case Started():
                self._running[event.index] = time.monotonic()
            case Output():
                lines = event.lines.decode("utf-8", "replace").splitlines()
                self._lines[event.index] = next((each for each in lines[::-1] if each.strip()), "")
            case Ended():
                self._take_end(event)
        self._changed = True
        if self._live and time.monotonic() >= self._next:
            self.show()

    def refresh(self) -> None:
        """Show what has changed since; times alone are worth a look every second."""
        due = self._next if self._changed else self._next + _CALM
        if self._live and time.monotonic() >= due:
            self.show()

    def _take_end(self, event: Ended) -> None:
        self._running.pop(event.index, None)
        self._lines.pop(event.index, None)
        if event.again:
            return
        self._ended[event.index] = event
        if not event.ok:
            self._failed.append(event.index)
        # Of a long sweep the last ones are enough.
        while len(self._ended) > max(_ROWS, len(self._failed[:_ROWS]) + _ROWS):
            oldest = next(each for each in self._ended if each not in self._failed[:_ROWS])
            del self._ended[oldest]

    def show(self) -> None:
        """Show how it stands now."""
        self._next, self._changed = time.monotonic() + _PACE, False
        head = self._head()
        sweep = self._sweep
        rows = tuple(self._row(index) for index in self._chosen())
        columns = ("RUN", *map(str.upper, sweep.plan.names), "STATE", "TIME", "LAST LINE")
        body = table(Table(columns, rows, frozenset({0, len(columns) - 2})))
        note = note_line(head)
        bar = (
            f'<progress value="{sweep.done + sweep.failed}" max="{max(1, len(sweep))}"></progress>'
        )
        self._line.show(
            Rendered(
                text=f"{head}\n{body.text}",
                html=f'<div title="{escape(head)}">{bar}{note.html}{body.html}</div>',
            )
        )

    def _head(self) -> str:
        sweep = self._sweep
        done = sweep.done + sweep.failed
        parts = [f"sweep {sweep.header.shown}", f"{done} of {len(sweep)}"]
        if sweep.failed:
            parts.append(f"{sweep.failed} failed")
        if self._running:
            parts.append(f"{len(self._running)} running")
        took = time.monotonic() - self._begin
        if 0 < done < len(sweep) and self._ended:
            left = took / max(1, done) * (len(sweep) - done)
            parts.append(f"{format_duration(max(1, round(left)))} left")
        else:
            parts.append(f"{took:.1f} s")
        return " · ".join(parts)

    def _chosen(self) -> list[int]:
        if len(self._sweep) <= _ROWS:
            return list(range(len(self._sweep)))
        chosen = [*self._failed[: _ROWS // 3], *list(self._running)[: _ROWS // 3]]
        rest = [each for each in reversed(self._ended) if each not in chosen]
        return sorted({*chosen, *rest[: _ROWS - len(chosen)]})

    def _row(self, index: int) -> tuple[str, ...]:
        state, took, last = "pending", "", ""
        ended = self._ended.get(index)
        if index in self._running:
            state, last = "running", self._lines.get(index, "")
            took = f"{time.monotonic() - self._running[index]:.1f} s"
        elif ended is not None:
            state = "completed" if ended.ok else "failed"
            took = f"{ended.seconds:.2f} s"
            last = ended.reason or ended.last_line
        values = self._sweep[index].values
        return (str(index + 1), *values, state, took, last[:_WIDEST])
