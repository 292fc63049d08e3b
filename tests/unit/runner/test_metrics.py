from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hakuriver.runner.metrics import Meter
from hakuriver.runner.numa import read_topology
from support.runner_tools import fake_sysfs

if TYPE_CHECKING:
    from pathlib import Path


def test_a_reading_of_the_machine_and_its_nodes(tmp_path: Path) -> None:
    cpus = os.sched_getaffinity(0)
    fake_sysfs(tmp_path, {0: (f"0-{max(cpus)}", 2048), 1: ("", 4096)})
    meter = Meter(read_topology(tmp_path, cpus), sysfs=tmp_path)
    metrics = meter.read()
    assert 0 <= metrics.cpu_percent <= 100
    assert 0 < metrics.memory_used_bytes < metrics.memory_total_bytes
    assert metrics.load_average >= 0
    assert set(metrics.numa) == {"0", "1"}
    assert 0 <= metrics.numa["0"].cpu_percent <= 100
    assert metrics.numa["0"].memory_used_bytes == 1024 << 10
    assert metrics.numa["1"].cpu_percent == 0


def test_a_machine_without_topology_is_measured_too() -> None:
    assert Meter({}).read().numa == {}


def test_what_the_kernel_could_drop_is_no_use(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, {0: ("0", 2048)})
    meminfo = tmp_path / "devices/system/node/node0/meminfo"
    more = {"FilePages": 600, "Shmem": 100, "SReclaimable": 24}
    lines = "".join(f"Node 0 {name}: {size} kB\n" for name, size in more.items())
    meminfo.write_text(meminfo.read_text("ascii") + lines, "ascii")
    metrics = Meter(read_topology(tmp_path, [0]), sysfs=tmp_path).read()
    assert metrics.numa["0"].memory_used_bytes == (1024 - 524) << 10
