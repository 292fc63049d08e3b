"""A disk that is full, really: a small one of its own, filled to its last byte."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from support.processes import wait_until
from support.restarts import database, tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.harness import Cluster

needs_root = pytest.mark.skipif(
    os.getuid() != 0 and not os.environ.get("CI"), reason="only root can mount a small disk"
)
pytestmark = needs_root


@contextmanager
def small_disk(folder: Path, size: str = "16m") -> Iterator[Path]:
    """Mount a disk of `size` in `folder`; its files are in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Write to the disk of `folder` until nothing more fits; return the file to remove."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def test_a_host_without_room_refuses_by_its_reason_and_recovers(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    cluster.expect_trouble("disk is full", "ERROR")
    with small_disk(cluster.state_dir("host")) as disk:
        cluster.start()
        before = cluster.run("echo", "before")
        ticking = tick(cluster, code=3)
        ballast = fill(disk)
        reply = cluster.http("POST", "/api/submit", body={"command": "true", "targets": ["node2"]})
        assert reply.status == 503, reply.body
        assert b"full" in reply.body or b"space" in reply.body
        assert cluster.status(before["task_id"])["status"] == "completed"
        # What ends meanwhile is kept by its node until there is room to write it down.
        ticking.end()
        ballast.unlink()
        assert cluster.wait(ticking.task_id)["exit_code"] == 3
        assert cluster.run("echo", "after", target="node2")["status"] == "completed"
        assert cluster.text(before["task_id"]) == "before\n"
        ticking.check_whole(cluster.text(ticking.task_id).splitlines())
        wait_until(lambda: not cluster.node("node1")["cores_in_use"], what="its core is free")
        cluster.stop()
        with closing(sqlite3.connect(database(cluster))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_runner_without_room_starts_nothing_says_why_and_recovers(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    cluster.expect_trouble("No space left")
    with small_disk(cluster.state_dir("node1")) as disk:
        cluster.start()
        ticking = tick(cluster, code=3, cores=0)
        ballast = fill(disk)
        refused = cluster.run("echo", "no room")
        assert refused["status"] == "failed"
        assert "cannot write its journal: No space left" in refused["reason"]
        assert cluster.run("echo", "elsewhere", target="node2")["status"] == "completed"
        assert cluster.status(ticking.task_id)["status"] == "running"
        ballast.unlink()
        assert cluster.run("echo", "room again")["status"] == "completed"
        ticking.end()
        assert cluster.wait(ticking.task_id)["exit_code"] == 3
        cluster.kill("node1")
        cluster.restart("node1")
        assert cluster.run("echo", "once more")["status"] == "completed"
        cluster.stop()
