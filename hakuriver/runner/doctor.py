"""What this machine can enforce and why not: the findings of ``hakuriver doctor``. Blocks."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.errors import ConfigError
from hakuriver.model.needs import WORDS
from hakuriver.runner.launchers.memory import can_measure
from hakuriver.runner.launchers.systemd.making import OWN_PIDS_SINCE, Maker
from hakuriver.runner.launchers.systemd.manager import (
    Manager,
    Mode,
    Obstacle,
    find_manager,
    systemd_version,
)
from hakuriver.runner.launchers.systemd.properties import RECORD_SCRIPT
from hakuriver.runner.launchers.systemd.trial import Trial, attempt
from hakuriver.runner.numa import find_numactl, read_topology
from hakuriver.runner.places import named_for_tasks
from hakuriver.runner.probe import SYSFS, numa_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hakuriver.config import Config

_ISOLATION = ("private_network", "private_pid")
_LIMITS = ("cpu_quota", "memory_limit", "process_limit", *_ISOLATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; `why` says how or why not, `mend` what changes that.

    `needed` is True where the configured runner cannot start without it.
    """

    what: str
    ok: bool
    why: str = ""
    mend: str = ""
    needed: bool = False


def examine(config: Config) -> Iterator[Finding]:
    """Yield the findings about this machine, one after the other, as they are made."""
    yield from _systemd(config)
    yield from _numa(config)
    yield from _folders(config)


def _systemd(config: Config) -> Iterator[Finding]:
    needed = config.runner.launcher != "process"
    version = systemd_version()
    if version:
        yield Finding(what="systemd", ok=True, why=f"version {version} runs this machine")
    try:
        manager = find_manager(config.runner.run_as_user)
    except ConfigError as error:
        yield Finding(what="tasks as units", ok=False, why=str(error), needed=needed)
        manager = []
    if not isinstance(manager, Manager):
        for each in manager:
            what = "tasks as units" if version else "systemd"
            yield Finding(what=what, ok=False, why=each.reason, mend=each.mend, needed=needed)
        yield from _without_systemd()
        return
    yield from _units(config, manager, needed=needed)


def _without_systemd() -> Iterator[Finding]:
    watched = can_measure()
    yield Finding(
        what=f'{WORDS["memory_limit"]} (launcher = "process")',
        ok=watched,
        why="by a watchdog" if watched else "the kernel does not tell what processes hold",
    )


def _units(config: Config, manager: Manager, *, needed: bool) -> Iterator[Finding]:
    ways = {
        Mode.ROOT: "this user is root",
        Mode.SUDO: "sudo lets this user make units",
        Mode.USER: "by this user's own manager, which lingers",
    }
    yield Finding(
        what="tasks as units",
        ok=True,
        why=f"{ways[manager.mode]}; tasks run as {manager.account.name}",
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "record.sh"
        script.write_text(RECORD_SCRIPT, "ascii")
        maker = Maker(manager, "service", config.runner.tasks_max, script)
        paths = [path for path in named_for_tasks(config) if Path(path).exists()]
        trial = attempt(maker, paths=paths)
    if isinstance(trial, Obstacle):
        yield Finding(
            what="a unit as a trial", ok=False, why=trial.reason, mend=trial.mend, needed=needed
        )
        return
    yield from _tried(trial, manager)
    for path in trial.denied:
        yield Finding(
            what=f"{path} for tasks",
            ok=False,
            why=f"{manager.account.name} cannot use it",
            mend=f"chown {manager.account.name} {path}, or change its mode",
            needed=needed,
        )


def _tried(trial: Trial, manager: Manager) -> Iterator[Finding]:
    for name in _LIMITS:
        fault: Obstacle | None = getattr(trial, name)
        how = "seen from inside a unit"
        if name == "private_pid" and manager.version < OWN_PIDS_SINCE:
            how += f", by unshare (systemd {OWN_PIDS_SINCE} has it itself)"
        yield Finding(
            what=WORDS[name],
            ok=fault is None,
            why=how if fault is None else fault.reason,
            mend="" if fault is None else fault.mend,
        )


def _numa(config: Config) -> Iterator[Finding]:
    try:
        numactl = find_numactl(config.paths.numactl_path)
    except ConfigError as error:
        yield Finding(what="numactl", ok=False, why=str(error), needed=True)
        return
    topology = read_topology(SYSFS, os.sched_getaffinity(0))
    fault = numa_fault(numactl) if topology else "the kernel tells no NUMA topology"
    nodes = f"{len(topology)} NUMA node{'s' if len(topology) != 1 else ''}"
    by = numactl or "the kernel's own calls, since numactl is not installed"
    yield Finding(
        what=WORDS["numa_binding"], ok=fault is None, why=fault or f"{nodes}, bound by {by}"
    )


def _folders(config: Config) -> Iterator[Finding]:
    named = {
        "paths.shared_dir": config.paths.shared_dir,
        "paths.local_temp_dir": config.paths.local_temp_dir,
    }
    for key, path in named.items():
        if path:
            fault = _unwritable(path)
            yield Finding(what=key, ok=fault is None, why=fault or path, needed=True)
    state = next(path for path in (config.state_dir, *config.state_dir.parents) if path.exists())
    writable = os.access(state, os.W_OK)
    yield Finding(
        what="paths.state_dir",
        ok=writable,
        why=f"{config.state_dir}" if writable else f"{state} cannot be written to",
        needed=True,
    )
    python = config.runner.python
    if python:
        yield Finding(
            what="runner.python", ok=shutil.which(python) is not None, why=python, needed=True
        )


def _unwritable(path: str) -> str | None:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return f"there is no directory {folder}"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"
