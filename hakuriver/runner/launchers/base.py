"""What a runner needs of a launcher, whichever way it starts processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hakuriver.model.tasks import Usage
    from hakuriver.runner.exits import ExitRecord, Exits


class StartOrder(msgspec.Struct, frozen=True, kw_only=True):
    """All that a launcher must know to start a task.

    `cpus` are CPU numbers to pin to (empty: no pinning), `cores` how many CPUs it may use at once
    (0: all), `grace` the seconds that a task over its time limit, and what any task leaves
    behind, gets to end. `prefix` are words before the program, which is looked up without them.
    `make_cwd`: the working directory is the task's own, made if it is missing. A `script` is to be
    written to `script_path` first, with the task's own rights. Limits are in seconds and bytes.
    """

    id: int
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    stdout: str
    stderr: str
    cpus: tuple[int, ...]
    numa_node: int | None
    grace: float
    make_cwd: bool = False
    prefix: tuple[str, ...] = ()
    time_limit: float | None = None
    memory_limit: int | None = None
    cores: int = 0
    private_network: bool = False
    private_pid: bool = False
    script: bytes | None = None
    script_path: str = ""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A task's main process: `start` is in clock ticks since boot, `started_at` in Unix time."""

    id: int
    pid: int
    start: int
    started_at: float


class Watcher(Protocol):
    """Who is told what becomes of tasks; called on the event loop, in the order of events."""

    def started(self, running: Running) -> None:
        """The program runs."""

    def measured(self, task_id: int, usage: Usage) -> None:
        """The task runs and has used so much by now."""

    def finished(self, task_id: int, record: ExitRecord | None) -> None:
        """The task's whole tree is gone; its record is on disk (None: read it there)."""

    def vanished(self, task_ids: Iterable[int]) -> None:
        """The supervisor of these tasks died, and what it watched has been ended."""


class Launcher(Protocol):
    """Starts and ends tasks; tells a `Watcher` what becomes of them."""

    @property
    def exits(self) -> Exits:
        """The records of the tasks that are over."""
        ...

    def unit_of(self, task_id: int) -> str | None:
        """Return the name of a task's systemd unit, None where tasks have none."""
        ...

    async def open(self, watcher: Watcher) -> Mapping[int, Running | None]:
        """Take up the supervision; return the tasks at hand, None for those not running yet."""
        ...

    async def start(self, order: StartOrder) -> None:
        """Have a task started; a repeated id is never started twice. Faults come as records.

        Raises:
            StartError: the supervisor cannot be reached or started.
        """

    async def kill(self, task_id: int, *, grace: float) -> None:
        """Have the task's whole tree ended: SIGTERM, `grace` seconds, SIGKILL."""

    async def end_survivors(self, tasks: Mapping[int, Running | None]) -> None:
        """End processes of tasks that nobody supervises any more, as far as they are found."""

    async def close(self) -> None:
        """Stop watching; tasks go on."""
