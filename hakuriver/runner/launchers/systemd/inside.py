"""The first program of a task's unit: it puts on what systemd cannot, and becomes the task.

Run as ``python -I -S inside.py FILE`` by systemd, in the task's own control group and as the
task's own user. FILE holds the order as JSON. It is emptied as soon as it is read: the values of
variables lie on no disk while the task runs, nobody can start the task a second time, and the
file's time says when it started. What cannot be started is told in the same file.

Logs are opened here, in the task's uid and never through a link: the manager would open them as
root. Isolation is looked at from the inside, since systemd may go on without a namespace where
the kernel forbids one: such a task is refused rather than run open.

In process ids of its own the task must not be the first process, which ignores SIGTERM: a small
init stays in front, forwards signals and reaps. Needs the standard library alone.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import sys

if __name__ == "__main__":
    # Run by its path: its neighbours are found, but nothing that the package itself imports.
    for _name in ("hakuriver", "hakuriver.runner", "hakuriver.runner.launchers"):
        sys.modules[_name] = type(sys)(_name)
    sys.modules[_name].__path__ = [__file__.rpartition("/")[0].rpartition("/")[0]]

from hakuriver.runner.launchers.spawning import HANDLED, IGNORED, StartFault, become, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The exit code of a task that was not started for a reason that has no code of its own.
EXIT_FAULT = 125
_SIGNAL_BASE = 128
_MAX_REASON = 500
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(path: str) -> int:
    """Become the task whose order lies in `path`; return an exit code where that fails."""
    try:
        word = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # it is not to be started any more
        return EXIT_FAULT
    content = _taken(word)
    if not content:
        return EXIT_FAULT
    order: dict[str, Any] = json.loads(content)
    try:
        _check_isolation(order)
        if "script" in order:
            _write_script(*order["script"])
        if order["private_pid"] is not None:
            return _init(order, word)
        become(order)
    except StartFault as fault:
        return _tell(word, fault)
    except (OSError, ValueError, TypeError, KeyError) as error:
        return _tell(word, StartFault(f"cannot start: {error}"))


def _taken(word: int) -> bytes:
    """Read the order and empty its file; nothing if it was read before, or taken back."""
    # A runner that comes back may be taking it back at this moment.
    fcntl.flock(word, fcntl.LOCK_EX)
    content = b""
    if os.fstat(word).st_nlink == 0:
        return content
    while block := os.read(word, 1 << 20):
        content += block
    os.ftruncate(word, 0)
    fcntl.flock(word, fcntl.LOCK_UN)
    return content


def _write_script(path: str, encoded: str) -> None:
    """Write the task's script, with the rights of the task and never through a link."""
    name = path.encode()
    try:
        if os.path.lexists(name):
            os.unlink(name)  # noqa: PTH108
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o700), "wb") as file:  # noqa: PTH123
            file.write(base64.b64decode(encoded))
    except OSError as error:
        raise StartFault(f"cannot write {path}: {error.strerror}") from None


def _tell(word: int, fault: StartFault) -> int:
    """Write down why the task was not started; return the exit code that goes with it."""
    code = EXIT_FAULT if fault.code is None else fault.code
    # A path may hold bytes that no message can carry.
    reason = fault.reason[:_MAX_REASON].encode("utf-8", "backslashreplace").decode()
    _write(word, {"code": code, "fault": reason, "exit_code": fault.code})
    return code


def _write(word: int, content: dict[str, Any]) -> None:
    os.pwrite(word, json.dumps(content).encode(), 0)


def _check_isolation(order: dict[str, Any]) -> None:
    """Raise `StartFault` unless each namespace asked for is another one than the machine's."""
    for kind, what in (("net", "private_network"), ("pid", "private_pid")):
        outside = order[what]
        if outside is not None and os.readlink(f"/proc/self/ns/{kind}") == outside:  # noqa: PTH115
            words = what.replace("_", " ")
            raise StartFault(f"{words}: the kernel gave the task no namespace of its own")
    if order["private_pid"] is not None and os.readlink("/proc/self") != str(os.getpid()):  # noqa: PTH115
        raise StartFault("private pid: /proc would show the processes of the whole machine")


def _init(order: dict[str, Any], word: int) -> int:
    """Be the first process of the task's own process ids until its program has ended.

    A signal that ended the program is told in the file: the first process cannot end itself by
    one. When it exits, the kernel ends all that is left.
    """
    started_at = os.fstat(word).st_mtime
    signal.pthread_sigmask(signal.SIG_BLOCK, (*_FORWARDED, signal.SIGCHLD))
    home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    pid = spawn(order, home=home, cpus=os.sched_getaffinity(0))
    while (code := _reaped(pid)) is None:
        number = signal.sigwait((*_FORWARDED, signal.SIGCHLD))
        if number != signal.SIGCHLD:
            os.kill(pid, number)
    if code >= 0:
        return code
    _write(word, {"code": _SIGNAL_BASE - code, "signal": -code, "started_at": started_at})
    return _SIGNAL_BASE - code


def _reaped(pid: int) -> int | None:
    """Reap what has ended; return the code of `pid`, -N for a signal, None while it runs."""
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == 0:
            return None
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    # Python ignores some signals, and so would the task.
    for _number in (*HANDLED, *IGNORED):
        signal.signal(_number, signal.SIG_DFL)
    sys.exit(main(sys.argv[1]))
