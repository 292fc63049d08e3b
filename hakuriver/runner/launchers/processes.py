"""The machine's process table: who lives, what is below whom, and signals that hit the right one.

Needs the standard library alone: the keeper loads it.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MARK = b"HAKURIVER_TASK_ID="
_ROUNDS = 8
_BLOCK = 16 << 10


class Process:
    """One line of the process table: `start` is in clock ticks since boot."""

    __slots__ = ("parent", "session", "start")

    def __init__(self, parent: int, session: int, start: int) -> None:
        self.parent = parent
        self.session = session
        self.start = start


def read_proc(path: str) -> bytes:
    """Return the content of a file of the kernel's; quicker than `open` for what is so small."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while block := os.read(descriptor, _BLOCK):
            content += block
        return content
    finally:
        os.close(descriptor)


def look_at(pid: int) -> Process | None:
    """Return what the kernel says of `pid`, None if it is gone or a zombie."""
    try:
        fields = read_proc(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie with more than one thread is a leader whose other threads live on.
    if fields[0] in b"ZX" and int(fields[17]) <= 1:
        return None
    return Process(int(fields[1]), int(fields[3]), int(fields[19]))


def task_of(pid: int) -> int | None:
    """Return the task whose environment `pid` still has, None if it has none or hides it."""
    try:
        variables = read_proc(f"/proc/{pid}/environ").split(b"\0")
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
    return {pid for pid in _walk(roots, lambda pid: below.get(pid, ())) if pid in table}


def children_of(pid: int) -> list[int]:
    """Return the children of a process, zombies too; none if it is gone.

    Of this process's own none is missing, since nobody else reaps them. Of another's, one may be
    passed over while its siblings end: who must have all looks again until nothing new appears.
    """
    if not _KERNEL_TELLS:
        return [child for child, process in processes().items() if process.parent == pid]
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            children = read_proc(f"/proc/{pid}/task/{thread}/children")
            found.extend(map(int, children.split()))
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def pids_below(roots: Iterable[int]) -> list[int]:
    """Return `roots` and everything below them, zombies too."""
    if not _KERNEL_TELLS:
        return list(descendants(roots, processes()))
    return _walk(roots, children_of)


def tree(roots: Iterable[int]) -> dict[int, Process]:
    """Return the living among `roots` and below them, by pid."""
    found = ((pid, look_at(pid)) for pid in pids_below(roots))
    return {pid: process for pid, process in found if process is not None}


def _walk(roots: Iterable[int], below: Callable[[int], Iterable[int]]) -> list[int]:
    seen: dict[int, None] = {}
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen[pid] = None
            waiting.extend(below(pid))
    return list(seen)


def _kernel_tells() -> bool:
    """Whether the kernel lists a process's children (CONFIG_PROC_CHILDREN)."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110


_KERNEL_TELLS = _kernel_tells()


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


def signal_new(roots: Iterable[int], already: set[tuple[int, int]], *numbers: int) -> None:
    """Signal the trees of `roots` but for those in `already`, which those signalled join.

    Parents come first: a shell must not see its child end before it is to end itself.
    """
    roots = list(roots)
    for _ in range(_ROUNDS):
        found = [(pid, process.start) for pid, process in tree(roots).items()]
        marks = [mark for mark in found if mark not in already]
        if not marks:
            return
        already.update(marks)
        for pid, start in marks:
            send_signals(pid, start, *numbers)


def kill_round(roots: Iterable[int]) -> None:
    """SIGKILL the whole trees of `roots`; stopped first, so that they cannot outgrow the scan."""
    stopped: set[tuple[int, int]] = set()
    signal_new(roots, stopped, signal.SIGSTOP)
    for pid, start in stopped:
        send_signals(pid, start, signal.SIGKILL)
