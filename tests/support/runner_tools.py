"""What the runner's tests share: waiting, building messages, talking to a keeper."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hakuriver.model.messages import Launch
from hakuriver.model.tasks import Placement, TaskSpec
from hakuriver.runner.launchers import keeper as keeper_module
from hakuriver.runner.launchers.processes import descendants, look_at, processes, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATH = os.environ["PATH"]


def wait_until(condition: Callable[[], Any], *, seconds: float = 30.0, what: str = "") -> None:
    """Return when `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen in {seconds} s: {what or condition}"
        time.sleep(0.002)


async def eventually(
    condition: Callable[[], Any], *, seconds: float = 30.0, what: str = ""
) -> None:
    """Return when `condition` holds, letting the loop run meanwhile; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen in {seconds} s: {what or condition}"
        await asyncio.sleep(0.002)


def alive(pid: int) -> bool:
    return look_at(pid) is not None


def fifo(root: Path) -> Path:
    """Make a pipe for which a task can wait."""
    path = root / "fifo"
    os.mkfifo(path)
    return path


def tree_of(pid: int, count: int) -> set[int]:
    """Return the process tree below `pid` as soon as it has `count` members."""
    found: set[int] = set()

    def complete() -> bool:
        nonlocal found
        found = descendants([pid], processes())
        return len(found) >= count

    wait_until(complete, what=f"{count} processes below {pid}")
    return found


def task_tree(pid: int, count: int) -> set[int]:
    """Return all processes of the task with main process `pid` as soon as they are `count`."""
    main = look_at(pid)
    assert main is not None
    return tree_of(main.parent, count + 1) - {main.parent}


def placement(**changes: Any) -> Placement:
    return Placement(**{"batch_id": 7, "batch_index": 0, "batch_size": 1, "cpus": (), **changes})


def launch(task_id: int, command: str, *arguments: str, **changes: Any) -> Launch:
    """A `Launch`; `cpus` and `numa_node` go to the placement, the rest to the spec."""
    where = {key: changes.pop(key) for key in ("cpus", "numa_node") if key in changes}
    spec = TaskSpec(command=command, arguments=arguments, **changes)
    return Launch(task_id=task_id, spec=spec, placement=placement(**where))


def keepers(folder: Path) -> set[int]:
    """Return the pids of the keeper that has `folder` and of its minders."""
    mark = str(folder).encode()
    found: set[int] = set()
    for pid in processes():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if mark in words and any(word.endswith(b"keeper.py") for word in words):
                found.add(pid)
    return found


def keeper_pid(folder: Path) -> int | None:
    """Return the pid of the keeper that has `folder`, None if there is none."""
    found = keepers(folder)
    for pid in found:
        process = look_at(pid)
        if process is not None and process.parent not in found:
            return pid
    return None


def tasks_of(folder: Path) -> set[int]:
    """Return the living processes of all tasks below the keeper that has `folder`."""
    found = keepers(folder)
    return set(tree(found)) - found


def records(path: Path) -> dict[int, dict[str, Any]]:
    """Return the exit records in a file by task."""
    lines = path.read_text().splitlines() if path.exists() else []
    read = [json.loads(line) for line in lines if line]
    return {line["id"]: line["record"] for line in read}


class KeeperClient:
    """A runner's end of the keeper's socket, one event at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30.0)
        self._file = self._socket.makefile("rb")
        descriptor = os.open(folder, os.O_PATH)
        try:
            self._socket.connect(f"/proc/self/fd/{descriptor}/keeper.sock")
            self.pid: int = self.event("hello")["pid"]
        except BaseException:
            self.close()
            raise
        finally:
            os.close(descriptor)

    def say(self, line: bytes) -> None:
        self._socket.sendall(line + b"\n")

    def request(self, what: str, **fields: Any) -> None:
        self.say(json.dumps({"request": what, **fields}).encode())

    def start(self, task_id: int, *argv: str, **changes: Any) -> None:
        logs = {name: str(self.folder / f"{task_id}.{name}") for name in ("stdout", "stderr")}
        order: dict[str, Any] = {
            "id": task_id,
            "argv": argv,
            "env": {"PATH": PATH, "HAKURIVER_TASK_ID": str(task_id)},
            "cwd": str(self.folder),
            "cpus": [],
            "numa_node": None,
            "grace": 5.0,
            "make_cwd": False,
            "prefix": [],
            "time_limit": None,
            "memory_limit": None,
            **logs,
        }
        self.request("start", **{**order, **changes})

    def next(self) -> dict[str, Any] | None:
        line = self._file.readline()
        event: dict[str, Any] | None = json.loads(line) if line else None
        return event

    def event(self, name: str, task_id: int | None = None) -> dict[str, Any]:
        """Return the next event of that name, passing over others."""
        while (event := self.next()) is not None:
            if event["event"] == name and task_id in (None, event.get("id")):
                return event
        raise ConnectionError(f"the keeper closed before it said {name}")

    def run(self, task_id: int, *argv: str, **changes: Any) -> dict[str, Any]:
        """Start a task, wait for its end and return its exit record."""
        self.start(task_id, *argv, **changes)
        self.event("finished", task_id)
        return self.record(task_id)

    def record(self, task_id: int) -> dict[str, Any]:
        return records(self.folder / "exits.ndjson")[task_id]

    def out(self, task_id: int) -> bytes:
        return (self.folder / f"{task_id}.stdout").read_bytes()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def start_keeper(folder: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-I", "-S", keeper_module.__file__, str(folder)]
    return subprocess.run(command, capture_output=True, timeout=30, check=False)


@contextlib.contextmanager
def running_keeper(folder: Path) -> Iterator[KeeperClient]:
    """A keeper in `folder` and a connection to it; ends both, with all tasks."""
    folder.mkdir(mode=0o700, exist_ok=True)
    assert start_keeper(folder).returncode == 0
    client = KeeperClient(folder)
    try:
        yield client
    finally:
        end_keeper(folder, client.pid)
        client.close()


def end_keeper(folder: Path, pid: int) -> None:
    if alive(pid):
        with contextlib.suppress(OSError):
            client = KeeperClient(folder)
            with contextlib.closing(client):
                client.request("shutdown", grace=0.0)
                while client.next() is not None:
                    pass
    wait_until(lambda: not alive(pid), what="the keeper ends")
    log = folder / "keeper.log"
    assert log.read_text() == "", "the keeper met a fault of its own"


def fake_sysfs(root: Path, nodes: dict[int, tuple[str, int]]) -> None:
    """Lay out NUMA nodes as sysfs does: number -> (cpulist, MemTotal in kB; half is used)."""
    for number, (cpus, total) in nodes.items():
        folder = root / f"devices/system/node/node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus}\n")
        (folder / "meminfo").write_text(
            f"Node {number} MemTotal:       {total} kB\n"
            f"Node {number} MemUsed:        {total // 2} kB\n"
        )
    (root / "devices/system/node/possible").write_text("0-1\n")
