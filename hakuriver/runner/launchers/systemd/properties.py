"""What a task's unit is told to be: the properties of a transient service or scope. Pure.

Sources: systemd.exec(5), systemd.resource-control(5), systemd.service(5), systemd.kill(5).
"""

from __future__ import annotations

import re
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
_PLAIN = re.compile(r"/[A-Za-z0-9/._+,@=-]*")


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


def description(folder: Path) -> str:
    """Return how units are described whose runner keeps its files of them in `folder`."""
    return f"HakuRiver task of {folder}"


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
    order: StartOrder, *, tasks_max: int, own_pids: bool, limited: bool, stop_post: str
) -> list[str]:
    """Return all properties of a task's service.

    There is no ``User=``: what notes the end must run as root, and of the signs that would let it
    (``+``) a transient unit loses the whole command when systemd 252 reads its units again. The
    task's command becomes the task's user by itself.

    Args:
        order: the task.
        tasks_max: so many processes and threads it may have.
        own_pids: whether systemd is to give it process ids of its own (from version 257).
        limited: whether the manager may not lift the kernel's own limit of a user's processes,
            which would let one task take those of all others.
        stop_post: the command that notes how it ended; see `stop_post_command`.
    """
    properties = [
        *limits(order, tasks_max=tasks_max),
        # The whole tree goes at once, whichever of its processes outgrew the limit.
        "OOMPolicy=kill",
        # Also what stays behind when the main process has ended.
        "KillMode=control-group",
        f"TimeoutStopSec={max(order.grace, LEAST_GRACE):.3f}",
        "NoNewPrivileges=yes",
        *(() if limited else ("LimitNPROC=infinity",)),
        "IgnoreSIGPIPE=no",
        f"ExecStopPost={stop_post}",
    ]
    if order.time_limit is not None:
        # Zero would mean for ever.
        properties.append(f"RuntimeMaxSec={max(1, round(order.time_limit * 1000))}ms")
    if order.private_network:
        properties.append("PrivateNetwork=yes")
    if own_pids:
        properties.append("PrivatePIDs=yes")
    return properties


#: Notes how a unit ended, as root and inside the unit's control group, whatever the task has
#: done. First it leaves the group, which may be full in every way, and has the kernel end all
#: that is left there, however fast it forks. The file is made anew, so that no link can stand at
#: its name: in some set-ups the task could put one there, and this is root. The last word, of
#: whether the machine is going down, is written apart: it may come late or not at all. Arguments:
#: the file, and the task's limits in seconds and bytes.
RECORD_SCRIPT = """\
read -r g </proc/self/cgroup
c=/sys/fs/cgroup${g#0::} p=- u=-
case $g in */hakuriver-task-*.service)
  echo $$ 2>/dev/null >/sys/fs/cgroup/cgroup.procs && echo 1 2>/dev/null >"$c/cgroup.kill" ;;
esac
read -r p <"$c/memory.peak"
while read -r k v; do
  case $k in usage_usec) u=$v; break ;; esac
done <"$c/cpu.stat"
e="${SERVICE_RESULT:--} ${EXIT_CODE:--} ${EXIT_STATUS:--}"
printf '%s ' "$e $u $p $2 $3" | dd of="$1" conv=excl 2>/dev/null
s=$(systemctl is-system-running)
echo "${s:--}" | dd of="$1" oflag=append,nofollow conv=notrunc,nocreat 2>/dev/null
"""


def stop_post_command(order: StartOrder, script: Path, record: Path) -> str:
    """Return the command that has `script` (`RECORD_SCRIPT`) note a service's end in `record`.

    When systemd 252 reads the units again, quotes, dollars and semicolons in a transient unit's
    commands come out as others: there must be none.
    """
    return f"/bin/sh {script} {record} {record_line_limits(order)}"


def record_line_limits(order: StartOrder) -> str:
    """Return a task's limits as its exit record tells them, in seconds and bytes."""
    return f"{order.time_limit or '-'} {order.memory_limit or '-'}"


def is_plain(path: Path) -> bool:
    """Whether a path means itself in every command line of a unit."""
    return _PLAIN.fullmatch(str(path)) is not None
