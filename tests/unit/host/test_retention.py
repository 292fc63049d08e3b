"""What ended long ago is removed: logs first, by their own node, then rows."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.config import Retention
from hakuriver.host import exchange, retention
from hakuriver.host.store import queries
from hakuriver.model.messages import Discard
from hakuriver.model.tasks import TaskState
from support.host_world import Commits, known, node_info, open_world, until

if TYPE_CHECKING:
    from pathlib import Path

    from support.host_world import World

pytestmark = pytest.mark.asyncio

DAY = 86400.0
DEFAULT = Retention()


async def sweep(world: World, *, after: float = 100 * DAY, **days: float) -> None:
    """Remove what is old, so many seconds after the last submission."""
    newest = await world.store.read(queries.tasks, limit=1)
    began = newest[0].origin.submitted_at if newest else time.time()
    kept = {"keep_logs_days": 30.0, "keep_tasks_days": 90.0, **days}
    await retention.sweep(world.cluster, Retention(**kept), now=began + after)


async def ended(world: World, *targets: str, **fields: Any) -> list[int]:
    tasks = await world.submit(*targets, **fields)
    for task, target in zip(tasks, targets, strict=True):
        await world.start(task, node=target)
        await world.finish(task, node=target)
    return tasks


def told(world: World, name: str = "n") -> list[int]:
    """Return the tasks that a node was told to discard, over its present link."""
    return [task for message in world.links[name].of(Discard) for task in message.task_ids]


async def removed(world: World, task_id: int) -> bool:
    return (await world.record(task_id)).logs_removed


async def there(world: World) -> set[int]:
    return {record.id for record in await world.store.read(queries.tasks, limit=1000)}


async def test_logs_are_discarded_by_their_node_and_rows_follow(world: World) -> None:
    await world.join("n")
    await world.join("m", uid="m")
    one, two = await ended(world, "n", "m")
    await sweep(world)
    assert (told(world, "n"), told(world, "m")) == ([one], [two])
    # Until the node has said so, nothing is gone, and it is asked again.
    assert await there(world) == {one, two}
    assert not await removed(world, one)
    await sweep(world)
    assert told(world, "n") == [one, one]
    await retention.discarded(world.cluster, "n", [one])
    assert await removed(world, one)
    await sweep(world)
    assert await there(world) == {two}
    assert told(world, "n") == [one, one]


@pytest.mark.parametrize(
    ("days", "after", "asked", "kept"),
    [
        # The node's clock is decades slow: it is not old before this host's clock says so.
        ({}, 1 * DAY, False, True),
        ({}, 30 * DAY, False, True),
        ({}, 30 * DAY + 1, True, True),
        ({}, 90 * DAY, True, True),
        ({}, 90 * DAY + 1, True, False),
        # 0 keeps for ever, but a row takes its logs with it.
        ({"keep_logs_days": 0.0}, 90 * DAY, False, True),
        ({"keep_logs_days": 0.0}, 91 * DAY, True, False),
        ({"keep_tasks_days": 0.0}, 1e4 * DAY, True, True),
        ({"keep_logs_days": 365.0}, 91 * DAY, True, False),
        ({"keep_logs_days": 0.001, "keep_tasks_days": 0.002}, 200.0, True, False),
    ],
)
async def test_how_long_things_are_kept(
    world: World, days: dict[str, float], after: float, *, asked: bool, kept: bool
) -> None:
    await world.join()
    (task,) = await ended(world, "n")
    await sweep(world, after=after, **days)
    assert told(world) == ([task] if asked else [])
    if asked:
        await retention.discarded(world.cluster, "n", [task])
    await sweep(world, after=after, **days)
    assert await there(world) == ({task} if kept else set())


async def test_what_ended_late_is_kept_from_then_on(world: World) -> None:
    await world.join()
    (task,) = await world.submit("n")
    began = (await world.record(task)).origin.submitted_at
    await world.start(task)
    await world.finish(task, completed_at=began + 40 * DAY)
    await sweep(world, after=70 * DAY)
    assert told(world) == []
    await sweep(world, after=70 * DAY + 1)
    assert told(world) == [task]


async def test_what_has_not_ended_is_left_alone(world: World) -> None:
    await world.join("n", node_info([0, 1]))
    running, assigned, waiting = await world.submit("n", "n", "n")
    await world.start(running)
    await sweep(world, after=1e12)
    assert told(world) == []
    # Not even if their node says that it has nothing of them.
    await retention.discarded(world.cluster, "n", [running, assigned, waiting])
    for task in (running, assigned, waiting):
        assert not await removed(world, task)
    await sweep(world, after=1e12)
    assert await there(world) == {running, assigned, waiting}


async def test_a_node_speaks_for_its_own_logs_alone(world: World) -> None:
    await world.join("n")
    await world.join("m", uid="m")
    one, two = await ended(world, "n", "m")
    await retention.discarded(world.cluster, "m", [one, two, 12345])
    assert not await removed(world, one)
    assert await removed(world, two)


async def test_a_node_that_is_away_hears_of_it_when_it_is_back(world: World) -> None:
    await world.join("n")
    (task,) = await ended(world, "n")
    await world.leave()
    await sweep(world)
    assert await there(world) == {task}
    assert not await removed(world, task)
    # Linked, but its exchange has not ended yet.
    await world.link("n")
    await sweep(world)
    assert told(world) == []
    await world.exchange()
    await sweep(world)
    assert told(world) == [task]


async def test_what_lies_on_a_node_that_nobody_knows_is_given_up(world: World) -> None:
    await world.join("n")
    (task,) = await ended(world, "n")
    await world.leave()
    await exchange.forget(world.cluster, "n")
    await sweep(world, after=31 * DAY)
    assert await removed(world, task)
    assert await there(world) == {task}
    await sweep(world)
    assert await there(world) == set()


async def test_what_never_had_a_node_is_removed_too(world: World) -> None:
    await world.join("n", node_info([0]))
    await world.submit("n")
    (task,) = await world.submit()
    await world.cluster.kill(task)
    await sweep(world)
    assert task not in await there(world)


async def test_a_lost_task_is_removed_like_others(world: World) -> None:
    await world.join()
    (task,) = await world.submit("n")
    await world.start(task)
    await world.lose(task)
    await sweep(world)
    assert await there(world) == {task}
    await world.join()
    await sweep(world)
    assert told(world) == [task]
    await retention.discarded(world.cluster, "n", [task])
    await sweep(world)
    assert await there(world) == set()


async def test_a_lost_task_that_was_given_up_and_still_runs_has_logs_again(world: World) -> None:
    await world.join()
    (task,) = await world.submit("n")
    await world.start(task)
    record = await world.lose(task)
    await exchange.forget(world.cluster, "n")
    await sweep(world, after=31 * DAY)
    assert await removed(world, task)
    await world.join(told=[known(record, at=1.0)])
    assert await world.status(task) is TaskState.RUNNING
    assert not await removed(world, task)
    await sweep(world, after=1000 * DAY)
    assert await there(world) == {task}
    # Once it has ended they are removed by its node, as others are.
    await world.finish(task)
    await sweep(world, after=1000 * DAY)
    assert told(world) == [task]


async def test_a_lost_task_that_was_deleted_is_adopted_if_it_still_runs(world: World) -> None:
    await world.join()
    (task,) = await world.submit("n")
    await world.start(task)
    record = await world.lose(task)
    await exchange.forget(world.cluster, "n")
    await sweep(world)
    assert await there(world) == set()
    await world.join(told=[known(record, at=1.0)])
    assert await world.status(task) is TaskState.RUNNING
    assert world.held() == {task}


async def test_more_than_one_message_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_ROUND", 3)
    await world.join("n", node_info(range(10)))
    tasks = await world.submit(*["n"] * 10)
    for index, task in enumerate(tasks):
        await world.finish(task, completed_at=1.0 + index)
    await sweep(world)
    assert told(world) == tasks
    assert max(len(message.task_ids) for message in world.links["n"].of(Discard)) == 3
    await retention.discarded(world.cluster, "n", tasks)
    await sweep(world)
    assert await there(world) == set()


async def test_those_that_ended_at_one_moment_are_all_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROUND", 3)
    await world.join("n", node_info(range(10)))
    tasks = await world.submit(*["n"] * 10)
    for task in tasks:
        await world.finish(task)
    for _ in range(4):
        await sweep(world)
        await retention.discarded(world.cluster, "n", told(world))
    await sweep(world)
    assert await there(world) == set()


async def test_a_follower_from_before_a_removal_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join()
        before = world.store.rev
        (task,) = await ended(world, "n")
        await retention.discarded(world.cluster, "n", [task])
        await sweep(world)
        last = world.store.rev
        assert world.store.rev_floor > before
        assert await world.cluster._replay(before) is None
    async with open_world(path) as world:
        assert await world.cluster._replay(before) is None
        # Nothing that was changed later is gone.
        assert await world.cluster._replay(last) == []
        # An id is never given twice.
        assert world.cluster.ids.next() > task


async def test_the_key_of_a_removed_submission_is_free(world: World) -> None:
    await world.join()
    (task,) = await ended(world, "n", idempotency_key="k")
    await retention.discarded(world.cluster, "n", [task])
    await sweep(world)
    assert await world.submit("n", idempotency_key="k") != [task]


# -- by itself ----------------------------------------------------------------------------


async def test_it_looks_again_and_again_and_outlives_a_failing_store(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "_SHORTEST", 0.01)
    await world.join()
    (task,) = await ended(world, "n")
    keeper = asyncio.create_task(
        retention.run(world.cluster, Retention(keep_logs_days=1e-9, keep_tasks_days=1e-9))
    )
    await until(lambda: told(world))
    commits = Commits(world.store, monkeypatch)
    # The removal itself fails, which may come before anything is done here again.
    commits.passing, commits.failing = 1, 2
    await retention.discarded(world.cluster, "n", [task])
    await until(lambda: not commits.failing)
    async with asyncio.timeout(30):
        while await there(world):
            pass
    assert "Nothing old was removed" in caplog.text
    keeper.cancel()
    with suppress(asyncio.CancelledError):
        await keeper


async def test_where_all_is_kept_for_ever_nobody_looks(world: World) -> None:
    forever = Retention(keep_logs_days=0.0, keep_tasks_days=0.0)
    await asyncio.wait_for(retention.run(world.cluster, forever), 30)
    assert (DEFAULT.keep_logs_days, DEFAULT.keep_tasks_days) == (30.0, 90.0)
