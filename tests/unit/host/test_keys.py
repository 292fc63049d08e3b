"""Submissions that bear a key: repeating one creates nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.errors import Conflict, InvalidRequest, StoreError, SubmissionRefused
from hakuriver.host import cluster as module
from hakuriver.host.store import changes
from hakuriver.model.messages import Launch
from hakuriver.model.tasks import TaskState
from support.host_world import Commits, node_info, open_world

if TYPE_CHECKING:
    from pathlib import Path

    from support.host_world import World

pytestmark = pytest.mark.asyncio


async def test_the_same_again_is_answered_as_before(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    fields: dict[str, Any] = {
        "env_vars": {"A": "1", "B": "2"},
        "script": "x",
        "name": "n",
        "idempotency_key": "k",
    }
    async with open_world(path) as world:
        await world.join()
        first = await world.ask("n", "gone", **fields)
        assert await world.ask("n", "gone", **fields) == first
        assert [one.target for one in first.failed_targets] == ["gone"]
        # The order in which variables are named is no content.
        swapped = {**fields, "env_vars": {"B": "2", "A": "1"}}
        assert await world.ask("n", "gone", **swapped) == first
    async with open_world(path) as world:
        await world.join()
        assert await world.ask("n", "gone", **fields) == first
        assert len(world.cluster.tasks) == 1
        assert len(world.held()) == 1


async def test_a_repetition_leaves_no_trace(world: World) -> None:
    link = await world.join("n", node_info([0, 1]))
    first = await world.ask(idempotency_key="k")
    (waiting,) = await world.submit("n", required_cores=2)
    rev = world.cluster.feed.rev
    for _ in range(3):
        assert await world.ask(idempotency_key="k") == first
    await world.settle()
    assert world.cluster.feed.rev == rev
    assert set(world.cluster.tasks) == {int(first.task_ids[0]), waiting}
    assert world.cluster._coming == {}
    assert world.free() == {1}
    assert world.cluster.scheduler.position(waiting) == 0
    assert link.ids(Launch) == [int(first.task_ids[0])]


async def test_a_repetition_after_the_end_is_still_one(world: World) -> None:
    await world.join()
    first = await world.ask("n", idempotency_key="k", env_vars={"A": "x"})
    await world.finish(int(first.task_ids[0]))
    assert await world.ask("n", idempotency_key="k", env_vars={"A": "x"}) == first


@pytest.mark.parametrize(
    "other",
    [
        {"name": "other"},
        {"arguments": ["b"]},
        {"env_vars": {"A": "2"}},
        {"required_cores": 0},
        {"queue": False},
        {"time_limit_seconds": 5.0},
        {"command": "false"},
    ],
    ids=str,
)
async def test_a_key_with_other_content_is_a_conflict(world: World, other: dict[str, Any]) -> None:
    await world.join()
    fields: dict[str, Any] = {"arguments": ["a"], "env_vars": {"A": "1"}}
    await world.ask("n", idempotency_key="k", **fields)
    with pytest.raises(Conflict, match="idempotency_key") as caught:
        await world.ask("n", idempotency_key="k", **{**fields, **other})
    assert "1" not in str(caught.value)
    with pytest.raises(Conflict):
        await world.ask("n", "n", idempotency_key="k", **fields)
    assert len(world.cluster.tasks) == 1
    assert len(world.held()) == 1


async def test_a_key_is_its_owners_own(world: World) -> None:
    await world.join()
    one = await world.ask("n", owner="alice", idempotency_key="k")
    two = await world.ask("n", owner="bob", idempotency_key="k")
    assert one.task_ids != two.task_ids
    # Names and keys that read alike when put together are not the same.
    pairs = [("a", 'b","c'), ('a","b', "c"), ("ab", "c"), ("a", "bc")]
    replies = [await world.ask(owner=owner, idempotency_key=key) for owner, key in pairs]
    assert len({reply.batch_id for reply in replies}) == len(pairs)


async def test_two_at_the_same_moment_create_one(world: World) -> None:
    link = await world.join("n", node_info(range(8)))
    replies = await asyncio.gather(*(world.ask("n", idempotency_key="k") for _ in range(5)))
    assert len({reply.batch_id for reply in replies}) == 1
    await world.settle()
    task = int(replies[0].task_ids[0])
    assert set(world.cluster.tasks) == world.held() == {task}
    assert link.ids(Launch) == [task]
    assert world.cluster._coming == {}


async def test_different_ones_of_a_key_at_the_same_moment(world: World) -> None:
    await world.join("n", node_info(range(8)))
    works = [world.ask("n", idempotency_key="k", name=name) for name in ("a", "b", "a")]
    one, two, three = await asyncio.gather(*works, return_exceptions=True)
    assert one == three
    assert isinstance(two, Conflict)
    assert len(world.held()) == 1


async def test_what_was_refused_may_be_tried_again(world: World) -> None:
    with pytest.raises(SubmissionRefused):
        await world.ask("n", idempotency_key="k")
    await world.join("n", node_info([0]))
    first = await world.ask("n", idempotency_key="k", queue=False)
    # There is no room for it any more: it is answered as it was.
    assert await world.ask("n", idempotency_key="k", queue=False) == first
    with pytest.raises(SubmissionRefused):
        await world.ask("n", idempotency_key="another", queue=False)
    await world.leave()
    assert await world.ask("n", idempotency_key="k", queue=False) == first
    with pytest.raises(Conflict):
        await world.ask("n", idempotency_key="k", queue=False, name="other")


async def test_what_could_not_be_stored_may_be_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STORE_PAUSE", 0.01)
    await world.join()
    commits = Commits(world.store, monkeypatch)
    commits.failing = 2
    with pytest.raises(StoreError):
        await world.ask("n", idempotency_key="k")
    assert world.held() == set()
    reply = await world.ask("n", idempotency_key="k")
    assert await world.ask("n", idempotency_key="k") == reply
    assert world.held() == {int(reply.task_ids[0])}


async def test_a_bad_field_is_a_mistake_with_or_without_a_key(world: World) -> None:
    await world.join()
    await world.ask("n", idempotency_key="k")
    for key in ("k", "a\0b"):
        with pytest.raises(InvalidRequest):
            await world.ask("n", idempotency_key=key, command="")


async def test_a_key_lasts_as_long_as_its_tasks(world: World) -> None:
    await world.join()
    first = await world.ask("n", idempotency_key="k")
    task = int(first.task_ids[0])
    await world.finish(task)
    await world.store.write(changes.delete_tasks, [task])
    second = await world.ask("n", idempotency_key="k")
    assert second.task_ids != first.task_ids
    assert await world.status(int(second.task_ids[0])) is TaskState.ASSIGNING
