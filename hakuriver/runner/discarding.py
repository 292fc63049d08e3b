"""Removing what tasks that ended long ago have left on the node's disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING

from hakuriver.disk import opened_folder, remove_at
from hakuriver.model.messages import Discarded
from hakuriver.runner.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from hakuriver.logfiles import TaskFiles
    from hakuriver.model.messages import Message

_log = logging.getLogger(__name__)

_LANE = 0


class Discarding:
    """Removes logs, scripts and own work folders of tasks, in a thread, one request at a time.

    Args:
        files: where scripts and logs lie.
        work_root: the folder of the tasks' own work folders.
        is_kept: whether a task is one that this runner still answers for.
        tell: takes messages for the host; must not block.
    """

    def __init__(
        self,
        *,
        files: TaskFiles,
        work_root: Path,
        is_kept: Callable[[int], bool],
        tell: Callable[[Message], None],
    ) -> None:
        self._files = files
        self._work_root = work_root
        self._is_kept = is_kept
        self._tell = tell
        self._lanes = Lanes()

    def discard(self, task_ids: Iterable[int]) -> None:
        """Remove everything of these tasks, soon, and tell the host of which nothing is left."""
        self._lanes.put(_LANE, partial(self._discard, tuple(task_ids)))

    async def close(self) -> None:
        """Remove no more."""
        await self._lanes.close()

    async def _discard(self, task_ids: tuple[int, ...]) -> None:
        old = [task_id for task_id in task_ids if not self._is_kept(task_id)]
        gone = await asyncio.to_thread(lambda: [each for each in old if self._remove(each)])
        self._tell(Discarded(task_ids=tuple(gone)))

    def _remove(self, task_id: int) -> bool:
        """Remove what there is of one task; return whether nothing is left."""
        try:
            self._files.remove(task_id)
            with contextlib.suppress(FileNotFoundError), opened_folder(self._work_root) as folder:
                remove_at(str(task_id), folder)
        except OSError as error:
            _log.warning(
                "cannot remove what task %d left: %s: %s", task_id, error.filename, error.strerror
            )
            return False
        return True
