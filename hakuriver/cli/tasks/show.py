"""What commands and magics show of nodes and tasks, as tables."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from typing import TYPE_CHECKING

from hakuriver._version import __version__
from hakuriver.cli.shared.tables import Table
from hakuriver.client.outcome import cause
from hakuriver.model.cpulist import format_cpulist
from hakuriver.model.needs import WORDS, lacks_of
from hakuriver.model.quantities import format_duration, format_memory
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import TaskResult, from_iso

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hakuriver.model.nodes import Capabilities, NumaNode
    from hakuriver.model.tasks import Usage
    from hakuriver.model.views import HealthView, NodeView, TaskView

_NOT_KNOWN = "N/A"
_TIMES = "\N{MULTIPLICATION SIGN}"


def node_table(nodes: Iterable[NodeView], *, now: float | None = None) -> Table:
    """Return the nodes with their accounting; `now` is in seconds since the Unix epoch."""
    now = time.time() if now is None else now
    head = (
        *("node", "status", "cores", "used", "free"),
        *("memory used", "NUMA", "launcher", "heartbeat"),
    )
    rows = tuple(
        (
            node.hostname,
            _status(node),
            str(node.total_cores),
            str(node.cores_in_use),
            str(node.available_cores),
            _memory_share(node.memory_in_use_bytes, node.memory_total_bytes),
            numa_summary(node.numa_topology),
            node.launcher,
            _age(node.last_heartbeat, now),
        )
        for node in nodes
    )
    return Table(head, rows, frozenset({2, 3, 4, 5, 8}))


def version_notes(nodes: Iterable[NodeView]) -> list[str]:
    """Return a line for each node that the host refuses, or that runs another version than this."""
    notes: list[str] = []
    for node in nodes:
        if node.refused is not None:
            notes.append(f"{node.hostname} is refused: {node.refused}")
        elif node.version != __version__:
            notes.append(f"{node.hostname} runs version {node.version}, this is {__version__}")
    return notes


def _status(node: NodeView) -> str:
    """Return whether it is there, and what else matters of that."""
    words = [node.status.value]
    words += ["refused"] if node.refused is not None else []
    words += ["draining"] if node.draining else []
    return ", ".join(words)


def _memory_share(used: int, total: int) -> str:
    """Return both in the total's unit, short enough for a table: ``2 of 11.8 GiB``."""
    size, unit = format_memory(total).split()
    figures = (float(size) * used / total if total else 0.0, float(size))
    part, whole = (f"{figure:.1f}".removesuffix(".0") for figure in figures)
    return f"{part} of {whole} {unit}"


def numa_summary(topology: Mapping[str, NumaNode] | None) -> str:
    """Return how many NUMA nodes of what size there are, or ``N/A`` where nobody knows."""
    if not topology:
        return _NOT_KNOWN
    sizes = Counter(len(node.cores) for node in topology.values())
    parts = [f"{count} {_TIMES} {size}" for size, count in sorted(sizes.items(), reverse=True)]
    return f"{' + '.join(parts)} {'core' if set(sizes) == {1} else 'cores'}"


def task_table(tasks: Iterable[TaskView]) -> Table:
    """Return the tasks, a row each."""
    head = ("task", "status", "target", "cores", "time", "name", "command")
    rows = tuple(
        (
            task.task_id,
            task.status.value,
            task.target,
            str(task.required_cores),
            _ran(task),
            task.name,
            command_line(task),
        )
        for task in tasks
    )
    return Table(head, rows, frozenset({3, 4}))


def status_table(task: TaskView) -> Table:
    """Return all that is known of one task, a line for each thing."""
    memory, limit = task.required_memory_bytes, task.time_limit_seconds
    isolation = [
        word
        for word, wanted in (
            ("network", task.use_private_network),
            ("process table", task.use_private_pid),
        )
        if wanted
    ]
    known: dict[str, str | None] = {
        "task": task.task_id,
        "batch": task.batch_id,
        "status": task.status.value,
        "reason": task.reason,
        "exit code": None if task.exit_code is None else str(task.exit_code),
        "target": task.target,
        "in the queue": _queued(task),
        "command": command_line(task),
        "name": task.name,
        "owner": task.owner,
        "cores": str(task.required_cores),
        "CPUs": ", ".join(map(str, task.cpus)),
        "memory limit": None if memory is None else format_memory(memory),
        "time limit": None if limit is None else format_duration(limit),
        "working directory": task.working_directory,
        "environment": ", ".join(sorted(task.env_vars)),
        "private": ", ".join(isolation),
        "submitted": task.submitted_at,
        "started": task.started_at,
        "completed": task.completed_at,
        "ran for": _ran(task),
        **_used(task.usage),
        "stdout": task.stdout_path,
        "stderr": task.stderr_path,
        "unit": task.systemd_unit_name,
        "retry of": task.retry_of,
    }
    return Table((), tuple((name, value) for name, value in known.items() if value))


def _used(usage: Usage | None) -> dict[str, str | None]:
    """Return what a task has used, in words."""
    if usage is None:
        return {}
    cpu, now, peak = usage.cpu_seconds, usage.memory_bytes, usage.peak_memory_bytes
    return {
        "CPU time": None if cpu is None else format_duration(cpu),
        "memory": None if now is None else format_memory(now),
        "peak memory": None if peak is None else format_memory(peak),
        "memory by NUMA node": _by_node(usage.numa_memory_bytes),
        "peak by NUMA node": _by_node(usage.peak_numa_memory_bytes),
    }


def _by_node(sizes: Mapping[str, int] | None) -> str | None:
    """Return how much lies on each NUMA node: ``0: 512 MiB (98 %), 1: 8 MiB (2 %)``."""
    if not sizes:
        return None
    total = sum(sizes.values()) or 1
    return ", ".join(
        f"{node}: {format_memory(size)} ({100 * size / total:.0f} %)"
        for node, size in sorted(sizes.items(), key=lambda pair: int(pair[0]))
    )


def _queued(task: TaskView) -> str | None:
    """Return how many tasks wait before this one."""
    count = task.queue_position
    if count is None or task.status is not TaskState.PENDING:
        return None
    return f"{count or 'no'} task{'s' if count != 1 else ''} before it"


def health_table(nodes: Iterable[HealthView], accounts: Iterable[NodeView] = ()) -> Table:
    """Return the measured use of nodes, and under each that of its NUMA nodes.

    `accounts` has the same nodes with what of their cores is given out.
    """
    head = (
        "node",
        "status",
        "CPU %",
        "memory used",
        "of",
        "memory %",
        "load",
        "given out",
        "cores",
    )
    known = {account.hostname: account for account in accounts}
    rows: list[tuple[str, ...]] = []
    for node in nodes:
        account = known.get(node.hostname)
        rows.append(
            (
                node.hostname,
                node.status.value,
                f"{node.cpu_percent:.1f}",
                format_memory(node.memory_used_bytes),
                format_memory(node.memory_total_bytes),
                f"{node.memory_percent:.1f}",
                f"{node.load_average:.2f}",
                f"{account.cores_in_use} of {account.total_cores}" if account else "",
                "" if node.numa else f"NUMA {_NOT_KNOWN}",
            )
        )
        for number, numa in sorted(node.numa.items(), key=lambda pair: int(pair[0])):
            use = numa.use
            given = account.numa_use.get(number) if account else None
            share = 100 * use.memory_used_bytes / numa.memory_bytes if use else 0.0
            rows.append(
                (
                    f"{node.hostname}:{number}",
                    "",
                    f"{use.cpu_percent:.1f}" if use else _NOT_KNOWN,
                    format_memory(use.memory_used_bytes) if use else _NOT_KNOWN,
                    format_memory(numa.memory_bytes),
                    f"{share:.1f}" if use else _NOT_KNOWN,
                    "",
                    f"{given.cores_in_use} of {given.total_cores}" if given else "",
                    format_cpulist(numa.cores),
                )
            )
    return Table(head, tuple(rows), frozenset({2, 3, 4, 5, 6, 7}))


def missing_capabilities(capabilities: Capabilities) -> list[str]:
    """Return what a node cannot enforce, each with the reason."""
    return [f"{WORDS[name]}: {reason}" for name, reason in lacks_of(capabilities).items()]


def command_line(task: TaskView) -> str:
    """Return what the task runs, quoted as for a shell."""
    return shlex.join([task.command, *task.arguments])


def state_words(task: TaskView) -> str:
    """Return the state in words, the state itself first: ``failed (exit code 4)``."""
    parts: list[str] = []
    if task.status is not TaskState.COMPLETED and (why := cause(task)):
        parts.append(why)
    if task.completed_at is not None and (ran := _ran(task)):
        parts.append(ran)
    return f"{task.status.value} ({', '.join(parts)})" if parts else task.status.value


def _ran(task: TaskView) -> str:
    """Return how long the task ran, or has been running."""
    seconds = TaskResult.of(task).seconds
    started = from_iso(task.started_at)
    if seconds is None and started is not None and task.status is TaskState.RUNNING:
        seconds = max(0.0, time.time() - started)
    return "" if seconds is None else format_duration(seconds)


def _age(moment: str | None, now: float) -> str:
    seen = from_iso(moment)
    return "never" if seen is None else f"{format_duration(max(0.0, now - seen))} ago"
