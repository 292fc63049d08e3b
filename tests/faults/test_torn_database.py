"""A database whose last write was cut off, or that lost a part."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from support.processes import wait_until
from support.restarts import database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster

_WAL_HEADER = 32
_FRAME = 24 + 4096


def _wal(cluster: Cluster) -> Path:
    path = database(cluster)
    return path.with_name(f"{path.name}-wal")


@pytest.mark.parametrize("torn", ["a part of a frame", "zeros", "an old frame", "noise"])
def test_a_write_that_was_cut_off_takes_nothing_with_it(fresh_cluster: Cluster, torn: str) -> None:
    cluster = fresh_cluster
    ids = [cluster.submit("true", target=node) for node in ("node1", "node2")]
    for task_id in ids:
        cluster.wait(task_id)
    waiting = [cluster.submit("true", cores=1, target="node1") for _ in range(3)]
    cluster.kill("host")
    wal = _wal(cluster)
    written = wal.read_bytes()
    assert len(written) > _WAL_HEADER + _FRAME, "nothing to tear"
    last = written[-_FRAME:]
    tail = {
        "a part of a frame": last[: _FRAME // 2],
        "zeros": bytes(_FRAME),
        "an old frame": last,
        "noise": random.Random(1).randbytes(2 * _FRAME + 7),
    }[torn]
    with wal.open("ab") as file:
        file.write(tail)
    cluster.restart("host")
    for task_id in (*ids, *waiting):
        assert cluster.wait(task_id)["status"] == "completed"
    cluster.stop()
    with closing(sqlite3.connect(database(cluster))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_database_that_lost_its_second_half_is_refused_and_left_as_it_is(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    cluster.start()
    for _ in range(5):
        cluster.run("true")
    cluster.host.stop()
    path = database(cluster)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
    cluster.host.start()
    process = cluster.host.process
    assert process is not None
    assert wait_until(lambda: process.poll() is not None and process.returncode) == 1
    cluster.host.process = None
    told = [line for line in cluster.host.text().splitlines() if str(path) in line]
    assert any("damaged" in line or "corrupt" in line or "malformed" in line for line in told), told
    assert "Traceback" not in cluster.host.text()
    assert path.read_bytes() == whole[: len(whole) // 2]
    # The lost half is in a copy, as an operator would bring it back.
    path.write_bytes(whole)
    cluster.restart("host")
    assert len(cluster.get("/api/tasks")["tasks"]) == 5
