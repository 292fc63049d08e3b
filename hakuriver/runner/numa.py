"""The machine's NUMA topology as the kernel tells it, from a root that tests may replace."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hakuriver.model.nodes import NumaNode

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_RANGE = re.compile(r"(\d+)(?:-(\d+))?\Z", re.ASCII)
_MEMINFO = re.compile(r"Node \d+ (\w+):\s+(\d+) kB", re.ASCII)
_MAX_CPU = 1 << 16


def parse_cpulist(text: str) -> tuple[int, ...]:
    """Return the sorted CPU numbers in a list such as ``0-3,8``; raise `ValueError` on others."""
    cpus: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        match = _RANGE.match(part.strip())
        if not match:
            raise ValueError(f"{part.strip()!r} is no CPU number and no range such as 0-3")
        first = int(match[1])
        last = int(match[2] or first)
        if not first <= last < _MAX_CPU:
            raise ValueError(f"{part.strip()!r} is no range of CPU numbers")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def format_cpulist(cpus: Iterable[int]) -> str:
    """Return CPU numbers in the kernel's short form: ``0-3,8``."""
    runs: list[tuple[int, int]] = []
    for cpu in sorted(set(cpus)):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1] = (runs[-1][0], cpu)
        else:
            runs.append((cpu, cpu))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


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
