from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from support.harness import ids_in, rows, write_toml
from support.processes import (
    alive,
    check_no_leftovers,
    clean_environment,
    processes_of,
    run_hakuriver,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Embedded:
    """The commands of a user without any configuration, in a home of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = clean_environment(root / "home")
        self.work = root / "work"
        self.work.mkdir()

    def run(self, *args: str, check: int | None = 0) -> str:
        return run_hakuriver(*args, env=self.env, cwd=self.work, check=check).stdout

    def nodes(self) -> list[str]:
        shown = rows(json.loads(self.run("client", "--list-nodes", "--json")), "nodes")
        return sorted(node["hostname"] for node in shown if node["status"] == "online")


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    user = Embedded(tmp_path)
    yield user
    run_hakuriver("down", env=user.env, cwd=user.work)
    check_no_leftovers(tmp_path)


def test_up_is_usable_at_once_and_found_again(
    embedded: Embedded, record_property: Callable[[str, object], None]
) -> None:
    started = time.monotonic()
    shown = embedded.run("up", "--nodes", "2")
    record_property("seconds", time.monotonic() - started)
    assert "http://127.0.0.1:" in shown
    assert embedded.nodes() == ["node1", "node2"]
    before = processes_of(embedded.root)
    again = embedded.run("up", "--nodes", "2")
    assert [word for word in again.split() if "http" in word] == [
        word for word in shown.split() if "http" in word
    ]
    assert processes_of(embedded.root) == before


def test_an_embedded_cluster_runs_tasks_in_the_callers_directory(embedded: Embedded) -> None:
    embedded.run("up")
    assert embedded.nodes() == ["node1"]
    shown = embedded.run("client", "--wait", "--follow", "--", "pwd")
    assert f"{embedded.work}\n" in shown
    seen = embedded.run("client", "--wait", "--follow", "--", "env")
    assert "XDG_STATE_HOME" not in seen


def test_nodes_of_an_embedded_cluster_share_the_cpus(embedded: Embedded) -> None:
    embedded.run("up", "--nodes", "2")
    shown = rows(json.loads(embedded.run("client", "--list-nodes", "--json")), "nodes")
    cpus = [
        cpu for node in shown for numa in node["numa_topology"].values() for cpu in numa["cores"]
    ]
    count = os.cpu_count() or 1
    if count > 1:
        assert len(cpus) == len(set(cpus)) == count


def test_the_runtime_files_are_private_and_down_removes_them(embedded: Embedded) -> None:
    embedded.run("up")
    files = [path for path in (embedded.root / "home").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert embedded.run("client", "--list-nodes", "--json")
    embedded.run("down")
    assert processes_of(embedded.root) == {}
    done = run_hakuriver("client", "--list-nodes", env=embedded.env, cwd=embedded.work)
    assert done.returncode != 0
    assert "hakuriver up" in done.stderr


def test_down_ends_running_tasks_and_leaves_no_process(embedded: Embedded) -> None:
    embedded.run("up", "--nodes", "2")
    script = "setsid sleep 300 & sleep 300"
    shown = embedded.run("client", "--target", "node1", "--", "sh", "-c", script)
    assert ids_in(shown)
    embedded.run("down")
    assert processes_of(embedded.root) == {}


def test_down_when_nothing_runs_and_up_again_after_down(embedded: Embedded) -> None:
    run_hakuriver("down", env=embedded.env, cwd=embedded.work)
    embedded.run("up")
    first = ids_in(embedded.run("client", "--wait", "--", "true"))
    embedded.run("down")
    embedded.run("up")
    shown = rows(json.loads(embedded.run("client", "--list-tasks", "--json")), "tasks")
    assert shown[0]["task_id"] in first


def test_up_brings_back_a_host_and_runners_that_died(embedded: Embedded) -> None:
    url = embedded.run("up", "--nodes", "2").split()[6]
    command = ("--target", "node2", "--", "sh", "-c", "echo begun; sleep 3; echo over; exit 5")
    (task,) = ids_in(embedded.run("client", *command))
    (file,) = embedded.root.rglob("embedded.json")
    facts = json.loads(file.read_text())
    wait_until(lambda: "begun" in embedded.run("client", "--logs", task), what="the first line")
    host, _, second = facts["daemons"]
    for daemon in (host, second):
        os.kill(daemon["pid"], signal.SIGKILL)
    wait_until(lambda: not alive(host["pid"]) and not alive(second["pid"]), what="their deaths")
    assert url in embedded.run("up")
    shown = json.loads(embedded.run("client", "--list-nodes", "--json"))
    assert [node["status"] for node in rows(shown, "nodes")] == ["online", "online"]

    def status() -> tuple[str, object]:
        view = json.loads(embedded.run("client", "--status", task, "--json"))
        return view["status"], view["exit_code"]

    wait_until(lambda: status() == ("failed", 5), what="the true end")
    assert embedded.run("client", "--logs", task) == "begun\nover\n"


def test_down_purge_forgets_everything(embedded: Embedded) -> None:
    embedded.run("up")
    embedded.run("client", "--wait", "--", "true")
    embedded.run("down", "--purge")
    state = embedded.root / "home" / "state" / "hakuriver" / "embedded"
    assert not state.exists() or not list(state.iterdir())


def test_an_embedded_cluster_takes_the_keys_of_its_file(embedded: Embedded) -> None:
    keys: dict[str, dict[str, object]] = {
        "runner": {"memory": "256M"},
        "timing": {"kill_grace": 0.2},
    }
    embedded.run("up", "-c", str(write_toml(embedded.root / "config.toml", keys)))
    shown = rows(json.loads(embedded.run("client", "--list-nodes", "--json")), "nodes")
    assert [node["memory_total_bytes"] for node in shown] == [256 << 20]
    # It tells when it was asked to end, and does not.
    script = "trap 'date +%s.%N' TERM; echo ready; while :; do sleep 0.02; done"
    submitted = embedded.run("client", "--json", "--", "sh", "-c", script)
    (task_id,) = json.loads(submitted)["task_ids"]
    wait_until(lambda: "ready" in embedded.run("client", "--logs", task_id), what="its first line")
    embedded.run("client", "--kill", task_id)

    def ended() -> Any:
        task = json.loads(embedded.run("client", "--status", task_id, "--json"))
        return task if task["completed_at"] else None

    task = wait_until(ended, what="its end")
    assert task["exit_code"] == -9
    _, asked = embedded.run("client", "--logs", task_id).splitlines()
    end = datetime.fromisoformat(task["completed_at"]).timestamp()
    assert end - float(asked) < 4, "it had the five seconds that it has without the file"


STARTER = """
import sys
from hakuriver import embedded
print(embedded.up().url, flush=True)
sys.stdin.read()
"""


def test_down_is_quick_while_whoever_started_it_lives(embedded: Embedded) -> None:
    # Such as a notebook's kernel, whose children the daemons are: it collects them never.
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER],
        env=embedded.env,
        cwd=embedded.work,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert starter.stdout is not None
        assert starter.stdout.readline().startswith(b"http://")
        started = time.monotonic()
        embedded.run("down")
        # Waiting until they are collected, before and after a SIGKILL, takes twenty seconds.
        assert time.monotonic() - started < 18
    finally:
        starter.communicate(timeout=60)
