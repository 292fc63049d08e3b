"""How often the disk is waited for, what happens when it fails, and who comes first in a race."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING

import pytest

from hakuriver.errors import Conflict, StoreError
from hakuriver.host import cluster as module
from hakuriver.host.store import changes
from hakuriver.model.messages import Acknowledge, Kill, Launch
from hakuriver.model.tasks import TaskState
from support.host_world import Commits, completed, known, node_info, started, until

if TYPE_CHECKING:
    from support.host_world import World

pytestmark = pytest.mark.asyncio

ASSIGNING, RUNNING, COMPLETED = TaskState.ASSIGNING, TaskState.RUNNING, TaskState.COMPLETED
KILLED, PENDING, LOST = TaskState.KILLED, TaskState.PENDING, TaskState.LOST


@pytest.fixture
def commits(world: World, monkeypatch: pytest.MonkeyPatch) -> Commits:
    monkeypatch.setattr(module, "_STORE_PAUSE", 0.01)
    return Commits(world.store, monkeypatch)


# -- how many commits ---------------------------------------------------------------------


async def test_a_task_that_starts_at_once_costs_one_commit_to_be_sent(
    world: World, commits: Commits
) -> None:
    await world.join()
    before = commits.count
    (task,) = await world.submit("n")
    assert world.launches() == [task]
    assert commits.count - before == 1


async def test_many_at_once_cost_one_commit(world: World, commits: Commits) -> None:
    await world.join("n", node_info(range(8)))
    before = commits.count
    replies = await asyncio.gather(*(world.ask("n") for _ in range(100)))
    assert len({reply.batch_id for reply in replies}) == 100
    assert commits.count - before == 1
    await world.settle()
    assert len(world.launches()) == 8


async def test_an_end_and_its_successors_assignment_are_one_commit(
    world: World, commits: Commits
) -> None:
    await world.join("n", node_info([0, 1]))
    first, other, second, third = await world.submit("n", "n", "n", "n")
    for task in (first, other):
        await world.start(task)
    before = commits.count
    await world.finish(first)
    assert commits.count - before == 1
    assert await world.status(first) is COMPLETED
    assert await world.status(second) is ASSIGNING
    assert world.launches() == [first, other, second]
    # A kill ends like any other, and a start has a commit of its own.
    await world.start(second)
    before = commits.count
    await world.finish(second, status=KILLED, exit_code=-15)
    assert commits.count - before == 1
    assert await world.status(third) is ASSIGNING


async def test_the_successor_is_chosen_before_the_disk_is_waited_for(world: World) -> None:
    await world.join("n", node_info([0]))
    first, second = await world.submit("n", "n")
    await world.start(first)
    end = world.cluster.finished("n", completed(first))
    pull = asyncio.ensure_future(end)
    await asyncio.sleep(0)
    # Nothing is on disk yet, and what is not committed is told to nobody.
    assert world.held() == {second}
    assert world.cluster.tasks[second].status is PENDING
    assert world.launches() == [first]
    await pull
    await world.settle()
    assert world.launches() == [first, second]


# -- the store fails ----------------------------------------------------------------------


async def test_an_end_that_cannot_be_stored_is_told_again_and_counted_once(
    world: World, commits: Commits
) -> None:
    link = await world.join("n", node_info([0]))
    first, second, third = await world.submit("n", "n", "n")
    await world.start(first)
    # The end and the successor's assignment are one group, which fails twice.
    commits.failing = 2
    with pytest.raises(StoreError):
        await world.cluster.finished("n", completed(first))
    assert link.ids(Acknowledge) == []
    await until(lambda: second in world.launches())
    await world.settle()
    assert await world.status(second) is ASSIGNING
    # The runner repeats what was not acknowledged.
    assert await world.status(first) is RUNNING
    await world.finish(first)
    assert await world.status(first) is COMPLETED
    assert link.ids(Acknowledge) == [first]
    assert world.held() == {second}
    assert await world.status(third) is PENDING
    await world.finish(second)
    assert world.launches() == [first, second, third]


async def test_a_store_that_fails_for_long_loses_nobody(world: World, commits: Commits) -> None:
    await world.join("n", node_info([0, 1]))
    first, other, *rest = await world.submit(*["n"] * 6)
    await world.start(first)
    commits.failing = 40
    with pytest.raises(StoreError):
        await world.cluster.finished("n", completed(first))
    await until(lambda: not commits.failing)
    await until(lambda: rest[0] in world.launches())
    await world.settle()
    await world.finish(first)
    assert world.held() == {other, rest[0]}
    for done, successor in itertools.pairwise([other, *rest]):
        if done in world.held():
            await world.finish(done)
        assert successor in world.launches()
    assert sorted(world.launches()) == sorted([first, other, *rest])


async def test_a_kill_that_the_store_keeps_and_an_assignment_that_it_loses(
    world: World, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that was killed meanwhile is not queued again when its assignment has failed."""
    await world.join("n", node_info([0]))
    first, second, third = await world.submit("n", "n", "n")
    await world.start(first)
    transition = changes.transition
    gate = asyncio.Event()
    until_set = threading.Event()
    loop = asyncio.get_running_loop()

    def held_up(*args: object, **kwargs: object) -> bool:
        entered = transition(*args, **kwargs)  # type: ignore[arg-type]
        if args[1] is KILLED:
            # While the kill is being written the end of the first comes, and fails.
            loop.call_soon_threadsafe(gate.set)
            until_set.wait(5)
        return entered

    monkeypatch.setattr(changes, "transition", held_up)
    kill = asyncio.ensure_future(world.cluster.kill(second))
    await gate.wait()
    monkeypatch.setattr(changes, "transition", transition)
    end = asyncio.ensure_future(world.cluster.finished("n", completed(first)))
    await asyncio.sleep(0)
    commit = world.store._database.commit
    counted = 0

    def failing() -> None:
        nonlocal counted
        counted += 1
        commits.failing = 1 if counted in (2, 3) else 0
        commit()

    monkeypatch.setattr(world.store._database, "commit", failing)
    until_set.set()
    await kill
    with pytest.raises(StoreError):
        await end
    await world.settle()
    assert await world.status(second) is KILLED
    assert world.cluster.scheduler.position(second) is None
    await until(lambda: third in world.launches(), what="the queue stands still")
    await world.settle()
    assert world.launches() == [first, third]
    assert world.held() == {third}


# -- who comes first ----------------------------------------------------------------------


@pytest.mark.parametrize("script", [None, "print(1)"])
@pytest.mark.parametrize("turns", range(6))
async def test_a_kill_and_an_assignment(world: World, turns: int, script: str | None) -> None:
    """Whenever the kill comes: the task is never launched, or its node hears of the kill."""
    link = await world.join("n", node_info([0]))
    fields = {"script": script} if script else {}
    first, second = await world.submit("n", "n", **fields)
    end = asyncio.ensure_future(world.cluster.finished("n", completed(first)))
    for _ in range(turns):
        await asyncio.sleep(0)
    await world.cluster.kill(second)
    await end
    await world.settle()
    if await world.status(second) is KILLED:
        assert link.ids(Launch) == [first]
        assert world.held() == set()
        return
    assert world.held() == {second}
    kinds = [type(one) for one in link.sent if getattr(one, "task_id", 0) == second]
    # A node that hears of the kill first never starts it.
    assert sorted(kinds, key=str) in ([Kill], sorted([Kill, Launch], key=str))


@pytest.mark.parametrize("first_word", ["start", "end", "kill"])
async def test_a_kill_a_start_and_an_end_at_once(world: World, first_word: str) -> None:
    link = await world.join("n", node_info([0]))
    (task,) = await world.submit("n")
    works = {
        "start": lambda: world.cluster.started("n", started(task)),
        "end": lambda: world.cluster.finished("n", completed(task)),
        "kill": lambda: world.cluster.kill(task),
    }
    order = [first_word, *(word for word in works if word != first_word)]
    ends = await asyncio.gather(*(works[word]() for word in order), return_exceptions=True)
    await world.settle()
    assert await world.status(task) is COMPLETED
    assert link.ids(Acknowledge) == [task]
    assert world.held() == set()
    assert all(end is None or isinstance(end, Conflict) for end in ends)
    with pytest.raises(Conflict, match="already completed"):
        await world.cluster.kill(task)


async def test_two_kills_of_a_waiting_task(world: World) -> None:
    await world.join("n", node_info([0]))
    _, second = await world.submit("n", "n")
    ends = await asyncio.gather(
        world.cluster.kill(second), world.cluster.kill(second), return_exceptions=True
    )
    assert await world.status(second) is KILLED
    assert [type(end) for end in ends] == [type(None), Conflict]


async def test_a_kill_while_the_node_links_up(world: World) -> None:
    await world.join()
    (task,) = await world.submit("n")
    await world.start(task)
    told = known(await world.record(task), at=1.0)
    await world.leave()
    link, _ = await world.link("n")
    await asyncio.gather(world.cluster.kill(task), world.exchange("n", [told]))
    assert set(link.ids(Kill)) == {task}
    assert link.ids(Launch) == []


async def test_what_a_lost_task_held_is_held_once_again(world: World) -> None:
    await world.join("n", node_info([0, 1]))
    (task,) = await world.submit("n")
    await world.start(task)
    record = await world.lose(task)
    assert await world.status(task) is LOST
    assert world.held() == set()
    # It ended while nobody listened: both words come in one exchange.
    end = completed(task).exit
    await world.join("n", node_info([0, 1]), told=[known(record, at=1.0, end=end)])
    assert await world.status(task) is COMPLETED
    assert world.held() == set()
