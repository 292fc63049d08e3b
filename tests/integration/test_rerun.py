from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.harness import ids_in

if TYPE_CHECKING:
    from support.harness import Cluster


def _rerun(cluster: Cluster, task_id: str, body: object = None) -> Any:
    reply = cluster.post(f"/api/rerun/{task_id}", body)
    assert reply["failed_targets"] == []
    (again,) = reply["task_ids"]
    assert again != task_id
    return cluster.status(again)


def test_a_rerun_is_a_new_task_of_the_same_command(cluster: Cluster) -> None:
    more = {"name": "twice", "working_directory": "/tmp", "cores": 0}
    first = cluster.run("sh", "-c", "pwd; exit 3", target="node2", **more)
    again = cluster.wait(_rerun(cluster, first["task_id"])["task_id"])
    assert again["retry_of"] == first["task_id"]
    assert again["batch_id"] != first["batch_id"]
    for key in ("command", "arguments", "name", "working_directory", "required_cores"):
        assert again[key] == first[key]
    assert (again["assigned_node"], again["exit_code"]) == ("node2", 3)
    assert cluster.text(again["task_id"]) == cluster.text(first["task_id"]) == "/tmp\n"
    assert cluster.status(first["task_id"]) == first, "the first one is as it was"


def test_a_rerun_needs_no_body(cluster: Cluster) -> None:
    first = cluster.run("true")["task_id"]
    bodies: tuple[object, ...] = (None, {}, b"")
    for body in bodies:
        task = cluster.wait(_rerun(cluster, first, body)["task_id"])
        assert (task["status"], task["retry_of"]) == ("completed", first)


def test_a_rerun_of_a_rerun_points_to_the_one_before(cluster: Cluster) -> None:
    first = cluster.run("true")["task_id"]
    second = cluster.wait(_rerun(cluster, first)["task_id"])["task_id"]
    third = _rerun(cluster, second)
    assert third["retry_of"] == second


def test_a_script_is_run_again(cluster: Cluster) -> None:
    first = cluster.wait(
        cluster.script("import sys; print('again', sys.argv[1])", arguments=["x y"])
    )
    again = cluster.wait(_rerun(cluster, first["task_id"])["task_id"])
    assert cluster.text(again["task_id"]) == "again x y\n"
    assert again["command"] == first["command"]


def test_a_task_without_a_target_is_placed_anew(cluster: Cluster) -> None:
    (first,) = cluster.submit_batch("true", targets=None)["task_ids"]
    node = cluster.wait(first)["assigned_node"]
    held = cluster.submit("sleep", "60", target=node)
    cluster.wait(held, "running")
    again = cluster.wait(_rerun(cluster, first)["task_id"])
    assert again["status"] == "completed"
    assert again["assigned_node"] != node


def test_an_unfinished_task_cannot_be_run_again(cluster: Cluster) -> None:
    running = cluster.submit("sleep", "60")
    cluster.wait(running, "running")
    waiting = cluster.submit("true")
    for task_id in (running, waiting):
        reply = cluster.http("POST", f"/api/rerun/{task_id}")
        assert reply.status == 409
        assert reply.json()["detail"]
    assert len(cluster.unfinished()) == 2


def test_an_unknown_task_cannot_be_run_again(cluster: Cluster) -> None:
    for unknown in ("1", "nonsense", "9" * 30):
        reply = cluster.http("POST", f"/api/rerun/{unknown}")
        assert reply.status == 404
        assert reply.json()["detail"]


def test_erased_values_must_be_given_again(cluster: Cluster) -> None:
    script = "import os; print(os.environ['A'], os.environ.get('B'))"
    env_vars = {"A": "secret-a", "B": "secret-b"}
    first = cluster.wait(cluster.script(script, env_vars=env_vars))["task_id"]
    for body in (None, {}, {"env_vars": None}):
        reply = cluster.http("POST", f"/api/rerun/{first}", body=body)
        assert reply.status == 422, body
        assert "env_vars" in str(reply.json())
        assert "again" in str(reply.json())
        assert "secret" not in str(reply.json())
    again = cluster.wait(_rerun(cluster, first, {"env_vars": {"A": "1", "B": "2"}})["task_id"])
    assert cluster.text(again["task_id"]) == "1 2\n"
    assert set(again["env_vars"]) == {"A", "B"}


@pytest.mark.parametrize("body", [[], {"unknown": 1}, {"env_vars": {"1A": "x"}}, {"queue": "no"}])
def test_a_body_that_is_no_rerun_is_refused(cluster: Cluster, body: object) -> None:
    first = cluster.run("true")["task_id"]
    reply = cluster.http("POST", f"/api/rerun/{first}", body=body)
    assert reply.status == 422
    assert reply.json()["detail"]


def test_a_rerun_without_the_queue_is_refused_on_a_busy_node(cluster: Cluster) -> None:
    first = cluster.run("true")["task_id"]
    cluster.wait(cluster.submit("sleep", "60"), "running")
    reply = cluster.http("POST", f"/api/rerun/{first}", body={"queue": False})
    assert 400 <= reply.status < 500 or reply.status == 503
    assert "free" in str(reply.json())
    assert _rerun(cluster, first)["status"] == "pending"


def test_the_owner_of_a_rerun_is_who_asked_for_it(cluster: Cluster) -> None:
    first = cluster.run("true")["task_id"]
    reply = cluster.http("POST", f"/api/rerun/{first}", token=cluster.second_token)
    assert reply.status == 202
    assert cluster.status(reply.json()["task_ids"][0])["owner"] == "alice"


def test_the_command_runs_a_task_again_and_waits(cluster: Cluster) -> None:
    command = (sys.executable, "-c", "import os; print(os.environ.get('A')); raise SystemExit(5)")
    first = cluster.run(*command, env_vars={"A": "1"})["task_id"]
    done = cluster.run_client("--rerun", first)
    assert done.returncode not in {0, 5}
    assert "env" in done.stderr
    done = cluster.run_client("--rerun", first, "--env", "A=2", "--wait", "--follow", check=5)
    assert "2\n" in done.stdout
    (again,) = [i for i in ids_in(done.stdout + done.stderr) if i != first][:1]
    shown = json.loads(cluster.run_client("--status", again, "--json", check=0).stdout)
    assert shown["retry_of"] == first
    assert first in cluster.run_client("--status", again, check=0).stdout
