from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

from support.processes import alive, proc_bytes, wait_until
from support.restarts import keeper_pid, parent_of, tick

if TYPE_CHECKING:
    from pathlib import Path

    from support.harness import Cluster
    from support.restarts import Ticking

#: A task with children that have left its session and its process group.
FAMILY = """
setsid sleep 300 &
echo $! > "$0/session.new"; mv "$0/session.new" "$0/session"
(setsid sh -c 'echo $$ > "$0/orphan.new"; mv "$0/orphan.new" "$0/orphan"; exec sleep 300' "$0" &)
echo $$ > "$0/main.new"; mv "$0/main.new" "$0/main"
exec sleep 300
"""


def _kill_keeper(cluster: Cluster, name: str = "node1") -> None:
    keeper = keeper_pid(cluster, name)
    cluster.expect_trouble("ended while tasks ran")
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not alive(keeper), what="the keeper's end")


def _check_told(cluster: Cluster, ticking: Ticking) -> None:
    task = cluster.wait(ticking.task_id)
    assert task["status"] in {"lost", "failed"}
    assert task["exit_code"] is None
    # A runner that comes back later cannot know why there is no record.
    assert "keeper" in task["reason"] or "exit record missing" in task["reason"], task["reason"]
    wait_until(lambda: not alive(ticking.pid), what="the end of the task's process")
    assert cluster.node("node1")["cores_in_use"] == 0


def test_the_keeper_is_the_tasks_parent_and_outlives_the_runner(cluster: Cluster) -> None:
    ticking = tick(cluster)
    keeper = keeper_pid(cluster, "node1")
    parents = [parent_of(ticking.pid)]
    parents.append(parent_of(parents[0]))
    assert keeper in parents
    assert cluster.runners["node1"].pid not in parents
    cluster.kill("node1")
    cluster.restart("node1")
    assert keeper_pid(cluster, "node1") == keeper
    assert b"keeper" in proc_bytes(keeper, "cmdline")
    cluster.post(f"/api/kill/{ticking.task_id}")


def test_the_death_of_the_keeper_is_told_and_new_tasks_run(cluster: Cluster) -> None:
    ticking = tick(cluster)
    other = tick(cluster, target="node2")
    _kill_keeper(cluster)
    _check_told(cluster, ticking)
    task = cluster.run("sh", "-c", "exit 3")
    assert (task["status"], task["exit_code"]) == ("failed", 3)
    assert cluster.status(other.task_id)["status"] == "running"
    lines = cluster.text(ticking.task_id).splitlines()
    assert lines[0] == "line 0"


def test_no_process_of_a_task_outlives_the_death_of_the_keeper(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "family"
    folder.mkdir()
    task_id = cluster.submit("sh", "-c", FAMILY, str(folder))
    names = {"main", "session", "orphan"}
    wait_until(lambda: {path.name for path in folder.iterdir()} == names)
    family = {name: int((folder / name).read_text("utf-8")) for name in names}
    assert all(map(alive, family.values()))
    _kill_keeper(cluster)
    task = cluster.wait(task_id)
    assert "keeper" in task["reason"]
    wait_until(lambda: not any(map(alive, family.values())), what="the family's end")


def test_the_death_of_keeper_and_runner_is_told_when_the_runner_is_back(
    cluster: Cluster,
) -> None:
    ticking = tick(cluster)
    cluster.kill("node1")
    _kill_keeper(cluster)
    cluster.restart("node1")
    _check_told(cluster, ticking)
    assert cluster.run("true")["status"] == "completed"


def test_the_death_of_all_three_is_told(cluster: Cluster) -> None:
    ticking = tick(cluster)
    ended = cluster.run("sh", "-c", "exit 3", cores=0)["task_id"]
    keeper = keeper_pid(cluster, "node1")
    cluster.kill("host", "node1")
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not alive(keeper))
    cluster.restart("host", "node1")
    _check_told(cluster, ticking)
    assert cluster.status(ended)["exit_code"] == 3
    assert cluster.run("true")["status"] == "completed"


def test_a_machine_that_was_set_up_anew_knows_none_of_its_tasks(cluster: Cluster) -> None:
    ticking = tick(cluster)
    cluster.kill("node1")
    _kill_keeper(cluster)
    shutil.rmtree(cluster.state_dir("node1"))
    cluster.restart("node1")
    task = cluster.wait(ticking.task_id)
    assert (task["status"], task["exit_code"]) == ("lost", None)
    assert "node1" in task["reason"]
    assert cluster.node("node1")["cores_in_use"] == 0
    assert cluster.run("true")["status"] == "completed"


def test_an_end_that_was_recorded_survives_the_death_of_all_three(cluster: Cluster) -> None:
    ticking = tick(cluster, code=4)
    other = tick(cluster, cores=0)
    cluster.kill("host", "node1")
    ticking.end()
    # A keeper that dies before it has written what it knew takes it along.
    wait_until(lambda: _recorded(cluster, ticking.task_id), what="the record on disk")
    _kill_keeper(cluster)
    cluster.restart("host", "node1")
    task = cluster.wait(ticking.task_id)
    assert (task["status"], task["exit_code"]) == ("failed", 4)
    ticking.check_whole(cluster.text(ticking.task_id).splitlines())
    _check_told(cluster, other)


def _recorded(cluster: Cluster, task_id: str) -> bool:
    (folder,) = cluster.state_dir("node1").rglob("keeper")
    records = [path.read_bytes() for path in folder.iterdir() if path.is_file()]
    return any(task_id.encode() in record for record in records)
