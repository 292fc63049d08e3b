"""From a `Launch` to the order for the launcher: checks, limits, binding, the script's file."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypedDict

from hakuriver.errors import StartError
from hakuriver.model.cpulist import format_cpulist
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
    from hakuriver.model.nodes import NodeInfo
    from hakuriver.model.tasks import Placement, TaskSpec


class _Binding(TypedDict):
    cpus: tuple[int, ...]
    numa_node: int | None
    prefix: tuple[str, ...]


class Starter:
    """Makes orders.

    Args:
        files: where scripts and logs go; its folders exist.
        around: what is the same for all tasks.
        info: what the node has and can enforce.
        numactl: the program that binds tasks to NUMA nodes; None: the launcher itself does.
        grace: seconds that a task gets to end.
        pins: whether a task is bound to the very CPUs that the host gave it; else it may use all
            of the node's, or of its NUMA node's, up to its quota.
        writes_scripts: whether scripts are written here; else the launcher has that done with
            the task's own rights.
    """

    def __init__(
        self,
        *,
        files: TaskFiles,
        around: Surroundings,
        info: NodeInfo,
        numactl: str | None,
        grace: float,
        pins: bool,
        writes_scripts: bool,
    ) -> None:
        self.files = files
        self._around = around
        self._info = info
        self._numactl = numactl
        self._grace = grace
        self._pins = pins
        self._writes_scripts = writes_scripts

    async def order(self, task_id: int, spec: TaskSpec, placement: Placement) -> StartOrder:
        """Put down the task's script, if it has one, and return the order to start it.

        Raises:
            StartError: the task cannot or must not run here.
        """
        reason = unmet(needs_of(spec, placement.numa_node), self._info.capabilities)
        if reason is not None:
            raise StartError(f"this node cannot give {reason}")
        binding = self._binding(placement)
        path = self.files.script(task_id)
        if spec.script is not None and self._writes_scripts:
            await self._write_script(path, spec.script)
        workdir = working_directory(self._around, task_id, spec)
        return StartOrder(
            id=task_id,
            argv=command_line(spec, path, self._around.python),
            env=task_environment(self._around, task_id, spec, placement),
            cwd=str(workdir),
            make_cwd=workdir.parent == self._around.work_root,
            stdout=str(self.files.log(task_id, "stdout")),
            stderr=str(self.files.log(task_id, "stderr")),
            grace=self._grace,
            time_limit=spec.time_limit_seconds,
            memory_limit=spec.required_memory_bytes,
            cores=spec.required_cores,
            private_network=spec.use_private_network,
            private_pid=spec.use_private_pid,
            script=None if self._writes_scripts else spec.script,
            script_path=str(path),
            **binding,
        )

    async def _write_script(self, path: Path, script: bytes) -> None:
        try:
            await asyncio.to_thread(_write_script, path, script)
        except OSError as error:
            raise StartError(f"cannot write {error.filename}: {error.strerror}") from None

    def _binding(self, placement: Placement) -> _Binding:
        """Return which CPUs and memory the task is bound to, and by whom."""
        node = placement.numa_node
        cpus = placement.cpus if self._pins else self._unpinned()
        if node is None:
            return {"cpus": cpus, "numa_node": None, "prefix": ()}
        domain = self._info.numa_topology.get(str(node))
        if domain is None:
            raise StartError(f"this node has no NUMA node {node}")
        cpus = (cpus if self._pins else ()) or domain.cores
        if self._numactl is None:
            return {"cpus": cpus, "numa_node": node, "prefix": ()}
        pinning = (f"--physcpubind={format_cpulist(cpus)}",) if cpus else ()
        prefix = (self._numactl, *pinning, f"--membind={node}", "--")
        return {"cpus": (), "numa_node": None, "prefix": prefix}

    def _unpinned(self) -> tuple[int, ...]:
        """Return the CPUs that this runner gives out, if they are not all of the machine's."""
        cpus = self._info.cpus
        return () if set(cpus) >= os.sched_getaffinity(0) else cpus


def _write_script(path: Path, script: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o700)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - pathlib sets no mode
        file.write(script)
