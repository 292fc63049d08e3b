from __future__ import annotations

import asyncio
import concurrent.futures
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from hakuriver import AsyncClient, Client
from hakuriver.errors import (
    Conflict,
    HostUnreachable,
    InvalidRequest,
    NotFound,
    SubmissionRefused,
    TaskFailed,
    TaskKilled,
    Unauthorized,
)
from support.looks import at_the_gate
from support.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.harness import Cluster

#: What Nagle's algorithm and a delayed acknowledgement would add, in seconds, is 0.048.
NAGLE = 0.040


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    client = Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token)
    yield client
    client.close()


def test_the_result_of_a_task_is_how_it_ended(client: Client) -> None:
    task = client.run(["sh", "-c", "echo hello"], target="node1", cores=1)
    result = task.result(timeout=60)
    assert (result.exit_code, result.status) == (0, "completed")
    assert result.task_id == task.task_id
    assert task.done()
    assert isinstance(task, concurrent.futures.Future)
    assert list(task.logs()) == ["hello"]


def test_a_task_that_fails_raises_with_its_result(client: Client) -> None:
    task = client.run(["sh", "-c", "exit 4"], target="node1")
    with pytest.raises(TaskFailed, match="4") as caught:
        task.result(timeout=60)
    assert caught.value.result.exit_code == 4
    assert isinstance(task.exception(), TaskFailed)


def test_a_task_that_is_killed_raises(client: Client) -> None:
    task = client.run(["sleep", "60"], target="node1")
    task.kill()
    with pytest.raises(TaskKilled):
        task.result(timeout=60)


def test_a_result_can_be_waited_for_in_vain(client: Client) -> None:
    task = client.run(["sleep", "60"], target="node1")
    with pytest.raises(concurrent.futures.TimeoutError):
        task.result(timeout=0.1)
    assert not task.done()


def test_a_followed_log_gives_lines_as_they_come(client: Client) -> None:
    script = "import time\nfor i in range(10):\n    print(i, time.time()); time.sleep(0.05)\n"
    medians: list[float] = []
    # One calm round proves it; a busy machine has others.
    while not medians or (medians[-1] >= 0.1 and len(medians) < 10):
        task = client.run([sys.executable, "-u", "-c", script], target="node1")
        lines: list[str] = []
        delays: list[float] = []
        for line in task.logs(follow=True):
            lines.append(line.split()[0])
            delays.append(time.time() - float(line.split()[1]))
        assert lines == [str(number) for number in range(10)]
        assert task.result(timeout=60).exit_code == 0
        medians.append(statistics.median(delays))
    assert medians[-1] < 0.1, medians


def test_tasks_can_be_gathered_as_they_complete(client: Client, tmp_path: Path) -> None:
    slow = client.run(at_the_gate(tmp_path / "gate"), target="node1")
    fast = client.run(["true"], target="node2")
    done = concurrent.futures.as_completed([slow, fast], timeout=60)
    assert next(done) == fast
    (tmp_path / "gate").touch()
    assert list(done) == [slow]
    ended = concurrent.futures.wait([slow, fast], timeout=1)
    assert not ended.not_done


def test_a_task_can_be_awaited(client: Client) -> None:
    async def scenario() -> None:
        good = client.run(["true"], target="node1")
        bad = client.run(["false"], target="node2")
        assert (await good).exit_code == 0
        with pytest.raises(TaskFailed):
            await bad

    asyncio.run(scenario())


def test_an_await_that_is_cancelled_leaves_the_task_running(
    client: Client, cluster: Cluster
) -> None:
    task = client.run(["sleep", "60"], target="node1")

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.3)

    asyncio.run(scenario())
    assert cluster.wait(task.task_id, "running")["status"] == "running"


def test_a_batch_is_its_tasks_and_their_results(client: Client) -> None:
    batch = client.run(["sh", "-c", "echo $HAKURIVER_NODE"], targets=["node1", "node2"])
    assert len(batch) == 2
    assert [result.exit_code for result in batch.result(timeout=60)] == [0, 0]
    assert sorted(line for task in batch for line in task.logs()) == ["node1", "node2"]
    assert {task.batch_id for task in batch} == {batch.batch_id}


def test_a_batch_with_a_failure_raises_when_all_have_ended(client: Client) -> None:
    script = "if [ $HAKURIVER_NODE = node1 ]; then exit 3; fi; sleep 0.3"
    batch = client.run(["sh", "-c", script], targets=["node1", "node2"])
    with pytest.raises(TaskFailed):
        batch.result(timeout=60)
    assert all(task.done() for task in batch)


def test_a_batch_carries_the_targets_that_failed(client: Client) -> None:
    batch = client.run(["true"], targets=["node1", "nosuch"])
    assert len(batch) == 1
    assert [failed.target for failed in batch.failed_targets] == ["nosuch"]


def test_the_client_shows_tasks_and_nodes(client: Client) -> None:
    task = client.run(["true"], target="node1", name="shown")
    task.result(timeout=60)
    assert next(iter(client.tasks(name="shown"))).task_id == task.task_id
    assert {node.hostname for node in client.nodes()} == {"node1", "node2"}
    again = client.task(task.task_id)
    assert again.result(timeout=60).exit_code == 0


def test_mistakes_raise_what_they_are(client: Client, cluster: Cluster) -> None:
    with pytest.raises(NotFound):
        client.task("12345")
    with pytest.raises(SubmissionRefused) as refused:
        client.run(["true"], target="nosuch")
    assert [failed.target for failed in refused.value.failed_targets] == ["nosuch"]
    with pytest.raises(InvalidRequest):
        client.run(["true"], target="node1", cores=-1)
    ended = client.run(["true"], target="node1")
    ended.result(timeout=60)
    with pytest.raises(Conflict):
        ended.kill()
    stranger = Client(f"http://127.0.0.1:{cluster.port}", token="wrong")
    with pytest.raises(Unauthorized):
        stranger.nodes()
    stranger.close()
    nobody = Client(f"http://127.0.0.1:{free_port()}", token="any")
    with pytest.raises(HostUnreachable, match="hakuriver"):
        nobody.nodes()
    nobody.close()


def test_the_asynchronous_client_has_the_same_words(cluster: Cluster) -> None:
    async def scenario() -> None:
        url = f"http://127.0.0.1:{cluster.port}"
        async with AsyncClient(url, token=cluster.token) as client:
            task = await client.run(["sh", "-c", "echo one; echo two"], target="node1")
            assert [line async for line in task.logs(follow=True)] == ["one", "two"]
            assert (await task).exit_code == 0
            batch = await client.run(["true"], targets=["node1", "node2"])
            assert len(batch) == 2
            assert [result.exit_code for result in await batch] == [0, 0]
            assert len(await client.nodes()) == 2

    asyncio.run(scenario())


def test_a_program_may_end_without_closing_its_client(cluster: Cluster) -> None:
    script = (
        "from hakuriver import Client\n"
        f"client = Client(config={str(cluster.config)!r})\n"
        "task = client.run(['true'], target='node1')\n"
        "print(task.result(timeout=60).exit_code)\n"
        "waiting = client.run(['sleep', '60'], target='node1')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=cluster.env,
        cwd=cluster.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def _median(action: Callable[[], object]) -> float:
    """Return the seconds that `action` takes, as the median of twenty times."""
    spent: list[float] = []
    for _ in range(20):
        started = time.perf_counter()
        action()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def test_a_task_costs_no_delayed_acknowledgement(client: Client) -> None:
    def task() -> None:
        client.run(["true"], target="node1").result(timeout=60)

    def process() -> None:
        subprocess.run(["true"], check=True)

    task()
    rounds: list[tuple[float, float]] = []
    # One calm round proves that there is no gap. On a busy machine all things take longer, so
    # that the bare process beside it is the measure.
    for _ in range(10):
        floor = _median(process)
        rounds.append((_median(task), max(NAGLE, 12 * floor)))
        if rounds[-1][0] < rounds[-1][1]:
            return
    raise AssertionError(f"medians and limits in seconds: {rounds}")
