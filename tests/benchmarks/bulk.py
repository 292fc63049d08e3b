"""1,000 ``true`` submitted at once: tasks per second until all results are in hand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.accounts import Meter
from benchmarks.rows import Goal, Row, median
from benchmarks.world import complaint, failures
from hakuriver.client.building import command_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.world import World
    from hakuriver import Task

_COUNT = 1000
_WARM_UP = 50
_ROUNDS = 3
#: No further round begins after so long.
_SECONDS = 12.0


def measure(world: World) -> list[Row]:
    """Submit them as one batch, and as 1,000 submissions in one request."""

    def batch(count: int) -> list[Task]:
        return list(world.bulk(count))

    def many(count: int) -> list[Task]:
        requests = [command_request(["true"]) for _ in range(count)]
        return [task for each in world.client.submit_many(requests) for task in each]

    return [
        _row(world, f"1,000 true on {world.slots} slots, one batch", batch),
        _row(world, f"1,000 true on {world.slots} slots, submit-many", many),
    ]


def _row(world: World, name: str, submit: Callable[[int], list[Task]]) -> Row:
    """Submit up to three times; the rate is that of the middle one."""
    failures(submit(_WARM_UP))
    meter = Meter(world.pids)
    rates: list[float] = []
    wrong = 0
    enough = time.perf_counter() + _SECONDS
    while len(rates) < _ROUNDS and time.perf_counter() < enough:
        world.progress(f"bulk: {name}, round {len(rates) + 1} of {_ROUNDS}")
        began = time.perf_counter()
        tasks = submit(_COUNT)
        wrong += failures(tasks) + _COUNT - len(tasks)
        rates.append(_COUNT / (time.perf_counter() - began))
    return Row(
        figure=name,
        value=median(rates),
        unit="/s",
        detail="rounds " + ", ".join(f"{rate:.0f}" for rate in rates),
        goal=Goal(reach=400, stretch=700, at_least=True),
        wrong=complaint((wrong, "tasks without exit code 0")),
        tasks=True,
        cpu_ms=meter.per_task(len(rates) * _COUNT),
    )
