"""A database whose last write was cut off."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from support.restarts import database

if TYPE_CHECKING:
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
