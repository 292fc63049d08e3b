"""A node: a machine whose processes outlive its runner, and the real runner that can be killed.

What the keeper or systemd would do is played by `Machine`. It counts starts without mercy: it
never recognises a task that it is told to start twice.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest import mock

from hakuriver.errors import StartError
from hakuriver.logfiles import TaskFiles
from hakuriver.model.nodes import Metrics, NodeInfo
from hakuriver.runner import agent as agents
from hakuriver.runner.agent import Agent, AgentSettings
from hakuriver.runner.environment import Surroundings
from hakuriver.runner.exits import ExitRecord
from hakuriver.runner.journal import Journal
from hakuriver.runner.journal_file import JournalFile
from hakuriver.runner.launchers.base import Running
from hakuriver.runner.records import Entry, apply, from_line
from hakuriver.runner.state import Identity, StateFolder
from support.modelled.loop import Here

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from pathlib import Path

    from hakuriver.runner.launchers.base import StartOrder, Watcher
    from support.modelled.wires import Pipe

_TIME = 1e9


class Machine:
    """Processes and what is on the disk of them."""

    def __init__(self, root: Path, info: NodeInfo) -> None:
        self.root = root
        self.info = info
        self.boot = 1
        self.waiting: dict[int, StartOrder] = {}
        self.living: dict[int, StartOrder] = {}
        self.records: dict[int, ExitRecord] = {}
        self.starts: Counter[int] = Counter()
        #: How each task truly ended here; None where nobody can know.
        self.ends: dict[int, list[ExitRecord | None]] = {}
        self.asked_to_end: set[int] = set()
        self.refuses = self.is_full = False
        #: So much of the journal would survive a power cut.
        self.synced = 0
        self.watcher: Watcher | None = None

    @property
    def journal(self) -> Path:
        return self.root / "journal.ndjson"

    def running(self, task_id: int) -> Running:
        return Running(id=task_id, pid=task_id % 30000, start=1, started_at=_TIME)

    def order(self, order: StartOrder) -> None:
        if self.refuses:
            raise StartError("it cannot be started now")
        self.starts[order.id] += 1
        self.waiting[order.id] = order

    def begin(self, task_id: int) -> None:
        self.living[task_id] = self.waiting.pop(task_id)
        if self.watcher is not None:
            self.watcher.started(self.running(task_id))

    def end(self, task_id: int, code: int) -> None:
        """Let a process end, with its record; also one that has not begun, if it was killed."""
        started = _TIME if task_id in self.living else None
        killed = task_id in self.asked_to_end
        record = ExitRecord(
            exit_code=code if started else None,
            started_at=started,
            completed_at=_TIME + 1,
            cause="killed" if killed else None,
        )
        self._gone(task_id, record)
        self.records[task_id] = record
        if self.watcher is not None:
            self.watcher.finished(task_id, record)

    def _gone(self, task_id: int, record: ExitRecord | None) -> None:
        self.living.pop(task_id, None)
        self.waiting.pop(task_id, None)
        self.ends.setdefault(task_id, []).append(record)

    def lose_supervisor(self) -> None:
        """Let the keeper die, and all that it looked after."""
        ids = [*self.living, *self.waiting]
        for task_id in ids:
            self._gone(task_id, None)
        if self.watcher is not None:
            self.watcher.vanished(ids)

    def lose_power(self, keep: float) -> None:
        """Boot anew, with so much of what was not synced."""
        self.watcher = None
        self.lose_supervisor()
        self.boot += 1
        if self.journal.exists():
            size = self.journal.stat().st_size
            left = self.synced + int(keep * max(0, size - self.synced))
            os.truncate(self.journal, left)

    def entries(self) -> dict[int, Entry]:
        """Return what a runner would find in the journal."""
        found: dict[int, Entry] = {}
        if self.journal.exists():
            for line in self.journal.read_bytes().splitlines(keepends=True):
                record = from_line(line)
                if record is None:
                    break
                apply(found, record)
        return found


class _File(JournalFile):
    """The journal's file: a disk that may be full, and a runner that may be dead."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.journal)
        self.machine = machine
        self.dead = False

    def close(self) -> None:
        if not self.dead:
            self.dead = True
            super().close()

    def append(self, data: bytes, *, durable: bool) -> None:
        if self.dead:
            return
        if self.machine.is_full and data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().append(data, durable=durable)
        if durable:
            self.machine.synced = self.size

    def replace(self, data: bytes) -> None:
        if self.dead:
            return
        if self.machine.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().replace(data)
        self.machine.synced = self.size


class _Launcher:
    """What one runner has of its machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.dead = False

    @property
    def exits(self) -> _Launcher:
        return self

    def load(self) -> dict[int, ExitRecord]:
        return dict(self._machine.records)

    def read(self, task_id: int) -> ExitRecord | None:
        return self._machine.records.get(task_id)

    def droppable(self) -> set[int]:
        return set(self._machine.records)

    def drop(self, task_ids: set[int]) -> None:
        if not self.dead:
            for task_id in task_ids:
                self._machine.records.pop(task_id, None)

    def unit_of(self, task_id: int) -> str | None:  # noqa: ARG002
        return None

    async def open(self, watcher: Watcher) -> Mapping[int, Running | None]:
        machine = self._machine
        machine.watcher = watcher
        living = {task_id: machine.running(task_id) for task_id in machine.living}
        return {**dict.fromkeys(machine.waiting), **living}

    async def start(self, order: StartOrder) -> None:
        if not self.dead:
            self._machine.order(order)

    async def kill(self, task_id: int, *, grace: float) -> None:  # noqa: ARG002
        machine = self._machine
        if self.dead or task_id not in {*machine.living, *machine.waiting}:
            return
        machine.asked_to_end.add(task_id)
        if task_id in machine.waiting:
            asyncio.get_running_loop().call_soon(self._never, task_id)

    def _never(self, task_id: int) -> None:
        if task_id in self._machine.waiting:
            self._machine.end(task_id, 0)

    async def end_survivors(self, tasks: Mapping[int, Running | None]) -> None:
        """Nothing survives a supervisor here."""

    async def close(self) -> None:
        """Hold nothing."""


class Node:
    """A machine and its runner, up or down."""

    def __init__(
        self,
        machine: Machine,
        name: str,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        dial: Callable[[str], Pipe],
    ) -> None:
        self.machine = machine
        self.name = name
        self._spawn = spawn
        self._dial = dial
        self._identity = Identity(node_uid=name, cluster_id="cluster")
        self.pipes: list[Pipe] = []
        self.journal: Journal | None = None
        self._launcher: _Launcher | None = None
        self._agent: Agent | None = None
        self._process: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the runner, as its service would."""
        assert self._process is None
        self._process = self._spawn(self._live())

    async def _live(self) -> None:
        machine = self.machine
        file = _File(machine)
        self.journal = journal = Journal(machine.journal, file, Here())
        journal.entries = file.load()
        machine.synced = file.size
        journal._dead = 1 if file.size else 0
        self._launcher = _Launcher(machine)
        with mock.patch.object(agents, "boot_id", return_value=f"boot {machine.boot}"):
            agent = Agent(
                self._settings(),
                state=StateFolder(machine.root),
                files=TaskFiles(machine.root),
                launcher=self._launcher,
                journal=journal,
                identity=self._identity,
            )
        self._agent = agent
        agent._gauge.close()
        agent._link._measure = _no_metrics
        agent._link._connect = self._connect  # type: ignore[method-assign]
        await agent._tasks.recover()
        await agent.run()

    def _settings(self) -> AgentSettings:
        around = Surroundings(
            node=self.name,
            home="/",
            user="u",
            path="/bin",
            temp_dir="/tmp",
            python="/bin/python",
            work_root=self.machine.root / "work",
        )
        return AgentSettings(
            name=self.name,
            url="http://host",
            token="t",
            info=self.machine.info,
            around=around,
            grace=1.0,
        )

    async def _connect(self) -> Any:
        pipe = self._dial(self.name)
        self.pipes.append(pipe)
        return pipe.runner

    def known(self) -> dict[int, Entry]:
        """Return what the runner knows, or would if it were started now."""
        return self.machine.entries() if self.journal is None else self.journal.entries

    def crash(self) -> None:
        """Be killed: what was not written by now is lost, and so is whatever was under way."""
        assert self._process is not None
        self.machine.watcher = None
        if self._launcher is not None:
            self._launcher.dead = True
        journal, agent = self.journal, self._agent
        if journal is not None:
            assert isinstance(journal._file, _File)
            journal._file.close()
            _cancel([journal._writer])
        if agent is not None:
            _cancel(agent._tasks._lanes._tasks)
        self._process.cancel()
        for pipe in self.pipes:
            pipe.runner.over = True
        self._process = self.journal = self._agent = self._launcher = None

    @property
    def troubles(self) -> str | None:
        """Why the runner has ended by itself, None if it has not."""
        process = self._process
        if process is None or not process.done() or process.cancelled():
            return None
        return repr(process.exception())


def _cancel(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    for task in list(tasks):
        if task is not None:
            task.cancel()


async def _no_metrics() -> Metrics:
    return Metrics()
