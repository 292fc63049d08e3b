from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.model.tasks import Usage
from hakuriver.runner.launchers.systemd.cgroup import read_usage

if TYPE_CHECKING:
    from pathlib import Path


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return folder


def test_a_group_that_is_gone_says_nothing(tmp_path: Path) -> None:
    assert read_usage(tmp_path / "gone", None) is None


def test_use_is_read_and_peaks_by_numa_node_go_on(tmp_path: Path) -> None:
    folder = group(
        tmp_path / "g",
        cpu_stat="usage_usec 2500000\nuser_usec 1\nnr_periods 0\n",
        memory_current="1000\n",
        memory_peak="2000\n",
        memory_numa_stat="anon N0=100 N1=300\nfile N0=9 N1=9\n",
    )
    first = read_usage(folder, None)
    assert first == Usage(
        cpu_seconds=2.5,
        memory_bytes=1000,
        peak_memory_bytes=2000,
        numa_memory_bytes={"0": 100, "1": 300},
        peak_numa_memory_bytes={"0": 100, "1": 300},
    )
    group(folder, memory_numa_stat="anon N0=200 N1=50\n")
    second = read_usage(folder, first)
    assert second is not None
    assert second.numa_memory_bytes == {"0": 200, "1": 50}
    assert second.peak_numa_memory_bytes == {"0": 200, "1": 300}


def test_what_the_kernel_does_not_tell_is_not_known(tmp_path: Path) -> None:
    # Before 5.19 there is no memory.peak, without NUMA no memory.numa_stat.
    folder = group(tmp_path / "g", cpu_stat="usage_usec 1\n", memory_current="max\n")
    assert read_usage(folder, None) == Usage(cpu_seconds=1e-6)
