from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from hakuriver.client.aio import AsyncClient
from hakuriver.client.handles import AsyncBatch, AsyncTask
from hakuriver.client.watch import Watcher
from hakuriver.errors import (
    Conflict,
    HostFault,
    HostUnreachable,
    InvalidRequest,
    NotFound,
    SubmissionRefused,
    TaskFailed,
    TaskLost,
    Unauthorized,
)
from hakuriver.model.tasks import TaskState
from unit.client.fakes import FakeCluster, make_view

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

pytestmark = pytest.mark.asyncio


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@asynccontextmanager
async def client_of(cluster: FakeCluster, *, patience: float = 5.0) -> AsyncGenerator[AsyncClient]:
    async with asyncio.timeout(10), AsyncClient(cluster=cluster, patience=patience) as client:
        yield client


async def until(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not probe():  # noqa: ASYNC110 - it looks at what has no event of its own
            await asyncio.sleep(0.005)


async def test_a_task_is_its_result(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"], target="node1")
        assert isinstance(task, AsyncTask)
        assert task.view.owner == "alice", "the event overtook the reply and was kept"
        waiting = asyncio.ensure_future(task.result())
        await asyncio.sleep(0)
        cluster.finish(task.task_id)
        assert (await waiting).status is TaskState.COMPLETED
        assert (await task).task_id == task.task_id
    assert cluster.closed
    assert cluster.open_streams == 0


async def test_a_failure_is_raised_and_a_wait_does_not_mind(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["false"])
        cluster.finish(task.task_id, 4)
        with pytest.raises(TaskFailed, match="exit code 4"):
            await task
        assert (await task.wait()).exit_code == 4


async def test_every_change_is_seen_in_order(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        changes = aiter(task.changes())
        assert (await anext(changes)).status is TaskState.PENDING
        for status in ("assigning", "running", "completed"):
            cluster.change(task.task_id, status)
        assert [view.status.value async for view in changes] == [
            "assigning",
            "running",
            "completed",
        ]


async def test_cancelling_a_wait_leaves_the_task_alone(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task.result(), 0.01)
        assert not cluster.killed
        cluster.finish(task.task_id)
        assert (await task).exit_code == 0


async def test_a_broken_stream_goes_on_where_it_was(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        await until(lambda: task.view.rev)
        cluster.break_off()
        cluster.change(task.task_id, "running")
        cluster.finish(task.task_id)
        assert (await task).exit_code == 0
        assert cluster.afters[0] is None
        assert cluster.afters[1] == 1


async def test_changes_that_cannot_be_replayed_are_asked_for(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        other = await client.run(["true"])
        waiting = asyncio.gather(task, other.wait(), return_exceptions=True)
        await until(lambda: other.view.rev)
        cluster.finish(task.task_id)
        del cluster.views[other.task_id]
        cluster.rev += 1
        cluster.break_off(forget=True)
        done, gone = await waiting
        assert not isinstance(done, BaseException)
        assert isinstance(gone, NotFound)


async def test_a_host_that_starts_again_is_awaited(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        cluster.down = HostUnreachable("restarting")
        cluster.break_off()
        waiting = asyncio.ensure_future(task.wait())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        cluster.down = None
        cluster.finish(task.task_id)
        assert (await waiting).exit_code == 0


async def test_patience_with_a_host_has_an_end(cluster: FakeCluster) -> None:
    async with client_of(cluster, patience=0.1) as client:
        task = await client.run(["true"])
        cluster.down = HostUnreachable("gone")
        cluster.break_off()
        with pytest.raises(HostUnreachable, match="gone"):
            await task
        cluster.down = None
        cluster.finish(task.task_id)
        assert (await task).exit_code == 0, "a later wait tries again"


async def test_a_token_that_is_no_longer_good_is_told_at_once(cluster: FakeCluster) -> None:
    async with client_of(cluster, patience=60) as client:
        task = await client.run(["true"])
        cluster.down = Unauthorized("no")
        cluster.break_off()
        with pytest.raises(Unauthorized):
            await task


async def test_a_fault_of_ours_lets_nobody_wait_for_ever(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        cluster.down = RuntimeError("a bug")  # type: ignore[assignment]
        cluster.break_off()
        with pytest.raises(HostFault, match="fault in this client"):
            await task
        assert "a bug" in caplog.text


async def test_nobody_there_is_told_at_once(cluster: FakeCluster) -> None:
    cluster.down = HostUnreachable("nobody")
    async with client_of(cluster, patience=60) as client:
        with pytest.raises(HostUnreachable):
            await client.run(["true"])
        cluster.down = None
        assert (await client.run(["true"])).task_id


async def test_a_task_can_be_taken_up_by_its_id(cluster: FakeCluster) -> None:
    cluster.add(make_view("7", "running"))
    async with client_of(cluster) as client:
        task = await client.task(7)
        assert not cluster.afters, "nothing is watched before somebody waits"
        waiting = asyncio.ensure_future(task.result())
        await until(lambda: cluster.afters)
        cluster.finish("7")
        assert (await waiting).exit_code == 0
        with pytest.raises(NotFound):
            await client.task("8")


async def test_a_task_that_ended_needs_no_stream(cluster: FakeCluster) -> None:
    cluster.views["7"] = make_view("7", "completed")
    async with client_of(cluster) as client:
        assert (await (await client.task("7"))).status is TaskState.COMPLETED
        assert not cluster.afters


async def test_the_end_between_two_looks_is_not_missed(cluster: FakeCluster) -> None:
    cluster.add(make_view("7", "running"))
    async with client_of(cluster) as client:
        task = await client.task("7")
        cluster.finish("7")
        assert (await task).exit_code == 0


async def test_a_lost_task_may_turn_out_otherwise(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        cluster.change(task.task_id, "lost", reason="the node fell silent")
        with pytest.raises(TaskLost, match="may still tell"):
            await task
        cluster.change(task.task_id, "running")
        assert (await task.status()).status is TaskState.RUNNING
        cluster.finish(task.task_id)
        assert (await task).exit_code == 0


async def test_a_batch_keeps_its_order_and_its_refusals(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        batch = await client.run(["true"], targets=["node2", "nosuch", "node1:0"])
        assert isinstance(batch, AsyncBatch)
        assert [task.view.target for task in batch] == ["node2", "node1:0"]
        assert [failed.target for failed in batch.failed_targets] == ["nosuch"]
        assert {task.batch_id for task in batch} == {batch.batch_id}
        assert len(batch[0:1]) == 1
        cluster.finish(batch[1].task_id)
        cluster.finish(batch[0].task_id, 3)
        with pytest.raises(TaskFailed, match="node2"):
            await batch
        assert [result.exit_code for result in await batch.wait()] == [3, 0]


async def test_a_refused_submission_raises_its_reasons(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        with pytest.raises(SubmissionRefused) as caught:
            await client.run(["true"], target="nosuch")
        assert caught.value.failed_targets[0].target == "nosuch"
        with pytest.raises(InvalidRequest):
            await client.run(["true"], cores=-1)
        assert len(cluster.requests) == 1


async def test_kill_asks_the_host(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        batch = await client.run(["true"], targets=["a", "b", "c"])
        cluster.finish(batch[0].task_id)
        await until(lambda: batch[0].view.status is TaskState.COMPLETED)
        cluster.change(batch[1].task_id, "completed")
        await batch.kill()
        assert cluster.killed == [batch[2].task_id]
        with pytest.raises(Conflict):
            await batch[0].kill()
        assert "will end" in await client.kill(int(batch[2].task_id))


async def test_logs_of_a_task(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        cluster.write(task.task_id, b"one\ntwo\n")
        assert [line async for line in task.logs()] == ["one", "two"]
        assert [line async for line in task.logs(tail=1)] == ["two"]
        assert await task.text() == "one\ntwo\n"
        cluster.finish(task.task_id)
        assert [line async for line in task.logs(follow=True)] == ["one", "two"]
        assert [line async for line in task.logs("stderr", follow=True)] == []


async def test_pages_nodes_and_health(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        first = await client.run(["true"], name="a")
        page = await client.tasks(name="a", limit=10)
        assert [view.task_id for view in page] == [first.task_id]
        assert (page.next_before, page[0].task_id, len(page[:1])) == ("7", first.task_id, 1)
        assert "before 7" in repr(page)
        assert await client.nodes() == []
        assert await client.health() == []
        with pytest.raises(NotFound):
            await client.health("nosuch")


async def test_closing_ends_every_wait_and_leaves_nothing(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        waiting = asyncio.ensure_future(task.wait())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(Conflict, match="closed"):
            await waiting
        with pytest.raises(Conflict, match="closed"):
            await client.run(["true"])
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_stream_closes_when_nothing_is_watched(cluster: FakeCluster) -> None:
    watcher = Watcher(cluster, idle=0.02)
    async with watcher.submitting():
        pass
    assert cluster.open_streams == 1
    await until(lambda: cluster.open_streams == 0)
    cluster.add(make_view("7", "running"))
    watch = await watcher.attach(cluster.views["7"])
    await asyncio.sleep(0.05)
    assert cluster.open_streams == 1, "it is needed again"
    cluster.finish("7")
    assert (await watch.until_ended()).exit_code == 0
    await until(lambda: cluster.open_streams == 0)
    await watcher.close()


async def test_environment_values_stay_out_of_sight(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"], env={"KEY": "secret"})
        assert "secret" not in repr(task) + repr(task.view) + repr(client)


async def test_on_the_embedded_cluster_tasks_run_where_the_caller_is(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with client_of(cluster) as client:
        await client.run(["true"])
        assert cluster.requests[-1].working_directory is None
        client._embedded = True
        monkeypatch.chdir(tmp_path)
        await client.run(["true"])
        assert cluster.requests[-1].working_directory == str(tmp_path)
        await client.run(["true"], workdir="/elsewhere")
        assert cluster.requests[-1].working_directory == "/elsewhere"
        os.rmdir(tmp_path)  # noqa: PTH106
        await client.run(["true"])
        assert cluster.requests[-1].working_directory is None
