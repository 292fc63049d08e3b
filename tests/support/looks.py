"""Small looks at what a test waits for: a run time, a file that will be written, a silence."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
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


def at_the_gate(gate: Path, before: str = ":", after: str = "exit 0") -> tuple[str, str, str]:
    """Return a shell's command that does `before`, waits until there is a `gate`, does `after`."""
    return ("sh", "-c", f"{before}; until test -e '{gate}'; do sleep 0.02; done; {after}")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
