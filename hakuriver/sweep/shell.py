"""What a shell makes of spans that were not quoted, and what they were before.

Bash and zsh expand ``span:{1..3}`` to ``span:1 span:2 span:3`` before hakurun sees it. Arguments
that can only come from one range become that range again. Whatever has a second reading is
refused, with the line to paste. Sure are two or three arguments in a row, the same but for what
follows ``span:``, whose values are evenly spaced: four could be two ranges of two
(``span:{1..2} span:{3..4}``), and so could two such rows beside each other, unless each belongs to
an option of its own (``--lr=span:1 --lr=span:2 --wd=span:1 --wd=span:2``). A range of one value
(``{1..1}``) is not thought of: nobody writes two of them beside each other.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.errors import HakuRiverError
from hakuriver.sweep.spans import MARK, plain_marks

if TYPE_CHECKING:
    from collections.abc import Sequence

_VALUE = re.compile(r"(-?[0-9]{1,18}|[A-Za-z])(.*)\Z", re.DOTALL | re.ASCII)
#: With one more there are two groups of two in it.
_SURE = 3
_PAIR = 2


class Unquoted(HakuRiverError, ValueError):  # noqa: N818 - it names what was given
    """A shell has expanded spans, and what they were is not sure; `suggestion` can be pasted."""

    exit_code = 2

    def __init__(self, reason: str, suggestion: Sequence[str]) -> None:
        self.suggestion = shlex.join(suggestion)
        super().__init__(
            f"{reason}: spans go in quotes, or the shell expands them; perhaps you meant this:"
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """Arguments beside each other that differ in the value after ``span:`` alone."""

    words: tuple[str, ...]
    prefix: str
    suffix: str
    values: tuple[str, ...]

    @property
    def range(self) -> str | None:
        """The range that has exactly these values, as it is written; None if there is none."""
        return _range(self.values)

    @property
    def guess(self) -> str:
        """What to suggest in place of all the words."""
        inside = self.range or f"[{','.join(map(_item, self.values))}]"
        return f"{self.prefix}{MARK}{inside}{self.suffix}"


def regroup(words: Sequence[str], *, program: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the words with expanded spans as they were, and a note on each that was.

    Raises:
        Unquoted: what was meant is not sure; `program` begins the line to paste.
    """
    rows = _rows(words)
    reason = _doubt(rows)
    meant: list[str] = []
    for row in rows:
        meant.extend([row.guess] if isinstance(row, _Row) else [row])
    if reason:
        raise Unquoted(reason, [*program, *meant])
    notes = [
        f"read {shlex.join(row.words)} as {shlex.quote(row.guess)}"
        for row in rows
        if isinstance(row, _Row)
    ]
    return meant, notes


def _rows(words: Sequence[str]) -> list[str | _Row]:
    rows: list[str | _Row] = []
    for word in words:
        if not plain_marks(word):
            rows.append(word)
            continue
        row = _row_of(word)
        last = rows[-1] if rows else None
        if isinstance(last, _Row) and (last.prefix, last.suffix) == (row.prefix, row.suffix):
            rows[-1] = _Row(
                (*last.words, word), row.prefix, row.suffix, (*last.values, *row.values)
            )
        else:
            rows.append(row)
    return rows


def _row_of(word: str) -> _Row:
    at = plain_marks(word)[0]
    match = _VALUE.match(word[at:])
    value, suffix = match.groups() if match else (word[at:], "")
    return _Row((word,), word[: at - len(MARK)], suffix, (value,))


def _doubt(rows: Sequence[str | _Row]) -> str:
    """Return why it is not sure what was meant; empty if it is."""
    for before, row in zip((None, *rows), rows, strict=False):
        if not isinstance(row, _Row):
            continue
        reason = _doubt_of(row)
        if reason:
            return reason
        if isinstance(before, _Row) and not _apart(before, row):
            return f"{shlex.join((*before.words, *row.words))} may be several spans or one"
    return ""


def _doubt_of(row: _Row) -> str:
    shown = shlex.join(row.words[:4]) + (" …" if len(row.words) > 4 else "")  # noqa: PLR2004
    if any(MARK in word.replace(f"\\{MARK}", "").replace(MARK, "", 1) for word in row.words):
        return f"{shown} has a second span"
    if any(Path(word).exists() for word in row.words):
        return f"{shown} is the name of a file here, which a shell puts in place of a list"
    if row.range is None or len(row.words) < _PAIR:
        return f"{shown} is no span and comes from no single range (text is written \\span:)"
    if len(row.words) > _SURE:
        return f"{shown} may come from one range or from several"
    return ""


def _apart(one: _Row, other: _Row) -> bool:
    """Tell whether two rows belong to an option each, so that nothing but these can be meant."""
    return one.prefix != other.prefix and one.prefix.endswith("=") and other.prefix.endswith("=")


def _range(values: tuple[str, ...]) -> str | None:
    if len(values) < _PAIR:
        return None
    if all(value.isalpha() for value in values):
        return _spaced([ord(value) for value in values], values)
    if any(value.isalpha() for value in values):
        return None
    padded = any(re.match(r"-?0[0-9]", value) for value in values)
    if padded and len({len(value) for value in values}) > 1:
        return None
    return _spaced([int(value) for value in values], values)


def _spaced(numbers: list[int], values: tuple[str, ...]) -> str | None:
    step = numbers[1] - numbers[0]
    even = all(after - before == step for before, after in pairwise(numbers))
    if step == 0 or not even:
        return None
    size = f"..{abs(step)}" if abs(step) != 1 else ""
    return f"{{{values[0]}..{values[-1]}{size}}}"


def _item(value: str) -> str:
    plain = value and not re.search(r"[\s,\[\]\"'\\]", value)
    if plain:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
