"""Submissions whose batch has more tasks than their own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from unittest.mock import AsyncMock

import pytest

from hakuriver.errors import HostUnreachable
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import SubmitReply
from unit.client.fakes import FakeCluster, make_view
from unit.client.test_watch import client_of

if TYPE_CHECKING:
    from typing import Unpack

    from hakuriver.client.cluster import TaskFilters
    from hakuriver.model.views import TaskList

pytestmark = pytest.mark.asyncio


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


async def test_a_repetition_hears_of_tasks_whose_command_lines_fill_pages(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's page has as much as it has room for, which may be less than was asked for."""
    listed, asked = cluster.tasks, 0

    async def short(**filters: Unpack[TaskFilters]) -> TaskList:
        nonlocal asked
        asked += 1
        filters["limit"] = min(2, filters["limit"])
        return await listed(**filters)

    monkeypatch.setattr(cluster, "tasks", short)
    ids = [str(task_id) for task_id in range(11, 16)]
    for task_id in ("9", "10", *ids, "16"):
        cluster.add(make_view(task_id, "completed", batch_id="7"))
    reply = SubmitReply(message="", task_ids=ids, batch_id="7", failed_targets=[])
    monkeypatch.setattr(cluster, "submit", AsyncMock(return_value=reply))
    async with client_of(cluster) as client:
        again = await client.run(["true"], targets=["a"] * 5, idempotency_key="k")
    assert [task.view.status for task in again] == [TaskState.COMPLETED] * 5
    # The fourth page would be of what has joined the same batch before.
    assert asked == 3


async def test_what_has_joined_a_batch_is_ended_last_one_first_and_few_at_a_time(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a request of its own: a thousand at once would be as many connections."""
    kill, going, most = cluster.kill, 0, 0

    async def slow(task_id: str) -> str:
        nonlocal going, most
        going += 1
        most = max(most, going)
        await asyncio.sleep(0.001)
        going -= 1
        return await kill(task_id)

    monkeypatch.setattr(cluster, "kill", slow)
    async with client_of(cluster) as client:
        batch = await client.run(["true"], targets=["a"] * 100, batch_id="7")
        cluster.finish(batch[2].task_id)
        await batch[2]
        cluster.views[batch[4].task_id] = make_view(batch[4].task_id, "completed")
        await batch.kill()
        ended = [batch[2].task_id, batch[4].task_id]
        left = [task.task_id for task in batch if task.task_id not in ended]
    assert sorted(cluster.killed) == left
    # Those whose turn comes first are ended last, or others would start in their places.
    assert {*cluster.killed[:50]} <= {*left[40:]}
    assert 1 < most <= 20


async def test_why_it_could_not_be_ended_is_told(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        batch = await client.run(["true"], targets=["a"] * 20, batch_id="7")
        cluster.down = HostUnreachable("restarting")
        with pytest.raises(HostUnreachable, match="restarting"):
            await batch.kill()
