from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hakuriver import Client, TaskKilled
from support.looks import frozen
from support.processes import alive, wait_until
from support.restarts import tick

if TYPE_CHECKING:
    from support.harness import Cluster


def test_all_unfinished_tasks_of_a_batch_are_killed_and_reported(cluster: Cluster) -> None:
    script = "if [ $HAKURIVER_BATCH_INDEX = 0 ]; then exit 3; fi; exec sleep 60"
    targets = ["node1", "node1", "node2", "node1"]
    reply = cluster.submit_batch("sh", "-c", script, targets=targets)
    ended, running, other, waiting = reply["task_ids"]
    cluster.wait(ended, "failed")
    for task_id in (running, other):
        cluster.wait(task_id, "running")
    assert cluster.status(waiting)["status"] == "pending"
    bystander = cluster.submit("sleep", "60", cores=0)
    told = cluster.post(f"/api/kill-batch/{reply['batch_id']}")
    assert sorted(told["task_ids"]) == sorted([running, other, waiting])
    assert "3" in told["message"]
    assert {cluster.wait(task_id)["status"] for task_id in told["task_ids"]} == {"killed"}
    assert cluster.status(ended)["exit_code"] == 3
    assert cluster.status(waiting)["started_at"] is None
    assert cluster.wait(bystander, "running")


def test_a_batch_that_has_ended_and_an_unknown_one_cannot_be_killed(cluster: Cluster) -> None:
    reply = cluster.submit_batch("true", targets=["node1", "node2"])
    for task_id in reply["task_ids"]:
        cluster.wait(task_id, "completed")
    again = cluster.http("POST", f"/api/kill-batch/{reply['batch_id']}")
    assert again.status == 409
    assert again.json()["detail"]
    for unknown in ("1", "nonsense", reply["task_ids"][0], "9" * 30):
        answer = cluster.http("POST", f"/api/kill-batch/{unknown}")
        assert answer.status == 404, unknown
        assert answer.json()["detail"]
    assert {cluster.status(task_id)["status"] for task_id in reply["task_ids"]} == {"completed"}


def test_killing_a_batch_twice_is_no_error_while_it_ends(cluster: Cluster) -> None:
    reply = cluster.submit_batch("sleep", "60", targets=["node1"])
    (task_id,) = reply["task_ids"]
    cluster.wait(task_id, "running")
    # Its node hears of neither before both are asked.
    with frozen(cluster.runners["node1"].pid):
        for _ in range(2):
            told = cluster.post(f"/api/kill-batch/{reply['batch_id']}")
            assert told["task_ids"] == [task_id]
    assert cluster.wait(task_id)["status"] == "killed"


def test_a_batch_is_killed_on_a_node_that_is_away_when_it_is_back(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    ticking = tick(cluster)
    batch_id = cluster.status(ticking.task_id)["batch_id"]
    cluster.kill("node1")
    wait_until(lambda: cluster.node_status("node1") == "offline")
    assert cluster.post(f"/api/kill-batch/{batch_id}")["task_ids"] == [ticking.task_id]
    assert alive(ticking.pid)
    cluster.restart("node1")
    assert cluster.wait(ticking.task_id)["status"] == "killed"
    assert not alive(ticking.pid)


def test_a_batch_that_waits_never_runs_once_it_is_killed(cluster: Cluster) -> None:
    held = cluster.submit("sleep", "60")
    cluster.wait(held, "running")
    reply = cluster.submit_batch("true", targets=["node1"] * 50)
    told = cluster.post(f"/api/kill-batch/{reply['batch_id']}")
    assert sorted(told["task_ids"]) == sorted(reply["task_ids"])
    cluster.post(f"/api/kill/{held}")
    cluster.wait(held, "killed")
    assert cluster.run("true")["status"] == "completed"
    tasks = [cluster.status(task_id) for task_id in reply["task_ids"]]
    assert {(task["status"], task["started_at"]) for task in tasks} == {("killed", None)}


def test_a_batch_is_taken_up_and_killed_by_the_python_client(cluster: Cluster) -> None:
    client = Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token)
    try:
        made = client.run(["sleep", "60"], targets=["node1", "node2"])
        batch = client.batch(made.batch_id)
        assert [task.task_id for task in batch] == [task.task_id for task in made]
        client.kill_batch(made.batch_id)
        for task in (*made, *batch):
            with pytest.raises(TaskKilled):
                task.result(timeout=60)
    finally:
        client.close()


def test_the_command_kills_a_batch_and_names_its_tasks(cluster: Cluster) -> None:
    reply = cluster.submit_batch("sleep", "60", targets=["node1", "node2"])
    done = cluster.run_client("--kill-batch", reply["batch_id"], check=0)
    for task_id in reply["task_ids"]:
        assert task_id in done.stdout
        assert cluster.wait(task_id)["status"] == "killed"
    again = cluster.run_client("--kill-batch", reply["batch_id"])
    assert again.returncode not in {0, 2}
    assert reply["batch_id"] in again.stderr


def test_a_submission_joins_a_batch_and_is_ended_with_it(cluster: Cluster) -> None:
    first = cluster.submit_batch("sleep", "60", targets=["node1"], cores=0)
    batch_id = first["batch_id"]
    second = cluster.submit_batch(
        *("sh", "-c", "echo $HAKURIVER_BATCH_ID; exec sleep 60"),
        targets=["node2"],
        cores=0,
        batch_id=batch_id,
    )
    assert second["batch_id"] == batch_id
    (joined,) = second["task_ids"]
    wait_until(lambda: cluster.text(joined) == f"{batch_id}\n")
    listed = [task["task_id"] for task in cluster.all_tasks(batch=batch_id)]
    assert sorted(listed) == sorted([*first["task_ids"], joined])
    told = cluster.post(f"/api/kill-batch/{batch_id}")
    assert sorted(told["task_ids"]) == sorted(listed)
    assert {cluster.wait(task_id)["status"] for task_id in listed} == {"killed"}
    refused = cluster.http("POST", "/api/submit", body={"command": "true", "batch_id": joined})
    assert refused.status == 422
    assert refused.json()["detail"] == [
        {"field": "batch_id", "reason": f"you have no batch {joined} that it could join"}
    ]


def test_what_has_joined_a_batch_stands_for_its_own_tasks(cluster: Cluster) -> None:
    client = Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token)
    try:
        first = client.run(["sleep", "60"], targets=["node1"], cores=0)
        more: dict[str, Any] = {"cores": 0, "batch_id": first.batch_id, "idempotency_key": "again"}
        second = client.run(["sleep", "60"], targets=["node2", "node2"], **more)
        del more["batch_id"]
        same = client.run(["sleep", "60"], targets=["node2", "node2"], **more)
        assert (second.batch_id, same.batch_id) == (first.batch_id, first.batch_id)
        assert [task.task_id for task in same] == [task.task_id for task in second]
        assert len(client.batch(first.batch_id)) == 3
        wait_until(lambda: first.running() and second.running())
        same.kill()
        for task in (*second, *same):
            with pytest.raises(TaskKilled):
                task.result(timeout=20)
        assert first[0].status().status == "running"
        client.batch(first.batch_id).kill()
        with pytest.raises(TaskKilled):
            first[0].result(timeout=20)
    finally:
        client.close()
