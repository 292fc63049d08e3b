"""Memory of host, runner and keeper before and after many tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.accounts import Memory
from benchmarks.rows import Row
from benchmarks.world import complaint, failures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.world import World

_STEP = 1000
_STEPS = 2
_LONG_STEPS = 10


def measure(world: World) -> list[Row]:
    """Run batches of 1,000; the growth is the second half's, as the first one fills caches."""
    steps = _LONG_STEPS if world.long else _STEPS
    sizes = [_sizes(world)]
    wrong = 0
    for number in range(steps):
        world.progress(f"growth: {number * _STEP:,} of {steps * _STEP:,} tasks")
        wrong += failures(world.bulk(_STEP))
        sizes.append(_sizes(world))
    half = steps // 2
    return [
        Row(
            figure=f"{name} grows per 1,000 tasks",
            value=(sizes[-1][name].own - sizes[half][name].own) / (steps - half) * 1024,
            unit="KiB",
            detail=_before_and_after(sizes, name),
            wrong=complaint((wrong, "tasks without exit code 0")),
        )
        for name in world.pids
    ]


def _before_and_after(sizes: Sequence[Mapping[str, Memory]], name: str) -> str:
    own = " ".join(f"{size[name].own:.1f}" for size in sizes)
    return f"own {own}, PSS {sizes[0][name].pss:.1f} to {sizes[-1][name].pss:.1f} MiB"


def _sizes(world: World) -> dict[str, Memory]:
    return {name: Memory.of(pid) for name, pid in world.pids.items()}
