"""From a `Launch` to the order for the launcher: checks, the script's file, the task's folder."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from hakuriver.errors import StartError
from hakuriver.model.needs import needs_of, unmet
from hakuriver.runner.environment import (
    Surroundings,
    command_line,
    task_environment,
    working_directory,
)
from hakuriver.runner.launchers.base import StartOrder

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.logfiles import TaskFiles
    from hakuriver.model.nodes import Capabilities
    from hakuriver.model.tasks import Placement, TaskSpec


class Starter:
    """Makes orders.

    Args:
        files: where scripts and logs go.
        around: what is the same for all tasks.
        able: what the node can enforce.
        grace: seconds that what a task leaves behind gets to end.
    """

    def __init__(
        self, *, files: TaskFiles, around: Surroundings, able: Capabilities, grace: float
    ) -> None:
        self.files = files
        self._around = around
        self._able = able
        self._grace = grace

    async def order(self, task_id: int, spec: TaskSpec, placement: Placement) -> StartOrder:
        """Put down what the task needs on the disk and return the order to start it.

        Raises:
            StartError: the task cannot or must not run here.
        """
        reason = unmet(needs_of(spec, placement.numa_node), self._able)
        if reason is not None:
            raise StartError(f"this node cannot give {reason}")
        workdir = working_directory(self._around, task_id, spec)
        try:
            await asyncio.to_thread(self._prepare, task_id, spec, workdir)
        except OSError as error:
            raise StartError(f"cannot write {error.filename}: {error.strerror}") from None
        return StartOrder(
            id=task_id,
            argv=command_line(spec, self.files.script(task_id), self._around.python),
            env=task_environment(self._around, task_id, spec, placement),
            cwd=str(workdir),
            stdout=str(self.files.log(task_id, "stdout")),
            stderr=str(self.files.log(task_id, "stderr")),
            cpus=placement.cpus,
            numa_node=placement.numa_node,
            grace=self._grace,
        )

    def _prepare(self, task_id: int, spec: TaskSpec, workdir: Path) -> None:
        self.files.make()
        if workdir.parent == self._around.work_root:
            workdir.mkdir(mode=0o700, exist_ok=True)
        if spec.script is not None:
            _write_script(self.files.script(task_id), spec.script)


def _write_script(path: Path, script: bytes) -> None:
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o700)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - pathlib sets no mode
        file.write(script)
