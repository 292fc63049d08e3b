r"""Spans: the values that one place of an argument takes, from the text that people write.

========================  ==========================================================
``span:{1..10}``          whole numbers; ``{01..10}`` keeps zeros, ``{0..100..10}`` steps
``span:{A..Z}``           letters
``span:{0.1..0.5..0.1}``  decimals, computed exactly
``span:[a,b,"c,d"]``      a list; quotes keep commas, blanks and brackets
``span:@file``            the lines of a file; the name goes on to the end of the argument
========================  ==========================================================

A range is never made into a list: a value is computed when it is asked for. ``\span:`` is the
text ``span:`` itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hakuriver.errors import HakuRiverError

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK = "span:"
#: So many values may one span have, and so many combinations a sweep.
MAX_VALUES = (1 << 63) - 1

_FOUND = re.compile(r"\\?span:")
_RANGE = re.compile(r"([^{}]*?)\.\.([^{}]*?)(?:\.\.([^{}]*))?\Z", re.DOTALL)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}\Z", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{1,18})?|\.[0-9]{1,18})\Z", re.ASCII)
_LETTER = re.compile(r"[A-Za-z]\Z", re.ASCII)


class SpanError(HakuRiverError, ValueError):
    """A span that cannot be read: `word` is the argument, `place` where in it, from 0."""

    exit_code = 2

    def __init__(self, word: str, place: int, reason: str) -> None:
        super().__init__(f"{reason} (in {word!r}, at character {place + 1})")
        self.word = word
        self.place = place
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Range:
    """The values of ``{first..last..step}``, each computed when it is asked for.

    `numbers` are whole; `decimals` of their digits stand behind the point, `width` is what zeros
    fill up to, and with `letters` they are code points.
    """

    numbers: range
    decimals: int = 0
    width: int = 0
    letters: bool = False

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> str:
        number = self.numbers[index]
        if self.letters:
            return chr(number)
        if self.decimals:
            return format(Decimal(number).scaleb(-self.decimals), "f")
        return f"{number:0{self.width}d}"

    @property
    def text(self) -> str:
        """What tells this axis from every other one."""
        return f"{self.numbers!r} {self.decimals} {self.width} {self.letters}"


@dataclass(frozen=True, slots=True)
class Listing:
    """Values that were written one by one, or that are the lines of a file."""

    values: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> str:
        return self.values[index]

    @property
    def text(self) -> str:
        """What tells this axis from every other one."""
        return repr(self.values)


Axis: TypeAlias = Range | Listing
#: An argument: text and spans in turn.
Parts: TypeAlias = "tuple[str | Axis, ...]"


def parse_word(word: str) -> Parts:
    """Return the text and the spans of an argument; raise `SpanError` for a malformed one."""
    parts: list[str | Axis] = []
    at = 0
    while (found := _FOUND.search(word, at)) is not None:
        _add(parts, word[at : found.start()])
        at = found.end()
        if found.group().startswith("\\"):
            _add(parts, MARK)
            continue
        axis, at = _parse_span(word, at)
        parts.append(axis)
    _add(parts, word[at:])
    return tuple(parts)


def is_plain(word: str, at: int) -> bool:
    """Tell whether what follows the mark that ends at `at` is no span: a shell expanded it."""
    return word[at : at + 1] not in {"{", "[", "@"}


def plain_marks(word: str) -> list[int]:
    """Return where in `word` a mark ends that no span follows."""
    ends = [found.end() for found in _FOUND.finditer(word) if not found.group().startswith("\\")]
    return [end for end in ends if is_plain(word, end)]


def _add(parts: list[str | Axis], text: str) -> None:
    if not text:
        return
    if parts and isinstance(parts[-1], str):
        parts[-1] += text
    else:
        parts.append(text)


def _parse_span(word: str, at: int) -> tuple[Axis, int]:
    match word[at : at + 1]:
        case "{":
            return _parse_range(word, at)
        case "[":
            return _parse_list(word, at)
        case "@":
            return _read_lines(word, at), len(word)
        case _:
            raise SpanError(
                word,
                at,
                "a span goes on with {first..last}, [a,b] or @file; write \\span: for text",
            )


def _parse_range(word: str, at: int) -> tuple[Range, int]:
    end = word.find("}", at)
    if end < 0:
        raise SpanError(word, len(word), "the span has no closing }")
    inside = word[at + 1 : end]
    match = _RANGE.match(inside)
    if match is None:
        hint = "; a list is written span:[a,b]" if "," in inside else ""
        raise SpanError(word, at + 1, f"a range is written {{first..last}}{hint}")
    places = [at + 1 + max(match.start(group), 0) for group in (1, 2, 3)]
    return _range_of(word, match.groups(), places), end + 1


def _range_of(word: str, texts: Sequence[str | None], places: Sequence[int]) -> Range:
    first, last, step = texts
    assert first is not None  # noqa: S101 - the pattern has both
    assert last is not None  # noqa: S101
    if _LETTER.match(first):
        return _letters(word, (first, last, step), places)
    for text, place in zip((first, last, step), places, strict=True):
        if text is not None and not _DECIMAL.match(text):
            raise SpanError(word, place, f"{text!r} is no number")
    if all(text is None or _WHOLE.match(text) for text in texts):
        return _wholes(word, (first, last, step), places)
    return _decimals(word, (first, last, step), places)


def _letters(word: str, texts: tuple[str, str, str | None], places: Sequence[int]) -> Range:
    first, last, step = texts
    if not _LETTER.match(last) or first.isupper() != last.isupper():
        raise SpanError(word, places[1], f"{last!r} is no letter of the same case as {first!r}")
    if step is not None and not _WHOLE.match(step):
        raise SpanError(word, places[2], f"{step!r} is no whole number")
    numbers = _between(word, ord(first), ord(last), 1 if step is None else int(step), places[2])
    return Range(numbers, letters=True)


def _wholes(word: str, texts: tuple[str, str, str | None], places: Sequence[int]) -> Range:
    first, last, step = texts
    zeros = any(re.match(r"[+-]?0[0-9]", text) for text in (first, last))
    width = max(len(first.lstrip("+")), len(last.lstrip("+"))) if zeros else 0
    size = 1 if step is None else int(step)
    return Range(_between(word, int(first), int(last), size, places[2]), width=width)


def _decimals(word: str, texts: tuple[str, str, str | None], places: Sequence[int]) -> Range:
    first, last, step = texts
    if step is None:
        raise SpanError(word, places[1] + len(last), "decimals need a step: {0.1..0.5..0.1}")
    decimals = max(_places_of(first), _places_of(step))
    # Between two steps nothing is lost by one more digit of the last value.
    fine = max(decimals, _places_of(last))
    begin, end, size = (int(Decimal(text).scaleb(fine)) for text in (first, last, step))
    numbers = _between(word, begin, end, size, places[2])
    unit = 10 ** (fine - decimals)
    steps = len(numbers)
    begin, size = begin // unit, numbers.step // unit
    return Range(range(begin, begin + steps * size, size), decimals=decimals)


def _places_of(text: str) -> int:
    return len(text.partition(".")[2])


def _between(word: str, first: int, last: int, step: int, place: int) -> range:
    if step == 0:
        raise SpanError(word, place, "a step is not 0")
    size = abs(step)
    if abs(last - first) // size >= MAX_VALUES:
        raise SpanError(word, place, "the range has too many values")
    if first <= last:
        return range(first, last + 1, size)
    return range(first, last - 1, -size)


def _parse_list(word: str, at: int) -> tuple[Listing, int]:
    values: list[str] = []
    at += 1
    while True:
        value, at = _item(word, at)
        values.append(value)
        if word[at] == "]":
            return Listing(tuple(values)), at + 1
        at += 1


def _item(word: str, at: int) -> tuple[str, int]:
    """Return an item of a list, and where its comma or the closing bracket stands."""
    while word[at : at + 1] == " ":
        at += 1
    begin = at
    if word[at : at + 1] in {'"', "'"}:
        value, at = _quoted(word, at)
        while word[at : at + 1] == " ":
            at += 1
    else:
        while at < len(word) and word[at] not in ",]":
            at += 1
        value = word[begin:at].rstrip(" ")
        if not value and at < len(word):
            raise SpanError(word, begin, 'there is no item here; the empty one is written ""')
    if at >= len(word):
        raise SpanError(word, len(word), "the list has no closing ]")
    if word[at] not in ",]":
        raise SpanError(word, at, "after a quoted item comes a comma or ]")
    return value, at


def _quoted(word: str, at: int) -> tuple[str, int]:
    quote, begin = word[at], at
    value: list[str] = []
    at += 1
    while at < len(word) and word[at] != quote:
        if word[at] == "\\" and word[at + 1 : at + 2] in {quote, "\\"}:
            at += 1
        value.append(word[at])
        at += 1
    if at >= len(word):
        raise SpanError(word, begin, "the quote is not closed")
    return "".join(value), at + 1


def _read_lines(word: str, at: int) -> Listing:
    name = word[at + 1 :]
    if not name:
        raise SpanError(word, at + 1, "the name of a file is missing")
    try:
        text = Path(name).expanduser().read_text("utf-8", errors="surrogateescape")
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpanError(word, at + 1, f"{name} cannot be read: {reason}") from None
    lines = tuple(line.removesuffix("\r") for line in text.split("\n"))
    lines = tuple(line for line in lines if line)
    if not lines:
        raise SpanError(word, at + 1, f"{name} has no lines")
    for line in lines:
        if "\0" in line:
            raise SpanError(word, at + 1, f"{name} has a NUL in it, which no argument can hold")
    return Listing(lines)
