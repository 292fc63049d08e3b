"""The keeper's minders: who has which task, who waits for one, and what becomes of the dead.

Needs the standard library alone: the keeper loads it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time

from hakuriver.runner.launchers.ending import end_all
from hakuriver.runner.launchers.minder import mind
from hakuriver.runner.launchers.processes import children_of
from hakuriver.runner.launchers.wire import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: One minder waits always; more of them, at most so many, for a while after their last task.
_MOST_WAITING = max(2, os.cpu_count() or 1)
_WAIT = 2.0
_EVERY_SIGNAL = signal.valid_signals()


class Member:
    """One minder, seen from the keeper; `told` is what it said of the task that it started."""

    def __init__(self, pid: int, peer: socket.socket) -> None:
        self.pid = pid
        self.connection = Connection(peer)
        self.task_id: int | None = None
        self.told: dict[str, Any] | None = None
        self.since = time.monotonic()


class Crew:
    """All minders of this keeper, their sockets registered with `selector`."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._members: dict[int, Member] = {}
        #: Those without a task; the last one is used first, so that the others can go.
        self._waiting: list[Member] = []
        #: Who looks after which task.
        self.tasks: dict[int, Member] = {}

    @property
    def due(self) -> float | None:
        """When `settle` has something to do again (monotonic seconds)."""
        return self._waiting[0].since + _WAIT if len(self._waiting) > 1 else None

    def give(self, task_id: int, line: bytes) -> None:
        """Have a minder start a task; raise `OSError` if there can be none."""
        member = self._waiting.pop() if self._waiting else self._hire()
        member.task_id, member.told = task_id, None
        self.tasks[task_id] = member
        self.send(member, line)

    def send(self, member: Member, line: bytes) -> None:
        """Send a request; one to a minder that just died is answered by `bury`."""
        member.connection.outbox += line + b"\n"
        self._flush(member)

    def read(self, member: Member) -> list[bytes]:
        """Return what a minder says, and send on what it had not taken yet."""
        lines = member.connection.read()
        if lines is None:
            self._dismiss(member)
            return []
        if member.connection.outbox:
            self._flush(member)
        return lines

    def release(self, member: Member) -> None:
        """Take a minder back whose task is over."""
        if member.task_id is not None:
            del self.tasks[member.task_id]
        member.task_id = member.told = None
        member.since = time.monotonic()
        self._waiting.append(member)

    def settle(self) -> None:
        """Have one minder wait for the next task, and let those go that waited long."""
        if not self._waiting:
            try:
                self._waiting.append(self._hire())
            except OSError:  # told of the task that finds none
                return
        now = time.monotonic()
        while len(self._waiting) > 1 and (
            len(self._waiting) > _MOST_WAITING or now >= self._waiting[0].since + _WAIT
        ):
            self._dismiss(self._waiting[0])

    def bury(self) -> list[int]:
        """Reap minders; return the tasks of those that died over them, ended with their trees."""
        orphaned: list[int] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                # A stopped minder holds its task to no limit, and hears of no kill.
                if pid in self._members:
                    os.kill(pid, signal.SIGCONT)
                continue
            member = self._members.pop(pid, None)
            if member is None:
                continue
            self._dismiss(member)
            if member.task_id is not None:
                orphaned.append(member.task_id)
        if orphaned:
            # Now they are our children: nothing else than a dead minder's tree ever is.
            end_all(lambda: [pid for pid in children_of(os.getpid()) if pid not in self._members])
        for task_id in orphaned:
            del self.tasks[task_id]
        return orphaned

    def _hire(self) -> Member:
        ours, theirs = socket.socketpair()
        # A signal between fork and its new handlers must not be heard in the keeper's pipe.
        inherited = signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
        try:
            pid = os.fork()
            if pid == 0:
                mind(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, inherited)
            theirs.close()
        ours.setblocking(False)
        member = self._members[pid] = Member(pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, member)
        return member

    def _flush(self, member: Member) -> None:
        closed = member.connection.socket.fileno() < 0
        if not closed and not member.connection.flush(self._selector, member):
            self._dismiss(member)

    def _dismiss(self, member: Member) -> None:
        """Close a minder's socket: it ends what it has left, and then itself."""
        if member in self._waiting:
            self._waiting.remove(member)
        if member.connection.socket.fileno() >= 0:
            self._selector.unregister(member.connection.socket)
            member.connection.socket.close()
