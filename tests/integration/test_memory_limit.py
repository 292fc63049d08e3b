from __future__ import annotations

import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver import Client
from support.looks import content, first_line
from support.processes import alive, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.harness import Cluster

MIB = 1 << 20
#: What every script begins with: `take` fills so many MiB, which then are really there.
PRELUDE = """
import mmap, os, signal, sys, time
MIB = 1 << 20
kept = []

def take(mib):
    for _ in range(mib // 4):
        kept.append(b"x" * (4 * MIB - 64))
        time.sleep(0.005)

def stay():
    print("stays", flush=True)
    time.sleep(60)
    os._exit(0)

def fork(*work):
    pid = os.fork()
    if pid == 0:
        for step in work:
            step()
        os._exit(0)
    return pid
"""
#: Ways to grow past 200 MiB, each of which nobody ends.
GROWTHS = {
    "the task itself": "take(300); stay()",
    "at a single stroke": "kept.append(b'x' * (300 * MIB)); stay()",
    "a child": "fork(lambda: take(300), stay); stay()",
    "a grandchild in a session of its own": """
def orphan():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    take(300)
    stay()
fork(orphan)
stay()
""",
    "many small children": """
for _ in range(10):
    fork(lambda: take(30), stay)
stay()
""",
    "memory that processes share": """
area = mmap.mmap(-1, 300 * MIB)
for start in range(0, 300 * MIB, MIB):
    area[start : start + MIB] = b"x" * MIB
stay()
""",
    "a child that ignores SIGTERM": """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
fork(lambda: take(300), stay)
stay()
""",
}
_REASON = re.compile(
    r"memory limit exceeded: peak (?P<peak>[\d.]+) of (?P<limit>[\d.]+) (?P<unit>[KMGT]i)B"
)
_UNIT = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def _submit(cluster: Cluster, script: str, mib: int | None = None, **more: Any) -> str:
    limit = None if mib is None else mib * MIB
    return cluster.script(PRELUDE + script, required_memory_bytes=limit, **more)


def _check_out_of_memory(task: Any, mib: int, *, most: int) -> None:
    """Fail unless `task` ended for its limit of `mib`, and no more than `most` was counted."""
    assert task["status"] == "killed_oom"
    figures = _REASON.search(task["reason"])
    assert figures, task["reason"]
    unit = _UNIT[figures["unit"]]
    assert float(figures["limit"]) * unit == pytest.approx(mib * MIB, rel=0.01)
    peak = task["usage"]["peak_memory_bytes"]
    assert float(figures["peak"]) * unit == pytest.approx(peak, rel=0.02)
    assert mib * MIB < peak < most * MIB, peak / MIB


@pytest.mark.parametrize("growth", GROWTHS)
def test_a_task_over_its_memory_limit_is_killed_whatever_grows(
    cluster: Cluster, growth: str
) -> None:
    task = cluster.wait(_submit(cluster, GROWTHS[growth], 200))
    _check_out_of_memory(task, 200, most=420)
    assert task["exit_code"] == -signal.SIGKILL
    assert task["completed_at"]


def test_slow_growth_is_stopped_close_to_the_limit(cluster: Cluster) -> None:
    peaks: list[float] = []
    # One calm round proves it; on a busy machine the looks at it may come late.
    while not peaks or (peaks[-1] >= 220 and len(peaks) < 5):
        task = cluster.wait(_submit(cluster, "take(300); stay()", 150))
        _check_out_of_memory(task, 150, most=420)
        peaks.append(task["usage"]["peak_memory_bytes"] / MIB)
    assert peaks[-1] < 220, peaks


def test_the_whole_tree_is_gone_when_the_task_is_told_killed(
    cluster: Cluster, tmp_path: Path
) -> None:
    script = f"""
def note(name):
    open("{tmp_path}/" + name, "w").write(str(os.getpid()))

def orphan():
    os.setsid()
    if os.fork():
        os._exit(0)
    note("orphan")
    stay()

signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("main")
fork(orphan)
while not os.path.exists("{tmp_path}/orphan"):
    time.sleep(0.01)
fork(lambda: note("child"), lambda: take(200), stay)
stay()
"""
    task = cluster.wait(_submit(cluster, script, 120))
    _check_out_of_memory(task, 120, most=320)
    family = [int(content(tmp_path / name)) for name in ("main", "orphan", "child")]
    assert [pid for pid in family if alive(pid)] == []


def test_tasks_beside_one_that_is_killed_are_unharmed(cluster: Cluster) -> None:
    script = "take(100); stay()"
    siblings = [
        _submit(cluster, script, cores=0),
        _submit(cluster, script, 200, cores=0),
        _submit(cluster, script, 200, cores=0, target="node2"),
    ]
    for task_id in siblings:
        assert first_line(cluster, task_id) == "stays"
    _check_out_of_memory(
        cluster.wait(_submit(cluster, "take(200); stay()", 100, cores=0)), 100, most=300
    )
    assert [cluster.status(task_id)["status"] for task_id in siblings] == ["running"] * 3
    assert cluster.run("true")["status"] == "completed"


def test_memory_that_children_share_with_their_parent_counts_once(cluster: Cluster) -> None:
    script = """
take(160)
children = [fork(lambda: time.sleep(0.7)) for _ in range(4)]
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
"""
    task = cluster.wait(_submit(cluster, script, 260))
    assert (task["status"], task["exit_code"], task["reason"]) == ("completed", 0, None)
    assert 160 * MIB < task["usage"]["peak_memory_bytes"] < 260 * MIB


def test_pages_of_a_file_that_is_read_do_not_count(cluster: Cluster, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(300 * MIB)
    script = f"""
with open({str(big)!r}, "rb") as file:
    area = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert sum(area[start] for start in range(0, 300 * MIB, 4096)) == 0
    time.sleep(0.3)
"""
    task = cluster.wait(_submit(cluster, script, 100))
    assert (task["status"], task["reason"]) == ("completed", None), cluster.text(
        task["task_id"], "stderr"
    )


def test_what_a_task_has_given_back_is_not_held_against_it(cluster: Cluster) -> None:
    script = """
for _ in range(4):
    area = mmap.mmap(-1, 100 * MIB)
    for start in range(0, 100 * MIB, MIB):
        area[start : start + MIB] = b"x" * MIB
    time.sleep(0.1)
    area.close()
"""
    task = cluster.wait(_submit(cluster, script, 180))
    assert (task["status"], task["reason"]) == ("completed", None)
    assert 90 * MIB < task["usage"]["peak_memory_bytes"] < 180 * MIB


def test_the_peak_of_a_task_within_its_limit_is_told(cluster: Cluster) -> None:
    task = cluster.wait(_submit(cluster, "take(120); time.sleep(1)", 300))
    assert task["status"] == "completed"
    assert task["required_memory_bytes"] == 300 * MIB
    peak = task["usage"]["peak_memory_bytes"]
    assert 110 * MIB < peak < 160 * MIB
    shown = cluster.run_client("--status", task["task_id"], check=0).stdout
    assert re.search(r"\b1[1-5]\d(\.\d+)? MiB", shown), shown
    assert "300 MiB" in shown


def test_a_task_that_ends_itself_by_sigkill_is_not_out_of_memory(cluster: Cluster) -> None:
    task = cluster.wait(_submit(cluster, "os.kill(os.getpid(), signal.SIGKILL)", 200))
    assert (task["status"], task["exit_code"]) == ("failed", -signal.SIGKILL)
    assert "memory" not in str(task["reason"])


def test_the_limit_holds_again_when_the_runner_has_been_dead(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    script = """
print(os.getpid(), flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
take(200)
stay()
"""
    go = cluster.root / "go"
    task_id = _submit(cluster, script, 100, arguments=[str(go)])
    pid = int(first_line(cluster, task_id))
    cluster.kill("node1")
    go.touch()
    wait_until(lambda: not alive(pid), what="the end of the task without its runner")
    cluster.start_runner("node1")
    _check_out_of_memory(cluster.wait(task_id), 100, most=300)


def test_the_client_tells_of_a_task_out_of_memory(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "grow.py"
    script.write_text(PRELUDE + "take(200); stay()", "utf-8")
    command = ("--target", "node1", "--memory", "100M", "--wait", "--", sys.executable, str(script))
    done = cluster.run_client(*command)
    assert done.returncode not in {0, 2, 3}
    assert "killed_oom" in done.stdout + done.stderr
    (newest,) = cluster.get("/api/tasks?limit=1")["tasks"]
    shown = cluster.run_client("--status", newest["task_id"], check=0).stdout
    assert newest["reason"] in shown
    killed = cluster.get("/api/tasks?state=killed_oom&limit=1000")["tasks"]
    assert newest["task_id"] in {task["task_id"] for task in killed}


def test_no_entry_point_limits_memory_unless_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "take.py"
    script.write_text(PRELUDE + "take(256)", "utf-8")
    command = [sys.executable, str(script)]
    cluster.run_client("--target", "node1", "--wait", "--", *command, check=0)
    (from_the_command_line,) = cluster.get("/api/tasks?limit=1")["tasks"]
    over_http = cluster.run(*command)
    with Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token) as client:
        task = client.run(command, target="node1")
        assert task.result(timeout=60).exit_code == 0
        from_python = cluster.status(task.task_id)
    for task in (from_the_command_line, over_http, from_python):
        assert task["status"] == "completed"
        assert task["required_memory_bytes"] is None


def test_a_size_means_the_same_at_every_entry_point(cluster: Cluster) -> None:
    cluster.run_client("--memory", "512M", "--target", "node1", "--wait", "--", "true", check=0)
    (from_the_command_line,) = cluster.get("/api/tasks?limit=1")["tasks"]
    with Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token) as client:
        task = client.run(["true"], target="node1", memory="512M")
        task.result(timeout=60)
        from_python = cluster.status(task.task_id)
        script = client.run_script("#!/bin/sh\ntrue\n", target="node1", memory="0.5GiB")
        script.result(timeout=60)
        from_a_script = cluster.status(script.task_id)
    for task in (from_the_command_line, from_python, from_a_script):
        assert task["required_memory_bytes"] == 512 * MIB
    shown = cluster.run_client("--status", from_python["task_id"], check=0).stdout
    assert "512 MiB" in shown


@pytest.mark.parametrize("size", ["1X", "-1M", "0", "", "512 Q", "nan"])
def test_a_size_that_is_none_is_a_usage_error(cluster: Cluster, size: str) -> None:
    done = cluster.run_client(f"--memory={size}", "--target", "node1", "--", "true", check=2)
    assert "memory" in done.stderr
    assert "usage" in done.stderr


@pytest.mark.parametrize("limit", [0, -1, "512M", 1.5, True, 1 << 70])
def test_a_memory_limit_that_is_none_is_refused_by_name(cluster: Cluster, limit: object) -> None:
    body = {"command": "true", "targets": ["node1"], "required_memory_bytes": limit}
    reply = cluster.http("POST", "/api/submit", body=body)
    assert reply.status == 422
    named = [error["field"] for error in reply.json()["detail"]]
    # A number past 64 bits is no number to the reader of JSON, who cannot say where it stood.
    assert named in (["required_memory_bytes"], ["body"])
