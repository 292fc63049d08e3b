"""What a task's process does between its fork and its exec: it puts on all that was ordered.

Needs the standard library alone: the keeper loads it. Everything here runs in the forked child.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

#: What the keeper handles or ignores itself; a task gets the defaults back.
HANDLED = (signal.SIGCHLD, signal.SIGTERM)
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT)

_PR_SET_CHILD_SUBREAPER = 36
_MPOL_BIND = 2
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_MAX_REASON = 500

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Let orphans anywhere below this process become its children, whatever their session."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


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


def _bind_memory(node: int) -> None:
    """Let the kernel take this process's memory from one NUMA node alone."""
    fault = set_memory_policy(_MPOL_BIND, node)
    if fault:
        raise StartFault(f"cannot bind memory to NUMA node {node}: {fault}")


def _open_logs(order: dict[str, Any]) -> None:
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    for descriptor, key in ((1, "stdout"), (2, "stderr")):
        path = order[key]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            os.dup2(os.open(path.encode(), flags, 0o600), descriptor)
        except OSError as error:
            raise StartFault(f"cannot open the log {path}: {error.strerror}") from None


def _change_folder(path: str) -> None:
    try:
        os.chdir(path.encode())
    except OSError as error:
        raise StartFault(f"cannot enter the working directory {path}: {error.strerror}") from None


def _pin(cpus: list[int]) -> None:
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        numbers = ",".join(map(str, cpus))
        raise StartFault(f"cannot pin to the CPUs {numbers}: {error.strerror}") from None


def _execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Become the program, looked up in the task's own PATH; raise `StartFault` if none starts."""
    program = argv[0]
    folders = [""] if "/" in program else env.get("PATH", os.defpath).split(":")
    arguments = [argument.encode() for argument in argv]
    variables = {name.encode(): value.encode() for name, value in env.items()}
    fault = StartFault(f"program not found: {program}", 127)
    for folder in folders:
        path = f"{folder or '.'}/{program}" if "/" not in program else program
        try:
            os.execve(path.encode(), arguments, variables)  # noqa: S606 - no shell is the point
        except (FileNotFoundError, NotADirectoryError):
            if os.path.isfile(path):  # noqa: PTH113
                fault = StartFault(f"{path} needs {_interpreter(path)}, which is missing", 127)
        except PermissionError:
            fault = StartFault(f"not executable: {path}", 126)
        except OSError as error:
            raise _exec_fault(path, error) from None
    raise fault


def _interpreter(path: str) -> str:
    """Return what the first line of a script names, else words for a program's loader."""
    with open(path, "rb") as file:  # noqa: PTH123
        first = file.readline(256)
    if not first.startswith(b"#!"):
        return "a loader"
    return (first[2:].split() or [b"an interpreter"])[0].decode(errors="replace")


def _exec_fault(path: str, error: OSError) -> StartFault:
    if error.errno == errno.ENOEXEC:
        return StartFault(
            f"cannot execute {path}: it is no binary program and its first line "
            "names no interpreter (#!)"
        )
    if error.errno == errno.E2BIG:
        return StartFault("arguments and environment are longer than the kernel allows")
    return StartFault(f"cannot execute {path}: {error.strerror}")


def _become(order: dict[str, Any]) -> NoReturn:
    """In the child: put on everything that `order` names and become its program."""
    os.setsid()
    # Orphans of the task stay below its main process, whatever session they move to.
    adopt_orphans()
    signal.set_wakeup_fd(-1)
    for number in (*HANDLED, *IGNORED):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if order["cpus"]:
        _pin(order["cpus"])
    if order["numa_node"] is not None:
        _bind_memory(order["numa_node"])
    _open_logs(order)
    _change_folder(order["cwd"])
    _execute(order["argv"], order["env"])


def run_child(order: dict[str, Any], pipe: int) -> NoReturn:
    """Become the task, or tell through `pipe` (closed by the exec itself) why that failed."""
    code = None
    try:
        _become(order)
    except StartFault as fault:
        reason, code = fault.reason, fault.code
    except BaseException as error:  # noqa: BLE001 - the top of a process
        reason = f"cannot start: {error}"
    # Short enough to be written at once, however the text is escaped.
    os.write(pipe, json.dumps({"reason": reason[:_MAX_REASON], "code": code}).encode())
    os._exit(127)
