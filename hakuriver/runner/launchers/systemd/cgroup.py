"""What a task has used so far, as its control group tells (cgroup v2). Blocks: use a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.model.tasks import Usage
from hakuriver.runner.launchers.processes import read_proc

if TYPE_CHECKING:
    from pathlib import Path


def read_usage(folder: Path, before: Usage | None) -> Usage | None:
    """Return what the control group in `folder` has used, None if it is gone.

    `before` is the reading before, from which the peaks by NUMA node go on: the kernel keeps only
    that of the whole.
    """
    cpu = _fields(folder / "cpu.stat").get("usage_usec")
    if cpu is None:
        return None
    numa = _numa(folder / "memory.numa_stat")
    peaks = dict(before.peak_numa_memory_bytes or {}) if before is not None else {}
    for node, size in numa.items():
        peaks[node] = max(size, peaks.get(node, 0))
    return Usage(
        cpu_seconds=cpu / 1e6,
        memory_bytes=_number(folder / "memory.current"),
        peak_memory_bytes=_number(folder / "memory.peak"),
        numa_memory_bytes=numa or None,
        peak_numa_memory_bytes=peaks or None,
    )


def is_populated(folder: Path) -> bool:
    """Whether any process is in the control group in `folder`, or below it."""
    return "populated 1" in _text(folder / "cgroup.events")


def _numa(path: Path) -> dict[str, int]:
    """Return the bytes of anonymous memory by NUMA node: what the task itself has filled.

    Files are left out, since whoever read one first decided where its pages lie.
    """
    for line in _text(path).splitlines():
        name, *parts = line.split()
        if name == "anon":
            return {
                node.removeprefix("N"): int(size)
                for node, _, size in (part.partition("=") for part in parts)
            }
    return {}


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2}  # noqa: PLR2004


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return read_proc(str(path)).decode("ascii", "replace")
    except OSError:
        return ""
