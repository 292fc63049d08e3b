"""Which launcher a runner uses, and what that can hold tasks to on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import ConfigError, StartError
from hakuriver.model.nodes import Capabilities
from hakuriver.runner.launchers.memory import can_measure
from hakuriver.runner.launchers.process import ProcessLauncher, keeper_lives
from hakuriver.runner.launchers.systemd.files import UnitFiles, Way, running_way
from hakuriver.runner.launchers.systemd.launcher import UnitLauncher
from hakuriver.runner.launchers.systemd.making import Maker
from hakuriver.runner.launchers.systemd.manager import Manager, Obstacle, find_manager
from hakuriver.runner.launchers.systemd.properties import is_plain
from hakuriver.runner.launchers.systemd.trial import Trial, attempt
from hakuriver.runner.places import named_for_tasks, prepare, used_by_tasks

if TYPE_CHECKING:
    from hakuriver.config import Config
    from hakuriver.logfiles import TaskFiles
    from hakuriver.runner.launchers.base import Launcher
    from hakuriver.runner.launchers.systemd.manager import Account
    from hakuriver.runner.launchers.systemd.properties import Kind
    from hakuriver.runner.state import StateFolder

_PROCESS = Capabilities(
    unprivileged_user="launcher process starts tasks as the runner's own user",
    cpu_quota="launcher process pins a task to its CPUs, which the task may undo",
    process_limit="launcher process does not count a task's processes",
    private_network="launcher process cannot isolate the network",
    private_pid="launcher process cannot isolate process ids",
)
_SCOPE = 'a scope takes up a process that runs already; it needs launcher = "service"'


@dataclass(frozen=True, slots=True)
class Launching:
    """A launcher that works here: its name, what it can enforce, and as whom tasks run.

    `pins` says whether it binds each task to CPUs of its own; `account` is None for the runner's
    own user.
    """

    name: str
    launcher: Launcher
    capabilities: Capabilities
    pins: bool
    account: Account | None = None


def find_launcher(config: Config, state: StateFolder, files: TaskFiles) -> Launching:
    """Return the launcher that the configuration asks for, tried out. Blocks.

    Makes the folders that it needs. ``auto`` means ``service``.

    Raises:
        ConfigError: it cannot work here; the message says why and how to mend it.
        StartError: systemd starts no unit, perhaps not yet.
    """
    wanted = config.runner.launcher
    if wanted == "process":
        fault = None if can_measure() else "the kernel does not tell what processes hold"
        able = msgspec.structs.replace(_PROCESS, memory_limit=fault)
        state.make()
        _check_none_runs(state, "process")
        return Launching("process", ProcessLauncher(state.keeper), able, pins=True)
    kind: Kind = "scope" if wanted == "scope" else "service"
    before = _check_none_runs(state, kind)
    manager = find_manager(
        config.runner.run_as_user, prefer=None if before is None else before.mode
    )
    if not isinstance(manager, Manager):
        raise _refusal(wanted, manager)
    if not is_plain(state.units):
        raise ConfigError(
            f"paths.state_dir: {state.root} holds characters that systemd would take for others; "
            "name a folder of letters, digits and ._+,@=-"
        )
    prepare(state, files, manager.account, state_dir=config.state_dir)
    unit_files = UnitFiles(state.units, manager.account)
    unit_files.make()
    maker = Maker(manager, kind, config.runner.tasks_max, unit_files.script)
    if before is not None and before.mode != manager.mode:
        raise ConfigError(
            f"tasks still run that were started otherwise ({before.mode}), and that way is closed "
            f"now: open it again, or let them end (systemctl list-units 'hakuriver-task-*')"
        )
    paths = [*used_by_tasks(state, files), *named_for_tasks(config)]
    trial = attempt(maker, paths=paths)
    if isinstance(trial, Obstacle):
        # It may pass, as at boot: whoever started this runner may try again.
        raise StartError(f"runner.launcher = {wanted!r}: {trial.reason} (to mend it: {trial.mend})")
    if trial.denied:
        raise ConfigError(
            f"{trial.denied[0]}: {manager.account.name}, as whom tasks run, cannot use it: change "
            "its owner or mode, or name another place (paths.state_dir, such as "
            "/var/lib/hakuriver; paths.shared_dir; runner.python)"
        )
    return Launching(
        kind,
        UnitLauncher(maker, unit_files, slice_folder=trial.slice_folder),
        capabilities_of(trial, kind),
        pins=False,
        account=manager.account,
    )


def _check_none_runs(state: StateFolder, launcher: str) -> Way | None:
    """Refuse another launcher than that of tasks which run; return the way these were started.

    Its tasks would be taken for lost, run on, and obey nobody.
    """
    before = running_way(state.units)
    running = "process" if keeper_lives(state.keeper) else before and before.kind
    if running not in (None, launcher):
        raise ConfigError(
            f"runner.launcher: tasks still run that launcher = {running!r} has started; let them "
            f"end with that one before you choose {launcher!r}"
        )
    return before


def capabilities_of(trial: Trial, kind: Kind) -> Capabilities:
    """Return what units can enforce here, with the reason where they cannot."""
    isolated = {"private_network": trial.private_network, "private_pid": trial.private_pid}
    held = {
        "cpu_quota": trial.cpu_quota,
        "process_limit": trial.process_limit,
        "memory_limit": trial.memory_limit,
    }
    reasons = {name: fault.reason for name, fault in (held | isolated).items() if fault is not None}
    if kind == "scope":
        reasons |= dict.fromkeys(isolated, _SCOPE)
    return Capabilities(**reasons)


def _refusal(wanted: str, obstacles: list[Obstacle]) -> ConfigError:
    ways = "; ".join(f"{each.reason} (to mend it: {each.mend})" for each in obstacles)
    process = 'launcher = "process"'
    otherwise = "" if process in ways else f"; or write {process} under [runner]"
    return ConfigError(
        f"runner.launcher = {wanted!r}: tasks cannot be units of systemd: {ways}{otherwise}"
    )
