from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from support.processes import wait_until
from support.runner_tools import fake_sysfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster

MIB = 1 << 20


@pytest.fixture
def node(make_cluster: Callable[..., Cluster]) -> Cluster:
    """A host and one node of two CPUs and 1 GiB."""
    settings = {"runner": {"memory": "1G"}}
    cluster = make_cluster(nodes={"node1": "0-1"}, settings=settings)
    cluster.start()
    return cluster


def _hold(cluster: Cluster, **more: object) -> str:
    """Start a task that holds what it asked for until it is killed."""
    task_id = cluster.submit("sleep", "60", **more)  # type: ignore[arg-type]
    cluster.wait(task_id, "running")
    return task_id


def _states(cluster: Cluster, *ids: str) -> list[str]:
    return [cluster.status(task_id)["status"] for task_id in ids]


def _kill(cluster: Cluster, task_id: str) -> None:
    cluster.post(f"/api/kill/{task_id}")
    cluster.wait(task_id, "killed")


def test_a_big_task_is_not_starved_by_small_ones_behind_it(node: Cluster) -> None:
    first = _hold(node)
    big = node.submit("sleep", "60", cores=2)
    small = [node.submit("sleep", "60") for _ in range(3)]
    assert node.node("node1")["available_cores"] == 1
    # Another task comes and goes, so that the queue has been looked through since.
    assert node.run("true", cores=0)["status"] == "completed"
    assert _states(node, big, *small) == ["pending"] * 4
    _kill(node, first)
    node.wait(big, "running")
    assert _states(node, *small) == ["pending"] * 3
    _kill(node, big)
    wait_until(lambda: _states(node, *small) == ["running", "running", "pending"])


def test_a_task_that_waits_for_memory_is_not_starved_either(node: Cluster) -> None:
    first = _hold(node, required_memory_bytes=600 * MIB)
    big = node.submit("sleep", "60", required_memory_bytes=900 * MIB)
    small = node.submit("sleep", "60", cores=0, required_memory_bytes=300 * MIB)
    assert node.run("true", cores=0)["status"] == "completed"
    assert _states(node, big, small) == ["pending", "pending"]
    _kill(node, first)
    node.wait(big, "running")
    assert _states(node, small) == ["pending"]


def test_what_needs_nothing_that_is_claimed_passes_by(node: Cluster) -> None:
    _hold(node, cores=2)
    node.submit("sleep", "60", cores=2)
    assert node.run("true", cores=0)["status"] == "completed"
    assert node.run("true", cores=0, required_memory_bytes=100 * MIB)["status"] == "completed"


def test_a_killed_head_lets_the_others_go(node: Cluster) -> None:
    _hold(node)
    big = node.submit("sleep", "60", cores=2)
    small = node.submit("sleep", "60")
    assert _states(node, big, small) == ["pending", "pending"]
    _kill(node, big)
    node.wait(small, "running")


def test_a_task_that_waits_for_one_numa_node_holds_up_no_other(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    fake_sysfs(tmp_path / "sys", {0: ("0", 512 << 10), 1: ("1", 512 << 10)})
    cluster = make_cluster(nodes={"node1": "0-1"}, sysfs=tmp_path / "sys")
    cluster.start()
    _hold(cluster, target="node1:0")
    waiting = cluster.submit("sleep", "60", target="node1:0")
    # This machine may have no such memory to bind to, but it is not the queue that says so.
    other = cluster.submit("true", target="node1:1")
    wait_until(lambda: cluster.status(other)["status"] != "pending")
    assert cluster.status(other)["cpus"] == [1]
    unbound = cluster.run("true")
    assert (unbound["status"], unbound["cpus"]) == ("completed", [1])
    assert _states(cluster, waiting) == ["pending"]


def test_a_node_wide_task_in_front_is_not_starved_by_bound_ones(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    fake_sysfs(tmp_path / "sys", {0: ("0", 512 << 10), 1: ("1", 512 << 10)})
    cluster = make_cluster(nodes={"node1": "0-1"}, sysfs=tmp_path / "sys")
    cluster.start()
    first = _hold(cluster, target="node1:0")
    wide = cluster.submit("sleep", "60", cores=2)
    bound = [cluster.submit("sleep", "60", target=f"node1:{numa}") for numa in (0, 1)]
    assert _states(cluster, wide, *bound) == ["pending"] * 3
    _kill(cluster, first)
    cluster.wait(wide, "running")
    assert _states(cluster, *bound) == ["pending"] * 2


def test_a_task_without_a_target_runs_where_room_is_first(cluster: Cluster) -> None:
    for freed, kept in (("node1", "node2"), ("node2", "node1")):
        held = {name: _hold(cluster, target=name) for name in cluster.nodes}
        (task_id,) = cluster.submit_batch("sleep", "60", targets=None)["task_ids"]
        assert cluster.status(task_id)["status"] == "pending"
        _kill(cluster, held[freed])
        assert cluster.wait(task_id, "running")["assigned_node"] == freed
        for left in (task_id, held[kept]):
            _kill(cluster, left)


def test_a_task_without_a_target_takes_the_node_with_the_most_free_cores(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes={"a-small": "0", "big": "0-1", "c-small": "1"})
    cluster.start()
    (task_id,) = cluster.submit_batch("sleep", "60", targets=None)["task_ids"]
    assert cluster.wait(task_id, "running")["assigned_node"] == "big"
    (wide,) = cluster.submit_batch("sleep", "60", targets=None, cores=2)["task_ids"]
    waiting = cluster.status(wide)
    assert waiting["status"] == "pending"
    # It waits on the one node that could ever take it, and holds up no other.
    others = cluster.submit_batch("sleep", "60", targets=["a-small", "c-small"])["task_ids"]
    for other in others:
        cluster.wait(other, "running")
    _kill(cluster, task_id)
    assert cluster.wait(wide, "running")["assigned_node"] == "big"


def test_a_pending_task_says_what_it_waits_for_and_how_many_are_before_it(node: Cluster) -> None:
    first = _hold(node)
    waiting = [node.submit("sleep", "60", cores=2) for _ in range(3)]
    tasks = [node.status(task_id) for task_id in waiting]
    assert [task["queue_position"] for task in tasks] == [0, 1, 2]
    for task in tasks:
        assert re.search(r"waits for 2 cores on node1 \(\d free\)", task["reason"]), task["reason"]
    assert "1 free" in tasks[0]["reason"]
    assert "1 task before it" in tasks[1]["reason"]
    assert "2 tasks before it" in tasks[2]["reason"]
    shown = node.run_client("--status", waiting[2], check=0).stdout
    for words in ("waits for 2 cores on node1", "2 tasks before it"):
        assert words in shown
    node.post(f"/api/kill/{waiting[0]}")
    node.wait(waiting[0], "killed")
    tasks = [node.status(task_id) for task_id in waiting[1:]]
    assert [task["queue_position"] for task in tasks] == [0, 1]
    assert "before it" not in tasks[0]["reason"]
    assert "1 task before it" in tasks[1]["reason"]
    _kill(node, first)
    running = node.wait(waiting[1], "running")
    assert (running["queue_position"], running["reason"]) == (None, None)


def test_a_pending_task_says_which_memory_it_waits_for(node: Cluster) -> None:
    _hold(node, required_memory_bytes=600 * MIB)
    task = node.status(node.submit("sleep", "60", required_memory_bytes=700 * MIB))
    assert "700 MiB" in task["reason"]
    assert "node1" in task["reason"]
    assert "424 MiB" in task["reason"], "what is free"


def test_a_pending_task_without_a_target_says_so(cluster: Cluster) -> None:
    for name in cluster.nodes:
        _hold(cluster, target=name)
    (task_id,) = cluster.submit_batch("sleep", "60", targets=None)["task_ids"]
    task = cluster.status(task_id)
    assert "1 core" in task["reason"]
    assert task["queue_position"] == 0
    assert task["assigned_node"] is None


def test_a_task_whose_node_goes_waits_for_it_and_says_so(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    held = _hold(cluster)
    waiting = cluster.submit("echo", "at last")
    cluster.kill("node1")
    wait_until(lambda: cluster.node_status("node1") == "offline")
    task = cluster.status(waiting)
    assert task["status"] == "pending"
    assert "node1" in task["reason"]
    assert "offline" in task["reason"]
    cluster.restart("node1")
    _kill(cluster, held)
    assert cluster.wait(waiting)["status"] == "completed"
    assert cluster.text(waiting) == "at last\n"


def test_tasks_of_one_submission_keep_its_order(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "order"
    held = _hold(cluster)
    script = f"echo $HAKURIVER_BATCH_INDEX >> {log}"
    ids = cluster.submit_batch("sh", "-c", script, targets=["node1"] * 6)["task_ids"]
    assert [cluster.status(task_id)["queue_position"] for task_id in ids] == list(range(6))
    _kill(cluster, held)
    for task_id in ids:
        cluster.wait(task_id, "completed")
    assert log.read_text("utf-8").split() == [str(number) for number in range(6)]
