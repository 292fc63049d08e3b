"""Ending what a dead supervisor left running, as far as it can be found. Blocks: use a thread."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.runner.launchers.processes import (
    Process,
    descendants,
    kill_round,
    processes,
    task_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hakuriver.runner.launchers.base import Running

_ROUNDS = 50
_PAUSE = 0.02


def end_survivors(tasks: Mapping[int, Running | None]) -> None:
    """SIGKILL the trees of `tasks`, found by their main process or their environment.

    There is no grace: nobody is left to note how they would end.
    """
    for _ in range(_ROUNDS):
        roots = _find(tasks)
        if not roots:
            return
        kill_round(roots)
        time.sleep(_PAUSE)


def _find(tasks: Mapping[int, Running | None]) -> set[int]:
    table = processes()
    mains = {
        task.pid
        for task in tasks.values()
        if task is not None and task.pid in table and table[task.pid].start == task.start
    }
    marked = {pid for pid in _ours(table) if task_of(pid) in tasks}
    return descendants(mains | marked, table)


def _ours(table: dict[int, Process]) -> list[int]:
    own = os.getuid()
    return [pid for pid in table if pid != os.getpid() and _owner(pid) == own]


def _owner(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
