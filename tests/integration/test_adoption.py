from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hakuriver import Client
from hakuriver.errors import NotFound
from support.processes import alive
from support.restarts import database, remove_database, tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.harness import Cluster

#: What a task object says of a task, and not of its way through one database.
OF_THE_DATABASE = {"rev", "reason", "queue_position"}


def _facts(task: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in task.items() if key not in OF_THE_DATABASE}


def _lose_the_database(cluster: Cluster) -> None:
    cluster.kill("host")
    remove_database(cluster)


def test_a_new_database_adopts_running_tasks_whole(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    more: dict[str, Any] = {"env_vars": {"SECRET": "hidden-value"}, "name": "adopted", "cores": 1}
    ticking = tick(cluster, code=5, **more)
    before = cluster.status(ticking.task_id)
    _lose_the_database(cluster)
    cluster.start_host()
    cluster.wait_online("node1")
    after = cluster.wait(ticking.task_id, "running")
    assert _facts(after) == _facts(before)
    assert (after["owner"], after["name"]) == ("default", "adopted")
    assert set(after["env_vars"]) == {"SECRET"}
    assert "hidden-value" not in str(after)
    assert cluster.node("node1")["cores_in_use"] == 1
    assert cluster.text(ticking.task_id).startswith("line 0\n")
    with cluster.stream(f"/api/task/{ticking.task_id}/stdout?follow=1&offset=0") as lines:
        ticking.end()
        data = "".join(line.get("data", "") for _, line in lines)
    ticking.check_whole(data.splitlines())
    ended = cluster.wait(ticking.task_id)
    assert (ended["status"], ended["exit_code"]) == ("failed", 5)
    assert b"hidden-value" not in database(cluster).read_bytes()


def test_a_new_database_learns_of_the_ends_it_missed(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    tickings = {code: tick(cluster, code=code, cores=0) for code in (0, 3)}
    cluster.kill("host", "node1")
    for ticking in tickings.values():
        ticking.end()
    remove_database(cluster)
    cluster.restart("host", "node1")
    for code, ticking in tickings.items():
        task = cluster.wait(ticking.task_id)
        assert task["exit_code"] == code
        assert task["started_at"] < task["completed_at"]
        ticking.check_whole(cluster.text(ticking.task_id).splitlines())
    # It stays told: the runner may forget these tasks now, the host does not.
    cluster.kill("host", "node1")
    cluster.restart("host", "node1")
    assert {cluster.status(ticking.task_id)["exit_code"] for ticking in tickings.values()} == {0, 3}


def test_the_owner_of_an_adopted_task_is_the_one_who_submitted_it(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    body = {"command": "sleep", "arguments": ["60"], "targets": ["node1"]}
    reply = cluster.http("POST", "/api/submit", body=body, token=cluster.second_token).json()
    (task_id,) = reply["task_ids"]
    cluster.wait(task_id, "running")
    _lose_the_database(cluster)
    cluster.start_host()
    cluster.wait_online("node1")
    (task,) = cluster.get("/api/tasks?owner=alice")["tasks"]
    assert (task["task_id"], task["batch_id"]) == (task_id, reply["batch_id"])
    assert [task["task_id"] for task in cluster.get("/api/tasks")["tasks"]] == [task_id]


def test_a_batch_over_two_nodes_is_one_batch_again(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    reply = cluster.submit_batch("sleep", "60", targets=["node1", "node2"])
    for task_id in reply["task_ids"]:
        cluster.wait(task_id, "running")
    _lose_the_database(cluster)
    cluster.start_host()
    for name in cluster.nodes:
        cluster.wait_online(name)
    tasks = cluster.get(f"/api/tasks?batch={reply['batch_id']}")["tasks"]
    assert sorted(task["task_id"] for task in tasks) == sorted(reply["task_ids"])
    assert {task["status"] for task in tasks} == {"running"}
    cluster.post(f"/api/kill-batch/{reply['batch_id']}")
    assert {cluster.wait(task_id)["status"] for task_id in reply["task_ids"]} == {"killed"}


def test_new_ids_are_larger_than_those_of_adopted_tasks(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    ids = cluster.submit_batch("sleep", "60", targets=["node1"], cores=0)["task_ids"]
    cluster.wait(ids[0], "running")
    _lose_the_database(cluster)
    cluster.start_host()
    cluster.wait_online("node1")
    assert int(cluster.submit("true")) > int(ids[0])


def test_an_adopted_task_can_be_killed(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    ticking = tick(cluster)
    _lose_the_database(cluster)
    cluster.start_host()
    cluster.wait_online("node1")
    cluster.post(f"/api/kill/{ticking.task_id}")
    assert cluster.wait(ticking.task_id)["status"] == "killed"
    assert not alive(ticking.pid)


def test_a_future_is_told_the_end_of_an_adopted_task(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    ticking = tick(cluster)
    client = Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token)
    try:
        task = client.task(ticking.task_id)
        _lose_the_database(cluster)
        ticking.go_on(20)
        cluster.start_host()
        cluster.wait_online("node1")
        ticking.end()
        # The new host may have been asked before the node told it of the task.
        with suppress(NotFound):
            assert task.result(timeout=60).exit_code == 0
        assert client.task(ticking.task_id).result(timeout=60).exit_code == 0
    finally:
        client.close()


def test_a_follower_of_the_lost_database_does_not_keep_its_old_picture(
    fresh_cluster: Cluster,
) -> None:
    cluster = fresh_cluster
    for _ in range(5):
        cluster.run("true")
    ticking = tick(cluster)
    seen = cluster.status(ticking.task_id)["rev"]
    _lose_the_database(cluster)
    cluster.start_host()
    for name in cluster.nodes:
        cluster.wait_online(name)
    ticking.end()
    cluster.wait(ticking.task_id, "completed")
    # By the time the follower is back, the new numbers may have passed the one that it knows.
    while cluster.run("true")["rev"] <= seen:
        pass
    with cluster.stream(f"/api/events?after={seen}") as live:
        last = cluster.submit("true")
        for _, event in live:
            task_id = event.get("task", {}).get("task_id")
            assert task_id != last, "the end of the adopted task was never told"
            if event.get("reset") or task_id == ticking.task_id:
                break


def test_the_runner_of_another_cluster_is_refused_with_the_mend(
    make_cluster: Callable[..., Cluster],
) -> None:
    first = make_cluster()
    first.start()
    ticking = tick(first)
    # The same nodes and the same address, but the database and the secrets of another.
    first.kill("host")
    secret = secrets.token_hex(16)
    second = make_cluster(
        settings={"network": {"host_port": first.port}, "security": {"runner_secret": secret}}
    )
    second.port = first.port
    second.start_host()
    config = second.root / "moved.toml"
    config.write_text(
        (first.root / "node1.toml").read_text("utf-8").replace(first.runner_secret, secret), "utf-8"
    )
    config.chmod(0o600)
    first.kill("node1")
    first.runners["node1"].argv = ["runner", "-c", str(config)]
    first.start_runner("node1")
    runner = first.runners["node1"]
    assert runner.process is not None
    assert runner.process.wait(60) not in {0, -9}
    runner.process = None
    for word in ("cluster", "paths.state_dir"):
        assert word in runner.text().splitlines()[-1]
    assert second.node_status("node1") in {None, "offline"}
    assert second.get("/api/tasks")["tasks"] == []
    # Nothing was lost by it: in its own cluster all is as before.
    second.host.stop()
    first.runners["node1"].argv = ["runner", "-c", str(first.root / "node1.toml")]
    first.restart("host", "node1")
    assert first.wait(ticking.task_id, "running")
    ticking.end()
    assert first.wait(ticking.task_id)["status"] == "completed"
