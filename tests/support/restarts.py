"""What tests of restarts and losses need: a task that writes on and on, and what is behind it."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.processes import alive, proc_bytes, processes_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.harness import Cluster

#: Writes numbered lines, each at one stroke, until the file of its first argument is there; exits
#: with its second.
_TICKER = """
import os, sys, time
print(os.getpid(), file=sys.stderr, flush=True)
number = 0
while not os.path.exists(sys.argv[1]):
    os.write(1, b"line %d\\n" % number)
    number += 1
    time.sleep(0.02)
sys.exit(int(sys.argv[2]))
"""


@dataclass(frozen=True)
class Ticking:
    """A task that writes ``line 0``, ``line 1``, … until it is told to end."""

    task_id: str
    log: Path
    gate: Path
    pid: int

    def lines(self) -> list[str]:
        """Return what its log file holds, asking nobody."""
        return self.log.read_text("utf-8").splitlines()

    def go_on(self, count: int) -> None:
        """Wait until it has written so many more lines, 50 a second or somewhat fewer."""
        wanted = len(self.lines()) + count
        wait_until(lambda: len(self.lines()) >= wanted, timeout=30 + count / 5, what="more lines")

    def end(self) -> None:
        """Let it end, and wait until its process is gone."""
        self.gate.touch()
        wait_until(lambda: not alive(self.pid), what="the end of the task's process")

    def check_whole(self, seen: Sequence[str]) -> None:
        """Fail unless `seen` are all its lines, each once and in order."""
        lines = self.lines()
        assert lines == [f"line {number}" for number in range(len(lines))], "the log itself"
        assert list(seen) == lines


def tick(cluster: Cluster, *, target: str = "node1", code: int = 0, **more: Any) -> Ticking:
    """Start a task that writes a line every 20 ms, until it is told to end with `code`."""
    gate = new_gate(cluster)
    task_id = cluster.script(_TICKER, target=target, arguments=[str(gate), str(code)], **more)
    cluster.wait(task_id, "running")
    return ticking(cluster, task_id, gate)


def ticking(cluster: Cluster, task_id: str, gate: Path) -> Ticking:
    """Return the running ticker of this id once it has written."""
    task = cluster.status(task_id)
    log, errors = Path(task["stdout_path"]), Path(task["stderr_path"])
    wait_until(lambda: log.exists() and log.stat().st_size > 0, what="its first line")
    return Ticking(task_id, log, gate, int(errors.read_text("utf-8")))


def ticker_command(gate: Path, code: int) -> list[str]:
    """Return the ticker as arguments for the client."""
    return [sys.executable, "-c", _TICKER, str(gate), str(code)]


def new_gate(cluster: Cluster) -> Path:
    """Return the path of a file that is not there yet; making it ends a ticker."""
    gate = cluster.root / "gates" / secrets.token_hex(8)
    gate.parent.mkdir(parents=True, exist_ok=True)
    return gate


def keeper_pid(cluster: Cluster, name: str) -> int:
    """Return the pid of the keeper of a node's tasks; its own helpers have it as parent."""
    folder = os.fsencode(cluster.state_dir(name))

    def is_keeper(pid: int) -> bool:
        command = proc_bytes(pid, "cmdline")
        return b"keeper" in command and folder in command

    found = [pid for pid in processes_of(cluster.state_dir(name)) if is_keeper(pid)]
    (pid,) = [pid for pid in found if not is_keeper(parent_of(pid))]
    return pid


def parent_of(pid: int) -> int:
    """Return the parent's pid; 0 when the process is gone."""
    fields = proc_bytes(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def database(cluster: Cluster) -> Path:
    """Return the host's database file."""
    return cluster.state_dir("host") / "host" / "hakuriver.db"


def remove_database(cluster: Cluster) -> None:
    """Take the stopped host's database away, as a lost disk would."""
    assert cluster.host.process is None
    path = database(cluster)
    files = list(path.parent.glob(f"{path.name}*"))
    assert path in files
    for file in files:
        file.unlink()
