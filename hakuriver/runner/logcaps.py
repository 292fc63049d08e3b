"""Ends tasks whose logs have grown past ``runner.max_log_bytes``.

Logs go straight to their files, so that nobody stands between a task and its disk: how long they
are must be looked at. Without a cap nobody looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, get_args

from hakuriver.model.messages import Stream
from hakuriver.model.quantities import format_memory, memory_of_key

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from hakuriver.logfiles import TaskFiles

_log = logging.getLogger(__name__)

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
        #: The task and the step of each fault that was told; the task is None if it is no one's.
        self._told: set[tuple[int | None, str]] = set()

    async def run(self) -> None:
        """Look until cancelled; what fails for one log is told once and tried again."""
        while True:
            await asyncio.sleep(_PAUSE)
            with self._going_on(None, "looking at the logs"):
                await self._round()

    async def _round(self) -> None:
        live = list(self._live())
        self._told = {(task_id, step) for task_id, step in self._told if task_id in (None, *live)}
        for task_id, reason in await asyncio.to_thread(self._look, live):
            with self._going_on(task_id, "ending it"):
                self._over(task_id, reason)

    def _look(self, tasks: list[int]) -> list[tuple[int, str]]:
        found = ((task_id, self._excess(task_id)) for task_id in tasks)
        return [(task_id, reason) for task_id, reason in found if reason is not None]

    def _excess(self, task_id: int) -> str | None:
        for stream in get_args(Stream):
            with self._going_on(task_id, f"looking at its {stream}"):
                size = self._size(task_id, stream)
                if size > self._cap:
                    cap = format_memory(self._cap)
                    return (
                        f"log limit: its {stream} grew to {format_memory(size)}, "
                        f"runner.max_log_bytes of its node is {cap}"
                    )
        return None

    def _size(self, task_id: int, stream: Stream) -> int:
        try:
            return self._files.log(task_id, stream).lstat().st_size
        except FileNotFoundError:  # it is not there yet, or the task has removed it
            return 0

    @contextlib.contextmanager
    def _going_on(self, task_id: int | None, step: str) -> Generator[None]:
        """Let no fault out: the logs of the other tasks are to be watched as before."""
        try:
            yield
        except Exception:  # noqa: BLE001 - the next look may well succeed, whatever it was
            if (task_id, step) not in self._told:
                self._told.add((task_id, step))
                whose = "" if task_id is None else f" of task {task_id}"
                _log.exception("runner.max_log_bytes%s: %s failed, it is tried on", whose, step)
