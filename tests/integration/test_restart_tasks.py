from __future__ import annotations

import functools
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from support.processes import alive, wait_until
from support.restarts import tick

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from support.harness import Cluster

#: Writes its pid, goes on when the file of its argument is there, ends as the rest says.
WAITER = """
echo $$
while [ ! -e "$0" ]; do sleep 0.02; done
echo over
"""
ENDS = {
    "exit 0": ("completed", 0),
    "exit 3": ("failed", 3),
    "kill -SEGV $$": ("failed", -signal.SIGSEGV),
    "exit 139": ("failed", 139),
}


def _gone(pid: int) -> bool:
    return not alive(pid)


class Waiters:
    """Tasks that end, each in its own way, when told to; no host or runner has a part in it."""

    def __init__(self, cluster: Cluster, ends: Sequence[str] = tuple(ENDS)) -> None:
        self.cluster = cluster
        self.gate = cluster.root / f"gate{time.monotonic_ns()}"
        self.ends = {
            cluster.submit("sh", "-c", WAITER + end, str(self.gate), cores=0): end for end in ends
        }
        self.pids = {task_id: self._pid(task_id) for task_id in self.ends}

    def _pid(self, task_id: str) -> int:
        path = Path(self.cluster.wait(task_id, "running")["stdout_path"])
        wait_until(lambda: path.exists() and path.read_text("utf-8").endswith("\n"))
        return int(path.read_text("utf-8"))

    def end(self) -> None:
        self.gate.touch()
        wait_until(lambda: not any(map(alive, self.pids.values())), what="all processes ended")

    def check_ends(self) -> None:
        for task_id, end in self.ends.items():
            task = self.cluster.wait(task_id)
            assert (task["status"], task["exit_code"]) == ENDS[end], task
            assert task["started_at"] < task["completed_at"]
        self.cluster.wait_online("node1")
        for task_id in self.ends:
            assert self.cluster.text(task_id) == f"{self.pids[task_id]}\nover\n"


def test_tasks_that_end_while_the_host_is_dead_are_told_when_it_is_back(cluster: Cluster) -> None:
    waiters = Waiters(cluster)
    cluster.kill("host")
    waiters.end()
    cluster.start_host()
    waiters.check_ends()
    assert cluster.node("node1")["cores_in_use"] == 0


def test_tasks_that_end_just_when_the_host_dies_are_told_truly(cluster: Cluster) -> None:
    # Each death falls into another step of the telling: after the first end, the second, …
    for number in range(len(ENDS)):
        waiters = Waiters(cluster)
        pid = list(waiters.pids.values())[number]
        waiters.gate.touch()
        wait_until(functools.partial(_gone, pid), interval=0.001)
        cluster.kill("host")
        cluster.start_host()
        waiters.check_ends()


def test_tasks_that_end_while_their_runner_is_dead_have_true_codes_and_whole_logs(
    cluster: Cluster,
) -> None:
    waiters = Waiters(cluster)
    cluster.kill("node1")
    waiters.end()
    cluster.restart("node1")
    waiters.check_ends()


def test_tasks_that_end_while_host_and_runner_are_dead_have_true_codes(
    cluster: Cluster,
) -> None:
    waiters = Waiters(cluster)
    cluster.kill("host", "node1")
    waiters.end()
    cluster.restart("host", "node1")
    waiters.check_ends()


def test_a_task_goes_on_through_the_deaths_of_its_runner(cluster: Cluster) -> None:
    ticking = tick(cluster, code=5)
    started = cluster.status(ticking.task_id)["started_at"]
    for _ in range(3):
        cluster.kill("node1")
        ticking.go_on(5)
        cluster.restart("node1")
        task = cluster.wait(ticking.task_id, "running")
        assert (task["started_at"], task["cpus"]) == (started, [0])
        assert cluster.node("node1")["cores_in_use"] == 1
    assert alive(ticking.pid)
    ticking.end()
    task = cluster.wait(ticking.task_id)
    assert (task["status"], task["exit_code"]) == ("failed", 5)
    ticking.check_whole(cluster.text(ticking.task_id).splitlines())


def test_a_task_is_held_to_its_cpu_while_its_runner_is_dead(cluster: Cluster) -> None:
    ticking = tick(cluster)
    waiting = cluster.submit("true")
    cluster.kill("host", "node1")
    cluster.restart("host", "node1")
    assert cluster.status(waiting)["status"] == "pending"
    assert cluster.node("node1")["available_cores"] == 0
    ticking.end()
    assert cluster.wait(waiting)["status"] == "completed"
    assert cluster.status(waiting)["started_at"] >= cluster.status(ticking.task_id)["completed_at"]


def test_a_task_that_survived_both_deaths_can_be_killed(cluster: Cluster) -> None:
    ticking = tick(cluster)
    cluster.kill("host", "node1")
    cluster.restart("host", "node1")
    cluster.post(f"/api/kill/{ticking.task_id}")
    assert cluster.wait(ticking.task_id)["status"] == "killed"
    assert not alive(ticking.pid), cluster.status(ticking.task_id)


def test_a_kill_while_the_runner_is_dead_is_delivered_on_its_return(cluster: Cluster) -> None:
    ticking = tick(cluster)
    cluster.kill("node1")
    wait_until(lambda: cluster.node_status("node1") == "offline")
    cluster.post(f"/api/kill/{ticking.task_id}")
    assert cluster.status(ticking.task_id)["status"] == "running"
    assert alive(ticking.pid)
    # What was answered with 202 is in the store.
    cluster.kill("host")
    cluster.restart("host", "node1")
    assert cluster.wait(ticking.task_id)["status"] == "killed"
    assert not alive(ticking.pid)


def test_the_queue_outlives_the_host_in_its_order(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "order"
    ticking = tick(cluster)
    ids = [cluster.submit("sh", "-c", f"echo {number} >> {log}") for number in range(5)]
    places = [cluster.status(task_id)["queue_position"] for task_id in ids]
    cluster.kill("host")
    cluster.restart("host")
    assert [cluster.status(task_id)["queue_position"] for task_id in ids] == places
    cluster.post(f"/api/kill/{ids[2]}")
    ticking.end()
    ends = [cluster.wait(task_id)["status"] for task_id in ids]
    assert ends == ["completed", "completed", "killed", "completed", "completed"]
    assert log.read_text("utf-8").split() == ["0", "1", "3", "4"]


def test_nothing_starts_twice_however_often_both_die(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "starts"
    command = ("sh", "-c", f"echo $HAKURIVER_TASK_ID >> {log}; sleep 0.1")
    reply = cluster.submit_batch(*command, targets=["node1", "node2"] * 15)
    for dying in (("node1",), ("host",), ("node1", "host"), ("node2", "node1", "host")):
        cluster.kill(*dying)
        cluster.restart(*dying)
    tasks = [cluster.wait(task_id, timeout=120) for task_id in reply["task_ids"]]
    completed = [task["task_id"] for task in tasks if task["status"] == "completed"]
    assert sorted(log.read_text("utf-8").split()) == completed
    # A runner that dies between its word to start and the start itself leaves this behind.
    others = [task for task in tasks if task["status"] != "completed"]
    assert {(task["status"], task["reason"]) for task in others} <= {
        ("failed", "start interrupted")
    }
    assert len(others) <= 4
    assert [cluster.node(name)["cores_in_use"] for name in cluster.nodes] == [0, 0]


def test_a_task_answered_for_is_there_though_the_host_dies_at_once(cluster: Cluster) -> None:
    for _ in range(3):
        ids = cluster.submit_batch("true", targets=["node1", "node2"] * 3)["task_ids"]
        cluster.kill("host")
        cluster.restart("host")
        assert {cluster.wait(task_id)["status"] for task_id in ids} == {"completed"}


def test_a_runner_is_online_within_two_heartbeats_of_the_hosts_return(
    make_cluster: Callable[..., Cluster],
) -> None:
    # The longest pause between its attempts is five seconds.
    heartbeat = 10.0
    cluster = make_cluster(settings={"timing": {"heartbeat_interval": heartbeat}})
    cluster.start()
    ticking = tick(cluster)
    cluster.kill("host")
    # Its pauses between attempts have grown by then to seconds.
    ticking.go_on(150)
    cluster.runners["node1"].check_alive()
    cluster.start_host()
    wait_until(lambda: cluster.node_status("node1") == "online", timeout=2 * heartbeat)
    assert cluster.status(ticking.task_id)["status"] == "running"


def test_a_runner_that_waits_for_its_host_ends_when_told_to(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    cluster.start_runner("node1")
    runner = cluster.runners["node1"]
    wait_until(lambda: str(cluster.port) in runner.text(), what="a word on the absent host")
    runner.check_alive()
    assert "Traceback" not in runner.text()
    runner.stop()
