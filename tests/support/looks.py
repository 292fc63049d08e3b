"""Small looks at what a test waits for: a run time, a file that will be written, a silence."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.harness import Cluster


def seconds_of(task: Any) -> float:
    """Return for how long an ended task ran."""
    began, ended = (datetime.fromisoformat(task[key]) for key in ("started_at", "completed_at"))
    return (ended - began).total_seconds()


def content(path: Path) -> str:
    """Return the text of a file as soon as there is some."""

    def text() -> str:
        return path.read_text("utf-8") if path.exists() else ""

    return wait_until(text, what=f"{path} written")


def first_line(cluster: Cluster, task_id: str) -> str:
    """Return the first whole line of a task's output as soon as it is there."""
    wait_until(lambda: b"\n" in cluster.output(task_id), what=f"a line of {task_id}")
    return cluster.text(task_id).partition("\n")[0]


@contextmanager
def frozen(pid: int) -> Iterator[Callable[[], float]]:
    """Stop a process for the length of the block; yield what tells for how many seconds so far."""
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    try:
        yield lambda: time.monotonic() - started
    finally:
        os.kill(pid, signal.SIGCONT)
