"""Processes for tests: starting ours, reading about any, and finding those left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]

_T = TypeVar("_T")


def wait_until(
    probe: Callable[[], _T], *, timeout: float = 30.0, what: str = "", interval: float = 0.02
) -> _T:
    """Return the first true value of `probe`; fail, with its last one, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or probe} (last: {value!r})")
        time.sleep(interval)


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def alive(pid: int) -> bool:
    """Tell whether `pid` runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def proc_bytes(pid: int | str, name: str) -> bytes:
    """Return a file of ``/proc/<pid>``; empty when the process is gone or not ours to read."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def pids() -> list[int]:
    """Return the numbers of all processes of this machine."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def resident_bytes(pid: int, key: str = "VmRSS") -> int:
    """Return a process's resident memory now (`VmRSS`) or at its highest (`VmHWM`)."""
    for line in proc_bytes(pid, "status").decode().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} is gone")


def read_bytes(pid: int) -> int:
    """Return how much a process has read so far, be it from disk or from memory."""
    for line in proc_bytes(pid, "io").decode().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} is gone")


def processes_of(folder: Path) -> dict[int, str]:
    """Return the living processes whose traces lead into `folder`, this one and ours above apart.

    A trace is the command line, an environment variable, the working directory, or a standard
    stream.
    """
    kin, parent = {os.getpid()}, os.getppid()
    while parent > 1:
        kin.add(parent)
        parent = int(proc_bytes(parent, "stat").rpartition(b")")[2].split()[1] or 0)
    found: dict[int, str] = {}
    for pid in pids():
        if pid not in kin and alive(pid) and os.fsencode(folder) in _traces(pid):
            command = proc_bytes(pid, "cmdline").replace(b"\0", b" ")
            found[pid] = command.decode("utf-8", "replace")[:200]
    return found


def _traces(pid: int) -> bytes:
    traces = [proc_bytes(pid, "cmdline"), proc_bytes(pid, "environ")]
    for link in ("cwd", "fd/0", "fd/1", "fd/2"):
        with suppress(OSError):
            traces.append(os.fsencode(Path(f"/proc/{pid}/{link}").readlink()))
    return b"\0".join(traces)


def check_no_leftovers(folder: Path, *, timeout: float = 30.0) -> None:
    """Fail, after ending them, if processes with a trace of `folder` stay past `timeout`."""
    try:
        wait_until(lambda: not processes_of(folder), timeout=timeout, interval=0.05)
    except AssertionError:
        left = processes_of(folder)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left:
            raise AssertionError(f"processes left behind: {left}") from None


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment for our commands: nothing of the caller's but the path."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "XDG_RUNTIME_DIR": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        **more,
    }


def run_hakuriver(
    *args: str,
    env: Mapping[str, str],
    cwd: Path,
    stdin: bytes | None = None,
    check: int | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m hakuriver`` to its end; with `check`, fail on another exit code.

    Output is decoded so that encoding it with ``surrogateescape`` gives back the same bytes.
    """
    done = subprocess.run(
        [sys.executable, "-m", "hakuriver", *args],
        env=dict(env),
        cwd=cwd,
        input=stdin if stdin is not None else b"",
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
    shown = f"{args} exited {done.returncode}\nstdout: {out}\nstderr: {err}"
    assert check is None or done.returncode == check, f"expected {check}: {shown}"
    assert "Traceback" not in err, shown
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


@dataclass
class Daemon:
    """One process that stays: its output goes to `log`."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    #: What stands in for the program, if anything does.
    module: str = "hakuriver"
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        self.cwd.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, *self.argv],
                env=dict(self.env),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self, *, timeout: float = 30.0) -> None:
        """End the process by SIGTERM; fail, after SIGKILL, if it takes longer than `timeout`."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(
                f"{self.argv} did not end within {timeout} s of SIGTERM:\n{self.text()}"
            ) from None
        assert code in {0, -signal.SIGTERM, 128 + signal.SIGTERM}, f"{code}\n{self.text()}"

    def check_alive(self) -> None:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"{self.argv} ended with {code}:\n{self.text()}"

    def text(self, start: int = 0) -> str:
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[start:].decode("utf-8", "replace")
