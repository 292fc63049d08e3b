"""The lab itself: two real machines that are what the other tests take them for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from lab.units import PATIENCE, wait_until_none_failed
from support.processes import wait_until

if TYPE_CHECKING:
    from lab.lab import Lab

NODES = ("node1", "node2")
#: The systemd that each machine has at least.
SYSTEMD = {"node1": 252, "node2": 257}


@pytest.mark.parametrize("name", NODES)
def test_a_machine_has_two_numa_nodes_of_two_cpus(lab: Lab, name: str) -> None:
    shown = lab.machines[name].run("numactl --hardware").stdout
    assert "available: 2 nodes (0-1)" in shown
    assert "node 0 cpus: 0 1\n" in shown
    assert "node 1 cpus: 2 3\n" in shown
    distances = [line.split() for line in shown.splitlines() if re.match(r"\s+[01]:", line)]
    assert distances == [["0:", "10", "20"], ["1:", "20", "10"]]


@pytest.mark.parametrize("name", NODES)
def test_a_machine_runs_systemd_with_cgroup_v2(lab: Lab, name: str) -> None:
    machine = lab.machines[name]
    version = machine.run("systemctl --version").stdout.split()[1]
    assert int(version) >= SYSTEMD[name]
    controllers = machine.run("cat /sys/fs/cgroup/cgroup.controllers").stdout.split()
    assert {"cpu", "memory", "pids"} <= set(controllers)
    assert machine.run("cat /proc/1/comm; hostname").stdout == f"systemd\n{name}\n"


@pytest.mark.parametrize("name", NODES)
def test_a_machine_is_left_without_a_failed_unit(lab: Lab, name: str) -> None:
    machine = lab.machines[name]
    wait_until_none_failed(machine)
    state = machine.run("systemctl is-system-running", check=False).stdout.strip()
    assert state == "running"


@pytest.mark.parametrize("user", ["root", "haku", "worker", "lin"])
def test_each_user_logs_in_with_the_venv_at_hand(lab: Lab, user: str) -> None:
    shown = lab.node1.run("id -un; command -v hakuriver.runner", user=user).stdout
    assert shown == f"{user}\n/opt/hakuriver/bin/hakuriver.runner\n"


@pytest.mark.parametrize("name", NODES)
def test_the_users_are_what_the_tests_need(lab: Lab, name: str) -> None:
    machine = lab.machines[name]
    assert machine.run("id worker").stdout.endswith("groups=1001(worker),2000(lab)\n")
    machine.run("sudo -n systemctl --version", user="haku")
    assert machine.run("sudo -n true", user="haku", check=False).returncode != 0
    assert machine.run("sudo -n systemctl --version", user="worker", check=False).returncode != 0
    machine.run("systemd-run --user --wait --quiet true", user="lin")


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("user", ["haku", "worker"])
def test_the_shared_folder_works_both_ways(lab: Lab, name: str, user: str) -> None:
    machine = lab.machines[name]
    folder = lab.shared / f"{user}-{name}"
    machine.run(f"mkdir /shared/{folder.name}", user=user)
    (folder / "from-outside").write_text("hello inside\n")
    machine.run(f"cd /shared/{folder.name} && cp from-outside from-inside", user=user)
    assert (folder / "from-inside").read_text() == "hello inside\n"
    uid = int(machine.run("id -u", user=user).stdout)
    assert (folder / "from-inside").stat().st_uid == uid


def test_a_written_file_is_its_owners(lab: Lab) -> None:
    lab.node1.write_file("/home/haku/new/file", "text\n", mode=0o600, owner="haku")
    shown = lab.node1.run("stat -c '%U %a' /home/haku/new/file; cat /home/haku/new/file").stdout
    assert shown == "haku 600\ntext\n"


def test_both_nodes_are_listed_online(lab: Lab) -> None:
    shown = lab.run_client("--list-nodes", check=0).stdout
    for name in NODES:
        assert re.search(rf"\b{name}\b.*online", shown), shown


@pytest.mark.parametrize("name", NODES)
def test_a_task_runs_and_its_output_comes_back(lab: Lab, name: str) -> None:
    task = lab.client.run(["hostname"], target=name, cores=1)
    assert task.result(timeout=PATIENCE).exit_code == 0
    assert lab.cluster.text(task.task_id) == f"{name}\n"


def test_a_cut_cable_takes_the_node_away_until_it_is_mended(lab: Lab) -> None:
    lab.node1.cut_network()
    try:
        wait_until(lambda: lab.cluster.node_status("node1") == "offline", timeout=90)
    finally:
        lab.node1.mend_network()
    lab.wait_online("node1")
    lab.cluster.expect_trouble("node1")


def test_a_paused_machine_goes_on_where_it_was(lab: Lab) -> None:
    before = lab.node1.boot_id
    lab.node1.pause()
    lab.node1.resume()
    assert lab.node1.boot_id == before
