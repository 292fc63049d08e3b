"""Cutting a log's bytes into lines of NDJSON that hold whole characters."""

from __future__ import annotations

from base64 import b64encode

from hakuriver.model.views import LogLine

# The first byte of a character of 2, 3 or 4 bytes in UTF-8, by its leading bits.
_LENGTHS = ((0b110, 5, 2), (0b1110, 4, 3), (0b11110, 3, 4))
_CONTINUATION = 0b10


class Cutter:
    """Turns chunks of a log into `LogLine` values, in order and without gaps.

    A character that a chunk ends within is kept for the next one, so that text stays text. What
    is no UTF-8 goes as Base64.
    """

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self._kept = b""

    def feed(self, data: bytes) -> list[LogLine]:
        """Return what `data` completes."""
        data = self._kept + data
        cut = len(data) - _incomplete(data)
        self._kept = data[cut:]
        return self._emit(data[:cut])

    def flush(self) -> list[LogLine]:
        """Return what is kept although it is no whole character."""
        data, self._kept = self._kept, b""
        return self._emit(data)

    def reset(self) -> None:
        """Begin anew at offset 0: the file shrank."""
        self.offset, self._kept = 0, b""

    def _emit(self, data: bytes) -> list[LogLine]:
        if not data:
            return []
        start, self.offset = self.offset, self.offset + len(data)
        try:
            return [LogLine(offset=start, data=data.decode())]
        except UnicodeDecodeError:
            return [LogLine(offset=start, b64=b64encode(data).decode("ascii"))]


def _incomplete(data: bytes) -> int:
    """Return how many bytes at the end begin a character that is not whole yet: 0 to 3."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >> 6 == _CONTINUATION:
            continue
        for bits, shift, length in _LENGTHS:
            if byte >> shift == bits and length > back:
                return back
        return 0
    return 0
