from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.commands import client_json
from support.harness import check_one_line, ids_in

if TYPE_CHECKING:
    from support.harness import Cluster

UNKNOWN = "123456789012345678"


def test_rerun_makes_one_new_task_of_the_same_kind(cluster: Cluster) -> None:
    script = "echo $HAKURIVER_NODE; exit 4"
    old = cluster.run("sh", "-c", script, target="node2", name="again", time_limit_seconds=50)
    done = cluster.run_client("--rerun", old["task_id"], check=0)
    found = [task_id for task_id in ids_in(done.stdout) if task_id != old["task_id"]]
    tasks = [i for i in found if cluster.http("GET", f"/api/status/{i}").status == 200]
    (task_id,) = tasks
    new = cluster.wait(task_id, "failed")
    assert new["retry_of"] == old["task_id"]
    assert new["batch_id"] != old["batch_id"]
    same = (
        *("command", "arguments", "name", "assigned_node", "exit_code", "time_limit_seconds"),
        *("required_cores", "required_memory_bytes", "working_directory", "owner"),
    )
    assert {key: new[key] for key in same} == {key: old[key] for key in same}
    assert cluster.text(task_id) == "node2\n"
    assert cluster.status(old["task_id"]) == old


def test_rerun_of_a_script_runs_the_same_script(cluster: Cluster) -> None:
    script = "import sys; print('again', sys.argv[1:])"
    old = cluster.script(script, arguments=["a b", ""])
    cluster.wait(old, "completed")
    done = cluster.run_client("--rerun", old, "--wait", "--follow", check=0)
    assert "again ['a b', '']\n" in done.stdout


def test_rerun_waits_and_exits_with_the_code_of_the_new_task(cluster: Cluster) -> None:
    old = cluster.run("sh", "-c", "echo once more; exit 9")["task_id"]
    done = cluster.run_client("--rerun", old, "--wait", "--follow", check=9)
    assert "once more\n" in done.stdout


def test_rerun_of_a_task_with_variables_wants_them_again(cluster: Cluster) -> None:
    command = ("sh", "-c", 'echo "<$SECRET>"')
    old = cluster.run(*command, env_vars={"SECRET": "first"})["task_id"]
    reply = cluster.http("POST", f"/api/rerun/{old}")
    assert reply.status == 422
    assert "env_vars" in str(reply.json()["detail"])
    done = cluster.run_client("--rerun", old)
    assert done.returncode not in {0, 3}
    assert "SECRET" in done.stderr or "--env" in done.stderr
    assert cluster.unfinished() == []
    again = ("--rerun", old, "--env", "SECRET=second", "--wait", "--follow")
    assert "<second>\n" in cluster.run_client(*again, check=0).stdout


def test_rerun_takes_the_variables_from_the_environment_and_from_files(
    cluster: Cluster,
) -> None:
    old = cluster.run("sh", "-c", 'echo "<$A$B>"', env_vars={"A": "1", "B": "2"})["task_id"]
    file = cluster.root / "variables"
    file.write_text("B=from the file\n", "utf-8")
    again = ("--rerun", old, "--env", "A", "--env-file", str(file), "--wait", "--follow")
    done = cluster.run_client(*again, env={"A": "taken, "}, check=0)
    assert "<taken, from the file>\n" in done.stdout


def test_rerun_of_an_unfinished_task_is_a_conflict(cluster: Cluster) -> None:
    running = cluster.submit("sleep", "60")
    cluster.wait(running, "running")
    waiting = cluster.submit("sleep", "60")
    for task_id in (running, waiting):
        assert cluster.http("POST", f"/api/rerun/{task_id}").status == 409
        done = cluster.run_client("--rerun", task_id)
        assert done.returncode not in {0, 2}
        check_one_line(done.stderr, task_id)
    assert {task["task_id"] for task in cluster.unfinished()} == {running, waiting}


@pytest.mark.parametrize("task_id", [UNKNOWN, "abc", "0", "9" * 25])
def test_rerun_of_an_unknown_task_is_told_with_its_id(cluster: Cluster, task_id: str) -> None:
    assert cluster.http("POST", f"/api/rerun/{task_id}").status == 404
    done = cluster.run_client("--rerun", task_id)
    assert done.returncode != 0
    assert task_id in done.stderr


def test_rerun_prints_json_alone(cluster: Cluster) -> None:
    old = cluster.run("true")["task_id"]
    document = client_json(cluster, "--rerun", old)
    (task_id,) = document["task_ids"]
    assert cluster.wait(task_id)["retry_of"] == old


def test_rerun_without_the_queue_is_refused_where_it_would_wait(cluster: Cluster) -> None:
    old = cluster.run("true")["task_id"]
    busy = cluster.submit("sleep", "60")
    cluster.wait(busy, "running")
    done = cluster.run_client("--rerun", old, "--no-queue")
    assert done.returncode not in {0, 2}
    assert "node1" in done.stderr
    assert [task["task_id"] for task in cluster.unfinished()] == [busy]
