"""The ``service`` and ``scope`` launchers: tasks as units, which need no runner to live or end.

systemd starts them, holds their limits and notes how they ended; this has them made, hears from
the kernel when a record appears, and looks at what they use while they run. A runner that comes
back finds them by their names.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import StartError
from hakuriver.runner.lanes import Lanes
from hakuriver.runner.launchers.base import Running, StartOrder, Watcher
from hakuriver.runner.launchers.systemd.properties import description, unit_name
from hakuriver.runner.launchers.systemd.sampler import Sampler
from hakuriver.runner.launchers.systemd.tools import Tools
from hakuriver.runner.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from hakuriver.runner.exits import ExitRecord
    from hakuriver.runner.launchers.systemd.files import UnitFiles
    from hakuriver.runner.launchers.systemd.making import Maker
    from hakuriver.runner.launchers.systemd.tools import UnitState

_log = logging.getLogger(__name__)

#: Seconds that a record may take to appear when the task's control group is gone.
_PATIENCE = 2.0
#: Seconds after which what failed is tried again.
_PAUSE = 1.0
#: Seconds beyond its grace after which a unit that was to end is killed once more.
_INSIST = 20.0
#: What a unit's first program needs of an order; it knows nothing of the limits.
_INNER = ("argv", "env", "cwd", "make_cwd", "stdout", "stderr", "cpus", "numa_node", "prefix")


class UnitLauncher:
    """Tasks as units of one manager.

    Args:
        maker: makes the command lines.
        files: by which units and runner know of each other.
        slice_folder: the control group of all tasks.
    """

    def __init__(self, maker: Maker, files: UnitFiles, *, slice_folder: Path) -> None:
        self._maker = maker
        self._files = files
        self._tools = Tools(maker.manager, maker.kind)
        self._watcher: Watcher | None = None
        #: Every task given to systemd and not over; None until it is known to run.
        self._tasks: dict[int, Running | None] = {}
        self._watches = Watches()
        #: Set by the kernel when something happens among the records.
        self._news = asyncio.Event()
        self._sampler = Sampler(slice_folder, maker.kind)
        self._missing: set[int] = set()
        #: Tasks that are over, whose units systemd may keep in mind until it is told not to.
        self._ended: set[int] = set()
        self._some_ended = asyncio.Event()
        self._lanes = Lanes()
        self._insisting = Lanes()
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
        await asyncio.to_thread(self._files.remember, self._maker.manager.mode, self._maker.kind)
        for kind in ("net", "pid"):
            self._namespaces[kind] = await asyncio.to_thread(os.readlink, f"/proc/self/ns/{kind}")
        given = await asyncio.to_thread(self._files.given)
        units = await self._tools.units()
        if given - units.living:
            # A call that a runner made just before its end may still be on its way to systemd:
            # what has not been read by now must never start. What was read meanwhile has a unit.
            await asyncio.to_thread(lambda: [*map(self._files.withdraw, given - units.living)])
            units = await self._tools.units()
        for task_id in given & units.living:
            self._tasks[task_id] = await self._running(task_id)
        # Of some nothing is left but the unit: the runner before this one had told all of them.
        described = description(self._files.root)
        ours = {task_id for task_id, text in units.failed.items() if text == described}
        ours |= units.failed.keys() & (given | await asyncio.to_thread(self._files.ended))
        for task_id in ours:
            # Before systemd forgets them: a record may be missing or leave a question open.
            self._files.learn(task_id, await self._tools.show(task_id))
        await self._tools.reset(ours)
        watched = self._watches.add(self._files.exits, self._news, folder=True)
        self._keep(lambda: self._look_for_records(patience=None if watched else _PAUSE))
        self._keep(self._reset_failed)
        self._keep(lambda: self._sampler.run(self._tasks, watcher.measured, self._missed))
        return dict(self._tasks)

    async def start(self, order: StartOrder) -> None:
        """Have systemd start a task.

        Raises:
            StartError: systemd has not started it, and never will.
        """
        task_id = order.id
        self._tasks[task_id] = None
        self._sampler.wake()
        words = self._maker.command(order, self._files.order(task_id), self._files.record(task_id))
        try:
            await asyncio.to_thread(self._files.give, task_id, self._inner_order(order))
            await self._make(task_id, words)
        except BaseException as error:
            self._tasks.pop(task_id, None)
            if isinstance(error, OSError):  # half an order, on a full disk say
                await asyncio.to_thread(self._files.withdraw, task_id)
            raise
        running = await self._running(task_id)
        if task_id in self._tasks:  # it may be over by now
            self._tasks[task_id] = running
            if self._watcher is not None:
                self._watcher.started(running)

    async def kill(self, task_id: int, *, grace: float) -> None:
        """Have systemd end the task's unit; one that is gone is over already."""
        if task_id not in self._tasks:
            if self._watcher is not None:
                self._watcher.finished(task_id, None)
        elif await asyncio.to_thread(self._files.note_kill, task_id):
            await self._stop(task_id, grace)
        else:
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
        await self._insisting.close()
        self._watches.remove(self._news)
        self._tools.close()

    # Making and ending units

    def _inner_order(self, order: StartOrder) -> bytes:
        """Return what the unit's first program needs to know."""
        inner: dict[str, object] = {name: getattr(order, name) for name in _INNER}
        if order.script is not None:
            inner["script"] = (order.script_path, base64.b64encode(order.script).decode())
        inner["private_network"] = self._namespaces["net"] if order.private_network else None
        inner["private_pid"] = self._namespaces["pid"] if order.private_pid else None
        return msgspec.json.encode(inner)

    async def _make(self, task_id: int, words: list[str]) -> None:
        outcome = await self._tools.make(words)
        if outcome.code == 0:
            return
        # It may have come to systemd all the same. If its order has been read, it has started.
        if not await asyncio.to_thread(self._files.withdraw, task_id):
            return
        self._forget(task_id)
        raise StartError(f"systemd did not start the task: {outcome.words}")

    async def _stop(self, task_id: int, grace: float) -> None:
        """Have a unit ended, and try again if systemd does not take the order now."""
        outcome = await self._tools.stop(task_id)
        pause = grace + _INSIST
        if outcome.code != 0:
            _log.warning("task %d is not ended yet: %s", task_id, outcome.words)
            await self._look_at(task_id)
            pause = _PAUSE
        if task_id in self._tasks:
            self._insisting.put(task_id, lambda: self._insist(task_id, pause, grace))

    async def _insist(self, task_id: int, pause: float, grace: float) -> None:
        """Ask again for the end of a unit that should have come to it by now."""
        await asyncio.sleep(pause)
        if task_id in self._tasks and pause > grace:
            await self._tools.kill_hard(task_id)
            await self._look_at(task_id)
        if task_id in self._tasks:
            await self._stop(task_id, grace)

    async def _running(self, task_id: int) -> Running:
        started_at = await asyncio.to_thread(self._files.started_at, task_id)
        if started_at is None:
            # Its first program has yet to read the order.
            started_at = time.time()
        return Running(id=task_id, pid=0, start=0, started_at=started_at)

    # Watching

    async def _look_for_records(self, *, patience: float | None) -> None:
        """Tell of each task whose record appears; without the kernel's word, look now and then."""
        while True:
            self._news.clear()
            ended = await asyncio.to_thread(self._files.ended)
            for task_id in ended & self._tasks.keys():
                await self._take_record(task_id)
            try:
                async with asyncio.timeout(patience):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _take_record(self, task_id: int) -> bool:
        """Tell of a task if its record is there."""
        record = await asyncio.to_thread(self._files.read, task_id)
        if record is None:
            return False
        if record.result == "timeout" and record.cause in (None, "timeout"):
            # A time limit, or what it left behind had to be ended the hard way: systemd can tell.
            state = await self._show(task_id)
            if state is not None:
                self._files.learn(task_id, state)
                record = await asyncio.to_thread(self._files.read, task_id) or record
                if record.cause is None:
                    _log.info("task %d ran %s s by itself: no timeout", task_id, state.ran)
        self._over(task_id, record)
        return True

    async def _show(self, task_id: int) -> UnitState | None:
        """Return the state of a unit, None if systemd does not answer now."""
        try:
            return await self._tools.show(task_id)
        except StartError as error:
            _log.warning("task %d: %s", task_id, error)
            return None

    def _over(self, task_id: int, record: ExitRecord | None) -> None:
        """Tell that a task is over, once."""
        if task_id not in self._tasks:
            return
        del self._tasks[task_id]
        self._missing.discard(task_id)
        if self._watcher is not None:
            self._watcher.finished(task_id, record)
        self._forget(task_id)

    def _forget(self, task_id: int) -> None:
        """Have systemd forget the unit of a task that is over, in a while, if it has failed.

        A unit ends after its record is written, and fails even then if noting the end took too
        long on a busy machine: what the record says does not tell.
        """
        self._ended.add(task_id)
        self._some_ended.set()

    async def _reset_failed(self) -> None:
        while await self._some_ended.wait():
            await asyncio.sleep(_PATIENCE)
            asked = set(self._ended)
            units = await self._tools.units()
            if await self._tools.reset(asked & units.failed.keys()):
                self._ended -= asked - units.living
            if not self._ended:
                self._some_ended.clear()

    def _missed(self, task_id: int) -> None:
        """The control group of a task is gone, and no record has been seen yet."""
        if task_id not in self._missing:
            self._missing.add(task_id)
            self._lanes.put(task_id, lambda: self._look_patiently(task_id))

    async def _look_patiently(self, task_id: int) -> None:
        await asyncio.sleep(_PATIENCE)
        try:
            if task_id in self._tasks:
                await self._look_at(task_id)
        finally:
            self._missing.discard(task_id)

    async def _look_at(self, task_id: int) -> None:
        """Find out what became of a unit that left no record, for want of disk space say."""
        if await self._take_record(task_id):
            return
        state = await self._show(task_id)
        # Not to know is no reason to give a task up: it is looked at again.
        if state is None or state.is_living:
            return
        if await asyncio.to_thread(self._sampler.is_populated, task_id):
            # systemd has given it up, but it is not gone: one that forks faster than it is killed.
            await self._tools.kill_hard(task_id)
        else:
            self._over(task_id, await asyncio.to_thread(self._settled, task_id, state))

    def _settled(self, task_id: int, state: UnitState) -> ExitRecord | None:
        self._files.learn(task_id, state)
        return self._files.read(task_id, settled=True)

    def _keep(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        task = asyncio.create_task(_for_ever(work), name="units")
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)


async def _for_ever(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Do what has no end, and begin again should it fail: tasks must never be left unwatched."""
    while True:
        try:
            await work()
        except StartError as error:
            _log.warning("%s", error)
        except Exception:  # noqa: BLE001 - the top of a task; nothing may leave tasks unwatched
            _log.exception("watching the units failed; it begins again")
        await asyncio.sleep(_PAUSE)
