"""The queue and the accounting of CPUs: a pure object, events in, decisions out.

One queue in submission order, bound as late as possible. A task that cannot start yet claims
what is free of what it needs on its own node or NUMA node, so that smaller ones behind it cannot
starve it, while a task waiting for ``n:0`` never holds up one for ``n:1``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hakuriver.model.targets import Target


@dataclass(frozen=True, slots=True)
class Demand:
    """What a task needs: whole CPUs (0: none counted), where, and what the node must enforce.

    No target means anywhere. `needs` are names of capabilities.
    """

    cores: int
    target: Target | None = None
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Assignment:
    """A decision: this task starts on this node, on these CPUs."""

    task_id: int
    node: str
    cpus: tuple[int, ...]


@dataclass(slots=True)
class _Node:
    """A node's CPUs, those nobody holds, and whether tasks may start there now."""

    cpus: frozenset[int]
    numa: Mapping[int, frozenset[int]]
    lacks: frozenset[str] = frozenset()
    open: bool = False
    free: set[int] = field(default_factory=set[int])

    def part(self, numa: int | None) -> frozenset[int]:
        """Return the CPUs of one NUMA node, or all."""
        return self.cpus if numa is None else self.numa.get(numa, frozenset())


class Scheduler:
    """Decides which task starts where. Holds no clock and does no input or output.

    What always holds: a CPU is held by at most one task, and a task holds exactly as many CPUs
    as it asked for.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._queue: dict[int, Demand] = {}
        self._held: dict[int, tuple[str, frozenset[int]]] = {}
        # Tasks of no cores start even when every CPU is taken, so they forbid the early end.
        self._weightless = 0
        # Places in the queue, counted when somebody asks; None once the queue has changed.
        self._positions: dict[int, int] | None = None

    def set_node(
        self,
        name: str,
        cpus: Iterable[int],
        numa: Mapping[int, Iterable[int]],
        *,
        lacks: Iterable[str] = (),
        open_: bool,
    ) -> None:
        """Take in what a node has, and lacks; CPUs that tasks hold there stay held."""
        parts = {number: frozenset(part) for number, part in numa.items()}
        node = _Node(frozenset(cpus), parts, frozenset(lacks), open_)
        held = (cpus for holder, cpus in self._held.values() if holder == name)
        node.free = set(node.cpus.difference(*held))
        self._nodes[name] = node

    def enqueue(self, task_id: int, demand: Demand) -> None:
        """Add a task at the end of the queue."""
        self._positions = None
        self._queue[task_id] = demand
        self._weightless += demand.cores == 0

    def put_back(self, task_id: int, demand: Demand) -> None:
        """Queue a task anew, at the place that its id gives it: a decision was not carried out."""
        self.remove(task_id)
        self.enqueue(task_id, demand)
        self._queue = dict(sorted(self._queue.items()))
        self._positions = None

    def hold(self, task_id: int, node: str, cpus: Iterable[int]) -> None:
        """Account a task that runs already, as a restarted host or a returned node tells it."""
        self._held[task_id] = (node, frozenset(cpus))
        if node in self._nodes:
            self._nodes[node].free.difference_update(self._held[task_id][1])

    def remove(self, task_id: int) -> None:
        """Forget a task that ended or will never run; what it held is free again."""
        demand = self._queue.pop(task_id, None)
        if demand is not None:
            self._positions = None
            self._weightless -= demand.cores == 0
        node, cpus = self._held.pop(task_id, ("", frozenset[int]()))
        if node in self._nodes:
            self._nodes[node].free |= cpus & self._nodes[node].cpus

    def decide(self) -> list[Assignment]:
        """Take from the queue what can start now, and return it in queue order."""
        unclaimed = {name: set(node.free) for name, node in self._nodes.items() if node.open}
        decisions: list[Assignment] = []
        for task_id, demand in list(self._queue.items()):
            if not self._weightless and not any(unclaimed.values()):
                break
            name = self._pick(demand, unclaimed)
            if name is None:
                continue
            part = self._part(name, demand)
            if len(part) < demand.cores:
                # The node came back smaller: a claim would block it for ever.
                continue
            usable = unclaimed[name] & part
            if len(usable) < demand.cores:
                unclaimed[name] -= usable
                continue
            cpus = self._choose(name, usable, demand.cores)
            unclaimed[name].difference_update(cpus)
            self.remove(task_id)
            self.hold(task_id, name, cpus)
            decisions.append(Assignment(task_id, name, cpus))
        return decisions

    def impossible(self, demand: Demand) -> str | None:
        """Return why no node could ever run this, None where one could."""
        if demand.target is not None:
            node = self._nodes.get(demand.target.node)
            if node is None:
                known = ", ".join(sorted(self._nodes)) or "none"
                return f"there is no node {demand.target.node!r} (nodes: {known})"
            if demand.target.numa is not None and demand.target.numa not in node.numa:
                known = ", ".join(map(str, sorted(node.numa))) or "none are known"
                return (
                    f"{demand.target.node} has no NUMA node {demand.target.numa} (it has: {known})"
                )
            total = len(node.part(demand.target.numa))
            if demand.cores > total:
                return f"asks for {_cores(demand.cores)}, {demand.target} has {total}"
            return None
        largest = max((len(node.cpus) for node in self._nodes.values()), default=0)
        if demand.cores > largest:
            return f"asks for {_cores(demand.cores)}, the largest node has {largest}"
        return None

    def free(self, name: str) -> frozenset[int]:
        """Return the CPUs of a node that no task holds."""
        return frozenset(self._nodes[name].free)

    def position(self, task_id: int) -> int | None:
        """Return how many tasks stand before this one in the queue; None if it does not wait."""
        if self._positions is None:
            self._positions = {other: index for index, other in enumerate(self._queue)}
        return self._positions.get(task_id)

    def waits_for(self, task_id: int) -> str | None:
        """Return in words what a queued task waits for; None if it does not wait."""
        demand = self._queue.get(task_id)
        if demand is None:
            return None
        node = None if demand.target is None else self._nodes.get(demand.target.node)
        if demand.target is not None and (node is None or not node.open):
            return f"waits for {demand.target.node} to take tasks"
        never = self.impossible(demand)
        if never is not None:
            return f"cannot start now: {never}"
        if demand.target is None or node is None:
            return f"waits for a node with {_cores(demand.cores)} free"
        free = len(node.free & node.part(demand.target.numa))
        return f"waits for {_cores(demand.cores)} on {demand.target} ({free} free)"

    def _part(self, name: str, demand: Demand) -> frozenset[int]:
        return self._nodes[name].part(demand.target.numa if demand.target else None)

    def _pick(self, demand: Demand, unclaimed: Mapping[str, set[int]]) -> str | None:
        """Return the node to start on, or else to claim on; None where neither can be."""
        if demand.target is not None:
            return demand.target.node if demand.target.node in unclaimed else None
        fitting = (
            name
            for name in unclaimed
            if len(self._nodes[name].cpus) >= demand.cores
            and not demand.needs & self._nodes[name].lacks
        )
        return max(fitting, key=lambda name: (len(unclaimed[name]), name), default=None)

    def _choose(self, name: str, usable: set[int], cores: int) -> tuple[int, ...]:
        """Return `cores` of the usable CPUs, within the fullest NUMA node that has so many."""
        parts = [usable & part for part in self._nodes[name].numa.values()]
        fitting = [part for part in parts if len(part) >= cores]
        within = min(fitting, key=lambda part: (len(part), min(part, default=0)), default=usable)
        return tuple(sorted(within)[:cores])


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"
