from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from support.harness import FINAL, ids_in
from support.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.harness import Cluster


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ("exit 0", "completed", 0),
        ("exit 4", "failed", 4),
        ("exit 255", "failed", 255),
        ("exit 139", "failed", 139),
        ("kill -SEGV $$", "failed", -11),
        ("kill -KILL $$", "failed", -9),
        ("kill -TERM $$", "failed", -15),
    ],
)
def test_the_exit_code_is_the_programs_own(
    cluster: Cluster, script: str, status: str, code: int
) -> None:
    task = cluster.run("sh", "-c", script)
    assert (task["status"], task["exit_code"]) == (status, code)
    assert bool(task["reason"]) == (status != "completed")


def test_a_missing_program_fails_with_127_and_its_name(cluster: Cluster) -> None:
    for program in ("no-such-program-anywhere", "/no/such/program"):
        task = cluster.run(program)
        assert (task["status"], task["exit_code"]) == ("failed", 127)
        assert program in task["reason"]


def test_a_program_that_cannot_be_executed_fails_with_its_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "data.txt"
    path.write_text("no program", "utf-8")
    task = cluster.run(str(path))
    assert task["status"] == "failed"
    assert task["exit_code"] != 0
    assert str(path) in task["reason"]


def test_wait_exits_0_when_the_task_completed(cluster: Cluster) -> None:
    done = cluster.run_client("--target", "node1", "--wait", "--", "true", check=0)
    lines = (done.stdout + done.stderr).splitlines()
    assert any("completed" in line for line in lines)


@pytest.mark.parametrize(("script", "code"), [("exit 4", 4), ("exit 255", 255)])
def test_wait_exits_with_the_code_of_a_single_task(
    cluster: Cluster, script: str, code: int
) -> None:
    cluster.run_client("--target", "node1", "--wait", "--", "sh", "-c", script, check=code)


def test_wait_exits_non_zero_for_every_other_end(cluster: Cluster) -> None:
    wait = ("--target", "node1", "--wait", "--")
    cluster.run_client(*wait, "no-such-program-anywhere", check=127)
    assert cluster.run_client(*wait, "sh", "-c", "kill -SEGV $$").returncode != 0
    both = ("--target", "node1", "--target", "node2", "--wait", "--")
    fails_on_node2 = 'test "$HAKURIVER_NODE" = node1'
    done = cluster.run_client(*both, "sh", "-c", fails_on_node2)
    assert done.returncode not in {0, 2, 3}
    cluster.run_client(*both, "true", check=0)


def test_wait_tells_each_change_of_state_in_one_line(cluster: Cluster) -> None:
    done = cluster.run_client("--target", "node1", "--wait", "--", "sleep", "0.3", check=0)
    lines = (done.stdout + done.stderr).splitlines()
    states = Counter(
        state for line in lines for state in ("running", *FINAL) if state in line.split()
    )
    assert states["completed"] == 1
    assert states["running"] <= 1


def test_wait_for_a_task_that_is_killed_exits_non_zero(cluster: Cluster) -> None:
    client = cluster.start_client("--target", "node1", "--wait", "--", "sleep", "60")
    (task,) = wait_until(cluster.unfinished)
    cluster.wait(task["task_id"], "running")
    assert cluster.http("POST", f"/api/kill/{task['task_id']}").status == 202
    out, err = client.communicate(timeout=60)
    assert client.returncode not in {0, 2}
    assert b"killed" in out + err


def test_an_interrupt_ends_the_wait_and_not_the_task(cluster: Cluster) -> None:
    client = cluster.start_client("--target", "node1", "--wait", "--", "sleep", "60")
    (task,) = wait_until(cluster.unfinished)
    # It knows of its task, and waits for it.
    assert client.stdout is not None
    assert any(b"running" in line for line in client.stdout)
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=60)
    assert client.returncode == 130
    assert b"Traceback" not in err
    assert task["task_id"] in ids_in((out + err).decode())
    assert "--" in err.decode(), "it says how to come back"
    assert cluster.status(task["task_id"])["status"] == "running"


def test_the_old_poll_interval_is_accepted(cluster: Cluster) -> None:
    command = ("--target", "node1", "--wait", "--poll-interval", "2", "--", "true")
    cluster.run_client(*command, check=0)
