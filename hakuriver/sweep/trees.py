"""Ending a run with everything that it has started, wherever that has gone.

A run is a session of its own and bears a mark in its environment. Its tree is what is in its
process group, what descends from it, and every process that bears the mark: a daemon that has left
group and parents behind is found by that.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

#: The variable whose value marks the processes of one run: the sweep's id, a dot and more.
MARK = "HAKURUN_RUN"
_ROUNDS = 20


def signal_group(pid: int, number: int) -> None:
    """Send a signal to the process group of `pid`, whose leader is not reaped yet."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def signal_tree(pid: int, mark: str, number: int) -> None:
    """Send a signal to all of a run; SIGKILL is sent until nothing new is found."""
    signal_group(pid, number)
    seen: set[int] = set()
    for _ in range(_ROUNDS if number == signal.SIGKILL else 1):
        found = (_descendants(pid) | marked(mark)) - seen - {os.getpid()}
        if not found:
            break
        seen |= found
        for each in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each, number)


def marked(mark: str) -> set[int]:
    """Return the processes of this user whose mark is `mark`, or begins with it and a dot."""
    found: set[int] = set()
    exact = f"{MARK}={mark}".encode()
    for folder in os.scandir("/proc"):
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            for variable in Path(folder.path, "environ").read_bytes().split(b"\0"):
                if variable == exact or variable.startswith(exact + b"."):
                    found.add(int(folder.name))
    return found


def _descendants(pid: int) -> set[int]:
    import psutil  # noqa: PLC0415 - it takes longer to import than most sweeps need it

    with contextlib.suppress(psutil.Error):
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return set()
