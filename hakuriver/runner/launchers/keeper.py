"""The keeper: one small process that supervises the tasks of the ``process`` launcher.

Run as ``python -I -S keeper.py <folder>``. The first process ends as soon as the socket
``<folder>/keeper.sock`` listens; the one that stays is detached and outlives the runner. It ends
by itself when no runner is connected and no task is left. How a task ended is written to
``<folder>/exits/<id>.json`` before anybody is told: the file is the truth.

The protocol is one JSON object a line. Requests: ``start`` (with ``id argv env cwd stdout stderr
cpus numa_node grace``), ``kill`` (``id grace``), ``list`` and ``shutdown`` (``grace``). Events:
``hello``, ``started``, ``finished``, ``listed``, ``unknown`` (a kill of nothing) and ``error``.

The module needs the standard library alone and is single-threaded: it must be able to fork.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import time

if __name__ == "__main__":
    # Run by its path: its siblings are found, but nothing that the package itself imports.
    for _name in ("hakuriver", "hakuriver.runner", "hakuriver.runner.launchers"):
        sys.modules[_name] = type(sys)(_name)
    sys.modules[_name].__path__ = [__file__.rpartition("/")[0]]

from hakuriver.runner.launchers.child import HANDLED, IGNORED, adopt_orphans, run_child
from hakuriver.runner.launchers.processes import (
    descendants,
    kill_round,
    look_at,
    processes,
    send_signals,
    task_of,
)
from hakuriver.runner.launchers.wire import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1
#: Exit status of a keeper that finds another one at work in its folder.
EXIT_TAKEN = 75

_FIRST_CONNECTION = 10.0
_RETRY = 1.0
_TERM_GRACE = 5.0
_HUNT = 200
_EVERY_SIGNAL = signal.valid_signals()


class Task:
    """One task from its fork until its exit record is written."""

    def __init__(self, order: dict[str, Any], pid: int, pipe: int) -> None:
        self.id: int = order["id"]
        self.grace: float = order["grace"]
        self.pid = pid
        self.pipe = pipe
        self.started_at = time.time()
        process = look_at(pid)
        self.start = process.start if process else 0
        #: The program itself runs: the child got past its exec.
        self.running = False
        self.fault: dict[str, Any] | None = None
        self.killed = False
        self.record: dict[str, Any] | None = None
        self.signalled: set[tuple[int, int]] = set()
        #: When SIGTERM turns into SIGKILL (monotonic seconds), None while nothing is to end.
        self.deadline: float | None = None
        self.due: float | None = None

    def told(self) -> dict[str, Any]:
        """Return what a runner may know of a running task."""
        return {
            "id": self.id,
            "pid": self.pid,
            "start": self.start,
            "started_at": self.started_at,
        }

    def ended(self, code: int) -> None:
        """Note how the main process ended; the tree below it may live on."""
        fault = self.fault
        self.record = {
            "exit_code": fault["code"] if fault else code,
            "started_at": None if fault else self.started_at,
            "completed_at": time.time(),
            "killed": self.killed,
            "reason": fault["reason"] if fault else None,
        }


class Keeper:
    """The event loop and everything it knows."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._connections: list[Connection] = []
        self._tasks: dict[int, Task] = {}
        self._by_pid: dict[int, Task] = {}
        #: Children that are nobody's main process, with the ended tasks they may belong to.
        self._leftovers: dict[int, set[int]] = {}
        self._first = time.monotonic() + _FIRST_CONNECTION
        self._closing: float | None = None

    def run(self) -> None:
        """Serve until there is nothing left to do."""
        wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in HANDLED:  # the loop hears of them through the pipe
            signal.signal(number, _noted)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(wake, selectors.EVENT_READ)
        while not self._idle():
            try:
                self._turn(wake)
            except Exception:  # noqa: BLE001 - the top of a process that must not die
                _write_traceback()
                time.sleep(0.1)

    def _idle(self) -> bool:
        if self._tasks:
            return False
        if self._closing is not None:
            return True
        return not self._connections and time.monotonic() >= self._first

    def _turn(self, wake: int) -> None:
        children = False
        try:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fd == wake:
                    children = True
                    if signal.SIGTERM in os.read(wake, 4096):
                        self._shut_down(_TERM_GRACE)
                elif isinstance(key.data, Task):
                    self._hear_child(key.data)
                else:
                    self._serve(key.data)
        finally:
            # Whatever failed above: an end that was signalled once is not signalled again.
            if children:
                self._reap()
        self._press()

    def _patience(self) -> float | None:
        moments = [task.due for task in self._tasks.values() if task.due is not None]
        if not self._connections and not self._tasks:
            moments.append(self._first)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    # Runners

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        self._first = 0.0
        peer.setblocking(False)
        connection = Connection(peer)
        self._connections.append(connection)
        self._selector.register(peer, selectors.EVENT_READ, connection)
        self._tell({"event": "hello", "protocol": PROTOCOL, "pid": os.getpid()}, connection)

    def _serve(self, connection: Connection) -> None:
        lines = connection.read()
        if lines is None:
            self._drop(connection)
            return
        for line in lines:
            self._answer(connection, line)
        self._flush(connection)

    def _answer(self, connection: Connection, line: bytes) -> None:
        try:
            request = json.loads(line)
            handle = {
                "start": self._start,
                "kill": self._kill,
                "list": self._list,
                "shutdown": self._shut,
            }[request["request"]]
            handle(connection, request)
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = f"not understood: {type(error).__name__}"
            self._tell({"event": "error", "reason": reason}, connection)

    def _tell(self, event: dict[str, Any], connection: Connection | None = None) -> None:
        line = json.dumps(event).encode() + b"\n"
        for listener in [connection] if connection else list(self._connections):
            listener.outbox += line
            self._flush(listener)

    def _flush(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        if not connection.write():
            self._drop(connection)
            return
        writable = selectors.EVENT_WRITE if connection.outbox else 0
        self._selector.modify(connection.socket, selectors.EVENT_READ | writable, connection)

    def _drop(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    # Requests

    def _start(self, connection: Connection, order: dict[str, Any]) -> None:
        # Looked at now: after the fork it is too late to refuse.
        order["id"], order["grace"] = int(order["id"]), float(order["grace"])
        known = self._tasks.get(order["id"])
        if known is not None:
            if known.running:
                self._tell({"event": "started", **known.told()}, connection)
        elif os.path.exists(_record(order["id"])):  # noqa: PTH110
            self._tell({"event": "finished", "id": order["id"]}, connection)
        elif self._closing is None:
            self._fork(order)

    def _fork(self, order: dict[str, Any]) -> None:
        try:
            pipe, pipe_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._stillborn(order, f"cannot start another process: {error.strerror}")
            return
        # A SIGTERM between fork and exec must end the child, not be swallowed by our handler.
        inherited = signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
        try:
            pid = os.fork()
            if pid == 0:
                run_child(order, pipe_write)
        except OSError as error:
            self._stillborn(order, f"cannot start another process: {error.strerror}")
            os.close(pipe)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, inherited)
            os.close(pipe_write)
        task = Task(order, pid, pipe)
        self._tasks[task.id] = self._by_pid[pid] = task
        self._selector.register(pipe, selectors.EVENT_READ, task)

    def _stillborn(self, order: dict[str, Any], reason: str) -> None:
        task = Task(order, 0, -1)
        task.fault = {"reason": reason, "code": None}
        self._tasks[task.id] = task
        task.ended(0)
        self._over(task)

    def _list(self, connection: Connection, _request: dict[str, Any]) -> None:
        tasks = [task.told() for task in self._tasks.values()]
        self._tell({"event": "listed", "tasks": tasks}, connection)

    def _kill(self, connection: Connection, request: dict[str, Any]) -> None:
        task = self._tasks.get(request["id"])
        if task is None:
            self._tell({"event": "unknown", "id": request["id"]}, connection)
        else:
            self._end(task, float(request["grace"]))

    def _shut(self, _connection: Connection, request: dict[str, Any]) -> None:
        self._shut_down(float(request["grace"]))

    def _shut_down(self, grace: float) -> None:
        self._closing = grace
        for task in list(self._tasks.values()):
            self._end(task, grace)

    # Children

    def _hear_child(self, task: Task) -> None:
        """Read what the child said before its exec: nothing means that the program runs."""
        if task.pipe < 0:
            return
        try:
            words = os.read(task.pipe, 8192)
        except BlockingIOError:
            return
        self._close_pipe(task)
        if words:
            task.fault = json.loads(words)
        else:
            task.running = True
            self._tell({"event": "started", **task.told()})

    def _close_pipe(self, task: Task) -> None:
        if task.pipe >= 0:
            self._selector.unregister(task.pipe)
            os.close(task.pipe)
            task.pipe = -1

    def _reap(self) -> None:
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                break
            if info is None:
                break
            task = self._by_pid.pop(info.si_pid, None)
            if task is not None:
                self._hear_child(task)
                exited = info.si_code == os.CLD_EXITED
                task.ended(info.si_status if exited else -info.si_status)
        self._settle()

    def _settle(self) -> None:
        """Finish the ended tasks that left nothing behind; end what the others left."""
        ended = [task for task in self._tasks.values() if task.record is not None]
        if not ended:
            return
        strays = _children() - self._by_pid.keys()
        self._claim(strays, ended)
        for task in ended:
            mine = [pid for pid, owners in self._leftovers.items() if task.id in owners]
            if not mine:
                self._over(task)
            elif task.deadline is None:
                self._end(task, task.grace)
            elif time.monotonic() < task.deadline:
                self._signal_tree(mine, task)
            else:
                kill_round(mine)

    def _claim(self, strays: set[int], ended: list[Task]) -> None:
        """Say whose each stray is: session or environment tell, else any that has ended."""
        sessions = {task.pid: task.id for task in self._tasks.values()}
        claimed: dict[int, set[int]] = {}
        for pid in strays:
            process = look_at(pid)
            if process is None:  # a zombie; its SIGCHLD is on the way
                continue
            if pid in self._leftovers:
                claimed[pid] = self._leftovers[pid]
            elif process.session in sessions:
                claimed[pid] = {sessions[process.session]}
            elif (marked := task_of(pid)) in self._tasks:
                claimed[pid] = {marked}
            else:
                claimed[pid] = {task.id for task in ended}
        self._leftovers = claimed

    def _hunt(self, task: Task) -> None:
        """SIGKILL the task's strays as fast as they appear.

        One that forks and exits for ever outruns a scan of the process table, but not this. They
        are our children and not reaped meanwhile, so that their pids cannot be others'.
        """
        for _ in range(_HUNT):
            self._claim(_children() - self._by_pid.keys(), [task])
            strays = self._roots(task)
            if not strays:
                return
            for pid in strays:
                try:
                    os.kill(pid, signal.SIGKILL)
                except PermissionError:  # it took another user's rights
                    return

    def _end(self, task: Task, grace: float) -> None:
        """Ask the task's whole tree to end, and set the moment when it is made to."""
        if task.record is None:
            task.killed = True
        deadline = time.monotonic() + grace
        # A second kill may shorten the grace, never lengthen it.
        task.deadline = min(deadline, task.deadline or deadline)
        task.due = task.deadline
        self._signal_tree(self._roots(task), task)

    def _roots(self, task: Task) -> list[int]:
        if task.record is None:
            return [task.pid]
        return [pid for pid, owners in self._leftovers.items() if task.id in owners]

    def _signal_tree(self, roots: list[int], task: Task) -> None:
        table = processes()
        for pid in descendants(roots, table):
            mark = (pid, table[pid].start)
            if mark not in task.signalled:
                task.signalled.add(mark)
                send_signals(*mark, signal.SIGTERM, signal.SIGCONT)

    def _press(self) -> None:
        """Do what is due: SIGKILL what outlived its grace, write what could not be written."""
        now = time.monotonic()
        for task in [task for task in self._tasks.values() if (task.due or now + 1) <= now]:
            roots = self._roots(task)
            if roots:
                task.due = now + min(_RETRY, 0.02 + (now - (task.deadline or now)) / 4)
                kill_round(roots)
                if task.record is not None:
                    self._hunt(task)
            else:
                task.due = None
                self._settle()

    def _over(self, task: Task) -> None:
        """Write the exit record, then tell: from here on the file alone speaks of the task."""
        path = _record(task.id)
        try:
            descriptor = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
                json.dump(task.record, file)
            os.rename(f"{path}.tmp", path)  # noqa: PTH104
        except OSError as error:
            sys.stderr.write(f"exit record {path}: {error.strerror}\n")
            task.due = time.monotonic() + _RETRY
            return
        self._close_pipe(task)
        del self._tasks[task.id]
        self._tell({"event": "finished", "id": task.id, "record": task.record})


def _noted(*_: object) -> None:
    """Handle a signal: that it came is read from the pipe."""


def _write_traceback() -> None:
    kind, error, traceback = sys.exc_info()
    if kind is not None and error is not None:
        sys.excepthook(kind, error, traceback)


def _record(task_id: int) -> str:
    return f"exits/{int(task_id)}.json"


def _children() -> set[int]:
    """Return this process's own children. Reliable, since nobody but us reaps them."""
    pid = os.getpid()
    try:
        with open(f"/proc/self/task/{pid}/children", "rb") as file:  # noqa: PTH123
            return {int(child) for child in file.read().split()}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return {child for child, process in processes().items() if process.parent == pid}


def _listen() -> socket.socket:
    """Take the folder (the working directory) and listen in it; end if another keeper has it."""
    lock = os.open("keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(EXIT_TAKEN)
    if os.path.lexists("keeper.sock"):  # of a keeper that was killed
        os.unlink("keeper.sock")  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    listener.bind("keeper.sock")
    os.umask(mask)
    listener.listen(16)
    listener.setblocking(False)
    return listener


def _detach() -> None:
    """Go to the background; whoever waits for the first process is told that all is ready."""
    log = os.open("keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.close(null)
    os.close(log)


def main(folder: str) -> None:
    """Be the keeper of `folder`: take it, go to the background, serve."""
    os.closerange(3, 1 << 16)
    for number in _EVERY_SIGNAL - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in IGNORED else signal.SIG_DFL)
    os.makedirs(f"{folder}/exits", 0o700, exist_ok=True)  # noqa: PTH103
    # A socket's path is short (108 bytes), the folder's may be long.
    os.chdir(folder)
    listener = _listen()
    _detach()
    adopt_orphans()
    Keeper(listener).run()
    os.unlink("keeper.sock")  # noqa: PTH108


if __name__ == "__main__":
    main(sys.argv[1])
