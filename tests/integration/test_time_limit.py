from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver import Client
from hakuriver.model.quantities import format_duration
from support.harness import KILL_GRACE
from support.looks import at_the_gate, content, seconds_of
from support.processes import alive, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster

#: Cleans up when it is asked to end, and ends well.
HANDLER = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
#: Says that it was asked to end, and does not.
ASKED = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done"
#: Will not end by itself, and has a child that left its session.
STUBBORN = """
trap '' TERM
setsid sh -c 'trap "" TERM; echo $$ > "$0/child"; sleep 300' "$1" &
echo $$ > "$1/main"
while :; do sleep 0.05; done
"""
#: In seconds: a longer one is tried when a task on a busy machine was not ready for a short one.
LIMITS = (0.6, 4.0, 16.0)


def _check_timeout(task: Any, limit: float) -> None:
    assert task["status"] == "failed"
    words = f"timeout: ran longer than {format_duration(limit)}"
    assert task["reason"].startswith(words), task["reason"]


def _since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def _has_written(cluster: Cluster, task_id: str, word: str) -> bool:
    """Wait for a word in a task's output; False if the task has ended before it wrote that."""

    def over() -> bool:
        return bool(cluster.status(task_id)["completed_at"]) or word in cluster.text(task_id)

    wait_until(over, what=word)
    return word in cluster.text(task_id)


def test_a_task_over_its_time_limit_is_ended_and_failed(cluster: Cluster) -> None:
    task = cluster.run("sleep", "60", time_limit_seconds=0.5)
    _check_timeout(task, 0.5)
    assert task["exit_code"] == -signal.SIGTERM
    assert task["time_limit_seconds"] == 0.5
    assert 0.45 < seconds_of(task) < 50, "it would end by itself"


def test_a_task_within_its_time_limit_is_left_alone(cluster: Cluster) -> None:
    for exit_code, status in ((0, "completed"), (3, "failed")):
        task = cluster.run("sh", "-c", f"sleep 0.2; exit {exit_code}", time_limit_seconds=30)
        assert (task["status"], task["exit_code"]) == (status, exit_code)
        assert "timeout" not in str(task["reason"])


def test_a_task_that_cleans_up_at_its_time_limit_has_timed_out_still(cluster: Cluster) -> None:
    for limit in LIMITS:
        task = cluster.run("sh", "-c", HANDLER, time_limit_seconds=limit)
        _check_timeout(task, limit)
        if task["exit_code"] == 0:
            break
    assert task["exit_code"] == 0
    assert cluster.output(task["task_id"]) == b"ready\nbye\n"


def test_a_task_that_ignores_its_time_limit_is_killed_after_the_grace_with_its_tree(
    cluster: Cluster, tmp_path: Path
) -> None:
    for limit in LIMITS:
        folder = tmp_path / str(limit)
        folder.mkdir()
        task_id = cluster.submit(
            *("sh", "-c", STUBBORN, "stubborn", str(folder)), time_limit_seconds=limit
        )
        task = cluster.wait(task_id)
        _check_timeout(task, limit)
        if (folder / "main").exists() and (folder / "child").exists():
            break
    assert task["exit_code"] == -signal.SIGKILL
    assert limit + 0.8 * KILL_GRACE < seconds_of(task) < 200, "they would end by themselves"
    pids = [int(content(folder / name)) for name in ("main", "child")]
    assert [pid for pid in pids if alive(pid)] == []


def test_the_time_in_the_queue_does_not_count(cluster: Cluster, tmp_path: Path) -> None:
    limit = 1.0
    first = cluster.submit(*at_the_gate(tmp_path / "gate"))
    second = cluster.submit("sleep", "0.3", time_limit_seconds=limit)
    task = cluster.status(second)
    assert task["status"] == "pending"
    wait_until(lambda: _since(task["submitted_at"]) > limit)
    (tmp_path / "gate").touch()
    task = cluster.wait(second)
    assert cluster.status(first)["status"] == "completed"
    # Even where a sleep takes so long, the limit is not over before it is.
    assert task["status"] == "completed" or seconds_of(task) >= limit


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
        _check_timeout(cluster.wait(task_id, "failed"), 0.3)
    for task_id in (other, longer, *reply["task_ids"]):
        assert cluster.wait(task_id, "running")["status"] == "running"


def test_a_kill_that_was_asked_before_the_limit_stays_a_kill(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes={"node1": "0"}, settings={"timing": {"kill_grace": 2.0}})
    cluster.start()
    limit, in_time = 1.5, False
    task: Any = None
    for _ in range(5):
        task_id = cluster.submit("sh", "-c", ASKED, time_limit_seconds=limit)
        if _has_written(cluster, task_id, "ready"):
            cluster.http("POST", f"/api/kill/{task_id}")
            # A busy machine may let the limit come first.
            asked = _has_written(cluster, task_id, "asked")
            in_time = asked and _since(cluster.status(task_id)["started_at"]) < limit
        task = cluster.wait(task_id, "killed", "failed")
        if in_time:
            break
    assert in_time
    assert seconds_of(task) > limit
    assert task["status"] == "killed"
    assert "timeout" not in str(task["reason"])


def test_a_kill_that_is_asked_after_the_limit_changes_nothing(cluster: Cluster) -> None:
    answer = 0
    for limit in (*LIMITS, *LIMITS):
        task_id = cluster.submit("sh", "-c", ASKED, time_limit_seconds=limit)
        if _has_written(cluster, task_id, "asked"):
            answer = cluster.http("POST", f"/api/kill/{task_id}").status
        _check_timeout(cluster.wait(task_id, "failed"), limit)
        # A busy machine may let the whole of the grace pass before we ask.
        if answer == 202:
            break
    assert answer == 202


def _limited(cluster: Cluster, *, dies: str) -> tuple[str, int, float]:
    """Let a task run into its limit when what `dies` is dead; return its id, pid and limit."""
    for limit in (1.5, 6.0, 20.0):
        task_id = cluster.submit("sh", "-c", "echo $$; exec sleep 60", time_limit_seconds=limit)
        if _has_written(cluster, task_id, "\n"):
            pid = int(cluster.text(task_id))
            cluster.kill(dies)
            if alive(pid):
                return task_id, pid, limit
            cluster.restart(dies)
    raise AssertionError("each limit had passed before the death")


def test_a_time_limit_holds_while_the_runner_is_dead(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    task_id, pid, limit = _limited(cluster, dies="node1")
    wait_until(lambda: not alive(pid), what="the end of the task without its runner")
    cluster.start_runner("node1")
    task = cluster.wait(task_id)
    _check_timeout(task, limit)
    assert task["exit_code"] == -signal.SIGTERM
    assert limit - 0.1 < seconds_of(task) < 50, "it would end by itself"


def test_a_time_limit_holds_while_the_host_is_dead(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    task_id, pid, limit = _limited(cluster, dies="host")
    wait_until(lambda: not alive(pid), what="the end of the task without its host")
    cluster.start_host()
    _check_timeout(cluster.wait(task_id), limit)


def test_the_command_line_limits_the_time(cluster: Cluster) -> None:
    command = ("--target", "node1", "--time-limit", "0.4s", "--wait", "--", "sleep", "60")
    done = cluster.run_client(*command)
    assert done.returncode not in {0, 2, 3}
    assert "timeout" in done.stdout + done.stderr
    (newest,) = cluster.get("/api/tasks?limit=1")["tasks"]
    _check_timeout(newest, 0.4)


def test_the_python_client_limits_the_time(cluster: Cluster) -> None:
    with Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token) as client:
        task = client.run(["sleep", "60"], target="node1", time_limit=0.4)
        error = task.exception(timeout=60)
        assert "timeout" in str(error)
        same = client.run(["true"], target="node1", time_limit="1.5m")
        same.result(timeout=60)
        assert cluster.status(same.task_id)["time_limit_seconds"] == 90


def test_nothing_has_a_time_limit_unless_asked_for(cluster: Cluster) -> None:
    assert cluster.run("true")["time_limit_seconds"] is None


@pytest.mark.parametrize("limit", [0, -1, "5", True, 1e30, [1]])
def test_a_time_limit_that_is_none_is_refused_by_name(cluster: Cluster, limit: object) -> None:
    body = {"command": "true", "targets": ["node1"], "time_limit_seconds": limit}
    reply = cluster.http("POST", "/api/submit", body=body)
    assert reply.status == 422
    assert [error["field"] for error in reply.json()["detail"]] == ["time_limit_seconds"]
