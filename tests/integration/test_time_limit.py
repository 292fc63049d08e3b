from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver import Client
from support.harness import KILL_GRACE
from support.looks import content, first_line, seconds_of
from support.processes import alive, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster

#: Cleans up when it is asked to end, and ends well.
HANDLER = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
#: Will not end by itself, and has a child that left its session.
STUBBORN = """
trap '' TERM
setsid sh -c 'trap "" TERM; echo $$ > "$0/child"; sleep 300' "$1" &
echo $$ > "$1/main"
while :; do sleep 0.05; done
"""


def _check_timeout(task: Any, limit: str) -> None:
    assert task["status"] == "failed"
    assert task["reason"].startswith(f"timeout: ran longer than {limit}"), task["reason"]


def test_a_task_over_its_time_limit_is_ended_and_failed(cluster: Cluster) -> None:
    task = cluster.run("sleep", "60", time_limit_seconds=0.5)
    _check_timeout(task, "0.5 s")
    assert task["exit_code"] == -signal.SIGTERM
    assert task["time_limit_seconds"] == 0.5
    assert 0.45 < seconds_of(task) < 3


def test_a_task_within_its_time_limit_is_left_alone(cluster: Cluster) -> None:
    for exit_code, status in ((0, "completed"), (3, "failed")):
        task = cluster.run("sh", "-c", f"sleep 0.2; exit {exit_code}", time_limit_seconds=30)
        assert (task["status"], task["exit_code"]) == (status, exit_code)
        assert "timeout" not in str(task["reason"])


def test_a_task_that_cleans_up_at_its_time_limit_has_timed_out_still(cluster: Cluster) -> None:
    task = cluster.run("sh", "-c", HANDLER, time_limit_seconds=0.6)
    _check_timeout(task, "0.6 s")
    assert task["exit_code"] == 0
    assert cluster.output(task["task_id"]) == b"ready\nbye\n"


def test_a_task_that_ignores_its_time_limit_is_killed_after_the_grace_with_its_tree(
    cluster: Cluster, tmp_path: Path
) -> None:
    task_id = cluster.submit("sh", "-c", STUBBORN, "stubborn", str(tmp_path), time_limit_seconds=1)
    pids = [int(content(tmp_path / name)) for name in ("main", "child")]
    assert all(alive(pid) for pid in pids)
    task = cluster.wait(task_id)
    _check_timeout(task, "1.0 s")
    assert task["exit_code"] == -signal.SIGKILL
    assert 1 + 0.8 * KILL_GRACE < seconds_of(task) < 1 + KILL_GRACE + 3
    assert [pid for pid in pids if alive(pid)] == []


def test_the_time_in_the_queue_does_not_count(cluster: Cluster) -> None:
    first = cluster.submit("sleep", "1.2")
    second = cluster.submit("sh", "-c", "sleep 0.3; echo whole", time_limit_seconds=1)
    assert cluster.status(second)["status"] == "pending"
    assert cluster.wait(second, "completed")["exit_code"] == 0
    assert cluster.status(first)["status"] == "completed"
    assert cluster.output(second) == b"whole\n"


def test_a_time_limit_ends_its_own_task_alone(cluster: Cluster) -> None:
    other = cluster.submit("sleep", "60", cores=0)
    longer = cluster.submit("sleep", "60", cores=0, time_limit_seconds=60)
    for task_id in (other, longer):
        cluster.wait(task_id, "running")
    reply = cluster.submit_batch("sleep", "60", targets=["node1"] * 3, cores=0)
    short = cluster.submit_batch(
        *("sleep", "60"), targets=["node1"] * 3, cores=0, time_limit_seconds=0.3
    )
    for task_id in short["task_ids"]:
        _check_timeout(cluster.wait(task_id, "failed"), "0.3 s")
    for task_id in (other, longer, *reply["task_ids"]):
        assert cluster.wait(task_id, "running")["status"] == "running"


def test_a_kill_that_was_asked_before_the_limit_stays_a_kill(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes={"node1": "0"}, settings={"timing": {"kill_grace": 2.0}})
    cluster.start()
    script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    task_id = cluster.submit("sh", "-c", script, time_limit_seconds=1.5)
    wait_until(lambda: cluster.output(task_id) == b"ready\n")
    assert cluster.http("POST", f"/api/kill/{task_id}").status == 202
    task = cluster.wait(task_id, "killed")
    assert seconds_of(task) > 1.6
    assert "timeout" not in str(task["reason"])


def test_a_kill_that_is_asked_after_the_limit_changes_nothing(cluster: Cluster) -> None:
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done"
    task_id = cluster.submit("sh", "-c", script, time_limit_seconds=0.5)
    wait_until(lambda: cluster.output(task_id) == b"ready\nasked\n", what="SIGTERM at the limit")
    assert cluster.http("POST", f"/api/kill/{task_id}").status == 202
    _check_timeout(cluster.wait(task_id, "failed"), "0.5 s")


def test_a_time_limit_holds_while_the_runner_is_dead(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    task_id = cluster.submit("sh", "-c", "echo $$; exec sleep 60", time_limit_seconds=1.5)
    pid = int(first_line(cluster, task_id))
    cluster.kill("node1")
    assert alive(pid), "the limit passed before the runner was dead"
    wait_until(lambda: not alive(pid), timeout=5, what="the end of the task without its runner")
    cluster.start_runner("node1")
    task = cluster.wait(task_id)
    _check_timeout(task, "1.5 s")
    assert task["exit_code"] == -signal.SIGTERM
    assert 1.4 < seconds_of(task) < 4


def test_a_time_limit_holds_while_the_host_is_dead(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    task_id = cluster.submit("sh", "-c", "echo $$; exec sleep 60", time_limit_seconds=1.5)
    pid = int(first_line(cluster, task_id))
    cluster.kill("host")
    assert alive(pid), "the limit passed before the host was dead"
    wait_until(lambda: not alive(pid), timeout=5, what="the end of the task without its host")
    cluster.start_host()
    _check_timeout(cluster.wait(task_id), "1.5 s")


def test_the_command_line_limits_the_time(cluster: Cluster) -> None:
    command = ("--target", "node1", "--time-limit", "0.4s", "--wait", "--", "sleep", "60")
    started = time.monotonic()
    done = cluster.run_client(*command)
    assert time.monotonic() - started < 10
    assert done.returncode not in {0, 2, 3}
    assert "timeout" in done.stdout + done.stderr
    (newest,) = cluster.get("/api/tasks?limit=1")["tasks"]
    _check_timeout(newest, "0.4 s")


def test_the_python_client_limits_the_time(cluster: Cluster) -> None:
    with Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token) as client:
        task = client.run(["sleep", "60"], target="node1", time_limit=0.4)
        error = task.exception(timeout=15)
        assert "timeout" in str(error)
        same = client.run(["true"], target="node1", time_limit="1.5m")
        same.result(timeout=15)
        assert cluster.status(same.task_id)["time_limit_seconds"] == 90


def test_nothing_has_a_time_limit_unless_asked_for(cluster: Cluster) -> None:
    assert cluster.run("true")["time_limit_seconds"] is None


@pytest.mark.parametrize("limit", [0, -1, "5", True, 1e30, [1]])
def test_a_time_limit_that_is_none_is_refused_by_name(cluster: Cluster, limit: object) -> None:
    body = {"command": "true", "targets": ["node1"], "time_limit_seconds": limit}
    reply = cluster.http("POST", "/api/submit", body=body)
    assert reply.status == 422
    assert [error["field"] for error in reply.json()["detail"]] == ["time_limit_seconds"]
