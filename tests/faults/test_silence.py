"""Nodes that fall silent for longer than they may, and come back."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from faults.proxy import Proxy
from support.restarts import tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.harness import Cluster

_TIMING = {"heartbeat_interval": 0.3, "heartbeat_timeout_factor": 4.0}


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy(seconds=0.05)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def parted(make_cluster: Callable[..., Cluster], proxy: Proxy) -> Cluster:
    """A cluster whose first node reaches the host through a proxy alone."""
    cluster = make_cluster(settings={"timing": _TIMING}, ways={"node1": proxy.port})
    proxy.target = cluster.port
    cluster.start()
    return cluster


def test_a_task_of_a_parted_node_is_lost_until_its_node_tells_the_truth(
    parted: Cluster, proxy: Proxy
) -> None:
    cluster = parted
    goes_on, ends = tick(cluster, cores=0), tick(cluster, code=7)
    proxy.part()
    for ticking in (goes_on, ends):
        lost = cluster.wait(ticking.task_id, "lost")
        assert "may still tell" in lost["reason"]
    assert cluster.node_status("node1") == "offline"
    assert cluster.node("node1")["cores_in_use"] == 0
    ends.end()
    proxy.join()
    cluster.wait(goes_on.task_id, "running")
    assert cluster.wait(ends.task_id, "failed")["exit_code"] == 7
    cluster.wait_online("node1")
    # Counted once: the one that goes on asked for no core, the other has given its own back.
    assert cluster.node("node1")["cores_in_use"] == 0
    goes_on.end()
    assert cluster.wait(goes_on.task_id, "completed")
    goes_on.check_whole(cluster.text(goes_on.task_id).splitlines())


def test_a_kill_of_a_lost_task_is_delivered_when_its_node_is_back(
    parted: Cluster, proxy: Proxy
) -> None:
    cluster = parted
    ticking = tick(cluster)
    proxy.part()
    cluster.wait(ticking.task_id, "lost")
    cluster.post(f"/api/kill/{ticking.task_id}")
    proxy.join()
    cluster.wait(ticking.task_id, "killed")
    assert cluster.node("node1")["cores_in_use"] == 0


def test_a_runner_that_stood_still_is_lost_and_comes_back(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(settings={"timing": _TIMING})
    cluster.start()
    ticking = tick(cluster, code=5)
    pid = cluster.runners["node1"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        cluster.wait(ticking.task_id, "lost")
    finally:
        os.kill(pid, signal.SIGCONT)
    cluster.wait(ticking.task_id, "running")
    assert cluster.node("node1")["cores_in_use"] == 1
    ticking.end()
    assert cluster.wait(ticking.task_id, "failed")["exit_code"] == 5


def test_a_host_that_stood_still_takes_nobody_for_lost(
    make_cluster: Callable[..., Cluster],
) -> None:
    # Longer than a runner on a busy machine is silent by itself, and less than the host will be.
    timing = {**_TIMING, "heartbeat_timeout_factor": 8.0}
    cluster = make_cluster(settings={"timing": timing})
    cluster.start()
    ticking = tick(cluster)
    os.kill(cluster.host.pid, signal.SIGSTOP)
    try:
        ticking.go_on(150)
    finally:
        os.kill(cluster.host.pid, signal.SIGCONT)
    cluster.wait_online("node1")
    assert cluster.status(ticking.task_id)["status"] == "running"
    ticking.end()
    assert cluster.wait(ticking.task_id, "completed")


def test_a_link_that_repeats_and_delays_every_message_changes_nothing(
    parted: Cluster, proxy: Proxy
) -> None:
    cluster = parted
    proxy.repeating = proxy.delaying = True
    starts = cluster.root / "starts"
    line = 'echo "$HAKURIVER_TASK_ID" >> "$0"; seq 20000; exit 6'
    ids = [cluster.submit("sh", "-c", line, str(starts)) for _ in range(2)]
    for task_id in ids:
        with cluster.stream(f"/api/task/{task_id}/stdout?follow=1") as lines:
            shown = "".join(line.get("data", "") for _, line in lines)
        assert shown == "".join(f"{number}\n" for number in range(1, 20001))
        assert cluster.wait(task_id, "failed")["exit_code"] == 6
    assert sorted(starts.read_text("utf-8").split()) == sorted(ids)
