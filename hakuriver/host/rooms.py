"""What a node has, what tasks hold of it, and what is left: the accounts below the scheduler. Pure.

CPUs are accounted by number. Memory is that of limits: a task without one is not counted. A task
that is bound to a NUMA node counts against that node's memory too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hakuriver.model.targets import Target


@dataclass(frozen=True, slots=True)
class Demand:
    """What a task needs: whole CPUs (0: none counted), bytes, where, and what must be enforced.

    No memory means no limit, nothing counted. No target means anywhere. `needs` are names of
    capabilities.
    """

    cores: int
    memory: int = 0
    target: Target | None = None
    needs: frozenset[str] = frozenset()

    @property
    def numa(self) -> int | None:
        """The NUMA node that it is bound to, None if it is not."""
        return None if self.target is None else self.target.numa


@dataclass(frozen=True, slots=True)
class Assignment:
    """A decision: this task starts on this node, on these CPUs."""

    task_id: int
    node: str
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A node, or one of its NUMA nodes: its CPU numbers and its memory in bytes."""

    cpus: frozenset[int]
    memory: int


@dataclass(frozen=True, slots=True)
class Holding:
    """What one task holds; `numa` is None for one that is not bound."""

    cpus: frozenset[int]
    memory: int
    numa: int | None


@dataclass(slots=True)
class Room:
    """What is free on a node, less and less while a round of decisions goes on.

    `bound` is what is free of each NUMA node's memory for tasks that are bound to it.
    """

    numa: Mapping[int, Part]
    cpus: set[int]
    memory: int
    bound: dict[int, int]

    def of(self, numa: int | None) -> tuple[set[int], int]:
        """Return free CPUs and memory of one NUMA node, or of all."""
        if numa is None:
            return self.cpus, self.memory
        return self.cpus & self.numa[numa].cpus, min(self.memory, self.bound[numa])

    def fits(self, demand: Demand) -> bool:
        """Whether it is enough for a task."""
        cpus, memory = self.of(demand.numa)
        return len(cpus) >= demand.cores and memory >= demand.memory

    def take(self, demand: Demand) -> tuple[int, ...] | None:
        """Take what a task needs and return its CPUs; None if it only claims what there is."""
        usable, memory = self.of(demand.numa)
        fits = self.fits(demand)
        cpus = self._choose(usable, demand.cores)
        self.cpus.difference_update(cpus)
        taken = min(memory, demand.memory)
        self.memory -= taken
        if demand.numa is not None:
            self.bound[demand.numa] -= taken
        return cpus if fits else None

    def _choose(self, usable: set[int], cores: int) -> tuple[int, ...]:
        """Return `cores` of the usable CPUs, within the fullest NUMA node that has so many."""
        parts = [usable & part.cpus for part in self.numa.values()]
        fitting = [part for part in parts if len(part) >= cores]
        within = min(fitting, key=lambda part: (len(part), min(part, default=0)), default=usable)
        return tuple(sorted(within)[:cores])


@dataclass(slots=True)
class Machine:
    """A node's accounts; `closed` says why no task may start there, None that it may."""

    whole: Part
    numa: Mapping[int, Part]
    lacks: frozenset[str] = frozenset()
    closed: str | None = "is offline"
    held: dict[int, Holding] = field(default_factory=dict[int, Holding])
    # Counted when somebody asks; None once a task has come or gone.
    _room: Room | None = None

    @classmethod
    def unknown(cls) -> Self:
        """Return the accounts of a node of which only its tasks are known."""
        return cls(Part(frozenset(), 0), {})

    def part(self, numa: int | None) -> Part | None:
        """Return the whole, or one NUMA node; None if there is no such one.

        Of a NUMA node's memory no more can be given out than the node itself gives out.
        """
        if numa is None:
            return self.whole
        part = self.numa.get(numa)
        return part and Part(part.cpus, min(part.memory, self.whole.memory))

    def could_hold(self, demand: Demand) -> bool:
        """Whether a task would fit if nothing else ran."""
        part = self.part(demand.numa)
        return part is not None and demand.cores <= len(part.cpus) and demand.memory <= part.memory

    def hold(self, task_id: int, demand: Demand, cpus: frozenset[int]) -> None:
        """Account what a task holds."""
        self._room = None
        self.held[task_id] = Holding(cpus, demand.memory, demand.numa)

    def release(self, task_id: int) -> None:
        """Account that a task holds nothing any more."""
        self._room = None
        self.held.pop(task_id, None)

    def memory_in_use(self, numa: int | None = None) -> int:
        """Return the sum of the memory limits on the node, or of the tasks bound to a part."""
        return sum(one.memory for one in self.held.values() if numa in (None, one.numa))

    def room(self) -> Room:
        """Return what nobody holds, to be taken from freely."""
        if self._room is None:
            self._room = self._counted()
        room = self._room
        return Room(room.numa, set(room.cpus), room.memory, dict(room.bound))

    def _counted(self) -> Room:
        """Count what nobody holds; never negative, though the node came back smaller."""
        return Room(
            self.numa,
            set(self.whole.cpus.difference(*(one.cpus for one in self.held.values()))),
            max(0, self.whole.memory - self.memory_in_use()),
            {
                number: max(0, part.memory - self.memory_in_use(number))
                for number, part in self.numa.items()
            },
        )
