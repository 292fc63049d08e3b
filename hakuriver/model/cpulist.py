"""CPU numbers in the kernel's short form, such as ``0-3,8``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_RANGE = re.compile(r"(\d+)(?:-(\d+))?\Z", re.ASCII)
_MAX_CPU = 1 << 16


def parse_cpulist(text: str) -> tuple[int, ...]:
    """Return the sorted CPU numbers in a list such as ``0-3,8``; raise `ValueError` on others."""
    cpus: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        match = _RANGE.match(part.strip())
        if not match:
            raise ValueError(f"{part.strip()!r} is no CPU number and no range such as 0-3")
        first = int(match[1])
        last = int(match[2] or first)
        if not first <= last < _MAX_CPU:
            raise ValueError(f"{part.strip()!r} is no range of CPU numbers")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def format_cpulist(cpus: Iterable[int]) -> str:
    """Return CPU numbers in the kernel's short form: ``0-3,8``."""
    runs: list[tuple[int, int]] = []
    for cpu in sorted(set(cpus)):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1] = (runs[-1][0], cpu)
        else:
            runs.append((cpu, cpu))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
