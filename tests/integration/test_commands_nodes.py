from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.commands import client_json
from support.harness import check_one_line
from support.looks import at_the_gate, first_line
from support.processes import wait_until
from support.restarts import tick

if TYPE_CHECKING:
    from pathlib import Path

    from support.harness import Cluster


def test_a_drained_node_gets_no_new_tasks_until_it_is_resumed(
    cluster: Cluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    running = cluster.submit(*at_the_gate(gate, "echo on", "echo off"), target="node2")
    first_line(cluster, running)
    waiting = cluster.submit("true", target="node2")
    try:
        cluster.run_client("--drain", "node2", check=0)
        assert cluster.node("node2")["draining"] is True
        assert "drain" in cluster.run_client("--list-nodes", check=0).stdout
        refused = cluster.run_client("--target", "node2", "--", "true")
        assert refused.returncode not in {0, 2, 3}
        assert "node2" in refused.stderr
        assert "drain" in refused.stderr
        gate.touch()
        cluster.wait(running, "completed")
        assert cluster.text(running) == "on\noff\n"
        untargeted = [cluster.submit_batch("true", targets=None) for _ in range(4)]
        nodes = {
            cluster.wait(reply["task_ids"][0], "completed")["assigned_node"] for reply in untargeted
        }
        assert nodes == {"node1"}
        held = cluster.status(waiting)
        assert held["status"] == "pending"
        assert "drain" in held["reason"]
    finally:
        cluster.run_client("--resume", "node2", check=0)
    assert cluster.node("node2")["draining"] is False
    cluster.wait(waiting, "completed")
    assert cluster.run("true", target="node2")["status"] == "completed"


def test_draining_twice_is_draining_once(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.run_client("--drain", "node2", check=0)
        assert cluster.node("node2")["draining"] is True
    for _ in range(2):
        cluster.run_client("--resume", "node2", check=0)
        assert cluster.node("node2")["draining"] is False


def test_a_node_stays_drained_when_host_and_runner_start_again(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    cluster.run_client("--drain", "node2", check=0)
    cluster.host.stop()
    cluster.runners["node2"].stop()
    cluster.start_host()
    cluster.start_runner("node2")
    cluster.wait_online("node2")
    assert cluster.node("node2")["draining"] is True


@pytest.mark.parametrize("action", ["--drain", "--resume", "--forget"])
def test_an_unknown_node_is_told_with_its_name(cluster: Cluster, action: str) -> None:
    done = cluster.run_client(action, "nosuch")
    assert done.returncode not in {0, 2}
    assert done.stdout == ""
    check_one_line(done.stderr, "nosuch")


def test_forgetting_an_online_node_is_refused(cluster: Cluster) -> None:
    done = cluster.run_client("--forget", "node2")
    assert done.returncode not in {0, 2}
    check_one_line(done.stderr, "node2", "online")
    assert cluster.http("DELETE", "/api/nodes/node2").status == 409
    assert cluster.run("true", target="node2")["status"] == "completed"


def test_an_offline_node_can_be_forgotten_and_comes_back_when_it_wants(
    fresh_cluster: Cluster,
) -> None:
    cluster = fresh_cluster
    ticking = tick(cluster, target="node2")
    running = ticking.task_id
    waiting = cluster.submit("true", target="node2")
    with cluster.stream("/api/events") as live:
        cluster.runners["node2"].stop()
        wait_until(lambda: cluster.node_status("node2") == "offline")
        done = cluster.run_client("--forget", "node2", check=0)
        assert "node2" in done.stdout
        assert any(event.get("forgotten") == "node2" for _, event in live)
    assert cluster.node_status("node2") is None
    assert "node2" not in cluster.run_client("--list-nodes", check=0).stdout
    assert cluster.status(running)["status"] == "lost"
    assert "may still tell" in cluster.status(running)["reason"]
    assert cluster.status(waiting)["status"] == "failed"
    assert cluster.run_client("--target", "node2", "--", "true").returncode not in {0, 2, 3}
    cluster.start_runner("node2")
    cluster.wait_online("node2")
    cluster.wait(running, "running")
    ticking.end()
    cluster.wait(running, "completed")
    assert cluster.status(waiting)["status"] == "failed"
    assert cluster.run("true", target="node2")["status"] == "completed"
    assert cluster.node("node2")["cores_in_use"] == 0


@pytest.mark.parametrize("action", ["--drain", "--resume"])
def test_actions_on_nodes_print_json_alone(cluster: Cluster, action: str) -> None:
    try:
        document = client_json(cluster, action, "node2")
        assert document["hostname"] == "node2"
        assert document["draining"] is (action == "--drain")
    finally:
        cluster.run_client("--resume", "node2", check=0)
