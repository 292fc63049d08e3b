from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakuriver.host.rooms import Assignment, Demand
from hakuriver.host.scheduler import Scheduler
from hakuriver.model.targets import Target
from support.host_rooms import NODES, OFFLINE, part

if TYPE_CHECKING:
    from collections.abc import Iterable

GIB = 1 << 30


def one_node(cores: int = 4, *, numa: bool = True, memory: int = 8) -> Scheduler:
    scheduler = Scheduler()
    half = cores // 2
    halves = {0: part(range(half), memory // 2), 1: part(range(half, cores), memory // 2)}
    scheduler.set_node("n", part(range(cores), memory), halves if numa else {}, closed=None)
    return scheduler


def all_nodes(closed: str | None = None) -> Scheduler:
    scheduler = Scheduler()
    for name, (whole, parts) in NODES.items():
        scheduler.set_node(name, whole, parts, closed=closed)
    return scheduler


def hold(scheduler: Scheduler, task_id: int, cpus: Iterable[int], memory: int = 0) -> None:
    cpus = list(cpus)
    scheduler.hold(task_id, "n", Demand(len(cpus), memory, Target("n")), cpus)


def started_by(scheduler: Scheduler) -> list[int]:
    return [decision.task_id for decision in scheduler.decide()]


# -- who is not held up -------------------------------------------------------------------


def test_one_numa_node_that_is_full_never_holds_up_the_other() -> None:
    scheduler = one_node()
    for task_id in range(1, 6):
        scheduler.enqueue(task_id, Demand(2, target=Target("n", 0)))
    scheduler.enqueue(6, Demand(2, target=Target("n", 1)))
    assert started_by(scheduler) == [1, 6]


def test_one_numa_node_without_memory_never_holds_up_the_other() -> None:
    scheduler = one_node()
    for task_id in range(1, 6):
        scheduler.enqueue(task_id, Demand(0, 3, Target("n", 0)))
    scheduler.enqueue(6, Demand(0, 4, Target("n", 1)))
    assert started_by(scheduler) == [1, 6]


BOUND = st.builds(
    Demand, st.integers(0, 2), st.integers(0, 4), st.builds(Target, st.just("n"), st.integers(0, 1))
)


@settings(max_examples=100)
@given(st.lists(BOUND, max_size=12), st.lists(st.integers(0, 11), max_size=6))
def test_the_two_halves_of_a_node_go_their_own_ways(demands: list[Demand], ends: list[int]) -> None:
    """Tasks bound to one half start when they would if the other half had none."""

    def history(numa: int | None) -> list[list[int]]:
        scheduler = one_node()
        rounds: list[list[int]] = []
        for task_id, demand in enumerate(demands):
            if numa in (None, demand.numa):
                scheduler.enqueue(task_id, demand)
        for end in [None, *ends]:
            if end is not None:
                scheduler.remove(end)
            rounds.append(started_by(scheduler))
        return rounds

    both = history(None)
    for half in (0, 1):
        own = [[task for task in found if demands[task].numa == half] for found in both]
        assert own == history(half)


def test_a_task_without_a_memory_limit_is_not_held_up_by_those_that_wait_for_memory() -> None:
    scheduler = one_node()
    hold(scheduler, 1, [0], memory=8)
    scheduler.enqueue(2, Demand(1, 2, Target("n")))
    scheduler.enqueue(3, Demand(1, 0, Target("n")))
    scheduler.enqueue(4, Demand(1, 1, Target("n")))
    # The one that waits keeps one CPU for itself, and no more.
    assert started_by(scheduler) == [3]
    scheduler.enqueue(5, Demand(2, 0, Target("n")))
    assert started_by(scheduler) == []


# -- nobody starves -----------------------------------------------------------------------


def test_a_big_task_at_the_head_gets_what_becomes_free() -> None:
    scheduler = one_node()
    for task_id in range(1, 5):
        hold(scheduler, task_id, [task_id - 1])
    scheduler.enqueue(100, Demand(4, target=Target("n")))
    for round_number in range(1, 5):
        scheduler.enqueue(100 + round_number, Demand(1, target=Target("n")))
        scheduler.remove(round_number)
        assert started_by(scheduler) == ([100] if round_number == 4 else [])


@pytest.mark.parametrize("target", [Target("n"), Target("n", 0)], ids=str)
def test_a_task_of_much_memory_at_the_head_gets_what_becomes_free(target: Target) -> None:
    scheduler = one_node(8)
    for task_id in range(1, 5):
        scheduler.hold(task_id, "n", Demand(0, 1, Target("n", 0)), [])
    hold(scheduler, 5, [], memory=4)
    scheduler.enqueue(100, Demand(1, 4, target))
    for round_number in range(1, 5):
        # Small ones of both kinds come later, and what needs no memory goes on.
        scheduler.enqueue(100 + 2 * round_number, Demand(0, 1, target))
        scheduler.enqueue(101 + 2 * round_number, Demand(0, 0, target))
        scheduler.remove(round_number)
        light = [101 + 2 * round_number]
        assert started_by(scheduler) == ([100] if round_number == 4 else []) + light


SMALL = st.tuples(st.integers(1, 2), st.integers(0, 4))
BIG = st.sampled_from([(4, 0), (5, 0), (6, 0), (1, 8), (2, 10), (0, 9), (4, 8), (6, 10)])


@settings(max_examples=60)
@given(
    st.lists(SMALL, min_size=8, max_size=8),
    BIG,
    st.booleans(),
    st.lists(st.integers(0, 3), min_size=7, max_size=7),
)
def test_a_big_task_is_not_starved(
    sizes: list[tuple[int, int]],
    big: tuple[int, int],
    targeted: bool,  # noqa: FBT001
    picks: list[int],
) -> None:
    """Small ones come for ever, and each of them ends before long, in any order."""
    scheduler = all_nodes()
    running: deque[int] = deque()
    for task_id in range(1, 40):
        scheduler.enqueue(task_id, Demand(*sizes[task_id % 8]))
    running.extend(started_by(scheduler))
    scheduler.enqueue(100, Demand(*big, Target("b") if targeted else None))
    for step in range(200, 600):
        # A later small one comes whenever an earlier one ends: one of the four oldest, and
        # every fourth time the oldest.
        scheduler.enqueue(step, Demand(*sizes[step % 8]))
        ended = running[picks[step % 7] % min(4, len(running)) if step % 4 else 0]
        running.remove(ended)
        scheduler.remove(ended)
        now = started_by(scheduler)
        running.extend(now)
        if 100 in now:
            return
        assert running
    pytest.fail("the big task never started")


def test_a_claim_stays_on_its_node_while_others_have_more_free_cores() -> None:
    scheduler = Scheduler()
    for name in ("a", "b"):
        scheduler.set_node(name, part(range(8), 8), {}, closed=None)
    kinds = [Demand(0, 2), Demand(2, 0)]
    for task_id in range(1, 60):
        scheduler.enqueue(task_id, kinds[task_id % 2])
    running = deque(started_by(scheduler))
    scheduler.enqueue(100, Demand(0, 6))
    for step in range(200, 400):
        scheduler.enqueue(step, kinds[step % 2])
        scheduler.remove(running.popleft())
        running.extend(started_by(scheduler))
        if 100 in running:
            return
    pytest.fail("it never got the memory it had claimed")


# -- where, and on what -------------------------------------------------------------------


def test_a_task_of_no_cores_starts_on_a_full_node() -> None:
    scheduler = one_node()
    hold(scheduler, 1, range(4))
    scheduler.enqueue(2, Demand(1, target=Target("n")))
    scheduler.enqueue(3, Demand(0, target=Target("n", 1)))
    scheduler.enqueue(4, Demand(0))
    assert scheduler.decide() == [Assignment(3, "n", ()), Assignment(4, "n", ())]


def test_a_task_of_no_cores_that_is_put_back_still_starts_on_a_full_node() -> None:
    scheduler = one_node()
    hold(scheduler, 1, range(4))
    scheduler.enqueue(2, Demand(0))
    assert started_by(scheduler) == [2]
    scheduler.put_back(2, Demand(0))
    assert started_by(scheduler) == [2]


def test_without_a_target_the_node_with_the_most_free_cores_is_taken() -> None:
    scheduler = all_nodes()
    scheduler.hold(1, "b", Demand(3), [10, 11, 12])
    scheduler.enqueue(2, Demand(1))
    assert scheduler.decide()[0].node == "a"


def test_without_a_target_a_node_with_enough_memory_is_taken() -> None:
    scheduler = all_nodes()
    scheduler.hold(1, "b", Demand(0, 6), [])
    scheduler.enqueue(2, Demand(1, 5))
    assert scheduler.decide()[0].node == "a"


def test_a_task_lies_within_one_numa_node_where_it_can() -> None:
    scheduler = one_node(8)
    hold(scheduler, 1, [4])
    scheduler.enqueue(2, Demand(3))
    assert scheduler.decide()[0].cpus == (5, 6, 7)
    scheduler.enqueue(3, Demand(4))
    assert scheduler.decide()[0].cpus == (0, 1, 2, 3)


def test_cpus_outside_of_what_a_node_gives_out_now_stay_unknown() -> None:
    scheduler = one_node()
    hold(scheduler, 1, [2, 3], memory=6)
    scheduler.set_node("n", part(range(2), 4), {}, closed=None)
    assert scheduler.machine("n").room().cpus == {0, 1}
    assert scheduler.machine("n").room().memory == 0
    scheduler.remove(1)
    assert scheduler.machine("n").room().cpus == {0, 1}
    assert scheduler.machine("n").room().memory == 4


def test_what_runs_on_a_node_that_is_not_known_yet_is_held_when_it_comes() -> None:
    scheduler = Scheduler()
    hold(scheduler, 1, [0], memory=3)
    scheduler.set_node("n", part(range(2), 8), {}, closed=None)
    assert scheduler.machine("n").room().cpus == {1}
    assert scheduler.machine("n").room().memory == 5


def test_a_task_that_its_node_came_back_too_small_for_blocks_nobody() -> None:
    scheduler = one_node()
    scheduler.enqueue(1, Demand(3, target=Target("n")))
    scheduler.enqueue(2, Demand(1, 5, target=Target("n")))
    scheduler.enqueue(3, Demand(1, 4, target=Target("n")))
    scheduler.set_node("n", part(range(2), 4), {}, closed=None)
    assert started_by(scheduler) == [3]


def test_what_is_released_is_free_before_the_task_is_removed() -> None:
    scheduler = one_node()
    hold(scheduler, 1, range(4), memory=8)
    scheduler.enqueue(2, Demand(4, 8))
    scheduler.release(1)
    assert started_by(scheduler) == [2]
    scheduler.remove(1)
    assert scheduler.machine("n").room().cpus == set()
    assert scheduler.machine("n").room().memory == 0


def test_a_room_that_was_handed_out_is_the_askers_own() -> None:
    scheduler = one_node()
    for _ in range(2):
        room = scheduler.machine("n").room()
        assert room.take(Demand(2, 3, Target("n", 0))) == (0, 1)
        assert (room.memory, room.bound) == (5, {0: 1, 1: 4})


# -- words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        (Demand(4, target=Target("a")), None),
        (Demand(5, target=Target("a")), "asks for 5 cores, a has 4"),
        (Demand(3, target=Target("a", 0)), "asks for 3 cores, a:0 has 2"),
        (Demand(1, target=Target("a", 2)), "a has no NUMA node 2 (it has: 0, 1)"),
        (Demand(1, target=Target("c", 0)), "c has no NUMA node 0 (it has: none are known)"),
        (Demand(0, target=Target("zz")), "there is no node 'zz' (nodes: a, b, c)"),
        (Demand(6), None),
        (Demand(7), "asks for 7 cores, the largest node has 6"),
        (Demand(0), None),
        (Demand(0, 10), None),
        (Demand(4, 10, Target("b")), None),
        (Demand(0, 9, Target("a")), "asks for 9 B of memory, a has 8 B"),
        (Demand(0, 5, Target("a", 1)), "asks for 5 B of memory, a:1 has 4 B"),
        (Demand(0, 11), "asks for 11 B of memory, the largest node has 10 B"),
        (Demand(7, 11), "asks for 7 cores, the largest node has 6"),
    ],
)
def test_what_can_never_run(demand: Demand, words: str | None) -> None:
    assert all_nodes(OFFLINE).impossible(demand) == words


def test_what_no_single_node_has() -> None:
    scheduler = Scheduler()
    scheduler.set_node("big", part(range(8), GIB), {}, closed=None)
    scheduler.set_node("deep", part(range(2), 8 * GIB), {}, closed=None)
    words = "no node has both 3 cores and 2 GiB of memory"
    assert scheduler.impossible(Demand(3, 2 * GIB)) == words


def test_without_nodes_there_is_no_saying_what_is_too_large() -> None:
    assert Scheduler().impossible(Demand(1)) is None
    words = "there is no node 'n' (nodes: none)"
    assert Scheduler().impossible(Demand(1, target=Target("n"))) == words


def test_what_a_task_waits_for_in_words() -> None:
    scheduler = one_node(memory=4 * GIB)
    hold(scheduler, 1, [0, 1, 2], memory=3 * GIB)
    scheduler.set_node("away", part(range(4), GIB), {}, closed=OFFLINE)
    scheduler.set_node("dry", part(range(4), GIB), {}, closed="is draining")
    told = [
        (Demand(2), "waits for a node with 2 cores free"),
        (Demand(2, target=Target("n")), "waits for 2 cores on n (1 free), 1 task before it"),
        (Demand(1, target=Target("x")), "cannot start now: there is no node 'x' (nodes: *)"),
        (Demand(0, 2 * GIB), "waits for a node with 2 GiB of memory free, 3 tasks before it"),
        (
            Demand(1, 2 * GIB, Target("n")),
            "waits for 2 GiB of memory on n (1 GiB free), 4 tasks before it",
        ),
        (
            Demand(2, 2 * GIB, Target("n")),
            "waits for 2 cores and 2 GiB of memory on n (1 and 1 GiB free), 5 tasks before it",
        ),
        (
            Demand(1, target=Target("n", 0)),
            "waits for 1 core on n:0 (0 free), 6 tasks before it",
        ),
        (Demand(1, target=Target("n")), "waits for its turn on n, 7 tasks before it"),
        (Demand(1, target=Target("away")), "waits for away, which is offline, 8 tasks before it"),
        (Demand(1, target=Target("dry")), "waits for dry, which is draining, 9 tasks before it"),
        (Demand(1, GIB), "waits for a node with 1 core and 1 GiB of memory free, 10 tasks"),
    ]
    for index, (demand, _) in enumerate(told):
        scheduler.enqueue(10 + index, demand)
    for index, (_, words) in enumerate(told):
        found = scheduler.waits_for(10 + index) or ""
        assert found.replace("away, dry, n", "*").startswith(words), words


def test_a_node_that_is_forgotten_is_not_known() -> None:
    scheduler = one_node()
    scheduler.forget_node("n")
    scheduler.forget_node("n")
    scheduler.enqueue(1, Demand(1, target=Target("n")))
    assert scheduler.decide() == []
    assert "there is no node 'n'" in (scheduler.waits_for(1) or "")


def test_what_waited_for_a_node_has_its_old_place_when_that_opens() -> None:
    scheduler = one_node(2)
    room = scheduler.machine("n")
    scheduler.set_node("n", room.whole, {}, closed=OFFLINE)
    scheduler.enqueue(1, Demand(1, target=Target("n")))
    scheduler.enqueue(2, Demand(2))
    scheduler.enqueue(3, Demand(1, target=Target("n")))
    scheduler.enqueue(4, Demand(1))
    assert [scheduler.position(task_id) for task_id in (1, 2, 3, 4)] == [0, 1, 2, 3]
    scheduler.remove(3)
    assert scheduler.position(4) == 2
    scheduler.set_node("n", room.whole, {}, closed=None)
    # The second keeps the other CPU for itself.
    assert started_by(scheduler) == [1]
    scheduler.release(1)
    assert started_by(scheduler) == [2]


def test_a_long_queue_is_decided_quickly() -> None:
    scheduler = one_node(64)
    for task_id in range(10_000):
        scheduler.enqueue(task_id, Demand(1))
    assert started_by(scheduler) == list(range(64))
    assert started_by(scheduler) == []
