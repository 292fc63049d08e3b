"""A terminal's screen that tables are drawn on in place."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Self

from hakuriver.cli.shared.tables import wants_colours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.cli.shared.tables import Table

# The other screen, so that what the terminal showed before comes back; and no cursor.
_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME = "\x1b[H"
_END_OF_LINE = "\x1b[K"
_END_OF_SCREEN = "\x1b[J"


class Screen:
    """Draws tables from the top, cut to what fits; leaves the last ones on the terminal."""

    def __init__(self) -> None:
        self._tables: Sequence[Table] = ()
        self._note = ""

    def __enter__(self) -> Self:
        self._put(_ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        self._put(_LEAVE + "".join(f"{line}\n" for line in self._lines()))

    def draw(self, tables: Sequence[Table]) -> None:
        """Show `tables` instead of what was there."""
        self._tables = tables
        self._paint()

    def note(self, text: str) -> None:
        """Show `text` above the tables, or with an empty one nothing."""
        if text != self._note:
            self._note = text
            self._paint()

    def _paint(self) -> None:
        height = shutil.get_terminal_size().lines
        lines = ([self._note] if self._note else []) + self._lines()
        if len(lines) > height:
            lines = [*lines[: height - 1], f"… and {len(lines) - height + 1} more lines"]
        # No newline after the last one: it would scroll a full screen.
        text = "\r\n".join(line + _END_OF_LINE for line in lines)
        self._put(_HOME + text + _END_OF_SCREEN)

    def _lines(self) -> list[str]:
        width = shutil.get_terminal_size().columns
        colours = wants_colours(os.environ)
        texts = [table.render(width=width, colours=colours) for table in self._tables]
        return "\n\n".join(texts).split("\n")

    def _put(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
