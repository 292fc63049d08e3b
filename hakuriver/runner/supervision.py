"""The tasks of this runner from their launch to the host's acknowledgement.

A task is journaled durably before it starts and recognised when its launch comes again; its end
is kept and told at every exchange until the host has acknowledged it. Messages about one task
are handled in their order, those about different tasks at the same time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from hakuriver.errors import HostUnreachable, StartError
from hakuriver.model.messages import Finished, Known, Launch, Measured, Message, Started
from hakuriver.runner.exits import decide
from hakuriver.runner.lanes import Lanes
from hakuriver.runner.launchers.base import Running
from hakuriver.runner.records import Began, Ended, Entry, Forgotten, KillAsked, Launched
from hakuriver.runner.recovery import (
    blamed,
    could_not_start,
    judge,
    never_started,
    orphaned,
    tellable,
    with_usage,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from hakuriver.model.tasks import Exit, Usage
    from hakuriver.runner.exits import ExitRecord
    from hakuriver.runner.journal import Journal
    from hakuriver.runner.launchers.base import Launcher
    from hakuriver.runner.starting import Starter

    Fetch = Callable[[int], Awaitable[Launch]]

_log = logging.getLogger(__name__)

#: Seconds for which a start may wait for the end: both together cost the host half as much.
_TOGETHER = 0.003
#: Seconds for which a runner that ends hands over what it has journaled.
_HAND_OVER = 5.0
#: After so many ends a new generation of exit records begins.
_GENERATION = 2000
#: The lane of work that is for no task.
_TIDYING = -1


class Supervision:
    """Every task that the host has not acknowledged; a `Watcher` of the launcher.

    Args:
        journal: what is known, in memory and on disk.
        launcher: starts and ends processes.
        starter: makes the launcher's orders.
        boot_id: the machine's present boot.
        grace: seconds between SIGTERM and SIGKILL.
        tell: takes messages for the host; must not block.
        ended: called with the id of each task that ended.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        launcher: Launcher,
        starter: Starter,
        boot_id: str,
        grace: float,
        tell: Callable[[Message], None],
        ended: Callable[[int], None],
    ) -> None:
        self._journal = journal
        self._launcher = launcher
        self._starter = starter
        self._exits = launcher.exits
        self._boot_id = boot_id
        self._grace = grace
        self._tell = tell
        self._ended = ended
        self._lanes = Lanes()
        #: Launches that came in and are not journaled yet.
        self._coming: set[int] = set()
        self._ends = 0
        #: What tasks had used when they were last looked at.
        self._used: dict[int, Usage] = {}
        #: Starts that are told in a moment, or with the task's end if that comes before.
        self._starts: dict[int, asyncio.TimerHandle] = {}

    async def recover(self) -> None:
        """Find out what became of each journaled task, and take up watching those that run."""
        running = await self._launcher.open(self)
        records = await asyncio.to_thread(self._exits.load)
        self._ends = len(records)
        abandoned: dict[int, Running | None] = {}
        for task_id, entry in list(self._journal.entries.items()):
            if entry.exit is not None:
                continue
            if task_id in running:
                await self._take_up(task_id, entry, running[task_id])
                continue
            record = records.get(task_id)
            self._note_start(task_id, record)
            if record is None and entry.launch is not None:
                abandoned[task_id] = entry.running
            self._end(task_id, judge(entry, record, boot_id=self._boot_id, now=time.time()))
        # What lost its supervisor would use CPUs that the host gives to others.
        await self._launcher.end_survivors(abandoned)
        self._lanes.put(_TIDYING, self._tidy)

    async def close(self) -> None:
        """Handle no more messages; tasks go on."""
        # What is journaled but not handed over would be "interrupted" at the next start.
        await self._lanes.finish(_HAND_OVER)
        for timer in self._starts.values():
            timer.cancel()
        await self._lanes.close()

    def is_live(self, task_id: int) -> bool:
        """Whether the task was launched and has not ended: it may still write to its logs."""
        if task_id in self._coming:
            return True
        entry = self._journal.entries.get(task_id)
        return entry is not None and entry.exit is None

    def is_kept(self, task_id: int) -> bool:
        """Whether this runner still answers for the task: it is coming, runs, or must be told."""
        return task_id in self._coming or task_id in self._journal.entries

    def known(self) -> tuple[list[Message], list[Message]]:
        """Return `Known` for every task with a launch, and what is to be said after `KnownEnd`."""
        known: list[Message] = []
        after: list[Message] = []
        for task_id, entry in self._journal.entries.items():
            if entry.launch is not None:
                known.append(self._known(task_id, entry.launch, entry))
            elif entry.exit is not None:
                after.append(Finished(task_id=task_id, exit=entry.exit))
        return known, after

    # Messages of the host

    def launch(self, message: Launch) -> None:
        """Start a task, or tell what became of it if it is known."""
        self._coming.add(message.task_id)
        self._lanes.put(message.task_id, partial(self._launch, message))

    def fetch_and_launch(self, task_id: int, fetch: Fetch) -> None:
        """Launch what `fetch` brings; without success the host's next exchange asks again."""
        self._coming.add(task_id)
        self._lanes.put(task_id, partial(self._fetch, task_id, fetch))

    def kill(self, task_id: int) -> None:
        """End a task, or see to it that it never starts."""
        self._lanes.put(task_id, partial(self._kill, task_id))

    def running(self) -> list[int]:
        """Return the tasks whose program runs."""
        entries = self._journal.entries.items()
        return [each for each, entry in entries if entry.running and entry.exit is None]

    def end_by_itself(self, task_id: int, reason: str) -> None:
        """End a task that the host has not asked to end: it fails with `reason`."""
        entry = self._journal.entries.get(task_id)
        if entry is not None and entry.exit is None and not entry.kill:
            _log.warning("task %s is ended: %s", task_id, reason)
            self._journal.append_lazily(KillAsked(task_id=task_id, reason=reason))
            self.kill(task_id)

    def acknowledge(self, task_id: int) -> None:
        """Forget a task whose end is in the host's store."""
        if self._lanes.is_busy(task_id):
            # A kill that came before must find it: of an unknown task it says that it never ran.
            self._lanes.put(task_id, partial(self._forget, task_id))
        else:
            self._forget_now(task_id)

    async def _forget(self, task_id: int) -> None:
        self._forget_now(task_id)

    def _forget_now(self, task_id: int) -> None:
        entry = self._journal.entries.get(task_id)
        if entry is not None and entry.exit is not None:
            self._journal.append_lazily(Forgotten(task_id=task_id))

    # Events of the launcher

    def started(self, running: Running) -> None:
        """The program runs."""
        if self.is_live(running.id):
            self._journal.append_lazily(Began(task_id=running.id, running=running))
            self._starts[running.id] = asyncio.get_running_loop().call_later(
                _TOGETHER, self._lanes.put, running.id, partial(self._start_written, running.id)
            )

    def measured(self, task_id: int, usage: Usage) -> None:
        """The task has used so much by now."""
        if self.is_live(task_id):
            self._used[task_id] = usage
            self._tell(Measured(task_id=task_id, usage=usage))

    def finished(self, task_id: int, record: ExitRecord | None) -> None:
        """The task is over."""
        if record is not None:
            self._note_start(task_id, record)
            self._end(task_id, decide(record))
        else:
            self._lanes.put(task_id, partial(self._read_end, task_id))

    def vanished(self, task_ids: Iterable[int]) -> None:
        """The keeper died; a task whose record it still wrote has a true end."""
        for task_id in task_ids:
            self._lanes.put(task_id, partial(self._mourn, task_id))

    # The work itself

    async def _launch(self, message: Launch) -> None:
        try:
            entry = self._journal.entries.get(message.task_id)
            if entry is not None:
                self._repeat(message.task_id, entry)
            elif await self._journaled(message):
                await self._start(message)
        finally:
            self._arrived(message.task_id)

    async def _fetch(self, task_id: int, fetch: Fetch) -> None:
        try:
            entry = self._journal.entries.get(task_id)
            if entry is not None:
                self._repeat(task_id, entry)
            else:
                await self._launch(await fetch(task_id))
        except HostUnreachable as error:
            # If the link is down, this word is lost, and the next exchange brings the task again.
            self._tell_fault(task_id, str(error))
        finally:
            self._arrived(task_id)

    def _arrived(self, task_id: int) -> None:
        self._coming.discard(task_id)
        if not self.is_live(task_id):
            self._ended(task_id)

    async def _journaled(self, message: Launch) -> bool:
        """Put the launch on the disk; what cannot be put there must never start."""
        record = Launched(
            task_id=message.task_id,
            spec=message.spec,
            placement=message.placement,
            boot_id=self._boot_id,
            origin=message.origin,
        )
        try:
            await self._journal.append_durably(record)
        except OSError as error:
            reason = f"the runner cannot write its journal: {error.strerror}"
            self._tell_fault(message.task_id, reason)
            return False
        return True

    async def _start(self, message: Launch) -> None:
        task_id = message.task_id
        try:
            order = await self._starter.order(task_id, message.spec, message.placement)
            await self._launcher.start(order)
        except (StartError, OSError, ValueError) as error:
            self._end(task_id, could_not_start(str(error), time.time()))

    def _tell_fault(self, task_id: int, reason: str) -> None:
        end = tellable(could_not_start(reason, time.time()))
        self._tell(Finished(task_id=task_id, exit=end))

    async def _kill(self, task_id: int) -> None:
        entry = self._journal.entries.get(task_id)
        if entry is None:
            await self._journal.append_durably(KillAsked(task_id=task_id))
            self._end(task_id, never_started(time.time()))
        elif entry.exit is not None:
            self._repeat(task_id, entry)
        else:
            self._journal.append_lazily(KillAsked(task_id=task_id))
            await self._launcher.kill(task_id, grace=self._grace)

    async def _read_end(self, task_id: int) -> None:
        record = await asyncio.to_thread(self._exits.read, task_id)
        self._note_start(task_id, record)
        entry = self._journal.entries.get(task_id)
        if entry is not None:
            self._end(task_id, judge(entry, record, boot_id=self._boot_id, now=time.time()))

    async def _mourn(self, task_id: int) -> None:
        record = await asyncio.to_thread(self._exits.read, task_id)
        self._note_start(task_id, record)
        self._end(task_id, orphaned(record, now=time.time()))

    async def _take_up(self, task_id: int, entry: Entry, running: Running | None) -> None:
        """Watch on; what is only just being started tells of itself."""
        if entry.running is None and running is not None:
            self._journal.append_lazily(Began(task_id=task_id, running=running))
        if entry.kill:
            await self._launcher.kill(task_id, grace=self._grace)

    def _note_start(self, task_id: int, record: ExitRecord | None) -> None:
        """Note when a task started of which its end alone is told."""
        entry = self._journal.entries.get(task_id)
        if entry is None or entry.running is not None:
            return
        if record is not None and record.started_at is not None:
            began = Running(id=task_id, pid=0, start=0, started_at=record.started_at)
            self._journal.append_lazily(Began(task_id=task_id, running=began))

    def _end(self, task_id: int, end: Exit) -> None:
        """Note how a task ended, once, and tell."""
        entry = self._journal.entries.get(task_id)
        if entry is None or entry.exit is not None:
            return
        end = with_usage(end, self._used.pop(task_id, None))
        end = tellable(blamed(end, entry))
        self._journal.append_lazily(Ended(task_id=task_id, exit=end))
        self._tell_start(task_id)
        self._tell(Finished(task_id=task_id, exit=end))
        self._ended(task_id)
        self._ends += 1
        if self._ends >= _GENERATION:
            self._ends = 0
            self._lanes.put(_TIDYING, self._tidy)

    async def _tidy(self) -> None:
        """Drop exit records, as soon as the journal tells all that they tell."""
        entries = self._journal.entries
        old = await asyncio.to_thread(self._exits.droppable)
        over = {each for each in old if each not in entries or entries[each].exit is not None}
        if await self._journal.written():
            await asyncio.to_thread(self._exits.drop, over)

    async def _start_written(self, task_id: int) -> None:
        """Tell that a task runs, when this runner's death can no longer make it unknown."""
        await self._journal.written()
        self._tell_start(task_id)

    def _tell_start(self, task_id: int) -> None:
        """Tell that a task runs, unless that has been told."""
        timer = self._starts.pop(task_id, None)
        entry = self._journal.entries.get(task_id)
        if timer is not None and entry is not None and entry.running is not None:
            timer.cancel()
            self._tell(self._started(entry.running))

    def _repeat(self, task_id: int, entry: Entry) -> None:
        if entry.exit is not None:
            self._tell(Finished(task_id=task_id, exit=entry.exit))
        elif entry.running is not None:
            self._tell(self._started(entry.running))

    def _started(self, running: Running) -> Started:
        files = self._starter.files
        return Started(
            task_id=running.id,
            started_at=running.started_at,
            stdout_path=str(files.log(running.id, "stdout")),
            stderr_path=str(files.log(running.id, "stderr")),
            unit=self._launcher.unit_of(running.id),
        )

    def _known(self, task_id: int, launch: Launched, entry: Entry) -> Known:
        files = self._starter.files
        return Known(
            task_id=task_id,
            spec=launch.spec,
            placement=launch.placement,
            origin=launch.origin,
            started_at=entry.running.started_at if entry.running else None,
            exit=entry.exit,
            stdout_path=str(files.log(task_id, "stdout")),
            stderr_path=str(files.log(task_id, "stderr")),
            unit=self._launcher.unit_of(task_id),
        )
