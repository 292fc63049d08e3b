from __future__ import annotations

from typing import TYPE_CHECKING

from support.processes import wait_until
from support.restarts import tick

if TYPE_CHECKING:
    from support.harness import Cluster


def _tasks(cluster: Cluster) -> list[tuple[str, str, int]]:
    tasks = cluster.get("/api/tasks?limit=1000")["tasks"]
    return [(task["task_id"], task["status"], task["exit_code"]) for task in tasks]


def test_a_host_restarted_at_rest_knows_its_tasks_and_nodes(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    first = cluster.run("echo", "kept")["task_id"]
    cluster.run("sh", "-c", "exit 4", target="node2")
    before = _tasks(cluster)
    cluster.host.stop()
    cluster.start_host()
    assert _tasks(cluster) == before
    for name in cluster.nodes:
        cluster.wait_online(name)
    assert cluster.output(first) == b"kept\n"
    after = cluster.run("true")
    assert after["status"] == "completed"
    assert int(after["task_id"]) > max(int(task_id) for task_id, _, _ in before)
    assert after["rev"] > 0
    nodes = {node["hostname"]: node for node in cluster.get("/api/nodes")["nodes"]}
    assert [nodes[name]["cores_in_use"] for name in cluster.nodes] == [0, 0]


def test_a_runner_restarted_at_rest_is_the_same_node(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    task_id = cluster.run("echo", "kept")["task_id"]
    cluster.runners["node1"].stop()
    wait_until(lambda: cluster.node_status("node1") == "offline")
    cluster.start_runner("node1")
    cluster.wait_online("node1")
    assert len(cluster.get("/api/nodes")["nodes"]) == 2
    assert cluster.output(task_id) == b"kept\n"
    assert cluster.run("true")["status"] == "completed"


def test_a_running_task_outlives_its_host_and_its_runner(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    tickings = [tick(cluster, target=node, code=5) for node in cluster.nodes]
    cluster.host.stop()
    cluster.runners["node1"].stop()
    cluster.start_host()
    cluster.start_runner("node1")
    for ticking in tickings:
        ticking.end()
        task = cluster.wait(ticking.task_id)
        assert (task["status"], task["exit_code"]) == ("failed", 5)
        ticking.check_whole(cluster.text(ticking.task_id).splitlines())
