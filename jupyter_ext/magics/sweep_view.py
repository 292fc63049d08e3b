"""How a sweep stands, in a notebook: a bar and a table, replaced in place as it goes on."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from hakuriver.cli.shared.tables import Table, printable
from hakuriver.cli.sweep.screen import words
from hakuriver.model.quantities import format_duration
from hakuriver.sweep.journal import read_ends
from hakuriver.sweep.records import Ended, Output, Started
from jupyter_ext.magics.render import MARGIN, Rendered, note_line, shorten, table

if TYPE_CHECKING:
    from hakuriver.sweep.records import Event
    from hakuriver.sweep.sweep import Sweep
    from jupyter_ext.magics.place import Place

# Seconds between two updates, and how many rows there are at most.
_PACE = 0.2
_CALM = 0.8
_ROWS = 30
# Characters of a parameter's value and of a last line.
_VALUE = 40
_LAST = 80
_WAITING = "left waiting"
# What colours a terminal's text, and what sets its title.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)")


@dataclass(frozen=True, slots=True)
class _End:
    """How a combination ended, as a row shows it."""

    ok: bool
    seconds: float
    last: str


class SweepView:
    """Shows a sweep's combinations under its cell; a terminal gets the last state alone.

    Raises:
        JournalError: the sweep goes on from a journal that is damaged.
    """

    def __init__(self, sweep: Sweep, place: Place) -> None:
        self._sweep = sweep
        self._line = place.line()
        self._live = place.is_kernel
        self._running: dict[int, float] = {}
        self._ended: dict[int, _End] = {}
        self._failed: list[int] = []
        self._lines: dict[int, str] = {}
        self._complaints: dict[int, str] = {}
        # How many have ended well, and how many of them in earlier runs of a sweep that goes on.
        self._completed = self._earlier = 0
        self._begin = time.monotonic()
        self._over: float | None = None
        self._left = False
        #: Those that wait on the cluster and go on, once it is over.
        self._waiting: frozenset[int] = frozenset()
        self._next, self._changed = 0.0, False
        if sweep.resumed:
            for end in read_ends(sweep.path):
                if end.ok:
                    self._keep(end)
            self._earlier = self._completed

    def take(self, event: Event) -> None:
        """Take what happened, and show it if the last look was not just now."""
        match event:
            case Started():
                self._running[event.index] = time.monotonic()
            case Output():
                self._take_output(event)
            case Ended():
                self._take_end(event)
        self._changed = True
        if self._live and time.monotonic() >= self._next:
            self._show()

    def refresh(self) -> None:
        """Show what has changed since; times alone are worth a look every second."""
        due = self._next if self._changed else self._next + _CALM
        if self._live and time.monotonic() >= due:
            self._show()

    def finish(self, *, left: bool = False) -> None:
        """Show how it ended. What still ran was stopped; or it goes on, `left` to itself.

        So does then what was submitted to a cluster and waits there.
        """
        self._over, self._left = time.monotonic(), left
        if left:
            self._waiting = frozenset(self._sweep.submitted() - self._running.keys())
        self._show()

    def failure(self, index: int) -> str | None:
        """Return why a combination failed in this run; None if it did not, or long ago."""
        end = self._ended.get(index)
        return None if end is None or end.ok else end.last

    def _take_output(self, event: Output) -> None:
        lines = event.lines.decode("utf-8", "replace").splitlines()
        last = next((each for each in reversed(lines) if each.strip()), None)
        if last is None:
            return
        # Made plain when it is shown: there may be thousands in between.
        last = shorten(last.strip(), 4 * _LAST)
        self._lines[event.index] = last
        if event.stream == "stderr":
            self._complaints[event.index] = last

    def _take_end(self, event: Ended) -> None:
        self._running.pop(event.index, None)
        self._lines.pop(event.index, None)
        complaint = self._complaints.pop(event.index, "")
        if not event.again:
            self._keep(event, complaint)

    def _keep(self, event: Ended, complaint: str = "") -> None:
        last = event.last_line
        if event.ok:
            self._completed += 1
            last = event.reason or last
        else:
            self._failed.append(event.index)
            # What went wrong is rather on stderr.
            last = ": ".join(part for part in (words(event), complaint or last) if part)
        self._ended[event.index] = _End(event.ok, event.seconds, _plain(last))
        # Of a long sweep the last ones are enough.
        while len(self._ended) > max(_ROWS, len(self._failed[:_ROWS]) + _ROWS):
            oldest = next(each for each in self._ended if each not in self._failed[:_ROWS])
            del self._ended[oldest]

    def _show(self) -> None:
        self._next, self._changed = time.monotonic() + _PACE, False
        head = self._head()
        sweep = self._sweep
        rows = tuple(self._row(index) for index in self._chosen())
        columns = ("run", *sweep.plan.names, "state", "time", "last line")
        body = table(Table(columns, rows, frozenset({0, len(columns) - 2})))
        note = note_line(head)
        bar = (
            f'<progress style="margin-left: {MARGIN}" aria-label="{escape(head)}" '
            f'value="{self._done()}" max="{max(1, len(sweep))}"></progress>'
        )
        self._line.show(
            Rendered(
                text=f"{head}\n{body.text}",
                html=f"<div>{bar}{note.html}{body.html}</div>",
            )
        )

    def _done(self) -> int:
        return self._completed + len(self._failed)

    def _head(self) -> str:
        sweep = self._sweep
        done, total = self._done(), len(sweep)
        parts = [f"sweep {sweep.header.shown}", f"{done} of {total}"]
        if self._failed:
            parts.append(f"{len(self._failed)} failed")
        if self._over is not None and done < total:
            parts.append("stopped")
        if self._running and (self._over is None or self._left):
            parts.append(f"{len(self._running)} {self._state_of_running()}")
        if self._waiting:
            parts.append(f"{len(self._waiting)} {_WAITING}")
        took = self._now() - self._begin
        now = done - self._earlier
        if self._over is None and now and done < total:
            parts.append(f"{format_duration(max(1, round(took / now * (total - done))))} left")
        else:
            parts.append(f"{took:.1f} s")
        return " · ".join(parts)

    def _state_of_running(self) -> str:
        if self._over is None:
            return "running"
        return "left running" if self._left else "stopped"

    def _now(self) -> float:
        return time.monotonic() if self._over is None else self._over

    def _chosen(self) -> list[int]:
        """Return the rows: always as many, so that what is below the table stays in its place."""
        if len(self._sweep) <= _ROWS:
            return list(range(len(self._sweep)))
        chosen = {*self._failed[: _ROWS // 3], *islice(self._running, _ROWS // 3)}
        rest = [each for each in reversed(self._ended) if each not in chosen]
        chosen.update(rest[: _ROWS - len(chosen)])
        if len(chosen) < _ROWS:
            known = self._ended.keys() | self._running.keys()
            coming = (each for each in range(len(self._sweep)) if each not in known)
            chosen.update(islice(coming, _ROWS - len(chosen)))
        return sorted(chosen)

    def _row(self, index: int) -> tuple[str, ...]:
        state, took, last = "pending" if self._over is None else "not run", "", ""
        if index in self._waiting:
            state = _WAITING
        ended = self._ended.get(index)
        if index in self._running:
            state = self._state_of_running()
            last = _plain(self._lines.get(index, ""))
            took = f"{self._now() - self._running[index]:.1f} s"
        elif ended is not None:
            state = "completed" if ended.ok else "failed"
            took, last = f"{ended.seconds:.2f} s", ended.last
        values = (shorten(value, _VALUE) for value in self._sweep[index].values)
        return (str(index + 1), *values, state, took, last)


def _plain(text: str) -> str:
    """Return what a program wrote as one short line without its colours."""
    return shorten(printable(_ESCAPES.sub("", text).expandtabs(4)), _LAST)
