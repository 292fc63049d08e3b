from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.commands import client_json
from support.harness import check_one_line, rows, write_toml

if TYPE_CHECKING:
    from support.harness import Cluster

UNKNOWN = "123456789012345678"
#: Mistakes that are told with the usage, before the host is asked.
MISTAKES = {
    "no action": [],
    "no command": ["--target", "node1", "--"],
    "two actions": ["--list-nodes", "--list-tasks"],
    "an action and a command": ["--list-nodes", "--", "true"],
    "an unknown option": ["--frobnicate"],
    "negative cores": ["--cores", "-1", "--", "true"],
    "cores that are no number": ["--cores", "two", "--", "true"],
    "no size": ["--memory", "1X", "--", "true"],
    "no duration": ["--time-limit", "soon", "--", "true"],
    "no time at all": ["--time-limit", "0", "--", "true"],
    "a bad variable": ["--env", "1BAD=x", "--", "true"],
    "an empty variable": ["--env", "=x", "--", "true"],
    "a bad target": ["--target", "node1:x", "--", "true"],
    "a target with a space": ["--target", "a node", "--", "true"],
    "a negative limit": ["--list-tasks", "--limit", "-1"],
    "an unknown state": ["--list-tasks", "--state", "asleep"],
    "kill-batch without an id": ["--kill-batch"],
    "rerun without an id": ["--rerun"],
    "drain without a name": ["--drain"],
    "resume without a name": ["--resume"],
    "forget without a name": ["--forget"],
    "rerun with a command": ["--rerun", UNKNOWN, "--", "true"],
    "drain with a command": ["--drain", "node1", "--", "true"],
    "mine without a list": ["--mine", "--", "true"],
    "a missing file of variables": ["--env-file", "/no/such/file", "--", "true"],
}


def test_mine_lists_the_tasks_of_the_callers_token_alone(cluster: Cluster) -> None:
    mine = cluster.run("true", name="whose")["task_id"]
    body = {"command": "true", "targets": ["node1"], "name": "whose"}
    reply = cluster.http("POST", "/api/submit", body=body, token=cluster.second_token)
    (hers,) = reply.json()["task_ids"]
    cluster.wait(hers)
    listed = rows(client_json(cluster, "--list-tasks", "--mine", "--name", "whose"), "tasks")
    ids = {task["task_id"] for task in listed}
    assert mine in ids
    assert hers not in ids
    both = cluster.get("/api/tasks?name=whose&limit=1000")["tasks"]
    assert {mine, hers} <= {task["task_id"] for task in both}
    reply = cluster.http("GET", "/api/tasks?mine=1&name=whose", token=cluster.second_token)
    assert hers in {task["task_id"] for task in reply.json()["tasks"]}
    assert {task["owner"] for task in reply.json()["tasks"]} == {"alice"}
    her_file = write_toml(
        cluster.root / "hers.toml",
        {
            "network": {"host_port": cluster.port},
            "security.tokens": {"default": cluster.second_token},
        },
    )
    command = ("-c", str(her_file), "--list-tasks", "--mine", "--name", "whose")
    shown = cluster.run_client(*command, check=0).stdout
    assert hers in shown
    assert mine not in shown


def test_every_query_prints_one_json_document(cluster: Cluster) -> None:
    task = cluster.run("true", name="document")
    queries = (
        *(["--list-nodes"], ["--health"], ["--health", "node1"], ["--list-tasks"]),
        *(["--list-tasks", "--mine"], ["--list-tasks", "--state", "pending"]),
        *(["--list-tasks", "--batch", task["batch_id"]], ["--list-tasks", "--limit", "1"]),
        ["--status", task["task_id"]],
    )
    for query in queries:
        done = cluster.run_client("--json", *query, check=0)
        assert isinstance(json.loads(done.stdout), dict | list), query
        assert done.stderr == "", query


def test_an_error_leaves_stdout_to_json(cluster: Cluster) -> None:
    for query in (["--status", UNKNOWN], ["--kill", UNKNOWN], ["--health", "nosuch"]):
        done = cluster.run_client("--json", *query)
        assert done.returncode not in {0, 2}
        assert done.stdout == ""
        check_one_line(done.stderr, query[1])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_usage_error_exits_2_with_the_usage(cluster: Cluster, mistake: str) -> None:
    before = cluster.get("/api/tasks?limit=1")["tasks"]
    done = cluster.run_client(*MISTAKES[mistake])
    assert done.returncode == 2, done
    assert "usage" in done.stderr.lower()
    assert done.stdout == ""
    assert cluster.get("/api/tasks?limit=1")["tasks"] == before


def test_the_old_option_of_an_interval_is_accepted(cluster: Cluster) -> None:
    command = ("--target", "node1", "--wait", "--poll-interval", "1", "--", "true")
    cluster.run_client(*command, check=0)


def test_a_reader_that_has_seen_enough_is_no_trouble(cluster: Cluster) -> None:
    for args in (("--list-nodes",), ("--list-tasks", "--json"), ("--health",)):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "hakuriver", "client", "-c", str(cluster.config), *args],
            env=cluster.env,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        os.close(write)
        assert done.stderr == b""
        assert done.returncode == 141
