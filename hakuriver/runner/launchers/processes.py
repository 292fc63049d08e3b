"""The machine's process table: who lives, what is below whom, and signals that hit the right one.

Needs the standard library alone: the keeper loads it.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MARK = b"HAKURIVER_TASK_ID="


class Process:
    """One line of the process table: `start` is in clock ticks since boot."""

    __slots__ = ("parent", "session", "start")

    def __init__(self, parent: int, session: int, start: int) -> None:
        self.parent = parent
        self.session = session
        self.start = start


def look_at(pid: int) -> Process | None:
    """Return what the kernel says of `pid`, None if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib is not loaded
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie with more than one thread is a leader whose other threads live on.
    if fields[0] in b"ZX" and int(fields[17]) <= 1:
        return None
    return Process(int(fields[1]), int(fields[3]), int(fields[19]))


def task_of(pid: int) -> int | None:
    """Return the task whose environment `pid` still has, None if it has none or hides it."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            variables = file.read().split(b"\0")
    except OSError:
        return None
    values = [line[len(_MARK) :] for line in variables if line.startswith(_MARK)]
    return int(values[0]) if values and values[0].isdigit() else None


def processes() -> dict[int, Process]:
    """Return all living processes of the machine by pid."""
    found = ((int(name), look_at(int(name))) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return {pid: process for pid, process in found if process is not None}


def descendants(roots: Iterable[int], table: dict[int, Process]) -> set[int]:
    """Return the living among `roots` and everything below them."""
    below: dict[int, list[int]] = {}
    for pid, process in table.items():
        below.setdefault(process.parent, []).append(pid)
    tree: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        waiting.extend(child for child in below.get(pid, ()) if child not in tree)
        if pid in table:
            tree.add(pid)
    return tree


def send_signals(pid: int, start: int, *numbers: int) -> None:
    """Send signals to the process that began at `start`, never to a later one with its pid."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        process = look_at(pid)
        if process is not None and process.start == start:
            for number in numbers:
                signal.pidfd_send_signal(descriptor, number)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        os.close(descriptor)


def kill_round(roots: Iterable[int]) -> None:
    """SIGKILL the whole trees of `roots`; stopped first, so that they cannot outgrow the scan."""
    roots = list(roots)
    stopped: dict[int, int] = {}
    for _ in range(8):
        table = processes()
        fresh = descendants(roots, table) - stopped.keys()
        if not fresh:
            break
        for pid in fresh:
            stopped[pid] = table[pid].start
            send_signals(pid, table[pid].start, signal.SIGSTOP)
    for pid, start in stopped.items():
        send_signals(pid, start, signal.SIGKILL)
