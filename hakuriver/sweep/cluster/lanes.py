"""Where the next task of a sweep goes: pure decisions over what is known of the targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hakuriver.errors import NodeOffline, NotFound
from hakuriver.model.nodes import NodeStatus
from hakuriver.model.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hakuriver.model.views import NodeView

#: So many tasks are in flight at most, each with two logs that are followed.
MAX_FLYING = 200
_MOMENT = 1.0
_QUICK_ONES = 8


@dataclass(slots=True)
class Lane:
    """A target: how many tasks had room there at first, and which of ours wait and run there.

    `quick` says that the last one took no longer than a moment.
    """

    target: str
    room: int
    quick: bool = False
    waiting: set[int] = field(default_factory=set[int])
    running: set[int] = field(default_factory=set[int])
    closed: bool = False

    @property
    def free(self) -> int:
        """How many more may wait here: as many as had room, and one where none had.

        Of quick ones there are more, or the way to the host and back would be what they take.
        """
        most = max(1, self.room) * (_QUICK_ONES if self.quick else 1)
        return 0 if self.closed else max(0, most - len(self.waiting))

    @property
    def load(self) -> float:
        """How full it is beside others."""
        return (len(self.waiting) + len(self.running)) / max(1, self.room)

    def starts(self, index: int) -> None:
        """Take note that a task runs."""
        if index in self.waiting:
            self.waiting.remove(index)
            self.running.add(index)

    def ends(self, index: int, seconds: float | None = None) -> None:
        """Take note that a task has ended, and how long it ran if it did."""
        if seconds is not None:
            self.quick = seconds < _MOMENT
        self.waiting.discard(index)
        self.running.discard(index)


class Lanes:
    """The targets of a sweep. A task goes to the one with the least load that has room."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._lanes = {lane.target: lane for lane in lanes}

    def at(self, target: str) -> Lane:
        """Return the lane of a target; a closed one for a target of an earlier pass alone."""
        return self._lanes.setdefault(target, Lane(target, 0, closed=True))

    @property
    def flying(self) -> int:
        """How many tasks have been submitted and have not ended."""
        return sum(len(lane.waiting) + len(lane.running) for lane in self._lanes.values())

    @property
    def closed(self) -> bool:
        """Whether no target takes any more."""
        return all(lane.closed for lane in self._lanes.values())

    def take(self, index: int) -> Lane | None:
        """Give a task a place, and return where; None if there is none now."""
        free = [lane for lane in self._lanes.values() if lane.free]
        if not free or self.flying >= MAX_FLYING:
            return None
        lane = min(free, key=lambda each: each.load)
        lane.waiting.add(index)
        return lane


def lanes_of(targets: Sequence[str], nodes: Iterable[NodeView], cores: int) -> Lanes:
    """Return a lane for each target, with the room there is now for tasks of so many cores.

    Raises:
        NotFound: there is no such node, or it has no such NUMA node.
        NodeOffline: the node is offline.
    """
    known = {node.hostname: node for node in nodes}
    return Lanes(Lane(target, _room(target, known, cores)) for target in dict.fromkeys(targets))


def _room(name: str, nodes: dict[str, NodeView], cores: int) -> int:
    target = Target.parse(name)
    node = nodes.get(target.node)
    if node is None:
        raise NotFound(f"--on {name}: there is no node {target.node}; there are {', '.join(nodes)}")
    if node.status is not NodeStatus.ONLINE:
        raise NodeOffline(f"--on {name}: the node is offline; leave it out, or wait for it")
    if target.numa is None:
        total, free = node.total_cores, node.available_cores
    else:
        account = node.numa_use.get(str(target.numa))
        if account is None:
            raise NotFound(f"--on {name}: {target.node} has no NUMA node {target.numa}")
        total, free = account.total_cores, account.total_cores - account.cores_in_use
    return free // cores if cores else total
