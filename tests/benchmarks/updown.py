"""``hakuriver up`` and ``hakuriver down`` as commands, the interpreter's start included."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.floors import timed
from benchmarks.rows import Row, median
from support.processes import clean_environment, processes_of, run_hakuriver

if TYPE_CHECKING:
    from benchmarks.world import World

_ROUNDS = 3


def measure(world: World) -> list[Row]:
    """Start and end an embedded cluster of one node, in a home of its own."""
    home = world.folder / "home"
    env = clean_environment(home)
    home.chmod(0o700)
    took: dict[str, list[float]] = {"up": [], "down": []}
    try:
        for number in range(_ROUNDS):
            world.progress(f"updown: {number + 1} of {_ROUNDS}")
            for verb, times in took.items():
                times.append(timed(partial(run_hakuriver, verb, env=env, cwd=home, check=0)))
    finally:
        run_hakuriver("down", "--purge", env=env, cwd=home)
    left = processes_of(home)
    return [
        Row(
            figure=f"hakuriver {verb}",
            value=median(times) / 1000,
            unit="s",
            detail="rounds " + ", ".join(f"{each / 1000:.2f}" for each in times),
            wrong=f"left behind: {left}" if left and verb == "down" else "",
        )
        for verb, times in took.items()
    ]
