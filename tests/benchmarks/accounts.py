"""What the kernel knows of processes: memory and CPU time, with the helpers that they fork."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from support.processes import pids, proc_bytes

_TICKS = os.sysconf("SC_CLK_TCK")
_LINE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


def family(pid: int) -> list[int]:
    """Return `pid` and the helpers that it has forked: all that show the same command line."""
    command = proc_bytes(pid, "cmdline")
    return [other for other in pids() if command and proc_bytes(other, "cmdline") == command]


def parent_of(pid: int) -> int:
    """Return the parent of a living process."""
    return int(proc_bytes(pid, "stat").rpartition(b")")[2].split()[1])


@dataclass(frozen=True)
class Memory:
    """A process's memory in MiB.

    `pss` has its part of what it shares with others, and so moves when other programs that map
    the same libraries come and go; `own` is what it has allocated, and moves by itself alone.
    """

    pss: float
    own: float

    @classmethod
    def of(cls, pid: int) -> Memory:
        """Return what `pid` and its helpers have now."""
        pss = own = 0
        for member in family(pid):
            found = dict(_LINE.findall(proc_bytes(member, "smaps_rollup").decode()))
            pss += int(found.get("Pss", 0))
            own += int(found.get("Anonymous", 0))
        return cls(pss / 1024, own / 1024)


@dataclass(frozen=True)
class Cpu:
    """CPU seconds of a process with its helpers, and of their children that have ended."""

    own: float
    children: float

    @classmethod
    def of(cls, pid: int) -> Cpu:
        """Return what `pid` has used so far."""
        own = children = 0
        for member in family(pid):
            fields = proc_bytes(member, "stat").rpartition(b")")[2].split()
            user, system, child_user, child_system = map(int, fields[11:15])
            own += user + system
            children += child_user + child_system
        return cls(own / _TICKS, children / _TICKS)


class Meter:
    """CPU time per task and process from now on; ``tasks`` is what the keeper's children use."""

    def __init__(self, daemons: dict[str, int]) -> None:
        self._pids = {**daemons, "client": os.getpid()}
        self._before = {name: Cpu.of(pid) for name, pid in self._pids.items()}

    def per_task(self, count: int) -> dict[str, float]:
        """Return the milliseconds that each of `count` tasks has cost since."""
        used: dict[str, float] = {}
        for name, pid in self._pids.items():
            now, before = Cpu.of(pid), self._before[name]
            used[name] = (now.own - before.own) * 1000 / count
            if name == "keeper":
                used["tasks"] = (now.children - before.children) * 1000 / count
        return used
