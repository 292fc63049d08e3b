from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.harness import SILENCE, check_one_line, rows
from support.processes import wait_until

if TYPE_CHECKING:
    from support.harness import Cluster

SYSFS = Path("/sys/devices/system/node")


def _nodes(cluster: Cluster) -> dict[str, Any]:
    done = cluster.run_client("--list-nodes", "--json", check=0)
    return {node["hostname"]: node for node in rows(json.loads(done.stdout), "nodes")}


def test_list_nodes_shows_a_line_for_each_node(cluster: Cluster) -> None:
    lines = cluster.run_client("--list-nodes", check=0).stdout.splitlines()
    for name in ("node1", "node2"):
        (line,) = [line for line in lines if name in line.split()]
        assert "online" in line
        assert "process" in line
    heading = lines[0].lower()
    for word in ("status", "core", "memory", "numa", "launcher", "heartbeat"):
        assert word in heading, f"{word!r} is not in {heading!r}"
    assert "\x1b" not in "".join(lines)


def test_list_nodes_counts_cores_and_memory(cluster: Cluster) -> None:
    task_id = cluster.submit("sleep", "60")
    cluster.wait(task_id, "running")
    busy = _nodes(cluster)
    assert (busy["node1"]["total_cores"], busy["node1"]["cores_in_use"]) == (1, 1)
    assert busy["node1"]["available_cores"] == 0
    assert busy["node1"]["cpus_in_use"] == [0]
    assert busy["node2"]["available_cores"] == 1
    assert busy["node1"]["memory_total_bytes"] > 64 << 20
    assert busy["node1"]["url"] is None
    heartbeat = datetime.fromisoformat(busy["node1"]["last_heartbeat"])
    assert abs((datetime.now(UTC) - heartbeat).total_seconds()) < SILENCE


def test_the_topology_is_the_kernels(cluster: Cluster) -> None:
    topology = _nodes(cluster)["node1"]["numa_topology"]
    if not SYSFS.is_dir():
        assert not topology
        return
    assert topology["0"]["cores"] == [0]
    assert topology["0"]["memory_bytes"] > 64 << 20


def test_health_shows_the_measured_use(cluster: Cluster) -> None:
    (health,) = rows(
        json.loads(cluster.run_client("--health", "node1", "--json", check=0).stdout), "nodes"
    )
    assert health["hostname"] == "node1"
    assert 0 <= health["cpu_percent"] <= 100
    assert 0 < health["memory_used_bytes"] < health["memory_total_bytes"]
    share = 100 * health["memory_used_bytes"] / health["memory_total_bytes"]
    assert health["memory_percent"] == pytest.approx(share, abs=1)
    if SYSFS.is_dir():
        assert health["numa"]["0"]["cores"] == [0]
        assert health["numa"]["0"]["use"]["memory_used_bytes"] > 0


def test_health_of_one_node_and_of_all_is_readable(cluster: Cluster) -> None:
    one = cluster.run_client("--health", "node1", check=0).stdout
    assert "node1" in one
    assert "node2" not in one
    assert "%" in one
    both = cluster.run_client("--health", check=0).stdout
    assert "node1" in both
    assert "node2" in both


def test_the_health_of_an_unknown_node_is_not_found(cluster: Cluster) -> None:
    assert cluster.http("GET", "/api/health?hostname=nosuch").status == 404
    done = cluster.run_client("--health", "nosuch")
    assert done.returncode not in {0, 2}
    assert done.stdout == ""
    check_one_line(done.stderr, "nosuch")


def test_a_stopped_runner_shows_offline_long_before_its_silence_does(
    fresh_cluster: Cluster,
) -> None:
    fresh_cluster.runners["node2"].stop()
    wait_until(lambda: fresh_cluster.node_status("node2") == "offline", timeout=SILENCE / 2)
    assert fresh_cluster.node_status("node1") == "online"
    reply = fresh_cluster.submit_batch("true", targets=["node1", "node2"])
    assert len(reply["task_ids"]) == 1
    (failed,) = reply["failed_targets"]
    assert failed["target"] == "node2"
    assert "offline" in failed["reason"]
    fresh_cluster.start_runner("node2")
    fresh_cluster.wait_online("node2")
    assert fresh_cluster.run("true", target="node2")["status"] == "completed"
