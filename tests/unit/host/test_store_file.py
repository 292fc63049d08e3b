from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import peewee
import pytest

from hakuriver.errors import StoreError
from hakuriver.host.store import Store, migrations, queries
from hakuriver.model.tasks import Placement, TaskState
from support.host_rows import insert, move, records, statement
from support.host_world import until

if TYPE_CHECKING:
    from pathlib import Path


PENDING, ASSIGNING, RUNNING = TaskState.PENDING, TaskState.ASSIGNING, TaskState.RUNNING
COMPLETED, LOST = TaskState.COMPLETED, TaskState.LOST
SECRET = "hunter2-that-nobody-else-says"


# -- the file -----------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@pytest.mark.asyncio
async def test_the_files_are_for_their_owner_alone(store: Store, tmp_path: Path) -> None:
    await insert(store, records(store), None)
    found = modes(tmp_path / "deep" / "er")
    assert set(found) == {"host.db", "host.db-wal", "host.db-shm", "host.db.lock"}
    assert set(found.values()) == {0o600}
    for folder in (tmp_path / "deep", tmp_path / "deep" / "er"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.asyncio
async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    first = Store(path, cluster_id="c")
    await insert(first, records(first, 2, first=1 << 40), b"script")
    place = Placement(batch_id=0, batch_index=0, batch_size=0, cpus=(1, 2))
    await move(first, 1 << 40, ASSIGNING, placement=place, node="m")
    kept = await first.read(queries.tasks, limit=9)
    rev, cluster_id = first.rev, first.cluster_id
    first.close()
    second = Store(path, cluster_id="c")
    try:
        assert await second.read(queries.tasks, limit=9) == kept
        assert kept[1].placement.cpus == (1, 2)
        assert second.cluster_id == cluster_id
        assert second.rev == rev
        assert second.last_id == (1 << 40) + 1
        assert second.next_rev() > rev
    finally:
        second.close()


@pytest.mark.asyncio
async def test_closing_writes_what_is_queued(tmp_path: Path) -> None:
    store = Store(tmp_path / "host.db", cluster_id="c")
    waiting = [insert(store, records(store, first=first), None) for first in range(1, 50)]
    store.close()
    await until(lambda: all(future.done() for future in waiting))
    again = Store(tmp_path / "host.db", cluster_id="c")
    assert len(await again.read(queries.tasks, limit=100)) == 49
    again.close()


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 4096]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "host.db"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"host\.db: is no usable database") as caught:
            Store(path, cluster_id="c")
        assert "put back a copy" in str(caught.value)
    assert path.read_bytes() == content


def test_a_damaged_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    Store(path, cluster_id="c").close()
    content = bytearray(path.read_bytes())
    content[4096 : 5 * 4096] = b"\xa5" * (4 * 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is no usable database"):
        Store(path, cluster_id="c")
    assert path.read_bytes() == bytes(content)


def test_a_newer_schema_is_refused_each_time(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    Store(path, cluster_id="c").close()
    with peewee.SqliteDatabase(str(path)) as database:
        statement(database, f"PRAGMA user_version = {migrations.LATEST + 1}")
    for _ in range(2):
        with pytest.raises(StoreError, match="written by a newer HakuRiver"):
            Store(path, cluster_id="c")


def test_an_older_schema_is_copied_and_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "host.db"
    Store(path, cluster_id="c").close()
    old, new = migrations.LATEST, migrations.LATEST + 1
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, ("CREATE TABLE extra (x)",)))
    monkeypatch.setattr(migrations, "LATEST", new)
    Store(path, cluster_id="c").close()
    backup = tmp_path / f"host.db.v{old}.bak"
    assert backup.is_file()
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with peewee.SqliteDatabase(str(path)) as database:
        assert database.table_exists("extra")
        assert statement(database, "PRAGMA user_version") == (new,)


def test_a_step_that_fails_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "host.db"
    Store(path, cluster_id="c").close()
    steps = (*migrations.STEPS, ("CREATE TABLE extra (x)", "no statement"))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", steps)
        patch.setattr(migrations, "LATEST", migrations.LATEST + 1)
        with pytest.raises(StoreError):
            Store(path, cluster_id="c")
    Store(path, cluster_id="c").close()
    with peewee.SqliteDatabase(str(path)) as database:
        assert not database.table_exists("extra")


def test_a_second_host_is_refused_and_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    first = Store(path, cluster_id="c")
    with pytest.raises(StoreError, match=rf"another host .*pid {os.getpid()}"):
        Store(path, cluster_id="c")
    first.close()
    Store(path, cluster_id="c").close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"database\.db_file"):
        Store(tmp_path / "file" / "host.db", cluster_id="c")


def test_a_database_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"database\.db_file"):
        Store(tmp_path, cluster_id="c")
