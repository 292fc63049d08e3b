from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.commands import client_json

if TYPE_CHECKING:
    from support.harness import Cluster


def test_status_shows_all_of_a_task(cluster: Cluster) -> None:
    task_id = cluster.submit(
        *("sh", "-c", "exit 4"),
        name="whole",
        env_vars={"KEY": "hidden"},
        required_memory_bytes=256 << 20,
        time_limit_seconds=90,
        working_directory="/tmp",
        target="node1:0",
    )
    cluster.wait(task_id, "failed")
    document = client_json(cluster, "--status", task_id)
    task = document[0] if isinstance(document, list) else document
    expected = {
        *("task_id", "batch_id", "command", "arguments", "env_vars", "required_cores"),
        *("required_memory_bytes", "status", "assigned_node", "target_numa_node_id"),
        *("stdout_path", "stderr_path", "exit_code", "error_message", "submitted_at"),
        *("started_at", "completed_at", "use_private_network", "use_private_pid"),
        *("systemd_unit_name", "rev", "name", "owner", "reason", "working_directory"),
        *("time_limit_seconds", "cpus", "queue_position", "retry_of", "usage"),
    }
    assert task.keys() == expected
    values = {
        "command": "sh",
        "arguments": ["-c", "exit 4"],
        "required_cores": 1,
        "required_memory_bytes": 256 << 20,
        "time_limit_seconds": 90,
        "working_directory": "/tmp",
        "assigned_node": "node1",
        "target_numa_node_id": 0,
        "cpus": [0],
        "exit_code": 4,
        "name": "whole",
        "owner": "default",
        "queue_position": None,
        "retry_of": None,
        "use_private_network": False,
        "use_private_pid": False,
    }
    assert {key: task[key] for key in values} == values
    assert list(task["env_vars"]) == ["KEY"]
    assert "hidden" not in json.dumps(task)
    assert task["submitted_at"] <= task["started_at"] <= task["completed_at"]
    shown = cluster.run_client("--status", task_id, check=0).stdout
    words = (
        *(task_id, task["batch_id"], "failed", "node1:0", "whole", "default", "KEY", "/tmp"),
        *("256 MiB", "1m 30s", "sh", "exit 4", task["stdout_path"], task["stderr_path"]),
    )
    for word in words:
        assert word in shown, f"{word!r} is not in {shown}"
    assert "hidden" not in shown


def test_status_of_a_waiting_task_says_what_for_and_how_many_come_before(
    cluster: Cluster,
) -> None:
    cluster.wait(cluster.submit("sleep", "60"), "running")
    waiting = [cluster.submit("sleep", "60") for _ in range(3)]
    for before, task_id in enumerate(waiting):
        task = cluster.status(task_id)
        assert task["queue_position"] == before
        assert "node1" in task["reason"]
        assert "1 core" in task["reason"]
        assert "0 free" in task["reason"]
        shown = cluster.run_client("--status", task_id, check=0).stdout
        assert task["reason"] in shown


def test_status_tells_what_a_task_is_a_retry_of(cluster: Cluster) -> None:
    old = cluster.run("true")["task_id"]
    (new,) = client_json(cluster, "--rerun", old)["task_ids"]
    cluster.wait(new)
    assert old in cluster.run_client("--status", new, check=0).stdout
