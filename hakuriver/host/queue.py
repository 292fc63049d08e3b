"""The tasks that wait, in the order of their ids, which is that of their submission. Pure.

They lie in lanes, one for each target, so that a walk in order leaves out a lane as soon as its
target has nothing to give: how long the queue is does not matter then.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hakuriver.host.rooms import Demand
    from hakuriver.model.targets import Target


@dataclass(slots=True)
class _Lane:
    """The tasks for one target; those of no cores can start even where no CPU is free."""

    tasks: dict[int, Demand] = field(default_factory=dict[int, "Demand"])
    weightless: int = 0


class Queue:
    """All tasks that wait."""

    def __init__(self) -> None:
        self._lanes: dict[Target | None, _Lane] = {}
        self._targets: dict[int, Target | None] = {}
        # Places in the queue, counted when somebody asks; None once the queue has changed.
        self._positions: dict[int, int] | None = None

    def add(self, task_id: int, demand: Demand) -> None:
        """Put a task at the place that its id gives it."""
        self.remove(task_id)
        self._positions = None
        self._targets[task_id] = demand.target
        lane = self._lanes.setdefault(demand.target, _Lane())
        late = bool(lane.tasks) and task_id < next(reversed(lane.tasks))
        lane.tasks[task_id] = demand
        lane.weightless += demand.cores == 0
        if late:  # a decision on it was not carried out
            lane.tasks = dict(sorted(lane.tasks.items()))

    def remove(self, task_id: int) -> None:
        """Take a task out, if it is there."""
        if task_id not in self._targets:
            return
        self._positions = None
        target = self._targets.pop(task_id)
        lane = self._lanes[target]
        lane.weightless -= lane.tasks.pop(task_id).cores == 0
        if not lane.tasks:
            del self._lanes[target]

    def get(self, task_id: int) -> Demand | None:
        """Return what a waiting task needs, None if it does not wait."""
        if task_id not in self._targets:
            return None
        return self._lanes[self._targets[task_id]].tasks[task_id]

    def position(self, task_id: int) -> int | None:
        """Return how many tasks stand before this one; None if it does not wait."""
        if self._positions is None:
            self._positions = {other: place for place, other in enumerate(sorted(self._targets))}
        return self._positions.get(task_id)

    def walk(
        self, has_cpus: Callable[[Target | None], bool | None]
    ) -> Iterator[tuple[int, Demand]]:
        """Yield tasks in order, but none that cannot start: `has_cpus` is asked before each.

        It says whether a target has CPUs to give, None if no task may start there at all. The
        queue must not change meanwhile.
        """
        heap: list[tuple[int, Target | None, Iterator[tuple[int, Demand]], Demand]] = []
        lanes = self._lanes
        for target, lane in lanes.items():
            tasks = iter(lane.tasks.items())
            task_id, demand = next(tasks)
            heap.append((task_id, target, tasks, demand))
        heapq.heapify(heap)
        while heap:
            task_id, target, tasks, demand = heap[0]
            some = has_cpus(target)
            if some is None or (not some and not lanes[target].weightless):
                heapq.heappop(heap)
                continue
            yield task_id, demand
            following = next(tasks, None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (following[0], target, tasks, following[1]))
