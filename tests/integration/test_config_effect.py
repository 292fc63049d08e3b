from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.config import Config
from hakuriver.model.auth import runner_token
from support.harness import check_one_line, write_toml
from support.looks import first_line, frozen
from support.processes import (
    Daemon,
    clean_environment,
    free_port,
    run_hakuriver,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.harness import Cluster

OTHER_LOOPBACK = "127.0.0.2"
MIB = 1 << 20
#: Keys whose effect other files of tests show.
ELSEWHERE = {
    "paths.numactl_path": "test_numa_binding",
    "paths.host_log_file": "test_log_files",
    "paths.runner_log_file": "test_log_files",
    "retention.keep_tasks_days": "test_retention",
    "retention.keep_logs_days": "test_retention",
    "network.tls_cert": "test_tls",
    "network.tls_key": "test_tls",
    "network.tls_ca": "test_tls",
    "security.cluster_id": "test_rotation",
    "runner.max_log_bytes": "test_log_cap",
    # These need systemd.
    "runner.run_as_user": "../lab/lab",
    "runner.tasks_max": "../lab/test_restarts",
}
#: Keys whose effect a test here shows.
HERE = {
    *("network.host_bind_ip", "network.host_port", "network.host_reachable_address"),
    *("network.runner_address", "network.runner_port"),
    *("paths.shared_dir", "paths.local_temp_dir", "paths.state_dir", "database.db_file"),
    *("timing.heartbeat_interval", "timing.heartbeat_timeout_factor"),
    *("timing.cleanup_check_interval", "timing.kill_grace"),
    *("runner.name", "runner.launcher", "runner.cpus", "runner.memory", "runner.python"),
    *("security.auth", "security.runner_secret", "security.runner_token", "security.tokens"),
}


def _answers(address: str, port: int, token: str | None = None, path: str = "/healthz") -> int:
    """Return the status that a host answers with, 0 where nobody listens."""
    connection = HTTPConnection(address, port, timeout=30)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _host_alone(make_cluster: Callable[..., Cluster], **settings: Any) -> Cluster:
    return make_cluster(nodes={"node1": "0"}, settings=settings)


def _started(make_cluster: Callable[..., Cluster], **settings: Any) -> Cluster:
    cluster = _host_alone(make_cluster, **settings)
    cluster.start()
    return cluster


def _says(daemon: Daemon, word: str) -> bool:
    return word in daemon.text()


def _refusal(cluster: Cluster, role: str) -> str:
    """Return the one line with which a daemon refuses its configuration."""
    argv = cluster.host.argv if role == "host" else next(iter(cluster.runners.values())).argv
    done = run_hakuriver(*argv, env=cluster.env, cwd=cluster.root)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr)
    return done.stderr


def test_every_key_has_a_test_of_its_effect() -> None:
    sections = Config.__struct_fields__
    keys = {
        f"{section}.{key}"
        for section in sections
        for key in getattr(Config(), section).__struct_fields__
    }
    assert keys == HERE | ELSEWHERE.keys()
    folder = Path(__file__).parent
    for key, name in ELSEWHERE.items():
        words = {key.rpartition(".")[2], key.rpartition(".")[2].replace("_", "-")}
        text = (folder / f"{name}.py").read_text("utf-8")
        assert any(word in text for word in words), key


# Network.


def test_host_port_is_where_the_host_listens(make_cluster: Callable[..., Cluster]) -> None:
    cluster = _host_alone(make_cluster)
    assert _answers("127.0.0.1", cluster.port) == 0
    cluster.start_host()
    assert _answers("127.0.0.1", cluster.port) == 200


def test_host_bind_ip_is_the_one_address_that_the_host_listens_on(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = _host_alone(make_cluster, network={"host_bind_ip": OTHER_LOOPBACK})
    cluster.host.start()
    wait_until(lambda: _answers(OTHER_LOOPBACK, cluster.port) == 200, what="the host answers")
    assert _answers("127.0.0.1", cluster.port) == 0
    assert _answers(OTHER_LOOPBACK, cluster.port, cluster.token, "/api/nodes") == 200
    cluster.host.stop()


def test_host_reachable_address_is_where_the_others_look_for_the_host(
    make_cluster: Callable[..., Cluster],
) -> None:
    address = {"host_bind_ip": OTHER_LOOPBACK, "host_reachable_address": OTHER_LOOPBACK}
    cluster = _host_alone(make_cluster, network=address)
    done = cluster.run_client("--list-nodes")
    check_one_line(done.stderr, f"{OTHER_LOOPBACK}:{cluster.port}")
    cluster.host.start()
    wait_until(lambda: _answers(OTHER_LOOPBACK, cluster.port) == 200, what="the host answers")
    cluster.start_runner("node1")

    def online() -> bool:
        shown = cluster.run_client("--list-nodes", "--json", check=0).stdout
        return '"online"' in shown

    wait_until(online, what="the runner has found the host", interval=0.1)
    cluster.run_client("--target", "node1", "--wait", "--", "true", check=0)
    cluster.runners["node1"].stop()
    cluster.host.stop()


def test_runner_address_and_runner_port_of_old_files_are_accepted_and_open_nothing(
    make_cluster: Callable[..., Cluster],
) -> None:
    port = free_port()
    old = {"runner_address": "127.0.0.1", "runner_port": port}
    cluster = _started(make_cluster, network=old)
    assert cluster.run("true")["status"] == "completed"
    assert cluster.node("node1")["url"] is None
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 2):
        raise AssertionError("something listens on the port of a runner")


# Paths and the database.


def test_shared_dir_is_where_logs_lie_and_tasks_work(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    shared = tmp_path / "shared by all"
    shared.mkdir()
    cluster = _started(make_cluster, paths={"shared_dir": str(shared)})
    task = cluster.run("sh", "-c", 'pwd; echo "$HAKURIVER_SHARED_DIR"')
    assert cluster.text(task["task_id"]) == f"{shared}\n{shared}\n"
    assert (shared / "task_outputs" / f"{task['task_id']}.out").exists()


def test_local_temp_dir_is_given_to_tasks(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    fast = tmp_path / "fast disk"
    fast.mkdir()
    cluster = _started(make_cluster, paths={"local_temp_dir": str(fast)})
    task = cluster.run("sh", "-c", 'echo "$HAKURIVER_LOCAL_TEMP_DIR"; echo "$TMPDIR"; mktemp')
    local, temporary, made = cluster.text(task["task_id"]).splitlines()
    assert local == str(fast)
    assert Path(temporary).is_relative_to(fast)
    assert Path(made).is_relative_to(fast)


@pytest.mark.parametrize("key", ["shared_dir", "local_temp_dir"])
@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_folder_that_is_none_stops_the_runner_by_key_and_path(
    make_cluster: Callable[..., Cluster], tmp_path: Path, key: str, kind: str
) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("", "utf-8")
    error = _refusal(_host_alone(make_cluster, paths={key: str(place)}), "runner")
    assert key in error
    assert str(place) in error


def test_state_dir_holds_what_a_daemon_needs(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    state = tmp_path / "state of both"
    cluster = _started(make_cluster, paths={"state_dir": str(state)})
    task = cluster.run("echo", "here")
    assert Path(task["stdout_path"]).is_relative_to(state)
    assert list(state.rglob("*.db")), "the database is in the state directory by default"
    assert not (cluster.home / "state").exists()
    assert not cluster.state_dir("host").exists()


def test_db_file_is_the_database(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    file = tmp_path / "folder" / "my tasks.sqlite"
    cluster = _started(make_cluster, database={"db_file": str(file)})
    task = cluster.run("true")
    assert file.read_bytes().startswith(b"SQLite format 3\0")
    assert not list(cluster.state_dir("host").rglob("*.db"))
    cluster.host.stop()
    cluster.start_host()
    assert cluster.status(task["task_id"]) == task


# Timing.


def test_heartbeat_interval_is_the_time_between_signs_of_life(
    make_cluster: Callable[..., Cluster],
) -> None:
    quick = _started(make_cluster, timing={"heartbeat_interval": 0.1})
    slow = _started(make_cluster, timing={"heartbeat_interval": 60.0})
    first = slow.node("node1")["last_heartbeat"]
    seen = {quick.node("node1")["last_heartbeat"]}

    def ten() -> bool:
        seen.add(quick.node("node1")["last_heartbeat"])
        return len(seen) > 10

    wait_until(ten, what="ten heartbeats")
    assert slow.node("node1")["last_heartbeat"] == first


@pytest.mark.parametrize("factor", [4.0, 12.0])
def test_a_silent_node_is_offline_after_interval_times_factor_and_its_tasks_lost(
    make_cluster: Callable[..., Cluster], factor: float
) -> None:
    interval = 0.2
    timing = {
        "heartbeat_interval": interval,
        "heartbeat_timeout_factor": factor,
        "cleanup_check_interval": 0.2,
    }
    cluster = _started(make_cluster, timing=timing)
    task_id = cluster.submit("sleep", "60")
    cluster.wait(task_id, "running")
    with frozen(cluster.runners["node1"].pid):
        # By an interval or a check that is not of this file it would take half a minute or more.
        lost = cluster.wait(task_id, "lost", timeout=20)
        heard = datetime.fromisoformat(cluster.node("node1")["last_heartbeat"])
        assert (datetime.now(UTC) - heard).total_seconds() >= interval * factor
        assert lost["reason"]
        assert cluster.node_status("node1") == "offline"
    cluster.wait_online("node1")
    wait_until(lambda: cluster.status(task_id)["status"] == "running", what="the node's own word")


def _seconds_of_a_kill(cluster: Cluster) -> float:
    """Return the seconds from the kill of a task that ignores SIGTERM to its end."""
    script = "trap '' TERM; echo ready; while :; do sleep 0.02; done"
    task_id = cluster.submit("sh", "-c", script)
    assert first_line(cluster, task_id) == "ready"
    asked = datetime.now(UTC)
    cluster.post(f"/api/kill/{task_id}")
    task = cluster.wait(task_id, "killed")
    assert task["exit_code"] == -9
    return (datetime.fromisoformat(task["completed_at"]) - asked).total_seconds()


def test_kill_grace_is_the_time_from_sigterm_to_sigkill(
    make_cluster: Callable[..., Cluster],
) -> None:
    short, long = (_started(make_cluster, timing={"kill_grace": grace}) for grace in (0.2, 1.5))
    assert _seconds_of_a_kill(long) > 1.45
    # A machine that stands still for a while does not do so each time.
    assert 0.15 < min(_seconds_of_a_kill(short) for _ in range(3)) < 1.4


# Runner.


def test_runner_name_is_the_name_of_the_node(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(nodes={"a-Name_of.mine": "0"})
    cluster.start()
    task = cluster.run("sh", "-c", "echo $HAKURIVER_NODE", target="a-Name_of.mine")
    assert task["assigned_node"] == "a-Name_of.mine"
    assert cluster.text(task["task_id"]) == "a-Name_of.mine\n"


def test_a_runner_without_a_name_has_the_machines(make_cluster: Callable[..., Cluster]) -> None:
    cluster = _host_alone(make_cluster, runner={"name": ""})
    cluster.start_host()
    cluster.start_runner("node1")
    names = wait_until(lambda: [n["hostname"] for n in cluster.get("/api/nodes")["nodes"]])
    assert names == [socket.gethostname()]


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd can start tasks here")
@pytest.mark.parametrize("launcher", ["auto", "service", "scope"])
def test_a_launcher_that_this_machine_has_not_is_refused_with_the_one_it_has(
    make_cluster: Callable[..., Cluster], launcher: str
) -> None:
    error = _refusal(_host_alone(make_cluster, runner={"launcher": launcher}), "runner")
    assert 'launcher = "process"' in error


def test_the_launcher_is_shown(make_cluster: Callable[..., Cluster]) -> None:
    assert _started(make_cluster).node("node1")["launcher"] == "process"


@pytest.mark.parametrize("cpus", ["0", "0-1", "1"])
def test_runner_cpus_are_those_that_tasks_get(
    make_cluster: Callable[..., Cluster], cpus: str
) -> None:
    if cpus != "0" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one CPU")
    cluster = make_cluster(nodes={"node1": cpus})
    cluster.start()
    expected = {"0": [0], "1": [1], "0-1": [0, 1]}[cpus]
    assert cluster.node("node1")["total_cores"] == len(expected)
    script = "import os; print(sorted(os.sched_getaffinity(0)))"
    task_id = cluster.script(script, cores=len(expected))
    cluster.wait(task_id, "completed")
    assert json.loads(cluster.text(task_id)) == expected


def test_runner_memory_is_what_the_node_has_to_give(make_cluster: Callable[..., Cluster]) -> None:
    cluster = _started(make_cluster, runner={"memory": "300M"})
    assert cluster.node("node1")["memory_total_bytes"] == 300 * MIB
    first = cluster.submit("sleep", "60", cores=0, required_memory_bytes=200 * MIB)
    cluster.wait(first, "running")
    second = cluster.submit("sleep", "60", cores=0, required_memory_bytes=200 * MIB)
    assert cluster.status(second)["status"] == "pending"
    assert cluster.node("node1")["memory_in_use_bytes"] == 200 * MIB
    body = {"command": "true", "targets": ["node1"], "required_memory_bytes": 301 * MIB}
    reply = cluster.http("POST", "/api/submit", body=body)
    assert 400 <= reply.status < 504
    assert "300 MiB" in reply.body.decode()


def test_runner_python_runs_the_scripts_that_name_none(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    python = tmp_path / "my python"
    python.write_text(f'#!/bin/sh\nMARK=mine exec "{sys.executable}" "$@"\n', "utf-8")
    python.chmod(0o755)
    cluster = _started(make_cluster, runner={"python": str(python)})
    task_id = cluster.submit(script="import os; print(os.environ['MARK'])")
    assert cluster.wait(task_id)["status"] == "completed", cluster.text(task_id, "stderr")
    assert cluster.text(task_id) == "mine\n"


# Security.


def test_auth_none_needs_no_token_and_is_for_loopback_alone(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = _host_alone(make_cluster, security={"auth": "none"})
    cluster.start_host()
    assert cluster.http("GET", "/api/nodes", token=None).status == 200
    for address in ("0.0.0.0", "::"):
        wide = _host_alone(
            make_cluster, security={"auth": "none"}, network={"host_bind_ip": address}
        )
        assert "auth" in _refusal(wide, "host")


def test_runner_secret_is_what_lets_runners_in(make_cluster: Callable[..., Cluster]) -> None:
    cluster = _started(make_cluster)
    stranger = make_cluster(
        nodes={"stranger": "0"},
        settings={
            "network": {"host_port": cluster.port},
            "security": {"runner_secret": "another secret of the same kind"},
        },
    )
    runner = stranger.runners["stranger"]
    runner.start()
    wait_until(lambda: "token" in runner.text() or "refus" in runner.text(), what=runner.text())
    assert cluster.node_status("stranger") is None
    assert cluster.node_status("node1") == "online"


def test_runner_token_lets_one_node_in_without_the_secret(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = _started(make_cluster)
    for name, online in (("newcomer", True), ("pretender", False)):
        joining = make_cluster(
            nodes={name: "0"},
            settings={
                "network": {"host_port": cluster.port},
                "security": {
                    "runner_secret": "",
                    "runner_token": runner_token(cluster.runner_secret, "newcomer"),
                },
            },
        )
        runner = joining.runners[name]
        runner.start()
        if online:
            wait_until(lambda: cluster.node_status("newcomer") == "online", what="let in")
        else:
            wait_until(partial(_says, runner, "token"), what="refused")
            assert cluster.node_status(name) is None
    assert cluster.run("true", target="newcomer")["status"] == "completed"


def test_tokens_are_names_for_those_who_may_ask(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(
        nodes={"node1": "0"},
        settings={"security.tokens": {"bob": "a-token-of-bobs-that-is-long"}},
    )
    cluster.start()
    body = {"command": "true", "targets": ["node1"]}
    bobs = "a-token-of-bobs-that-is-long"
    reply = cluster.http("POST", "/api/submit", body=body, token=bobs)
    (task_id,) = reply.json()["task_ids"]
    assert cluster.wait(task_id)["owner"] == "bob"
    assert cluster.http("GET", "/api/nodes", token="bob").status == 401


# Where the configuration comes from.


def test_a_variable_goes_before_the_key_in_the_file(make_cluster: Callable[..., Cluster]) -> None:
    cluster = _host_alone(make_cluster)
    port = free_port()
    cluster.host.env = {**cluster.host.env, "HAKURIVER_NETWORK_HOST_PORT": str(port)}
    cluster.host.start()
    wait_until(lambda: _answers("127.0.0.1", port) == 200, what="the host on the other port")
    assert _answers("127.0.0.1", cluster.port) == 0
    cluster.host.stop()


def test_the_file_is_the_named_one_else_the_variables_else_the_homes(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = _started(make_cluster)
    env = clean_environment(tmp_path / "home")
    wrong = write_toml(tmp_path / "wrong.toml", {"network": {"host_port": free_port()}})

    def nodes(*args: str, **variables: str) -> int:
        command = ("client", *args, "--list-nodes", "--json")
        return run_hakuriver(*command, env={**env, **variables}, cwd=tmp_path).returncode

    assert nodes() != 0
    right = {"HAKURIVER_CONFIG": str(cluster.config)}
    assert nodes(**right) == 0
    assert nodes("-c", str(wrong), **right) != 0
    assert nodes("-c", str(cluster.config), HAKURIVER_CONFIG=str(wrong)) == 0
    home = tmp_path / "home" / ".hakuriver"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_bytes(cluster.config.read_bytes())
    (home / "config.toml").chmod(0o600)
    assert nodes() == 0
    assert nodes(HAKURIVER_CONFIG=str(wrong)) != 0
