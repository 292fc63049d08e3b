"""One ``true``: from the call to its exit code in the caller's hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.accounts import Meter
from benchmarks.floors import timed
from benchmarks.rows import Goal, Row, median, p95
from benchmarks.world import TASK_SECONDS

if TYPE_CHECKING:
    from benchmarks.world import World

_WARM_UP = 30
_COUNT = 300


def measure(world: World) -> list[Row]:
    """Run one after the other through the synchronous client, which raises unless it is 0."""

    def one() -> None:
        world.client.run(["true"]).result(TASK_SECONDS)

    for _ in range(_WARM_UP):
        one()
    meter = Meter(world.pids)
    times: list[float] = []
    for number in range(_COUNT):
        if number % 20 == 0:
            world.progress(f"one: {number} of {_COUNT}")
        times.append(timed(one))
    return [
        Row(
            figure="one true, call to exit code",
            value=median(times),
            unit="ms",
            detail=f"p95 {p95(times):.1f}, {_COUNT} tasks",
            goal=Goal(reach=8, stretch=4, floors=True),
            cpu_ms=meter.per_task(_COUNT),
        )
    ]
