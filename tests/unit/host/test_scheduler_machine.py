"""The scheduler against a model of it, through any history."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from hakuriver.host.rooms import Demand
from hakuriver.host.scheduler import Scheduler
from hakuriver.model.targets import Target
from support.host_rooms import NODES, OFFLINE, part

if TYPE_CHECKING:
    from hakuriver.host.rooms import Assignment, Part

TARGETS = [
    None,
    *[Target(name) for name in NODES],
    *[Target(name, numa) for name, (_, parts) in NODES.items() for numa in parts],
]
#: What the node "b" cannot enforce; a demand with a target was checked before it came here.
LACKS = {"a": frozenset[str](), "b": frozenset({"time_limit"}), "c": frozenset[str]()}
MEMORY = st.sampled_from([0, 0, 1, 2, 3, 4, 5, 8, 9, 11])
DEMANDS = st.builds(
    Demand, st.integers(0, 7), MEMORY, st.sampled_from(TARGETS), st.just(frozenset[str]())
) | st.builds(Demand, st.integers(0, 7), MEMORY, st.none(), st.just(frozenset({"time_limit"})))


def part_of(name: str, target: Target | None) -> Part:
    whole, parts = NODES[name]
    if target is None or target.numa is None:
        return whole
    return part(parts[target.numa].cpus, min(parts[target.numa].memory, whole.memory))


def homes(demand: Demand) -> set[str]:
    """Return the nodes that a demand may ever start on: they are large enough, and able."""
    names = [name for name in NODES if not demand.needs & LACKS[name]]
    if demand.target is not None:
        names = [demand.target.node]
    parts = {name: part_of(name, demand.target) for name in names}
    return {
        name
        for name, one in parts.items()
        if demand.cores <= len(one.cpus) and demand.memory <= one.memory
    }


def share(one: Demand, other: Demand) -> bool:
    """Whether two demands may want the same CPU, or the same memory."""
    for name in homes(one) & homes(other):
        cpus = part_of(name, one.target).cpus & part_of(name, other.target).cpus
        if (one.cores and other.cores and cpus) or (one.memory and other.memory):
            return True
    return False


class Held(NamedTuple):
    """What the model knows of a task that runs."""

    node: str
    cpus: frozenset[int]
    demand: Demand


class Deciding(RuleBasedStateMachine):
    """The scheduler against a model that knows who holds what, and the queue's order."""

    ids = Bundle("ids")

    @initialize(flags=st.tuples(st.booleans(), st.booleans(), st.booleans()))
    def begin(self, flags: tuple[bool, bool, bool]) -> None:
        self.scheduler = Scheduler()
        self.open: dict[str, bool] = {}
        self.queue: dict[int, Demand] = {}
        self.held: dict[int, Held] = {}
        self.count = 0
        for name, is_open in zip(NODES, flags, strict=True):
            self.set_node(name, is_open)

    def set_node(self, name: str, is_open: bool) -> None:  # noqa: FBT001
        closed = None if is_open else OFFLINE
        self.scheduler.set_node(name, *NODES[name], lacks=LACKS[name], closed=closed)
        self.open[name] = is_open

    def free(self, name: str) -> set[int]:
        taken = (one.cpus for one in self.held.values() if one.node == name)
        return set(NODES[name][0].cpus.difference(*taken))

    def limits(self, name: str, numa: int | None = None) -> int:
        """Return the sum of the memory limits on a node, or of the tasks bound to a part."""
        on_it = [one.demand for one in self.held.values() if one.node == name]
        return sum(demand.memory for demand in on_it if numa in (None, demand.numa))

    def memory(self, name: str, numa: int | None = None) -> int:
        """Return the memory of a node, or of a part for tasks bound to it, that is free."""
        whole, parts = NODES[name]
        has = whole.memory if numa is None else parts[numa].memory
        return max(0, has - self.limits(name, numa))

    @rule(name=st.sampled_from(list(NODES)), is_open=st.booleans())
    def open_or_close(self, name: str, is_open: bool) -> None:  # noqa: FBT001
        self.set_node(name, is_open)

    @rule(target=ids, demand=DEMANDS)
    def enqueue(self, demand: Demand) -> int:
        self.count += 1
        self.scheduler.enqueue(self.count, demand)
        self.queue[self.count] = demand
        return self.count

    @rule(target=ids, name=st.sampled_from(list(NODES)), memory=MEMORY, data=st.data())
    def hold(self, name: str, memory: int, data: st.DataObject) -> int:
        """A node tells of a task; its limits may exceed what the node gives out by now."""
        free = sorted(self.free(name))
        cpus = data.draw(st.sets(st.sampled_from(free), max_size=3)) if free else set[int]()
        numa = data.draw(st.sampled_from([None, *NODES[name][1]]))
        self.count += 1
        self.held[self.count] = Held(
            name, frozenset(cpus), Demand(len(cpus), memory, Target(name, numa))
        )
        self.tell(self.count)
        return self.count

    def tell(self, task_id: int) -> None:
        held = self.held[task_id]
        self.scheduler.hold(task_id, held.node, held.demand, held.cpus)

    @rule(task_id=ids)
    def told_again(self, task_id: int) -> None:
        if task_id in self.held:
            self.tell(task_id)

    @rule(task_id=ids)
    def put_back(self, task_id: int) -> None:
        """A decision was not carried out: the task has its old place in the queue."""
        held = self.held.pop(task_id, None)
        if held is not None:
            self.scheduler.put_back(task_id, held.demand)
            self.queue[task_id] = held.demand
            self.queue = dict(sorted(self.queue.items()))

    @rule(task_id=consumes(ids))
    def remove(self, task_id: int) -> None:
        self.scheduler.remove(task_id)
        self.queue.pop(task_id, None)
        self.held.pop(task_id, None)

    @rule(task_id=st.integers(10_000, 10_003))
    def remove_what_is_unknown(self, task_id: int) -> None:
        self.scheduler.remove(task_id)

    @rule()
    def decide(self) -> None:
        before = dict(self.queue)
        order = list(before)
        decisions = self.scheduler.decide()
        decided = [decision.task_id for decision in decisions]
        assert decided == sorted(set(decided), key=order.index)
        for decision in decisions:
            self.check_one(decision)
        self.check_order(before, decisions)
        self.check_waiting()
        assert self.scheduler.decide() == []

    def check_one(self, decision: Assignment) -> None:
        """What starts gets what it asked for, where it may, of what nobody held."""
        demand = self.queue.pop(decision.task_id)
        assert self.open[decision.node]
        assert decision.node in homes(demand)
        assert len(decision.cpus) == len(set(decision.cpus)) == demand.cores
        within = part_of(decision.node, demand.target)
        assert set(decision.cpus) <= within.cpus & self.free(decision.node)
        self.held[decision.task_id] = Held(decision.node, frozenset(decision.cpus), demand)
        if demand.memory:
            whole, parts = NODES[decision.node]
            assert self.limits(decision.node) <= whole.memory
            if demand.numa is not None:
                bound = self.limits(decision.node, demand.numa)
                assert bound <= parts[demand.numa].memory

    def check_order(self, before: dict[int, Demand], decisions: list[Assignment]) -> None:
        """A task that waits keeps what it could use on its target from later ones."""
        for waiting, demand in self.queue.items():
            later = [one for one in decisions if one.task_id > waiting]
            # Of two tasks with the same demand the earlier one starts first.
            assert all(before[one.task_id] != demand for one in later)
            for name in homes(demand):
                if demand.target is not None and self.open[name]:
                    there = [one for one in later if one.node == name]
                    self.check_claim(demand, there, before)

    def check_claim(
        self, demand: Demand, later: list[Assignment], before: dict[int, Demand]
    ) -> None:
        """Those who came later took only what was left when the claim was served."""
        assert demand.target is not None
        name, numa = demand.target.node, demand.numa
        cpus = part_of(name, demand.target).cpus
        used = sum(len(cpus.intersection(one.cpus)) for one in later)
        assert used <= max(0, len(self.free(name) & cpus) + used - demand.cores)
        total = sum(before[one.task_id].memory for one in later)
        bound = sum(before[one.task_id].memory for one in later if before[one.task_id].numa == numa)
        was_free = [self.memory(name) + total]
        if numa is not None:
            was_free.append(self.memory(name, numa) + bound)
        claimed = min(demand.memory, *was_free)
        assert total <= was_free[0] - claimed
        assert numa is None or bound <= was_free[1] - claimed

    def fits(self, demand: Demand, name: str) -> bool:
        cpus = self.free(name) & part_of(name, demand.target).cpus
        memory = self.memory(name)
        if demand.numa is not None:
            memory = min(memory, self.memory(name, demand.numa))
        return len(cpus) >= demand.cores and memory >= demand.memory

    def check_waiting(self) -> None:
        """Whoever waits although it fits has somebody before it who may claim what it needs."""
        earlier: list[Demand] = []
        for demand in self.queue.values():
            if any(self.open[name] and self.fits(demand, name) for name in homes(demand)):
                assert any(share(demand, other) for other in earlier), demand
            earlier.append(demand)

    @invariant()
    def free_is_what_nobody_holds(self) -> None:
        for name, (_, parts) in NODES.items():
            room = self.scheduler.machine(name).room()
            assert room.cpus == self.free(name)
            assert room.memory == self.memory(name) >= 0
            assert room.bound == {numa: self.memory(name, numa) for numa in parts}
            assert min(room.bound.values(), default=0) >= 0

    @invariant()
    def positions_are_the_queues(self) -> None:
        for index, task_id in enumerate(self.queue):
            assert self.scheduler.position(task_id) == index
            words = self.scheduler.waits_for(task_id) or ""
            assert words.startswith(("waits for ", "cannot start now: "))
            assert words.endswith(" before it") == (index > 0)
        for task_id in self.held:
            assert self.scheduler.position(task_id) is None
            assert self.scheduler.waits_for(task_id) is None


TestDeciding = Deciding.TestCase
TestDeciding.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
