"""How busy the machine is, measured by psutil and sysfs. Reading blocks: call it in a thread."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil

from hakuriver.model.cpulist import parse_cpulist
from hakuriver.model.nodes import Metrics, NumaNode, NumaUse
from hakuriver.runner.numa import read_meminfo
from hakuriver.runner.probe import SYSFS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)

_SECONDS = 1.0


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


class Gauge:
    """The latest metrics for the heartbeat, which must go out whatever measuring does.

    Measuring has a thread of its own: the threads that read files may all wait for a slow disk.
    """

    def __init__(self, read: Callable[[], Metrics]) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._measuring: asyncio.Future[Metrics] | None = None
        self._last = Metrics()

    async def latest(self) -> Metrics:
        """Return fresh metrics, or within a second those before."""
        if self._measuring is None:
            loop = asyncio.get_running_loop()
            self._measuring = loop.run_in_executor(self._thread, self._read)
        done, _ = await asyncio.wait({self._measuring}, timeout=_SECONDS)
        if done:
            measured, self._measuring = self._measuring, None
            try:
                self._last = measured.result()
            except Exception:  # noqa: BLE001 - whatever fails, the heartbeat goes out
                _log.exception("this machine's use could not be measured")
        return self._last

    def close(self) -> None:
        """Measure no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _in_use(meminfo: Mapping[str, int]) -> int:
    """Return the bytes of a NUMA node that programs hold: what the kernel could drop is free.

    The kernel's ``MemUsed`` counts its file cache, the machine's own figure beside it does not.
    """
    droppable = meminfo.get("FilePages", 0) - meminfo.get("Shmem", 0)
    droppable += meminfo.get("SReclaimable", 0)
    return max(0, meminfo.get("MemUsed", 0) - droppable)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0
