"""What a task's unit is told to be: the properties of a transient service or scope. Pure.

Sources: systemd.exec(5), systemd.resource-control(5), systemd.service(5), systemd.kill(5).
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.runner.launchers.base import StartOrder

#: All tasks of a machine, apart from its services and its users' sessions.
SLICE = "hakuriver.slice"
#: The least grace in seconds: systemd gives the same time to the program that notes the end.
LEAST_GRACE = 5.0

Kind = Literal["service", "scope"]

_PREFIX = "hakuriver-task-"


def unit_name(task_id: int, kind: Kind) -> str:
    """Return the name of a task's unit; systemd never has two of one name."""
    return f"{_PREFIX}{task_id}.{kind}"


def units_pattern(kind: Kind) -> str:
    """Return the pattern that the names of all tasks' units match."""
    return f"{_PREFIX}*.{kind}"


def task_of_unit(name: str, kind: Kind) -> int | None:
    """Return the task whose unit has this name, None if it is no task's."""
    number = name.removeprefix(_PREFIX).removesuffix(f".{kind}")
    ours = name == f"{_PREFIX}{number}.{kind}" and number.isascii() and number.isdigit()
    return int(number) if ours else None


def limits(order: StartOrder, *, tasks_max: int) -> list[str]:
    """Return the properties that hold a task to its limits, as services and scopes know them."""
    properties = [
        "CPUAccounting=yes",
        "MemoryAccounting=yes",
        f"TasksMax={tasks_max}",
    ]
    if order.cores:
        # Per cent of ONE CPU.
        properties.append(f"CPUQuota={order.cores * 100}%")
    if order.memory_limit is not None:
        # Without the second the task would go on in swap.
        properties += [f"MemoryMax={order.memory_limit}", "MemorySwapMax=0"]
    return properties


def of_service(
    order: StartOrder, *, tasks_max: int, user: str | None, own_pids: bool, record: Path
) -> list[str]:
    """Return all properties of a task's service.

    Args:
        order: the task.
        tasks_max: so many processes and threads it may have.
        user: as whom it runs; None for the user of the manager itself, or if its command becomes
            another user by itself.
        own_pids: whether systemd is to give it process ids of its own (from version 257).
        record: the file for the exit record.
    """
    properties = [
        *limits(order, tasks_max=tasks_max),
        # The whole tree goes at once, whichever of its processes outgrew the limit.
        "OOMPolicy=kill",
        # Also what stays behind when the main process has ended.
        "KillMode=control-group",
        f"TimeoutStopSec={max(order.grace, LEAST_GRACE):.3f}",
        "NoNewPrivileges=yes",
        "IgnoreSIGPIPE=no",
        f"ExecStopPost={_stop_post(order, record)}",
    ]
    if user is not None:
        properties.append(f"User={user}")
    if order.time_limit is not None:
        # Zero would mean for ever.
        properties.append(f"RuntimeMaxSec={max(1, round(order.time_limit * 1000))}ms")
    if order.private_network:
        properties.append("PrivateNetwork=yes")
    if own_pids:
        properties.append("PrivatePIDs=yes")
    return properties


# It runs as root, inside the task's control group, and stands against whatever the task does:
# shell builtins alone, since the task may have filled its memory or reached its TasksMax; no
# file of the task's; one write. Only the last word needs a process, and may be missing.
_RECORD = (
    "read -r g </proc/self/cgroup",
    "c=/sys/fs/cgroup${g#0::} p=- u=-",
    "read -r p <$c/memory.peak",
    "while read -r k v; do case $k in usage_usec) u=$v; break;; esac; done <$c/cpu.stat",
    "s=$(systemctl is-system-running)",
    'r="${SERVICE_RESULT:--} ${EXIT_CODE:--} ${EXIT_STATUS:--} $u $p"',
)


def record_line_limits(order: StartOrder) -> str:
    """Return a task's limits as its exit record tells them, in seconds and bytes."""
    return f"{order.time_limit or '-'} {order.memory_limit or '-'}"


def _stop_post(order: StartOrder, record: Path) -> str:
    """Return the command that notes how a service ended, whatever became of the runner.

    ``+`` is for full rights, ``:`` for dollars that stay.
    """
    line = f'"$r {record_line_limits(order)} ${{s:--}}"'
    write = f"printf '%s\\n' {line} >{shlex.quote(str(record))}"
    return f"+:/bin/sh -c {quoted('; '.join((*_RECORD, write)))}"


def quoted(text: str) -> str:
    """Return one word of a command line in a property (systemd.syntax(7))."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def plain(word: str) -> str:
    """Return a word of a service's command line, in which systemd would replace dollars."""
    return word.replace("$", "$$")
