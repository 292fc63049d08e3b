"""50,000 lines at once: lines per second from the first to the last in the client's hand."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.rows import Goal, Row, median
from benchmarks.world import NODE, TASK_SECONDS, complaint

if TYPE_CHECKING:
    from benchmarks.world import World

_COUNT = 50_000
_ROUNDS = 3
_TEXT = "line %d of those that a task writes at once"

# Nothing is written before the client follows and says so.
_WRITER = f"""
import sys
print("ready", flush=True)
open(sys.argv[1]).read()
out = open(1, "w", buffering=int(sys.argv[2]), closefd=False)
for number in range({_COUNT}):
    out.write({_TEXT!r} % number + "\\n")
out.flush()
"""


def measure(world: World) -> list[Row]:
    """Follow a program that writes in blocks, as most do, and one that writes line by line."""
    return [
        _row(world, "50,000 lines at once", buffering=1 << 16, goal=(90_000, 150_000)),
        _row(world, "50,000 lines, a write each", buffering=1, goal=None),
    ]


def _row(world: World, name: str, *, buffering: int, goal: tuple[float, float] | None) -> Row:
    rates: list[float] = []
    wholes: list[float] = []
    wrong = 0
    for number in range(_ROUNDS):
        world.progress(f"burst: {name}, round {number + 1} of {_ROUNDS}")
        rate, whole, lost = _once(world, buffering)
        rates.append(rate)
        wholes.append(whole)
        wrong += lost
    return Row(
        figure=name,
        value=median(rates),
        unit="/s",
        detail=f"{median(wholes):,.0f} /s with the writing itself",
        goal=goal and Goal(reach=goal[0], stretch=goal[1], at_least=True),
        wrong=complaint((wrong, "lines lost, changed or out of order")),
    )


def _once(world: World, buffering: int) -> tuple[float, float, int]:
    """Return lines per second from the first line on, and from when the task is let write it.

    The third is how many lines are not what and where they must be.
    """
    gate = world.folder / "gate"
    os.mkfifo(gate, 0o600)
    try:
        command = [sys.executable, "-S", "-c", _WRITER, str(gate), str(buffering)]
        task = world.client.run(command, target=NODE)
        lines = task.logs(follow=True)
        assert next(lines) == "ready"
        with gate.open("w"):
            opened = time.perf_counter()
        got = [next(lines, None)]
        began = time.perf_counter()
        got += lines
        ended = time.perf_counter()
        task.result(TASK_SECONDS)
    finally:
        gate.unlink()
    expected = (_TEXT % number for number in range(_COUNT))
    wrong = sum(line != text for line, text in zip(got, expected, strict=False))
    wrong += abs(_COUNT - len(got))
    return (len(got) - 1) / (ended - began), len(got) / (ended - opened), wrong
