"""Whole lines from the pieces that a pipe gives."""

from __future__ import annotations

from hakuriver.sweep.records import MAX_TAIL

#: A line that grows longer is cut there, so that none fills the memory.
MAX_LINE = 1 << 20


class LineBuffer:
    """Collects what one stream of one run gives, and hands it on in whole lines.

    `tail` is the end of all that came, a little more than is kept of it.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0
        self.tail = b""

    def add(self, data: bytes) -> bytes:
        """Take a piece and return the lines that are whole now."""
        self.tail = (self.tail + data[-4 * MAX_TAIL :])[-4 * MAX_TAIL :]
        cut = data.rfind(b"\n") + 1
        lines = b""
        if cut:
            lines = b"".join((*self._rest, data[:cut]))
            self._rest, self._size, data = [], 0, data[cut:]
        if data:
            self._rest.append(data)
            self._size += len(data)
        return lines + self.flush() if self._size > MAX_LINE else lines

    def flush(self) -> bytes:
        """Return the line that was begun and not ended, with a newline; empty if there is none."""
        rest = b"".join(self._rest)
        self._rest, self._size = [], 0
        return rest + b"\n" if rest else b""
