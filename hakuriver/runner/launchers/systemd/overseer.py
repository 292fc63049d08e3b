"""Sees to a task in a scope: starts it, ends what it leaves, and writes its exit record.

Run as ``python -I -S overseer.py RECORD GRACE LIMITS -- COMMAND…`` inside the scope. A scope has
no main process and no command at its end, and it lives as long as something in it does: so this
detaches itself from whoever made the scope and stays beside the task. `LIMITS` are two words,
seconds and bytes or ``-``, as they stand in the record (see `records`).

SIGTERM, which the runner has systemd send to all of the scope, begins the task's end; SIGKILL
follows after the grace. Where it may, it has the kernel spare it when the task's memory is full,
and end the rest of the scope at once. Needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_CGROUP = "/sys/fs/cgroup"
_SPARED = "-1000"
_PAUSE = 0.05


class Overseer:
    """One task in this process's own control group."""

    def __init__(self, record: str, grace: float, limits: str) -> None:
        self._record = record
        self._grace = grace
        self._limits = limits
        time_limit = limits.split(maxsplit=1)[0]
        self._time_up = float("inf")
        if time_limit != "-":
            self._time_up = time.monotonic() + float(time_limit)
        self._deadline = float("inf")
        self._group = _CGROUP + _read("/proc/self/cgroup").partition("::")[2].strip()
        self._result = "success"
        self._code: int | None = None

    def spare_me(self) -> None:
        """Have the kernel end the task as a whole when its memory is full, but not this process."""
        try:
            _write("/proc/self/oom_score_adj", _SPARED)
        except OSError:  # only root may
            return
        with contextlib.suppress(OSError):
            _write(f"{self._group}/memory.oom.group", "1")

    def oversee(self, command: list[str]) -> None:
        """Start the command and return when nothing of it is left and its record is written."""
        wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        signal.signal(signal.SIGTERM, self._asked)
        child = subprocess.Popen(
            command,
            start_new_session=True,
            preexec_fn=_ordinary,  # noqa: PLW1509 - there is one thread
            stdin=subprocess.DEVNULL,
        )
        while not self._over(child):
            now = time.monotonic()
            if now >= self._time_up:
                self._time_up = float("inf")
                self._end("timeout")
            if now >= self._deadline:
                self._signal(signal.SIGKILL)
                self._deadline = now + _PAUSE
            wait = min(self._deadline, self._time_up) - time.monotonic()
            # What is no child of this process tells nothing of its end.
            timeout = _PAUSE if self._code is not None else min(max(wait, 0.0), 3600.0)
            if select.select([wake], [], [], timeout)[0]:
                os.read(wake, 4096)
        self._write_record()

    def _over(self, child: subprocess.Popen[bytes]) -> bool:
        if self._code is None and child.poll() is not None:
            self._code = child.returncode
            if "oom_kill 0" not in _read(f"{self._group}/memory.events"):
                self._result = "oom-kill"
            self._end(self._result)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return self._code is not None and not self._others()

    def _asked(self, *_: object) -> None:
        self._end(self._result)

    def _end(self, result: str) -> None:
        """SIGTERM everything else in the scope; SIGKILL when the grace is over."""
        self._result = result
        if self._deadline == float("inf"):
            self._deadline = time.monotonic() + self._grace
        self._signal(signal.SIGTERM, signal.SIGCONT)

    def _others(self) -> list[int]:
        own = os.getpid()
        return [pid for pid in map(int, _read(f"{self._group}/cgroup.procs").split()) if pid != own]

    def _signal(self, *numbers: int) -> None:
        for pid in self._others():
            for number in numbers:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def _write_record(self) -> None:
        code = self._code or 0
        ended = f"killed {-code}" if code < 0 else f"exited {code}"
        cpu = _read(f"{self._group}/cpu.stat").partition("usage_usec ")[2].partition("\n")[0]
        peak = _read(f"{self._group}/memory.peak").strip()
        state = subprocess.run(
            ("systemctl", "is-system-running"), stdout=subprocess.PIPE, check=False
        ).stdout.decode()
        line = f"{self._result} {ended} {cpu or '-'} {peak or '-'} {self._limits} {state or '-'}"
        with open(self._record, "w") as file:  # noqa: PTH123
            # sudo hands on the umask of the runner, which must be able to read this.
            os.fchmod(file.fileno(), 0o644)
            file.write(line.strip() + "\n")


def _noted(*_: object) -> None:
    """Take a signal that is heard of through the descriptor that it wakes."""


def _ordinary() -> None:
    """Undo for the task what was done for this process."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        _write("/proc/self/oom_score_adj", "0")


def _read(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)


def _detached() -> None:
    """Go on in a child that nobody waits for; the caller of this program sees it end well."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)


def main(words: list[str]) -> NoReturn:
    """Oversee the command among `words`."""
    split = words.index("--")
    record, grace, limits = words[:split]
    _detached()
    overseer = Overseer(record, float(grace), limits)
    overseer.spare_me()
    overseer.oversee(words[split + 1 :])
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
