"""Memory of bound tasks lies on their own NUMA node, by the kernel's count and by ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from lab.units import MIB, NODES, Run, end, fact, on_both, start, there, unit_cgroup, words

if TYPE_CHECKING:
    from hakuriver.model.tasks import Usage
    from lab.lab import Lab

SIZE = 40 * MIB
HOLD = f"""
import os, time
held = bytearray(b"x") * {SIZE}
print("full", flush=True)
while not os.path.exists("/shared/release"):
    time.sleep(0.3)
"""
NAMES = [(numa, name) for numa in (0, 1) for name in ("first", "second")]

pytestmark = [
    pytest.mark.parametrize("node", NODES),
    pytest.mark.parametrize(("numa", "name"), NAMES),
]


@dataclass(frozen=True)
class Held:
    """A task while it held its memory: what the kernel and what the host said."""

    run: Run
    kernel: dict[str, int]
    live: Usage


@pytest.fixture(scope="module")
def held(_shared_lab: Lab) -> dict[tuple[str, str], Held]:
    """Two tasks on each NUMA node of each machine, all at the same time."""
    lab = _shared_lab
    release = lab.shared / "release"
    release.unlink(missing_ok=True)
    runs = start(
        lab,
        {
            f"{name} {numa}": words("python3", "-IS", "-c", HOLD, numa=numa, cores=1, memory="100M")
            for numa, name in NAMES
        },
    )

    def look(node: str) -> dict[tuple[str, str], Held]:
        mine = {key: run for key, run in runs.items() if key[0] == node}
        for run in mine.values():
            run.wait_for("full")
        return {
            key: Held(run, _kernel(lab, run), there(partial(_live, run), timeout=90))
            for key, run in mine.items()
        }

    try:
        looks = on_both(look)
    finally:
        release.touch()
    end(runs)
    return looks["node1"] | looks["node2"]


def _live(run: Run) -> Usage | None:
    """Return the use of a task that is full, as soon as the host has been told."""
    usage = run.now().usage
    by_node = usage.numa_memory_bytes if usage else None
    return usage if sum((by_node or {}).values()) >= SIZE else None


def _kernel(lab: Lab, run: Run) -> dict[str, int]:
    """Return the task's anonymous memory by NUMA node, as its cgroup counts it."""
    machine = lab.machines[run.node]
    folder = unit_cgroup(machine, run)
    line = fact(machine, f"grep '^anon ' '{folder}/memory.numa_stat'")
    return {name[1:]: int(size) for name, size in (pair.split("=") for pair in line.split()[1:])}


def _check_share(by_node: dict[str, int] | None, numa: int) -> None:
    assert by_node is not None
    total = sum(by_node.values())
    assert SIZE <= total < SIZE + 40 * MIB, by_node
    assert by_node[str(numa)] >= 0.95 * total, by_node


def test_the_kernel_finds_the_memory_on_the_tasks_own_node(
    held: dict[tuple[str, str], Held], node: str, numa: int, name: str
) -> None:
    _check_share(held[node, f"{name} {numa}"].kernel, numa)


def test_the_host_tells_the_same_while_the_task_runs(
    held: dict[tuple[str, str], Held], node: str, numa: int, name: str
) -> None:
    _check_share(held[node, f"{name} {numa}"].live.numa_memory_bytes, numa)


def test_the_peak_is_told_at_the_end(
    held: dict[tuple[str, str], Held], node: str, numa: int, name: str
) -> None:
    run = held[node, f"{name} {numa}"].run
    assert run.end == ("completed", 0), (run.view, run.errors)
    peaks = run.usage.peak_numa_memory_bytes
    assert peaks is not None
    # What starts the program is not bound yet.
    other = peaks.get(str(1 - numa), 0)
    assert peaks[str(numa)] >= SIZE > 10 * MIB > other, peaks
    assert run.usage.peak_memory_bytes is not None
    assert SIZE <= run.usage.peak_memory_bytes <= 100 * MIB
