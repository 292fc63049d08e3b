"""A kill: from the call until the client knows that the whole tree is gone, and who is left."""

from __future__ import annotations

import secrets
import sys
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.floors import timed
from benchmarks.rows import Goal, Row, median, p95
from benchmarks.world import NODE, TASK_SECONDS, complaint
from hakuriver import TaskKilled
from support.processes import alive, pids, proc_bytes

if TYPE_CHECKING:
    from benchmarks.world import World
    from hakuriver import Task

_ROUNDS = 30
_TREE = 10
_MARK = "BENCHMARK_MARK"

# Three children with two children each, every one of them in a session of its own.
_TREE_TEXT = """
import os, signal
reader, writer = os.pipe()
def grow(width):
    for _ in range(width[0]):
        if os.fork() == 0:
            os.setsid()
            if width[1:]:
                grow(width[1:])
            os.write(writer, b"x")
            signal.pause()
grow((3, 2))
up = 0
while up < 9:
    up += len(os.read(reader, 9))
os.write(1, b"up\\n")
signal.pause()
"""


def measure(world: World) -> list[Row]:
    """Kill trees of ten processes, and look for orphans at the moment of the answer."""
    times: list[float] = []
    orphans = smaller = unkilled = 0
    for number in range(_ROUNDS):
        world.progress(f"kill: {number} of {_ROUNDS}")
        mark = secrets.token_hex(8)
        task = world.client.run(
            [sys.executable, "-S", "-c", _TREE_TEXT], target=NODE, env={_MARK: mark}
        )
        next(task.logs(follow=True))
        smaller += _marked(mark) != _TREE
        times.append(timed(partial(_kill, task)))
        orphans += _marked(mark)
        unkilled += not isinstance(task.exception(), TaskKilled)
    return [
        Row(
            figure=f"kill to a tree of {_TREE} gone",
            value=median(times),
            unit="ms",
            detail=f"p95 {p95(times):.1f}, {orphans} orphans",
            goal=Goal(reach=25, stretch=10),
            wrong=complaint(
                (orphans, "orphans"),
                (smaller, "trees of the wrong size"),
                (unkilled, "tasks that were not killed"),
            ),
        )
    ]


def _kill(task: Task) -> None:
    task.kill()
    task.exception(TASK_SECONDS)


def _marked(mark: str) -> int:
    """Return how many living processes have the mark in their environment."""
    wanted = f"{_MARK}={mark}".encode()
    found = [pid for pid in pids() if wanted in proc_bytes(pid, "environ").split(b"\0")]
    return sum(alive(pid) for pid in found)
