"""The plan of a sweep: from its words to any one of its combinations, without a list of them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from hakuriver.errors import InvalidRequest
from hakuriver.sweep.spans import MAX_VALUES, Parts, parse_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.sweep.spans import Axis


#: What a record of a combination has beside its parameters, whose names must be others.
TAKEN = frozenset(
    {
        *("run", "exit_code", "seconds", "attempts", "extracted", "last_line", "reason", "value"),
        *("task_id", "target"),
    }
)


@dataclass(frozen=True, slots=True)
class Combination:
    """One run of a sweep: its number from 0, its arguments, and the values of its spans."""

    index: int
    arguments: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All combinations of the spans in some words: their product, or side by side.

    In a product the last span changes quickest, as in nested loops. Memory is that of the words,
    however many combinations there are.
    """

    words: tuple[str, ...]
    side_by_side: bool = False
    _parts: tuple[Parts, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, words: Sequence[str], *, side_by_side: bool = False) -> Self:
        """Read the spans in `words`.

        Raises:
            SpanError: a span is malformed.
            InvalidRequest: side by side with unequal lengths, or far too many combinations.
        """
        plan = cls(tuple(words), side_by_side, tuple(map(parse_word, words)))
        lengths = [len(axis) for axis in plan.axes]
        if side_by_side and len(set(lengths)) > 1:
            counts = ", ".join(map(str, lengths))
            raise InvalidRequest("--zip", f"needs spans of one length, these have {counts} values")
        if not side_by_side and math.prod(lengths) > MAX_VALUES:
            raise InvalidRequest("spans", f"make more than {MAX_VALUES} combinations")
        return plan

    def __len__(self) -> int:
        lengths = [len(axis) for axis in self.axes]
        if self.side_by_side:
            return lengths[0] if lengths else 1
        return math.prod(lengths)

    def __getitem__(self, index: int) -> Combination:
        if not 0 <= index < len(self):
            raise IndexError(index)
        values = self._values(index)
        rest = iter(values)
        arguments = tuple(
            "".join(part if isinstance(part, str) else next(rest) for part in parts)
            for parts in self._parts
        )
        return Combination(index, arguments, values)

    @property
    def axes(self) -> list[Axis]:
        """The spans in the order in which they stand."""
        return [part for parts in self._parts for part in parts if not isinstance(part, str)]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each span, each another: what stands before it (``--lr=``), or ``p1``."""
        names: list[str] = []
        for before, parts in zip(("", *self.words), self._parts, strict=False):
            for at, part in enumerate(parts):
                if isinstance(part, str):
                    continue
                lead = parts[at - 1] if at else before if before.startswith("-") else ""
                name = lead.strip("-=:") if isinstance(lead, str) else ""
                name = name if name.replace("-", "_").isidentifier() else f"p{len(names) + 1}"
                names.append(f"{name}_{len(names) + 1}" if name in {*names, *TAKEN} else name)
        return tuple(names)

    @property
    def digest(self) -> str:
        """A fingerprint of all combinations in their order."""
        text = "\0".join(
            part if isinstance(part, str) else f"\1{part.text}\1"
            for parts in self._parts
            for part in (*parts, "\2")
        )
        text = f"{self.side_by_side}\0{text}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def _values(self, index: int) -> tuple[str, ...]:
        axes = self.axes
        if self.side_by_side:
            return tuple(axis[index] for axis in axes)
        values: list[str] = []
        for axis in reversed(axes):
            index, at = divmod(index, len(axis))
            values.append(axis[at])
        return tuple(reversed(values))
