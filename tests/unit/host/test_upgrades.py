"""Databases of every schema that there has been, each made by the code of its time.

``data/schema-N.sql`` holds what a host of schema N left behind: a task in every state, one that
was killed while it waited, batches with and without script, key and environment, and two nodes.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hakuriver.errors import StoreError
from hakuriver.host.store import Store, migrations, queries
from hakuriver.model.messages import Acknowledge, Launch
from hakuriver.model.nodes import NodeInfo, NumaNode
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import MASK
from support.host_world import known, open_world

DATA = Path(__file__).parent / "data"
VERSIONS = range(1, migrations.LATEST + 1)
#: How a row of an older schema looks in the present one, where it did not know something.
DEFAULTS = {
    "targeted": 1,
    "retry_of": None,
    "usage": None,
    "logs_removed": 0,
    "unit": None,
    "submission_id": None,
    "request_key": None,
    "request_digest": None,
    "reply": None,
}
FIRST, ASSIGNING, RUNNING, LOST, ANYWHERE = 419430400, 419430401, 419430402, 419430407, 419430423
Rows = dict[str, dict[Any, dict[str, Any]]]

_KILLED = """
import os, signal, sys
from pathlib import Path
import peewee
from hakuriver.host.store import Store
left = int(sys.argv[2])
real = peewee.SqliteDatabase.execute_sql
def execute_sql(self, sql, *args, **options):
    global left
    counted = ("ALTER", "UPDATE task", "CREATE", "PRAGMA user_version =", "VACUUM")
    if sql.lstrip().startswith(counted):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(self, sql, *args, **options)
peewee.SqliteDatabase.execute_sql = execute_sql
Store(Path(sys.argv[1]), cluster_id="new")
"""


def restore(version: int, path: Path) -> None:
    """Make the database file that a host of that schema left."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript((DATA / f"schema-{version}.sql").read_text("utf-8"))


def read(path: Path) -> Rows:
    """Return all rows of all tables by their keys."""
    found: Rows = {}
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        for table, key in (("task", "id"), ("batch", "id"), ("node", "name"), ("meta", "key")):
            rows = [dict(row) for row in database.execute(f"SELECT * FROM {table}")]
            found[table] = {row[key]: row for row in rows}
    return found


def schema_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def expected(before: Rows) -> Rows:
    """Return the rows of an older schema as the present one must have them."""
    after: Rows = {}
    for table, rows in before.items():
        wanted = {"task": 25, "batch": 6}.get(table)
        after[table] = {}
        for key, row in rows.items():
            whole = {name: value for name, value in DEFAULTS.items() if _is_of(name, table)}
            if table == "task" and row["node"] is None:
                whole["targeted"] = 0
            after[table][key] = whole | row
            assert wanted in (None, len(after[table][key]))
    return after


def _is_of(column: str, table: str) -> bool:
    ours = {"batch": {"request_key", "request_digest", "reply"}}
    ours["task"] = set(DEFAULTS) - ours["batch"]
    return column in ours.get(table, set())


def test_there_is_one_of_every_schema(tmp_path: Path) -> None:
    for version in VERSIONS:
        restore(version, tmp_path / f"{version}.db")
        assert schema_of(tmp_path / f"{version}.db") == version
        states = {row["status"] for row in read(tmp_path / f"{version}.db")["task"].values()}
        assert states == {state.value for state in TaskState}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_is_kept_and_the_old_file_beside_it(
    version: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "host.db"
    restore(version, path)
    before = read(path)
    caplog.set_level("INFO")
    Store(path, cluster_id="new").close()
    assert schema_of(path) == migrations.LATEST
    assert read(path) == expected(before)
    backup = tmp_path / f"host.db.v{version}.bak"
    assert backup.exists() == (version < migrations.LATEST)
    if backup.exists():
        assert (schema_of(backup), read(backup)) == (version, before)
    assert (f"as it was it lies in {backup}" in caplog.text) == backup.exists()


@pytest.mark.asyncio
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_host_goes_on_with_it(version: int, tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    restore(version, path)
    info = NodeInfo(
        version="0",
        launcher="process",
        cpus=(0, 1, 2, 3),
        memory_bytes=8 << 30,
        numa_topology={"0": NumaNode((0, 1), 4 << 30), "1": NumaNode((2, 3), 4 << 30)},
    )
    async with open_world(path) as world:
        assert world.store.cluster_id == "c0ffee"
        assert world.held("node1") == {ASSIGNING, RUNNING}
        assert world.cluster.nodes.get("node2").record.draining
        assert world.cluster.ids.next() > 419430441
        assert (await world.store.read(queries.script_of, FIRST)) == b"print('\xc3\xa9')\n"
        # Its runner knows the one that runs, and the one that was believed lost.
        running, lost = await world.record(RUNNING), await world.record(LOST)
        link = await world.join("node1", info, told=[known(running, at=1.0), known(lost, at=1.0)])
        assert await world.status(LOST) is TaskState.RUNNING
        await world.finish(RUNNING, node="node1")
        assert link.ids(Acknowledge) == [RUNNING]
        assert ASSIGNING in link.ids(Launch)
        assert ANYWHERE in link.ids(Launch)
        for task_id in (LOST, ASSIGNING):
            assert (await world.record(task_id)).spec.env_vars == {"KEY": "value"}
            await world.finish(task_id, node="node1")
        # With the last of its batch the values go, as they would have then.
        assert (await world.record(RUNNING)).spec.env_vars == {"KEY": MASK}
        new = await world.submit("node1")
        assert new[0] > ANYWHERE


@pytest.mark.parametrize("statements", [0, 1, 6, 11, 12, 13, 19])
def test_a_migration_that_is_killed_anywhere_is_made_again(statements: int, tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    restore(1, path)
    before = read(path)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path), str(statements)], check=False, timeout=30
    )
    assert killed.returncode == -signal.SIGKILL
    assert schema_of(path) in range(1, migrations.LATEST)
    Store(path, cluster_id="new").close()
    assert read(path) == expected(before)
    backup = tmp_path / "host.db.v1.bak"
    assert (schema_of(backup), read(backup)) == (1, before)


def test_the_kills_fall_within_each_step() -> None:
    """0 is the backup, 1 to 10 the second step, 11 its number, 12 the third, 13 its number, …"""
    assert [len(step) for step in migrations.STEPS[1:]] == [10, 1, 4, 2]


@pytest.mark.asyncio
async def test_one_of_a_newer_schema_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    restore(migrations.LATEST, path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE task ADD COLUMN more TEXT")
        database.execute(f"PRAGMA user_version = {migrations.LATEST + 1}")
    before = read(path)
    with pytest.raises(StoreError, match="upgrade hakuriver-jupyter on this machine"):
        await asyncio.to_thread(Store, path, cluster_id="new")
    assert (schema_of(path), read(path)) == (migrations.LATEST + 1, before)
    assert not list(tmp_path.glob("*.bak"))
