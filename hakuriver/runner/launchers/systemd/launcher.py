"""The ``service`` and ``scope`` launchers: tasks as units, which need no runner to live or end.

systemd starts them, holds their limits and notes how they ended; this has them made, hears from
the kernel when a record appears, and looks at what they use while they run. A runner that comes
back finds them by their names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import StartError
from hakuriver.runner.lanes import Lanes
from hakuriver.runner.launchers.base import Running, StartOrder, Watcher
from hakuriver.runner.launchers.systemd.manager import call
from hakuriver.runner.launchers.systemd.properties import task_of_unit, unit_name, units_pattern
from hakuriver.runner.launchers.systemd.records import Told, exit_code, to_record
from hakuriver.runner.launchers.systemd.sampler import Sampler
from hakuriver.runner.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from pathlib import Path

    from hakuriver.runner.exits import ExitRecord
    from hakuriver.runner.launchers.systemd.files import UnitFiles
    from hakuriver.runner.launchers.systemd.making import Maker
    from hakuriver.runner.launchers.systemd.manager import Outcome

_log = logging.getLogger(__name__)

#: So many of systemd's tools are at work at the same time.
_CALLS = 8
_LIVING = ("active", "activating", "deactivating", "reloading", "refreshing")
#: Seconds that a record may take to appear when the task's control group is gone.
_PATIENCE = 2.0
_TIDYING = -1


class UnitLauncher:
    """Tasks as units of one manager.

    Args:
        maker: makes the command lines.
        files: by which units and runner know of each other.
        slice_folder: the control group of all tasks.
    """

    def __init__(self, maker: Maker, files: UnitFiles, *, slice_folder: Path) -> None:
        self._maker = maker
        self._manager = maker.manager
        self._files = files
        self._watcher: Watcher | None = None
        #: Every task given to systemd and not over; None until it is known to run.
        self._tasks: dict[int, Running | None] = {}
        self._threads = ThreadPoolExecutor(_CALLS, "systemd")
        self._watches = Watches()
        #: Set by the kernel when something happens among the records.
        self._news = asyncio.Event()
        self._sampler = Sampler(slice_folder, maker.kind)
        self._missing: set[int] = set()
        #: Tasks whose units have failed, and which systemd keeps in mind until it is told not to.
        self._failed: set[int] = set()
        self._lanes = Lanes()
        self._looking: set[asyncio.Task[None]] = set()
        self._namespaces: dict[str, str] = {}

    @property
    def exits(self) -> UnitFiles:
        """The records that systemd writes."""
        return self._files

    def unit_of(self, task_id: int) -> str:
        """Return the name of a task's unit."""
        return unit_name(task_id, self._maker.kind)

    async def open(self, watcher: Watcher) -> Mapping[int, Running | None]:
        """Find the units of this runner's tasks, and begin to watch.

        Raises:
            StartError: systemd does not answer.
        """
        self._watcher = watcher
        await asyncio.to_thread(self._files.make)
        self._namespaces = {
            kind: await asyncio.to_thread(os.readlink, f"/proc/self/ns/{kind}")
            for kind in ("net", "pid")
        }
        given = await asyncio.to_thread(self._files.given)
        living, failed = await self._units()
        # A call that a runner made just before its end may still be on its way to systemd: what
        # has not been read by now must never start.
        unstarted = given - living
        if await asyncio.to_thread(lambda: any([*map(self._files.withdraw, unstarted)])):
            living, failed = await self._units()
        for task_id in given & living:
            self._tasks[task_id] = await self._running(task_id)
        if failed & given:
            await self._reset(*(failed & given))
        self._watches.add(self._files.exits, self._news, folder=True)
        self._keep(self._look_for_records())
        self._keep(self._sampler.run(self._tasks, watcher.measured, self._missed))
        return dict(self._tasks)

    async def start(self, order: StartOrder) -> None:
        """Have systemd start a task.

        Raises:
            StartError: systemd refuses the unit, or does not answer and has not made it.
        """
        self._tasks[order.id] = None
        self._sampler.wake()
        words = self._maker.command(
            order, self._files.order(order.id), self._files.record(order.id)
        )
        try:
            await asyncio.to_thread(self._files.give, order.id, self._inner_order(order))
            await self._make(order.id, words)
        except BaseException as error:
            self._tasks.pop(order.id, None)
            if isinstance(error, OSError):  # half an order, on a full disk say
                await asyncio.to_thread(self._files.withdraw, order.id)
            raise
        running = await self._running(order.id)
        if order.id in self._tasks:  # it may be over by now
            self._tasks[order.id] = running
            if self._watcher is not None:
                self._watcher.started(running)

    async def kill(self, task_id: int, *, grace: float) -> None:  # noqa: ARG002 - the unit has it
        """Have systemd end the task's unit; one that is gone is over already."""
        if task_id not in self._tasks:
            if self._watcher is not None:
                self._watcher.finished(task_id, None)
            return
        if await asyncio.to_thread(self._files.note_kill, task_id):
            unit = self.unit_of(task_id)
            words = ("stop", "--no-block", unit)
            if self._maker.kind == "scope":
                # What oversees the scope notes the end; systemd would not wait for it.
                words = ("kill", "--signal=SIGTERM", unit)
            outcome = await self._call(*self._manager.control, *words)
            if outcome.code == 0:
                return
        await self._look_at(task_id)

    async def end_survivors(self, tasks: Mapping[int, Running | None]) -> None:
        """Do nothing: no process of a task is outside its unit, and the units are known."""

    async def close(self) -> None:
        """Stop watching; tasks go on."""
        for task in self._looking:
            task.cancel()
        if self._looking:
            await asyncio.wait(self._looking)
        await self._lanes.close()
        self._watches.remove(self._news)
        self._threads.shutdown(wait=False)

    # Making units

    def _inner_order(self, order: StartOrder) -> bytes:
        """Return what the unit's first program needs to know."""
        fields = msgspec.structs.asdict(order)
        names = (
            "argv",
            "env",
            "cwd",
            "make_cwd",
            "stdout",
            "stderr",
            "cpus",
            "numa_node",
            "prefix",
        )
        isolation = {
            "private_network": self._namespaces["net"] if order.private_network else None,
            "private_pid": self._namespaces["pid"] if order.private_pid else None,
        }
        return msgspec.json.encode({name: fields[name] for name in names} | isolation)

    async def _make(self, task_id: int, words: list[str]) -> None:
        outcome = await self._call(*words)
        if outcome.code == 0:
            return
        # It may have come to systemd all the same; from here on it cannot start any more.
        await asyncio.to_thread(self._files.withdraw, task_id)
        state = await self._show(task_id)
        if state.get("ActiveState") in _LIVING:
            return
        await self._reset(task_id)
        raise StartError(f"systemd did not start the task: {outcome.words}")

    async def _running(self, task_id: int) -> Running:
        started_at = await asyncio.to_thread(self._files.started_at, task_id)
        if started_at is None:
            # Its first program has yet to read the order.
            started_at = time.time()
        return Running(id=task_id, pid=0, start=0, started_at=started_at)

    # Watching

    async def _look_for_records(self) -> None:
        """Tell of each task whose record appears."""
        while True:
            self._news.clear()
            ended = await asyncio.to_thread(self._files.ended)
            for task_id in ended & self._tasks.keys():
                await self._take_record(task_id)
            await self._news.wait()

    async def _take_record(self, task_id: int) -> bool:
        """Tell of a task if its record is there."""
        record = await asyncio.to_thread(self._files.read, task_id)
        if record is None:
            return False
        self._over(task_id, failed=record.exit_code != 0)
        return True

    def _over(
        self, task_id: int, record: ExitRecord | None = None, *, failed: bool = False
    ) -> None:
        """Tell that a task is over; the watcher finds its record, unless there is but this one."""
        if task_id not in self._tasks:
            return  # it was told while this was found out
        del self._tasks[task_id]
        self._missing.discard(task_id)
        if self._watcher is not None:
            self._watcher.finished(task_id, record)
        if failed:
            self._failed.add(task_id)
            self._lanes.put(_TIDYING, self._reset_failed)

    async def _reset_failed(self) -> None:
        failed, self._failed = self._failed, set()
        if failed:
            await self._reset(*failed)

    def _missed(self, task_id: int) -> None:
        """The control group of a task is gone, and no record has been seen yet."""
        if task_id not in self._missing:
            self._missing.add(task_id)
            self._lanes.put(task_id, lambda: self._look_patiently(task_id))

    async def _look_patiently(self, task_id: int) -> None:
        await asyncio.sleep(_PATIENCE)
        self._missing.discard(task_id)
        if task_id in self._tasks:
            await self._look_at(task_id)

    async def _look_at(self, task_id: int) -> None:
        """Find out what became of a unit that left no record, for want of disk space say."""
        if await self._take_record(task_id):
            return
        state = await self._show(task_id)
        active = state.get("ActiveState")
        if active in _LIVING:
            return
        record = None
        if active == "failed":
            record = await asyncio.to_thread(self._record_of, task_id, state)
        self._over(task_id, record, failed=active == "failed")

    def _record_of(self, task_id: int, state: Mapping[str, str]) -> ExitRecord:
        """Return the record that systemd would have written of a unit that it still knows."""
        codes = {"1": "exited", "2": "killed", "3": "dumped"}
        told = Told(
            result=state.get("Result", "-"),
            code=exit_code(
                codes.get(state.get("ExecMainCode", ""), "-"), state.get("ExecMainStatus", "-")
            ),
            cpu_seconds=None,
            peak_memory_bytes=None,
            time_limit=None,
            memory_limit=None,
            system="-",
        )
        return to_record(
            told,
            word=None,
            started_at=self._files.started_at(task_id),
            completed_at=time.time(),
            killed=False,
        )

    async def _show(self, task_id: int) -> dict[str, str]:
        names = "ActiveState,Result,ExecMainCode,ExecMainStatus"
        unit = self.unit_of(task_id)
        outcome = await self._call(*self._manager.query, "show", f"--property={names}", unit)
        return dict(line.split("=", 1) for line in outcome.stdout.splitlines() if "=" in line)

    async def _units(self) -> tuple[set[int], set[int]]:
        """Return the tasks whose units live, and those whose units have failed and stay."""
        kind = self._maker.kind
        outcome = await self._call(
            *(*self._manager.query, "list-units", "--all", "--full", "--plain", "--no-legend"),
            units_pattern(kind),
        )
        if outcome.code != 0:
            raise StartError(f"systemd does not tell its units: {outcome.words}")
        living: set[int] = set()
        failed: set[int] = set()
        for name, _, active, *_ in map(str.split, outcome.stdout.splitlines()):
            task_id = task_of_unit(name, kind)
            if task_id is not None:
                (living if active in _LIVING else failed).add(task_id)
        return living, failed

    async def _reset(self, *task_ids: int) -> None:
        """Let systemd forget units that failed; those that ended well are forgotten already."""
        units = [self.unit_of(task_id) for task_id in task_ids]
        await self._call(*self._manager.control, "reset-failed", *units)

    async def _call(self, *words: str) -> Outcome:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *words)

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="units")
        self._looking.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._looking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("watching the units failed", exc_info=error)
