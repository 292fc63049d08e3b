from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.model.ids import Snowflakes
from support.harness import ids_in
from support.processes import wait_until

if TYPE_CHECKING:
    from support.harness import Cluster


def _tasks_shown(cluster: Cluster, text: str) -> list[str]:
    """Return the ids in `text` that are ids of tasks: it may show the batch's as well."""
    return [
        found for found in ids_in(text) if cluster.http("GET", f"/api/status/{found}").status == 200
    ]


def test_one_command_on_one_target_is_one_task_and_one_line(cluster: Cluster) -> None:
    done = cluster.run_client(
        *("--target", "node1", "--cores", "1", "--", "echo", "Basic Task"), check=0
    )
    (task_id,) = _tasks_shown(cluster, done.stdout)
    task = cluster.wait(task_id, "completed")
    assert task["assigned_node"] == "node1"
    assert task["exit_code"] == 0
    assert task["cpus"] == [0]
    assert Path(task["stdout_path"]).read_bytes() == b"Basic Task\n"
    assert cluster.output(task_id) == b"Basic Task\n"
    assert cluster.output(task_id, "stderr") == b""


def test_the_paths_answer_with_and_without_the_prefix(cluster: Cluster) -> None:
    reply = cluster.http("POST", "/submit", body={"command": "true", "targets": ["node1"]})
    assert reply.status == 202
    (task_id,) = reply.json()["task_ids"]
    assert isinstance(task_id, str)
    assert cluster.http("GET", f"/status/{task_id}").status == 200
    assert cluster.http("GET", "/nodes").status == 200


def test_two_targets_are_two_tasks_of_one_batch(cluster: Cluster) -> None:
    done = cluster.run_client("--target", "node1", "--target", "node2", "--", "true", check=0)
    ids = _tasks_shown(cluster, done.stdout)
    assert len(ids) == 2
    tasks = [cluster.wait(task_id, "completed") for task_id in ids]
    assert {task["assigned_node"] for task in tasks} == {"node1", "node2"}
    assert len({task["batch_id"] for task in tasks}) == 1
    assert tasks[0]["batch_id"]


def test_a_task_object_has_all_its_fields(cluster: Cluster) -> None:
    task = cluster.run("true", name="whole", env_vars={"KEY": "value"}, cores=1)
    expected = {
        *("task_id", "batch_id", "command", "arguments", "env_vars", "required_cores"),
        *("required_memory_bytes", "status", "assigned_node", "target_numa_node_id"),
        *("stdout_path", "stderr_path", "exit_code", "error_message", "submitted_at"),
        *("started_at", "completed_at", "use_private_network", "use_private_pid"),
        *("systemd_unit_name", "rev", "name", "owner", "reason", "working_directory"),
        *("time_limit_seconds", "cpus", "queue_position", "retry_of", "usage"),
    }
    assert expected <= task.keys()
    assert task["name"] == "whole"
    assert task["owner"] == "default"
    assert task["required_memory_bytes"] is None
    assert task["submitted_at"] <= task["started_at"] <= task["completed_at"]
    assert task["submitted_at"].endswith("+00:00")


def test_the_owner_is_the_name_of_the_token(cluster: Cluster) -> None:
    body = {"command": "true", "targets": ["node1"]}
    reply = cluster.http("POST", "/api/submit", body=body, token=cluster.second_token)
    (task_id,) = reply.json()["task_ids"]
    assert cluster.wait(task_id)["owner"] == "alice"
    owned = cluster.get("/api/tasks?owner=alice&limit=1000")["tasks"]
    assert {task["owner"] for task in owned} == {"alice"}


def test_without_a_target_the_scheduler_picks_a_node(cluster: Cluster) -> None:
    reply = cluster.submit_batch("true", targets=None)
    (task_id,) = reply["task_ids"]
    assert cluster.wait(task_id, "completed")["assigned_node"] in {"node1", "node2"}


def test_a_bad_target_beside_a_good_one_is_told_and_exits_3(cluster: Cluster) -> None:
    targets = ("--target", "node1", "--target", "nosuch")
    done = cluster.run_client(*targets, "--", "true", check=3)
    (task_id,) = _tasks_shown(cluster, done.stdout)
    assert "nosuch" in done.stdout + done.stderr
    assert cluster.wait(task_id)["status"] == "completed"
    reply = cluster.submit_batch("true", targets=["nosuch", "node1"])
    (failed,) = reply["failed_targets"]
    assert failed["target"] == "nosuch"
    assert failed["reason"]


def test_bad_targets_alone_are_refused_and_leave_no_row(cluster: Cluster) -> None:
    before = cluster.get("/api/tasks?limit=1000")["tasks"]
    body = {"command": "true", "targets": ["nosuch", "other"]}
    reply = cluster.http("POST", "/api/submit", body=body)
    assert 400 <= reply.status < 500 or reply.status == 503
    refused = reply.json()
    assert isinstance(refused["detail"], str)
    assert {failed["target"] for failed in refused["failed_targets"]} == {"nosuch", "other"}
    assert all(failed["reason"] for failed in refused["failed_targets"])
    done = cluster.run_client("--target", "nosuch", "--target", "other", "--", "true")
    assert done.returncode not in {0, 3}
    assert "nosuch" in done.stderr
    assert "other" in done.stderr
    assert cluster.get("/api/tasks?limit=1000")["tasks"] == before
    assert cluster.unfinished() == []


def test_a_numa_node_that_does_not_exist_is_refused_with_the_valid_ones(cluster: Cluster) -> None:
    body = {"command": "true", "targets": ["node1:9"]}
    reply = cluster.http("POST", "/api/submit", body=body)
    assert 400 <= reply.status < 500 or reply.status == 503
    (failed,) = reply.json()["failed_targets"]
    assert failed["target"] == "node1:9"


def test_events_tell_every_change_from_a_revision_on(cluster: Cluster) -> None:
    with cluster.stream("/api/events") as live:
        first = next(live)[1]
        assert first.keys() == {"rev"}
        task_id = cluster.submit("true")
        states: list[str] = []
        revisions = [first["rev"]]
        for _, event in live:
            revisions.append(event["rev"])
            if event.get("task", {}).get("task_id") == task_id:
                states.append(event["task"]["status"])
                if states[-1] == "completed":
                    break
    order = ["pending", "assigning", "running", "completed"]
    assert states == sorted(states, key=order.index)
    assert revisions == sorted(revisions)
    with cluster.stream(f"/api/events?after={first['rev']}") as replay:
        assert next(replay)[1]["rev"] == first["rev"]
        again: list[str] = []
        for _, event in replay:
            assert event["rev"] > first["rev"]
            if event.get("task", {}).get("task_id") == task_id:
                again.append(event["task"]["status"])
                if again[-1] == "completed":
                    break
    assert again == sorted(again, key=order.index)


def test_ids_given_in_a_burst_are_distinct_and_sorted(cluster: Cluster) -> None:
    def submit(_: int) -> list[int]:
        targets = ["node1", "node2"] * 5
        reply = cluster.submit_batch("true", targets=targets, cores=0)
        return [int(task_id) for task_id in reply["task_ids"]]

    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(submit, range(16)))
    assert all(batch == sorted(batch) for batch in batches)
    assert len({task_id for batch in batches for task_id in batch}) == 160
    wait_until(lambda: not cluster.unfinished(), timeout=60, what="160 tasks ended")


def test_ten_thousand_ids_of_one_millisecond_are_distinct_and_sorted() -> None:
    flakes = Snowflakes(lambda: 1_800_000_000_000)
    ids = [flakes.next() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert json.loads(json.dumps(str(ids[-1]))) == str(ids[-1])
