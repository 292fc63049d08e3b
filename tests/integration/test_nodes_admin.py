from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from support.harness import SILENCE, check_one_line, write_toml
from support.processes import Daemon, run_hakuriver, wait_until
from support.restarts import tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.harness import Cluster

#: A silent node is offline after interval x factor.
QUICK = {
    "heartbeat_interval": 0.3,
    "heartbeat_timeout_factor": 3.0,
    "cleanup_check_interval": 0.3,
    "kill_grace": 1.0,
}
QUICK_SILENCE = 0.3 * 3


@pytest.fixture
def quick(make_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = make_cluster(settings={"timing": QUICK})
    cluster.start()
    return cluster


@pytest.fixture
def drained(cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster with node1 draining; it is taken back at the end."""
    assert cluster.post("/api/nodes/node1/drain", status=200)["draining"] is True
    yield cluster
    cluster.post("/api/nodes/node1/resume", status=200)


def _forget(cluster: Cluster, name: str) -> int:
    return cluster.http("DELETE", f"/api/nodes/{name}").status


def _offline(cluster: Cluster, name: str) -> None:
    """Wait until a node shows offline, which is long before its silence alone would show it."""
    wait_until(
        lambda: cluster.node_status(name) == "offline", timeout=SILENCE / 2, what=f"{name} offline"
    )


def _unheard(cluster: Cluster, name: str) -> float:
    """Return for how many seconds the host has heard nothing of a node."""
    heard = datetime.fromisoformat(cluster.node(name)["last_heartbeat"])
    return (datetime.now(UTC) - heard).total_seconds()


# Draining.


def test_a_draining_node_is_shown_and_gets_no_new_tasks(drained: Cluster) -> None:
    assert drained.node("node1")["draining"] is True
    assert drained.node("node2")["draining"] is False
    reply = drained.submit_batch("true", targets=["node1", "node2"])
    assert len(reply["task_ids"]) == 1
    (failed,) = reply["failed_targets"]
    assert failed["target"] == "node1"
    assert "drain" in failed["reason"]
    (line,) = [
        line
        for line in drained.run_client("--list-nodes", check=0).stdout.splitlines()
        if "node1" in line.split()
    ]
    assert "drain" in line


def test_tasks_without_a_target_go_round_a_draining_node(drained: Cluster) -> None:
    ids = [drained.submit_batch("true", targets=None)["task_ids"][0] for _ in range(4)]
    nodes = {drained.wait(task_id, "completed")["assigned_node"] for task_id in ids}
    assert nodes == {"node2"}


def test_draining_lets_what_runs_go_on_and_what_waits_wait(cluster: Cluster) -> None:
    ticking = tick(cluster)
    waiting = cluster.submit("true")
    cluster.post("/api/nodes/node1/drain", status=200)
    try:
        ticking.go_on(2)
        ticking.end()
        assert cluster.wait(ticking.task_id)["status"] == "completed"
        task = cluster.status(waiting)
        assert task["status"] == "pending"
        assert "drain" in task["reason"]
    finally:
        node = cluster.post("/api/nodes/node1/resume", status=200)
    assert node["draining"] is False
    assert cluster.wait(waiting)["status"] == "completed"


def test_draining_twice_and_resuming_twice_are_no_errors(cluster: Cluster) -> None:
    for word, draining in (("drain", True), ("drain", True), ("resume", False), ("resume", False)):
        view = cluster.post(f"/api/nodes/node1/{word}", status=200)
        assert (view["hostname"], view["draining"]) == ("node1", draining)


def test_draining_outlives_host_and_runner(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    cluster.post("/api/nodes/node1/drain", status=200)
    cluster.kill("host", "node1")
    cluster.restart("host", "node1")
    assert cluster.node("node1")["draining"] is True
    cluster.wait_online("node2")
    (task_id,) = cluster.submit_batch("true", targets=None)["task_ids"]
    assert cluster.wait(task_id)["assigned_node"] == "node2"


def test_an_unknown_node_is_not_found(cluster: Cluster) -> None:
    for method, path in (
        ("POST", "/api/nodes/nosuch/drain"),
        ("POST", "/api/nodes/nosuch/resume"),
        ("DELETE", "/api/nodes/nosuch"),
        ("DELETE", "/api/nodes/..%2f..%2fetc"),
    ):
        reply = cluster.http(method, path)
        assert reply.status == 404, path
        assert reply.json()["detail"]


# Forgetting.


def test_a_node_that_is_online_is_not_forgotten(cluster: Cluster) -> None:
    reply = cluster.http("DELETE", "/api/nodes/node1")
    assert reply.status == 409
    assert "online" in reply.json()["detail"]
    assert cluster.node_status("node1") == "online"


def test_a_forgotten_node_is_gone_and_everybody_is_told(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    cluster.runners["node2"].stop()
    _offline(cluster, "node2")
    with cluster.stream("/api/events") as live:
        next(live)
        assert _forget(cluster, "node2") == 200
        assert any(event.get("forgotten") == "node2" for _, event in live)
    assert cluster.node("node2") is None
    assert _forget(cluster, "node2") == 404
    assert cluster.http("GET", "/api/health?hostname=node2").status == 404
    cluster.kill("host")
    cluster.restart("host")
    assert cluster.node("node2") is None


def test_a_follower_that_was_away_learns_that_a_node_was_forgotten(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    cluster.runners["node2"].stop()
    _offline(cluster, "node2")
    seen = max(cluster.node(name)["rev"] for name in cluster.nodes)
    assert _forget(cluster, "node2") == 200
    for _ in range(2):
        with cluster.stream(f"/api/events?after={seen}") as live:
            # A reset says the same: take a fresh snapshot, and it is not in there.
            assert any(event.get("forgotten") == "node2" or event.get("reset") for _, event in live)
        cluster.kill("host")
        cluster.restart("host")
    assert cluster.node("node2") is None


def test_forgetting_ends_the_nodes_tasks_as_far_as_anybody_knows(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    ticking = tick(cluster)
    waiting = cluster.submit("true")
    free = cluster.submit_batch("true", targets=None)["task_ids"][0]
    cluster.wait(free, "completed")
    cluster.kill("node1")
    _offline(cluster, "node1")
    assert _forget(cluster, "node1") == 200
    failed = cluster.wait(waiting)
    assert (failed["status"], failed["exit_code"]) == ("failed", None)
    assert "node1" in failed["reason"]
    lost = cluster.wait(ticking.task_id)
    assert lost["status"] == "lost"
    assert "the node may still tell" in lost["reason"]
    # It does: the runner that comes back is a node again, and its word replaces the belief.
    cluster.restart("node1")
    assert cluster.wait(ticking.task_id, "running")["assigned_node"] == "node1"
    assert cluster.node("node1")["cores_in_use"] == 1
    ticking.end()
    assert cluster.wait(ticking.task_id)["status"] == "completed"
    ticking.check_whole(cluster.text(ticking.task_id).splitlines())
    assert cluster.status(waiting)["status"] == "failed"


def test_another_machine_may_take_a_forgotten_name(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    cluster.run("true", target="node2")
    cluster.runners["node2"].stop()
    _offline(cluster, "node2")
    assert _forget(cluster, "node2") == 200
    other = _same_name(cluster, "node2")
    cluster.runners["node2"] = other
    cluster.start_runner("node2")
    cluster.wait_online("node2")
    assert cluster.run("true", target="node2")["status"] == "completed"


# Silence.


def test_a_runner_that_falls_silent_is_offline_when_its_time_is_over(quick: Cluster) -> None:
    ticking = tick(quick)
    runner = quick.runners["node1"].pid
    os.kill(runner, signal.SIGSTOP)
    try:
        _offline(quick, "node1")
        assert _unheard(quick, "node1") >= QUICK_SILENCE
        quick.wait_online("node2")
        lost = quick.wait(ticking.task_id, "lost")
        assert "the node may still tell" in lost["reason"]
        ticking.go_on(2)
    finally:
        os.kill(runner, signal.SIGCONT)
    quick.wait_online("node1")
    quick.wait(ticking.task_id, "running")
    ticking.end()
    assert quick.wait(ticking.task_id, "completed")
    ticking.check_whole(quick.text(ticking.task_id).splitlines())


def test_a_runner_that_dies_shows_offline_at_once_and_its_tasks_run_on(cluster: Cluster) -> None:
    ticking = tick(cluster)
    cluster.kill("node1")
    _offline(cluster, "node1")
    assert cluster.status(ticking.task_id)["status"] == "running"
    cluster.restart("node1")
    assert cluster.wait(ticking.task_id, "running")
    ticking.end()
    assert cluster.wait(ticking.task_id)["status"] == "completed"


def test_only_its_silence_makes_the_tasks_of_a_runner_that_died_lost(quick: Cluster) -> None:
    ticking = tick(quick)
    quick.kill("node1")
    quick.wait(ticking.task_id, "lost")
    assert _unheard(quick, "node1") >= QUICK_SILENCE
    assert quick.node("node1")["cores_in_use"] == 0
    quick.restart("node1")
    assert quick.wait(ticking.task_id, "running")
    ticking.end()
    assert quick.wait(ticking.task_id, "completed")


# Names.


def _same_name(cluster: Cluster, name: str) -> Daemon:
    """Return a runner of the same name with a state directory of its own."""
    state = cluster.root / "second" / "state"
    config = write_toml(
        cluster.root / "second.toml",
        {
            "network": {"host_port": cluster.port},
            "paths": {"state_dir": str(state)},
            "runner": {"name": name, "launcher": "process", "cpus": "0"},
            "security": {"runner_secret": cluster.runner_secret},
        },
    )
    return Daemon(
        argv=["runner", "-c", str(config)],
        env=cluster.env,
        cwd=cluster.root / "second",
        log=cluster.root / "second.log",
    )


def test_two_runners_on_one_machine_are_two_nodes(cluster: Cluster) -> None:
    reply = cluster.submit_batch("sh", "-c", "echo $HAKURIVER_NODE", targets=["node1", "node2"])
    for task_id, name in zip(reply["task_ids"], ("node1", "node2"), strict=True):
        assert cluster.wait(task_id)["assigned_node"] == name
        assert cluster.text(task_id) == f"{name}\n"


def test_a_second_runner_with_a_name_in_use_is_refused_clearly(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    ticking = tick(cluster)
    second = _same_name(cluster, "node1")
    done = run_hakuriver(*second.argv, env=cluster.env, cwd=cluster.root)
    assert done.returncode not in {0, -9}
    said = done.stderr.splitlines()[-1]
    for words in ("refuse", "node1", "runner.name"):
        assert words in said
    for _ in range(3):
        assert cluster.run("true", cores=0)["status"] == "completed"
    assert cluster.status(ticking.task_id)["status"] == "running"
    ticking.end()
    assert cluster.wait(ticking.task_id)["status"] == "completed"


def test_a_second_runner_on_one_state_directory_is_refused(cluster: Cluster) -> None:
    runner = cluster.runners["node1"]
    done = run_hakuriver(*runner.argv, env=cluster.env, cwd=cluster.root)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, str(runner.pid))
    assert cluster.run("true")["status"] == "completed"


# Folders.


@pytest.mark.parametrize("key", ["shared_dir", "local_temp_dir"])
@pytest.mark.parametrize("kind", ["missing", "a file", "not writable"])
def test_a_folder_that_cannot_be_used_stops_the_runner_with_key_and_path(
    make_cluster: Callable[..., Cluster], tmp_path: Path, key: str, kind: str
) -> None:
    (tmp_path / "file").touch()
    # Not even root makes files in /proc.
    path = {"missing": tmp_path / "nowhere", "a file": tmp_path / "file"}.get(kind, "/proc")
    cluster = make_cluster(settings={"paths": {key: str(path)}})
    argv = cluster.runners["node1"].argv
    done = run_hakuriver(*argv, env=cluster.env, cwd=cluster.root)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, key, str(path))
