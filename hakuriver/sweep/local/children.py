"""The processes of a sweep and the pipes to them."""

from __future__ import annotations

import fcntl
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hakuriver.sweep.local.spawn import Order, spawn
from hakuriver.sweep.trees import MARK

if TYPE_CHECKING:
    from collections.abc import Mapping

_READ = 1 << 16
#: Above all descriptors that a child is given by number.
_HIGH = 10


@dataclass(slots=True)
class Child:
    """A process and this side's descriptors for it, -1 where there is none."""

    pid: int = 0
    pidfd: int = -1
    stdout: int = -1
    stderr: int = -1
    calls: int = -1
    answers: int = -1

    def get(self, name: str) -> int:
        """Return one of the descriptors by its name."""
        found: int = getattr(self, name)
        return found

    def close_one(self, name: str) -> None:
        """Close a descriptor that is open."""
        os.close(self.get(name))
        setattr(self, name, -1)

    def close(self) -> None:
        """Close all descriptors that are still open."""
        for name in ("pidfd", "stdout", "stderr", "calls", "answers"):
            if self.get(name) >= 0:
                self.close_one(name)

    def is_started(self, pid: int) -> None:
        """Take note of the process's number, and open the descriptor that tells its end."""
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def reap(self) -> int:
        """Return the exit code of a process that has ended, -N after signal N."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def output_pipes() -> tuple[Child, dict[int, int]]:
    """Return this side of two pipes to read without waiting, and what their writer is given."""
    out, err = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    os.set_blocking(out[0], False)
    os.set_blocking(err[0], False)
    return Child(stdout=out[0], stderr=err[0]), {1: out[1], 2: err[1]}


def start_worker(function: str, environment: Mapping[bytes, bytes], null: int) -> Child:
    """Start a process that calls a function as often as it is told to; see `sweep.worker`.

    `null` is a descriptor of nothing, for its input. Raises `OSError` if it cannot be started.
    """
    command = (sys.executable, "-P", "-m", "hakuriver.sweep.worker", function)
    child, theirs = output_pipes()
    calls, answers = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    child.calls, child.answers = calls[1], answers[0]
    theirs = {number: _high(descriptor) for number, descriptor in theirs.items()}
    theirs |= {3: _high(calls[0]), 4: _high(answers[1])}
    try:
        child.is_started(spawn(Order(command, environment, {0: null, **theirs})))
    except BaseException:
        child.close()
        raise
    finally:
        for descriptor in theirs.values():
            os.close(descriptor)
    return child


def environment_for(
    base: Mapping[bytes, bytes], mark: str, **more: int | str
) -> dict[bytes, bytes]:
    """Return the environment of one process: `base`, its mark, and ``HAKURUN_`` variables."""
    variables = {f"HAKURUN_{name.upper()}": str(value) for name, value in more.items()}
    variables[MARK] = mark
    return {**base, **{name.encode(): value.encode() for name, value in variables.items()}}


def read_some(descriptor: int) -> bytes | None:
    """Return what a pipe holds, up to 64 KiB: empty at its end, None while it has nothing."""
    try:
        return os.read(descriptor, _READ)
    except BlockingIOError:
        return None


def _high(descriptor: int) -> int:
    """Move a descriptor out of the way of those that are given by number."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.close(descriptor)
    return high
