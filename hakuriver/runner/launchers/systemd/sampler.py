"""Looks at what running tasks use, as often as that is worth telling.

The kernel tells nobody of use: it has to be looked at. A task is looked at soon after its start,
so that short ones are seen too, and then every two seconds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hakuriver.runner.launchers.systemd.cgroup import is_populated, read_usage
from hakuriver.runner.launchers.systemd.properties import Kind, unit_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hakuriver.model.tasks import Usage
    from hakuriver.runner.launchers.base import Running

_FIRST = 0.25
_LONGEST = 2.0


class Sampler:
    """Reads the control groups below `folder`."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self._folder = folder
        self._kind: Kind = kind
        self._seen: dict[int, Usage] = {}
        #: For each task the loop's time of its next look, and the pause after that.
        self._due: dict[int, tuple[float, float]] = {}
        self._work = asyncio.Event()

    def wake(self) -> None:
        """Begin to look: there is a task."""
        self._work.set()

    def is_populated(self, task_id: int) -> bool:
        """Whether anything runs in a task's control group; blocks."""
        return is_populated(self._folder / unit_name(task_id, self._kind))

    async def run(
        self,
        tasks: Mapping[int, Running | None],
        measured: Callable[[int, Usage], None],
        missed: Callable[[int], None],
    ) -> None:
        """Look at `tasks`, which change meanwhile, until cancelled.

        `measured` hears what is new; `missed` of tasks that run and have no control group.
        """
        now = asyncio.get_running_loop().time
        while True:
            if not tasks:
                self._work.clear()
                await self._work.wait()
            await asyncio.sleep(_FIRST)
            for gone in self._due.keys() - set(tasks):
                self._due.pop(gone)
                self._seen.pop(gone, None)
            for task_id in tasks:
                self._due.setdefault(task_id, (now(), _FIRST))
            due = [task_id for task_id, (moment, _) in self._due.items() if moment <= now()]
            found = await asyncio.to_thread(self._look, due)
            for task_id, usage in found.items():
                pause = min(2 * self._due[task_id][1], _LONGEST)
                self._due[task_id] = (now() + pause, pause)
                if task_id not in tasks:
                    continue
                if usage is None:
                    if tasks[task_id] is not None:
                        missed(task_id)
                elif usage != self._seen.get(task_id):
                    self._seen[task_id] = usage
                    measured(task_id, usage)

    def _look(self, task_ids: list[int]) -> dict[int, Usage | None]:
        return {
            task_id: read_usage(
                self._folder / unit_name(task_id, self._kind), self._seen.get(task_id)
            )
            for task_id in task_ids
        }
