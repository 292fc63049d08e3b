from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from hakuriver.host.scheduler import Assignment, Demand, Scheduler
from hakuriver.model.targets import Target

NODES: dict[str, tuple[frozenset[int], dict[int, frozenset[int]]]] = {
    "a": (frozenset(range(4)), {0: frozenset({0, 1}), 1: frozenset({2, 3})}),
    "b": (frozenset(range(10, 16)), {0: frozenset({10, 11}), 2: frozenset({12, 13, 14, 15})}),
    "c": (frozenset({0, 1, 2}), {}),
}
TARGETS = [
    None,
    *[Target(name) for name in NODES],
    *[Target(name, numa) for name, (_, parts) in NODES.items() for numa in parts],
]
#: What the node "b" cannot enforce; a demand with a target was checked before it came here.
LACKS = {"a": frozenset[str](), "b": frozenset({"time_limit"}), "c": frozenset[str]()}
DEMANDS = st.builds(Demand, st.integers(0, 7), st.sampled_from(TARGETS)) | st.builds(
    Demand, st.integers(0, 7), st.none(), st.just(frozenset({"time_limit"}))
)


def part_of(name: str, target: Target | None) -> frozenset[int]:
    cpus, numa = NODES[name]
    return cpus if target is None or target.numa is None else numa[target.numa]


def places(demand: Demand) -> set[tuple[str, int]]:
    """Return all CPUs, as (node, number), that a demand may use or claim."""
    names = [name for name in NODES if not demand.needs & LACKS[name]]
    if demand.target is not None:
        names = [demand.target.node]
    # A place too small for it is none that it could ever use.
    names = [name for name in names if len(part_of(name, demand.target)) >= demand.cores]
    return {(name, cpu) for name in names for cpu in part_of(name, demand.target)}


class Deciding(RuleBasedStateMachine):
    """The scheduler against a model that knows who holds what, and the queue's order."""

    ids = Bundle("ids")

    @initialize(flags=st.tuples(st.booleans(), st.booleans(), st.booleans()))
    def begin(self, flags: tuple[bool, bool, bool]) -> None:
        self.scheduler = Scheduler()
        self.open: dict[str, bool] = {}
        self.queue: dict[int, Demand] = {}
        self.held: dict[int, tuple[str, frozenset[int]]] = {}
        self.count = 0
        for name, is_open in zip(NODES, flags, strict=True):
            self.set_node(name, is_open)

    def set_node(self, name: str, is_open: bool) -> None:  # noqa: FBT001
        cpus, numa = NODES[name]
        self.scheduler.set_node(name, cpus, numa, lacks=LACKS[name], open_=is_open)
        self.open[name] = is_open

    def taken(self, name: str) -> set[int]:
        return {cpu for node, cpus in self.held.values() if node == name for cpu in cpus}

    def free(self, name: str) -> set[int]:
        return set(NODES[name][0]) - self.taken(name)

    @rule(name=st.sampled_from(list(NODES)), is_open=st.booleans())
    def open_or_close(self, name: str, is_open: bool) -> None:  # noqa: FBT001
        self.set_node(name, is_open)

    @rule(target=ids, demand=DEMANDS)
    def enqueue(self, demand: Demand) -> int:
        self.count += 1
        self.scheduler.enqueue(self.count, demand)
        self.queue[self.count] = demand
        return self.count

    @rule(target=ids, name=st.sampled_from(list(NODES)), data=st.data())
    def hold(self, name: str, data: st.DataObject) -> int:
        free = sorted(self.free(name))
        cpus = data.draw(st.sets(st.sampled_from(free), max_size=3)) if free else set[int]()
        self.count += 1
        self.scheduler.hold(self.count, name, cpus)
        self.held[self.count] = (name, frozenset(cpus))
        return self.count

    @rule(task_id=ids)
    def told_again(self, task_id: int) -> None:
        if task_id in self.held:
            self.scheduler.hold(task_id, *self.held[task_id])

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
        demand = self.queue.pop(decision.task_id)
        assert self.open[decision.node]
        if demand.target is not None:
            assert decision.node == demand.target.node
        assert not demand.needs & LACKS[decision.node]
        assert len(decision.cpus) == len(set(decision.cpus)) == demand.cores
        assert set(decision.cpus) <= part_of(decision.node, demand.target)
        assert not set(decision.cpus) & self.taken(decision.node)
        self.held[decision.task_id] = (decision.node, frozenset(decision.cpus))

    def check_order(self, before: dict[int, Demand], decisions: list[Assignment]) -> None:
        """A task that waits keeps all CPUs it could use on its target from later ones."""
        started = {decision.task_id: decision for decision in decisions}
        for waiting in self.queue:
            demand = before[waiting]
            later = [started[other] for other in started if other > waiting]
            for decision in later:
                # Of two tasks with the same demand the earlier one starts first.
                assert before[decision.task_id] != demand
                if demand.target is not None and self.open[demand.target.node]:
                    used = {(decision.node, cpu) for cpu in decision.cpus}
                    assert not used & places(demand)

    def check_waiting(self) -> None:
        """Whoever waits although it fits has somebody before it who may claim what it needs."""
        claims: set[tuple[str, int]] = set()
        for demand in self.queue.values():
            fits = any(
                self.open[name]
                and len(self.free(name) & {cpu for node, cpu in places(demand) if node == name})
                >= demand.cores
                for name in NODES
                if demand.target is None or demand.target.node == name
                if not demand.needs & LACKS[name]
            )
            if fits:
                assert demand.cores > 0
                assert claims & places(demand)
            claims |= places(demand)

    @invariant()
    def free_is_what_nobody_holds(self) -> None:
        for name in NODES:
            assert self.scheduler.free(name) == self.free(name)

    @invariant()
    def positions_are_the_queues(self) -> None:
        for index, task_id in enumerate(self.queue):
            assert self.scheduler.position(task_id) == index
            assert self.scheduler.waits_for(task_id)
        for task_id in self.held:
            assert self.scheduler.position(task_id) is None
            assert self.scheduler.waits_for(task_id) is None


TestDeciding = Deciding.TestCase
TestDeciding.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def one_node(cores: int = 4, *, numa: bool = True) -> Scheduler:
    scheduler = Scheduler()
    half = cores // 2
    parts = {0: range(half), 1: range(half, cores)} if numa else {}
    scheduler.set_node("n", range(cores), parts, open_=True)
    return scheduler


def started_by(scheduler: Scheduler) -> list[int]:
    return [decision.task_id for decision in scheduler.decide()]


def test_one_numa_node_that_is_full_never_holds_up_the_other() -> None:
    scheduler = one_node()
    for task_id in range(1, 6):
        scheduler.enqueue(task_id, Demand(2, Target("n", 0)))
    scheduler.enqueue(6, Demand(2, Target("n", 1)))
    assert started_by(scheduler) == [1, 6]


def test_a_big_task_at_the_head_gets_what_becomes_free() -> None:
    scheduler = one_node()
    for task_id in range(1, 5):
        scheduler.hold(task_id, "n", [task_id - 1])
    scheduler.enqueue(100, Demand(4, Target("n")))
    for round_number in range(1, 5):
        scheduler.enqueue(100 + round_number, Demand(1, Target("n")))
        scheduler.remove(round_number)
        assert started_by(scheduler) == ([100] if round_number == 4 else [])


@settings(max_examples=60)
@given(st.lists(st.integers(1, 2), min_size=8, max_size=8), st.sampled_from([4, 5, 6]))
def test_a_big_task_without_a_target_is_not_starved_either(sizes: list[int], big: int) -> None:
    scheduler = Scheduler()
    for name, (cpus, numa) in NODES.items():
        scheduler.set_node(name, cpus, numa, open_=True)
    running: deque[int] = deque()
    for task_id in range(1, 40):
        scheduler.enqueue(task_id, Demand(sizes[task_id % 8]))
    running.extend(started_by(scheduler))
    scheduler.enqueue(100, Demand(big))
    for step in range(200, 400):
        # A later small one comes whenever an earlier one ends, the oldest first.
        scheduler.enqueue(step, Demand(sizes[step % 8]))
        scheduler.remove(running.popleft())
        now = started_by(scheduler)
        running.extend(now)
        if 100 in now:
            return
        assert running
    pytest.fail("the big task never started")


def test_a_task_of_no_cores_starts_on_a_full_node() -> None:
    scheduler = one_node()
    scheduler.hold(1, "n", range(4))
    scheduler.enqueue(2, Demand(1, Target("n")))
    scheduler.enqueue(3, Demand(0, Target("n", 1)))
    scheduler.enqueue(4, Demand(0))
    assert scheduler.decide() == [Assignment(3, "n", ()), Assignment(4, "n", ())]


def test_without_a_target_the_node_with_the_most_free_cores_is_taken() -> None:
    scheduler = Scheduler()
    for name, (cpus, numa) in NODES.items():
        scheduler.set_node(name, cpus, numa, open_=True)
    scheduler.hold(1, "b", [10, 11, 12])
    scheduler.enqueue(2, Demand(1))
    assert scheduler.decide()[0].node == "a"


def test_a_task_lies_within_one_numa_node_where_it_can() -> None:
    scheduler = one_node(8)
    scheduler.hold(1, "n", [4])
    scheduler.enqueue(2, Demand(3))
    assert scheduler.decide()[0].cpus == (5, 6, 7)
    scheduler.enqueue(3, Demand(4))
    assert scheduler.decide()[0].cpus == (0, 1, 2, 3)


def test_cpus_outside_of_what_a_node_gives_out_now_stay_unknown() -> None:
    scheduler = one_node()
    scheduler.hold(1, "n", [2, 3])
    scheduler.set_node("n", range(2), {}, open_=True)
    assert scheduler.free("n") == {0, 1}
    scheduler.remove(1)
    assert scheduler.free("n") == {0, 1}


def test_what_runs_on_a_node_that_is_not_known_yet_is_held_when_it_comes() -> None:
    scheduler = Scheduler()
    scheduler.hold(1, "n", [0])
    scheduler.set_node("n", range(2), {}, open_=True)
    assert scheduler.free("n") == {1}


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        (Demand(4, Target("a")), None),
        (Demand(5, Target("a")), "asks for 5 cores, a has 4"),
        (Demand(3, Target("a", 0)), "asks for 3 cores, a:0 has 2"),
        (Demand(1, Target("a", 2)), "a has no NUMA node 2 (it has: 0, 1)"),
        (Demand(1, Target("c", 0)), "c has no NUMA node 0 (it has: none are known)"),
        (Demand(0, Target("zz")), "there is no node 'zz' (nodes: a, b, c)"),
        (Demand(6), None),
        (Demand(7), "asks for 7 cores, the largest node has 6"),
        (Demand(0), None),
    ],
)
def test_what_can_never_run(demand: Demand, words: str | None) -> None:
    scheduler = Scheduler()
    for name, (cpus, numa) in NODES.items():
        scheduler.set_node(name, cpus, numa, open_=False)
    assert scheduler.impossible(demand) == words


def test_without_nodes_nothing_can_run() -> None:
    assert Scheduler().impossible(Demand(1)) == "asks for 1 core, the largest node has 0"


def test_what_a_task_waits_for_in_words() -> None:
    scheduler = one_node()
    scheduler.hold(1, "n", [0, 1, 2])
    for task_id, demand in enumerate([Demand(2), Demand(2, Target("n")), Demand(1, Target("x"))]):
        scheduler.enqueue(10 + task_id, demand)
    assert scheduler.waits_for(10) == "waits for a node with 2 cores free"
    assert scheduler.waits_for(11) == "waits for 2 cores on n (1 free)"
    assert scheduler.waits_for(12) == "waits for x to take tasks"


def test_a_long_queue_is_decided_quickly() -> None:
    scheduler = one_node(64)
    for task_id in range(10_000):
        scheduler.enqueue(task_id, Demand(1))
    assert started_by(scheduler) == list(range(64))
    assert started_by(scheduler) == []
