"""CPU quota, by what four busy loops used of the machine's own time.

Each runs alone on its machine: four emulated processors share one real one, and what else ran
there would take from the loops what the quota gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.units import NODES, Run, Runs, end, leftovers, sh, start

if TYPE_CHECKING:
    from lab.lab import Lab

SECONDS = 7
#: The emulator may be kept from its own processor for a while.
ATTEMPTS = 3
TOLERANCE = 0.1
BUSY = f"""
own=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
look() {{ read -r up rest < /proc/uptime; read -r name used < "$own/cpu.stat"; echo "$up $used"; }}
for loop in 1 2 3 4; do while :; do :; done & done
sleep 1; look; sleep {SECONDS}; look
"""


@pytest.fixture(scope="module")
def busy(_shared_lab: Lab) -> Runs:
    runs: Runs = {}
    for cores in (1, 2):
        for _ in range(ATTEMPTS):
            runs |= end(start(_shared_lab, {str(cores): sh(BUSY, cores=cores)}))
            if all(abs(used(runs[node, str(cores)]) - cores) <= TOLERANCE for node in NODES):
                break
    return runs


def used(run: Run) -> float:
    """Return how many CPUs a task used while it was looked at."""
    assert run.end == ("completed", 0), (run.view, run.errors)
    (begin, before), (finish, after) = (map(float, line.split()) for line in run.out.splitlines())
    assert finish - begin >= SECONDS - 0.5
    return (after - before) / 1e6 / (finish - begin)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("cores", [1, 2])
def test_four_busy_loops_use_the_cores_that_they_asked_for(
    busy: Runs, node: str, cores: int
) -> None:
    run = busy[node, str(cores)]
    assert abs(used(run) - cores) <= TOLERANCE, run.out
    assert run.usage.cpu_seconds is not None
    assert run.usage.cpu_seconds >= SECONDS * (cores - TOLERANCE)


@pytest.mark.parametrize("node", NODES)
def test_the_loops_that_a_task_leaves_behind_end_with_it(busy: Runs, lab: Lab, node: str) -> None:

    runs = [busy[node, name] for name in ("1", "2")]
    assert leftovers(lab.machines[node], *runs) == ""
