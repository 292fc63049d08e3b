"""Ends tasks whose logs have grown past ``runner.max_log_bytes``.

Logs go straight to their files, so that nobody stands between a task and its disk: how long they
are must be looked at. Without a cap nobody looks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, get_args

from hakuriver.model.messages import Stream
from hakuriver.model.quantities import format_memory, memory_of_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hakuriver.logfiles import TaskFiles

#: Seconds between two looks: what a task writes in one second is by how much it may overshoot.
_PAUSE = 1.0


def cap_of(setting: int | str) -> int | None:
    """Return ``runner.max_log_bytes`` in bytes, None for no cap; raise `ConfigError`."""
    return memory_of_key("runner.max_log_bytes", str(setting)) if setting else None


class LogCaps:
    """Looks at the logs of running tasks once a second.

    Args:
        files: where the logs lie.
        cap: so many bytes may either of a task's two logs have.
        live: gives the tasks that run.
        over: called with a task and the reason why it must end.
    """

    def __init__(
        self,
        *,
        files: TaskFiles,
        cap: int,
        live: Callable[[], Iterable[int]],
        over: Callable[[int, str], None],
    ) -> None:
        self._files = files
        self._cap = cap
        self._live = live
        self._over = over

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            for task_id, reason in await asyncio.to_thread(self._look, list(self._live())):
                self._over(task_id, reason)

    def _look(self, tasks: list[int]) -> list[tuple[int, str]]:
        found = ((task_id, self._excess(task_id)) for task_id in tasks)
        return [(task_id, reason) for task_id, reason in found if reason is not None]

    def _excess(self, task_id: int) -> str | None:
        for stream in get_args(Stream):
            path = self._files.log(task_id, stream)
            try:
                size = path.lstat().st_size
            except OSError:  # it is not there yet, or the task has removed it
                continue
            if size > self._cap:
                cap = format_memory(self._cap)
                return (
                    f"log limit: its {stream} grew to {format_memory(size)}, "
                    f"runner.max_log_bytes of its node is {cap}"
                )
        return None
