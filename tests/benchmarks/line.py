"""One line at a time: from the moment before it is written to the client that follows."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from benchmarks.rows import Goal, Row, median, p95
from benchmarks.world import NODE, TASK_SECONDS, complaint

if TYPE_CHECKING:
    from benchmarks.world import World

_COUNT = 400
#: The first lines may be written before anybody follows.
_WARM_UP = 50

_WRITER = f"""
import os, time
for _ in range({_COUNT}):
    time.sleep(0.005)
    os.write(1, b"%d\\n" % time.time_ns())
"""


def measure(world: World) -> list[Row]:
    """Follow a task that writes the time every five milliseconds."""
    world.progress("line: following")
    task = world.client.run([sys.executable, "-S", "-c", _WRITER], target=NODE)
    seen = [(int(line), time.time_ns()) for line in task.logs(follow=True)]
    task.result(TASK_SECONDS)
    times = [(arrived - written) / 1e6 for written, arrived in seen[_WARM_UP:]]
    return [
        Row(
            figure="a line, written to the client",
            value=median(times),
            unit="ms",
            detail=f"p95 {p95(times):.1f}, {len(times)} lines",
            goal=Goal(reach=3, stretch=1.5),
            wrong=complaint((_COUNT - len(seen), "lines lost")),
        )
    ]
