"""What of a task's output goes to the cell, and when.

Ordinary output appears at once. What comes faster is gathered for a tenth of a second, since a
front end drops the whole channel above a thousand messages or one megabyte a second. A lasting
flood is shown in samples, and every gap says how much was left out and where all of it can be
read; nothing disappears silently.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hakuriver.model.messages import Stream

TICK = 0.1
# Characters of one stream a tick: even in a script of three bytes a letter that is less than
# the Jupyter server's megabyte a second.
PIECE = 32 << 10
# What may be shown at full pace, and what comes back of that each second.
BURST = 2 << 20
REFILL = 16 << 10
# What waits to be shown, for each stream; older text is left out.
WAITING = 1 << 20


class Held:
    """Text that waits to be shown: first in, first out, and bounded by leaving out the oldest."""

    def __init__(self) -> None:
        self.size = 0
        self.skipped_lines = 0
        self.skipped_size = 0
        self._pieces: deque[str] = deque()

    def add(self, text: str) -> None:
        """Put `text` behind what waits."""
        if text:
            self._pieces.append(text)
            self.size += len(text)

    def take(self, limit: int) -> str:
        """Remove and return up to `limit` characters from the front."""
        taken: list[str] = []
        while self._pieces and limit > 0:
            piece = self._pieces.popleft()
            if len(piece) > limit:
                self._pieces.appendleft(piece[limit:])
                piece = piece[:limit]
            limit -= len(piece)
            self.size -= len(piece)
            taken.append(piece)
        return "".join(taken)

    def trim(self, limit: int) -> None:
        """Leave out the oldest, in whole lines where there are lines, until `limit` remain."""
        if self.size <= limit:
            return
        dropped = self.take(self.size - limit)
        if not dropped.endswith("\n"):
            dropped += self._rest_of_line()
        self.skipped_lines += dropped.count("\n")
        self.skipped_size += len(dropped)

    def _rest_of_line(self) -> str:
        """Remove the front up to its first newline; nothing if there is none."""
        text = self.take(self.size)
        end = text.find("\n") + 1
        self.add(text[end:])
        return text[:end]


class Screen:
    """Shows output of both streams at a pace that a front end can take.

    Args:
        write: shows text on one stream, at once.
        hint: says where the whole log can be read, for the notes on what was left out.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        write: Callable[[Stream, str], None],
        *,
        hint: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hint = hint
        self._write = write
        self._clock = clock
        self._held: dict[Stream, Held] = {"stdout": Held(), "stderr": Held()}
        self._within_line = {"stdout": False, "stderr": False}
        self._allowance = float(BURST)
        self._refilled = clock()
        self._next = clock()
        self.skipped = False

    def add(self, stream: Stream, text: str) -> None:
        """Take `text` to show; it is shown by the next `show` that finds it due."""
        held = self._held[stream]
        held.add(text)
        if held.size > 2 * WAITING:
            held.trim(WAITING)

    def wait(self) -> float | None:
        """Return the seconds until `show` has something to do; None if nothing waits."""
        if not any(held.size for held in self._held.values()):
            return None
        return max(0.0, self._next - self._clock())

    def show(self) -> None:
        """Show what is due; does nothing before the tick."""
        now = self._clock()
        if now < self._next:
            return
        self._allowance = min(BURST, self._allowance + (now - self._refilled) * REFILL)
        self._refilled = now
        for stream, held in self._held.items():
            if held.size:
                self._next = now + TICK
                self._show(stream, held)

    def finish(self) -> None:
        """Let the end of what waits through, whatever was shown before; `drain` then shows it."""
        for held in self._held.values():
            held.trim(max(2 * PIECE, int(min(WAITING, self._allowance))))
        self._allowance = BURST

    def drain(self) -> None:
        """Show all that waits, at its pace."""
        while (pause := self.wait()) is not None:
            time.sleep(pause)
            self.show()

    def _show(self, stream: Stream, held: Held) -> None:
        if held.size > self._allowance:
            if self._allowance < REFILL:
                return
            held.trim(REFILL)
        text = held.take(PIECE)
        self._allowance -= len(text)
        text = self._note(stream, held) + text
        self._within_line[stream] = not text.endswith("\n")
        self._write(stream, text)

    def _note(self, stream: Stream, held: Held) -> str:
        """Return the note on what was left out just before the text to show, if anything was."""
        if not held.skipped_size:
            return ""
        lines, size = held.skipped_lines, held.skipped_size
        held.skipped_lines = held.skipped_size = 0
        self.skipped = True
        what = f"{lines:,} lines" if lines else f"{size:,} characters"
        start = "\n" if self._within_line[stream] else ""
        # The text left out may have switched a colour on that nothing shown switches off.
        return f"{start}\x1b[0m… {what} skipped{self.hint} …\n"
