"""Memory of host, runner and keeper when nothing is to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.accounts import Memory
from benchmarks.rows import Goal, Row

if TYPE_CHECKING:
    from benchmarks.world import World


#: What is kept ready after a task is let go by then.
_SECONDS = 6.0


def measure(world: World) -> list[Row]:
    """Look once, before everything else, when nothing has happened for a while."""
    world.progress("idle: waiting")
    time.sleep(_SECONDS)
    each = {name: Memory.of(pid).pss for name, pid in world.pids.items()}
    return [
        Row(
            figure="idle PSS of host, runner and keeper",
            value=sum(each.values()),
            unit="MiB",
            detail=", ".join(f"{name} {size:.1f}" for name, size in each.items()),
            goal=Goal(reach=70, stretch=50),
        )
    ]
