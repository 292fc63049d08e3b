"""The keeper: one small process that supervises the tasks of the ``process`` launcher.

Run as ``python -I -S keeper.py <folder>``. The first process ends as soon as the socket
``<folder>/keeper.sock`` listens; the one that stays is detached and outlives the runner. It ends
by itself when no runner is connected and no task is left. How a task ended is written to
``<folder>/exits.ndjson``, a line each, before anybody is told: the file is the truth.

Each task is looked after by a minder (see there), a child that the keeper forks ahead of need and
uses again; the keeper itself hands orders to minders, and their words to the runner.

The protocol is one JSON object a line. Requests: ``start`` (a `StartOrder`), ``kill``
(``id grace``), ``list`` and ``shutdown`` (``grace``). Events: ``hello``, ``started``,
``finished``, ``listed``, ``unknown`` (a kill of nothing) and ``error``.

The module needs the standard library alone and is single-threaded: it must be able to fork.
"""

from __future__ import annotations

import fcntl
import gc
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

from hakuriver.runner.launchers.crew import Crew, Member
from hakuriver.runner.launchers.minder import finished, stillborn, write_traceback
from hakuriver.runner.launchers.spawning import HANDLED, IGNORED, StartFault, adopt_orphans
from hakuriver.runner.launchers.wire import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 2
#: Exit status of a keeper that finds another one at work in its folder.
EXIT_TAKEN = 75

_FIRST_CONNECTION = 10.0
_TERM_GRACE = 5.0
_REMEMBERED = 1000
_EVERY_SIGNAL = signal.valid_signals()


class Keeper:
    """The event loop: runners on one side, the crew of minders on the other."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._connections: list[Connection] = []
        self._crew = Crew(self._selector)
        self._first = time.monotonic() + _FIRST_CONNECTION
        self._closing = False
        #: The tasks that were the last to end.
        self._over: dict[int, None] = {}

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
                write_traceback()
                time.sleep(0.1)

    def _idle(self) -> bool:
        if self._crew.tasks:
            return False
        return self._closing or (not self._connections and time.monotonic() >= self._first)

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
                elif isinstance(key.data, Member):
                    self._hear(key.data)
                else:
                    self._serve(key.data)
        finally:
            # Whatever failed above: an end that was signalled once is not signalled again.
            if children:
                self._bury()
        self._flush()
        if self._connections and not self._closing:
            self._crew.settle()

    def _patience(self) -> float | None:
        due = self._crew.due
        if not self._connections and not self._crew.tasks:
            due = self._first
        return None if due is None else max(0.0, due - time.monotonic())

    # Minders

    def _hear(self, member: Member) -> None:
        """Pass on what a minder says; the file was written before it said ``finished``."""
        for line in self._crew.read(member):
            event = json.loads(line)
            if event.pop("event") == "started":
                member.told = event
            else:
                self._note_over(event["id"])
                self._crew.release(member)
            self._say(line + b"\n")

    def _bury(self) -> None:
        """Tell of tasks whose minder died; their trees are gone, their exits unknown."""
        for task_id in self._crew.bury():
            self._note_over(task_id)
            self._tell({"event": "finished", "id": task_id})

    def _note_over(self, task_id: int) -> None:
        """Remember what must not start again; the runner's journal knows the older ones."""
        self._over[task_id] = None
        if len(self._over) > _REMEMBERED:
            del self._over[next(iter(self._over))]

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

    def _answer(self, connection: Connection, line: bytes) -> None:
        try:
            request = json.loads(line)
            handle = {
                "start": self._start,
                "kill": self._kill,
                "list": self._list,
                "shutdown": self._shut,
            }[request["request"]]
            handle(connection, request, line)
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = f"not understood: {type(error).__name__}"
            self._tell({"event": "error", "reason": reason}, connection)

    def _tell(self, event: dict[str, Any], connection: Connection | None = None) -> None:
        self._say(json.dumps(event).encode() + b"\n", connection)

    def _say(self, line: bytes, connection: Connection | None = None) -> None:
        for listener in [connection] if connection else self._connections:
            listener.outbox += line

    def _flush(self) -> None:
        """Send what this turn has said, at once."""
        for connection in list(self._connections):
            if connection.outbox and not connection.flush(self._selector, connection):
                self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    # Requests

    def _start(self, connection: Connection, order: dict[str, Any], line: bytes) -> None:
        # Looked at now: afterwards it is too late to refuse.
        task_id, _ = int(order["id"]), float(order["grace"])
        member = self._crew.tasks.get(task_id)
        if member is not None:
            if member.told is not None:
                self._tell({"event": "started", **member.told}, connection)
        elif task_id in self._over:
            self._tell({"event": "finished", "id": task_id}, connection)
        elif not self._closing:
            try:
                self._crew.give(task_id, line)
            except OSError as error:
                self._say_over(task_id, f"cannot start another process: {error.strerror}")

    def _say_over(self, task_id: int, reason: str) -> None:
        line = finished(task_id, stillborn(StartFault(reason)))
        self._note_over(task_id)
        if line is not None:
            self._say(line)
        else:
            self._tell({"event": "finished", "id": task_id})

    def _list(self, connection: Connection, _request: dict[str, Any], _line: bytes) -> None:
        members = self._crew.tasks.values()
        tasks = [member.told for member in members if member.told is not None]
        coming = [task_id for task_id, each in self._crew.tasks.items() if each.told is None]
        self._tell({"event": "listed", "tasks": tasks, "coming": coming}, connection)

    def _kill(self, connection: Connection, request: dict[str, Any], _line: bytes) -> None:
        task_id, grace = int(request["id"]), float(request["grace"])
        if task_id in self._crew.tasks:
            self._end(task_id, grace)
        else:
            self._tell({"event": "unknown", "id": task_id}, connection)

    def _shut(self, _connection: Connection, request: dict[str, Any], _line: bytes) -> None:
        self._shut_down(float(request["grace"]))

    def _shut_down(self, grace: float) -> None:
        self._closing = True
        for task_id in list(self._crew.tasks):
            self._end(task_id, grace)

    def _end(self, task_id: int, grace: float) -> None:
        request = {"request": "kill", "id": task_id, "grace": grace}
        self._crew.send(self._crew.tasks[task_id], json.dumps(request).encode())


def _noted(*_: object) -> None:
    """Handle a signal: that it came is read from the pipe."""


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
    os.makedirs(folder, 0o700, exist_ok=True)  # noqa: PTH103
    # A socket's path is short (108 bytes), the folder's may be long.
    os.chdir(folder)
    listener = _listen()
    _detach()
    adopt_orphans()
    # What is loaded stays: the collector must not touch its pages, which the minders share.
    gc.freeze()
    Keeper(listener).run()
    os.unlink("keeper.sock")  # noqa: PTH108


if __name__ == "__main__":
    main(sys.argv[1])
