"""What a unit sees from its inside, as JSON on stdout: run by the probe in a unit like a task's.

Run as ``python -I -S examine.py PATH…``; the paths are folders to write in, or programs to run if
they are no folders. Needs the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys

_CGROUP = "/sys/fs/cgroup"
_LIMITS = ("memory.max", "memory.swap.max", "cpu.max", "pids.max")


def facts(paths: list[str]) -> dict[str, object]:
    """Return what holds for this process; `denied` are the paths that it may not use."""
    group = _text("/proc/self/cgroup").partition("::")[2].strip()
    return {
        "uid": os.getuid(),
        "groups": sorted(os.getgroups()),
        "no_new_privs": "NoNewPrivs:\t1" in _text("/proc/self/status"),
        "cgroup": group,
        "limits": {name: _text(f"{_CGROUP}{group}/{name}").strip() for name in _LIMITS},
        "net": os.readlink("/proc/self/ns/net"),  # noqa: PTH115
        "pid": os.readlink("/proc/self/ns/pid"),  # noqa: PTH115
        "own_proc": os.readlink("/proc/self") == str(os.getpid()),  # noqa: PTH115
        "denied": [path for path in paths if not _usable(path)],
    }


def _usable(path: str) -> bool:
    name = path.encode()
    if os.path.isdir(name):  # noqa: PTH112
        return os.access(name, os.W_OK | os.X_OK)
    return os.access(name, os.X_OK)


def _text(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    json.dump(facts(sys.argv[1:]), sys.stdout)
