from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import TYPE_CHECKING

import pytest

from hakuriver import AsyncClient, Client, TaskFailed
from support.harness import ids_in
from support.processes import wait_until
from support.restarts import new_gate, tick, ticker_command, ticking

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from hakuriver import Task
    from support.harness import Cluster
    from support.restarts import Ticking

#: Lines that the task goes on writing while nobody serves it: 50 a second at most.
OUTAGE = 20
LONG_OUTAGE = 150
SILENCE = "does not answer"


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    client = Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token)
    yield client
    client.close()


class Output:
    """What a client that goes on running has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], pool: ThreadPoolExecutor) -> None:
        self.process = process
        self.lines: list[str] = []
        self.errors: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._reading = [
            pool.submit(self._read, process.stdout, self.lines),
            pool.submit(self._read, process.stderr, self.errors),
        ]

    def _read(self, stream: IO[bytes], into: list[str]) -> None:
        into.extend(line.decode().rstrip("\n") for line in stream)

    def numbered(self) -> list[str]:
        return [line for line in self.lines if re.fullmatch(r"line \d+", line)]

    def more(self, count: int = 5) -> None:
        wanted = len(self.numbered()) + count
        wait_until(lambda: len(self.numbered()) >= wanted, timeout=60, what="more lines shown")

    def end(self) -> int:
        for reading in self._reading:
            reading.result(60)
        return self.process.wait(60)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def _submit_and_follow(
    cluster: Cluster, pool: ThreadPoolExecutor, *options: str, code: int
) -> tuple[Output, Ticking]:
    gate = new_gate(cluster)
    command = ticker_command(gate, code)
    shown = Output(cluster.start_client("--target", "node1", *options, "--", *command), pool)
    (task,) = wait_until(cluster.unfinished, what="the task")
    cluster.wait(task["task_id"], "running")
    return shown, ticking(cluster, task["task_id"], gate)


def test_wait_and_follow_outlive_a_host_that_is_away_for_seconds(
    cluster: Cluster, pool: ThreadPoolExecutor
) -> None:
    shown, ticker = _submit_and_follow(cluster, pool, "--wait", "--follow", code=7)
    shown.more()
    cluster.kill("host")
    ticker.go_on(LONG_OUTAGE)
    wait_until(lambda: any(SILENCE in line for line in shown.errors), what="its word on that")
    seen = len(shown.numbered())
    cluster.restart("host")
    shown.more()
    ticker.end()
    assert shown.end() == 7
    ticker.check_whole(shown.numbered())
    assert len(ticker.lines()) >= seen + LONG_OUTAGE
    (said,) = [line for line in shown.errors if SILENCE in line]
    assert str(cluster.port) in said


def test_wait_outlives_a_host_during_whose_absence_the_task_ends(
    cluster: Cluster, pool: ThreadPoolExecutor
) -> None:
    shown, ticker = _submit_and_follow(cluster, pool, "--wait", code=4)
    cluster.kill("host")
    ticker.go_on(OUTAGE)
    ticker.end()
    cluster.restart("host")
    assert shown.end() == 4
    everything = "\n".join(shown.lines + shown.errors)
    assert ticker.task_id in ids_in(everything)
    # A line for each change, and none of them again after the restart.
    for state in ("running", "failed"):
        changes = [line for line in everything.splitlines() if state in line.split()]
        assert len(changes) <= 1, everything
    assert "failed" in everything


def test_a_log_followed_by_the_client_outlives_host_and_runner(
    cluster: Cluster, pool: ThreadPoolExecutor
) -> None:
    ticker = tick(cluster)
    shown = Output(cluster.start_client("--logs", ticker.task_id, "--follow"), pool)
    for dying in (("host",), ("node1",), ("host", "node1")):
        shown.more()
        cluster.kill(*dying)
        ticker.go_on(OUTAGE)
        cluster.restart(*dying)
    shown.more()
    ticker.end()
    assert shown.end() == 0
    ticker.check_whole(shown.numbered())


def test_a_follow_over_http_goes_on_where_it_broke_off(cluster: Cluster) -> None:
    ticker = tick(cluster)
    data = b""
    for _ in range(3):
        path = f"/api/task/{ticker.task_id}/stdout?follow=1&offset={len(data)}"
        data += _read_until_it_breaks(cluster, path, len(data))
        ticker.go_on(10)
        cluster.restart("host", "node1")
    ticker.end()
    cluster.wait(ticker.task_id)
    with cluster.stream(f"/api/task/{ticker.task_id}/stdout?follow=1&offset={len(data)}") as rest:
        data += b"".join(line.get("data", "").encode() for _, line in rest)
    assert data == cluster.output(ticker.task_id)
    ticker.check_whole(data.decode().splitlines())


def _read_until_it_breaks(cluster: Cluster, path: str, start: int) -> bytes:
    """Follow a log; kill host and runner when something has come; return all that came."""
    data, killed = b"", False
    try:
        with cluster.stream(path) as lines:
            for _, line in lines:
                assert "end" not in line
                assert line.get("offset", start + len(data)) == start + len(data)
                data += line.get("data", "").encode()
                if data and not killed:
                    cluster.kill("host", "node1")
                    killed = True
    except (OSError, HTTPException, ValueError):
        assert killed
    return data


def test_a_follow_goes_on_by_itself_when_only_the_runner_dies(cluster: Cluster) -> None:
    ticker = tick(cluster)
    data = b""
    killed = False
    with cluster.stream(f"/api/task/{ticker.task_id}/stdout?follow=1&offset=0") as lines:
        for _, line in lines:
            if "end" in line:
                assert line["end"] == {"status": "completed", "size": len(data)}
                break
            assert not line.get("reset")
            assert line.get("offset", len(data)) == len(data)
            data += line.get("data", "").encode()
            if data and not killed:
                cluster.kill("node1")
                ticker.go_on(OUTAGE)
                cluster.restart("node1")
                ticker.go_on(5)
                ticker.end()
                killed = True
    ticker.check_whole(data.decode().splitlines())


def test_a_future_and_a_followed_log_outlive_host_and_runner(
    cluster: Cluster, client: Client, pool: ThreadPoolExecutor
) -> None:
    gate = new_gate(cluster)
    task = client.run(ticker_command(gate, 6), target="node1")
    seen: list[str] = []
    following = pool.submit(lambda: seen.extend(task.logs(follow=True)))
    cluster.wait(task.task_id, "running")
    ticker = ticking(cluster, task.task_id, gate)
    for dying in (("host",), ("node1",), ("node1", "host")):
        cluster.kill(*dying)
        ticker.go_on(OUTAGE)
        cluster.restart(*dying)
        ticker.go_on(5)
    assert not task.done()
    ticker.end()
    with pytest.raises(TaskFailed, match="6"):
        task.result(timeout=60)
    following.result(60)
    ticker.check_whole(seen)


def test_futures_of_tasks_that_end_while_the_host_is_away_are_told(
    cluster: Cluster, client: Client
) -> None:
    gates = [new_gate(cluster) for _ in range(2)]
    tasks = [
        client.run(ticker_command(gate, code), target=f"node{code + 1}")
        for code, gate in enumerate(gates)
    ]
    tickers = [_running(cluster, task, gate) for task, gate in zip(tasks, gates, strict=True)]
    late = client.run(["sh", "-c", "exit 9"], target="node1")
    cluster.kill("host")
    for ticker in tickers:
        ticker.end()
    cluster.restart("host")
    assert tasks[0].result(timeout=60).exit_code == 0
    with pytest.raises(TaskFailed, match="1"):
        tasks[1].result(timeout=60)
    with pytest.raises(TaskFailed, match="9"):
        late.result(timeout=60)


def _running(cluster: Cluster, task: Task, gate: Path) -> Ticking:
    cluster.wait(task.task_id, "running")
    return ticking(cluster, task.task_id, gate)


def test_an_asynchronous_follow_outlives_the_host(cluster: Cluster) -> None:
    ticker = tick(cluster, code=2)

    async def scenario() -> list[str]:
        url = f"http://127.0.0.1:{cluster.port}"
        async with AsyncClient(url, token=cluster.token) as client:
            task = await client.task(ticker.task_id)
            outage = asyncio.create_task(asyncio.to_thread(restart))
            lines = [line async for line in task.logs(follow=True)]
            await outage
            with pytest.raises(TaskFailed, match="2"):
                await task
            return lines

    def restart() -> None:
        ticker.go_on(5)
        cluster.kill("host")
        ticker.go_on(OUTAGE)
        cluster.restart("host")
        ticker.go_on(5)
        ticker.end()

    ticker.check_whole(asyncio.run(scenario()))


def test_events_after_a_revision_go_on_after_a_restart(
    cluster: Cluster,
) -> None:
    first = cluster.run("true")
    cluster.kill("host")
    cluster.restart("host")
    cluster.wait_online("node2")
    second = cluster.submit("true", target="node2")
    with cluster.stream(f"/api/events?after={first['rev']}") as events:
        for _, event in events:
            assert not event.get("reset")
            assert event["rev"] >= first["rev"]
            task = event.get("task")
            assert task is None or task["task_id"] == second
            if task and task["status"] == "completed":
                break
