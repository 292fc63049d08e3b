"""The ground on which the protocol is played: machines, targets, an empty database."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from hakuriver.host.store import Store
from hakuriver.model.nodes import NodeInfo, NumaNode

GIB = 1 << 30
NODES = {
    "a": NodeInfo(
        version="0",
        launcher="process",
        cpus=(0, 1, 2),
        memory_bytes=2 * GIB,
        numa_topology={"0": NumaNode((0, 1), GIB), "1": NumaNode((2,), GIB)},
    ),
    "b": NodeInfo(version="0", launcher="process", cpus=(7,), memory_bytes=GIB),
}
TARGETS: list[list[str] | None] = [None, ["a"], ["a:0"], ["a:1"], ["b"], ["a", "b", "a"]]


@cache
def empty_database() -> bytes:
    """Return an empty database: to make one costs more than most examples."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "host.db"
        Store(path, cluster_id="cluster").close()
        return path.read_bytes()


def fast_folder() -> str | None:
    """Return a folder in memory where there is one: this reads and writes much."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
