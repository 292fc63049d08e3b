"""Whole lines with the name of their source, from chunks of several sources."""

from __future__ import annotations


class LinePrefixer:
    r"""Turns chunks of several sources into whole lines ``source: text``.

    A line goes out when its newline has come, so that sources never mix within a line; `flush`
    gives the rest. A piece that a carriage return ends (a progress bar) goes out as an update of
    the terminal's last line: ``\r`` and the prefixed text; the next line written takes its place.
    """

    def __init__(self) -> None:
        self._rest: dict[str, str] = {}
        #: Characters of an update on the terminal's last line that the next text must cover.
        self._shown = 0

    def add(self, source: str, text: str) -> str:
        """Take a chunk of `source` and return what can be written now."""
        text = self._rest.pop(source, "") + text
        written: list[str] = []
        start = 0
        while (cut := _next_cut(text, start)) is not None:
            end, after = cut
            written.append(self._write(source, text[start:end], newline=text[after - 1] == "\n"))
            start = after
        if start < len(text):
            self._rest[source] = text[start:]
        return "".join(written)

    def flush(self, source: str | None = None) -> str:
        """Return what `source`, or every source, has begun and not ended, as whole lines."""
        names = list(self._rest) if source is None else [source]
        written: list[str] = []
        for name in names:
            rest = self._rest.pop(name, "").removesuffix("\r")
            if rest:
                written.append(self._write(name, rest, newline=True))
        if source is None and self._shown:
            self._shown = 0
            written.append("\n")
        return "".join(written)

    def _write(self, source: str, text: str, *, newline: bool) -> str:
        if not newline and not text:
            # Programs that begin their updates with a carriage return say nothing before it.
            return ""
        line = f"{source}: {text}"
        covered = self._shown
        self._shown = 0 if newline else len(line)
        start = "\r" if covered or not newline else ""
        return start + line.ljust(covered) + ("\n" if newline else "")


def _next_cut(text: str, start: int) -> tuple[int, int] | None:
    """Return where the piece at `start` ends and the next begins; None while nobody can tell."""
    newline = text.find("\n", start)
    limit = len(text) if newline < 0 else newline
    returned = text.find("\r", start, limit)
    if returned < 0:
        return None if newline < 0 else (newline, newline + 1)
    if returned + 1 == newline:
        return returned, newline + 1
    # A carriage return at the very end may belong to a newline that is still to come.
    return None if returned + 1 == len(text) else (returned, returned + 1)
