from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.looks import at_the_gate
from support.processes import wait_until
from support.runner_tools import fake_sysfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster

MIB = 1 << 20
GIB = 1 << 30

#: What the kernel says of the task itself: its CPUs, and the policies of its memory.
BOUND = """
from pathlib import Path
for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith("Cpus_allowed_list"):
        print(line.split()[1])
held = bytearray(8 << 20)
print(*sorted({line.split()[1] for line in Path("/proc/self/numa_maps").read_text().splitlines()}))
"""


@pytest.fixture
def node(make_cluster: Callable[..., Cluster]) -> Cluster:
    """A host and one node of two CPUs and 1 GiB."""
    settings = {"runner": {"memory": "1G"}}
    cluster = make_cluster(nodes={"node1": "0-1"}, settings=settings)
    cluster.start()
    return cluster


@pytest.fixture
def two_domains(make_cluster: Callable[..., Cluster], tmp_path: Path) -> Cluster:
    """A host and one node of two NUMA nodes, each of one CPU and 512 MiB."""
    fake_sysfs(tmp_path / "sys", {0: ("0", 512 << 10), 1: ("1", 512 << 10)})
    cluster = make_cluster(nodes={"node1": "0-1"}, sysfs=tmp_path / "sys")
    cluster.start()
    return cluster


def _check_sums(node: dict[str, Any]) -> None:
    assert 0 <= node["cores_in_use"] <= node["total_cores"], node
    assert node["available_cores"] == node["total_cores"] - node["cores_in_use"], node
    assert len(set(node["cpus_in_use"])) == len(node["cpus_in_use"]) == node["cores_in_use"], node
    assert 0 <= node["memory_in_use_bytes"] <= node["memory_total_bytes"], node
    for account in node["numa_use"].values():
        assert 0 <= account["cores_in_use"] <= account["total_cores"], node
        assert 0 <= account["memory_in_use_bytes"] <= account["memory_bytes"], node


def _refused(cluster: Cluster, **body: object) -> str:
    """Submit what must be refused as a whole; return the reasons given."""
    reply = cluster.http("POST", "/api/submit", body={"command": "true", **body})
    assert 400 <= reply.status < 500 or reply.status == 503, reply.status
    assert cluster.unfinished() == []
    text = str(reply.json())
    assert "failed_targets" in text or body.get("targets") is None, text
    return text


def test_of_two_tasks_that_need_all_cores_one_runs_and_one_waits(
    node: Cluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with node.stream("/api/events") as live:
        next(live)
        reply = node.submit_batch(*at_the_gate(gate), targets=["node1", "node1"], cores=2)
        first, second = reply["task_ids"]
        assert node.status(second)["status"] == "pending"
        node.wait(first, "running")
        shown = node.node("node1")
        assert (shown["total_cores"], shown["cores_in_use"], shown["available_cores"]) == (2, 2, 0)
        assert shown["cpus_in_use"] == [0, 1]
        gate.touch()
        for _, event in live:
            if "node" in event:
                _check_sums(event["node"])
            task = event.get("task", {})
            if (task.get("task_id"), task.get("status")) == (second, "completed"):
                break
    assert node.status(second)["started_at"] >= node.status(first)["completed_at"]
    wait_until(lambda: node.node("node1")["available_cores"] == 2)


def test_a_task_of_more_memory_than_is_free_waits_for_it(node: Cluster) -> None:
    limit = 600 * MIB
    first = node.submit("sleep", "60", required_memory_bytes=limit)
    node.wait(first, "running")
    shown = node.node("node1")
    assert (shown["memory_total_bytes"], shown["memory_in_use_bytes"]) == (GIB, limit)
    second = node.submit("sleep", "60", required_memory_bytes=limit)
    waiting = node.status(second)
    assert waiting["status"] == "pending"
    for words in ("600 MiB", "node1"):
        assert words in waiting["reason"]
    assert shown["available_cores"] == 1, "it is not a CPU that it waits for"
    node.post(f"/api/kill/{first}")
    node.wait(second, "running")
    assert node.node("node1")["memory_in_use_bytes"] == limit


def test_a_task_without_a_limit_takes_no_memory_of_the_account(node: Cluster) -> None:
    ids = [node.submit("sleep", "60", required_memory_bytes=GIB), node.submit("sleep", "60")]
    for task_id in ids:
        node.wait(task_id, "running")
    assert node.node("node1")["memory_in_use_bytes"] == GIB


def test_more_memory_than_a_node_has_is_refused_and_the_most_is_named(node: Cluster) -> None:
    for targets in (["node1"], None):
        reason = _refused(node, targets=targets, required_memory_bytes=GIB + MIB)
        assert "1 GiB" in reason or "1.0 GiB" in reason or "1.00 GiB" in reason, reason
    assert node.run("true", required_memory_bytes=GIB)["status"] == "completed"


def test_more_cores_than_a_node_has_are_refused_and_the_most_is_named(node: Cluster) -> None:
    for targets in (["node1"], None):
        reason = _refused(node, targets=targets, required_cores=3)
        assert re.search(r"\b2\b", reason), reason
        assert "core" in reason


def test_accounts_are_exact_while_a_mix_of_tasks_comes_and_goes(node: Cluster) -> None:
    with node.stream("/api/events") as live:
        next(live)
        ids: list[str] = []
        for number in range(24):
            memory = (None, 300 * MIB, 700 * MIB)[number % 3]
            more: dict[str, Any] = {
                "cores": (1, 2, 0, 1)[number % 4],
                "required_memory_bytes": memory,
            }
            ids.append(node.submit("true", **more))
        open_ids = set(ids)
        for _, event in live:
            if "node" in event:
                _check_sums(event["node"])
            task = event.get("task")
            if task and task["completed_at"]:
                assert task["status"] == "completed", task
                open_ids.discard(task["task_id"])
            if not open_ids:
                break
    wait_until(lambda: node.node("node1")["cores_in_use"] == 0)
    assert node.node("node1")["memory_in_use_bytes"] == 0


def test_the_accounts_are_the_same_after_a_restart_of_the_host(node: Cluster) -> None:
    node.wait(node.submit("sleep", "60", required_memory_bytes=600 * MIB), "running")
    waiting = node.submit("sleep", "60", required_memory_bytes=600 * MIB)
    before = node.node("node1")
    node.kill("host")
    node.restart("host")
    node.wait_online("node1")
    after = node.node("node1")
    for key in ("cores_in_use", "cpus_in_use", "memory_in_use_bytes", "numa_use"):
        assert after[key] == before[key]
    assert node.status(waiting)["status"] == "pending"


def test_nothing_free_is_negative_when_a_node_comes_back_smaller(node: Cluster) -> None:
    held = node.submit("sleep", "60", cores=2, required_memory_bytes=900 * MIB)
    node.wait(held, "running")
    too_big = node.submit("sleep", "60", cores=2)
    node.kill("node1")
    config = node.root / "node1.toml"
    text = config.read_text("utf-8")
    config.write_text(text.replace('"0-1"', '"0"').replace('"1G"', '"512M"'), "utf-8")
    node.restart("node1")
    assert node.status(held)["status"] == "running"
    shown = node.node("node1")
    assert (shown["total_cores"], shown["available_cores"]) == (1, 0)
    for line in node.run_client("--list-nodes", check=0).stdout.splitlines():
        assert not re.search(r"(^|\s)-\d", line), line
    small = node.submit("true")
    assert node.status(small)["status"] == "pending"
    node.post(f"/api/kill/{held}")
    # One that fits nowhere any more holds up nobody.
    assert node.wait(small)["status"] == "completed"
    reason = node.status(too_big)["reason"]
    assert "node1" in reason
    assert "2 cores" in reason


def test_an_unknown_numa_node_is_refused_with_those_that_exist(two_domains: Cluster) -> None:
    reason = _refused(two_domains, targets=["node1:9"])
    assert "9" in reason
    for number in ("0", "1"):
        assert number in reason.replace("node1:9", "").replace("node1", ""), reason
    done = two_domains.run_client("--target", "node1:9", "--", "true")
    assert done.returncode not in {0, 2}
    assert "node1:9" in done.stderr


def test_a_numa_target_on_a_node_without_a_topology_is_refused(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    cluster = make_cluster(nodes={"node1": "0"}, sysfs=tmp_path / "empty")
    cluster.start()
    assert not cluster.node("node1")["numa_topology"]
    assert "NUMA" in _refused(cluster, targets=["node1:0"])
    shown = cluster.run_client("--list-nodes", check=0).stdout
    assert "N/A" in shown
    assert cluster.run("true")["status"] == "completed"


def test_both_numa_nodes_are_shown_with_their_accounts(two_domains: Cluster) -> None:
    shown = two_domains.node("node1")
    assert {key: numa["cores"] for key, numa in shown["numa_topology"].items()} == {
        "0": [0],
        "1": [1],
    }
    assert {key: account["total_cores"] for key, account in shown["numa_use"].items()} == {
        "0": 1,
        "1": 1,
    }


def test_a_bound_task_has_the_cpus_and_the_memory_of_its_numa_node(two_domains: Cluster) -> None:
    task = two_domains.wait(
        two_domains.script(BOUND, target="node1:0", interpreter=[sys.executable, "-I"])
    )
    assert (task["status"], task["cpus"], task["target_numa_node_id"]) == ("completed", [0], 0)
    cpus, policies = two_domains.text(task["task_id"]).splitlines()
    assert cpus == "0"
    assert policies == "bind:0"
    free = two_domains.script(BOUND, interpreter=[sys.executable, "-I"])
    two_domains.wait(free, "completed")
    assert "bind" not in two_domains.text(free), "the probe tells bound from free"


def test_the_cores_of_a_numa_node_are_accounted(two_domains: Cluster) -> None:
    first = two_domains.submit("sleep", "60", target="node1:0")
    two_domains.wait(first, "running")
    second = two_domains.submit("sleep", "60", target="node1:0")
    use = two_domains.node("node1")["numa_use"]
    assert (use["0"]["cores_in_use"], use["1"]["cores_in_use"]) == (1, 0)
    waiting = two_domains.status(second)
    assert waiting["status"] == "pending"
    assert "node1:0" in waiting["reason"]
    # Whoever is not bound takes what is free on the other one.
    third = two_domains.submit("sleep", "60", target="node1")
    assert two_domains.wait(third, "running")["cpus"] == [1]
    assert two_domains.node("node1")["numa_use"]["1"]["cores_in_use"] == 1
    two_domains.post(f"/api/kill/{first}")
    assert two_domains.wait(second, "running")["cpus"] == [0]


def test_the_memory_of_a_numa_node_is_accounted(two_domains: Cluster) -> None:
    assert "512 MiB" in _refused(two_domains, targets=["node1:0"], required_memory_bytes=600 * MIB)
    limited: dict[str, Any] = {"target": "node1:0", "cores": 0, "required_memory_bytes": 400 * MIB}
    first = two_domains.submit("sleep", "60", **limited)
    two_domains.wait(first, "running")
    assert two_domains.node("node1")["numa_use"]["0"]["memory_in_use_bytes"] == 400 * MIB
    second = two_domains.submit("sleep", "60", **limited)
    waiting = two_domains.status(second)
    assert waiting["status"] == "pending"
    assert "node1:0" in waiting["reason"]
    two_domains.post(f"/api/kill/{first}")
    two_domains.wait(second, "running")
