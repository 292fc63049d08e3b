"""Work in order for each task, at the same time for different ones."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)


class Lanes:
    """One lane a key; what is put into it runs when everything before it is done."""

    def __init__(self) -> None:
        self._last: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, key: int, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` after what its lane holds; a fault in it is logged and stops nothing else."""
        task = asyncio.create_task(self._run(self._last.get(key), work), name=f"task {key}")
        self._last[key] = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(key, done))

    def is_busy(self, key: int) -> bool:
        """Whether a lane holds work that is not done."""
        return key in self._last

    async def finish(self, seconds: float) -> None:
        """Return when all work is done, or after so many seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._tasks and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)

    async def close(self) -> None:
        """Cancel what has not ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(
        self, before: asyncio.Task[None] | None, work: Callable[[], Awaitable[None]]
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            await work()
        except Exception:  # noqa: BLE001 - the top of a task
            _log.exception("work for a task failed")

    def _done(self, key: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._last.get(key) is task:
            del self._last[key]
