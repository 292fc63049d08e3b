"""200 nodes and 10,000 queued tasks: what they cost the host, and how it comes back from a kill.

The nodes are played: real links with heartbeats, tasks that are told and never started.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.rows import Goal, Row
from support.crowd import Crowd
from support.harness import Cluster
from support.played_runner import KEEP
from support.processes import resident_bytes, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.world import World

_NODES = 200
_CORES = 4
_QUEUED = 10_000
_MANY = 1000
_SCRAPES = 15
_WATCHED = 10.0
_PATIENCE = 120.0
_BEAT = 5.0


def measure(world: World) -> list[Row]:
    """Look at a host of many nodes at rest, with a long queue, killed, and while the queue goes."""
    cluster = Cluster(
        world.folder / "crowd",
        nodes={"unused": "0"},
        settings={"timing": {"heartbeat_interval": _BEAT, "heartbeat_timeout_factor": 6.0}},
    )
    crowd = Crowd(cluster.port, cluster.runner_secret, count=_NODES, cores=_CORES, beat=_BEAT)
    cluster.start_host()
    crowd.start()
    try:
        return _measure(world, cluster, crowd)
    finally:
        crowd.free()
        crowd.stop()
        cluster.stop()


def _measure(world: World, cluster: Cluster, crowd: Crowd) -> list[Row]:
    world.progress(f"crowd: {_NODES} nodes link up")
    _wait(lambda: _online(cluster) == _NODES, "all nodes online")
    idle = _share(cluster)
    world.progress("crowd: filling every core")
    _submit(cluster, _NODES * _CORES, KEEP)
    _wait(lambda: _count(cluster, "running") == _MANY or _busy(cluster), "all cores busy")
    world.progress(f"crowd: {_QUEUED} tasks are queued")
    begin, cpu = time.perf_counter(), _cpu(cluster)
    _submit(cluster, _QUEUED, "true")
    submitted = time.perf_counter() - begin
    submitting = (_cpu(cluster) - cpu) / submitted
    scraped = _scrape(cluster)
    queued = _share(cluster)
    size = resident_bytes(cluster.host.pid) >> 20
    world.progress("crowd: the host is killed")
    answered, linked = _kill(cluster)
    world.progress("crowd: the queue goes")
    begin, cpu = time.perf_counter(), _cpu(cluster)
    crowd.free()
    _wait(lambda: not _left(cluster), "the queue is empty")
    drained = time.perf_counter() - begin
    busy = (_cpu(cluster) - cpu) / drained
    lost = _QUEUED + _NODES * _CORES - len(cluster.all_tasks(state="completed"))
    one_core = Goal(reach=1.0, stretch=0.2)
    return [
        Row(figure=f"host's CPU, {_NODES} nodes at rest", value=idle, unit="CPU", goal=one_core),
        Row(
            figure=f"host's CPU, {_QUEUED:,} tasks queued",
            value=queued,
            unit="CPU",
            goal=one_core,
            detail=f"resident {size} MiB",
        ),
        Row(
            figure=f"{_QUEUED:,} submissions",
            value=_QUEUED / submitted,
            unit="/s",
            detail=f"host uses {submitting:.2f} CPU meanwhile",
        ),
        Row(figure="a scrape of /metrics then", value=scraped * 1000, unit="ms"),
        Row(figure="killed host: first answer", value=answered, unit="s"),
        Row(figure=f"killed host: {_NODES} nodes online", value=linked, unit="s"),
        Row(
            figure=f"{_QUEUED:,} queued tasks go",
            value=_QUEUED / drained,
            unit="/s",
            detail=f"host uses {busy:.2f} CPU meanwhile",
            wrong=f"{lost} tasks are not there" if lost else "",
        ),
    ]


def _submit(cluster: Cluster, count: int, command: str) -> None:
    for begin in range(0, count, _MANY):
        requests = [{"command": command} for _ in range(min(_MANY, count - begin))]
        cluster.post("/api/submit-many", {"submissions": requests}, status=200)


def _scrape(cluster: Cluster) -> float:
    """Return how long a scrape takes, in seconds: the median of some."""
    times: list[float] = []
    for _ in range(_SCRAPES):
        begin = time.perf_counter()
        answer = cluster.http("GET", "/metrics")
        times.append(time.perf_counter() - begin)
        assert answer.status == 200, answer
    return median(times)


def _kill(cluster: Cluster) -> tuple[float, float]:
    """Return seconds from the new host's start to its first answer and to all nodes online."""
    cluster.kill("host")
    begin = time.perf_counter()
    cluster.host.start()
    wait_until(cluster.is_healthy, timeout=_PATIENCE, what="the host's /healthz")
    cluster.get("/api/tasks?state=pending&limit=1")
    answered = time.perf_counter() - begin
    _wait(lambda: _online(cluster) == _NODES, "all nodes online again")
    return answered, time.perf_counter() - begin


def _share(cluster: Cluster) -> float:
    """Return how many CPUs the host uses by itself, over some seconds."""
    before = _cpu(cluster)
    time.sleep(_WATCHED)
    return (_cpu(cluster) - before) / _WATCHED


def _cpu(cluster: Cluster) -> float:
    times = psutil.Process(cluster.host.pid).cpu_times()
    return times.user + times.system


def _wait(probe: Callable[[], object], what: str) -> None:
    wait_until(probe, timeout=_PATIENCE, what=what, interval=0.25)


def _nodes(cluster: Cluster) -> list[Any]:
    found: list[Any] = cluster.get("/api/nodes")["nodes"]
    return found


def _online(cluster: Cluster) -> int:
    return len([node for node in _nodes(cluster) if node["status"] == "online"])


def _busy(cluster: Cluster) -> bool:
    return all(node["available_cores"] == 0 for node in _nodes(cluster))


def _count(cluster: Cluster, state: str) -> int:
    return len(cluster.get(f"/api/tasks?state={state}&limit={_MANY}")["tasks"])


def _left(cluster: Cluster) -> bool:
    states = ("pending", "assigning", "running")
    return any(cluster.get(f"/api/tasks?state={state}&limit=1")["tasks"] for state in states)
