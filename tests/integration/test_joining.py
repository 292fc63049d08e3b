from __future__ import annotations

import json
import os
import re
import shlex
import stat
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.model.auth import runner_token
from support.harness import check_one_line
from support.processes import (
    Daemon,
    clean_environment,
    free_port,
    proc_bytes,
    run_hakuriver,
    wait_until,
)
from support.restarts import tick

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster


def _line(cluster: Cluster, name: str) -> list[str]:
    """Return the words of the line that the head prints for a new node."""
    args = ("token", "-c", str(cluster.config), "--node", name)
    done = run_hakuriver(*args, env=cluster.env, cwd=cluster.root, check=0)
    (line,) = done.stdout.splitlines()
    return shlex.split(line)


def _machine(cluster: Cluster, name: str, words: list[str]) -> Daemon:
    """Return the runner that this line starts on a fresh machine: a home without any file."""
    assert words[0] == "hakuriver.runner"
    home = cluster.root / name / "home"
    cluster.runners[name] = Daemon(
        argv=["runner", *words[1:]],
        env={**clean_environment(home), "PYTHONWARNINGS": "default"},
        cwd=cluster.root / name / "cwd",
        log=cluster.root / f"{name}.log",
    )
    return cluster.runners[name]


def _config_file(cluster: Cluster, name: str) -> Path:
    return cluster.root / name / "home" / ".hakuriver" / f"runner-{name}.toml"


@pytest.fixture
def head(make_cluster: Callable[..., Cluster]) -> Cluster:
    """A host that has no node yet."""
    cluster = make_cluster()
    cluster.start_host()
    return cluster


def _try(cluster: Cluster, name: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a line that must be refused; nothing may be left of it."""
    env = clean_environment(cluster.root / name / "home")
    done = run_hakuriver("runner", *words[1:], env=env, cwd=cluster.root)
    assert done.returncode not in {0, -9}
    assert not _config_file(cluster, name).exists()
    assert cluster.node(name) is None
    return done


def test_the_token_command_prints_one_line_that_can_be_pasted(head: Cluster) -> None:
    words = _line(head, "n3")
    assert words[0] == "hakuriver.runner"
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options == {
        "--join": f"http://127.0.0.1:{head.port}",
        "--name": "n3",
        "--token": runner_token(head.runner_secret, "n3"),
    }


def test_the_token_command_tells_what_it_lacks(head: Cluster, tmp_path: Path) -> None:
    bare = clean_environment(tmp_path / "bare")
    done = run_hakuriver("token", "--node", "n3", env=bare, cwd=tmp_path)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, "hakuriver.init")
    for args in (["token"], ["token", "--node", "no/name"]):
        done = run_hakuriver(*args, "-c", str(head.config), env=head.env, cwd=head.root)
        assert done.returncode == 2
        assert done.stdout == ""


def test_the_pasted_line_makes_a_machine_a_node_that_runs_tasks(head: Cluster) -> None:
    runner = _machine(head, "n3", _line(head, "n3"))
    head.start_runner("n3")
    head.wait_online("n3")
    task = head.run("sh", "-c", "echo on $HAKURIVER_NODE", target="n3")
    assert (task["status"], task["assigned_node"]) == ("completed", "n3")
    assert head.text(task["task_id"]) == "on n3\n"
    runner.check_alive()


def test_a_node_without_a_shared_directory_works_wholly(head: Cluster) -> None:
    _machine(head, "n3", _line(head, "n3"))
    head.start_runner("n3")
    head.wait_online("n3")
    script = "import sys; print(sys.argv[1]); print('trouble', file=sys.stderr); sys.exit(3)"
    task = head.wait(head.script(script, target="n3", arguments=["a b"]))
    assert (task["status"], task["exit_code"]) == ("failed", 3)
    assert head.text(task["task_id"]) == "a b\n"
    assert head.text(task["task_id"], "stderr") == "trouble\n"
    ticking = tick(head, target="n3")
    with head.stream(f"/api/task/{ticking.task_id}/stdout?follow=1&offset=0") as lines:
        ticking.go_on(5)
        ticking.end()
        data = "".join(line.get("data", "") for _, line in lines)
    ticking.check_whole(data.splitlines())
    assert ticking.log.is_relative_to(head.root / "n3" / "home")


def test_a_node_with_a_shared_directory_keeps_its_logs_there(
    make_cluster: Callable[..., Cluster],
) -> None:
    head = make_cluster(shared=True)
    head.start_host()
    words = [*_line(head, "n3"), "--shared-dir", str(head.shared_dir)]
    _machine(head, "n3", words)
    head.start_runner("n3")
    head.wait_online("n3")
    task = head.run("sh", "-c", "echo shared; echo $HAKURIVER_SHARED_DIR", target="n3")
    task_id = task["task_id"]
    assert task["stdout_path"] == str(head.shared_dir / "task_outputs" / f"{task_id}.out")
    assert head.text(task_id) == f"shared\n{head.shared_dir}\n"
    # The host reads it there when the node is away.
    head.runners["n3"].stop()
    wait_until(lambda: head.node_status("n3") == "offline")
    assert head.text(task_id) == f"shared\n{head.shared_dir}\n"


def test_the_joined_runner_keeps_a_private_configuration_of_its_own(head: Cluster) -> None:
    runner = _machine(head, "n3", _line(head, "n3"))
    head.start_runner("n3")
    head.wait_online("n3")
    path = _config_file(head, "n3")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in runner.text()
    content = tomllib.loads(path.read_text("utf-8"))
    assert content["runner"]["name"] == "n3"
    token = runner_token(head.runner_secret, "n3")
    assert content["security"] == {"runner_token": token}
    assert head.runner_secret not in path.read_text("utf-8")
    # Neither its log nor the process list tells the token from now on.
    command = proc_bytes(runner.pid, "cmdline")
    assert os.fsencode(path) in command
    assert token.encode() not in command
    assert token not in runner.text()
    assert token not in head.host.text()


def test_a_joined_node_comes_back_by_its_configuration_and_by_the_line(head: Cluster) -> None:
    words = _line(head, "n3")
    _machine(head, "n3", words)
    head.start_runner("n3")
    head.wait_online("n3")
    before = _config_file(head, "n3").read_bytes()
    ticking = tick(head, target="n3", code=4)
    for argv in (["-c", str(_config_file(head, "n3"))], words[1:]):
        head.kill("n3")
        wait_until(lambda: head.node_status("n3") == "offline")
        head.runners["n3"].argv = ["runner", *argv]
        head.restart("n3")
        assert head.wait(ticking.task_id, "running")
    assert _config_file(head, "n3").read_bytes() == before
    ticking.end()
    assert head.wait(ticking.task_id)["exit_code"] == 4
    ticking.check_whole(head.text(ticking.task_id).splitlines())


def test_another_configuration_is_not_overwritten(head: Cluster) -> None:
    path = _config_file(head, "n3")
    path.parent.mkdir(parents=True)
    path.write_text('[runner]\nname = "mine"\n', "utf-8")
    env = clean_environment(head.root / "n3" / "home")
    done = run_hakuriver("runner", *_line(head, "n3")[1:], env=env, cwd=head.root)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, str(path))
    assert path.read_text("utf-8") == '[runner]\nname = "mine"\n'


def test_the_configuration_can_be_put_elsewhere(head: Cluster) -> None:
    path = head.root / "elsewhere.toml"
    _machine(head, "n3", [*_line(head, "n3"), "-c", str(path)])
    head.start_runner("n3")
    head.wait_online("n3")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not _config_file(head, "n3").exists()


def test_the_token_of_one_node_does_not_make_another(head: Cluster) -> None:
    words = _line(head, "n3")
    words[words.index("--name") + 1] = "n4"
    done = _try(head, "n4", words)
    check_one_line(done.stderr, "token", "n4")
    assert words[-1] not in done.stderr


@pytest.mark.parametrize("kind", ["client", "secret", "wrong"])
def test_no_other_token_joins(head: Cluster, kind: str) -> None:
    words = _line(head, "n3")
    wrong = {"client": head.token, "secret": head.runner_secret, "wrong": "wrong-value"}[kind]
    words[-1] = wrong
    done = _try(head, "n3", words)
    check_one_line(done.stderr, "token")
    assert wrong not in done.stderr
    assert wrong not in head.host.text()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}", "ftp://127.0.0.1", "not-an-address", ""]
)
def test_an_address_where_no_host_is_is_told(head: Cluster, url: str) -> None:
    words = _line(head, "n3")
    url = url.format(port=free_port())
    words[words.index("--join") + 1] = url
    done = _try(head, "n3", words)
    assert url in done.stderr
    assert "Traceback" not in done.stderr


def test_the_check_answers_the_nodes_own_token_alone(head: Cluster) -> None:
    token = runner_token(head.runner_secret, "n3")
    reply = head.http("GET", "/api/runner/check?name=n3", token=token)
    assert reply.status == 200
    told: dict[str, Any] = reply.json()
    assert set(told) == {"node", "cluster_id", "version"}
    assert told["node"] == "n3"
    for name, wrong in (
        ("n4", token),
        ("n3", head.token),
        ("n3", head.runner_secret),
        ("n3", None),
    ):
        assert head.http("GET", f"/api/runner/check?name={name}", token=wrong).status == 401
    assert head.get("/api/nodes")["nodes"] == []


def test_the_token_command_as_json(head: Cluster) -> None:
    args = ("token", "-c", str(head.config), "--node", "n3", "--json")
    done = run_hakuriver(*args, env=head.env, cwd=head.root, check=0)
    assert runner_token(head.runner_secret, "n3") in json.dumps(json.loads(done.stdout))
    assert not re.search(r"\x1b", done.stdout)
