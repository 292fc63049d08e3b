from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.harness import Cluster, check_one_line, ids_in
from support.looks import at_the_gate, first_line
from support.processes import alive, wait_until
from support.streams import open_stream, wish

if TYPE_CHECKING:
    from collections.abc import Iterator

#: In days; 0.9 seconds.
SOON = 0.00001
SCRIPT = "import os; open('own-file', 'w').write('x'); print(os.getcwd(), flush=True)\n"
#: Lets a task go on until there is the file of its argument: what has ended may soon be gone.
GATED = f"{SCRIPT}import sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)\n"


Keeping = Callable[..., Cluster]


@pytest.fixture(scope="module")
def _clusters() -> Iterator[dict[str, Cluster]]:
    made: dict[str, Cluster] = {}
    yield made
    for cluster in made.values():
        cluster.stop()
        cluster.check_logs()


@pytest.fixture
def keeping(
    _clusters: dict[str, Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keeping]:
    """Give a cluster that keeps tasks and logs as long as it is told; tests share each kind."""

    def give(*, shared: bool = False, **days: float) -> Cluster:
        kind = f"{shared} {days}"
        if kind not in _clusters:
            settings: dict[str, Any] = {
                "retention": {"keep_tasks_days": 0, "keep_logs_days": 0, **days},
                "timing": {"cleanup_check_interval": 0.2},
            }
            root = tmp_path_factory.mktemp("keeping")
            _clusters[kind] = Cluster(root, shared=shared, settings=settings)
            _clusters[kind].start()
        return _clusters[kind]

    yield give
    for cluster in _clusters.values():
        cluster.after_test()


def _files(cluster: Cluster, task_id: str) -> list[str]:
    """Return what under the cluster's folder is called after a task, or lies in such a folder."""
    paths = [
        os.path.join(folder, name)  # noqa: PTH118 - rglob fails when a folder vanishes meanwhile
        for folder, folders, files in os.walk(cluster.root)
        for name in (*folders, *files)
    ]
    return sorted(path for path in paths if task_id in path)


def _wait_gone(cluster: Cluster, task_id: str) -> None:
    """Wait until nothing that is called after a task is left."""
    wait_until(lambda: not _files(cluster, task_id), what=f"files of {task_id} gone", interval=0.1)


def _has_gone(cluster: Cluster, task_id: str) -> bool:
    return cluster.http("GET", f"/api/status/{task_id}").status == 404


def _come_and_gone(cluster: Cluster, **more: Any) -> str:
    """Run a task to its end and wait until its row is removed; return its id."""
    task_id = cluster.submit("true", **more)
    wait_until(lambda: _has_gone(cluster, task_id), what="row gone")
    return task_id


def _ended(cluster: Cluster, **more: Any) -> Any:
    """Run a script that leaves a file in its own folder; check that all of it is there."""
    task = cluster.wait(cluster.script(SCRIPT, **more))
    assert task["status"] == "completed"
    return task


def test_logs_scripts_and_own_folders_go_when_their_time_is_over(
    keeping: Keeping, tmp_path: Path
) -> None:
    cluster = keeping(keep_logs_days=SOON)
    before = cluster.run("true")
    task_id = cluster.script(GATED, arguments=[str(tmp_path / "gate")])
    folder = Path(first_line(cluster, task_id))
    assert (folder / "own-file").exists()
    assert len(_files(cluster, task_id)) >= 4, "stdout, stderr, script and folder"
    (tmp_path / "gate").touch()
    cluster.wait(task_id, "completed")
    _wait_gone(cluster, task_id)
    _wait_gone(cluster, before["task_id"])
    assert not folder.exists()
    assert cluster.status(task_id)["status"] == "completed"
    assert task_id in {task["task_id"] for task in cluster.get("/api/tasks")["tasks"]}
    assert cluster.run("true")["status"] == "completed"


def test_a_log_that_was_removed_is_told_as_such_and_never_a_fault(
    keeping: Keeping,
) -> None:
    cluster = keeping(keep_logs_days=SOON)
    task_id = cluster.run("sh", "-c", "echo out; echo err >&2")["task_id"]
    _wait_gone(cluster, task_id)
    for stream in ("stdout", "stderr"):
        for query in ("", "?tail=3"):
            reply = cluster.http("GET", f"/api/task/{task_id}/{stream}{query}")
            assert (reply.status, reply.body) == (200, b"") or reply.status in {404, 410}
            if reply.status != 200:
                assert task_id in reply.json()["detail"]
                assert "keep_logs_days" in reply.json()["detail"]
        reply = cluster.http("GET", f"/api/task/{task_id}/{stream}?follow=1&offset=0")
        assert reply.status in {200, 404, 410}
    with open_stream(cluster, logs=[wish(task_id)]) as feed:
        feed.read_until(lambda feed: feed.ends or feed.errors)
    for args in (["--logs", task_id], ["--logs", task_id, "--follow"]):
        done = cluster.run_client(*args)
        assert "out" not in done.stdout
        if done.returncode != 0:
            check_one_line(done.stderr, task_id)


def test_the_logs_of_a_task_that_runs_stay_however_old(keeping: Keeping) -> None:
    cluster = keeping(keep_logs_days=SOON, keep_tasks_days=SOON)
    living = cluster.script(GATED, arguments=["/no/such/file"], cores=0)
    folder = Path(first_line(cluster, living))
    waiting = [cluster.submit("sleep", "60"), cluster.submit("echo", "later")]
    for _ in range(2):
        _wait_gone(cluster, _come_and_gone(cluster, target="node2"))
    assert cluster.status(living)["status"] == "running"
    assert first_line(cluster, living) == str(folder)
    assert (folder / "own-file").exists()
    assert [cluster.status(task_id)["status"] for task_id in waiting] == ["running", "pending"]


def test_tasks_go_when_their_time_is_over(keeping: Keeping) -> None:
    cluster = keeping(keep_tasks_days=SOON)
    task = cluster.submit_batch("true", targets=["node1"], name="old", env_vars={"A": "b"})
    (task_id,) = task["task_ids"]
    wait_until(lambda: _has_gone(cluster, task_id), what="the row of the ended task removed")
    assert cluster.get("/api/tasks?name=old")["tasks"] == []
    assert cluster.get(f"/api/tasks?batch={task['batch_id']}")["tasks"] == []
    for path in (f"kill/{task_id}", f"rerun/{task_id}", f"kill-batch/{task['batch_id']}"):
        assert cluster.http("POST", f"/api/{path}").status == 404, path
    assert cluster.http("GET", f"/api/task/{task_id}/stdout").status == 404
    assert cluster.run_client("--status", task_id).returncode not in {0, 2}
    # Nobody could reach the logs of a task that nobody knows.
    _wait_gone(cluster, task_id)
    assert int(cluster.submit("true")) > int(task_id)


def test_nothing_is_removed_where_nothing_shall_be(keeping: Keeping) -> None:
    keeps_tasks = keeping(keep_logs_days=SOON)
    keeps_all = keeping()
    kept = _ended(keeps_all)
    sentinel = keeps_tasks.run("true")["task_id"]
    _wait_gone(keeps_tasks, sentinel)
    again = keeps_tasks.run("true")["task_id"]
    _wait_gone(keeps_tasks, again)
    assert keeps_tasks.status(sentinel)["status"] == "completed"
    assert keeps_all.status(kept["task_id"]) == kept
    assert Path(keeps_all.text(kept["task_id"]).strip(), "own-file").exists()
    assert len(_files(keeps_all, kept["task_id"])) >= 4


def test_files_on_a_node_that_was_away_go_when_it_is_back(keeping: Keeping, tmp_path: Path) -> None:
    cluster = keeping(keep_logs_days=SOON)
    gate = tmp_path / "gate"
    task_id = cluster.submit(*at_the_gate(gate, "echo before"), target="node2")
    first_line(cluster, task_id)
    cluster.kill("node2")
    gate.touch()
    kept = _files(cluster, task_id)
    sentinel = cluster.run("true")["task_id"]
    _wait_gone(cluster, sentinel)
    assert kept
    assert set(kept) <= set(_files(cluster, task_id))
    cluster.restart("node2")
    cluster.wait(task_id, "completed")
    _wait_gone(cluster, task_id)


def test_what_ended_while_the_host_was_away_is_removed_after_its_return(
    keeping: Keeping, tmp_path: Path
) -> None:
    cluster = keeping(keep_logs_days=SOON, keep_tasks_days=SOON)
    task_id = cluster.script(f"{GATED}print(os.getpid())\n", arguments=[str(tmp_path / "gate")])
    folder = Path(first_line(cluster, task_id))
    log = Path(cluster.status(task_id)["stdout_path"])
    cluster.host.stop()
    (tmp_path / "gate").touch()
    wait_until(lambda: log.read_text("utf-8").count("\n") == 2, what="its last line")
    pid = int(log.read_text("utf-8").split()[-1])
    wait_until(lambda: not alive(pid), what="its end")
    assert folder.exists()
    cluster.start_host()
    wait_until(lambda: _has_gone(cluster, task_id), what="row gone")
    _wait_gone(cluster, task_id)


def test_in_a_shared_directory_only_what_belongs_to_the_task_goes(
    keeping: Keeping,
) -> None:
    cluster = keeping(shared=True, keep_logs_days=SOON)
    task = _ended(cluster)
    mine = cluster.shared_dir / "task_outputs" / "notes-of-mine.out"
    mine.write_text("mine", "utf-8")
    _wait_gone(cluster, task["task_id"])
    assert (cluster.shared_dir / "own-file").read_text("utf-8") == "x"
    assert mine.read_text("utf-8") == "mine"
    for folder in ("task_outputs", "task_errors"):
        assert (cluster.shared_dir / folder).is_dir()


def test_a_removal_never_leaves_the_tree_through_a_link(keeping: Keeping, tmp_path: Path) -> None:
    cluster = keeping(keep_logs_days=SOON)
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    (precious / "deep" / "file").write_text("keep me", "utf-8")
    script = f"""
import os, sys
folder = os.getcwd()
os.symlink({str(precious)!r}, "link")
os.symlink({str(precious / "deep" / "file")!r}, "file-link")
os.chdir("/")
os.rename(folder, folder + ".moved")
os.symlink({str(precious)!r}, folder)
log = os.readlink("/proc/self/fd/1")
os.unlink(log)
os.symlink({str(precious / "deep" / "file")!r}, log)
"""
    task = cluster.wait(cluster.script(script))
    assert task["status"] == "completed", cluster.text(task["task_id"], "stderr")
    log = Path(task["stdout_path"])
    wait_until(lambda: not os.path.lexists(log), what="the log removed, which is a link")
    sentinel = cluster.run("true")["task_id"]
    _wait_gone(cluster, sentinel)
    assert (precious / "deep" / "file").read_text("utf-8") == "keep me"


def test_a_folder_that_a_task_has_made_hard_to_remove_goes_as_well(
    keeping: Keeping,
) -> None:
    cluster = keeping(keep_logs_days=SOON)
    script = """
import os
os.makedirs("a/" * 50)
for number in range(200):
    open(f"a/{number}", "w").close()
os.mkfifo("pipe")
os.symlink("nowhere", "dangling")
os.makedirs("closed/inner")
os.chmod("closed", 0)
os.chmod(".", 0o500)
"""
    task = cluster.wait(cluster.script(script))
    assert task["status"] == "completed", cluster.text(task["task_id"], "stderr")
    _wait_gone(cluster, task["task_id"])


def test_many_old_tasks_go_and_new_ones_run_meanwhile(keeping: Keeping) -> None:
    cluster = keeping(keep_logs_days=SOON, keep_tasks_days=SOON)
    reply = cluster.submit_batch("true", targets=["node1", "node2"] * 100)
    wait_until(lambda: not cluster.unfinished(), timeout=60, what="200 tasks ended")
    with open_stream(cluster) as feed:
        feed.read_line()
        task_id = cluster.submit("true")
        feed.read_until(lambda feed: "completed" in feed.states_of(task_id))
    wait_until(
        lambda: cluster.get(f"/api/tasks?batch={reply['batch_id']}")["tasks"] == [],
        what="200 rows removed",
    )

    def gone() -> bool:
        names = [name for _, folders, files in os.walk(cluster.root) for name in folders + files]
        return not set(ids_in("\n".join(names))) & set(reply["task_ids"])

    wait_until(gone, what="files of 200 tasks removed", interval=0.1)


def test_a_live_view_is_not_disturbed_when_tasks_go(keeping: Keeping) -> None:
    cluster = keeping(keep_logs_days=SOON, keep_tasks_days=SOON)
    with open_stream(cluster) as feed:
        feed.read_line()
        revision = feed.events[0]["rev"]
        task_id = cluster.submit("true")
        feed.read_until(lambda feed: "completed" in feed.states_of(task_id))
        wait_until(lambda: _has_gone(cluster, task_id))
        later = cluster.submit("true")
        feed.read_until(lambda feed: "completed" in feed.states_of(later))
    with open_stream(cluster, after=revision) as feed:
        latest = cluster.submit("true")
        feed.read_until(lambda feed: "completed" in feed.states_of(latest))
