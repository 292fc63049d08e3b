from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from hakuriver.client.aio import AsyncClient
from hakuriver.client.building import command_request
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
from hakuriver.model.nodes import NodeStatus
from hakuriver.model.tasks import TaskState
from unit.client.fakes import FakeCluster, make_node, make_view

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

pytestmark = pytest.mark.asyncio


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@asynccontextmanager
async def client_of(cluster: FakeCluster, *, patience: float = 60.0) -> AsyncGenerator[AsyncClient]:
    async with asyncio.timeout(40), AsyncClient(cluster=cluster, patience=patience) as client:
        yield client


async def until(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
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


async def test_changes_that_cannot_be_replayed_are_asked_for(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hakuriver.client.watch.ADOPTION", 0.1)
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


async def test_a_task_that_a_new_database_does_not_know_yet_is_awaited(
    cluster: FakeCluster,
) -> None:
    async with client_of(cluster) as client:
        task = await client.run(["true"])
        waiting = asyncio.ensure_future(task.wait())
        await until(lambda: task.view.rev)
        view = cluster.views.pop(task.task_id)
        cluster.rev += 1
        cluster.break_off(forget=True)
        await asyncio.sleep(0.2)
        assert not waiting.done()
        # Its node has linked up, and the host has heard of it again.
        cluster.views[task.task_id] = view
        cluster.finish(task.task_id)
        assert (await waiting).exit_code == 0


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
        cluster.finish(batch[2].task_id)
        await batch.kill()
        with pytest.raises(Conflict):
            await client.kill_batch(batch.batch_id)


async def test_many_submissions_are_answered_each_for_itself(cluster: FakeCluster) -> None:
    requests = [command_request(["true"], target=name) for name in ("a", "nosuch", "b")]
    async with client_of(cluster) as client:
        first, refused, last = await client.submit_many(requests)
        assert [first[0].view.target, last[0].view.target] == ["a", "b"]
        assert len(refused) == 0
        assert refused.failed_targets[0].target == "nosuch"
        with pytest.raises(SubmissionRefused, match="no such node"):
            await refused
        cluster.finish(last[0].task_id)
        assert [result.exit_code for result in await last] == [0]
        assert await client.submit_many([]) == []
        with pytest.raises(InvalidRequest, match="1000"):
            await client.submit_many(requests * 334)


async def test_every_submission_bears_a_key_of_its_own(cluster: FakeCluster) -> None:
    request = command_request(["true"])
    async with client_of(cluster) as client:
        await client.submit_request(request)
        await client.submit_request(request)
        await client.run(["true"], idempotency_key="mine", queue=False)
        first, second, third = cluster.requests
    keys = {first.idempotency_key, second.idempotency_key}
    assert len(keys) == 2
    assert None not in keys
    assert (third.idempotency_key, third.queue, first.queue) == ("mine", False, True)
    assert request.idempotency_key is None


async def test_a_batch_that_exists_is_taken_up_whole(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hakuriver.client.aio._PAGE", 2)
    async with client_of(cluster) as client:
        known = await client.run(["true"], targets=["a", "b", "c", "d", "e"])
        cluster.finish(known[1].task_id, 3)
    async with client_of(cluster) as client:
        batch = await client.batch(int(known.batch_id))
        assert [task.task_id for task in batch] == [task.task_id for task in known]
        assert batch.batch_id == known.batch_id
        for task_id in cluster.views:
            cluster.finish(task_id)
        assert [result.exit_code for result in await batch.wait()] == [0, 3, 0, 0, 0]
        with pytest.raises(NotFound, match="no batch 7"):
            await client.batch("7")


async def test_an_ended_task_runs_again(cluster: FakeCluster) -> None:
    cluster.add(make_view("7", "failed", exit_code=1))
    async with client_of(cluster) as client:
        task = await client.rerun(7, env={"KEY": "secret"}, queue=False)
        assert task.view.retry_of == "7"
        cluster.finish(task.task_id)
        assert (await task).exit_code == 0
        ((_, request),) = cluster.reruns
        assert (request.env_vars, request.queue) == ({"KEY": "secret"}, False)
        assert request.idempotency_key
        with pytest.raises(InvalidRequest, match="no variable name"):
            await client.rerun(7, env={"9": "x"})
        await client.rerun("7")
        assert cluster.reruns[1][1].env_vars is None


async def test_nodes_are_drained_resumed_and_forgotten(cluster: FakeCluster) -> None:
    cluster.put_node(make_node("n1"))
    async with client_of(cluster) as client:
        assert (await client.drain("n1")).draining
        assert not (await client.resume("n1")).draining
        with pytest.raises(Conflict, match="is online"):
            await client.forget("n1")
        cluster.put_node(make_node("n1", status=NodeStatus.OFFLINE))
        assert "n1" in await client.forget("n1")
        with pytest.raises(NotFound):
            await client.drain("n1")


async def test_who_asks_is_told_when_the_host_is_gone_and_back(cluster: FakeCluster) -> None:
    told: list[str | None] = []
    async with client_of(cluster) as client:
        leave = client.watcher.on_trouble(lambda error: told.append(str(error) if error else None))
        task = await client.run(["true"])
        assert client.watcher.trouble is None
        cluster.down = HostUnreachable("restarting")
        cluster.break_off()
        await until(lambda: "restarting" in str(client.watcher.trouble))
        cluster.down = None
        await until(lambda: client.watcher.trouble is None)
        assert told == ["the link broke", None]
        leave()
        cluster.down = HostUnreachable("again")
        cluster.break_off()
        await until(lambda: client.watcher.trouble)
        await client.close()
        assert client.watcher.trouble is None
        assert len(told) == 2
        assert not task.view.completed_at


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
        second = await client.run(["true"], name="a")
        page = await client.tasks(name="a", limit=1)
        assert [view.task_id for view in page] == [second.task_id]
        assert (page.next_before, len(page[:1])) == (second.task_id, 1)
        assert f"before {second.task_id}" in repr(page)
        (older,) = await client.tasks(name="a", before=page.next_before)
        assert older.task_id == first.task_id
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
    async with watcher.adding():
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
