"""How busy the machine is, measured by psutil and sysfs. Reading blocks: call it in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from hakuriver.model.nodes import Metrics, NumaNode, NumaUse
from hakuriver.runner.numa import parse_cpulist, read_meminfo
from hakuriver.runner.probe import SYSFS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Meter:
    """Measures the use of the CPUs since the reading before."""

    def __init__(self, topology: dict[str, NumaNode], *, sysfs: Path = SYSFS) -> None:
        self._topology = topology
        self._sysfs = sysfs
        # The first reading has nothing to compare with and would be 0.
        psutil.cpu_percent(percpu=True)

    def read(self) -> Metrics:
        """Return the use of the whole machine and of each NUMA node."""
        percents = self._percents()
        memory = psutil.virtual_memory()
        return Metrics(
            cpu_percent=_mean(list(percents.values())),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            load_average=psutil.getloadavg()[0],
            numa={name: self._use(name, node, percents) for name, node in self._topology.items()},
        )

    def _percents(self) -> dict[int, float]:
        """Return per cent by CPU number; psutil counts the CPUs that are online only."""
        values = psutil.cpu_percent(percpu=True)
        try:
            text = (self._sysfs / "devices/system/cpu/online").read_text("ascii")
            numbers = parse_cpulist(text)
        except OSError:
            numbers = ()
        if len(numbers) != len(values):
            numbers = tuple(range(len(values)))
        return dict(zip(numbers, values, strict=True))

    def _use(self, name: str, node: NumaNode, percents: dict[int, float]) -> NumaUse:
        meminfo = read_meminfo(self._sysfs, int(name))
        return NumaUse(
            cpu_percent=_mean([percents[cpu] for cpu in node.cores if cpu in percents]),
            memory_used_bytes=_in_use(meminfo),
        )


def _in_use(meminfo: Mapping[str, int]) -> int:
    """Return the bytes of a NUMA node that programs hold: what the kernel could drop is free.

    The kernel's ``MemUsed`` counts its file cache, the machine's own figure beside it does not.
    """
    droppable = meminfo.get("FilePages", 0) - meminfo.get("Shmem", 0)
    droppable += meminfo.get("SReclaimable", 0)
    return max(0, meminfo.get("MemUsed", 0) - droppable)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0
