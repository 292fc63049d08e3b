from __future__ import annotations

import json
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from support.harness import PRIVATE_VARIABLE
from support.processes import pids, proc_bytes, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.harness import Cluster

AFFINITY = "import json, os; print(json.dumps(sorted(os.sched_getaffinity(0))))"


def _environment(cluster: Cluster, **more: object) -> dict[str, str]:
    task_id = cluster.submit("/usr/bin/env", "-0", **more)  # type: ignore[arg-type]
    assert cluster.wait(task_id)["status"] == "completed"
    pairs = cluster.text(task_id).rstrip("\0").split("\0")
    return {"_ID": task_id, **dict(pair.split("=", 1) for pair in pairs)}


def test_a_task_sees_the_variables_that_it_is_promised(cluster: Cluster) -> None:
    seen = _environment(cluster, env_vars={"GIVEN": "a 'b' $c\nd"})
    task = cluster.status(seen["_ID"])
    assert seen["GIVEN"] == "a 'b' $c\nd"
    assert seen["LANG"] == "C.UTF-8"
    assert seen["PYTHONUNBUFFERED"] == "1"
    assert seen["HAKURIVER_TASK_ID"] == task["task_id"]
    assert seen["HAKURIVER_BATCH_ID"] == task["batch_id"]
    assert seen["HAKURIVER_BATCH_SIZE"] == "1"
    assert seen["HAKURIVER_NODE"] == "node1"
    assert seen["HAKURIVER_CORES"] == "1"
    assert "HAKURIVER_TARGET_NUMA_NODE" not in seen
    for name in ("HOME", "USER", "PATH"):
        assert seen[name]
    assert Path(seen["TMPDIR"]).is_dir()


def test_a_task_sees_nothing_of_the_runners_own(cluster: Cluster) -> None:
    seen = _environment(cluster)
    allowed = {"HOME", "USER", "PATH", "LANG", "TMPDIR", "PYTHONUNBUFFERED", "_ID"}
    ours = {"TASK_ID", "BATCH_ID", "BATCH_INDEX", "BATCH_SIZE", "NODE", "SHARED_DIR"}
    ours |= {"LOCAL_TEMP_DIR", "CORES"}
    allowed |= {f"HAKURIVER_{name}" for name in ours}
    extra = {name for name in seen if not name.endswith("_THREADS")} - allowed
    assert extra <= {"LOGNAME", "SHELL"}, extra
    assert PRIVATE_VARIABLE not in seen
    values = "\n".join(seen.values())
    for secret in (cluster.token, cluster.runner_secret, cluster.private_value):
        assert secret not in values


def test_threads_follow_the_cores_unless_given(cluster: Cluster) -> None:
    assert _environment(cluster)["OMP_NUM_THREADS"] == "1"
    assert _environment(cluster, env_vars={"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    assert "OMP_NUM_THREADS" not in _environment(cluster, cores=0)


def test_the_tasks_of_a_batch_are_numbered(cluster: Cluster) -> None:
    reply = cluster.submit_batch("/usr/bin/env", targets=["node1", "node2"], cores=0)
    numbers: set[str] = set()
    for task_id in reply["task_ids"]:
        cluster.wait(task_id, "completed")
        text = cluster.text(task_id)
        assert "HAKURIVER_BATCH_SIZE=2\n" in text
        found = re.search(r"^HAKURIVER_BATCH_INDEX=(\d+)$", text, re.MULTILINE)
        assert found
        numbers.add(found[1])
    assert numbers == {"0", "1"}


def test_a_task_runs_on_the_cpus_that_it_was_given(cluster: Cluster) -> None:
    for node, cpus in cluster.nodes.items():
        task = cluster.run(sys.executable, "-c", AFFINITY, target=node)
        assert json.loads(cluster.output(task["task_id"])) == task["cpus"] == [int(cpus)]


def test_a_task_starts_with_clean_signals_descriptors_and_an_empty_input(
    cluster: Cluster,
) -> None:
    script = "cat; exec grep -E '^Sig(Blk|Ign)' /proc/self/status"
    task = cluster.run("sh", "-c", script)
    assert task["status"] == "completed"
    # Signals 32 and 33 are the C library's own: its posix_spawn leaves them ignored for ever.
    own = ~(0b11 << 31)
    masks = dict(line.split() for line in cluster.text(task["task_id"]).splitlines())
    assert {name: int(mask, 16) & own for name, mask in masks.items()} == {
        "SigBlk:": 0,
        "SigIgn:": 0,
    }
    # The fourth is the folder that is being listed.
    task = cluster.run("ls", "/proc/self/fd")
    assert cluster.text(task["task_id"]).split() == ["0", "1", "2", "3"]


def test_the_command_line_passes_variables_and_files_of_them(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "variables"
    file.write_text("# a comment\nFROM_FILE=in a file\n", "utf-8")
    done = cluster.run_client(
        *("--env", "GIVEN=a=b", "--env", "TAKEN", "--env-file", str(file)),
        *("--target", "node1", "--wait", "--follow", "--", "/usr/bin/env"),
        env={"TAKEN": "from the caller"},
        check=0,
    )
    for line in ("GIVEN=a=b", "TAKEN=from the caller", "FROM_FILE=in a file"):
        assert line in done.stdout.splitlines()


def test_a_long_path_to_the_state_directory_does_no_harm(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    cluster = make_cluster(nodes={"node1": "0"}, settings={"paths": {"state_dir": str(deep)}})
    cluster.start()
    assert cluster.run("true")["status"] == "completed"


def test_each_task_has_a_directory_of_its_own_by_default(cluster: Cluster) -> None:
    one, two = (cluster.text(cluster.run("pwd")["task_id"]) for _ in range(2))
    assert one != two
    assert Path(one.strip()).is_relative_to(cluster.root)


def test_a_working_directory_can_be_named(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "with space ü"
    folder.mkdir()
    task = cluster.run("pwd", working_directory=str(folder))
    assert cluster.text(task["task_id"]) == f"{folder}\n"
    assert task["working_directory"] == str(folder)
    command = ("--workdir", str(folder), "--wait", "--follow", "--", "pwd")
    assert f"{folder}\n" in cluster.run_client("--target", "node2", *command, check=0).stdout


def test_a_working_directory_that_is_missing_fails_the_task_by_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    missing = str(tmp_path / "nowhere")
    task = cluster.run("pwd", working_directory=missing)
    assert task["status"] == "failed"
    assert missing in f"{task['reason']} {task['error_message']}"


def test_a_shared_directory_holds_work_scripts_and_logs(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(shared=True)
    cluster.start()
    seen = _environment(cluster)
    assert seen["HAKURIVER_SHARED_DIR"] == str(cluster.shared_dir)
    task = cluster.run("pwd", target="node2")
    task_id = task["task_id"]
    assert cluster.text(task_id) == f"{cluster.shared_dir}\n"
    log = cluster.shared_dir / "task_outputs" / f"{task_id}.out"
    assert task["stdout_path"] == str(log)
    assert log.read_text("utf-8") == f"{cluster.shared_dir}\n"
    assert (cluster.shared_dir / "task_errors" / f"{task_id}.err").read_bytes() == b""


def test_a_log_in_a_shared_directory_can_be_read_without_its_runner(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(shared=True)
    cluster.start()
    task_id = cluster.run("echo", "kept", target="node2")["task_id"]
    cluster.runners["node2"].stop()
    wait_until(lambda: cluster.node_status("node2") == "offline")
    assert cluster.text(task_id) == "kept\n"
    assert cluster.output(task_id, "stdout", "?tail=1") == b"kept\n"


def test_the_values_of_variables_are_masked_in_every_view(cluster: Cluster) -> None:
    value = secrets.token_hex(16)
    with cluster.stream("/api/events") as live:
        assert next(live)[1]["rev"] >= 0
        task_id = cluster.submit("sleep", "60", env_vars={"SECRET": value})
        events: list[str] = []
        for _, event in live:
            events.append(json.dumps(event))
            if event.get("task", {}).get("status") == "running":
                break
    views = [
        json.dumps(cluster.status(task_id)),
        json.dumps(cluster.get("/api/tasks?limit=1000")),
        cluster.run_client("--status", task_id, check=0).stdout,
        cluster.run_client("--status", task_id, "--json", check=0).stdout,
        cluster.run_client("--list-tasks", "--json", check=0).stdout,
        *events,
    ]
    assert not [view for view in views if value in view]
    assert list(cluster.status(task_id)["env_vars"]) == ["SECRET"]


def test_the_values_of_variables_are_in_no_process_but_the_task(cluster: Cluster) -> None:
    value = secrets.token_hex(16)
    task_id = cluster.submit("sh", "-c", "echo $$; exec sleep 60", env_vars={"SECRET": value})
    cluster.wait(task_id, "running")
    with cluster.stream(f"/api/task/{task_id}/stdout?follow=1&offset=0") as lines:
        own = int(next(line["data"] for _, line in lines if "data" in line))
    for pid in pids():
        assert value.encode() not in proc_bytes(pid, "cmdline"), pid
        assert pid == own or value.encode() not in proc_bytes(pid, "environ"), pid
    assert value.encode() in proc_bytes(own, "environ")


def test_tokens_are_in_no_process_list(cluster: Cluster) -> None:
    lines = b"\n".join(proc_bytes(pid, "cmdline") for pid in pids())
    for secret in (cluster.token, cluster.second_token, cluster.runner_secret):
        assert secret.encode() not in lines


def test_the_store_and_the_journal_forget_the_values_of_ended_tasks(
    fresh_cluster: Cluster,
) -> None:
    value = secrets.token_hex(16).encode()
    fresh_cluster.run("true", env_vars={"SECRET": value.decode()})
    fresh_cluster.stop()
    for path in fresh_cluster.root.rglob("*"):
        if path.is_file():
            assert value not in path.read_bytes(), path
