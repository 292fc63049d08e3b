from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.harness import check_one_line, write_toml
from support.processes import clean_environment, run_hakuriver

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.harness import Cluster

MIB = 1 << 20
pytestmark = pytest.mark.skipif(
    not Path("/sys/devices/system/node/node0").is_dir(), reason="this kernel knows no NUMA nodes"
)

#: Tells where it may run, where new memory goes, and what it was told of that.
LOOK = """
import json, os
policies = {line.split()[1] for line in open("/proc/self/numa_maps")}
names = ("HAKURIVER_TARGET_NUMA_NODE", "HAKURIVER_CORES", "HAKURIVER_NODE", "P")
print(json.dumps({
    "cpus": sorted(os.sched_getaffinity(0)),
    "policies": sorted(policies),
    "environment": {name: os.environ[name] for name in names if name in os.environ},
}))
"""
#: A numactl that notes how it was called, and does no more than run the program.
FAKE_NUMACTL = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done > "$(dirname "$0")/called"
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""


def _look(cluster: Cluster, task_id: str) -> Any:
    task = cluster.wait(task_id)
    assert task["status"] == "completed", cluster.text(task_id, "stderr")
    return json.loads(cluster.text(task_id))


@pytest.fixture
def fake_numactl(tmp_path: Path) -> Path:
    """A numactl in a folder of its own; what it was called with is in ``called`` beside it."""
    folder = tmp_path / "numactl folder"
    folder.mkdir()
    program = folder / "my-numactl"
    program.write_text(FAKE_NUMACTL, "utf-8")
    program.chmod(0o755)
    return program


def _with_numactl(make_cluster: Callable[..., Cluster], program: Path) -> Cluster:
    cluster = make_cluster(nodes={"node1": "0"}, settings={"paths": {"numactl_path": str(program)}})
    cluster.start()
    return cluster


def test_a_task_with_a_numa_target_is_bound_to_its_cpus_and_memory(cluster: Cluster) -> None:
    done = cluster.run_client(
        *("--target", "node1:0", "--cores", "1", "--memory", "1G", "--wait", "--follow"),
        *("--", sys.executable, "-c", LOOK),
        check=0,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"cpus')]
    seen = json.loads(line)
    (task,) = cluster.get("/api/tasks?limit=1")["tasks"]
    assert seen["cpus"] == task["cpus"] == [0]
    assert seen["policies"], "the kernel shows no policy"
    assert all(policy.startswith("bind") and policy.endswith(":0") for policy in seen["policies"])
    assert seen["environment"]["HAKURIVER_TARGET_NUMA_NODE"] == "0"
    assert seen["environment"]["HAKURIVER_CORES"] == "1"
    assert task["target_numa_node_id"] == 0
    assert task["required_memory_bytes"] == 1024 * MIB


def test_two_cores_of_a_numa_node_are_two_cpus(make_cluster: Callable[..., Cluster]) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("this machine has one CPU")
    cluster = make_cluster(nodes={"both": "0-1"})
    cluster.start()
    topology = cluster.get("/api/nodes")["nodes"][0]["numa_topology"]
    if topology["0"]["cores"] != [0, 1]:
        pytest.skip("these CPUs are on two NUMA nodes")
    seen = _look(cluster, cluster.script(LOOK, target="both:0", cores=2))
    assert seen["cpus"] == [0, 1]
    assert seen["environment"]["HAKURIVER_CORES"] == "2"
    one = _look(cluster, cluster.script(LOOK, target="both:0", cores=1))
    assert len(one["cpus"]) == 1


def test_a_bound_and_an_unbound_target_see_the_same_variables(cluster: Cluster) -> None:
    done = cluster.run_client(
        *("--target", "node1:0", "--target", "node2", "--env", "P=1", "--wait"),
        *("--json", "--", sys.executable, "-c", LOOK),
        check=0,
    )
    newest = cluster.get("/api/tasks?limit=2")["tasks"]
    assert {task["task_id"] in done.stdout for task in newest} == {True}
    bound, unbound = sorted(newest, key=lambda task: int(task["task_id"]))
    seen = _look(cluster, bound["task_id"])
    assert (bound["assigned_node"], bound["target_numa_node_id"]) == ("node1", 0)
    assert seen["environment"]["HAKURIVER_TARGET_NUMA_NODE"] == "0"
    assert seen["environment"]["P"] == "1"
    assert all(policy.startswith("bind") for policy in seen["policies"])
    other = _look(cluster, unbound["task_id"])
    assert (unbound["assigned_node"], unbound["target_numa_node_id"]) == ("node2", None)
    assert "HAKURIVER_TARGET_NUMA_NODE" not in other["environment"]
    assert other["environment"]["P"] == "1"
    assert not [policy for policy in other["policies"] if policy.startswith("bind")]


def test_a_bound_task_without_cores_may_use_the_numa_nodes_cpus(cluster: Cluster) -> None:
    seen = _look(cluster, cluster.script(LOOK, target="node1:0", cores=0))
    assert seen["cpus"] == [0]
    assert all(policy.startswith("bind") for policy in seen["policies"])


def test_what_a_bound_task_starts_is_bound_as_well(cluster: Cluster) -> None:
    command = ("sh", "-c", 'setsid "$0" -c "$1"', sys.executable, LOOK)
    seen = _look(cluster, cluster.submit(*command, target="node1:0"))
    assert seen["cpus"] == [0]
    assert all(policy.startswith("bind") for policy in seen["policies"])


def test_the_configured_numactl_starts_the_bound_tasks(
    make_cluster: Callable[..., Cluster], fake_numactl: Path
) -> None:
    cluster = _with_numactl(make_cluster, fake_numactl)
    assert cluster.get("/api/nodes")["nodes"][0]["capabilities"]["numa_binding"] is None
    seen = _look(cluster, cluster.script(LOOK, target="node1:0", arguments=["--a", " b c "]))
    assert seen["environment"]["HAKURIVER_TARGET_NUMA_NODE"] == "0"
    called = (fake_numactl.parent / "called").read_text("utf-8").splitlines()
    assert "--membind=0" in called
    assert [word for word in called if word.startswith("--physcpubind=")] == ["--physcpubind=0"]
    assert called[-2:] == ["--a", " b c "]


def test_numactl_is_not_in_the_way_of_unbound_tasks(
    make_cluster: Callable[..., Cluster], fake_numactl: Path
) -> None:
    cluster = _with_numactl(make_cluster, fake_numactl)
    assert _look(cluster, cluster.script(LOOK))["cpus"] == [0]
    assert not (fake_numactl.parent / "called").exists()


def test_under_numactl_codes_and_missing_programs_stay_what_they_are(
    make_cluster: Callable[..., Cluster], fake_numactl: Path
) -> None:
    cluster = _with_numactl(make_cluster, fake_numactl)
    missing = cluster.run("/no/such/program", target="node1:0")
    assert (missing["status"], missing["exit_code"]) == ("failed", 127)
    assert "/no/such/program" in f"{missing['reason']} {missing['error_message']}"
    other = cluster.run("no-such-program-in-path", target="node1:0")
    assert (other["status"], other["exit_code"]) == ("failed", 127)
    assert "no-such-program-in-path" in f"{other['reason']} {other['error_message']}"
    for script, code in (("exit 4", 4), ("kill -SEGV $$", -11)):
        task = cluster.run("sh", "-c", script, target="node1:0")
        assert (task["status"], task["exit_code"]) == ("failed", code)


def test_a_bound_task_is_killed_and_limited_like_any_other(
    make_cluster: Callable[..., Cluster], fake_numactl: Path
) -> None:
    cluster = _with_numactl(make_cluster, fake_numactl)
    limited = cluster.run("sleep", "60", target="node1:0", time_limit_seconds=0.3)
    assert (limited["status"], limited["exit_code"]) == ("failed", -15)
    assert "timeout" in limited["reason"]
    script = "x = b'x' * (200 << 20); import time; time.sleep(60)"
    big = cluster.wait(cluster.script(script, target="node1:0", required_memory_bytes=100 * MIB))
    assert big["status"] == "killed_oom"
    task_id = cluster.submit("sleep", "60", target="node1:0")
    cluster.wait(task_id, "running")
    assert cluster.http("POST", f"/api/kill/{task_id}").status == 202
    assert cluster.wait(task_id, "killed")["exit_code"] == -15


@pytest.mark.parametrize("kind", ["missing", "no program", "folder"])
def test_a_numactl_that_is_no_program_stops_the_runner_by_key_and_path(
    tmp_path: Path, kind: str
) -> None:
    program = tmp_path / "numactl"
    if kind == "no program":
        program.write_text("text", "utf-8")
    elif kind == "folder":
        program.mkdir()
    config = write_toml(
        tmp_path / "config.toml",
        {
            "paths": {"numactl_path": str(program), "state_dir": str(tmp_path / "state")},
            "runner": {"name": "node1", "launcher": "process"},
            "security": {"runner_secret": "x" * 32},
        },
    )
    env = clean_environment(tmp_path / "home")
    done = run_hakuriver("runner", "-c", str(config), env=env, cwd=tmp_path)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, "numactl_path", str(program))
