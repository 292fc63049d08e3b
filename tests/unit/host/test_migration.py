"""A database of version 1, with a task in every state, brought up to date."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver.errors import StoreError
from hakuriver.host.store import Store, migrations, queries
from hakuriver.host.store.migrations import v001_initial
from hakuriver.model.tasks import FINAL, TaskSpec, TaskState
from support.host_world import node_info, open_world

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.host.records import TaskRecord

STATES = list(TaskState)
SPEC = TaskSpec(command="c", arguments=("é", ""), env_vars={"A": "1"}, name="n")


def row(task_id: int, state: TaskState, **changes: object) -> dict[str, Any]:
    """Return a row as version 1 wrote it."""
    began = state not in (TaskState.PENDING, TaskState.ASSIGNING)
    values: dict[str, Any] = {
        "id": task_id,
        "batch_id": 1 << 40,
        "batch_index": task_id,
        "batch_size": len(STATES),
        "rev": 100 + task_id,
        "owner": "alice",
        "name": "n",
        "status": state.value,
        "node": "node1",
        "numa_node": 0,
        "cpus": "[]" if state is TaskState.PENDING else "[2,3]",
        "reason": f"because {state}",
        "exit_code": -9 if state in FINAL else None,
        "kill_requested": int(state is TaskState.RUNNING),
        "submitted_at": 1.5,
        "started_at": 2.5 if began else None,
        "completed_at": 3.5 if state in FINAL else None,
        "stdout_path": "/o" if began else None,
        "stderr_path": "/e" if began else None,
    }
    return values | changes


def write_version_1(path: Path, rows: list[dict[str, Any]], **meta: str) -> None:
    """Make the file that a host of version 1 left behind."""
    with closing(sqlite3.connect(path)) as database, database:
        for text in v001_initial.STATEMENTS:
            database.execute(text)
        database.execute("PRAGMA user_version = 1")
        spec = msgspec.msgpack.encode(SPEC)
        database.execute("INSERT INTO batch VALUES (?, ?, ?)", (1 << 40, spec, b"script"))
        for values in rows:
            marks = ", ".join("?" * len(values))
            text = f"INSERT INTO task ({', '.join(values)}) VALUES ({marks})"
            database.execute(text, tuple(values.values()))
        info = msgspec.json.encode(node_info(range(4))).decode()
        database.execute("INSERT INTO node VALUES ('node1', 7, 'uid', ?, 1.5, 1)", (info,))
        database.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))


def one_in_every_state() -> list[dict[str, Any]]:
    return [row(1 + index, state) for index, state in enumerate(STATES)]


async def read_all(path: Path) -> dict[int, TaskRecord]:
    store = await asyncio.to_thread(Store, path, cluster_id="new")
    try:
        return {task.id: task for task in await store.read(queries.tasks, limit=100)}
    finally:
        await asyncio.to_thread(store.close)


@pytest.mark.asyncio
async def test_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    write_version_1(path, one_in_every_state(), cluster_id="old")
    found = await read_all(path)
    for values in one_in_every_state():
        record = found[values["id"]]
        assert record.spec == SPEC
        assert (record.placement.batch_id, record.placement.numa_node) == (1 << 40, 0)
        assert list(record.placement.cpus) == msgspec.json.decode(values["cpus"])
        assert (record.origin.owner, record.origin.submitted_at) == ("alice", 1.5)
        for name in ("rev", "status", "node", "reason", "exit_code", "started_at", "stderr_path"):
            assert getattr(record, name) == values[name], name
        assert record.kill_requested == bool(values["kill_requested"])
        assert record.completed_at == values["completed_at"]
        # What version 1 did not know.
        assert (record.usage, record.origin.retry_of, record.logs_removed) == (None, None, False)
    assert len(found) == len(STATES)


@pytest.mark.asyncio
async def test_tasks_that_have_no_node_yet_have_no_target(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    anywhere = [
        row(20, TaskState.PENDING, node=None, numa_node=None),
        row(21, TaskState.KILLED, node=None, numa_node=None),
    ]
    write_version_1(path, [*one_in_every_state(), *anywhere])
    found = await read_all(path)
    assert {task_id for task_id, task in found.items() if not task.origin.targeted} == {20, 21}


@pytest.mark.asyncio
async def test_the_cluster_goes_on_with_an_old_database(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    rows = [*one_in_every_state(), row(30, TaskState.PENDING, node=None, numa_node=None)]
    write_version_1(path, rows, cluster_id="old")
    async with open_world(path) as world:
        assert world.store.cluster_id == "old"
        assert world.store.rev == 130
        assert set(world.cluster.tasks) == {1, 2, 3, 30}
        assert world.cluster.nodes.get("node1").record.draining
        assert world.free("node1") == {0, 1}
        assert [world.cluster.scheduler.position(task) for task in (1, 30)] == [0, 1]
        assert world.cluster.ids.next() > 1 << 40


@pytest.mark.asyncio
async def test_the_old_file_is_kept_whole_beside_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    write_version_1(path, one_in_every_state(), cluster_id="old")
    backup = tmp_path / "host.db.v1.bak"
    # What an earlier attempt left there, for everybody to read, is replaced.
    backup.write_bytes(b"half")
    backup.chmod(0o644)
    await read_all(path)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)
        kept = database.execute("SELECT id, status FROM task ORDER BY id").fetchall()
        assert kept == [(1 + index, state.value) for index, state in enumerate(STATES)]
    content = backup.read_bytes()
    await read_all(path)
    assert backup.read_bytes() == content


def test_a_new_database_needs_no_copy(tmp_path: Path) -> None:
    Store(tmp_path / "host.db", cluster_id="new").close()
    assert not list(tmp_path.glob("*.bak"))


def test_a_step_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "host.db"
    write_version_1(path, one_in_every_state(), cluster_id="old")
    broken = (*migrations.STEPS[1], "no statement")
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", (migrations.STEPS[0], broken))
        with pytest.raises(StoreError):
            Store(path, cluster_id="new")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        names = [name for _, name, *_ in database.execute("PRAGMA table_info(task)")]
        assert "targeted" not in names
    assert len(asyncio.run(read_all(path))) == len(STATES)


@pytest.mark.asyncio
async def test_both_ways_lead_to_the_same_tables(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    write_version_1(old, [])
    shapes: list[Any] = []
    for path in (old, new):
        await read_all(path)
        with closing(sqlite3.connect(path)) as database:
            query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
            shapes.append(database.execute(query).fetchall())
    assert shapes[0] == shapes[1]
