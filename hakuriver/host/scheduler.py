"""The queue and the accounting of CPUs and memory: a pure object, events in, decisions out.

One queue in submission order, bound as late as possible. A task that cannot start yet claims
what is free of what it needs on its own node or NUMA node, so that smaller ones behind it cannot
starve it, while a task waiting for ``n:0`` never holds up one for ``n:1``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.host.queue import Queue
from hakuriver.host.rooms import Assignment, Demand, Machine, Room
from hakuriver.model.quantities import format_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hakuriver.host.rooms import Part
    from hakuriver.model.targets import Target


class Scheduler:
    """Decides which task starts where. Holds no clock and does no input or output.

    What always holds: a CPU is held by at most one task, a task holds exactly as many CPUs as it
    asked for, and the memory limits of the tasks on a node do not exceed what it gives out.
    """

    def __init__(self) -> None:
        self._machines: dict[str, Machine] = {}
        self._queue = Queue()
        self._held: dict[int, str] = {}
        # Where a task that may run anywhere claims: a claim that moved would lose what it has.
        self._claims: dict[int, str] = {}

    def set_node(
        self,
        name: str,
        whole: Part,
        numa: Mapping[int, Part],
        *,
        lacks: Iterable[str] = (),
        closed: str | None,
    ) -> None:
        """Take in what a node has, and lacks; what tasks hold there stays held.

        `closed` says why no task may start there now, as words after its name; None opens it.
        """
        before = self._machines.get(name)
        held = {} if before is None else before.held
        self._machines[name] = Machine(whole, numa, frozenset(lacks), closed, held)

    def forget_node(self, name: str) -> None:
        """Remove a node that nobody holds anything of any more."""
        self._machines.pop(name, None)

    def enqueue(self, task_id: int, demand: Demand) -> None:
        """Add a task to the queue, at the place that its id gives it."""
        self._queue.add(task_id, demand)

    def put_back(self, task_id: int, demand: Demand) -> None:
        """Queue a task anew, at its place: a decision was not carried out."""
        self.remove(task_id)
        self.enqueue(task_id, demand)

    def hold(self, task_id: int, node: str, demand: Demand, cpus: Iterable[int]) -> None:
        """Account a task that runs already, as a restarted host or a returned node tells it."""
        self.release(task_id)
        machine = self._machines.get(node)
        if machine is None:
            machine = self._machines[node] = Machine.unknown()
        machine.hold(task_id, demand, frozenset(cpus))
        self._held[task_id] = node

    def release(self, task_id: int) -> None:
        """Let go of what a task holds: its process is gone."""
        node = self._held.pop(task_id, None)
        if node in self._machines:
            self._machines[node].release(task_id)

    def remove(self, task_id: int) -> None:
        """Forget a task that ended or will never run; what it held is free again."""
        self.release(task_id)
        self._claims.pop(task_id, None)
        self._queue.remove(task_id)

    def decide(self) -> list[Assignment]:
        """Take from the queue what can start now, and return it in queue order."""
        rooms = {name: one.room() for name, one in self._machines.items() if one.closed is None}
        decided: list[tuple[Assignment, Demand]] = []
        for task_id, demand in self._queue.walk(lambda target: _has_cpus(rooms, target)):
            name = self._pick(task_id, demand, rooms)
            cpus = None if name is None else rooms[name].take(demand)
            if name is not None and cpus is not None:
                decided.append((Assignment(task_id, name, cpus), demand))
        for decision, demand in decided:
            self.remove(decision.task_id)
            self.hold(decision.task_id, decision.node, demand, decision.cpus)
        return [decision for decision, _ in decided]

    def impossible(self, demand: Demand) -> str | None:
        """Return why no node could ever run this, None where one could."""
        if demand.target is not None:
            return self._impossible_there(demand, demand.target.node, demand.target.numa)
        able = [one for one in self._machines.values() if not demand.needs & one.lacks]
        if not able or any(one.could_hold(demand) for one in able):
            return None
        cores = max(len(one.whole.cpus) for one in able)
        if demand.cores > cores:
            return f"asks for {_cores(demand.cores)}, the largest node has {cores}"
        memory = max(one.whole.memory for one in able)
        if demand.memory > memory:
            return (
                f"asks for {_memory(demand.memory)}, the largest node has {format_memory(memory)}"
            )
        return f"no node has both {_cores(demand.cores)} and {_memory(demand.memory)}"

    def _impossible_there(self, demand: Demand, node: str, numa: int | None) -> str | None:
        machine = self._machines.get(node)
        if machine is None:
            known = ", ".join(sorted(self._machines)) or "none"
            return f"there is no node {node!r} (nodes: {known})"
        part = machine.part(numa)
        if part is None:
            known = ", ".join(map(str, sorted(machine.numa))) or "none are known"
            return f"{node} has no NUMA node {numa} (it has: {known})"
        if demand.cores > len(part.cpus):
            return f"asks for {_cores(demand.cores)}, {demand.target} has {len(part.cpus)}"
        if demand.memory > part.memory:
            has = format_memory(part.memory)
            return f"asks for {_memory(demand.memory)}, {demand.target} has {has}"
        return None

    def machine(self, name: str) -> Machine:
        """Return a node's accounts, to be read only."""
        return self._machines[name]

    def position(self, task_id: int) -> int | None:
        """Return how many tasks stand before this one in the queue; None if it does not wait."""
        return self._queue.position(task_id)

    def waits_for(self, task_id: int) -> str | None:
        """Return in words what a queued task waits for; None if it does not wait."""
        demand = self._queue.get(task_id)
        if demand is None:
            return None
        before = self.position(task_id) or 0
        place = f", {_tasks(before)} before it" if before else ""
        return f"{self.shortage(demand)}{place}"

    def shortage(self, demand: Demand) -> str:
        """Return in words what is not free of what a task needs."""
        never = self.impossible(demand)
        if never is not None:
            return f"cannot start now: {never}"
        if demand.target is None:
            wanted = _wanted(demand.cores, demand.memory)
            return f"waits for a node with {wanted} free"
        machine = self._machines[demand.target.node]
        if machine.closed is not None:
            return f"waits for {demand.target.node}, which {machine.closed}"
        cores, memory = machine.room().of(demand.target.numa)
        short_cores = demand.cores if len(cores) < demand.cores else 0
        short_memory = demand.memory if memory < demand.memory else 0
        if not short_cores and not short_memory:
            return f"waits for its turn on {demand.target}"
        free = [str(len(cores))] if short_cores else []
        free += [format_memory(memory)] if short_memory else []
        wanted = _wanted(short_cores, short_memory)
        return f"waits for {wanted} on {demand.target} ({' and '.join(free)} free)"

    def _pick(self, task_id: int, demand: Demand, rooms: Mapping[str, Room]) -> str | None:
        """Return the node to start on, or else to claim on; None where neither can be."""
        if demand.target is not None:
            name = demand.target.node
            # A node that came back smaller would be blocked by the claim for ever.
            return name if name in rooms and self._machines[name].could_hold(demand) else None
        able = [
            name
            for name in rooms
            if not demand.needs & self._machines[name].lacks
            and self._machines[name].could_hold(demand)
        ]
        fitting = [name for name in able if rooms[name].fits(demand)]
        claimed = self._claims.get(task_id)
        if not fitting and claimed in able:
            return claimed
        chosen = max(fitting or able, key=lambda name: (len(rooms[name].cpus), name), default=None)
        if chosen is not None:
            self._claims[task_id] = chosen
        return chosen


def _has_cpus(rooms: Mapping[str, Room], target: Target | None) -> bool | None:
    """Whether a target has CPUs to give; None if no task may start there now."""
    if target is None:
        return any(room.cpus for room in rooms.values()) if rooms else None
    room = rooms.get(target.node)
    return None if room is None else bool(room.of(target.numa)[0])


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _memory(size: int) -> str:
    return f"{format_memory(size)} of memory"


def _wanted(cores: int, memory: int) -> str:
    parts = [_cores(cores)] if cores or not memory else []
    return " and ".join([*parts, _memory(memory)] if memory else parts)
