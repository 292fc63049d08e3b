from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.commands import client_json
from support.harness import check_one_line, ids_in
from support.processes import wait_until

if TYPE_CHECKING:
    from support.harness import Cluster

UNKNOWN = "123456789012345678"


def test_kill_batch_ends_every_unfinished_task_and_names_them(cluster: Cluster) -> None:
    targets = ["node1", "node2", "node1"]
    reply = cluster.submit_batch("sleep", "60", targets=targets)
    ids = reply["task_ids"]
    other = cluster.submit("sleep", "60", cores=0)
    for task_id in (*ids[:2], other):
        cluster.wait(task_id, "running")
    assert cluster.status(ids[2])["status"] == "pending"
    done = cluster.run_client("--kill-batch", reply["batch_id"], check=0)
    assert set(ids) <= set(ids_in(done.stdout))
    for task_id in ids:
        cluster.wait(task_id, "killed")
    assert cluster.status(ids[2])["started_at"] is None
    assert cluster.status(other)["status"] == "running"


def test_kill_batch_leaves_the_tasks_alone_that_have_ended(cluster: Cluster) -> None:
    script = "test $HAKURIVER_BATCH_INDEX = 0 && exit 0; sleep 60"
    reply = cluster.submit_batch("sh", "-c", script, targets=["node1", "node2"])
    ended, runs = reply["task_ids"]
    before = cluster.wait(ended, "completed")
    cluster.wait(runs, "running")
    answer = cluster.http("POST", f"/api/kill-batch/{reply['batch_id']}")
    assert answer.status == 202
    assert answer.json()["task_ids"] == [runs]
    assert answer.json()["message"]
    cluster.wait(runs, "killed")
    assert cluster.status(ended) == before


def test_kill_batch_of_a_batch_that_has_ended_is_a_conflict(cluster: Cluster) -> None:
    task = cluster.run("true")
    reply = cluster.http("POST", f"/api/kill-batch/{task['batch_id']}")
    assert reply.status == 409
    assert isinstance(reply.json()["detail"], str)
    done = cluster.run_client("--kill-batch", task["batch_id"])
    assert done.returncode not in {0, 2}
    check_one_line(done.stderr, task["batch_id"])
    assert cluster.status(task["task_id"]) == task


@pytest.mark.parametrize("batch_id", [UNKNOWN, "abc", "0", "9" * 25])
def test_an_unknown_batch_is_told_with_its_id(cluster: Cluster, batch_id: str) -> None:
    assert cluster.http("POST", f"/api/kill-batch/{batch_id}").status == 404
    done = cluster.run_client("--kill-batch", batch_id)
    assert done.returncode != 0
    assert batch_id in done.stderr
    assert done.stdout == ""


def test_kill_batch_prints_json_alone(cluster: Cluster) -> None:
    reply = cluster.submit_batch("sleep", "60", targets=["node1", "node2"])
    document = client_json(cluster, "--kill-batch", reply["batch_id"])
    assert sorted(document["task_ids"]) == sorted(reply["task_ids"])


def test_no_queue_starts_what_can_start_and_refuses_the_rest(cluster: Cluster) -> None:
    both = ("--target", "node1", "--target", "node2", "--no-queue", "--", "sleep", "60")
    first = cluster.run_client("--target", "node1", "--no-queue", "--", "sleep", "60", check=0)
    cluster.wait(ids_in(first.stdout)[0] if ids_in(first.stdout) else "", "running")
    done = cluster.run_client(*both, check=3)
    assert "node1" in done.stdout + done.stderr
    states = sorted((task["assigned_node"], task["status"]) for task in cluster.unfinished())
    assert [name for name, _ in states] == ["node1", "node2"]
    wait_until(lambda: {task["status"] for task in cluster.unfinished()} == {"running"})
    refused = cluster.run_client("--target", "node1", "--no-queue", "--", "true")
    assert refused.returncode not in {0, 2, 3}
    assert "node1" in refused.stderr
    assert "free" in refused.stderr
    anywhere = cluster.run_client("--no-queue", "--", "true")
    assert anywhere.returncode not in {0, 2, 3}
    assert len(cluster.unfinished()) == 2


def test_no_queue_prints_json_alone_when_it_refuses_a_part(cluster: Cluster) -> None:
    cluster.wait(cluster.submit("sleep", "60"), "running")
    both = ("--target", "node1", "--target", "node2", "--no-queue", "--json", "--", "true")
    document = json.loads(cluster.run_client(*both, check=3).stdout)
    assert len(document["task_ids"]) == 1
    (failed,) = document["failed_targets"]
    assert failed["target"] == "node1"
    assert "free" in failed["reason"]
