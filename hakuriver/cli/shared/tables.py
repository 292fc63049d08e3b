"""Plain tables for terminals: aligned, cut to the width there is, coloured only where asked."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GAP = "  "
_NARROWEST = 6
_BOLD = "\x1b[1m"
_RESET = "\x1b[0m"
_COLOURS = {
    "online": "\x1b[32m",
    "completed": "\x1b[32m",
    "running": "\x1b[36m",
    "pending": "\x1b[33m",
    "assigning": "\x1b[33m",
    "offline": "\x1b[31m",
    "failed": "\x1b[31m",
    "killed": "\x1b[35m",
    "killed_oom": "\x1b[31m",
    "lost": "\x1b[31m",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a head; `right` holds the columns that are aligned to the right.

    Without a head it is a list of names and values.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()

    def render(self, *, width: int | None = None, colours: bool = False) -> str:
        """Return the table's lines, none longer than `width` columns, without a last newline.

        The widest columns give way first. Control characters are shown as escapes, so that no
        cell can write on the terminal.
        """
        head = [[printable(cell) for cell in self.head]] if self.head else []
        rows = head + [[printable(cell) for cell in row] for row in self.rows]
        if not rows:
            return ""
        widths = _fit([max(map(_width, column)) for column in zip(*rows, strict=True)], width)
        lines = [self._line(row, widths, colours=colours) for row in rows]
        if head and colours:
            lines[0] = f"{_BOLD}{lines[0]}{_RESET}"
        return "\n".join(lines)

    def _line(self, row: Sequence[str], widths: Sequence[int], *, colours: bool) -> str:
        cells: list[str] = []
        last = len(row) - 1
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            text = _cut(cell, width)
            space = " " * (width - _width(text))
            if colours and cell in _COLOURS:
                text = f"{_COLOURS[cell]}{text}{_RESET}"
            if index in self.right:
                cells.append(space + text)
            else:
                cells.append(text if index == last else text + space)
        return _GAP.join(cells).rstrip()


def show(table: Table, file: TextIO | None = None) -> None:
    """Print `table`: on a terminal in its width and, unless ``NO_COLOR`` is set, in colours."""
    out: TextIO = sys.stdout if file is None else file
    terminal = out.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    print(table.render(width=width, colours=terminal and wants_colours(os.environ)), file=out)


def wants_colours(environ: Mapping[str, str]) -> bool:
    """Tell whether a terminal is to be coloured."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _fit(widths: list[int], limit: int | None) -> list[int]:
    """Return `widths`, the widest ones cut until all fit into `limit`.

    The first column names the row, for people to paste it elsewhere: it gives way last.
    """
    if limit is None:
        return widths
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - limit
    while excess > 0:
        wide = [index for index, one in enumerate(widths) if one > _NARROWEST]
        if not wide:
            break
        widest = max(wide, key=lambda index: (index > 0, widths[index]))
        widths[widest] -= 1
        excess -= 1
    return widths


def printable(text: str) -> str:
    """Return `text` with control characters as escapes, so that it cannot write on a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _width(text: str) -> int:
    """Return how many columns `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    kept: list[str] = []
    room = width - 1
    for char in text:
        room -= _char_width(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept) + "…"
