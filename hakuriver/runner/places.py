"""The folders in which tasks of another user work: who owns them, and who may pass through.

A runner that is root shares its folders with the unprivileged user of its tasks: that user writes
logs and scripts and works in folders of its own, and passes through the rest without a look. So
nothing in these folders can be trusted: root never follows a link there. Blocks on the disk.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hakuriver.disk import let_pass, make_private, opened_folder
from hakuriver.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.config import Config
    from hakuriver.logfiles import TaskFiles
    from hakuriver.runner.launchers.systemd.manager import Account
    from hakuriver.runner.state import StateFolder


def prepare(state: StateFolder, files: TaskFiles, account: Account, *, state_dir: Path) -> None:
    """Make what tasks of `account` need; folders of a shared directory that exist stay as they are.

    Raises:
        ConfigError: something cannot be made.
    """
    state.make()
    try:
        if account.uid != os.geteuid():
            for folder in (state_dir, *_between(state_dir, state.root), state.root):
                let_pass(folder)
            _hand_over(state.work, account)
        for folder in _of_tasks(files):
            if files.root == state.root or not folder.is_dir():
                make_private(folder)
                _hand_over(folder, account)
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: cannot be made ready for the tasks of {account.name}: "
            f"{error.strerror}"
        ) from None


def used_by_tasks(state: StateFolder, files: TaskFiles) -> list[str]:
    """Return the folders in which the user of the tasks must be able to write."""
    return [str(folder) for folder in (state.work, *_of_tasks(files))]


def named_for_tasks(config: Config) -> list[str]:
    """Return what the configuration names, by whole paths, that tasks must be able to use."""
    named = (config.paths.shared_dir, config.paths.local_temp_dir, config.runner.python)
    return [path for path in named if path.startswith("/")]


def _of_tasks(files: TaskFiles) -> list[Path]:
    return [files.root / name for name in ("scripts", "task_outputs", "task_errors")]


def _between(above: Path, below: Path) -> list[Path]:
    return [parent for parent in below.parents if above in parent.parents]


def _hand_over(folder: Path, account: Account) -> None:
    if account.uid != os.geteuid():
        with opened_folder(folder) as descriptor:
            os.fchown(descriptor, account.uid, account.gid)
