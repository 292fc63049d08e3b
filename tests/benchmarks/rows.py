"""What a figure gives back: a measured value, what it should reach, and counts that are wrong."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Unit = Literal["ms", "s", "/s", "MiB", "KiB", "CPU"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure's two aims; with `floors` they are multiples of the floor, else in its unit."""

    reach: float
    stretch: float
    floors: bool = False
    at_least: bool = False

    def met(self, value: float, floor_ms: float) -> str:
        """Return the better aim that `value` meets, ``no`` if it meets none."""
        if self.floors:
            value /= floor_ms
        for name, aim in (("stretch", self.stretch), ("reach", self.reach)):
            if value >= aim if self.at_least else value <= aim:
                return name
        return "no"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    `wrong` says which count is not what it must be; it fails the whole run. `tasks` tells that a
    rate counts tasks, each of which a bare process could have been. `cpu_ms` is what a task
    costs each process in CPU time.
    """

    figure: str
    value: float
    unit: Unit
    detail: str = ""
    goal: Goal | None = None
    wrong: str = ""
    tasks: bool = False
    cpu_ms: Mapping[str, float] = field(default_factory=dict)

    def ratio(self, floor_ms: float) -> float | None:
        """Return the value as a multiple of the floor; None where that means nothing."""
        if self.unit == "ms":
            return self.value / floor_ms
        return 1000 / self.value / floor_ms if self.tasks and self.value else None


def median(values: Sequence[float]) -> float:
    """Return the middle of `values`; NaN if there are none."""
    return statistics.median(values) if values else float("nan")


def p95(values: Sequence[float]) -> float:
    """Return the value that 95 of 100 do not exceed; NaN if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)] if ordered else float("nan")
