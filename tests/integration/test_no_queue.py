from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from support.harness import ids_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from support.harness import Cluster


def _hold(cluster: Cluster, target: str = "node1") -> str:
    task_id = cluster.submit("sleep", "60", target=target)
    cluster.wait(task_id, "running")
    return task_id


def _refused(cluster: Cluster, targets: Sequence[str] | None, **more: object) -> Any:
    before = len(cluster.get("/api/tasks?limit=1000")["tasks"])
    body = {"command": "true", "targets": targets, "queue": False, **more}
    reply = cluster.http("POST", "/api/submit", body=body)
    assert 400 <= reply.status < 500 or reply.status == 503, reply.body
    assert len(cluster.get("/api/tasks?limit=1000")["tasks"]) == before, "a row remains"
    return reply.json()


def test_without_the_queue_a_task_starts_where_there_is_room(cluster: Cluster) -> None:
    assert cluster.run("true", queue=False)["status"] == "completed"
    reply = cluster.submit_batch("true", targets=None, queue=False)
    assert cluster.wait(reply["task_ids"][0])["status"] == "completed"


def test_without_the_queue_a_busy_target_is_refused_with_what_is_free(cluster: Cluster) -> None:
    _hold(cluster)
    (failed,) = _refused(cluster, ["node1"])["failed_targets"]
    assert failed["target"] == "node1"
    assert "0" in failed["reason"].replace("node1", "")
    assert "free" in failed["reason"]


def test_without_the_queue_each_target_is_judged_for_itself(cluster: Cluster) -> None:
    _hold(cluster)
    targets = ["node1", "node2", "node2"]
    reply = cluster.submit_batch("sleep", "60", targets=targets, queue=False)
    (task_id,) = reply["task_ids"]
    assert cluster.wait(task_id, "running")["assigned_node"] == "node2"
    assert [failed["target"] for failed in reply["failed_targets"]] == ["node1", "node2"]
    assert all("free" in failed["reason"] for failed in reply["failed_targets"])


def test_without_the_queue_and_a_target_all_busy_nodes_are_a_refusal(cluster: Cluster) -> None:
    for name in cluster.nodes:
        _hold(cluster, name)
    document = _refused(cluster, None)
    assert "free" in str(document)
    # The same with the queue waits instead.
    (task_id,) = cluster.submit_batch("true", targets=None)["task_ids"]
    assert cluster.status(task_id)["status"] == "pending"


def test_without_the_queue_nobody_takes_what_a_waiting_task_has_claimed(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes={"node1": "0-1"})
    cluster.start()
    _hold(cluster)
    cluster.submit("sleep", "60", cores=2)
    assert cluster.node("node1")["available_cores"] == 1
    assert "node1" in str(_refused(cluster, ["node1"]))
    assert _refused(cluster, None)["detail"]


def test_more_than_any_node_has_is_refused_at_once_with_the_largest(cluster: Cluster) -> None:
    for queue in (True, False):
        document = _refused(cluster, None, queue=queue, required_cores=5)
        assert re.search(r"largest.* 1\b", str(document)), document
        huge = _refused(cluster, None, queue=queue, required_memory_bytes=1 << 50)
        assert "GiB" in str(huge), huge


def test_the_clients_option_refuses_instead_of_waiting(cluster: Cluster) -> None:
    _hold(cluster)
    done = cluster.run_client("--target", "node1", "--no-queue", "--", "true")
    assert done.returncode not in {0, 2, 3}
    assert ids_in(done.stdout) == []
    assert "node1" in done.stderr
    assert "free" in done.stderr
    both = ("--target", "node1", "--target", "node2", "--no-queue", "--", "true")
    done = cluster.run_client(*both, check=3)
    (task_id,) = [
        i for i in ids_in(done.stdout) if cluster.http("GET", f"/status/{i}").status == 200
    ]
    assert cluster.wait(task_id)["assigned_node"] == "node2"
    assert "node1" in done.stdout + done.stderr
