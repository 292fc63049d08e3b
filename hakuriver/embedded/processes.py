"""Starting a daemon that outlives its starter, and ending it by its id."""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_STOP_SECONDS = 10.0


class Daemon(msgspec.Struct, frozen=True):
    """A process of ours: its id, and when it was started, since ids come again."""

    pid: int
    started: float

    def find(self) -> psutil.Process | None:
        """Return the process, None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1
            ended = process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same and not ended else None


def spawn(arguments: Sequence[str], log: Path, *, keep: int | None = None) -> Daemon:
    """Start ``python -m hakuriver`` with `arguments`, in a session of its own.

    Its output goes to `log`, which begins anew. The descriptor `keep` stays open in it.
    """
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if keep is not None:
            os.set_inheritable(keep, True)
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "hakuriver", *arguments],
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, descriptor, 1),
                (os.POSIX_SPAWN_DUP2, descriptor, 2),
            ],
            # An interrupt in the caller's terminal or kernel is not meant for it.
            setsid=True,
        )
    finally:
        os.close(descriptor)
    return Daemon(pid, psutil.Process(pid).create_time())


def _environment() -> dict[str, str]:
    """Return the caller's environment without settings that would override the files'."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HAKURIVER_")}


def end(daemons: Sequence[Daemon]) -> None:
    """End the daemons, the last one first; those that do not end when told are killed."""
    running = [process for daemon in daemons if (process := daemon.find()) is not None]
    for process in reversed(running):
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    stubborn = _outlasting(running)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _outlasting(stubborn)


def _outlasting(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to end; return those that have not in ten seconds.

    A process has ended when it has exited, though whoever is to collect it may be slow.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    lasting: list[psutil.Process] = []
    for process in processes:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        if not ended.poll(max(0.0, deadline - time.monotonic()) * 1000):
            lasting.append(process)
        os.close(descriptor)
        # Those that this process itself started are for it to collect.
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
    return lasting
