"""A clock that jumps by hours, forward and back, while everything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.processes import wait_until
from support.restarts import tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.harness import Cluster

_HOUR = 3600
_JUMPS = (5 * _HOUR, -5 * _HOUR, 48 * _HOUR, 0)


@pytest.mark.parametrize("whose", ["host", "node1"])
def test_a_clock_that_jumps_loses_nothing(make_cluster: Callable[..., Cluster], whose: str) -> None:
    cluster = make_cluster()
    skew = cluster.root / "skew"
    daemon = cluster.host if whose == "host" else cluster.runners[whose]
    daemon.module = "support.skewed"
    daemon.env = {
        **daemon.env,
        "SKEW_FILE": str(skew),
        "PYTHONPATH": f"{daemon.env['PYTHONPATH']}/tests:{daemon.env['PYTHONPATH']}",
    }
    cluster.start()
    ticking = tick(cluster, code=4, cores=0)
    ids: list[int] = []
    for jump in _JUMPS:
        skew.write_text(str(jump), "ascii")
        ids += [int(cluster.submit("true", target=node)) for node in ("node1", "node2")]
        ticking.go_on(40)
        for task_id in ids:
            assert cluster.wait(str(task_id))["status"] == "completed"
        assert {node["status"] for node in cluster.get("/api/nodes")["nodes"]} == {"online"}
        assert cluster.status(ticking.task_id)["status"] == "running"
    assert ids == sorted(set(ids))
    cluster.kill(whose)
    skew.write_text(str(-_HOUR), "ascii")
    cluster.restart(whose)
    cluster.wait_online("node1")
    ids.append(int(cluster.run("true")["task_id"]))
    assert ids == sorted(set(ids))
    ticking.end()
    task = cluster.wait(ticking.task_id)
    assert (task["status"], task["exit_code"]) == ("failed", 4)
    # Both moments are the supervisor's, whose clock did not jump.
    assert task["completed_at"] > task["started_at"]
    ticking.check_whole(cluster.text(ticking.task_id).splitlines())
    wait_until(lambda: not cluster.unfinished(), what="nothing is left")
