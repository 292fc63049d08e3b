from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hakuriver.errors import ConfigError
from hakuriver.model.nodes import NumaNode
from hakuriver.runner.numa import find_numactl, read_meminfo, read_topology
from support.runner_tools import fake_sysfs

if TYPE_CHECKING:
    from pathlib import Path


def test_a_topology_of_two_nodes_and_one_of_memory_alone(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, {0: ("0-3", 4096), 1: ("4-7", 8192), 2: ("", 1024)})
    topology = read_topology(tmp_path, range(8))
    assert topology == {
        "0": NumaNode(cores=(0, 1, 2, 3), memory_bytes=4096 << 10),
        "1": NumaNode(cores=(4, 5, 6, 7), memory_bytes=8192 << 10),
        "2": NumaNode(cores=(), memory_bytes=1024 << 10),
    }
    assert read_meminfo(tmp_path, 1)["MemUsed"] == 4096 << 10


def test_a_topology_is_restricted_to_the_cpus_allowed(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, {0: ("0-3", 1), 1: ("4-7", 1)})
    topology = read_topology(tmp_path, (3, 4))
    assert [node.cores for node in topology.values()] == [(3,), (4,)]


def test_a_kernel_that_tells_nothing_has_no_topology(tmp_path: Path) -> None:
    assert read_topology(tmp_path, (0,)) == {}
    assert read_meminfo(tmp_path, 0) == {}


def test_numactl_is_the_configured_one_or_that_of_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_numactl("") is None
    program = tmp_path / "numactl"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(ConfigError, match=rf"paths\.numactl_path: {program}"):
        find_numactl(str(program))
    program.chmod(0o700)
    assert find_numactl(str(program)) == str(program)
    assert find_numactl("") == str(program)
    for other in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=rf"paths\.numactl_path: {other} "):
            find_numactl(str(other))
