from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from hakuriver.client.building import command_request
from hakuriver.client.follow import Change, Output, follow, labels
from hakuriver.client.futures import Batch, Task
from hakuriver.client.portal import Portal
from hakuriver.client.sync import Client
from hakuriver.errors import (
    Conflict,
    HostUnreachable,
    SubmissionRefused,
    TaskFailed,
    TaskKilled,
)
from hakuriver.model.nodes import NodeStatus
from hakuriver.model.tasks import TaskState
from support.processes import wait_until
from unit.client.fakes import FakeCluster, make_node, make_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hakuriver.model.views import TaskResult


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def client(cluster: FakeCluster) -> Iterator[Client]:
    with Client(cluster=cluster) as client:
        yield client
    assert cluster.closed
    assert cluster.open_streams == 0


def do(client: Client, action: Callable[[], object]) -> None:
    """Change the fake cluster on the loop that reads it."""

    async def act() -> None:
        action()

    client.portal.call(act())


def finish(client: Client, cluster: FakeCluster, task: Task, code: int = 0) -> None:
    do(client, lambda: cluster.finish(task.task_id, code))


def test_a_task_is_a_future(client: Client, cluster: FakeCluster) -> None:
    task = client.run(["true"], target="node1:0")
    assert isinstance(task, Task)
    assert not task.done()
    assert not task.running()
    do(client, lambda: cluster.change(task.task_id, "running"))
    wait_until(task.running)
    with pytest.raises(concurrent.futures.TimeoutError):
        task.result(0.01)
    finish(client, cluster, task)
    assert task.result(30).exit_code == 0
    assert task.exception() is None
    assert not task.running()
    assert repr(task) == f"<Task {task.task_id} on node1:0: completed>"


def test_futures_of_the_standard_library_work_on_tasks(
    client: Client, cluster: FakeCluster
) -> None:
    slow, fast = client.run(["slow"]), client.run(["fast"])
    finish(client, cluster, fast)
    done = concurrent.futures.as_completed([slow, fast], timeout=30)
    assert next(done) is fast
    finish(client, cluster, slow, 3)
    assert next(done) is slow
    ended, waiting = concurrent.futures.wait([slow, fast], timeout=30)
    assert ended == {slow, fast}
    assert not waiting
    assert isinstance(slow.exception(), TaskFailed)


def test_a_callback_runs_and_must_not_wait(client: Client, cluster: FakeCluster) -> None:
    task = client.run(["true"])
    told: concurrent.futures.Future[BaseException] = concurrent.futures.Future()

    def callback(_: concurrent.futures.Future[TaskResult]) -> None:
        try:
            client.nodes()
        except Conflict as error:
            told.set_result(error)

    task.add_done_callback(callback)
    finish(client, cluster, task)
    assert "own thread" in str(told.result(30))


def test_kill_ends_in_an_exception(client: Client, cluster: FakeCluster) -> None:
    task = client.run(["true"])
    task.kill()
    assert cluster.killed == [task.task_id]
    do(client, lambda: cluster.change(task.task_id, "killed"))
    with pytest.raises(TaskKilled):
        task.result(30)
    with pytest.raises(Conflict):
        task.kill()


def test_cancel_asks_for_the_end_and_is_told(client: Client, cluster: FakeCluster) -> None:
    task = client.run(["true"])
    assert task.cancel()
    assert not task.done()
    wait_until(lambda: cluster.killed)
    do(client, lambda: cluster.change(task.task_id, "killed"))
    done, _ = concurrent.futures.wait([task], timeout=30)
    assert done == {task}
    assert task.cancelled()
    assert task.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        task.result()


def test_a_task_that_was_faster_than_its_cancel_has_a_result(
    client: Client, cluster: FakeCluster
) -> None:
    task = client.run(["true"])
    assert task.cancel()
    finish(client, cluster, task)
    assert task.result(30).exit_code == 0
    assert not task.cancel()


def test_a_task_can_be_awaited_on_any_loop(client: Client, cluster: FakeCluster) -> None:
    task, failing = client.run(["true"]), client.run(["false"])

    async def wait_for_both() -> None:
        async with asyncio.timeout(30):
            await asyncio.to_thread(finish, client, cluster, task)
            assert (await task).exit_code == 0
            await asyncio.to_thread(finish, client, cluster, failing, 2)
            with pytest.raises(TaskFailed):
                await failing

    asyncio.run(wait_for_both())


def test_an_await_that_is_cancelled_leaves_the_task_alone(
    client: Client, cluster: FakeCluster
) -> None:
    task = client.run(["true"])

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.02)

    asyncio.run(impatient())
    assert not task.done()
    assert not cluster.killed
    # The callback for the loop that is gone must do no harm.
    finish(client, cluster, task, 1)
    assert isinstance(task.exception(30), TaskFailed)


def test_a_batch_is_a_future_of_all_and_a_sequence(client: Client, cluster: FakeCluster) -> None:
    batch = client.run(["true"], targets=["a", "nosuch", "b"])
    assert isinstance(batch, Batch)
    assert [task.view.target for task in batch] == ["a", "b"]
    assert [failed.target for failed in batch.failed_targets] == ["nosuch"]
    assert "2 unfinished" in repr(batch)
    finish(client, cluster, batch[1], 7)
    assert not batch.done()
    finish(client, cluster, batch[0])
    with pytest.raises(TaskFailed, match="exit code 7"):
        batch.result(30)
    assert [len(batch[:1]), batch.running()] == [1, False]


def test_a_batch_without_failure_has_all_results(client: Client, cluster: FakeCluster) -> None:
    batch = client.run_script("print()", targets=["a", "b"])
    for task in batch:
        finish(client, cluster, task)
    assert [result.target for result in batch.result(30)] == ["a", "b"]
    assert not batch.cancel()


def test_a_batch_can_be_killed_and_cancelled(client: Client, cluster: FakeCluster) -> None:
    batch = client.run(["true"], targets=["a", "b", "c"])
    finish(client, cluster, batch[0])
    batch.kill()
    assert set(cluster.killed) == {batch[1].task_id, batch[2].task_id}
    assert batch.cancel()
    for task in batch[1:]:
        do(client, lambda task=task: cluster.change(task.task_id, "killed"))  # type: ignore[misc]
    assert concurrent.futures.wait([batch], timeout=30).done == {batch}
    assert batch.cancelled()


def test_a_task_is_taken_up_by_its_id(client: Client, cluster: FakeCluster) -> None:
    cluster.add(make_view("7", "running"))
    task = client.task("7")
    assert task.running()
    finish(client, cluster, task)
    assert task.result(30).task_id == "7"
    assert client.task(7).done()
    assert client.status(7).status is TaskState.COMPLETED
    assert [view.task_id for view in client.tasks()] == ["7"]


def test_logs_are_lines(client: Client, cluster: FakeCluster) -> None:
    task = client.run(["true"])
    do(client, lambda: cluster.write(task.task_id, b"one\ntwo\nthr"))
    assert list(task.logs()) == ["one", "two", "thr"]
    lines = task.logs(follow=True)
    assert next(lines) == "one"
    do(client, lambda: cluster.write(task.task_id, b"ee\n"))
    finish(client, cluster, task)
    assert list(lines) == ["two", "three"]
    assert task.text(tail=1) == "three\n"


def test_an_iterator_that_is_dropped_leaves_nothing_open(
    client: Client, cluster: FakeCluster
) -> None:
    task = client.run(["true"])
    do(client, lambda: cluster.write(task.task_id, b"one\ntwo\n"))
    lines = task.logs(follow=True)
    assert next(lines) == "one"
    del lines
    items = follow([task])
    next(items)
    del items
    gc.collect()

    async def others() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks()]

    # What remains: the loop's own task, the event stream and this look.
    wait_until(lambda: len(client.portal.call(others())) <= 3)


def test_follow_gives_output_and_changes_of_all(client: Client, cluster: FakeCluster) -> None:
    batch = client.run(["true"], targets=["a", "b"])
    first, second = batch
    items = follow(batch)
    do(client, lambda: cluster.change(first.task_id, "running"))
    do(client, lambda: cluster.write(first.task_id, b"no newline"))
    do(client, lambda: cluster.write(second.task_id, "ä".encode(), "stderr"))
    finish(client, cluster, first)
    finish(client, cluster, second, 1)
    seen = list(items)
    output = {(item.task, item.stream): item.text for item in seen if isinstance(item, Output)}
    assert output == {(first, "stdout"): "no newline", (second, "stderr"): "ä"}
    for task in batch:
        own = [item for item in seen if item.task is task]
        assert isinstance(own[-1], Change)
        assert own[-1].view.status in {TaskState.COMPLETED, TaskState.FAILED}


def test_follow_can_leave_the_output_out(client: Client, cluster: FakeCluster) -> None:
    task = client.run(["true"])
    do(client, lambda: cluster.write(task.task_id, b"text"))
    finish(client, cluster, task)
    assert all(isinstance(item, Change) for item in follow([task], streams=()))


def test_follow_outlives_a_broken_link(client: Client, cluster: FakeCluster) -> None:
    task = client.run(["true"])
    with follow([task]) as items:
        do(client, lambda: cluster.write(task.task_id, b"one "))
        seen = [next(item for item in items if isinstance(item, Output)).text]
        do(client, cluster.break_off)
        do(client, lambda: cluster.write(task.task_id, b"two"))
        finish(client, cluster, task)
        seen += [item.text for item in items if isinstance(item, Output)]
    assert "".join(seen) == "one two"


def test_a_follow_that_fails_raises(cluster: FakeCluster) -> None:
    with Client(cluster=cluster, patience=0.05) as client:
        task = client.run(["true"])
        items = follow([task])
        next(items)
        cluster.down = HostUnreachable("gone for good")
        do(client, cluster.break_off)
        with pytest.raises(HostUnreachable, match="gone for good"):
            list(items)
        assert list(items) == []


def test_an_interrupt_loses_nothing(client: Client, cluster: FakeCluster) -> None:
    task = client.run(["true"])
    items = follow([task], streams=("stdout",))
    assert isinstance(next(items), Change)
    drain = items._drain
    real, drain._fetch = drain._fetch, lambda: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    drain._items.clear()
    with pytest.raises(KeyboardInterrupt):
        next(items)
    drain._fetch = real  # type: ignore[method-assign]
    do(client, lambda: cluster.write(task.task_id, b"after"))
    finish(client, cluster, task)
    assert "".join(item.text for item in items if isinstance(item, Output)) == "after"


def test_nothing_or_two_clients_cannot_be_followed_together(
    client: Client, cluster: FakeCluster
) -> None:
    with pytest.raises(ValueError, match="at least one"):
        follow([])
    with Client(cluster=cluster) as other, pytest.raises(ValueError, match="one Client"):
        follow([client.run(["a"]), other.run(["b"])])


def test_labels_tell_tasks_apart(client: Client) -> None:
    one, two, three = client.run(["x"], targets=["a", "a", "b"])
    assert labels([one, two, three]) == {
        one.task_id: f"a#{one.task_id}",
        two.task_id: f"a#{two.task_id}",
        three.task_id: "b",
    }
    lone = client.run(["x"])
    assert labels([lone]) == {lone.task_id: f"-#{lone.task_id}"}


def test_a_batch_is_cancelled_and_killed_by_one_request(
    client: Client, cluster: FakeCluster
) -> None:
    batch = client.run(["sleep", "60"], targets=["a", "b", "c"])
    finish(client, cluster, batch[0])
    assert batch.cancel()
    wait_until(lambda: len(cluster.killed) == 2)
    for task in batch[1:]:
        do(client, partial(cluster.change, task.task_id, "killed"))
    concurrent.futures.wait([batch], timeout=30)
    assert batch.cancelled()
    assert batch[1].cancelled()
    assert batch[0].result().exit_code == 0
    assert not batch.cancel()
    other = client.run(["sleep", "60"], targets=["a", "b"])
    other.kill()
    assert cluster.killed[2:] == [task.task_id for task in other]
    for task in other:
        do(client, partial(cluster.change, task.task_id, "killed"))
    with pytest.raises(TaskKilled):
        other.result(30)
    other.kill()


def test_many_submissions_have_a_future_each(client: Client, cluster: FakeCluster) -> None:
    requests = [command_request(["true"], target=name) for name in ("a", "nosuch", "b")]
    first, refused, last = client.submit_many(requests)
    assert (len(first), len(refused), len(last)) == (1, 0, 1)
    with pytest.raises(SubmissionRefused, match="no such node"):
        refused.result(0)
    assert [failed.target for failed in refused.failed_targets] == ["nosuch"]
    assert not refused.cancel()
    refused.kill()
    finish(client, cluster, last[0])
    assert last.result(30)[0].exit_code == 0


def test_many_tasks_at_once_are_all_told(client: Client, cluster: FakeCluster) -> None:
    batch = client.run(["true"], targets=["a"] * 200)

    def end_all() -> None:
        for task in batch:
            cluster.change(task.task_id, "running")
            cluster.finish(task.task_id)

    do(client, end_all)
    assert [result.exit_code for result in batch.result(30)] == [0] * 200


def test_what_exists_is_taken_up_run_again_and_ended(client: Client, cluster: FakeCluster) -> None:
    do(client, lambda: cluster.add(make_view("7", "running")))
    do(client, lambda: cluster.add(make_view("8", "failed")))
    batch = client.batch(1000)
    assert [task.task_id for task in batch] == ["7", "8"]
    assert batch[1].done()
    again = client.rerun("8", env={"A": "1"})
    finish(client, cluster, again)
    assert again.result(30).exit_code == 0
    assert client.kill_batch(1000).task_ids == ["7"]


def test_nodes_are_drained_resumed_and_forgotten(client: Client, cluster: FakeCluster) -> None:
    do(client, lambda: cluster.put_node(make_node("n1")))
    assert client.drain("n1").draining
    assert not client.resume("n1").draining
    do(client, lambda: cluster.put_node(make_node("n1", status=NodeStatus.OFFLINE)))
    assert "forgotten" in client.forget("n1")
    assert client.nodes() == []


def test_closing_fails_what_is_not_done(cluster: FakeCluster) -> None:
    before = threading.active_count()
    client = Client(cluster=cluster)
    task = client.run(["true"])
    client.close()
    client.close()
    with pytest.raises(Conflict, match="closed"):
        task.result(30)
    with pytest.raises(Conflict, match="closed"):
        client.nodes()
    assert not task.cancel()
    assert threading.active_count() == before


def test_a_client_that_nobody_holds_ends_its_thread(cluster: FakeCluster) -> None:
    client = Client(cluster=cluster)
    client.nodes()
    thread = client.portal._thread
    assert thread is not None
    del client
    gc.collect()
    wait_until(lambda: not thread.is_alive())
    assert cluster.closed


def test_a_client_that_only_a_task_holds_goes_on(cluster: FakeCluster) -> None:
    task = Client(cluster=cluster).run(["true"])
    gc.collect()
    assert not cluster.closed

    async def end(task_id: str) -> None:
        cluster.finish(task_id, 0)

    task.portal.call(end(task.task_id))
    assert task.result(5).exit_code == 0
    del task
    gc.collect()
    wait_until(lambda: cluster.closed)


def test_an_interrupted_call_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    portal = Portal()
    started, cancelled = threading.Event(), threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    def interrupted(_: object) -> None:
        started.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr("hakuriver.client.portal.wait_in_slices", interrupted)
    with pytest.raises(KeyboardInterrupt):
        portal.call(endless())
    assert cancelled.wait(30)
    portal.close()


def test_tables_for_notebooks_are_escaped(client: Client) -> None:
    task = client.run(["<script>alert(1)</script>"], target="node1")
    bundle = task._repr_mimebundle_()
    assert bundle["text/plain"] == repr(task)
    assert "<script>" not in bundle["text/html"]
    assert "&lt;script&gt;" in bundle["text/html"]
    many = client.run(["x"], targets=["n"] * 60)._repr_mimebundle_()
    assert "and 10 more" in many["text/html"]


def test_a_program_that_closes_nothing_ends_quietly() -> None:
    code = """
import sys
sys.path.insert(0, "tests")
from unit.client.fakes import FakeCluster
from hakuriver.client.follow import follow
from hakuriver.client.sync import Client
client = Client(cluster=FakeCluster())
task = client.run(["sleep", "60"])
items = follow([task])
print(next(items).view.status)
lines = task.logs(follow=True)
"""
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "pending\n", "")
