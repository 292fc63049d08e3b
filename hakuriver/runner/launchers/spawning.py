"""Starting a task's program, with all that was ordered put on it, or a fault that says why not.

Needs the standard library alone: the keeper loads it. `spawn` is called in a minder, which puts
on the working directory, the CPUs and the memory policy itself, for its child to inherit.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

#: What keeper and minders handle or ignore themselves; a task gets the defaults back.
HANDLED = (signal.SIGCHLD, signal.SIGTERM)
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT)

_PR_SET_CHILD_SUBREAPER = 36
_MPOL_DEFAULT = 0
_MPOL_BIND = 2
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_BEGINNING = 256

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Let orphans anywhere below this process become its children, whatever their session."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def can_set_memory_policy() -> bool:
    """Whether this processor's number of the system call is known."""
    return os.uname().machine in _SET_MEMPOLICY


def set_memory_policy(mode: int, node: int | None) -> str | None:
    """Set the calling thread's memory policy; return why that failed, None when it holds."""
    number = _SET_MEMPOLICY.get(os.uname().machine)
    if number is None:
        return "the system call is not known for this processor"
    words, bits = (ctypes.c_ulong * 64)(), ctypes.sizeof(ctypes.c_ulong) * 8
    if node is not None:
        words[node // bits] = 1 << node % bits
    size = ctypes.c_ulong(64 * bits if node is not None else 0)
    if _libc.syscall(number, mode, words if node is not None else None, size) != 0:
        return os.strerror(ctypes.get_errno())
    return None


class StartFault(Exception):  # noqa: N818 - it names what happened to the task
    """The task's program cannot be started; `code` is the exit code that says so, if any."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


def spawn(order: dict[str, Any], *, home: int, cpus: set[int]) -> int:
    """Start the program of `order` and return its pid; it runs when this returns.

    `home` is the folder (a descriptor) and `cpus` the affinity that the caller goes back to.

    Raises:
        StartFault: it cannot be started.
    """
    logs: list[int] = []
    try:
        _put_on(order, logs)
        return _start(order, *logs)
    finally:
        if order["numa_node"] is not None:
            set_memory_policy(_MPOL_DEFAULT, None)
        if order["cpus"]:
            os.sched_setaffinity(0, cpus)
        os.fchdir(home)
        for descriptor in logs:
            os.close(descriptor)


def become(order: dict[str, Any]) -> NoReturn:
    """Replace this process by the program of `order`.

    Raises:
        StartFault: it cannot be started.
    """
    logs: list[int] = []
    _put_on(order, logs)
    path, words, env = _command(order)
    for descriptor, standard in zip(logs, (1, 2), strict=True):
        os.dup2(descriptor, standard)
    try:
        os.execve(path, words, env)  # noqa: S606 - the program is the task's own
    except OSError as error:
        _explain(os.fsdecode(path), error)


def _put_on(order: dict[str, Any], logs: list[int]) -> None:
    """Open the logs, which are appended to `logs`, and put on what the program inherits."""
    logs.append(_open_log(order["stdout"]))
    logs.append(_open_log(order["stderr"]))
    _change_folder(order["cwd"], make=order["make_cwd"])
    if order["cpus"]:
        _pin(order["cpus"])
    if order["numa_node"] is not None:
        _bind_memory(order["numa_node"])


def _open_log(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    name = path.encode()
    try:
        try:
            return os.open(name, flags, 0o600)
        except FileNotFoundError:  # somebody cleared the folder away
            os.mkdir(name.rpartition(b"/")[0], 0o700)  # noqa: PTH102 - pathlib is not loaded
            return os.open(name, flags, 0o600)
    except OSError as error:
        raise StartFault(f"cannot open the log {path}: {error.strerror}") from None


def _change_folder(path: str, *, make: bool) -> None:
    name = path.encode()
    try:
        if make and not os.path.isdir(name):  # noqa: PTH112
            os.mkdir(name, 0o700)  # noqa: PTH102
        os.chdir(name)
    except OSError as error:
        raise StartFault(f"cannot enter the working directory {path}: {error.strerror}") from None


def _pin(cpus: list[int]) -> None:
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        numbers = ",".join(map(str, cpus))
        raise StartFault(f"cannot pin to the CPUs {numbers}: {error.strerror}") from None


def _bind_memory(node: int) -> None:
    """Let the kernel take the program's memory from one NUMA node alone."""
    fault = set_memory_policy(_MPOL_BIND, node)
    if fault:
        raise StartFault(f"cannot bind memory to NUMA node {node}: {fault}")


def _start(order: dict[str, Any], stdout: int, stderr: int) -> int:
    path, words, env = _command(order)
    try:
        return os.posix_spawn(
            path,
            words,
            env,
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_DUP2, stderr, 2),
            ),
            setsid=True,
            setsigmask=(),
            setsigdef=(*HANDLED, *IGNORED),
        )
    except OSError as error:
        _explain(os.fsdecode(path), error)


def _command(order: dict[str, Any]) -> tuple[bytes, list[bytes], dict[bytes, bytes]]:
    """Return what to execute: the program, looked up in the task's own PATH, behind `prefix`."""
    program, *arguments = order["argv"]
    env: dict[str, str] = order["env"]
    path = _look_up(program, env.get("PATH", os.defpath))
    words = [program, *arguments]
    if order["prefix"]:
        # What the kernel tells of a program that it cannot start would be lost behind another.
        _check(path)
        words = [*order["prefix"], path, *arguments]
        path = words[0]
    return (
        path.encode(),
        [word.encode() for word in words],
        {name.encode(): value.encode() for name, value in env.items()},
    )


def _look_up(program: str, folders: str) -> str:
    """Return the path of `program` as the C library finds it; the kernel has the last word."""
    fault = StartFault(f"program not found: {program}", _NOT_FOUND)
    for folder in [""] if "/" in program else folders.split(":"):
        path = program if "/" in program else f"{folder or '.'}/{program}"
        name = path.encode()
        if not os.path.exists(name):  # noqa: PTH110
            continue
        if os.path.isfile(name) and os.access(name, os.X_OK):  # noqa: PTH113
            return path
        fault = StartFault(f"not executable: {path}", _NOT_EXECUTABLE)
    raise fault


def _explain(path: str, error: OSError) -> NoReturn:
    """Raise the fault that says what the kernel meant."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        reason = f"{path} needs {_interpreter(path)}, which is missing"
        raise StartFault(reason, _NOT_FOUND) from None
    if error.errno == errno.EACCES:
        raise StartFault(f"not executable: {path}", _NOT_EXECUTABLE) from None
    if error.errno == errno.ENOEXEC:
        raise _no_program(path) from None
    if error.errno == errno.E2BIG:
        reason = "arguments and environment are longer than the kernel allows"
        raise StartFault(reason) from None
    raise StartFault(f"cannot execute {path}: {error.strerror}") from None


def _check(path: str) -> None:
    """Raise `StartFault` for a script that the kernel would not start."""
    first = _first_line(path)
    if first.startswith(b"#!"):
        if not os.path.exists(_interpreter(path).encode()):  # noqa: PTH110
            _explain(path, FileNotFoundError(errno.ENOENT, ""))
    elif first and b"\0" not in first:
        raise _no_program(path)


def _no_program(path: str) -> StartFault:
    return StartFault(
        f"cannot execute {path}: it is no binary program and its first line "
        "names no interpreter (#!)"
    )


def _interpreter(path: str) -> str:
    """Return what the first line of a script names, else words for a program's loader."""
    first = _first_line(path)
    if not first.startswith(b"#!"):
        return "a loader"
    return (first[2:].split() or [b"an interpreter"])[0].decode(errors="replace")


def _first_line(path: str) -> bytes:
    """Return the beginning of a file; nothing of one that may be run but not read."""
    try:
        with open(path.encode(), "rb") as file:  # noqa: PTH123
            return file.readline(_BEGINNING)
    except OSError:
        return b""
