from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from hakuriver.client.aio import AsyncClient
from hakuriver.sweep.cluster.killing import kill_sweep
from hakuriver.sweep.cluster.options import ClusterOptions
from hakuriver.sweep.cluster.run import ClusterRun
from hakuriver.sweep.journal import read_attempts
from hakuriver.sweep.records import Output
from hakuriver.sweep.sweep import Sweep
from support.harness import ids_in, write_toml
from support.processes import run_hakuriver, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from hakuriver.client.handles import AsyncBatch
    from hakuriver.model.submission import SubmitRequest
    from support.harness import Cluster


#: Runs hakurun up to the moment when the host has its tasks and the journal no id of them.
DIES_BEFORE_IDS = """
import os, sys
from hakuriver.cli.hakurun import main
from hakuriver.sweep.journal import Journal
write = Journal.write
Journal.write = lambda self, line, **more: os._exit(9) if "i" in line else write(self, line, **more)
main(sys.argv[1:])
"""


def hakurun(
    cluster: Cluster, cwd: Path, *args: str, check: int = 0
) -> subprocess.CompletedProcess[str]:
    env = {**cluster.env, "XDG_STATE_HOME": str(cwd / "state")}
    return run_hakuriver("hakurun", *args, env=env, cwd=cwd, check=check, timeout=60)


def begun(cluster: Cluster, cwd: Path, *args: str) -> subprocess.Popen[str]:
    """Start hakurun and leave it running; what it says is to be read from its stderr."""
    return subprocess.Popen(
        [sys.executable, "-m", "hakuriver", "hakurun", *args],
        env={**cluster.env, "XDG_STATE_HOME": str(cwd / "state")},
        cwd=cwd,
        stderr=subprocess.PIPE,
        text=True,
    )


def on(cluster: Cluster, *targets: str) -> list[str]:
    return ["-c", str(cluster.config), *(word for one in targets for word in ("--on", one))]


def tasks_of(cluster: Cluster, sweep_id: str) -> list[dict[str, object]]:
    tasks: list[dict[str, object]] = cluster.get(f"/api/tasks?name={sweep_id}&limit=1000")["tasks"]
    return tasks


def sweep_id_in(cwd: Path) -> str:
    return max(path.stem for path in (cwd / "state" / "hakuriver" / "sweeps").glob("*.jsonl"))


def test_a_sweep_is_spread_over_its_targets(cluster: Cluster, tmp_path: Path) -> None:
    script = 'echo "$1 on $HAKURIVER_NODE $HAKURUN_INDEX"; exit $2'
    done = hakurun(
        cluster,
        tmp_path,
        *on(cluster, "node1:0", "node2"),
        *("sh", "-c", script, "sh", "span:[a,b,c]", "span:{0..1}"),
        check=1,
    )
    lines = sorted(done.stdout.splitlines())
    assert [line.partition(" on ")[0] for line in lines] == [
        "[1 a 0] a",
        "[2 a 1] a",
        "[3 b 0] b",
        "[4 b 1] b",
        "[5 c 0] c",
        "[6 c 1] c",
    ]
    assert {line.split()[-2] for line in lines} == {"node1", "node2"}
    assert [line.split()[-1] for line in lines] == ["1", "2", "3", "4", "5", "6"]
    assert "3 of 6 completed, 3 failed" in done.stderr
    assert "hakurun: failed: [6 c 1] exit code 1" in done.stderr.splitlines()
    records = json.loads(hakurun(cluster, tmp_path, "results", "--json").stdout)
    assert [record["exit_code"] for record in records] == [0, 1, 0, 1, 0, 1]
    tasks = tasks_of(cluster, sweep_id_in(tmp_path))
    assert {record["task_id"] for record in records} == {task["task_id"] for task in tasks}
    assert {record["target"] for record in records} == {"node1:0", "node2"}


def test_functions_scripts_and_files(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "mod.py").write_text("def f(x: int): print('f', x + 1)\n")
    (tmp_path / "s.py").write_text("import sys; print('s', sys.argv[1:])\n")
    more = [*on(cluster, "node1"), "--workdir", str(tmp_path), "--python", sys.executable]
    done = hakurun(cluster, tmp_path, *more, "mod:f", "span:{1..2}")
    assert sorted(done.stdout.splitlines()) == ["[1 1] f 2", "[2 2] f 3"]
    hakurun(cluster, tmp_path, *more, "--out-dir", "out", "s.py", "span:{1..2}", "x y")
    assert (tmp_path / "out" / "2.out").read_text() == "s ['2', 'x y']\n"


def test_after_the_client_was_gone_nothing_runs_twice(cluster: Cluster, tmp_path: Path) -> None:
    """Killed at several moments, also before it knew any id: each combination has one task."""
    ran = tmp_path / "ran"
    script = f"echo $1 >> {ran}; while ! test -e {tmp_path}/go; do sleep 0.05; done; echo out $1"
    command = ["sh", "-c", script, "sh", "span:{1..6}"]
    env = {**cluster.env, "XDG_STATE_HOME": str(tmp_path / "state")}
    journals = tmp_path / "state" / "hakuriver" / "sweeps"

    def text() -> str:
        return "".join(path.read_text() for path in journals.glob("*.jsonl"))

    words = [*on(cluster, "node1", "node2"), *command]
    dies = subprocess.run(
        [sys.executable, "-c", DIES_BEFORE_IDS, *words],
        env=env,
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert dies.returncode == 9
    assert '"i":' not in text()
    # The first one, which the others join.
    assert len(tasks_of(cluster, sweep_id_in(tmp_path))) == 1
    for mark in ('"i":0', '"i":1'):
        process = subprocess.Popen(
            [sys.executable, "-m", "hakuriver", "hakurun", "--resume", *words],
            env=env,
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda mark=mark: mark in text(), interval=0.0005)  # type: ignore[misc]
        process.kill()
        process.wait(timeout=60)
    wait_until(lambda: ran.exists() and len(ran.read_text().split()) >= 2)
    (tmp_path / "go").touch()
    done = hakurun(cluster, tmp_path, "--resume", "-c", str(cluster.config))
    assert "6 of 6 completed" in done.stderr
    assert sorted(ran.read_text().split()) == ["1", "2", "3", "4", "5", "6"]
    tasks = tasks_of(cluster, sweep_id_in(tmp_path))
    assert (len(tasks), len({task["batch_id"] for task in tasks})) == (6, 1)
    records = json.loads(hakurun(cluster, tmp_path, "results", "--json").stdout)
    assert [record["last_line"] for record in records] == [f"out {n}" for n in range(1, 7)]


def test_an_interrupt_leaves_the_tasks_and_failures_end_them(
    cluster: Cluster, tmp_path: Path
) -> None:
    script = f"test $1 = 1 && exit 3; while ! test -e {tmp_path}/go; do sleep 0.05; done"
    command = ["sh", "-c", script, "sh", "span:{1..2}"]
    process = begun(cluster, tmp_path, *on(cluster, "node1", "node2"), *command)
    assert process.stderr is not None
    wait_until(lambda: "failed" in process.stderr.readline())  # type: ignore[union-attr]
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 130
    assert "submitted go on" in said
    wait_until(
        lambda: "running" in {one["status"] for one in tasks_of(cluster, sweep_id_in(tmp_path))}
    )
    again = [*shlex.split(said.split("`")[1])[1:], "-c", str(cluster.config), "--fail-fast"]
    done = hakurun(cluster, tmp_path, *again, check=1)
    assert "stopped after too many failures" in done.stderr
    sweep_id = sweep_id_in(tmp_path)
    wait_until(lambda: all(task["completed_at"] for task in tasks_of(cluster, sweep_id)))
    assert "killed" in {task["status"] for task in tasks_of(cluster, sweep_id)}


def test_what_an_interrupt_left_is_killed_by_one_command(cluster: Cluster, tmp_path: Path) -> None:
    config = ["-c", str(cluster.config)]
    words = [*on(cluster, "node1:0", "node2"), "--name", "nightly"]
    process = begun(cluster, tmp_path, *words, "sleep", "span:{1001..1050}")
    journals = tmp_path / "state" / "hakuriver" / "sweeps"
    wait_until(lambda: any('"i":1' in path.read_text() for path in journals.glob("*.jsonl")))
    refused = hakurun(cluster, tmp_path, "kill", *config, "nightly", check=1)
    assert "sweep nightly is being run" in refused.stderr
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].splitlines()[-1]
    unended = {"pending", "assigning", "running"}

    def statuses() -> list[object]:
        return [task["status"] for task in tasks_of(cluster, sweep_id_in(tmp_path))]

    assert set(statuses()) <= unended
    count = len(statuses())
    assert count > 1
    done = hakurun(cluster, tmp_path, *shlex.split(said.split("`")[3])[1:], *config)
    assert f"hakurun: {count} tasks are being ended of sweep nightly" in done.stderr
    wait_until(lambda: set(statuses()) == {"killed"})
    assert len(statuses()) == count
    again = hakurun(cluster, tmp_path, "kill", *config)
    assert "sweep nightly has no task on the cluster that has not ended" in again.stderr


def test_what_is_being_submitted_at_the_stop_is_not_left_in_doubt(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, taken = AsyncClient.submit_many, threading.Event()
    made: list[AsyncBatch] = []

    async def slow(self: AsyncClient, requests: Iterable[SubmitRequest]) -> list[AsyncBatch]:
        batches = await submit(self, requests)
        made.extend(batches)
        if len(made) == 2:
            taken.set()
            await asyncio.sleep(0.5)
        return batches

    monkeypatch.setattr(AsyncClient, "submit_many", slow)
    options = ClusterOptions(("node1:0", "node2"), config=str(cluster.config))
    journal = tmp_path / "journal.jsonl"
    sweep = Sweep(["sleep", "span:{1001..1002}"], journal=journal, cluster=options)
    running = threading.Thread(target=lambda: list(sweep.events()))
    running.start()
    assert taken.wait(60)
    sweep.cancel()
    running.join(60)
    there = {str(task["task_id"]) for task in tasks_of(cluster, sweep.header.sweep_id)}
    assert len(there) == 2
    assert {one.task_id for one in read_attempts(journal).open.values()} == there
    assert kill_sweep(journal, sweep.header, config=str(cluster.config)) == 2
    wait_until(
        lambda: {task["status"] for task in tasks_of(cluster, sweep.header.sweep_id)} == {"killed"}
    )


def test_a_sweep_is_one_batch_to_list_and_to_end(cluster: Cluster, tmp_path: Path) -> None:
    words = [*on(cluster, "node1:0", "node2"), "sh", "-c", "sleep $1", "sh", "span:[0,1001,1002]"]
    process = begun(cluster, tmp_path, *words)
    journals = tmp_path / "state" / "hakuriver" / "sweeps"
    wait_until(lambda: any('"i":2' in path.read_text() for path in journals.glob("*.jsonl")))
    (batch_id,) = {str(task["batch_id"]) for task in tasks_of(cluster, sweep_id_in(tmp_path))}
    listed = json.loads(
        cluster.run_client("--list-tasks", "--batch", batch_id, "--json", check=0).stdout
    )
    assert len(listed["tasks"]) == 3
    told = cluster.run_client("--kill-batch", batch_id, check=0)
    assert len(ids_in(told.stdout)) >= 2
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "1 of 3 completed, 2 failed" in said


def test_who_goes_on_with_anothers_sweep_has_a_batch_of_his_own(
    cluster: Cluster, tmp_path: Path
) -> None:
    words = ["sh", "-c", f"test -e {tmp_path}/$1", "sh", "span:[a,b,c]"]
    hakurun(cluster, tmp_path, *on(cluster, "node1"), *words, check=1)
    sweep_id = sweep_id_in(tmp_path)
    before = {task["batch_id"] for task in tasks_of(cluster, sweep_id)}
    config = tmp_path / "second.toml"
    write_toml(
        config,
        {
            "network": {"host_port": cluster.port},
            "security.tokens": {"default": cluster.second_token},
        },
    )
    hakurun(cluster, tmp_path, "--resume", "-c", str(config), check=1)
    for name in "abc":
        (tmp_path / name).touch()
    done = hakurun(cluster, tmp_path, "--resume", "-c", str(cluster.config))
    assert "3 of 3 completed" in done.stderr
    batches: dict[object, set[object]] = {}
    for task in tasks_of(cluster, sweep_id):
        batches.setdefault(task["owner"], set()).add(task["batch_id"])
    assert sorted(map(len, batches.values())) == [1, 1]
    # Whoever comes back has his own again.
    assert before in batches.values()


def test_where_its_batch_is_gone_a_sweep_begins_another(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = ClusterRun._note

    def forgetful(self: ClusterRun, *noted: Any) -> Any:
        made = note(self, *noted)
        if len(tasks_of(cluster, sweep.header.sweep_id)) == 1:
            self._batch_id = "5"
        return made

    monkeypatch.setattr(ClusterRun, "_note", forgetful)
    options = ClusterOptions(("node1:0", "node2"), config=str(cluster.config))
    sweep = Sweep(["true", "span:{1..5}"], journal=tmp_path / "journal.jsonl", cluster=options)
    assert [result["exit_code"] for result in sweep.run()] == [0] * 5
    tasks = tasks_of(cluster, sweep.header.sweep_id)
    assert (len(tasks), len({task["batch_id"] for task in tasks})) == (5, 2)


def test_a_sweep_of_this_machine_has_nothing_to_kill(cluster: Cluster, tmp_path: Path) -> None:
    hakurun(cluster, tmp_path, "true")
    done = hakurun(cluster, tmp_path, "kill", check=2)
    assert "it ran here" in done.stderr
    assert "no sweep nosuch" in hakurun(cluster, tmp_path, "kill", "nosuch", check=1).stderr


def test_a_task_that_waits_is_not_said_to_have_started(cluster: Cluster, tmp_path: Path) -> None:
    gate = 'echo $0; until test -e "$0"; do sleep 0.02; done'
    sweep = Sweep(
        ["sh", "-c", f"{gate}; set -- seen; {gate.replace('$0', '$1')}", "waited", "span:{1..2}"],
        journal=tmp_path / "journal.jsonl",
        cluster=ClusterOptions(("node1",), workdir=str(tmp_path), config=str(cluster.config)),
    )
    told: list[tuple[str, int]] = []
    for event in sweep.events():
        told.append((type(event).__name__, event.index))
        if isinstance(event, Output) and event.lines == b"waited\n":
            # Its node has room for one.
            wait_until(lambda: len(tasks_of(cluster, sweep.header.sweep_id)) == 2)
            (tmp_path / "waited").touch()
        elif isinstance(event, Output):
            (tmp_path / "seen").touch()
    assert told[:3] == [("Started", 0), ("Output", 0), ("Output", 0)]
    assert told.count(("Started", 1)) == 1
    assert told.index(("Started", 1)) < told.index(("Output", 1))


def test_a_target_that_cannot_be_is_told_before_anything_runs(
    cluster: Cluster, tmp_path: Path
) -> None:
    done = hakurun(cluster, tmp_path, *on(cluster, "nosuch"), "true", check=1)
    assert "no node nosuch" in done.stderr
    done = hakurun(cluster, tmp_path, *on(cluster, "node1:7"), "true", check=1)
    assert "no NUMA node 7" in done.stderr
    done = hakurun(cluster, tmp_path, *on(cluster, "node1"), "only-on-nodes", check=127)
    assert "not found" in done.stderr
    done = hakurun(cluster, tmp_path, "--cores", "2", "true", check=2)
    assert "goes with --on" in done.stderr


def test_the_client_swept_over_and_a_sweep_as_a_task(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("import sys; print(sys.argv[1]); sys.exit(sys.argv[1] == 'Q')")
    submit = ["hakuriver.client", "-c", str(cluster.config), "--target", "node1", "--cores", "1"]
    done = hakurun(
        cluster, tmp_path, "--parallel", *submit, "--", "python3", "s.py", "span:{1..10}"
    )
    assert len(ids_in(done.stdout)) == 10
    cluster.kill_unfinished()
    hakurun_here = [sys.executable, "-m", "hakuriver", "hakurun"]
    task = cluster.run_client(
        *("--target", "node2", "--workdir", str(tmp_path), "--follow", "--"),
        *(*hakurun_here, "--parallel", "python3", "s.py", "span:{A..Z}"),
    )
    assert task.returncode == 1
    assert len(task.stdout.splitlines()) == 26
    assert "25 of 26 completed, 1 failed" in task.stderr
    assert os.environ.get("HAKURIVER_CORES") is None
