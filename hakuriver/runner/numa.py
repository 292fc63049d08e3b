"""NUMA: the topology as the kernel tells it, and the program that binds to it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.errors import ConfigError
from hakuriver.model.cpulist import parse_cpulist
from hakuriver.model.nodes import NumaNode

if TYPE_CHECKING:
    from collections.abc import Iterable

_MEMINFO = re.compile(r"Node \d+ (\w+):\s+(\d+) kB", re.ASCII)


def read_meminfo(root: Path, node: int) -> dict[str, int]:
    """Return the fields of a NUMA node's ``meminfo`` in bytes; empty if it cannot be read."""
    try:
        text = (root / f"devices/system/node/node{node}/meminfo").read_text("ascii")
    except OSError:
        return {}
    return {name: int(size) << 10 for name, size in _MEMINFO.findall(text)}


def read_topology(root: Path, allowed: Iterable[int]) -> dict[str, NumaNode]:
    """Return the NUMA nodes under sysfs at `root`, restricted to the CPUs `allowed`.

    Nodes of memory alone have no cores. Empty when the kernel tells nothing.
    """
    usable = set(allowed)
    folder = root / "devices/system/node"
    numbers = sorted(
        int(path.name.removeprefix("node"))
        for path in (folder.glob("node[0-9]*") if folder.is_dir() else ())
    )
    topology: dict[str, NumaNode] = {}
    for number in numbers:
        cpus = parse_cpulist((folder / f"node{number}/cpulist").read_text("ascii"))
        memory = read_meminfo(root, number).get("MemTotal", 0)
        cores = tuple(cpu for cpu in cpus if cpu in usable)
        topology[str(number)] = NumaNode(cores=cores, memory_bytes=memory)
    return topology


def find_numactl(configured: str) -> str | None:
    """Return the path of ``numactl``: the configured one, else from PATH, None if there is none.

    Raises:
        ConfigError: the configured one is no program.
    """
    if not configured:
        return shutil.which("numactl")
    path = Path(configured).expanduser().absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ConfigError(
            f"paths.numactl_path: {path} is no program that can be executed: correct the key, or "
            "leave it empty to take numactl from PATH"
        )
    return str(path)
