from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from support.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.harness import Cluster

#: Tells when it began and when it ended, which is not before there is the file of its argument.
SPAN = """
import os, sys, time
print(time.time(), flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
print(time.time())
"""


def _node(cluster: Cluster, name: str = "node1") -> Any:
    (node,) = [n for n in cluster.get("/api/nodes")["nodes"] if n["hostname"] == name]
    return node


def test_two_tasks_for_one_cpu_run_one_after_the_other(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with cluster.stream("/api/events") as live:
        assert "rev" in next(live)[1]
        command = (sys.executable, "-c", SPAN, str(gate))
        reply = cluster.submit_batch(*command, targets=["node1", "node1"])
        ids = reply["task_ids"]
        waiting = cluster.status(ids[1])
        gate.touch()
        ended: set[str] = set()
        for _, event in live:
            node = event.get("node")
            if node:
                assert 0 <= node["available_cores"] <= node["total_cores"]
                assert node["cores_in_use"] + node["available_cores"] == node["total_cores"]
            if event.get("task", {}).get("status") == "completed":
                ended.add(event["task"]["task_id"])
            if ended >= set(ids):
                break
    assert waiting["status"] == "pending"
    assert waiting["reason"]
    spans = [[float(moment) for moment in cluster.text(task_id).split()] for task_id in ids]
    assert spans[0][1] <= spans[1][0]


def test_a_waiting_task_shows_its_place_and_starts_when_the_cpu_is_free(cluster: Cluster) -> None:
    first, second, third = (cluster.submit("sleep", "60") for _ in range(3))
    cluster.wait(first, "running")
    assert _node(cluster)["available_cores"] == 0
    waiting = [cluster.status(task_id) for task_id in (second, third)]
    assert [task["status"] for task in waiting] == ["pending", "pending"]
    assert waiting[0]["queue_position"] < waiting[1]["queue_position"]
    cluster.http("POST", f"/api/kill/{first}")
    cluster.wait(second, "running")
    assert cluster.status(third)["status"] == "pending"
    assert cluster.status(second)["queue_position"] is None


def test_waiting_tasks_start_in_the_order_of_submission(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "order"
    ids = [cluster.submit("sh", "-c", f"echo {number} >> {log}") for number in range(8)]
    for task_id in ids:
        cluster.wait(task_id, "completed")
    assert log.read_text("utf-8").split() == [str(number) for number in range(8)]


def test_tasks_of_no_cores_are_not_counted(cluster: Cluster) -> None:
    busy = cluster.submit("sleep", "60")
    cluster.wait(busy, "running")
    free = cluster.submit("sleep", "60", cores=0)
    task = cluster.wait(free, "running")
    assert task["cpus"] == []
    assert _node(cluster)["cores_in_use"] == 1


def test_a_full_node_does_not_hold_up_another(cluster: Cluster) -> None:
    cluster.wait(cluster.submit("sleep", "60"), "running")
    cluster.submit("sleep", "60")
    assert cluster.run("true", target="node2")["status"] == "completed"


def test_tasks_without_a_target_fill_the_free_nodes(cluster: Cluster) -> None:
    ids = [cluster.submit_batch("sleep", "60", targets=None)["task_ids"][0] for _ in range(3)]
    wait_until(lambda: [cluster.status(i)["status"] for i in ids[:2]] == ["running"] * 2)
    nodes = {cluster.status(task_id)["assigned_node"] for task_id in ids[:2]}
    assert nodes == {"node1", "node2"}
    assert cluster.status(ids[2])["status"] == "pending"


def test_many_tasks_are_counted_once_each(cluster: Cluster) -> None:
    ids = cluster.submit_batch("true", targets=["node1", "node2"] * 20)["task_ids"]

    def ended() -> bool:
        for node in cluster.get("/api/nodes")["nodes"]:
            assert 0 <= node["available_cores"] <= node["total_cores"]
        return not cluster.unfinished()

    wait_until(ended, timeout=60)
    assert {cluster.status(task_id)["status"] for task_id in ids} == {"completed"}
    assert [_node(cluster, name)["cores_in_use"] for name in cluster.nodes] == [0, 0]
