"""A minder: a process that looks after one task at a time, forked by the keeper and used again.

It starts the program, adopts all orphans below it, holds the task to its limits, ends it when
asked, and writes its exit record. Whatever is below a minder belongs to its task, also after
``setsid``, a double fork or with its environment scrubbed; the task is over when nothing is. A
minder whose keeper is gone ends its task at once and then itself.

Needs the standard library alone. Times are monotonic seconds unless named `…_at`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import select
import signal
import sys
import time

from hakuriver.runner.launchers.ending import Ending, end_own
from hakuriver.runner.launchers.memory import Watch
from hakuriver.runner.launchers.processes import children_of, look_at
from hakuriver.runner.launchers.spawning import StartFault, adopt_orphans, spawn
from hakuriver.runner.launchers.wire import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, NoReturn

#: The file of the exit records, seen from the keeper's folder.
EXITS = "exits.ndjson"

_RETRY = 1.0
_LONGEST = 3600.0
_MAX_REASON = 500


def finished(task_id: int, record: dict[str, Any]) -> bytes | None:
    """Write a task's exit record; return the line that tells of it, None if that was impossible.

    The line ends whatever a full disk has left of the one before.
    """
    event = {"event": "finished", "id": task_id, "record": record}
    line = json.dumps(event).encode() + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(EXITS, flags, 0o600)
        try:
            if os.write(descriptor, b"\n" + line) <= len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        _complain(f"exit record of task {task_id}: {error.strerror}\n")
        return None
    return line


def _complain(words: str) -> None:
    try:
        os.write(2, words.encode())
    except OSError:  # the disk that is full for the record may be so for the log
        return


def stillborn(fault: StartFault) -> dict[str, Any]:
    """Return the record of a task whose program could not be started."""
    return {
        "exit_code": fault.code,
        "started_at": None,
        "completed_at": time.time(),
        # A path may hold bytes that no message can carry.
        "reason": fault.reason[:_MAX_REASON].encode("utf-8", "backslashreplace").decode(),
    }


class Task:
    """The task at hand, from its order until its exit record is written."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.id = int(order["id"])
        self.grace = float(order["grace"])
        self.pid = 0
        self.started_at = time.time()
        self.time_limit: float | None = order.get("time_limit")
        self.time_up = math.inf
        if self.time_limit is not None:
            self.time_up = time.monotonic() + self.time_limit
        limit: int | None = order.get("memory_limit")
        self.memory = Watch(limit) if limit is not None else None
        self.ending = Ending()
        #: Why the task is being ended: the first cause counts.
        self.cause: tuple[str, float | None] | None = None
        self.record: dict[str, Any] | None = None

    def blame(self, cause: str, limit: float | None = None) -> None:
        """Note why the task is about to end; what ended by itself is not blamed on anything."""
        if self.cause is None and self.record is None:
            self.cause = (cause, limit)

    def ended(self, code: int) -> None:
        """Note how the main process ended; the tree below it may live on."""
        cause, limit = self.cause or (None, None)
        self.record = {
            "exit_code": code,
            "started_at": self.started_at,
            "completed_at": time.time(),
            "cause": cause,
            "limit": limit,
            "peak_memory_bytes": self.memory.peak if self.memory else None,
        }

    def due(self) -> float:
        """Return when something is to be done for it."""
        moments = [math.inf if self.ending.due is None else self.ending.due]
        if self.record is None:
            moments.append(self.time_up)
        if self.memory is not None:
            moments.append(self.memory.due)
        return min(moments)


class Minder:
    """The loop of a minder, and the task that it has at hand."""

    def __init__(self, peer: socket.socket, wake: int) -> None:
        self._peer = peer
        self._connection = Connection(peer)
        self._wake = wake
        self._home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._cpus = os.sched_getaffinity(0)
        self._poll = select.poll()
        self._poll.register(peer, select.POLLIN)
        self._poll.register(wake, select.POLLIN)
        self._task: Task | None = None
        #: When to try again to write a record.
        self._retry = math.inf

    def turn(self) -> bool:
        """Wait for what happens next and do what it asks for; False when the keeper is gone."""
        for descriptor, _ in self._poll.poll(self._patience()):
            if descriptor == self._wake:
                os.read(self._wake, 4096)
                continue
            lines = self._connection.read()
            if lines is None:
                return False
            for line in lines:
                self._obey(json.loads(line))
        if self._task is not None:
            self._tend(self._task)
        return True

    def _patience(self) -> int | None:
        if self._task is None:
            return None
        # With nothing left but the record to write, nothing else is due.
        due = self._task.due() if self._retry == math.inf else self._retry
        if due == math.inf:
            return None
        return math.ceil(min(max(0.0, due - time.monotonic()), _LONGEST) * 1000)

    def _obey(self, request: dict[str, Any]) -> None:
        task = self._task
        if request["request"] == "start" and task is None:
            self._start(request)
        elif request["request"] == "kill" and task is not None and task.id == request["id"]:
            task.blame("killed")
            task.ending.ask(request["grace"])

    def _start(self, order: dict[str, Any]) -> None:
        task = self._task = Task(order)
        try:
            task.pid = spawn(order, home=self._home, cpus=self._cpus)
        except StartFault as fault:
            task.record = stillborn(fault)
        except (OSError, ValueError, TypeError, KeyError) as error:
            task.record = stillborn(StartFault(f"cannot start: {error}"))
        else:
            process = look_at(task.pid)
            told = {
                "event": "started",
                "id": task.id,
                "pid": task.pid,
                "start": process.start if process else 0,
                "started_at": task.started_at,
            }
            self._peer.sendall(json.dumps(told).encode() + b"\n")

    def _tend(self, task: Task) -> None:
        """Take the codes of what ended, do what is due, and finish the task when it is over."""
        now = time.monotonic()
        if self._reaped_all(task):
            if self._retry == math.inf or now >= self._retry:
                self._over(task)
            return
        if task.record is not None:
            # Its main process is gone: what it left behind goes as well.
            task.ending.ask(task.grace) if task.ending.due is None else task.ending.go_on()
        elif now >= task.time_up:
            task.time_up = math.inf
            task.blame("timeout", task.time_limit)
            task.ending.ask(task.grace)
        if (
            task.memory is not None
            and now >= task.memory.due
            and task.memory.exceeded(children_of(os.getpid()))
        ):
            task.blame("memory", task.memory.limit)
            task.memory.due = math.inf
            task.ending.at_once()
        task.ending.press()

    def _reaped_all(self, task: Task) -> bool:
        """Take the codes of what ended; return whether nothing is left below this process."""
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return True
            if info is None:
                return False
            if info.si_pid == task.pid and task.record is None:
                exited = info.si_code == os.CLD_EXITED
                task.ended(info.si_status if exited else -info.si_status)

    def _over(self, task: Task) -> None:
        """Write the exit record, then tell: from here on the file alone speaks of the task."""
        line = finished(task.id, task.record) if task.record else None
        if line is None and os.fstat(self._home).st_nlink == 0:
            raise ConnectionError("the folder is gone, and with it whoever would read the record")
        if line is None:
            self._retry = time.monotonic() + _RETRY
            return
        self._retry = math.inf
        self._task = None
        self._peer.sendall(line)


def mind(peer: socket.socket) -> NoReturn:
    """Be a minder, in a child that the keeper forked with all signals blocked, until it closes."""
    status = 1
    try:
        minder = _made(peer)
        while minder.turn():
            pass
        status = 0
    except ConnectionError:
        status = 0
    except BaseException:  # noqa: BLE001 - the top of a process
        write_traceback()
    end_own()
    os._exit(status)


def _made(peer: socket.socket) -> Minder:
    signal.set_wakeup_fd(-1)
    # What the keeper has open is not ours: a descriptor that stays keeps its other end waiting.
    os.closerange(3, peer.fileno())
    os.closerange(peer.fileno() + 1, 1 << 20)
    adopt_orphans()
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return Minder(peer, wake)


def write_traceback() -> None:
    """Write the exception being handled to the keeper's log."""
    kind, error, traceback = sys.exc_info()
    if kind is not None and error is not None:
        sys.excepthook(kind, error, traceback)
