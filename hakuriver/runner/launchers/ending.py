"""Ending everything below a process that adopts its orphans: SIGTERM, a grace, SIGKILL.

Needs the standard library alone: the keeper loads it.
"""

from __future__ import annotations

import os
import signal
import time

from hakuriver.runner.launchers.processes import children_of, kill_round, look_at, signal_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_HUNT = 200
_FIRST_PAUSE = 0.02
_LAST_PAUSE = 1.0
_LAST_ROUNDS = 200
_LAST_WAIT = 0.01


class Ending:
    """The end of everything below this process, once it is asked for."""

    def __init__(self) -> None:
        #: When to `press` (monotonic seconds), None while nothing is to end.
        self.due: float | None = None
        self._deadline = 0.0
        self._signalled: set[tuple[int, int]] = set()

    def ask(self, grace: float) -> None:
        """SIGTERM now, SIGKILL in `grace` seconds; once more may shorten the grace."""
        deadline = time.monotonic() + grace
        if self.due is None or deadline < self._deadline:
            self.due = self._deadline = deadline
        self.go_on()

    def at_once(self) -> None:
        """SIGKILL now."""
        self.due = self._deadline = time.monotonic()
        self.press()

    def go_on(self) -> None:
        """SIGTERM those that appeared since; after the grace, SIGKILL."""
        if time.monotonic() >= self._deadline:
            self.press()
            return
        signal_new(_own(), self._signalled, signal.SIGTERM, signal.SIGCONT)

    def press(self) -> None:
        """SIGKILL what outlived its grace, if it is over; what does not end is tried again."""
        now = time.monotonic()
        if self.due is None or now < self.due:
            return
        self.due = now + min(_LAST_PAUSE, _FIRST_PAUSE + (now - self._deadline) / 4)
        kill_round(_own())
        _hunt(_own)


def end_all(children: Callable[[], list[int]]) -> None:
    """SIGKILL the trees of `children`, who are this process's own, and reap them; in seconds."""
    for _ in range(_LAST_ROUNDS):
        roots = children()
        if not roots:
            return
        kill_round(roots)
        _hunt(children)
        for pid in children():
            os.waitpid(pid, os.WNOHANG)
        time.sleep(_LAST_WAIT)


def end_own() -> None:
    """SIGKILL everything below this process and reap it, within seconds."""
    end_all(_own)


def _own() -> list[int]:
    return children_of(os.getpid())


def _hunt(children: Callable[[], list[int]]) -> None:
    """SIGKILL this process's `children` as fast as they appear.

    One that forks and exits for ever outruns a scan of the process table, but not this. They are
    not reaped meanwhile, so that their pids cannot be others'.
    """
    for _ in range(_HUNT):
        living = [pid for pid in children() if look_at(pid)]
        if not living:
            return
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except PermissionError:  # it took another user's rights
                return
