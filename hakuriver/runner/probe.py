"""What this machine has and can enforce: the `NodeInfo` that a runner registers with."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from hakuriver._version import __version__
from hakuriver.errors import ConfigError
from hakuriver.model.cpulist import format_cpulist, parse_cpulist
from hakuriver.model.nodes import NodeInfo
from hakuriver.model.quantities import memory_of_key
from hakuriver.runner.launchers.spawning import can_set_memory_policy, set_memory_policy
from hakuriver.runner.numa import read_topology

if TYPE_CHECKING:
    from hakuriver.config import Config
    from hakuriver.model.nodes import Capabilities

SYSFS = Path("/sys")
_MPOL_DEFAULT = 0


def probe(
    config: Config,
    *,
    launcher: str,
    able: Capabilities,
    sysfs: Path = SYSFS,
    numactl: str | None = None,
) -> NodeInfo:
    """Return what the runner gives out of this machine.

    `able` is what the launcher can enforce; binding to NUMA nodes, by `numactl` if there is one,
    is tried here.

    Raises:
        ConfigError: ``runner.cpus`` or ``runner.memory`` cannot be had here.
    """
    cpus = _cpus(config.runner.cpus)
    topology = read_topology(sysfs, cpus)
    return NodeInfo(
        version=__version__,
        launcher=launcher,
        cpus=cpus,
        memory_bytes=_memory(config.runner.memory),
        numa_topology=topology,
        capabilities=msgspec.structs.replace(
            able,
            numa_binding=numa_fault(numactl) if topology else "the kernel tells no NUMA topology",
        ),
    )


def _cpus(wanted: str) -> tuple[int, ...]:
    machine = sorted(os.sched_getaffinity(0))
    if not wanted:
        return tuple(machine)
    try:
        cpus = parse_cpulist(wanted)
    except ValueError as error:
        raise ConfigError(f"runner.cpus: {error} (write for example 0-3,8)") from None
    missing = set(cpus) - set(machine)
    if missing or not cpus:
        raise ConfigError(
            f"runner.cpus = {wanted!r}: this machine has no CPU {format_cpulist(missing)} to give "
            f"(it has {format_cpulist(machine)})"
        )
    return cpus


def _memory(wanted: str) -> int:
    total = psutil.virtual_memory().total
    if not wanted:
        return total
    size = memory_of_key("runner.memory", wanted)
    if size > total:
        raise ConfigError(f"runner.memory = {wanted!r}: this machine has only {total} bytes")
    return size


def numa_fault(numactl: str | None) -> str | None:
    """Return why memory cannot be bound here; tried on a thread that ends at once."""
    if numactl is not None and not can_set_memory_policy():
        return None
    faults: list[str | None] = []
    thread = threading.Thread(target=lambda: faults.append(set_memory_policy(_MPOL_DEFAULT, None)))
    thread.start()
    thread.join()
    return f"memory cannot be bound to a NUMA node: {faults[0]}" if faults[0] else None
