from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from support.harness import KILL_GRACE, check_one_line
from support.looks import first_line, frozen
from support.processes import alive, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.harness import Cluster

#: A task with children of every kind; each writes its pid, and none of them ends by itself.
TREE = """
import os
import signal
import subprocess
import sys
import time

folder = sys.argv[1]

def stay(name):
    with open(f"{folder}/{name}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{folder}/{name}.new", f"{folder}/{name}")
    time.sleep(300)
    os._exit(0)

def plain():
    stay("plain")

def session():
    os.setsid()
    stay("session")

def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.closerange(0, 10)
    stay("daemon")

def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stay("stubborn")

def stopped():
    os.setsid()
    if os.fork() == 0:
        stay("stopped")
    time.sleep(300)

for start in (plain, session, daemon, stubborn, stopped):
    if os.fork() == 0:
        start()
bare = f"echo $$ > {folder}/bare.new; mv {folder}/bare.new {folder}/bare; exec sleep 300"
subprocess.Popen(["env", "-i", "setsid", "sh", "-c", bare], start_new_session=True)
stay("main")
"""
NAMES = {"plain", "session", "daemon", "stubborn", "stopped", "bare", "main"}


def _family(folder: Path) -> dict[str, int]:
    def whole() -> bool:
        return {path.name for path in folder.iterdir()} >= NAMES

    wait_until(whole, what="all processes of the task")
    return {name: int((folder / name).read_text("utf-8")) for name in NAMES}


def _kill(cluster: Cluster, task_id: str) -> None:
    reply = cluster.http("POST", f"/api/kill/{task_id}")
    assert reply.status == 202, reply.body
    assert reply.json()["message"]


def test_kill_ends_the_whole_tree_and_tells_only_then(cluster: Cluster, tmp_path: Path) -> None:
    task_id = cluster.script(TREE, arguments=[str(tmp_path)])
    family = _family(tmp_path)
    assert all(alive(pid) for pid in family.values())
    cluster.run_client("--kill", task_id, check=0)
    task = cluster.wait(task_id, "killed")
    assert {name for name, pid in family.items() if alive(pid)} == set()
    assert task["exit_code"] == -15
    assert task["completed_at"]


def test_what_a_task_leaves_behind_ends_with_it(cluster: Cluster, tmp_path: Path) -> None:
    script = TREE.replace('stay("main")', "")
    task_id = cluster.script(
        script + "while len(os.listdir(folder)) < 6 or any(n.endswith('.new')"
        " for n in os.listdir(folder)): time.sleep(0.01)\n",
        arguments=[str(tmp_path)],
    )
    task = cluster.wait(task_id)
    assert (task["status"], task["exit_code"]) == ("completed", 0)
    left = {path.name for path in tmp_path.iterdir() if alive(int(path.read_text("utf-8")))}
    assert left == set()


def test_a_task_that_ignores_sigterm_is_killed_after_the_grace(cluster: Cluster) -> None:
    task_id = cluster.submit("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    wait_until(lambda: cluster.output(task_id) == b"ready\n")
    started = time.monotonic()
    _kill(cluster, task_id)
    task = cluster.wait(task_id, "killed")
    assert time.monotonic() - started > KILL_GRACE * 0.8
    assert task["exit_code"] == -9


def test_a_task_may_clean_up_within_the_grace_and_is_killed_still(cluster: Cluster) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    task: Any = None
    # A busy machine may let the whole of a grace pass before the task has done so.
    for _ in range(3):
        task_id = cluster.submit("sh", "-c", script)
        assert first_line(cluster, task_id) == "ready"
        _kill(cluster, task_id)
        task = cluster.wait(task_id, "killed")
        if task["exit_code"] == 0:
            break
    assert task["exit_code"] == 0
    assert cluster.output(task_id) == b"ready\nbye\n"


def test_a_stopped_task_is_killed(cluster: Cluster) -> None:
    task_id = cluster.submit("sh", "-c", "echo ready; kill -STOP $$")
    wait_until(lambda: cluster.output(task_id) == b"ready\n")
    _kill(cluster, task_id)
    cluster.wait(task_id, "killed")


def test_a_killed_task_stays_killed(cluster: Cluster) -> None:
    task_id = cluster.submit("sleep", "60")
    cluster.wait(task_id, "running")
    _kill(cluster, task_id)
    killed = cluster.wait(task_id, "killed")
    assert cluster.run("true")["status"] == "completed"
    assert cluster.status(task_id) == killed


def test_a_task_killed_in_the_queue_never_runs(cluster: Cluster, tmp_path: Path) -> None:
    first = cluster.submit("sleep", "60")
    cluster.wait(first, "running")
    mark = tmp_path / "mark"
    waiting = cluster.submit("touch", str(mark))
    assert cluster.status(waiting)["status"] == "pending"
    _kill(cluster, waiting)
    task = cluster.wait(waiting, "killed")
    assert task["started_at"] is None
    assert task["exit_code"] is None
    _kill(cluster, first)
    cluster.wait(first, "killed")
    assert cluster.run("true")["status"] == "completed"
    assert not mark.exists()
    assert cluster.status(waiting) == task


def test_a_kill_right_after_the_submission_ends_in_killed(cluster: Cluster) -> None:
    for _ in range(10):
        task_id = cluster.submit("sleep", "60")
        _kill(cluster, task_id)
        cluster.wait(task_id, "killed")


def test_a_kill_of_an_ended_task_is_a_conflict_and_changes_nothing(cluster: Cluster) -> None:
    task = cluster.run("true")
    reply = cluster.http("POST", f"/api/kill/{task['task_id']}")
    assert reply.status == 409
    assert "completed" in reply.json()["detail"]
    assert cluster.status(task["task_id"]) == task
    done = cluster.run_client("--kill", task["task_id"])
    assert done.returncode not in {0, 2}
    check_one_line(done.stderr, task["task_id"])


@pytest.mark.parametrize("task_id", ["12345", "abc", "0", "99999999999999999999"])
def test_a_kill_of_an_unknown_task_is_not_found(cluster: Cluster, task_id: str) -> None:
    assert cluster.http("POST", f"/api/kill/{task_id}").status == 404
    done = cluster.run_client("--kill", task_id)
    assert done.returncode != 0
    assert task_id in done.stderr


def test_a_kill_twice_is_one_kill(cluster: Cluster) -> None:
    task_id = cluster.submit("sleep", "60")
    cluster.wait(task_id, "running")
    # Its node hears of neither before both are asked.
    with frozen(cluster.runners["node1"].pid):
        _kill(cluster, task_id)
        assert cluster.http("POST", f"/api/kill/{task_id}").status == 202
    cluster.wait(task_id, "killed")
    assert cluster.http("POST", f"/api/kill/{task_id}").status == 409


def test_a_kill_gives_the_cpu_back(cluster: Cluster) -> None:
    for _ in range(3):
        task_id = cluster.submit("sleep", "60")
        cluster.wait(task_id, "running")
        _kill(cluster, task_id)
        cluster.wait(task_id, "killed")
    node = cluster.get("/api/nodes")["nodes"][0]
    assert (node["cores_in_use"], node["available_cores"]) == (0, node["total_cores"])
