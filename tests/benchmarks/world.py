"""What every figure needs: a real cluster, a client of it, and a sign of life on the terminal."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.accounts import parent_of
from hakuriver import Client
from hakuriver.config import Timing
from support.harness import Cluster
from support.processes import processes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hakuriver import Batch, Task

NODE = "node1"
#: No task of ours may take longer.
TASK_SECONDS = 60.0


class Progress:
    """One line that is written over, on a terminal only."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, text: str = "") -> None:
        """Show `text` instead of what stands there; nothing takes it away."""
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


@dataclass(frozen=True)
class World:
    """A host, a runner with a node of two slots, its keeper, and a client.

    `pids` are those of the three by name; `folder` is for what a figure needs besides, `long`
    asks for the long versions.
    """

    folder: Path
    cluster: Cluster
    client: Client
    slots: int
    long: bool
    progress: Progress
    pids: dict[str, int]

    @property
    def state_dir(self) -> Path:
        """The runner's folder, where its journal lies."""
        return self.cluster.state_dir(NODE)

    def bulk(self, count: int) -> Batch:
        """Submit so many ``true`` at once."""
        return self.client.run(["true"], targets=[NODE] * count)


def failures(tasks: Iterable[Task]) -> int:
    """Wait for all and return how many of them did not exit with 0."""
    return sum(task.exception(TASK_SECONDS) is not None for task in tasks)


def complaint(*counts: tuple[int, str]) -> str:
    """Return what is wrong: each count that is not 0, with what it counts."""
    return ", ".join(f"{count} {what}" for count, what in counts if count)


@contextmanager
def folder(base: Path) -> Iterator[Path]:
    """Yield a new folder in `base`, on a disk, and remove it afterwards."""
    path = Path(tempfile.mkdtemp(prefix="hakuriver-bench-", dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def world(base: Path, *, long: bool, progress: Progress) -> Iterator[World]:
    """Start a cluster with default timing, everything durable, and end it afterwards."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    cluster = Cluster(
        base / "cluster",
        nodes={NODE: ",".join(map(str, cpus))},
        settings={"timing": msgspec.to_builtins(Timing())},
    )
    try:
        cluster.start()
        with Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token) as client:
            # Whatever is made with the first task is there afterwards.
            client.run(["true"], target=NODE).result(TASK_SECONDS)
            yield World(base, cluster, client, len(cpus), long, progress, _pids(cluster))
    finally:
        cluster.stop()


def _pids(cluster: Cluster) -> dict[str, int]:
    found = processes_of(cluster.root).items()
    keepers = {pid for pid, command in found if "keeper.py" in command}
    # Those that it has forked show the same command.
    (keeper,) = (pid for pid in keepers if parent_of(pid) not in keepers)
    return {"host": cluster.host.pid, "runner": cluster.runners[NODE].pid, "keeper": keeper}


@contextmanager
def bounded(seconds: float, what: str) -> Iterator[None]:
    """Raise `TimeoutError` in the block if it takes longer than so many seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(f"{what} took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
