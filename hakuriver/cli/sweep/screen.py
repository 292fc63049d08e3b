"""What a terminal shows of a sweep that runs: lines with their combination, failures, progress."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from hakuriver.cli.shared.bottom import BottomLine
from hakuriver.cli.shared.common import tell
from hakuriver.cli.shared.tables import printable
from hakuriver.cli.sweep.arguments import NAME
from hakuriver.model.quantities import format_duration

if TYPE_CHECKING:
    from hakuriver.sweep.records import Ended, Output
    from hakuriver.sweep.sweep import Sweep

_WIDEST = 60
_LISTED = 20
_BETWEEN = 10.0
_BAR = 20


class Screen(BottomLine):
    """Writes whole lines, each after its combination if there are several of them.

    Without a terminal, `progress` is a line every ten seconds at most.
    """

    def __init__(self, sweep: Sweep, *, progress: bool) -> None:
        super().__init__(shown=progress)
        self._sweep = sweep
        self._lines_between = progress and not self._shown
        self._told = time.monotonic()
        self._before = sweep.done
        self._listed: list[Ended] = []
        #: How many have failed in the end.
        self.failures = 0
        self.last_code: int | None = None

    def write(self, output: Output) -> None:
        """Write lines of a combination."""
        lines = output.lines
        if len(self._sweep) > 1:
            lead = self.label(output.index).encode("utf-8", "surrogateescape") + b" "
            lines = b"".join(lead + line for line in lines.splitlines(keepends=True))
        file = (sys.stdout if output.stream == "stdout" else sys.stderr).buffer
        with self.aside():
            file.write(lines)
            file.flush()

    def ended(self, end: Ended) -> None:
        """Take note of the end of a combination, and tell a failure at once."""
        if not end.ok:
            with self.aside():
                again = "; once more" if end.again else ""
                tell(NAME, f"{self.label(end.index)} failed: {words(end)}{again}")
        if end.again:
            return
        self.last_code = end.exit_code
        if not end.ok:
            self.failures += 1
            if len(self._listed) < _LISTED:
                self._listed.append(end)
        if self._lines_between and time.monotonic() - self._told > _BETWEEN:
            self._told = time.monotonic()
            tell(NAME, self.line())

    def label(self, index: int) -> str:
        """Return how a combination is called: ``[7 0.1 adam]``."""
        values = printable(" ".join(self._sweep[index].values))
        if len(values) > _WIDEST:
            values = values[: _WIDEST - 1] + "…"
        return f"[{index + 1} {values}]" if values else f"[{index + 1}]"

    def line(self) -> str:
        """Return how far it is: a bar, the counts, and the time that is left."""
        total = len(self._sweep)
        failed = self._sweep.failed
        ended = self._sweep.done + failed
        bar = "#" * (_BAR * ended // total)
        bad = f", {failed} failed" if failed else ""
        return f"[{bar:<{_BAR}}] {ended} of {total} done{bad}{self._time_left(total - ended)}"

    def summarise(self) -> None:
        """Tell how many have completed, and which have failed."""
        sweep = self._sweep
        seconds = format_duration(time.monotonic() - self._began)
        bad = f", {self.failures} failed" if self.failures else ""
        tell(NAME, f"{sweep.done} of {len(sweep)} completed{bad} in {seconds}")
        if len(sweep) == 1:
            return
        for end in self._listed:
            tell(NAME, f"failed: {self.label(end.index)} {words(end)}")
        if self.failures > len(self._listed):
            rest = self.failures - len(self._listed)
            tell(NAME, f"failed: {rest} more, see `{NAME} results {sweep.header.sweep_id}`")

    def _time_left(self, left: int) -> str:
        seconds = time.monotonic() - self._began
        ended = self._sweep.done + self._sweep.failed - self._before
        with suppress(ZeroDivisionError):
            return f", {format_duration(left * seconds / max(ended, 0))} left"
        return ""


def words(end: Ended) -> str:
    """Return how a combination ended."""
    said = ""
    if end.exit_code is not None:
        signal = end.exit_code < 0
        said = f"ended by signal {-end.exit_code}" if signal else f"exit code {end.exit_code}"
    if said in end.reason:
        said = ""
    return ", ".join(part for part in (end.reason, said) if part)
