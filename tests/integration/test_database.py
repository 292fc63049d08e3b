from __future__ import annotations

import json
import sqlite3
import stat
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver.host.store.migrations import v001_initial
from support.harness import check_one_line
from support.processes import run_hakuriver
from support.restarts import database

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster

FIRST_ID = 1 << 50


def _spec(command: str, *arguments: str, cores: int = 1) -> bytes:
    """Return a batch's specification as the first version wrote it."""
    return msgspec.msgpack.encode(
        {
            "command": command,
            "arguments": arguments,
            "env_vars": {},
            "script": None,
            "interpreter": (),
            "required_cores": cores,
            "required_memory_bytes": None,
            "time_limit_seconds": None,
            "working_directory": None,
            "use_private_network": False,
            "use_private_pid": False,
            "name": "",
        }
    )


def _make_old(path: Path) -> dict[int, str]:
    """Write a database of the first version with a task in each state; return their states."""
    path.parent.mkdir(mode=0o700, parents=True)
    states = ["completed", "failed", "killed", "lost", "pending", "pending"]
    tasks = {FIRST_ID + number: state for number, state in enumerate(states)}
    now = time.time()
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("PRAGMA journal_mode = WAL")
        for statement in v001_initial.STATEMENTS:
            old.execute(statement)
        old.execute("PRAGMA user_version = 1")
        info = {"version": "0", "launcher": "process", "cpus": [0], "memory_bytes": 1 << 30}
        node = ("node1", 1, "", json.dumps(info), now, 0)
        old.execute("INSERT INTO node VALUES (?, ?, ?, ?, ?, ?)", node)
        for rev, (task_id, state) in enumerate(tasks.items(), 1):
            old.execute(
                "INSERT INTO batch VALUES (?, ?, NULL)",
                (task_id - 1000, _spec("sh", "-c", f"echo {task_id}")),
            )
            ended = now if state != "pending" else None
            row: dict[str, object] = {
                "id": task_id,
                "batch_id": task_id - 1000,
                "batch_index": 0,
                "batch_size": 1,
                "rev": rev,
                "owner": "alice",
                "name": f"old {state}",
                "status": state,
                "node": "node1",
                "cpus": "[]" if state == "pending" else "[0]",
                "exit_code": {"completed": 0, "failed": 4}.get(state),
                "submitted_at": now - 60,
                "started_at": ended and ended - 30,
                "completed_at": ended,
            }
            marks = ", ".join("?" * len(row))
            names = ", ".join(row)
            old.execute(f"INSERT INTO task ({names}) VALUES ({marks})", list(row.values()))
    path.chmod(0o600)
    return tasks


def _rows(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as opened:
        return opened.execute("SELECT id, owner, name, status, exit_code FROM task").fetchall()


def _version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as opened:
        return int(opened.execute("PRAGMA user_version").fetchone()[0])


def _run_host(cluster: Cluster) -> subprocess.CompletedProcess[str]:
    argv = cluster.host.argv
    return run_hakuriver(*argv, env=cluster.env, cwd=cluster.root)


def test_a_missing_database_is_made_with_its_folders(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    path = cluster.root / "not" / "there" / "river.db"
    config = cluster.root / "host.toml"
    config.write_text(f'{config.read_text("utf-8")}[database]\ndb_file = "{path}"\n', "utf-8")
    cluster.start()
    task_id = cluster.run("true")["task_id"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not database(cluster).exists()
    cluster.kill("host")
    cluster.restart("host")
    assert cluster.status(task_id)["status"] == "completed"


def test_an_older_database_is_brought_up_with_a_backup_and_no_task_lost(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    path = database(cluster)
    old = _make_old(path)
    before = _rows(path)
    cluster.start_host()
    shown = {int(task["task_id"]): task for task in cluster.get("/api/tasks")["tasks"]}
    assert {task_id: task["status"] for task_id, task in shown.items()} == old
    assert shown[FIRST_ID + 1]["exit_code"] == 4
    assert {task["owner"] for task in shown.values()} == {"alice"}
    (backup,) = [file for file in path.parent.iterdir() if file.suffix == ".bak"]
    assert _rows(backup) == before
    assert _version(backup) == 1 < _version(path)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    # Those that waited run, and new ones come after them.
    cluster.start_runner("node1")
    cluster.wait_online("node1")
    for task_id in (FIRST_ID + 4, FIRST_ID + 5):
        task = cluster.wait(str(task_id))
        assert (task["status"], task["reason"]) == ("completed", None)
        assert cluster.text(str(task_id)) == f"{task_id}\n"
    assert int(cluster.run("true")["task_id"]) > max(old)


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    _make_old(database(cluster))
    with closing(sqlite3.connect(database(cluster))) as opened, opened:
        opened.execute("PRAGMA user_version = 999")
    before = database(cluster).read_bytes()
    done = _run_host(cluster)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, str(database(cluster)), "newer")
    assert database(cluster).read_bytes() == before


def _no_database(_: bytes) -> bytes:
    return b"this is no database at all\n" * 1000


def _broken_pages(whole: bytes) -> bytes:
    return whole[:4096] + b"\xa5" * (len(whole) - 4096)


def _cut_short(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


@pytest.mark.parametrize("damage", [_no_database, _broken_pages, _cut_short])
def test_a_corrupt_database_is_refused_and_never_overwritten(
    make_cluster: Callable[..., Cluster], damage: Callable[[bytes], bytes]
) -> None:
    cluster = make_cluster()
    cluster.start_host()
    cluster.host.stop()
    path = database(cluster)
    for side in path.parent.glob(f"{path.name}-*"):
        side.unlink()
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    done = _run_host(cluster)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, str(path))
    assert path.read_bytes() == before
